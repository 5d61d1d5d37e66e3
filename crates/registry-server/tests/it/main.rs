//! The registry over HTTP: the rules of the distribution-spec's conformance suite, security rows,
//! races and restarts.

mod access;
mod audit;
mod blobs;
mod bucket;
mod bucket_collection;
mod bucket_peers;
mod bucket_uploads;
mod collection;
mod conformance;
mod drain;
mod federation;
mod fuzz;
mod hardening;
mod immutable;
mod limits;
mod listing;
mod lockout;
mod manifests;
mod metrics;
mod namespaces;
mod notifications;
mod proxy;
mod quota;
mod race_catalogue;
mod rates;
mod replicas;
mod restart;
mod retention;
mod robots;
mod scrub;
mod security;
mod skopeo;
mod tls;
mod tokens;
mod trash;
mod uploads;

use std::path::Path;

use crate::bucket::Bucket;
use blob_store::BlobStore;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oci_model::Digest;
use registry_server::{RegistryOptions, RegistryServer, Running};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Where a registry has the bytes of blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Disk,
    Bucket,
}

/// Makes tests of functions that take a [`Kind`]: one for each kind.
macro_rules! over_both_kinds {
    ($($name:ident),+ $(,)?) => {
        mod on_disk {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::Kind::Disk).await;
            })+
        }

        mod in_a_bucket {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::Kind::Bucket).await;
            })+
        }
    };
}
use over_both_kinds;

/// A registry with a client and, unless it lives elsewhere, a state directory of its own.
struct Fixture {
    registry: Running,
    client: Client<HttpConnector, Full<Bytes>>,
    credentials: Option<String>,
    directory: Option<tempfile::TempDir>,
    bucket: Option<Bucket>,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

fn options(state: &Path) -> RegistryOptions {
    let store = BlobStore::open(state.join("blobs")).expect("a store");
    RegistryOptions::new(state.join("registry"), store)
}

impl Fixture {
    /// A registry open to everybody.
    async fn open() -> Self {
        Self::with(|_, _| {}).await
    }

    /// A registry open to everybody, with blobs on disk or in a bucket of its own.
    async fn of(kind: Kind) -> Self {
        let bucket = (kind == Kind::Bucket).then(Bucket::start);
        let place = bucket.as_ref().map(Bucket::options);
        let mut fixture = Self::with(|options, _| options.bucket = place).await;
        fixture.bucket = bucket;
        fixture
    }

    /// A registry with changed options.
    async fn with(change: impl FnOnce(&mut RegistryOptions, &Path)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = options(directory.path());
        change(&mut options, directory.path());
        let mut fixture = Self::over(options).await;
        fixture.directory = Some(directory);
        fixture
    }

    async fn over(options: RegistryOptions) -> Self {
        let registry = RegistryServer::bind(options).await.expect("a registry");
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { registry, client, credentials: None, directory: None, bucket: None }
    }

    /// The same registry, asked by somebody.
    fn login(&mut self, credentials: Option<String>) {
        self.credentials = credentials;
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let path = match path.find("://") {
            Some(_) => path.to_owned(),
            None => format!("{}{path}", self.registry.url()),
        };
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(header::AUTHORIZATION, credentials);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.client.request(request).await.expect("a response");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn head(&self, path: &str) -> Reply {
        self.send(Method::HEAD, path, &[], "").await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Uploads a blob in one request.
    async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.send(Method::POST, &path, &[], bytes.to_vec()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        digest
    }

    async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        manifest: &Value,
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = [("content-type", media_type)];
        self.send(Method::PUT, &path, &headers, manifest.to_string()).await
    }

    /// Pushes an image whose layer is `layer` and returns its manifest's digest.
    async fn push_image(&self, repository: &str, reference: &str, layer: &str) -> Digest {
        let manifest = self.image(repository, layer).await;
        let reply = self.put_manifest(repository, reference, MANIFEST, &manifest).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        Digest::of(manifest.to_string().as_bytes())
    }

    /// Pushes the blobs of an image and returns its manifest.
    async fn image(&self, repository: &str, layer: &str) -> Value {
        self.push_blob(repository, b"{}").await;
        self.push_blob(repository, layer.as_bytes()).await;
        image_manifest(layer)
    }
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Status and code of a refusal.
    fn refusal(&self) -> (u16, String) {
        let code = self.json()["errors"][0]["code"].as_str().expect("a code").to_owned();
        (self.status.as_u16(), code)
    }
}

fn image_manifest(layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(b"{}"),
            "size": 2,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": Digest::of(layer.as_bytes()),
            "size": layer.len(),
        }],
    })
}

fn basic(user: &str, password: &str) -> Option<String> {
    use base64::Engine as _;
    let text = format!("{user}:{password}");
    Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
}

/// A client of a registry in another process, which may die any time.
struct PlainClient {
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A request that stores something, and the path by which it is read afterwards.
#[derive(Clone)]
struct Store {
    method: Method,
    path: String,
    body: Bytes,
    stored: String,
}

impl PlainClient {
    fn new(url: String) -> Self {
        Self { url, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The three requests of a small push.
    fn push(&self, repository: &str, tag: &str, layer: &str) -> Vec<Store> {
        let blob = |bytes: &str| {
            let digest = Digest::of(bytes.as_bytes());
            Store {
                method: Method::POST,
                path: format!("/v2/{repository}/blobs/uploads/?digest={digest}"),
                body: bytes.to_owned().into(),
                stored: format!("/v2/{repository}/blobs/{digest}"),
            }
        };
        let path = format!("/v2/{repository}/manifests/{tag}");
        let manifest = Store {
            method: Method::PUT,
            path: path.clone(),
            body: image_manifest(layer).to_string().into(),
            stored: path,
        };
        vec![blob("{}"), blob(layer), manifest]
    }

    /// The status, or `None` if the registry died.
    async fn try_send(&self, request: Store) -> Option<u16> {
        let request = Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.url, request.path))
            .header(header::CONTENT_TYPE, MANIFEST)
            .body(Full::new(request.body))
            .expect("a request");
        Some(self.client.request(request).await.ok()?.status().as_u16())
    }
}
