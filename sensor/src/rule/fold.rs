//! A condition with the constants of one act filled in.
//!
//! In: a typed condition, and which fields have which value on every event of an act. Out: what is left open of it, leaf by leaf,
//! each with whether it must hold; and the fields an expression reads. It knows nothing of what the sensor produces.

use std::collections::BTreeSet;

use super::acts::is_void;
use crate::eql::diagnostic::Span;
use crate::eql::pattern;
use crate::eql::query::{ArraySource, Comparison, Condition, Expr, Filter, Literal};

/// A leaf that the constants do not decide.
#[derive(Clone, Copy)]
pub(super) struct Open<'a> {
    pub(super) expr: &'a Expr,
    pub(super) span: Span,
    /// Whether it has to hold, or must not.
    pub(super) wanted: bool,
    /// Without it the whole can not be as wanted: no other branch is left.
    pub(super) required: bool,
}

/// The same of a test of ancestors.
#[derive(Clone, Copy)]
pub(super) struct OpenLineage<'a> {
    pub(super) filter: &'a Filter,
    pub(super) wanted: bool,
    pub(super) required: bool,
}

/// What is left of a condition once the constants are filled in.
pub(super) struct Folded<'a> {
    /// The outcome, when the constants decide it.
    pub(super) truth: Option<bool>,
    pub(super) leaves: Vec<Open<'a>>,
    pub(super) lineages: Vec<OpenLineage<'a>>,
}

impl<'a> Folded<'a> {
    fn known(truth: bool) -> Folded<'a> {
        Folded {
            truth: Some(truth),
            leaves: Vec::new(),
            lineages: Vec::new(),
        }
    }

    /// Paths of the open leaves, each with the earlier step it is read of.
    pub(super) fn fields(&self) -> BTreeSet<(&'a str, Option<usize>)> {
        let mut found = Vec::new();
        self.leaves
            .iter()
            .for_each(|open| fields(open.expr, &mut found));
        found.into_iter().collect()
    }
}

/// The values of a field that is the same on every event.
pub(super) type Constant<'c> = &'c dyn Fn(&str) -> Option<&'c [&'static str]>;

/// `wanted` is the outcome that is asked for.
pub(super) fn fold<'a>(
    condition: &'a Condition,
    wanted: bool,
    constant: Constant<'_>,
) -> Folded<'a> {
    match condition {
        Condition::Const(truth) => Folded::known(*truth),
        Condition::Not(inner) => {
            let folded = fold(inner, !wanted, constant);
            Folded {
                truth: folded.truth.map(|truth| !truth),
                ..folded
            }
        }
        Condition::And(parts) => junction(parts, wanted, constant, false),
        Condition::Or(parts) => junction(parts, wanted, constant, true),
        Condition::Leaf(leaf) => match truth(&leaf.expr, constant) {
            Some(truth) => Folded::known(truth),
            None => Folded {
                truth: None,
                leaves: vec![Open {
                    expr: &leaf.expr,
                    span: leaf.span,
                    wanted,
                    required: true,
                }],
                lineages: Vec::new(),
            },
        },
        // No process whatever is one that no act makes.
        Condition::Lineage(lineage) if is_void(&lineage.filter) => Folded::known(false),
        Condition::Lineage(lineage) => Folded {
            truth: None,
            leaves: Vec::new(),
            lineages: vec![OpenLineage {
                filter: &lineage.filter,
                wanted,
                required: true,
            }],
        },
    }
}

/// `decisive` is the truth of one part that settles the whole.
fn junction<'a>(
    parts: &'a [Condition],
    wanted: bool,
    constant: Constant<'_>,
    decisive: bool,
) -> Folded<'a> {
    let mut open = Folded::known(!decisive);
    let mut open_parts = 0;
    for part in parts {
        let folded = fold(part, wanted, constant);
        match folded.truth {
            Some(truth) if truth == decisive => return Folded::known(decisive),
            Some(_) => {}
            None => {
                open.truth = None;
                open_parts += 1;
                open.leaves.extend(folded.leaves);
                open.lineages.extend(folded.lineages);
            }
        }
    }
    // Any one of them will do.
    if wanted == decisive && open_parts > 1 {
        open.leaves
            .iter_mut()
            .for_each(|leaf| leaf.required = false);
        let lineages = open.lineages.iter_mut();
        lineages.for_each(|lineage| lineage.required = false);
    }
    open
}

/// Whether a test of one constant field holds; `None` for any other leaf.
pub(super) fn truth(expr: &Expr, constant: Constant<'_>) -> Option<bool> {
    let values = |value: &Expr| match value {
        Expr::Field(field) if field.step.is_none() => constant(&field.path),
        _ => None,
    };
    let text = |literal: &Expr| match literal {
        Expr::Literal(Literal::Str(text)) => Some(text.clone()),
        _ => None,
    };
    let equal = |a: &str, b: &str, fold: bool| a == b || (fold && a.eq_ignore_ascii_case(b));
    match expr {
        Expr::IsNull(value) => values(value).map(<[_]>::is_empty),
        Expr::Compare {
            op: Comparison::Equal,
            left,
            right,
        } => {
            let (values, text) = (values(left)?, text(right)?);
            Some(values.contains(&&*text))
        }
        Expr::In { value, list, fold } => {
            let (values, texts) = (values(value)?, list.iter().map(text));
            let texts: Vec<Box<str>> = texts.collect::<Option<_>>()?;
            let mut listed = values
                .iter()
                .flat_map(|v| texts.iter().map(move |t| (v, t)));
            Some(listed.any(|(value, text)| equal(value, text, *fold)))
        }
        Expr::Like {
            value,
            patterns,
            fold,
        } => {
            let values = values(value)?;
            let mut tried = values
                .iter()
                .flat_map(|v| patterns.iter().map(move |p| (v, p)));
            Some(tried.any(|(value, like)| pattern::like(like, value, *fold)))
        }
        _ => None,
    }
}

/// Every field an expression reads, each with the earlier step it is read of.
pub(super) fn fields<'a>(expr: &'a Expr, found: &mut Vec<(&'a str, Option<usize>)>) {
    let mut each = |parts: &'a [Expr]| parts.iter().for_each(|part| fields(part, found));
    match expr {
        Expr::Literal(_) | Expr::Variable(_) => {}
        Expr::Field(field) => found.push((&field.path, field.step)),
        Expr::IsNull(value) | Expr::Negate(value) | Expr::Not(value) => fields(value, found),
        Expr::Like { value, .. } | Expr::Regex { value, .. } | Expr::CidrMatch { value, .. } => {
            fields(value, found);
        }
        Expr::Compare { left, right, .. } | Expr::Arithmetic { left, right, .. } => {
            fields(left, found);
            fields(right, found);
        }
        Expr::In { value, list, .. } => {
            each(list);
            fields(value, found);
        }
        Expr::Call { args, .. } => each(args),
        Expr::And(parts) | Expr::Or(parts) => each(parts),
        Expr::Array {
            array, condition, ..
        } => {
            if let ArraySource::Field(field) = &**array {
                found.push((&field.path, field.step));
            }
            fields(condition, found);
        }
    }
}
