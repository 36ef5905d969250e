//! Which files of a directory are rules.
//!
//! In: directories. Out: paths of `*.toml` files sorted by name, leaving out dot files and what editors and package
//! managers leave behind. Never looks below the directory itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::document::{Problem, os_text};

/// Rule files of one directory, sorted by name.
///
/// # Errors
/// The directory can not be read.
pub(super) fn rule_files(directory: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    let cannot = |error: std::io::Error| {
        Box::new(Problem::of_file(
            directory,
            format!("cannot list the directory: {}", os_text(&error)),
            None,
        ))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if is_rule_file(&path) {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Rule files of several directories in order of precedence, sorted by name: one file per name, the first found. Files that
/// are empty (or `/dev/null`) take their name out altogether.
pub(super) fn merged_files(directories: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut problems = Vec::new();
    for directory in directories {
        if !directory.exists() {
            continue;
        }
        match rule_files(directory) {
            Ok(files) => {
                for file in files {
                    let name = file.file_name().unwrap_or_default().to_owned();
                    by_name.entry(name).or_insert(file);
                }
            }
            Err(problem) => problems.push(*problem),
        }
    }
    let files = by_name.into_values().filter(|path| !is_mask(path));
    (files.collect(), problems)
}

/// `*.toml`, but no dot file. Backups (`x.toml~`, `x.toml.dpkg-old`, `x.toml.rpmsave`) do not end in `.toml`.
fn is_rule_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

fn is_mask(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0 && !metadata.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rule_files_are_taken_sorted() {
        let directory = tempfile::tempdir().unwrap();
        let names = [
            "b.toml",
            "a.toml",
            ".hidden.toml",
            "c.toml~",
            "d.toml.dpkg-old",
            "e.toml.rpmsave",
            "f.txt",
            "toml",
            ".toml",
        ];
        for name in names {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/g.toml"), "x").unwrap();
        let files = rule_files(directory.path()).unwrap();
        assert_eq!(
            files,
            [
                directory.path().join("a.toml"),
                directory.path().join("b.toml")
            ]
        );
    }

    #[test]
    fn an_earlier_directory_replaces_and_hides_by_name() {
        let root = tempfile::tempdir().unwrap();
        let [etc, run, vendor] = ["etc", "run", "vendor"].map(|name| root.path().join(name));
        std::fs::create_dir(&etc).unwrap();
        std::fs::create_dir(&vendor).unwrap();
        std::fs::write(etc.join("b.toml"), "admin").unwrap();
        std::fs::write(etc.join("c.toml"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", etc.join("d.toml")).unwrap();
        for name in ["a.toml", "b.toml", "c.toml", "d.toml"] {
            std::fs::write(vendor.join(name), "vendor").unwrap();
        }
        let (files, problems) = merged_files(&[etc.clone(), run, vendor.clone()]);
        assert_eq!(files, [vendor.join("a.toml"), etc.join("b.toml")]);
        assert_eq!(problems, []);
    }
}
