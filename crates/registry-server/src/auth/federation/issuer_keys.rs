//! Where the keys of an issuer come from, and how long they are believed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::key_set::KeySet;
use super::{Issuer, KeyLocation};
use crate::secret_file::WatchedFile;

/// Largest document of an issuer, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// How long keys are believed without asking again.
const FRESH: Duration = Duration::from_secs(3600);

/// How long they are believed if asking fails.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Time between two requests to an issuer, whatever tokens ask for.
const PAUSE: Duration = Duration::from_secs(60);

/// Fetches documents of issuers over HTTP: this crate has no client of its own.
pub trait KeySource: Send + Sync + fmt::Debug {
    /// Fetches a document; a status other than 200 is an error, and redirects are not followed.
    fn fetch(
        &self,
        request: KeyRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, KeySourceError>> + Send>>;
}

/// What to fetch, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// An `https` URL, or an `http` one to the loopback interface.
    pub url: String,
    /// Authorities (PEM) instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// File with a token for the `Authorization` header.
    pub token_file: Option<PathBuf>,
    /// Largest document, in bytes.
    pub bytes_max: usize,
}

/// A document could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct KeySourceError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// The keys of one issuer.
#[derive(Debug)]
pub(super) enum IssuerKeys {
    File(WatchedFile<KeySet>),
    Remote(Arc<Remote>),
}

#[derive(Debug)]
pub(super) struct Remote {
    issuer: Issuer,
    source: Arc<dyn KeySource>,
    state: Mutex<State>,
    /// One request at a time: who waits for it takes what it brought. Tokens whose key is known do
    /// not wait.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<(Arc<KeySet>, SystemTime)>,
    asked: Option<SystemTime>,
}

impl IssuerKeys {
    pub(super) fn new(
        issuer: &Issuer,
        source: Option<&Arc<dyn KeySource>>,
    ) -> Result<Self, String> {
        let url = match &issuer.keys {
            KeyLocation::File(path) => {
                return WatchedFile::open(path, KeySet::parse_file)
                    .map(Self::File)
                    .map_err(|error| format!("{}: {error}", path.display()));
            }
            KeyLocation::Discovery => &issuer.url,
            KeyLocation::Url(url) => url,
        };
        if !may_ask(url, false) {
            return Err(format!("{url:?} is no https URL"));
        }
        let source = source.ok_or("its keys must be in a file here")?;
        let (issuer, source) = (issuer.clone(), Arc::clone(source));
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self::Remote(Arc::new(Remote { issuer, source, state, turn })))
    }

    /// The keys, with the one that a token names if the issuer has it.
    pub(super) async fn get(&self, key_id: Option<&str>, now: SystemTime) -> Option<Arc<KeySet>> {
        match self {
            Self::File(file) => Some(file.current()),
            Self::Remote(remote) => {
                if let Some(keys) = remote.state().known(key_id, now) {
                    return Some(keys);
                }
                // Goes on if the client hangs up: else one could keep the others from the keys.
                let (remote, key_id) = (Arc::clone(remote), key_id.map(str::to_owned));
                tokio::spawn(async move { remote.ask(key_id.as_deref(), now).await }).await.ok()?
            }
        }
    }
}

impl State {
    /// The keys of last time, if they are fresh and have the one that is wanted.
    fn known(&self, key_id: Option<&str>, now: SystemTime) -> Option<Arc<KeySet>> {
        let (keys, read) = self.keys.as_ref()?;
        (keys.has(key_id) && age(*read, now) < FRESH).then(|| Arc::clone(keys))
    }

    /// Whether the issuer may be asked now; then that is noted.
    fn begin(&mut self, now: SystemTime) -> bool {
        let may = self.asked.is_none_or(|asked| age(asked, now) >= PAUSE);
        if may {
            self.asked = Some(now);
        }
        may
    }
}

