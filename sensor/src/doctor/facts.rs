//! What `doctor` looks at.
//!
//! In: this machine, as far as the caller's privileges reach. Out: [`Facts`], plain data that a test can make up as well. A
//! thing that could not be looked at is said to be so; nothing is changed but that kernel programs are loaded for a moment.

use std::fs;
use std::path::{Path, PathBuf};

use sensor_ebpf::Kind;

use super::capabilities::{self, Capability};
use crate::enrich::procfs::Procfs;
use crate::kernel::{self, HookReport, Kernel, LoadError, Options, Preemption, SupportError};
use crate::output::journald;
use crate::pipeline::boot_ns;
use crate::self_check::{self, SelfCheckError};

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Facts {
    pub release: String,
    pub architecture: String,
    /// This build carries kernel programs.
    pub has_object: bool,
    /// Bytes of type information, or why there is none.
    pub btf: Result<u64, String>,
    /// The mode in force; `None` where the kernel does not tell.
    pub lockdown: Option<String>,
    pub preemption: Preemption,
    pub capabilities: Vec<Capability>,
    /// This process is in the host's pid namespace.
    pub has_host_pids: bool,
    pub boot_ns: u64,
    pub wall_s: i64,
    pub wall_text: String,
    pub ring_bytes: u32,
    /// Bytes; `None` where maps are not locked memory or there is no limit.
    pub memlock_limit: Option<u64>,
    pub memlock_can_be_raised: bool,
    /// Bytes.
    pub memory_available: Option<u64>,
    pub programs: Programs,
    /// Kinds the kernel could give and no loaded rule needs.
    pub not_asked_for: Vec<Kind>,
    pub self_check: Check,
    pub journal: Journal,
    pub directories: Vec<Directory>,
    pub rules: Rules,
}

/// What became of the kernel programs.
#[derive(Clone, Debug)]
pub enum Programs {
    Loaded(Vec<HookReport>),
    Refused {
        error: String,
        advice: String,
    },
    /// For want of privilege.
    NotLooked(String),
}

/// What became of the self-check.
#[derive(Clone, Debug)]
pub enum Check {
    Right {
        kinds: Vec<String>,
        untried: Vec<String>,
        ms: u128,
    },
    Wrong(String),
    Off,
    NotRun,
}

/// The system's journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pub socket: bool,
    /// Alerts are to go there.
    pub is_output: bool,
    /// Entries of one service that it keeps in an interval; 0 for no limit.
    pub burst: u64,
    /// Seconds.
    pub interval_s: u64,
}

/// A directory rules are read from.
#[derive(Clone, Debug)]
pub struct Directory {
    pub path: PathBuf,
    /// Why it can not be read; one that is not there is in order.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    pub files: usize,
    pub loaded: usize,
    pub skipped: usize,
    pub failed: usize,
}

/// Looks at everything but rules, which the caller has read.
#[must_use]
pub fn gather(options: &Options, check: bool, journal_is_output: bool) -> Facts {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let status = Procfs::default()
        .snapshot(std::process::id())
        .map(|own| own.status);
    let effective = status.and_then(|status| status.capabilities_effective);
    let (programs, self_check) = programs(options, check);
    let wall = jiff::Timestamp::now();
    Facts {
        release: text(name.release()),
        architecture: text(name.machine()),
        has_object: kernel::has_object(),
        btf: fs::metadata("/sys/kernel/btf/vmlinux")
            .map(|of| of.len())
            .map_err(|error| {
                format!("the kernel does not describe its types: /sys/kernel/btf/vmlinux: {error}")
            }),
        lockdown: lockdown(),
        preemption: Preemption::of_this_kernel(),
        capabilities: capabilities::of(effective),
        has_host_pids: has_host_pids(),
        boot_ns: boot_ns(),
        wall_s: wall.as_second(),
        wall_text: wall.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        ring_bytes: options.ring_bytes,
        memlock_limit: kernel::memlock_limit(),
        memlock_can_be_raised: effective.is_some_and(|set| set >> 24 & 1 == 1),
        memory_available: memory_available(),
        programs,
        not_asked_for: Vec::new(),
        self_check,
        journal: journal(journal_is_output),
        directories: Vec::new(),
        rules: Rules::default(),
    }
}

