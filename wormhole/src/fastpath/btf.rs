//! Where fields are in the structures of the running kernel, from its BTF (`/sys/kernel/btf/vmlinux`, Linux 5.4 with
//! CONFIG_DEBUG_INFO_BTF). Only as much of the format as that takes (Documentation/bpf/btf.rst).

use std::fs;
use std::io;

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// There is no description of the kernel's types.
    #[error("cannot read {path}: {source} (the kernel needs CONFIG_DEBUG_INFO_BTF)")]
    Read {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not in the format that we know.
    #[error("the kernel's BTF is not readable: {0}")]
    Format(&'static str),
    /// This kernel is built differently.
    #[error("the kernel has no field {0}")]
    Missing(String),
}

const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of types (include/uapi/linux/btf.h).
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const RESTRICT: u32 = 11;
const TYPE_TAG: u32 = 18;

/// The types of a kernel.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Where each type begins, by its id. Type 0 is void.
    types: Vec<usize>,
}

impl Btf {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(PATH).map_err(|source| BtfError::Read { path: PATH, source })?)
    }

    fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let cut = BtfError::Format("it is cut short");
        let header = |at| word(&data, at).map(|word| word as usize);
        let magic = header(0).ok_or(cut)?;
        if magic & 0xffff != 0xeb9f {
            return Err(BtfError::Format("no BTF, or of another byte order"));
        }
        let cut = || BtfError::Format("it is cut short");
        let body = header(4).ok_or_else(cut)?;
        let first = body + header(8).ok_or_else(cut)?;
        let end = first + header(12).ok_or_else(cut)?;
        let strings = body + header(16).ok_or_else(cut)?;
        let mut types = vec![0];
        let mut at = first;
        while at < end {
            types.push(at);
            let info = word(&data, at + 4).ok_or_else(cut)?;
            at += 12 + extra(info)?;
        }
        Ok(Self { data, strings, types })
    }

    /// Bytes from the start of `structure` to the field at the end of `path`, each a member of the one before. Members
    /// of anonymous structures and unions count as members of the outer one, as in C.
    ///
    /// # Errors
    /// [`BtfError::Missing`] with the name.
    pub fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let bits = self.bit(structure, path)?;
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(missing(structure, path)) }
    }

    /// As [`Btf::offset`], in bits.
    ///
    /// # Errors
    /// As there.
    pub fn bit(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || missing(structure, path);
        let mut id = self.structure(structure).ok_or_else(missing)?;
        let mut bits = 0;
        for field in path {
            let (at, of) = self.member(id, field, 0).ok_or_else(missing)?;
            bits += at;
            id = of;
        }
        Ok(bits)
    }

    fn structure(&self, name: &str) -> Option<u32> {
        let ids = 1..self.types.len();
        let found = ids.into_iter().find(|id| {
            let at = self.types.get(*id).copied().unwrap_or_default();
            let kind = word(&self.data, at + 4).map(kind);
            kind == Some(STRUCT) && self.name(at) == Some(name.as_bytes())
        })?;
        u32::try_from(found).ok()
    }

    /// The bit at which a member begins and its type.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let at = self.resolve(id)?;
        let info = word(&self.data, at + 4)?;
        if !matches!(kind(info), STRUCT | UNION) || depth > 8 {
            return None;
        }
        for index in 0..(info & 0xffff) as usize {
            let member = at + 12 + 12 * index;
            let (of, offset) = (word(&self.data, member + 4)?, word(&self.data, member + 8)?);
            // With the flag the upper byte is the size of a bit field.
            let bit = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            match self.name(member)? {
                found if found == name.as_bytes() => return Some((bit, of)),
                [] => {
                    if let Some((inner, of)) = self.member(of, name, depth + 1) {
                        return Some((bit + inner, of));
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Follows typedefs, const, volatile and tags.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..32 {
            let at = *self.types.get(id as usize).filter(|_| id != 0)?;
            let kind = kind(word(&self.data, at + 4)?);
            if !(TYPEDEF..=RESTRICT).contains(&kind) && kind != TYPE_TAG {
                return Some(at);
            }
            id = word(&self.data, at + 8)?;
        }
        None
    }

    /// The name that the word at `at` refers to; empty when anonymous.
    fn name(&self, at: usize) -> Option<&[u8]> {
        let from = self.strings + word(&self.data, at)? as usize;
        self.data.get(from..)?.split(|byte| *byte == 0).next()
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn missing(structure: &str, path: &[&str]) -> BtfError {
    BtfError::Missing(format!("{structure}.{}", path.join(".")))
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Bytes that follow the three words that every type has.
fn extra(info: u32) -> Result<usize, BtfError> {
    let many = (info & 0xffff) as usize;
    Ok(match kind(info) {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        STRUCT | UNION | 15 | 19 => 12 * many,
        6 | 13 => 8 * many,
        _ => return Err(BtfError::Format("it has a kind of type that is newer than this build")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_what_is_needed() {
        let Ok(btf) = Btf::of_kernel() else { return }; // a kernel without BTF
        let rmem = btf.offset("sock", &["sk_backlog", "rmem_alloc"]).unwrap();
        let backlog = btf.offset("sock", &["sk_backlog"]).unwrap();
        assert!(rmem >= backlog && rmem < backlog + 64, "{rmem} {backlog}");
        assert!(btf.offset("file", &["f_path", "dentry"]).unwrap() > 0);
        assert_eq!(btf.offset("list_head", &["prev"]).unwrap(), 8);
    }

    #[test]
    fn what_is_missing_is_named() {
        let Ok(btf) = Btf::of_kernel() else { return };
        let error = btf.offset("sock", &["sk_backlog", "no_such_field"]).unwrap_err().to_string();
        assert!(error.contains("sock.sk_backlog.no_such_field"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        for garbage in [vec![], vec![0; 64], 0xeb9f_u32.to_ne_bytes().to_vec()] {
            assert!(Btf::parse(garbage).is_err());
        }
        let Ok(whole) = fs::read(PATH) else { return };
        // Cut anywhere: an error or fewer types, never a panic.
        for end in (0..whole.len()).step_by(whole.len() / 50 + 1) {
            if let Ok(btf) = Btf::parse(whole.get(..end).unwrap().to_vec()) {
                let _ = btf.offset("sock", &["sk_backlog", "rmem_alloc"]);
            }
        }
    }
}
