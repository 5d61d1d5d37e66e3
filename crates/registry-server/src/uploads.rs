//! Uploads: POST, PATCH, PUT, GET, DELETE (distribution-spec end-4 to end-6, end-11, end-13,
//! end-14).

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use blob_store::{BlobStore, IngestError, Upload, UploadError, UploadId, UploadStatus};
use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use oci_model::{Algorithm, Digest, ErrorCode, Repository};

use crate::auth::Role;
use crate::body::RequestBody;
use crate::manifests::DIGEST_HEADER;
use crate::metadata::StoredLink;
use crate::range;
use crate::refusal::Refusal;
use crate::route;
use crate::service::{Answer, Call, blocking, empty, header_value};

/// Bodies up to this size are handed to the disk in one go, in bytes.
const GATHER_BYTES: usize = 512 * 1024;

/// Pieces of a body that may wait for the disk.
const PIECES_QUEUED_MAX: usize = 2;

/// How long a request waits for another one of the same upload.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Repositories looked through for a blob that is to be mounted from anywhere.
const MOUNT_SOURCES_MAX: usize = 1000;

/// What happens to an upload after its last byte.
enum Then {
    /// It waits for more.
    Keep,
    /// It becomes this blob.
    Commit(Digest),
}

/// Mounts a blob, takes one in whole, or opens an upload.
pub(crate) async fn begin(call: &Call<'_>, body: &mut RequestBody) -> Answer {
    if let Some(digest) = call.query.get("mount") {
        let digest = route::digest(digest)?;
        if mount(call, &digest).await? {
            return Ok(created(call, &digest));
        }
        // Whatever the reason, the client goes on with an upload: saying more would tell whether
        // somebody else has the blob.
    } else if let Some(digest) = call.query.get("digest") {
        let digest = route::digest(digest)?;
        let label = label(&call.repository, call.principal.name());
        let source = Source::New { label, algorithm: digest.algorithm() };
        let size = receive(call, source, body, Then::Commit(digest)).await?;
        link(call, digest, size)?;
        return Ok(created(call, &digest));
    }
    let algorithm = match call.query.get("digest-algorithm") {
        None | Some("sha256") => Algorithm::Sha256,
        Some("sha384") => Algorithm::Sha384,
        Some("sha512") => Algorithm::Sha512,
        Some(other) => {
            let text = format!("{other:?} is not a supported digest algorithm");
            return Err(Refusal::new(ErrorCode::DigestInvalid, text));
        }
    };
    let upload = open(call, algorithm).await?;
    let mut response = accepted(call, StatusCode::ACCEPTED, upload.id(), 0);
    let name = HeaderName::from_static("docker-upload-uuid");
    response.headers_mut().insert(name, header_value(&upload.id().to_string()));
    Ok(response)
}

/// Adds a chunk or a stream.
pub(crate) async fn append(call: &Call<'_>, id: &str, body: &mut RequestBody) -> Answer {
    let id = parse_id(id)?;
    let source = resumable(call, id).await?;
    let size = receive(call, source, body, Then::Keep).await?;
    Ok(accepted(call, StatusCode::ACCEPTED, id, size))
}

/// Ends an upload, with the last chunk or without.
pub(crate) async fn finish(call: &Call<'_>, id: &str, body: &mut RequestBody) -> Answer {
    let id = parse_id(id)?;
    let digest = match call.query.get("digest") {
        Some(digest) => route::digest(digest)?,
        None => {
            return Err(Refusal::new(ErrorCode::DigestInvalid, "the digest parameter is missing"));
        }
    };
    let source = resumable(call, id).await?;
    let size = receive(call, source, body, Then::Commit(digest)).await?;
    link(call, digest, size)?;
    Ok(created(call, &digest))
}

