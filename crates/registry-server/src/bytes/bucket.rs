//! A bucket: objects that are created once, replaced by compare-and-swap, or sent in parts.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::options::BucketOptions;

/// How long a connection to the bucket may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long the bucket may send nothing in the middle of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Pauses before a request that failed with 429, 5xx or a broken connection is sent again: they
/// grow, with jitter, from the first to the last.
const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a request is sent again, and for how long altogether.
const RETRIES_MAX: usize = 8;
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// Region of S3 where none is given.
const REGION: &str = "us-east-1";

/// Where Linux distributions keep the certificates that the administrator trusts.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Which content of an object was seen or written.
pub(crate) type Version = UpdateVersion;

/// Why a bucket cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum BucketOptionsError {
    /// The URL is not one of a bucket.
    #[error("{url:?} is not of the form s3://bucket/prefix, gs://… or az://…")]
    Url {
        /// The URL.
        url: String,
    },
    /// A setting is unknown.
    #[error("{name} is not a setting of this kind of bucket")]
    Setting {
        /// Its name.
        name: String,
    },
    /// The trusted certificates cannot be read.
    #[error("cannot use certificates in {}: {reason}", path.display())]
    Roots {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The client of the bucket was not made.
    #[error("cannot make a client of the bucket")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What became of a request to the bucket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    /// There is no such object, or no such multipart upload.
    #[error("bucket has no {key}")]
    Missing {
        /// The key below the prefix.
        key: String,
    },
    /// The object is there already.
    #[error("bucket already has {key}")]
    Exists {
        /// The key below the prefix.
        key: String,
    },
    /// The object is not the version that was to be replaced.
    #[error("{key} in the bucket changed meanwhile")]
    Changed {
        /// The key below the prefix.
        key: String,
    },
    /// The bucket failed, also when asked again.
    #[error("bucket failed at {key}")]
    Failed {
        /// The key below the prefix.
        key: String,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The key below the prefix of the bucket.
    pub(crate) key: String,
    /// In bytes.
    pub(crate) size: u64,
    /// When it was written.
    pub(crate) modified: SystemTime,
}

/// The objects below one prefix of a bucket; clones share the connections.
#[derive(Clone)]
pub(crate) struct Bucket {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Arc<dyn ObjectStore>,
    parts: Arc<dyn MultipartStore>,
    signer: Arc<dyn Signer>,
    /// Without slashes at its ends; empty for the whole bucket.
    prefix: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({}/{})", self.shared.objects, self.shared.prefix)
    }
}

