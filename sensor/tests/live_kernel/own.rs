//! Acts of the test process itself, which are the sensor's own when it loads the programs.
//!
//! In: a folder. Out: one act of each kind that is left out for the sensor. Must never act through a child: processes are never
//! left out.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sensor_ebpf::Kind;

/// Kinds that are left out when the sensor itself is who acts, one act each.
pub(crate) const KINDS: &[Kind] = &[
    Kind::FileCreate,
    Kind::Modify,
    Kind::Open,
    Kind::Rename,
    Kind::Link,
    Kind::Symlink,
    Kind::MakeDirectory,
    Kind::MakeNode,
    Kind::Delete,
    Kind::Connect,
    Kind::Accept,
    Kind::UdpConnect,
];

/// One act of each of [`KINDS`].
pub(crate) fn act(folder: &Path) {
    let [mine, moved] = ["mine", "moved"].map(|name| folder.join(name));
    fs::write(&mine, b"x").unwrap();
    let mut again = fs::OpenOptions::new().append(true).open(&mine).unwrap();
    again.write_all(b"y").unwrap();
    drop(again);
    assert_eq!(fs::read(&mine).unwrap(), b"xy");
    fs::rename(&mine, &moved).unwrap();
    fs::hard_link(&moved, folder.join("link")).unwrap();
    std::os::unix::fs::symlink("moved", folder.join("symlink")).unwrap();
    fs::create_dir(folder.join("directory")).unwrap();
    let mode = Mode::from_bits_truncate(0o600);
    mknodat(CWD, folder.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    fs::remove_file(&moved).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop((listener.accept().unwrap(), stream));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.0.0.1:9").unwrap();
}
