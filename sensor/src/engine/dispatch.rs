//! Which filters an event can satisfy, without asking each.
//!
//! In: all filters, and an event. Out: the consumers of those that hold. Fields with few values (category, action, type, ..)
//! put events into classes; each class has its own copy of the filters with everything folded away that the class decides.
//! Inside a class one bit per filter is struck out for every equality the event does not meet; only what is left runs. What
//! fields whose values come back say about the filters is remembered. A filter that nothing waits for is not run. Classes are
//! made when first seen, up to a bound.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::event::{Fields, Spelling};

use super::compile::{Consumer, Filter};
use super::condition::{Cond, Program, Test};
use super::familiar::{Familiar, Met, Shortcut, Shortcuts};
use super::field::{Paths, SlotId};
use super::gate::{Cover, Hint, Strike, add_cover, cover, hints, require};
use super::leaf::{Leaf, LeafScratch, Leaves, Source};
use super::lineage::Marks;
use super::literal::hash_text;

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

/// Fields whose values come back: few programs make up most of what a host does. What the filters of a class say about
/// these together is remembered by their values.
const STEADY_FIELDS: &[&str] = &[
    "container.id",
    "file.extension",
    "group.Ext.real.id",
    "group.id",
    "group.name",
    "process.args_count",
    "process.entry_leader.entry_meta.type",
    "process.entry_leader.executable",
    "process.entry_leader.name",
    "process.executable",
    "process.exit_code",
    "process.group.id",
    "process.group_leader.executable",
    "process.group_leader.name",
    "process.interactive",
    "process.name",
    "process.parent.args_count",
    "process.parent.executable",
    "process.parent.group.id",
    "process.parent.interactive",
    "process.parent.name",
    "process.parent.user.id",
    "process.previous.executable",
    "process.real_group.id",
    "process.real_user.id",
    "process.session_leader.name",
    "process.thread.capabilities.effective",
    "process.thread.capabilities.permitted",
    "process.user.id",
    "user.Ext.real.id",
    "user.Ext.real.name",
    "user.effective.id",
    "user.id",
    "user.name",
];

/// A field is worth looking at for every event when it matters to one filter in so many. What few filters ask is left until
/// one of them is still in play.
const WORTHWHILE: usize = 64;

/// Most classes with filters of their own; events of further classes share one that folds nothing away.
const CLASSES_MAX: usize = 256;

/// Most spellings of class fields' values whose class is remembered.
const SPELLINGS_MAX: usize = 1024;

/// Number of no class, and what ends a field in a signature.
const NONE: u32 = u32::MAX;

/// All filters, by class of event.
#[derive(Debug)]
pub(super) struct Dispatch {
    filters: Vec<Filter>,
    /// Literal indexes over class fields.
    class_indexes: Vec<u32>,
    classes: Vec<Class>,
    by_signature: HashTable<u32>,
    /// The fields behind the class indexes, each once.
    class_slots: Vec<SlotId>,
    /// By slot: whether its field is one of [`STEADY_FIELDS`].
    steady: Vec<bool>,
    familiar: Familiar,
    reached: Vec<bool>,
    /// Values of the class fields as events spelled them, and the class they make. Spares most events the look-ups.
    by_spelling: HashTable<Spelled>,
    spelling: Spelling,
    general: Option<Class>,
    signature: Vec<u32>,
    alive: Vec<u64>,
    met: Vec<u64>,
}

/// Values of the class fields and the class they make.
#[derive(Debug)]
struct Spelled {
    hash: u64,
    text: Box<[u8]>,
    class: u32,
}

/// The filters as events of one class need them.
#[derive(Debug)]
struct Class {
    hash: u64,
    signature: Box<[u32]>,
    entries: Vec<Entry>,
    /// Steady fields that matter to the class, sorted.
    steady_slots: Box<[SlotId]>,
    /// Filters that wait only where something has happened before.
    later: Box<[u64]>,
    /// Those over steady fields first.
    strikes: Vec<Strike>,
    steady_strikes: usize,
    /// Whom the strikes over other fields concern.
    strike_hints: Box<[Hint]>,
    /// Filters that need a hit among several fields' literals and patterns.
    covered: Box<[u64]>,
    /// Those over steady fields first.
    covers: Vec<Cover>,
    steady_covers: usize,
    /// Whom the covers over other fields concern.
    cover_hints: Box<[Hint]>,
    all: Box<[u64]>,
}

