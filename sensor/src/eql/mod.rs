//! EQL: text to typed query. A language and nothing more: no events, files or clocks; field types arrive as a schema.
//!
//! In: a query's text and a [`Schema`]. Out: a typed [`query::Query`] for the engine, or every problem found, as
//! [`Diagnostic`]s. The order of work is `lexer`, `parser`, `typecheck`; `scalar`, `functions`, `pattern` and `cidr` say what
//! values mean, to constant folding here and to the engine alike.

pub mod ast;
pub mod cidr;
pub mod diagnostic;
pub mod functions;
mod kind;
pub mod lexer;
pub mod limits;
pub mod parser;
pub mod pattern;
pub mod query;
mod regex_fold;
pub mod scalar;
pub mod schema;
pub mod time;
pub mod typecheck;

pub use diagnostic::{Diagnostic, Kind, Origin, Severity, Span};
pub use schema::{OpenSchema, Schema};

/// Whether the end of the input will ever be known: it decides which pipes can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An endless stream.
    Live,
    /// A file that ends.
    Replay,
}

/// A query that can run, and what is odd about it.
#[derive(Clone, Debug)]
pub struct Checked {
    pub query: query::Query,
    /// Warnings and notes, in the order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// Parses and checks a query.
///
/// # Errors
/// Everything wrong with it in the order of the text, warnings included; at least one is an error. At most
/// `limits::DIAGNOSTICS_MAX` are kept, and one more then counts the rest.
pub fn compile(text: &str, schema: &dyn Schema, mode: Mode) -> Result<Checked, Vec<Diagnostic>> {
    let (tree, mut diagnostics) = parser::parse(text);
    let query = tree.and_then(|tree| {
        let (query, found) = typecheck::check(&tree, schema, mode);
        diagnostics.extend(found);
        query
    });
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    let diagnostics = arrange(diagnostics);
    match query {
        Some(query) if !failed => Ok(Checked {
            query,
            warnings: diagnostics,
        }),
        _ => Err(diagnostics),
    }
}

/// Sorts by position and bounds the number, errors before the rest.
pub(crate) fn arrange(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let total = diagnostics.len();
    if total > limits::DIAGNOSTICS_MAX {
        diagnostics.sort_by_key(|d| (d.severity, d.span.start));
        diagnostics.truncate(limits::DIAGNOSTICS_MAX);
    }
    diagnostics.sort_by_key(|d| (d.span.start, d.span.end));
    diagnostics.dedup();
    if total > limits::DIAGNOSTICS_MAX {
        let span = diagnostics.last().map_or(Span::default(), |d| d.span);
        diagnostics.push(Diagnostic {
            severity: Severity::Note,
            kind: Kind::MoreProblems,
            span,
            message: format!(
                "{} more problems are not shown",
                total - limits::DIAGNOSTICS_MAX
            ),
            help: None,
        });
    }
    diagnostics
}
