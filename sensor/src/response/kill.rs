//! One process: whether it may be killed, and its end.
//!
//! In: a [`Target`]. Out: a [`Found`] process that is still the one the event told of, or why it is left alone. A descriptor of whoever
//! has the pid is opened first and the identity compared after that, so that the signal, which goes through the descriptor, can not
//! reach another process that gets the pid later: there is none behind the descriptor then.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::CapabilitySet;

use super::{Outcome, Target};
use crate::enrich::cgroups::Cgroups;
use crate::enrich::host::EntityIds;
use crate::enrich::procfs::{Procfs, TICK_NS};
use crate::event::Host;

/// What grants the privilege to signal processes of other users.
pub(super) const DROP_IN: &str = "/usr/share/eql-sensor/drop-ins/response.conf";
/// How long a process that was killed may take to end.
const END_WAIT: Duration = Duration::from_secs(1);
/// The same while the sensor itself is to end.
const LAST_WAIT: Duration = Duration::from_millis(20);
/// Between two looks at whether it is.
const STEP: Duration = Duration::from_millis(10);
/// How long a process may take to stop.
const STOP_WAIT: Duration = Duration::from_millis(100);
/// Processes looked at for children.
const PROCESSES_MAX: usize = 1 << 22;
/// Processes above this one that are looked at.
const ABOVE_MAX: usize = 64;

/// Why a process is left alone, whatever a rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is the first process of the system")]
    First,
    #[error("it is the sensor itself")]
    Own,
    #[error("the sensor runs below it")]
    Above,
    #[error("its pid belongs to another process now")]
    Another,
    #[error("it is a kernel thread")]
    KernelThread,
    #[error("it is outside of the control groups that are watched (kernel.scope)")]
    OutOfScope,
}

/// Whether this process may signal those of other users.
pub(super) fn is_permitted() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::KILL))
}

/// Knows which processes may be killed.
#[derive(Debug)]
pub struct Guard {
    procfs: Procfs,
    ids: EntityIds,
    own_pid: u32,
    /// Control groups whose processes may be killed, and those below; empty is all.
    scope: Vec<PathBuf>,
    cgroups: Option<PathBuf>,
}

impl Guard {
    /// Of this host, and in its scope.
    #[must_use]
    pub fn new(host: &Host, scope: &[PathBuf]) -> Guard {
        // As the kernel names them: a scope may be given through a link.
        let whole = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        Guard {
            procfs: Procfs::default(),
            ids: EntityIds::of(host),
            own_pid: std::process::id(),
            scope: scope.iter().map(whole).collect(),
            cgroups: Cgroups::of_host().mount().map(Path::to_owned),
        }
    }

