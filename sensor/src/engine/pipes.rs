//! Pipes: what happens to a rule's matches before they leave.
//!
//! In: matches as they complete. Out: those that pass. `head`, `filter` and `unique` work on a stream; `tail`, `sort`,
//! `count` and `unique_count` hold everything back until the input ends, which only replay knows.

use std::cmp::Ordering;
use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use crate::eql::query::{Expr, Pipe};
use crate::eql::scalar::{self, Scalar};
use crate::event::{Fields, OwnedValue};

use super::compile::{CompileError, match_condition};
use super::condition::{Program, Test};
use super::expression::{Context, Expression};
use super::field::FieldRef;
use super::leaf::LeafBuilder;
use super::snapshot::SavedPipe;
use super::terms::{self, Baseline};
use super::{Match, RuleCounters};

/// A compiled pipe.
#[derive(Debug)]
pub(super) enum PipePlan {
    Head(u64),
    Tail(u64),
    Filter(Program, Vec<Expression>),
    Unique(Vec<Expression>),
    UniqueCount(Vec<Expression>),
    Count(Vec<Expression>),
    Sort(Vec<Expression>),
    NewTerms(terms::NewTermsPlan),
    Threshold(terms::ThresholdPlan),
}

pub(super) fn compile(pipe: &Pipe, leaves: &mut LeafBuilder) -> Result<PipePlan, CompileError> {
    let mut keys = |list: &[Expr]| -> Result<Vec<Expression>, CompileError> {
        list.iter()
            .map(|e| Expression::compile(e, &mut leaves.paths))
            .collect()
    };
    Ok(match pipe {
        Pipe::Head(n) => PipePlan::Head(*n),
        Pipe::Tail(n) => PipePlan::Tail(*n),
        Pipe::Unique(list) => PipePlan::Unique(keys(list)?),
        Pipe::UniqueCount(list) => PipePlan::UniqueCount(keys(list)?),
        Pipe::Count(list) => PipePlan::Count(keys(list)?),
        Pipe::Sort(list) => PipePlan::Sort(keys(list)?),
        Pipe::NewTerms(terms) => PipePlan::NewTerms(terms::NewTermsPlan::new(terms, leaves)),
        Pipe::Threshold(threshold) => {
            PipePlan::Threshold(terms::ThresholdPlan::new(threshold, leaves))
        }
        Pipe::Filter(condition) => {
            let mut expressions = Vec::new();
            let cond = match_condition(condition, leaves, &mut expressions)?;
            PipePlan::Filter(Program::new(&cond, &|_| 1), expressions)
        }
    })
}

/// What the pipes of one rule remember, pipe by pipe.
#[derive(Debug)]
pub(super) struct PipeState<E> {
    stages: Vec<Stage<E>>,
}

#[derive(Debug)]
enum Stage<E> {
    /// Matches let through so far.
    Head(u64),
    Tail(VecDeque<Match<E>>),
    Filter,
    Unique(Seen),
    NewTerms(terms::Terms),
    Threshold(terms::Counts),
    /// Everything, until the end.
    Held(Vec<Match<E>>),
}

