//! A TOML file written by a person: its text, its values with their places, and the problems found in it.
//!
//! In: a path. Out: a [`Source`] and typed reads of its tables that collect every [`Problem`] instead of stopping at the
//! first. Shared by settings and rules. It never panics on any bytes, and never waits on a file that is no plain file.

use std::borrow::Cow;
use std::fmt;
use std::fs::Metadata;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use crate::eql::diagnostic::Severity;

use crate::eql::diagnostic;
use crate::eql::schema::closest;

/// Largest file read, in bytes. The largest public rule is under 40 kB; the largest query allowed is 1 MiB.
pub const FILE_LEN_MAX: u64 = 4 << 20;
/// Syntax errors reported of one file; the ones after that are mostly echoes.
const SYNTAX_ERRORS_MAX: usize = 10;

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: Arc<Path>,
    /// Line and column from 1, the column in characters; `None` when the file could not be read at all.
    pub place: Option<(usize, usize)>,
    pub severity: Severity,
    /// Stable name of the sort of problem, where it has one.
    pub code: Option<&'static str>,
    pub message: String,
    /// What is allowed, or what to do next.
    pub help: Option<String>,
    /// The source line and carets under the problem, each line ended; empty without a place.
    pub excerpt: String,
}

impl Problem {
    /// A problem with the file as a whole.
    pub fn of_file(path: &Path, message: String, help: Option<&str>) -> Problem {
        Problem {
            path: Arc::from(path),
            place: None,
            severity: Severity::Error,
            code: None,
            message,
            help: help.map(str::to_owned),
            excerpt: String::new(),
        }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    /// `file:line:column: severity: message; help` on one line, without the excerpt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}: {}", self.severity, self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// The text of a file that is valid UTF-8 without NUL bytes.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: Arc<Path>,
    pub text: String,
}

impl Source {
    /// Reads a whole file. `what` names its role in messages: `rule file`, `settings file`.
    ///
    /// # Errors
    /// The one problem that makes it unusable: not there, not a plain file, too large, not text.
    pub fn read(path: &Path, what: &str) -> Result<Source, Box<Problem>> {
        Source::of(path, what, Writers::Any)
    }

    /// The same for a file the service lives by: nobody but root and its own user may be able to change it.
    ///
    /// # Errors
    /// As [`Source::read`], and others can write it.
    pub fn read_installed(path: &Path, what: &str) -> Result<Source, Box<Problem>> {
        Source::of(path, what, Writers::Administrator)
    }

    fn of(path: &Path, what: &str, writers: Writers) -> Result<Source, Box<Problem>> {
        let bytes = read_plain_file(path, what, writers)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                let byte = bytes.get(at).copied().unwrap_or_default();
                let help = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
                    "it looks like UTF-16; save it as UTF-8".to_owned()
                } else {
                    format!("a {what} must be UTF-8 text")
                };
                let source = Source {
                    path: Arc::from(path),
                    text: String::from_utf8_lossy(&bytes).into_owned(),
                };
                // The lossy text is the same up to the first bad byte, so the offset still holds.
                return Err(Box::new(source.problem(
                    at..at + 1,
                    format!("byte 0x{byte:02x} is not UTF-8"),
                    Some(help),
                )));
            }
        };
        let source = Source {
            path: Arc::from(path),
            text,
        };
        match source.text.find('\0') {
            Some(at) => Err(Box::new(source.problem(
                at..at + 1,
                "found a NUL byte".to_owned(),
                Some(format!(
                    "a {what} must be text; of control characters only tab and line feed are allowed"
                )),
            ))),
            None => Ok(source),
        }
    }

    /// An error at a byte range of the text.
    pub fn problem(&self, span: Range<usize>, message: String, help: Option<String>) -> Problem {
        let (place, excerpt) = diagnostic::excerpt(
            &self.text,
            diagnostic::Span::new(span.start, span.end),
            &diagnostic::Origin::whole(""),
        );
        Problem {
            path: Arc::clone(&self.path),
            place: Some(place),
            severity: Severity::Error,
            code: None,
            message,
            help,
            excerpt,
        }
    }

    /// The document's values, with what could be understood of a broken one, and its syntax errors.
    pub fn parse(&self) -> (Spanned<DeTable<'_>>, Vec<Problem>) {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let problems = errors
            .iter()
            .take(SYNTAX_ERRORS_MAX)
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                let (message, help) = syntax(&self.text, &span, error.message());
                self.problem(span, message, help)
            })
            .collect();
        (table, problems)
    }
}

