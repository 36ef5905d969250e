//! Name lookups, UDP sockets that are given a peer, and connects that the host itself refuses.
//!
//! In: a C program that is alone in a network namespace, with a name server of its own on port 53. Out: its events, each with every
//! field compared with what the program says it did. Must never ask a name server outside of that namespace.

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, text};
use crate::loss::Counts;
use crate::network::{build, of_category};
use crate::scope::Scope;
use crate::tiers;

/// Prints what must come of what it does: lookups, then what is not about names.
const LOOKUPS: &str = r#"#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #x, strerror(errno)); exit(1); } } while (0)
enum { A = 1, TXT = 16, AAAA = 28 };

typedef struct sockaddr_storage address;

static address make(const char *text, int port)
{
    address a = { 0 };
    if (inet_pton(AF_INET, text, &((struct sockaddr_in *)&a)->sin_addr) == 1) {
        a.ss_family = AF_INET;
        ((struct sockaddr_in *)&a)->sin_port = htons(port);
    } else {
        CHECK(inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&a)->sin6_addr) == 1);
        a.ss_family = AF_INET6;
        ((struct sockaddr_in6 *)&a)->sin6_port = htons(port);
    }
    return a;
}

static int open_socket(const address *a, int type)
{
    int fd = socket(a->ss_family, type, 0);
    CHECK(fd >= 0);
    return fd;
}

static int to_server(const char *text, int type)
{
    address a = make(text, 53);
    int fd = open_socket(&a, type);
    CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static int query(unsigned char *out, int id, const char *name, int type)
{
    unsigned char head[12] = { id >> 8, id, 1, 0, 0, 1 }, *p = out;
    memcpy(p, head, 12);
    p += 12;
    while (*name) {
        int length = strcspn(name, ".");
        *p++ = length;
        memcpy(p, name, length);
        p += length;
        name += length + (name[length] == '.');
    }
    *p++ = 0;
    *p++ = type >> 8;
    *p++ = type;
    *p++ = 0;
    *p++ = 1;
    return p - out;
}

/* What the server says to a query: two addresses; or that there is no such name; or an answer that is broken; or noise. */
static int reply(unsigned char *m, int length)
{
    static const unsigned char alias[] = { 0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, 'c', 0xc0, 12 };
    static const unsigned char four[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7 };
    static const unsigned char six[] = { 0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 9, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7 };
    static const unsigned char broken[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 1, 2, 3, 4 };
    int first = m[13], type = m[length - 3];
    m[2] = 0x81;
    m[3] = 0x80;
    if (first == 'n') {
        m[3] |= 3;
        return length;
    }
    if (first == 'j') {
        memset(m, 0xc0, 64);
        return 64;
    }
    if (first == 'b') {
        m[7] = 2;
        memcpy(m + length, four, sizeof four);
        memcpy(m + length + sizeof four, broken, sizeof broken);
        return length + sizeof four + sizeof broken;
    }
    m[7] = 2;
    memcpy(m + length, alias, sizeof alias);
    length += sizeof alias;
    const unsigned char *what = type == AAAA ? six : four;
    int size = type == AAAA ? sizeof six : sizeof four;
    memcpy(m + length, what, size);
    return length + size;
}

static void serve(int ready)
{
    address four = make("127.0.0.1", 53), six = make("::1", 53), peer;
    int udp4 = open_socket(&four, SOCK_DGRAM), udp6 = open_socket(&six, SOCK_DGRAM), tcp = open_socket(&four, SOCK_STREAM);
    CHECK(bind(udp4, (struct sockaddr *)&four, sizeof four) == 0);
    CHECK(bind(udp6, (struct sockaddr *)&six, sizeof six) == 0);
    CHECK(bind(tcp, (struct sockaddr *)&four, sizeof four) == 0 && listen(tcp, 4) == 0);
    CHECK(write(ready, "", 1) == 1);
    fd_set wait;
    for (;;) {
        unsigned char m[1024];
        socklen_t size = sizeof peer;
        FD_ZERO(&wait);
        FD_SET(udp4, &wait);
        FD_SET(udp6, &wait);
        FD_SET(tcp, &wait);
        CHECK(select(16, &wait, NULL, NULL, NULL) > 0);
        for (int fd = 0; fd < 16; fd++) {
            if (!FD_ISSET(fd, &wait))
                continue;
            if (fd == tcp) {
                int to = accept(tcp, NULL, NULL), length;
                CHECK(to >= 0 && recv(to, m, 2, MSG_WAITALL) == 2);
                length = m[0] << 8 | m[1];
                CHECK(recv(to, m, length, MSG_WAITALL) == length);
                length = reply(m, length);
                unsigned char before[2] = { length >> 8, length };
                struct iovec parts[2] = { { before, 2 }, { m, length } };
                CHECK(writev(to, parts, 2) == length + 2);
                close(to);
                continue;
            }
            int length = recvfrom(fd, m, sizeof m, 0, (struct sockaddr *)&peer, &size);
            CHECK(length > 0);
            length = reply(m, length);
            CHECK(sendto(fd, m, length, 0, (struct sockaddr *)&peer, size) == length);
        }
    }
}

static void print_end(const address *a)
{
    char text[64];
    const unsigned char *ip = (void *)&((struct sockaddr_in6 *)a)->sin6_addr;
    static const unsigned char none[16];
    int family = a->ss_family, port = ntohs(((struct sockaddr_in *)a)->sin_port);
    if (family == AF_INET)
        ip = (void *)&((struct sockaddr_in *)a)->sin_addr;
    else if (IN6_IS_ADDR_V4MAPPED((struct in6_addr *)ip)) {
        ip += 12;
        family = AF_INET;
    }
    if (memcmp(ip, none, family == AF_INET ? 4 : 16) == 0)
        strcpy(text, "-");
    else
        inet_ntop(family, ip, text, sizeof text);
    printf(" %s %d", text, port);
}

/* One line: kind, pid, transport, both ends, then what is said. */
static void line(const char *kind, int fd, const char *server, int port, const char *rest)
{
    address own = { 0 }, peer = make(server, port);
    socklen_t size = sizeof own;
    int type;
    CHECK(getsockname(fd, (struct sockaddr *)&own, &size) == 0);
    size = sizeof type;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0);
    printf("%s %d %s", kind, getpid(), type == SOCK_STREAM ? "tcp" : "udp");
    print_end(&own);
    print_end(&peer);
    printf(" %s\n", rest);
    fflush(stdout);
}

