//! `eql-sensor record`: live events as ECS JSON lines.
//!
//! In: the kernel's records. Out: one line per event and per stretch of time with losses on standard output, and at the end an account on standard error: a table
//! on a terminal, one JSON document elsewhere. A reader that goes away ends it cleanly; a reader that is slow makes the ring
//! fill, which is counted, and never holds back the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Exit, Failure, OrExit as _, live, load_config};
use crate::cli::RecordArgs;
use crate::enrich::contents;
use crate::event::{Event, Kind, Kinds};
use crate::kernel::Counters;
use crate::loss::GapReport;
use crate::output::json::write_event;
use crate::pipeline::{self, Consumer, Pipeline, Start, Status, Summary};

/// Blocks of lines on their way to the writer.
const BLOCKS_MAX: usize = 4;
/// What the sensor says of itself stands in every recording.
const OF_ITSELF: Kinds = Kinds::NONE
    .with(Kind::ThrottleStarted)
    .with(Kind::ThrottleEnded);
/// For the writer to write what it has, at the end.
const WRITE_MAX: Duration = Duration::from_millis(500);

/// Runs until SIGTERM, SIGINT, or the end of standard output's reader.
///
/// # Errors
/// Settings or flags that can't be, a kernel that refuses, output that can't be written.
pub fn record(args: &RecordArgs) -> Result<Exit, Failure> {
    let mut config = load_config(&args.settings)?;
    config.apply_kernel(&args.kernel).or_exit(Exit::Usage)?;
    let only = args.only.iter().map(|events| events.0).reduce(Kinds::and);
    let runtime = live::runtime()?;
    let (summary, written) = runtime.block_on(async {
        let mut options = pipeline::options(&config.kernel);
        if let Some(only) = only {
            options.kinds = pipeline::records_for(only);
        }
        // A scan of the whole host has no place in a recording of one part of it.
        let wanted = match config.files.record {
            true => contents::Wanted::EVERYTHING,
            false => contents::Wanted::NOTHING,
        };
        let announce_scan = options.scope.is_empty();
        let pipeline = Pipeline::start(Start {
            options: &options,
            processes: &config.processes,
            wanted,
            files: &config.files,
            fault: args.kernel.fault,
            announce_scan,
            check: config.kernel.self_check,
            recalled: None,
            store: None,
        });
        let pipeline = pipeline.map_err(live::failure)?;
        let recorded = only.map_or(Kinds::ALL, |only| only.and(OF_ITSELF));
        let mut recorder = Recorder::start(recorded).context("cannot start the writer")?;
        let ready = |pipeline: &Pipeline| live::ready(pipeline, "recording");
        let ended = pipeline.run(&mut recorder, ready).await;
        let summary = ended.map_err(live::failure)?;
        Ok::<_, Failure>((summary, recorder.finish()))
    })?;
    report(&summary);
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        other => {
            other.context("cannot write to standard output")?;
            Ok(Exit::Ok)
        }
    }
}

/// Makes lines of events and hands blocks of them to a thread that writes.
struct Recorder {
    recorded: Kinds,
    lines: Vec<u8>,
    blocks: Option<mpsc::Sender<Vec<u8>>>,
    outcome: Receiver<io::Result<()>>,
}

impl Recorder {
    fn start(recorded: Kinds) -> io::Result<Recorder> {
        let (blocks, queue) = mpsc::channel(BLOCKS_MAX);
        let (say, outcome) = channel();
        std::thread::Builder::new()
            .name("output stdout".into())
            .spawn(move || {
                // Nobody listens any more only when the whole process is ending.
                let _ = say.send(write_blocks(queue));
            })?;
        Ok(Recorder {
            recorded,
            lines: Vec::new(),
            blocks: Some(blocks),
            outcome,
        })
    }

    /// Waits a little for the writer and says what became of it.
    fn finish(mut self) -> io::Result<()> {
        self.blocks = None;
        match self.outcome.recv_timeout(WRITE_MAX) {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its reader does not read; the last events are not written",
            )),
        }
    }
}

