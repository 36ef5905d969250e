//! Values as bytes that a later run reads back, of this build or of one that keeps them in the same form.
//!
//! In: values. Out: their bytes, and values again or what is wrong with the bytes. What is shared is written once and shared again
//! when it is read. Bytes that are not whole, or not ours, are an error, never a panic, and never make it reserve more memory than
//! they take.

mod event;

use std::any::Any;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::event::{Gauge, Host};

/// Why bytes can not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("it ends too early")]
    Short,
    #[error("{0} bytes are left over")]
    Long(usize),
    #[error("it holds no {0} where one must be")]
    No(&'static str),
}

/// A value that can be kept.
pub trait Keep: Sized {
    fn write(&self, to: &mut Writer);

    /// # Errors
    /// The bytes are none of such a value.
    fn read(from: &mut Reader<'_>) -> Result<Self, Broken>;
}

/// Takes values.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    /// By address: what has been written already, and as the how-manieth.
    texts: HashMap<usize, u64>,
    shared: HashMap<usize, u64>,
}

/// Gives them back.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    texts: Vec<Arc<str>>,
    shared: Vec<Arc<dyn Any + Send + Sync>>,
    /// Of events that are read.
    host: Arc<Host>,
    /// Counts the images that are read.
    images: Gauge,
}

