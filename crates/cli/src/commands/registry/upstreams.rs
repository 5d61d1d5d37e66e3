//! Registries behind ours, over HTTP: settings to the values that the server takes, and the
//! server's seam carried out by our registry client.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use credentials::cloud::{CloudCredential, Clouds};
use credentials::{RegistryAuth, Secret};
use oci_model::{Digest, Reference, Repository};
use registry_client::{
    BlobReader, Client, ClientOptions, Guard, ManifestBody, RegistryError, RegistryErrorKind,
    Remote,
};
use registry_server::{
    BlobPieces, FetchedManifest, ManifestHead, ManifestName, Observed, OpenedBlob, ProxiedRegistry,
    ProxyOptions, TagsPage, Upstream, UpstreamError, UpstreamFuture, UpstreamNetwork,
    UpstreamQuota,
};

use super::config::{CacheSettings, ProxySettings, UpstreamCredential};
use crate::auth_files::{config_at, stored_credential};
use crate::cloud::{CloudAnswer, Wants, cloud_credential, is_asked_for_others};
use crate::exit::Failure;
use crate::registries::{proxy_of_environment, roots_of_environment};

/// How long a connection to an upstream may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long an upstream may send nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long what a docker config or its helper said counts.
const CREDENTIAL_LIFE: Duration = Duration::from_secs(300);

/// How long a cloud that gave nothing is not asked again, and what it gave is not made anew.
const CLOUD_REFUSAL_LIFE: Duration = Duration::from_secs(60);

/// The options for the server.
///
/// # Errors
/// A usage failure that names the upstream.
pub(crate) fn proxy_options(
    proxies: Vec<ProxySettings>,
    cache: &CacheSettings,
) -> Result<ProxyOptions, Failure> {
    let mut options =
        ProxyOptions { bytes_max: cache.bytes_max.map(|size| size.0), ..ProxyOptions::default() };
    if let Some(time) = cache.unused_max {
        options.unused_max = time.0;
    }
    if let Some(time) = cache.sweep_interval {
        options.sweep_interval = time.0.max(Duration::from_secs(1));
    }
    for settings in proxies {
        options.upstreams.push(proxied(settings)?);
    }
    Ok(options)
}

fn proxied(settings: ProxySettings) -> Result<ProxiedRegistry, Failure> {
    let upstream = Arc::new(HttpUpstream::new(&settings)?);
    let mut registry = ProxiedRegistry::new(settings.upstream, upstream);
    registry.prefix = settings.prefix.unwrap_or_default();
    registry.alias = settings.alias;
    registry.unprefixed = settings.unprefixed.unwrap_or_default();
    registry.repositories = settings.repositories.unwrap_or_default();
    registry.pins = settings.pins.unwrap_or_default();
    registry.tag_life = settings.tag_life.map_or(registry.tag_life, |time| time.0);
    registry.answer_max = settings.timeout.map_or(registry.answer_max, |time| time.0);
    if settings.offline == Some(true) {
        registry.network = UpstreamNetwork::Offline;
    }
    Ok(registry)
}

/// An upstream that speaks the distribution API.
#[derive(Debug)]
struct HttpUpstream {
    host: String,
    /// Clients with `host[:port]` of where they ask, in the order of the settings.
    places: Vec<(String, Client)>,
    credentials: Vec<Credential>,
}

/// Who asks.
#[derive(Debug)]
enum Credential {
    Nobody,
    Fixed(RegistryAuth),
    /// The cloud whose registry it is, and what it said last.
    Cloud(Mutex<CloudState>),
    Docker {
        path: PathBuf,
        known: Mutex<Option<(Instant, Option<RegistryAuth>)>>,
    },
}

/// What is known about the cloud of an upstream.
#[derive(Debug, Default)]
struct CloudState {
    given: Option<(Arc<Clouds>, CloudCredential)>,
    /// When it gave nothing.
    refused: Option<Instant>,
    /// When its credential was refused by the registry.
    forgotten: Option<Instant>,
}

