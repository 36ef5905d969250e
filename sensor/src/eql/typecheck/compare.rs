//! Comparisons, `in`, wildcard and regex predicates.
//!
//! In: their operands. Out: the typed predicate with the constant on the right, folded when both sides are constant. What
//! can never be true is warned about, what cannot be computed at all is an error.

use super::super::ast;
use super::super::cidr::Cidr;
use super::super::diagnostic::{Kind, Span};
use super::super::lexer::excerpt;
use super::super::limits;
use super::super::pattern;
use super::super::query::{Comparison, Expr, Literal};
use super::super::scalar::{self, Scalar};
use super::super::time;
use super::fold::truth;
use super::{Checker, Type, Typed};

impl Checker<'_> {
    pub(super) fn comparison(
        &mut self,
        op: Comparison,
        left: &ast::Expr,
        right: &ast::Expr,
        span: Span,
    ) -> Typed {
        let is_null = |e: &ast::Expr| matches!(e.kind, ast::ExprKind::Literal(Literal::Null));
        match (op, is_null(left), is_null(right)) {
            (Comparison::Equal, true, _) => return self.null_test(right, span),
            (Comparison::Equal, _, true) => return self.null_test(left, span),
            _ => {}
        }
        let (left, right) = (self.expression(left), self.expression(right));
        if left.is_error() || right.is_error() {
            return Typed::error(span);
        }
        self.check_object(&left);
        self.check_object(&right);
        // The constant goes to the right, so that everybody after us finds it there.
        let (op, left, right) = match (left.literal(), right.literal()) {
            (Some(_), None) => (flip(op), right, left),
            _ => (op, left, right),
        };
        if left.ty == Type::Null || right.ty == Type::Null {
            if op != Comparison::Equal {
                let help = "null has no order; `== null` and `!= null` test for it";
                self.warning(
                    Kind::NullOrdering,
                    span,
                    "comparing with null never holds",
                    help,
                );
            }
            return Typed::null(span);
        }
        if let (Some(a), Some(b)) = (left.literal(), right.literal()) {
            return truth(
                scalar::compare(op, &Scalar::from(a), &Scalar::from(b)),
                span,
            );
        }
        self.check_pair(op, &left, &right, span);
        let (left, right) = (Box::new(left.expr), Box::new(right.expr));
        Typed::new(Expr::Compare { op, left, right }, Type::Bool, span)
    }

    fn null_test(&mut self, tree: &ast::Expr, span: Span) -> Typed {
        let value = self.expression(tree);
        match value.literal() {
            // An expression with an error is no constant.
            Some(_) if value.is_error() => Typed::error(span),
            Some(literal) => truth(Some(matches!(literal, Literal::Null)), span),
            None => Typed::new(Expr::IsNull(Box::new(value.expr)), Type::Bool, span),
        }
    }

    /// Objects can be tested for null and nothing else.
    pub(super) fn check_object(&mut self, typed: &Typed) {
        let Expr::Field(field) = &typed.expr else {
            return;
        };
        if self.schema.field_type(&field.path).is_none() && self.schema.is_object(&field.path) {
            let message = format!("`{}` is an object, not a value", field.path);
            let help = "name a field below it; an object can only be compared with null";
            self.error(Kind::ObjectField, typed.span, message, help);
        }
    }

    /// Warns about a comparison that can never be true.
    fn check_pair(&mut self, op: Comparison, left: &Typed, right: &Typed, span: Span) {
        let equality = op == Comparison::Equal;
        if let (true, Some(Literal::Str(text))) = (equality, right.literal()) {
            self.note_wildcard(text, right.span);
        }
        let (a, b) = (left.ty, right.ty);
        let reason = match (a, b) {
            (Type::Any, _) | (_, Type::Any) => None,
            (Type::Bool, Type::Bool) if equality => None,
            (Type::Bool, Type::Bool) => Some("booleans have no order".to_owned()),
            (Type::Bool, _) | (_, Type::Bool) => {
                Some(format!("{} is never {}", a.name(), b.name()))
            }
            (Type::Ip, Type::Number) | (Type::Number, Type::Ip) => {
                Some("an address is never a number".to_owned())
            }
            _ => self.unfit_literal(equality, left, right),
        };
        if let Some(reason) = reason {
            self.warning(
                Kind::ImpossibleComparison,
                span,
                "this comparison never holds",
                reason,
            );
        }
    }

    /// Why a string literal cannot be what the other side holds.
    fn unfit_literal(&self, equality: bool, left: &Typed, right: &Typed) -> Option<String> {
        let Some(Literal::Str(text)) = right.literal() else {
            return None;
        };
        let unfit = match left.ty {
            Type::Number => scalar::decimal(text).is_none().then_some("a number"),
            Type::Date => time::parse_ns(text).is_none().then_some("a date"),
            Type::Ip if self.schema.is_closed() => {
                let parses = if equality {
                    Cidr::parse(text).is_some()
                } else {
                    text.parse::<std::net::IpAddr>().is_ok()
                };
                (!parses).then_some("an address")
            }
            _ => None,
        };
        unfit.map(|what| format!("`{}` is not {what}", excerpt(text)))
    }

    fn note_wildcard(&mut self, text: &str, span: Span) {
        if (text.contains('*') && text.len() > 1) || text.starts_with("?:\\") {
            let message = "wildcards are plain characters here";
            let help = "`like` (exact case) and `:` (any case) match patterns";
            self.note(Kind::WildcardLiteral, span, message, help);
        }
    }

    pub(super) fn membership(&mut self, tree: &ast::In, span: Span) -> Typed {
        let value = self.expression(&tree.value);
        self.check_object(&value);
        let mut list = Vec::with_capacity(tree.list.len());
        for item in &tree.list {
            let item = self.expression(item);
            if item.ty == Type::Null {
                let help = "write `.. == null`";
                self.warning(
                    Kind::ImpossibleComparison,
                    item.span,
                    "nothing equals null in a list",
                    help,
                );
            } else {
                self.check_pair(Comparison::Equal, &value, &item, item.span);
            }
            list.push(item);
        }
        if value.is_error() || list.iter().any(Typed::is_error) {
            return Typed::error(span);
        }
        if value.ty == Type::Null {
            return Typed::null(span);
        }
        if let Some(folded) = fold_membership(&value, &list, tree.fold) {
            return truth(folded, span);
        }
        let list = list.into_iter().map(|item| item.expr).collect();
        let value = Box::new(value.expr);
        Typed::new(
            Expr::In {
                value,
                list,
                fold: tree.fold,
            },
            Type::Bool,
            span,
        )
    }

    pub(super) fn matching(&mut self, tree: &ast::Match, span: Span) -> Typed {
        let value = self.expression(&tree.value);
        self.check_object(&value);
        let mut fits = true;
        if tree.regex {
            for pattern in &tree.patterns {
                fits &= self.check_regex(&pattern.text, pattern.span);
            }
        }
        let patterns: Vec<Box<str>> = tree.patterns.iter().map(|p| p.text.clone()).collect();
        if !fits || patterns.is_empty() {
            return Typed::error(span);
        }
        self.pattern_match(value, patterns, tree.regex, tree.fold, span)
    }

    /// The predicate on patterns that have been checked.
    pub(super) fn pattern_match(
        &mut self,
        value: Typed,
        patterns: Vec<Box<str>>,
        regex: bool,
        fold: bool,
        span: Span,
    ) -> Typed {
        if let Some(constant) = value.literal() {
            if value.is_error() {
                return Typed::error(span);
            }
            let text = Scalar::from(constant).text().map(|t| t.into_owned());
            let holds = text.map(|text| {
                patterns.iter().any(|p| {
                    if regex {
                        pattern::compile_regex(p, fold).is_ok_and(|re| re.is_match(&text))
                    } else {
                        pattern::like(p, &text, fold)
                    }
                })
            });
            return truth(holds, span);
        }
        let value = Box::new(value.expr);
        let expr = if regex {
            Expr::Regex {
                value,
                patterns,
                fold,
            }
        } else {
            Expr::Like {
                value,
                patterns,
                fold,
            }
        };
        Typed::new(expr, Type::Bool, span)
    }

    /// Whether a regular expression can be used; reports why not.
    pub(super) fn check_regex(&mut self, text: &str, span: Span) -> bool {
        if self.regexes > limits::REGEXES_MAX || self.regex_bytes > limits::REGEX_TOTAL_BYTES_MAX {
            return false;
        }
        self.regexes += 1;
        self.regex_bytes += text.len();
        if self.regexes > limits::REGEXES_MAX || self.regex_bytes > limits::REGEX_TOTAL_BYTES_MAX {
            let (count, bytes) = (limits::REGEXES_MAX, limits::REGEX_TOTAL_BYTES_MAX);
            let help = format!("at most {count} with {bytes} bytes in all are allowed");
            self.error(
                Kind::TooMany,
                span,
                "query has too many regular expressions",
                help,
            );
            return false;
        }
        if text.len() > limits::REGEX_BYTES_MAX {
            let message = format!("regular expression has {} bytes", text.len());
            let help = format!("at most {} are allowed", limits::REGEX_BYTES_MAX);
            self.error(Kind::InvalidRegex, span, message, help);
            return false;
        }
        match pattern::check_regex(text) {
            Ok(()) => true,
            Err(error) => {
                // Finding out that one is too large takes long; a query full of them ends soon.
                self.regexes += if error.too_large {
                    limits::REGEXES_MAX / 8
                } else {
                    0
                };
                let message = format!("invalid regular expression: {}", error.message);
                self.error(Kind::InvalidRegex, span, message, error.help);
                false
            }
        }
    }
}

fn flip(op: Comparison) -> Comparison {
    match op {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::LessEqual => Comparison::GreaterEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterEqual => Comparison::LessEqual,
    }
}

/// Outcome of `in` when it does not depend on any field: `None` if it does.
fn fold_membership(value: &Typed, list: &[Typed], fold: bool) -> Option<Option<bool>> {
    let value = Scalar::from(value.literal()?);
    let literals: Option<Vec<&Literal>> = list.iter().map(Typed::literal).collect();
    Some(scalar::within(
        &value,
        literals?.into_iter().map(Scalar::from),
        fold,
    ))
}
