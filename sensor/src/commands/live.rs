//! What `run` and `record` share: the runtime, readiness, and which exit code a failure means.
//!
//! In: a started pipeline, its errors. Out: the pieces a live command is put together from. It loads no program.

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure};
use crate::kernel::{LoadError, SupportError};
use crate::output::{file, lifecycle};
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
    tracing::info!(target: lifecycle::READY, "ready: {what}; hooks {}", pipeline.hooks());
    listen_for_reopen();
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// Has alerts files opened anew on SIGUSR1, as tools that move logs away ask for it.
fn listen_for_reopen() {
    match signal(SignalKind::user_defined1()) {
        Ok(mut asked) => {
            tokio::spawn(async move {
                while asked.recv().await.is_some() {
                    file::reopen();
                }
            });
        }
        Err(error) => tracing::warn!("cannot listen for SIGUSR1: {error}"),
    }
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