/// How far an upload is.
pub(crate) fn status(call: &Call<'_>, id: &str) -> Answer {
    let id = parse_id(id)?;
    let status = call.service.store.upload_status(id).map_err(upload_refusal)?;
    check_owner(call, id, &status.label)?;
    let mut response = accepted(call, StatusCode::NO_CONTENT, id, status.size);
    let name = HeaderName::from_static("docker-upload-uuid");
    response.headers_mut().insert(name, header_value(&id.to_string()));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

/// Ends an upload without a blob.
pub(crate) async fn cancel(call: &Call<'_>, id: &str) -> Answer {
    let id = parse_id(id)?;
    let source = resumable(call, id).await?;
    let store = call.service.store.clone();
    blocking(move || {
        source.open(&store)?.upload.cancel().map_err(|error| Refusal::internal(&error))
    })
    .await??;
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

async fn open(call: &Call<'_>, algorithm: Algorithm) -> Result<Upload, Refusal> {
    let store = call.service.store.clone();
    let label = label(&call.repository, call.principal.name());
    blocking(move || store.begin_upload(&label, algorithm)).await?.map_err(upload_refusal)
}

/// The upload of the request, if it is the caller's, when its turn has come.
async fn resumable(call: &Call<'_>, id: UploadId) -> Result<Source, Refusal> {
    // The label first: hashing an upload of somebody else again would be work for a stranger.
    let check = || -> Result<(), Refusal> {
        let UploadStatus { label, .. } =
            call.service.store.upload_status(id).map_err(upload_refusal)?;
        check_owner(call, id, &label)
    };
    check()?;
    let turn = take_turn(call, id).await?;
    let chunk = Chunk {
        content_range: call.header(header::CONTENT_RANGE).map(str::to_owned),
        content_length: call.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()),
        location: location(call, id),
    };
    Ok(Source::Known { id, chunk, turn })
}

/// An upload to be opened on a blocking thread.
enum Source {
    /// One that begins and ends with this request.
    New { label: String, algorithm: Algorithm },
    /// One that goes on, with what the request says about its place.
    Known { id: UploadId, chunk: Chunk, turn: tokio::sync::OwnedMutexGuard<()> },
}

/// An open upload, and the turn that keeps other requests away from it until it is put down.
struct Held {
    upload: Upload,
    _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Source {
    fn open(self, store: &BlobStore) -> Result<Held, Refusal> {
        match self {
            Self::New { label, algorithm } => {
                let upload = store.begin_upload(&label, algorithm).map_err(upload_refusal)?;
                Ok(Held { upload, _turn: None })
            }
            Self::Known { id, chunk, turn } => {
                let upload = store.resume_upload(id).map_err(upload_refusal)?;
                chunk.check(upload.size())?;
                Ok(Held { upload, _turn: Some(turn) })
            }
        }
    }
}

/// What binds an upload to its repository and creator.
fn label(repository: &Repository, user: &str) -> String {
    format!("{repository}\n{user}")
}

fn check_owner(call: &Call<'_>, id: UploadId, found: &str) -> Result<(), Refusal> {
    if found == label(&call.repository, call.principal.name()) {
        Ok(())
    } else {
        Err(unknown(&id.to_string()))
    }
}

fn parse_id(id: &str) -> Result<UploadId, Refusal> {
    id.parse().map_err(|_| unknown(id))
}

fn unknown(id: &str) -> Refusal {
    Refusal::new(ErrorCode::BlobUploadUnknown, "upload unknown to the repository")
        .with_detail(serde_json::json!({ "id": id }))
}

fn upload_refusal(error: UploadError) -> Refusal {
    match error {
        UploadError::Unknown { id } => unknown(&id.to_string()),
        UploadError::Busy { .. } => Refusal::new(ErrorCode::BlobUploadInvalid, error.to_string())
            .with_status(StatusCode::CONFLICT),
        UploadError::Ingest(error) => error.into(),
    }
}

/// Waits until no other request works on the upload.
async fn take_turn(
    call: &Call<'_>,
    id: UploadId,
) -> Result<tokio::sync::OwnedMutexGuard<()>, Refusal> {
    let turn = {
        let mut locks = call.service.upload_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        match locks.get(&id).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(id, Arc::downgrade(&lock));
                lock
            }
        }
    };
    tokio::time::timeout(LOCK_WAIT_MAX, turn.lock_owned())
        .await
        .map_err(|_| upload_refusal(UploadError::Busy { id }))
}

/// What a request says about the place of its bytes.
struct Chunk {
    content_range: Option<String>,
    content_length: Option<u64>,
    location: http::HeaderValue,
}

impl Chunk {
    /// A chunk that says where it belongs must belong at the end of the `size` bytes so far.
    fn check(&self, size: u64) -> Result<(), Refusal> {
        let Some(content_range) = &self.content_range else { return Ok(()) };
        let misplaced = |text: String| {
            Refusal::new(ErrorCode::RangeInvalid, text)
                .with_header(header::LOCATION, self.location.clone())
                .with_header(header::RANGE, received(size))
        };
        let Some((first, last)) = range::chunk(content_range) else {
            return Err(misplaced(format!("{content_range:?} is not of the form <first>-<last>")));
        };
        if first != size {
            let text = format!("the upload has {size} bytes, the chunk begins at {first}");
            return Err(misplaced(text));
        }
        if self.content_length.is_some_and(|length| length != last - first + 1) {
            let text = "Content-Length and Content-Range disagree";
            return Err(Refusal::new(ErrorCode::SizeInvalid, text));
        }
        Ok(())
    }
}

