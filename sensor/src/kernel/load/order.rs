//! In which order the kernel runs the programs on one function.
//!
//! In: two programs that do nothing else, and a file that is opened. Out: which of them runs first. Must never leave them attached.

use std::fs::File;

use aya::{Btf as KernelBtf, Ebpf, maps::Array};

use super::programs::{Entry, ORDER, ORDER_MAP};
use super::{Btf, LoadError, attach_one, load_one, reason, unload};

/// Runs of one of the two that the kernel may skip before the trial is given up.
const TRIES: usize = 32;

/// Whether the last attached runs first; so it is in all kernels that were looked at, and what is taken for granted where the kernel
/// does not let it be tried.
pub(super) fn runs_last_first(
    ebpf: &mut Ebpf,
    btf: &Btf,
    kernel_btf: &KernelBtf,
) -> Result<bool, LoadError> {
    let mut outcome = Ok(());
    for Entry { name, hook, .. } in &ORDER {
        let program = ebpf.program_mut(name).ok_or(LoadError::NotInObject(name))?;
        outcome = outcome
            .and_then(|()| hook.missing(btf).map_or(Ok(()), Err))
            .and_then(|()| load_one(program, *hook, kernel_btf).map_err(|error| reason(&error)))
            .and_then(|()| attach_one(program));
    }
    let order = match &outcome {
        Ok(()) => tried(ebpf),
        Err(_) => Ok(None),
    };
    for program in &ORDER {
        if let Some(loaded) = ebpf.program_mut(program.name) {
            unload(loaded);
        }
    }
    let order = order?;
    match (order, outcome) {
        (Some(true), _) => {
            tracing::debug!("of programs on one function the last attached runs first")
        }
        (Some(false), _) => {
            tracing::debug!("of programs on one function the first attached runs first")
        }
        (None, outcome) => tracing::debug!(
            "in which order programs on one function run is not known: {}",
            outcome
                .err()
                .unwrap_or_else(|| "they did not run".to_owned())
        ),
    }
    Ok(order.unwrap_or(true))
}

/// Opens a file until both have seen it; `None` when they never do.
fn tried(ebpf: &mut Ebpf) -> Result<Option<bool>, LoadError> {
    const ASKING: u32 = 2;
    let failed = |cause| LoadError::Map {
        name: ORDER_MAP,
        cause,
    };
    let map = ebpf
        .map_mut(ORDER_MAP)
        .ok_or(LoadError::NotInObject(ORDER_MAP))?;
    let mut map = Array::<_, u64>::try_from(map).map_err(failed)?;
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let asking = u64::from(std::process::id()) << 32 | u64::from(thread.unsigned_abs());
    let mut order = None;
    for _ in 0..TRIES {
        for turn in 0..ASKING {
            map.set(turn, 0, 0).map_err(failed)?;
        }
        map.set(ASKING, asking, 0).map_err(failed)?;
        let opened = File::open("/proc/self/stat");
        map.set(ASKING, 0, 0).map_err(failed)?;
        let earlier = map.get(&0, 0).map_err(failed)?;
        let later = map.get(&1, 0).map_err(failed)?;
        if opened.is_ok() && earlier != 0 && later != 0 {
            order = Some(later < earlier);
            break;
        }
    }
    Ok(order)
}
