//! Query forms: what must hold between the steps of a sequence, their keys and names, and for pipes.
//!
//! In: the tree's forms. Out: their typed counterparts with join keys merged, shared ones first.

use super::super::ast;
use super::super::diagnostic::{Kind, Span};
use super::super::query::{
    Category, Condition, Expr, FieldType, Filter, Form, Key, Literal, Pipe, Query, Sample,
    SampleStep, Sequence, Step, Until,
};
use super::super::schema::closest;
use super::{Checker, Scope, Type};
use crate::eql::Mode;

/// Root names of the common schema's field sets: a step named like one would hide the fields below it.
const ROOTS: &[&str] = &[
    "agent",
    "client",
    "cloud",
    "code_signature",
    "container",
    "data_stream",
    "destination",
    "device",
    "dll",
    "dns",
    "ecs",
    "elf",
    "email",
    "error",
    "event",
    "faas",
    "file",
    "geo",
    "group",
    "hash",
    "host",
    "http",
    "interface",
    "labels",
    "log",
    "macho",
    "message",
    "network",
    "observer",
    "orchestrator",
    "organization",
    "os",
    "package",
    "pe",
    "process",
    "registry",
    "related",
    "risk",
    "rule",
    "server",
    "service",
    "source",
    "span",
    "tags",
    "threat",
    "tls",
    "trace",
    "transaction",
    "url",
    "user",
    "user_agent",
    "vlan",
    "volume",
    "vulnerability",
    "x509",
    "events",
];

const PIPES: &[&str] = &[
    "count",
    "filter",
    "head",
    "sort",
    "tail",
    "unique",
    "unique_count",
];

