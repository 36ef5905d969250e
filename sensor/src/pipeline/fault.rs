//! Misbehaviour on demand, for tests.

use std::time::Duration;

/// A misbehaviour to be shown in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Leaves the ring alone for a time after the start, or until the end.
    StopConsumer(Duration),
    /// The engine takes an event and never comes back.
    Stall,
}

/// `found` is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no fault; allowed are stop-consumer=SECONDS and stall")]
pub struct UnknownFault {
    found: String,
}

impl std::str::FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Fault, UnknownFault> {
        if text == "stall" {
            return Ok(Fault::Stall);
        }
        let seconds = text
            .strip_prefix("stop-consumer=")
            .and_then(|s| s.parse().ok());
        match seconds {
            Some(seconds) => Ok(Fault::StopConsumer(Duration::from_secs(seconds))),
            None => Err(UnknownFault {
                found: text.to_owned(),
            }),
        }
    }
}
