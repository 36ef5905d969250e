//! Records made by hand, for tests.
//!
//! In: keys, times and strings. Out: records as decode gives them, fed to an enricher. It makes no record that the kernel
//! programs could not send.

use sensor_ebpf::{
    ABI, ConnectBody, CredentialsBody, ExecBody, ExitBody, FileActBody, FileBody, FileEndBody,
    ForkBody, Header, Ids, Kind, MemfdBody, ModuleBody, PtraceBody, SessionBody, lookup_detail,
    moment,
};

use crate::decode::{Body, Exec, File, FileAct, Lookup, Memfd, Module, Record};
use crate::event::Event;

use super::Enricher;

/// A process key: tgid, start time.
pub(crate) type Key = (u32, u64);

pub(crate) fn header(kind: Kind, boot_ns: u64, (tgid, start_ns): Key) -> Header {
    Header {
        abi: ABI,
        kind: kind as u16,
        len: 0,
        boot_ns,
        start_ns,
        tgid,
        tid: tgid,
        cgroup_id: 1,
        mntns: 1,
        flags: 0,
        uid: 1000,
        cpu: 0,
        parts: 0,
        gid: 1000,
        reserved: 0,
    }
}

pub(crate) fn exec_body() -> ExecBody {
    ExecBody {
        parent_start_ns: 0,
        parent_tgid: 0,
        ns_tgid: 0,
        uid: 1000,
        gid: 1000,
        suid: 1000,
        sgid: 1000,
        euid: 1000,
        egid: 1000,
        fsuid: 1000,
        fsgid: 1000,
        pgid: 0,
        sid: 0,
        tty: 0,
        old_tid: 0,
        exe_inode: 9,
        exe_dev: 1,
        exe_mode: 0o100_755,
        args_len: 0,
        args_count: 0,
        cap_effective: 0,
        cap_permitted: 0,
        secureexec: 0,
        environment_len: 0,
    }
}

pub(crate) fn act_body(token: u64) -> FileActBody {
    FileActBody {
        token,
        inode: 78,
        dev: 1,
        mode: 0o100_600,
        uid: 1000,
        gid: 1000,
    }
}

/// An end that made nothing.
pub(crate) fn end_body(act: Kind, token: u64, result: i32) -> FileEndBody {
    FileEndBody {
        token,
        inode: 0,
        dev: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        result,
        kind: u32::from(act as u16),
    }
}

/// The strings of an exec; `args` as a shell would split them.
pub(crate) struct Run<'a> {
    pub(crate) filename: &'a str,
    pub(crate) executable: &'a str,
    pub(crate) interpreter: &'a str,
    pub(crate) cwd: &'a str,
    pub(crate) args: &'a [&'a str],
    /// Each variable ends with NUL.
    pub(crate) environment: &'a str,
}

