//! Whose acts user space wants at all.
//!
//! In: the names user space wrote into [`NAMES`], and wrote more of since, and every fork, exec and exit. Out: for a process
//! that started under the sensor's eyes, the record kinds its names are wanted for. A process nobody knows is wanted: what is
//! left out here must be something no rule could use.
//!
//! A name is looked up by its first 15 bytes, so a longer one that begins like a wanted one is wanted too; user space sorts
//! that out. Kept for all processes, scope or not, since a process may enter the scope later.

use aya_ebpf::{macros::map, maps::HashMap};
use sensor_ebpf::{Kind, maps::NAME_KEY_LEN};

use crate::{
    globals::{offset, setting},
    read::{Faults, helper, task},
};

/// First bytes of a name, filled up with zeroes.
type NameKey = [u64; NAME_KEY_LEN / 8];

/// Record kinds, a bit by number, that processes of a name are wanted for; under a name of zeroes, that everybody is.
#[map]
static NAMES: HashMap<NameKey, u32> = HashMap::with_max_entries(1, 0);

/// Record kinds wanted of a process, by tgid.
#[map]
static ACTORS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// A process has become the program that `bprm` describes. To be called before the process can change its own name.
///
/// # Kernel
///
/// `begin_new_exec` (5.8 and later) sets `comm` from the last component of the file name passed to execve, before the tracepoint.
#[inline(always)]
pub(crate) fn on_exec(task: u64, bprm: u64) {
    let named = setting!(named_kinds);
    if named == 0 {
        return;
    }
    let mut faults = Faults::NONE;
    let file = faults.pointer(bprm, offset!(bprm_file));
    let dentry = faults.pointer(file, offset!(file_path) + offset!(path_dentry));
    let name = faults.pointer(dentry, offset!(dentry_name));
    let kinds = kinds_of(&mut faults, task.wrapping_add(offset!(task_comm)))
        | kinds_of(&mut faults, name)
        | kinds_of_key(&[0; NAME_KEY_LEN / 8])
        | !named;
    // Full or unreadable: better wanted than missed.
    let tgid = task::current_tgid();
    if faults.any() || ACTORS.insert(&tgid, &kinds, 0).is_err() {
        let _ = ACTORS.remove(&tgid);
    }
}

/// Record kinds that a name is wanted for.
#[inline(always)]
fn kinds_of(faults: &mut Faults, name: u64) -> u32 {
    let mut key: NameKey = [0; NAME_KEY_LEN / 8];
    // SAFETY: the key has room for the length named, which the terminating NUL counts into.
    let read = unsafe {
        helper::probe_read_kernel_str(key.as_mut_ptr().cast(), NAME_KEY_LEN as u64, name)
    };
    if read < 0 {
        faults.0 |= -1;
        return 0;
    }
    kinds_of_key(&key)
}

#[inline(always)]
fn kinds_of_key(key: &NameKey) -> u32 {
    // SAFETY: the map outlives the program, and a word is read whole; user space adds to a value, and never takes away.
    unsafe { NAMES.get(key) }.copied().unwrap_or(0)
}

/// The running process has made another: it runs the same program.
#[inline(always)]
pub(crate) fn on_fork(child_tgid: u32) {
    if setting!(named_kinds) == 0 {
        return;
    }
    let parent_tgid = task::current_tgid();
    // SAFETY: the value is copied at once; a word is read whole.
    let kinds = unsafe { ACTORS.get(&parent_tgid) }.copied();
    let kept = kinds.is_some_and(|kinds| ACTORS.insert(&child_tgid, &kinds, 0).is_ok());
    if !kept {
        // Whatever is there belongs to an earlier process of that number.
        let _ = ACTORS.remove(&child_tgid);
    }
}

/// A process has ended.
#[inline(always)]
pub(crate) fn on_exit(tgid: u32) {
    if setting!(named_kinds) != 0 {
        let _ = ACTORS.remove(&tgid);
    }
}

/// Whether records of a kind are wanted of the running process.
#[inline(always)]
pub(crate) fn wants(kind: Kind) -> bool {
    let bit = 1u32 << kind as u32;
    if setting!(named_kinds) & bit == 0 {
        return true;
    }
    // SAFETY: as above.
    unsafe { ACTORS.get(&task::current_tgid()) }.is_none_or(|kinds| kinds & bit != 0)
}