/// The parser's words about a syntax error, made whole where they mislead or say too little.
fn syntax(text: &str, span: &Range<usize>, message: &str) -> (String, Option<String>) {
    let before = text.get(..span.start).unwrap_or_default().trim_end();
    let after = text
        .get(span.start..)
        .unwrap_or_default()
        .trim_start_matches([' ', '\t']);
    if before.ends_with('=') && (after.is_empty() || after.starts_with(['\n', '\r', '#'])) {
        return (
            "there is no value after `=`".to_owned(),
            Some(
                "allowed are a string in quotes, a number, true, false, an array or a table"
                    .to_owned(),
            ),
        );
    }
    if message.starts_with("duplicate key") {
        let key = text.get(span.clone()).unwrap_or_default();
        return (
            format!("`{key}` is given twice"),
            Some("a key may stand once in its table".to_owned()),
        );
    }
    // What is expected stands on a line of its own.
    (message.trim().replace('\n', ", "), None)
}

/// Who may be able to write a file that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    Any,
    Administrator,
}

/// Refuses a file or directory that somebody else could write, and by that decide what the service does.
///
/// # Errors
/// Who can write it, and what to do.
pub fn only_administrator_writes(path: &Path, metadata: &Metadata) -> Result<(), Box<Problem>> {
    let own = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != 0 && owner != own {
        let found = format!("it belongs to user {owner}, who can change it");
        return Err(writable(path, found, "chown root:root"));
    }
    only_owner_writes(path, metadata)
}

/// The same of a directory that may belong to the service's user, as the one below `/run` does.
///
/// # Errors
/// Who can write it, and what to do.
pub fn only_owner_writes(path: &Path, metadata: &Metadata) -> Result<(), Box<Problem>> {
    let (group, mode) = (metadata.gid(), metadata.mode());
    if mode & 0o002 != 0 {
        Err(writable(
            path,
            "everybody can write it".to_owned(),
            "chmod o-w",
        ))
    } else if mode & 0o020 != 0 && group != 0 {
        let found = format!("group {group} can write it");
        Err(writable(path, found, "chmod g-w"))
    } else {
        Ok(())
    }
}

fn writable(path: &Path, found: String, remedy: &str) -> Box<Problem> {
    let help = format!(
        "only root may decide what the sensor does: {remedy} {}",
        path.display()
    );
    Box::new(Problem::of_file(path, found, Some(&help)))
}

fn read_plain_file(path: &Path, what: &str, writers: Writers) -> Result<Vec<u8>, Box<Problem>> {
    let cannot = |error: std::io::Error| {
        Box::new(Problem::of_file(
            path,
            format!("cannot read: {}", os_text(&error)),
            None,
        ))
    };
    // Non-blocking, so that a named pipe in a rules directory can not hang the sensor.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
        .map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() {
            "a directory"
        } else {
            "not a plain file"
        };
        return Err(Box::new(Problem::of_file(
            path,
            format!("this is {found}"),
            Some(&format!("a {what} must be a plain file")),
        )));
    }
    if writers == Writers::Administrator {
        only_administrator_writes(path, &metadata)?;
    }
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(Box::new(Problem::of_file(
            path,
            format!("the file is larger than {FILE_LEN_MAX} bytes"),
            Some(&format!("a {what} may be that large at most")),
        )));
    }
    Ok(bytes)
}

/// `1 rule`, `2 rules`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// The system's words for an error, in lower case and without the number.
pub(crate) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => text.to_owned(),
    }
}

/// A value and where it stands in the file.
pub type Found<'t, T> = (T, Range<usize>);