/// Loads the programs, checks them and lets them go.
fn programs(options: &Options, check: bool) -> (Programs, Check) {
    let mut kernel = match kernel::load(options) {
        Ok(kernel) => kernel,
        Err(error) => return (refused(error), Check::NotRun),
    };
    let outcome = if check {
        checked(&mut kernel)
    } else {
        Check::Off
    };
    (Programs::Loaded(kernel.hooks().to_vec()), outcome)
}

fn refused(error: LoadError) -> Programs {
    let advice = match &error {
        LoadError::NotPermitted(_) => return Programs::NotLooked(chain(error)),
        LoadError::NoObject => "build with a kernel toolchain: `cargo xtask setup`",
        LoadError::Support(SupportError::NoBtf(_)) => "see `btf`",
        LoadError::Support(SupportError::Confidentiality) => "see `lockdown`",
        LoadError::Support(SupportError::Scope { .. } | SupportError::NotACgroup(_)) => {
            "name a cgroup version 2 directory with --scope, or none"
        }
        _ => "report it with the kernel's version",
    };
    Programs::Refused {
        error: chain(error),
        advice: advice.to_owned(),
    }
}

fn chain(error: impl Into<anyhow::Error>) -> String {
    crate::commands::chain(&error.into())
}

fn checked(kernel: &mut Kernel) -> Check {
    match self_check::run(kernel) {
        Ok(outcome) => Check::Right {
            kinds: outcome.right.iter().map(|k| k.name().to_owned()).collect(),
            untried: outcome
                .untried
                .iter()
                .map(|(kind, why)| format!("{} ({why})", kind.name()))
                .collect(),
            ms: outcome.took.as_millis(),
        },
        Err(error @ SelfCheckError::Wrong(_)) => Check::Wrong(error.to_string()),
        Err(error) => Check::Wrong(chain(error)),
    }
}

/// `none [integrity] confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(mode.to_owned())
}

/// The first pid namespace has had this number since namespaces have numbers.
fn has_host_pids() -> bool {
    const HOST: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|target| target.as_os_str() == HOST)
}

fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

fn journal(is_output: bool) -> Journal {
    // What journald has built in, then its settings in the order in which it reads them.
    let (mut burst, mut interval_s) = (10_000, 30);
    let mut files = vec![PathBuf::from("/etc/systemd/journald.conf")];
    let mut drop_ins: Vec<PathBuf> = ["/usr/lib", "/run", "/etc"]
        .iter()
        .filter_map(|base| fs::read_dir(format!("{base}/systemd/journald.conf.d")).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .collect();
    drop_ins.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    files.extend(drop_ins);
    for text in files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
    {
        limits(&text, &mut burst, &mut interval_s);
    }
    Journal {
        socket: journald::is_there(),
        is_output,
        burst,
        interval_s,
    }
}

fn limits(text: &str, burst: &mut u64, interval_s: &mut u64) {
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = value.trim();
        match key.trim() {
            "RateLimitBurst" => *burst = value.parse().unwrap_or(*burst),
            "RateLimitIntervalSec" => *interval_s = seconds(value).unwrap_or(*interval_s),
            _ => {}
        }
    }
}

/// `30s`, `1min` or `30`; other units are left as they were.
fn seconds(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "" | "s" | "sec" => Some(number),
        "min" | "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    }
}

/// Whether each directory can be read.
#[must_use]
pub fn directories(paths: &[PathBuf]) -> Vec<Directory> {
    let look = |path: &PathBuf| Directory {
        path: path.clone(),
        error: unreadable(path),
    };
    paths.iter().map(look).collect()
}

fn unreadable(path: &Path) -> Option<String> {
    let looked = if path.is_file() {
        fs::File::open(path).map(drop)
    } else {
        fs::read_dir(path).map(drop)
    };
    match looked {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Some(crate::document::os_text(&error))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_settings_are_read_as_it_reads_them() {
        let (mut burst, mut interval) = (10_000, 30);
        limits(
            "[Journal]\n#RateLimitBurst=1\nRateLimitIntervalSec=2min\n RateLimitBurst = 500\n",
            &mut burst,
            &mut interval,
        );
        assert_eq!((burst, interval), (500, 120));
        limits(
            "RateLimitIntervalSec=5 fortnights\nRateLimitBurst=x",
            &mut burst,
            &mut interval,
        );
        assert_eq!((burst, interval), (500, 120));
    }

    #[test]
    fn a_directory_that_is_not_there_is_in_order() {
        let there = tempfile::tempdir().unwrap();
        let paths = [there.path().to_owned(), there.path().join("absent")];
        assert!(directories(&paths).iter().all(|d| d.error.is_none()));
    }
}
