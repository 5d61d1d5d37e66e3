//! The world that the exchanges of the clouds run in: this process's environment, files, programs
//! and network.
//!
//! | file | job |
//! |---|---|
//! | `access` | what a verb shows to a registry |
//! | `flags` | flags of the verbs that are all about one cloud |
//! | `program` | programs that hand out credentials |

mod access;
pub(crate) mod flags;
pub(crate) mod program;

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use credentials::Secret;
use credentials::cloud::{
    CloudError, Performer, ProgramOutput, Request, Response, RunError, SendError,
};
use registry_client::{ClientOptions, CloudHttp};
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

pub(crate) use self::access::{
    Access, CloudAnswer, Wants, cloud_credential, giving, is_asked_about, is_asked_for_others,
    is_of_wanted, provider_of,
};
use crate::exit::{Failure, Kind};
use crate::registries::{proxy_of_environment, roots_of_environment};

/// Bits of a session's key.
const KEY_BITS: usize = 2048;

/// Allows endpoints of the environment anywhere, as the flag does.
pub(crate) const ALLOW_ENDPOINTS: &str = "SHIPWAY_ALLOW_ENDPOINT_OVERRIDES";

/// This process and its machine.
#[derive(Debug)]
pub(crate) struct System {
    http: CloudHttp,
    started: Instant,
    /// When everything has to be over.
    deadline: Option<Instant>,
    allows_endpoints: bool,
}

impl System {
    /// Must be called within the runtime.
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut roots = roots_of_environment()?;
        if let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
            let path = Path::new(&path);
            let pem = std::fs::read(path).map_err(|error| {
                Failure::usage(format!("cannot read AWS_CA_BUNDLE {}: {error}", path.display()))
            })?;
            roots.push(pem);
        }
        let options = ClientOptions {
            extra_roots_pem: roots,
            proxy: proxy_of_environment(),
            ..ClientOptions::default()
        };
        Ok(Self {
            http: CloudHttp::new(options, tokio::runtime::Handle::current()),
            started: Instant::now(),
            deadline: None,
            allows_endpoints: std::env::var(ALLOW_ENDPOINTS).is_ok_and(|value| value == "true"),
        })
    }

    /// The same with an end: what would take longer fails then, and says what it waited for.
    pub(crate) fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// The same where the user has said whether variables may name endpoints anywhere.
    pub(crate) fn with_endpoints(self, allowed: bool) -> Self {
        Self { allows_endpoints: allowed, ..self }
    }

    /// So much of a time as is left.
    fn left(&self, time: Duration) -> Duration {
        let left = self.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(time, |left| left.min(time))
    }
}

/// What a cloud's error is to the user.
pub(crate) fn failure(error: CloudError) -> Failure {
    let hint = error.hint.clone();
    let failure = Failure::new(Kind::Failed, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn read(mut file: std::fs::File, bytes_max: u64) -> std::io::Result<Secret> {
    let mut text = String::new();
    file.by_ref().take(bytes_max + 1).read_to_string(&mut text)?;
    let text = Secret::new(text);
    if text.expose().len() as u64 > bytes_max {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

impl Performer for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn allows_endpoints(&self) -> bool {
        self.allows_endpoints
    }

    fn read_file(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        read(std::fs::File::open(path)?, bytes_max)
    }

    fn read_file_itself(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        // Without waiting for whoever writes into a pipe.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(std::io::Error::other)?;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        read(file, bytes_max)
    }

    fn file_exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn send(&self, request: &Request) -> Result<Response, SendError> {
        let timeout = self.left(request.timeout);
        if timeout.is_zero() {
            return Err(SendError::Timeout);
        }
        self.http.send(&Request { timeout, ..request.clone() })
    }

    fn run(
        &self,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<ProgramOutput, RunError> {
        program::run(program, arguments, self.left(timeout))
    }

    fn rsa_key(&self) -> Result<Secret, String> {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS)
            .map_err(|error| error.to_string())?;
        let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
        Ok(Secret::new(pem.as_str()))
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(self.left(time));
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Only jitter and names of sessions: without randomness they are all the same.
        let _ = getrandom::fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cloud-credentials.md 14.2, row 49 (CVE-2024-35255): a path that came from the network.
    #[tokio::test]
    async fn a_file_itself_is_no_link_no_directory_and_not_larger_than_its_limit() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("file"), "12345678").expect("a file");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("a link");
        std::fs::create_dir(path("directory")).expect("a directory");
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, mode, 0).expect("a pipe");
        let system = System::new().expect("a system");
        let read = |name: &str, bytes_max| {
            let read = system.read_file_itself(&path(name), bytes_max);
            read.map(|text| text.expose().to_owned())
        };
        assert_eq!(read("file", 8).expect("it is read"), "12345678");
        let large = read("file", 7).expect_err("it is too large");
        assert_eq!(large.kind(), std::io::ErrorKind::FileTooLarge);
        for name in ["link", "directory", "pipe", "absent"] {
            assert!(read(name, 8).is_err(), "{name}");
        }
        // A link is read where the path is the user's.
        let linked = system.read_file(&path("link"), 8).expect("it is read");
        assert_eq!(linked.expose(), "12345678");
    }
}
