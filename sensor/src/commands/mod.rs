//! The subcommands, and what they share: exit codes and the printing of one error.
//!
//! In: parsed arguments. Out: an [`Exit`]. A command never calls `std::process::exit`, so everything it holds is dropped.

mod baselines;
pub mod catalog;
pub mod check;
pub mod config;
pub mod control;
mod cost;
mod dear;
pub mod doctor;
pub mod explain;
mod explain_form;
mod explained;
pub mod fields;
mod keeping;
mod live;
pub mod manual;
mod matching;
mod on_trial;
mod programs;
mod promote;
pub mod query;
pub mod record;
pub mod replay;
pub mod run;
pub mod support;
pub mod tail;
mod terminal;
pub mod test;
pub mod top;
mod trial;
pub mod tune;

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};

use crate::cli::{Cli, Command, RuleArgs, SettingsArgs, SeverityMin, TuningArgs};
use crate::config::Config;
use crate::document::{Problem, Severity, os_text};
use crate::engine::{self, Engine};
use crate::event::{FieldTable, Fields};
use crate::fd_store::Inherited;
use crate::output;
use crate::rule::{self, Rule};
use crate::tuning::{Gate, Tuning};

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Something was looked at and problems were found, or the work failed.
    Problems = 1,
    Usage = 2,
    /// No daemon answers.
    Unreachable = 69,
    /// This kernel can not be watched, or this build has nothing to watch it with.
    Unsupported = 71,
    /// The kernel or the file system refused; more privilege is needed.
    Permission = 77,
    /// Settings or rules can not be used.
    Configuration = 78,
}

/// An error together with the exit code it ends the process with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure {
            exit: Exit::Problems,
            error,
        }
    }
}

/// Chooses the exit code of an error: `load(..).or_exit(Exit::Permission)?`.
pub trait OrExit<T> {
    /// # Errors
    /// The same error, carrying `exit`.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}

/// Runs the chosen subcommand.
///
/// # Errors
/// Whatever ended it early; [`Failure::exit`] says with which code.
pub fn dispatch(cli: &Cli, inherited: Inherited) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Run(args) => run::run(args, inherited),
        Command::Status(args) => control::status(args),
        Command::Reload(args) => control::reload(args),
        Command::Rules(args) => control::rules(args),
        Command::Metrics(args) => control::metrics(args),
        Command::Tail(args) => tail::tail(args),
        Command::Top(args) => top::top(args),
        Command::Check(args) => check::check(args),
        Command::Replay(args) => replay::replay(args),
        Command::Record(args) => record::record(args),
        Command::Query(args) => query::query(args),
        Command::Test(args) => test::test(args),
        Command::Explain(args) => explain::explain(args),
        Command::Tune(args) => tune::tune(args),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Support(args) => support::support(args),
        Command::Fields(args) => fields::fields(args),
        Command::Config(args) => config::config(args),
        Command::Catalog(args) => catalog::catalog(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}

/// The settings of a command.
///
/// # Errors
/// Every problem of the file has been logged; exit code 78.
pub fn load_config(args: &SettingsArgs) -> Result<Config, Failure> {
    Config::load(args.path.as_deref()).map_err(|problems| refuse_settings(&problems))
}

/// Logs what is wrong with settings.
fn refuse_settings(problems: &[Problem]) -> Failure {
    log(problems);
    Failure {
        exit: Exit::Configuration,
        error: anyhow!("the settings can not be used"),
    }
}

/// The rules of a command: those of the flags, else the installed ones. Files with errors stay out and are logged.
///
/// # Errors
/// A path of the flags is no rule file or directory, or no rule is left and that is not allowed; exit code 78.
pub fn load_rules(
    args: &RuleArgs,
    config: &Config,
    allow_none: bool,
) -> Result<Vec<Arc<Rule>>, Failure> {
    let refuse = |error| Failure {
        exit: Exit::Configuration,
        error,
    };
    for path in &args.paths {
        std::fs::metadata(path)
            .with_context(|| format!("cannot read rules from `{}`", path.display()))
            .map_err(refuse)?;
    }
    let loaded = if args.paths.is_empty() {
        rule::load_installed(&config.rules.directories)
    } else {
        rule::load(&args.paths)
    };
    log(&loaded.problems);
    for skipped in &loaded.skipped {
        tracing::debug!("{}: skipped: {}", skipped.path.display(), skipped.reason);
    }
    if loaded.rules.is_empty() && !allow_none {
        let places = if args.paths.is_empty() {
            &config.rules.directories
        } else {
            &args.paths
        };
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        return Err(refuse(anyhow!(
            "no rule to watch for in {}: of {} rule files {} have errors and {} are skipped; \
             name a directory with --rules, or start without rules by --allow-no-rules",
            places.join(", "),
            loaded.files,
            loaded.failed,
            loaded.skipped.len()
        )));
    }
    Ok(loaded.rules)
}

/// Overrides and exceptions of a command. What is wrong with a file is logged, and changes nothing.
///
/// # Errors
/// A path of the flags is not there; exit code 78.
pub fn load_tuning(args: &TuningArgs, config: &Config) -> Result<Tuning, Failure> {
    for path in args.exceptions.iter().chain(&args.overrides) {
        std::fs::metadata(path)
            .with_context(|| format!("cannot read `{}`", path.display()))
            .or_exit(Exit::Configuration)?;
    }
    let (tuning, problems) = Tuning::load(&config.rules.exceptions, &config.rules.overrides);
    log(&problems);
    Ok(tuning)
}

/// The gate before alerts, for rules in the engine's order.
pub fn gate(tuning: &Tuning, rules: &[Arc<Rule>], table: &mut FieldTable) -> Gate {
    let (gate, problems) = gate_and_problems(tuning, rules, table);
    log(&problems);
    gate
}

/// The gate, and what is wrong with exceptions today.
pub(crate) fn gate_and_problems(
    tuning: &Tuning,
    rules: &[Arc<Rule>],
    table: &mut FieldTable,
) -> (Gate, Vec<Problem>) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ns = now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    Gate::new(tuning, rules, table, now_ns)
}

