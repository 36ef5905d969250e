//! What was done about alerts, in the forms that outputs write.
//!
//! In: a [`Deed`]. Out: an ECS document, a journal entry, a syslog message. Alerts have numbers; a deed names the number of its alert
//! and has none of its own.

use super::journald::{IDENTIFIER, field, field_bytes, maybe};
use super::json::{ECS_VERSION, Json};
use super::lifecycle::{self, RESPONSE};
use super::syslog::Parts;
use crate::response::{Deed, Outcome};

/// Name of our structured data in syslog.
const DATA_ID: &str = "response@32473";

/// What ECS calls it: action, type and outcome.
fn words(outcome: &Outcome) -> (&'static str, &'static str, &'static str) {
    match outcome {
        Outcome::Killed => ("process_killed", "end", "success"),
        Outcome::DryRun => ("process_kill_dry_run", "info", "unknown"),
        Outcome::Ended => ("process_kill_late", "info", "unknown"),
        Outcome::Refused(_) => ("process_kill_refused", "denied", "failure"),
        Outcome::Failed(_) => ("process_kill_failed", "error", "failure"),
        Outcome::Limited(_) => ("process_kill_limited", "denied", "failure"),
    }
}

/// Appends it as one ECS document.
pub fn write_document(deed: &Deed, out: &mut Vec<u8>) {
    let order = &deed.order;
    let (action, kind, outcome) = words(&deed.outcome);
    let mut json = Json::new(out);
    json.open_object();
    json.key("@timestamp");
    json.date(deed.wall_ns);
    json.text("message", &deed.message);
    json.object("ecs", |json| json.text("version", ECS_VERSION));
    json.object("event", |json| {
        json.text("kind", "event");
        json.text("module", "eql_sensor");
        json.text("dataset", "eql_sensor.response");
        json.strings("category", ["process"].into_iter());
        json.strings("type", [kind].into_iter());
        json.text("action", action);
        json.text("outcome", outcome);
        json.maybe("reason", deed.outcome.reason().as_deref());
    });
    json.object("rule", |json| {
        json.text("id", &order.rule.id);
        json.text("name", &order.rule.name);
    });
    json.object("host", |json| {
        json.text("id", &deed.host.id);
        json.text("name", &deed.host.name);
    });
    json.object("agent", |json| json.text("id", &deed.host.agent_id));
    if let Some(target) = &order.target {
        json.object("process", |json| {
            json.number("pid", target.pid);
            json.text("entity_id", &target.entity_id);
            json.maybe("name", target.name.as_deref());
            json.maybe("executable", target.executable.as_deref());
            json.maybe("command_line", target.command_line.as_deref());
        });
    }
    json.object("eql_sensor", |json| {
        json.object("response", |json| {
            json.text("action", &order.action.to_string());
            json.text("result", deed.outcome.word());
            json.number("alert", order.alert);
            if order.generation > 0 {
                json.number("generation", order.generation);
            }
        });
    });
    json.close_object();
}

/// Appends it as one entry of the journal's native protocol.
pub fn write_entry(deed: &Deed, out: &mut Vec<u8>) {
    let order = &deed.order;
    field(out, "MESSAGE", &deed.message);
    let moment = lifecycle::moment(RESPONSE);
    maybe(out, "MESSAGE_ID", moment.map(|moment| moment.message_id));
    field(out, "PRIORITY", &level(&deed.outcome).to_string());
    field(out, "SYSLOG_IDENTIFIER", IDENTIFIER);
    field(out, "SENSOR_RESPONSE", deed.outcome.word());
    field(out, "SENSOR_ALERT_SEQ", &order.alert.to_string());
    field(out, "SENSOR_RULE_ID", &order.rule.id);
    field(out, "SENSOR_RULE_NAME", &order.rule.name);
    if let Some(target) = &order.target {
        maybe(out, "PROCESS_EXECUTABLE", target.executable.as_deref());
        field(out, "PROCESS_PID", &target.pid.to_string());
        field(out, "PROCESS_ENTITY_ID", &target.entity_id);
    }
    field(out, "HOST_ID", &deed.host.id);
    let mut document = Vec::new();
    write_document(deed, &mut document);
    field_bytes(out, "SENSOR_ECS", &document);
}

/// It as one message of RFC 5424.
#[must_use]
pub fn syslog_message(deed: &Deed) -> String {
    let order = &deed.order;
    let target = order.target.as_ref();
    Parts {
        level: level(&deed.outcome),
        wall_ns: deed.wall_ns,
        host: Some(&deed.host.name),
        id: "response",
        data_id: DATA_ID,
        text: &deed.message,
    }
    .message([
        ("result", Some(deed.outcome.word().to_owned())),
        ("seq", Some(order.alert.to_string())),
        ("rule", Some(order.rule.name.clone())),
        ("ruleId", Some(order.rule.id.clone())),
        (
            "exe",
            target.and_then(|target| target.executable.as_deref().map(str::to_owned)),
        ),
        ("pid", target.map(|target| target.pid.to_string())),
    ])
}

