//! The daemon's counters as Prometheus text.
//!
//! In: a [`State`]. Out: text, format version 0.0.4. One name for each thing counted, what it is about in labels. Every label's value
//! is escaped: rule names are other people's words.

use std::fmt::Write as _;

use super::state::{State, Verdict, verdict};
use crate::pipeline::Sight;

/// Every metric starts so.
const PREFIX: &str = "eql_sensor";

/// A metric's name and help, and what it counts.
struct Family<'o> {
    out: &'o mut String,
    name: &'static str,
}

impl<'o> Family<'o> {
    fn new(out: &'o mut String, name: &'static str, kind: &str, help: &str) -> Family<'o> {
        // A String takes any write.
        let _ = writeln!(out, "# HELP {PREFIX}_{name} {help}");
        let _ = writeln!(out, "# TYPE {PREFIX}_{name} {kind}");
        Family { out, name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.out, "{PREFIX}_{}", self.name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{open}{label}=\"");
            escape(text, self.out);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// All of them.
#[must_use]
pub fn text(state: &State) -> String {
    let mut out = String::new();
    whole(state, &mut out);
    response(state, &mut out);
    kernel(state, &mut out);
    rules(state, &mut out);
    on_trial(state, &mut out);
    out
}

fn whole(state: &State, out: &mut String) {
    let enrich = &state.enrich;
    let partials = state.counters.iter().map(|rule| rule.partials).sum();
    for (name, kind, help, value) in [
        (
            "uptime_seconds",
            "gauge",
            "Since the daemon started.",
            state.uptime.as_secs(),
        ),
        (
            "generation",
            "gauge",
            "Number of the rule set, raised by each reload.",
            state.generation,
        ),
        (
            "events_total",
            "counter",
            "Events made of records.",
            enrich.events,
        ),
        (
            "alerts_total",
            "counter",
            "Alerts made.",
            state.alerts_total,
        ),
        (
            "hidden_total",
            "counter",
            "Matches that overrides and exceptions hid.",
            state.hidden,
        ),
        ("processes", "gauge", "Processes known.", enrich.processes),
        (
            "processes_evicted_total",
            "counter",
            "Processes forgotten because there were too many.",
            enrich.evicted,
        ),
        (
            "processes_unknown_total",
            "counter",
            "Records of processes that nothing was known of.",
            enrich.unknown_process,
        ),
        (
            "partials",
            "gauge",
            "Partial matches open in all rules.",
            partials,
        ),
    ] {
        Family::new(out, name, kind, help).sample(&[], value);
    }
    let mut outputs = Family::new(
        out,
        "output_alerts_total",
        "counter",
        "Alerts by output and by what became of them.",
    );
    for (output, count) in &state.outputs {
        let output = output.to_string();
        for (what, value) in [("written", count.written), ("dropped", count.dropped)] {
            outputs.sample(&[("output", &output), ("outcome", what)], value);
        }
    }
    let mut waiting = Family::new(
        out,
        "output_alerts_waiting",
        "gauge",
        "Alerts written to disk for an output that does not take them at present.",
    );
    for (output, count) in &state.outputs {
        waiting.sample(&[("output", &output.to_string())], count.waiting);
    }
}

fn response(state: &State, out: &mut String) {
    let Some(response) = &state.response else {
        return;
    };
    let mut family = Family::new(
        out,
        "responses_total",
        "counter",
        "Processes that rules asked to be killed, by what came of it.",
    );
    for (word, count) in response.counted() {
        family.sample(&[("outcome", word)], count);
    }
}

fn kernel(state: &State, out: &mut String) {
    let mut records = Family::new(
        out,
        "records_total",
        "counter",
        "Acts seen in the kernel, by record kind and by what became of them.",
    );
    for (kind, of) in &state.kernel.kinds {
        for (outcome, value) in [
            ("submitted", of.submitted),
            ("lost", of.lost_ring_full),
            ("unwanted", of.dropped_unwanted),
            ("own", of.dropped_self),
            ("headroom", of.dropped_headroom),
            ("throttled", of.dropped_throttled),
        ] {
            records.sample(&[("kind", kind.name()), ("outcome", outcome)], value);
        }
    }
    Family::new(
        out,
        "skipped_runs_total",
        "counter",
        "Runs of kernel programs that the kernel skipped: acts nobody could count by kind.",
    )
    .sample(&[], state.kernel.recursion_misses);
}

fn rules(state: &State, out: &mut String) {
    let sight = Sight::of_hooks(&state.hooks);
    let verdicts: Vec<Verdict> = state
        .roster
        .live()
        .iter()
        .map(|listed| verdict(listed, &sight).0)
        .collect();
    let mut by_verdict = Family::new(out, "rules", "gauge", "Rules by verdict.");
    for which in Verdict::ALL {
        let count = verdicts.iter().filter(|v| **v == which).count();
        by_verdict.sample(&[("verdict", which.name())], count);
    }
    by_verdict.sample(&[("verdict", "failed")], state.roster.failed.len());
    let on_trial = state.roster.on_trial().len();
    Family::new(out, "rules_on_trial", "gauge", "Rules on trial.").sample(&[], on_trial);
    let numbers = |number: usize| {
        let counters = state.counters.get(number).copied().unwrap_or_default();
        let cost = state.costs.get(number).copied().unwrap_or_default();
        let alerts = state.alerts.get(number).copied().unwrap_or_default();
        (counters, cost, alerts)
    };
    type Column<'a> = (
        &'static str,
        &'static str,
        &'static str,
        &'a dyn Fn(usize) -> String,
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds are wanted as a fraction; nanoseconds are an estimate"
    )]
    let seconds = |number| (numbers(number).1.nanoseconds as f64 / 1e9).to_string();
    let columns: [Column<'_>; 6] = [
        ("rule_alerts_total", "counter", "Alerts by rule.", &|n| {
            numbers(n).2.to_string()
        }),
        (
            "rule_events_total",
            "counter",
            "Events that one of the rule's filters let through.",
            &|n| numbers(n).1.events.to_string(),
        ),
        (
            "rule_seconds_total",
            "counter",
            "Time spent on them, estimated.",
            &seconds,
        ),
        (
            "rule_partials",
            "gauge",
            "Partial matches open, by rule.",
            &|n| numbers(n).0.partials.to_string(),
        ),
        (
            "rule_evicted_total",
            "counter",
            "Partial matches given up at a bound, by rule.",
            &|n| numbers(n).0.evicted.to_string(),
        ),
        (
            "rule_keys_left_out_total",
            "counter",
            "Join keys left out at a bound, by rule.",
            &|n| numbers(n).0.truncated_keys.to_string(),
        ),
    ];
    for (name, kind, help, of) in columns {
        let mut family = Family::new(out, name, kind, help);
        for (number, listed) in state.roster.live().iter().enumerate() {
            let labels = [("id", &*listed.rule.id), ("name", &*listed.rule.name)];
            family.sample(&labels, of(number));
        }
    }
}

