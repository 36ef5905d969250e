//! What Debian publishes, fetched without touching this system's own apt.
//!
//! In: a Debian release and what is wanted of it. Out: files in a private folder below `target/guests`. Must never change this
//! system's apt state: lists and downloads are its own, the mirror is the one this system is set to, signatures are checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::shell;

/// The private list of sources.
const SOURCES: &str = "sources.list";

/// The releases that get security updates from an archive of their own.
const STABLE: &[&str] = &["bullseye", "bookworm", "trixie"];

/// Where the archive's keys are on every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with lists, cache and sources of its own, for one Debian release.
pub(crate) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// The first of the releases that the configured mirror serves.
    pub(crate) fn of_first<'a>(root: &Path, suites: &[&'a str]) -> Result<(&'a str, Self)> {
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
            folder: root.join("target/guests/apt").join(suite),
        };
        fs::create_dir_all(apt.folder.join("lists/partial"))?;
        fs::create_dir_all(apt.folder.join("cache/archives/partial"))?;
        let mirrors = Mirrors::configured()?;
        fs::write(apt.folder.join(SOURCES), mirrors.sources(suite))?;
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
            .args(["-o", &option("Dir::Etc::sourcelist", SOURCES)])
            .args(["-o", &option("Dir::State::lists", "lists")])
            .args(["-o", &option("Dir::Cache", "cache")]);
        command
    }

    /// Release of the newest plain kernel: neither the cloud nor the real-time flavour, which leave drivers out or change
    /// scheduling. The package that stands for it names it, whatever the number is today.
    pub(crate) fn newest_release(&self) -> Result<String> {
        let image = |name: &String| name.strip_prefix("linux-image-").map(str::to_owned);
        self.depends("linux-image-amd64")?
            .iter()
            .find_map(image)
            .context("linux-image-amd64 names no image package")
    }

    /// The image package and those that it was split into: since 6.18 image and modules are packages of their own.
    pub(crate) fn packages_of(&self, release: &str) -> Result<Vec<String>> {
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

    /// Fetches a source package as its authors released it, without what Debian added.
    pub(crate) fn source(&self, package: &str) -> Result<PathBuf> {
        for left in self.files()? {
            fs::remove_file(left)?;
        }
        let mut download = self.command("apt-get");
        shell::output(download.args(["source", "--download-only", package]))?;
        self.files()?
            .into_iter()
            .find(|path| path.to_string_lossy().contains(".orig.tar."))
            .with_context(|| format!("the source package {package} has no original archive"))
    }

    /// Fetches the packages, and nothing that an earlier try left.
    pub(crate) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
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
        let mut files = self.files()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        Ok(files)
    }

    /// What was downloaded.
    fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(&self.folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file() && !path.ends_with(SOURCES))
            .collect())
    }
}

/// Sources of a Debian release's packages, as this system's apt would list them.
pub(crate) fn packages_of(suite: &str) -> Result<String> {
    let sources = Mirrors::configured()?.sources(suite);
    let packages = sources.lines().filter(|line| line.starts_with("deb "));
    Ok(packages.flat_map(|line| [line, "\n"]).collect())
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
        let mut text = format!(
            "deb{signed} {0} {suite} main\ndeb-src{signed} {0} {suite} main\n",
            self.main
        );
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
        assert_eq!(mirrors.sources("sid").lines().count(), 2);
    }

    #[test]
    fn another_distribution_has_no_debian_mirror() {
        assert_eq!(
            Mirrors::parse("http://mirror.test/ubuntu/ noble Packages\n"),
            None
        );
    }
}
