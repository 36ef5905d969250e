//! Bytes of one ring-buffer record to a borrowed [`Record`].
//!
//! In: the bytes of one record as the kernel wrote them. Out: a typed view that borrows them. Every length is checked;
//! this stage never trusts a number it read and never panics. What a newer object may send (a kind or a part this build
//! does not know) is reported as such, so that the caller skips and counts it.

use sensor_ebpf::{
    ABI, ConnectBody, CredentialsBody, ExecBody, ExitBody, FileActBody, FileBody, FileEndBody,
    ForkBody, Header, Kind, MemfdBody, ModifyBody, ModuleBody, Part, PartKind, PtraceBody,
    SessionBody, ThrottleBody, record_flag,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// One decoded record, borrowing the ring slot. Strings are raw bytes: names on Linux need not be UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub header: &'a Header,
    pub body: Body<'a>,
    /// Parts this build does not know or this kind does not carry; they were skipped.
    pub unknown_parts: u16,
}

/// What happened, with its variable parts.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Fork(&'a ForkBody),
    Exec(Exec<'a>),
    Exit(&'a ExitBody),
    FileCreate(File<'a>),
    Connect(&'a ConnectBody),
    Accept(&'a ConnectBody),
    Close(&'a ConnectBody),
    Credentials(&'a CredentialsBody),
    Session(&'a SessionBody),
    Memfd(Memfd<'a>),
    Ptrace(&'a PtraceBody),
    Module(Module<'a>),
    /// The begin of one of [`sensor_ebpf::settings::FILE_ACTS`]; which one is in the header.
    FileAct(FileAct<'a>),
    FileEnd(&'a FileEndBody),
    Modify(Modify<'a>),
    Open(File<'a>),
    Throttle(&'a ThrottleBody),
    ConnectRefused(&'a ConnectBody),
    UdpConnect(&'a ConnectBody),
    Dns(Lookup<'a>),
    /// Only the header fitted ([`sensor_ebpf::record_flag::DEGRADED`]); the kind is in the header.
    Degraded,
}

/// An exec and its strings. A part that was not sent is empty.
#[derive(Clone, Copy, Debug)]
pub struct Exec<'a> {
    pub body: &'a ExecBody,
    pub filename: &'a [u8],
    pub executable: &'a [u8],
    pub interpreter: &'a [u8],
    pub working_directory: &'a [u8],
    pub comm: &'a [u8],
    /// Arguments separated by NUL, possibly cut.
    pub arguments: &'a [u8],
    /// `NAME=value` texts separated by NUL, possibly cut; empty unless it was asked for.
    pub environment: &'a [u8],
}

/// A file act and its path.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    pub body: &'a FileBody,
    pub path: &'a [u8],
}

/// A memfd and its name, `memfd:` and all.
#[derive(Clone, Copy, Debug)]
pub struct Memfd<'a> {
    pub body: &'a MemfdBody,
    pub name: &'a [u8],
}

/// A kernel module and its name; zeroes may follow it.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    pub body: &'a ModuleBody,
    pub name: &'a [u8],
}

/// The begin of a file act, and its paths. What was not sent is empty.
#[derive(Clone, Copy, Debug)]
pub struct FileAct<'a> {
    pub body: &'a FileActBody,
    /// Where the old path begins, when that is relative.
    pub old_directory: &'a [u8],
    pub old_path: &'a [u8],
    /// Where the path begins, when that is relative.
    pub directory: &'a [u8],
    pub path: &'a [u8],
}

/// A change to a file.
#[derive(Clone, Copy, Debug)]
pub struct Modify<'a> {
    pub body: &'a ModifyBody,
    /// Where a relative path of the caller begins; empty when the path is the kernel's.
    pub directory: &'a [u8],
    pub path: &'a [u8],
}

/// A message sent to or received from a name server.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    pub body: &'a ConnectBody,
    /// The begin of the message.
    pub payload: &'a [u8],
}

/// Why some bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the named piece does.
    #[error("record of {len} bytes ends inside its {piece}")]
    Short { piece: &'static str, len: usize },
    /// The start of the bytes is not 8-byte aligned; ring slots always are.
    #[error("record does not start at a multiple of 8 bytes")]
    Unaligned,
    /// Object and daemon disagree about the layout.
    #[error("record layout version is {found}, must be {ABI}")]
    Abi { found: u16 },
    /// A kind this build does not know; skip it.
    #[error("record kind {0} is not known to this build")]
    UnknownKind(u16),
    /// [`Header::len`] is not the length of the slot, or not a multiple of 8.
    #[error("record says it has {stated} bytes, its slot has {actual}")]
    Length { stated: u32, actual: usize },
    /// Bytes are left after the last part.
    #[error("{0} bytes follow the last part of the record")]
    Trailing(usize),
}

impl DecodeError {
    /// True when the record is well formed but newer than this build: count it apart from damage.
    pub fn is_unknown(&self) -> bool {
        matches!(self, DecodeError::UnknownKind(_))
    }
}

/// The kind of a record, or `None` for a number this build does not know.
pub fn kind_of(number: u16) -> Option<Kind> {
    Kind::ALL
        .iter()
        .copied()
        .find(|kind| *kind as u16 == number)
}

/// Reads one record.
///
/// # Errors
///
/// See [`DecodeError`]. No bytes whatever make it panic.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let total = bytes.len();
    let (header, rest) = take::<Header>(bytes, "header", total)?;
    if header.abi != ABI {
        return Err(DecodeError::Abi { found: header.abi });
    }
    if usize::try_from(header.len) != Ok(total) || !total.is_multiple_of(8) {
        return Err(DecodeError::Length {
            stated: header.len,
            actual: total,
        });
    }
    let kind = kind_of(header.kind).ok_or(DecodeError::UnknownKind(header.kind))?;
    if header.flags & record_flag::DEGRADED != 0 {
        return if rest.is_empty() {
            Ok(Record {
                header,
                body: Body::Degraded,
                unknown_parts: 0,
            })
        } else {
            Err(DecodeError::Trailing(rest.len()))
        };
    }
    let (body, unknown_parts) = decode_body(kind, header, rest, total)?;
    Ok(Record {
        header,
        body,
        unknown_parts,
    })
}

fn decode_body<'a>(
    kind: Kind,
    header: &Header,
    rest: &'a [u8],
    total: usize,
) -> Result<(Body<'a>, u16), DecodeError> {
    let mut unknown = 0;
    let body = match kind {
        Kind::Fork => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Fork(body)
        }
        Kind::Exit => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Exit(body)
        }
        Kind::Connect | Kind::Accept | Kind::Close | Kind::ConnectRefused | Kind::UdpConnect => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            match kind {
                Kind::Accept => Body::Accept(body),
                Kind::Close => Body::Close(body),
                Kind::ConnectRefused => Body::ConnectRefused(body),
                Kind::UdpConnect => Body::UdpConnect(body),
                _ => Body::Connect(body),
            }
        }
        Kind::Credentials => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Credentials(body)
        }
        Kind::Session => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Session(body)
        }
        Kind::Ptrace => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Ptrace(body)
        }
        Kind::Memfd => {
            let (body, rest) = take(rest, "body", total)?;
            let (name, others) = named(header, rest, total)?;
            unknown += others;
            Body::Memfd(Memfd { body, name })
        }
        Kind::Module => {
            let (body, rest) = take(rest, "body", total)?;
            let (name, others) = named(header, rest, total)?;
            unknown += others;
            Body::Module(Module { body, name })
        }
        Kind::Throttle => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::Throttle(body)
        }
        Kind::Dns => {
            let (body, rest) = take(rest, "body", total)?;
            let mut lookup = Lookup { body, payload: &[] };
            unknown += parts(header, rest, total, |kind, bytes| {
                if kind == PartKind::Payload as u16 {
                    lookup.payload = bytes;
                    return true;
                }
                false
            })?;
            Body::Dns(lookup)
        }
        Kind::FileCreate => {
            let (body, rest) = take(rest, "body", total)?;
            let mut file = File { body, path: &[] };
            unknown += parts(header, rest, total, |kind, bytes| {
                if kind == PartKind::Path as u16 {
                    file.path = bytes;
                    return true;
                }
                false
            })?;
            Body::FileCreate(file)
        }
        Kind::Rename
        | Kind::Delete
        | Kind::Link
        | Kind::Symlink
        | Kind::MakeDirectory
        | Kind::MakeNode => {
            let (body, rest) = take(rest, "body", total)?;
            let mut act = FileAct {
                body,
                old_directory: &[],
                old_path: &[],
                directory: &[],
                path: &[],
            };
            unknown += parts(header, rest, total, |kind, bytes| act.set(kind, bytes))?;
            Body::FileAct(act)
        }
        Kind::FileEnd => {
            let (body, rest) = take(rest, "body", total)?;
            unknown += parts(header, rest, total, |_, _| false)?;
            Body::FileEnd(body)
        }
        Kind::Modify => {
            let (body, rest) = take(rest, "body", total)?;
            let (directory, path) = placed(header, rest, total, &mut unknown)?;
            Body::Modify(Modify {
                body,
                directory,
                path,
            })
        }
        Kind::Open => {
            let (body, rest) = take(rest, "body", total)?;
            let (_, path) = placed(header, rest, total, &mut unknown)?;
            Body::Open(File { body, path })
        }
        Kind::Exec => {
            let (body, rest) = take(rest, "body", total)?;
            let mut exec = Exec {
                body,
                filename: &[],
                executable: &[],
                interpreter: &[],
                working_directory: &[],
                comm: &[],
                arguments: &[],
                environment: &[],
            };
            unknown += parts(header, rest, total, |kind, bytes| exec.set(kind, bytes))?;
            Body::Exec(exec)
        }
    };
    Ok((body, unknown))
}

/// The parts of records that may carry a path of the caller's: the directory it begins at, and the path.
fn placed<'a>(
    header: &Header,
    rest: &'a [u8],
    total: usize,
    unknown: &mut u16,
) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
    let (mut directory, mut path): (&[u8], &[u8]) = (&[], &[]);
    *unknown += parts(header, rest, total, |kind, bytes| {
        match kind {
            k if k == PartKind::WorkingDirectory as u16 => directory = bytes,
            k if k == PartKind::Path as u16 => path = bytes,
            _ => return false,
        }
        true
    })?;
    Ok((directory, path))
}

