//! Control groups by number: their paths, and the containers that paths tell of.
//!
//! In: the number a record carries and the pid of a process that was in it. Out: a shared [`Cgroup`]. A number is never used
//! twice in one boot, so what was found once stays true. It is looked up by the pid first, else in the whole tree, which is
//! walked as often as its size allows; it never follows a link and holds no more than its bounds.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;

use super::procfs::Procfs;
use crate::event::{Cgroup, Container};

/// Most control groups kept; when there are more, all are looked up anew.
const KEPT_MAX: usize = 16_384;
/// Most directories looked at in one walk.
const WALK_MAX: usize = 16_384;
/// Least time from one walk to the next: so much for each directory, some ten times what it takes, and no more than that. A
/// container that lives for an instant is found before it is gone, where there are few others.
const WALK_REST_NS: u64 = 100_000;
const WALK_REST_MAX_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// Where the hierarchy (version 2) is mounted; `None` where there is none.
    mount: Option<PathBuf>,
    /// `None` for those that are gone.
    by_id: HashMap<u64, Option<Arc<Cgroup>>>,
    /// When the tree may be walked again.
    walk_from_ns: u64,
}

impl Cgroups {
    /// Those of this host.
    #[must_use]
    pub fn of_host() -> Cgroups {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4));
        Cgroups {
            mount: mount.map(PathBuf::from),
            ..Cgroups::default()
        }
    }

    /// A tree of directories elsewhere.
    #[must_use]
    pub fn at(mount: impl Into<PathBuf>) -> Cgroups {
        Cgroups {
            mount: Some(mount.into()),
            ..Cgroups::default()
        }
    }

    /// Where the hierarchy is mounted.
    #[must_use]
    pub fn mount(&self) -> Option<&Path> {
        self.mount.as_deref()
    }

    /// One control group and no others.
    #[cfg(test)]
    pub(crate) fn knowing(id: u64, path: &str) -> Cgroups {
        let mut cgroups = Cgroups::default();
        cgroups.keep(id, Some(path));
        cgroups
    }

    /// The control group of a number, which `pid` was in. 0 is one the kernel could not tell.
    pub fn of(
        &mut self,
        id: u64,
        pid: u32,
        procfs: Option<&Procfs>,
        now_ns: u64,
    ) -> Option<Arc<Cgroup>> {
        if id == 0 {
            return None;
        }
        if let Some(known) = self.by_id.get(&id) {
            return known.clone();
        }
        let mount = self.mount.clone()?;
        let path = procfs.and_then(|p| p.cgroup(pid));
        let by_pid = path.filter(|path| inode(&mount, path) == Some(id));
        if let Some(path) = by_pid {
            return self.keep(id, Some(&path));
        }
        if now_ns < self.walk_from_ns {
            return None;
        }
        let whole = self.walk(now_ns);
        match self.by_id.get(&id) {
            Some(found) => found.clone(),
            None if whole => self.keep(id, None),
            None => None,
        }
    }

    /// The control group a process is in now.
    pub fn of_process(&mut self, pid: u32, procfs: &Procfs) -> Option<Arc<Cgroup>> {
        let path = procfs.cgroup(pid)?;
        let id = inode(self.mount.as_deref()?, &path)?;
        self.keep(id, Some(&path))
    }

    /// Looks at the whole tree; false when it was larger than the bound.
    pub fn walk(&mut self, now_ns: u64) -> bool {
        let Some(mount) = self.mount.clone() else {
            return false;
        };
        let left = self.look(&mount);
        let looked = WALK_MAX - left.unwrap_or(0);
        let rest_ns = u64::try_from(looked).map_or(u64::MAX, |n| n.saturating_mul(WALK_REST_NS));
        self.walk_from_ns = now_ns.saturating_add(rest_ns.min(WALK_REST_MAX_NS));
        left.is_some()
    }

    /// Keeps what is in the tree; how many more there could have been, `None` when there were.
    fn look(&mut self, mount: &Path) -> Option<usize> {
        if let Some(root) = inode(mount, "/") {
            self.keep(root, Some("/"));
        }
        let mut left = WALK_MAX;
        let mut open = VecDeque::from([String::new()]);
        while let Some(path) = open.pop_front() {
            let Ok(entries) = fs::read_dir(place(mount, &path)) else {
                continue;
            };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                left = left.checked_sub(1)?;
                let below = format!("{path}/{}", entry.file_name().to_string_lossy());
                self.keep(entry.ino(), Some(&below));
                open.push_back(below);
            }
        }
        Some(left)
    }

    fn keep(&mut self, id: u64, path: Option<&str>) -> Option<Arc<Cgroup>> {
        if let Some(Some(known)) = self.by_id.get(&id) {
            return Some(known.clone());
        }
        if self.by_id.len() >= KEPT_MAX {
            self.by_id.clear();
        }
        let cgroup = path.map(|path| {
            Arc::new(Cgroup {
                id,
                path: path.into(),
                container: container(path),
            })
        });
        self.by_id.insert(id, cgroup.clone());
        cgroup
    }
}

fn place(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// The number of a control group is the inode number of its directory.
fn inode(mount: &Path, path: &str) -> Option<u64> {
    // A path out of another namespace begins with `/..`.
    let metadata = fs::symlink_metadata(place(mount, path)).ok()?;
    (metadata.is_dir() && !path.contains("/..")).then_some(metadata.ino())
}

/// Runtimes by what stands before a container's number.
const RUNTIMES: &[(&str, &str)] = &[
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
];

const LXC: &str = "lxc";
const NSPAWN: &str = "systemd-nspawn";

/// Everything that may be a container's runtime.
pub(super) fn runtimes() -> impl Iterator<Item = &'static str> {
    let tools = RUNTIMES.iter().map(|(_, runtime)| *runtime);
    tools.chain([LXC, NSPAWN])
}

