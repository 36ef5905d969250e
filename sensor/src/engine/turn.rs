//! One event's turn: everything a sequence or sample needs to let it act.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::event::Fields;

use super::condition::{Program, Test};
use super::expression::{Context, Expression};
use super::key::{EventKeys, Key, KeyPlan};
use super::leaf::{LeafScratch, Leaves};
use super::lineage::Marks;
use super::partial_match::{KeyHasher, Node, Ordinal};
use super::{Limits, RuleCounters};

/// The event at hand and what can be asked about it.
pub(super) struct Turn<'e, E> {
    pub(super) event: &'e E,
    pub(super) ordinal: Ordinal,
    pub(super) leaves: &'e Leaves,
    pub(super) aliases: &'e [Expression],
    pub(super) scratch: &'e mut LeafScratch,
    pub(super) marks: Marks,
    pub(super) limits: &'e Limits,
    pub(super) counters: &'e mut RuleCounters,
    /// The event as the first of matches, once somebody needed it.
    pub(super) root: &'e mut Option<Arc<Node<E>>>,
}

impl<'e, E: Fields> Turn<'e, E> {
    /// The event's keys under a list; what is left out is counted.
    pub(super) fn keys<'c, 'v, V: Fields>(
        &mut self,
        keys: &'c mut EventKeys<'v, V>,
        plan: &KeyPlan,
        hasher: &KeyHasher,
    ) -> &'c [Key<'v>] {
        let (keys, left_out) = keys.of(
            plan,
            &self.leaves.fields,
            hasher,
            self.limits.keys_per_event,
        );
        self.counters.truncated_keys += left_out;
        keys
    }

    /// Whether a condition that refers to aliases holds for the event after the given partial match.
    pub(super) fn holds_for(&mut self, program: &Program, tail: &Arc<Node<E>>) -> bool {
        let mut earlier: SmallVec<[Option<&E>; 8]> = SmallVec::new();
        let mut node = Some(tail);
        while let Some(at) = node {
            let step = at.step as usize;
            if earlier.len() <= step {
                earlier.resize(step + 1, None);
            }
            // Walking back from the newest: of a repeated step the last event counts.
            if let Some(slot @ None) = earlier.get_mut(step) {
                *slot = Some(&at.event);
            }
            node = at.previous.as_ref();
        }
        let context = Context {
            event: self.event,
            earlier: &earlier,
            fields: &self.leaves.fields,
        };
        program.run(|test| match test {
            Test::Leaf(leaf) => self.leaves.holds(leaf, self.event, self.scratch),
            Test::Lineage(mark, relation) => self.marks.has(mark, relation),
            Test::Alias(i) => self
                .aliases
                .get(i as usize)
                .is_some_and(|a| a.holds(&context)),
        })
    }
}
