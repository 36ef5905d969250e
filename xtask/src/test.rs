//! Everything that says whether this project works, in one command.
//!
//! In: the workspace and what this machine allows. Out: each step with its result and time, then one line that counts. Must
//! never call a step passed that did not run: it is skipped, with the reason, and that is a failure unless allowed.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::artifacts::{self, Artifacts};
use crate::kernels::{self, Kernel};
use crate::live::{self, Plan, Tier};
use crate::results::{self, Tally};
use crate::{demo, guest, service, setup, shell, tidy, units};

/// Longest that one program of unit or integration tests may take.
const TEST_LIMIT: Duration = Duration::from_secs(900);

/// Guest kernels of every run; `--all` takes the others too.
const GUESTS: &[&str] = &["5.10", "6.1"];

/// What an ordinary run tests in guests, whose processor is emulated: that every program loads within its budget, and that each
/// sort of act comes out right in the first tier, which the running kernel may refuse, and what only a guest may be asked. `--all` runs every test in both tiers.
const GUEST_TESTS: &[&str] = &[
    "every_",
    "the_same_acts",
    "acts::",
    "processes::",
    "network::",
    "guests_only::",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run every live test in every guest kernel, in both tiers
    #[arg(long)]
    all: bool,
    /// Succeed although a step could not run on this machine
    #[arg(long)]
    allow_missing: bool,
}

/// How a step ended.
enum Outcome {
    Ran(Tally),
    /// It cannot run here, for the reason given.
    Missing(String),
}

/// One finished step.
struct Step {
    name: String,
    tally: Tally,
    took: Duration,
    note: String,
}

/// `cargo xtask test`.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.check("format", || {
        shell::output(shell::cargo(root).args(["fmt", "--all", "--check"])).map(|_| ())
    });
    steps.check("tidy", || tidy::run(root));
    steps.check("service unit", || units::check(root));
    // Before anything is compiled: the daemon's build script looks for it once.
    steps.check("kernel toolchain", || setup::kernel_toolchain(root));
    steps.check("clippy", || {
        let mut clippy = shell::cargo(root);
        clippy.args([
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]);
        shell::output(&mut clippy).map(|_| ())
    });
    let mut built = None;
    steps.check("build with kernel object", || {
        built = Some(artifacts::tests(root)?);
        Ok(())
    });
    if let Some(artifacts) = &built {
        run_built(root, options, artifacts, &mut steps);
    }
    Ok(steps.close(options.allow_missing))
}

/// Steps that need the build.
fn run_built(root: &Path, options: &Options, artifacts: &Artifacts, steps: &mut Steps) {
    for test in artifacts.tests.iter().filter(|test| !test.is_live()) {
        steps.run(&test.name, || {
            let mut command = Command::new(&test.path);
            command
                .current_dir(&test.folder)
                .env("CARGO_MANIFEST_DIR", &test.folder)
                .arg("--show-output");
            let (tally, text) = results::run(root, &test.name, &command, TEST_LIMIT)?;
            if tally.failed > 0 {
                println!("{text}");
            }
            for line in text.lines().filter(|line| line.starts_with("SKIPPED: ")) {
                println!("{line}");
            }
            Ok(Outcome::Ran(tally))
        });
    }
    steps.run("examples in documentation", || {
        let mut command = shell::cargo(root);
        command.args([
            "test",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-features",
            "--doc",
        ]);
        let (tally, text) = results::run(root, "documentation", &command, TEST_LIMIT)?;
        if tally.failed > 0 {
            println!("{text}");
        }
        Ok(Outcome::Ran(tally))
    });
    steps.run("live, running kernel", || match live::obstacle() {
        Some(obstacle) => Ok(Outcome::Missing(obstacle)),
        None => live::here(root, &Plan::all(artifacts, Tier::Auto)).map(Outcome::Ran),
    });
    for kernel in kernels::ALL
        .iter()
        .filter(|kernel| options.all || GUESTS.contains(&kernel.name))
    {
        let plan = if options.all {
            Plan::all(artifacts, Tier::Both)
        } else {
            Plan {
                filters: GUEST_TESTS,
                ..Plan::all(artifacts, Tier::Trampolines)
            }
        };
        steps.run(
            &format!("live, guest {}", kernel.name),
            || match guest_obstacle(root, kernel) {
                Some(obstacle) => Ok(Outcome::Missing(obstacle)),
                None => live::in_guest(root, kernel, &plan).map(Outcome::Ran),
            },
        );
    }
    if options.all {
        // Where tasks take each other's place even inside a kernel program.
        let parameters = ["preempt=full".to_owned()];
        let plan = Plan {
            filters: &["storm", "loss::", "every_kind_is_told"],
            parameters: &parameters,
            ..Plan::all(artifacts, Tier::Both)
        };
        for name in ["6.12", "newest"] {
            steps.run(&format!("storms, guest {name}, preempt=full"), || {
                let kernel = Kernel::named(name)?;
                match guest_obstacle(root, kernel) {
                    Some(obstacle) => Ok(Outcome::Missing(obstacle)),
                    None => live::in_guest(root, kernel, &plan).map(Outcome::Ran),
                }
            });
        }
    }
    steps.run("service, in a container", || match service::obstacle() {
        Some(obstacle) => Ok(Outcome::Missing(obstacle)),
        None => service::run(root, &artifacts.sensor).map(Outcome::Ran),
    });
    steps.check("demo", || demo::with(root, &artifacts.sensor));
}

/// Why a guest cannot be booted on this machine, if it cannot.
fn guest_obstacle(root: &Path, kernel: &Kernel) -> Option<String> {
    let ready = guest::tools(root).and_then(|()| kernel.fetch(root).map(|_| ()));
    ready.err().map(|error| format!("{error:#}"))
}

#[derive(Default)]
struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Runs a step that passes or fails as one.
    fn check(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        self.run(name, || step().map(|()| Outcome::Ran(Tally::PASSED)));
    }

    fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Outcome>) {
        println!("== {name}");
        let started = Instant::now();
        let (tally, note) = match step() {
            Ok(Outcome::Ran(tally)) => (tally, String::new()),
            Ok(Outcome::Missing(reason)) => (Tally::SKIPPED, format!("did not run: {reason}")),
            Err(error) => {
                println!("{error:#}");
                (Tally::FAILED, String::new())
            }
        };
        let step = Step {
            name: name.to_owned(),
            tally,
            took: started.elapsed(),
            note,
        };
        println!("{}", step.line());
        self.done.push(step);
    }

    /// Prints the summary and the closing line.
    fn close(&self, allow_missing: bool) -> ExitCode {
        println!("== summary");
        let mut all = Tally::default();
        for step in &self.done {
            println!("{}", step.line());
            all += step.tally;
        }
        let took: Duration = self.done.iter().map(|step| step.took).sum();
        println!("{} steps in {:.0} s", self.done.len(), took.as_secs_f64());
        println!("{all}");
        let good = all.failed == 0 && (all.skipped == 0 || allow_missing);
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Step {
    fn line(&self) -> String {
        let Tally {
            passed,
            failed,
            skipped,
        } = self.tally;
        let mut line = format!(
            "   {:<44} {passed:>4} passed {failed:>3} failed {skipped:>3} skipped {:>7.1} s",
            self.name,
            self.took.as_secs_f64()
        );
        if !self.note.is_empty() {
            line.push_str("  ");
            line.push_str(&self.note);
        }
        line
    }
}
