//! Event to match: all loaded rules at once, over one ordered stream.
//!
//! In: compiled queries and events in order. Out: matches with the events that made them. Plain synchronous code whose only
//! clock is the events' own time (or what [`Engine::advance`] says). Every table has a bound and every eviction a counter;
//! an event that matches nothing allocates nothing; nothing here panics.

mod blocks;
mod compile;
mod condition;
mod cost;
mod dispatch;
pub mod explain;
mod expression;
mod familiar;
mod field;
mod gate;
mod glob;
mod grouped;
mod inherit;
mod key;
mod leaf;
mod lineage;
mod literal;
mod partial_match;
mod pipes;
mod recent;
mod regexes;
mod reorder;
mod sample;
mod sequence;
mod snapshot;
mod terms;
mod turn;
mod value_cache;

pub use compile::CompileError;
pub use cost::{Cost, SAMPLED_ONE_IN};
pub use explain::Single;
pub use reorder::Reorder;
pub use snapshot::{Restored, Snapshot};
pub use terms::{Baseline, Tally};

use std::sync::Arc;
use std::time::Duration;

use crate::eql::query::Query;
use crate::event::{FieldId, FieldTable, Fields, OwnedValue};

use compile::{Compiler, Consumer, Plan, PlanForm};
use dispatch::Dispatch;
use expression::Expression;
use field::SlotId;
use key::EventKeys;
use leaf::{LeafScratch, Leaves};
use lineage::{LineageFields, Marks, Processes};
use partial_match::{KeyHasher, Node, Ordinal};
use pipes::{PipeContext, PipeState};
use sample::SampleState;
use sequence::{Clocks, Sequence, State};
use turn::Turn;

/// Bounds of the engine's memory. Reaching one evicts the oldest and counts it for the rule concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Key tuples one event offers to one step; array products beyond it are left out.
    pub keys_per_event: usize,
    /// Partial matches of one sequence, events of one sample.
    pub partials: usize,
    /// Partial matches per key and step of a sequence with aliases.
    pub alias_partials: usize,
    /// Partial matches over all rules, in bytes: of each [`Limits::partial_bytes`], and every event it holds.
    pub bytes: usize,
    /// What one partial match is taken to cost besides the events it holds.
    pub partial_bytes: usize,
    /// How long a partial match of a sequence without maxspan may wait.
    pub idle: Duration,
    /// How far apart the events of a sample may be.
    pub sample_window: Duration,
    /// How long after its maxspan a partial is still there for events that arrive late.
    pub late: Duration,
    /// Keys a `unique` pipe remembers.
    pub unique_keys: usize,
    /// Combinations of terms one rule remembers that asks for what is new, keys one rule counts by.
    pub terms: usize,
    /// How long a rule that asks for what is new, and has nothing to compare with, only notes what it sees; never longer
    /// than its history.
    pub learning: Duration,
    /// Processes whose descent is tracked for `descendant of` and its like.
    pub processes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keys_per_event: 256,
            partials: 65_536,
            alias_partials: 64,
            bytes: 256 << 20,
            partial_bytes: 512,
            idle: Duration::from_secs(3600),
            sample_window: Duration::from_secs(540),
            late: Duration::from_secs(1),
            unique_keys: 65_536,
            terms: 10_000,
            learning: Duration::ZERO,
            processes: 65_536,
        }
    }
}

/// What one rule has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounters {
    /// Matches completed, before pipes.
    pub matches: u64,
    /// Partial matches started.
    pub opened: u64,
    /// Partial matches held now. Those of one event that nothing has asked for yet count singly, also where they have a key
    /// in common and only the newest of them will count.
    pub partials: u64,
    /// Partial matches whose maxspan passed.
    pub expired: u64,
    /// Partial matches replaced by a newer one at the same key and step. One that nothing had asked for before its maxspan
    /// passed is counted as expired instead.
    pub replaced: u64,
    /// Partial matches closed by `until` or by a missing step that was not missing.
    pub closed: u64,
    /// Partial matches given up because a bound was reached: each is a possible miss.
    pub evicted: u64,
    /// Key tuples left out because an event offered too many: each is a possible miss.
    pub truncated_keys: u64,
    /// Combinations of terms, or keys counted by, that are remembered now.
    pub terms: u64,
    /// Combinations of terms that were new while the rule was learning: none of them was told.
    pub learned: u64,
    /// Those forgotten because there were too many: new terms may be told again, a count begins anew.
    pub forgotten: u64,
}

