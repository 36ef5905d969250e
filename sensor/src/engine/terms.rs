//! Rules that remember or count by the values of fields: what is new, and what is too often.
//!
//! In: matches of one event each. Out: those whose terms were not seen for long, or that bring a count to its threshold, one for
//! each key that does, with a [`Tally`]. Terms are kept as 128 bits of a hash, never as text. Its only clock is the events'
//! time; tables are bounded, and what is forgotten for that is counted.

use std::collections::VecDeque;

use hashbrown::DefaultHashBuilder;
use sha2::{Digest as _, Sha256};

use crate::eql::query;
use crate::event::{Fields, Value};

use super::field::SlotId;
use super::key::{self, KeyField, KeyList};
use super::leaf::LeafBuilder;
use super::pipes::PipeContext;
use super::recent::Recent;
use super::snapshot::SavedCount;
use super::{Match, nanoseconds};

/// Times and values one key may have on average when a rule holds as many keys as it may.
const HELD_PER_KEY: usize = 16;

/// What a rule that remembers or counts found out about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Nothing had the key's terms since then, as far as is remembered: nanoseconds of event time.
    New { since_ns: i64 },
    /// Events with the key since then, at least; per field that is counted, how many values it had, at least.
    Count {
        events: u64,
        since_ns: i64,
        distinct: Vec<u64>,
    },
}

/// What a rule has seen within its history. Made to outlive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The number the rule was added under.
    pub rule: usize,
    /// Since when everything was noted, nanoseconds of event time.
    pub since_ns: i64,
    /// Hash of each combination of terms and when it was last seen, longest ago first.
    pub terms: Vec<(u128, i64)>,
}

#[derive(Debug)]
pub(super) struct NewTermsPlan {
    keys: Vec<KeyField>,
    history_ns: i64,
}

#[derive(Debug)]
pub(super) struct ThresholdPlan {
    keys: Vec<KeyField>,
    window_ns: i64,
    events: usize,
    /// Fields and how many values each must have.
    distinct: Vec<(SlotId, usize)>,
    /// Times kept per key.
    times_max: usize,
}

fn key_fields(keys: &[query::Key], leaves: &mut LeafBuilder) -> Vec<KeyField> {
    let field = |key: &query::Key| KeyField {
        slot: leaves.paths.intern(&key.path),
        ty: key.ty,
        optional: key.optional,
    };
    keys.iter().map(field).collect()
}

impl NewTermsPlan {
    pub(super) fn new(terms: &query::NewTerms, leaves: &mut LeafBuilder) -> Self {
        Self {
            keys: key_fields(&terms.fields, leaves),
            history_ns: nanoseconds(terms.history),
        }
    }
}

impl ThresholdPlan {
    pub(super) fn new(threshold: &query::Threshold, leaves: &mut LeafBuilder) -> Self {
        let count = |number: u64| usize::try_from(number.max(1)).unwrap_or(usize::MAX);
        let distinct: Vec<(SlotId, usize)> = threshold
            .distinct
            .iter()
            .map(|(key, values)| (leaves.paths.intern(&key.path), count(*values)))
            .collect();
        let events = count(threshold.events);
        let most = distinct.iter().map(|(_, values)| *values).max();
        Self {
            keys: key_fields(&threshold.fields, leaves),
            window_ns: nanoseconds(threshold.window),
            events,
            times_max: events.max(most.unwrap_or(0)),
            distinct,
        }
    }
}

/// What a `new_terms` rule remembers.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// When each combination was last seen.
    seen: Recent<i64>,
    /// Since when, if before this engine's first event.
    since_ns: Option<i64>,
    hasher: DefaultHashBuilder,
}

