//! Vocabulary: what an event's field can hold and how the engine reads it.
//!
//! In: nothing; these are types. Out: [`Value`], [`Values`], [`FieldId`] and the [`Fields`] trait that every kind of event
//! implements (the sensor's own typed events, events read from JSON lines). Must never import another stage.

pub mod act;
pub mod contents;
pub mod dns;
pub mod file;
pub mod network;
pub mod process;
pub mod schema;
mod spelling;
mod table;

use std::net::IpAddr;
use std::sync::Arc;

pub use act::{Memfd, Module, Traced};
pub use contents::{Contents, Program};
pub use dns::Dns;
pub use file::File;
pub use network::Network;
pub use process::{
    Account, Cgroup, Container, Credentials, Entry, EntryKind, Facts, Gauge, Image, Leader,
    Lineage, Process,
};
pub use schema::{FIELDS, FieldRow, FieldType};
pub use spelling::{SPELLING_LEN_MAX, Spelling};
pub use table::FieldTable;

/// Number of a field path. In [`FieldTable::sensor`], below the length of [`FIELDS`], it is a row of that table; above, a
/// path that only foreign data knows, numbered by [`FieldTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldId(pub u16);

/// One value of a field, borrowed from the event. Null is never a value: a missing field has no values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Str(&'a str),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    /// Nanoseconds since the Unix epoch.
    Date(i64),
}

/// An owned [`Value`].
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    Str(Arc<str>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Ip(IpAddr),
    Date(i64),
}

impl OwnedValue {
    pub fn as_value(&self) -> Value<'_> {
        match self {
            OwnedValue::Str(s) => Value::Str(s),
            OwnedValue::Int(i) => Value::Int(*i),
            OwnedValue::Float(f) => Value::Float(*f),
            OwnedValue::Bool(b) => Value::Bool(*b),
            OwnedValue::Ip(ip) => Value::Ip(*ip),
            OwnedValue::Date(ns) => Value::Date(*ns),
        }
    }
}

/// All values of one field of one event, in stored order. Iterate it; it never allocates.
#[derive(Clone, Copy, Debug, Default)]
pub enum Values<'a> {
    #[default]
    Missing,
    One(Value<'a>),
    Strs(&'a [Arc<str>]),
    Static(&'a [&'static str]),
    List(&'a [OwnedValue]),
    /// Pieces of one text, as start and length in bytes.
    Pieces(&'a str, &'a [(u32, u32)]),
    /// Not a value but present: an object with something below it. It equals nothing and is not null.
    Object,
}

impl<'a> Values<'a> {
    pub fn len(&self) -> usize {
        match self {
            Values::Missing => 0,
            Values::One(_) => 1,
            Values::Strs(s) => s.len(),
            Values::Static(s) => s.len(),
            Values::List(l) => l.len(),
            Values::Pieces(_, p) => p.len(),
            Values::Object => 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value at a position, `None` past the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Values::Missing => None,
            Values::One(v) => (index == 0).then_some(*v),
            Values::Strs(s) => s.get(index).map(|s| Value::Str(s)),
            Values::Static(s) => s.get(index).map(|s| Value::Str(s)),
            Values::List(l) => l.get(index).map(OwnedValue::as_value),
            Values::Pieces(text, pieces) => {
                let (start, len) = *pieces.get(index)?;
                text.get(start as usize..start as usize + len as usize)
                    .map(Value::Str)
            }
            Values::Object => None,
        }
    }

    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(move |i| self.get(i))
    }
}

/// Behind the path of an array: the numbers of its elements, from 0, those that are null left out.
pub const ELEMENTS: &str = "[#]";
/// Behind the path of an array, and before the rest of a path: for every value at the whole path, the number of the element it
/// stands in. Readers of foreign data tell; events of the sensor's own have no arrays of objects.
pub const PLACES: &str = "[]";

/// What the engine reads of an event. Implementations are cheap to share (`Arc` inside).
pub trait Fields {
    /// Event time in nanoseconds on the clock that orders this stream (boot clock live, wall clock on replay).
    fn time_ns(&self) -> i64;
    /// Values of a field; [`Values::Missing`] when the event does not carry it.
    fn values(&self, field: FieldId) -> Values<'_>;
    /// Adds the values of a field to a spelling.
    #[inline]
    fn spell(&self, field: FieldId, out: &mut Spelling) {
        out.push(self.values(field));
    }
    /// Bytes that are kept as long as the event is held. What several events share counts for each of them.
    fn bytes(&self) -> usize {
        size_of_val(self)
    }
}

