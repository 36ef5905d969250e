//! What functions and arithmetic compute, on plain values.
//!
//! In: scalars. Out: scalars, borrowed from the arguments where the result is a piece of one. Used by constant folding and by
//! the engine, so both agree. Never fails: a null, an argument of the wrong kind, an overflow or a division by zero is null.
//! Positions count Unicode scalar values; case folding is ASCII only.

use std::borrow::Cow;
use std::net::IpAddr;

use super::cidr::Cidr;
use super::query::{Arithmetic, Function};
use super::scalar::{Number, Scalar};

/// Calls a function with evaluated arguments. `fold` is the `~` variant.
pub fn call<'a>(function: Function, fold: bool, args: &[Scalar<'a>]) -> Scalar<'a> {
    let arg = |i: usize| args.get(i).unwrap_or(&Scalar::Null);
    let result = match function {
        Function::Between => between(arg(0), arg(1), arg(2), args.get(3), fold),
        Function::Concat => concat(args),
        Function::EndsWith => {
            texts(arg(0), arg(1)).map(|(s, sub)| Scalar::Bool(ends_with(&s, &sub, fold)))
        }
        Function::IndexOf => index_of(arg(0), arg(1), args.get(2), fold),
        Function::Length => arg(0)
            .string()
            .and_then(|s| i64::try_from(s.chars().count()).ok())
            .map(Scalar::Int),
        Function::Number => number(arg(0), args.get(1)),
        Function::StartsWith => {
            texts(arg(0), arg(1)).map(|(s, sub)| Scalar::Bool(starts_with(&s, &sub, fold)))
        }
        Function::String => string(arg(0)),
        Function::StringContains => {
            texts(arg(0), arg(1)).map(|(s, sub)| Scalar::Bool(contains(&s, &sub, fold)))
        }
        Function::Substring => substring(arg(0), arg(1), args.get(2)),
    };
    result.unwrap_or(Scalar::Null)
}

/// `cidrMatch`: true iff the address lies in any block; what is no address lies in none.
pub fn cidr_match(value: &Scalar<'_>, blocks: &[Cidr]) -> Option<bool> {
    let ip = address(value)?;
    Some(ip.is_some_and(|ip| blocks.iter().any(|block| block.contains(ip))))
}

/// The address a value tells: `Some(None)` for a text that is none, `None` for what can not be one and makes the result null.
pub fn address(value: &Scalar<'_>) -> Option<Option<IpAddr>> {
    match value {
        Scalar::Null | Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) => None,
        Scalar::Ip(ip) => Some(Some(*ip)),
        other => Some(other.text().and_then(|text| text.parse().ok())),
    }
}

/// `a op b`: integers stay integers, `/` truncates toward zero, `%` takes the sign of the dividend, any double makes it
/// double.
pub fn arithmetic(op: Arithmetic, a: &Scalar<'_>, b: &Scalar<'_>) -> Scalar<'static> {
    let (a, b) = match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => {
            return match op {
                Arithmetic::Add => a.checked_add(*b),
                Arithmetic::Subtract => a.checked_sub(*b),
                Arithmetic::Multiply => a.checked_mul(*b),
                Arithmetic::Divide => a.checked_div(*b),
                Arithmetic::Modulo if *b == 0 => None,
                // The one overflowing case, i64::MIN % -1, is mathematically zero.
                Arithmetic::Modulo => Some(a.wrapping_rem(*b)),
            }
            .map_or(Scalar::Null, Scalar::Int);
        }
        (Scalar::Int(a), Scalar::Float(b)) => (Number::Int(*a).as_f64(), *b),
        (Scalar::Float(a), Scalar::Int(b)) => (*a, Number::Int(*b).as_f64()),
        (Scalar::Float(a), Scalar::Float(b)) => (*a, *b),
        _ => return Scalar::Null,
    };
    if b == 0.0 && matches!(op, Arithmetic::Divide | Arithmetic::Modulo) {
        return Scalar::Null;
    }
    Scalar::Float(match op {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::Modulo => a % b,
    })
}

/// Unary minus.
pub fn negate(value: &Scalar<'_>) -> Scalar<'static> {
    match value {
        Scalar::Int(i) => i.checked_neg().map_or(Scalar::Null, Scalar::Int),
        Scalar::Float(f) => Scalar::Float(-f),
        _ => Scalar::Null,
    }
}

fn texts<'b>(a: &'b Scalar<'_>, b: &'b Scalar<'_>) -> Option<(Cow<'b, str>, Cow<'b, str>)> {
    Some((a.string()?, b.string()?))
}

