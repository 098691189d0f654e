//! Images made from Debian programs, without a registry: a program, the libraries that `ldd` names, a few files, in a
//! tar, through `docker import`. The tar is kept in `target/wormhole-images`, under the versions of its packages.

mod recipes;
mod stage;

use crate::docker::Docker;
use crate::{packages, run};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What our images hold. All have busybox as /bin/sh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// redis on 127.0.0.1:6379 and on /run/redis/redis.sock; redis-cli.
    Redis,
    /// mariadb on 127.0.0.1:3306 and on /run/mysqld/mysqld.sock, root without a password; database `wormhole` with a
    /// table `greeting(word)` that holds `hello`; the client `mariadb`.
    Mysql,
    /// nginx on 127.0.0.1:80: `/` says `wormhole nginx`, `/1m` is 1 MiB.
    Nginx,
    /// dnsmasq on 127.0.0.1:53, UDP and TCP: `wormhole.test` is 192.0.2.53, TXT of `big.wormhole.test` has about 1 KiB;
    /// `drill`.
    Dns,
    /// Clients: redis-cli, mariadb, curl, drill, busybox. Runs until it is stopped.
    Client,
    /// For the benchmark: redis-server, redis-benchmark, mariadbd. Runs until it is stopped.
    Bench,
}

/// What became of an image.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// True when the tar was there already.
    pub cached: bool,
    /// Size of the tar in bytes.
    pub bytes: u64,
    /// Making the tar.
    pub build: Duration,
    /// Taking it into the engine; zero when the engine had it.
    pub import: Duration,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Redis, Self::Mysql, Self::Nginx, Self::Dns, Self::Client, Self::Bench];

    /// Name in the engine.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Redis => "wormhole/redis",
            Self::Mysql => "wormhole/mysql",
            Self::Nginx => "wormhole/nginx",
            Self::Dns => "wormhole/dns",
            Self::Client => "wormhole/client",
            Self::Bench => "wormhole/bench",
        }
    }
}

/// Sees to it that the engine has `image` in the version that fits the installed packages.
///
/// # Errors
/// When a package is missing, when the tar cannot be made, when the engine refuses it.
pub fn ensure(docker: &Docker, image: Image) -> Result<Made> {
    // Tests of one binary run side by side and all want the same few images.
    static DONE: Mutex<BTreeMap<(String, &'static str), u64>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let entry = (docker.host().to_owned(), image.tag());
    if let Some(&bytes) = done.get(&entry) {
        return Ok(Made { cached: true, bytes, build: Duration::ZERO, import: Duration::ZERO });
    }
    let made = ensure_slowly(docker, image)?;
    done.insert(entry, made.bytes);
    Ok(made)
}

fn ensure_slowly(docker: &Docker, image: Image) -> Result<Made> {
    let recipe = recipes::of(image);
    let key = key(&recipe)?;
    let label = docker.run(&["image", "inspect", "--format", "{{index .Config.Labels \"wormhole.key\"}}", image.tag()]);
    let (tar, cached, build) = tar_of(image, &recipe, &key)?;
    let bytes = fs::metadata(&tar)?.len();
    if label.is_ok_and(|l| l == key) {
        return Ok(Made { cached, bytes, build, import: Duration::ZERO });
    }
    let began = Instant::now();
    let mut import = docker.command();
    import.arg("import");
    for change in recipe.changes.iter().copied().chain([format!("LABEL wormhole.key={key}").as_str()]) {
        import.args(["-c", change]);
    }
    run::text(import.arg(&tar).arg(image.tag())).with_context(|| format!("cannot import {}", image.tag()))?;
    Ok(Made { cached, bytes, build, import: began.elapsed() })
}

/// Makes the tar alone, without an engine.
///
/// # Errors
/// When a package is missing or a file cannot be written.
pub fn prepare(image: Image) -> Result<Made> {
    let recipe = recipes::of(image);
    let (tar, cached, build) = tar_of(image, &recipe, &key(&recipe)?)?;
    Ok(Made { cached, bytes: fs::metadata(tar)?.len(), build, import: Duration::ZERO })
}

fn tar_of(image: Image, recipe: &recipes::Recipe, key: &str) -> Result<(PathBuf, bool, Duration)> {
    let began = Instant::now();
    let dir = cache_dir()?;
    let name = image.tag().rsplit('/').next().unwrap_or_default();
    let tar = dir.join(format!("{name}-{key}.tar"));
    if tar.is_file() {
        return Ok((tar, true, Duration::ZERO));
    }
    let stage = stage::Stage::new()?;
    (recipe.fill)(&stage).with_context(|| format!("cannot put {} together", image.tag()))?;
    // Under another name first: a run that is cut short leaves no half image.
    let half = tempfile::NamedTempFile::new_in(&dir)?;
    stage.pack(half.path())?;
    half.persist(&tar)?;
    forget_older(&dir, name, &tar);
    Ok((tar, false, began.elapsed()))
}

/// Tars for versions that are no longer installed.
fn forget_older(dir: &Path, name: &str, keep: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
        if ours && entry.path() != keep {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// 16 hexadecimal digits of what the image is made from: versions of the packages and the source of the recipes.
fn key(recipe: &recipes::Recipe) -> Result<String> {
    let mut text = packages::versions(recipe.packages)?;
    text.push_str(include_str!("recipes.rs"));
    text.push_str(include_str!("stage.rs"));
    // FNV-1a: only has to differ when the text does, and to be the same in every build.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    Ok(format!("{hash:016x}"))
}

fn cache_dir() -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let dir = target.join("wormhole-images");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