/// An event that can be shown as a whole, as the evidence of an alert.
pub trait Evidence: Fields + Send + Sync {
    /// The typed event, when the sensor made it itself.
    fn typed(&self) -> Option<&Event> {
        None
    }

    /// The JSON document it was read from, on one line; `None` for an event the sensor made itself.
    fn document(&self) -> Option<&str> {
        None
    }
}

impl Evidence for Event {
    fn typed(&self) -> Option<&Event> {
        Some(self)
    }
}

impl<T: Fields + ?Sized> Fields for Arc<T> {
    #[inline]
    fn time_ns(&self) -> i64 {
        (**self).time_ns()
    }

    #[inline]
    fn bytes(&self) -> usize {
        (**self).bytes()
    }

    #[inline]
    fn values(&self, field: FieldId) -> Values<'_> {
        (**self).values(field)
    }

    #[inline]
    fn spell(&self, field: FieldId, out: &mut Spelling) {
        (**self).spell(field, out);
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $action:literal $set:ident [$($category:literal)*] [$($type:literal)*] $dataset:literal;)*) => {
        /// What an event of the sensor reports. Each has one `event.action`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// `event.action`.
            #[must_use]
            pub fn action(self) -> &'static str {
                match self {
                    $(Kind::$name => $action,)*
                }
            }

            /// `event.category`.
            #[must_use]
            pub fn categories(self) -> &'static [&'static str] {
                match self {
                    $(Kind::$name => &[$($category,)*],)*
                }
            }

            /// `event.type`.
            #[must_use]
            pub fn types(self) -> &'static [&'static str] {
                match self {
                    $(Kind::$name => &[$($type,)*],)*
                }
            }

            /// `data_stream.dataset`.
            #[must_use]
            pub fn dataset(self) -> &'static str {
                match self {
                    $(Kind::$name => concat!("endpoint.events.", $dataset),)*
                }
            }

            /// What its events carry besides the process.
            const fn shape(self) -> Shape {
                match self {
                    $(Kind::$name => Shape::$set,)*
                }
            }
        }
    };
}

/// Groups of kinds that carry the same fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Process,
    File,
    Network,
}

// Action, fields, categories, types, dataset.
kinds! {
    Fork = "fork" Process ["process"] ["start"] "process";
    Exec = "exec" Process ["process"] ["start"] "process";
    End = "end" Process ["process"] ["end"] "process";
    /// A process found by the start-up scan.
    AlreadyRunning = "already_running" Process ["process"] ["info"] "process";
    Creation = "creation" File ["file"] ["creation"] "file";
    Rename = "rename" File ["file"] ["change"] "file";
    Deletion = "deletion" File ["file"] ["deletion"] "file";
    /// These have no `event.type`: public rules that ask for a creation, for a change, or for anything but a deletion expect
    /// none of them.
    Link = "link" File ["file"] [] "file";
    Symlink = "symlink" File ["file"] [] "file";
    MakeDirectory = "mkdir" File ["file"] [] "file";
    /// A pipe, a socket or a device.
    MakeNode = "mknod" File ["file"] [] "file";
    /// A file that was there changed; once for each open that changes its contents.
    Modification = "modification" File ["file"] ["change"] "file";
    /// A watched file was opened.
    Open = "open" File ["file"] ["access"] "file";
    /// Modifications and opens of a process are left out from here on: it makes too many.
    ThrottleStarted = "throttle_started" Process ["host"] ["info"] "sensor";
    /// They are reported again.
    ThrottleEnded = "throttle_ended" Process ["host"] ["info"] "sensor";
    ConnectionAttempted = "connection_attempted" Network ["network"] ["start"] "network";
    ConnectionAccepted = "connection_accepted" Network ["network"] ["start"] "network";
    /// A program let go of a connection; what the other side does is not reported.
    DisconnectReceived = "disconnect_received" Network ["network"] ["end"] "network";
    /// This host's own policy refused a connect: a security module, a route, a filter.
    ConnectionDenied = "connection_denied" Network ["network"] ["denied"] "network";
    /// A UDP socket was given a peer; nothing was sent.
    UdpConnect = "udp_connect" Network ["network"] ["connection"] "network";
    LookupRequested = "lookup_requested" Network ["network" "dns"] ["protocol" "info"] "network";
    LookupResult = "lookup_result" Network ["network" "dns"] ["protocol" "info"] "network";
    UidChange = "uid_change" Process ["process"] ["change"] "process";
    GidChange = "gid_change" Process ["process"] ["change"] "process";
    SessionIdChange = "session_id_change" Process ["process"] ["change"] "process";
    MemfdCreate = "memfd_create" Process ["process"] ["start"] "process";
    Ptrace = "ptrace" Process ["process"] ["start"] "process";
    LoadModule = "load_module" Process ["process"] ["start"] "process";
}

