//! Word that the journal took an alert, with no kill between the two.
//!
//! In: an alert's entry for the journal. Out: the entry there, and the alert's number in a socket whose other end the service manager
//! keeps. Both go by one `sendmmsg`, which the kernel does not leave between two messages for a signal, not for SIGKILL either: the
//! next run can tell an entry that the journal has from one that was never sent. The journal itself can not be asked, since it shows
//! an entry some time after it took it. One number is there at a time.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::net::addr::SocketAddrArg as _;
use rustix::net::{
    MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, recv, sendmmsg,
};

use super::journald;
use crate::fd_store::FdStore;

/// What the other end is kept as.
const NAME: &str = "taken";
const LEN: usize = size_of::<u64>();

/// See the module.
#[derive(Debug)]
pub struct Receipts {
    socket: UnixDatagram,
    other_end: UnixDatagram,
    left: Option<u64>,
}

impl Receipts {
    /// Of this run from now on. What an earlier one left is given up, and known until the end of this one.
    ///
    /// # Errors
    /// There is no socket, or nobody to keep it.
    pub fn begin(store: &mut FdStore, left: Option<u64>) -> io::Result<Receipts> {
        store.remove(NAME)?;
        let receipts = Receipts {
            left,
            ..Receipts::new()?
        };
        store.put(NAME, receipts.other_end.as_fd())?;
        Ok(receipts)
    }

    fn new() -> io::Result<Receipts> {
        let (socket, other_end) = UnixDatagram::pair()?;
        journald::prepare(&socket)?;
        Ok(Receipts {
            socket,
            other_end,
            left: None,
        })
    }

    /// The alert that the journal took last from an earlier run. It stays there.
    #[must_use]
    pub fn left_in(store: &mut FdStore) -> Option<u64> {
        number_in(&store.take(NAME)?)
    }

