//! What takes the events in the daemon: rules, alerts, and whoever looks on.
//!
//! In: events, and what other threads leave at the desk. Out: alerts to the outputs, copies of events to those who tail, numbers to
//! those who ask. New rules take over between two events, with what unchanged ones remember. It never waits for anybody.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::alert;
use crate::control::recent::Recent;
use crate::control::state::State;
use crate::control::{Ask, Desk, Tail};
use crate::engine::{self, Engine, Match, SAMPLED_ONE_IN, Snapshot, Tally};
use crate::event::{Event, Evidence, Gauge};
use crate::output::handed::{Earlier, Handed};
use crate::output::{Outputs, lifecycle};
use crate::pipeline::{self, Consumer, Orders, Remembered, Status, Summary};
use crate::reload::{Listed, Roster, Set, Swapped};
use crate::response::Responder;
use crate::rule::Rule;
use crate::state::{self, Saved, Store, Taken};
use crate::trial::{self, Trials};
use crate::tuning::{Gate, Hidden};
use crate::watchdog::{Pulse, Stage};

use super::baselines::{Baselines, forgotten};
use super::dear::Dear;
use super::keeping::{Job, Keeping};
use super::on_trial::OnTrial;
use super::programs::Programs;
use super::run;

/// For outputs to write what is waiting, at the end.
const OUTPUTS_MAX: Duration = Duration::from_millis(600);
/// Between two words to the service manager.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// Records being written while the ring looked empty are not older than this.
const LATE_MAX_NS: u64 = 100_000_000;
/// Clients who tail at once.
const TAILS_MAX: usize = 8;

/// What an earlier run left for this stage.
pub(super) struct Kept {
    pub(super) engine: Snapshot<Arc<Event>>,
    pub(super) alerts: u64,
    pub(super) by_rule: Vec<(String, u64)>,
    pub(super) baselines: Vec<state::Baseline>,
}

/// Matches events against the rules and sends alerts.
pub(super) struct Matching {
    roster: Arc<Roster>,
    engine: Engine<Arc<Event>>,
    gate: Gate,
    /// Hidden by the gates before this one.
    hidden_before: u64,
    alerts: alert::Builder,
    on_trial: OnTrial,
    /// Alerts by rule number; those on trial raise none.
    by_rule: Vec<u64>,
    outputs: Outputs,
    matches: Vec<Match<Arc<Event>>>,
    desk: Desk,
    tails: Vec<Tail>,
    recent: Recent,
    programs: Programs,
    orders: Option<Orders>,
    pub(super) baselines: Baselines,
    keeping: Keeping,
    boot_id: Arc<str>,
    handed: Option<Arc<Handed>>,
    responder: Option<Responder>,
    /// Numbers that alerts had in the last run, by what they are about.
    again: HashMap<u128, VecDeque<u64>>,
    dear: Dear,
    /// Told which stage is at work.
    pulse: Arc<Pulse>,
    started: Instant,
    /// When the service manager was told what.
    told: (Instant, String),
}

impl Matching {
    pub(super) fn new(mut set: Set, outputs: Outputs, desk: Desk, pulse: Arc<Pulse>) -> Matching {
        let mut alerts = alert::Builder::new(&mut set.table);
        alerts.next_generation(&mut set.table);
        let on_trial = OnTrial::new(&set.roster, &mut set.table, pipeline::boot_ns());
        let now = Instant::now();
        Matching {
            on_trial,
            by_rule: vec![0; set.roster.rules.len()],
            programs: Programs::new(&set.table),
            recent: Recent::new(set.config.control.recent_bytes),
            roster: set.roster,
            engine: set.engine,
            gate: set.gate,
            hidden_before: 0,
            alerts,
            outputs,
            matches: Vec::new(),
            desk,
            tails: Vec::new(),
            orders: None,
            baselines: Baselines::nowhere(),
            keeping: Keeping::nowhere(),
            boot_id: Arc::default(),
            handed: None,
            responder: None,
            again: HashMap::new(),
            dear: Dear::new(set.config.engine.rule_percent_max),
            pulse,
            started: now,
            told: (now, String::new()),
        }
    }

    /// Keeps the state in a file, for this boot, and goes on from what it held at the start.
    pub(super) fn keep_in(
        &mut self,
        stores: (Store, trial::Store),
        covered: Option<Arc<AtomicU64>>,
        boot_id: Arc<str>,
        kept: Option<Kept>,
    ) {
        self.keeping = Keeping::start(stores, covered);
        self.boot_id = boot_id;
        if let Some(kept) = kept {
            self.recall(kept);
        }
    }

