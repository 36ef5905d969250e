//! Values of several fields, spelled one after the other.
//!
//! In: the values of fields, always the same fields in the same order. Out: bytes that are the same only for the same values. Room
//! is fixed: what does not fit, or is of a kind that is seldom the same twice, leaves the spelling incomplete, and it stays so
//! until it is cleared.

use super::{Value, Values};

/// Longest spelling, in bytes.
pub const SPELLING_LEN_MAX: usize = 320;
/// Texts no longer than this are copied in one piece of this length where so much can be read.
const BLOCK: usize = 32;
/// What can be written past the longest spelling: a text's head and its block.
const SLACK: usize = 2 + BLOCK;

/// How a value is marked. Lists are followed by their length, texts too.
mod mark {
    pub(super) const MISSING: u8 = 0;
    pub(super) const OBJECT: u8 = 1;
    pub(super) const TEXT: u8 = 2;
    /// And 4 for true.
    pub(super) const FALSE: u8 = 3;
    pub(super) const INT: u8 = 5;
    pub(super) const LIST: u8 = 6;
}

/// Values spelled so far.
#[derive(Clone, Debug)]
pub struct Spelling {
    /// What follows the spelling itself is left over from others.
    bytes: Box<[u8; SPELLING_LEN_MAX + SLACK]>,
    len: usize,
    complete: bool,
}

impl Default for Spelling {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; SPELLING_LEN_MAX + SLACK]),
            len: 0,
            complete: true,
        }
    }
}

