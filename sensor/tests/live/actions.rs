//! The same acts under every hook tier.
//!
//! In: one script of files, programs and connections. Out: its events, compared with what the script did, and between tiers
//! field by field. Must never compare what differs from run to run by nature: ids of processes, times, inodes, local ports.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

/// Connects to an address and port of either family; exit code 1 when refused.
const CONNECT: &str = r#"#include <netdb.h>
#include <sys/socket.h>
#include <stddef.h>

int main(int argc, char **argv)
{
    struct addrinfo hints = { }, *peer;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if (argc != 3 || getaddrinfo(argv[1], argv[2], &hints, &peer) != 0)
        return 2;
    int fd = socket(peer->ai_family, SOCK_STREAM, 0);
    return fd < 0 || connect(fd, peer->ai_addr, peer->ai_addrlen) != 0;
}
"#;

/// What every run does. `$1`, `$2`: listening ports of IPv4 and IPv6; `$3`: a port that refuses.
const SCRIPT: &str = r#"
umask 022
: > made
: > made
echo more >> made
cp made copy
mkdir sub
mkfifo pipe
: > sub/below
(cd sub; touch 'two words')
mv copy moved
ln made linked
ln -s made soft
mv made linked sub
rm sub/below
rm missing 2> /dev/null
rmdir sub 2> /dev/null
./connect 127.0.0.1 $1
./connect ::1 $2
./connect 127.0.0.1 $3
sh -c 'exit 7'
sh -c 'kill -9 $$'
exit 0
"#;

/// The script's events in order, leaving out forks and clean ends. `@` stands for the folder.
const EXPECTED: &[&str] = &[
    "exec sh [sh @/script 4 6 0] in @",
    "creation sh @/made 0644",
    "exec cp [cp made copy] in @",
    "creation cp @/copy 0644",
    "exec mkdir [mkdir sub] in @",
    "mkdir mkdir @/sub",
    "exec mkfifo [mkfifo pipe] in @",
    "mknod mkfifo @/pipe",
    "creation sh @/sub/below 0644",
    "exec touch [touch two words] in @/sub",
    "creation touch @/sub/two words 0644",
    "exec mv [mv copy moved] in @",
    "rename mv @/copy -> @/moved",
    "exec ln [ln made linked] in @",
    "link ln @/made => @/linked",
    "exec ln [ln -s made soft] in @",
    "symlink ln made => @/soft",
    "exec mv [mv made linked sub] in @",
    "rename mv @/made -> @/sub/made",
    "rename mv @/linked -> @/sub/linked",
    "exec rm [rm sub/below] in @",
    "deletion rm @/sub/below",
    "exec rm [rm missing] in @",
    "end rm code 1",
    "exec rmdir [rmdir sub] in @",
    "end rmdir code 1",
    "exec connect [./connect 127.0.0.1 4] in @",
    "connection_attempted connect 127.0.0.1:4 ipv4 tcp",
    "disconnect_received connect 127.0.0.1:4 ipv4 tcp",
    "exec connect [./connect ::1 6] in @",
    "connection_attempted connect ::1:6 ipv6 tcp",
    "disconnect_received connect ::1:6 ipv6 tcp",
    "exec connect [./connect 127.0.0.1 0] in @",
    "connection_attempted connect 127.0.0.1:0 ipv4 tcp",
    "end connect code 1",
    "exec sh [sh -c exit 7] in @",
    "end sh code 7",
    "exec sh [sh -c kill -9 $$] in @",
    "end sh signal 9",
];

/// Fields of a file that no tier but the first can tell, save for creations, and the one that says so.
const FIRST_TIER: &[&str] = &[
    "mode",
    "uid",
    "gid",
    "owner",
    "group",
    "type",
    "path_from_user",
];

/// Fields whose values no two runs share.
const VOLATILE: &[&str] = &[
    "@timestamp",
    "pid",
    "vpid",
    "entity_id",
    "start",
    "end",
    "inode",
    "ancestry",
    "sequence",
    "source",
    "agent",
];

#[test]
fn the_same_acts_give_the_same_events_under_every_tier() {
    let mut first: Option<(String, Vec<Value>)> = None;
    for tier in tiers() {
        let events = record(&tier);
        println!("{tier}: {} events", events.len());
        match &first {
            None => first = Some((tier, events)),
            Some((other, expected)) => {
                assert_eq!(events.len(), expected.len(), "{tier} against {other}");
                for (event, expected) in events.iter().zip(expected) {
                    assert_eq!(event, expected, "{tier} against {other}");
                }
                println!("{tier} and {other}: equal in every field but {VOLATILE:?}");
            }
        }
    }
}

