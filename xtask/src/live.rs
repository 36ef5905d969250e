//! Live tests: real kernel programs, real compilers, files and sockets, on this kernel or in a guest.
//!
//! In: the built live tests. Out: their results. On this machine they see only the cgroup they make; in a guest they see the
//! same, under another kernel. Must never run a test twice for one kernel: one boot does it all.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::artifacts::{self, Artifacts, TestProgram};
use crate::guest;
use crate::kernels::{self, Kernel};
use crate::mirror::PrivateApt;
use crate::results::Tally;
use crate::{apt, setup, shell};

/// Longest that one program of live tests may take here, and that all of them may take in an emulated guest.
const HERE_LIMIT: Duration = Duration::from_secs(600);
const GUEST_LIMIT: Duration = Duration::from_secs(1500);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to run: running (this kernel), 5.10, 6.1, 6.12, newest, or all of these; may be given several times
    #[arg(long = "kernel", default_value = RUNNING)]
    kernels: Vec<String>,
    /// Which hooks to use; both is what guests allow, auto takes what the kernel allows
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// Take longer: the storms of 100,000 acts instead of some thousands
    #[arg(long)]
    long: bool,
    /// Add a parameter to the guest kernel's command line, such as preempt=full; may be given several times
    #[arg(long = "parameter")]
    parameters: Vec<String>,
    /// End each program of tests here, or the guest, after this many seconds: for a machine that has other work
    #[arg(long)]
    limit: Option<u64>,
    /// Only tests whose name contains one of these
    filters: Vec<String>,
}

/// Which sort of hook the tests ask for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    Auto,
    Trampolines,
    Tracepoints,
    Both,
}

impl Tier {
    /// Value of `EQL_SENSOR_LIVE_TIERS` for the tests.
    fn list(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Trampolines => "trampolines",
            Self::Tracepoints => "tracepoints",
            Self::Both => "trampolines,tracepoints",
        }
    }
}

/// `cargo xtask live`.
pub(crate) fn run(root: &Path, options: &Options) -> Result<ExitCode> {
    setup::kernel_toolchain(root)?;
    let artifacts = artifacts::live_tests(root)?;
    let mut all = Tally::default();
    for kernel in chosen(&options.kernels) {
        let filters: Vec<&str> = options.filters.iter().map(String::as_str).collect();
        let plan = |usual| Plan {
            artifacts: &artifacts,
            tier: options.tier.unwrap_or(usual),
            filters: &filters,
            long: options.long,
            parameters: &options.parameters,
            limit: options.limit.map(Duration::from_secs),
        };
        all += if kernel == RUNNING {
            here(root, &plan(Tier::Auto))?
        } else {
            in_guest(root, Kernel::named(kernel)?, &plan(Tier::Both))?
        };
    }
    println!("{all}");
    Ok(if all.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Name of the kernel that runs this machine.
pub(crate) const RUNNING: &str = "running";

/// The kernels asked for, `all` spelled out.
pub(crate) fn chosen(names: &[String]) -> Vec<&str> {
    let mut kernels = Vec::new();
    for name in names {
        if name == "all" {
            kernels.push(RUNNING);
            kernels.extend(kernels::ALL.iter().map(|kernel| kernel.name));
        } else {
            kernels.push(name.as_str());
        }
    }
    kernels
}

/// Why live tests cannot run on this kernel, if they cannot.
pub(crate) fn obstacle() -> Option<String> {
    if !shell::is_root() {
        return Some("loading kernel programs needs root".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("this kernel has no BTF (/sys/kernel/btf/vmlinux)".to_owned());
    }
    None
}

/// The C project that a test builds, as Debian's source package has it: some thirty files and a plain Makefile.
const PROJECT: &str = "lua5.4";
/// Tells the tests where its archive is.
const PROJECT_VARIABLE: &str = "EQL_SENSOR_LIVE_PROJECT";
/// Releases that have it.
const PROJECT_SUITES: &[&str] = &["trixie", "bookworm"];

/// Programs that the live tests run besides the daemon, and the project that one of them builds.
pub(crate) fn tools(root: &Path) -> Result<PathBuf> {
    let programs = [
        "gcc", "g++", "make", "strace", "bpftool", "openssl", "python3",
    ];
    for program in programs {
        if shell::find(program).is_none() {
            apt::ensure(&[apt::Package::new(program, "live tests run it")])?;
        }
    }
    project(root).context("cannot fetch the source that a live test builds")
}

fn project(root: &Path) -> Result<PathBuf> {
    let kept = kernels::guests(root).join("project.tar");
    if !kept.exists() {
        let (suite, apt) = PrivateApt::of_first(root, PROJECT_SUITES)?;
        println!("fetching the source package {PROJECT} of {suite}: a live test builds it");
        fs::rename(apt.source(PROJECT)?, &kept)?;
    }
    Ok(kept)
}

/// Which live tests to run, and how.
pub(crate) struct Plan<'a> {
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) tier: Tier,
    /// Parts of names of the tests to run; all of them when empty.
    pub(crate) filters: &'a [&'a str],
    pub(crate) long: bool,
    /// For the command line of a guest kernel.
    pub(crate) parameters: &'a [String],
    /// In place of the usual one.
    pub(crate) limit: Option<Duration>,
}