impl HttpUpstream {
    fn new(settings: &ProxySettings) -> Result<Self, Failure> {
        let host = settings.upstream.clone();
        let about = |text: String| Failure::usage(format!("upstream {host}: {text}"));
        let urls = match &settings.urls {
            Some(urls) if !urls.is_empty() => urls.clone(),
            _ => vec![format!("https://{host}")],
        };
        let mut roots = roots_of_environment()?;
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path)
                .map_err(|error| about(format!("cannot read {}: {error}", path.display())))?;
            roots.push(pem);
        }
        let insecure = settings.insecure == Some(true);
        let mut places = Vec::new();
        for url in urls {
            let wrong =
                || about(format!("{url:?} is not https://HOST[:PORT] or http://HOST[:PORT]"));
            let (scheme, place) = url.split_once("://").ok_or_else(wrong)?;
            let place = place.trim_end_matches('/').to_owned();
            let is_name = Reference::new(&place, any_repository()?, None, None).is_ok();
            let plain = scheme == "http";
            if !is_name || !(plain || scheme == "https") {
                return Err(wrong());
            }
            if plain && !insecure && !is_loopback(&place) {
                let text = format!("{url} is plain HTTP beyond loopback: say insecure = true");
                return Err(about(text));
            }
            let mut trusted = settings.trusted_hosts.clone().unwrap_or_default();
            // Where it is said to be it may be, also within our network.
            trusted.push(with_port(&place, plain));
            let listed = |yes: bool| if yes { vec![place.clone()] } else { Vec::new() };
            let options = ClientOptions {
                guard: Some(Guard { hosts: trusted }),
                insecure_registries: listed(insecure && !plain),
                plain_http_registries: listed(plain),
                extra_roots_pem: roots.clone(),
                proxy: proxy_of_environment(),
                retries_max: 0,
                connect_timeout: CONNECT_TIME_MAX,
                read_timeout: SILENCE_MAX,
                ..ClientOptions::default()
            };
            let client = Client::new(options).map_err(|error| about(error.to_string()))?;
            places.push((place, client));
        }
        let credentials = settings.credentials.as_deref().unwrap_or_default();
        let mut credentials: Vec<Credential> = credentials
            .iter()
            .map(|credential| Credential::read(credential).map_err(about))
            .collect::<Result<_, _>>()?;
        if credentials.is_empty() {
            credentials.push(match is_asked_for_others(&host) {
                true => Credential::Cloud(Mutex::default()),
                false => Credential::Nobody,
            });
        }
        Ok(Self { host, places, credentials })
    }

    async fn auth(
        &self,
        credential: usize,
        repository: &Repository,
    ) -> Result<Option<RegistryAuth>, UpstreamError> {
        let (path, known) = match self.credentials.get(credential) {
            None | Some(Credential::Nobody) => return Ok(None),
            Some(Credential::Fixed(auth)) => return Ok(Some(auth.clone())),
            Some(Credential::Cloud(state)) => return self.auth_of_cloud(state).await,
            Some(Credential::Docker { path, known }) => (path.clone(), known),
        };
        let fresh = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, auth)) = fresh
            && at.elapsed() < CREDENTIAL_LIFE
        {
            return Ok(auth);
        }
        let (host, name) = (self.host.clone(), repository.as_str().to_owned());
        let look = move || -> Result<Option<RegistryAuth>, String> {
            let config = config_at(&path).map_err(|failure| failure.text())?;
            let config = config.unwrap_or_default();
            stored_credential(&config, &host, &name).map_err(|failure| failure.text())
        };
        let found = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string());
        let auth = found.flatten().map_err(|reason| UpstreamError::Unavailable {
            reason: format!("its credential cannot be read: {reason}"),
        })?;
        *known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), auth.clone()));
        Ok(auth)
    }

    /// What the registry's cloud gives to this machine; nothing is no failure, as the image may be
    /// for everybody.
    async fn auth_of_cloud(
        &self,
        state: &Mutex<CloudState>,
    ) -> Result<Option<RegistryAuth>, UpstreamError> {
        if is_recent(state.lock().unwrap_or_else(PoisonError::into_inner).refused) {
            return Ok(None);
        }
        let host = self.host.clone();
        // The answer is kept, and renewed in time, by the clouds themselves.
        let ask = move || cloud_credential(&host, Wants::Pull);
        let answer = tokio::task::spawn_blocking(ask)
            .await
            .map_err(|error| UpstreamError::Unavailable { reason: error.to_string() })?;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused = matches!(answer, CloudAnswer::Refused(_)).then(Instant::now);
        state.given = match answer {
            CloudAnswer::Given { clouds, credential } => Some((clouds, credential)),
            CloudAnswer::None | CloudAnswer::Refused(_) => None,
        };
        Ok(state.given.as_ref().map(|(_, credential)| credential.auth.clone()))
    }

    /// Lets a cloud make its credential anew, which the registry refused; not often, as a
    /// repository that the machine may not read is refused whatever it shows.
    fn forget(&self, credential: usize) -> bool {
        let Some(Credential::Cloud(state)) = self.credentials.get(credential) else { return false };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if is_recent(state.forgotten) {
            return false;
        }
        let Some((clouds, credential)) = state.given.take() else { return false };
        clouds.invalidate(&credential);
        state.forgotten = Some(Instant::now());
        true
    }

    /// Asks, and once more if a cloud's credential was refused.
    async fn ask<T, F>(
        &self,
        credential: usize,
        repository: &Repository,
        request: impl Fn(Remote) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        match self.ask_places(credential, repository, &request).await {
            Err(UpstreamError::Denied { .. }) if self.forget(credential) => {
                self.ask_places(credential, repository, &request).await
            }
            result => result,
        }
    }

    /// Asks each place in turn until one answers.
    async fn ask_places<T, F>(
        &self,
        credential: usize,
        repository: &Repository,
        request: &impl Fn(Remote) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let auth = self.auth(credential, repository).await?;
        let mut last = UpstreamError::NotFound;
        for (place, client) in &self.places {
            let reference = Reference::new(place, repository.clone(), None, None);
            let Ok(reference) = reference else { continue };
            match request(client.remote(&reference, auth.as_ref())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = upstream_error(&error),
            }
            if !matches!(last, UpstreamError::Unavailable { .. }) {
                break;
            }
        }
        Err(last)
    }
}

