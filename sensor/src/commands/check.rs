//! `check`: which rules can fire here, and every problem of settings and rules, with its place.
//!
//! In: paths. Out: problems on standard output, a summary, and the exit code. Never stops at the first problem.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;

use super::{Exit, Failure, cost, gate_and_problems, live, print, unfit};
use crate::cli::{CheckArgs, ReportFormat};
use crate::config::{self, Config, Layers};
use crate::document::{Problem, Severity, Source};
use crate::drop_ins;
use crate::event::FieldTable;
use crate::kernel;
use crate::output::report::{self, Judged, Report};
use crate::pipeline::{self, Basis, Sight};
use crate::rule::{self, Loaded, Rule};
use crate::tuning::Tuning;

/// Directories of one sort of file each, beside those that have a name in [`config`].
const RULES: &str = "rules.d";
const EXCEPTIONS: &str = "exceptions.d";
const OVERRIDES: &str = "overrides.d";

/// Runs `check`.
///
/// # Errors
/// There is nothing to check, or standard output can not be written.
pub fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let sight = if args.kernel {
        of_this_kernel()?
    } else {
        Sight::of_types()
    };
    let mut report = Report {
        basis: basis(&sight),
        ..Report::default()
    };
    if args.paths.is_empty() {
        installed(&sight, &mut report)?;
    } else {
        named(&args.paths, &sight, &mut report);
    }
    count_events(args.events.as_deref(), &mut report)?;
    match args.format {
        ReportFormat::Text => print(report.text(args.verbose).as_bytes())?,
        ReportFormat::Json => print(&report.json())?,
    }
    Ok(if report.count(Severity::Error) > 0 {
        Exit::Problems
    } else {
        Exit::Ok
    })
}

/// The settings and rules a `run` without flags would take.
fn installed(sight: &Sight, report: &mut Report) -> Result<(), Failure> {
    let layers = Layers::installed(&config::installed_directories());
    report.settings += layers.len();
    let config = match layers.config() {
        Ok(config) => config,
        Err(problems) => {
            report.problems.extend(problems);
            // Which rules there are can not be known without settings.
            return Ok(());
        }
    };
    let (places, trial) = (&config.rules.directories, &config.rules.trial);
    take(rule::load_installed(places), false, sight, report);
    take(rule::load_installed(trial), true, sight, report);
    tuning(&config.rules.exceptions, &config.rules.overrides, report);
    if report.files == 0 && report.settings == 0 {
        return Err(Failure {
            exit: Exit::Usage,
            error: anyhow!(
                "no settings and no rules are installed; name what to check: eql-sensor check PATH"
            ),
        });
    }
    Ok(())
}

fn named(paths: &[PathBuf], sight: &Sight, report: &mut Report) {
    let (mut rules, mut on_trial) = (Vec::new(), Vec::new());
    let (mut exceptions, mut overrides) = (Vec::new(), Vec::new());
    for path in paths {
        if let Some(inside) = Inside::of(path) {
            for file in inside.settings {
                settings(&file, report);
            }
            report.problems.extend(inside.problems);
            rules.extend(inside.rules);
            on_trial.extend(Some(path.join(config::TRIAL)).filter(|rules| rules.is_dir()));
            exceptions.push(path.join(EXCEPTIONS));
            overrides.push(path.join(OVERRIDES));
        } else if let Some(is_exceptions) = sort_of_tuning(path) {
            let paths = if is_exceptions {
                &mut exceptions
            } else {
                &mut overrides
            };
            paths.push(path.clone());
        } else if is_settings(path) {
            settings(path, report);
        } else if is_on_trial(path) {
            on_trial.push(path.clone());
        } else {
            rules.push(path.clone());
        }
    }
    take(rule::load(&on_trial), true, sight, report);
    if !rules.is_empty() {
        take(rule::load(&rules), false, sight, report);
        if report.files == 0 {
            for path in rules.iter().filter(|path| path.is_dir()) {
                report.problems.push(Problem {
                    severity: Severity::Warning,
                    ..Problem::of_file(
                        path,
                        "no rule file here".to_owned(),
                        Some("rule files end in .toml"),
                    )
                });
            }
        }
    }
    tuning(&exceptions, &overrides, report);
}

