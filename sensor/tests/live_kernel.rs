//! The kernel programs on the running kernel: acts in a cgroup of its own, and the records that must come of them.
//!
//! In: root, BTF, a cgroup v2 hierarchy. Out: exit code 0 when every record is there, right, and nothing else is. Observes only
//! the cgroup that it makes. `EQL_SENSOR_LIVE_TIERS` lists the sorts of hooks to test: `auto`, `trampolines`, `tracepoints`; without
//! it, what the kernel allows, then the tracepoints alone.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test with a main of its own, so that it can act as another process"
)]

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{MetadataExt, PermissionsExt},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    time::{Duration, Instant},
};

#[path = "live_kernel/own.rs"]
mod own;

use sensor::{
    decode::{Body, decode},
    kernel::{Bulk, HookState, Kernel, KindSet, Options, Tier, load},
};
use sensor_ebpf::{
    ConnectBody, ExecBody, ExitBody, FileActBody, FileBody, FileEndBody, ForkBody, Header, Kind,
    record_flag,
};

/// Present in the environment of the process that acts.
const ACTOR: &str = "EQL_SENSOR_LIVE_ACTOR";

type Test = fn(Tier);

const TESTS: &[(&str, Test)] = &[
    ("every_act_has_its_record", every_act_has_its_record),
    ("arguments_are_exact", arguments_are_exact),
    ("what_is_too_long_is_cut", what_is_too_long_is_cut),
    ("overflow_is_counted_exactly", overflow_is_counted_exactly),
    ("waiting_drain_wakes_up", waiting_drain_wakes_up),
    ("detached_programs_are_gone", detached_programs_are_gone),
    (
        "deleted_executables_are_marked",
        deleted_executables_are_marked,
    ),
    ("own_acts_are_left_out", own_acts_are_left_out),
    ("lack_of_privilege_is_named", lack_of_privilege_is_named),
    ("unusable_options_are_refused", unusable_options_are_refused),
];

