//! The part of a service manager that keeps descriptors for a daemon.
//!
//! In: what a daemon sends to its notify socket. Out: the same descriptors to the next one, as a service manager passes them. Must
//! never give away what it was told to remove.

use std::io::IoSliceMut;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Above every number that what is kept gets in a daemon.
const HIGH: i32 = 700;

type Kept = Arc<Mutex<Vec<(String, OwnedFd)>>>;
type Told = Arc<Mutex<Option<Sender<String>>>>;

/// See the module.
pub(crate) struct Manager {
    folder: tempfile::TempDir,
    kept: Kept,
    told: Told,
}

impl Manager {
    pub(crate) fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let (kept, told) = (Kept::default(), Told::default());
        std::thread::spawn({
            let (kept, told) = (Arc::downgrade(&kept), Arc::clone(&told));
            socket
                .set_read_timeout(Some(std::time::Duration::from_millis(100)))
                .unwrap();
            move || {
                while let Some(kept) = kept.upgrade() {
                    receive(&socket, &kept, &told);
                }
            }
        });
        Manager { folder, kept, told }
    }

    /// Where the daemon keeps its state.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// Names of what is kept.
    pub(crate) fn names(&self) -> Vec<String> {
        let kept = self.kept.lock().unwrap();
        kept.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Attachments that are kept: the number of each, and of what is attached.
    pub(crate) fn attached(&self) -> Vec<(String, String)> {
        let kept = self.kept.lock().unwrap();
        let links = kept
            .iter()
            .filter(|(name, _)| name.starts_with("kernel.link."));
        let mut attached: Vec<_> = links
            .map(|(name, link)| {
                let path = format!("/proc/self/fdinfo/{}", link.as_raw_fd());
                let told = std::fs::read_to_string(path).unwrap();
                let numbers = told
                    .lines()
                    .filter(|line| line.starts_with("link_id:") || line.starts_with("prog_id:"));
                (name.clone(), numbers.collect::<Vec<_>>().join(" "))
            })
            .collect();
        attached.sort_unstable();
        attached
    }

    /// What daemons say from now on.
    pub(crate) fn listen(&self) -> Receiver<String> {
        let (to, lines) = channel();
        *self.told.lock().unwrap() = Some(to);
        lines
    }

    /// A command with what is kept, from descriptor 3 on, and its names.
    pub(crate) fn handed_to(&self, command: &Command) -> Command {
        let kept = self.kept.lock().unwrap();
        let mut with = Command::new("sh");
        with.args(["-c", r#"export LISTEN_PID=$$; exec "$@""#, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("NOTIFY_SOCKET", self.socket())
            .env("FDSTORE", "512");
        if kept.is_empty() {
            return with;
        }
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        with.env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        let high = |(_, kept): &(String, OwnedFd)| rustix::io::fcntl_dupfd_cloexec(kept, HIGH);
        let handed: Vec<OwnedFd> = kept.iter().map(high).collect::<Result<_, _>>().unwrap();
        let place = move || {
            for (number, descriptor) in (3..HIGH).zip(&handed) {
                // SAFETY: it is not closed here; whatever had the number in this child is of no use to what it is going to be.
                let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
                rustix::io::dup2(descriptor, &mut number)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call for each descriptor, and allocates nothing.
        unsafe { with.pre_exec(place) };
        with
    }
}

/// Takes one message, if there is one.
fn receive(socket: &UnixDatagram, kept: &Kept, told: &Told) {
    let mut message = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let Ok(received) = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else {
        return;
    };
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
            _ => Vec::new(),
        })
        .collect();
    let text = String::from_utf8_lossy(&message[..received.bytes]).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
    let name = name.unwrap_or("stored");
    let says = |wanted: &str| text.lines().any(|line| line == wanted);
    if says("FDSTORE=1") {
        assert!(
            says("FDPOLL=0"),
            "kernel objects look as if they had failed: {text}"
        );
        let named = descriptors.into_iter().map(|one| (name.to_owned(), one));
        kept.lock().unwrap().extend(named);
    } else if says("FDSTOREREMOVE=1") {
        kept.lock().unwrap().retain(|(kept, _)| kept != name);
    }
    if let Some(to) = &*told.lock().unwrap() {
        for line in text.lines() {
            // Nobody listens any more when the daemon is gone.
            let _ = to.send(line.to_owned());
        }
    }
}
