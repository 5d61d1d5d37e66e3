//! Build contexts in object storage: S3, Google Cloud Storage, Azure blobs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::error::StepError;
use crate::fetch::{failed, with_causes};

/// Suffixes of the hosts that Azure's clouds serve blobs at, each below an account's name.
const AZURE_SUFFIXES: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.chinacloudapi.cn",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.cloudapi.de",
];

/// Whose object storage it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure blobs of an account, at an address.
    Azure {
        /// The storage account.
        account: String,
        /// `https://HOST` of the account.
        endpoint: String,
    },
}

/// An object, and how to be allowed to read it.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectLocation {
    /// Whose storage.
    pub cloud: Cloud,
    /// Bucket or container.
    pub bucket: String,
    /// Path of the object.
    pub key: String,
    /// Settings by the names that the cloud's tools have for them as environment variables, in
    /// lower case (`aws_access_key_id`); unknown ones are left aside.
    pub settings: BTreeMap<String, String>,
}

impl fmt::Debug for ObjectLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectLocation({self})")
    }
}

impl fmt::Display for ObjectLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cloud {
            Cloud::S3 => write!(f, "s3://{}/{}", self.bucket, self.key),
            Cloud::Google => write!(f, "gs://{}/{}", self.bucket, self.key),
            Cloud::Azure { endpoint, .. } => write!(f, "{endpoint}/{}/{}", self.bucket, self.key),
        }
    }
}

impl ObjectLocation {
    /// Reads `BUCKET/KEY` as it follows `s3://` and `gs://`.
    ///
    /// # Errors
    /// A text that says which part is missing.
    pub fn new(
        cloud: Cloud,
        path: &str,
        settings: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let key = key.trim_matches('/');
        if bucket.is_empty() || key.is_empty() {
            return Err(format!("{path:?}: want BUCKET/OBJECT"));
        }
        Ok(Self { cloud, bucket: bucket.to_owned(), key: key.to_owned(), settings })
    }

