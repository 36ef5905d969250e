//! `rules trial`: what rules on trial would have alerted, what that cost, and where they differ from the live ones.
//!
//! In: the daemon's account of its trials. Out: a table, or one rule with its last alerts; or the JSON as it came. Nothing is changed
//! by looking.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::anyhow;
use serde_json::Value;

use super::control::{all, ask, duration, failure, number, text, texts};
use super::{Exit, Failure, OrExit as _, print};
use crate::cli::{ControlArgs, TrialArgs};
use crate::config::Config;
use crate::control::Request;

const DAY_MS: u64 = 86_400_000;
/// Alerts are not counted up to a day before the rule was at work for so long.
const RATE_AFTER_MS: u64 = 3_600_000;

/// Runs `rules trial`.
///
/// # Errors
/// No daemon answers, it may not be asked, or there is no such rule.
pub(super) fn trial(args: &TrialArgs) -> Result<Exit, Failure> {
    let rules = on_trial(&args.control)?;
    let (documents, text) = match &args.rule {
        None => {
            let text = table(&rules, &place(&args.control));
            (rules, text)
        }
        Some(wanted) => {
            let path = text(find(&rules, wanted)?, "/path").to_owned();
            let request = Request::Trial { path: Some(path) };
            let found = ask(&args.control, &request)?.only().map_err(failure)?;
            let text = account(&found);
            (vec![found], text)
        }
    };
    let out = if args.json {
        documents.iter().map(|rule| format!("{rule}\n")).collect()
    } else {
        text
    };
    print(out.as_bytes())?;
    Ok(Exit::Ok)
}

/// All rules on trial, and files that should be.
pub(super) fn on_trial(control: &ControlArgs) -> Result<Vec<Value>, Failure> {
    all(ask(control, &Request::Trial { path: None })?)
}

/// Where rules on trial go, as far as the settings say.
fn place(control: &ControlArgs) -> String {
    let config = Config::load(control.config.as_deref()).unwrap_or_default();
    let first = config.rules.trial.first();
    first.map_or_else(String::new, |first| first.display().to_string())
}

/// The rule of an id, of the beginning of one, of a name, or of a file by its path or name, with its ending or without.
pub(super) fn find<'r>(rules: &'r [Value], wanted: &str) -> Result<&'r Value, Failure> {
    let is_exact = |rule: &&Value| {
        let path = Path::new(text(rule, "/path"));
        let names = [Some(path.as_os_str()), path.file_name(), path.file_stem()];
        text(rule, "/id") == wanted
            || text(rule, "/name").eq_ignore_ascii_case(wanted)
            || names.into_iter().flatten().any(|name| name == wanted)
    };
    let begins = |rule: &&Value| text(rule, "/id").starts_with(wanted);
    let mut found: Vec<&Value> = rules.iter().filter(is_exact).collect();
    if found.is_empty() {
        found = rules.iter().filter(begins).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(anyhow!(
            "no rule on trial is `{wanted}`; `eql-sensor rules trial` names them"
        )),
        _ => Err(anyhow!(
            "`{wanted}` is {} rules on trial; name one by its file",
            found.len()
        )),
    }
    .or_exit(Exit::Problems)
}

