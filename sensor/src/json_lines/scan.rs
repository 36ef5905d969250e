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

pub(super) struct Scan<'l> {
    pub(super) bytes: &'l [u8],
    pub(super) at: usize,
}

/// A string's bytes between the quotes, and whether escapes are in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Str {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

impl<'l> Scan<'l> {
    pub(super) fn new(bytes: &'l [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn fail<T>(&self, expected: &'static str) -> Result<T, ScanError> {
        Err(ScanError {
            at: self.at,
            expected,
        })
    }

    /// The next byte that is not white space, 0 at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(byte) => return *byte,
                None => return 0,
            }
        }
    }

    /// Passes a byte if it is the next one.
    #[inline]
    pub(super) fn pass(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    /// A string, its opening quote being the next byte.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Str, ScanError> {
        let start = self.at + 1;
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
                return Ok(Str {
                    start,
                    end: at,
                    escaped,
                });
            }
            escaped = true;
            at += 2;
        }
    }

    /// The text of a number.
    #[inline]
    pub(super) fn number(&mut self) -> Result<&'l str, ScanError> {
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
    pub(super) fn word(&mut self) -> Result<Option<bool>, ScanError> {
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
    pub(super) fn skip(&mut self, depth: usize) -> Result<bool, ScanError> {
        match self.peek() {
            b'"' => self.string().map(|_| true),
            b'{' => self.skip_object(depth),
            b'[' => self.skip_array(depth),
            b't' | b'f' | b'n' => Ok(self.word()?.is_some()),
            _ => self.number().map(|_| true),
        }
    }

    fn skip_object(&mut self, depth: usize) -> Result<bool, ScanError> {
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

    fn skip_array(&mut self, depth: usize) -> Result<bool, ScanError> {
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
    pub(super) fn enter(&mut self, depth: usize) -> Result<(), ScanError> {
        if depth >= DEPTH_MAX {
            return self.fail("at most 128 levels of nesting");
        }
        self.at += 1;
        Ok(())
    }

    /// A key and the colon after it.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Str, ScanError> {
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
    pub(super) fn more(&mut self, close: u8, expected: &'static str) -> Result<bool, ScanError> {
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
    pub(super) fn unescape(&self, string: Str, out: &mut String) -> Result<(), ScanError> {
        let mut at = string.start;
        while at < string.end {
            let rest = self.bytes.get(at..string.end).unwrap_or_default();
            let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
            let piece = rest.get(..plain).unwrap_or_default();
            out.push_str(std::str::from_utf8(piece).unwrap_or_default());
            at += plain;
            if at >= string.end {
                break;
            }
            at = self.escape(at, string.end, out)?;
        }
        Ok(())
    }

    /// One escape at `at`; returns where it ends.
    fn escape(&self, at: usize, end: usize, out: &mut String) -> Result<usize, ScanError> {
        let bad = ScanError {
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
                let first = self.hex(at + 2, end).ok_or(bad)?;
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
            _ => return Err(bad),
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
