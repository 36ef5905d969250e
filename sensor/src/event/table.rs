//! Field paths and their numbers.
//!
//! In: paths as rules and foreign data name them. Out: [`FieldId`]s, dense from 0, so that events can be indexed by them.
//! It never forgets or renumbers a path.

use std::collections::HashMap;

use super::FieldId;
use super::schema::{self, FIELDS, FieldRow, FieldType};

/// Numbers field paths: the sensor's own schema first (or nothing, for foreign data), then paths as they are interned.
#[derive(Clone, Debug, Default)]
pub struct FieldTable {
    /// How many rows of [`FIELDS`] the first ids stand for: all or none.
    fixed: usize,
    dynamic: Vec<Box<str>>,
    by_path: HashMap<Box<str>, FieldId>,
}

impl FieldTable {
    /// The sensor's own fields: ids `0..FIELDS.len()` are the rows of [`FIELDS`].
    #[must_use]
    pub fn sensor() -> FieldTable {
        FieldTable {
            fixed: FIELDS.len(),
            ..FieldTable::default()
        }
    }

    /// No field is known in advance: data of another product.
    #[must_use]
    pub fn empty() -> FieldTable {
        FieldTable::default()
    }

    /// Number of a path, if it has one.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<FieldId> {
        if self.fixed > 0
            && let Some(row) = schema::position(path)
        {
            return u16::try_from(row).ok().map(FieldId);
        }
        self.by_path.get(path).copied()
    }

    /// Number of a path, given one if it had none. Past 65 535 paths all further ones share the last number, which no
    /// event carries.
    pub fn intern(&mut self, path: &str) -> FieldId {
        if let Some(known) = self.resolve(path) {
            return known;
        }
        let Some(id) = u16::try_from(self.len()).ok().filter(|n| *n < u16::MAX) else {
            return FieldId(u16::MAX);
        };
        self.dynamic.push(path.into());
        self.by_path.insert(path.into(), FieldId(id));
        FieldId(id)
    }

    /// The path behind a number; empty for a number this table never gave.
    #[must_use]
    pub fn path(&self, field: FieldId) -> &str {
        let index = usize::from(field.0);
        match self.row(field) {
            Some(row) => row.path,
            None => index
                .checked_sub(self.fixed)
                .and_then(|i| self.dynamic.get(i))
                .map_or("", |path| path),
        }
    }

    /// The schema's row behind a number, `None` for an interned path.
    #[must_use]
    pub fn row(&self, field: FieldId) -> Option<&'static FieldRow> {
        let index = usize::from(field.0);
        (index < self.fixed).then(|| FIELDS.get(index)).flatten()
    }

    /// Declared type, `None` for an interned path.
    #[must_use]
    pub fn ty(&self, field: FieldId) -> Option<FieldType> {
        self.row(field).map(|row| row.ty)
    }

    /// Numbers given so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fixed + self.dynamic.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_rows_then_interned_paths() {
        let mut table = FieldTable::sensor();
        for (index, row) in FIELDS.iter().enumerate() {
            let id = table.resolve(row.path).unwrap();
            assert_eq!(usize::from(id.0), index, "{}", row.path);
            assert_eq!(table.path(id), row.path);
            assert_eq!(table.ty(id), Some(row.ty));
        }
        assert_eq!(table.resolve("url.full"), None);
        let id = table.intern("url.full");
        assert_eq!(usize::from(id.0), FIELDS.len());
        assert_eq!(table.intern("url.full"), id);
        assert_eq!(table.path(id), "url.full");
        assert_eq!(table.ty(id), None);
        assert_eq!(table.path(FieldId(u16::MAX)), "");
    }

    #[test]
    fn an_empty_table_knows_nothing_of_the_schema() {
        let mut table = FieldTable::empty();
        assert_eq!(table.resolve("process.name"), None);
        assert_eq!(table.intern("process.name"), FieldId(0));
        assert_eq!(table.path(FieldId(0)), "process.name");
    }

    #[test]
    fn a_full_table_never_reuses_a_number() {
        let mut table = FieldTable::empty();
        for n in 0..u32::from(u16::MAX) + 10 {
            table.intern(&format!("f{n}"));
        }
        assert_eq!(table.intern("one more"), FieldId(u16::MAX));
        assert_eq!(table.path(FieldId(u16::MAX)), "");
        assert_eq!(table.resolve("f7"), Some(FieldId(7)));
    }
}
