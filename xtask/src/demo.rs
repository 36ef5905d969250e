//! The founding rule, shown: a real compiler, a real connection, an alert.
//!
//! In: the rules folder and a kernel, this one or a guest's. Out: the alert on standard output, and success only if it came.
//! Must never watch more than the cgroup it makes for the purpose, and takes everything away again.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::kernels::Kernel;
use crate::scope::Scope;
use crate::{apt, artifacts, guest, live, setup, shell};

/// Rule that the demonstration is about.
const RULE_ID: &str = "64cfca9e-0f6f-4048-8251-9ec56a055e9e";

/// How long the sensor may take to attach, and an alert to come, on an emulated machine too.
const READY_LIMIT: Duration = Duration::from_secs(90);
const ALERT_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const GUEST_LIMIT: Duration = Duration::from_secs(400);

/// Exit code of the sensor for broken settings or rules; another kernel would not help.
const EXIT_CONFIGURATION: i32 = 78;

/// What plays the attacker's tool: connects to an address and port, says so, ends.
const PROGRAM: &str = r#"#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct sockaddr_in peer = { .sin_family = AF_INET };
    if (argc != 3 || inet_pton(AF_INET, argv[1], &peer.sin_addr) != 1)
        return 2;
    peer.sin_port = htons(atoi(argv[2]));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&peer, sizeof peer) != 0) {
        perror("connect");
        return 1;
    }
    return 0;
}
"#;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rules to load instead of those of this project
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Show it in a guest with this kernel (5.10, 6.1, 6.12 or newest) instead of on the running one
    #[arg(long, value_name = "KERNEL")]
    guest: Option<String>,
    /// Never fall back to a guest
    #[arg(long, conflicts_with = "guest")]
    here: bool,
    /// Use this built daemon instead of building it
    #[arg(long, value_name = "FILE", hide = true)]
    sensor: Option<PathBuf>,
}

/// How an attempt on one kernel ended, if not with an error.
enum Attempt {
    Alerted,
    /// This kernel cannot take the sensor, for the reason given.
    Refused(String),
}

/// `cargo xtask demo`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    let sensor = match &options.sensor {
        Some(sensor) => sensor
            .canonicalize()
            .with_context(|| format!("no daemon at {}", sensor.display()))?,
        None => {
            setup::kernel_toolchain(root)?;
            println!("building eql-sensor");
            artifacts::sensor(root)?
        }
    };
    run(root, options, &sensor)?;
    Ok(ExitCode::SUCCESS)
}

/// The demonstration with defaults and a built daemon.
pub(crate) fn with(root: &Path, sensor: &Path) -> Result<()> {
    run(
        root,
        &Options {
            rules: None,
            guest: None,
            here: false,
            sensor: None,
        },
        sensor,
    )
}

fn run(root: &Path, options: &Options, sensor: &Path) -> Result<()> {
    if shell::find("gcc").is_none() {
        apt::ensure(&[
            apt::Package::new("gcc", "the compiler that the rule is about"),
            apt::Package::new("libc6-dev", "headers for the program it compiles"),
        ])?;
    }
    let rules = options.rules.clone().unwrap_or_else(|| root.join("rules"));
    let rules = rules
        .canonicalize()
        .with_context(|| format!("no rules folder {}", rules.display()))?;
    if let Some(kernel) = &options.guest {
        return in_guest(root, Kernel::named(kernel)?, sensor, &rules);
    }
    let attempt = match live::obstacle() {
        Some(obstacle) => Attempt::Refused(obstacle),
        None => here(sensor, &rules)?,
    };
    match attempt {
        Attempt::Alerted => Ok(()),
        Attempt::Refused(reason) if options.here => bail!("not on this kernel: {reason}"),
        Attempt::Refused(reason) => {
            println!("not on this kernel: {reason}\nbooting a guest instead");
            in_guest(root, Kernel::named("6.1")?, sensor, &rules)
        }
    }
}

/// The demonstration in a guest: this very program again, under another kernel.
fn in_guest(root: &Path, kernel: &Kernel, sensor: &Path, rules: &Path) -> Result<()> {
    guest::tools(root)?;
    let files = kernel.fetch(root)?;
    println!(
        "booting guest kernel {} ({}), emulated",
        kernel.name, files.release
    );
    let xtask = std::env::current_exe().context("cannot tell where this program is")?;
    let script = format!(
        "exec '{}' demo --here --sensor '{}' --rules '{}'\n",
        xtask.display(),
        sensor.display(),
        rules.display()
    );
    let outcome = guest::run(root, &files, &[], &script, GUEST_LIMIT)?;
    print!("{}", outcome.output);
    match outcome.exit {
        Some(0) => Ok(()),
        Some(_) => bail!("no alert in the guest"),
        None => {
            outcome.print_console();
            bail!("the guest ended before the demonstration did")
        }
    }
}

