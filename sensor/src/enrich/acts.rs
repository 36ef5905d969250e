//! Events of file acts that come in two records.
//!
//! In: what the joining gives out. Out: an event for each act that came about, or of which nobody can know. An act that
//! failed is never an event.

use sensor_ebpf::{FileEndBody, Header, record_flag};

use super::Enricher;
use super::pairing::Act;
use crate::event::file::PathText;
use crate::event::{Event, File, Kind, Target};

impl Enricher {
    /// Hands over events of acts of which nobody will know whether they came about, given how many of the kernel's
    /// [`sensor_ebpf::Kind::FileEnd`] records were lost up to `now_ns`. `last` when no more records will come.
    pub fn ends_lost(&mut self, lost: u64, now_ns: u64, last: bool, mut made: impl FnMut(Event)) {
        for act in self.pairing.lost(lost, now_ns, last) {
            made(self.file_act(&act));
        }
    }

    /// The event of an act that ended, if it was begun and came about. `end` is `None` when only its header came.
    pub(super) fn act_ended(
        &mut self,
        header: &Header,
        end: Option<&FileEndBody>,
    ) -> Option<Event> {
        let act = self.pairing.end(header, end)?;
        Some(self.file_act(&act))
    }

    /// An act of which both records came, or of which the second was lost.
    fn file_act(&mut self, act: &Act) -> Event {
        use sensor_ebpf::Kind as Of;
        let header = &act.header;
        self.counters.unconfirmed += u64::from(!act.confirmed);
        let process = self.actor(header);
        let kind = match act.kind {
            Of::Rename => Kind::Rename,
            Of::Link => Kind::Link,
            Of::Symlink => Kind::Symlink,
            Of::MakeDirectory => Kind::MakeDirectory,
            Of::MakeNode => Kind::MakeNode,
            _ => Kind::Deletion,
        };
        let Some(begun) = &act.begun else {
            return self.stamp(kind, header, process, Target::Process);
        };
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned().into_boxed_str();
        let path = shown(&begun.path);
        let (inode, mode, uid, gid) = match &act.made {
            Some(made) => (made.inode, made.mode, made.uid, made.gid),
            None => {
                let body = &begun.body;
                (body.inode, body.mode, body.uid, body.gid)
            }
        };
        let mut file = if inode == 0 {
            File::without_inode(path, mode)
        } else {
            let (owner, group) = (self.users.user(uid), self.users.group(gid));
            File::new(path, inode, mode, owner, group)
        };
        match kind {
            Kind::Rename => file.original = Some(PathText::new(shown(&begun.old_path))),
            Kind::Link | Kind::Symlink => file.target = Some(shown(&begun.old_path)),
            _ => {}
        }
        file.path_from_user = header.flags & record_flag::PATH_FROM_USER != 0;
        file.confirmed = act.confirmed;
        self.stamp(kind, header, process, Target::File(file))
    }
}
