//! A rule in words: steps and their clauses, the fields it reads and how each is obtained, the events and hooks it needs.
//!
//! In: a rule. Out: text or JSON. It tells what the compiled form and the tables of `event` and `kernel` say, for any kernel; what
//! the running one refuses is for `doctor` and `check` to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::alert::plain;
use crate::engine::explain::{Explainer, Shape, Step, Tree};
use crate::engine::{CompileError, Limits};
use crate::enrich::records::events_of;
use crate::event::{FIELDS, FieldTable, Kind, Kinds, schema};
use crate::json_lines::FlatEvent;
use crate::kernel::{self, PossibleHook};
use crate::output::explanation::{cut, span, step_name};
use crate::rule::{self, Actors, Rule};

/// Names of processes listed.
const NAMES_MAX: usize = 12;

/// Hooks of one sort, each with what it does not see.
type Sort = Vec<(String, Vec<&'static str>)>;

/// A rule taken apart.
pub(super) struct Form {
    rule: Arc<Rule>,
    explainer: Explainer<Arc<FlatEvent>>,
    kinds: Kinds,
}

impl Form {
    /// # Errors
    /// The engine does not take the rule.
    pub(super) fn of(rule: &Arc<Rule>) -> Result<Form, CompileError> {
        let mut table = FieldTable::sensor();
        let (query, text) = (&rule.query, &rule.query_text);
        Ok(Form {
            rule: Arc::clone(rule),
            explainer: Explainer::new(
                query,
                text,
                "event.category",
                Limits::default(),
                &mut table,
            )?,
            kinds: rule.interest(),
        })
    }

    pub(super) fn text(&self) -> String {
        let rule = &self.rule;
        let mut out = format!("{} ({})\n", plain(&rule.name), plain(&rule.id));
        // A String takes any write.
        let _ = writeln!(
            out,
            "{}, risk score {}; {}\n\n{}",
            rule.severity.name(),
            rule.risk_score,
            rule.path.display(),
            self.summary()
        );
        for (number, step) in self.explainer.steps.iter().enumerate() {
            let runs = match step.runs {
                0 | 1 => String::new(),
                runs => format!(", {runs} times"),
            };
            let _ = writeln!(out, "\n{}{runs}{}", step_name(number, step), by(step));
            condition(step, &mut out);
        }
        if let Some(until) = &self.explainer.until {
            let _ = writeln!(out, "\nended by{}", by(until));
            condition(until, &mut out);
        }
        if !self.rule.query.pipes.is_empty() {
            let pipes = self.rule.query.pipes.len();
            let s = if pipes == 1 { "" } else { "s" };
            let _ = writeln!(out, "\nthen {pipes} pipe{s} over what matched");
        }
        out.push_str("\nfields\n");
        for path in self.fields() {
            match schema::field(&path) {
                Some(row) => {
                    let _ = writeln!(out, "  {path}  {}: {}", row.ty.name(), row.how);
                }
                None if is_object(&path) => {
                    let _ = writeln!(out, "  {path}  present when any field below it is");
                }
                None => {
                    let _ = writeln!(out, "  {path}  never present on this sensor");
                }
            }
        }
        out.push_str("\nevents, and the hooks they come from\n");
        for (kind, hooks) in self.hooks() {
            let _ = writeln!(out, "  {}", kind.action());
            for (sort, hooks) in [("", &hooks[0]), ("else ", &hooks[1])] {
                for (hook, blind) in hooks {
                    let blind = match blind.is_empty() {
                        true => String::new(),
                        false => format!("; blind to {}", blind.join(", ")),
                    };
                    let _ = writeln!(out, "    {sort}{hook}{blind}");
                }
            }
        }
        out.push_str("\nleft to the kernel\n");
        let wanted: Vec<&str> = self.kinds.iter().map(Kind::action).collect();
        let _ = writeln!(
            out,
            "  only these kinds, and what the process table needs: {}",
            wanted.join(", ")
        );
        for (kinds, names) in self.narrowed() {
            let shown: Vec<&str> = names.iter().take(NAMES_MAX).map(|name| &**name).collect();
            let more = names.len().saturating_sub(NAMES_MAX);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let whose = match names.is_empty() {
                true => "of nobody".to_owned(),
                false => format!("only of processes named {}{more}", shown.join(", ")),
            };
            let _ = writeln!(out, "  {}: {whose}", kinds.join(", "));
        }
        out
    }

    fn summary(&self) -> String {
        let steps = self.explainer.steps.len();
        match self.explainer.shape {
            Shape::Event => "one event:".to_owned(),
            Shape::Sample => format!("a sample of {steps} events with the same key, in any order"),
            Shape::Sequence => {
                let within = self.explainer.span_ns.map_or_else(
                    || ", without a limit of time".to_owned(),
                    |ns| format!(" within {}", span(ns)),
                );
                let joined = match self.rule.join_fields().is_empty() {
                    true => ", of anybody".to_owned(),
                    false => ", joined by".to_owned(),
                };
                let keys: Vec<String> = self
                    .rule
                    .join_fields()
                    .iter()
                    .map(|fields| fields.join(" = "))
                    .collect();
                format!(
                    "a sequence of {steps} steps{within}{joined} {}",
                    keys.join(", and by ")
                )
                .trim_end()
                .to_owned()
            }
        }
    }

    /// Every field it reads, keys included, by name.
    fn fields(&self) -> BTreeSet<String> {
        let steps = self.explainer.steps.iter().chain(&self.explainer.until);
        steps
            .flat_map(|step| {
                let clauses = step.condition.clauses.iter();
                let read = clauses
                    .flat_map(|c| &c.reads)
                    .map(|read| read.path.to_string());
                read.chain(step.key_paths.iter().map(ToString::to_string))
            })
            .collect()
    }

    /// For each kind of event its hooks by sort, each with what it does not see.
    fn hooks(&self) -> BTreeMap<Kind, [Sort; 2]> {
        let mut found = BTreeMap::new();
        for kind in self.kinds.iter() {
            let mut sorts: [Sort; 2] = Default::default();
            for record in sensor_ebpf::Kind::ALL.iter().copied() {
                if !events_of(record).contains(kind) {
                    continue;
                }
                for (sort, hooks) in sorts.iter_mut().zip(kernel::hooks_for(record)) {
                    for PossibleHook { hook, blind_to } in hooks {
                        if !sort.iter().any(|(known, _)| *known == hook) {
                            sort.push((hook, blind_to.to_vec()));
                        }
                    }
                }
            }
            found.insert(kind, sorts);
        }
        found
    }

    /// Kinds of which the kernel passes on only what certain processes do.
    fn narrowed(&self) -> Vec<(Vec<&'static str>, BTreeSet<Box<str>>)> {
        let records = sensor_ebpf::Kind::ALL.iter().copied();
        records
            .filter_map(|record| {
                let events = events_of(record);
                if events.intersects(Kinds::PROCESS) || !events.intersects(self.kinds) {
                    return None;
                }
                let kinds = events.iter().filter(|kind| self.kinds.contains(*kind));
                match rule::actors(&self.rule.query, events) {
                    Actors::Anybody => None,
                    Actors::Named(names) => Some((kinds.map(Kind::action).collect(), names)),
                }
            })
            .filter(|(kinds, _): &(Vec<_>, _)| !kinds.is_empty())
            .collect()
    }

    pub(super) fn json(&self) -> Json {
        let step = |step: &Step| {
            json!({
                "missing": step.missing,
                "runs": step.runs,
                "keys": step.key_paths,
                "condition": tree_json(&step.condition.tree, step),
            })
        };
        let fields = self.fields().into_iter().map(|path| {
            let row = schema::field(&path);
            json!({
                "field": path,
                "type": row.map(|row| row.ty.name()),
                "obtained": row.map(|row| row.how),
                "present": row.is_some() || is_object(&path),
            })
        });
        let hooks = self.hooks().into_iter().map(|(kind, sorts)| {
            let sort = |hooks: &[(String, Vec<&str>)]| {
                let hooks = hooks.iter();
                hooks
                    .map(|(hook, blind)| json!({"hook": hook, "blind_to": blind}))
                    .collect::<Vec<_>>()
            };
            json!({
                "event": kind.action(),
                "first": sort(&sorts[0]),
                "second": sort(&sorts[1]),
            })
        });
        let narrowed = self.narrowed().into_iter().map(|(kinds, names)| {
            json!({"events": kinds, "processes": names.iter().collect::<Vec<_>>()})
        });
        json!({
            "rule": {"id": self.rule.id, "name": self.rule.name},
            "path": self.rule.path.display().to_string(),
            "form": match self.explainer.shape {
                Shape::Event => "event",
                Shape::Sequence => "sequence",
                Shape::Sample => "sample",
            },
            "maxspan_ns": self.explainer.span_ns,
            "steps": self.explainer.steps.iter().map(step).collect::<Vec<_>>(),
            "until": self.explainer.until.as_ref().map(step),
            "pipes": self.rule.query.pipes.len(),
            "fields": fields.collect::<Vec<_>>(),
            "events": hooks.collect::<Vec<_>>(),
            "only_of": narrowed.collect::<Vec<_>>(),
        })
    }
}

/// Whether the name is one above fields of the schema.
fn is_object(path: &str) -> bool {
    let below = |row: &schema::FieldRow| {
        row.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    FIELDS.iter().any(below)
}

fn by(step: &Step) -> String {
    match step.key_paths.is_empty() {
        true => String::new(),
        false => format!(", by {}", step.key_paths.join(" and ")),
    }
}

fn condition(step: &Step, out: &mut String) {
    match &step.condition.tree {
        Tree::All(parts) => parts.iter().for_each(|part| tree_text(part, step, 1, out)),
        tree => tree_text(tree, step, 1, out),
    }
}

fn tree_text(tree: &Tree, step: &Step, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let (heading, parts): (&str, &[Tree]) = match tree {
        Tree::Const(value) => {
            let _ = writeln!(out, "{indent}always {value}");
            return;
        }
        Tree::Clause(number) => {
            if let Some(clause) = step.condition.clauses.get(*number) {
                let _ = writeln!(out, "{indent}{}", cut(&clause.text));
            }
            return;
        }
        Tree::All(parts) => ("all of:", parts),
        Tree::Any(parts) => ("any of:", parts),
        Tree::Not(part) => ("not:", std::slice::from_ref(&**part)),
    };
    let _ = writeln!(out, "{indent}{heading}");
    parts
        .iter()
        .for_each(|part| tree_text(part, step, depth + 1, out));
}

fn tree_json(tree: &Tree, step: &Step) -> Json {
    let list = |parts: &[Tree]| {
        parts
            .iter()
            .map(|part| tree_json(part, step))
            .collect::<Vec<_>>()
    };
    match tree {
        Tree::Const(value) => json!({"always": value}),
        Tree::All(parts) => json!({"all": list(parts)}),
        Tree::Any(parts) => json!({"any": list(parts)}),
        Tree::Not(part) => json!({"not": tree_json(part, step)}),
        Tree::Clause(number) => match step.condition.clauses.get(*number) {
            Some(clause) => json!({"clause": clause.text}),
            None => Json::Null,
        },
    }
}
