//! Why a rule matches recorded events, or does not, for people and for programs.
//!
//! In: a rule taken apart, its events, its matches and where it stops. Out: text whose first line after the headline is the answer,
//! or one JSON document. It chooses words only; which event is nearest is `engine::explain`'s to say. Whatever stands in an event
//! is made harmless to a terminal.

mod document;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::stdout::value_text;
use crate::alert::{self, plain};
use crate::document::counted;
use crate::engine::explain::{
    Condition, End, Explainer, Found, Hint, Near, Partial, Shape, Step, Stop, Trace, Tree, Wrong,
};
use crate::event::{Evidence, Fields as _, OwnedValue};
use crate::json_lines::FlatEvent;
use crate::rule::Rule;

/// Matches shown clause by clause.
const MATCHES_MAX: usize = 3;
/// Values of one field shown, and characters of one.
const VALUES_MAX: usize = 8;
const VALUE_CHARS_MAX: usize = 120;
/// Characters of a clause shown.
const CLAUSE_CHARS_MAX: usize = 200;
/// Lines named in a list.
const LINES_MAX: usize = 8;

/// A rule, the events it was tried on, and what came of it.
pub struct Explanation {
    pub rule: Arc<Rule>,
    /// What the events were read from.
    pub source: String,
    /// What a place in the source is called: `line` or `event`.
    pub unit: &'static str,
    pub explainer: Explainer<Arc<FlatEvent>>,
    /// By event, the number of its line.
    pub lines: Vec<u64>,
    pub matches: Vec<Matched>,
    pub trace: Trace,
    pub stop: Option<Stop>,
    /// Matches that the query's pipes let through are fewer than those found.
    pub piped: bool,
    /// Partial matches that a bound of the engine cost.
    pub evicted: u64,
    alerts: alert::Builder,
}

/// One match, by positions of events.
#[derive(Clone, Debug)]
pub struct Matched {
    pub events: Vec<usize>,
    pub keys: Vec<Vec<Option<OwnedValue>>>,
}

/// The words in front of a clause.
const YES: &str = "yes";
const NO: &str = "NO ";
/// False, and without consequence.
const IDLE_NO: &str = "no ";

impl Explanation {
    /// `alerts` is made from the table the events were read by.
    pub fn new(
        rule: Arc<Rule>,
        explainer: Explainer<Arc<FlatEvent>>,
        alerts: alert::Builder,
    ) -> Explanation {
        let mut trace = explainer.trace();
        let stop = explainer.stop(&mut trace);
        Explanation {
            rule,
            source: String::new(),
            unit: "line",
            explainer,
            lines: Vec::new(),
            matches: Vec::new(),
            trace,
            stop,
            piped: false,
            evicted: 0,
            alerts,
        }
    }

    /// Text for people: all of it.
    pub fn text(&mut self) -> String {
        let mut out = headline(&self.rule);
        let events = self.explainer.events().len();
        // A String takes any write.
        let _ = writeln!(
            out,
            "{}: {}, {}",
            plain(&self.source),
            counted(events, "event"),
            match self.matches.len() {
                0 => "no match".to_owned(),
                count => matches_counted(count),
            }
        );
        if self.matches.is_empty() {
            for line in self.why() {
                let _ = writeln!(out, "{line}");
            }
        }
        if self.explainer.steps.len() > 1 || self.matches.is_empty() {
            self.steps(&mut out);
        }
        for number in 0..self.matches.len().min(MATCHES_MAX) {
            self.matched(number, &mut out);
        }
        if self.matches.len() > MATCHES_MAX {
            let more = self.matches.len() - MATCHES_MAX;
            let _ = writeln!(out, "\nand {} more", matches_counted(more));
        }
        if self.matches.is_empty() {
            self.nearest(&mut out);
        }
        out
    }

    /// One event against every step.
    pub fn one_event(&mut self, at: usize) -> String {
        let mut out = headline(&self.rule);
        for step in 0..self.explainer.steps.len() {
            out.push('\n');
            self.block(step, at, None, &[], &mut out);
        }
        if let Some(until) = &self.explainer.until {
            let truths = self.explainer.truths(until, at, None);
            let label = self.label(at);
            let _ = writeln!(out, "\nuntil on {label}");
            if let Some(until) = &self.explainer.until {
                self.condition(until, at, None, &truths, &mut out);
            }
        }
        out
    }

