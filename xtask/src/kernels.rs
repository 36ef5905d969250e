//! Guest kernels: Debian's own, fetched as packages and unpacked under `target/guests`, never installed.
//!
//! In: a kernel's series. Out: its image, with the modules and their index beside it. Must never change this system's apt
//! state: lists and downloads live in a private folder, the mirror is the one this system is set to, signatures are checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::apt::{self, Package};
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

/// The releases that get security updates from an archive of their own.
const STABLE: &[&str] = &["bullseye", "bookworm", "trixie"];

/// An unpacked kernel.
pub(crate) struct Files {
    /// As `uname -r` will say.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
}

/// Where the archive's keys are on every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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

/// apt with lists, cache and sources of its own, for one Debian release.
struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// The first of the releases that the configured mirror serves.
    fn of_first<'a>(root: &Path, suites: &[&'a str]) -> Result<(&'a str, Self)> {
        let mut refused = None;
        for suite in suites {
            match Self::new(root, suite) {
                Ok(apt) => return Ok((suite, apt)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| anyhow!("no Debian release is named")))
    }

    fn new(root: &Path, suite: &str) -> Result<Self> {
        let apt = Self {
            folder: guests(root).join("apt").join(suite),
        };
        fs::create_dir_all(apt.folder.join("lists/partial"))?;
        fs::create_dir_all(apt.folder.join("cache/archives/partial"))?;
        let mirrors = Mirrors::configured()?;
        fs::write(apt.folder.join("sources.list"), mirrors.sources(suite))?;
        shell::output(apt.command("apt-get").arg("update"))
            .with_context(|| format!("the configured mirror does not serve Debian {suite}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let option =
            |name: &str, path: &str| format!("{name}={}", self.folder.join(path).display());
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .args([
                "-qq",
                "-o",
                "Dir::Etc::sourceparts=-",
                "-o",
                "Acquire::Languages=none",
            ])
            .args([
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "APT::Update::Post-Invoke-Success=",
            ])
            .args(["-o", &option("Dir::Etc::sourcelist", "sources.list")])
            .args(["-o", &option("Dir::State::lists", "lists")])
            .args(["-o", &option("Dir::Cache", "cache")]);
        command
    }

    /// Release of the newest plain kernel: neither the cloud nor the real-time flavour, which leave drivers out or change
    /// scheduling. The package that stands for it names it, whatever the number is today.
    fn newest_release(&self) -> Result<String> {
        let image = |name: &String| name.strip_prefix("linux-image-").map(str::to_owned);
        self.depends("linux-image-amd64")?
            .iter()
            .find_map(image)
            .context("linux-image-amd64 names no image package")
    }

    /// The image package and those that it was split into: since 6.18 image and modules are packages of their own.
    fn packages_of(&self, release: &str) -> Result<Vec<String>> {
        let image = format!("linux-image-{release}");
        let mut packages = self.depends(&image)?;
        packages.retain(|name| name.starts_with("linux-") && name.ends_with(release));
        packages.push(image);
        Ok(packages)
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = shell::output(self.command("apt-cache").args(["depends", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Fetches the packages, and nothing that an earlier try left.
    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        for archive in self.archives()? {
            fs::remove_file(archive)?;
        }
        shell::output(self.command("apt-get").arg("download").args(packages))?;
        let archives = self.archives()?;
        if archives.len() != packages.len() {
            bail!(
                "apt-get download left {} files for {}",
                archives.len(),
                packages.join(", ")
            );
        }
        Ok(archives)
    }

    fn archives(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(&self.folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect())
    }
}

/// Where this system fetches Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn configured() -> Result<Self> {
        let list = || {
            let mut command = Command::new("apt-get");
            command.args([
                "indextargets",
                "--no-release-info",
                "--format",
                "$(REPO_URI) $(RELEASE) $(IDENTIFIER)",
            ]);
            shell::output(&mut command).unwrap_or_default()
        };
        let mut text = list();
        if text.trim().is_empty() && shell::is_root() {
            shell::output(Command::new("apt-get").args(["-qq", "update"]))?;
            text = list();
        }
        Self::parse(&text).context(
            "apt is set to no Debian mirror (or has no lists yet; run: sudo apt-get update)",
        )
    }

    /// Reads lines of address, release and kind.
    fn parse(text: &str) -> Option<Self> {
        let mut main = None;
        let mut security = None;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(release), Some("Packages")) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if release.ends_with("-security") || release.ends_with("/updates") {
                security.get_or_insert_with(|| address.to_owned());
            } else if ["bullseye", "bookworm", "trixie", "forky", "sid"].contains(&release) {
                main.get_or_insert_with(|| address.to_owned());
            }
        }
        Some(Self {
            main: main?,
            security,
        })
    }

    fn sources(&self, suite: &str) -> String {
        let signed = if Path::new(KEYRING).exists() {
            format!(" [signed-by={KEYRING}]")
        } else {
            String::new()
        };
        let mut text = format!("deb{signed} {} {suite} main\n", self.main);
        if let Some(security) = &self.security
            && STABLE.contains(&suite)
        {
            text.push_str(&format!("deb{signed} {security} {suite}-security main\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_index_targets() {
        let text = "http://mirror.test/debian/ bookworm DEP-11\n\
                    http://mirror.test/debian/ bookworm-updates Packages\n\
                    http://mirror.test/debian/ bookworm Packages\n\
                    http://other.test/tools/ stable Packages\n\
                    http://mirror.test/debian-security/ bookworm-security Packages\n";
        let mirrors = Mirrors::parse(text).unwrap();
        assert_eq!(mirrors.main, "http://mirror.test/debian/");
        assert_eq!(
            mirrors.security.as_deref(),
            Some("http://mirror.test/debian-security/")
        );
        let sources = mirrors.sources("bullseye");
        assert!(
            sources.contains("http://mirror.test/debian/ bullseye main\n"),
            "{sources}"
        );
        assert!(
            sources.contains("http://mirror.test/debian-security/ bullseye-security main\n"),
            "{sources}"
        );
        assert_eq!(mirrors.sources("sid").lines().count(), 1);
    }

    #[test]
    fn another_distribution_has_no_debian_mirror() {
        assert_eq!(
            Mirrors::parse("http://mirror.test/ubuntu/ noble Packages\n"),
            None
        );
    }

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
