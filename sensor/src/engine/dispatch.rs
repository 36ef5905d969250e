//! Which filters an event can satisfy, without asking each.
//!
//! In: all filters, and an event. Out: the consumers of those that hold. Fields with few values (category, action, type, ..)
//! put events into classes; each class has its own copy of the filters with everything folded away that the class decides.
//! Inside a class one bit per filter is struck out for every equality the event does not meet; only what is left runs. A
//! filter that nothing waits for is not run. Classes are made when first seen, up to a bound.

use hashbrown::{HashMap, HashTable};

use crate::event::Fields;

use super::compile::{Consumer, Filter};
use super::condition::{Cond, Program, Test};
use super::field::{Paths, SlotId};
use super::leaf::{Leaf, LeafScratch, Leaves};
use super::lineage::Marks;

/// Fields whose values put events into classes. Each has a handful of values on any one stream.
const CLASS_FIELDS: &[&str] = &[
    "event.action",
    "event.category",
    "event.dataset",
    "event.kind",
    "event.module",
    "event.outcome",
    "event.provider",
    "event.type",
    "data_stream.dataset",
    "host.os.family",
    "host.os.type",
    "network.direction",
    "network.protocol",
    "network.transport",
    "network.type",
];

/// Most classes with filters of their own; events of further classes share one that folds nothing away.
const CLASSES_MAX: usize = 256;

/// Number of no row.
const NONE: u32 = u32::MAX;

/// All filters, by class of event.
#[derive(Debug)]
pub(super) struct Dispatch {
    filters: Vec<Filter>,
    /// Literal indexes over class fields.
    class_indexes: Vec<u32>,
    classes: Vec<Class>,
    by_signature: HashTable<u32>,
    general: Option<Class>,
    signature: Vec<u32>,
    alive: Vec<u64>,
    met: Vec<u64>,
}

/// The filters as events of one class need them.
#[derive(Debug)]
struct Class {
    hash: u64,
    signature: Box<[u32]>,
    entries: Vec<Entry>,
    strikes: Vec<Strike>,
    /// Filters that need a hit among several fields' literals and patterns.
    covered: Box<[u64]>,
    covers: Vec<Cover>,
    all: Box<[u64]>,
}

#[derive(Debug)]
struct Entry {
    filter: u32,
    /// What neither the class nor the strikes decide.
    program: Program,
}

/// One literal index that filters of the class require a hit of.
#[derive(Debug)]
struct Strike {
    index: u32,
    requiring: Box<[u64]>,
    /// Per literal: its row in `rows`, [`NONE`] where no filter names it.
    row_of: Box<[u32]>,
    /// Bits of the filters each row's literal satisfies.
    rows: Vec<u64>,
}

/// Hits in one literal index or pattern group that keep filters in play. A filter with several is struck out when it
/// gets none.
#[derive(Debug)]
struct Cover {
    source: Source,
    /// Filters with a hit to get here.
    concerned: Box<[u64]>,
    row_of: HashMap<u32, u32>,
    rows: Vec<u64>,
}

/// What a cover's hits are: literals of an index, or leaves of a pattern group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Index(u32),
    Globs(u32),
}

impl Dispatch {
    /// `category` is the field that `.. where` compares.
    pub(super) fn new(
        filters: Vec<Filter>,
        leaves: &Leaves,
        paths: &Paths,
        category: &str,
    ) -> Self {
        let is_class = |slot: SlotId| {
            let path = paths.path(slot);
            path == category || CLASS_FIELDS.contains(&path)
        };
        let class_indexes = (0u32..)
            .zip(&leaves.indexes)
            .filter(|(_, (slot, _))| is_class(*slot))
            .map(|(i, _)| i)
            .collect();
        let mut dispatch = Self {
            filters,
            class_indexes,
            classes: Vec::new(),
            by_signature: HashTable::new(),
            general: None,
            signature: Vec::new(),
            alive: Vec::new(),
            met: Vec::new(),
        };
        dispatch.general = Some(dispatch.class(leaves, 0, None));
        dispatch
    }

