//! What an exchange asks of the machine it runs on.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::Secret;

/// Carries out what an exchange asks for. One implementation talks to the world, tests have others.
pub trait Performer {
    /// A variable of the environment; an empty one counts as absent.
    fn variable(&self, name: &str) -> Option<String>;

    /// Whether endpoints that variables name may lie anywhere: the user has said so.
    fn allows_endpoints(&self) -> bool {
        false
    }

    /// A whole file of at most `bytes_max` bytes, read anew each time: projected tokens rotate.
    ///
    /// # Errors
    /// As of the file system; [`std::io::ErrorKind::FileTooLarge`] beyond the limit.
    fn read_file(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret>;

    /// As [`Performer::read_file`], of a regular file and never through a link.
    ///
    /// # Errors
    /// As [`Performer::read_file`], and for anything but a regular file.
    fn read_file_itself(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret>;

    /// Whether there is a file.
    fn file_exists(&self, path: &Path) -> bool;

    /// Sends one request. No redirect is followed, no cookie kept, and a body of more than
    /// [`RESPONSE_BYTES_MAX`](Response) bytes is an error.
    ///
    /// # Errors
    /// [`SendError`] if there is no answer.
    fn send(&self, request: &Request) -> Result<Response, SendError>;

    /// Runs a program and waits, for `timeout` at most; its whole process group is killed then.
    ///
    /// # Errors
    /// [`RunError`] if it does not end by itself.
    fn run(
        &self,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<ProgramOutput, RunError>;

    /// A fresh RSA key of 2048 bits, PKCS#8 in PEM, for a session.
    ///
    /// # Errors
    /// Why there is none.
    fn rsa_key(&self) -> Result<Secret, String>;

    /// Time on a clock that nobody sets; only differences mean something.
    fn uptime(&self) -> Duration;

    /// How long whatever is under way may still take.
    fn time_left(&self) -> Duration {
        Duration::MAX
    }

    /// The time of day.
    fn now(&self) -> SystemTime;

    /// Waits before another try.
    fn pause(&self, time: Duration);

    /// A random number, for jitter and session names.
    fn random(&self) -> u64;
}

/// An HTTP request. It prints without headers and body.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The URL.
    pub url: String,
    /// Names in lower case; values may be secret.
    pub headers: Vec<(Cow<'static, str>, Secret)>,
    /// The body; empty for none.
    pub body: Secret,
    /// Where it may go.
    pub reach: Reach,
    /// How long the answer may take.
    pub timeout: Duration,
    /// PEM certificates to trust besides the system's, or alone as [`Reach::Cluster`] says.
    pub authorities: Option<String>,
}

/// Method of a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are HTTP's")]
pub enum Method {
    Get,
    Post,
    Put,
}

/// Where a request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To a cloud's public API: HTTPS, by the proxy of the environment if there is one. Plain HTTP
    /// only to a loopback address, for tests.
    Cloud,
    /// To the metadata service of this machine: an address literal that is link-local or loopback,
    /// plain HTTP, never by a proxy, connected within a second.
    Metadata,
    /// To a service of this cluster, which the authorities of the request alone vouch for and not
    /// the system's; HTTPS, never by a proxy.
    Cluster,
    /// To a service whose certificate has this SHA-1 thumbprint (hexadecimal), whoever issued it;
    /// HTTPS, never by a proxy.
    Pinned {
        /// The thumbprint.
        sha1: String,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, of at most 64 KiB.
    pub body: Secret,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or it broke; a second try may help.
    #[error("no connection: {0}")]
    Connect(String),
    /// The request must not be sent, or its answer must not be used.
    #[error("{0}")]
    Refused(String),
}

/// What a program printed.
#[derive(Clone, Debug)]
pub struct ProgramOutput {
    /// Whether it ended with 0.
    pub succeeded: bool,
    /// Its standard output, of at most 1 MiB.
    pub stdout: Secret,
}

/// Why a program did not end by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It cannot be started.
    #[error("cannot be started: {0}")]
    Start(String),
    /// It took too long and was killed.
    #[error("did not end within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It printed too much and was killed.
    #[error("printed more than 1 MiB")]
    Output,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A request to a cloud's API that may take ten seconds.
    pub(crate) fn to_cloud(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Secret::new(""),
            reach: Reach::Cloud,
            timeout: Duration::from_secs(10),
            authorities: None,
        }
    }

    /// A request to the metadata service that may take two seconds.
    pub(crate) fn to_metadata(method: Method, url: impl Into<String>) -> Self {
        let timeout = Duration::from_secs(2);
        Self { reach: Reach::Metadata, timeout, ..Self::to_cloud(method, url) }
    }

    #[must_use]
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<Secret>) -> Self {
        self.headers.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// A header whose name comes from outside.
    #[must_use]
    pub(crate) fn header_named(mut self, name: &str, value: Secret) -> Self {
        self.headers.push((Cow::Owned(name.to_ascii_lowercase()), value));
        self
    }

    #[must_use]
    pub(crate) fn body(mut self, content_type: &'static str, body: impl Into<Secret>) -> Self {
        self.headers.push((Cow::Borrowed("content-type"), Secret::new(content_type)));
        self.body = body.into();
        self
    }

    /// A form (`application/x-www-form-urlencoded`, WHATWG URL section 5.2).
    #[must_use]
    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        let mut body = zeroize::Zeroizing::new(String::new());
        for (name, value) in fields {
            if !body.is_empty() {
                body.push('&');
            }
            encode_into(&mut body, name);
            body.push('=');
            encode_into(&mut body, value);
        }
        self.body("application/x-www-form-urlencoded", Secret::new(body.as_str()))
    }
}

/// A text in which everything is percent-encoded but RFC 3986's unreserved characters.
pub(crate) fn encoded(value: &str) -> String {
    let mut text = String::new();
    encode_into(&mut text, value);
    text
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn encode_into(text: &mut String, value: &str) {
    use std::fmt::Write as _;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

impl Response {
    /// A header, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the status says that it worked.
    pub(crate) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The body as JSON. The error never repeats the body.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.body.expose()).ok()
    }
}
