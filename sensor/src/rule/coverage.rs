//! What a rule reads, against what the sensor produces here.
//!
//! In: a typed query, its text, and the kinds of events that are given. Out: a [`Judgement`]: everything the rule reads that no
//! event brings, clause by clause, with what comes of it, and the verdict. What can never be true on Linux is dropped first,
//! with the constants of each event kind filled in. It looks at no kernel: what that gives is told to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::acts::{self, Act, about, fitting, named_actions};
use super::fold::{Folded, Open, fields, fold, truth};
use crate::eql::Span;
use crate::eql::query::{Category, Condition, Expr, Filter, Form, Key, Query};
use crate::event::{Kinds, schema};

/// How far a rule can do its work here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Every event and every field it reads is produced.
    Armed,
    /// It can fire, but something it reads is never present.
    Degraded,
    /// It can never fire.
    Blind,
}

impl Verdict {
    pub const ALL: [Verdict; 3] = [Verdict::Armed, Verdict::Degraded, Verdict::Blind];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Armed => "armed",
            Verdict::Degraded => "degraded",
            Verdict::Blind => "blind",
        }
    }
}

/// What a rule lacks, and what that makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Some step can never hold.
    pub is_blind: bool,
    /// It finds all it was written for: at most exclusions and optional fields lack something.
    pub is_positive: bool,
    /// In the order of the steps and of their text.
    pub findings: Vec<Finding>,
}

impl Judgement {
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.is_blind, self.findings.is_empty()) {
            (true, _) => Verdict::Blind,
            (false, true) => Verdict::Armed,
            (false, false) => Verdict::Degraded,
        }
    }

    /// Those findings that keep the rule from firing, or else all.
    #[must_use]
    pub fn decisive(&self) -> Vec<&Finding> {
        let never = |finding: &&Finding| finding.effect == Effect::NeverFires;
        let decisive: Vec<&Finding> = self.findings.iter().filter(never).collect();
        match decisive.is_empty() {
            true => self.findings.iter().collect(),
            false => decisive,
        }
    }
}

/// One thing a rule reads in vain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The step, from 1; what ends a sequence comes after its steps.
    pub step: usize,
    /// Of the query's text: the clause that reads it.
    pub span: Span,
    pub gap: Gap,
    pub effect: Effect,
}

/// What is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// An act that no event reports.
    Action(&'static str),
    /// A field that events of these actions do not have.
    Field {
        path: Box<str>,
        actions: Vec<&'static str>,
        is_key: bool,
    },
    /// A field that is the same on every event of a kind, and on none as asked.
    Value(Box<str>),
    /// No event has this category.
    Category(Box<str>),
    /// No act whatever fits the step.
    Nothing,
    /// Whatever happens: what the clause asks for contradicts itself, in these words.
    Impossible(Box<str>),
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    NeverFires,
    /// Other events fit the step, these do not.
    EventsMissed,
    BranchNeverTaken,
    ExclusionNeverApplies,
    AbsenceAlwaysFound,
    /// The step that must stay away, or that ends the sequence, is not seen.
    EndNotSeen,
}

impl Effect {
    /// Stable name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Effect::NeverFires => "never-fires",
            Effect::EventsMissed => "events-missed",
            Effect::BranchNeverTaken => "branch-never-taken",
            Effect::ExclusionNeverApplies => "exclusion-never-applies",
            Effect::AbsenceAlwaysFound => "absence-always-found",
            Effect::EndNotSeen => "end-not-seen",
        }
    }

    /// In plain words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Effect::NeverFires => "the step can never hold, so the rule can never fire",
            Effect::EventsMissed => "the step misses them",
            Effect::BranchNeverTaken => "this branch is never taken: what only it finds is missed",
            Effect::ExclusionNeverApplies => "the exclusion never applies: more false alarms",
            Effect::AbsenceAlwaysFound => "it always counts as absent: more false alarms",
            Effect::EndNotSeen => "what should hold the alarm back is not seen: more false alarms",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Action(action) => write!(f, "no event `{action}`"),
            Gap::Field { path, actions, .. } => write!(f, "no `{path}` on {}", actions.join(", ")),
            Gap::Value(path) => write!(f, "no event has the wanted `{path}`"),
            Gap::Category(name) => write!(f, "no event of category `{name}`"),
            Gap::Impossible(words) => f.write_str(words),
            Gap::Nothing => f.write_str("no event can match"),
        }
    }
}

impl Finding {
    /// What is missing where: `step 1: no ...`.
    #[must_use]
    pub fn lack(&self) -> String {
        format!("step {}: {}", self.step, self.gap)
    }

