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
use crate::document::{Problem, Source, counted, os_text};
use crate::engine::Engine;
use crate::event::{Event, FieldTable, Kinds};
use crate::rule::{self, Loaded, Rule};
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
    /// By their number in the engine: those that are live, then those on trial.
    pub rules: Vec<Listed>,
    /// Where live rules come from, in the order of precedence.
    pub places: Vec<PathBuf>,
    pub failed: Vec<Failed>,
    pub skipped: Vec<rule::Skipped>,
    /// The settings file that the flags name; without it the installed ones were read.
    pub settings: Option<PathBuf>,
    /// It is the last good set, which has no rules on trial.
    pub trials_unread: bool,
    /// The settings are those of the last good set: the file's problem.
    pub settings_stale: Option<String>,
}

/// One rule that runs.
#[derive(Clone, Debug)]
pub struct Listed {
    pub rule: Arc<Rule>,
    /// Why the file as it is now is not used: this is its last good version.
    pub stale: Option<String>,
    /// It raises no alert; what it would have raised is counted.
    pub on_trial: bool,
}

/// A rule file that can not be used, and of which there is no good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub path: Arc<Path>,
    pub reason: String,
    /// It stands among the rules on trial.
    pub on_trial: bool,
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
    /// All rules, also those on trial.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().map(|listed| &listed.rule)
    }

    /// How many rules are live: the first so many.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.rules.partition_point(|listed| !listed.on_trial)
    }

    #[must_use]
    pub fn live(&self) -> &[Listed] {
        self.rules.get(..self.live_count()).unwrap_or_default()
    }

    /// The rules on trial, whose numbers in the engine follow those of the live ones.
    #[must_use]
    pub fn on_trial(&self) -> &[Listed] {
        self.rules.get(self.live_count()..).unwrap_or_default()
    }

    /// The live rules alone.
    #[must_use]
    pub fn live_rules(&self) -> Vec<Arc<Rule>> {
        let live = self.live().iter();
        live.map(|listed| Arc::clone(&listed.rule)).collect()
    }

    /// Kinds of events that some rule can make use of.
    #[must_use]
    pub fn interest(&self) -> Kinds {
        self.iter()
            .fold(Kinds::NONE, |kinds, rule| kinds.and(rule.interest()))
    }

    /// `3 rules`, how many are on trial, and what is wrong with others.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = counted(self.live_count(), "rule");
        let stale = self
            .rules
            .iter()
            .filter(|rule| rule.stale.is_some())
            .count();
        if stale > 0 {
            words += &format!(" ({stale} in their last good version)");
        }
        let on_trial = self.on_trial().len();
        if on_trial > 0 {
            words += &format!(", {on_trial} on trial");
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
        let is_same = |one: &Listed, other: &Listed| {
            one.rule.id == other.rule.id && one.on_trial == other.on_trial
        };
        for listed in &new.rules {
            match old.rules.iter().find(|was| is_same(was, listed)) {
                None => difference.added.push(named(listed)),
                Some(was) if was.rule.digest != listed.rule.digest => {
                    difference.changed.push(named(listed));
                }
                Some(_) => difference.unchanged += 1,
            }
        }
        let ids: HashSet<(&str, bool)> = new
            .rules
            .iter()
            .map(|listed| (&*listed.rule.id, listed.on_trial))
            .collect();
        let gone = old
            .rules
            .iter()
            .filter(|was| !ids.contains(&(&*was.rule.id, was.on_trial)));
        difference.removed = gone.map(named).collect();
        difference
    }
}

