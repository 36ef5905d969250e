//! Leaves: the questions conditions ask about one event, shared by all rules.
//!
//! In: leaves of typed queries. Out: for an event, whether a leaf holds. Equal leaves have one number and are answered at
//! most once per event; equality tests of a field share one look-up per value, wildcard patterns one pass. Results carry
//! the event's stamp, so nothing is cleared between events and nothing is allocated once buffers have grown.

use hashbrown::HashMap;

use crate::eql::cidr::Cidr;
use crate::eql::functions;
use crate::eql::pattern;
use crate::eql::query::{Comparison, Expr, Field, FieldType, Function, Literal as QueryLiteral};
use crate::eql::scalar::{self, Scalar};
use crate::event::{Fields, Spelling, Value, Values};

use super::CompileError;
use super::blocks::BlockSet;
use super::condition::{Cond, Test};
use super::expression::{Context, Expression, owned_literal};
use super::field::{FieldRef, Paths, SlotId};
use super::glob::{Glob, GlobScratch, GlobSet};
use super::grouped::Grouped;
use super::literal::{Literal, LiteralIndex, LiteralSet, scalar_of};
use super::regexes::{RegexScratch, RegexSet};
use super::value_cache::ValueCache;

/// How a leaf is answered.
#[derive(Debug)]
pub(super) enum Leaf {
    Missing(SlotId),
    Equal {
        index: u32,
        set: LiteralSet,
    },
    Glob {
        group: u32,
    },
    Compare {
        slot: SlotId,
        ty: FieldType,
        op: Comparison,
        literal: Scalar<'static>,
    },
    Cidr {
        group: u32,
    },
    Regex {
        group: u32,
    },
    Expression(Expression),
}

/// What answers leaves of one field together: literals of an index, or a pattern group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Index(u32),
    Globs(u32),
}

/// Leaves while rules are still being added.
#[derive(Debug, Default)]
pub(super) struct LeafBuilder {
    pub(super) paths: Paths,
    drafts: Vec<Draft>,
    by_key: HashMap<Box<str>, u32>,
    indexes: Vec<(SlotId, LiteralIndex)>,
    index_of: HashMap<(SlotId, bool), u32>,
    globs: Vec<GlobDraft>,
    glob_of: HashMap<(SlotId, bool, bool), u32>,
    blocks: Vec<Grouped<Cidr>>,
    regexes: Vec<Grouped<Box<str>>>,
    aliases: Vec<Expression>,
    /// Equal leaves get one number. Off only to test that it makes no difference.
    pub(super) intern: bool,
}

#[derive(Debug)]
enum Draft {
    Equal { index: u32, ids: Vec<u32> },
    Ready(Leaf),
}

#[derive(Debug)]
struct GlobDraft {
    slot: SlotId,
    fold: bool,
    strings_only: bool,
    patterns: Vec<(Glob, u32)>,
}

/// Whether values of this type compare as they are, so that the grouped tests apply.
fn plain(ty: FieldType) -> bool {
    matches!(
        ty,
        FieldType::Any | FieldType::Keyword | FieldType::Number | FieldType::Boolean
    )
}

/// A field of the event at hand.
fn own_field(expr: &Expr) -> Option<&Field> {
    match expr {
        Expr::Field(field) if field.step.is_none() => Some(field),
        _ => None,
    }
}

/// Whether a list element can join the field's equality index.
fn groups(element: &Expr, fold: bool) -> bool {
    match element {
        Expr::Literal(QueryLiteral::Str(_) | QueryLiteral::Null) => true,
        Expr::Literal(_) => !fold,
        _ => false,
    }
}

/// Whether equality with this text and matching it as a pattern are the same question for values of every kind.
fn plain_word(text: &str) -> bool {
    scalar::decimal(text).is_none()
        && Cidr::parse(text).is_none()
        && crate::eql::time::parse_ns(text).is_none()
        && !text.eq_ignore_ascii_case("true")
        && !text.eq_ignore_ascii_case("false")
}

impl LeafBuilder {
    pub(super) fn new() -> Self {
        Self {
            intern: true,
            ..Self::default()
        }
    }

