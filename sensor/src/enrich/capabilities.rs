//! Capability masks as names.
//!
//! In: a mask. Out: the shared list of its names; hosts use a handful of different masks, so lists are kept and shared.
//! Bits without a name are left out.

use std::collections::HashMap;
use std::sync::Arc;

/// By bit number, as in the kernel's `capability.h`.
pub(super) const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Most different masks remembered; past that the list starts over.
const LISTS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct CapabilityNames {
    by_mask: HashMap<u64, Arc<[&'static str]>>,
}

impl CapabilityNames {
    pub(super) fn of(&mut self, mask: u64) -> Arc<[&'static str]> {
        if self.by_mask.len() >= LISTS_MAX && !self.by_mask.contains_key(&mask) {
            self.by_mask.clear();
        }
        let list = self.by_mask.entry(mask).or_insert_with(|| {
            let set = NAMES
                .iter()
                .enumerate()
                .filter(|(bit, _)| mask >> bit & 1 == 1);
            set.map(|(_, name)| *name).collect()
        });
        list.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_become_names() {
        let mut names = CapabilityNames::default();
        assert!(names.of(0).is_empty());
        assert_eq!(&*names.of(1 << 21 | 1), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        assert_eq!(names.of(u64::MAX).len(), NAMES.len());
        assert_eq!(names.of(1 << 40).first(), Some(&"CAP_CHECKPOINT_RESTORE"));
        for mask in 0..1000 {
            names.of(mask);
        }
        assert!(names.by_mask.len() <= LISTS_MAX);
    }
}