/// One table of a document while it is being read: remembers which keys were asked for.
pub struct Table<'t> {
    source: &'t Source,
    /// Dotted name with a trailing dot, empty for the document itself.
    prefix: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub fn new(
        source: &'t Source,
        name: &str,
        table: &'t DeTable<'t>,
        span: Range<usize>,
    ) -> Table<'t> {
        Table {
            source,
            prefix: if name.is_empty() {
                String::new()
            } else {
                format!("{name}.")
            },
            table,
            span,
            asked: Vec::new(),
        }
    }

    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub fn source(&self) -> &'t Source {
        self.source
    }

    /// Name of a key as messages show it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// An error about the value of a key: `must` completes "must be".
    pub fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, must: &str) -> Problem {
        self.source.problem(
            value.span(),
            format!(
                "`{}` is {}, must be {must}",
                self.name(key),
                shown(value.get_ref())
            ),
            None,
        )
    }

    pub fn string(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<'t, &'t str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            _ => {
                problems.push(self.wrong(key, value, "a string"));
                None
            }
        }
    }

    /// A string that must be there and hold something but white space.
    pub fn required_string(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<'t, &'t str>> {
        if !self.has(key) {
            self.asked.push(key);
            problems.push(self.missing(key, "\"…\""));
            return None;
        }
        let found = self.string(key, problems)?;
        if found.0.trim().is_empty() {
            problems.push(self.source.problem(
                found.1,
                format!("`{}` is empty", self.name(key)),
                None,
            ));
            return None;
        }
        Some(found)
    }

    /// The error for a key that must be there; names a key that looks like it, or else the form to write it in.
    pub fn missing(&self, key: &str, form: &str) -> Problem {
        let keys = self.table.keys().map(|k| k.get_ref().as_ref());
        let help = match closest(key, keys.filter(|k| !self.asked.contains(k))) {
            Some(near) => format!("is `{near}` meant to be it?"),
            None => format!("add a line `{key} = {form}`"),
        };
        let name = self.name(key);
        self.source
            .problem(self.span(), format!("`{name}` is missing"), Some(help))
    }

    pub fn strings(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Found<'t, &'t str>>> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            problems.push(self.wrong(key, value, "an array of strings"));
            return None;
        };
        let mut found = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => found.push((text.as_ref(), item.span())),
                other => problems.push(self.source.problem(
                    item.span(),
                    format!(
                        "`{}` holds {}, must hold strings only",
                        self.name(key),
                        shown(other)
                    ),
                    None,
                )),
            }
        }
        Some(found)
    }

    pub fn boolean(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<'t, bool>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some((*flag, value.span())),
            _ => {
                problems.push(self.wrong(key, value, "true or false"));
                None
            }
        }
    }

    /// A whole number within bounds, both included.
    pub fn integer(
        &mut self,
        key: &'static str,
        allowed: std::ops::RangeInclusive<i64>,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<'t, i64>> {
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => parse_integer(number),
            _ => None,
        };
        match number {
            Some(number) if allowed.contains(&number) => Some((number, value.span())),
            _ => {
                let must = format!(
                    "a whole number from {} to {}",
                    allowed.start(),
                    allowed.end()
                );
                problems.push(self.wrong(key, value, &must));
                None
            }
        }
    }

    pub fn table(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Table<'t>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Table::new(
                self.source,
                &self.name(key),
                table,
                value.span(),
            )),
            _ => {
                problems.push(self.wrong(key, value, &format!("a table, [{}]", self.name(key))));
                None
            }
        }
    }

    /// An array of tables; a single table is taken as an array of one.
    pub fn tables(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Table<'t>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let name = self.name(key);
        let items = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => {
                    tables.push(Table::new(self.source, &name, table, item.span()));
                }
                _ => problems.push(self.wrong(key, item, &format!("tables, [[{name}]]"))),
            }
        }
        tables
    }

    /// Keys of the table nobody asked for, with their places.
    pub fn unknown(&self) -> Vec<Found<'t, &'t str>> {
        self.table
            .keys()
            .filter(|key| !self.asked.contains(&key.get_ref().as_ref()))
            .map(|key| (key.get_ref().as_ref(), key.span()))
            .collect()
    }

    /// An error for every key nobody asked for: what was probably meant, or all that is allowed.
    pub fn refuse_unknown(&self, problems: &mut Vec<Problem>) {
        for (key, span) in self.unknown() {
            let help = match closest(key, self.asked.iter().copied()) {
                Some(near) => format!("did you mean `{}`?", self.name(near)),
                None => {
                    let mut known: Vec<String> =
                        self.asked.iter().map(|key| self.name(key)).collect();
                    known.sort_unstable();
                    known.dedup();
                    format!("allowed are {}", known.join(", "))
                }
            };
            problems.push(self.source.problem(
                span,
                format!("unknown key `{}`", self.name(key)),
                Some(help),
            ));
        }
    }

    /// Every key asked for so far, as `table.key`.
    pub fn asked(&self) -> impl Iterator<Item = String> + '_ {
        self.asked.iter().map(|key| self.name(key))
    }
}

