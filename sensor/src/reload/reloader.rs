//! What a reload does, on the thread of whoever asked for it.
//!
//! In: the word. Out: an [`Answer`]. One at a time; the pipeline goes on meanwhile and only swaps, between two events. Nothing is
//! changed before the new set is compiled, kept on disk, and all its kinds are attached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sd_notify::NotifyState;
use serde::Serialize;

use super::{Difference, Kept, Refused, Roster, Set, build, settings};
use crate::cli::RunArgs;
use crate::commands;
use crate::config::Config;
use crate::control::{Ask, Bell};
use crate::document::{Problem, counted};
use crate::engine::Restored;
use crate::enrich::contents::Wanted;
use crate::kernel::Widener;
use crate::pipeline;
use crate::rule::{self, Rule};

/// What became of a reload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    /// Everything is as the files say. Otherwise `problems` and `refused` tell what is not.
    pub ok: bool,
    /// Why nothing was changed at all.
    pub refused: Option<String>,
    pub generation: u64,
    /// Live ones, and those on trial beside them.
    pub rules: usize,
    pub on_trial: usize,
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    pub unchanged: usize,
    /// Rules in their last good version, and why.
    pub stale: Vec<String>,
    pub failed: Vec<String>,
    /// Kinds of records attached for the new rules.
    pub attached: Vec<&'static str>,
    /// Rules that see less than they ask for until the next start, and why.
    pub blind: Vec<String>,
    /// Settings that differ and are only read at a start.
    pub restart: Vec<&'static str>,
    /// Partial matches that go on waiting, and those given up with their rules.
    pub partials_kept: u64,
    pub partials_left: u64,
    pub milliseconds: u64,
    /// As `file:line:column: severity: message`, with the excerpt.
    pub problems: Vec<String>,
}

/// What the pipeline says of a swap.
#[derive(Clone, Copy, Debug)]
pub struct Swapped {
    pub generation: u64,
    pub restored: Restored,
}

/// See the module.
pub struct Reloader {
    args: RunArgs,
    kept: Kept,
    bell: Bell,
    widener: Option<Widener>,
    started_with: Config,
    /// Files are read for the rules of the start.
    reads_files: bool,
    running: Mutex<Arc<Roster>>,
}

impl Reloader {
    /// For a set that runs. Without a widener nothing is attached.
    #[must_use]
    pub fn new(
        args: RunArgs,
        kept: Kept,
        bell: Bell,
        widener: Option<Widener>,
        config: Config,
        roster: Arc<Roster>,
    ) -> Reloader {
        let rules: Vec<Arc<Rule>> = roster.iter().cloned().collect();
        Reloader {
            reads_files: pipeline::reading_for(&rules) != Wanted::NOTHING,
            args,
            kept,
            bell,
            widener,
            started_with: config,
            running: Mutex::new(roster),
        }
    }

