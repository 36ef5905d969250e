//! Why a query matches recorded events, or does not: the truth of every clause, and where every sequence got to.
//!
//! In: one typed query with its text, then all events of a recording in order of time. Out: an [`Explainer`] to ask. It stands
//! beside the compiled engine and keeps everything, so it is for recordings that fit into memory; what an event is worth to a
//! clause is decided by the engine's own general expressions. It words nothing: `output` does.

mod clause;
mod near;
mod single;
mod trace;

use smallvec::SmallVec;

use crate::eql::query::{self, Form, Query};
use crate::event::{FieldId, FieldTable, Fields, OwnedValue, Values};

use super::field::{FieldRef, Paths};
use super::key::{KeyField, own};
use super::lineage::{LineageFields, Marks, Processes};
use super::{CompileError, Limits, nanoseconds};

pub use clause::{Clause, Condition, Hint, Read, Tree};
pub use near::{Near, Stop, Wrong};
pub use single::Single;
pub use trace::{End, Partial, Trace};

use clause::{Distance, Place, Taker};

/// How the steps of a query belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Event,
    Sequence,
    Sample,
}

/// One step of a query; an event query has one.
#[derive(Debug)]
pub struct Step {
    pub condition: Condition,
    /// Fields of its join key.
    pub key_paths: Vec<Box<str>>,
    pub missing: bool,
    pub runs: u32,
    keys: Vec<KeyField>,
}

/// A query and the events it is asked about.
#[derive(Debug)]
pub struct Explainer<E> {
    pub shape: Shape,
    pub steps: Vec<Step>,
    pub until: Option<Step>,
    /// Of a sequence.
    pub span_ns: Option<i64>,
    /// Inner queries of lineage clauses.
    inner: Vec<Condition>,
    lineage: Option<LineageFields>,
    processes: Processes,
    fields: Vec<FieldRef>,
    needed: Vec<FieldId>,
    limits: Limits,
    events: Vec<E>,
    /// Per event what its process had earned before it; empty without lineage clauses.
    marks: Vec<Marks>,
    /// Per step, then until, and per event.
    distances: Vec<Vec<Distance>>,
}

impl<E: Fields + Clone> Explainer<E> {
    /// Takes a query apart. `text` is what it was compiled from; `category` names the field that categories are compared with.
    ///
    /// # Errors
    /// The engine could not take the query either.
    pub fn new(
        query: &Query,
        text: &str,
        category: &str,
        limits: Limits,
        table: &mut FieldTable,
    ) -> Result<Self, CompileError> {
        let mut taker = Taker {
            text,
            category,
            paths: Paths::default(),
            marks: Vec::new(),
        };
        let mut until = None;
        let (mut shape, mut span_ns) = (Shape::Event, None);
        let steps = match &query.form {
            Form::Event(filter) => vec![step(&mut taker, filter, &[])?],
            Form::Sample(sample) => {
                shape = Shape::Sample;
                let steps = sample.steps.iter();
                steps
                    .map(|s| step(&mut taker, &s.filter, &s.keys))
                    .collect::<Result<_, _>>()?
            }
            Form::Sequence(sequence) => {
                shape = Shape::Sequence;
                span_ns = sequence.maxspan.map(nanoseconds);
                let mut steps = Vec::with_capacity(sequence.steps.len());
                for plan in &sequence.steps {
                    steps.push(Step {
                        missing: plan.missing,
                        runs: plan.runs,
                        ..step(&mut taker, &plan.filter, &plan.keys)?
                    });
                }
                if let Some(end) = &sequence.until {
                    until = Some(step(&mut taker, &end.filter, &end.keys)?);
                }
                steps
            }
        };
        let Taker {
            mut paths,
            marks: inner,
            ..
        } = taker;
        let lineage = (!inner.is_empty()).then(|| {
            [
                "process.entity_id",
                "process.parent.entity_id",
                "event.type",
            ]
            .map(|path| paths.intern(path))
        });
        let fields = paths.resolve(table);
        let lineage = lineage.and_then(|slots| {
            let [entity, parent, event_type] =
                slots.map(|slot| fields.get(slot.0 as usize).copied());
            Some(LineageFields {
                entity: entity?,
                parent: parent?,
                event_type: event_type?,
            })
        });
        let mut needed: Vec<FieldId> = fields.iter().flat_map(FieldRef::ids).collect();
        needed.sort_unstable();
        needed.dedup();
        Ok(Self {
            shape,
            distances: vec![Vec::new(); steps.len() + usize::from(until.is_some())],
            steps,
            until,
            span_ns,
            inner,
            lineage,
            processes: Processes::default(),
            fields,
            needed,
            limits,
            events: Vec::new(),
            marks: Vec::new(),
        })
    }

