//! Address blocks: `10.0.0.0/8`, `fe80::/10`, or a single address.
//!
//! In: text. Out: a block that tells whether an address lies in it. Addresses are compared as 128 bits after mapping IPv4
//! into `::ffff:0:0/96`, so an IPv4-mapped IPv6 address equals its IPv4 form; the families never meet otherwise.

use std::net::IpAddr;

/// Host bits are masked off: `10.6.48.157/8` is `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: u128,
    mask: u128,
}

/// The address as 128 bits, IPv4 mapped.
pub fn address_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// First 96 bits of every mapped IPv4 address.
const MAPPED: u128 = 0xffff << 32;

impl Cidr {
    /// `None` when the text is neither an address nor `address/prefix` with a prefix of at most 32 or 128 bits.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address.trim().parse().ok()?;
        let width: u32 = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(str::trim) {
            None => width,
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().ok().filter(|n| *n <= width)?
            }
            Some(_) => return None,
        };
        let host_bits = width - prefix;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Cidr {
            network: address_bits(ip) & mask,
            mask,
        })
    }

    /// Whether the address lies in the block; an address of the other family never does.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = address_bits(ip);
        // `::/0` and other short IPv6 prefixes would otherwise swallow the mapped IPv4 addresses.
        let same_family = self.is_ipv4() == (bits >> 32 == MAPPED >> 32);
        same_family && bits & self.mask == self.network
    }

    /// Network bits (IPv4 mapped) and the number of leading bits that count, 96 more than written for IPv4.
    pub fn prefix(&self) -> (u128, u32) {
        (self.network, self.mask.leading_ones())
    }

    /// First and last address of the block as 128 bits.
    pub fn range(&self) -> (u128, u128) {
        (self.network, self.network | !self.mask)
    }

    /// Whether it is a block of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.mask.leading_ones() >= 96 && self.network >> 32 == MAPPED >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &str, ip: &str, expected: bool) {
        let cidr = Cidr::parse(block).unwrap();
        assert_eq!(
            cidr.contains(ip.parse().unwrap()),
            expected,
            "{ip} in {block}"
        );
    }

    #[test]
    fn membership() {
        check("10.6.48.157/8", "10.1.2.3", true);
        check("10.6.48.157/8", "11.1.2.3", false);
        check("0.0.0.0/0", "255.255.255.255", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "10.0.0.1", false);
        check("::/0", "fe80::1", true);
        check("::1", "0:0:0:0:0:0:0:1", true);
        check("10.0.0.1", "::ffff:10.0.0.1", true);
        check("::ffff:0:0/96", "10.0.0.1", true);
        check("fe80::/10", "febf::1", true);
        check("fe80::/10", "fec0::1", false);
        check("192.168.1.0/24", "192.168.2.1", false);
    }

    #[test]
    fn invalid_blocks() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "x/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
