//! Which kinds of events a query can match at all.
//!
//! In: a typed query and the field table of `event`. Out: the [`Kinds`] some filter of it could hold for, those of missing
//! steps, `until` and lineage included. What is not known here counts as possible: a kind is only left out when no event of
//! it can ever satisfy, block or end anything.

use crate::eql::pattern;
use crate::eql::query::{
    Category, Comparison, Condition, Expr, Field, Filter, Form, Literal, Query,
};
use crate::event::{Kind, Kinds, schema};

/// Kinds of events that can make a difference to a query.
#[must_use]
pub fn interest(query: &Query) -> Kinds {
    match &query.form {
        Form::Event(filter) => of_filter(filter),
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter().map(|step| &step.filter);
            let until = sequence.until.iter().map(|until| &until.filter);
            union(steps.chain(until))
        }
        Form::Sample(sample) => union(sample.steps.iter().map(|step| &step.filter)),
    }
}

fn union<'q>(filters: impl Iterator<Item = &'q Filter>) -> Kinds {
    filters.fold(Kinds::NONE, |kinds, filter| kinds.and(of_filter(filter)))
}

fn of_filter(filter: &Filter) -> Kinds {
    let own = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| has_category(*kind, &filter.category))
        .filter(|kind| holds(&filter.condition, *kind) != Some(false))
        .fold(Kinds::NONE, Kinds::with);
    own.and(behind(&filter.condition))
}

pub(super) fn has_category(kind: Kind, category: &Category) -> bool {
    match category {
        Category::Any => true,
        Category::Named(name) => kind.categories().contains(&&**name),
    }
}

/// Kinds that the lineage tests of a condition look for, wherever in it they stand.
pub(super) fn behind(condition: &Condition) -> Kinds {
    match condition {
        Condition::Const(_) | Condition::Leaf(_) => Kinds::NONE,
        Condition::And(parts) | Condition::Or(parts) => parts
            .iter()
            .fold(Kinds::NONE, |kinds, part| kinds.and(behind(part))),
        Condition::Not(part) => behind(part),
        // A process inherits marks when it is first seen: one that was there before the sensor must be seen at its start.
        Condition::Lineage(lineage) => of_filter(&lineage.filter).with(Kind::AlreadyRunning),
    }
}

/// What a condition comes to on every event of a kind; `None` where that depends on the event.
pub(super) fn holds(condition: &Condition, kind: Kind) -> Option<bool> {
    match condition {
        Condition::Const(value) => Some(*value),
        Condition::And(parts) => decided(parts, kind, false),
        Condition::Or(parts) => decided(parts, kind, true),
        Condition::Not(part) => holds(part, kind).map(|value| !value),
        Condition::Leaf(leaf) => leaf_holds(&leaf.expr, kind),
        Condition::Lineage(_) => None,
    }
}

/// One part that is `by` decides; without one all must be known.
fn decided(parts: &[Condition], kind: Kind, by: bool) -> Option<bool> {
    let mut all_known = true;
    for part in parts {
        match holds(part, kind) {
            Some(value) if value == by => return Some(by),
            Some(_) => {}
            None => all_known = false,
        }
    }
    all_known.then_some(!by)
}

/// Whether a leaf is true on every event of a kind, or on none.
fn leaf_holds(expr: &Expr, kind: Kind) -> Option<bool> {
    match expr {
        Expr::Literal(Literal::Bool(value)) => Some(*value),
        Expr::IsNull(value) => match values(value, kind)? {
            Values::Missing => Some(true),
            Values::One(_) | Values::Several(_) => Some(false),
        },
        Expr::Compare { op, left, right } => match (values(left, kind), values(right, kind)) {
            // A comparison with nothing is not true.
            (Some(Values::Missing), _) | (_, Some(Values::Missing)) => Some(false),
            (Some(values), None) => equals(*op, values, right),
            (None, Some(values)) => equals(*op, values, left),
            _ => None,
        },
        Expr::Like {
            value,
            patterns,
            fold,
        } => any(values(value, kind)?, |text| {
            patterns
                .iter()
                .any(|pattern| pattern::like(pattern, text, *fold))
        }),
        Expr::Regex { value, .. } => match values(value, kind)? {
            Values::Missing => Some(false),
            Values::One(_) | Values::Several(_) => None,
        },
        Expr::In { value, list, fold } => {
            let values = values(value, kind)?;
            let texts: Vec<&str> = list.iter().map(text).collect::<Option<_>>()?;
            any(values, |value| {
                texts.iter().any(|text| {
                    if *fold {
                        text.eq_ignore_ascii_case(value)
                    } else {
                        *text == value
                    }
                })
            })
        }
        _ => None,
    }
}