/// A query satisfied.
#[derive(Clone, Debug)]
pub struct Match<E> {
    /// The number the rule was added under.
    pub rule: usize,
    /// Join key, `None` for the null of an optional key; empty without keys.
    pub keys: Vec<Option<OwnedValue>>,
    /// Events in step order.
    pub events: Vec<E>,
    /// For a rule that remembers or counts: what it found out about the key.
    pub tally: Option<Tally>,
}

/// Collects queries.
#[derive(Debug)]
pub struct Builder {
    compiler: Compiler,
    limits: Limits,
    entity: Box<str>,
    parent: Box<str>,
}

impl Builder {
    pub fn new(limits: Limits) -> Self {
        Self {
            compiler: Compiler::new("event.category"),
            limits,
            entity: "process.entity_id".into(),
            parent: "process.parent.entity_id".into(),
        }
    }

    /// The field that `process where` and its like compare: `event.category` unless told otherwise.
    pub fn category_field(&mut self, path: &str) {
        self.compiler.category = path.into();
    }

    /// The fields that tell a process and its parent, for `descendant of` and its like.
    pub fn process_fields(&mut self, entity: &str, parent: &str) {
        self.entity = entity.into();
        self.parent = parent.into();
    }

    /// Every rule gets its own copy of every test. Only to check that sharing them makes no difference.
    #[doc(hidden)]
    pub fn without_sharing(&mut self) {
        self.compiler.leaves.intern = false;
    }

    /// What fields say is remembered by their values, whichever they are. Only to check that it makes no difference.
    #[doc(hidden)]
    pub fn with_all_fields_steady(&mut self) {
        self.compiler.all_steady = true;
    }

    /// Adds a rule's query under a number of the caller's choice.
    ///
    /// # Errors
    /// A query past a limit of the engine, or a pattern that does not compile.
    pub fn add(&mut self, rule: usize, query: &Query) -> Result<(), CompileError> {
        self.compiler.add(rule, query)
    }

