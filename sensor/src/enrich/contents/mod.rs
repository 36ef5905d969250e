//! What files hold, read by a thread of its own when somebody asks.
//!
//! In: events in order. Out: the same events in the same order, those about a file or a program that somebody wants read with
//! what it held. One that waits holds back all behind it, for a bounded time: then it goes on without, marked as incomplete and
//! counted. Must never read in the caller's thread, nor read what nobody asks for.

mod read;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use super::procfs::Procfs;
use crate::event::file::Change;
use crate::event::{Contents, Event, Kind, Kinds, Target};
use read::{Place, Reader, Unread};
pub use worker::Wake;
use worker::{Answer, Job, Target as FileTarget};

/// Events held back at most; beyond it the first goes on without waiting.
const HELD_MAX: usize = 16_384;
/// Jobs the thread has not begun.
const JOBS_MAX: usize = 4096;

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Size and first bytes of the files of these events.
    pub start: Kinds,
    /// All of the files of these events.
    pub whole: Kinds,
    /// The executables of processes.
    pub programs: bool,
}

impl Wanted {
    pub const NOTHING: Wanted = Wanted {
        start: Kinds::NONE,
        whole: Kinds::NONE,
        programs: false,
    };

    pub const EVERYTHING: Wanted = Wanted {
        start: Kinds::ALL,
        whole: Kinds::ALL,
        programs: true,
    };
}

/// Bounds of the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an event may wait.
    pub wait: Duration,
    /// Longest file that is read as a whole, in bytes.
    pub bytes_max: u64,
}

/// What became of the reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events whose file or program was read.
    pub read: u64,
    /// Events whose file or program was gone, was another by then, or was too long for all that was asked for.
    pub unread: u64,
    /// Events that waited in vain.
    pub late: u64,
    /// Events that could not wait: too much was being read, or held back, already.
    pub refused: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Reading {
    wanted: Wanted,
    wait: Duration,
    worker: Option<Worker>,
    held: VecDeque<Held>,
    /// Answers to events that are not the first.
    ready: HashMap<u64, Ready>,
    /// The last job given out, and the last whose event went on.
    last_id: u64,
    passed_id: u64,
    /// Jobs of events that went on without their answer.
    overdue: u64,
    counters: Counters,
}

#[derive(Debug)]
struct Worker {
    jobs: SyncSender<Job>,
    answers: Receiver<Answer>,
}

#[derive(Debug)]
struct Held {
    event: Event,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    until: Instant,
}

#[derive(Debug)]
struct Ready {
    file: Option<Result<Contents, Unread>>,
    /// The program could be read, if it was asked for.
    program: bool,
}

impl Reading {
    /// Reads nothing: events pass as they come.
    #[must_use]
    pub fn nothing() -> Reading {
        Reading::with(
            Wanted::NOTHING,
            Limits {
                wait: Duration::ZERO,
                bytes_max: 0,
            },
            None,
        )
    }

