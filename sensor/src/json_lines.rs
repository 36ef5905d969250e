//! Events as JSON lines.
//!
//! In: one ECS document a line, and the fields somebody will read. Out: [`FlatEvent`]s that hold those fields' values and
//! the line itself. What nobody reads is checked and skipped, not built. A broken line is an error with its line and
//! column; nothing here panics or keeps state between lines.

mod lines;
mod scan;
mod shape;
mod time;

use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{
    ELEMENTS, Evidence, FieldId, FieldTable, FieldType, Fields, OwnedValue, PLACES, Spelling,
    Value, Values,
};

pub use lines::Lines;

use scan::{Broken, Scan, Str};
use shape::{Shape, Shapes};

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// An event read from JSON: the wanted fields by column, and the line as it was.
#[derive(Debug)]
pub struct FlatEvent {
    /// The line, then the text of strings that had escapes.
    text: Box<str>,
    line_len: u32,
    time_ns: i64,
    tiebreaker: Option<OwnedValue>,
    shape: Arc<Shape>,
    /// One per present column, in column order.
    slots: Box<[Slot]>,
    /// Strings of fields with several.
    pieces: Box<[(u32, u32)]>,
    /// Values of fields with several of mixed kinds, and addresses.
    list: Box<[OwnedValue]>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Missing,
    Object,
    Str(u32, u32),
    Int(i64),
    Float(f64),
    Bool(bool),
    Date(i64),
    /// One value of `list`.
    Owned(u32),
    /// Start and count in `pieces`.
    Pieces(u32, u32),
    /// Start and count in `list`.
    List(u32, u32),
}

impl FlatEvent {
    /// The line the event was read from.
    pub fn line(&self) -> &str {
        self.text.get(..self.line_len as usize).unwrap_or_default()
    }

    /// What decides the order of events of the same time, if a field was named for it and the event has it.
    pub fn tiebreaker(&self) -> Option<&OwnedValue> {
        self.tiebreaker.as_ref()
    }

    fn text_at(&self, start: u32, len: u32) -> &str {
        self.text
            .get(start as usize..start as usize + len as usize)
            .unwrap_or_default()
    }

    fn list_at(&self, start: u32, count: u32) -> &[OwnedValue] {
        self.list
            .get(start as usize..start as usize + count as usize)
            .unwrap_or_default()
    }
}

impl Fields for FlatEvent {
    fn time_ns(&self) -> i64 {
        self.time_ns
    }

    fn bytes(&self) -> usize {
        let texts = self.list.iter().filter_map(|value| match value {
            OwnedValue::Str(text) => Some(&**text),
            _ => None,
        });
        size_of::<Self>()
            + self.text.len()
            + size_of_val(&*self.slots)
            + size_of_val(&*self.pieces)
            + size_of_val(&*self.list)
            + texts.map(str::len).sum::<usize>()
    }

    #[inline]
    fn values(&self, field: FieldId) -> Values<'_> {
        let Some(at) = self.shape.slot(field.0) else {
            return Values::Missing;
        };
        match self.slots.get(at) {
            None | Some(Slot::Missing) => Values::Missing,
            Some(Slot::Object) => Values::Object,
            Some(Slot::Str(start, len)) => Values::One(Value::Str(self.text_at(*start, *len))),
            Some(Slot::Int(i)) => Values::One(Value::Int(*i)),
            Some(Slot::Float(f)) => Values::One(Value::Float(*f)),
            Some(Slot::Bool(b)) => Values::One(Value::Bool(*b)),
            Some(Slot::Date(ns)) => Values::One(Value::Date(*ns)),
            Some(Slot::Owned(at)) => Values::List(self.list_at(*at, 1)),
            Some(Slot::Pieces(start, count)) => {
                let range = *start as usize..*start as usize + *count as usize;
                Values::Pieces(&self.text, self.pieces.get(range).unwrap_or_default())
            }
            Some(Slot::List(start, count)) => Values::List(self.list_at(*start, *count)),
        }
    }

    #[inline]
    fn spell(&self, field: FieldId, out: &mut Spelling) {
        let slot = self.shape.slot(field.0).and_then(|at| self.slots.get(at));
        match slot {
            None => out.push(Values::Missing),
            Some(Slot::Str(start, len)) => {
                out.push_part(&self.text, *start as usize, *len as usize);
            }
            Some(_) => out.push(self.values(field)),
        }
    }
}