fn main() -> ExitCode {
    if let Ok(role) = env::var(ACTOR) {
        return actor::run(&role);
    }
    let wanted =
        env::var("EQL_SENSOR_LIVE_TIERS").unwrap_or_else(|_| "auto,tracepoints".to_owned());
    let tiers = wanted.split(',').map(|tier| match tier {
        "auto" => Tier::Auto,
        "trampolines" => Tier::Trampolines,
        "tracepoints" => Tier::Tracepoints,
        other => panic!("EQL_SENSOR_LIVE_TIERS has `{other}`, no sort of hooks"),
    });
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    // Names in the arguments pick tests, as with every other test program.
    let named: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let picked = |name: &str| named.is_empty() || named.iter().any(|part| name.contains(part));
    let (begun, mut passed) = (Instant::now(), 0);
    for tier in tiers {
        for (name, test) in TESTS.iter().filter(|(name, _)| picked(name)) {
            println!("live_kernel: {name} ({tier:?}) after {:?}", begun.elapsed());
            test(tier);
            passed += 1;
        }
    }
    println!("live_kernel: done on {}", release.trim());
    // As the standard harness says it, for whoever counts; a failed test has ended this program before.
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

/// A cgroup with one below it, removed when this goes.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .expect("a cgroup v2 hierarchy must be mounted");
        let path = Path::new(mount).join(format!("eql-sensor-live-{}", std::process::id()));
        let cgroup = Cgroup(path);
        fs::create_dir(&cgroup.0).unwrap();
        fs::create_dir(cgroup.below()).unwrap();
        cgroup
    }

    fn below(&self) -> PathBuf {
        self.0.join("below")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A member that has just ended may still count for a moment.
        for _ in 0..200 {
            let _ = fs::remove_dir(self.below());
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// With the process kinds and creations: what is not attached need not be verified, which takes long on emulated processors.
fn start(tier: Tier, cgroup: &Cgroup, ring_bytes: u32) -> Kernel {
    start_with(
        tier,
        cgroup,
        ring_bytes,
        KindSet::EMPTY.with(Kind::FileCreate),
    )
}

fn start_with(tier: Tier, cgroup: &Cgroup, ring_bytes: u32, kinds: KindSet) -> Kernel {
    let options = Options {
        kinds,
        scope: vec![cgroup.0.clone()],
        ring_bytes,
        tier,
        ..Options::default()
    };
    let kernel = load(&options).unwrap_or_else(|error| {
        let mut text = error.to_string();
        let mut at = std::error::Error::source(&error);
        while let Some(cause) = at {
            text = format!("{text}: {cause}");
            at = cause.source();
        }
        panic!("{text}")
    });
    for hook in kernel.hooks() {
        println!("  {:?}: {} {:?}", hook.kind, hook.hook, hook.state);
        let attached = hook.state == HookState::Attached;
        assert!(!(attached && hook.trampoline && tier == Tier::Tracepoints));
    }
    kernel
}

const RING_BYTES: u32 = 8 << 20;

/// A record, out of the ring.
#[derive(Debug)]
enum Seen {
    Fork(Header, ForkBody),
    Exec(Header, ExecBody, Strings),
    Exit(Header, ExitBody),
    File(Header, FileBody, String),
    Connect(Header, ConnectBody),
    Close(Header, ConnectBody),
    Accept(Header),
    Udp(Header, ConnectBody),
    /// A kind that other tests look into.
    Other(Header),
    /// Old path and path.
    Act(Header, FileActBody, [String; 2]),
    End(Header, FileEndBody),
    Degraded(Header),
}

#[derive(Debug)]
struct Strings {
    filename: String,
    executable: String,
    interpreter: String,
    working_directory: String,
    comm: String,
    arguments: Vec<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn own(bytes: &[u8]) -> Seen {
    let record = decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
    assert_eq!(record.unknown_parts, 0);
    let header = *record.header;
    match record.body {
        Body::Fork(body) => Seen::Fork(header, *body),
        Body::Exit(body) => Seen::Exit(header, *body),
        Body::Connect(body) => Seen::Connect(header, *body),
        Body::Accept(_) => Seen::Accept(header),
        Body::UdpConnect(body) => Seen::Udp(header, *body),
        Body::ConnectRefused(_) | Body::Dns(_) => Seen::Other(header),
        Body::Close(body) => Seen::Close(header, *body),
        Body::Credentials(_)
        | Body::Session(_)
        | Body::Memfd(_)
        | Body::Ptrace(_)
        | Body::Modify(_)
        | Body::Open(_)
        | Body::Module(_) => Seen::Other(header),
        Body::FileAct(act) => Seen::Act(header, *act.body, [act.old_path, act.path].map(text)),
        Body::FileEnd(body) => Seen::End(header, *body),
        Body::FileCreate(file) => Seen::File(header, *file.body, text(file.path)),
        Body::Degraded => Seen::Degraded(header),
        Body::Exec(exec) => Seen::Exec(
            header,
            *exec.body,
            Strings {
                filename: text(exec.filename),
                executable: text(exec.executable),
                interpreter: text(exec.interpreter),
                working_directory: text(exec.working_directory),
                comm: text(exec.comm.split(|byte| *byte == 0).next().unwrap()),
                arguments: exec
                    .arguments
                    .split_inclusive(|byte| *byte == 0)
                    .map(|argument| text(argument.strip_suffix(b"\0").unwrap_or(argument)))
                    .collect(),
            },
        ),
        other => panic!("a kind that was not asked for: {other:?}"),
    }
}

fn header(seen: &Seen) -> &Header {
    match seen {
        Seen::Fork(header, _)
        | Seen::Exec(header, ..)
        | Seen::Exit(header, _)
        | Seen::File(header, ..)
        | Seen::Connect(header, _)
        | Seen::Close(header, _)
        | Seen::Accept(header)
        | Seen::Udp(header, _)
        | Seen::Other(header)
        | Seen::Act(header, ..)
        | Seen::End(header, _)
        | Seen::Degraded(header) => header,
    }
}

fn take(kernel: &mut Kernel) -> Vec<Seen> {
    let mut seen = Vec::new();
    while kernel.drain_now(|bytes| seen.push(own(bytes))) != 0 {}
    seen
}

/// When all is quiet nothing is unaccounted for, and what was drained is what was submitted.
fn assert_identity(kernel: &Kernel, received: usize) {
    let counters = kernel.counters().unwrap();
    let mut submitted = 0;
    for (kind, c) in &counters.kinds {
        let accounted = c.submitted + c.lost_ring_full + c.dropped();
        assert_eq!(c.seen, accounted, "{kind:?}: {c:?}");
        assert_eq!(c.read_fault, 0, "{kind:?}: {c:?}");
        submitted += c.submitted;
    }
    let submitted = usize::try_from(submitted).unwrap();
    assert_eq!(submitted, received, "{counters:?}");
}

fn act(role: &str, cgroup: &Path, arguments: &[&str]) -> ExitStatus {
    Command::new(env::current_exe().unwrap())
        .env(ACTOR, role)
        .arg(cgroup.join("cgroup.procs"))
        .args(arguments)
        .status()
        .unwrap()
}

fn every_act_has_its_record(tier: Tier) {
    let cgroup = Cgroup::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = fs::canonicalize(folder.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener6 = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let port6 = listener6.local_addr().unwrap().port();
    fs::write(folder.join("old"), b"there before").unwrap();
    let script = folder.join("script.sh");
    fs::write(&script, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    let mut kernel = start_with(tier, &cgroup, RING_BYTES, KindSet::usual());
    // Outside of the scope: must leave no trace.
    fs::write(folder.join("outside"), b"x").unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
    // One level below the scope, so that the walk over ancestors is used.
    let below = cgroup.below();
    let arguments = [
        folder.to_str().unwrap(),
        &port.to_string(),
        &port6.to_string(),
    ];
    let status = act("acts", &below, &arguments);
    assert!(status.success(), "{status}");
    let seen = take(&mut kernel);
    assert_identity(&kernel, seen.len());
    check_processes(&seen, &folder);
    check_files(&seen, &folder);
    check_pair(&seen, &folder);
    check_connects(&seen, port, port6, tier);
    check_closes(&seen);
    let id = fs::metadata(&below).unwrap().ino();
    for seen in &seen {
        assert_eq!(header(seen).cgroup_id, id, "{seen:?}");
        assert_eq!(header(seen).uid, rustix::process::geteuid().as_raw());
        assert_eq!(header(seen).gid, rustix::process::getegid().as_raw());
    }
}

fn forks(seen: &[Seen]) -> Vec<(&Header, &ForkBody)> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Fork(header, body) => Some((header, body)),
            _ => None,
        })
        .collect()
}

fn execs(seen: &[Seen]) -> Vec<(&Header, &ExecBody, &Strings)> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Exec(header, body, strings) => Some((header, body, strings)),
            _ => None,
        })
        .collect()
}