    /// Reads the URL of an Azure blob; `None` if its host is not one of Azure's, whatever it
    /// looks like.
    pub fn azure(url: &str, settings: BTreeMap<String, String>) -> Option<Result<Self, String>> {
        let url = url::Url::parse(url).ok()?;
        let host = url.host_str()?.to_ascii_lowercase();
        let account = AZURE_SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix))?;
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if url.scheme() != "https" || url.port().is_some() || !is_name(account) {
            return None;
        }
        let endpoint = format!("https://{host}");
        let cloud = Cloud::Azure { account: account.to_owned(), endpoint };
        Some(Self::new(cloud, url.path().trim_start_matches('/'), settings))
    }

    /// Opens the object: its size in bytes, and a stream of them.
    pub(crate) async fn open(&self, http: &reqwest::Client) -> Result<OpenObject, StepError> {
        let store = self.store(http).map_err(|error| self.failed(&error))?;
        let path =
            object_store::path::Path::parse(&self.key).map_err(|error| self.failed(&error))?;
        let found = store.get(&path).await.map_err(|error| self.failed(&error))?;
        let (size, modified) = (found.meta.size, found.meta.last_modified.timestamp());
        let stream = found.into_stream().map(|piece| piece.map_err(std::io::Error::other));
        Ok(OpenObject { size, modified, stream: stream.boxed() })
    }

    /// Writes the object.
    ///
    /// # Errors
    /// [`StepError::Fetch`] with what the storage said.
    pub async fn put(&self, http: &reqwest::Client, bytes: Vec<u8>) -> Result<(), StepError> {
        let store = self.store(http).map_err(|error| self.failed(&error))?;
        let path =
            object_store::path::Path::parse(&self.key).map_err(|error| self.failed(&error))?;
        store.put(&path, bytes.into()).await.map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> StepError {
        failed(&self.to_string(), with_causes(error))
    }

    fn store(&self, http: &reqwest::Client) -> object_store::Result<Arc<dyn ObjectStore>> {
        let connector = Shared(http.clone());
        Ok(match &self.cloud {
            Cloud::S3 => {
                let mut builder = AmazonS3Builder::new();
                for (name, value) in self.settings_like("aws_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                // What the location says counts, whatever the environment says besides.
                builder = builder.with_bucket_name(&self.bucket);
                // An endpoint of one's own is chosen on purpose, whatever it speaks.
                Arc::new(builder.with_allow_http(true).with_http_connector(connector).build()?)
            }
            Cloud::Google => {
                let mut builder = GoogleCloudStorageBuilder::new();
                for (name, value) in self.settings_like("google_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                builder = builder.with_bucket_name(&self.bucket);
                Arc::new(builder.with_http_connector(connector).build()?)
            }
            Cloud::Azure { account, endpoint } => {
                let mut builder = MicrosoftAzureBuilder::new();
                for (name, value) in self.settings_like("azure_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                builder = builder
                    .with_account(account)
                    .with_endpoint(endpoint.clone())
                    .with_container_name(&self.bucket)
                    .with_use_emulator(false);
                let plain = endpoint.starts_with("http://");
                Arc::new(builder.with_allow_http(plain).with_http_connector(connector).build()?)
            }
        })
    }

    fn settings_like(&self, prefix: &str) -> impl Iterator<Item = (&String, &String)> {
        self.settings.iter().filter(move |(name, _)| name.starts_with(prefix))
    }
}

/// An object that is being read.
pub(crate) struct OpenObject {
    pub(crate) size: u64,
    /// Unix seconds.
    pub(crate) modified: i64,
    pub(crate) stream: BoxStream<'static, std::io::Result<bytes::Bytes>>,
}

/// The client that everything of a build shares: one set of trusted certificates, one proxy.
#[derive(Debug)]
struct Shared(reqwest::Client);

impl HttpConnector for Shared {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_azures_own_hosts_are_azure() {
        for host in [
            "acc.blob.core.windows.net",
            "acc.blob.core.chinacloudapi.cn",
            "acc.blob.core.usgovcloudapi.net",
            "ACC.blob.core.cloudapi.de",
        ] {
            let url = format!("https://{host}/box/dir/context.tar.gz");
            let object = ObjectLocation::azure(&url, BTreeMap::new()).expect(host).expect(host);
            assert_eq!(
                (object.bucket.as_str(), object.key.as_str()),
                ("box", "dir/context.tar.gz")
            );
            assert!(matches!(object.cloud, Cloud::Azure { account, .. } if account == "acc"));
        }
        for url in [
            "https://acc.blob.core.windows.net.evil.example/box/c.tgz",
            "https://accblob.core.windows.net/box/c.tgz",
            "https://blob.core.windows.net/box/c.tgz",
            "https://evil.example/.blob.core.windows.net/c.tgz",
            "https://evil.example#acc.blob.core.windows.net/box/c.tgz",
            "https://acc.blob.core.windows.net@evil.example/box/c.tgz",
            "https://a.b.blob.core.windows.net/box/c.tgz",
            "https://acc.blob.core.windows.net:8443/box/c.tgz",
            "http://acc.blob.core.windows.net/box/c.tgz",
        ] {
            assert!(ObjectLocation::azure(url, BTreeMap::new()).is_none(), "{url}");
        }
        let short = ObjectLocation::azure("https://a.blob.core.windows.net/box", BTreeMap::new());
        assert!(short.expect("azure").is_err());
    }

    #[test]
    fn settings_do_not_choose_another_place_than_the_location() {
        // Only the first call can succeed, and only that one counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = registry_client::Client::new(registry_client::ClientOptions::default());
        let http = client.expect("a client").http_client();
        let settings: BTreeMap<String, String> = [
            ("aws_bucket", "other"),
            ("aws_access_key_id", "id"),
            ("aws_secret_access_key", "key"),
            ("google_bucket_name", "other"),
            ("google_skip_signature", "true"),
            ("azure_container_name", "other"),
            ("azure_storage_account_name", "other"),
            ("azure_storage_endpoint", "https://other.example"),
            ("azure_storage_use_emulator", "true"),
            ("azure_storage_account_key", "a2V5"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let shown = |object: ObjectLocation| {
            let store = object.store(&http).unwrap_or_else(|error| panic!("{object}: {error}"));
            format!("{store} {store:?}")
        };
        let place = |cloud| ObjectLocation::new(cloud, "own/key", settings.clone()).expect("valid");
        let azure =
            ObjectLocation::azure("https://acc.blob.core.windows.net/own/key", settings.clone());
        let azure = azure.expect("azure").expect("valid");
        for object in [place(Cloud::S3), place(Cloud::Google), azure] {
            let text = shown(object);
            assert!(text.contains("own") && !text.contains("other"), "{text}");
        }
    }

    #[test]
    fn settings_are_not_printed() {
        let settings = BTreeMap::from([("aws_secret_access_key".into(), "hunter2".into())]);
        let object = ObjectLocation::new(Cloud::S3, "bucket/key", settings).expect("valid");
        assert_eq!(format!("{object:?}"), "ObjectLocation(s3://bucket/key)");
        assert!(ObjectLocation::new(Cloud::S3, "bucket", BTreeMap::new()).is_err());
        assert!(ObjectLocation::new(Cloud::S3, "/key", BTreeMap::new()).is_err());
    }
}
