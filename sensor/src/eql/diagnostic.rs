//! Problems found in a query: where, what was found, what is allowed.
//!
//! In: the query's text and what the lexer, parser and type checker noticed. Out: [`Diagnostic`]s and their rendering with
//! the source line and carets, positioned inside the file the query came from. Never prints, never stops at the first.

use std::fmt::{self, Write as _};

pub use super::kind::Kind;

/// Half-open byte range of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Span from two byte offsets; offsets beyond 4 GiB saturate (queries are far shorter, see `limits`).
    pub fn new(start: usize, end: usize) -> Span {
        let clip = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span {
            start: clip(start),
            end: clip(end),
        }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// The empty span right after this one.
    pub fn after(self) -> Span {
        Span {
            start: self.end,
            end: self.end,
        }
    }

    /// The text it covers; empty when it does not lie on character boundaries of `text`.
    pub fn text(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// How much a diagnostic matters: an error keeps the query from running, the others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// One problem of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub kind: Kind,
    pub span: Span,
    pub message: String,
    /// What is allowed, or what to do next.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// Severity, message and help, without the position.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        write_line(f, &self.message)?;
        match &self.help {
            Some(help) => {
                f.write_str("; ")?;
                write_line(f, help)
            }
            None => Ok(()),
        }
    }
}

/// Writes a text that may quote pieces of the query so that it stays on one line and does nothing to a terminal.
fn write_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.chars().try_for_each(|c| {
        if c.is_control() {
            write!(f, "{}", c.escape_default())
        } else {
            f.write_char(c)
        }
    })
}

/// Where a query's text starts inside the file that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Name shown before the position, usually the file's path.
    pub name: &'a str,
    /// Line of the text's first character, from 1.
    pub line: usize,
    /// Column of the text's first character, from 1, in characters.
    pub column: usize,
}

impl<'a> Origin<'a> {
    /// A text that is not part of a larger file.
    pub fn whole(name: &'a str) -> Origin<'a> {
        Origin {
            name,
            line: 1,
            column: 1,
        }
    }
}

/// Widest piece of a source line shown, in characters.
const SHOWN_MAX: usize = 120;
/// Characters shown before the problem when the line is wider than that.
const SHOWN_BEFORE: usize = 40;

impl Diagnostic {
    /// `name:line:column: severity: message; help`, the source line, and carets under the span. Ends with a line feed.
    pub fn render(&self, text: &str, origin: &Origin<'_>) -> String {
        let ((line, column), excerpt) = excerpt(text, self.span, origin);
        format!("{}:{line}:{column}: {self}\n{excerpt}", origin.name)
    }
}

/// Line and column of a span inside the file the text came from, and two lines to show: the source line, and carets under
/// the span. Each line is ended.
pub fn excerpt(text: &str, span: Span, origin: &Origin<'_>) -> ((usize, usize), String) {
    let start = floor_boundary(text, span.start as usize);
    let end = floor_boundary(text, span.end as usize).max(start);
    let (line, column) = line_column(text, start);
    let at_line = origin.line + line - 1;
    let at_column = if line == 1 {
        origin.column + column - 1
    } else {
        column
    };

    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let source = text[line_start..line_end].trim_end_matches('\r');
    let before = column - 1;
    let marked = text[start..end.min(line_end)].chars().count().max(1);

    let chars = source.chars().count();
    let skip = if chars > SHOWN_MAX {
        before.saturating_sub(SHOWN_BEFORE)
    } else {
        0
    };
    let lead = if skip > 0 { "…" } else { "" };
    let trail = if chars > skip + SHOWN_MAX { "…" } else { "" };
    let shown: String = source
        .chars()
        .skip(skip)
        .take(SHOWN_MAX)
        .map(printable)
        .collect();

    let number = at_line.to_string();
    let gutter = number.len();
    let indent = before - skip + lead.chars().count();
    let carets = marked.min(SHOWN_MAX.saturating_sub(before - skip).max(1));
    let mut out = String::new();
    let _ = writeln!(out, " {number} | {lead}{shown}{trail}");
    let _ = writeln!(
        out,
        " {:gutter$} | {:indent$}{}",
        "",
        "",
        "^".repeat(carets)
    );
    ((at_line, at_column), out)
}

/// One character of width one: tabs become a space, other control characters a visible replacement.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Line and column of a byte offset, both from 1; the column counts characters. An offset past the end is the end.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let offset = floor_boundary(text, offset);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