static void request(int fd, const char *server, int id, const char *name, const char *type)
{
    char rest[128];
    snprintf(rest, sizeof rest, "%d %s %s", id, name, type);
    line("lookup_requested", fd, server, 53, rest);
}

static void result(int fd, const char *server, int id, const char *name, const char *type, const char *code, const char *ips)
{
    char rest[256];
    snprintf(rest, sizeof rest, "%d %s %s %s %s", id, name, type, code, ips);
    line("lookup_result", fd, server, 53, rest);
}

static void loopback_up(void)
{
    struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
    close(fd);
}

/* 198.51.100.0/24 is prohibited. */
static void prohibit(void)
{
    struct {
        struct nlmsghdr head;
        struct rtmsg route;
        struct rtattr attribute;
        unsigned char target[4];
    } ask = {
        { sizeof ask, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK },
        { .rtm_family = AF_INET, .rtm_dst_len = 24, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_PROHIBIT },
        { sizeof(struct rtattr) + 4, RTA_DST },
        { 198, 51, 100, 0 },
    };
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
    } said;
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    CHECK(fd >= 0 && send(fd, &ask, sizeof ask, 0) == sizeof ask);
    CHECK(recv(fd, &said, sizeof said, 0) > 0 && said.error.error == 0);
    close(fd);
}

