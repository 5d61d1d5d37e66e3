//! Uploads in a bucket: any replica begins, goes on, finishes, cancels.

use std::sync::Arc;
use std::time::Duration;

use blob_store::{UploadId, UploadStatus};
use bytes::Bytes;
use oci_model::{Algorithm, Digest, ErrorCode, Hasher};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::bucket::{Bucket, BucketError};
use super::options::{BucketOptions, RedirectOptions, UploadExpiry};
use super::session::{Becoming, Session, blob_key};
use super::writer::{TURN_MAX, Writer};
use super::{NewObject, Received, Source, Then};
use crate::body::RequestBody;
use crate::refusal::Refusal;
use crate::uploads;

/// Parts that all uploads together have on their way, so that memory is bounded whatever
/// clients do.
const PARTS_MAX: usize = 32;

/// Pieces of a body that may wait for the bucket.
const PIECES_QUEUED_MAX: usize = 8;

/// How long a request waits for the turn of another replica; longer than a dead one keeps it.
const TURN_WAIT_MAX: Duration = Duration::from_secs(12);

/// The turn of an upload that is being removed: nobody takes it over.
const ENDED: &str = "ended";

/// Pause between looks at the turn.
const TURN_PAUSE: Duration = Duration::from_millis(250);

/// Blobs in a bucket; clones share the limits.
#[derive(Clone)]
pub(crate) struct BucketBytes {
    bucket: Bucket,
    redirect: Option<RedirectOptions>,
    pub(super) expiry: UploadExpiry,
    parts: Arc<Semaphore>,
    /// Stretches that large downloads may have in memory.
    pub(super) stretches: Arc<Semaphore>,
}

/// Bytes of a file that are in memory and stored at once.
const FILE_PART_BYTES: u64 = 32 * 1024 * 1024;

async fn read_part(
    file: &Arc<std::fs::File>,
    at: u64,
    size: u64,
    key: &str,
) -> Result<Bytes, BucketError> {
    use std::os::unix::fs::FileExt as _;
    let file = Arc::clone(file);
    let read = move || {
        let mut part = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut part, at).map(|()| Bytes::from(part))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).flatten();
    read.map_err(|error| {
        let source = object_store::Error::Generic { store: "file", source: Box::new(error) };
        BucketError::Failed { key: key.to_owned(), source: Box::new(source) }
    })
}

/// What the request sends to the task that writes.
enum Fed {
    Piece(Bytes),
    /// The body is whole.
    End,
}

impl BucketBytes {
    pub(crate) fn new(bucket: Bucket, options: &BucketOptions) -> Self {
        Self {
            bucket,
            redirect: options.redirect.clone(),
            expiry: options.expiry,
            parts: Arc::new(Semaphore::new(PARTS_MAX)),
            stretches: Arc::new(Semaphore::new(super::download::STRETCHES_MAX)),
        }
    }

    pub(crate) const fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Who reads from the bucket directly.
    pub(crate) const fn redirect(&self) -> Option<&RedirectOptions> {
        self.redirect.as_ref()
    }

    /// The right to have one more part in memory.
    pub(super) async fn part_permit(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        Arc::clone(&self.parts).acquire_owned().await.ok()
    }

    pub(super) async fn begin(
        &self,
        label: String,
        algorithm: Algorithm,
    ) -> Result<UploadId, Refusal> {
        let mut session = Session::new(new_id()?, label, algorithm);
        session.save(&self.bucket).await?;
        Ok(session.id)
    }

    pub(super) async fn status(&self, id: UploadId) -> Result<UploadStatus, Refusal> {
        let session = self.load(id).await?;
        Ok(UploadStatus { size: session.size(), label: session.record.label })
    }

    async fn load(&self, id: UploadId) -> Result<Session, Refusal> {
        let found = Session::load(&self.bucket, id).await?;
        let found = found.filter(|session| session.record.turn.as_deref() != Some(ENDED));
        found.ok_or_else(|| uploads::unknown(&id.to_string()))
    }

