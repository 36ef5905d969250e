//! `status`, `reload`, `rules` and `metrics`: what the daemon says of itself, for people and for programs.
//!
//! In: JSON from the control socket. Out: text on a terminal or in a pipe, or the JSON as it came. A daemon that is not there is exit
//! code 69, one that may not be asked is 77.

use std::fmt::Write as _;

use anyhow::anyhow;
use serde_json::Value;

use super::{Exit, Failure, OrExit as _, print, promote, trial};
use crate::cli::{ControlArgs, MetricsArgs, ReloadArgs, RulesArgs, RulesCommand, StatusArgs};
use crate::config::Config;
use crate::control::Request;
use crate::control::client::{self, Answer, AskError};
use crate::control::state::ON_TRIAL;
use crate::document::counted;

/// Runs `status`.
///
/// # Errors
/// No daemon answers, or it may not be asked.
pub fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    let state = ask(&args.control, &Request::Status)?
        .only()
        .map_err(failure)?;
    let text = if args.json {
        format!("{state}\n")
    } else {
        status_text(&state)
    };
    print(text.as_bytes())?;
    Ok(Exit::Ok)
}

/// Runs `reload`.
///
/// # Errors
/// As [`status`].
pub fn reload(args: &ReloadArgs) -> Result<Exit, Failure> {
    let answer = ask(&args.control, &Request::Reload)?
        .only()
        .map_err(failure)?;
    if args.json {
        print(format!("{answer}\n").as_bytes())?;
    } else {
        match answer.pointer("/refused").and_then(Value::as_str) {
            Some(reason) => eprintln!(
                "refused, all goes on as it was ({}): {reason}",
                rules_counted(&answer)
            ),
            None => print(reload_text(&answer).as_bytes())?,
        }
        for problem in texts(&answer, "/problems") {
            eprintln!("{problem}");
        }
    }
    match answer.pointer("/ok").and_then(Value::as_bool) {
        Some(true) => Ok(Exit::Ok),
        _ => Ok(Exit::Problems),
    }
}

/// Runs `rules`.
///
/// # Errors
/// As [`status`].
pub fn rules(args: &RulesArgs) -> Result<Exit, Failure> {
    match &args.command {
        RulesCommand::List { control, json } => {
            let rules = all(ask(control, &Request::Rules)?)?;
            let text = if *json {
                rules.iter().map(|rule| format!("{rule}\n")).collect()
            } else {
                list_text(&rules)
            };
            print(text.as_bytes())?;
            Ok(Exit::Ok)
        }
        RulesCommand::Show {
            rule,
            control,
            json,
        } => {
            let rules = all(ask(control, &Request::Rules)?)?;
            let found = find(&rules, rule)?;
            let text = if *json {
                format!("{found}\n")
            } else {
                rule_text(found)
            };
            print(text.as_bytes())?;
            Ok(Exit::Ok)
        }
        RulesCommand::Trial(args) => trial::trial(args),
        RulesCommand::Promote(args) => promote::promote(args),
        RulesCommand::Drop(args) => promote::drop(args),
    }
}

/// Runs `metrics`.
///
/// # Errors
/// As [`status`].
pub fn metrics(args: &MetricsArgs) -> Result<Exit, Failure> {
    let answer = ask(&args.control, &Request::Metrics)?
        .only()
        .map_err(failure)?;
    print(text(&answer, "/text").as_bytes())?;
    Ok(Exit::Ok)
}

/// Asks the daemon that flags and settings name.
pub(super) fn ask(args: &ControlArgs, request: &Request) -> Result<Answer, Failure> {
    let socket = match &args.control {
        Some(socket) => socket.clone(),
        // Broken settings are no reason not to ask the daemon: it may be why somebody does.
        None => Config::load(args.config.as_deref())
            .map(|config| config.control.socket)
            .unwrap_or_default(),
    };
    let Some(path) = socket.path() else {
        return Err(anyhow!(
            "the settings say that the daemon has no control socket; name one with --control"
        ))
        .or_exit(Exit::Unreachable);
    };
    client::ask(&path, request).map_err(failure)
}

