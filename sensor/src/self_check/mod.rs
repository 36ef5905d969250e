//! The self-check: known acts, and whether the kernel programs report them as they were.
//!
//! In: a loaded [`Kernel`], before anyone else reads its ring. Out: which record kinds are right, which could not be tried, and
//! the records of others that came meanwhile, for the pipeline. A child process of the sensor's own acts, and counts as in scope
//! while it does; its records go no further and are taken off the account. It must leave nothing behind, and never let a sensor
//! run on that reads the kernel's structures wrongly.

pub mod act;
mod compare;
mod facts;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sensor_ebpf::Kind;

use crate::decode::{Record, decode};
use crate::kernel::{HookState, Kernel, LoadError, is_required};
pub use compare::Mismatch;
use facts::Facts;

/// For the whole check: far more than a healthy machine needs, enough for an emulated one.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the ring.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Records of others held back while the check runs, in bytes.
const HELD_MAX: usize = 64 << 20;

/// What the check found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Process key of the child that acted; records of it may still come.
    pub key: Option<(u32, u64)>,
    /// Records of others, in order.
    pub held: Vec<Vec<u8>>,
    /// Kinds whose records were compared and right.
    pub right: Vec<Kind>,
    /// Attached kinds whose records could not be tried, and why.
    pub untried: Vec<(Kind, String)>,
    pub took: Duration,
}

/// Why the kernel programs are not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum SelfCheckError {
    #[error(
        "the self-check found a wrong record: {}; this kernel's structures are not as the programs read them, so nothing they report can be trusted. Report the kernel's version; `self_check = false` in the settings runs all the same",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Wrong(Vec<Mismatch>),
    #[error(
        "the self-check got no `{}` record of an act it made: {hooks} is attached and does not report; `self_check = false` in the settings runs all the same",
        .kind.name()
    )]
    Missing { kind: Kind, hooks: String },
    #[error(transparent)]
    Kernel(#[from] LoadError),
}

/// Acts, waits for the records, compares. Blocks for a few milliseconds, at most [`TIME_MAX`].
///
/// # Errors
/// A record differs from what was done, or one of a required kind did not come. That nothing could be tried is no error.
pub fn run(kernel: &mut Kernel) -> Result<Outcome, SelfCheckError> {
    let begun = Instant::now();
    kernel.watch_children_of(Some(std::process::id()))?;
    let mut trial = Trial::default();
    let acted = trial.act(kernel, begun + TIME_MAX);
    kernel.watch_children_of(None)?;
    let attached = attached(kernel);
    for bytes in &trial.own {
        if let Ok(record) = decode(bytes) {
            kernel.leave_out(record.header);
        }
    }
    let mut outcome = Outcome {
        held: std::mem::take(&mut trial.held),
        ..Outcome::default()
    };
    match acted {
        Ok(facts) => {
            outcome.key = trial.key(&facts);
            judge(&trial, &facts, &attached, &mut outcome)?;
        }
        Err(error) => {
            let why = format!("the self-check could not act: {error}");
            outcome.untried = attached.keys().map(|kind| (*kind, why.clone())).collect();
        }
    }
    outcome.took = begun.elapsed();
    Ok(outcome)
}

/// Attached kinds, and their hooks in words.
fn attached(kernel: &Kernel) -> BTreeMap<Kind, String> {
    let mut attached: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
    for hook in kernel.hooks() {
        if hook.state == HookState::Attached {
            attached.entry(hook.kind).or_default().push(&hook.hook);
        }
    }
    attached
        .into_iter()
        .map(|(kind, hooks)| (kind, hooks.join(" with ")))
        .collect()
}

fn judge(
    trial: &Trial,
    facts: &Facts,
    attached: &BTreeMap<Kind, String>,
    outcome: &mut Outcome,
) -> Result<(), SelfCheckError> {
    let records: Vec<Record<'_>> = trial.own.iter().filter_map(|b| decode(b).ok()).collect();
    let wrong: Vec<Mismatch> = records
        .iter()
        .flat_map(|record| compare::compare(record, facts))
        .collect();
    if !wrong.is_empty() {
        return Err(SelfCheckError::Wrong(wrong));
    }
    for (&kind, hooks) in attached {
        let came = records.iter().filter(|r| r.header.kind == kind as u16);
        match compare::expected(kind, facts) {
            Err(why) => outcome.untried.push((kind, why)),
            Ok(count) if came.clone().count() >= count => outcome.right.push(kind),
            Ok(_) if is_required(kind) => {
                // Under another tgid it would have been told as such, if it can be told at all.
                let held = outcome.held.iter().filter_map(|b| decode(b).ok());
                let stray: Vec<Mismatch> = held
                    .flat_map(|record| compare::stray(&record, kind, facts))
                    .collect();
                return Err(match stray.is_empty() {
                    true => SelfCheckError::Missing {
                        kind,
                        hooks: hooks.clone(),
                    },
                    false => SelfCheckError::Wrong(stray),
                });
            }
            Ok(_) => outcome.untried.push((
                kind,
                format!("no record came of its act, though {hooks} is attached"),
            )),
        }
    }
    Ok(())
}

