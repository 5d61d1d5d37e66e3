//! Finding a program as a shell would, with the messages of Go's `os/exec` that users of
//! Kubernetes know.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::Access;

use crate::wire::Failure;

/// Where programs are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path of a program as this user can execute it.
pub(super) fn find(name: &str, env: &[(String, String)]) -> Result<String, Failure> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) => Err(failure(name, &describe(name, &error), code(&error))),
        };
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
    for dir in path.unwrap_or(DEFAULT_PATH).split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = format!("{}/{name}", dir.trim_end_matches('/'));
        if !name.is_empty() && executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(failure(name, "executable file not found in $PATH", 127))
}

fn executable(path: &str) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::access(Path::new(path), Access::EXEC_OK)?)
}

fn describe(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => format!("stat {path}: {}", text(error)),
    }
}

/// The failure of the start itself.
pub(super) fn not_started(path: &str, error: &io::Error) -> Failure {
    Failure::Program { message: format!("exec {path}: {}", text(error)), code: code(error) }
}

/// The text of an error as C and Go have it, without the number Rust adds.
fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::E2BIG) => "argument list too long".to_owned(),
        _ => error.to_string(),
    }
}

fn code(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => 127,
        _ => 126,
    }
}

fn failure(name: &str, message: &str, code: u8) -> Failure {
    Failure::Program { message: format!("exec: {name:?}: {message}"), code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, path: &str, expected: Result<&str, (&str, u8)>) {
        let env = [("PATH".to_owned(), path.to_owned())];
        let found = match find(name, &env) {
            Ok(found) => Ok(found),
            Err(Failure::Program { message, code }) => Err((message, code)),
            Err(other) => panic!("{other:?}"),
        };
        let found = found.as_deref().map_err(|(message, code)| (message.as_str(), *code));
        assert_eq!(found, expected);
    }

    #[test]
    fn name_is_looked_up_in_path_order() {
        check("sh", "/nowhere:/bin/", Ok("/bin/sh"));
        check("sh", "/nowhere", Err(("exec: \"sh\": executable file not found in $PATH", 127)));
        check("", "/bin", Err(("exec: \"\": executable file not found in $PATH", 127)));
    }

    #[test]
    fn path_is_taken_as_it_is() {
        check("/bin/sh", "", Ok("/bin/sh"));
        let missing = "exec: \"/no/such\": stat /no/such: no such file or directory";
        check("/no/such", "/bin", Err((missing, 127)));
        check("/etc/passwd", "/bin", Err(("exec: \"/etc/passwd\": permission denied", 126)));
        check("/etc/", "/bin", Err(("exec: \"/etc/\": is a directory", 126)));
    }
}
