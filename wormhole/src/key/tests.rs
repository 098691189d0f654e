//! Key files: the good one, and all that are refused with the command that mends them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use tempfile::TempDir;

const GOOD: &str = "0123456789abcdef0123456789abcdef";

struct Keyfile {
    dir: TempDir,
    path: PathBuf,
}

fn empty() -> Keyfile {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.secret");
    Keyfile { dir, path }
}

fn file(text: impl AsRef<[u8]>, mode: u32) -> Keyfile {
    let b = empty();
    fs::write(&b.path, text).unwrap();
    fs::set_permissions(&b.path, fs::Permissions::from_mode(mode)).unwrap();
    b
}

/// The refusal's text, with the path as `PATH`.
fn refusal(b: &Keyfile) -> String {
    Key::load(&b.path).unwrap_err().to_string().replace(b.path.to_str().unwrap(), "PATH")
}

#[test]
fn a_good_key_is_read_without_its_newline() {
    for text in [GOOD.to_owned(), format!("{GOOD}\n"), format!("{GOOD}\r\n")] {
        assert_eq!(Key::load(&file(text, 0o600).path).unwrap().secret(), GOOD.as_bytes());
    }
    Key::load(&file(GOOD, 0o400).path).unwrap();
    Key::load(&file("ü".repeat(32), 0o600).path).unwrap();
    Key::load(&file([0xff; MAX_BYTES], 0o600).path).unwrap();
}

#[test]
fn absent() {
    assert_eq!(refusal(&empty()), "there is no key file PATH: make one with `wormhole keygen PATH` and copy it to every machine");
}

#[test]
fn absent_because_the_directory_is_a_file() {
    let b = file(GOOD, 0o600);
    let path = b.path.join("key");
    assert!(matches!(Key::load(&path).unwrap_err(), KeyError::Absent(_)));
}

#[test]
fn too_short() {
    assert_eq!(
        refusal(&file(&GOOD[1..], 0o600)),
        "key file PATH holds 31 characters, at least 32 are needed: `rm PATH`, then `wormhole keygen PATH`"
    );
}

#[test]
fn newlines_do_not_count() {
    assert!(refusal(&file(format!("{}\n\n\n\n", &GOOD[4..]), 0o600)).contains("holds 28 characters"));
}

#[test]
fn bytes_of_a_character_count_once() {
    assert!(refusal(&file("ü".repeat(31), 0o600)).contains("holds 31 characters"));
}

#[test]
fn void() {
    assert!(refusal(&file("", 0o600)).contains("holds 0 characters"));
}

#[test]
fn too_long() {
    assert!(refusal(&file([b'x'; MAX_BYTES + 1], 0o600)).starts_with("key file PATH is larger than 65536 bytes"));
}

#[test]
fn open_to_others() {
    for (mode, shown) in [(0o640, "0640"), (0o604, "0604"), (0o620, "0620"), (0o601, "0601"), (0o4777, "4777")] {
        assert_eq!(
            refusal(&file(GOOD, mode)),
            format!("key file PATH has mode {shown}, open to more than its owner: `chmod 600 PATH`")
        );
    }
}

#[test]
fn symlinked() {
    let b = empty();
    let target = b.dir.path().join("real");
    fs::write(&target, GOOD).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&target, &b.path).unwrap();
    let text = refusal(&b);
    assert!(text.starts_with("key file PATH is a symbolic link"), "{text}");
    assert!(text.contains("`cp --remove-destination \"$(readlink -f PATH)\" PATH` and `chmod 600 PATH`"), "{text}");
}

#[test]
fn a_dangling_link_is_a_link() {
    let b = empty();
    symlink("/nowhere", &b.path).unwrap();
    assert!(refusal(&b).contains("is a symbolic link"));
}

#[test]
fn a_directory() {
    let b = empty();
    fs::create_dir(&b.path).unwrap();
    assert_eq!(refusal(&b), "key file PATH is a directory, not a regular file: remove it and run `wormhole keygen PATH`");
}

#[test]
fn a_pipe_does_not_hang() {
    let b = empty();
    rustix::fs::mknodat(rustix::fs::CWD, &b.path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(refusal(&b).contains("is a pipe, not a regular file"));
}

#[test]
fn a_socket() {
    let b = empty();
    let _listener = UnixListener::bind(&b.path).unwrap();
    assert!(refusal(&b).contains("is a socket, not a regular file"));
}

#[test]
fn a_device() {
    let text = Key::load(Path::new("/dev/null")).unwrap_err().to_string();
    assert!(text.contains("is a device, not a regular file"), "{text}");
}

#[test]
fn somebody_elses() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: giving a file away needs root");
        return;
    }
    let b = file(GOOD, 0o600);
    chown(&b.path, Some(1234), None).unwrap();
    assert_eq!(refusal(&b), "key file PATH belongs to uid 1234, not to root or uid 0: `chown 0 PATH`");
}

#[test]
fn the_command_in_a_message_can_be_pasted() {
    let b = empty();
    let path = b.dir.path().join("my key");
    let text = Key::load(&path).unwrap_err().to_string();
    assert!(text.contains(&format!("`wormhole keygen '{}'`", path.display())), "{text}");
}

#[test]
fn generated_keys_are_good_private_and_different() {
    let b = empty();
    let nested = b.dir.path().join("etc").join("key.secret");
    generate(&b.path).unwrap();
    generate(&nested).unwrap();
    assert_eq!(fs::metadata(&b.path).unwrap().permissions().mode() & 0o7777, 0o600);
    let (one, two) = (Key::load(&b.path).unwrap(), Key::load(&nested).unwrap());
    assert_eq!(one.secret().len(), 64);
    assert_ne!(one.secret(), two.secret());
}

#[test]
fn generate_never_overwrites() {
    let b = file(GOOD, 0o600);
    let text = generate(&b.path).unwrap_err().to_string();
    assert!(text.contains("exists and is never overwritten") && text.contains("`mv "), "{text}");
    assert_eq!(fs::read_to_string(&b.path).unwrap(), GOOD);

    let link = empty();
    symlink(link.dir.path().join("elsewhere"), &link.path).unwrap();
    assert!(matches!(generate(&link.path).unwrap_err(), KeyError::Exists(_)));
    assert!(!link.dir.path().join("elsewhere").exists());
}

#[test]
fn generate_says_what_is_missing() {
    let b = empty();
    let text = generate(&b.dir.path().join("a/b/key")).unwrap_err().to_string();
    assert!(text.starts_with("make the directory of key file"), "{text}");
}
