//! The keyed, bounded store of partial matches of one sequence.
//!
//! In: key tuples and events that open or extend a partial. Out: the partial waiting at a key and position. Partials live
//! in a slab and hang on two intrusive lists: the ones at their key and position, newest first, and all of them by age, so
//! that advancing, expiring and evicting each take constant time. It never holds more partials than it was told to. Partials
//! of one event may stay unplaced, in order of age, until somebody asks for a key.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::event::{Fields, Value};

use super::key::{self, StoredKeys};

/// Index that names nothing.
pub(super) const NONE: u32 = u32::MAX;

/// How many partials may stay fresh: at first, and at most.
const FRESH_MIN: usize = 64;
const FRESH_MAX: usize = 16_384;

/// Seeds of the hashes of keys, the same for all rules of an engine.
pub(super) type KeyHasher = hashbrown::DefaultHashBuilder;

/// Place of an event in the order of the stream: its time, then its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ordinal {
    pub(super) time_ns: i64,
    pub(super) arrival: u64,
}

/// An event of a match and the ones before it. Matches that share their beginning share its nodes.
#[derive(Debug)]
pub(super) struct Node<E> {
    pub(super) event: E,
    /// Step of the query, before `runs` expansion.
    pub(super) step: u32,
    pub(super) previous: Option<Arc<Node<E>>>,
    /// Bytes held by this node and the ones before it, their events included.
    bytes: usize,
}

impl<E: Fields> Node<E> {
    pub(super) fn new(event: E, step: u32, previous: Option<Arc<Node<E>>>) -> Arc<Self> {
        /// Two counts of references, and what the allocator adds.
        const SHARED: usize = 32;
        let own = event.bytes() + size_of::<Self>() + SHARED;
        let before = previous.as_ref().map_or(0, |node| node.bytes);
        Arc::new(Node {
            event,
            step,
            previous,
            bytes: before.saturating_add(own),
        })
    }
}

impl<E> Drop for Node<E> {
    /// Unlinks one node after the other: a long chain must not become deep recursion.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(node) = next {
            next = Arc::into_inner(node).and_then(|mut node| node.previous.take());
        }
    }
}

/// Events matched so far.
#[derive(Debug)]
pub(super) struct Partial<E> {
    pub(super) tail: Arc<Node<E>>,
    pub(super) first_ns: i64,
    pub(super) last: Ordinal,
    /// Time of the newest leading missing event before the first one.
    pub(super) lead_ns: Option<i64>,
    /// Key of its timer while it waits out a trailing missing step.
    pub(super) timer: Option<(i64, u64)>,
    pub(super) entry: u32,
    pub(super) position: u32,
    /// Next older partial at the same key and position.
    below: u32,
    older: u32,
    newer: u32,
}

/// One key: where its partials wait.
#[derive(Debug)]
pub(super) struct Entry {
    hash: u64,
    pub(super) keys: StoredKeys,
    /// Newest partial per position.
    heads: SmallVec<[u32; 4]>,
    /// What keeps the entry alive: partials, and one for a remembered leading event or a run.
    live: u32,
    /// Newest leading missing event with this key.
    pub(super) lead: Option<Ordinal>,
}

/// A partial of one event that has not been put at its key. All of a store are younger than every other partial there.
#[derive(Debug)]
pub(super) struct Fresh<E> {
    pub(super) root: Arc<Node<E>>,
    pub(super) at: Ordinal,
}

#[derive(Debug)]
pub(super) struct Store<E> {
    table: HashTable<u32>,
    pub(super) hasher: KeyHasher,
    entries: Vec<Option<Entry>>,
    free_entries: Vec<u32>,
    partials: Vec<Option<Partial<E>>>,
    free_partials: Vec<u32>,
    oldest: u32,
    newest: u32,
    live: usize,
    /// Bytes of the events of all partials. What several share counts for each.
    pinned: usize,
    /// Partials per position.
    waiting: Vec<usize>,
    /// Oldest first. They wait at the first position.
    fresh: VecDeque<Fresh<E>>,
    /// How many may stay fresh.
    fresh_max: usize,
    /// A position got its first partial or lost its last since somebody asked.
    stirred: bool,
    /// The entry made last: keys in a row often agree in a part (a host), which is then shared instead of copied.
    newest_entry: u32,
}

