//! Alerts on standard output: a tree for people, or one JSON line for programs.
//!
//! In: alerts. Out: text. Colours only on a terminal, and not when `NO_COLOR` is set. Whatever an attacker put into names
//! has been made harmless by `alert`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::AtomicBool;

use super::{Sink, deed, json};
use crate::alert::{Alert, plain};
use crate::cli::Format;
use crate::event::OwnedValue;
use crate::response::Deed;
use crate::rule::Severity;

/// Standard output, its form chosen once.
pub struct Stdout {
    tree: bool,
    colour: bool,
    text: Vec<u8>,
}

impl Stdout {
    #[must_use]
    pub fn new(format: Format) -> Stdout {
        let terminal = io::stdout().is_terminal();
        Stdout {
            tree: match format {
                Format::Auto => terminal,
                Format::Json => false,
                Format::Tree => true,
            },
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            text: Vec::new(),
        }
    }
}

impl Stdout {
    /// The alert as it is to be printed, its last line ended.
    pub fn render(&mut self, alert: &Alert) -> &[u8] {
        self.text.clear();
        if self.tree {
            let tree = tree(alert, self.colour);
            self.text.extend_from_slice(tree.as_bytes());
        } else {
            json::write_alert(alert, &mut self.text);
            self.text.push(b'\n');
        }
        &self.text
    }
}

impl Sink for Stdout {
    fn write(&mut self, alert: &Alert, _give_up: &AtomicBool) -> io::Result<()> {
        print(self.render(alert))
    }

    fn tell(&mut self, deed: &Deed, _give_up: &AtomicBool) -> io::Result<()> {
        self.text.clear();
        if self.tree {
            let line = deed_line(deed, self.colour);
            self.text.extend_from_slice(line.as_bytes());
        } else {
            deed::write_document(deed, &mut self.text);
            self.text.push(b'\n');
        }
        print(&self.text)
    }
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

fn colour_of(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "\x1b[36m",
        Severity::Medium => "\x1b[33m",
        Severity::High => "\x1b[31m",
        Severity::Critical => "\x1b[1;31m",
    }
}

/// An alert as a tree: headline, sentence, events, processes, rule. Ends with an empty line.
#[must_use]
pub fn tree(alert: &Alert, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (bold, dim, reset) = (paint(BOLD), paint(DIM), paint(RESET));
    let rule = &alert.rule;
    let mut out = String::new();
    // A String takes any write.
    let _ = writeln!(
        out,
        "{}ALERT {}{reset} {bold}{}{reset} {dim}{} #{}{reset}",
        paint(colour_of(rule.severity)),
        rule.severity.name(),
        plain(&rule.name),
        time(alert.wall_ns),
        alert.sequence,
    );
    let sentence = alert.message.strip_prefix(&plain(&rule.name));
    let sentence = sentence.and_then(|rest| rest.strip_prefix(": "));
    let _ = writeln!(out, "│  {}", sentence.unwrap_or(&alert.message));
    for event in &alert.events {
        let when = time(event.wall_ns);
        let when = when.get(11..).unwrap_or(&when);
        let _ = writeln!(
            out,
            "├─ {dim}{when} {}{reset}  {bold}{}{reset}",
            event.act, event.clause
        );
        for (name, text) in &event.details {
            let _ = writeln!(out, "│     {dim}{name:<10}{reset} {text}");
        }
    }
    let _ = writeln!(out, "├─ {dim}processes{reset}  {}", processes(alert));
    for join in &alert.join {
        let values: Vec<String> = join.values.iter().map(|v| value_text(v.as_ref())).collect();
        let _ = writeln!(
            out,
            "├─ {dim}same{reset}  {} = {}",
            join.fields.join(", "),
            values.join(", ")
        );
    }
    if alert.lost > 0 {
        let _ = writeln!(
            out,
            "├─ {}uncertain{reset}  {} kernel records were lost in this window",
            paint(colour_of(Severity::High)),
            alert.lost
        );
    }
    let _ = writeln!(
        out,
        "└─ {dim}rule{reset}  {}  risk {}{}\n",
        plain(&rule.id),
        rule.risk_score,
        techniques(alert)
    );
    out
}

