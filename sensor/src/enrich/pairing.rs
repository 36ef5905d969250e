//! Joins the two records of a file act: what was begun, and what came of it.
//!
//! In: begins and ends in the order of the ring, exits, and how many ends the kernel lost. Out: acts that came about, and
//! those of which nobody will know because their end was lost. An act that failed is never given out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sensor_ebpf::{FileActBody, FileEndBody, Header, Kind};

use crate::decode;
use crate::keep::{Broken, Keep, Reader, Writer, keep, keep_bytes};

/// Threads with an act begun and not ended, and acts in doubt; each of them.
const OPEN_MAX: usize = 4096;
/// An act that took longer than this when an end was lost is taken to be the one whose end it was.
const PATIENCE_NS: u64 = 1_000_000_000;

/// One act, whole or with what came of it unknown.
#[derive(Clone, Debug)]
pub(super) struct Act {
    /// Of the begin, but the time of the end.
    pub(super) header: Header,
    pub(super) kind: Kind,
    /// `None` when only the begin's header came.
    pub(super) begun: Option<Begun>,
    /// What was made, when the end knows.
    pub(super) made: Option<FileEndBody>,
    /// Its end said that it was done.
    pub(super) confirmed: bool,
    /// Ends lost when it was begun, as far as was known then.
    lost: u64,
}

/// What the begin of an act says, paths as one text each.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) body: FileActBody,
    pub(super) old_path: Box<[u8]>,
    pub(super) path: Box<[u8]>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairing {
    /// By thread: each does one thing at a time.
    open: HashMap<u32, Act>,
    /// Acts without an end, until the next word about losses tells why.
    doubtful: Vec<Act>,
    /// Ends lost so far, as last told.
    lost: u64,
    forgotten: u64,
}

keep! {
    Act { header, kind, begun, made, confirmed, lost }
    Begun { body, old_path, path }
}
keep_bytes! { Header FileActBody FileEndBody }

impl Keep for Kind {
    fn write(&self, to: &mut Writer) {
        (*self as u16).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        decode::kind_of(u16::read(from)?).ok_or(Broken::No("kind of record"))
    }
}

impl Keep for Pairing {
    fn write(&self, to: &mut Writer) {
        self.open.len().write(to);
        self.open.values().for_each(|act| act.write(to));
        self.doubtful.write(to);
        (self.lost, self.forgotten).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let open: Vec<Act> = Keep::read(from)?;
        let doubtful = Keep::read(from)?;
        let (lost, forgotten) = Keep::read(from)?;
        let by_thread = open.into_iter().map(|act| (act.header.tid, act));
        Ok(Pairing {
            open: by_thread.collect(),
            doubtful,
            lost,
            forgotten,
        })
    }
}

impl Pairing {
    /// Acts forgotten because they neither ended nor can their end have been lost, or because there were too many.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// An act begins. `act` is `None` when only the header came.
    pub(super) fn begin(&mut self, header: &Header, kind: Kind, act: Option<&decode::FileAct<'_>>) {
        let act = Act {
            header: *header,
            kind,
            begun: act.map(|act| Begun {
                body: *act.body,
                old_path: match kind {
                    // Not a path of this process's, but a text to be followed later.
                    Kind::Symlink => act.old_path.into(),
                    _ => joined(act.old_directory, act.old_path).into(),
                },
                path: joined(act.directory, act.path).into(),
            }),
            made: None,
            confirmed: false,
            lost: self.lost,
        };
        let full = self.open.len() >= OPEN_MAX;
        match self.open.entry(header.tid) {
            Entry::Occupied(mut open) => {
                let before = open.insert(act);
                self.doubt(before);
            }
            Entry::Vacant(_) if full => self.forgotten += 1,
            Entry::Vacant(place) => {
                place.insert(act);
            }
        }
    }

    /// An act ends: gives it back if it is the one that the thread began and came about. `end` is `None` when only the header
    /// came, and then nobody knows.
    pub(super) fn end(&mut self, header: &Header, end: Option<&FileEndBody>) -> Option<Act> {
        let Entry::Occupied(open) = self.open.entry(header.tid) else {
            return None;
        };
        if let Some(end) = end {
            let mine = match &open.get().begun {
                Some(begun) => begun.body.token == end.token,
                None => u32::from(open.get().kind as u16) == end.kind,
            };
            if !mine {
                // The same act on the file system below, as overlayfs does it.
                return None;
            }
            if end.result != 0 {
                open.remove();
                return None;
            }
        }
        let mut act = open.remove();
        act.header.boot_ns = header.boot_ns;
        act.confirmed = end.is_some();
        act.made = end.copied().filter(|end| end.inode != 0);
        Some(act)
    }