int main(void)
{
    unsigned char m[1024], n[1024];
    int ready[2], length, other, fd;
    CHECK(unshare(CLONE_NEWNET) == 0);
    loopback_up();
    prohibit();
    CHECK(pipe(ready) == 0);
    int server = fork();
    CHECK(server >= 0);
    if (server == 0) {
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        serve(ready[1]);
    }
    CHECK(read(ready[0], m, 1) == 1);

    /* A peer, then send and receive; an attempt to receive too early makes nothing. */
    fd = to_server("127.0.0.1", SOCK_DGRAM);
    line("udp_connect", fd, "127.0.0.1", 53, "");
    CHECK(recv(fd, m, sizeof m, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    length = query(m, 11, "www.Example.org", A);
    CHECK(send(fd, m, length, 0) == length);
    request(fd, "127.0.0.1", 11, "www.Example.org", "A");
    CHECK(recv(fd, m, sizeof m, 0) > 0);
    result(fd, "127.0.0.1", 11, "www.Example.org", "A", "NOERROR", "192.0.2.7");
    /* No such name. */
    length = query(m, 12, "no.such.name", TXT);
    CHECK(send(fd, m, length, 0) == length);
    request(fd, "127.0.0.1", 12, "no.such.name", "TXT");
    CHECK(recvfrom(fd, m, sizeof m, 0, NULL, NULL) > 0);
    result(fd, "127.0.0.1", 12, "no.such.name", "TXT", "NXDOMAIN", "-");
    /* A broken answer tells what it can; noise tells nothing. */
    length = query(m, 13, "broken.example", A);
    CHECK(send(fd, m, length, 0) == length);
    request(fd, "127.0.0.1", 13, "broken.example", "A");
    CHECK(recv(fd, m, sizeof m, 0) > 0);
    result(fd, "127.0.0.1", 13, "broken.example", "A", "NOERROR", "192.0.2.7");
    length = query(m, 14, "junk.example", A);
    CHECK(send(fd, m, length, 0) == length);
    request(fd, "127.0.0.1", 14, "junk.example", "A");
    CHECK(recv(fd, m, sizeof m, 0) > 0);
    close(fd);

    /* As the C library does: both queries in one call. */
    fd = to_server("127.0.0.1", SOCK_DGRAM | SOCK_NONBLOCK);
    line("udp_connect", fd, "127.0.0.1", 53, "");
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    length = query(m, 21, "two.example.org", A);
    other = query(n, 22, "two.example.org", AAAA);
    struct iovec one = { m, length }, two = { n, other };
    struct mmsghdr both[2] = { { { .msg_iov = &one, .msg_iovlen = 1 } }, { { .msg_iov = &two, .msg_iovlen = 1 } } };
    CHECK(sendmmsg(fd, both, 2, 0) == 2);
    request(fd, "127.0.0.1", 21, "two.example.org", "A");
    request(fd, "127.0.0.1", 22, "two.example.org", "AAAA");
    address from;
    socklen_t size = sizeof from;
    CHECK(recvfrom(fd, m, sizeof m, 0, (struct sockaddr *)&from, &size) > 0);
    result(fd, "127.0.0.1", 21, "two.example.org", "A", "NOERROR", "192.0.2.7");
    CHECK(recvfrom(fd, m, sizeof m, 0, (struct sockaddr *)&from, &size) > 0);
    result(fd, "127.0.0.1", 22, "two.example.org", "AAAA", "NOERROR", "2001:db8::7");
    close(fd);

    /* Without a peer; IPv4 from an IPv6 socket. */
    for (int mapped = 0; mapped < 2; mapped++) {
        const char *name = mapped ? "::ffff:127.0.0.1" : "127.0.0.1";
        address to = make(name, 53);
        fd = open_socket(&to, SOCK_DGRAM);
        length = query(m, 31 + mapped, "musl.example.org", A);
        CHECK(sendto(fd, m, length, 0, (struct sockaddr *)&to, sizeof to) == length);
        request(fd, name, 31 + mapped, "musl.example.org", "A");
        struct iovec into = { m, sizeof m };
        struct msghdr head = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &into, .msg_iovlen = 1 };
        CHECK(recvmsg(fd, &head, 0) > 0);
        result(fd, name, 31 + mapped, "musl.example.org", "A", "NOERROR", "192.0.2.7");
        close(fd);
    }

    /* IPv6, by write and read. */
    fd = to_server("::1", SOCK_DGRAM);
    line("udp_connect", fd, "::1", 53, "");
    length = query(m, 41, "go.example.org", AAAA);
    CHECK(write(fd, m, length) == length);
    request(fd, "::1", 41, "go.example.org", "AAAA");
    CHECK(read(fd, m, sizeof m) > 0);
    result(fd, "::1", 41, "go.example.org", "AAAA", "NOERROR", "2001:db8::7");
    close(fd);

    /* TCP, the length in a piece of its own. */
    fd = to_server("127.0.0.1", SOCK_STREAM);
    length = query(m, 51, "tcp.example.org", A);
    unsigned char before[2] = { length >> 8, length };
    struct iovec parts[2] = { { before, 2 }, { m, length } };
    struct msghdr head = { .msg_iov = parts, .msg_iovlen = 2 };
    CHECK(sendmsg(fd, &head, 0) == length + 2);
    request(fd, "127.0.0.1", 51, "tcp.example.org", "A");
    CHECK(recv(fd, before, 2, MSG_WAITALL) == 2);
    length = before[0] << 8 | before[1];
    CHECK(recv(fd, m, length, MSG_WAITALL) == length);
    result(fd, "127.0.0.1", 51, "tcp.example.org", "A", "NOERROR", "192.0.2.7");
    close(fd);

    /* Not lookups: noise to a name server, a query to another port, the same over a pair of sockets and into a file. */
    fd = to_server("127.0.0.1", SOCK_DGRAM);
    line("udp_connect", fd, "127.0.0.1", 53, "");
    CHECK(send(fd, "this is no query, it is only text", 33, 0) == 33);
    close(fd);
    address elsewhere = make("127.0.0.1", 5300);
    int deaf = open_socket(&elsewhere, SOCK_DGRAM);
    CHECK(bind(deaf, (struct sockaddr *)&elsewhere, sizeof elsewhere) == 0);
    fd = open_socket(&elsewhere, SOCK_DGRAM);
    length = query(m, 61, "elsewhere.example.org", A);
    CHECK(connect(fd, (struct sockaddr *)&elsewhere, sizeof elsewhere) == 0);
    line("udp_connect", fd, "127.0.0.1", 5300, "");
    CHECK(send(fd, m, length, 0) == length);
    /* Taking the peer away is no connect. */
    struct sockaddr none = { AF_UNSPEC };
    CHECK(connect(fd, &none, sizeof none) == 0);
    CHECK(sendto(fd, m, length, 0, (struct sockaddr *)&elsewhere, sizeof elsewhere) == length);
    close(fd);
    int pair[2], file = open("query", O_RDWR | O_CREAT, 0600);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(send(pair[0], m, length, 0) == length && read(pair[1], n, sizeof n) == length);
    CHECK(file >= 0 && write(file, m, length) == length);
    close(file);

    /* Refused here; and what is not refused but only impossible. */
    address denied = make("198.51.100.9", 443), nowhere = make("203.0.113.9", 443);
    fd = open_socket(&denied, SOCK_STREAM);
    CHECK(connect(fd, (struct sockaddr *)&denied, sizeof denied) < 0 && errno == EACCES);
    line("connection_denied", fd, "198.51.100.9", 443, "");
    CHECK(connect(fd, (struct sockaddr *)&nowhere, sizeof nowhere) < 0 && errno == ENETUNREACH);
    close(fd);
    fd = open_socket(&denied, SOCK_DGRAM);
    CHECK(connect(fd, (struct sockaddr *)&denied, sizeof denied) < 0 && errno == EACCES);
    line("connection_denied", fd, "198.51.100.9", 443, "");
    CHECK(connect(fd, (struct sockaddr *)&nowhere, sizeof nowhere) < 0 && errno == ENETUNREACH);
    close(fd);

    CHECK(kill(server, SIGKILL) == 0 && waitpid(server, NULL, 0) == server);
    return 0;
}
"#;

/// What an event must carry that one printed line describes.
fn expected(line: &str) -> Value {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [
        action,
        pid,
        transport,
        source,
        source_port,
        target,
        target_port,
        said @ ..,
    ] = words.as_slice()
    else {
        panic!("not an event: {line}");
    };
    let number = |text: &str| text.parse::<u64>().unwrap();
    let end = |ip: &str, port: &str| {
        let mut end = json!({});
        if ip != "-" {
            end = json!({"ip": ip, "address": ip});
        }
        if port != "0" {
            end["port"] = number(port).into();
        }
        end
    };
    let version = if target.contains(':') { "ipv6" } else { "ipv4" };
    let mut network = json!({"direction": "egress", "transport": transport, "type": version});
    let (categories, types) = match *action {
        "udp_connect" => (json!(["network"]), json!(["connection"])),
        "connection_denied" => (json!(["network"]), json!(["denied"])),
        _ => (json!(["network", "dns"]), json!(["protocol", "info"])),
    };
    let mut dns = Value::Null;
    if let [id, name, kind, rest @ ..] = said {
        network["protocol"] = "dns".into();
        dns = json!({
            "id": id,
            "op_code": "QUERY",
            "question": {"name": name, "type": kind, "class": "IN"},
            "type": if rest.is_empty() { "query" } else { "answer" },
        });
        if let [code, ips] = rest {
            dns["response_code"] = (*code).into();
            dns["Ext"] = json!({"status": if *code == "NXDOMAIN" { 3 } else { 0 }});
            if *ips != "-" {
                dns["resolved_ip"] = json!([ips]);
            }
        }
    }
    json!({
        "event": {
            "action": action,
            "category": categories,
            "type": types,
            "dataset": "endpoint.events.network",
            "outcome": if *action == "connection_denied" { "failure" } else { "success" },
        },
        "process": {"pid": number(pid), "name": "lookups"},
        "source": end(source, source_port),
        "destination": end(target, target_port),
        "network": network,
        "dns": dns,
    })
}

/// The part of an event that `expected` speaks of; source, destination, network and dns whole.
fn shown(event: &Value) -> Value {
    let mut source = at(event, "source").clone();
    if source.is_null() {
        source = json!({});
    }
    json!({
        "event": {
            "action": at(event, "event.action"),
            "category": at(event, "event.category"),
            "type": at(event, "event.type"),
            "dataset": at(event, "event.dataset"),
            "outcome": at(event, "event.outcome"),
        },
        "process": {"pid": at(event, "process.pid"), "name": at(event, "process.name")},
        "source": source,
        "destination": at(event, "destination"),
        "network": at(event, "network"),
        "dns": at(event, "dns"),
    })
}

#[test]
fn lookups_are_seen_on_both_ways() {
    for tier in tiers() {
        let scope = Scope::new("lookups");
        build(&scope, "lookups", LOOKUPS);
        let daemon = Daemon::record_only(&scope, &tier, "process,network", &[]);
        let (_, output) = scope.try_run(&["./lookups"]);
        let ended = daemon.stop();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        let printed = String::from_utf8(output.stdout).unwrap();
        // The lookup over TCP has a connection besides, which is not of interest here.
        let tcp = [
            "connection_attempted",
            "connection_accepted",
            "disconnect_received",
        ];
        let mut events = of_category(&ended.lines, "network");
        events.retain(|event| !tcp.contains(&text(event, "event.action")));
        for (event, line) in events.iter().zip(printed.lines()) {
            assert_eq!(shown(event), expected(line), "{tier}: {line}");
        }
        let actions: Vec<_> = events.iter().map(|e| text(e, "event.action")).collect();
        let lines = printed.lines().count();
        assert_eq!(actions.len(), lines, "{tier}: {actions:#?}\n{printed}");
        let lookups = of_category(&ended.lines, "dns");
        assert!(lookups.len() > 12, "{tier}: {}", lookups.len());
        let counts = Counts::of(&ended.log);
        assert_eq!(
            (counts.received, counts.lost),
            (counts.submitted, 0),
            "{tier}: {counts:?}"
        );
        println!("{tier}: {lines} events, {} lookups", lookups.len());
    }
}
