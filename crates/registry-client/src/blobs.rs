//! Blobs: look, download with resume, upload.

use std::time::Duration;

use blob_store::{BlobStore, Ingest, IngestError, Lease};
use bytes::Bytes;
use credentials::RegistryAuth;
use http::{StatusCode, header};
use oci_model::{Descriptor, Digest, Reference};
use tokio::sync::mpsc;

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind, with_causes};
use crate::onward::Target;
use crate::progress::{Progress, ProgressEvent};
use crate::transport::{About, STALL_RETRIES_PAUSE};

/// Pieces of a body between network and disk; each is what one read returned, 64 KiB at most
/// in practice.
const PIECES_MAX: usize = 32;

impl Client {
    /// Downloads a blob of a reference's repository into the store, verified, from the first
    /// mirror or registry that has it, with the first credential that opens it.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; the store is then as before.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auths: &[RegistryAuth],
        store: &BlobStore,
        lease: Option<&Lease>,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let fetch = |auth: Option<RegistryAuth>| async move {
            let mut last = None;
            for remote in self.remotes_for_pull(reference, auth.as_ref()) {
                match remote.fetch_blob(descriptor, store, lease, progress).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = Some(error),
                }
            }
            let what = format!("blob {} of {reference}", descriptor.digest);
            Err(last.unwrap_or_else(|| RegistryErrorKind::NotFound { what }.into()))
        };
        self.with_credentials(auths, fetch).await.map(|((), _)| ())
    }
}

impl Remote {
    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn has_blob(
        &self,
        digest: &Digest,
        progress: &Progress,
    ) -> Result<bool, RegistryError> {
        let target = format!("{}/blobs/{digest}", self.repository_path());
        let about = About {
            method: "HEAD",
            target: Target::Path(&target),
            scopes: self.scopes("pull,push"),
            what: digest.to_string(),
            progress,
        };
        match self.send(&about, |request| request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Downloads a blob into the store, verified, unless it is there. A broken connection is
    /// taken up where it broke.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; the store is then as before.
    pub async fn fetch_blob(
        &self,
        descriptor: &Descriptor,
        store: &BlobStore,
        lease: Option<&Lease>,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let digest = descriptor.digest;
        let present = match lease {
            Some(lease) => lease.add(&digest)?,
            None => store.contains(&digest),
        };
        if present {
            progress.tell(ProgressEvent::Exists { digest });
            return Ok(());
        }
        progress.tell(ProgressEvent::Started { digest, bytes: descriptor.size });
        let mut failures = 0;
        loop {
            match self.download(descriptor, store, progress).await {
                Ok(()) => {
                    progress.tell(ProgressEvent::Done { digest });
                    return Ok(());
                }
                // Bytes that were damaged on the way may be right on the next.
                Err(error)
                    if failures == 0
                        && matches!(error.kind(), RegistryErrorKind::DigestMismatch { .. }) =>
                {
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn download(
        &self,
        descriptor: &Descriptor,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let (store, expected, told) = (store.clone(), descriptor.clone(), progress.clone());
        let write = move || write_pieces(&store, &expected, received, &told);
        let writer = tokio::task::spawn_blocking(write);
        let sent = self.receive(descriptor, &pieces, progress).await;
        // Only the whole blob may be committed; a failed one is dropped by the writer.
        let complete = sent.is_ok();
        if complete {
            let _ = pieces.send(Piece::End).await;
        }
        drop(pieces);
        let written = writer.await.map_err(|_| RegistryErrorKind::Store {
            reason: "the task that writes a blob panicked".to_owned(),
        })?;
        match written {
            // The writer's error is the cause of a failed send, not the other way round.
            Err(error) => Err(error),
            Ok(()) => sent,
        }
    }

    /// Receives all bytes of a blob, over as many connections as that takes.
    async fn receive(
        &self,
        descriptor: &Descriptor,
        pieces: &mpsc::Sender<Piece>,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let digest = descriptor.digest;
        let target = format!("{}/blobs/{digest}", self.repository_path());
        let about = About {
            method: "GET",
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: format!("blob {digest} of {}", self.reference.name()),
            progress,
        };
        let (mut got, mut failures) = (0u64, 0u32);
        while got < descriptor.size || (descriptor.size == 0 && failures == 0) {
            let from = got;
            let mut response = self
                .send(&about, |request| match from {
                    0 => request,
                    from => request.header(header::RANGE, format!("bytes={from}-")),
                })
                .await?;
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT
                && content_range(&response).is_some_and(|(start, _)| start == from);
            if 0 < from && !resumed {
                // The registry does not resume; begin again.
                got = 0;
                if pieces.send(Piece::Restart).await.is_err() {
                    return Ok(());
                }
            }
            let broken = loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => {
                        got += bytes.len() as u64;
                        if descriptor.size < got {
                            return Err(RegistryErrorKind::Malformed {
                                reason: format!(
                                    "blob {digest} is larger than the {} bytes promised",
                                    descriptor.size
                                ),
                            }
                            .into());
                        }
                        // A writer that is gone has the better error.
                        if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                            return Ok(());
                        }
                        progress.tell(ProgressEvent::Advanced { digest, bytes: got });
                    }
                    Ok(None) => break "unexpected EOF".to_owned(),
                    Err(error) => break with_causes(&error.without_url()),
                }
            };
            if descriptor.size <= got {
                return Ok(());
            }
            // Whoever makes progress may go on; only repeated failures without any count.
            failures = if from < got { 1 } else { failures + 1 };
            if self.client.options().retries_max < failures {
                let reason = format!("blob {digest}: {broken}");
                return Err(RegistryErrorKind::Interrupted { reason }.into());
            }
            let wait: Duration = STALL_RETRIES_PAUSE.saturating_mul(failures);
            progress.tell(ProgressEvent::Retrying { reason: broken, wait });
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

enum Piece {
    Bytes(Bytes),
    /// What was written so far does not count.
    Restart,
    /// The blob is complete.
    End,
}

/// Hashes and writes on a thread that may block.
fn write_pieces(
    store: &BlobStore,
    descriptor: &Descriptor,
    mut pieces: mpsc::Receiver<Piece>,
    progress: &Progress,
) -> Result<(), RegistryError> {
    use std::io::Write;
    let digest = descriptor.digest;
    let begin = || -> Result<Ingest, RegistryError> {
        let mut ingest = store.ingest_with(digest.algorithm())?;
        // Without a handle nobody reads along, and all wait for the end instead.
        if let Ok(tail) = ingest.tail() {
            progress.tell(ProgressEvent::Receiving { digest, tail });
        }
        Ok(ingest)
    };
    let mut ingest = begin()?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => {
                if let Err(error) = ingest.write_all(&bytes) {
                    return Err(IngestError::from_write(error, &ingest).into());
                }
            }
            Piece::Restart => ingest = begin()?,
            Piece::End => return Ok(ingest.commit_deferred(&digest)?),
        }
    }
    Ok(())
}

/// First byte of a part, and the size of the whole where it is told.
pub(crate) fn content_range(response: &reqwest::Response) -> Option<(u64, Option<u64>)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split('-').next()?.parse().ok()?, size.parse().ok()))
}