    /// The same, as of the begin.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Sends a message to a journal's socket, and with it the number.
    ///
    /// # Errors
    /// The journal did not get it, and no number is there.
    pub fn send(
        &self,
        path: &Path,
        parts: &[IoSlice<'_>],
        control: &mut SendAncillaryBuffer<'_, '_, '_>,
        sequence: u64,
    ) -> io::Result<()> {
        // The one before is noted elsewhere by now; it takes up the room of the next.
        let mut before = [0; LEN];
        while recv(&self.other_end, &mut before, RecvFlags::DONTWAIT).is_ok() {}
        let journal = SocketAddrUnix::new(path)?.as_any();
        let number = sequence.to_le_bytes();
        let number = [IoSlice::new(&number)];
        let mut nothing = SendAncillaryBuffer::default();
        let mut messages = [
            MMsgHdr::new_with_addr(&journal, parts, control),
            MMsgHdr::new(&number, &mut nothing),
        ];
        sendmmsg(&self.socket, &mut messages, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn number_in(other_end: &OwnedFd) -> Option<u64> {
    let mut bytes = [0; LEN];
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let (length, _) = recv(other_end, &mut bytes, flags).ok()?;
    (length == LEN).then(|| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Where a child of the test sends to.
    const TO: &str = "EQL_SENSOR_TEST_SENDS_TO";
    const KILLS: u64 = 30;

    fn send(receipts: &Receipts, path: &Path, sequence: u64) -> io::Result<()> {
        let entry = sequence.to_le_bytes();
        let parts = [IoSlice::new(&entry)];
        receipts.send(path, &parts, &mut SendAncillaryBuffer::default(), sequence)
    }

    #[test]
    fn the_last_number_outlives_who_sent_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let receipts = Receipts::new().unwrap();
        let kept: OwnedFd = receipts.other_end.try_clone().unwrap().into();
        assert_eq!(number_in(&kept), None);
        let away = send(&receipts, &path, 6).unwrap_err();
        assert_eq!(away.kind(), io::ErrorKind::NotFound);
        assert_eq!(number_in(&kept), None, "what was not sent has none");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        for sequence in [7, 8] {
            send(&receipts, &path, sequence).unwrap();
        }
        drop(receipts);
        assert_eq!(number_in(&kept), Some(8));
        assert_eq!(number_in(&kept), Some(8), "it stays");
        let mut bytes = [0; 16];
        for _ in 0..2 {
            assert_eq!(journal.recv(&mut bytes).unwrap(), LEN);
        }
        assert!(journal.recv(&mut bytes).is_err());
    }

    #[test]
    fn a_journal_that_is_full_gives_no_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let receipts = Receipts::new().unwrap();
        let kept: OwnedFd = receipts.other_end.try_clone().unwrap().into();
        let mut sent = 0;
        while send(&receipts, &path, sent + 1).is_ok() {
            sent += 1;
        }
        assert!(sent > 0);
        // The number before went when this one was tried; who sends has noted it elsewhere.
        assert_eq!(number_in(&kept), None);
        let mut bytes = [0; 16];
        journal.recv(&mut bytes).unwrap();
        send(&receipts, &path, sent + 1).unwrap();
        assert_eq!(number_in(&kept), Some(sent + 1));
    }

    /// Behind what the test harness prints.
    const BEGUN_AT: u64 = 1 << 16;

    /// What the child does: sends for as long as it lives. Its input is the socket, where it would complain the other end; where it would
    /// print is noted what it is about to send.
    fn send_for_ever(path: &Path) {
        let own = |from: &dyn AsFd| from.as_fd().try_clone_to_owned().unwrap();
        let receipts = Receipts {
            socket: own(&io::stdin()).into(),
            other_end: own(&io::stderr()).into(),
            left: None,
        };
        let begun = File::from(own(&io::stdout()));
        for sequence in 1_u64.. {
            begun
                .write_all_at(&sequence.to_le_bytes(), BEGUN_AT)
                .unwrap();
            while send(&receipts, path, sequence).is_err() {}
        }
    }

    #[test]
    fn no_kill_comes_between_an_entry_and_its_number() {
        if let Some(path) = std::env::var_os(TO) {
            return send_for_ever(Path::new(&path));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for kill in 0..KILLS {
            let journal = UnixDatagram::bind(&path).unwrap();
            let receipts = Receipts::new().unwrap();
            let kept: OwnedFd = receipts.other_end.try_clone().unwrap().into();
            let begun = tempfile::tempfile().unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("output::receipts::tests::no_kill_comes_between_an_entry_and_its_number")
                .env(TO, &path)
                .stdin(OwnedFd::from(receipts.socket))
                .stdout(begun.try_clone().unwrap())
                .stderr(OwnedFd::from(receipts.other_end))
                .spawn()
                .unwrap();
            let (first, begins) = channel();
            let reader = std::thread::spawn(move || {
                let (mut last, mut bytes) = (0, [0; LEN]);
                while journal.recv(&mut bytes).unwrap() == LEN {
                    last = u64::from_le_bytes(bytes);
                    // Nobody listens after the first.
                    let _ = first.send(());
                }
                last
            });
            begins.recv().unwrap();
            drop(begins);
            // Each time at another of its steps.
            std::thread::sleep(Duration::from_micros(1000 + kill * 7));
            child.kill().unwrap();
            child.wait().unwrap();
            let end = UnixDatagram::unbound().unwrap();
            end.send_to(b"end", &path).unwrap();
            let last = reader.join().unwrap();
            let mut bytes = [0; LEN];
            begun.read_exact_at(&mut bytes, BEGUN_AT).unwrap();
            let begun = u64::from_le_bytes(bytes);
            let is_taken = number_in(&kept) == Some(begun);
            assert_eq!(
                is_taken,
                last == begun,
                "{begun}, and the journal's last is {last}"
            );
            std::fs::remove_file(&path).unwrap();
        }
    }
}
