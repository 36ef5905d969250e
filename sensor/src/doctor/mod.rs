//! What `doctor` says: one line for each thing the sensor needs, good or not, and what to do.
//!
//! In: [`Facts`] about this machine, gathered by [`facts`] or made up. Out: a [`Report`] as text or JSON. It decides nothing by
//! itself that `run` would decide otherwise: what makes `run` refuse is a failure here, and nothing else is.

mod capabilities;
pub mod facts;
mod hooks;

use serde_json::{Value, json};

pub use capabilities::Capability;
pub use facts::Facts;
use facts::{Check, Directory, Journal, Programs};

use crate::kernel::HookState;

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Ok,
    /// The sensor runs, with less than it could have.
    Warn,
    /// `run` would refuse.
    Fail,
}

impl Status {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Name of the thing; the name of the record kind for hooks.
    pub about: String,
    pub status: Status,
    pub text: String,
    /// What to do; always there when the status is not [`Status::Ok`].
    pub advice: Option<String>,
}

impl Line {
    fn ok(about: &str, text: impl Into<String>) -> Line {
        Line {
            about: about.to_owned(),
            status: Status::Ok,
            text: text.into(),
            advice: None,
        }
    }

    fn warn(about: &str, text: impl Into<String>, advice: impl Into<String>) -> Line {
        Line {
            status: Status::Warn,
            advice: Some(advice.into()),
            ..Line::ok(about, text)
        }
    }

    fn fail(about: &str, text: impl Into<String>, advice: impl Into<String>) -> Line {
        Line {
            status: Status::Fail,
            ..Line::warn(about, text, advice)
        }
    }
}

/// Everything there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub lines: Vec<Line>,
    kinds: Vec<Value>,
}

const AS_ROOT: &str = "run as root, or with the capabilities of systemd/eql-sensor.service";

impl Report {
    #[must_use]
    pub fn of(facts: &Facts) -> Report {
        let mut lines = vec![
            kernel(facts),
            btf(facts),
            lockdown(facts),
            preemption(facts),
            capabilities::line(&facts.capabilities),
            namespace(facts),
            clock(facts),
            ring(facts),
        ];
        let mut kinds = Vec::new();
        match &facts.programs {
            Programs::Loaded(reports) => {
                lines.push(Line::ok("programs", "the kernel took the programs"));
                lines.extend(hooks::lines(reports, &facts.not_asked_for));
                kinds = hooks::kinds(reports, &facts.not_asked_for);
            }
            Programs::Refused { error, advice } => {
                lines.push(Line::fail("programs", error.clone(), advice.clone()));
            }
            Programs::NotLooked(why) => lines.push(Line::warn(
                "programs",
                format!("not looked at: {why}"),
                AS_ROOT,
            )),
        }
        lines.push(self_check(&facts.self_check));
        lines.push(journal(&facts.journal));
        lines.extend(rules(facts));
        Report { lines, kinds }
    }

    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.lines.iter().filter(|l| l.status == status).count()
    }

    /// For people: a line each, advice below it.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.lines.iter().map(|line| line.about.len()).max();
        let width = width.unwrap_or_default();
        let mut text = String::new();
        for line in &self.lines {
            let Line {
                about, text: said, ..
            } = line;
            text += &format!("{:<4}  {about:<width$}  {said}\n", line.status.name());
            if let Some(advice) = &line.advice {
                text += &format!("{:<4}  {:<width$}  -> {advice}\n", "", "");
            }
        }
        text += &format!(
            "{} ok, {} warn, {} fail\n",
            self.count(Status::Ok),
            self.count(Status::Warn),
            self.count(Status::Fail)
        );
        text
    }

    /// One document on one line.
    #[must_use]
    pub fn json(&self) -> String {
        let line = |line: &Line| {
            json!({
                "about": line.about,
                "status": line.status.name(),
                "text": line.text,
                "advice": line.advice,
            })
        };
        let document = json!({
            "summary": {
                "ok": self.count(Status::Ok),
                "warn": self.count(Status::Warn),
                "fail": self.count(Status::Fail),
            },
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
            "kinds": self.kinds,
        });
        format!("{document}\n")
    }
}