fn named(listed: &Listed) -> String {
    let Listed { rule, on_trial, .. } = listed;
    let trial = if *on_trial { ", on trial" } else { "" };
    format!("{} ({}){trial}", rule.name, rule.id)
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
    config.apply_trial(&args.trial);
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
    let (places, trial) = (&config.rules.directories, &config.rules.trial);
    let (tuning, rules) = (&args.tuning, &args.rules);
    for (paths, what) in [
        (&rules.paths, " rules from"),
        (&args.trial, " rules from"),
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
    let distrusted: Vec<Problem> = [places, trial]
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
    let load = |named: &[PathBuf], places: &[PathBuf]| match named {
        [] => rule::load_installed(places),
        named => rule::load(named),
    };
    let loaded = load(&args.rules.paths, places);
    let tried = load(&args.trial, trial);
    let is_of_one = |loaded: &Loaded| loaded.problems.iter().any(is_of_directory);
    if is_of_one(&loaded) || is_of_one(&tried) {
        // What can not be seen is not gone.
        let mut problems = loaded.problems;
        problems.extend(tried.problems);
        problems.retain(is_of_directory);
        return Err(refused("the rules can not be listed".to_owned(), problems));
    }
    let (files, failed) = (loaded.files, loaded.failed);
    let mut roster = Roster {
        places: places.iter().map(|path| absolute(path)).collect(),
        settings: args.settings.path.clone(),
        ..Roster::default()
    };
    let mut problems = take(&mut roster, loaded, false, good);
    let is_empty = roster.rules.is_empty();
    problems.extend(take(&mut roster, tried, true, good));
    if is_empty && !args.allow_no_rules {
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        let reason = format!(
            "no rule to watch for in {}: of {} rule files {} have errors and {} are skipped; \
             name a directory with --rules, or start without rules by --allow-no-rules",
            places.join(", "),
            files,
            failed,
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
    let mut stale: HashMap<Arc<Path>, String> = HashMap::new();
    let (mut rules, mut on_trial) = (Vec::new(), Vec::new());
    for listed in roster.rules.drain(..) {
        if let Some(why) = listed.stale {
            stale.insert(Arc::clone(&listed.rule.path), why);
        }
        let side = if listed.on_trial {
            &mut on_trial
        } else {
            &mut rules
        };
        side.push(listed.rule);
    }
    problems.extend(tuning.apply_beside(&mut rules, &mut on_trial));
    let live = rules.len();
    rules.append(&mut on_trial);
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
    let again = |(number, rule): (usize, Arc<Rule>)| Listed {
        stale: stale.remove(&rule.path),
        on_trial: number >= live,
        rule,
    };
    roster.rules = rules.into_iter().enumerate().map(again).collect();
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

/// As seen from everywhere: who asks the daemon may stand elsewhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Adds what was loaded, without what the engine can not take. Of a broken file the last good version takes the place, or it is
/// noted that there is none. Gives the problems.
fn take(roster: &mut Roster, loaded: Loaded, on_trial: bool, good: &[Arc<Rule>]) -> Vec<Problem> {
    let (mut rules, mut problems) = (loaded.rules, loaded.problems);
    for (index, problem) in commands::unfit(&rules).into_iter().rev() {
        rules.remove(index);
        problems.push(problem);
    }
    roster.skipped.extend(loaded.skipped);
    let first = roster.rules.len();
    roster.rules.extend(rules.into_iter().map(|rule| Listed {
        rule,
        stale: None,
        on_trial,
    }));
    let mut seen = HashSet::new();
    for problem in problems.iter().filter(|problem| problem.is_error()) {
        if !seen.insert(Arc::clone(&problem.path)) {
            continue;
        }
        let side = roster.rules.get(first..).unwrap_or_default();
        let taken = |rule: &Arc<Rule>| side.iter().any(|other| other.rule.id == rule.id);
        let version = good
            .iter()
            .find(|rule| rule.path == problem.path && !taken(rule));
        match version {
            Some(rule) => roster.rules.push(Listed {
                rule: Arc::clone(rule),
                stale: Some(problem.to_string()),
                on_trial,
            }),
            None => roster.failed.push(Failed {
                path: Arc::clone(&problem.path),
                reason: problem.to_string(),
                on_trial,
            }),
        }
    }
    problems
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
        on_trial: false,
    });
    let roster = Roster {
        rules: rules.collect(),
        settings: args.settings.path.clone(),
        settings_stale: refused.settings.then(|| stale.clone()),
        trials_unread: true,
        ..Roster::default()
    };
    let mut problems = Vec::new();
    let set = assemble(config, roster, &mut problems).ok()?;
    Some((set, problems))
}

#[cfg(test)]
mod tests;
