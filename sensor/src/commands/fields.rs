//! `fields`: every field an event can carry, from the schema.
//!
//! In: a pattern. Out: the fields it fits on standard output, as a table for people or one JSON document. The table is also
//! the one in `rules/README.md`, so nothing is said here that is not in the schema.

use std::fmt::Write as _;

use anyhow::anyhow;
use serde_json::json;

use super::{Exit, Failure, print};
use crate::cli::{FieldsArgs, ReportFormat};
use crate::eql::pattern;
use crate::event::{FIELDS, FieldRow, Kind};

/// Runs `fields`.
///
/// # Errors
/// No field fits the pattern, or standard output can not be written.
pub fn fields(args: &FieldsArgs) -> Result<Exit, Failure> {
    let rows: Vec<&FieldRow> = FIELDS
        .iter()
        .filter(|row| args.pattern.as_deref().is_none_or(|p| fits(p, row.path)))
        .collect();
    if let (Some(pattern), true) = (&args.pattern, rows.is_empty()) {
        let near = crate::eql::schema::closest(pattern, FIELDS.iter().map(|row| row.path));
        let near = near.map(|near| format!("; did you mean `{near}`?"));
        return Err(Failure {
            exit: Exit::Problems,
            error: anyhow!("no field fits `{pattern}`{}", near.unwrap_or_default()),
        });
    }
    match args.format {
        ReportFormat::Text => print(text(&rows).as_bytes())?,
        ReportFormat::Json => print(format!("{}\n", document(&rows)).as_bytes())?,
    }
    Ok(Exit::Ok)
}

/// With `*` or `?` the whole name must fit, else any part of it; letters' case does not matter.
fn fits(wanted: &str, path: &str) -> bool {
    if pattern::has_wildcard(wanted) {
        return pattern::like(wanted, path, true);
    }
    let path = path.to_ascii_lowercase();
    path.contains(&wanted.to_ascii_lowercase())
}

/// Each field on a line of its own, and how it is obtained below it.
fn text(rows: &[&FieldRow]) -> String {
    let mut text = String::new();
    for row in rows {
        // A String takes any write.
        let _ = writeln!(text, "{}  {}  {}", row.path, kind_of_value(row), kinds(row));
        let _ = writeln!(text, "    {}", row.how);
    }
    text
}

fn document(rows: &[&FieldRow]) -> serde_json::Value {
    let rows = rows.iter().map(|row| {
        let events: Vec<&str> = row.kinds.iter().map(Kind::action).collect();
        json!({
            "field": row.path,
            "type": row.ty.name(),
            "several": has_several(row),
            "events": events,
            "obtained": row.how,
        })
    });
    rows.collect()
}

/// The schema as a table in Markdown.
#[must_use]
pub fn table() -> String {
    let mut table = String::from("| Field | Type | Events | Obtained |\n|---|---|---|---|\n");
    for row in FIELDS {
        let (of, kinds) = (kind_of_value(row), kinds(row));
        let _ = writeln!(table, "| `{}` | {of} | {kinds} | {} |", row.path, row.how);
    }
    table
}

fn has_several(row: &FieldRow) -> bool {
    row.array || row.all_values.is_some()
}

fn kind_of_value(row: &FieldRow) -> String {
    let several = if has_several(row) { ", several" } else { "" };
    format!("{}{several}", row.ty.name())
}

/// Events that carry the field, by `event.action`; whole groups of them by their category.
fn kinds(row: &FieldRow) -> String {
    let carried: Vec<Kind> = row.kinds.iter().collect();
    if carried.len() == Kind::ALL.len() {
        return "all".to_owned();
    }
    let mut left = carried.clone();
    let mut names: Vec<String> = Vec::new();
    for (group, all) in crate::event::Kinds::GROUPS {
        let members: Vec<Kind> = all.iter().collect();
        if members.len() > 1 && members.iter().all(|kind| left.contains(kind)) {
            names.push(format!("all of {group}"));
            left.retain(|kind| !members.contains(kind));
        }
    }
    names.extend(left.iter().map(|kind| kind.action().to_owned()));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_fields() {
        let check = |pattern: &str, path: &str, expected: bool| {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        };
        check("parent", "process.parent.name", true);
        check("Process.Parent", "process.parent.name", true);
        check("process.parent.*", "process.parent.name", true);
        check("parent.*", "process.parent.name", false);
        check("*.name", "process.parent.name", true);
        check("x", "process.parent.name", false);
    }

    #[test]
    fn every_field_says_what_it_is() {
        let rows: Vec<&FieldRow> = FIELDS.iter().collect();
        let text = text(&rows);
        assert_eq!(text.lines().count(), FIELDS.len() * 2);
        assert!(
            text.contains("host.id  keyword  all\n    machine id\n"),
            "{text}"
        );
        assert!(
            text.contains("process.args  keyword, several  all of process"),
            "{text}"
        );
        let document = document(&rows);
        let found = document.as_array().map(Vec::len);
        assert_eq!(found, Some(FIELDS.len()));
        let pid = &document[crate::event::schema::position("process.exit_code").unwrap()];
        assert_eq!(pid["events"], json!(["end"]));
    }
}
