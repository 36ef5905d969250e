//! What a process did besides files and connections: a file in memory, another process traced, a kernel module.
//!
//! In: facts that `enrich` gathered. Out: immutable values of one event. Nothing here looks outside of itself.

use std::sync::Arc;

const PREFIX: &str = "memfd:";

/// A file that lives in memory alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memfd {
    /// The name the program gave it, then as the kernel shows it; rules are written for either.
    pub names: [Arc<str>; 2],
}

impl Memfd {
    /// From the name as the kernel shows it.
    #[must_use]
    pub fn new(shown: &str) -> Memfd {
        let given = shown.strip_prefix(PREFIX).unwrap_or(shown);
        Memfd {
            names: [given.into(), shown.into()],
        }
    }
}

/// A process that is traced now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// What the tracer asked for, as the system calls it.
    pub request: &'static str,
}

/// A kernel module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub name: Box<str>,
    /// Letters for the ways in which it taints the kernel.
    pub taints: Box<[&'static str]>,
}

/// The kernel's letters for taints, by bit.
pub const TAINTS: [&str; 20] = [
    "P", "F", "S", "R", "M", "B", "U", "D", "A", "W", "C", "I", "O", "E", "L", "K", "X", "T", "N",
    "J",
];

impl Module {
    /// `taints` as the kernel keeps them, a bit each.
    #[must_use]
    pub fn new(name: Box<str>, taints: u64) -> Module {
        let set = TAINTS.iter().enumerate();
        let set = set.filter(|(bit, _)| taints >> bit & 1 != 0);
        Module {
            name,
            taints: set.map(|(_, letter)| *letter).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memfd_goes_by_both_names() {
        let names = |shown| Memfd::new(shown).names.map(|name| name.to_string());
        assert_eq!(names("memfd:x"), ["x", "memfd:x"]);
        assert_eq!(names("memfd:memfd:"), ["memfd:", "memfd:memfd:"]);
    }

    #[test]
    fn taints_have_letters() {
        let taints = |bits| Module::new("m".into(), bits).taints;
        assert_eq!(*taints(0), [] as [&str; 0]);
        assert_eq!(*taints(1 << 12 | 1 << 13), ["O", "E"]);
        assert_eq!(*taints(1 | 1 << 63), ["P"]);
    }
}
