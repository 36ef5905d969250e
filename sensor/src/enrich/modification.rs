//! Events of the kinds that come in masses: modification, open of what is watched, and when they are held back.
//!
//! In: their records. Out: an event, or none where a closer look shows that nothing happened that is to be told: the kernel
//! compares names alone, and some records hold a path that only user space can follow. Never an event for anything but a
//! regular file, as far as that can be known.

use sensor_ebpf::{Header, ThrottleBody, change, record_flag};

use super::{Enricher, resolve};
use crate::decode::{self, Modify};
use crate::event::file::Change;
use crate::event::{Event, File, Kind, Target};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
/// Below these there are no files but the kernel's own.
const KERNELS_OWN: [&[u8]; 2] = [b"/proc/", b"/sys/"];

/// What is watched: names, whole paths, and directories with a slash at their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    entries: Vec<String>,
}

impl Watched {
    #[must_use]
    pub fn new(entries: Vec<String>) -> Watched {
        Watched { entries }
    }

    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        self.entries.iter().any(|entry| {
            if entry.ends_with('/') {
                path.starts_with(entry.as_str())
            } else if entry.starts_with('/') {
                path == entry
            } else {
                name == entry
            }
        })
    }
}

impl Enricher {
    /// Sets what is watched: of opens, only those of it become events.
    pub fn set_watched(&mut self, watched: Watched) {
        self.watched = watched;
    }

    /// What was done to a file; `None` when it turns out not to be a stored, regular one.
    pub(super) fn modification(&mut self, header: &Header, modify: &Modify<'_>) -> Option<Event> {
        let body = modify.body;
        let mut file = if header.flags & record_flag::PATH_FROM_USER != 0 {
            self.looked_up(header, modify)?
        } else {
            self.file(modify.path, body.inode, body.mode, body.uid, body.gid)
        };
        file.change = match body.change {
            change::WRITE => Some(Change::Write),
            change::TRUNCATE => Some(Change::Truncate),
            change::MODE => Some(Change::Mode),
            change::OWNER => Some(Change::Owner),
            _ => None,
        };
        let process = self.actor(header);
        Some(self.stamp(Kind::Modification, header, process, Target::File(file)))
    }

    /// An open of what is watched; `None` for what only has the name of it.
    pub(super) fn opening(&mut self, header: &Header, file: &decode::File<'_>) -> Option<Event> {
        let body = file.body;
        let file = self.file(file.path, body.inode, body.mode, body.uid, body.gid);
        if !self.watched.contains(file.path().unwrap_or_default()) {
            return None;
        }
        let process = self.actor(header);
        Some(self.stamp(Kind::Open, header, process, Target::File(file)))
    }

    pub(super) fn throttle(&mut self, header: &Header, body: &ThrottleBody) -> Event {
        let process = self.actor(header);
        if body.on != 0 {
            return self.stamp(Kind::ThrottleStarted, header, process, Target::Process);
        }
        let target = Target::Dropped(body.dropped);
        self.stamp(Kind::ThrottleEnded, header, process, target)
    }

    /// The file that a path of the caller's leads to; as the text says where it can not be followed any more.
    fn looked_up(&mut self, header: &Header, modify: &Modify<'_>) -> Option<File> {
        let path = resolve::joined(modify.directory, modify.path);
        let body = modify.body;
        let process = (header.tgid, header.mntns);
        let procfs = self.procfs.as_ref();
        let found = procfs.and_then(|procfs| procfs.resolve(process, &path, body.no_follow != 0));
        let at = found.as_ref().map_or(&path, |found| &found.path);
        if KERNELS_OWN.iter().any(|own| at.starts_with(own)) {
            return None;
        }
        let Some(found) = found else {
            let path = String::from_utf8_lossy(&path).into();
            let mut file = File::without_inode(path, 0);
            file.path_from_user = true;
            return Some(file);
        };
        if found.mode & S_IFMT != S_IFREG {
            return None;
        }
        // What was asked for was done; what is there may have changed once more since.
        let asked = |value: u32, else_: u32| if value == u32::MAX { else_ } else { value };
        let mode = S_IFREG | asked(body.mode, found.mode) & 0o7777;
        let (uid, gid) = (asked(body.uid, found.uid), asked(body.gid, found.gid));
        Some(self.file(&found.path, found.inode, mode, uid, gid))
    }

