//! Reloads that must change nothing.
//!
//! In: a container with the package installed. Out: whether `systemctl reload` fails and the journal says where, ten times and more,
//! while a sequence is under way in the very rule that is broken. Must never leave settings or rules other than it found them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;

/// What is done to the files, and what the journal must say of it.
struct Breakage {
    what: &'static str,
    script: &'static str,
    said: &'static str,
}

const BREAKAGES: &[Breakage] = &[
    Breakage {
        what: "syntax error in settings",
        script: "printf '[kernel\\n' > conf.d/60-wrong.toml",
        said: "/etc/eql-sensor/conf.d/60-wrong.toml:1:8: error: ",
    },
    Breakage {
        what: "unknown key in settings",
        script: "printf '[kernel]\\nteir = \"auto\"\\n' > conf.d/60-wrong.toml",
        said: "/etc/eql-sensor/conf.d/60-wrong.toml:2:1: error: ",
    },
    Breakage {
        what: "wrong value in settings",
        script: "printf '[kernel]\\nring_bytes = 3\\n' > conf.d/60-wrong.toml",
        said: "/etc/eql-sensor/conf.d/60-wrong.toml:2:14: error: ",
    },
    Breakage {
        what: "settings everybody may write",
        script: "printf '[kernel]\\n' > conf.d/60-wrong.toml; chmod 666 conf.d/60-wrong.toml",
        said: "/etc/eql-sensor/conf.d/60-wrong.toml: error: ",
    },
    Breakage {
        what: "broken rule",
        script: "head -n 6 /exchange/under-way.toml > rules.d/under-way.toml",
        said: "/etc/eql-sensor/rules.d/under-way.toml:7:1: error: ",
    },
    Breakage {
        what: "unknown field in a rule",
        script: "sed -i 's/process.name/process.nmae/' rules.d/under-way.toml",
        said: "/etc/eql-sensor/rules.d/under-way.toml:7:",
    },
    Breakage {
        what: "unknown field in an exception",
        script: "mkdir -p exceptions.d; cp /exchange/wrong-exception.toml exceptions.d/wrong.toml",
        said: "/etc/eql-sensor/exceptions.d/wrong.toml:3:",
    },
    Breakage {
        what: "unreadable file",
        script: "ln -sf under-way.toml rules.d/under-way.toml",
        said: "/etc/eql-sensor/rules.d/under-way.toml: error: ",
    },
    Breakage {
        what: "directory everybody may write",
        script: "chmod 777 rules.d",
        said: "/etc/eql-sensor/rules.d: error: everybody may write this",
    },
    Breakage {
        what: "missing directory",
        script: "mv /usr/lib/eql-sensor/rules.d /usr/lib/eql-sensor/away; mv rules.d away",
        said: "no rule to watch for in /etc/eql-sensor/rules.d, /run/eql-sensor/rules.d, /usr/lib/eql-sensor/rules.d",
    },
    Breakage {
        what: "disk full while saving",
        script: "dd if=/dev/zero of=/var/lib/eql-sensor/filler bs=4k 2> /dev/null || true",
        said: "/var/lib/eql-sensor/last-good.json cannot be written, so the new rules would not outlive a restart: ",
    },
];

/// All as it was.
const MEND: &str = "rm -rf conf.d/60-wrong.toml exceptions.d /var/lib/eql-sensor/filler\n\
                    [ ! -e /usr/lib/eql-sensor/away ] || mv /usr/lib/eql-sensor/away /usr/lib/eql-sensor/rules.d\n\
                    [ ! -e away ] || mv away rules.d\n\
                    chmod 755 rules.d\n\
                    cp --remove-destination /exchange/under-way.toml rules.d/";

const RULE: &str = r#"[rule]
rule_id = "00000000-0000-4000-8000-000000000010"
name = "Under Way"
type = "eql"
query = '''
sequence by process.args with maxspan=1h
  [process where event.action == "exec" and process.name == "first"]
  [process where event.action == "exec" and process.name == "second"]
'''
"#;
const MESSAGE_ID: &str = "00000000000040008000000000000010";

const EXCEPTION: &str = r#"[[exception]]
rule_id = "00000000-0000-4000-8000-000000000010"
query = 'process where process.nmae == "first"'
reason = "it is broken"
owner = "nobody"
expires = "never"
"#;

/// The first program of a sequence, reloads that are refused one after the other, the second program.
pub(super) fn change_nothing(container: &Container) -> Result<()> {
    let exchange = container.exchange();
    fs::write(exchange.join("under-way.toml"), RULE)?;
    fs::write(exchange.join("wrong-exception.toml"), EXCEPTION)?;
    // What the daemon keeps gets a disk of its own, for the one that is full.
    container.run(
        "systemctl stop eql-sensor\n\
         mkdir -p /etc/eql-sensor/conf.d /etc/eql-sensor/rules.d /root/refusals\n\
         cp /exchange/under-way.toml /etc/eql-sensor/rules.d/\n\
         ln -s /bin/true /root/refusals/first\n\
         ln -s /bin/true /root/refusals/second\n\
         mount -t tmpfs -o size=64m,mode=0750 tmpfs /var/lib/eql-sensor\n\
         systemctl start eql-sensor\n\
         systemd-run --quiet --wait --collect /root/refusals/first over-all",
    )?;
    let before = state(container)?;
    for breakage in BREAKAGES {
        refused(container, breakage, &before).with_context(|| breakage.what)?;
    }
    container.run(
        "systemctl reload eql-sensor\n\
         systemd-run --quiet --wait --collect /root/refusals/second over-all",
    )?;
    let found = container.wait_for(
        &format!("journalctl --no-pager --all -o json MESSAGE_ID={MESSAGE_ID} | grep ."),
        "the alert of the sequence under way",
    )?;
    ensure!(found.lines().count() == 1, "told twice: {found}");
    println!("    {} reloads refused", BREAKAGES.len());
    container.run(
        "systemctl stop eql-sensor\n\
         umount /var/lib/eql-sensor\n\
         rm /etc/eql-sensor/rules.d/under-way.toml\n\
         systemctl start eql-sensor",
    )?;
    Ok(())
}

fn refused(container: &Container, breakage: &Breakage, before: &[Value]) -> Result<()> {
    let Breakage { script, said, .. } = breakage;
    let told = container.run(&format!(
        "journalctl --sync\n\
         cursor=$(journalctl --quiet -n 0 --show-cursor | sed 's/^-- cursor: //')\n\
         cd /etc/eql-sensor\n\
         {script}\n\
         if systemctl reload eql-sensor; then echo 'the reload succeeded'; fi\n\
         journalctl --sync\n\
         journalctl --no-pager --quiet -o cat --after-cursor=\"$cursor\" -u eql-sensor\n\
         {MEND}"
    ))?;
    ensure!(
        !told.contains("the reload succeeded") && told.contains(said),
        "no word of `{said}` in:\n{told}"
    );
    let after = state(container)?;
    ensure!(after == before, "not as before: {after:?}, {before:?}");
    Ok(())
}

/// The daemon's process, how many rules it runs, and what it lost.
fn state(container: &Container) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&container.run("eql-sensor status --json")?)?;
    let fields = ["/pid", "/rules/loaded", "/lost/total"];
    let found = fields.map(|field| status.pointer(field).cloned());
    let found: Option<Vec<Value>> = found.into_iter().collect();
    found.with_context(|| format!("not all of {fields:?} are in {status}"))
}