fn table(rules: &[Value], place: &str) -> String {
    if rules.is_empty() {
        return format!("no rule is on trial; one in {place} is, after a reload\n");
    }
    let mut out = format!(
        "{:<9} {:<16} {:>7} {:>8} {:>7} {:>9} {:>8} {:>6} {:>9} {:>9}  NAME\n",
        "VERDICT",
        "SINCE",
        "ALERTS",
        "PER DAY",
        "HIDDEN",
        "EVENTS/S",
        "CPU %",
        "BOTH",
        "NEW ONLY",
        "LIVE ONLY",
    );
    for rule in rules {
        if text(rule, "/id").is_empty() {
            let _ = writeln!(out, "{:<9} {}", text(rule, "/verdict"), text(rule, "/path"));
            continue;
        }
        let compared = |path: &str| match rule.pointer("/beside") {
            None | Some(Value::Null) => "-".to_owned(),
            Some(beside) => number(beside, path).to_string(),
        };
        let since = moment(rule, "/since");
        let _ = writeln!(
            out,
            "{:<9} {:<16} {:>7} {:>8} {:>7} {:>9} {:>8} {:>6} {:>9} {:>9}  {}",
            text(rule, "/verdict"),
            since.get(..16).unwrap_or_default(),
            number(rule, "/alerts"),
            per_day(rule),
            hidden(rule),
            per_second(rule),
            share(rule),
            compared("/both"),
            compared("/only_trial"),
            compared("/only_live"),
            text(rule, "/name"),
        );
    }
    for rule in rules {
        let name = match text(rule, "/name") {
            "" => text(rule, "/path"),
            name => name,
        };
        for why in texts(rule, "/why") {
            let _ = writeln!(out, "{name}: {}: {why}", text(rule, "/verdict"));
        }
        if let Some(asked) = asks(rule) {
            let _ = writeln!(out, "{name}: the kernel reports for it alone: {asked}");
        }
    }
    out
}

/// What the kernel would not report without it.
fn asks(rule: &Value) -> Option<String> {
    let besides = texts(rule, "/asks_besides").into_iter().map(str::to_owned);
    let of_all = texts(rule, "/asks_of_all").into_iter();
    let of_all = of_all.map(|kind| format!("{kind} of all processes"));
    let asked: Vec<String> = besides.chain(of_all).collect();
    Some(asked.join(", ")).filter(|asked| !asked.is_empty())
}

fn hidden(rule: &Value) -> u64 {
    number(rule, "/hidden/by_exceptions") + number(rule, "/hidden/by_rate_limits")
}

/// A time to the millisecond, as people write it.
fn moment(value: &Value, path: &str) -> String {
    const MILLISECONDS: usize = "2026-11-30T17:20:11.000".len();
    let text = text(value, path);
    let short = text.get(..MILLISECONDS).unwrap_or(text);
    format!("{}Z", short.trim_end_matches('Z').replace('T', " "))
}

/// Alerts a day, to a tenth; nothing before there is enough to go by.
fn per_day(rule: &Value) -> String {
    match number(rule, "/worked_ms") {
        ..RATE_AFTER_MS => "-".to_owned(),
        worked => tenths(number(rule, "/alerts").saturating_mul(DAY_MS * 10) / worked),
    }
}

fn per_second(rule: &Value) -> String {
    let worked = number(rule, "/worked_ms").max(1);
    tenths(number(rule, "/events").saturating_mul(10_000) / worked)
}

fn tenths(count: u64) -> String {
    format!("{}.{}", count / 10, count % 10)
}

/// Of one processor, in percent.
fn share(rule: &Value) -> String {
    let worked = number(rule, "/worked_ms").max(1);
    let share = number(rule, "/engine_ns") / worked;
    // Nanoseconds in a millisecond are ten thousandths of a percent.
    format!("{}.{:04}", share / 10_000, share % 10_000)
}

/// Everything about one.
fn account(rule: &Value) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        // A String takes any write.
        let _ = writeln!(out, "{name:<12}{value}");
    };
    row("name", text(rule, "/name").to_owned());
    row("id", text(rule, "/id").to_owned());
    if !text(rule, "/version").is_empty() {
        row("version", text(rule, "/version").to_owned());
    }
    row("file", text(rule, "/path").to_owned());
    row("verdict", text(rule, "/verdict").to_owned());
    for why in texts(rule, "/why") {
        row("because", why.to_owned());
    }
    let worked = duration(number(rule, "/worked_ms") / 1000);
    row(
        "on trial",
        format!("since {}, at work for {worked}", moment(rule, "/since")),
    );
    row(
        "alerts",
        match per_day(rule).as_str() {
            "-" => number(rule, "/alerts").to_string(),
            rate => format!("{}, {rate} a day", number(rule, "/alerts")),
        },
    );
    row(
        "hidden",
        format!(
            "{} by exceptions, {} by rate limits",
            number(rule, "/hidden/by_exceptions"),
            number(rule, "/hidden/by_rate_limits")
        ),
    );
    row(
        "cost",
        format!(
            "{} % of a processor, {} events/s, {} partial matches",
            share(rule),
            per_second(rule),
            number(rule, "/partials/open")
        ),
    );
    if let Some(asked) = asks(rule) {
        row("asks", format!("the kernel reports for it alone: {asked}"));
    }
    if let Some(beside) = rule.pointer("/beside").filter(|beside| beside.is_object()) {
        row("live", text(beside, "/path").to_owned());
        row(
            "compared",
            format!(
                "alerts of both {}, of this one only {}, of the live one only {}",
                number(beside, "/both"),
                number(beside, "/only_trial"),
                number(beside, "/only_live")
            ),
        );
    }
    match rule.pointer("/promotion/to").and_then(Value::as_str) {
        Some(to) => row("promotion", format!("makes it {to}")),
        None => row(
            "promotion",
            "no directory of live rules takes it".to_owned(),
        ),
    }
    for replaced in texts(rule, "/promotion/replaces") {
        row("", format!("in place of {replaced}"));
    }
    alerts(rule, &mut out);
    out
}

