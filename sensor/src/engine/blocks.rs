//! Address blocks of one field, answered together.
//!
//! In: the blocks of every `cidrMatch` on one field. Out: for an address, the members with a block it lies in. Blocks nest or
//! are disjoint, so each knows the next larger one around it, and an address is in the smallest that holds it and in all
//! around that. One binary search finds the smallest; memory is linear in the blocks.

use std::net::IpAddr;

use crate::eql::cidr::{Cidr, address_bits};

/// Number of no block.
const NONE: u32 = u32::MAX;

/// The blocks of one field with the members (leaves) each belongs to.
#[derive(Debug, Default)]
pub(super) struct BlockSet {
    /// By family: an IPv6 block never holds an IPv4 address, whatever its bits say.
    v4: Ranges,
    v6: Ranges,
}

/// The blocks of one family.
#[derive(Debug, Default)]
struct Ranges {
    /// Where another block becomes the smallest, in ascending order: the first address, and the block or [`NONE`].
    starts: Vec<(u128, u32)>,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    /// The next larger block around this one.
    around: u32,
    members: Box<[u32]>,
}

impl BlockSet {
    pub(super) fn new(blocks: &[(Cidr, u32)]) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = blocks.iter().partition(|(block, _)| block.is_ipv4());
        Self {
            v4: Ranges::new(v4),
            v6: Ranges::new(v6),
        }
    }

    /// Calls `hit` with the members of every block the address lies in; with one member several times where several of its
    /// blocks hold the address.
    #[inline]
    pub(super) fn lookup(&self, ip: IpAddr, mut hit: impl FnMut(u32)) {
        let ranges = match ip.to_canonical() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let mut at = ranges.smallest(address_bits(ip));
        while let Some(block) = ranges.blocks.get(at as usize) {
            block.members.iter().for_each(|member| hit(*member));
            at = block.around;
        }
    }
}

impl Ranges {
    fn new(mut blocks: Vec<(Cidr, u32)>) -> Self {
        // Of those with one first address, the larger comes first.
        blocks.sort_unstable_by_key(|(block, member)| (block.prefix(), *member));
        blocks.dedup();
        let mut ranges = Self::default();
        // The blocks that the one at hand may lie in, each with its last address.
        let mut open: Vec<(u128, u32)> = Vec::new();
        for same in blocks.chunk_by(|a, b| a.0 == b.0) {
            let Some((block, _)) = same.first() else {
                continue;
            };
            let (first, last) = block.range();
            ranges.close(&mut open, Some(first));
            let at = u32::try_from(ranges.blocks.len()).unwrap_or(NONE);
            ranges.blocks.push(Block {
                around: open.last().map_or(NONE, |(_, around)| *around),
                members: same.iter().map(|(_, member)| *member).collect(),
            });
            ranges.begin(first, at);
            open.push((last, at));
        }
        ranges.close(&mut open, None);
        ranges
    }

    /// Ends the open blocks that lie before an address, or all.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, before: Option<u128>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| before.is_none_or(|b| *last < b)) {
            // Past the largest address nothing begins.
            if let Some(next) = last.checked_add(1) {
                self.begin(next, open.last().map_or(NONE, |(_, around)| *around));
            }
        }
    }

    /// From this address on the given block is the smallest.
    fn begin(&mut self, first: u128, block: u32) {
        match self.starts.last_mut() {
            Some(last) if last.0 == first => last.1 = block,
            _ => self.starts.push((first, block)),
        }
    }

    #[inline]
    fn smallest(&self, address: u128) -> u32 {
        let after = self.starts.partition_point(|(first, _)| *first <= address);
        let at = after.checked_sub(1).and_then(|at| self.starts.get(at));
        at.map_or(NONE, |(_, block)| *block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: &[&str] = &[
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.1.2.255",
        "10.255.255.255",
        "11.0.0.0/8",
        "127.0.0.0/8",
        "255.255.255.255",
        "255.0.0.0/8",
        "::/0",
        "::/1",
        "::1",
        "::ffff:0:0/96",
        "::fffe:ffff:ffff",
        "fe80::/10",
        "fe80::1",
        "ffff::/16",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ];

    const ADDRESSES: &[&str] = &[
        "0.0.0.0",
        "9.255.255.255",
        "10.0.0.0",
        "10.1.2.2",
        "10.1.2.3",
        "10.1.2.4",
        "10.1.2.255",
        "10.1.3.0",
        "10.255.255.255",
        "11.0.0.0",
        "12.0.0.0",
        "126.255.255.255",
        "127.0.0.1",
        "254.255.255.255",
        "255.255.255.254",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::fffe:ffff:ffff",
        "::ffff:10.1.2.3",
        "::1:0:0:0",
        "7fff::",
        "8000::",
        "fe80::",
        "fe80::1",
        "febf::1",
        "fec0::",
        "ffff::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ];

    fn members(set: &BlockSet, address: &str) -> Vec<u32> {
        let mut found = Vec::new();
        set.lookup(address.parse().unwrap(), |member| found.push(member));
        found.sort_unstable();
        found
    }

    /// Every subset of neighbours, so that each block is seen with and without those around and inside it.
    #[test]
    fn agrees_with_asking_each_block() {
        for from in 0..BLOCKS.len() {
            for to in from..=BLOCKS.len() {
                for step in 1..4 {
                    let blocks = BLOCKS.get(from..to).unwrap().iter().step_by(step);
                    let blocks: Vec<(Cidr, u32)> = (0u32..)
                        .zip(blocks)
                        .map(|(member, text)| (Cidr::parse(text).unwrap(), member))
                        .collect();
                    let set = BlockSet::new(&blocks);
                    for address in ADDRESSES {
                        let ip = address.parse().unwrap();
                        let each = blocks.iter().filter(|(block, _)| block.contains(ip));
                        let each: Vec<u32> = each.map(|(_, member)| *member).collect();
                        assert_eq!(members(&set, address), each, "{address} in {blocks:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_block_may_belong_to_several() {
        let block = |text| Cidr::parse(text).unwrap();
        let set = BlockSet::new(&[
            (block("10.9.9.9/8"), 3),
            (block("10.0.0.0/8"), 1),
            (block("10.0.0.0/8"), 3),
            (block("10.0.0.0/9"), 3),
        ]);
        assert_eq!(members(&set, "10.200.0.1"), [1, 3]);
        assert_eq!(members(&set, "10.1.0.1"), [1, 3, 3]);
        assert_eq!(members(&set, "11.1.0.1"), [0u32; 0]);
        assert_eq!(members(&BlockSet::default(), "10.0.0.1"), [0u32; 0]);
    }
}
