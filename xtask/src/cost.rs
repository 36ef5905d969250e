//! What watching costs: the same load with the sensor and without, in turn.
//!
//! In: a release build of the daemon, a small C program that forks, writes files and connects, and a real build. Out: per
//! operation, what the load pays in line and what the daemon spends; what each kernel program takes; what was lost. Must never
//! be read as wall time: the machine may be busy, so processor time is what is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::scope::Scope;
use crate::{artifacts, live, setup, shell};

const ACTOR: &str = include_str!("cost.c");
/// For the daemon to be ready, to catch up, to end.
const LIMIT: Duration = Duration::from_secs(120);
/// Turns kernel-side times on.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Loads, with how many operations one run makes.
const LOADS: &[(&str, u64)] = &[
    ("exec", 2_000),
    ("file", 10_000),
    ("connect", 5_000),
    ("getpid", 500_000),
    ("make", 1),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What the daemon does meanwhile: run, with the shipped rules, or record, which writes every event as JSON
    #[arg(long, default_value = "run")]
    command: String,
    /// Which hooks to use: auto, trampolines or tracepoints
    #[arg(long, default_value = "auto")]
    tier: String,
    /// Runs with the sensor, each beside one without
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// A ready daemon instead of a release build of this source
    #[arg(long)]
    sensor: Option<PathBuf>,
    /// Only loads whose name contains this: exec, file (create, rename, delete), connect, getpid, make
    filter: Option<String>,
}

/// Nanoseconds of one run of a load.
#[derive(Clone, Copy)]
struct Run {
    /// Processor time of the load and its children.
    in_line: f64,
    /// Processor time of the daemon, 0 without one.
    daemon: f64,
    lost: u64,
}

/// `cargo xtask cost`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    if let Some(obstacle) = live::obstacle() {
        bail!(obstacle);
    }
    setup::kernel_toolchain(root)?;
    let project = live::tools(root)?;
    let sensor = match &options.sensor {
        Some(sensor) => sensor.clone(),
        None => artifacts::release(root)?,
    };
    let folder = std::env::temp_dir().join(format!("eql-sensor-cost-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let bench = Bench {
        scope: Scope::new("cost")?,
        sensor,
        rules: root
            .join("rules/execution_network_connection_via_recently_compiled_executable.toml"),
        folder: folder.clone(),
        command: options.command.clone(),
        tier: options.tier.clone(),
    };
    let measured = bench.prepare(&project).and_then(|()| {
        println!(
            "processor time per operation, median of {} pairs [lowest to highest]",
            options.pairs
        );
        let wanted = |name: &str| {
            options
                .filter
                .as_ref()
                .is_none_or(|f| name.contains(f.as_str()))
        };
        for (load, count) in LOADS.iter().filter(|(name, _)| wanted(name)) {
            bench.compare(load, *count, options.pairs)?;
        }
        Ok(())
    });
    let _ = fs::remove_dir_all(&folder);
    measured.map(|()| ExitCode::SUCCESS)
}

struct Bench {
    scope: Scope,
    sensor: PathBuf,
    rules: PathBuf,
    folder: PathBuf,
    command: String,
    tier: String,
}

impl Bench {
    fn actor(&self) -> PathBuf {
        self.folder.join("load")
    }

    fn source(&self) -> PathBuf {
        self.folder.join("project")
    }