    /// The condition one leaf stands for: a constant, a test, or several tests where the leaf splits over groups.
    pub(super) fn leaf(&mut self, expr: &Expr) -> Result<Cond, CompileError> {
        match expr {
            Expr::Literal(QueryLiteral::Bool(b)) => Ok(Cond::Const(*b)),
            Expr::Literal(_) => Ok(Cond::Const(false)),
            Expr::Field(field) if field.step.is_none() && plain(field.ty) => {
                self.equal(field, false, vec![Literal::Bool(true)])
            }
            Expr::IsNull(value) if own_field(value).is_some() => {
                let slot = own_field(value).map_or(SlotId(0), |f| self.paths.intern(&f.path));
                Ok(self.ready(|| format!("null {slot:?}"), |_| Ok(Leaf::Missing(slot)))?)
            }
            Expr::Compare { op, left, right } => self.comparison(*op, left, right, expr),
            Expr::In { value, list, fold } => match own_field(value) {
                Some(field) if plain(field.ty) && list.iter().all(|e| groups(e, *fold)) => {
                    let literals = list.iter().filter_map(literal_of).collect();
                    self.equal(field, *fold, literals)
                }
                _ => self.expression(expr),
            },
            Expr::Like {
                value,
                patterns,
                fold,
            } => match own_field(value) {
                Some(field) if plain(field.ty) || field.ty == FieldType::Version => {
                    self.like(field, patterns, *fold)
                }
                _ => self.expression(expr),
            },
            Expr::Regex {
                value,
                patterns,
                fold,
            } => match own_field(value) {
                Some(field) => {
                    let of = (self.paths.intern(&field.path), field.ty);
                    self.draft(format!("{expr:?}"), |builder, leaf| {
                        let texts = patterns.iter().map(|p| pattern::anchored(p, *fold).into());
                        let members = texts.map(|text| (text, leaf));
                        let group = Grouped::add(&mut builder.regexes, of, members);
                        Ok(Draft::Ready(Leaf::Regex { group }))
                    })
                }
                None => self.expression(expr),
            },
            Expr::CidrMatch { value, blocks } => match own_field(value) {
                Some(field) => {
                    let of = (self.paths.intern(&field.path), field.ty);
                    self.draft(format!("{expr:?}"), |builder, leaf| {
                        let members = blocks.iter().map(|block| (*block, leaf));
                        let group = Grouped::add(&mut builder.blocks, of, members);
                        Ok(Draft::Ready(Leaf::Cidr { group }))
                    })
                }
                None => self.expression(expr),
            },
            Expr::Call {
                function,
                fold,
                args,
            } => self.call(*function, *fold, args, expr),
            _ => self.expression(expr),
        }
    }

    fn comparison(
        &mut self,
        op: Comparison,
        left: &Expr,
        right: &Expr,
        whole: &Expr,
    ) -> Result<Cond, CompileError> {
        let (field, literal, op) = match (own_field(left), own_field(right), left, right) {
            (Some(field), _, _, Expr::Literal(literal)) => (field, literal, op),
            (_, Some(field), Expr::Literal(literal), _) => (field, literal, mirrored(op)),
            _ => return self.expression(whole),
        };
        if *literal == QueryLiteral::Null {
            // A comparison with null is null.
            return Ok(Cond::Const(false));
        }
        if op == Comparison::Equal
            && plain(field.ty)
            && let Some(literal) = plain_literal(literal)
        {
            return self.equal(field, false, vec![literal]);
        }
        let (slot, ty, literal) = (
            self.paths.intern(&field.path),
            field.ty,
            owned_literal(literal),
        );
        self.ready(
            || format!("{whole:?}"),
            |_| {
                Ok(Leaf::Compare {
                    slot,
                    ty,
                    op,
                    literal,
                })
            },
        )
    }

    fn call(
        &mut self,
        function: Function,
        fold: bool,
        args: &[Expr],
        whole: &Expr,
    ) -> Result<Cond, CompileError> {
        let ([value, Expr::Literal(QueryLiteral::Str(text))], Some(field)) =
            (args, args.first().and_then(own_field))
        else {
            return self.expression(whole);
        };
        let (open_start, open_end) = match function {
            Function::StartsWith => (false, true),
            Function::EndsWith => (true, false),
            Function::StringContains if text.is_empty() => return Ok(Cond::Const(false)),
            Function::StringContains => (true, true),
            _ => return self.expression(whole),
        };
        if !plain(field.ty) || own_field(value).is_none() {
            return self.expression(whole);
        }
        let slot = self.paths.intern(&field.path);
        let glob = Glob::literal(text, fold, open_start, open_end);
        self.globs(slot, fold, true, vec![glob], || format!("{whole:?}"))
    }