impl Credential {
    fn read(settings: &UpstreamCredential) -> Result<Self, String> {
        match settings {
            UpstreamCredential {
                username: Some(username),
                password_file: Some(path),
                docker_config: None,
            } => {
                let password = std::fs::read_to_string(path)
                    .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                let password = Secret::new(password.trim_end_matches(['\r', '\n']));
                Ok(Self::Fixed(RegistryAuth::basic(username.clone(), password)))
            }
            UpstreamCredential {
                username: None,
                password_file: None,
                docker_config: Some(path),
            } => Ok(Self::Docker { path: path.clone(), known: Mutex::new(None) }),
            UpstreamCredential { .. } => {
                Err("a credential is username with password-file, or docker-config".to_owned())
            }
        }
    }
}

fn is_recent(refusal: Option<Instant>) -> bool {
    refusal.is_some_and(|at| at.elapsed() < CLOUD_REFUSAL_LIFE)
}

fn any_repository() -> Result<Repository, Failure> {
    Repository::new("any").map_err(|error| Failure::usage(error.to_string()))
}

fn is_loopback(place: &str) -> bool {
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => place.split(':').next().unwrap_or(place),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn with_port(place: &str, plain: bool) -> String {
    let has_port = place
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    match (has_port, plain) {
        (true, _) => place.to_owned(),
        (false, true) => format!("{place}:80"),
        (false, false) => format!("{place}:443"),
    }
}

/// What the server can do about an error of the client.
fn upstream_error(error: &RegistryError) -> UpstreamError {
    let reason = error.to_string();
    match error.kind() {
        RegistryErrorKind::NotFound { .. } => UpstreamError::NotFound,
        RegistryErrorKind::Unauthorized { .. } | RegistryErrorKind::Denied { .. } => {
            UpstreamError::Denied { reason }
        }
        RegistryErrorKind::RateLimited { retry_after, .. } => {
            UpstreamError::RateLimited { retry_after: *retry_after }
        }
        RegistryErrorKind::Status { status, .. } if *status < 500 && *status != 408 => {
            UpstreamError::Malformed { reason }
        }
        RegistryErrorKind::Malformed { .. }
        | RegistryErrorKind::DigestMismatch { .. }
        | RegistryErrorKind::PlatformMissing { .. } => UpstreamError::Malformed { reason },
        RegistryErrorKind::Unreachable { .. }
        | RegistryErrorKind::Tls { .. }
        | RegistryErrorKind::PlainHttp { .. }
        | RegistryErrorKind::Status { .. }
        | RegistryErrorKind::Interrupted { .. }
        | RegistryErrorKind::NoSpace { .. }
        | RegistryErrorKind::Store { .. } => UpstreamError::Unavailable { reason },
    }
}

fn quota(limit: Option<registry_client::RateLimit>) -> Option<UpstreamQuota> {
    limit.map(|limit| UpstreamQuota {
        limit: limit.limit,
        remaining: limit.remaining,
        window: limit.window,
    })
}

impl Upstream for HttpUpstream {
    fn credentials(&self) -> usize {
        self.credentials.len()
    }

    fn head_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
    ) -> UpstreamFuture<'a, Observed<ManifestHead>> {
        Box::pin(async move {
            let key = &reference.to_string();
            let head = |remote: Remote| async move { remote.head_manifest(key).await };
            let head = self.ask(credential, repository, head).await?;
            let value = ManifestHead {
                digest: head.value.digest,
                media_type: head.value.media_type,
                size: head.value.size,
            };
            Ok(Observed { value, quota: quota(head.rate_limit) })
        })
    }

    fn get_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
        known: Option<&'a Digest>,
    ) -> UpstreamFuture<'a, Observed<FetchedManifest>> {
        Box::pin(async move {
            let key = &reference.to_string();
            let get = |remote: Remote| async move { remote.get_manifest(key, known).await };
            let got = self.ask(credential, repository, get).await?;
            let value = match got.value {
                ManifestBody::Same => FetchedManifest::Same,
                ManifestBody::Whole { media_type, bytes } => {
                    FetchedManifest::Whole { media_type, bytes: bytes.into() }
                }
            };
            Ok(Observed { value, quota: quota(got.rate_limit) })
        })
    }

    fn head_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> UpstreamFuture<'a, Option<u64>> {
        let head = move |remote: Remote| async move { remote.head_blob(digest).await };
        Box::pin(self.ask(credential, repository, head))
    }

    fn open_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
        from: u64,
    ) -> UpstreamFuture<'a, OpenedBlob> {
        Box::pin(async move {
            let open = |remote: Remote| async move { remote.open_blob(digest, from).await };
            let blob = self.ask(credential, repository, open).await?;
            let (from, size) = (blob.from, blob.size);
            Ok(OpenedBlob { from, size, pieces: Box::new(Pieces(blob)) })
        })
    }

    fn tags<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        tags_max: usize,
        last: Option<&'a str>,
    ) -> UpstreamFuture<'a, TagsPage> {
        Box::pin(async move {
            let list = |remote: Remote| async move { remote.tags_page(tags_max, last).await };
            let page = self.ask(credential, repository, list).await?;
            Ok(TagsPage { tags: page.tags, more: page.more })
        })
    }

    fn referrers<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        subject: &'a Digest,
    ) -> UpstreamFuture<'a, Vec<serde_json::Value>> {
        Box::pin(async move {
            let list = |remote: Remote| async move { remote.referrers_of(subject).await };
            let found = self.ask(credential, repository, list).await?;
            let values = found.iter().map(serde_json::to_value).collect::<Result<_, _>>();
            values.map_err(|error| UpstreamError::Malformed { reason: error.to_string() })
        })
    }
}