fn files(seen: &[Seen]) -> Vec<(&Header, &FileBody, &str)> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::File(header, body, path) => Some((header, body, path.as_str())),
            _ => None,
        })
        .collect()
}

fn connects(seen: &[Seen]) -> Vec<(&Header, &ConnectBody)> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Connect(header, body) => Some((header, body)),
            _ => None,
        })
        .collect()
}

/// Status by tgid.
fn exits(seen: &[Seen]) -> BTreeMap<u32, u32> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Exit(header, body) => Some((header.tgid, body.status)),
            _ => None,
        })
        .collect()
}

fn check_processes(seen: &[Seen], folder: &Path) {
    let (forks, execs, exits) = (forks(seen), execs(seen), exits(seen));
    // true, the script, the killed one; threads make no records.
    assert_eq!(forks.len(), 3, "{seen:#?}");
    assert_eq!(execs.len(), 3, "{seen:#?}");
    // Those and the actor itself.
    assert_eq!(exits.len(), 4, "{exits:?}");
    let actor = forks[0].1.parent_tgid;
    let namespace = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
    for ((fork, fork_body), (exec, body, _)) in forks.iter().zip(&execs) {
        assert_eq!((fork.tgid, fork.start_ns), (exec.tgid, exec.start_ns));
        assert_ne!(fork.start_ns, 0);
        assert!(fork.start_ns <= fork.boot_ns && fork.boot_ns <= exec.boot_ns);
        assert_eq!(fork_body.parent_tgid, actor);
        assert_ne!(fork_body.parent_start_ns, 0);
        assert_eq!(fork_body.parent_tgid, body.parent_tgid);
        assert_eq!(fork_body.parent_start_ns, body.parent_start_ns);
        assert_eq!(body.old_tid, exec.tgid);
        assert_eq!(body.ns_tgid, exec.tgid);
        assert_eq!(u64::from(exec.mntns), namespace);
        assert_eq!(body.secureexec, 0);
        assert_eq!(exec.flags, 0, "{exec:?}");
        assert_ne!(body.pgid, 0);
        assert_eq!((body.pgid, body.sid), (fork_body.pgid, fork_body.sid));
    }
    let (_, body, strings) = execs[0];
    let target = fs::canonicalize("/bin/true").unwrap();
    assert_eq!(strings.filename, "/bin/true");
    assert_eq!(strings.executable, target.to_str().unwrap());
    assert_eq!(strings.interpreter, "");
    assert_eq!(strings.comm, "true");
    assert_eq!(strings.working_directory, folder.to_str().unwrap());
    assert_eq!(strings.arguments, ["named", "one two", "", "drei"]);
    assert_eq!(body.args_count, 4);
    assert_eq!(body.args_len, 20);
    let uid = rustix::process::getuid().as_raw();
    assert_eq!([body.uid, body.euid, body.suid, body.fsuid], [uid; 4]);
    let metadata = fs::metadata(&target).unwrap();
    assert_eq!(body.exe_inode, metadata.ino());
    assert_eq!(body.exe_mode, metadata.mode());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    assert_eq!(body.cap_effective, effective);

    let (header, body, strings) = execs[1];
    let shell = fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(strings.filename, "./script.sh");
    assert_eq!(strings.executable, shell.to_str().unwrap());
    assert_eq!(strings.interpreter, "/bin/sh");
    assert_eq!(strings.comm, "script.sh");
    assert_eq!(strings.arguments, ["/bin/sh", "./script.sh"]);
    assert_eq!(body.args_count, 2);
    assert_eq!(exits[&header.tgid], 3 << 8);

    let (header, ..) = execs[2];
    assert_eq!(exits[&header.tgid] & 0x7f, 9);
    assert_eq!(exits[&actor], 0);
}

