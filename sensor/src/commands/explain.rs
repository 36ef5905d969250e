//! `explain`: what a rule needs, and why it matches recorded events or does not.
//!
//! In: a rule, and events or alerts, of files or the running daemon. Out: text or JSON on standard output. Nothing here decides anything: `engine::explain` does,
//! and `output::explanation` words it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde_json::Value as Json;

use super::control::{ask, failure, text, texts};
use super::explain_form;
use super::explained::{self, Explained, Recording};
use super::{Exit, Failure, OrExit as _, load_config, load_rules, log, print};
use crate::cli::{ControlArgs, ExplainArgs, ReportFormat, RuleArgs};
use crate::config::Config;
use crate::control::Request;
use crate::eql::schema::closest;
use crate::pipeline;
use crate::rule::{self, Rule};

/// Alerts of a file that are explained, the newest.
const ALERTS_MAX: usize = 3;
/// Broken lines described one by one.
const BROKEN_SHOWN_MAX: usize = 10;

/// Runs `explain`.
///
/// # Errors
/// There is no such rule, or the events can not be read.
pub fn explain(args: &ExplainArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.settings)?;
    let rule = find(&args.rule, &args.rules, &config)?;
    if args.running {
        let mut explained = explained::explain(&rule, &running(args, &rule)?, &config)?;
        explained.explanation.unit = "event";
        return events(args, explained);
    }
    let Some(path) = &args.events else {
        let form = explain_form::Form::of(&rule).or_exit(Exit::Problems)?;
        match args.format {
            ReportFormat::Text => print(form.text().as_bytes())?,
            ReportFormat::Json => print(format!("{}\n", form.json()).as_bytes())?,
        }
        return Ok(Exit::Ok);
    };
    let recording = Recording::read(path)?;
    let alerts = alerts(&recording);
    if alerts.is_empty() {
        let explained = explained::explain(&rule, &recording, &config)?;
        return events(args, explained);
    }
    let all = alerts.len();
    let of_rule: Vec<Recording> = alerts
        .into_iter()
        .filter(|(id, _)| *id == rule.id)
        .map(|(_, events)| events)
        .collect();
    if of_rule.is_empty() {
        return Err(Failure::from(anyhow!(
            "none of the {all} alerts in `{}` is of the rule `{}`",
            path.display(),
            rule.id
        )));
    }
    let mut exit = Exit::Ok;
    let left_out = of_rule.len().saturating_sub(ALERTS_MAX);
    if left_out > 0 {
        tracing::warn!("{left_out} older alerts of the rule are left out");
    }
    for recording in of_rule.iter().skip(left_out) {
        let mut explained = explained::explain(&rule, recording, &config)?;
        explained.explanation.unit = "event";
        if events(args, explained)? != Exit::Ok {
            exit = Exit::Problems;
        }
    }
    Ok(exit)
}

/// The last events of the daemon. What the rule reads and the daemon does not report is said.
fn running(args: &ExplainArgs, rule: &Rule) -> Result<Recording, Failure> {
    let control = ControlArgs {
        control: args.control.clone(),
        config: args.settings.path.clone(),
    };
    let mut answer = ask(&control, &Request::Recent)?;
    let first = answer.document().map_err(failure)?.unwrap_or_default();
    let wanted = pipeline::records_for(rule.interest());
    let mut not_reported = texts(&first, "/not_reported");
    not_reported.retain(|name| {
        let mut kinds = sensor_ebpf::Kind::ALL.iter();
        kinds.any(|kind| kind.name() == *name && wanted.contains(*kind))
    });
    if !not_reported.is_empty() {
        tracing::warn!(
            "not reported, since no rule of the daemon asks for it: {}",
            not_reported.join(", ")
        );
    }
    let mut lines = Vec::new();
    while let Some(line) = answer.line().map_err(failure)? {
        lines.push((lines.len() as u64 + 1, line.trim_end().to_owned()));
    }
    let times = [lines.first(), lines.last()].map(|line| {
        let event = line.and_then(|(_, line)| serde_json::from_str::<Json>(line).ok());
        event.map(|event| text(&event, "/@timestamp").to_owned())
    });
    let source = match times {
        [Some(from), Some(to)] => format!("the running daemon, {from} to {to}"),
        _ => return Err(Failure::from(anyhow!("the running daemon keeps no events"))),
    };
    Ok(Recording { source, lines })
}

