//! Opens and reads files that events are about.
//!
//! In: the process that acted, the path as it saw it, the inode. Out: what the file holds, or why that can't be told. It opens
//! regular files alone, never follows a link at the end of a path, never waits for a lock or a peer, reads no more than it is
//! allowed to, and takes another file of the same name for what it is.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, Stat, fstat, fstatfs, open};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::super::procfs::{Procfs, TICK_NS};
use crate::event::contents::{Contents, HEADER_LEN, Whole, hex};

/// Files whose contents are remembered.
const CACHE_MAX: usize = 4096;
/// A file that changed so shortly ago may change once more without its times telling.
const SETTLED: Duration = Duration::from_secs(1);
const CHUNK_LEN: usize = 64 * 1024;
/// File systems that another process or host serves: to read there may take for ever.
const SERVED_ELSEWHERE: [u32; 7] = [
    0x6573_5546, // fuse
    0x6969,      // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x5346_414f, // afs
];

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pid: u32,
    /// Start of the process, boot clock, nanoseconds.
    pub(super) start_ns: u64,
    /// Inode number of its mount namespace.
    pub(super) mntns: u32,
    /// As its root shows it.
    pub(super) path: Box<str>,
    /// The file's; `None` where nobody knows it.
    pub(super) inode: Option<u64>,
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// There is nothing to read: a pipe, a device, a directory.
    NotRegular,
    /// Gone, another file by now, or not to be opened.
    Gone,
}

