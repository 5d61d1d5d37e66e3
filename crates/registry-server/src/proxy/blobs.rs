//! Blobs of upstreams: served from the store, or as they come in.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use blob_store::IngestError;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use oci_model::{Digest, ErrorCode, Repository};
use tokio::sync::mpsc;

use super::fill::{Fill, FillError, Opened, Writer, pieces};
use super::names::Named;
use super::upstream::{BlobPieces, OpenedBlob, UpstreamError};
use super::{Behind, Counts, Proxy};
use crate::blobs as stored;
use crate::body::{Body, StreamBody};
use crate::bytes::BucketBytes;
use crate::manifests::DIGEST_HEADER;
use crate::metadata::{BlobState, CachedBlob, Change, Reply, Stamp};
use crate::range::{self, Wanted};
use crate::refusal::Refusal;
use crate::service::{Answer, Call, header_value};

/// Times that a request looks again for what is in the store and then is not.
const ROUNDS_MAX: usize = 100;

/// Attempts in a row to go on with a blob that bring nothing.
const BREAKS_MAX: u32 = 5;

/// Pause after the first of them; doubled for each further one.
const BREAK_PAUSE: Duration = Duration::from_millis(200);

/// How long an upstream may send nothing in the middle of a blob.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Largest blob that is taken from an upstream, in bytes (1 TiB): one that never ends must not
/// fill the disk unnoticed for longer.
const BLOB_BYTES_MAX: u64 = 1 << 40;

/// A blob or a part of it.
pub(super) async fn get(
    proxy: &Arc<Proxy>,
    call: &Call<'_>,
    named: &Named,
    digest: &Digest,
) -> Answer {
    let behind = proxy.behind(named);
    if let Some(answer) = cached(proxy, call, named, digest).await? {
        behind.count(|counts| &counts.hits);
        return Ok(answer);
    }
    behind.count(|counts| &counts.misses);
    let refuse = |error: FillError| match error {
        FillError::Upstream(error) => behind.refusal(&error, || stored::unknown(digest)),
        FillError::Mismatch { .. } => {
            let reason = error.to_string();
            behind.refusal(&UpstreamError::Malformed { reason }, || stored::unknown(digest))
        }
        FillError::NoSpace => Refusal::no_space(),
        FillError::Store { .. } => Refusal::internal(&error),
    };
    if call.method == Method::HEAD {
        return match proxy.prove(named, digest).await.map_err(|error| refuse(error.into()))? {
            Some(size) => Ok(described(digest, size)),
            // Clients need the size; it comes with the blob.
            None => Ok(head_of(&proxy.fill(named, digest).await.map_err(refuse)?, digest).await),
        };
    }
    for _ in 0..ROUNDS_MAX {
        match proxy.fill(named, digest).await.map_err(refuse)? {
            Source::Here => {
                if let Some(answer) = cached(proxy, call, named, digest).await? {
                    return Ok(answer);
                }
                // It expired between two looks.
            }
            Source::Coming(fill) => {
                let opened = fill.opened().await.map_err(refuse)?;
                return follow(call, &fill, opened, digest);
            }
        }
    }
    Err(Refusal::unavailable("the blob goes from the cache as fast as it comes"))
}

/// Where a blob was found.
enum Place {
    /// In the store, and in the repository.
    Linked,
    /// In the store, but not in the repository; its size in bytes, and its key in the bucket.
    Unlinked { size: u64, key: Option<String> },
    /// On its way.
    Coming(Arc<Fill>),
}

/// What a request can be answered from.
#[derive(Debug)]
pub(super) enum Source {
    /// In the store, and in the repository.
    Here,
    /// On its way.
    Coming(Arc<Fill>),
}

/// The answer from the store, if the blob is cached.
async fn cached(
    proxy: &Arc<Proxy>,
    call: &Call<'_>,
    named: &Named,
    digest: &Digest,
) -> Result<Option<Response<Body>>, Refusal> {
    if proxy.metadata.linked(&named.local, digest)?.is_none() {
        return Ok(None);
    }
    match stored::get(call, digest).await {
        Ok(answer) => {
            proxy.used(&named.local, digest);
            Ok(Some(answer))
        }
        // It went between two looks, or its file was damaged: then it comes again.
        Err(refusal) if refusal.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// The answer to a HEAD of a blob that is not here.
fn described(digest: &Digest, size: u64) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), digest);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

