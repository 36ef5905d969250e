//! A JSON scanner over one line.
//!
//! In: bytes of a line that is valid UTF-8. Out: tokens on demand, so that what nobody asked for is skipped without being
//! built. It checks brackets, strings, numbers and separators of everything it passes; it never recurses deeper than
//! [`DEPTH_MAX`].

/// Deepest nesting of objects and arrays.
pub(super) const DEPTH_MAX: usize = 128;

/// Where a line stops being JSON, and what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanError {
    pub(super) at: usize,
    pub(super) expected: &'static str,
}

/// The error, out of the way: results without one stay in registers.
pub(super) type Broken = Box<ScanError>;

pub(super) struct Scan<'l> {
    pub(super) line: &'l str,
    pub(super) bytes: &'l [u8],
    pub(super) at: usize,
}

/// Bytes of a string that are looked at in words before a search over more at once is set up: most strings end here.
const NEAR_BYTES: usize = 32;

/// Position of the first quote or backslash, and which it is, when it is near enough.
#[inline]
fn near_special(bytes: &[u8]) -> Option<(usize, u8)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    // The lowest high bit set tells the first byte that is zero; those above it may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words.iter().take(NEAR_BYTES / 8) {
        let word = u64::from_le_bytes(*word);
        let (quotes, backslashes) = (zeros(word ^ QUOTES), zeros(word ^ BACKSLASHES));
        let found = quotes | backslashes;
        if found != 0 {
            let first = found.trailing_zeros();
            let is_quote = quotes.trailing_zeros() == first;
            let byte = if is_quote { b'"' } else { b'\\' };
            return Some((at + first as usize / 8, byte));
        }
        at += 8;
    }
    None
}

/// A string's bytes between the quotes, and whether escapes are in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Str {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) escaped: bool,
}

impl Str {
    fn new(start: usize, end: usize, escaped: bool) -> Self {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: place(start),
            end: place(end),
            escaped,
        }
    }
}

impl<'l> Scan<'l> {
    /// A scanner over a line of at most 4 GiB.
    pub(super) fn new(line: &'l str) -> Self {
        Self {
            line,
            bytes: line.as_bytes(),
            at: 0,
        }
    }

    #[cold]
    pub(super) fn fail<T>(&self, expected: &'static str) -> Result<T, Broken> {
        Err(Box::new(ScanError {
            at: self.at,
            expected,
        }))
    }