impl Evidence for FlatEvent {
    fn document(&self) -> Option<&str> {
        Some(self.line())
    }
}

/// Which fields order the events.
#[derive(Clone, Debug)]
pub struct Options {
    /// ISO 8601, or a number since the epoch: milliseconds, microseconds or nanoseconds by its size.
    pub timestamp: String,
    /// Order of events of the same time; those without it come last.
    pub tiebreaker: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timestamp: "@timestamp".to_owned(),
            tiebreaker: None,
        }
    }
}

/// A line that is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct LineError {
    /// From 1.
    pub line: u64,
    /// Byte of the line, from 1.
    pub column: u64,
    pub message: String,
}

/// Reads lines into events.
#[derive(Debug)]
pub struct Reader {
    nodes: Vec<Node>,
    shapes: Shapes,
    kinds: Vec<Kind>,
    timestamp: String,
    /// Nodes whose elements are numbered.
    numbered: Vec<usize>,
    /// The element at hand, while what is read are the places of values and not the values.
    place: Option<i64>,
    scratch: Scratch,
}

/// One name on the way to a wanted field.
#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<[u8]>, u32)>,
    /// Columns that take the values found here.
    targets: Vec<Target>,
    timestamp: bool,
    tiebreaker: bool,
    /// Where the last look-up stopped: documents of one product keep their order.
    hint: u32,
    /// Some element is wanted by its position.
    has_positions: bool,
    /// Elements are told apart by number, and how many there were in this line.
    has_elements: bool,
    elements: i64,
}

#[derive(Clone, Copy, Debug)]
struct Target {
    column: u16,
    /// This path holds all values of a field whose own path shows only the first.
    complete: bool,
}

/// What to make of a field's text.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Ip,
    Date,
}

/// Buffers of the line at hand.
#[derive(Debug, Default)]
struct Scratch {
    found: Vec<Found>,
    per_column: Vec<Column>,
    pieces: Vec<(u32, u32)>,
    list: Vec<OwnedValue>,
    /// Resolved text of strings with escapes; follows the line in the event's text.
    decoded: String,
    time_ns: Option<i64>,
    tiebreaker: Option<OwnedValue>,
    line_len: usize,
}

/// One value of a wanted field, in document order.
#[derive(Clone, Debug)]
struct Found {
    column: u16,
    /// How directly the document names the field: fewer names on the way win, so a literal key with dots goes first.
    rank: u8,
    slot: Slot,
    ip: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    rank: u8,
    count: u32,
    mixed: bool,
    start: u32,
    filled: u32,
}

/// Marks an object found where a field was wanted: any value of the field goes before it.
const OBJECT_RANK: u8 = u8::MAX;

impl Reader {
    /// A reader that keeps the `wanted` fields. `table` tells their paths, types, and where complete values stand.
    pub fn new(table: &FieldTable, wanted: &[FieldId], options: &Options) -> Self {
        let mut columns = vec![u16::MAX; table.len()];
        let mut reader = Self {
            nodes: vec![Node::default()],
            shapes: Shapes::new(Vec::new(), 0),
            kinds: Vec::new(),
            timestamp: options.timestamp.clone(),
            numbered: Vec::new(),
            place: None,
            scratch: Scratch::default(),
        };
        for field in wanted {
            let Some(slot @ &mut u16::MAX) = columns.get_mut(usize::from(field.0)) else {
                continue;
            };
            let column = u16::try_from(reader.kinds.len()).unwrap_or(u16::MAX);
            *slot = column;
            reader.kinds.push(match table.ty(*field) {
                Some(FieldType::Ip) => Kind::Ip,
                Some(FieldType::Date) => Kind::Date,
                _ => Kind::Plain,
            });
            reader.target(
                table.path(*field),
                Target {
                    column,
                    complete: false,
                },
            );
            if let Some(path) = table.row(*field).and_then(|row| row.all_values) {
                reader.target(
                    path,
                    Target {
                        column,
                        complete: true,
                    },
                );
            }
        }
        let at = reader.node(&options.timestamp);
        if let Some(node) = reader.nodes.get_mut(at) {
            node.timestamp = true;
        }
        if let Some(path) = &options.tiebreaker {
            let at = reader.node(path);
            if let Some(node) = reader.nodes.get_mut(at) {
                node.tiebreaker = true;
            }
        }
        reader.shapes = Shapes::new(columns, reader.kinds.len());
        reader.scratch.per_column = vec![Column::default(); reader.kinds.len()];
        reader
    }

