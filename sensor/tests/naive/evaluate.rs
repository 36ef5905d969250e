//! Whether a condition holds for an event, the obvious way.
//!
//! In: the typed condition, the history and the event's place in it, and the events bound to aliases. Out: a boolean. A leaf
//! is tried with every choice of one value per field it mentions; nothing is remembered between calls.

use sensor::eql::query::{
    ArraySource, Category, Condition, Expr, Field, FieldType, Filter, Lineage, Relation,
};
use serde_json::Value as Json;

use super::value::{self, Val};
use crate::stream::{Source, scalar};

/// Where a condition is evaluated.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// All events, in order.
    pub(crate) events: &'a [Source],
    /// The event at hand.
    pub(crate) at: usize,
    /// Events of earlier steps, by step; for pipes the events of the match.
    pub(crate) bound: &'a [Option<&'a Source>],
}

impl<'a> Place<'a> {
    fn event(&self) -> &'a Source {
        &self.events[self.at]
    }

    fn source(&self, field: &Field) -> Option<&'a Source> {
        match field.step {
            None => Some(self.event()),
            Some(step) => self.bound.get(step).copied().flatten(),
        }
    }
}

/// One choice of values, and the elements that array functions look at, innermost last.
struct Chosen<'a> {
    fields: Vec<(&'a Field, Val)>,
    elements: Vec<&'a Json>,
}

pub(crate) fn filter(filter: &Filter, place: Place<'_>) -> bool {
    let in_category = match &filter.category {
        Category::Any => true,
        Category::Named(name) => {
            let categories = place.event().values("event.category");
            categories
                .iter()
                .any(|c| Val::stored(c, FieldType::Any) == Val::Str(name.to_string()))
        }
    };
    in_category && holds(&filter.condition, place)
}

pub(crate) fn holds(condition: &Condition, place: Place<'_>) -> bool {
    match condition {
        Condition::Const(value) => *value,
        Condition::And(parts) => parts.iter().all(|part| holds(part, place)),
        Condition::Or(parts) => parts.iter().any(|part| holds(part, place)),
        Condition::Not(part) => !holds(part, place),
        Condition::Lineage(lineage) => related(lineage, place),
        Condition::Leaf(leaf) => {
            let mut fields = Vec::new();
            mentioned(&leaf.expr, &mut fields);
            some_choice(&leaf.expr, &fields, place, &mut Vec::new())
        }
    }
}

/// The first value an expression takes, for pipes that compare results.
pub(crate) fn first_value(expr: &Expr, place: Place<'_>) -> Val {
    let mut fields = Vec::new();
    mentioned(expr, &mut fields);
    let choice = fields
        .iter()
        .map(|field| (*field, candidates(field, place).remove(0)))
        .collect();
    evaluate(
        expr,
        place,
        &mut Chosen {
            fields: choice,
            elements: Vec::new(),
        },
    )
}

fn some_choice<'a>(
    expr: &'a Expr,
    fields: &[&'a Field],
    place: Place<'a>,
    chosen: &mut Vec<(&'a Field, Val)>,
) -> bool {
    let Some(field) = fields.get(chosen.len()) else {
        let mut choice = Chosen {
            fields: chosen.clone(),
            elements: Vec::new(),
        };
        return evaluate(expr, place, &mut choice).is_true();
    };
    candidates(field, place).into_iter().any(|value| {
        chosen.push((*field, value));
        let found = some_choice(expr, fields, place, chosen);
        chosen.pop();
        found
    })
}

/// The values a field may take; a missing one only null.
fn candidates(field: &Field, place: Place<'_>) -> Vec<Val> {
    let Some(source) = place.source(field) else {
        return vec![Val::Null];
    };
    let values: Vec<Val> = source
        .values(&field.path)
        .iter()
        .map(|v| Val::stored(v, field.ty))
        .collect();
    match values.is_empty() {
        false => values,
        true if source.present(&field.path) => vec![Val::Object],
        true => vec![Val::Null],
    }
}

/// The distinct fields of a leaf, without the arrays that array functions walk over.
fn mentioned<'a>(expr: &'a Expr, fields: &mut Vec<&'a Field>) {
    match expr {
        Expr::Field(field) => {
            let known = |f: &&&Field| f.path == field.path && f.step == field.step;
            if fields.iter().find(known).is_none() {
                fields.push(field);
            }
        }
        Expr::Literal(_) | Expr::Variable(_) => {}
        Expr::Compare { left, right, .. } | Expr::Arithmetic { left, right, .. } => {
            mentioned(left, fields);
            mentioned(right, fields);
        }
        Expr::IsNull(e) | Expr::Negate(e) | Expr::Not(e) => mentioned(e, fields),
        Expr::Like { value, .. } | Expr::Regex { value, .. } | Expr::CidrMatch { value, .. } => {
            mentioned(value, fields);
        }
        Expr::In { value, list, .. } => {
            mentioned(value, fields);
            list.iter().for_each(|e| mentioned(e, fields));
        }
        Expr::Call { args, .. } => args.iter().for_each(|e| mentioned(e, fields)),
        Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|e| mentioned(e, fields)),
        Expr::Array { condition, .. } => mentioned(condition, fields),
    }
}

