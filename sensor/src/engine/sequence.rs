//! Sequences: which partial match an event starts, advances, closes or completes.
//!
//! In: the steps of one sequence an event satisfies. Out: completed matches, in key order. One partial waits per key and
//! position (up to a bound where a later step refers to an alias). Must follow the order missing steps, stages from last to
//! first, until; and never looks back: a partial that moved on is not restored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::Fields;

use super::condition::Program;
use super::field::FieldRef;
use super::key::{self, EventKeys, Key, KeyPlan, Offered};
use super::partial_match::{KeyHasher, NewPartial, Node, Ordinal, Partial, Store};
use super::turn::Turn;
use super::{Limits, Match, RuleCounters};

/// A compiled sequence.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) rule: usize,
    /// By step of the query.
    pub(super) steps: Vec<StepPlan>,
    /// Positive steps with `runs` written out: the step each stage repeats.
    pub(super) stages: Vec<u32>,
    pub(super) span_ns: Option<i64>,
    pub(super) until: Option<StepPlan>,
    /// Steps (bit per step of the query) that delete, that advance, that are remembered.
    pub(super) removing: u64,
    pub(super) advancing: u64,
    pub(super) noting: u64,
    pub(super) leading: bool,
    pub(super) trailing: bool,
    /// Per position: whether it keeps several partials per key, because a later step chooses among them by alias.
    pub(super) several: Vec<bool>,
    /// The step that does nothing but start partials, where these may be put at their keys later: they age by their first
    /// event, and no earlier event has a say in them.
    pub(super) opener: Option<u32>,
}

#[derive(Debug)]
pub(super) struct StepPlan {
    pub(super) role: Role,
    pub(super) keys: KeyPlan,
    /// The whole condition when it refers to an alias; evaluated per partial.
    pub(super) alias: Option<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Stages `first..first + count`.
    Stages {
        first: usize,
        count: usize,
    },
    /// Deletes what waits at this position.
    Inner {
        position: usize,
    },
    Leading,
    Trailing,
    Until,
}

/// What a sequence remembers between events.
#[derive(Debug)]
pub(super) struct State<E> {
    pub(super) store: Store<E>,
    /// Completed matches that wait out a trailing missing step, by the time they are due.
    pub(super) timers: BTreeMap<(i64, u64), u32>,
    pub(super) timer_serial: u64,
    /// Keys with a remembered leading event, by the time it was noted.
    pub(super) leads: VecDeque<(i64, u32)>,
}

impl Sequence {
    pub(super) fn state<E>(&self, hasher: &KeyHasher) -> State<E> {
        State {
            store: Store::new(self.stages.len(), hasher.clone()),
            timers: BTreeMap::new(),
            timer_serial: 0,
            leads: VecDeque::new(),
        }
    }

    /// The steps (bit per step of the query) of which an event would find something to act on.
    pub(super) fn armed<E>(&self, state: &State<E>) -> u64 {
        let armed = |plan: &StepPlan| match plan.role {
            Role::Stages { first: 0, .. } | Role::Leading | Role::Until => true,
            Role::Stages { first, count } => state.store.waits(first - 1, count),
            Role::Inner { position } => state.store.waits(position, 1),
            Role::Trailing => !state.timers.is_empty(),
        };
        let bits = (0u32..).zip(&self.steps).filter(|(_, plan)| armed(plan));
        bits.fold(0, |mask, (i, _)| mask | 1 << i)
    }