impl<'a> Run<'a> {
    pub(crate) fn of(path: &'a str, args: &'a [&'a str]) -> Run<'a> {
        Run {
            filename: path,
            executable: path,
            interpreter: "",
            cwd: "/srv",
            args,
            environment: "",
        }
    }
}

impl Enricher {
    /// The one event of a record.
    pub(crate) fn feed(&mut self, header: &Header, body: Body<'_>) -> Event {
        let mut events = self.feed_all(header, body);
        assert_eq!(events.len(), 1, "{events:#?}");
        events.remove(0)
    }

    /// All events of a record, if any.
    pub(crate) fn feed_all(&mut self, header: &Header, body: Body<'_>) -> Vec<Event> {
        let mut events = Vec::new();
        let record = Record {
            header,
            body,
            unknown_parts: 0,
        };
        self.events(&record, |event| events.push(event));
        events
    }

    pub(crate) fn feed_fork(&mut self, boot_ns: u64, child: Key, parent: Key) -> Event {
        let body = ForkBody {
            parent_start_ns: parent.1,
            parent_tgid: parent.0,
            ns_tgid: child.0,
            pgid: parent.0,
            sid: parent.0,
        };
        self.feed(&header(Kind::Fork, boot_ns, child), Body::Fork(&body))
    }

    /// The exec itself, without what it changed besides.
    pub(crate) fn feed_exec(
        &mut self,
        boot_ns: u64,
        key: Key,
        body: &ExecBody,
        run: &Run<'_>,
    ) -> Event {
        self.feed_exec_as(&header(Kind::Exec, boot_ns, key), body, run)
    }

    /// An exec whose header says more than time and key.
    pub(crate) fn feed_exec_as(
        &mut self,
        header: &Header,
        body: &ExecBody,
        run: &Run<'_>,
    ) -> Event {
        let area: String = run.args.iter().flat_map(|arg| [*arg, "\0"]).collect();
        let body = ExecBody {
            args_len: u32::try_from(area.len()).unwrap(),
            args_count: u32::try_from(run.args.len()).unwrap(),
            ns_tgid: header.tgid,
            ..*body
        };
        let exec = Exec {
            body: &body,
            filename: run.filename.as_bytes(),
            executable: run.executable.as_bytes(),
            interpreter: run.interpreter.as_bytes(),
            working_directory: run.cwd.as_bytes(),
            comm: b"comm",
            arguments: area.as_bytes(),
            environment: run.environment.as_bytes(),
        };
        let mut events = self.feed_all(header, Body::Exec(exec));
        events.pop().unwrap()
    }

    pub(crate) fn feed_exit(&mut self, boot_ns: u64, key: Key, status: u32) -> Event {
        let body = ExitBody {
            status,
            reserved: 0,
        };
        self.feed(&header(Kind::Exit, boot_ns, key), Body::Exit(&body))
    }

    pub(crate) fn feed_creation(&mut self, boot_ns: u64, key: Key, path: &[u8]) -> Event {
        let body = FileBody {
            inode: 77,
            dev: 1,
            mode: 0o100_644,
            uid: 1000,
            gid: 1000,
            open_flags: 0,
            reserved: 0,
        };
        let file = File { body: &body, path };
        self.feed(
            &header(Kind::FileCreate, boot_ns, key),
            Body::FileCreate(file),
        )
    }

    /// A change of ids, a session, a memfd, a ptrace and a module: six events.
    pub(crate) fn feed_own_acts(
        &mut self,
        boot_ns: u64,
        key: Key,
        name: &[u8],
        bits: u64,
    ) -> Vec<Event> {
        let ids = |number| Ids {
            uid: number,
            gid: number,
            suid: number,
            sgid: number,
            euid: number,
            egid: number,
            fsuid: number,
            fsgid: number,
        };
        let number = u32::try_from(bits >> 33).unwrap();
        let credentials = CredentialsBody {
            old: ids(number + 1),
            new: ids(number),
            cap_effective: bits,
            cap_permitted: bits,
            moment: moment::CHANGE,
            reserved: 0,
        };
        let session = SessionBody {
            start_ns: key.1,
            tgid: key.0,
            pgid: key.0,
            sid: key.0,
            reserved: 0,
        };
        let ptrace = PtraceBody {
            child_start_ns: bits,
            child_tgid: number,
            child_tid: number,
            request: 16,
            reserved: 0,
        };
        let shown = [b"memfd:", name].concat();
        let (memfd, module) = (MemfdBody { inode: bits }, ModuleBody { taints: bits });
        let memfd = Memfd {
            body: &memfd,
            name: &shown,
        };
        let module = Module {
            body: &module,
            name,
        };
        let acts = [
            (Kind::Credentials, Body::Credentials(&credentials)),
            (Kind::Session, Body::Session(&session)),
            (Kind::Memfd, Body::Memfd(memfd)),
            (Kind::Ptrace, Body::Ptrace(&ptrace)),
            (Kind::Module, Body::Module(module)),
        ];
        acts.into_iter()
            .flat_map(|(kind, body)| {
                let mut header = header(kind, boot_ns, key);
                (header.uid, header.gid) = (number, number);
                self.feed_all(&header, body)
            })
            .collect()
    }

    /// Begin and end of a file act that came about, with paths as the kernel knows them; the one event of it.
    pub(crate) fn feed_act(
        &mut self,
        act: Kind,
        boot_ns: u64,
        key: Key,
        old_path: &[u8],
        path: &[u8],
    ) -> Event {
        let body = act_body(boot_ns);
        let begin = FileAct {
            body: &body,
            old_directory: b"",
            old_path,
            directory: b"",
            path,
        };
        self.feed_begin(&header(act, boot_ns, key), begin);
        let end = end_body(act, boot_ns, 0);
        self.feed(
            &header(Kind::FileEnd, boot_ns + 1, key),
            Body::FileEnd(&end),
        )
    }

    /// The begin of a file act, which is no event.
    pub(crate) fn feed_begin(&mut self, header: &Header, begin: FileAct<'_>) {
        let begun = self.feed_all(header, Body::FileAct(begin));
        assert!(begun.is_empty(), "{begun:#?}");
    }

    /// An answer to a question for `www.example.org`: addresses of both families.
    pub(crate) fn feed_lookup(&mut self, boot_ns: u64, key: Key, server: [u8; 4]) -> Event {
        let payload: &[u8] =
            b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x03www\x07example\x03org\0\0\x01\0\x01\
            \xc0\x0c\0\x01\0\x01\0\0\0\x09\0\x04\xc0\0\x02\x07\
            \xc0\x0c\0\x1c\0\x01\0\0\0\x09\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&server);
        let body = ConnectBody {
            family: 2,
            local_port: 50_053,
            remote_port: 53,
            protocol: 17,
            local: [10; 16],
            remote,
            netns: 1,
            detail: u32::try_from(payload.len()).unwrap() | lookup_detail::RECEIVED,
            socket: 1,
        };
        let lookup = Lookup {
            body: &body,
            payload,
        };
        self.feed(&header(Kind::Dns, boot_ns, key), Body::Dns(lookup))
    }

    pub(crate) fn feed_connect(
        &mut self,
        boot_ns: u64,
        key: Key,
        family: u16,
        remote: [u8; 16],
        port: u16,
    ) -> Event {
        let body = ConnectBody {
            family,
            local_port: 0,
            remote_port: port,
            protocol: 6,
            local: [0; 16],
            remote,
            netns: 1,
            detail: 0,
            socket: 1,
        };
        self.feed(&header(Kind::Connect, boot_ns, key), Body::Connect(&body))
    }
}
