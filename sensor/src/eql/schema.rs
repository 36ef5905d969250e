//! What the type checker knows about the fields of the events a query will run over.
//!
//! In: field paths as the query writes them. Out: their declared types, and what to suggest for a misspelt one. The
//! language never asks anything else about events.

pub use super::query::FieldType;

/// Field names and types, as far as they are known.
pub trait Schema {
    /// Declared type of a path without array positions; `None` when the schema does not know it.
    fn field_type(&self, path: &str) -> Option<FieldType>;

    /// Whether the schema knows every field there can be, so that an unknown one is an error. Over an open schema an
    /// unknown field is a warning when [`suggest`](Schema::suggest) finds a close name, and silent otherwise.
    fn is_closed(&self) -> bool;

    /// The known path an unknown one was probably meant to be.
    fn suggest(&self, path: &str) -> Option<String>;

    /// Whether the path is an object with known fields below it: it may then be compared with null, and nothing else.
    fn is_object(&self, _path: &str) -> bool {
        false
    }
}

/// Knows nothing and accepts everything: for data from elsewhere. The one thing it takes from ECS is that a path whose last
/// name is `ip` holds addresses, so that `source.ip == "::1"` and `source.ip == "10.0.0.0/8"` mean what they say.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenSchema;

impl Schema for OpenSchema {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        Some(if path.ends_with(".ip") {
            FieldType::Ip
        } else {
            FieldType::Any
        })
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn suggest(&self, _path: &str) -> Option<String> {
        None
    }
}

/// The candidate closest to `name`, if close enough to be a typing mistake: at most a third of it wrong.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = name.to_ascii_lowercase();
    let allowed = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter(|c| c.len().abs_diff(name.len()) <= allowed * 4)
        .map(|c| (strsim::osa_distance(&folded, &c.to_ascii_lowercase()), c))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
