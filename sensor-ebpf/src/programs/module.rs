//! Kernel modules.
//!
//! In: the tracepoint that every module passes before its own code runs for the first time. Out: one record per module with
//! its name and what it taints; never for a file that is refused as a module.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use core::mem::MaybeUninit;
use sensor_ebpf::{Header, Kind, ModuleBody, Part, PartKind, settings::ABSENT};

use super::{process::fault_flag, write_part};
use crate::{
    emit::emit,
    globals::offset,
    read::{Faults, helper, task},
};

/// `MODULE_NAME_LEN`: the array the name stands in, zeroes behind it.
const NAME_LEN: usize = 64 - size_of::<u64>();

/// A module was put into the kernel.
///
/// # Kernel
///
/// 5.10 or later with `CONFIG_MODULES`; `module_load(mod)`. Its initialisation comes after this and may still fail.
#[btf_tracepoint(function = "module_load")]
fn module_loaded(ctx: BtfTracePointContext) -> i32 {
    let absent = u64::from(ABSENT);
    if offset!(module_name) == absent || offset!(module_taints) == absent {
        return 0;
    }
    let module: u64 = ctx.arg(0);
    let task = task::current();
    if !task::in_scope(task) {
        return 0;
    }
    let mut faults = Faults::NONE;
    let module = faults.number(module);
    let mut record = MaybeUninit::<(Header, ModuleBody, Part, [u8; NAME_LEN])>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the four pieces lie one behind the other in `record`, which has room for all.
    unsafe {
        const PART_AT: usize = size_of::<Header>() + size_of::<ModuleBody>();
        const NAME_AT: usize = PART_AT + size_of::<Part>();
        const LEN: u64 = (NAME_AT + NAME_LEN) as u64;
        task::fill_header(&mut faults, record.cast(), Kind::Module, task);
        let body = record.add(size_of::<Header>()).cast::<ModuleBody>();
        (*body).taints = faults.read::<u64>(module, offset!(module_taints));
        write_part(
            record.add(PART_AT).cast(),
            PartKind::Name as u16,
            NAME_LEN as u64,
        );
        faults.0 |= helper::probe_read_kernel(
            record.add(NAME_AT).cast(),
            NAME_LEN as u64,
            module.wrapping_add(offset!(module_name)),
        );
        emit::<LEN>(Kind::Module, record, LEN, 1, fault_flag(&faults));
    }
    0
}
