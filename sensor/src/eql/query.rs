//! The typed query: what the type checker hands to the engine.
//!
//! In: nothing; these are types, built by `typecheck`. Out: filters, steps and expressions with all sugar gone. It never
//! holds source text beyond spans, and nothing here can fail any more.

use std::time::Duration;

use super::cidr::Cidr;
use super::diagnostic::Span;

#[derive(Clone, Debug)]
pub struct Query {
    pub form: Form,
    pub pipes: Vec<Pipe>,
}

impl Query {
    /// Fields that tell events apart in a rule that remembers or counts; no others have any.
    #[must_use]
    pub fn terms(&self) -> &[Key] {
        let terms = self.pipes.iter().find_map(|pipe| match pipe {
            Pipe::NewTerms(terms) => Some(terms.fields.as_slice()),
            Pipe::Threshold(threshold) => Some(threshold.fields.as_slice()),
            _ => None,
        });
        terms.unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
pub enum Form {
    Event(Filter),
    Sequence(Sequence),
    Sample(Sample),
}

/// `category where condition`.
#[derive(Clone, Debug)]
pub struct Filter {
    pub category: Category,
    pub condition: Condition,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    Any,
    Named(Box<str>),
}

/// The two-valued skeleton of a condition over its leaves. `a != b` has become `Not(Leaf(a == b))`,
/// `x not in (..)` `Not(Leaf(x in (..)))`; null tests are leaves.
#[derive(Clone, Debug)]
pub enum Condition {
    Const(bool),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Leaf(Leaf),
    Lineage(Lineage),
}

/// A maximal sub-expression without and/or/not. It holds iff some choice of one value per distinct field path makes it `true`.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub expr: Expr,
    pub span: Span,
}

/// `descendant of [..]`, `child of [..]`, `event of [..]`.
#[derive(Clone, Debug)]
pub struct Lineage {
    pub relation: Relation,
    pub filter: Box<Filter>,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    Descendant,
    Child,
    Event,
}

#[derive(Clone, Debug)]
pub struct Sequence {
    pub steps: Vec<Step>,
    pub maxspan: Option<Duration>,
    pub until: Option<Until>,
}

/// One bracket of a sequence; `runs` is not expanded. Keys: shared ones first, then the step's own; every step has as many.
#[derive(Clone, Debug)]
pub struct Step {
    pub filter: Filter,
    pub keys: Vec<Key>,
    pub runs: u32,
    /// `![..]`
    pub missing: bool,
    pub alias: Option<Box<str>>,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Until {
    pub filter: Filter,
    pub keys: Vec<Key>,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub path: Box<str>,
    pub ty: FieldType,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub steps: Vec<SampleStep>,
}

#[derive(Clone, Debug)]
pub struct SampleStep {
    pub filter: Filter,
    pub keys: Vec<Key>,
}

#[derive(Clone, Debug)]
pub enum Pipe {
    Head(u64),
    Tail(u64),
    /// Over a sequence the paths read `events[i].path`: `Field::step` is `Some(i)`.
    Filter(Condition),
    Unique(Vec<Expr>),
    UniqueCount(Vec<Expr>),
    Count(Vec<Expr>),
    Sort(Vec<Expr>),
    /// No pipe of the language: a rule of the type `new_terms`, behind one filter.
    NewTerms(NewTerms),
    /// No pipe of the language: a rule of the type `threshold`, behind one filter.
    Threshold(Threshold),
}

/// Passes an event on once for each combination of the fields' values that no event had within the history.
#[derive(Clone, Debug)]
pub struct NewTerms {
    pub fields: Vec<Key>,
    pub history: Duration,
}

/// Passes an event on when it makes the events with the same values of the fields, and the values of other fields among
/// them, as many as they have to be within the window; then not again for one window.
#[derive(Clone, Debug)]
pub struct Threshold {
    /// None: all events count together.
    pub fields: Vec<Key>,
    pub events: u64,
    pub window: Duration,
    /// Fields, and how many different values each must have had.
    pub distinct: Vec<(Key, u64)>,
}

/// Declared type of a field; `Any` where no schema knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    Any,
    Keyword,
    Number,
    Boolean,
    Ip,
    Date,
    Version,
}

/// A reference to a field of the event at hand, or of an earlier step (`e0.file.path`).
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Canonical path: identifiers joined by dots, array positions as `[n]` after an identifier.
    pub path: Box<str>,
    pub ty: FieldType,
    /// Index (before `runs` expansion) of the step an alias names; `None` for the event itself.
    pub step: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Box<str>),
}

/// An expression inside a leaf: three-valued (Kleene), null infects.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Literal(Literal),
    Field(Field),
    Compare {
        op: Comparison,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `e == null`; its negation is `Not` around it (in the skeleton when it is a whole leaf).
    IsNull(Box<Expr>),
    /// `:` and `like~` fold ASCII case. A pattern list is an alternation. Numbers and booleans match by their text.
    Like {
        value: Box<Expr>,
        patterns: Vec<Box<str>>,
        fold: bool,
    },
    /// Anchored at both ends, dot matches newline; `pattern::compile_regex` has accepted every pattern.
    Regex {
        value: Box<Expr>,
        patterns: Vec<Box<str>>,
        fold: bool,
    },
    In {
        value: Box<Expr>,
        list: Vec<Expr>,
        fold: bool,
    },
    Call {
        function: Function,
        fold: bool,
        args: Vec<Expr>,
    },
    Arithmetic {
        op: Arithmetic,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    /// `cidrMatch(value, block, ..)`: `functions::cidr_match`.
    CidrMatch {
        value: Box<Expr>,
        blocks: Vec<Cidr>,
    },
    /// `arraySearch(array, x, condition)` and `arrayCount`: whether, or for how many elements, the condition is true; false
    /// and 0 when the array is missing. The array is not one of the leaf's chosen values: all elements are visited.
    /// `arrayContains(array, v, ..)` is the search for `x in (v, ..)`.
    Array {
        count: bool,
        array: Box<ArraySource>,
        condition: Box<Expr>,
    },
    /// The bound variable of an array function around it.
    Variable(Variable),
}

/// What an array function walks over.
#[derive(Clone, Debug, PartialEq)]
pub enum ArraySource {
    Field(Field),
    Variable(Variable),
}

/// The element an array function looks at, or the value at a path below it when the elements are objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// How many array functions lie between: 0 is the innermost one around the reference.
    pub level: u16,
    /// Path below the element, empty for the element itself.
    pub path: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// `functions::call` computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    Between,
    Concat,
    EndsWith,
    IndexOf,
    Length,
    Number,
    StartsWith,
    String,
    StringContains,
    Substring,
}
