//! The consumer without a kernel: alerts and losses, new rules in mid-sequence, those who look on.
//!
//! In: events made by hand, asks left at the desk. Out: what the output wrote and what was answered. Must never wait for a time.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;

use super::*;
use crate::alert::{Alert, sample};
use crate::cli::{Format, Output};
use crate::commands::{compile, live};
use crate::config::Config;
use crate::control::Bell;
use crate::document::Source;
use crate::enrich::Enricher;
use crate::enrich::process_table::TableLimits;
use crate::enrich::testing::{Run, exec_body};
use crate::enrich::users::Users;
use crate::event::{FieldTable, Fields as _, Host, Kind};
use crate::metrics::Gaps;
use crate::output::{self, Sink};
use crate::response::{Deed, Guard, Mode};
use crate::tuning::Tuning;

const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(u64, u64, String)>>>);

impl Sink for Kept {
    fn write(&mut self, alert: &Alert, _: &AtomicBool) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.push((alert.generation, alert.lost, alert.message.clone()));
        Ok(())
    }

    fn tell(&mut self, deed: &Deed, _: &AtomicBool) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.push((deed.order.generation, 0, deed.message.clone()));
        Ok(())
    }
}

/// A set of rules by name and id, each an exec and then a file of that name.
fn set(rules: &[(&str, &str)]) -> Set {
    let rules = rules
        .iter()
        .map(|(name, id)| sample::rule(name, id, "low"))
        .collect();
    set_of(rules, Vec::new())
}