fn check_files(seen: &[Seen], folder: &Path) {
    let names = ["absolute", "relative", "dir/deep", "exclusive"];
    let expected = names.map(|name| text(folder.join(name).as_os_str().as_encoded_bytes()));
    let files = files(seen);
    let paths: Vec<_> = files.iter().map(|(_, _, path)| *path).collect();
    assert_eq!(paths, expected);
    for (header, body, path) in files {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(body.inode, metadata.ino(), "{path}");
        assert_eq!(body.mode, metadata.mode(), "{path}");
        assert_eq!(body.uid, metadata.uid(), "{path}");
        assert_eq!(header.flags, 0, "{path}: {header:?}");
        assert_ne!(body.open_flags & 3, 0, "{path}");
    }
}

/// The one directory made: a begin and an end, which name each other.
fn check_pair(seen: &[Seen], folder: &Path) {
    let acts: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Act(header, body, paths) => Some((header, body, paths)),
            _ => None,
        })
        .collect();
    let [(begin, body, [old, path])] = acts.as_slice() else {
        panic!("{acts:#?}");
    };
    assert_eq!(begin.kind, Kind::MakeDirectory as u16);
    assert_eq!((old.as_str(), body.inode), ("", 0));
    let full = folder.join("dir");
    let by_caller = begin.flags & record_flag::PATH_FROM_USER != 0;
    let expected = if by_caller { Path::new("dir") } else { &full };
    assert_eq!(Path::new(path), expected);
    let mine = |seen: &&Seen| matches!(seen, Seen::End(_, end) if end.token == body.token);
    let ends: Vec<_> = seen.iter().filter(mine).collect();
    let [Seen::End(header, end)] = ends.as_slice() else {
        panic!("{ends:#?}");
    };
    assert_eq!((header.tid, header.start_ns), (begin.tid, begin.start_ns));
    assert!(header.boot_ns >= begin.boot_ns);
    assert_eq!((end.result, end.kind), (0, Kind::MakeDirectory as u32));
    let metadata = fs::metadata(&full).unwrap();
    let made = (metadata.ino(), metadata.mode(), metadata.uid());
    let found = (end.inode, end.mode, end.uid);
    assert_eq!(found, if by_caller { (0, 0, 0) } else { made });
}

