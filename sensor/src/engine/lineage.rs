//! Which processes descend from one that matched: the state behind `descendant of`, `child of` and `event of`.
//!
//! In: every event's process and parent identity, and which inner queries it satisfied. Out: the marks of its process. A
//! process gets its ancestors' marks when it is first seen, so marks survive the parent's exit. Bounded; evictions counted.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::event::{Fields, Value};

use super::field::FieldRef;

/// Number of a distinct inner query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Mark(pub(super) u8);

/// Most distinct inner queries.
pub(super) const MARKS_MAX: usize = 128;

/// How long a process is remembered after its end, for children and events that arrive a little later.
const GRACE_NS: i64 = 60_000_000_000;

/// Marks of one process: its own events', its parent's, its ancestors'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) own: u128,
    pub(super) parent: u128,
    pub(super) ancestors: u128,
}

impl Marks {
    /// `relation` as [`relation_code`](super::condition::relation_code) numbers it.
    pub(super) fn has(&self, mark: Mark, relation: u8) -> bool {
        let bits = match relation {
            0 => self.own,
            1 => self.parent,
            _ => self.ancestors,
        };
        bits >> mark.0 & 1 == 1
    }
}

/// Fields that identify processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineageFields {
    pub(super) entity: FieldRef,
    pub(super) parent: FieldRef,
    /// `end` among its values tells that the process is gone.
    pub(super) event_type: FieldRef,
}

/// Marks of the processes seen.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) by_id: HashMap<Arc<str>, Marks>,
    /// In order of first sight, for eviction.
    pub(super) order: VecDeque<Arc<str>>,
    pub(super) ended: VecDeque<(i64, Arc<str>)>,
    pub(super) evicted: u64,
}

impl Processes {
    /// Marks of the event's process; a process not seen before inherits its parent's.
    pub(super) fn enter<E: Fields>(
        &mut self,
        fields: &LineageFields,
        event: &E,
        max: usize,
    ) -> Marks {
        let Some(id) = text(fields.entity, event) else {
            return Marks::default();
        };
        if let Some(marks) = self.by_id.get(&*id) {
            return *marks;
        }
        let parent = text(fields.parent, event)
            .and_then(|p| self.by_id.get(&*p))
            .copied()
            .unwrap_or_default();
        let marks = Marks {
            own: 0,
            parent: parent.own,
            ancestors: parent.ancestors | parent.own,
        };
        let id: Arc<str> = id.as_ref().into();
        self.by_id.insert(id.clone(), marks);
        self.order.push_back(id);
        while self.by_id.len() > max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if self.by_id.remove(&oldest).is_some() {
                self.evicted += 1;
            }
        }
        marks
    }

    /// The event has acted: its process takes the marks it earned, and is soon forgotten if this was its end.
    pub(super) fn leave<E: Fields>(
        &mut self,
        fields: &LineageFields,
        event: &E,
        earned: u128,
        now_ns: i64,
    ) {
        let ended = fields
            .event_type
            .values(event)
            .iter()
            .any(|v| v == Value::Str("end"));
        if earned != 0 || ended {
            let Some(id) = text(fields.entity, event) else {
                return;
            };
            if let Some(marks) = self.by_id.get_mut(&*id) {
                marks.own |= earned;
            }
            if ended && let Some((id, _)) = self.by_id.get_key_value(&*id) {
                self.ended.push_back((now_ns, id.clone()));
            }
        }
        while let Some((at, id)) = self.ended.front()
            && now_ns.saturating_sub(*at) > GRACE_NS
        {
            self.by_id.remove(id);
            self.ended.pop_front();
        }
        // Ended processes leave holes in the order; close them before they outnumber the living.
        if self.order.len() > 2 * self.by_id.len() + 64 {
            let by_id = &self.by_id;
            self.order.retain(|id| by_id.contains_key(id));
        }
    }
}

fn text<E: Fields>(field: FieldRef, event: &E) -> Option<std::borrow::Cow<'_, str>> {
    match field.values(event).get(0)? {
        Value::Str(text) => Some(std::borrow::Cow::Borrowed(text)),
        Value::Int(i) => Some(std::borrow::Cow::Owned(i.to_string())),
        _ => None,
    }
}
