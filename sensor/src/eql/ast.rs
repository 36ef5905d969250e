//! The syntax tree: a query as it was written, every part with its span.
//!
//! In: nothing; these are types, built by `parser`. Out: what the type checker reads. It is never deeper than
//! `limits::DEPTH_MAX`, so walking and dropping it may recurse.

use std::time::Duration;

use super::diagnostic::Span;
pub use super::query::{Arithmetic, Comparison, Literal, Relation};

#[derive(Clone, Debug)]
pub struct Query {
    pub form: Form,
    pub pipes: Vec<Pipe>,
}

#[derive(Clone, Debug)]
pub enum Form {
    Event(Event),
    Sequence(Sequence),
    Sample(Sample),
}

/// `category where condition`
#[derive(Clone, Debug)]
pub struct Event {
    /// `None` for `any`.
    pub category: Option<Box<str>>,
    pub condition: Expr,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Sequence {
    pub by: Vec<Key>,
    pub maxspan: Option<Duration>,
    pub terms: Vec<Term>,
    pub until: Option<Term>,
    /// The word `sequence`.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub by: Vec<Key>,
    pub terms: Vec<Term>,
    /// The word `sample`.
    pub span: Span,
}

/// One bracket with what follows it.
#[derive(Clone, Debug)]
pub struct Term {
    pub event: Event,
    pub missing: bool,
    pub by: Vec<Key>,
    pub runs: Option<Runs>,
    pub alias: Option<Alias>,
    /// From the opening to the closing bracket.
    pub span: Span,
}

#[derive(Clone, Copy, Debug)]
pub struct Runs {
    pub count: u32,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Alias {
    pub name: Box<str>,
    pub span: Span,
}

/// A join key.
pub type Key = Path;

/// A field path.
#[derive(Clone, Debug)]
pub struct Path {
    /// Identifiers joined by dots, array positions as `[n]`.
    pub text: Box<str>,
    /// End of the first identifier in `text`.
    pub root_len: usize,
    /// Whether `[n]` occurs.
    pub indexed: bool,
    /// `?path`
    pub optional: bool,
    /// `$path`, the variable of an array function.
    pub dollar: bool,
    pub span: Span,
}

impl Path {
    /// The first identifier.
    pub fn root(&self) -> &str {
        self.text.get(..self.root_len).unwrap_or(&self.text)
    }

    /// What follows the first identifier, without the dot.
    pub fn below_root(&self) -> &str {
        let rest = self.text.get(self.root_len..).unwrap_or_default();
        rest.strip_prefix('.').unwrap_or(rest)
    }
}

#[derive(Clone, Debug)]
pub struct Pipe {
    pub name: Box<str>,
    pub name_span: Span,
    pub args: Vec<Expr>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Expr {
    pub kind: ExprKind,
    pub span: Span,
    /// Levels below and including this one.
    pub height: u16,
}

#[derive(Clone, Debug)]
pub enum ExprKind {
    Literal(Literal),
    Path(Path),
    /// Unary minus.
    Negate(Box<Expr>),
    /// Unary plus.
    Plus(Box<Expr>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Arithmetic {
        op: Arithmetic,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `negated` is `!=` with `op` equal.
    Compare {
        op: Comparison,
        negated: bool,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Match(Box<Match>),
    In(Box<In>),
    Call(Box<Call>),
    Lineage(Box<Lineage>),
    /// A syntax error, already reported.
    Error,
}

/// `:`, `like`, `like~`, `regex`, `regex~`
#[derive(Clone, Debug)]
pub struct Match {
    pub value: Expr,
    pub patterns: Vec<Pattern>,
    pub regex: bool,
    pub fold: bool,
    /// `x not like ..`, reported but understood.
    pub negated: bool,
}

#[derive(Clone, Debug)]
pub struct Pattern {
    pub text: Box<str>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct In {
    pub value: Expr,
    pub list: Vec<Expr>,
    pub fold: bool,
    pub negated: bool,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// As written, without the tilde.
    pub name: Box<str>,
    pub name_span: Span,
    pub fold: bool,
    pub args: Vec<Expr>,
}

#[derive(Clone, Debug)]
pub struct Lineage {
    pub relation: Relation,
    pub event: Event,
}
