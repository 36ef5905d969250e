//! The naive matcher: what a query means, with no thought for speed.
//!
//! In: a typed query and the whole history of events in order. Out: every match, in the order in which it becomes known.
//! Written from the description of the language, section by section; it shares nothing with the engine and keeps everything.

#![allow(
    dead_code,
    reason = "every test binary that includes this module uses another part of it"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

pub(crate) mod evaluate;
pub(crate) mod value;

use std::collections::BTreeMap;

use sensor::eql::query::{Condition, Expr, Form, Key, Pipe, Query, Sample, Sequence, Step};
use sensor::event::OwnedValue;

use crate::stream::Source;
use evaluate::Place;
use value::Val;

/// Keys that one event may have for one step; further ones are not looked at.
const KEYS_MAX: usize = 256;
/// Partials one slot holds where a later step refers to an alias.
const ALIASED_MAX: usize = 64;
/// How long an event may wait for the rest of its sample.
const SAMPLE_WINDOW_NS: i64 = 9 * 60 * 1_000_000_000;

/// Everything that happened, in order.
#[derive(Clone, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Source>,
    /// Clock readings, each with the number of events before it.
    clocks: Vec<(usize, i64)>,
}

impl History {
    pub(crate) fn event(&mut self, event: Source) {
        self.events.push(event);
    }

    pub(crate) fn clock(&mut self, now_ns: i64) {
        self.clocks.push((self.events.len(), now_ns));
    }

    /// Order of events: time, then arrival. One that came late has a smaller ordinal than some before it.
    fn ordinal(&self, at: usize) -> (i64, usize) {
        (self.events[at].time_ns, at)
    }

    /// When the clock first passes a time: just before that event is looked at, `None` if never.
    fn passes(&self, deadline_ns: i64) -> Option<usize> {
        let events = self
            .events
            .iter()
            .enumerate()
            .map(|(at, e)| (at, e.time_ns));
        let all = events.chain(self.clocks.iter().copied());
        all.filter(|(_, time)| *time > deadline_ns)
            .map(|(at, _)| at)
            .min()
    }
}

/// One satisfied query.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) keys: Vec<Option<OwnedValue>>,
    pub(crate) events: Vec<Source>,
}

/// Every match of the query. `ended`: no event follows the history.
pub(crate) fn matches(query: &Query, history: &History, ended: bool) -> Vec<Found> {
    let found = match &query.form {
        Form::Event(filter) => (0..history.events.len())
            .filter(|at| evaluate::filter(filter, place(history, *at, &[])))
            .map(|at| Found {
                keys: Vec::new(),
                events: vec![history.events[at].clone()],
            })
            .collect(),
        Form::Sequence(sequence) => self::sequence(sequence, history, ended),
        Form::Sample(sample) => self::sample(sample, history),
    };
    query
        .pipes
        .iter()
        .fold(found, |found, pipe| self::pipe(pipe, found))
}

fn place<'a>(history: &'a History, at: usize, bound: &'a [Option<&'a Source>]) -> Place<'a> {
    Place {
        events: &history.events,
        at,
        bound,
    }
}

/// A key in the form in which it is compared: a number and the text of its decimal form are the same, all else is exact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyText {
    Null,
    Text(String),
    Bool(bool),
    Date(i64),
}

pub(crate) fn key_text(key: Option<&Val>) -> KeyText {
    match key {
        None => KeyText::Null,
        Some(Val::Bool(b)) => KeyText::Bool(*b),
        Some(Val::Date(ns)) => KeyText::Date(*ns),
        Some(Val::Float(f)) if f.fract() == 0.0 => KeyText::Text(format!("{f:.0}")),
        Some(other) => KeyText::Text(other.text().expect("a key is a value")),
    }
}

type KeyTuple = Vec<(KeyText, Option<OwnedValue>)>;

fn same(a: &KeyTuple, b: &KeyTuple) -> bool {
    texts(a) == texts(b)
}

