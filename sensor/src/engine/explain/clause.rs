//! Conditions clause by clause: which one is true of an event, and how far the event is from satisfying all of them.
//!
//! In: a filter of a typed query and its text. Out: a [`Condition`] whose clauses keep their words, the fields they read and a
//! compiled test of their own. A negated leaf is one clause, as people read it. It shares how a leaf is evaluated with the
//! engine's general expressions, and must never decide anything in the engine itself.

use crate::eql::lexer::{self, Kind as Token};
use crate::eql::query::{self, ArraySource, Category, Comparison, Expr, Field, FieldType, Literal};
use crate::eql::{diagnostic::Span, pattern};
use crate::event::{Fields, Value, Values};

use super::super::CompileError;
use super::super::condition::relation_code;
use super::super::expression::{Context, Expression};
use super::super::field::{FieldRef, Paths, SlotId};
use super::super::lineage::{Mark, Marks};

/// A filter of a query, taken apart.
#[derive(Debug)]
pub struct Condition {
    pub tree: Tree,
    pub clauses: Vec<Clause>,
}

/// How clauses are put together.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    Const(bool),
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    /// Position in [`Condition::clauses`].
    Clause(usize),
}

/// One question about an event.
#[derive(Debug)]
pub struct Clause {
    /// As the query has it, on one line and without comments; negated when the clause is.
    pub text: String,
    /// Fields it reads, each once, in the order of the text.
    pub reads: Vec<Read>,
    /// It asks what sort of event this is, and nothing about this very event.
    pub of_kind: bool,
    /// How much it says that the clause is true: more for one that names few things.
    weight: u32,
    test: Test,
    negated: bool,
    exact: Vec<Text>,
    patterns: Vec<Text>,
}

/// A literal of a query.
type Text = Box<str>;

/// A field that a clause reads.
#[derive(Debug)]
pub struct Read {
    pub path: Box<str>,
    /// Of an earlier step, which an alias names.
    pub step: Option<usize>,
    slot: SlotId,
}

#[derive(Debug)]
enum Test {
    Leaf(Expression),
    Lineage(Mark, u8),
}

/// Why a clause that looks true is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Only the case of letters differs from this literal.
    Case(Box<str>),
    /// The literal would match if its wildcards were any.
    Wildcard(Box<str>),
}

/// Fields that are the same on all events of a kind.
const OF_KIND: &[&str] = &[
    "event.action",
    "event.category",
    "event.type",
    "event.dataset",
    "event.kind",
    "event.module",
    "event.outcome",
    "data_stream.dataset",
    "host.os.type",
];

/// What a clause is asked about.
#[derive(Debug)]
pub(super) struct Place<'e, E> {
    pub(super) event: &'e E,
    /// Events of earlier steps, by step.
    pub(super) earlier: &'e [Option<&'e E>],
    pub(super) fields: &'e [FieldRef],
    pub(super) marks: Marks,
}

impl<E> Clone for Place<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Place<'_, E> {}

impl Read {
    /// What the event has there.
    pub(super) fn values<'e, E: Fields>(&self, place: Place<'e, E>) -> Values<'e> {
        let event = match self.step {
            None => Some(place.event),
            Some(step) => place.earlier.get(step).copied().flatten(),
        };
        match (event, place.fields.get(self.slot.0 as usize)) {
            (Some(event), Some(field)) => field.values(event),
            _ => Values::Missing,
        }
    }
}

impl Clause {
    pub(super) fn holds<E: Fields>(&self, place: Place<'_, E>) -> bool {
        let holds = match &self.test {
            Test::Leaf(expression) => expression.holds(&Context {
                event: place.event,
                earlier: place.earlier,
                fields: place.fields,
            }),
            Test::Lineage(mark, relation) => place.marks.has(*mark, *relation),
        };
        holds != self.negated
    }

    /// Whether it asks about a family of processes, which one event alone does not tell.
    #[must_use]
    pub fn is_lineage(&self) -> bool {
        matches!(self.test, Test::Lineage(..))
    }