    /// The clause on one line, cut where it is long.
    #[must_use]
    pub fn clause(&self, query: &str) -> String {
        const SHOWN_MAX: usize = 70;
        let words: Vec<&str> = self.span.text(query).split_whitespace().collect();
        let text = words.join(" ");
        match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        }
    }

    /// All of it on one line.
    #[must_use]
    pub fn words(&self, query: &str) -> String {
        let clause = self.clause(query);
        let clause = match &self.gap {
            Gap::Field { is_key: true, .. } => " to join by".to_owned(),
            Gap::Value(_) => format!(", `{clause}`"),
            Gap::Field { .. } if !clause.is_empty() => format!(" for `{clause}`"),
            _ => String::new(),
        };
        format!("{}{clause}: {}", self.lack(), self.effect.words())
    }
}

/// What a query reads in vain where these kinds of events are given. `text` is the query's.
#[must_use]
pub fn judge(query: &Query, text: &str, given: Kinds) -> Judgement {
    let own;
    let acts = match given == Kinds::ALL {
        true => acts::all(),
        false => {
            own = acts::acts(given);
            &own
        }
    };
    let steps = steps(query);
    let wanted: Vec<Wanted<'_>> = steps.iter().map(|step| Wanted::by(step, acts)).collect();
    let lives: Vec<bool> = wanted
        .iter()
        .zip(&steps)
        .map(|(of, step)| of.is_live(step, &wanted))
        .collect();
    let mut judge = Judge {
        text,
        is_positive: true,
        findings: BTreeSet::new(),
    };
    for (index, (of, step)) in wanted.iter().zip(&steps).enumerate() {
        let is_live = lives.get(index).copied().unwrap_or_default();
        let context = Context {
            step: index + 1,
            role: step.role,
            is_live,
            lineage: None,
        };
        judge.step(of, step, &context);
        // What a step reads of an earlier one, that one must have.
        for (path, referred, open) in &of.references {
            if let Some(earlier) = wanted.get(*referred) {
                let acts: Vec<&Act> = earlier.acts.iter().map(|(act, _)| act).collect();
                let lacking = lacking(path, &acts, false);
                judge.field(&context, path, lacking, open, true);
            }
        }
        if !is_live {
            judge.why(of, step, &context);
        }
    }
    let is_blind = steps
        .iter()
        .zip(&lives)
        .any(|(step, live)| step.role == Role::Step && !live);
    Judgement {
        is_blind,
        is_positive: judge.is_positive && !is_blind,
        findings: judge.findings.into_iter().collect(),
    }
}

/// False when no step, or not every step of a sequence, can hold on Linux, whatever happens there.
#[must_use]
pub fn is_for_linux(query: &Query) -> bool {
    let linux = |path: &str| (path == "host.os.type").then_some(&["linux"][..]);
    let live = |filter: &Filter| fold(&filter.condition, true, &linux).truth != Some(false);
    steps(query).iter().all(|step| live(step.filter))
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Step,
    /// It must stay away, or ends the sequence.
    Against,
}

/// One filter of a query with its join keys.
pub(super) struct StepOf<'a> {
    pub(super) filter: &'a Filter,
    pub(super) keys: &'a [Key],
    pub(super) role: Role,
}

/// The filters of a query in order; what ends a sequence is one too.
pub(super) fn steps(query: &Query) -> Vec<StepOf<'_>> {
    let step = |filter, keys, role| StepOf { filter, keys, role };
    match &query.form {
        Form::Event(filter) => vec![step(filter, query.terms(), Role::Step)],
        Form::Sample(sample) => {
            let steps = sample.steps.iter();
            steps
                .map(|s| step(&s.filter, &s.keys, Role::Step))
                .collect()
        }
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter().map(|s| {
                let role = if s.missing { Role::Against } else { Role::Step };
                step(&s.filter, &s.keys, role)
            });
            let until = sequence.until.iter();
            steps
                .chain(until.map(|u| step(&u.filter, &u.keys, Role::Against)))
                .collect()
        }
    }
}