pub(super) fn failure(error: AskError) -> Failure {
    let exit = match error {
        AskError::Unreachable { .. } | AskError::BrokeOff(_) => Exit::Unreachable,
        AskError::NotPermitted { .. } => Exit::Permission,
        AskError::NotJson(_) | AskError::Refused(_) => Exit::Problems,
    };
    Failure {
        exit,
        error: error.into(),
    }
}

/// Every document of an answer.
pub(super) fn all(mut answer: Answer) -> Result<Vec<Value>, Failure> {
    let mut lines = Vec::new();
    while let Some(line) = answer.document().map_err(failure)? {
        lines.push(line);
    }
    Ok(lines)
}

/// The rule of an id, of the beginning of one, or of a name.
fn find<'r>(rules: &'r [Value], wanted: &str) -> Result<&'r Value, Failure> {
    let exact = rules.iter().find(|rule| {
        text(rule, "/id") == wanted || text(rule, "/name").eq_ignore_ascii_case(wanted)
    });
    if let Some(rule) = exact {
        return Ok(rule);
    }
    let mut begin = rules
        .iter()
        .filter(|rule| text(rule, "/id").starts_with(wanted));
    let first = begin.next();
    // A rule on trial may have the id of a live one, which comes first.
    let other = begin.find(|rule| Some(text(rule, "/id")) != first.map(|rule| text(rule, "/id")));
    match (first, other) {
        (Some(rule), None) => Ok(rule),
        (Some(_), Some(_)) => Err(anyhow!("several rules have ids that begin with `{wanted}`"))
            .or_exit(Exit::Problems),
        _ => Err(anyhow!(
            "no rule of the daemon is `{wanted}`; `eql-sensor rules list` names them"
        ))
        .or_exit(Exit::Problems),
    }
}

pub(super) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

pub(super) fn texts<'v>(value: &'v Value, path: &str) -> Vec<&'v str> {
    let list = value.pointer(path).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// `name 3, other 4`, of an object of counts.
fn counts(value: &Value, path: &str) -> String {
    let object = value.pointer(path).and_then(Value::as_object);
    let parts: Vec<String> = object
        .into_iter()
        .flatten()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    parts.join(", ")
}

