//! Archive names to paths below a root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Why a name cannot be a path below a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadName {
    Empty,
    Nul,
    LeavesRoot,
    TooDeep,
    TooLong,
}

impl BadName {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Empty => "the name is empty",
            Self::Nul => "the name holds a NUL byte",
            Self::LeavesRoot => "the name leaves the root",
            Self::TooDeep => "the name has too many components",
            Self::TooLong => "the name is too long",
        }
    }
}

/// Longest path accepted, in bytes (PATH_MAX of Linux).
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// Deepest path accepted, in components. A directory descriptor is held for each level while a
/// tree is removed, so the bound keeps a process below its usual limit of 1024 descriptors.
pub(crate) const DEPTH_MAX: usize = 256;

/// Cleans a name: leading slashes, `.` and inner `..` go, a name that climbs above the root is
/// refused. The root itself is the empty path.
pub(crate) fn normalize(name: &[u8]) -> Result<PathBuf, BadName> {
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    if name.contains(&0) {
        return Err(BadName::Nul);
    }
    if PATH_BYTES_MAX < name.len() {
        return Err(BadName::TooLong);
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(BadName::LeavesRoot)?;
            }
            _ if 255 < part.len() => return Err(BadName::TooLong),
            _ => parts.push(part),
        }
    }
    if DEPTH_MAX < parts.len() {
        return Err(BadName::TooDeep);
    }
    Ok(PathBuf::from(OsStr::from_bytes(&parts.join(&b'/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_below_the_root() {
        for (name, path) in [
            ("a", "a"),
            ("./a/b/", "a/b"),
            ("/etc//passwd", "etc/passwd"),
            ("a/../b", "b"),
            ("./", ""),
            ("/", ""),
        ] {
            assert_eq!(normalize(name.as_bytes()), Ok(PathBuf::from(path)), "{name}");
        }
    }

    #[test]
    fn refuses_names_that_cannot_stay_below_the_root() {
        assert_eq!(normalize(b""), Err(BadName::Empty));
        assert_eq!(normalize(b"a\0b"), Err(BadName::Nul));
        assert_eq!(normalize(b"../a"), Err(BadName::LeavesRoot));
        assert_eq!(normalize(b"/a/../../b"), Err(BadName::LeavesRoot));
        assert_eq!(normalize(&b"a/".repeat(300)), Err(BadName::TooDeep));
        assert_eq!(normalize(&b"a".repeat(300)), Err(BadName::TooLong));
    }
}
