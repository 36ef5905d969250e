//! What values are to the naive matcher, and what operators and functions make of them.
//!
//! In: values of one event and literals. Out: values; null where nothing can be computed. Written from the description of
//! the language with the plainest means: lists of characters, recursion, no fast paths.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

use sensor::eql::cidr::{Cidr, address_bits};
use sensor::eql::query::{Arithmetic, Comparison, FieldType, Function, Literal};
use sensor::eql::time;
use sensor::event::OwnedValue;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Val {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Ip(IpAddr),
    /// Nanoseconds.
    Date(i64),
    Version(String),
    /// There is something below the path, but no value at it.
    Object,
}

impl Val {
    pub(crate) fn literal(literal: &Literal) -> Val {
        match literal {
            Literal::Null => Val::Null,
            Literal::Bool(b) => Val::Bool(*b),
            Literal::Int(i) => Val::Int(*i),
            Literal::Float(f) => Val::Float(*f),
            Literal::Str(s) => Val::Str(s.to_string()),
        }
    }

    /// A stored value, read as the declared type of its field.
    pub(crate) fn stored(value: &OwnedValue, ty: FieldType) -> Val {
        let plain = match value {
            OwnedValue::Str(s) => Val::Str(s.to_string()),
            OwnedValue::Int(i) => Val::Int(*i),
            OwnedValue::Float(f) => Val::Float(*f),
            OwnedValue::Bool(b) => Val::Bool(*b),
            OwnedValue::Ip(ip) => Val::Ip(*ip),
            OwnedValue::Date(ns) => Val::Date(*ns),
        };
        match (ty, &plain) {
            (FieldType::Ip, Val::Str(s)) => s.parse().map_or(plain, Val::Ip),
            (FieldType::Date, Val::Str(s)) => time::parse_ns(s).map_or(plain, Val::Date),
            (FieldType::Date, Val::Int(ms)) => ms.checked_mul(1_000_000).map_or(plain, Val::Date),
            (FieldType::Version, Val::Str(s)) => Val::Version(s.clone()),
            _ => plain,
        }
    }

    pub(crate) fn truth(value: Option<bool>) -> Val {
        value.map_or(Val::Null, Val::Bool)
    }

    pub(crate) fn is_true(&self) -> bool {
        *self == Val::Bool(true)
    }

    /// Three-valued: what is no boolean is null.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self {
            Val::Bool(b) => Some(*b),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Val::Int(i) => Some(*i as f64),
            Val::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// Text of anything but null and objects.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Val::Null | Val::Object => None,
            Val::Bool(b) => Some(b.to_string()),
            Val::Int(i) => Some(i.to_string()),
            Val::Float(f) => Some(format!("{f:?}")),
            Val::Str(s) | Val::Version(s) => Some(s.clone()),
            Val::Ip(ip) => Some(ip.to_string()),
            Val::Date(ns) => Some(time::format_ns(*ns)),
        }
    }

    /// A string, or a typed string.
    fn string(&self) -> Option<String> {
        match self {
            Val::Bool(_) | Val::Int(_) | Val::Float(_) => None,
            other => other.text(),
        }
    }
}

/// Optional sign, digits, optional fraction.
fn decimal(text: &str) -> Option<Val> {
    let unsigned = text
        .strip_prefix('-')
        .or(text.strip_prefix('+'))
        .unwrap_or(text);
    let digits = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_digit());
    match unsigned.split_once('.') {
        None if digits(unsigned) => Some(
            text.parse()
                .map_or_else(|_| Val::Float(text.parse().unwrap()), Val::Int),
        ),
        Some((whole, fraction)) if digits(whole) && digits(fraction) => {
            Some(Val::Float(text.parse().unwrap()))
        }
        _ => None,
    }
}

fn order_numbers(a: &Val, b: &Val) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        _ => a.number()?.partial_cmp(&b.number()?),
    }
}

