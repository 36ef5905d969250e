//! Outputs that are away for a minute: a journal and a collector, which are owed what they miss.
//!
//! In: a container with the package installed. Out: whether the daemon lives through it, and file, journal and collector have every
//! alert by its number. Must never count by the clock alone: acts are counted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;

const AWAY: Duration = Duration::from_secs(60);
/// Longest that the collector waits for what is sent to it.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

const RULE: &str = r#"[rule]
rule_id = "00000000-0000-4000-8000-000000000060"
name = "One Alert for Each Act"
type = "eql"
query = 'process where event.action == "exec" and process.name == "act"'
"#;
const MESSAGE_ID: &str = "00000000000040008000000000000060";

/// The unit's outputs and one more.
const DROP_IN: &str = "[Service]\n\
    ExecStart=\n\
    ExecStart=/usr/sbin/eql-sensor run --output file:/var/log/eql-sensor/alerts.jsonl --output journald \
    --output syslog:/exchange/collector\n";

/// Acts until told to end.
const ACTS: &str = "cd /root/outage\n\
    until [ -e end ]; do ./act; sleep 0.2; done\n\
    touch done";

const JOURNAL: &str = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket \
                       systemd-journald.service";

/// A minute without journal and collector, with acts all the time.
pub(super) fn is_outlived(container: &Container) -> Result<()> {
    let exchange = container.exchange();
    fs::write(exchange.join("outage.toml"), RULE)?;
    fs::write(exchange.join("outage.conf"), DROP_IN)?;
    fs::write(exchange.join("acts.sh"), ACTS)?;
    let collector = listen(exchange)?;
    container.run(
        "install -D -m 644 /exchange/outage.conf /etc/systemd/system/eql-sensor.service.d/outage.conf\n\
         mkdir -p /root/outage\n\
         install -D -m 644 -t /etc/eql-sensor/rules.d /exchange/outage.toml\n\
         ln -s /bin/true /root/outage/act\n\
         systemctl daemon-reload\n\
         systemctl restart eql-sensor\n\
         systemd-run --quiet --collect --unit=acts sh /exchange/acts.sh",
    )?;
    let first =
        received(&collector).context("nothing reached the collector before it went away")?;
    let pid = "systemctl show --value -p MainPID eql-sensor";
    let before = container.run(pid)?;

    let mut to_collector = BTreeSet::from([first]);
    collector.set_nonblocking(true)?;
    while let Ok(number) = received(&collector) {
        to_collector.insert(number);
    }
    drop(collector);
    fs::remove_file(exchange.join("collector"))?;
    container.run(&format!("systemctl stop {JOURNAL}"))?;
    std::thread::sleep(AWAY);
    let away = container.run("systemctl is-active systemd-journald || true")?;
    ensure!(away.trim() != "active", "the journal came back by itself");
    let status: Value = serde_json::from_str(&container.run("eql-sensor status --json")?)?;
    println!("    after {AWAY:?}: {}", status["outputs"]);
    let collector = listen(exchange)?;
    container.run(&format!("systemctl start {JOURNAL}"))?;

    let back = received(&collector).context("nothing reaches the collector after its return")?;
    to_collector.insert(back);
    container.run("sleep 1; touch /root/outage/end")?;
    container.wait_for("test -e /root/outage/done && echo done", "the last act")?;
    ensure!(
        container.run(pid)? == before,
        "the daemon did not live through it"
    );
    let acts = "grep -F 'One Alert for Each Act' /var/log/eql-sensor/alerts.jsonl";
    let in_file: BTreeSet<u64> = container
        .run(acts)?
        .lines()
        .filter_map(|line| {
            let alert: Value = serde_json::from_str(line).ok()?;
            alert["event"]["sequence"].as_u64()
        })
        .collect();
    let last = *in_file.last().context("the file has no alerts")?;
    let journal = format!(
        "journalctl --sync; journalctl --no-pager --quiet -o cat --output-fields=SENSOR_ALERT_SEQ MESSAGE_ID={MESSAGE_ID}"
    );
    let found = container.wait_for(
        &format!("{journal} | grep -x {last} > /dev/null; {journal}"),
        "the last alert in the journal",
    )?;
    let in_journal: BTreeSet<u64> = found.lines().filter_map(|line| line.parse().ok()).collect();
    let missing: Vec<&u64> = in_file.difference(&in_journal).take(20).collect();
    ensure!(
        missing.is_empty(),
        "the journal has {} of {} alerts and lacks {missing:?}; during the outage: {}",
        in_journal.len(),
        in_file.len(),
        status["outputs"]
    );
    while !to_collector.contains(&last) {
        to_collector.insert(received(&collector).context("the collector's alerts end early")?);
    }
    container.wait_for(
        "journalctl --no-pager -u eql-sensor | grep -F 'the journal takes no alerts, trying again'",
        "word of the outage, said when nobody listened",
    )?;
    let missing: Vec<&u64> = in_file.difference(&to_collector).take(20).collect();
    ensure!(
        missing.is_empty(),
        "the collector has {} of {} alerts and lacks {missing:?}",
        to_collector.len(),
        in_file.len()
    );
    println!(
        "    {} alerts: {} in the file, {} in the journal, {} at the collector",
        in_file.len(),
        in_file.len(),
        in_journal.len(),
        to_collector.len()
    );
    container.run(
        "rm /etc/systemd/system/eql-sensor.service.d/outage.conf /etc/eql-sensor/rules.d/outage.toml\n\
         systemctl daemon-reload\n\
         systemctl restart eql-sensor",
    )?;
    Ok(())
}

/// A socket as a collector's, which everybody may send to. By the folder's descriptor, since an address has few bytes.
fn listen(exchange: &Path) -> Result<UnixDatagram> {
    use std::os::fd::AsRawFd as _;
    let folder = fs::File::open(exchange)?;
    let socket = UnixDatagram::bind(format!("/proc/self/fd/{}/collector", folder.as_raw_fd()))?;
    socket.set_read_timeout(Some(WAIT_LIMIT))?;
    fs::set_permissions(
        exchange.join("collector"),
        fs::Permissions::from_mode(0o666),
    )?;
    Ok(socket)
}

/// The number of the next alert about an act.
fn received(collector: &UnixDatagram) -> Result<u64> {
    let mut message = vec![0; 1 << 16];
    loop {
        let length = collector.recv(&mut message)?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
        if !text.contains("One Alert for Each Act") {
            continue;
        }
        let number = text.split_once(" seq=\"").and_then(|(_, rest)| {
            let (number, _) = rest.split_once('"')?;
            number.parse().ok()
        });
        return number.with_context(|| format!("no number in {text}"));
    }
}