    /// Compiles everything added. Paths the table does not know yet are given numbers in it.
    ///
    /// # Errors
    /// A field's patterns together pass the automaton's size.
    pub fn build<E: Fields + Clone>(
        mut self,
        fields: &mut FieldTable,
    ) -> Result<Engine<E>, CompileError> {
        let has_lineage = self.compiler.has_lineage();
        let leaves = &mut self.compiler.leaves;
        let lineage_slots = has_lineage.then(|| {
            [
                leaves.paths.intern(&self.entity),
                leaves.paths.intern(&self.parent),
                leaves.paths.intern("event.type"),
            ]
        });
        let paths = std::mem::take(&mut self.compiler.leaves.paths);
        let (leaves, aliases) = self.compiler.leaves.build(paths.resolve(fields))?;
        let at = |slot: SlotId| leaves.fields.get(slot.0 as usize).copied();
        let lineage = lineage_slots.and_then(|[entity, parent, event_type]| {
            Some(LineageFields {
                entity: at(entity)?,
                parent: at(parent)?,
                event_type: at(event_type)?,
            })
        });
        let dispatch = Dispatch::new(
            self.compiler.filters,
            &leaves,
            &paths,
            &self.compiler.category,
            self.compiler.all_steady,
        );
        let mut needed: Vec<FieldId> = leaves.fields.iter().flat_map(|f| f.ids()).collect();
        needed.sort_unstable();
        needed.dedup();
        let hasher = KeyHasher::default();
        let new = |plan| RuleState::new(plan, &hasher);
        let states: Vec<RuleState<E>> = self.compiler.plans.iter().map(new).collect();
        let plans = self.compiler.plans;
        let armed = plans.iter().zip(&states).map(armed).collect();
        let rules = plans.iter().map(|p| p.rule + 1).max().unwrap_or(0);
        Ok(Engine {
            scratch: leaves.scratch(),
            counters: vec![RuleCounters::default(); rules],
            costs: vec![Cost::default(); rules],
            sampled: Vec::new(),
            passed_over: vec![0; rules],
            woken: vec![(0, false); plans.len()],
            armed,
            clocks: Clocks {
                idle_ns: nanoseconds(self.limits.idle),
                late_ns: nanoseconds(self.limits.late),
            },
            window_ns: nanoseconds(self.limits.sample_window),
            waiting: (0..plans.len())
                .filter(|i| has_timers(plans.get(*i)))
                .collect(),
            leaves,
            aliases,
            dispatch,
            plans,
            states,
            needed,
            lineage,
            marks: self.compiler.mark_names,
            processes: Processes::default(),
            limits: self.limits,
            now_ns: i64::MIN,
            began_ns: None,
            arrivals: 0,
            touched: Vec::new(),
            sweep: 0,
            root: None,
            held: 0,
            found: Vec::new(),
        })
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn has_timers(plan: Option<&Plan>) -> bool {
    matches!(plan, Some(Plan { form: PlanForm::Sequence(s), .. }) if s.trailing)
}

/// All rules, compiled, with what they remember of the stream so far.
#[derive(Debug)]
pub struct Engine<E> {
    leaves: Leaves,
    aliases: Vec<Expression>,
    dispatch: Dispatch,
    plans: Vec<Plan>,
    states: Vec<RuleState<E>>,
    counters: Vec<RuleCounters>,
    costs: Vec<Cost>,
    /// Rules too dear to look at every event; mostly none.
    sampled: Vec<usize>,
    passed_over: Vec<u64>,
    needed: Vec<FieldId>,
    lineage: Option<LineageFields>,
    processes: Processes,
    /// What names each mark in every rule set.
    marks: Vec<u64>,
    limits: Limits,
    clocks: Clocks,
    window_ns: i64,
    /// The largest event time seen, or what `advance` was told.
    now_ns: i64,
    /// Time of the first event.
    began_ns: Option<i64>,
    arrivals: u64,
    scratch: LeafScratch,
    /// Per plan: satisfied steps and the until filter, valid while the plan is in `touched`.
    woken: Vec<(u64, bool)>,
    /// Per plan: steps of which an event would find something to act on. Those that have lost it meanwhile may still be in.
    armed: Vec<u64>,
    touched: Vec<u32>,
    /// Plans with trailing missing steps: their matches may be due at any event.
    waiting: Vec<usize>,
    /// The next plan whose expired partials are swept, one per event.
    sweep: usize,
    /// The event at hand as the first of matches.
    root: Option<Arc<Node<E>>>,
    /// Bytes that the partials of all plans are taken to cost.
    held: usize,
    found: Vec<Match<E>>,
}

/// What one rule remembers.
#[derive(Debug)]
struct RuleState<E> {
    form: FormState<E>,
    pipes: PipeState<E>,
}

#[derive(Debug)]
enum FormState<E> {
    Event,
    Sequence(State<E>),
    Sample(SampleState<E>),
}

impl<E: Fields + Clone> RuleState<E> {
    fn new(plan: &Plan, hasher: &KeyHasher) -> Self {
        let form = match &plan.form {
            PlanForm::Event => FormState::Event,
            PlanForm::Sequence(sequence) => FormState::Sequence(sequence.state(hasher)),
            PlanForm::Sample(_) => FormState::Sample(SampleState::new(hasher.clone())),
        };
        Self {
            form,
            pipes: PipeState::new(&plan.pipes),
        }
    }
}

/// Steps (bit per step of the query) of which an event would find something to act on: a later step of a sequence without
/// partial matches has nothing to do.
fn armed<E>((plan, state): (&Plan, &RuleState<E>)) -> u64 {
    match (&plan.form, &state.form) {
        (PlanForm::Sequence(sequence), FormState::Sequence(state)) => sequence.armed(state),
        _ => u64::MAX,
    }
}

/// Brings what [`armed`] says of a sequence up to date, if it has changed.
#[inline]
fn refresh<E>(armed: &mut [u64], plan: usize, sequence: &Sequence, state: &mut State<E>) {
    if (state.store.take_stirred() || sequence.trailing)
        && let Some(armed) = armed.get_mut(plan)
    {
        *armed = sequence.armed(state);
    }
}

impl<E> FormState<E> {
    fn held(&self) -> usize {
        match self {
            FormState::Event => 0,
            FormState::Sequence(state) => state.store.len(),
            FormState::Sample(state) => state.held,
        }
    }

    /// What is held, in bytes.
    #[inline]
    fn bytes(&self, limits: &Limits) -> usize {
        let events = match self {
            FormState::Event => 0,
            FormState::Sequence(state) => state.store.pinned(),
            FormState::Sample(state) => state.pinned,
        };
        events.saturating_add(self.held().saturating_mul(limits.partial_bytes))
    }
}

impl<E: Fields + Clone> Engine<E> {
    /// Lets one event act. Matches it completes, and those its time makes due, are appended in order.
    pub fn process(&mut self, event: &E, matches: &mut Vec<Match<E>>) {
        let ordinal = Ordinal {
            time_ns: event.time_ns(),
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.began_ns.get_or_insert(ordinal.time_ns);
        if ordinal.time_ns > self.now_ns {
            self.now_ns = ordinal.time_ns;
            for i in 0..self.waiting.len() {
                let plan = self.waiting.get(i).copied().unwrap_or(0);
                self.expire(plan, matches);
            }
        }
        self.scratch.next_event();
        let mut keys = EventKeys::new(event);
        let marks = match &self.lineage {
            Some(fields) => self.processes.enter(fields, event, self.limits.processes),
            None => Marks::default(),
        };
        let earned = self.wake(event, marks);
        for i in 0..self.touched.len() {
            let plan = self.touched.get(i).map_or(0, |p| *p as usize);
            let rule = self.plans.get(plan).map_or(usize::MAX, |plan| plan.rule);
            if !self.sampled.is_empty() && self.is_passed_over(plan, rule, ordinal.arrival) {
                continue;
            }
            let begun = self
                .costs
                .get_mut(rule)
                .map(|cost| cost.begin(ordinal.arrival));
            self.act(plan, event, &mut keys, (ordinal, marks), matches);
            if let (Some(cost), Some(begun)) = (self.costs.get_mut(rule), begun) {
                cost.end(begun);
            }
        }
        self.touched.clear();
        self.root = None;
        if let Some(fields) = &self.lineage {
            self.processes.leave(fields, event, earned, self.now_ns);
        }
        self.sweep_one(matches);
    }

    /// Whether this event is one that a sampled rule leaves out; then it is counted, and wakes the rule no longer.
    fn is_passed_over(&mut self, plan: usize, rule: usize, arrival: u64) -> bool {
        if arrival.is_multiple_of(SAMPLED_ONE_IN) || !self.sampled.contains(&rule) {
            return false;
        }
        if let Some(woken) = self.woken.get_mut(plan) {
            *woken = (0, false);
        }
        if let Some(passed_over) = self.passed_over.get_mut(rule) {
            *passed_over += 1;
        }
        true
    }

    /// Has a rule look at one event in [`SAMPLED_ONE_IN`] from now on, or at all of them again. What it then misses it misses.
    pub fn sample(&mut self, rule: usize, is_sampled: bool) {
        self.sampled.retain(|sampled| *sampled != rule);
        if is_sampled {
            self.sampled.push(rule);
        }
    }

    /// Events that each rule would have looked at while it was sampled, by rule number.
    pub fn passed_over(&self) -> &[u64] {
        &self.passed_over
    }

    /// Rules that are sampled.
    pub fn sampled(&self) -> &[usize] {
        &self.sampled
    }

    /// Evaluates the filters and notes who they wake. Returns the marks the event earns its process.
    fn wake(&mut self, event: &E, marks: Marks) -> u128 {
        let mut earned = 0u128;
        let (woken, touched) = (&mut self.woken, &mut self.touched);
        let armed = &self.armed;
        // An until event also closes what it has itself just started.
        let armed = |consumer| match consumer {
            Consumer::Mark(_) | Consumer::Until { .. } => true,
            Consumer::Step { plan, step, .. } => {
                let steps = armed.get(plan as usize).copied().unwrap_or(u64::MAX);
                steps >> step & 1 == 1
            }
        };
        let wake = |consumer| {
            let (plan, step, until) = match consumer {
                Consumer::Step { plan, step, .. } => (plan, 1u64 << step, false),
                Consumer::Until { plan } => (plan, 0, true),
                Consumer::Mark(mark) => {
                    earned |= 1 << mark.0;
                    return;
                }
            };
            if let Some(woken) = woken.get_mut(plan as usize) {
                if *woken == (0, false) {
                    touched.push(plan);
                }
                woken.0 |= step;
                woken.1 |= until;
            }
        };
        self.dispatch
            .wake(&self.leaves, event, &mut self.scratch, marks, armed, wake);
        self.touched.sort_unstable();
        earned
    }

    /// Lets the event act on one rule.
    fn act(
        &mut self,
        at: usize,
        event: &E,
        keys: &mut EventKeys<'_, E>,
        (ordinal, marks): (Ordinal, Marks),
        matches: &mut Vec<Match<E>>,
    ) {
        let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
            return;
        };
        let (mask, until) = self
            .woken
            .get_mut(at)
            .map(std::mem::take)
            .unwrap_or_default();
        let Some(counters) = self.counters.get_mut(plan.rule) else {
            return;
        };
        let before = state.form.bytes(&self.limits);
        let mut turn = Turn {
            event,
            ordinal,
            leaves: &self.leaves,
            aliases: &self.aliases,
            scratch: &mut self.scratch,
            marks,
            limits: &self.limits,
            counters,
            root: &mut self.root,
        };
        match (&plan.form, &mut state.form) {
            (PlanForm::Sequence(sequence), FormState::Sequence(inner)) => {
                sequence.expire(
                    inner,
                    self.now_ns,
                    &self.clocks,
                    turn.counters,
                    &mut self.found,
                );
                let steps = (mask, until);
                sequence.process(inner, &mut turn, keys, steps, &mut self.found);
                refresh(&mut self.armed, at, sequence, inner);
            }
            (PlanForm::Sample(sample), FormState::Sample(inner)) => {
                // As for sequences, so that what a late event finds does not hang on when the rule was last swept.
                sample.expire(inner, self.now_ns, self.window_ns, turn.counters);
                let window_ns = self.window_ns;
                sample.process(inner, &mut turn, mask, keys, window_ns, &mut self.found);
            }
            _ => {
                turn.counters.matches += 1;
                self.found.push(Match {
                    rule: plan.rule,
                    keys: Vec::new(),
                    events: vec![event.clone()],
                    tally: None,
                });
            }
        }
        self.held = self.held + state.form.bytes(&self.limits) - before;
        self.pipe(at, matches);
        self.keep_budget();
    }

    /// Sends what a rule found through its pipes.
    fn pipe(&mut self, at: usize, matches: &mut Vec<Match<E>>) {
        if self.found.is_empty() {
            return;
        }
        let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
            return;
        };
        if plan.pipes.is_empty() {
            matches.append(&mut self.found);
            return;
        }
        let Some(counters) = self.counters.get_mut(plan.rule) else {
            return;
        };
        let mut cx = PipeContext {
            fields: &self.leaves.fields,
            unique_max: self.limits.unique_keys,
            terms_max: self.limits.terms,
            keys_max: self.limits.keys_per_event,
            began_ns: self.began_ns.unwrap_or(self.now_ns),
            learning_ns: nanoseconds(self.limits.learning),
            counters,
        };
        for found in self.found.drain(..) {
            state.pipes.push(&plan.pipes, 0, found, &mut cx, matches);
        }
    }

    /// Time has come to `now_ns` without an event: matches that wait for something to stay away go out when due.
    pub fn advance(&mut self, now_ns: i64, matches: &mut Vec<Match<E>>) {
        self.now_ns = self.now_ns.max(now_ns);
        for at in 0..self.plans.len() {
            self.expire(at, matches);
        }
    }

    /// The input has ended: nothing can reject what still waits, and pipes that needed the end give their results.
    pub fn finish(&mut self, matches: &mut Vec<Match<E>>) {
        for at in 0..self.plans.len() {
            let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
                continue;
            };
            let Some(counters) = self.counters.get_mut(plan.rule) else {
                continue;
            };
            let before = state.form.bytes(&self.limits);
            if let (PlanForm::Sequence(sequence), FormState::Sequence(inner)) =
                (&plan.form, &mut state.form)
            {
                sequence.finish(inner, counters, &mut self.found);
            }
            self.held = self.held + state.form.bytes(&self.limits) - before;
            self.pipe(at, matches);
            let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
                continue;
            };
            let Some(counters) = self.counters.get_mut(plan.rule) else {
                continue;
            };
            let mut cx = PipeContext {
                fields: &self.leaves.fields,
                unique_max: self.limits.unique_keys,
                terms_max: self.limits.terms,
                keys_max: self.limits.keys_per_event,
                began_ns: self.began_ns.unwrap_or(self.now_ns),
                learning_ns: nanoseconds(self.limits.learning),
                counters,
            };
            state.pipes.finish(&plan.pipes, &mut cx, matches);
        }
    }

    /// How long rules that ask for what is new, and have no baseline, only note what they see.
    pub fn set_learning(&mut self, learning: Duration) {
        self.limits.learning = learning;
    }

    /// What rules have seen that ask for what is new. It is no part of a [`Snapshot`]: it is worth keeping for days, and
    /// belongs to a rule by its meaning and not by how this version compiles it.
    pub fn baselines(&self) -> Vec<Baseline> {
        let all = self.plans.iter().zip(&self.states);
        all.filter_map(|(plan, state)| state.pipes.baseline(plan.rule, self.began_ns))
            .collect()
    }

    /// Gives one rule what it had seen before; without effect on a rule that does not ask for what is new. Meant for an
    /// engine that has not seen events yet.
    pub fn restore_baseline(&mut self, baseline: Baseline) {
        let rule = baseline.rule;
        let Some(at) = self.plans.iter().position(|plan| plan.rule == rule) else {
            return;
        };
        let max = self.limits.terms;
        let state = self.states.get_mut(at);
        let terms = state.and_then(|state| state.pipes.restore_baseline(baseline, max));
        if let (Some(terms), Some(counters)) = (terms, self.counters.get_mut(rule)) {
            counters.terms = terms;
        }
    }

    /// Counters by rule number.
    pub fn counters(&self) -> &[RuleCounters] {
        &self.counters
    }

    /// What each rule cost, by rule number.
    pub fn costs(&self) -> &[Cost] {
        &self.costs
    }

    /// Every field some rule reads, sorted.
    pub fn needed_fields(&self) -> &[FieldId] {
        &self.needed
    }

    /// Processes whose descent was forgotten because there were too many.
    pub fn processes_evicted(&self) -> u64 {
        self.processes.evicted
    }

    /// Lets time act on one rule.
    fn expire(&mut self, at: usize, matches: &mut Vec<Match<E>>) {
        let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
            return;
        };
        let Some(counters) = self.counters.get_mut(plan.rule) else {
            return;
        };
        let before = state.form.bytes(&self.limits);
        match (&plan.form, &mut state.form) {
            (PlanForm::Sequence(sequence), FormState::Sequence(inner)) => {
                sequence.expire(inner, self.now_ns, &self.clocks, counters, &mut self.found);
                refresh(&mut self.armed, at, sequence, inner);
            }
            (PlanForm::Sample(sample), FormState::Sample(inner)) => {
                sample.expire(inner, self.now_ns, self.window_ns, counters);
            }
            _ => return,
        }
        self.held = self.held + state.form.bytes(&self.limits) - before;
        self.pipe(at, matches);
    }

    /// Rules that no event touches still let go of what expired: one rule is visited per event.
    fn sweep_one(&mut self, matches: &mut Vec<Match<E>>) {
        if self.held == 0 {
            return;
        }
        self.sweep = if self.sweep + 1 < self.plans.len() {
            self.sweep + 1
        } else {
            0
        };
        self.expire(self.sweep, matches);
    }

    /// Keeps all rules together within the byte budget: the rule that holds most gives up its oldest.
    fn keep_budget(&mut self) {
        while self.held > self.limits.bytes {
            let bytes = |state: &RuleState<E>| state.form.bytes(&self.limits);
            let largest =
                (0..self.states.len()).max_by_key(|i| self.states.get(*i).map_or(0, bytes));
            let Some(at) = largest else { return };
            let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get_mut(at)) else {
                return;
            };
            let before = state.form.bytes(&self.limits);
            let counters = self.counters.get_mut(plan.rule);
            match (&plan.form, &mut state.form, counters) {
                (PlanForm::Sequence(sequence), FormState::Sequence(inner), Some(counters)) => {
                    // Some may turn out to be replaced.
                    if !inner.store.fresh().is_empty() {
                        sequence.settle(inner, &self.leaves.fields, &self.limits, counters);
                        refresh(&mut self.armed, at, sequence, inner);
                        counters.partials = inner.store.len() as u64;
                        let after = state.form.bytes(&self.limits);
                        self.held = self.held + after - before;
                        continue;
                    }
                    if !sequence::evict_oldest(inner) {
                        return;
                    }
                }
                (_, FormState::Sample(inner), _) => {
                    inner.remove_longest_idle();
                }
                _ => return,
            }
            let after = state.form.bytes(&self.limits);
            if after == before {
                return;
            }
            self.held -= before - after;
            if let Some(counters) = self.counters.get_mut(plan.rule) {
                counters.evicted += 1;
                counters.partials = state.form.held() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
