//! Losses told apart by what and why, and gaps as documents of a recording.
//!
//! In: the kernel's counters and what came of the ring. Out: how much of what was lost for which cause; a [`GapReport`] for each
//! stretch of time in which something was; the line a recording has for it, and that line read back. It never forgets a loss:
//! what one report leaves out the next one has.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::Value;

use crate::kernel::Counters;
use crate::metrics::{Gap, Received};

/// How the line of a gap begins; no event's line does.
const PREFIX: &str = r#"{"eql_sensor":{"gap":"#;

/// Records lost since the start: by record kind, or by program where nobody knows the kind, and by cause. Records of the kinds that
/// come in masses count when they were left out for want of room (`headroom`) or since their process made too many
/// (`throttled`): what happened is missing all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<(&'static str, &'static str), u64>);

impl Losses {
    #[must_use]
    pub fn of(counters: &Counters, received: &Received) -> Losses {
        let of_kinds = counters.kinds.iter().flat_map(|(kind, count)| {
            [
                ((kind.name(), "ring_full"), count.lost_ring_full),
                ((kind.name(), "headroom"), count.dropped_headroom),
                ((kind.name(), "throttled"), count.dropped_throttled),
            ]
        });
        let skipped = counters
            .skipped
            .iter()
            .map(|(program, count)| ((*program, "skipped"), *count));
        let unread = [
            (("record", "undecodable"), received.undecodable),
            (("record", "unknown_kind"), received.unknown_kinds),
        ];
        let all = of_kinds.chain(skipped).chain(unread);
        Losses(all.filter(|(_, count)| *count > 0).collect())
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What was lost since an earlier account.
    #[must_use]
    pub fn since(&self, earlier: &Losses) -> Losses {
        let left = self.0.iter().map(|(of, count)| {
            let before = earlier.0.get(of).copied().unwrap_or_default();
            (*of, count.saturating_sub(before))
        });
        Losses(left.filter(|(_, count)| *count > 0).collect())
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((what, cause), count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{what} {count} ({})", cause.replace('_', " "))?;
        }
        Ok(())
    }
}

/// One stretch of time in which records were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapReport {
    /// On the boot clock.
    pub gap: Gap,
    /// Wall clock minus boot clock, nanoseconds.
    pub wall_offset_ns: i64,
    pub losses: Losses,
}

impl GapReport {
    /// Appends the gap as one JSON document without a line end. It has no category: no rule takes it for an event.
    pub fn write(&self, out: &mut Vec<u8>) {
        let wall = |boot_ns: u64| moment(boot_ns, self.wall_offset_ns);
        let (start, end) = (wall(self.gap.from_ns), wall(self.gap.to_ns));
        let mut causes = String::new();
        for ((what, cause), count) in &self.losses.0 {
            let comma = if causes.is_empty() { "" } else { "," };
            // A String takes any write; the names are this program's own.
            let _ = write!(
                causes,
                r#"{comma}{{"record":"{what}","cause":"{cause}","count":{count}}}"#
            );
        }
        let text = format!(
            r#"{PREFIX}{{"lost":{},"causes":[{causes}]}}}},"event":{{"kind":"pipeline_error","action":"gap","dataset":"sensor.gap","start":"{start}","end":"{end}"}},"@timestamp":"{end}"}}"#,
            self.gap.lost
        );
        out.extend_from_slice(text.as_bytes());
    }
}

/// A moment of the boot clock on the wall clock, by what the one lacks to be the other.
#[must_use]
pub fn moment(boot_ns: u64, wall_offset_ns: i64) -> jiff::Timestamp {
    let wall_ns = i128::from(boot_ns) + i128::from(wall_offset_ns);
    jiff::Timestamp::from_nanosecond(wall_ns).unwrap_or_default()
}

/// The gap a line of a recording tells of, on the wall clock; `None` for every other line.
#[must_use]
pub fn read(line: &[u8]) -> Option<Gap> {
    if !line.starts_with(PREFIX.as_bytes()) {
        return None;
    }
    let document: Value = serde_json::from_slice(line).ok()?;
    let time = |name: &str| {
        let text = document.pointer(name)?.as_str()?;
        let time: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(time.as_nanosecond()).ok()
    };
    Some(Gap {
        from_ns: time("/event/start")?,
        to_ns: time("/event/end")?,
        lost: document.pointer("/eql_sensor/gap/lost")?.as_u64()?,
    })
}

