//! What several leaves ask of one field, put together while rules are added.
//!
//! In: what a leaf asks, the field and the type it is read as. Out: one group per field and type. A field read as two types
//! has two groups: one text can be an address to one rule and plain text to another.

use crate::eql::query::FieldType;

use super::field::SlotId;

/// What leaves of one field ask, read as one type, with the leaf each belongs to.
#[derive(Debug)]
pub(super) struct Grouped<T> {
    pub(super) slot: SlotId,
    pub(super) ty: FieldType,
    pub(super) members: Vec<(T, u32)>,
}

impl<T> Grouped<T> {
    /// Adds what a leaf asks to its group, which is made if needed. Returns the group's number.
    pub(super) fn add(
        groups: &mut Vec<Self>,
        (slot, ty): (SlotId, FieldType),
        members: impl Iterator<Item = (T, u32)>,
    ) -> u32 {
        let known = groups.iter().position(|g| g.slot == slot && g.ty == ty);
        let at = known.unwrap_or(groups.len());
        if known.is_none() {
            groups.push(Self {
                slot,
                ty,
                members: Vec::new(),
            });
        }
        if let Some(group) = groups.get_mut(at) {
            group.members.extend(members);
        }
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}
