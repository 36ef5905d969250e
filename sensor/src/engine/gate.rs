//! What rules filters out before they run: literals they require, and hits of which they need one.
//!
//! In: conditions of a class of events, and an event. Out: bits of the filters that can still hold. A strike takes out the
//! filters that require a literal of one index which the event does not have; covers note who gets a hit among several
//! sources. Must never take out a filter whose condition holds.

use hashbrown::HashMap;

use crate::event::Fields;

use super::condition::{Cond, Test};
use super::leaf::{Leaf, LeafScratch, Leaves, Source};

/// Number of no row.
const NONE: u32 = u32::MAX;

/// One literal index that filters of the class require a hit of.
#[derive(Debug)]
pub(super) struct Strike {
    pub(super) index: u32,
    pub(super) requiring: Box<[u64]>,
    /// Per literal: its row in `rows`, [`NONE`] where no filter names it.
    row_of: Box<[u32]>,
    /// Bits of the filters each row's literal satisfies.
    rows: Vec<u64>,
}

/// Hits in one literal index or pattern group that keep filters in play. A filter with several is struck out when it
/// gets none.
#[derive(Debug)]
pub(super) struct Cover {
    pub(super) source: Source,
    /// Filters with a hit to get here.
    pub(super) concerned: Box<[u64]>,
    row_of: HashMap<u32, u32>,
    rows: Vec<u64>,
}

/// Some of the filters a strike or cover concerns, all of one word. Side by side, so that what concerns nobody is passed over
/// without looking at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    /// Position among the strikes or covers.
    pub(super) at: u32,
    pub(super) word: u32,
    pub(super) mask: u64,
}

pub(super) fn hints<'m>(from: usize, masks: impl Iterator<Item = &'m Box<[u64]>>) -> Box<[Hint]> {
    let masks = (0u32..).zip(masks).skip(from);
    masks
        .flat_map(|(at, mask)| {
            let words = (0u32..).zip(mask.iter()).filter(|(_, mask)| **mask != 0);
            words.map(move |(word, mask)| Hint {
                at,
                word,
                mask: *mask,
            })
        })
        .collect()
}

/// Moves what a condition requires at its top level into strikes; returns what is left to ask.
pub(super) fn require(
    leaves: &Leaves,
    strikes: &mut Vec<Strike>,
    cond: Cond,
    at: usize,
    words: usize,
) -> Cond {
    let parts = match cond {
        Cond::And(parts) => parts,
        other => vec![other],
    };
    let mut used = Vec::new();
    let mut rest = Vec::with_capacity(parts.len());
    for part in parts {
        if let Cond::Test(Test::Leaf(leaf)) = part
            && let Some(Leaf::Equal { index, set }) = leaves.get(leaf)
            // Several requirements on one field may be met by different values, so only the first can strike.
            && !used.contains(index)
        {
            used.push(*index);
            let strike = match strikes.iter_mut().position(|s| s.index == *index) {
                Some(known) => strikes.get_mut(known),
                None => {
                    let literals = leaves
                        .indexes
                        .get(*index as usize)
                        .map_or(0, |(_, i)| i.len() as usize);
                    strikes.push(Strike {
                        index: *index,
                        requiring: vec![0; words].into(),
                        row_of: vec![NONE; literals].into(),
                        rows: Vec::new(),
                    });
                    strikes.last_mut()
                }
            };
            if let Some(strike) = strike {
                strike.add(&set.ids(), at, words);
            }
        } else {
            rest.push(part);
        }
    }
    Cond::and(rest)
}

/// Leaves of which at least one holds where the condition does, and what asking them costs. The cheapest there are; `None`
/// where some branch has none that a look-up or a pass over a field's patterns, made once for all filters, would answer.
pub(super) fn cover(leaves: &Leaves, cond: &Cond) -> Option<(u32, Vec<u32>)> {
    match cond {
        Cond::Test(Test::Leaf(leaf)) => match leaves.get(*leaf)? {
            Leaf::Equal { .. } | Leaf::Glob { .. } => Some((leaves.cost(*leaf), vec![*leaf])),
            _ => None,
        },
        Cond::And(parts) => parts
            .iter()
            .filter_map(|p| cover(leaves, p))
            .min_by_key(|c| c.0),
        Cond::Or(parts) => parts
            .iter()
            .try_fold((0, Vec::new()), |(cost, mut all), part| {
                let (more, hits) = cover(leaves, part)?;
                all.extend(hits);
                Some((cost + more, all))
            }),
        Cond::Const(_) | Cond::Test(_) | Cond::Not(_) => None,
    }
}