fn texts(keys: &KeyTuple) -> Vec<KeyText> {
    keys.iter().map(|(text, _)| text.clone()).collect()
}

/// Every key tuple of an event: sets of values, the leftmost position slowest. None if a key that is not optional is missing.
fn keys(list: &[Key], event: &Source) -> Vec<KeyTuple> {
    let mut tuples: Vec<KeyTuple> = vec![Vec::new()];
    for key in list {
        let mut values: Vec<(KeyText, Option<OwnedValue>)> = Vec::new();
        for value in event.values(&key.path) {
            let text = key_text(Some(&Val::stored(&value, key.ty)));
            if values.iter().all(|(known, _)| *known != text) {
                values.push((text, Some(value)));
            }
        }
        if values.is_empty() && key.optional {
            values.push((KeyText::Null, None));
        }
        tuples = tuples
            .iter()
            .flat_map(|tuple| {
                values.iter().map(move |value| {
                    let mut longer = tuple.clone();
                    longer.push(value.clone());
                    longer
                })
            })
            .collect();
    }
    tuples.truncate(KEYS_MAX);
    tuples
}

/// The events of one partial match, by position in the history and step.
#[derive(Clone)]
struct Partial {
    events: Vec<(usize, usize)>,
}

impl Partial {
    fn first(&self) -> usize {
        self.events[0].0
    }

    fn last(&self) -> usize {
        self.events[self.events.len() - 1].0
    }

    /// The event of each step; of a repeated step the last.
    fn bound<'a>(&self, steps: usize, history: &'a History) -> Vec<Option<&'a Source>> {
        let of = |step| self.events.iter().rfind(|(_, s)| *s == step);
        (0..steps)
            .map(|step| of(step).map(|(at, _)| &history.events[*at]))
            .collect()
    }
}

/// One positive stage after repetitions are written out.
struct Stage<'a> {
    step: &'a Step,
    index: usize,
}

struct Shape<'a> {
    steps: usize,
    stages: Vec<Stage<'a>>,
    leading: Vec<&'a Step>,
    /// With the number of the stage before it.
    inner: Vec<(usize, &'a Step)>,
    trailing: Vec<&'a Step>,
    /// Stages whose slot holds many partials.
    many: Vec<bool>,
}

fn shape(sequence: &Sequence) -> Shape<'_> {
    let mut stages = Vec::new();
    let (mut leading, mut inner, mut trailing) = (Vec::new(), Vec::new(), Vec::new());
    let last_positive = sequence
        .steps
        .iter()
        .rposition(|s| !s.missing)
        .expect("a positive step");
    for (index, step) in sequence.steps.iter().enumerate() {
        if !step.missing {
            stages.extend((0..step.runs).map(|_| Stage { step, index }));
        } else if stages.is_empty() {
            leading.push(step);
        } else if index < last_positive {
            inner.push((stages.len() - 1, step));
        } else {
            trailing.push(step);
        }
    }
    let uses = |step: &Step| mentions_alias(&step.filter.condition);
    let later_stage = |i: usize| stages[i + 1..].iter().any(|stage| uses(stage.step));
    let later_step = |index: usize| sequence.steps[index + 1..].iter().any(uses);
    let many = |i: usize| later_stage(i) || later_step(stages[i].index);
    let many = (0..stages.len()).map(many).collect();
    Shape {
        steps: sequence.steps.len(),
        stages,
        leading,
        inner,
        trailing,
        many,
    }
}

fn mentions_alias(condition: &Condition) -> bool {
    fn in_expr(expr: &Expr) -> bool {
        format!("{expr:?}").contains("step: Some(")
    }
    match condition {
        Condition::Const(_) | Condition::Lineage(_) => false,
        Condition::And(parts) | Condition::Or(parts) => parts.iter().any(mentions_alias),
        Condition::Not(part) => mentions_alias(part),
        Condition::Leaf(leaf) => in_expr(&leaf.expr),
    }
}

/// Slots: for each key and stage the partials, newest last.
type Slots = BTreeMap<(Vec<KeyText>, usize), Vec<Partial>>;

