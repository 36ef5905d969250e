//! Which files of a directory are rules.
//!
//! In: directories. Out: paths of `*.toml` files in order of their path, leaving out dot files and what editors and package
//! managers leave behind. A directory that a person names is looked through with all below it, as a clone of a rule
//! repository has its rules there. Never follows a link to a directory.

use std::path::{Path, PathBuf};

use crate::document::{Problem, os_text};
use crate::drop_ins;

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
        if drop_ins::is_taken(&path) {
            found.files.push(path);
        } else if !is_hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.directories.push(path);
        }
    }
    Ok(found)
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
}
