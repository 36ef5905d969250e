//! Samples: one event per filter, all different, same key, any order.
//!
//! In: the filters of one sample an event satisfies. Out: a match as soon as a key has a distinct event for every filter;
//! the key is then cleared. Events older than the window no longer count. Bounded by events held; the longest idle key goes
//! first, counted.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::event::{Fields, OwnedValue};

use super::key::{self, EventKeys, Key, KeyPlan};
use super::partial_match::{KeyHasher, Ordinal};
use super::turn::Turn;
use super::{Match, RuleCounters};

/// A compiled sample.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) rule: usize,
    /// Key list per filter.
    pub(super) keys: Vec<KeyPlan>,
}

/// What a sample remembers.
#[derive(Debug)]
pub(super) struct SampleState<E> {
    table: HashTable<u32>,
    pub(super) hasher: KeyHasher,
    pub(super) groups: Vec<Option<Group<E>>>,
    free: Vec<u32>,
    /// Keys in the order they were last seen; stale where the group's `seen` differs.
    pub(super) age: VecDeque<(u64, u32)>,
    pub(super) held: usize,
    /// Bytes of the events held. One that several filters or keys hold counts for each.
    pub(super) pinned: usize,
    visits: u64,
}

/// One key.
#[derive(Debug)]
pub(super) struct Group<E> {
    pub(super) hash: u64,
    pub(super) keys: Box<[Option<OwnedValue>]>,
    /// Newest first, per filter; as many as there are filters are enough to find distinct ones.
    pub(super) hits: Vec<VecDeque<(Ordinal, E)>>,
    newest_ns: i64,
    pub(super) seen: u64,
}

impl<E> SampleState<E> {
    pub(super) fn new(hasher: KeyHasher) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
            groups: Vec::new(),
            free: Vec::new(),
            age: VecDeque::new(),
            held: 0,
            pinned: 0,
            visits: 0,
        }
    }
}

impl Sample {
    pub(super) fn process<E: Fields + Clone>(
        &self,
        state: &mut SampleState<E>,
        turn: &mut Turn<'_, E>,
        mask: u64,
        keys: &mut EventKeys<'_, E>,
        window_ns: i64,
        out: &mut Vec<Match<E>>,
    ) {
        let mut touched: Vec<u32> = Vec::new();
        for (filter, list) in self
            .keys
            .iter()
            .enumerate()
            .filter(|(i, _)| mask >> i & 1 == 1)
        {
            for key in turn.keys(keys, list, &state.hasher) {
                let group = state.find_or_insert(key, self.keys.len());
                state.hit(group, filter, turn.ordinal, turn.event);
                turn.counters.opened += 1;
                if !touched.contains(&group) {
                    touched.push(group);
                }
            }
        }
        for group in touched {
            state.forget_older(group, turn.ordinal.time_ns.saturating_sub(window_ns));
            if let Some(found) = state.complete(group, self.rule) {
                turn.counters.matches += 1;
                out.push(found);
                state.remove(group);
            }
        }
        while state.held > turn.limits.partials {
            if !state.remove_longest_idle() {
                break;
            }
            turn.counters.evicted += 1;
        }
        turn.counters.partials = state.held as u64;
    }

    pub(super) fn expire<E: Fields>(
        &self,
        state: &mut SampleState<E>,
        now_ns: i64,
        window_ns: i64,
        counters: &mut RuleCounters,
    ) {
        while let Some((seen, id)) = state.age.front().copied() {
            match state.group(id) {
                Some(group) if group.seen == seen => {
                    if now_ns.saturating_sub(group.newest_ns) <= window_ns {
                        break;
                    }
                    state.remove(id);
                    counters.expired += 1;
                }
                _ => {}
            }
            state.age.pop_front();
        }
        counters.partials = state.held as u64;
    }
}

impl<E: Fields> SampleState<E> {
    pub(super) fn group(&self, id: u32) -> Option<&Group<E>> {
        self.groups.get(id as usize).and_then(Option::as_ref)
    }

