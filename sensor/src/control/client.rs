//! The command line's end of the control socket.
//!
//! In: a [`Request`]. Out: the daemon's answer, line by line. It tells a daemon that is not there from one that may not be asked.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Request;
use crate::document::os_text;

/// For a line of an answer to come, where it is not a matter of events. A reload of many rules takes a while.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no eql-sensor answers on `{}`: {}; is it running?", .path.display(), os_text(.cause))]
    Unreachable { path: PathBuf, cause: io::Error },
    #[error("not allowed to talk to eql-sensor on `{}`; be root or of the socket's group", .path.display())]
    NotPermitted { path: PathBuf },
    #[error("the daemon's answer broke off: {}", os_text(.0))]
    BrokeOff(io::Error),
    #[error("the daemon's answer is no JSON: {0}")]
    NotJson(serde_json::Error),
    /// The daemon's own words.
    #[error("{0}")]
    Refused(String),
}

/// Lines of an answer.
pub struct Answer {
    lines: BufReader<UnixStream>,
}

/// Asks the daemon behind a socket.
///
/// # Errors
/// It can not be reached, or may not be.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let mut stream = UnixStream::connect(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => AskError::NotPermitted {
            path: path.to_owned(),
        },
        _ => AskError::Unreachable {
            path: path.to_owned(),
            cause,
        },
    })?;
    let mut line = serde_json::to_vec(request).map_err(AskError::NotJson)?;
    line.push(b'\n');
    let wait = match request {
        Request::Tail { .. } => None,
        _ => Some(ANSWER_WAIT),
    };
    stream
        .set_read_timeout(wait)
        .and_then(|()| stream.write_all(&line))
        .map_err(AskError::BrokeOff)?;
    Ok(Answer {
        lines: BufReader::new(stream),
    })
}

impl Answer {
    /// The next line read, `None` after the last.
    ///
    /// # Errors
    /// The daemon refuses, or its answer broke off.
    pub fn document(&mut self) -> Result<Option<Value>, AskError> {
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let value: Value = serde_json::from_str(&line).map_err(AskError::NotJson)?;
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(AskError::Refused(error.to_owned())),
            None => Ok(Some(value)),
        }
    }

    /// The text of the next line that is not empty, unread.
    ///
    /// # Errors
    /// The answer broke off.
    pub fn line(&mut self) -> Result<Option<String>, AskError> {
        loop {
            let mut line = String::new();
            let count = self
                .lines
                .read_line(&mut line)
                .map_err(AskError::BrokeOff)?;
            if count == 0 {
                return Ok(None);
            }
            if line.trim_end().is_empty() {
                // Only asks whether somebody still listens.
                continue;
            }
            return Ok(Some(line));
        }
    }

    /// For another thread, to end the answer where it is.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn hang_up(&self) -> Result<impl FnOnce() + Send + 'static, AskError> {
        let stream = self.lines.get_ref().try_clone();
        let stream = stream.map_err(AskError::BrokeOff)?;
        // It may have ended by itself.
        Ok(move || drop(stream.shutdown(Shutdown::Both)))
    }

    /// The only line.
    ///
    /// # Errors
    /// As [`Answer::document`], or there is none.
    pub fn only(mut self) -> Result<Value, AskError> {
        let broke_off = || AskError::BrokeOff(io::ErrorKind::UnexpectedEof.into());
        self.document()?.ok_or_else(broke_off)
    }
}

/// Asks for one line.
///
/// # Errors
/// As [`ask`] and [`Answer::only`].
pub fn ask_one(path: &Path, request: &Request) -> Result<Value, AskError> {
    ask(path, request)?.only()
}
