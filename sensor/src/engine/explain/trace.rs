//! What became of every partial match of a sequence over a whole recording, and why.
//!
//! In: the steps of a sequence and all events in order. Out: every [`Partial`] that was ever begun, with the events that advanced
//! it and its end. It does what `engine::sequence` does, but remembers; a property test holds the two to the same matches.
//! Memory grows with the recording, so nothing that runs for long may use it.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::event::{Fields, OwnedValue, Value};

use super::super::key::{self, KeyField, KeyList, keys_of};
use super::{Explainer, Step};

/// Number of a key tuple.
pub(super) type KeyId = u32;

/// A partial match and what became of it.
#[derive(Clone, Debug)]
pub struct Partial {
    pub(super) key: KeyId,
    /// Positions of events, each with the step it satisfied.
    pub events: SmallVec<[(usize, usize); 4]>,
    pub end: End,
}

/// Why a partial match is no more. Numbers are positions of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It waits for its next step when the recording ends.
    Open,
    Completed,
    /// A newer one came to the same step with the same key.
    Replaced(usize),
    /// The next step came, but after `maxspan`.
    Late(usize),
    /// Nothing came for as long as one without `maxspan` is kept.
    Idle,
    /// The `until` event.
    Until(usize),
    /// An event of a missing step, before or between or after the others.
    Missing(usize, usize),
}

impl Partial {
    /// Stands for a match that was found otherwise: events with their steps.
    #[must_use]
    pub fn of(events: SmallVec<[(usize, usize); 4]>) -> Partial {
        Partial {
            key: KeyId::MAX,
            events,
            end: End::Completed,
        }
    }

    /// The first and the last event.
    pub(super) fn ends(&self) -> Option<(usize, usize)> {
        Some((self.events.first()?.0, self.events.last()?.0))
    }
}

/// All partial matches of a sequence over the events.
#[derive(Debug, Default)]
pub struct Trace {
    pub partials: Vec<Partial>,
    pub(super) keys: Keys,
}

impl Trace {
    /// The values of a partial's key.
    #[must_use]
    pub fn key(&self, partial: &Partial) -> &[Option<OwnedValue>] {
        self.keys.values(partial.key)
    }
}

/// Key tuples seen, numbered.
#[derive(Debug, Default)]
pub(super) struct Keys {
    values: Vec<Box<[Option<OwnedValue>]>>,
    numbers: HashMap<Box<[KeyText]>, KeyId>,
    hasher: hashbrown::DefaultHashBuilder,
}

/// A key value in the form in which it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum KeyText {
    Null,
    Bool(bool),
    Date(i64),
    Text(Box<str>),
}

impl KeyText {
    fn of(value: Option<&Value<'_>>) -> KeyText {
        match value {
            None => KeyText::Null,
            Some(Value::Bool(flag)) => KeyText::Bool(*flag),
            Some(Value::Date(ns)) => KeyText::Date(*ns),
            Some(Value::Str(text)) => KeyText::Text((*text).into()),
            Some(Value::Int(number)) => KeyText::Text(number.to_string().into()),
            Some(Value::Float(number)) => KeyText::Text(format!("{number:?}").into()),
            Some(Value::Ip(ip)) => KeyText::Text(ip.to_string().into()),
        }
    }
}

impl Keys {
    pub(super) fn values(&self, key: KeyId) -> &[Option<OwnedValue>] {
        self.values.get(key as usize).map_or(&[], |values| values)
    }

    /// The tuples of an event at a step, in the engine's order.
    pub(super) fn of<E: Fields>(
        &mut self,
        explainer: &Explainer<E>,
        fields: &[KeyField],
        event: &E,
    ) -> SmallVec<[KeyId; 2]> {
        let mut list = KeyList::new();
        let max = explainer.limits.keys_per_event;
        keys_of(
            &mut list,
            fields,
            &explainer.fields,
            event,
            &self.hasher,
            max,
        );
        let mut found = SmallVec::new();
        for key in list {
            let text: Box<[KeyText]> = key.tuple.iter().map(|v| KeyText::of(v.as_ref())).collect();
            let number = match self.numbers.get(&text) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
                    self.values.push(key::owned(&key.tuple));
                    self.numbers.insert(text, number);
                    number
                }
            };
            found.push(number);
        }
        found
    }

    /// Positions at which two tuples differ.
    pub(super) fn differing(&self, a: KeyId, b: KeyId) -> SmallVec<[usize; 4]> {
        let pairs = self.values(a).iter().zip(self.values(b));
        let value = |v: &Option<OwnedValue>| v.as_ref().map(|v| KeyText::of(Some(&v.as_value())));
        pairs
            .enumerate()
            .filter(|(_, (a, b))| value(a) != value(b))
            .map(|(at, _)| at)
            .collect()
    }
}

/// Where a positive step stands after repetitions are written out.
struct Stages {
    /// The step of each stage.
    of: Vec<usize>,
    /// Whether a stage keeps several partials per key.
    several: Vec<bool>,
    leading: Vec<usize>,
    /// With the stage before.
    inner: Vec<(usize, usize)>,
    trailing: Vec<usize>,
}