/// What was done, on one line with an empty one behind it.
fn deed_line(deed: &Deed, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let (bold, dim, reset) = (paint(BOLD), paint(DIM), paint(RESET));
    format!(
        "{bold}RESPONSE{reset} {} {dim}{}{reset}\n\n",
        deed.message,
        time(deed.wall_ns)
    )
}

/// `rev (267) ← bash (201) ← sshd (88)`.
fn processes(alert: &Alert) -> String {
    let shown: Vec<String> = alert
        .tree
        .iter()
        .filter(|process| process.pid.is_some() || process.name.is_some())
        .map(|process| {
            let name = process.name.as_deref().or(process.executable.as_deref());
            let name = plain(name.unwrap_or("?"));
            match process.pid {
                Some(pid) => format!("{name} ({pid})"),
                None => name,
            }
        })
        .collect();
    shown.join(" ← ")
}

/// ATT&CK ids, the most exact ones.
fn techniques(alert: &Alert) -> String {
    let mut ids: Vec<&str> = Vec::new();
    for technique in alert
        .rule
        .threats
        .iter()
        .flat_map(|threat| &threat.techniques)
    {
        if technique.subtechniques.is_empty() {
            ids.push(&technique.reference.id);
        }
        ids.extend(technique.subtechniques.iter().map(|sub| sub.id.as_str()));
    }
    if ids.is_empty() {
        return String::new();
    }
    format!("  ATT&CK {}", plain(&ids.join(" ")))
}

pub(super) fn value_text(value: Option<&OwnedValue>) -> String {
    match value {
        Some(OwnedValue::Str(text)) => plain(text),
        Some(OwnedValue::Int(number)) => number.to_string(),
        Some(OwnedValue::Float(number)) => number.to_string(),
        Some(OwnedValue::Bool(flag)) => flag.to_string(),
        Some(OwnedValue::Ip(ip)) => ip.to_string(),
        Some(OwnedValue::Date(ns)) => time(*ns),
        None => "nothing".to_owned(),
    }
}

pub(super) fn time(ns: i64) -> String {
    let mut text = Vec::new();
    // People read milliseconds.
    json::write_date(ns - ns.rem_euclid(1_000_000), &mut text);
    String::from_utf8_lossy(&text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sample;

    #[test]
    fn a_tree_shows_who_what_and_where() {
        let alert = sample::alert(&sample::rule("Rule", "r-1", "medium"), sample::CHAIN, 2);
        let expected = "\
ALERT medium Rule 2026-01-01 00:00:06.000Z #1
│  gcc (pid 262) → ld wrote /tmp/w/rev → ./rev (pid 267) → 203.0.113.5:4444
├─ 00:00:00.000Z process exec  gcc (pid 262)
│     executable /usr/bin/x86_64-linux-gnu-gcc-12
│     command    gcc -o rev rev.c
├─ 00:00:01.000Z file creation  ld wrote /tmp/w/rev
├─ 00:00:05.000Z process exec  ./rev (pid 267)
│     executable /tmp/w/rev
│     directory  /tmp/w
├─ 00:00:06.000Z network connection_attempted  203.0.113.5:4444
├─ processes  rev (267) ← bash (200)
├─ same  process.name, file.name = rev
├─ uncertain  2 kernel records were lost in this window
└─ rule  r-1  risk 47  ATT&CK T1059.004

";
        assert_eq!(tree(&alert, false), expected);
        assert!(!tree(&alert, false).contains('\x1b'));
        assert!(tree(&alert, true).contains("\x1b[33mALERT medium\x1b[0m"));
    }
}