impl Spelling {
    /// Begins anew.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.complete = true;
    }

    /// Bytes spelled so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing has been spelled.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Everything that was to be spelled is.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The spelling.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds the values of a field.
    #[inline]
    pub fn push(&mut self, values: Values<'_>) {
        match values {
            Values::Missing => self.push_mark(mark::MISSING),
            Values::Object => self.push_mark(mark::OBJECT),
            Values::One(value) => self.push_value(value),
            values => self.push_list(values),
        }
    }

    /// Adds the text that begins at a byte of a longer one.
    #[inline]
    pub fn push_part(&mut self, whole: &str, start: usize, len: usize) {
        let block = whole
            .as_bytes()
            .get(start..)
            .and_then(<[u8]>::first_chunk::<BLOCK>);
        let room = self
            .bytes
            .get_mut(self.len..)
            .and_then(<[u8]>::first_chunk_mut::<SLACK>);
        let (true, Some(block), Some(room)) = (len <= BLOCK, block, room) else {
            let part = whole
                .as_bytes()
                .get(start..)
                .and_then(|rest| rest.get(..len));
            return self.push_text(part.unwrap_or_default());
        };
        let [mark, length, text @ ..] = room;
        *mark = mark::TEXT;
        *length = len.to_le_bytes()[0];
        *text = *block;
        self.grow(2 + len);
    }

    #[inline]
    fn push_value(&mut self, value: Value<'_>) {
        match value {
            Value::Str(text) => self.push_text(text.as_bytes()),
            Value::Bool(b) => self.push_mark(mark::FALSE + u8::from(b)),
            Value::Int(i) => {
                let [a, b, c, d, e, f, g, h] = i.to_le_bytes();
                self.push_bytes(&[mark::INT, a, b, c, d, e, f, g, h]);
            }
            Value::Float(_) | Value::Ip(_) | Value::Date(_) => self.complete = false,
        }
    }

    fn push_list(&mut self, values: Values<'_>) {
        let Ok(count) = u8::try_from(values.len()) else {
            self.complete = false;
            return;
        };
        self.push_bytes(&[mark::LIST, count]);
        values.iter().for_each(|value| self.push_value(value));
    }

    #[inline]
    fn push_text(&mut self, text: &[u8]) {
        let Ok(len) = u8::try_from(text.len()) else {
            self.complete = false;
            return;
        };
        self.push_bytes(&[mark::TEXT, len]);
        self.push_bytes(text);
    }

    #[inline]
    fn push_mark(&mut self, mark: u8) {
        self.push_bytes(&[mark]);
    }

    #[inline]
    fn push_bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.grow(bytes.len());
        } else {
            self.complete = false;
        }
    }

    /// That many more bytes have been written, or what does not fit is given up.
    #[inline]
    fn grow(&mut self, by: usize) {
        if self.len + by > SPELLING_LEN_MAX {
            self.complete = false;
        } else {
            self.len += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::OwnedValue;

    fn spelled(values: &[Values<'_>]) -> Option<Vec<u8>> {
        let mut spelling = Spelling::default();
        values.iter().for_each(|v| spelling.push(*v));
        spelling.is_complete().then(|| spelling.bytes().to_vec())
    }

    fn one(text: &str) -> Values<'_> {
        Values::One(Value::Str(text))
    }

    #[test]
    fn different_values_are_spelled_differently() {
        let list = [OwnedValue::Str("a".into()), OwnedValue::Str("b".into())];
        let all = [
            spelled(&[Values::Missing, one("a")]),
            spelled(&[one("a"), Values::Missing]),
            spelled(&[one("a"), one("b")]),
            spelled(&[Values::List(&list), Values::Missing]),
            spelled(&[Values::Missing, Values::List(&list)]),
            spelled(&[one("a\0b"), Values::Missing]),
            spelled(&[one("a\0\u{2}\u{1}b"), Values::Missing]),
            spelled(&[Values::Object, Values::Missing]),
            spelled(&[one(""), Values::Missing]),
            spelled(&[Values::Missing, Values::Missing]),
            spelled(&[Values::One(Value::Bool(true)), Values::Missing]),
            spelled(&[Values::One(Value::Bool(false)), Values::Missing]),
            spelled(&[Values::One(Value::Int(0)), Values::Missing]),
            spelled(&[Values::One(Value::Int(1 << 40)), Values::Missing]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(a.is_some());
            for b in all.iter().skip(i + 1) {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn what_does_not_fit_leaves_it_incomplete() {
        assert_eq!(spelled(&[one(&"x".repeat(300))]), None);
        assert_eq!(spelled(&[Values::One(Value::Float(1.0))]), None);
        let (fits, left) = ("x".repeat(200), "y".repeat(SPELLING_LEN_MAX - 204));
        assert!(spelled(&[one(&fits), one(&left)]).is_some());
        assert_eq!(spelled(&[one(&fits), one(&left), Values::Missing]), None);
        assert_eq!(spelled(&[one(&fits), one(&left), one("a")]), None);
        let many = vec![OwnedValue::Bool(true); 256];
        assert_eq!(spelled(&[Values::List(&many)]), None);
        let mut spelling = Spelling::default();
        spelling.push(one(&"x".repeat(300)));
        spelling.push(one("a"));
        assert!(!spelling.is_complete());
        spelling.clear();
        assert!(spelling.is_complete() && spelling.is_empty());
    }

    #[test]
    fn a_part_is_spelled_like_the_text_alone() {
        let whole: String = ('!'..='~').cycle().take(500).collect();
        for before in [0, 1, SPELLING_LEN_MAX - 40, SPELLING_LEN_MAX - 4] {
            for start in [0, 5, 466, 470, 499, 500] {
                for len in (0..40).chain([200, 256]).filter(|len| start + len <= 500) {
                    let (mut part, mut alone) = (Spelling::default(), Spelling::default());
                    for _ in 0..before {
                        part.push(Values::Missing);
                        alone.push(Values::Missing);
                    }
                    part.push_part(&whole, start, len);
                    alone.push(one(&whole[start..start + len]));
                    assert_eq!(part.is_complete(), alone.is_complete());
                    if part.is_complete() {
                        assert_eq!(part.bytes(), alone.bytes());
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_there_before_is_no_part_of_it() {
        let (mut spelling, mut other) = (Spelling::default(), Spelling::default());
        spelling.push(one("what was there before"));
        let before = spelling.bytes().to_vec();
        spelling.clear();
        spelling.push(one("a"));
        other.push(one("a"));
        assert_eq!(spelling.bytes(), other.bytes());
        assert_ne!(spelling.bytes(), before);
        other.push(Values::Missing);
        assert_ne!(spelling.bytes(), other.bytes());
    }
}