impl Stages {
    fn new(steps: &[Step]) -> Stages {
        let last_positive = steps.iter().rposition(|s| !s.missing).unwrap_or(0);
        let mut stages = Stages {
            of: Vec::new(),
            several: Vec::new(),
            leading: Vec::new(),
            inner: Vec::new(),
            trailing: Vec::new(),
        };
        for (at, step) in steps.iter().enumerate() {
            if !step.missing {
                stages.of.extend((0..step.runs.max(1)).map(|_| at));
            } else if at > last_positive {
                stages.trailing.push(at);
            } else {
                match stages.of.len().checked_sub(1) {
                    None => stages.leading.push(at),
                    Some(before) => stages.inner.push((before, at)),
                }
            }
        }
        let newest_alias = steps.iter().rposition(|s| s.condition.has_alias());
        let followers = stages.of.iter().skip(1).copied().chain([usize::MAX]);
        stages.several = stages
            .of
            .iter()
            .zip(followers)
            .map(|(step, follower)| {
                newest_alias
                    .is_some_and(|newest| newest > *step || (newest == *step && follower == *step))
            })
            .collect();
        stages
    }
}

struct Run<'x, E> {
    explainer: &'x Explainer<E>,
    stages: Stages,
    trace: Trace,
    /// Partials that wait at a key and stage, newest last.
    slots: BTreeMap<(KeyId, usize), Vec<usize>>,
    /// Events that satisfied a leading step, by step and key, in order.
    leads: HashMap<(usize, KeyId), Vec<usize>>,
    /// Completed ones that wait out a trailing step: partial and due time.
    waiting: Vec<(usize, i64)>,
}

pub(super) fn trace<E: Fields + Clone>(explainer: &Explainer<E>) -> Trace {
    let mut run = Run {
        explainer,
        stages: Stages::new(&explainer.steps),
        trace: Trace::default(),
        slots: BTreeMap::new(),
        leads: HashMap::new(),
        waiting: Vec::new(),
    };
    for at in 0..explainer.events.len() {
        run.event(at);
    }
    for (partial, _) in std::mem::take(&mut run.waiting) {
        run.end(partial, End::Completed);
    }
    run.trace
}

