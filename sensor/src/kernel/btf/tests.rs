//! The BTF parser against types built by hand, against damage, and against the running kernel.
//!
//! In: bytes this file makes, and `/sys/kernel/btf/vmlinux` where there is one. Out: offsets and names that must come of them.
//! Must never need root.

use super::*;
use proptest::prelude::*;

/// Builds BTF bytes type by type.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn new() -> Self {
        Builder {
            strings: vec![0],
            ..Builder::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(
        &mut self,
        name: &str,
        kind: u32,
        count: u32,
        flag: bool,
        value: u32,
        own: &[u32],
    ) -> u32 {
        let name = self.name(name);
        let info = u32::from(flag) << 31 | kind << 24 | count;
        for word in [name, info, value].iter().chain(own) {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    fn composite(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let own: Vec<u32> = members
            .iter()
            .flat_map(|(member, ty, offset)| [self.name(member), *ty, *offset])
            .collect();
        let count = u32::try_from(members.len()).unwrap();
        self.add(name, kind, count, flag, size, &own)
    }

    fn bytes(&self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        [bytes, self.types.clone(), self.strings.clone()].concat()
    }
}

/// Every kind, a forward declaration before its structure, a function with the structure's name, anonymous nesting, bit-fields.
fn sample() -> Vec<u8> {
    let mut b = Builder::new();
    let int = b.add("int", INT, 0, false, 4, &[32]);
    b.add("file", FORWARD, 0, false, 0, &[]);
    let pointer = b.add("", POINTER, 0, false, int, &[]);
    let path = b.composite(
        "path",
        STRUCT,
        false,
        16,
        &[("mnt", pointer, 0), ("dentry", pointer, 64)],
    );
    let constant = b.add("", CONST, 0, false, path, &[]);
    let either = b.composite(
        "",
        UNION,
        false,
        16,
        &[("f_path", constant, 0), ("__f_path", path, 0)],
    );
    let array = b.add("", ARRAY, 0, false, 0, &[int, int, 5]);
    b.composite(
        "file",
        STRUCT,
        false,
        40,
        &[("f_mode", int, 32), ("", either, 64), ("slots", array, 192)],
    );
    let own = [b.name("first"), int, b.name("second"), int];
    let prototype = b.add("", PROTOTYPE, 2, false, int, &own);
    b.add("file", FUNCTION, 1, false, prototype, &[]);
    let to_prototype = b.add("", POINTER, 0, false, prototype, &[]);
    b.add("btf_trace_act", TYPEDEF, 0, false, to_prototype, &[]);
    b.composite(
        "flags",
        STRUCT,
        true,
        4,
        &[("low", int, 3 << 24), ("high", int, 1 << 24 | 3)],
    );
    let own = [b.name("A"), 0, b.name("B"), 7];
    b.add("small", ENUM, 2, false, 4, &own);
    let own = [b.name("BIG"), 5, 1];
    b.add("large", ENUM64, 1, false, 8, &own);
    b.add("", TYPE_TAG, 0, false, int, &[]);
    b.add("x", VARIABLE, 0, false, int, &[0]);
    b.add(".data", SECTION, 1, false, 4, &[17, 0, 4]);
    b.add("real", FLOAT, 0, false, 8, &[]);
    b.add("tag", DECLARATION_TAG, 0, false, int, &[0]);
    b.add("loop", TYPEDEF, 0, false, b.count + 1, &[]);
    b.composite("knot", STRUCT, false, 8, &[("", b.count + 1, 0)]);
    b.bytes()
}

#[test]
fn members_are_found_through_anonymous_ones_and_qualifiers() {
    let btf = Btf::parse(sample()).unwrap();
    let at = |owner, path| {
        btf.member(owner, path)
            .unwrap()
            .map(|m| (m.bit_offset, m.bits, m.size))
    };
    assert_eq!(at("file", "f_mode"), Some((32, None, 4)));
    assert_eq!(at("file", "f_path"), Some((64, None, 16)));
    assert_eq!(at("file", "f_path.dentry"), Some((128, None, 8)));
    assert_eq!(at("file", "slots"), Some((192, None, 20)));
    assert_eq!(at("flags", "low"), Some((0, Some(3), 4)));
    assert_eq!(at("flags", "high"), Some((3, Some(1), 4)));
    assert_eq!(at("file", "nothing"), None);
    assert_eq!(at("nothing", "f_mode"), None);
    assert_eq!(at("file", "f_mode.deeper"), None);
    assert_eq!(at("file", ""), None);
    assert_eq!(btf.struct_size("file"), Some(40));
}

#[test]
fn kinds_are_kept_apart() {
    let btf = Btf::parse(sample()).unwrap();
    assert!(btf.exists(TypeKind::Function, "file"));
    assert!(btf.exists(TypeKind::Struct, "file"));
    assert!(!btf.exists(TypeKind::Typedef, "file"));
    assert_eq!(
        btf.parameters("file").unwrap().unwrap(),
        ["first", "second"]
    );
    assert_eq!(btf.parameters("path").unwrap(), None);
    assert_eq!(btf.tracepoint_parameter_count("act").unwrap(), Some(1));
    assert_eq!(btf.enum_value("small", "B"), Some(7));
    assert_eq!(btf.enum_value("large", "BIG"), Some(1 << 32 | 5));
    assert_eq!(btf.enum_value("small", "C"), None);
}

#[test]
fn damage_is_named() {
    assert_eq!(Btf::parse(b"ELF".to_vec()).unwrap_err(), BtfError::Magic);
    let mut bytes = sample();
    bytes.truncate(40);
    assert_eq!(Btf::parse(bytes).unwrap_err(), BtfError::Short("types"));
    let mut b = Builder::new();
    b.add("int", INT, 0, false, 4, &[32]);
    b.add("new", 25, 0, false, 4, &[]);
    assert_eq!(
        Btf::parse(b.bytes()).unwrap_err(),
        BtfError::UnknownKind { id: 2, kind: 25 }
    );
    let mut b = Builder::new();
    let this = b.count + 1;
    b.composite("knot", STRUCT, false, 8, &[("", this, 0)]);
    assert_eq!(
        Btf::parse(b.bytes())
            .unwrap()
            .member("knot", "x")
            .unwrap_err(),
        BtfError::TooDeep(DEPTH_MAX)
    );
}

/// Offsets read from this kernel by other tools; a kernel of another version only has to have the members.
#[test]
fn the_running_kernel_agrees() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        eprintln!("SKIPPED: this kernel has no /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::parse(bytes).unwrap();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let known = [
        ("task_struct", "pid", 1264),
        ("task_struct", "tgid", 1268),
        ("task_struct", "group_leader", 1328),
        ("task_struct", "real_parent", 1280),
        ("task_struct", "start_boottime", 1560),
        ("task_struct", "comm", 1752),
        ("task_struct", "cgroups", 2376),
        ("signal_struct", "pids", 360),
        ("file", "f_path", 64),
        ("file", "f_path.dentry", 72),
        ("file", "f_mode", 4),
        ("dentry", "d_name.len", 36),
        ("dentry", "d_name.name", 40),
        ("mount", "mnt_parent", 16),
        ("linux_binprm", "interp", 104),
        ("mnt_namespace", "ns.inum", 24),
        ("sock", "sk_protocol", 532),
    ];
    for (owner, path, offset) in known {
        let found = btf.member(owner, path).unwrap();
        let found = found.unwrap_or_else(|| panic!("no {owner}.{path}"));
        if release.starts_with("6.18.") && cfg!(target_arch = "x86_64") {
            assert_eq!(found.bit_offset, offset * 8, "{owner}.{path}");
        }
    }
    let secure = btf.member("linux_binprm", "secureexec").unwrap().unwrap();
    assert_eq!(secure.bits, Some(1));
    assert_eq!(
        btf.parameters("security_file_open").unwrap().unwrap().len(),
        1
    );
    assert!(!btf.exists(TypeKind::Struct, "security_file_open"));
    assert_eq!(btf.enum_value("pid_type", "PIDTYPE_PGID"), Some(2));
    let exec = btf.tracepoint_parameter_count("sched_process_exec");
    assert_eq!(exec.unwrap(), Some(3));
}

fn ask_everything(btf: &Btf) {
    for owner in ["file", "flags", "path", "knot", "loop"] {
        for path in ["f_path.dentry", "slots", "low", "x", "mnt.mnt"] {
            let _ = btf.member(owner, path);
        }
        let _ = btf.parameters(owner);
        let _ = btf.struct_size(owner);
    }
    let _ = btf.tracepoint_parameter_count("act");
    let _ = btf.enum_value("small", "B");
    let _ = btf.enum_value("large", "BIG");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }

    #[test]
    fn damaged_btf_never_panics(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }
}