/// How the settings want outputs to be, with a folder for what they do not take.
fn output_options(config: &Config, folder: Option<PathBuf>) -> output::Options {
    let of = |least| match least {
        SeverityMin::Low => rule::Severity::Low,
        SeverityMin::Medium => rule::Severity::Medium,
        SeverityMin::High => rule::Severity::High,
        SeverityMin::Critical => rule::Severity::Critical,
    };
    let to = &config.output;
    let bytes_max = u64::try_from(to.spool_bytes).unwrap_or_default();
    output::Options {
        format: to.format,
        queue_max: to.queue_alerts_max,
        rotation: output::file::Rotation {
            bytes: u64::try_from(to.rotate_bytes).unwrap_or_default(),
            age: to.rotate_age,
            keep: to.rotate_keep,
            gzip: to.rotate_gzip,
        },
        suppress: Some(to.suppress).filter(|window| !window.is_zero()),
        severity_min: output::Thresholds {
            stdout: of(to.stdout_severity_min),
            journald: of(to.journald_severity_min),
            file: of(to.file_severity_min),
            syslog: of(to.syslog_severity_min),
        },
        spool: folder
            .filter(|_| bytes_max > 0)
            .map(|folder| output::Spooling { folder, bytes_max }),
    }
}

/// The rules in one engine. A rule that can not be compiled stays out, and is logged.
///
/// # Errors
/// The rules can not be compiled together, or none is left and that is not allowed; exit code 78.
pub fn compile<E: Fields + Clone>(
    mut rules: Vec<Arc<Rule>>,
    table: &mut FieldTable,
    config: &Config,
    allow_none: bool,
) -> Result<(Vec<Arc<Rule>>, Engine<E>), Failure> {
    let unfit = unfit(&rules);
    for (index, problem) in unfit.iter().rev() {
        log(std::slice::from_ref(problem));
        rules.remove(*index);
    }
    if rules.is_empty() && !allow_none {
        return Err(Failure {
            exit: Exit::Configuration,
            error: anyhow!("no rule is left to watch for"),
        });
    }
    let engine = engine(&rules, table, config).or_exit(Exit::Configuration)?;
    Ok((rules, engine))
}

