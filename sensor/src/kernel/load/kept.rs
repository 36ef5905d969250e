//! Programs that go on recording while no daemon runs.
//!
//! In: what is loaded, and a place that keeps descriptors. Out: maps, programs and their attachments there, with a description of
//! them; at the next start the same taken up again, when it is of this very object and these very options. New programs share the
//! maps that were kept. Nothing is taken up in part: one missing piece, and all of it is left to be loaded anew.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use aya::{Ebpf, maps::Map};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use sensor_ebpf::Kind;
use sensor_ebpf::settings::Settings;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use super::programs::{self, PROGRAMS};
use super::{Kernel, LoadError, OBJECT, Programs, Support, fdinfo, locked};
use crate::fd_store::{FdStore, Tools};
use crate::keep::{Broken, Keep, Reader, Writer, keep};
use crate::kernel::{HookReport, HookState, KindCounters, KindSet, NamedKinds, Options};

/// How the names of all that is kept here begin.
const PREFIX: &str = "kernel.";
const ABOUT: &str = "kernel.about";
const MAP: &str = "kernel.map.";
const PROGRAM: &str = "kernel.program.";
const LINK: &str = "kernel.link.";
/// Longest description that is read.
const ABOUT_BYTES_MAX: u64 = 16 << 20;

/// A program that an earlier daemon loaded and attached.
pub(super) struct Adopted {
    pub(super) name: &'static str,
    pub(super) program: OwnedFd,
    /// It is attached as long as this or the manager's own is open.
    _link: OwnedFd,
}

/// What descriptors alone do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct About {
    /// Hash of the object and of the options that can not be changed later.
    stamp: [u8; 32],
    kinds: KindSet,
    named: NamedKinds,
    hooks: Vec<SavedHook>,
    held: Vec<String>,
    served: [u32; 2],
    left_out: [KindCounters; Kind::SLOTS],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SavedHook {
    kind: u16,
    program: String,
    state: SavedState,
}