/// The bytes of a blob over HTTP.
#[derive(Debug)]
struct Pieces(BlobReader);

impl BlobPieces for Pieces {
    fn next(&mut self) -> UpstreamFuture<'_, Option<bytes::Bytes>> {
        Box::pin(async { self.0.next().await.map_err(|error| upstream_error(&error)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> ProxySettings {
        toml::from_str(text).expect("settings")
    }

    fn wrong(text: &str) -> String {
        proxied(settings(text)).map(drop).expect_err("a refusal").text()
    }

    #[test]
    fn plain_http_needs_loopback_or_consent() {
        for good in [
            "upstream = \"docker.io\"",
            "upstream = \"127.0.0.1:5000\"\nalias = \"l\"\nurls = [\"http://127.0.0.1:5000\"]",
            "upstream = \"a.example\"\nurls = [\"http://a.example\"]\ninsecure = true",
            "upstream = \"a.example\"\nurls = [\"https://one.example\", \"https://two.example:8443\"]",
        ] {
            assert!(proxied(settings(good)).is_ok(), "{good}");
        }
        let plain = wrong("upstream = \"a.example\"\nurls = [\"http://a.example\"]");
        assert!(plain.contains("insecure = true"), "{plain}");
        for url in ["a.example", "ftp://a.example", "https://", "https://a.example/path"] {
            let text = wrong(&format!("upstream = \"a.example\"\nurls = [\"{url}\"]"));
            assert!(text.contains("is not https://HOST"), "{text}");
        }
    }

    #[test]
    fn credentials_come_from_files() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join("password");
        std::fs::write(&file, "pw\n").expect("a file");
        let credential =
            |keys: &str| settings(&format!("upstream = \"a.example\"\n[[credentials]]\n{keys}"));
        let fixed = credential(&format!("username = \"ada\"\npassword-file = {file:?}"));
        let upstream = HttpUpstream::new(&fixed).map_err(|failure| failure.text());
        let upstream = upstream.expect("an upstream");
        let expected = RegistryAuth::basic("ada", Secret::new("pw"));
        assert!(
            matches!(&upstream.credentials[..], [Credential::Fixed(auth)] if *auth == expected)
        );
        assert!(!format!("{upstream:?}").contains("pw\""), "secrets are never shown");
        for keys in ["username = \"ada\"", "docker-config = \"c\"\nusername = \"ada\""] {
            let text = proxied(credential(keys)).map(drop).expect_err("a refusal").text();
            assert!(text.contains("password-file"), "{text}");
        }
    }

    #[test]
    fn ports_are_told_so_that_only_the_registry_itself_is_trusted() {
        for (place, plain, expected) in [
            ("a.example", false, "a.example:443"),
            ("a.example", true, "a.example:80"),
            ("a.example:5000", false, "a.example:5000"),
            ("[::1]:5000", true, "[::1]:5000"),
        ] {
            assert_eq!(with_port(place, plain), expected);
        }
    }
}
