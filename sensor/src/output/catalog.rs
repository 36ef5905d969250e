//! The journal's message catalog: what `journalctl -x` prints below a message.
//!
//! In: rules, and the sensor's own lifecycle messages. Out: the text that `journalctl --update-catalog` compiles. A rule's text
//! can not end its entry or begin another.

use std::fmt::Write as _;

use super::journald::{IDENTIFIER, message_id};
use super::lifecycle::{MOMENTS, Moment};
use crate::rule::Rule;

/// The catalog of rules and lifecycle messages, in the order given; a rule id that came before is left out.
pub fn text<'r>(rules: impl Iterator<Item = &'r Rule>) -> String {
    let mut out = String::from(
        "# What the journal says of eql-sensor's messages; made by: eql-sensor catalog\n",
    );
    let mut seen = std::collections::HashSet::new();
    for moment in MOMENTS {
        seen.insert(moment.message_id.to_owned());
        lifecycle(moment, &mut out);
    }
    for rule in rules {
        let id = message_id(&rule.id);
        if seen.insert(id.clone()) {
            explain(rule, &id, &mut out);
        }
    }
    out
}

fn header(id: &str, subject: &str, out: &mut String) {
    // A String takes any write.
    let _ = write!(
        out,
        "\n-- {id}\nSubject: {}\nDefined-By: {IDENTIFIER}\nDocumentation: man:eql-sensor(8)\n\n",
        one_line(subject)
    );
}

fn lifecycle(moment: &Moment, out: &mut String) {
    header(moment.message_id, moment.subject, out);
    // Our own words: what they name is put in by the journal.
    let _ = writeln!(out, "{}", moment.explanation);
}

fn explain(rule: &Rule, id: &str, out: &mut String) {
    header(id, &rule.name, out);
    let _ = writeln!(
        out,
        "Alert number @SENSOR_ALERT_SEQ@ of severity {}, risk score {}: @MESSAGE@\n",
        rule.severity.name(),
        rule.risk_score
    );
    if let Some(description) = &rule.description {
        body(description, out);
    }
    let techniques: Vec<String> = rule.threats.iter().map(threat).collect();
    if !techniques.is_empty() {
        let _ = writeln!(out, "\nATT&CK: {}", techniques.join("; "));
    }
    if let Some(note) = &rule.note {
        out.push('\n');
        body(note, out);
    }
    list("Known false alarms", &rule.false_positives, out);
    list("References", &rule.references, out);
    let _ = writeln!(
        out,
        "\nThe whole alert: journalctl -o json SENSOR_ALERT_SEQ=@SENSOR_ALERT_SEQ@ SENSOR_RULE_ID={}\n\
         All alerts of this rule: journalctl MESSAGE_ID={id}",
        one_line(&rule.id)
    );
}

fn threat(threat: &crate::rule::Threat) -> String {
    let techniques: Vec<&str> = threat
        .techniques
        .iter()
        .map(|technique| technique.reference.name.as_str())
        .collect();
    let mut text = one_line(&threat.tactic.name);
    if !techniques.is_empty() {
        let _ = write!(text, ": {}", one_line(&techniques.join(", ")));
    }
    text
}

fn list(title: &str, items: &[String], out: &mut String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}:");
    for item in items {
        let _ = writeln!(out, "  - {}", one_line(item));
    }
}

/// Markdown as it reads in a pager. Lines that the catalog's own format would take for a comment or for the start of
/// another entry are changed so that it does not.
fn body(text: &str, out: &mut String) {
    let mut empty = 0;
    for line in text.trim().lines() {
        let line = one_line(line.trim_end());
        let heading = line.trim_start_matches('#');
        let shown = if heading.len() < line.len() {
            let heading = heading.trim();
            if heading.is_empty() {
                String::new()
            } else {
                format!("{heading}:")
            }
        } else if line.starts_with([';', '-']) {
            format!(" {line}")
        } else {
            line
        };
        empty = if shown.is_empty() { empty + 1 } else { 0 };
        if empty < 2 {
            out.push_str(&shown);
            out.push('\n');
        }
    }
}

/// Without control characters, and without what the journal would put a field's value in place of.
fn one_line(text: &str) -> String {
    let next = text.chars().skip(1).map(Some).chain([None]);
    text.chars()
        .zip(next)
        .map(|(c, next)| match c {
            '@' if next.is_some_and(|next| next == '_' || next.is_ascii_uppercase()) => '\u{ff20}',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sample;

    #[test]
    fn an_entry_names_the_rule_and_ends_where_the_next_begins() {
        let id = "64cfca9e-0f6f-4048-8251-9ec56a055e9e";
        let rule = sample::rule("Compiled and run", id, "high");
        let text = text([&*rule, &*rule].into_iter());
        let starts: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-- "))
            .collect();
        assert_eq!(starts.len(), MOMENTS.len() + 1);
        assert_eq!(starts[MOMENTS.len()], "-- 64cfca9e0f6f404882519ec56a055e9e");
        assert!(text.contains("\nSubject: Compiled and run\n"), "{text}");
        assert!(text.contains("ATT&CK: Execution: Interpreter"), "{text}");
    }

    #[test]
    fn the_sensors_own_entries_lead_to_others() {
        let text = text(std::iter::empty());
        let about =
            "journalctl SENSOR_ALERT_SEQ=@SENSOR_ALERT_SEQ@ SENSOR_RULE_ID=@SENSOR_RULE_ID@\n";
        assert!(text.contains(about), "{text}");
        for moment in MOMENTS {
            let starts = moment
                .explanation
                .lines()
                .any(|line| line.starts_with(['#', ';', '-']));
            assert!(!starts, "{}", moment.explanation);
        }
    }

    #[test]
    fn a_text_makes_no_entry_no_comment_and_no_field() {
        let mut out = String::new();
        body(
            "# Triage\n\n\n\n; aside\n-- 00000000000000000000000000000000\nSubject: x\n@_CMDLINE@ root@host",
            &mut out,
        );
        assert_eq!(
            out,
            "Triage:\n\n ; aside\n -- 00000000000000000000000000000000\nSubject: x\n\u{ff20}_CMDLINE@ root@host\n"
        );
    }
}
