//! Tokens to tree.
//!
//! In: the tokens of a query. Out: a tree of tests, and everything that does not fit the grammar. `not` binds tighter than
//! `and`, `and` than `or`; a list of values has the same shape as the query itself, with values where that has tests. After a
//! problem it goes on behind it, so that all are found.

use super::error;
use super::lexer::{Piece, Token, TokenKind};
use crate::eql::lexer::excerpt;
use crate::eql::limits;
use crate::eql::query::Comparison;
use crate::eql::{Diagnostic, Kind, Span};

#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Fields by the number tests know them by.
    pub(super) fields: Vec<Field>,
    pub(super) root: Node,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) path: String,
    pub(super) span: Span,
}

#[derive(Debug, Default)]
pub(super) enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    /// `field : value`
    Value {
        field: usize,
        literal: Literal,
    },
    /// `field > value`
    Range {
        field: usize,
        op: Comparison,
        literal: Literal,
    },
    /// Its problem has been reported.
    #[default]
    Broken,
}

#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) pieces: Vec<Piece>,
    pub(super) quoted: bool,
    pub(super) span: Span,
}

impl Literal {
    /// The text, when it holds no wildcard.
    pub(super) fn text(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

pub(super) fn parse(text: &str, tokens: &[Token], diagnostics: &mut Vec<Diagnostic>) -> Tree {
    let mut parser = Parser {
        text,
        tokens,
        at: 0,
        depth: 0,
        gave_up: false,
        fields: Vec::new(),
        diagnostics,
    };
    if tokens.len() <= 1 {
        let help = "write `field : value`";
        parser.error(
            Kind::UnexpectedToken,
            Span::new(0, 0),
            "the query is empty",
            help,
        );
        return Tree::default();
    }
    let root = parser.group(None, false);
    Tree {
        fields: parser.fields,
        root,
    }
}

struct Parser<'p> {
    text: &'p str,
    tokens: &'p [Token],
    at: usize,
    depth: u16,
    /// It was too deep: what follows is no news.
    gave_up: bool,
    fields: Vec<Field>,
    diagnostics: &'p mut Vec<Diagnostic>,
}

const END: Token = Token {
    kind: TokenKind::End,
    span: Span { start: 0, end: 0 },
};

impl<'p> Parser<'p> {
    fn token(&self) -> &'p Token {
        let last = self.tokens.last();
        self.tokens.get(self.at).or(last).unwrap_or(&END)
    }

