//! Vocabulary: what an event's field can hold and how the engine reads it.
//!
//! In: nothing; these are types. Out: [`Value`], [`Values`], [`FieldId`] and the [`Fields`] trait that every kind of event
//! implements (the sensor's own typed events, events read from JSON lines). Must never import another stage.

use std::net::IpAddr;
use std::sync::Arc;

/// Number of a field path. Below the length of [`schema::FIELDS`](crate::event) it is a row of that table; above, a path
/// that only foreign data knows, numbered by [`FieldTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u16);

/// One value of a field, borrowed from the event. Null is never a value: a missing field has no values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Str(&'a str),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    /// Nanoseconds since the Unix epoch.
    Date(i64),
}

/// An owned [`Value`].
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    Str(Arc<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    Date(i64),
}

impl OwnedValue {
    pub fn as_value(&self) -> Value<'_> {
        match self {
            OwnedValue::Str(s) => Value::Str(s),
            OwnedValue::Int(i) => Value::Int(*i),
            OwnedValue::Float(f) => Value::Float(*f),
            OwnedValue::Bool(b) => Value::Bool(*b),
            OwnedValue::Ip(ip) => Value::Ip(*ip),
            OwnedValue::Date(ns) => Value::Date(*ns),
        }
    }
}

/// All values of one field of one event, in stored order. Iterate it; it never allocates.
#[derive(Clone, Copy, Debug, Default)]
pub enum Values<'a> {
    #[default]
    Missing,
    One(Value<'a>),
    Strs(&'a [Arc<str>]),
    Static(&'a [&'static str]),
    List(&'a [OwnedValue]),
}

impl<'a> Values<'a> {
    pub fn len(&self) -> usize {
        match self {
            Values::Missing => 0,
            Values::One(_) => 1,
            Values::Strs(s) => s.len(),
            Values::Static(s) => s.len(),
            Values::List(l) => l.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value at a position, `None` past the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Values::Missing => None,
            Values::One(v) => (index == 0).then_some(*v),
            Values::Strs(s) => s.get(index).map(|s| Value::Str(s)),
            Values::Static(s) => s.get(index).map(|s| Value::Str(s)),
            Values::List(l) => l.get(index).map(OwnedValue::as_value),
        }
    }

    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(move |i| self.get(i))
    }
}

/// What the engine reads of an event. Implementations are cheap to share (`Arc` inside).
pub trait Fields {
    /// Event time in nanoseconds on the clock that orders this stream (boot clock live, wall clock on replay).
    fn time_ns(&self) -> i64;
    /// Values of a field; [`Values::Missing`] when the event does not carry it.
    fn values(&self, field: FieldId) -> Values<'_>;
}
