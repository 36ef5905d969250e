//! Answers remembered by value: the members of one pattern group that a short text matches.
//!
//! In: texts of one field, and their answers once worked out. Out: the answer for a text met lately. A host runs the same
//! programs over and over, so most names, paths and arguments are found here. Places are fixed in number and size; a newer
//! text takes an older one's place. Must never answer for another text than the one stored: texts are compared whole.

use super::literal::hash_text;

/// Longest text that is remembered, in bytes.
const TEXT_MAX: usize = 46;
/// Most members that are remembered for a text.
const MEMBERS_MAX: usize = 8;
/// Places of one group; a power of two.
const PLACES: usize = 512;

/// What one group answered lately.
#[derive(Debug, Default)]
pub(super) struct ValueCache {
    /// Empty until the first text comes: many groups are over fields this stream never carries.
    places: Vec<Place>,
}

/// One line of the processor's cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
struct Place {
    /// One more than the text's length; 0 where nothing is remembered.
    len: u8,
    count: u8,
    text: [u8; TEXT_MAX],
    members: [u16; MEMBERS_MAX],
}

const _: () = assert!(size_of::<Place>() == 64);

/// The answer for one text, as it is put together.
#[derive(Debug, Default)]
struct Answer {
    /// Past [`MEMBERS_MAX`] when they do not fit.
    count: usize,
    members: [u16; MEMBERS_MAX],
}

impl Answer {
    /// Notes a member; the same one any number of times.
    #[inline]
    fn push(&mut self, member: u32) {
        let Ok(member) = u16::try_from(member) else {
            self.count = MEMBERS_MAX + 1;
            return;
        };
        let known = self.members.iter().take(self.count);
        if known.into_iter().any(|m| *m == member) {
            return;
        }
        if let Some(place) = self.members.get_mut(self.count) {
            *place = member;
        }
        self.count = (self.count + 1).min(MEMBERS_MAX + 1);
    }
}

impl ValueCache {
    /// Calls `hit` with the members that match the text, with each at least once. `evaluate` works them out where they are
    /// not remembered.
    #[inline]
    pub(super) fn recall(
        &mut self,
        text: &str,
        mut hit: impl FnMut(u32),
        evaluate: impl FnOnce(&mut dyn FnMut(u32)),
    ) {
        if !Self::takes(text.len()) {
            return evaluate(&mut hit);
        }
        let hash = hash_text(text.as_bytes(), false);
        if let Some(members) = self.get(hash, text) {
            return members.iter().for_each(|member| hit(u32::from(*member)));
        }
        let mut answer = Answer::default();
        evaluate(&mut |member| {
            answer.push(member);
            hit(member);
        });
        self.put(hash, text, &answer);
    }

    /// Whether a text of this length can be remembered.
    #[inline]
    fn takes(len: usize) -> bool {
        len <= TEXT_MAX
    }

    /// The members that match the text, `None` when it is not remembered. `hash` is any hash of the text.
    #[inline]
    fn get(&self, hash: u64, text: &str) -> Option<&[u16]> {
        let place = self.places.get(at(hash))?;
        let same = usize::from(place.len) == text.len() + 1
            && place.text.get(..text.len()) == Some(text.as_bytes());
        if same {
            place.members.get(..usize::from(place.count))
        } else {
            None
        }
    }

    /// Remembers an answer, unless it or the text is too long.
    fn put(&mut self, hash: u64, text: &str, answer: &Answer) {
        if self.places.is_empty() {
            self.places = vec![Place::EMPTY; PLACES];
        }
        let (Ok(len), Ok(count)) = (u8::try_from(text.len() + 1), u8::try_from(answer.count))
        else {
            return;
        };
        if answer.count > MEMBERS_MAX {
            return;
        }
        if let Some(place) = self.places.get_mut(at(hash))
            && let Some(room) = place.text.get_mut(..text.len())
        {
            room.copy_from_slice(text.as_bytes());
            place.len = len;
            place.count = count;
            place.members = answer.members;
        }
    }
}

impl Place {
    const EMPTY: Place = Place {
        len: 0,
        count: 0,
        text: [0; TEXT_MAX],
        members: [0; MEMBERS_MAX],
    };
}

#[inline]
fn at(hash: u64) -> usize {
    usize::try_from(hash % PLACES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(members: impl IntoIterator<Item = u32>) -> Answer {
        let mut answer = Answer::default();
        members.into_iter().for_each(|m| answer.push(m));
        answer
    }

    #[test]
    fn texts_of_one_place_are_told_apart() {
        let mut cache = ValueCache::default();
        assert_eq!(cache.get(7, "a"), None);
        cache.put(7, "a", &answer([3, 5, 3]));
        assert_eq!(cache.get(7, "a"), Some(&[3, 5][..]));
        assert_eq!(cache.get(7, "b"), None);
        assert_eq!(cache.get(7, "ab"), None);
        assert_eq!(cache.get(7, ""), None);
        cache.put(7, "", &answer([]));
        assert_eq!(cache.get(7, ""), Some(&[][..]));
        assert_eq!(cache.get(7, "a"), None);
    }

    #[test]
    fn what_is_too_long_is_not_remembered() {
        let mut cache = ValueCache::default();
        let long = "x".repeat(TEXT_MAX + 1);
        cache.put(1, &long, &answer([1]));
        assert_eq!(cache.get(1, &long), None);
        assert!(!ValueCache::takes(long.len()));
        let longest = "x".repeat(TEXT_MAX);
        cache.put(1, &longest, &answer(0..8));
        assert_eq!(cache.get(1, &longest).map(<[u16]>::len), Some(8));
        for members in [0..9, 0..20, 65_535..65_537] {
            cache.put(2, "many", &answer(members));
            assert_eq!(cache.get(2, "many"), None);
        }
    }
}
