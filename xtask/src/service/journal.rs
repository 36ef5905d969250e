//! Many alerts through a journal that is restarted and killed under them.
//!
//! In: a container with the package installed. Out: whether file and journal hold every alert, by number. Must never be content
//! with counts alone: each number is looked for.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::container::Container;

const ALERTS: u64 = 60_000;
/// Of the rule that fires for each event, and its message id.
const RULE: &str = r#"[rule]
rule_id = "00000000-0000-4000-8000-000000060000"
name = "One alert for each event"
type = "eql"
severity = "low"
query = 'process where process.name == "many"'
"#;
const MESSAGE_ID: &str = "00000000000040008000000000060000";

/// What happens to the journal while alerts come.
const BLOWS: &[&str] = &[
    "systemctl restart systemd-journald",
    "systemctl kill --signal=KILL systemd-journald",
    "systemctl restart systemd-journald",
];

/// 60,000 alerts while the journal is restarted twice and killed once: all of them are in the file and in the journal.
pub(super) fn outlives_restarts(container: &Container) -> Result<()> {
    let exchange = container.exchange();
    fs::write(exchange.join("many.toml"), RULE)?;
    let mut events = String::new();
    for number in 0..ALERTS {
        let (minute, second, milli) = (number / 60_000, number / 1000 % 60, number % 1000);
        events.push_str(&format!(
            "{{\"@timestamp\":\"2026-01-01T00:{minute:02}:{second:02}.{milli:03}Z\",\"event\":{{\"category\":[\"process\"],\
             \"type\":[\"start\"],\"action\":\"exec\"}},\"process\":{{\"name\":\"many\",\"pid\":7,\"entity_id\":\"e\"}}}}\n"
        ));
    }
    fs::write(exchange.join("many.jsonl"), events)?;
    // A unit's own limits, as the service's are: the defaults would keep 10,000 in 30 seconds and drop the rest.
    let mut replay = container
        .command(
            "systemd-run --quiet --wait --pipe --collect --unit=many -p LogRateLimitIntervalSec=1s -p LogRateLimitBurst=1000000 \
             eql-sensor --log warn replay --rules /exchange/many.toml --output file:/var/tmp/many.jsonl --output journald \
             /exchange/many.jsonl",
        )?
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the replay")?;
    let mut at = 0;
    for blow in BLOWS {
        // At thirds of the way, by the alerts there are, not by the clock.
        at += ALERTS / 4;
        while replay.try_wait()?.is_none() && lines(container)? < at {
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(status) = replay.try_wait()? {
            bail!("the replay was over before the journal was disturbed: {status}");
        }
        container.run(blow)?;
    }
    let status = replay.wait()?;
    ensure!(status.success(), "the replay failed: {status}");
    let expected: BTreeSet<u64> = (1..=ALERTS).collect();
    let file = container.run("cat /var/tmp/many.jsonl; rm /var/tmp/many.jsonl")?;
    let mut in_file = BTreeSet::new();
    for line in file.lines() {
        let alert: Value = serde_json::from_str(line)?;
        in_file.insert(
            alert["event"]["sequence"]
                .as_u64()
                .context("an alert has a number")?,
        );
    }
    ensure!(
        in_file == expected && file.lines().count() as u64 == ALERTS,
        "the file lacks alerts: {}",
        in_file.len()
    );
    let found = container.wait_for(
        &format!(
            "journalctl --sync; journalctl --no-pager --quiet -o cat --output-fields=SENSOR_ALERT_SEQ MESSAGE_ID={MESSAGE_ID} \
             > /exchange/numbers; test $(wc -l < /exchange/numbers) -ge {ALERTS} && cat /exchange/numbers"
        ),
        "all alerts in the journal",
    )?;
    let in_journal: BTreeSet<u64> = found.lines().filter_map(|line| line.parse().ok()).collect();
    // A killed journal may have written what it is sent again; such entries say so.
    let twice = found.lines().count() as u64 - in_journal.len() as u64;
    let missing: Vec<&u64> = expected.difference(&in_journal).take(20).collect();
    if !missing.is_empty() {
        let resent = container.run(&format!(
            "journalctl --no-pager --quiet -o cat --output-fields=SENSOR_ALERT_SEQ MESSAGE_ID={MESSAGE_ID} SENSOR_RESENT=1 | tr '\\n' ' '"
        ))?;
        let said = container
            .run("journalctl --no-pager -o short-precise -u systemd-journald | tail -n 60")?;
        bail!(
            "the journal has {} of {ALERTS} alerts; it lacks {missing:?}; sent again: {resent}\n{said}",
            in_journal.len()
        );
    }
    println!("   {ALERTS} in the file, {ALERTS} in the journal, {twice} of them twice");
    Ok(())
}

fn lines(container: &Container) -> Result<u64> {
    let text = container.run("wc -l < /var/tmp/many.jsonl 2> /dev/null || echo 0")?;
    text.trim()
        .parse()
        .with_context(|| format!("no number: {text:?}"))
}