impl<E> Store<E> {
    /// A store for partials that wait at `positions` places of a sequence.
    pub(super) fn new(positions: usize, hasher: KeyHasher) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
            entries: Vec::new(),
            free_entries: Vec::new(),
            partials: Vec::new(),
            free_partials: Vec::new(),
            oldest: NONE,
            newest: NONE,
            live: 0,
            pinned: 0,
            waiting: vec![0; positions],
            fresh: VecDeque::new(),
            fresh_max: FRESH_MIN,
            stirred: false,
            newest_entry: NONE,
        }
    }

    /// Partials held.
    pub(super) fn len(&self) -> usize {
        self.live + self.fresh.len()
    }

    /// Partials that are at their keys.
    pub(super) fn placed(&self) -> usize {
        self.live
    }

    /// Takes a partial of one event without putting it at its key. `false` when there are too many of these by now.
    #[inline]
    pub(super) fn put_fresh(&mut self, root: Arc<Node<E>>, at: Ordinal) -> bool {
        self.stirred |= self.fresh.is_empty();
        self.pinned = self.pinned.saturating_add(root.bytes);
        self.fresh.push_back(Fresh { root, at });
        self.fresh.len() < self.fresh_max
    }

    /// Gives back the oldest partial that has not been put at its key.
    #[inline]
    pub(super) fn take_fresh(&mut self) -> Option<Fresh<E>> {
        let fresh = self.fresh.pop_front()?;
        self.stirred |= self.fresh.is_empty();
        self.pinned = self.pinned.saturating_sub(fresh.root.bytes);
        Some(fresh)
    }

    pub(super) fn fresh(&self) -> &VecDeque<Fresh<E>> {
        &self.fresh
    }

    /// Keys have been given to `placed` fresh partials, and `replaced` of them took the place of an older one: where that is
    /// rare, more may stay fresh from now on; where keys come back, few.
    pub(super) fn learn(&mut self, placed: usize, replaced: usize) {
        self.fresh_max = if replaced * 4 > placed {
            (self.fresh_max / 4).max(1)
        } else if placed >= self.fresh_max {
            (self.fresh_max * 2).min(FRESH_MAX)
        } else {
            self.fresh_max
        };
    }

    /// Bytes of the events that partials hold.
    pub(super) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Gives a partial its next event.
    pub(super) fn set_tail(&mut self, id: u32, tail: Arc<Node<E>>) {
        let bytes = tail.bytes;
        if let Some(partial) = self.get_mut(id) {
            let before = std::mem::replace(&mut partial.tail, tail).bytes;
            self.pinned = self.pinned.saturating_add(bytes).saturating_sub(before);
        }
    }

    pub(super) fn entry(&self, id: u32) -> Option<&Entry> {
        self.entries.get(id as usize).and_then(Option::as_ref)
    }

    pub(super) fn entry_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.get_mut(id as usize).and_then(Option::as_mut)
    }

    pub(super) fn get(&self, id: u32) -> Option<&Partial<E>> {
        self.partials.get(id as usize).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Partial<E>> {
        self.partials.get_mut(id as usize).and_then(Option::as_mut)
    }

    /// The entry of a key, if it has one.
    pub(super) fn find(&self, hash: u64, tuple: &[Option<Value<'_>>]) -> Option<u32> {
        let entries = &self.entries;
        self.table
            .find(hash, |id| {
                entries
                    .get(*id as usize)
                    .and_then(Option::as_ref)
                    .is_some_and(|e| e.hash == hash && key::same_tuple(&e.keys, tuple))
            })
            .copied()
    }

    /// The entry of a key, made if needed. It stays until [`release`](Self::release) finds it empty.
    pub(super) fn find_or_insert(&mut self, hash: u64, tuple: &[Option<Value<'_>>]) -> u32 {
        match self.find(hash, tuple) {
            Some(id) => id,
            None => {
                let known = self.entry(self.newest_entry);
                let keys = key::owned_like(tuple, known.map_or(&[], |e| &*e.keys));
                self.newest_entry = self.insert_entry(hash, keys);
                self.newest_entry
            }
        }
    }

    pub(super) fn insert_entry(&mut self, hash: u64, keys: StoredKeys) -> u32 {
        let heads = smallvec::smallvec![NONE; self.waiting.len()];
        let entry = Entry {
            hash,
            keys,
            heads,
            live: 0,
            lead: None,
        };
        let id = put(&mut self.entries, &mut self.free_entries, entry);
        let entries = &self.entries;
        self.table.insert_unique(hash, id, |id| {
            entries
                .get(*id as usize)
                .and_then(Option::as_ref)
                .map_or(0, |e| e.hash)
        });
        id
    }

    /// Counts one more reason to keep an entry.
    pub(super) fn hold(&mut self, entry: u32) {
        if let Some(entry) = self.entry_mut(entry) {
            entry.live += 1;
        }
    }

    /// Drops a reason to keep an entry.
    pub(super) fn unhold(&mut self, entry: u32) {
        if let Some(e) = self.entry_mut(entry) {
            e.live = e.live.saturating_sub(1);
        }
        self.release(entry);
    }

    /// Forgets an entry that nothing keeps.
    pub(super) fn release(&mut self, id: u32) {
        let Some(entry) = self.entry(id) else { return };
        if entry.live > 0 {
            return;
        }
        if let Ok(found) = self.table.find_entry(entry.hash, |other| *other == id) {
            found.remove();
        }
        if let Some(slot) = self.entries.get_mut(id as usize) {
            *slot = None;
            self.free_entries.push(id);
        }
    }

    /// Whether a partial waits at any of `count` positions from `first`.
    #[inline]
    pub(super) fn waits(&self, first: usize, count: usize) -> bool {
        let fresh = first == 0 && count > 0 && !self.fresh.is_empty();
        fresh || self.waiting.iter().skip(first).take(count).any(|n| *n > 0)
    }

    /// Whether what [`waits`](Self::waits) says of some position has changed since this was last asked.
    pub(super) fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// Places a partial can wait at.
    pub(super) fn positions(&self) -> usize {
        self.waiting.len()
    }

    /// Every entry with something in it, in no order.
    pub(super) fn entry_ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.entries)
            .filter(|(_, e)| e.is_some())
            .map(|(id, _)| id)
    }

    /// All partials but fresh ones, oldest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.oldest(), |id| {
            self.get(*id).map(|p| p.newer).filter(|id| *id != NONE)
        })
    }

    /// Newest partial at a key and position.
    pub(super) fn head(&self, entry: u32, position: usize) -> Option<u32> {
        let head = *self.entry(entry)?.heads.get(position)?;
        (head != NONE).then_some(head)
    }

    /// The partial below another at the same key and position.
    pub(super) fn below(&self, id: u32) -> Option<u32> {
        let below = self.get(id)?.below;
        (below != NONE).then_some(below)
    }

    /// Adds a partial on top of its key and position, youngest of all.
    pub(super) fn insert(&mut self, entry: u32, position: usize, new: NewPartial<E>) -> u32 {
        let id = self.insert_unplaced(entry, new);
        self.push(id, position);
        id
    }

    /// Lets a partial that has no timer begin anew where it waits, youngest of all.
    pub(super) fn renew(&mut self, id: u32, new: NewPartial<E>) {
        self.set_tail(id, new.tail);
        if let Some(partial) = self.get_mut(id) {
            partial.first_ns = new.first_ns;
            partial.last = new.last;
            partial.lead_ns = new.lead_ns;
        }
        self.touch(id);
    }

    /// Adds a partial that waits nowhere yet, youngest of all.
    pub(super) fn insert_unplaced(&mut self, entry: u32, new: NewPartial<E>) -> u32 {
        self.pinned = self.pinned.saturating_add(new.tail.bytes);
        let id = put(
            &mut self.partials,
            &mut self.free_partials,
            Partial {
                tail: new.tail,
                first_ns: new.first_ns,
                last: new.last,
                lead_ns: new.lead_ns,
                timer: None,
                entry,
                position: NONE,
                below: NONE,
                older: self.newest,
                newer: NONE,
            },
        );
        let newest = self.newest;
        if let Some(partial) = self.get_mut(newest) {
            partial.newer = id;
        } else {
            self.oldest = id;
        }
        self.newest = id;
        self.live += 1;
        self.hold(entry);
        id
    }

    /// Puts an unplaced partial on top of a position of its key.
    pub(super) fn push(&mut self, id: u32, position: usize) {
        let Some(entry) = self.get(id).map(|p| p.entry) else {
            return;
        };
        let Some(head) = self
            .entry_mut(entry)
            .and_then(|e| e.heads.get_mut(position))
        else {
            return;
        };
        let below = std::mem::replace(head, id);
        if let Some(waiting) = self.waiting.get_mut(position) {
            *waiting += 1;
            self.stirred |= *waiting == 1;
        }
        if let Some(partial) = self.get_mut(id) {
            partial.below = below;
            partial.position = u32::try_from(position).unwrap_or(NONE);
        }
    }

    /// Takes a partial off its position, keeping it in the store.
    pub(super) fn detach(&mut self, id: u32) {
        let Some((entry, position, below)) = self.get(id).map(|p| (p.entry, p.position, p.below))
        else {
            return;
        };
        if position == NONE {
            return;
        }
        let Some(head) = self
            .entry_mut(entry)
            .and_then(|e| e.heads.get_mut(position as usize))
        else {
            return;
        };
        if *head == id {
            *head = below;
        } else {
            let mut above = *head;
            while let Some(partial) = self.get_mut(above) {
                if partial.below == id {
                    partial.below = below;
                    break;
                }
                above = partial.below;
            }
        }
        if let Some(waiting) = self.waiting.get_mut(position as usize) {
            *waiting -= 1;
            self.stirred |= *waiting == 0;
        }
        if let Some(partial) = self.get_mut(id) {
            partial.below = NONE;
            partial.position = NONE;
        }
    }

    /// Removes a partial altogether.
    pub(super) fn remove(&mut self, id: u32) -> Option<Partial<E>> {
        self.detach(id);
        let partial = self.partials.get_mut(id as usize).and_then(Option::take)?;
        self.free_partials.push(id);
        self.pinned = self.pinned.saturating_sub(partial.tail.bytes);
        self.unlink(partial.older, partial.newer);
        self.live -= 1;
        self.unhold(partial.entry);
        Some(partial)
    }

    fn unlink(&mut self, older: u32, newer: u32) {
        match self.get_mut(older) {
            Some(partial) => partial.newer = newer,
            None => self.oldest = newer,
        }
        match self.get_mut(newer) {
            Some(partial) => partial.older = older,
            None => self.newest = older,
        }
    }

    /// Makes a partial the youngest: for sequences without maxspan, whose partials age from their last advance.
    pub(super) fn touch(&mut self, id: u32) {
        let Some((older, newer)) = self.get(id).map(|p| (p.older, p.newer)) else {
            return;
        };
        self.unlink(older, newer);
        let newest = self.newest;
        match self.get_mut(newest) {
            Some(partial) => partial.newer = id,
            None => self.oldest = id,
        }
        if let Some(partial) = self.get_mut(id) {
            partial.older = newest;
            partial.newer = NONE;
        }
        self.newest = id;
    }

    /// The oldest partial that is not fresh.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

/// What a partial starts with.
pub(super) struct NewPartial<E> {
    pub(super) tail: Arc<Node<E>>,
    pub(super) first_ns: i64,
    pub(super) last: Ordinal,
    pub(super) lead_ns: Option<i64>,
}

fn put<T>(slab: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> u32 {
    if let Some(id) = free.pop()
        && let Some(slot) = slab.get_mut(id as usize)
    {
        *slot = Some(value);
        return id;
    }
    slab.push(Some(value));
    u32::try_from(slab.len() - 1).unwrap_or(NONE)
}