impl Consumer for Recorder {
    fn event(&mut self, event: Event) {
        if !self.recorded.contains(event.kind) {
            return;
        }
        write_event(&event, &mut self.lines);
        self.lines.push(b'\n');
    }

    fn gap(&mut self, gap: &GapReport) {
        gap.write(&mut self.lines);
        self.lines.push(b'\n');
    }

    async fn settle(&mut self, _: &Status) -> ControlFlow<()> {
        let Some(blocks) = &self.blocks else {
            return ControlFlow::Break(());
        };
        if blocks.is_closed() || reader_is_gone() {
            return ControlFlow::Break(());
        }
        if self.lines.is_empty() {
            return ControlFlow::Continue(());
        }
        match blocks.reserve().await {
            Ok(room) => {
                room.send(std::mem::take(&mut self.lines));
                ControlFlow::Continue(())
            }
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn write_blocks(mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    while let Some(block) = queue.blocking_recv() {
        out.write_all(&block)?;
        out.flush()?;
    }
    Ok(())
}

/// Whether standard output is a pipe or socket without a reader; noticed even when there is nothing to write.
fn reader_is_gone() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut watched, Some(&now)).is_ok();
    polled
        && watched
            .iter()
            .any(|fd| fd.revents().intersects(PollFlags::ERR))
}

/// One row of the account.
struct Row {
    name: &'static str,
    seen: u64,
    submitted: u64,
    received: u64,
    lost: u64,
    dropped: u64,
    degraded: u64,
    truncated: u64,
    read_fault: u64,
}

impl Row {
    fn values(&self) -> [(&'static str, u64); 8] {
        [
            ("seen", self.seen),
            ("submitted", self.submitted),
            ("received", self.received),
            ("lost", self.lost),
            ("dropped", self.dropped),
            ("degraded", self.degraded),
            ("truncated", self.truncated),
            ("read_fault", self.read_fault),
        ]
    }
}

fn rows(summary: &Summary) -> Vec<Row> {
    let kernel: &Counters = &summary.kernel;
    let of_kind = |(kind, counters): &(sensor_ebpf::Kind, crate::kernel::KindCounters)| Row {
        name: kind.name(),
        seen: counters.seen,
        submitted: counters.submitted,
        received: summary.received.of(*kind),
        lost: counters.lost_ring_full,
        dropped: counters.dropped(),
        degraded: counters.degraded,
        truncated: counters.truncated,
        read_fault: counters.read_fault,
    };
    kernel.kinds.iter().map(of_kind).collect()
}

/// Totals and rows of what was seen by the programs, submitted to the ring, received from it, lost; `seen` is `submitted`,
/// `lost` and `dropped` (the sensor's own acts, and what was held back) together.
fn report(summary: &Summary) {
    let rows = rows(summary);
    let text = if io::stderr().is_terminal() {
        table(&rows, summary)
    } else {
        document(&rows, summary)
    };
    let _ = io::stderr().write_all(text.as_bytes());
}

fn total(rows: &[Row]) -> [(&'static str, u64); 8] {
    let mut sums = [("", 0); 8];
    for row in rows {
        for (sum, (name, value)) in sums.iter_mut().zip(row.values()) {
            *sum = (name, sum.1 + value);
        }
    }
    sums
}

fn document(rows: &[Row], summary: &Summary) -> String {
    let object = |values: [(&str, u64); 8]| -> serde_json::Map<String, serde_json::Value> {
        values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect()
    };
    let mut document = object(total(rows));
    let kinds: serde_json::Map<_, _> = rows
        .iter()
        .map(|row| (row.name.to_owned(), object(row.values()).into()))
        .collect();
    document.insert("kinds".into(), kinds.into());
    document.insert(
        "recursion_misses".into(),
        summary.kernel.recursion_misses.into(),
    );
    let skipped = summary.kernel.skipped.iter();
    let skipped: serde_json::Map<_, _> = skipped
        .filter(|(_, count)| *count > 0)
        .map(|(program, count)| ((*program).to_owned(), (*count).into()))
        .collect();
    document.insert("skipped".into(), skipped.into());
    document.insert("undecodable".into(), summary.received.undecodable.into());
    document.insert(
        "unknown_kinds".into(),
        summary.received.unknown_kinds.into(),
    );
    document.insert("drained".into(), summary.drained.into());
    let enrich = summary.enrich;
    document.insert(
        "enrich".into(),
        json!({
            "events": enrich.events,
            "unknown_process": enrich.unknown_process,
            "found_in_proc": enrich.found_in_proc,
            "degraded": enrich.degraded,
            "args_completed": enrich.args_completed,
            "args_incomplete": enrich.args_incomplete,
            "images_cut": enrich.images_cut,
            "unconfirmed": enrich.unconfirmed,
            "acts_forgotten": enrich.acts_forgotten,
            "evicted": enrich.evicted,
            "sockets_evicted": enrich.sockets_evicted,
            "unknown_sockets": enrich.unknown_sockets,
            "no_lookups": enrich.no_lookups,
            "processes": enrich.processes,
        }),
    );
    let contents = summary.contents;
    document.insert(
        "files".into(),
        json!({
            "read": contents.read,
            "unread": contents.unread,
            "late": contents.late,
            "refused": contents.refused,
        }),
    );
    format!("{}\n", serde_json::Value::Object(document))
}

fn table(rows: &[Row], summary: &Summary) -> String {
    let mut text = format!("{:<22}", "");
    let sums = total(rows);
    for (name, _) in sums {
        text.push_str(&format!("{name:>11}"));
    }
    text.push('\n');
    let lines = rows.iter().map(|row| (row.name, row.values()));
    for (name, values) in lines.chain([("total", sums)]) {
        text.push_str(&format!("{name:<22}"));
        for (_, value) in values {
            text.push_str(&format!("{value:>11}"));
        }
        text.push('\n');
    }
    if summary.kernel.recursion_misses > 0 {
        for (program, misses) in &summary.kernel.skipped {
            if *misses > 0 {
                text.push_str(&format!(
                    "the kernel skipped {misses} runs of `{program}`; what they would have seen is unknown\n"
                ));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::Kind;

    use super::*;
    use crate::kernel::KindCounters;
    use crate::metrics::Received;

    fn summary() -> Summary {
        let counters = |seen, lost, dropped| KindCounters {
            seen,
            submitted: seen - lost - dropped,
            lost_ring_full: lost,
            dropped_self: dropped,
            ..KindCounters::default()
        };
        let mut received = Received::default();
        for _ in 0..7 {
            received.record(Kind::Exec as u16, 0);
        }
        Summary {
            received,
            kernel: Counters {
                kinds: vec![
                    (Kind::Exec, counters(10, 3, 0)),
                    (Kind::FileCreate, counters(5, 0, 5)),
                ],
                recursion_misses: 2,
                skipped: vec![("file_create", 2), ("process_exec", 0)],
            },
            enrich: crate::enrich::Counters::default(),
            contents: contents::Counters::default(),
            drained: true,
        }
    }

    #[test]
    fn the_account_adds_up() {
        let summary = summary();
        let text = document(&rows(&summary), &summary);
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (path, expected) in [
            ("/seen", 15),
            ("/submitted", 7),
            ("/received", 7),
            ("/lost", 3),
            ("/dropped", 5),
            ("/recursion_misses", 2),
            ("/skipped/file_create", 2),
            ("/kinds/exec/lost", 3),
            ("/kinds/creation/dropped", 5),
        ] {
            assert_eq!(found.pointer(path), Some(&expected.into()), "{path}");
        }
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn the_table_says_what_nobody_could_count() {
        let summary = summary();
        let text = table(&rows(&summary), &summary);
        let total = text.lines().find(|line| line.starts_with("total")).unwrap();
        let numbers: Vec<&str> = total.split_ascii_whitespace().skip(1).collect();
        assert_eq!(numbers, ["15", "7", "7", "3", "5", "0", "0", "0"]);
        assert!(
            text.ends_with(
                "skipped 2 runs of `file_create`; what they would have seen is unknown\n"
            ),
            "{text}"
        );
    }
}
