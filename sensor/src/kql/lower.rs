//! Tree to typed query.
//!
//! In: the tree of a query and a schema. Out: one filter in the terms of EQL: equality, `in`, wildcard patterns and null tests,
//! so that the engine shares them with all other rules. Fields get their declared types; values that can't be what a field
//! holds are warned about. It never stops at the first problem.

use std::collections::HashMap;

use super::error;
use super::lexer::Piece;
use super::parser::{Field, Literal, Node, Tree};
use super::report;
use crate::eql::cidr::Cidr;
use crate::eql::limits;
use crate::eql::pattern;
use crate::eql::query::{
    self, Category, Comparison, Condition, Expr, FieldType, Filter, Form, Leaf, Query,
};
use crate::eql::scalar::{self, Number};
use crate::eql::schema::Schema;
use crate::eql::{Diagnostic, Kind, Severity, Span, time};

/// Ends the name of a field whose values are compared without regard to case.
const CASELESS: &str = ".caseless";
/// The field that `process where` and its like compare.
const CATEGORY: &str = "event.category";

pub(super) fn query(
    tree: &Tree,
    span: Span,
    schema: &dyn Schema,
    diagnostics: &mut Vec<Diagnostic>,
) -> Query {
    let mut lower = Lower {
        schema,
        fields: &tree.fields,
        known: HashMap::new(),
        regexes: 0,
        diagnostics,
    };
    let condition = lower.condition(&tree.root);
    let (category, condition) = with_category(condition);
    Query {
        form: Form::Event(Filter {
            category,
            condition,
            span,
        }),
        pipes: Vec::new(),
    }
}

/// Takes a test of the category out of what must hold: as in EQL it comes first.
fn with_category(condition: Condition) -> (Category, Condition) {
    match condition {
        Condition::And(mut parts) => {
            let found = parts
                .iter()
                .enumerate()
                .find_map(|(at, part)| Some((at, category_of(part)?)));
            match found {
                Some((at, name)) => {
                    parts.remove(at);
                    (Category::Named(name), Condition::And(parts))
                }
                None => (Category::Any, Condition::And(parts)),
            }
        }
        one => match category_of(&one) {
            Some(name) => (Category::Named(name), Condition::Const(true)),
            None => (Category::Any, one),
        },
    }
}

fn category_of(condition: &Condition) -> Option<Box<str>> {
    let Condition::Leaf(Leaf {
        expr:
            Expr::Compare {
                op: Comparison::Equal,
                left,
                right,
            },
        ..
    }) = condition
    else {
        return None;
    };
    match (&**left, &**right) {
        (Expr::Field(field), Expr::Literal(query::Literal::Str(name)))
            if &*field.path == CATEGORY =>
        {
            Some(name.clone())
        }
        _ => None,
    }
}

/// A field as the engine reads it.
#[derive(Clone, Debug)]
struct Known {
    path: Box<str>,
    ty: FieldType,
    /// Compared without regard to case.
    fold: bool,
    /// It has fields below it and no value of its own.
    object: bool,
}

impl Known {
    fn expr(&self) -> Box<Expr> {
        Box::new(Expr::Field(query::Field {
            path: self.path.clone(),
            ty: self.ty,
            step: None,
        }))
    }
}

struct Lower<'l> {
    schema: &'l dyn Schema,
    fields: &'l [Field],
    known: HashMap<&'l str, Option<Known>>,
    regexes: usize,
    diagnostics: &'l mut Vec<Diagnostic>,
}

impl<'l> Lower<'l> {
    fn condition(&mut self, node: &Node) -> Condition {
        match node {
            // Anything will do: the query is refused.
            Node::Broken => Condition::Const(false),
            Node::Not(inner) => Condition::Not(Box::new(self.condition(inner))),
            Node::And(parts) => Condition::And(parts.iter().map(|p| self.condition(p)).collect()),
            Node::Or(parts) => self.any(parts),
            Node::Value { field, literal } => self.values(*field, &[literal]),
            Node::Range { field, op, literal } => self.range(*field, *op, literal),
        }
    }

    /// Alternatives; values of one field become one test.
    fn any(&mut self, parts: &[Node]) -> Condition {
        let mut groups: Vec<(usize, Vec<&Literal>)> = Vec::new();
        let mut others = Vec::new();
        for part in parts {
            let Node::Value { field, literal } = part else {
                others.push(self.condition(part));
                continue;
            };
            let path = self.path(*field);
            match groups.iter_mut().find(|(of, _)| self.path(*of) == path) {
                Some((_, literals)) => literals.push(literal),
                None => groups.push((*field, vec![literal])),
            }
        }
        let mut all: Vec<Condition> = Vec::with_capacity(groups.len() + others.len());
        for (field, literals) in groups {
            match self.values(field, &literals) {
                Condition::Or(several) => all.extend(several),
                one => all.push(one),
            }
        }
        all.extend(others);
        single(all)
    }

