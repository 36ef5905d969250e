//! Record to Event: the process table, and what the host knows besides.
//!
//! In: decoded records in the order of the ring, and `/proc` once at the start and where a record is incomplete. Out: the
//! [`Event`]s of each record, most often one. A record about a process nobody knows becomes an event with what it carries,
//! counted; it is never discarded. It holds no clock: event time comes with the records, the wall clock's offset is handed in.

mod act;
#[cfg(test)]
mod act_tests;
mod acts;
mod capabilities;
pub mod cgroups;
mod complete;
pub mod contents;
mod credentials;
mod dns;
mod entry;
pub mod environment;
#[cfg(test)]
mod history_tests;
pub mod host;
mod image;
mod memory;
mod modification;
mod pairing;
pub mod process_table;
pub mod procfs;
pub mod records;
mod resolve;
mod scan;
mod sockets;
#[cfg(test)]
mod sockets_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod users;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sensor_ebpf::{ConnectBody, ExitBody, ForkBody, Header, lookup_detail, record_flag};

use crate::decode::{self, Body, Exec, Lookup, Record};
use crate::event::network::{Direction, Endpoint, Transport};
use crate::event::{
    Cgroup, Credentials, Entry, Event, Exit, Facts, Gauge, Host, Image, Kind, Leader, Lineage,
    Marks, Network, Process, Target,
};
use capabilities::CapabilityNames;
use cgroups::Cgroups;
use host::EntityIds;
pub use memory::{Memory, word};
pub use modification::Watched;
use pairing::Pairing;
use process_table::{ProcessTable, Source, TableLimits};
use procfs::Procfs;
use sockets::{Socket, Sockets};
use users::Users;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What happened on the way from records to events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events made.
    pub events: u64,
    /// Records about processes that neither the table nor `/proc` knew.
    pub unknown_process: u64,
    /// Processes the table lacked and `/proc` still had.
    pub found_in_proc: u64,
    /// Records of which only the header came.
    pub degraded: u64,
    /// Execs whose arguments were cut or unreadable in the kernel and completed from `/proc`.
    pub args_completed: u64,
    /// Execs whose arguments stayed cut or unreadable.
    pub args_incomplete: u64,
    /// Processes kept with cut texts, because all texts together were over their bound.
    pub images_cut: u64,
    /// File acts given out without anybody knowing whether they came about.
    pub unconfirmed: u64,
    /// File acts that were begun and forgotten: neither ended nor can their end have been lost.
    pub acts_forgotten: u64,
    /// Processes evicted from the table.
    pub evicted: u64,
    /// Connected sockets evicted from their table: their close is not reported.
    pub sockets_evicted: u64,
    /// Sockets closed of whose connection nothing was seen; no event tells of them.
    pub unknown_sockets: u64,
    /// Messages to or from port 53 that are no query and no answer; no event tells of them.
    pub no_lookups: u64,
    /// Processes in the table now.
    pub processes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Enricher {
    host: Arc<Host>,
    ids: EntityIds,
    table: ProcessTable,
    sockets: Sockets,
    users: Users,
    cgroups: Cgroups,
    environment: environment::Wanted,
    procfs: Option<Procfs>,
    capabilities: CapabilityNames,
    images: Gauge,
    changes: credentials::Changes,
    pairing: Pairing,
    /// Wall clock minus boot clock.
    wall_offset_ns: i64,
    /// Of opens, only those of it become events.
    watched: Watched,
    sequence: u64,
    counters: Counters,
    /// What the table holds is of an earlier run.
    recalled: bool,
}

