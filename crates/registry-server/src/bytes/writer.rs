//! Bytes on their way into a bucket: cut into parts, hashed once, acknowledged by state.
//!
//! Whoever adds parts has the turn. It says so in the state of the upload and renews that every
//! [`BEAT`], with what the bucket has by then; a turn that was not renewed for [`TURN_MAX`], by
//! the clock of whoever waits for it, is that of a dead replica, and the upload goes on from the
//! state. A replica that is only slow loses its compare-and-swap. Should a part of it arrive
//! after that all the same, it has another name than the state says, and joining the parts fails
//! rather than make a blob of them.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use oci_model::Hasher;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bucket::BucketError;
use super::remote::BucketBytes;
use super::session::{Part, Session, blob_key};
use crate::refusal::Refusal;
use crate::uploads;

/// Size of the first parts, in bytes; S3 wants 5 MiB at least.
pub(super) const PART_BYTES: usize = 8 * 1024 * 1024;

/// After this many parts they are larger: S3 takes 10 000 parts, so a blob can have 304 GB.
const SMALL_PARTS: usize = 1000;

/// Size of the later parts, in bytes.
const LARGE_PART_BYTES: usize = 32 * 1024 * 1024;

/// Parts of one upload that are on their way at once. With the one being gathered, an upload
/// takes as much memory as this and one more parts have.
const PARTS_ON_THEIR_WAY_MAX: usize = 3;

/// How often a turn is renewed.
const BEAT: Duration = Duration::from_secs(1);

/// After this time without renewal a turn is over.
pub(super) const TURN_MAX: Duration = Duration::from_secs(5);

/// An upload that bytes are being added to.
pub(super) struct Writer {
    bytes: BucketBytes,
    pub(super) session: Session,
    /// What came and is in no part yet.
    pub(super) buffer: BytesMut,
    /// The hash of what was cut into parts.
    pub(super) hasher: Hasher,
    on_their_way: VecDeque<OnItsWay>,
    /// When the turn is to be renewed next.
    beat: Instant,
    has_turn: bool,
}

struct OnItsWay {
    put: JoinHandle<Result<String, BucketError>>,
    size: u64,
    /// The hash up to its end.
    hasher: String,
}

impl Writer {
    pub(super) fn new(bytes: BucketBytes, session: Session) -> Result<Self, Refusal> {
        let hasher =
            Hasher::restore(&session.record.hasher).map_err(|error| Refusal::internal(&error))?;
        let buffer = BytesMut::from(&session.tail[..]);
        let (on_their_way, beat) = (VecDeque::new(), Instant::now());
        Ok(Self { bytes, session, buffer, hasher, on_their_way, beat, has_turn: false })
    }

    /// Adds bytes at the end.
    pub(super) async fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.buffer.extend_from_slice(piece);
        loop {
            let index = self.session.record.parts.len() + self.on_their_way.len();
            let size = if index < SMALL_PARTS { PART_BYTES } else { LARGE_PART_BYTES };
            if self.buffer.len() < size {
                return Ok(());
            }
            self.cut(size).await?;
        }
    }

    /// Sends the first `size` bytes of the buffer on their way as a part.
    pub(super) async fn cut(&mut self, size: usize) -> Result<(), Refusal> {
        self.take_turn().await?;
        while self.on_their_way.len() >= PARTS_ON_THEIR_WAY_MAX {
            self.await_part().await?;
        }
        let part = self.buffer.split_to(size).freeze();
        let index = self.session.record.parts.len() + self.on_their_way.len();
        let bytes = self.bytes.clone();
        let permit = self.while_beating(bytes.part_permit()).await?;
        let bucket = bytes.bucket().clone();
        let (key, sent) = (blob_key(self.session.id), part.clone());
        let attempt = self.session.record.attempt.clone().unwrap_or_default();
        let put = tokio::spawn(async move {
            let put = bucket.put_part(&key, &attempt, index, sent).await;
            drop(permit);
            put
        });
        // While it is on its way it is hashed.
        let mut hasher = self.hasher.clone();
        self.hasher = tokio::task::spawn_blocking(move || {
            hasher.update(&part);
            hasher
        })
        .await
        .map_err(|error| Refusal::internal(&error))?;
        let hasher = self.hasher.save();
        self.on_their_way.push_back(OnItsWay { put, size: size as u64, hasher });
        Ok(())
    }

    /// Waits until the bucket has every part that is on its way.
    pub(super) async fn await_parts(&mut self) -> Result<(), Refusal> {
        while !self.on_their_way.is_empty() {
            self.await_part().await?;
        }
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), Refusal> {
        let Some(mut part) = self.on_their_way.pop_front() else { return Ok(()) };
        let id = self.while_beating(&mut part.put).await?;
        let id = id.map_err(|error| Refusal::internal(&error))??;
        let record = &mut self.session.record;
        record.parts.push(Part { id, size: part.size });
        record.hasher = part.hasher;
        // The first part that is cut begins with the tail.
        self.session.tail = Bytes::new();
        Ok(())
    }

    /// Makes everything that came the state of the upload, and gives the turn back.
    pub(super) async fn put_down(&mut self) -> Result<(), Refusal> {
        self.await_parts().await?;
        self.session.tail = self.buffer.clone().freeze();
        self.session.record.turn = None;
        self.has_turn = false;
        self.save().await
    }

    /// After a failure: makes what the bucket has the state of the upload.
    pub(super) async fn fall_back(&mut self) {
        if !self.has_turn {
            return;
        }
        self.session.record.turn = None;
        if let Err(error) = self.session.save(self.bytes.bucket()).await {
            // The turn runs out by itself.
            tracing::warn!(%error, id = %self.session.id, "cannot put an upload down");
        }
    }

    /// Writes the state.
    pub(super) async fn save(&mut self) -> Result<(), Refusal> {
        match self.session.save(self.bytes.bucket()).await {
            Ok(()) => Ok(()),
            Err(BucketError::Changed { .. }) => Err(uploads::busy(self.session.id)),
            Err(error) => Err(error.into()),
        }
    }

    /// Says in the state that this request adds parts, which only one may do at once.
    async fn take_turn(&mut self) -> Result<(), Refusal> {
        if self.has_turn {
            return Ok(());
        }
        let key = blob_key(self.session.id);
        let is_first = self.session.record.attempt.is_none();
        if is_first {
            self.session.record.attempt = Some(self.bytes.bucket().begin_parts(&key).await?);
        }
        self.session.record.turn = Some(uuid::Uuid::new_v4().simple().to_string());
        if let Err(refusal) = self.save().await {
            if is_first && let Some(attempt) = self.session.record.attempt.take() {
                self.bytes.abort_parts(self.session.id, &attempt).await;
            }
            return Err(refusal);
        }
        self.has_turn = true;
        self.beat = Instant::now() + BEAT;
        Ok(())
    }

    /// Waits for something and renews the turn meanwhile.
    pub(super) async fn while_beating<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let mut work = pin!(work);
        loop {
            if !self.has_turn {
                return Ok(work.await);
            }
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(self.beat) => {
                    self.save().await?;
                    self.beat = Instant::now() + BEAT;
                }
            }
        }
    }
}