keep! {
    About { stamp, kinds, named, hooks, held, served, left_out }
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
    fn of(report: &HookReport) -> SavedHook {
        SavedHook {
            kind: report.kind as u16,
            program: report.program.to_owned(),
            state: saved_state(&report.state),
        }
    }

    fn report(self) -> Option<HookReport> {
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

/// Everything of an earlier daemon, complete.
pub(super) struct Found {
    about: About,
    hooks: Vec<HookReport>,
    maps: Vec<(String, OwnedFd)>,
    adopted: Vec<Adopted>,
    memory: File,
    tools: Tools,
}

impl Found {
    /// What was handed over, if it is all there and fits; what does not is given up, and says why.
    pub(super) fn look(store: &mut FdStore, stamp: &[u8; 32]) -> Option<Found> {
        if !store.names().any(|name| name.starts_with(PREFIX)) {
            return None;
        }
        or_give_up(Found::take(store, stamp), store)
    }

    fn take(store: &mut FdStore, stamp: &[u8; 32]) -> Result<Found, String> {
        let memory = store.take(ABOUT).ok_or("what describes them is missing")?;
        let memory = File::from(memory);
        let about = About::read_from(&memory).map_err(|error| error.to_string())?;
        if about.stamp != *stamp {
            return Err("they are of another build, or of other settings".to_owned());
        }
        let hooks = about.hooks.iter().cloned().map(SavedHook::report);
        let hooks = hooks
            .collect::<Option<Vec<_>>>()
            .ok_or("a hook is unknown")?;
        let mut adopted: Vec<Adopted> = Vec::new();
        for name in &about.held {
            if adopted.iter().any(|there| there.name == name) {
                continue;
            }
            let entry = programs::all().find(|entry| entry.name == name);
            let mut part = |prefix: &str| {
                let part = format!("{prefix}{name}");
                store.take(&part).ok_or(format!("`{part}` is missing"))
            };
            adopted.push(Adopted {
                name: entry
                    .map(|entry| entry.name)
                    .ok_or("a program is unknown")?,
                program: part(PROGRAM)?,
                _link: part(LINK)?,
            });
        }
        let names: Vec<String> = store
            .names()
            .filter(|name| name.starts_with(MAP))
            .map(str::to_owned)
            .collect();
        let mut maps = Vec::with_capacity(names.len());
        for name in names {
            if let Some(map) = store.take(&name) {
                maps.push((name.trim_start_matches(MAP).to_owned(), map));
            }
        }
        Ok(Found {
            about,
            hooks,
            maps,
            adopted,
            memory,
            tools: store.tools(),
        })
    }

    /// Puts the maps that were kept in the place of those just made, before anything uses them.
    fn replace_maps(&self, ebpf: &Ebpf) -> Result<(), LoadError> {
        for (name, map) in ebpf.maps() {
            let kept = self.maps.iter().find(|(kept, _)| kept == name);
            let (_, kept) = kept.ok_or_else(|| LoadError::Kept(format!("the map `{name}`")))?;
            let map =
                descriptor(map).ok_or_else(|| LoadError::Kept(format!("the map `{name}`")))?;
            (self.tools.stand_in)(map, kept.as_fd()).map_err(LoadError::Descriptors)?;
        }
        Ok(())
    }

    /// The programs as they were left, over an object just loaded.
    pub(super) fn programs(self, ebpf: Ebpf, options: &Options) -> Result<Programs, LoadError> {
        self.replace_maps(&ebpf)?;
        let held = self.about.held.iter().filter_map(|held| {
            let entry = programs::all().find(|entry| entry.name == held)?;
            Some(entry.name)
        });
        Ok(Programs {
            ebpf,
            options: Options {
                kinds: self.about.kinds,
                named: self.about.named.clone(),
                ..options.clone()
            },
            hooks: self.hooks,
            held: held.collect(),
            served: self.about.served,
            stamp: self.about.stamp,
            adopted: self.adopted,
            kept: Some(Kept {
                memory: self.memory,
                store: None,
                left_out: self.about.left_out,
            }),
        })
    }
}

/// That the programs are kept, and what it takes to bring that up to date.
pub(super) struct Kept {
    memory: File,
    /// Where, once the start is over.
    store: Option<FdStore>,
    pub(super) left_out: [KindCounters; Kind::SLOTS],
}

impl Kernel {
    /// Whether the programs ran on since an earlier daemon.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Has everything kept that a later daemon needs to take up these programs.
    ///
    /// # Errors
    /// It can not be kept; then a later daemon loads them anew.
    pub fn keep_in(&mut self, mut store: FdStore) -> Result<(), LoadError> {
        let programs = &mut *locked(&self.programs);
        let mut put = |name: &str, fd: Option<BorrowedFd<'_>>| {
            let fd = fd.ok_or_else(|| LoadError::Kept(format!("the map `{name}`")))?;
            let name = format!("{MAP}{name}");
            if store.keeps(&name) {
                return Ok(());
            }
            store.put(&name, fd).map_err(LoadError::Descriptors)
        };
        put("RING", self.ring.descriptor())?;
        for (name, map) in programs.ebpf.maps() {
            put(name, descriptor(map))?;
        }
        let memory = match programs.kept.take() {
            Some(kept) => kept.memory,
            None => memfd_create("eql-sensor kernel programs", MemfdFlags::CLOEXEC)
                .map(File::from)
                .map_err(|error| LoadError::Descriptors(error.into()))?,
        };
        programs.kept = Some(Kept {
            memory,
            store: Some(store),
            left_out: self.left_out,
        });
        programs.keep_new()
    }
}

impl Programs {
    /// Has the programs kept that are not yet, then the description of all.
    pub(super) fn keep_new(&mut self) -> Result<(), LoadError> {
        let Some(Kept {
            memory,
            store: Some(store),
            left_out,
        }) = &mut self.kept
        else {
            return Ok(());
        };
        let about = About {
            stamp: self.stamp,
            kinds: self.options.kinds,
            named: self.options.named.clone(),
            hooks: self.hooks.iter().map(SavedHook::of).collect(),
            held: self.held.iter().map(|name| (*name).to_owned()).collect(),
            served: self.served,
            left_out: *left_out,
        };
        let links = own_links(store.tools()).map_err(LoadError::Descriptors)?;
        for name in &self.held {
            let names = [PROGRAM, LINK].map(|prefix| format!("{prefix}{name}"));
            let [program_name, link_name] = &names;
            if names.iter().all(|name| store.keeps(name)) {
                continue;
            }
            let missing = || LoadError::Kept(format!("the program `{name}`"));
            let program = self.ebpf.program(name).ok_or_else(missing)?;
            let id = program.info().map_err(|_| missing())?.id();
            let program = program.fd().map_err(|_| missing())?;
            let link = links.iter().find(|(of, _)| *of == u64::from(id));
            let (_, link) = link.ok_or_else(missing)?;
            store
                .put(program_name, program.as_fd())
                .and_then(|()| store.put(link_name, link.as_fd()))
                .map_err(LoadError::Descriptors)?;
        }
        about.write_to(memory).map_err(LoadError::Descriptors)?;
        if !store.keeps(ABOUT) {
            // Last: with it, everything is there.
            store
                .put(ABOUT, memory.as_fd())
                .map_err(LoadError::Descriptors)?;
        }
        Ok(())
    }
}

impl About {
    fn write_to(&self, memory: &File) -> io::Result<()> {
        let mut to = Writer::default();
        self.write(&mut to);
        let body = to.bytes();
        let mut whole = Sha256::digest(&body).to_vec();
        whole.extend_from_slice(&body);
        ftruncate(memory, 0)?;
        memory.write_all_at(&whole, 0)
    }

    fn read_from(memory: &File) -> Result<About, io::Error> {
        // By its path it is read from the begin, wherever the one before stopped.
        let mut bytes =
            vec![0; usize::try_from(memory.metadata()?.len().min(ABOUT_BYTES_MAX)).unwrap_or(0)];
        memory.read_exact_at(&mut bytes, 0)?;
        let broken = |what: &dyn std::fmt::Display| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("what describes them is broken: {what}"),
            )
        };
        let (hash, body) = bytes
            .split_at_checked(32)
            .ok_or_else(|| broken(&Broken::Short))?;
        if *hash != *Sha256::digest(body) {
            return Err(broken(&"its hash is not that of its contents"));
        }
        let mut from = Reader::plain(body);
        let about = About::read(&mut from).map_err(|error| broken(&error))?;
        from.end().map_err(|error| broken(&error))?;
        Ok(about)
    }
}

