//! The daemon's end of the control socket.
//!
//! In: connections. Out: answers. Every client has a thread of its own for a bounded time, and there are few at once; a line that
//! is too long or comes too slowly is refused. Two daemons never share a socket: the one that lives holds a lock beside it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::Request;

/// Clients at once.
const CLIENTS_MAX: usize = 16;
/// Longest request, in bytes.
const REQUEST_MAX: usize = 256 << 10;
/// For a request to come, and for a client to take a line of the answer.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// After a failed accept: out of descriptors, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sends one line of an answer, which must be JSON or empty; an error means that the client is gone.
pub type Say<'s> = &'s mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Answers requests.
pub trait Answer: Send + Sync + 'static {
    /// # Errors
    /// The client is gone.
    fn answer(&self, request: Request, say: Say<'_>) -> io::Result<()>;
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "another eql-sensor{} answers on `{}`; stop it, or give this one another socket by --control", .pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display()
    )]
    Taken { path: PathBuf, pid: Option<String> },
    #[error("cannot listen on `{}`", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A socket that listens; removed when this is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    /// Held as long as this lives.
    _lock: File,
}

impl Server {
    /// Takes the lock, replaces a socket that somebody left behind, and listens. A group that was given to the old one is kept.
    ///
    /// # Errors
    /// Another daemon holds it, or the directory does not allow it.
    pub fn bind(path: &Path) -> Result<Server, BindError> {
        let failed = |source| BindError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let lock = lock(path)
            .map_err(failed)?
            .ok_or_else(|| BindError::Taken {
                path: path.to_owned(),
                pid: holder(path),
            })?;
        let group = fs::symlink_metadata(path).ok().map(|old| old.gid());
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        if let Some(group) = group
            && let Err(error) = std::os::unix::fs::chown(path, None, Some(group))
        {
            tracing::warn!("the group of `{}` can not be kept: {error}", path.display());
        }
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Server {
            path: path.to_owned(),
            listener,
            _lock: lock,
        })
    }

    /// Answers clients from now on, on threads that end with the process.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn serve(&self, answer: Arc<dyn Answer>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &answer))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// The lock with this process's number in it; `None` when somebody has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(lock_path(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(file))
}

fn holder(path: &Path) -> Option<String> {
    let text = fs::read_to_string(lock_path(path)).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    Some(pid.to_string())
}

/// Gives a place back when its client has been served.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn accept(listener: &UnixListener, answer: &Arc<dyn Answer>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let is_full = clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX;
        let place = Place(Arc::clone(&clients));
        if is_full {
            let _ = stream.set_nonblocking(true);
            let _ = say(
                &stream,
                &error(&format!("{CLIENTS_MAX} clients are served already")),
            );
            continue;
        }
        let answer = Arc::clone(answer);
        let thread = std::thread::Builder::new().name("control".into());
        let started = thread.spawn(move || {
            let _place = place;
            // A client that went away has no use for an error.
            let _ = serve_one(&stream, &*answer);
        });
        if let Err(error) = started {
            tracing::warn!("no thread for a client of the control socket: {error}");
        }
    }
}

fn serve_one(stream: &UnixStream, answer: &dyn Answer) -> io::Result<()> {
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    let request = match read_line(stream)? {
        Ok(line) => serde_json::from_slice::<Request>(&line)
            .map_err(|wrong| format!("this is no request: {wrong}")),
        Err(refused) => Err(refused),
    };
    match request {
        Ok(request) => answer.answer(request, &mut |line| say(stream, line)),
        Err(refused) => say(stream, &error(&refused)),
    }
}

/// The line of an answer that says why there is no other.
#[must_use]
pub fn error(text: &str) -> Vec<u8> {
    line(&json!({ "error": text }))
}

/// A document as a line, without its end.
#[must_use]
pub fn line(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn say(mut stream: &UnixStream, line: &[u8]) -> io::Result<()> {
    let mut text = Vec::with_capacity(line.len() + 1);
    text.extend_from_slice(line);
    text.push(b'\n');
    stream.write_all(&text)
}

/// One line without its end, or why it is refused.
fn read_line(mut stream: &UnixStream) -> io::Result<Result<Vec<u8>, String>> {
    let until = Instant::now() + REQUEST_WAIT;
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let late = || Ok(Err(format!("no request in {} s", REQUEST_WAIT.as_secs())));
        if left.is_zero() {
            return late();
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Ok(Ok(line)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return late(),
            Err(error) => return Err(error),
        };
        let read = chunk.get(..count).unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', read) {
            line.extend_from_slice(read.get(..end).unwrap_or_default());
            return Ok(Ok(line));
        }
        line.extend_from_slice(read);
        if line.len() > REQUEST_MAX {
            return Ok(Err(format!(
                "the request is longer than {REQUEST_MAX} bytes"
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    struct Echo;

    impl Answer for Echo {
        fn answer(&self, request: Request, say: Say<'_>) -> io::Result<()> {
            say(&line(&json!({ "request": request })))?;
            say(&line(&json!({ "end": true })))
        }
    }

    fn ask(path: &Path, request: &[u8]) -> Vec<String> {
        let mut stream = UnixStream::connect(path).unwrap();
        // The other end may refuse before it has read everything.
        let _ = stream.write_all(request);
        BufReader::new(stream)
            .lines()
            .map_while(Result::ok)
            .collect()
    }

    #[test]
    fn requests_are_answered_or_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/control");
        let server = Server::bind(&path).unwrap();
        server.serve(Arc::new(Echo)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let found = ask(&path, b"{\"verb\":\"status\"}\n");
        assert_eq!(
            found,
            ["{\"request\":{\"verb\":\"status\"}}", "{\"end\":true}"]
        );
        for (request, expected) in [
            (b"{\"verb\":\"fly\"}\n".to_vec(), "unknown variant `fly`"),
            (b"\xff\xfe\n".to_vec(), "this is no request"),
            (b"\n".to_vec(), "this is no request"),
            (
                vec![b'x'; REQUEST_MAX + 8192],
                "is longer than 262144 bytes",
            ),
        ] {
            let found = ask(&path, &request);
            assert!(found.concat().contains(expected), "{found:?}");
        }
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_living_daemon_keeps_its_socket_and_a_dead_ones_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let first = Server::bind(&path).unwrap();
        let refused = Server::bind(&path).map(drop).unwrap_err().to_string();
        let me = format!("another eql-sensor (pid {})", std::process::id());
        assert!(refused.starts_with(&me), "{refused}");
        drop(first);
        Server::bind(&path).unwrap();
    }

    #[test]
    fn further_clients_are_told_that_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let server = Server::bind(&path).unwrap();
        server.serve(Arc::new(Echo)).unwrap();
        let silent: Vec<UnixStream> = (0..CLIENTS_MAX)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let found = ask(&path, b"{\"verb\":\"status\"}\n");
        assert_eq!(found, ["{\"error\":\"16 clients are served already\"}"]);
        drop(silent);
        // Their places come back as soon as their threads see them gone.
        while ask(&path, b"{\"verb\":\"status\"}\n").len() < 2 {
            std::thread::yield_now();
        }
    }
}
