//! Events and processes as bytes.
//!
//! In: the vocabulary of events. Out: an impl of [`Keep`] for each type. What is worked out when first asked for, and what every
//! event of this host has, is not written.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{Broken, Keep, Reader, Writer, keep};
use crate::event::contents::Whole;
use crate::event::dns::{Code, Question};
use crate::event::file::{Change, Inode, PathText};
use crate::event::network::{Direction, Endpoint, Transport};
use crate::event::{
    Account, Cgroup, Container, Contents, Credentials, Digits, Dns, Entry, EntryKind, Event, Exit,
    Facts, File, Image, Kind, Leader, Lineage, Marks, Memfd, Module, Network, OwnedValue, Process,
    Program, Target, Traced,
};

keep! {
    Credentials {
        user, group, real_user, real_group, saved_user, saved_group, filesystem,
    }
    Facts {
        pid, start_ns, entity_id, namespace_pid, image, credentials, tty, capabilities_effective,
        capabilities_permitted, cgroup, mount_namespace,
    }
    Cgroup { id, path, container }
    Container { id, runtime }
    Leader { pid, entity_id, image }
    Entry { kind, leader }
    Process {
        facts, lineage, group_leader, session_leader, entry_leader, previous_executable,
    }
    Exit { code, signal }
    Marks { truncated, incomplete }
    Inode { number, mode, owner, group }
    Contents { size, header, whole }
    Whole { sha256, entropy }
    Network { source, destination, transport, direction, dns }
    Memfd { names }
    Traced { pid, request }
    Module { name, taints }
}

/// Keeps one of a few values by its place among them.
macro_rules! keep_choice {
    ($($type:ty [$($value:path),* $(,)?] $name:literal;)*) => {$(
        impl Keep for $type {
            fn write(&self, to: &mut Writer) {
                const ALL: &[$type] = &[$($value),*];
                let place = ALL.iter().position(|one| one == self);
                place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX).write(to);
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
                const ALL: &[$type] = &[$($value),*];
                let place = u8::read(from)?;
                ALL.get(usize::from(place)).copied().ok_or(Broken::No($name))
            }
        }
    )*};
}

keep_choice! {
    EntryKind [
        EntryKind::Init, EntryKind::Sshd, EntryKind::Ssm, EntryKind::Cron, EntryKind::Kubelet,
        EntryKind::Teleport, EntryKind::Terminal, EntryKind::Console, EntryKind::Container,
        EntryKind::Unknown,
    ] "sort of entry";
    Change [Change::Write, Change::Truncate, Change::Mode, Change::Owner] "sort of change";
    Direction [Direction::Egress, Direction::Ingress] "direction";
}

impl Keep for Kind {
    fn write(&self, to: &mut Writer) {
        (*self as u8).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let kind = u8::read(from)?;
        let known = Kind::ALL.iter().copied();
        known
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(Broken::No("kind of event"))
    }
}

/// Words that events hold by reference: a name is written, and found again among them.
impl Keep for &'static str {
    fn write(&self, to: &mut Writer) {
        self.len().write(to);
        to.raw(self.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let text = from.text()?;
        crate::enrich::word(text).ok_or(Broken::No("known word"))
    }
}

impl Keep for Arc<[&'static str]> {
    fn write(&self, to: &mut Writer) {
        self.len().write(to);
        self.iter().for_each(|word| word.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Vec::<&'static str>::read(from)?.into())
    }
}

impl Keep for Account {
    fn write(&self, to: &mut Writer) {
        self.number.write(to);
        self.name.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Account::new(u32::read(from)?, Keep::read(from)?))
    }
}

impl Keep for Digits {
    fn write(&self, to: &mut Writer) {
        self.as_str().len().write(to);
        to.raw(self.as_str().as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Digits::of(from.text()?).ok_or(Broken::No("digits"))
    }
}

impl Keep for Image {
    fn write(&self, to: &mut Writer) {
        let texts = [
            &self.names,
            &self.executables,
            &self.args,
            &self.environment,
        ];
        texts.into_iter().for_each(|texts| texts.write(to));
        self.args_count.write(to);
        self.working_directory.write(to);
        self.program.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let mut texts = || Vec::read(from);
        let (names, executables, args) = (texts()?, texts()?, texts()?);
        let environment = texts()?;
        let (count, directory) = (Keep::read(from)?, Keep::read(from)?);
        let image = Image::new(names, executables, args, count, directory);
        let image = image
            .with_environment(environment)
            .with_program(Keep::read(from)?);
        Ok(image.charged(&from.images))
    }
}

impl Keep for Program {
    fn write(&self, to: &mut Writer) {
        self.inode.write(to);
        self.sha256().map(Box::<str>::from).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let program = Program::new(u64::read(from)?);
        if let Some(sha256) = Keep::read(from)? {
            program.ask();
            program.set_sha256(sha256);
        }
        Ok(program)
    }
}

impl Keep for Lineage {
    fn write(&self, to: &mut Writer) {
        self.ancestors().len().write(to);
        self.ancestors().iter().for_each(|facts| facts.write(to));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Lineage::new(Keep::read(from)?))
    }
}

impl Keep for PathText {
    fn write(&self, to: &mut Writer) {
        Box::<str>::from(self.path().unwrap_or_default()).write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(PathText::new(Keep::read(from)?))
    }
}