/// The container whose control group this is or lies in.
fn container(path: &str) -> Option<Container> {
    let mut parents = path;
    while let Some((above, name)) = parents.rsplit_once('/') {
        if let Some(found) = named(above, name) {
            return Some(found);
        }
        parents = above;
    }
    None
}

fn named(above: &str, name: &str) -> Option<Container> {
    let made = |id: &str, runtime: Option<&'static str>| {
        Some(Container {
            id: id.into(),
            runtime,
        })
    };
    let unit = name.strip_suffix(".scope").unwrap_or(name);
    // `docker-NUMBER.scope`, `kubepods-besteffort-pod7.slice:cri-containerd:NUMBER`, or the number alone.
    let (before, number) = match unit.rfind(['-', ':']) {
        Some(cut) => (
            unit.get(..cut).unwrap_or_default(),
            unit.get(cut + 1..).unwrap_or_default(),
        ),
        None => ("", unit),
    };
    if number.len() == 64 && number.bytes().all(|b| b.is_ascii_hexdigit()) {
        let tool = before.rsplit(':').next().unwrap_or_default();
        if tool.ends_with("conmon") {
            // The monitor beside the container.
            return None;
        }
        let parent = above.rsplit('/').next().unwrap_or_default();
        let tool = if tool.is_empty() { parent } else { tool };
        let runtime = RUNTIMES.iter().find(|(prefix, _)| *prefix == tool);
        return made(number, runtime.map(|(_, runtime)| *runtime));
    }
    if let Some(id) = name.strip_prefix("lxc.payload.") {
        return made(id, Some(LXC));
    }
    if above.ends_with("/lxc") && !name.starts_with("lxc.") {
        return made(name, Some(LXC));
    }
    if above.ends_with("/machine.slice") {
        let service = name
            .strip_prefix("systemd-nspawn@")
            .and_then(|rest| rest.strip_suffix(".service"));
        let scope = unit
            .strip_prefix("machine-")
            .filter(|id| unit != name && !id.starts_with("qemu"));
        if let Some(id) = service.or(scope) {
            return made(&id.replace("\\x2d", "-"), Some(NSPAWN));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_are_told_by_their_paths() {
        let check = |path: &str, expected: Option<(&str, Option<&str>)>| {
            let path = path.replace('#', ID);
            let found = container(&path);
            let shown = found.as_ref().map(|c| (&*c.id, c.runtime));
            assert_eq!(shown, expected, "{path}");
        };
        let of = |runtime| Some((ID, Some(runtime)));
        check("/system.slice/docker-#.scope", of("docker"));
        check("/system.slice/docker-#.scope/init.scope", of("docker"));
        check("/docker/#", of("docker"));
        check(
            "/user.slice/user-1000.slice/libpod-#.scope/container",
            of("podman"),
        );
        check("/machine.slice/libpod-conmon-#.scope", None);
        check(
            "/kubepods.slice/kubepods-pod7.slice/cri-containerd-#.scope",
            of("containerd"),
        );
        check(
            "/kubepods.slice/kubepods-pod7.slice/crio-#.scope",
            of("cri-o"),
        );
        check("/kubepods.slice/crio-conmon-#.scope", None);
        check(
            "/system.slice/kubepods-besteffort-pod7.slice:cri-containerd:#",
            of("containerd"),
        );
        check("/kubepods/besteffort/pod7/#", Some((ID, None)));
        check("/lxc.payload.web", Some(("web", Some("lxc"))));
        check("/lxc/web/init.scope", Some(("web", Some("lxc"))));
        check(
            "/machine.slice/machine-deb\\x2d12.scope/payload",
            Some(("deb-12", Some("systemd-nspawn"))),
        );
        check(
            "/machine.slice/systemd-nspawn@web.service",
            Some(("web", Some("systemd-nspawn"))),
        );
        check("/machine.slice/machine-qemu\\x2d1.scope", None);
        check("/system.slice/ssh.service", None);
        check("/system.slice/docker-0123.scope", None);
        check("/", None);
    }

    #[test]
    fn numbers_are_looked_up_in_the_tree_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder
            .path()
            .join("system.slice")
            .join(format!("docker-{ID}.scope"));
        fs::create_dir_all(&below).unwrap();
        let id = fs::metadata(&below).unwrap().ino();
        let mut cgroups = Cgroups::at(folder.path());
        let found = cgroups.of(id, 1, None, 0).unwrap();
        assert_eq!(&*found.path, format!("/system.slice/docker-{ID}.scope"));
        assert_eq!(found.container.as_ref().map(|c| &*c.id), Some(ID));
        let root = fs::metadata(folder.path()).unwrap().ino();
        assert_eq!(&*cgroups.of(root, 1, None, 0).unwrap().path, "/");
        let late = folder.path().join("late");
        fs::create_dir(&late).unwrap();
        // Gone meanwhile: known all the same.
        fs::remove_dir(&below).unwrap();
        assert!(cgroups.of(id, 1, None, 5 * WALK_REST_MAX_NS).is_some());

        // Not looked for again before two directories allow it, and not at all once a walk has missed it.
        let id = fs::metadata(&late).unwrap().ino();
        assert!(cgroups.of(id, 1, None, 2 * WALK_REST_NS - 1).is_none());
        assert!(cgroups.of(id, 1, None, 2 * WALK_REST_NS).is_some());
        assert!(cgroups.of(u64::MAX, 1, None, 9 * WALK_REST_NS).is_none());
        assert!(Cgroups::default().of(id, 1, None, 0).is_none());
    }
}
