//! Uploads on local disk: written and hashed on blocking threads.

use blob_store::{BlobStore, IngestError, Upload};
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::{Source, Then};
use crate::body::RequestBody;
use crate::refusal::Refusal;
use crate::service::blocking;
use crate::uploads::upload_refusal;

/// Bodies up to this size are handed to the disk in one go, in bytes.
const GATHER_BYTES: usize = 512 * 1024;

/// Pieces of a body that may wait for the disk.
const PIECES_QUEUED_MAX: usize = 2;

/// An open upload, and the turn that keeps other requests away from it until it is put down.
struct Held {
    upload: Upload,
    _turn: Option<OwnedMutexGuard<()>>,
}

fn open(source: Source, store: &BlobStore) -> Result<Held, Refusal> {
    match source {
        Source::New { label, algorithm } => {
            let upload = store.begin_upload(&label, algorithm).map_err(upload_refusal)?;
            Ok(Held { upload, _turn: None })
        }
        Source::Known { id, chunk, turn, .. } => {
            let upload = store.resume_upload(id).map_err(upload_refusal)?;
            chunk.check(upload.size())?;
            Ok(Held { upload, _turn: Some(turn) })
        }
    }
}

/// Ends an upload without a blob.
pub(super) async fn cancel(store: BlobStore, source: Source) -> Result<(), Refusal> {
    blocking(move || {
        open(source, &store)?.upload.cancel().map_err(|error| Refusal::internal(&error))
    })
    .await?
}

/// Takes in the body; returns the size of the upload afterwards.
pub(super) async fn receive(
    store: &BlobStore,
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
    let store = store.clone();
    if ended || broken.is_some() {
        // The common case: one visit to a blocking thread.
        return blocking(move || {
            let held =
                first.iter().try_fold(open(source, &store)?, |held, piece| write(held, piece))?;
            match broken {
                None => end(held, then),
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
        let mut held = open(source, &store)?;
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
        None => end(held, then),
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

fn end(held: Held, then: Then) -> Result<u64, Refusal> {
    let size = held.upload.size();
    match then {
        Then::Keep => Ok(size),
        Then::Commit(digest) => {
            held.upload.commit_deferred(&digest)?;
            Ok(size)
        }
    }
}
