//! `query`: one EQL or KQL query over JSON lines.
//!
//! In: a query and files of events. Out: one JSON line per match, or their number. Inputs of moderate size are put in order
//! of time first, larger ones are read as they come. A broken line is reported and passed over, and makes the command fail.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, Failure, OrExit as _};
use crate::cli::{QueryArgs, SchemaName};
use crate::engine::{Builder, Engine, Limits, Match, Reorder};
use crate::eql::diagnostic::Origin;
use crate::eql::{self, OpenSchema, Schema};
use crate::event::{FieldTable, OwnedValue};
use crate::json_lines::{FlatEvent, LineError, Lines, Options, Reader};
use crate::kql;
use crate::output::json;
use crate::rule::schema::SensorSchema;

/// Inputs up to this many bytes of lines are held and put in order before matching.
const SORTED_BYTES_MAX: u64 = 64 << 20;
/// Broken lines described one by one; the rest is only counted.
const BROKEN_SHOWN_MAX: u64 = 10;
/// Files smaller than this are done before a progress bar could be read.
const PROGRESS_BYTES_MIN: u64 = 32 << 20;

/// Runs `query`.
///
/// # Errors
/// The query is wrong, or a file cannot be read.
pub fn query(args: &QueryArgs) -> Result<Exit, Failure> {
    let (schema, mut table): (&dyn Schema, _) = match args.schema {
        SchemaName::None => (&OpenSchema, FieldTable::empty()),
        SchemaName::Sensor => (&SensorSchema, FieldTable::sensor()),
    };
    let Some(checked) = check(args, schema) else {
        return Ok(Exit::Problems);
    };
    // A recording may hold years between two events; only a live stream gives up waiting for what has no maxspan.
    let mut builder = Builder::new(Limits {
        idle: Duration::MAX,
        ..Limits::default()
    });
    builder.category_field(&args.field_category);
    builder
        .add(0, &checked)
        .context("the query can not be compiled")
        .or_exit(Exit::Problems)?;
    let engine = builder
        .build(&mut table)
        .context("the query can not be compiled")
        .or_exit(Exit::Problems)?;
    let options = Options {
        timestamp: args.field_timestamp.clone(),
        tiebreaker: args.field_tiebreaker.clone(),
    };
    let mut run = Run {
        reader: Reader::new(&table, engine.needed_fields(), &options),
        engine,
        reorder: None,
        held_bytes: 0,
        last_ns: i64::MIN,
        late: 0,
        matches: Vec::new(),
        count: args.count.then_some(0),
        out: BufWriter::with_capacity(1 << 16, io::stdout()),
        line: Vec::new(),
        gone: false,
        broken: 0,
    };
    // Every file is opened before the first is read: a misspelt name should not cost an hour.
    let inputs = args
        .files
        .iter()
        .map(|path| Input::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes: u64 = inputs.iter().map(|i| i.bytes).sum();
    if bytes <= SORTED_BYTES_MAX {
        run.reorder = Some(Reorder::new(Duration::MAX, usize::MAX));
    }
    let progress = progress(bytes);
    for input in inputs {
        run.file(input, &progress)?;
    }
    progress.finish_and_clear();
    run.end()
}

/// The typed query; what is wrong with it has been printed if there is none.
fn check(args: &QueryArgs, schema: &dyn Schema) -> Option<eql::query::Query> {
    let origin = Origin::whole("query");
    let text = args.query.as_str();
    let compiled = if args.kql {
        kql::compile(text, schema)
    } else {
        eql::compile(text, schema, eql::Mode::Replay)
    };
    match compiled {
        Ok(checked) => {
            for diagnostic in &checked.warnings {
                eprint!("{}", diagnostic.render(text, &origin));
            }
            Some(checked.query)
        }
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                eprint!("{}", diagnostic.render(text, &origin));
            }
            None
        }
    }
}

struct Input {
    path: PathBuf,
    source: Box<dyn io::Read>,
    bytes: u64,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self {
                path: "standard input".into(),
                source: Box::new(io::stdin()),
                bytes: 0,
            });
        }
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let bytes = file.metadata().map(|m| m.len()).unwrap_or(0);
        Ok(Self {
            path: path.to_owned(),
            source: Box::new(file),
            bytes,
        })
    }
}

