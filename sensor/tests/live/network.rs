//! Connections made, accepted and closed, and what looks like them.
//!
//! In: a C program with real sockets on loopback. Out: its network events, each with every field compared with what the program
//! says it did. Must never take silence for granted: beside every act stands one that must leave no event.

use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

/// Prints the events that must come of what it does, in order: action, pid, direction, source, destination.
const SOCKETS: &str = r#"#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #x, strerror(errno)); exit(1); } } while (0)

typedef struct sockaddr_storage address;

static address loopback(int family, const char *text, int port)
{
    address a = { 0 };
    a.ss_family = family;
    if (family == AF_INET) {
        CHECK(inet_pton(AF_INET, text, &((struct sockaddr_in *)&a)->sin_addr) == 1);
        ((struct sockaddr_in *)&a)->sin_port = htons(port);
    } else {
        CHECK(inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&a)->sin6_addr) == 1);
        ((struct sockaddr_in6 *)&a)->sin6_port = htons(port);
    }
    return a;
}

static address own(int fd)
{
    address a = { 0 };
    socklen_t length = sizeof a;
    CHECK(getsockname(fd, (struct sockaddr *)&a, &length) == 0);
    return a;
}

static int port_of(const address *a)
{
    return ntohs(a->ss_family == AF_INET ? ((struct sockaddr_in *)a)->sin_port : ((struct sockaddr_in6 *)a)->sin6_port);
}

static void print(const address *a)
{
    char text[64];
    const void *ip = &((struct sockaddr_in6 *)a)->sin6_addr;
    if (a->ss_family == AF_INET)
        ip = &((struct sockaddr_in *)a)->sin_addr;
    else if (IN6_IS_ADDR_V4MAPPED((struct in6_addr *)ip)) {
        inet_ntop(AF_INET, (char *)ip + 12, text, sizeof text);
        printf(" %s %d", text, port_of(a));
        return;
    }
    inet_ntop(a->ss_family, ip, text, sizeof text);
    printf(" %s %d", text, port_of(a));
}

static void event(const char *action, int ingress, const address *from, const address *to)
{
    printf("%s %d %s", action, getpid(), ingress ? "ingress" : "egress");
    print(from);
    print(to);
    printf("\n");
    fflush(stdout);
}

static int listening(int family, const char *text, address *at)
{
    int fd = socket(family, SOCK_STREAM, 0);
    address a = loopback(family, text, 0);
    CHECK(fd >= 0);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
    CHECK(listen(fd, 8) == 0);
    *at = own(fd);
    return fd;
}