    /// The upload, once no other replica adds parts to it.
    async fn load_in_turn(&self, id: UploadId, label: &str) -> Result<Session, Refusal> {
        let started = Instant::now();
        let mut session = self.load(id).await?;
        if session.record.label != label {
            return Err(uploads::unknown(&id.to_string()));
        }
        let mut unchanged_since = started;
        while session.record.turn.is_some() && unchanged_since.elapsed() < TURN_MAX {
            if started.elapsed() > TURN_WAIT_MAX {
                return Err(uploads::busy(id));
            }
            tokio::time::sleep(TURN_PAUSE).await;
            let now = self.load(id).await?;
            if !now.is_as(&session) {
                unchanged_since = Instant::now();
            }
            session = now;
        }
        Ok(session)
    }

    pub(super) async fn receive(
        &self,
        source: Source,
        body: &mut RequestBody,
        then: Then,
    ) -> Result<Received, Refusal> {
        let (sender, receiver) = mpsc::channel(PIECES_QUEUED_MAX);
        // Should the request end early, the task still puts the upload down.
        let writing = tokio::spawn(self.clone().write(source, receiver, then));
        let mut broken = None;
        loop {
            let fed = match body.next_piece().await {
                Ok(Some(piece)) => Fed::Piece(piece),
                Ok(None) => Fed::End,
                Err(refusal) => {
                    broken = Some(refusal);
                    break;
                }
            };
            let is_end = matches!(fed, Fed::End);
            // Whoever does not listen any more has the reason.
            if sender.send(fed).await.is_err() || is_end {
                break;
            }
        }
        drop(sender);
        let written = writing.await.map_err(|error| Refusal::internal(&error))?;
        match broken {
            Some(refusal) => Err(refusal),
            None => written,
        }
    }

    async fn write(
        self,
        source: Source,
        mut pieces: mpsc::Receiver<Fed>,
        then: Then,
    ) -> Result<Received, Refusal> {
        let is_new = matches!(source, Source::New { .. });
        let (session, _turn) = match source {
            Source::New { label, algorithm } => (Session::new(new_id()?, label, algorithm), None),
            Source::Known { id, label, chunk, turn } => {
                let session = self.load_in_turn(id, &label).await?;
                if let Some(becoming) = session.record.becoming {
                    return self.become_again(session, becoming, then, &chunk).await;
                }
                chunk.check(session.size())?;
                (session, Some(turn))
            }
        };
        let mut writer = Writer::new(self.clone(), session)?;
        let taken = loop {
            let fed = match writer.while_beating(pieces.recv()).await {
                Ok(fed) => fed,
                Err(refusal) => break Err(refusal),
            };
            match fed {
                Some(Fed::Piece(piece)) => {
                    if let Err(refusal) = writer.push(&piece).await {
                        break Err(refusal);
                    }
                }
                Some(Fed::End) => break Ok(true),
                None => break Ok(false),
            }
        };
        let ended = match taken {
            Ok(ended) => ended,
            Err(refusal) => {
                writer.fall_back().await;
                return Err(refusal);
            }
        };
        if !ended && is_new {
            // Nobody knows the id of an upload that lives for one request.
            self.drop_upload(&writer.session).await;
            return Err(uploads::unknown(&writer.session.id.to_string()));
        }
        match then {
            Then::Commit(digest) if ended => self.commit(writer, digest).await,
            Then::Commit(_) | Then::Keep => {
                writer.put_down().await?;
                Ok(Received { size: writer.session.size(), object: None })
            }
        }
    }

    /// Makes the upload a blob.
    async fn commit(&self, mut writer: Writer, digest: Digest) -> Result<Received, Refusal> {
        if writer.session.record.attempt.is_none() {
            return self.commit_whole(writer, digest).await;
        }
        let committed = async {
            if !writer.buffer.is_empty() {
                writer.cut(writer.buffer.len()).await?;
            }
            writer.await_parts().await
        };
        if let Err(refusal) = committed.await {
            writer.fall_back().await;
            return Err(refusal);
        }
        let verified = writer.hasher.algorithm() == digest.algorithm();
        if verified {
            let actual = writer.hasher.clone().finish();
            if actual != digest {
                self.drop_upload(&writer.session).await;
                return Err(mismatch(&digest, &actual));
            }
        }
        let becoming = Becoming { digest, verified };
        writer.session.record.becoming = Some(becoming);
        writer.put_down().await?;
        self.join(&writer.session, becoming).await
    }

