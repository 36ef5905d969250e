//! The consumer's end of the ring buffer.
//!
//! In: wake-ups of the kernel. Out: the bytes of each record, in the order they were reserved. A slot is given back as soon as
//! the caller returns, so the caller must copy what it keeps and must not wait.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;

/// Most records handed over in one go, so that one busy ring does not starve its thread's other tasks.
const BATCH_MAX: usize = 16_384;

/// Why the ring can not be waited for.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error(
        "cannot watch the ring buffer; the drain must run inside a tokio runtime with I/O enabled"
    )]
    Watch(#[source] io::Error),
    #[error("cannot wait for the ring buffer")]
    Wait(#[source] io::Error),
    #[error("the ring buffer is gone")]
    Gone,
}

/// Watched from the first asynchronous drain on, since only then there surely is a runtime.
pub(super) enum Ring {
    Idle(RingBuf<MapData>),
    Watched(AsyncFd<RingBuf<MapData>>),
    /// Only while one becomes the other.
    Gone,
}

impl Ring {
    /// Waits until there is something, then hands over what is there. Returns how many records.
    pub(super) async fn drain(&mut self, on_record: impl FnMut(&[u8])) -> Result<usize, RingError> {
        let watched = self.watch()?;
        let mut ready = watched.readable_mut().await.map_err(RingError::Wait)?;
        let count = take_all(ready.get_inner_mut(), on_record);
        if count < BATCH_MAX {
            ready.clear_ready();
        }
        Ok(count)
    }

    /// Hands over what is there without waiting.
    pub(super) fn drain_now(&mut self, on_record: impl FnMut(&[u8])) -> usize {
        match self {
            Ring::Idle(ring) => take_all(ring, on_record),
            Ring::Watched(watched) => take_all(watched.get_mut(), on_record),
            Ring::Gone => 0,
        }
    }

    /// Hands over one record, if there is one.
    pub(super) fn drain_one(&mut self, on_record: impl FnMut(&[u8])) -> usize {
        match self {
            Ring::Idle(ring) => take(ring, 1, on_record),
            Ring::Watched(watched) => take(watched.get_mut(), 1, on_record),
            Ring::Gone => 0,
        }
    }

    /// For others to keep.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Ring::Idle(ring) => Some(ring.as_fd()),
            Ring::Watched(watched) => Some(watched.get_ref().as_fd()),
            Ring::Gone => None,
        }
    }

    fn watch(&mut self) -> Result<&mut AsyncFd<RingBuf<MapData>>, RingError> {
        if matches!(self, Ring::Idle(_)) {
            let Ring::Idle(ring) = std::mem::replace(self, Ring::Gone) else {
                return Err(RingError::Gone);
            };
            #[expect(
                deprecated,
                reason = "its successor is unsafe for descriptors that may close early; the ring owns its own"
            )]
            let watched = AsyncFd::new(ring).map_err(RingError::Watch)?;
            *self = Ring::Watched(watched);
        }
        match self {
            Ring::Watched(watched) => Ok(watched),
            _ => Err(RingError::Gone),
        }
    }
}

fn take_all(ring: &mut RingBuf<MapData>, on_record: impl FnMut(&[u8])) -> usize {
    take(ring, BATCH_MAX, on_record)
}

fn take(ring: &mut RingBuf<MapData>, max: usize, mut on_record: impl FnMut(&[u8])) -> usize {
    let mut count = 0;
    while count < max {
        let Some(record) = ring.next() else {
            break;
        };
        on_record(&record);
        count += 1;
    }
    count
}