    /// Lets an event act that satisfies the steps in `mask` (bit per step of the query) and, if `until`, the until filter.
    pub(super) fn process<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        (mask, until): (u64, bool),
        out: &mut Vec<Match<E>>,
    ) {
        if let Some(opener) = self.opener {
            if mask == 1 << opener && !until && self.open_later(state, turn, opener) {
                return;
            }
            let (fields, limits) = (&turn.leaves.fields, turn.limits);
            self.settle(state, fields, limits, turn.counters);
        }
        let mut left = mask & self.removing;
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            match self.steps.get(i).map(|s| s.role) {
                Some(Role::Inner { position }) => self.close(state, turn, keys, i, position),
                Some(Role::Trailing) => self.reject(state, turn, keys, i),
                _ => {}
            }
        }
        // The last first.
        let mut left = mask & self.advancing;
        while left != 0 {
            let i = 63 - left.leading_zeros();
            left &= !(1 << i);
            let i = i as usize;
            if let Some(Role::Stages { first, count }) = self.steps.get(i).map(|s| s.role) {
                self.advance(state, turn, keys, i, (first, count), out);
            }
        }
        let mut left = mask & self.noting;
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            self.note_lead(state, turn, keys, i);
        }
        if until && let Some(until) = &self.until {
            self.close_all(state, turn, keys, until);
        }
        turn.counters.partials = state.store.len() as u64;
    }

    /// Starts a partial whose key nobody has asked for yet. Most of them only ever wait: an event that does nothing else costs
    /// a place in a queue. `false` when the event may start several.
    fn open_later<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        opener: u32,
    ) -> bool {
        let Some(plan) = self.steps.get(opener as usize) else {
            return false;
        };
        let fields = &turn.leaves.fields;
        match key::offered(&plan.keys, fields, turn.event) {
            Offered::None => return true,
            Offered::One => {}
            Offered::Several => return false,
        }
        turn.counters.opened += 1;
        let root = self.root(turn);
        let room = state.store.put_fresh(root, turn.ordinal);
        if !room || state.store.len() > turn.limits.partials {
            self.settle(state, fields, turn.limits, turn.counters);
        }
        turn.counters.partials = state.store.len() as u64;
        true
    }

    /// Puts at their keys all partials that are not there yet.
    pub(super) fn settle<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        fields: &[FieldRef],
        limits: &Limits,
        counters: &mut RuleCounters,
    ) {
        if state.store.fresh().is_empty() {
            return;
        }
        let Some(plan) = self.opener.and_then(|at| self.steps.get(at as usize)) else {
            return;
        };
        let before = counters.replaced;
        let mut placed = 0;
        while let Some(fresh) = state.store.take_fresh() {
            let mut keys = EventKeys::new(&fresh.root.event);
            let (keys, _) = keys.of(
                &plan.keys,
                fields,
                &state.store.hasher,
                limits.keys_per_event,
            );
            let Some(key) = keys.first() else { continue };
            let new = NewPartial {
                tail: fresh.root.clone(),
                first_ns: fresh.at.time_ns,
                last: fresh.at,
                lead_ns: None,
            };
            let entry = state.store.find_or_insert(key.hash, &key.tuple);
            self.place(state, limits, counters, entry, new);
            placed += 1;
        }
        let replaced = usize::try_from(counters.replaced - before).unwrap_or(usize::MAX);
        state.store.learn(placed, replaced);
    }

    /// The stages of one step, last first.
    fn advance<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        step: usize,
        (first, count): (usize, usize),
        out: &mut Vec<Match<E>>,
    ) {
        let Some(plan) = self.steps.get(step) else {
            return;
        };
        // Nothing waits for a later stage: no need to work out the keys.
        if first > 0 && !state.store.waits(first - 1, count) {
            return;
        }
        let keys = turn.keys(keys, &plan.keys, &state.store.hasher);
        // One node starts the partials of all keys.
        let root = (first == 0 && !keys.is_empty()).then(|| self.root(turn));
        for stage in (first..first + count).rev() {
            for key in keys {
                if let (0, Some(root)) = (stage, &root) {
                    self.open(state, turn, key, root.clone(), out);
                } else if let Some(entry) = state.store.find(key.hash, &key.tuple)
                    && let Some(id) = self.choose(state, turn, plan, entry, stage - 1)
                {
                    self.extend(state, turn, id, stage, out);
                }
            }
        }
    }

    /// The partial an event advances: the newest whose alias condition holds. Expired ones it meets are dropped.
    fn choose<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        plan: &StepPlan,
        entry: u32,
        position: usize,
    ) -> Option<u32> {
        let mut next = state.store.head(entry, position);
        while let Some(id) = next {
            next = state.store.below(id);
            let partial = state.store.get(id)?;
            if partial.last >= turn.ordinal
                || !plan
                    .alias
                    .as_ref()
                    .is_none_or(|p| turn.holds_for(p, &partial.tail))
            {
                continue;
            }
            if self
                .span_ns
                .is_some_and(|span| turn.ordinal.time_ns.saturating_sub(partial.first_ns) > span)
            {
                state.store.remove(id);
                turn.counters.expired += 1;
                continue;
            }
            return Some(id);
        }
        None
    }

    /// The event as the first of a match: one node starts the partials of all keys and rules.
    fn root<E: Fields + Clone>(&self, turn: &mut Turn<'_, E>) -> Arc<Node<E>> {
        let step = self.stages.first().copied().unwrap_or(0);
        if step != 0 {
            return Node::new(turn.event.clone(), step, None);
        }
        let event = turn.event;
        let root = turn
            .root
            .get_or_insert_with(|| Node::new(event.clone(), 0, None));
        root.clone()
    }

    fn open<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        key: &Key<'_>,
        tail: Arc<Node<E>>,
        out: &mut Vec<Match<E>>,
    ) {
        let entry = state.store.find_or_insert(key.hash, &key.tuple);
        let lead = state
            .store
            .entry(entry)
            .and_then(|e| e.lead)
            .filter(|lead| *lead < turn.ordinal);
        turn.counters.opened += 1;
        let new = NewPartial {
            tail,
            first_ns: turn.ordinal.time_ns,
            last: turn.ordinal,
            lead_ns: lead.map(|l| l.time_ns),
        };
        if self.stages.len() > 1 {
            self.place(state, turn.limits, turn.counters, entry, new);
        } else {
            let id = state.store.insert(entry, 0, new);
            self.complete(state, turn, id, out);
        }
    }

    /// Puts a partial of one event at its key.
    fn place<E>(
        &self,
        state: &mut State<E>,
        limits: &Limits,
        counters: &mut RuleCounters,
        entry: u32,
        new: NewPartial<E>,
    ) {
        if !self.several.first().copied().unwrap_or(false)
            && let Some(head) = state.store.head(entry, 0)
        {
            state.store.renew(head, new);
            counters.replaced += 1;
            return;
        }
        // Held meanwhile: the partial that makes room may be all that keeps the entry.
        state.store.hold(entry);
        self.make_room(state, limits, counters, entry, 0);
        state.store.insert(entry, 0, new);
        state.store.unhold(entry);
        bound(state, limits, counters);
    }

    fn extend<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        id: u32,
        stage: usize,
        out: &mut Vec<Match<E>>,
    ) {
        state.store.detach(id);
        let step = self.stages.get(stage).copied().unwrap_or(0);
        let Some(partial) = state.store.get_mut(id) else {
            return;
        };
        let entry = partial.entry;
        partial.last = turn.ordinal;
        let tail = Node::new(turn.event.clone(), step, Some(partial.tail.clone()));
        state.store.set_tail(id, tail);
        if stage + 1 < self.stages.len() {
            self.make_room(state, turn.limits, turn.counters, entry, stage);
            state.store.push(id, stage);
            if self.span_ns.is_none() {
                state.store.touch(id);
            }
        } else {
            self.complete(state, turn, id, out);
        }
    }

    /// Clears a position for a newer partial: the one there is replaced, or the oldest of several when they are too many.
    fn make_room<E>(
        &self,
        state: &mut State<E>,
        limits: &Limits,
        counters: &mut RuleCounters,
        entry: u32,
        position: usize,
    ) {
        let Some(head) = state.store.head(entry, position) else {
            return;
        };
        if !self.several.get(position).copied().unwrap_or(false) {
            state.store.remove(head);
            counters.replaced += 1;
            return;
        }
        let mut last = head;
        let mut count = 1;
        while let Some(below) = state.store.below(last) {
            last = below;
            count += 1;
        }
        if count >= limits.alias_partials {
            state.store.remove(last);
            counters.evicted += 1;
        }
    }

    /// All stages have matched: emit, wait out a trailing missing step, or drop.
    fn complete<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        id: u32,
        out: &mut Vec<Match<E>>,
    ) {
        let Some(partial) = state.store.get(id) else {
            return;
        };
        let span = self.span_ns.unwrap_or(i64::MAX);
        let lead = partial
            .lead_ns
            .filter(|lead| self.leading && partial.last.time_ns.saturating_sub(*lead) <= span);
        let due = match (self.leading, self.trailing, lead) {
            (_, false, Some(_)) => {
                state.store.remove(id);
                turn.counters.closed += 1;
                return;
            }
            (_, false, None) | (true, true, None) => None,
            (true, true, Some(lead)) => Some(lead.saturating_add(span)),
            (false, true, _) => Some(partial.first_ns.saturating_add(span)),
        };
        match due {
            None => {
                if let Some(entry) = state.store.entry(partial.entry) {
                    out.push(self.matched(partial, entry.keys.to_vec(), turn.counters));
                }
                state.store.remove(id);
            }
            Some(due) => {
                let last = self.stages.len() - 1;
                if state
                    .store
                    .get(id)
                    .is_some_and(|p| p.position as usize != last)
                {
                    state.store.push(id, last);
                }
                state.timer_serial += 1;
                let timer = (due, state.timer_serial);
                state.timers.insert(timer, id);
                if let Some(partial) = state.store.get_mut(id) {
                    partial.timer = Some(timer);
                }
                bound(state, turn.limits, turn.counters);
            }
        }
    }

    fn matched<E: Clone>(
        &self,
        partial: &Partial<E>,
        keys: Vec<Option<crate::event::OwnedValue>>,
        counters: &mut RuleCounters,
    ) -> Match<E> {
        counters.matches += 1;
        let mut events = Vec::with_capacity(self.stages.len());
        let mut node = Some(&partial.tail);
        while let Some(at) = node {
            events.push(at.event.clone());
            node = at.previous.as_ref();
        }
        events.reverse();
        Match {
            rule: self.rule,
            keys,
            events,
            tally: None,
        }
    }

    /// An inner missing event: what waits before it is deleted if it came earlier.
    fn close<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        step: usize,
        position: usize,
    ) {
        let Some(plan) = self.steps.get(step) else {
            return;
        };
        if state.store.len() == 0 {
            return;
        }
        for key in turn.keys(keys, &plan.keys, &state.store.hasher) {
            if let Some(entry) = state.store.find(key.hash, &key.tuple) {
                self.delete_at(state, turn, plan, entry, position);
            }
        }
    }

    fn delete_at<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        plan: &StepPlan,
        entry: u32,
        position: usize,
    ) {
        let mut next = state.store.head(entry, position);
        while let Some(id) = next {
            next = state.store.below(id);
            let Some(partial) = state.store.get(id) else {
                return;
            };
            let earlier = partial.last < turn.ordinal || plan.role == Role::Until;
            if earlier
                && plan
                    .alias
                    .as_ref()
                    .is_none_or(|p| turn.holds_for(p, &partial.tail))
            {
                evict(state, id);
                turn.counters.closed += 1;
            }
        }
    }

    /// A trailing missing event: matches that wait for their time are rejected if it came within.
    fn reject<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        step: usize,
    ) {
        let Some(plan) = self.steps.get(step) else {
            return;
        };
        if state.timers.is_empty() {
            return;
        }
        let last = self.stages.len() - 1;
        for key in turn.keys(keys, &plan.keys, &state.store.hasher) {
            let mut next = state
                .store
                .find(key.hash, &key.tuple)
                .and_then(|e| state.store.head(e, last));
            while let Some(id) = next {
                next = state.store.below(id);
                let Some(partial) = state.store.get(id) else {
                    break;
                };
                let within = partial.last < turn.ordinal
                    && partial
                        .timer
                        .is_some_and(|(due, _)| turn.ordinal.time_ns <= due);
                if within
                    && plan
                        .alias
                        .as_ref()
                        .is_none_or(|p| turn.holds_for(p, &partial.tail))
                {
                    evict(state, id);
                    turn.counters.closed += 1;
                }
            }
        }
    }

    /// A leading missing event is remembered for `maxspan`.
    fn note_lead<E: Fields>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        step: usize,
    ) {
        let Some(plan) = self.steps.get(step) else {
            return;
        };
        for key in turn.keys(keys, &plan.keys, &state.store.hasher) {
            let id = state.store.find_or_insert(key.hash, &key.tuple);
            let Some(entry) = state.store.entry_mut(id) else {
                continue;
            };
            match entry.lead {
                Some(lead) if lead > turn.ordinal => {}
                Some(_) => entry.lead = Some(turn.ordinal),
                None => {
                    entry.lead = Some(turn.ordinal);
                    state.leads.push_back((turn.ordinal.time_ns, id));
                    state.store.hold(id);
                }
            }
        }
        while state.leads.len() > turn.limits.partials {
            let Some((_, id)) = state.leads.pop_front() else {
                break;
            };
            forget_lead(state, id);
            turn.counters.evicted += 1;
        }
    }

    /// The until event: everything incomplete at its keys is deleted.
    fn close_all<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        turn: &mut Turn<'_, E>,
        keys: &mut EventKeys<'_, E>,
        until: &StepPlan,
    ) {
        if state.store.len() == 0 {
            return;
        }
        for key in turn.keys(keys, &until.keys, &state.store.hasher) {
            let Some(entry) = state.store.find(key.hash, &key.tuple) else {
                continue;
            };
            for position in 0..self.stages.len() - 1 {
                self.delete_at(state, turn, until, entry, position);
            }
        }
    }

    /// Time has come to `now_ns`: matches that are due go out, what can no longer complete is forgotten.
    pub(super) fn expire<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        now_ns: i64,
        clocks: &Clocks,
        counters: &mut RuleCounters,
        out: &mut Vec<Match<E>>,
    ) {
        while let Some(entry) = state.timers.first_entry()
            && entry.key().0 < now_ns
        {
            let id = entry.remove();
            self.emit(state, id, counters, out);
        }
        let life = self
            .span_ns
            .unwrap_or(clocks.idle_ns)
            .saturating_add(clocks.late_ns);
        while let Some(id) = state.store.oldest()
            && let Some(partial) = state.store.get(id)
        {
            let from = if self.span_ns.is_some() {
                partial.first_ns
            } else {
                partial.last.time_ns
            };
            if now_ns.saturating_sub(from) <= life {
                break;
            }
            evict(state, id);
            if self.span_ns.is_some() {
                counters.expired += 1;
            } else {
                counters.evicted += 1;
            }
        }
        // Fresh ones are younger than all others, and age by their only event.
        while state.store.oldest().is_none()
            && let Some(fresh) = state.store.fresh().front()
            && now_ns.saturating_sub(fresh.at.time_ns) > life
        {
            state.store.take_fresh();
            counters.expired += 1;
        }
        while let Some((noted, id)) = state.leads.front().copied()
            && now_ns.saturating_sub(noted) > life
        {
            state.leads.pop_front();
            let newest = state
                .store
                .entry(id)
                .and_then(|e| e.lead)
                .map_or(noted, |l| l.time_ns);
            if newest > noted && now_ns.saturating_sub(newest) <= life {
                state.leads.push_back((newest, id));
            } else {
                forget_lead(state, id);
            }
        }
        counters.partials = state.store.len() as u64;
    }

    /// The input has ended: nothing can reject what still waits.
    pub(super) fn finish<E: Fields + Clone>(
        &self,
        state: &mut State<E>,
        counters: &mut RuleCounters,
        out: &mut Vec<Match<E>>,
    ) {
        while let Some((_, id)) = state.timers.pop_first() {
            self.emit(state, id, counters, out);
        }
        counters.partials = state.store.len() as u64;
    }

    fn emit<E: Clone>(
        &self,
        state: &mut State<E>,
        id: u32,
        counters: &mut RuleCounters,
        out: &mut Vec<Match<E>>,
    ) {
        if let Some(partial) = state.store.get(id)
            && let Some(entry) = state.store.entry(partial.entry)
        {
            out.push(self.matched(partial, entry.keys.to_vec(), counters));
        }
        state.store.remove(id);
    }
}