async fn head_of(source: &Source, digest: &Digest) -> Response<Body> {
    let size = match source {
        Source::Here => None,
        Source::Coming(fill) => fill.opened().await.ok().and_then(|opened| opened.size),
    };
    let mut response = described(digest, size.unwrap_or(0));
    if size.is_none() {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

fn describe(headers: &mut http::HeaderMap, digest: &Digest) {
    let text = digest.to_string();
    headers.insert(DIGEST_HEADER, header_value(&text));
    headers.insert(header::ETAG, header_value(&format!("\"{text}\"")));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000, immutable"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
}

/// The answer from a blob that is coming in.
fn follow(call: &Call<'_>, fill: &Arc<Fill>, opened: Opened, digest: &Digest) -> Answer {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    describe(headers, digest);
    // A part of something whose size is not known cannot be named.
    let Some(size) = opened.size else {
        let pieces = fill.read(opened, 0, None);
        *response.body_mut() = Body::Stream(StreamBody::new(pieces, None));
        return Ok(response);
    };
    let (first, length) = match range::wanted(call.header(header::RANGE), size) {
        // Several parts of what is not there yet are answered with all of it (RFC 9110, 14.2).
        Wanted::Whole | Wanted::Parts(_) => (0, size),
        Wanted::Part { first, last } => {
            let content_range = format!("bytes {first}-{last}/{size}");
            headers.insert(header::CONTENT_RANGE, header_value(&content_range));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (first, last - first + 1)
        }
        Wanted::Unsatisfiable => {
            let text = format!("the blob has {size} bytes");
            return Err(Refusal::new(ErrorCode::RangeInvalid, text)
                .with_header(header::CONTENT_RANGE, header_value(&format!("bytes */{size}"))));
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let pieces = fill.read(opened, first, Some(first + length));
    *response.body_mut() = Body::Stream(StreamBody::new(pieces, Some(length)));
    Ok(response)
}

impl Proxy {
    /// Asks the upstream whether its repository has the blob; its size if the upstream tells it.
    async fn prove(&self, named: &Named, digest: &Digest) -> Result<Option<u64>, UpstreamError> {
        let text = digest.to_string();
        self.negatives.check(&named.local, &text)?;
        let remote = &named.remote;
        let proved = self
            .behind(named)
            .ask_plain(|upstream, credential| upstream.head_blob(credential, remote, digest))
            .await;
        if let Err(error) = &proved {
            self.negatives.note(&named.local, &text, error);
        }
        proved
    }

    /// Joins the fill of a blob or begins it. Whatever others fetched or pushed, this repository
    /// gets it only if its own upstream has it there.
    pub(super) async fn fill(
        self: &Arc<Self>,
        named: &Named,
        digest: &Digest,
    ) -> Result<Source, FillError> {
        loop {
            match self.look(named, digest)? {
                Place::Linked => return Ok(Source::Here),
                Place::Unlinked { size, key } => {
                    self.prove(named, digest).await?;
                    if self.adopt(named, digest, size, key).await? {
                        return Ok(Source::Here);
                    }
                }
                Place::Coming(fill) => {
                    if fill.is_for(&named.local) {
                        return Ok(Source::Coming(fill));
                    }
                    self.prove(named, digest).await?;
                    if fill.add(&named.local) {
                        return Ok(Source::Coming(fill));
                    }
                    // It is being given to its repositories right now.
                    fill.ended().await;
                }
            }
        }
    }

    /// Where a blob is now; its fill begins if it is nowhere. Looking and beginning are one step: a
    /// fill leaves the list only after its blob was given to its repositories or its failure was
    /// noted, so that whoever looked before that does not fetch it again.
    fn look(self: &Arc<Self>, named: &Named, digest: &Digest) -> Result<Place, FillError> {
        let mut fills = self.fills.lock().unwrap_or_else(PoisonError::into_inner);
        self.negatives.check(&named.local, &digest.to_string())?;
        if let Some(fill) = fills.get(digest) {
            return Ok(Place::Coming(Arc::clone(fill)));
        }
        if let Some((size, key)) = self.present(digest)? {
            let linked = self.metadata.linked(&named.local, digest);
            return Ok(match linked.map_err(|error| lost(&error))? {
                Some(_) => Place::Linked,
                None => Place::Unlinked { size, key },
            });
        }
        let fill = Arc::new(Fill::new(*digest, &named.local));
        fills.insert(*digest, Arc::clone(&fill));
        let ending = Ending { proxy: Arc::clone(self), fill: Arc::clone(&fill) };
        let named = named.clone();
        self.tasks.spawn(async move { ending.run(named).await });
        Ok(Place::Coming(fill))
    }

    /// Size of a blob that is here for whatever reason, and its key if it is in the bucket.
    fn present(&self, digest: &Digest) -> Result<Option<(u64, Option<String>)>, FillError> {
        if self.bucket.is_none() {
            return Ok(self.store.size(digest).map(|size| (size, None)));
        }
        let row = self.metadata.blob(digest).map_err(|error| lost(&error))?;
        let live = row.filter(|row| row.state == BlobState::Live);
        Ok(live.map(|row| (row.size, Some(row.key))))
    }

    /// Gives a repository a blob that is here; `false` if it went meanwhile.
    async fn adopt(
        &self,
        named: &Named,
        digest: &Digest,
        size: u64,
        key: Option<String>,
    ) -> Result<bool, FillError> {
        let lease = if key.is_none() {
            let (store, wanted) = (self.store.clone(), *digest);
            let leased = tokio::task::spawn_blocking(move || {
                let lease = store.lease()?;
                Ok::<_, blob_store::DiskError>(lease.add(&wanted)?.then_some(lease))
            });
            match leased.await.map_err(died)?.map_err(|error| lost(&error))? {
                Some(lease) => Some(lease),
                None => return Ok(false),
            }
        } else {
            None
        };
        let (repository, digest) = (named.local.clone(), *digest);
        let blob = CachedBlob { repository, digest, size, key };
        let adopted = self.metadata.change(Change::CacheBlob(blob)).await;
        adopted.map_err(|error| lost(&error))?;
        drop(lease);
        Ok(true)
    }

    /// Receives a blob, to the store and whoever follows.
    async fn receive(&self, named: &Named, fill: &Arc<Fill>) -> Result<(), FillError> {
        let behind = self.behind(named);
        let mut opened = self.open(behind, named, &fill.digest, 0).await?;
        let size = opened.size;
        if opened.from != 0 || size.is_some_and(|size| BLOB_BYTES_MAX < size) {
            let reason = format!("blob {} begins or ends where it must not", fill.digest);
            return Err(UpstreamError::Malformed { reason }.into());
        }
        let (store, for_writer) = (self.store.clone(), Arc::clone(fill));
        let (sender, mut received) = pieces();
        let writer = tokio::task::spawn_blocking(move || {
            for_writer.open(&store, size)?.write_all(&mut received)
        });
        let sent = self.pump(behind, named, fill, &mut opened, size, &sender).await;
        drop(sender);
        // The writer's error is the cause of a failed send, not the other way round.
        let written = writer.await.map_err(died)??;
        sent?;
        let size = match &self.bucket {
            None => self.commit(behind, named, fill, written).await?,
            Some(bucket) => self.commit_to(bucket, behind, named, fill, written).await?,
        };
        if self.bytes_max.is_some_and(|max| {
            max < self.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size)
        }) {
            self.sweep.notify_one();
        }
        tracing::info!(digest = %fill.digest, size, repository = %named.local, "blob cached");
        Ok(())
    }

    /// Keeps a blob in the store; its size.
    async fn commit(
        &self,
        behind: &Behind,
        named: &Named,
        fill: &Fill,
        written: Writer,
    ) -> Result<u64, FillError> {
        let store = self.store.clone();
        let committed = tokio::task::spawn_blocking(move || written.commit(&store));
        let (size, lease) = self.judge(behind, named, fill, committed.await.map_err(died)?)?;
        for repository in fill.close() {
            self.keep_blob(repository, fill.digest, size, None).await;
        }
        drop(lease);
        Ok(size)
    }

    /// Keeps a blob in the bucket; its size.
    async fn commit_to(
        &self,
        bucket: &BucketBytes,
        behind: &Behind,
        named: &Named,
        fill: &Fill,
        written: Writer,
    ) -> Result<u64, FillError> {
        let verified = tokio::task::spawn_blocking(move || written.verify());
        let (size, staged) = self.judge(behind, named, fill, verified.await.map_err(died)?)?;
        let file = fill.opened().await?.file();
        let key = match bucket.store_file(&file, size).await {
            Ok(key) => key,
            Err(error) => {
                // The bytes are right and go to the client; they are only not kept.
                tracing::warn!(%error, digest = %fill.digest, "a blob is not cached");
                fill.close();
                return Ok(size);
            }
        };
        drop(staged);
        for repository in fill.close() {
            // Another replica may have filled it as well: one object stays.
            let reply = self.keep_blob(repository, fill.digest, size, Some(key.clone())).await;
            if let Some(Reply::Duplicate { .. }) = reply {
                bucket.discard(&key).await;
            }
        }
        Ok(size)
    }

    fn judge<T>(
        &self,
        behind: &Behind,
        named: &Named,
        fill: &Fill,
        result: Result<T, IngestError>,
    ) -> Result<T, FillError> {
        if let Err(IngestError::DigestMismatch { .. }) = &result {
            behind.suspect(&format!("blob {} of {}", fill.digest, named.remote));
        }
        Ok(result?)
    }

    async fn keep_blob(
        &self,
        repository: Repository,
        digest: Digest,
        size: u64,
        key: Option<String>,
    ) -> Option<Reply> {
        let change = Change::CacheBlob(CachedBlob { repository, digest, size, key });
        match self.metadata.submit(change, Stamp::system()).await {
            Ok(reply) => Some(reply),
            Err(error) => {
                // The bytes are right and go to the client; they are only not kept.
                tracing::warn!(%error, %digest, "a blob is not cached");
                None
            }
        }
    }

    fn open<'a>(
        &'a self,
        behind: &'a Behind,
        named: &'a Named,
        digest: &'a Digest,
        from: u64,
    ) -> impl Future<Output = Result<OpenedBlob, UpstreamError>> + Send + 'a {
        let remote = &named.remote;
        behind.ask_plain(move |upstream, credential| {
            upstream.open_blob(credential, remote, digest, from)
        })
    }

    /// Moves all bytes of a blob, over as many connections as that takes.
    async fn pump(
        &self,
        behind: &Behind,
        named: &Named,
        fill: &Fill,
        opened: &mut OpenedBlob,
        size: Option<u64>,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), FillError> {
        let (mut got, mut breaks) = (0, 0);
        loop {
            let before = got;
            // What a registry that does not resume sends again is not needed again.
            let mut skip = got - opened.from.min(got);
            let broken = loop {
                match next_piece(&mut *opened.pieces).await {
                    Ok(Some(mut piece)) => {
                        Counts::add(&behind.health.counts.bytes, piece.len() as u64);
                        let skipped = skip.min(piece.len() as u64);
                        skip -= skipped;
                        let _ = piece.split_to(usize::try_from(skipped).unwrap_or(piece.len()));
                        got += piece.len() as u64;
                        if size.unwrap_or(BLOB_BYTES_MAX) < got {
                            let reason = format!("blob {} is larger than it said", fill.digest);
                            return Err(UpstreamError::Malformed { reason }.into());
                        }
                        // A writer that is gone has the better error.
                        if !piece.is_empty() && sender.send(piece).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) if size.is_none_or(|size| size == got) => return Ok(()),
                    Ok(None) => {
                        break UpstreamError::Unavailable { reason: "it broke off".to_owned() };
                    }
                    Err(error) => break error,
                }
            };
            // Whoever makes progress may go on; only breaks without any count.
            breaks = if before < got { 1 } else { breaks + 1 };
            *opened = loop {
                if BREAKS_MAX < breaks {
                    return Err(broken.into());
                }
                tracing::debug!(digest = %fill.digest, got, %broken, "a fill goes on after a break");
                tokio::time::sleep(BREAK_PAUSE * (1 << (breaks - 1).min(6))).await;
                match self.open(behind, named, &fill.digest, got).await {
                    Ok(opened) if opened.from <= got => break opened,
                    Ok(_) => {
                        let reason = format!("blob {}: another part came", fill.digest);
                        return Err(UpstreamError::Malformed { reason }.into());
                    }
                    Err(UpstreamError::Unavailable { .. }) => breaks += 1,
                    Err(error) => return Err(error.into()),
                }
            };
        }
    }
}

fn lost(error: &dyn std::fmt::Display) -> FillError {
    FillError::Store { reason: error.to_string() }
}

fn died(error: tokio::task::JoinError) -> FillError {
    lost(&error)
}

async fn next_piece(pieces: &mut dyn BlobPieces) -> Result<Option<Bytes>, UpstreamError> {
    match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
        Ok(piece) => piece,
        Err(_) => Err(UpstreamError::Unavailable { reason: "it fell silent".to_owned() }),
    }
}

