//! The installed service under a real systemd and journal: a container booted on a fresh Debian 12.
//!
//! In: a built daemon. Out: the results of what an administrator does with its package, step by step. Its sensor is scoped to
//! the container's cgroup. Must never leave a trace in the root it boots: what is written is in memory and ends with the container.

mod container;
mod debian;
mod journal;
mod kills;
mod outage;
mod refusals;
mod response;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::container::Container;
use crate::results::Tally;
use crate::{apt, artifacts, dist, live, setup, shell};

/// Rule that the chain of acts is about, and the message id its alerts have.
const RULE_ID: &str = "64cfca9e-0f6f-4048-8251-9ec56a055e9e";
const MESSAGE_ID: &str = "64cfca9e0f6f404882519ec56a055e9e";

/// What plays the attacker's tool: connects to a port on loopback where nobody listens.
const PROGRAM: &str = r#"#include <arpa/inet.h>
#include <sys/socket.h>

int main(void)
{
    struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(4444) };
    inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    connect(fd, (struct sockaddr *)&peer, sizeof peer);
    return 0;
}
"#;

/// A rule that an administrator adds.
const OWN_RULE: &str = r#"[rule]
rule_id = "own-1"
name = "Taken Up"
type = "eql"
query = 'process where event.action == "exec" and process.name == "nobody"'
"#;

/// What a package may leave: anything of its name, and anything at all where nobody else writes meanwhile. The system's own tools write
/// logs, caches and their states, copies of the user database before a change, and its lock.
const FIND: &str = "{ find /etc /usr /var /run /opt -xdev -iname '*eql-sensor*' \
                    -not -path '/var/log/journal/*' -not -path '/var/cache/man/*' -not -path '/run/systemd/*'\n\
                    find /etc /usr /opt /var /srv /home -xdev \\( \
                    -path /var/cache -o -path /var/log/journal -o -path /var/log/apt -o -path '/var/log/dpkg.log*' \
                    -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/tmp \
                    -o -path '/etc/*-' -o -path /etc/.pwd.lock \\) -prune -o -print; } | sort -u";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only steps whose name contains one of these; the package is installed in any case
    filters: Vec<String>,
    /// On an overlay of this very system instead of a fresh Debian 12, for a machine that is set to no Debian mirror
    #[arg(long)]
    here: bool,
}

/// One step: what it shows, and how.
type Step = (&'static str, fn(&Container) -> Result<()>);

/// In this order, each on what the ones before left.
const STEPS: &[Step] = &[
    (
        "the service runs as its own user with four capabilities",
        runs_unprivileged,
    ),
    (
        "a chain of acts is told in journal and file",
        tells_the_chain,
    ),
    ("the journal explains alerts and lifecycle", explains),
    ("a reload takes up rules, or is refused aloud", reloads),
    ("a sequence goes on over a kill and over a restart", goes_on),
    ("pairs are told through twenty kills", kills::outlives_kills),
    (
        "pairs are told through upgrades to other builds",
        kills::outlives_upgrades,
    ),
    ("bad reloads change nothing", refusals::change_nothing),
    (
        "a process is killed by leave of settings and drop-in",
        response::kills,
    ),
    (
        "the network is opened by a drop-in",
        response::reaches_the_network,
    ),
    ("manual pages and completions are there", manuals),
    (
        "60,000 alerts outlive restarts of the journal",
        journal::outlives_restarts,
    ),
    ("outputs are away for a minute", outage::is_outlived),
    ("an upgrade keeps settings and asks nothing", upgrades),
    ("a purge leaves nothing behind", purges),
];

/// `cargo xtask service`.
pub(crate) fn command(root: &Path, options: &Options) -> Result<ExitCode> {
    let obstacle = if options.here { lacking() } else { obstacle() };
    if let Some(obstacle) = obstacle {
        bail!("{obstacle}");
    }
    let system = if options.here {
        PathBuf::from("/")
    } else {
        debian::root(root)?
    };
    setup::kernel_toolchain(root)?;
    let sensor = artifacts::sensor(root)?;
    let filters: Vec<&str> = options.filters.iter().map(String::as_str).collect();
    let tally = run_in(root, &system, &sensor, &filters)?;
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Why a service can not be tested on this machine, if it can not.
pub(crate) fn obstacle() -> Option<String> {
    lacking().or_else(debian::obstacle)
}

/// What a container on any root takes and this machine has not.
fn lacking() -> Option<String> {
    live::obstacle().or_else(|| {
        let tools = apt::ensure(&[
            apt::Package::new(
                "systemd-container",
                "boots the container that the service is tested in",
            ),
            apt::Package::new("mmdebstrap", "makes the fresh Debian 12 it boots"),
        ]);
        tools.err().map(|error| format!("{error:#}"))
    })
}

/// Installs the package of a built daemon in a fresh Debian 12 and goes through all steps.
pub(crate) fn run(root: &Path, sensor: &Path) -> Result<Tally> {
    run_in(root, &debian::root(root)?, sensor, &[])
}

/// Installs the package of a built daemon in a new container on a root and goes through the steps.
fn run_in(root: &Path, system: &Path, sensor: &Path, filters: &[&str]) -> Result<Tally> {
    let packages = dist::packages(root, sensor, dist::Pressed::Quickly)?;
    let container = Container::boot(root, system)?;
    fs::copy(&packages.deb, container.exchange().join("eql-sensor.deb"))?;
    fs::write(container.exchange().join("rev.c"), PROGRAM)?;
    install(&container).with_context(|| format!("cannot install {}", packages.deb.display()))?;
    let mut tally = Tally::default();
    for (name, step) in STEPS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter)) {
            continue;
        }
        match step(&container) {
            Ok(()) => {
                println!("{name} ... ok");
                tally += Tally::PASSED;
            }
            Err(error) => {
                println!("{name} ... FAILED\n{error:#}");
                tally += Tally::FAILED;
            }
        }
    }
    if tally.failed > 0 {
        let log = container.run("journalctl --no-pager -n 80 -u eql-sensor || true")?;
        println!("the service's last words:\n{log}");
    }
    Ok(tally)
}

