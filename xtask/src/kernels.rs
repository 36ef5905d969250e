//! Guest kernels: Debian's own, fetched as packages and unpacked under `target/guests`, never installed.
//!
//! In: a kernel's series. Out: its image, with the modules and their index beside it. Must never install a kernel on this
//! system, nor boot one from the network: what was fetched once is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Package};
use crate::mirror::PrivateApt;
use crate::shell;

/// A kernel series and the Debian releases that carry it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    /// The first that the mirror serves is taken.
    suites: &'static [&'static str],
}

/// Oldest first.
pub(crate) const ALL: &[Kernel] = &[
    Kernel {
        name: "5.10",
        suites: &["bullseye"],
    },
    Kernel {
        name: "6.1",
        suites: &["bookworm"],
    },
    Kernel {
        name: "6.12",
        suites: &["trixie"],
    },
    // Unstable, else what comes next to it.
    Kernel {
        name: "newest",
        suites: &["sid", "forky", "trixie-backports", "trixie"],
    },
];

/// An unpacked kernel.
pub(crate) struct Files {
    /// As `uname -r` will say.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
}

impl Kernel {
    /// The kernel called `name`.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        ALL.iter()
            .find(|kernel| kernel.name == name)
            .with_context(|| {
                let names: Vec<_> = ALL.iter().map(|kernel| kernel.name).collect();
                format!("no guest kernel `{name}`; there are {}", names.join(", "))
            })
    }

    /// The unpacked kernel, fetched if it is not there yet.
    pub(crate) fn fetch(&self, root: &Path) -> Result<Files> {
        let folder = guests(root).join(self.name);
        if !folder.exists() {
            self.unpack(root, &folder)
                .with_context(|| format!("cannot fetch guest kernel {}", self.name))?;
        }
        let image = fs::read_dir(folder.join("boot"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| release_of(path).is_some())
            .with_context(|| {
                format!(
                    "no kernel image in {}; remove the folder and try again",
                    folder.display()
                )
            })?;
        let release = release_of(&image).unwrap_or_default();
        Ok(Files { release, image })
    }

    fn unpack(&self, root: &Path, folder: &Path) -> Result<()> {
        if !apt::is_here() {
            bail!("guest kernels come as Debian packages, and this system has no apt-get");
        }
        apt::ensure(&[Package::new(
            "kmod",
            "indexes the modules of guest kernels (depmod)",
        )])?;
        let (suite, apt) = PrivateApt::of_first(root, self.suites)?;
        let release = apt.newest_release()?;
        println!(
            "fetching guest kernel {}: Debian package linux-image-{release} of {suite}",
            self.name
        );
        let partial = folder.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        for archive in apt.download(&apt.packages_of(&release)?)? {
            shell::output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .args([&archive, &partial]),
            )?;
            fs::remove_file(&archive)?;
        }
        // Newer packages ship /usr/lib/modules; what boots the guest looks for /lib/modules.
        if !partial.join("lib/modules").exists() {
            fs::create_dir_all(partial.join("lib"))?;
            std::os::unix::fs::symlink("../usr/lib/modules", partial.join("lib/modules"))?;
        }
        // And newest ones the image among the modules.
        let boot = partial.join("boot");
        if !boot.exists() {
            fs::create_dir(&boot)?;
            let image = partial.join("lib/modules").join(&release).join("vmlinuz");
            fs::hard_link(&image, boot.join(format!("vmlinuz-{release}")))
                .with_context(|| format!("no kernel image in {}", image.display()))?;
        }
        let depmod = shell::find("depmod").context("no depmod after installing kmod")?;
        shell::output(Command::new(depmod).arg("-b").arg(&partial).arg(&release))?;
        fs::rename(&partial, folder).context("cannot put the unpacked kernel in place")
    }
}

/// Folder of everything that guests need.
pub(crate) fn guests(root: &Path) -> PathBuf {
    root.join("target/guests")
}

/// Kernel release that an image's file name tells, if it is an image.
fn release_of(image: &Path) -> Option<String> {
    image
        .file_name()?
        .to_str()?
        .strip_prefix("vmlinuz-")
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_tell_a_release() {
        assert_eq!(
            release_of(Path::new("/x/vmlinuz-6.1.0-56-amd64")).as_deref(),
            Some("6.1.0-56-amd64")
        );
        assert_eq!(release_of(Path::new("/x/config-6.1.0-56-amd64")), None);
    }

    #[test]
    fn an_unknown_kernel_is_refused_with_the_known_ones() {
        let error = Kernel::named("4.19").unwrap_err().to_string();
        assert_eq!(
            error,
            "no guest kernel `4.19`; there are 5.10, 6.1, 6.12, newest"
        );
    }
}
