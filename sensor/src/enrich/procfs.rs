//! What `/proc` says of a process.
//!
//! In: a pid. Out: the facts the kernel shows, each read bounded. A pid may be reused between two reads, so callers compare
//! start times before they believe a word. It must never block on, or follow, anything a process controls.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// `/proc` counts start times in these: the kernel's `USER_HZ` is 100 on every platform this sensor runs on.
pub const TICK_NS: u64 = 10_000_000;
/// Longest argument or environment area read, in bytes.
pub const CMDLINE_LEN_MAX: u64 = 128 * 1024;
/// `PF_KTHREAD` among a task's flags.
const KERNEL_THREAD: i64 = 0x0020_0000;
const STAT_LEN_MAX: u64 = 4096;
const CGROUP_LEN_MAX: u64 = 64 * 1024;
const STATUS_LEN_MAX: u64 = 64 * 1024;

/// A mounted proc file system.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

/// One process as `/proc` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub stat: Stat,
    pub status: Status,
    /// Resolved path with the kernel's ` (deleted)` suffix; empty for kernel threads.
    pub executable: Vec<u8>,
    pub working_directory: Vec<u8>,
    /// The argument area, cut at [`CMDLINE_LEN_MAX`].
    pub arguments: Vec<u8>,
    /// Inode number of the mount namespace.
    pub mount_namespace: Option<u32>,
}

/// From `/proc/PID/stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub pid: u32,
    pub comm: Vec<u8>,
    /// One letter; `Z` and `X` are processes that ended.
    pub state: u8,
    pub parent: u32,
    pub pgid: u32,
    pub sid: u32,
    /// `(major << 20) | minor` of the controlling terminal, 0 for none.
    pub tty: u32,
    /// Start of the thread group leader in ticks of [`TICK_NS`] on the boot clock.
    pub start_ticks: u64,
    pub is_kernel_thread: bool,
}

/// From `/proc/PID/status`: real, effective, saved and file system ids, capabilities, and the pid in the innermost namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub uids: Option<[u32; 4]>,
    pub gids: Option<[u32; 4]>,
    pub namespace_pid: Option<u32>,
    pub capabilities_permitted: Option<u64>,
    pub capabilities_effective: Option<u64>,
}

impl Default for Procfs {
    fn default() -> Procfs {
        Procfs::at("/proc")
    }
}

impl Procfs {
    /// A proc file system mounted elsewhere, or a copy of one.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Procfs {
        Procfs { root: root.into() }
    }

    /// Every pid there is at this moment, at most `max`.
    #[must_use]
    pub fn pids(&self, max: usize) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .take(max)
            .collect()
    }

    /// Everything about a process; `None` when it is gone, or when the pid changed hands meanwhile.
    #[must_use]
    pub fn snapshot(&self, pid: u32) -> Option<Snapshot> {
        let stat = self.stat(pid)?;
        let snapshot = Snapshot {
            status: self
                .read(pid, "status", STATUS_LEN_MAX)
                .map(|text| parse_status(&text))
                .unwrap_or_default(),
            executable: self.link(pid, "exe"),
            working_directory: self.link(pid, "cwd"),
            arguments: self.arguments(pid).unwrap_or_default(),
            mount_namespace: parse_namespace(&self.link(pid, "ns/mnt")),
            stat,
        };
        let after = self.stat(pid)?;
        (after.start_ticks == snapshot.stat.start_ticks).then_some(snapshot)
    }

    #[must_use]
    pub fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&self.read(pid, "stat", STAT_LEN_MAX)?)
    }

    /// The argument area, cut at [`CMDLINE_LEN_MAX`].
    #[must_use]
    pub fn arguments(&self, pid: u32) -> Option<Vec<u8>> {
        self.read(pid, "cmdline", CMDLINE_LEN_MAX)
    }

    /// The environment area, cut at [`CMDLINE_LEN_MAX`].
    #[must_use]
    pub fn environment(&self, pid: u32) -> Option<Vec<u8>> {
        self.read(pid, "environ", CMDLINE_LEN_MAX)
    }

    /// The path of the control group (version 2), as this sensor's own namespace shows it.
    #[must_use]
    pub fn cgroup(&self, pid: u32) -> Option<String> {
        let text = self.read(pid, "cgroup", CGROUP_LEN_MAX)?;
        let mut lines = text.split(|b| *b == b'\n');
        let path = lines.find_map(|line| line.strip_prefix(b"0::"))?;
        Some(String::from_utf8_lossy(path).into_owned())
    }

    fn read(&self, pid: u32, name: &str, len_max: u64) -> Option<Vec<u8>> {
        let file = File::open(self.path(pid, name)).ok()?;
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Where a link of the process leads; empty when it can not be read.
    #[must_use]
    pub fn link(&self, pid: u32, name: &str) -> Vec<u8> {
        std::fs::read_link(self.path(pid, name))
            .map(|target| target.into_os_string().into_vec())
            .unwrap_or_default()
    }

    /// A file about this very process.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.root.join("self").join(name)
    }

    pub(super) fn path(&self, pid: u32, name: &str) -> PathBuf {
        let mut path = self.root.join(pid.to_string());
        path.push(name);
        path
    }
}