/// A bar over all inputs, hidden where nobody would see it or need it.
fn progress(bytes: u64) -> ProgressBar {
    if bytes < PROGRESS_BYTES_MIN || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    let template = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

struct Run {
    reader: Reader,
    engine: Engine<Arc<FlatEvent>>,
    /// `None` when the input is too large to be put in order.
    reorder: Option<Reorder<Arc<FlatEvent>>>,
    held_bytes: u64,
    last_ns: i64,
    late: u64,
    matches: Vec<Match<Arc<FlatEvent>>>,
    /// Matches so far, when only their number is wanted.
    count: Option<u64>,
    out: BufWriter<io::Stdout>,
    line: Vec<u8>,
    /// Nobody reads the output any more.
    gone: bool,
    broken: u64,
}

impl Run {
    fn file(&mut self, input: Input, progress: &ProgressBar) -> Result<(), Failure> {
        let counted = progress.wrap_read(input.source);
        let mut lines = Lines::new(BufReader::with_capacity(1 << 20, counted));
        while !self.gone {
            let next = lines.next_line();
            let Some((line, number)) =
                next.with_context(|| format!("cannot read `{}`", input.path.display()))?
            else {
                break;
            };
            match self.reader.parse(line, number) {
                Ok(event) => self.event(Arc::new(event))?,
                Err(error) => self.broken_line(&input.path, &error),
            }
        }
        Ok(())
    }

    fn broken_line(&mut self, path: &Path, error: &LineError) {
        self.broken += 1;
        if self.broken <= BROKEN_SHOWN_MAX {
            eprintln!("{}:{error}", path.display());
        }
    }

    fn event(&mut self, event: Arc<FlatEvent>) -> Result<(), Failure> {
        let Some(reorder) = &mut self.reorder else {
            return self.act(&event);
        };
        self.held_bytes += event.line().len() as u64;
        let tie = event.tiebreaker().cloned();
        reorder.push(event, tie, |_| {});
        if self.held_bytes > SORTED_BYTES_MAX {
            self.release()?;
        }
        Ok(())
    }

    /// Lets what is held act in order of time; what follows acts as it comes.
    fn release(&mut self) -> Result<(), Failure> {
        let Some(mut reorder) = self.reorder.take() else {
            return Ok(());
        };
        let mut events = Vec::with_capacity(reorder.len());
        reorder.finish(|event| events.push(event));
        events.iter().try_for_each(|event| self.act(event))
    }

    fn act(&mut self, event: &Arc<FlatEvent>) -> Result<(), Failure> {
        use crate::event::Fields as _;
        let time_ns = event.time_ns();
        self.late += u64::from(time_ns < self.last_ns);
        self.last_ns = self.last_ns.max(time_ns);
        self.engine.process(event, &mut self.matches);
        if self.matches.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        if let Some(count) = &mut self.count {
            *count += self.matches.len() as u64;
            self.matches.clear();
            return Ok(());
        }
        for found in self.matches.drain(..) {
            self.line.clear();
            write_match(&found, &mut self.line);
            self.gone |= written(self.out.write_all(&self.line))?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Exit, Failure> {
        self.release()?;
        self.engine.finish(&mut self.matches);
        self.send()?;
        if let Some(count) = self.count {
            self.gone |= written(writeln!(self.out, "{count}"))?;
        }
        self.gone |= written(self.out.flush())?;
        if self.late > 0 {
            eprintln!(
                "{} events were older than one before them; only inputs up to {} MiB are put in order of time",
                self.late,
                SORTED_BYTES_MAX >> 20
            );
        }
        let lost: u64 = self
            .engine
            .counters()
            .iter()
            .map(|c| c.evicted + c.truncated_keys)
            .sum();
        if lost > 0 {
            eprintln!(
                "{lost} partial matches or keys were given up because there were too many: matches can be missing"
            );
        }
        if self.broken > 0 {
            eprintln!("{} lines are no events and were passed over", self.broken);
            return Ok(Exit::Problems);
        }
        Ok(Exit::Ok)
    }
}

/// Whether the reader of the output went away, which is no error: it had enough.
fn written(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(Failure::from(
            anyhow!(error).context("cannot write to standard output"),
        )),
    }
}

/// `{"keys":[..],"events":[..]}`, the events as they were read.
fn write_match(found: &Match<Arc<FlatEvent>>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"keys\":[");
    for (i, key) in found.keys.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_key(key.as_ref(), out);
    }
    out.extend_from_slice(b"],\"events\":[");
    for (i, event) in found.events.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(event.line().trim().as_bytes());
    }
    out.extend_from_slice(b"]}\n");
}

fn write_key(key: Option<&OwnedValue>, out: &mut Vec<u8>) {
    match key {
        None => out.extend_from_slice(b"null"),
        Some(OwnedValue::Str(text)) => json::write_string(text, out),
        Some(OwnedValue::Bool(b)) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Some(OwnedValue::Int(i)) => out.extend_from_slice(i.to_string().as_bytes()),
        Some(OwnedValue::Float(f)) if f.is_finite() => {
            out.extend_from_slice(format!("{f:?}").as_bytes())
        }
        Some(OwnedValue::Float(_)) => out.extend_from_slice(b"null"),
        Some(OwnedValue::Ip(ip)) => json::write_string(&ip.to_string(), out),
        Some(OwnedValue::Date(ns)) => {
            out.push(b'"');
            json::write_date(*ns, out);
            out.push(b'"');
        }
    }
}
