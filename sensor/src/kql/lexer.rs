//! Text to tokens.
//!
//! In: a query's text. Out: tokens with their places, the last one being the end, and what can't be read. White space
//! separates words and is otherwise nothing. It never stops early: a broken piece is reported and passed over.

use std::iter::Peekable;
use std::str::CharIndices;

use super::error;
use crate::eql::query::Comparison;
use crate::eql::{Diagnostic, Kind, Span};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Text without quotes or white space.
    Word(Vec<Piece>),
    /// Text between quotes: no wildcards.
    Quoted(String),
    And,
    Or,
    Not,
    Open,
    Close,
    OpenBrace,
    CloseBrace,
    Colon,
    Compare(Comparison),
    End,
}

/// A stretch of a text without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// Any run of characters.
    Star,
}

/// Characters that mean something unless escaped.
const SPECIAL: &str = "\\():<>\"*{}";

pub(super) fn tokens(text: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    let mut lexer = Lexer {
        text,
        chars: text.char_indices().peekable(),
        diagnostics: Vec::new(),
    };
    let mut tokens = Vec::new();
    while let Some((start, c)) = lexer.chars.peek().copied() {
        if c.is_whitespace() {
            lexer.chars.next();
            continue;
        }
        let kind = lexer.token(start, c);
        let span = Span::new(start, lexer.offset());
        tokens.push(Token { kind, span });
    }
    let span = Span::new(text.len(), text.len());
    tokens.push(Token {
        kind: TokenKind::End,
        span,
    });
    (tokens, lexer.diagnostics)
}

struct Lexer<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
    diagnostics: Vec<Diagnostic>,
}

impl Lexer<'_> {
    /// Where the next character starts.
    fn offset(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn token(&mut self, start: usize, c: char) -> TokenKind {
        let simple = match c {
            '(' => TokenKind::Open,
            ')' => TokenKind::Close,
            '{' => TokenKind::OpenBrace,
            '}' => TokenKind::CloseBrace,
            ':' => TokenKind::Colon,
            '<' | '>' => {
                self.chars.next();
                let or_equal = self.chars.next_if(|(_, c)| *c == '=').is_some();
                return TokenKind::Compare(match (c, or_equal) {
                    ('<', false) => Comparison::Less,
                    ('<', true) => Comparison::LessEqual,
                    (_, false) => Comparison::Greater,
                    (_, true) => Comparison::GreaterEqual,
                });
            }
            '"' => {
                self.chars.next();
                return self.quoted(start);
            }
            _ => return self.word(start),
        };
        self.chars.next();
        simple
    }

    /// The rest of a quoted text. A backslash before any other character than those it escapes stands for itself.
    fn quoted(&mut self, start: usize) -> TokenKind {
        let mut value = String::new();
        loop {
            match self.chars.next() {
                Some((_, '"')) => return TokenKind::Quoted(value),
                Some((at, '\\')) => match self.chars.peek().map(|(_, c)| *c) {
                    Some(c @ ('\\' | '"')) => {
                        self.chars.next();
                        value.push(c);
                    }
                    Some(c) => match white_space(c) {
                        Some(meant) => {
                            self.chars.next();
                            value.push(meant);
                        }
                        None => value.push(self.unicode(at).unwrap_or('\\')),
                    },
                    None => value.push('\\'),
                },
                Some((_, c)) => value.push(c),
                None => {
                    let message = "this text has no end";
                    let help = "close it with `\"`";
                    let span = Span::new(start, start + 1);
                    self.diagnostics
                        .push(error(Kind::UnterminatedString, span, message, help));
                    return TokenKind::Quoted(value);
                }
            }
        }
    }

    /// `uXXXX` after the backslash at `at`; nothing is taken when it is none.
    fn unicode(&mut self, at: usize) -> Option<char> {
        let digits = self.text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let meant = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
        for _ in 0..5 {
            self.chars.next();
        }
        Some(meant)
    }

    fn word(&mut self, start: usize) -> TokenKind {
        let mut pieces = Vec::new();
        let mut value = String::new();
        while let Some((at, c)) = self.chars.peek().copied() {
            match c {
                '\\' => {
                    self.chars.next();
                    self.escape(at, &mut value);
                }
                '*' => {
                    self.chars.next();
                    if !value.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut value)));
                    }
                    // Several stars mean what one does.
                    if pieces.last() != Some(&Piece::Star) {
                        pieces.push(Piece::Star);
                    }
                }
                c if c.is_whitespace() || SPECIAL.contains(c) => break,
                c => {
                    self.chars.next();
                    value.push(c);
                }
            }
        }
        if !value.is_empty() {
            pieces.push(Piece::Text(value));
        }
        let end = self.offset();
        let raw = self.text.get(start..end).unwrap_or_default();
        let is = |word: &str| raw.eq_ignore_ascii_case(word);
        match () {
            () if is("and") => TokenKind::And,
            () if is("or") => TokenKind::Or,
            () if is("not") => TokenKind::Not,
            () => TokenKind::Word(pieces),
        }
    }

    /// What follows the backslash at `at`, outside quotes.
    fn escape(&mut self, at: usize, value: &mut String) {
        let next = self.chars.peek().map(|(_, c)| *c);
        if let Some(c) = next.filter(|c| SPECIAL.contains(*c)) {
            self.chars.next();
            value.push(c);
            return;
        }
        if let Some(meant) = self.unicode(at) {
            value.push(meant);
            return;
        }
        let rest = self.text.get(at + 1..).unwrap_or_default();
        let keyword = ["and", "or", "not"].into_iter().find(|word| {
            rest.get(..word.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(word))
        });
        if let Some(keyword) = keyword {
            for _ in 0..keyword.len() {
                value.extend(self.chars.next().map(|(_, c)| c));
            }
            return;
        }
        if let Some(meant) = next.and_then(white_space) {
            self.chars.next();
            value.push(meant);
            return;
        }
        let shown = next.filter(|c| !c.is_whitespace());
        let end = at + 1 + shown.map_or(0, char::len_utf8);
        let message = match shown {
            Some(c) => format!("`\\{c}` is no escape"),
            None => "the backslash escapes nothing".to_owned(),
        };
        let help = "outside quotes a backslash is written `\\\\`";
        self.diagnostics.push(error(
            Kind::InvalidEscape,
            Span::new(at, end),
            message,
            help,
        ));
    }
}

fn white_space(c: char) -> Option<char> {
    match c {
        't' => Some('\t'),
        'r' => Some('\r'),
        'n' => Some('\n'),
        _ => None,
    }
}
