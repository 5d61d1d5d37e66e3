//! Uploads: POST, PATCH, PUT, GET, DELETE (distribution-spec end-4 to end-6, end-11, end-13,
//! end-14).

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use blob_store::{BlobStore, Upload, UploadError, UploadId, UploadStatus};
use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use hyper::body::Incoming;
use oci_model::{Algorithm, Digest, ErrorCode, Repository};

use crate::auth::Role;
use crate::body::next_piece;
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
pub(crate) async fn begin(call: &Call<'_>, body: &mut Incoming) -> Answer {
    if let Some(digest) = call.query.get("mount") {
        let digest = route::digest(digest)?;
        if mount(call, &digest).await? {
            return Ok(created(call, &digest));
        }
        // Whatever the reason, the client goes on with an upload: saying more would tell whether
        // somebody else has the blob.
    } else if let Some(digest) = call.query.get("digest") {
        let digest = route::digest(digest)?;
        let upload = open(call, digest.algorithm()).await?;
        let id = upload.id();
        let result = receive(upload, body, Then::Commit(digest)).await;
        if result.is_err() {
            // Nobody knows its id.
            let store = call.service.store.clone();
            blocking(move || store.resume_upload(id).map(Upload::cancel).ok()).await?;
        }
        let size = result?;
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
pub(crate) async fn append(call: &Call<'_>, id: &str, body: &mut Incoming) -> Answer {
    let id = parse_id(id)?;
    let _turn = take_turn(call, id).await?;
    let upload = resume(call, id).await?;
    check_chunk(call, &upload)?;
    let size = receive(upload, body, Then::Keep).await?;
    Ok(accepted(call, StatusCode::ACCEPTED, id, size))
}

/// Ends an upload, with the last chunk or without.
pub(crate) async fn finish(call: &Call<'_>, id: &str, body: &mut Incoming) -> Answer {
    let id = parse_id(id)?;
    let digest = match call.query.get("digest") {
        Some(digest) => route::digest(digest)?,
        None => {
            return Err(Refusal::new(ErrorCode::DigestInvalid, "the digest parameter is missing"));
        }
    };
    let _turn = take_turn(call, id).await?;
    let upload = resume(call, id).await?;
    check_chunk(call, &upload)?;
    let size = receive(upload, body, Then::Commit(digest)).await?;
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
    let _turn = take_turn(call, id).await?;
    let upload = resume(call, id).await?;
    blocking(move || upload.cancel()).await?.map_err(|error| Refusal::internal(&error))?;
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

async fn open(call: &Call<'_>, algorithm: Algorithm) -> Result<Upload, Refusal> {
    let store = call.service.store.clone();
    let label = label(&call.repository, call.principal.name());
    blocking(move || store.begin_upload(&label, algorithm)).await?.map_err(upload_refusal)
}

async fn resume(call: &Call<'_>, id: UploadId) -> Result<Upload, Refusal> {
    let store = call.service.store.clone();
    // The label first: hashing an upload of somebody else again would be work for a stranger.
    let UploadStatus { label, .. } = store.upload_status(id).map_err(upload_refusal)?;
    check_owner(call, id, &label)?;
    blocking(move || store.resume_upload(id)).await?.map_err(upload_refusal)
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

/// A chunk that says where it belongs must belong at the end.
fn check_chunk(call: &Call<'_>, upload: &Upload) -> Result<(), Refusal> {
    let Some(content_range) = call.header(header::CONTENT_RANGE) else { return Ok(()) };
    let size = upload.size();
    let misplaced = |text: String| {
        Refusal::new(ErrorCode::RangeInvalid, text)
            .with_header(header::LOCATION, location(call, upload.id()))
            .with_header(header::RANGE, received(size))
    };
    let Some((first, last)) = range::chunk(content_range) else {
        return Err(misplaced(format!("{content_range:?} is not of the form <first>-<last>")));
    };
    if first != size {
        return Err(misplaced(format!("the upload has {size} bytes, the chunk begins at {first}")));
    }
    let length = call.header(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if length.is_some_and(|length| length != last - first + 1) {
        let text = "Content-Length and Content-Range disagree";
        return Err(Refusal::new(ErrorCode::SizeInvalid, text));
    }
    Ok(())
}

/// Takes in the body; returns the size of the upload afterwards. Of a body that breaks off, what
/// came stays.
async fn receive(mut upload: Upload, body: &mut Incoming, then: Then) -> Result<u64, Refusal> {
    let mut first = Vec::new();
    let mut gathered = 0;
    let mut ended = false;
    while gathered < GATHER_BYTES {
        let Some(piece) = next_piece(body).await? else {
            ended = true;
            break;
        };
        gathered += piece.len();
        first.push(piece);
    }
    if ended {
        // The common case: one visit to a blocking thread.
        return blocking(move || {
            append_all(&mut upload, &first)?;
            end(upload, &then)
        })
        .await?;
    }
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(PIECES_QUEUED_MAX);
    let writer = tokio::task::spawn_blocking(move || -> Result<Upload, Refusal> {
        append_all(&mut upload, &first)?;
        drop(first);
        while let Some(piece) = receiver.blocking_recv() {
            upload.append(&piece)?;
        }
        Ok(upload)
    });
    let mut broken = None;
    loop {
        match next_piece(body).await {
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
    let upload = writer.await.map_err(|error| Refusal::internal(&error))??;
    match broken {
        Some(refusal) => Err(refusal),
        None => blocking(move || end(upload, &then)).await?,
    }
}

fn append_all(upload: &mut Upload, pieces: &[Bytes]) -> Result<(), Refusal> {
    for piece in pieces {
        upload.append(piece)?;
    }
    Ok(())
}

fn end(upload: Upload, then: &Then) -> Result<u64, Refusal> {
    let size = upload.size();
    match then {
        Then::Keep => Ok(size),
        Then::Commit(digest) => {
            upload.commit_deferred(digest)?;
            Ok(size)
        }
    }
}

/// Mounts the blob if the caller may read it somewhere; says whether it did.
async fn mount(call: &Call<'_>, digest: &Digest) -> Result<bool, Refusal> {
    let metadata = &call.service.metadata;
    let authority = &call.service.authority;
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
