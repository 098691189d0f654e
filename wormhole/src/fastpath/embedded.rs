//! The eBPF object that is built into the binaries, and what it says about itself without being loaded.
//!
//! The object is made by `cargo xtask build-ebpf` before userspace is built. Without it everything is relayed, and
//! `wormhole status` says so.

use object::elf::EM_BPF;
use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSection};
use wormhole_common::VERSION_SECTION;

/// Why there is no usable eBPF object in this binary.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Nothing was embedded.
    #[error("built without the eBPF object: run `cargo xtask build-ebpf` and build again")]
    NotBuilt,
    /// What was embedded is not an object.
    #[error("the embedded eBPF object is no 64-bit ELF file: {0}")]
    NotElf(#[from] object::read::Error),
    /// It is an object for another machine.
    #[error("the embedded object is for ELF machine {0} and not for eBPF (247)")]
    NotBpf(u16),
    /// It is an eBPF object of somebody else.
    #[error("the embedded eBPF object has no readable section `{VERSION_SECTION}`: it was not built by `cargo xtask build-ebpf`")]
    NoVersion,
}

/// The eBPF object that this binary carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded<'a> {
    /// The version of the sources it was built from, such as `0.1.0`.
    pub version: &'a str,
    /// The whole ELF file, aligned to 8 bytes.
    pub bytes: &'a [u8],
}

/// Gives the bytes the alignment that readers of ELF structures in place ask for; `include_bytes!` alone gives 1.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/wormhole.o")));

/// The embedded object.
///
/// # Errors
/// What is wrong with it, in words for `wormhole status`.
pub fn inspect_embedded() -> Result<Embedded<'static>, EmbeddedError> {
    inspect(&OBJECT.0)
}

/// Reads the version out of an eBPF object.
fn inspect(bytes: &[u8]) -> Result<Embedded<'_>, EmbeddedError> {
    if bytes.is_empty() {
        return Err(EmbeddedError::NotBuilt);
    }
    let elf = ElfFile64::<Endianness>::parse(bytes)?;
    let machine = elf.elf_header().e_machine(elf.endian());
    if machine != EM_BPF {
        return Err(EmbeddedError::NotBpf(machine));
    }
    let section = elf.section_by_name(VERSION_SECTION).ok_or(EmbeddedError::NoVersion)?;
    match std::str::from_utf8(section.data()?) {
        Ok(version) if !version.is_empty() => Ok(Embedded { version, bytes }),
        _ => Err(EmbeddedError::NoVersion),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use object::write::Object as Writer;
    use object::{Architecture, BinaryFormat, SectionKind};

    fn elf(architecture: Architecture, section: &str, content: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(BinaryFormat::Elf, architecture, Endianness::Little);
        let id = writer.add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::ReadOnlyData);
        writer.append_section_data(id, content, 1);
        writer.write().unwrap()
    }

    #[test]
    fn no_object_is_told_apart_from_a_bad_one() {
        assert!(matches!(inspect(&[]), Err(EmbeddedError::NotBuilt)));
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b"x"[..], b"\x7fELF", &[0; 4096]] {
            assert!(matches!(inspect(garbage), Err(EmbeddedError::NotElf(_))), "{garbage:?}");
        }
        // Cut anywhere, it is refused or still readable, and never a panic.
        let whole = elf(Architecture::Bpf, VERSION_SECTION, b"1.2.3");
        for end in 0..whole.len() {
            let _ = inspect(&whole[..end]);
        }
    }

    #[test]
    fn an_object_of_somebody_else_is_refused() {
        assert!(matches!(inspect(&elf(Architecture::X86_64, VERSION_SECTION, b"1.2.3")), Err(EmbeddedError::NotBpf(62))));
        assert!(matches!(inspect(&elf(Architecture::Bpf, "other", b"1.2.3")), Err(EmbeddedError::NoVersion)));
        assert!(matches!(inspect(&elf(Architecture::Bpf, VERSION_SECTION, b"")), Err(EmbeddedError::NoVersion)));
        assert!(matches!(inspect(&elf(Architecture::Bpf, VERSION_SECTION, b"\xff")), Err(EmbeddedError::NoVersion)));
    }

    #[test]
    fn a_good_object_says_its_version() {
        let object = elf(Architecture::Bpf, VERSION_SECTION, b"1.2.3");
        assert_eq!(inspect(&object).unwrap(), Embedded { version: "1.2.3", bytes: &object });
    }

    #[test]
    fn what_is_embedded_is_nothing_or_of_this_version() {
        match inspect_embedded() {
            Ok(found) => {
                assert_eq!(found.version, env!("CARGO_PKG_VERSION"));
                assert_eq!(found.bytes.as_ptr().align_offset(8), 0);
            }
            Err(error) => assert!(matches!(error, EmbeddedError::NotBuilt), "{error}"),
        }
    }
}