    fn group_mut(&mut self, id: u32) -> Option<&mut Group<E>> {
        self.groups.get_mut(id as usize).and_then(Option::as_mut)
    }

    fn find_or_insert(&mut self, key: &Key<'_>, filters: usize) -> u32 {
        let groups = &self.groups;
        let known = self.table.find(key.hash, |id| {
            groups
                .get(*id as usize)
                .and_then(Option::as_ref)
                .is_some_and(|g| g.hash == key.hash && key::same_tuple(&g.keys, &key.tuple))
        });
        match known {
            Some(id) => *id,
            None => self.insert(key.hash, key::owned(&key.tuple), filters),
        }
    }

    fn insert(&mut self, hash: u64, keys: Box<[Option<OwnedValue>]>, filters: usize) -> u32 {
        let hits = (0..filters).map(|_| VecDeque::new()).collect();
        let group = Group {
            hash,
            keys,
            hits,
            newest_ns: i64::MIN,
            seen: 0,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.groups.push(None);
                u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(slot) = self.groups.get_mut(id as usize) {
            *slot = Some(group);
        }
        let groups = &self.groups;
        self.table.insert_unique(hash, id, |id| {
            groups
                .get(*id as usize)
                .and_then(Option::as_ref)
                .map_or(0, |g| g.hash)
        });
        id
    }

    /// Adds a key as a snapshot saved it.
    pub(super) fn restore(&mut self, keys: Box<[Option<OwnedValue>]>, hits: Vec<Vec<(Ordinal, E)>>)
    where
        E: Clone,
    {
        let hash = {
            let values = keys.iter().map(|k| k.as_ref().map(OwnedValue::as_value));
            key::hash_tuple(&values.collect::<key::Tuple<'_>>(), &self.hasher)
        };
        let id = self.insert(hash, keys, hits.len());
        for (filter, events) in hits.into_iter().enumerate() {
            for (ordinal, event) in events.into_iter().rev() {
                self.hit(id, filter, ordinal, &event);
            }
        }
    }

    fn hit(&mut self, id: u32, filter: usize, ordinal: Ordinal, event: &E)
    where
        E: Clone,
    {
        self.visits += 1;
        let visit = self.visits;
        let Some(group) = self.group_mut(id) else {
            return;
        };
        group.newest_ns = group.newest_ns.max(ordinal.time_ns);
        group.seen = visit;
        let keep = group.hits.len();
        let Some(hits) = group.hits.get_mut(filter) else {
            return;
        };
        let at = hits
            .iter()
            .position(|(o, _)| *o < ordinal)
            .unwrap_or(hits.len());
        hits.insert(at, (ordinal, event.clone()));
        let dropped = if hits.len() > keep {
            hits.pop_back()
        } else {
            None
        };
        self.held += usize::from(dropped.is_none());
        let less = dropped.map_or(0, |(_, event)| event.bytes());
        self.pinned = (self.pinned + event.bytes()).saturating_sub(less);
        self.age.push_back((visit, id));
        if self.age.len() > 2 * self.held + 64 {
            let groups = &self.groups;
            self.age.retain(|(seen, id)| {
                groups
                    .get(*id as usize)
                    .and_then(Option::as_ref)
                    .is_some_and(|g| g.seen == *seen)
            });
        }
    }

    fn forget_older(&mut self, id: u32, from_ns: i64) {
        let (mut forgotten, mut bytes) = (0, 0);
        if let Some(group) = self.group_mut(id) {
            for hits in &mut group.hits {
                while let Some((_, event)) = hits.pop_back_if(|(o, _)| o.time_ns < from_ns) {
                    bytes += event.bytes();
                    forgotten += 1;
                }
            }
        }
        self.held -= forgotten;
        self.pinned = self.pinned.saturating_sub(bytes);
    }

    /// The match of a key, if every filter has an event of its own: newest events first, by filter.
    fn complete(&self, id: u32, rule: usize) -> Option<Match<E>>
    where
        E: Clone,
    {
        let group = self.group(id)?;
        let candidates: Vec<Vec<Ordinal>> = group
            .hits
            .iter()
            .map(|h| h.iter().map(|(o, _)| *o).collect())
            .collect();
        let chosen = assign(&candidates)?;
        let events = group
            .hits
            .iter()
            .zip(chosen)
            .filter_map(|(h, i)| h.get(i).map(|(_, e)| e.clone()))
            .collect();
        Some(Match {
            rule,
            keys: group.keys.to_vec(),
            events,
            tally: None,
        })
    }

    fn remove(&mut self, id: u32) {
        let Some(group) = self.groups.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(id);
        self.held -= group.hits.iter().map(VecDeque::len).sum::<usize>();
        let events = group.hits.iter().flatten();
        let bytes: usize = events.map(|(_, event)| event.bytes()).sum();
        self.pinned = self.pinned.saturating_sub(bytes);
        if let Ok(found) = self.table.find_entry(group.hash, |other| *other == id) {
            found.remove();
        }
    }

    pub(super) fn remove_longest_idle(&mut self) -> bool {
        while let Some((seen, id)) = self.age.pop_front() {
            if self.group(id).is_some_and(|g| g.seen == seen) {
                self.remove(id);
                return true;
            }
        }
        false
    }
}

/// Chooses one candidate per filter, all different, the earliest candidates of the first filters preferred. `None` when
/// there is no such choice.
pub(super) fn assign(candidates: &[Vec<Ordinal>]) -> Option<Vec<usize>> {
    if candidates.iter().any(Vec::is_empty) {
        return None;
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(candidates.len());
    let mut used: Vec<Ordinal> = Vec::with_capacity(candidates.len());
    for (filter, list) in candidates.iter().enumerate() {
        let rest = candidates.get(filter + 1..).unwrap_or_default();
        let found = list.iter().enumerate().find(|(_, event)| {
            if used.contains(event) {
                return false;
            }
            used.push(**event);
            let possible = can_assign(rest, &used);
            used.pop();
            possible
        });
        let (position, event) = found?;
        chosen.push(position);
        used.push(*event);
    }
    Some(chosen)
}

/// Whether every filter can get an event of its own that is not used: augmenting paths.
fn can_assign(candidates: &[Vec<Ordinal>], used: &[Ordinal]) -> bool {
    let mut owner: Vec<(Ordinal, usize)> = Vec::new();
    (0..candidates.len())
        .all(|filter| augment(candidates, used, filter, &mut owner, &mut Vec::new()))
}

fn augment(
    candidates: &[Vec<Ordinal>],
    used: &[Ordinal],
    filter: usize,
    owner: &mut Vec<(Ordinal, usize)>,
    tried: &mut Vec<Ordinal>,
) -> bool {
    for event in candidates.get(filter).into_iter().flatten() {
        if used.contains(event) || tried.contains(event) {
            continue;
        }
        tried.push(*event);
        match owner.iter().position(|(o, _)| o == event) {
            None => {
                owner.push((*event, filter));
                return true;
            }
            Some(i) => {
                let other = owner.get(i).map_or(0, |(_, f)| *f);
                if augment(candidates, used, other, owner, tried) {
                    if let Some(slot) = owner.iter_mut().find(|(o, _)| o == event) {
                        slot.1 = filter;
                    }
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_distinct_and_newest_first() {
        let o = |n: &[i64]| n.iter().map(|n| Ordinal::at(*n)).collect::<Vec<_>>();
        assert_eq!(assign(&[o(&[3]), o(&[3])]), None);
        assert_eq!(assign(&[o(&[3, 1]), o(&[3])]), Some(vec![1, 0]));
        assert_eq!(assign(&[o(&[3, 1]), o(&[3, 2])]), Some(vec![0, 1]));
        assert_eq!(
            assign(&[o(&[5, 4, 3]), o(&[5, 4]), o(&[5])]),
            Some(vec![2, 1, 0])
        );
        assert_eq!(assign(&[o(&[5, 4]), o(&[5, 4]), o(&[5, 4])]), None);
    }
}
