//! Programs that are attached more than once.
//!
//! In: a program, and where the kernel lets others run in the middle of it. Out: the program attached, its later instances behind it.
//! No later instance may take anything while its first is there and runs behind it, nor be counted for what it took alone.

use super::later::{Later, later_of};
use super::programs::Entry;
use super::{Attaching, LoadError, attach, attach_loaded, load_named, missed, order};

impl Attaching<'_> {
    /// Attaches one program, and its later instances so that they run behind it. Without those the first is what it is on other
    /// kernels: what the kernel skips is counted as lost.
    pub(super) fn one(&mut self, program: &'static Entry) -> Result<Result<(), String>, LoadError> {
        let later: Vec<_> = later_of(program.name)
            .filter(|later| later.of.sort() & self.twice != 0)
            .collect();
        if later.is_empty() {
            return attach(self.ebpf, program, self.btf, self.kernel_btf);
        }
        // All are verified before one is attached: nothing would make up meanwhile for what the kernel skips.
        let mut ready = Vec::with_capacity(later.len());
        for later in &later {
            match load_named(self.ebpf, &later.entry, self.btf, self.kernel_btf)? {
                Ok(()) => ready.push(*later),
                Err(reason) => warn_of_later(&later.entry, &reason),
            }
        }
        let outcome = if program.hook.is_trampoline() && self.runs_last_first()? {
            self.before(program, &ready)?
        } else {
            let outcome = attach(self.ebpf, program, self.btf, self.kernel_btf)?;
            if outcome.is_ok() {
                self.behind(&ready);
            }
            outcome
        };
        if outcome.is_err() {
            for later in later {
                self.release(later.entry.name);
            }
        }
        Ok(outcome)
    }

    /// Attaches a program before its later instances, where the last one attached runs first.
    fn before(
        &mut self,
        program: &'static Entry,
        later: &[&'static Later],
    ) -> Result<Result<(), String>, LoadError> {
        let loaded = load_named(self.ebpf, program, self.btf, self.kernel_btf)?;
        if loaded.is_err() {
            return Ok(loaded);
        }
        for later in later.iter().rev() {
            self.hold(&later.entry);
        }
        let attached = attach_loaded(self.ebpf, program);
        for later in later {
            // What they took until the first was there was nothing that the kernel had skipped.
            missed::forget(self.ebpf, later.of)?;
        }
        Ok(attached)
    }

    /// Attaches later instances of a program that is attached.
    fn behind(&mut self, later: &[&'static Later]) {
        for later in later {
            self.hold(&later.entry);
        }
    }

    /// Attaches a later instance that is loaded.
    fn hold(&mut self, later: &'static Entry) {
        match attach_loaded(self.ebpf, later) {
            Ok(()) => self.held.push(later.name),
            Err(reason) => warn_of_later(later, &reason),
        }
    }

    fn runs_last_first(&mut self) -> Result<bool, LoadError> {
        if let Some(known) = self.runs_last_first {
            return Ok(known);
        }
        let known = order::runs_last_first(self.ebpf, self.btf, self.kernel_btf)?;
        self.runs_last_first = Some(known);
        Ok(known)
    }
}

fn warn_of_later(later: &Entry, reason: &str) {
    tracing::warn!(
        "the kernel refuses `{}`, acts may be missed: {reason}",
        later.name
    );
}

/// The buffers of the sorts of hooks that are among these bits.
pub(super) fn of_sorts(
    maps: &'static [(u32, &'static [&'static str])],
    sorts: u32,
) -> impl Iterator<Item = &'static &'static str> {
    let of = maps.iter().filter(move |(sort, _)| sort & sorts != 0);
    of.flat_map(|(_, maps)| *maps)
}