impl<'a> Exec<'a> {
    /// Puts the bytes of one part in their place; false when an exec has no such part.
    fn set(&mut self, kind: u16, bytes: &'a [u8]) -> bool {
        let place = match kind {
            k if k == PartKind::Filename as u16 => &mut self.filename,
            k if k == PartKind::Executable as u16 => &mut self.executable,
            k if k == PartKind::Interpreter as u16 => &mut self.interpreter,
            k if k == PartKind::WorkingDirectory as u16 => &mut self.working_directory,
            k if k == PartKind::Comm as u16 => &mut self.comm,
            k if k == PartKind::Arguments as u16 => &mut self.arguments,
            k if k == PartKind::Environment as u16 => &mut self.environment,
            _ => return false,
        };
        *place = bytes;
        true
    }
}

impl<'a> FileAct<'a> {
    /// Puts the bytes of one part in their place; false when a file act has no such part. A directory is that of the path
    /// which follows it.
    fn set(&mut self, kind: u16, bytes: &'a [u8]) -> bool {
        match kind {
            k if k == PartKind::WorkingDirectory as u16 => self.directory = bytes,
            k if k == PartKind::OldPath as u16 => {
                self.old_path = bytes;
                self.old_directory = std::mem::take(&mut self.directory);
            }
            k if k == PartKind::Path as u16 => self.path = bytes,
            _ => return false,
        }
        true
    }
}

