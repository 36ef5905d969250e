//! Typed queries to plans.
//!
//! In: the queries of all rules. Out: filters over shared leaves, who waits for each filter, and the plan of every rule.
//! Equal filters of different rules become one. Refuses what passes a limit, naming it; never fails on a checked query.

use hashbrown::HashMap;

use crate::eql::query::{
    self, Category, Comparison, Condition, Expr, Field, FieldType, Form, Literal, Query,
};

use super::condition::{Cond, Program, Test, relation_code};
use super::expression::Expression;
use super::key::{KeyField, KeyPlan};
use super::leaf::LeafBuilder;
use super::lineage::{MARKS_MAX, Mark};
use super::pipes::{self, PipePlan};
use super::sample::Sample;
use super::sequence::{Role, Sequence, StepPlan};

/// A query the engine cannot take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    #[error("cannot compile the regular expression `{pattern}`")]
    Regex {
        pattern: Box<str>,
        source: Box<regex::Error>,
    },
    #[error("cannot compile a regular expression of a field")]
    Regexes(#[source] Box<regex_automata::meta::BuildError>),
    #[error("cannot build the pattern automaton of a field")]
    Patterns(#[source] aho_corasick::BuildError),
    #[error("more than {max} steps in one query")]
    TooManySteps { max: usize },
    #[error(
        "more than {max} distinct queries inside `descendant of`, `child of` and `event of`, over all rules"
    )]
    TooManyLineages { max: usize },
    #[error("more leaves than can be numbered, over all rules")]
    TooManyLeaves,
    #[error("the condition nests deeper than {max}")]
    TooDeep { max: usize },
}

/// Steps are bits of a word.
pub(super) const STEPS_MAX: usize = 64;
/// Far beyond what the checker lets through; protects the stack from queries built by other means.
const DEPTH_MAX: usize = 1000;

/// Who wants to know when a filter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consumer {
    /// Step of the plan with this number; event queries have one step. A `later` one waits only where a partial match has
    /// come to it.
    Step {
        plan: u32,
        step: u8,
        later: bool,
    },
    Until {
        plan: u32,
    },
    Mark(Mark),
}

impl Consumer {
    /// The only step of an event query, or one of a sample.
    fn only(plan: u32, step: u8) -> Self {
        Consumer::Step {
            plan,
            step,
            later: false,
        }
    }

    pub(super) fn is_later(self) -> bool {
        matches!(self, Consumer::Step { later: true, .. })
    }
}

/// A condition over one event and who waits for it.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) cond: Cond,
    pub(super) consumers: Vec<Consumer>,
}

/// One rule, compiled.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rule: usize,
    pub(super) form: PlanForm,
    pub(super) pipes: Vec<PipePlan>,
    /// Tells whether a saved state belongs to this very query.
    pub(super) fingerprint: u64,
}

#[derive(Debug)]
pub(super) enum PlanForm {
    Event,
    Sequence(Sequence),
    Sample(Sample),
}

/// Rules as they are added.
#[derive(Debug)]
pub(super) struct Compiler {
    pub(super) leaves: LeafBuilder,
    pub(super) filters: Vec<Filter>,
    by_cond: HashMap<Box<str>, usize>,
    pub(super) plans: Vec<Plan>,
    marks: HashMap<Box<str>, Mark>,
    /// Per mark, what tells its inner query from others in every rule set.
    pub(super) mark_names: Vec<u64>,
    /// Distinct key lists, by their number.
    key_lists: Vec<Box<[KeyField]>>,
    pub(super) category: Box<str>,
    /// Every field counts as one whose values come back. On only to test that it makes no difference.
    pub(super) all_steady: bool,
}

impl Compiler {
    pub(super) fn new(category: &str) -> Self {
        Self {
            leaves: LeafBuilder::new(),
            filters: Vec::new(),
            by_cond: HashMap::new(),
            plans: Vec::new(),
            marks: HashMap::new(),
            mark_names: Vec::new(),
            key_lists: Vec::new(),
            category: category.into(),
            all_steady: false,
        }
    }

    pub(super) fn add(&mut self, rule: usize, query: &Query) -> Result<(), CompileError> {
        let plan = u32::try_from(self.plans.len()).map_err(|_| CompileError::TooManyLeaves)?;
        let mut consumers = Vec::new();
        let form = match &query.form {
            Form::Event(filter) => {
                consumers.push((self.filter(filter)?, Consumer::only(plan, 0)));
                PlanForm::Event
            }
            Form::Sequence(sequence) => {
                PlanForm::Sequence(self.sequence(rule, plan, sequence, &mut consumers)?)
            }
            Form::Sample(sample) => {
                too_many_steps(sample.steps.len())?;
                let mut keys = Vec::new();
                for (step, at) in sample.steps.iter().zip(0u8..) {
                    keys.push(self.keys(&step.keys)?);
                    consumers.push((self.filter(&step.filter)?, Consumer::only(plan, at)));
                }
                PlanForm::Sample(Sample { rule, keys })
            }
        };
        let pipes = query
            .pipes
            .iter()
            .map(|p| pipes::compile(p, &mut self.leaves))
            .collect::<Result<_, _>>()?;
        for (cond, consumer) in consumers {
            self.register(cond, consumer);
        }
        let fingerprint = fingerprint(query);
        self.plans.push(Plan {
            rule,
            form,
            pipes,
            fingerprint,
        });
        Ok(())
    }

