//! The kernels of Debian's releases: fetched from the machine's own mirror and unpacked, nothing of them installed.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::mirror::Mirror;
use crate::{step, workspace};

/// Where they are published: 6.1, 6.12, and what is newest.
const SUITES: &[&str] = &["bookworm", "trixie", "trixie-backports"];

/// The parts of a kernel's modules that tests ask for: everything of the network and of cryptography, and what these need.
const MODULES: &[&str] = &["net", "crypto", "lib", "arch/x86/crypto"];

/// Network devices that need no hardware.
const DEVICES: &[&str] = &["dummy", "ifb", "tap", "tun", "veth", "vrf"];

/// A kernel that is ready to be started.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As in `uname -r`.
    pub release: String,
    /// The image.
    pub image: PathBuf,
    /// An initramfs with nothing but modules.
    pub modules: PathBuf,
}

/// The newest kernel of a series, such as `6.12`. What was fetched once is used again, without a look at the mirror.
///
/// # Errors
/// When there is none and none can be fetched.
pub fn get(series: &str) -> Result<Kernel> {
    let folder = workspace::target()?.join("vm");
    let kernels = folder.join("kernels");
    let mut there = Vec::new();
    for entry in std::fs::read_dir(&kernels).into_iter().flatten() {
        let release = entry?.file_name().to_string_lossy().into_owned();
        if release.starts_with(&format!("{series}.")) && complete(&kernels.join(&release)) {
            there.push(release);
        }
    }
    let release = match newest(there) {
        Some(release) => release,
        None => fetch(series, &folder)?,
    };
    let place = kernels.join(&release);
    Ok(Kernel { image: place.join("vmlinuz"), modules: place.join("modules.cpio"), release })
}

/// The last file that is written says that all others are there.
fn complete(place: &Path) -> bool {
    place.join("modules.cpio").exists()
}

/// Fetches the newest kernel of a series and gives its release.
fn fetch(series: &str, folder: &Path) -> Result<String> {
    let mirror = Mirror::open(&folder.join("apt"), SUITES)?;
    let (prefix, suffix) = ("linux-image-", "-cloud-amd64");
    let names = mirror.names(&format!("{prefix}{series}."))?;
    let releases = names.iter().filter(|name| name.ends_with(suffix)).filter_map(|name| name.strip_prefix(prefix));
    let Some(release) = newest(releases.map(str::to_owned).collect()) else {
        bail!("the mirror has no package {prefix}{series}.*{suffix}");
    };
    // Newer packages are in parts.
    let mut packages = vec![format!("{prefix}{release}")];
    for part in ["linux-binary-", "linux-modules-"] {
        packages.extend(mirror.names(&format!("{part}{release}"))?.into_iter().filter(|name| name.ends_with(&release)));
    }
    let unpacked = tempfile::tempdir_in(folder).context("making a folder for a kernel")?;
    mirror.unpack(&packages, unpacked.path())?;

    let place = folder.join("kernels").join(&release);
    std::fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    let below = |path: String| unpacked.path().join(path);
    let library = find(&[below(format!("lib/modules/{release}")), below(format!("usr/lib/modules/{release}"))])?;
    let image = find(&[below(format!("boot/vmlinuz-{release}")), library.join("vmlinuz")])?;
    std::fs::copy(&image, place.join("vmlinuz")).with_context(|| format!("copying {}", image.display()))?;
    let root = tempfile::tempdir_in(folder).context("making a folder for modules")?;
    select(&library, &root.path().join("lib/modules").join(&release))?;
    index(root.path(), &release)?;
    super::initramfs::pack(root.path(), &place.join("modules.cpio"))?;
    Ok(release)
}

fn find(places: &[PathBuf]) -> Result<PathBuf> {
    let found = places.iter().find(|path| path.exists()).cloned();
    found.with_context(|| format!("the kernel's packages have no {}", places[0].display()))
}

/// Copies the modules that tests ask for, uncompressed: the modprobe of the guest reads no other.
fn select(library: &Path, into: &Path) -> Result<()> {
    let kernel = library.join("kernel");
    for part in MODULES.iter().map(|part| kernel.join(part)).filter(|part| part.exists()) {
        let place = into.join("kernel").join(part.strip_prefix(&kernel)?);
        copy(&part, &place)?;
    }
    for device in DEVICES {
        let folder = Path::new("drivers/net");
        for name in [format!("{device}.ko"), format!("{device}.ko.xz")] {
            let module = kernel.join(folder).join(&name);
            if module.exists() {
                copy(&module, &into.join("kernel").join(folder).join(name))?;
            }
        }
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        let source = library.join(list);
        if source.exists() {
            std::fs::copy(&source, into.join(list)).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    // All in one call: there are hundreds.
    let mut find = Command::new("find");
    find.arg(into).args(["-name", "*.xz", "-exec", "busybox", "unxz", "{}", "+"]);
    step::run("unpacking modules", &mut find)?;
    Ok(())
}

/// Copies a file, or a folder with everything below it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copying {}", from.display());
    if from.is_dir() {
        for entry in std::fs::read_dir(from).with_context(context)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    std::fs::create_dir_all(to.parent().unwrap_or(to)).with_context(context)?;
    std::fs::copy(from, to).with_context(context)?;
    Ok(())
}

/// Writes modules.dep and modules.alias.
fn index(root: &Path, release: &str) -> Result<()> {
    let mut depmod = Command::new("busybox");
    // This depmod takes its paths from the working folder.
    depmod.args(["depmod", "-b"]).arg(root).arg(release).current_dir(root);
    step::run("indexing modules", &mut depmod)
}

/// The newest of some releases.
fn newest(releases: Vec<String>) -> Option<String> {
    releases.into_iter().max_by(|a, b| compare(a, b))
}

/// Numbers in names count as numbers: `6.1.0-9` is before `6.1.0-50`.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers =
        |name: &str| -> Vec<u64> { name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect() };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_found_by_numbers() {
        let releases = ["6.1.0-9-cloud-amd64", "6.1.0-50-cloud-amd64", "6.1.0-47-cloud-amd64"];
        assert_eq!(newest(releases.map(str::to_owned).to_vec()).unwrap(), releases[1]);
        assert_eq!(compare("6.12.90+deb13-cloud-amd64", "6.12.117+deb13-cloud-amd64"), Ordering::Less);
        assert_eq!(newest(Vec::new()), None);
    }
}
