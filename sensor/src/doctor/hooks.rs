//! Which record kinds this kernel gives, by which hooks, and what each can not see.
//!
//! In: the report of every hook after loading. Out: one line and one JSON object for each kind. A kind without a hook is named
//! with what the kernel said of each one that was tried.

use sensor_ebpf::Kind;
use serde_json::{Value, json};

use super::Line;
use crate::kernel::{HookReport, HookState, is_required};

/// One record kind, as its hooks stand.
struct Served<'a> {
    kind: Kind,
    attached: Vec<&'a HookReport>,
    refused: Vec<String>,
    blind_to: Vec<&'static str>,
    is_asked_for: bool,
}

fn served<'a>(reports: &'a [HookReport], not_asked_for: &[Kind]) -> Vec<Served<'a>> {
    Kind::ALL
        .iter()
        .filter(|kind| reports.iter().any(|report| report.kind == **kind))
        .map(|&kind| {
            let of_kind = || reports.iter().filter(move |report| report.kind == kind);
            let attached: Vec<&HookReport> = of_kind()
                .filter(|report| report.state == HookState::Attached)
                .collect();
            let mut blind_to: Vec<&str> = Vec::new();
            for blind in attached.iter().flat_map(|report| report.blind_to) {
                if !blind_to.contains(blind) {
                    blind_to.push(blind);
                }
            }
            Served {
                kind,
                refused: of_kind().filter_map(refusal).collect(),
                blind_to,
                attached,
                is_asked_for: !not_asked_for.contains(&kind),
            }
        })
        .collect()
}

fn refusal(report: &HookReport) -> Option<String> {
    match &report.state {
        HookState::Refused(reason) => Some(format!("{}: {reason}", report.hook)),
        _ => None,
    }
}

impl Served<'_> {
    fn tier(&self) -> &'static str {
        match self.attached.first() {
            None => "none",
            Some(first) if first.trampoline => "trampolines",
            Some(_) => "tracepoints",
        }
    }

    fn hooks(&self) -> Vec<&str> {
        self.attached.iter().map(|report| &*report.hook).collect()
    }

    fn line(&self) -> Line {
        let name = self.kind.name();
        if self.attached.is_empty() {
            if self.refused.is_empty() {
                let text = "not tried: nothing asked for it";
                return Line::warn(
                    name,
                    text,
                    "ask for it, and see whether the kernel gives it",
                );
            }
            let reasons = self.refused.join("; ");
            let text = format!("this kernel does not give it: {reasons}");
            return if is_required(self.kind) {
                let advice = "boot a kernel that takes function trampolines or has the tracepoint";
                Line::fail(name, text, advice)
            } else {
                let advice =
                    "rules that need it are blind on this kernel; `eql-sensor check` names them";
                Line::warn(name, text, advice)
            };
        }
        let mut text = format!("{} ({})", self.hooks().join(", "), self.tier());
        if !self.is_asked_for {
            text += "; no rule asks for it, so `run` leaves it out";
        }
        if self.blind_to.is_empty() {
            return Line::ok(name, text);
        }
        text += &format!("; does not see {}", self.blind_to.join(", nor "));
        let advice = match self.refused.is_empty() {
            true => "nothing: there is no hook here that sees more".to_owned(),
            false => format!(
                "a kernel that takes function trampolines sees more; here: {}",
                self.refused.join("; ")
            ),
        };
        Line::warn(name, text, advice)
    }
}

pub(super) fn lines(reports: &[HookReport], not_asked_for: &[Kind]) -> Vec<Line> {
    let all = served(reports, not_asked_for);
    all.iter().map(Served::line).collect()
}

pub(super) fn kinds(reports: &[HookReport], not_asked_for: &[Kind]) -> Vec<Value> {
    let all = served(reports, not_asked_for);
    all.iter()
        .map(|of| {
            json!({
                "kind": of.kind.name(),
                "attached": !of.attached.is_empty(),
                "required": is_required(of.kind),
                "tier": of.tier(),
                "hooks": of.hooks(),
                "blind_to": of.blind_to,
                "refused": of.refused,
                "asked_for": of.is_asked_for,
            })
        })
        .collect()
}
