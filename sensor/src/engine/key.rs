//! Join keys: which tuples an event offers, and when two tuples are the same key.
//!
//! In: an event and a step's key list. Out: its distinct key tuples in element order, leftmost position slowest, each with
//! a hash. Equality is by kind and value, case-sensitive; a number equals the text it is written as. Never more than the
//! configured number of tuples per event and step; the rest is counted by the caller.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher};

use smallvec::SmallVec;

use crate::eql::query::FieldType;
use crate::eql::time;
use crate::event::{Fields, OwnedValue, Value, Values};

use super::field::{FieldRef, SlotId};

/// One position of a key list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeyField {
    pub(super) slot: SlotId,
    pub(super) ty: FieldType,
    pub(super) optional: bool,
}

/// One value per position; `None` is the null of an optional key.
pub(super) type Tuple<'e> = SmallVec<[Option<Value<'e>>; 4]>;

/// A tuple with its hash.
pub(super) struct Key<'e> {
    pub(super) hash: u64,
    pub(super) tuple: Tuple<'e>,
}

/// Most events offer one tuple.
pub(super) type KeyList<'e> = SmallVec<[Key<'e>; 2]>;

/// One step's key list. Equal lists of all rules have one number.
#[derive(Clone, Debug)]
pub(super) struct KeyPlan {
    pub(super) id: u32,
    pub(super) fields: Box<[KeyField]>,
}

/// The key tuples of the event at hand, worked out once for all rules that join by the same fields.
pub(super) struct EventKeys<'e, E> {
    event: &'e E,
    lists: SmallVec<[EventList<'e>; 4]>,
}

struct EventList<'e> {
    id: u32,
    keys: KeyList<'e>,
    left_out: u64,
}

impl<'e, E: Fields> EventKeys<'e, E> {
    pub(super) fn new(event: &'e E) -> Self {
        Self {
            event,
            lists: SmallVec::new(),
        }
    }

    /// The tuples under one key list, and how many beyond the bound were left out.
    #[inline]
    pub(super) fn of<S: BuildHasher>(
        &mut self,
        plan: &KeyPlan,
        fields: &[FieldRef],
        hasher: &S,
        max: usize,
    ) -> (&[Key<'e>], u64) {
        let at = match self.lists.iter().position(|l| l.id == plan.id) {
            Some(known) => known,
            None => {
                self.lists.push(EventList {
                    id: plan.id,
                    keys: KeyList::new(),
                    left_out: 0,
                });
                let at = self.lists.len() - 1;
                if let Some(list) = self.lists.get_mut(at) {
                    let keys = &mut list.keys;
                    list.left_out = keys_of(keys, &plan.fields, fields, self.event, hasher, max);
                }
                at
            }
        };
        self.lists
            .get(at)
            .map_or((&[], 0), |list| (&list.keys, list.left_out))
    }
}

/// A tuple that outlives its event.
pub(super) type StoredKeys = SmallVec<[Option<OwnedValue>; 2]>;

/// Appends the distinct key tuples of an event to `out`; none when a key that is not optional is missing. Returns how many
/// beyond the bound were left out.
pub(super) fn keys_of<'e, E: Fields, S: BuildHasher>(
    out: &mut KeyList<'e>,
    list: &[KeyField],
    fields: &[FieldRef],
    event: &'e E,
    hasher: &S,
    max: usize,
) -> u64 {
    let mut hash = 0;
    let mut tuple = Tuple::new();
    for key in list {
        let values = fields
            .get(key.slot.0 as usize)
            .map(|f| f.values(event))
            .unwrap_or_default();
        if values.len() > 1 {
            return products_of(out, list, fields, event, hasher, max);
        }
        let value = values.get(0).map(|v| typed(v, key.ty));
        if value.is_none() && !key.optional {
            return 0;
        }
        hash = join_hash(hash, hash_value(value.as_ref(), hasher));
        tuple.push(value);
    }
    out.push(Key { hash, tuple });
    0
}

/// How many key tuples an event offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    None,
    One,
    /// Some key has several values.
    Several,
}

/// How many key tuples an event offers under a list, without making them.
#[inline]
pub(super) fn offered<E: Fields>(plan: &KeyPlan, fields: &[FieldRef], event: &E) -> Offered {
    let mut offered = Offered::One;
    for key in &plan.fields {
        let field = fields.get(key.slot.0 as usize);
        match field.map(|f| f.values(event)).unwrap_or_default() {
            Values::One(_) => {}
            values if values.len() > 1 => offered = Offered::Several,
            values if values.get(0).is_none() && !key.optional => return Offered::None,
            _ => {}
        }
    }
    offered
}