    fn target(&mut self, path: &str, target: Target) {
        let at = self.node(path);
        if let Some(node) = self.nodes.get_mut(at) {
            node.targets.push(target);
        }
    }

    /// The node of a path, made if needed. A position `[n]` is a name of its own.
    fn node(&mut self, path: &str) -> usize {
        let mut at = 0;
        for name in path.split('.') {
            let (name, positions) = match name.find('[') {
                Some(cut) => name.split_at(cut),
                None => (name, ""),
            };
            at = self.child_or_insert(at, name.as_bytes());
            for position in positions.split_inclusive(']') {
                let by_number = position == ELEMENTS || position == PLACES;
                if let Some(node) = self.nodes.get_mut(at) {
                    node.has_positions |= !by_number;
                    if by_number && !node.has_elements {
                        node.has_elements = true;
                        self.numbered.push(at);
                    }
                }
                at = self.child_or_insert(at, position.as_bytes());
            }
        }
        at
    }

    fn child_or_insert(&mut self, at: usize, name: &[u8]) -> usize {
        if let Some(child) = self.child(at, name) {
            return child;
        }
        let id = self.nodes.len();
        self.nodes.push(Node::default());
        if let Some(node) = self.nodes.get_mut(at) {
            node.children
                .push((name.into(), u32::try_from(id).unwrap_or(u32::MAX)));
        }
        id
    }

    /// The child of a node by name. The search starts after the last hit.
    #[inline]
    fn child(&mut self, at: usize, name: &[u8]) -> Option<usize> {
        let node = self.nodes.get_mut(at)?;
        let hint = node.hint as usize;
        let (before, after) = node
            .children
            .split_at_checked(hint)
            .unwrap_or((&[], &node.children));
        let found = after
            .iter()
            .position(|(n, _)| **n == *name)
            .map(|i| i + before.len());
        let found = found.or_else(|| before.iter().position(|(n, _)| **n == *name))?;
        let child = node.children.get(found)?.1;
        node.hint = u32::try_from(found + 1).unwrap_or(0);
        Some(child as usize)
    }

    /// Reads one line (without its line feed) as an event. `number` is the line's, for errors.
    ///
    /// # Errors
    /// Text that is not UTF-8 or not one JSON object, or an event without a readable timestamp.
    pub fn parse(&mut self, line: &[u8], number: u64) -> Result<FlatEvent, LineError> {
        let error = |at: usize, message: String| LineError {
            line: number,
            column: u64::try_from(at + 1).unwrap_or(u64::MAX),
            message,
        };
        // Valid text, which nearly all is, is recognised faster than the place of an error is found.
        let text = simdutf8::basic::from_utf8(line).or_else(|_| {
            std::str::from_utf8(line).map_err(|e| {
                error(
                    e.valid_up_to(),
                    "not valid UTF-8; events are JSON in UTF-8".to_owned(),
                )
            })
        })?;
        if line.len() > LINE_BYTES_MAX {
            return Err(error(
                LINE_BYTES_MAX,
                format!("line longer than {LINE_BYTES_MAX} bytes"),
            ));
        }
        self.scratch.clear(line.len());
        self.place = None;
        for at in &self.numbered {
            if let Some(node) = self.nodes.get_mut(*at) {
                node.elements = 0;
            }
        }
        let mut scan = Scan::new(text);
        self.document(&mut scan).map_err(|e| {
            let found = text.get(e.at..).and_then(|rest| rest.chars().next());
            let found = found.map_or("the end of the line".to_owned(), |c| {
                format!("`{}`", c.escape_debug())
            });
            error(e.at, format!("found {found}, expected {}", e.expected))
        })?;
        let Some(time_ns) = self.scratch.time_ns else {
            let allowed = "ISO 8601, or a number since the epoch";
            return Err(error(
                0,
                format!(
                    "no readable time in `{}`; it takes {allowed}",
                    self.timestamp
                ),
            ));
        };
        Ok(self.event(text, time_ns))
    }

