//! A unix socket that only its owner may open.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Binds a socket with mode 0600, in place of one that a killed process has left.
///
/// It is made beside its place and renamed, so that at no time it is open to others.
///
/// # Errors
/// Something that is no socket is at the path, a living process serves it, or the directory cannot
/// be written.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no socket"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it"));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{:016x}", fastrand::u64(..)));
    let staged = PathBuf::from(staged);
    let listener = UnixListener::bind(&staged)?;
    let placed = fs::set_permissions(&staged, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&staged, path));
    if let Err(error) = placed {
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_is_the_owners_alone_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("cri.sock");
        let first = bind(&path).expect("bound");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let error = bind(&path).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(&path).expect("bound again");
        assert_eq!(fs::read_dir(dir.path()).expect("directory").count(), 1);
    }

    #[tokio::test]
    async fn file_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("cri.sock");
        fs::write(&path, "precious").expect("a file");
        assert_eq!(bind(&path).expect_err("refused").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    }
}
