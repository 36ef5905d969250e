//! How a running daemon stands, as the control socket tells it.
//!
//! In: a [`State`], copied by the pipeline between two batches. Out: JSON for `status` and `rules`. The work of putting it into words
//! is done by the thread of the client that asked. Text for people is made of the same JSON, by the command line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Output;
use crate::engine::{Cost, RuleCounters};
use crate::enrich;
use crate::kernel::{Counters, HookReport, HookState};
use crate::output::Count;
use crate::pipeline::Sight;
use crate::reload::{Listed, Roster};
use crate::response;
use crate::rule;
use crate::trial::Trials;

/// Behind the name of a rule on trial.
pub const ON_TRIAL: &str = " (on trial)";

/// Everything at one moment.
#[derive(Clone)]
pub struct State {
    pub uptime: Duration,
    pub generation: u64,
    pub roster: Arc<Roster>,
    /// By rule number.
    pub counters: Vec<RuleCounters>,
    pub costs: Vec<Cost>,
    /// Rules that look at a part of their events.
    pub sampled: Vec<usize>,
    /// Events that each rule left out so.
    pub passed_over: Vec<u64>,
    /// Alerts by rule number.
    pub alerts: Vec<u64>,
    /// Alerts of all rules there ever were.
    pub alerts_total: u64,
    /// Matches that overrides and exceptions hid.
    pub hidden: u64,
    pub outputs: Vec<(Output, Count)>,
    /// What was done about alerts.
    pub response: Option<response::Report>,
    /// Records received so far, and in the last second.
    pub received: u64,
    pub per_second: u64,
    pub lost: u64,
    pub kernel: Counters,
    pub enrich: enrich::Counters,
    pub hooks: Arc<[HookReport]>,
    /// What processes do, by program, while somebody looks.
    pub programs: Vec<Program>,
    pub trials: Trials,
    /// Boot clock, nanoseconds.
    pub now_ns: u64,
}

/// What the processes of one program made the sensor do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub name: Arc<str>,
    pub events: u64,
    pub nanoseconds: u64,
    pub alerts: u64,
}

/// A path as whoever asks can use it, wherever that one stands.
pub(super) fn shown(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    let absolute = absolute.as_deref().unwrap_or(path);
    absolute.display().to_string()
}

/// How much a rule can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Armed,
    /// It can fire, but something it reads is never there.
    Degraded,
    /// It can never fire here.
    Blind,
    /// The file is broken; its last good version runs.
    Stale,
}

impl Verdict {
    pub const ALL: [Verdict; 4] = [
        Verdict::Armed,
        Verdict::Degraded,
        Verdict::Blind,
        Verdict::Stale,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Armed => "armed",
            Verdict::Degraded => "degraded",
            Verdict::Blind => "blind",
            Verdict::Stale => "stale",
        }
    }
}

/// A rule's verdict, and what led to it.
#[must_use]
pub fn verdict(listed: &Listed, sight: &Sight) -> (Verdict, Vec<String>) {
    let judgement = listed.rule.judge(sight.kinds);
    let verdict = match judgement.verdict() {
        _ if listed.stale.is_some() => Verdict::Stale,
        rule::Verdict::Armed => Verdict::Armed,
        rule::Verdict::Degraded => Verdict::Degraded,
        rule::Verdict::Blind => Verdict::Blind,
    };
    let findings = judgement.decisive();
    let words = findings
        .iter()
        .map(|finding| finding.words(&listed.rule.query_text));
    (verdict, listed.stale.iter().cloned().chain(words).collect())
}