/// How long the ring may hold records without giving one away before that is told, in nanoseconds.
const STALL_NS: u64 = 1_000_000_000;

/// Whether records are in the ring and none comes out: one that is still being written holds up all behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stall {
    read: u64,
    since_ns: Option<u64>,
    told: bool,
}

impl Stall {
    /// Takes note of how many records were sent and read at a moment when the ring gave none. Returns once for each stall how
    /// many wait.
    pub fn observe(&mut self, now_ns: u64, sent: u64, read: u64) -> Option<u64> {
        if read != self.read || sent <= read {
            *self = Stall {
                read,
                since_ns: None,
                told: false,
            };
        }
        if sent <= read {
            return None;
        }
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        if self.told || now_ns.saturating_sub(since_ns) < STALL_NS {
            return None;
        }
        self.told = true;
        Some(sent - read)
    }
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::Kind;

    use super::*;
    use crate::kernel::KindCounters;

    fn counters(exec: u64, skipped: u64) -> Counters {
        let lost = KindCounters {
            lost_ring_full: exec,
            ..KindCounters::default()
        };
        let left_out = KindCounters {
            dropped_headroom: exec,
            dropped_throttled: 2 * exec,
            dropped_self: 9,
            ..KindCounters::default()
        };
        Counters {
            kinds: vec![(Kind::Exec, lost), (Kind::Modify, left_out)],
            recursion_misses: skipped,
            skipped: vec![("file_create", skipped), ("connect_v4", 0)],
        }
    }

    #[test]
    fn a_gap_reads_back_as_it_was_written() {
        let mut received = Received::default();
        received.undecodable = 2;
        let before = Losses::of(&counters(1, 0), &Received::default());
        let now = Losses::of(&counters(4, 5), &received);
        let losses = now.since(&before);
        assert_eq!((before.total(), now.total(), losses.total()), (4, 23, 19));
        assert_eq!(
            losses.to_string(),
            "exec 3 (ring full), file_create 5 (skipped), modification 3 (headroom), modification 6 (throttled), \
             record 2 (undecodable)"
        );
        let gap = Gap {
            from_ns: 1_000_000_001,
            to_ns: 2_500_000_000,
            lost: losses.total(),
        };
        let report = GapReport {
            gap,
            wall_offset_ns: 1_700_000_000_000_000_000,
            losses,
        };
        let mut line = Vec::new();
        report.write(&mut line);
        let document: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(document["@timestamp"], "2023-11-14T22:13:22.5Z");
        assert_eq!(
            document["eql_sensor"]["gap"]["causes"][1]["record"],
            "file_create"
        );
        assert_eq!(document["event"].get("category"), None);
        let shift = 1_700_000_000_000_000_000;
        let expected = Gap {
            from_ns: gap.from_ns + shift,
            to_ns: gap.to_ns + shift,
            lost: 19,
        };
        assert_eq!(read(&line), Some(expected));
    }

    #[test]
    fn no_other_line_is_a_gap() {
        for line in [
            &b""[..],
            br#"{"@timestamp":"2026-01-01T00:00:00Z","event":{"kind":"event"}}"#,
            br#"{"eql_sensor":{"gap":{"lost":1}}}"#,
            br#"{"eql_sensor":{"gap":"#,
        ] {
            assert_eq!(read(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_stall_is_told_once_and_only_when_nothing_moves() {
        const SECOND: u64 = 1_000_000_000;
        let mut stall = Stall::default();
        let steps = [
            // Now, sent, read, told.
            (0, 5, 5, None),
            (1, 9, 5, None),
            (2, 9, 5, Some(4)),
            (3, 12, 5, None),
            (4, 12, 6, None),
            (5, 12, 6, Some(6)),
            (6, 12, 12, None),
            (7, 13, 12, None),
            (8, 13, 13, None),
        ];
        for (now, sent, read, told) in steps {
            assert_eq!(stall.observe(now * SECOND, sent, read), told, "at {now} s");
        }
    }
}
