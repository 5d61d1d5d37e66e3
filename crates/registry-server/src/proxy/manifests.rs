//! Manifests of upstreams: tags are checked with a HEAD, which costs no allowance; content is
//! fetched only if its digest is not here, verified, stored, and answered from the store.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use oci_model::{Digest, Hasher, MediaType, RawManifest, Tag};

use super::names::Named;
use super::upstream::{FetchedManifest, ManifestHead, ManifestName, UpstreamError};
use super::{Behind, Proxy};
use crate::body::Body;
use crate::manifests::{self as stored, DIGEST_HEADER, referrer, unknown};
use crate::metadata::{Change, ChangeError, NewManifest};
use crate::refusal::Refusal;
use crate::route::ManifestReference;
use crate::service::{Answer, Call, header_value};

/// What a tag names upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(super) digest: Digest,
    /// Type and size in bytes, if a HEAD told both.
    described: Option<(MediaType, u64)>,
}

/// Why a manifest is not here.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Our own database.
    #[error("a cached manifest cannot be stored: {0}")]
    Store(Arc<ChangeError>),
    /// The task that fetched it died.
    #[error("the task that fetches a manifest died")]
    Died,
}

impl From<ChangeError> for FetchError {
    fn from(error: ChangeError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// A manifest by tag or digest.
pub(super) async fn get(
    proxy: &Arc<Proxy>,
    call: &Call<'_>,
    named: &Named,
    reference: &ManifestReference,
) -> Answer {
    match reference {
        ManifestReference::Digest(digest) => by_digest(proxy, call, named, digest).await,
        ManifestReference::Tag(tag) => by_tag(proxy, call, named, tag).await,
    }
}

async fn by_digest(proxy: &Arc<Proxy>, call: &Call<'_>, named: &Named, digest: &Digest) -> Answer {
    let behind = proxy.behind(named);
    let reference = ManifestReference::Digest(*digest);
    if proxy.metadata.manifest(&named.local, &reference)?.is_some() {
        behind.count(|counts| &counts.hits);
    } else {
        behind.count(|counts| &counts.misses);
        let fetched = proxy.fetch(named, digest, None).await;
        fetched.map_err(|error| refusal(behind, error, &reference))?;
    }
    proxy.used(&named.local, digest);
    stored::get(call, &reference)
}

async fn by_tag(proxy: &Arc<Proxy>, call: &Call<'_>, named: &Named, tag: &Tag) -> Answer {
    let behind = proxy.behind(named);
    let by_tag = ManifestReference::Tag(tag.clone());
    let known = proxy.metadata.manifest(&named.local, &by_tag)?.map(|known| known.digest);
    let current = match proxy.check(named, tag).await {
        Ok(check) => match serve_head(proxy, call, named, &check)? {
            Some(answer) => return Ok(answer),
            None => proxy.bring(named, tag, &check.digest).await.map(|()| check.digest),
        },
        Err(error) => Err(error),
    };
    let digest = match (current, known) {
        (Ok(digest), _) => digest,
        (Err(FetchError::Upstream(error)), Some(known)) if error.allows_stale() => {
            behind.warn_stale(call, &error);
            known
        }
        (Err(error), _) => return Err(refusal(behind, error, &by_tag)),
    };
    proxy.used(&named.local, &digest);
    let mut response = stored::get(call, &ManifestReference::Digest(digest))?;
    let caching = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, caching);
    Ok(response)
}

/// The answer to a HEAD of what is not here, from the upstream's own: many clients only look.
fn serve_head(
    proxy: &Proxy,
    call: &Call<'_>,
    named: &Named,
    check: &Check,
) -> Result<Option<Response<Body>>, Refusal> {
    let Some((media_type, size)) = &check.described else { return Ok(None) };
    let here = ManifestReference::Digest(check.digest);
    if call.method != Method::HEAD || proxy.metadata.manifest(&named.local, &here)?.is_some() {
        return Ok(None);
    }
    let digest = check.digest.to_string();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header_value(media_type.as_str()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(*size));
    headers.insert(DIGEST_HEADER, header_value(&digest));
    headers.insert(header::ETAG, header_value(&format!("\"{digest}\"")));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(Some(response))
}

fn refusal(behind: &Behind, error: FetchError, reference: &ManifestReference) -> Refusal {
    match error {
        FetchError::Upstream(error) => behind.refusal(&error, || unknown(reference)),
        FetchError::Store(error) => match &*error {
            ChangeError::NoSpace => Refusal::no_space(),
            error => Refusal::internal(error),
        },
        FetchError::Died => Refusal::internal(&error),
    }
}

impl Proxy {
    /// What a tag names, asked of the upstream unless it was asked not long ago.
    async fn check(self: &Arc<Self>, named: &Named, tag: &Tag) -> Result<Check, FetchError> {
        let behind = self.behind(named);
        if let Some(check) = self.recent.get(&named.local, tag, behind.options.tag_life) {
            behind.count(|counts| &counts.hits);
            return Ok(check);
        }
        self.negatives.check(&named.local, tag.as_str())?;
        self.check_once(named, tag).await
    }

