//! Text to tokens.
//!
//! In: the query text. Out: tokens with spans, ending in [`Kind::End`], and a diagnostic for everything that is no token. A
//! problem never stops it: strings end with their line, odd characters are skipped. It copies no text; [`unescape`] does
//! when the parser asks for a value.

use std::borrow::Cow;

use super::diagnostic::{self, Diagnostic, Severity, Span};

/// What a token is. Values stay in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Ident,
    /// `name~`, directly before an opening parenthesis.
    IdentFold,
    /// `` `name` ``
    Quoted,
    Str,
    RawStr,
    Int,
    Float,
    And,
    Any,
    By,
    False,
    In,
    InFold,
    Join,
    Like,
    LikeFold,
    Maxspan,
    Not,
    Null,
    Of,
    Or,
    Regex,
    RegexFold,
    Sample,
    Sequence,
    True,
    Until,
    Where,
    With,
    LeftParen,
    RightParen,
    LeftBracket,
    /// `![`
    MissingBracket,
    RightBracket,
    Comma,
    Dot,
    Pipe,
    Colon,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// A single `=`.
    Assign,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Question,
    Dollar,
    End,
}

impl Kind {
    fn keyword(word: &str) -> Option<Kind> {
        Some(match word {
            "and" => Kind::And,
            "any" => Kind::Any,
            "by" => Kind::By,
            "false" => Kind::False,
            "in" => Kind::In,
            "join" => Kind::Join,
            "like" => Kind::Like,
            "maxspan" => Kind::Maxspan,
            "not" => Kind::Not,
            "null" => Kind::Null,
            "of" => Kind::Of,
            "or" => Kind::Or,
            "regex" => Kind::Regex,
            "sample" => Kind::Sample,
            "sequence" => Kind::Sequence,
            "true" => Kind::True,
            "until" => Kind::Until,
            "where" => Kind::Where,
            "with" => Kind::With,
            _ => return None,
        })
    }

    /// Whether it is a reserved word, which can name nothing unless it is quoted.
    pub fn is_keyword(self) -> bool {
        (Kind::And as u8..=Kind::With as u8).contains(&(self as u8))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub span: Span,
}

/// Tokens of a text, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Lexed {
    pub tokens: Vec<Token>,
    pub diagnostics: Vec<Diagnostic>,
    /// A string, comment or quoted name has no end, so whatever follows it is not what it seems.
    pub unterminated: bool,
}

/// Splits a text into tokens.
pub fn lex(text: &str) -> Lexed {
    let mut lexer = Lexer {
        text,
        bytes: text.as_bytes(),
        at: 0,
        out: Lexed::default(),
    };
    lexer.out.tokens.reserve(text.len() / 6 + 1);
    while lexer.token() {}
    let end = Span::new(text.len(), text.len());
    lexer.out.tokens.push(Token {
        kind: Kind::End,
        span: end,
    });
    lexer.out
}

struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    out: Lexed,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    /// Reads one token or skips one piece of blank; false at the end.
    fn token(&mut self) -> bool {
        let Some(byte) = self.peek(0) else {
            return false;
        };
        let next = self.peek(1);
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
            b'/' if next == Some(b'/') => self.line_comment(),
            b'/' if next == Some(b'*') => self.block_comment(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'@' => self.word(),
            b'0'..=b'9' => self.number(),
            b'.' if next.is_some_and(|b| b.is_ascii_digit()) => self.number(),
            b'"' if self
                .bytes
                .get(self.at..)
                .is_some_and(|b| b.starts_with(b"\"\"\"")) =>
            {
                self.raw_string()
            }
            b'"' => self.string(),
            b'\'' => self.legacy_string(0),
            b'?' if matches!(next, Some(b'"' | b'\'')) => self.legacy_string(1),
            b'`' => self.quoted(),
            _ => self.punctuation(byte, next),
        }
        true
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.out.tokens.push(Token {
            kind,
            span: Span::new(start, self.at),
        });
    }

    fn report(
        &mut self,
        kind: diagnostic::Kind,
        span: Span,
        message: impl Into<String>,
        help: &str,
    ) {
        let severity = if kind == diagnostic::Kind::QuoteEscape {
            Severity::Warning
        } else {
            Severity::Error
        };
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.out.diagnostics.push(Diagnostic {
            severity,
            kind,
            span,
            message: message.into(),
            help,
        });
    }

    fn line_end(&self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        memchr::memchr2(b'\n', b'\r', rest).map_or(self.bytes.len(), |i| self.at + i)
    }

    fn line_comment(&mut self) {
        self.at = self.line_end();
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let start = self.at;
        let mut depth = 0_usize;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.out.unterminated = true;
        let span = Span::new(start, start + 2);
        let help = "close it with `*/`; comments nest, so every `/*` inside needs its own";
        self.report(
            diagnostic::Kind::UnterminatedComment,
            span,
            "comment has no end",
            help,
        );
    }

    fn word(&mut self) {
        let start = self.at;
        self.at += 1;
        while self
            .peek(0)
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            self.at += 1;
        }
        let word = self.text.get(start..self.at).unwrap_or_default();
        let tilde = self.peek(0) == Some(b'~');
        let kind = match (Kind::keyword(word), tilde) {
            (Some(Kind::In), true) => Kind::InFold,
            (Some(Kind::Like), true) => Kind::LikeFold,
            (Some(Kind::Regex), true) => Kind::RegexFold,
            (Some(kind), _) => return self.push(kind, start),
            (None, true) => Kind::IdentFold,
            (None, false) => return self.push(Kind::Ident, start),
        };
        self.at += 1;
        self.push(kind, start);
    }

    fn digits(&mut self) {
        while self.peek(0).is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn number(&mut self) {
        let start = self.at;
        let mut kind = Kind::Int;
        self.digits();
        if self.peek(0) == Some(b'.') {
            kind = Kind::Float;
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if self.peek(1 + sign).is_some_and(|b| b.is_ascii_digit()) {
                kind = Kind::Float;
                self.at += 1 + sign;
                self.digits();
            }
        }
        self.push(kind, start);
    }

    fn string(&mut self) {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek(0) {
                None | Some(b'\n' | b'\r') => break self.unterminated_string(start),
                Some(b'"') => {
                    self.at += 1;
                    break;
                }
                Some(b'\\') => self.escape(),
                Some(_) => self.at += 1,
            }
        }
        self.push(Kind::Str, start);
    }

    fn unterminated_string(&mut self, start: usize) {
        self.out.unterminated = true;
        let help =
            "close it with `\"` on the same line; a raw string `\"\"\"..\"\"\"` may span lines";
        self.report(
            diagnostic::Kind::UnterminatedString,
            Span::new(start, self.at),
            "string has no end",
            help,
        );
    }

    /// Checks one escape sequence and steps over it.
    fn escape(&mut self) {
        let start = self.at;
        self.at += 1;
        match self.peek(0) {
            Some(b'\\' | b'"' | b'n' | b'r' | b't' | b'b' | b'f') => self.at += 1,
            Some(b'\'') => {
                self.at += 1;
                let span = Span::new(start, self.at);
                self.report(
                    diagnostic::Kind::QuoteEscape,
                    span,
                    "`\\'` is not an escape of this language; it is read as `'`",
                    "write `'`",
                );
            }
            Some(b'u') if self.peek(1) == Some(b'{') => {
                let body = self.at + 2;
                let rest = self.bytes.get(body..).unwrap_or_default();
                let digits = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
                let closed = rest.get(digits) == Some(&b'}');
                self.at = body + digits + usize::from(closed);
                let code = self.text.get(body..body + digits).and_then(code_point);
                if !closed || !(2..=8).contains(&digits) || code.is_none() {
                    self.invalid_escape(
                        start,
                        "needs 2 to 8 hexadecimal digits of a character, as in `\\u{20ac}`",
                    );
                }
            }
            None | Some(b'\n' | b'\r') => {}
            Some(_) => {
                self.at += self
                    .text
                    .get(self.at..)
                    .and_then(|t| t.chars().next())
                    .map_or(1, char::len_utf8);
                let help = "allowed are `\\\\ \\\" \\n \\r \\t \\b \\f \\u{..}`; a raw string `\"\"\"..\"\"\"` needs no escapes";
                self.invalid_escape(start, help);
            }
        }
    }

    fn invalid_escape(&mut self, start: usize, help: &str) {
        let span = Span::new(start, self.at);
        let message = format!("invalid escape `{}`", excerpt(span.text(self.text)));
        self.report(diagnostic::Kind::InvalidEscape, span, message, help);
    }

    fn raw_string(&mut self) {
        let start = self.at;
        let body = start + 3;
        let rest = self.bytes.get(body..).unwrap_or_default();
        match memchr::memmem::find(rest, b"\"\"\"") {
            Some(length) => {
                self.at = body + length + 3;
                // One or two more quotes belong to the content.
                while self.at < body + length + 5 && self.peek(0) == Some(b'"') {
                    self.at += 1;
                }
            }
            None => {
                self.at = self.bytes.len();
                self.out.unterminated = true;
                let span = Span::new(start, body);
                let help = "close it with `\"\"\"`";
                self.report(
                    diagnostic::Kind::UnterminatedString,
                    span,
                    "raw string has no end",
                    help,
                );
            }
        }
        self.push(Kind::RawStr, start);
    }

    /// `'..'`, `?"..."` and `?'..'`: refused, but read as strings so that the rest still makes sense.
    fn legacy_string(&mut self, mark: usize) {
        let start = self.at;
        let quote = self.peek(mark).unwrap_or(b'\'');
        self.at += mark + 1;
        while let Some(byte) = self.peek(0).filter(|b| !matches!(b, b'\n' | b'\r')) {
            self.at += 1;
            if byte == quote {
                break;
            }
            // An escaped quote does not end it.
            if byte == b'\\' && self.peek(0) == Some(quote) {
                self.at += 1;
            }
        }
        let span = Span::new(start, self.at);
        let message = format!(
            "string `{}` is of an older dialect",
            excerpt(span.text(self.text))
        );
        let help = if mark == 0 {
            "strings are written in double quotes"
        } else {
            "raw strings are written `\"\"\"..\"\"\"`"
        };
        self.report(diagnostic::Kind::LegacyString, span, message, help);
        self.push(Kind::Str, start);
    }

    /// `` `..` ``; a doubled backquote stands for one.
    fn quoted(&mut self) {
        let start = self.at;
        self.at += 1;
        while self.peek(0).is_some_and(|b| !matches!(b, b'\n' | b'\r')) {
            if self.peek(0) != Some(b'`') {
                self.at += 1;
            } else if self.peek(1) == Some(b'`') {
                self.at += 2;
            } else {
                self.at += 1;
                let span = Span::new(start, self.at);
                if span.end - span.start == 2 {
                    self.report(diagnostic::Kind::EmptyIdentifier, span, "empty name", "");
                }
                return self.push(Kind::Quoted, start);
            }
        }
        self.out.unterminated = true;
        let span = Span::new(start, self.at);
        self.report(
            diagnostic::Kind::UnterminatedIdentifier,
            span,
            "quoted name has no end",
            "close it with a backquote",
        );
        self.push(Kind::Quoted, start);
    }

    fn punctuation(&mut self, byte: u8, next: Option<u8>) {
        let (kind, length) = match (byte, next) {
            (b'!', Some(b'[')) => (Kind::MissingBracket, 2),
            (b'!', Some(b'=')) => (Kind::NotEqual, 2),
            (b'=', Some(b'=')) => (Kind::Equal, 2),
            (b'<', Some(b'=')) => (Kind::LessEqual, 2),
            (b'>', Some(b'=')) => (Kind::GreaterEqual, 2),
            (b'=', _) => (Kind::Assign, 1),
            (b'<', _) => (Kind::Less, 1),
            (b'>', _) => (Kind::Greater, 1),
            (b'(', _) => (Kind::LeftParen, 1),
            (b')', _) => (Kind::RightParen, 1),
            (b'[', _) => (Kind::LeftBracket, 1),
            (b']', _) => (Kind::RightBracket, 1),
            (b',', _) => (Kind::Comma, 1),
            (b'.', _) => (Kind::Dot, 1),
            (b'|', Some(b'|')) => return self.odd(2, "`or` is the operator"),
            (b'&', Some(b'&')) => return self.odd(2, "`and` is the operator"),
            (b'|', _) => (Kind::Pipe, 1),
            (b':', _) => (Kind::Colon, 1),
            (b'+', _) => (Kind::Plus, 1),
            (b'-', _) => (Kind::Minus, 1),
            (b'*', _) => (Kind::Star, 1),
            (b'/', _) => (Kind::Slash, 1),
            (b'%', _) => (Kind::Percent, 1),
            (b'?', _) => (Kind::Question, 1),
            (b'$', _) => (Kind::Dollar, 1),
            (b'!', _) => return self.odd(1, "negation is written `not`"),
            (b'~', _) => {
                return self.odd(
                    1,
                    "`~` stands directly after `in`, `like`, `regex` or a function's name",
                );
            }
            _ => return self.odd_run(),
        };
        let start = self.at;
        self.at += length;
        self.push(kind, start);
    }

    fn odd(&mut self, length: usize, help: &str) {
        let span = Span::new(self.at, self.at + length);
        self.at += length;
        let message = format!("unexpected `{}`", span.text(self.text));
        self.report(diagnostic::Kind::UnexpectedCharacter, span, message, help);
        // The parser takes `&&` and `||` for what they mean, so that it finds other problems and not this one again.
        let kind = match span.text(self.text) {
            "&&" => Kind::And,
            "||" => Kind::Or,
            "!" => Kind::Not,
            _ => return,
        };
        self.out.tokens.push(Token { kind, span });
    }

    /// Characters that begin no token, reported together.
    fn odd_run(&mut self) {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        let is_odd = |c: &char| {
            !c.is_ascii()
                || c.is_ascii_control() && !c.is_ascii_whitespace()
                || "#\\^;{}&\x0b\x0c".contains(*c)
        };
        let length: usize = rest.chars().take_while(is_odd).map(char::len_utf8).sum();
        self.at += length.max(1);
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
        let span = Span::new(start, self.at);
        let found = span.text(self.text);
        let help = match found.chars().next() {
            Some('“' | '”' | '‘' | '’' | '„') => {
                "strings are written in straight double quotes `\"`"
            }
            Some('–' | '—' | '−') => "the minus sign is `-`",
            Some('\u{a0}' | '\u{200b}' | '\u{feff}') => {
                "only space, tab and line ends may separate words"
            }
            Some('#') => "comments start with `//`",
            Some('{' | '}') => "steps and groups are written in `[..]` and `(..)`",
            Some(c) if c.is_alphanumeric() => {
                "a name with such characters is written in backquotes"
            }
            _ => "",
        };
        let message = format!("unexpected `{}`", excerpt(found).escape_debug());
        self.report(diagnostic::Kind::UnexpectedCharacter, span, message, help);
    }
}

