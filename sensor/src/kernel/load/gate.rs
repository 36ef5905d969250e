//! The gates: what is attached in the place of each program, and leads to it.
//!
//! In: a program of the object, loaded. Out: its gate, which leads to it from then on. A gate that an earlier build attached is led
//! elsewhere by one store: no act is missed meanwhile, and none is told by both.

use aya::{
    Btf as KernelBtf, Ebpf,
    maps::ProgramArray,
    programs::{Program, ProgramError},
};

use super::{Entry, LoadError, chain, load_one, missed, reason};

/// Name of a program's gate in the kernel object.
pub(super) fn name(program: &str) -> String {
    format!("{program}_gate")
}

/// Name of the map that says where it leads.
pub(super) fn map(program: &str) -> String {
    name(program).to_uppercase()
}

/// A program's gate, to be looked at.
pub(super) fn of<'a>(ebpf: &'a Ebpf, program: &str) -> Option<&'a Program> {
    ebpf.program(&name(program))
}

/// The same, to be attached or let go.
pub(super) fn of_mut<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut Program, LoadError> {
    ebpf.program_mut(&name(program))
        .ok_or(LoadError::NoGate(program))
}

/// Has the kernel take the gate of a program that is loaded, and leads it there. The inner error says why the kernel would not.
pub(super) fn load(
    ebpf: &mut Ebpf,
    entry: &Entry,
    kernel_btf: &KernelBtf,
) -> Result<Result<(), String>, LoadError> {
    if let Err(error) = load_one(of_mut(ebpf, entry.name)?, entry.hook, kernel_btf) {
        return Ok(Err(format!("its gate: {}", reason(&error))));
    }
    lead(ebpf, entry)
}

/// Leads a gate to the program that is loaded under its name.
pub(super) fn lead(ebpf: &mut Ebpf, entry: &Entry) -> Result<Result<(), String>, LoadError> {
    let program = ebpf
        .program(entry.name)
        .ok_or(LoadError::NotInObject(entry.name))?;
    let Some(program) = missed::program_fd(program) else {
        return Ok(Err(chain(&ProgramError::NotLoaded)));
    };
    let map = ebpf
        .map_mut(&map(entry.name))
        .ok_or(LoadError::NoGate(entry.name))?;
    let led = ProgramArray::try_from(map).and_then(|mut map| map.set(0, &program, 0));
    Ok(led.map_err(|error| format!("its gate does not lead to it: {}", chain(&error))))
}
