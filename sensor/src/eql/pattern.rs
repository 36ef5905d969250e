//! Wildcard and regular-expression patterns of `:`, `like`, `like~`, `regex` and `regex~`.
//!
//! In: a pattern as the query writes it. Out: whether a text matches it as a whole, or the source of an equivalent `regex`
//! expression. Case folding is ASCII only. Matching never allocates and never backtracks exponentially.

use regex::{Regex, RegexBuilder};

use super::{limits, regex_fold};

/// Whether the whole `text` matches `pattern`: `*` is any run of characters, `?` exactly one, all else itself.
pub fn like(pattern: &str, text: &str, fold: bool) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let same = |a: u8, b: u8| {
        if fold {
            a.eq_ignore_ascii_case(&b)
        } else {
            a == b
        }
    };
    let (mut i, mut j) = (0, 0);
    // Position after the last `*`, and where in the text it currently gives up.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (p.get(i), t.get(j)) {
            (Some(b'*'), _) => {
                i += 1;
                if i == p.len() {
                    return true;
                }
                star = Some((i, j));
                continue;
            }
            (Some(b'?'), Some(&c)) => {
                i += 1;
                j += char_len(c);
                continue;
            }
            (Some(&a), Some(&b)) if same(a, b) => {
                i += 1;
                j += 1;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        match star {
            Some((after, from)) if from < t.len() => {
                let next = from + t.get(from).map_or(1, |c| char_len(*c));
                star = Some((after, next));
                (i, j) = (after, next);
            }
            _ => return false,
        }
    }
}

/// Bytes of the character that starts with this byte.
fn char_len(first: u8) -> usize {
    match first {
        0..=0xbf => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
    }
}

/// Whether a string would act as a pattern under `like`.
pub fn has_wildcard(text: &str) -> bool {
    memchr::memchr2(b'*', b'?', text.as_bytes()).is_some()
}

/// The pattern without one leading `^` and one trailing `$`, rewritten to the dialect of the `regex` crate: `\<` and `\>`
/// are plain characters, `\d`, `\w`, `\s` and their negations ASCII classes.
pub fn body(pattern: &str) -> String {
    let inner = pattern.strip_prefix('^').unwrap_or(pattern);
    let inner = match inner.strip_suffix('$') {
        // An odd number of backslashes before it makes the dollar a literal.
        Some(rest) if rest.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0 => rest,
        _ => inner,
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        // A class may stand inside a class, so the same text serves in both places.
        match chars.next() {
            Some(escaped @ ('<' | '>')) => out.push(escaped),
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str(r"[\t\n\x0b\x0c\r ]"),
            Some('S') => out.push_str(r"[^\t\n\x0b\x0c\r ]"),
            Some(escaped) => out.extend(['\\', escaped]),
            None => out.push('\\'),
        }
    }
    out
}

/// A text as a pattern that matches exactly itself.
pub fn escape(text: &str) -> String {
    regex_syntax::escape(text)
}

/// Why a regular expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexError {
    pub message: String,
    pub help: String,
    /// It would be fine if it were smaller.
    pub too_large: bool,
}

/// Checks one pattern completely: its syntax on its own, so that it cannot break out of the anchors around it, and its size
/// once compiled.
///
/// # Errors
/// What is wrong, as one line.
pub fn check_regex(pattern: &str) -> Result<(), RegexError> {
    let body = body(pattern);
    if let Err(error) = regex_syntax::ast::parse::ParserBuilder::new()
        .nest_limit(limits::REGEX_DEPTH_MAX)
        .build()
        .parse(&body)
    {
        let near = error.span().start.offset..error.span().end.offset;
        let at = body.get(near).filter(|s| !s.is_empty());
        let help = match error.kind() {
            regex_syntax::ast::ErrorKind::UnsupportedLookAround
            | regex_syntax::ast::ErrorKind::UnsupportedBackreference => {
                "the expression is matched in linear time, which rules it out".to_owned()
            }
            _ => at
                .map(|s| format!("at `{}`", super::lexer::excerpt(s)))
                .unwrap_or_default(),
        };
        return Err(RegexError {
            message: error.kind().to_string(),
            help,
            too_large: false,
        });
    }
    match compile_regex(pattern, true) {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(bytes)) => Err(RegexError {
            message: format!("it needs more than {bytes} bytes once compiled"),
            help: "use fewer or smaller repetitions".to_owned(),
            too_large: true,
        }),
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().last().unwrap_or_default();
            Err(RegexError {
                message: line.trim_start_matches("error: ").to_owned(),
                help: String::new(),
                too_large: false,
            })
        }
    }
}

/// Compiles one pattern anchored at both ends. `fold` ignores ASCII case.
///
/// # Errors
/// What the `regex` crate refuses: syntax, look-around, back-references, or more than `limits::REGEX_PROGRAM_BYTES_MAX`.
pub fn compile_regex(pattern: &str, fold: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&anchored(pattern, fold))
        .size_limit(limits::REGEX_PROGRAM_BYTES_MAX)
        .build()
}

/// The pattern in the dialect of the `regex` crate, anchored at both ends. `fold` ignores ASCII case.
pub fn anchored(pattern: &str, fold: bool) -> String {
    let body = body(pattern);
    let folded = if fold { regex_fold::ascii(&body) } else { None };
    match folded {
        Some(folded) => format!(r"\A(?s:{folded})\z"),
        None if fold => format!(r"\A(?is:{body})\z"),
        None => format!(r"\A(?s:{body})\z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, fold, expected) in [
            ("", "", false, true),
            ("", "a", false, false),
            ("*", "", false, true),
            ("*", "a\nb", false, true),
            ("?", "", false, false),
            ("?", "ä", false, true),
            ("??", "ä", false, false),
            ("a*b", "ab", false, true),
            ("a*b", "aXXb", false, true),
            ("a*b", "aXXbc", false, false),
            ("*a*b*c*", "xxaxxbxxcxx", false, true),
            ("*a*b*c*", "xxcxxbxxaxx", false, false),
            ("*.exe", "CMD.EXE", false, false),
            ("*.exe", "CMD.EXE", true, true),
            ("Ä", "ä", true, false),
            ("*ab", "aab", false, true),
            ("*?b", "äb", false, true),
            ("*?", "ä", false, true),
            ("a\\*", "a\\x", false, true),
            ("*aab", "aaaab", false, true),
            ("a**b", "ab", false, true),
        ] {
            assert_eq!(
                like(pattern, text, fold),
                expected,
                "{pattern} on {text}, fold {fold}"
            );
        }
    }

    #[test]
    fn anchors() {
        for (pattern, expected) in [
            ("a", "a"),
            ("^a$", "a"),
            (r"a\$", r"a\$"),
            (r"a\\$", r"a\\"),
            ("^^a$$", "^a$"),
            (r"\<a\>\\<", r"<a>\\<"),
            (r"[\d.]\\d", r"[[0-9].]\\d"),
        ] {
            assert_eq!(body(pattern), expected);
        }
        let kelvin = compile_regex("k", true).unwrap();
        assert!(kelvin.is_match("K") && !kelvin.is_match("\u{212a}"));
        let re = compile_regex("^a.c|x$", true).unwrap();
        assert!(re.is_match("A\nC") && re.is_match("X") && !re.is_match("xx"));
    }
}