/// Takes in the body; returns the size of the upload afterwards. Of a body that breaks off, what
/// came stays.
async fn receive(
    call: &Call<'_>,
    source: Source,
    body: &mut RequestBody,
    then: Then,
) -> Result<u64, Refusal> {
    let is_new = matches!(source, Source::New { .. });
    let mut first = Vec::new();
    let mut gathered = 0;
    let mut ended = false;
    let mut broken = None;
    while gathered < GATHER_BYTES && !ended {
        match body.next_piece().await {
            Ok(Some(piece)) => {
                gathered += piece.len();
                first.push(piece);
            }
            Ok(None) => ended = true,
            Err(refusal) => {
                broken = Some(refusal);
                break;
            }
        }
    }
    let store = call.service.store.clone();
    if ended || broken.is_some() {
        // The common case: one visit to a blocking thread.
        return blocking(move || {
            let held =
                first.iter().try_fold(source.open(&store)?, |held, piece| write(held, piece))?;
            match broken {
                None => end(held, &then),
                // Nobody knows the id of an upload that lives for one request.
                Some(refusal) if is_new => give_up(held, refusal),
                Some(refusal) => Err(refusal),
            }
        })
        .await?;
    }
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(PIECES_QUEUED_MAX);
    // Should the request end early, the writer still takes what was sent and puts the upload down.
    let writer = tokio::task::spawn_blocking(move || -> Result<Held, Refusal> {
        let mut held = source.open(&store)?;
        for piece in first {
            held = write(held, &piece)?;
        }
        while let Some(piece) = receiver.blocking_recv() {
            held = write(held, &piece)?;
        }
        Ok(held)
    });
    loop {
        match body.next_piece().await {
            Ok(None) => break,
            // The writer hung up: it has the error.
            Ok(Some(piece)) => {
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Err(refusal) => {
                broken = Some(refusal);
                break;
            }
        }
    }
    drop(sender);
    let held = writer.await.map_err(|error| Refusal::internal(&error))??;
    blocking(move || match broken {
        None => end(held, &then),
        Some(refusal) if is_new => give_up(held, refusal),
        Some(refusal) => Err(refusal),
    })
    .await?
}

/// Ends an upload without a blob and passes the reason on.
fn give_up<T>(held: Held, refusal: Refusal) -> Result<T, Refusal> {
    if let Err(error) = held.upload.cancel() {
        tracing::warn!(%error, "an upload stays until it expires");
    }
    Err(refusal)
}

/// Adds a piece. When the disk is full the upload goes: what it holds is needed elsewhere, and
/// clients begin again.
fn write(mut held: Held, piece: &[u8]) -> Result<Held, Refusal> {
    match held.upload.append(piece) {
        Ok(()) => Ok(held),
        Err(error @ IngestError::NoSpace { .. }) => give_up(held, error.into()),
        Err(error) => Err(error.into()),
    }
}

fn end(held: Held, then: &Then) -> Result<u64, Refusal> {
    let size = held.upload.size();
    match then {
        Then::Keep => Ok(size),
        Then::Commit(digest) => {
            held.upload.commit_deferred(digest)?;
            Ok(size)
        }
    }
}

/// The repository that a blob is to be mounted from, if one is named.
pub(crate) fn mount_source(query: &route::Query) -> Option<Repository> {
    query.get("mount")?;
    Repository::new(query.get("from")?).ok()
}

/// Mounts the blob if the caller may read it somewhere; says whether it did.
async fn mount(call: &Call<'_>, digest: &Digest) -> Result<bool, Refusal> {
    let metadata = &call.service.metadata;
    let authority = call.service.authority.now();
    let mut size = metadata.linked(&call.repository, digest)?;
    match call.query.get("from") {
        _ if size.is_some() => {}
        Some(from) => {
            let Ok(from) = Repository::new(from) else { return Ok(false) };
            if authority.allows(&call.principal, &from, Role::Pull) {
                size = metadata.linked(&from, digest)?;
            }
        }
        None => {
            let readable = metadata
                .holders(digest, MOUNT_SOURCES_MAX)?
                .into_iter()
                .find(|name| authority.allows(&call.principal, name, Role::Pull));
            if let Some(source) = readable {
                size = metadata.linked(&source, digest)?;
            }
        }
    }
    let Some(size) = size else { return Ok(false) };
    if !hold(&call.service.store, *digest, size).await? {
        return Ok(false);
    }
    link(call, *digest, size)?;
    Ok(true)
}

/// Whether the store has the blob; if so it is kept for a while.
async fn hold(store: &BlobStore, digest: Digest, size: u64) -> Result<bool, Refusal> {
    let store = store.clone();
    blocking(move || Ok(store.touch(&digest)? && store.size(&digest) == Some(size)))
        .await?
        .map_err(|error: blob_store::DiskError| Refusal::internal(&error))
}

fn link(call: &Call<'_>, digest: Digest, size: u64) -> Result<(), Refusal> {
    let repository = call.repository.clone();
    Ok(call.service.metadata.link(StoredLink { repository, digest, size })?)
}

fn created(call: &Call<'_>, digest: &Digest) -> http::Response<crate::body::Body> {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    let location = format!("/v2/{}/blobs/{digest}", call.repository);
    headers.insert(header::LOCATION, header_value(&location));
    headers.insert(DIGEST_HEADER, header_value(&digest.to_string()));
    response
}

fn accepted(
    call: &Call<'_>,
    status: StatusCode,
    id: UploadId,
    size: u64,
) -> http::Response<crate::body::Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location(call, id));
    headers.insert(header::RANGE, received(size));
    response
}

fn location(call: &Call<'_>, id: UploadId) -> http::HeaderValue {
    header_value(&format!("/v2/{}/blobs/uploads/{id}", call.repository))
}

/// What has been received, as `0-<last byte>`; clients take `0-0` for nothing.
fn received(size: u64) -> http::HeaderValue {
    header_value(&format!("0-{}", size.saturating_sub(1)))
}