/// Whether `s` ends with `sub`; an empty `sub` always does.
pub fn ends_with(s: &str, sub: &str, fold: bool) -> bool {
    let tail = s
        .len()
        .checked_sub(sub.len())
        .and_then(|at| s.as_bytes().get(at..));
    if fold {
        tail.is_some_and(|t| t.eq_ignore_ascii_case(sub.as_bytes()))
    } else {
        s.ends_with(sub)
    }
}

/// Whether `s` starts with `sub`; an empty `sub` always does.
pub fn starts_with(s: &str, sub: &str, fold: bool) -> bool {
    let head = s.as_bytes().get(..sub.len());
    if fold {
        head.is_some_and(|h| h.eq_ignore_ascii_case(sub.as_bytes()))
    } else {
        s.starts_with(sub)
    }
}

/// Whether `s` contains `sub`; an empty `sub` is in nothing.
pub fn contains(s: &str, sub: &str, fold: bool) -> bool {
    !sub.is_empty() && find(s, sub, fold).is_some()
}

/// Byte offset of the first occurrence. A match of valid UTF-8 starts on a character boundary, folded or not.
fn find(s: &str, sub: &str, fold: bool) -> Option<usize> {
    if !fold {
        return memchr::memmem::find(s.as_bytes(), sub.as_bytes());
    }
    let Some(first) = sub.as_bytes().first() else {
        return Some(0);
    };
    let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
    memchr::memchr2_iter(lower, upper, s.as_bytes()).find(|at| {
        s.as_bytes()
            .get(*at..*at + sub.len())
            .is_some_and(|window| window.eq_ignore_ascii_case(sub.as_bytes()))
    })
}

fn rfind(s: &str, sub: &str, fold: bool) -> Option<usize> {
    if !fold {
        return memchr::memmem::rfind(s.as_bytes(), sub.as_bytes());
    }
    let last = s.len().checked_sub(sub.len())?;
    (0..=last).rev().find(|at| {
        s.as_bytes()
            .get(*at..*at + sub.len())
            .is_some_and(|window| window.eq_ignore_ascii_case(sub.as_bytes()))
    })
}

/// The piece of a text value between two byte offsets, borrowed when the value is.
fn slice<'a>(value: &Scalar<'a>, start: usize, end: usize) -> Scalar<'a> {
    match value {
        Scalar::Str(Cow::Borrowed(s)) | Scalar::Version(Cow::Borrowed(s)) => {
            Scalar::Str(Cow::Borrowed(s.get(start..end).unwrap_or_default()))
        }
        other => {
            let text = other.text().unwrap_or_default();
            Scalar::Str(Cow::Owned(
                text.get(start..end).unwrap_or_default().to_owned(),
            ))
        }
    }
}

fn between<'a>(
    source: &Scalar<'a>,
    left: &Scalar<'_>,
    right: &Scalar<'_>,
    greedy: Option<&Scalar<'_>>,
    fold: bool,
) -> Option<Scalar<'a>> {
    let greedy = match greedy {
        None => false,
        Some(Scalar::Bool(greedy)) => *greedy,
        Some(_) => return None,
    };
    let (s, left, right) = (source.string()?, left.string()?, right.string()?);
    if s.is_empty() || left.is_empty() || right.is_empty() {
        return Some(slice(source, 0, s.len()));
    }
    let range = find(&s, &left, fold).and_then(|at| {
        let start = at + left.len();
        let rest = s.get(start..)?;
        let end = if greedy {
            rfind(rest, &right, fold)
        } else {
            find(rest, &right, fold)
        }?;
        Some((start, start + end))
    });
    let (start, end) = range.unwrap_or((0, 0));
    Some(slice(source, start, end))
}

fn concat(args: &[Scalar<'_>]) -> Option<Scalar<'static>> {
    let mut out = String::new();
    for arg in args {
        out.push_str(&arg.text()?);
    }
    Some(Scalar::Str(Cow::Owned(out)))
}

fn string<'a>(value: &Scalar<'a>) -> Option<Scalar<'a>> {
    match value {
        Scalar::Str(s) => Some(Scalar::Str(s.clone())),
        other => other
            .text()
            .map(|text| Scalar::Str(Cow::Owned(text.into_owned()))),
    }
}

