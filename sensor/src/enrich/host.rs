//! Who this host is.
//!
//! In: the machine id, the boot id, the kernel's own names, the state directory. Out: the [`Host`] every event carries, and
//! the entity ids derived from it. It never invents an identity silently: what is missing is derived from what is not, the
//! same way each time.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::procfs::TICK_NS;
use crate::event::Host;

const AGENT_ID_FILE: &str = "agent-id";

/// Reads this host's identity. The agent id is kept in `state_directory`; without one, or when it can't be written, it is
/// derived from the host's.
#[must_use]
pub fn this_host(state_directory: Option<&Path>) -> Host {
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| Arc::<str>::from(name.to_string_lossy());
    let boot_id = first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let name = text(names.nodename());
    let id = first_line("/etc/machine-id")
        .or_else(|| first_line("/var/lib/dbus/machine-id"))
        .unwrap_or_else(|| hex(&digest(&[b"host", name.as_bytes()]), 16));
    let derived = uuid(&digest(&[b"agent", id.as_bytes()]));
    let agent_id = state_directory
        .and_then(|directory| kept_agent_id(directory).ok())
        .unwrap_or(derived);
    Host {
        id: id.into(),
        name,
        architecture: text(names.machine()),
        kernel: text(names.release()),
        agent_id: agent_id.into(),
        boot_id: boot_id.into(),
    }
}

/// The agent id of a state directory, made at the first start.
fn kept_agent_id(directory: &Path) -> io::Result<String> {
    let path = directory.join(AGENT_ID_FILE);
    if let Some(kept) = first_line(&path) {
        return Ok(kept);
    }
    let mut random = [0_u8; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
    let made = uuid(&random);
    let mut file = std::fs::File::create_new(&path)?;
    writeln!(file, "{made}")?;
    file.sync_all()?;
    Ok(made)
}

/// First line of a small file, `None` when absent or empty. Bounded: some of these files are writable by others.
fn first_line(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    io::Read::read_to_string(&mut io::Read::take(file, 256), &mut text).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Makes entity ids: the host and boot part of the hash is computed once.
#[derive(Clone, Debug)]
pub struct EntityIds {
    seed: Sha256,
}

impl EntityIds {
    #[must_use]
    pub fn of(host: &Host) -> EntityIds {
        let mut seed = Sha256::new();
        seed.update(host.id.as_bytes());
        seed.update([0]);
        seed.update(host.boot_id.as_bytes());
        seed.update([0]);
        EntityIds { seed }
    }

    /// Identity of a process: 24 hex digits.
    ///
    /// The start time counts in ticks, the resolution of `/proc`, so that a process found by the start-up scan and the same
    /// process seen in a record have one identity. A pid can't come round within one tick unless every pid was used in 10 ms.
    #[must_use]
    pub fn entity_id(&self, pid: u32, start_ns: u64) -> Arc<str> {
        let mut hash = self.seed.clone();
        hash.update(pid.to_le_bytes());
        hash.update((start_ns / TICK_NS).to_le_bytes());
        hex(&hash.finalize(), 12).into()
    }
}

fn digest(pieces: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update(piece);
        hash.update([0]);
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8], count: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| {
        DIGITS
            .get(usize::from(nibble))
            .map_or('0', |d| char::from(*d))
    };
    let mut text = String::with_capacity(count * 2);
    for byte in bytes.iter().take(count) {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

/// Sixteen bytes in the form of a random (version 4) UUID.
fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let byte = match index {
            6 => (byte & 0x0f) | 0x40,
            8 => (byte & 0x3f) | 0x80,
            _ => *byte,
        };
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_id_outlives_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let first = this_host(Some(state.path()));
        let second = this_host(Some(state.path()));
        assert_eq!(first, second);
        assert_eq!(first.agent_id.len(), 36);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(this_host(Some(other.path())).agent_id, first.agent_id);
    }

    #[test]
    fn without_a_state_directory_the_agent_id_is_derived() {
        let missing = Path::new("/nonexistent/state");
        assert_eq!(this_host(None).agent_id, this_host(Some(missing)).agent_id);
        assert_eq!(this_host(None).agent_id.as_bytes().get(14), Some(&b'4'));
        assert!(!this_host(None).id.is_empty());
    }

    #[test]
    fn entity_ids_tell_processes_boots_and_hosts_apart() {
        let host = |id: &str, boot: &str| {
            EntityIds::of(&Host {
                id: id.into(),
                boot_id: boot.into(),
                ..Host::default()
            })
        };
        let ids = host("h", "b");
        let id = ids.entity_id(7, 5 * TICK_NS);
        assert_eq!(id.len(), 24);
        assert_eq!(ids.entity_id(7, 5 * TICK_NS + 1), id, "same tick");
        assert_ne!(ids.entity_id(7, 6 * TICK_NS), id);
        assert_ne!(ids.entity_id(8, 5 * TICK_NS), id);
        assert_ne!(host("h", "c").entity_id(7, 5 * TICK_NS), id);
        assert_ne!(host("hb", "").entity_id(7, 5 * TICK_NS), id);
    }
}
