//! A daemon that is killed again and again while sequences are under way.
//!
//! In: a container with the package installed. Out: whether each pair of programs was told, once, by file and journal. The kills come
//! at random moments, while the daemon starts as well as while it runs. Must never expect a pair that was not made.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;

const KILLS: u32 = 20;
/// Longest time from a new daemon to its end, in milliseconds: a start takes about a second.
const LIFE_MS: u64 = 3000;

const RULE: &str = r#"[rule]
rule_id = "00000000-0000-4000-8000-000000000020"
name = "First Then Second"
type = "eql"
severity = "low"
query = '''
sequence by process.args with maxspan=1h
  [process where event.action == "exec" and process.name == "first"]
  [process where event.action == "exec" and process.name == "second"]
'''
"#;
const MESSAGE_ID: &str = "00000000000040008000000000000020";

/// Runs `first N`, and `second N` ten turns later, until told to end; then the rest.
const LOAD: &str = r#"cd /root/pairs
i=0
while [ ! -e end ]; do
    i=$((i + 1))
    ./first $i
    [ $i -le 10 ] || ./second $((i - 10))
    echo $i > count
    sleep 0.02
done
for rest in $(seq $((i - 9)) $i); do ./second $rest; done
touch done
"#;

/// Twenty times SIGKILL while pairs are made: each pair is told once, nothing is lost.
pub(super) fn outlives_kills(container: &Container) -> Result<()> {
    fs::write(container.exchange().join("pairs.toml"), RULE)?;
    fs::write(container.exchange().join("pairs.sh"), LOAD)?;
    container.run(
        "cp /exchange/pairs.toml /etc/eql-sensor/rules.d/\n\
         systemctl reload eql-sensor\n\
         mkdir /root/pairs\n\
         ln -s /bin/true /root/pairs/first\n\
         ln -s /bin/true /root/pairs/second\n\
         systemd-run --quiet --collect --unit=pairs sh /exchange/pairs.sh",
    )?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = u64::from(since_epoch.subsec_nanos());
    println!("    seed {seed}");
    let mut random = seed;
    let pid = "systemctl show --value -p MainPID eql-sensor";
    for _ in 0..KILLS {
        container.wait_for(&format!("{pid} | grep -v '^0$'"), "a new daemon")?;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((random >> 33) % LIFE_MS));
        // An administrator's limit on starts is not what is tested.
        container
            .run("systemctl kill --signal=KILL eql-sensor; systemctl reset-failed eql-sensor")?;
    }
    container.run("touch /root/pairs/end")?;
    container.wait_for("test -e /root/pairs/done && echo done", "the last pair")?;
    let made: u64 = container.run("cat /root/pairs/count")?.trim().parse()?;
    // Whatever it still had to take up, it has taken when it answers.
    container.wait_for("eql-sensor status", "the daemon's answer")?;
    let file = "grep -F 'First Then Second' /var/log/eql-sensor/alerts.jsonl";
    let journal = format!("journalctl --no-pager --all -o json MESSAGE_ID={MESSAGE_ID}");
    for alerts in [file, journal.as_str()] {
        container.wait_for(
            &format!("test $({alerts} | wc -l) -ge {made} && echo all"),
            &format!("{made} alerts of `{alerts}`"),
        )?;
    }
    let in_file: Vec<Value> = documents(&container.run(file)?)?;
    let mut in_journal = Vec::new();
    for entry in documents(&container.run(&journal)?)? {
        ensure!(entry["SENSOR_LOST"] == "0", "something was lost: {entry}");
        let alert = entry["SENSOR_ECS"].as_str().context("the alert itself")?;
        in_journal.push(serde_json::from_str(alert)?);
    }
    for (place, alerts) in [("file", in_file), ("journal", in_journal)] {
        let mut told: BTreeMap<u64, u32> = BTreeMap::new();
        for alert in &alerts {
            let pair = alert["events"][0]["process"]["args"][1].as_str();
            *told
                .entry(
                    pair.and_then(|n| n.parse().ok())
                        .with_context(|| format!("no pair: {alert}"))?,
                )
                .or_default() += 1;
        }
        let missing: Vec<u64> = (1..=made).filter(|pair| !told.contains_key(pair)).collect();
        ensure!(
            missing.is_empty(),
            "{place}: not told: {missing:?} of {made}"
        );
        told.retain(|_, times| *times > 1);
        ensure!(told.is_empty(), "{place}: told several times: {told:?}");
    }
    println!("    {KILLS} kills, {made} pairs, each told once");
    container.run("rm /etc/eql-sensor/rules.d/pairs.toml && systemctl reload eql-sensor")?;
    let absent = container.run(
        "journalctl --no-pager -u eql-sensor | grep -F 'sensor.gap: nothing was recorded' || true",
    )?;
    ensure!(absent.is_empty(), "nobody watched: {absent}");
    Ok(())
}

fn documents(lines: &str) -> Result<Vec<Value>> {
    let read = lines.lines().map(serde_json::from_str);
    read.collect::<Result<_, _>>().context("no JSON")
}