    fn document(&mut self, scan: &mut Scan<'_>) -> Result<(), Broken> {
        if scan.peek() != b'{' {
            return scan.fail("an event, `{`");
        }
        self.object(scan, 0, 0, 0)?;
        match scan.peek() {
            0 if scan.at >= scan.bytes.len() => Ok(()),
            _ => scan.fail("the end of the line"),
        }
    }

    /// Reads a value where `node` is wanted. `rank` counts the names on the way. Returns whether anything but null is in it.
    fn value(
        &mut self,
        scan: &mut Scan<'_>,
        at: usize,
        rank: usize,
        depth: usize,
    ) -> Result<bool, Broken> {
        if self.nodes.get(at).is_some_and(|n| n.has_elements) {
            self.number_element(scan, at, rank, depth)?;
        }
        match scan.peek() {
            b'{' => {
                let present = self.object(scan, at, rank, depth)?;
                if present {
                    self.push(at, usize::from(OBJECT_RANK), Slot::Object);
                }
                Ok(present)
            }
            b'[' => self.array(scan, at, rank, depth),
            b'"' => {
                let string = scan.string()?;
                self.string(scan, at, rank, string)?;
                Ok(true)
            }
            b't' | b'f' | b'n' => match scan.word()? {
                Some(b) => {
                    self.push(at, rank, Slot::Bool(b));
                    Ok(true)
                }
                None => Ok(false),
            },
            _ => {
                let text = scan.number()?;
                let slot = match text.parse() {
                    Ok(i) => Slot::Int(i),
                    Err(_) => match text.parse() {
                        Ok(f) => Slot::Float(f),
                        Err(_) => return scan.fail("a number before this"),
                    },
                };
                self.push(at, rank, slot);
                Ok(true)
            }
        }
    }

    /// Notes the element that comes, and which of the values below are its.
    fn number_element(
        &mut self,
        scan: &mut Scan<'_>,
        at: usize,
        rank: usize,
        depth: usize,
    ) -> Result<(), Broken> {
        // Arrays in arrays are opened, null is no element.
        if matches!(scan.peek(), b'[' | b'n') {
            return Ok(());
        }
        let Some(node) = self.nodes.get_mut(at) else {
            return Ok(());
        };
        let number = node.elements;
        node.elements += 1;
        if let Some(child) = self.child(at, ELEMENTS.as_bytes()) {
            self.push(child, rank, Slot::Int(number));
        }
        if self.place.is_none()
            && let Some(child) = self.child(at, PLACES.as_bytes())
        {
            let start = scan.at;
            self.place = Some(number);
            self.value(scan, child, rank, depth)?;
            self.place = None;
            scan.at = start;
        }
        Ok(())
    }

    fn object(
        &mut self,
        scan: &mut Scan<'_>,
        at: usize,
        rank: usize,
        depth: usize,
    ) -> Result<bool, Broken> {
        scan.enter(depth)?;
        let mut present = false;
        if scan.pass(b'}') {
            return Ok(false);
        }
        loop {
            let key = scan.key()?;
            present |= match self.descend(scan, at, key)? {
                Some(child) => self.value(scan, child, rank + 1, depth + 1)?,
                None => scan.skip(depth + 1)?,
            };
            if !scan.more(b'}', "`,` or `}`")? {
                return Ok(present);
            }
        }
    }

