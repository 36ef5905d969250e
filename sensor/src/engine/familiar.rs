//! What the filters of a class make of values that come back.
//!
//! In: the spelled values of the fields that tell classes and of those that rarely change, and what followed from them. Out:
//! the same for an event that spells them alike, without asking again. Places are fixed in number and size; newer values
//! take the place of older ones. Must never answer for other values than those stored: spellings are compared whole.

use smallvec::SmallVec;

use crate::event::{Value, Values};

/// Longest spelling, in bytes.
pub(super) const SPELLING_LEN_MAX: usize = 320;
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

/// Appends the values of one field so that different lists of values never look the same. `false` when they are of a kind
/// or length that is not spelled.
#[inline]
pub(super) fn spell(values: Values<'_>, out: &mut Vec<u8>) -> bool {
    match values {
        Values::Missing => {}
        Values::Object => out.push(1),
        Values::One(value) => {
            if !spell_value(value, out) {
                return false;
            }
        }
        values => {
            for value in values.iter() {
                if !spell_value(value, out) {
                    return false;
                }
            }
        }
    }
    out.push(0);
    true
}

#[inline]
fn spell_value(value: Value<'_>, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Str(text) => {
            let Ok(len) = u8::try_from(text.len()) else {
                return false;
            };
            if out.len() + text.len() > SPELLING_LEN_MAX {
                return false;
            }
            out.extend_from_slice(&[2, len]);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bool(b) => out.push(3 + u8::from(b)),
        Value::Int(i) => {
            out.push(5);
            out.extend_from_slice(&i.to_le_bytes());
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OwnedValue;

    fn check(values: &[Values<'_>]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        values.iter().all(|v| spell(*v, &mut out)).then_some(out)
    }

    #[test]
    fn different_values_are_spelled_differently() {
        let one = |s| Values::One(Value::Str(s));
        let list = [OwnedValue::Str("a".into()), OwnedValue::Str("b".into())];
        let spelled = [
            check(&[Values::Missing, one("a")]),
            check(&[one("a"), Values::Missing]),
            check(&[one("a"), one("b")]),
            check(&[Values::List(&list), Values::Missing]),
            check(&[one("a\0b"), Values::Missing]),
            check(&[one("a\0\u{2}\u{1}b"), Values::Missing]),
            check(&[Values::Object, Values::Missing]),
            check(&[one(""), Values::Missing]),
            check(&[Values::Missing, Values::Missing]),
            check(&[Values::One(Value::Bool(true)), Values::Missing]),
            check(&[Values::One(Value::Bool(false)), Values::Missing]),
            check(&[Values::One(Value::Int(0)), Values::Missing]),
            check(&[Values::One(Value::Int(1 << 40)), Values::Missing]),
        ];
        for (i, a) in spelled.iter().enumerate() {
            assert!(a.is_some());
            for b in spelled.iter().skip(i + 1) {
                assert_ne!(a, b);
            }
        }
        assert_eq!(check(&[one(&"x".repeat(300))]), None);
        assert_eq!(check(&[Values::One(Value::Float(1.0))]), None);
    }

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
