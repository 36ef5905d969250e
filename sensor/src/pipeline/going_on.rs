//! One run after another: what is handed on, and what the next one makes of it.
//!
//! In: the stages at one moment; at a start, what an earlier run remembered and the log of its records. Out: [`Remembered`], and a
//! pipeline that goes on from there. It never says that nothing is missing unless state, log and ring together leave nothing out.

use std::time::Duration;

use sensor_ebpf::Kind;
use tokio::time::{Instant, sleep};

use super::record_log::{Behind, RecordLog};
use super::{Consumer, Pipeline, PipelineError, boot_ns, wall_offset_ns};
use crate::enrich::Memory;
use crate::event::Gauge;
use crate::fd_store::FdStore;
use crate::kernel::Kernel;
use crate::loss;
use crate::output::lifecycle;

/// For the first state to be written before readiness is told: outputs that take nothing hold it up.
const FIRST_STATE_MAX: Duration = Duration::from_secs(2);
/// Between two looks for it.
const FIRST_STATE_LOOK: Duration = Duration::from_millis(1);

/// What the stages before the consumer know at one moment between two records.
#[derive(Debug)]
pub struct Remembered {
    pub memory: Memory,
    /// Boot clock, nanoseconds.
    pub at_ns: u64,
    /// Nothing comes after it.
    pub last: bool,
    /// Records taken from the ring since the programs were loaded, and lost.
    pub number: u64,
    pub lost: u64,
}

/// What an earlier run remembered.
#[derive(Debug)]
pub struct Recalled {
    pub memory: Memory,
    /// Counts the images in it.
    pub images: Gauge,
    /// Boot clock, nanoseconds.
    pub at_ns: u64,
    /// As in [`Remembered`].
    pub number: u64,
    pub lost: u64,
    /// The process that remembered.
    pub pid: u32,
}

/// Records of the sensor's own acts, where the kernel programs do not leave them out: they may outlive the process.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// This process and the one before; nobody where the programs leave them out.
    pub(super) pids: Option<[u32; 2]>,
    pub(super) left_out: u64,
}

impl Pipeline {
    /// The end of what an earlier run had taken: alerts that come of it are told before anything else happens.
    pub(super) async fn catch_up<C: Consumer>(
        &mut self,
        consumer: &mut C,
    ) -> Result<(), PipelineError> {
        if let Some(last) = self.last_taken.take() {
            let (kernel, mut stages, ..) = self.parts();
            // Its place in the ring may not have been given back.
            kernel.drain_one(|bytes| {
                if *bytes != *last {
                    stages.pass(bytes, consumer);
                }
            });
        }
        self.look(false)?;
        // Waits for no output.
        let _ = consumer.settle(&self.status).await;
        consumer.caught_up();
        Ok(())
    }

    /// Has a state written of the moment before the first record is taken, then the programs kept if they are not. Neither is of use
    /// without the other: records that no state goes before are lost in a kill, and a state of other programs counts other records.
    /// What was taken again is covered by it: one kill soon after another has not more to take each time.
    pub(super) async fn keep_first<C: Consumer>(&mut self, consumer: &mut C) {
        if self.log.is_none() {
            return;
        }
        consumer.keep(self.remember(false), &self.status);
        let until = Instant::now() + FIRST_STATE_MAX;
        while consumer.has_kept().is_none() && Instant::now() < until {
            sleep(FIRST_STATE_LOOK).await;
        }
        self.keep_with_state(consumer);
        if self.unkept.is_some() {
            tracing::warn!(
                "the first state is not written yet; until it is, a kill loses what was recorded"
            );
        }
    }

    /// Has the programs kept if that waits for a state, and one is written.
    pub(super) fn keep_with_state<C: Consumer>(&mut self, consumer: &C) {
        if let Some(store) = self.unkept.take_if(|_| consumer.has_kept() == Some(true)) {
            keep_programs(&mut self.kernel, store);
        }
    }

    /// What a later run needs of the stages here.
    pub(super) fn remember(&mut self, last: bool) -> Remembered {
        let mut memory = self.enricher.remember();
        memory.waiting = self.reading.held();
        let mut number = 0;
        if let Some(log) = &mut self.log {
            number = log.number();
            log.turn();
        }
        Remembered {
            memory,
            at_ns: boot_ns(),
            last,
            number,
            lost: self.status.gaps.total(),
        }
    }
}

impl Own {
    /// Whether a record is of an act that the programs would have left out.
    pub(super) fn is_by(&self, header: &sensor_ebpf::Header) -> bool {
        let Some(pids) = self.pids else {
            return false;
        };
        let of_processes = [
            Kind::Fork,
            Kind::Exec,
            Kind::Exit,
            Kind::Credentials,
            Kind::Session,
            Kind::Memfd,
            Kind::Ptrace,
            Kind::Module,
        ];
        let is_of = |kind: &Kind| *kind as u16 == header.kind;
        pids.contains(&header.tgid) && !of_processes.iter().any(is_of)
    }
}

/// What an earlier run had taken since its last state.
#[derive(Default)]
pub(super) struct Resumed {
    pub(super) log: Option<RecordLog>,
    pub(super) behind: Behind,
    /// State, log and ring together leave nothing out.
    pub(super) exact: bool,
}

/// The log of the programs taken up with `recalled`, or a new one.
pub(super) fn resume(store: Option<&mut FdStore>, recalled: Option<&Recalled>) -> Resumed {
    let Some(store) = store else {
        return Resumed::default();
    };
    let resumed = recalled.map_or(Ok(None), |recalled| {
        RecordLog::resume(store, recalled.number)
    });
    match resumed {
        Ok(Some((log, behind))) => {
            return Resumed {
                log: Some(log),
                exact: behind.whole,
                behind,
            };
        }
        Ok(None) => {}
        Err(error) => tracing::error!("the records of the last run can not be read: {error}"),
    }
    let log = RecordLog::begin(store);
    if let Err(error) = &log {
        tracing::error!("records can not be kept for a run after a kill: {error}");
    }
    Resumed {
        log: log.ok(),
        ..Resumed::default()
    }
}

/// Has the service manager keep the kernel programs.
pub(super) fn keep_programs(kernel: &mut Kernel, store: FdStore) {
    if let Err(error) = kernel.keep_in(store) {
        tracing::error!("the kernel programs will not outlive this process: {error}");
    }
}

/// Says that nobody watched for a time.
pub(super) fn log_absence(from_ns: u64, to_ns: u64) {
    tracing::warn!(
        target: lifecycle::GAP,
        from_ns,
        to_ns,
        start = %loss::moment(from_ns, wall_offset_ns()),
        end = %loss::moment(to_ns, wall_offset_ns()),
        "sensor.gap: nothing was recorded for {} ms, since the sensor did not run",
        to_ns.saturating_sub(from_ns) / 1_000_000
    );
}
