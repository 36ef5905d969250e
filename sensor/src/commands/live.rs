//! What `run` and `record` share: the runtime, readiness, and which exit code a failure means.
//!
//! In: a started pipeline, its errors. Out: the pieces a live command is put together from. It loads no program.

use anyhow::Context as _;
use sd_notify::NotifyState;

use super::{Exit, Failure};
use crate::kernel::{LoadError, SupportError};
use crate::pipeline::{Pipeline, PipelineError};

/// The ring, the stages and the signals share one thread; only outputs have their own.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    Ok(runtime.context("cannot start the runtime")?)
}

/// Says, once, that events flow: to the service manager and in the log.
pub(super) fn ready(pipeline: &Pipeline, what: &str) {
    pipeline.log_hooks();
    tracing::info!("ready: {what}; hooks {}", pipeline.hooks());
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// Service managers and people act differently on a lack of permission, and on a kernel that can not be watched at all.
pub(super) fn failure(error: PipelineError) -> Failure {
    let exit = match &error {
        PipelineError::Load(LoadError::NotPermitted(_)) => Exit::Permission,
        PipelineError::Load(
            LoadError::Support(
                SupportError::TooManyScopes(_)
                | SupportError::Scope { .. }
                | SupportError::NotACgroup(_)
                | SupportError::RingBytes(_),
            )
            | LoadError::Map { .. }
            | LoadError::Diagnostics(_)
            | LoadError::Cpus(_),
        ) => Exit::Problems,
        PipelineError::Load(_) | PipelineError::SelfCheck(_) => Exit::Unsupported,
        _ => Exit::Problems,
    };
    Failure {
        exit,
        error: error.into(),
    }
}
