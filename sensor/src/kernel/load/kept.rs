//! Programs that go on recording while no daemon runs.
//!
//! In: what is loaded, and a place that keeps descriptors. Out: maps, gates and their attachments there, with a description of
//! them; at the next start the same taken up again, when layout and options are the same. Programs of another build are followed by
//! this build's own: those are loaded beside them, over the same maps, and then each gate leads there. Nothing is taken up in part:
//! one missing piece, and all of it is left to be loaded anew.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::{Btf as KernelBtf, Ebpf, maps::Map};
use rustix::fs::{MemfdFlags, memfd_create};
use sensor_ebpf::Kind;
use sensor_ebpf::settings::Settings;

use super::about::{About, Fit, SavedHook, Stamp};
use super::programs::{self, Entry, SHARED};
use super::{
    Kernel, LoadError, Programs, Support, fdinfo, gate, layout, load_object, load_one, locked,
    reason,
};
use crate::fd_store::{FdStore, Tools};
use crate::kernel::{HookReport, KindCounters, Options};

/// How the names of all that is kept here begin.
const PREFIX: &str = "kernel.";
const ABOUT: &str = "kernel.about";
const MAP: &str = "kernel.map.";
const GATE: &str = "kernel.gate.";
const LINK: &str = "kernel.link.";

/// A program whose gate an earlier daemon attached.
pub(super) struct Adopted {
    entry: &'static Entry,
    gate: OwnedFd,
    /// The gate is attached as long as this or the manager's own is open.
    _link: OwnedFd,
}

/// Everything of an earlier daemon, complete.
pub(super) struct Found {
    about: About,
    fit: Fit,
    hooks: Vec<HookReport>,
    maps: Vec<(String, OwnedFd)>,
    adopted: Vec<Adopted>,
    memory: File,
    tools: Tools,
}

impl Found {
    /// What was handed over, if it is all there and fits; what does not is given up, and says why.
    pub(super) fn look(store: &mut FdStore, stamp: &Stamp) -> Option<Found> {
        if !store.names().any(|name| name.starts_with(PREFIX)) {
            return None;
        }
        or_give_up(Found::take(store, stamp), store)
    }

    fn take(store: &mut FdStore, stamp: &Stamp) -> Result<Found, String> {
        let memory = store.take(ABOUT).ok_or("what describes them is missing")?;
        let memory = File::from(memory);
        let about = About::read_from(&memory, &layout::of_this_build())
            .map_err(|what| format!("they are of {what}"))?;
        let fit = stamp.fits(&about.stamp);
        let fit = fit.map_err(|what| format!("they are of {what}"))?;
        let hooks = about.hooks.iter().cloned().map(SavedHook::report);
        let hooks = hooks
            .collect::<Option<Vec<_>>>()
            .ok_or("a hook is unknown")?;
        let mut adopted: Vec<Adopted> = Vec::new();
        for name in &about.held {
            if adopted.iter().any(|there| there.entry.name == name) {
                continue;
            }
            let entry = programs::all().find(|entry| entry.name == name);
            let mut part = |prefix: &str| {
                let part = format!("{prefix}{name}");
                store.take(&part).ok_or(format!("`{part}` is missing"))
            };
            adopted.push(Adopted {
                entry: entry.ok_or("a program is unknown")?,
                gate: part(GATE)?,
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
            fit,
            hooks,
            maps,
            adopted,
            memory,
            tools: store.tools(),
        })
    }

    /// What is written into the object: tokens and names mean what they meant.
    pub(super) fn settings(&self, fresh: Settings) -> Settings {
        Settings {
            token_key: self.about.stamp.token_key,
            named_kinds: self.about.named.kinds().bits(),
            ..fresh
        }
    }

    /// Puts the maps that were kept in the place of those just made, before anything uses them.
    fn replace_maps(&self, ebpf: &Ebpf) -> Result<(), LoadError> {
        let gates: Vec<String> = self
            .adopted
            .iter()
            .map(|of| gate::map(of.entry.name))
            .collect();
        for (name, map) in ebpf.maps() {
            let shared = SHARED.iter().find(|shared| shared.name == name);
            if shared.is_none() && !gates.iter().any(|gate| gate == name) {
                continue;
            }
            let missing = || LoadError::Kept(format!("the map `{name}`"));
            let (_, kept) = self
                .maps
                .iter()
                .find(|(kept, _)| kept == name)
                .ok_or_else(missing)?;
            let map = descriptor(map).ok_or_else(missing)?;
            let has_own_size = shared.is_some_and(|shared| shared.sized_by_options);
            let found = Shape::of(kept.as_fd(), has_own_size);
            let expected = Shape::of(map, has_own_size);
            if found.is_none() || found != expected {
                return Err(LoadError::Kept(format!(
                    "the map `{name}`, which is {found:?} and must be {expected:?},"
                )));
            }
            (self.tools.stand_in)(map, kept.as_fd()).map_err(LoadError::Descriptors)?;
        }
        Ok(())
    }

    /// The programs as they were left, or this build's own in their place.
    pub(super) fn programs(
        self,
        options: &Options,
        support: &Support,
        kernel_btf: &KernelBtf,
        stamp: &Stamp,
    ) -> Result<Programs, LoadError> {
        let mut ebpf = load_object(options, support, kernel_btf)?;
        self.replace_maps(&ebpf)?;
        if self.fit == Fit::Other {
            follow(&mut ebpf, &self.adopted, kernel_btf)?;
        }
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
            stamp: Stamp {
                token_key: self.about.stamp.token_key,
                ..stamp.clone()
            },
            adopted: self.adopted,
            kept: Some(Kept {
                memory: self.memory,
                store: None,
                left_out: self.about.left_out,
            }),
        })
    }
}