fn index_of(
    s: &Scalar<'_>,
    sub: &Scalar<'_>,
    start: Option<&Scalar<'_>>,
    fold: bool,
) -> Option<Scalar<'static>> {
    let start = match start {
        None | Some(Scalar::Null) => 0,
        Some(Scalar::Int(start)) => usize::try_from((*start).max(0)).unwrap_or(usize::MAX),
        Some(_) => return None,
    };
    let (s, sub) = texts(s, sub)?;
    let from = char_offset(&s, start)?;
    let at = find(s.get(from..)?, &sub, fold)?;
    let position = start + s.get(from..from + at)?.chars().count();
    i64::try_from(position).ok().map(Scalar::Int)
}

/// Byte offset of a character position; the position right after the last character is the end, beyond is `None`.
fn char_offset(s: &str, position: usize) -> Option<usize> {
    let mut offsets = s.char_indices().map(|(offset, _)| offset).chain([s.len()]);
    offsets.nth(position)
}

fn number(s: &Scalar<'_>, base: Option<&Scalar<'_>>) -> Option<Scalar<'static>> {
    let base = match base {
        None | Some(Scalar::Null) => None,
        Some(Scalar::Int(base)) => {
            Some(u32::try_from(*base).ok().filter(|b| (2..=36).contains(b))?)
        }
        Some(_) => return None,
    };
    let text = s.string()?;
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { "-" } else { "" }, digits),
        None => ("", text),
    };
    let prefixed = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (base, digits) = match (base, prefixed) {
        (None | Some(16), Some(digits)) => (16, digits),
        (base, _) => (base.unwrap_or(10), digits),
    };
    // A second sign would get past the standard library's parsers.
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let signed = format!("{sign}{digits}");
    match i64::from_str_radix(&signed, base) {
        Ok(value) => Some(Scalar::Int(value)),
        Err(_) if base == 10 && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            signed.parse().ok().map(Scalar::Float)
        }
        Err(_) => None,
    }
}

