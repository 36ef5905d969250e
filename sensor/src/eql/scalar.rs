//! One value as the language sees it, and how two of them compare.
//!
//! In: literals of a query and single field values. Out: equality, order and text, each with null and kind rules in one
//! place for constant folding and for the engine. Never fails: what cannot be computed is null. Allocates only to build text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;

use super::cidr::{Cidr, address_bits};
use super::query::{Comparison, FieldType, Literal};
use super::time;

/// A value inside an expression. `Null` stands for a missing field and for every result that cannot be computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Cow<'a, str>),
    Ip(IpAddr),
    /// Nanoseconds since the Unix epoch.
    Date(i64),
    /// Ordered as a semantic version.
    Version(Cow<'a, str>),
}

impl<'a> From<&'a Literal> for Scalar<'a> {
    fn from(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Scalar::Null,
            Literal::Bool(b) => Scalar::Bool(*b),
            Literal::Int(i) => Scalar::Int(*i),
            Literal::Float(f) => Scalar::Float(*f),
            Literal::Str(s) => Scalar::Str(Cow::Borrowed(s)),
        }
    }
}

impl<'a> Scalar<'a> {
    pub fn str(text: &'a str) -> Scalar<'a> {
        Scalar::Str(Cow::Borrowed(text))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Scalar::Null)
    }

    /// Reads a plain value as the declared type of its field; what does not parse stays as it is.
    pub fn typed(self, ty: FieldType) -> Scalar<'a> {
        match (ty, self) {
            (FieldType::Ip, Scalar::Str(s)) => match s.parse() {
                Ok(ip) => Scalar::Ip(ip),
                Err(_) => Scalar::Str(s),
            },
            (FieldType::Date, Scalar::Str(s)) => match time::parse_ns(&s) {
                Some(ns) => Scalar::Date(ns),
                None => Scalar::Str(s),
            },
            (FieldType::Date, Scalar::Int(ms)) => match ms.checked_mul(1_000_000) {
                Some(ns) => Scalar::Date(ns),
                None => Scalar::Int(ms),
            },
            (FieldType::Version, Scalar::Str(s)) => Scalar::Version(s),
            (_, value) => value,
        }
    }

    /// Text of any value but null, as `concat` and `string` give it: `true`, `12`, `1.5`, `1.0`, an address in its short
    /// form, a date in ISO 8601.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Scalar::Null => return None,
            Scalar::Bool(true) => Cow::Borrowed("true"),
            Scalar::Bool(false) => Cow::Borrowed("false"),
            Scalar::Int(i) => Cow::Owned(i.to_string()),
            Scalar::Float(f) => Cow::Owned(format!("{f:?}")),
            Scalar::Str(s) | Scalar::Version(s) => Cow::Borrowed(s),
            Scalar::Ip(ip) => Cow::Owned(ip.to_string()),
            Scalar::Date(ns) => Cow::Owned(time::format_ns(*ns)),
        })
    }

    /// Text of a value that counts as a string: typed strings do, numbers and booleans do not.
    pub fn string(&self) -> Option<Cow<'_, str>> {
        match self {
            Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) => None,
            _ => self.text(),
        }
    }

    fn number(&self) -> Option<Number> {
        match self {
            Scalar::Int(i) => Some(Number::Int(*i)),
            Scalar::Float(f) => Some(Number::Float(*f)),
            _ => None,
        }
    }

    /// The value without its borrow.
    pub fn into_owned(self) -> Scalar<'static> {
        match self {
            Scalar::Null => Scalar::Null,
            Scalar::Bool(b) => Scalar::Bool(b),
            Scalar::Int(i) => Scalar::Int(i),
            Scalar::Float(f) => Scalar::Float(f),
            Scalar::Str(s) => Scalar::Str(Cow::Owned(s.into_owned())),
            Scalar::Ip(ip) => Scalar::Ip(ip),
            Scalar::Date(ns) => Scalar::Date(ns),
            Scalar::Version(s) => Scalar::Version(Cow::Owned(s.into_owned())),
        }
    }
}

/// A number: exact as long as both sides are integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    /// Mixed values go through double.
    pub fn as_f64(self) -> f64 {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the language compares mixed numbers as doubles"
            )]
            Number::Int(i) => i as f64,
            Number::Float(f) => f,
        }
    }

    fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.as_f64().partial_cmp(&b.as_f64()),
        }
    }
}

/// A canonical decimal number: optional sign, digits, optional fraction. Integers beyond 64 bits become doubles.
pub fn decimal(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !fraction.is_none_or(all_digits) {
        return None;
    }
    match fraction {
        None => text
            .parse()
            .map(Number::Int)
            .or_else(|_| text.parse().map(Number::Float))
            .ok(),
        Some(_) => text.parse().map(Number::Float).ok(),
    }
}

/// Milliseconds since the epoch against nanoseconds.
fn compare_date_number(ns: i64, milliseconds: Number) -> Option<Ordering> {
    match milliseconds {
        Number::Int(ms) => Some(i128::from(ns).cmp(&(i128::from(ms) * 1_000_000))),
        #[expect(
            clippy::cast_precision_loss,
            reason = "a double has no more precision than this to compare with"
        )]
        Number::Float(ms) => (ns as f64).partial_cmp(&(ms * 1e6)),
    }
}