    /// Goes on with the trials of an earlier run, of whatever boot.
    pub(super) fn go_on_with(&mut self, trials: Trials) {
        self.on_trial
            .recall(trials, &self.roster, pipeline::boot_ns());
    }

    /// Notes alerts and how far outputs are where it outlives this process. What an earlier run had told is not told again.
    pub(super) fn follow(&mut self, handed: Handed, earlier: Earlier) {
        let handed = Arc::new(handed);
        self.outputs.follow(&handed, &earlier);
        self.handed = Some(handed);
        self.alerts.go_on_from(earlier.last);
        self.again = earlier.numbers;
    }

    /// Has done what rules ask for about their alerts, as far as the settings allow it.
    pub(super) fn respond_by(&mut self, responder: Responder) {
        self.responder = Some(responder);
    }

    /// Goes on where an earlier run stopped, whose boot this is, as far as rules are the same.
    fn recall(&mut self, kept: Kept) {
        let restored = self
            .engine
            .restore(kept.engine, |event| Some(event.clone()));
        self.alerts.go_on_from(kept.alerts);
        let by_rule: HashMap<String, u64> = kept.by_rule.into_iter().collect();
        let mut baselines = kept.baselines;
        let live = self.roster.live_count();
        for (number, rule) in self.roster.iter().enumerate() {
            if let (Some(count), Some(before)) = (
                self.by_rule.get_mut(number).filter(|_| number < live),
                by_rule.get(&rule.id),
            ) {
                *count = *before;
            }
            let same = |kept: &state::Baseline| kept.rule == rule.id && kept.digest == rule.digest;
            if let Some(found) = baselines.iter().position(same) {
                let kept = baselines.swap_remove(found);
                self.engine.restore_baseline(engine::Baseline {
                    rule: number,
                    since_ns: kept.since_ns,
                    terms: kept.terms,
                });
            }
        }
        tracing::info!(
            kept = restored.kept,
            left = restored.left,
            "goes on where the last run stopped: {} partial matches, {} left behind since their rules changed",
            restored.kept,
            restored.left
        );
    }

    /// Everything a later run needs, with what the stages before remember.
    fn saved(&self, remembered: Remembered) -> Saved {
        let by_rule = self.roster.live().iter().zip(&self.by_rule);
        let baselines = self.engine.baselines().into_iter().filter_map(|baseline| {
            let rule = rule(&self.roster, baseline.rule)?;
            Some(state::Baseline {
                rule: rule.id.clone(),
                digest: rule.digest,
                since_ns: baseline.since_ns,
                terms: baseline.terms,
            })
        });
        Saved {
            taken: Taken {
                boot_id: Arc::clone(&self.boot_id),
                at_ns: remembered.at_ns,
                last: remembered.last,
                pid: std::process::id(),
                number: remembered.number,
                lost: remembered.lost,
            },
            memory: remembered.memory,
            engine: self.engine.save(Arc::clone),
            alerts: self.alerts.count(),
            by_rule: by_rule
                .map(|(listed, count)| (listed.rule.id.clone(), *count))
                .collect(),
            baselines: baselines.collect(),
            images: Gauge::default(),
        }
    }