/// What is in a directory laid out as /etc/eql-sensor is, besides exceptions, overrides and rules on trial.
#[derive(Default)]
struct Inside {
    settings: Vec<PathBuf>,
    rules: Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl Inside {
    /// `None` for any other path. Where there are settings, rules are in the one directory for them, as for the daemon; where there
    /// are none, all that lies beside the directories for other things is rules, too.
    fn of(path: &Path) -> Option<Inside> {
        let below = |name: &str| Some(path.join(name)).filter(|below| below.is_dir());
        let main = path.join(config::FILE_NAME);
        let has_main = main.exists();
        let others = [config::DROP_INS, config::TRIAL, EXCEPTIONS, OVERRIDES];
        if !path.is_dir() || !(has_main || others.iter().any(|name| below(name).is_some())) {
            return None;
        }
        let mut inside = Inside::default();
        inside.settings.extend(Some(main).filter(|_| has_main));
        if let Some(drop_ins) = below(config::DROP_INS) {
            let found = drop_ins::merged(&[drop_ins]);
            inside.settings.extend(found.files);
            inside.problems.extend(found.problems);
        }
        if has_main {
            inside.rules.extend(below(RULES));
            return Some(inside);
        }
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        inside
            .rules
            .extend(entries.map(|entry| entry.path()).filter(|entry| {
                let is_other = others.iter().any(|name| entry.ends_with(name));
                !is_other && (entry.is_dir() || drop_ins::is_taken(entry))
            }));
        inside.rules.sort();
        Some(inside)
    }
}

/// Whether a path holds exceptions (true) or overrides (false): by its content, or by the name of the directory.
fn sort_of_tuning(path: &Path) -> Option<bool> {
    if path.is_dir() {
        return match path.file_name()?.to_str()? {
            EXCEPTIONS => Some(true),
            OVERRIDES => Some(false),
            _ => None,
        };
    }
    Tuning::is_exceptions(&Source::read(path, "file").ok()?)
}

/// Whether a path is the directory of rules on trial, or in it.
fn is_on_trial(path: &Path) -> bool {
    let named = |path: &Path| path.file_name().is_some_and(|name| name == config::TRIAL);
    named(path) || path.parent().is_some_and(named)
}

/// What is wrong with exceptions and overrides, for the rules at hand.
fn tuning(exceptions: &[PathBuf], overrides: &[PathBuf], report: &mut Report) {
    let (tuning, problems) = Tuning::load(exceptions, overrides);
    report.problems.extend(problems);
    let rules = report.rules.iter().map(|judged| Arc::clone(&judged.rule));
    let mut rules: Vec<Arc<Rule>> = rules.collect();
    report.problems.extend(tuning.apply(&mut rules));
    let (_, problems) = gate_and_problems(&tuning, &rules, &mut FieldTable::sensor());
    report.problems.extend(problems);
}

fn is_settings(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name == config::FILE_NAME)
        || Source::read(path, "file").is_ok_and(|source| Config::is_likely(&source))
}

fn settings(path: &Path, report: &mut Report) -> Option<Config> {
    report.settings += 1;
    match Config::read(path) {
        Ok(config) => Some(config),
        Err(problems) => {
            report.problems.extend(problems);
            None
        }
    }
}

fn take(loaded: Loaded, on_trial: bool, sight: &Sight, report: &mut Report) {
    report.files += loaded.files;
    let unfit = unfit(&loaded.rules);
    report.failed += loaded.failed + unfit.len();
    let rules = loaded.rules.into_iter().enumerate();
    let fit = rules.filter(|(index, _)| !unfit.iter().any(|(of, _)| of == index));
    report.rules.extend(fit.map(|(_, rule)| Judged {
        judgement: rule.judge(sight.kinds),
        limits: sight.limits_of(rule.interest()),
        wakes: None,
        on_trial,
        rule,
    }));
    report
        .problems
        .extend(unfit.into_iter().map(|(_, problem)| problem));
    report.problems.extend(loaded.problems);
    report.skipped.extend(loaded.skipped);
}

/// How many events of a recording each rule has to look at.
fn count_events(events: Option<&Path>, report: &mut Report) -> Result<(), Failure> {
    let rules: Vec<_> = report.rules.iter().map(|of| Arc::clone(&of.rule)).collect();
    let wakes = cost::wakes(&rules, events)?;
    for (judged, wakes) in report.rules.iter_mut().zip(wakes) {
        judged.wakes = Some(wakes);
        report.problems.extend(cost::too_many(&judged.rule, wakes));
    }
    Ok(())
}

/// What the hooks give that this kernel takes.
fn of_this_kernel() -> Result<Sight, Failure> {
    let options = pipeline::options(&Config::default().kernel);
    let options = kernel::Options {
        kinds: kernel::KindSet::all(),
        ..options
    };
    let kernel = kernel::load(&options).map_err(|error| live::failure(error.into()))?;
    Ok(Sight::of_hooks(kernel.hooks()))
}

fn basis(sight: &Sight) -> report::Basis {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let words = match sight.basis {
        Basis::Hooks => format!("judged by the hooks that kernel {release} takes"),
        Basis::Types => format!(
            "judged by the hooks that kernel {release} has; `check --kernel`, as root, tries whether it takes them"
        ),
        Basis::Schema => {
            "judged by what the sensor can produce; this kernel does not say what it has".to_owned()
        }
    };
    report::Basis {
        name: sight.basis.name(),
        words,
    }
}
