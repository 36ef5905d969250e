//! Expressions that no grouped test covers: several fields in one leaf, arithmetic, nested functions, aliases.
//!
//! In: a typed expression and the events it reads. Out: whether some choice of one value per field makes it true. It visits
//! choices in stored order and stops at the first that holds; more than [`CHOICES_MAX`] choices are not tried. Never fails.

use regex::Regex;
use smallvec::SmallVec;

use crate::eql::cidr::Cidr;
use crate::eql::query::{self, ArraySource, Comparison, Expr, FieldType, Function, Literal};
use crate::eql::scalar::{self, Scalar};
use crate::eql::{functions, pattern};
use crate::event::{ELEMENTS, Fields, PLACES, Value, Values};

use super::CompileError;
use super::field::{FieldRef, Paths, SlotId};
use super::literal::scalar_of;

/// Most choices of one value per field that one leaf tries for one event.
pub(super) const CHOICES_MAX: usize = 1 << 16;

/// A leaf in its general form.
#[derive(Debug)]
pub(super) struct Expression {
    fields: Vec<Chosen>,
    node: Node,
}

/// A field that takes one value per choice.
#[derive(Debug, PartialEq)]
struct Chosen {
    slot: SlotId,
    ty: FieldType,
    step: Option<usize>,
}

#[derive(Debug)]
enum Node {
    Constant(Scalar<'static>),
    /// Position in [`Expression::fields`].
    Field(usize),
    Compare(Comparison, Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    Like {
        value: Box<Node>,
        patterns: Vec<Box<str>>,
        fold: bool,
    },
    Regex {
        value: Box<Node>,
        patterns: Vec<Regex>,
    },
    In {
        value: Box<Node>,
        list: Vec<Node>,
        fold: bool,
    },
    Cidr {
        value: Box<Node>,
        blocks: Vec<Cidr>,
    },
    Call {
        function: Function,
        fold: bool,
        args: Vec<Node>,
    },
    Arithmetic(query::Arithmetic, Box<Node>, Box<Node>),
    Negate(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Array {
        count: bool,
        base: SlotId,
        step: Option<usize>,
        /// Numbers of the elements, where the reader of the event tells them apart.
        elements: SlotId,
        /// For the array of an element: the depth of its walk, and the number of the element each of these stands in.
        inside: Option<(usize, SlotId)>,
        parts: Vec<SlotId>,
        condition: Box<Node>,
    },
    Element {
        depth: usize,
        slot: SlotId,
        /// Numbers of the elements that the values of `slot` stand in.
        places: SlotId,
        step: Option<usize>,
    },
}

/// The event at hand and those the aliases name.
pub(super) struct Context<'e, E> {
    pub(super) event: &'e E,
    /// By step, before `runs` expansion.
    pub(super) earlier: &'e [Option<&'e E>],
    pub(super) fields: &'e [FieldRef],
}

impl<'e, E: Fields> Context<'e, E> {
    fn values(&self, slot: SlotId, step: Option<usize>) -> Values<'e> {
        let event = match step {
            None => Some(self.event),
            Some(step) => self.earlier.get(step).copied().flatten(),
        };
        match (event, self.fields.get(slot.0 as usize)) {
            (Some(event), Some(field)) => field.values(event),
            _ => Values::Missing,
        }
    }
}

struct Frame<'a> {
    chosen: SmallVec<[Option<Value<'a>>; 4]>,
    elements: SmallVec<[Element; 2]>,
}

/// The element an array function looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    /// By its number: values say which element they stand in.
    Numbered(i64),
    /// By its position among the values, for events whose fields hold plain values only.
    At(usize),
}

impl Expression {
    pub(super) fn compile(expr: &Expr, paths: &mut Paths) -> Result<Self, CompileError> {
        let mut compiler = Compiler {
            fields: Vec::new(),
            arrays: Vec::new(),
            paths,
        };
        let node = compiler.node(expr)?;
        Ok(Self {
            fields: compiler.fields,
            node,
        })
    }