    /// A pattern list: words without wildcards join the equality index, the rest the field's pattern set.
    fn like(
        &mut self,
        field: &Field,
        patterns: &[Box<str>],
        fold: bool,
    ) -> Result<Cond, CompileError> {
        let (words, globs): (Vec<_>, Vec<_>) = patterns
            .iter()
            .partition(|p| !Glob::has_wildcard(p) && plain_word(p) && plain(field.ty));
        let mut parts = Vec::new();
        if !words.is_empty() {
            let literals = words.into_iter().map(|w| Literal::Str(w.clone())).collect();
            parts.push(self.equal(field, fold, literals)?);
        }
        if !globs.is_empty() {
            let slot = self.paths.intern(&field.path);
            let key = || format!("like {slot:?} {fold} {globs:?}");
            let compiled = globs.iter().map(|p| Glob::like(p, fold)).collect();
            parts.push(self.globs(slot, fold, false, compiled, key)?);
        }
        Ok(Cond::or(parts))
    }

    fn equal(
        &mut self,
        field: &Field,
        fold: bool,
        literals: Vec<Literal>,
    ) -> Result<Cond, CompileError> {
        if literals.is_empty() {
            return Ok(Cond::Const(false));
        }
        let slot = self.paths.intern(&field.path);
        let index = match self.index_of.get(&(slot, fold)) {
            Some(index) => *index,
            None => {
                let index = u32::try_from(self.indexes.len()).unwrap_or(u32::MAX);
                self.indexes.push((slot, LiteralIndex::new(fold)));
                self.index_of.insert((slot, fold), index);
                index
            }
        };
        let mut ids: Vec<u32> = match self.indexes.get_mut(index as usize) {
            Some((_, known)) => literals.iter().map(|l| known.insert(l)).collect(),
            None => Vec::new(),
        };
        ids.sort_unstable();
        ids.dedup();
        let key = format!("equal {index} {ids:?}");
        self.draft(key, |_, _| Ok(Draft::Equal { index, ids }))
    }

    fn globs(
        &mut self,
        slot: SlotId,
        fold: bool,
        strings_only: bool,
        globs: Vec<Glob>,
        key: impl Fn() -> String,
    ) -> Result<Cond, CompileError> {
        let group = match self.glob_of.get(&(slot, fold, strings_only)) {
            Some(group) => *group,
            None => {
                let group = u32::try_from(self.globs.len()).unwrap_or(u32::MAX);
                self.globs.push(GlobDraft {
                    slot,
                    fold,
                    strings_only,
                    patterns: Vec::new(),
                });
                self.glob_of.insert((slot, fold, strings_only), group);
                group
            }
        };
        self.draft(key(), |builder, leaf| {
            if let Some(draft) = builder.globs.get_mut(group as usize) {
                draft.patterns.extend(globs.into_iter().map(|g| (g, leaf)));
            }
            Ok(Draft::Ready(Leaf::Glob { group }))
        })
    }

    fn expression(&mut self, expr: &Expr) -> Result<Cond, CompileError> {
        if reads_alias(expr) {
            let expression = Expression::compile(expr, &mut self.paths)?;
            self.aliases.push(expression);
            return Ok(Cond::Test(Test::Alias(
                u32::try_from(self.aliases.len() - 1).unwrap_or(u32::MAX),
            )));
        }
        self.ready(
            || format!("{expr:?}"),
            |builder| {
                Ok(Leaf::Expression(Expression::compile(
                    expr,
                    &mut builder.paths,
                )?))
            },
        )
    }

    fn ready(
        &mut self,
        key: impl Fn() -> String,
        make: impl FnOnce(&mut Self) -> Result<Leaf, CompileError>,
    ) -> Result<Cond, CompileError> {
        self.draft(key(), |builder, _| Ok(Draft::Ready(make(builder)?)))
    }

