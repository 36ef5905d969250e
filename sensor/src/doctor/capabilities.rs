//! The privileges the sensor uses, and what for.
//!
//! In: the effective capabilities of this process. Out: one line that names what is missing and what does not work without it.

use super::{AS_ROOT, Line};

/// One privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    pub name: &'static str,
    /// What does not work without it.
    pub purpose: &'static str,
    /// `run` refuses without it.
    pub required: bool,
    pub held: bool,
}

const SYS_ADMIN: u32 = 21;

/// Name, number, purpose, whether needed to run.
const ALL: [(&str, u32, &str, bool); 4] = [
    ("CAP_BPF", 39, "loading kernel programs", true),
    ("CAP_PERFMON", 38, "attaching them", true),
    (
        "CAP_SYS_PTRACE",
        19,
        "paths and arguments of processes that were there before the sensor",
        false,
    ),
    (
        "CAP_DAC_READ_SEARCH",
        2,
        "facts of other users' processes in /proc",
        false,
    ),
];

/// What a set of effective capabilities means; `None` where it could not be read.
#[must_use]
pub(super) fn of(effective: Option<u64>) -> Vec<Capability> {
    let effective = effective.unwrap_or_default();
    let has = |number: u32| effective >> number & 1 == 1;
    ALL.iter()
        .map(|&(name, number, purpose, required)| Capability {
            name,
            purpose,
            required,
            // The kernel takes the old catch-all for these two.
            held: has(number) || (required && has(SYS_ADMIN)),
        })
        .collect()
}

pub(super) fn line(all: &[Capability]) -> Line {
    let missing: Vec<&Capability> = all.iter().filter(|of| !of.held).collect();
    if missing.is_empty() {
        let names: Vec<&str> = all.iter().map(|of| of.name).collect();
        return Line::ok("capabilities", names.join(", "));
    }
    let said: Vec<String> = missing
        .iter()
        .map(|of| format!("{} is missing ({})", of.name, of.purpose))
        .collect();
    let said = said.join(", ");
    if missing.iter().any(|of| of.required) {
        Line::fail("capabilities", said, AS_ROOT)
    } else {
        Line::warn("capabilities", said, AS_ROOT)
    }
}
