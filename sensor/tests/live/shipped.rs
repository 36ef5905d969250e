//! The shipped rules on a live kernel.
//!
//! In: every act that one of them is about, done by a script with real system calls. Out: an alert of each rule, and of none
//! while a real project is built. A rule that the kernel can not serve is named with the reason. Must never
//! touch the host's own files nor send anything away: the script has namespaces of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::build::unpack;
use crate::daemon::{Daemon, shipped_rules, text};
use crate::scope::Scope;
use crate::{is_guest, tiers};

const ACTS: &str = include_str!("shipped.sh");

const OUTSIDE_MODULE: &str = "Kernel Module From Outside the Kernel Loaded";

/// Names of all shipped rules.
fn names() -> BTreeSet<String> {
    let rules = sensor::rule::load(&[shipped_rules()]).rules;
    assert!(rules.len() > 25, "{}", rules.len());
    rules.iter().map(|rule| rule.name.clone()).collect()
}

/// What this test does not do, and why.
fn left_out() -> Vec<&'static str> {
    vec![
        // The chain of its own tests, which need a compiler's `-o` and the loopback interface.
        "Network Connection via Recently Compiled Executable",
        // It has a test of its own, in guests.
        OUTSIDE_MODULE,
    ]
}

#[test]
fn every_shipped_rule_fires_on_what_it_is_about() {
    for tier in tiers() {
        let scope = Scope::new("shipped");
        scope.write("acts.sh", ACTS);
        let mut daemon = Daemon::run_with(&scope, &tier, &shipped_rules(), &[]);
        scope.run(&["unshare", "--net", "--mount", "bash", "acts.sh"]);
        // The last of the script.
        daemon.wait_for("the last alert", |alert| {
            alert["rule"]["name"] == "Many Files Encrypted by a Tool"
        });
        let ended = daemon.stop();
        let fired: BTreeSet<_> = ended
            .lines
            .iter()
            .map(|alert| text(alert, "rule.name").to_owned())
            .collect();
        let mut expected = names();
        for name in left_out() {
            assert!(expected.remove(name), "{name}");
        }
        let missing: Vec<_> = expected.difference(&fired).collect();
        assert!(missing.is_empty(), "{tier}: {missing:?}\n{}", ended.log);
        let more: Vec<_> = fired.difference(&expected).collect();
        assert!(more.is_empty(), "{tier}: {more:?}");
        let _ = fs::remove_dir_all(scope.folder().join("shadow"));
    }
}

/// Loads a module as the makers of the kernel built it, then the same without the word that it is theirs and without their
/// signature.
const MODULES: &str = r#"
set -eu
PATH=$PATH:/usr/sbin:/sbin
for module in "/lib/modules/$(uname -r)/kernel/drivers/net/dummy.ko"*; do :; done
case $module in
    *.xz) xz -dc "$module" >inside.ko ;;
    *) cp "$module" inside.ko ;;
esac
LC_ALL=C sed 's/intree=Y/outree=Y/; s/~Module signature appended~/~Module signature cut off~/' inside.ko >outside.ko
for file in inside.ko outside.ko; do
    insmod $file
    rmmod dummy
done
"#;

/// What is done to a kernel only where it is the tests' own; by this name the others leave it out.
mod guests_only {
    use super::*;

    #[test]
    fn a_module_from_outside_is_told_and_the_kernels_own_is_not() {
        assert!(is_guest(), "the kernel here is not the test's own");
        let rule = shipped_rules().join("defense_evasion_foreign_kernel_module_loaded.toml");
        for tier in tiers() {
            let scope = Scope::new("module");
            scope.write("modules.sh", MODULES);
            let mut daemon = Daemon::run_with(&scope, &tier, &rule, &[]);
            scope.run(&["sh", "modules.sh"]);
            daemon.wait_for("alert", |_| true);
            let alerts = daemon.stop().lines;
            let told = alerts.iter().map(|alert| {
                let [rule, command] =
                    ["rule.name", "process.command_line"].map(|path| text(alert, path));
                (rule, command)
            });
            let told: Vec<_> = told.collect();
            assert_eq!(told, [(OUTSIDE_MODULE, "insmod outside.ko")], "{tier}");
        }
    }
}

/// A package with a service, jobs and a group, installed into a copy of the running system.
const INSTALL: &str = r#"
set -eu
mount --make-rprivate /
mkdir over root
mount -t tmpfs none over
mkdir over/upper over/work
mount -t overlay none -o lowerdir=/,upperdir=over/upper,workdir=over/work root
mount -t proc none root/proc
mount --rbind /dev root/dev
export DEBIAN_FRONTEND=noninteractive
exec chroot root apt-get -qq -y -o Dpkg::Use-Pty=0 --reinstall --no-install-recommends install cron
"#;

#[test]
fn a_build_and_an_installation_raise_no_alert() {
    let archive = std::env::var_os("EQL_SENSOR_LIVE_PROJECT")
        .expect("EQL_SENSOR_LIVE_PROJECT names no source; cargo xtask live sets it");
    for tier in tiers() {
        let scope = Scope::new("silent");
        let source = unpack(&scope, Path::new(&archive));
        scope.write("install.sh", INSTALL);
        let daemon = Daemon::run_with(&scope, &tier, &shipped_rules(), &[]);
        let target = if is_guest() { "lctype.o" } else { "generic" };
        let built = scope
            .command(&["make", "-j2", "MYCFLAGS=-O0", target])
            .current_dir(&source)
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        // A guest has neither packages to fetch nor a root that can be laid under another.
        if !is_guest() {
            scope.run(&["unshare", "--mount", "sh", "install.sh"]);
        }
        let ended = daemon.stop();
        println!("{tier}: {}", ended.log);
        assert!(ended.log.contains(" lost=0 "), "{tier}: {}", ended.log);
        assert_eq!(ended.lines, [] as [serde_json::Value; 0], "{tier}");
    }
}
