//! What an engine remembers, in a form that outlives the process and the rule set.
//!
//! In: an engine and the caller's way to write an event. Out: a [`Snapshot`], and back. Rules are recognised by their query,
//! so what belongs to a rule that has changed or gone is left behind and counted. Bounds of the receiving engine apply.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::{Fields, OwnedValue};

use super::key::{self, Tuple};
use super::lineage::{Mark, Marks};
use super::partial_match::{NewPartial, Node, Ordinal};
use super::sample::SampleState;
use super::sequence::{self, Sequence, State};
use super::{Engine, FormState, PlanForm};

/// What an engine remembers. `T` is the caller's form of an event, asked for once per place an event is held in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot<T> {
    now_ns: i64,
    arrivals: u64,
    rules: Vec<SavedRule<T>>,
    processes: Vec<SavedProcess>,
}

impl<T> Snapshot<T> {
    /// The same with another form of each event.
    pub fn map<U>(&self, mut form: impl FnMut(&T) -> U) -> Snapshot<U> {
        let Ok(mapped) = self.try_map(|event| Ok::<U, Infallible>(form(event)));
        mapped
    }

    /// The same with another form of each event.
    ///
    /// # Errors
    /// The first event's that has no such form.
    pub fn try_map<U, X>(
        &self,
        mut form: impl FnMut(&T) -> Result<U, X>,
    ) -> Result<Snapshot<U>, X> {
        let rule = |rule: &SavedRule<T>| {
            let sequence = rule.sequence.as_ref();
            let sample = rule.sample.iter();
            Ok(SavedRule {
                fingerprint: rule.fingerprint,
                copy: rule.copy,
                sequence: sequence.map(|s| s.try_map(&mut form)).transpose()?,
                sample: sample
                    .map(|group| group.try_map(&mut form))
                    .collect::<Result<_, X>>()?,
                pipes: rule.pipes.clone(),
            })
        };
        Ok(Snapshot {
            now_ns: self.now_ns,
            arrivals: self.arrivals,
            rules: self.rules.iter().map(rule).collect::<Result<_, X>>()?,
            processes: self.processes.clone(),
        })
    }

    /// Partial matches in it, and events of samples.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.rules.iter().map(SavedRule::held).sum()
    }
}

impl<T> SavedSequence<T> {
    fn try_map<U, X>(
        &self,
        form: &mut impl FnMut(&T) -> Result<U, X>,
    ) -> Result<SavedSequence<U>, X> {
        let node = |node: &SavedNode<T>| {
            Ok(SavedNode {
                event: form(&node.event)?,
                step: node.step,
                previous: node.previous,
            })
        };
        Ok(SavedSequence {
            nodes: self.nodes.iter().map(node).collect::<Result<_, X>>()?,
            partials: self.partials.clone(),
            places: self.places.clone(),
            leads: self.leads.clone(),
            timer_serial: self.timer_serial,
        })
    }
}

impl<T> SavedGroup<T> {
    fn try_map<U, X>(&self, form: &mut impl FnMut(&T) -> Result<U, X>) -> Result<SavedGroup<U>, X> {
        let mut hits = Vec::with_capacity(self.hits.len());
        for of_filter in &self.hits {
            let hit = |(ordinal, event): &(SavedOrdinal, T)| Ok((*ordinal, form(event)?));
            hits.push(of_filter.iter().map(hit).collect::<Result<_, X>>()?);
        }
        Ok(SavedGroup {
            keys: self.keys.clone(),
            hits,
        })
    }
}

