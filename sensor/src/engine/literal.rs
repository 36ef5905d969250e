//! Equality with constants on one field, answered by one look-up per value.
//!
//! In: every literal that `==`, `in`, `in~` or a wildcard-free pattern compares one field with, over all rules. Out: for a
//! value, the numbers of the literals it equals. A leaf is then a set of literal numbers. Must give exactly what
//! `eql::scalar::equal` gives for each pair; the tests hold it to that.

use std::borrow::Cow;

use hashbrown::{HashMap, HashTable};

use crate::eql::scalar::{self, Number, Scalar};
use crate::event::Value;

/// Literals of one field and one case class.
#[derive(Debug, Default)]
pub(super) struct LiteralIndex {
    /// ASCII case is ignored (`in~`, `:`, `like~`); values of every kind then compare by their text as well.
    fold: bool,
    strings: HashTable<(u64, Box<str>, u32)>,
    /// Number literals, and string literals that are decimal numbers, by value.
    numbers: HashMap<NumberKey, NumberIds>,
    bools: [Option<u32>; 2],
    /// All string literals, for the rare kinds of values compared one by one.
    all: Vec<(Literal, u32)>,
    has_number: bool,
    /// Which lengths string literals have (the last bit: 63 and more) and which bytes they begin with. Most values are told
    /// apart by these before they are hashed.
    lengths: u64,
    first_bytes: [u64; 4],
}

/// A literal in canonical form.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Str(Box<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NumberKey {
    Int(i64),
    Bits(u64),
}

#[derive(Debug, Default)]
struct NumberIds {
    /// Number literals: equal to numbers and to decimal strings of this value.
    numbers: Vec<u32>,
    /// String literals of this value: equal to numbers only, because two strings compare as strings.
    texts: Vec<u32>,
}

impl NumberKey {
    fn new(number: Number) -> Self {
        match number {
            Number::Int(i) => NumberKey::Int(i),
            Number::Float(f) =>
            {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "checked to be integral and in range just before"
                )]
                if f.fract() == 0.0 && f.abs() < 9.0e15 {
                    NumberKey::Int(f as i64)
                } else {
                    NumberKey::Bits(f.to_bits())
                }
            }
        }
    }
}

impl LiteralIndex {
    pub(super) fn new(fold: bool) -> Self {
        Self {
            fold,
            ..Self::default()
        }
    }

    /// How many literals are known: their numbers are `0..len`.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    /// Number of a literal, a new one if it is not known yet. An index that folds takes strings only.
    pub(super) fn insert(&mut self, literal: &Literal) -> u32 {
        let next = self.len();
        match literal {
            Literal::Str(text) => {
                let text: Box<str> = if self.fold {
                    text.to_ascii_lowercase().into()
                } else {
                    text.clone()
                };
                let hash = hash_text(text.as_bytes(), false);
                if let Some(found) = self.strings.find(hash, |e| e.1 == text) {
                    return found.2;
                }
                if let Some(number) = scalar::decimal(&text) {
                    self.numbers
                        .entry(NumberKey::new(number))
                        .or_default()
                        .texts
                        .push(next);
                }
                self.lengths |= 1 << text.len().min(63);
                let (word, bit) = first_byte(&text, false);
                if let Some(word) = self.first_bytes.get_mut(word) {
                    *word |= bit;
                }
                self.strings
                    .insert_unique(hash, (hash, text, next), |e| e.0);
            }
            Literal::Int(_) | Literal::Float(_) => {
                let number = match literal {
                    Literal::Float(f) => Number::Float(*f),
                    Literal::Int(i) => Number::Int(*i),
                    _ => return next,
                };
                let ids = self.numbers.entry(NumberKey::new(number)).or_default();
                if let Some(id) = ids.numbers.first() {
                    return *id;
                }
                ids.numbers.push(next);
                self.has_number = true;
            }
            Literal::Bool(b) => {
                let slot = self.bools.get_mut(usize::from(*b));
                match slot {
                    Some(Some(id)) => return *id,
                    Some(empty) => *empty = Some(next),
                    None => {}
                }
            }
        }
        self.all.push((literal.clone(), next));
        next
    }