    /// A process is gone: nothing that its threads began will end.
    pub(super) fn exit(&mut self, tgid: u32) {
        if self.open.is_empty() {
            return;
        }
        let gone: Vec<Act> = self
            .open
            .extract_if(|_, act| act.header.tgid == tgid)
            .map(|(_, act)| act)
            .collect();
        for act in gone {
            self.doubt(act);
        }
    }

    fn doubt(&mut self, act: Act) {
        if self.doubtful.len() < OPEN_MAX {
            self.doubtful.push(act);
        } else {
            self.forgotten += 1;
        }
    }

    /// Ends lost so far, looked up at `now_ns`: gives out the acts whose end may be among them. `last` when nothing more will
    /// come.
    pub(super) fn lost(&mut self, lost: u64, now_ns: u64, last: bool) -> Vec<Act> {
        self.lost = self.lost.max(lost);
        let lost = self.lost;
        let mut unknown = Vec::new();
        for act in self.doubtful.drain(..) {
            if act.lost < lost {
                unknown.push(act);
            } else {
                self.forgotten += 1;
            }
        }
        let waited = |act: &Act| last || act.header.boot_ns.saturating_add(PATIENCE_NS) < now_ns;
        let open = &mut self.open;
        if !open.is_empty() {
            let given_up = open.extract_if(|_, act| act.lost < lost && waited(act));
            unknown.extend(given_up.map(|(_, act)| act));
        }
        unknown.sort_by_key(|act| act.header.boot_ns);
        unknown
    }
}

