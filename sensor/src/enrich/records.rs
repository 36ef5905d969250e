//! Which records each kind of event is made from.
//!
//! In: kinds of events somebody wants. Out: whether a record kind is needed for them. A record that only feeds the process
//! table is not listed: those always flow.

use sensor_ebpf::Kind as Record;

use crate::event::{Kind, Kinds};

/// Events that would be missing or incomplete without records of a kind.
#[must_use]
pub const fn events_of(record: Record) -> Kinds {
    match record {
        Record::Fork => Kinds::NONE.with(Kind::Fork),
        Record::Exec => Kinds::NONE.with(Kind::Exec),
        Record::Exit => Kinds::NONE.with(Kind::End),
        Record::FileCreate => Kinds::NONE.with(Kind::Creation),
        Record::Rename => Kinds::NONE.with(Kind::Rename),
        Record::Delete => Kinds::NONE.with(Kind::Deletion),
        Record::Link => Kinds::NONE.with(Kind::Link),
        Record::Symlink => Kinds::NONE.with(Kind::Symlink),
        Record::MakeDirectory => Kinds::NONE.with(Kind::MakeDirectory),
        Record::MakeNode => Kinds::NONE.with(Kind::MakeNode),
        Record::FileEnd => Kinds::NONE
            .with(Kind::Rename)
            .with(Kind::Deletion)
            .with(Kind::Link)
            .with(Kind::Symlink)
            .with(Kind::MakeDirectory)
            .with(Kind::MakeNode),
        // The end of a connection is reported only when its begin was seen.
        Record::Connect => Kinds::NONE
            .with(Kind::ConnectionAttempted)
            .with(Kind::DisconnectReceived),
        Record::Accept => Kinds::NONE
            .with(Kind::ConnectionAccepted)
            .with(Kind::DisconnectReceived),
        Record::Credentials => Kinds::NONE.with(Kind::UidChange).with(Kind::GidChange),
        Record::Close => Kinds::NONE.with(Kind::DisconnectReceived),
        Record::Session => Kinds::NONE.with(Kind::SessionIdChange),
        Record::Memfd => Kinds::NONE.with(Kind::MemfdCreate),
        Record::Ptrace => Kinds::NONE.with(Kind::Ptrace),
        Record::Module => Kinds::NONE.with(Kind::LoadModule),
        Record::Modify => Kinds::NONE.with(Kind::Modification),
        Record::Open => Kinds::NONE.with(Kind::Open),
        // Has no hooks of its own.
        Record::Throttle => Kinds::NONE
            .with(Kind::ThrottleStarted)
            .with(Kind::ThrottleEnded),
        Record::ConnectRefused => Kinds::NONE.with(Kind::ConnectionDenied),
        Record::UdpConnect => Kinds::NONE.with(Kind::UdpConnect),
        Record::Dns => Kinds::NONE
            .with(Kind::LookupRequested)
            .with(Kind::LookupResult),
    }
}

/// The kinds of events that are there although some records are not.
#[must_use]
pub fn given(is_missing: &dyn Fn(Record) -> bool) -> Kinds {
    // Without hooks of their own they come with others.
    let has_hooks = |record: &Record| !matches!(record, Record::Throttle | Record::FileEnd);
    let mut given = Kinds::ALL;
    let missing = Record::ALL.iter().copied().filter(has_hooks);
    for record in missing.filter(|record| is_missing(*record)) {
        for kind in events_of(record).iter() {
            let other = match record {
                Record::Connect => Some(Record::Accept),
                Record::Accept => Some(Record::Connect),
                _ => None,
            };
            // One of the two begins is enough.
            let begins_otherwise =
                kind == Kind::DisconnectReceived && other.is_some_and(|other| !is_missing(other));
            if !begins_otherwise {
                given = given.without(kind);
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_of_some_record_or_of_the_scan() {
        for kind in Kind::ALL {
            let wanted = Kinds::NONE.with(*kind);
            let found = Record::ALL
                .iter()
                .any(|record| events_of(*record).intersects(wanted));
            assert_eq!(found, *kind != Kind::AlreadyRunning, "{kind:?}");
        }
    }
}