impl<'a> Plan<'a> {
    /// All of them, as long as they usually take.
    pub(crate) fn all(artifacts: &'a Artifacts, tier: Tier) -> Self {
        Self {
            artifacts,
            tier,
            filters: &[],
            long: false,
            parameters: &[],
            limit: None,
        }
    }

    fn live(&self) -> impl Iterator<Item = &TestProgram> {
        self.artifacts.tests.iter().filter(|test| test.is_live())
    }

    /// Variables of the environment that tell the tests.
    fn variables(&self) -> Vec<(&'static str, &'static str)> {
        let mut variables = vec![("EQL_SENSOR_LIVE_TIERS", self.tier.list())];
        if self.long {
            variables.push(("EQL_SENSOR_LIVE_LONG", "1"));
        }
        variables
    }

    fn limit(&self, usual: Duration) -> Duration {
        let usual = if self.long { usual * 4 } else { usual };
        self.limit.unwrap_or(usual)
    }
}

/// Tests that set the clock and the like, by a part of their names.
const LEAVE_OUT: &str = "--skip=guests_only::";

/// Runs the live tests on this kernel.
pub(crate) fn here(root: &Path, plan: &Plan<'_>) -> Result<Tally> {
    let project = tools(root)?;
    let mut all = Tally::default();
    for test in plan.live() {
        let mut command = Command::new(&test.path);
        command
            .current_dir(&test.folder)
            .envs(plan.variables())
            .env(PROJECT_VARIABLE, &project)
            .args(["--test-threads=1", "--show-output", LEAVE_OUT])
            .args(plan.filters);
        let (tally, text) =
            crate::results::run(root, &test.name, &command, plan.limit(HERE_LIMIT))?;
        println!("{text}");
        all += tally;
    }
    Ok(all)
}

/// Puts a copy of a program over it: the guest is to run what was built before it booted, whatever is built meanwhile, and its
/// own memory is the quicker one.
const KEEP: &str = r#"programs=$PWD/programs
mkdir "$programs"
keep() {
    cp "$1" "$programs/" && mount --bind "$programs/${1##*/}" "$1" || failed=1
}
"#;

/// Runs the live tests in one boot of a guest kernel.
pub(crate) fn in_guest(root: &Path, kernel: &Kernel, plan: &Plan<'_>) -> Result<Tally> {
    let project = tools(root)?;
    guest::tools(root)?;
    let files = kernel.fetch(root)?;
    let mut script = format!(
        "failed=0\nexport EQL_SENSOR_LIVE_EMULATED=1 {PROJECT_VARIABLE}='{}'\n{KEEP}",
        project.display()
    );
    for (name, value) in plan.variables() {
        let _ = writeln!(script, "export {name}={value}");
    }
    let filters: String = plan.filters.iter().map(|of| format!(" '{of}'")).collect();
    let _ = writeln!(script, "keep '{}'", plan.artifacts.sensor.display());
    for test in plan.live() {
        // What is not kept back is there even when the time runs out.
        let path = test.path.display();
        let _ = writeln!(script, "keep '{path}'");
        let _ = writeln!(script, "cd '{}'", test.folder.display());
        let _ = writeln!(
            script,
            "'{path}' --test-threads=1 --nocapture{filters} || failed=1"
        );
    }
    script.push_str("exit $failed\n");
    let limit = plan.limit(GUEST_LIMIT);
    println!("booting guest kernel {} ({})", kernel.name, files.release);
    let outcome = guest::run(root, &files, plan.parameters, &script, limit)?;
    println!("{}", outcome.output);
    let mut tally = Tally::of_tests(&outcome.output);
    match outcome.exit {
        Some(0) => {}
        Some(_) => tally.failed = tally.failed.max(1),
        None => {
            outcome.print_console();
            println!("guest {} {}", kernel.name, outcome.why_unfinished());
            tally.failed += 1;
        }
    }
    Ok(tally)
}