fn status_text(state: &Value) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // A String takes any write.
        let _ = writeln!(out, "{name:<12}{value}");
    };
    row(
        "daemon",
        format!(
            "eql-sensor {}, pid {}, up {}",
            text(state, "/version"),
            number(state, "/pid"),
            duration(number(state, "/uptime_s"))
        ),
    );
    let mut rules = format!("{} loaded", number(state, "/rules/loaded"));
    for verdict in ["armed", "degraded", "blind", "stale", "failed", "skipped"] {
        let count = number(state, &format!("/rules/{verdict}"));
        if count > 0 {
            let _ = write!(rules, ", {count} {verdict}");
        }
    }
    let sampled = state.pointer("/rules/sampled").and_then(Value::as_array);
    if let Some(sampled) = sampled.filter(|sampled| !sampled.is_empty()) {
        // A String takes any write.
        let _ = write!(rules, ", {} too dear and sampled", sampled.len());
    }
    let on_trial = number(state, "/rules/on_trial");
    if on_trial > 0 {
        let _ = write!(rules, "; {on_trial} on trial");
    }
    row("rules", rules);
    row("generation", number(state, "/generation").to_string());
    if !text(state, "/settings_stale").is_empty() {
        let why = text(state, "/settings_stale");
        row("settings", format!("the last good ones: {why}"));
    }
    row(
        "events",
        format!(
            "{} records/s, {} records, {} events",
            number(state, "/events/per_second"),
            number(state, "/events/records"),
            number(state, "/events/made")
        ),
    );
    let mut lost = number(state, "/lost/total").to_string();
    let kinds = counts(state, "/lost/kinds");
    if !kinds.is_empty() {
        let _ = write!(lost, " ({kinds})");
    }
    row("lost", lost);
    let throttled = counts(state, "/left_out/throttled");
    if !throttled.is_empty() {
        row("throttled", throttled);
    }
    row(
        "alerts",
        format!(
            "{}, {} hidden",
            number(state, "/alerts"),
            number(state, "/hidden")
        ),
    );
    let outputs = state.pointer("/outputs").and_then(Value::as_array);
    for output in outputs.into_iter().flatten() {
        row(
            "output",
            format!(
                "{}: {} written, {} of them waiting on disk, {} dropped",
                text(output, "/output"),
                number(output, "/written"),
                number(output, "/waiting"),
                number(output, "/dropped")
            ),
        );
    }
    if let Some(response) = response_text(state) {
        row("response", response);
    }
    row(
        "partials",
        format!(
            "{} open, {} evicted, {} keys left out",
            number(state, "/partials/open"),
            number(state, "/partials/evicted"),
            number(state, "/partials/keys_left_out")
        ),
    );
    row(
        "processes",
        format!(
            "{} known, {} evicted, {} unknown",
            number(state, "/processes/known"),
            number(state, "/processes/evicted"),
            number(state, "/processes/unknown")
        ),
    );
    let hooks = state.pointer("/hooks").and_then(Value::as_array);
    let mut named: Vec<&str> = Vec::new();
    for hook in hooks.into_iter().flatten() {
        if !named.contains(&text(hook, "/hook")) {
            named.push(text(hook, "/hook"));
        }
    }
    row("hooks", named.join(", "));
    let not_attached = texts(state, "/not_attached");
    if !not_attached.is_empty() {
        row("not asked", not_attached.join(", "));
    }
    out
}

/// What is done about alerts, while anything is or has been.
fn response_text(state: &Value) -> Option<String> {
    let words = ["killed", "dry_run", "ended", "refused", "failed", "limited"];
    let counted = words.map(|word| (word, number(state, &format!("/response/{word}"))));
    let mode = text(state, "/response/mode");
    if matches!(mode, "" | "off") && counted.iter().all(|(_, count)| *count == 0) {
        return None;
    }
    let mut out = mode.replace('_', " ");
    for (word, count) in counted {
        if count > 0 {
            let _ = write!(out, ", {count} {}", word.replace('_', " "));
        }
    }
    Some(out)
}

/// The two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {rest} s")
    } else {
        format!("{rest} s")
    }
}

pub(super) fn reload_text(answer: &Value) -> String {
    let mut out = String::new();
    let count = |path: &str| texts(answer, path).len();
    let trial = match number(answer, "/on_trial") {
        0 => String::new(),
        count => format!(", {count} on trial"),
    };
    let _ = writeln!(
        out,
        "generation {}: {}{trial}, {} added, {} changed, {} removed, {} unchanged; partial matches: {} kept, {} given up; {} ms",
        number(answer, "/generation"),
        rules_counted(answer),
        count("/added"),
        count("/changed"),
        count("/removed"),
        number(answer, "/unchanged"),
        number(answer, "/partials_kept"),
        number(answer, "/partials_left"),
        number(answer, "/milliseconds"),
    );
    for (path, mark) in [
        ("/added", "added"),
        ("/changed", "changed"),
        ("/removed", "removed"),
        ("/stale", "last good version runs"),
        ("/failed", "failed"),
        ("/attached", "now reported"),
        ("/blind", "blind until the next start"),
        ("/restart", "takes a restart to apply"),
    ] {
        for name in texts(answer, path) {
            let _ = writeln!(out, "  {mark}: {name}");
        }
    }
    out
}

fn rules_counted(answer: &Value) -> String {
    let count = usize::try_from(number(answer, "/rules"));
    counted(count.unwrap_or(usize::MAX), "rule")
}

