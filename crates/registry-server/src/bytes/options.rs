//! Which bucket holds the bytes, and how clients get at them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::bucket::{Bucket, BucketOptionsError};
use crate::options::UPLOAD_IDLE_MAX;

/// A bucket of S3, of Google Cloud Storage or of Azure, or of anything that speaks as they do.
#[derive(Clone)]
pub struct BucketOptions {
    /// `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; the prefix may be
    /// missing.
    pub url: String,
    /// URL of the service, where it is not the cloud's own. Buckets of S3 are then addressed by
    /// path.
    pub endpoint: Option<String>,
    /// Region of S3; `us-east-1` unless told otherwise.
    pub region: Option<String>,
    /// Whether the endpoint may be asked in clear text.
    pub allow_http: bool,
    /// Credentials under the names of object_store's configuration: `aws_access_key_id`,
    /// `aws_secret_access_key`, `google_service_account_key`, `azure_storage_account_name` and so
    /// on. Without any of them the cloud's own way for workloads is used.
    pub settings: BTreeMap<String, String>,
    /// PEM file of further certificates that the endpoint may be signed with.
    pub roots: Option<PathBuf>,
    /// Who reads blobs from the bucket directly.
    pub redirect: Option<RedirectOptions>,
    /// When uploads go that nobody goes on with.
    pub expiry: UploadExpiry,
}

/// When uploads go that nobody goes on with, and objects that became no blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadExpiry {
    /// Time between looks.
    pub interval: Duration,
    /// After this time without a request an upload goes, and so does an object of this age that
    /// neither an upload nor the metadata knows. Longer than any request may take.
    pub idle_max: Duration,
    /// After this time it goes however often it was gone on with.
    pub age_max: Duration,
}

impl Default for UploadExpiry {
    /// Every hour; a day without a request, a week altogether.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3600),
            idle_max: UPLOAD_IDLE_MAX,
            age_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Readers of blobs that are sent to the bucket with a presigned URL.
#[derive(Clone, Debug)]
pub struct RedirectOptions {
    /// Addresses of clients that reach the bucket; all others are served here.
    pub clients: Vec<Network>,
    /// How long a URL is good.
    pub lifetime: Duration,
}

/// Default time that a presigned URL is good: twenty minutes, long enough for a slow download to
/// begin.
pub const REDIRECT_LIFETIME: Duration = Duration::from_secs(20 * 60);

/// Addresses with a common beginning, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address or a network such as 10.0.0.0/8")]
pub struct NetworkError {
    text: String,
}

impl fmt::Debug for BucketOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of settings only: their values are secrets.
        f.debug_struct("BucketOptions")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("allow_http", &self.allow_http)
            .field("settings", &self.settings.keys())
            .field("redirect", &self.redirect)
            .finish_non_exhaustive()
    }
}

impl BucketOptions {
    /// The bucket at `url`, with the credentials of the workload.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            allow_http: false,
            settings: BTreeMap::new(),
            roots: None,
            redirect: None,
            expiry: UploadExpiry::default(),
        }
    }

    /// Whether a client of the bucket can be made of this; asks no bucket.
    ///
    /// # Errors
    /// [`BucketOptionsError`]
    pub fn check(&self) -> Result<(), BucketOptionsError> {
        Bucket::open(self).map(drop)
    }
}

impl Network {
    /// Whether the address is in it. An IPv4 address counts as itself also when a listener for
    /// both families shows it as an IPv6 one.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
            IpAddr::V6(address) => (address.to_bits(), false),
        };
        let (ours, theirs) = (bits(self.address), bits(address));
        let differing = ours.0 ^ theirs.0;
        ours.1 == theirs.1 && differing.leading_zeros() >= u32::from(self.length)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError { text: text.to_owned() };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(length) => {
                length.parse().ok().filter(|length| *length <= bits).ok_or_else(wrong)?
            }
        };
        Ok(Self { address, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().expect(network);
            assert_eq!(network.contains(address.parse().expect(address)), expected, "{address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("10.0.0.0/8", "0a00::1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.6", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("::/0", "2001:db9::1", true);
        for bad in ["", "10.0.0.0/33", "10.0.0.0/-1", "ten/8", "10.0.0.0/8/8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut options = BucketOptions::new("s3://b");
        options.settings.insert("aws_secret_access_key".to_owned(), "hush".to_owned());
        let shown = format!("{options:?}");
        assert!(shown.contains("aws_secret_access_key") && !shown.contains("hush"), "{shown}");
    }
}
