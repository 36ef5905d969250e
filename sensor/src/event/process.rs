//! The process of an event: who it is, what it runs, with which rights, and where it came from.
//!
//! In: facts that `enrich` gathered. Out: shared immutable values that many events point at. A [`Process`] never points at
//! another process: ancestors are flat facts, so no chain of dead processes can grow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Digits, Program};

/// Longest chain of ancestors kept.
pub const ANCESTORS_MAX: usize = 32;

/// A user or group: its number as text, and its name where the host knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub number: u32,
    pub id: Digits,
    pub name: Option<Arc<str>>,
}

impl Account {
    #[must_use]
    pub fn new(number: u32, name: Option<Arc<str>>) -> Account {
        Account {
            number,
            id: Digits::decimal(u64::from(number)),
            name,
        }
    }
}

/// User and group ids, in the initial user namespace; what nobody could tell is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Effective.
    pub user: Option<Account>,
    /// Effective.
    pub group: Option<Account>,
    pub real_user: Option<Account>,
    pub real_group: Option<Account>,
    pub saved_user: Option<Account>,
    pub saved_group: Option<Account>,
    /// The ids that file access goes by, user then group; they follow the effective ones unless a program sets them apart.
    pub filesystem: Option<[u32; 2]>,
}

/// What an execve made of a process. Shared by all forks until they exec themselves.
#[derive(Debug, Default)]
pub struct Image {
    /// `process.name`: invoked name first, then others it goes by.
    pub names: Box<[Arc<str>]>,
    /// `process.executable`: resolved path first, then the script's.
    pub executables: Box<[Arc<str>]>,
    pub args: Box<[Arc<str>]>,
    /// True number of arguments, also when `args` was cut; `None` when nothing is known of them.
    pub args_count: Option<u32>,
    pub working_directory: Option<Arc<str>>,
    /// `NAME=value`, of the variables that somebody asked for.
    pub environment: Box<[Arc<str>]>,
    /// The file behind `executables`.
    pub program: Arc<Program>,
    command_line: OnceLock<Box<str>>,
    /// Held while the image lives, so that whoever made it can tell how much all living images take.
    charge: Option<Charge>,
}

/// A share of a [`Gauge`], given back when dropped.
#[derive(Debug)]
struct Charge {
    gauge: Gauge,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that living images take, wherever they are held.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Image {
    #[must_use]
    pub fn new(
        names: Vec<Arc<str>>,
        executables: Vec<Arc<str>>,
        args: Vec<Arc<str>>,
        args_count: Option<u32>,
        working_directory: Option<Arc<str>>,
    ) -> Image {
        Image {
            names: names.into(),
            executables: executables.into(),
            args: args.into(),
            args_count,
            working_directory,
            environment: Box::default(),
            program: Arc::default(),
            command_line: OnceLock::new(),
            charge: None,
        }
    }

    #[must_use]
    pub fn with_environment(mut self, environment: Vec<Arc<str>>) -> Image {
        self.environment = environment.into();
        self
    }

    #[must_use]
    pub fn with_program(mut self, program: Arc<Program>) -> Image {
        self.program = program;
        self
    }

    /// Counts this image in a gauge for as long as it lives.
    #[must_use]
    pub fn charged(mut self, gauge: &Gauge) -> Image {
        let bytes = self.bytes();
        gauge.0.fetch_add(bytes, Ordering::Relaxed);
        self.charge = Some(Charge {
            gauge: gauge.clone(),
            bytes,
        });
        self
    }

    /// Rough size in memory, the command line not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// A fat pointer, two reference counts and the allocator's share.
        const PER_TEXT: usize = 48;
        let texts = [
            &self.names,
            &self.executables,
            &self.args,
            &self.environment,
        ];
        let texts = texts.into_iter().flat_map(|texts| texts.iter());
        let cwd = self.working_directory.iter();
        size_of::<(Image, Program)>() + texts.chain(cwd).map(|t| t.len() + PER_TEXT).sum::<usize>()
    }

    /// Arguments joined by one space, without quoting; built when first asked for.
    #[must_use]
    pub fn command_line(&self) -> Option<&str> {
        if self.args.is_empty() {
            return None;
        }
        Some(self.command_line.get_or_init(|| {
            let mut line = String::with_capacity(self.args.iter().map(|a| a.len() + 1).sum());
            for (index, arg) in self.args.iter().enumerate() {
                if index > 0 {
                    line.push(' ');
                }
                line.push_str(arg);
            }
            line.into_boxed_str()
        }))
    }
}

