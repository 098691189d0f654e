//! Puts the eBPF object, where one was built, next to the code that embeds it.
//!
//! `cargo xtask build-ebpf` writes `target/ebpf/wormhole.o`; without it an empty file is embedded and the daemon says so.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=WORMHOLE_EBPF_OBJECT");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let object = match std::env::var_os("WORMHOLE_EBPF_OBJECT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            // Somebody asked for this very file: to embed nothing in its place would be a lie.
            fs::read(&path).map_err(|e| format!("WORMHOLE_EBPF_OBJECT={}: {e}", path.display()))?
        }
        None => {
            let folder = ebpf_folder(&out)?;
            // The folder and not the file: cargo runs this script on every build while a watched path is missing, and
            // then compiles the crate anew. A folder exists from now on, and its time changes when the object appears.
            println!("cargo::rerun-if-changed={}", folder.display());
            match fs::read(folder.join("wormhole.o")) {
                Ok(object) => object,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(e) => return Err(format!("{}: {e}", folder.join("wormhole.o").display()).into()),
            }
        }
    };
    fs::write(out.join("wormhole.o"), object)?;
    Ok(())
}

/// `ebpf/` in the target folder, made if it is not there.
fn ebpf_folder(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // Cargo marks the top of a target folder, which is several levels up and may be anywhere (CARGO_TARGET_DIR).
    let target = out.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    let folder = target.map_or_else(|| Path::new("../target").to_path_buf(), Path::to_path_buf).join("ebpf");
    if !folder.exists() {
        fs::create_dir_all(&folder)?;
        // Dated back, or cargo sees a change that is newer than the start of this script and builds once more.
        File::open(&folder)?.set_modified(UNIX_EPOCH)?;
    }
    Ok(folder)
}