    /// Calls `hit` with the number of every literal the value equals.
    #[inline]
    pub(super) fn lookup(&self, value: Value<'_>, mut hit: impl FnMut(u32)) {
        match value {
            Value::Str(text) => {
                self.lookup_text(text, &mut hit);
                if self.has_number
                    && text
                        .as_bytes()
                        .first()
                        .is_some_and(|b| b.is_ascii_digit() || *b == b'-' || *b == b'+')
                    && let Some(number) = scalar::decimal(text)
                    && let Some(ids) = self.numbers.get(&NumberKey::new(number))
                {
                    ids.numbers.iter().for_each(|id| hit(*id));
                }
            }
            Value::Int(i) => self.lookup_number(Number::Int(i), value, &mut hit),
            Value::Float(f) => self.lookup_number(Number::Float(f), value, &mut hit),
            Value::Bool(b) => {
                if let Some(Some(id)) = self.bools.get(usize::from(b)) {
                    hit(*id);
                }
                if self.fold {
                    self.lookup_text(if b { "true" } else { "false" }, &mut hit);
                }
            }
            Value::Ip(_) | Value::Date(_) => self.lookup_each(value, &mut hit),
        }
    }

    #[inline]
    fn lookup_text(&self, text: &str, hit: &mut impl FnMut(u32)) {
        let (word, bit) = first_byte(text, self.fold);
        let begins = self.first_bytes.get(word).is_some_and(|w| w & bit != 0);
        if !begins || self.lengths >> text.len().min(63) & 1 == 0 {
            return;
        }
        let hash = hash_text(text.as_bytes(), self.fold);
        let found = if self.fold {
            self.strings.find(hash, |e| e.1.eq_ignore_ascii_case(text))
        } else {
            self.strings.find(hash, |e| *e.1 == *text)
        };
        if let Some(found) = found {
            hit(found.2);
        }
    }

    fn lookup_number(&self, number: Number, value: Value<'_>, hit: &mut impl FnMut(u32)) {
        if let Some(ids) = self.numbers.get(&NumberKey::new(number)) {
            ids.numbers.iter().chain(&ids.texts).for_each(|id| hit(*id));
        }
        // A string literal that is no number can still be the text of one (`1e300`, `inf`).
        if let Number::Float(_) = number {
            let text = scalar_of(value);
            if let Some(text) = text.text()
                && scalar::decimal(&text).is_none()
            {
                self.lookup_text(&text, hit);
            }
        }
    }

    fn lookup_each(&self, value: Value<'_>, hit: &mut impl FnMut(u32)) {
        let value = scalar_of(value);
        for (literal, id) in &self.all {
            let literal = literal.scalar();
            let equal = if self.fold {
                scalar::equal_folded(&value, &literal)
            } else {
                scalar::equal(&value, &literal)
            };
            if equal == Some(true) {
                hit(*id);
            }
        }
    }
}

impl Literal {
    pub(super) fn scalar(&self) -> Scalar<'_> {
        match self {
            Literal::Str(s) => Scalar::Str(Cow::Borrowed(s)),
            Literal::Int(i) => Scalar::Int(*i),
            Literal::Float(f) => Scalar::Float(*f),
            Literal::Bool(b) => Scalar::Bool(*b),
        }
    }
}

/// A field's value as the language sees it.
#[inline]
pub(super) fn scalar_of(value: Value<'_>) -> Scalar<'_> {
    match value {
        Value::Str(s) => Scalar::Str(Cow::Borrowed(s)),
        Value::Int(i) => Scalar::Int(i),
        Value::Float(f) => Scalar::Float(f),
        Value::Bool(b) => Scalar::Bool(b),
        Value::Ip(ip) => Scalar::Ip(ip),
        Value::Date(ns) => Scalar::Date(ns),
    }
}

/// Word and bit of a text's first byte, 0 for the empty text.
#[inline]
fn first_byte(text: &str, fold: bool) -> (usize, u64) {
    let byte = text.as_bytes().first().copied().unwrap_or(0);
    let byte = if fold {
        byte.to_ascii_lowercase()
    } else {
        byte
    };
    (usize::from(byte / 64), 1 << (byte % 64))
}

/// Hash of a text, eight bytes at a time, of its ASCII lower case when `fold`. The tables it serves are fixed at load, so
/// an attacker who chooses values cannot make them collide with anything but those.
#[inline]
pub(super) fn hash_text(text: &[u8], fold: bool) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = (text.len() as u64).wrapping_mul(K);
    let (chunks, rest) = text.as_chunks::<8>();
    for chunk in chunks {
        let mut word = u64::from_le_bytes(*chunk);
        if fold {
            word = lower(word);
        }
        hash = (hash ^ word).wrapping_mul(K).rotate_left(29);
    }
    let mut word = tail_word(rest);
    if fold {
        word = lower(word);
    }
    hash = (hash ^ word).wrapping_mul(K);
    hash ^ (hash >> 32)
}

/// A number of fewer than eight bytes, in which each of them stands somewhere.
#[inline]
fn tail_word(rest: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return u64::from(first) | u64::from(last) << 32;
    }
    let (Some(first), Some(last)) = (rest.first(), rest.last()) else {
        return 0;
    };
    let middle = rest.get(rest.len() / 2).copied().unwrap_or(0);
    u64::from_le_bytes([*first, middle, *last, 0, 0, 0, 0, 0])
}

