//! Counters: what was received, lost, dropped, and when.
//!
//! In: the kernel's counters once in a while, and a word from each stage. Out: numbers to report, and which stretches of time
//! have gaps. It never forgets a loss: old gaps are merged, not discarded.

use std::collections::VecDeque;

/// What came out of the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Records by the number of their kind.
    kinds: [u64; sensor_ebpf::Kind::SLOTS],
    /// Records this build could not read.
    pub undecodable: u64,
    /// Records of kinds this build does not know.
    pub unknown_kinds: u64,
    /// Parts of records this build does not know.
    pub unknown_parts: u64,
}

impl Received {
    pub fn record(&mut self, kind: u16, unknown_parts: u16) {
        if let Some(count) = self.kinds.get_mut(usize::from(kind)) {
            *count += 1;
        }
        self.unknown_parts += u64::from(unknown_parts);
    }

    /// Records of one kind.
    #[must_use]
    pub fn of(&self, kind: sensor_ebpf::Kind) -> u64 {
        self.kinds.get(kind as usize).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.kinds.iter().sum()
    }
}

/// A stretch of the boot clock in which records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from_ns: u64,
    pub to_ns: u64,
    pub lost: u64,
}

/// Stretches remembered one by one; older ones become one.
const GAPS_MAX: usize = 1024;

/// When records were lost, as far as counters read at moments can tell.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    gaps: VecDeque<Gap>,
    looked_ns: u64,
    total: u64,
    /// Lost since the last [`Gaps::unreported`].
    fresh: Option<Gap>,
}

impl Gaps {
    /// Counting begins at `now_ns`, from nothing lost.
    #[must_use]
    pub fn since_start(now_ns: u64) -> Gaps {
        Gaps {
            looked_ns: now_ns,
            ..Gaps::default()
        }
    }

    /// Counting goes on from what was lost up to a moment.
    pub fn going_on(at_ns: u64, total: u64) -> Gaps {
        Gaps {
            looked_ns: at_ns,
            total,
            ..Gaps::default()
        }
    }

    /// Takes note of the total lost so far, read at `now_ns`.
    pub fn observe(&mut self, now_ns: u64, total: u64) {
        let lost = total.saturating_sub(self.total);
        if lost > 0 {
            let gap = Gap {
                from_ns: self.looked_ns,
                to_ns: now_ns,
                lost,
            };
            self.fresh = Some(match self.fresh {
                Some(fresh) => fresh.with(gap),
                None => gap,
            });
            self.gaps.push_back(gap);
            self.merge_oldest();
        }
        self.total = self.total.max(total);
        self.looked_ns = now_ns;
    }

    /// Takes note of a time in which nobody recorded anything. Nobody knows what was lost in it: for what it touches it counts as
    /// one, for the total as none.
    pub fn away(&mut self, from_ns: u64, to_ns: u64) {
        self.gaps.push_back(Gap {
            from_ns,
            to_ns,
            lost: 1,
        });
    }

    /// Takes note of a gap somebody else observed.
    pub fn add(&mut self, gap: Gap) {
        self.total = self.total.saturating_add(gap.lost);
        self.gaps.push_back(gap);
        self.merge_oldest();
    }

    /// Records lost since a moment, or a few more: a gap that only touches it counts whole.
    #[must_use]
    pub fn since(&self, from_ns: u64) -> u64 {
        let touching = self
            .gaps
            .iter()
            .rev()
            .take_while(|gap| gap.to_ns >= from_ns);
        touching.map(|gap| gap.lost).sum()
    }

    /// What was lost since this was last asked.
    pub fn unreported(&mut self) -> Option<Gap> {
        self.fresh.take()
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    fn merge_oldest(&mut self) {
        if self.gaps.len() > GAPS_MAX
            && let Some(oldest) = self.gaps.pop_front()
            && let Some(next) = self.gaps.front_mut()
        {
            *next = oldest.with(*next);
        }
    }
}

impl Gap {
    fn with(self, later: Gap) -> Gap {
        Gap {
            from_ns: self.from_ns,
            to_ns: later.to_ns,
            lost: self.lost.saturating_add(later.lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_counts_for_what_it_touches() {
        let mut gaps = Gaps::since_start(100);
        for (now, total) in [(200, 5), (300, 5), (400, 7)] {
            gaps.observe(now, total);
        }
        for (from, lost) in [
            (0, 7),
            (150, 7),
            (200, 7),
            (201, 2),
            (350, 2),
            (400, 2),
            (401, 0),
        ] {
            assert_eq!(gaps.since(from), lost, "since {from}");
        }
        assert_eq!(
            gaps.unreported(),
            Some(Gap {
                from_ns: 100,
                to_ns: 400,
                lost: 7
            })
        );
        assert_eq!(gaps.unreported(), None);
        assert_eq!(gaps.total(), 7);
    }

    #[test]
    fn an_absence_touches_and_hides_no_loss() {
        let mut gaps = Gaps::since_start(500);
        gaps.away(100, 500);
        gaps.observe(600, 1);
        assert_eq!((gaps.since(50), gaps.since(501), gaps.total()), (2, 1, 1));
    }

    #[test]
    fn many_gaps_are_merged_not_forgotten() {
        let mut gaps = Gaps::default();
        for n in 1..=5000 {
            gaps.observe(n * 10, n);
        }
        assert!(gaps.gaps.len() <= GAPS_MAX);
        assert_eq!(gaps.since(0), 5000);
        assert_eq!(gaps.since(49_991), 1);
    }

    #[test]
    fn records_count_by_kind() {
        let mut received = Received::default();
        received.record(sensor_ebpf::Kind::Exec as u16, 1);
        received.record(u16::MAX, 0);
        assert_eq!(received.of(sensor_ebpf::Kind::Exec), 1);
        assert_eq!(received.total(), 1);
        assert_eq!(received.unknown_parts, 1);
    }
}
