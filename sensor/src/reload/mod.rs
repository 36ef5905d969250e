//! Rule sets: read, compiled and checked beside the one that runs.
//!
//! In: where settings and rules come from, and the rules that run so far. Out: a [`Set`] ready to be swapped in, or every problem
//! that stands against it. A broken rule keeps its last good version; broken settings, or a directory that can not be read, leave
//! everything as it was. It never touches what runs.

mod keep;
mod reloader;
mod trust;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::RunArgs;
use crate::commands;
use crate::config::{self, Config};
use crate::document::{Problem, Source, os_text};
use crate::engine::Engine;
use crate::event::{Event, FieldTable, Kinds};
use crate::rule::{self, Rule};
use crate::tuning::{Gate, Tuning};

pub use keep::{Kept, Saved};
pub use reloader::{Answer, Reloader, Swapped};

/// Rules that can take the place of those that run.
pub struct Set {
    pub config: Config,
    pub engine: Engine<Arc<Event>>,
    /// What overrides and exceptions hide.
    pub gate: Gate,
    /// What the engine reads events by.
    pub table: FieldTable,
    pub roster: Arc<Roster>,
}

/// The rules of a set, and what became of every file.
#[derive(Debug, Default)]
pub struct Roster {
    /// By their number in the engine.
    pub rules: Vec<Listed>,
    pub failed: Vec<Failed>,
    pub skipped: Vec<rule::Skipped>,
    /// The settings file that the flags name; without it the installed ones were read.
    pub settings: Option<PathBuf>,
    /// The settings are those of the last good set: the file's problem.
    pub settings_stale: Option<String>,
}

/// One rule that runs.
#[derive(Clone, Debug)]
pub struct Listed {
    pub rule: Arc<Rule>,
    /// Why the file as it is now is not used: this is its last good version.
    pub stale: Option<String>,
}

/// A rule file that can not be used, and of which there is no good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub path: Arc<Path>,
    pub reason: String,
}

/// Nothing is changed, and why.
#[derive(Debug)]
pub struct Refused {
    pub reason: String,
    pub problems: Vec<Problem>,
    /// The settings alone are at fault.
    pub settings: bool,
}

impl Roster {
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().map(|listed| &listed.rule)
    }

    /// Kinds of events that some rule can make use of.
    #[must_use]
    pub fn interest(&self) -> Kinds {
        self.iter()
            .fold(Kinds::NONE, |kinds, rule| kinds.and(rule.interest()))
    }

    /// `3 rules`, and what is wrong with others.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = match self.rules.len() {
            1 => "1 rule".to_owned(),
            count => format!("{count} rules"),
        };
        let stale = self
            .rules
            .iter()
            .filter(|rule| rule.stale.is_some())
            .count();
        if stale > 0 {
            words += &format!(" ({stale} in their last good version)");
        }
        if !self.failed.is_empty() {
            words += &format!(", {} failed", self.failed.len());
        }
        words
    }
}

/// What differs between two sets, by rule id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    pub unchanged: usize,
}

impl Difference {
    #[must_use]
    pub fn between(old: &Roster, new: &Roster) -> Difference {
        let mut difference = Difference::default();
        for rule in new.iter() {
            match old.iter().find(|was| was.id == rule.id) {
                None => difference.added.push(named(rule)),
                Some(was) if was.digest != rule.digest => difference.changed.push(named(rule)),
                Some(_) => difference.unchanged += 1,
            }
        }
        let ids: HashSet<&str> = new.iter().map(|rule| &*rule.id).collect();
        let gone = old.iter().filter(|was| !ids.contains(&*was.id));
        difference.removed = gone.map(named).collect();
        difference
    }
}

fn named(rule: &Arc<Rule>) -> String {
    format!("{} ({})", rule.name, rule.id)
}

/// The settings as file and flags give them.
///
/// # Errors
/// Every problem of the file, or the flag that can not be.
pub fn settings(args: &RunArgs) -> Result<Config, Refused> {
    let path = args.settings.path.as_deref();
    let trusted = path.map_or(Ok(()), trust::file);
    let mut config = trusted
        .and_then(|()| Config::load(path))
        .map_err(|problems| Refused {
            reason: "the settings can not be used".to_owned(),
            problems,
            settings: true,
        })?;
    apply(args, &mut config).map_err(|error| Refused {
        reason: error.to_string(),
        problems: Vec::new(),
        settings: false,
    })?;
    Ok(config)
}

