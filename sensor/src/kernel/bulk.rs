//! What the kernel programs of the kinds that come in masses are told: bounds, system calls, watched names.
//!
//! In: [`Bulk`] of the options, the running kernel's BTF. Out: the read-only global of those programs. It never guesses:
//! a machine whose system calls are not known here gets no second choice.

use sensor_ebpf::settings::{BulkSettings, CALLS_MAX, call};

use super::{
    Options,
    btf::{Btf, BtfError},
};

/// Kinds that come in masses: how many of them are let through, and which opens are reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// Records a second that one process may cause for long; 0 is no bound.
    pub per_second: u32,
    /// Records that one process may cause at once.
    pub burst: u32,
    /// What is reported when it is opened: a name, a path, or a directory with a slash at its end.
    pub watched: Vec<String>,
}

impl Default for Bulk {
    fn default() -> Self {
        Bulk {
            per_second: 1000,
            burst: 5000,
            watched: Vec::new(),
        }
    }
}

/// The global of the bulk programs.
pub(super) fn settings(btf: &Btf, options: &Options) -> Result<BulkSettings, BtfError> {
    let bulk = &options.bulk;
    let cost_ns = match bulk.per_second {
        0 => 0,
        rate => 1_000_000_000 / u64::from(rate),
    };
    let truncate = btf.parameters("do_truncate")?;
    let (calls, calls_compat) = calls();
    Ok(BulkSettings {
        // What is left above stays for the kinds that may not be missed.
        fill_max: u64::from(options.ring_bytes) / 4 * 3,
        cost_ns,
        credit_ns_max: cost_ns * u64::from(bulk.burst.max(2)),
        truncate_parameters: truncate
            .and_then(|names| u32::try_from(names.len()).ok())
            .unwrap_or(BulkSettings::UNSET.truncate_parameters),
        watch_directories: u32::from(bulk.watched.iter().any(|watched| watched.ends_with('/'))),
        calls,
        calls_compat,
    })
}

type Calls = [u8; CALLS_MAX];

/// By number: write, pwrite64, writev, pwritev, pwritev2, sendfile; splice, copy_file_range; ftruncate; fchmod; fchown;
/// truncate; chmod; chown; lchown; fchmodat, fchmodat2; fchownat; open; openat; openat2; creat.
#[cfg(target_arch = "x86_64")]
fn calls() -> (Calls, Calls) {
    let native: &[(u8, &[usize])] = &[
        (call::WRITE, &[1, 18, 20, 296, 328, 40]),
        (call::WRITE_THIRD, &[275, 326]),
        (call::TRUNCATE, &[77]),
        (call::MODE, &[91]),
        (call::OWNER, &[93]),
        (call::PATH_TRUNCATE, &[76]),
        (call::PATH_MODE, &[90]),
        (call::PATH_OWNER, &[92]),
        (call::PATH_OWNER_NO_FOLLOW, &[94]),
        (call::AT_MODE, &[268, 452]),
        (call::AT_OWNER, &[260]),
        (call::OPEN, &[2]),
        (call::OPEN_THIRD, &[257]),
        (call::OPEN_POINTER, &[437]),
        (call::CREATE, &[85]),
    ];
    // Some twice: with 16-bit ids or 32-bit lengths, and with wider ones.
    let compat: &[(u8, &[usize])] = &[
        (call::WRITE, &[4, 181, 146, 334, 379, 187, 239]),
        (call::WRITE_THIRD, &[313, 377]),
        (call::TRUNCATE, &[93, 194]),
        (call::MODE, &[94]),
        (call::OWNER, &[95, 207]),
        (call::PATH_TRUNCATE, &[92, 193]),
        (call::PATH_MODE, &[15]),
        (call::PATH_OWNER, &[182, 212]),
        (call::PATH_OWNER_NO_FOLLOW, &[16, 198]),
        (call::AT_MODE, &[306, 452]),
        (call::AT_OWNER, &[298]),
        (call::OPEN, &[5]),
        (call::OPEN_THIRD, &[295]),
        (call::OPEN_POINTER, &[437]),
        (call::CREATE, &[8]),
    ];
    (table(native), table(compat))
}

/// Without numbers the second-choice program reports nothing; the first choice does not need them.
#[cfg(not(target_arch = "x86_64"))]
fn calls() -> (Calls, Calls) {
    (table(&[]), table(&[]))
}

fn table(rows: &[(u8, &[usize])]) -> Calls {
    let mut table = [call::OTHER; CALLS_MAX];
    for (how, numbers) in rows {
        for number in *numbers {
            if let Some(entry) = table.get_mut(*number) {
                *entry = *how;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_a_call_is_lost() {
        let (native, compat) = calls();
        let named = |table: &Calls| table.iter().filter(|how| **how != call::OTHER).count();
        assert_eq!((named(&native), named(&compat)), (22, 28));
    }
}