/// What is known of one process by itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `process.pid`: the thread group id in the initial pid namespace.
    pub pid: u32,
    /// Start of the thread group leader, boot clock, nanoseconds; 0 when unknown.
    pub start_ns: u64,
    /// Identity that survives pid reuse.
    pub entity_id: Arc<str>,
    /// `process.vpid`: the pid in the process's own namespace.
    pub namespace_pid: Option<u32>,
    pub image: Arc<Image>,
    pub credentials: Credentials,
    /// Controlling terminal, `(major << 20) | minor`, 0 for none; `None` when unknown.
    pub tty: Option<u32>,
    pub capabilities_effective: Option<Arc<[&'static str]>>,
    pub capabilities_permitted: Option<Arc<[&'static str]>>,
    pub cgroup: Option<Arc<Cgroup>>,
    /// Inode number of the mount namespace.
    pub mount_namespace: Option<u32>,
}

/// A control group (version 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Never used twice in one boot.
    pub id: u64,
    /// Below the place where the hierarchy is mounted; `/` for the root.
    pub path: Arc<str>,
    /// The container that the path tells of.
    pub container: Option<Container>,
}

/// What a control group's path tells of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: Arc<str>,
    pub runtime: Option<&'static str>,
}

impl Facts {
    /// `process.interactive`: it has a controlling terminal.
    #[must_use]
    pub fn interactive(&self) -> Option<bool> {
        self.tty.map(|tty| tty != 0)
    }
}

/// Leader of a process group or session.
#[derive(Clone, Debug)]
pub struct Leader {
    pub pid: u32,
    /// The rest is unknown when the leader had gone before the sensor saw it.
    pub entity_id: Option<Arc<str>>,
    pub image: Option<Arc<Image>>,
}

/// The process by which a group of processes came into the system.
#[derive(Clone, Debug)]
pub struct Entry {
    pub kind: EntryKind,
    pub leader: Leader,
}

/// `process.entry_leader.entry_meta.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Init,
    Sshd,
    Ssm,
    Cron,
    Kubelet,
    Teleport,
    Terminal,
    Console,
    Container,
    /// A session of which nobody knows who opened it.
    Unknown,
}

impl EntryKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Init => "init",
            EntryKind::Sshd => "sshd",
            EntryKind::Ssm => "ssm",
            EntryKind::Cron => "cron",
            EntryKind::Kubelet => "kubelet",
            EntryKind::Teleport => "teleport",
            EntryKind::Terminal => "terminal",
            EntryKind::Console => "console",
            EntryKind::Container => "container",
            EntryKind::Unknown => "unknown",
        }
    }
}

/// Ancestors, nearest first, as they were when each forked; at most [`ANCESTORS_MAX`].
#[derive(Debug, Default)]
pub struct Lineage {
    ancestors: Box<[Arc<Facts>]>,
    entity_ids: Box<[Arc<str>]>,
}

impl Lineage {
    #[must_use]
    pub fn new(ancestors: Vec<Arc<Facts>>) -> Lineage {
        let mut ancestors = ancestors;
        ancestors.truncate(ANCESTORS_MAX);
        Lineage {
            entity_ids: ancestors.iter().map(|a| a.entity_id.clone()).collect(),
            ancestors: ancestors.into(),
        }
    }

    /// The lineage of a child of `parent`, whose own lineage this is.
    #[must_use]
    pub fn below(&self, parent: &Arc<Facts>) -> Lineage {
        let mut ancestors = Vec::with_capacity((self.ancestors.len() + 1).min(ANCESTORS_MAX));
        ancestors.push(parent.clone());
        let room = ANCESTORS_MAX - 1;
        ancestors.extend(self.ancestors.iter().take(room).cloned());
        Lineage::new(ancestors)
    }

    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Facts>> {
        self.ancestors.first()
    }

    #[must_use]
    pub fn ancestors(&self) -> &[Arc<Facts>] {
        &self.ancestors
    }

    #[must_use]
    pub fn entity_ids(&self) -> &[Arc<str>] {
        &self.entity_ids
    }
}

/// The process an event is about or was caused by.
#[derive(Clone, Debug)]
pub struct Process {
    pub facts: Arc<Facts>,
    pub lineage: Arc<Lineage>,
    pub group_leader: Option<Leader>,
    pub session_leader: Option<Leader>,
    pub entry_leader: Option<Entry>,
    /// The executable before the exec that made the present image.
    pub previous_executable: Option<Arc<str>>,
}