/// What one step asks for.
struct Wanted<'a> {
    filter: &'a Filter,
    /// Every act it can take.
    all: Vec<Act>,
    /// Those it is about, each with what is left of its condition.
    acts: Vec<(Act, Vec<Open<'a>>)>,
    /// Actions it asks for by name; without any, those it is about.
    named: Vec<&'static str>,
    /// Fields it reads of earlier steps, with their position and the clause.
    references: Vec<(&'a str, usize, Open<'a>)>,
    /// Filters on ancestors, each with whether they have to be met and whether nothing else will do.
    lineages: Vec<(Wanted<'a>, bool, bool)>,
}

impl<'a> Wanted<'a> {
    fn by(step: &StepOf<'a>, acts: &[Act]) -> Wanted<'a> {
        Wanted::of(step.filter, acts)
    }

    fn of(filter: &'a Filter, acts: &[Act]) -> Wanted<'a> {
        let mut fitting = fitting(filter, acts);
        let all = fitting.iter().map(|(act, _)| *act).collect();
        let mut named = named_actions(filter, &fitting);
        if named.is_empty() {
            about(filter, &mut fitting);
            let is_any = filter.category == Category::Any;
            named = fitting
                .iter()
                .filter(|_| !is_any)
                .map(|(act, _)| act.action)
                .collect();
        }
        let mut wanted = Wanted {
            filter,
            all,
            named,
            acts: Vec::with_capacity(fitting.len()),
            references: Vec::new(),
            lineages: Vec::new(),
        };
        for (
            act,
            Folded {
                leaves, lineages, ..
            },
        ) in fitting
        {
            for open in &leaves {
                for (path, step) in paths(open) {
                    let is_known = |(known, _, of): &(&str, usize, Open<'_>)| {
                        *known == path && of.span == open.span
                    };
                    if let Some(step) = step
                        && !wanted.references.iter().any(is_known)
                    {
                        wanted.references.push((path, step, *open));
                    }
                }
            }
            wanted.acts.push((act, leaves));
            if wanted.lineages.is_empty() {
                let filters = lineages.iter();
                wanted.lineages = filters
                    .map(|l| (Wanted::of(l.filter, acts), l.wanted, l.required))
                    .collect();
            }
        }
        wanted
    }

    /// Whether some event can be this step.
    fn is_live(&self, step: &StepOf<'_>, all: &[Wanted<'_>]) -> bool {
        let earlier = |at: usize, path: &str| {
            all.get(at)
                .is_some_and(|step| step.all.iter().any(|act| act.carries(path)))
        };
        let joins = |act: &Act| {
            let mut keys = step.keys.iter();
            keys.all(|key| key.optional || act.carries(&key.path))
        };
        let mut acts = self.all.iter().filter(|act| act.kind.is_some());
        acts.any(|act| joins(act) && possible(&self.filter.condition, true, act, &earlier))
    }
}

/// Every field an open leaf reads, each once.
fn paths<'a>(open: &Open<'a>) -> BTreeSet<(&'a str, Option<usize>)> {
    let mut found = Vec::new();
    fields(open.expr, &mut found);
    found.into_iter().collect()
}

/// Whether a condition can come out as wanted on an event of an act, with fields it does not have missing: a test of such a field
/// is false, and one for absence true.
fn possible(
    condition: &Condition,
    wanted: bool,
    act: &Act,
    earlier: &dyn Fn(usize, &str) -> bool,
) -> bool {
    let each = |part: &Condition| possible(part, wanted, act, earlier);
    match condition {
        Condition::Const(truth) => *truth == wanted,
        Condition::Not(inner) => possible(inner, !wanted, act, earlier),
        Condition::And(parts) if wanted => parts.iter().all(each),
        Condition::And(parts) => parts.iter().any(each),
        Condition::Or(parts) if wanted => parts.iter().any(each),
        Condition::Or(parts) => parts.iter().all(each),
        Condition::Leaf(leaf) => {
            let constant = |path: &str| act.constant(path);
            if let Some(truth) = truth(&leaf.expr, &constant) {
                return truth == wanted;
            }
            let mut read = Vec::new();
            fields(&leaf.expr, &mut read);
            let is_missing = |(path, step): &(&str, Option<usize>)| match step {
                Some(step) => !earlier(*step, path),
                None => !act.carries(path),
            };
            match read.iter().any(is_missing) && !counts(&leaf.expr) {
                true => asks_for_absence(&leaf.expr) == wanted,
                false => true,
            }
        }
        Condition::Lineage(lineage) => {
            !wanted || {
                let none = |_: usize, _: &str| false;
                let fits = |act: &Act| {
                    act.kind.is_some() && possible(&lineage.filter.condition, true, act, &none)
                };
                let fitting = fitting(&lineage.filter, acts::all());
                fitting.iter().any(|(act, _)| fits(act))
            }
        }
    }
}

fn asks_for_absence(expr: &Expr) -> bool {
    matches!(expr, Expr::IsNull(_))
}

/// Whether a number of elements is compared, which is 0 where there is no field.
fn counts(expr: &Expr) -> bool {
    match expr {
        Expr::Array { count, .. } => *count,
        Expr::Compare { left, right, .. } => counts(left) || counts(right),
        _ => false,
    }
}

/// Those of the acts that are reported, should have the field and do not. `all`: also where it means nothing.
fn lacking(path: &str, acts: &[&Act], all: bool) -> Vec<&'static str> {
    // Where it means nothing on any of them, it is enough that it exists.
    let plain = acts::without_index(path);
    let nowhere = !all && !acts.iter().any(|act| act.may_carry(plain));
    let is_known = schema::field(plain).is_some() || schema::is_object(plain);
    let lacks = |act: &&&Act| match nowhere {
        true => !is_known,
        false => act.kind.is_some() && (all || act.may_carry(plain)) && !act.carries(path),
    };
    let actions: BTreeSet<&'static str> = acts.iter().filter(lacks).map(|act| act.action).collect();
    actions.into_iter().collect()
}