fn list_text(rules: &[Value]) -> String {
    let mut out = format!(
        "{:<9} {:>7} {:>8} {:>9} {:>9}  {:<36}  NAME\n",
        "VERDICT", "ALERTS", "EVICTED", "EVENTS", "COST", "ID"
    );
    for rule in rules {
        let (id, name) = match text(rule, "/id") {
            "" => ("-", text(rule, "/path")),
            id => (id, text(rule, "/name")),
        };
        let trial = match rule.pointer("/on_trial") {
            Some(Value::Bool(true)) => ON_TRIAL,
            _ => "",
        };
        let _ = writeln!(
            out,
            "{:<9} {:>7} {:>8} {:>9} {:>9}  {id:<36}  {name}{trial}",
            text(rule, "/verdict"),
            number(rule, "/alerts"),
            number(rule, "/partials/evicted"),
            number(rule, "/events"),
            time(number(rule, "/engine_ns")),
        );
    }
    out
}

/// Nanoseconds in the unit that suits.
pub(super) fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{} us", nanoseconds / 1000),
        1_000_000..10_000_000_000 => format!("{} ms", nanoseconds / 1_000_000),
        _ => format!("{} s", nanoseconds / 1_000_000_000),
    }
}

fn rule_text(rule: &Value) -> String {
    let mut out = String::new();
    for (name, path) in [
        ("name", "/name"),
        ("id", "/id"),
        ("file", "/path"),
        ("verdict", "/verdict"),
        ("severity", "/severity"),
    ] {
        let _ = writeln!(out, "{name:<12}{}", text(rule, path));
    }
    for why in texts(rule, "/why") {
        let _ = writeln!(out, "{:<12}{why}", "because");
    }
    for (name, path) in [
        ("generation", "/generation"),
        ("alerts", "/alerts"),
        ("matches", "/matches"),
        ("events", "/events"),
        ("open", "/partials/open"),
        ("opened", "/partials/opened"),
        ("expired", "/partials/expired"),
        ("closed", "/partials/closed"),
        ("evicted", "/partials/evicted"),
    ] {
        let _ = writeln!(out, "{name:<12}{}", number(rule, path));
    }
    for action in texts(rule, "/actions") {
        let _ = writeln!(out, "{:<12}{action}", "action");
    }
    let cost = time(number(rule, "/engine_ns"));
    let _ = writeln!(out, "{:<12}{cost}\n", "cost");
    out.push_str(text(rule, "/query").trim_end());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_is_found_by_what_tells_it_apart() {
        let rules = [
            json!({ "id": "abc-1", "name": "One" }),
            json!({ "id": "abd-2", "name": "Two" }),
        ];
        for (wanted, expected) in [
            ("abc-1", Some("One")),
            ("abd", Some("Two")),
            ("two", Some("Two")),
            ("ab", None),
            ("x", None),
        ] {
            let found = find(&rules, wanted).ok().map(|rule| text(rule, "/name"));
            assert_eq!(found, expected, "{wanted}");
        }
    }

    #[test]
    fn what_a_reload_did_is_one_line_and_what_it_was_about() {
        let answer = |rules: u32| {
            json!({
                "generation": 2, "rules": rules, "on_trial": 0, "added": ["One (a-1)"], "changed": [], "removed": [],
                "unchanged": rules - 1, "partials_kept": 3, "partials_left": 0, "milliseconds": 12,
            })
        };
        let found = [1, 2].map(|rules| reload_text(&answer(rules)));
        let rest = "partial matches: 3 kept, 0 given up; 12 ms\n  added: One (a-1)\n";
        let expected = [
            format!("generation 2: 1 rule, 1 added, 0 changed, 0 removed, 0 unchanged; {rest}"),
            format!("generation 2: 2 rules, 1 added, 0 changed, 0 removed, 1 unchanged; {rest}"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn times_come_in_units_that_suit() {
        let found = [0, 999_999, 1_000_000, 10_000_000_000].map(time);
        assert_eq!(found, ["0 us", "999 us", "1 ms", "10 s"]);
        let found = [5, 65, 3_660, 90_000].map(duration);
        assert_eq!(found, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
