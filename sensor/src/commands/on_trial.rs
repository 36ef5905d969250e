//! The rules on trial in the daemon: their matches end here.
//!
//! In: what rules on trial matched, and what live rules alerted. Out: an account of both, for those who ask and for the next run. No
//! output ever hears of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::alert::{self, Alert};
use crate::engine::Cost;
use crate::event::{Event, Evidence, FieldTable};
use crate::output::json::write_alert;
use crate::reload::Roster;
use crate::response::{self, Target};
use crate::rule::Action;
use crate::trial::{About, Act, HiddenBy, Kept, Missed, Trials, Would};
use crate::tuning::{Gate, Hidden};

/// Between two writes while nothing but time and costs change.
const EVERY: Duration = Duration::from_secs(60);

pub(super) struct OnTrial {
    /// Rules of lower numbers are live.
    first: usize,
    /// By the number of a live rule, its trial.
    beside: HashMap<usize, usize>,
    trials: Trials,
    /// Of a numbering of its own.
    alerts: alert::Builder,
    /// What was written last, and when.
    kept: (u64, Instant),
}

impl OnTrial {
    /// For the rules of a start. Event fields are read by `table`.
    pub(super) fn new(roster: &Roster, table: &mut FieldTable, now_ns: u64) -> OnTrial {
        let mut alerts = alert::Builder::new(table);
        alerts.next_generation(table);
        let mut on_trial = OnTrial {
            first: 0,
            beside: HashMap::new(),
            trials: Trials::default(),
            alerts,
            kept: (0, Instant::now()),
        };
        on_trial.take_up(roster, |_| Cost::default(), now_ns);
        on_trial
    }

    /// Goes on where an earlier run stopped.
    pub(super) fn recall(&mut self, trials: Trials, roster: &Roster, now_ns: u64) {
        self.trials = trials;
        self.take_up(roster, |_| Cost::default(), now_ns);
    }

    /// Other rules take over, with engines whose accounts stand at `before` and at `after`.
    pub(super) fn swap(
        &mut self,
        roster: &Roster,
        table: &mut FieldTable,
        (before, after): (&[Cost], &[Cost]),
        now_ns: u64,
    ) {
        let first = self.first;
        self.trials.settle(cost_of(before, first), now_ns);
        self.alerts.next_generation(table);
        self.take_up(roster, cost_of(after, roster.live_count()), now_ns);
    }

    fn take_up(&mut self, roster: &Roster, cost: impl Fn(usize) -> Cost, now_ns: u64) {
        let live = roster.live();
        let numbers: HashMap<&str, usize> = live
            .iter()
            .enumerate()
            .map(|(number, listed)| (&*listed.rule.id, number))
            .collect();
        self.beside.clear();
        let mut rules = Vec::new();
        for (at, listed) in roster.on_trial().iter().enumerate() {
            let number = numbers.get(&*listed.rule.id).copied();
            self.beside.extend(number.map(|number| (number, at)));
            rules.push(About {
                id: listed.rule.id.clone(),
                digest: listed.rule.digest,
                live: number
                    .and_then(|number| live.get(number))
                    .map(|listed| listed.rule.digest),
            });
        }
        self.first = live.len();
        let trials = std::mem::take(&mut self.trials);
        let rules = Some(rules).filter(|_| !roster.trials_unread);
        self.trials = trials.next(rules, cost, wall_ns(), now_ns);
    }

    /// Whether the rule of a number is on trial.
    pub(super) fn has(&self, rule: usize) -> bool {
        rule >= self.first
    }

    /// Takes the match of a rule on trial. `lost` counts records lost since its first event.
    pub(super) fn would(
        &mut self,
        found: alert::Group<Event>,
        roster: &Roster,
        gate: &mut Gate,
        lost: u64,
        now_ns: u64,
    ) {
        let at = found.rule.checked_sub(self.first);
        let (Some(at), Some(listed)) = (at, roster.rules.get(found.rule)) else {
            return;
        };
        let wall_ns = found.events.last().map_or(0, |last| last.wall_ns);
        let hides = gate.would_hide(found.rule, &found.events, wall_ns);
        let (hidden, because) = match hides {
            None => (None, None),
            Some(Hidden::Limit) => {
                let words = "the rule's rate limit".to_owned();
                (Some(HiddenBy::RateLimit), Some(words))
            }
            Some(Hidden::Exception(number)) => {
                let words = gate.exception(number).map(|exception| {
                    let place = &exception.place;
                    format!(
                        "{}:{}: {}",
                        place.path.display(),
                        place.line,
                        exception.reason
                    )
                });
                (Some(HiddenBy::Exception), words)
            }
        };
        let acts = acts(&found.events);
        let alerts = &mut self.alerts;
        let word = || {
            let actions = response::wanted(&listed.rule, &found.events);
            let actions = actions.iter().map(in_words).collect();
            let events = found
                .events
                .into_iter()
                .map(|event| event as Arc<dyn Evidence>);
            let alert = alerts.build(
                &listed.rule,
                &found.keys,
                events.collect(),
                found.tally,
                lost,
            );
            let mut document = Vec::new();
            write_alert(&alert, &mut document);
            Would {
                wall_ns: alert.wall_ns,
                message: alert.message,
                hidden,
                because,
                actions,
                document: String::from_utf8_lossy(&document).into_owned(),
            }
        };
        self.trials.would(at, acts, hidden, now_ns, word);
    }

    /// What an alert of a live rule is about, if another version of that is on trial.
    pub(super) fn acts_beside(&self, rule: usize, events: &[Arc<Event>]) -> Option<Vec<Act>> {
        self.beside.contains_key(&rule).then(|| acts(events))
    }

    /// Takes note that a live rule raised an alert, or would have without its rate limit.
    pub(super) fn raised(&mut self, rule: usize, about: Option<Vec<Act>>, alert: Option<&Alert>) {
        let (Some(at), Some(acts)) = (self.beside.get(&rule), about) else {
            return;
        };
        let word = alert.map(|alert| Missed {
            wall_ns: alert.wall_ns,
            number: alert.sequence,
            message: alert.message.clone(),
        });
        self.trials.raised(*at, acts, word);
    }

    /// How the trials stand.
    pub(super) fn trials(&self) -> &Trials {
        &self.trials
    }

    /// What is to be written with a state, if anything is worth it.
    pub(super) fn kept(&mut self, costs: &[Cost], now_ns: u64) -> Option<Kept> {
        let changes = self.trials.changes();
        let is_due = changes != self.kept.0
            || (!self.trials.rules.is_empty() && self.kept.1.elapsed() >= EVERY);
        if !is_due {
            return None;
        }
        self.kept = (changes, Instant::now());
        Some(self.trials.keep(cost_of(costs, self.first), now_ns))
    }
}

/// What an action would be done to.
fn in_words((action, target): &(Action, Option<Target>)) -> String {
    let Some(target) = target else {
        return format!("{action}: the event does not tell of it");
    };
    let name = target.name.as_deref().unwrap_or("?");
    let whom = format!("{action}: {name} (pid {})", target.pid);
    alert::plain(&whom)
}

/// The cost of each rule on trial, where those of all rules are given.
fn cost_of(costs: &[Cost], first: usize) -> impl Fn(usize) -> Cost + '_ {
    move |at| costs.get(first + at).copied().unwrap_or_default()
}

fn acts(events: &[Arc<Event>]) -> Vec<Act> {
    events.iter().map(|event| Act::of(event)).collect()
}

/// Nanoseconds since the Unix epoch.
fn wall_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}
