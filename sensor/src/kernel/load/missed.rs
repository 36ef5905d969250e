//! Runs of programs that the kernel skipped, and what of them was made up for.
//!
//! In: what the kernel tells of each program, and what later instances counted. Out: by program, the runs of which nobody knows
//! what they would have seen. Must never take a run for made up for that was not.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf,
    maps::{PerCpuArray, PerCpuValues},
    programs::{Program, ProgramFd},
    util::nr_cpus,
};
use sensor_ebpf::maps::Twice;

use super::later::{LATER, later_of};
use super::programs;
use super::{LoadError, fdinfo, gate};

/// Runs the kernel skipped, by program: it skips the gate, and tells so in the descriptor's fdinfo, from 5.12 on.
pub(super) fn skipped(ebpf: &Ebpf) -> Vec<(&'static str, u64)> {
    let mut skipped: Vec<(&str, u64)> = Vec::new();
    for entry in programs::all() {
        let is_new = skipped.iter().all(|(name, _)| *name != entry.name);
        if is_new
            && let Some(gate) = gate::of(ebpf, entry.name)
            && let Some(fd) = program_fd(gate)
            && let Some(count) = fdinfo(fd.as_fd(), "recursion_misses")
        {
            skipped.push((entry.name, count));
        }
    }
    skipped
}

/// Runs that later instances took, by [`Twice`].
pub(super) fn made_up(ebpf: &Ebpf) -> Result<Vec<u64>, LoadError> {
    const NAME: &str = "MADE_UP";
    let failed = |cause| LoadError::Map { name: NAME, cause };
    let map = ebpf.map(NAME).ok_or(LoadError::NotInObject(NAME))?;
    let map = PerCpuArray::<_, u64>::try_from(map).map_err(failed)?;
    let sum = |of: u32| map.get(&of, 0).map(|row| row.iter().sum());
    let sums = (0..Twice::SLOTS).map(sum);
    sums.collect::<Result<_, _>>().map_err(failed)
}

/// Has nothing made up for one of them yet.
pub(super) fn forget(ebpf: &mut Ebpf, of: Twice) -> Result<(), LoadError> {
    const NAME: &str = "MADE_UP";
    let failed = |cause| LoadError::Map { name: NAME, cause };
    let map = ebpf.map_mut(NAME).ok_or(LoadError::NotInObject(NAME))?;
    let mut map = PerCpuArray::<_, u64>::try_from(map).map_err(failed)?;
    let cpus = nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    let nothing = PerCpuValues::try_from(vec![0; cpus]).map_err(LoadError::Cpus)?;
    map.set(of as u32, nothing, 0).map_err(failed)
}