    fn prepare(&self, project: &Path) -> Result<()> {
        let code = self.folder.join("load.c");
        fs::write(&code, ACTOR)?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-static", "-o"])
            .arg(self.actor())
            .arg(&code);
        shell::output(&mut gcc)?;
        fs::create_dir_all(self.folder.join("files"))?;
        fs::create_dir_all(self.source())?;
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "-C"])
            .arg(self.source())
            .arg("-xf")
            .arg(project);
        shell::output(&mut tar).map(drop)
    }

    /// Runs a load in pairs, then once more for the kernel's own figures, and prints the lines.
    fn compare(&self, load: &str, count: u64, pairs: usize) -> Result<()> {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for pair in 0..pairs.max(1) {
            // In turn, so that what drifts touches both.
            for watched in [pair % 2 == 0, pair % 2 != 0] {
                let run = self.run(load, count, watched)?;
                if watched { &mut with } else { &mut without }.push(run);
            }
        }
        let per = |value: f64| value / count as f64;
        let bare = Spread::of(without.iter().map(|run| per(run.in_line)));
        let added = Spread::of(
            without
                .iter()
                .zip(&with)
                .map(|(without, with)| per(with.in_line - without.in_line)),
        );
        let daemon = Spread::of(with.iter().map(|run| per(run.daemon)));
        let lost: u64 = with.iter().map(|run| run.lost).sum();
        println!(
            "{load}: bare {} ns; added in line {added} ns; daemon {daemon} ns; lost {lost} of {} runs",
            bare.median.round(),
            with.len()
        );
        for (program, runs, nanoseconds) in self.programs(load, count)? {
            println!(
                "    {program:<28} {:>9.2} runs/op {:>8.0} ns/run {:>9.0} ns/op",
                per(runs),
                nanoseconds / runs,
                per(nanoseconds)
            );
        }
        Ok(())
    }

    fn run(&self, load: &str, count: u64, watched: bool) -> Result<Run> {
        let mut daemon = if watched { Some(self.start()?) } else { None };
        let before = daemon.as_ref().map_or(Ok(0), Daemon::settled)?;
        let in_line = self.load(load, count)?;
        let after = daemon.as_ref().map_or(Ok(0), Daemon::settled)?;
        let lost = daemon.as_mut().map_or(Ok(0), Daemon::stop)?;
        Ok(Run {
            in_line,
            daemon: (after - before) as f64,
            lost,
        })
    }

    /// Runs the load in the scope; nanoseconds of processor time.
    fn load(&self, load: &str, count: u64) -> Result<f64> {
        if load == "make" {
            let before = children();
            for goal in ["clean", "generic"] {
                let arguments = ["make", "-j2", "-s", "MYCFLAGS=-O0", goal];
                let mut make = self.scope.command(&arguments);
                shell::output(make.current_dir(self.source().join("src")))?;
            }
            return Ok((children() - before).as_nanos() as f64);
        }
        let (actor, files) = (self.actor(), self.folder.join("files"));
        let arguments = [
            &*actor.to_string_lossy(),
            load,
            &count.to_string(),
            &*files.to_string_lossy(),
        ];
        let said = shell::output(&mut self.scope.command(&arguments))?;
        said.split_whitespace()
            .nth(1)
            .and_then(|nanoseconds| nanoseconds.parse().ok())
            .with_context(|| format!("the load `{load}` said `{said}`"))
    }

    /// Name, runs and nanoseconds of each kernel program during one load, as the kernel counts them.
    fn programs(&self, load: &str, count: u64) -> Result<Vec<(String, f64, f64)>> {
        let before =
            fs::read_to_string(STATISTICS).context("cannot read kernel.bpf_stats_enabled")?;
        let mut daemon = self.start()?;
        daemon.settled()?;
        fs::write(STATISTICS, "1")?;
        let loaded = self.load(load, count).and_then(|_| daemon.programs());
        fs::write(STATISTICS, before.trim())?;
        daemon.stop()?;
        loaded
    }

    fn start(&self) -> Result<Daemon> {
        let log = self.folder.join("log");
        let mut command = Command::new(&self.sensor);
        command.arg(&self.command);
        match self.command.as_str() {
            "run" => {
                command.args(["--output", "stdout", "--format", "json", "--rules"]);
                command.arg(&self.rules);
            }
            "record" => {}
            other => bail!("`{other}` is neither run nor record"),
        }
        let child = command
            .args(["--tier", &self.tier, "--scope"])
            .arg(self.scope.path())
            .env("STATE_DIRECTORY", &self.folder)
            .env("RUNTIME_DIRECTORY", &self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot run {}", self.sensor.display()))?;
        let mut daemon = Daemon { child, log };
        let since = Instant::now();
        while !daemon.said().contains("ready: ") {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", daemon.said());
            }
            if since.elapsed() > LIMIT {
                bail!("the daemon is not ready:\n{}", daemon.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }
}

/// The daemon, ended with this.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Nanoseconds that its threads were on a processor.
    fn used(&self) -> Result<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let used = text
                .split(' ')
                .next()
                .and_then(|used| used.parse::<u64>().ok());
            sum += used.with_context(|| format!("schedstat says `{text}`"))?;
        }
        Ok(sum)
    }

    /// The same once there is nothing left to do: it hardly grows for a while.
    fn settled(&self) -> Result<u64> {
        const CALM: Duration = Duration::from_millis(300);
        const HARDLY: u64 = 2_000_000;
        let since = Instant::now();
        let mut last = self.used()?;
        loop {
            std::thread::sleep(CALM);
            let now = self.used()?;
            if now - last < HARDLY {
                return Ok(now);
            }
            if since.elapsed() > LIMIT {
                bail!("the daemon does not come to rest");
            }
            last = now;
        }
    }

    /// What the kernel counted for the programs it holds.
    fn programs(&self) -> Result<Vec<(String, f64, f64)>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.child.id()))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
            ids.extend(id.and_then(|id| id.trim().parse::<u64>().ok()));
        }
        let text = shell::output(Command::new("bpftool").args(["prog", "show", "-j"]))?;
        let programs: Vec<Value> = serde_json::from_str(&text).context("bpftool wrote no JSON")?;
        Ok(programs
            .iter()
            .filter(|program| program["id"].as_u64().is_some_and(|id| ids.contains(&id)))
            .filter_map(|program| {
                let name = program["name"].as_str()?.to_owned();
                let runs = program["run_cnt"].as_f64()?;
                Some((name, runs, program["run_time_ns"].as_f64()?))
            })
            .collect())
    }

    /// Ends it; how many records it says were lost.
    fn stop(&mut self) -> Result<u64> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("the daemon has no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        let said = self.said();
        let account = said
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Value>(line).ok());
        let lost = match account {
            Some(account) => account["lost"].as_u64(),
            None => said.rsplit_once("lost=").and_then(|(_, after)| {
                let digits = after.chars().take_while(char::is_ascii_digit);
                digits.collect::<String>().parse().ok()
            }),
        };
        lost.with_context(|| format!("the daemon told no loss:\n{said}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of all children that have ended, and theirs.
fn children() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let words: Vec<_> = text
        .rsplit_once(") ")
        .map_or("", |(_, after)| after)
        .split(' ')
        .collect();
    let ticks = |at: usize| {
        words
            .get(at)
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // cutime and cstime, in the hundredths of a second that Linux tells user space everywhere.
    Duration::from_millis((ticks(13) + ticks(14)) * 10)
}

/// Median, lowest and highest.
#[derive(Debug, PartialEq)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: (at((values.len().saturating_sub(1)) / 2) + at(values.len() / 2)) / 2.0,
            lowest: at(0),
            highest: at(values.len().saturating_sub(1)),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} [{:.0} to {:.0}]",
            self.median, self.lowest, self.highest
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_lowest_and_highest() {
        let odd = Spread::of([5.0, 1.0, 3.0].into_iter());
        assert_eq!(odd.to_string(), "3 [1 to 5]");
        let even = Spread::of([4.0, 1.0, 2.0, 9.0].into_iter());
        assert_eq!(even.to_string(), "3 [1 to 9]");
    }
}