#[derive(Debug)]
struct Entry {
    consumers: SmallVec<[Consumer; 2]>,
    /// What neither the class nor the strikes decide.
    program: Program,
}

impl Dispatch {
    /// `category` is the field that `.. where` compares; `all_steady` adds every field to [`STEADY_FIELDS`].
    pub(super) fn new(
        filters: Vec<Filter>,
        leaves: &Leaves,
        paths: &Paths,
        category: &str,
        all_steady: bool,
    ) -> Self {
        let uses = uses(leaves, filters.iter().map(|f| &f.cond));
        let is_class = |slot: SlotId| {
            let path = paths.path(slot);
            path == category || (CLASS_FIELDS.contains(&path) && uses.matters(slot))
        };
        let class_indexes: Vec<u32> = (0u32..)
            .zip(&leaves.indexes)
            .filter(|(_, (slot, _))| is_class(*slot))
            .map(|(i, _)| i)
            .collect();
        let slot_of = |index: &u32| leaves.indexes.get(*index as usize).map(|(slot, _)| *slot);
        let mut class_slots: Vec<SlotId> = class_indexes.iter().filter_map(slot_of).collect();
        class_slots.sort_unstable();
        class_slots.dedup();
        let steady = (0..leaves.fields.len())
            .map(|at| SlotId(u32::try_from(at).unwrap_or(u32::MAX)))
            .map(|slot| all_steady || STEADY_FIELDS.contains(&paths.path(slot)))
            .collect::<Vec<bool>>();
        let mut dispatch = Self {
            familiar: Familiar::new(filters.len()),
            filters,
            class_indexes,
            class_slots,
            steady,
            reached: Vec::new(),
            by_spelling: HashTable::new(),
            spelling: Spelling::default(),
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
        self.spelling.clear();
        leaves.spell(&self.class_slots, event, &mut self.spelling);
        let class_len = self.spelling.len();
        let class_hash = hash_text(self.spelling.bytes(), false);
        let class = if self.spelling.is_complete() {
            self.class_by_spelling(leaves, event, scratch, class_hash)
        } else {
            self.class_of(leaves, event, scratch)
        };
        let Some(class) = class else { return };
        let class = if class == NONE {
            self.general.as_ref()
        } else {
            self.classes.get(class as usize)
        };
        let Some(class) = class else { return };
        self.alive.clear();
        self.alive.extend_from_slice(&class.all);
        self.met.clear();
        self.met.resize(self.alive.len(), 0);
        leaves.spell(&class.steady_slots, event, &mut self.spelling);
        let steady_part = self.spelling.bytes().get(class_len..).unwrap_or_default();
        let hash = class_hash.rotate_left(17) ^ hash_text(steady_part, false);
        let (alive, met) = (&mut self.alive, &mut self.met);
        let familiar = if self.spelling.is_complete() {
            self.familiar.get(hash, self.spelling.bytes(), alive, met)
        } else {
            Met::New
        };
        if !matches!(familiar, Met::Known(_)) {
            let (strikes, covers) = class.steady();
            for strike in strikes {
                strike.apply(leaves, event, scratch, alive);
            }
            for cover in covers {
                if cover.concerns(alive, met) {
                    cover.apply(leaves, event, scratch, met);
                }
            }
        }
        if familiar == Met::Again {
            let steady = |test| match test {
                Test::Leaf(leaf) if class.is_steady(leaves.slot_of_leaf(leaf)) => {
                    Some(leaves.holds(leaf, event, scratch))
                }
                Test::Alias(_) => Some(false),
                Test::Leaf(_) | Test::Lineage(..) => None,
            };
            let mut shortcuts = Shortcuts::default();
            class.keep_possible(alive, &mut self.reached, &mut shortcuts, steady);
            let sets = (&**alive, &**met);
            self.familiar
                .put(hash, self.spelling.bytes(), sets, &shortcuts);
        }
        let shortcuts = match familiar {
            Met::Known(place) => self.familiar.shortcuts(place),
            Met::Again | Met::New => &[],
        };
        // A filter that nothing waits for need not be asked anything.
        for (word, (bits, later)) in alive.iter_mut().zip(&class.later).enumerate() {
            let mut left = *bits & later;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let entry = class.entries.get(word * 64 + bit as usize);
                if !entry.is_some_and(|e| e.consumers.iter().any(|c| armed(*c))) {
                    *bits &= !(1 << bit);
                }
            }
        }
        let mut done = NONE;
        for hint in &class.strike_hints {
            let concerned = alive
                .get(hint.word as usize)
                .is_some_and(|a| a & hint.mask != 0);
            if concerned
                && hint.at != done
                && let Some(strike) = class.strikes.get(hint.at as usize)
            {
                done = hint.at;
                strike.apply(leaves, event, scratch, alive);
            }
        }
        let open = alive.iter().zip(met.iter()).zip(&class.covered);
        if open.into_iter().any(|((a, m), c)| a & c & !m != 0) {
            let mut done = NONE;
            for hint in &class.cover_hints {
                let word = hint.word as usize;
                let concerned = match (alive.get(word), met.get(word)) {
                    (Some(a), Some(m)) => a & !m & hint.mask != 0,
                    _ => false,
                };
                if concerned
                    && hint.at != done
                    && let Some(cover) = class.covers.get(hint.at as usize)
                {
                    done = hint.at;
                    cover.apply(leaves, event, scratch, met);
                }
            }
            for ((a, c), m) in alive.iter_mut().zip(&class.covered).zip(met.iter()) {
                *a &= !c | m;
            }
        }
        let mut shortcuts = shortcuts.iter().peekable();
        for (word, bits) in self.alive.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(entry) = class.entries.get(at) else {
                    continue;
                };
                let mut start = entry.program.start();
                while let Some(shortcut) = shortcuts.next_if(|s| s.entry as usize <= at) {
                    if shortcut.entry as usize == at {
                        start = shortcut.start;
                    }
                }
                let holds = entry.program.run_from(start, |test| match test {
                    Test::Leaf(leaf) => leaves.holds(leaf, event, scratch),
                    Test::Lineage(mark, relation) => marks.has(mark, relation),
                    Test::Alias(_) => false,
                });
                if holds {
                    entry.consumers.iter().for_each(|c| wake(*c));
                }
            }
        }
    }

    /// The class of an event, remembered by what stands in the class fields, which have been spelled.
    fn class_by_spelling<E: Fields>(
        &mut self,
        leaves: &Leaves,
        event: &E,
        scratch: &mut LeafScratch,
        hash: u64,
    ) -> Option<u32> {
        let known = self.by_spelling.find(hash, |s| {
            s.hash == hash && *s.text == *self.spelling.bytes()
        });
        if let Some(known) = known {
            return Some(known.class);
        }
        let class = self.class_of(leaves, event, scratch)?;
        if self.by_spelling.len() < SPELLINGS_MAX {
            let text = self.spelling.bytes().into();
            self.by_spelling
                .insert_unique(hash, Spelled { hash, text, class }, |s| s.hash);
        }
        Some(class)
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
        for (filter, number) in self.filters.iter().enumerate().map(|(i, f)| (f, i)) {
            match filter.cond.fold(&|test| decided.answer(leaves, test)) {
                Cond::Const(false) => {}
                cond => conds.push((number, cond)),
            }
        }
        let uses = uses(leaves, conds.iter().map(|(_, cond)| cond));
        let steady = |slot: Option<SlotId>| {
            let listed = |s: SlotId| self.steady.get(s.0 as usize) == Some(&true);
            slot.is_some_and(|s| listed(s) && uses.matters(s))
        };
        let words = conds.len().div_ceil(64);
        let mut strikes: Vec<Strike> = Vec::new();
        let mut entries = Vec::with_capacity(conds.len());
        let cost = |test: Test| match test {
            // Known for most events: asked first, they are skipped together.
            Test::Leaf(leaf) if steady(leaves.slot_of_leaf(leaf)) => 0,
            Test::Leaf(leaf) => leaves.cost(leaf),
            Test::Lineage(..) => 1,
            Test::Alias(_) => 0,
        };
        let mut covers: Vec<Cover> = Vec::new();
        let mut covered = vec![0u64; words];
        let mut later = vec![0u64; words];
        for (at, (filter, cond)) in conds.into_iter().enumerate() {
            let rest = require(leaves, &mut strikes, cond, at, words);
            if let Some((_, hits)) = cover(leaves, &rest)
                && let Some(word) = covered.get_mut(at / 64)
            {
                *word |= 1 << (at % 64);
                hits.iter()
                    .for_each(|leaf| add_cover(leaves, &mut covers, *leaf, at, words));
            }
            let consumers = self
                .filters
                .get(filter)
                .map(|f| f.consumers.iter().copied().collect::<SmallVec<[_; 2]>>())
                .unwrap_or_default();
            if consumers.iter().all(|c| c.is_later())
                && let Some(word) = later.get_mut(at / 64)
            {
                *word |= 1 << (at % 64);
            }
            entries.push(Entry {
                consumers,
                program: Program::new(&rest, &cost),
            });
        }
        let strike_slot = |s: &Strike| leaves.slot_of(Source::Index(s.index));
        // Of each kind, what strikes out most goes first.
        strikes.sort_by_key(|s| {
            let struck: u32 = s.requiring.iter().map(|w| w.count_ones()).sum();
            (!steady(strike_slot(s)), std::cmp::Reverse(struck))
        });
        covers.sort_by_key(|c| !steady(leaves.slot_of(c.source)));
        let slots =
            (0..leaves.fields.len()).map(|at| SlotId(u32::try_from(at).unwrap_or(u32::MAX)));
        let steady_slots: Vec<SlotId> = slots.filter(|slot| steady(Some(*slot))).collect();
        let mut all = vec![u64::MAX; words];
        if let Some(last) = all.last_mut()
            && entries.len() % 64 != 0
        {
            *last = (1 << (entries.len() % 64)) - 1;
        }
        let steady_strikes = strikes.iter().filter(|s| steady(strike_slot(s))).count();
        let steady_covers = covers
            .iter()
            .filter(|c| steady(leaves.slot_of(c.source)))
            .count();
        Class {
            later: later.into(),
            strike_hints: hints(steady_strikes, strikes.iter().map(|s| &s.requiring)),
            cover_hints: hints(steady_covers, covers.iter().map(|c| &c.concerned)),
            hash,
            signature: signature.unwrap_or_default().into(),
            entries,
            steady_slots: steady_slots.into(),
            steady_strikes,
            strikes,
            covered: covered.into(),
            steady_covers,
            covers,
            all: all.into(),
        }
    }
}