    /// What is odd about a false clause: the first literal that almost matches.
    pub(super) fn hint<E: Fields>(&self, place: Place<'_, E>) -> Option<Hint> {
        if self.negated {
            return None;
        }
        let read = self.reads.first()?;
        read.values(place).iter().find_map(|value| {
            let Value::Str(value) = value else {
                return None;
            };
            let case = |literal: &&Text| literal.eq_ignore_ascii_case(value);
            let wild = |literal: &&Text| {
                pattern::has_wildcard(literal) && pattern::like(literal, value, true)
            };
            let exact = self.exact.iter();
            let folded = |literal: &&Text| pattern::like(literal, value, true);
            exact
                .clone()
                .find(case)
                .cloned()
                .map(Hint::Case)
                .or_else(|| exact.clone().find(wild).cloned().map(Hint::Wildcard))
                .or_else(|| self.patterns.iter().find(folded).cloned().map(Hint::Case))
        })
    }
}

impl Condition {
    /// Whether each clause is true.
    pub(super) fn truths<E: Fields>(&self, place: Place<'_, E>) -> Vec<bool> {
        self.clauses.iter().map(|c| c.holds(place)).collect()
    }

    pub(super) fn holds<E: Fields>(&self, place: Place<'_, E>) -> bool {
        holds(&self.tree, &|clause| {
            self.clauses.get(clause).is_some_and(|c| c.holds(place))
        })
    }

    /// Whether some clause reads an event of an earlier step.
    pub(super) fn has_alias(&self) -> bool {
        let mut reads = self.clauses.iter().flat_map(|c| &c.reads);
        reads.any(|read| read.step.is_some())
    }

    pub(super) fn distance(&self, truths: &[bool]) -> Distance {
        self.distance_by(truths, &|_| true)
    }

    /// The same of an event whose predecessors are not known: clauses that read them count for nothing.
    pub(super) fn distance_alone<E: Fields>(&self, place: Place<'_, E>) -> Distance {
        self.distance_by(&self.truths(place), &|clause| {
            clause.reads.iter().all(|read| read.step.is_none())
        })
    }

    fn distance_by(&self, truths: &[bool], counts: &impl Fn(&Clause) -> bool) -> Distance {
        let of = |kinds: bool| {
            distance(&self.tree, true, &|clause| {
                let of = self.clauses.get(clause);
                let counts = of.is_some_and(|c| (c.of_kind || !kinds) && counts(c));
                (truths.get(clause) == Some(&true), u32::from(counts))
            })
        };
        let (kind, clauses) = (of(true), of(false));
        let true_ones = self.clauses.iter().zip(truths).filter(|(_, truth)| **truth);
        Distance {
            kind,
            clauses,
            weight: true_ones.map(|(clause, _)| clause.weight).sum(),
        }
    }

    /// The clauses that would have to change for the condition to hold; of several ways the shortest, all of those.
    #[must_use]
    pub fn blame(&self, truths: &[bool]) -> Vec<usize> {
        let mut found = Vec::new();
        blame(&self.tree, true, truths, &mut found);
        found
    }

    /// Whether a part of the condition holds.
    #[must_use]
    pub fn part_holds(tree: &Tree, truths: &[bool]) -> bool {
        holds(tree, &|clause| truths.get(clause) == Some(&true))
    }
}

/// How far an event is from satisfying a condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Distance {
    /// Clauses about the sort of event that are false.
    pub(super) kind: u32,
    /// Clauses that are false, these included.
    pub(super) clauses: u32,
    /// How much the true ones say.
    pub(super) weight: u32,
}

fn holds(tree: &Tree, clause: &impl Fn(usize) -> bool) -> bool {
    match tree {
        Tree::Const(value) => *value,
        Tree::All(parts) => parts.iter().all(|part| holds(part, clause)),
        Tree::Any(parts) => parts.iter().any(|part| holds(part, clause)),
        Tree::Not(part) => !holds(part, clause),
        Tree::Clause(at) => clause(*at),
    }
}

/// Beyond any number of clauses: what no change can reach.
const NEVER: u32 = 1 << 20;

