//! Uploads: POST, PATCH, PUT, GET, DELETE (distribution-spec end-4 to end-6, end-11, end-13,
//! end-14).

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use blob_store::{BlobStore, UploadError, UploadId};
use http::{HeaderName, StatusCode, header};
use oci_model::{Algorithm, Digest, ErrorCode, Repository};

use crate::auth::Role;
use crate::body::RequestBody;
use crate::bytes::{BlobBytes, NewObject, Received, Source, Then};
use crate::manifests::DIGEST_HEADER;
use crate::metadata::{AddBlob, Change, ChangeError, Reply, StoredLink};
use crate::range;
use crate::refusal::Refusal;
use crate::route;
use crate::service::{Answer, Call, blocking, empty, header_value};

/// How long a request waits for another one of the same upload.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Repositories looked through for a blob that is to be mounted from anywhere.
const MOUNT_SOURCES_MAX: usize = 1000;

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
        let received = call.service.bytes.receive(source, body, Then::Commit(digest)).await?;
        link(call, digest, received).await?;
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
    let label = label(&call.repository, call.principal.name());
    let id = call.service.bytes.begin(label, algorithm).await?;
    Ok(accepted(call, StatusCode::ACCEPTED, id, 0))
}

/// Adds a chunk or a stream.
pub(crate) async fn append(call: &Call<'_>, id: &str, body: &mut RequestBody) -> Answer {
    let id = parse_id(id)?;
    let source = resumable(call, id).await?;
    let received = call.service.bytes.receive(source, body, Then::Keep).await?;
    // A body without a length may end elsewhere than its range; what came counts.
    let end = call.header(header::CONTENT_RANGE).and_then(range::chunk).map(|(_, last)| last + 1);
    if end.is_some_and(|end| end != received.size) {
        return Err(Refusal::new(ErrorCode::SizeInvalid, "the chunk is not as long as its range")
            .with_header(header::LOCATION, location(call, id))
            .with_header(header::RANGE, self::received(received.size)));
    }
    Ok(accepted(call, StatusCode::ACCEPTED, id, received.size))
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
    let finished = async {
        let source = resumable(call, id).await?;
        let received = call.service.bytes.receive(source, body, Then::Commit(digest)).await?;
        link(call, digest, received).await
    };
    match finished.await {
        Ok(()) => Ok(created(call, &digest)),
        // The answer to the same request got lost: the upload is over, the blob is there.
        Err(refusal) if refusal.is_unknown_upload() && is_there(call, &digest).await? => {
            Ok(created(call, &digest))
        }
        Err(refusal) => Err(refusal),
    }
}

/// Whether the repository shows the blob.
async fn is_there(call: &Call<'_>, digest: &Digest) -> Result<bool, Refusal> {
    // Perhaps it was another replica that finished it.
    call.service.metadata.current().await?;
    Ok(call.service.metadata.linked(&call.repository, digest)?.is_some())
}

/// How far an upload is.
pub(crate) async fn status(call: &Call<'_>, id: &str) -> Answer {
    let id = parse_id(id)?;
    let status = call.service.bytes.status(id).await?;
    check_owner(call, id, &status.label)?;
    let mut response = accepted(call, StatusCode::NO_CONTENT, id, status.size);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

/// Ends an upload without a blob.
pub(crate) async fn cancel(call: &Call<'_>, id: &str) -> Answer {
    let id = parse_id(id)?;
    let source = resumable(call, id).await?;
    call.service.bytes.cancel(source).await?;
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

/// The upload of the request, if it is the caller's, when its turn has come.
async fn resumable(call: &Call<'_>, id: UploadId) -> Result<Source, Refusal> {
    if let BlobBytes::Local(_) = &call.service.bytes {
        // First: hashing an upload of somebody else again would be work for a stranger.
        check_owner(call, id, &call.service.bytes.status(id).await?.label)?;
    }
    let turn = take_turn(call, id).await?;
    let chunk = Chunk {
        content_range: call.header(header::CONTENT_RANGE).map(str::to_owned),
        content_length: call.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()),
        location: location(call, id),
    };
    let label = label(&call.repository, call.principal.name());
    Ok(Source::Known { id, label, chunk, turn })
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

pub(crate) fn unknown(id: &str) -> Refusal {
    Refusal::new(ErrorCode::BlobUploadUnknown, "upload unknown to the repository")
        .with_detail(serde_json::json!({ "id": id }))
}

/// Another request works on the upload.
pub(crate) fn busy(id: UploadId) -> Refusal {
    upload_refusal(UploadError::Busy { id })
}

pub(crate) fn upload_refusal(error: UploadError) -> Refusal {
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
pub(crate) struct Chunk {
    content_range: Option<String>,
    content_length: Option<u64>,
    location: http::HeaderValue,
}

impl Chunk {
    /// A chunk that says where it belongs must belong at the end of the `size` bytes so far.
    pub(crate) fn check(&self, size: u64) -> Result<(), Refusal> {
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
    match &call.service.bytes {
        BlobBytes::Local(store) => {
            if !hold(store, *digest, size).await? {
                return Ok(false);
            }
            link(call, *digest, Received { size, object: None }).await?;
        }
        BlobBytes::Bucket(_) => {
            let change = Change::MountBlob(call.repository.clone(), *digest);
            match metadata.submit(change, call.stamp()).await {
                Ok(_) => {}
                Err(ChangeError::Missing(_)) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(true)
}

/// Whether the store has the blob; if so it is kept for a while.
async fn hold(store: &BlobStore, digest: Digest, size: u64) -> Result<bool, Refusal> {
    let store = store.clone();
    blocking(move || Ok(store.touch(&digest)? && store.size(&digest) == Some(size)))
        .await?
        .map_err(|error: blob_store::DiskError| Refusal::internal(&error))
}

/// Lets the repository show a blob that came in.
async fn link(call: &Call<'_>, digest: Digest, received: Received) -> Result<(), Refusal> {
    let (repository, metadata) = (call.repository.clone(), &call.service.metadata);
    let Received { size, object } = received;
    let (BlobBytes::Bucket(bucket), Some(NewObject { id, key })) = (&call.service.bytes, object)
    else {
        return Ok(metadata.link(StoredLink { repository, digest, size })?);
    };
    let change = Change::AddBlob(AddBlob { repository, digest, size, key: key.clone() });
    if let Reply::Duplicate { .. } = metadata.submit(change, call.stamp()).await? {
        // Somebody else uploaded the same blob before.
        bucket.discard(&key).await;
    }
    bucket.forget(id);
    Ok(())
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
    headers.insert(HeaderName::from_static("docker-upload-uuid"), header_value(&id.to_string()));
    response
}

fn location(call: &Call<'_>, id: UploadId) -> http::HeaderValue {
    header_value(&format!("/v2/{}/blobs/uploads/{id}", call.repository))
}

/// What has been received, as `0-<last byte>`; clients take `0-0` for nothing.
fn received(size: u64) -> http::HeaderValue {
    header_value(&format!("0-{}", size.saturating_sub(1)))
}
