//! Syntax tree to typed query.
//!
//! In: the tree, a schema, and whether the end of the input will be known. Out: the query the engine compiles, and every
//! error, warning and note. Constants are folded, sugar is rewritten, names are resolved; it reports all problems it can
//! see and never stops at the first.
//!
//! Split by what is checked: `form` (sequences, keys, pipes), `condition` (the and/or/not skeleton), `expression` (leaves),
//! `compare`, `call` (functions), `fold` (constants).

mod call;
mod compare;
mod condition;
mod expression;
mod fold;
mod form;

use std::collections::HashMap;

use super::Mode;
use super::ast;
use super::diagnostic::{Diagnostic, Kind, Severity, Span};
use super::query::{self, FieldType};
use super::schema::Schema;

/// Checks a tree. The query is `None` exactly when one of the diagnostics is an error or the tree holds error nodes.
pub fn check(
    tree: &ast::Query,
    schema: &dyn Schema,
    mode: Mode,
) -> (Option<query::Query>, Vec<Diagnostic>) {
    let mut checker = Checker::new(schema, mode);
    let query = checker.query(tree);
    let failed = checker.broken
        || checker
            .diagnostics
            .iter()
            .any(|d| d.severity == Severity::Error);
    ((!failed).then_some(query), checker.diagnostics)
}

/// Checks one expression outside of any query and folds it as far as it goes; for the conformance suites.
pub fn check_expression(
    tree: &ast::Expr,
    schema: &dyn Schema,
) -> (Option<query::Expr>, Vec<Diagnostic>) {
    let mut checker = Checker::new(schema, Mode::Replay);
    let typed = checker.expression(tree);
    let failed = checker.broken
        || checker
            .diagnostics
            .iter()
            .any(|d| d.severity == Severity::Error);
    ((!failed).then_some(typed.expr), checker.diagnostics)
}

/// What is known about the values an expression can have, apart from null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Nothing: a field no schema describes, a variable, or an expression with an error.
    Any,
    /// Nothing but null.
    Null,
    Bool,
    Number,
    String,
    Ip,
    Date,
    Version,
}

impl Type {
    fn of_field(ty: FieldType) -> Type {
        match ty {
            FieldType::Any => Type::Any,
            FieldType::Keyword => Type::String,
            FieldType::Number => Type::Number,
            FieldType::Boolean => Type::Bool,
            FieldType::Ip => Type::Ip,
            FieldType::Date => Type::Date,
            FieldType::Version => Type::Version,
        }
    }

    /// With its article, for messages.
    fn name(self) -> &'static str {
        match self {
            Type::Any => "a value",
            Type::Null => "null",
            Type::Bool => "a boolean",
            Type::Number => "a number",
            Type::String => "a string",
            Type::Ip => "an address",
            Type::Date => "a date",
            Type::Version => "a version",
        }
    }

    /// Whether functions over text accept it.
    fn is_text(self) -> bool {
        matches!(
            self,
            Type::Any | Type::Null | Type::String | Type::Ip | Type::Date | Type::Version
        )
    }
}

/// A checked expression.
struct Typed {
    expr: query::Expr,
    ty: Type,
    span: Span,
}

impl Typed {
    fn new(expr: query::Expr, ty: Type, span: Span) -> Typed {
        Typed { expr, ty, span }
    }

    fn null(span: Span) -> Typed {
        Typed::new(query::Expr::Literal(query::Literal::Null), Type::Null, span)
    }

    /// Stands for an expression whose problem has been reported: any type, so that nothing else complains about it.
    fn error(span: Span) -> Typed {
        Typed::new(query::Expr::Literal(query::Literal::Null), Type::Any, span)
    }

    /// Whether it stands for an expression with a reported problem.
    fn is_error(&self) -> bool {
        self.ty == Type::Any && self.literal().is_some()
    }

    fn literal(&self) -> Option<&query::Literal> {
        match &self.expr {
            query::Expr::Literal(literal) => Some(literal),
            _ => None,
        }
    }
}

/// How field names read at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Fields of the event, and of steps named before the given one.
    Step(usize),
    /// Fields of the event alone: an event query, a sample, `until`, lineage.
    Event,
    /// A pipe behind a sequence with this many events per match: `events[i].path`.
    Match(usize),
}

struct Checker<'s> {
    schema: &'s dyn Schema,
    mode: Mode,
    diagnostics: Vec<Diagnostic>,
    scope: Scope,
    /// Step names and the steps they name.
    aliases: Vec<(Box<str>, usize)>,
    /// Names bound by the array functions around, outermost first.
    variables: Vec<Box<str>>,
    regexes: usize,
    regex_bytes: usize,
    listed_functions: bool,
    /// What the schema suggested for unknown paths: asking takes a look at every field there is.
    suggestions: HashMap<Box<str>, Option<String>>,
    /// An error node was met; its diagnostic comes from the parser.
    broken: bool,
}

impl<'s> Checker<'s> {
    fn new(schema: &'s dyn Schema, mode: Mode) -> Checker<'s> {
        Checker {
            schema,
            mode,
            diagnostics: Vec::new(),
            scope: Scope::Event,
            aliases: Vec::new(),
            variables: Vec::new(),
            regexes: 0,
            regex_bytes: 0,
            listed_functions: false,
            suggestions: HashMap::new(),
            broken: false,
        }
    }

    fn report(
        &mut self,
        severity: Severity,
        kind: Kind,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help: String = help.into();
        let help = (!help.is_empty()).then_some(help);
        self.diagnostics.push(Diagnostic {
            severity,
            kind,
            span,
            message: message.into(),
            help,
        });
    }

    /// Whether something is wrong already: what follows from it is not worth a warning.
    fn has_errors(&self) -> bool {
        self.broken
            || self
                .diagnostics
                .iter()
                .any(|d| d.severity == Severity::Error)
    }

    fn error(
        &mut self,
        kind: Kind,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Error, kind, span, message, help);
    }

    fn warning(
        &mut self,
        kind: Kind,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Warning, kind, span, message, help);
    }

    fn note(
        &mut self,
        kind: Kind,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Severity::Note, kind, span, message, help);
    }
}
