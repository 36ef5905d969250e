//! Alerts to the outside.
//!
//! In: alerts. Out: JSON lines, a tree for people, journal entries, a file. Only here is JSON known. An output never blocks
//! the engine: each has its own thread behind a bounded queue, and what does not fit is counted.

pub mod explanation;
pub mod file;
pub mod journald;
pub mod json;
pub mod report;
pub mod stdout;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::alert::Alert;
use crate::cli::{Format, Output};

/// Why an output could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open output `{output}`")]
pub struct OpenError {
    pub output: Output,
    pub source: io::Error,
}

/// One place alerts are written to. It may block: it has a thread of its own.
pub trait Sink: Send {
    /// Writes one alert. `give_up` turns true when the sensor ends and will not wait much longer.
    ///
    /// # Errors
    /// The alert was not written.
    fn write(&mut self, alert: &Alert, give_up: &AtomicBool) -> io::Result<()>;

    /// Called when nothing is waiting: makes sure of what was written.
    ///
    /// # Errors
    /// It can not be made sure of.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of an output's alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub written: u64,
    /// The queue was full, or the output failed.
    pub dropped: u64,
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    dropped: AtomicU64,
    give_up: AtomicBool,
}

/// One output, its queue and its thread.
struct Lane {
    output: Output,
    queue: Option<SyncSender<Arc<Alert>>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// All outputs alerts go to.
#[derive(Default)]
pub struct Outputs {
    lanes: Vec<Lane>,
}

impl Outputs {
    /// Opens outputs, each once and with a queue of `queue_max` alerts; `format` is for stdout. Where there is no journal,
    /// journald is left out, with a line in the log, if another output remains.
    ///
    /// # Errors
    /// The first output that can not be opened, or the journal when alerts would then go nowhere.
    pub fn open(wanted: &[Output], format: Format, queue_max: usize) -> Result<Outputs, OpenError> {
        let mut outputs = Outputs::default();
        let mut no_journal = false;
        for (index, output) in wanted.iter().enumerate() {
            if wanted.iter().take(index).any(|earlier| earlier == output) {
                continue;
            }
            let failed = |source| OpenError {
                output: output.clone(),
                source,
            };
            let sink: Box<dyn Sink> = match output {
                Output::None => continue,
                Output::Stdout => Box::new(stdout::Stdout::new(format)),
                Output::File(path) => Box::new(file::File::open(path).map_err(failed)?),
                Output::Journald if !journald::is_there() => {
                    no_journal = true;
                    continue;
                }
                Output::Journald => Box::new(journald::Journald::system()),
            };
            let lane = Lane::start(output.clone(), sink, queue_max);
            outputs.lanes.push(lane.map_err(failed)?);
        }
        if no_journal && outputs.lanes.is_empty() {
            return Err(OpenError {
                output: Output::Journald,
                source: io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no journal listens on {}", journald::SOCKET),
                ),
            });
        }
        if no_journal {
            tracing::info!("no journal on this system: no alerts go to journald");
        }
        Ok(outputs)
    }

    /// An output made by the caller; for tests.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn add(&mut self, output: Output, sink: Box<dyn Sink>, queue_max: usize) -> io::Result<()> {
        self.lanes.push(Lane::start(output, sink, queue_max)?);
        Ok(())
    }

    /// Hands an alert to every output. Never waits.
    pub fn send(&self, alert: &Arc<Alert>) {
        for lane in &self.lanes {
            lane.send(alert);
        }
    }

    /// What became of the alerts so far, by output.
    pub fn counts(&self) -> impl Iterator<Item = (&Output, Count)> {
        self.lanes.iter().map(|lane| (&lane.output, lane.count()))
    }

    /// Lets the outputs write what is waiting, for at most `patience` in all; the rest is dropped. Returns the last counts.
    pub fn close(mut self, patience: Duration) -> Vec<(Output, Count)> {
        let until = Instant::now() + patience;
        for lane in &mut self.lanes {
            // The thread ends once the queue is empty and nobody can fill it any more.
            lane.queue = None;
        }
        for lane in &mut self.lanes {
            lane.end(until);
        }
        self.lanes
            .iter()
            .map(|lane| (lane.output.clone(), lane.count()))
            .collect()
    }
}