    fn draft(
        &mut self,
        key: String,
        make: impl FnOnce(&mut Self, u32) -> Result<Draft, CompileError>,
    ) -> Result<Cond, CompileError> {
        if self.intern
            && let Some(known) = self.by_key.get(key.as_str())
        {
            return Ok(Cond::Test(Test::Leaf(*known)));
        }
        let leaf = u32::try_from(self.drafts.len()).map_err(|_| CompileError::TooManyLeaves)?;
        let draft = make(self, leaf)?;
        self.drafts.push(draft);
        self.by_key.insert(key.into(), leaf);
        Ok(Cond::Test(Test::Leaf(leaf)))
    }

    pub(super) fn build(
        self,
        fields: Vec<FieldRef>,
    ) -> Result<(Leaves, Vec<Expression>), CompileError> {
        let leaves = self.drafts.into_iter().map(|draft| match draft {
            Draft::Ready(leaf) => leaf,
            Draft::Equal { index, ids } => {
                let total = self.indexes.get(index as usize).map_or(0, |(_, i)| i.len());
                Leaf::Equal {
                    index,
                    set: LiteralSet::new(ids, total),
                }
            }
        });
        let leaves: Vec<Leaf> = leaves.collect();
        let mut globs = Vec::with_capacity(self.globs.len());
        for draft in self.globs {
            let set = GlobSet::new(draft.fold, draft.patterns).map_err(CompileError::Patterns)?;
            globs.push(GlobGroup {
                slot: draft.slot,
                strings_only: draft.strings_only,
                set,
            });
        }
        let blocks = self.blocks.into_iter().map(|group| BlockGroup {
            slot: group.slot,
            ty: group.ty,
            set: BlockSet::new(&group.members),
        });
        let mut regexes = Vec::with_capacity(self.regexes.len());
        for group in self.regexes {
            regexes.push(RegexGroup {
                slot: group.slot,
                ty: group.ty,
                set: RegexSet::new(&group.members).map_err(CompileError::Regexes)?,
            });
        }
        Ok((
            Leaves {
                fields,
                leaves,
                indexes: self.indexes,
                globs,
                blocks: blocks.collect(),
                regexes,
            },
            self.aliases,
        ))
    }
}

fn mirrored(op: Comparison) -> Comparison {
    match op {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::LessEqual => Comparison::GreaterEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterEqual => Comparison::LessEqual,
    }
}

fn literal_of(expr: &Expr) -> Option<Literal> {
    match expr {
        Expr::Literal(literal) => plain_literal(literal),
        _ => None,
    }
}

fn plain_literal(literal: &QueryLiteral) -> Option<Literal> {
    match literal {
        QueryLiteral::Null => None,
        QueryLiteral::Bool(b) => Some(Literal::Bool(*b)),
        QueryLiteral::Int(i) => Some(Literal::Int(*i)),
        QueryLiteral::Float(f) => Some(Literal::Float(*f)),
        QueryLiteral::Str(s) => Some(Literal::Str(s.clone())),
    }
}

/// Whether the expression reads an earlier step's event.
fn reads_alias(expr: &Expr) -> bool {
    use crate::eql::query::ArraySource;
    match expr {
        Expr::Field(field) => field.step.is_some(),
        Expr::Literal(_) | Expr::Variable(_) => false,
        Expr::Compare { left, right, .. } | Expr::Arithmetic { left, right, .. } => {
            reads_alias(left) || reads_alias(right)
        }
        Expr::IsNull(e) | Expr::Negate(e) | Expr::Not(e) => reads_alias(e),
        Expr::Like { value, .. } | Expr::Regex { value, .. } | Expr::CidrMatch { value, .. } => {
            reads_alias(value)
        }
        Expr::In { value, list, .. } => reads_alias(value) || list.iter().any(reads_alias),
        Expr::Call { args, .. } => args.iter().any(reads_alias),
        Expr::And(parts) | Expr::Or(parts) => parts.iter().any(reads_alias),
        Expr::Array {
            array, condition, ..
        } => {
            matches!(&**array, ArraySource::Field(f) if f.step.is_some()) || reads_alias(condition)
        }
    }
}