    fn path(&self, field: usize) -> Option<&'l str> {
        self.fields.get(field).map(|field| field.path.as_str())
    }

    /// Where a field is named.
    fn span(&self, field: usize) -> Span {
        self.fields
            .get(field)
            .map_or(Span::default(), |field| field.span)
    }

    /// `field : (a or b or …)`
    fn values(&mut self, field: usize, literals: &[&Literal]) -> Condition {
        let Some(known) = self.known(field) else {
            return Condition::Const(false);
        };
        let start = self.span(field);
        let mut exact: Vec<(Expr, Span)> = Vec::new();
        let mut patterns: Vec<(Box<str>, Span)> = Vec::new();
        let mut alternatives = Vec::new();
        for literal in literals {
            match &literal.pieces[..] {
                [Piece::Star] => alternatives.push(exists(&known, start.to(literal.span))),
                _ if known.object => {
                    let message = format!("`{}` is an object, not a value", known.path);
                    let help = "name a field below it; of an object only `: *` can be asked";
                    let span = literal.span;
                    self.diagnostics
                        .push(error(Kind::ObjectField, span, message, help));
                }
                pieces => match literal.text() {
                    Some(text) => {
                        let values = self.literals(&known, text, literal, true);
                        let span = start.to(literal.span);
                        exact.extend(values.into_iter().map(|value| (value, span)));
                    }
                    None => match like(pieces) {
                        Some(text) => patterns.push((text, start.to(literal.span))),
                        None => alternatives.push(self.regex(&known, start, literal)),
                    },
                },
            }
        }
        alternatives.extend(equal(&known, exact));
        if let Some(span) = spanned(patterns.iter().map(|(_, span)| *span)) {
            let patterns = patterns.into_iter().map(|(text, _)| text).collect();
            let expr = Expr::Like {
                value: known.expr(),
                patterns,
                fold: known.fold,
            };
            alternatives.push(Condition::Leaf(Leaf { expr, span }));
        }
        single(alternatives)
    }

    fn range(&mut self, field: usize, op: Comparison, literal: &Literal) -> Condition {
        let Some(known) = self.known(field) else {
            return Condition::Const(false);
        };
        let Some(text) = literal.text() else {
            let message = "a wildcard has no order";
            let help = "compare with a number, a date or a plain text";
            self.diagnostics
                .push(error(Kind::OperandType, literal.span, message, help));
            return Condition::Const(false);
        };
        if known.object || known.ty == FieldType::Boolean {
            let message = format!("the values of `{}` have no order", known.path);
            self.diagnostics
                .push(error(Kind::OperandType, literal.span, message, ""));
            return Condition::Const(false);
        }
        let right = match number(text).filter(|_| known.ty == FieldType::Any) {
            Some(number) => Some(number),
            None => self
                .literals(&known, text, literal, false)
                .into_iter()
                .next(),
        };
        let Some(right) = right else {
            return Condition::Const(false);
        };
        Condition::Leaf(Leaf {
            expr: Expr::Compare {
                op,
                left: known.expr(),
                right: Box::new(right),
            },
            span: self.span(field).to(literal.span),
        })
    }

    /// What a text stands for in a field of this type, with a warning when that is nothing the field can hold.
    fn literals(
        &mut self,
        known: &Known,
        text: &str,
        literal: &Literal,
        equality: bool,
    ) -> Vec<Expr> {
        let string = || Expr::Literal(query::Literal::Str(text.into()));
        let truth = match text {
            "true" => Some(Expr::Literal(query::Literal::Bool(true))),
            "false" => Some(Expr::Literal(query::Literal::Bool(false))),
            _ => None,
        };
        if !literal.quoted && text == "null" {
            let message = "`null` is no value";
            let help = "`not field : *` holds where the field is missing; in quotes it is a text";
            let span = literal.span;
            self.diagnostics
                .push(error(Kind::OperandType, span, message, help));
            return Vec::new();
        }
        let unfit = match known.ty {
            FieldType::Any => {
                let mut values = vec![string()];
                values.extend(truth.filter(|_| equality));
                return values;
            }
            FieldType::Boolean => match truth {
                Some(truth) => return vec![truth],
                None => Some("true or false"),
            },
            FieldType::Number => match number(text) {
                Some(number) => return vec![number],
                None => Some("a number"),
            },
            FieldType::Date => time::parse_ns(text).is_none().then_some("a date"),
            FieldType::Ip => {
                let parses = Cidr::parse(text).is_some_and(|_| equality || !text.contains('/'));
                (!parses).then_some("an address")
            }
            FieldType::Keyword | FieldType::Version => None,
        };
        if let Some(what) = unfit {
            let reason = format!("`{}` is not {what}", crate::eql::lexer::excerpt(text));
            self.diagnostics.push(report(
                Severity::Warning,
                Kind::ImpossibleComparison,
                literal.span,
                "this comparison never holds",
                reason,
            ));
        }
        vec![string()]
    }

    /// A pattern around characters that are wildcards in EQL and plain here.
    fn regex(&mut self, known: &Known, start: Span, literal: &Literal) -> Condition {
        let mut pattern = String::new();
        for piece in &literal.pieces {
            match piece {
                Piece::Text(text) => pattern.push_str(&regex_syntax::escape(text)),
                Piece::Star => pattern.push_str(".*"),
            }
        }
        self.regexes += 1;
        let limit = if self.regexes > limits::REGEXES_MAX {
            Some(format!(
                "query has too many patterns that hold `?` or an escaped `*`; at most {} are allowed",
                limits::REGEXES_MAX
            ))
        } else if pattern.len() > limits::REGEX_BYTES_MAX {
            Some(format!(
                "pattern has {} bytes; at most {} are allowed",
                pattern.len(),
                limits::REGEX_BYTES_MAX
            ))
        } else {
            let compiled = pattern::compile_regex(&pattern, known.fold);
            compiled
                .err()
                .map(|_| "pattern is too large once compiled".to_owned())
        };
        if let Some(message) = limit {
            self.diagnostics
                .push(error(Kind::TooMany, literal.span, message, ""));
            return Condition::Const(false);
        }
        Condition::Leaf(Leaf {
            expr: Expr::Regex {
                value: known.expr(),
                patterns: vec![pattern.into()],
                fold: known.fold,
            },
            span: start.to(literal.span),
        })
    }

    fn known(&mut self, field: usize) -> Option<Known> {
        let field = self.fields.get(field)?;
        if let Some(known) = self.known.get(field.path.as_str()) {
            return known.clone();
        }
        let known = self.look_up(field);
        self.known.insert(&field.path, known.clone());
        known
    }

    fn look_up(&mut self, field: &Field) -> Option<Known> {
        let found = |path: &str, ty, fold| {
            Some(Known {
                path: path.into(),
                ty,
                fold,
                object: false,
            })
        };
        let base = field.path.strip_suffix(CASELESS);
        let base = base.and_then(|base| Some((base, self.schema.field_type(base)?)));
        if let Some((base, ty @ (FieldType::Keyword | FieldType::Any))) = base {
            return found(base, ty, true);
        }
        if let Some(ty) = self.schema.field_type(&field.path) {
            return found(&field.path, ty, false);
        }
        if self.schema.is_object(&field.path) {
            let known = found(&field.path, FieldType::Any, false);
            return known.map(|known| Known {
                object: true,
                ..known
            });
        }
        let suggestion = self.schema.suggest(&field.path);
        let closed = self.schema.is_closed();
        if closed || suggestion.is_some() {
            let help = suggestion.map(|near| format!("did you mean `{near}`?"));
            self.diagnostics.push(report(
                if closed {
                    Severity::Error
                } else {
                    Severity::Warning
                },
                Kind::UnknownField,
                field.span,
                format!("unknown field `{}`", field.path),
                help.unwrap_or_default(),
            ));
        }
        found(&field.path, FieldType::Any, false).filter(|_| !closed)
    }
}

