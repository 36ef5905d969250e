//! Descriptors that outlive the process: the service manager keeps them and hands them to the next run.
//!
//! In: what the manager handed over, and descriptors to keep, each by a name. Out: the same at the next start. It is there only
//! where the manager says so (`FDSTORE`; managers before version 254 do not, then the unit does). This library makes no descriptor
//! of a number: whoever owns the process does that, by the [`Tools`] it passes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// What can not be done without trust in a number.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    /// Makes one descriptor refer to what another does.
    pub stand_in: fn(BorrowedFd<'_>, BorrowedFd<'_>) -> io::Result<()>,
    /// A further descriptor of what a number refers to in this process.
    pub duplicate: fn(RawFd) -> io::Result<OwnedFd>,
}

/// What the service manager handed to this process, and how to make use of it.
#[derive(Debug)]
pub struct Inherited {
    pub descriptors: Vec<(String, OwnedFd)>,
    pub tools: Tools,
}

/// See the module.
#[derive(Debug)]
pub struct FdStore {
    tools: Tools,
    inherited: BTreeMap<String, OwnedFd>,
    /// Names of what the manager keeps.
    kept: BTreeSet<String>,
}

impl FdStore {
    /// The store of this service; `None` where its manager keeps nothing, and then what was handed over is closed.
    #[must_use]
    pub fn of_this_service(inherited: Inherited) -> Option<FdStore> {
        let room = std::env::var("FDSTORE").ok();
        let has_room = room.and_then(|room| room.parse().ok()) > Some(0_u32);
        if !has_room || std::env::var_os("NOTIFY_SOCKET").is_none() {
            return None;
        }
        Some(FdStore {
            tools: inherited.tools,
            kept: inherited
                .descriptors
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
            inherited: inherited.descriptors.into_iter().collect(),
        })
    }

    #[must_use]
    pub fn tools(&self) -> Tools {
        self.tools
    }

    /// Whether something of this name was handed over and not taken yet.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.inherited.contains_key(name)
    }

    /// What was handed over under a name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.inherited.remove(name)
    }

    /// Names of what was handed over and not taken yet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inherited.keys().map(String::as_str)
    }

    /// Whether the manager keeps something under this name.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        self.kept.contains(name)
    }

    /// Has the manager keep a descriptor.
    ///
    /// # Errors
    /// The manager can not be told. Whether it has room nobody hears.
    pub fn put(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        // Kernel objects look as if they had failed to whoever polls them.
        let state = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        tell(&state, &[descriptor])?;
        self.kept.insert(name.to_owned());
        Ok(())
    }

    /// Has the manager close what it keeps under names that begin so, and closes what it handed over of it.
    ///
    /// # Errors
    /// The manager can not be told.
    pub fn remove(&mut self, prefix: &str) -> io::Result<()> {
        self.inherited.retain(|name, _| !name.starts_with(prefix));
        for name in std::mem::take(&mut self.kept) {
            if name.starts_with(prefix) {
                tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])?;
            } else {
                self.kept.insert(name);
            }
        }
        Ok(())
    }
}

/// One message to the service manager.
fn tell(state: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotFound)?;
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(state.as_bytes())];
    sendmsg(&socket, &parts, &mut ancillary, SendFlags::empty())?;
    Ok(())
}
