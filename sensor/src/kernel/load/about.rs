//! What descriptors alone do not tell of programs that were kept.
//!
//! In: what a daemon knows of them. Out: a file in memory, and the same again at the next start, or why it is of no use: it is read
//! only by a build whose layout is that of the one which wrote it. Reading never panics.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::ftruncate;
use sensor_ebpf::{Kind, settings::Settings};
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use super::programs::PROGRAMS;
use super::{OBJECT, Support};
use crate::keep::{Broken, Keep as _, Reader, Writer, keep};
use crate::kernel::support::socket_calls;
use crate::kernel::{HookReport, HookState, KindCounters, KindSet, NamedKinds, Options};

/// Longest description that is read.
const BYTES_MAX: u64 = 16 << 20;
/// Bytes of a hash.
const HASH_LEN: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) stamp: Stamp,
    pub(super) kinds: KindSet,
    pub(super) named: NamedKinds,
    pub(super) hooks: Vec<SavedHook>,
    pub(super) held: Vec<String>,
    pub(super) served: [u32; 2],
    pub(super) left_out: [KindCounters; Kind::SLOTS],
}

/// What the programs are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Hash of the object and of what was written into it for this kernel.
    pub(super) object: [u8; HASH_LEN],
    /// Options that can not be changed under them, by name.
    pub(super) fixed: Vec<(String, String)>,
    /// Of the tokens in the records and maps.
    pub(super) token_key: u64,
}

/// What is to be done with programs that were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// They are those of this very build.
    Same,
    /// Those of this build come in their place.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedHook {
    kind: u16,
    program: String,
    state: SavedState,
}

keep! {
    About { stamp, kinds, named, hooks, held, served, left_out }
    Stamp { object, fixed, token_key }
    SavedHook { kind, program, state }
    KindCounters {
        seen, submitted, lost_ring_full, degraded, truncated, read_fault, scratch_busy, dropped_self,
        dropped_unwanted, dropped_headroom, dropped_throttled,
    }
}

/// State of a hook; for one that was refused, what the kernel said.
type SavedState = (u8, Option<String>);

fn saved_state(state: &HookState) -> SavedState {
    match state {
        HookState::Attached => (0, None),
        HookState::Refused(reason) => (1, Some(reason.clone())),
        HookState::NotNeeded => (2, None),
        HookState::NotWanted => (3, None),
    }
}

impl SavedHook {
    pub(super) fn of(report: &HookReport) -> SavedHook {
        SavedHook {
            kind: report.kind as u16,
            program: report.program.to_owned(),
            state: saved_state(&report.state),
        }
    }

    pub(super) fn report(self) -> Option<HookReport> {
        let entry = PROGRAMS
            .iter()
            .find(|entry| entry.kind as u16 == self.kind && entry.name == self.program)?;
        Some(HookReport {
            kind: entry.kind,
            program: entry.name,
            hook: entry.hook.name(),
            trampoline: entry.hook.is_trampoline(),
            state: match self.state {
                (0, None) => HookState::Attached,
                (1, Some(reason)) => HookState::Refused(reason),
                (2, None) => HookState::NotNeeded,
                (3, None) => HookState::NotWanted,
                _ => return None,
            },
            blind_to: entry.blind_to,
        })
    }
}

impl Stamp {
    /// Of this build on this kernel.
    pub(super) fn of(support: &Support, options: &Options) -> Stamp {
        let settings = Settings {
            own_tgid: 0,
            token_key: 0,
            // A narrower set than was loaded is had by the names, a wider one by asking for everybody.
            named_kinds: 0,
            ..support.settings
        };
        let mut hash = Sha256::new();
        hash.update(OBJECT);
        hash.update(support.offsets.as_slice());
        hash.update(settings.as_bytes());
        hash.update(support.bulk.as_bytes());
        hash.update(socket_calls().as_bytes());
        let fixed = [
            ("ring_bytes", options.ring_bytes.to_string()),
            ("tier", format!("{:?}", options.tier)),
            ("scope", format!("{:?}", settings.scopes)),
            ("environment", options.environment.to_string()),
            ("bulk", format!("{:?}", options.bulk)),
            ("room_for_bulk", options.room_for_bulk.to_string()),
            ("own_tgid_excluded", options.own_tgid_excluded.to_string()),
            ("diagnostics", options.diagnostics.to_string()),
            // Later instances and those that leave marks for them stay together.
            ("preemption", settings.twice.to_string()),
        ];
        Stamp {
            object: hash.finalize().into(),
            fixed: fixed.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            token_key: support.settings.token_key,
        }
    }