/// The order of two values, `None` for null.
pub(crate) fn order(a: &Val, b: &Val) -> Option<Ordering> {
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Val::Ip(a), Val::Ip(b)) => Some(address_bits(*a).cmp(&address_bits(*b))),
        (Val::Ip(ip), Val::Str(text)) => Some(match text.parse() {
            Ok(other) => address_bits(*ip).cmp(&address_bits(other)),
            Err(_) => ip.to_string().as_str().cmp(text),
        }),
        (Val::Date(a), Val::Date(b)) => Some(a.cmp(b)),
        (Val::Date(ns), Val::Str(text)) => Some(ns.cmp(&time::parse_ns(text)?)),
        (Val::Date(ns), Val::Int(ms)) => Some(i128::from(*ns).cmp(&(i128::from(*ms) * 1_000_000))),
        (Val::Date(ns), Val::Float(ms)) => (*ns as f64).partial_cmp(&(ms * 1e6)),
        (Val::Version(a), Val::Version(b) | Val::Str(b)) => Some(order_versions(a, b)),
        (Val::Str(_), Val::Ip(_) | Val::Date(_) | Val::Version(_))
        | (Val::Int(_) | Val::Float(_), Val::Date(_)) => order(b, a).map(Ordering::reverse),
        (Val::Str(s), Val::Int(_) | Val::Float(_)) => order_numbers(&decimal(s)?, b),
        (Val::Int(_) | Val::Float(_), Val::Str(s)) => order_numbers(a, &decimal(s)?),
        _ => order_numbers(a, b),
    }
}

/// Numbers by value, a pre-release before its release; what is no version after every version.
fn order_versions(a: &str, b: &str) -> Ordering {
    fn parse(text: &str) -> Option<(Vec<u64>, Option<&str>)> {
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (text, None),
        };
        let numbers = numbers
            .split('.')
            .map(|n| n.parse().ok())
            .collect::<Option<_>>()?;
        Some((numbers, pre))
    }
    match (parse(a), parse(b)) {
        (None, None) => a.cmp(b),
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some((a, a_pre)), Some((b, b_pre))) => a.cmp(&b).then(match (a_pre, b_pre) {
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (a, b) => a.cmp(&b),
        }),
    }
}

/// `==`: null iff a side is null.
pub(crate) fn equal(a: &Val, b: &Val) -> Option<bool> {
    match (a, b) {
        (Val::Null | Val::Object, _) | (_, Val::Null | Val::Object) => None,
        (Val::Bool(a), Val::Bool(b)) => Some(a == b),
        (Val::Bool(_), _) | (_, Val::Bool(_)) => Some(false),
        (Val::Ip(ip), Val::Str(text)) | (Val::Str(text), Val::Ip(ip)) => {
            Some(match Cidr::parse(text) {
                Some(block) => block.contains(*ip),
                None => ip.to_string() == *text,
            })
        }
        (Val::Str(text), number @ (Val::Int(_) | Val::Float(_)))
        | (number @ (Val::Int(_) | Val::Float(_)), Val::Str(text)) => Some(match decimal(text) {
            Some(other) => order_numbers(number, &other) == Some(Ordering::Equal),
            None => number.text().as_deref() == Some(text),
        }),
        _ => Some(order(a, b) == Some(Ordering::Equal)),
    }
}

pub(crate) fn compare(op: Comparison, a: &Val, b: &Val) -> Val {
    let order = || order(a, b);
    Val::truth(match op {
        Comparison::Equal => equal(a, b),
        Comparison::Less => order().map(|o| o == Ordering::Less),
        Comparison::LessEqual => order().map(|o| o != Ordering::Greater),
        Comparison::Greater => order().map(|o| o == Ordering::Greater),
        Comparison::GreaterEqual => order().map(|o| o != Ordering::Less),
    })
}

