//! Fields that say where a process belongs: terminal, leaders, environment, capabilities, control group.
//!
//! In: a session that a program named `sshd` opens on a pseudo terminal, programs with chosen rights and variables, one in a
//! control group named like a container's. Out: their events, value by value. Must never depend on the session, terminal or
//! rights that the tests themselves are run with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, is, number, text};
use crate::scope::Scope;
use crate::tiers;

/// Opens a session on a new pseudo terminal and runs `./login` in it, which runs a job in a process group of its own.
const SERVICE: &str = r#"#define _XOPEN_SOURCE 600
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int status_of(pid_t child)
{
    int status = 1;
    return child < 0 || waitpid(child, &status, 0) != child ? 1 : status != 0;
}

int main(int argc, char **argv)
{
    char *const variables[] = { "EQL_ONE=1", "EQL_TWO=zwei=2", "SECRET=hidden", NULL };
    char *const job[] = { "sh", "-c", ": > made", NULL };
    char *const login[] = { "login", "on terminal", NULL };
    (void)argc;
    const char *base = strrchr(argv[0], '/');
    if (!strcmp(base ? base + 1 : argv[0], "login")) {
        pid_t child = fork();
        if (child == 0) {
            setpgid(0, 0);
            execve("/bin/sh", job, variables);
            _exit(127);
        }
        return status_of(child);
    }
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master))
        return 2;
    const char *name = ptsname(master);
    printf("%s\n", name);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int slave;
        if (setsid() < 0 || (slave = open(name, O_RDWR)) < 0 || ioctl(slave, TIOCSCTTY, 0))
            _exit(126);
        execve("./login", login, variables);
        _exit(127);
    }
    return status_of(child);
}
"#;

fn build(scope: &Scope, source: &str, name: &str) {
    scope.write("program.c", source);
    let built = std::process::Command::new("gcc")
        .args(["-Wall", "-Werror", "program.c", "-o", name])
        .current_dir(scope.folder())
        .status()
        .unwrap();
    assert!(built.success());
}

/// Settings that ask for the variables of these tests.
fn settings(scope: &Scope) -> PathBuf {
    scope.write(
        "eql-sensor.toml",
        "[processes]\nenvironment = [\"eql_*\"]\n",
    )
}

fn exec_of<'a>(lines: &'a [Value], name: &str, argument: &str) -> &'a Value {
    let found = lines.iter().find(|event| {
        is(event, "process", "exec")
            && text(event, "process.name") == name
            && at(event, "process.args")
                .as_array()
                .is_some_and(|args| args.contains(&json!(argument)))
    });
    found.unwrap_or_else(|| panic!("no exec of {name} with {argument}: {lines:#?}"))
}

fn expect(event: &Value, expected: &[(&str, Value)]) {
    for (path, value) in expected {
        assert_eq!(at(event, path), value, "{path} in {event:#}");
    }
}

#[test]
fn a_session_on_a_terminal_is_told_with_its_leaders() {
    for tier in tiers() {
        let scope = Scope::new("session");
        build(&scope, SERVICE, "sshd");
        fs::copy(scope.folder().join("sshd"), scope.folder().join("login")).unwrap();
        let settings = settings(&scope);
        let config = ["--config", settings.to_str().unwrap()];
        let daemon = Daemon::record_only(&scope, &tier, "process,creation", &config);
        let (service_pid, output) = scope.try_run(&["./sshd"]);
        assert!(output.status.success(), "{output:?}");
        let terminal = String::from_utf8(output.stdout).unwrap();
        let minor: u64 = terminal
            .trim()
            .strip_prefix("/dev/pts/")
            .unwrap()
            .parse()
            .unwrap();
        let lines = daemon.stop().lines;

        let service = exec_of(&lines, "sshd", "./sshd");
        let shell = fs::canonicalize("/bin/sh").unwrap();
        expect(service, &[("process.pid", json!(service_pid))]);
        let login = exec_of(&lines, "login", "on terminal");
        let (id, pid) = (at(login, "process.entity_id"), at(login, "process.pid"));
        let program = scope.folder().join("login");
        // The same for the leader itself and for what it runs.
        let leaders = [
            ("process.interactive", json!(true)),
            ("process.tty.char_device.major", json!(136 + minor / 256)),
            ("process.tty.char_device.minor", json!(minor % 256)),
            ("process.session_leader.pid", pid.clone()),
            ("process.session_leader.entity_id", id.clone()),
            ("process.session_leader.name", json!("login")),
            ("process.session_leader.executable", json!(program)),
            ("process.entry_leader.pid", pid.clone()),
            ("process.entry_leader.entity_id", id.clone()),
            ("process.entry_leader.name", json!("login")),
            ("process.entry_leader.executable", json!(program)),
            ("process.entry_leader.args", json!(["login", "on terminal"])),
            ("process.entry_leader.entry_meta.type", json!("sshd")),
            ("process.env_vars", json!(["EQL_ONE=1", "EQL_TWO=zwei=2"])),
        ];
        expect(login, &leaders);
        expect(
            login,
            &[
                ("process.parent.name", json!("sshd")),
                ("process.parent.pid", json!(service_pid)),
                (
                    "process.previous.executable",
                    json!(scope.folder().join("sshd")),
                ),
                ("process.entry_leader.same_as_process", json!(true)),
                ("process.session_leader.same_as_process", json!(true)),
                ("process.group_leader.same_as_process", json!(true)),
            ],
        );
        let job = exec_of(&lines, "sh", ": > made");
        expect(job, &leaders);
        expect(
            job,
            &[
                ("process.parent.interactive", json!(true)),
                ("process.group_leader.pid", at(job, "process.pid").clone()),
                (
                    "process.group_leader.entity_id",
                    at(job, "process.entity_id").clone(),
                ),
                ("process.group_leader.name", json!("sh")),
                ("process.group_leader.executable", json!(shell)),
                ("process.group_leader.same_as_process", json!(true)),
                ("process.session_leader.same_as_process", json!(false)),
                ("process.entry_leader.same_as_process", json!(false)),
            ],
        );
        let made = lines
            .iter()
            .find(|event| is(event, "file", "creation"))
            .unwrap();
        expect(
            made,
            &[
                ("file.path", json!(scope.folder().join("made"))),
                ("process.entry_leader.entity_id", id.clone()),
                ("process.session_leader.entity_id", id.clone()),
                (
                    "process.group_leader.entity_id",
                    at(job, "process.entity_id").clone(),
                ),
            ],
        );
        // Nobody asked for it.
        assert!(
            !lines
                .iter()
                .any(|event| event.to_string().contains("hidden"))
        );
    }
}

