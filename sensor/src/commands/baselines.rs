//! What rules for new terms have seen, as the daemon keeps it over restarts.
//!
//! In: the engine with its rules, now and then. Out: a file in the state directory, and a word in the log when something had to be
//! forgotten. It never writes while nothing asks for new terms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::baseline::{Restored, Store};
use crate::engine::Engine;
use crate::event::Event;
use crate::pipeline;
use crate::reload::Roster;
use crate::rule::Rule;

/// Between two writes.
const EVERY: Duration = Duration::from_secs(60);

pub(super) struct Baselines {
    store: Option<Store>,
    /// When they were last written.
    kept: Instant,
    /// Terms forgotten so far, as told.
    forgotten: u64,
}

impl Baselines {
    /// Keeps nothing; for tests, and until the rules are known.
    pub(super) fn nowhere() -> Baselines {
        Baselines {
            store: None,
            kept: Instant::now(),
            forgotten: 0,
        }
    }

    /// Gives the rules of a start what they had seen, and says which have to learn.
    pub(super) fn at_start(
        roster: &Roster,
        engine: &mut Engine<Arc<Event>>,
        learning: Duration,
    ) -> Baselines {
        let mut baselines = Baselines::nowhere();
        let rules = rules_of(roster);
        let count = rules.iter().filter(|rule| rule.asks_for_new()).count();
        if count == 0 {
            return baselines;
        }
        baselines.open(roster);
        let restored = match &baselines.store {
            Some(store) => {
                let rules = (&*rules, roster.live_count());
                store.restore(engine, rules, pipeline::wall_offset_ns(), wall_ns())
            }
            None => Restored {
                kept: 0,
                learning: count,
            },
        };
        let Restored {
            kept,
            learning: fresh,
        } = restored;
        tracing::info!(
            "rules for new terms: {kept} go on with what they had seen, {fresh} learn for {} s and tell nothing new until then",
            learning.as_secs()
        );
        baselines
    }

    /// Finds a place to write to, if these rules need one and there is none yet.
    pub(super) fn open(&mut self, roster: &Roster) {
        if self.store.is_some() || !roster.iter().any(|rule| rule.asks_for_new()) {
            return;
        }
        self.store = pipeline::state_directory().as_deref().map(Store::new);
        if self.store.is_none() {
            tracing::warn!(
                "there is no state directory: what rules for new terms see is forgotten at the end"
            );
        }
    }

    /// Whether [`Baselines::keep`] has something to do.
    pub(super) fn is_due(&self) -> bool {
        self.kept.elapsed() >= EVERY
    }

    /// Writes what rules have seen, and says so when some of it had to go.
    pub(super) fn keep(&mut self, engine: &Engine<Arc<Event>>, roster: &Roster) {
        self.kept = Instant::now();
        if let Some(store) = &mut self.store {
            let rules = rules_of(roster);
            let rules = (&*rules, roster.live_count());
            store.save(engine, rules, pipeline::wall_offset_ns(), wall_ns());
        }
        let forgotten = forgotten(engine);
        if forgotten > self.forgotten {
            tracing::warn!(
                "rules that remember or count forgot {} terms because there were too many (engine.terms_max): \
                 some may be told again",
                forgotten - self.forgotten
            );
        }
        self.forgotten = forgotten;
    }

    /// Writes for the last time, and waits until it is written.
    pub(super) fn finish(&mut self, engine: &Engine<Arc<Event>>, roster: &Roster) {
        if let Some(mut store) = self.store.take() {
            let rules = rules_of(roster);
            let rules = (&*rules, roster.live_count());
            store.finish();
            store.save(engine, rules, pipeline::wall_offset_ns(), wall_ns());
            store.finish();
        }
    }
}

fn rules_of(roster: &Roster) -> Vec<Arc<Rule>> {
    roster.iter().cloned().collect()
}

/// Terms that the rules forgot because there were too many.
pub(super) fn forgotten(engine: &Engine<Arc<Event>>) -> u64 {
    engine.counters().iter().map(|rule| rule.forgotten).sum()
}

/// Nanoseconds since the Unix epoch.
fn wall_ns() -> i64 {
    let boot_ns = i64::try_from(pipeline::boot_ns()).unwrap_or(i64::MAX);
    boot_ns.saturating_add(pipeline::wall_offset_ns())
}