    /// The end is never passed.
    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len().saturating_sub(1));
    }

    fn error(
        &mut self,
        kind: Kind,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(error(kind, span, message, help));
    }

    /// What the token at hand is, as messages say it.
    fn found(&self) -> String {
        let token = self.token();
        match token.kind {
            TokenKind::End => "the end".to_owned(),
            _ => format!("`{}`", excerpt(token.span.text(self.text))),
        }
    }

    /// Everything up to the closing bracket, which is taken, or up to the end. Inside the values of a `field` when there is
    /// one.
    fn group(&mut self, field: Option<usize>, bracket: bool) -> Node {
        let open = self.token().span;
        if bracket {
            self.advance();
        }
        let node = self.or(field);
        loop {
            let found = self.found();
            let token = self.token();
            match token.kind {
                TokenKind::Close if bracket => {
                    self.advance();
                    return node;
                }
                TokenKind::End => {
                    if bracket && !self.gave_up {
                        let help = "close it with `)`";
                        self.error(
                            Kind::UnclosedBracket,
                            open,
                            "this bracket is not closed",
                            help,
                        );
                    }
                    return node;
                }
                TokenKind::Word(_) | TokenKind::Quoted(_) | TokenKind::Open | TokenKind::Not => {
                    let help = "`and` or `or` is missing before it";
                    let message = format!("unexpected {found}");
                    self.error(Kind::UnexpectedToken, token.span, message, help);
                    self.or(field);
                }
                TokenKind::Colon | TokenKind::Compare(_) => {
                    let help = match field {
                        Some(_) => "the values of a field hold no tests of another",
                        None => "`and` or `or` is missing before the field it belongs to",
                    };
                    let message = format!("unexpected {found}");
                    self.error(Kind::UnexpectedToken, token.span, message, help);
                    self.advance();
                    self.values(usize::MAX);
                    if matches!(self.token().kind, TokenKind::And | TokenKind::Or) {
                        self.advance();
                        self.or(field);
                    }
                }
                _ => {
                    let message = format!("unexpected {found}");
                    self.error(Kind::UnexpectedToken, token.span, message, "");
                    self.advance();
                    if !matches!(self.token().kind, TokenKind::Close | TokenKind::End) {
                        self.or(field);
                    }
                }
            }
        }
    }

    fn or(&mut self, field: Option<usize>) -> Node {
        let mut parts = vec![self.and(field)];
        while self.token().kind == TokenKind::Or {
            self.advance();
            parts.push(self.and(field));
        }
        single(parts, Node::Or)
    }

    fn and(&mut self, field: Option<usize>) -> Node {
        let mut parts = vec![self.not(field)];
        while self.token().kind == TokenKind::And {
            self.advance();
            parts.push(self.not(field));
        }
        single(parts, Node::And)
    }

    fn not(&mut self, field: Option<usize>) -> Node {
        if self.token().kind != TokenKind::Not {
            return self.atom(field);
        }
        if !self.deeper() {
            return Node::Broken;
        }
        self.advance();
        let inner = self.not(field);
        self.depth -= 1;
        Node::Not(Box::new(inner))
    }

    /// Goes one level down; at the bottom says so once and gives up on the rest of the query.
    fn deeper(&mut self) -> bool {
        if self.depth < limits::DEPTH_MAX {
            self.depth += 1;
            return true;
        }
        let message = format!(
            "query is nested too deeply; at most {} levels are allowed",
            limits::DEPTH_MAX
        );
        let span = self.token().span;
        self.error(Kind::TooDeep, span, message, "");
        self.gave_up = true;
        self.at = self.tokens.len().saturating_sub(1);
        false
    }

    /// A bracket, a test, or inside the values of a field a value.
    fn atom(&mut self, field: Option<usize>) -> Node {
        match (&self.token().kind, field) {
            (TokenKind::Open, _) => {
                if !self.deeper() {
                    return Node::Broken;
                }
                let node = self.group(field, true);
                self.depth = self.depth.saturating_sub(1);
                node
            }
            (TokenKind::Word(_) | TokenKind::Quoted(_), Some(field)) => {
                let literal = self.literal();
                Node::Value { field, literal }
            }
            (TokenKind::Word(_) | TokenKind::Quoted(_), None) => self.test(),
            _ if self.gave_up => Node::Broken,
            _ => {
                let expected = match field {
                    Some(_) => "a value",
                    None => "a test, `field : value`,",
                };
                let message = format!("{} where {expected} should be", self.found());
                let span = self.token().span;
                self.error(Kind::UnexpectedToken, span, message, "");
                Node::Broken
            }
        }
    }

    fn test(&mut self) -> Node {
        let name = self.literal();
        match self.token().kind {
            TokenKind::Colon => {
                self.advance();
                if self.token().kind == TokenKind::OpenBrace {
                    self.nested();
                    return Node::Broken;
                }
                let Some(field) = self.field(&name) else {
                    self.values(usize::MAX);
                    return Node::Broken;
                };
                self.values(field)
            }
            TokenKind::Compare(op) => {
                self.advance();
                let field = self.field(&name);
                if !matches!(self.token().kind, TokenKind::Word(_) | TokenKind::Quoted(_)) {
                    let message = format!("{} where a value should be", self.found());
                    let span = self.token().span;
                    self.error(Kind::UnexpectedToken, span, message, "");
                    if self.token().kind == TokenKind::Open {
                        self.values(usize::MAX);
                    }
                    return Node::Broken;
                }
                let literal = self.literal();
                match field {
                    Some(field) => Node::Range { field, op, literal },
                    None => Node::Broken,
                }
            }
            _ => {
                let shown = excerpt(name.span.text(self.text));
                let message = format!("`{shown}` names no field");
                let help = "write `field : value`; there is no search over all fields here";
                self.error(Kind::BareValue, name.span, message, help);
                Node::Broken
            }
        }
    }

    /// What follows `field :`.
    fn values(&mut self, field: usize) -> Node {
        let token = self.token();
        if token.kind == TokenKind::Not {
            let help = "put `not` before the field, or the values in brackets";
            let message = "`not` where a value should be";
            self.error(Kind::UnexpectedToken, token.span, message, help);
            self.advance();
        }
        self.atom(Some(field))
    }

    /// Notes a field and gives its number.
    fn field(&mut self, name: &Literal) -> Option<usize> {
        let Some(path) = name.text() else {
            let message = format!(
                "`{}` stands for several fields",
                excerpt(name.span.text(self.text))
            );
            let help = "name one field; wildcards are for values";
            self.error(Kind::FieldPattern, name.span, message, help);
            return None;
        };
        self.fields.push(Field {
            path: path.to_owned(),
            span: name.span,
        });
        Some(self.fields.len() - 1)
    }

    /// Passes over `{ … }`.
    fn nested(&mut self) {
        let start = self.token().span;
        let mut open = 0u32;
        let mut end = start;
        loop {
            let token = self.token();
            match token.kind {
                TokenKind::OpenBrace => open += 1,
                TokenKind::CloseBrace => open = open.saturating_sub(1),
                TokenKind::End => break,
                _ => {}
            }
            end = token.span;
            self.advance();
            if open == 0 {
                break;
            }
        }
        let message = "nested fields can not be asked for";
        let help = "events of this sensor hold no nested objects; name the fields with dots";
        self.error(Kind::NestedField, start.to(end), message, help);
    }

    /// A quoted text, or all words up to the next operator, with the white space between them.
    fn literal(&mut self) -> Literal {
        let first = self.token();
        let mut literal = Literal {
            pieces: Vec::new(),
            quoted: false,
            span: first.span,
        };
        if let TokenKind::Quoted(text) = &first.kind {
            self.advance();
            literal.quoted = true;
            literal.pieces.push(Piece::Text(text.clone()));
            return literal;
        }
        while let Token {
            kind: TokenKind::Word(pieces),
            span,
        } = self.token()
        {
            let between = self
                .text
                .get(literal.span.end as usize..span.start as usize)
                .unwrap_or_default();
            if !literal.pieces.is_empty() {
                push_text(&mut literal.pieces, between);
            }
            for piece in pieces {
                match piece {
                    Piece::Text(text) => push_text(&mut literal.pieces, text),
                    Piece::Star => literal.pieces.push(Piece::Star),
                }
            }
            literal.span = literal.span.to(*span);
            self.advance();
        }
        literal
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn single(mut parts: Vec<Node>, several: fn(Vec<Node>) -> Node) -> Node {
    match parts.len() {
        1 => parts.pop().unwrap_or_default(),
        _ => several(parts),
    }
}