/// How many clauses have to change for the tree to become `wanted`. `clause` tells whether one holds and what it counts.
fn distance(tree: &Tree, wanted: bool, clause: &impl Fn(usize) -> (bool, u32)) -> u32 {
    let all = |parts: &[Tree]| {
        let each = parts.iter().map(|part| distance(part, wanted, clause));
        each.fold(0u32, u32::saturating_add).min(NEVER)
    };
    let least = |parts: &[Tree]| {
        let each = parts.iter().map(|part| distance(part, wanted, clause));
        each.min().unwrap_or(NEVER)
    };
    match tree {
        Tree::Const(value) => {
            if *value == wanted {
                0
            } else {
                NEVER
            }
        }
        Tree::All(parts) if wanted => all(parts),
        Tree::Any(parts) if !wanted => all(parts),
        Tree::All(parts) | Tree::Any(parts) => least(parts),
        Tree::Not(part) => distance(part, !wanted, clause),
        Tree::Clause(at) => {
            let (holds, counts) = clause(*at);
            if holds == wanted { 0 } else { counts }
        }
    }
}

fn blame(tree: &Tree, wanted: bool, truths: &[bool], found: &mut Vec<usize>) {
    let clause = |at: usize| (truths.get(at) == Some(&true), 1);
    match tree {
        Tree::Const(_) => {}
        Tree::Not(part) => blame(part, !wanted, truths, found),
        Tree::Clause(at) => {
            if clause(*at).0 != wanted {
                found.push(*at);
            }
        }
        Tree::All(parts) | Tree::Any(parts) => {
            let every = matches!(tree, Tree::All(_)) == wanted;
            let each = parts.iter().map(|part| distance(part, wanted, &clause));
            let least = each.clone().min().unwrap_or(0);
            for (part, far) in parts.iter().zip(each) {
                if every || far == least && least > 0 {
                    blame(part, wanted, truths, found);
                }
            }
        }
    }
}

/// Takes filters apart.
pub(super) struct Taker<'q> {
    pub(super) text: &'q str,
    /// The field that a category is compared with.
    pub(super) category: &'q str,
    pub(super) paths: Paths,
    /// The inner filters of lineage clauses, by mark.
    pub(super) marks: Vec<Condition>,
}

