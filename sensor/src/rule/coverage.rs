//! What a rule reads, against what the sensor produces.
//!
//! In: a typed query. Out: every event kind and field that the rule asks for and that no event brings: the strict measure, by
//! which exclusions, optional fields and join keys count like everything else. What can never be true on Linux is dropped
//! first, with the constants of each event kind filled in. It judges by the schema alone and knows nothing of a kernel.

use std::collections::BTreeSet;
use std::fmt;

use crate::eql::pattern;
use crate::eql::query::{
    ArraySource, Category, Comparison, Condition, Expr, Filter, Form, Key, Literal, Query,
};
use crate::event::{Kind, schema};

/// An act that rules may name, by its constant fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Act {
    action: &'static str,
    categories: &'static [&'static str],
    types: &'static [&'static str],
    dataset: &'static str,
    /// What reports it; `None` when nothing does.
    kind: Option<Kind>,
}

/// The vocabulary of public rules, whether or not the sensor has the kind: action, category, types, data set.
#[rustfmt::skip] // one line an act, to be read as a table
const VOCABULARY: &[(&str, &[&str], &[&str], &str)] = &[
    ("exec", &["process"], &["start"], "endpoint.events.process"),
    ("fork", &["process"], &["start"], "endpoint.events.process"),
    ("end", &["process"], &["end"], "endpoint.events.process"),
    ("uid_change", &["process"], &["change"], "endpoint.events.process"),
    ("gid_change", &["process"], &["change"], "endpoint.events.process"),
    ("session_id_change", &["process"], &["change"], "endpoint.events.process"),
    ("memfd_create", &["process"], &["start"], "endpoint.events.process"),
    ("load_module", &["process"], &["start"], "endpoint.events.process"),
    ("ptrace", &["process"], &["start"], "endpoint.events.process"),
    ("already_running", &["process"], &["info"], "endpoint.events.process"),
    ("creation", &["file"], &["creation"], "endpoint.events.file"),
    ("rename", &["file"], &["change"], "endpoint.events.file"),
    ("deletion", &["file"], &["deletion"], "endpoint.events.file"),
    ("modification", &["file"], &["change"], "endpoint.events.file"),
    ("open", &["file"], &["access"], "endpoint.events.file"),
    ("connection_attempted", &["network"], &["start"], "endpoint.events.network"),
    ("connection_accepted", &["network"], &["start"], "endpoint.events.network"),
    ("disconnect_received", &["network"], &["end"], "endpoint.events.network"),
    ("lookup_requested", &["network", "dns"], &["protocol", "info"], "endpoint.events.network"),
    ("lookup_result", &["network", "dns"], &["protocol", "info"], "endpoint.events.network"),
];

/// Fields that by their nature only some acts have: no rule can expect them elsewhere. A name that ends in a dot stands for
/// all below it.
const ONLY_ON: &[(&str, &[&str])] = &[
    ("dns.", &["lookup_requested", "lookup_result"]),
    ("file.Ext.entropy", &["creation", "rename", "modification"]),
    (
        "file.Ext.header_bytes",
        &["creation", "rename", "modification"],
    ),
    ("file.Ext.original.", &["rename"]),
    ("file.size", &["creation", "rename", "modification"]),
    ("process.Ext.load_module.", &["load_module"]),
    ("process.Ext.memfd.", &["memfd_create"]),
    ("process.Ext.ptrace.", &["ptrace"]),
    ("process.env_vars", &["exec"]),
    ("process.exit_code", &["end"]),
    ("process.previous.executable", &["exec"]),
];

/// What a step that names no action is about, by its category; an empty list is every act that fits.
const UNNAMED: &[(&str, &[&str])] = &[
    ("process", &["exec"]),
    ("network", &["connection_attempted", "connection_accepted"]),
];

/// One thing a rule reads in vain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// The step, from 1, takes an act that no event reports.
    Action { step: usize, action: &'static str },
    /// The step reads a field that events of these actions do not have.
    Field {
        step: usize,
        path: Box<str>,
        actions: Vec<&'static str>,
    },
    /// No act whatever fits the step.
    Nothing { step: usize },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Action { step, action } => write!(f, "step {step}: no event `{action}`"),
            Gap::Field {
                step,
                path,
                actions,
            } => write!(f, "step {step}: no `{path}` on {}", actions.join(", ")),
            Gap::Nothing { step } => write!(f, "step {step}: no event can match"),
        }
    }
}