    /// How many events each step has.
    fn steps(&self, out: &mut String) {
        out.push('\n');
        for (number, step) in self.explainer.steps.iter().enumerate() {
            let satisfying: Vec<usize> = self.explainer.satisfying(number).collect();
            let of_kind = self.explainer.of_kind(number).count();
            let of_kind = counted(of_kind, "event");
            let _ = match satisfying.len() {
                0 => write!(
                    out,
                    "{}: none (of {of_kind} of its sort)",
                    step_name(number, step)
                ),
                count => write!(
                    out,
                    "{}: {} ({count} of {of_kind} of its sort)",
                    step_name(number, step),
                    self.places(&satisfying)
                ),
            };
            out.push('\n');
        }
    }

    fn places(&self, events: &[usize]) -> String {
        let numbers = events
            .iter()
            .take(LINES_MAX)
            .map(|at| self.line(*at).to_string());
        let list = numbers.collect::<Vec<_>>().join(", ");
        let s = if events.len() == 1 { "" } else { "s" };
        let more = if events.len() > LINES_MAX {
            ", …"
        } else {
            ""
        };
        format!("{}{s} {list}{more}", self.unit)
    }

    fn matched(&mut self, number: usize, out: &mut String) {
        let Some(found) = self.matches.get(number).cloned() else {
            return;
        };
        let _ = write!(
            out,
            "\nmatch {}: {}",
            number + 1,
            self.places(&found.events)
        );
        let positive = self.positive();
        let keys = self.keys_in_words(&found.keys);
        let _ = writeln!(out, "{keys}");
        let mut events: smallvec::SmallVec<[(usize, usize); 4]> = smallvec::SmallVec::new();
        events.extend(found.events.iter().copied().zip(positive));
        let partial = Partial::of(events);
        for (at, step) in partial.events.clone() {
            out.push('\n');
            self.block(step, at, Some(&partial), &[], out);
        }
    }

    /// The step of each event of a match.
    fn positive(&self) -> Vec<usize> {
        let steps = self.explainer.steps.iter().enumerate();
        let positive = steps.filter(|(_, step)| !step.missing);
        positive
            .flat_map(|(at, step)| std::iter::repeat_n(at, step.runs.max(1) as usize))
            .collect()
    }

    fn keys_in_words(&self, keys: &[Vec<Option<OwnedValue>>]) -> String {
        let Some(first) = keys.first().filter(|keys| !keys.is_empty()) else {
            return String::new();
        };
        let names = self.rule.join_fields();
        let each = (0..first.len()).map(|at| {
            let mut values: Vec<String> = Vec::new();
            for value in keys.iter().filter_map(|keys| keys.get(at)) {
                let text = shown(value.as_ref());
                if !values.contains(&text) {
                    values.push(text);
                }
            }
            let name = names
                .get(at)
                .map_or(String::new(), |names| names.join(", "));
            format!("{name} = {}", values.join(", "))
        });
        format!("; same {}", each.collect::<Vec<_>>().join("; "))
    }

    /// How far it got, and the event that comes nearest.
    fn nearest(&mut self, out: &mut String) {
        let Some(stop) = self.stop.clone() else {
            return;
        };
        let partial = stop
            .partial
            .and_then(|at| self.trace.partials.get(at))
            .cloned();
        if let Some(partial) = partial.as_ref().filter(|p| !p.events.is_empty()) {
            let stages = self.positive().len();
            let key = vec![self.trace.key(partial).to_vec()];
            let keys = self.keys_in_words(&key);
            let _ = writeln!(
                out,
                "\ngot to {} of {stages} steps{keys}",
                partial.events.len()
            );
            for (at, step) in &partial.events {
                let label = self.label(*at);
                let _ = writeln!(out, "  step {} on {label}", step + 1);
            }
        }
        let Some(near) = &stop.near else {
            return;
        };
        out.push('\n');
        self.block(stop.step, near.at, partial.as_ref(), &near.wrong, out);
        if stop.as_near > 0 {
            let more = counted(stop.as_near, "other event");
            let _ = writeln!(
                out,
                "  ({more} come{} as near)",
                if stop.as_near == 1 { "s" } else { "" }
            );
        }
    }