fn check_connects(seen: &[Seen], port: u16, port6: u16, tier: Tier) {
    let connects = connects(seen);
    assert_eq!(connects.len(), 3, "{connects:#?}");
    let mut four = [0; 16];
    four[..4].copy_from_slice(&[127, 0, 0, 1]);
    let six = Ipv6Addr::LOCALHOST.octets();
    let expected = [(2, four, port), (10, six, port6), (2, four, port)];
    let namespace = fs::metadata("/proc/self/ns/net").unwrap().ino();
    for ((header, body), (family, address, port)) in connects.into_iter().zip(expected) {
        assert_eq!(body.family, family);
        assert_eq!(body.remote, address);
        assert_eq!(body.local, address);
        assert_eq!(body.remote_port, port);
        assert_eq!(body.protocol, 6);
        assert_eq!(u64::from(body.netns), namespace);
        assert_ne!(body.socket, 0);
        assert_eq!(header.flags, 0);
        if tier == Tier::Trampolines {
            assert_ne!(body.local_port, 0);
        }
    }
}

/// Each connection's socket is closed once, by the same process; the UDP socket and the listeners leave nothing.
fn check_closes(seen: &[Seen]) {
    let begun = connects(seen);
    let ended: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Close(header, body) => Some((header, body)),
            _ => None,
        })
        .collect();
    // At least once: an end right at the close is told of twice, and the daemon leaves the second one out. The kernel may
    // give a closed socket's memory, and so its token, to the next one.
    for (index, (begin, connect)) in begun.iter().enumerate() {
        let next = begun[index + 1..]
            .iter()
            .find(|(_, of)| of.socket == connect.socket)
            .map_or(u64::MAX, |(header, _)| header.boot_ns);
        assert!(
            ended.iter().any(|(header, of)| of.socket == connect.socket
                && (begin.boot_ns..next).contains(&header.boot_ns)),
            "{connect:#?} {ended:#?}"
        );
    }
    for (header, body) in ended {
        let (_, connect) = begun
            .iter()
            .rfind(|(begin, of)| of.socket == body.socket && begin.boot_ns <= header.boot_ns)
            .unwrap();
        assert_eq!(header.tgid, begun[0].0.tgid);
        assert_eq!(
            (body.remote, body.remote_port),
            (connect.remote, connect.remote_port)
        );
        assert_ne!((body.local_port, body.detail), (0, 0));
    }
    let other = |seen: &&Seen| matches!(seen, Seen::Accept(_) | Seen::Other(_));
    assert_eq!(seen.iter().filter(other).count(), 0, "{seen:#?}");
    let udp: Vec<_> = seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Udp(_, body) => Some(body),
            _ => None,
        })
        .collect();
    let [udp] = udp.as_slice() else {
        panic!("{udp:#?}");
    };
    let connect = begun[0].1;
    assert_eq!(
        (udp.protocol, udp.remote, udp.remote_port),
        (17, connect.remote, connect.remote_port)
    );
    assert_ne!(udp.local_port, 0);
}