impl State {
    /// The document of `status`.
    #[must_use]
    pub fn status(&self) -> Value {
        let sight = Sight::of_hooks(&self.hooks);
        let verdicts: Vec<Verdict> = self
            .roster
            .live()
            .iter()
            .map(|listed| verdict(listed, &sight).0)
            .collect();
        let count = |which| verdicts.iter().filter(|v| **v == which).count();
        let sum = |of: fn(&RuleCounters) -> u64| self.counters.iter().map(of).sum::<u64>();
        let outputs = self.outputs.iter().map(|(output, count)| {
            json!({
                "output": output.to_string(),
                "written": count.written,
                "waiting": count.waiting,
                "dropped": count.dropped,
            })
        });
        let mut document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.uptime.as_secs(),
            "generation": self.generation,
            "rules": {
                "loaded": self.roster.live_count(),
                "on_trial": self.roster.on_trial().len(),
                "failed": self.roster.failed.len(),
                "skipped": self.roster.skipped.len(),
                "sampled": self.sampled_rules(),
            },
            "events": {
                "records": self.received,
                "per_second": self.per_second,
                "made": self.enrich.events,
            },
            "lost": {
                "total": self.lost,
                "kinds": self.by_kind(|of| of.lost_ring_full),
                "skipped_runs": self.kernel.recursion_misses,
            },
            "left_out": {
                "unwanted": self.kernel.unwanted(),
                "throttled": self.by_kind(|of| of.dropped_throttled + of.dropped_headroom),
            },
            "alerts": self.alerts_total,
            "hidden": self.hidden,
            "outputs": outputs.collect::<Vec<Value>>(),
            "partials": {
                "open": sum(|rule| rule.partials),
                "evicted": sum(|rule| rule.evicted),
                "keys_left_out": sum(|rule| rule.truncated_keys),
            },
            "processes": {
                "known": self.enrich.processes,
                "evicted": self.enrich.evicted,
                "unknown": self.enrich.unknown_process,
            },
            "hooks": self.hooks_in_use(),
            "not_attached": self.not_wanted(),
        });
        if let Some(rules) = document.get_mut("rules").and_then(Value::as_object_mut) {
            for which in Verdict::ALL {
                rules.insert(which.name().to_owned(), count(which).into());
            }
        }
        if let Some(response) = &self.response
            && let Some(document) = document.as_object_mut()
        {
            let mut shown = json!({ "mode": response.mode.word() });
            for (word, count) in response.counted() {
                if let Some(shown) = shown.as_object_mut() {
                    shown.insert(word.to_owned(), count.into());
                }
            }
            document.insert("response".to_owned(), shown);
        }
        if let Some(stale) = &self.roster.settings_stale
            && let Some(document) = document.as_object_mut()
        {
            document.insert("settings_stale".to_owned(), stale.clone().into());
        }
        document
    }

    /// The documents of `rules`: those that run, then files that are none.
    #[must_use]
    pub fn rules(&self) -> Vec<Value> {
        let sight = Sight::of_hooks(&self.hooks);
        let running = self.roster.rules.iter().enumerate();
        let running = running.map(|(number, listed)| self.rule(number, listed, &sight));
        let failed = self.roster.failed.iter().map(|failed| {
            json!({
                "verdict": "failed",
                "on_trial": failed.on_trial,
                "path": shown(&failed.path),
                "why": [failed.reason],
            })
        });
        running.chain(failed).collect()
    }

    /// Ids of the rules that look at a part of their events.
    fn sampled_rules(&self) -> Vec<&str> {
        let rules = self.roster.iter().enumerate();
        let sampled = rules.filter(|(number, _)| self.sampled.contains(number));
        sampled.map(|(_, rule)| &*rule.id).collect()
    }

    pub(super) fn rule(&self, number: usize, listed: &Listed, sight: &Sight) -> Value {
        let rule = &listed.rule;
        let (verdict, why) = verdict(listed, sight);
        let counters = self.counters.get(number).copied().unwrap_or_default();
        let cost = self.costs.get(number).copied().unwrap_or_default();
        json!({
            "id": rule.id,
            "name": rule.name,
            "verdict": verdict.name(),
            "why": why,
            "severity": rule.severity.name(),
            "risk_score": rule.risk_score,
            "on_trial": listed.on_trial,
            "sampled": self.sampled.contains(&number),
            "events_passed_over": self.passed_over.get(number).copied().unwrap_or_default(),
            "path": shown(&rule.path),
            "query": rule.query_text,
            "actions": rule.actions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "generation": self.generation,
            "alerts": self.alerts.get(number).copied().unwrap_or_default(),
            "matches": counters.matches,
            "partials": {
                "open": counters.partials,
                "opened": counters.opened,
                "expired": counters.expired,
                "replaced": counters.replaced,
                "closed": counters.closed,
                "evicted": counters.evicted,
                "keys_left_out": counters.truncated_keys,
            },
            "events": cost.events,
            "engine_ns": cost.nanoseconds,
        })
    }

    /// Kinds of which a counter is not zero.
    fn by_kind(&self, of: fn(&crate::kernel::KindCounters) -> u64) -> Value {
        let kinds = self.kernel.kinds.iter();
        let counted = kinds.map(|(kind, counters)| (kind.name().to_owned(), of(counters)));
        let some = counted.filter(|(_, count)| *count > 0);
        some.map(|(kind, count)| (kind, Value::from(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn hooks_in_use(&self) -> Vec<Value> {
        let attached = self.hooks.iter().filter(|h| h.state == HookState::Attached);
        attached
            .map(|hook| {
                json!({
                    "kind": hook.kind.name(),
                    "hook": hook.hook,
                    "blind_to": hook.blind_to,
                })
            })
            .collect()
    }

    fn not_wanted(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&str> = Vec::new();
        let unwanted = self
            .hooks
            .iter()
            .filter(|h| h.state == HookState::NotWanted);
        for hook in unwanted {
            if !kinds.contains(&hook.kind.name()) {
                kinds.push(hook.kind.name());
            }
        }
        kinds
    }

    /// What the processes of each program made the sensor do, by rule and by program: the document of `top`.
    #[must_use]
    pub fn top(&self) -> Value {
        let rules = self
            .roster
            .rules
            .iter()
            .enumerate()
            .map(|(number, listed)| {
                let cost = self.costs.get(number).copied().unwrap_or_default();
                let mut name = listed.rule.name.clone();
                if listed.on_trial {
                    name += ON_TRIAL;
                }
                json!({
                    "name": name,
                    "events": cost.events,
                    "engine_ns": cost.nanoseconds,
                    "alerts": self.alerts.get(number).copied().unwrap_or_default(),
                })
            });
        let programs = self.programs.iter().map(|program| {
            json!({
                "name": &*program.name,
                "events": program.events,
                "engine_ns": program.nanoseconds,
                "alerts": program.alerts,
            })
        });
        json!({
            "uptime_ms": u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX),
            "records": self.received,
            "lost": self.lost,
            "rules": rules.collect::<Vec<Value>>(),
            "programs": programs.collect::<Vec<Value>>(),
        })
    }
}
