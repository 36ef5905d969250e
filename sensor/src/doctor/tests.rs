//! Reports of made-up machines.

use std::path::PathBuf;

use sensor_ebpf::Kind;

use super::*;
use crate::kernel::{HookReport, HookState, Preemption};
use facts::Rules;

const ALL: u64 = u64::MAX;

fn hook(kind: Kind, hook: &str, trampoline: bool, state: HookState) -> HookReport {
    HookReport {
        kind,
        program: "p",
        hook: hook.to_owned(),
        trampoline,
        state,
        blind_to: if hook == "tp_btf/sys_exit" {
            &["files created through io_uring"]
        } else {
            &[]
        },
    }
}

fn hooks(creation: HookState, by_syscall: HookState) -> Vec<HookReport> {
    vec![
        hook(
            Kind::Exec,
            "tp_btf/sched_process_exec",
            false,
            HookState::Attached,
        ),
        hook(Kind::FileCreate, "fexit/security_file_open", true, creation),
        hook(Kind::FileCreate, "tp_btf/sys_exit", false, by_syscall),
    ]
}

fn preemption(mode: &str, release: (u32, u32)) -> Preemption {
    Preemption {
        mode: mode.to_owned(),
        told_by: "/proc/cmdline",
        release: Some(release),
    }
}

/// A machine without a flaw.
fn healthy() -> Facts {
    Facts {
        release: "6.1.0-30-amd64".to_owned(),
        architecture: "x86_64".to_owned(),
        has_object: true,
        btf: Ok(5 << 20),
        lockdown: Some("none".to_owned()),
        preemption: preemption("voluntary", (6, 1)),
        capabilities: capabilities::of(Some(ALL)),
        has_host_pids: true,
        boot_ns: 77_000_000_000,
        wall_s: 1_800_000_000,
        wall_text: "2027-01-15 08:00:00Z".to_owned(),
        ring_bytes: 8 << 20,
        memlock_limit: None,
        memlock_can_be_raised: true,
        memory_available: Some(1 << 30),
        programs: Programs::Loaded(hooks(HookState::Attached, HookState::NotNeeded)),
        not_asked_for: Vec::new(),
        self_check: Check::Right {
            kinds: vec!["exec".to_owned()],
            untried: Vec::new(),
            ms: 40,
        },
        journal: Journal {
            socket: true,
            is_output: true,
            burst: 10_000,
            interval_s: 30,
        },
        directories: Vec::new(),
        rules: Rules {
            files: 2,
            loaded: 1,
            skipped: 1,
            failed: 0,
        },
    }
}

/// The one line that is not in order, and its advice.
fn flaw(change: impl Fn(&mut Facts)) -> (String, Status, String) {
    let mut facts = healthy();
    change(&mut facts);
    let report = Report::of(&facts);
    let mut flaws = report.lines.into_iter().filter(|l| l.status != Status::Ok);
    let line = flaws.next().expect("a flaw");
    assert_eq!(flaws.next(), None, "after {line:?}");
    assert!(
        line.advice
            .as_ref()
            .is_some_and(|advice| !advice.is_empty())
    );
    (line.about, line.status, line.text)
}

#[test]
fn a_healthy_machine_has_no_flaw() {
    let report = Report::of(&healthy());
    assert_eq!(
        report.count(Status::Ok),
        report.lines.len(),
        "{}",
        report.text()
    );
    let text = report.text();
    assert!(text.contains("ok    kernel      "), "{text}");
    assert!(
        text.contains("ok    creation      fexit/security_file_open (trampolines)\n"),
        "{text}"
    );
    assert!(text.ends_with("14 ok, 0 warn, 0 fail\n"), "{text}");
}

#[test]
fn every_flaw_is_told_by_its_line() {
    type Change = fn(&mut Facts);
    let cases: &[(&str, Status, &str, Change)] = &[
        ("kernel", Status::Fail, "Linux 5.4.0", |f| {
            f.release = "5.4.0".to_owned()
        }),
        ("kernel", Status::Warn, "on aarch64", |f| {
            f.architecture = "aarch64".to_owned()
        }),
        ("kernel", Status::Fail, "no kernel programs", |f| {
            f.has_object = false
        }),
        ("preemption", Status::Warn, "skips the program", |f| {
            f.preemption = preemption("full", (6, 12))
        }),
        ("preemption", Status::Warn, "unknown (by", |f| {
            f.preemption = preemption("unknown", (6, 12))
        }),
        ("btf", Status::Fail, "does not", |f| {
            f.btf = Err("does not".to_owned())
        }),
        ("lockdown", Status::Fail, "confidentiality", |f| {
            f.lockdown = Some("confidentiality".to_owned());
        }),
        (
            "capabilities",
            Status::Fail,
            "CAP_BPF is missing (loading",
            |f| {
                f.capabilities = capabilities::of(Some(ALL & !(1 << 39 | 1 << 21)));
            },
        ),
        (
            "capabilities",
            Status::Warn,
            "CAP_SYS_PTRACE is missing",
            |f| {
                f.capabilities = capabilities::of(Some(ALL & !(1 << 19)));
            },
        ),
        ("namespace", Status::Fail, "pid namespace", |f| {
            f.has_host_pids = false
        }),
        ("clock", Status::Warn, "boot clock 77 s", |f| f.wall_s = 0),
        ("ring", Status::Fail, "8192 KiB", |f| {
            f.memlock_limit = Some(65_536);
            f.memlock_can_be_raised = false;
        }),
        ("ring", Status::Warn, "available", |f| {
            f.memory_available = Some(9 << 20)
        }),
        ("self-check", Status::Fail, "`tgid`", |f| {
            f.self_check = Check::Wrong("`tgid` is 1".to_owned());
        }),
        ("self-check", Status::Warn, "off", |f| {
            f.self_check = Check::Off
        }),
        ("journal", Status::Warn, "none here", |f| {
            f.journal.socket = false
        }),
        ("journal", Status::Warn, "100 entries", |f| {
            f.journal.burst = 100
        }),
        ("rules", Status::Fail, "0 of 2", |f| f.rules.loaded = 0),
        ("rules", Status::Warn, "1 have errors", |f| {
            f.rules.failed = 1
        }),
        (
            "rules",
            Status::Fail,
            "cannot read `/x`: permission denied",
            |f| {
                f.directories = vec![Directory {
                    path: PathBuf::from("/x"),
                    error: Some("permission denied".to_owned()),
                }];
            },
        ),
        ("programs", Status::Fail, "no `file.f_path`", |f| {
            f.programs = Programs::Refused {
                error: "no `file.f_path`".to_owned(),
                advice: "report it".to_owned(),
            };
        }),
        (
            "programs",
            Status::Warn,
            "not looked at: not allowed",
            |f| {
                f.programs = Programs::NotLooked("not allowed".to_owned());
            },
        ),
    ];
    for (about, status, text, change) in cases {
        let (found, how, said) = flaw(change);
        assert_eq!((&*found, how), (*about, *status), "{said}");
        assert!(said.contains(text), "{said}");
    }
}

