//! Where an event has the slots of its fields.
//!
//! In: the columns found while a line is read. Out: for a field, the position of its slot. Events with the same columns share
//! one table; a host's events have few different ones, and what is beyond the bound has a table of its own. Must never say
//! anything of a field that the event does not have.

use std::sync::Arc;

use hashbrown::HashTable;

/// Most sets of columns whose tables are shared.
const SHAPES_MAX: usize = 1024;
/// Stands for a field that is not there.
const NONE: u8 = u8::MAX;
/// Stands for a field whose slot lies further behind than a byte can tell.
const FAR: u8 = u8::MAX - 1;

/// Which columns an event has, and where: rules together name far more fields than any one event carries.
#[derive(Debug)]
pub(super) struct Shape {
    /// By field.
    near: Box<[u8]>,
    /// Slots that a byte can not tell, by field.
    far: Box<[(u16, u16)]>,
    /// By column; `u16::MAX` where it is not there.
    by_column: Box<[u16]>,
    /// How many columns there are.
    pub(super) len: usize,
}

impl Shape {
    /// `columns` tells each field's column, `present` has a bit for each column.
    fn new(columns: &[u16], count: usize, present: &[u64]) -> Self {
        let has = |column: usize| {
            let word = present.get(column / 64).copied().unwrap_or(0);
            word >> (column % 64) & 1 == 1
        };
        let mut by_column = vec![u16::MAX; count];
        let mut len = 0;
        for (column, slot) in by_column.iter_mut().enumerate() {
            if has(column) {
                *slot = u16::try_from(len).unwrap_or(u16::MAX);
                len += 1;
            }
        }
        let mut far = Vec::new();
        let mut near = vec![NONE; columns.len()];
        for ((field, near), column) in (0u16..).zip(&mut near).zip(columns) {
            let slot = by_column.get(usize::from(*column)).copied();
            let Some(slot) = slot.filter(|slot| *slot != u16::MAX) else {
                continue;
            };
            *near = match u8::try_from(slot) {
                Ok(slot) if slot < FAR => slot,
                _ => {
                    far.push((field, slot));
                    FAR
                }
            };
        }
        Self {
            near: near.into(),
            far: far.into(),
            by_column: by_column.into(),
            len,
        }
    }

    /// Position of a field's slot, if the event has it.
    #[inline]
    pub(super) fn slot(&self, field: u16) -> Option<usize> {
        match self.near.get(usize::from(field)) {
            None | Some(&NONE) => None,
            Some(&FAR) => self.far_slot(field),
            Some(slot) => Some(usize::from(*slot)),
        }
    }

    #[cold]
    fn far_slot(&self, field: u16) -> Option<usize> {
        let at = self.far.binary_search_by_key(&field, |(field, _)| *field);
        let (_, slot) = self.far.get(at.ok()?)?;
        Some(usize::from(*slot))
    }

    /// Position of a column's slot, if the event has it.
    #[inline]
    pub(super) fn slot_of_column(&self, column: u16) -> Option<usize> {
        let slot = self.by_column.get(usize::from(column))?;
        (*slot != u16::MAX).then_some(usize::from(*slot))
    }
}

/// The shapes met so far.
#[derive(Debug)]
pub(super) struct Shapes {
    /// By field.
    columns: Box<[u16]>,
    count: usize,
    known: HashTable<Known>,
    /// The columns of the line at hand.
    present: Vec<u64>,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    present: Box<[u64]>,
    shape: Arc<Shape>,
}

impl Shapes {
    /// `columns` tells each field's column, those of `count` that are there.
    pub(super) fn new(columns: Vec<u16>, count: usize) -> Self {
        Self {
            columns: columns.into(),
            count,
            known: HashTable::new(),
            present: vec![0; count.div_ceil(64)],
        }
    }

    /// The shape of an event with these columns, in any order and any number of times.
    pub(super) fn of(&mut self, columns: impl Iterator<Item = u16>) -> Arc<Shape> {
        const K: u64 = 0x9E37_79B9_7F4A_7C15;
        self.present.fill(0);
        for column in columns {
            if let Some(word) = self.present.get_mut(usize::from(column) / 64) {
                *word |= 1 << (column % 64);
            }
        }
        let mixed = self.present.iter().fold(0u64, |hash, word| {
            (hash ^ word).wrapping_mul(K).rotate_left(29)
        });
        let hash = mixed ^ (mixed >> 32);
        let known = self
            .known
            .find(hash, |k| k.hash == hash && *k.present == *self.present);
        if let Some(known) = known {
            return known.shape.clone();
        }
        let shape = Arc::new(Shape::new(&self.columns, self.count, &self.present));
        if self.known.len() < SHAPES_MAX {
            let known = Known {
                hash,
                present: self.present.as_slice().into(),
                shape: shape.clone(),
            };
            self.known.insert_unique(hash, known, |k| k.hash);
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_where_their_columns_are() {
        // Fields 0 and 4 are wanted by nobody.
        let mut shapes = Shapes::new(vec![u16::MAX, 2, 0, 1, u16::MAX], 3);
        let shape = shapes.of([2, 0, 2].into_iter());
        assert_eq!(shape.len, 2);
        let slots: Vec<_> = (0..6).map(|field| shape.slot(field)).collect();
        assert_eq!(slots, [None, Some(1), Some(0), None, None, None]);
        let by_column: Vec<_> = (0..4).map(|c| shape.slot_of_column(c)).collect();
        assert_eq!(by_column, [Some(0), None, Some(1), None]);
        assert!(Arc::ptr_eq(&shape, &shapes.of([0, 2].into_iter())));
        assert!(!Arc::ptr_eq(&shape, &shapes.of([0].into_iter())));
        assert_eq!(shapes.of([].into_iter()).len, 0);
    }

    #[test]
    fn more_fields_than_a_byte_can_tell() {
        let mut shapes = Shapes::new((0..700).rev().collect(), 700);
        let shape = shapes.of((0..700).filter(|column| column % 2 == 0));
        assert_eq!(shape.len, 350);
        for field in 0..700u16 {
            let column = 699 - field;
            let expected = (column % 2 == 0).then_some(usize::from(column / 2));
            assert_eq!(shape.slot(field), expected, "{field}");
            assert_eq!(shape.slot_of_column(column), expected, "{column}");
        }
    }

    #[test]
    fn beyond_the_bound_shapes_are_right_and_not_kept() {
        let mut shapes = Shapes::new((0..20).collect(), 20);
        for bits in 0..2 * SHAPES_MAX {
            let columns = (0..20u16).filter(|column| bits >> column & 1 == 1);
            let shape = shapes.of(columns.clone());
            for (slot, column) in columns.enumerate() {
                assert_eq!(shape.slot(column), Some(slot));
            }
        }
        assert_eq!(shapes.known.len(), SHAPES_MAX);
    }
}