    /// Whether some choice gives exactly `true`.
    pub(super) fn holds<E: Fields>(&self, context: &Context<'_, E>) -> bool {
        let mut counts: SmallVec<[(usize, Values<'_>); 4]> = SmallVec::new();
        for field in &self.fields {
            let values = context.values(field.slot, field.step);
            counts.push((values.len().max(1), values));
        }
        let mut at: SmallVec<[usize; 4]> = smallvec::smallvec![0; counts.len()];
        let mut frame = Frame {
            chosen: SmallVec::new(),
            elements: SmallVec::new(),
        };
        for _ in 0..CHOICES_MAX {
            frame.chosen.clear();
            frame.chosen.extend(
                counts
                    .iter()
                    .zip(&at)
                    .map(|((_, values), i)| values.get(*i)),
            );
            if self.evaluate(&self.node, context, &mut frame) == Scalar::Bool(true) {
                return true;
            }
            // The leftmost field turns slowest.
            let mut turned = false;
            for (position, (count, _)) in at.iter_mut().zip(&counts).rev() {
                *position += 1;
                if *position < *count {
                    turned = true;
                    break;
                }
                *position = 0;
            }
            if !turned {
                return false;
            }
        }
        false
    }

    /// The value of the expression with the first value of every field: for pipe keys and sorting.
    pub(super) fn first_value<'a, E: Fields>(&'a self, context: &Context<'a, E>) -> Scalar<'a> {
        let chosen = self
            .fields
            .iter()
            .map(|f| context.values(f.slot, f.step).get(0))
            .collect();
        self.evaluate(
            &self.node,
            context,
            &mut Frame {
                chosen,
                elements: SmallVec::new(),
            },
        )
    }

    fn evaluate<'a, E: Fields>(
        &'a self,
        node: &'a Node,
        context: &Context<'a, E>,
        frame: &mut Frame<'a>,
    ) -> Scalar<'a> {
        match node {
            Node::Constant(value) => borrowed(value),
            Node::Field(i) => match (frame.chosen.get(*i), self.fields.get(*i)) {
                (Some(Some(value)), Some(field)) => scalar_of(*value).typed(field.ty),
                _ => Scalar::Null,
            },
            Node::Compare(op, a, b) => {
                let (a, b) = (
                    self.evaluate(a, context, frame),
                    self.evaluate(b, context, frame),
                );
                truth(scalar::compare(*op, &a, &b))
            }
            Node::IsNull(value) => Scalar::Bool(
                self.evaluate(value, context, frame).is_null() && !self.is_object(value, context),
            ),
            Node::Like {
                value,
                patterns,
                fold,
            } => {
                let value = self.evaluate(value, context, frame);
                truth(
                    value
                        .text()
                        .map(|text| patterns.iter().any(|p| pattern::like(p, &text, *fold))),
                )
            }
            Node::Regex { value, patterns } => {
                let value = self.evaluate(value, context, frame);
                truth(
                    value
                        .text()
                        .map(|text| patterns.iter().any(|p| p.is_match(&text))),
                )
            }
            Node::In { value, list, fold } => self.contains(value, list, *fold, context, frame),
            Node::Cidr { value, blocks } => truth(functions::cidr_match(
                &self.evaluate(value, context, frame),
                blocks,
            )),
            Node::Call {
                function,
                fold,
                args,
            } => {
                let args: SmallVec<[Scalar<'a>; 4]> = args
                    .iter()
                    .map(|a| self.evaluate(a, context, frame))
                    .collect();
                functions::call(*function, *fold, &args)
            }
            Node::Arithmetic(op, a, b) => {
                let (a, b) = (
                    self.evaluate(a, context, frame),
                    self.evaluate(b, context, frame),
                );
                functions::arithmetic(*op, &a, &b)
            }
            Node::Negate(value) => functions::negate(&self.evaluate(value, context, frame)),
            Node::And(parts) => self.kleene(parts, false, context, frame),
            Node::Or(parts) => self.kleene(parts, true, context, frame),
            Node::Not(value) => truth(scalar::not(&self.evaluate(value, context, frame))),
            Node::Array { .. } => self.array(node, context, frame),
            Node::Element {
                depth,
                slot,
                places,
                step,
            } => {
                let at = match frame.elements.get(*depth) {
                    Some(Element::At(i)) => Some(*i),
                    Some(Element::Numbered(n)) => {
                        let mut places = context.values(*places, *step).iter();
                        places.position(|place| place == Value::Int(*n))
                    }
                    None => None,
                };
                at.and_then(|i| context.values(*slot, *step).get(i))
                    .map_or(Scalar::Null, scalar_of)
            }
        }
    }

    /// `in`: true if any element equals, null if the left side is null.
    fn contains<'a, E: Fields>(
        &'a self,
        value: &'a Node,
        list: &'a [Node],
        fold: bool,
        context: &Context<'a, E>,
        frame: &mut Frame<'a>,
    ) -> Scalar<'a> {
        let value = self.evaluate(value, context, frame);
        let list = list.iter().map(|e| self.evaluate(e, context, frame));
        truth(scalar::within(&value, list, fold))
    }

    /// Whether a field has something below it: no value, but not null either.
    fn is_object<E: Fields>(&self, node: &Node, context: &Context<'_, E>) -> bool {
        let Node::Field(i) = node else { return false };
        let values = self.fields.get(*i);
        values.is_some_and(|f| matches!(context.values(f.slot, f.step), Values::Object))
    }

    /// `and` and `or` inside a leaf: `decisive` decides at once, otherwise null infects.
    fn kleene<'a, E: Fields>(
        &'a self,
        parts: &'a [Node],
        decisive: bool,
        context: &Context<'a, E>,
        frame: &mut Frame<'a>,
    ) -> Scalar<'a> {
        let mut result = Scalar::Bool(!decisive);
        for part in parts {
            match self.evaluate(part, context, frame) {
                Scalar::Bool(b) if b == decisive => return Scalar::Bool(decisive),
                Scalar::Bool(_) => {}
                _ => result = Scalar::Null,
            }
        }
        result
    }

    fn array<'a, E: Fields>(
        &'a self,
        node: &'a Node,
        context: &Context<'a, E>,
        frame: &mut Frame<'a>,
    ) -> Scalar<'a> {
        let Node::Array {
            count,
            base,
            step,
            elements,
            inside,
            parts,
            condition,
        } = node
        else {
            return Scalar::Null;
        };
        let within = inside.and_then(|(depth, owners)| {
            let owners = context.values(owners, *step);
            frame.elements.get(depth).map(|outer| (*outer, owners))
        });
        let numbers = context.values(*elements, *step);
        let numbered = !numbers.is_empty() || matches!(within, Some((Element::Numbered(_), _)));
        let length = if numbered {
            numbers.len()
        } else {
            let slots = parts.iter().chain([base]);
            let lengths = slots.map(|slot| context.values(*slot, *step).len());
            lengths.max().unwrap_or(0)
        };
        let mut found = 0i64;
        for i in 0..length {
            let element = match (numbers.get(i), within) {
                (Some(_), Some((Element::Numbered(outer), owners)))
                    if owners.get(i) != Some(Value::Int(outer)) =>
                {
                    continue;
                }
                (Some(Value::Int(n)), _) => Element::Numbered(n),
                _ => Element::At(i),
            };
            frame.elements.push(element);
            let holds = self.evaluate(condition, context, frame) == Scalar::Bool(true);
            frame.elements.pop();
            found += i64::from(holds);
            if holds && !count {
                break;
            }
        }
        if *count {
            Scalar::Int(found)
        } else {
            Scalar::Bool(found > 0)
        }
    }
}

