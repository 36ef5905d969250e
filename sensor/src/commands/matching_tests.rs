//! The consumer without a kernel: alerts and losses, new rules in mid-sequence, those who look on.
//!
//! In: events made by hand, asks left at the desk. Out: what the output wrote and what was answered. Must never wait for a time.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;

use super::*;
use crate::alert::{Alert, sample};
use crate::cli::Output;
use crate::commands::{compile, live};
use crate::config::Config;
use crate::control::Bell;
use crate::enrich::Enricher;
use crate::enrich::process_table::TableLimits;
use crate::enrich::testing::{Run, exec_body};
use crate::enrich::users::Users;
use crate::event::{FieldTable, Fields as _, Host, Kind};
use crate::metrics::Gaps;
use crate::output::Sink;
use crate::reload::Listed;

const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(u64, u64, String)>>>);

impl Sink for Kept {
    fn write(&mut self, alert: &Alert, _: &AtomicBool) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.push((alert.generation, alert.lost, alert.message.clone()));
        Ok(())
    }
}

/// A set of rules by name and id, each an exec and then a file of that name.
fn set(rules: &[(&str, &str)]) -> Set {
    let rules = rules
        .iter()
        .map(|(name, id)| sample::rule(name, id, "low"))
        .collect();
    let mut table = FieldTable::sensor();
    let (rules, engine) = compile(rules, &mut table, &Config::default(), true).unwrap();
    let listed = |rule| Listed { rule, stale: None };
    let roster = Roster {
        rules: rules.into_iter().map(listed).collect(),
        ..Roster::default()
    };
    Set {
        config: Config::default(),
        engine,
        gate: crate::tuning::Gate::default(),
        table,
        roster: Arc::new(roster),
    }
}

/// A consumer, what its output wrote, and what feeds it.
struct Bench {
    matching: Matching,
    kept: Kept,
    enricher: Enricher,
    bell: Bell,
}

impl Bench {
    fn new(rules: &[(&str, &str)]) -> Bench {
        let kept = Kept::default();
        let mut outputs = Outputs::default();
        outputs
            .add(Output::Stdout, Box::new(kept.clone()), 8)
            .unwrap();
        let (bell, desk) = Desk::new();
        let users = Users::from_files("/nonexistent", "/nonexistent");
        let host = Arc::new(Host::default());
        Bench {
            matching: Matching::new(set(rules), outputs, desk, Arc::default()),
            kept,
            enricher: Enricher::new(host, TableLimits::default(), users, None),
            bell,
        }
    }

    fn exec(&mut self) {
        let run = Run::of("/tmp/rev", &["./rev"]);
        let event = self
            .enricher
            .feed_exec(SECOND, (7, SECOND), &exec_body(), &run);
        self.matching.event(event);
    }

    fn creation(&mut self) {
        let event = self
            .enricher
            .feed_creation(3 * SECOND, (7, SECOND), b"/tmp/rev");
        self.matching.event(event);
    }

    fn settle(&mut self, status: &Status) {
        let flow = live::runtime()
            .unwrap()
            .block_on(self.matching.settle(status));
        assert!(flow.is_continue());
    }

    /// Leaves an ask, lets the consumer see to it, and takes the answer.
    fn ask<T>(&mut self, ask: impl FnOnce(SyncSender<T>) -> Ask) -> T {
        let (to, answer) = sync_channel(1);
        self.bell.leave(ask(to)).unwrap();
        self.settle(&Status::default());
        answer.try_recv().unwrap()
    }

    fn end(self) -> Vec<(u64, u64, String)> {
        self.matching.outputs.close(OUTPUTS_MAX);
        self.kept.0.lock().unwrap().clone()
    }
}

fn message(rule: &str) -> String {
    format!("{rule}: ./rev (pid 7) → rev wrote /tmp/rev")
}

/// An exec at 1 s and a file of that name at 3 s, with a loss of 5 records seen at `lost_at_ns`.
fn alerts_with_loss_at(lost_at_ns: u64) -> Vec<(u64, u64, String)> {
    let mut bench = Bench::new(&[("R", "r-1")]);
    bench.exec();
    assert!(!bench.matching.wants_losses());
    bench.creation();
    assert!(bench.matching.wants_losses());
    let mut gaps = Gaps::since_start(0);
    gaps.observe(lost_at_ns - SECOND / 2, 0);
    gaps.observe(lost_at_ns, 5);
    bench.settle(&Status {
        gaps,
        ..Status::default()
    });
    bench.end()
}

#[test]
fn an_alert_says_whether_records_were_lost_in_its_window() {
    for (at, lost) in [(2 * SECOND, 5), (SECOND, 5), (SECOND / 10 * 9, 0)] {
        assert_eq!(alerts_with_loss_at(at), [(1, lost, message("R"))]);
    }
}