    /// One step on one event: every clause, then the key, the time and the order.
    fn block(
        &mut self,
        number: usize,
        at: usize,
        partial: Option<&Partial>,
        wrong: &[Wrong],
        out: &mut String,
    ) {
        let label = self.label(at);
        let Some(step) = self.explainer.steps.get(number) else {
            return;
        };
        let _ = writeln!(out, "{} on {label}", step_name(number, step));
        let truths = self.explainer.truths(step, at, partial);
        self.condition(step, at, partial, &truths, out);
        let Some(partial) = partial.filter(|_| self.explainer.shape != Shape::Event) else {
            return;
        };
        self.key_lines(step, at, partial, wrong, out);
        for wrong in wrong {
            if !matches!(wrong, Wrong::Key(_)) {
                let _ = writeln!(out, "  {NO}  {}", self.wrong_in_words(wrong, at, partial));
            }
        }
    }

    fn condition(
        &self,
        step: &Step,
        at: usize,
        partial: Option<&Partial>,
        truths: &[bool],
        out: &mut String,
    ) {
        let blamed: BTreeSet<usize> = step.condition.blame(truths).into_iter().collect();
        let view = View {
            explanation: self,
            step,
            at,
            partial,
            truths,
            blamed: &blamed,
        };
        match &step.condition.tree {
            Tree::All(parts) => parts.iter().for_each(|part| view.node(part, 0, out)),
            tree => view.node(tree, 0, out),
        }
    }

    fn key_lines(
        &self,
        step: &Step,
        at: usize,
        partial: &Partial,
        wrong: &[Wrong],
        out: &mut String,
    ) {
        let differing = wrong.iter().find_map(|wrong| match wrong {
            Wrong::Key(positions) => Some(positions.clone()),
            _ => None,
        });
        let differing = differing.unwrap_or_default();
        let own = self.explainer.key_values(step, at);
        for (position, path) in step.key_paths.iter().enumerate() {
            let values = own.get(position).map_or(&[][..], |values| values);
            let values = values_in_words(values);
            if differing.contains(&position) {
                let wanted = self.trace.key(partial).get(position).cloned().flatten();
                let _ = writeln!(out, "  {NO}  key {path} is {}", shown(wanted.as_ref()));
                let _ = writeln!(out, "         {path} is {values}");
            } else {
                let _ = writeln!(out, "  {YES}  key {path}: {values}");
            }
        }
    }

    fn wrong_in_words(&self, wrong: &Wrong, at: usize, partial: &Partial) -> String {
        let last = partial.events.last().map_or(0, |(at, _)| *at);
        let first = partial.events.first().map_or(0, |(at, _)| *at);
        match wrong {
            Wrong::Key(_) => String::new(),
            Wrong::Late(over_ns) => format!(
                "within {} of {}: it came {} too late",
                span(self.explainer.span_ns.unwrap_or(0)),
                self.place(first),
                span(*over_ns)
            ),
            Wrong::Before => format!(
                "after {}: it came {} before",
                self.place(last),
                span(
                    self.explainer
                        .time_ns(last)
                        .saturating_sub(self.explainer.time_ns(at))
                )
            ),
            Wrong::Ended(end) => self.end_in_words(*end),
        }
    }

    fn end_in_words(&self, end: End) -> String {
        match end {
            End::Until(by) => format!("`until` ended the sequence on {}", self.place(by)),
            End::Replaced(by) => format!(
                "{} came to the same step with the same key, and only the newest counts",
                self.place(by)
            ),
            End::Missing(by, step) => format!(
                "step {} must not come, but {} satisfies it",
                step + 1,
                self.place(by)
            ),
            End::Idle => {
                "the sequence was given up: it has no maxspan, and nothing came".to_owned()
            }
            End::Late(by) => format!("{} came after maxspan", self.place(by)),
            End::Open => "the recording ends here".to_owned(),
            End::Completed => "it is complete".to_owned(),
        }
    }