fn kernel(facts: &Facts) -> Line {
    let text = format!("Linux {} on {}", facts.release, facts.architecture);
    if !facts.has_object {
        return Line::fail(
            "kernel",
            format!("{text}; this build carries no kernel programs"),
            "run `cargo xtask setup`, then build again, or build with EQL_SENSOR_BPF_OBJECT naming a ready object",
        );
    }
    match version(&facts.release) {
        Some(version) if version < (5, 10) => {
            Line::fail("kernel", text, "Linux 5.10 or later is needed")
        }
        _ if facts.architecture != "x86_64" => Line::warn(
            "kernel",
            text,
            "only x86_64 is tested; second-choice hooks are built for it alone",
        ),
        _ => Line::ok("kernel", text),
    }
}

/// `6.1.0-30-amd64` is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn btf(facts: &Facts) -> Line {
    match &facts.btf {
        Ok(bytes) => Line::ok(
            "btf",
            format!("the kernel describes its types ({} KiB)", bytes / 1024),
        ),
        Err(error) => Line::fail(
            "btf",
            error.clone(),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF; distributions' kernels from 5.10 on have it",
        ),
    }
}

fn lockdown(facts: &Facts) -> Line {
    match facts.lockdown.as_deref() {
        Some("confidentiality") => Line::fail(
            "lockdown",
            "confidentiality: kernel programs may not read kernel memory",
            "boot without lockdown=confidentiality",
        ),
        Some("integrity") => Line::ok(
            "lockdown",
            "integrity: kernel programs may read; some such kernels take no function trampolines",
        ),
        Some(mode) => Line::ok("lockdown", mode),
        None => Line::ok(
            "lockdown",
            "not told; securityfs is not mounted or lockdown is not built in",
        ),
    }
}

fn preemption(facts: &Facts) -> Line {
    let preemption = &facts.preemption;
    let mode = format!("{} (by {})", preemption.mode, preemption.told_by);
    if !preemption.skips_on_functions() {
        return Line::ok(
            "preemption",
            format!("{mode}: no other task runs in the middle of a program on a function"),
        );
    }
    let on_functions = match &facts.programs {
        Programs::Loaded(reports) => reports
            .iter()
            .any(|report| report.trampoline && report.state == HookState::Attached),
        // Then it is not known, and the first choice is taken for it.
        Programs::Refused { .. } | Programs::NotLooked(_) => true,
    };
    let before_7_0 = preemption.release.is_some_and(|release| release < (7, 0));
    if before_7_0 && !on_functions {
        return Line::ok(
            "preemption",
            format!("{mode}: it matters to programs on functions, and there are none here"),
        );
    }
    let text = format!(
        "{mode}: another task can run in the middle of a program, and the kernel skips the program for that task. Programs are \
         attached twice for it, for creations three times, those on functions for modifications once: of 4000 files that 32 workers \
         made at once in an emulated guest, at most 41 were skipped, where a program that is there once skips 420 to 870. What is skipped is told as lost"
    );
    if !before_7_0 {
        // Newer kernels have no mode without it.
        return Line::ok("preemption", text);
    }
    Line::warn(
        "preemption",
        text,
        "boot with preempt=voluntary, unless this machine needs what it has now; or live with the gaps that are told",
    )
}

fn namespace(facts: &Facts) -> Line {
    if facts.has_host_pids {
        return Line::ok("namespace", "pids are the host's");
    }
    Line::fail(
        "namespace",
        "the sensor runs in a pid namespace of its own: /proc numbers processes otherwise than the kernel's records",
        "run it in the host's pid namespace (containers: --pid=host)",
    )
}

fn clock(facts: &Facts) -> Line {
    /// 2024-01-01.
    const SANE_S: i64 = 1_704_067_200;
    let text = format!(
        "boot clock {} s, wall clock {}",
        facts.boot_ns / 1_000_000_000,
        facts.wall_text
    );
    if facts.wall_s < SANE_S {
        return Line::warn(
            "clock",
            text,
            "set the wall clock: events are stamped with it (sequences are not affected)",
        );
    }
    Line::ok("clock", text)
}