/// Runs the script under a recording daemon; checks its events and returns them without what differs between runs.
fn record(tier: &str) -> Vec<Value> {
    let scope = Scope::new("acts");
    let folder = scope.folder();
    scope.write("connect.c", CONNECT);
    scope.write("script", SCRIPT);
    let built = Command::new("gcc")
        .args(["connect.c", "-o", "connect"])
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(built.success());
    let (ipv4, ipv6) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("[::1]:0").unwrap(),
    );
    // Bound but not listening: the port refuses, and nobody else can take it meanwhile.
    let refusing = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(
        &refusing,
        &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0),
    )
    .unwrap();
    let refused = std::net::SocketAddr::try_from(rustix::net::getsockname(&refusing).unwrap())
        .unwrap()
        .port();
    let ports = [
        ipv4.local_addr().unwrap().port(),
        ipv6.local_addr().unwrap().port(),
        refused,
    ]
    .map(|port| port.to_string());

    let daemon = Daemon::record(&scope, tier, &[]);
    let script = folder.join("script");
    scope.run(&[
        "sh",
        script.to_str().unwrap(),
        &ports[0],
        &ports[1],
        &ports[2],
    ]);
    let ended = daemon.stop();

    let folder = folder.to_str().unwrap();
    let stable = |text: &str| {
        let [ipv4, ipv6, refused] = &ports;
        let text = text.replace(folder, "@");
        let text = text.replace(ipv4.as_str(), "4").replace(ipv6.as_str(), "6");
        text.replace(refused.as_str(), "0")
    };
    let found: Vec<String> = ended
        .lines
        .iter()
        .filter_map(describe)
        .map(|line| stable(&line))
        .collect();
    assert_eq!(found, EXPECTED, "{tier}");
    let counts = Counts::of(&ended.log);
    assert_eq!(
        (counts.received, counts.lost),
        (counts.submitted, 0),
        "{tier}: {counts:?}"
    );
    let mut events = ended.lines;
    for event in &mut events {
        remove(event, VOLATILE);
        if !is(event, "file", "creation")
            && let Some(file) = event.get_mut("file")
        {
            remove(file, FIRST_TIER);
        }
    }
    events
        .iter()
        .map(|event| serde_json::from_str(&stable(&event.to_string())).unwrap())
        .collect()
}

/// One line for an event that the script's text shows.
fn describe(event: &Value) -> Option<String> {
    let name = text(event, "process.name");
    if is(event, "process", "exec") {
        let args: Vec<_> = at(event, "process.args")
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        return Some(format!(
            "exec {name} [{}] in {}",
            args.join(" "),
            text(event, "process.working_directory")
        ));
    }
    if is(event, "process", "end") {
        let signal =
            number(event, "process.Ext.exit_signal").map(|signal| format!("signal {signal}"));
        let code = number(event, "process.exit_code")
            .filter(|code| *code != 0)
            .map(|code| format!("code {code}"));
        return signal.or(code).map(|how| format!("end {name} {how}"));
    }
    if is(event, "file", "creation") {
        return Some(format!(
            "creation {name} {} {}",
            text(event, "file.path"),
            text(event, "file.mode")
        ));
    }
    if at(event, "event.category")[0] == "file" {
        let (action, path) = (text(event, "event.action"), text(event, "file.path"));
        let old = text(event, "file.Ext.original.path");
        let target = text(event, "file.target_path");
        return Some(match (old, target) {
            ("", "") => format!("{action} {name} {path}"),
            ("", target) => format!("{action} {name} {target} => {path}"),
            (old, _) => format!("{action} {name} {old} -> {path}"),
        });
    }
    let action = text(event, "event.action");
    if is(event, "network", action) {
        let port = number(event, "destination.port").unwrap_or_default();
        let (version, transport) = (
            text(event, "network.type"),
            text(event, "network.transport"),
        );
        return Some(format!(
            "{action} {name} {}:{port} {version} {transport}",
            text(event, "destination.ip")
        ));
    }
    assert!(is(event, "process", "fork"), "unexpected event {event:#}");
    None
}

/// Takes fields away by name, wherever they stand; an object that this empties goes as well.
fn remove(value: &mut Value, names: &[&str]) {
    if let Value::Object(fields) = value {
        fields.retain(|name, _| !names.contains(&name.as_str()));
        fields.values_mut().for_each(|field| remove(field, names));
        fields.retain(|_, field| !field.as_object().is_some_and(serde_json::Map::is_empty));
    }
}
