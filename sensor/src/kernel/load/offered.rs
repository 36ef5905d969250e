//! Which record kinds this kernel has hooks for, by its type information alone.
//!
//! In: `/sys/kernel/btf/vmlinux`, which anybody may read. Out: a set of kinds. Nothing is loaded, so whether the kernel takes the
//! hooks is not known.

use std::collections::BTreeSet;

use sensor_ebpf::Kind;

use super::{Btf, PROGRAMS};
use crate::kernel::KindSet;
use crate::kernel::support::{SupportError, read_btf};

/// The kinds for which this kernel has every function or tracepoint of one sort of hooks.
///
/// # Errors
/// The kernel does not describe its types.
pub fn offered() -> Result<KindSet, SupportError> {
    let btf = read_btf()?;
    let kinds: BTreeSet<u32> = PROGRAMS.iter().map(|program| program.kind as u32).collect();
    let offered = Kind::ALL
        .iter()
        .filter(|kind| kinds.contains(&(**kind as u32)) && has_hooks(**kind, &btf));
    Ok(offered.copied().fold(KindSet::EMPTY, KindSet::with))
}

fn has_hooks(kind: Kind, btf: &Btf) -> bool {
    let whole = |trampoline: bool| {
        let mut sort = PROGRAMS
            .iter()
            .filter(|program| program.kind == kind && !program.hook.is_moot(btf))
            .filter(|program| program.hook.is_trampoline() == trampoline)
            .peekable();
        sort.peek().is_some() && sort.all(|program| program.hook.missing(btf).is_none())
    };
    whole(true) || whole(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_kernel_has_is_offered() {
        match offered() {
            Ok(kinds) => {
                for kind in [Kind::Fork, Kind::Exec, Kind::Exit] {
                    assert!(kinds.contains(kind), "{}", kind.name());
                }
                assert!(!kinds.contains(Kind::Throttle));
            }
            // A host that does not say has nothing to be compared with.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
