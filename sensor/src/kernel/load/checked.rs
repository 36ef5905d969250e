//! What the self-check needs of the kernel side.
//!
//! In: the process whose children act, and the headers of their records. Out: those children in scope wherever they are, and an
//! account without their records. Must never change what other processes' acts make.

use aya::maps::Array;
use sensor_ebpf::{Header, record_flag};

use super::{Kernel, LoadError, locked};

impl Kernel {
    /// Lets children of a process count as in scope, or nobody's any more.
    ///
    /// # Errors
    ///
    /// When the kernel does not let the map be written.
    pub fn watch_children_of(&mut self, tgid: Option<u32>) -> Result<(), LoadError> {
        const NAME: &str = "CHECKED";
        let failed = |cause| LoadError::Map { name: NAME, cause };
        let mut programs = locked(&self.programs);
        let map = programs
            .ebpf
            .map_mut(NAME)
            .ok_or(LoadError::NotInObject(NAME))?;
        let mut map = Array::<_, u32>::try_from(map).map_err(failed)?;
        map.set(0, tgid.unwrap_or(0), 0).map_err(failed)
    }

    /// Takes one record off the account: as if it had been neither seen nor sent.
    pub fn leave_out(&mut self, header: &Header) {
        let Some(counters) = self.left_out.get_mut(usize::from(header.kind)) else {
            return;
        };
        let flagged = |flag: u32| u64::from(header.flags & flag != 0);
        counters.seen += 1;
        counters.submitted += 1;
        counters.degraded += flagged(record_flag::DEGRADED);
        counters.truncated += flagged(record_flag::TRUNCATED);
        counters.read_fault += flagged(record_flag::READ_FAULT);
    }
}
