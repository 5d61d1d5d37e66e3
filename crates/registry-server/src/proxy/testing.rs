//! An upstream for tests that ask nothing of it.

use oci_model::{Digest, Repository};

use super::upstream::{
    FetchedManifest, ManifestHead, ManifestName, Observed, OpenedBlob, TagsPage, Upstream,
    UpstreamError, UpstreamFuture,
};

/// Has nothing.
#[derive(Debug)]
pub(crate) struct NoUpstream;

impl Upstream for NoUpstream {
    fn credentials(&self) -> usize {
        1
    }

    fn head_manifest<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: &'a ManifestName,
    ) -> UpstreamFuture<'a, Observed<ManifestHead>> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }

    fn get_manifest<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: &'a ManifestName,
        _: Option<&'a Digest>,
    ) -> UpstreamFuture<'a, Observed<FetchedManifest>> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }

    fn head_blob<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: &'a Digest,
    ) -> UpstreamFuture<'a, Option<u64>> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }

    fn open_blob<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: &'a Digest,
        _: u64,
    ) -> UpstreamFuture<'a, OpenedBlob> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }

    fn tags<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: usize,
        _: Option<&'a str>,
    ) -> UpstreamFuture<'a, TagsPage> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }

    fn referrers<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        _: &'a Digest,
    ) -> UpstreamFuture<'a, Vec<serde_json::Value>> {
        Box::pin(async { Err(UpstreamError::NotFound) })
    }
}