impl Terms {
    /// The match once for each combination of terms that is new.
    pub(super) fn pass<E: Fields + Clone>(
        &mut self,
        plan: &NewTermsPlan,
        found: &Match<E>,
        cx: &mut PipeContext<'_>,
    ) -> Vec<Match<E>> {
        let mut passed = Vec::new();
        let Some(event) = found.events.last() else {
            return passed;
        };
        let now_ns = event.time_ns();
        let oldest_ns = now_ns.saturating_sub(plan.history_ns);
        while self.seen.oldest().is_some_and(|seen| *seen < oldest_ns) {
            self.seen.remove_oldest();
        }
        let since_ns = self.since_ns.unwrap_or(cx.began_ns).min(now_ns);
        let learning = cx.learning_ns.min(plan.history_ns);
        let learns = now_ns.saturating_sub(since_ns) < learning;
        for found_key in &keys_of(&plan.keys, event, &self.hasher, cx) {
            let mut is_new = false;
            let seen = self.seen.touch(digest(&found_key.tuple), || {
                is_new = true;
                now_ns
            });
            is_new |= *seen < oldest_ns;
            *seen = now_ns.max(*seen);
            if is_new && learns {
                cx.counters.learned += 1;
            } else if is_new {
                let since_ns = since_ns.max(oldest_ns);
                passed.push(with(found, found_key, Tally::New { since_ns }));
            }
        }
        while self.seen.len() > cx.terms_max.max(1) {
            self.seen.remove_oldest();
            cx.counters.forgotten += 1;
        }
        cx.counters.terms = self.seen.len() as u64;
        passed
    }

    pub(super) fn save(&self, rule: usize, began_ns: Option<i64>) -> Option<Baseline> {
        Some(Baseline {
            rule,
            since_ns: self.since_ns.or(began_ns)?,
            terms: self.seen.iter().map(|(key, seen)| (key, *seen)).collect(),
        })
    }

    /// Takes over what was seen before. Returns how many combinations are known now.
    pub(super) fn restore(&mut self, baseline: Baseline, terms_max: usize) -> u64 {
        self.since_ns = Some(baseline.since_ns);
        for (key, seen_ns) in baseline.terms {
            *self.seen.touch(key, || seen_ns) = seen_ns;
        }
        while self.seen.len() > terms_max.max(1) {
            self.seen.remove_oldest();
        }
        self.seen.len() as u64
    }
}

/// What a `threshold` rule has counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    keys: Recent<Counted>,
    /// Times and values over all keys.
    held: usize,
    hasher: DefaultHashBuilder,
}

/// What was counted for one key.
#[derive(Debug, Default)]
struct Counted {
    /// Of the newest events, oldest first.
    times: VecDeque<i64>,
    /// Per counted field the newest values, each with when it was last there.
    distinct: Vec<VecDeque<(u128, i64)>>,
    last_ns: i64,
    /// It has been told, and nothing counts up to then.
    told_until_ns: Option<i64>,
}

impl Counted {
    fn held(&self) -> usize {
        self.times.len() + self.distinct.iter().map(VecDeque::len).sum::<usize>()
    }

    fn note<E: Fields>(
        &mut self,
        plan: &ThresholdPlan,
        event: &E,
        now_ns: i64,
        cx: &PipeContext<'_>,
    ) -> Option<Tally> {
        self.last_ns = self.last_ns.max(now_ns);
        if self.told_until_ns.is_some_and(|until| now_ns <= until) {
            return None;
        }
        self.told_until_ns = None;
        let oldest_ns = now_ns.saturating_sub(plan.window_ns);
        self.times.push_back(now_ns);
        while self.times.len() > plan.times_max
            || self.times.front().is_some_and(|time| *time < oldest_ns)
        {
            self.times.pop_front();
        }
        self.distinct
            .resize_with(plan.distinct.len(), VecDeque::new);
        for ((slot, max), values) in plan.distinct.iter().zip(&mut self.distinct) {
            let field = cx.fields.get(slot.0 as usize);
            let found = field.map(|f| f.values(event)).unwrap_or_default();
            for value in found.iter() {
                let hash = digest(&[Some(value)]);
                values.retain(|(known, _)| *known != hash);
                values.push_back((hash, now_ns));
            }
            while values.len() > *max || values.front().is_some_and(|(_, t)| *t < oldest_ns) {
                values.pop_front();
            }
        }
        let enough = self.times.len() >= plan.events
            && plan
                .distinct
                .iter()
                .zip(&self.distinct)
                .all(|((_, wanted), values)| values.len() >= *wanted);
        if !enough {
            return None;
        }
        let tally = Tally::Count {
            events: self.times.len() as u64,
            since_ns: self.times.front().copied().unwrap_or(now_ns),
            distinct: self.distinct.iter().map(|v| v.len() as u64).collect(),
        };
        self.times.clear();
        self.distinct.clear();
        self.told_until_ns = Some(now_ns.saturating_add(plan.window_ns));
        Some(tally)
    }
}

