//! What the filters of a class make of values that come back.
//!
//! In: the spelled values of the fields that tell classes and of those that rarely change, and what followed from them. Out:
//! the same for an event that spells them alike, without asking again. Places are fixed in number and size; newer values
//! take the place of older ones. Must never answer for other values than those stored: spellings are compared whole.

use smallvec::SmallVec;

use crate::event::SPELLING_LEN_MAX;

/// Places, a power of two.
const PLACES: usize = 1024;

/// How well a spelling is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// What it means has been filled in, at this place.
    Known(usize),
    /// It came before: worth remembering.
    Again,
    New,
}

/// Where the program of a filter still in play may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortcut {
    /// Position of the filter in its class.
    pub(super) entry: u32,
    pub(super) start: u32,
}

/// Most shortcuts of one spelling; further filters begin at their beginning.
const SHORTCUTS_MAX: usize = 12;

/// Shortcuts by filter.
#[derive(Debug, Default)]
pub(super) struct Shortcuts {
    list: SmallVec<[Shortcut; SHORTCUTS_MAX]>,
}

impl Shortcuts {
    /// Takes one more, in order of the filters, unless there are too many.
    pub(super) fn push(&mut self, shortcut: Shortcut) {
        if self.list.len() < SHORTCUTS_MAX {
            self.list.push(shortcut);
        }
    }
}

/// Per spelling, the filters still in play and those with a hit.
#[derive(Debug, Default)]
pub(super) struct Familiar {
    /// Empty until the first spelling comes, like the other three; then everything is there at once.
    places: Vec<Place>,
    /// [`SPELLING_LEN_MAX`] bytes for each place.
    spellings: Vec<u8>,
    /// `2 * width` for each place: words of filters in play, then as many of filters with a hit.
    words: Vec<u64>,
    /// [`SHORTCUTS_MAX`] for each place.
    shortcuts: Vec<Shortcut>,
    /// Most words of one set.
    width: usize,
}

#[derive(Clone, Debug, Default)]
struct Place {
    hash: u64,
    len: usize,
    width: usize,
    shortcuts: usize,
}

impl Familiar {
    /// For sets of at most `filters`.
    pub(super) fn new(filters: usize) -> Self {
        Self {
            width: filters.div_ceil(64),
            ..Self::default()
        }
    }

    /// Sets both sets of filters if the spelling is known. One that is new takes its place: only what comes again is worth
    /// the work of finding out what it means.
    #[inline]
    pub(super) fn get(
        &mut self,
        hash: u64,
        spelling: &[u8],
        alive: &mut [u64],
        met: &mut [u64],
    ) -> Met {
        if self.places.is_empty() {
            self.places = vec![Place::default(); PLACES];
            self.spellings = vec![0; PLACES * SPELLING_LEN_MAX];
            self.words = vec![0; PLACES * 2 * self.width];
            self.shortcuts = vec![Shortcut { entry: 0, start: 0 }; PLACES * SHORTCUTS_MAX];
        }
        let at = at(hash);
        let Some(place) = self.places.get_mut(at) else {
            return Met::New;
        };
        if place.hash != hash {
            *place = Place {
                hash,
                ..Place::default()
            };
            return Met::New;
        }
        let start = at * SPELLING_LEN_MAX;
        if place.width != alive.len()
            || self.spellings.get(start..start + place.len) != Some(spelling)
        {
            return Met::Again;
        }
        let words = self
            .words
            .get(at * 2 * self.width..)
            .and_then(|words| words.split_at_checked(self.width));
        let Some((a, m)) = words else {
            return Met::Again;
        };
        alive.iter_mut().zip(a).for_each(|(to, from)| *to = *from);
        met.iter_mut().zip(m).for_each(|(to, from)| *to = *from);
        Met::Known(at)
    }

    /// The shortcuts of a known spelling, by filter.
    #[inline]
    pub(super) fn shortcuts(&self, place: usize) -> &[Shortcut] {
        let count = self.places.get(place).map_or(0, |p| p.shortcuts);
        let start = place * SHORTCUTS_MAX;
        self.shortcuts.get(start..start + count).unwrap_or_default()
    }

    /// Remembers what a spelling means: filters in play, filters with a hit, shortcuts.
    pub(super) fn put(
        &mut self,
        hash: u64,
        spelling: &[u8],
        (alive, met): (&[u64], &[u64]),
        shortcuts: &Shortcuts,
    ) {
        if spelling.is_empty() || spelling.len() > SPELLING_LEN_MAX || alive.len() > self.width {
            return;
        }
        let at = at(hash);
        let start = at * SPELLING_LEN_MAX;
        let room = self.spellings.get_mut(start..start + spelling.len());
        let words = self
            .words
            .get_mut(at * 2 * self.width..)
            .and_then(|words| words.split_at_mut_checked(self.width));
        if let Some(place) = self.places.get_mut(at)
            && let Some(room) = room
            && let Some((a, m)) = words
        {
            *place = Place {
                hash,
                len: spelling.len(),
                width: alive.len(),
                shortcuts: shortcuts.list.len(),
            };
            let ours = self.shortcuts.iter_mut().skip(at * SHORTCUTS_MAX);
            ours.zip(&shortcuts.list).for_each(|(to, from)| *to = *from);
            room.copy_from_slice(spelling);
            a.iter_mut().zip(alive).for_each(|(to, from)| *to = *from);
            m.iter_mut().zip(met).for_each(|(to, from)| *to = *from);
        }
    }
}

#[inline]
fn at(hash: u64) -> usize {
    usize::try_from(hash % PLACES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_answers_for_its_own_spelling() {
        let mut familiar = Familiar::new(100);
        let (mut alive, mut met) = ([9, 9], [9, 9]);
        assert_eq!(familiar.get(1, b"a", &mut alive, &mut met), Met::New);
        assert_eq!(familiar.get(1, b"a", &mut alive, &mut met), Met::Again);
        let mut shortcuts = Shortcuts::default();
        let shortcut = Shortcut { entry: 3, start: 7 };
        shortcuts.push(shortcut);
        familiar.put(1, b"a", (&[1, 2], &[3, 4]), &shortcuts);
        assert_eq!(familiar.get(1, b"b", &mut alive, &mut met), Met::Again);
        assert_eq!((alive, met), ([9, 9], [9, 9]));
        assert_eq!(familiar.get(1, b"a", &mut alive, &mut met), Met::Known(1));
        assert_eq!(familiar.shortcuts(1), [shortcut]);
        assert_eq!((alive, met), ([1, 2], [3, 4]));
        let other = 1 + PLACES as u64;
        assert_eq!(familiar.get(other, b"a", &mut alive, &mut met), Met::New);
        assert_eq!(familiar.get(1, b"a", &mut alive, &mut met), Met::New);
    }
}