/* Connects to a listener, accepts and closes both ends: `shut` names what happens in between. */
static void meet(int listener, const address *to, int family, int shut)
{
    int fd = socket(family, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK(connect(fd, (struct sockaddr *)to, sizeof *to) == 0);
    address from = own(fd), server;
    event("connection_attempted", 0, &from, to);
    int peer = shut == 4 ? accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) : accept(listener, NULL, NULL);
    CHECK(peer >= 0);
    server = own(peer);
    event("connection_accepted", 1, &from, &server);
    if (shut == 1) {
        /* Both directions ended before the close. */
        char byte;
        CHECK(shutdown(fd, SHUT_WR) == 0);
        CHECK(read(peer, &byte, 1) == 0);
        CHECK(shutdown(peer, SHUT_RDWR) == 0);
        CHECK(read(fd, &byte, 1) == 0);
    }
    if (shut == 2) {
        /* The peer resets; the other side only notices. */
        struct linger none = { 1, 0 };
        CHECK(setsockopt(peer, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0);
        CHECK(close(peer) == 0);
        event("disconnect_received", 1, &from, &server);
        char byte;
        CHECK(read(fd, &byte, 1) < 0 && errno == ECONNRESET);
        CHECK(close(fd) == 0);
        event("disconnect_received", 0, &from, to);
        return;
    }
    if (shut == 3) {
        /* The process that has the last descriptor closes. */
        int child = fork();
        CHECK(child >= 0);
        int held = fd;
        if (child == 0) {
            CHECK(close(peer) == 0);
            CHECK(close(held) == 0);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    int other = dup(fd);
    CHECK(other >= 0);
    /* Not the end of it: there is another descriptor. */
    CHECK(close(fd) == 0);
    CHECK(close(other) == 0);
    event("disconnect_received", 0, &from, to);
    CHECK(close(peer) == 0);
    event("disconnect_received", 1, &from, &server);
}

static void refused(int blocking)
{
    int bound = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
    address at = loopback(AF_INET, "127.0.0.1", 0), to, from = { 0 };
    CHECK(bind(bound, (struct sockaddr *)&at, sizeof at) == 0);
    to = own(bound);
    CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    from = own(fd);
    int failed = connect(fd, (struct sockaddr *)&to, sizeof to);
    CHECK(failed < 0 && (errno == ECONNREFUSED || errno == EINPROGRESS));
    event("connection_attempted", 0, &from, &to);
    struct pollfd wait = { .fd = fd, .events = POLLOUT };
    CHECK(poll(&wait, 1, 5000) == 1);
    close(fd);
    close(bound);
}

static void nonblocking(int listener, const address *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(connect(fd, (struct sockaddr *)to, sizeof *to) == 0 || errno == EINPROGRESS);
    struct pollfd wait = { .fd = fd, .events = POLLOUT };
    CHECK(poll(&wait, 1, 5000) == 1);
    address from = own(fd);
    event("connection_attempted", 0, &from, to);
    int peer = accept(listener, NULL, NULL);
    CHECK(peer >= 0);
    address server = own(peer);
    event("connection_accepted", 1, &from, &server);
    close(fd);
    event("disconnect_received", 0, &from, to);
    close(peer);
    event("disconnect_received", 1, &from, &server);
}

int main(void)
{
    address four, six, mapped;
    int listener = listening(AF_INET, "127.0.0.1", &four), listener6 = listening(AF_INET6, "::1", &six);
    int any = listening(AF_INET6, "::", &mapped);

    /* None of these makes an event. */
    int lonely = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(close(lonely) == 0);
    CHECK(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    CHECK(accept(listener, NULL, NULL) < 0 && errno == EAGAIN);
    CHECK(accept4(listener, NULL, NULL, 0) < 0 && errno == EAGAIN);
    CHECK(fcntl(listener, F_SETFL, 0) == 0);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    close(pair[0]);
    close(pair[1]);

    meet(listener, &four, AF_INET, 0);
    meet(listener6, &six, AF_INET6, 0);
    mapped = loopback(AF_INET6, "::ffff:127.0.0.1", port_of(&mapped));
    meet(any, &mapped, AF_INET6, 0);
    meet(listener, &four, AF_INET, 1);
    meet(listener, &four, AF_INET, 2);
    meet(listener, &four, AF_INET, 3);
    meet(listener6, &six, AF_INET6, 4);
    nonblocking(listener, &four);
    refused(1);
    refused(0);

    /* Left open: the end of the process closes it. A listener is no connection, even with one waiting in it. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&four, sizeof four) == 0);
    address from = own(fd);
    event("connection_attempted", 0, &from, &four);
    event("disconnect_received", 0, &from, &four);
    return 0;
}
"#;

/// Builds an actor in the scope's folder.
pub(crate) fn build(scope: &Scope, name: &str, source: &str) {
    let file = format!("{name}.c");
    scope.write(&file, source);
    let built = Command::new("gcc")
        .args(["-Wall", "-Werror", &file, "-o", name])
        .current_dir(scope.folder())
        .status()
        .unwrap();
    assert!(built.success());
}

/// Events of a category, in order.
pub(crate) fn of_category<'a>(events: &'a [Value], category: &str) -> Vec<&'a Value> {
    let is = |event: &&Value| {
        let categories = at(event, "event.category").as_array();
        categories.is_some_and(|all| all.iter().any(|one| one == category))
    };
    events.iter().filter(is).collect()
}

/// What an event must carry that one printed line describes.
fn expected(line: &str, tier_knows_port: bool) -> Value {
    let words: Vec<&str> = line.split(' ').collect();
    let [
        action,
        pid,
        direction,
        source,
        source_port,
        target,
        target_port,
    ] = words.as_slice()
    else {
        panic!("not an event: {line}");
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    let end = |ip: &str, port: &str| json!({"ip": ip, "port": number(port), "address": ip});
    let mut from = end(source, source_port);
    if !tier_knows_port {
        from.as_object_mut().unwrap().remove("port");
    }
    let ended = *action == "disconnect_received";
    let version = if source.contains(':') { "ipv6" } else { "ipv4" };
    json!({
        "event": {
            "action": action,
            "category": ["network"],
            "type": [if ended { "end" } else { "start" }],
            "dataset": "endpoint.events.network",
            "outcome": "success",
        },
        "process": {"pid": number(pid), "name": "sockets"},
        "source": from,
        "destination": end(target, target_port),
        "network": {"direction": direction, "transport": "tcp", "type": version},
    })
}

/// The part of an event that `expected` speaks of; source, destination and network whole.
fn shown(event: &Value) -> Value {
    json!({
        "event": {
            "action": at(event, "event.action"),
            "category": at(event, "event.category"),
            "type": at(event, "event.type"),
            "dataset": at(event, "event.dataset"),
            "outcome": at(event, "event.outcome"),
        },
        "process": {"pid": at(event, "process.pid"), "name": at(event, "process.name")},
        "source": at(event, "source"),
        "destination": at(event, "destination"),
        "network": at(event, "network"),
    })
}

#[test]
fn connections_are_seen_to_begin_and_end() {
    for tier in tiers() {
        let scope = Scope::new("sockets");
        build(&scope, "sockets", SOCKETS);
        let daemon = Daemon::record_only(&scope, &tier, "process,network", &[]);
        let (_, output) = scope.try_run(&["./sockets"]);
        let ended = daemon.stop();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let printed = String::from_utf8(output.stdout).unwrap();
        let events = of_category(&ended.lines, "network");
        for (event, line) in events.iter().zip(printed.lines()) {
            // Where a socket that bound no port is only seen to begin, the kernel has not chosen it yet.
            let attempted = text(event, "event.action") == "connection_attempted";
            let known = !attempted || tier == "trampolines" || !at(event, "source.port").is_null();
            assert_eq!(shown(event), expected(line, known), "{tier}: {line}");
        }
        let actions: Vec<_> = events.iter().map(|e| text(e, "event.action")).collect();
        assert_eq!(
            actions.len(),
            printed.lines().count(),
            "{tier}: {actions:#?}"
        );
        let counts = Counts::of(&ended.log);
        assert_eq!(
            (counts.received, counts.lost),
            (counts.submitted, 0),
            "{tier}: {counts:?}"
        );
        println!(
            "{tier}: {} network events, every field as done",
            events.len()
        );
    }
}
