//! What the type checker may know of the sensor's fields.
//!
//! In: the field table of `event`. Out: [`eql::Schema`](crate::eql::schema::Schema) in two strengths: closed for our own
//! rules, where an unknown field is an error, and open for public rules, where it is only never present.

use crate::eql::schema::{self as language, FieldType};
use crate::event::{self, schema as fields};

/// The fields this sensor produces, and no others.
#[derive(Clone, Copy, Debug, Default)]
pub struct SensorSchema;

/// The same fields, tolerating others: what they are is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct TolerantSchema;

fn known(path: &str) -> Option<FieldType> {
    Some(match fields::field(path)?.ty {
        event::FieldType::Keyword => FieldType::Keyword,
        event::FieldType::Number => FieldType::Number,
        event::FieldType::Boolean => FieldType::Boolean,
        event::FieldType::Ip => FieldType::Ip,
        event::FieldType::Date => FieldType::Date,
    })
}

fn near(path: &str) -> Option<String> {
    language::closest(path, fields::FIELDS.iter().map(|row| row.path)).map(str::to_owned)
}

impl language::Schema for SensorSchema {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        known(path)
    }

    fn is_closed(&self) -> bool {
        true
    }

    fn suggest(&self, path: &str) -> Option<String> {
        near(path)
    }

    fn is_object(&self, path: &str) -> bool {
        fields::is_object(path)
    }
}

impl language::Schema for TolerantSchema {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        known(path)
    }

    fn is_closed(&self) -> bool {
        false
    }

    /// Nothing: a public rule's names are right where they come from, however close to one of ours.
    fn suggest(&self, _path: &str) -> Option<String> {
        None
    }

    fn is_object(&self, path: &str) -> bool {
        fields::is_object(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::schema::Schema as _;

    #[test]
    fn known_fields_have_their_types() {
        assert_eq!(
            SensorSchema.field_type("process.pid"),
            Some(FieldType::Number)
        );
        assert_eq!(
            SensorSchema.field_type("destination.ip"),
            Some(FieldType::Ip)
        );
        assert_eq!(SensorSchema.field_type("process.comand_line"), None);
        assert_eq!(
            SensorSchema.suggest("process.comand_line").as_deref(),
            Some("process.command_line")
        );
        assert!(SensorSchema.is_object("process.parent"));
        assert!(!SensorSchema.is_object("process.pid"));
    }

    #[test]
    fn foreign_fields_are_tolerated() {
        assert_eq!(TolerantSchema.field_type("auditd.data.a2"), None);
        assert!(!TolerantSchema.is_closed());
        assert_eq!(
            TolerantSchema.field_type("process.pid"),
            Some(FieldType::Number)
        );
    }
}