impl Taker<'_> {
    pub(super) fn filter(&mut self, filter: &query::Filter) -> Result<Condition, CompileError> {
        let mut clauses = Vec::new();
        let mut parts = Vec::new();
        if let Category::Named(name) = &filter.category {
            let field = Field {
                path: self.category.into(),
                ty: FieldType::Keyword,
                step: None,
            };
            let expr = Expr::Compare {
                op: Comparison::Equal,
                left: Box::new(Expr::Field(field)),
                right: Box::new(Expr::Literal(Literal::Str(name.clone()))),
            };
            let mut clause = self.clause(&expr, format!("{name} event"), false)?;
            clause.of_kind = true;
            clauses.push(clause);
            parts.push(Tree::Clause(0));
        }
        match self.condition(&filter.condition, &mut clauses)? {
            Tree::All(more) => parts.extend(more),
            Tree::Const(true) => {}
            other => parts.push(other),
        }
        let tree = match parts.pop() {
            None => Tree::Const(true),
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                Tree::All(parts)
            }
        };
        Ok(Condition { tree, clauses })
    }

    fn condition(
        &mut self,
        condition: &query::Condition,
        clauses: &mut Vec<Clause>,
    ) -> Result<Tree, CompileError> {
        let mut list = |parts: &[query::Condition]| -> Result<Vec<Tree>, CompileError> {
            parts.iter().map(|p| self.condition(p, clauses)).collect()
        };
        Ok(match condition {
            query::Condition::Const(value) => Tree::Const(*value),
            query::Condition::And(parts) => Tree::All(list(parts)?),
            query::Condition::Or(parts) => Tree::Any(list(parts)?),
            query::Condition::Not(inner) => match &**inner {
                query::Condition::Leaf(leaf) => {
                    let clause = self.leaf(leaf, true)?;
                    push(clauses, clause)
                }
                query::Condition::Lineage(lineage) => {
                    let clause = self.lineage(lineage, true)?;
                    push(clauses, clause)
                }
                other => Tree::Not(Box::new(self.condition(other, clauses)?)),
            },
            query::Condition::Leaf(leaf) => {
                let clause = self.leaf(leaf, false)?;
                push(clauses, clause)
            }
            query::Condition::Lineage(lineage) => {
                let clause = self.lineage(lineage, false)?;
                push(clauses, clause)
            }
        })
    }

    fn leaf(&mut self, leaf: &query::Leaf, negated: bool) -> Result<Clause, CompileError> {
        let (text, says_not) = words(self.text, leaf.span);
        let text = if says_not == negated {
            text
        } else {
            format!("not {text}")
        };
        self.clause(&leaf.expr, text, negated)
    }

    fn clause(&mut self, expr: &Expr, text: String, negated: bool) -> Result<Clause, CompileError> {
        let mut fields = Vec::new();
        read_by(expr, &mut fields);
        let mut reads: Vec<Read> = Vec::new();
        for field in fields {
            let known = |read: &Read| read.path == field.path && read.step == field.step;
            if !reads.iter().any(known) {
                reads.push(Read {
                    path: field.path.clone(),
                    step: field.step,
                    slot: self.paths.intern(&field.path),
                });
            }
        }
        let (exact, patterns) = literals(expr);
        let of_kind = reads.iter().all(|r| OF_KIND.contains(&&*r.path)) && !reads.is_empty();
        let weight = match (negated, of_kind) {
            (true, _) | (_, true) => 0,
            _ if is_missing_test(expr) => 0,
            _ if reads.iter().any(|r| names_few(&r.path)) => 4,
            _ => 2,
        };
        Ok(Clause {
            text,
            reads,
            of_kind,
            weight,
            test: Test::Leaf(Expression::compile(expr, &mut self.paths)?),
            negated,
            exact,
            patterns,
        })
    }

    fn lineage(&mut self, lineage: &query::Lineage, negated: bool) -> Result<Clause, CompileError> {
        let inner = self.filter(&lineage.filter)?;
        let number = u8::try_from(self.marks.len())
            .ok()
            .filter(|n| usize::from(*n) < super::super::lineage::MARKS_MAX)
            .ok_or(CompileError::TooManyLineages {
                max: super::super::lineage::MARKS_MAX,
            })?;
        self.marks.push(inner);
        let (text, _) = words(self.text, lineage.span);
        Ok(Clause {
            text: if negated { format!("not {text}") } else { text },
            reads: Vec::new(),
            of_kind: false,
            weight: if negated { 0 } else { 4 },
            test: Test::Lineage(Mark(number), relation_code(lineage.relation)),
            negated,
            exact: Vec::new(),
            patterns: Vec::new(),
        })
    }
}

fn push(clauses: &mut Vec<Clause>, clause: Clause) -> Tree {
    clauses.push(clause);
    Tree::Clause(clauses.len() - 1)
}

/// Fields whose value few events share.
fn names_few(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    ["name", "executable", "path", "args", "command_line"].contains(&last)
}

fn is_missing_test(expr: &Expr) -> bool {
    matches!(expr, Expr::IsNull(_))
}

/// A piece of a query on one line without comments, and whether it says `!=` or `not in` itself.
pub(super) fn words(query: &str, span: Span) -> (String, bool) {
    let piece = query
        .get(span.start as usize..span.end as usize)
        .unwrap_or_default();
    let lexed = lexer::lex(piece);
    let mut text = String::with_capacity(piece.len());
    let (mut end, mut depth, mut says_not) = (0, 0u32, false);
    let mut before = Token::LeftParen;
    for token in lexed.tokens.iter().filter(|t| t.kind != Token::End) {
        let (from, to) = (token.span.start as usize, token.span.end as usize);
        let opened = matches!(before, Token::LeftParen | Token::LeftBracket);
        let closes = matches!(token.kind, Token::RightParen | Token::RightBracket);
        if from > end && !text.is_empty() && !opened && !closes {
            text.push(' ');
        }
        text.push_str(piece.get(from..to).unwrap_or_default());
        match token.kind {
            Token::LeftParen | Token::LeftBracket | Token::MissingBracket => depth += 1,
            Token::RightParen | Token::RightBracket => depth = depth.saturating_sub(1),
            Token::NotEqual if depth == 0 => says_not = true,
            Token::In | Token::InFold if depth == 0 && before == Token::Not => says_not = true,
            _ => {}
        }
        before = token.kind;
        end = to;
    }
    (text, says_not)
}

