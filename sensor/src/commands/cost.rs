//! How many events a rule has to look at, by a recording.
//!
//! In: rules, and ECS JSON lines: a recording of the user's, or the small built-in one of an ordinary host. Out: for each rule the
//! share of the events that its first step takes: each of them is an alert, or a partial match to keep. It measures no time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Exit, Failure, OrExit as _};
use crate::document::{Problem, Severity};
use crate::engine::{Builder, Engine, Limits};
use crate::eql::query::{Filter, Form, Query};
use crate::event::FieldTable;
use crate::json_lines::{FlatEvent, Lines, Options, Reader};
use crate::rule::Rule;

/// An ordinary host for a moment: a log-in, a build, timers, a few lookups and connections.
const ORDINARY: &str = include_str!("ordinary.jsonl");
/// Events of a thousand from which on a rule is said to wake on nearly everything.
const WAKES_MAX: u32 = 400;

/// Of a thousand events, those that the first step of each rule takes; in the order of the rules.
///
/// # Errors
/// The recording can not be read; exit code 1.
pub(super) fn wakes(rules: &[Arc<Rule>], events: Option<&Path>) -> Result<Vec<u32>, Failure> {
    let mut builder = Builder::new(Limits::default());
    for (index, rule) in rules.iter().enumerate() {
        if let Some(filter) = first(&rule.query) {
            let query = Query {
                form: Form::Event(filter.clone()),
                pipes: Vec::new(),
            };
            builder.add(index, &query).or_exit(Exit::Problems)?;
        }
    }
    let mut table = FieldTable::sensor();
    let engine = builder.build(&mut table).or_exit(Exit::Problems)?;
    let counted = match events {
        None => count(engine, &table, ORDINARY.as_bytes(), rules.len()),
        Some(path) => {
            let file = std::fs::File::open(path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            count(engine, &table, BufReader::new(file), rules.len())
        }
    };
    Ok(counted.context("cannot read the recording")?)
}

/// What starts a match.
fn first(query: &Query) -> Option<&Filter> {
    match &query.form {
        Form::Event(filter) => Some(filter),
        Form::Sequence(sequence) => sequence.steps.first().map(|step| &step.filter),
        Form::Sample(sample) => sample.steps.first().map(|step| &step.filter),
    }
}

fn count(
    mut engine: Engine<Arc<FlatEvent>>,
    table: &FieldTable,
    input: impl BufRead,
    rules: usize,
) -> std::io::Result<Vec<u32>> {
    let mut reader = Reader::new(table, engine.needed_fields(), &Options::default());
    let mut lines = Lines::new(input);
    let mut taken = vec![0_u64; rules];
    let mut events = 0_u64;
    let mut matches = Vec::new();
    while let Some((line, number)) = lines.next_line()? {
        // A broken line is no event; `replay` names each.
        let Ok(event) = reader.parse(line, number) else {
            continue;
        };
        events += 1;
        engine.process(&Arc::new(event), &mut matches);
        for found in matches.drain(..) {
            if let Some(count) = taken.get_mut(found.rule) {
                *count += 1;
            }
        }
    }
    let share = |count: u64| u32::try_from(count * 1000 / events.max(1)).unwrap_or(1000);
    Ok(taken.into_iter().map(share).collect())
}

/// What to say of a rule that takes so many of a thousand events.
pub(super) fn too_many(rule: &Rule, wakes: u32) -> Option<Problem> {
    let filter = first(&rule.query).filter(|_| wakes > WAKES_MAX)?;
    let (whole, tenth) = (wakes / 10, wakes % 10);
    Some(Problem {
        severity: Severity::Warning,
        code: Some("wakes-often"),
        place: Some(rule.place(filter.span)),
        ..Problem::of_file(
            &rule.path,
            format!("the first step takes {whole}.{tenth} % of all events"),
            Some("name actions, or what the process or file must be"),
        )
    })
}
