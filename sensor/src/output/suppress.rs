//! Repeats of an alert, told as one summary.
//!
//! In: alerts, and the time. Out: the first of its kind at once, and for those that follow within the window one summary with
//! their number, the first and the last time. It never holds back an alert without counting it, nor knows more kinds than its
//! bound: beyond it alerts pass as they come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alert::{Alert, Repeats};

/// Kinds of alerts followed at a time.
const KINDS_MAX: usize = 4096;

/// What makes alerts repeats of each other: rule, host, user and program of the last event, and the joined values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    rule: String,
    host: Option<String>,
    user: Option<String>,
    executable: Option<String>,
    joined: String,
}

impl Kind {
    fn of(alert: &Alert) -> Kind {
        let joined: Vec<_> = alert.join.iter().map(|join| &join.values).collect();
        Kind {
            rule: alert.rule.id.clone(),
            host: alert.subject.host_id.clone(),
            user: alert.subject.user_id.clone(),
            executable: alert
                .tree
                .first()
                .and_then(|process| process.executable.clone()),
            joined: format!("{joined:?}"),
        }
    }
}

/// Alerts of one kind within the current window.
struct Window {
    ends: Instant,
    /// Number of the alert that was passed on.
    of: u64,
    held: Option<Held>,
}

struct Held {
    count: u64,
    first_ns: i64,
    last: Arc<Alert>,
}

/// Holds repeats back for one window's length.
pub(super) struct Suppressor {
    window: Duration,
    kinds: HashMap<Kind, Window>,
}

impl Suppressor {
    pub(super) fn new(window: Duration) -> Suppressor {
        Suppressor {
            window,
            kinds: HashMap::new(),
        }
    }

    /// Whether the alert is to be passed on now. A repeat is held and will be in a summary.
    pub(super) fn passes(&mut self, alert: &Arc<Alert>, now: Instant) -> bool {
        let kind = Kind::of(alert);
        if let Some(window) = self.kinds.get_mut(&kind) {
            match &mut window.held {
                Some(held) => {
                    held.count += 1;
                    held.last = Arc::clone(alert);
                }
                None => {
                    window.held = Some(Held {
                        count: 1,
                        first_ns: alert.wall_ns,
                        last: Arc::clone(alert),
                    });
                }
            }
            return false;
        }
        if self.kinds.len() < KINDS_MAX {
            let window = Window {
                ends: now + self.window,
                of: alert.sequence,
                held: None,
            };
            self.kinds.insert(kind, window);
        }
        true
    }

    /// Summaries of windows that have ended, in order of the alerts they end with. A kind that had repeats goes on being held
    /// back for another window, one without is new again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Arc<Alert>> {
        let length = self.window;
        let mut summaries = Vec::new();
        self.kinds.retain(|_, window| {
            if window.ends > now {
                return true;
            }
            let Some(held) = window.held.take() else {
                return false;
            };
            summaries.push(summary(&held, window.of));
            window.ends = now + length;
            true
        });
        summaries.sort_by_key(|alert| alert.sequence);
        summaries
    }

    /// Summaries of everything that is still held.
    pub(super) fn rest(&mut self) -> Vec<Arc<Alert>> {
        let mut summaries: Vec<_> = self
            .kinds
            .drain()
            .filter_map(|(_, window)| Some(summary(&window.held?, window.of)))
            .collect();
        summaries.sort_by_key(|alert| alert.sequence);
        summaries
    }
}

/// The last of the repeats, saying how many there were.
fn summary(held: &Held, of: u64) -> Arc<Alert> {
    let mut alert = Alert::clone(&held.last);
    let s = if held.count == 1 { "" } else { "s" };
    alert.message = format!("{} ({} repeat{s} of alert {of})", alert.message, held.count);
    alert.repeats = Some(Repeats {
        count: held.count,
        of,
        first_ns: held.first_ns,
        last_ns: held.last.wall_ns,
    });
    Arc::new(alert)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sample;

    fn numbered(rule: &str, sequence: u64) -> Arc<Alert> {
        let mut alert = sample::alert(&sample::rule("R", rule, "low"), sample::CHAIN, 0);
        alert.sequence = sequence;
        Arc::new(alert)
    }

    #[test]
    fn repeats_are_counted_in_one_summary_for_each_window() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let mut suppressor = Suppressor::new(minute);
        assert!(suppressor.passes(&numbered("r-1", 1), start));
        assert!(suppressor.passes(&numbered("r-2", 2), start));
        for number in 3..=6 {
            assert!(!suppressor.passes(&numbered("r-1", number), start));
        }
        assert_eq!(suppressor.due(start + minute / 2).len(), 0);
        let summaries = suppressor.due(start + minute);
        let [one] = &summaries[..] else {
            panic!("{}", summaries.len())
        };
        let repeats = one.repeats.as_ref().unwrap();
        assert_eq!((repeats.count, repeats.of, one.sequence), (4, 1, 6));
        assert!(
            one.message.ends_with(" (4 repeats of alert 1)"),
            "{}",
            one.message
        );
        // The one with repeats is still held back, the other is new again.
        assert!(!suppressor.passes(&numbered("r-1", 7), start + minute));
        assert!(suppressor.passes(&numbered("r-2", 8), start + minute));
        assert_eq!(suppressor.rest().len(), 1);
    }

    #[test]
    fn beyond_the_bound_alerts_pass() {
        let start = Instant::now();
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        for number in 0..KINDS_MAX {
            let alert = numbered(&format!("r-{number}"), 1);
            assert!(suppressor.passes(&alert, start));
        }
        for _ in 0..2 {
            assert!(suppressor.passes(&numbered("another", 1), start));
        }
    }
}