/// Everything a query reads that is not produced, step by step; empty is the strict measure met.
#[must_use]
pub fn gaps(query: &Query) -> Vec<Gap> {
    let acts = acts();
    let steps = steps(query);
    let wanted: Vec<Wanted<'_>> = steps
        .iter()
        .map(|(filter, _)| Wanted::by(filter, &acts))
        .collect();
    let mut gaps = BTreeSet::new();
    for (index, (wanted, (_, keys))) in wanted.iter().zip(&steps).enumerate() {
        wanted.report(index + 1, &mut gaps);
        for key in *keys {
            wanted.field(index + 1, &key.path, &mut gaps);
        }
    }
    // What a step reads of an earlier one, that one must have.
    for (of, path) in wanted.iter().flat_map(|w| &w.references) {
        if let Some(step) = wanted.get(*of) {
            step.field(of + 1, path, &mut gaps);
        }
    }
    gaps.into_iter().collect()
}

/// False when no step, or not every step of a sequence, can hold on Linux, whatever happens there.
#[must_use]
pub fn is_for_linux(query: &Query) -> bool {
    let linux = |path: &str| (path == "host.os.type").then_some(&["linux"][..]);
    let live = |filter: &Filter| fold(&filter.condition, true, &linux).truth != Some(false);
    steps(query).iter().all(|(filter, _)| live(filter))
}

/// The filters of a query with their join keys; what ends a sequence is one too.
fn steps(query: &Query) -> Vec<(&Filter, &[Key])> {
    match &query.form {
        Form::Event(filter) => vec![(filter, &[])],
        Form::Sample(sample) => {
            let steps = sample.steps.iter();
            steps.map(|s| (&s.filter, s.keys.as_slice())).collect()
        }
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter();
            let until = sequence.until.iter();
            steps
                .map(|s| (&s.filter, s.keys.as_slice()))
                .chain(until.map(|u| (&u.filter, u.keys.as_slice())))
                .collect()
        }
    }
}

/// The sensor's own kinds, then what else rules may name.
fn acts() -> Vec<Act> {
    let own = Kind::ALL.iter().map(|kind| Act {
        action: kind.action(),
        categories: kind.categories(),
        types: kind.types(),
        dataset: kind.dataset(),
        kind: Some(*kind),
    });
    let is_own = |action: &str| Kind::ALL.iter().any(|kind| kind.action() == action);
    let others = VOCABULARY
        .iter()
        .filter(|(action, ..)| !is_own(action))
        .map(|&(action, categories, types, dataset)| Act {
            action,
            categories,
            types,
            dataset,
            kind: None,
        });
    own.chain(others).collect()
}

impl Act {
    /// The values of a field that is the same on every event of this act.
    fn constant(&self, path: &str) -> Option<&[&'static str]> {
        Some(match path {
            "event.action" => std::slice::from_ref(&self.action),
            "event.category" => self.categories,
            "event.type" => self.types,
            "event.dataset" | "data_stream.dataset" => std::slice::from_ref(&self.dataset),
            "event.kind" => &["event"],
            "event.module" => &["endpoint"],
            "event.outcome" => &["success"],
            "host.os.type" => &["linux"],
            _ => return None,
        })
    }

    fn carries(&self, path: &str) -> bool {
        let row = schema::field(path);
        self.kind
            .zip(row)
            .is_some_and(|(kind, row)| row.kinds.contains(kind))
    }

    /// Whether the field means anything on this act.
    fn may_carry(&self, path: &str) -> bool {
        only_on(path).is_none_or(|actions| actions.contains(&self.action))
    }
}

fn only_on(path: &str) -> Option<&'static [&'static str]> {
    let is_it = |name: &str| path == name || (name.ends_with('.') && path.starts_with(name));
    let found = ONLY_ON.iter().find(|(name, _)| is_it(name));
    found.map(|(_, actions)| *actions)
}