/// A bounded set of keys; the longest known is forgotten first.
#[derive(Debug, Default)]
struct Seen {
    keys: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl<E: Fields + Clone> PipeState<E> {
    pub(super) fn new(plans: &[PipePlan]) -> Self {
        let stages = plans
            .iter()
            .map(|plan| match plan {
                PipePlan::Head(_) => Stage::Head(0),
                PipePlan::Tail(_) => Stage::Tail(VecDeque::new()),
                PipePlan::Filter(..) => Stage::Filter,
                PipePlan::Unique(_) => Stage::Unique(Seen::default()),
                PipePlan::NewTerms(_) => Stage::NewTerms(terms::Terms::default()),
                PipePlan::Threshold(_) => Stage::Threshold(terms::Counts::default()),
                PipePlan::UniqueCount(_) | PipePlan::Count(_) | PipePlan::Sort(_) => {
                    Stage::Held(Vec::new())
                }
            })
            .collect();
        Self { stages }
    }

    /// What outlives the process: how far `head` has come, what `unique` has seen and what was counted.
    pub(super) fn save(&self) -> Vec<SavedPipe> {
        let save = |stage: &Stage<E>| match stage {
            Stage::Head(passed) => SavedPipe::Head(*passed),
            Stage::Unique(seen) => SavedPipe::Unique(seen.order.iter().cloned().collect()),
            Stage::Threshold(counts) => SavedPipe::Counts(counts.save()),
            // What `new_terms` rules have seen is saved apart: it outlives more than the rest.
            Stage::NewTerms(_) => SavedPipe::Nothing,
            Stage::Tail(_) | Stage::Filter | Stage::Held(_) => SavedPipe::Nothing,
        };
        self.stages.iter().map(save).collect()
    }

    /// Takes over what was saved. Returns how many keys are counted by then; `None` when the rule does not count.
    pub(super) fn restore(&mut self, saved: Vec<SavedPipe>, terms_max: usize) -> Option<u64> {
        let mut counted = None;
        for (stage, saved) in self.stages.iter_mut().zip(saved) {
            match (stage, saved) {
                (Stage::Head(passed), SavedPipe::Head(n)) => *passed = n,
                (Stage::Unique(seen), SavedPipe::Unique(keys)) => {
                    seen.keys.extend(keys.iter().cloned());
                    seen.order.extend(keys);
                }
                (Stage::Threshold(counts), SavedPipe::Counts(saved)) => {
                    counted = Some(counts.restore(saved, terms_max));
                }
                _ => {}
            }
        }
        counted
    }

    /// What the rule has seen, when it asks for what is new.
    pub(super) fn baseline(&self, rule: usize, began_ns: Option<i64>) -> Option<Baseline> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::NewTerms(terms) => terms.save(rule, began_ns),
            _ => None,
        })
    }

    /// Takes over what the rule had seen. Returns how many combinations of terms are known then; `None` when the rule does
    /// not ask for what is new.
    pub(super) fn restore_baseline(&mut self, baseline: Baseline, max: usize) -> Option<u64> {
        let mut stages = self.stages.iter_mut();
        let terms = stages.find_map(|stage| match stage {
            Stage::NewTerms(terms) => Some(terms),
            _ => None,
        })?;
        Some(terms.restore(baseline, max))
    }

    /// Sends one match into the pipes from `from` on.
    pub(super) fn push(
        &mut self,
        plans: &[PipePlan],
        from: usize,
        found: Match<E>,
        cx: &mut PipeContext<'_>,
        out: &mut Vec<Match<E>>,
    ) {
        for (at, (plan, stage)) in plans.iter().zip(&mut self.stages).enumerate().skip(from) {
            match (plan, stage) {
                (PipePlan::NewTerms(plan), Stage::NewTerms(terms)) => {
                    for found in terms.pass(plan, &found, cx) {
                        self.push(plans, at + 1, found, cx, out);
                    }
                    return;
                }
                (PipePlan::Threshold(plan), Stage::Threshold(counts)) => {
                    for found in counts.pass(plan, &found, cx) {
                        self.push(plans, at + 1, found, cx, out);
                    }
                    return;
                }
                (PipePlan::Head(n), Stage::Head(passed)) => {
                    if *passed >= *n {
                        return;
                    }
                    *passed += 1;
                }
                (PipePlan::Tail(n), Stage::Tail(last)) => {
                    last.push_back(found);
                    if last.len() as u64 > *n {
                        last.pop_front();
                    }
                    return;
                }
                (PipePlan::Filter(program, expressions), Stage::Filter)
                    if !cx.passes(program, expressions, &found) =>
                {
                    return;
                }
                (PipePlan::Unique(keys), Stage::Unique(seen)) => {
                    let key = cx.key_text(keys, &found);
                    if !seen.insert(&key, cx.unique_max, cx.counters) {
                        return;
                    }
                }
                (_, Stage::Held(all)) => {
                    all.push(found);
                    return;
                }
                _ => {}
            }
        }
        out.push(found);
    }

    /// The input has ended: what was held back goes on, pipe by pipe.
    pub(super) fn finish(
        &mut self,
        plans: &[PipePlan],
        cx: &mut PipeContext<'_>,
        out: &mut Vec<Match<E>>,
    ) {
        for (i, plan) in plans.iter().enumerate() {
            let held: Vec<Match<E>> = match self.stages.get_mut(i) {
                Some(Stage::Tail(last)) => last.drain(..).collect(),
                Some(Stage::Held(all)) => match plan {
                    PipePlan::Sort(keys) => sorted(std::mem::take(all), keys, cx),
                    PipePlan::UniqueCount(keys) => counted(std::mem::take(all), keys, cx, false),
                    PipePlan::Count(keys) => counted(std::mem::take(all), keys, cx, true),
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            };
            for found in held {
                self.push(plans, i + 1, found, cx, out);
            }
        }
    }
}

/// What pipes need besides the match.
pub(super) struct PipeContext<'c> {
    pub(super) fields: &'c [FieldRef],
    /// Most keys a `unique` remembers.
    pub(super) unique_max: usize,
    /// Combinations of terms, or keys that are counted by, one rule remembers.
    pub(super) terms_max: usize,
    /// Of those, what one event brings.
    pub(super) keys_max: usize,
    /// Time of the first event.
    pub(super) began_ns: i64,
    /// How long a rule without a baseline only notes what it sees.
    pub(super) learning_ns: i64,
    pub(super) counters: &'c mut RuleCounters,
}