    /// The node a key leads to; a key with dots leads through several.
    #[inline]
    fn descend(&mut self, scan: &Scan<'_>, at: usize, key: Str) -> Result<Option<usize>, Broken> {
        let decoded;
        let name = if key.escaped {
            let mut text = String::new();
            scan.unescape(key, &mut text)?;
            decoded = text;
            decoded.as_bytes()
        } else {
            scan.text(key).as_bytes()
        };
        if let Some(child) = self.child(at, name) {
            return Ok(Some(child));
        }
        if !name.contains(&b'.') {
            return Ok(None);
        }
        let mut at = at;
        for part in name.split(|b| *b == b'.') {
            match self.child(at, part) {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Elements are values of the field itself, and of `[n]` where a position is wanted.
    fn array(
        &mut self,
        scan: &mut Scan<'_>,
        at: usize,
        rank: usize,
        depth: usize,
    ) -> Result<bool, Broken> {
        scan.enter(depth)?;
        let mut present = false;
        if scan.pass(b']') {
            return Ok(false);
        }
        let positions = self.nodes.get(at).is_some_and(|n| n.has_positions);
        let mut index = 0usize;
        loop {
            if positions {
                let start = (scan.peek(), scan.at).1;
                if let Some(child) = self.child(at, format!("[{index}]").as_bytes()) {
                    self.value(scan, child, rank + 1, depth + 1)?;
                    scan.at = start;
                }
            }
            present |= self.value(scan, at, rank, depth + 1)?;
            index += 1;
            if !scan.more(b']', "`,` or `]`")? {
                return Ok(present);
            }
        }
    }

    fn string(
        &mut self,
        scan: &Scan<'_>,
        at: usize,
        rank: usize,
        string: Str,
    ) -> Result<(), Broken> {
        if self.place.is_some() {
            self.push(at, rank, Slot::Int(0));
            return Ok(());
        }
        let Some(node) = self.nodes.get(at) else {
            return Ok(());
        };
        if node.targets.is_empty() && !node.timestamp && !node.tiebreaker {
            return Ok(());
        }
        let (start, len) = if string.escaped {
            let start = self.scratch.decoded.len();
            scan.unescape(string, &mut self.scratch.decoded)?;
            (
                self.scratch.line_len + start,
                self.scratch.decoded.len() - start,
            )
        } else {
            (string.start as usize, (string.end - string.start) as usize)
        };
        let slot = Slot::Str(
            u32::try_from(start).unwrap_or(0),
            u32::try_from(len).unwrap_or(0),
        );
        self.push_text(scan, at, rank, slot);
        Ok(())
    }

    /// Adds a string, read as its field's type.
    fn push_text(&mut self, scan: &Scan<'_>, at: usize, rank: usize, slot: Slot) {
        let Slot::Str(start, len) = slot else { return };
        let scratch = &mut self.scratch;
        let (start, len) = (start as usize, len as usize);
        let text = match start.checked_sub(scratch.line_len) {
            Some(start) => scratch.decoded.get(start..start + len).unwrap_or_default(),
            None => scan.line.get(start..start + len).unwrap_or_default(),
        };
        let Some(node) = self.nodes.get(at) else {
            return;
        };
        if node.timestamp && scratch.time_ns.is_none() {
            scratch.time_ns = time::text_ns(text);
        }
        if node.tiebreaker && scratch.tiebreaker.is_none() {
            scratch.tiebreaker = Some(OwnedValue::Str(text.into()));
        }
        for target in &node.targets {
            let kind = self
                .kinds
                .get(usize::from(target.column))
                .copied()
                .unwrap_or(Kind::Plain);
            let ip = if kind == Kind::Ip {
                text.parse().ok()
            } else {
                None
            };
            let slot = match kind {
                Kind::Date => crate::eql::time::parse_ns(text).map_or(slot, Slot::Date),
                Kind::Plain | Kind::Ip => slot,
            };
            scratch.found.push(Found {
                column: target.column,
                rank: target.rank(rank),
                slot,
                ip,
            });
        }
    }

    fn push(&mut self, at: usize, rank: usize, slot: Slot) {
        let Some(node) = self.nodes.get(at) else {
            return;
        };
        let slot = match (self.place, slot) {
            (Some(number), Slot::Int(_) | Slot::Float(_) | Slot::Bool(_)) => Slot::Int(number),
            _ => slot,
        };
        let scratch = &mut self.scratch;
        if node.timestamp && scratch.time_ns.is_none() {
            scratch.time_ns = match slot {
                Slot::Int(i) => time::number_ns(i),
                Slot::Float(f) => time::float_ns(f),
                _ => None,
            };
        }
        if node.tiebreaker && scratch.tiebreaker.is_none() {
            scratch.tiebreaker = match slot {
                Slot::Int(i) => Some(OwnedValue::Int(i)),
                Slot::Float(f) => Some(OwnedValue::Float(f)),
                Slot::Bool(b) => Some(OwnedValue::Bool(b)),
                _ => None,
            };
        }
        for target in &node.targets {
            let slot = match (self.kinds.get(usize::from(target.column)), slot) {
                (Some(Kind::Date), Slot::Int(ms)) => {
                    ms.checked_mul(1_000_000).map_or(slot, Slot::Date)
                }
                _ => slot,
            };
            scratch.found.push(Found {
                column: target.column,
                rank: target.rank(rank),
                slot,
                ip: None,
            });
        }
    }

    /// Gathers what was found into an event.
    fn event(&mut self, line: &str, time_ns: i64) -> FlatEvent {
        let scratch = &mut self.scratch;
        let shape = self.shapes.of(scratch.found.iter().map(|f| f.column));
        for found in &scratch.found {
            if let Some(column) = scratch.per_column.get_mut(usize::from(found.column)) {
                column.note(found);
            }
        }
        let mut slots = vec![Slot::Missing; shape.len];
        for found in &scratch.found {
            let (Some(column), Some(slot)) = (
                scratch.per_column.get_mut(usize::from(found.column)),
                shape
                    .slot_of_column(found.column)
                    .and_then(|at| slots.get_mut(at)),
            ) else {
                continue;
            };
            if found.rank != column.rank {
                continue;
            }
            if matches!(found.slot, Slot::Object) || (column.count == 1 && found.ip.is_none()) {
                *slot = found.slot;
            } else if column.mixed {
                let value = found.owned(line, &scratch.decoded);
                if column.filled == 0 {
                    column.start = u32::try_from(scratch.list.len()).unwrap_or(0);
                    let room = scratch.list.len() + column.count as usize;
                    scratch.list.resize(room, OwnedValue::Bool(false));
                    *slot = if column.count == 1 {
                        Slot::Owned(column.start)
                    } else {
                        Slot::List(column.start, column.count)
                    };
                }
                if let Some(place) = scratch
                    .list
                    .get_mut((column.start + column.filled) as usize)
                {
                    *place = value;
                }
                column.filled += 1;
            } else if let Slot::Str(start, len) = found.slot {
                if column.filled == 0 {
                    column.start = u32::try_from(scratch.pieces.len()).unwrap_or(0);
                    scratch
                        .pieces
                        .resize(scratch.pieces.len() + column.count as usize, (0, 0));
                    *slot = Slot::Pieces(column.start, column.count);
                }
                if let Some(place) = scratch
                    .pieces
                    .get_mut((column.start + column.filled) as usize)
                {
                    *place = (start, len);
                }
                column.filled += 1;
            }
        }
        for found in &scratch.found {
            if let Some(column) = scratch.per_column.get_mut(usize::from(found.column)) {
                *column = Column::default();
            }
        }
        let text = if scratch.decoded.is_empty() {
            line.into()
        } else {
            [line, &scratch.decoded].concat().into()
        };
        FlatEvent {
            text,
            line_len: u32::try_from(line.len()).unwrap_or(0),
            time_ns,
            tiebreaker: scratch.tiebreaker.take(),
            shape,
            slots: slots.into(),
            pieces: scratch.pieces.as_slice().into(),
            list: scratch.list.drain(..).collect(),
        }
    }
}

impl Target {
    fn rank(self, names: usize) -> u8 {
        if self.complete {
            0
        } else {
            u8::try_from(names).unwrap_or(OBJECT_RANK)
        }
    }
}

impl Found {
    fn owned(&self, line: &str, decoded: &str) -> OwnedValue {
        match self.slot {
            _ if let Some(ip) = self.ip => OwnedValue::Ip(ip),
            Slot::Int(i) => OwnedValue::Int(i),
            Slot::Float(f) => OwnedValue::Float(f),
            Slot::Bool(b) => OwnedValue::Bool(b),
            Slot::Date(ns) => OwnedValue::Date(ns),
            Slot::Str(start, len) => {
                let (start, len) = (start as usize, len as usize);
                let text = match start.checked_sub(line.len()) {
                    Some(start) => decoded.get(start..start + len),
                    None => line.get(start..start + len),
                };
                OwnedValue::Str(text.unwrap_or_default().into())
            }
            _ => OwnedValue::Bool(false),
        }
    }
}

impl Column {
    fn note(&mut self, found: &Found) {
        if self.count == 0 || found.rank < self.rank {
            *self = Column {
                rank: found.rank,
                ..Column::default()
            };
        }
        if found.rank == self.rank {
            self.count += 1;
            self.mixed |= found.ip.is_some() || !matches!(found.slot, Slot::Str(..));
        }
    }
}

impl Scratch {
    fn clear(&mut self, line_len: usize) {
        self.found.clear();
        self.pieces.clear();
        self.list.clear();
        self.decoded.clear();
        self.time_ns = None;
        self.tiebreaker = None;
        self.line_len = line_len;
    }
}

#[cfg(test)]
mod tests;