/// Of the runs that the kernel skipped, those that no later instance took: one comes for every run that those before it were kept
/// from, unless it was kept from it as well. What it was kept from itself is no loss: another had run, or this counts it.
fn missed(skipped: Vec<(&'static str, u64)>, made_up: &[u64]) -> Vec<(&'static str, u64)> {
    let is_later = |name| LATER.iter().any(|later| later.entry.name == name);
    let missed = skipped.into_iter().filter(|(name, _)| !is_later(*name));
    let missed = missed.map(|(name, count)| {
        let taken = later_of(name).next();
        let taken = taken.and_then(|later| made_up.get(later.of as usize));
        (name, count.saturating_sub(taken.copied().unwrap_or(0)))
    });
    missed.collect()
}

/// What was missed, by program.
#[derive(Default)]
pub(super) struct Missed {
    /// When it was last looked at.
    last: Vec<(&'static str, u64)>,
    /// What was missed when the programs were detached: the kernel tells no more of it.
    ended: Option<Vec<(&'static str, u64)>>,
}

impl Missed {
    /// No program runs any more.
    pub(super) fn end(&mut self, skipped: Vec<(&'static str, u64)>, made_up: &[u64]) {
        self.ended.get_or_insert_with(|| missed(skipped, made_up));
    }

    /// What was missed at the last look and still is: between a run that is skipped and the one of a later instance there can be a
    /// moment.
    pub(super) fn of(
        &mut self,
        skipped: Vec<(&'static str, u64)>,
        made_up: &[u64],
    ) -> Vec<(&'static str, u64)> {
        let ended = self.ended.clone();
        let missed = ended.unwrap_or_else(|| missed(skipped, made_up));
        let settled = missed.iter().map(|(name, count)| {
            let is_twice = later_of(name).next().is_some();
            let is_over = self.ended.is_some() || !is_twice;
            let before = self.last.iter().find(|(of, _)| of == name);
            let before = before.map_or(0, |(_, count)| *count);
            (*name, if is_over { *count } else { before.min(*count) })
        });
        let settled = settled.collect();
        self.last = missed;
        settled
    }
}

pub(super) fn program_fd(program: &Program) -> Option<ProgramFd> {
    program.fd().ok()?.try_clone().ok()
}

#[cfg(test)]
mod tests {
    use super::programs::PROGRAMS;

    use super::*;

    #[test]
    fn what_a_second_instance_took_is_not_missed() {
        let skipped = vec![
            ("file_write", 2),
            ("file_call_end", 15),
            ("socket_call", 3),
            ("file_call_end_again", 4),
            ("file_create", 9),
            ("file_create_again", 7),
            ("file_create_once_more", 5),
        ];
        let mut made_up = vec![0; Twice::SLOTS as usize];
        made_up[Twice::FileCallEnd as usize] = 14;
        made_up[Twice::SocketCall as usize] = 3;
        made_up[Twice::Creation as usize] = 8;
        let missed = missed(skipped, &made_up);
        let expected = [
            ("file_write", 2),
            ("file_call_end", 1),
            ("socket_call", 0),
            ("file_create", 1),
        ];
        assert_eq!(missed, expected);
    }

    #[test]
    fn a_second_instance_that_is_still_to_come_is_waited_for() {
        let looks = [
            // Missed, and what of it is settled: by a program that has a second instance, and by one that has none.
            ((0, 0), (0, 0)),
            ((2, 1), (0, 1)),
            ((0, 1), (0, 1)),
            ((3, 4), (0, 4)),
            ((3, 4), (3, 4)),
            ((4, 5), (3, 5)),
        ];
        let mut looked = Missed::default();
        for ((twice, once), expected) in looks {
            let skipped = vec![("socket_call", twice), ("file_write", once)];
            let settled = looked.of(skipped, &[]);
            let expected = [("socket_call", expected.0), ("file_write", expected.1)];
            assert_eq!(settled, expected);
        }
    }

    #[test]
    fn what_was_missed_is_known_after_the_end() {
        let mut looked = Missed::default();
        assert_eq!(
            looked.of(vec![("socket_call", 0)], &[]),
            [("socket_call", 0)]
        );
        let mut made_up = vec![0; Twice::SLOTS as usize];
        made_up[Twice::SocketCall as usize] = 2;
        looked.end(vec![("socket_call", 7)], &made_up);
        looked.end(Vec::new(), &[]);
        // A later instance that is detached after the first takes what is nobody's.
        made_up[Twice::SocketCall as usize] = 4;
        assert_eq!(looked.of(Vec::new(), &made_up), [("socket_call", 5)]);
    }

    #[test]
    fn every_later_instance_is_on_the_hook_of_its_first() {
        for later in LATER {
            let first = PROGRAMS.iter().find(|entry| entry.name == later.first);
            let hook = first.map(|entry| entry.hook.name());
            assert_eq!(hook, Some(later.entry.hook.name()), "{}", later.first);
            assert!((later.of as u32) < Twice::SLOTS);
            let on_function = later.entry.hook.is_trampoline();
            assert_eq!(
                later.of.sort() == Twice::ON_FUNCTIONS,
                on_function,
                "{}",
                later.first
            );
            let same = LATER.iter().filter(|other| other.of == later.of);
            assert!(same.into_iter().all(|other| other.first == later.first));
        }
        let alone = [
            // The first runs where nothing comes between; of the other no two runs meet, but where modules are loaded at once.
            "close_by_end",
            "module_loaded",
            // Modifications come in masses, and the kernel's own writes pass here as well: what is skipped is counted.
            "file_write",
            "file_write_open",
            "file_truncate",
            "path_truncate",
            "file_chmod",
            "file_chown",
            // Rare.
            "memfd_create_huge",
        ];
        for entry in PROGRAMS {
            let is_twice = later_of(entry.name).next().is_some();
            assert_eq!(is_twice, !alone.contains(&entry.name), "{}", entry.name);
        }
    }
}