/// Lets flags win.
fn apply(args: &RunArgs, config: &mut Config) -> Result<(), config::FlagError> {
    config.apply_kernel(&args.kernel)?;
    config.apply_output(&args.output);
    config.apply_rules(&args.rules);
    config.apply_tuning(&args.tuning);
    if let Some(socket) = &args.control {
        config.control.socket = socket.clone();
    }
    Ok(())
}

/// Reads and compiles the rules. Those that are broken are replaced by one of `good` from the same file, if there is one.
///
/// # Errors
/// Rules can not be listed, can not be compiled together, or none is left and that is not allowed.
pub fn build(
    args: &RunArgs,
    config: Config,
    good: &[Arc<Rule>],
) -> Result<(Set, Vec<Problem>), Refused> {
    let refused = |reason: String, problems| Refused {
        reason,
        problems,
        settings: false,
    };
    let places = &config.rules.directories;
    let (tuning, rules) = (&args.tuning, &args.rules);
    for (paths, what) in [
        (&rules.paths, " rules from"),
        (&tuning.exceptions, ""),
        (&tuning.overrides, ""),
    ] {
        for path in paths {
            if let Err(error) = std::fs::metadata(path) {
                let (path, error) = (path.display(), os_text(&error));
                let reason = format!("cannot read{what} `{path}`: {error}");
                return Err(refused(reason, Vec::new()));
            }
        }
    }
    let drop_ins = [&config.rules.exceptions, &config.rules.overrides];
    let distrusted: Vec<Problem> = [places]
        .into_iter()
        .chain(drop_ins)
        .flat_map(|paths| trust::drop_ins(paths))
        .collect();
    if !distrusted.is_empty() {
        return Err(refused(
            "the rules can not be trusted".to_owned(),
            distrusted,
        ));
    }
    let loaded = if args.rules.paths.is_empty() {
        rule::load_installed(places)
    } else {
        rule::load(places)
    };
    let (mut rules, mut problems) = (loaded.rules, loaded.problems);
    if problems.iter().any(is_of_directory) {
        // What can not be seen is not gone.
        problems.retain(is_of_directory);
        return Err(refused("the rules can not be listed".to_owned(), problems));
    }
    for (index, problem) in commands::unfit(&rules).into_iter().rev() {
        rules.remove(index);
        problems.push(problem);
    }
    let mut roster = Roster {
        rules: rules.into_iter().map(listed).collect(),
        skipped: loaded.skipped,
        settings: args.settings.path.clone(),
        ..Roster::default()
    };
    fall_back(&mut roster, &problems, good);
    if roster.rules.is_empty() && !args.allow_no_rules {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        let reason = format!(
            "no rule to watch for in {}: of {} rule files {} have errors and {} are skipped; \
             name a directory with --rules, or start without rules by --allow-no-rules",
            places.join(", "),
            loaded.files,
            loaded.failed,
            roster.skipped.len()
        );
        problems.retain(Problem::is_error);
        return Err(refused(reason, problems));
    }
    let set = assemble(config, roster, &mut problems)?;
    Ok((set, problems))
}

/// Rules with the host's overrides in one engine, and the gate of its exceptions before the alerts.
fn assemble(
    config: Config,
    mut roster: Roster,
    problems: &mut Vec<Problem>,
) -> Result<Set, Refused> {
    let (tuning, wrong) = Tuning::load(&config.rules.exceptions, &config.rules.overrides);
    problems.extend(wrong);
    let mut stale: HashMap<String, String> = HashMap::new();
    let take = |listed: Listed| {
        if let Some(why) = listed.stale {
            stale.insert(listed.rule.id.clone(), why);
        }
        listed.rule
    };
    let mut rules: Vec<Arc<Rule>> = roster.rules.drain(..).map(take).collect();
    problems.extend(tuning.apply(&mut rules));
    let mut table = FieldTable::sensor();
    let mut engine: Engine<Arc<Event>> =
        commands::engine(&rules, &mut table, &config).map_err(|error| Refused {
            reason: commands::chain(&error),
            problems: Vec::new(),
            settings: false,
        })?;
    engine.set_learning(config.rules.new_terms_learning);
    let (gate, wrong) = commands::gate_and_problems(&tuning, &rules, &mut table);
    problems.extend(wrong);
    let again = |rule: Arc<Rule>| Listed {
        stale: stale.remove(&rule.id),
        rule,
    };
    roster.rules = rules.into_iter().map(again).collect();
    Ok(Set {
        config,
        engine,
        gate,
        table,
        roster: Arc::new(roster),
    })
}

