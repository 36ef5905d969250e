//! Connections from records: which way, whose, and which closes are events.
//!
//! In: records of accepts, connects and closes as the kernel programs send them. Out: the events, and none for sockets that never
//! carried a connection. Must never depend on the host: all addresses and processes are made up.

use sensor_ebpf::{ConnectBody, Kind, record_flag};

use super::testing::{Key, header};
use super::*;
use crate::event::{FieldTable, Fields};

const SERVER: Key = (100, 10);
const OTHER: Key = (200, 20);
const WORKER: Key = (2, 1);

fn enricher() -> Enricher {
    Enricher::new(
        Arc::default(),
        TableLimits::default(),
        Users::from_files("/nonexistent", "/nonexistent"),
        None,
    )
}

fn body(socket: u64) -> ConnectBody {
    let address = |last| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, last]);
        bytes
    };
    ConnectBody {
        family: 2,
        local_port: 80,
        remote_port: 50_000,
        protocol: 6,
        local: address(1),
        remote: address(9),
        netns: 1,
        detail: 1,
        socket,
    }
}

/// Action, pid, uid, direction, source and destination of every event that comes of a record.
fn fed(to: &mut Enricher, kind: Kind, key: Key, flags: u32, body: &ConnectBody) -> Vec<String> {
    let mut header = header(kind, 1_000_000_000, key);
    header.flags = flags;
    if flags & record_flag::KTHREAD != 0 {
        (header.uid, header.gid) = (0, 0);
    }
    let record = match kind {
        Kind::Accept => Body::Accept(body),
        Kind::Close => Body::Close(body),
        _ => Body::Connect(body),
    };
    let table = FieldTable::sensor();
    let show = |event: Event| {
        let words = [
            "event.action",
            "process.pid",
            "user.id",
            "network.direction",
            "source.ip",
            "source.port",
            "destination.ip",
            "destination.port",
        ]
        .map(
            |path| match event.values(table.resolve(path).unwrap()).get(0) {
                Some(crate::event::Value::Str(text)) => text.to_owned(),
                Some(crate::event::Value::Int(number)) => number.to_string(),
                Some(crate::event::Value::Ip(ip)) => ip.to_string(),
                other => format!("{other:?}"),
            },
        );
        words.join(" ")
    };
    to.feed_all(&header, record).into_iter().map(show).collect()
}

#[test]
fn a_connection_ends_the_way_it_began() {
    let mut to = enricher();
    let accepted = "100 1000 ingress 192.0.2.9 50000 192.0.2.1 80";
    let dialled = "100 1000 egress 192.0.2.1 80 192.0.2.9 50000";
    for (kind, action, ends) in [
        (Kind::Accept, "connection_accepted", accepted),
        (Kind::Connect, "connection_attempted", dialled),
    ] {
        assert_eq!(
            fed(&mut to, kind, SERVER, 0, &body(7)),
            [format!("{action} {ends}")]
        );
        let closed = fed(&mut to, Kind::Close, SERVER, 0, &body(7));
        assert_eq!(closed, [format!("disconnect_received {ends}")]);
        // Told of twice, closed once.
        assert!(fed(&mut to, Kind::Close, SERVER, 0, &body(7)).is_empty());
    }
    assert_eq!(to.counters().unknown_sockets, 2);
}

#[test]
fn what_never_was_a_connection_does_not_end() {
    let mut to = enricher();
    assert!(fed(&mut to, Kind::Close, SERVER, 0, &body(1)).is_empty());
    fed(&mut to, Kind::Connect, SERVER, 0, &body(2));
    let refused = ConnectBody {
        detail: 0,
        ..body(2)
    };
    assert!(fed(&mut to, Kind::Close, SERVER, 0, &refused).is_empty());
    // An accepted one was there, whatever it says of itself.
    fed(&mut to, Kind::Accept, SERVER, 0, &body(3));
    let silent = ConnectBody {
        detail: 0,
        ..body(3)
    };
    assert_eq!(fed(&mut to, Kind::Close, SERVER, 0, &silent).len(), 1);
}

#[test]
fn whoever_closes_it_ends_it_and_a_kernel_thread_stands_for_the_owner() {
    let mut to = enricher();
    fed(&mut to, Kind::Accept, SERVER, 0, &body(4));
    let ended = fed(&mut to, Kind::Close, OTHER, 0, &body(4));
    assert!(
        ended[0].starts_with("disconnect_received 200 1000 "),
        "{ended:?}"
    );
    fed(&mut to, Kind::Accept, SERVER, 0, &body(5));
    let ended = fed(&mut to, Kind::Close, WORKER, record_flag::KTHREAD, &body(5));
    assert!(
        ended[0].starts_with("disconnect_received 100 1000 "),
        "{ended:?}"
    );
}

#[test]
fn a_message_is_a_lookup_only_on_the_way_it_says() {
    let mut to = enricher();
    let answer = to.feed_lookup(1, SERVER, [192, 0, 2, 53]);
    assert_eq!(answer.kind.action(), "lookup_result");
    let network = answer.network().unwrap();
    assert_eq!(network.direction, Direction::Egress);
    assert_eq!(network.destination.port, Some(53));
    let dns = network.dns.as_ref().unwrap();
    assert_eq!(&*dns.question.name, "www.example.org");
    assert_eq!(dns.resolved.len(), 2);
    // An answer that is sent, as a name server does, and what is no message at all.
    for payload in [
        &b"\x12\x34\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01"[..],
        b"noise",
        b"",
    ] {
        let body = ConnectBody {
            remote_port: 53,
            protocol: 17,
            ..body(1)
        };
        let lookup = Lookup {
            body: &body,
            payload,
        };
        let events = to.feed_all(&header(Kind::Dns, 2, SERVER), Body::Dns(lookup));
        assert!(events.is_empty(), "{events:?}");
    }
    assert_eq!(to.counters().no_lookups, 3);
}

#[test]
fn what_begins_no_connection_ends_none() {
    let mut to = enricher();
    let refused = ConnectBody {
        detail: 13,
        ..body(6)
    };
    for (record, action) in [
        (Body::ConnectRefused(&refused), "connection_denied"),
        (Body::UdpConnect(&refused), "udp_connect"),
    ] {
        let events = to.feed_all(&header(Kind::UdpConnect, 1, SERVER), record);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind.action(), action);
        assert!(fed(&mut to, Kind::Close, SERVER, 0, &body(6)).is_empty());
    }
    // A peer that is taken away is none.
    let none = ConnectBody {
        remote: [0; 16],
        remote_port: 0,
        ..body(6)
    };
    let record = Body::UdpConnect(&none);
    assert!(
        to.feed_all(&header(Kind::UdpConnect, 1, SERVER), record)
            .is_empty()
    );
}
