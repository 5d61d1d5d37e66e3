//! `hostPath` volumes and their types (mini-kubernetes.md 8.4).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Why a host path cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    #[error("hostPath type check failed: {path} is not {expected}")]
    Type { path: String, expected: &'static str },
    #[error("hostPath {path} cannot be created")]
    Create { path: String, source: io::Error },
    #[error("unknown hostPath type \"{0}\"")]
    UnknownType(String),
}

/// Checks a host path against its type, creating it where the type says so.
///
/// # Errors
/// The path is not what its type asks for.
pub(crate) fn check(path: &Path, kind: &str) -> Result<(), HostPathError> {
    let shown = || path.display().to_string();
    let file_type = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let require = |holds: bool, expected: &'static str| {
        if holds { Ok(()) } else { Err(HostPathError::Type { path: shown(), expected }) }
    };
    let create = |result: io::Result<()>| {
        result.map_err(|source| HostPathError::Create { path: shown(), source })
    };
    match (kind, file_type) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => {
            create(fs::DirBuilder::new().recursive(true).mode(0o755).create(path))
        }
        ("FileOrCreate", None) => create(
            fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop),
        ),
        ("Directory" | "DirectoryOrCreate", found) => {
            require(found.is_some_and(|found| found.is_dir()), "a directory")
        }
        ("File" | "FileOrCreate", found) => {
            require(found.is_some_and(|found| found.is_file()), "a file")
        }
        ("Socket", found) => require(found.is_some_and(|found| found.is_socket()), "a socket file"),
        ("CharDevice", found) => {
            require(found.is_some_and(|found| found.is_char_device()), "a character device")
        }
        ("BlockDevice", found) => {
            require(found.is_some_and(|found| found.is_block_device()), "a block device")
        }
        (other, _) => Err(HostPathError::UnknownType(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mini-kubernetes.md 14, row 71.
    #[test]
    fn row_71_host_path_types() {
        let root = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "").expect("file");
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("socket");
        for (name, kind, passes) in [
            ("none", "", true),
            ("none", "Directory", false),
            ("none", "File", false),
            ("dir/sub", "DirectoryOrCreate", true),
            ("dir/sub", "Directory", true),
            ("dir/sub", "File", false),
            ("dir/new", "FileOrCreate", true),
            ("dir/new", "File", true),
            ("file", "File", true),
            ("file", "DirectoryOrCreate", false),
            ("socket", "Socket", true),
            ("file", "Socket", false),
            ("file", "Nonsense", false),
        ] {
            assert_eq!(check(&at(name), kind).is_ok(), passes, "{name} {kind}");
        }
        drop(socket);
        check(Path::new("/dev/null"), "CharDevice").expect("a character device");
        assert_eq!(
            check(&at("file"), "Directory").expect_err("no directory").to_string(),
            format!("hostPath type check failed: {} is not a directory", at("file").display())
        );
    }
}