    /// The process, held by a descriptor.
    ///
    /// # Errors
    /// Why it is not to be killed, or can not be.
    pub fn find(&self, target: &Target) -> Result<Found, Outcome> {
        let refused = |refusal| Err(Outcome::Refused(refusal));
        let pid = i32::try_from(target.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            let why = format!("{} is no pid", target.pid);
            return Err(Outcome::Failed(why));
        };
        if target.pid == 1 {
            return refused(Refusal::First);
        }
        if target.pid == self.own_pid {
            return refused(Refusal::Own);
        }
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            // A pid that no process leads any more, though a thread may have it.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Err(Outcome::Ended),
            Err(error) => return Err(failed(error)),
        };
        let Some(stat) = self.procfs.stat(target.pid) else {
            return Err(Outcome::Ended);
        };
        let start_ns = stat.start_ticks.saturating_mul(TICK_NS);
        if self.ids.entity_id(target.pid, start_ns) != target.entity_id {
            return refused(Refusal::Another);
        }
        if matches!(stat.state, b'Z' | b'X') {
            return Err(Outcome::Ended);
        }
        if stat.is_kernel_thread {
            return refused(Refusal::KernelThread);
        }
        if self.is_above(target.pid) {
            return refused(Refusal::Above);
        }
        if !self.is_in_scope(target.pid) {
            return refused(Refusal::OutOfScope);
        }
        Ok(Found {
            process,
            pid: target.pid,
        })
    }

    /// Stops a process that is to be killed, so that it makes no more children.
    pub(super) fn hold(&self, found: &Found) {
        if pidfd_send_signal(&found.process, Signal::STOP).is_err() {
            // The one that kills it says why.
            return;
        }
        let begun = Instant::now();
        let runs = || {
            let stat = self.procfs.stat(found.pid);
            stat.is_some_and(|stat| !matches!(stat.state, b'T' | b't' | b'Z' | b'X'))
        };
        while runs() && begun.elapsed() < STOP_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The children of a process; none once it has ended, when its pid may be another's.
    pub(super) fn children(&self, found: &Found) -> Vec<Target> {
        let pids = self.procfs.pids(PROCESSES_MAX);
        let stats = pids.into_iter().filter_map(|pid| self.procfs.stat(pid));
        let children = stats.filter(|stat| stat.parent == found.pid);
        let children: Vec<Target> = children
            .map(|stat| {
                let start_ns = stat.start_ticks.saturating_mul(TICK_NS);
                let executable = self.procfs.link(stat.pid, "exe");
                Target {
                    pid: stat.pid,
                    entity_id: self.ids.entity_id(stat.pid, start_ns),
                    name: Some(String::from_utf8_lossy(&stat.comm).into()),
                    executable: (!executable.is_empty())
                        .then(|| String::from_utf8_lossy(&executable).into()),
                    command_line: None,
                }
            })
            .collect();
        if found.ends_within(Duration::ZERO) {
            return Vec::new();
        }
        children
    }

    /// Whether the sensor would go with it.
    fn is_above(&self, pid: u32) -> bool {
        let mut at = self.own_pid;
        for _ in 0..ABOVE_MAX {
            let Some(stat) = self.procfs.stat(at).filter(|stat| stat.parent > 1) else {
                return false;
            };
            if stat.parent == pid {
                return true;
            }
            at = stat.parent;
        }
        false
    }

    fn is_in_scope(&self, pid: u32) -> bool {
        if self.scope.is_empty() {
            return true;
        }
        let (Some(path), Some(mount)) = (self.procfs.cgroup(pid), &self.cgroups) else {
            return false;
        };
        let path = mount.join(path.trim_start_matches('/'));
        self.scope.iter().any(|scope| path.starts_with(scope))
    }
}

/// A process that may be killed.
#[derive(Debug)]
pub struct Found {
    process: OwnedFd,
    pid: u32,
}

impl Found {
    /// What would come of it.
    #[must_use]
    pub fn would_end(&self) -> Outcome {
        if self.ends_within(Duration::ZERO) {
            Outcome::Ended
        } else {
            Outcome::DryRun
        }
    }

    /// Kills it and waits until it has ended.
    #[must_use]
    pub fn end(&self, is_hurried: &AtomicBool) -> Outcome {
        if self.ends_within(Duration::ZERO) {
            return Outcome::Ended;
        }
        match pidfd_send_signal(&self.process, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Outcome::Ended,
            Err(error) => return failed(error),
        }
        let begun = Instant::now();
        loop {
            if self.ends_within(STEP) {
                return Outcome::Killed;
            }
            let is_hurried = is_hurried.load(Ordering::Relaxed);
            let patience = if is_hurried { LAST_WAIT } else { END_WAIT };
            if begun.elapsed() >= patience {
                let why = "it took the signal and has not ended yet";
                return Outcome::Failed(why.to_owned());
            }
        }
    }

    /// A descriptor of a process can be read once that has ended.
    fn ends_within(&self, time: Duration) -> bool {
        let mut descriptors = [PollFd::new(&self.process, PollFlags::IN)];
        let time = Timespec::try_from(time).ok();
        poll(&mut descriptors, time.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

fn failed(error: Errno) -> Outcome {
    let mut why = crate::document::os_text(&io::Error::from(error));
    if error == Errno::PERM {
        why.push_str("; it takes CAP_KILL, see ");
        why.push_str(DROP_IN);
    }
    Outcome::Failed(why)
}

#[cfg(test)]
impl Guard {
    /// What `/proc` says is read elsewhere.
    pub(super) fn reading(mut self, procfs: Procfs) -> Guard {
        self.procfs = procfs;
        self
    }

    /// As if another process were the sensor.
    pub(super) fn for_sensor(mut self, pid: u32) -> Guard {
        self.own_pid = pid;
        self
    }

    pub(super) fn entity_id(&self, pid: u32) -> std::sync::Arc<str> {
        let stat = Procfs::default().stat(pid).unwrap();
        self.ids.entity_id(pid, stat.start_ticks * TICK_NS)
    }
}
