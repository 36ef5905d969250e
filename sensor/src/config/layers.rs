//! Installed settings: one file, and drop-ins over it.
//!
//! In: the directories of vendor, runtime and administrator. Out: settings merged key by key, and where each key comes from.
//! What others than root can write is refused, as a whole: nothing is read from half of the files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::{Config, DEFAULT_TEXT, DROP_INS, FILE_NAME};
use crate::document::{Problem, Source, only_owner_writes, os_text};
use crate::drop_ins;

/// Directories of settings, the administrator's first.
#[must_use]
pub fn installed_directories() -> [PathBuf; 3] {
    ["/etc", "/run", "/usr/lib"].map(|base| Path::new(base).join("eql-sensor"))
}

/// Settings files in the order they are applied.
#[derive(Debug, Default)]
pub struct Layers {
    sources: Vec<Source>,
    masks: Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl Layers {
    /// The settings file of the first directory that has one, then the drop-ins of all, in order of their names.
    #[must_use]
    pub fn installed(directories: &[PathBuf]) -> Layers {
        let mut layers = Layers::default();
        let main = directories
            .iter()
            .map(|directory| directory.join(FILE_NAME));
        if let Some(path) = main
            .into_iter()
            .find(|path| path.symlink_metadata().is_ok())
        {
            if drop_ins::is_mask(&path) {
                layers.masks.push(path);
            } else {
                layers.take(&path);
            }
        }
        for directory in directories {
            match std::fs::metadata(directory) {
                Ok(metadata) => {
                    let trusted = only_owner_writes(directory, &metadata);
                    layers
                        .problems
                        .extend(trusted.err().map(|problem| *problem));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let message = format!("cannot look into the directory: {}", os_text(&error));
                    layers
                        .problems
                        .push(Problem::of_file(directory, message, None));
                }
            }
        }
        let below: Vec<PathBuf> = directories
            .iter()
            .map(|directory| directory.join(DROP_INS))
            .collect();
        let found = drop_ins::merged(&below);
        layers.problems.extend(found.problems);
        layers.masks.extend(found.masks);
        for path in &found.files {
            layers.take(path);
        }
        layers
    }

    /// One named file.
    ///
    /// # Errors
    /// It can not be read.
    pub fn named(path: &Path) -> Result<Layers, Vec<Problem>> {
        let source = Source::read(path, "settings file").map_err(|problem| vec![*problem])?;
        Ok(Layers {
            sources: vec![source],
            ..Layers::default()
        })
    }

    fn take(&mut self, path: &Path) {
        match Source::read_installed(path, "settings file") {
            Ok(source) => self.sources.push(source),
            Err(problem) => self.problems.push(*problem),
        }
    }

    /// Files that were read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The defaults with every file over them.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn config(&self) -> Result<Config, Vec<Problem>> {
        let mut problems = self.problems.clone();
        let mut config = Config::default();
        for source in &self.sources {
            match config.clone().with(source) {
                Ok(with) => config = with,
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    /// Every setting as a settings file would have it, with the place it comes from behind it. Settings that can be used are
    /// assumed; see [`Layers::config`].
    #[must_use]
    pub fn cat(&self) -> String {
        let mut text = String::new();
        // A String takes any write.
        for source in &self.sources {
            let _ = writeln!(text, "# read: {}", source.path.display());
        }
        for mask in &self.masks {
            let _ = writeln!(text, "# masked: {}", mask.display());
        }
        let default = Source {
            path: Path::new("built in").into(),
            text: DEFAULT_TEXT.to_owned(),
        };
        let (defaults, _) = default.parse();
        let documents: Vec<_> = self
            .sources
            .iter()
            .map(|source| (source, source.parse().0))
            .collect();
        let mut tables: Vec<_> = defaults.get_ref().iter().collect();
        tables.sort_by_key(|(name, _)| name.span().start);
        for (name, table) in tables {
            let Some(keys) = table.get_ref().as_table() else {
                continue;
            };
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "[{}]", name.get_ref());
            let mut keys: Vec<_> = keys.iter().collect();
            keys.sort_by_key(|(key, _)| key.span().start);
            for (key, value) in keys {
                let last = documents.iter().rev().find_map(|(source, document)| {
                    let table = document
                        .get_ref()
                        .get(name.get_ref().as_ref())?
                        .get_ref()
                        .as_table()?;
                    Some((*source, place(source, table, key.get_ref())?))
                });
                let (shown, origin) = match last {
                    Some((source, (span, line))) => (
                        source.text.get(span),
                        format!("{}:{line}", source.path.display()),
                    ),
                    None => (default.text.get(value.span()), "built in".to_owned()),
                };
                let _ = writeln!(
                    text,
                    "{} = {}  # {origin}",
                    key.get_ref(),
                    shown.unwrap_or_default()
                );
            }
        }
        text
    }
}

/// Where a key's value stands, and in which line.
fn place(
    source: &Source,
    table: &DeTable<'_>,
    key: &str,
) -> Option<(std::ops::Range<usize>, usize)> {
    let span = table.get(key)?.span();
    let before = source.text.get(..span.start)?;
    Some((span, before.matches('\n').count() + 1))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn directories() -> (tempfile::TempDir, Vec<PathBuf>) {
        let root = tempfile::tempdir().unwrap();
        let all: Vec<PathBuf> = ["etc", "run", "lib"]
            .map(|name| root.path().join(name))
            .into();
        for directory in &all {
            fs::create_dir_all(directory.join(DROP_INS)).unwrap();
        }
        (root, all)
    }

    #[test]
    fn later_names_win_and_earlier_directories_replace() {
        let (_root, all) = directories();
        let [etc, run, lib] = &all[..] else { panic!() };
        fs::write(
            lib.join(FILE_NAME),
            "[kernel]\ntier = \"trampolines\"\nring_bytes = 4096\n",
        )
        .unwrap();
        fs::write(
            lib.join("conf.d/10-a.toml"),
            "[kernel]\nring_bytes = 8192\n",
        )
        .unwrap();
        fs::write(lib.join("conf.d/20-b.toml"), "[engine]\nidle_s = 7\n").unwrap();
        fs::write(
            run.join("conf.d/30-c.toml"),
            "[kernel]\nring_bytes = 16384\n",
        )
        .unwrap();
        fs::write(
            etc.join("conf.d/10-a.toml"),
            "[kernel]\nself_check = false\n",
        )
        .unwrap();
        symlink("/dev/null", etc.join("conf.d/20-b.toml")).unwrap();
        let layers = Layers::installed(&all);
        let config = layers.config().unwrap();
        assert_eq!(config.kernel.ring_bytes, Some(16384));
        assert_eq!(config.kernel.tier, crate::cli::Tier::Trampolines);
        assert!(!config.kernel.self_check);
        assert_eq!(config.engine, Config::default().engine);

        let cat = layers.cat();
        for line in [
            format!("# read: {}", etc.join("conf.d/10-a.toml").display()),
            format!("# masked: {}", etc.join("conf.d/20-b.toml").display()),
            format!(
                "tier = \"trampolines\"  # {}:2",
                lib.join(FILE_NAME).display()
            ),
            format!(
                "ring_bytes = 16384  # {}:2",
                run.join("conf.d/30-c.toml").display()
            ),
            format!(
                "self_check = false  # {}:2",
                etc.join("conf.d/10-a.toml").display()
            ),
            "idle_s = 3600  # built in".to_owned(),
        ] {
            assert!(cat.lines().any(|found| found == line), "{line}\n{cat}");
        }
        let source = Source {
            path: Path::new("cat").into(),
            text: cat,
        };
        assert_eq!(Config::parse(&source).unwrap(), config);
    }

    #[test]
    fn every_problem_of_every_file_is_told() {
        let (_root, all) = directories();
        let etc = &all[0];
        fs::write(etc.join(FILE_NAME), "[kernel]\nteir = \"auto\"\n").unwrap();
        let open = etc.join("conf.d/10-open.toml");
        fs::write(&open, "[kernel]\ntier = \"auto\"\n").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
        fs::write(etc.join("conf.d/20-b.toml"), "[engine]\nidle_s = 0\n").unwrap();
        let problems = Layers::installed(&all).config().unwrap_err();
        let said: Vec<String> = problems.iter().map(|p| p.message.clone()).collect();
        assert_eq!(
            said,
            [
                "everybody can write it",
                "unknown key `kernel.teir`",
                "`engine.idle_s` is 0, must be a whole number from 1 to 2592000",
            ]
        );
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let (_root, all) = directories();
        fs::set_permissions(&all[0], fs::Permissions::from_mode(0o757)).unwrap();
        let problems = Layers::installed(&all).config().unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(&*problems[0].path, all[0]);
    }

    #[test]
    fn nothing_installed_is_the_defaults() {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::installed(&[root.path().join("absent")]);
        assert!(layers.is_empty());
        assert_eq!(layers.config().unwrap(), Config::default());
        let source = Source {
            path: Path::new("cat").into(),
            text: layers.cat(),
        };
        assert_eq!(Config::parse(&source).unwrap(), Config::default());
    }
}