impl Remote {
    /// Asks the issuer, unless that was done a moment ago.
    async fn ask(&self, key_id: Option<&str>, now: SystemTime) -> Option<Arc<KeySet>> {
        let _turn = self.turn.lock().await;
        if let Some(keys) = self.state().known(key_id, now) {
            return Some(keys);
        }
        if self.state().begin(now) {
            match self.fetch().await {
                Ok(keys) => self.state().keys = Some((Arc::new(keys), now)),
                Err(error) => {
                    tracing::warn!(issuer = self.issuer.name, %error, "keys cannot be read");
                }
            }
        }
        let state = self.state();
        let (keys, read) = state.keys.as_ref()?;
        (age(*read, now) < STALE).then(|| Arc::clone(keys))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> io::Result<KeySet> {
        let url = match &self.issuer.keys {
            KeyLocation::Url(url) => url.clone(),
            KeyLocation::Discovery | KeyLocation::File(_) => self.discover().await?,
        };
        KeySet::parse(&self.document(url).await?)
    }

    /// Where the issuer says that its keys are (OpenID Connect Discovery 1.0, section 4).
    async fn discover(&self) -> io::Result<String> {
        let base = self.issuer.url.trim_end_matches('/');
        let document = self.document(format!("{base}/.well-known/openid-configuration")).await?;
        let document: Value = serde_json::from_str(&document)?;
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("issuer") != self.issuer.url {
            return Err(io::Error::other("its configuration is another issuer's"));
        }
        let url = text("jwks_uri");
        if !may_ask(url, base.starts_with("https:")) {
            return Err(io::Error::other("its configuration names no https URL for its keys"));
        }
        Ok(url.to_owned())
    }

    async fn document(&self, url: String) -> io::Result<String> {
        let asked_of = match &self.issuer.keys {
            KeyLocation::Url(url) => url,
            KeyLocation::Discovery | KeyLocation::File(_) => &self.issuer.url,
        };
        // The token is for whom the operator named, wherever a document points to.
        let token_file =
            self.issuer.token_file.clone().filter(|_| origin(&url) == origin(asked_of));
        let request = KeyRequest {
            url,
            ca_file: self.issuer.ca_file.clone(),
            token_file,
            bytes_max: DOCUMENT_BYTES_MAX,
        };
        let bytes = self.source.fetch(request).await.map_err(|error| io::Error::other(error.0))?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(io::Error::other("the document is too large"));
        }
        String::from_utf8(bytes).map_err(io::Error::other)
    }
}

/// Scheme, host and port of a URL as they are written.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

/// Whether a URL may be asked for keys: whoever can change the answer can be anybody.
fn may_ask(url: &str, only_https: bool) -> bool {
    if url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) {
        return true;
    }
    let Some(rest) = url.strip_prefix("http://").filter(|_| !only_https) else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_ends_with_the_port() {
        for (url, expected) in [
            ("https://issuer.example/keys", "https://issuer.example"),
            ("https://issuer.example:8443?x=/", "https://issuer.example:8443"),
            ("https://issuer.example", "https://issuer.example"),
            ("https://issuer.example@evil.example/", "https://issuer.example@evil.example"),
        ] {
            assert_eq!(origin(url), expected);
        }
    }

    #[test]
    fn keys_come_over_https_or_loopback() {
        for (url, only_https, expected) in [
            ("https://issuer.example/keys", true, true),
            ("http://127.0.0.1:8080/keys", false, true),
            ("http://127.0.0.1:8080/keys", true, false),
            ("http://[::1]/keys", false, true),
            ("http://issuer.example/keys", false, false),
            ("http://127.0.0.1.evil.example/", false, false),
            ("http://127.0.0.1@evil.example/", false, false),
            ("http://localhost:1@evil.example/", false, false),
            ("file:///etc/passwd", false, false),
            ("", false, false),
        ] {
            assert_eq!(may_ask(url, only_https), expected, "{url}");
        }
    }
}