/// The scalar without copying its text.
fn borrowed<'a>(value: &'a Scalar<'static>) -> Scalar<'a> {
    match value {
        Scalar::Str(s) => Scalar::str(s),
        Scalar::Version(s) => Scalar::Version(std::borrow::Cow::Borrowed(s)),
        Scalar::Null => Scalar::Null,
        Scalar::Bool(b) => Scalar::Bool(*b),
        Scalar::Int(i) => Scalar::Int(*i),
        Scalar::Float(f) => Scalar::Float(*f),
        Scalar::Ip(ip) => Scalar::Ip(*ip),
        Scalar::Date(ns) => Scalar::Date(*ns),
    }
}

fn truth(value: Option<bool>) -> Scalar<'static> {
    value.map_or(Scalar::Null, Scalar::Bool)
}

pub(super) fn owned_literal(literal: &Literal) -> Scalar<'static> {
    Scalar::from(literal).into_owned()
}

struct Compiler<'p> {
    fields: Vec<Chosen>,
    /// The array functions around the expression at hand, outermost first.
    arrays: Vec<ArrayFrame>,
    paths: &'p mut Paths,
}

struct ArrayFrame {
    path: String,
    step: Option<usize>,
    parts: Vec<SlotId>,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &Expr) -> Result<Node, CompileError> {
        Ok(match expr {
            Expr::Literal(literal) => Node::Constant(owned_literal(literal)),
            Expr::Field(field) => Node::Field(self.field(field)),
            Expr::Compare { op, left, right } => {
                Node::Compare(*op, self.boxed(left)?, self.boxed(right)?)
            }
            Expr::IsNull(value) => Node::IsNull(self.boxed(value)?),
            Expr::Like {
                value,
                patterns,
                fold,
            } => Node::Like {
                value: self.boxed(value)?,
                patterns: patterns.clone(),
                fold: *fold,
            },
            Expr::Regex {
                value,
                patterns,
                fold,
            } => Node::Regex {
                value: self.boxed(value)?,
                patterns: compile_regexes(patterns, *fold)?,
            },
            Expr::In { value, list, fold } => Node::In {
                value: self.boxed(value)?,
                list: self.nodes(list)?,
                fold: *fold,
            },
            Expr::CidrMatch { value, blocks } => Node::Cidr {
                value: self.boxed(value)?,
                blocks: blocks.clone(),
            },
            Expr::Call {
                function,
                fold,
                args,
            } => Node::Call {
                function: *function,
                fold: *fold,
                args: self.nodes(args)?,
            },
            Expr::Arithmetic { op, left, right } => {
                Node::Arithmetic(*op, self.boxed(left)?, self.boxed(right)?)
            }
            Expr::Negate(value) => Node::Negate(self.boxed(value)?),
            Expr::And(parts) => Node::And(self.nodes(parts)?),
            Expr::Or(parts) => Node::Or(self.nodes(parts)?),
            Expr::Not(value) => Node::Not(self.boxed(value)?),
            Expr::Array {
                count,
                array,
                condition,
            } => self.array(*count, array, condition)?,
            Expr::Variable(variable) => self.variable(variable),
        })
    }

    fn boxed(&mut self, expr: &Expr) -> Result<Box<Node>, CompileError> {
        Ok(Box::new(self.node(expr)?))
    }

    fn nodes(&mut self, list: &[Expr]) -> Result<Vec<Node>, CompileError> {
        list.iter().map(|e| self.node(e)).collect()
    }

    fn field(&mut self, field: &query::Field) -> usize {
        let chosen = Chosen {
            slot: self.paths.intern(&field.path),
            ty: field.ty,
            step: field.step,
        };
        if let Some(known) = self.fields.iter().position(|f| *f == chosen) {
            return known;
        }
        self.fields.push(chosen);
        self.fields.len() - 1
    }

    fn array(
        &mut self,
        count: bool,
        source: &ArraySource,
        condition: &Expr,
    ) -> Result<Node, CompileError> {
        let (path, step, inside) = match source {
            ArraySource::Field(field) => (field.path.to_string(), field.step, None),
            // Arrays inside elements are stored flattened: the walk is over those of all elements, and passes over the others'.
            ArraySource::Variable(variable) => {
                let (path, step) = self.below(variable);
                let owners = self.places(variable) + ELEMENTS;
                let owners = self.paths.intern(&owners);
                let inside = self.depth(variable).map(|depth| (depth, owners));
                (path, step, inside)
            }
        };
        let base = self.paths.intern(&path);
        let elements = self.paths.intern(&format!("{path}{ELEMENTS}"));
        self.arrays.push(ArrayFrame {
            path,
            step,
            parts: Vec::new(),
        });
        let condition = self.boxed(condition);
        let parts = self.arrays.pop().map(|a| a.parts).unwrap_or_default();
        Ok(Node::Array {
            count,
            base,
            step,
            elements,
            inside,
            parts,
            condition: condition?,
        })
    }

    fn depth(&self, variable: &query::Variable) -> Option<usize> {
        self.arrays
            .len()
            .checked_sub(1 + usize::from(variable.level))
    }

    fn below(&self, variable: &query::Variable) -> (String, Option<usize>) {
        match self.depth(variable).and_then(|d| self.arrays.get(d)) {
            Some(array) if variable.path.is_empty() => (array.path.clone(), array.step),
            Some(array) => (format!("{}.{}", array.path, variable.path), array.step),
            None => (String::new(), None),
        }
    }

    /// The path that tells which elements the values below a variable stand in.
    fn places(&self, variable: &query::Variable) -> String {
        match self.depth(variable).and_then(|d| self.arrays.get(d)) {
            Some(array) if variable.path.is_empty() => format!("{}{PLACES}", array.path),
            Some(array) => format!("{}{PLACES}.{}", array.path, variable.path),
            None => String::new(),
        }
    }

    fn variable(&mut self, variable: &query::Variable) -> Node {
        let (path, step) = self.below(variable);
        let places = self.places(variable);
        let slot = self.paths.intern(&path);
        let Some(depth) = self.depth(variable) else {
            return Node::Constant(Scalar::Null);
        };
        if let Some(array) = self.arrays.get_mut(depth)
            && !array.parts.contains(&slot)
        {
            array.parts.push(slot);
        }
        let places = self.paths.intern(&places);
        Node::Element {
            depth,
            slot,
            places,
            step,
        }
    }
}

/// Compiles patterns anchored at both ends.
pub(super) fn compile_regexes(
    patterns: &[Box<str>],
    fold: bool,
) -> Result<Vec<Regex>, CompileError> {
    patterns
        .iter()
        .map(|p| {
            pattern::compile_regex(p, fold).map_err(|source| CompileError::Regex {
                pattern: p.clone(),
                source: Box::new(source),
            })
        })
        .collect()
}
