//! The kernel's type information (BTF): where a member lies, what a function takes.
//!
//! In: the bytes of `/sys/kernel/btf/vmlinux`. Out: member offsets by dotted path, parameter names, enum values, and whether a
//! type exists. Types are looked up by kind *and* name, since names repeat across kinds, and a forward declaration is never
//! taken for the structure itself. No bytes whatever make it panic or loop.

use std::collections::HashMap;

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    #[error("not BTF of this machine's byte order: the first two bytes are not 9f eb")]
    Magic,
    #[error("BTF ends inside its {0}")]
    Short(&'static str),
    #[error("type {id} has kind {kind}, this build knows kinds 1 to 19")]
    UnknownKind { id: u32, kind: u32 },
    #[error("type {0} is referred to, but there is none")]
    NoSuchType(u32),
    #[error("types are nested or chained more than {0} deep")]
    TooDeep(u32),
}

/// Kinds that can be looked up by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TypeKind {
    Struct = 4,
    Union = 5,
    Enum = 6,
    Typedef = 8,
    Function = 12,
    Enum64 = 19,
}

/// Where a member lies in its outermost structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberAt {
    pub bit_offset: u32,
    /// Width of a bit-field; `None` for an ordinary member.
    pub bits: Option<u32>,
    /// Size in bytes of the member's type; 0 for a flexible array.
    pub size: u32,
}

const INT: u32 = 1;
const POINTER: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNCTION: u32 = 12;
const PROTOTYPE: u32 = 13;
const VARIABLE: u32 = 14;
const SECTION: u32 = 15;
const FLOAT: u32 = 16;
const DECLARATION_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Deepest chain of typedefs, qualifiers and arrays, and deepest nesting of anonymous members.
const DEPTH_MAX: u32 = 32;
/// Largest number of members looked at for one path; real structures have some hundreds.
const MEMBERS_MAX: u32 = 100_000;

/// Parsed BTF: the bytes, and where each type begins.
#[derive(Clone, Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Byte offset of type `i + 1`.
    types: Vec<u32>,
    /// The first type of each kind and name that can be looked up, by [`name_key`].
    named: HashMap<u64, u32>,
    strings: (usize, usize),
}

/// The fixed part of one type.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    count: u32,
    kind_flag: bool,
    /// Size of the type, or the type it refers to.
    size_or_type: u32,
    /// Where the kind's own bytes begin.
    at: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    let word = bytes.get(at..end)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// FNV-1a of a kind and a name.