/// What one step asks for.
struct Wanted<'a> {
    /// The acts it takes, each with the fields it reads of it.
    acts: Vec<(Act, BTreeSet<&'a str>)>,
    /// Fields it reads of earlier steps, by their position.
    references: BTreeSet<(usize, &'a str)>,
    /// Filters on ancestors.
    lineages: Vec<Wanted<'a>>,
}

impl<'a> Wanted<'a> {
    fn by(filter: &'a Filter, acts: &[Act]) -> Wanted<'a> {
        let mut fitting = fitting(filter, acts);
        if !names_an_action(filter) {
            about(filter, &mut fitting);
        }
        let mut wanted = Wanted {
            acts: Vec::with_capacity(fitting.len()),
            references: BTreeSet::new(),
            lineages: Vec::new(),
        };
        for (act, folded) in fitting {
            let mut paths = BTreeSet::new();
            for (field, step) in folded.fields() {
                match step {
                    None => _ = paths.insert(field),
                    Some(step) => _ = wanted.references.insert((step, field)),
                }
            }
            wanted.acts.push((act, paths));
            if wanted.lineages.is_empty() {
                let filters = folded.lineages.iter();
                wanted.lineages = filters.map(|filter| Wanted::by(filter, acts)).collect();
            }
        }
        wanted
    }

    fn report(&self, step: usize, gaps: &mut BTreeSet<Gap>) {
        if self.acts.is_empty() {
            gaps.insert(Gap::Nothing { step });
        }
        for (act, _) in self.acts.iter().filter(|(act, _)| act.kind.is_none()) {
            let action = act.action;
            gaps.insert(Gap::Action { step, action });
        }
        let read = self.acts.iter().flat_map(|(_, paths)| paths);
        for path in read.copied().collect::<BTreeSet<&str>>() {
            let readers = self.acts.iter().filter(|(_, paths)| paths.contains(path));
            lacking(step, path, readers.map(|(act, _)| act), gaps);
        }
        for lineage in &self.lineages {
            lineage.report(step, gaps);
        }
    }

    /// Reports a field that is wanted of every act of the step.
    fn field(&self, step: usize, path: &str, gaps: &mut BTreeSet<Gap>) {
        lacking(step, path, self.acts.iter().map(|(act, _)| act), gaps);
    }
}

/// Reports a field on those acts that are reported and should have it.
fn lacking<'a>(
    step: usize,
    path: &str,
    acts: impl Iterator<Item = &'a Act> + Clone,
    gaps: &mut BTreeSet<Gap>,
) {
    // Where it means nothing on any of them, it is enough that it exists.
    let nowhere = !acts.clone().any(|act| act.may_carry(path));
    let lacks = |act: &&Act| match nowhere {
        true => schema::field(path).is_none(),
        false => act.kind.is_some() && act.may_carry(path) && !act.carries(path),
    };
    let actions: BTreeSet<&'static str> = acts.filter(lacks).map(|act| act.action).collect();
    if !actions.is_empty() {
        gaps.insert(Gap::Field {
            step,
            path: path.into(),
            actions: actions.into_iter().collect(),
        });
    }
}

/// The acts that a filter can take, each with what is left of the condition.
fn fitting<'a>(filter: &'a Filter, acts: &[Act]) -> Vec<(Act, Folded<'a>)> {
    let in_category = |act: &&Act| match &filter.category {
        Category::Any => true,
        Category::Named(name) => act.categories.contains(&&**name),
    };
    let folded = acts.iter().filter(in_category).map(|act| {
        let constant = |path: &str| act.constant(path);
        (*act, fold(&filter.condition, true, &constant))
    });
    folded
        .filter(|(_, folded)| folded.truth != Some(false))
        .collect()
}

/// Whether the part of a filter that can hold on Linux asks for an action by name.
fn names_an_action(filter: &Filter) -> bool {
    let linux = |path: &str| (path == "host.os.type").then_some(&["linux"][..]);
    let folded = fold(&filter.condition, true, &linux);
    folded.leaves.iter().any(|(expr, wanted)| {
        let mut paths = Vec::new();
        fields(expr, &mut paths);
        *wanted && paths.contains(&("event.action", None))
    })
}

/// Leaves of the acts that fit a filter which names none those it is about.
fn about(filter: &Filter, fitting: &mut Vec<(Act, Folded<'_>)>) {
    let Category::Named(category) = &filter.category else {
        return;
    };
    let reads_dns = fitting.iter().any(|(_, folded)| {
        folded
            .fields()
            .iter()
            .any(|(path, _)| path.starts_with("dns."))
    });
    let row = UNNAMED.iter().find(|(name, _)| *name == &**category);
    let wanted = match row {
        Some(("network", _)) if reads_dns => &["lookup_requested", "lookup_result"],
        Some((_, actions)) => *actions,
        None => return,
    };
    if fitting.iter().any(|(act, _)| wanted.contains(&act.action)) {
        fitting.retain(|(act, _)| wanted.contains(&act.action));
    }
}

/// What is left of a condition once the constants are filled in.
struct Folded<'a> {
    /// The outcome, when the constants decide it.
    truth: Option<bool>,
    /// Leaves that are still open, each with whether it has to hold or must not.
    leaves: Vec<(&'a Expr, bool)>,
    lineages: Vec<&'a Filter>,
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
    fn fields(&self) -> BTreeSet<(&'a str, Option<usize>)> {
        let mut found = Vec::new();
        self.leaves
            .iter()
            .for_each(|(expr, _)| fields(expr, &mut found));
        found.into_iter().collect()
    }
}

type Constant<'c> = &'c dyn Fn(&str) -> Option<&'c [&'static str]>;