/// One run of the child, and the records that came meanwhile.
#[derive(Default)]
struct Trial {
    own: Vec<Vec<u8>>,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
}

impl Trial {
    fn act(&mut self, kernel: &mut Kernel, until: Instant) -> io::Result<Facts> {
        let directory = directory()?;
        let token = token();
        let mut actor = Actor::start(&token, &directory)?;
        let pid = actor.child.id();
        let mut report = Vec::new();
        while !act::is_whole(&report) {
            actor.read(&mut report)?;
            self.drain(kernel, pid, &token)?;
            in_time(until)?;
        }
        let facts = Facts::gather(pid, &token, &directory, &report)?;
        drop(actor.child.stdin.take());
        while !actor.read(&mut report)? {
            self.drain(kernel, pid, &token)?;
            in_time(until)?;
        }
        // Its end was reported before anyone could wait for it.
        actor.child.wait()?;
        while !self.has_exit(pid) && in_time(until).is_ok() {
            if self.drain(kernel, pid, &token)? == 0 {
                std::thread::sleep(LOOK_EVERY);
                if !self.is_behind(kernel) {
                    break;
                }
            }
        }
        self.drain(kernel, pid, &token)?;
        Ok(facts)
    }

    /// Takes what is in the ring: the child's records apart from all others.
    fn drain(&mut self, kernel: &mut Kernel, pid: u32, token: &str) -> io::Result<usize> {
        let count = kernel.drain_now(|bytes| {
            let is_own = decode(bytes).is_ok_and(|record| record.header.tgid == pid)
                || memchr::memmem::find(bytes, token.as_bytes()).is_some();
            if is_own {
                self.own.push(bytes.to_vec());
            } else {
                self.held_bytes += bytes.len();
                self.held.push(bytes.to_vec());
            }
        });
        if self.held_bytes > HELD_MAX {
            return Err(io::Error::other("too much else is going on"));
        }
        Ok(count)
    }

    /// Whether the kernel has sent more than has been read.
    fn is_behind(&self, kernel: &Kernel) -> bool {
        let read = self.own.len() + self.held.len();
        kernel.counters().is_ok_and(|counters| {
            let sent: u64 = counters.kinds.iter().map(|(_, of)| of.submitted).sum();
            sent > u64::try_from(read).unwrap_or(u64::MAX)
        })
    }

    fn has_exit(&self, pid: u32) -> bool {
        let records = self.own.iter().filter_map(|bytes| decode(bytes).ok());
        records
            .into_iter()
            .any(|r| r.header.kind == Kind::Exit as u16 && r.header.tgid == pid)
    }

    fn key(&self, facts: &Facts) -> Option<(u32, u64)> {
        let records = self.own.iter().filter_map(|bytes| decode(bytes).ok());
        records
            .into_iter()
            .find(|r| r.header.tgid == facts.pid)
            .map(|r| (r.header.tgid, r.header.start_ns))
    }
}

fn in_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "out of time"))
}

/// The acting child; ended, waited for and tidied up after when this goes.
struct Actor {
    child: Child,
    output: ChildStdout,
    file: PathBuf,
}

impl Actor {
    fn start(token: &str, directory: &Path) -> io::Result<Actor> {
        let mut child = Command::new(act::PROGRAM)
            .args([act::MARKER, token])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no pipe"))?;
        Ok(Actor {
            child,
            output,
            file: act::file_of(directory, token),
        })
    }

    /// Reads what it says, waiting only a moment; true when it has closed its output.
    fn read(&mut self, report: &mut Vec<u8>) -> io::Result<bool> {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK_EVERY.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(&self.output, PollFlags::IN)];
        if poll(&mut watched, Some(&moment))? == 0 {
            return Ok(false);
        }
        let mut bytes = [0; 4096];
        let count = self.output.read(&mut bytes)?;
        report.extend(bytes.iter().take(count));
        Ok(count == 0)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It has ended unless something went wrong; then neither it nor its files may stay.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for made in act::made(&self.file) {
            if std::fs::remove_file(&made).is_err() {
                let _ = std::fs::remove_dir(made);
            }
        }
    }
}

/// Where the child may make a file: what the service manager set aside, else the usual places.
fn directory() -> io::Result<PathBuf> {
    use rustix::fs::{Access, access};
    let named = ["RUNTIME_DIRECTORY", "STATE_DIRECTORY"]
        .into_iter()
        .filter_map(std::env::var_os)
        .filter_map(|list| {
            let first = list.as_bytes().split(|byte| *byte == b':').next()?;
            Some(PathBuf::from(std::ffi::OsStr::from_bytes(first)))
        });
    named
        .chain([std::env::temp_dir(), PathBuf::from("/dev/shm")])
        .filter(|path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok())
        .find_map(|path| path.canonicalize().ok())
        .ok_or_else(|| io::Error::other("no directory to make a file in"))
}

/// Told apart from every other process's arguments and files.
fn token() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{:016x}", RandomState::new().hash_one(0_u64))
}
