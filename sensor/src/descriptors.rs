//! Descriptors by their numbers: the only place of the daemon that takes a number's word.
//!
//! In: what the service manager left open for this process. Out: the same as owned values, and tools for the library, which makes
//! none itself. It never closes what somebody else owns.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::DupFlags;
use sensor::fd_store::{Inherited, Tools};

/// What the service manager handed over. To be called once, before anything else opens a descriptor.
pub(crate) fn inherited() -> Inherited {
    let listed = sd_notify::listen_fds_with_names();
    let descriptors = listed.into_iter().flatten().map(|(number, name)| {
        // SAFETY: the service manager opened it for this very process (its pid is in the environment), and nothing has owned it
        // yet.
        (name, unsafe { OwnedFd::from_raw_fd(number) })
    });
    Inherited {
        descriptors: descriptors.collect(),
        tools: Tools {
            stand_in,
            duplicate,
        },
    }
}

fn stand_in(of: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: it is open, since it is borrowed, and it stays so: it is not dropped here, and its owner goes on owning the number.
    let mut of = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(of.as_raw_fd()) });
    rustix::io::dup3(by, &mut of, DupFlags::CLOEXEC)?;
    Ok(())
}

fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is borrowed for this one call, by which the kernel says so if nothing of that number is open.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}