    /// Whether programs of `kept` can go on under this one, or why not.
    pub(super) fn fits(&self, kept: &Stamp) -> Result<Fit, String> {
        let is_in = |(name, value): &(String, String), other: &Stamp| {
            other.fixed.iter().any(|(n, v)| n == name && v == value)
        };
        let gone = kept.fixed.iter().filter(|one| !is_in(one, self));
        let new = self.fixed.iter().filter(|one| !is_in(one, kept));
        let mut differ: Vec<String> = gone
            .chain(new)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        differ.sort_unstable();
        differ.dedup();
        if !differ.is_empty() {
            return Err(format!("other settings: {}", differ.join(", ")));
        }
        if self.object == kept.object {
            return Ok(Fit::Same);
        }
        let says_more = ("diagnostics".to_owned(), true.to_string());
        if self.fixed.contains(&says_more) {
            return Err("another build, whose diagnostics can not be read".to_owned());
        }
        Ok(Fit::Other)
    }
}

impl About {
    /// The hash of what follows, the layout, the description.
    pub(super) fn write_to(&self, memory: &File, layout: &[u8; HASH_LEN]) -> io::Result<()> {
        let mut to = Writer::default();
        to.raw(layout);
        self.write(&mut to);
        let body = to.bytes();
        let mut whole = Sha256::digest(&body).to_vec();
        whole.extend_from_slice(&body);
        ftruncate(memory, 0)?;
        memory.write_all_at(&whole, 0)
    }