    /// Starts the thread if there is something to be read. `wake` is called for each answer.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(
        wanted: Wanted,
        limits: Limits,
        procfs: Procfs,
        wake: Wake,
    ) -> io::Result<Reading> {
        if wanted == Wanted::NOTHING {
            return Ok(Reading::nothing());
        }
        let (jobs, to_do) = sync_channel(JOBS_MAX);
        let (done, answers) = channel();
        let reader = Reader::new(procfs, limits.bytes_max);
        std::thread::Builder::new()
            .name("read files".into())
            .spawn(move || worker::work(reader, &to_do, &done, &wake))?;
        let worker = Worker { jobs, answers };
        Ok(Reading::with(wanted, limits, Some(worker)))
    }

    /// Wants something else from now on. One that was to read nothing has nobody to read, and goes on reading nothing.
    pub fn want(&mut self, wanted: Wanted) {
        if self.worker.is_some() {
            self.wanted = wanted;
        }
    }

    fn with(wanted: Wanted, limits: Limits, worker: Option<Worker>) -> Reading {
        Reading {
            wanted,
            wait: limits.wait,
            worker,
            held: VecDeque::new(),
            ready: HashMap::new(),
            last_id: 0,
            passed_id: 0,
            overdue: 0,
            counters: Counters::default(),
        }
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether no event is held back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The events held back, in their order.
    #[must_use]
    pub fn held(&self) -> Vec<Event> {
        self.held.iter().map(|held| held.event.clone()).collect()
    }

    /// When the first event held back waits no longer.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        Some(self.held.front()?.pending.as_ref()?.until)
    }

    /// Takes an event; hands on what need not wait.
    #[inline]
    pub fn push(&mut self, event: Event, mut made: impl FnMut(Event)) {
        if self.worker.is_none() {
            return made(event);
        }
        self.put(event, Instant::now(), &mut made);
    }

    fn put(&mut self, mut event: Event, now: Instant, made: &mut impl FnMut(Event)) {
        let pending = match self.job(&event) {
            None => None,
            Some(job) => {
                let id = job.id;
                if self.ask(job) {
                    let until = now + self.wait;
                    Some(Pending { id, until })
                } else {
                    self.counters.refused += 1;
                    event.marks.incomplete = true;
                    None
                }
            }
        };
        if pending.is_none() && self.held.is_empty() {
            return made(event);
        }
        self.held.push_back(Held { event, pending });
        if self.held.len() > HELD_MAX {
            self.release(now, made);
        }
        if self.held.len() > HELD_MAX
            && let Some(first) = self.held.pop_front()
        {
            self.counters.refused += 1;
            made(self.without(first));
            self.release(now, made);
        }
    }

    /// Hands on the events that need not wait any longer.
    pub fn release(&mut self, now: Instant, made: &mut impl FnMut(Event)) {
        self.collect();
        while let Some(mut first) = self.held.pop_front() {
            let Some(pending) = &first.pending else {
                made(first.event);
                continue;
            };
            if let Some(ready) = self.ready.remove(&pending.id) {
                self.passed_id = pending.id;
                self.fill(&mut first.event, ready);
                made(first.event);
            } else if now >= pending.until {
                self.counters.late += 1;
                made(self.without(first));
            } else {
                self.held.push_front(first);
                break;
            }
        }
    }

    /// Hands on every event, as far as it is.
    pub fn flush(&mut self, made: &mut impl FnMut(Event)) {
        let end = Instant::now() + self.wait;
        self.release(end, made);
    }

    fn without(&mut self, held: Held) -> Event {
        let mut event = held.event;
        if let Some(pending) = held.pending {
            self.passed_id = pending.id;
            self.overdue += 1;
            event.marks.incomplete = true;
        }
        event
    }

    fn fill(&mut self, event: &mut Event, ready: Ready) {
        let whole = self.wanted.whole.contains(event.kind);
        let mut complete = ready.program;
        if let (Target::File(file), Some(read)) = (&mut event.target, ready.file) {
            match read {
                Ok(contents) => {
                    complete &= contents.whole.is_some() || !whole;
                    file.contents = Some(Box::new(contents));
                }
                Err(Unread::NotRegular) => {}
                Err(Unread::Gone) => complete = false,
            }
        }
        if complete {
            self.counters.read += 1;
        } else {
            self.counters.unread += 1;
            event.marks.incomplete = true;
        }
    }

    /// Takes the answers that are there.
    fn collect(&mut self) {
        let Some(worker) = &self.worker else {
            return;
        };
        while let Ok(answer) = worker.answers.try_recv() {
            let program = answer.program.is_none_or(|(program, read)| {
                let whole = read.ok().and_then(|contents| contents.whole);
                whole
                    .map(|whole| program.set_sha256(whole.sha256))
                    .is_some()
            });
            if answer.id <= self.passed_id {
                self.overdue = self.overdue.saturating_sub(1);
                continue;
            }
            let file = answer.file;
            self.ready.insert(answer.id, Ready { file, program });
        }
    }

    /// False when there is no use in waiting for it: the thread is behind, or stuck.
    fn ask(&mut self, job: Job) -> bool {
        if self.overdue > 0 {
            self.collect();
        }
        let Some(worker) = self.worker.as_ref().filter(|_| self.overdue == 0) else {
            return false;
        };
        match worker.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// What is to be read for an event.
    fn job(&mut self, event: &Event) -> Option<Job> {
        let facts = &event.process.facts;
        let place = |path: &str, inode| Place {
            pid: facts.pid,
            start_ns: facts.start_ns,
            mntns: facts.mount_namespace.unwrap_or_default(),
            path: path.into(),
            inode,
        };
        let image = &facts.image;
        let executable = image.executables.first().filter(|_| self.wanted.programs);
        let program = executable.filter(|_| image.program.ask()).map(|path| {
            let inode = Some(image.program.inode).filter(|inode| *inode != 0);
            (image.program.clone(), place(path, inode))
        });
        let file = self.file(event).map(|(path, inode)| FileTarget {
            place: place(path, inode),
            in_work: is_in_work(event),
            whole: self.wanted.whole.contains(event.kind),
        });
        if program.is_none() && file.is_none() {
            return None;
        }
        self.last_id += 1;
        Some(Job {
            id: self.last_id,
            program,
            file,
        })
    }

    /// The file of an event, if somebody asks and there may be something to read: its path and inode.
    fn file<'e>(&self, event: &'e Event) -> Option<(&'e str, Option<u64>)> {
        const S_IFMT: u32 = 0o170_000;
        const S_IFREG: u32 = 0o100_000;
        let leaves_contents = matches!(
            event.kind,
            Kind::Creation | Kind::Rename | Kind::Modification
        );
        if !leaves_contents
            || !self
                .wanted
                .start
                .and(self.wanted.whole)
                .contains(event.kind)
        {
            return None;
        }
        let file = event.file()?;
        let path = file.path().filter(|path| path.starts_with('/'))?;
        let is_regular = matches!(file.mode & S_IFMT, 0 | S_IFREG);
        let inode = file.inode.as_ref();
        let inode = inode.and_then(|inode| inode.number.as_str().parse().ok());
        is_regular.then_some((path, inode))
    }
}

