//! Record kinds that are only wanted of processes with certain names.
//!
//! In: kinds, each with the names somebody asks for. Out: what the kernel programs look names up by. It never narrows further
//! than it was told to: names that look alike to the kernel are wanted together.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use sensor_ebpf::{Kind, maps::NAME_KEY_LEN};

use super::{KindSet, LoadError};
use crate::keep::{Broken, Keep, Reader, Writer};

/// Most names that the kernel programs are told of.
pub const NAMES_MAX: usize = 4096;

/// The map of names, and its room: all of them and the sensor's own.
const NAMES: &str = "NAMES";
/// What the programs remember of processes.
const ACTORS: &str = "ACTORS";
pub(super) const NAMES_ENTRIES: u32 = 8192;
const _: () = assert!(NAMES_MAX < NAMES_ENTRIES as usize);

/// Processes whose wanted acts the kernel programs remember, about 80 bytes each; what any further ones do is all wanted.
const ACTORS_ENTRIES: u32 = 32_768;

/// In the place of a name: kinds wanted of everybody.
const EVERYBODY: NameKey = [0; NAME_KEY_LEN / 8];

/// The first bytes of a process's name, filled up with zeroes.
pub(super) type NameKey = [u64; NAME_KEY_LEN / 8];

/// See the module. Empty: every kind is wanted of everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedKinds {
    kinds: KindSet,
    names: BTreeMap<NameKey, KindSet>,
}

impl Keep for NamedKinds {
    fn write(&self, to: &mut Writer) {
        self.kinds.write(to);
        let names = self.names.iter().map(|(name, kinds)| (*name, *kinds));
        names.collect::<Vec<_>>().write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let kinds = Keep::read(from)?;
        let names: Vec<(NameKey, KindSet)> = Keep::read(from)?;
        Ok(NamedKinds {
            kinds,
            names: names.into_iter().collect(),
        })
    }
}