/// How many filters read each field.
struct Uses {
    by_slot: Vec<usize>,
    filters: usize,
}

impl Uses {
    fn matters(&self, slot: SlotId) -> bool {
        let used = self.by_slot.get(slot.0 as usize).copied().unwrap_or(0);
        used > 0 && used * WORTHWHILE >= self.filters
    }
}

fn uses<'c>(leaves: &Leaves, conds: impl Iterator<Item = &'c Cond>) -> Uses {
    let mut uses = Uses {
        by_slot: vec![0; leaves.fields.len()],
        filters: 0,
    };
    let mut read = Vec::new();
    for cond in conds {
        uses.filters += 1;
        read.clear();
        cond.tests(&mut |test| {
            if let Test::Leaf(leaf) = test {
                read.extend(leaves.slot_of_leaf(leaf));
            }
        });
        read.sort_unstable();
        read.dedup();
        for slot in &read {
            if let Some(used) = uses.by_slot.get_mut(slot.0 as usize) {
                *used += 1;
            }
        }
    }
    uses
}

impl Class {
    fn is_steady(&self, slot: Option<SlotId>) -> bool {
        slot.is_some_and(|slot| self.steady_slots.binary_search(&slot).is_ok())
    }

    /// Strikes out the filters that can not hold whatever is still unknown, and notes where the others may begin.
    fn keep_possible(
        &self,
        alive: &mut [u64],
        reached: &mut Vec<bool>,
        shortcuts: &mut Shortcuts,
        mut known: impl FnMut(Test) -> Option<bool>,
    ) {
        for (word, bits) in alive.iter_mut().enumerate() {
            let mut left = *bits;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let at = word * 64 + bit as usize;
                let entry = self.entries.get(at);
                let Some(entry) = entry.filter(|e| e.program.possible(reached, &mut known)) else {
                    *bits &= !(1 << bit);
                    continue;
                };
                let start = entry.program.start_past(&mut known);
                if let Ok(at) = u32::try_from(at)
                    && start != entry.program.start()
                {
                    shortcuts.push(Shortcut { entry: at, start });
                }
            }
        }
    }

    fn steady(&self) -> (&[Strike], &[Cover]) {
        (
            self.strikes.get(..self.steady_strikes).unwrap_or_default(),
            self.covers.get(..self.steady_covers).unwrap_or_default(),
        )
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
