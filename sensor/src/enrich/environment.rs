//! Which variables of a process's environment are kept.
//!
//! In: wildcard patterns, and the environment area of an exec. Out: the `NAME=value` texts that a pattern asks for. An
//! environment holds secrets: whatever nobody asked for is gone after this.

use std::sync::Arc;

/// Most patterns looked at.
const PATTERNS_MAX: usize = 256;

/// Patterns with `*` and `?`, without regard to ASCII case: one with `=` is held against the whole text, any other against
/// the name.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    patterns: Vec<Box<str>>,
}

impl Wanted {
    #[must_use]
    pub fn new(patterns: &[String]) -> Wanted {
        let patterns = patterns.iter().take(PATTERNS_MAX);
        Wanted {
            patterns: patterns.map(|pattern| pattern.as_str().into()).collect(),
        }
    }

    /// The texts of an area that are asked for; the last one may be cut.
    pub(super) fn of(&self, area: &[u8]) -> Vec<Arc<str>> {
        if self.patterns.is_empty() {
            return Vec::new();
        }
        area.split(|b| *b == 0)
            .filter(|text| !text.is_empty() && self.wants(text))
            .map(|text| String::from_utf8_lossy(text).into())
            .collect()
    }

    fn wants(&self, text: &[u8]) -> bool {
        let name = text.split(|b| *b == b'=').next().unwrap_or_default();
        self.patterns.iter().any(|pattern| {
            let whole = pattern.contains('=');
            matches(pattern.as_bytes(), if whole { text } else { name })
        })
    }
}

/// Byte by byte: after a star that did not fit, the star takes one more.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(from) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(p) if *p == b'?' || p.eq_ignore_ascii_case(byte) => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((of, taken)) = star else {
                    return false;
                };
                star = Some((of, taken + 1));
                at = of + 1;
                from = taken + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|p| *p == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], area: &[u8], expected: &[&str]) {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let found = Wanted::new(&patterns).of(area);
        let found: Vec<&str> = found.iter().map(|text| &**text).collect();
        assert_eq!(found, expected, "{patterns:?} in {}", area.escape_ascii());
    }

    #[test]
    fn only_what_is_asked_for_is_kept() {
        let area = b"PATH=/bin\0TOKEN=secret\0LD_PRELOAD=/tmp/a.so\0http_proxy=socks5h://x\0no equals sign\0E=\xff\0";
        check(&[], area, &[]);
        check(&["LD_PRELOAD"], area, &["LD_PRELOAD=/tmp/a.so"]);
        check(
            &["ld_*", "E"],
            area,
            &["LD_PRELOAD=/tmp/a.so", "E=\u{fffd}"],
        );
        check(&["HTTP_PROXY"], area, &["http_proxy=socks5h://x"]);
        check(&["*=/tmp/*.so"], area, &["LD_PRELOAD=/tmp/a.so"]);
        check(&["LD_"], area, &[]);
        check(&["no*"], area, &["no equals sign"]);
        check(&["T?K*N"], area, &["TOKEN=secret"]);
        check(&["*"], b"A=1\0\0B=2\0C=cu", &["A=1", "B=2", "C=cu"]);
        check(&["A"], b"", &[]);
    }

    #[test]
    fn stars_take_as_much_as_is_needed() {
        assert!(matches(b"*ab*ab", b"xabyabab"));
        assert!(!matches(b"*ab*ab", b"xaby"));
        assert!(matches(b"**", b""));
        assert!(!matches(b"?", b""));
    }
}
