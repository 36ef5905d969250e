//! `rules promote` and `rules drop`: the end of a rule's trial, one way or the other.
//!
//! In: the name of a rule on trial. Out: its file among the live rules, or gone, and a daemon that has read that. Files are moved by
//! who asks: the daemon may not write where rules are. When the daemon does not take what was done, it is undone.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use super::control::{all, ask, failure, reload_text, text, texts};
use super::trial::{find, on_trial};
use super::{Exit, Failure, OrExit as _, chain, print, replace_file};
use crate::cli::{ControlArgs, DropArgs, PromoteArgs};
use crate::control::Request;
use crate::document::Source;
use crate::drop_ins;
use crate::rule::{self, Rule};

/// Runs `rules promote`.
///
/// # Errors
/// There is no such rule, it can not be live, something is in its place, files can not be moved, or the daemon does not take it.
pub(super) fn promote(args: &PromoteArgs) -> Result<Exit, Failure> {
    let rules = on_trial(&args.control)?;
    let found = find(&rules, &args.rule)?;
    let from = PathBuf::from(text(found, "/path"));
    fit(found, &from)?;
    let Some(to) = found.pointer("/promotion/to").and_then(Value::as_str) else {
        return refuse(anyhow!(
            "none of the places that live rules are read from is a directory: move `{}` by hand",
            from.display()
        ));
    };
    let to = PathBuf::from(to);
    if !is_rule_file(&to) {
        return refuse(anyhow!("`{}` is no place for a rule", to.display()));
    }
    let mut replaces = texts(found, "/promotion/replaces");
    let shown = to.display().to_string();
    if replaces.is_empty() && to.symlink_metadata().is_ok() {
        replaces.push(&shown);
    }
    if !replaces.is_empty() && !args.replace {
        return refuse(anyhow!(
            "it would take the place of {}; say --replace if it shall",
            replaces.join(" and of ")
        ));
    }
    let mut done = Moves::default();
    let moved = done.set_aside(&to).and_then(|()| done.rename(&from, &to));
    let outcome = moved.and_then(|()| read_again(&args.control));
    let outcome = outcome.and_then(|answer| {
        is_live(&args.control, text(found, "/id"), &to)?;
        Ok(answer)
    });
    let answer = settle(&args.control, done, outcome)?;
    let mut out = format!("{} is live: {}\n", text(found, "/name"), to.display());
    for replaced in replaces {
        out += &if Path::new(replaced) == to {
            format!("  what was there is now {}\n", aside(&to).display())
        } else {
            format!("  in place of {replaced}\n")
        };
    }
    print((out + &reload_text(&answer)).as_bytes())?;
    Ok(Exit::Ok)
}

/// Runs `rules drop`.
///
/// # Errors
/// There is no such rule, nobody confirms it, the file can not be removed, or the daemon does not reload.
pub(super) fn drop(args: &DropArgs) -> Result<Exit, Failure> {
    let rules = on_trial(&args.control)?;
    let found = find(&rules, &args.rule)?;
    let from = PathBuf::from(text(found, "/path"));
    if !is_rule_file(&from) {
        return refuse(anyhow!("`{}` is no rule file", from.display()));
    }
    if !args.yes && !confirmed(&from)? {
        return Err(anyhow!("nothing was removed")).or_exit(Exit::Usage);
    }
    // Not gone before the daemon has done without it.
    let mut beside = from.clone().into_os_string();
    beside.push(".dropped");
    let beside = PathBuf::from(beside);
    let mut done = Moves::default();
    let outcome = done
        .rename(&from, &beside)
        .and_then(|()| read_again(&args.control));
    let answer = settle(&args.control, done, outcome)?;
    fs::remove_file(&beside)
        .with_context(|| format!("cannot remove `{}`", beside.display()))
        .or_exit(Exit::Permission)?;
    let out = format!("{} is dropped\n", from.display());
    print((out + &reload_text(&answer)).as_bytes())?;
    Ok(Exit::Ok)
}

/// Whether the file can be live, and is what was tried.
fn fit(found: &Value, from: &Path) -> Result<(), Failure> {
    let verdict = text(found, "/verdict");
    if matches!(verdict, "failed" | "stale") {
        let why = texts(found, "/why");
        let why = why.first().copied().unwrap_or_default();
        return refuse(anyhow!("`{}` is broken: {why}", from.display()));
    }
    let source = Source::read(from, "rule file").map_err(|problem| anyhow!("{problem}"))?;
    // Who answers on a socket does not decide which files are moved.
    let loaded = rule::load_source(&source);
    let is_it = |rule: &Arc<Rule>| rule.id == text(found, "/id");
    if !loaded.rules.iter().any(is_it) || !is_rule_file(from) {
        return refuse(anyhow!(
            "`{}` is no file of the rule {}",
            from.display(),
            text(found, "/id")
        ));
    }
    if format!("{:016x}", rule::digest(&source.text)) != text(found, "/digest") {
        return refuse(anyhow!(
            "`{}` is not what was tried: it has changed since; `eql-sensor reload` begins its trial anew",
            from.display()
        ));
    }
    Ok(())
}

