//! Rules that take too much of a processor.
//!
//! In: what each rule cost so far and what the whole thread did, every ten seconds. Out: which rule is to look at a part of its events
//! alone, and which at all of them again. One rule of a host's set must not cost the others their events; that it misses some is told.
//! A rule is found too dear by two windows in a row, and only where the thread was as busy: its cost is an estimate, which a task that
//! took the processor away in the middle makes too large.

use std::time::Duration;

use crate::engine::{Cost, SAMPLED_ONE_IN};

/// Between two looks.
const WINDOW: Duration = Duration::from_secs(10);
/// So many windows in a row decide.
const WINDOWS: u8 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Dear {
    /// Most that one rule may take of a processor, in percent; 0 for no bound.
    percent_max: u64,
    /// When was looked last, what the thread had used then, and what each rule had cost.
    last: Option<(u64, u64, Vec<Cost>)>,
    rules: Vec<Standing>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    is_sampled: bool,
    /// Windows in a row that speak for a change.
    windows: u8,
}

/// A rule whose standing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) rule: usize,
    pub(super) is_sampled: bool,
    /// Of a processor, in the last window.
    pub(super) percent: u64,
}

impl Dear {
    pub(super) fn new(percent_max: usize) -> Dear {
        Dear {
            percent_max: u64::try_from(percent_max).unwrap_or(0),
            last: None,
            rules: Vec::new(),
        }
    }

    /// Whether a window has passed at this moment of the boot clock.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        let passed = |since: u64| u128::from(now_ns.saturating_sub(since)) >= WINDOW.as_nanos();
        self.percent_max > 0 && self.last.as_ref().is_none_or(|(since, ..)| passed(*since))
    }

    /// Looks at what each rule cost since the last look, and at the processor time of the thread.
    pub(super) fn look(&mut self, now_ns: u64, used_ns: u64, costs: &[Cost]) -> Vec<Change> {
        self.rules.resize(costs.len(), Standing::default());
        let last = self.last.replace((now_ns, used_ns, costs.to_vec()));
        let Some((since, used_before, before)) = last else {
            return Vec::new();
        };
        let window = u128::from(now_ns.saturating_sub(since)).max(1);
        let percent = |ns: u64| u64::try_from(u128::from(ns) * 100 / window).unwrap_or(u64::MAX);
        let of_thread = percent(used_ns.saturating_sub(used_before));
        let mut changes = Vec::new();
        for (rule, standing) in self.rules.iter_mut().enumerate() {
            let cost = |costs: &[Cost]| costs.get(rule).map_or(0, |cost| cost.nanoseconds);
            let percent = percent(cost(costs).saturating_sub(cost(&before)));
            let speaks_for_change = if standing.is_sampled {
                percent.saturating_mul(SAMPLED_ONE_IN) < self.percent_max / 2
            } else {
                percent.min(of_thread) > self.percent_max
            };
            standing.windows = if speaks_for_change {
                standing.windows + 1
            } else {
                0
            };
            if standing.windows >= WINDOWS {
                standing.windows = 0;
                standing.is_sampled = !standing.is_sampled;
                changes.push(Change {
                    rule,
                    is_sampled: standing.is_sampled,
                    percent,
                });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A window in which two rules took so many percent each, and the thread so many.
    struct Host {
        dear: Dear,
        now_ns: u64,
        used_ns: u64,
        costs: [Cost; 2],
    }

    impl Host {
        fn new(percent_max: usize) -> Host {
            let mut host = Host {
                dear: Dear::new(percent_max),
                now_ns: 77,
                used_ns: 5,
                costs: [Cost::default(); 2],
            };
            host.costs[0].nanoseconds = 900 * SECOND;
            assert_eq!(host.dear.look(77, 5, &host.costs), []);
            host
        }

        fn window(&mut self, rules: [u64; 2], thread: u64) -> Vec<(usize, bool)> {
            self.now_ns += 10 * SECOND;
            self.used_ns += thread * SECOND / 10;
            for (cost, percent) in self.costs.iter_mut().zip(rules) {
                cost.nanoseconds += percent * SECOND / 10;
            }
            assert!(self.dear.is_due(self.now_ns));
            let changes = self.dear.look(self.now_ns, self.used_ns, &self.costs);
            assert!(!self.dear.is_due(self.now_ns + 9 * SECOND));
            let changes = changes.into_iter();
            changes.map(|of| (of.rule, of.is_sampled)).collect()
        }
    }

    #[test]
    fn a_rule_too_dear_for_two_windows_is_sampled_until_it_is_cheap_for_two() {
        let mut host = Host::new(60);
        assert_eq!(host.window([61, 3], 70), []);
        assert_eq!(host.window([10, 3], 70), [], "not in a row");
        assert_eq!(host.window([80, 3], 90), []);
        assert_eq!(host.window([80, 3], 90), [(0, true)]);
        // A sixteenth of its events: as dear as before.
        for _ in 0..5 {
            assert_eq!(host.window([5, 3], 10), []);
        }
        assert_eq!(host.window([1, 3], 10), []);
        assert_eq!(host.window([1, 3], 10), [(0, false)]);
        assert_eq!(host.window([1, 61], 99), []);
        assert_eq!(host.window([1, 61], 99), [(1, true)]);
    }

    #[test]
    fn an_estimate_above_what_the_thread_used_is_none() {
        let mut host = Host::new(60);
        for _ in 0..5 {
            assert_eq!(host.window([300, 0], 40), []);
        }
    }

    #[test]
    fn without_a_bound_nothing_is_looked_at() {
        let dear = Dear::new(0);
        assert!(!dear.is_due(u64::MAX));
    }
}