    fn register(&mut self, cond: Cond, consumer: Consumer) {
        let key = format!("{cond:?}");
        if self.leaves.intern
            && let Some(filter) = self
                .by_cond
                .get(key.as_str())
                .and_then(|i| self.filters.get_mut(*i))
        {
            filter.consumers.push(consumer);
            return;
        }
        self.by_cond.insert(key.into(), self.filters.len());
        self.filters.push(Filter {
            cond,
            consumers: vec![consumer],
        });
    }

    fn sequence(
        &mut self,
        rule: usize,
        plan: u32,
        sequence: &query::Sequence,
        consumers: &mut Vec<(Cond, Consumer)>,
    ) -> Result<Sequence, CompileError> {
        too_many_steps(sequence.steps.len())?;
        let first = sequence.steps.iter().position(|s| !s.missing).unwrap_or(0);
        let last = sequence.steps.iter().rposition(|s| !s.missing).unwrap_or(0);
        let mut stages = Vec::new();
        let mut steps = Vec::new();
        let mut newest_alias = None;
        for (i, step) in sequence.steps.iter().enumerate() {
            let cond = self.filter(&step.filter)?;
            if cond.has_alias() {
                newest_alias = Some(i);
            }
            let role = if !step.missing {
                let count = step.runs.max(1) as usize;
                let role = Role::Stages {
                    first: stages.len(),
                    count,
                };
                stages.extend(std::iter::repeat_n(u32::try_from(i).unwrap_or(0), count));
                role
            } else if i < first {
                Role::Leading
            } else if i > last {
                Role::Trailing
            } else {
                Role::Inner {
                    position: stages.len() - 1,
                }
            };
            steps.push(self.step_plan(role, &step.keys, &cond)?);
            let later = !matches!(role, Role::Stages { first: 0, .. } | Role::Leading);
            let step = u8::try_from(i).unwrap_or(u8::MAX);
            consumers.push((
                cond.without_aliases(true),
                Consumer::Step { plan, step, later },
            ));
        }
        let until = match &sequence.until {
            None => None,
            Some(until) => {
                let cond = self.filter(&until.filter)?;
                let step = self.step_plan(Role::Until, &until.keys, &cond)?;
                consumers.push((cond.without_aliases(true), Consumer::Until { plan }));
                Some(step)
            }
        };
        // A position keeps several partials when a step after it chooses by alias; a repeated step comes after itself.
        let followers = stages.iter().skip(1).copied().chain([u32::MAX]);
        let several = stages
            .iter()
            .zip(followers)
            .map(|(step, follower)| {
                newest_alias.is_some_and(|newest| {
                    let step = *step as usize;
                    newest > step || (newest == step && follower as usize == step)
                })
            })
            .collect();
        let steps_that = |wanted: fn(Role) -> bool| {
            let bits = (0u32..).zip(&steps).filter(|(_, s)| wanted(s.role));
            bits.fold(0u64, |mask, (i, _)| mask | 1 << i)
        };
        let leading = steps.iter().any(|s| s.role == Role::Leading);
        let opens = |s: &StepPlan| s.role == Role::Stages { first: 0, count: 1 };
        let opener = (0u32..).zip(&steps).find(|(_, s)| opens(s));
        let opener = opener.filter(|_| sequence.maxspan.is_some() && !leading && stages.len() > 1);
        Ok(Sequence {
            opener: opener.map(|(at, _)| at),
            rule,
            removing: steps_that(|r| matches!(r, Role::Inner { .. } | Role::Trailing)),
            advancing: steps_that(|r| matches!(r, Role::Stages { .. })),
            noting: steps_that(|r| r == Role::Leading),
            leading,
            trailing: steps.iter().any(|s| s.role == Role::Trailing),
            steps,
            stages,
            span_ns: sequence
                .maxspan
                .map(|d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
            until,
            several,
        })
    }

    fn step_plan(
        &mut self,
        role: Role,
        keys: &[query::Key],
        cond: &Cond,
    ) -> Result<StepPlan, CompileError> {
        let alias = cond
            .has_alias()
            .then(|| Program::new(cond, &|test| matches!(test, Test::Alias(_)).into()));
        Ok(StepPlan {
            role,
            keys: self.keys(keys)?,
            alias,
        })
    }

    fn keys(&mut self, keys: &[query::Key]) -> Result<KeyPlan, CompileError> {
        let fields = keys.iter().map(|k| KeyField {
            slot: self.leaves.paths.intern(&k.path),
            ty: k.ty,
            optional: k.optional,
        });
        let fields: Box<[KeyField]> = fields.collect();
        let known = self.key_lists.iter().position(|list| *list == fields);
        let id = known.unwrap_or(self.key_lists.len());
        if known.is_none() {
            self.key_lists.push(fields.clone());
        }
        let id = u32::try_from(id).map_err(|_| CompileError::TooManyLeaves)?;
        Ok(KeyPlan { id, fields })
    }

    /// Category and condition as one.
    fn filter(&mut self, filter: &query::Filter) -> Result<Cond, CompileError> {
        let condition = self.condition(&filter.condition, 0)?;
        match &filter.category {
            Category::Any => Ok(condition),
            Category::Named(name) => {
                let field = Field {
                    path: self.category.clone(),
                    ty: FieldType::Keyword,
                    step: None,
                };
                let category = self.leaves.leaf(&Expr::Compare {
                    op: Comparison::Equal,
                    left: Box::new(Expr::Field(field)),
                    right: Box::new(Expr::Literal(Literal::Str(name.clone()))),
                })?;
                Ok(Cond::and(vec![category, condition]))
            }
        }
    }

    fn condition(&mut self, condition: &Condition, depth: usize) -> Result<Cond, CompileError> {
        if depth > DEPTH_MAX {
            return Err(CompileError::TooDeep { max: DEPTH_MAX });
        }
        let mut list = |parts: &[Condition]| -> Result<Vec<Cond>, CompileError> {
            parts.iter().map(|p| self.condition(p, depth + 1)).collect()
        };
        Ok(match condition {
            Condition::Const(b) => Cond::Const(*b),
            Condition::And(parts) => Cond::and(list(parts)?),
            Condition::Or(parts) => Cond::or(list(parts)?),
            Condition::Not(inner) => Cond::not(self.condition(inner, depth + 1)?),
            Condition::Leaf(leaf) => self.leaves.leaf(&leaf.expr)?,
            Condition::Lineage(lineage) => {
                let inner = self.filter(&lineage.filter)?;
                let mark = self.mark(inner, fingerprint(&lineage.filter))?;
                Cond::Test(Test::Lineage(mark, relation_code(lineage.relation)))
            }
        })
    }

    fn mark(&mut self, cond: Cond, name: u64) -> Result<Mark, CompileError> {
        let key = format!("{cond:?}");
        if let Some(mark) = self.marks.get(key.as_str()) {
            return Ok(*mark);
        }
        if self.marks.len() >= MARKS_MAX {
            return Err(CompileError::TooManyLineages { max: MARKS_MAX });
        }
        let mark = Mark(u8::try_from(self.marks.len()).unwrap_or(0));
        self.marks.insert(key.into(), mark);
        self.mark_names.push(name);
        self.register(cond, Consumer::Mark(mark));
        Ok(mark)
    }

    pub(super) fn has_lineage(&self) -> bool {
        !self.marks.is_empty()
    }
}

fn too_many_steps(steps: usize) -> Result<(), CompileError> {
    if steps > STEPS_MAX {
        Err(CompileError::TooManySteps { max: STEPS_MAX })
    } else {
        Ok(())
    }
}

/// Hash of a query as it was typed, wherever it stands in its file; the same in every process.
fn fingerprint(query: &impl std::fmt::Debug) -> u64 {
    let text = format!("{query:?}");
    let mut hash = 0xCBF2_9CE4_8422_2325;
    // Each piece after the first begins with the positions of a span, up to its brace.
    for (i, piece) in text.split("span: Span {").enumerate() {
        let piece = if i == 0 {
            piece
        } else {
            piece.split_once('}').map_or(piece, |(_, rest)| rest)
        };
        // FNV-1a: slow, but only run at load.
        hash = piece.bytes().fold(hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
    }
    hash
}

/// The leaves of a pipe's condition, which reads whole matches rather than the event at hand.
pub(super) fn match_condition(
    condition: &Condition,
    leaves: &mut LeafBuilder,
    expressions: &mut Vec<Expression>,
) -> Result<Cond, CompileError> {
    let mut list = |parts: &[Condition]| -> Result<Vec<Cond>, CompileError> {
        parts
            .iter()
            .map(|p| match_condition(p, leaves, expressions))
            .collect()
    };
    Ok(match condition {
        Condition::Const(b) => Cond::Const(*b),
        Condition::And(parts) => Cond::and(list(parts)?),
        Condition::Or(parts) => Cond::or(list(parts)?),
        Condition::Not(inner) => Cond::not(match_condition(inner, leaves, expressions)?),
        Condition::Leaf(leaf) => {
            expressions.push(Expression::compile(&leaf.expr, &mut leaves.paths)?);
            Cond::Test(Test::Alias(
                u32::try_from(expressions.len() - 1).unwrap_or(u32::MAX),
            ))
        }
        // The checker refuses lineage in pipes.
        Condition::Lineage(_) => Cond::Const(false),
    })
}
