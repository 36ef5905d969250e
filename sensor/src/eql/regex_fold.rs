//! Regular expressions that ignore ASCII case and no other.
//!
//! In: a pattern in the syntax of the `regex` crate. Out: one that spells out both cases of every ASCII letter, since the
//! crate itself folds over all of Unicode, where `k` also means the Kelvin sign. A pattern that sets flags or uses Unicode
//! classes is left to the crate: there the two cannot be told apart.

use std::fmt::Write as _;
use std::ops::Range;

use regex_syntax::ast::{self, Ast, ClassAsciiKind, ClassSetItem, Visitor};

/// The pattern with both cases spelled out; `None` when it has to be folded by the crate, or is not valid.
pub(super) fn ascii(pattern: &str) -> Option<String> {
    let tree = ast::parse::Parser::new().parse(pattern).ok()?;
    let mut edits = ast::visit(&tree, Edits::default()).ok()?;
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut at = 0;
    for (range, text) in edits {
        out.push_str(pattern.get(at..range.start)?);
        out.push_str(&text);
        at = range.end;
    }
    out.push_str(pattern.get(at..)?);
    Some(out)
}

/// Pieces of the pattern and what stands in their place.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

/// Something only the crate can fold.
struct Unfoldable;

impl Edits {
    fn replace(&mut self, span: &ast::Span, text: String) {
        self.0.push((span.start.offset..span.end.offset, text));
    }
}

impl Visitor for Edits {
    type Output = Vec<(Range<usize>, String)>;
    type Err = Unfoldable;

    fn finish(self) -> Result<Self::Output, Unfoldable> {
        Ok(self.0)
    }

    fn visit_pre(&mut self, tree: &Ast) -> Result<(), Unfoldable> {
        match tree {
            Ast::Literal(literal) if literal.c.is_ascii_alphabetic() => {
                let text = format!("[{}]", both(literal.c));
                self.replace(&literal.span, text);
            }
            Ast::Flags(_) | Ast::ClassUnicode(_) => return Err(Unfoldable),
            Ast::Group(group) if group.flags().is_some_and(|flags| !flags.items.is_empty()) => {
                return Err(Unfoldable);
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Unfoldable> {
        match item {
            ClassSetItem::Literal(literal) if literal.c.is_ascii_alphabetic() => {
                self.replace(&literal.span, both(literal.c));
            }
            ClassSetItem::Range(range) => {
                let (from, to) = (range.start.c, range.end.c);
                // The range itself stays as it is written; the other case of its letters follows.
                let end = range.span.end.offset;
                let text = other_cases(from, to);
                if !text.is_empty() {
                    self.0.push((end..end, text));
                }
            }
            ClassSetItem::Ascii(class)
                if matches!(class.kind, ClassAsciiKind::Lower | ClassAsciiKind::Upper) =>
            {
                let text = if class.negated {
                    "[:^alpha:]"
                } else {
                    "[:alpha:]"
                };
                self.replace(&class.span, text.to_owned());
            }
            ClassSetItem::Unicode(_) => return Err(Unfoldable),
            _ => {}
        }
        Ok(())
    }
}

fn both(c: char) -> String {
    String::from_iter([c.to_ascii_lowercase(), c.to_ascii_uppercase()])
}

/// The letters of a range in the other case, as ranges.
fn other_cases(from: char, to: char) -> String {
    let mut out = String::new();
    for (first, last) in [('a', 'z'), ('A', 'Z')] {
        let (first, last) = (from.max(first), to.min(last));
        if first <= last {
            let flip = |c: char| {
                if c.is_ascii_lowercase() {
                    c.to_ascii_uppercase()
                } else {
                    c.to_ascii_lowercase()
                }
            };
            let _ = write!(out, "{}-{}", flip(first), flip(last));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, expected: Option<&str>) {
        assert_eq!(ascii(pattern).as_deref(), expected, "{pattern}");
    }

    #[test]
    fn letters_and_classes() {
        check("a.1", Some("[aA].1"));
        check("K+|x{2}", Some("[kK]+|[xX]{2}"));
        check("[^k-]", Some("[^kK-]"));
        check("[X-c]", Some("[X-cA-Cx-z]"));
        check("[a-f0-9]", Some("[a-fA-F0-9]"));
        check(r"\x41[\x61]", Some("[aA][aA]"));
        check("[[:upper:][:^lower:]]", Some("[[:alpha:][:^alpha:]]"));
        check("(?:a)(?P<n>b)", Some("(?:[aA])(?P<n>[bB])"));
        check("ä", Some("ä"));
    }

    #[test]
    fn left_to_the_crate() {
        check("(?i)a", None);
        check("(?-i:a)", None);
        check(r"\p{Lu}", None);
        check(r"[\pL]", None);
        check("(a", None);
    }
}
