//! What `run` and `record` share: the engine, the runtime, readiness, and which exit code a failure means.
//!
//! In: rules, a started pipeline, its errors. Out: the pieces a live command is put together from. It loads no program.

use std::sync::Arc;

use anyhow::Context as _;
use sd_notify::NotifyState;

use super::{Exit, Failure, OrExit as _};
use crate::engine::{self, Engine};
use crate::event::{Event, FieldTable};
use crate::kernel::LoadError;
use crate::pipeline::{Pipeline, PipelineError};
use crate::rule::Rule;

/// All rules in one engine; an error names the rule that can't be compiled.
pub(super) fn engine(
    rules: &[Arc<Rule>],
    table: &mut FieldTable,
) -> Result<Engine<Arc<Event>>, Failure> {
    let mut builder = engine::Builder::new(engine::Limits::default());
    for (index, rule) in rules.iter().enumerate() {
        let added = builder.add(index, &rule.query);
        added
            .with_context(|| {
                format!(
                    "{}: `{}` can not be compiled",
                    rule.path.display(),
                    rule.name
                )
            })
            .or_exit(Exit::Configuration)?;
    }
    builder
        .build(table)
        .context("the rules can not be compiled together")
        .or_exit(Exit::Configuration)
}

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
