//! The acts that rules may name, with what is the same on every event of one.
//!
//! In: nothing; the kinds of `event` and the vocabulary of public rules. Out: acts, which fields mean anything on them, and which
//! of them a filter can take. It never looks at an event.

use std::sync::LazyLock;

use super::fold::{self, Folded};
use crate::eql::query::{Category, Filter};
use crate::event::{Kind, Kinds, schema};

/// An act that rules may name, by its constant fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) action: &'static str,
    pub(super) categories: &'static [&'static str],
    pub(super) types: &'static [&'static str],
    pub(super) dataset: &'static str,
    /// What reports it; `None` when nothing does.
    pub(super) kind: Option<Kind>,
}

/// The vocabulary of public rules, whether or not the sensor has the kind: action, category, types, data set.
#[rustfmt::skip] // one line an act, to be read as a table
pub(super) const VOCABULARY: &[(&str, &[&str], &[&str], &str)] = &[
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
    ("file.hash.", &["creation", "rename", "modification"]),
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

/// The kinds that are given, then what else rules may name.
pub(super) fn acts(given: Kinds) -> Vec<Act> {
    let own = Kind::ALL.iter().map(|kind| Act {
        action: kind.action(),
        categories: kind.categories(),
        types: kind.types(),
        dataset: kind.dataset(),
        kind: Some(*kind).filter(|kind| given.contains(*kind)),
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

/// The acts of this sensor, whatever the kernel.
pub(super) fn all() -> &'static [Act] {
    static ALL: LazyLock<Vec<Act>> = LazyLock::new(|| acts(Kinds::ALL));
    &ALL
}

impl Act {
    /// The values of a field that is the same on every event of this act.
    pub(super) fn constant(&self, path: &str) -> Option<&[&'static str]> {
        Some(match path {
            "event.action" => std::slice::from_ref(&self.action),
            "event.category" => self.categories,
            "event.type" => self.types,
            "event.dataset" | "data_stream.dataset" => std::slice::from_ref(&self.dataset),
            "event.kind" => &["event"],
            "event.module" => &["endpoint"],
            "event.outcome" if self.kind == Some(Kind::ConnectionDenied) => &["failure"],
            "event.outcome" => &["success"],
            "host.os.type" => &["linux"],
            _ => return None,
        })
    }

    /// Whether events of this act have the field, or, of an object, may have something below it.
    pub(super) fn carries(&self, path: &str) -> bool {
        let Some(kind) = self.kind else {
            return false;
        };
        match schema::field(without_index(path)) {
            Some(row) => row.kinds.contains(kind),
            None => schema::is_object(path),
        }
    }

    /// Whether the field means anything on this act.
    pub(super) fn may_carry(&self, path: &str) -> bool {
        only_on(path).is_none_or(|actions| actions.contains(&self.action))
    }
}

/// `process.args[0]` is read of `process.args`.
pub(super) fn without_index(path: &str) -> &str {
    path.split('[').next().unwrap_or(path)
}

/// The acts that have the field by its nature; `None` for all.
pub(super) fn only_on(path: &str) -> Option<&'static [&'static str]> {
    let is_it = |name: &str| path == name || (name.ends_with('.') && path.starts_with(name));
    let found = ONLY_ON.iter().find(|(name, _)| is_it(name));
    found.map(|(_, actions)| *actions)
}

/// The acts that a filter can take, each with what is left of the condition.
pub(super) fn fitting<'a>(filter: &'a Filter, acts: &[Act]) -> Vec<(Act, Folded<'a>)> {
    let in_category = |act: &&Act| match &filter.category {
        Category::Any => true,
        Category::Named(name) => act.categories.contains(&&**name),
    };
    let folded = acts.iter().filter(in_category).map(|act| {
        let constant = |path: &str| act.constant(path);
        (*act, fold::fold(&filter.condition, true, &constant))
    });
    folded
        .filter(|(_, folded)| folded.truth != Some(false))
        .collect()
}

/// Those of the acts that the part of a filter that can hold on Linux asks for by name; none when it names no action.
pub(super) fn named_actions(filter: &Filter, acts: &[(Act, Folded<'_>)]) -> Vec<&'static str> {
    let linux = |path: &str| (path == "host.os.type").then_some(&["linux"][..]);
    let folded = fold::fold(&filter.condition, true, &linux);
    let on_action = folded.leaves.iter().filter(|open| {
        let mut paths = Vec::new();
        fold::fields(open.expr, &mut paths);
        open.wanted && paths.contains(&("event.action", None))
    });
    let on_action: Vec<_> = on_action.collect();
    let is_named = |act: &Act| {
        let constant = |path: &str| act.constant(path);
        on_action
            .iter()
            .any(|open| fold::truth(open.expr, &constant) != Some(false))
    };
    let named = acts.iter().filter(|(act, _)| is_named(act));
    named.map(|(act, _)| act.action).collect()
}

/// Leaves of the acts that fit a filter which names none those it is about.
pub(super) fn about(filter: &Filter, fitting: &mut Vec<(Act, Folded<'_>)>) {
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

/// Whether a filter on ancestors asks for a process that no act makes.
pub(super) fn is_void(filter: &Filter) -> bool {
    fitting(filter, all()).is_empty()
}
