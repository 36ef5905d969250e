//! Constant folding of the parts that have no functions: Kleene logic and the way from values back to literals.
//!
//! In: typed operands. Out: one typed expression, a literal when the outcome is certain.

use std::borrow::Cow;

use super::super::diagnostic::Span;
use super::super::query::{Expr, Literal};
use super::super::scalar::Scalar;
use super::{Type, Typed};

/// A computed value as a literal. Addresses, dates and versions never come out of literals.
pub(super) fn literal(value: Scalar<'_>) -> Literal {
    match value {
        Scalar::Null => Literal::Null,
        Scalar::Bool(b) => Literal::Bool(b),
        Scalar::Int(i) => Literal::Int(i),
        Scalar::Float(f) => Literal::Float(f),
        Scalar::Str(s) | Scalar::Version(s) => Literal::Str(s.into()),
        other @ (Scalar::Ip(_) | Scalar::Date(_)) => {
            Literal::Str(other.text().unwrap_or(Cow::Borrowed("")).into())
        }
    }
}

/// A three-valued outcome as a literal.
pub(super) fn truth(value: Option<bool>, span: Span) -> Typed {
    let literal = value.map_or(Literal::Null, Literal::Bool);
    let ty = if value.is_none() {
        Type::Null
    } else {
        Type::Bool
    };
    Typed::new(Expr::Literal(literal), ty, span)
}

pub(super) fn not(inner: Typed, span: Span) -> Typed {
    match inner.expr {
        Expr::Literal(Literal::Bool(b)) => truth(Some(!b), span),
        Expr::Literal(_) => Typed::new(Expr::Literal(Literal::Null), inner.ty, span),
        Expr::Not(twice) => Typed::new(*twice, Type::Bool, span),
        expr => Typed::new(Expr::Not(Box::new(expr)), Type::Bool, span),
    }
}

/// Three-valued `and` (`all`) or `or`.
pub(super) fn junction(parts: Vec<Typed>, span: Span, all: bool) -> Typed {
    let mut kept = Vec::with_capacity(parts.len());
    if parts.iter().any(Typed::is_error) {
        return Typed::error(span);
    }
    let mut saw_null = false;
    for part in parts {
        match part.expr {
            Expr::Literal(Literal::Bool(b)) if b != all => return truth(Some(!all), span),
            Expr::Literal(Literal::Bool(_)) => {}
            Expr::Literal(_) => saw_null = true,
            expr => kept.push(expr),
        }
    }
    if kept.is_empty() {
        return truth(if saw_null { None } else { Some(all) }, span);
    }
    if saw_null {
        kept.push(Expr::Literal(Literal::Null));
    }
    let expr = match (kept.len(), all) {
        (1, _) => kept.swap_remove(0),
        (_, true) => Expr::And(kept),
        (_, false) => Expr::Or(kept),
    };
    Typed::new(expr, Type::Bool, span)
}