    /// Fields an event must carry to be asked about.
    pub fn needed_fields(&self) -> &[FieldId] {
        &self.needed
    }

    /// Adds an event. They come in order of time.
    pub fn push(&mut self, event: E) {
        let mut marks = Marks::default();
        if let Some(fields) = &self.lineage {
            marks = self.processes.enter(fields, &event, self.limits.processes);
            let place = self.place_of(&event, &[], marks);
            let earned = self
                .inner
                .iter()
                .enumerate()
                .fold(0u128, |earned, (mark, inner)| {
                    earned | u128::from(inner.holds(place)) << mark
                });
            let now_ns = event.time_ns();
            self.processes.leave(fields, &event, earned, now_ns);
            self.marks.push(marks);
        }
        let place = self.place_of(&event, &[], marks);
        let all = self.steps.iter().chain(&self.until);
        let distances: SmallVec<[Distance; 8]> = all
            .map(|step| step.condition.distance_alone(place))
            .collect();
        for (of_step, distance) in self.distances.iter_mut().zip(distances) {
            of_step.push(distance);
        }
        self.events.push(event);
    }

    pub fn events(&self) -> &[E] {
        &self.events
    }

    /// Whether each clause of a step is true of an event. `partial` has the events that aliases name.
    #[must_use]
    pub fn truths(&self, step: &Step, at: usize, partial: Option<&Partial>) -> Vec<bool> {
        let bound = partial.map_or(Vec::new(), |partial| self.bound(partial));
        self.place(at, &bound)
            .map_or(Vec::new(), |place| step.condition.truths(place))
    }

    /// What an event, or one that came before it, has where a clause reads.
    #[must_use]
    pub fn values(&self, read: &Read, at: usize, partial: Option<&Partial>) -> Found {
        let bound = partial.map_or(Vec::new(), |partial| self.bound(partial));
        match self.place(at, &bound).map(|place| read.values(place)) {
            None | Some(Values::Missing) => Found::Missing,
            Some(Values::Object) => Found::Object,
            Some(values) => Found::Values(values.iter().map(own).collect()),
        }
    }

    /// What is odd about a false clause.
    #[must_use]
    pub fn hint(&self, clause: &Clause, at: usize) -> Option<Hint> {
        clause.hint(self.place(at, &[])?)
    }

    /// Events that satisfy a step by themselves, in order; steps that read earlier ones are given the benefit of the doubt.
    pub fn satisfying(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.distances_of(step, |d| d.clauses == 0)
    }

    /// Events of the sort a step asks for, in order.
    pub fn of_kind(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.distances_of(step, |d| d.kind == 0)
    }