impl<E: Fields + Clone> Run<'_, E> {
    fn time(&self, at: usize) -> i64 {
        self.explainer.time_ns(at)
    }

    /// Time, then arrival.
    fn ordinal(&self, at: usize) -> (i64, usize) {
        (self.time(at), at)
    }

    fn end(&mut self, partial: usize, end: End) {
        if let Some(partial) = self.trace.partials.get_mut(partial) {
            partial.end = end;
        }
    }

    fn last(&self, partial: usize) -> usize {
        let ends = self.trace.partials.get(partial).and_then(Partial::ends);
        ends.map_or(0, |(_, last)| last)
    }

    fn first(&self, partial: usize) -> usize {
        let ends = self.trace.partials.get(partial).and_then(Partial::ends);
        ends.map_or(0, |(first, _)| first)
    }

    fn keys(&mut self, step: usize, at: usize) -> SmallVec<[KeyId; 2]> {
        let explainer = self.explainer;
        match (explainer.steps.get(step), explainer.events.get(at)) {
            (Some(step), Some(event)) => self.trace.keys.of(explainer, &step.keys, event),
            _ => SmallVec::new(),
        }
    }

    /// Whether the event satisfies a step for this partial, whose events aliases may name.
    fn holds_for(&self, step: usize, at: usize, partial: usize) -> bool {
        let Some(plan) = self.explainer.steps.get(step) else {
            return false;
        };
        if !plan.condition.has_alias() {
            return true;
        }
        let Some(partial) = self.trace.partials.get(partial) else {
            return false;
        };
        let bound = self.explainer.bound(partial);
        self.explainer.holds(&plan.condition, at, &bound)
    }

    fn event(&mut self, at: usize) {
        self.due(self.time(at));
        for (before, step) in self.stages.inner.clone() {
            if self.explainer.may_satisfy(step, at) {
                self.close(step, before, at);
            }
        }
        for step in self.stages.trailing.clone() {
            if self.explainer.may_satisfy(step, at) {
                self.reject(step, at);
            }
        }
        for stage in (0..self.stages.of.len()).rev() {
            let step = self.stages.of.get(stage).copied().unwrap_or(0);
            if self.explainer.may_satisfy(step, at) {
                for key in self.keys(step, at) {
                    self.advance(stage, step, key, at);
                }
            }
        }
        for step in self.stages.leading.clone() {
            if self.explainer.may_satisfy(step, at) {
                for key in self.keys(step, at) {
                    self.leads.entry((step, key)).or_default().push(at);
                }
            }
        }
        if self.explainer.until_holds(at)
            && let Some(until) = &self.explainer.until
            && let Some(event) = self.explainer.events.get(at)
        {
            let keys = self.trace.keys.of(self.explainer, &until.keys, event);
            for key in keys {
                for stage in 0..self.stages.of.len().saturating_sub(1) {
                    for partial in self.slots.remove(&(key, stage)).unwrap_or_default() {
                        self.end(partial, End::Until(at));
                    }
                }
            }
        }
    }

    /// Matches whose wait is over.
    fn due(&mut self, now_ns: i64) {
        let (over, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, due)| *due < now_ns);
        self.waiting = waiting;
        for (partial, _) in over {
            self.end(partial, End::Completed);
        }
    }

    fn close(&mut self, step: usize, before: usize, at: usize) {
        for key in self.keys(step, at) {
            let slot = self.slots.get(&(key, before)).cloned().unwrap_or_default();
            let (closed, left): (Vec<usize>, Vec<usize>) = slot.into_iter().partition(|partial| {
                self.ordinal(self.last(*partial)) < self.ordinal(at)
                    && self.holds_for(step, at, *partial)
            });
            for partial in closed {
                self.end(partial, End::Missing(at, step));
            }
            self.slots.insert((key, before), left);
        }
    }

    fn reject(&mut self, step: usize, at: usize) {
        let keys = self.keys(step, at);
        let (rejected, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(partial, due)| {
                let key = self.trace.partials.get(*partial).map(|p| p.key);
                key.is_some_and(|key| keys.contains(&key))
                    && self.ordinal(self.last(*partial)) < self.ordinal(at)
                    && self.time(at) <= *due
                    && self.holds_for(step, at, *partial)
            });
        self.waiting = waiting;
        for (partial, _) in rejected {
            self.end(partial, End::Missing(at, step));
        }
    }

    fn advance(&mut self, stage: usize, step: usize, key: KeyId, at: usize) {
        let partial = match stage.checked_sub(1) {
            None => {
                // The first stage has no earlier events to name.
                if !self.explainer.satisfies(step, at) {
                    return;
                }
                self.trace.partials.push(Partial {
                    key,
                    events: SmallVec::new(),
                    end: End::Open,
                });
                self.trace.partials.len() - 1
            }
            Some(before) => match self.choose(before, step, key, at) {
                Some(partial) => partial,
                None => return,
            },
        };
        if let Some(partial) = self.trace.partials.get_mut(partial) {
            partial.events.push((at, step));
        }
        if stage + 1 == self.stages.of.len() {
            self.complete(partial, key);
            return;
        }
        let several = self.stages.several.get(stage) == Some(&true);
        let slot = self.slots.entry((key, stage)).or_default();
        let too_many = match several {
            true => slot
                .len()
                .saturating_sub(self.explainer.limits.alias_partials - 1),
            false => slot.len(),
        };
        let replaced: Vec<usize> = slot.drain(..too_many).collect();
        slot.push(partial);
        for old in replaced {
            self.end(old, End::Replaced(at));
        }
    }

    /// The newest partial that the event advances.
    fn choose(&mut self, stage: usize, step: usize, key: KeyId, at: usize) -> Option<usize> {
        let slot = self.slots.get(&(key, stage))?.clone();
        let limits = &self.explainer.limits;
        for partial in slot.into_iter().rev() {
            let last = self.last(partial);
            if self.ordinal(last) >= self.ordinal(at) || !self.holds_for(step, at, partial) {
                continue;
            }
            let open_ns = self.time(at).saturating_sub(self.time(self.first(partial)));
            let idle_ns = self.time(at).saturating_sub(self.time(last));
            let end = match self.explainer.span_ns {
                Some(span) if open_ns > span => Some(End::Late(at)),
                None if idle_ns
                    > super::super::nanoseconds(limits.idle.saturating_add(limits.late)) =>
                {
                    Some(End::Idle)
                }
                _ => None,
            };
            if let Some(slot) = self.slots.get_mut(&(key, stage)) {
                slot.retain(|other| *other != partial);
            }
            match end {
                Some(end) => self.end(partial, end),
                None => return Some(partial),
            }
        }
        None
    }

    /// All stages matched: what was missing before decides, and what must not come after.
    fn complete(&mut self, partial: usize, key: KeyId) {
        let span = self.explainer.span_ns.unwrap_or(i64::MAX);
        let (first, last) = (self.first(partial), self.last(partial));
        let from_ns = self.time(last).saturating_sub(span);
        let lead = self
            .stages
            .leading
            .iter()
            .filter_map(|step| {
                let events = self.leads.get(&(*step, key))?;
                let before = events
                    .iter()
                    .rev()
                    .find(|at| self.ordinal(**at) < self.ordinal(first))?;
                Some((*before, *step))
            })
            .filter(|(at, _)| self.time(*at) >= from_ns)
            .max_by_key(|(at, _)| self.ordinal(*at));
        let due = match (self.stages.trailing.is_empty(), lead) {
            (true, Some((at, step))) => {
                self.end(partial, End::Missing(at, step));
                return;
            }
            (true, None) => None,
            (false, Some((at, _))) => Some(self.time(at).saturating_add(span)),
            (false, None) if self.stages.leading.is_empty() => {
                Some(self.time(first).saturating_add(span))
            }
            (false, None) => None,
        };
        match due {
            None => self.end(partial, End::Completed),
            Some(due) => self.waiting.push((partial, due)),
        }
    }
}