fn arguments_are_exact(tier: Tier) {
    let cgroup = Cgroup::new();
    let mut kernel = start(tier, &cgroup, RING_BYTES);
    assert!(act("many", &cgroup.0, &["60"]).success());
    let seen = take(&mut kernel);
    assert_identity(&kernel, seen.len());
    // Numbers only while `kernel.bpf_stats_enabled` is 1.
    for (program, runs, nanoseconds) in kernel.run_times() {
        if let Some(each) = nanoseconds.checked_div(runs) {
            println!("  {program}: {runs} runs, {each} ns each");
        }
    }
    let execs = execs(&seen);
    assert_eq!(execs.len(), 60);
    for (number, (_, body, strings)) in execs.into_iter().enumerate() {
        let expected = ["/bin/true", &number.to_string(), &"x".repeat(number)];
        assert_eq!(strings.arguments, expected);
        assert_eq!(body.args_count, 3);
    }
}

fn what_is_too_long_is_cut(tier: Tier) {
    let cgroup = Cgroup::new();
    let mut kernel = start(tier, &cgroup, RING_BYTES);
    assert!(act("long", &cgroup.0, &[]).success());
    let seen = take(&mut kernel);
    let execs = execs(&seen);
    let [(header, body, strings)] = execs.as_slice() else {
        panic!("{execs:?}");
    };
    assert_eq!(header.flags, record_flag::TRUNCATED);
    assert_eq!(body.args_len, 10 + 60_001 + 5);
    assert_eq!(body.args_count, 3);
    assert_eq!(strings.arguments.len(), 2);
    assert_eq!(strings.arguments[1].len(), 32 * 1024 - 10);
    // A path whose front does not fit keeps its end.
    let files = files(&seen);
    let [(header, _, path)] = files.as_slice() else {
        panic!("{files:?}");
    };
    assert_eq!(header.flags, record_flag::TRUNCATED);
    assert!(path.ends_with("/the-file"), "{path}");
    assert!(path.len() > 3800 && path.len() <= 4096, "{}", path.len());
    assert_eq!(kernel.counters().unwrap().kind(Kind::Exec).truncated, 1);
    assert_identity(&kernel, seen.len());
}

fn overflow_is_counted_exactly(tier: Tier) {
    let cgroup = Cgroup::new();
    let mut kernel = start(tier, &cgroup, 4096);
    assert!(act("many", &cgroup.0, &["40"]).success());
    let counters = kernel.counters().unwrap();
    let lost: u64 = counters.kinds.iter().map(|(_, c)| c.lost_ring_full).sum();
    assert!(lost > 80, "{counters:?}");
    assert_eq!(counters.lost(), lost + counters.recursion_misses);
    assert_eq!(counters.kind(Kind::Exec).seen, 40, "{counters:?}");
    let seen = take(&mut kernel);
    assert!(!seen.is_empty());
    assert_identity(&kernel, seen.len());
    // The ring works again once it was drained.
    assert!(act("many", &cgroup.0, &["1"]).success());
    let again = take(&mut kernel);
    assert_eq!(execs(&again).len(), 1);
    assert_identity(&kernel, seen.len() + again.len());
}

fn waiting_drain_wakes_up(tier: Tier) {
    let cgroup = Cgroup::new();
    let mut kernel = start(tier, &cgroup, RING_BYTES);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let path = cgroup.0.clone();
    let actor = std::thread::spawn(move || act("many", &path, &["20"]));
    let seen = runtime.block_on(async {
        let mut seen = Vec::new();
        while execs(&seen).len() < 20 {
            let drained = kernel.drain(|bytes| seen.push(own(bytes)));
            let waited = tokio::time::timeout(Duration::from_secs(60), drained).await;
            waited.expect("a drain must wake up").unwrap();
        }
        seen
    });
    assert_eq!(execs(&seen).len(), 20);
    assert!(actor.join().unwrap().success());
}

fn detached_programs_are_gone(tier: Tier) {
    let cgroup = Cgroup::new();
    let mut kernel = start(tier, &cgroup, RING_BYTES);
    kernel.detach();
    assert!(act("many", &cgroup.0, &["3"]).success());
    assert!(take(&mut kernel).is_empty());
    assert_identity(&kernel, 0);
}

