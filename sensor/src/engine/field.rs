//! Fields as the compiled engine reads them.
//!
//! In: paths of queries. Out: slots, dense numbers of the distinct paths all loaded rules read, and for each the field of
//! the event (or one element of it) behind it.

use hashbrown::HashMap;

use crate::event::{FieldId, FieldTable, Fields, Values};

/// Number of a path among those the loaded rules read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u32);

/// Paths seen while compiling, numbered in order.
#[derive(Debug, Default)]
pub(super) struct Paths {
    paths: Vec<Box<str>>,
    by_path: HashMap<Box<str>, SlotId>,
}

impl Paths {
    pub(super) fn intern(&mut self, path: &str) -> SlotId {
        if let Some(slot) = self.by_path.get(path) {
            return *slot;
        }
        let slot = SlotId(u32::try_from(self.paths.len()).unwrap_or(u32::MAX));
        self.paths.push(path.into());
        self.by_path.insert(path.into(), slot);
        slot
    }

    /// The path behind a slot.
    pub(super) fn path(&self, slot: SlotId) -> &str {
        self.paths.get(slot.0 as usize).map_or("", |path| path)
    }

    /// Gives every slot its field.
    pub(super) fn resolve(&self, fields: &mut FieldTable) -> Vec<FieldRef> {
        self.paths
            .iter()
            .map(|path| FieldRef::resolve(path, fields))
            .collect()
    }
}

/// A field of an event, or one element of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRef {
    pub(super) id: FieldId,
    element: Option<usize>,
}

impl FieldRef {
    /// `path[n]` of a field the table knows is read as its element; any other path is a field of its own, which readers
    /// of foreign data look up with the position inside.
    fn resolve(path: &str, fields: &mut FieldTable) -> Self {
        if let Some((base, position)) = path.strip_suffix(']').and_then(|p| p.rsplit_once('['))
            && let (Some(id), Ok(element)) = (fields.resolve(base), position.parse())
            && fields.row(id).is_some()
        {
            return Self {
                id,
                element: Some(element),
            };
        }
        Self {
            id: fields.intern(path),
            element: None,
        }
    }

    #[inline]
    pub(super) fn values<'e, E: Fields>(&self, event: &'e E) -> Values<'e> {
        let values = event.values(self.id);
        match self.element {
            None => values,
            Some(n) => values.get(n).map_or(Values::Missing, Values::One),
        }
    }
}
