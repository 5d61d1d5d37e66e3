//! An upstream whose every answer a test decides. Delays are gates that the test opens.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository};
use registry_server::{
    BlobPieces, FetchedManifest, ManifestHead, ManifestName, Observed, OpenedBlob, TagsPage,
    Upstream, UpstreamError, UpstreamFuture, UpstreamQuota,
};
use serde_json::Value;
use tokio::sync::Semaphore;

/// Bytes of one piece of a blob.
pub(crate) const PIECE: usize = 16 * 1024;

/// What every request passes: the request as `VERB repository what`, and the credential.
type Fault = Box<dyn Fn(&str, usize) -> Option<UpstreamError> + Send>;

#[derive(Default)]
struct State {
    /// By `repository tag` and `repository digest`.
    manifests: BTreeMap<String, (MediaType, Bytes)>,
    /// By `repository digest`.
    blobs: BTreeMap<String, Blob>,
    log: Vec<String>,
    bytes_sent: u64,
    fault: Option<Fault>,
    hangs: bool,
    quota: Option<UpstreamQuota>,
    heads_tell: bool,
    referrers: Vec<Value>,
}

/// A blob and how it is sent.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Bytes,
    /// Offsets at which the first, second, … connections break.
    pub(crate) breaks: VecDeque<usize>,
    /// Nothing beyond the offset is sent before the gate is closed for good.
    pub(crate) gate: Option<(usize, Arc<Semaphore>)>,
    pub(crate) resumes: bool,
    pub(crate) tells_size: bool,
}

pub(crate) fn blob(bytes: impl Into<Bytes>) -> Blob {
    Blob {
        bytes: bytes.into(),
        breaks: VecDeque::new(),
        gate: None,
        resumes: true,
        tells_size: true,
    }
}