    /// Asks what a tag names, once for all who found that nobody asked not long ago.
    pub(super) async fn check_once(
        self: &Arc<Self>,
        named: &Named,
        tag: &Tag,
    ) -> Result<Check, FetchError> {
        let key = (named.local.clone(), tag.as_str().to_owned());
        let work = || {
            let (proxy, named, tag) = (Arc::clone(self), named.clone(), tag.clone());
            async move {
                // An earlier flight may have landed since the caller looked.
                let life = proxy.behind(&named).options.tag_life;
                if let Some(check) = proxy.recent.get(&named.local, &tag, life) {
                    return Ok(check);
                }
                proxy.negatives.check(&named.local, tag.as_str())?;
                proxy.revalidate(&named, &tag).await
            }
        };
        self.checks.run(key, &self.tasks, work).await.unwrap_or(Err(FetchError::Died))
    }

    async fn revalidate(&self, named: &Named, tag: &Tag) -> Result<Check, FetchError> {
        let behind = self.behind(named);
        let name = ManifestName::Tag(tag.clone());
        let (remote, asked) = (&named.remote, &name);
        let head = behind
            .ask(|upstream, credential| upstream.head_manifest(credential, remote, asked))
            .await;
        let checked = match head {
            Ok(ManifestHead { digest: Some(digest), media_type, size }) => {
                Ok(Check { digest, described: media_type.zip(size) })
            }
            // It tells too little: the manifest itself says what it is.
            Ok(ManifestHead { digest: None, .. }) => self.fetch_tag(named, tag).await,
            Err(error) => Err(error.into()),
        };
        match &checked {
            Ok(check) => self.recent.put(&named.local, tag, check.clone()),
            Err(FetchError::Upstream(error)) => {
                self.negatives.note(&named.local, tag.as_str(), error);
                if *error == UpstreamError::NotFound {
                    self.drop_tag(named, tag).await;
                }
            }
            Err(FetchError::Store(_) | FetchError::Died) => {}
        }
        checked
    }

    /// A tag that is gone upstream must not come back when the upstream is down.
    async fn drop_tag(&self, named: &Named, tag: &Tag) {
        self.recent.forget(&named.local, tag);
        let change = Change::DeleteTag(named.local.clone(), tag.clone());
        match self.metadata.change(change).await {
            Ok(()) | Err(ChangeError::Unknown) => {}
            Err(error) => tracing::warn!(%error, %tag, "a tag that is gone stays cached"),
        }
    }

    /// Makes a tag name a manifest here as it does upstream, and the manifest be here.
    async fn bring(
        self: &Arc<Self>,
        named: &Named,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<(), FetchError> {
        let look = |reference| {
            let found = self.metadata.manifest(&named.local, &reference);
            found.map_err(|error| FetchError::from(ChangeError::from(error)))
        };
        let tagged = look(ManifestReference::Tag(tag.clone()))?;
        if tagged.is_some_and(|tagged| tagged.digest == *digest) {
            return Ok(());
        }
        match look(ManifestReference::Digest(*digest))? {
            Some(known) => {
                let manifest = parse(Some(&known.media_type), known.bytes.clone())?;
                self.store(named, *digest, &manifest, vec![tag.clone()]).await
            }
            None => {
                self.behind(named).count(|counts| &counts.misses);
                self.fetch(named, digest, Some(tag)).await?;
                // Somebody else may have fetched it, for another tag.
                Box::pin(self.bring(named, tag, digest)).await
            }
        }
    }

    /// Fetches a manifest by digest, once for all who found that it is not here.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        named: &Named,
        digest: &Digest,
        tag: Option<&Tag>,
    ) -> Result<(), FetchError> {
        self.negatives.check(&named.local, &digest.to_string())?;
        let work = || {
            let (proxy, named, digest) = (Arc::clone(self), named.clone(), *digest);
            let tags: Vec<Tag> = tag.into_iter().cloned().collect();
            async move { proxy.fetch_missing(&named, &digest, tags).await }
        };
        let key = (named.local.clone(), *digest);
        self.fetches.run(key, &self.tasks, work).await.unwrap_or(Err(FetchError::Died))
    }