/// A path as one text: a relative one behind its directory, without `.`, `..` and doubled slashes. One that the kernel gave
/// has none of these, and one whose directory is unknown stays as it is.
fn joined<'a>(directory: &[u8], path: &'a [u8]) -> Cow<'a, [u8]> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    let absolute = path.first() == Some(&b'/');
    if !absolute && directory.first() != Some(&b'/') {
        return Cow::Borrowed(path);
    }
    let odd = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
    if absolute && path.len() > 1 && !path.split(|byte| *byte == b'/').skip(1).any(odd) {
        return Cow::Borrowed(path);
    }
    let base = if absolute { &[] } else { directory };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in base.split(|b| *b == b'/').chain(path.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut whole = Vec::with_capacity(base.len() + path.len() + 2);
    for part in parts {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    if whole.is_empty() {
        whole.push(b'/');
    }
    Cow::Owned(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::testing::{act_body, end_body, header};

    const THREAD: (u32, u64) = (7, 1);

    fn begin(pairing: &mut Pairing, boot_ns: u64, token: u64, path: &str) {
        let body = act_body(token);
        let act = decode::FileAct {
            body: &body,
            old_directory: b"",
            old_path: b"",
            directory: b"",
            path: path.as_bytes(),
        };
        let header = header(Kind::Delete, boot_ns, THREAD);
        pairing.begin(&header, Kind::Delete, Some(&act));
    }

    fn end(pairing: &mut Pairing, token: u64, result: i32) -> Option<Act> {
        let header = header(Kind::FileEnd, 900, THREAD);
        pairing.end(&header, Some(&end_body(Kind::Delete, token, result)))
    }

    fn path(act: &Act) -> &str {
        std::str::from_utf8(&act.begun.as_ref().unwrap().path).unwrap()
    }

    #[test]
    fn what_succeeded_comes_out_once() {
        let mut pairing = Pairing::default();
        assert!(end(&mut pairing, 1, 0).is_none());
        begin(&mut pairing, 100, 1, "/a");
        // The layer below, be it done or not.
        assert!(end(&mut pairing, 2, 0).is_none());
        assert!(end(&mut pairing, 3, -1).is_none());
        let act = end(&mut pairing, 1, 0).unwrap();
        assert_eq!(
            (path(&act), act.header.boot_ns, act.confirmed),
            ("/a", 900, true)
        );
        assert!(end(&mut pairing, 1, 0).is_none());
        assert!(pairing.lost(5, 10_000_000_000, true).is_empty());
        assert_eq!(pairing.forgotten(), 0);
    }

    #[test]
    fn what_failed_never_comes_out() {
        let mut pairing = Pairing::default();
        begin(&mut pairing, 100, 1, "/a");
        assert!(end(&mut pairing, 1, -13).is_none());
        assert!(end(&mut pairing, 1, 0).is_none());
        assert!(pairing.lost(5, 10_000_000_000, true).is_empty());
    }

    #[test]
    fn without_loss_what_does_not_end_is_forgotten() {
        let mut pairing = Pairing::default();
        assert!(pairing.lost(3, 50, false).is_empty());
        begin(&mut pairing, 100, 1, "/a");
        begin(&mut pairing, 200, 2, "/b");
        assert!(end(&mut pairing, 1, 0).is_none());
        pairing.exit(THREAD.0);
        assert!(end(&mut pairing, 2, 0).is_none());
        assert!(pairing.lost(3, 10_000_000_000, true).is_empty());
        assert_eq!(pairing.forgotten(), 2);
    }

    #[test]
    fn after_a_loss_it_is_given_out_as_unknown() {
        let mut pairing = Pairing::default();
        begin(&mut pairing, 100, 1, "/a");
        begin(&mut pairing, 200, 2, "/b");
        let unknown = pairing.lost(1, 300, false);
        assert_eq!(unknown.iter().map(path).collect::<Vec<_>>(), ["/a"]);
        assert!(!unknown[0].confirmed);
        // The second may still be under way.
        let later = 200 + PATIENCE_NS;
        assert!(pairing.lost(1, later, false).is_empty());
        let unknown = pairing.lost(1, later + 1, false);
        assert_eq!(unknown.iter().map(path).collect::<Vec<_>>(), ["/b"]);
        assert!(end(&mut pairing, 2, 0).is_none());
        // What begins after the loss is as sure as before.
        begin(&mut pairing, 300, 3, "/c");
        pairing.exit(THREAD.0);
        assert!(pairing.lost(1, later, true).is_empty());
    }

    #[test]
    fn half_records_still_pair() {
        let mut pairing = Pairing::default();
        begin(&mut pairing, 100, 1, "/a");
        let act = pairing
            .end(&header(Kind::FileEnd, 900, THREAD), None)
            .unwrap();
        assert_eq!((path(&act), act.confirmed), ("/a", false));
        pairing.begin(&header(Kind::Delete, 100, THREAD), Kind::Delete, None);
        let other = end_body(Kind::Rename, 5, 0);
        assert!(
            pairing
                .end(&header(Kind::FileEnd, 1, THREAD), Some(&other))
                .is_none()
        );
        let act = end(&mut pairing, 5, 0).unwrap();
        assert!(act.begun.is_none() && act.confirmed);
    }

    #[test]
    fn there_is_a_bound() {
        let mut pairing = Pairing::default();
        for tid in 0..2 * u32::try_from(OPEN_MAX).unwrap() {
            pairing.begin(&header(Kind::Delete, 1, (tid, 1)), Kind::Delete, None);
        }
        assert_eq!(pairing.open.len(), OPEN_MAX);
        assert_eq!(pairing.forgotten(), u64::try_from(OPEN_MAX).unwrap());
        for round in 0..3 {
            for tid in 0..u32::try_from(OPEN_MAX).unwrap() {
                pairing.begin(&header(Kind::Delete, round, (tid, 1)), Kind::Delete, None);
            }
        }
        assert_eq!(pairing.doubtful.len(), OPEN_MAX);
    }

    #[test]
    fn paths_become_one_text() {
        for (directory, path, expected) in [
            ("", "/a/b", "/a/b"),
            ("/w", "a", "/w/a"),
            ("/", "a", "/a"),
            ("/w", "./a//b/../c", "/w/a/c"),
            ("/w/x", "../a", "/w/a"),
            ("/w", "../../..", "/"),
            ("/w", "sub/", "/w/sub"),
            ("/w", "/a/./b", "/a/b"),
            ("/w", "/", "/"),
            ("", "//a", "/a"),
            // A descriptor alone names the file, as linkat allows.
            ("/w/file", "", "/w/file"),
            ("", "a/../b", "a/../b"),
            ("", "", ""),
            ("/w", "..a", "/w/..a"),
        ] {
            let found = joined(directory.as_bytes(), path.as_bytes());
            assert_eq!(
                String::from_utf8_lossy(&found),
                expected,
                "{directory} {path}"
            );
        }
    }
}
