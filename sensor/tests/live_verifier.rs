//! Every program of the kernel object, needed on this kernel or not, against the running kernel's verifier.
//!
//! In: root, BTF, `verifier.toml` beside this. Out: exit code 0 when each program is taken, and none costs the verifier more
//! than its budget. `cargo xtask live` runs it, here and in guests; `cargo xtask budgets` writes the file from what this
//! prints. Must never pass a program whose hook is there and which the verifier refuses.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;

use sensor::kernel::{Options, Verdict, verify};
use serde::Deserialize;

/// Set to anything: print what each program costs, compare nothing.
const MEASURE: &str = "EQL_SENSOR_MEASURE";

/// What `verifier.toml` holds.
#[derive(Deserialize)]
struct Budgets {
    slack_percent: u64,
    others: u64,
    /// Instructions by kernel series, by program.
    programs: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Budgets {
    fn measured(&self, program: &str, series: &str) -> Option<u64> {
        self.programs.get(program)?.get(series).copied()
    }

    /// Most instructions that a program may cost on a kernel.
    fn of(&self, program: &str, series: &str) -> u64 {
        self.measured(program, series)
            .map_or(self.others, |measured| {
                measured + measured * self.slack_percent / 100
            })
    }
}

/// `6.1` of `6.1.0-56-amd64`.
fn series(release: &str) -> &str {
    let mut dots = release.match_indices('.').map(|(at, _)| at);
    let _ = dots.next();
    let end = dots.next().unwrap_or(release.len());
    &release[..end]
}

#[test]
fn every_program_verifies_within_its_budget() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let series = series(release.trim());
    let text = include_str!("verifier.toml");
    let budgets: Budgets = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    // What can be switched on costs the verifier more than what is off.
    let options = Options {
        scope: vec![cgroup_root().into()],
        ..Options::default()
    };
    let mut wrong = Vec::new();
    let mut refused = Vec::new();
    let mut hooks = 0;
    for of in verify(&options).unwrap_or_else(|error| panic!("{error}: {error:?}")) {
        let name = of.program;
        match of.verdict {
            Verdict::Taken { instructions } => {
                hooks += 1;
                let budget = budgets.of(name, series);
                println!("verified {series} {name} {instructions} of {budget}");
                if u64::from(instructions) > budget {
                    wrong.push(format!(
                        "{name} costs {instructions} instructions on {series}, its budget is {budget}"
                    ));
                }
            }
            Verdict::NoHook(missing) => {
                println!("no hook {series} {name} {}: {missing}", of.hook);
                if budgets.measured(name, series).is_some() {
                    wrong.push(format!(
                        "{name} has no hook on {series} any more: {missing}"
                    ));
                }
            }
            Verdict::Refused(said) => refused.push(format!("{name} is refused: {said}")),
        }
    }
    assert!(hooks > 0, "no program found its hook on {release}");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    if std::env::var_os(MEASURE).is_none() {
        assert!(
            wrong.is_empty(),
            "{}\nafter a change that is meant, write new budgets: cargo xtask budgets",
            wrong.join("\n")
        );
    }
}

fn cgroup_root() -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .unwrap_or_else(|| panic!("a cgroup v2 hierarchy must be mounted"))
        .to_owned()
}
