//! The seam to the registries behind the cache. Whoever implements it speaks HTTP and holds the
//! credentials; this crate decides when to ask, with which credential, and what to believe.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository, Tag};

/// A future of the seam.
pub type UpstreamFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, UpstreamError>> + Send + 'a>>;

/// A registry behind the cache.
///
/// Each method is one attempt: no retries, no waiting for a rate limit to pass. `credential`
/// counts from 0 to [`Upstream::credentials`]. An implementation sends credentials to the
/// registry and its own token service only, and is not led to private addresses.
pub trait Upstream: fmt::Debug + Send + Sync {
    /// How many credentials there are to choose from; at least one, which may be none.
    fn credentials(&self) -> usize;

    /// Asks what a tag or digest names, at no cost of a pull allowance (HEAD).
    fn head_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
    ) -> UpstreamFuture<'a, Observed<ManifestHead>>;

    /// Fetches a manifest unless it is `known`. Its bytes need not be right.
    fn get_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
        known: Option<&'a Digest>,
    ) -> UpstreamFuture<'a, Observed<FetchedManifest>>;

    /// Asks for the size of a blob in bytes (HEAD); nothing if the registry does not tell it.
    fn head_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> UpstreamFuture<'a, Option<u64>>;

    /// Begins to read a blob at offset `from`, or at 0 where the registry does not resume. Its
    /// bytes need not be right.
    fn open_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
        from: u64,
    ) -> UpstreamFuture<'a, OpenedBlob>;

    /// A page of the tags of a repository, strictly after `last`.
    fn tags<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        tags_max: usize,
        last: Option<&'a str>,
    ) -> UpstreamFuture<'a, TagsPage>;

    /// The descriptors (JSON objects) of the manifests whose subject is `subject`.
    fn referrers<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        subject: &'a Digest,
    ) -> UpstreamFuture<'a, Vec<serde_json::Value>>;
}

/// How a manifest is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManifestName {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag.as_str()),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// An answer, with what the registry said about its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed<T> {
    /// The answer.
    pub value: T,
    /// What is left of the allowance, if the registry says so.
    pub quota: Option<UpstreamQuota>,
}

/// What is left of an allowance to pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamQuota {
    /// Requests allowed per window.
    pub limit: Option<u64>,
    /// Requests left in the window.
    pub remaining: u64,
    /// Length of the window.
    pub window: Option<Duration>,
}

/// What a HEAD of a manifest tells; registries may leave out any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: Option<MediaType>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// A manifest as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedManifest {
    /// It is the known one.
    Same,
    /// Another one.
    Whole {
        /// What the registry says it is.
        media_type: Option<MediaType>,
        /// Its bytes.
        bytes: Bytes,
    },
}

/// A blob on its way in.
#[derive(Debug)]
pub struct OpenedBlob {
    /// Offset of the first byte that comes.
    pub from: u64,
    /// Size of the whole blob in bytes, if the registry tells it.
    pub size: Option<u64>,
    /// The bytes.
    pub pieces: Box<dyn BlobPieces>,
}

/// The bytes of a blob, piece by piece.
pub trait BlobPieces: fmt::Debug + Send {
    /// The next piece; nothing at the end.
    fn next(&mut self) -> UpstreamFuture<'_, Option<Bytes>>;
}

/// A page of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagsPage {
    /// The tags.
    pub tags: Vec<String>,
    /// Whether there are more.
    pub more: bool,
}

/// Why an upstream gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// There is no such thing (404).
    #[error("not found upstream")]
    NotFound,
    /// The credential has no right to it (401, 403).
    #[error("refused upstream: {reason}")]
    Denied {
        /// What the registry said.
        reason: String,
    },
    /// The registry wants to be left alone for a while (429).
    #[error("rate limit of the upstream")]
    RateLimited {
        /// For how long, if it says so.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, does not answer in time, or failed itself (5xx).
    #[error("upstream unavailable: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// It sent what makes no sense, is not what was asked for, or leads where it must not.
    #[error("upstream answer cannot be used: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

impl UpstreamError {
    /// Whether what is cached may be served in place of an answer.
    pub(crate) const fn allows_stale(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Malformed { .. } => true,
            Self::NotFound | Self::Denied { .. } => false,
        }
    }
}