/// How long things are kept that no maxspan bounds, and how late an event may still use a partial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) idle_ns: i64,
    pub(super) late_ns: i64,
}

/// Keeps the number of partials within the bound, the oldest going first. Fresh ones do not count: each may turn out to
/// replace another.
fn bound<E>(state: &mut State<E>, limits: &Limits, counters: &mut RuleCounters) {
    while state.store.placed() > limits.partials
        && let Some(oldest) = state.store.oldest()
    {
        evict(state, oldest);
        counters.evicted += 1;
    }
}

/// Removes the oldest partial; `false` when there is none.
pub(super) fn evict_oldest<E>(state: &mut State<E>) -> bool {
    match state.store.oldest() {
        Some(oldest) => {
            evict(state, oldest);
            true
        }
        None => state.store.take_fresh().is_some(),
    }
}

/// Removes a partial and its timer.
pub(super) fn evict<E>(state: &mut State<E>, id: u32) {
    if let Some(partial) = state.store.remove(id)
        && let Some(timer) = partial.timer
    {
        state.timers.remove(&timer);
    }
}

fn forget_lead<E>(state: &mut State<E>, entry: u32) {
    if let Some(e) = state.store.entry_mut(entry) {
        e.lead = None;
        state.store.unhold(entry);
    }
}

impl Ordinal {
    #[cfg(test)]
    pub(super) fn at(time_ns: i64) -> Self {
        Self {
            time_ns,
            arrival: 0,
        }
    }
}
