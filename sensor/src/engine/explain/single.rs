//! One condition over one event, by itself.
//!
//! In: a typed event query. Out: whether an event satisfies it. For what asks seldom, such as an exception of an alert: it shares
//! nothing with the engine's rules, and knows nothing of other events, so lineage is never true.

use crate::eql::query::{Form, Query};
use crate::event::{FieldId, FieldTable, Fields};

use super::super::CompileError;
use super::super::field::{FieldRef, Paths};
use super::super::lineage::Marks;
use super::clause::{Condition, Place, Taker};

/// An event query, compiled alone.
#[derive(Debug)]
pub struct Single {
    condition: Condition,
    fields: Vec<FieldRef>,
}

impl Single {
    /// `None` for a sequence or a sample.
    ///
    /// # Errors
    /// The engine could not take the query either.
    pub fn new(query: &Query, table: &mut FieldTable) -> Result<Option<Single>, CompileError> {
        let Form::Event(filter) = &query.form else {
            return Ok(None);
        };
        let mut taker = Taker {
            text: "",
            category: "event.category",
            paths: Paths::default(),
            marks: Vec::new(),
        };
        let condition = taker.filter(filter)?;
        Ok(Some(Single {
            condition,
            fields: taker.paths.resolve(table),
        }))
    }

    /// Fields an event must carry to be asked about.
    pub fn needed_fields(&self) -> impl Iterator<Item = FieldId> + '_ {
        self.fields.iter().flat_map(FieldRef::ids)
    }

    #[must_use]
    pub fn holds<E: Fields>(&self, event: &E) -> bool {
        self.condition.holds(Place {
            event,
            earlier: &[],
            fields: &self.fields,
            marks: Marks::default(),
        })
    }
}
