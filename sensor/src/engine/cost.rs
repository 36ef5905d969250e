//! What rules cost: how many events they looked at, and the time that took.
//!
//! In: a word from the engine around each rule it lets act. Out: [`Cost`] by rule. Time is measured for one event in many, and
//! decides nothing: the engine's own clock stays the events'.

use std::time::Instant;

/// One event in so many is timed. Odd, so that no regular stream keeps out of its way.
const SAMPLE: u64 = 31;

/// A rule that is sampled looks at one event in so many.
pub const SAMPLED_ONE_IN: u64 = 16;

/// What one rule cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Events that one of the rule's filters let through.
    pub events: u64,
    /// Time spent on them, in nanoseconds; an estimate.
    pub nanoseconds: u64,
}

impl Cost {
    /// The start of a rule's work on the event of this number, if that is one to be timed.
    pub(super) fn begin(&mut self, arrival: u64) -> Option<Instant> {
        self.events += 1;
        arrival.is_multiple_of(SAMPLE).then(Instant::now)
    }

    pub(super) fn end(&mut self, begun: Option<Instant>) {
        if let Some(begun) = begun {
            let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanoseconds = self.nanoseconds.saturating_add(took.saturating_mul(SAMPLE));
        }
    }
}
