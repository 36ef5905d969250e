//! One rule file's text to a [`Rule`].
//!
//! In: a [`Source`]. Out: the rule, or why it is not for this sensor, or everything wrong with it. The shapes are told apart
//! by their keys; unknown keys are tolerated because public rules carry many.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::action;
use super::coverage::Finding;
use super::example::{self, Example};
use super::kuery::{self, Type};
use super::lint;
use super::places::Places;
use super::schema::{SensorSchema, TolerantSchema};
use super::{Reference, Rule, Severity, Shape, Skipped, Technique, Threat};
use crate::document::{self, Found, Problem, Source, StringMap, Table};
use crate::eql::{self, Mode, Schema};
use crate::kql;

/// Longest rule id, in bytes.
const ID_LEN_MAX: usize = 128;
/// Longest rule name, in bytes.
const NAME_LEN_MAX: usize = 512;

/// What came of one file.
pub(super) struct Outcome {
    pub rule: Option<Rule>,
    pub skipped: Option<Skipped>,
    pub problems: Vec<Problem>,
}

pub(super) fn read(source: &Source) -> Outcome {
    let mut outcome = Outcome {
        rule: None,
        skipped: None,
        problems: Vec::new(),
    };
    if source.text.trim().is_empty() {
        outcome.problems.push(source.problem(
            0..0,
            "the file is empty".to_owned(),
            Some(NEEDED.to_owned()),
        ));
        return outcome;
    }
    let (document, problems) = source.parse();
    if !problems.is_empty() {
        outcome.problems = problems;
        return outcome;
    }
    let mut reader = Reader {
        source,
        problems: Vec::new(),
    };
    match reader.document(&document) {
        Some(Ok(rule)) => outcome.rule = Some(rule),
        Some(Err(skipped)) => outcome.skipped = Some(skipped),
        None => {}
    }
    outcome.problems = reader.problems;
    outcome.problems.sort_by_key(|problem| problem.place);
    // A file with an error counts as that and nothing else.
    if outcome.problems.iter().any(Problem::is_error) {
        outcome.rule = None;
        outcome.skipped = None;
    }
    outcome
}

/// Keys that are known and not honoured, with what comes of it. What has no meaning on a stream (`from`, `interval`,
/// `timestamp_override`) is not among them.
const IGNORED: &[(&str, &str)] = &[
    ("alert_suppression", "every alert is given"),
    ("building_block_type", "its alerts are given like any other"),
    (
        "enabled",
        "the rule is matched as long as its file is there",
    ),
    (
        "event_category_override",
        "categories are compared with event.category",
    ),
    ("exceptions_list", "alerts they would leave out are given"),
    ("filters", "alerts they would leave out are given"),
    ("max_signals", "every alert is given"),
    ("risk_score_mapping", "alerts have the rule's own score"),
    ("rule_name_override", "alerts have the rule's own name"),
    ("severity_mapping", "alerts have the rule's own severity"),
];

const NEEDED: &str = "a rule needs a table [rule] with rule_id, name, type and query, or with id, os_list, name and query";

struct Reader<'t> {
    source: &'t Source,
    problems: Vec<Problem>,
}

/// What every shape has.
struct Head<'t> {
    shape: Shape,
    ty: Type,
    id: Option<Found<'t, &'t str>>,
    name: Option<Found<'t, &'t str>>,
    query: Option<Found<'t, &'t str>>,
}

impl<'t> Reader<'t> {
    /// `None` when problems keep it from being a rule; they have been noted.
    fn document(&mut self, document: &'t Spanned<DeTable<'t>>) -> Option<Result<Rule, Skipped>> {
        let mut root = Table::new(self.source, "", document.get_ref(), document.span());
        if !root.has("rule") {
            let start = 0..0;
            self.problems.push(self.source.problem(
                start,
                "there is no table `[rule]`".to_owned(),
                Some(NEEDED.to_owned()),
            ));
            return None;
        }
        let mut metadata = root.table("metadata", &mut self.problems);
        let mut table = root.table("rule", &mut self.problems)?;
        let Some(shape) = shape(&table) else {
            self.problems.push(self.source.problem(
                table.span(),
                "`[rule]` has neither `rule_id` nor `id`".to_owned(),
                Some(NEEDED.to_owned()),
            ));
            return None;
        };
        if let Some(skipped) = self.reason_to_skip(shape, metadata.as_mut(), &mut table) {
            return Some(Err(skipped));
        }
        let ty = match shape {
            Shape::Behavior => Type::Eql,
            // Any other type has been skipped, and a missing one is a problem already.
            Shape::Own | Shape::Detection => table
                .string("type", &mut Vec::new())
                .and_then(|(name, _)| Type::named(name))
                .unwrap_or(Type::Eql),
        };
        let head = self.head(shape, ty, &mut table);
        let threats = match shape {
            Shape::Behavior => self.threats(&mut root),
            Shape::Own | Shape::Detection => self.threats(&mut table),
        };
        if shape != Shape::Behavior {
            self.ignored(&mut table);
        }
        let examples = example::read(&mut root, &mut self.problems);
        let mut rule = self.rule(head, &mut table, threats, examples);
        let form = rule.as_ref().map(|rule| &rule.query.form);
        let actions = action::read(&mut root, shape, form, &mut self.problems);
        if let Some(rule) = &mut rule {
            rule.actions = actions;
        }
        rule.map(Ok)
    }

