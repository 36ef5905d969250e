//! A container with a systemd of its own, on an overlay of a root that is kept in memory.
//!
//! In: a root. Out: shell commands run inside, and a folder both sides see. Must never outlive its value: the namespace
//! that holds its mounts ends with its last process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::program;
use crate::scope::Scope;
use crate::shell;

const BOOT_LIMIT: Duration = Duration::from_secs(90);
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Mounts the overlay in a namespace of its own, makes the root another machine's, which if it is this one's starts nothing of its
/// services, and boots it.
const BOOT: &str = r#"
set -e
top=$1
exchange=$2
lower=$3
mount -t tmpfs -o size=6g tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay -o "lowerdir=$lower,upperdir=$top/upper,workdir=$top/work" overlay "$top/root"
root=$top/root
[ "$lower" != / ] || rm -rf "$root"/etc/systemd/system/*.wants "$root/var/log/journal"
rm -f "$root/var/lib/dbus/machine-id" "$root/usr/sbin/policy-rc.d"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nSystemMaxUse=3G\nSystemKeepFree=1M\nSystemMaxFileSize=256M\n' > "$root/etc/systemd/journald.conf.d/test.conf"
exec systemd-nspawn --quiet --directory="$root" --machine="eql-sensor-$$" --boot --register=no --keep-unit --private-network \
    --console=pipe --capability=all --system-call-filter='bpf perf_event_open' --bind="$exchange:/exchange"
"#;

/// A booted container; ends with its value.
pub(super) struct Container {
    child: Child,
    leader: String,
    exchange: PathBuf,
    /// Its processes are in here, and a sensor inside sees no others. Last, so that it goes when they are gone.
    _scope: Scope,
}

impl Container {
    /// Boots a root that stays as it is, and waits until services can be started.
    pub(super) fn boot(workspace: &Path, root: &Path) -> Result<Self> {
        let folder = workspace.join("target/service");
        let top = folder.join("overlay");
        let exchange = folder.join("exchange");
        if exchange.exists() {
            fs::remove_dir_all(&exchange)?;
        }
        for folder in [&top, &exchange] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let log = fs::File::create(folder.join("console.log"))?;
        let scope = Scope::new("service")?;
        let unshare = program("unshare")?;
        let mut command = scope.command(&[
            &unshare.to_string_lossy(),
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            BOOT,
            "boot",
            &top.to_string_lossy(),
            &exchange.to_string_lossy(),
            &root.to_string_lossy(),
        ]);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a container")?;
        let mut container = Self {
            child,
            leader: String::new(),
            exchange,
            _scope: scope,
        };
        container.wait_until_booted().with_context(|| {
            let console = fs::read_to_string(folder.join("console.log")).unwrap_or_default();
            format!("the container did not boot; its console says:\n{console}")
        })?;
        Ok(container)
    }

    fn wait_until_booted(&mut self) -> Result<()> {
        let pid = self.child.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let is_nspawn = || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "systemd-nspawn"
        };
        let until = Instant::now() + BOOT_LIMIT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            let found = fs::read_to_string(&children).unwrap_or_default();
            if let Some(leader) = found.split_whitespace().next()
                && is_nspawn()
            {
                self.leader = leader.to_owned();
                // Degraded is a system with a failed unit of its own, which is none of our business.
                let state = self.run("systemctl is-system-running 2> /dev/null || true");
                if state.is_ok_and(|state| matches!(state.trim(), "running" | "degraded")) {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("not within {BOOT_LIMIT:?}")
    }

    /// The folder both sides see, inside as `/exchange`.
    pub(super) fn exchange(&self) -> &Path {
        &self.exchange
    }

    /// A command that runs a shell script inside, which ends at its first failure.
    pub(super) fn command(&self, script: &str) -> Result<Command> {
        let mut command = Command::new(program("nsenter")?);
        command
            .args([
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--pid",
                "--cgroup",
                "--target",
                &self.leader,
            ])
            .args(["sh", "-euc", &format!("cd /\n{script}")])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }

    /// Runs a shell script inside and returns what it prints; an exit code other than zero is an error that carries it.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let output = shell::captured(&mut self.command(script)?)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!(
                "{}: {script}\n{}{}",
                output.status,
                text(&output.stdout),
                text(&output.stderr)
            );
        }
        Ok(text(&output.stdout))
    }

    /// Tries a script until it succeeds.
    pub(super) fn wait_for(&self, script: &str, what: &str) -> Result<String> {
        let until = Instant::now() + WAIT_LIMIT;
        loop {
            match self.run(script) {
                Ok(text) => return Ok(text),
                Err(error) if Instant::now() > until => {
                    return Err(error.context(format!("no {what} within {WAIT_LIMIT:?}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The container's first process goes with it, and all others with that one.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(leader) = self
            .leader
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(leader, rustix::process::Signal::KILL);
        }
    }
}