impl NamedKinds {
    /// Narrows a kind down to processes one of whose names is among these. Without effect once there are [`NAMES_MAX`] names.
    pub fn narrow<'n>(&mut self, kind: Kind, names: impl ExactSizeIterator<Item = &'n str>) {
        if self.names.len() + names.len() > NAMES_MAX {
            return;
        }
        self.kinds = self.kinds.with(kind);
        for name in names {
            let kinds = self.names.entry(key(name)).or_default();
            *kinds = kinds.with(kind);
        }
    }

    /// Kinds that are narrowed down.
    #[must_use]
    pub fn kinds(&self) -> KindSet {
        self.kinds
    }

    /// Room for processes in the kernel programs' memory.
    pub(super) fn actors(&self) -> u32 {
        if self.kinds == KindSet::EMPTY {
            1
        } else {
            ACTORS_ENTRIES
        }
    }

    /// Tells the programs, before they attach: a process they know is not looked up again.
    pub(super) fn fill(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        if self.names.is_empty() {
            return Ok(());
        }
        let mut map = names(ebpf)?;
        for (name, kinds) in &self.names {
            map.insert(name, kinds.bits(), 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Wants at least what another set wants besides. Kinds that the programs do not narrow stay so.
    pub(super) fn widen(&mut self, other: &NamedKinds) {
        let mut everybody = KindSet::EMPTY;
        for kind in Kind::ALL
            .iter()
            .copied()
            .filter(|k| self.kinds.contains(*k))
        {
            if !other.kinds.contains(kind) {
                everybody = everybody.with(kind);
            }
        }
        let new = other
            .names
            .keys()
            .filter(|name| !self.names.contains_key(*name));
        if self.names.len() + new.count() > NAMES_MAX {
            everybody = self.kinds;
        } else {
            for (name, kinds) in &other.names {
                let mine = self.names.entry(*name).or_default();
                *mine = mine.and(*kinds);
            }
        }
        if everybody != KindSet::EMPTY {
            let all = self.names.entry(EVERYBODY).or_default();
            *all = all.and(everybody);
        }
    }

    /// Tells the programs of what is wanted now, and has them forget what they know of processes: until its next exec,
    /// everything is wanted of everybody who runs.
    pub(super) fn refill(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        if self.kinds == KindSet::EMPTY {
            return Ok(());
        }
        self.fill(ebpf)?;
        // Twice: a process that forked meanwhile passed on what it had.
        for _ in 0..2 {
            let map = ebpf.map_mut(ACTORS).ok_or(LoadError::NotInObject(ACTORS))?;
            let failed = |cause| LoadError::Map {
                name: ACTORS,
                cause,
            };
            let mut map = HashMap::<_, u32, u32>::try_from(map).map_err(failed)?;
            let known: Vec<u32> = map.keys().flatten().collect();
            for process in known {
                // It may have ended meanwhile.
                let _ = map.remove(&process);
            }
        }
        Ok(())
    }

    /// Has every narrowed kind wanted of processes of one name from their next exec on; or, with `false`, what was asked for.
    pub(super) fn want_all_of(
        &self,
        ebpf: &mut Ebpf,
        name: &str,
        wanted: bool,
    ) -> Result<(), LoadError> {
        if self.kinds == KindSet::EMPTY {
            return Ok(());
        }
        let key = key(name);
        let kinds = if wanted {
            self.kinds
        } else {
            self.names.get(&key).copied().unwrap_or_default()
        };
        names(ebpf)?.insert(key, kinds.bits(), 0).map_err(failed)
    }
}

fn names(ebpf: &mut Ebpf) -> Result<HashMap<&mut MapData, NameKey, u32>, LoadError> {
    let map = ebpf.map_mut(NAMES).ok_or(LoadError::NotInObject(NAMES))?;
    HashMap::try_from(map).map_err(failed)
}

fn failed(cause: aya::maps::MapError) -> LoadError {
    LoadError::Map { name: NAMES, cause }
}

/// As the kernel programs read a name: at most 15 bytes, then zeroes.
pub(super) fn key(name: &str) -> NameKey {
    let mut bytes = [0; NAME_KEY_LEN];
    let kept = name.bytes().take(NAME_KEY_LEN - 1);
    for (to, from) in bytes.iter_mut().zip(kept) {
        *to = from;
    }
    let (words, _) = bytes.as_chunks::<8>();
    let mut key = NameKey::default();
    for (to, from) in key.iter_mut().zip(words) {
        *to = u64::from_ne_bytes(*from);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_are_wanted_together() {
        let mut named = NamedKinds::default();
        named.narrow(
            Kind::FileCreate,
            ["ld", "x86_64-linux-gnu-ld.bfd"].into_iter(),
        );
        named.narrow(Kind::Connect, ["x86_64-linux-gnu-as"].into_iter());
        let both = KindSet::EMPTY.with(Kind::FileCreate).with(Kind::Connect);
        assert_eq!(named.kinds(), both);
        let kinds: BTreeMap<NameKey, KindSet> = named.names.clone();
        assert_eq!(kinds.len(), 2);
        assert_eq!(kinds[&key("x86_64-linux-gnu-gold")], both);
        assert_eq!(kinds[&key("ld")], KindSet::EMPTY.with(Kind::FileCreate));
        assert_eq!(key("ld"), [u64::from_ne_bytes(*b"ld\0\0\0\0\0\0"), 0]);
    }

    #[test]
    fn too_many_names_narrow_nothing() {
        let names: Vec<String> = (0..=NAMES_MAX).map(|n| n.to_string()).collect();
        let mut named = NamedKinds::default();
        named.narrow(Kind::Connect, names.iter().map(String::as_str));
        assert_eq!(named, NamedKinds::default());
    }

    #[test]
    fn a_wider_set_takes_nothing_away() {
        let of = |kind, names: &[&str]| {
            let mut named = NamedKinds::default();
            named.narrow(kind, names.iter().copied());
            named
        };
        let connect = KindSet::EMPTY.with(Kind::Connect);
        let mut named = of(Kind::Connect, &["nc"]);
        named.widen(&of(Kind::Connect, &["curl"]));
        assert_eq!(named.names[&key("nc")], connect);
        assert_eq!(named.names[&key("curl")], connect);
        assert!(!named.names.contains_key(&EVERYBODY));
        // What the other set does not narrow is wanted of everybody.
        named.widen(&of(Kind::Rename, &["mv"]));
        assert_eq!(named.names[&EVERYBODY], connect);
        assert_eq!(named.kinds(), connect, "what the programs were loaded with");
        let many: Vec<String> = (0..NAMES_MAX).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut named = of(Kind::Connect, &["nc"]);
        named.widen(&of(Kind::Connect, &many));
        assert_eq!(named.names[&EVERYBODY], connect);
        assert_eq!(named.names.len(), 2);
    }

    #[test]
    fn nobody_is_a_set_of_names_too() {
        let mut named = NamedKinds::default();
        named.narrow(Kind::Connect, [].into_iter());
        assert_eq!(named.kinds(), KindSet::EMPTY.with(Kind::Connect));
        assert_eq!(named.names.len(), 0);
    }
}