    /// Calls `wake` for the consumers of every filter that holds. `armed` tells whether a consumer waits for anything.
    pub(super) fn wake<E: Fields>(
        &mut self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
        marks: Marks,
        armed: impl Fn(Consumer) -> bool,
        mut wake: impl FnMut(Consumer),
    ) {
        let Some(class) = self.class_of(leaves, event, scratch) else {
            return;
        };
        let class = if class == NONE {
            self.general.as_ref()
        } else {
            self.classes.get(class as usize)
        };
        let Some(class) = class else { return };
        self.alive.clear();
        self.alive.extend_from_slice(&class.all);
        for strike in &class.strikes {
            if strike
                .requiring
                .iter()
                .zip(&self.alive)
                .all(|(r, a)| r & a == 0)
            {
                continue;
            }
            strike.apply(leaves, event, scratch, &mut self.alive);
        }
        if self
            .alive
            .iter()
            .zip(&class.covered)
            .any(|(a, c)| a & c != 0)
        {
            self.met.clear();
            self.met.resize(self.alive.len(), 0);
            for cover in &class.covers {
                cover.apply(leaves, event, scratch, &self.alive, &mut self.met);
            }
            for ((a, c), m) in self.alive.iter_mut().zip(&class.covered).zip(&self.met) {
                *a &= !c | m;
            }
        }
        for (word, bits) in self.alive.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(entry) = class.entries.get(at) else {
                    continue;
                };
                let Some(filter) = self.filters.get(entry.filter as usize) else {
                    continue;
                };
                if !filter.consumers.iter().any(|c| armed(*c)) {
                    continue;
                }
                let holds = entry.program.run(|test| match test {
                    Test::Leaf(leaf) => leaves.holds(leaf, event, scratch),
                    Test::Lineage(mark, relation) => marks.has(mark, relation),
                    Test::Alias(_) => false,
                });
                if holds {
                    filter.consumers.iter().for_each(|c| wake(*c));
                }
            }
        }
    }

    /// The class of an event: what the literals of all class fields say about it. [`NONE`] beyond the bound.
    fn class_of<E: Fields>(
        &mut self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
    ) -> Option<u32> {
        const K: u64 = 0x9E37_79B9_7F4A_7C15;
        self.signature.clear();
        let mut hash = 0u64;
        for index in &self.class_indexes {
            let found = leaves.found(*index, event, scratch)?;
            for id in &found.ids {
                hash = (hash ^ u64::from(*id)).wrapping_mul(K).rotate_left(23);
                self.signature.push(*id);
            }
            let end = NONE - u32::from(found.present);
            hash = (hash ^ u64::from(end)).wrapping_mul(K).rotate_left(23);
            self.signature.push(end);
        }
        hash ^= hash >> 32;
        let (classes, signature) = (&self.classes, &self.signature);
        let known = self.by_signature.find(hash, |at| {
            classes
                .get(*at as usize)
                .is_some_and(|c| c.hash == hash && *c.signature == **signature)
        });
        if let Some(known) = known {
            return Some(*known);
        }
        if self.classes.len() >= CLASSES_MAX {
            return Some(NONE);
        }
        let class = self.class(leaves, hash, Some(&self.signature));
        let at = u32::try_from(self.classes.len()).ok()?;
        self.classes.push(class);
        self.by_signature.insert_unique(hash, at, |at| {
            self.classes.get(*at as usize).map_or(0, |c| c.hash)
        });
        Some(at)
    }

    /// Builds a class; without a signature, the one that decides nothing.
    fn class(&self, leaves: &Leaves, hash: u64, signature: Option<&[u32]>) -> Class {
        let decided = Decided::new(&self.class_indexes, signature);
        let mut conds = Vec::new();
        for (filter, number) in self.filters.iter().zip(0u32..) {
            match filter.cond.fold(&|test| decided.answer(leaves, test)) {
                Cond::Const(false) => {}
                cond => conds.push((number, cond)),
            }
        }
        let words = conds.len().div_ceil(64);
        let mut strikes: Vec<Strike> = Vec::new();
        let mut entries = Vec::with_capacity(conds.len());
        let cost = |test: Test| match test {
            Test::Leaf(leaf) => leaves.cost(leaf),
            Test::Lineage(..) => 1,
            Test::Alias(_) => 0,
        };
        let mut covers: Vec<Cover> = Vec::new();
        let mut covered = vec![0u64; words];
        for (at, (filter, cond)) in conds.into_iter().enumerate() {
            let rest = require(leaves, &mut strikes, cond, at, words);
            if let Some((_, hits)) = cover(leaves, &rest)
                && let Some(word) = covered.get_mut(at / 64)
            {
                *word |= 1 << (at % 64);
                hits.iter()
                    .for_each(|leaf| add_cover(leaves, &mut covers, *leaf, at, words));
            }
            entries.push(Entry {
                filter,
                program: Program::new(&rest, &cost),
            });
        }
        // What strikes out most goes first.
        strikes.sort_by_key(|s| {
            std::cmp::Reverse(s.requiring.iter().map(|w| w.count_ones()).sum::<u32>())
        });
        let mut all = vec![u64::MAX; words];
        if let Some(last) = all.last_mut()
            && entries.len() % 64 != 0
        {
            *last = (1 << (entries.len() % 64)) - 1;
        }
        Class {
            hash,
            signature: signature.unwrap_or_default().into(),
            entries,
            strikes,
            covered: covered.into(),
            covers,
            all: all.into(),
        }
    }
}

