//! What can be watched for being opened.
//!
//! In: a name, a path or a directory, as the settings have it. Out: what the kernel is told of it: its last name, and whether
//! that is a file's or a directory's. The name alone decides there; whoever reads the records compares whole paths.

use sensor_ebpf::maps::{WATCH_NAME_LEN, WATCHES_MAX, watch};

/// Why something can not be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("must be a name, an absolute path, or a directory with a slash at its end")]
    Form,
    #[error("its last name must have 1 to {} bytes", WATCH_NAME_LEN - 1)]
    Length,
    #[error("the root directory can not be watched")]
    Root,
}

/// Key and value that the kernel gets for one watched name, path or directory.
///
/// # Errors
///
/// What is wrong with it.
pub fn watch_entry(watched: &str) -> Result<([u8; WATCH_NAME_LEN], u32), WatchError> {
    let (path, kind) = match watched.strip_suffix('/') {
        Some("") => return Err(WatchError::Root),
        Some(directory) => (directory, watch::DIRECTORY),
        None => (watched, watch::FILE),
    };
    let name = match path.rsplit_once('/') {
        Some((_, name)) if path.starts_with('/') => name,
        None if kind == watch::FILE => path,
        _ => return Err(WatchError::Form),
    };
    let mut key = [0; WATCH_NAME_LEN];
    match key.get_mut(..name.len()) {
        Some(place) if !name.is_empty() && name.len() < WATCH_NAME_LEN => {
            place.copy_from_slice(name.as_bytes());
            Ok((key, kind))
        }
        _ => Err(WatchError::Length),
    }
}

/// Most that can be watched.
pub const WATCHED_MAX: usize = WATCHES_MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_path_is_known_by_its_last_name() {
        let check = |watched: &str, name: &str, kind: u32| {
            let (key, found) = watch_entry(watched).unwrap();
            let end = key.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!((&key[..end], found), (name.as_bytes(), kind), "{watched}");
        };
        check(".bashrc", ".bashrc", watch::FILE);
        check("/etc/shadow", "shadow", watch::FILE);
        check("/etc/ssh/", "ssh", watch::DIRECTORY);
        for (watched, error) in [
            ("", WatchError::Length),
            ("/", WatchError::Root),
            ("ssh/", WatchError::Form),
            ("etc/shadow", WatchError::Form),
            ("/etc//", WatchError::Length),
        ] {
            assert_eq!(watch_entry(watched), Err(error), "{watched:?}");
        }
        assert_eq!(watch_entry(&"n".repeat(64)), Err(WatchError::Length));
        assert!(watch_entry(&"n".repeat(63)).is_ok());
    }
}