/// Every field a leaf reads, arrays that functions walk over included.
fn read_by<'q>(expr: &'q Expr, fields: &mut Vec<&'q Field>) {
    match expr {
        Expr::Field(field) => fields.push(field),
        Expr::Literal(_) | Expr::Variable(_) => {}
        Expr::Compare { left, right, .. } | Expr::Arithmetic { left, right, .. } => {
            read_by(left, fields);
            read_by(right, fields);
        }
        Expr::IsNull(e) | Expr::Negate(e) | Expr::Not(e) => read_by(e, fields),
        Expr::Like { value, .. } | Expr::Regex { value, .. } | Expr::CidrMatch { value, .. } => {
            read_by(value, fields);
        }
        Expr::In { value, list, .. } => {
            read_by(value, fields);
            list.iter().for_each(|e| read_by(e, fields));
        }
        Expr::Call { args, .. } => args.iter().for_each(|e| read_by(e, fields)),
        Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|e| read_by(e, fields)),
        Expr::Array {
            array, condition, ..
        } => {
            if let ArraySource::Field(field) = &**array {
                fields.push(field);
            }
            read_by(condition, fields);
        }
    }
}

/// What a field is compared with to the letter, and by pattern with regard to case.
fn literals(expr: &Expr) -> (Vec<Box<str>>, Vec<Box<str>>) {
    let text = |expr: &Expr| match expr {
        Expr::Literal(Literal::Str(text)) => Some(text.clone()),
        _ => None,
    };
    match expr {
        Expr::Compare {
            op: Comparison::Equal,
            left,
            right,
        } => (
            text(left).or_else(|| text(right)).into_iter().collect(),
            Vec::new(),
        ),
        Expr::In { list, fold, .. } if !fold => {
            (list.iter().filter_map(text).collect(), Vec::new())
        }
        Expr::Like { patterns, fold, .. } if !fold => (Vec::new(), patterns.clone()),
        _ => (Vec::new(), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_keep_their_words() {
        let whole = |text: &str| words(text, Span::new(0, text.len()));
        let text = "process.name in (\n  \"gcc\", // the compiler\n  \"cc\"\n)";
        assert_eq!(
            whole(text),
            ("process.name in (\"gcc\", \"cc\")".to_owned(), false)
        );
        assert!(whole("a != \"b\"").1);
        assert!(whole("a not in (1, 2)").1);
        assert!(!whole("f(a != 1) == true").1);
        assert_eq!(
            whole("descendant of [process where x]").0,
            "descendant of [process where x]"
        );
    }

    #[test]
    fn the_shortest_way_is_blamed() {
        use Tree::{All, Any, Clause, Not};
        let tree = All(vec![
            Clause(0),
            Any(vec![All(vec![Clause(1), Clause(2)]), Clause(3)]),
            Not(Box::new(All(vec![Clause(4), Clause(5)]))),
        ]);
        let condition = Condition {
            tree,
            clauses: Vec::new(),
        };
        let blame = |truths: [bool; 6]| condition.blame(&truths);
        assert_eq!(blame([true, true, true, false, true, false]), [0usize; 0]);
        assert_eq!(blame([false, false, false, false, false, false]), [0, 3]);
        assert_eq!(blame([true, true, false, false, false, false]), [2, 3]);
        assert_eq!(blame([true, false, false, true, true, true]), [4, 5]);
    }
}
