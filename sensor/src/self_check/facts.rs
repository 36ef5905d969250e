//! What was done, and what `/proc` says of who did it.
//!
//! In: the acting child's report, and `/proc` while it waits. Out: [`Facts`], the yardstick of its records. Nothing here comes
//! from a record.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, statfs};

use super::act;
use crate::enrich::procfs::{Procfs, Snapshot, Stat};

/// File systems whose inode and device numbers are the same to `stat` as inside the kernel: ext, XFS, tmpfs, F2FS.
const PLAIN: [i64; 4] = [0xef53, 0x5846_5342, 0x0102_1994, 0xf2f5_2010_u32 as i64];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) pid: u32,
    pub(super) process: Snapshot,
    /// The sensor itself.
    pub(super) parent: Stat,
    pub(super) mount_namespace: Option<u64>,
    pub(super) network_namespace: Option<u64>,
    /// Inode, device and mode of the executable, where they can be compared.
    pub(super) executable: Option<[u64; 3]>,
    pub(super) file: PathBuf,
    /// Whether inode and device of that file can be compared.
    pub(super) file_is_plain: bool,
    /// By act: its numbers, or why it could not be done.
    pub(super) acts: BTreeMap<String, Result<Vec<u64>, String>>,
}

impl Facts {
    pub(super) fn gather(
        pid: u32,
        token: &str,
        directory: &Path,
        report: &[u8],
    ) -> io::Result<Facts> {
        let gone = || io::Error::other("/proc does not show the sensor's own processes");
        let proc = Procfs::default();
        let namespace = |name: &str| namespace(&format!("/proc/{pid}/ns/{name}"));
        Ok(Facts {
            pid,
            process: proc.snapshot(pid).ok_or_else(gone)?,
            parent: proc.stat(std::process::id()).ok_or_else(gone)?,
            mount_namespace: namespace("mnt"),
            network_namespace: namespace("net"),
            executable: executable(pid),
            file: act::file_of(directory, token),
            file_is_plain: is_plain(directory),
            acts: acts(&String::from_utf8_lossy(report)),
        })
    }

    /// A number the child reported of an act.
    pub(super) fn number(&self, act: &str, index: usize) -> Option<u64> {
        self.acts.get(act)?.as_ref().ok()?.get(index).copied()
    }

    /// Why an act was not done.
    pub(super) fn not_done(&self, act: &str) -> Option<String> {
        match self.acts.get(act) {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why.clone()),
            None => Some("not tried".to_owned()),
        }
    }
}

/// `name number…` or `name ! reason`, line by line.
fn acts(report: &str) -> BTreeMap<String, Result<Vec<u64>, String>> {
    let parsed = report.lines().map(|line| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let outcome = match rest.strip_prefix("! ") {
            Some(why) => Err(why.to_owned()),
            None => Ok(rest
                .split_ascii_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect()),
        };
        (name.to_owned(), outcome)
    });
    parsed.collect()
}

/// `mnt:[4026531841]`.
fn namespace(path: &str) -> Option<u64> {
    let target = fs::read_link(path).ok()?;
    let text = target.to_str()?;
    let (_, number) = text.split_once('[')?;
    number.strip_suffix(']')?.parse().ok()
}

fn executable(pid: u32) -> Option<[u64; 3]> {
    let path = format!("/proc/{pid}/exe");
    let of = fs::metadata(&path).ok()?;
    let device = u64::from(major(of.dev())) << 20 | u64::from(minor(of.dev()));
    is_plain(Path::new(&path)).then_some([of.ino(), device, of.mode().into()])
}

fn is_plain(path: &Path) -> bool {
    statfs(path).is_ok_and(|of| {
        PLAIN
            .iter()
            .any(|magic| i128::from(*magic) == i128::from(of.f_type))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back() {
        let acts = acts("create 7 8 9\nrename \nconnect6 ! Cannot assign requested address\nend\n");
        let facts = Facts {
            acts,
            ..Facts::default()
        };
        assert_eq!(facts.number("create", 1), Some(8));
        assert_eq!(facts.number("create", 3), None);
        assert_eq!(facts.not_done("rename"), None);
        assert_eq!(
            facts.not_done("connect6").as_deref(),
            Some("Cannot assign requested address")
        );
        assert_eq!(facts.not_done("fly").as_deref(), Some("not tried"));
    }

    #[test]
    fn namespaces_have_numbers() {
        assert!(namespace("/proc/self/ns/mnt").is_some_and(|number| number > 0));
        assert_eq!(namespace("/proc/self/exe"), None);
    }
}