/// `field : *`
fn exists(known: &Known, span: Span) -> Condition {
    let missing = Leaf {
        expr: Expr::IsNull(known.expr()),
        span,
    };
    Condition::Not(Box::new(Condition::Leaf(missing)))
}

/// The field equals one of the values; `None` without any.
fn equal(known: &Known, values: Vec<(Expr, Span)>) -> Option<Condition> {
    let span = spanned(values.iter().map(|(_, span)| *span))?;
    let mut list: Vec<Expr> = values.into_iter().map(|(value, _)| value).collect();
    let one = if list.len() == 1 && !known.fold {
        list.pop()
    } else {
        None
    };
    let expr = match one {
        Some(value) => Expr::Compare {
            op: Comparison::Equal,
            left: known.expr(),
            right: Box::new(value),
        },
        None => Expr::In {
            value: known.expr(),
            list,
            fold: known.fold,
        },
    };
    Some(Condition::Leaf(Leaf { expr, span }))
}

/// A pattern as EQL writes it; `None` when the text holds what is a wildcard there.
fn like(pieces: &[Piece]) -> Option<Box<str>> {
    let mut like = String::new();
    for piece in pieces {
        match piece {
            Piece::Star => like.push('*'),
            Piece::Text(text) if text.contains(['*', '?']) => return None,
            Piece::Text(text) => like.push_str(text),
        }
    }
    Some(like.into())
}

fn number(text: &str) -> Option<Expr> {
    let literal = match scalar::decimal(text)? {
        Number::Int(number) => query::Literal::Int(number),
        Number::Float(number) => query::Literal::Float(number),
    };
    Some(Expr::Literal(literal))
}

/// The stretch over all of them; `None` without any.
fn spanned(mut spans: impl Iterator<Item = Span>) -> Option<Span> {
    let first = spans.next()?;
    Some(spans.fold(first, Span::to))
}

fn single(mut alternatives: Vec<Condition>) -> Condition {
    match alternatives.len() {
        1 => alternatives.pop().unwrap_or(Condition::Const(false)),
        _ => Condition::Or(alternatives),
    }
}
