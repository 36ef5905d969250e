//! Which columns an event has, a bit each.
//!
//! In: the columns found while a line is read. Out: for a column, the position of its slot among those present. Must never say
//! anything of a column beyond those it was made for.

use smallvec::SmallVec;

/// Which columns an event has: rules together name far more fields than any one event carries.
#[derive(Debug)]
pub(super) struct Present {
    words: SmallVec<[PresentWord; 3]>,
}

/// The presence of 64 columns.
#[derive(Clone, Copy, Debug, Default)]
struct PresentWord {
    bits: u64,
    /// Columns present in the words before: that of a column's slot need not be counted at every look.
    before: u32,
}

impl Present {
    pub(super) fn new(columns: usize) -> Self {
        Self {
            words: smallvec::smallvec![PresentWord::default(); columns.div_ceil(64)],
        }
    }

    pub(super) fn insert(&mut self, column: u16) {
        if let Some(word) = self.words.get_mut(usize::from(column) / 64) {
            word.bits |= 1 << (column % 64);
        }
    }

    /// All columns are in: tells how many there are.
    pub(super) fn count(&mut self) -> usize {
        let mut before = 0;
        for word in &mut self.words {
            word.before = before;
            before += word.bits.count_ones();
        }
        before as usize
    }

    /// Position of a column's slot, if it has one.
    #[inline]
    pub(super) fn rank(&self, column: u16) -> Option<usize> {
        let word = self.words.get(usize::from(column) / 64)?;
        let bit = 1u64 << (column % 64);
        if word.bits & bit == 0 {
            return None;
        }
        Some((word.before + (word.bits & (bit - 1)).count_ones()) as usize)
    }
}