/// Order of two values of comparable kinds; `None` is null.
pub fn order(a: &Scalar<'_>, b: &Scalar<'_>) -> Option<Ordering> {
    use Scalar::{Date, Ip, Str, Version};
    match (a, b) {
        (Str(a), Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Ip(a), Ip(b)) => Some(address_bits(*a).cmp(&address_bits(*b))),
        (Ip(a), Str(b)) => Some(order_address(*a, b)),
        (Str(_), Ip(_)) => order(b, a).map(Ordering::reverse),
        (Date(a), Date(b)) => Some(a.cmp(b)),
        (Date(a), Str(b)) => time::parse_ns(b).map(|b| a.cmp(&b)),
        (Date(a), Scalar::Int(_) | Scalar::Float(_)) => {
            b.number().and_then(|n| compare_date_number(*a, n))
        }
        (Str(_) | Scalar::Int(_) | Scalar::Float(_), Date(_)) => order(b, a).map(Ordering::reverse),
        (Version(a), Version(b) | Str(b)) | (Str(a), Version(b)) => Some(compare_versions(a, b)),
        (Str(s), Scalar::Int(_) | Scalar::Float(_)) => decimal(s)?.compare(b.number()?),
        (Scalar::Int(_) | Scalar::Float(_), Str(s)) => a.number()?.compare(decimal(s)?),
        _ => a.number()?.compare(b.number()?),
    }
}

fn order_address(ip: IpAddr, text: &str) -> Ordering {
    match text.parse() {
        Ok(other) => address_bits(ip).cmp(&address_bits(other)),
        Err(_) => ip.to_string().as_str().cmp(text),
    }
}

/// `==` of two values; `None` (null) exactly when one of them is null.
pub fn equal(a: &Scalar<'_>, b: &Scalar<'_>) -> Option<bool> {
    use Scalar::{Bool, Ip, Str};
    match (a, b) {
        (Scalar::Null, _) | (_, Scalar::Null) => None,
        (Str(a), Str(b)) => Some(a == b),
        (Bool(a), Bool(b)) => Some(a == b),
        (Bool(_), _) | (_, Bool(_)) => Some(false),
        (Ip(ip), Str(text)) | (Str(text), Ip(ip)) => Some(equal_address(*ip, text)),
        (Str(text), Scalar::Int(_) | Scalar::Float(_)) => Some(equal_number_text(b, text)),
        (Scalar::Int(_) | Scalar::Float(_), Str(text)) => Some(equal_number_text(a, text)),
        _ => Some(order(a, b) == Some(Ordering::Equal)),
    }
}

/// An address equals another spelling of itself, or any block it lies in.
fn equal_address(ip: IpAddr, text: &str) -> bool {
    match Cidr::parse(text) {
        Some(cidr) => cidr.contains(ip),
        None => ip.to_string() == text,
    }
}

fn equal_number_text(number: &Scalar<'_>, text: &str) -> bool {
    match (number.number(), decimal(text)) {
        (Some(number), Some(other)) => number.compare(other) == Some(Ordering::Equal),
        _ => number.text().is_some_and(|own| own == text),
    }
}

/// A comparison operator on two values; `None` is null.
pub fn compare(op: Comparison, a: &Scalar<'_>, b: &Scalar<'_>) -> Option<bool> {
    if op == Comparison::Equal {
        return equal(a, b);
    }
    let order = order(a, b)?;
    Some(match op {
        Comparison::Equal => order.is_eq(),
        Comparison::Less => order.is_lt(),
        Comparison::LessEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterEqual => order.is_ge(),
    })
}

/// Equality for `in~`: strings without regard to ASCII case, everything else as `==`.
pub fn equal_folded(a: &Scalar<'_>, b: &Scalar<'_>) -> Option<bool> {
    match (a.text(), b.text()) {
        (Some(a), Some(b)) if a.eq_ignore_ascii_case(&b) => Some(true),
        _ => equal(a, b),
    }
}

/// `in` and `in~`: true if the value equals any element, else null if the value or an element is null, else false.
pub fn within<'a>(
    value: &Scalar<'_>,
    list: impl IntoIterator<Item = Scalar<'a>>,
    fold: bool,
) -> Option<bool> {
    if value.is_null() {
        return None;
    }
    let mut outcome = Some(false);
    for item in list {
        match if fold {
            equal_folded(value, &item)
        } else {
            equal(value, &item)
        } {
            Some(true) => return Some(true),
            Some(false) => {}
            None => outcome = None,
        }
    }
    outcome
}

/// Semantic version order: numeric parts by value, a pre-release before its release, build metadata last. What is not a
/// version comes after all versions, by its bytes.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (VersionParts::parse(a), VersionParts::parse(b)) {
        (Some(a), Some(b)) => a.compare(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

struct VersionParts<'a> {
    numbers: &'a str,
    pre_release: Option<&'a str>,
    build: Option<&'a str>,
}

impl<'a> VersionParts<'a> {
    fn parse(text: &'a str) -> Option<VersionParts<'a>> {
        let (rest, build) = split(text, '+');
        let (numbers, pre_release) = split(rest, '-');
        let valid = numbers
            .split('.')
            .all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        valid.then_some(VersionParts {
            numbers,
            pre_release,
            build,
        })
    }

    fn compare(&self, other: &VersionParts<'_>) -> Ordering {
        let pre_release = match (self.pre_release, other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => compare_parts(a, b),
        };
        compare_parts(self.numbers, other.numbers)
            .then(pre_release)
            .then_with(|| self.build.cmp(&other.build))
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at)
        .map_or((text, None), |(head, tail)| (head, Some(tail)))
}

/// Dotted parts: numbers by value and before words, fewer parts first.
fn compare_parts(a: &str, b: &str) -> Ordering {
    let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (is_number(a), is_number(b)) {
                (true, true) => compare_digits(a, b),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn compare_digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Three-valued `not`.
pub fn not(value: &Scalar<'_>) -> Option<bool> {
    match value {
        Scalar::Bool(b) => Some(!b),
        _ => None,
    }
}
