//! Live tests: real kernel programs, real compilers, files and sockets, on this kernel or in a guest.
//!
//! In: the built live tests. Out: their results. On this machine they see only the cgroup they make; in a guest they see the
//! same, under another kernel. Must never run a test twice for one kernel: one boot does it all.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;

use crate::artifacts::{self, TestProgram};
use crate::guest;
use crate::kernels::Kernel;
use crate::results::Tally;
use crate::{apt, setup, shell};

/// Longest that one program of live tests may take here, and that all of them may take in an emulated guest.
const HERE_LIMIT: Duration = Duration::from_secs(600);
const GUEST_LIMIT: Duration = Duration::from_secs(1500);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to run: running (this kernel), 5.10, 6.1 or 6.12; may be given several times
    #[arg(long = "kernel", default_value = "running")]
    kernels: Vec<String>,
    /// Which hooks to use; both is what guests allow, auto takes what the kernel allows
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// Only tests whose name contains this
    filter: Option<String>,
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
    let artifacts = artifacts::tests(root)?;
    let mut all = Tally::default();
    for kernel in &options.kernels {
        let filter = options.filter.as_deref();
        all += if kernel == "running" {
            here(
                root,
                &artifacts.tests,
                options.tier.unwrap_or(Tier::Auto),
                filter,
            )?
        } else {
            let kernel = Kernel::named(kernel)?;
            in_guest(
                root,
                kernel,
                &artifacts.tests,
                options.tier.unwrap_or(Tier::Both),
                filter,
            )?
        };
    }
    println!("{all}");
    Ok(if all.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

/// Programs that the live tests run besides the daemon.
pub(crate) fn tools() -> Result<()> {
    for (program, package) in [("gcc", "gcc"), ("g++", "g++"), ("bpftool", "bpftool")] {
        if shell::find(program).is_none() {
            apt::ensure(&[apt::Package::new(package, "live tests run it")])?;
        }
    }
    Ok(())
}

/// Runs the live tests on this kernel.
pub(crate) fn here(
    root: &Path,
    tests: &[TestProgram],
    tier: Tier,
    filter: Option<&str>,
) -> Result<Tally> {
    tools()?;
    let mut all = Tally::default();
    for test in tests.iter().filter(|test| test.is_live()) {
        let mut command = Command::new(&test.path);
        command
            .current_dir(&test.folder)
            .env("EQL_SENSOR_LIVE_TIERS", tier.list())
            .args(["--test-threads=1", "--show-output"])
            .args(filter);
        let (tally, text) = crate::results::run(root, &test.name, &command, HERE_LIMIT)?;
        println!("{text}");
        all += tally;
    }
    Ok(all)
}

/// Runs the live tests in one boot of a guest kernel.
pub(crate) fn in_guest(
    root: &Path,
    kernel: &Kernel,
    tests: &[TestProgram],
    tier: Tier,
    filter: Option<&str>,
) -> Result<Tally> {
    tools()?;
    guest::tools(root)?;
    let files = kernel.fetch(root)?;
    let mut script = format!("export EQL_SENSOR_LIVE_TIERS={}\nfailed=0\n", tier.list());
    for test in tests.iter().filter(|test| test.is_live()) {
        let filter = filter
            .map(|filter| format!(" '{filter}'"))
            .unwrap_or_default();
        let _ = writeln!(script, "cd '{}'", test.folder.display());
        let _ = writeln!(
            script,
            "'{}' --test-threads=1 --show-output{filter} || failed=1",
            test.path.display()
        );
    }
    script.push_str("exit $failed\n");
    println!("booting guest kernel {} ({})", kernel.name, files.release);
    let outcome = guest::run(root, &files, &script, GUEST_LIMIT)?;
    println!("{}", outcome.output);
    let mut tally = Tally::of_tests(&outcome.output);
    match outcome.exit {
        Some(0) => {}
        Some(_) => tally.failed = tally.failed.max(1),
        None => {
            outcome.print_console();
            println!(
                "the guest did not finish its tests within {} s",
                GUEST_LIMIT.as_secs()
            );
            tally.failed += 1;
        }
    }
    Ok(tally)
}
