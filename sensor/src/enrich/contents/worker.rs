//! The thread that reads: when to look, and in what order.
//!
//! In: jobs. Out: an answer to each, not in order. A file that is being written is given a moment, and is read when it stays the
//! same between two looks. Must never keep a job without an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::read::{Place, Reader, Unread, Version};
use crate::event::Program;
use crate::event::contents::Contents;

/// Between two looks at a file that is being written.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A file still being written after this is read as it is.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Something to read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) program: Option<(Arc<Program>, Place)>,
    pub(super) file: Option<Target>,
}

/// The file of a file event.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    /// It has just been opened for writing, or first written to.
    pub(super) in_work: bool,
    /// Read all of it.
    pub(super) whole: bool,
}

/// What came of a job.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: u64,
    pub(super) program: Option<(Arc<Program>, Result<Contents, Unread>)>,
    pub(super) file: Option<Result<Contents, Unread>>,
}

/// Wakes whoever waits for answers.
pub type Wake = Box<dyn Fn() + Send>;

/// Works until there can be no more jobs.
pub(super) fn work(
    mut reader: Reader,
    jobs: &Receiver<Job>,
    answers: &Sender<Answer>,
    wake: &Wake,
) {
    let mut waiting = Waiting::default();
    loop {
        let job = match waiting.next_look() {
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut done = match job {
            Ok(job) => waiting.take(job, &mut reader, Instant::now()),
            Err(RecvTimeoutError::Timeout) => None,
            // Nobody takes answers any more either.
            Err(RecvTimeoutError::Disconnected) => return,
        };
        loop {
            let Some(answer) = done.or_else(|| waiting.look(&mut reader, Instant::now())) else {
                break;
            };
            if answers.send(answer).is_err() {
                return;
            }
            wake();
            done = None;
        }
    }
}

/// Files that are being written, by the time of the next look.
#[derive(Debug, Default)]
struct Waiting {
    looks: BTreeMap<(Instant, u64), Look>,
}

#[derive(Debug)]
struct Look {
    answer: Answer,
    target: Target,
    seen: Option<Version>,
    until: Instant,
}

impl Waiting {
    fn next_look(&self) -> Option<Instant> {
        let ((at, _), _) = self.looks.first_key_value()?;
        Some(*at)
    }

    /// Does a job, or puts off what has to wait.
    fn take(&mut self, job: Job, reader: &mut Reader, now: Instant) -> Option<Answer> {
        let program = job.program.map(|(program, place)| {
            let opened = reader.open_program(&place);
            let read = opened.and_then(|file| reader.read(file, true).ok_or(Unread::Gone));
            (program, read)
        });
        let mut answer = Answer {
            id: job.id,
            program,
            file: None,
        };
        match job.file {
            Some(target) if target.in_work => {
                let look = Look {
                    seen: reader.open(&target.place).ok().and_then(|o| o.version()),
                    answer,
                    target,
                    until: now + LOOK_MAX,
                };
                self.looks.insert((now + LOOK_EVERY, look.answer.id), look);
                None
            }
            Some(target) => {
                let opened = reader.open(&target.place);
                let read = |file| reader.read(file, target.whole).ok_or(Unread::Gone);
                answer.file = Some(opened.and_then(read));
                Some(answer)
            }
            None => Some(answer),
        }
    }

    /// The next look that is due, if it ends its waiting.
    fn look(&mut self, reader: &mut Reader, now: Instant) -> Option<Answer> {
        loop {
            if self.next_look()? > now {
                return None;
            }
            let (_, mut look) = self.looks.pop_first()?;
            let opened = reader.open(&look.target.place);
            let version = opened.as_ref().ok().and_then(|opened| opened.version());
            let is_quiet = version.is_some_and(|v| v.size > 0) && version == look.seen;
            if opened.is_err() || is_quiet || now >= look.until {
                let read = |file| reader.read(file, look.target.whole).ok_or(Unread::Gone);
                look.answer.file = Some(opened.and_then(read));
                return Some(look.answer);
            }
            look.seen = version;
            self.looks.insert((now + LOOK_EVERY, look.answer.id), look);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::super::super::procfs::Procfs;
    use super::*;

    fn job(id: u64, path: &Path, in_work: bool) -> Job {
        let mntns = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        let place = Place {
            pid: std::process::id(),
            start_ns: 0,
            mntns: u32::try_from(mntns).unwrap(),
            path: path.to_str().unwrap().into(),
            inode: None,
        };
        Job {
            id,
            program: None,
            file: Some(Target {
                place,
                in_work,
                whole: false,
            }),
        }
    }

    fn size(answer: Answer) -> Result<u64, Unread> {
        answer.file.unwrap().map(|contents| contents.size)
    }

    #[test]
    fn a_file_in_work_is_read_once_it_rests() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let path = folder.join("file");
        fs::write(&path, "").unwrap();
        let mut reader = Reader::new(Procfs::default(), 1 << 20);
        let mut waiting = Waiting::default();
        let begin = Instant::now();
        assert!(
            waiting
                .take(job(1, &path, true), &mut reader, begin)
                .is_none()
        );
        assert_eq!(waiting.next_look(), Some(begin + LOOK_EVERY));
        assert!(waiting.look(&mut reader, begin).is_none());
        // Still empty, then growing, then the same twice.
        let mut look = |number: u32| waiting.look(&mut reader, begin + LOOK_EVERY * number);
        assert!(look(1).is_none());
        fs::write(&path, "abc").unwrap();
        assert!(look(2).is_none());
        fs::write(&path, "abcdef").unwrap();
        assert!(look(3).is_none());
        assert_eq!(size(look(4).unwrap()), Ok(6));
        assert!(look(5).is_none());
    }

    #[test]
    fn the_wait_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let path = folder.join("empty");
        fs::write(&path, "").unwrap();
        let mut reader = Reader::new(Procfs::default(), 1 << 20);
        let mut waiting = Waiting::default();
        let begin = Instant::now();
        let late = begin + LOOK_MAX;
        assert!(
            waiting
                .take(job(1, &path, true), &mut reader, begin)
                .is_none()
        );
        assert_eq!(size(waiting.look(&mut reader, late).unwrap()), Ok(0));
        // What is gone is gone.
        let none = folder.join("none");
        assert!(
            waiting
                .take(job(2, &none, true), &mut reader, begin)
                .is_none()
        );
        let gone = waiting.look(&mut reader, begin + LOOK_EVERY).unwrap();
        assert_eq!(size(gone), Err(Unread::Gone));
        // Nothing else waits.
        let renamed = waiting.take(job(3, &path, false), &mut reader, begin);
        assert_eq!(size(renamed.unwrap()), Ok(0));
    }
}