fn fold<'a>(condition: &'a Condition, wanted: bool, constant: Constant<'_>) -> Folded<'a> {
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
                leaves: vec![(&leaf.expr, wanted)],
                lineages: Vec::new(),
            },
        },
        // No process whatever is one that no act makes.
        Condition::Lineage(lineage) if fitting(&lineage.filter, &acts()).is_empty() => {
            Folded::known(false)
        }
        Condition::Lineage(lineage) => Folded {
            truth: None,
            leaves: Vec::new(),
            lineages: vec![&lineage.filter],
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
    for part in parts {
        let folded = fold(part, wanted, constant);
        match folded.truth {
            Some(truth) if truth == decisive => return Folded::known(decisive),
            Some(_) => {}
            None => {
                open.truth = None;
                open.leaves.extend(folded.leaves);
                open.lineages.extend(folded.lineages);
            }
        }
    }
    open
}

/// Whether a test of one constant field holds; `None` for any other leaf.
fn truth(expr: &Expr, constant: Constant<'_>) -> Option<bool> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::{self, Mode, OpenSchema};

    fn query(text: &str) -> Query {
        let checked = eql::compile(text, &OpenSchema, Mode::Live);
        checked.unwrap_or_else(|e| panic!("{text}: {e:?}")).query
    }

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = gaps(&query(text)).iter().map(Gap::to_string).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn what_is_read_is_named() {
        check(
            r#"process where event.action == "exec" and process.name == "x""#,
            &[],
        );
        check(
            r#"process where event.action in ("exec", "ProcessRollup2") and not x.y == "z""#,
            &["step 1: no `x.y` on exec"],
        );
        check(
            r#"process where event.type == "start" and ?x.y : "z*""#,
            &["step 1: no `x.y` on exec"],
        );
        check(
            r#"process where event.action == "executed""#,
            &["step 1: no event can match"],
        );
        check(
            r#"process where host.os.type == "windows""#,
            &["step 1: no event can match"],
        );
        check(
            r#"sequence by host.id, a.b [process where event.action == "end"] [file where event.type == "creation"]"#,
            &["step 1: no `a.b` on end", "step 2: no `a.b` on creation"],
        );
        check(
            r#"sequence [file where event.action == "creation"] as e0
                        [process where event.action == "exec" and startsWith(process.name, e0.no.such)]"#,
            &["step 1: no `no.such` on creation"],
        );
        check(
            r#"process where event.action == "exec" and descendant of [process where a.b == "c"]"#,
            &["step 1: no `a.b` on exec"],
        );
        check(
            r#"process where event.action == "exec" and
                 (process.name == "x" or descendant of [process where event.action == "start" and a.b == "c"])"#,
            &[],
        );
    }

    #[test]
    fn branches_of_other_systems_are_dropped() {
        check(
            r#"process where event.action == "exec" and
                 (process.name == "a" or (host.os.type == "windows" and c.d == "e"))"#,
            &[],
        );
        check(
            r#"any where event.category == "process" and event.action == "exec" or event.module == "other" and c.d == 1"#,
            &[],
        );
        assert!(is_for_linux(&query(
            r#"process where host.os.type in~ ("Linux", "macos") and true"#
        )));
        assert!(!is_for_linux(&query(
            r#"sequence [process where true] [process where host.os.type : "win*" and a == 1]"#
        )));
    }

    #[test]
    fn fields_of_one_act_are_not_asked_of_others() {
        // Only a rename has an old name; a creation without one is as it should be.
        let read = |text: &str| gaps(&query(text));
        let of =
            |gap: &Gap| matches!(gap, Gap::Field { actions, .. } if actions.contains(&"creation"));
        let found = read(
            r#"file where event.action in ("creation", "rename") and not file.Ext.original.extension == "x""#,
        );
        assert!(!found.iter().any(of), "{found:?}");
    }

    #[test]
    fn own_kinds_agree_with_the_vocabulary() {
        for (action, categories, types, dataset) in VOCABULARY {
            if let Some(kind) = Kind::ALL.iter().find(|kind| kind.action() == *action) {
                assert!(
                    categories.iter().all(|c| kind.categories().contains(c)),
                    "{action}"
                );
                assert!(kind.types().iter().all(|t| types.contains(t)), "{action}");
                assert_eq!(kind.dataset(), *dataset, "{action}");
            }
        }
    }
}
