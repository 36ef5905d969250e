//! Whose acts a query can match: the names one of which the acting process must go by.
//!
//! In: a typed query and a set of event kinds. Out: [`Actors`], the weakest condition on `process.name` under which some filter
//! of the query could hold for an event of these kinds. What is not known here counts as anybody: an act may only be left
//! out when it can neither satisfy, block nor end anything.

use std::collections::BTreeSet;

use super::interest::{behind, has_category, holds};
use crate::eql::query::{Comparison, Condition, Expr, Field, Filter, Form, Leaf, Literal, Query};
use crate::event::{Kind, Kinds};

/// Processes by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actors {
    Anybody,
    /// Processes one of whose names is in the set, the case of letters included; nobody when it is empty.
    Named(BTreeSet<Box<str>>),
}

impl Actors {
    pub const NOBODY: Actors = Actors::Named(BTreeSet::new());

    /// Those of either.
    #[must_use]
    pub fn or(self, other: Actors) -> Actors {
        match (self, other) {
            (Actors::Named(mut names), Actors::Named(more)) => {
                names.extend(more);
                Actors::Named(names)
            }
            _ => Actors::Anybody,
        }
    }
}

/// Processes whose acts of some kinds can make a difference to a query.
#[must_use]
pub fn actors(query: &Query, kinds: Kinds) -> Actors {
    let of = |filters: &mut dyn Iterator<Item = &Filter>| {
        filters.fold(Actors::NOBODY, |all, filter| {
            kinds
                .iter()
                .fold(all, |all, kind| all.or(of_filter(filter, kind)))
        })
    };
    match &query.form {
        Form::Event(filter) => of(&mut std::iter::once(filter)),
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter().map(|step| &step.filter);
            of(&mut steps.chain(sequence.until.iter().map(|until| &until.filter)))
        }
        Form::Sample(sample) => of(&mut sample.steps.iter().map(|step| &step.filter)),
    }
}

fn of_filter(filter: &Filter, kind: Kind) -> Actors {
    if behind(&filter.condition).contains(kind) {
        return Actors::Anybody;
    }
    if !has_category(kind, &filter.category) {
        return Actors::NOBODY;
    }
    of_condition(&filter.condition, kind)
}

fn of_condition(condition: &Condition, kind: Kind) -> Actors {
    if holds(condition, kind) == Some(false) {
        return Actors::NOBODY;
    }
    match condition {
        // All of them must hold, so any one's names will do: the fewest.
        Condition::And(parts) => parts
            .iter()
            .map(|part| of_condition(part, kind))
            .min_by_key(|actors| match actors {
                Actors::Anybody => usize::MAX,
                Actors::Named(names) => names.len(),
            })
            .unwrap_or(Actors::Anybody),
        Condition::Or(parts) => parts
            .iter()
            .fold(Actors::NOBODY, |all, part| all.or(of_condition(part, kind))),
        Condition::Leaf(leaf) => of_leaf(leaf).map_or(Actors::Anybody, Actors::Named),
        Condition::Const(_) | Condition::Not(_) | Condition::Lineage(_) => Actors::Anybody,
    }
}

/// The names that a leaf asks for, if it asks for nothing but names.
fn of_leaf(leaf: &Leaf) -> Option<BTreeSet<Box<str>>> {
    match &leaf.expr {
        Expr::Compare {
            op: Comparison::Equal,
            left,
            right,
        } => match (name_of(right), name_of(left)) {
            (Some(name), None) if is_process_name(left) => Some(BTreeSet::from([name.into()])),
            (None, Some(name)) if is_process_name(right) => Some(BTreeSet::from([name.into()])),
            _ => None,
        },
        Expr::In {
            value,
            list,
            fold: false,
        } if is_process_name(value) => list
            .iter()
            .map(|item| name_of(item).map(Into::into))
            .collect(),
        Expr::Like {
            value,
            patterns,
            fold: false,
        } if is_process_name(value) => {
            let exact = |pattern: &str| !pattern.contains(['*', '?', '\\']) && pattern.is_ascii();
            patterns
                .iter()
                .map(|pattern| exact(pattern).then(|| pattern.clone()))
                .collect()
        }
        _ => None,
    }
}

fn is_process_name(expr: &Expr) -> bool {
    matches!(expr, Expr::Field(Field { path, step: None, .. }) if &**path == "process.name")
}

/// A literal name. Names beyond ASCII are left alone: events show bytes that are not UTF-8 as replacement characters.
fn name_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(Literal::Str(text)) if text.is_ascii() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::{self, Mode};
    use crate::rule::schema::TolerantSchema;

    const CREATION: Kinds = Kinds::NONE.with(Kind::Creation);

    fn check(query: &str, expected: Option<&[&str]>) {
        let compiled = eql::compile(query, &TolerantSchema, Mode::Live).unwrap();
        let expected = match expected {
            None => Actors::Anybody,
            Some(names) => Actors::Named(names.iter().map(|name| (*name).into()).collect()),
        };
        assert_eq!(actors(&compiled.query, CREATION), expected, "{query}");
    }

    #[test]
    fn names_that_a_creation_must_have_been_made_by() {
        for (query, expected) in [
            (r#"file where process.name == "ld""#, Some(&["ld"][..])),
            (r#"file where "ld" == process.name"#, Some(&["ld"])),
            (
                r#"file where process.name in ("ld", "as") and file.name == "x""#,
                Some(&["as", "ld"]),
            ),
            (
                r#"file where process.name in ("ld", "as") and process.name == "as""#,
                Some(&["as"]),
            ),
            (
                r#"file where process.name == "ld" or process.name like ("as", "gold")"#,
                Some(&["as", "gold", "ld"]),
            ),
            (
                r#"sequence [process where process.name == "gcc"] [file where process.name == "ld"]"#,
                Some(&["ld"]),
            ),
            (
                r#"sequence by host.id with maxspan=1m [process where true] ![file where process.name == "a"] [process where true] until [file where process.name == "b"]"#,
                Some(&["a", "b"]),
            ),
            (r#"process where true"#, Some(&[])),
            (r#"file where event.action == "rename" and true"#, Some(&[])),
            (
                r#"any where (event.category == "process") or process.name == "x""#,
                Some(&["x"]),
            ),
        ] {
            check(query, expected);
        }
    }

    #[test]
    fn what_is_not_known_is_anybody() {
        for query in [
            "file where true",
            "any where true",
            r#"file where process.name != "ld""#,
            r#"file where process.name == "ld" or file.name == "x""#,
            r#"file where process.name : "ld""#,
            r#"file where process.name like "ld*""#,
            r#"file where process.name in~ ("ld")"#,
            r#"file where process.name == "é""#,
            r#"file where process.parent.name == "ld""#,
            r#"file where process.name == file.name"#,
            r#"process where descendant of [file where process.name == "ld"]"#,
            r#"sequence [file where process.name == "ld"] [file where true]"#,
        ] {
            check(query, None);
        }
    }
}
