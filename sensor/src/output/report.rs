//! What `check` found, for people or for programs.
//!
//! In: problems, rules, skipped files. Out: text with excerpts, or one JSON document. It decides nothing.

use std::fmt::Write as _;

use super::json::Json;
use crate::document::{Problem, Severity};
use crate::rule::{Rule, Shape, Skipped};

/// Everything `check` looked at.
#[derive(Default)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub rules: Vec<std::sync::Arc<Rule>>,
    pub skipped: Vec<Skipped>,
    /// Settings files read.
    pub settings: usize,
    /// Rule files read.
    pub files: usize,
}

impl Report {
    /// Problems of one severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let of = |problem: &&Problem| problem.severity == severity;
        self.problems.iter().filter(of).count()
    }

    /// Text for people. `verbose` lists rules and skipped files too.
    #[must_use]
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        for problem in &self.problems {
            let _ = write!(out, "{problem}\n{}", problem.excerpt);
        }
        if verbose {
            for rule in &self.rules {
                let _ = writeln!(
                    out,
                    "{}: loaded: {} ({})",
                    rule.path.display(),
                    rule.name,
                    rule.id
                );
            }
            for skipped in &self.skipped {
                let _ = writeln!(
                    out,
                    "{}: skipped: {}",
                    skipped.path.display(),
                    skipped.reason
                );
            }
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        let mut parts = Vec::new();
        if self.files > 0 || self.settings == 0 {
            parts.push(format!(
                "{}: {} loaded, {} skipped",
                counted(self.files, "rule file"),
                self.rules.len(),
                self.skipped.len()
            ));
        }
        if self.settings > 0 {
            parts.push(counted(self.settings, "settings file"));
        }
        parts.push(counted(self.count(Severity::Error), "error"));
        parts.push(counted(self.count(Severity::Warning), "warning"));
        parts.join("; ")
    }

    /// One JSON document, its line ended.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out);
        json.open_object();
        json.object("summary", |json| {
            json.number("rule_files", self.files);
            json.number("settings_files", self.settings);
            json.number("loaded", self.rules.len());
            json.number("skipped", self.skipped.len());
            json.number("errors", self.count(Severity::Error));
            json.number("warnings", self.count(Severity::Warning));
            json.number("notes", self.count(Severity::Note));
        });
        json.objects("problems", &self.problems, problem_of);
        json.objects("rules", &self.rules, |json, rule| {
            json.text("path", &rule.path.display().to_string());
            json.text("id", &rule.id);
            json.text("name", &rule.name);
            json.text("severity", rule.severity.name());
            json.text("shape", shape_name(rule.shape));
        });
        json.objects("skipped", &self.skipped, |json, skipped| {
            json.text("path", &skipped.path.display().to_string());
            json.maybe("name", skipped.name.as_deref());
            json.text("reason", &skipped.reason);
        });
        json.close_object();
        out.push(b'\n');
        out
    }
}

fn problem_of(json: &mut Json<'_>, problem: &Problem) {
    json.text("path", &problem.path.display().to_string());
    if let Some((line, column)) = problem.place {
        json.number("line", line);
        json.number("column", column);
    }
    json.text("severity", &problem.severity.to_string());
    json.text("message", &problem.message);
    json.maybe("help", problem.help.as_deref());
}

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Own => "own",
        Shape::Detection => "detection-rules",
        Shape::Behavior => "endpoint behavior",
    }
}

fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