    /// The next byte that is not white space, 0 at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        match self.bytes.get(self.at) {
            Some(byte) if *byte > b' ' => *byte,
            _ => self.peek_past_space(),
        }
    }

    fn peek_past_space(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(byte) => return *byte,
                None => return 0,
            }
        }
    }

    /// The text of a string as it is written.
    #[inline]
    pub(super) fn text(&self, string: Str) -> &'l str {
        let range = string.start as usize..string.end as usize;
        self.line.get(range).unwrap_or_default()
    }

    /// Passes a byte if it is the next one.
    #[inline]
    pub(super) fn pass(&mut self, byte: u8) -> bool {
        if self.peek() != byte {
            return false;
        }
        self.at += 1;
        true
    }

    /// A string, its opening quote being the next byte.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Str, Broken> {
        let start = self.at + 1;
        let rest = self.bytes.get(start..).unwrap_or_default();
        match near_special(rest) {
            Some((offset, b'"')) => {
                self.at = start + offset + 1;
                Ok(Str::new(start, start + offset, false))
            }
            _ => self.longer_string(start),
        }
    }

    /// One that is long, or has escapes, or no end.
    #[inline(never)]
    fn longer_string(&mut self, start: usize) -> Result<Str, Broken> {
        let mut at = start;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(offset) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.bytes.len();
                return self.fail("closing `\"`");
            };
            at += offset;
            if self.bytes.get(at) == Some(&b'"') {
                self.at = at + 1;
                return Ok(Str::new(start, at, escaped));
            }
            escaped = true;
            at += 2;
        }
    }

    /// The text of a number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'l str, Broken> {
        let start = self.at;
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        match text.last() {
            Some(last) if last.is_ascii_digit() => {
                std::str::from_utf8(text).or_else(|_| self.fail("a number"))
            }
            _ => self.fail("a value"),
        }
    }

    /// `true`, `false` or `null`.
    #[inline]
    pub(super) fn word(&mut self) -> Result<Option<bool>, Broken> {
        for (word, value) in [
            (&b"true"[..], Some(true)),
            (b"false", Some(false)),
            (b"null", None),
        ] {
            if self
                .bytes
                .get(self.at..)
                .is_some_and(|rest| rest.starts_with(word))
            {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.fail("a value")
    }

    /// Passes one value. Returns whether anything but null is in it.
    pub(super) fn skip(&mut self, depth: usize) -> Result<bool, Broken> {
        match self.peek() {
            b'"' => self.string().map(|_| true),
            b'{' => self.skip_object(depth),
            b'[' => self.skip_array(depth),
            b't' | b'f' | b'n' => Ok(self.word()?.is_some()),
            _ => self.number().map(|_| true),
        }
    }

    fn skip_object(&mut self, depth: usize) -> Result<bool, Broken> {
        self.enter(depth)?;
        let mut present = false;
        if self.pass(b'}') {
            return Ok(false);
        }
        loop {
            self.key()?;
            present |= self.skip(depth + 1)?;
            if !self.more(b'}', "`,` or `}`")? {
                return Ok(present);
            }
        }
    }

    fn skip_array(&mut self, depth: usize) -> Result<bool, Broken> {
        self.enter(depth)?;
        let mut present = false;
        if self.pass(b']') {
            return Ok(false);
        }
        loop {
            present |= self.skip(depth + 1)?;
            if !self.more(b']', "`,` or `]`")? {
                return Ok(present);
            }
        }
    }

    /// Passes an opening bracket.
    #[inline]
    pub(super) fn enter(&mut self, depth: usize) -> Result<(), Broken> {
        if depth >= DEPTH_MAX {
            return self.fail("at most 128 levels of nesting");
        }
        self.at += 1;
        Ok(())
    }

    /// A key and the colon after it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Str, Broken> {
        if self.peek() != b'"' {
            return self.fail("a key in double quotes");
        }
        let key = self.string()?;
        if !self.pass(b':') {
            return self.fail("`:`");
        }
        Ok(key)
    }

    /// After a member: whether another follows, or the closing bracket was passed.
    #[inline]
    pub(super) fn more(&mut self, close: u8, expected: &'static str) -> Result<bool, Broken> {
        let next = self.peek();
        if next == b',' {
            self.at += 1;
            Ok(true)
        } else if next == close {
            self.at += 1;
            Ok(false)
        } else {
            self.fail(expected)
        }
    }

    /// Appends a string's text, escapes resolved. A lone surrogate becomes U+FFFD.
    pub(super) fn unescape(&self, string: Str, out: &mut String) -> Result<(), Broken> {
        let (mut at, end) = (string.start as usize, string.end as usize);
        while at < end {
            let rest = self.line.get(at..end).unwrap_or_default();
            let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
            out.push_str(rest.get(..plain).unwrap_or_default());
            at += plain;
            if at >= end {
                break;
            }
            at = self.escape(at, end, out)?;
        }
        Ok(())
    }

    /// One escape at `at`; returns where it ends.
    fn escape(&self, at: usize, end: usize, out: &mut String) -> Result<usize, Broken> {
        let bad = || ScanError {
            at,
            expected: "an escape: one of `\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX`",
        };
        let c = match self.bytes.get(at + 1) {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(*c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex(at + 2, end).ok_or_else(|| Box::new(bad()))?;
                let paired = (0xD800..0xDC00).contains(&first)
                    && self.bytes.get(at + 6..at + 8) == Some(b"\\u");
                if let Some(second) = paired.then(|| self.hex(at + 8, end)).flatten()
                    && (0xDC00..0xE000).contains(&second)
                {
                    let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    return Ok(at + 12);
                }
                out.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Ok(at + 6);
            }
            _ => return Err(Box::new(bad())),
        };
        out.push(c);
        Ok(at + 2)
    }

    fn hex(&self, at: usize, end: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4).filter(|_| at + 4 <= end)?;
        digits.iter().try_fold(0, |value, byte| {
            char::from(*byte).to_digit(16).map(|d| value * 16 + d)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_found_wherever_they_stand() {
        // Bytes that differ from those looked for in one bit, or by one, beside any.
        let others = [
            0, 1, b' ', b'!', b'#', b'[', b']', b'\xa2', b'\xdc', b'\xff', 0x80,
        ];
        for len in 0..80 {
            for other in others {
                let mut bytes = vec![other; len];
                assert_eq!(near_special(&bytes), None);
                for at in (0..len).rev() {
                    for byte in [b'"', b'\\'] {
                        if let Some(place) = bytes.get_mut(at) {
                            *place = byte;
                        }
                        let near = at < NEAR_BYTES && at < len / 8 * 8;
                        let expected = near.then_some((at, byte));
                        assert_eq!(near_special(&bytes), expected, "{other} {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_string_ends_at_the_first_quote_that_is_not_escaped() {
        for before in 0..70 {
            for escape in ["", "\\\"", "\\\\", "\\\\\\\""] {
                for after in [0, 1, 7, 8, 40] {
                    let inner = format!("{}{escape}{}", "ä".repeat(before), "b".repeat(after));
                    let line = format!("\"{inner}\" , \"");
                    let mut scan = Scan::new(&line);
                    let string = scan.string().unwrap();
                    assert_eq!(scan.text(string), inner);
                    assert_eq!(string.escaped, !escape.is_empty());
                    assert_eq!(scan.at, inner.len() + 2);
                    let mut scan = Scan::new(line.get(..=inner.len()).unwrap());
                    assert_eq!(scan.string().unwrap_err().at, inner.len() + 1);
                }
            }
        }
    }
}
