//! Expressions inside a leaf, and the names in them.
//!
//! In: expression nodes. Out: typed expressions, constants folded. `and`/`or`/`not` met here are operands of something else
//! and three-valued; those of the skeleton never get here.

use super::super::ast::{self, ExprKind, Path};
use super::super::diagnostic::{Kind, Span};
use super::super::functions;
use super::super::limits;
use super::super::query::{Arithmetic, Expr, Field, FieldType, Literal, Variable};
use super::super::scalar::Scalar;
use super::fold::{self, literal};
use super::{Checker, Scope, Type, Typed};

impl Checker<'_> {
    /// A leaf with its outer negation split off: `a != b` is the leaf `a == b`, negated.
    pub(super) fn leaf(&mut self, tree: &ast::Expr) -> (Typed, bool) {
        match &tree.kind {
            ExprKind::Compare {
                op,
                negated,
                left,
                right,
            } => (self.comparison(*op, left, right, tree.span), *negated),
            ExprKind::In(inner) => (self.membership(inner, tree.span), inner.negated),
            ExprKind::Match(inner) => (self.matching(inner, tree.span), inner.negated),
            _ => (self.expression(tree), false),
        }
    }

    pub(super) fn expression(&mut self, tree: &ast::Expr) -> Typed {
        let span = tree.span;
        match &tree.kind {
            ExprKind::Literal(value) => {
                Typed::new(Expr::Literal(value.clone()), literal_type(value), span)
            }
            ExprKind::Path(path) => self.path(path),
            ExprKind::Negate(inner) => {
                let inner = self.expression(inner);
                self.negation(inner, span)
            }
            ExprKind::Plus(inner) => {
                let inner = self.expression(inner);
                if !self.numeric(&inner, "+") {
                    return Typed::error(span);
                }
                Typed { span, ..inner }
            }
            ExprKind::Arithmetic { op, left, right } => {
                let (left, right) = (self.expression(left), self.expression(right));
                self.arithmetic(*op, left, right, span)
            }
            ExprKind::Not(inner) => {
                let inner = self.operand(inner);
                fold::not(inner, span)
            }
            ExprKind::And(parts) => self.kleene(parts, span, true),
            ExprKind::Or(parts) => self.kleene(parts, span, false),
            ExprKind::Compare { .. } | ExprKind::In(_) | ExprKind::Match(_) => {
                let (typed, negated) = self.leaf(tree);
                if negated {
                    fold::not(typed, span)
                } else {
                    typed
                }
            }
            ExprKind::Call(call) => self.call(call, span),
            ExprKind::Lineage(_) => {
                let help = "combine it with `and`, `or` and `not` only";
                self.error(
                    Kind::OperandType,
                    span,
                    "lineage cannot be an operand",
                    help,
                );
                Typed::error(span)
            }
            ExprKind::Error => {
                self.broken = true;
                Typed::error(span)
            }
        }
    }

    /// An operand of three-valued logic.
    pub(super) fn operand(&mut self, tree: &ast::Expr) -> Typed {
        let typed = self.expression(tree);
        self.boolean(typed)
    }

    fn kleene(&mut self, parts: &[ast::Expr], span: Span, all: bool) -> Typed {
        let parts: Vec<Typed> = parts.iter().map(|part| self.operand(part)).collect();
        fold::junction(parts, span, all)
    }

    fn negation(&mut self, inner: Typed, span: Span) -> Typed {
        if !self.numeric(&inner, "-") {
            return Typed::error(span);
        }
        match inner.literal() {
            Some(value) => {
                let value = literal(functions::negate(&Scalar::from(value)));
                Typed::new(Expr::Literal(value), Type::Number, span)
            }
            None => Typed::new(Expr::Negate(Box::new(inner.expr)), Type::Number, span),
        }
    }

    /// Whether an operand of arithmetic can be a number; reports when not. A field that cannot is a warning, see
    /// `check_argument`.
    fn numeric(&mut self, typed: &Typed, op: &str) -> bool {
        if typed.is_error() {
            return false;
        }
        if matches!(typed.ty, Type::Any | Type::Null | Type::Number) {
            return true;
        }
        let message = format!("`{op}` needs numbers, found {}", typed.ty.name());
        match &typed.expr {
            Expr::Field(_) => {
                let help = "the result is always null; `number(..)` reads a number from a string";
                self.warning(Kind::OperandType, typed.span, message, help);
                return true;
            }
            Expr::Like { .. } | Expr::Regex { .. } | Expr::In { .. } => {
                let help = "a predicate belongs to the value directly before it; put the sum in parentheses";
                self.error(Kind::OperandType, typed.span, message, help);
            }
            _ => self.error(Kind::OperandType, typed.span, message, ""),
        }
        false
    }

    pub(super) fn arithmetic(
        &mut self,
        op: Arithmetic,
        left: Typed,
        right: Typed,
        span: Span,
    ) -> Typed {
        let sign = match op {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Modulo => "%",
        };
        let sound = self.numeric(&left, sign);
        if !(self.numeric(&right, sign) && sound) {
            return Typed::error(span);
        }
        match (left.literal(), right.literal()) {
            (Some(Literal::Null), _) | (_, Some(Literal::Null)) => Typed::null(span),
            (Some(a), Some(b)) => {
                let value = literal(functions::arithmetic(
                    op,
                    &Scalar::from(a),
                    &Scalar::from(b),
                ));
                let ty = literal_type(&value);
                Typed::new(Expr::Literal(value), ty, span)
            }
            _ => {
                let (left, right) = (Box::new(left.expr), Box::new(right.expr));
                Typed::new(Expr::Arithmetic { op, left, right }, Type::Number, span)
            }
        }
    }

    /// A name: a variable, a field of an earlier step, or a field of the event.
    fn path(&mut self, path: &Path) -> Typed {
        if let Some(variable) = self.variable(path) {
            return Typed::new(Expr::Variable(variable), Type::Any, path.span);
        }
        if path.dollar {
            let message = format!("unknown variable `${}`", path.root());
            let help = "variables are bound by the second argument of arraySearch and arrayCount";
            self.error(Kind::VariableScope, path.span, message, help);
            return Typed::error(path.span);
        }
        match self.field(path) {
            Some(field) => {
                let ty = if path.indexed && field.ty == FieldType::Any {
                    Type::Any
                } else {
                    Type::of_field(field.ty)
                };
                Typed::new(Expr::Field(field), ty, path.span)
            }
            None => Typed::error(path.span),
        }
    }

    pub(super) fn variable(&self, path: &Path) -> Option<Variable> {
        let position = self
            .variables
            .iter()
            .rposition(|name| **name == *path.root())?;
        let level = u16::try_from(self.variables.len() - 1 - position).unwrap_or(u16::MAX);
        Some(Variable {
            level,
            path: path.below_root().into(),
        })
    }

    /// Resolves a field; `None` after an error.
    pub(super) fn field(&mut self, path: &Path) -> Option<Field> {
        if let Scope::Match(events) = self.scope {
            return self.match_field(path, events);
        }
        if let Some((_, step)) = self.aliases.iter().find(|(name, _)| **name == *path.root()) {
            let step = *step;
            return self.alias_field(path, step);
        }
        let ty = self.field_type(&path.text, path.span)?;
        Some(Field {
            path: path.text.clone(),
            ty,
            step: None,
        })
    }

    fn alias_field(&mut self, path: &Path, step: usize) -> Option<Field> {
        let root = path.root();
        match self.scope {
            Scope::Step(current) if step < current => {}
            Scope::Step(_) => {
                let message = format!("`{root}` names a step that is not matched yet here");
                let help = "only later steps may refer to it";
                self.error(Kind::AliasTooEarly, path.span, message, help);
                return None;
            }
            Scope::Event | Scope::Match(_) => {
                let message = format!("step `{root}` cannot be referred to here");
                let help =
                    "only the conditions of later steps can; join keys, `until` and lineage cannot";
                self.error(Kind::AliasTooEarly, path.span, message, help);
                return None;
            }
        }
        let below = path.below_root();
        if below.is_empty() {
            let message = format!("`{root}` names a step, not a value");
            self.error(
                Kind::ObjectField,
                path.span,
                message,
                format!("write `{root}.field`"),
            );
            return None;
        }
        let ty = self.field_type(below, path.span)?;
        Some(Field {
            path: below.into(),
            ty,
            step: Some(step),
        })
    }

    /// `events[i].path` behind a sequence; a bare path means the first event.
    fn match_field(&mut self, path: &Path, events: usize) -> Option<Field> {
        let indexed = (path.indexed && path.root() == "events")
            .then(|| path.text.strip_prefix("events["))
            .flatten()
            .and_then(|rest| rest.split_once(']'));
        let Some((index, below)) = indexed else {
            let ty = self.field_type(&path.text, path.span)?;
            return Some(Field {
                path: path.text.clone(),
                ty,
                step: Some(0),
            });
        };
        let step = index.parse::<usize>().ok().filter(|i| *i < events);
        let Some(step) = step else {
            let message = format!("a match has no event {index}");
            let help = format!(
                "its events are events[0] to events[{}]",
                events.saturating_sub(1)
            );
            self.error(Kind::InvalidIndex, path.span, message, help);
            return None;
        };
        let Some(below) = below.strip_prefix('.') else {
            let message = format!("`events[{index}]` is an event, not a value");
            self.error(
                Kind::ObjectField,
                path.span,
                message,
                format!("write `events[{index}].field`"),
            );
            return None;
        };
        let ty = self.field_type(below, path.span)?;
        Some(Field {
            path: below.into(),
            ty,
            step: Some(step),
        })
    }

    fn suggestion(&mut self, path: &str) -> Option<String> {
        if let Some(known) = self.suggestions.get(path) {
            return known.clone();
        }
        if self.suggestions.len() >= limits::SUGGESTIONS_MAX {
            return None;
        }
        let found = self.schema.suggest(path);
        self.suggestions.insert(path.into(), found.clone());
        found
    }

    /// Declared type of a field, after reporting one that cannot exist or is probably misspelt.
    fn field_type(&mut self, path: &str, span: Span) -> Option<FieldType> {
        let plain = without_positions(path);
        if let Some(ty) = self.schema.field_type(&plain) {
            return Some(ty);
        }
        if self.schema.is_object(&plain) {
            return Some(FieldType::Any);
        }
        let suggestion = self.suggestion(&plain);
        let help = suggestion
            .as_ref()
            .map(|near| format!("did you mean `{near}`?"))
            .unwrap_or_default();
        let message = format!("unknown field `{plain}`");
        if self.schema.is_closed() {
            self.error(Kind::UnknownField, span, message, help);
            return None;
        }
        if suggestion.is_some() {
            self.warning(Kind::UnknownField, span, message, help);
        }
        Some(FieldType::Any)
    }
}

/// A path without its `[n]`.
pub(super) fn without_positions(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        match after.split_once(']') {
            Some((digits, tail)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                out.push_str(before);
                rest = tail;
            }
            _ => break,
        }
    }
    out.push_str(rest);
    out
}

pub(super) fn literal_type(value: &Literal) -> Type {
    match value {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) | Literal::Float(_) => Type::Number,
        Literal::Str(_) => Type::String,
    }
}