/// What a field holds on every event of a kind.
enum Values {
    Missing,
    One(&'static str),
    Several(&'static [&'static str]),
}

/// `None` for what differs from event to event, and for what is no plain field.
fn values(expr: &Expr, kind: Kind) -> Option<Values> {
    let Expr::Field(Field {
        path, step: None, ..
    }) = expr
    else {
        return None;
    };
    match &**path {
        "event.action" => Some(Values::One(kind.action())),
        "event.category" => Some(Values::Several(kind.categories())),
        "event.type" => Some(Values::Several(kind.types())),
        path => {
            let row = schema::field(path)?;
            (!row.kinds.contains(kind)).then_some(Values::Missing)
        }
    }
}

fn any(values: Values, matches: impl Fn(&str) -> bool) -> Option<bool> {
    Some(match values {
        Values::Missing => false,
        Values::One(value) => matches(value),
        Values::Several(values) => values.iter().any(|value| matches(value)),
    })
}

fn equals(op: Comparison, values: Values, other: &Expr) -> Option<bool> {
    let text = text(other).filter(|_| op == Comparison::Equal)?;
    any(values, |value| value == text)
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(Literal::Str(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::{self, Mode};
    use crate::rule::schema::TolerantSchema;

    fn actions(query: &str) -> Vec<&'static str> {
        let query = eql::compile(query, &TolerantSchema, Mode::Live)
            .unwrap()
            .query;
        interest(&query).iter().map(Kind::action).collect()
    }

    fn check(query: &str, expected: &[&str], not: &[&str]) {
        let found = actions(query);
        for action in expected {
            assert!(found.contains(action), "{query}: {action} of {found:?}");
        }
        for action in not {
            assert!(!found.contains(action), "{query}: {action} of {found:?}");
        }
    }

    #[test]
    fn category_action_and_type_decide() {
        for (query, expected, not) in [
            ("file where true", &["creation"][..], &["exec", "end"][..]),
            (
                "process where true",
                &["exec", "fork", "end"],
                &["creation"],
            ),
            (
                r#"any where event.action == "exec""#,
                &["exec"],
                &["fork", "creation"],
            ),
            (r#"any where "exec" == event.action"#, &["exec"], &["fork"]),
            (
                r#"process where event.type == "start" and event.action : "EX*""#,
                &["exec"],
                &["fork", "end"],
            ),
            (
                r#"process where event.type != "end""#,
                &["exec", "fork"],
                &["end"],
            ),
            (
                r#"any where event.action in ("exec", "creation")"#,
                &["exec", "creation"],
                &["end"],
            ),
            (
                r#"any where event.action in~ ("EXEC")"#,
                &["exec"],
                &["creation"],
            ),
            (
                r#"any where not event.category == "process""#,
                &["creation"],
                &["exec"],
            ),
            (
                r#"any where event.action == "exec" or file.name == "x""#,
                &["exec", "creation"],
                &["fork", "connection_attempted"],
            ),
        ] {
            check(query, expected, not);
        }
    }

    #[test]
    fn a_field_the_kind_lacks_decides() {
        check(
            "any where destination.port == 80",
            &["connection_attempted"],
            &["exec", "creation"],
        );
        check(
            "any where destination.port == null",
            &["exec", "creation"],
            &[],
        );
        check(
            "any where file.name != null",
            &["creation"],
            &["exec", "connection_attempted"],
        );
        // A negation holds where the field is missing, and a foreign field may be anything.
        check(r#"any where file.name != "x""#, &["exec", "creation"], &[]);
        check(r#"any where labels.x == "y""#, &["exec", "creation"], &[]);
    }

    #[test]
    fn every_step_until_and_lineage_counts() {
        check(
            r#"sequence by process.pid with maxspan=1s [process where event.action == "exec"] ![file where true] until [network where true]"#,
            &["exec", "creation", "connection_attempted"],
            &["fork", "end"],
        );
        check(
            r#"network where descendant of [file where true]"#,
            &["creation", "connection_attempted"],
            &["exec"],
        );
        check(
            r#"sample by process.pid [file where true] [network where true]"#,
            &["creation", "connection_attempted"],
            &["exec"],
        );
    }

    #[test]
    fn a_constant_decides_nothing_it_should_not() {
        check("any where true", &["exec", "creation", "end"], &[]);
        check("any where length(event.action) > 0", &["exec"], &[]);
        check(
            r#"any where event.action regex "ex.*""#,
            &["exec", "end"],
            &[],
        );
    }
}
