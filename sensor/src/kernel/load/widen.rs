//! More kinds of records from programs that are loaded already.
//!
//! In: kinds, and whose acts are wanted of each. Out: their hooks attached beside the others, which never stop. Meant for another
//! thread than the one that drains the ring: the verifier takes its time. Nothing is ever taken away.

use std::sync::{Arc, Mutex};

use aya::Btf as KernelBtf;
use sensor_ebpf::Kind;

use super::{Attaching, LoadError, Programs, locked, object_error, watch};
use crate::kernel::{KindSet, NamedKinds, Options, support::Support};

/// See [`super::Kernel::widener`].
#[derive(Clone)]
pub struct Widener {
    programs: Arc<Mutex<Programs>>,
}

impl Widener {
    pub(super) fn new(programs: Arc<Mutex<Programs>>) -> Widener {
        Widener { programs }
    }

    /// Whether execs carry their environment: fixed when the programs were loaded.
    #[must_use]
    pub fn has_environment(&self) -> bool {
        locked(&self.programs).options.environment
    }

    /// Has at least these kinds reported, of at least these processes. Kinds that the kernel does not give stay missing, as
    /// [`super::Kernel::hooks`] says. Returns the kinds that were attached.
    ///
    /// # Errors
    ///
    /// The kernel refuses what is required, or a map.
    pub fn widen(&self, kinds: KindSet, named: &NamedKinds) -> Result<Vec<Kind>, LoadError> {
        let mut programs = locked(&self.programs);
        let programs = &mut *programs;
        let mut wider = programs.options.named.clone();
        wider.widen(named);
        if wider != programs.options.named {
            wider.refill(&mut programs.ebpf)?;
            programs.options.named = wider;
        }
        let is_fresh =
            |kind: &Kind| kinds.contains(*kind) && !programs.options.kinds.contains(*kind);
        let fresh: Vec<Kind> = Kind::ALL.iter().copied().filter(is_fresh).collect();
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let options = Options {
            kinds: programs.options.kinds.and(kinds),
            ..programs.options.clone()
        };
        let support = Support::detect(&options)?;
        let kernel_btf = KernelBtf::from_sys_fs().map_err(|error| object_error(error.into()))?;
        if fresh.contains(&Kind::Open) {
            watch(&mut programs.ebpf, &options.bulk.watched)?;
        }
        let mut attaching = Attaching {
            ebpf: &mut programs.ebpf,
            btf: &support.btf,
            kernel_btf: &kernel_btf,
            held: std::mem::take(&mut programs.held),
            served: programs.served,
            twice: support.settings.twice,
            runs_last_first: None,
        };
        let mut outcome = Ok(());
        let mut attached = programs.options.kinds;
        for kind in &fresh {
            let mut hooks = Vec::new();
            outcome = attaching.kind(*kind, &options, &mut hooks);
            if outcome.is_err() {
                break;
            }
            attached = attached.with(*kind);
            programs.hooks.retain(|hook| hook.kind != *kind);
            programs.hooks.extend(hooks);
        }
        (programs.held, programs.served) = (attaching.held, attaching.served);
        programs.options.kinds = attached;
        if let Err(error) = programs.keep_new() {
            tracing::error!("what was attached is not kept for the next start: {error}");
        }
        outcome.map(|()| fresh)
    }
}