impl Keep for File {
    fn write(&self, to: &mut Writer) {
        Box::<str>::from(self.path().unwrap_or_default()).write(to);
        self.mode.write(to);
        self.original.write(to);
        self.target.write(to);
        self.inode.write(to);
        self.path_from_user.write(to);
        self.confirmed.write(to);
        self.change.write(to);
        self.contents.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let mut file = File::without_inode(Keep::read(from)?, Keep::read(from)?);
        file.original = Keep::read(from)?;
        file.target = Keep::read(from)?;
        file.inode = Keep::read(from)?;
        file.path_from_user = Keep::read(from)?;
        file.confirmed = Keep::read(from)?;
        file.change = Keep::read(from)?;
        file.contents = Keep::read(from)?;
        Ok(file)
    }
}

impl Keep for Endpoint {
    fn write(&self, to: &mut Writer) {
        self.ip.write(to);
        self.port.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let ip: Option<IpAddr> = Keep::read(from)?;
        let port: Option<u16> = Keep::read(from)?;
        let nowhere = Ipv4Addr::UNSPECIFIED.into();
        Ok(Endpoint::new(ip.unwrap_or(nowhere), port.unwrap_or(0)))
    }
}

impl Keep for Transport {
    fn write(&self, to: &mut Writer) {
        match self {
            Transport::Tcp => 6_u16,
            Transport::Udp => 17,
            Transport::Other(number) => *number,
        }
        .write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Transport::from_protocol(u16::read(from)?))
    }
}

impl Keep for Dns {
    fn write(&self, to: &mut Writer) {
        self.id.write(to);
        self.answer.write(to);
        self.op_code.number.write(to);
        self.response_code.number.write(to);
        self.question.write(to);
        self.resolved.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Dns {
            id: Keep::read(from)?,
            answer: Keep::read(from)?,
            op_code: Code::op(Keep::read(from)?),
            response_code: Code::response(Keep::read(from)?),
            question: Keep::read(from)?,
            resolved: Keep::read(from)?,
        })
    }
}

impl Keep for Question {
    fn write(&self, to: &mut Writer) {
        self.name.write(to);
        self.kind.number.write(to);
        self.class.number.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(Question {
            name: Keep::read(from)?,
            kind: Code::kind(Keep::read(from)?),
            class: Code::class(Keep::read(from)?),
        })
    }
}

impl Keep for OwnedValue {
    fn write(&self, to: &mut Writer) {
        match self {
            OwnedValue::Str(text) => (0_u8, text.clone()).write(to),
            OwnedValue::Int(number) => (1_u8, *number).write(to),
            OwnedValue::Float(number) => (2_u8, *number).write(to),
            OwnedValue::Bool(flag) => (3_u8, *flag).write(to),
            OwnedValue::Ip(ip) => (4_u8, *ip).write(to),
            OwnedValue::Date(ns) => (5_u8, *ns).write(to),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(match u8::read(from)? {
            0 => OwnedValue::Str(Keep::read(from)?),
            1 => OwnedValue::Int(Keep::read(from)?),
            2 => OwnedValue::Float(Keep::read(from)?),
            3 => OwnedValue::Bool(Keep::read(from)?),
            4 => OwnedValue::Ip(Keep::read(from)?),
            5 => OwnedValue::Date(Keep::read(from)?),
            _ => return Err(Broken::No("value")),
        })
    }
}

impl Keep for Target {
    fn write(&self, to: &mut Writer) {
        match self {
            Target::Process => 0_u8.write(to),
            Target::Exit(exit) => {
                1_u8.write(to);
                exit.write(to);
            }
            Target::File(file) => {
                2_u8.write(to);
                file.write(to);
            }
            Target::Network(network) => {
                3_u8.write(to);
                network.write(to);
            }
            Target::Memfd(memfd) => {
                4_u8.write(to);
                memfd.write(to);
            }
            Target::Traced(traced) => {
                5_u8.write(to);
                traced.write(to);
            }
            Target::Module(module) => {
                6_u8.write(to);
                module.write(to);
            }
            Target::Dropped(count) => {
                7_u8.write(to);
                count.write(to);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        Ok(match u8::read(from)? {
            0 => Target::Process,
            1 => Target::Exit(Keep::read(from)?),
            2 => Target::File(Keep::read(from)?),
            3 => Target::Network(Keep::read(from)?),
            4 => Target::Memfd(Keep::read(from)?),
            5 => Target::Traced(Keep::read(from)?),
            6 => Target::Module(Keep::read(from)?),
            7 => Target::Dropped(Keep::read(from)?),
            _ => return Err(Broken::No("target")),
        })
    }
}

impl Keep for Event {
    fn write(&self, to: &mut Writer) {
        let Event {
            kind,
            sequence,
            boot_ns,
            wall_ns,
            host: _,
            process,
            user,
            group,
            marks,
            target,
        } = self;
        kind.write(to);
        (*sequence, *boot_ns, *wall_ns).write(to);
        process.write(to);
        user.write(to);
        group.write(to);
        marks.write(to);
        target.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        let kind = Keep::read(from)?;
        let (sequence, boot_ns, wall_ns) = Keep::read(from)?;
        Ok(Event {
            kind,
            sequence,
            boot_ns,
            wall_ns,
            host: Arc::clone(&from.host),
            process: Keep::read(from)?,
            user: Keep::read(from)?,
            group: Keep::read(from)?,
            marks: Keep::read(from)?,
            target: Keep::read(from)?,
        })
    }
}