#[test]
fn a_second_choice_says_what_it_does_not_see() {
    let refused = HookState::Refused("operation not permitted".to_owned());
    let (about, status, text) = flaw(|facts| {
        facts.programs = Programs::Loaded(hooks(refused.clone(), HookState::Attached));
    });
    assert_eq!((&*about, status), ("creation", Status::Warn));
    assert_eq!(
        text,
        "tp_btf/sys_exit (tracepoints); does not see files created through io_uring"
    );
}

#[test]
fn where_tasks_take_each_others_place_is_told_with_what_is_done_about_it() {
    let told = |mode: &str, release, by_trampoline: bool| {
        let mut facts = healthy();
        facts.preemption = preemption(mode, release);
        if !by_trampoline {
            let refused = HookState::Refused("operation not permitted".to_owned());
            facts.programs = Programs::Loaded(hooks(refused, HookState::Attached));
        }
        let lines = Report::of(&facts).lines.into_iter();
        let mut about = lines.filter(|line| line.about == "preemption");
        let line = about.next().expect("a line");
        assert_eq!(about.next(), None);
        (line.status, line.text, line.advice.unwrap_or_default())
    };
    let (status, text, advice) = told("voluntary", (6, 12), true);
    assert_eq!((status, &*advice), (Status::Ok, ""));
    assert_eq!(
        text,
        "voluntary (by /proc/cmdline): no other task runs in the middle of a program on a function"
    );
    let (status, text, advice) = told("full", (6, 12), true);
    assert_eq!(status, Status::Warn);
    assert!(
        text.contains("attached twice for it, for creations three times"),
        "{text}"
    );
    assert!(advice.contains("preempt=voluntary"), "{advice}");
    for (mode, by_trampoline) in [("full", true), ("lazy", true), ("lazy", false)] {
        let (status, text, _) = told(mode, (7, 2), by_trampoline);
        assert_eq!(status, Status::Ok);
        assert!(text.contains("skips the program"), "{text}");
    }
    let (status, text, _) = told("full", (6, 12), false);
    assert_eq!(status, Status::Ok);
    assert!(text.contains("there are none here"), "{text}");
}

#[test]
fn a_kind_the_kernel_does_not_give_is_named_with_the_reason() {
    let refused = || HookState::Refused("this kernel has no such function".to_owned());
    let (about, status, text) = flaw(|facts| {
        facts.programs = Programs::Loaded(hooks(refused(), refused()));
    });
    assert_eq!((&*about, status), ("creation", Status::Fail));
    assert!(
        text.contains("fexit/security_file_open: this kernel has no such function"),
        "{text}"
    );
}

#[test]
fn a_kind_nobody_asked_for_is_not_said_to_be_missing() {
    let not_wanted = || HookState::NotWanted;
    let (about, status, text) = flaw(|facts| {
        facts.programs = Programs::Loaded(hooks(not_wanted(), not_wanted()));
    });
    assert_eq!((&*about, status), ("creation", Status::Warn));
    assert_eq!(text, "not tried: nothing asked for it");
}

#[test]
fn the_document_has_every_line_and_kind() {
    let mut facts = healthy();
    facts.not_asked_for = vec![Kind::FileCreate];
    let report = Report::of(&facts);
    let document: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(document["summary"]["fail"], 0);
    assert_eq!(
        document["lines"].as_array().map(Vec::len),
        Some(report.lines.len())
    );
    assert_eq!(document["kinds"][1]["kind"], "creation");
    assert_eq!(document["kinds"][1]["tier"], "trampolines");
    assert_eq!(document["kinds"][1]["asked_for"], false);
    assert_eq!(document["kinds"][0]["asked_for"], true);
    assert_eq!(report.json().lines().count(), 1);
}
