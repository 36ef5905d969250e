//! Whether settings and rules may be believed: what everybody can write, everybody can make the sensor blind by.
//!
//! In: paths. Out: a problem for each that anybody may write. It says nothing of what is not there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::document::Problem;

/// Write permission for everybody.
const OTHERS_WRITE: u32 = 0o002;

/// A settings file.
///
/// # Errors
/// Everybody may write it.
pub(super) fn file(path: &Path) -> Result<(), Vec<Problem>> {
    match look(path) {
        None => Ok(()),
        Some(problem) => Err(vec![problem]),
    }
}

/// Drop-in directories with the files in them, and files. Those that are not there are passed over.
pub(super) fn drop_ins(paths: &[PathBuf]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for path in paths {
        problems.extend(look(path));
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        let rules = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "toml"));
        problems.extend(rules.filter_map(|path| look(&path)));
    }
    problems.sort_by(|a, b| a.path.cmp(&b.path));
    problems
}

fn look(path: &Path) -> Option<Problem> {
    let metadata = std::fs::metadata(path).ok()?;
    let is_plain = metadata.is_file() || metadata.is_dir();
    (is_plain && metadata.mode() & OTHERS_WRITE != 0).then(|| {
        Problem::of_file(
            path,
            "everybody may write this".to_owned(),
            Some("take the permission away: chmod o-w"),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_everybody_can_write_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let rule = folder.path().join("a.toml");
        fs::write(&rule, "").unwrap();
        let paths = [folder.path().to_owned()];
        assert_eq!(drop_ins(&paths), []);
        for path in [&rule, &paths[0]] {
            let mode = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            let found = drop_ins(&paths);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                found[0].to_string(),
                format!(
                    "{}: error: everybody may write this; take the permission away: chmod o-w",
                    path.display()
                )
            );
            fs::set_permissions(path, mode).unwrap();
        }
        assert!(file(&rule).is_ok());
        assert_eq!(drop_ins(&[folder.path().join("absent")]), []);
    }
}