/// A set of [`Kind`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    pub const ALL: Kinds = Kinds(u32::MAX);
    pub const NONE: Kinds = Kinds(0);
    pub const PROCESS: Kinds = Kinds::shaped(Shape::Process);
    pub const FILE: Kinds = Kinds::shaped(Shape::File);
    pub const NETWORK: Kinds = Kinds::shaped(Shape::Network);

    /// The groups of kinds that carry the same fields, by their category.
    pub const GROUPS: &[(&str, Kinds)] = &[
        ("process", Kinds::PROCESS),
        ("file", Kinds::FILE),
        ("network", Kinds::NETWORK),
    ];

    const fn shaped(shape: Shape) -> Kinds {
        let mut kinds = Kinds::NONE;
        let mut index = 0;
        while index < Kind::ALL.len() {
            if Kind::ALL[index].shape() as u8 == shape as u8 {
                kinds = kinds.with(Kind::ALL[index]);
            }
            index += 1;
        }
        kinds
    }

    #[must_use]
    pub const fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }

    #[must_use]
    pub const fn without(self, kind: Kind) -> Kinds {
        Kinds(self.0 & !(1 << kind as u8))
    }

    #[must_use]
    pub const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// Whether some kind is in both.
    #[must_use]
    pub const fn intersects(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    #[inline]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .iter()
            .copied()
            .filter(move |kind| self.contains(*kind))
    }
}

/// Facts about this host and this sensor that every event carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `host.id`: the machine id.
    pub id: Arc<str>,
    pub name: Arc<str>,
    /// `host.architecture`, for example `x86_64`.
    pub architecture: Arc<str>,
    /// `host.os.kernel`: the running kernel's release.
    pub kernel: Arc<str>,
    /// `agent.id`: stays the same over restarts.
    pub agent_id: Arc<str>,
    /// Tells one boot from another; part of every process's entity id.
    pub boot_id: Arc<str>,
}

/// What the process acted on.
#[derive(Clone, Debug)]
pub enum Target {
    /// The process itself.
    Process,
    /// The process ended.
    Exit(Exit),
    File(File),
    Network(Network),
    Memfd(Memfd),
    Traced(Traced),
    Module(Module),
    /// Records of the process were left out: so many.
    Dropped(u64),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; also set (to 0) when a signal ended the process.
    pub code: u8,
    /// The fatal signal's number.
    pub signal: Option<u8>,
}

/// How far an event tells what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Some text was cut at its bound.
    pub truncated: bool,
    /// Something could not be read, or did not fit.
    pub incomplete: bool,
}

impl Marks {
    /// A mark is set when its bits are not all 0.
    #[must_use]
    pub fn of(truncated: u32, incomplete: u32) -> Marks {
        Marks {
            truncated: truncated != 0,
            incomplete: incomplete != 0,
        }
    }
}

/// One event of the sensor, typed. Share it as `Arc<Event>`.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: Kind,
    /// Position in this run's stream, from 1.
    pub sequence: u64,
    /// Boot clock, nanoseconds: orders events and drives `maxspan`.
    pub boot_ns: u64,
    /// Unix time, nanoseconds: only ever printed or compared with dates.
    pub wall_ns: i64,
    pub host: Arc<Host>,
    pub process: Arc<Process>,
    /// Effective user and group at the time of the event.
    pub user: Account,
    pub group: Account,
    pub marks: Marks,
    pub target: Target,
}

impl Event {
    /// Unix time of a moment on the boot clock, by the offset this event was stamped with.
    #[must_use]
    pub fn wall_of(&self, boot_ns: u64) -> i64 {
        let then = i64::try_from(boot_ns).unwrap_or(i64::MAX);
        self.wall_ns
            .saturating_sub(self.time_ns())
            .saturating_add(then)
    }