fn ring(facts: &Facts) -> Line {
    let ring = u64::from(facts.ring_bytes);
    let text = format!("{} KiB", ring / 1024);
    if let Some(limit) = facts.memlock_limit
        && limit < ring.saturating_mul(2)
    {
        return if facts.memlock_can_be_raised {
            Line::ok(
                "ring",
                format!(
                    "{text}; this kernel counts it as locked memory, whose limit is raised at start"
                ),
            )
        } else {
            Line::fail(
                "ring",
                format!(
                    "{text}; this kernel counts it as locked memory, of which {} KiB are allowed",
                    limit / 1024
                ),
                "LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited`, or CAP_SYS_RESOURCE",
            )
        };
    }
    if let Some(available) = facts.memory_available
        && ring > available / 2
    {
        return Line::warn(
            "ring",
            format!("{text}, of {} KiB of memory available", available / 1024),
            "a smaller `ring_bytes` in the settings",
        );
    }
    Line::ok("ring", text)
}

fn self_check(check: &Check) -> Line {
    match check {
        Check::Right { kinds, untried, ms } if untried.is_empty() => Line::ok(
            "self-check",
            format!("{} right, in {ms} ms", kinds.join(", ")),
        ),
        Check::Right { kinds, untried, ms } => Line::ok(
            "self-check",
            format!(
                "{} right, in {ms} ms; not tried: {}",
                kinds.join(", "),
                untried.join("; ")
            ),
        ),
        Check::Wrong(error) => Line::fail(
            "self-check",
            error.clone(),
            "report it with the kernel's version; do not trust this sensor on this kernel",
        ),
        Check::Off => Line::warn(
            "self-check",
            "off",
            "`self_check = true` in the settings compares known acts with their records at every start",
        ),
        Check::NotRun => Line::warn(
            "self-check",
            "not run: the programs are not loaded",
            "see `programs`",
        ),
    }
}

fn journal(journal: &Journal) -> Line {
    if !journal.socket {
        return if journal.is_output {
            Line::warn(
                "journal",
                "there is none here, and alerts are to go to it",
                "start systemd-journald, or choose outputs with --output or `alerts` in the settings",
            )
        } else {
            Line::ok("journal", "there is none here, and no alert goes to it")
        };
    }
    let (burst, interval) = (journal.burst, journal.interval_s);
    if burst == 0 || interval == 0 {
        return Line::ok("journal", "takes entries without a limit");
    }
    let text = format!("takes {burst} entries in {interval} s from one service");
    if burst < 1000 {
        return Line::warn(
            "journal",
            text,
            "the unit of systemd/ sets its own limit; otherwise raise RateLimitBurst in journald.conf, since the journal drops what is above",
        );
    }
    Line::ok(
        "journal",
        format!("{text}, unless the unit sets its own limit, as the one of systemd/ does"),
    )
}

fn rules(facts: &Facts) -> Vec<Line> {
    let mut lines: Vec<Line> = facts.directories.iter().filter_map(directory).collect();
    let rules = &facts.rules;
    let text = format!(
        "{} of {} rule files loaded, {} skipped",
        rules.loaded, rules.files, rules.skipped
    );
    lines.push(if rules.loaded == 0 {
        Line::fail(
            "rules",
            text,
            "name a directory with --rules, install rules, or start with --allow-no-rules",
        )
    } else if rules.failed > 0 {
        Line::warn(
            "rules",
            format!("{text}, {} have errors", rules.failed),
            "`eql-sensor check` shows each with its place",
        )
    } else {
        Line::ok("rules", text)
    });
    lines
}

/// Nothing of one that is in order: its rules are counted.
fn directory(directory: &Directory) -> Option<Line> {
    let path = directory.path.display();
    let error = directory.error.as_ref()?;
    Some(Line::fail(
        "rules",
        format!("cannot read `{path}`: {error}"),
        "make it readable for the sensor's user, or take it out of `directories` in the settings",
    ))
}

#[cfg(test)]
mod tests;