/// A completed match, and when it becomes known.
struct Completed {
    /// Number of events before the moment it is known.
    known: usize,
    /// A match that waited comes before what the event at that moment completes.
    deadline_ns: Option<i64>,
    found: Found,
}

fn sequence(sequence: &Sequence, history: &History, ended: bool) -> Vec<Found> {
    let shape = shape(sequence);
    let span_ns = sequence
        .maxspan
        .map(|d| i64::try_from(d.as_nanos()).expect("a span"));
    let time = |at: usize| history.events[at].time_ns;
    let mut slots = Slots::new();
    let mut completed: Vec<Completed> = Vec::new();
    for (at, event) in history.events.iter().enumerate() {
        // Missing steps delete before the stages are tried, even if the event would also advance what it deletes.
        for (before, step) in &shape.inner {
            for key in keys(&step.keys, event) {
                let slot = slots.entry((texts(&key), *before)).or_default();
                slot.retain(|p| {
                    let bound = p.bound(shape.steps, history);
                    history.ordinal(p.last()) >= history.ordinal(at)
                        || !evaluate::filter(&step.filter, place(history, at, &bound))
                });
            }
        }
        for i in (0..shape.stages.len()).rev() {
            let stage = &shape.stages[i];
            for key in keys(&stage.step.keys, event) {
                let partial = if i == 0 {
                    if !evaluate::filter(&stage.step.filter, place(history, at, &[])) {
                        continue;
                    }
                    Some(Partial { events: Vec::new() })
                } else {
                    let slot = slots.entry((texts(&key), i - 1)).or_default();
                    let advances = |p: &Partial| {
                        let bound = p.bound(shape.steps, history);
                        history.ordinal(p.last()) < history.ordinal(at)
                            && evaluate::filter(&stage.step.filter, place(history, at, &bound))
                    };
                    let in_time =
                        |p: &Partial| span_ns.is_none_or(|d| time(at) - time(p.first()) <= d);
                    loop {
                        match slot.iter().rposition(advances) {
                            Some(newest) => {
                                let partial = slot.remove(newest);
                                // One that is too old is gone; of several the next newest has its chance.
                                if in_time(&partial) {
                                    break Some(partial);
                                }
                            }
                            None => break None,
                        }
                    }
                };
                let Some(mut partial) = partial else {
                    continue;
                };
                partial.events.push((at, stage.index));
                if i == shape.stages.len() - 1 {
                    let outside = outside(&shape, &partial, &key, span_ns, history, ended);
                    completed.extend(outside.map(|(known, deadline_ns)| {
                        Completed {
                            known,
                            deadline_ns,
                            found: Found {
                                keys: key.iter().map(|(_, value)| value.clone()).collect(),
                                events: partial
                                    .events
                                    .iter()
                                    .map(|(p, _)| history.events[*p].clone())
                                    .collect(),
                            },
                        }
                    }));
                } else {
                    let slot = slots.entry((texts(&key), i)).or_default();
                    if !shape.many[i] {
                        slot.clear();
                    }
                    slot.push(partial);
                    if slot.len() > ALIASED_MAX {
                        slot.remove(0);
                    }
                }
            }
        }
        if let Some(until) = &sequence.until
            && evaluate::filter(&until.filter, place(history, at, &[]))
        {
            for key in keys(&until.keys, event) {
                slots.retain(|(other, _), _| *other != texts(&key));
            }
        }
    }
    completed.sort_by_key(|c| (c.known, c.deadline_ns.is_none(), c.deadline_ns));
    completed.into_iter().map(|c| c.found).collect()
}