/// All leaves of the loaded rules.
#[derive(Debug)]
pub(super) struct Leaves {
    pub(super) fields: Vec<FieldRef>,
    leaves: Vec<Leaf>,
    pub(super) indexes: Vec<(SlotId, LiteralIndex)>,
    globs: Vec<GlobGroup>,
    blocks: Vec<BlockGroup>,
    regexes: Vec<RegexGroup>,
}

#[derive(Debug)]
struct BlockGroup {
    slot: SlotId,
    ty: FieldType,
    set: BlockSet,
}

#[derive(Debug)]
struct RegexGroup {
    slot: SlotId,
    ty: FieldType,
    set: RegexSet,
}

#[derive(Debug)]
struct GlobGroup {
    slot: SlotId,
    /// Numbers and booleans do not match (functions), rather than by their text (patterns).
    strings_only: bool,
    set: GlobSet,
}

/// What is known about the event at hand.
#[derive(Debug)]
pub(super) struct LeafScratch {
    /// Stamp of the event, shifted left to make room for an answer.
    stamp: u32,
    /// Per leaf: the stamp it was answered under and the answer.
    memo: Vec<u32>,
    indexes: Vec<Found>,
    globs: Vec<GlobState>,
    /// Per group of address blocks: the stamp it was answered under.
    blocks: Vec<u32>,
    regexes: Vec<RegexState>,
}

/// What one group of regular expressions works with.
#[derive(Debug)]
struct RegexState {
    stamp: u32,
    scratch: RegexScratch,
    cache: ValueCache,
}

/// What one pattern group found.
#[derive(Debug)]
struct GlobState {
    stamp: u32,
    scratch: GlobScratch,
    cache: ValueCache,
    /// Leaves with a match, each once.
    hits: Vec<u32>,
}

/// Literals the values of one field equal.
#[derive(Debug, Default)]
pub(super) struct Found {
    stamp: u32,
    pub(super) present: bool,
    pub(super) ids: Vec<u32>,
}

impl LeafScratch {
    /// A new event: everything is unknown again.
    #[inline]
    pub(super) fn next_event(&mut self) {
        self.stamp = self.stamp.wrapping_add(2);
        if self.stamp == 0 {
            self.memo.fill(0);
            self.indexes.iter_mut().for_each(|f| f.stamp = 0);
            self.globs.iter_mut().for_each(|g| g.stamp = 0);
            self.blocks.fill(0);
            self.regexes.iter_mut().for_each(|r| r.stamp = 0);
            self.stamp = 2;
        }
    }

    /// Whether a leaf's group, which has been asked, said that it holds.
    #[inline]
    fn says(&self, leaf: u32) -> bool {
        self.memo.get(leaf as usize) == Some(&(self.stamp | 1))
    }
}

impl Leaves {
    pub(super) fn scratch(&self) -> LeafScratch {
        LeafScratch {
            stamp: 0,
            memo: vec![0; self.leaves.len()],
            indexes: self.indexes.iter().map(|_| Found::default()).collect(),
            globs: self
                .globs
                .iter()
                .map(|g| GlobState {
                    stamp: 0,
                    scratch: g.set.scratch(),
                    cache: ValueCache::default(),
                    hits: Vec::new(),
                })
                .collect(),
            blocks: vec![0; self.blocks.len()],
            regexes: self
                .regexes
                .iter()
                .map(|r| RegexState {
                    stamp: 0,
                    scratch: r.set.scratch(),
                    cache: ValueCache::default(),
                })
                .collect(),
        }
    }

    pub(super) fn get(&self, leaf: u32) -> Option<&Leaf> {
        self.leaves.get(leaf as usize)
    }

    /// The field behind a source.
    pub(super) fn slot_of(&self, source: Source) -> Option<SlotId> {
        match source {
            Source::Index(index) => self.indexes.get(index as usize).map(|(slot, _)| *slot),
            Source::Globs(group) => self.globs.get(group as usize).map(|g| g.slot),
        }
    }