impl PipeContext<'_> {
    fn passes<E: Fields>(
        &self,
        program: &Program,
        expressions: &[Expression],
        found: &Match<E>,
    ) -> bool {
        let Some(event) = found.events.first() else {
            return false;
        };
        let earlier: Vec<Option<&E>> = found.events.iter().map(Some).collect();
        let context = Context {
            event,
            earlier: &earlier,
            fields: self.fields,
        };
        program.run(|test| match test {
            Test::Alias(i) => expressions
                .get(i as usize)
                .is_some_and(|e| e.holds(&context)),
            Test::Leaf(_) | Test::Lineage(..) => false,
        })
    }

    fn key<E: Fields>(&self, keys: &[Expression], found: &Match<E>) -> Vec<Scalar<'static>> {
        let Some(event) = found.events.first() else {
            return Vec::new();
        };
        let earlier: Vec<Option<&E>> = found.events.iter().map(Some).collect();
        let context = Context {
            event,
            earlier: &earlier,
            fields: self.fields,
        };
        keys.iter()
            .map(|k| k.first_value(&context).into_owned())
            .collect()
    }

    /// The key as text: kinds are told apart, strings compare without regard to ASCII case, as the pipe always has.
    fn key_text<E: Fields>(&self, keys: &[Expression], found: &Match<E>) -> String {
        format!("{:?}", self.key(keys, found)).to_ascii_lowercase()
    }
}

impl Seen {
    fn insert(&mut self, key: &str, max: usize, counters: &mut RuleCounters) -> bool {
        if self.keys.contains(key) {
            return false;
        }
        self.keys.insert(key.into());
        self.order.push_back(key.into());
        while self.order.len() > max.max(1) {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
                counters.evicted += 1;
            }
        }
        true
    }
}

/// Nulls first, then by value; equal keys stay in order.
fn sorted<E: Fields>(
    all: Vec<Match<E>>,
    keys: &[Expression],
    cx: &PipeContext<'_>,
) -> Vec<Match<E>> {
    let mut keyed: Vec<_> = all
        .into_iter()
        .map(|found| (cx.key(keys, &found), found))
        .collect();
    keyed.sort_by(|(a, _), (b, _)| compare_keys(a, b));
    keyed.into_iter().map(|(_, found)| found).collect()
}

fn compare_keys(a: &[Scalar<'_>], b: &[Scalar<'_>]) -> Ordering {
    let orders = a
        .iter()
        .zip(b)
        .map(|(a, b)| match (a.is_null(), b.is_null()) {
            (false, false) => scalar::order(a, b).unwrap_or_else(|| a.text().cmp(&b.text())),
            (a, b) => b.cmp(&a),
        });
    orders.fold(Ordering::Equal, Ordering::then)
}

/// The first match of every key, in the order the keys came. `bare`: without events, the keys being the counted values and
/// the count, rarest first.
fn counted<E: Fields>(
    all: Vec<Match<E>>,
    keys: &[Expression],
    cx: &PipeContext<'_>,
    bare: bool,
) -> Vec<Match<E>> {
    let mut groups: Vec<(u64, Vec<Scalar<'static>>, Match<E>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for found in all {
        let text = cx.key_text(keys, &found);
        match known.get(&text).and_then(|i| groups.get_mut(*i)) {
            Some(group) => group.0 += 1,
            None => {
                known.insert(text, groups.len());
                groups.push((1, cx.key(keys, &found), found));
            }
        }
    }
    if bare {
        groups.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| compare_keys(&a.1, &b.1)));
    }
    groups
        .into_iter()
        .map(|(count, key, mut found)| {
            if bare {
                found.events.clear();
                found.keys = key.into_iter().map(owned).collect();
                found.keys.push(Some(OwnedValue::Int(
                    i64::try_from(count).unwrap_or(i64::MAX),
                )));
            }
            found
        })
        .collect()
}

fn owned(value: Scalar<'_>) -> Option<OwnedValue> {
    match value {
        Scalar::Null => None,
        Scalar::Bool(b) => Some(OwnedValue::Bool(b)),
        Scalar::Int(i) => Some(OwnedValue::Int(i)),
        Scalar::Float(f) => Some(OwnedValue::Float(f)),
        Scalar::Str(s) | Scalar::Version(s) => Some(OwnedValue::Str(s.as_ref().into())),
        Scalar::Ip(ip) => Some(OwnedValue::Ip(ip)),
        Scalar::Date(ns) => Some(OwnedValue::Date(ns)),
    }
}
