//! What the running kernel's verifier makes of every program, needed here or not.
//!
//! In: [`Options`] and the embedded object. Out: one [`Verified`] per program, with the work it cost; its gate, which costs next to
//! none, is to be taken as well. Must never attach anything: each program is taken, asked about and given back.

use std::io;

use aya::{Btf as KernelBtf, Ebpf, programs::ProgramError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Entry, Hook, LoadError, OBJECT, Support, gate, load_object, load_one, needs_memlock,
    object_error, programs, raise_memlock, reason, unload,
};
use crate::kernel::Options;

/// What became of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name in the kernel object.
    pub program: &'static str,
    /// The function or tracepoint, for example `fexit/security_file_open`.
    pub hook: String,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel took it, after its verifier had followed this many instructions; it gives up at a million.
    Taken { instructions: u32 },
    /// The kernel has no such function or tracepoint, or takes no trampolines at all.
    NoHook(String),
    /// It was refused, with what the kernel said.
    Refused(String),
}

/// Loads each program on its own and gives it back.
///
/// # Errors
///
/// As [`super::load`], for reasons that concern all programs.
pub fn verify(options: &Options) -> Result<Vec<Verified>, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    let support = Support::detect(options)?;
    if needs_memlock() {
        raise_memlock()?;
    }
    let kernel_btf = KernelBtf::from_sys_fs().map_err(|error| object_error(error.into()))?;
    let mut ebpf = load_object(options, &support, &kernel_btf)?;
    let mut all = Vec::new();
    for entry in programs::all().chain(&programs::ORDER) {
        let verdict = match entry.hook.missing(&support.btf) {
            Some(missing) => Verdict::NoHook(missing),
            None => verdict(&mut ebpf, entry, &kernel_btf)?,
        };
        all.push(Verified {
            program: entry.name,
            hook: entry.hook.name(),
            verdict,
        });
    }
    Ok(all)
}

fn verdict(ebpf: &mut Ebpf, entry: &Entry, btf: &KernelBtf) -> Result<Verdict, LoadError> {
    let program = ebpf
        .program_mut(entry.name)
        .ok_or(LoadError::NotInObject(entry.name))?;
    if let Err(error) = load_one(program, entry.hook, btf) {
        return Ok(if takes_no_trampolines(entry.hook, &error) {
            Verdict::NoHook("this kernel takes no function trampolines".into())
        } else {
            Verdict::Refused(reason(&error))
        });
    }
    if let Ok(gate) = gate::of_mut(ebpf, entry.name) {
        let taken = load_one(gate, entry.hook, btf);
        unload(gate);
        if let Err(error) = taken {
            return Ok(Verdict::Refused(format!("its gate: {}", reason(&error))));
        }
    }
    let program = ebpf
        .program_mut(entry.name)
        .ok_or(LoadError::NotInObject(entry.name))?;
    let told = program.info().ok();
    let told = told.and_then(|info| info.verified_instruction_count());
    unload(program);
    let count = told.or_else(|| {
        let refused = without_descriptors(|| load_one(program, entry.hook, btf));
        unload(program);
        counted(refused)
    });
    Ok(match count {
        Some(instructions) => Verdict::Taken { instructions },
        None => Verdict::Refused("taken, but how much work it was is not told".into()),
    })
}

/// True where the kernel says no to the sort of hook, before its verifier has looked at the program.
fn takes_no_trampolines(hook: Hook, error: &ProgramError) -> bool {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return false;
    };
    !matches!(hook, Hook::Tracepoint(_))
        && io_error.kind() == io::ErrorKind::PermissionDenied
        && verifier_log.to_string().trim().is_empty()
}

/// Runs with no descriptor left to give: a program is then verified to its end and refused only after that. Kernels before
/// 5.16 tell the verifier's work in its log alone, and the log of a program that was taken is not kept.
fn without_descriptors<T>(act: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: before.maximum,
    };
    let limited = setrlimit(Resource::Nofile, none);
    let done = act();
    if limited.is_ok() {
        // To what it was: always allowed.
        let _ = setrlimit(Resource::Nofile, before);
    }
    done
}

/// The number of instructions in the verifier's closing words.
fn counted(refused: Result<(), ProgramError>) -> Option<u32> {
    let Err(ProgramError::LoadError { verifier_log, .. }) = refused else {
        return None;
    };
    instructions(&verifier_log.to_string())
}

/// `processed 1234 insns (limit 1000000) max_states_per_insn 4 ...`
fn instructions(log: &str) -> Option<u32> {
    let line = log
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("processed "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_words_tell_the_work() {
        let log = "verification time 3012 usec\nstack depth 152\n\
                   processed 7421 insns (limit 1000000) max_states_per_insn 4 total_states 240 peak_states 240 mark_read 9\n";
        assert_eq!(instructions(log), Some(7421));
        assert_eq!(instructions("R0 invalid mem access 'inv'\n"), None);
    }
}
