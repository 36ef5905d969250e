//! The last good settings and rules, kept for a start on which the files can not be used.
//!
//! In: a set that was accepted. Out: one file in the state directory with the texts of all its files, replaced whole or not at all.
//! It never holds a text that is not the one the running rule was read from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Roster;
use crate::commands;
use crate::config::{FILE_NAME, Layers, installed_directories};
use crate::document::Source;
use crate::rule::{self, Rule};

/// Name in the state directory.
const NAME: &str = "last-good.json";

/// Where the last good set is kept; nowhere without a state directory.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    path: Option<PathBuf>,
}

/// What was kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    pub settings: Option<SavedFile>,
    rules: Vec<SavedFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedFile {
    pub path: PathBuf,
    pub text: String,
}

impl SavedFile {
    fn source(&self) -> Source {
        Source {
            path: Arc::from(self.path.as_path()),
            text: self.text.clone(),
        }
    }
}

impl Saved {
    /// The rules that this build still takes.
    #[must_use]
    pub fn rules(&self) -> Vec<Arc<Rule>> {
        let sources = self.rules.iter().map(SavedFile::source);
        sources
            .flat_map(|source| rule::load_source(&source).rules)
            .collect()
    }
}

impl Kept {
    #[must_use]
    pub fn below(state_directory: Option<&Path>) -> Kept {
        Kept {
            path: state_directory.map(|directory| directory.join(NAME)),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// What was kept last, if it can be read.
    #[must_use]
    pub fn load(&self) -> Option<Saved> {
        let path = self.path.as_ref()?;
        let text = fs::read(path).ok()?;
        match serde_json::from_slice(&text) {
            Ok(saved) => Some(saved),
            Err(error) => {
                tracing::warn!("{}: cannot be used: {error}", path.display());
                None
            }
        }
    }

    /// Keeps a set. Settings that are not as they should be stay as they were kept.
    ///
    /// # Errors
    /// The file can not be written; the one before it is still there.
    pub fn save(&self, roster: &Roster) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let before = self.load().unwrap_or_default();
        let settings = match (&roster.settings_stale, &roster.settings) {
            (Some(_), _) => before.settings.clone(),
            (None, None) => installed(),
            (None, Some(path)) => {
                Source::read(path, "settings file")
                    .ok()
                    .map(|source| SavedFile {
                        path: path.clone(),
                        text: source.text,
                    })
            }
        };
        // A trial can wait until the files are in order again.
        let live = roster.live().iter();
        let rules = live.filter_map(|listed| text_of(&listed.rule, &before));
        let saved = Saved {
            settings,
            rules: rules.collect(),
        };
        let text = serde_json::to_vec(&saved)?;
        commands::replace_file(path, &text, 0o600)
    }
}

/// The installed settings in one text.
fn installed() -> Option<SavedFile> {
    let layers = Layers::installed(&installed_directories());
    let settings = SavedFile {
        path: FILE_NAME.into(),
        text: layers.cat(),
    };
    Some(settings).filter(|_| !layers.is_empty())
}

/// The text a rule was read from: its file's, unless that has changed since.
fn text_of(rule: &Rule, before: &Saved) -> Option<SavedFile> {
    let is_it = |source: &Source| rule::digest(&source.text) == rule.digest;
    let now = Source::read(&rule.path, "rule file").ok().filter(is_it);
    if let Some(source) = now {
        return Some(SavedFile {
            path: rule.path.to_path_buf(),
            text: source.text,
        });
    }
    let kept = before.rules.iter().filter(|file| *file.path == *rule.path);
    kept.into_iter().find(|file| is_it(&file.source())).cloned()
}