    /// Fetches a manifest unless an earlier flight did, or learnt that the upstream has none: who
    /// asks for this one may have looked before that one landed.
    async fn fetch_missing(
        &self,
        named: &Named,
        digest: &Digest,
        tags: Vec<Tag>,
    ) -> Result<(), FetchError> {
        let here = ManifestReference::Digest(*digest);
        if self.metadata.manifest(&named.local, &here).map_err(ChangeError::from)?.is_some() {
            return Ok(());
        }
        let text = digest.to_string();
        self.negatives.check(&named.local, &text)?;
        let fetched = self.fetch_digest(named, digest, tags).await;
        if let Err(FetchError::Upstream(error)) = &fetched {
            self.negatives.note(&named.local, &text, error);
        }
        fetched
    }

    async fn fetch_digest(
        &self,
        named: &Named,
        digest: &Digest,
        mut tags: Vec<Tag>,
    ) -> Result<(), FetchError> {
        for tag in self.recent.tags(&named.local, digest) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let behind = self.behind(named);
        let name = ManifestName::Digest(*digest);
        let (remote, asked) = (&named.remote, &name);
        let fetched = behind
            .ask(|upstream, credential| upstream.get_manifest(credential, remote, asked, None))
            .await?;
        let FetchedManifest::Whole { media_type, bytes } = fetched else {
            let reason = "it says that a manifest is the one that was not asked with".to_owned();
            return Err(UpstreamError::Malformed { reason }.into());
        };
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            behind.suspect(&format!("manifest {digest} of {remote}"));
            let reason = format!("manifest {digest} has digest {actual}");
            return Err(UpstreamError::Malformed { reason }.into());
        }
        let manifest = parse(media_type.as_ref(), bytes)?;
        self.store(named, *digest, &manifest, tags).await
    }

    /// Fetches what a tag names from an upstream whose HEAD does not tell a digest.
    async fn fetch_tag(&self, named: &Named, tag: &Tag) -> Result<Check, FetchError> {
        let behind = self.behind(named);
        let by_tag = ManifestReference::Tag(tag.clone());
        let known = self.metadata.manifest(&named.local, &by_tag).map_err(ChangeError::from)?;
        let known = known.map(|known| known.digest);
        let name = ManifestName::Tag(tag.clone());
        let (remote, asked, condition) = (&named.remote, &name, known.as_ref());
        let fetched = behind
            .ask(|upstream, credential| upstream.get_manifest(credential, remote, asked, condition))
            .await?;
        match (fetched, known) {
            (FetchedManifest::Same, Some(digest)) => Ok(Check { digest, described: None }),
            (FetchedManifest::Same, None) => {
                let reason = "it says that nothing changed since nothing".to_owned();
                Err(UpstreamError::Malformed { reason }.into())
            }
            (FetchedManifest::Whole { media_type, bytes }, _) => {
                let manifest = parse(media_type.as_ref(), bytes)?;
                let digest = *manifest.digest();
                self.store(named, digest, &manifest, vec![tag.clone()]).await?;
                Ok(Check { digest, described: None })
            }
        }
    }

    async fn store(
        &self,
        named: &Named,
        digest: Digest,
        manifest: &RawManifest,
        tags: Vec<Tag>,
    ) -> Result<(), FetchError> {
        let subject = manifest.parsed().subject().map(|subject| subject.digest);
        let listed = |subject| -> Result<_, FetchError> {
            let descriptor = referrer(manifest, digest).map_err(|_| FetchError::Died)?;
            Ok((subject, descriptor))
        };
        let new = NewManifest {
            repository: named.local.clone(),
            digest,
            media_type: manifest.media_type().clone(),
            bytes: Bytes::copy_from_slice(manifest.bytes()),
            tags,
            expected: None,
            children: Vec::new(),
            subject: subject.map(listed).transpose()?,
            cached: true,
        };
        self.metadata.change(Change::CacheManifest(Box::new(new))).await?;
        tracing::info!(repository = %named.local, %digest, "manifest cached");
        Ok(())
    }
}

/// A manifest that came from an upstream: nothing else gets into the cache under this name.
fn parse(media_type: Option<&MediaType>, bytes: Bytes) -> Result<RawManifest, UpstreamError> {
    RawManifest::parse(media_type, bytes.into()).map_err(|error| UpstreamError::Malformed {
        reason: format!("what it sent is no manifest: {error}"),
    })
}