/// Ends a fill in any case, also if its task dies.
struct Ending {
    proxy: Arc<Proxy>,
    fill: Arc<Fill>,
}

impl Ending {
    async fn run(self, named: Named) {
        let end = self.proxy.receive(&named, &self.fill).await;
        if let Err(error) = &end {
            tracing::warn!(digest = %self.fill.digest, %error, "a blob did not come");
            let noted = match error {
                FillError::Upstream(error) => error.clone(),
                FillError::Mismatch { reason } => {
                    UpstreamError::Malformed { reason: reason.clone() }
                }
                FillError::NoSpace | FillError::Store { .. } => {
                    UpstreamError::Unavailable { reason: String::new() }
                }
            };
            self.proxy.negatives.note(&named.local, &self.fill.digest.to_string(), &noted);
        }
        self.remove();
        self.fill.end(end);
    }

    /// Whoever comes from now on begins anew.
    fn remove(&self) {
        self.fill.close();
        let mut fills = self.proxy.fills.lock().unwrap_or_else(PoisonError::into_inner);
        if fills.get(&self.fill.digest).is_some_and(|now| Arc::ptr_eq(now, &self.fill)) {
            fills.remove(&self.fill.digest);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.remove();
        self.fill.end(Err(FillError::Store { reason: "its task died".to_owned() }));
    }
}