/// Not of a directory in the place of a rule file.
fn is_of_directory(problem: &Problem) -> bool {
    let has_ending = problem.path.extension().is_some_and(|e| e == "toml");
    problem.is_error() && !has_ending && problem.path.is_dir()
}

/// A rule as its file is now.
fn listed(rule: Arc<Rule>) -> Listed {
    Listed { rule, stale: None }
}

/// Puts the last good version in the place of each broken file, or notes that there is none.
fn fall_back(roster: &mut Roster, problems: &[Problem], good: &[Arc<Rule>]) {
    let mut seen = HashSet::new();
    for problem in problems.iter().filter(|problem| problem.is_error()) {
        if !seen.insert(Arc::clone(&problem.path)) {
            continue;
        }
        let taken = |rule: &Arc<Rule>| roster.iter().any(|other| other.id == rule.id);
        let version = good
            .iter()
            .find(|rule| rule.path == problem.path && !taken(rule));
        match version {
            Some(rule) => roster.rules.push(Listed {
                rule: Arc::clone(rule),
                stale: Some(problem.to_string()),
            }),
            None => roster.failed.push(Failed {
                path: Arc::clone(&problem.path),
                reason: problem.to_string(),
            }),
        }
    }
}

/// The rules and settings of a start: as they are, or else as they last were good, loudly.
///
/// # Errors
/// They are not good, and there is no state to fall back on.
pub fn at_start(args: &RunArgs, kept: &Kept) -> Result<(Set, Vec<Problem>), Refused> {
    let saved = kept.load();
    let good: Vec<Arc<Rule>> = saved.as_ref().map(Saved::rules).unwrap_or_default();
    let attempt = settings(args).and_then(|config| build(args, config, &good));
    let refused = match attempt {
        Ok(built) => return Ok(built),
        Err(refused) => refused,
    };
    let Some(saved) = saved else {
        return Err(refused);
    };
    commands::log(&refused.problems);
    let what = if refused.settings {
        "settings"
    } else {
        "rules"
    };
    tracing::error!(
        "{}; running on the last good {what}, kept in {}",
        refused.reason,
        kept.path().display()
    );
    from_saved(args, &saved, &refused).ok_or(refused)
}

/// A set of what was kept: the settings when they are at fault, with the rules as they are now if they can be used.
fn from_saved(args: &RunArgs, saved: &Saved, refused: &Refused) -> Option<(Set, Vec<Problem>)> {
    let good = saved.rules();
    let stale = refused
        .problems
        .first()
        .map_or_else(|| refused.reason.clone(), Problem::to_string);
    let config = if refused.settings {
        let mut config = match &saved.settings {
            Some(file) => Config::parse(&Source {
                path: Arc::from(file.path.as_path()),
                text: file.text.clone(),
            })
            .ok()?,
            None => Config::default(),
        };
        apply(args, &mut config).ok()?;
        if let Ok((mut set, problems)) = build(args, config.clone(), &good) {
            Arc::get_mut(&mut set.roster)?.settings_stale = Some(stale);
            return Some((set, problems));
        }
        config
    } else {
        settings(args).ok()?
    };
    if good.is_empty() {
        return None;
    }
    let rules = good.into_iter().map(|rule| Listed {
        rule,
        stale: Some(stale.clone()),
    });
    let roster = Roster {
        rules: rules.collect(),
        settings: args.settings.path.clone(),
        settings_stale: refused.settings.then(|| stale.clone()),
        ..Roster::default()
    };
    let mut problems = Vec::new();
    let set = assemble(config, roster, &mut problems).ok()?;
    Some((set, problems))
}

#[cfg(test)]
mod tests;