    fn reason_to_skip(
        &mut self,
        shape: Shape,
        metadata: Option<&mut Table<'t>>,
        table: &mut Table<'t>,
    ) -> Option<Skipped> {
        let reason = match shape {
            Shape::Behavior => self.foreign_system(table),
            Shape::Own | Shape::Detection => {
                let deprecated = metadata.is_some_and(|metadata| {
                    let maturity = metadata.string("maturity", &mut self.problems);
                    maturity.is_some_and(|(maturity, _)| maturity == "deprecated")
                });
                if deprecated {
                    Some("deprecated".to_owned())
                } else {
                    self.foreign_language(table).or_else(|| foreign_tags(table))
                }
            }
        }?;
        let name = table.string("name", &mut self.problems);
        Some(Skipped {
            path: Arc::clone(&self.source.path),
            name: name.map(|(name, _)| name.to_owned()),
            reason,
        })
    }

    /// Behavior rules name their systems.
    fn foreign_system(&mut self, table: &mut Table<'t>) -> Option<String> {
        if !table.has("os_list") {
            self.problems.push(table.missing("os_list", "[\"linux\"]"));
        }
        let systems = table.strings("os_list", &mut self.problems)?;
        if systems.iter().any(|(system, _)| *system == "linux") {
            return None;
        }
        let names: Vec<&str> = systems.iter().map(|(system, _)| *system).collect();
        Some(format!("not for linux: {}", names.join(", ")))
    }

    /// EQL and KQL are matched here; a missing type is noted as a problem.
    fn foreign_language(&mut self, table: &mut Table<'t>) -> Option<String> {
        let (kind, _) = table.required_string("type", &mut self.problems)?;
        let Some(ty) = Type::named(kind) else {
            return Some(format!("not supported: {kind}"));
        };
        let language = table.string("language", &mut self.problems);
        match (ty, language) {
            (Type::Eql, Some((language, span))) if language != ty.language() => {
                let message = format!(
                    "`rule.language` is \"{}\", must be \"eql\" in a rule of type eql",
                    language.escape_debug()
                );
                self.problems.push(self.source.problem(span, message, None));
                None
            }
            (Type::Eql, _) => None,
            (_, Some((language, _))) if language != ty.language() => {
                Some(format!("not supported: {kind} in {}", shown(language)))
            }
            _ => kuery::has_filters(table).then(|| "not supported: filters".to_owned()),
        }
    }