/// The one client of HTTP that all requests share.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl Bucket {
    /// Makes the client; asks nothing yet.
    pub(crate) fn open(options: &BucketOptions) -> Result<Self, BucketOptionsError> {
        let wrong = || BucketOptionsError::Url { url: options.url.clone() };
        let (scheme, rest) = options.url.split_once("://").ok_or_else(wrong)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/').to_owned();
        if name.is_empty() || Path::parse(&prefix).is_err() {
            return Err(wrong());
        }
        let connector = Connector(http_client(options)?);
        let made = match scheme {
            "s3" => s3(options, name, connector)?,
            "gs" => google(options, name, connector)?,
            "az" => azure(options, name, connector)?,
            _ => return Err(wrong()),
        };
        let (objects, parts, signer) = made;
        Ok(Self { shared: Arc::new(Shared { objects, parts, signer, prefix }) })
    }

    fn path(&self, key: &str) -> Path {
        if self.shared.prefix.is_empty() {
            Path::from(key)
        } else {
            Path::from(format!("{}/{key}", self.shared.prefix))
        }
    }

    /// All of a small object.
    pub(crate) async fn get(&self, key: &str) -> Result<(Bytes, Version), BucketError> {
        let failed = |error| explain(key, error);
        let found = self.shared.objects.get(&self.path(key)).await.map_err(failed)?;
        let version =
            Version { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        Ok((found.bytes().await.map_err(failed)?, version))
    }

    /// A part of an object as it comes in, with the size of the whole object.
    pub(crate) async fn stream(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<(u64, BoxStream<'static, object_store::Result<Bytes>>), BucketError> {
        // A range of nothing cannot be asked for.
        let range = (!range.is_empty()).then_some(GetRange::Bounded(range));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = self.shared.objects.get_opts(&self.path(key), options).await;
        let found = found.map_err(|error| explain(key, error))?;
        Ok((found.meta.size, found.into_stream()))
    }

    /// A part of an object.
    pub(crate) async fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let read = self.shared.objects.get_range(&self.path(key), range).await;
        read.map_err(|error| explain(key, error))
    }

    /// The size of an object in bytes.
    pub(crate) async fn size(&self, key: &str) -> Result<u64, BucketError> {
        let found = self.shared.objects.head(&self.path(key)).await;
        Ok(found.map_err(|error| explain(key, error))?.size)
    }

    /// Writes an object that is not there yet.
    ///
    /// # Errors
    /// [`BucketError::Exists`], also when an attempt of this very call wrote it and the answer was
    /// lost: who must know compares the content.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Version, BucketError> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// Replaces what was seen.
    ///
    /// # Errors
    /// [`BucketError::Changed`] if somebody else did so before, or removed it; as with
    /// [`Bucket::create`] that may be an attempt of this call.
    pub(crate) async fn replace(
        &self,
        key: &str,
        seen: &Version,
        bytes: Bytes,
    ) -> Result<Version, BucketError> {
        self.put(key, bytes, PutMode::Update(seen.clone())).await
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Version, BucketError> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.shared.objects.put_opts(&self.path(key), bytes.into(), options).await;
        Ok(put.map_err(|error| explain(key, error))?.into())
    }

    /// Removes an object, if it is there.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), BucketError> {
        match self.shared.objects.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(key, error)),
        }
    }

    /// The objects below `prefix`, strictly after the key `after`, in the bucket's order.
    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> BoxStream<'static, Result<Listed, BucketError>> {
        let ours = self.path(prefix);
        let listed = match after {
            Some(after) => self.shared.objects.list_with_offset(Some(&ours), &self.path(after)),
            None => self.shared.objects.list(Some(&ours)),
        };
        let (prefix, skipped) = (prefix.to_owned(), self.shared.prefix.len());
        let named = move |object: object_store::Result<object_store::ObjectMeta>| {
            let object = object.map_err(|error| explain(&prefix, error))?;
            let key = object.location.as_ref().get(skipped..).unwrap_or_default();
            Ok(Listed {
                key: key.trim_start_matches('/').to_owned(),
                size: object.size,
                modified: object.last_modified.into(),
            })
        };
        listed.map(named).boxed()
    }

    /// Begins an object that comes in parts; returns the name of the attempt.
    pub(crate) async fn begin_parts(&self, key: &str) -> Result<String, BucketError> {
        let begun = self.shared.parts.create_multipart(&self.path(key)).await;
        begun.map_err(|error| explain(key, error))
    }

    /// Writes part `index`, counted from 0, and returns what names its content.
    pub(crate) async fn put_part(
        &self,
        key: &str,
        attempt: &str,
        index: usize,
        bytes: Bytes,
    ) -> Result<String, BucketError> {
        let (path, attempt) = (self.path(key), attempt.to_owned());
        let put = self.shared.parts.put_part(&path, &attempt, index, bytes.into()).await;
        Ok(put.map_err(|error| explain(key, error))?.content_id)
    }

    /// Makes the parts one object.
    ///
    /// # Errors
    /// [`BucketError::Missing`] if the attempt is over, which it is after it succeeded.
    pub(crate) async fn join_parts(
        &self,
        key: &str,
        attempt: &str,
        parts: &[String],
    ) -> Result<(), BucketError> {
        let parts = parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        let (path, attempt) = (self.path(key), attempt.to_owned());
        let joined = self.shared.parts.complete_multipart(&path, &attempt, parts).await;
        joined.map(drop).map_err(|error| explain(key, error))
    }

    /// Gives an attempt up, if it still goes on.
    pub(crate) async fn abort_parts(&self, key: &str, attempt: &str) -> Result<(), BucketError> {
        let (path, attempt) = (self.path(key), attempt.to_owned());
        match self.shared.parts.abort_multipart(&path, &attempt).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(key, error)),
        }
    }

    /// A URL by which anybody may read the object for a while.
    pub(crate) async fn presigned(
        &self,
        key: &str,
        lifetime: Duration,
    ) -> Result<String, BucketError> {
        let signed =
            self.shared.signer.signed_url(http::Method::GET, &self.path(key), lifetime).await;
        Ok(signed.map_err(|error| explain(key, error))?.into())
    }
}

