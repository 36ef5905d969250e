//! A daemon that is killed, or followed by another build, again and again while sequences are under way.
//!
//! In: a container with the package installed. Out: whether each pair of programs was told, once, by file and journal. The ends come
//! at random moments, a kill while the daemon starts as well as while it runs. Must never expect a pair that was not made.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;

const KILLS: u32 = 20;
const UPGRADES: u32 = 4;
/// Says the daemon's pid, 0 while there is none.
const PID: &str = "systemctl show --value -p MainPID eql-sensor";
/// Longest time from a new daemon to its end, in milliseconds: a start takes about a second.
const LIFE_MS: u64 = 3000;

/// A rule for pairs; each load has its own, so that its alerts can be told.
struct Pairs {
    name: &'static str,
    rule_id: &'static str,
}

const OF_KILLS: Pairs = Pairs {
    name: "First Then Second",
    rule_id: "00000000-0000-4000-8000-000000000020",
};
const OF_UPGRADES: Pairs = Pairs {
    name: "First Then Second Over Builds",
    rule_id: "00000000-0000-4000-8000-000000000021",
};

impl Pairs {
    fn rule(&self) -> String {
        let Pairs { name, rule_id } = self;
        format!(
            r#"[rule]
rule_id = "{rule_id}"
name = "{name}"
type = "eql"
severity = "low"
query = '''
sequence by process.args with maxspan=1h
  [process where event.action == "exec" and process.name == "first"]
  [process where event.action == "exec" and process.name == "second"]
'''
"#
        )
    }
}

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
    let mut random = begin_pairs(container, &OF_KILLS)?;
    for _ in 0..KILLS {
        container.wait_for(&format!("{PID} | grep -v '^0$'"), "a new daemon")?;
        random.pause();
        // An administrator's limit on starts is not what is tested.
        container
            .run("systemctl kill --signal=KILL eql-sensor; systemctl reset-failed eql-sensor")?;
    }
    end_pairs(container, &OF_KILLS, &format!("{KILLS} kills"))
}

/// The package is upgraded to another build, to one more and so on, while pairs are made: the same holds.
pub(super) fn outlives_upgrades(container: &Container) -> Result<()> {
    let exchange = container.exchange();
    container.run(
        "rm -rf /root/next && dpkg-deb --raw-extract /exchange/eql-sensor.deb /root/next\n\
         cp /root/next/usr/sbin/eql-sensor /exchange/build.0",
    )?;
    let other = another_object(fs::read(exchange.join("build.0"))?)?;
    fs::write(exchange.join("build.1"), other)?;
    let mut random = begin_pairs(container, &OF_UPGRADES)?;
    for upgrade in 1..=UPGRADES {
        let build = upgrade % 2;
        container.run(&format!(
            "cp /exchange/build.{build} /root/next/usr/sbin/eql-sensor\n\
             sed -i 's/^Version: .*/Version: 99.{upgrade}/' /root/next/DEBIAN/control\n\
             cd /root/next && find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | xargs -0 md5sum > DEBIAN/md5sums\n\
             dpkg-deb --build -Znone /root/next /root/next.deb"
        ))?;
        let before = container.run(PID)?;
        random.pause();
        container.run("apt-get install --yes --quiet /root/next.deb")?;
        let installed = container.run("dpkg-query --show --showformat='${Version}' eql-sensor")?;
        ensure!(installed == format!("99.{upgrade}"), "it is {installed}");
        ensure!(
            container.run(PID)? != before,
            "the daemon is still that of the earlier build"
        );
        container.wait_for("eql-sensor status", "the new daemon's answer")?;
        let words = "kernel programs of another build recorded until now";
        let told = container.run(&format!(
            "journalctl --no-pager -u eql-sensor -o cat | grep -c -F '{words}' || true"
        ))?;
        ensure!(
            told.trim() == upgrade.to_string(),
            "{upgrade} upgrades, and told {told} times that programs were followed"
        );
    }
    end_pairs(
        container,
        &OF_UPGRADES,
        &format!("{UPGRADES} upgrades to another build"),
    )?;
    container.run("rm -rf /root/next /root/next.deb /exchange/build.0 /exchange/build.1")?;
    Ok(())
}

/// A daemon whose kernel object is not the one it was built with, though it does the same: bytes of its head that mean nothing are
/// others.
fn another_object(mut daemon: Vec<u8>) -> Result<Vec<u8>> {
    // A little-endian ELF file of 64 bits, seven bytes that mean nothing, relocatable, for BPF.
    const HEAD: [u8; 20] = [
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 247, 0,
    ];
    const MEANINGLESS: usize = 9;
    let at = daemon
        .windows(HEAD.len())
        .position(|window| *window == HEAD);
    let byte = at.and_then(|at| daemon.get_mut(at + MEANINGLESS));
    *byte.context("no kernel object in the daemon")? = b'x';
    Ok(daemon)
}

/// Where a random moment comes from.
struct Random(u64);

impl Random {
    /// Waits for less than a daemon's longest life here.
    fn pause(&mut self) {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((self.0 >> 33) % LIFE_MS));
    }
}

fn begin_pairs(container: &Container, pairs: &Pairs) -> Result<Random> {
    fs::write(container.exchange().join("pairs.toml"), pairs.rule())?;
    fs::write(container.exchange().join("pairs.sh"), LOAD)?;
    container.run(
        "mkdir -p /etc/eql-sensor/rules.d && cp /exchange/pairs.toml /etc/eql-sensor/rules.d/\n\
         systemctl reload eql-sensor\n\
         rm -rf /root/pairs && mkdir /root/pairs\n\
         ln -s /bin/true /root/pairs/first\n\
         ln -s /bin/true /root/pairs/second\n\
         systemd-run --quiet --collect --unit=pairs sh /exchange/pairs.sh",
    )?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = u64::from(since_epoch.subsec_nanos());
    println!("    seed {seed}");
    Ok(Random(seed))
}

/// Ends the load, and compares what was told with what was made.
fn end_pairs(container: &Container, pairs: &Pairs, through: &str) -> Result<()> {
    container.run("touch /root/pairs/end")?;
    container.wait_for("test -e /root/pairs/done && echo done", "the last pair")?;
    let made: u64 = container.run("cat /root/pairs/count")?.trim().parse()?;
    // Whatever it still had to take up, it has taken when it answers.
    container.wait_for("eql-sensor status", "the daemon's answer")?;
    let Pairs { name, rule_id } = pairs;
    let file = format!("grep -F '\"{name}\"' /var/log/eql-sensor/alerts.jsonl");
    let message_id = rule_id.replace('-', "");
    let journal = format!("journalctl --no-pager --all -o json MESSAGE_ID={message_id}");
    for alerts in [&file, &journal] {
        container.wait_for(
            &format!("test $({alerts} | wc -l) -ge {made} && echo all"),
            &format!("{made} alerts of `{alerts}`"),
        )?;
    }
    let in_file: Vec<Value> = documents(&container.run(&file)?)?;
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
    println!("    {through}, {made} pairs, each told once");
    container.run(
        "rm -r /root/pairs /etc/eql-sensor/rules.d/pairs.toml && systemctl reload eql-sensor",
    )?;
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