/// Splits a `T` off the front of `bytes`.
fn take<'a, T: FromBytes + KnownLayout + Immutable>(
    bytes: &'a [u8],
    piece: &'static str,
    total: usize,
) -> Result<(&'a T, &'a [u8]), DecodeError> {
    T::ref_from_prefix(bytes).map_err(|error| match error {
        zerocopy::CastError::Alignment(_) => DecodeError::Unaligned,
        zerocopy::CastError::Size(_) | zerocopy::CastError::Validity(_) => {
            DecodeError::Short { piece, len: total }
        }
    })
}

/// The name among the parts, empty without one, and how many others there are.
fn named<'a>(
    header: &Header,
    rest: &'a [u8],
    total: usize,
) -> Result<(&'a [u8], u16), DecodeError> {
    let mut name: &[u8] = &[];
    let unknown = parts(header, rest, total, |kind, bytes| {
        if kind == PartKind::Name as u16 {
            name = bytes;
            return true;
        }
        false
    })?;
    Ok((name, unknown))
}

/// Walks the part table and its bytes, hands each part to `set`, and returns how many `set` did not want.
fn parts<'a>(
    header: &Header,
    rest: &'a [u8],
    total: usize,
    mut set: impl FnMut(u16, &'a [u8]) -> bool,
) -> Result<u16, DecodeError> {
    let (table, mut bytes) = <[Part]>::ref_from_prefix_with_elems(rest, usize::from(header.parts))
        .map_err(|error| match error {
            zerocopy::CastError::Alignment(_) => DecodeError::Unaligned,
            zerocopy::CastError::Size(_) | zerocopy::CastError::Validity(_) => DecodeError::Short {
                piece: "part table",
                len: total,
            },
        })?;
    let short = DecodeError::Short {
        piece: "parts",
        len: total,
    };
    let mut unknown = 0;
    for part in table {
        let len = usize::from(part.len);
        let captured = bytes.get(..len).ok_or(short)?;
        bytes = bytes.get(len.next_multiple_of(8)..).ok_or(short)?;
        if !set(part.kind, captured) {
            unknown += 1;
        }
    }
    if bytes.is_empty() {
        Ok(unknown)
    } else {
        Err(DecodeError::Trailing(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    /// Bytes whose start is aligned as a ring slot's is.
    struct Slot(Vec<u64>, usize);

    impl Slot {
        fn new(bytes: &[u8]) -> Self {
            let mut words = vec![0u64; bytes.len().div_ceil(8)];
            words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
            Slot(words, bytes.len())
        }

        fn bytes(&self) -> &[u8] {
            &self.0.as_bytes()[..self.1]
        }
    }

    fn body_len(kind: Kind) -> usize {
        match kind {
            Kind::Fork => size_of::<ForkBody>(),
            Kind::Exec => size_of::<ExecBody>(),
            Kind::Exit => size_of::<ExitBody>(),
            Kind::FileCreate | Kind::Open => size_of::<FileBody>(),
            Kind::Modify => size_of::<ModifyBody>(),
            Kind::Throttle => size_of::<ThrottleBody>(),
            Kind::Connect
            | Kind::Accept
            | Kind::Close
            | Kind::ConnectRefused
            | Kind::UdpConnect
            | Kind::Dns => size_of::<ConnectBody>(),
            Kind::Credentials => size_of::<CredentialsBody>(),
            Kind::Session => size_of::<SessionBody>(),
            Kind::Memfd => size_of::<MemfdBody>(),
            Kind::Ptrace => size_of::<PtraceBody>(),
            Kind::Module => size_of::<ModuleBody>(),
            Kind::Rename
            | Kind::Delete
            | Kind::Link
            | Kind::Symlink
            | Kind::MakeDirectory
            | Kind::MakeNode => size_of::<FileActBody>(),
            Kind::FileEnd => size_of::<FileEndBody>(),
        }
    }

    fn record(kind: u16, flags: u32, body: &[u8], parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut tail = body.to_vec();
        for (kind, bytes) in parts {
            let part = Part {
                kind: *kind,
                flags: 0,
                len: u16::try_from(bytes.len()).unwrap(),
                reserved: 0,
            };
            tail.extend_from_slice(part.as_bytes());
        }
        for (_, bytes) in parts {
            tail.extend_from_slice(bytes);
            tail.resize(tail.len().next_multiple_of(8), 0);
        }
        let mut header = Header::new_zeroed();
        header.abi = ABI;
        header.kind = kind;
        header.flags = flags;
        header.tgid = 4711;
        header.parts = u16::try_from(parts.len()).unwrap();
        header.len = u32::try_from(64 + tail.len()).unwrap();
        [header.as_bytes(), &tail].concat()
    }

    #[test]
    fn exec_round_trips_with_bytes_that_are_not_utf8() {
        let mut body = ExecBody::new_zeroed();
        body.args_count = 3;
        let slot = Slot::new(&record(
            Kind::Exec as u16,
            0,
            body.as_bytes(),
            &[
                (PartKind::Filename as u16, b"./a\xff"),
                (PartKind::Executable as u16, b"/tmp/a\xff"),
                (PartKind::WorkingDirectory as u16, b"/tmp"),
                (PartKind::Comm as u16, b"a\xff"),
                (PartKind::Arguments as u16, b"a\0b\0c\0"),
                (PartKind::Environment as u16, b"X=\xff\0"),
            ],
        ));
        let record = decode(slot.bytes()).unwrap();
        assert_eq!(record.header.tgid, 4711);
        assert_eq!(record.unknown_parts, 0);
        let Body::Exec(exec) = record.body else {
            panic!("not an exec: {record:?}");
        };
        assert_eq!(exec.body.args_count, 3);
        assert_eq!(exec.filename, b"./a\xff");
        assert_eq!(exec.executable, b"/tmp/a\xff");
        assert_eq!(exec.interpreter, b"");
        assert_eq!(exec.working_directory, b"/tmp");
        assert_eq!(exec.comm, b"a\xff");
        assert_eq!(exec.arguments, b"a\0b\0c\0");
        assert_eq!(exec.environment, b"X=\xff\0");
    }

    #[test]
    fn file_fork_exit_and_connect_round_trip() {
        let mut file = FileBody::new_zeroed();
        file.inode = 99;
        let slot = Slot::new(&record(
            Kind::FileCreate as u16,
            0,
            file.as_bytes(),
            &[(PartKind::Path as u16, b"/tmp/x")],
        ));
        match decode(slot.bytes()).unwrap().body {
            Body::FileCreate(file) => {
                assert_eq!((file.body.inode, file.path), (99, &b"/tmp/x"[..]))
            }
            other => panic!("{other:?}"),
        }

        let mut fork = ForkBody::new_zeroed();
        fork.parent_tgid = 7;
        let slot = Slot::new(&record(Kind::Fork as u16, 0, fork.as_bytes(), &[]));
        assert!(
            matches!(decode(slot.bytes()).unwrap().body, Body::Fork(body) if body.parent_tgid == 7)
        );

        let mut exit = ExitBody::new_zeroed();
        exit.status = 256;
        let slot = Slot::new(&record(Kind::Exit as u16, 0, exit.as_bytes(), &[]));
        assert!(
            matches!(decode(slot.bytes()).unwrap().body, Body::Exit(body) if body.status == 256)
        );

        let mut connect = ConnectBody::new_zeroed();
        connect.remote_port = 4444;
        let slot = Slot::new(&record(Kind::Connect as u16, 0, connect.as_bytes(), &[]));
        assert!(
            matches!(decode(slot.bytes()).unwrap().body, Body::Connect(body) if body.remote_port == 4444)
        );
    }

    #[test]
    fn file_acts_round_trip_with_the_directory_of_each_path() {
        let mut body = FileActBody::new_zeroed();
        (body.token, body.inode) = (5, 99);
        let whole: &[(u16, &[u8])] = &[
            (PartKind::WorkingDirectory as u16, b"/old"),
            (PartKind::OldPath as u16, b"a"),
            (PartKind::WorkingDirectory as u16, b"/new"),
            (PartKind::Path as u16, b"b\xff"),
        ];
        let absolute: &[(u16, &[u8])] = &[
            (PartKind::OldPath as u16, b"/old/a"),
            (PartKind::Path as u16, b"/new/b"),
        ];
        type Parts<'a> = &'a [(u16, &'a [u8])];
        let cases: &[(Parts<'_>, [&[u8]; 4])] = &[
            (whole, [b"/old", b"a", b"/new", b"b\xff"]),
            (absolute, [b"", b"/old/a", b"", b"/new/b"]),
            (&whole[2..], [b"", b"", b"/new", b"b\xff"]),
            (&whole[..2], [b"/old", b"a", b"", b""]),
        ];
        for kind in sensor_ebpf::settings::FILE_ACTS {
            for (parts, expected) in cases {
                let slot = Slot::new(&record(kind as u16, 0, body.as_bytes(), parts));
                let Body::FileAct(act) = decode(slot.bytes()).unwrap().body else {
                    panic!("{kind:?} is no file act");
                };
                assert_eq!((act.body.token, act.body.inode), (5, 99));
                let found = [act.old_directory, act.old_path, act.directory, act.path];
                assert_eq!(found, *expected, "{kind:?}");
            }
        }
        let mut end = FileEndBody::new_zeroed();
        (end.token, end.result) = (5, -13);
        let slot = Slot::new(&record(Kind::FileEnd as u16, 0, end.as_bytes(), &[]));
        assert!(matches!(
            decode(slot.bytes()).unwrap().body,
            Body::FileEnd(end) if (end.token, end.result) == (5, -13)
        ));
    }

    #[test]
    fn unknown_parts_are_skipped_and_counted() {
        let slot = Slot::new(&record(
            Kind::FileCreate as u16,
            0,
            FileBody::new_zeroed().as_bytes(),
            &[(900, b"later"), (PartKind::Path as u16, b"/x")],
        ));
        let record = decode(slot.bytes()).unwrap();
        assert_eq!(record.unknown_parts, 1);
        assert!(matches!(record.body, Body::FileCreate(file) if file.path == b"/x"));
    }

    #[test]
    fn damage_is_named() {
        let good = record(Kind::Exit as u16, 0, ExitBody::new_zeroed().as_bytes(), &[]);
        let error = |bytes: &[u8]| decode(Slot::new(bytes).bytes()).unwrap_err();
        assert_eq!(
            error(&good[..40]),
            DecodeError::Short {
                piece: "header",
                len: 40
            }
        );
        assert_eq!(
            error(&good[..64]),
            DecodeError::Length {
                stated: 72,
                actual: 64
            }
        );
        let mut other = good.clone();
        other[0] = 9;
        assert_eq!(error(&other), DecodeError::Abi { found: 9 });
        assert_eq!(
            error(&record(77, 0, &[], &[])),
            DecodeError::UnknownKind(77)
        );
        assert!(error(&record(77, 0, &[], &[])).is_unknown());
        assert_eq!(
            error(&record(Kind::Exit as u16, 0, &[0; 16], &[])),
            DecodeError::Trailing(8)
        );
        assert_eq!(
            error(&record(
                Kind::Exit as u16,
                record_flag::DEGRADED,
                &[0; 8],
                &[]
            )),
            DecodeError::Trailing(8)
        );
        let degraded = Slot::new(&record(Kind::Exec as u16, record_flag::DEGRADED, &[], &[]));
        assert!(matches!(
            decode(degraded.bytes()).unwrap().body,
            Body::Degraded
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(Slot::new(&bytes).bytes());
        }

        /// Starts from a good record, so that mutations reach past the header checks.
        #[test]
        fn damaged_records_never_panic(
            kind in 0u16..32,
            parts in prop::collection::vec((0u16..9, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let parts: Vec<(u16, &[u8])> = parts.iter().map(|(k, b)| (*k, b.as_slice())).collect();
            let known = kind_of(kind);
            let body = vec![0; known.map_or(0, body_len)];
            let mut bytes = record(kind, 0, &body, &parts);
            let whole = decode(Slot::new(&bytes).bytes()).is_ok();
            prop_assert_eq!(whole, known.is_some());
            for (at, value) in hits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = decode(Slot::new(&bytes).bytes());
            // A cut record whose header is honest about its length.
            let len = cut.index(bytes.len() + 1);
            bytes.truncate(len);
            if let (Some(place), Ok(len)) = (bytes.get_mut(4..8), u32::try_from(len)) {
                place.copy_from_slice(&len.to_le_bytes());
            }
            let _ = decode(Slot::new(&bytes).bytes());
        }
    }
}
