//! `replay`: rules against recorded events.
//!
//! In: ECS documents as JSON lines, in order of time. Out: alerts on standard output, or to outputs it waits for. Its only clock is the events' own, so
//! the same input always gives the same alerts. A broken line is reported and passed over, and makes the command fail.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{
    Exit, Failure, OrExit as _, compile, gate, load_config, load_rules, load_tuning, log,
    output_options,
};
use crate::alert;
use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::engine::{Engine, Match, Tally};
use crate::event::{Evidence, FieldTable, Fields as _};
use crate::json_lines::{FlatEvent, LineError, Lines, Options, Reader};
use crate::loss;
use crate::metrics::Gaps;
use crate::output::stdout::Stdout;
use crate::output::{self, Outputs};
use crate::rule::Rule;
use crate::tuning::Gate;

/// Broken lines described one by one; the rest is only counted.
const BROKEN_SHOWN_MAX: u64 = 10;
/// For outputs to write what is waiting, at the end.
const OUTPUTS_MAX: Duration = Duration::from_secs(600);

/// Runs `replay`.
///
/// # Errors
/// Settings or rules can not be used, or a file can not be read.
pub fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    let mut config = load_config(&args.settings)?;
    config.apply_rules(&args.rules);
    config.apply_tuning(&args.tuning);
    let mut rules = load_rules(&args.rules, &config, args.allow_no_rules)?;
    let tuning = load_tuning(&args.tuning, &config)?;
    log(&tuning.apply(&mut rules));
    let mut table = FieldTable::sensor();
    let (rules, engine) = compile(rules, &mut table, &config, args.allow_no_rules)?;
    let gate = gate(&tuning, &rules, &mut table);
    let alerts = alert::Builder::new(&mut table);
    let mut shown = alerts.wanted();
    shown.extend(gate.needed_fields());
    let outputs = outputs(args, &config)?;
    let options = Options::default();
    let mut replay = Replay {
        reader: Reader::new(&table, engine.needed_fields(), &options),
        alert_reader: Reader::new(&table, &shown, &options),
        rules,
        engine,
        gate,
        alerts,
        form: Stdout::new(args.format),
        out: BufWriter::new(io::stdout()),
        outputs,
        matches: Vec::new(),
        gaps: Gaps::default(),
        broken: 0,
    };
    // Every file is opened before the first is read: a misspelt name should not cost an hour.
    let mut inputs = Vec::with_capacity(args.files.len());
    for path in &args.files {
        inputs.push((path, open(path)?));
    }
    for (path, input) in inputs {
        if !replay.file(path, input)? {
            return Ok(Exit::Ok);
        }
    }
    replay.engine.finish(&mut replay.matches);
    if !replay.send()? {
        return Ok(Exit::Ok);
    }
    replay.gate.tell();
    let undelivered = replay.close();
    if replay.broken > 0 {
        tracing::error!("{} lines are no events and were passed over", replay.broken);
    }
    Ok(if replay.broken > 0 || undelivered > 0 {
        Exit::Problems
    } else {
        Exit::Ok
    })
}

/// The outputs that were asked for.
fn outputs(args: &ReplayArgs, config: &Config) -> Result<Option<Outputs>, Failure> {
    if args.outputs.is_empty() {
        return Ok(None);
    }
    let options = output::Options {
        format: args.format,
        ..output_options(config, None)
    };
    let opened = Outputs::open(&args.outputs, &options).or_exit(Exit::Configuration)?;
    opened.note_receipts(None);
    Ok(Some(opened))
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    const BUFFER_BYTES: usize = 1 << 20;
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            io::stdin(),
        )));
    }
    let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

struct Replay {
    /// Keeps what rules read.
    reader: Reader,
    /// Reads the few events of a match again, for what alerts say about them.
    alert_reader: Reader,
    rules: Vec<Arc<Rule>>,
    engine: Engine<Arc<FlatEvent>>,
    /// What overrides and exceptions hide.
    gate: Gate,
    alerts: alert::Builder,
    form: Stdout,
    out: BufWriter<io::Stdout>,
    /// Where alerts go instead of standard output.
    outputs: Option<Outputs>,
    matches: Vec<Match<Arc<FlatEvent>>>,
    /// Stretches in which the recording lacks events, as it says itself.
    gaps: Gaps,
    broken: u64,
}

impl Replay {
    /// `false` when nobody reads the alerts any more.
    fn file(&mut self, path: &Path, input: impl BufRead) -> Result<bool, Failure> {
        let mut lines = Lines::new(input);
        loop {
            let next = lines.next_line();
            let next = next.with_context(|| format!("cannot read `{}`", path.display()))?;
            let Some((line, number)) = next else {
                break;
            };
            if let Some(gap) = loss::read(line) {
                self.gaps.add(gap);
                continue;
            }
            match self.reader.parse(line, number) {
                Ok(event) => self.engine.process(&Arc::new(event), &mut self.matches),
                Err(error) => self.broken_line(path, &error),
            }
            if !self.matches.is_empty() && !self.send()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn broken_line(&mut self, path: &Path, error: &LineError) {
        self.broken += 1;
        if self.broken <= BROKEN_SHOWN_MAX {
            tracing::error!("{}:{error}", path.display());
        }
    }

    fn send(&mut self) -> Result<bool, Failure> {
        for found in alert::merge(std::mem::take(&mut self.matches)) {
            let Some(rule) = self.rules.get(found.rule) else {
                continue;
            };
            let begun = match found.tally {
                Some(Tally::Count { since_ns, .. }) => Some(since_ns),
                _ => found.events.first().map(|first| first.time_ns()),
            };
            let begun = begun.and_then(|time_ns| u64::try_from(time_ns).ok());
            let lost = begun.map_or(0, |time_ns| self.gaps.since(time_ns));
            let reader = &mut self.alert_reader;
            let events = found.events.into_iter().map(|event| whole(reader, event));
            let events: Vec<Arc<dyn Evidence>> = events.collect();
            let wall_ns = events.last().map_or(0, |last| last.time_ns());
            if self.gate.hides(found.rule, &events, wall_ns).is_some() {
                continue;
            }
            let alert = self
                .alerts
                .build(rule, &found.keys, events, found.tally, lost);
            if let Some(outputs) = &self.outputs {
                outputs.send_waiting(&Arc::new(alert));
                continue;
            }
            if !written(self.out.write_all(self.form.render(&alert)))? {
                return Ok(false);
            }
        }
        // Input may be a pipe that is still being written: an alert does not wait for the next.
        self.flush()
    }

    /// Waits for the outputs; returns how many alerts they did not take.
    fn close(&mut self) -> u64 {
        let Some(outputs) = self.outputs.take() else {
            return 0;
        };
        let mut undelivered = 0;
        for (output, count) in outputs.close(OUTPUTS_MAX) {
            if count.dropped > 0 {
                tracing::error!(
                    written = count.written,
                    dropped = count.dropped,
                    "output `{output}` dropped alerts"
                );
            }
            undelivered += count.dropped;
        }
        undelivered
    }

    fn flush(&mut self) -> Result<bool, Failure> {
        written(self.out.flush())
    }
}

/// The event with the fields alerts need.
fn whole(reader: &mut Reader, event: Arc<FlatEvent>) -> Arc<dyn Evidence> {
    match reader.parse(event.line().as_bytes(), 0) {
        Ok(event) => Arc::new(event),
        // It was an event before and is one now; with fewer fields the alert still says what it can.
        Err(_) => event,
    }
}

/// A reader that went away is no error, but the end.
fn written(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::from(
            anyhow::Error::from(error).context("cannot write to standard output"),
        )),
    }
}