impl Writer {
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are, without their number.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push((number & 0x7f) as u8);
    }

    /// What is behind an [`Arc`]: where it has been written before, its number, else itself. Whoever owns it must keep it until
    /// everything is written.
    fn share<T: Keep>(&mut self, value: &Arc<T>) {
        let address = Arc::as_ptr(value).addr();
        match self.shared.get(&address) {
            Some(number) => self.number(*number),
            None => {
                self.number(0);
                value.as_ref().write(self);
                let number = self.shared.len() as u64 + 1;
                self.shared.insert(address, number);
            }
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads bytes of a [`Writer`]. Events get this host; images are counted in this gauge.
    #[must_use]
    pub fn new(bytes: &'a [u8], host: Arc<Host>, images: Gauge) -> Reader<'a> {
        Reader {
            bytes,
            texts: Vec::new(),
            shared: Vec::new(),
            host,
            images,
        }
    }

    /// Reads bytes that hold no event.
    #[must_use]
    pub fn plain(bytes: &'a [u8]) -> Reader<'a> {
        Reader::new(bytes, Arc::default(), Gauge::default())
    }

    /// # Errors
    /// Something is left.
    pub fn end(self) -> Result<(), Broken> {
        match self.bytes.len() {
            0 => Ok(()),
            left => Err(Broken::Long(left)),
        }
    }

    pub(crate) fn raw(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Broken::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, Broken> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = u8::read(self)?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Broken::No("number"))
    }

    /// How many values follow: each takes a byte at least.
    fn count(&mut self) -> Result<usize, Broken> {
        let count = usize::try_from(self.number()?).map_err(|_| Broken::Short)?;
        if count > self.bytes.len() {
            return Err(Broken::Short);
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<&'a str, Broken> {
        let count = self.count()?;
        std::str::from_utf8(self.raw(count)?).map_err(|_| Broken::No("text"))
    }

    /// A value that several may share; the host and the gauge go along.
    fn share<T: Keep + Any + Send + Sync>(&mut self) -> Result<Arc<T>, Broken> {
        let number = self.number()?;
        let Some(index) = number.checked_sub(1) else {
            let value = Arc::new(T::read(self)?);
            self.shared.push(Arc::clone(&value) as _);
            return Ok(value);
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let value = self.shared.get(index).ok_or(Broken::No("shared value"))?;
        Arc::clone(value)
            .downcast()
            .map_err(|_| Broken::No("shared value"))
    }
}

/// Keeps a structure by its fields, in this order.
macro_rules! keep {
    ($($type:ty { $($field:ident),* $(,)? })*) => {$(
        impl $crate::keep::Keep for $type {
            fn write(&self, to: &mut $crate::keep::Writer) {
                let Self { $($field),* } = self;
                $($crate::keep::Keep::write($field, to);)*
            }

            fn read(from: &mut $crate::keep::Reader<'_>) -> Result<Self, $crate::keep::Broken> {
                Ok(Self { $($field: $crate::keep::Keep::read(from)?),* })
            }
        }
    )*};
}
pub(crate) use keep;

/// Keeps a structure of plain bytes.
macro_rules! keep_bytes {
    ($($type:ty)*) => {$(
        impl $crate::keep::Keep for $type {
            fn write(&self, to: &mut $crate::keep::Writer) {
                to.raw(zerocopy::IntoBytes::as_bytes(self));
            }

            fn read(from: &mut $crate::keep::Reader<'_>) -> Result<Self, $crate::keep::Broken> {
                let bytes = from.raw(size_of::<Self>())?;
                zerocopy::FromBytes::read_from_bytes(bytes)
                    .map_err(|_| $crate::keep::Broken::No(stringify!($type)))
            }
        }
    )*};
}
pub(crate) use keep_bytes;

impl Keep for u8 {
    fn write(&self, to: &mut Writer) {
        to.bytes.push(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let (first, rest) = from.bytes.split_first().ok_or(Broken::Short)?;
        from.bytes = rest;
        Ok(*first)
    }
}

macro_rules! keep_numbers {
    ($($type:ty)*) => {$(
        impl Keep for $type {
            fn write(&self, to: &mut Writer) {
                to.number(u64::from(*self));
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
                from.number()?.try_into().map_err(|_| Broken::No("number"))
            }
        }
    )*};
}
keep_numbers! { u16 u32 u64 }

impl Keep for usize {
    fn write(&self, to: &mut Writer) {
        to.number(*self as u64);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        from.number()?.try_into().map_err(|_| Broken::No("number"))
    }
}

impl Keep for i64 {
    fn write(&self, to: &mut Writer) {
        to.raw(&self.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let (bytes, _) = from.raw(8)?.as_chunks::<8>();
        let bytes = bytes.first().ok_or(Broken::Short)?;
        Ok(i64::from_le_bytes(*bytes))
    }
}

impl Keep for u128 {
    fn write(&self, to: &mut Writer) {
        to.raw(&self.to_le_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let (bytes, _) = from.raw(16)?.as_chunks::<16>();
        let bytes = bytes.first().ok_or(Broken::Short)?;
        Ok(u128::from_le_bytes(*bytes))
    }
}

impl Keep for f64 {
    fn write(&self, to: &mut Writer) {
        self.to_bits().cast_signed().write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(f64::from_bits(i64::read(from)?.cast_unsigned()))
    }
}

impl Keep for bool {
    fn write(&self, to: &mut Writer) {
        u8::from(*self).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        match u8::read(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Broken::No("yes or no")),
        }
    }
}

impl<T: Keep> Keep for Option<T> {
    fn write(&self, to: &mut Writer) {
        self.is_some().write(to);
        if let Some(value) = self {
            value.write(to);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        bool::read(from)?.then(|| T::read(from)).transpose()
    }
}

impl<T: Keep> Keep for Vec<T> {
    fn write(&self, to: &mut Writer) {
        self.len().write(to);
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        // Grows as values come: bytes may promise more than they hold.
        (0..from.count()?).map(|_| T::read(from)).collect()
    }
}

impl<T: Keep> Keep for Box<[T]> {
    fn write(&self, to: &mut Writer) {
        self.len().write(to);
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Vec::read(from)?.into())
    }
}

impl<T: Keep> Keep for Box<T> {
    fn write(&self, to: &mut Writer) {
        self.as_ref().write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        T::read(from).map(Box::new)
    }
}

impl<T: Keep, const N: usize> Keep for [T; N] {
    fn write(&self, to: &mut Writer) {
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let values: Result<Vec<T>, Broken> = (0..N).map(|_| T::read(from)).collect();
        values?.try_into().map_err(|_| Broken::Short)
    }
}

impl<A: Keep, B: Keep> Keep for (A, B) {
    fn write(&self, to: &mut Writer) {
        self.0.write(to);
        self.1.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok((A::read(from)?, B::read(from)?))
    }
}

impl<A: Keep, B: Keep, C: Keep> Keep for (A, B, C) {
    fn write(&self, to: &mut Writer) {
        self.0.write(to);
        self.1.write(to);
        self.2.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok((A::read(from)?, B::read(from)?, C::read(from)?))
    }
}

macro_rules! keep_texts {
    ($($type:ty)*) => {$(
        impl Keep for $type {
            fn write(&self, to: &mut Writer) {
                self.len().write(to);
                to.raw(self.as_bytes());
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
                from.text().map(Into::into)
            }
        }
    )*};
}
keep_texts! { Box<str> String }

impl Keep for Arc<str> {
    fn write(&self, to: &mut Writer) {
        let address = self.as_ptr().addr();
        match to.texts.get(&address) {
            Some(number) => to.number(*number),
            None => {
                to.number(0);
                self.len().write(to);
                to.raw(self.as_bytes());
                let number = to.texts.len() as u64 + 1;
                to.texts.insert(address, number);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let number = from.number()?;
        let Some(index) = number.checked_sub(1) else {
            let text: Arc<str> = from.text()?.into();
            from.texts.push(Arc::clone(&text));
            return Ok(text);
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let text = from.texts.get(index).ok_or(Broken::No("text"))?;
        Ok(Arc::clone(text))
    }
}

impl<T: Keep + Any + Send + Sync> Keep for Arc<T> {
    fn write(&self, to: &mut Writer) {
        to.share(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        from.share()
    }
}

impl Keep for IpAddr {
    fn write(&self, to: &mut Writer) {
        match self {
            IpAddr::V4(ip) => {
                4_u8.write(to);
                to.raw(&ip.octets());
            }
            IpAddr::V6(ip) => {
                6_u8.write(to);
                to.raw(&ip.octets());
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        match u8::read(from)? {
            4 => Ok(Ipv4Addr::from(<[u8; 4]>::read(from)?).into()),
            6 => Ok(Ipv6Addr::from(<[u8; 16]>::read(from)?).into()),
            _ => Err(Broken::No("address")),
        }
    }
}
