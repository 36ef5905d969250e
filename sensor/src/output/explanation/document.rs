//! An explanation as one JSON document.
//!
//! In: what the text is made from. Out: the same facts for programs; `why` is the text's own answer, word for word.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::super::stdout::value_text;
use super::{Explanation, Matched, View, hint_in_words, read_name};
use crate::engine::explain::{End, Found, Partial, Stop, Tree, Wrong};
use crate::event::OwnedValue;

impl Explanation {
    /// One JSON document.
    pub fn json(&self) -> Json {
        let matches: Vec<Json> = self
            .matches
            .iter()
            .map(|found| self.json_match(found))
            .collect();
        let steps = self
            .explainer
            .steps
            .iter()
            .enumerate()
            .map(|(number, step)| {
                json!({
                    "step": number + 1,
                    "missing": step.missing,
                    "keys": step.key_paths,
                    "matching": self.explainer.satisfying(number).count(),
                    "of_kind": self.explainer.of_kind(number).count(),
                })
            });
        let mut document = json!({
            "rule": {"id": self.rule.id, "name": self.rule.name},
            "source": self.source,
            "events": self.explainer.events().len(),
            "matches": matches,
            "steps": steps.collect::<Vec<_>>(),
        });
        if let (true, Some(stop), Some(fields)) = (
            self.matches.is_empty(),
            &self.stop,
            document.as_object_mut(),
        ) {
            fields.insert("why".to_owned(), json!(self.why().join("\n")));
            fields.insert("stop".to_owned(), self.json_stop(stop));
        }
        document
    }

    /// One event against every step, as JSON.
    #[must_use]
    pub fn json_event(&self, at: usize) -> Json {
        let steps = (0..self.explainer.steps.len()).map(|step| self.json_step(step, at, None));
        json!({
            "rule": {"id": self.rule.id, "name": self.rule.name},
            self.unit: self.line(at),
            "steps": steps.collect::<Vec<_>>(),
        })
    }

    fn json_match(&self, found: &Matched) -> Json {
        let events = found.events.iter().copied().zip(self.positive());
        let partial = Partial::of(events.collect());
        let steps = partial.events.iter();
        let steps = steps.map(|(at, step)| self.json_step(*step, *at, Some(&partial)));
        let keys = found.keys.iter().map(|keys| json_values(keys));
        json!({"keys": keys.collect::<Vec<_>>(), "steps": steps.collect::<Vec<_>>()})
    }

    fn json_stop(&self, stop: &Stop) -> Json {
        let partial = stop.partial.and_then(|at| self.trace.partials.get(at));
        let reached = partial.map_or(Vec::new(), |partial| {
            let events = partial.events.iter();
            events
                .map(|(at, step)| json!({"step": step + 1, self.unit: self.line(*at)}))
                .collect()
        });
        let mut document = json!({"step": stop.step + 1, "reached": reached});
        let Some(fields) = document.as_object_mut() else {
            return document;
        };
        if let Some(partial) = partial {
            fields.insert("key".to_owned(), json_values(self.trace.key(partial)));
        }
        if let Some(near) = &stop.near {
            fields.insert(
                "nearest".to_owned(),
                self.json_step(stop.step, near.at, partial),
            );
            let wrong = near.wrong.iter().map(|wrong| match wrong {
                Wrong::Key(positions) => json!({"what": "key", "positions": positions.to_vec()}),
                Wrong::Late(over_ns) => json!({"what": "late", "over_ns": over_ns}),
                Wrong::Before => json!({"what": "before"}),
                Wrong::Ended(End::Until(by)) => {
                    json!({"what": "until", self.unit: self.line(*by)})
                }
                Wrong::Ended(End::Missing(by, step)) => {
                    json!({"what": "missing", "step": step + 1, self.unit: self.line(*by)})
                }
                Wrong::Ended(End::Replaced(by)) => {
                    json!({"what": "replaced", self.unit: self.line(*by)})
                }
                Wrong::Ended(_) => json!({"what": "ended"}),
            });
            fields.insert("wrong".to_owned(), wrong.collect());
        }
        document
    }

    fn json_step(&self, number: usize, at: usize, partial: Option<&Partial>) -> Json {
        let Some(step) = self.explainer.steps.get(number) else {
            return Json::Null;
        };
        let truths = self.explainer.truths(step, at, partial);
        let blamed: BTreeSet<usize> = step.condition.blame(&truths).into_iter().collect();
        let view = View {
            explanation: self,
            step,
            at,
            partial,
            truths: &truths,
            blamed: &blamed,
        };
        let keys = self.explainer.key_values(step, at);
        let keys = step.key_paths.iter().zip(keys).map(|(path, values)| {
            let values: Vec<Option<OwnedValue>> = values.into_iter().map(Some).collect();
            (path.to_string(), json_values(&values))
        });
        json!({
            "step": number + 1,
            self.unit: self.line(at),
            "holds": blamed.is_empty(),
            "condition": view.json(&step.condition.tree),
            "keys": keys.collect::<serde_json::Map<_, _>>(),
        })
    }
}

impl View<'_> {
    fn json(&self, tree: &Tree) -> Json {
        let list = |parts: &[Tree]| parts.iter().map(|part| self.json(part)).collect::<Vec<_>>();
        match tree {
            Tree::Const(value) => json!({"always": value}),
            Tree::All(parts) => json!({"all": list(parts)}),
            Tree::Any(parts) => json!({"any": list(parts)}),
            Tree::Not(part) => json!({"not": self.json(part)}),
            Tree::Clause(number) => {
                let Some(clause) = self.step.condition.clauses.get(*number) else {
                    return Json::Null;
                };
                let explainer = &self.explanation.explainer;
                let values = clause.reads.iter().map(|read| {
                    let found = explainer.values(read, self.at, self.partial);
                    let values = match found {
                        Found::Values(values) => values.into_iter().map(Some).collect(),
                        Found::Missing | Found::Object => Vec::new(),
                    };
                    (read_name(read), json_values(&values))
                });
                let mut document = json!({
                    "clause": clause.text,
                    "holds": self.truths.get(*number) == Some(&true),
                    "to_blame": self.blamed.contains(number),
                    "values": values.collect::<serde_json::Map<_, _>>(),
                });
                if let (Some(hint), Some(fields)) =
                    (explainer.hint(clause, self.at), document.as_object_mut())
                {
                    fields.insert("hint".to_owned(), json!(hint_in_words(&hint)));
                }
                document
            }
        }
    }
}

fn json_values(values: &[Option<OwnedValue>]) -> Json {
    let value = |value: &Option<OwnedValue>| match value {
        None => Json::Null,
        Some(OwnedValue::Str(text)) => json!(&**text),
        Some(OwnedValue::Int(number)) => json!(number),
        Some(OwnedValue::Float(number)) => json!(number),
        Some(OwnedValue::Bool(flag)) => json!(flag),
        Some(other) => json!(value_text(Some(other))),
    };
    values.iter().map(value).collect()
}
