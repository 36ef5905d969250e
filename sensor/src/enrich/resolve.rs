//! Where a path of a process leads: for records that only have what the caller passed to the kernel.
//!
//! In: a pid, the directory the path begins in, the path. Out: the path made whole by its text alone, and what is there now, as
//! far as that can be looked up without waiting. It reads no file, and follows nothing that is not in the kernel's
//! directory cache: a file system that a process serves could else hold the sensor up.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use super::procfs::Procfs;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// As the process's root sees it, symbolic links resolved.
    pub(super) path: Vec<u8>,
    pub(super) inode: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Procfs {
    /// Looks a path up as the process would, or, when it is gone, as another in its mount namespace would.
    /// `None` when there is no such file any more, when its directories are not in the kernel's cache, or before 5.12, which
    /// can not be asked to look there alone.
    pub(super) fn resolve(
        &self,
        (pid, mntns): (u32, u32),
        path: &[u8],
        no_follow: bool,
    ) -> Option<Found> {
        let root = self.root_of((pid, mntns))?;
        let file = look_up(&root, path, no_follow, ResolveFlags::CACHED).ok()?;
        let stat = fstat(&file).ok()?;
        let above = self.opened(&root)?;
        let whole = self.opened(&file)?;
        let below = whole.strip_prefix(&above).ok()?;
        Some(Found {
            path: Path::new("/").join(below).into_os_string().into_vec(),
            inode: stat.st_ino,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }

    /// What a path of a process leads to, only looked up, not opened. This may wait for a file system.
    pub(super) fn at_path(
        &self,
        process: (u32, u32),
        path: &[u8],
        no_follow: bool,
    ) -> Option<OwnedFd> {
        let root = self.root_of(process)?;
        match look_up(&root, path, no_follow, ResolveFlags::CACHED) {
            // Before 5.12, or not in the cache any more.
            Err(Errno::INVAL | Errno::AGAIN) => {
                look_up(&root, path, no_follow, ResolveFlags::empty()).ok()
            }
            found => found.ok(),
        }
    }

    /// The root of a process; when it is gone, that of the first process or of the sensor, if it was in the same mount namespace:
    /// a service often has one of its own.
    fn root_of(&self, (pid, mntns): (u32, u32)) -> Option<OwnedFd> {
        let namespace = |file| Some(std::fs::metadata(file).ok()?.ino());
        let wanted = Some(u64::from(mntns));
        let itself = |name: &str| self.path(pid, name);
        let host = |name: &str| self.path(1, name);
        let own = |name: &str| self.own(name);
        let witnesses: [&dyn Fn(&str) -> PathBuf; 3] = [&itself, &host, &own];
        let witness = witnesses
            .into_iter()
            .find(|at| namespace(at("ns/mnt")) == wanted)?;
        let root = witness("root");
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&root, directory, Mode::empty()).ok()
    }

    /// The path of an open file, as this process sees it.
    fn opened(&self, file: &OwnedFd) -> Option<PathBuf> {
        let number = file.as_fd().as_raw_fd();
        std::fs::read_link(self.own(&format!("fd/{number}"))).ok()
    }
}

fn look_up(
    root: &OwnedFd,
    path: &[u8],
    no_follow: bool,
    how: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if no_follow {
        flags |= OFlags::NOFOLLOW;
    }
    let name = Path::new(std::ffi::OsStr::from_bytes(path));
    let how = how | ResolveFlags::IN_ROOT;
    openat2(root, name, flags, Mode::empty(), how)
}

/// A path made absolute and rid of `.` and `..` by its text alone: symbolic links stay what they are.
pub(super) fn joined(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let base: &[u8] = if path.starts_with(b"/") {
        b""
    } else {
        directory
    };
    for name in base
        .split(|byte| *byte == b'/')
        .chain(path.split(|byte| *byte == b'/'))
    {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let mut whole = Vec::with_capacity(base.len() + path.len() + 1);
    for name in names {
        whole.push(b'/');
        whole.extend_from_slice(name);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    #[test]
    fn paths_are_joined_by_their_text() {
        let check = |directory: &str, path: &str, expected: &str| {
            let joined = joined(directory.as_bytes(), path.as_bytes());
            assert_eq!(String::from_utf8(joined).unwrap(), expected);
        };
        check("/a/b", "c", "/a/b/c");
        check("/a/b", "../c/./d//e", "/a/c/d/e");
        check("/a/b", "/x/../y", "/y");
        check("/a", "../../..", "/");
        check("", "c", "/c");
        check("/", "c", "/c");
    }

    #[test]
    fn a_path_is_looked_up_as_the_process_would() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::canonicalize(folder.path()).unwrap();
        let (file, link) = (folder.join("file"), folder.join("link"));
        std::fs::write(&file, "x").unwrap();
        symlink("file", &link).unwrap();
        // A link that is younger than its last use would be marked as used once more, for which the look-up does not wait.
        let time = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
        let times = Timestamps {
            last_access: time(2_000_000_000),
            last_modification: time(1),
        };
        utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        // Puts the names into the cache.
        let metadata = std::fs::metadata(&link).unwrap();
        let procfs = Procfs::default();
        let mntns = std::fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        let mntns = u32::try_from(mntns).unwrap();
        let pid = (std::process::id(), mntns);
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let found = procfs.resolve(pid, &bytes(&link), false).unwrap();
        assert_eq!(found.path, bytes(&file));
        assert_eq!((found.inode, found.mode), (metadata.ino(), metadata.mode()));
        let itself = procfs.resolve(pid, &bytes(&link), true).unwrap();
        assert_eq!(itself.path, bytes(&link));
        assert_eq!(itself.mode & 0o170_000, 0o120_000);
        assert_eq!(procfs.resolve(pid, &bytes(&folder.join("no")), false), None);
        // A process that is gone, from here and from elsewhere.
        let gone = procfs.resolve((u32::MAX, mntns), &bytes(&link), false);
        assert_eq!(gone.unwrap().path, bytes(&file));
        assert_eq!(procfs.resolve((u32::MAX, 1), &bytes(&file), false), None);
    }
}