    fn send(&mut self, found: alert::Group<Event>, status: &Status) {
        let begun = match found.tally {
            Some(Tally::Count { since_ns, .. }) => u64::try_from(since_ns).ok(),
            _ => found.events.first().map(|first| first.boot_ns),
        };
        let lost = begun.map_or(0, |begun| status.gaps.since(begun));
        if self.on_trial.has(found.rule) {
            let now_ns = status.now_ns;
            self.on_trial
                .would(found, &self.roster, &mut self.gate, lost, now_ns);
            return;
        }
        let Some(rule) = rule(&self.roster, found.rule) else {
            return;
        };
        let wall_ns = found.events.last().map_or(0, |last| last.wall_ns);
        let hides = self.gate.hides(found.rule, &found.events, wall_ns);
        if matches!(hides, Some(Hidden::Exception(_))) {
            return;
        }
        let acts = self.on_trial.acts_beside(found.rule, &found.events);
        if hides.is_some() {
            self.on_trial.raised(found.rule, acts, None);
            return;
        }
        if let Some(count) = self.by_rule.get_mut(found.rule) {
            *count += 1;
        }
        if let Some(handed) = &self.handed {
            let about = about(&rule.id, &found.events);
            let number = self.again.get_mut(&about).and_then(VecDeque::pop_front);
            match number {
                Some(number) => self.alerts.again_as(number),
                None => handed.note(self.alerts.count() + 1, about),
            }
        }
        if let Some(last) = found.events.last() {
            self.programs.alert(last);
        }
        let responder = self.responder.as_ref();
        let wanted = responder.map(|responder| responder.wanted(rule, &found.events));
        let events = found
            .events
            .into_iter()
            .map(|event| event as Arc<dyn Evidence>);
        let tally = found.tally;
        let alert = self
            .alerts
            .build(rule, &found.keys, events.collect(), tally, lost);
        self.on_trial.raised(found.rule, acts, Some(&alert));
        let alert = Arc::new(alert);
        let is_told = self.outputs.send(&alert);
        if let (true, Some(responder), Some(wanted)) = (is_told, responder, wanted) {
            responder.order(&alert, wanted);
        }
    }

    /// One line for the service manager: every ten seconds, and when what it is about has changed.
    fn tell(&mut self, status: &Status) {
        let evident = format!(
            "{}, generation {}",
            self.roster.in_words(),
            self.alerts.generation()
        );
        if self.told.0.elapsed() < STATUS_EVERY && self.told.1 == evident {
            return;
        }
        let line = format!(
            "{evident}; {} records/s, {} lost, {} alerts, {} hidden",
            status.per_second,
            status.gaps.total(),
            self.alerts.count(),
            self.hidden(),
        );
        self.told = (Instant::now(), evident);
        let _ = sd_notify::notify(&[NotifyState::Status(&line)]);
    }

    /// Matches that overrides and exceptions kept from being alerts.
    fn hidden(&self) -> u64 {
        self.hidden_before + self.gate.hidden()
    }

    fn serve(&mut self, status: &Status) {
        while let Some(ask) = self.desk.take() {
            match ask {
                Ask::State(to) => self.answer(&to, status),
                Ask::Recent(to) => drop(to.try_send(self.recent.kept())),
                Ask::Top(to) => {
                    self.programs.watch();
                    self.answer(&to, status);
                }
                // One too many sees its channel closed.
                Ask::Tail(tail) if self.tails.len() < TAILS_MAX => self.tails.push(*tail),
                Ask::Tail(_) => {}
                Ask::Swap(set, to) => {
                    let swapped = self.swap(*set, status.now_ns);
                    // Whoever gave up waiting reads of it in the log.
                    let _ = to.try_send(swapped);
                }
            }
        }
    }

    /// Who asked may have given up; then nobody needs the answer.
    fn answer(&self, to: &SyncSender<State>, status: &Status) {
        let outputs = self.outputs.counts();
        let state = State {
            uptime: self.started.elapsed(),
            generation: self.alerts.generation(),
            roster: Arc::clone(&self.roster),
            counters: self.engine.counters().to_vec(),
            costs: self.engine.costs().to_vec(),
            sampled: self.engine.sampled().to_vec(),
            passed_over: self.engine.passed_over().to_vec(),
            alerts: self.by_rule.clone(),
            alerts_total: self.alerts.count(),
            hidden: self.hidden(),
            outputs: outputs
                .map(|(output, count)| (output.clone(), count))
                .collect(),
            received: status.received.total(),
            per_second: status.per_second,
            lost: status.gaps.total(),
            kernel: status.kernel.clone(),
            enrich: status.enrich,
            hooks: Arc::clone(&status.hooks),
            response: self.responder.as_ref().map(Responder::report),
            programs: self.programs.list(),
            trials: self.on_trial.trials().clone(),
            now_ns: status.now_ns,
        };
        let _ = to.try_send(state);
    }

