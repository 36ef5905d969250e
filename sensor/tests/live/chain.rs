//! The founding rule: what must alert, and what comes close and must not.
//!
//! In: compilers, sockets and the shipped rules. Out: alerts, compared with what was done. Must never accept an alert whose
//! events are not the ones just caused.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, at, is, number, text};
use crate::scope::Scope;
use crate::tiers;

const RULE_ID: &str = "64cfca9e-0f6f-4048-8251-9ec56a055e9e";

/// A name of 40 characters: longer than the kernel's 15 for a task.
const LONG_NAME: &str = "a_program_name_of_exactly_40_characters_";

/// Connects to an address and port of either family.
const SOURCE: &str = r#"#include <netdb.h>
#include <sys/socket.h>
#include <stddef.h>

int main(int argc, char **argv)
{
    struct addrinfo hints = { }, *peer;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if (argc != 3)
        return 0;
    if (getaddrinfo(argv[1], argv[2], &hints, &peer) != 0)
        return 2;
    int fd = socket(peer->ai_family, SOCK_STREAM, 0);
    return fd < 0 || connect(fd, peer->ai_addr, peer->ai_addrlen) != 0;
}
"#;

struct Chain {
    compiler: &'static str,
    name: &'static str,
    listen: &'static str,
}

const CHAINS: &[Chain] = &[
    Chain {
        compiler: "gcc",
        name: "by_gcc",
        listen: "127.0.0.1:0",
    },
    Chain {
        compiler: "g++",
        name: "by_g++",
        listen: "127.0.0.1:0",
    },
    Chain {
        compiler: "cc",
        name: "by_cc",
        listen: "127.0.0.1:0",
    },
    Chain {
        compiler: "gcc",
        name: LONG_NAME,
        listen: "127.0.0.1:0",
    },
    Chain {
        compiler: "gcc",
        name: "to_ipv6",
        listen: "[::1]:0",
    },
];

#[test]
fn every_chain_alerts_with_its_own_four_events() {
    assert_eq!(LONG_NAME.len(), 40);
    for tier in tiers() {
        let scope = Scope::new("chain");
        scope.write("x.c", SOURCE);
        let mut daemon = Daemon::run(&scope, &tier);
        for chain in CHAINS {
            let alert = act(&scope, &mut daemon, chain);
            println!(
                "{tier}: {} -o {}: {}",
                chain.compiler,
                chain.name,
                text(&alert, "message")
            );
        }
        let ended = daemon.stop();
        assert_eq!(
            ended.lines.len(),
            CHAINS.len(),
            "{tier}: one alert each, no more: {:#?}",
            ended.lines
        );
    }
}

/// Compiles, runs, and checks the alert against what was done.
fn act(scope: &Scope, daemon: &mut Daemon, chain: &Chain) -> Value {
    let listener = TcpListener::bind(chain.listen).unwrap();
    let peer = listener.local_addr().unwrap();
    let compiler_pid = scope.run(&[chain.compiler, "x.c", "-o", chain.name]);
    let program = scope.folder().join(chain.name);
    let program_pid = connect(scope, &format!("./{}", chain.name), peer);
    let alert = daemon.wait_for(&format!("alert for {}", chain.name), |alert| {
        at(alert, "events")
            .as_array()
            .is_some_and(|events| text(&events[1], "file.name") == chain.name)
    });
    assert_eq!(text(&alert, "rule.id"), RULE_ID);
    assert_eq!(
        text(&alert, "rule.name"),
        "Network Connection via Recently Compiled Executable"
    );
    let events = at(&alert, "events").as_array().unwrap();
    assert_eq!(events.len(), 4, "{alert:#}");
    let (compile, create, start, network) = (&events[0], &events[1], &events[2], &events[3]);
    assert!(is(compile, "process", "exec"), "{compile:#}");
    assert_eq!(text(compile, "process.name"), chain.compiler);
    assert_eq!(
        number(compile, "process.pid"),
        Some(u64::from(compiler_pid))
    );
    assert_eq!(
        *at(compile, "process.args"),
        serde_json::json!([chain.compiler, "x.c", "-o", chain.name])
    );
    assert!(is(create, "file", "creation"), "{create:#}");
    assert_eq!(text(create, "file.path"), program.to_str().unwrap());
    assert_eq!(text(create, "process.name"), "ld");
    assert!(is(start, "process", "exec"), "{start:#}");
    assert_eq!(text(start, "process.executable"), program.to_str().unwrap());
    assert_eq!(number(start, "process.pid"), Some(u64::from(program_pid)));
    assert!(
        is(network, "network", "connection_attempted"),
        "{network:#}"
    );
    assert_eq!(number(network, "process.pid"), Some(u64::from(program_pid)));
    assert_eq!(text(network, "destination.ip"), peer.ip().to_string());
    assert_eq!(
        number(network, "destination.port"),
        Some(u64::from(peer.port()))
    );
    alert
}

fn connect(scope: &Scope, program: &str, peer: SocketAddr) -> u32 {
    scope.run(&[program, &peer.ip().to_string(), &peer.port().to_string()])
}

#[test]
fn what_comes_close_does_not_alert() {
    for tier in tiers() {
        let scope = Scope::new("close");
        scope.write("x.c", SOURCE);
        // Compiled where the daemon does not look, hence never seen to be compiled.
        let built = Command::new("gcc")
            .args(["x.c", "-o", "elsewhere"])
            .current_dir(scope.folder())
            .status()
            .unwrap();
        assert!(built.success());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let mut daemon = Daemon::run(&scope, &tier);

        // Without -o the name of what ld writes is not among the compiler's arguments.
        scope.run(&["gcc", "x.c"]);
        connect(&scope, "./a.out", peer);

        // Another program connects; the compiled one runs, but does not.
        scope.run(&["gcc", "x.c", "-o", "quiet"]);
        scope.run(&["./quiet"]);
        connect(&scope, "./elsewhere", peer);

        // The compiler names it, but cc1 and then cp create it.
        scope.run(&["gcc", "-E", "x.c", "-o", "copied"]);
        fs::remove_file(scope.folder().join("copied")).unwrap();
        scope.run(&["cp", "elsewhere", "copied"]);
        connect(&scope, "./copied", peer);

        // Events are matched in order: once this alert is there, the ones above would be.
        let chain = Chain {
            compiler: "gcc",
            name: "last",
            listen: "127.0.0.1:0",
        };
        act(&scope, &mut daemon, &chain);
        let ended = daemon.stop();
        println!(
            "{tier}: {} alert after three near misses and one chain",
            ended.lines.len()
        );
        assert_eq!(ended.lines.len(), 1, "{tier}: {:#?}", ended.lines);
    }
}