    /// Reads everything again. Tells the service manager when it begins and ends, and the log what came of it.
    pub fn reload(&self) -> Answer {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
        }
        let mut answer = match self.attempt(&mut running) {
            Ok(answer) => answer,
            Err(refused) => Answer {
                refused: Some(refused.reason),
                rules: running.live_count(),
                on_trial: running.on_trial().len(),
                problems: refused.problems.iter().map(with_excerpt).collect(),
                ..Answer::default()
            },
        };
        answer.milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let words = answer.in_words();
        if answer.ok {
            tracing::info!("{words}");
        } else {
            tracing::error!("{words}");
        }
        let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&words)]);
        answer
    }

    fn attempt(&self, running: &mut Arc<Roster>) -> Result<Answer, Refused> {
        let refused = |reason| Refused {
            reason,
            problems: Vec::new(),
            settings: false,
        };
        let config = settings(&self.args)?;
        let restart = self.only_at_a_start(&config);
        let good: Vec<Arc<Rule>> = running.iter().cloned().collect();
        let (set, problems) = build(&self.args, config, &good)?;
        let roster = Arc::clone(&set.roster);
        if let Err(error) = self.kept.save(&roster) {
            return Err(refused(format!(
                "{} cannot be written, so the new rules would not outlive a restart: {error}",
                self.kept.path().display()
            )));
        }
        let attached = self.widen(&set).map_err(refused)?;
        let blind = self.blind(&roster);
        let swapped = self
            .bell
            .ask(|to| Ask::Swap(Box::new(set), to))
            .map_err(|error| refused(error.to_string()))?;
        let difference = Difference::between(running, &roster);
        *running = Arc::clone(&roster);
        Ok(answer(
            &roster, difference, swapped, attached, blind, restart, &problems,
        ))
    }

    /// Has the kernel report what the new rules ask for besides.
    fn widen(&self, set: &Set) -> Result<Vec<&'static str>, String> {
        let Some(widener) = &self.widener else {
            return Ok(Vec::new());
        };
        let rules: Vec<Arc<Rule>> = set.roster.iter().cloned().collect();
        let kinds = pipeline::records_for(set.roster.interest());
        let attached = widener
            .widen(kinds, &pipeline::named_for(&rules))
            .map_err(|error| commands::chain(&error.into()))?;
        Ok(attached.into_iter().map(sensor_ebpf::Kind::name).collect())
    }

    fn blind(&self, roster: &Roster) -> Vec<String> {
        let has_environment = self.widener.as_ref().is_none_or(Widener::has_environment);
        let reads_it = |rule: &&Arc<Rule>| !rule::environment::patterns([&***rule]).is_empty();
        let blind = roster.iter().filter(reads_it).filter(|_| !has_environment);
        let environment = blind.map(|rule| {
            let name = &rule.name;
            format!("{name}: environments of programs are not reported until the next start")
        });
        let asks =
            |rule: &&Arc<Rule>| pipeline::reading_for(&[Arc::clone(rule)]) != Wanted::NOTHING;
        let unread = roster.iter().filter(asks).filter(|_| !self.reads_files);
        let contents = unread.map(|rule| {
            let name = &rule.name;
            format!("{name}: nothing is read of files and programs until the next start")
        });
        environment.chain(contents).collect()
    }

    fn only_at_a_start(&self, config: &Config) -> Vec<&'static str> {
        let was = &self.started_with;
        [
            ("kernel", was.kernel != config.kernel),
            ("processes", was.processes != config.processes),
            ("files", was.files != config.files),
            ("output", was.output != config.output),
            ("control", was.control != config.control),
        ]
        .into_iter()
        .filter_map(|(table, differs)| differs.then_some(table))
        .collect()
    }
}

fn answer(
    roster: &Roster,
    difference: Difference,
    swapped: Swapped,
    attached: Vec<&'static str>,
    blind: Vec<String>,
    restart: Vec<&'static str>,
    problems: &[Problem],
) -> Answer {
    let stale = roster.rules.iter().filter(|listed| listed.stale.is_some());
    let failed = roster.failed.iter();
    let errors = problems.iter().filter(|problem| problem.is_error());
    Answer {
        ok: problems.iter().all(|problem| !problem.is_error()),
        refused: None,
        generation: swapped.generation,
        rules: roster.live_count(),
        on_trial: roster.on_trial().len(),
        added: difference.added,
        changed: difference.changed,
        removed: difference.removed,
        unchanged: difference.unchanged,
        stale: stale.map(|listed| listed.rule.name.clone()).collect(),
        failed: failed
            .map(|failed| failed.path.display().to_string())
            .collect(),
        attached,
        blind,
        restart,
        partials_kept: swapped.restored.kept,
        partials_left: swapped.restored.left,
        milliseconds: 0,
        problems: errors.map(with_excerpt).collect(),
    }
}

fn with_excerpt(problem: &Problem) -> String {
    format!("{problem}\n{}", problem.excerpt)
        .trim_end()
        .to_owned()
}

impl Answer {
    /// One paragraph for the log.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = match &self.refused {
            Some(reason) => format!(
                "reload refused, all goes on as it was ({}): {reason}",
                counted(self.rules, "rule")
            ),
            None => format!(
                "reloaded in {} ms: generation {}, {}, {} added, {} changed, {} removed, {} unchanged; \
                 partial matches: {} kept, {} given up",
                self.milliseconds,
                self.generation,
                self.rules_in_words(),
                self.added.len(),
                self.changed.len(),
                self.removed.len(),
                self.unchanged,
                self.partials_kept,
                self.partials_left
            ),
        };
        for (what, which) in [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
            ("in their last good version", &self.stale),
            ("failed", &self.failed),
            ("blind", &self.blind),
        ] {
            if !which.is_empty() {
                words += &format!("\n  {what}: {}", listing(which));
            }
        }
        for (what, which) in [
            ("attached", &self.attached),
            ("takes a restart to apply", &self.restart),
        ] {
            if !which.is_empty() {
                words += &format!("\n  {what}: {}", which.join(", "));
            }
        }
        for problem in &self.problems {
            words += &format!("\n{problem}");
        }
        words
    }
}

impl Answer {
    fn rules_in_words(&self) -> String {
        let rules = counted(self.rules, "rule");
        match self.on_trial {
            0 => rules,
            trial => format!("{rules}, {trial} on trial"),
        }
    }
}

/// The first few, and how many more.
fn listing(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let mut text = shown.join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