    /// Has rules that are too dear look at a part of their events, and others at all of them again.
    fn weigh(&mut self, now_ns: u64) {
        let used_ns = pipeline::thread_ns();
        for change in self.dear.look(now_ns, used_ns, self.engine.costs()) {
            self.engine.sample(change.rule, change.is_sampled);
            let Some(rule) = self.roster.iter().nth(change.rule) else {
                continue;
            };
            if change.is_sampled {
                tracing::warn!(
                    target: lifecycle::DEAR,
                    percent = change.percent,
                    rule.id = rule.id,
                    "rule `{}` took {} % of a processor for 20 s; it looks at one event in {SAMPLED_ONE_IN} until it is cheaper, \
                     and may miss what it is about",
                    rule.name,
                    change.percent
                );
            } else {
                tracing::info!(
                    rule.id = rule.id,
                    "rule `{}` is cheap enough again and looks at every event",
                    rule.name
                );
            }
        }
    }

    /// New rules in place of the old. What they leave behind is freed on another thread.
    fn swap(&mut self, mut set: Set, now_ns: u64) -> Swapped {
        let environment = run::environment(&set);
        if let Some(responder) = &mut self.responder {
            responder.set(set.config.response);
        }
        let mut kept = set.config.processes.environment;
        kept.extend(environment);
        let rules: Vec<Arc<Rule>> = set.roster.iter().cloned().collect();
        self.baselines.open(&set.roster);
        self.orders = Some(Orders {
            environment: kept,
            contents: pipeline::reading_for(&rules),
        });
        let before = before(&self.roster, &set.roster);
        let same = |number: usize| before.get(number).copied().flatten();
        let costs_before = self.engine.costs().to_vec();
        let restored = set.engine.inherit(&mut self.engine, same);
        let counts: HashMap<&str, u64> = self
            .roster
            .live()
            .iter()
            .zip(&self.by_rule)
            .map(|(listed, count)| (&*listed.rule.id, *count))
            .collect();
        let count = |listed: &Listed| {
            let before = counts.get(&*listed.rule.id).copied();
            before.filter(|_| !listed.on_trial).unwrap_or(0)
        };
        self.by_rule = set.roster.rules.iter().map(count).collect();
        self.on_trial.swap(
            &set.roster,
            &mut set.table,
            (&costs_before, set.engine.costs()),
            now_ns,
        );
        self.gate.tell();
        self.hidden_before = self.hidden();
        self.gate = set.gate;
        self.dear = Dear::new(set.config.engine.rule_percent_max);
        self.alerts.next_generation(&mut set.table);
        let old = (
            std::mem::replace(&mut self.engine, set.engine),
            std::mem::replace(&mut self.roster, set.roster),
        );
        let freed = std::thread::Builder::new()
            .name("free".into())
            .spawn(move || drop(old));
        if let Err(error) = freed {
            tracing::debug!("the old rules are freed here: {error}");
        }
        Swapped {
            generation: self.alerts.generation(),
            restored,
        }
    }

    /// Lets the outputs write what is waiting, and says what became of it.
    pub(super) fn finish(mut self, summary: &Summary) {
        self.gate.tell();
        let hidden = self.hidden();
        self.baselines.finish(&self.engine, &self.roster);
        let forgotten = forgotten(&self.engine);
        let alerts = self.alerts.count();
        if let Some(responder) = self.responder.take() {
            responder.end();
        }
        for (output, count) in self.outputs.close(OUTPUTS_MAX) {
            if count.dropped > 0 {
                tracing::error!(
                    target: lifecycle::DROPPED,
                    written = count.written,
                    dropped = count.dropped,
                    "output `{output}` dropped alerts"
                );
            }
        }
        // Last: what it takes for told is told by now.
        self.keeping.finish();
        let evicted: u64 = self
            .engine
            .counters()
            .iter()
            .map(|rule| rule.evicted + rule.truncated_keys)
            .sum();
        tracing::info!(
            target: lifecycle::ENDED,
            events = summary.enrich.events,
            lost = summary.kernel.lost(),
            left_out = summary.kernel.unwanted(),
            alerts,
            hidden,
            evicted,
            forgotten,
            "ended"
        );
    }
}

