//! The drop-ins of the package under the real unit: the one that grants leave to kill, and the one that opens the network.
//!
//! In: a container with the package installed. Out: whether a process is killed exactly when settings and drop-in both say so, and
//! what each drop-in costs the sandbox. Must never ask for a process whose number differs inside and outside the container without
//! saying so: the kernel tells the outer one.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;

const RULE: &str = r#"[rule]
rule_id = "00000000-0000-4000-8000-0000000000f0"
name = "Not Wanted"
type = "eql"
query = 'process where event.action == "exec" and process.name == "victim"'

[[actions]]
action = "kill_process"
"#;

/// Runs a program and tells its number and the signal that ended it. With `same` before it, under one number inside of the
/// container and outside, as everything has on a host.
const RUN: &str = r#"#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int same = argc > 1 && strcmp(argv[1], "same") == 0;
    for (pid_t number = 30000; number > 1000; number--) {
        pid_t both[2] = { number, number };
        struct clone_args how = { .exit_signal = SIGCHLD };
        if (same) {
            how.set_tid = (uintptr_t)both;
            how.set_tid_size = 2;
        }
        long child = syscall(SYS_clone3, &how, sizeof how);
        if (child == 0) {
            execv(argv[1 + same], argv + 1 + same);
            _exit(127);
        }
        if (child > 0) {
            int status;
            waitpid(child, &status, 0);
            printf("%ld %d\n", child, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    perror("clone3");
    return 1;
}
"#;

/// Largest exposure, in tenths, that `systemd-analyze security` may find of the installed unit; with the network open.
const EXPOSURE_MAX: u32 = 25;
const EXPOSURE_MAX_NETWORK: u32 = 32;

/// A dry run, leave by settings alone, leave by the drop-in, too; each with a process that a rule wants killed.
pub(super) fn kills(container: &Container) -> Result<()> {
    let exchange = container.exchange();
    fs::write(exchange.join("not-wanted.toml"), RULE)?;
    fs::write(exchange.join("run.c"), RUN)?;
    container.run(
        "mkdir -p /root/response /etc/eql-sensor/conf.d\n\
         gcc -o /root/response/run /exchange/run.c\n\
         ln -s /bin/sleep /root/response/victim\n\
         install -D -m 644 -t /etc/eql-sensor/rules.d /exchange/not-wanted.toml\n\
         printf '[response]\\nenabled = true\\n' > /etc/eql-sensor/conf.d/50-response.toml\n\
         systemctl reload eql-sensor",
    )?;
    ensure!(victim(container, "same", "dry_run")? == 0, "not a dry run");
    container.run(
        "printf '[response]\\nenabled = true\\ndry_run = false\\n' > /etc/eql-sensor/conf.d/50-response.toml\n\
         systemctl reload eql-sensor",
    )?;
    ensure!(
        victim(container, "same", "failed")? == 0,
        "killed without the drop-in"
    );
    with_drop_in(container, "response")?;
    ensure!(victim(container, "same", "killed")? == 9, "not killed");
    // Its number is another process's here, or nobody's.
    ensure!(
        victim(container, "", "ended")? == 0,
        "killed by the number of another"
    );
    let exposure = exposure(container, EXPOSURE_MAX)?;
    println!("    with leave to kill: {exposure}");
    container.run(
        "rm /etc/eql-sensor/rules.d/not-wanted.toml /etc/eql-sensor/conf.d/50-response.toml\n\
         rm /etc/systemd/system/eql-sensor.service.d/response.conf\n\
         systemctl daemon-reload\n\
         systemctl restart eql-sensor",
    )?;
    Ok(())
}

/// The network is the service's own, until the drop-in says otherwise.
pub(super) fn reaches_the_network(container: &Container) -> Result<()> {
    let networks = "readlink /proc/1/ns/net; readlink /proc/$(systemctl show --value -p MainPID eql-sensor)/ns/net";
    let is_one = |text: &str| text.lines().next() == text.lines().nth(1);
    let apart = container.run(networks)?;
    ensure!(!is_one(&apart), "not apart: {apart}");
    println!("    as shipped: {}", exposure(container, EXPOSURE_MAX)?);
    with_drop_in(container, "network-output")?;
    let shared = container.run(networks)?;
    ensure!(is_one(&shared), "apart: {shared}");
    let exposure = exposure(container, EXPOSURE_MAX_NETWORK)?;
    println!("    with the network open: {exposure}");
    container.run(
        "rm /etc/systemd/system/eql-sensor.service.d/network-output.conf\n\
         systemctl daemon-reload\n\
         systemctl restart eql-sensor",
    )?;
    Ok(())
}

fn with_drop_in(container: &Container, name: &str) -> Result<()> {
    container.run(&format!(
        "install -D -m 644 -t /etc/systemd/system/eql-sensor.service.d /usr/share/eql-sensor/drop-ins/{name}.conf\n\
         systemctl daemon-reload\n\
         systemctl restart eql-sensor"
    ))?;
    Ok(())
}

/// Runs a victim and waits for word of it, in the journal and in the file. Tells the signal that ended it, 0 for none.
fn victim(container: &Container, same: &str, outcome: &str) -> Result<u32> {
    let ended = container.run(&format!(
        "systemd-run --quiet --wait --pipe --collect /root/response/run {same} /root/response/victim 3"
    ))?;
    let (number, signal) = ended.trim().split_once(' ').context("two numbers")?;
    let mut of_it = format!("SENSOR_RESPONSE={outcome}");
    if !same.is_empty() {
        of_it += &format!(" PROCESS_PID={number}");
    }
    let found = container.wait_for(
        &format!("journalctl --no-pager --all -o json {of_it} | grep ."),
        &format!("word of {outcome} in the journal"),
    )?;
    let entry: Value = serde_json::from_str(found.lines().next().unwrap_or_default())?;
    println!("    {}", entry["MESSAGE"].as_str().unwrap_or_default());
    container.wait_for(
        &format!("grep -F '\"result\":\"{outcome}\"' /var/log/eql-sensor/alerts.jsonl"),
        &format!("word of {outcome} in the file"),
    )?;
    Ok(signal.parse()?)
}

/// What `systemd-analyze security` makes of the unit as it runs; an error when it is more than so many tenths.
fn exposure(container: &Container, max: u32) -> Result<String> {
    let found = container.run(&format!(
        "systemd-analyze security --no-pager --threshold={max} eql-sensor.service"
    ))?;
    let last = found.lines().last().unwrap_or_default();
    Ok(last.trim_start_matches(['→', ' ']).to_owned())
}