/// At most 40 characters of a text, for a message.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(40) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
    }
}

fn code_point(hex: &str) -> Option<char> {
    u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)
}

/// Value of a string token's text. Invalid escapes, already reported, stand for themselves.
pub fn string_value(kind: Kind, token: &str) -> Cow<'_, str> {
    if kind == Kind::RawStr {
        let body = token.strip_prefix("\"\"\"").unwrap_or(token);
        return Cow::Borrowed(body.strip_suffix("\"\"\"").unwrap_or(body));
    }
    let body = token.strip_prefix('?').unwrap_or(token);
    let body = body.get(1..).unwrap_or_default();
    unescape(body.strip_suffix(['"', '\'']).unwrap_or(body))
}

fn unescape(body: &str) -> Cow<'_, str> {
    if !body.contains('\\') {
        return Cow::Borrowed(body);
    }
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = after.chars();
        let plain = match chars.next() {
            Some(c @ ('\\' | '"' | '\'')) => Some(c),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('u') => {
                let code = after.strip_prefix("u{").and_then(|r| r.split_once('}'));
                if let Some((c, tail)) = code.and_then(|(hex, tail)| Some((code_point(hex)?, tail)))
                {
                    out.push(c);
                    rest = tail;
                    continue;
                }
                None
            }
            _ => None,
        };
        match plain {
            Some(c) => {
                out.push(c);
                rest = chars.as_str();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Name inside a backquoted token.
pub fn quoted_value(token: &str) -> Cow<'_, str> {
    let body = token.get(1..).unwrap_or_default();
    let body = body.strip_suffix('`').unwrap_or(body);
    if body.contains("``") {
        Cow::Owned(body.replace("``", "`"))
    } else {
        Cow::Borrowed(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[Kind]) {
        let lexed = lex(text);
        let kinds: Vec<Kind> = lexed.tokens.iter().map(|t| t.kind).collect();
        assert_eq!(kinds, [expected, &[Kind::End]].concat(), "{text}");
        assert!(
            lexed.diagnostics.is_empty(),
            "{text}: {:?}",
            lexed.diagnostics
        );
    }

    fn value(text: &str, expected: &str) {
        let lexed = lex(text);
        let token = lexed.tokens[0];
        assert_eq!(token.span.text(text), text);
        assert_eq!(string_value(token.kind, text), expected);
        assert!(
            lexed.diagnostics.is_empty(),
            "{text}: {:?}",
            lexed.diagnostics
        );
    }

    #[test]
    fn tokens() {
        check(
            "like~ like regex~ x~(",
            &[
                Kind::LikeFold,
                Kind::Like,
                Kind::RegexFold,
                Kind::IdentFold,
                Kind::LeftParen,
            ],
        );
        check("@timestamp Any any", &[Kind::Ident, Kind::Ident, Kind::Any]);
        check(
            "1 1. .5 1.5e3 1e9 1e 5s",
            &[
                Kind::Int,
                Kind::Float,
                Kind::Float,
                Kind::Float,
                Kind::Float,
                Kind::Int,
                Kind::Ident,
                Kind::Int,
                Kind::Ident,
            ],
        );
        check(
            "![ != [",
            &[Kind::MissingBracket, Kind::NotEqual, Kind::LeftBracket],
        );
    }

    #[test]
    fn comments_nest() {
        check("/* a /* b */ c */ x // y \n z", &[Kind::Ident, Kind::Ident]);
    }

    #[test]
    fn string_values() {
        value(r#""a\\b\"\n\u{e4}\u{000020ac}""#, "a\\b\"\nä€");
        value(r#""""a\b""""#, r"a\b");
        value(r#""""a"""""#, r#"a""#);
        value(r#""""a""""""#, r#"a"""#);
        value("\"\"\"a\nb\"\"\"", "a\nb");
        value("\"\"", "");
        value("\"\"\"\"\"\"", "");
    }

    #[test]
    fn quoted_names() {
        assert_eq!(quoted_value("`a``b`"), "a`b");
        check("`a``b` `c d`", &[Kind::Quoted, Kind::Quoted]);
    }
}