/// ASCII lower case of eight bytes at once.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let heptets = word & (0x7F * ONES);
    let above_z = heptets + (0x7F - u64::from(b'Z')) * ONES;
    let from_a = heptets + (0x80 - u64::from(b'A')) * ONES;
    let ascii = !word & (0x80 * ONES);
    let upper = ascii & (from_a ^ above_z);
    word | (upper >> 2)
}

/// A set of literal numbers of one index.
#[derive(Clone, Debug)]
pub(super) enum LiteralSet {
    One(u32),
    Bits(Box<[u64]>),
    Sorted(Box<[u32]>),
}

impl LiteralSet {
    /// `ids` need not be sorted; `total` is the size of the index.
    pub(super) fn new(mut ids: Vec<u32>, total: u32) -> Self {
        ids.sort_unstable();
        ids.dedup();
        match ids.as_slice() {
            [one] => LiteralSet::One(*one),
            _ if total <= 8192 => {
                let mut bits = vec![0u64; total as usize / 64 + 1];
                for id in ids {
                    if let Some(word) = bits.get_mut(id as usize / 64) {
                        *word |= 1 << (id % 64);
                    }
                }
                LiteralSet::Bits(bits.into())
            }
            _ => LiteralSet::Sorted(ids.into()),
        }
    }

    #[inline]
    pub(super) fn contains(&self, id: u32) -> bool {
        match self {
            LiteralSet::One(one) => *one == id,
            LiteralSet::Bits(bits) => bits
                .get(id as usize / 64)
                .is_some_and(|word| word >> (id % 64) & 1 == 1),
            LiteralSet::Sorted(ids) => ids.binary_search(&id).is_ok(),
        }
    }

    pub(super) fn ids(&self) -> Vec<u32> {
        match self {
            LiteralSet::One(one) => vec![*one],
            LiteralSet::Sorted(ids) => ids.to_vec(),
            LiteralSet::Bits(bits) => (0u32..)
                .take(bits.len() * 64)
                .filter(|id| {
                    bits.get(*id as usize / 64)
                        .is_some_and(|word| word >> (id % 64) & 1 == 1)
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_language() {
        let literals = [
            Literal::Str("5".into()),
            Literal::Str("5.0".into()),
            Literal::Str("05".into()),
            Literal::Str("Abc".into()),
            Literal::Str("abc".into()),
            Literal::Str("".into()),
            Literal::Str("true".into()),
            Literal::Str("10.0.0.0/8".into()),
            Literal::Str("1e300".into()),
            Literal::Str("ÄB-c[{@`long enough for two words".into()),
            Literal::Int(5),
            Literal::Int(-7),
            Literal::Float(5.0),
            Literal::Float(1.5),
            Literal::Bool(true),
        ];
        let values = [
            Value::Str("5"),
            Value::Str("5.0"),
            Value::Str("+5"),
            Value::Str("-7"),
            Value::Str("1.50"),
            Value::Str("ABC"),
            Value::Str("Abc"),
            Value::Str("äb-C[{@`LONG enough for two words"),
            Value::Str("Äb-C[{@`LONG enough for two words"),
            Value::Str(""),
            Value::Str("TRUE"),
            Value::Int(5),
            Value::Int(-7),
            Value::Float(5.0),
            Value::Float(1.5),
            Value::Float(1e300),
            Value::Bool(true),
            Value::Bool(false),
            Value::Ip("10.1.2.3".parse().unwrap()),
        ];
        for fold in [false, true] {
            let mut index = LiteralIndex::new(fold);
            let literals: Vec<_> = literals
                .iter()
                .filter(|l| !fold || matches!(l, Literal::Str(_)))
                .collect();
            let ids: Vec<u32> = literals.iter().map(|l| index.insert(l)).collect();
            for value in values {
                let mut found = Vec::new();
                index.lookup(value, |id| found.push(id));
                for (literal, id) in literals.iter().zip(&ids) {
                    let (v, l) = (scalar_of(value), literal.scalar());
                    let expected = if fold {
                        scalar::equal_folded(&v, &l)
                    } else {
                        scalar::equal(&v, &l)
                    };
                    assert_eq!(
                        found.contains(id),
                        expected == Some(true),
                        "{value:?} against {literal:?}, fold {fold}"
                    );
                }
            }
        }
    }

    #[test]
    fn sets() {
        for total in [100, 100_000] {
            let set = LiteralSet::new(vec![7, 64, 3, 7], total);
            assert_eq!(set.ids(), [3, 7, 64]);
            assert!(set.contains(64) && !set.contains(65));
        }
    }
}
