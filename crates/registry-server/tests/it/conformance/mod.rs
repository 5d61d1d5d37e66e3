//! The rules of the distribution-spec's conformance suite, group by group in its order, against
//! every way in which the registry is reached.

mod blobs;
mod data_sets;
mod deletion;
mod documents;
mod manifests;
mod ping;
mod referrers;
mod tags;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oci_model::{Algorithm, Digest, Hasher};
use registry_server::{
    Anonymous, AuthScheme, RegistryOptions, RegistryServer, Running, TlsFiles, add_user,
};

use crate::bucket::Bucket;
use crate::{Reply, basic, options};

/// The repositories of the suite; the second one is for mounts.
pub(crate) const REPO1: &str = "conformance/repo1";
pub(crate) const REPO2: &str = "conformance/repo2";

pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// How the registry is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// HTTP/1.1 without TLS, open to everybody.
    Plain,
    /// HTTP/2 over TLS, open to everybody.
    Tls,
    /// With a password in each request.
    Basic,
    /// With tokens as the challenges ask for them, over TLS.
    Bearer,
    /// As [`Reach::Plain`], with the bytes in a bucket.
    Bucket,
}

/// Runs async functions of the module against a registry that is reached in each way.
macro_rules! in_every_way {
    ($($claim:ident),+ $(,)?) => {
        in_every_way!(@ plain Plain, $($claim),+);
        in_every_way!(@ tls Tls, $($claim),+);
        in_every_way!(@ basic Basic, $($claim),+);
        in_every_way!(@ bearer Bearer, $($claim),+);
        in_every_way!(@ bucket Bucket, $($claim),+);
    };
    (@ $module:ident $reach:ident, $($claim:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let suite = crate::conformance::Suite::open(crate::conformance::Reach::$reach).await;
                    super::$claim(&suite).await;
                    suite.close().await;
                }
            )+
        }
    };
}
pub(crate) use in_every_way;

/// A registry and a client that reaches it.
pub(crate) struct Suite {
    registry: Running,
    wire: Wire,
    password: Option<String>,
    /// Tokens by repository and kind of method, as clients keep them.
    tokens: Mutex<HashMap<String, String>>,
    _bucket: Option<Bucket>,
    _directory: tempfile::TempDir,
}

enum Wire {
    One(Client<HttpConnector, Payload>),
    Two(SendRequest<Payload>),
}

/// A body whose size is said beforehand, or is not.
pub(crate) struct Payload {
    body: Full<Bytes>,
    sized: bool,
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { self.body.size_hint() } else { SizeHint::default() }
    }
}

impl Suite {
    /// A fresh registry.
    pub(crate) async fn open(reach: Reach) -> Self {
        Self::with(reach, |_| {}).await
    }

    /// A fresh registry with changed options.
    pub(crate) async fn with(reach: Reach, change: impl FnOnce(&mut RegistryOptions)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = options(directory.path());
        let mut password = None;
        if matches!(reach, Reach::Basic | Reach::Bearer) {
            let users = directory.path().join("htpasswd");
            add_user(&users, "tester", "secret").expect("a user");
            options.users = Some(users);
            options.anonymous = Anonymous::Nothing;
            password = basic("tester", "secret");
        }
        if reach == Reach::Bearer {
            options.scheme = AuthScheme::Bearer;
        }
        let mut trusted = None;
        if matches!(reach, Reach::Tls | Reach::Bearer) {
            let names = vec!["127.0.0.1".to_owned()];
            let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
            let files = TlsFiles {
                certificate: directory.path().join("cert.pem"),
                key: directory.path().join("key.pem"),
                clients: None,
            };
            std::fs::write(&files.certificate, made.cert.pem()).expect("a file");
            std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("a file");
            options.tls = Some(files);
            trusted = Some(made.cert.der().clone());
        }
        let bucket = (reach == Reach::Bucket).then(Bucket::start);
        options.bucket = bucket.as_ref().map(Bucket::options);
        change(&mut options);
        let registry = RegistryServer::bind(options).await.expect("a registry");
        let wire = match trusted {
            None => Wire::One(Client::builder(TokioExecutor::new()).build(HttpConnector::new())),
            Some(certificate) => Wire::Two(handshake(&registry, certificate).await),
        };
        let tokens = Mutex::default();
        Self { registry, wire, password, tokens, _bucket: bucket, _directory: directory }
    }