fn unusable_options_are_refused(tier: Tier) {
    let cgroup = Cgroup::new();
    let good = Options {
        scope: vec![cgroup.0.clone()],
        tier,
        kinds: KindSet::EMPTY,
        ..Options::default()
    };
    let refused = |options: Options| match load(&options) {
        Ok(_) => panic!("{options:?} was accepted"),
        Err(error) => error.to_string(),
    };
    let ring = refused(Options {
        ring_bytes: 3_000_000,
        ..good.clone()
    });
    assert!(ring.contains("3000000"), "{ring}");
    let scoped = |path: &str| Options {
        scope: vec![path.into()],
        ..good.clone()
    };
    let elsewhere = refused(scoped("/tmp"));
    assert_eq!(elsewhere, "/tmp is not a cgroup v2 directory");
    let nowhere = refused(scoped("/nowhere"));
    assert!(nowhere.contains("/nowhere"), "{nowhere}");
    // What nothing asks for is not attached.
    let kernel = load(&good).unwrap();
    for hook in kernel.hooks() {
        let always = matches!(hook.kind, Kind::Fork | Kind::Exec | Kind::Exit);
        assert_eq!(hook.state == HookState::Attached, always, "{hook:?}");
    }
}

fn deleted_executables_are_marked(tier: Tier) {
    let cgroup = Cgroup::new();
    let folder = tempfile::tempdir().unwrap();
    let mut kernel = start(tier, &cgroup, RING_BYTES);
    let folder = fs::canonicalize(folder.path()).unwrap();
    assert!(act("deleted", &cgroup.0, &[folder.to_str().unwrap()]).success());
    let seen = take(&mut kernel);
    assert_identity(&kernel, seen.len());
    let execs = execs(&seen);
    let [(header, _, strings)] = execs.as_slice() else {
        panic!("{execs:?}");
    };
    assert_eq!(header.flags, record_flag::EXE_DELETED);
    assert_eq!(strings.executable, folder.join("gone").to_str().unwrap());
    assert!(strings.filename.starts_with("/proc/self/fd/"));
}

/// The test itself goes into the cgroup and out of it again.
fn own_acts_are_left_out(tier: Tier) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    for excluded in [true, false] {
        let cgroup = Cgroup::new();
        let mount = cgroup.0.parent().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            scope: vec![cgroup.0.clone()],
            tier,
            own_tgid_excluded: excluded,
            kinds: own::KINDS
                .iter()
                .copied()
                .fold(KindSet::EMPTY, KindSet::with),
            bulk: Bulk {
                watched: vec!["mine".into()],
                ..Bulk::default()
            },
            ..Options::default()
        };
        let mut kernel = load(&options).unwrap();
        fs::write(cgroup.0.join("cgroup.procs"), b"0").unwrap();
        own::act(folder.path());
        assert!(Command::new("/bin/true").status().unwrap().success());
        fs::write(mount.join(own.unwrap()).join("cgroup.procs"), b"0").unwrap();
        let seen = take(&mut kernel);
        assert_identity(&kernel, seen.len());
        let counters = kernel.counters().unwrap();
        for kind in own::KINDS.iter().copied() {
            let (of, what) = (counters.kind(kind), format!("{kind:?}, {excluded}"));
            let sent = seen
                .iter()
                .filter(|seen| header(seen).kind == kind as u16)
                .count();
            assert_eq!(of.dropped_self > 0, excluded, "{what}: {of:?}");
            assert_eq!(sent > 0, !excluded, "{what}: {of:?}");
        }
        assert_eq!(files(&seen).len(), usize::from(!excluded));
        assert_eq!(connects(&seen).len(), usize::from(!excluded));
        // Process records are never left out.
        assert_eq!((forks(&seen).len(), execs(&seen).len()), (1, 1));
    }
}

