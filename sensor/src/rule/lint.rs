//! What is suspicious about a query that is in order: it can not do what it seems to be for.
//!
//! In: a typed query and its text. Out: warnings and notes, each with its clause: fields that the events of a step never have,
//! literals that no value can be, steps that contradict themselves, keys that never agree. It looks at no event.

use std::collections::BTreeSet;

use super::acts::{self, Act};
use super::coverage::{Effect, Finding, Gap, Role, StepOf, steps};
use super::fold::{Open, fields, fold};
use super::literal;
use crate::eql::query::{Comparison, Condition, Expr, FieldType, Filter, Form, Literal, Query};
use crate::eql::{Severity, Span};
use crate::event::schema;

/// One suspicion.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lint {
    pub(super) span: Span,
    pub(super) severity: Severity,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: String,
    /// The step, from 1, that can never hold for it.
    fatal: Option<usize>,
}

impl Lint {
    /// The same as a finding, when the rule can never fire for it.
    pub(super) fn never_fires(&self) -> Option<Finding> {
        Some(Finding {
            step: self.fatal?,
            span: self.span,
            gap: Gap::Impossible(self.message.clone().into()),
            effect: Effect::NeverFires,
        })
    }
}

/// Everything suspicious, in the order of the text. `is_own`: written for this sensor alone.
pub(super) fn lints(query: &Query, text: &str, is_own: bool) -> Vec<Lint> {
    let steps: Vec<Step<'_>> = steps(query).into_iter().map(Step::of).collect();
    let mut linter = Linter {
        text,
        is_own,
        fatal: None,
        found: BTreeSet::new(),
    };
    for (index, step) in steps.iter().enumerate() {
        linter.fields(step);
        let is_step = step.of.role == Role::Step;
        for open in &step.written {
            let decides = is_step && open.wanted && open.required;
            linter.fatal = decides.then_some(index + 1);
            linter.literals(open);
        }
        linter.fatal = is_step.then_some(index + 1);
        linter.contradictions(step);
        linter.fatal = None;
        let mut lineages = Vec::new();
        ancestors(&step.of.filter.condition, &mut lineages);
        for lineage in lineages {
            if acts::is_void(lineage) {
                let help = "no event fits its filter, so this part is always false";
                linter.add(
                    lineage.span,
                    Severity::Note,
                    "no-such-event",
                    "no process is ever found here",
                    help,
                );
            }
        }
    }
    if matches!(query.form, Form::Sequence(_) | Form::Sample(_)) {
        linter.keys(&steps);
    }
    linter.found.into_iter().collect()
}

/// Every filter on ancestors.
fn ancestors<'a>(condition: &'a Condition, found: &mut Vec<&'a Filter>) {
    match condition {
        Condition::Const(_) | Condition::Leaf(_) => {}
        Condition::Not(inner) => ancestors(inner, found),
        Condition::And(parts) | Condition::Or(parts) => {
            parts.iter().for_each(|part| ancestors(part, found));
        }
        Condition::Lineage(lineage) => found.push(&lineage.filter),
    }
}

/// One step, with the acts it is about and what their constants leave open of its condition.
struct Step<'a> {
    of: StepOf<'a>,
    acts: Vec<Act>,
    leaves: Vec<Open<'a>>,
    /// Every leaf that counts on Linux, constants or not.
    written: Vec<Open<'a>>,
}

impl<'a> Step<'a> {
    fn of(of: StepOf<'a>) -> Step<'a> {
        let mut fitting = acts::fitting(of.filter, acts::all());
        if acts::named_actions(of.filter, &fitting).is_empty() {
            acts::about(of.filter, &mut fitting);
        }
        let mut leaves: Vec<Open<'a>> = Vec::new();
        for (_, folded) in &fitting {
            for open in &folded.leaves {
                match leaves.iter_mut().find(|known| known.span == open.span) {
                    // Required is what all acts require.
                    Some(known) => known.required &= open.required,
                    None => leaves.push(*open),
                }
            }
        }
        let linux = |path: &str| (path == "host.os.type").then_some(&["linux"][..]);
        Step {
            written: fold(&of.filter.condition, true, &linux).leaves,
            of,
            acts: fitting.into_iter().map(|(act, _)| act).collect(),
            leaves,
        }
    }

    /// What a single-valued field must be one of, by the clauses that have to hold.
    fn must_be(&self, path: &str) -> Vec<(BTreeSet<String>, Span)> {
        let is_single =
            schema::field(path).is_some_and(|row| !row.array && row.all_values.is_none());
        let wanted = self
            .leaves
            .iter()
            .filter(|open| open.wanted && open.required);
        wanted
            .filter(|_| is_single)
            .filter_map(|open| Some((one_of(open.expr, path)?, open.span)))
            .collect()
    }
}

/// The values a clause allows a field, in lower case: whether letters' case counts makes no odds to what is disjoint.
fn one_of(expr: &Expr, path: &str) -> Option<BTreeSet<String>> {
    let is_it =
        |value: &Expr| matches!(value, Expr::Field(f) if f.step.is_none() && *f.path == *path);
    let texts = |list: &[Expr]| list.iter().map(plain).collect::<Option<BTreeSet<String>>>();
    match expr {
        Expr::Compare {
            op: Comparison::Equal,
            left,
            right,
        } if is_it(left) => texts(std::slice::from_ref(right)),
        Expr::In { value, list, .. } if is_it(value) => texts(list),
        _ => None,
    }
}

fn plain(literal: &Expr) -> Option<String> {
    match literal {
        Expr::Literal(Literal::Str(text)) => Some(text.to_lowercase()),
        Expr::Literal(Literal::Int(number)) => Some(number.to_string()),
        _ => None,
    }
}

struct Linter<'t> {
    text: &'t str,
    is_own: bool,
    /// The step that can never hold for what is found now.
    fatal: Option<usize>,
    found: BTreeSet<Lint>,
}