impl Enricher {
    /// `procfs` is `None` where records are not of this host, or in tests.
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        limits: TableLimits,
        users: Users,
        procfs: Option<Procfs>,
    ) -> Enricher {
        Enricher {
            ids: EntityIds::of(&host),
            host,
            table: ProcessTable::new(limits),
            sockets: Sockets::default(),
            users,
            cgroups: procfs
                .as_ref()
                .map_or_else(Cgroups::default, |_| Cgroups::of_host()),
            environment: environment::Wanted::default(),
            procfs,
            capabilities: CapabilityNames::default(),
            images: Gauge::default(),
            changes: credentials::Changes::default(),
            pairing: Pairing::default(),
            wall_offset_ns: 0,
            watched: Watched::default(),
            sequence: 0,
            counters: Counters::default(),
            recalled: false,
        }
    }

    /// Keeps these environment variables of every exec that carries its environment; without it, none.
    pub fn set_environment(&mut self, wanted: environment::Wanted) {
        self.environment = wanted;
    }

    /// Looks control groups up elsewhere than on this host.
    pub fn set_cgroups(&mut self, cgroups: Cgroups) {
        self.cgroups = cgroups;
    }

    /// Sets the wall clock's distance from the boot clock, nanoseconds.
    pub fn set_wall_offset(&mut self, wall_offset_ns: i64) {
        self.wall_offset_ns = wall_offset_ns;
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            acts_forgotten: self.pairing.forgotten(),
            evicted: self.table.evicted(),
            sockets_evicted: self.sockets.evicted(),
            processes: u64::try_from(self.table.len()).unwrap_or(u64::MAX),
            ..self.counters
        }
    }

    /// Hands over the events of one record: one for most; none for one that is half of a pair, several where it says that more
    /// than one thing happened.
    pub fn events(&mut self, record: &Record<'_>, mut made: impl FnMut(Event)) {
        let header = record.header;
        self.users.refresh(header.boot_ns);
        self.table.retire(header.boot_ns);
        match record.body {
            Body::Fork(body) => made(self.fork(header, body)),
            Body::Exec(exec) => {
                self.credentials_of_exec(header, exec.body, &mut made);
                made(self.exec(header, &exec));
            }
            Body::Exit(body) => {
                self.pairing.exit(header.tgid);
                made(self.end(header, Some(body)));
            }
            Body::FileCreate(file) => made(self.creation(header, Some(&file))),
            Body::Connect(body) => made(self.connection(header, Some(body))),
            Body::Accept(body) => made(self.accepted(header, Some(body))),
            Body::Close(body) => self.closed(header, body).into_iter().for_each(&mut made),
            Body::Credentials(body) => self.credentials(header, body, &mut made),
            Body::ConnectRefused(body) => {
                made(self.towards(header, Some(body), Kind::ConnectionDenied))
            }
            Body::UdpConnect(body) => self
                .given_peer(header, body)
                .into_iter()
                .for_each(&mut made),
            Body::Dns(lookup) => self.lookup(header, &lookup).into_iter().for_each(&mut made),
            Body::Session(body) => self.session(header, body, &mut made),
            Body::Memfd(memfd) => made(self.memfd(header, Some(&memfd))),
            Body::Ptrace(body) => made(self.ptrace(header, Some(body))),
            Body::Module(module) => made(self.module(header, Some(&module))),
            Body::FileAct(act) => {
                if let Some(kind) = decode::kind_of(header.kind) {
                    self.pairing.begin(header, kind, Some(&act));
                }
            }
            Body::FileEnd(end) => self.act_ended(header, Some(end)).into_iter().for_each(made),
            Body::Modify(modify) => self
                .modification(header, &modify)
                .into_iter()
                .for_each(made),
            Body::Open(file) => self.opening(header, &file).into_iter().for_each(made),
            Body::Degraded => self.degraded(header).into_iter().for_each(made),
            Body::Throttle(body) => made(self.throttle(header, body)),
        }
    }

    /// Only the header came: say what it and the table can.
    fn degraded(&mut self, header: &Header) -> Option<Event> {
        self.counters.degraded += 1;
        let event = match decode::kind_of(header.kind) {
            Some(sensor_ebpf::Kind::Fork) => {
                let process = self.found_now(header);
                self.stamp(Kind::Fork, header, process, Target::Process)
            }
            Some(sensor_ebpf::Kind::Exec) | None => {
                let process = self.found_now(header);
                self.stamp(Kind::Exec, header, process, Target::Process)
            }
            Some(sensor_ebpf::Kind::Exit) => {
                self.pairing.exit(header.tgid);
                self.end(header, None)
            }
            Some(sensor_ebpf::Kind::FileCreate) => self.creation(header, None),
            Some(sensor_ebpf::Kind::Connect) => self.connection(header, None),
            Some(sensor_ebpf::Kind::Accept) => self.accepted(header, None),
            // Without the socket nobody can say whether it was ever connected.
            Some(sensor_ebpf::Kind::Close) => return None,
            Some(sensor_ebpf::Kind::Memfd) => self.memfd(header, None),
            Some(sensor_ebpf::Kind::Ptrace) => self.ptrace(header, None),
            Some(sensor_ebpf::Kind::Module) => self.module(header, None),
            // Whether there was a change that makes an event is not known: the next exec or the next change tells.
            Some(sensor_ebpf::Kind::Credentials | sensor_ebpf::Kind::Session) => return None,
            Some(sensor_ebpf::Kind::FileEnd) => return self.act_ended(header, None),
            Some(
                kind @ (sensor_ebpf::Kind::Rename
                | sensor_ebpf::Kind::Delete
                | sensor_ebpf::Kind::Link
                | sensor_ebpf::Kind::Symlink
                | sensor_ebpf::Kind::MakeDirectory
                | sensor_ebpf::Kind::MakeNode),
            ) => {
                self.pairing.begin(header, kind, None);
                return None;
            }
            Some(sensor_ebpf::Kind::Modify) => self.bare(Kind::Modification, header),
            Some(sensor_ebpf::Kind::Open) => self.bare(Kind::Open, header),
            Some(sensor_ebpf::Kind::Throttle) => self.bare(Kind::ThrottleStarted, header),
            Some(sensor_ebpf::Kind::ConnectRefused) => {
                self.towards(header, None, Kind::ConnectionDenied)
            }
            Some(sensor_ebpf::Kind::UdpConnect) => self.towards(header, None, Kind::UdpConnect),
            // Without the message nobody can say whether it was a lookup.
            Some(sensor_ebpf::Kind::Dns) => return None,
        };
        Some(event)
    }

    /// That a process did something, and no more.
    fn bare(&mut self, kind: Kind, header: &Header) -> Event {
        let process = self.actor(header);
        self.stamp(kind, header, process, Target::Process)
    }

    fn fork(&mut self, header: &Header, body: &ForkBody) -> Event {
        let now = header.boot_ns;
        let parent = self.process_of(body.parent_tgid, body.parent_start_ns, now);
        let (facts, lineage) = match &parent {
            Some(parent) => {
                let lineage = parent.lineage.below(&parent.facts);
                ((*parent.facts).clone(), lineage)
            }
            None => (
                self.unknown(header.tgid, header.start_ns),
                Lineage::default(),
            ),
        };
        let facts = Facts {
            pid: header.tgid,
            start_ns: header.start_ns,
            entity_id: self.ids.entity_id(header.tgid, header.start_ns),
            namespace_pid: Some(body.ns_tgid).filter(|pid| *pid != 0),
            credentials: Credentials {
                user: Some(self.users.user(header.uid)),
                group: Some(self.users.group(header.gid)),
                ..facts.credentials
            },
            cgroup: self.cgroup(header),
            mount_namespace: Some(header.mntns).filter(|inode| *inode != 0),
            image: self.deleted(&facts.image, header).unwrap_or(facts.image),
            ..facts
        };
        let parent = parent.as_ref();
        let process = Arc::new(Process {
            group_leader: self.leader(body.pgid, &facts),
            session_leader: self.leader(body.sid, &facts),
            entry_leader: entry::of(
                &facts,
                body.sid == header.tgid,
                parent.map(|parent| &*parent.facts),
                parent.and_then(|parent| parent.entry_leader.as_ref()),
            ),
            facts: Arc::new(facts),
            lineage: Arc::new(lineage),
            previous_executable: None,
        });
        self.table.insert(process.clone(), Source::Record, now);
        self.stamp(Kind::Fork, header, process, Target::Process)
    }

    fn exec(&mut self, header: &Header, exec: &Exec<'_>) -> Event {
        let now = header.boot_ns;
        let body = exec.body;
        let known = self.table.find(header.tgid, header.start_ns, now);
        let lineage = match &known {
            // The parent at fork time; by now the process may have been handed to another.
            Some(known) if known.lineage.parent().is_some() => known.lineage.clone(),
            _ => self.lineage_under(body.parent_tgid, body.parent_start_ns, now),
        };
        let previous = known
            .as_ref()
            .and_then(|k| k.facts.image.executables.first().cloned());
        let whole = self.completed(header, exec);
        let strings = Exec {
            executable: &whole.executable,
            working_directory: &whole.working_directory,
            ..*exec
        };
        let image = image::of_exec(&strings, header.flags, &whole.arguments)
            .with_environment(self.environment.of(&whole.environment))
            .charged(&self.images);
        let facts = Facts {
            pid: header.tgid,
            start_ns: header.start_ns,
            entity_id: self.ids.entity_id(header.tgid, header.start_ns),
            namespace_pid: Some(body.ns_tgid).filter(|pid| *pid != 0),
            image: Arc::new(image),
            credentials: self.accounts(&credentials::of_exec(body)),
            tty: Some(body.tty),
            capabilities_effective: Some(self.capabilities.of(body.cap_effective)),
            capabilities_permitted: Some(self.capabilities.of(body.cap_permitted)),
            cgroup: self.cgroup(header),
            mount_namespace: Some(header.mntns).filter(|inode| *inode != 0),
        };
        let parent = lineage.parent().cloned();
        let passed_on = match known {
            Some(known) if known.entry_leader.is_some() => known.entry_leader.clone(),
            _ => parent
                .as_ref()
                .and_then(|parent| self.entry_of(parent, now)),
        };
        let process = Process {
            group_leader: self.leader(body.pgid, &facts),
            session_leader: self.leader(body.sid, &facts),
            entry_leader: entry::of(
                &facts,
                body.sid == header.tgid,
                parent.as_deref(),
                passed_on.as_ref(),
            ),
            facts: Arc::new(facts),
            lineage,
            previous_executable: previous,
        };
        let process = self.keep(process, Source::Record, now);
        Event {
            marks: whole.marks,
            ..self.stamp(Kind::Exec, header, process, Target::Process)
        }
    }

    fn end(&mut self, header: &Header, body: Option<&ExitBody>) -> Event {
        let process = self.actor(header);
        self.table
            .exit(header.tgid, header.start_ns, header.boot_ns);
        let target = body.map_or(Target::Process, |body| {
            let byte = |bits: u32| u8::try_from(bits).unwrap_or_default();
            Target::Exit(Exit {
                code: byte(body.status >> 8 & 0xff),
                signal: Some(byte(body.status & 0x7f)).filter(|signal| *signal != 0),
            })
        });
        self.stamp(Kind::End, header, process, target)
    }

    fn creation(&mut self, header: &Header, file: Option<&decode::File<'_>>) -> Event {
        let process = self.actor(header);
        let target = file.map_or(Target::Process, |file| {
            let body = file.body;
            Target::File(self.file(file.path, body.inode, body.mode, body.uid, body.gid))
        });
        self.stamp(Kind::Creation, header, process, target)
    }

    fn connection(&mut self, header: &Header, body: Option<&ConnectBody>) -> Event {
        self.begin(header, body, Kind::ConnectionAttempted, Direction::Egress)
    }

    fn accepted(&mut self, header: &Header, body: Option<&ConnectBody>) -> Event {
        self.begin(header, body, Kind::ConnectionAccepted, Direction::Ingress)
    }

    /// A connection began; its socket is remembered for when it ends.
    fn begin(
        &mut self,
        header: &Header,
        body: Option<&ConnectBody>,
        kind: Kind,
        direction: Direction,
    ) -> Event {
        let process = self.actor(header);
        let target = body.map_or(Target::Process, |body| {
            let owner = (header.tgid, header.start_ns);
            self.sockets
                .insert(body.socket, Socket { direction, owner });
            Target::Network(connection_of(body, direction))
        });
        self.stamp(kind, header, process, target)
    }

    /// Something was done towards another host that begins no connection.
    fn towards(&mut self, header: &Header, body: Option<&ConnectBody>, kind: Kind) -> Event {
        let process = self.actor(header);
        let target = body.map_or(Target::Process, |body| {
            Target::Network(connection_of(body, Direction::Egress))
        });
        self.stamp(kind, header, process, target)
    }

    /// A UDP socket was given a peer: an event unless its peer was taken away.
    fn given_peer(&mut self, header: &Header, body: &ConnectBody) -> Option<Event> {
        let remote = endpoint(body.family, body.remote, body.remote_port);
        if remote.ip.is_none() && remote.port.is_none() {
            return None;
        }
        Some(self.towards(header, Some(body), Kind::UdpConnect))
    }

    /// A message was sent to a name server or came from one: an event if it is a query or an answer.
    fn lookup(&mut self, header: &Header, lookup: &Lookup<'_>) -> Option<Event> {
        let body = lookup.body;
        let stream = Transport::from_protocol(body.protocol) == Transport::Tcp;
        let received = body.detail & lookup_detail::RECEIVED != 0;
        let message = dns::parse(lookup.payload, stream).filter(|dns| dns.answer == received);
        let Some(message) = message else {
            self.counters.no_lookups += 1;
            return None;
        };
        let kind = if received {
            Kind::LookupResult
        } else {
            Kind::LookupRequested
        };
        let process = self.actor(header);
        let target = Target::Network(Network {
            dns: Some(Box::new(message)),
            ..connection_of(body, Direction::Egress)
        });
        Some(self.stamp(kind, header, process, target))
    }

    /// A socket was closed: an event if it was connected.
    fn closed(&mut self, header: &Header, body: &ConnectBody) -> Option<Event> {
        let Some(socket) = self.sockets.remove(body.socket) else {
            self.counters.unknown_sockets += 1;
            return None;
        };
        if socket.direction == Direction::Egress && body.detail == 0 {
            // The attempt came to nothing.
            return None;
        }
        let mut header = *header;
        if header.flags & record_flag::KTHREAD != 0 {
            // Work put off to the kernel: the process that had the connection let go of it.
            (header.tgid, header.start_ns) = socket.owner;
            let owner = self.process_of(header.tgid, header.start_ns, header.boot_ns);
            let credentials = owner.map(|owner| owner.facts.credentials.clone());
            let (user, group) = credentials.map_or((None, None), |ids| (ids.user, ids.group));
            header.uid = user.map_or(header.uid, |user| user.number);
            header.gid = group.map_or(header.gid, |group| group.number);
        }
        let process = self.actor(&header);
        let target = Target::Network(connection_of(body, socket.direction));
        Some(self.stamp(Kind::DisconnectReceived, &header, process, target))
    }

    fn stamp(
        &mut self,
        kind: Kind,
        header: &Header,
        process: Arc<Process>,
        target: Target,
    ) -> Event {
        self.counters.events += 1;
        self.sequence += 1;
        Event {
            kind,
            sequence: self.sequence,
            boot_ns: header.boot_ns,
            wall_ns: i64::try_from(header.boot_ns)
                .unwrap_or(i64::MAX)
                .saturating_add(self.wall_offset_ns),
            host: self.host.clone(),
            process,
            user: self.users.user(header.uid),
            group: self.users.group(header.gid),
            marks: Marks::of(
                header.flags & record_flag::TRUNCATED,
                header.flags & (record_flag::READ_FAULT | record_flag::DEGRADED),
            ),
            target,
        }
    }

    /// The process that acted, with the effective ids it acted under.
    fn actor(&mut self, header: &Header) -> Arc<Process> {
        let process = self.process_of_header(header);
        let process = self.with_ids(process, header);
        let process = self.with_deletion(process, header);
        self.in_cgroup(process, header)
    }

    /// A process whose executable a record says is deleted: it may have been since it was run, by its own hand or by an upgrade.
    fn with_deletion(&mut self, process: Arc<Process>, header: &Header) -> Arc<Process> {
        match self.deleted(&process.facts.image, header) {
            Some(image) => self.replace(process, header.boot_ns, |facts| facts.image = image),
            None => process,
        }
    }

    /// The image with its executable marked as deleted, when a record says so and it is not marked yet.
    fn deleted(&self, image: &Image, header: &Header) -> Option<Arc<Image>> {
        if header.flags & record_flag::EXE_DELETED == 0 {
            return None;
        }
        let image = image::deleted(image)?;
        Some(Arc::new(image.charged(&self.images)))
    }

    /// A process with the effective ids that a record tells. It may have changed them since; children are to see the new ones.
    fn with_ids(&mut self, process: Arc<Process>, header: &Header) -> Arc<Process> {
        let number = |account: &Option<crate::event::Account>| account.as_ref().map(|a| a.number);
        let credentials = &process.facts.credentials;
        if number(&credentials.user) == Some(header.uid)
            && number(&credentials.group) == Some(header.gid)
        {
            return process;
        }
        let credentials = Credentials {
            user: Some(self.users.user(header.uid)),
            group: Some(self.users.group(header.gid)),
            ..credentials.clone()
        };
        self.replace(process, header.boot_ns, |facts| {
            facts.credentials = credentials
        })
    }

    /// A process in the control group that a record tells: it may have been moved since.
    fn in_cgroup(&mut self, process: Arc<Process>, header: &Header) -> Arc<Process> {
        let known = process.facts.cgroup.as_ref().map(|cgroup| cgroup.id);
        if header.cgroup_id == 0 || known == Some(header.cgroup_id) {
            return process;
        }
        let Some(found) = self.cgroup(header) else {
            return process;
        };
        let mut moved =
            (*self.replace(process, header.boot_ns, |f| f.cgroup = Some(found))).clone();
        let session = moved.session_leader.as_ref().map(|leader| leader.pid);
        moved.entry_leader = entry::of(
            &moved.facts,
            session == Some(moved.facts.pid),
            moved.lineage.parent().map(|parent| &**parent),
            moved.entry_leader.as_ref(),
        );
        let moved = Arc::new(moved);
        self.table
            .insert(moved.clone(), Source::Record, header.boot_ns);
        moved
    }

    fn replace(
        &mut self,
        process: Arc<Process>,
        now_ns: u64,
        change: impl FnOnce(&mut Facts),
    ) -> Arc<Process> {
        let mut process = (*process).clone();
        let mut facts = (*process.facts).clone();
        change(&mut facts);
        process.facts = Arc::new(facts);
        let process = Arc::new(process);
        self.table.insert(process.clone(), Source::Record, now_ns);
        process
    }

    fn cgroup(&mut self, header: &Header) -> Option<Arc<Cgroup>> {
        self.cgroups.of(
            header.cgroup_id,
            header.tgid,
            self.procfs.as_ref(),
            header.boot_ns,
        )
    }

    /// The entry of a process that is known by its facts.
    fn entry_of(&mut self, facts: &Facts, now_ns: u64) -> Option<Entry> {
        let process = self.table.find(facts.pid, facts.start_ns, now_ns)?;
        process.entry_leader.clone()
    }

    /// The process that acted, as it is known; one that nobody knows by its key alone.
    fn process_of_header(&mut self, header: &Header) -> Arc<Process> {
        match self.process_of(header.tgid, header.start_ns, header.boot_ns) {
            Some(process) => process,
            None => self.insert_unknown(header),
        }
    }

    /// A process by key: from the table, else from `/proc` while it lives.
    fn process_of(&mut self, tgid: u32, start_ns: u64, now_ns: u64) -> Option<Arc<Process>> {
        if tgid == 0 {
            return None;
        }
        if let Some(process) = self.table.find(tgid, start_ns, now_ns) {
            return Some(process);
        }
        self.find_in_proc(tgid, start_ns, now_ns)
    }

    fn lineage_under(&mut self, tgid: u32, start_ns: u64, now_ns: u64) -> Arc<Lineage> {
        if tgid == 0 {
            return Arc::default();
        }
        let lineage = match self.process_of(tgid, start_ns, now_ns) {
            Some(parent) => parent.lineage.below(&parent.facts),
            None => Lineage::new(vec![Arc::new(self.unknown(tgid, start_ns))]),
        };
        Arc::new(lineage)
    }

    /// What can be said of a process by its key alone.
    fn unknown(&self, tgid: u32, start_ns: u64) -> Facts {
        Facts {
            pid: tgid,
            start_ns,
            entity_id: self.ids.entity_id(tgid, start_ns),
            namespace_pid: None,
            image: Arc::default(),
            credentials: Credentials::default(),
            tty: None,
            capabilities_effective: None,
            capabilities_permitted: None,
            cgroup: None,
            mount_namespace: None,
        }
    }

    fn insert_unknown(&mut self, header: &Header) -> Arc<Process> {
        self.counters.unknown_process += 1;
        let process = Arc::new(Process {
            facts: Arc::new(self.unknown(header.tgid, header.start_ns)),
            lineage: Arc::default(),
            group_leader: None,
            session_leader: None,
            entry_leader: None,
            previous_executable: None,
        });
        self.table
            .insert(process.clone(), Source::Record, header.boot_ns);
        process
    }

    fn leader(&self, pid: u32, own: &Facts) -> Option<Leader> {
        if pid == 0 {
            return None;
        }
        if pid == own.pid {
            return Some(Leader {
                pid,
                entity_id: Some(own.entity_id.clone()),
                image: Some(own.image.clone()),
            });
        }
        // The kernel gives no pid away while a group or session still goes by it, so the latest is the leader.
        let facts = self.table.latest(pid).map(|process| &process.facts);
        Some(Leader {
            pid,
            entity_id: facts.map(|facts| facts.entity_id.clone()),
            image: facts.map(|facts| facts.image.clone()),
        })
    }

    /// Puts a process with an image of its own into the table, cut where all images together are too large. The event gets
    /// the whole one.
    fn keep(&mut self, process: Process, source: Source, now_ns: u64) -> Arc<Process> {
        let bound = self.table.limits().image_bytes_max;
        let held = self.images.bytes();
        let len_max = match held {
            held if held <= bound => usize::MAX,
            held if held <= bound.saturating_mul(2) => 4096,
            _ => 256,
        };
        let image = &process.facts.image;
        if image.bytes() <= len_max.saturating_add(512) {
            let process = Arc::new(process);
            self.table.insert(process.clone(), source, now_ns);
            return process;
        }
        self.counters.images_cut += 1;
        let small = Arc::new(image::slim(image, len_max).charged(&self.images));
        let mut kept = process.clone();
        let own = |leader: Option<Leader>| {
            leader.map(|leader| {
                let image = if leader.pid == process.facts.pid {
                    Some(small.clone())
                } else {
                    leader.image
                };
                Leader { image, ..leader }
            })
        };
        kept.group_leader = own(kept.group_leader);
        kept.session_leader = own(kept.session_leader);
        kept.entry_leader = kept.entry_leader.map(|entry| Entry {
            leader: own(Some(entry.leader.clone())).unwrap_or(entry.leader),
            ..entry
        });
        kept.facts = Arc::new(Facts {
            image: small.clone(),
            ..(*process.facts).clone()
        });
        self.table.insert(Arc::new(kept), source, now_ns);
        Arc::new(process)
    }
}

/// The source is the side that asked for the connection.
fn connection_of(body: &ConnectBody, direction: Direction) -> Network {
    let local = endpoint(body.family, body.local, body.local_port);
    let remote = endpoint(body.family, body.remote, body.remote_port);
    let (source, destination) = match direction {
        Direction::Egress => (local, remote),
        Direction::Ingress => (remote, local),
    };
    Network {
        source,
        destination,
        transport: Transport::from_protocol(body.protocol),
        direction,
        dns: None,
    }
}

fn endpoint(family: u16, address: [u8; 16], port: u16) -> Endpoint {
    let [a, b, c, d, ..] = address;
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Endpoint::new(ip, port)
}