    fn distances_of<'a>(
        &'a self,
        step: usize,
        fits: impl Fn(&Distance) -> bool + 'a,
    ) -> impl Iterator<Item = usize> + 'a {
        let all = self.distances.get(step).into_iter().flatten().enumerate();
        all.filter(move |(_, distance)| fits(distance))
            .map(|(at, _)| at)
    }

    /// What became of every partial match.
    #[must_use]
    pub fn trace(&self) -> Trace {
        match self.shape {
            Shape::Sequence => trace::trace(self),
            Shape::Event | Shape::Sample => Trace::default(),
        }
    }

    /// What comes nearest to a match that is not one.
    #[must_use]
    pub fn stop(&self, trace: &mut Trace) -> Option<Stop> {
        near::stop(self, trace)
    }

    /// The key values of an event at a step, field by field.
    #[must_use]
    pub fn key_values(&self, step: &Step, at: usize) -> Vec<Vec<OwnedValue>> {
        let Some(event) = self.events.get(at) else {
            return Vec::new();
        };
        let fields = step
            .keys
            .iter()
            .map(|key| self.fields.get(key.slot.0 as usize));
        fields
            .map(|field| {
                let values = field.map(|field| field.values(event)).unwrap_or_default();
                values.iter().map(own).collect()
            })
            .collect()
    }

    /// Event time, nanoseconds.
    #[must_use]
    pub fn time_ns(&self, at: usize) -> i64 {
        self.events.get(at).map_or(i64::MAX, Fields::time_ns)
    }

    fn distance(&self, step: usize, at: usize) -> Distance {
        let of_step = self.distances.get(step).and_then(|of| of.get(at));
        of_step.copied().unwrap_or(Distance {
            kind: u32::MAX,
            clauses: u32::MAX,
            weight: 0,
        })
    }

    /// What an event lacks at a step when the aliases mean the events of a partial match.
    fn distance_for(&self, step: usize, at: usize, partial: &Partial) -> Distance {
        match self.steps.get(step) {
            Some(plan) if plan.condition.has_alias() => {
                plan.condition
                    .distance(&self.truths(plan, at, Some(partial)))
            }
            _ => self.distance(step, at),
        }
    }

    fn may_satisfy(&self, step: usize, at: usize) -> bool {
        self.distance(step, at).clauses == 0
    }

    fn satisfies(&self, step: usize, at: usize) -> bool {
        let condition = self.steps.get(step).map(|step| &step.condition);
        match condition {
            Some(condition) if condition.has_alias() => self.holds(condition, at, &[]),
            _ => self.may_satisfy(step, at),
        }
    }

    fn until_holds(&self, at: usize) -> bool {
        self.until.as_ref().is_some_and(|until| {
            if until.condition.has_alias() {
                self.holds(&until.condition, at, &[])
            } else {
                self.may_satisfy(self.steps.len(), at)
            }
        })
    }

    fn holds(&self, condition: &Condition, at: usize, bound: &[Option<&E>]) -> bool {
        self.place(at, bound)
            .is_some_and(|place| condition.holds(place))
    }

    /// The event of each step; of a repeated step the last.
    fn bound(&self, partial: &Partial) -> Vec<Option<&E>> {
        let mut bound = vec![None; self.steps.len()];
        for (at, step) in &partial.events {
            if let Some(slot) = bound.get_mut(*step) {
                *slot = self.events.get(*at);
            }
        }
        bound
    }

    fn place<'e>(&'e self, at: usize, earlier: &'e [Option<&'e E>]) -> Option<Place<'e, E>> {
        let marks = self.marks.get(at).copied().unwrap_or_default();
        Some(self.place_of(self.events.get(at)?, earlier, marks))
    }

    fn place_of<'e>(
        &'e self,
        event: &'e E,
        earlier: &'e [Option<&'e E>],
        marks: Marks,
    ) -> Place<'e, E> {
        Place {
            event,
            earlier,
            fields: &self.fields,
            marks,
        }
    }
}

/// What an event has in a field.
#[derive(Clone, Debug)]
pub enum Found {
    Missing,
    /// Something below it, but no value.
    Object,
    Values(Vec<OwnedValue>),
}

fn step(
    taker: &mut Taker<'_>,
    filter: &query::Filter,
    keys: &[query::Key],
) -> Result<Step, CompileError> {
    let condition = taker.filter(filter)?;
    let keys_read = keys.iter().map(|key| KeyField {
        slot: taker.paths.intern(&key.path),
        ty: key.ty,
        optional: key.optional,
    });
    Ok(Step {
        condition,
        keys: keys_read.collect(),
        key_paths: keys.iter().map(|key| key.path.clone()).collect(),
        missing: false,
        runs: 1,
    })
}
