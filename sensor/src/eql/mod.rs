//! EQL: text to typed query. A language and nothing more: no events, files or clocks; field types arrive as a schema.

pub mod diagnostic;
pub mod query;