/// Installs the package where nothing of it was, with settings that keep the sensor inside the container. The self-check would
/// refuse to run there: in a pid namespace processes have other numbers than the kernel reports.
fn install(container: &Container) -> Result<()> {
    let before = container.run(FIND)?;
    fs::write(container.exchange().join("before"), before)?;
    container.run(
        "scope=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)\n\
         mkdir -p /etc/eql-sensor\n\
         printf '[kernel]\\nself_check = false\\nscope = [\"%s\"]\\n' \"$scope\" > /etc/eql-sensor/eql-sensor.toml\n\
         apt-get install --yes --quiet --no-install-recommends /exchange/eql-sensor.deb",
    )?;
    let state =
        container.run("systemctl is-active eql-sensor || systemctl status eql-sensor || true")?;
    ensure!(
        state.trim() == "active",
        "the service does not run:\n{state}"
    );
    Ok(())
}

fn runs_unprivileged(container: &Container) -> Result<()> {
    let status =
        container.run("cat /proc/$(systemctl show --value -p MainPID eql-sensor)/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    let uid = container.run("id -u eql-sensor")?;
    let uids = field("Uid:");
    ensure!(
        uids.split_whitespace().all(|found| found == uid.trim()),
        "uids {uids}, not {uid}"
    );
    ensure!(uid.trim() != "0", "the service's user is root");
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF.
    let four = format!("{:016x}", (1_u64 << 2) | (1 << 19) | (1 << 38) | (1 << 39));
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        ensure!(field(set) == four, "{set} {}, not {four}", field(set));
    }
    ensure!(field("NoNewPrivs:") == "1", "it may gain privileges");
    let enabled = container.run("systemctl is-enabled eql-sensor")?;
    ensure!(enabled.trim() == "enabled", "the service is {enabled}");
    container.run("systemd-analyze verify eql-sensor.service")?;
    Ok(())
}

