//! A second view of the package archive that this machine uses: further suites of the same mirror, with lists and a cache
//! of their own. The machine's sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::workspace::program;
use crate::{apt, step};

/// Where to fetch from when the machine's own sources do not say it: the URL of a Debian mirror.
const MIRROR_ENV: &str = "WORMHOLE_DEBIAN_MIRROR";

/// For so long the lists of packages are taken for new.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys of all Debian releases, where they are installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Some suites of the archive.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    suites: Vec<String>,
    /// Whether the machine's own sources are seen too.
    beside: bool,
}

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    main: String,
    /// Security updates are published elsewhere.
    security: Option<String>,
}

impl Mirror {
    /// A view of `suites` and of nothing else, kept in `folder`. Lists older than a day are fetched anew.
    ///
    /// # Errors
    /// When the machine has no apt or no Debian mirror, or the mirror does not answer.
    pub fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        let suites = suites.iter().map(|&suite| suite.to_owned()).collect();
        Self { folder: folder.to_owned(), suites, beside: false }.opened()
    }

    /// The machine's own sources and the backports of its release, if it runs one of Debian's.
    ///
    /// # Errors
    /// As [`Mirror::open`].
    pub fn backports(folder: &Path) -> Result<Option<Self>> {
        let Some(release) = release() else { return Ok(None) };
        let suites = vec![format!("{release}-backports")];
        Self { folder: folder.to_owned(), suites, beside: true }.opened().map(Some)
    }

    fn opened(self) -> Result<Self> {
        let mut sources = sources(&Archive::of_this_machine()?, &self.suites);
        if self.beside {
            // Ours stands in the place of this one; its parts are read in any case.
            sources += &std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        }
        for folder in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(self.folder.join(folder)).with_context(|| format!("making {folder} for apt"))?;
        }
        let list = self.folder.join("sources.list");
        let known = std::fs::read_to_string(&list).is_ok_and(|old| old == sources);
        let updated = self.folder.join("updated");
        let at = updated.metadata().and_then(|meta| meta.modified()).ok();
        if known && at.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age < FRESH) {
            return Ok(self);
        }
        std::fs::write(&list, sources).with_context(|| format!("writing {}", list.display()))?;
        std::fs::write(self.conf(), self.settings()).context("writing the settings for apt")?;
        step::run("fetching lists of packages", self.apt("apt-get").args(["-q", "update", "--error-on=any"]))?;
        std::fs::write(&updated, "").context("marking the lists as new")?;
        Ok(self)
    }

    /// The first of the suites.
    pub fn suite(&self) -> &str {
        self.suites.first().map_or("", String::as_str)
    }

    /// A file for `apt-get -c`.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    /// Names of packages that begin with `prefix`.
    ///
    /// # Errors
    /// When apt-cache cannot be run.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = self.apt("apt-cache").args(["pkgnames", prefix]).output().context("starting apt-cache")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Fetches packages and unpacks them below `into`. None of their scripts is run.
    ///
    /// # Errors
    /// When they cannot be fetched or unpacked.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let debs = tempfile::tempdir_in(&self.folder).context("making a folder for packages")?;
        let mut download = self.apt("apt-get");
        download.args(["-q", "download"]).args(packages).current_dir(debs.path());
        step::run(&format!("fetching {}", packages.join(", ")), &mut download)?;
        for deb in std::fs::read_dir(debs.path()).context("looking for packages")? {
            let mut dpkg = Command::new("dpkg-deb");
            step::run("unpacking", dpkg.arg("--extract").arg(deb?.path()).arg(into))?;
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.conf()).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Read after the machine's own, so that its proxies are used and its hooks are not.
    fn settings(&self) -> String {
        let folder = self.folder.display();
        // Whoever installs does so as root and must not leave root's files here.
        let alone = format!("Dir::Etc::SourceParts \"/dev/null\";\nDir::Cache \"{folder}/cache\";\n");
        let beside = "Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n";
        format!(
            "{}\
             Dir::Etc::SourceList \"{folder}/sources.list\";\n\
             Dir::State::Lists \"{folder}/lists\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             APT::Sandbox::User \"root\";\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n",
            if self.beside { beside } else { &alone }
        )
    }
}

/// The release that this machine runs, if that is one of Debian's: `bookworm`.
fn release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

impl Archive {
    fn of_this_machine() -> Result<Self> {
        if !apt::available() || program("dpkg-deb").is_none() {
            bail!("this machine has no apt to fetch Debian packages with");
        }
        if let Ok(url) = std::env::var(MIRROR_ENV) {
            return Ok(Self { main: url, security: None });
        }
        let Some(release) = release() else {
            bail!("this machine does not run Debian: {MIRROR_ENV} may name a mirror");
        };
        let mut command = Command::new("apt-get");
        command.args(["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(CODENAME)", "Created-By: Packages"]);
        let output = command.output().context("asking apt-get where packages come from")?;
        let archive = Self::among(&String::from_utf8_lossy(&output.stdout), &release);
        archive.with_context(|| format!("apt's sources have no mirror of {release}: {MIRROR_ENV} may name one"))
    }

    /// The archive among lines of `URL RELEASE CODENAME`.
    fn among(targets: &str, release: &str) -> Option<Self> {
        let url = |wanted: &str| {
            let targets = targets.lines().filter_map(|line| line.split_once(' '));
            let mut found = targets.filter(|(_, names)| names.split(' ').any(|name| name == wanted));
            found.next().map(|(url, _)| url.to_owned())
        };
        Some(Self { main: url(release)?, security: url(&format!("{release}-security")) })
    }
}

/// The content of a sources.list. Security updates are for releases, which have no dash in their names.
fn sources(archive: &Archive, suites: &[String]) -> String {
    let options = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let mut lines = String::new();
    for suite in suites {
        lines += &format!("deb {options}{} {suite} main\n", archive.main);
        if let Some(security) = archive.security.as_ref().filter(|_| !suite.contains('-')) {
            lines += &format!("deb {options}{security} {suite}-security main\n");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_among_the_machines_sources() {
        let targets = "http://other.test/ stable stable\nhttp://a.test/debian/ bookworm bookworm\n\
                       http://a.test/debian/ bookworm-updates bookworm-updates\n\
                       http://a.test/debian-security/ bookworm-security bookworm-security\n";
        let archive = Archive::among(targets, "bookworm").unwrap();
        assert_eq!(archive.main, "http://a.test/debian/");
        assert_eq!(archive.security.as_deref(), Some("http://a.test/debian-security/"));
        assert_eq!(Archive::among(targets, "trixie"), None);
    }

    #[test]
    fn releases_come_with_their_security_updates_and_backports_without() {
        let archive = Archive { main: "http://a.test/d".into(), security: Some("http://a.test/s".into()) };
        let lines = sources(&archive, &["trixie".to_owned(), "trixie-backports".to_owned()]);
        let ends = ["/d trixie main", "/s trixie-security main", "/d trixie-backports main"];
        assert_eq!(lines.lines().count(), 3);
        assert!(lines.lines().zip(ends).all(|(line, end)| line.ends_with(end)), "{lines}");
    }
}