/// The clause that no act at all meets, and the field it is about.
fn undoing(condition: &Condition, wanted: bool) -> Option<(Span, &str)> {
    match condition {
        Condition::And(parts) if wanted => parts.iter().find_map(|part| undoing(part, wanted)),
        Condition::Or(parts) if !wanted => parts.iter().find_map(|part| undoing(part, wanted)),
        Condition::Not(inner) => undoing(inner, !wanted),
        Condition::Leaf(leaf) => {
            let fits = |act: &Act| {
                let constant = |path: &str| act.constant(path);
                truth(&leaf.expr, &constant) != Some(!wanted)
            };
            let mut read = Vec::new();
            fields(&leaf.expr, &mut read);
            let (path, _) = read.first()?;
            (!acts::all().iter().any(fits)).then_some((leaf.span, *path))
        }
        _ => None,
    }
}

/// Where a finding is made.
struct Context {
    step: usize,
    role: Role,
    /// Some event can be this step.
    is_live: bool,
    /// Inside a filter on ancestors: whether it has to be met, and whether nothing else will do.
    lineage: Option<(bool, bool)>,
}

struct Judge<'t> {
    text: &'t str,
    is_positive: bool,
    findings: BTreeSet<Finding>,
}

impl Judge<'_> {
    fn step(&mut self, wanted: &Wanted<'_>, step: &StepOf<'_>, context: &Context) {
        self.acts(wanted, context);
        for key in step.keys {
            let acts: Vec<&Act> = wanted.acts.iter().map(|(act, _)| act).collect();
            let lacking = lacking(&key.path, &acts, false);
            if lacking.is_empty() {
                continue;
            }
            let effect = match (context.role, context.is_live) {
                (Role::Against, _) => Effect::EndNotSeen,
                (Role::Step, true) => Effect::EventsMissed,
                (Role::Step, false) => Effect::NeverFires,
            };
            self.is_positive &= key.optional;
            let span = self.span_of(&key.path, wanted.filter.span);
            let gap = Gap::Field {
                path: key.path.clone(),
                actions: lacking,
                is_key: true,
            };
            self.add(context, span, gap, effect);
        }
    }

    /// Acts that are not reported, and fields that are not there.
    fn acts(&mut self, wanted: &Wanted<'_>, context: &Context) {
        let is_asked = |act: &Act| act.kind.is_none() && wanted.named.contains(&act.action);
        for (act, _) in wanted.acts.iter().filter(|(act, _)| is_asked(act)) {
            self.is_positive = false;
            let effect = match (context.role, context.lineage, context.is_live) {
                (Role::Against, ..) => Effect::EndNotSeen,
                (_, Some((false, _)), _) => Effect::ExclusionNeverApplies,
                (_, Some((true, _)), _) | (_, _, true) => Effect::EventsMissed,
                (_, None, false) => Effect::NeverFires,
            };
            let span = self.span_of(&format!("\"{}\"", act.action), wanted.filter.span);
            self.add(context, span, Gap::Action(act.action), effect);
        }
        let mut readers: BTreeMap<&str, Vec<(&Act, &Open<'_>)>> = BTreeMap::new();
        for (act, leaves) in &wanted.acts {
            for open in leaves {
                let own = paths(open).into_iter().filter(|(_, step)| step.is_none());
                for (path, _) in own {
                    readers.entry(path).or_default().push((act, open));
                }
            }
        }
        for (path, readers) in readers {
            let acts: Vec<&Act> = readers.iter().map(|(act, _)| *act).collect();
            let lacking = lacking(path, &acts, false);
            let mut clauses: BTreeMap<(u32, u32), (&Open<'_>, Vec<&'static str>)> = BTreeMap::new();
            for (act, open) in readers {
                let clause = clauses.entry((open.span.start, open.span.end));
                let (of, actions) = clause.or_insert((open, Vec::new()));
                // Required is what all acts require.
                if of.required && !open.required {
                    *of = open;
                }
                if lacking.contains(&act.action) {
                    actions.push(act.action);
                }
            }
            for (open, actions) in clauses.into_values() {
                self.field(context, path, actions, open, false);
            }
        }
        for (lineage, is_wanted, required) in &wanted.lineages {
            let inner = Context {
                lineage: Some((*is_wanted, *required)),
                ..*context
            };
            self.acts(lineage, &inner);
        }
    }

    /// A clause that reads a field which is not there on events of these actions; `referred` when the field is an earlier step's.
    fn field(
        &mut self,
        context: &Context,
        path: &str,
        actions: Vec<&'static str>,
        open: &Open<'_>,
        referred: bool,
    ) {
        if actions.is_empty() {
            return;
        }
        let absence = asks_for_absence(open.expr);
        let (wanted, required) = match context.lineage {
            None => (open.wanted, open.required),
            Some((true, required)) => (open.wanted, open.required && required),
            Some((false, _)) => (!open.wanted, false),
        };
        // What it comes to without the field, and whether that is what the rule asks for.
        let effect = match (absence == wanted, absence) {
            (true, true) => Effect::AbsenceAlwaysFound,
            (true, false) => Effect::ExclusionNeverApplies,
            (false, _) if required && !context.is_live => Effect::NeverFires,
            (false, _) if required && !referred => Effect::EventsMissed,
            (false, _) => Effect::BranchNeverTaken,
        };
        let effect = match (context.role, absence == wanted) {
            (Role::Step, _) => effect,
            (Role::Against, false) => Effect::EndNotSeen,
            (Role::Against, true) => Effect::EventsMissed,
        };
        // The typed query does not tell `?field` from `field`; its text does.
        let optional = open.span.text(self.text).contains(&format!("?{path}"));
        let must_be_seen = absence && !wanted;
        if absence != wanted && (must_be_seen || !optional) {
            self.is_positive = false;
        }
        let gap = Gap::Field {
            path: path.into(),
            actions,
            is_key: false,
        };
        self.add(context, open.span, gap, effect);
    }

    /// What keeps a step from ever holding, when nothing found so far does.
    fn why(&mut self, wanted: &Wanted<'_>, step: &StepOf<'_>, context: &Context) {
        let is_said = |finding: &Finding| finding.step == context.step;
        let effect = match context.role {
            Role::Step => Effect::NeverFires,
            Role::Against => Effect::EndNotSeen,
        };
        if self
            .findings
            .iter()
            .any(|finding| is_said(finding) && finding.effect == effect)
        {
            return;
        }
        if let Category::Named(name) = &step.filter.category
            && !acts::all()
                .iter()
                .any(|act| act.categories.contains(&&**name))
        {
            let gap = Gap::Category(name.clone());
            self.add(context, step.filter.span, gap, effect);
            return;
        }
        // A field that by its nature no event of the step has.
        for (act, leaves) in &wanted.acts {
            for open in leaves.iter().filter(|open| open.required) {
                let own = paths(open).into_iter().filter(|(_, step)| step.is_none());
                for (path, _) in own {
                    let lacking = lacking(path, &[act], true);
                    if asks_for_absence(open.expr) != open.wanted && !lacking.is_empty() {
                        self.field(context, path, lacking, open, false);
                    }
                }
            }
        }
        if !self.findings.iter().any(is_said) {
            let (span, gap) = match undoing(&step.filter.condition, true) {
                Some((span, path)) => (span, Gap::Value(path.into())),
                None => (step.filter.span, Gap::Nothing),
            };
            self.add(context, span, gap, effect);
        }
    }

    /// Where the query says it, inside a filter or else anywhere.
    fn span_of(&self, needle: &str, within: Span) -> Span {
        let (start, end) = (within.start as usize, within.end as usize);
        let inside = self.text.get(start..end).and_then(|text| text.find(needle));
        match inside
            .map(|at| start + at)
            .or_else(|| self.text.find(needle))
        {
            Some(at) => Span::new(at, at + needle.len()),
            None => within,
        }
    }

    fn add(&mut self, context: &Context, span: Span, gap: Gap, effect: Effect) {
        self.findings.insert(Finding {
            step: context.step,
            span,
            gap,
            effect,
        });
    }
}

#[cfg(test)]
mod tests;