impl Checker<'_> {
    pub(super) fn query(&mut self, tree: &ast::Query) -> Query {
        let (form, events) = match &tree.form {
            ast::Form::Event(event) => {
                let filter = self.filter(event);
                self.warn_constant(&filter);
                (Form::Event(filter), None)
            }
            ast::Form::Sequence(sequence) => {
                let sequence = self.sequence(sequence);
                let events = sequence
                    .steps
                    .iter()
                    .filter(|s| !s.missing)
                    .map(|s| s.runs as usize)
                    .sum();
                (Form::Sequence(sequence), Some(events))
            }
            ast::Form::Sample(sample) => {
                let sample = self.sample(sample);
                let events = sample.steps.len();
                (Form::Sample(sample), Some(events))
            }
        };
        self.scope = events.map_or(Scope::Event, Scope::Match);
        self.aliases.clear();
        let pipes = tree.pipes.iter().filter_map(|p| self.pipe(p)).collect();
        Query { form, pipes }
    }

    pub(super) fn filter(&mut self, event: &ast::Event) -> Filter {
        let category = match &event.category {
            None => Category::Any,
            Some(name) => Category::Named(name.clone()),
        };
        let condition = self.condition(&event.condition);
        Filter {
            category,
            condition,
            span: event.span,
        }
    }

    fn warn_constant(&mut self, filter: &Filter) {
        if matches!(filter.condition, Condition::Const(false)) && !self.has_errors() {
            self.warning(
                Kind::ConstantCondition,
                filter.span,
                "this query can never match",
                "",
            );
        }
    }

    fn sequence(&mut self, tree: &ast::Sequence) -> Sequence {
        self.declare_aliases(&tree.terms);
        let shared = self.keys(&tree.by);
        let mut steps = Vec::with_capacity(tree.terms.len());
        for (index, term) in tree.terms.iter().enumerate() {
            self.scope = Scope::Step(index);
            steps.push(self.step(&shared, term, tree.maxspan.is_some()));
        }
        self.scope = Scope::Event;
        let until = tree.until.as_ref().map(|term| Until {
            filter: self.filter(&term.event),
            keys: self.all_keys(&shared, term),
        });
        self.check_length(tree, &steps);
        let keys = tree
            .terms
            .iter()
            .chain(&tree.until)
            .map(|t| (t, shared.len() + t.by.len()));
        self.check_key_counts(keys);
        Sequence {
            steps,
            maxspan: tree.maxspan,
            until,
        }
    }

    fn step(&mut self, shared: &[Key], term: &ast::Term, has_maxspan: bool) -> Step {
        let filter = self.filter(&term.event);
        if matches!(filter.condition, Condition::Const(false)) && !self.has_errors() {
            let (message, help) = if term.missing {
                (
                    "no event can match this step",
                    "it never rejects anything and may be removed",
                )
            } else {
                (
                    "no event can match this step",
                    "the sequence can never complete",
                )
            };
            self.warning(Kind::UnreachableStep, term.span, message, help);
        }
        let start = Span {
            start: term.span.start,
            end: term.span.start + 2,
        };
        if term.missing && !has_maxspan {
            let help = "without `with maxspan=..` an absence is never certain";
            self.error(
                Kind::MissingWithoutMaxspan,
                start,
                "a missing event needs maxspan",
                help,
            );
        }
        if let (true, Some(alias)) = (term.missing, &term.alias) {
            let help = "there is no event to refer to";
            self.error(
                Kind::MissingAlias,
                alias.span,
                "a missing event cannot be named",
                help,
            );
        }
        if let (true, Some(runs)) = (term.missing, term.runs) {
            let help = "one missing event is as good as many; remove it";
            self.warning(
                Kind::MissingRuns,
                runs.span,
                "`with runs` has no effect on a missing event",
                help,
            );
        }
        Step {
            keys: self.all_keys(shared, term),
            filter,
            runs: if term.missing {
                1
            } else {
                term.runs.map_or(1, |r| r.count)
            },
            missing: term.missing,
            alias: term.alias.as_ref().map(|a| a.name.clone()),
            span: term.span,
        }
    }

    fn declare_aliases(&mut self, terms: &[ast::Term]) {
        for (index, term) in terms.iter().enumerate() {
            let Some(alias) = &term.alias else { continue };
            let name = &alias.name;
            if self.aliases.iter().any(|(other, _)| other == name) {
                let message = format!("two steps are named `{name}`");
                self.error(
                    Kind::DuplicateAlias,
                    alias.span,
                    message,
                    "give each step its own name",
                );
                continue;
            }
            let known = self.schema.is_object(name);
            if known || ROOTS.contains(&&**name) {
                let message = format!("step name `{name}` hides the fields below `{name}`");
                self.error(
                    Kind::AliasShadowsField,
                    alias.span,
                    message,
                    "choose another name, for example `event0`",
                );
            }
            self.aliases.push((name.clone(), index));
        }
    }

    fn check_length(&mut self, tree: &ast::Sequence, steps: &[Step]) {
        let stages: usize = steps.iter().map(|s| s.runs as usize).sum();
        let span = tree
            .terms
            .iter()
            .fold(tree.span, |span, term| span.to(term.span));
        if steps.is_empty() || self.broken && stages < 2 {
            if !self.broken && tree.terms.is_empty() {
                self.error(
                    Kind::SequenceTooShort,
                    span,
                    "sequence has no steps",
                    "write at least two: `[..] [..]`",
                );
            }
        } else if steps.iter().all(|s| s.missing) {
            let help = "at least one step must be an event that happens";
            self.error(
                Kind::NoPositiveStep,
                span,
                "sequence has only missing events",
                help,
            );
        } else if stages < 2 {
            let help = "add a step, repeat it `with runs=2`, or write an event query";
            self.error(
                Kind::SequenceTooShort,
                span,
                "sequence has only one step",
                help,
            );
        }
    }

    fn check_key_counts<'t>(&mut self, terms: impl Iterator<Item = (&'t ast::Term, usize)>) {
        let mut first = None;
        for (term, count) in terms {
            let expected = *first.get_or_insert(count);
            if count != expected {
                let span = match (term.by.first(), term.by.last()) {
                    (Some(a), Some(b)) => a.span.to(b.span),
                    _ => term.span,
                };
                let message =
                    format!("this step has {count} join keys, the first one has {expected}");
                let help =
                    "shared keys and the step's own keys must add up to the same number everywhere";
                self.error(Kind::KeyCount, span, message, help);
            }
        }
    }

    fn all_keys(&mut self, shared: &[Key], term: &ast::Term) -> Vec<Key> {
        let own = self.keys(&term.by);
        shared.iter().cloned().chain(own).collect()
    }

    fn keys(&mut self, tree: &[ast::Key]) -> Vec<Key> {
        let scope = std::mem::replace(&mut self.scope, Scope::Event);
        let mut keys: Vec<Key> = Vec::with_capacity(tree.len());
        for path in tree {
            let ty = match self.field(path) {
                Some(field) => field.ty,
                None => FieldType::Any,
            };
            if self.schema.is_object(&path.text) {
                let message = format!("`{}` is an object, not a value", path.text);
                self.error(
                    Kind::ObjectField,
                    path.span,
                    message,
                    "a join key must be a field that holds values",
                );
            }
            keys.push(Key {
                path: path.text.clone(),
                ty,
                optional: path.optional,
            });
        }
        self.scope = scope;
        keys
    }

    fn sample(&mut self, tree: &ast::Sample) -> Sample {
        let shared = self.keys(&tree.by);
        let mut steps = Vec::with_capacity(tree.terms.len());
        for term in &tree.terms {
            let filter = self.filter(&term.event);
            if matches!(filter.condition, Condition::Const(false)) && !self.has_errors() {
                let help = "the sample can never be complete";
                self.warning(
                    Kind::UnreachableStep,
                    term.span,
                    "no event can match this filter",
                    help,
                );
            }
            steps.push(SampleStep {
                filter,
                keys: self.all_keys(&shared, term),
            });
        }
        if steps.len() < 2 && !self.broken {
            self.error(
                Kind::SampleTooShort,
                tree.span,
                "a sample needs at least two filters",
                "",
            );
        }
        if steps.iter().any(|s| s.keys.is_empty()) && !self.broken {
            let help = "without a key any events would do; write `sample by ..`";
            self.error(
                Kind::SampleWithoutKeys,
                tree.span,
                "a sample needs join keys",
                help,
            );
        }
        let keys = tree.terms.iter().map(|t| (t, shared.len() + t.by.len()));
        self.check_key_counts(keys);
        Sample { steps }
    }

    fn pipe(&mut self, tree: &ast::Pipe) -> Option<Pipe> {
        let name: &str = &tree.name;
        if !PIPES.contains(&name) {
            let help = match closest(name, PIPES.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", PIPES.join(", ")),
            };
            self.error(
                Kind::UnknownPipe,
                tree.name_span,
                format!("unknown pipe `{name}`"),
                help,
            );
            return None;
        }
        if self.mode == Mode::Live && matches!(name, "tail" | "sort" | "count" | "unique_count") {
            let message = format!("`{name}` can only answer at the end of the input");
            let help = "a live stream has none; use `head`, `filter` or `unique`, or replay recorded events";
            self.error(Kind::PipeNeedsEnd, tree.span, message, help);
        }
        Some(match name {
            "head" => {
                if self.mode == Mode::Live {
                    let message = "after `head` the rule is silent for good";
                    let help =
                        "it counts from the moment the rule is loaded; remove it to keep matching";
                    self.warning(Kind::HeadRetires, tree.span, message, help);
                }
                Pipe::Head(self.pipe_count(tree)?)
            }
            "tail" => Pipe::Tail(self.pipe_count(tree)?),
            "filter" => match tree.args.as_slice() {
                [condition] => Pipe::Filter(self.condition(condition)),
                _ => {
                    return self
                        .pipe_arguments(tree, "one condition, as in `filter process.pid > 1`");
                }
            },
            "count" => Pipe::Count(self.pipe_values(tree)),
            _ if tree.args.is_empty() => {
                return self.pipe_arguments(tree, "at least one expression");
            }
            "unique" => Pipe::Unique(self.pipe_values(tree)),
            "unique_count" => Pipe::UniqueCount(self.pipe_values(tree)),
            _ => Pipe::Sort(self.pipe_values(tree)),
        })
    }

    fn pipe_values(&mut self, tree: &ast::Pipe) -> Vec<Expr> {
        tree.args
            .iter()
            .map(|arg| self.expression(arg).expr)
            .collect()
    }

    fn pipe_count(&mut self, tree: &ast::Pipe) -> Option<u64> {
        if let [arg] = tree.args.as_slice() {
            let typed = self.expression(arg);
            if let Some(Literal::Int(n)) = typed.literal()
                && let Ok(n) = u64::try_from(*n)
            {
                return Some(n);
            }
            if typed.ty == Type::Any && self.broken {
                return None;
            }
        }
        self.pipe_arguments(tree, "one number, as in `head 10`")
    }

    fn pipe_arguments<T>(&mut self, tree: &ast::Pipe, allowed: &str) -> Option<T> {
        let message = format!("wrong arguments of pipe `{}`", tree.name);
        self.error(
            Kind::PipeArguments,
            tree.span,
            message,
            format!("it takes {allowed}"),
        );
        None
    }
}