/// Rules that each can be compiled, in one engine, under their position.
///
/// # Errors
/// They can not be compiled together.
pub(crate) fn engine<E: Fields + Clone>(
    rules: &[Arc<Rule>],
    table: &mut FieldTable,
    config: &Config,
) -> anyhow::Result<Engine<E>> {
    let mut builder = engine::Builder::new(engine_limits(config));
    for (index, rule) in rules.iter().enumerate() {
        builder.add(index, &rule.query)?;
    }
    builder
        .build(table)
        .context("the rules can not be compiled together")
}

pub(crate) fn engine_limits(config: &Config) -> engine::Limits {
    engine::Limits {
        partials: config.engine.partials_max,
        bytes: config.engine.partial_bytes_max,
        keys_per_event: config.engine.keys_per_event_max,
        idle: config.engine.idle,
        terms: config.engine.terms_max,
        ..engine::Limits::default()
    }
}

/// The rules the engine can not take, by position, and why.
pub(crate) fn unfit(rules: &[Arc<Rule>]) -> Vec<(usize, Problem)> {
    let mut builder = engine::Builder::new(engine::Limits::default());
    let mut unfit = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if let Err(error) = builder.add(index, &rule.query) {
            let message = format!("the query can not be compiled: {}", chain(&error.into()));
            unfit.push((index, Problem::of_file(&rule.path, message, None)));
        }
    }
    unfit
}

/// Errors and warnings to the log, excerpts included.
pub(crate) fn log(problems: &[Problem]) {
    for problem in problems {
        let text = format!("{problem}\n{}", problem.excerpt);
        let text = text.trim_end();
        match problem.severity {
            Severity::Error => tracing::error!("{text}"),
            Severity::Warning => tracing::warn!("{text}"),
            Severity::Note => tracing::debug!("{text}"),
        }
    }
}

/// Keeps a file that can not be used for whoever wants to know why, and logs that with what follows from it.
pub(crate) fn put_aside(path: &Path, why: &dyn Display, consequence: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".broken");
    let moved = match std::fs::rename(path, &aside) {
        Ok(()) => format!("it is now `{}`", Path::new(&aside).display()),
        Err(error) => format!("it can not be put aside: {error}"),
    };
    tracing::error!(
        "cannot use `{}`: {why}; {moved}; {consequence}",
        path.display()
    );
}

/// What a file holds, `None` without one. Of a longer one a byte more than `bytes_max`, which tells it from one that is not.
///
/// # Errors
/// It can not be opened or read.
pub(crate) fn read_kept(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Puts a file in the place of another, whole or not at all.
///
/// # Errors
/// It can not be written; what was there still is.
pub(crate) fn replace_file(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || {
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text)?;
        file.sync_data()?;
        std::fs::rename(&beside, path)
    };
    let written = write();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Writes to standard output. A reader that went away is no error: it had enough.
///
/// # Errors
/// Standard output can not be written.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::from(
            anyhow::Error::from(error).context("cannot write to standard output"),
        )),
        _ => Ok(()),
    }
}

/// One line for an error and its causes, leaving out a cause the line already ends with. The system's own errors come in
/// lower case and without their numbers.
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<io::Error>() {
            Some(error) => os_text(error),
            None => cause.to_string(),
        };
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            // A String takes any write.
            let _ = write!(line, ": {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_defaults_are_the_stages_own() {
        let config = Config::default();
        assert_eq!(engine_limits(&config), engine::Limits::default());
    }

    #[test]
    fn a_cause_is_printed_once() {
        let error = anyhow::anyhow!("permission denied")
            .context("cannot open x")
            .context("cannot start");
        assert_eq!(
            chain(&error),
            "cannot start: cannot open x: permission denied"
        );
        let error =
            anyhow::anyhow!("permission denied").context("cannot open x: permission denied");
        assert_eq!(chain(&error), "cannot open x: permission denied");
        let error = anyhow::Error::from(io::Error::from_raw_os_error(2)).context("cannot open x");
        assert_eq!(chain(&error), "cannot open x: no such file or directory");
    }
}