fn tells_the_chain(container: &Container) -> Result<()> {
    // In a unit of its own: what is started from outside is not in the container's cgroup.
    container.run(
        "mkdir -p /root/chain && cp /exchange/rev.c /root/chain/\n\
         systemd-run --quiet --wait --collect --working-directory=/root/chain sh -c 'gcc rev.c -o rev && ./rev'",
    )?;
    let sentence = "Network Connection via Recently Compiled Executable: gcc (pid ";
    container.wait_for(
        &format!("journalctl --no-pager -u eql-sensor -o cat | grep -F '{sentence}'"),
        "the alert's sentence in the journal",
    )?;
    let found = container.run(&format!(
        "journalctl --no-pager --all -o json MESSAGE_ID={MESSAGE_ID} _SYSTEMD_UNIT=eql-sensor.service"
    ))?;
    let entry: Value = serde_json::from_str(found.lines().next().unwrap_or_default())
        .with_context(|| format!("not one entry: {found:?}"))?;
    for (field, expected) in [
        ("SENSOR_RULE_ID", RULE_ID),
        ("SENSOR_SEVERITY", "medium"),
        ("SENSOR_RISK_SCORE", "47"),
        ("SENSOR_LOST", "0"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "eql-sensor"),
        ("PROCESS_EXECUTABLE", "/root/chain/rev"),
        ("USER_NAME", "root"),
    ] {
        ensure!(
            entry[field] == expected,
            "{field} is {}, not {expected}",
            entry[field]
        );
    }
    let file = container.wait_for(
        "grep 64cfca9e-0f6f-4048-8251-9ec56a055e9e /var/log/eql-sensor/alerts.jsonl",
        "the alert in the file",
    )?;
    let alert: Value = serde_json::from_str(file.lines().next().unwrap_or_default())?;
    ensure!(
        alert["message"] == entry["MESSAGE"],
        "file and journal tell different things"
    );
    let sequence = alert["event"]["sequence"].to_string();
    ensure!(
        entry["SENSOR_ALERT_SEQ"] == sequence,
        "file and journal number differently"
    );
    let whole: Value = serde_json::from_str(entry["SENSOR_ECS"].as_str().unwrap_or_default())?;
    ensure!(whole == alert, "the journal's document is not the file's");
    Ok(())
}

fn explains(container: &Container) -> Result<()> {
    let alert = container.run(&format!("journalctl --no-pager -x MESSAGE_ID={MESSAGE_ID}"))?;
    for words in [
        "Subject: Network Connection via Recently Compiled Executable",
        "Triage:",
        "When it is harmless:",
    ] {
        ensure!(alert.contains(words), "no `{words}` in:\n{alert}");
    }
    let ready = container.run("journalctl --no-pager -x -u eql-sensor")?;
    let subject = "Subject: The endpoint sensor is ready";
    ensure!(ready.contains(subject), "no `{subject}` in:\n{ready}");
    Ok(())
}

fn reloads(container: &Container) -> Result<()> {
    fs::write(container.exchange().join("own.toml"), OWN_RULE)?;
    container.run(
        "mkdir -p /etc/eql-sensor/rules.d\n\
         cp /exchange/own.toml /etc/eql-sensor/rules.d/\n\
         before=$(systemctl show --value -p MainPID eql-sensor)\n\
         systemctl reload eql-sensor\n\
         test \"$before\" = \"$(systemctl show --value -p MainPID eql-sensor)\"",
    )?;
    let listed = container.run("eql-sensor rules list")?;
    ensure!(listed.contains("Taken Up"), "rules are:\n{listed}");
    let refused = container.run(
        "printf 'query = 1\\n' >> /etc/eql-sensor/eql-sensor.toml\n\
         if systemctl reload eql-sensor; then echo taken; fi\n\
         sed -i '$d' /etc/eql-sensor/eql-sensor.toml\n\
         journalctl --no-pager -n 20 -u eql-sensor",
    )?;
    ensure!(
        refused.contains("/etc/eql-sensor/eql-sensor.toml:4:1"),
        "the place is not told:\n{refused}"
    );
    ensure!(!refused.contains("taken\n"), "broken settings were taken");
    container.run(
        "rm /etc/eql-sensor/rules.d/own.toml\n\
         systemctl reload eql-sensor\n\
         eql-sensor status",
    )?;
    Ok(())
}