    /// The file of a record.
    pub(super) fn file(&mut self, path: &[u8], inode: u64, mode: u32, uid: u32, gid: u32) -> File {
        File::new(
            String::from_utf8_lossy(path.strip_suffix(b"\0").unwrap_or(path)).into(),
            inode,
            mode,
            self.users.user(uid),
            self.users.group(gid),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sensor_ebpf::{FileBody, Kind as RecordKind, ModifyBody};

    use super::super::process_table::TableLimits;
    use super::super::testing::{Key, header};
    use super::super::users::Users;
    use super::*;
    use crate::decode::Body;
    use crate::event::{Host, Values, schema};

    const KEY: Key = (70, 5);

    fn enricher() -> Enricher {
        let limits = TableLimits {
            processes_max: 8,
            grace_ns: 1,
            image_bytes_max: 1 << 20,
        };
        let host = Arc::new(Host::default());
        Enricher::new(
            host,
            limits,
            Users::from_files("/nonexistent/passwd", "/nonexistent/group"),
            None,
        )
    }

    fn modify(directory: &str, path: &str, change: u32, flags: u32) -> Vec<Event> {
        let user = flags != 0;
        let body = ModifyBody {
            inode: if user { 0 } else { 8 },
            dev: 1,
            mode: if user { u32::MAX } else { 0o100_640 },
            uid: 3,
            gid: 4,
            change,
            no_follow: 0,
        };
        let mut header = header(RecordKind::Modify, 9, KEY);
        header.flags = flags;
        let modify = Modify {
            body: &body,
            directory: directory.as_bytes(),
            path: path.as_bytes(),
        };
        enricher().feed_all(&header, Body::Modify(modify))
    }

    fn shown(event: &Event, path: &str) -> String {
        match (schema::field(path).unwrap().get)(event) {
            Values::Missing => "-".to_owned(),
            values => format!("{:?}", values.get(0).unwrap()),
        }
    }

    #[test]
    fn a_change_is_named_and_its_file_described() {
        for (number, name) in [(1, "write"), (2, "truncate"), (3, "chmod"), (4, "chown")] {
            let events = modify("", "/srv/a.txt", number, 0);
            let [event] = events.as_slice() else {
                panic!("{events:?}");
            };
            assert_eq!(
                (event.kind, event.kind.action()),
                (Kind::Modification, "modification")
            );
            for (path, expected) in [
                ("file.Ext.modification", name),
                ("file.path", "/srv/a.txt"),
                ("file.name", "a.txt"),
                ("file.extension", "txt"),
                ("file.inode", "8"),
                ("file.mode", "0640"),
                ("file.type", "file"),
                ("file.uid", "3"),
                ("file.gid", "4"),
            ] {
                assert_eq!(shown(event, path), format!("Str({expected:?})"), "{path}");
            }
        }
    }

    #[test]
    fn what_can_not_be_looked_up_is_left_out() {
        let events = modify("/srv/d", "../x/./a", 3, record_flag::PATH_FROM_USER);
        let [event] = events.as_slice() else {
            panic!("{events:?}");
        };
        assert_eq!(shown(event, "file.path"), "Str(\"/srv/x/a\")");
        for path in ["inode", "mode", "type", "uid", "gid", "owner", "group"] {
            assert_eq!(shown(event, &format!("file.{path}")), "-", "{path}");
        }
        // The kernel's own files are none.
        let own = modify("/proc/1", "comm", 3, record_flag::PATH_FROM_USER);
        assert!(own.is_empty(), "{own:?}");
    }

    #[test]
    fn only_what_is_watched_is_told_as_opened() {
        let watched = ["name", "/a/path", "/all/below/"]
            .map(str::to_owned)
            .to_vec();
        let mut enricher = enricher();
        enricher.set_watched(Watched::new(watched));
        let body = FileBody {
            inode: 8,
            dev: 1,
            mode: 0o100_600,
            uid: 0,
            gid: 0,
            open_flags: 0,
            reserved: 0,
        };
        for (path, expected) in [
            ("/x/name", 1),
            ("/name", 1),
            ("/x/names", 0),
            ("/a/path", 1),
            ("/b/path", 0),
            ("/a/path/", 0),
            ("/all/below/x/y", 1),
            ("/x/all/below/x", 0),
            ("/all/below", 0),
        ] {
            let file = decode::File {
                body: &body,
                path: path.as_bytes(),
            };
            let events = enricher.feed_all(&header(RecordKind::Open, 9, KEY), Body::Open(file));
            assert_eq!(events.len(), expected, "{path}");
            assert!(events.iter().all(|event| event.kind == Kind::Open));
        }
    }

    #[test]
    fn a_throttle_begins_and_ends() {
        let mut enricher = enricher();
        let mut feed = |on, dropped| {
            let body = ThrottleBody {
                dropped,
                on,
                reserved: 0,
            };
            let header = header(RecordKind::Throttle, 9, KEY);
            enricher.feed(&header, Body::Throttle(&body))
        };
        let (begun, over) = (feed(1, 0), feed(0, 77));
        assert_eq!(begun.kind, Kind::ThrottleStarted);
        assert_eq!(shown(&begun, "process.pid"), "Int(70)");
        assert_eq!(over.kind, Kind::ThrottleEnded);
        assert_eq!(shown(&over, "sensor.dropped"), "Int(77)");
    }
}
