//! EQL: text to typed query. A language and nothing more: no events, files or clocks; field types arrive as a schema.

pub mod cidr;
pub mod diagnostic;
pub mod functions;
mod kind;
pub mod limits;
pub mod pattern;
pub mod query;
pub mod scalar;
pub mod schema;
pub mod time;

pub use diagnostic::{Diagnostic, Kind, Severity, Span};
pub use schema::{OpenSchema, Schema};