fn parse_integer(number: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as a message names it: short things as written, long ones by kind.
pub(crate) fn shown(value: &DeValue<'_>) -> String {
    const SHOWN_MAX: usize = 60;
    match value {
        DeValue::String(text) if text.chars().count() <= SHOWN_MAX && !text.contains('\n') => {
            format!("\"{}\"", text.escape_debug())
        }
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) if items.is_empty() => "an empty array".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Where each byte of a decoded TOML string stands in the file: strings lose quotes, escapes and continued lines.
pub struct StringMap {
    /// Pairs (offset in the decoded text, offset in the file), rising in both, at every place where the distance changes.
    breaks: Vec<(usize, usize)>,
    end: (usize, usize),
}

impl StringMap {
    /// `span` is the string as it stands in `file`, quotes included; `decoded` its value.
    pub fn new(file: &str, span: Range<usize>, decoded: &str) -> StringMap {
        let raw = file.get(span.clone()).unwrap_or_default();
        let quote = raw.chars().next().unwrap_or('"');
        let triple: Cow<'_, str> = quote.to_string().repeat(3).into();
        let multi_line = raw.len() >= 6 && raw.starts_with(&*triple);
        let mut at = if multi_line { 3 } else { 1 };
        if multi_line {
            // A line end right after the opening quotes is not part of the value.
            let rest = raw.get(at..).unwrap_or_default();
            at += if rest.starts_with("\r\n") {
                2
            } else {
                usize::from(rest.starts_with('\n'))
            };
        }
        let mut breaks = vec![(0, span.start + at)];
        let mut offset = 0;
        for expected in decoded.chars() {
            let start = skip_nothing(raw, at, quote == '"');
            if start != at {
                breaks.push((offset, span.start + start));
            }
            let width = width_of(raw, start, expected, quote == '"');
            at = start + width;
            offset += expected.len_utf8();
            if width != expected.len_utf8() {
                breaks.push((offset, span.start + at));
            }
        }
        StringMap {
            breaks,
            end: (offset, span.start + at),
        }
    }

    /// Offsets in the value where its distance to the file changes.
    pub fn breaks(&self) -> impl Iterator<Item = usize> + '_ {
        self.breaks.iter().map(|(offset, _)| *offset)
    }

    /// File offset of a byte of the value; past the end, the place right after its last character.
    pub fn file_offset(&self, offset: usize) -> usize {
        if offset >= self.end.0 {
            return self.end.1;
        }
        let index = self.breaks.partition_point(|(from, _)| *from <= offset);
        // Two breaks may share a decoded offset; the later one is past what the string leaves out.
        match index.checked_sub(1).and_then(|i| self.breaks.get(i)) {
            Some((from, file)) => file + (offset - from),
            None => self.end.1,
        }
    }
}

/// Past the continued lines (backslash, line end, white space) at `at`, which stand for no character at all.
fn skip_nothing(raw: &str, mut at: usize, basic: bool) -> usize {
    if !basic {
        return at;
    }
    while let Some(rest) = raw.get(at..).and_then(|rest| rest.strip_prefix('\\')) {
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        if !rest.get(..blank).is_some_and(|blank| blank.contains('\n')) {
            break;
        }
        at += 1 + blank;
    }
    at
}

/// Bytes of the file that stand for one character of the value.
fn width_of(raw: &str, at: usize, expected: char, basic: bool) -> usize {
    let rest = raw.get(at..).unwrap_or_default();
    if expected == '\n' && rest.starts_with("\r\n") {
        return 2;
    }
    if !basic || !rest.starts_with('\\') {
        return expected.len_utf8();
    }
    match rest.as_bytes().get(1) {
        Some(b'x') => 4,
        Some(b'u') => 6,
        Some(b'U') => 10,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each character of the value must be found again at its place in the file.
    fn check(file: &str, points: &[(&str, &str)]) {
        let (document, errors) = DeTable::parse_recoverable(file);
        assert!(errors.is_empty(), "{errors:?}");
        let value = document.get_ref().get("q").expect("key q");
        let decoded = value.get_ref().as_str().expect("string");
        let map = StringMap::new(file, value.span(), decoded);
        for (in_value, in_file) in points {
            let offset = decoded.find(in_value).expect("in value");
            assert_eq!(
                map.file_offset(offset),
                file.find(in_file).expect("in file"),
                "{in_value} in {file}"
            );
        }
        assert_eq!(
            &file[map.file_offset(decoded.len())..value.span().end],
            if file.contains("'''") {
                "'''"
            } else if file.contains("\"\"\"") {
                "\"\"\""
            } else if file.contains('\'') {
                "'"
            } else {
                "\""
            }
        );
    }

    #[test]
    fn places_in_strings_are_places_in_the_file() {
        check("q = 'a b'", &[("a", "a"), ("b", "b")]);
        check("q = '''\na b\nc'''", &[("a", "a"), ("c", "c")]);
        check("q = '''\r\na b\r\nc'''", &[("a", "a"), ("c", "c")]);
        check(r#"q = "x \"a\" b""#, &[("x", "x"), ("a", "a"), ("b", "b")]);
        check(
            r#"q = "\u00e9a\U0001F600b\tc\x41d\\e""#,
            &[("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e\"")],
        );
        check(
            "q = \"\"\"\na \\\n   b \\  \n\n  c\\td\"\"\"",
            &[("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")],
        );
        check("q = \"é€a\"", &[("€", "€"), ("a", "a")]);
    }

    #[test]
    fn system_errors_read_as_words() {
        let error = std::io::Error::from_raw_os_error(13);
        assert_eq!(os_text(&error), "permission denied");
    }
}