/// What must be the same for programs to be taken up: the object, and the options that can not change under them.
pub(super) fn stamp(support: &Support, options: &Options) -> [u8; 32] {
    let settings = Settings {
        own_tgid: 0,
        token_key: 0,
        // A narrower set than was loaded is had by the names, a wider one by asking for everybody.
        named_kinds: 0,
        ..support.settings
    };
    let fixed = (
        options.ring_bytes,
        options.tier,
        &options.bulk,
        options.room_for_bulk,
        options.own_tgid_excluded,
        options.diagnostics,
    );
    let mut hash = Sha256::new();
    hash.update(OBJECT);
    hash.update(support.offsets.as_slice());
    hash.update(settings.as_bytes());
    hash.update(support.bulk.as_bytes());
    hash.update(format!("{fixed:?}"));
    hash.finalize().into()
}

/// What came of taking up the programs of the last run. If it came to nothing they are given up, loudly.
pub(super) fn or_give_up<T, E: std::fmt::Display>(
    outcome: Result<T, E>,
    store: &mut FdStore,
) -> Option<T> {
    let why = match outcome {
        Ok(taken) => return Some(taken),
        Err(why) => why,
    };
    tracing::warn!("kernel programs of the last run are given up and loaded anew: {why}");
    if let Err(error) = store.remove(PREFIX) {
        tracing::error!("the service manager can not be told to give them up: {error}");
    }
    None
}

impl Adopted {
    /// Runs of it that the kernel skipped.
    pub(super) fn skipped(&self) -> Option<(&'static str, u64)> {
        Some((self.name, fdinfo(self.program.as_fd(), "recursion_misses")?))
    }
}

/// Attachments that this process holds, by the number of their program.
fn own_links(tools: Tools) -> io::Result<Vec<(u64, OwnedFd)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let entry = entry?;
        // The descriptor of this very directory is gone when it is looked at.
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        let (Some(_), Some(program)) = (number("link_id:"), number("prog_id:")) else {
            continue;
        };
        let descriptor = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(descriptor) = descriptor {
            links.push((program, (tools.duplicate)(descriptor)?));
        }
    }
    Ok(links)
}

/// The descriptor of a map of a sort that the object has.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::PerCpuArray(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::PerCpuHashMap(map)
        | Map::PerCpuLruHashMap(map)
        | Map::RingBuf(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}