/// The first half of the chain before the daemon ends, the second while it is away or has just come back.
fn goes_on(container: &Container) -> Result<()> {
    let unit = "systemd-run --quiet --wait --collect --working-directory=/root/chain";
    for (name, end) in [
        ("killed", "systemctl kill --signal=KILL eql-sensor"),
        ("restarted", "systemctl restart eql-sensor"),
    ] {
        let pid = "systemctl show --value -p MainPID eql-sensor";
        let before = container.run(&format!(
            "{pid}\n{unit} gcc rev.c -o {name}\n{end}\n{unit} /root/chain/{name}"
        ))?;
        let alerts = format!(
            "journalctl --no-pager --all -o json MESSAGE_ID={MESSAGE_ID} PROCESS_EXECUTABLE=/root/chain/{name}"
        );
        let found = container.wait_for(
            &format!("{alerts} | grep ."),
            &format!("the alert of the chain in which the daemon is {name}"),
        )?;
        let entry: Value = serde_json::from_str(found.lines().next().unwrap_or_default())?;
        ensure!(entry["SENSOR_LOST"] == "0", "{name}: lost some: {entry}");
        ensure!(
            container.run(pid)? != before,
            "{name}: the daemon is the same"
        );
        // Whatever it still had to take up, it has taken when it answers.
        container.wait_for("eql-sensor status", "the daemon's answer")?;
        let found = container.run(&alerts)?;
        ensure!(found.lines().count() == 1, "{name}: told twice: {found}");
    }
    let absent = container.run(
        "journalctl --no-pager -u eql-sensor | grep -F 'sensor.gap: nothing was recorded' || true",
    )?;
    ensure!(absent.is_empty(), "nobody watched: {absent}");
    Ok(())
}

fn manuals(container: &Container) -> Result<()> {
    // Of the whole text: a page that is cut or that man can not read says so on standard error.
    let page =
        container.run("man --warnings eql-sensor 2>&1 | col -b; man eql-sensor-run | col -b")?;
    ensure!(
        page.contains("watches the kernel, matches EQL rules"),
        "the manual says:\n{page}"
    );
    ensure!(!page.contains("warning"), "man complains:\n{page}");
    container.run("bash -c 'source /usr/share/bash-completion/completions/eql-sensor && complete -p eql-sensor'")?;
    container.run(
        "grep -q '^#compdef eql-sensor' /usr/share/zsh/vendor-completions/_eql-sensor\n\
         grep -q 'complete -c eql-sensor' /usr/share/fish/vendor_completions.d/eql-sensor.fish",
    )?;
    Ok(())
}

fn upgrades(container: &Container) -> Result<()> {
    container.run("systemctl disable --quiet eql-sensor")?;
    let said = container.run(
        "before=$(systemctl show --value -p MainPID eql-sensor)\n\
         dpkg --install /exchange/eql-sensor.deb < /dev/null\n\
         after=$(systemctl show --value -p MainPID eql-sensor)\n\
         test \"$before\" != \"$after\" && test \"$after\" != 0 && grep -q scope /etc/eql-sensor/eql-sensor.toml\n\
         systemctl is-enabled eql-sensor || true",
    )?;
    ensure!(
        said.ends_with("disabled\n"),
        "an upgrade enables what was disabled:\n{said}"
    );
    Ok(())
}

fn purges(container: &Container) -> Result<()> {
    container.run("dpkg --remove eql-sensor")?;
    let stopped = container.run("systemctl is-active eql-sensor || true")?;
    ensure!(stopped.trim() != "active", "removed, and still running");
    container
        .run("test -s /var/log/eql-sensor/alerts.jsonl && test -e /etc/eql-sensor/eql-sensor.toml")
        .context("a removal alone keeps alerts and settings")?;
    container.run("dpkg --purge eql-sensor")?;
    let after = container.run(FIND)?;
    let before = fs::read_to_string(container.exchange().join("before"))?;
    let left: Vec<&str> = after
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .collect();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    let known =
        container.run("getent passwd eql-sensor || true; getent group eql-sensor || true")?;
    ensure!(known.is_empty(), "left behind: {known}");
    let unit = container.run("systemctl show --value -p LoadState eql-sensor")?;
    ensure!(unit.trim() == "not-found", "the unit is {unit}");
    let explained = container.run(&format!(
        "journalctl --list-catalog {MESSAGE_ID} 2>&1 || true"
    ))?;
    ensure!(
        !explained.contains("Recently Compiled"),
        "the catalog still has:\n{explained}"
    );
    Ok(())
}

/// A program of this system, by its full path.
fn program(name: &str) -> Result<std::path::PathBuf> {
    shell::find(name).with_context(|| format!("no `{name}`"))
}