impl Lane {
    fn start(output: Output, sink: Box<dyn Sink>, queue_max: usize) -> io::Result<Lane> {
        let (queue, alerts) = sync_channel(queue_max);
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name(format!("output {output}").chars().take(15).collect())
            .spawn({
                let (shared, output) = (Arc::clone(&shared), output.clone());
                move || serve(&output, sink, &alerts, &shared)
            })?;
        Ok(Lane {
            output,
            queue: Some(queue),
            thread: Some(thread),
            shared,
        })
    }

    fn send(&self, alert: &Arc<Alert>) {
        let sent = match &self.queue {
            Some(queue) => queue.try_send(Arc::clone(alert)),
            None => Err(TrySendError::Disconnected(Arc::clone(alert))),
        };
        if sent.is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> Count {
        Count {
            written: self.shared.written.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self, until: Instant) {
        const STEP: Duration = Duration::from_millis(5);
        const LAST_TRY: Duration = Duration::from_millis(100);
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(STEP);
        }
        self.shared.give_up.store(true, Ordering::Relaxed);
        let last = Instant::now() + LAST_TRY;
        while !thread.is_finished() && Instant::now() < last {
            std::thread::sleep(STEP);
        }
        if thread.is_finished() {
            // The thread holds no lock and its panic has been printed.
            let _ = thread.join();
        } else {
            tracing::error!("output `{}` did not end in time", self.output);
        }
    }
}

/// Body of an output's thread: ends when the queue is closed and empty.
fn serve(output: &Output, mut sink: Box<dyn Sink>, alerts: &Receiver<Arc<Alert>>, shared: &Shared) {
    let mut failing = false;
    loop {
        let alert = match alerts.try_recv() {
            Ok(alert) => alert,
            Err(TryRecvError::Empty) => {
                if let Err(error) = sink.settle() {
                    tracing::error!("output `{output}` may lose what was written: {error}");
                }
                match alerts.recv() {
                    Ok(alert) => alert,
                    Err(_) => break,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        if shared.give_up.load(Ordering::Relaxed) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match sink.write(&alert, &shared.give_up) {
            Ok(()) => {
                failing = false;
                shared.written.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                // Said once, not for every alert of an outage; the counter has the rest.
                if !failing {
                    tracing::error!("output `{output}` fails, alerts for it are dropped: {error}");
                }
                failing = true;
            }
        }
    }
    if let Err(error) = sink.settle() {
        tracing::error!("output `{output}` may lose what was written: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::alert::sample;

    /// Writes only when told to, and says when it starts.
    struct Slow {
        started: Sender<()>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Sink for Slow {
        fn write(&mut self, _alert: &Alert, _give_up: &AtomicBool) -> io::Result<()> {
            self.started.send(()).unwrap();
            self.go_on.lock().unwrap().recv().map_err(io::Error::other)
        }
    }

    fn slow(queue_max: usize) -> (Outputs, Receiver<()>, Sender<()>) {
        let (started, starts) = channel();
        let (go, go_on) = channel();
        let mut outputs = Outputs::default();
        let sink = Slow {
            started,
            go_on: Mutex::new(go_on),
        };
        outputs
            .add(Output::Stdout, Box::new(sink), queue_max)
            .unwrap();
        (outputs, starts, go)
    }

    #[test]
    fn a_slow_output_drops_and_counts_but_never_blocks() {
        let alert = Arc::new(sample::alert(&sample::rule("R", "r-1", "low"), &[], 0));
        let (outputs, starts, go) = slow(2);
        outputs.send(&alert);
        starts.recv().unwrap();
        for _ in 0..5 {
            outputs.send(&alert);
        }
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        let counts = outputs.close(Duration::from_secs(60));
        let expected = Count {
            written: 3,
            dropped: 3,
        };
        assert_eq!(counts, [(Output::Stdout, expected)]);
    }

    #[test]
    fn a_failing_output_is_counted() {
        let alert = Arc::new(sample::alert(&sample::rule("R", "r-1", "low"), &[], 0));
        let (outputs, _starts, go) = slow(8);
        drop(go);
        for _ in 0..4 {
            outputs.send(&alert);
        }
        let counts = outputs.close(Duration::from_secs(60));
        assert_eq!(
            counts[0].1,
            Count {
                written: 0,
                dropped: 4
            }
        );
    }
}