pub(super) fn add_cover(
    leaves: &Leaves,
    covers: &mut Vec<Cover>,
    leaf: u32,
    at: usize,
    words: usize,
) {
    let (source, hits) = match leaves.get(leaf) {
        Some(Leaf::Equal { index, set }) => (Source::Index(*index), set.ids()),
        Some(Leaf::Glob { group }) => (Source::Globs(*group), vec![leaf]),
        _ => return,
    };
    let known = covers
        .iter()
        .position(|c| c.source == source)
        .unwrap_or_else(|| {
            let concerned = vec![0; words].into();
            covers.push(Cover {
                source,
                concerned,
                row_of: HashMap::new(),
                rows: Vec::new(),
            });
            covers.len() - 1
        });
    let Some(cover) = covers.get_mut(known) else {
        return;
    };
    let bit = 1u64 << (at % 64);
    if let Some(word) = cover.concerned.get_mut(at / 64) {
        *word |= bit;
    }
    for hit in hits {
        let next = u32::try_from(cover.rows.len() / words.max(1)).unwrap_or(NONE);
        let row = *cover.row_of.entry(hit).or_insert(next);
        if row == next {
            cover.rows.resize(cover.rows.len() + words, 0);
        }
        if let Some(word) = cover.rows.get_mut(row as usize * words + at / 64) {
            *word |= bit;
        }
    }
}

impl Cover {
    /// Whether some filter still in play wants a hit here.
    pub(super) fn concerns(&self, alive: &[u64], met: &[u64]) -> bool {
        let open = alive.iter().zip(met).zip(&self.concerned);
        open.into_iter().any(|((a, m), c)| a & c & !m != 0)
    }

    /// Notes which filters get a hit here.
    #[inline]
    pub(super) fn apply<E: Fields>(
        &self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
        met: &mut [u64],
    ) {
        let hits = match self.source {
            Source::Index(index) => leaves
                .found(index, event, scratch)
                .map(|found| found.ids.as_slice()),
            Source::Globs(group) => leaves.glob_hits(group, event, scratch),
        };
        let words = met.len();
        for hit in hits.unwrap_or_default() {
            let Some(row) = self.row_of.get(hit).map(|row| *row as usize) else {
                continue;
            };
            for (m, bits) in met.iter_mut().zip(
                self.rows
                    .get(row * words..(row + 1) * words)
                    .unwrap_or_default(),
            ) {
                *m |= bits;
            }
        }
    }
}

impl Strike {
    fn add(&mut self, literals: &[u32], at: usize, words: usize) {
        if let Some(word) = self.requiring.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
        for literal in literals {
            let Some(row) = self.row_of.get_mut(*literal as usize) else {
                continue;
            };
            if *row == NONE {
                *row = u32::try_from(self.rows.len() / words.max(1)).unwrap_or(NONE);
                self.rows.resize(self.rows.len() + words, 0);
            }
            if let Some(word) = self.rows.get_mut(*row as usize * words + at / 64) {
                *word |= 1 << (at % 64);
            }
        }
    }

    /// Strikes out the filters that require a literal the event does not have.
    #[inline]
    pub(super) fn apply<E: Fields>(
        &self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
        alive: &mut [u64],
    ) {
        let Some(found) = leaves.found(self.index, event, scratch) else {
            return;
        };
        let words = alive.len();
        let rows = found.ids.iter().filter_map(|id| {
            let row = self
                .row_of
                .get(*id as usize)
                .copied()
                .filter(|row| *row != NONE)? as usize;
            self.rows.get(row * words..(row + 1) * words)
        });
        let mut rows = rows.peekable();
        let Some(first) = rows.next() else {
            alive
                .iter_mut()
                .zip(&self.requiring)
                .for_each(|(a, r)| *a &= !r);
            return;
        };
        if rows.peek().is_none() {
            for ((a, r), bits) in alive.iter_mut().zip(&self.requiring).zip(first) {
                *a &= !r | bits;
            }
            return;
        }
        // Several literals: whatever any of them satisfies stays. Words one by one need no buffer.
        for (at, (a, r)) in alive.iter_mut().zip(&self.requiring).enumerate() {
            let met = found.ids.iter().fold(0, |met, id| {
                let row = self.row_of.get(*id as usize).copied().unwrap_or(NONE);
                let bits = if row == NONE {
                    None
                } else {
                    self.rows.get(row as usize * words + at)
                };
                met | bits.copied().unwrap_or(0)
            });
            *a &= !r | met;
        }
    }
}