/// One state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Version {
    fn of(stat: &Stat) -> Version {
        Version {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// Whether another change would show in the times.
    fn is_settled(&self, now: Duration) -> bool {
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        now.saturating_sub(changed) > SETTLED
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    file: OwnedFd,
}

impl Opened {
    pub(super) fn version(&self) -> Option<Version> {
        Some(Version::of(&fstat(&self.file).ok()?))
    }
}

/// Reads, and remembers what it read.
#[derive(Debug)]
pub(super) struct Reader {
    procfs: Procfs,
    /// Longest file that is read as a whole.
    bytes_max: u64,
    chunk: Vec<u8>,
    cache: HashMap<Version, Contents>,
    order: VecDeque<Version>,
}

impl Reader {
    pub(super) fn new(procfs: Procfs, bytes_max: u64) -> Reader {
        Reader {
            procfs,
            bytes_max,
            chunk: vec![0; CHUNK_LEN],
            cache: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The file at a path.
    pub(super) fn open(&self, place: &Place) -> Result<Opened, Unread> {
        let found = self
            .procfs
            .at_path((place.pid, place.mntns), place.path.as_bytes(), true);
        let found = found.ok_or(Unread::Gone)?;
        self.reopen(&found, place.inode)
    }

    /// The file that a process runs, even when no directory has it any more; by its path when the process is gone.
    pub(super) fn open_program(&self, place: &Place) -> Result<Opened, Unread> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let is_it = place.inode.is_some() || self.still_runs(place);
        let found = open(self.procfs.path(place.pid, "exe"), flags, Mode::empty());
        if is_it
            && let Ok(found) = found
            && let Ok(opened) = self.reopen(&found, place.inode)
        {
            return Ok(opened);
        }
        match place.inode {
            Some(_) => self.open(place),
            None => Err(Unread::Gone),
        }
    }

    /// Without the inode of the file the process itself must be the same and run the same path.
    fn still_runs(&self, place: &Place) -> bool {
        let stat = self.procfs.stat(place.pid);
        let same = stat.is_some_and(|stat| stat.start_ticks == place.start_ns / TICK_NS);
        same && self.procfs.link(place.pid, "exe") == place.path.as_bytes()
    }

    /// Opens for reading what was only looked up so far: to open a device could be an act of its own.
    fn reopen(&self, found: &OwnedFd, inode: Option<u64>) -> Result<Opened, Unread> {
        const S_IFMT: u32 = 0o170_000;
        const S_IFREG: u32 = 0o100_000;
        let stat = fstat(found).map_err(|_| Unread::Gone)?;
        if inode.is_some_and(|inode| inode != stat.st_ino) {
            return Err(Unread::Gone);
        }
        if stat.st_mode & S_IFMT != S_IFREG {
            return Err(Unread::NotRegular);
        }
        let system = fstatfs(found).map_err(|_| Unread::Gone)?;
        let magic = u32::try_from(system.f_type & 0xffff_ffff).unwrap_or_default();
        if SERVED_ELSEWHERE.contains(&magic) {
            return Err(Unread::Gone);
        }
        let number = found.as_fd().as_raw_fd();
        let path = self.procfs.own(&format!("fd/{number}"));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match open(&path, flags | OFlags::NOATIME, Mode::empty()) {
            // Only its owner, and who may act as such, can read without a trace in the access time.
            Err(Errno::PERM) => open(&path, flags, Mode::empty()),
            other => other,
        };
        let file = file.map_err(|_| Unread::Gone)?;
        Ok(Opened { file })
    }

    /// What a file holds: its size and first bytes, and what all of it tells if `whole` and it is not too long. A file that
    /// changes meanwhile is read once more, and then without its whole.
    pub(super) fn read(&mut self, opened: Opened, whole: bool) -> Option<Contents> {
        let version = opened.version()?;
        let is_enough = |known: &Contents| known.whole.is_some() || !whole;
        if let Some(known) = self.cache.get(&version)
            && (is_enough(known) || version.size > self.bytes_max)
        {
            return Some(known.clone());
        }
        let mut file = File::from(opened.file);
        let contents = self.pass(&mut file, version.size, whole)?;
        let opened = Opened { file: file.into() };
        let after = opened.version()?;
        if after != version {
            let start = rustix::fs::SeekFrom::Start(0);
            rustix::fs::seek(&opened.file, start).ok()?;
            let mut file = File::from(opened.file);
            let again = self.pass(&mut file, after.size, whole)?;
            let last = Version::of(&fstat(&file).ok()?);
            return Some(if last == after {
                again
            } else {
                Contents {
                    whole: None,
                    ..again
                }
            });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        if version.is_settled(now.unwrap_or_default()) {
            self.remember(version, contents.clone());
        }
        Some(contents)
    }

    /// One pass over a file of about `size` bytes.
    fn pass(&mut self, file: &mut File, size: u64, whole: bool) -> Option<Contents> {
        let whole = whole && size <= self.bytes_max;
        let mut header: Vec<u8> = Vec::with_capacity(HEADER_LEN);
        let mut hash = Sha256::new();
        let mut counts = [0_u64; 256];
        let mut total: u64 = 0;
        loop {
            let room = if whole { CHUNK_LEN } else { HEADER_LEN };
            let read = file.read(self.chunk.get_mut(..room)?).ok()?;
            let bytes = self.chunk.get(..read)?;
            let missing = HEADER_LEN - header.len();
            header.extend(bytes.iter().take(missing));
            total += u64::try_from(read).unwrap_or_default();
            // One that grows while it is read has no end.
            let too_long = total > self.bytes_max.max(size);
            if read == 0 || too_long || (!whole && header.len() == HEADER_LEN) {
                break;
            }
            if whole {
                hash.update(bytes);
                for byte in bytes {
                    if let Some(count) = counts.get_mut(usize::from(*byte)) {
                        *count += 1;
                    }
                }
            }
        }
        Some(Contents {
            size,
            header: hex(&header),
            whole: whole.then(|| Whole {
                sha256: hex(&hash.finalize()),
                entropy: entropy(&counts),
            }),
        })
    }

    fn remember(&mut self, version: Version, contents: Contents) {
        if self.cache.insert(version, contents).is_none() {
            self.order.push_back(version);
        }
        if self.order.len() > CACHE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.cache.remove(&oldest);
        }
    }
}

/// Shannon entropy in bits a byte.
fn entropy(counts: &[u64; 256]) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no more than 52 bits"
    )]
    let float = |count: u64| count as f64;
    let total = float(counts.iter().sum());
    let shares = counts.iter().filter(|count| **count > 0);
    let bits = shares.map(|count| {
        let share = float(*count) / total;
        share * -share.log2()
    });
    bits.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn reader(bytes_max: u64) -> Reader {
        Reader::new(Procfs::default(), bytes_max)
    }

    fn place(path: &Path, inode: Option<u64>) -> Place {
        let mntns = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        Place {
            pid: std::process::id(),
            start_ns: 0,
            mntns: u32::try_from(mntns).unwrap(),
            path: path.to_str().unwrap().into(),
            inode,
        }
    }

    fn read(reader: &mut Reader, place: &Place, whole: bool) -> Result<Contents, Unread> {
        let opened = reader.open(place)?;
        Ok(reader.read(opened, whole).unwrap())
    }

    #[test]
    fn a_file_is_read_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let path = folder.join("file");
        let mut reader = reader(300);
        let mut check = |bytes: &[u8], header: &str, sha256: Option<&str>, entropy: f64| {
            fs::write(&path, bytes).unwrap();
            let found = read(&mut reader, &place(&path, None), true).unwrap();
            assert_eq!(usize::try_from(found.size).unwrap(), bytes.len());
            assert_eq!(&*found.header, header);
            assert_eq!(found.whole.as_ref().map(|whole| &*whole.sha256), sha256);
            if let Some(whole) = found.whole {
                let off = (whole.entropy - entropy).abs();
                assert!(off < 1e-12, "{}", whole.entropy);
            }
            let start = read(&mut reader, &place(&path, None), false).unwrap();
            assert_eq!((&*start.header, start.whole), (header, None));
        };
        check(b"abc", "616263", Some(ABC), 3.0_f64.log2());
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        check(b"", "", Some(empty), 0.0);
        let every: Vec<u8> = (0..=255).collect();
        let of_every = "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880";
        check(
            &every,
            "000102030405060708090a0b0c0d0e0f",
            Some(of_every),
            8.0,
        );
        // Too long for its whole.
        check(&[b'x'; 301], &"78".repeat(16), None, 0.0);
    }

    #[test]
    fn only_the_very_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(folder.path()).unwrap();
        let (file, link) = (folder.join("file"), folder.join("link"));
        fs::write(&file, "abc").unwrap();
        symlink("file", &link).unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        let mut reader = reader(300);
        assert!(read(&mut reader, &place(&file, Some(inode)), false).is_ok());
        let mut refused = |path: &Path, inode, why| {
            let found = read(&mut reader, &place(path, inode), false);
            assert_eq!(found, Err(why), "{}", path.display());
        };
        refused(&file, Some(inode + 1), Unread::Gone);
        refused(&folder.join("none"), None, Unread::Gone);
        refused(&link, None, Unread::NotRegular);
        refused(&folder, None, Unread::NotRegular);
        refused(Path::new("/dev/null"), None, Unread::NotRegular);
    }

    #[test]
    fn a_program_is_read_while_it_runs() {
        let reader = &mut reader(1 << 30);
        let path = std::env::current_exe().unwrap();
        let stat = Procfs::default().stat(std::process::id()).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        let own = Place {
            start_ns: stat.start_ticks * TICK_NS,
            ..place(&path, None)
        };
        let opened = reader.open_program(&own).unwrap();
        assert_eq!(opened.version().unwrap().inode, inode);
        let known = place(&path, Some(inode));
        assert!(reader.open_program(&known).is_ok());
        // Not this program any more, another process, or gone: then only a known file counts.
        let other = place(&path, Some(inode + 1));
        assert_eq!(reader.open_program(&other).unwrap_err(), Unread::Gone);
        let younger = Place {
            start_ns: own.start_ns + TICK_NS,
            ..own.clone()
        };
        assert_eq!(reader.open_program(&younger).unwrap_err(), Unread::Gone);
        let gone = Place {
            pid: u32::MAX,
            ..known
        };
        assert!(reader.open_program(&gone).is_ok());
        let unknown = Place {
            inode: None,
            ..gone
        };
        assert_eq!(reader.open_program(&unknown).unwrap_err(), Unread::Gone);
    }

    #[test]
    fn what_did_not_change_is_read_once() {
        let mut reader = reader(1 << 30);
        // Of this test's own program: it is older than a second, and nobody writes it.
        let path = std::env::current_exe().unwrap();
        let one = read(&mut reader, &place(&path, None), true).unwrap();
        assert_eq!(reader.cache.len(), 1);
        let version = *reader.order.front().unwrap();
        let marked = Contents {
            header: "from the cache".into(),
            ..one
        };
        reader.cache.insert(version, marked.clone());
        assert_eq!(
            read(&mut reader, &place(&path, None), true).unwrap(),
            marked
        );
        // A file that has just changed is not remembered.
        let file = tempfile::NamedTempFile::new().unwrap();
        read(&mut reader, &place(file.path(), None), true).unwrap();
        assert_eq!(reader.cache.len(), 1);
    }
}