/// One element of an `in` list.
pub(crate) fn equal_in(a: &Val, b: &Val, fold: bool) -> Option<bool> {
    if fold
        && let (Some(a), Some(b)) = (a.text(), b.text())
        && a.eq_ignore_ascii_case(&b)
    {
        return Some(true);
    }
    equal(a, b)
}

/// `*` is any run of characters, `?` one character.
pub(crate) fn like(pattern: &str, text: &str, fold: bool) -> bool {
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|n| matches(rest, &text[n..])),
            ['?', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
            [c, rest @ ..] => text.first() == Some(c) && matches(rest, &text[1..]),
        }
    }
    let chars = |s: &str| -> Vec<char> {
        s.chars()
            .map(|c| if fold { c.to_ascii_lowercase() } else { c })
            .collect()
    };
    matches(&chars(pattern), &chars(text))
}

pub(crate) fn regex(pattern: &str, text: &str, fold: bool) -> bool {
    thread_local! {
        /// Compiling is so slow that it would be all the time that tests take.
        static COMPILED: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let pattern = match pattern.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => rest,
        _ => pattern,
    };
    // Only ASCII folds: everything else becomes a private character, which has no case.
    let private = |c: char| match u32::from(c) {
        code @ 0x80..=0xffff if fold => char::from_u32(0xf_0000 + code).unwrap_or(c),
        _ => c,
    };
    let pattern: String = pattern.chars().map(private).collect();
    let text: String = text.chars().map(private).collect();
    let flags = if fold { "(?i)" } else { "" };
    let whole = format!(r"{flags}\A(?s:{pattern})\z");
    COMPILED.with_borrow_mut(|compiled| {
        let compile = || regex::Regex::new(&whole).expect("a checked regex");
        compiled
            .entry(whole.clone())
            .or_insert_with(compile)
            .is_match(&text)
    })
}

pub(crate) fn arithmetic(op: Arithmetic, a: &Val, b: &Val) -> Val {
    if let (Val::Int(a), Val::Int(b)) = (a, b) {
        let (a, b) = (i128::from(*a), i128::from(*b));
        let wide = match op {
            Arithmetic::Add => a + b,
            Arithmetic::Subtract => a - b,
            Arithmetic::Multiply => a * b,
            Arithmetic::Divide | Arithmetic::Modulo if b == 0 => return Val::Null,
            Arithmetic::Divide => a / b,
            Arithmetic::Modulo => a % b,
        };
        return i64::try_from(wide).map_or(Val::Null, Val::Int);
    }
    let (Some(a), Some(b)) = (a.number(), b.number()) else {
        return Val::Null;
    };
    match op {
        Arithmetic::Add => Val::Float(a + b),
        Arithmetic::Subtract => Val::Float(a - b),
        Arithmetic::Multiply => Val::Float(a * b),
        Arithmetic::Divide | Arithmetic::Modulo if b == 0.0 => Val::Null,
        Arithmetic::Divide => Val::Float(a / b),
        Arithmetic::Modulo => Val::Float(a % b),
    }
}

pub(crate) fn negate(value: &Val) -> Val {
    match value {
        Val::Int(i) => i.checked_neg().map_or(Val::Null, Val::Int),
        Val::Float(f) => Val::Float(-f),
        _ => Val::Null,
    }
}

pub(crate) fn cidr_match(value: &Val, blocks: &[Cidr]) -> Val {
    let address = match value {
        Val::Ip(ip) => Some(*ip),
        other => match other.string() {
            Some(text) => text.parse().ok(),
            None => return Val::Null,
        },
    };
    Val::Bool(address.is_some_and(|ip| blocks.iter().any(|block| block.contains(ip))))
}

pub(crate) fn call(function: Function, fold: bool, args: &[Val]) -> Val {
    apply(function, fold, args).unwrap_or(Val::Null)
}