#[test]
fn a_sequence_under_way_completes_under_new_rules() {
    let mut bench = Bench::new(&[("A", "a"), ("B", "b")]);
    bench.exec();
    // One is gone, one is new, and the one that stays has another number.
    let new = Box::new(set(&[("C", "c"), ("B", "b")]));
    let swapped = bench.ask(|to| Ask::Swap(new, to));
    assert_eq!(swapped.generation, 2);
    assert_eq!((swapped.restored.kept, swapped.restored.left), (1, 1));
    bench.creation();
    bench.settle(&Status::default());
    let state = bench.ask(Ask::State);
    assert_eq!((state.generation, state.alerts_total), (2, 1));
    assert_eq!(state.alerts, [0, 1]);
    assert_eq!(state.counters[1].matches, 1);
    assert_eq!(state.counters[1].opened, 1, "counted before the swap");
    assert_eq!(bench.end(), [(2, 0, message("B"))]);
}

#[test]
fn the_same_id_with_another_query_starts_empty() {
    let mut bench = Bench::new(&[("A", "a")]);
    bench.exec();
    let mut new = set(&[("A", "a")]);
    let changed = sample::rule_of_query("A", "a", "process where process.name == \"x\"");
    let mut table = FieldTable::sensor();
    let config = Config::default();
    let (rules, engine) = compile(vec![changed], &mut table, &config, true).unwrap();
    (new.engine, new.table) = (engine, table);
    new.roster = Arc::new(Roster {
        rules: rules
            .into_iter()
            .map(|rule| Listed { rule, stale: None })
            .collect(),
        ..Roster::default()
    });
    let swapped = bench.ask(|to| Ask::Swap(Box::new(new), to));
    assert_eq!((swapped.restored.kept, swapped.restored.left), (0, 1));
    bench.creation();
    bench.settle(&Status::default());
    assert_eq!(bench.end(), []);
}

#[test]
fn two_hundred_swaps_keep_one_sequence_and_lose_nothing() {
    let mut bench = Bench::new(&[("B", "b")]);
    bench.exec();
    for generation in 2..=201 {
        let new = Box::new(set(&[("B", "b"), ("A", "a")]));
        let swapped = bench.ask(|to| Ask::Swap(new, to));
        assert_eq!(swapped.generation, generation);
        assert_eq!((swapped.restored.kept, swapped.restored.left), (1, 0));
    }
    bench.creation();
    bench.settle(&Status::default());
    assert_eq!(bench.end(), [(201, 0, message("B"))]);
}

#[test]
fn programs_are_counted_only_while_somebody_looks() {
    let mut bench = Bench::new(&[("B", "b")]);
    bench.exec();
    assert_eq!(bench.ask(Ask::Top).programs, []);
    bench.creation();
    bench.settle(&Status::default());
    let programs = bench.ask(Ask::Top).programs;
    assert_eq!(programs.len(), 1);
    assert_eq!(&*programs[0].name, "/tmp/rev");
    assert_eq!((programs[0].events, programs[0].alerts), (1, 1));
}

#[test]
fn who_tails_slowly_loses_copies_and_holds_nobody_up() {
    let mut bench = Bench::new(&[("B", "b")]);
    let (to, events) = sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let tail = Tail {
        engine: None,
        to,
        dropped: Arc::clone(&dropped),
    };
    bench.bell.leave(Ask::Tail(Box::new(tail))).unwrap();
    bench.settle(&Status::default());
    bench.exec();
    bench.creation();
    bench.creation();
    assert_eq!(events.try_iter().count(), 1);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    drop(events);
    bench.creation();
    assert!(bench.matching.tails.is_empty(), "gone with its reader");
}

#[test]
fn the_last_events_are_kept_as_far_as_there_is_room() {
    let mut bench = Bench::new(&[("B", "b")]);
    assert_eq!(bench.ask(Ask::Recent).events.len(), 0);
    bench.exec();
    bench.creation();
    let kept = bench.ask(Ask::Recent);
    let kinds: Vec<Kind> = kept.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Exec, Kind::Creation]);
    assert!(!kept.full);
    let room = kept.events.iter().map(|event| event.bytes()).sum();
    bench.matching.recent = Recent::new(room);
    bench.exec();
    bench.creation();
    assert!(!bench.ask(Ask::Recent).full, "room for both");
    bench.creation();
    let kept = bench.ask(Ask::Recent);
    assert!(kept.full);
    assert!(kept.events.iter().all(|event| event.kind == Kind::Creation));
    bench.matching.recent = Recent::new(0);
    bench.exec();
    assert_eq!(bench.ask(Ask::Recent).events.len(), 0);
}