/// Whether more is likely to be written at once.
fn is_in_work(event: &Event) -> bool {
    let change = event.file().and_then(|file| file.change);
    event.kind != Kind::Rename && !matches!(change, Some(Change::Mode | Change::Owner))
}

#[cfg(test)]
mod tests {
    use super::super::process_table::TableLimits;
    use super::super::testing::{Key, Run, exec_body};
    use super::super::tests::enricher;
    use super::*;
    use crate::event::contents::Whole;

    const KEY: Key = (70, 5);
    const WAIT: Duration = Duration::from_secs(1);
    const FILES: Wanted = Wanted {
        start: Kinds::NONE.with(Kind::Creation),
        ..Wanted::NOTHING
    };

    /// The thread's side, played by the test.
    struct Thread {
        jobs: Receiver<Job>,
        answers: std::sync::mpsc::Sender<Answer>,
    }

    fn reading(wanted: Wanted, jobs_max: usize) -> (Reading, Thread) {
        let (jobs, to_do) = sync_channel(jobs_max);
        let (done, answers) = channel();
        let limits = Limits {
            wait: WAIT,
            bytes_max: 1,
        };
        let thread = Thread {
            jobs: to_do,
            answers: done,
        };
        let worker = Some(Worker { jobs, answers });
        (Reading::with(wanted, limits, worker), thread)
    }

    impl Thread {
        fn answer(&self, job: Job, read: Result<Contents, Unread>) {
            let program = job.program.map(|(program, _)| (program, read.clone()));
            let answer = Answer {
                id: job.id,
                program,
                file: job.file.map(|_| read),
            };
            self.answers.send(answer).unwrap();
        }
    }

    fn contents(size: u64) -> Contents {
        Contents {
            size,
            header: "7f45".into(),
            whole: Some(Whole {
                sha256: "aa".into(),
                entropy: 1.5,
            }),
        }
    }

    /// A run of a program, then files it makes.
    fn events(paths: &[&str]) -> Vec<Event> {
        let mut enricher = enricher(TableLimits::default());
        let run = Run::of("/bin/maker", &["maker"]);
        let mut events = vec![enricher.feed_exec(10, KEY, &exec_body(), &run)];
        for (at, path) in (20..).zip(paths) {
            events.push(enricher.feed_creation(at, KEY, path.as_bytes()));
        }
        events
    }

    /// Path, size read and whether incomplete, of what comes out.
    fn shown(event: &Event) -> String {
        let file = event.file();
        let path = file.and_then(|file| file.path()).unwrap_or("exec");
        let size = file.and_then(|file| file.contents.as_ref());
        let size = size.map_or("-".to_owned(), |contents| contents.size.to_string());
        let mark = if event.marks.incomplete { "!" } else { "" };
        format!("{path} {size}{mark}")
    }

