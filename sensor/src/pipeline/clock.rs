//! The clocks: boot time, which orders events, how far wall time is from it, for people, and what a thread used.

use rustix::time::{ClockId, clock_gettime};

/// The boot clock: what orders events. It goes on through suspend.
#[must_use]
pub fn boot_ns() -> u64 {
    u64::try_from(nanoseconds(ClockId::Boottime)).unwrap_or_default()
}

/// Wall clock minus boot clock.
pub(crate) fn wall_offset_ns() -> i64 {
    let before = nanoseconds(ClockId::Boottime);
    let wall = nanoseconds(ClockId::Realtime);
    let after = nanoseconds(ClockId::Boottime);
    wall - before - (after - before) / 2
}

/// Processor time of the running thread.
pub(crate) fn thread_ns() -> u64 {
    u64::try_from(nanoseconds(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec)
}
