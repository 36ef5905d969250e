//! Which files of a directory are rules.
//!
//! In: directories. Out: paths of `*.toml` files in order of their path, leaving out dot files and what editors and package
//! managers leave behind. A directory that a person names is looked through with all below it, as a clone of a rule
//! repository has its rules there; a drop-in directory is flat. Never follows a link to a directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::document::{Problem, os_text};

/// Deepest level below a named directory that is looked at.
const DEPTH_MAX: usize = 16;

/// Rule files of a directory and of all below it, sorted by path; and the directories that could not be looked into.
pub(super) fn rule_files_below(directory: &Path) -> (Vec<PathBuf>, Vec<Problem>) {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    let mut open = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            problems.push(Problem::of_file(
                &directory,
                format!("more than {DEPTH_MAX} directories deep"),
                Some("name this directory itself"),
            ));
            continue;
        }
        match listing(&directory) {
            Ok(found) => {
                files.extend(found.files);
                open.extend(
                    found
                        .directories
                        .into_iter()
                        .map(|below| (below, depth + 1)),
                );
            }
            Err(problem) => problems.push(*problem),
        }
    }
    files.sort_unstable();
    (files, problems)
}

/// Rule files of one directory alone, sorted by name.
///
/// # Errors
/// The directory can not be read.
fn rule_files(directory: &Path) -> Result<Vec<PathBuf>, Box<Problem>> {
    let mut files = listing(directory)?.files;
    files.sort_unstable();
    Ok(files)
}

/// What one directory holds, in no order.
struct Listing {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

fn listing(directory: &Path) -> Result<Listing, Box<Problem>> {
    let cannot = |error: std::io::Error| {
        Box::new(Problem::of_file(
            directory,
            format!("cannot list the directory: {}", os_text(&error)),
            None,
        ))
    };
    let mut found = Listing {
        files: Vec::new(),
        directories: Vec::new(),
    };
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_rule_file(&path) {
            found.files.push(path);
        } else if !is_hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.directories.push(path);
        }
    }
    Ok(found)
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
        for below in ["below", ".git"] {
            std::fs::create_dir(directory.path().join(below)).unwrap();
            std::fs::write(directory.path().join(below).join("g.toml"), "x").unwrap();
        }
        std::os::unix::fs::symlink(directory.path(), directory.path().join("loop")).unwrap();
        let [a, b, g] =
            ["a.toml", "b.toml", "below/g.toml"].map(|name| directory.path().join(name));
        let flat = rule_files(directory.path()).unwrap();
        assert_eq!(flat, [a.clone(), b.clone()]);
        assert_eq!(rule_files_below(directory.path()), (vec![a, b, g], vec![]));
    }

    #[test]
    fn what_can_not_be_listed_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut deep = directory.path().to_owned();
        for _ in 0..=DEPTH_MAX {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("a.toml"), "x").unwrap();
        let (files, problems) = rule_files_below(directory.path());
        assert_eq!((files.len(), problems.len()), (0, 1));
        let (files, problems) = rule_files_below(&directory.path().join("absent"));
        assert_eq!((files.len(), problems.len()), (0, 1));
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