fn explain(key: &str, error: object_store::Error) -> BucketError {
    let key = key.to_owned();
    match error {
        object_store::Error::NotFound { .. } => BucketError::Missing { key },
        object_store::Error::AlreadyExists { .. } => BucketError::Exists { key },
        object_store::Error::Precondition { .. } => BucketError::Changed { key },
        error => BucketError::Failed { key, source: Box::new(error) },
    }
}

type Made = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, Arc<dyn Signer>);

fn made(store: impl ObjectStore + MultipartStore + Signer) -> Made {
    let store = Arc::new(store);
    (Arc::clone(&store) as _, Arc::clone(&store) as _, store)
}

fn client_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BucketOptionsError {
    BucketOptionsError::Client(error.into())
}

fn s3(
    options: &BucketOptions,
    name: &str,
    connector: Connector,
) -> Result<Made, BucketOptionsError> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &options.settings {
        let key = name.parse().map_err(|_| unknown_setting(name))?;
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = builder
        .with_bucket_name(name)
        .with_region(options.region.as_deref().unwrap_or(REGION))
        // What TLS protects need not be hashed once more to be signed.
        .with_unsigned_payload(!options.allow_http)
        // One request per object: not everything that speaks S3 has the other one.
        .with_disable_bulk_delete(true)
        .with_allow_http(options.allow_http)
        .with_retry(retries())
        .with_http_connector(connector);
    Ok(made(builder.build().map_err(client_error)?))
}

fn google(
    options: &BucketOptions,
    name: &str,
    connector: Connector,
) -> Result<Made, BucketOptionsError> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in &options.settings {
        let key = name.parse().map_err(|_| unknown_setting(name))?;
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let builder =
        builder.with_bucket_name(name).with_retry(retries()).with_http_connector(connector);
    Ok(made(builder.build().map_err(client_error)?))
}

fn azure(
    options: &BucketOptions,
    name: &str,
    connector: Connector,
) -> Result<Made, BucketOptionsError> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in &options.settings {
        let key = name.parse().map_err(|_| unknown_setting(name))?;
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let builder = builder
        .with_container_name(name)
        .with_allow_http(options.allow_http)
        .with_retry(retries())
        .with_http_connector(connector);
    Ok(made(builder.build().map_err(client_error)?))
}

fn unknown_setting(name: &str) -> BucketOptionsError {
    BucketOptionsError::Setting { name: name.to_owned() }
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: RETRY_PAUSE_FIRST,
            max_backoff: RETRY_PAUSE_MAX,
            base: 2.,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIME_MAX,
    }
}

fn http_client(options: &BucketOptions) -> Result<reqwest::Client, BucketOptionsError> {
    let mut roots = rustls::RootCertStore::empty();
    for bundle in SYSTEM_BUNDLES {
        if let Ok(pem) = std::fs::read(bundle) {
            // A system bundle may hold certificates that rustls does not accept; skip those.
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            break;
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &options.roots {
        let bad = |reason: String| BucketOptionsError::Roots { path: path.clone(), reason };
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(client_error)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIME_MAX)
        .read_timeout(SILENCE_MAX)
        // Several connections move several parts faster than one that interleaves them.
        .http1_only()
        .tcp_nodelay(true)
        // The environment is the caller's business.
        .no_proxy()
        // Buckets do not send elsewhere; who answers so is not one.
        .redirect(reqwest::redirect::Policy::none())
        .https_only(!options.allow_http)
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(client_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_buckets_are_buckets() {
        for url in ["s3://b", "s3://b/", "s3://b/a/prefix/", "gs://b/x"] {
            Bucket::open(&BucketOptions::new(url)).expect(url);
        }
        for url in
            ["", "b", "s3://", "s3:///x", "ftp://b", "https://b/x", "s3://b/a//b", "s3://b/.."]
        {
            let error = Bucket::open(&BucketOptions::new(url)).expect_err(url);
            assert!(matches!(error, BucketOptionsError::Url { .. }), "{url}: {error}");
        }
        let mut options = BucketOptions::new("s3://b");
        options.settings.insert("aws_nonsense".to_owned(), String::new());
        let error = Bucket::open(&options).expect_err("a setting that is none");
        assert_eq!(error.to_string(), "aws_nonsense is not a setting of this kind of bucket");
    }
}
