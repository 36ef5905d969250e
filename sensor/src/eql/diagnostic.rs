//! Problems found in a query: where, what was found, what is allowed.

/// Half-open byte range of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}
