//! One rule over events that are all at hand: its matches, and everything there is to say of them.
//!
//! In: a rule and lines of a recording, of a test or of an alert. Out: an [`Explanation`]. The matches are the engine's own, as
//! `replay` would find them in events put in order of time. Lines that are no events are left to the caller.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};

use super::{Exit, Failure, OrExit as _, engine_limits};
use crate::alert;
use crate::config::Config;
use crate::engine::explain::{End, Explainer, Shape};
use crate::engine::{self, Engine};
use crate::event::{FieldTable, Fields as _};
use crate::json_lines::{FlatEvent, Lines, Options, Reader};
use crate::loss;
use crate::output::explanation::{Explanation, Matched};
use crate::rule::Rule;

/// Largest recording that is explained, in bytes: all of it is held.
const BYTES_MAX: u64 = 512 << 20;

/// Lines with their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording {
    pub(super) source: String,
    pub(super) lines: Vec<(u64, String)>,
}

impl Recording {
    /// All lines of a file; `-` is standard input.
    ///
    /// # Errors
    /// It can not be read, or is larger than can be held.
    pub(super) fn read(path: &Path) -> Result<Recording, Failure> {
        let cannot = || format!("cannot read `{}`", path.display());
        let source: Box<dyn io::Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).with_context(cannot)?)
        };
        let mut lines = Lines::new(BufReader::new(source.take(BYTES_MAX + 1)));
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some((line, number)) = lines.next_line().with_context(cannot)? {
            bytes += line.len() as u64 + 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                found.push((number, String::from_utf8_lossy(line).into_owned()));
            }
        }
        if bytes > BYTES_MAX {
            return Err(Failure::from(anyhow!(
                "`{}` is larger than {} MiB; cut out the time in question, or try it with replay",
                path.display(),
                BYTES_MAX >> 20
            )));
        }
        let source = match path.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => path.display().to_string(),
        };
        Ok(Recording {
            source,
            lines: found,
        })
    }

    /// Lines that stand in a text.
    pub(super) fn of(source: String, text: &str) -> Recording {
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, line)| !line.trim().is_empty());
        Recording {
            source,
            lines: lines.map(|(n, line)| (n, line.to_owned())).collect(),
        }
    }
}

/// An explanation, and the lines that are no events with what is wrong with each.
pub(super) struct Explained {
    pub(super) explanation: Explanation,
    pub(super) broken: Vec<(u64, String)>,
}

/// Runs a rule over a recording and takes it apart.
///
/// # Errors
/// The engine does not take the rule.
pub(super) fn explain(
    rule: &Arc<Rule>,
    recording: &Recording,
    config: &Config,
) -> Result<Explained, Failure> {
    let limits = engine_limits(config);
    let mut table = FieldTable::sensor();
    let mut builder = engine::Builder::new(limits.clone());
    builder.add(0, &rule.query).or_exit(Exit::Problems)?;
    let mut engine: Engine<Arc<FlatEvent>> = builder.build(&mut table).or_exit(Exit::Problems)?;
    let (query, text) = (&rule.query, &rule.query_text);
    let mut explainer = Explainer::new(query, text, "event.category", limits, &mut table)
        .or_exit(Exit::Problems)?;
    let alerts = alert::Builder::new(&mut table);
    let mut wanted = alerts.wanted();
    wanted.extend(engine.needed_fields());
    wanted.extend(explainer.needed_fields());
    wanted.sort_unstable();
    wanted.dedup();
    let mut reader = Reader::new(&table, &wanted, &Options::default());
    let mut events = Vec::with_capacity(recording.lines.len());
    let mut broken = Vec::new();
    for (number, line) in &recording.lines {
        if loss::read(line.as_bytes()).is_some() {
            continue;
        }
        match reader.parse(line.as_bytes(), *number) {
            Ok(event) => events.push((*number, Arc::new(event))),
            Err(error) => broken.push((*number, error.message)),
        }
    }
    events.sort_by_key(|(_, event)| event.time_ns());
    let mut matches = Vec::new();
    let mut places = HashMap::with_capacity(events.len());
    for (at, (_, event)) in events.iter().enumerate() {
        places.insert(Arc::as_ptr(event), at);
        engine.process(event, &mut matches);
        explainer.push(Arc::clone(event));
    }
    engine.finish(&mut matches);
    let place = |event: &Arc<FlatEvent>| places.get(&Arc::as_ptr(event)).copied();
    let matches = alert::merge(matches).into_iter().map(|group| Matched {
        events: group.events.iter().filter_map(place).collect(),
        keys: group.keys,
    });
    let matches: Vec<Matched> = matches.collect();
    let mut explanation = Explanation::new(Arc::clone(rule), explainer, alerts);
    let complete = match explanation.explainer.shape {
        Shape::Event => explanation.explainer.satisfying(0).next().is_some(),
        Shape::Sequence => {
            let mut partials = explanation.trace.partials.iter();
            partials.any(|partial| partial.end == End::Completed)
        }
        Shape::Sample => false,
    };
    explanation.piped = matches.is_empty() && complete && !query.pipes.is_empty();
    explanation.matches = matches;
    explanation.source.clone_from(&recording.source);
    explanation.lines = events.iter().map(|(number, _)| *number).collect();
    let counters = engine.counters().iter();
    explanation.evicted = counters.map(|c| c.evicted + c.truncated_keys).sum();
    Ok(Explained {
        explanation,
        broken,
    })
}
