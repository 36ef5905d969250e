//! Whether the daemon still gets on, for the service manager to restart it when it does not.
//!
//! In: a [`Pulse`] that the pipeline keeps, and the progress of each output of this host. Out: `WATCHDOG=1` at a third of the interval
//! the service manager asks for, as long as each advanced or had nothing to do. What is stuck is named in the log before the
//! service manager acts. It runs on a thread of its own and holds nobody up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::output::Progress;

/// What the pipeline's thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Ring,
    Engine,
    Outputs,
}

impl Stage {
    fn name(stage: u8) -> &'static str {
        match stage {
            1 => "the engine",
            2 => "the hand-over to the outputs",
            _ => "the ring reader",
        }
    }
}

/// Kept by the pipeline, at least once a second.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: AtomicU64,
    stage: AtomicU8,
}

impl Pulse {
    /// A round is done.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }
}

/// What was seen at the last look.
struct Watch {
    pulse: Arc<Pulse>,
    beats: Option<u64>,
    outputs: Vec<(Progress, Option<u64>)>,
}

impl Watch {
    fn new(pulse: Arc<Pulse>, outputs: Vec<Progress>) -> Watch {
        Watch {
            pulse,
            beats: None,
            outputs: outputs.into_iter().map(|output| (output, None)).collect(),
        }
    }

    /// What has neither advanced nor been idle since the last look.
    fn look(&mut self) -> Vec<String> {
        let mut stuck = Vec::new();
        let beats = self.pulse.beats.load(Ordering::Relaxed);
        if self.beats.replace(beats) == Some(beats) {
            let stage = self.pulse.stage.load(Ordering::Relaxed);
            stuck.push(Stage::name(stage).to_owned());
        }
        for (output, waiting) in &mut self.outputs {
            let (done, sent) = output.done_of();
            // One that had something to do then and has got no further is stuck, whatever came since.
            let was = std::mem::replace(waiting, (done < sent).then_some(done));
            if was == Some(done) {
                stuck.push(format!("output `{}`", output.output));
            }
        }
        stuck
    }
}

/// Reports from now on, if the service manager asks for it.
///
/// # Errors
/// No thread can be started.
pub fn start(pulse: Arc<Pulse>, outputs: Vec<Progress>) -> std::io::Result<()> {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    let mut watch = Watch::new(pulse, outputs);
    let every = interval / 3;
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            loop {
                let stuck = watch.look();
                if stuck.is_empty() {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                } else {
                    tracing::error!(
                        "watchdog: {} made no progress in {} ms; the service manager is not told that all is well",
                        stuck.join(" and "),
                        every.as_millis()
                    );
                }
                std::thread::sleep(every.max(Duration::from_millis(1)));
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::alert::{Alert, sample};
    use crate::cli::Output;
    use crate::output::{Outputs, Sink};
    use crate::response::Deed;

    /// Writes one alert for each word.
    struct OnWord(Mutex<Receiver<()>>);

    impl Sink for OnWord {
        fn write(&mut self, _: &Alert, _: &AtomicBool) -> io::Result<()> {
            self.0.lock().unwrap().recv().map_err(io::Error::other)
        }

        fn tell(&mut self, _: &Deed, _: &AtomicBool) -> io::Result<()> {
            self.0.lock().unwrap().recv().map_err(io::Error::other)
        }
    }

    #[test]
    fn a_pulse_that_stops_is_told_with_the_stage_it_stopped_in() {
        let pulse = Arc::new(Pulse::default());
        let mut watch = Watch::new(Arc::clone(&pulse), Vec::new());
        assert_eq!(watch.look(), [""; 0], "the first look knows nothing");
        pulse.beat();
        pulse.enter(Stage::Engine);
        assert_eq!(watch.look(), [""; 0]);
        assert_eq!(watch.look(), ["the engine"]);
        pulse.beat();
        assert_eq!(watch.look(), [""; 0]);
    }

    #[test]
    fn an_output_is_stuck_when_it_has_work_and_does_none() {
        let pulse = Arc::new(Pulse::default());
        let (word, words) = channel();
        let mut outputs = Outputs::default();
        outputs
            .add(Output::Stdout, Box::new(OnWord(Mutex::new(words))), 8)
            .unwrap();
        let progress = outputs.progress();
        let mut watch = Watch::new(Arc::clone(&pulse), progress.clone());
        let mut look = || {
            pulse.beat();
            watch.look()
        };
        let alert = Arc::new(sample::alert(&sample::rule("R", "r-1", "low"), &[], 0));
        assert_eq!(look(), [""; 0]);
        assert_eq!(look(), [""; 0], "idle");
        outputs.send(&alert);
        outputs.send(&alert);
        assert_eq!(look(), [""; 0], "may be about to write");
        assert_eq!(look(), ["output `stdout`"]);
        word.send(()).unwrap();
        while progress[0].done_of().0 == 0 {
            std::thread::yield_now();
        }
        assert_eq!(look(), [""; 0], "got on");
        assert_eq!(look(), ["output `stdout`"]);
        word.send(()).unwrap();
        while progress[0].done_of().0 == 1 {
            std::thread::yield_now();
        }
        assert_eq!(look(), [""; 0], "idle again");
        assert_eq!(look(), [""; 0]);
    }
}