    /// The one field a leaf reads, `None` for an expression.
    pub(super) fn slot_of_leaf(&self, leaf: u32) -> Option<SlotId> {
        match self.get(leaf)? {
            Leaf::Missing(slot) | Leaf::Compare { slot, .. } => Some(*slot),
            Leaf::Cidr { group } => self.blocks.get(*group as usize).map(|g| g.slot),
            Leaf::Regex { group } => self.regexes.get(*group as usize).map(|g| g.slot),
            Leaf::Equal { index, .. } => self.slot_of(Source::Index(*index)),
            Leaf::Glob { group } => self.slot_of(Source::Globs(*group)),
            Leaf::Expression(_) => None,
        }
    }

    /// Rough cost of answering a leaf for the first time, in nanoseconds.
    pub(super) fn cost(&self, leaf: u32) -> u32 {
        match self.get(leaf) {
            None => 0,
            Some(Leaf::Missing(_)) => 2,
            Some(Leaf::Equal { .. }) => 6,
            Some(Leaf::Compare { .. }) => 10,
            Some(Leaf::Cidr { .. }) => 30,
            Some(Leaf::Glob { group }) => {
                let heavy = self
                    .globs
                    .get(*group as usize)
                    .is_some_and(|g| g.set.scans());
                if heavy { 120 } else { 30 }
            }
            Some(Leaf::Regex { .. }) => 300,
            Some(Leaf::Expression(_)) => 60,
        }
    }

