//! Conditions: the two-valued skeleton of and/or/not over leaves.
//!
//! In: an expression where a condition is expected. Out: its skeleton with constants removed; leaves go through
//! `expression`. A part that cannot change the outcome is warned about.

use super::super::ast::{self, ExprKind};
use super::super::diagnostic::{Kind, Span};
use super::super::query::{Condition, Expr, Leaf, Lineage, Literal};
use super::{Checker, Scope, Type, Typed};

impl Checker<'_> {
    pub(super) fn condition(&mut self, tree: &ast::Expr) -> Condition {
        match &tree.kind {
            ExprKind::And(parts) => self.junction(parts, true),
            ExprKind::Or(parts) => self.junction(parts, false),
            ExprKind::Not(inner) => negate(self.condition(inner)),
            ExprKind::Lineage(lineage) => self.lineage(lineage, tree.span),
            _ => {
                let (typed, negated) = self.leaf(tree);
                let condition = self.as_condition(typed);
                if negated {
                    negate(condition)
                } else {
                    condition
                }
            }
        }
    }

    /// `and` (`all`) or `or` of several conditions.
    fn junction(&mut self, parts: &[ast::Expr], all: bool) -> Condition {
        let mut kept = Vec::with_capacity(parts.len());
        let mut decided = false;
        for part in parts {
            let condition = self.condition(part);
            match condition {
                Condition::Const(value) => {
                    self.warn_constant_part(part.span, value, all);
                    // `false` decides an `and`, `true` an `or`; the other value has no effect.
                    decided |= value != all;
                }
                Condition::And(inner) if all => kept.extend(inner),
                Condition::Or(inner) if !all => kept.extend(inner),
                other => kept.push(other),
            }
        }
        if decided {
            return Condition::Const(!all);
        }
        match kept.pop() {
            None => Condition::Const(all),
            Some(only) if kept.is_empty() => only,
            Some(last) => {
                kept.push(last);
                if all {
                    Condition::And(kept)
                } else {
                    Condition::Or(kept)
                }
            }
        }
    }

    fn warn_constant_part(&mut self, span: Span, value: bool, all: bool) {
        let message = format!("this part is always {value}");
        let help = match (value, all) {
            (true, true) | (false, false) => "it has no effect",
            (false, true) => "the whole `and` is false",
            (true, false) => "the whole `or` is true",
        };
        self.warning(Kind::ConstantCondition, span, message, help);
    }

    /// A typed leaf where a truth value is needed.
    fn as_condition(&mut self, typed: Typed) -> Condition {
        let typed = self.boolean(typed);
        let error = typed.is_error();
        match typed.expr {
            // Null does not hold, no more than false.
            Expr::Literal(literal) if !error => {
                Condition::Const(matches!(literal, Literal::Bool(true)))
            }
            expr => Condition::Leaf(Leaf {
                expr,
                span: typed.span,
            }),
        }
    }

    /// A value where a boolean is needed: a bare field means `field == true`.
    pub(super) fn boolean(&mut self, typed: Typed) -> Typed {
        match (&typed.expr, typed.ty) {
            (Expr::Field(_) | Expr::Variable(_), Type::Bool | Type::Any) => {
                let span = typed.span;
                Typed::new(fold_to_true(typed.expr), Type::Bool, span)
            }
            (_, Type::Bool | Type::Null | Type::Any) => typed,
            (expr, ty) => {
                let help = match expr {
                    Expr::Field(field) => format!("compare it, as in `{} != null`", field.path),
                    _ => "compare it with something".to_owned(),
                };
                self.error(
                    Kind::NotBoolean,
                    typed.span,
                    format!("a condition cannot be {}", ty.name()),
                    help,
                );
                Typed::error(typed.span)
            }
        }
    }

    fn lineage(&mut self, tree: &ast::Lineage, span: Span) -> Condition {
        let scope = std::mem::replace(&mut self.scope, Scope::Event);
        let filter = Box::new(self.filter(&tree.event));
        self.scope = scope;
        Condition::Lineage(Lineage {
            relation: tree.relation,
            filter,
            span,
        })
    }
}

fn negate(condition: Condition) -> Condition {
    match condition {
        Condition::Const(value) => Condition::Const(!value),
        Condition::Not(inner) => *inner,
        other => Condition::Not(Box::new(other)),
    }
}

/// `value == true`
fn fold_to_true(value: Expr) -> Expr {
    Expr::Compare {
        op: super::super::query::Comparison::Equal,
        left: Box::new(value),
        right: Box::new(Expr::Literal(Literal::Bool(true))),
    }
}
