//! Where the parts of a query stand in their file.
//!
//! In: the file's text and the string that is the query. Out: line and column of any byte of the query, without the file. It keeps
//! one entry a line, and one wherever an escape shifts what follows.

use std::ops::Range;

use crate::document::StringMap;
use crate::eql::Span;

/// Places of a query's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Rising: offset in the query, line and column in the file, both from 1.
    entries: Box<[(u32, u32, u32)]>,
}

impl Places {
    /// `span` is the string as it stands in `file`, `query` its value.
    pub(super) fn new(file: &str, span: &Range<usize>, query: &str, map: &StringMap) -> Places {
        let mut offsets: Vec<usize> = memchr::memchr_iter(b'\n', query.as_bytes())
            .map(|at| at + 1)
            .chain(map.breaks())
            .chain([0])
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        let mut entries = Vec::with_capacity(offsets.len());
        let (mut at, mut line) = (span.start, line_of(file, span.start));
        let mut line_start = file
            .get(..at)
            .and_then(|t| t.rfind('\n'))
            .map_or(0, |i| i + 1);
        for offset in offsets {
            let end = map.file_offset(offset);
            let passed = file.get(at..end).unwrap_or_default();
            if let Some(last) = passed.rfind('\n') {
                line += passed.bytes().filter(|byte| *byte == b'\n').count();
                line_start = at + last + 1;
            }
            at = at.max(end);
            let column = file
                .get(line_start..at)
                .map_or(0, |text| text.chars().count())
                + 1;
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            entries.push((number(offset), number(line), number(column)));
        }
        Places {
            entries: entries.into(),
        }
    }

    /// Line and column of where a span of the query starts.
    pub(super) fn of(&self, query: &str, span: Span) -> (usize, usize) {
        let index = self
            .entries
            .partition_point(|(from, ..)| *from <= span.start);
        let Some(&(from, line, column)) = index.checked_sub(1).and_then(|i| self.entries.get(i))
        else {
            return (1, 1);
        };
        let before = query.get(from as usize..span.start as usize);
        let on = before.map_or(0, |text| text.chars().count());
        (line as usize, column as usize + on)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::diagnostic::line_column;

    #[test]
    fn places_are_those_of_the_file() {
        for file in [
            "a = 1\nq = '''\nname\n  whére x == 1'''",
            "q = \"na\\tme \\\"whére\\\" x\\n == 1\"",
            "q = \"\"\"\nname \\\n   where\n  é x == 1\"\"\"",
        ] {
            let table = toml::de::DeTable::parse(file).unwrap();
            let value = table.get_ref().get("q").unwrap();
            let (span, query) = (value.span(), value.get_ref().as_str().unwrap());
            let map = StringMap::new(file, span.clone(), query);
            let places = Places::new(file, &span, query, &map);
            for (offset, _) in query.char_indices() {
                let expected = line_column(file, map.file_offset(offset));
                let found = places.of(query, Span::new(offset, offset));
                assert_eq!(found, expected, "{offset} of {file}");
            }
        }
    }
}