fn events(args: &ExplainArgs, mut explained: Explained) -> Result<Exit, Failure> {
    let explanation = &mut explained.explanation;
    let source = &explanation.source;
    for (number, message) in explained.broken.iter().take(BROKEN_SHOWN_MAX) {
        tracing::error!("{source}:{number}: no event: {message}");
    }
    let text = match args.event {
        None => match args.format {
            ReportFormat::Text => explanation.text(),
            ReportFormat::Json => format!("{}\n", explanation.json()),
        },
        Some(number) => {
            let unit = explanation.unit;
            let at = explanation.lines.iter().position(|line| *line == number);
            let at = at.with_context(|| format!("`{source}` has no event in {unit} {number}"))?;
            match args.format {
                ReportFormat::Text => explanation.one_event(at),
                ReportFormat::Json => format!("{}\n", explanation.json_event(at)),
            }
        }
    };
    print(text.as_bytes())?;
    if explained.broken.is_empty() {
        Ok(Exit::Ok)
    } else {
        let count = explained.broken.len();
        tracing::error!("{count} lines are no events and were passed over");
        Ok(Exit::Problems)
    }
}

/// The rule of a file, or the loaded one with this id or name.
pub(super) fn find(wanted: &Path, rules: &RuleArgs, config: &Config) -> Result<Arc<Rule>, Failure> {
    if wanted.is_file() {
        let loaded = rule::load(&[wanted.to_owned()]);
        log(&loaded.problems);
        if let Some(skipped) = loaded.skipped.first() {
            return Err(Failure::from(anyhow!(
                "`{}` is skipped: {}",
                wanted.display(),
                skipped.reason
            )));
        }
        let rule = loaded.rules.into_iter().next();
        return Ok(rule.with_context(|| format!("`{}` does not load", wanted.display()))?);
    }
    let name = wanted.to_string_lossy();
    let loaded = load_rules(rules, config, true)?;
    let is_it = |rule: &&Arc<Rule>| rule.id == name || rule.name.eq_ignore_ascii_case(&name);
    if let Some(found) = loaded.iter().find(is_it) {
        return Ok(Arc::clone(found));
    }
    let names = loaded.iter().map(|rule| rule.name.as_str());
    let near = closest(&name, names).map(|near| format!("; did you mean `{near}`?"));
    Err(Failure::from(anyhow!(
        "`{name}` is neither a file nor the id or name of one of the {} loaded rules{}",
        loaded.len(),
        near.unwrap_or_default()
    )))
}

/// The alerts of a file with the ids of their rules and their events; none when it holds events.
pub(super) fn alerts(recording: &Recording) -> Vec<(String, Recording)> {
    let documents = recording.lines.iter().map_while(|(number, line)| {
        let document: Json = serde_json::from_str(line).ok()?;
        (document.pointer("/event/kind")? == "alert").then_some((*number, document))
    });
    let one = |(number, document): (u64, Json)| {
        let id = document.pointer("/rule/id")?.as_str()?.to_owned();
        let events = document.get("events")?.as_array()?;
        let lines = (1..).zip(events.iter().map(Json::to_string)).collect();
        let alert = document.pointer("/event/sequence").and_then(Json::as_u64);
        let name = alert.map_or(format!("line {number}"), |alert| format!("alert #{alert}"));
        let source = format!("{}, {name}", recording.source);
        Some((id, Recording { source, lines }))
    };
    documents.filter_map(one).collect()
}
