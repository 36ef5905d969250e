//! A process in a container's surroundings: mount namespace, overlay, bind mount, root and cgroup of its own.
//!
//! In: a static program below `chroot` in all of these. Out: its events, with paths as it sees them itself. Must never accept
//! a second event for one act, which a layered file system could make.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

/// Creates a file in the overlay and one in the bind mount, changes one that the lower layer has, runs itself, connects.
const ACTOR: &str = r#"#include <arpa/inet.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int touch(const char *path, int flags)
{
    int fd = open(path, flags | O_CREAT | O_WRONLY, 0600);
    return fd < 0 || write(fd, "x", 1) != 1 || close(fd) != 0;
}

int main(int argc, char **argv)
{
    int status;
    struct sockaddr_in peer = { .sin_family = AF_INET };
    if (argc != 2)
        return 0;
    if (touch("/made", O_EXCL) || touch("/data/bound", O_EXCL) || touch("/lower", O_TRUNC))
        return 2;
    if (vfork() == 0) {
        execl("/actor", "/actor", "leaf", "of", (char *)0);
        _exit(127);
    }
    if (wait(&status) < 0 || status != 0)
        return 3;
    peer.sin_port = htons(atoi(argv[1]));
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 || connect(fd, (void *)&peer, sizeof peer) != 0;
}
"#;

/// `$1`: the cgroup to enter, `$2`: a port that listens.
const SCRIPT: &str = r#"
set -e
echo 0 > "$1/cgroup.procs"
mount -t tmpfs box box
cd box
mkdir lower upper work merged outside
cp ../actor lower/actor
echo there > lower/lower
mount -t overlay box -o lowerdir=lower,upperdir=upper,workdir=work merged
mkdir merged/data
mount --bind outside merged/data
exec chroot merged /actor "$2"
"#;

/// Kinds of the acts that are looked at.
const EVENTS: &str = "process,creation,connection_attempted";

#[test]
fn a_process_in_a_container_is_seen_as_it_sees_itself() {
    for tier in tiers() {
        let scope = Scope::new("container");
        let source = scope.write("actor.c", ACTOR);
        let built = Command::new("gcc")
            .args(["-static", "-o"])
            .args([&source.with_extension(""), &source])
            .status()
            .unwrap();
        assert!(built.success());
        let script = scope.write("script", SCRIPT);
        fs::create_dir(scope.folder().join("box")).unwrap();
        let cgroup = scope.cgroup().join("box");
        fs::create_dir(&cgroup).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        let daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        let actor = scope.run(&[
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            script.to_str().unwrap(),
            cgroup.to_str().unwrap(),
            &port.to_string(),
        ]);
        let ended = daemon.stop();
        fs::remove_dir(&cgroup).unwrap();
        let counts = Counts::of(&ended.log);
        assert_eq!(
            (counts.received, counts.lost),
            (counts.submitted, 0),
            "{tier}"
        );

        let own: Vec<_> = ended
            .lines
            .iter()
            .filter(|event| text(event, "process.executable") == "/actor")
            .collect();
        let of = |category: &str, action: &str| -> Vec<_> {
            let all = own.iter().copied();
            all.filter(|event| is(event, category, action)).collect()
        };
        let execs = of("process", "exec");
        assert_eq!(execs.len(), 2, "{tier}: {execs:#?}");
        assert_eq!(number(execs[0], "process.pid"), Some(u64::from(actor)));
        assert_eq!(
            *at(execs[0], "process.args"),
            json!(["/actor", port.to_string()])
        );
        assert_eq!(text(execs[0], "process.working_directory"), "/");
        assert_eq!(
            *at(execs[1], "process.args"),
            json!(["/actor", "leaf", "of"])
        );
        assert_eq!(
            number(execs[1], "process.parent.pid"),
            Some(u64::from(actor))
        );
        assert_eq!(text(execs[1], "process.parent.executable"), "/actor");
        let created: Vec<_> = of("file", "creation")
            .iter()
            .map(|event| text(event, "file.path"))
            .collect();
        // Not `/lower`, which was there, in the layer below.
        assert_eq!(created, ["/made", "/data/bound"], "{tier}");
        let connects = of("network", "connection_attempted");
        assert_eq!(connects.len(), 1, "{tier}: {connects:#?}");
        assert_eq!(
            number(connects[0], "destination.port"),
            Some(u64::from(port))
        );
        assert_eq!(number(connects[0], "process.pid"), Some(u64::from(actor)));
    }
}
