//! System calls of file acts by number: what their arguments are, and where.
//!
//! In: the running kernel's `struct pt_regs`. Out: tables for the kernel programs, native and 32-bit. A number is never
//! guessed: where none are known the tables are empty, and the programs report nothing.

use sensor_ebpf::settings::{CALLS_MAX, FileCall, Settings};

use super::btf::{Btf, BtfError};

/// What the programs know about system calls of file acts.
pub(super) struct FileCalls {
    /// See [`Settings::call_arguments`].
    pub(super) arguments: [u16; 16],
    /// See [`Settings::file_calls`].
    pub(super) calls: [u16; 2 * CALLS_MAX],
}

/// Without numbers the second-choice programs report nothing; the first choice does not need them.
pub(super) fn file_calls(btf: &Btf) -> Result<FileCalls, BtfError> {
    let mut found = FileCalls {
        arguments: Settings::UNSET.call_arguments,
        calls: Settings::UNSET.file_calls,
    };
    if !cfg!(target_arch = "x86_64") {
        return Ok(found);
    }
    let native = registers(btf, ["di", "si", "dx", "r10", "r8", "r9"])?;
    let compat = registers(btf, ["bx", "cx", "dx", "si", "di", "bp"])?;
    let (Some(native), Some(compat)) = (native, compat) else {
        return Ok(found);
    };
    let (first, second) = found.arguments.split_at_mut(8);
    first.copy_from_slice(&native);
    second.copy_from_slice(&compat);
    let (first, second) = found.calls.split_at_mut(CALLS_MAX);
    for (call, native, compat) in FILE_CALLS {
        for (table, number) in [(&mut *first, native), (&mut *second, compat)] {
            if let Some(entry) = table.get_mut(usize::from(*number)) {
                *entry = call.packed();
            }
        }
    }
    Ok(found)
}

/// Byte offsets of six registers, the first in place 1; `None` where the kernel's `pt_regs` has not all of them.
fn registers(btf: &Btf, names: [&str; 6]) -> Result<Option<[u16; 8]>, BtfError> {
    let mut offsets = [0; 8];
    for (offset, name) in offsets.iter_mut().skip(1).zip(names) {
        let at = btf.member("pt_regs", name)?;
        let Some(found) = at.and_then(|at| u16::try_from(at.bit_offset / 8).ok()) else {
            return Ok(None);
        };
        *offset = found;
    }
    Ok(Some(offsets))
}

/// A call in which each name is said by these arguments, counted from 1; 0 is none.
const fn call(act: u16, (directory, path): (u16, u16), old: (u16, u16)) -> FileCall {
    FileCall {
        act,
        path,
        directory,
        old_path: old.1,
        old_directory: old.0,
    }
}

const NONE: (u16, u16) = (0, 0);

/// Calls of the file acts, in the order of [`sensor_ebpf::settings::FILE_ACTS`], with their native and 32-bit numbers. unlinkat
/// may also remove a directory and mknod make a regular file; the programs tell that by the argument behind the path.
const FILE_CALLS: &[(FileCall, u16, u16)] = &[
    (call(1, (0, 2), (0, 1)), 82, 38),   // rename
    (call(1, (3, 4), (1, 2)), 264, 302), // renameat
    (call(1, (3, 4), (1, 2)), 316, 353), // renameat2
    (call(2, (0, 1), NONE), 87, 10),     // unlink
    (call(2, (1, 2), NONE), 263, 301),   // unlinkat
    (call(3, (0, 2), (0, 1)), 86, 9),    // link
    (call(3, (3, 4), (1, 2)), 265, 303), // linkat
    (call(4, (0, 2), (0, 1)), 88, 83),   // symlink
    (call(4, (2, 3), (0, 1)), 266, 304), // symlinkat
    (call(5, (0, 1), NONE), 83, 39),     // mkdir
    (call(5, (1, 2), NONE), 258, 296),   // mkdirat
    (call(6, (0, 1), NONE), 133, 14),    // mknod
    (call(6, (1, 2), NONE), 259, 297),   // mknodat
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_call_has_numbers_of_its_own_and_survives_packing() {
        let mut native = HashSet::new();
        let mut compat = HashSet::new();
        for (call, number, number_compat) in FILE_CALLS {
            assert!(native.insert(number) && compat.insert(number_compat));
            assert!(usize::from(*number.max(number_compat)) < CALLS_MAX);
            assert_eq!(FileCall::unpacked(call.packed()), *call);
            assert_ne!(call.packed(), FileCall::NONE);
        }
    }
}