impl Linter<'_> {
    fn add(
        &mut self,
        span: Span,
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.insert(Lint {
            span,
            severity,
            code,
            message: message.into(),
            help: help.into(),
            fatal: self.fatal,
        });
    }

    /// Fields that exist, but on none of the events of the step.
    fn fields(&mut self, step: &Step<'_>) {
        if step.acts.is_empty() {
            return;
        }
        self.fatal = None;
        for open in &step.leaves {
            let mut read = Vec::new();
            fields(open.expr, &mut read);
            for (path, _) in read.into_iter().filter(|(_, earlier)| earlier.is_none()) {
                let Some(row) = schema::field(acts::without_index(path)) else {
                    continue;
                };
                if step.acts.iter().any(|act| act.carries(path)) {
                    continue;
                }
                let on: BTreeSet<&str> = step.acts.iter().map(|act| act.action).collect();
                let on: Vec<&str> = on.into_iter().collect();
                let has: Vec<&str> = row.kinds.iter().map(|kind| kind.action()).take(4).collect();
                // Public rules exclude by fields that only some of a category's events have.
                let is_usual = !self.is_own && !open.wanted;
                let severity = if is_usual {
                    Severity::Note
                } else {
                    Severity::Warning
                };
                let message = format!("`{path}` never occurs on {}", on.join(", "));
                let help = format!("it occurs on {}", has.join(", "));
                self.add(open.span, severity, "field-never-occurs", message, help);
            }
        }
    }

    /// Literals that the field of a clause can never be.
    fn literals(&mut self, open: &Open<'_>) {
        let (value, literals, sort) = match open.expr {
            Expr::Compare { op, left, right } => {
                let sort = literal::Sort::Compared(*op);
                (left, vec![&**right], sort)
            }
            Expr::In { value, list, .. } => {
                let sort = literal::Sort::Compared(Comparison::Equal);
                (value, list.iter().collect(), sort)
            }
            Expr::Like {
                value, patterns, ..
            } => {
                self.patterns(open, value, patterns);
                return;
            }
            _ => return,
        };
        let Expr::Field(field) = &**value else {
            return;
        };
        let reasons: Vec<Option<(String, literal::Reason)>> = literals
            .iter()
            .map(|of| match of {
                Expr::Literal(found) => {
                    let reason = literal::why_never(&field.path, found, sort, self.is_own)?;
                    Some((literal::shown(found), reason))
                }
                _ => None,
            })
            .collect();
        let word = match sort {
            literal::Sort::Compared(Comparison::Less) => "less than ",
            literal::Sort::Compared(Comparison::LessEqual) => "at most ",
            literal::Sort::Compared(Comparison::Greater) => "more than ",
            literal::Sort::Compared(Comparison::GreaterEqual) => "at least ",
            _ => "",
        };
        self.never(open, &field.path, word, reasons);
    }

    fn patterns(&mut self, open: &Open<'_>, value: &Expr, patterns: &[Box<str>]) {
        let Expr::Field(field) = value else {
            return;
        };
        let reasons = patterns.iter().map(|pattern| {
            let found = Literal::Str(pattern.clone());
            let reason =
                literal::why_never(&field.path, &found, literal::Sort::Pattern, self.is_own)?;
            Some((literal::shown(&found), reason))
        });
        self.never(open, &field.path, "", reasons.collect());
    }

    /// Tells of the whole clause when none of its literals can be, and else of each that can't.
    fn never(
        &mut self,
        open: &Open<'_>,
        path: &str,
        word: &str,
        reasons: Vec<Option<(String, literal::Reason)>>,
    ) {
        let all = reasons.iter().all(Option::is_some);
        if !all {
            self.fatal = None;
        }
        for (text, reason) in reasons.into_iter().flatten() {
            let message = match (all, open.wanted) {
                (false, _) => format!("`{path}` is never {word}{text}"),
                (true, true) => format!("`{path}` is never {word}{text}: this clause never holds"),
                (true, false) => {
                    format!("`{path}` is never {word}{text}: this exclusion never applies")
                }
            };
            let severity = if all || self.is_own {
                Severity::Warning
            } else {
                Severity::Note
            };
            let span = self.span_of(&text, open.span);
            self.add(span, severity, reason.code, message, reason.help);
        }
    }

    fn span_of(&self, literal: &str, within: Span) -> Span {
        match within.text(self.text).find(literal) {
            Some(at) => {
                let start = within.start as usize + at;
                Span::new(start, start + literal.len())
            }
            None => within,
        }
    }

    /// Two clauses that one value can't both meet.
    fn contradictions(&mut self, step: &Step<'_>) {
        let mut paths = BTreeSet::new();
        for open in step
            .leaves
            .iter()
            .filter(|open| open.wanted && open.required)
        {
            let mut read = Vec::new();
            fields(open.expr, &mut read);
            paths.extend(read.into_iter().map(|(path, _)| path));
        }
        for path in paths {
            let must = step.must_be(path);
            for (index, (one, span)) in must.iter().enumerate() {
                let mut later = must.iter().skip(index + 1);
                if let Some((_, other)) = later.find(|(other, _)| one.is_disjoint(other)) {
                    let first = span.text(self.text).split_whitespace();
                    let first: Vec<&str> = first.collect();
                    let message = format!("no event meets this and `{}`", first.join(" "));
                    let help = "the step can never hold; is `or` meant?";
                    self.add(*other, Severity::Warning, "unreachable-step", message, help);
                }
            }
        }
    }

    /// Join keys that can't be equal.
    fn keys(&mut self, steps: &[Step<'_>]) {
        let Some((first, rest)) = steps.split_first() else {
            return;
        };
        for (at, key) in first.of.keys.iter().enumerate() {
            for (index, step) in rest.iter().enumerate() {
                let Some(other) = step.of.keys.get(at) else {
                    continue;
                };
                let joins = step.of.role == Role::Step && !(key.optional && other.optional);
                self.fatal = joins.then_some(index + 2);
                let (one, two) = (&*key.path, &*other.path);
                let help = match unequal(one, key.ty, two, other.ty) {
                    Some(help) => help,
                    None => {
                        let mut pairs = first.must_be(one).into_iter().flat_map(|(values, _)| {
                            let others = step.must_be(two).into_iter();
                            others.map(move |(other, _)| (values.clone(), other))
                        });
                        let Some((values, others)) = pairs.find(|(a, b)| a.is_disjoint(b)) else {
                            continue;
                        };
                        let list = |values: BTreeSet<String>| {
                            values.into_iter().take(4).collect::<Vec<_>>().join(", ")
                        };
                        format!("one is {}, the other {}", list(values), list(others))
                    }
                };
                let message =
                    format!("`{one}` and `{two}` can never be equal: the steps never join");
                let span = self.key_span(two, step.of.filter.span);
                self.add(span, Severity::Warning, "keys-never-equal", message, help);
            }
        }
    }

    /// A step's own key stands behind it, a shared one before all.
    fn key_span(&self, path: &str, filter: Span) -> Span {
        let end = filter.end as usize;
        let behind = self.text.get(end..).unwrap_or_default();
        let until = behind.find('[').unwrap_or(behind.len());
        let own = behind.get(..until).and_then(|text| text.find(path));
        match own.map(|at| end + at).or_else(|| self.text.find(path)) {
            Some(at) => Span::new(at, at + path.len()),
            None => filter,
        }
    }
}

/// Why values of two fields are never the same.
fn unequal(one: &str, one_ty: FieldType, two: &str, two_ty: FieldType) -> Option<String> {
    let sort = |ty: FieldType| match ty {
        FieldType::Any => None,
        FieldType::Keyword | FieldType::Version => Some("text"),
        FieldType::Number => Some("a number"),
        FieldType::Boolean => Some("true or false"),
        FieldType::Ip => Some("an address"),
        FieldType::Date => Some("a time"),
    };
    if let (Some(a), Some(b)) = (sort(one_ty), sort(two_ty))
        && a != b
    {
        return Some(format!("one is {a}, the other {b}"));
    }
    let (a, b) = (literal::class(one), literal::class(two));
    let is = |class| a == Some(class) || b == Some(class);
    (is(literal::Class::Path) && (is(literal::Class::Name) || is(literal::Class::Extension)))
        .then(|| "one is a path, the other a name without `/`".to_owned())
}