    fn release(reading: &mut Reading, now: Instant) -> Vec<String> {
        let mut out = Vec::new();
        reading.release(now, &mut |event| out.push(shown(&event)));
        out
    }

    fn put(reading: &mut Reading, events: Vec<Event>, now: Instant) -> Vec<String> {
        let mut out = Vec::new();
        for event in events {
            reading.put(event, now, &mut |event| out.push(shown(&event)));
        }
        out
    }

    #[test]
    fn order_is_kept() {
        let (mut reading, thread) = reading(FILES, 8);
        let now = Instant::now();
        let out = put(&mut reading, events(&["/a", "/b", "relative"]), now);
        assert_eq!(out, ["exec -"]);
        assert_eq!(reading.until(), Some(now + WAIT));
        let (first, second) = (thread.jobs.recv().unwrap(), thread.jobs.recv().unwrap());
        thread.answer(second, Ok(contents(2)));
        assert!(release(&mut reading, now).is_empty());
        thread.answer(first, Ok(contents(1)));
        assert_eq!(release(&mut reading, now), ["/a 1", "/b 2", "relative -"]);
        assert!(reading.is_empty());
        assert_eq!(reading.counters().read, 2);
    }

    #[test]
    fn the_wait_is_bounded_and_told() {
        let (mut reading, thread) = reading(FILES, 8);
        let now = Instant::now();
        put(&mut reading, events(&["/a", "/b"]), now);
        let (first, second) = (thread.jobs.recv().unwrap(), thread.jobs.recv().unwrap());
        assert_eq!(release(&mut reading, now + WAIT), ["/a -!", "/b -!"]);
        // While the thread owes an answer nobody waits for it.
        let later = now + WAIT;
        assert_eq!(
            put(&mut reading, events(&["/c"]), later),
            ["exec -", "/c -!"]
        );
        thread.answer(first, Ok(contents(1)));
        thread.answer(second, Ok(contents(2)));
        assert_eq!(put(&mut reading, events(&["/d"]), later), ["exec -"]);
        thread.answer(thread.jobs.recv().unwrap(), Ok(contents(4)));
        assert_eq!(release(&mut reading, later), ["/d 4"]);
        let counters = reading.counters();
        assert_eq!((counters.late, counters.refused, counters.read), (2, 1, 1));
    }

    #[test]
    fn a_full_queue_is_told() {
        let (mut reading, _thread) = reading(FILES, 1);
        let now = Instant::now();
        put(&mut reading, events(&["/a", "/b"]), now);
        assert_eq!(reading.counters().refused, 1);
        let mut out = Vec::new();
        reading.flush(&mut |event| out.push(shown(&event)));
        assert_eq!(out, ["/a -!", "/b -!"]);
    }

    #[test]
    fn what_can_not_be_read_is_told() {
        let (mut reading, thread) = reading(FILES, 8);
        let now = Instant::now();
        put(&mut reading, events(&["/a", "/b", "/c"]), now);
        for read in [Err(Unread::Gone), Err(Unread::NotRegular), Ok(contents(3))] {
            thread.answer(thread.jobs.recv().unwrap(), read);
        }
        assert_eq!(release(&mut reading, now), ["/a -!", "/b -", "/c 3"]);
        assert_eq!(reading.counters().unread, 1);
    }

    #[test]
    fn a_program_is_read_once() {
        let wanted = Wanted {
            programs: true,
            ..Wanted::NOTHING
        };
        let (mut reading, thread) = reading(wanted, 8);
        let now = Instant::now();
        put(&mut reading, events(&["/a", "/b"]), now);
        let job = thread.jobs.recv().unwrap();
        let (program, place) = job.program.as_ref().unwrap();
        assert_eq!((&*place.path, place.inode), ("/bin/maker", Some(9)));
        let program = program.clone();
        assert!(thread.jobs.try_recv().is_err());
        thread.answer(job, Ok(contents(1)));
        assert_eq!(release(&mut reading, now), ["exec -", "/a -", "/b -"]);
        assert_eq!(program.sha256(), Some("aa"));
    }

    #[test]
    fn nothing_is_read_unasked() {
        let (mut reading, thread) = reading(Wanted::NOTHING, 8);
        let now = Instant::now();
        assert_eq!(put(&mut reading, events(&["/a"]), now), ["exec -", "/a -"]);
        assert!(thread.jobs.try_recv().is_err());
    }
}