/// The same of rules on trial, under names of their own: none of it is an alert.
fn on_trial(state: &State, out: &mut String) {
    let first = state.roster.live_count();
    let rules = state.roster.on_trial();
    if rules.is_empty() {
        return;
    }
    let cost = |at: usize| state.costs.get(first + at).copied().unwrap_or_default();
    let counts = |at: usize| {
        let trial = state.trials.rules.get(at);
        trial.map(|trial| trial.counts).unwrap_or_default()
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds are wanted as a fraction; nanoseconds are an estimate"
    )]
    let seconds = |at| (cost(at).nanoseconds as f64 / 1e9).to_string();
    type Column<'a> = (&'static str, &'static str, &'a dyn Fn(usize) -> String);
    let columns: [Column<'_>; 4] = [
        (
            "trial_alerts_total",
            "Alerts that a rule on trial would have raised.",
            &|at| counts(at).alerts.to_string(),
        ),
        (
            "trial_hidden_total",
            "Matches of a rule on trial that exceptions and rate limits would have hidden.",
            &|at| (counts(at).excepted + counts(at).limited).to_string(),
        ),
        (
            "trial_events_total",
            "Events that one of the filters of a rule on trial let through.",
            &|at| cost(at).events.to_string(),
        ),
        (
            "trial_seconds_total",
            "Time spent on them, estimated.",
            &seconds,
        ),
    ];
    for (name, help, of) in columns {
        let mut family = Family::new(out, name, "counter", help);
        for (at, listed) in rules.iter().enumerate() {
            let labels = [("id", &*listed.rule.id), ("name", &*listed.rule.name)];
            family.sample(&labels, of(at));
        }
    }
}