fn lack_of_privilege_is_named(_: Tier) {
    let exe = tempfile::tempdir().unwrap();
    fs::set_permissions(exe.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = exe.path().join("actor");
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(copy)
        .env(ACTOR, "load")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(said.contains("needs CAP_BPF, CAP_PERFMON"), "{output:?}");
}

/// The process that acts, inside the cgroup.
mod actor {
    use super::*;

    pub(super) fn run(role: &str) -> ExitCode {
        let arguments: Vec<String> = env::args().collect();
        if role == "load" {
            match load(&Options::default()) {
                Ok(_) => println!("loaded"),
                Err(error) => println!("{error}"),
            }
            return ExitCode::SUCCESS;
        }
        fs::write(&arguments[1], b"0").unwrap();
        match role {
            "acts" => acts(&arguments[2..]),
            "many" => many(arguments[2].parse().unwrap()),
            "long" => long(),
            "deleted" => deleted(Path::new(&arguments[2])),
            other => panic!("no role `{other}`"),
        }
        ExitCode::SUCCESS
    }

    fn acts(arguments: &[String]) {
        let [folder, port, port6] = arguments else {
            panic!("{arguments:?}");
        };
        let (port, port6): (u16, u16) = (port.parse().unwrap(), port6.parse().unwrap());
        env::set_current_dir(folder).unwrap();
        std::thread::spawn(|| ()).join().unwrap();
        let mut named = Command::new("/bin/true");
        named.arg0("named").args(["one two", "", "drei"]);
        assert!(named.status().unwrap().success());
        let script = Command::new("./script.sh").status().unwrap();
        assert_eq!(script.code(), Some(3));
        // By its own hand: a kill from here could come before the exec is done.
        let killed = Command::new("/bin/sh").args(["-c", "kill -9 $$"]).status();
        assert_eq!(killed.unwrap().signal(), Some(9));

        fs::write(Path::new(folder).join("absolute"), b"x").unwrap();
        fs::write("relative", b"x").unwrap();
        // Not creations: a file that was there, a second write, a directory, a failed open.
        fs::write("old", b"y").unwrap();
        fs::write("relative", b"y").unwrap();
        fs::create_dir("dir").unwrap();
        assert!(fs::File::create_new("old").is_err());
        fs::write("./dir/../dir/deep", b"x").unwrap();
        fs::File::create_new("exclusive").unwrap();

        TcpStream::connect(("127.0.0.1", port)).unwrap();
        TcpStream::connect(("::1", port6)).unwrap();
        // IPv4 from an IPv6 socket: IPv4 on the wire, so that is what the record says.
        mapped_connect(port);
        // Not an attempt: UDP sends nothing on connect.
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(("127.0.0.1", port)).unwrap();
    }

    fn mapped_connect(port: u16) {
        use rustix::net::{AddressFamily, SocketType, connect, socket};
        let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        let address: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
        connect(&socket, &address).unwrap();
    }

    fn many(count: usize) {
        for number in 0..count {
            let mut command = Command::new("/bin/true");
            command.arg(number.to_string()).arg("x".repeat(number));
            assert!(command.status().unwrap().success());
        }
    }

    fn deleted(folder: &Path) {
        use std::os::fd::AsRawFd;
        let gone = folder.join("gone");
        fs::copy("/bin/true", &gone).unwrap();
        let held = fs::File::open(&gone).unwrap();
        fs::remove_file(&gone).unwrap();
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        assert!(Command::new(path).status().unwrap().success());
    }

    fn long() {
        let mut command = Command::new("/bin/true");
        command.arg("y".repeat(60_000)).arg("last");
        assert!(command.status().unwrap().success());
        // 20 directories of 240 bytes, entered one by one: longer than any path a call takes.
        const DEPTH: usize = 20;
        let name = "d".repeat(240);
        let folder = tempfile::tempdir().unwrap();
        env::set_current_dir(folder.path()).unwrap();
        for _ in 0..DEPTH {
            fs::create_dir(&name).unwrap();
            env::set_current_dir(&name).unwrap();
        }
        fs::write("the-file", b"x").unwrap();
        fs::remove_file("the-file").unwrap();
        for _ in 0..DEPTH {
            env::set_current_dir("..").unwrap();
            fs::remove_dir(&name).unwrap();
        }
        env::set_current_dir("/").unwrap();
    }
}
