//! Which files of several directories count, by systemd's rules.
//!
//! In: directories in order of precedence. Out: one `*.toml` file per name, sorted by name, without what a mask hides. Dot files
//! and what editors and package managers leave behind are passed over. It never looks below a directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::document::{Problem, only_administrator_writes, os_text};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted by file name.
    pub files: Vec<PathBuf>,
    /// Empty files and links to `/dev/null` that take their name out altogether.
    pub masks: Vec<PathBuf>,
    pub problems: Vec<Problem>,
}

/// Files of several directories in order of precedence: one file per name, the first found. Directories that do not exist are
/// passed over; one that others than root can write is a problem and gives no file.
#[must_use]
pub fn merged(directories: &[PathBuf]) -> Found {
    let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut found = Found::default();
    for directory in directories {
        match listing(directory) {
            Ok(files) => {
                for file in files {
                    let name = file.file_name().unwrap_or_default().to_owned();
                    by_name.entry(name).or_insert(file);
                }
            }
            Err(problem) => found.problems.push(*problem),
        }
    }
    (found.masks, found.files) = by_name.into_values().partition(|path| is_mask(path));
    found
}

/// Files of one directory that count, in no order; none when it does not exist.
fn listing(directory: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    let cannot = |error: std::io::Error| {
        let message = format!("cannot list the directory: {}", os_text(&error));
        Box::new(Problem::of_file(directory, message, None))
    };
    let metadata = match std::fs::metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(cannot)?,
    };
    let entries = std::fs::read_dir(directory).map_err(cannot)?;
    only_administrator_writes(directory, &metadata)?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(cannot)?.path());
    }
    files.retain(|path| is_taken(path));
    Ok(files)
}

/// `*.toml`, but no dot file. Backups (`x.toml~`, `x.toml.dpkg-old`, `x.toml.rpmsave`) do not end in `.toml`.
#[must_use]
pub fn is_taken(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

/// Whether a file is there to hide others of its name: it is empty, or links to `/dev/null`.
#[must_use]
pub fn is_mask(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0 && !metadata.is_dir())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn an_earlier_directory_replaces_and_hides_by_name() {
        let root = tempfile::tempdir().unwrap();
        let [etc, run, vendor] = ["etc", "run", "vendor"].map(|name| root.path().join(name));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&vendor).unwrap();
        fs::write(etc.join("b.toml"), "admin").unwrap();
        fs::write(etc.join("c.toml"), "").unwrap();
        symlink("/dev/null", etc.join("d.toml")).unwrap();
        for name in [
            "a.toml",
            "b.toml",
            "c.toml",
            "d.toml",
            ".e.toml",
            "f.toml~",
            "g.toml.dpkg-old",
        ] {
            fs::write(vendor.join(name), "vendor").unwrap();
        }
        fs::create_dir(vendor.join("below")).unwrap();
        fs::write(vendor.join("below/h.toml"), "vendor").unwrap();
        let found = merged(&[etc.clone(), run, vendor.clone()]);
        assert_eq!(found.files, [vendor.join("a.toml"), etc.join("b.toml")]);
        assert_eq!(found.masks, [etc.join("c.toml"), etc.join("d.toml")]);
        assert_eq!(found.problems, []);
    }

    #[test]
    fn a_directory_that_others_can_write_gives_nothing() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("rules.d");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.toml"), "x").unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let found = merged(std::slice::from_ref(&directory));
        assert_eq!(found.files, [""; 0].map(PathBuf::from));
        let said: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        let path = directory.display();
        assert_eq!(
            said,
            [format!(
                "{path}: error: everybody can write it; only root may decide what the sensor does: chmod o-w {path}"
            )]
        );
    }
}
