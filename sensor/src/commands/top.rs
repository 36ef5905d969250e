//! `top`: which rules and which programs the running daemon is busy with.
//!
//! In: two looks at the daemon's counters, some time apart. Out: what was counted between them: a table that is drawn anew on a
//! terminal, or one that is printed in a pipe. It never divides by a time it did not measure.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::Value;

use super::control::{ask, failure, number, text};
use super::terminal::{Keys, colours, size};
use super::{Exit, Failure, print};
use crate::cli::TopArgs;
use crate::control::Request;

/// Lines of each table in a pipe.
const ROWS_PLAIN: usize = 20;
/// Lines around the tables on a terminal.
const ROWS_AROUND: usize = 6;

/// One rule or program between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    events: u64,
    nanoseconds: u64,
    alerts: u64,
}

/// Runs `top`.
///
/// # Errors
/// No daemon answers, or it may not be asked.
pub fn top(args: &TopArgs) -> Result<Exit, Failure> {
    let look =
        || -> Result<Value, Failure> { ask(&args.control, &Request::Top)?.only().map_err(failure) };
    let is_live = std::io::stdout().is_terminal();
    let count = args.count.unwrap_or(if is_live { u64::MAX } else { 1 });
    let interval = Duration::from_secs(args.interval.into());
    let keys = Keys::take();
    let mut before = look()?;
    for _ in 0..count {
        if keys.quit_within(interval) {
            break;
        }
        let now = look()?;
        let table = if is_live {
            let (rows, columns) = size();
            let each = rows.saturating_sub(ROWS_AROUND) / 2;
            let table = table(&before, &now, each.max(1), columns, colours());
            format!("\x1b[H\x1b[2J{table}q quits\n")
        } else {
            table(&before, &now, ROWS_PLAIN, usize::MAX, false)
        };
        print(table.as_bytes())?;
        before = now;
    }
    Ok(Exit::Ok)
}

fn table(before: &Value, now: &Value, rows: usize, columns: usize, colours: bool) -> String {
    let passed = number(now, "/uptime_ms")
        .saturating_sub(number(before, "/uptime_ms"))
        .max(1);
    let per_second = |count: u64| count.saturating_mul(1000) / passed;
    let records = number(now, "/records").saturating_sub(number(before, "/records"));
    let mut out = format!(
        "{} records/s, {} lost\n",
        per_second(records),
        number(now, "/lost")
    );
    let [bold, off] = if colours {
        ["\x1b[1m", "\x1b[0m"]
    } else {
        [""; 2]
    };
    for (path, title) in [("/rules", "RULE"), ("/programs", "PROGRAM")] {
        let head = format!(
            "{:>9} {:>9} {:>7} {title}",
            "EVENTS/S", "ENGINE %", "ALERTS"
        );
        let head: String = head.chars().take(columns).collect();
        let _ = writeln!(out, "{bold}{head}{off}");
        for row in between(before, now, path).iter().take(rows) {
            // Hundredths of a percent of one processor.
            let share = row.nanoseconds / passed / 100;
            let line = format!(
                "{:>9} {:>6}.{:02} {:>7} {}",
                per_second(row.events),
                share / 100,
                share % 100,
                row.alerts,
                row.name
            );
            out.extend(line.chars().filter(|c| !c.is_control()).take(columns));
            out.push('\n');
        }
    }
    out
}

/// What was counted between two looks, the dearest first; what did nothing is left out.
fn between(before: &Value, now: &Value, path: &str) -> Vec<Row> {
    let list = |of| Value::pointer(of, path).and_then(Value::as_array);
    let was: HashMap<&str, &Value> = list(before)
        .into_iter()
        .flatten()
        .map(|row| (text(row, "/name"), row))
        .collect();
    let mut rows: Vec<Row> = list(now)
        .into_iter()
        .flatten()
        .map(|row| {
            let name = text(row, "/name");
            let since = |field: &str| {
                let before = was.get(name).map_or(0, |was| number(was, field));
                number(row, field).saturating_sub(before)
            };
            Row {
                name: name.to_owned(),
                events: since("/events"),
                nanoseconds: since("/engine_ns"),
                alerts: since("/alerts"),
            }
        })
        .filter(|row| row.events + row.alerts > 0)
        .collect();
    rows.sort_by(|a, b| {
        (b.nanoseconds, b.events, &a.name).cmp(&(a.nanoseconds, a.events, &b.name))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_dearest_come_first_and_the_idle_not_at_all() {
        let row = |name: &str, events: u64, ns: u64| json!({ "name": name, "events": events, "engine_ns": ns, "alerts": 0 });
        let before = json!({
            "uptime_ms": 1000, "records": 100, "lost": 0,
            "rules": [row("idle", 9, 9), row("busy", 10, 1_000_000)],
            "programs": [],
        });
        let now = json!({
            "uptime_ms": 3000, "records": 500, "lost": 2,
            "rules": [row("idle", 9, 9), row("busy", 30, 21_000_000), row("new", 4, 500)],
            "programs": [row("/bin/x\x1b[2J", 2, 10)],
        });
        assert_eq!(
            table(&before, &now, 20, usize::MAX, false),
            "200 records/s, 2 lost\n\
             \x20EVENTS/S  ENGINE %  ALERTS RULE\n\
             \x20      10      1.00       0 busy\n\
             \x20       2      0.00       0 new\n\
             \x20EVENTS/S  ENGINE %  ALERTS PROGRAM\n\
             \x20       1      0.00       0 /bin/x[2J\n"
        );
        // A narrow terminal would wrap what is longer.
        let narrow = table(&before, &now, 20, 30, true);
        let shown = narrow.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert!(shown.contains("ALERTS RU\n"), "{narrow}");
        assert!(shown.contains("ALERTS PR\n"), "{narrow}");
        assert!(shown.lines().all(|line| line.len() <= 30), "{narrow}");
    }
}