fn substring<'a>(
    s: &Scalar<'a>,
    start: &Scalar<'_>,
    end: Option<&Scalar<'_>>,
) -> Option<Scalar<'a>> {
    let text = s.string()?;
    let start = match start {
        Scalar::Null => return Some(slice(s, 0, text.len())),
        Scalar::Int(start) => *start,
        _ => return None,
    };
    let end = match end {
        None | Some(Scalar::Null) => None,
        Some(Scalar::Int(end)) => Some(*end),
        Some(_) => return None,
    };
    let length = text.chars().count();
    let clamp = |at: i64| {
        let at = if at < 0 {
            i64::try_from(length)
                .unwrap_or(i64::MAX)
                .saturating_add(at)
                .max(0)
        } else {
            at
        };
        usize::try_from(at).unwrap_or(length).min(length)
    };
    let (start, end) = (clamp(start), end.map_or(length, clamp));
    if start >= end {
        return Some(Scalar::str(""));
    }
    Some(slice(
        s,
        char_offset(&text, start)?,
        char_offset(&text, end)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(function: Function, fold: bool, args: &[Scalar<'static>], expected: Scalar<'static>) {
        assert_eq!(
            call(function, fold, args),
            expected,
            "{function:?} {args:?}"
        );
    }

    fn s(text: &'static str) -> Scalar<'static> {
        Scalar::str(text)
    }

    #[test]
    fn between_edges() {
        let text = s("One two THREE two");
        check(
            Function::Between,
            false,
            &[text.clone(), s("One"), s("two")],
            s(" "),
        );
        check(
            Function::Between,
            false,
            &[text.clone(), s("One"), s("two"), Scalar::Bool(true)],
            s(" two THREE "),
        );
        check(
            Function::Between,
            false,
            &[text.clone(), s("one"), s("two")],
            s(""),
        );
        check(
            Function::Between,
            true,
            &[text.clone(), s("one"), s("three")],
            s(" two "),
        );
        check(
            Function::Between,
            false,
            &[text.clone(), s(""), s("two")],
            text.clone(),
        );
        check(
            Function::Between,
            false,
            &[s("b a"), s("a"), s("b"), Scalar::Bool(true)],
            s(""),
        );
        check(
            Function::Between,
            false,
            &[text, Scalar::Null, s("two")],
            Scalar::Null,
        );
    }

    #[test]
    fn positions_are_characters() {
        check(Function::Length, false, &[s("äöü")], Scalar::Int(3));
        check(
            Function::IndexOf,
            false,
            &[s("äöü"), s("ü")],
            Scalar::Int(2),
        );
        check(
            Function::IndexOf,
            true,
            &[s("äöXx"), s("x"), Scalar::Int(3)],
            Scalar::Int(3),
        );
        check(
            Function::IndexOf,
            false,
            &[s("abc"), s(""), Scalar::Int(-4)],
            Scalar::Int(0),
        );
        check(
            Function::IndexOf,
            false,
            &[s("abc"), s(""), Scalar::Int(3)],
            Scalar::Int(3),
        );
        check(
            Function::IndexOf,
            false,
            &[s("abc"), s(""), Scalar::Int(4)],
            Scalar::Null,
        );
        check(
            Function::Substring,
            false,
            &[s("äöü"), Scalar::Int(-2), Scalar::Int(-1)],
            s("ö"),
        );
        check(
            Function::Substring,
            false,
            &[s("abc"), Scalar::Int(i64::MIN), Scalar::Int(i64::MAX)],
            s("abc"),
        );
    }

    #[test]
    fn number_bases() {
        for (text, base, expected) in [
            (" 12 ", Scalar::Null, Scalar::Int(12)),
            ("-0x10", Scalar::Null, Scalar::Int(-16)),
            ("0x10", Scalar::Int(10), Scalar::Null),
            ("0x10", Scalar::Int(16), Scalar::Int(16)),
            ("ff", Scalar::Int(16), Scalar::Int(255)),
            ("zz", Scalar::Int(37), Scalar::Null),
            ("1.5", Scalar::Int(8), Scalar::Null),
            ("1.5", Scalar::Null, Scalar::Float(1.5)),
            ("--5", Scalar::Null, Scalar::Null),
            ("0x-5", Scalar::Null, Scalar::Null),
            ("inf", Scalar::Null, Scalar::Null),
            ("", Scalar::Null, Scalar::Null),
        ] {
            check(Function::Number, false, &[s(text), base], expected);
        }
    }

    #[test]
    fn null_and_wrong_kinds() {
        check(Function::Length, false, &[Scalar::Int(5)], Scalar::Null);
        check(
            Function::StartsWith,
            false,
            &[s("a"), Scalar::Null],
            Scalar::Null,
        );
        check(
            Function::StringContains,
            false,
            &[s(""), s("")],
            Scalar::Bool(false),
        );
        check(
            Function::StringContains,
            true,
            &[s("fooBAR"), s("Bar")],
            Scalar::Bool(true),
        );
        check(
            Function::EndsWith,
            true,
            &[s("xÄ"), s("Ä")],
            Scalar::Bool(true),
        );
        check(Function::String, false, &[Scalar::Float(1.0)], s("1.0"));
        check(
            Function::Concat,
            false,
            &[s("a"), Scalar::Bool(true), Scalar::Float(1.5)],
            s("atrue1.5"),
        );
    }

    #[test]
    fn arithmetic_edges() {
        let int = Scalar::Int;
        for (op, a, b, expected) in [
            (Arithmetic::Add, int(i64::MAX), int(1), Scalar::Null),
            (Arithmetic::Divide, int(-7), int(2), int(-3)),
            (Arithmetic::Modulo, int(-10), int(6), int(-4)),
            (Arithmetic::Modulo, int(10), int(-6), int(4)),
            (Arithmetic::Modulo, int(i64::MIN), int(-1), int(0)),
            (Arithmetic::Divide, int(1), int(0), Scalar::Null),
            (Arithmetic::Divide, Scalar::Float(1.0), int(0), Scalar::Null),
            (
                Arithmetic::Multiply,
                int(2),
                Scalar::Float(1.5),
                Scalar::Float(3.0),
            ),
            (Arithmetic::Add, s("1"), int(1), Scalar::Null),
        ] {
            assert_eq!(arithmetic(op, &a, &b), expected, "{a:?} {op:?} {b:?}");
        }
    }
}