    pub(crate) async fn close(self) {
        self.registry.shutdown().await;
    }

    /// Sends a request, with a body of known size.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.authorized(method, path, headers, body.into(), true).await
    }

    /// Sends a request whose body ends when it ends.
    pub(crate) async fn stream(&self, method: Method, path: &str, body: &[u8]) -> Reply {
        self.authorized(method, path, &[], Bytes::copy_from_slice(body), false).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn head(&self, path: &str) -> Reply {
        self.send(Method::HEAD, path, &[], "").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Uploads a blob in one request.
    pub(crate) async fn push_blob(&self, repository: &str, digest: &Digest, bytes: &[u8]) {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.send(Method::POST, &path, &[], bytes.to_vec()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    }

    /// Opens an upload and returns its place.
    pub(crate) async fn begin(&self, repository: &str, query: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/{query}");
        let reply = self.send(Method::POST, &path, &[], "").await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        assert_eq!(reply.header("range"), "0-0");
        assert_eq!(reply.header("content-length"), "0");
        reply.header("location").to_owned()
    }

    async fn authorized(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        sized: bool,
    ) -> Reply {
        let repository =
            path.split("/blobs/").next().and_then(|path| path.split("/manifests/").next());
        let mounts = if path.contains("mount=") { "mount" } else { "" };
        let key = format!("{method} {mounts} {}", repository.unwrap_or_default());
        let known = self.tokens.lock().expect("a lock").get(&key).cloned();
        let request = |authorization: Option<String>| {
            let payload = Payload { body: Full::new(body.clone()), sized };
            self.exchange(method.clone(), path, headers, authorization, payload)
        };
        let reply = request(known).await;
        if reply.status != StatusCode::UNAUTHORIZED || self.password.is_none() {
            return reply;
        }
        let authorization = match reply.header("www-authenticate").strip_prefix("Bearer ") {
            None => self.password.clone().expect("a password"),
            Some(challenge) => self.token(challenge, path.contains("mount=")).await,
        };
        self.tokens.lock().expect("a lock").insert(key, authorization.clone());
        request(Some(authorization)).await
    }

    /// Asks the token service for what a challenge wants, and for a source of mounts.
    async fn token(&self, challenge: &str, mounts: bool) -> String {
        let part = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            Some(rest.split('"').next().unwrap_or_default().to_owned())
        };
        let realm = part("realm").expect("a realm");
        let service = part("service").expect("a service");
        let mut query = format!("{realm}?service={service}");
        if let Some(scope) = part("scope") {
            query.push_str(&format!("&scope={}", scope.replace(' ', "%20")));
        }
        if mounts {
            query.push_str(&format!("&scope=repository:{REPO2}:pull"));
        }
        let path = query.strip_prefix(&self.registry.url()).expect("our own realm").to_owned();
        let payload = Payload { body: Full::default(), sized: true };
        let reply = self.exchange(Method::GET, &path, &[], self.password.clone(), payload).await;
        format!("Bearer {}", reply.json()["token"].as_str().expect("a token"))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        authorization: Option<String>,
        payload: Payload,
    ) -> Reply {
        let uri = format!("{}{path}", self.registry.url());
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(payload).expect("a request");
        let response = match &self.wire {
            Wire::One(client) => client.request(request).await.expect("a response"),
            Wire::Two(sender) => sender.clone().send_request(request).await.expect("a response"),
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}

/// An HTTP/2 connection that trusts one certificate.
async fn handshake(
    registry: &Running,
    certificate: rustls_pki_types::CertificateDer<'static>,
) -> SendRequest<Payload> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let address = registry.address();
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let name = rustls_pki_types::ServerName::from(address.ip());
    let stream = connector.connect(name, stream).await.expect("a handshake");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// The digest of some bytes by an algorithm.
pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// The place with one more parameter.
pub(crate) fn with_query(location: &str, query: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}{query}")
}