/// `pid (comm) state ppid pgrp session tty_nr … starttime …`; comm may hold anything, brackets and newlines too.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?;
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
    // Ids and terminals print as signed numbers; -1 stands for none.
    let id = |index: usize| Some(u32::try_from(number(index)?).unwrap_or(0));
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        comm: bytes.get(open + 1..close)?.to_vec(),
        state: *fields.first()?.as_bytes().first()?,
        parent: id(1)?,
        pgid: id(2)?,
        sid: id(3)?,
        tty: decode_device(id(4)?),
        start_ticks: u64::try_from(number(19)?).ok()?,
        is_kernel_thread: number(6)? & KERNEL_THREAD != 0,
    })
}

/// The kernel prints device numbers with the minor's high bits above the major.
fn decode_device(device: u32) -> u32 {
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    let major = (device >> 8) & 0xfff;
    (major << 20) | minor
}

/// `mnt:[4026531840]`
fn parse_namespace(target: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(target).ok()?;
    let (_, inode) = text.strip_suffix(']')?.split_once('[')?;
    inode.parse().ok()
}

fn parse_status(bytes: &[u8]) -> Status {
    let mut status = Status::default();
    for line in bytes.split(|b| *b == b'\n') {
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|l| l.split_once(':'))
        else {
            continue;
        };
        match key {
            "Uid" => status.uids = ids(value),
            "Gid" => status.gids = ids(value),
            "NSpid" => {
                status.namespace_pid = value
                    .split_ascii_whitespace()
                    .last()
                    .and_then(|p| p.parse().ok());
            }
            "CapPrm" => status.capabilities_permitted = u64::from_str_radix(value.trim(), 16).ok(),
            "CapEff" => status.capabilities_effective = u64::from_str_radix(value.trim(), 16).ok(),
            _ => {}
        }
    }
    status
}

fn ids(value: &str) -> Option<[u32; 4]> {
    let mut ids = value.split_ascii_whitespace().map(|id| id.parse().ok());
    Some([ids.next()??, ids.next()??, ids.next()??, ids.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_hostile_names() {
        let line =
            b"42 (a) R 1 (\n) S 7 42 40 34817 42 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.pid, 42);
        assert_eq!(stat.comm, b"a) R 1 (\n");
        assert_eq!(
            (stat.state, stat.parent, stat.pgid, stat.sid),
            (b'S', 7, 42, 40)
        );
        assert_eq!(stat.tty, (136 << 20) | 1);
        assert_eq!(stat.start_ticks, 123_456);
    }

    #[test]
    fn broken_stat_is_nothing() {
        for line in [
            &b""[..],
            b"1",
            b"1 (",
            b"1 (x)",
            b"1 (x) S 1",
            b")(",
            b"x (y) S 1 1 1 0 0 0",
        ] {
            assert_eq!(parse_stat(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn status_is_read_by_key() {
        let text = b"Name:\tUid:\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t7\t8\nNSpid:\t900\t3\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n";
        let status = parse_status(text);
        assert_eq!(status.uids, Some([1000, 0, 0, 0]));
        assert_eq!(status.gids, Some([5, 6, 7, 8]));
        assert_eq!(status.namespace_pid, Some(3));
        assert_eq!(status.capabilities_permitted, Some(0x1ff_ffff_ffff));
        assert_eq!(status.capabilities_effective, Some(0));
        assert_eq!(parse_status(b"Uid:\tx\n\xff:\n"), Status::default());
    }

    #[test]
    fn this_process_is_there() {
        let proc = Procfs::default();
        let me = proc.snapshot(std::process::id()).unwrap();
        assert_eq!(me.stat.pid, std::process::id());
        assert_eq!(
            me.working_directory,
            std::env::current_dir().unwrap().into_os_string().into_vec()
        );
        assert!(me.arguments.ends_with(b"\0"));
        let own = std::fs::metadata("/proc/self/ns/mnt").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&own);
        assert_eq!(me.mount_namespace.map(u64::from), Some(inode));
        assert!(proc.pids(100_000).contains(&me.stat.pid));
        assert_eq!(proc.snapshot(u32::MAX), None);
    }
}
