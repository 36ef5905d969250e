//! A message of a name lookup.
//!
//! In: what a message to or from a name server says. Out: the same in ECS terms. It is what was asked or answered on the wire,
//! never what is true.

use super::{Digits, OwnedValue};

/// One query or answer.
#[derive(Clone, Debug)]
pub struct Dns {
    /// `dns.id`.
    pub id: Digits,
    /// An answer, not a query.
    pub answer: bool,
    pub op_code: Code,
    pub response_code: Code,
    pub question: Question,
    /// Addresses in the answers, in their order. [`OwnedValue::Ip`] each.
    pub resolved: Vec<OwnedValue>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Labels joined by dots, without the last one; bytes that are no plain text are escaped.
    pub name: Box<str>,
    pub kind: Code,
    pub class: Code,
}

/// A number and the name it goes by.
#[derive(Clone, Debug)]
pub struct Code {
    pub number: u16,
    name: Box<str>,
}

impl Code {
    fn of(number: u16, names: &[(u16, &str)], otherwise: &str) -> Code {
        let name = names.iter().find(|(of, _)| *of == number).map_or_else(
            || format!("{otherwise}{number}"),
            |(_, name)| (*name).to_owned(),
        );
        Code {
            number,
            name: name.into_boxed_str(),
        }
    }

    /// `dns.op_code`.
    #[must_use]
    pub fn op(number: u16) -> Code {
        Code::of(number, OP_CODES, "OPCODE")
    }

    /// `dns.response_code`.
    #[must_use]
    pub fn response(number: u16) -> Code {
        Code::of(number, RESPONSE_CODES, "RCODE")
    }

    /// `dns.question.type`.
    #[must_use]
    pub fn kind(number: u16) -> Code {
        Code::of(number, KINDS, "TYPE")
    }

    /// `dns.question.class`.
    #[must_use]
    pub fn class(number: u16) -> Code {
        Code::of(number, CLASSES, "CLASS")
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

const OP_CODES: &[(u16, &str)] = &[
    (0, "QUERY"),
    (1, "IQUERY"),
    (2, "STATUS"),
    (4, "NOTIFY"),
    (5, "UPDATE"),
    (6, "DSO"),
];

const RESPONSE_CODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
];

const CLASSES: &[(u16, &str)] = &[(1, "IN"), (3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY")];

const KINDS: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (39, "DNAME"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];
