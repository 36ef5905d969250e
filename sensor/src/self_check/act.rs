//! What the self-check's child does: a few acts with a known outcome, in a process of their own.
//!
//! In: a token and a directory on the command line. Out: one line per act on standard output, then the wait for standard input
//! to close, then an exit with a known code. It must end by itself, whatever became of its parent, and leave no file behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, major, memfd_create, minor, mknodat};
use rustix::process::{Gid, getegid, setsid};
use rustix::thread::set_thread_res_gid;

/// First argument of the acting process.
pub const MARKER: &str = "self-check-act";
/// The sensor's own binary, whatever it is called and even when it was replaced.
pub const PROGRAM: &str = "/proc/self/exe";
/// What the acting process ends with.
pub const EXIT_CODE: u8 = 23;
/// Permissions of the file it makes.
pub const MODE: u32 = 0o600;
/// Last line of its report.
const END: &str = "end";
/// For a connection on loopback.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// The file it makes.
#[must_use]
pub fn file_of(directory: &Path, token: &str) -> PathBuf {
    directory.join(format!(".eql-sensor-self-check-{token}"))
}

/// Everything it may have made, should the process be killed half way; the last is a directory.
#[must_use]
pub fn made(file: &Path) -> [PathBuf; 6] {
    [
        file.to_owned(),
        renamed(file),
        linked(file),
        symbolic(file),
        node(file),
        directory(file),
    ]
}

/// The file's second name.
#[must_use]
pub fn renamed(file: &Path) -> PathBuf {
    beside(file, "-renamed")
}

/// A hard link to the file.
#[must_use]
pub fn linked(file: &Path) -> PathBuf {
    beside(file, "-linked")
}

/// A symbolic link whose text is the file's first name.
#[must_use]
pub fn symbolic(file: &Path) -> PathBuf {
    beside(file, "-symbolic")
}

/// A named pipe.
#[must_use]
pub fn node(file: &Path) -> PathBuf {
    beside(file, "-node")
}

/// An empty directory.
#[must_use]
pub fn directory(file: &Path) -> PathBuf {
    beside(file, "-directory")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// True when nothing will be added to a report before standard input closes.
#[must_use]
pub fn is_whole(report: &[u8]) -> bool {
    report.ends_with(format!("{END}\n").as_bytes())
}

/// Acts, if this process was started to; `None` leaves the command line to others.
#[must_use]
pub fn if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARKER {
        return None;
    }
    let token = arguments.next()?.into_string().ok()?;
    let directory = PathBuf::from(arguments.next()?);
    // A parent that went away is no reason to stop before the file is gone.
    let _ = report(&token, &directory);
    Some(ExitCode::from(EXIT_CODE))
}

fn report(token: &str, directory: &Path) -> io::Result<()> {
    let file = file_of(directory, token);
    let mut text = String::new();
    let mut line = |act: &str, outcome: io::Result<Vec<u64>>| match outcome {
        Ok(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            text.push_str(&format!("{act} {}\n", numbers.join(" ")));
        }
        Err(error) => text.push_str(&format!("{act} ! {error}\n")),
    };
    on_files(&file, &mut line);
    line("credentials", saved_group());
    line("memfd", memfd(token));
    line("session", setsid().map(|_| Vec::new()).map_err(Into::into));
    line("connect4", connect(Ipv4Addr::LOCALHOST.into()));
    line("connect6", connect(Ipv6Addr::LOCALHOST.into()));
    text.push_str(&format!("{END}\n"));
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    // Until the parent has seen what `/proc` says of this process.
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Makes one thing of each sort, renames the file, and removes them all.
fn on_files(file: &Path, line: &mut impl FnMut(&str, io::Result<Vec<u64>>)) {
    let nothing = |()| Vec::new();
    line("create", create(file));
    line("link", fs::hard_link(file, linked(file)).map(nothing));
    let new = symbolic(file);
    line("symlink", symlink(file, &new).and_then(|()| inode(&new)));
    let new = directory(file);
    line("mkdir", fs::create_dir(&new).and_then(|()| inode(&new)));
    let new = node(file);
    line("mknod", pipe(&new).and_then(|()| inode(&new)));
    line("rename", fs::rename(file, renamed(file)).map(nothing));
    line("delete", fs::remove_file(renamed(file)).map(nothing));
    for rest in [linked(file), symbolic(file), node(file)] {
        // What could not be made is not there.
        let _ = fs::remove_file(rest);
    }
    let _ = fs::remove_dir(directory(file));
}

fn pipe(path: &Path) -> io::Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(MODE), 0)?;
    Ok(())
}

/// Changes the saved group id, which nothing goes by, and back. The id that was there and the other one.
fn saved_group() -> io::Result<Vec<u64>> {
    let own = getegid();
    let other = Gid::from_raw(own.as_raw() ^ 1);
    set_thread_res_gid(None, None, other)?;
    set_thread_res_gid(None, None, own)?;
    Ok(vec![own.as_raw().into(), other.as_raw().into()])
}

/// Inode, device, mode and owner of a new file.
fn create(path: &Path) -> io::Result<Vec<u64>> {
    let file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    numbers(&file.metadata()?)
}

/// The same of what is at a path, itself if it is a symbolic link.
fn inode(path: &Path) -> io::Result<Vec<u64>> {
    numbers(&fs::symlink_metadata(path)?)
}

fn numbers(of: &fs::Metadata) -> io::Result<Vec<u64>> {
    let device = u64::from(major(of.dev())) << 20 | u64::from(minor(of.dev()));
    let numbers = [
        of.ino(),
        device,
        of.mode().into(),
        of.uid().into(),
        of.gid().into(),
    ];
    Ok(numbers.to_vec())
}

/// Inode of a file in memory named by the token.
fn memfd(token: &str) -> io::Result<Vec<u64>> {
    let file: File = memfd_create(token, MemfdFlags::CLOEXEC)?.into();
    Ok(vec![file.metadata()?.ino()])
}

/// Local and remote port of a connection to a listener of its own.
fn connect(to: IpAddr) -> io::Result<Vec<u64>> {
    let listener = TcpListener::bind(SocketAddr::new(to, 0))?;
    let there = listener.local_addr()?;
    let dialled = TcpStream::connect_timeout(&there, CONNECT_MAX)?;
    let here = dialled.local_addr()?;
    let accepted = listener.accept()?;
    drop((dialled, accepted, listener));
    Ok(vec![here.port().into(), there.port().into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let file = file_of(directory.path(), "t");
        let mut modes = Vec::new();
        on_files(&file, &mut |act, outcome| {
            let mode = outcome.unwrap().get(2).map(|mode| mode & 0o170_000);
            modes.push((act.to_owned(), mode));
        });
        let of = |name: &str| modes.iter().find(|(act, _)| act == name).unwrap().1;
        assert_eq!(modes.len(), 7);
        assert_eq!(
            (of("create"), of("symlink")),
            (Some(0o100_000), Some(0o120_000))
        );
        assert_eq!(
            (of("mkdir"), of("mknod")),
            (Some(0o040_000), Some(0o010_000))
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let ports = connect(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert!(ports.iter().all(|port| *port > 0), "{ports:?}");
    }

    #[test]
    fn a_report_is_whole_at_its_last_line() {
        assert!(!is_whole(b"create 1 2"));
        assert!(is_whole(b"create 1 2\nend\n"));
        assert!(if_asked().is_none());
    }
}