fn evaluate<'a>(expr: &'a Expr, place: Place<'a>, chosen: &mut Chosen<'a>) -> Val {
    let mut eval = |e: &'a Expr| evaluate(e, place, chosen);
    match expr {
        Expr::Literal(literal) => Val::literal(literal),
        Expr::Field(field) => {
            let same = |(f, _): &&(&Field, Val)| f.path == field.path && f.step == field.step;
            chosen
                .fields
                .iter()
                .find(same)
                .expect("every field was chosen")
                .1
                .clone()
        }
        Expr::Compare { op, left, right } => {
            let (left, right) = (eval(left), eval(right));
            value::compare(*op, &left, &right)
        }
        Expr::Arithmetic { op, left, right } => {
            let (left, right) = (eval(left), eval(right));
            value::arithmetic(*op, &left, &right)
        }
        Expr::IsNull(e) => Val::Bool(eval(e) == Val::Null),
        Expr::Negate(e) => value::negate(&eval(e)),
        Expr::Not(e) => Val::truth(eval(e).boolean().map(|b| !b)),
        Expr::And(parts) => kleene(parts.iter().map(eval).collect(), false),
        Expr::Or(parts) => kleene(parts.iter().map(eval).collect(), true),
        Expr::Like {
            value,
            patterns,
            fold,
        } => Val::truth(eval(value).text().map(|text| {
            patterns
                .iter()
                .any(|pattern| value::like(pattern, &text, *fold))
        })),
        Expr::Regex {
            value,
            patterns,
            fold,
        } => Val::truth(eval(value).text().map(|text| {
            patterns
                .iter()
                .any(|pattern| value::regex(pattern, &text, *fold))
        })),
        Expr::In { value, list, fold } => {
            let value = eval(value);
            if value == Val::Null {
                return Val::Null;
            }
            let each = list
                .iter()
                .map(|e| Val::truth(value::equal_in(&value, &eval(e), *fold)));
            kleene(each.collect(), true)
        }
        Expr::Call {
            function,
            fold,
            args,
        } => {
            let args: Vec<Val> = args.iter().map(eval).collect();
            value::call(*function, *fold, &args)
        }
        Expr::CidrMatch { value, blocks } => value::cidr_match(&eval(value), blocks),
        Expr::Array {
            count,
            array,
            condition,
        } => {
            let elements = elements(array, place, chosen);
            let mut found = 0;
            for element in elements {
                chosen.elements.push(element);
                found += i64::from(evaluate(condition, place, chosen).is_true());
                chosen.elements.pop();
            }
            if *count {
                Val::Int(found)
            } else {
                Val::Bool(found > 0)
            }
        }
        Expr::Variable(variable) => {
            let element = element(chosen, variable.level);
            let values = below(element, &variable.path);
            values
                .first()
                .and_then(|v| scalar(v))
                .map_or(Val::Null, |v| Val::stored(&v, FieldType::Any))
        }
    }
}

/// Any `decisive` value decides; otherwise null infects.
fn kleene(values: Vec<Val>, decisive: bool) -> Val {
    let values: Vec<Option<bool>> = values.iter().map(Val::boolean).collect();
    if values.contains(&Some(decisive)) {
        Val::Bool(decisive)
    } else if values.contains(&None) {
        Val::Null
    } else {
        Val::Bool(!decisive)
    }
}

fn element<'a>(chosen: &Chosen<'a>, level: u16) -> &'a Json {
    chosen.elements[chosen.elements.len() - 1 - usize::from(level)]
}

fn elements<'a>(array: &ArraySource, place: Place<'a>, chosen: &Chosen<'a>) -> Vec<&'a Json> {
    match array {
        ArraySource::Field(field) => place
            .source(field)
            .map_or(Vec::new(), |source| source.elements(&field.path)),
        ArraySource::Variable(variable) => below(element(chosen, variable.level), &variable.path),
    }
}

fn below<'a>(json: &'a Json, path: &str) -> Vec<&'a Json> {
    match json {
        Json::Array(elements) => elements.iter().flat_map(|e| below(e, path)).collect(),
        Json::Null => Vec::new(),
        _ if path.is_empty() => vec![json],
        _ => {
            let (head, rest) = path.split_once('.').unwrap_or((path, ""));
            json.get(head).map_or(Vec::new(), |json| below(json, rest))
        }
    }
}

/// Lineage by looking back over the whole history.
fn related(lineage: &Lineage, place: Place<'_>) -> bool {
    let Some(process) = entity(place.event(), "process.entity_id") else {
        return false;
    };
    match lineage.relation {
        Relation::Event => is_source(&process, lineage, place, place.at),
        Relation::Child => match birth(&process, place) {
            Some((parent, born)) => is_source(&parent, lineage, place, born),
            None => false,
        },
        Relation::Descendant => is_descendant(&process, lineage, place),
    }
}

fn entity(event: &Source, path: &str) -> Option<String> {
    event
        .values(path)
        .first()
        .and_then(|v| Val::stored(v, FieldType::Any).text())
}

/// The parent of a process, and the place of the first event that tells of the process.
fn birth(process: &str, place: Place<'_>) -> Option<(String, usize)> {
    let own = |e: &Source| entity(e, "process.entity_id").as_deref() == Some(process);
    let born = place.events[..=place.at].iter().position(own)?;
    Some((
        entity(&place.events[born], "process.parent.entity_id")?,
        born,
    ))
}

/// Whether an event of the process before `until` satisfied the inner query.
fn is_source(process: &str, lineage: &Lineage, place: Place<'_>, until: usize) -> bool {
    (0..until).any(|at| {
        let event = &place.events[at];
        entity(event, "process.entity_id").as_deref() == Some(process)
            && filter(&lineage.filter, Place { at, ..place })
    })
}

fn is_descendant(process: &str, lineage: &Lineage, place: Place<'_>) -> bool {
    let Some((parent, born)) = birth(process, place) else {
        return false;
    };
    let Some(before) = born.checked_sub(1) else {
        return false;
    };
    is_source(&parent, lineage, place, born)
        || (parent != process
            && is_descendant(
                &parent,
                lineage,
                Place {
                    at: before,
                    ..place
                },
            ))
}
