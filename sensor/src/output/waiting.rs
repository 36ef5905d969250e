//! Outputs whose place may be away: the journal, a syslog daemon.
//!
//! In: alerts and deeds, and a [`Remote`] that makes one attempt at a time. Out: each handed over once and in order, as soon as its place
//! takes it. What it does not take goes to a [`Spool`]; only when that has no room is the output's thread held up, and what
//! overflows is its queue, counted. Attempts at a place that is away come ever less often, and not at the same moments as those of
//! others.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::Sink;
use super::spool::Spool;
use crate::alert::Alert;
use crate::response::Deed;

/// First and longest pause before an absent place is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two looks for the end while the thread is held up.
const LOOK: Duration = Duration::from_millis(50);

/// A place out of this process.
pub trait Remote: Send {
    /// For the log.
    fn name(&self) -> String;

    /// Appends an alert as it is to be sent.
    fn spell(&self, alert: &Alert, entry: &mut Vec<u8>);

    /// Appends what was done about one.
    fn spell_deed(&self, deed: &Deed, entry: &mut Vec<u8>);

    /// One attempt to hand an entry over, and the number of its alert.
    ///
    /// # Errors
    /// It was not taken.
    fn attempt(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()>;

    /// Whether what an earlier run left may be sent yet.
    fn is_ready(&self) -> bool {
        true
    }

    /// Whether [`Remote::pay`] has something to do.
    fn owes(&self) -> bool {
        false
    }

    /// Hands over what it has to besides.
    ///
    /// # Errors
    /// It was not all taken.
    fn pay(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See the module.
pub struct Waiting<R> {
    pub(super) remote: R,
    spool: Option<Spool>,
    /// Entries there, for others to see.
    count: Arc<AtomicU64>,
    entry: Vec<u8>,
    pause: Duration,
    /// No attempt before.
    until: Option<Instant>,
    told_away: bool,
    told_full: bool,
    told_lost: bool,
}

impl<R: Remote> Waiting<R> {
    /// `count` is told how many entries wait in the spool.
    pub fn new(remote: R, spool: Option<Spool>, count: Arc<AtomicU64>) -> Waiting<R> {
        let waiting = Waiting {
            remote,
            spool,
            count,
            entry: Vec::new(),
            pause: PAUSE_FIRST,
            until: None,
            told_away: false,
            told_full: false,
            told_lost: false,
        };
        waiting.tell_count();
        waiting
    }

    fn tell_count(&self) {
        let count = self.spool.as_ref().map_or(0, Spool::count);
        self.count.store(count, Ordering::Relaxed);
    }

    fn holds(&self) -> bool {
        self.spool.as_ref().is_some_and(|spool| spool.count() > 0)
    }

    fn is_pausing(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Hands the entry over, or has it wait.
    fn pass(
        &mut self,
        sequence: Option<u64>,
        entry: &[u8],
        give_up: &AtomicBool,
    ) -> io::Result<()> {
        loop {
            self.send_held(give_up);
            let mut failed = io::Error::from(io::ErrorKind::WouldBlock);
            if !self.holds() && !self.is_pausing() {
                match self.attempt(sequence, entry) {
                    Err(error) if may_pass(&error) => failed = error,
                    other => return other,
                }
            }
            if self.hold(sequence, entry) {
                return Ok(());
            }
            if give_up.load(Ordering::Relaxed) {
                return Err(failed);
            }
            if let Some(until) = self.until {
                let left = until.saturating_duration_since(Instant::now());
                std::thread::sleep(left.min(LOOK));
            }
        }
    }

    /// Whether it is in the spool.
    fn hold(&mut self, sequence: Option<u64>, entry: &[u8]) -> bool {
        let Some(spool) = &mut self.spool else {
            return false;
        };
        match spool.push(sequence, entry) {
            Ok(()) => {
                self.told_full = false;
                self.tell_count();
                true
            }
            Err(error) => {
                if !self.told_full {
                    tracing::warn!(
                        "no room for more of what {} does not take, {} alerts wait on disk: {error}",
                        self.remote.name(),
                        spool.count()
                    );
                    self.told_full = true;
                }
                false
            }
        }
    }

    /// Sends what is held, as long as it is taken.
    fn send_held(&mut self, give_up: &AtomicBool) {
        if !self.remote.is_ready() || self.is_pausing() {
            return;
        }
        if self.remote.owes()
            && let Err(error) = self.remote.pay()
        {
            self.failed(&error);
            return;
        }
        while self.holds() && !give_up.load(Ordering::Relaxed) {
            let front = self.spool.as_ref().map_or(Ok(None), Spool::front);
            let sent = match &front {
                Ok(Some(front)) => self.attempt(front.sequence, &front.entry),
                Ok(None) => Err(io::ErrorKind::InvalidData.into()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            if sent.as_ref().is_err_and(may_pass) {
                return;
            }
            let Some(spool) = &mut self.spool else {
                return;
            };
            if let Err(error) = &sent
                && !std::mem::replace(&mut self.told_lost, true)
            {
                let name = self.remote.name();
                tracing::error!("alerts that waited for {name} can not be sent: {error}");
            }
            let done = match front {
                Ok(Some(front)) => spool.pop(&front),
                // Nothing behind it can be found.
                _ => spool.clear(),
            };
            if let Err(error) = done {
                tracing::error!("what waits for {} is lost: {error}", self.remote.name());
                self.spool = None;
            }
            self.tell_count();
        }
    }

    fn attempt(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
        let done = self.remote.attempt(sequence, entry);
        match &done {
            Err(error) if may_pass(error) => self.failed(error),
            _ => {
                self.pause = PAUSE_FIRST;
                self.until = None;
                self.told_lost &= done.is_err();
                if std::mem::take(&mut self.told_away) {
                    tracing::info!("{} takes alerts again", self.remote.name());
                }
            }
        }
        done
    }

    fn failed(&mut self, error: &io::Error) {
        self.until = Some(Instant::now() + with_jitter(self.pause));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if !std::mem::replace(&mut self.told_away, true) {
            tracing::warn!(
                "{} takes no alerts, trying again: {error}",
                self.remote.name()
            );
        }
    }
}

impl<R: Remote> Sink for Waiting<R> {
    fn write(&mut self, alert: &Alert, give_up: &AtomicBool) -> io::Result<()> {
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        self.remote.spell(alert, &mut entry);
        let done = self.pass(Some(alert.sequence), &entry, give_up);
        self.entry = entry;
        done
    }

    fn tell(&mut self, deed: &Deed, give_up: &AtomicBool) -> io::Result<()> {
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        self.remote.spell_deed(deed, &mut entry);
        let done = self.pass(None, &entry, give_up);
        self.entry = entry;
        done
    }

    fn wait(&self) -> Option<Duration> {
        if !self.holds() && !self.remote.owes() {
            return None;
        }
        let until = self.until.unwrap_or_else(Instant::now);
        let left = until.saturating_duration_since(Instant::now());
        Some(left.max(PAUSE_FIRST))
    }

    fn go_on(&mut self, give_up: &AtomicBool) {
        self.send_held(give_up);
    }
}

/// It has no room, or nobody listens: at another time it may be taken.
fn may_pass(error: &io::Error) -> bool {
    is_full(error) || is_away(error)
}

/// The wait for room ended, or was interrupted.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Nobody listens at the moment.
pub(super) fn is_away(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}

/// Up to a quarter longer.
fn with_jitter(pause: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let share = now.map_or(0, |now| now.subsec_nanos() % 256);
    pause + pause * share / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sample;

    /// Takes entries while it is told to.
    #[derive(Default)]
    struct Place {
        taken: Vec<(Option<u64>, Vec<u8>)>,
        refuses: Option<io::ErrorKind>,
        attempts: u32,
    }

    impl Remote for Place {
        fn name(&self) -> String {
            "the place".into()
        }

        fn spell(&self, alert: &Alert, entry: &mut Vec<u8>) {
            entry.extend_from_slice(alert.rule.id.as_bytes());
        }

        fn spell_deed(&self, _: &Deed, _: &mut Vec<u8>) {}

        fn attempt(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
            self.attempts += 1;
            match self.refuses {
                Some(kind) => Err(kind.into()),
                None => {
                    self.taken.push((sequence, entry.to_vec()));
                    Ok(())
                }
            }
        }
    }

    fn alert(sequence: u64) -> Alert {
        let mut alert = sample::alert(&sample::rule("R", "r-1", "low"), &[], 0);
        alert.sequence = sequence;
        alert
    }

    fn waiting(folder: &tempfile::TempDir, bytes_max: u64) -> (Waiting<Place>, Arc<AtomicU64>) {
        let spool = Spool::open(&folder.path().join("spool"), bytes_max).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let waiting = Waiting::new(Place::default(), Some(spool), Arc::clone(&count));
        (waiting, count)
    }

    fn taken(waiting: &Waiting<Place>) -> Vec<u64> {
        let taken = waiting.remote.taken.iter();
        taken.map(|(sequence, _)| sequence.unwrap()).collect()
    }

    static NOT_ENDING: AtomicBool = AtomicBool::new(false);
    static ENDING: AtomicBool = AtomicBool::new(true);

    #[test]
    fn what_is_not_taken_waits_and_comes_first_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (mut waiting, count) = waiting(&folder, 1 << 20);
        waiting.write(&alert(1), &NOT_ENDING).unwrap();
        waiting.remote.refuses = Some(io::ErrorKind::ConnectionRefused);
        for sequence in 2..=900 {
            waiting.write(&alert(sequence), &NOT_ENDING).unwrap();
        }
        assert_eq!(taken(&waiting), [1]);
        assert_eq!(count.load(Ordering::Relaxed), 899);
        assert!(
            waiting.remote.attempts < 100,
            "{} attempts at a place that is away",
            waiting.remote.attempts
        );
        // The run ends, and the next goes on with it.
        drop(waiting);
        let (mut waiting, count) = self::waiting(&folder, 1 << 20);
        assert_eq!(count.load(Ordering::Relaxed), 899);
        assert!(waiting.wait().is_some());
        waiting.write(&alert(901), &NOT_ENDING).unwrap();
        assert_eq!(taken(&waiting), (2..=901).collect::<Vec<_>>());
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert_eq!(waiting.wait(), None);
    }

    #[test]
    fn it_is_sent_without_another_alert() {
        let folder = tempfile::tempdir().unwrap();
        let (mut waiting, _) = waiting(&folder, 1 << 20);
        waiting.remote.refuses = Some(io::ErrorKind::TimedOut);
        waiting.write(&alert(1), &NOT_ENDING).unwrap();
        waiting.remote.refuses = None;
        while let Some(wait) = waiting.wait() {
            std::thread::sleep(wait);
            waiting.go_on(&NOT_ENDING);
        }
        assert_eq!(taken(&waiting), [1]);
    }

    #[test]
    fn without_room_the_thread_waits_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (mut waiting, count) = waiting(&folder, 40);
        waiting.remote.refuses = Some(io::ErrorKind::NotFound);
        waiting.write(&alert(1), &NOT_ENDING).unwrap();
        let lost = waiting.write(&alert(2), &ENDING).unwrap_err();
        assert!(may_pass(&lost), "{lost}");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let (written, end) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let done = waiting.write(&alert(3), &end);
                written.store(true, Ordering::Relaxed);
                done
            });
            std::thread::sleep(LOOK * 2);
            assert!(!written.load(Ordering::Relaxed));
            end.store(true, Ordering::Relaxed);
            writing.join().unwrap().unwrap_err();
        });
    }

    #[test]
    fn what_will_never_be_taken_holds_up_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut waiting, count) = waiting(&folder, 1 << 20);
        waiting.remote.refuses = Some(io::ErrorKind::TimedOut);
        waiting.write(&alert(1), &NOT_ENDING).unwrap();
        waiting.remote.refuses = Some(io::ErrorKind::PermissionDenied);
        std::thread::sleep(waiting.wait().unwrap());
        waiting.go_on(&NOT_ENDING);
        assert_eq!(count.load(Ordering::Relaxed), 0);
        let error = waiting.write(&alert(2), &NOT_ENDING).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        waiting.remote.refuses = None;
        waiting.write(&alert(3), &NOT_ENDING).unwrap();
        assert_eq!(taken(&waiting), [3]);
    }
}