pub(crate) struct Fake {
    credentials: usize,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_credentials(1)
    }

    pub(crate) fn with_credentials(credentials: usize) -> Arc<Self> {
        let state = State { heads_tell: true, ..State::default() };
        Arc::new(Self { credentials, state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Gives a repository a manifest under its digest and a tag.
    pub(crate) fn tag(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        body: &Value,
    ) -> Digest {
        let bytes = Bytes::from(body.to_string());
        let digest = Digest::of(&bytes);
        let entry = (MediaType::new(media_type), bytes);
        let mut state = self.state();
        state.manifests.insert(format!("{repository} {tag}"), entry.clone());
        state.manifests.insert(format!("{repository} {digest}"), entry);
        digest
    }

    /// What a name leads to, whatever it promises.
    pub(crate) fn lie(&self, repository: &str, name: &str, bytes: &str) {
        let entry = (MediaType::OCI_MANIFEST, Bytes::from(bytes.to_owned()));
        self.state().manifests.insert(format!("{repository} {name}"), entry);
    }

    pub(crate) fn untag(&self, repository: &str, tag: &str) {
        self.state().manifests.remove(&format!("{repository} {tag}"));
    }

    pub(crate) fn put_blob(&self, repository: &str, blob: Blob) -> Digest {
        let digest = Digest::of(&blob.bytes);
        self.put_blob_as(repository, &digest, blob);
        digest
    }

    pub(crate) fn put_blob_as(&self, repository: &str, digest: &Digest, blob: Blob) {
        self.state().blobs.insert(format!("{repository} {digest}"), blob);
    }

    /// An image of two blobs under a tag; the layer's digest comes with the manifest's.
    pub(crate) fn image(&self, repository: &str, tag: &str, layer: &str) -> Digest {
        self.put_blob(repository, blob("{}"));
        self.put_blob(repository, blob(layer.to_owned()));
        self.tag(repository, tag, crate::MANIFEST, &crate::image_manifest(layer))
    }

    pub(crate) fn fail(
        &self,
        fault: impl Fn(&str, usize) -> Option<UpstreamError> + Send + 'static,
    ) {
        self.state().fault = Some(Box::new(fault));
    }

    pub(crate) fn fail_with(&self, error: UpstreamError) {
        self.fail(move |_, _| Some(error.clone()));
    }

    pub(crate) fn hang(&self) {
        self.state().hangs = true;
    }

    pub(crate) fn heads_tell_nothing(&self) {
        self.state().heads_tell = false;
    }

    pub(crate) fn set_quota(&self, remaining: u64) {
        let quota = UpstreamQuota { limit: Some(100), remaining, window: None };
        self.state().quota = Some(quota);
    }

    pub(crate) fn set_referrers(&self, referrers: Vec<Value>) {
        self.state().referrers = referrers;
    }

    /// The requests since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.state().bytes_sent
    }

    /// Notes a request; what is left of it if it does not fail.
    fn request<T: Send + 'static>(
        &self,
        line: String,
        credential: usize,
        answer: impl FnOnce(&mut State) -> Result<T, UpstreamError>,
    ) -> UpstreamFuture<'static, T> {
        let mut state = self.state();
        let fault = state.fault.as_ref().and_then(|fault| fault(&line, credential));
        state.log.push(line);
        let answer = match fault {
            Some(error) => Err(error),
            None => answer(&mut state),
        };
        let hangs = state.hangs;
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

impl Upstream for Fake {
    fn credentials(&self) -> usize {
        self.credentials
    }

    fn head_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
    ) -> UpstreamFuture<'a, Observed<ManifestHead>> {
        let key = format!("{repository} {reference}");
        self.request(format!("HEAD {key}"), credential, |state| {
            let (media_type, bytes) = state.manifests.get(&key).ok_or(UpstreamError::NotFound)?;
            let told = ManifestHead {
                digest: Some(Digest::of(bytes)),
                media_type: Some(media_type.clone()),
                size: Some(bytes.len() as u64),
            };
            let value = if state.heads_tell { told } else { ManifestHead::default() };
            Ok(Observed { value, quota: state.quota.clone() })
        })
    }

    fn get_manifest<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        reference: &'a ManifestName,
        known: Option<&'a Digest>,
    ) -> UpstreamFuture<'a, Observed<FetchedManifest>> {
        let key = format!("{repository} {reference}");
        let known = known.copied();
        self.request(format!("GET {key}"), credential, move |state| {
            let (media_type, bytes) = state.manifests.get(&key).ok_or(UpstreamError::NotFound)?;
            let value = if known == Some(Digest::of(bytes)) {
                FetchedManifest::Same
            } else {
                FetchedManifest::Whole {
                    media_type: Some(media_type.clone()),
                    bytes: bytes.clone(),
                }
            };
            Ok(Observed { value, quota: state.quota.clone() })
        })
    }

    fn head_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> UpstreamFuture<'a, Option<u64>> {
        let key = format!("{repository} {digest}");
        self.request(format!("HEAD {key}"), credential, move |state| {
            let blob = state.blobs.get(&key).ok_or(UpstreamError::NotFound)?;
            Ok(Some(blob.bytes.len() as u64))
        })
    }

    fn open_blob<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        digest: &'a Digest,
        from: u64,
    ) -> UpstreamFuture<'a, OpenedBlob> {
        let key = format!("{repository} {digest}");
        let shared = Arc::clone(&self.state);
        self.request(format!("GET {key} {from}"), credential, move |state| {
            let blob = state.blobs.get_mut(&key).ok_or(UpstreamError::NotFound)?;
            let from = if blob.resumes { usize::try_from(from).expect("small") } else { 0 };
            let end = blob.breaks.pop_front();
            let pieces = Pieces { blob: blob.clone(), at: from, end, state: shared };
            Ok(OpenedBlob {
                from: from as u64,
                size: blob.tells_size.then_some(blob.bytes.len() as u64),
                pieces: Box::new(pieces),
            })
        })
    }

    fn tags<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        tags_max: usize,
        last: Option<&'a str>,
    ) -> UpstreamFuture<'a, TagsPage> {
        let prefix = format!("{repository} ");
        let line = format!("TAGS {repository} {tags_max} {}", last.unwrap_or_default());
        let last = last.unwrap_or_default().to_owned();
        self.request(line, credential, move |state| {
            let all = state.manifests.keys().filter_map(|key| key.strip_prefix(&prefix));
            let tags = all.filter(|tag| !tag.contains(':') && **tag > *last);
            let mut tags: Vec<String> = tags.map(str::to_owned).collect();
            if tags.is_empty() {
                return Err(UpstreamError::NotFound);
            }
            let more = tags_max < tags.len();
            tags.truncate(tags_max);
            Ok(TagsPage { tags, more })
        })
    }

    fn referrers<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        subject: &'a Digest,
    ) -> UpstreamFuture<'a, Vec<Value>> {
        let line = format!("REFERRERS {repository} {subject}");
        self.request(line, credential, |state| Ok(state.referrers.clone()))
    }
}

struct Pieces {
    blob: Blob,
    at: usize,
    end: Option<usize>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces at {}", self.at)
    }
}

impl BlobPieces for Pieces {
    fn next(&mut self) -> UpstreamFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let mut end = self.blob.bytes.len().min(self.at + PIECE);
            if let Some(broken) = self.end {
                if broken <= self.at {
                    return Err(UpstreamError::Unavailable { reason: "connection reset".into() });
                }
                end = end.min(broken);
            }
            if let Some((offset, gate)) = &self.blob.gate {
                if self.at < *offset {
                    end = end.min(*offset);
                } else {
                    // Closed by the test when all may pass.
                    let _ = gate.acquire().await;
                }
            }
            if self.at == end {
                return Ok(None);
            }
            let piece = self.blob.bytes.slice(self.at..end);
            self.at = end;
            self.state.lock().expect("no panic").bytes_sent += piece.len() as u64;
            Ok(Some(piece))
        })
    }
}