/// Missing events before the first and after the last positive event. `None`: they reject the match, or nothing is known yet.
/// Otherwise when it becomes known, and the time it had to wait for.
fn outside(
    shape: &Shape<'_>,
    partial: &Partial,
    key: &KeyTuple,
    span_ns: Option<i64>,
    history: &History,
    ended: bool,
) -> Option<(usize, Option<i64>)> {
    let at_once = Some((partial.last(), None));
    if shape.leading.is_empty() && shape.trailing.is_empty() {
        return at_once;
    }
    let span_ns = span_ns.expect("missing events need a span");
    let (first, last) = (partial.first(), partial.last());
    let time = |at: usize| history.events[at].time_ns;
    let bound = partial.bound(shape.steps, history);
    let is_any = |steps: &[&Step], at: usize| {
        steps.iter().any(|step| {
            evaluate::filter(&step.filter, place(history, at, &bound))
                && keys(&step.keys, &history.events[at])
                    .iter()
                    .any(|k| same(k, key))
        })
    };
    let before = (0..first)
        .filter(|at| time(*at) >= time(last) - span_ns && is_any(&shape.leading, *at))
        .max();
    if shape.trailing.is_empty() {
        return if before.is_some() { None } else { at_once };
    }
    let deadline_ns = match (shape.leading.is_empty(), before) {
        (false, None) => return at_once,
        (false, Some(before)) => time(before) + span_ns,
        (true, _) => time(first) + span_ns,
    };
    let after = (last + 1..history.events.len())
        .find(|at| time(*at) <= deadline_ns && is_any(&shape.trailing, *at));
    match (after, history.passes(deadline_ns)) {
        (Some(_), _) => None,
        (None, Some(known)) => Some((known, Some(deadline_ns))),
        (None, None) if ended => Some((usize::MAX, Some(deadline_ns))),
        (None, None) => None,
    }
}

/// Per key the newest events of each filter since the last match; as soon as each filter has an event of its own, a match.
fn sample(sample: &Sample, history: &History) -> Vec<Found> {
    let count = sample.steps.len();
    let mut found = Vec::new();
    let mut waiting: BTreeMap<Vec<KeyText>, Vec<Vec<usize>>> = BTreeMap::new();
    for (at, event) in history.events.iter().enumerate() {
        let mut touched: Vec<KeyTuple> = Vec::new();
        for (n, step) in sample.steps.iter().enumerate() {
            if !evaluate::filter(&step.filter, place(history, at, &[])) {
                continue;
            }
            for key in keys(&step.keys, event) {
                let of_key = waiting
                    .entry(texts(&key))
                    .or_insert_with(|| vec![Vec::new(); count]);
                of_key[n].push(at);
                if touched.iter().all(|k| !same(k, &key)) {
                    touched.push(key);
                }
            }
        }
        for key in touched {
            let of_key = waiting.get_mut(&texts(&key)).expect("just touched");
            for events in of_key.iter_mut() {
                events.retain(|e| event.time_ns - history.events[*e].time_ns <= SAMPLE_WINDOW_NS);
            }
            if let Some(chosen) = distinct(of_key, &mut Vec::new()) {
                waiting.remove(&texts(&key));
                found.push(Found {
                    keys: key.iter().map(|(_, value)| value.clone()).collect(),
                    events: chosen.iter().map(|e| history.events[*e].clone()).collect(),
                });
            }
        }
    }
    found
}

/// One event of its own for each filter, the newest possible for the first filter, then for the second, and so on.
fn distinct(of_key: &[Vec<usize>], chosen: &mut Vec<usize>) -> Option<Vec<usize>> {
    let Some(candidates) = of_key.get(chosen.len()) else {
        return Some(chosen.clone());
    };
    for event in candidates.iter().rev() {
        if !chosen.contains(event) {
            chosen.push(*event);
            if let Some(found) = distinct(of_key, chosen) {
                return Some(found);
            }
            chosen.pop();
        }
    }
    None
}