    fn head(&mut self, shape: Shape, ty: Type, table: &mut Table<'t>) -> Head<'t> {
        let id_key = match shape {
            Shape::Behavior => "id",
            Shape::Own | Shape::Detection => "rule_id",
        };
        let id = table.required_string(id_key, &mut self.problems);
        if let Some((text, span)) = &id
            && (text.len() > ID_LEN_MAX
                || text.contains(|c: char| c.is_control() || c.is_whitespace()))
        {
            self.problems.push(self.source.problem(
                span.clone(),
                format!(
                    "`rule.{id_key}` is {}, must be up to {ID_LEN_MAX} bytes without white space",
                    shown(text)
                ),
                Some("a UUID is best".to_owned()),
            ));
        }
        let name = table.required_string("name", &mut self.problems);
        if let Some((text, span)) = &name
            && (text.len() > NAME_LEN_MAX || text.contains(char::is_control))
        {
            self.problems.push(self.source.problem(
                span.clone(),
                format!(
                    "`rule.name` is {}, must be up to {NAME_LEN_MAX} bytes on one line",
                    shown(text)
                ),
                Some("control characters are not allowed in it".to_owned()),
            ));
        }
        Head {
            shape,
            ty,
            id,
            name,
            query: table.required_string("query", &mut self.problems),
        }
    }

    fn rule(
        &mut self,
        head: Head<'t>,
        table: &mut Table<'t>,
        threats: Vec<Threat>,
        examples: Vec<Example>,
    ) -> Option<Rule> {
        let problems = &mut self.problems;
        let severity = severity(table, problems);
        let risk_score = table.integer("risk_score", 0..=100, problems);
        let severity = severity
            .or_else(|| risk_score.as_ref().map(|(score, _)| severity_of(*score)))
            .unwrap_or(Severity::Medium);
        let risk_score = risk_score.and_then(|(score, _)| u8::try_from(score).ok());
        let references_key = match head.shape {
            Shape::Behavior => "reference",
            Shape::Own | Shape::Detection => "references",
        };
        let authors = owned_list(table, "author", problems);
        let references = owned_list(table, references_key, problems);
        let false_positives = owned_list(table, "false_positives", problems);
        let tags = owned_list(table, "tags", problems);
        let mut text = |key| {
            table
                .string(key, problems)
                .map(|(text, _)| text.trim().to_owned())
        };
        let description = text("description");
        let license = text("license");
        let note = text("note");
        let version = version(table);
        let query = self.whole_query(head.shape, head.ty, head.query, table);
        let ((id, id_span), (name, _), (query_text, query, places, never)) =
            (head.id?, head.name?, query?);
        let id_line = eql::diagnostic::line_column(&self.source.text, id_span.start).0;
        Some(Rule {
            path: Arc::clone(&self.source.path),
            shape: head.shape,
            id: id.to_owned(),
            name: name.trim().to_owned(),
            description,
            version,
            severity,
            risk_score: risk_score.unwrap_or_else(|| severity.risk_score()),
            authors,
            license,
            references,
            false_positives,
            tags,
            note,
            threats,
            query_text: query_text.to_owned(),
            query,
            examples,
            actions: Vec::new(),
            digest: digest(&self.source.text),
            id_line,
            places,
            never,
        })
    }

    /// Notes the keys that would change which alerts there are, elsewhere.
    fn ignored(&mut self, table: &mut Table<'t>) {
        for (key, effect) in IGNORED {
            let Some(value) = table.get(key) else {
                continue;
            };
            if value
                .get_ref()
                .as_array()
                .is_some_and(|items| items.is_empty())
            {
                continue;
            }
            let mut problem = self.source.problem(
                value.span(),
                format!("`rule.{key}` is ignored"),
                Some((*effect).to_owned()),
            );
            problem.severity = eql::Severity::Note;
            problem.code = Some("ignored-key");
            self.problems.push(problem);
        }
    }

    /// The query and what a rule's type adds to it.
    fn whole_query(
        &mut self,
        shape: Shape,
        ty: Type,
        text: Option<Found<'t, &'t str>>,
        table: &mut Table<'t>,
    ) -> Option<(&'t str, eql::query::Query, Places, Vec<Finding>)> {
        let schema: &dyn Schema = match shape {
            Shape::Own => &SensorSchema,
            Shape::Detection | Shape::Behavior => &TolerantSchema,
        };
        let pipes = kuery::pipes(ty, table, schema, &mut self.problems);
        let (text, span) = text?;
        let is_own = shape == Shape::Own;
        let (mut query, places, never) = self.query(ty, is_own, schema, text, span)?;
        query.pipes.extend(pipes?);
        Some((text, query, places, never))
    }

    /// Compiles the query; its diagnostics come to point into the file.
    fn query(
        &mut self,
        ty: Type,
        is_own: bool,
        schema: &dyn Schema,
        text: &str,
        span: Range<usize>,
    ) -> Option<(eql::query::Query, Places, Vec<Finding>)> {
        let map = StringMap::new(&self.source.text, span.clone(), text);
        let compiled = match ty {
            Type::Eql => eql::compile(text, schema, Mode::Live),
            Type::Query | Type::Threshold | Type::NewTerms => kql::compile(text, schema),
        };
        let (query, diagnostics) = match compiled {
            Ok(checked) => (Some(checked.query), checked.warnings),
            Err(diagnostics) => (None, diagnostics),
        };
        for diagnostic in diagnostics {
            let start = map.file_offset(diagnostic.span.start as usize);
            let end = map.file_offset(diagnostic.span.end as usize);
            let mut problem = self
                .source
                .problem(start..end, diagnostic.message, diagnostic.help);
            problem.severity = diagnostic.severity;
            problem.code = Some(diagnostic.kind.name());
            self.problems.push(problem);
        }
        let mut never = Vec::new();
        if let Some(query) = &query {
            for lint in lint::lints(query, text, is_own) {
                never.extend(lint.never_fires());
                let start = map.file_offset(lint.span.start as usize);
                let end = map.file_offset(lint.span.end as usize);
                let mut problem = self
                    .source
                    .problem(start..end, lint.message, Some(lint.help));
                problem.severity = lint.severity;
                problem.code = Some(lint.code);
                self.problems.push(problem);
            }
        }
        let places = Places::new(&self.source.text, &span, text, &map);
        Some((query?, places, never))
    }

    fn threats(&mut self, parent: &mut Table<'t>) -> Vec<Threat> {
        let problems = &mut self.problems;
        let mut threats = Vec::new();
        for mut entry in parent.tables("threat", problems) {
            let framework = entry.string("framework", problems);
            let framework = framework
                .map_or("MITRE ATT&CK", |(name, _)| name)
                .to_owned();
            let Some(mut tactic) = entry.table("tactic", problems) else {
                if !entry.has("tactic") {
                    problems.push(entry.missing("tactic", "{ id = \"…\", name = \"…\" }"));
                }
                continue;
            };
            let tactic = reference(&mut tactic, problems);
            let mut techniques = Vec::new();
            for mut technique in entry.tables("technique", problems) {
                let Some(found) = reference(&mut technique, problems) else {
                    continue;
                };
                let mut subtechniques = Vec::new();
                for mut subtechnique in technique.tables("subtechnique", problems) {
                    subtechniques.extend(reference(&mut subtechnique, problems));
                }
                techniques.push(Technique {
                    reference: found,
                    subtechniques,
                });
            }
            if let Some(tactic) = tactic {
                threats.push(Threat {
                    framework,
                    tactic,
                    techniques,
                });
            }
        }
        threats
    }
}

/// Equal for equal texts, in every run of every build.
#[must_use]
pub fn digest(text: &str) -> u64 {
    let hash = Sha256::digest(text);
    let first = hash.iter().take(8);
    first.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A text as messages show it.
fn shown(text: &str) -> String {
    document::shown(&DeValue::String(text.into()))
}

/// `None` for a table that is no rule of any shape.
fn shape(table: &Table<'_>) -> Option<Shape> {
    match (table.has("rule_id"), table.has("id")) {
        (true, _) if table.has("index") => Some(Shape::Detection),
        (true, _) => Some(Shape::Own),
        (false, true) if table.has("os_list") => Some(Shape::Behavior),
        // The nearest shape makes the better message: `id` with `type` is ours with the key misnamed.
        (false, true) if table.has("type") => Some(Shape::Own),
        (false, true) => Some(Shape::Behavior),
        (false, false) if table.has("type") => Some(Shape::Own),
        (false, false) => None,
    }
}

/// Rules of the first shape name systems by tags such as `OS: Windows`; without such a tag they are for any.
fn foreign_tags(table: &mut Table<'_>) -> Option<String> {
    // Problems of `tags` are noted when the rule is read; here only what is right matters.
    let tags = table.strings("tags", &mut Vec::new())?;
    let systems: Vec<&str> = tags
        .iter()
        .filter_map(|(tag, _)| tag.strip_prefix("OS: "))
        .collect();
    if systems.is_empty() || systems.contains(&"Linux") {
        return None;
    }
    // What the query says counts for more.
    let query = table.string("query", &mut Vec::new());
    if query.is_some_and(|(query, _)| query.to_ascii_lowercase().contains("\"linux\"")) {
        return None;
    }
    Some(format!("not for linux: {}", systems.join(", ")))
}

fn severity(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Severity> {
    let (text, span) = table.string("severity", problems)?;
    let found = Severity::ALL
        .into_iter()
        .find(|severity| severity.name() == text);
    if found.is_none() {
        problems.push(table.source().problem(
            span,
            format!(
                "`rule.severity` is \"{}\", must be \"low\", \"medium\", \"high\" or \"critical\"",
                text.escape_debug()
            ),
            None,
        ));
    }
    found
}

/// The severity whose own score is nearest below.
fn severity_of(risk_score: i64) -> Severity {
    Severity::ALL
        .into_iter()
        .rev()
        .find(|severity| risk_score >= i64::from(severity.risk_score()))
        .unwrap_or(Severity::Low)
}

/// A string in one format, a number in others.
fn version(table: &mut Table<'_>) -> Option<String> {
    match table.get("version")?.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An array of strings, or one string taken as an array of one.
fn owned_list(
    table: &mut Table<'_>,
    key: &'static str,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let single = table
        .get(key)
        .and_then(|value| value.get_ref().as_str().map(str::to_owned));
    match single {
        Some(text) => vec![text],
        None => table
            .strings(key, problems)
            .unwrap_or_default()
            .into_iter()
            .map(|(text, _)| text.to_owned())
            .collect(),
    }
}

fn reference(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Reference> {
    let id = table.required_string("id", problems);
    let name = table.required_string("name", problems);
    let url = table.string("reference", problems);
    Some(Reference {
        id: id?.0.to_owned(),
        name: name?.0.to_owned(),
        url: url.map(|(url, _)| url.to_owned()),
    })
}
