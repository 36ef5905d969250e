//! Puts events that arrive slightly out of order back in order.
//!
//! In: events as they arrive, with what decides between equal times. Out: the same events by time, then tie-breaker, then
//! arrival, each held no longer than a bound of time and a bound of number. What comes after something newer has left is
//! passed on at once and counted as late: nothing is ever dropped here.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::eql::scalar;
use crate::event::{Fields, OwnedValue};

use super::literal::scalar_of;

/// The stage between reading events and matching them.
#[derive(Debug)]
pub struct Reorder<E> {
    held: BinaryHeap<Reverse<Held<E>>>,
    window_ns: i64,
    events_max: usize,
    newest_ns: i64,
    released: Option<Place>,
    arrivals: u64,
    late: u64,
}

#[derive(Debug)]
struct Held<E> {
    place: Place,
    event: E,
}

/// Time, tie-breaker and arrival; without a tie-breaker an event comes after those that have one.
#[derive(Clone, Debug)]
struct Place {
    time_ns: i64,
    tie: Option<OwnedValue>,
    arrival: u64,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time_ns
            .cmp(&other.time_ns)
            .then_with(|| compare_ties(self.tie.as_ref(), other.tie.as_ref()))
            .then(self.arrival.cmp(&other.arrival))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

impl<E> Ord for Held<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl<E> PartialOrd for Held<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Held<E> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl<E> Eq for Held<E> {}

/// Numbers by value before everything else by its text, so that the order is total whatever the kinds.
fn compare_ties(a: Option<&OwnedValue>, b: Option<&OwnedValue>) -> Ordering {
    let (a, b) = match (a, b) {
        (None, None) => return Ordering::Equal,
        (None, Some(_)) => return Ordering::Greater,
        (Some(_), None) => return Ordering::Less,
        (Some(a), Some(b)) => (a, b),
    };
    let number = |v: &OwnedValue| matches!(v, OwnedValue::Int(_) | OwnedValue::Float(_));
    let (x, y) = (scalar_of(a.as_value()), scalar_of(b.as_value()));
    match (number(a), number(b)) {
        (true, true) => scalar::order(&x, &y).unwrap_or(Ordering::Equal),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => x.text().cmp(&y.text()),
    }
}

impl<E: Fields> Reorder<E> {
    /// Holds events until one comes that is more than `window` newer, or until more than `events_max` are held.
    pub fn new(window: Duration, events_max: usize) -> Self {
        Self {
            held: BinaryHeap::new(),
            window_ns: i64::try_from(window.as_nanos()).unwrap_or(i64::MAX),
            events_max,
            newest_ns: i64::MIN,
            released: None,
            arrivals: 0,
            late: 0,
        }
    }

    /// Takes one event; those that need wait no longer go to `out`, in order.
    pub fn push(&mut self, event: E, tie: Option<OwnedValue>, mut out: impl FnMut(E)) {
        let place = Place {
            time_ns: event.time_ns(),
            tie,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.newest_ns = self.newest_ns.max(place.time_ns);
        if self
            .released
            .as_ref()
            .is_some_and(|released| place < *released)
        {
            self.late += 1;
            out(event);
            return;
        }
        self.held.push(Reverse(Held { place, event }));
        self.release(&mut out);
    }

    /// Time has come to `now_ns` without an event.
    pub fn advance(&mut self, now_ns: i64, mut out: impl FnMut(E)) {
        self.newest_ns = self.newest_ns.max(now_ns);
        self.release(&mut out);
    }

    fn release(&mut self, out: &mut impl FnMut(E)) {
        while let Some(Reverse(first)) = self.held.peek() {
            let waits = self.newest_ns.saturating_sub(first.place.time_ns) <= self.window_ns;
            if waits && self.held.len() <= self.events_max {
                return;
            }
            if let Some(Reverse(first)) = self.held.pop() {
                self.released = Some(first.place);
                out(first.event);
            }
        }
    }

    /// Nothing more will come.
    pub fn finish(&mut self, mut out: impl FnMut(E)) {
        while let Some(Reverse(first)) = self.held.pop() {
            self.released = Some(first.place);
            out(first.event);
        }
    }

    /// Events that came after something newer had left.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Events held now.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{FieldId, Values};

    impl Fields for (i64, &'static str) {
        fn time_ns(&self) -> i64 {
            self.0
        }

        fn values(&self, _: FieldId) -> Values<'_> {
            Values::Missing
        }
    }

    fn check(window: u64, max: usize, input: &[(i64, &'static str)], expected: &str, late: u64) {
        let mut reorder = Reorder::new(Duration::from_nanos(window), max);
        let mut out = String::new();
        for event in input {
            let tie = event
                .1
                .strip_prefix('t')
                .map(|n| OwnedValue::Int(n.parse().unwrap()));
            reorder.push(*event, tie, |e| out.push_str(e.1));
        }
        out.push('|');
        reorder.finish(|e| out.push_str(e.1));
        assert_eq!((out.as_str(), reorder.late()), (expected, late));
    }

    #[test]
    fn order_within_the_window() {
        check(
            10,
            100,
            &[(5, "b"), (3, "a"), (14, "d"), (12, "c"), (20, "e")],
            "ab|cde",
            0,
        );
        check(10, 100, &[(1, "a"), (1, "b"), (1, "c")], "|abc", 0);
        check(0, 100, &[(1, "a"), (1, "b"), (2, "c")], "ab|c", 0);
        check(
            100,
            2,
            &[(3, "c"), (1, "a"), (2, "b"), (4, "d")],
            "ab|cd",
            0,
        );
    }

    #[test]
    fn late_events_pass_at_once_and_are_counted() {
        check(
            2,
            100,
            &[(1, "a"), (9, "c"), (0, "b"), (12, "d")],
            "abc|d",
            1,
        );
    }

    #[test]
    fn tiebreakers_decide_equal_times() {
        check(
            9,
            100,
            &[(1, "t10"), (1, "x"), (1, "t9"), (0, "y")],
            "|yt9t10x",
            0,
        );
    }
}