    /// Why there is no match, in a sentence or two; empty when there is one.
    #[must_use]
    pub fn why(&self) -> Vec<String> {
        if !self.matches.is_empty() {
            return Vec::new();
        }
        if self.explainer.events().is_empty() {
            return vec!["there are no events".to_owned()];
        }
        if self.piped {
            return vec!["what matched was left out by the query's pipes".to_owned()];
        }
        let Some(stop) = &self.stop else {
            return match self.explainer.shape {
                Shape::Sample => vec!["no events of all steps share a key".to_owned()],
                _ => Vec::new(),
            };
        };
        let mut lines = Vec::new();
        match &stop.near {
            None => lines.push(self.no_such_event(stop)),
            Some(near) => lines.extend(self.wrongs(stop, near)),
        }
        if self.evicted > 0 {
            lines.push(format!(
                "{} partial matches were given up because there were too many: matches can be missing",
                self.evicted
            ));
        }
        lines
    }

    fn no_such_event(&self, stop: &Stop) -> String {
        let Some(step) = self.explainer.steps.get(stop.step) else {
            return String::new();
        };
        let clauses = step.condition.clauses.iter().filter(|c| c.of_kind);
        let clauses: Vec<String> = clauses.map(|c| format!("`{}`", cut(&c.text))).collect();
        let used = stop.partial.and_then(|at| self.trace.partials.get(at));
        let further = if used.is_some_and(|p| !p.events.is_empty()) {
            "further "
        } else {
            ""
        };
        format!(
            "{} has no {further}event of its sort: {}",
            step_name(stop.step, step),
            clauses.join(" and ")
        )
    }

    fn wrongs(&self, stop: &Stop, near: &Near) -> Vec<String> {
        let Some(step) = self.explainer.steps.get(stop.step) else {
            return Vec::new();
        };
        let partial = stop.partial.and_then(|at| self.trace.partials.get(at));
        let mut wrongs = Vec::new();
        let truths = self.explainer.truths(step, near.at, partial);
        for clause in step.condition.blame(&truths) {
            if let Some(clause) = step.condition.clauses.get(clause) {
                let mut text = format!("`{}` is false", cut(&clause.text));
                for read in &clause.reads {
                    let found = self.explainer.values(read, near.at, partial);
                    let _ = write!(text, ", {} is {}", read_name(read), found_in_words(&found));
                }
                if let Some(hint) = self.explainer.hint(clause, near.at) {
                    let _ = write!(text, " ({})", hint_in_words(&hint));
                }
                wrongs.push(text);
            }
        }
        for wrong in &near.wrong {
            match (wrong, partial) {
                (Wrong::Key(positions), Some(partial)) => {
                    let own = self.explainer.key_values(step, near.at);
                    for position in positions {
                        let path = step.key_paths.get(*position).map_or("", |path| path);
                        let values = own.get(*position).map_or(&[][..], |values| values);
                        let wanted = self.trace.key(partial).get(*position).cloned().flatten();
                        wrongs.push(format!(
                            "its key differs: {path} is {}, and the steps before have {}",
                            values_in_words(values),
                            shown(wanted.as_ref())
                        ));
                    }
                }
                (wrong, Some(partial)) => match wrong {
                    Wrong::Late(over_ns) => {
                        let first = partial.events.first().map_or(0, |(at, _)| *at);
                        wrongs.push(format!(
                            "it came {} after {}, and maxspan is {}: {} too late",
                            span(over_ns + self.explainer.span_ns.unwrap_or(0)),
                            self.place(first),
                            span(self.explainer.span_ns.unwrap_or(0)),
                            span(*over_ns)
                        ));
                    }
                    Wrong::Before => {
                        let last = partial.events.last().map_or(0, |(at, _)| *at);
                        wrongs.push(format!(
                            "it came before {}, which it has to follow",
                            self.place(last)
                        ));
                    }
                    other => wrongs.push(self.wrong_in_words(other, near.at, partial)),
                },
                (_, None) => {}
            }
        }
        let name = step_name(stop.step, step);
        let place = self.place(near.at);
        if let [Wrong::Ended(end @ End::Missing(..))] = near.wrong.as_slice() {
            return vec![self.end_in_words(*end)];
        }
        let enough = near.clauses == 1 && near.wrong.is_empty();
        match <[String; 1]>::try_from(wrongs) {
            Ok([only]) => vec![format!("{name} comes nearest on {place}: {only}")],
            Err(wrongs) => {
                let but = match enough {
                    true => ": one of these would be enough",
                    false => ", but",
                };
                let mut lines = vec![format!("{name} comes nearest on {place}{but}")];
                lines.extend(wrongs.into_iter().map(|wrong| format!("  - {wrong}")));
                lines
            }
        }
    }

