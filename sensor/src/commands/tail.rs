//! `tail`: events of the running daemon as they come.
//!
//! In: a query, events from the control socket. Out: JSON lines in a pipe, one readable line for each event on a terminal. What an
//! attacker put into names does nothing to the terminal. Ends with its reader, with `q`, or with the daemon.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::Value;

use super::control::{ask, failure, number, text};
use super::terminal::{Keys, colours, quit_pressed_within};
use super::{Exit, Failure};
use crate::alert::plain;
use crate::cli::TailArgs;
use crate::control::Request;

/// Between two looks for a key; none is missed meanwhile.
const QUIET: Duration = Duration::from_secs(60);

/// Runs `tail`.
///
/// # Errors
/// No daemon answers, it may not be asked, or the query is wrong.
pub fn tail(args: &TailArgs) -> Result<Exit, Failure> {
    let request = Request::Tail {
        query: args.query.clone(),
    };
    let mut answer = ask(&args.control, &request)?;
    // The first line says what can not be seen; or what is wrong with the query.
    if let Some(first) = answer.document().map_err(failure)? {
        let kinds = first.pointer("/not_reported").and_then(Value::as_array);
        let kinds: Vec<&str> = kinds
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !kinds.is_empty() {
            eprintln!(
                "eql-sensor: not reported, since no rule asks for it: {}",
                kinds.join(", ")
            );
        }
    }
    let keys = Keys::take();
    let readable = !args.json && io::stdout().is_terminal();
    if keys.are_there() {
        let hang_up = answer.hang_up().map_err(failure)?;
        // Ends with the process, if nobody presses anything.
        std::thread::spawn(move || {
            while !quit_pressed_within(QUIET) {}
            hang_up();
        });
    }
    let colours = colours();
    let mut out = io::stdout().lock();
    while let Some(line) = answer.line().map_err(failure)? {
        if let Some(dropped) = line.strip_prefix("{\"dropped\":") {
            let count = dropped.trim_end().trim_end_matches('}');
            eprintln!("eql-sensor: {count} events were dropped so far: this reader is slow");
            continue;
        }
        let written = if readable {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            out.write_all(readable_line(&event, colours).as_bytes())
        } else {
            out.write_all(line.as_bytes())
        };
        if written.and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// `12:00:00.123 process exec  gcc (42)  gcc a.c`.
fn readable_line(event: &Value, colours: bool) -> String {
    let time = text(event, "/@timestamp");
    let time = time.split('T').nth(1).unwrap_or(time).trim_end_matches('Z');
    let time: String = time.chars().take(12).collect();
    let category = text(event, "/event/category/0");
    let action = text(event, "/event/action");
    let name = plain(text(event, "/process/name"));
    let pid = number(event, "/process/pid");
    let details = plain(&details(event, category, action));
    let [dim, bold, off] = match colours {
        true => ["\x1b[2m", "\x1b[1m", "\x1b[0m"],
        false => [""; 3],
    };
    format!("{dim}{time}{off} {category:<8}{action:<21} {bold}{name}{off} ({pid})  {details}\n")
}

/// What tells this event from others of its kind.
fn details(event: &Value, category: &str, action: &str) -> String {
    let mut words = String::new();
    match category {
        "file" => {
            let before = text(event, "/file/Ext/original/path");
            if !before.is_empty() {
                let _ = write!(words, "{before} → ");
            }
            words.push_str(text(event, "/file/path"));
        }
        "network" => {
            let question = text(event, "/dns/question/name");
            let end = |side: &str| {
                let ip = text(event, &format!("/{side}/ip"));
                let port = number(event, &format!("/{side}/port"));
                format!("{ip}:{port}")
            };
            let _ = match question {
                "" => write!(words, "{} → {}", end("source"), end("destination")),
                name => write!(words, "{name}"),
            };
        }
        _ if action == "end" => {
            let code = event.pointer("/process/exit_code");
            let _ = write!(words, "exit code {}", code.unwrap_or(&Value::Null));
        }
        _ => words.push_str(text(event, "/process/command_line")),
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let event = json!({
            "@timestamp": "2026-11-25T12:00:00.123456789Z",
            "event": { "category": ["process"], "action": "exec" },
            "process": { "name": "a\x1b[31m", "pid": 42, "command_line": "a\nb \u{202e}c" },
        });
        let line = readable_line(&event, false);
        assert!(line.starts_with("12:00:00.123 process exec "), "{line}");
        let (line, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        let acts = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!line.contains(acts), "{line:?}");
        let event = json!({
            "@timestamp": "2026-11-25T12:00:00Z",
            "event": { "category": ["file"], "action": "rename" },
            "file": { "path": "/b", "Ext": { "original": { "path": "/a" } } },
        });
        assert!(readable_line(&event, false).ends_with("/a → /b\n"));
    }
}