    /// A blob that fits into memory is one object at once.
    async fn commit_whole(&self, writer: Writer, digest: Digest) -> Result<Received, Refusal> {
        let (mut session, bytes) = (writer.session, writer.buffer.freeze());
        let mut hasher = Hasher::new(digest.algorithm());
        let hashed = bytes.clone();
        let actual = tokio::task::spawn_blocking(move || {
            hasher.update(&hashed);
            hasher.finish()
        })
        .await
        .map_err(|error| Refusal::internal(&error))?;
        if actual != digest {
            self.drop_upload(&session).await;
            return Err(mismatch(&digest, &actual));
        }
        let (size, key) = (bytes.len() as u64, blob_key(session.id));
        match self.bucket.create(&key, bytes).await {
            Ok(_) => {}
            // An earlier attempt of this request, or its answer was lost. An object is never
            // written twice: it may be a blob already.
            Err(BucketError::Exists { .. }) => {
                let (found, _) = self.bucket.get(&key).await?;
                let mut hasher = Hasher::new(digest.algorithm());
                hasher.update(&found);
                if hasher.finish() != digest {
                    return Err(uploads::busy(session.id));
                }
                // However old the object is, expiry sees that the upload goes on.
                self.renew(&mut session).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Received { size, object: Some(NewObject { id: session.id, key }) })
    }

    /// The last step of an upload in parts; it may be done again after it was done.
    async fn join(&self, session: &Session, becoming: Becoming) -> Result<Received, Refusal> {
        let Becoming { digest, verified } = becoming;
        let (key, size) = (blob_key(session.id), session.size());
        let attempt = session.record.attempt.as_deref().unwrap_or_default();
        let parts: Vec<String> = session.record.parts.iter().map(|part| part.id.clone()).collect();
        match self.bucket.join_parts(&key, attempt, &parts).await {
            Ok(()) => {}
            Err(error) => {
                // Whoever did it before left the object; then the attempt is unknown.
                match self.bucket.size(&key).await {
                    Ok(found) if found == size => {}
                    Ok(_) | Err(BucketError::Missing { .. }) => return Err(error.into()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !verified {
            let actual = self.hash(&key, size, digest.algorithm()).await?;
            if actual != digest {
                self.discard(&key).await;
                self.drop_upload(session).await;
                return Err(mismatch(&digest, &actual));
            }
        }
        Ok(Received { size, object: Some(NewObject { id: session.id, key }) })
    }

    /// A request for an upload that is becoming a blob: the same PUT again, or a mistake.
    async fn become_again(
        &self,
        mut session: Session,
        becoming: Becoming,
        then: Then,
        chunk: &uploads::Chunk,
    ) -> Result<Received, Refusal> {
        match then {
            Then::Commit(digest) if digest == becoming.digest => {
                self.renew(&mut session).await?;
                self.join(&session, becoming).await
            }
            Then::Commit(digest) => Err(mismatch(&digest, &becoming.digest)),
            Then::Keep => {
                chunk.check(session.size())?;
                Err(uploads::busy(session.id))
            }
        }
    }

    async fn renew(&self, session: &mut Session) -> Result<(), Refusal> {
        session.save(&self.bucket).await.map_err(|error| match error {
            BucketError::Changed { .. } => uploads::busy(session.id),
            error => error.into(),
        })
    }

    async fn hash(&self, key: &str, size: u64, algorithm: Algorithm) -> Result<Digest, Refusal> {
        use futures_util::StreamExt as _;
        let (_, mut stream) = self.bucket.stream(key, 0..size).await?;
        let mut hasher = Hasher::new(algorithm);
        while let Some(piece) = stream.next().await {
            hasher.update(&piece.map_err(|error| Refusal::internal(&error))?);
        }
        Ok(hasher.finish())
    }

    pub(super) async fn cancel(&self, source: Source) -> Result<(), Refusal> {
        let Source::Known { id, label, turn: _turn, .. } = source else { return Ok(()) };
        let mut session = self.load_in_turn(id, &label).await?;
        if session.record.becoming.is_some() {
            return Err(uploads::busy(id));
        }
        self.end(&mut session).await.map_err(|error| match error {
            BucketError::Changed { .. } => uploads::busy(id),
            error => error.into(),
        })
    }

    /// Ends an upload in the way that no other replica can go on with it meanwhile.
    pub(super) async fn end(&self, session: &mut Session) -> Result<(), BucketError> {
        session.record.turn = Some(ENDED.to_owned());
        session.save(&self.bucket).await?;
        if let Some(attempt) = &session.record.attempt {
            self.bucket.abort_parts(&blob_key(session.id), attempt).await?;
        }
        session.remove(&self.bucket).await
    }

    /// Removes what there is of an upload of which nobody may hear again.
    async fn drop_upload(&self, session: &Session) {
        if let Some(attempt) = &session.record.attempt {
            self.abort_parts(session.id, attempt).await;
        }
        if session.is_saved()
            && let Err(error) = session.remove(&self.bucket).await
        {
            tracing::warn!(%error, "an upload stays until it expires");
        }
    }

    pub(super) async fn abort_parts(&self, id: UploadId, attempt: &str) {
        if let Err(error) = self.bucket.abort_parts(&blob_key(id), attempt).await {
            tracing::warn!(%error, "parts stay until the bucket's own rule removes them");
        }
    }

    /// Stores `size` bytes of a verified file, which no upload brought, as an object of its own;
    /// returns its key. An object that never gets into the metadata is collected.
    pub(crate) async fn store_file(
        &self,
        file: &Arc<std::fs::File>,
        size: u64,
    ) -> Result<String, BucketError> {
        let key = super::session::new_blob_key();
        if size <= FILE_PART_BYTES {
            let bytes = read_part(file, 0, size, &key).await?;
            self.bucket.create(&key, bytes).await?;
            return Ok(key);
        }
        let attempt = self.bucket.begin_parts(&key).await?;
        let stored = self.store_parts(file, size, &key, &attempt).await;
        if stored.is_err() {
            // What cannot be given up now expires in the bucket.
            let _ = self.bucket.abort_parts(&key, &attempt).await;
        }
        stored.map(|()| key)
    }

    async fn store_parts(
        &self,
        file: &Arc<std::fs::File>,
        size: u64,
        key: &str,
        attempt: &str,
    ) -> Result<(), BucketError> {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < size {
            let permit = self.part_permit().await;
            let length = FILE_PART_BYTES.min(size - at);
            let bytes = read_part(file, at, length, key).await?;
            parts.push(self.bucket.put_part(key, attempt, parts.len(), bytes).await?);
            drop(permit);
            at += length;
        }
        self.bucket.join_parts(key, attempt, &parts).await
    }

    /// Removes an object that is no blob.
    pub(crate) async fn discard(&self, key: &str) {
        if let Err(error) = self.bucket.delete(key).await {
            tracing::warn!(%error, "an object stays that nothing needs");
        }
    }

    /// Forgets the state of an upload whose blob the metadata knows. The answer need not wait.
    pub(crate) fn forget(&self, id: UploadId) {
        let bucket = self.bucket.clone();
        tokio::spawn(async move {
            if let Err(error) = bucket.delete(&super::session::key(id)).await {
                tracing::warn!(%error, "the state of an upload stays until it expires");
            }
        });
    }
}

fn new_id() -> Result<UploadId, Refusal> {
    uuid::Uuid::new_v4().to_string().parse().map_err(|error: uuid::Error| Refusal::internal(&error))
}

fn mismatch(expected: &Digest, actual: &Digest) -> Refusal {
    Refusal::new(ErrorCode::DigestInvalid, format!("the blob has digest {actual}, not {expected}"))
}

impl From<BucketError> for Refusal {
    fn from(error: BucketError) -> Self {
        // For the log; the client learns that it may come again.
        let _ = Self::internal(&error);
        Self::unavailable("the registry's bucket does not answer as it should")
    }
}
