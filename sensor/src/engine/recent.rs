//! A table that knows its entries by age of their last use.
//!
//! In: keys of 128 bits that stand for what they are made of. Out: an entry per key, and the one used longest ago. It holds
//! as many as its owner lets it: the owner removes what is too old or too much, and counts that.

use std::collections::BTreeMap;

use hashbrown::HashMap;

#[derive(Debug)]
pub(super) struct Recent<V> {
    entries: HashMap<u128, (u64, V)>,
    /// Keys by the number of their last use.
    order: BTreeMap<u64, u128>,
    uses: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<V> Recent<V> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The key's entry, used now; a new one is made by `new`.
    pub(super) fn touch(&mut self, key: u128, new: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        let uses = self.uses;
        self.order.insert(uses, key);
        let entry = self.entries.entry(key).or_insert_with(|| (0, new()));
        if entry.0 != 0 {
            self.order.remove(&entry.0);
        }
        entry.0 = uses;
        &mut entry.1
    }

    pub(super) fn get(&self, key: u128) -> Option<&V> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    pub(super) fn oldest(&self) -> Option<&V> {
        let (_, key) = self.order.first_key_value()?;
        self.get(*key)
    }

    pub(super) fn remove_oldest(&mut self) -> Option<V> {
        let (_, key) = self.order.pop_first()?;
        self.entries.remove(&key).map(|(_, value)| value)
    }

    /// All entries, the one used longest ago first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        let keys = self.order.values();
        keys.filter_map(|key| Some((*key, self.get(*key)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_one_used_longest_ago() {
        let mut recent = Recent::default();
        for key in [1, 2, 3, 1, 2] {
            *recent.touch(key, || 0) += 1;
        }
        let all: Vec<(u128, i32)> = recent.iter().map(|(key, count)| (key, *count)).collect();
        assert_eq!(all, [(3, 1), (1, 2), (2, 2)]);
        assert_eq!(recent.remove_oldest(), Some(1));
        assert_eq!(recent.oldest(), Some(&2));
        assert_eq!((recent.len(), recent.order.len()), (2, 2));
        assert_eq!(recent.get(3), None);
    }
}
