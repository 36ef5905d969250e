//! KQL, the filter language that rules of the types `query`, `threshold` and `new_terms` are written in: text to typed query.
//!
//! In: a query's text and a schema. Out: the same typed query that EQL gives, one filter over any category, or every problem
//! found. Values are exact and their case counts, a test over an array holds when it does for some element, and a missing
//! field makes a test false and its negation true. What only a search over an index can do is refused by its name.

mod lexer;
mod lower;
mod parser;

use crate::eql::{self, Checked, Diagnostic, Kind, Severity, Span, limits, schema::Schema};

/// Parses and checks a query.
///
/// # Errors
/// Everything wrong with it in the order of the text, warnings included; at least one is an error. The number is bounded as
/// for EQL.
pub fn compile(text: &str, schema: &dyn Schema) -> Result<Checked, Vec<Diagnostic>> {
    if text.len() > limits::QUERY_BYTES_MAX {
        let message = format!(
            "query has {} bytes; at most {} are allowed",
            text.len(),
            limits::QUERY_BYTES_MAX
        );
        return Err(vec![error(
            Kind::QueryTooLong,
            Span::new(0, 0),
            message,
            "",
        )]);
    }
    let (tokens, mut diagnostics) = lexer::tokens(text);
    let tree = parser::parse(text, &tokens, &mut diagnostics);
    let query = lower::query(&tree, Span::new(0, text.len()), schema, &mut diagnostics);
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    let diagnostics = eql::arrange(diagnostics);
    if failed {
        Err(diagnostics)
    } else {
        Ok(Checked {
            query,
            warnings: diagnostics,
        })
    }
}

fn error(
    kind: Kind,
    span: Span,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Diagnostic {
    report(Severity::Error, kind, span, message, help)
}

fn report(
    severity: Severity,
    kind: Kind,
    span: Span,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Diagnostic {
    let help: String = help.into();
    Diagnostic {
        severity,
        kind,
        span,
        message: message.into(),
        help: (!help.is_empty()).then_some(help),
    }
}