fn is_rule_file(path: &Path) -> bool {
    path.is_absolute() && drop_ins::is_taken(path)
}

fn refuse<T>(error: anyhow::Error) -> Result<T, Failure> {
    Err(error).or_exit(Exit::Problems)
}

fn confirmed(path: &Path) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(anyhow!(
            "`{}` would be removed; say --yes if it shall",
            path.display()
        ))
        .or_exit(Exit::Usage);
    }
    print(format!("remove {}? [y/N] ", path.display()).as_bytes())?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read from standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Has the daemon reload. Problems of other files are not these rules' business.
fn read_again(control: &ControlArgs) -> Result<Value, Failure> {
    let answer = ask(control, &Request::Reload)?.only().map_err(failure)?;
    let Some(reason) = answer.pointer("/refused").and_then(Value::as_str) else {
        return Ok(answer);
    };
    for problem in texts(&answer, "/problems") {
        eprintln!("{problem}");
    }
    refuse(anyhow!("the daemon refuses the reload: {reason}"))
}

/// Whether the daemon runs a rule of that id, live, from that file.
fn is_live(control: &ControlArgs, id: &str, path: &Path) -> Result<(), Failure> {
    let rules = all(ask(control, &Request::Rules)?)?;
    let is_it = |rule: &&Value| {
        text(rule, "/id") == id && rule.pointer("/on_trial") == Some(&Value::Bool(false))
    };
    let Some(rule) = rules.iter().find(is_it) else {
        return refuse(anyhow!(
            "the daemon does not run it: an override switches it off, or another file hides it"
        ));
    };
    let runs = text(rule, "/path");
    if path == Path::new(runs) && text(rule, "/verdict") != "stale" {
        return Ok(());
    }
    refuse(anyhow!(
        "the daemon goes on with `{runs}`, which has the same id"
    ))
}

/// Keeps what was done, or undoes it and has the daemon read that.
fn settle(
    control: &ControlArgs,
    done: Moves,
    outcome: Result<Value, Failure>,
) -> Result<Value, Failure> {
    let Err(failed) = outcome else {
        return outcome;
    };
    let state = match done.undo() {
        Ok(0) => "nothing was moved".to_owned(),
        Ok(_) => match read_again(control) {
            Ok(_) => "everything is as it was".to_owned(),
            Err(error) => format!(
                "files are as they were, but the daemon has not read them again ({})",
                chain(&error.error)
            ),
        },
        Err(error) => format!("files can not be moved back ({})", chain(&error.error)),
    };
    Err(Failure {
        exit: failed.exit,
        error: failed.error.context(state),
    })
}

/// Files that were moved, to be moved back.
#[derive(Default)]
struct Moves {
    /// From where to where.
    done: Vec<(PathBuf, PathBuf)>,
}

impl Moves {
    /// Keeps a copy of what is in a place beside it: the place itself is never empty.
    fn set_aside(&mut self, path: &Path) -> Result<(), Failure> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let aside = aside(path);
        fs::copy(path, &aside)
            .with_context(|| format!("cannot copy `{}` to `{}`", path.display(), aside.display()))
            .map_err(failed)?;
        self.done.push((path.to_owned(), aside));
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        move_file(from, to)?;
        self.done.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Gives how many moves were undone.
    fn undo(self) -> Result<usize, Failure> {
        let count = self.done.len();
        for (from, to) in self.done.into_iter().rev() {
            move_file(&to, &from)?;
        }
        Ok(count)
    }
}

/// Where a file goes that gives its place.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".replaced");
    aside.into()
}

/// Moves a file whole or not at all, also to another file system.
fn move_file(from: &Path, to: &Path) -> Result<(), Failure> {
    let attempt = || {
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                replace_file(to, &fs::read(from)?, 0o644)?;
                fs::remove_file(from)
            }
            other => other,
        }
    };
    attempt()
        .with_context(|| format!("cannot move `{}` to `{}`", from.display(), to.display()))
        .map_err(failed)
}

/// With the exit code of what went wrong.
fn failed(error: anyhow::Error) -> Failure {
    let cause = error.downcast_ref::<io::Error>();
    let is_denied = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied);
    Failure {
        exit: if is_denied {
            Exit::Permission
        } else {
            Exit::Problems
        },
        error,
    }
}
