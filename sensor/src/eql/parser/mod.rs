//! Tokens to syntax tree.
//!
//! In: the query text. Out: the tree and every syntax problem found; after a problem it resumes at the next `and`, `or`,
//! bracket, step or pipe. It stops only where a limit is passed. Expressions are in `expression`, query forms in `form`.

mod expression;
mod form;

use super::ast::Query;
use super::diagnostic::{Diagnostic, Kind, Severity, Span};
use super::lexer::{self, Kind as Tok, Token};
use super::limits;

/// Parses a query. The tree is `None` when the text has no recognisable form; it may hold error nodes otherwise.
pub fn parse(text: &str) -> (Option<Query>, Vec<Diagnostic>) {
    if text.len() > limits::QUERY_BYTES_MAX {
        return (None, vec![too_long(text)]);
    }
    let lexed = lexer::lex(text);
    let mut parser = Parser::new(text, lexed);
    let query = parser.query();
    // What was read before a limit was passed is not worth judging.
    (query.filter(|_| !parser.gave_up), parser.diagnostics)
}

/// Parses a single expression, as the conformance suites hold them.
pub fn parse_expression(text: &str) -> (super::ast::Expr, Vec<Diagnostic>) {
    let mut parser = Parser::new(text, lexer::lex(text));
    let expr = parser.expression_until(&[Tok::End]);
    (expr, parser.diagnostics)
}

fn too_long(text: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        kind: Kind::QueryTooLong,
        span: Span::default(),
        message: format!("query has {} bytes", text.len()),
        help: Some(format!("at most {} are allowed", limits::QUERY_BYTES_MAX)),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
    diagnostics: Vec<Diagnostic>,
    depth: u16,
    /// Syntax problems are no longer reported: a string has no end, or a limit was passed.
    quiet: bool,
    gave_up: bool,
    /// Where the lexer skipped characters.
    odd: Vec<u32>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, lexed: lexer::Lexed) -> Parser<'t> {
        let odd = lexed
            .diagnostics
            .iter()
            .filter(|d| d.kind == Kind::UnexpectedCharacter);
        let odd = odd.map(|d| d.span.start).collect();
        Parser {
            odd,
            text,
            tokens: lexed.tokens,
            at: 0,
            diagnostics: lexed.diagnostics,
            depth: 0,
            quiet: lexed.unterminated,
            gave_up: false,
        }
    }

    fn ahead(&self, n: usize) -> Token {
        let last = self.tokens.len().saturating_sub(1);
        let end = Token {
            kind: Tok::End,
            span: Span::new(self.text.len(), self.text.len()),
        };
        self.tokens
            .get((self.at + n).min(last))
            .copied()
            .unwrap_or(end)
    }

    fn peek(&self) -> Token {
        self.ahead(0)
    }

    fn kind(&self) -> Tok {
        self.peek().kind
    }

    fn bump(&mut self) -> Token {
        let token = self.peek();
        if token.kind != Tok::End {
            self.at += 1;
        }
        token
    }

    fn eat(&mut self, kind: Tok) -> Option<Token> {
        (self.kind() == kind).then(|| self.bump())
    }

    fn slice(&self, span: Span) -> &'t str {
        span.text(self.text)
    }

    /// Span of the last token taken.
    fn last_span(&self) -> Span {
        self.at
            .checked_sub(1)
            .and_then(|i| self.tokens.get(i))
            .map_or(Span::default(), |t| t.span)
    }

    fn report(
        &mut self,
        severity: Severity,
        kind: Kind,
        span: Span,
        message: String,
        help: Option<&str>,
    ) {
        let syntax = matches!(
            kind,
            Kind::UnexpectedToken
                | Kind::UnclosedBracket
                | Kind::ReservedWord
                | Kind::EmptyList
                | Kind::ChainedComparison
        );
        if syntax && (self.quiet || self.follows_a_problem(span)) {
            return;
        }
        let help = help.map(str::to_owned);
        self.diagnostics.push(Diagnostic {
            severity,
            kind,
            span,
            message,
            help,
        });
    }

    /// Whether a syntax problem at this place is most likely the echo of another: of one at the same place, or of
    /// characters skipped right before it.
    fn follows_a_problem(&self, span: Span) -> bool {
        let here = self
            .diagnostics
            .last()
            .is_some_and(|d| d.span.start == span.start && d.severity == Severity::Error);
        let first = self.odd.partition_point(|at| *at < self.last_span().end);
        here || self.odd.get(first).is_some_and(|at| *at < span.start)
    }

    fn error(&mut self, kind: Kind, span: Span, message: impl Into<String>, help: &str) {
        let help = (!help.is_empty()).then_some(help);
        self.report(Severity::Error, kind, span, message.into(), help);
    }

    fn warning(&mut self, kind: Kind, span: Span, message: impl Into<String>, help: &str) {
        let help = (!help.is_empty()).then_some(help);
        self.report(Severity::Warning, kind, span, message.into(), help);
    }

    /// Reports that something else was expected at the current token.
    fn expected(&mut self, what: &str) {
        let token = self.peek();
        if token.kind.is_keyword() && what.contains("name") {
            let word = self.slice(token.span);
            let message = format!("expected {what}, found the reserved word `{word}`");
            return self.error(
                Kind::ReservedWord,
                token.span,
                message,
                &format!("write it as `` `{word}` ``"),
            );
        }
        let message = format!("expected {what}, found {}", self.describe(token));
        self.error(Kind::UnexpectedToken, token.span, message, "");
    }

    fn describe(&self, token: Token) -> String {
        match token.kind {
            Tok::End => "the end of the query".to_owned(),
            _ => format!("`{}`", lexer::excerpt(self.slice(token.span))),
        }
    }

    /// Stops the parse after a limit was passed: nothing that follows is looked at.
    fn give_up(&mut self) {
        self.at = self.tokens.len().saturating_sub(1);
        self.quiet = true;
        self.gave_up = true;
    }

    /// Reports a passed limit and stops.
    fn limit(&mut self, span: Span, found: impl Into<String>, allowed: &str) {
        if !self.gave_up {
            self.error(Kind::TooMany, span, found, allowed);
        }
        self.give_up();
    }

    /// Skips to the first of `stops` outside of any bracket opened on the way.
    fn skip_to(&mut self, stops: &[Tok]) {
        let mut open = 0_usize;
        loop {
            let kind = self.kind();
            if kind == Tok::End || open == 0 && stops.contains(&kind) {
                return;
            }
            match kind {
                Tok::LeftParen | Tok::LeftBracket | Tok::MissingBracket => open += 1,
                Tok::RightParen | Tok::RightBracket if open == 0 => return,
                Tok::RightParen | Tok::RightBracket => open -= 1,
                _ => {}
            }
            self.bump();
        }
    }
}
