//! Bytes of a DNS message to what it asks and answers.
//!
//! In: the first bytes of a message, as a process sent or received them: whatever it liked. Out: the one question and the addresses
//! answered, as far as the bytes go; `None` for what is no query or answer. Every length is checked and every loop is bounded:
//! never a panic, and never more work than the bytes are worth.

use std::net::IpAddr;

use crate::event::dns::{Code, Dns, Question};
use crate::event::{Digits, OwnedValue};

/// Longest name, in bytes of the wire.
const NAME_MAX: usize = 255;
/// Most answers looked at.
const ANSWERS_MAX: u16 = 64;
/// Most pointers followed for one name.
const POINTERS_MAX: usize = 16;

const A: u16 = 1;
const AAAA: u16 = 28;
const IN: u16 = 1;

/// Reads a message. With `stream` it may be preceded by its length, as it is over TCP.
pub(super) fn parse(bytes: &[u8], stream: bool) -> Option<Dns> {
    match bytes {
        // Of a message that was cut, the length says more than there is.
        [high, low, rest @ ..]
            if stream && usize::from(u16::from_be_bytes([*high, *low])) >= rest.len() =>
        {
            parse_message(rest).or_else(|| parse_message(bytes))
        }
        _ => parse_message(bytes),
    }
}

fn parse_message(bytes: &[u8]) -> Option<Dns> {
    let mut at = Cursor { bytes, at: 0 };
    let id = at.u16()?;
    let flags = at.u16()?;
    let questions = at.u16()?;
    let answers = at.u16()?;
    at.skip(4)?;
    // Nobody sends more, and what says otherwise is no DNS.
    if questions != 1 {
        return None;
    }
    let name = at.name()?;
    let (kind, class) = (at.u16()?, at.u16()?);
    let mut resolved = Vec::new();
    for _ in 0..answers.min(ANSWERS_MAX) {
        match at.address() {
            Some(Some(ip)) => resolved.push(OwnedValue::Ip(ip)),
            Some(None) => {}
            // Cut or broken: what came before it stands.
            None => break,
        }
    }
    Some(Dns {
        id: Digits::decimal(u64::from(id)),
        answer: flags & 0x8000 != 0,
        op_code: Code::op(flags >> 11 & 0xf),
        response_code: Code::response(flags & 0xf),
        question: Question {
            name: name.into_boxed_str(),
            kind: Code::kind(kind),
            class: Code::class(class),
        },
        resolved,
    })
}

/// A place in a message.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(drop)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// Reads a name and stands behind it.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut used = 0;
        let mut pointers = 0;
        // Where labels are read from, once a pointer was followed.
        let mut elsewhere: Option<Cursor<'a>> = None;
        loop {
            let from = elsewhere.as_mut().unwrap_or(self);
            let begin = from.at;
            let len = usize::from(from.u8()?);
            match len {
                0 => break,
                1..=63 => {
                    let label = from.take(len)?;
                    used += len + 1;
                    if used > NAME_MAX {
                        return None;
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    push_label(&mut name, label);
                }
                0xc0.. => {
                    let to = (len & 0x3f) << 8 | usize::from(from.u8()?);
                    pointers += 1;
                    // Only ever back, so that it ends.
                    if to >= begin || pointers > POINTERS_MAX {
                        return None;
                    }
                    elsewhere = Some(Cursor {
                        bytes: self.bytes,
                        at: to,
                    });
                }
                _ => return None,
            }
        }
        if name.is_empty() {
            name.push('.');
        }
        Some(name)
    }

    /// Reads an answer: its address, if that is what it holds.
    fn address(&mut self) -> Option<Option<IpAddr>> {
        self.skip_name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        self.skip(4)?;
        let len = usize::from(self.u16()?);
        let value = self.take(len)?;
        Some(match (class, kind) {
            (IN, A) => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            (IN, AAAA) => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        })
    }

    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.u8()? {
                0 => return Some(()),
                len @ 1..=63 => self.skip(usize::from(len))?,
                0xc0.. => return self.skip(1),
                _ => return None,
            }
        }
    }
}

