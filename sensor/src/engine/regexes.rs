//! Regular expressions of one field, answered together.
//!
//! In: the patterns of every `regex` and `regex~` on one field. Out: for a value, the members with a pattern that matches it
//! whole. All of them run in one pass over the value, in time linear in it.

use regex_automata::meta::{BuildError, Config, Regex};
use regex_automata::{Input, MatchKind, PatternSet};

/// A set of patterns with the member (leaf) each belongs to.
#[derive(Debug)]
pub(super) struct RegexSet {
    /// More than one where all patterns together would pass a limit of the automaton.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    regex: Regex,
    /// By pattern.
    members: Vec<u32>,
}

/// Which patterns of each part match the value at hand.
#[derive(Debug)]
pub(super) struct RegexScratch {
    matching: Vec<PatternSet>,
}

impl RegexSet {
    /// Builds the set from `(pattern, member)`, each pattern with anchors of its own. `Err` when one can not be compiled.
    pub(super) fn new(patterns: &[(Box<str>, u32)]) -> Result<Self, Box<BuildError>> {
        let mut parts = Vec::new();
        add(&mut parts, patterns)?;
        Ok(Self { parts })
    }

    pub(super) fn scratch(&self) -> RegexScratch {
        let patterns = self.parts.iter().map(|part| part.members.len());
        RegexScratch {
            matching: patterns.map(PatternSet::new).collect(),
        }
    }

    /// Calls `hit` with the members that match; with one member several times where several of its patterns do.
    pub(super) fn evaluate(
        &self,
        text: &str,
        scratch: &mut RegexScratch,
        mut hit: impl FnMut(u32),
    ) {
        let input = Input::new(text);
        for (part, matching) in self.parts.iter().zip(&mut scratch.matching) {
            matching.clear();
            part.regex.which_overlapping_matches(&input, matching);
            let members = matching
                .iter()
                .filter_map(|p| part.members.get(p.as_usize()));
            members.for_each(|member| hit(*member));
        }
    }
}

/// One part of all patterns, or two of half of them each where these are too many for one.
fn add(parts: &mut Vec<Part>, patterns: &[(Box<str>, u32)]) -> Result<(), Box<BuildError>> {
    // Overlapping: every pattern that matches is wanted, and not only the one that is preferred.
    let config = Config::new().match_kind(MatchKind::All);
    let texts: Vec<&str> = patterns.iter().map(|(text, _)| &**text).collect();
    match Regex::builder().configure(config).build_many(&texts) {
        Ok(regex) => {
            let members = patterns.iter().map(|(_, member)| *member).collect();
            parts.push(Part { regex, members });
            Ok(())
        }
        Err(_) if patterns.len() > 1 => {
            let (first, second) = patterns.split_at(patterns.len() / 2);
            add(parts, first)?;
            add(parts, second)
        }
        Err(error) => Err(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use crate::eql::pattern;

    use super::*;

    fn members(set: &RegexSet, scratch: &mut RegexScratch, text: &str) -> Vec<u32> {
        let mut found = Vec::new();
        set.evaluate(text, scratch, |member| found.push(member));
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn agrees_with_asking_each_pattern() {
        let patterns = [
            ("a.*", false),
            ("A.*", true),
            ("", false),
            (".*b", false),
            ("(?i)ABC|x", false),
            (r"\p{L}+", true),
            ("[0-9]{1,3}", false),
            ("k", true),
            (".*", false),
        ];
        let texts = [
            "", "a", "A", "ab", "AB", "abc", "x", "12", "1234", "\u{212a}", "ä", "a\nb",
        ];
        let anchored: Vec<(Box<str>, u32)> = (0u32..)
            .zip(patterns)
            .map(|(member, (text, fold))| (pattern::anchored(text, fold).into(), member))
            .collect();
        let set = RegexSet::new(&anchored).unwrap();
        let mut scratch = set.scratch();
        for text in texts {
            let each = (0u32..).zip(patterns).filter(|(_, (pattern, fold))| {
                let alone = pattern::compile_regex(pattern, *fold).unwrap();
                alone.is_match(text)
            });
            let each: Vec<u32> = each.map(|(member, _)| member).collect();
            assert_eq!(members(&set, &mut scratch, text), each, "{text:?}");
        }
    }

    #[test]
    fn what_is_too_large_together_is_kept_apart() {
        let large = |n: usize| -> (Box<str>, u32) {
            let text = format!("{n}[0-9A-Za-z]{{4000}}");
            let member = u32::try_from(n).unwrap();
            (pattern::anchored(&text, false).into(), member)
        };
        let patterns: Vec<_> = (0..64).map(large).collect();
        let set = RegexSet::new(&patterns).unwrap();
        assert!(set.parts.len() > 1);
        let mut scratch = set.scratch();
        let text = format!("63{}", "x".repeat(4000));
        assert_eq!(members(&set, &mut scratch, &text), [63]);
        assert!(RegexSet::new(&[("(".into(), 0)]).is_err());
        assert!(RegexSet::new(&[]).is_ok());
    }
}