/// Loads every program anew and, once the kernel has taken them all, has the gates lead there.
fn follow(ebpf: &mut Ebpf, adopted: &[Adopted], kernel_btf: &KernelBtf) -> Result<(), LoadError> {
    let refused = |entry: &Entry, reason: String| LoadError::Follow {
        name: entry.name,
        reason,
    };
    for Adopted { entry, .. } in adopted {
        let program = ebpf
            .program_mut(entry.name)
            .ok_or(LoadError::NotInObject(entry.name))?;
        load_one(program, entry.hook, kernel_btf)
            .map_err(|error| refused(entry, reason(&error)))?;
    }
    for Adopted { entry, .. } in adopted {
        gate::lead(ebpf, entry)?.map_err(|reason| refused(entry, reason))?;
    }
    tracing::info!(
        programs = adopted.len(),
        "kernel programs of another build recorded until now, those of this build do from here on"
    );
    Ok(())
}

/// What a map's users must agree on: type, bytes of a key and of a value, entries.
#[derive(Debug, PartialEq, Eq)]
struct Shape([u64; 4]);

impl Shape {
    /// Without the entries where each start has its own number of them.
    fn of(map: BorrowedFd<'_>, has_own_size: bool) -> Option<Shape> {
        let [sort, key, value] = ["map_type", "key_size", "value_size"].map(|of| fdinfo(map, of));
        let entries = if has_own_size {
            0
        } else {
            fdinfo(map, "max_entries")?
        };
        Some(Shape([sort?, key?, value?, entries]))
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
            if SHARED.iter().any(|shared| shared.name == name) {
                put(name, descriptor(map))?;
            }
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
            stamp: self.stamp.clone(),
            kinds: self.options.kinds,
            named: self.options.named.clone(),
            hooks: self.hooks.iter().map(SavedHook::of).collect(),
            held: self.held.iter().map(|name| (*name).to_owned()).collect(),
            served: self.served,
            left_out: *left_out,
        };
        let links = own_links(store.tools()).map_err(LoadError::Descriptors)?;
        for name in &self.held {
            let names = [GATE, LINK].map(|prefix| format!("{prefix}{name}"));
            let [gate_name, link_name] = &names;
            if names.iter().all(|name| store.keeps(name)) {
                continue;
            }
            let missing = || LoadError::Kept(format!("the program `{name}`"));
            let gate = gate::of(&self.ebpf, name).ok_or_else(missing)?;
            let id = gate.info().map_err(|_| missing())?.id();
            let gate = gate.fd().map_err(|_| missing())?;
            let link = links.iter().find(|(of, _)| *of == u64::from(id));
            let (_, link) = link.ok_or_else(missing)?;
            let map_name = gate::map(name);
            let map = self.ebpf.map(&map_name).and_then(descriptor);
            store
                .put(&format!("{MAP}{map_name}"), map.ok_or_else(missing)?)
                .and_then(|()| store.put(gate_name, gate.as_fd()))
                .and_then(|()| store.put(link_name, link.as_fd()))
                .map_err(LoadError::Descriptors)?;
        }
        about
            .write_to(memory, &layout::of_this_build())
            .map_err(LoadError::Descriptors)?;
        if !store.keeps(ABOUT) {
            // Last: with it, everything is there.
            store
                .put(ABOUT, memory.as_fd())
                .map_err(LoadError::Descriptors)?;
        }
        Ok(())
    }
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
        let skipped = fdinfo(self.gate.as_fd(), "recursion_misses")?;
        Some((self.entry.name, skipped))
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
        | Map::ProgramArray(map)
        | Map::RingBuf(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}