    pub(super) fn read_from(memory: &File, layout: &[u8; HASH_LEN]) -> Result<About, String> {
        // By its path it is read from the begin, wherever the one before stopped.
        let len = memory.metadata().map(|of| of.len().min(BYTES_MAX));
        let mut bytes = vec![0; usize::try_from(len.unwrap_or(0)).unwrap_or(0)];
        let broken =
            |what: &dyn std::fmt::Display| format!("what describes them is broken: {what}");
        let read = memory.read_exact_at(&mut bytes, 0);
        read.map_err(|error| broken(&error))?;
        let (hash, body) = bytes
            .split_at_checked(HASH_LEN)
            .ok_or_else(|| broken(&Broken::Short))?;
        if *hash != *Sha256::digest(body) {
            return Err(broken(&"its hash is not that of its contents"));
        }
        let mut from = Reader::plain(body);
        let found = from.raw(HASH_LEN).map_err(|error| broken(&error))?;
        if found != layout {
            return Err("another layout of records and maps".to_owned());
        }
        let about = About::read(&mut from).map_err(|error| broken(&error))?;
        from.end().map_err(|error| broken(&error))?;
        Ok(about)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::super::layout::FORM;
    use super::*;

    fn stamp(object: u8, ring_bytes: &str, more: &[(&str, &str)]) -> Stamp {
        let mut fixed = vec![("ring_bytes".to_owned(), ring_bytes.to_owned())];
        let more = more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        fixed.extend(more);
        Stamp {
            object: [object; HASH_LEN],
            fixed,
            token_key: u64::from(object) << 40 | 5,
        }
    }

    #[test]
    fn programs_go_on_under_the_same_settings_whatever_the_build() {
        let ours = stamp(1, "4096", &[("diagnostics", "false")]);
        assert_eq!(ours.fits(&ours), Ok(Fit::Same));
        let other_key = Stamp {
            token_key: 9,
            ..ours.clone()
        };
        assert_eq!(ours.fits(&other_key), Ok(Fit::Same));
        let other = stamp(2, "4096", &[("diagnostics", "false")]);
        assert_eq!(ours.fits(&other), Ok(Fit::Other));
    }

    #[test]
    fn what_differs_is_named() {
        for (kept, expected) in [
            (
                stamp(1, "8192", &[("tier", "Auto")]),
                "other settings: `ring_bytes`",
            ),
            (
                stamp(2, "4096", &[("tier", "Tracepoints")]),
                "other settings: `tier`",
            ),
            (stamp(1, "4096", &[]), "other settings: `tier`"),
            (
                stamp(1, "1", &[("tier", "Auto"), ("speed", "9")]),
                "other settings: `ring_bytes`, `speed`",
            ),
        ] {
            let ours = stamp(1, "4096", &[("tier", "Auto")]);
            assert_eq!(ours.fits(&kept), Err(expected.to_owned()));
        }
        let told = |object| stamp(object, "4096", &[("diagnostics", "true")]);
        assert_eq!(told(1).fits(&told(1)), Ok(Fit::Same));
        let refused = told(1).fits(&told(2)).unwrap_err();
        assert_eq!(refused, "another build, whose diagnostics can not be read");
    }

    fn memory() -> File {
        memfd_create("about", MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn sample() -> About {
        let mut named = NamedKinds::default();
        named.narrow(Kind::Connect, ["nc"].into_iter());
        let mut left_out = [KindCounters::default(); Kind::SLOTS];
        left_out[2].seen = 300;
        left_out[2].dropped_throttled = 1;
        About {
            stamp: stamp(7, "4096", &[("tier", "Auto")]),
            kinds: KindSet::EMPTY.with(Kind::Connect),
            named,
            hooks: vec![
                SavedHook {
                    kind: 1,
                    program: "process_fork".to_owned(),
                    state: (0, None),
                },
                SavedHook {
                    kind: 4,
                    program: "file_create".to_owned(),
                    state: (1, Some("no".to_owned())),
                },
            ],
            held: vec!["process_fork".to_owned()],
            served: [1, 2],
            left_out,
        }
    }

    #[test]
    fn a_description_reads_back_under_its_layout_alone() {
        let (memory, about, layout) = (memory(), sample(), [3; HASH_LEN]);
        about.write_to(&memory, &layout).unwrap();
        assert_eq!(About::read_from(&memory, &layout).as_ref(), Ok(&about));
        assert_eq!(
            About::read_from(&memory, &[4; HASH_LEN]).unwrap_err(),
            "another layout of records and maps"
        );
        // A shorter one leaves nothing of the longer.
        About::default().write_to(&memory, &layout).unwrap();
        assert_eq!(About::read_from(&memory, &layout), Ok(About::default()));
    }

    #[test]
    fn a_description_that_is_not_whole_is_refused() {
        let (memory, layout) = (memory(), [3; HASH_LEN]);
        assert!(About::read_from(&memory, &layout).is_err());
        sample().write_to(&memory, &layout).unwrap();
        let len = memory.metadata().unwrap().len();
        for at in (0..len).step_by(7) {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, at).unwrap();
            memory.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let refused = About::read_from(&memory, &layout).unwrap_err();
            assert!(refused.contains("its hash is not"), "{refused}");
            memory.write_all_at(&byte, at).unwrap();
        }
        for shorter in 0..len {
            ftruncate(&memory, shorter).unwrap();
            assert!(About::read_from(&memory, &layout).is_err(), "{shorter}");
            sample().write_to(&memory, &layout).unwrap();
        }
    }

    /// Whoever changes this sample changes what later builds read: [`FORM`] is to be raised.
    #[test]
    fn the_form_is_that_of_the_sample() {
        let mut to = Writer::default();
        sample().write(&mut to);
        let mut hex = String::new();
        for byte in Sha256::digest(to.bytes()) {
            write!(hex, "{byte:02x}").unwrap();
        }
        assert_eq!(
            (FORM, &*hex),
            (
                1,
                "b15ca0d99772917ea57704922b5f522a1ea81f2ddf6c3649a30213f44da2794a"
            )
        );
    }
}