#[test]
fn rights_are_told_by_name() {
    for tier in tiers() {
        let scope = Scope::new("rights");
        let daemon = Daemon::record_only(&scope, &tier, "process,creation", &[]);
        scope.run(&[
            "setpriv",
            "--bounding-set",
            "-all,+net_raw,+kill",
            "/bin/true",
            "few",
        ]);
        scope.run(&[
            "setpriv",
            "--reuid",
            "4242",
            "--clear-groups",
            "/bin/true",
            "none",
        ]);
        let lines = daemon.stop().lines;
        let few = exec_of(&lines, "true", "few");
        let names = json!(["CAP_KILL", "CAP_NET_RAW"]);
        expect(
            few,
            &[
                ("process.thread.capabilities.effective", names.clone()),
                ("process.thread.capabilities.permitted", names),
            ],
        );
        let none = exec_of(&lines, "true", "none");
        expect(
            none,
            &[
                ("process.thread.capabilities.effective", Value::Null),
                ("process.thread.capabilities.permitted", Value::Null),
                ("user.id", json!("4242")),
                ("process.env_vars", Value::Null),
            ],
        );
    }
}

/// A control group below the test's own, removed at the end.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_container_is_told_by_its_control_group() {
    for tier in tiers() {
        let scope = Scope::new("container");
        let id = "c0ffee".repeat(11).split_at(64).0.to_owned();
        let below = Below(scope.cgroup().join(format!("docker-{id}.scope")));
        fs::create_dir(&below.0).unwrap();
        let daemon = Daemon::record_only(&scope, &tier, "process,creation", &[]);
        let script = format!(
            "echo 0 > {}/cgroup.procs && exec sh -c '/bin/true inside; : > made'",
            below.0.display()
        );
        let pid = scope.run(&["sh", "-c", &script]);
        scope.run(&["/bin/true", "outside"]);
        let lines = daemon.stop().lines;
        let path = |cgroup: &Path| {
            let text = cgroup.to_str().unwrap();
            text.get(text.find("/eql-sensor-live-").unwrap()..)
                .unwrap()
                .to_owned()
        };
        let ends_with = |event: &Value, end: &str| {
            let found = text(event, "process.Ext.cgroup");
            assert!(found.ends_with(end), "{found} {end}");
        };
        let entry = exec_of(&lines, "sh", "/bin/true inside; : > made");
        let inside = exec_of(&lines, "true", "inside");
        for event in [entry, inside] {
            ends_with(event, &path(&below.0));
            expect(
                event,
                &[
                    ("container.id", json!(id)),
                    ("container.runtime", json!("docker")),
                    ("process.entry_leader.entry_meta.type", json!("container")),
                    ("process.entry_leader.pid", json!(pid)),
                    (
                        "process.entry_leader.entity_id",
                        at(entry, "process.entity_id").clone(),
                    ),
                ],
            );
        }
        let made = lines
            .iter()
            .find(|event| is(event, "file", "creation"))
            .unwrap();
        expect(made, &[("container.id", json!(id))]);
        let outside = exec_of(&lines, "true", "outside");
        ends_with(outside, &path(scope.cgroup()));
        expect(outside, &[("container.id", Value::Null)]);
        let namespace = fs::metadata("/proc/self/ns/mnt").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&namespace);
        assert_eq!(number(outside, "process.Ext.mount_namespace"), Some(inode));
    }
}

#[test]
fn a_long_environment_is_completed_while_the_process_lives() {
    for tier in tiers() {
        let scope = Scope::new("environment");
        let settings = settings(&scope);
        let config = ["--config", settings.to_str().unwrap()];
        let mut daemon = Daemon::record_only(&scope, &tier, "process", &config);
        let mut command = scope.command(&["cat", "-"]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        // More than a record takes, with the variable asked for at the end of it: the shell passes them on in this order.
        for i in 0..40 {
            command.env(format!("FILL_{i:02}"), "x".repeat(1000));
        }
        command
            .env("EQL_Z", "last")
            .stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let event = daemon.wait_for("exec of cat", |event| {
            is(event, "process", "exec") && text(event, "process.name") == "cat"
        });
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        expect(
            &event,
            &[
                ("process.env_vars", json!(["EQL_Z=last"])),
                ("event.Ext.truncated", Value::Null),
                ("event.Ext.incomplete", Value::Null),
            ],
        );
        daemon.stop();
    }
}