fn pipe(pipe: &Pipe, found: Vec<Found>) -> Vec<Found> {
    match pipe {
        Pipe::NewTerms(_) | Pipe::Threshold(_) => unreachable!("no pipe of the language"),
        Pipe::Head(n) => found
            .into_iter()
            .take(usize::try_from(*n).expect("small"))
            .collect(),
        Pipe::Tail(n) => {
            let from = found
                .len()
                .saturating_sub(usize::try_from(*n).expect("small"));
            found.into_iter().skip(from).collect()
        }
        Pipe::Filter(condition) => found
            .into_iter()
            .filter(|m| {
                let bound: Vec<Option<&Source>> = m.events.iter().map(Some).collect();
                let at = Place {
                    events: &m.events,
                    at: 0,
                    bound: &bound,
                };
                evaluate::holds(condition, at)
            })
            .collect(),
        Pipe::Unique(exprs) => {
            let mut seen = Vec::new();
            found
                .into_iter()
                .filter(|m| {
                    let key = pipe_key(exprs, m);
                    let new = !seen.contains(&key);
                    seen.push(key);
                    new
                })
                .collect()
        }
        Pipe::Sort(exprs) => {
            let mut found = found;
            found.sort_by(|a, b| {
                let values = |m: &Found| pipe_values(exprs, m);
                let pairs = values(a).into_iter().zip(values(b));
                let mut orders = pairs.map(|(a, b)| match (&a, &b) {
                    (Val::Null, Val::Null) => std::cmp::Ordering::Equal,
                    (Val::Null, _) => std::cmp::Ordering::Less,
                    (_, Val::Null) => std::cmp::Ordering::Greater,
                    _ => value::order(&a, &b).unwrap_or(std::cmp::Ordering::Equal),
                });
                orders
                    .find(|o| o.is_ne())
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            found
        }
        // The first match of each key, in the order the keys came.
        Pipe::UniqueCount(exprs) => self::pipe(&Pipe::Unique(exprs.clone()), found),
        Pipe::Count(exprs) => {
            let keys: Vec<Vec<Val>> = found.iter().map(|m| pipe_key(exprs, m)).collect();
            let mut rows: Vec<(usize, &Found)> = Vec::new();
            for (n, m) in found.iter().enumerate() {
                if !keys[..n].contains(&keys[n]) {
                    rows.push((keys.iter().filter(|k| **k == keys[n]).count(), m));
                }
            }
            // Rarest first; the naive matcher knows of no order among equally rare values but null and text.
            rows.sort_by_key(|(count, m)| (*count, format!("{:?}", pipe_values(exprs, m))));
            rows.into_iter()
                .map(|(count, m)| counted(pipe_values(exprs, m), count))
                .collect()
        }
    }
}

/// A count as a match without events: the values counted, and how many there were.
fn counted(values: Vec<Val>, count: usize) -> Found {
    let owned = |value: Val| match value {
        Val::Null | Val::Object => None,
        Val::Bool(b) => Some(OwnedValue::Bool(b)),
        Val::Int(i) => Some(OwnedValue::Int(i)),
        Val::Float(f) => Some(OwnedValue::Float(f)),
        Val::Ip(ip) => Some(OwnedValue::Ip(ip)),
        Val::Date(ns) => Some(OwnedValue::Date(ns)),
        Val::Str(s) | Val::Version(s) => Some(OwnedValue::Str(s.into())),
    };
    let count = OwnedValue::Int(i64::try_from(count).expect("few"));
    let keys = values.into_iter().map(owned).chain([Some(count)]).collect();
    Found {
        keys,
        events: Vec::new(),
    }
}

fn pipe_values(exprs: &[Expr], found: &Found) -> Vec<Val> {
    let bound: Vec<Option<&Source>> = found.events.iter().map(Some).collect();
    let at = Place {
        events: &found.events,
        at: 0,
        bound: &bound,
    };
    exprs.iter().map(|e| evaluate::first_value(e, at)).collect()
}

/// Values of different kinds differ; strings compare without regard to case.
fn pipe_key(exprs: &[Expr], found: &Found) -> Vec<Val> {
    let folded = |value| match value {
        Val::Str(s) => Val::Str(s.to_ascii_lowercase()),
        other => other,
    };
    pipe_values(exprs, found).into_iter().map(folded).collect()
}