    /// The literals of an index that the event's values equal.
    #[inline]
    pub(super) fn found<'s, E: Fields>(
        &self,
        index: u32,
        event: &E,
        scratch: &'s mut LeafScratch,
    ) -> Option<&'s Found> {
        let (slot, literals) = self.indexes.get(index as usize)?;
        let found = scratch.indexes.get_mut(index as usize)?;
        if found.stamp != scratch.stamp {
            found.stamp = scratch.stamp;
            found.ids.clear();
            found.present = false;
            match self.fields.get(slot.0 as usize)?.values(event) {
                Values::Missing | Values::Object => {}
                Values::One(value) => {
                    found.present = true;
                    literals.lookup(value, |id| found.ids.push(id));
                }
                values => {
                    for value in values.iter() {
                        found.present = true;
                        literals.lookup(value, |id| found.ids.push(id));
                    }
                }
            }
        }
        Some(found)
    }

    /// Whether a leaf holds for the event.
    #[inline]
    pub(super) fn holds<E: Fields>(&self, leaf: u32, event: &E, scratch: &mut LeafScratch) -> bool {
        let at = leaf as usize;
        match scratch.memo.get(at) {
            Some(memo) if memo & !1 == scratch.stamp => return memo & 1 == 1,
            Some(_) => {}
            None => return false,
        }
        let answer = self.answer(leaf, event, scratch);
        if let Some(memo) = scratch.memo.get_mut(at) {
            *memo = scratch.stamp | u32::from(answer);
        }
        answer
    }

    fn answer<E: Fields>(&self, leaf: u32, event: &E, scratch: &mut LeafScratch) -> bool {
        let Some(kind) = self.leaves.get(leaf as usize) else {
            return false;
        };
        match kind {
            Leaf::Missing(slot) => self.values(*slot, event).is_empty(),
            Leaf::Equal { index, set } => self
                .found(*index, event, scratch)
                .is_some_and(|found| found.ids.iter().any(|id| set.contains(*id))),
            Leaf::Glob { group } => {
                self.run_globs(*group, event, scratch);
                scratch.says(leaf)
            }
            Leaf::Compare {
                slot,
                ty,
                op,
                literal,
            } => self
                .values(*slot, event)
                .iter()
                .any(|v| scalar::compare(*op, &scalar_of(v).typed(*ty), literal) == Some(true)),
            Leaf::Cidr { group } => {
                self.run_blocks(*group, event, scratch);
                scratch.says(leaf)
            }
            Leaf::Regex { group } => {
                self.run_regexes(*group, event, scratch);
                scratch.says(leaf)
            }
            Leaf::Expression(expression) => expression.holds(&Context {
                event,
                earlier: &[],
                fields: &self.fields,
            }),
        }
    }

    #[inline]
    pub(super) fn values<'e, E: Fields>(&self, slot: SlotId, event: &'e E) -> Values<'e> {
        self.fields
            .get(slot.0 as usize)
            .map(|f| f.values(event))
            .unwrap_or_default()
    }

    /// Spells the values of some slots.
    #[inline]
    pub(super) fn spell<E: Fields>(&self, slots: &[SlotId], event: &E, out: &mut Spelling) {
        for slot in slots {
            match self.fields.get(slot.0 as usize) {
                Some(field) => field.spell(event, out),
                None => out.push(Values::Missing),
            }
        }
    }

    /// The leaves of a pattern group that hold.
    #[inline]
    pub(super) fn glob_hits<'s, E: Fields>(
        &self,
        group: u32,
        event: &E,
        scratch: &'s mut LeafScratch,
    ) -> Option<&'s [u32]> {
        self.run_globs(group, event, scratch);
        scratch.globs.get(group as usize).map(|g| g.hits.as_slice())
    }

    /// Answers every pattern leaf of one group at once.
    fn run_globs<E: Fields>(&self, group: u32, event: &E, scratch: &mut LeafScratch) {
        let (Some(group), Some(state)) = (
            self.globs.get(group as usize),
            scratch.globs.get_mut(group as usize),
        ) else {
            return;
        };
        if state.stamp == scratch.stamp {
            return;
        }
        state.stamp = scratch.stamp;
        state.hits.clear();
        let (memo, answer) = (&mut scratch.memo, scratch.stamp | 1);
        let (hits, glob_scratch, cache) = (&mut state.hits, &mut state.scratch, &mut state.cache);
        let mut hit = |leaf: u32| {
            if let Some(memo) = memo.get_mut(leaf as usize)
                && *memo != answer
            {
                *memo = answer;
                hits.push(leaf);
            }
        };
        for value in self.values(group.slot, event).iter() {
            match value {
                Value::Str(text) => cache.recall(text, &mut hit, |hit| {
                    group.set.evaluate(text, glob_scratch, hit);
                }),
                other => {
                    let scalar = scalar_of(other);
                    let text = if group.strings_only {
                        scalar.string()
                    } else {
                        scalar.text()
                    };
                    if let Some(text) = text {
                        group.set.evaluate(&text, glob_scratch, &mut hit);
                    }
                }
            }
        }
    }

    /// Answers every leaf of one group of address blocks at once.
    fn run_blocks<E: Fields>(&self, group: u32, event: &E, scratch: &mut LeafScratch) {
        let (Some(group), Some(stamp)) = (
            self.blocks.get(group as usize),
            scratch.blocks.get_mut(group as usize),
        ) else {
            return;
        };
        if *stamp == scratch.stamp {
            return;
        }
        *stamp = scratch.stamp;
        let (memo, answer) = (&mut scratch.memo, scratch.stamp | 1);
        for value in self.values(group.slot, event).iter() {
            let address = functions::address(&scalar_of(value).typed(group.ty));
            if let Some(Some(address)) = address {
                group.set.lookup(address, |leaf| note(memo, leaf, answer));
            }
        }
    }

    /// Answers every leaf of one group of regular expressions at once.
    fn run_regexes<E: Fields>(&self, group: u32, event: &E, scratch: &mut LeafScratch) {
        let (Some(group), Some(state)) = (
            self.regexes.get(group as usize),
            scratch.regexes.get_mut(group as usize),
        ) else {
            return;
        };
        if state.stamp == scratch.stamp {
            return;
        }
        state.stamp = scratch.stamp;
        let (memo, answer) = (&mut scratch.memo, scratch.stamp | 1);
        let (cache, regex_scratch) = (&mut state.cache, &mut state.scratch);
        let mut run = |text: &str| {
            cache.recall(
                text,
                |leaf| note(memo, leaf, answer),
                |hit| {
                    group.set.evaluate(text, regex_scratch, hit);
                },
            );
        };
        for value in self.values(group.slot, event).iter() {
            match (value, group.ty) {
                (Value::Str(text), FieldType::Any | FieldType::Keyword) => run(text),
                _ => {
                    if let Some(text) = scalar_of(value).typed(group.ty).text() {
                        run(&text);
                    }
                }
            }
        }
    }
}

/// Notes the answer for a leaf.
#[inline]
fn note(memo: &mut [u32], leaf: u32, answer: u32) {
    if let Some(memo) = memo.get_mut(leaf as usize) {
        *memo = answer;
    }
}