    fn line(&self, at: usize) -> u64 {
        self.lines.get(at).copied().unwrap_or(0)
    }

    /// `line 3`.
    #[must_use]
    pub fn place(&self, at: usize) -> String {
        format!("{} {}", self.unit, self.line(at))
    }

    /// Place, time and what happened.
    pub fn label(&mut self, at: usize) -> String {
        let Some(event) = self.explainer.events().get(at) else {
            return String::new();
        };
        let evidence: Arc<dyn Evidence> = Arc::clone(event) as Arc<dyn Evidence>;
        let alert = self.alerts.build(&self.rule, &[], vec![evidence], None, 0);
        let what = alert.events.first().map_or(String::new(), |shown| {
            format!("  {}  {}", shown.act, shown.clause)
        });
        let time = super::stdout::time(event.time_ns());
        let clock = time.get(11..).unwrap_or(&time).to_owned();
        format!("{}  {clock}{what}", self.place(at))
    }
}

/// One condition on one event.
struct View<'x> {
    explanation: &'x Explanation,
    step: &'x Step,
    at: usize,
    partial: Option<&'x Partial>,
    truths: &'x [bool],
    blamed: &'x BTreeSet<usize>,
}

impl View<'_> {
    fn node(&self, tree: &Tree, depth: usize, out: &mut String) {
        let indent = " ".repeat(2 * depth);
        let (heading, parts): (&str, &[Tree]) = match tree {
            Tree::Const(value) => {
                let word = if *value { YES } else { NO };
                let _ = writeln!(out, "  {word}  {indent}always {value}");
                return;
            }
            Tree::Clause(clause) => return self.clause(*clause, &indent, out),
            Tree::All(parts) => ("all of:", parts),
            Tree::Any(parts) => ("any of:", parts),
            Tree::Not(part) => ("not:", std::slice::from_ref(&**part)),
        };
        let holds = Condition::part_holds(tree, self.truths);
        let word = match (holds, self.names_blamed(tree)) {
            (true, _) => YES,
            (false, true) => NO,
            (false, false) => IDLE_NO,
        };
        let _ = writeln!(out, "  {word}  {indent}{heading}");
        parts
            .iter()
            .for_each(|part| self.node(part, depth + 1, out));
    }

    fn names_blamed(&self, tree: &Tree) -> bool {
        match tree {
            Tree::Const(_) => false,
            Tree::Clause(clause) => self.blamed.contains(clause),
            Tree::All(parts) | Tree::Any(parts) => parts.iter().any(|p| self.names_blamed(p)),
            Tree::Not(part) => self.names_blamed(part),
        }
    }

    fn clause(&self, number: usize, indent: &str, out: &mut String) {
        let Some(clause) = self.step.condition.clauses.get(number) else {
            return;
        };
        let holds = self.truths.get(number) == Some(&true);
        let word = match (holds, self.blamed.contains(&number)) {
            // Under a negation it is the true ones that are wrong.
            (true, true) => "YES",
            (true, false) => YES,
            (false, true) => NO,
            (false, false) => IDLE_NO,
        };
        let text = cut(&clause.text);
        let _ = write!(out, "  {word}  {indent}{text}");
        let explainer = &self.explanation.explainer;
        let found = clause.reads.iter().map(|read| {
            let found = explainer.values(read, self.at, self.partial);
            (read, found_in_words(&found))
        });
        let mut below = Vec::new();
        for (read, value) in found {
            if holds && (clause.of_kind || text.contains(&value)) {
                continue;
            }
            below.push(format!("{} is {value}", read_name(read)));
        }
        if let (false, Some(hint)) = (holds, explainer.hint(clause, self.at)) {
            below.push(hint_in_words(&hint));
        }
        out.push('\n');
        for line in below {
            let _ = writeln!(out, "         {indent}{line}");
        }
    }
}

