//! What `run` and `record` share: the runtime, readiness, and which exit code a failure means.
//!
//! In: a started pipeline, its errors. Out: the pieces a live command is put together from. It loads no program.

use anyhow::Context as _;
use sd_notify::NotifyState;

use super::{Exit, Failure};
use crate::kernel::LoadError;
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

/// Permission is a matter of its own: service managers and people act on it differently.
pub(super) fn failure(error: PipelineError) -> Failure {
    let exit = match &error {
        PipelineError::Load(LoadError::NotPermitted(_)) => Exit::Permission,
        _ => Exit::Problems,
    };
    Failure {
        exit,
        error: error.into(),
    }
}
