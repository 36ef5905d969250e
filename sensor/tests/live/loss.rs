//! Loss is counted exactly.
//!
//! In: a ring of one page and a consumer that stands still. Out: the sensor's own account of what was seen, submitted and
//! lost. Must never accept an account that does not add up to what was done.

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, text};
use crate::scope::Scope;
use crate::tiers;

/// Files created while nobody empties the ring: far more records than one page holds.
const FILES: u64 = 500;

#[test]
fn what_does_not_fit_is_counted_exactly_and_reported() {
    for tier in tiers() {
        let scope = Scope::new("loss");
        let script = scope.write(
            "script",
            &format!("i=0; while [ $i -lt {FILES} ]; do : > file$i; i=$((i+1)); done"),
        );
        let daemon = Daemon::record_only(
            &scope,
            &tier,
            "exec,fork,end,creation",
            &["--ring-bytes", "4096"],
        );
        daemon.signal(Signal::STOP);
        scope.run(&["sh", script.to_str().unwrap()]);
        daemon.signal(Signal::CONT);
        let ended = daemon.stop();
        let counts = Counts::of(&ended.log);
        println!("{tier}: {FILES} files created, one exec, one end: {counts:?}");
        assert_eq!(
            counts.seen,
            FILES + 2,
            "{tier}: every act is seen: {counts:?}"
        );
        assert_eq!(
            counts.seen,
            counts.submitted + counts.lost,
            "{tier}: {counts:?}"
        );
        assert_eq!(counts.received, counts.submitted, "{tier}: {counts:?}");
        assert!(counts.lost > 0, "{tier}: {counts:?}");
        let known = ["exec", "creation", "end"];
        let written = ended
            .lines
            .iter()
            .filter(|event| known.contains(&text(event, "event.action")))
            .count();
        assert_eq!(written as u64, counts.received, "{tier}: events written");
        let gaps = ended.lines.iter().filter_map(|line| {
            let gap = &line["eql_sensor"]["gap"];
            let causes = gap["causes"].as_array()?;
            assert!(
                causes.iter().all(|cause| cause["cause"] == "ring_full"),
                "{gap}"
            );
            let by_cause: u64 = causes.iter().filter_map(|c| c["count"].as_u64()).sum();
            assert_eq!(gap["lost"].as_u64(), Some(by_cause), "{gap}");
            gap["lost"].as_u64()
        });
        assert_eq!(gaps.sum::<u64>(), counts.lost, "{tier}: gaps recorded");
        let warning = ended
            .log
            .lines()
            .find(|line| line.contains("WARN") && line.contains("lost"));
        println!("{tier}: {}", warning.unwrap_or_default());
        assert!(
            warning.is_some(),
            "{tier}: no warning of the loss in:\n{}",
            ended.log
        );
    }
}

/// The sensor's account at the end of `record`, over all record kinds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) submitted: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Runs of programs that the kernel left out, for whom or what nobody knows.
    pub(crate) skipped: u64,
}

impl Counts {
    /// Reads the account from what the daemon said on standard error.
    pub(crate) fn of(log: &str) -> Self {
        let account: Value = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .next_back()
            .unwrap_or_else(|| panic!("no account in:\n{log}"));
        let count = |name: &str| {
            account[name]
                .as_u64()
                .unwrap_or_else(|| panic!("no `{name}` in {account}"))
        };
        Self {
            seen: count("seen"),
            submitted: count("submitted"),
            received: count("received"),
            lost: count("lost"),
            skipped: count("recursion_misses"),
        }
    }
}
