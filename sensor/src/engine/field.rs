//! Fields as the compiled engine reads them.
//!
//! In: paths of queries. Out: slots, dense numbers of the distinct paths all loaded rules read, and for each the field of
//! the event (or one element of it) behind it.

use hashbrown::HashMap;

use crate::event::{FIELDS, FieldId, FieldTable, Fields, Spelling, Values};

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

/// A field of an event, one element of it, or an object that holds fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldRef {
    pub(super) id: FieldId,
    element: Option<usize>,
    /// For an object of the schema: how many fields from `id` on are below it.
    below: u16,
}

impl FieldRef {
    /// The fields of the event that are read.
    pub(super) fn ids(&self) -> impl Iterator<Item = FieldId> + use<> {
        (self.id.0..=self.id.0.saturating_add(self.below.max(1) - 1)).map(FieldId)
    }

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
                below: 0,
            };
        }
        if let Some((first, below)) = members(path, fields) {
            return Self {
                id: first,
                element: None,
                below,
            };
        }
        Self {
            id: fields.intern(path),
            element: None,
            below: 0,
        }
    }

    #[inline]
    pub(super) fn values<'e, E: Fields>(&self, event: &'e E) -> Values<'e> {
        if self.below == 0 && self.element.is_none() {
            return event.values(self.id);
        }
        self.values_of_part(event)
    }

    /// Adds the values to a spelling.
    #[inline]
    pub(super) fn spell<E: Fields>(&self, event: &E, out: &mut Spelling) {
        if self.below == 0 && self.element.is_none() {
            event.spell(self.id, out);
        } else {
            out.push(self.values_of_part(event));
        }
    }

    #[cold]
    fn values_of_part<'e, E: Fields>(&self, event: &'e E) -> Values<'e> {
        if self.below > 0 {
            let present = self.ids().any(|id| !event.values(id).is_empty());
            return if present {
                Values::Object
            } else {
                Values::Missing
            };
        }
        let values = event.values(self.id);
        match self.element {
            None => values,
            Some(n) => values.get(n).map_or(Values::Missing, Values::One),
        }
    }
}

/// The schema's fields below a path that is none itself: sorted by path, they stand together.
fn members(path: &str, fields: &FieldTable) -> Option<(FieldId, u16)> {
    if fields.resolve(path).is_some() {
        return None;
    }
    let is_member = |member: &str| {
        member
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let first = FIELDS.iter().position(|row| is_member(row.path))?;
    let count = FIELDS
        .iter()
        .skip(first)
        .take_while(|row| is_member(row.path))
        .count();
    let id = FieldId(u16::try_from(first).ok()?);
    // A table of foreign data gives these numbers to other paths.
    fields.row(id)?;
    Some((id, u16::try_from(count).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_the_schema_are_their_members() {
        let mut table = FieldTable::sensor();
        let parent = FieldRef::resolve("process.parent", &mut table);
        assert!(parent.below > 3);
        for id in parent.ids() {
            assert!(table.path(id).starts_with("process.parent."));
        }
        assert_eq!(FieldRef::resolve("process.name", &mut table).below, 0);
        assert_eq!(FieldRef::resolve("foreign", &mut table).below, 0);
        let mut table = FieldTable::empty();
        assert_eq!(FieldRef::resolve("process.parent", &mut table).below, 0);
    }
}