/// How much of a snapshot found its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Partial matches (and events of samples) that are waiting again.
    pub kept: u64,
    /// Those whose rule is gone or changed, or whose events could not be read back.
    pub left: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedRule<T> {
    fingerprint: u64,
    /// Which of several rules with the same query.
    copy: u32,
    sequence: Option<SavedSequence<T>>,
    sample: Vec<SavedGroup<T>>,
    pipes: Vec<SavedPipe>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedSequence<T> {
    nodes: Vec<SavedNode<T>>,
    /// Oldest first. Those at no place have not been put at their keys.
    partials: Vec<SavedPartial>,
    /// Per key and position the partials there, the newest last.
    places: Vec<SavedPlace>,
    leads: Vec<SavedLead>,
    timer_serial: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedNode<T> {
    event: T,
    step: u32,
    previous: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedPartial {
    tail: u32,
    first_ns: i64,
    last: SavedOrdinal,
    lead_ns: Option<i64>,
    timer: Option<(i64, u64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedPlace {
    keys: Vec<Option<SavedValue>>,
    position: u32,
    partials: Vec<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedLead {
    keys: Vec<Option<SavedValue>>,
    noted_ns: i64,
    newest: SavedOrdinal,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedGroup<T> {
    keys: Vec<Option<SavedValue>>,
    /// Newest first, per filter.
    hits: Vec<Vec<(SavedOrdinal, T)>>,
}

/// What a pipe remembers between events of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum SavedPipe {
    Head(u64),
    Unique(Vec<Box<str>>),
    Counts(Vec<SavedCount>),
    Nothing,
}

/// What a rule that counts knows of one key, the one used longest ago first among others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedCount {
    /// Of the key's values.
    pub(super) hash: u128,
    /// As a rule that counts has them: of the newest events, and per counted field of the newest values, with their hashes.
    pub(super) times: Vec<i64>,
    pub(super) distinct: Vec<Vec<(u128, i64)>>,
    pub(super) last_ns: i64,
    pub(super) told_until_ns: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedProcess {
    id: Box<str>,
    ended_ns: Option<i64>,
    /// Fingerprints of the inner queries, by relation as [`Marks`] has them.
    own: Vec<u64>,
    parent: Vec<u64>,
    ancestors: Vec<u64>,
}

type SavedOrdinal = (i64, u64);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum SavedValue {
    Str(Box<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    Date(i64),
}

impl From<&OwnedValue> for SavedValue {
    fn from(value: &OwnedValue) -> Self {
        match value {
            OwnedValue::Str(s) => SavedValue::Str((&**s).into()),
            OwnedValue::Int(i) => SavedValue::Int(*i),
            OwnedValue::Float(f) => SavedValue::Float(*f),
            OwnedValue::Bool(b) => SavedValue::Bool(*b),
            OwnedValue::Ip(ip) => SavedValue::Ip(*ip),
            OwnedValue::Date(ns) => SavedValue::Date(*ns),
        }
    }
}

impl From<SavedValue> for OwnedValue {
    fn from(value: SavedValue) -> Self {
        match value {
            SavedValue::Str(s) => OwnedValue::Str((&*s).into()),
            SavedValue::Int(i) => OwnedValue::Int(i),
            SavedValue::Float(f) => OwnedValue::Float(f),
            SavedValue::Bool(b) => OwnedValue::Bool(b),
            SavedValue::Ip(ip) => OwnedValue::Ip(ip),
            SavedValue::Date(ns) => OwnedValue::Date(ns),
        }
    }
}

fn save_keys(keys: &[Option<OwnedValue>]) -> Vec<Option<SavedValue>> {
    keys.iter()
        .map(|k| k.as_ref().map(SavedValue::from))
        .collect()
}

fn load_keys(keys: Vec<Option<SavedValue>>) -> Box<[Option<OwnedValue>]> {
    keys.into_iter().map(|k| k.map(OwnedValue::from)).collect()
}

fn save_ordinal(ordinal: Ordinal) -> SavedOrdinal {
    (ordinal.time_ns, ordinal.arrival)
}

fn load_ordinal((time_ns, arrival): SavedOrdinal) -> Ordinal {
    Ordinal { time_ns, arrival }
}

impl<E: Fields + Clone> Engine<E> {
    /// Saves what the engine remembers of the stream. `write` gives the caller's form of an event; where events are shared
    /// it may give a number and keep the event once. Counters and what only replay holds back are not part of it.
    pub fn save<T>(&self, mut write: impl FnMut(&E) -> T) -> Snapshot<T> {
        let mut copies: HashMap<u64, u32> = HashMap::new();
        let mut rules = Vec::new();
        for (plan, state) in self.plans.iter().zip(&self.states) {
            let copy = copies.entry(plan.fingerprint).or_default();
            let mut saved = SavedRule {
                fingerprint: plan.fingerprint,
                copy: *copy,
                sequence: None,
                sample: Vec::new(),
                pipes: state.pipes.save(),
            };
            *copy += 1;
            match &state.form {
                FormState::Event => {}
                FormState::Sequence(state) => {
                    saved.sequence = Some(save_sequence(state, &mut write))
                }
                FormState::Sample(state) => saved.sample = save_sample(state, &mut write),
            }
            rules.push(saved);
        }
        Snapshot {
            now_ns: self.now_ns,
            arrivals: self.arrivals,
            rules,
            processes: self.save_processes(),
        }
    }

    /// Takes over what another engine saved, as far as it concerns the rules of this one. `read` gives back an event, `None`
    /// if it cannot. Meant for an engine that has not seen events yet.
    pub fn restore<T>(
        &mut self,
        snapshot: Snapshot<T>,
        mut read: impl FnMut(&T) -> Option<E>,
    ) -> Restored {
        let mut restored = Restored::default();
        self.now_ns = self.now_ns.max(snapshot.now_ns);
        self.arrivals = self.arrivals.max(snapshot.arrivals);
        let mut copies: HashMap<u64, u32> = HashMap::new();
        let mut places: HashMap<(u64, u32), usize> = HashMap::new();
        for (at, plan) in self.plans.iter().enumerate() {
            let copy = copies.entry(plan.fingerprint).or_default();
            places.insert((plan.fingerprint, *copy), at);
            *copy += 1;
        }
        for rule in snapshot.rules {
            let at = places
                .get(&(rule.fingerprint, rule.copy))
                .copied()
                .unwrap_or(usize::MAX);
            let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
                restored.left += rule.held();
                continue;
            };
            let counted = state.pipes.restore(rule.pipes, self.limits.terms);
            if let (Some(counted), Some(counters)) = (counted, self.counters.get_mut(plan.rule)) {
                counters.terms = counted;
            }
            let before = state.form.bytes(&self.limits);
            match (&plan.form, &mut state.form) {
                (PlanForm::Sequence(plan), FormState::Sequence(state)) => {
                    if let Some(saved) = rule.sequence {
                        load_sequence(plan, state, saved, &mut read, &mut restored);
                    }
                    let max = self.limits.partials;
                    while state.store.len() > max && sequence::evict_oldest(state) {}
                }
                (PlanForm::Sample(_), FormState::Sample(state)) => {
                    load_sample(state, rule.sample, &mut read, &mut restored);
                }
                _ => {}
            }
            self.held = self.held + state.form.bytes(&self.limits) - before;
            if let Some(counters) = self.counters.get_mut(plan.rule) {
                counters.partials = state.form.held() as u64;
            }
            if let Some(armed) = self.armed.get_mut(at) {
                *armed = super::armed((plan, state));
            }
        }
        self.restore_processes(snapshot.processes);
        self.keep_budget();
        restored
    }

    fn save_processes(&self) -> Vec<SavedProcess> {
        let names = |bits: u128| -> Vec<u64> {
            self.marks
                .iter()
                .zip(0u8..)
                .filter(|(_, i)| bits >> i & 1 == 1)
                .map(|(name, _)| *name)
                .collect()
        };
        let ended: HashMap<&str, i64> = self
            .processes
            .ended
            .iter()
            .map(|(at, id)| (&**id, *at))
            .collect();
        let known = self
            .processes
            .order
            .iter()
            .filter_map(|id| Some((id, self.processes.by_id.get(id)?)));
        known
            .map(|(id, marks)| SavedProcess {
                id: (&**id).into(),
                ended_ns: ended.get(&**id).copied(),
                own: names(marks.own),
                parent: names(marks.parent),
                ancestors: names(marks.ancestors),
            })
            .collect()
    }

    fn restore_processes(&mut self, saved: Vec<SavedProcess>) {
        if self.lineage.is_none() {
            return;
        }
        let bit = |name: &u64| {
            self.marks
                .iter()
                .position(|known| known == name)
                .and_then(|i| u8::try_from(i).ok())
        };
        let bits = |names: &[u64]| {
            names
                .iter()
                .filter_map(bit)
                .map(Mark)
                .fold(0u128, |bits, m| bits | 1 << m.0)
        };
        let mut ended = Vec::new();
        for process in saved {
            let id: Arc<str> = (&*process.id).into();
            let marks = Marks {
                own: bits(&process.own),
                parent: bits(&process.parent),
                ancestors: bits(&process.ancestors),
            };
            if let Some(at) = process.ended_ns {
                ended.push((at, id.clone()));
            }
            self.processes.by_id.insert(id.clone(), marks);
            self.processes.order.push_back(id);
        }
        ended.sort_by_key(|(at, _)| *at);
        self.processes.ended.extend(ended);
    }
}

impl<T> SavedRule<T> {
    fn held(&self) -> u64 {
        let partials = self.sequence.as_ref().map_or(0, |s| s.partials.len());
        let hits: usize = self.sample.iter().flat_map(|g| &g.hits).map(Vec::len).sum();
        (partials + hits) as u64
    }
}

fn save_sequence<E, T>(state: &State<E>, write: &mut impl FnMut(&E) -> T) -> SavedSequence<T> {
    let mut nodes = Vec::new();
    let mut node_ids: HashMap<*const Node<E>, u32> = HashMap::new();
    let mut partials = Vec::new();
    let mut partial_ids: HashMap<u32, u32> = HashMap::new();
    for id in state.store.by_age() {
        let Some(partial) = state.store.get(id) else {
            continue;
        };
        partial_ids.insert(id, u32::try_from(partials.len()).unwrap_or(u32::MAX));
        partials.push(SavedPartial {
            tail: save_chain(&partial.tail, &mut nodes, &mut node_ids, write),
            first_ns: partial.first_ns,
            last: save_ordinal(partial.last),
            lead_ns: partial.lead_ns,
            timer: partial.timer,
        });
    }
    for fresh in state.store.fresh() {
        partials.push(SavedPartial {
            tail: save_chain(&fresh.root, &mut nodes, &mut node_ids, write),
            first_ns: fresh.at.time_ns,
            last: save_ordinal(fresh.at),
            lead_ns: None,
            timer: None,
        });
    }
    let mut places = Vec::new();
    for entry in state.store.entry_ids() {
        let Some(keys) = state.store.entry(entry).map(|e| save_keys(&e.keys)) else {
            continue;
        };
        for position in 0..state.store.positions() {
            let newest_first = std::iter::successors(state.store.head(entry, position), |id| {
                state.store.below(*id)
            });
            let mut there: Vec<u32> = newest_first
                .filter_map(|id| partial_ids.get(&id).copied())
                .collect();
            there.reverse();
            if !there.is_empty() {
                let position = u32::try_from(position).unwrap_or(u32::MAX);
                places.push(SavedPlace {
                    keys: keys.clone(),
                    position,
                    partials: there,
                });
            }
        }
    }
    let leads = state.leads.iter().filter_map(|(noted_ns, entry)| {
        let entry = state.store.entry(*entry)?;
        Some(SavedLead {
            keys: save_keys(&entry.keys),
            noted_ns: *noted_ns,
            newest: save_ordinal(entry.lead?),
        })
    });
    SavedSequence {
        leads: leads.collect(),
        nodes,
        partials,
        places,
        timer_serial: state.timer_serial,
    }
}

/// Numbers a chain's nodes, the first event's before the last's; shared ones once.
fn save_chain<E, T>(
    tail: &Arc<Node<E>>,
    nodes: &mut Vec<SavedNode<T>>,
    ids: &mut HashMap<*const Node<E>, u32>,
    write: &mut impl FnMut(&E) -> T,
) -> u32 {
    let chain: Vec<&Arc<Node<E>>> =
        std::iter::successors(Some(tail), |node| node.previous.as_ref()).collect();
    let mut previous = None;
    for node in chain.into_iter().rev() {
        let id = *ids.entry(Arc::as_ptr(node)).or_insert_with(|| {
            nodes.push(SavedNode {
                event: write(&node.event),
                step: node.step,
                previous,
            });
            u32::try_from(nodes.len() - 1).unwrap_or(u32::MAX)
        });
        previous = Some(id);
    }
    previous.unwrap_or(u32::MAX)
}

fn load_sequence<E: Fields + Clone, T>(
    plan: &Sequence,
    state: &mut State<E>,
    saved: SavedSequence<T>,
    read: &mut impl FnMut(&T) -> Option<E>,
    restored: &mut Restored,
) {
    // A node whose event is lost takes all that follow it along.
    let mut nodes: Vec<Option<Arc<Node<E>>>> = Vec::with_capacity(saved.nodes.len());
    for node in &saved.nodes {
        let previous = node
            .previous
            .map(|at| nodes.get(at as usize).cloned().flatten());
        let whole = !matches!(previous, Some(None)) && (node.step as usize) < plan.steps.len();
        let event = if whole { read(&node.event) } else { None };
        nodes.push(event.map(|event| Node::new(event, node.step, previous.flatten())));
    }
    let mut home: HashMap<u32, (&SavedPlace, u32)> = HashMap::new();
    for place in &saved.places {
        let keys = load_keys(place.keys.clone());
        let entry = entry_of(state, &keys);
        state.store.hold(entry);
        for partial in &place.partials {
            home.insert(*partial, (place, entry));
        }
    }
    let mut ids: HashMap<u32, u32> = HashMap::new();
    for (partial, number) in saved.partials.iter().zip(0u32..) {
        let tail = nodes.get(partial.tail as usize).cloned().flatten();
        let last = load_ordinal(partial.last);
        let (tail, entry) = match (tail, home.get(&number)) {
            (Some(tail), Some((_, entry))) => (tail, entry),
            (Some(tail), None) if plan.opener == Some(tail.step) => {
                state.store.put_fresh(tail, last);
                restored.kept += 1;
                continue;
            }
            _ => {
                restored.left += 1;
                continue;
            }
        };
        let new = NewPartial {
            tail,
            first_ns: partial.first_ns,
            last,
            lead_ns: partial.lead_ns,
        };
        let id = state.store.insert_unplaced(*entry, new);
        ids.insert(number, id);
        restored.kept += 1;
        if let Some(timer) = partial.timer {
            state.timers.insert(timer, id);
            if let Some(partial) = state.store.get_mut(id) {
                partial.timer = Some(timer);
            }
        }
    }
    for place in &saved.places {
        for id in place.partials.iter().filter_map(|number| ids.get(number)) {
            state.store.push(*id, place.position as usize);
        }
    }
    for lead in saved.leads {
        let entry = entry_of(state, &load_keys(lead.keys));
        if let Some(e) = state.store.entry_mut(entry)
            && e.lead.is_none()
        {
            e.lead = Some(load_ordinal(lead.newest));
            state.leads.push_back((lead.noted_ns, entry));
            state.store.hold(entry);
        }
    }
    state.timer_serial = state.timer_serial.max(saved.timer_serial);
    for place in &saved.places {
        let entry = entry_of(state, &load_keys(place.keys.clone()));
        state.store.unhold(entry);
    }
}

fn entry_of<E>(state: &mut State<E>, keys: &[Option<OwnedValue>]) -> u32 {
    let tuple: Tuple<'_> = keys
        .iter()
        .map(|k| k.as_ref().map(OwnedValue::as_value))
        .collect();
    let hash = key::hash_tuple(&tuple, &state.store.hasher);
    state.store.find_or_insert(hash, &tuple)
}

fn save_sample<E: Fields, T>(
    state: &SampleState<E>,
    write: &mut impl FnMut(&E) -> T,
) -> Vec<SavedGroup<T>> {
    // The longest idle first, so that restoring them in order restores their age.
    let ids = state
        .age
        .iter()
        .filter(|(seen, id)| state.group(*id).is_some_and(|g| g.seen == *seen));
    let groups = ids.filter_map(|(_, id)| state.group(*id));
    groups
        .map(|group| SavedGroup {
            keys: save_keys(&group.keys),
            hits: group
                .hits
                .iter()
                .map(|hits| {
                    hits.iter()
                        .map(|(o, e)| (save_ordinal(*o), write(e)))
                        .collect()
                })
                .collect(),
        })
        .collect()
}

fn load_sample<E: Fields + Clone, T>(
    state: &mut SampleState<E>,
    saved: Vec<SavedGroup<T>>,
    read: &mut impl FnMut(&T) -> Option<E>,
    restored: &mut Restored,
) {
    for group in saved {
        let mut hits = Vec::with_capacity(group.hits.len());
        for saved in group.hits {
            let all = saved.len();
            let events: Vec<(Ordinal, E)> = saved
                .into_iter()
                .filter_map(|(o, event)| Some((load_ordinal(o), read(&event)?)))
                .collect();
            restored.kept += events.len() as u64;
            restored.left += (all - events.len()) as u64;
            hits.push(events);
        }
        state.restore(load_keys(group.keys), hits);
    }
}