/// Moves what a condition requires at its top level into strikes; returns what is left to ask.
fn require(
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
fn cover(leaves: &Leaves, cond: &Cond) -> Option<(u32, Vec<u32>)> {
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

fn add_cover(leaves: &Leaves, covers: &mut Vec<Cover>, leaf: u32, at: usize, words: usize) {
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
    /// Notes which filters get a hit here.
    #[inline]
    fn apply<E: Fields>(
        &self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
        alive: &[u64],
        met: &mut [u64],
    ) {
        let open = alive
            .iter()
            .zip(met.iter())
            .zip(&self.concerned)
            .any(|((a, m), c)| a & c & !m != 0);
        if !open {
            return;
        }
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
    fn apply<E: Fields>(
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

/// What a class's signature says.
struct Decided<'s> {
    /// Per class index: its literals, and whether the field has a value.
    fields: Vec<(u32, &'s [u32], bool)>,
}

impl<'s> Decided<'s> {
    fn new(class_indexes: &[u32], signature: Option<&'s [u32]>) -> Self {
        let parts = signature
            .unwrap_or_default()
            .split_inclusive(|id| *id >= NONE - 1);
        let fields = class_indexes.iter().zip(parts).map(|(index, part)| {
            let (ids, end) = part.split_at(part.len().saturating_sub(1));
            (*index, ids, end.first() == Some(&(NONE - 1)))
        });
        Self {
            fields: fields.collect(),
        }
    }

    fn answer(&self, leaves: &Leaves, test: Test) -> Option<bool> {
        let Test::Leaf(leaf) = test else { return None };
        match leaves.get(leaf)? {
            Leaf::Equal { index, set } => {
                let (_, ids, _) = self.fields.iter().find(|(i, ..)| i == index)?;
                Some(ids.iter().any(|id| set.contains(*id)))
            }
            Leaf::Missing(slot) => {
                let of_slot = |index: u32| {
                    leaves
                        .indexes
                        .get(index as usize)
                        .is_some_and(|(s, _)| s == slot)
                };
                let (_, _, present) = self.fields.iter().find(|(i, ..)| of_slot(*i))?;
                Some(!present)
            }
            _ => None,
        }
    }
}