fn name_key(kind: u32, name: &[u8]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    name.iter().fold(BASIS ^ u64::from(kind), |key, byte| {
        (key ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}

fn place(number: u32) -> usize {
    // BTF is addressed with 32 bits; every supported target has at least as many.
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Btf {
    /// Finds where each type begins.
    ///
    /// # Errors
    ///
    /// Bytes that end early, of another byte order, or with a kind this build does not know.
    pub fn parse(bytes: Vec<u8>) -> Result<Btf, BtfError> {
        if bytes.get(..2) != Some(&[0x9f, 0xeb]) {
            return Err(BtfError::Magic);
        }
        let header = |at| word(&bytes, at).map(place).ok_or(BtfError::Short("header"));
        let base = header(4)?;
        let section = |offset: usize, len: usize, name| {
            let begin = base.checked_add(offset).ok_or(BtfError::Short(name))?;
            let end = begin.checked_add(len).ok_or(BtfError::Short(name))?;
            if end > bytes.len() {
                return Err(BtfError::Short(name));
            }
            Ok((begin, end))
        };
        let (mut at, end) = section(header(8)?, header(12)?, "types")?;
        let strings = section(header(16)?, header(20)?, "strings")?;
        let mut types = Vec::new();
        while at < end {
            let id = u32::try_from(types.len() + 1).map_err(|_| BtfError::Short("types"))?;
            let info = word(&bytes, at + 4).ok_or(BtfError::Short("types"))?;
            let (kind, count) = (info >> 24 & 0x1f, place(info & 0xffff));
            let own = match kind {
                INT | VARIABLE | DECLARATION_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | SECTION | ENUM64 => count * 12,
                ENUM | PROTOTYPE => count * 8,
                POINTER | FORWARD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNCTION | FLOAT
                | TYPE_TAG => 0,
                _ => return Err(BtfError::UnknownKind { id, kind }),
            };
            types.push(u32::try_from(at).map_err(|_| BtfError::Short("types"))?);
            at = at
                .checked_add(12 + own)
                .filter(|next| *next <= end)
                .ok_or(BtfError::Short("types"))?;
        }
        let mut btf = Btf {
            bytes,
            types,
            named: HashMap::new(),
            strings,
        };
        btf.named = btf.index();
        Ok(btf)
    }

    fn index(&self) -> HashMap<u64, u32> {
        let mut named = HashMap::with_capacity(self.types.len());
        for (id, at) in (1u32..).zip(&self.types) {
            if let Some((kind @ (STRUCT | UNION | ENUM | TYPEDEF | FUNCTION | ENUM64), name)) =
                self.kind_and_name(place(*at))
            {
                named.entry(name_key(kind, name)).or_insert(id);
            }
        }
        named
    }

    /// Of the type that begins at a place.
    fn kind_and_name(&self, at: usize) -> Option<(u32, &[u8])> {
        let kind = word(&self.bytes, at + 4)? >> 24 & 0x1f;
        Some((kind, self.string(word(&self.bytes, at)?)?))
    }

    /// True when there is a type of this kind and name.
    pub fn exists(&self, kind: TypeKind, name: &str) -> bool {
        self.find(kind as u32, name).is_some()
    }

    /// Where a member lies: `path` is dotted and looks through anonymous members. `None` when structure or member is absent.
    ///
    /// # Errors
    ///
    /// Types that refer to none, or are nested deeper than any kernel's.
    pub fn member(&self, owner: &str, path: &str) -> Result<Option<MemberAt>, BtfError> {
        let Some(mut at) = self.find(STRUCT, owner).or_else(|| self.find(UNION, owner)) else {
            return Ok(None);
        };
        let mut found = MemberAt {
            bit_offset: 0,
            bits: None,
            size: 0,
        };
        for name in path.split('.') {
            if name.is_empty() {
                // That is what anonymous members are called.
                return Ok(None);
            }
            let composite = self.strip(at)?;
            let mut budget = MEMBERS_MAX;
            let Some((offset, bits, ty)) = self.member_in(composite, name, 0, &mut budget)? else {
                return Ok(None);
            };
            found.bit_offset = found.bit_offset.wrapping_add(offset);
            found.bits = bits;
            at = ty;
        }
        found.size = self.size(at)?;
        Ok(Some(found))
    }

    /// Size in bytes of a structure.
    pub fn struct_size(&self, name: &str) -> Option<u32> {
        let id = self.find(STRUCT, name)?;
        self.ty(id).ok().map(|ty| ty.size_or_type)
    }

    /// Parameter names of a function, in order. `None` when there is no such function.
    ///
    /// # Errors
    ///
    /// Types that refer to none.
    pub fn parameters(&self, function: &str) -> Result<Option<Vec<String>>, BtfError> {
        let Some(id) = self.find(FUNCTION, function) else {
            return Ok(None);
        };
        self.prototype_parameters(self.ty(id)?.size_or_type)
    }

    /// Whether a function returns a pointer. `None` when there is no such function.
    ///
    /// # Errors
    ///
    /// Types that refer to none.
    pub fn returns_pointer(&self, function: &str) -> Result<Option<bool>, BtfError> {
        let Some(id) = self.find(FUNCTION, function) else {
            return Ok(None);
        };
        let prototype = self.ty(self.ty(id)?.size_or_type)?;
        // Type 0 is `void`.
        if prototype.kind != PROTOTYPE || prototype.size_or_type == 0 {
            return Ok(Some(false));
        }
        let returned = self.ty(self.strip(prototype.size_or_type)?)?;
        Ok(Some(returned.kind == POINTER))
    }

    /// Number of parameters of a tracepoint, without the first that every tracepoint has; their names are not in BTF. `None`
    /// when there is no such tracepoint.
    ///
    /// # Errors
    ///
    /// Types that refer to none.
    pub fn tracepoint_parameter_count(&self, name: &str) -> Result<Option<usize>, BtfError> {
        let Some(id) = self.find(TYPEDEF, &format!("btf_trace_{name}")) else {
            return Ok(None);
        };
        let pointer = self.ty(self.strip(id)?)?;
        if pointer.kind != POINTER {
            return Ok(None);
        }
        let parameters = self.prototype_parameters(self.strip(pointer.size_or_type)?)?;
        Ok(parameters.map(|names| names.len().saturating_sub(1)))
    }

    /// The value of an enumerator; 64-bit ones included.
    pub fn enum_value(&self, name: &str, enumerator: &str) -> Option<u64> {
        let ty = self
            .find(ENUM, name)
            .or_else(|| self.find(ENUM64, name))
            .and_then(|id| self.ty(id).ok())?;
        let stride = if ty.kind == ENUM { 8 } else { 12 };
        (0..place(ty.count)).find_map(|index| {
            let at = ty.at + index * stride;
            if self.string(word(&self.bytes, at)?) != Some(enumerator.as_bytes()) {
                return None;
            }
            let low = u64::from(word(&self.bytes, at + 4)?);
            let high = if stride == 12 {
                u64::from(word(&self.bytes, at + 8)?)
            } else {
                0
            };
            Some(high << 32 | low)
        })
    }

    fn ty(&self, id: u32) -> Result<Type, BtfError> {
        let at = id
            .checked_sub(1)
            .and_then(|index| self.types.get(place(index)))
            .map(|at| place(*at))
            .ok_or(BtfError::NoSuchType(id))?;
        let read = |offset| word(&self.bytes, at + offset).ok_or(BtfError::Short("types"));
        let info = read(4)?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            count: info & 0xffff,
            kind_flag: info >> 31 != 0,
            size_or_type: read(8)?,
            at: at + 12,
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let strings = self.bytes.get(self.strings.0..self.strings.1)?;
        let tail = strings.get(place(offset)..)?;
        let end = memchr::memchr(0, tail)?;
        tail.get(..end)
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        if name.is_empty() {
            return None;
        }
        let wanted = Some((kind, name.as_bytes()));
        let is_it = |at: u32| self.kind_and_name(place(at)) == wanted;
        let first = *self.named.get(&name_key(kind, name.as_bytes()))?;
        let index = place(first.checked_sub(1)?);
        if is_it(*self.types.get(index)?) {
            return Some(first);
        }
        // Another name has the same key.
        let mut types = (1u32..).zip(&self.types);
        types.find_map(|(id, at)| is_it(*at).then_some(id))
    }

    /// Looks through typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..DEPTH_MAX {
            let ty = self.ty(id)?;
            match ty.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = ty.size_or_type,
                _ => return Ok(id),
            }
        }
        Err(BtfError::TooDeep(DEPTH_MAX))
    }

    /// Bit offset, bit-field width and type of a member, looking through anonymous ones.
    fn member_in(
        &self,
        composite: u32,
        name: &str,
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<(u32, Option<u32>, u32)>, BtfError> {
        let ty = self.ty(composite)?;
        if ty.kind != STRUCT && ty.kind != UNION {
            return Ok(None);
        }
        if depth > DEPTH_MAX {
            return Err(BtfError::TooDeep(DEPTH_MAX));
        }
        for index in 0..place(ty.count) {
            *budget = budget
                .checked_sub(1)
                .ok_or(BtfError::TooDeep(MEMBERS_MAX))?;
            let at = ty.at + index * 12;
            let read = |offset| word(&self.bytes, at + offset).ok_or(BtfError::Short("members"));
            let (member_name, member_type, raw) = (read(0)?, read(4)?, read(8)?);
            let (offset, bits) = if ty.kind_flag {
                (raw & 0xff_ffff, Some(raw >> 24).filter(|bits| *bits != 0))
            } else {
                (raw, None)
            };
            let found = self.string(member_name).ok_or(BtfError::Short("strings"))?;
            if found == name.as_bytes() {
                return Ok(Some((offset, bits, member_type)));
            }
            if found.is_empty() {
                let inner = self.strip(member_type)?;
                if let Some((below, bits, ty)) = self.member_in(inner, name, depth + 1, budget)? {
                    return Ok(Some((offset.wrapping_add(below), bits, ty)));
                }
            }
        }
        Ok(None)
    }

    fn size(&self, id: u32) -> Result<u32, BtfError> {
        let mut id = id;
        let mut factor = 1u32;
        for _ in 0..DEPTH_MAX {
            let ty = self.ty(self.strip(id)?)?;
            match ty.kind {
                POINTER => return Ok(factor.wrapping_mul(8)),
                INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => {
                    return Ok(factor.wrapping_mul(ty.size_or_type));
                }
                ARRAY => {
                    let read =
                        |offset| word(&self.bytes, ty.at + offset).ok_or(BtfError::Short("array"));
                    id = read(0)?;
                    factor = factor.wrapping_mul(read(8)?);
                }
                _ => return Ok(0),
            }
        }
        Err(BtfError::TooDeep(DEPTH_MAX))
    }

    fn prototype_parameters(&self, id: u32) -> Result<Option<Vec<String>>, BtfError> {
        let ty = self.ty(id)?;
        if ty.kind != PROTOTYPE {
            return Ok(None);
        }
        let mut names = Vec::new();
        for index in 0..place(ty.count) {
            let name = word(&self.bytes, ty.at + index * 8).ok_or(BtfError::Short("parameters"))?;
            let name = self.string(name).ok_or(BtfError::Short("strings"))?;
            names.push(String::from_utf8_lossy(name).into_owned());
        }
        Ok(Some(names))
    }
}

#[cfg(test)]
mod tests;