fn headline(rule: &Rule) -> String {
    format!("{} ({})\n", plain(&rule.name), plain(&rule.id))
}

/// `step 2`, and what makes it special.
pub(crate) fn step_name(number: usize, step: &Step) -> String {
    let missing = if step.missing { " (missing)" } else { "" };
    format!("step {}{missing}", number + 1)
}

fn read_name(read: &crate::engine::explain::Read) -> String {
    match read.step {
        None => read.path.to_string(),
        Some(step) => format!("step {}'s {}", step + 1, read.path),
    }
}

fn found_in_words(found: &Found) -> String {
    match found {
        Found::Missing => "missing".to_owned(),
        Found::Object => "no value, but holds fields".to_owned(),
        Found::Values(values) => values_in_words(values),
    }
}

fn values_in_words(values: &[OwnedValue]) -> String {
    if values.is_empty() {
        return "missing".to_owned();
    }
    let each = values
        .iter()
        .take(VALUES_MAX)
        .map(|value| shown(Some(value)));
    let list = each.collect::<Vec<_>>().join(", ");
    match values.len().saturating_sub(VALUES_MAX) {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

/// A value as a query would write it, cut when long.
fn shown(value: Option<&OwnedValue>) -> String {
    let text = value_text(value);
    let cut: String = text.chars().take(VALUE_CHARS_MAX).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    match value {
        Some(OwnedValue::Str(_)) => format!("\"{cut}{more}\""),
        _ => format!("{cut}{more}"),
    }
}

/// A clause on one line, cut when long.
pub(crate) fn cut(text: &str) -> String {
    let text = plain(text);
    if text.chars().count() <= CLAUSE_CHARS_MAX {
        return text;
    }
    let kept: String = text.chars().take(CLAUSE_CHARS_MAX).collect();
    format!("{kept}…")
}

fn hint_in_words(hint: &Hint) -> String {
    match hint {
        Hint::Case(literal) => {
            format!(
                "only the case of letters differs from \"{}\"",
                plain(literal)
            )
        }
        Hint::Wildcard(literal) => format!(
            "\"{}\" has a wildcard, which == and in take as a plain character; write : or like~",
            plain(literal)
        ),
    }
}

/// A length of time in the largest units that say it whole, to the millisecond.
pub(crate) fn span(ns: i64) -> String {
    const MS: i64 = 1_000_000;
    let ms = ns / MS;
    match (ms, ms % 1000) {
        (0, _) => format!("{ns}ns"),
        (ms, _) if ms < 1000 => format!("{ms}ms"),
        (ms, 0) if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        (ms, 0) if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        (ms, rest) => {
            let minutes = match ms / 60_000 {
                0 => String::new(),
                minutes => format!("{minutes}m "),
            };
            let seconds = ms % 60_000 / 1000;
            if rest == 0 {
                format!("{minutes}{seconds}s")
            } else {
                format!("{minutes}{seconds}.{rest:03}s")
            }
        }
    }
}

fn matches_counted(count: usize) -> String {
    format!("{count} match{}", if count == 1 { "" } else { "es" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (ns, text) in [
            (5, "5ns"),
            (400_000_000, "400ms"),
            (1_000_000_000, "1s"),
            (60_000_000_000, "1m"),
            (61_500_000_000, "1m 1.500s"),
            (7_200_000_000_000, "2h"),
        ] {
            assert_eq!(span(ns), text);
        }
    }
}