/// The same where some key has several values.
fn products_of<'e, E: Fields, S: BuildHasher>(
    out: &mut KeyList<'e>,
    list: &[KeyField],
    fields: &[FieldRef],
    event: &'e E,
    hasher: &S,
    max: usize,
) -> u64 {
    let mut columns: SmallVec<[Column<'e>; 4]> = SmallVec::new();
    let mut product = 1usize;
    for key in list {
        let values = fields
            .get(key.slot.0 as usize)
            .map(|f| f.values(event))
            .unwrap_or_default();
        if values.get(0).is_none() && !key.optional {
            return 0;
        }
        let column = Column::new(values, key.ty, hasher, max);
        product = product.saturating_mul(column.len());
        columns.push(column);
    }
    let mut at: SmallVec<[usize; 4]> = smallvec::smallvec![0; columns.len()];
    out.reserve(product.min(max));
    for _ in 0..product.min(max) {
        let mut hash = 0;
        let mut tuple = Tuple::new();
        for (column, i) in columns.iter().zip(&at) {
            let (part, value) = column.get(*i);
            hash = join_hash(hash, part);
            tuple.push(value);
        }
        out.push(Key { hash, tuple });
        for (position, column) in at.iter_mut().zip(&columns).rev() {
            *position += 1;
            if *position < column.len() {
                break;
            }
            *position = 0;
        }
    }
    u64::try_from(product.saturating_sub(max)).unwrap_or(u64::MAX)
}

/// The distinct values one position can take, each with its hash.
struct Column<'e> {
    values: SmallVec<[(u64, Option<Value<'e>>); 8]>,
}

impl<'e> Column<'e> {
    fn new<S: BuildHasher>(values: Values<'e>, ty: FieldType, hasher: &S, max: usize) -> Self {
        let mut distinct: SmallVec<[(u64, Option<Value<'e>>); 8]> = SmallVec::new();
        for value in values.iter().map(|v| typed(v, ty)) {
            let hash = hash_value(Some(&value), hasher);
            let known = distinct
                .iter()
                .any(|(h, known)| *h == hash && same(*known, Some(value)));
            if !known {
                distinct.push((hash, Some(value)));
                // One past the bound is enough to know that something was left out.
                if distinct.len() > max {
                    break;
                }
            }
        }
        if distinct.is_empty() {
            distinct.push((hash_value(None, hasher), None));
        }
        Self { values: distinct }
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn get(&self, i: usize) -> (u64, Option<Value<'e>>) {
        self.values.get(i).copied().unwrap_or_default()
    }
}

/// A value as the declared type of its field reads it.
#[inline]
fn typed(value: Value<'_>, ty: FieldType) -> Value<'_> {
    let value = match (ty, value) {
        (FieldType::Ip, Value::Str(text)) => text.parse().map_or(value, Value::Ip),
        (FieldType::Date, Value::Str(text)) => time::parse_ns(text).map_or(value, Value::Date),
        (FieldType::Date, Value::Int(ms)) => ms.checked_mul(1_000_000).map_or(value, Value::Date),
        _ => value,
    };
    match value {
        Value::Ip(ip) => Value::Ip(ip.to_canonical()),
        Value::Float(f) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be integral and in range just before"
            )]
            if f.fract() == 0.0 && f.abs() < 9.0e15 {
                Value::Int(f as i64)
            } else {
                value
            }
        }
        _ => value,
    }
}

/// Whether two key values join.
pub(super) fn same(a: Option<Value<'_>>, b: Option<Value<'_>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => match (a, b) {
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Date(a), Value::Date(b)) => a == b,
            (Value::Ip(a), Value::Ip(b)) => a == b,
            (Value::Bool(_) | Value::Date(_), _) | (_, Value::Bool(_) | Value::Date(_)) => false,
            (a, b) => Text::of(&a).as_bytes() == Text::of(&b).as_bytes(),
        },
        _ => false,
    }
}

/// Whether a stored key is this tuple.
pub(super) fn same_tuple(stored: &[Option<OwnedValue>], tuple: &[Option<Value<'_>>]) -> bool {
    stored.len() == tuple.len()
        && stored
            .iter()
            .zip(tuple)
            .all(|(s, t)| same(s.as_ref().map(OwnedValue::as_value), *t))
}

pub(super) fn owned(tuple: &[Option<Value<'_>>]) -> Box<[Option<OwnedValue>]> {
    tuple.iter().map(|v| v.map(own)).collect()
}

/// The same, sharing the text of parts that equal those of a key at hand.
pub(super) fn owned_like(tuple: &[Option<Value<'_>>], known: &[Option<OwnedValue>]) -> StoredKeys {
    let mut stored = StoredKeys::with_capacity(tuple.len());
    for (at, value) in tuple.iter().enumerate() {
        stored.push(match (value, known.get(at)) {
            (Some(Value::Str(text)), Some(Some(OwnedValue::Str(known)))) if **known == **text => {
                Some(OwnedValue::Str(known.clone()))
            }
            (value, _) => value.map(own),
        });
    }
    stored
}

pub(super) fn own(value: Value<'_>) -> OwnedValue {
    match value {
        Value::Str(s) => OwnedValue::Str(s.into()),
        Value::Int(i) => OwnedValue::Int(i),
        Value::Float(f) => OwnedValue::Float(f),
        Value::Bool(b) => OwnedValue::Bool(b),
        Value::Ip(ip) => OwnedValue::Ip(ip),
        Value::Date(ns) => OwnedValue::Date(ns),
    }
}

pub(super) fn hash_tuple<S: BuildHasher>(tuple: &[Option<Value<'_>>], hasher: &S) -> u64 {
    tuple.iter().fold(0, |hash, value| {
        join_hash(hash, hash_value(value.as_ref(), hasher))
    })
}

/// Parts are seeded hashes already, so mixing them needs no more secrecy.
fn join_hash(hash: u64, part: u64) -> u64 {
    (hash.rotate_left(5) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[inline]
fn hash_value<S: BuildHasher>(value: Option<&Value<'_>>, hasher: &S) -> u64 {
    let mut state = hasher.build_hasher();
    match value {
        None => state.write_u8(0),
        Some(Value::Bool(b)) => state.write_u8(1 + u8::from(*b)),
        Some(Value::Date(ns)) => {
            state.write_u8(3);
            state.write_i64(*ns);
        }
        Some(Value::Str(text)) => state.write(text.as_bytes()),
        Some(value) => state.write(Text::of(value).as_bytes()),
    }
    state.finish()
}

/// Text of a value without allocating: long enough for any number and address.
enum Text<'v> {
    Borrowed(&'v str),
    Written([u8; 48], usize),
}

impl<'v> Text<'v> {
    fn of(value: &Value<'v>) -> Self {
        let mut text = Text::Written([0; 48], 0);
        // A value that did not fit would compare by its first 48 bytes; none of these kinds is that long.
        let _ = match value {
            Value::Str(s) => return Text::Borrowed(s),
            Value::Int(i) => write!(text, "{i}"),
            Value::Float(f) => write!(text, "{f:?}"),
            Value::Bool(b) => write!(text, "{b}"),
            Value::Ip(ip) => write!(text, "{ip}"),
            Value::Date(ns) => write!(text, "{ns}"),
        };
        text
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Borrowed(s) => s.as_bytes(),
            Text::Written(bytes, len) => bytes.get(..*len).unwrap_or_default(),
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let Text::Written(bytes, len) = self else {
            return Err(std::fmt::Error);
        };
        let room = bytes.get_mut(*len..*len + s.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        *len += s.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_and_hash_agree() {
        let hasher = hashbrown::DefaultHashBuilder::default();
        let values = [
            Value::Str("7"),
            Value::Int(7),
            Value::Float(7.5),
            Value::Str("7.5"),
            Value::Str("07"),
            Value::Str("true"),
            Value::Bool(true),
            Value::Date(7),
            Value::Ip("10.0.0.1".parse().unwrap()),
            Value::Str("10.0.0.1"),
        ];
        for a in values {
            for b in values {
                let joined = same(Some(a), Some(b));
                assert_eq!(joined, same(Some(b), Some(a)));
                if joined {
                    assert_eq!(
                        hash_tuple(&[Some(a)], &hasher),
                        hash_tuple(&[Some(b)], &hasher),
                        "{a:?} {b:?}"
                    );
                }
            }
        }
        assert!(same(Some(values[0]), Some(values[1])));
        assert!(same(Some(values[2]), Some(values[3])));
        assert!(!same(Some(values[4]), Some(values[1])));
        assert!(!same(Some(values[5]), Some(values[6])));
        assert!(same(Some(values[8]), Some(values[9])));
        assert!(same(None, None) && !same(None, Some(values[0])));
    }
}