/// A set of live rules and of rules on trial.
fn set_of(mut rules: Vec<Arc<Rule>>, on_trial: Vec<Arc<Rule>>) -> Set {
    let mut table = FieldTable::sensor();
    let live = rules.len();
    rules.extend(on_trial);
    let (rules, engine) = compile(rules, &mut table, &Config::default(), true).unwrap();
    let listed = |(number, rule)| Listed {
        rule,
        stale: None,
        on_trial: number >= live,
    };
    let roster = Roster {
        rules: rules.into_iter().enumerate().map(listed).collect(),
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
        Bench::of(set(rules))
    }

    fn of(set: Set) -> Bench {
        let kept = Kept::default();
        let mut outputs = Outputs::default();
        outputs
            .add(Output::Stdout, Box::new(kept.clone()), 8)
            .unwrap();
        let (bell, desk) = Desk::new();
        let users = Users::from_files("/nonexistent", "/nonexistent");
        let host = Arc::new(Host::default());
        Bench {
            matching: Matching::new(set, outputs, desk, Arc::default()),
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
    let changed = sample::rule_of_query("A", "a", "process where process.name == \"x\"");
    let new = set_of(vec![changed], Vec::new());
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

/// The counts of the only rule on trial.
fn trial(bench: &mut Bench) -> trial::Trial {
    let mut trials = bench.ask(Ask::State).trials.rules;
    assert_eq!(trials.len(), 1);
    trials.remove(0)
}

#[test]
fn a_rule_on_trial_is_counted_and_not_heard_of() {
    let live = sample::rule("R", "r-1", "low");
    let tried = sample::rule("R, tried", "r-1", "low");
    let mut bench = Bench::of(set_of(vec![live], vec![tried]));
    bench.exec();
    bench.creation();
    bench.settle(&Status::default());
    let state = bench.ask(Ask::State);
    assert_eq!((state.alerts_total, state.hidden), (1, 0));
    assert_eq!(state.alerts, [1, 0]);
    let trial = trial(&mut bench);
    let counts = trial::Counts {
        alerts: 1,
        both: 1,
        ..trial::Counts::default()
    };
    assert_eq!(trial.counts, counts);
    assert_eq!(trial.cost(state.costs[1]).events, 2);
    let would: Vec<&trial::Listed> = trial.last().collect();
    let [one] = would[..] else {
        panic!("{would:?}")
    };
    assert!(one.both);
    assert_eq!(one.would.message, message("R, tried"));
    let document: serde_json::Value = serde_json::from_str(&one.would.document).unwrap();
    assert_eq!(document["rule"]["id"], "r-1");
    assert_eq!(document["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(bench.end(), [(1, 0, message("R"))]);
}

#[test]
fn what_a_rule_on_trial_would_have_done_is_told() {
    let kills = sample::rule_that_kills("file where event.action == \"creation\"");
    let mut bench = Bench::of(set_of(Vec::new(), vec![kills]));
    bench.exec();
    bench.creation();
    bench.settle(&Status::default());
    let trial = trial(&mut bench);
    let actions: Vec<&String> = trial.last().flat_map(|l| &l.would.actions).collect();
    assert_eq!(actions, ["kill_process process.entity_id: rev (pid 7)"]);
    assert_eq!(bench.end(), []);
}

#[test]
fn what_only_one_version_alerts_on_is_told() {
    let exec = r#"process where event.action == "exec""#;
    let creation = r#"file where event.action == "creation""#;
    let of = |query| sample::rule_of_query("R", "r-1", query);
    let mut bench = Bench::of(set_of(vec![of(exec)], vec![of(creation)]));
    bench.exec();
    bench.creation();
    bench.settle(&Status::default());
    let trial = trial(&mut bench);
    let counts = trial::Counts {
        alerts: 1,
        only_trial: 1,
        only_live: 1,
        ..trial::Counts::default()
    };
    assert_eq!(trial.counts, counts);
    let missed: Vec<&str> = trial.missed().map(|missed| &*missed.message).collect();
    assert_eq!(missed, ["R: ./rev (pid 7)"]);
}

#[test]
fn a_sequence_goes_on_when_its_trial_ends() {
    let tried = || sample::rule("R", "r-1", "low");
    let other = || sample::rule_of_query("R", "r-1", "process where process.name == \"x\"");
    for live in [vec![], vec![other()]] {
        let mut bench = Bench::of(set_of(live, vec![tried()]));
        bench.exec();
        let promoted = Box::new(set_of(vec![tried()], Vec::new()));
        let swapped = bench.ask(|to| Ask::Swap(promoted, to));
        assert_eq!((swapped.restored.kept, swapped.restored.left), (1, 0));
        bench.creation();
        bench.settle(&Status::default());
        assert_eq!(bench.ask(Ask::State).alerts, [1]);
        assert_eq!(bench.end(), [(2, 0, message("R"))]);
    }
}

#[test]
fn a_trial_goes_on_over_a_reload_until_its_file_changes() {
    let tried = |name| sample::rule(name, "r-1", "low");
    let mut bench = Bench::of(set_of(vec![], vec![tried("R")]));
    bench.exec();
    let again = set_of(vec![sample::rule("S", "s-1", "low")], vec![tried("R")]);
    let swapped = bench.ask(|to| Ask::Swap(Box::new(again), to));
    assert_eq!(swapped.restored.kept, 1);
    bench.creation();
    bench.settle(&Status::default());
    let before = trial(&mut bench);
    assert_eq!(before.counts.alerts, 1, "begun before the reload");
    let changed = set_of(vec![], vec![tried("R, changed")]);
    bench.ask(|to| Ask::Swap(Box::new(changed), to));
    let after = trial(&mut bench);
    assert_eq!(after.counts, trial::Counts::default());
    assert!(after.since_ns > before.since_ns);
    assert_eq!(bench.end(), []);
}

#[test]
fn what_would_hide_an_alert_is_said_and_not_counted_as_hidden() {
    let exception = "[[exception]]\nrule_id = \"r-1\"\nreason = \"it builds\"\nowner = \"o\"\n\
                     expires = \"never\"\nquery = 'file where file.name == \"rev\"'\n";
    let source = crate::document::Source {
        path: std::path::Path::new("e.toml").into(),
        text: exception.to_owned(),
    };
    let (excepting, problems) = crate::tuning::Tuning::exceptions_of(&source);
    assert_eq!(problems, []);
    let place = excepting.exceptions[0].place.clone();
    let limiting = crate::tuning::Tuning {
        overrides: vec![crate::tuning::Override {
            selector: crate::tuning::Selector::Id("r-1".to_owned()),
            enabled: None,
            severity: None,
            risk_score: None,
            actions: None,
            limit: Some(crate::tuning::RateLimit {
                alerts: 1,
                per: Duration::from_secs(3600),
            }),
            place,
        }],
        ..crate::tuning::Tuning::default()
    };
    for (tuning, expected, because) in [
        (excepting, [0, 2, 0], "e.toml:1: it builds"),
        (limiting, [1, 0, 1], "the rule's rate limit"),
    ] {
        let tried = sample::rule("R", "r-1", "low");
        let mut set = set_of(Vec::new(), vec![tried]);
        let rules: Vec<Arc<Rule>> = set.roster.iter().cloned().collect();
        let (gate, problems) = Gate::new(&tuning, &rules, &mut set.table, 0);
        assert_eq!(problems, []);
        set.gate = gate;
        let mut bench = Bench::of(set);
        for _ in 0..2 {
            bench.exec();
            bench.creation();
        }
        bench.settle(&Status::default());
        assert_eq!(bench.ask(Ask::State).hidden, 0);
        let trial = trial(&mut bench);
        let counts = trial.counts;
        assert_eq!([counts.alerts, counts.excepted, counts.limited], expected);
        let last = trial.last().next_back().unwrap();
        assert_eq!(last.would.because.as_deref(), Some(because));
        assert_eq!(bench.end(), []);
    }
}

/// What the alerts file holds: alerts, and the outcome of what was done about them.
fn told_of(exception: &str, on_trial: bool, creations: usize) -> Vec<String> {
    let rules = vec![sample::rule_that_kills(
        "file where event.action == \"creation\"",
    )];
    let mut set = if on_trial {
        set_of(Vec::new(), rules.clone())
    } else {
        set_of(rules.clone(), Vec::new())
    };
    let (tuning, problems) = Tuning::exceptions_of(&Source {
        path: Path::new("exceptions.toml").into(),
        text: exception.to_owned(),
    });
    assert!(exception.is_empty() || problems.is_empty(), "{problems:?}");
    set.gate = Gate::new(&tuning, &rules, &mut set.table, 0).0;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alerts.jsonl");
    let options = output::Options {
        format: Format::Json,
        queue_max: 16,
        rotation: output::file::Rotation {
            bytes: 0,
            age: std::time::Duration::ZERO,
            keep: 0,
            gzip: false,
        },
        suppress: Some(Duration::from_secs(3600)),
        // What is done about a rule's alerts is told wherever they are.
        severity_min: output::Thresholds::NONE,
        spool: None,
    };
    let outputs = Outputs::open(&[Output::File(path.clone())], &options).unwrap();
    let doors = outputs.doors();
    let tell = Box::new(move |deed: &Arc<Deed>| doors.tell(deed));
    let host = Arc::new(Host::default());
    let mut responder = Responder::new(Guard::new(&host, &[]), host, tell);
    responder.set(crate::config::Response {
        enabled: true,
        ..Default::default()
    });
    let mut bench = Bench::new(&[]);
    let (_, desk) = Desk::new();
    bench.matching = Matching::new(set, outputs, desk, Arc::default());
    bench.matching.respond_by(responder);
    for _ in 0..creations {
        bench.creation();
        bench.settle(&Status::default());
    }
    let Bench { matching, .. } = bench;
    let report = matching.responder.as_ref().unwrap().report();
    matching.responder.unwrap().end();
    assert_eq!(report.mode, Mode::DryRun);
    matching.outputs.close(Duration::from_secs(60));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let repeats = &line["eql_sensor"]["alert"]["repeats"]["count"];
        match line["event"]["kind"].as_str().unwrap() {
            "alert" if repeats.is_null() => "alert".to_owned(),
            "alert" => format!("alert of {repeats} repeats"),
            // Somebody else has its pid, or nobody: the process of these events never was.
            _ => line["event"]["outcome"]
                .as_str()
                .unwrap()
                .replace("unknown", "failure"),
        }
    });
    lines.collect()
}

#[test]
fn what_a_rule_asks_is_done_for_alerts_that_are_told_and_no_others() {
    assert_eq!(told_of("", false, 1), ["alert", "failure"]);
    assert_eq!(
        told_of("", false, 3),
        ["alert", "failure", "alert of 2 repeats"]
    );
    let exception = "[[exception]]\nrule_id = \"r-1\"\nquery = 'file where true'\nreason = \"r\"\nowner = \"o\"\nexpires = \"never\"\n";
    assert_eq!(told_of(exception, false, 3), [""; 0]);
    assert_eq!(told_of("", true, 3), [""; 0]);
}

#[test]
fn a_rate_limit_goes_by_time_that_passed_however_the_clock_is_set() {
    const HOUR: u64 = 3600 * SECOND;
    let rules = vec![sample::rule_of_query(
        "R",
        "r-1",
        "file where event.action == \"creation\"",
    )];
    let mut set = set_of(rules.clone(), Vec::new());
    let tuning = Tuning {
        overrides: vec![crate::tuning::Override {
            selector: crate::tuning::Selector::Id("*".to_owned()),
            enabled: None,
            severity: None,
            risk_score: None,
            limit: Some(crate::tuning::RateLimit {
                alerts: 1,
                per: Duration::from_secs(1800),
            }),
            actions: None,
            place: crate::tuning::Place {
                path: Path::new("o.toml").into(),
                line: 1,
                column: 1,
            },
        }],
        ..Tuning::default()
    };
    set.gate = Gate::new(&tuning, &rules, &mut set.table, 0).0;
    let mut bench = Bench::of(set);
    // Hours on the boot clock, and what the wall clock is ahead of it: back by two hours, then far ahead.
    for (hours, ahead) in [(10, 100), (11, 98), (12, 500)] {
        bench.enricher.set_wall_offset(ahead * HOUR.cast_signed());
        for seconds in [0, 1] {
            let at = hours * HOUR + seconds * SECOND;
            let event = bench.enricher.feed_creation(at, (7, SECOND), b"/tmp/rev");
            bench.matching.event(event);
            bench.settle(&Status::default());
        }
    }
    let state = bench.ask(Ask::State);
    assert_eq!((state.alerts_total, state.hidden), (3, 3));
}
