//! Wildcard patterns of one field, answered together.
//!
//! In: the `like`, `:`, `startsWith`, `endsWith` and `stringContains` patterns of every rule on one field and case class.
//! Out: for a value, the members whose pattern matches it. Each pattern hangs on the literal that rules it out soonest: a
//! prefix or suffix in a trie, else a piece in one Aho-Corasick automaton; only patterns whose literal occurred are
//! verified. Must never take time that is more than linear in the value for one pattern's verification step.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// One pattern: segments between the `*`, in order. `?` inside a segment is [`Token::AnyChar`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Glob {
    segments: Vec<Segment>,
    fold: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Segment {
    tokens: Vec<Token>,
    chars: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Token {
    /// Lower-cased when the pattern folds.
    Literal(Box<[u8]>),
    AnyChar,
}

impl Glob {
    /// Reads `*` and `?` as wildcards, every other character as itself.
    pub(super) fn like(pattern: &str, fold: bool) -> Self {
        let segments = pattern
            .split('*')
            .map(|part| Segment::parse(part, true, fold))
            .collect();
        Self { segments, fold }
    }

    /// `text` taken literally, with anything allowed before or after it.
    pub(super) fn literal(text: &str, fold: bool, open_start: bool, open_end: bool) -> Self {
        let mut segments = vec![Segment::parse(text, false, fold)];
        if open_start {
            segments.insert(0, Segment::default());
        }
        if open_end {
            segments.push(Segment::default());
        }
        Self { segments, fold }
    }

    pub(super) fn has_wildcard(pattern: &str) -> bool {
        pattern.bytes().any(|b| b == b'*' || b == b'?')
    }

    /// Whether the whole value matches.
    pub(super) fn matches(&self, value: &str) -> bool {
        let text = value.as_bytes();
        let Some((first, rest)) = self.segments.split_first() else {
            return text.is_empty();
        };
        let Some(mut at) = first.match_at(text, 0, self.fold) else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return at == text.len();
        };
        for segment in middle {
            match segment.find(text, at, self.fold) {
                Some(end) => at = end,
                None => return false,
            }
        }
        let Some(start) = chars_back(text, last.chars) else {
            return false;
        };
        start >= at && last.match_at(text, start, self.fold) == Some(text.len())
    }

    /// The literal text at the start (`None` when the pattern begins with a wildcard).
    fn prefix(&self) -> Option<&[u8]> {
        match self.segments.first()?.tokens.first()? {
            Token::Literal(text) => Some(text),
            Token::AnyChar => None,
        }
    }

    fn suffix(&self) -> Option<&[u8]> {
        match self.segments.last()?.tokens.last()? {
            Token::Literal(text) => Some(text),
            Token::AnyChar => None,
        }
    }

    fn longest_piece(&self) -> Option<&[u8]> {
        self.segments
            .iter()
            .flat_map(|s| &s.tokens)
            .filter_map(|t| match t {
                Token::Literal(text) => Some(&**text),
                Token::AnyChar => None,
            })
            .max_by_key(|text| text.len())
    }

    /// `Some(literal)` when the pattern is one literal between two given kinds of open ends.
    fn single_literal(&self, open_start: bool, open_end: bool) -> bool {
        let wanted = 1 + usize::from(open_start) + usize::from(open_end);
        let body = usize::from(open_start);
        self.segments.len() == wanted
            && self.segments.iter().enumerate().all(|(i, s)| {
                if i == body {
                    matches!(s.tokens.as_slice(), [Token::Literal(_)])
                } else {
                    s.tokens.is_empty()
                }
            })
    }
}