/// Appends a label as ECS wants it: what is not plain text as `\DDD`, and what would be read as something else with `\`.
fn push_label(name: &mut String, label: &[u8]) {
    for byte in label {
        match byte {
            b'\t' => name.push_str("\\t"),
            b'\r' => name.push_str("\\r"),
            b'\n' => name.push_str("\\n"),
            b'.' | b'\\' | b'"' => {
                name.push('\\');
                name.push(char::from(*byte));
            }
            0x20..=0x7e => name.push(char::from(*byte)),
            other => name.push_str(&format!("\\{other:03}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
        [0x1234, flags, questions, answers, 0, 0]
            .iter()
            .flat_map(|word: &u16| word.to_be_bytes())
            .collect()
    }

    fn labels(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn question(name: &[u8], kind: u16) -> Vec<u8> {
        [name, &kind.to_be_bytes(), &[0, 1]].concat()
    }

    fn answer(name: &[u8], kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap();
        [
            name,
            &kind.to_be_bytes(),
            &[0, 1, 0, 0, 1, 44],
            &len.to_be_bytes(),
            value,
        ]
        .concat()
    }

    /// Name, type, response code and addresses, or nothing.
    fn check(bytes: &[u8], expected: &str) {
        let shown = parse(bytes, false).map_or("none".to_owned(), |dns| {
            let mut text = format!(
                "{} {} {} {}",
                dns.question.name,
                dns.question.kind.name(),
                dns.question.class.name(),
                if dns.answer {
                    dns.response_code.name()
                } else {
                    dns.op_code.name()
                },
            );
            for value in &dns.resolved {
                if let OwnedValue::Ip(ip) = value {
                    text.push_str(&format!(" {ip}"));
                }
            }
            text
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn questions_and_answers() {
        let ask = [
            header(0x0100, 1, 0),
            question(&labels("www.example.org"), 28),
        ]
        .concat();
        check(&ask, "www.example.org AAAA IN QUERY");
        let found = [
            header(0x8180, 1, 3),
            question(&labels("www.Example.org"), 1),
            answer(&[0xc0, 12], 5, &labels("a.example.net")),
            answer(&labels("a.example.net"), 1, &[192, 0, 2, 7]),
            answer(
                &[0xc0, 16],
                28,
                &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            ),
        ]
        .concat();
        check(&found, "www.Example.org A IN NOERROR 192.0.2.7 2001:db8::9");
        let none = [header(0x8183, 1, 0), question(&labels("no.such"), 65)].concat();
        check(&none, "no.such HTTPS IN NXDOMAIN");
        check(
            &[header(0x0100, 1, 0), question(&[0], 2)].concat(),
            ". NS IN QUERY",
        );
        check(
            &[header(0x2900, 1, 0), question(&labels("z"), 999)].concat(),
            "z TYPE999 IN UPDATE",
        );
    }

    #[test]
    fn what_is_cut_keeps_what_came_before() {
        let whole = [
            header(0x8180, 1, 2),
            question(&labels("a.b"), 1),
            answer(&[0xc0, 12], 1, &[192, 0, 2, 1]),
            answer(&[0xc0, 12], 1, &[192, 0, 2, 2]),
        ]
        .concat();
        check(&whole[..whole.len() - 1], "a.b A IN NOERROR 192.0.2.1");
        check(&whole[..40], "a.b A IN NOERROR 192.0.2.1");
        check(&whole[..25], "a.b A IN NOERROR");
        check(&whole[..20], "none");
        check(&whole[..12], "none");
        check(&[], "none");
        // An address of a wrong length is none.
        let odd = [
            header(0x8180, 1, 2),
            question(&labels("a.b"), 1),
            answer(&[0xc0, 12], 1, &[192, 0, 2]),
            answer(&[0xc0, 12], 1, &[192, 0, 2, 2]),
        ]
        .concat();
        check(&odd, "a.b A IN NOERROR 192.0.2.2");
    }

    #[test]
    fn what_is_no_message_is_nothing() {
        check(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", "none");
        let two = [header(0x0100, 2, 0), question(&labels("a"), 1)].concat();
        check(&two, "none");
        // A name that points at itself, ahead, or is of a kind nobody uses.
        for name in [
            &[0xc0, 12][..],
            &[0xc0, 40],
            &[1, b'a', 0xc0, 12, 0],
            &[0x40, 0],
            &[0x80, 0],
        ] {
            let bytes = [header(0x0100, 1, 0), question(name, 1), vec![0; 40]].concat();
            check(&bytes, "none");
        }
        // Longer than any name.
        let long = [b"\x3f".as_slice(), &[b'x'; 63]].concat().repeat(5);
        check(
            &[
                header(0x0100, 1, 0),
                question(&[&long[..], &[0]].concat(), 1),
            ]
            .concat(),
            "none",
        );
    }

    #[test]
    fn odd_bytes_are_escaped() {
        let name = [&[9][..], b"a.b\\\"\xc3\xa9\t ", &[1, b'c', 0]].concat();
        let bytes = [header(0x0100, 1, 0), question(&name, 16)].concat();
        check(&bytes, "a\\.b\\\\\\\"\\195\\169\\t .c TXT IN QUERY");
    }

    #[test]
    fn over_tcp_the_length_comes_first() {
        let message = [header(0x0100, 1, 0), question(&labels("a.b"), 1)].concat();
        let len = u16::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&len[..], &message].concat();
        for bytes in [&framed, &message] {
            assert_eq!(&*parse(bytes, true).unwrap().question.name, "a.b");
        }
        assert!(parse(&framed, false).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), stream: bool) {
            if let Some(dns) = parse(&bytes, stream) {
                prop_assert!(!dns.question.name.is_empty());
                prop_assert!(dns.question.name.len() <= 4 * NAME_MAX);
                prop_assert!(dns.question.name.chars().all(|c| (' '..='~').contains(&c)));
                prop_assert!(dns.resolved.len() <= usize::from(ANSWERS_MAX));
            }
        }

        /// Starts from a good message, so that damage reaches names and answers.
        #[test]
        fn damaged_messages_never_panic(
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = [
                header(0x8180, 1, 9),
                question(&labels("www.example.org"), 1),
                answer(&[0xc0, 12], 5, &[3, b'c', b'd', b'n', 0xc0, 16]),
                answer(&[0xc0, 45], 1, &[192, 0, 2, 7]),
            ]
            .concat();
            for (at, value) in hits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = parse(&bytes, false);
        }
    }
}