/// The demonstration on this kernel.
fn here(sensor: &Path, rules: &Path) -> Result<Attempt> {
    let folder = std::env::temp_dir().join(format!("eql-sensor-demo-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let attempt = match Scope::new("demo") {
        Ok(scope) => show(sensor, rules, &scope, &folder),
        Err(error) => Ok(Attempt::Refused(format!("{error:#}"))),
    };
    let _ = fs::remove_dir_all(&folder);
    attempt
}

fn show(sensor: &Path, rules: &Path, scope: &Scope, folder: &Path) -> Result<Attempt> {
    let mut daemon = match Daemon::start(sensor, rules, scope, folder)? {
        Ok(daemon) => daemon,
        Err(reason) => return Ok(Attempt::Refused(reason)),
    };
    println!(
        "eql-sensor runs (pid {}), watching only {}",
        daemon.child.id(),
        scope.path().display()
    );
    let source = folder.join("rev.c");
    fs::write(&source, PROGRAM)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let peer = listener.local_addr()?;
    act(scope, folder, &["gcc", "rev.c", "-o", "rev"])?;
    act(
        scope,
        folder,
        &["./rev", &peer.ip().to_string(), &peer.port().to_string()],
    )?;
    println!();
    std::io::stdout().flush()?;
    let events = daemon.wait_for_alert()?;
    // The tree is the sensor's own output, written a moment after the file that was waited for.
    let took = daemon.stop()?;
    println!(
        "one alert, {events} events; eql-sensor ended {} ms after SIGTERM",
        took.as_millis()
    );
    Ok(Attempt::Alerted)
}

/// Runs a command inside the cgroup.
fn act(scope: &Scope, folder: &Path, command: &[&str]) -> Result<()> {
    println!("$ {}", command.join(" "));
    let output = shell::captured(scope.command(command).current_dir(folder))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// The running sensor. Ends with this value, whatever happens.
struct Daemon {
    child: Child,
    log: PathBuf,
    alerts: PathBuf,
}

impl Daemon {
    /// Starts the sensor and waits until it says that it is ready; the inner error is why this kernel refuses it.
    fn start(
        sensor: &Path,
        rules: &Path,
        scope: &Scope,
        folder: &Path,
    ) -> Result<Result<Self, String>> {
        let (log, alerts, ready) = (
            folder.join("log"),
            folder.join("alerts.jsonl"),
            folder.join("notify"),
        );
        let socket = std::os::unix::net::UnixDatagram::bind(&ready)
            .context("cannot listen for readiness")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let child = Command::new(sensor)
            .args(["run", "--format", "tree", "--output", "stdout"])
            .args(["--control", "none"])
            .arg("--output")
            .arg(format!("file:{}", alerts.display()))
            .arg("--rules")
            .arg(rules)
            .arg("--scope")
            .arg(scope.path())
            .env("NOTIFY_SOCKET", &ready)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", sensor.display()))?;
        let mut daemon = Self { child, log, alerts };
        let started = Instant::now();
        let mut message = [0; 4096];
        loop {
            if let Ok(length) = socket.recv(&mut message)
                && message.get(..length).is_some_and(|text| {
                    text.split(|byte| *byte == b'\n')
                        .any(|line| line == b"READY=1")
                })
            {
                return Ok(Ok(daemon));
            }
            if let Some(status) = daemon.child.try_wait()? {
                if status.code() == Some(EXIT_CONFIGURATION) {
                    bail!(
                        "eql-sensor refused its settings or rules:\n{}",
                        daemon.said()
                    );
                }
                return Ok(Err(format!(
                    "eql-sensor ended with {status}:\n{}",
                    daemon.said()
                )));
            }
            if started.elapsed() > READY_LIMIT {
                bail!(
                    "eql-sensor was not ready after {} s:\n{}",
                    READY_LIMIT.as_secs(),
                    daemon.said()
                );
            }
        }
    }

    /// Waits for an alert of the rule; tells how many events it carries.
    fn wait_for_alert(&mut self) -> Result<usize> {
        let started = Instant::now();
        loop {
            let text = fs::read_to_string(&self.alerts).unwrap_or_default();
            if let Some(events) = text.lines().find_map(alert_events) {
                return Ok(events);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "eql-sensor ended with {status} before the alert:\n{}",
                    self.said()
                );
            }
            if started.elapsed() > ALERT_LIMIT {
                bail!(
                    "no alert within {} s; the sensor said:\n{}",
                    ALERT_LIMIT.as_secs(),
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the sensor to end; tells how long that took.
    fn stop(&mut self) -> Result<Duration> {
        let asked = Instant::now();
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no pid")?;
        kill_process(pid, Signal::TERM).context("cannot end eql-sensor")?;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if asked.elapsed() > STOP_LIMIT {
                bail!(
                    "eql-sensor did not end within {} s of SIGTERM:\n{}",
                    STOP_LIMIT.as_secs(),
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.require_clean(status)?;
        Ok(asked.elapsed())
    }

    fn require_clean(&self, status: ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("eql-sensor ended with {status}:\n{}", self.said());
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Number of events in an alert of the rule; `None` for any other line.
fn alert_events(line: &str) -> Option<usize> {
    let alert: serde_json::Value = serde_json::from_str(line).ok()?;
    if alert["rule"]["id"] != RULE_ID {
        return None;
    }
    Some(alert["events"].as_array()?.len())
}