    #[must_use]
    pub fn file(&self) -> Option<&File> {
        match &self.target {
            Target::File(file) => Some(file),
            _ => None,
        }
    }

    /// Whether it is known to have come about: false when the record that says so was lost.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.file().is_none_or(|file| file.confirmed)
    }

    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        match &self.target {
            Target::Network(network) => Some(network),
            _ => None,
        }
    }

    #[must_use]
    pub fn memfd(&self) -> Option<&Memfd> {
        match &self.target {
            Target::Memfd(memfd) => Some(memfd),
            _ => None,
        }
    }

    #[must_use]
    pub fn traced(&self) -> Option<&Traced> {
        match &self.target {
            Target::Traced(traced) => Some(traced),
            _ => None,
        }
    }

    #[must_use]
    pub fn module(&self) -> Option<&Module> {
        match &self.target {
            Target::Module(module) => Some(module),
            _ => None,
        }
    }

    #[must_use]
    pub fn dropped(&self) -> Option<u64> {
        match self.target {
            Target::Dropped(count) => Some(count),
            _ => None,
        }
    }

    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match self.target {
            Target::Exit(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Fields for Event {
    #[inline]
    fn time_ns(&self) -> i64 {
        i64::try_from(self.boot_ns).unwrap_or(i64::MAX)
    }

    fn bytes(&self) -> usize {
        // Twice the image, for the command line made of its arguments. Images of ancestors are counted where all images are.
        let process = size_of::<Process>() + 2 * self.process.facts.image.bytes();
        let of_file = |file: &File| {
            let original = file.original.as_ref().and_then(|path| path.path());
            let texts = [file.path(), original, file.target.as_deref()];
            texts.into_iter().flatten().map(str::len).sum::<usize>()
        };
        size_of::<Event>() + process + self.file().map_or(0, of_file)
    }

    #[inline]
    fn values(&self, field: FieldId) -> Values<'_> {
        match FIELDS.get(usize::from(field.0)) {
            Some(row) if row.kinds.contains(self.kind) => (row.get)(self),
            _ => Values::Missing,
        }
    }
}

/// A short number as text, kept inline: ids are strings in ECS, and events must not allocate for them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digits {
    len: u8,
    bytes: [u8; 20],
}

impl Digits {
    #[must_use]
    pub fn decimal(number: u64) -> Digits {
        Digits::in_base(number, 10)
    }

    /// Octal, padded with zeros to four digits: a file mode.
    #[must_use]
    pub fn mode(mode: u32) -> Digits {
        let mut digits = Digits::in_base(0o10000 | u64::from(mode & 0o7777), 8);
        digits.bytes.copy_within(1.., 0);
        digits.len = 4;
        digits
    }

    /// Digits as they were shown once; `None` for any other text.
    #[must_use]
    pub fn of(shown: &str) -> Option<Digits> {
        let mut bytes = [0_u8; 20];
        let slots = bytes.get_mut(..shown.len())?;
        slots.copy_from_slice(shown.as_bytes());
        let all = shown.bytes().all(|byte| byte.is_ascii_digit());
        let len = u8::try_from(shown.len()).ok().filter(|_| all)?;
        Some(Digits { len, bytes })
    }

    fn in_base(mut number: u64, base: u64) -> Digits {
        let mut reversed = [0_u8; 20];
        let mut len = 0_u8;
        for slot in &mut reversed {
            *slot = b'0' + u8::try_from(number % base).unwrap_or(0);
            len += 1;
            number /= base;
            if number == 0 {
                break;
            }
        }
        let mut bytes = [0_u8; 20];
        let used = reversed.iter().take(usize::from(len));
        for (to, from) in bytes.iter_mut().zip(used.rev()) {
            *to = *from;
        }
        Digits { len, bytes }
    }

    #[must_use]
    #[inline]
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..usize::from(self.len))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_number() {
        for number in [0, 7, 10, 1000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(Digits::decimal(number).as_str(), number.to_string());
        }
        assert_eq!(Digits::mode(0o100_644).as_str(), "0644");
        assert_eq!(Digits::mode(0o104_755).as_str(), "4755");
        assert_eq!(Digits::mode(0).as_str(), "0000");
        assert_eq!(Digits::of("0644"), Some(Digits::mode(0o644)));
        for text in ["6a", "-1", "123456789012345678901"] {
            assert_eq!(Digits::of(text), None, "{text}");
        }
    }
}
