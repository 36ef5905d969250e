//! What this kernel lets the sensor see, as far as the verdicts on rules need to know.
//!
//! In: what became of the hooks, or the kernel's type information where nothing may be loaded. Out: the kinds of events that are
//! given, and what the hooks in use do not see of them. It loads nothing.

use sensor_ebpf::Kind as Record;

use crate::enrich::records;
use crate::event::Kinds;
use crate::kernel::{self, HookReport, HookState, KindSet};

/// How it is known what the kernel gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The hooks were attached.
    Hooks,
    /// The kernel says which functions and tracepoints it has.
    Types,
    /// It is not: whatever the sensor can produce is taken to be given.
    Schema,
}

impl Basis {
    /// Stable name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Basis::Hooks => "hooks",
            Basis::Types => "type-information",
            Basis::Schema => "schema",
        }
    }
}

/// What can be seen here.
#[derive(Clone, Debug)]
pub struct Sight {
    pub basis: Basis,
    pub kinds: Kinds,
    /// What the hooks in use do not see, each with the kinds of events it is about.
    pub limits: Vec<(Kinds, &'static str)>,
}

impl Sight {
    /// By the hooks after loading. A kind that nothing asked for is taken to be given.
    #[must_use]
    pub fn of_hooks(hooks: &[HookReport]) -> Sight {
        let of = |record: Record| hooks.iter().filter(move |hook| hook.kind == record);
        let is = |hook: &HookReport, attached: bool| match hook.state {
            HookState::Attached => attached,
            HookState::Refused(_) => !attached,
            HookState::NotNeeded | HookState::NotWanted => false,
        };
        let missing = |record| {
            of(record).any(|hook| is(hook, false)) && !of(record).any(|hook| is(hook, true))
        };
        let attached = hooks
            .iter()
            .filter(|hook| hook.state == HookState::Attached);
        let mut limits: Vec<(Kinds, &'static str)> = Vec::new();
        for hook in attached {
            for text in hook.blind_to {
                let limit = (records::events_of(hook.kind), *text);
                if !limits.contains(&limit) {
                    limits.push(limit);
                }
            }
        }
        Sight {
            basis: Basis::Hooks,
            kinds: records::given(&missing),
            limits,
        }
    }

    /// By what the kernel says it has; where it does not say, by the schema.
    #[must_use]
    pub fn of_types() -> Sight {
        match kernel::offered() {
            Ok(offered) => Sight {
                basis: Basis::Types,
                kinds: of_offered(offered),
                limits: Vec::new(),
            },
            Err(_) => Sight::of_schema(),
        }
    }

    #[must_use]
    pub fn of_schema() -> Sight {
        Sight {
            basis: Basis::Schema,
            kinds: Kinds::ALL,
            limits: Vec::new(),
        }
    }

    /// What is not seen of these kinds.
    #[must_use]
    pub fn limits_of(&self, kinds: Kinds) -> Vec<&'static str> {
        let mut found: Vec<&str> = Vec::new();
        for (of, text) in &self.limits {
            if of.intersects(kinds) && !found.contains(text) {
                found.push(text);
            }
        }
        found
    }
}

fn of_offered(offered: KindSet) -> Kinds {
    records::given(&|record| !offered.contains(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    fn hook(kind: Record, state: HookState) -> HookReport {
        HookReport {
            kind,
            program: "p",
            hook: "fexit/f".to_owned(),
            trampoline: true,
            state,
            blind_to: &["acts through io_uring"],
        }
    }

    #[test]
    fn a_kind_is_given_unless_all_its_hooks_were_refused() {
        let refused = || HookState::Refused("no".to_owned());
        let sight = Sight::of_hooks(&[
            hook(Record::Module, refused()),
            hook(Record::Open, HookState::NotWanted),
            hook(Record::Rename, refused()),
            hook(Record::Rename, HookState::Attached),
        ]);
        assert!(!sight.kinds.contains(Kind::LoadModule));
        assert!(sight.kinds.contains(Kind::Open));
        assert!(sight.kinds.contains(Kind::Rename));
        let of = |kind| sight.limits_of(Kinds::NONE.with(kind));
        assert_eq!(of(Kind::Rename), ["acts through io_uring"]);
        assert_eq!(of(Kind::LoadModule), [""; 0]);
    }

    #[test]
    fn a_closed_connection_needs_its_begin() {
        let all = KindSet::all();
        let closes = |offered| of_offered(offered).contains(Kind::DisconnectReceived);
        assert!(closes(all.without(Record::Connect)));
        assert!(!closes(
            all.without(Record::Connect).without(Record::Accept)
        ));
        assert!(!closes(all.without(Record::Close)));
    }
}