/// What an alert is about: the same after a restart, whatever its number.
fn about(rule: &str, events: &[Arc<Event>]) -> u128 {
    let mut hash = Sha256::new();
    hash.update(rule);
    for event in events {
        let facts = &event.process.facts;
        hash.update([event.kind as u8]);
        hash.update(event.boot_ns.to_le_bytes());
        hash.update(facts.start_ns.to_le_bytes());
        hash.update(facts.pid.to_le_bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk::<16>()
        .map_or(0, |first| u128::from_le_bytes(*first))
}

/// By the number of each new rule, the one it has in the old set: of the same side if it is there, else that of the same file, so
/// that a rule goes on when its trial ends.
fn before(old: &Roster, new: &Roster) -> Vec<Option<usize>> {
    let side = |roster: &Roster| -> HashMap<(String, bool), (usize, u64)> {
        let rules = roster.rules.iter().enumerate();
        rules
            .map(|(number, listed)| {
                let Listed { rule, on_trial, .. } = listed;
                ((rule.id.clone(), *on_trial), (number, rule.digest))
            })
            .collect()
    };
    let (was, is) = (side(old), side(new));
    let of = |listed: &Listed| {
        let id = &listed.rule.id;
        let here = was.get(&(id.clone(), listed.on_trial));
        let there = (id.clone(), !listed.on_trial);
        let same = |found: &&(usize, u64)| found.1 == listed.rule.digest;
        // It can not go on in two places.
        let moved = was.get(&there).filter(|_| !is.contains_key(&there));
        let found = here.filter(same).or(moved.filter(same)).or(here);
        found.map(|(number, _)| *number)
    };
    new.rules.iter().map(of).collect()
}

fn rule(roster: &Roster, number: usize) -> Option<&Arc<Rule>> {
    roster.rules.get(number).map(|listed| &listed.rule)
}

/// Gives an event to somebody who tails; false when that one is gone.
fn pass_on(tail: &mut Tail, event: &Arc<Event>, matches: &mut Vec<Match<Arc<Event>>>) -> bool {
    let send = |event: Arc<Event>| match tail.to.try_send(event) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            tail.dropped.fetch_add(1, Ordering::Relaxed);
            true
        }
        Err(TrySendError::Disconnected(_)) => false,
    };
    let Some(engine) = &mut tail.engine else {
        return send(Arc::clone(event));
    };
    engine.process(event, matches);
    let events: Vec<Arc<Event>> = matches.drain(..).flat_map(|found| found.events).collect();
    events.into_iter().all(send)
}

impl Consumer for Matching {
    fn event(&mut self, event: Event) {
        let event = Arc::new(event);
        if !self.tails.is_empty() {
            let mut matches = Vec::new();
            self.tails
                .retain_mut(|tail| pass_on(tail, &event, &mut matches));
        }
        let begun = self.programs.begin();
        self.pulse.enter(Stage::Engine);
        self.engine.process(&event, &mut self.matches);
        self.pulse.enter(Stage::Ring);
        self.programs.end(&event, begun);
        self.recent.push(&event);
    }

    async fn settle(&mut self, status: &Status) -> ControlFlow<()> {
        if status.idle {
            let now = i64::try_from(status.now_ns.saturating_sub(LATE_MAX_NS)).unwrap_or(i64::MAX);
            self.engine.advance(now, &mut self.matches);
        }
        for found in alert::merge(std::mem::take(&mut self.matches)) {
            self.send(found, status);
        }
        self.serve(status);
        self.tell(status);
        if self.dear.is_due(status.now_ns) {
            self.weigh(status.now_ns);
        }
        if self.baselines.is_due() {
            self.baselines.keep(&self.engine, &self.roster);
        }
        ControlFlow::Continue(())
    }

    fn bell(&self) -> Option<Arc<Notify>> {
        Some(self.desk.bell())
    }

    fn orders(&mut self) -> Option<Orders> {
        self.orders.take()
    }

    fn wants_losses(&self) -> bool {
        !self.matches.is_empty()
    }

    fn is_keeping_due(&self, status: &Status) -> bool {
        self.keeping
            .is_due(status.received.total(), status.pressing)
    }

    fn keep(&mut self, remembered: Remembered, status: &Status) {
        if self.keeping.is_somewhere() {
            let saved = self.saved(remembered);
            let trials = self.on_trial.kept(self.engine.costs(), status.now_ns);
            let job = Job {
                state: saved,
                trials,
                under_way: self.outputs.under_way(),
            };
            self.keeping.keep(job, status.received.total());
        }
    }

    fn has_kept(&self) -> Option<bool> {
        self.keeping.has_kept()
    }

    fn caught_up(&mut self) {
        let left = self.again.values().flatten();
        let missing = left.filter(|number| !self.outputs.have(**number)).count();
        if missing > 0 {
            tracing::warn!(
                "{missing} alerts of the last run do not come again; outputs may lack them"
            );
        }
        self.again = HashMap::new();
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
