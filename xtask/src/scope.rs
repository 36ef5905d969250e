//! A cgroup of our own, so that a sensor under test sees nothing but what we do.
//!
//! In: a name. Out: a directory of the version 2 hierarchy, and commands that run inside it. Must never leave the directory
//! behind, nor move a process that it did not start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A cgroup directory, removed at the end.
pub(crate) struct Scope {
    path: PathBuf,
}

impl Scope {
    /// Makes a cgroup below the root of the mounted hierarchy.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .context("cannot read /proc/self/mountinfo")?;
        let root = hierarchy(&mounts).context("no cgroup version 2 hierarchy is mounted")?;
        let path = root.join(format!("eql-sensor-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that joins the cgroup before it becomes the program, so that the program's exec is seen in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(&self.path)
            .args(arguments);
        command
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // A process that has just ended can hold the cgroup for a moment longer.
        for _ in 0..100 {
            if remove(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("cannot remove cgroup {}", self.path.display());
    }
}

/// Removes a cgroup and those that a container made in it.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let below = entry?.path();
        if below.is_dir() {
            remove(&below)?;
        }
    }
    fs::remove_dir(path)
}

/// Mount point of the version 2 hierarchy: alone, or beside version 1 on hybrid systems.
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_version_2 = after.split(' ').next() == Some("cgroup2");
        is_version_2
            .then(|| before.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_alone_and_beside_version_1() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            hierarchy(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        let alone = "30 24 0:24 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(alone), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(
            hierarchy("22 27 0:21 / /proc rw,relatime - proc proc rw\n"),
            None
        );
    }
}