fn alerts(rule: &Value, out: &mut String) {
    let list = |path: &str| {
        let list = rule.pointer(path).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    };
    let would = list("/would");
    if !would.is_empty() {
        let _ = writeln!(out, "\nwould have alerted, the last {}:", would.len());
    }
    for one in would {
        let _ = writeln!(out, "{}  {}", moment(one, "/time"), text(one, "/message"));
        if !text(one, "/because").is_empty() {
            let _ = writeln!(out, "    hidden by {}", text(one, "/because"));
        }
        for action in texts(one, "/actions") {
            let _ = writeln!(out, "    asks for {action}");
        }
        if one.pointer("/live_too") == Some(&Value::Bool(true)) {
            let _ = writeln!(out, "    the live rule alerted, too");
        }
        let alert = one.pointer("/alert").unwrap_or(&Value::Null);
        let clauses = texts(alert, "/eql_sensor/alert/summary");
        let events = alert.pointer("/events").and_then(Value::as_array);
        for (event, clause) in events.into_iter().flatten().zip(clauses) {
            let _ = writeln!(
                out,
                "    {} {}  {clause}  {}",
                moment(event, "/@timestamp"),
                text(event, "/event/action"),
                text(event, "/process/entity_id"),
            );
        }
        let joins = alert.pointer("/eql_sensor/alert/join");
        for join in joins.and_then(Value::as_array).into_iter().flatten() {
            let values = join.pointer("/values").unwrap_or(&Value::Null);
            let _ = writeln!(
                out,
                "    same {} = {values}",
                texts(join, "/fields").join(", ")
            );
        }
    }
    let missed = list("/beside/missed");
    if !missed.is_empty() {
        let _ = writeln!(
            out,
            "\nonly the live rule alerted, the last {}:",
            missed.len()
        );
    }
    for one in missed {
        let _ = writeln!(
            out,
            "{}  #{} {}",
            moment(one, "/time"),
            number(one, "/number"),
            text(one, "/message")
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_found_by_id_name_or_file() {
        let rules = [
            json!({ "id": "abc-1", "name": "One", "path": "/etc/t/first.toml" }),
            json!({ "id": "abd-2", "name": "Two", "path": "/etc/t/second.toml" }),
            json!({ "verdict": "failed", "path": "/etc/t/third.toml" }),
        ];
        for (wanted, expected) in [
            ("abc-1", Some(0)),
            ("abd", Some(1)),
            ("two", Some(1)),
            ("first", Some(0)),
            ("third.toml", Some(2)),
            ("/etc/t/second.toml", Some(1)),
            ("ab", None),
            ("x", None),
        ] {
            let found = find(&rules, wanted).ok();
            assert_eq!(found, expected.and_then(|at| rules.get(at)), "{wanted}");
        }
    }

    #[test]
    fn an_account_tells_alerts_and_what_was_missed() {
        let rule = json!({
            "id": "a", "name": "A", "verdict": "armed", "path": "/t/a.toml", "version": "2",
            "since": "2026-11-30T17:20:11.123456789Z", "worked_ms": 65_000, "alerts": 2, "events": 130,
            "engine_ns": 650_000, "hidden": { "by_exceptions": 1, "by_rate_limits": 0 },
            "partials": { "open": 4 }, "asks_of_all": ["creation"],
            "promotion": { "to": "/r/b.toml", "replaces": ["/r/b.toml"] },
            "beside": {
                "path": "/r/b.toml", "both": 1, "only_trial": 1, "only_live": 1,
                "missed": [{ "time": "2026-11-30T17:20:14Z", "number": 7, "message": "B: x" }],
            },
            "would": [{
                "time": "2026-11-30T17:20:13.5Z", "message": "A: x → y", "live_too": true,
                "because": "/e.toml:1: it builds", "actions": ["kill_process process.entity_id: x (pid 7)"],
                "alert": {
                    "events": [
                        { "@timestamp": "2026-11-30T17:20:12.000000001Z", "event": { "action": "exec" }, "process": { "entity_id": "e1" } },
                        { "@timestamp": "2026-11-30T17:20:13.500Z", "event": { "action": "fork" }, "process": { "entity_id": "e2" } },
                    ],
                    "eql_sensor": { "alert": {
                        "summary": ["x", "y"],
                        "join": [{ "fields": ["host.id"], "values": ["h"] }],
                    } },
                },
            }],
        });
        let expected = r#"name        A
id          a
version     2
file        /t/a.toml
verdict     armed
on trial    since 2026-11-30 17:20:11.123Z, at work for 1 min 5 s
alerts      2
hidden      1 by exceptions, 0 by rate limits
cost        0.0010 % of a processor, 2.0 events/s, 4 partial matches
asks        the kernel reports for it alone: creation of all processes
live        /r/b.toml
compared    alerts of both 1, of this one only 1, of the live one only 1
promotion   makes it /r/b.toml
            in place of /r/b.toml

would have alerted, the last 1:
2026-11-30 17:20:13.5Z  A: x → y
    hidden by /e.toml:1: it builds
    asks for kill_process process.entity_id: x (pid 7)
    the live rule alerted, too
    2026-11-30 17:20:12.000Z exec  x  e1
    2026-11-30 17:20:13.500Z fork  y  e2
    same host.id = ["h"]

only the live rule alerted, the last 1:
2026-11-30 17:20:14Z  #7 B: x
"#;
        assert_eq!(account(&rule), expected);
    }

    #[test]
    fn a_table_says_what_it_cost_and_how_it_compares() {
        let rules = [
            json!({
                "id": "a", "name": "A", "verdict": "armed", "since": "2026-11-30T17:20:11.000Z",
                "worked_ms": 7_200_000, "alerts": 3, "events": 3600, "engine_ns": 72_000_000,
                "hidden": { "by_exceptions": 1, "by_rate_limits": 2 },
                "beside": { "both": 2, "only_trial": 1, "only_live": 4 },
            }),
            json!({
                "id": "b", "name": "B", "verdict": "blind", "since": "2026-11-30T17:20:11.000Z",
                "worked_ms": 1000, "alerts": 0, "why": ["no `x`"], "asks_besides": ["creation"], "asks_of_all": ["connect"],
                "beside": null,
            }),
            json!({ "verdict": "failed", "path": "/t/c.toml", "why": ["/t/c.toml:1:2: error: no"] }),
        ];
        let expected = "\
VERDICT   SINCE             ALERTS  PER DAY  HIDDEN  EVENTS/S    CPU %   BOTH  NEW ONLY LIVE ONLY  NAME
armed     2026-11-30 17:20       3     36.0       3       0.5   0.0010      2         1         4  A
blind     2026-11-30 17:20       0        -       0       0.0   0.0000      -         -         -  B
failed    /t/c.toml
B: blind: no `x`
B: the kernel reports for it alone: creation, connect of all processes
/t/c.toml: failed: /t/c.toml:1:2: error: no
";
        assert_eq!(table(&rules, "/t"), expected);
        assert_eq!(
            table(&[], "/t"),
            "no rule is on trial; one in /t is, after a reload\n"
        );
    }
}