impl Segment {
    fn parse(text: &str, wildcards: bool, fold: bool) -> Self {
        let mut tokens = Vec::new();
        let mut literal = Vec::new();
        for c in text.chars() {
            if wildcards && c == '?' {
                if !literal.is_empty() {
                    tokens.push(Token::Literal(std::mem::take(&mut literal).into()));
                }
                tokens.push(Token::AnyChar);
            } else {
                let c = if fold { c.to_ascii_lowercase() } else { c };
                literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if !literal.is_empty() {
            tokens.push(Token::Literal(literal.into()));
        }
        Self {
            tokens,
            chars: text.chars().count(),
        }
    }

    /// End of the segment when it matches at byte `at`.
    fn match_at(&self, text: &[u8], at: usize, fold: bool) -> Option<usize> {
        let mut at = at;
        for token in &self.tokens {
            match token {
                Token::Literal(literal) => {
                    let piece = text.get(at..at + literal.len())?;
                    if !same(piece, literal, fold) {
                        return None;
                    }
                    at += literal.len();
                }
                Token::AnyChar => at += char_len(*text.get(at)?),
            }
        }
        Some(at)
    }

    /// End of the leftmost match at or after `from`.
    fn find(&self, text: &[u8], from: usize, fold: bool) -> Option<usize> {
        let Some(first) = self.tokens.first() else {
            return Some(from);
        };
        match (first, self.tokens.len()) {
            (Token::Literal(literal), 1) if !fold => {
                memchr::memmem::find(text.get(from..)?, literal).map(|at| from + at + literal.len())
            }
            (Token::Literal(literal), _) => {
                let lead = *literal.first()?;
                let mut at = from;
                loop {
                    let rest = text.get(at..)?;
                    let hit = if fold && lead.is_ascii_lowercase() {
                        memchr::memchr2(lead, lead.to_ascii_uppercase(), rest)?
                    } else {
                        memchr::memchr(lead, rest)?
                    };
                    if let Some(end) = self.match_at(text, at + hit, fold) {
                        return Some(end);
                    }
                    at += hit + 1;
                }
            }
            (Token::AnyChar, _) => {
                let mut at = from;
                loop {
                    if let Some(end) = self.match_at(text, at, fold) {
                        return Some(end);
                    }
                    at += char_len(*text.get(at)?);
                }
            }
        }
    }
}

/// Length of the character that starts with this byte; the text is UTF-8, so a start byte tells it.
fn char_len(lead: u8) -> usize {
    match lead {
        0..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    }
}

/// Byte position `chars` characters before the end, `None` when the text is shorter.
fn chars_back(text: &[u8], chars: usize) -> Option<usize> {
    let mut at = text.len();
    for _ in 0..chars {
        at = at.checked_sub(1)?;
        while at > 0 && text.get(at).is_some_and(|b| b & 0xC0 == 0x80) {
            at -= 1;
        }
    }
    Some(at)
}

fn same(text: &[u8], literal: &[u8], fold: bool) -> bool {
    if fold {
        text.eq_ignore_ascii_case(literal)
    } else {
        text == literal
    }
}

/// A set of patterns with the member (leaf) each belongs to.
#[derive(Debug, Default)]
pub(super) struct GlobSet {
    fold: bool,
    patterns: Vec<Pattern>,
    prefixes: Trie,
    suffixes: Trie,
    pieces: Option<AhoCorasick>,
    /// Patterns behind each automaton piece.
    piece_patterns: Vec<Vec<u32>>,
    /// Patterns without any literal.
    bare: Vec<u32>,
}

/// Longest pieces, taken together in bytes, whose automaton has a table for every state: twice as fast as one that is packed.
const TABLE_BYTES_MAX: usize = 6 << 10;

fn automaton(pieces: &[Box<[u8]>], fold: bool) -> Result<AhoCorasick, aho_corasick::BuildError> {
    let bytes: usize = pieces.iter().map(|p| p.len()).sum();
    AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .ascii_case_insensitive(fold)
        .kind((bytes <= TABLE_BYTES_MAX).then_some(AhoCorasickKind::DFA))
        .build(pieces)
}

/// Lengths of the literals a pattern could hang on.
struct Ends {
    prefix: usize,
    suffix: usize,
    longest: usize,
}

/// Where a pattern's literal is looked for.
enum Place {
    Prefix,
    Suffix,
    Piece,
    Nowhere,
}

impl Ends {
    fn of(glob: &Glob) -> Self {
        Self {
            prefix: glob.prefix().map_or(0, <[u8]>::len),
            suffix: glob.suffix().map_or(0, <[u8]>::len),
            longest: glob.longest_piece().map_or(0, <[u8]>::len),
        }
    }

    fn need_scan(&self) -> bool {
        let end = self.prefix.max(self.suffix);
        end < 2 && end < self.longest
    }

    /// The longest literal says most; values of one field often begin alike (`/usr/`, `-`), so an end goes before a beginning.
    fn place(&self, scans: bool) -> Place {
        let end = self.prefix.max(self.suffix);
        if self.longest == 0 {
            Place::Nowhere
        } else if self.need_scan() || (scans && self.longest > end + 2) {
            Place::Piece
        } else if self.suffix >= self.prefix {
            Place::Suffix
        } else {
            Place::Prefix
        }
    }
}

#[derive(Debug)]
struct Pattern {
    glob: Glob,
    member: u32,
    /// The literal's occurrence is the match: nothing left to verify.
    decided: bool,
}

/// Which patterns have been verified against the value at hand, so that a literal that occurs often costs one verification.
#[derive(Debug, Default)]
pub(super) struct GlobScratch {
    tried: Vec<u32>,
    value: u32,
}

impl GlobSet {
    /// Builds the set from `(pattern, member)`. `Err` when the automaton would pass its size limit.
    pub(super) fn new(
        fold: bool,
        patterns: Vec<(Glob, u32)>,
    ) -> Result<Self, aho_corasick::BuildError> {
        let mut set = GlobSet {
            fold,
            ..Self::default()
        };
        let mut pieces: Vec<Box<[u8]>> = Vec::new();
        let mut piece_ids: hashbrown::HashMap<Box<[u8]>, usize> = hashbrown::HashMap::new();
        // Where some pattern needs the whole text read, others may as well hang on a rare piece in its middle.
        let scans = patterns.iter().any(|(glob, _)| Ends::of(glob).need_scan());
        for (glob, member) in patterns {
            let id = u32::try_from(set.patterns.len()).unwrap_or(u32::MAX);
            let mut decided = false;
            let ends = Ends::of(&glob);
            match ends.place(scans) {
                Place::Prefix => {
                    decided = glob.single_literal(false, true);
                    set.prefixes
                        .insert(glob.prefix().unwrap_or_default().iter().copied(), id);
                }
                Place::Suffix => {
                    decided = glob.single_literal(true, false);
                    set.suffixes
                        .insert(glob.suffix().unwrap_or_default().iter().rev().copied(), id);
                }
                Place::Piece => {
                    decided = glob.single_literal(true, true);
                    let piece = glob.longest_piece().unwrap_or_default();
                    let at = *piece_ids.entry(piece.into()).or_insert_with(|| {
                        pieces.push(piece.into());
                        set.piece_patterns.push(Vec::new());
                        pieces.len() - 1
                    });
                    if let Some(list) = set.piece_patterns.get_mut(at) {
                        list.push(id);
                    }
                }
                Place::Nowhere => set.bare.push(id),
            }
            set.patterns.push(Pattern {
                glob,
                member,
                decided,
            });
        }
        if !pieces.is_empty() {
            set.pieces = Some(automaton(&pieces, fold)?);
        }
        Ok(set)
    }

    /// Whether a value is read from end to end.
    pub(super) fn scans(&self) -> bool {
        self.pieces.is_some()
    }

    pub(super) fn scratch(&self) -> GlobScratch {
        GlobScratch {
            tried: vec![0; self.patterns.len()],
            value: 0,
        }
    }

    /// Calls `hit` for every member with a matching pattern, once or more.
    pub(super) fn evaluate(
        &self,
        value: &str,
        scratch: &mut GlobScratch,
        mut hit: impl FnMut(u32),
    ) {
        scratch.value = scratch.value.wrapping_add(1);
        if scratch.value == 0 {
            scratch.tried.fill(0);
            scratch.value = 1;
        }
        let mut candidate = |id: u32| {
            let at = id as usize;
            let (Some(pattern), Some(tried)) = (self.patterns.get(at), scratch.tried.get_mut(at))
            else {
                return;
            };
            if *tried == scratch.value {
                return;
            }
            *tried = scratch.value;
            if pattern.decided || pattern.glob.matches(value) {
                hit(pattern.member);
            }
        };
        let text = value.as_bytes();
        self.prefixes
            .walk(text.iter().copied(), self.fold, &mut candidate);
        self.suffixes
            .walk(text.iter().rev().copied(), self.fold, &mut candidate);
        if let Some(pieces) = &self.pieces {
            for found in pieces.find_overlapping_iter(text) {
                for id in self
                    .piece_patterns
                    .get(found.pattern().as_usize())
                    .into_iter()
                    .flatten()
                {
                    candidate(*id);
                }
            }
        }
        for id in &self.bare {
            candidate(*id);
        }
    }
}

/// Byte trie whose nodes carry the patterns that end there. A walk stops at the first byte no pattern continues with.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<TrieNode>,
}

#[derive(Debug, Default)]
struct TrieNode {
    /// Sorted by byte.
    edges: Vec<(u8, u32)>,
    patterns: Vec<u32>,
}

impl Trie {
    fn insert(&mut self, bytes: impl Iterator<Item = u8>, pattern: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(TrieNode::default());
        }
        let mut at = 0usize;
        for byte in bytes {
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else {
                return;
            };
            at = match node.edges.binary_search_by_key(&byte, |e| e.0) {
                Ok(i) => node.edges.get(i).map_or(0, |e| e.1 as usize),
                Err(i) => {
                    node.edges
                        .insert(i, (byte, u32::try_from(fresh).unwrap_or(u32::MAX)));
                    self.nodes.push(TrieNode::default());
                    fresh
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.patterns.push(pattern);
        }
    }

    #[inline]
    fn walk(&self, bytes: impl Iterator<Item = u8>, fold: bool, candidate: &mut impl FnMut(u32)) {
        let Some(mut node) = self.nodes.first() else {
            return;
        };
        for id in &node.patterns {
            candidate(*id);
        }
        for byte in bytes {
            let byte = if fold {
                byte.to_ascii_lowercase()
            } else {
                byte
            };
            let next = match node.edges.as_slice() {
                [(only, next)] => (*only == byte).then_some(*next),
                edges => edges
                    .binary_search_by_key(&byte, |e| e.0)
                    .ok()
                    .and_then(|i| edges.get(i))
                    .map(|e| e.1),
            };
            let Some(found) = next.and_then(|n| self.nodes.get(n as usize)) else {
                return;
            };
            node = found;
            for id in &node.patterns {
                candidate(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The obvious matcher, character by character with backtracking.
    fn naive(pattern: &[char], text: &[char], fold: bool) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', p)), _) => {
                naive(p, text, fold)
                    || text
                        .split_first()
                        .is_some_and(|(_, t)| naive(pattern, t, fold))
            }
            (Some(('?', p)), Some((_, t))) => naive(p, t, fold),
            (Some((a, p)), Some((b, t))) => {
                (a == b || (fold && a.eq_ignore_ascii_case(b))) && naive(p, t, fold)
            }
            _ => false,
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]
        #[test]
        fn set_agrees_with_backtracking(patterns in proptest::collection::vec("[abAé/*?]{0,6}", 1..6), text in "[abABé/]{0,9}", fold: bool) {
            let globs = patterns.iter().zip(0u32..).map(|(p, i)| (Glob::like(p, fold), i)).collect();
            let set = GlobSet::new(fold, globs).unwrap();
            let mut scratch = set.scratch();
            for _ in 0..2 {
                let mut hits = vec![false; patterns.len()];
                set.evaluate(&text, &mut scratch, |m| hits[m as usize] = true);
                let chars: Vec<char> = text.chars().collect();
                let expected: Vec<bool> = patterns.iter().map(|p| naive(&p.chars().collect::<Vec<_>>(), &chars, fold)).collect();
                proptest::prop_assert_eq!(hits, expected);
            }
        }

        #[test]
        fn literal_patterns_are_string_functions(needle in "[ab*?]{1,3}", text in "[ab*?]{0,6}") {
            let globs = vec![
                (Glob::literal(&needle, false, false, true), 0),
                (Glob::literal(&needle, false, true, false), 1),
                (Glob::literal(&needle, false, true, true), 2),
            ];
            let set = GlobSet::new(false, globs).unwrap();
            let mut hits = [false; 3];
            set.evaluate(&text, &mut set.scratch(), |m| hits[m as usize] = true);
            proptest::prop_assert_eq!(hits, [text.starts_with(&*needle), text.ends_with(&*needle), text.contains(&*needle)]);
        }
    }
}
