//! One rule set takes over from another in mid-stream.
//!
//! In: the engine that ran so far, and which of its rules each new rule is. Out: the new engine goes on where the old one stopped.
//! What a rule remembers is moved, not copied, and only when its query is the same to the letter; marks of processes are
//! renumbered. Bounds of the new engine apply.

use std::collections::HashMap;

use super::lineage::{Marks, Processes};
use super::partial_match::KeyHasher;
use super::sample::SampleState;
use super::snapshot::Restored;
use super::{Engine, FormState, RuleState, armed, sequence};
use crate::event::Fields;

impl<E: Fields + Clone> Engine<E> {
    /// Goes on where another engine stopped, which keeps only what found no place here. `same` gives, for the number of a rule here, the number it had there. Meant for an
    /// engine that has not seen events yet.
    pub fn inherit(
        &mut self,
        old: &mut Engine<E>,
        same: impl Fn(usize) -> Option<usize>,
    ) -> Restored {
        let mut restored = Restored::default();
        // By their rule's number there; each knows since when it is, which the moved state leaves to its engine.
        let baselines = old.baselines();
        let mut moved: HashMap<usize, usize> = HashMap::new();
        if let Some(hasher) = old.states.iter().find_map(hasher) {
            // What an event's keys hash to is worked out once for all rules.
            let new = |plan| RuleState::new(plan, &hasher);
            self.states = self.plans.iter().map(new).collect();
        }
        self.now_ns = self.now_ns.max(old.now_ns);
        self.arrivals = self.arrivals.max(old.arrivals);
        for at in 0..self.plans.len() {
            let Some(plan) = self.plans.get(at) else {
                continue;
            };
            let before = same(plan.rule);
            let found = old
                .plans
                .iter()
                .position(|was| Some(was.rule) == before && was.fingerprint == plan.fingerprint);
            let (Some(found), Some(state)) = (found, self.states.get_mut(at)) else {
                continue;
            };
            if let Some(theirs) = old.states.get_mut(found) {
                std::mem::swap(state, theirs);
            }
            self.keep_bounds(at);
            let (Some(plan), Some(state)) = (self.plans.get(at), self.states.get(at)) else {
                continue;
            };
            let held = state.form.held();
            self.held = self.held.saturating_add(state.form.bytes(&self.limits));
            restored.kept += held as u64;
            if let Some(before) = before {
                moved.insert(before, plan.rule);
                if let (Some(mine), Some(theirs)) =
                    (self.counters.get_mut(plan.rule), old.counters.get(before))
                {
                    *mine = *theirs;
                    mine.partials = held as u64;
                }
                if let (Some(mine), Some(theirs)) =
                    (self.costs.get_mut(plan.rule), old.costs.get(before))
                {
                    *mine = *theirs;
                }
            }
        }
        for mut baseline in baselines {
            if let Some(rule) = moved.get(&baseline.rule) {
                baseline.rule = *rule;
                self.restore_baseline(baseline);
            }
        }
        restored.left = old
            .states
            .iter()
            .map(|state| state.form.held() as u64)
            .sum();
        if self.lineage.is_some() {
            self.processes =
                renumbered(std::mem::take(&mut old.processes), &old.marks, &self.marks);
        }
        self.armed = self.plans.iter().zip(&self.states).map(armed).collect();
        self.keep_budget();
        restored
    }

    /// Lets go of what is over the bound of one rule.
    fn keep_bounds(&mut self, at: usize) {
        let max = self.limits.partials;
        match self
            .states
            .get_mut(at)
            .map(|state: &mut RuleState<E>| &mut state.form)
        {
            Some(FormState::Sequence(state)) => {
                while state.store.len() > max && sequence::evict_oldest(state) {}
            }
            Some(FormState::Sample(state)) => keep_sample_bound(state, max),
            _ => {}
        }
    }
}

fn hasher<E>(state: &RuleState<E>) -> Option<KeyHasher> {
    match &state.form {
        FormState::Event => None,
        FormState::Sequence(state) => Some(state.store.hasher.clone()),
        FormState::Sample(state) => Some(state.hasher.clone()),
    }
}

fn keep_sample_bound<E: Fields>(state: &mut SampleState<E>, max: usize) {
    while state.held > max {
        let before = state.held;
        state.remove_longest_idle();
        if state.held == before {
            return;
        }
    }
}

/// The same processes; marks whose inner query is gone are dropped.
fn renumbered(mut processes: Processes, old: &[u64], new: &[u64]) -> Processes {
    if old == new {
        return processes;
    }
    // By the old number, the bit it has now.
    let bits: Vec<u128> = old
        .iter()
        .map(|name| match new.iter().position(|known| known == name) {
            Some(at) => 1u128
                .checked_shl(u32::try_from(at).unwrap_or(u32::MAX))
                .unwrap_or(0),
            None => 0,
        })
        .collect();
    let renumber = |mut marks: u128| {
        let mut now = 0;
        while marks != 0 {
            let at = marks.trailing_zeros();
            now |= bits.get(at as usize).copied().unwrap_or(0);
            marks &= marks - 1;
        }
        now
    };
    for marks in processes.by_id.values_mut() {
        *marks = Marks {
            own: renumber(marks.own),
            parent: renumber(marks.parent),
            ancestors: renumber(marks.ancestors),
        };
    }
    processes
}