fn apply(function: Function, fold: bool, args: &[Val]) -> Option<Val> {
    let folded = |s: &str| -> Vec<char> {
        s.chars()
            .map(|c| if fold { c.to_ascii_lowercase() } else { c })
            .collect()
    };
    let chars = |n: usize| args.get(n)?.string().map(|s| folded(&s));
    let integer = |n: usize| match args.get(n) {
        None | Some(Val::Null) => Some(None),
        Some(Val::Int(i)) => Some(Some(*i)),
        Some(_) => None,
    };
    Some(match function {
        Function::Concat => Val::Str(
            args.iter()
                .map(Val::text)
                .collect::<Option<Vec<_>>>()?
                .concat(),
        ),
        Function::String => Val::Str(args.first()?.text()?),
        Function::Length => Val::Int(chars(0)?.len() as i64),
        Function::StartsWith => Val::Bool(chars(0)?.starts_with(&chars(1)?)),
        Function::EndsWith => Val::Bool(chars(0)?.ends_with(&chars(1)?)),
        Function::StringContains => {
            let (s, sub) = (chars(0)?, chars(1)?);
            Val::Bool(!sub.is_empty() && position(&s, &sub, 0).is_some())
        }
        Function::IndexOf => {
            let start = usize::try_from(integer(2)?.unwrap_or(0).max(0)).ok()?;
            Val::Int(position(&chars(0)?, &chars(1)?, start)? as i64)
        }
        Function::Substring => {
            let s: Vec<char> = args.first()?.string()?.chars().collect();
            let (start, end) = (integer(1)?, integer(2)?);
            let Some(start) = start else {
                return Some(Val::Str(s.into_iter().collect()));
            };
            let len = s.len() as i64;
            let clamp = |n: i64| if n < 0 { (len + n).max(0) } else { n.min(len) };
            let (start, end) = (clamp(start), end.map_or(len, clamp));
            let taken = s
                .iter()
                .enumerate()
                .filter(|(i, _)| (start..end).contains(&(*i as i64)));
            Val::Str(taken.map(|(_, c)| *c).collect())
        }
        Function::Between => {
            let greedy = match args.get(3) {
                None => false,
                Some(other) => other.boolean()?,
            };
            let original: Vec<char> = args.first()?.string()?.chars().collect();
            let (s, left, right) = (chars(0)?, chars(1)?, chars(2)?);
            if s.is_empty() || left.is_empty() || right.is_empty() {
                return Some(Val::Str(original.into_iter().collect()));
            }
            let found = position(&s, &left, 0).and_then(|at| {
                let start = at + left.len();
                let ends = (start..=s.len()).filter(|end| s[*end..].starts_with(&right));
                let end = if greedy { ends.max() } else { ends.min() };
                Some(start..end?)
            });
            Val::Str(found.map_or(String::new(), |range| original[range].iter().collect()))
        }
        Function::Number => number(&args.first()?.string()?, integer(1)?)?,
    })
}

/// First place of `sub` in `s` at or after `start`.
fn position(s: &[char], sub: &[char], start: usize) -> Option<usize> {
    (start..=s.len()).find(|at| s[*at..].starts_with(sub))
}

fn number(text: &str, base: Option<i64>) -> Option<Val> {
    let text = text.trim().to_ascii_lowercase();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (base, digits) = match (base, digits.strip_prefix("0x")) {
        (None | Some(16), Some(rest)) => (16, rest),
        (base, _) => (base.unwrap_or(10), digits),
    };
    let base = u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?;
    let whole = digits.chars().try_fold(0_i128, |sum, c| {
        Some(sum * i128::from(base) + i128::from(c.to_digit(base)?))
    });
    match whole {
        Some(_) if digits.is_empty() => None,
        Some(n) => i64::try_from(if negative { -n } else { n })
            .ok()
            .map(Val::Int),
        None if base == 10 && digits.contains('.') => match decimal(digits)? {
            Val::Float(f) => Some(Val::Float(if negative { -f } else { f })),
            _ => None,
        },
        None => None,
    }
}