impl Counts {
    /// The match once for each key whose count it completes.
    pub(super) fn pass<E: Fields + Clone>(
        &mut self,
        plan: &ThresholdPlan,
        found: &Match<E>,
        cx: &mut PipeContext<'_>,
    ) -> Vec<Match<E>> {
        let mut passed = Vec::new();
        let Some(event) = found.events.last() else {
            return passed;
        };
        let now_ns = event.time_ns();
        let oldest_ns = now_ns.saturating_sub(plan.window_ns);
        while self
            .keys
            .oldest()
            .is_some_and(|counted| counted.last_ns < oldest_ns)
        {
            self.drop_oldest();
        }
        for found_key in &keys_of(&plan.keys, event, &self.hasher, cx) {
            let counted = self.keys.touch(digest(&found_key.tuple), Counted::default);
            self.held -= counted.held();
            let tally = counted.note(plan, event, now_ns, cx);
            self.held += counted.held();
            passed.extend(tally.map(|tally| with(found, found_key, tally)));
        }
        cx.counters.forgotten += self.keep_bounds(cx.terms_max);
        cx.counters.terms = self.keys.len() as u64;
        passed
    }

    /// Lets go of keys, the longest unused first, until there is room for all. Returns how many.
    fn keep_bounds(&mut self, terms_max: usize) -> u64 {
        let held_max = terms_max.saturating_mul(HELD_PER_KEY);
        let mut forgotten = 0;
        while self.keys.len() > 1 && (self.keys.len() > terms_max || self.held > held_max) {
            self.drop_oldest();
            forgotten += 1;
        }
        forgotten
    }

    pub(super) fn save(&self) -> Vec<SavedCount> {
        let keys = self.keys.iter();
        keys.map(|(hash, counted)| SavedCount {
            hash,
            times: counted.times.iter().copied().collect(),
            distinct: counted
                .distinct
                .iter()
                .map(|values| values.iter().copied().collect())
                .collect(),
            last_ns: counted.last_ns,
            told_until_ns: counted.told_until_ns,
        })
        .collect()
    }

    /// Takes over what was counted before. Returns how many keys are known now.
    pub(super) fn restore(&mut self, saved: Vec<SavedCount>, terms_max: usize) -> u64 {
        for saved in saved {
            let counted = Counted {
                times: saved.times.into(),
                distinct: saved.distinct.into_iter().map(VecDeque::from).collect(),
                last_ns: saved.last_ns,
                told_until_ns: saved.told_until_ns,
            };
            let place = self.keys.touch(saved.hash, Counted::default);
            self.held += counted.held();
            self.held -= std::mem::replace(place, counted).held();
        }
        self.keep_bounds(terms_max);
        self.keys.len() as u64
    }

    fn drop_oldest(&mut self) {
        if let Some(counted) = self.keys.remove_oldest() {
            self.held -= counted.held();
        }
    }
}

fn keys_of<'e, E: Fields>(
    keys: &[KeyField],
    event: &'e E,
    hasher: &DefaultHashBuilder,
    cx: &mut PipeContext<'_>,
) -> KeyList<'e> {
    let mut found = KeyList::new();
    let left_out = key::keys_of(&mut found, keys, cx.fields, event, hasher, cx.keys_max);
    cx.counters.truncated_keys += left_out;
    found
}

fn with<E: Clone>(found: &Match<E>, key: &key::Key<'_>, tally: Tally) -> Match<E> {
    Match {
        rule: found.rule,
        keys: key::owned(&key.tuple).into_vec(),
        events: found.events.clone(),
        tally: Some(tally),
    }
}

/// Stands for a combination of values: a number as the text it is written as.
fn digest(tuple: &[Option<Value<'_>>]) -> u128 {
    let mut hash = Sha256::new();
    let mut text = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for value in tuple {
        match value {
            None => text(""),
            Some(Value::Str(s)) => text(s),
            Some(Value::Int(i)) => text(&i.to_string()),
            Some(Value::Float(f)) => text(&f.to_string()),
            Some(Value::Bool(b)) => text(if *b { "true" } else { "false" }),
            Some(Value::Ip(ip)) => text(&ip.to_string()),
            Some(Value::Date(ns)) => text(&ns.to_string()),
        }
    }
    let bytes = hash.finalize();
    let first = bytes.iter().take(16);
    first.fold(0, |number, byte| number << 8 | u128::from(*byte))
}