/// What a person should know of is a warning.
fn level(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Failed(_) => 3,
        Outcome::Killed | Outcome::Refused(_) | Outcome::Limited(_) => 4,
        Outcome::DryRun | Outcome::Ended => 5,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::alert::sample;
    use crate::event::Host;
    use crate::response::{Order, Target};

    /// `rev` was killed, whose name would act on a terminal.
    pub(in crate::output) fn deed() -> Deed {
        let rule = sample::rule_that_kills("process where true");
        let order = Order {
            action: rule.actions[0],
            rule,
            alert: 3,
            generation: 2,
            target: Some(Target {
                pid: 267,
                entity_id: "rev-267".into(),
                name: Some("rev".into()),
                executable: Some("/tmp/w/re\nv".into()),
                command_line: Some("./rev -x".to_owned()),
            }),
        };
        Deed {
            wall_ns: 1_767_225_606_000_000_000,
            order,
            outcome: Outcome::Killed,
            host: Arc::new(Host {
                id: "h1".into(),
                name: "web".into(),
                agent_id: "a1".into(),
                ..Host::default()
            }),
            message: "Killed rev (pid 267) after alert 3, as R asks".to_owned(),
        }
    }

    #[test]
    fn a_deed_is_one_ecs_document() {
        let mut out = Vec::new();
        write_document(&deed(), &mut out);
        assert!(!out.contains(&b'\n'));
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({
            "@timestamp": "2026-01-01T00:00:06.000Z",
            "message": "Killed rev (pid 267) after alert 3, as R asks",
            "ecs": {"version": ECS_VERSION},
            "event": {
                "kind": "event", "module": "eql_sensor", "dataset": "eql_sensor.response",
                "category": ["process"], "type": ["end"], "action": "process_killed", "outcome": "success",
            },
            "rule": {"id": "r-1", "name": "R"},
            "host": {"id": "h1", "name": "web"},
            "agent": {"id": "a1"},
            "process": {
                "pid": 267, "entity_id": "rev-267", "name": "rev", "executable": "/tmp/w/re\nv", "command_line": "./rev -x",
            },
            "eql_sensor": {"response": {
                "action": "kill_process process.entity_id", "result": "killed", "alert": 3, "generation": 2,
            }},
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_not_done_says_why() {
        for (outcome, action, of, reason) in [
            (
                Outcome::DryRun,
                "process_kill_dry_run",
                "unknown",
                "dry run",
            ),
            (
                Outcome::Ended,
                "process_kill_late",
                "unknown",
                "it had ended before",
            ),
            (
                Outcome::Failed("why".to_owned()),
                "process_kill_failed",
                "failure",
                "why",
            ),
            (
                Outcome::Limited(2),
                "process_kill_limited",
                "failure",
                "2 within a minute are as many as response.per_minute_max allows",
            ),
        ] {
            let mut deed = deed();
            deed.outcome = outcome;
            deed.order.target = None;
            let mut out = Vec::new();
            write_document(&deed, &mut out);
            let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let event = &found["event"];
            assert_eq!(
                (&event["action"], &event["outcome"], &event["reason"]),
                (&action.into(), &of.into(), &reason.into())
            );
            assert!(found.get("process").is_none());
        }
    }

    #[test]
    fn a_deed_is_an_entry_of_the_journal() {
        let deed = deed();
        let mut document = Vec::new();
        write_document(&deed, &mut document);
        let mut entry = Vec::new();
        write_entry(&deed, &mut entry);
        let id = lifecycle::moment(RESPONSE).unwrap().message_id;
        let expected = format!(
            "MESSAGE={}\nMESSAGE_ID={id}\nPRIORITY=4\nSYSLOG_IDENTIFIER=eql-sensor\nSENSOR_RESPONSE=killed\n\
             SENSOR_ALERT_SEQ=3\nSENSOR_RULE_ID=r-1\nSENSOR_RULE_NAME=R\n\
             PROCESS_EXECUTABLE\n\u{b}\0\0\0\0\0\0\0/tmp/w/re\nv\nPROCESS_PID=267\nPROCESS_ENTITY_ID=rev-267\nHOST_ID=h1\n\
             SENSOR_ECS={}\n",
            deed.message,
            String::from_utf8(document).unwrap(),
        );
        assert_eq!(String::from_utf8(entry).unwrap(), expected);
    }

    #[test]
    fn a_deed_is_a_message_to_syslog() {
        let pid = std::process::id();
        assert_eq!(
            syslog_message(&deed()),
            format!(
                "<84>1 2026-01-01T00:00:06.000Z web eql-sensor {pid} response [response@32473 result=\"killed\" seq=\"3\" \
                 rule=\"R\" ruleId=\"r-1\" exe=\"/tmp/w/re v\" pid=\"267\"] Killed rev (pid 267) after alert 3, as R asks"
            )
        );
    }
}
