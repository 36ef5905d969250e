//! Guests: another kernel on this machine's root file system, booted by virtme-ng under emulation.
//!
//! In: an unpacked kernel and a shell script. Out: the script's output and exit code. The guest sees this root file system
//! read-only, with memory over the folders that programs write to. Must never open /dev/kvm, nor outlive its time limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::apt::{self, Package};
use crate::kernels::{self, Files, Kernel};
use crate::shell;

const VIRTME_NG: &str = "virtme-ng==1.42";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which kernel: 5.10, 6.1, 6.12 or newest
    #[arg(long, default_value = "6.1")]
    kernel: String,
    /// End the guest after this many seconds
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Add a parameter to the kernel's command line; may be given several times
    #[arg(long = "parameter")]
    parameters: Vec<String>,
    /// Shell command to run as root in the guest
    command: String,
}

/// What a guest left behind.
pub(crate) struct Outcome {
    /// Exit code of the script; `None` when the guest ended, or was ended, before the script did.
    pub(crate) exit: Option<i32>,
    /// Standard output and standard error of the script, as far as it got.
    pub(crate) output: String,
    /// All that the guest's console showed; kept unless the script ended well.
    pub(crate) console: PathBuf,
    /// What it might take, where that was not enough.
    ended_after: Option<Duration>,
}

/// `cargo xtask guest`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    tools(root)?;
    let files = Kernel::named(&options.kernel)?.fetch(root)?;
    let outcome = run(
        root,
        &files,
        &options.parameters,
        &options.command,
        Duration::from_secs(options.limit),
    )?;
    print!("{}", outcome.output);
    match outcome.exit {
        Some(code) => Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)),
        None => {
            outcome.print_console();
            bail!("guest {} {}", options.kernel, outcome.why_unfinished())
        }
    }
}

/// Finds or installs what boots a guest.
pub(crate) fn tools(root: &Path) -> Result<()> {
    let virtme = virtme(root);
    if virtme.exists()
        && shell::find("qemu-system-x86_64").is_some()
        && shell::find("busybox").is_some()
    {
        return Ok(());
    }
    apt::ensure(&[
        Package::new("qemu-system-x86", "runs guest kernels, emulated"),
        Package::new(
            "busybox-static",
            "first program of a guest, before its root file system is there",
        ),
        Package::new("kmod", "indexes the modules of guest kernels (depmod)"),
    ])?;
    if !virtme.exists() {
        install_virtme(root)?;
    }
    Ok(())
}

fn install_virtme(root: &Path) -> Result<()> {
    println!(
        "installing {VIRTME_NG} from PyPI into target/guests/venv: boots guest kernels on this root file system"
    );
    let venv = kernels::guests(root).join("venv");
    let _ = fs::remove_dir_all(&venv);
    let make = || shell::output(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    if make().is_err() {
        apt::ensure(&[
            Package::new("python3", "runs virtme-ng"),
            Package::new(
                "python3-venv",
                "keeps virtme-ng apart from the system's Python packages",
            ),
        ])?;
        let _ = fs::remove_dir_all(&venv);
        make()?;
    }
    shell::output(
        Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", VIRTME_NG]),
    )?;
    Ok(())
}

fn virtme(root: &Path) -> PathBuf {
    kernels::guests(root).join("venv/bin/vng")
}

/// Boots a kernel with further parameters, runs a script as root in it and waits for its end.
pub(crate) fn run(
    root: &Path,
    kernel: &Files,
    parameters: &[String],
    script: &str,
    limit: Duration,
) -> Result<Outcome> {
    let venv = kernels::guests(root).join("venv/bin");
    // The one folder that guest and host both write: script in, output and exit code out. Console text has kernel
    // messages in between, so it only serves to explain a failure.
    let exchange = kernels::guests(root).join("exchange").join(format!(
        "{}-{}",
        kernel.release,
        std::process::id()
    ));
    let _ = fs::remove_dir_all(&exchange);
    fs::create_dir_all(&exchange)?;
    fs::write(exchange.join("script"), script)?;
    let console = exchange.join("console");
    let path = format!(
        "{}:{}",
        venv.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new(venv.join("vng"));
    command
        .env("PATH", path)
        .args([
            "--disable-kvm",
            "--force-9p",
            "--verbose",
            "--user",
            "root",
            "--cpus",
            "2",
            "--memory",
            "3G",
            "--cwd",
            "/",
        ])
        .arg(format!("--rwdir={}", exchange.display()))
        .arg(format!("--append={NO_TIMER_CHECK}"))
        .args(parameters.iter().map(|one| format!("--append={one}")))
        .arg("--run")
        .arg(&kernel.image)
        .arg("--exec")
        .arg(format!(
            "sh {} {}",
            exchange.join("boot").display(),
            exchange.display()
        ));
    fs::write(exchange.join("boot"), BOOT)?;
    let ended = shell::bounded(&command, limit, &console)?;
    let read = |name: &str| {
        fs::read(exchange.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let exit = read("exit").ok().and_then(|text| text.trim().parse().ok());
    let output = read("output").unwrap_or_default();
    if exit == Some(0) {
        let _ = fs::remove_dir_all(&exchange);
    }
    Ok(Outcome {
        exit,
        output,
        console,
        ended_after: ended.is_none().then_some(limit),
    })
}

/// A kernel that starts while this machine has other work may wait in vain for its timer's first interrupts, and then gives up.
const NO_TIMER_CHECK: &str = "no_timer_check";

/// First script of the guest: what virtme-ng leaves undone, then the caller's script.
const BOOT: &str = r#"
exchange=$1
busybox ifconfig lo 127.0.0.1 up
mkdir -p /var/tmp/work && mount -t tmpfs -o size=1g work /var/tmp/work
export HOME=/root TMPDIR=/var/tmp/work
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /var/tmp/work
sh "$exchange/script" > "$exchange/output" 2>&1
echo $? > "$exchange/exit.partial"
mv "$exchange/exit.partial" "$exchange/exit"
sync
"#;

impl Outcome {
    /// Why there is no exit code, to follow the guest's name.
    pub(crate) fn why_unfinished(&self) -> String {
        match self.ended_after {
            Some(limit) => format!("did not finish within {} s", limit.as_secs()),
            None => "ended before its script did".to_owned(),
        }
    }

    /// Prints the end of the console, for a guest that failed before its script could say why.
    pub(crate) fn print_console(&self) {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        println!(
            "--- last lines of the guest's console ({}) ---",
            self.console.display()
        );
        for line in lines.iter().skip(lines.len().saturating_sub(60)) {
            println!("{line}");
        }
        println!("--- end of console ---");
    }
}
