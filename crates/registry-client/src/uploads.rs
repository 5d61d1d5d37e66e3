//! Uploads of blobs: mounted, whole from a file with resume, or streamed while they are made.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use oci_model::{Digest, Repository};
use reqwest::{Body, Response};
use tokio::sync::mpsc;

use crate::client::Remote;
use crate::error::{RegistryError, RegistryErrorKind};
use crate::onward::{Onward, Target};
use crate::progress::{Progress, ProgressEvent};
use crate::transport::About;

/// Bytes read from disk at once.
const READ_BYTES: usize = 256 * 1024;
/// Pieces between disk and network.
const PIECES_MAX: usize = 8;
/// Bytes of a chunk of a streamed upload. A chunk is kept until the registry confirmed it, so
/// that it can be sent again.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

impl Remote {
    /// Uploads a blob from a file unless the repository has it already or can mount it from one
    /// of `mount_from`, repositories of the same registry.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn push_blob(
        &self,
        digest: &Digest,
        path: &Path,
        mount_from: &[Repository],
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        if self.has_blob(digest, progress).await? {
            progress.tell(ProgressEvent::Exists { digest: *digest });
            return Ok(());
        }
        let bytes = std::fs::metadata(path)
            .map_err(|error| RegistryErrorKind::Store {
                reason: format!("cannot read blob {digest}: {error}"),
            })?
            .len();
        let mut location = None;
        for from in mount_from {
            match self.try_mount(digest, from, progress).await? {
                Mounted::Yes => {
                    progress.tell(ProgressEvent::Exists { digest: *digest });
                    return Ok(());
                }
                // The registry opened an ordinary upload instead; it would be a pity to waste it.
                Mounted::Upload(opened) => {
                    location = Some(opened);
                    break;
                }
                Mounted::No => {}
            }
        }
        progress.tell(ProgressEvent::Started { digest: *digest, bytes });
        let location = match location {
            Some(location) => location,
            None => self.begin(progress).await?,
        };
        self.upload_file(location, digest, path, bytes, progress).await?;
        progress.tell(ProgressEvent::Done { digest: *digest });
        Ok(())
    }

    /// Mounts a blob from the first of `mount_from` that has it, without a byte of it at hand.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn mount(
        &self,
        digest: &Digest,
        mount_from: &[Repository],
        progress: &Progress,
    ) -> Result<bool, RegistryError> {
        for from in mount_from {
            if let Mounted::Yes = self.try_mount(digest, from, progress).await? {
                progress.tell(ProgressEvent::Exists { digest: *digest });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens an upload for bytes that are still being made.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn begin_upload(&self, progress: &Progress) -> Result<BlobUpload, RegistryError> {
        let location = self.begin(progress).await?;
        Ok(BlobUpload {
            remote: self.clone(),
            location,
            sent: 0,
            chunk: Vec::new(),
            progress: progress.clone(),
        })
    }

    async fn try_mount(
        &self,
        digest: &Digest,
        from: &Repository,
        progress: &Progress,
    ) -> Result<Mounted, RegistryError> {
        if from.as_str() == self.repository_path() {
            return Ok(Mounted::No);
        }
        let target = format!(
            "{}/blobs/uploads/?mount={digest}&from={}",
            self.repository_path(),
            from.as_str()
        );
        let mut scopes = self.scopes("pull,push");
        scopes.push(format!("repository:{}:pull", from.as_str()));
        let about = About {
            method: "POST",
            target: Target::Path(&target),
            scopes,
            what: from.as_str().to_owned(),
            progress,
        };
        match self.send(&about, |request| request.header(header::CONTENT_LENGTH, 0)).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(Mounted::Yes),
            Ok(response) => Ok(self.location(&response).map_or(Mounted::No, Mounted::Upload)),
            // We may push here and not read there; then the blob goes over the wire.
            Err(error) if error.is_access_failure() => Ok(Mounted::No),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, progress: &Progress) -> Result<Onward, RegistryError> {
        let target = format!("{}/blobs/uploads/", self.repository_path());
        let about = self.about_push("POST", Target::Path(&target), progress);
        let response =
            self.send(&about, |request| request.header(header::CONTENT_LENGTH, 0)).await?;
        self.location(&response).ok_or_else(|| self.no_location())
    }

    /// Sends a file in one PUT; what a broken connection left is asked for and continued.
    async fn upload_file(
        &self,
        location: Onward,
        digest: &Digest,
        path: &Path,
        bytes: u64,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let (mut location, mut from) = (location, 0);
        let mut failures = 0;
        loop {
            let target = location.with_digest(digest);
            let about = self.about_push("PUT", Target::Onward(&target), progress);
            let sent = self
                .send_once_authorized(&about, |request| {
                    let body = file_body(path.to_owned(), from, *digest, progress.clone());
                    let request = request
                        .header(header::CONTENT_TYPE, "application/octet-stream")
                        .header(header::CONTENT_LENGTH, bytes - from);
                    let request = match from {
                        0 => request,
                        from => request.header(
                            header::CONTENT_RANGE,
                            format!("{from}-{}", bytes.saturating_sub(1)),
                        ),
                    };
                    request.body(body)
                })
                .await;
            let error = match sent {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() || is_range_refused(&error) => error,
                Err(error) => return Err(error),
            };
            failures += 1;
            if self.client.options().retries_max < failures {
                return Err(error);
            }
            let Some(wait) = crate::retry::pause(failures - 1, None, fastrand::f64()) else {
                return Err(error);
            };
            progress.tell(ProgressEvent::Retrying { reason: error.to_string(), wait });
            tokio::time::sleep(wait).await;
            (location, from) = match self.status(&location, progress).await {
                Ok((location, got)) if got < bytes => (location, got),
                // The session is gone, or has bytes that are not ours: begin again.
                _ => (self.begin(progress).await?, 0),
            };
        }
    }

    /// Where an upload stands: `GET <location>` answers with the bytes that are safe.
    async fn status(
        &self,
        location: &Onward,
        progress: &Progress,
    ) -> Result<(Onward, u64), RegistryError> {
        let about = self.about_push("GET", Target::Onward(location), progress);
        let response = self.send(&about, |request| request).await?;
        let next = self.location(&response).unwrap_or_else(|| location.clone());
        Ok((next, received_bytes(&response).unwrap_or(0)))
    }

    fn about_push<'a>(
        &self,
        method: &'static str,
        target: Target<'a>,
        progress: &'a Progress,
    ) -> About<'a> {
        let what = format!("upload to {}", self.reference.name());
        About { method, target, scopes: self.scopes("pull,push"), what, progress }
    }

    /// The address in a `Location`, absolute or a path of this host.
    fn location(&self, response: &Response) -> Option<Onward> {
        let value = response.headers().get(header::LOCATION)?.to_str().ok()?;
        Onward::of(response, value, self.client.options())
    }

    fn no_location(&self) -> RegistryError {
        let reason =
            format!("registry {} opened an upload and did not say where", self.endpoint.host);
        RegistryErrorKind::Malformed { reason }.into()
    }
}

enum Mounted {
    Yes,
    Upload(Onward),
    No,
}

/// An upload of bytes that are still being made. Dropping it leaves a session that the registry
/// forgets after a while.
#[derive(Debug)]
pub struct BlobUpload {
    remote: Remote,
    location: Onward,
    sent: u64,
    chunk: Vec<u8>,
    progress: Progress,
}

impl BlobUpload {
    /// Adds bytes; sends them in chunks of 8 MiB, each of which is repeated if it gets lost.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), RegistryError> {
        while !bytes.is_empty() {
            let part = bytes.len().min(CHUNK_BYTES - self.chunk.len());
            self.chunk.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.chunk.len() == CHUNK_BYTES {
                self.send_chunk().await?;
            }
        }
        Ok(())
    }

    /// Sends the rest and makes the blob visible under its digest.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn finish(mut self, digest: &Digest) -> Result<(), RegistryError> {
        if !self.chunk.is_empty() {
            self.send_chunk().await?;
        }
        let target = self.location.with_digest(digest);
        let about = self.remote.about_push("PUT", Target::Onward(&target), &self.progress);
        self.remote.send(&about, |request| request.header(header::CONTENT_LENGTH, 0)).await?;
        self.progress.tell(ProgressEvent::Done { digest: *digest });
        Ok(())
    }

    async fn send_chunk(&mut self) -> Result<(), RegistryError> {
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        let end = self.sent + chunk.len() as u64;
        let mut failures = 0;
        while self.sent < end {
            let start = self.sent;
            let rest = chunk.slice(chunk.len() - (end - start) as usize..);
            let range = format!("{start}-{}", end - 1);
            let target = Target::Onward(&self.location);
            let about = self.remote.about_push("PATCH", target, &self.progress);
            let sent = self
                .remote
                .send_once_authorized(&about, |request| {
                    request
                        .header(header::CONTENT_TYPE, "application/octet-stream")
                        .header(header::CONTENT_RANGE, &range)
                        .header(header::CONTENT_LENGTH, rest.len())
                        .body(rest.clone())
                })
                .await;
            match sent {
                Ok(response) => {
                    if let Some(location) = self.remote.location(&response) {
                        self.location = location;
                    }
                    self.sent = end;
                }
                Err(error) if error.is_transient() || is_range_refused(&error) => {
                    failures += 1;
                    if self.remote.client.options().retries_max < failures {
                        return Err(error);
                    }
                    let wait = crate::retry::pause(failures - 1, None, fastrand::f64());
                    tokio::time::sleep(wait.unwrap_or_default()).await;
                    let (location, got) =
                        self.remote.status(&self.location, &self.progress).await?;
                    if got < start || end < got {
                        return Err(error);
                    }
                    self.location = location;
                    self.sent = got;
                }
                Err(error) => return Err(error),
            }
        }
        // The buffer goes back if nobody else holds the bytes any more.
        self.chunk = chunk
            .try_into_mut()
            .map(|mut bytes| {
                bytes.clear();
                Vec::from(bytes)
            })
            .unwrap_or_default();
        Ok(())
    }
}

/// The registry disagrees about where the upload stands.
fn is_range_refused(error: &RegistryError) -> bool {
    matches!(error.kind(), RegistryErrorKind::Status { status: 416, .. })
}

/// `Range: 0-<last byte>`; `0-0` is what registries send for nothing at all as well as for one
/// byte, and one byte can be sent again.
fn received_bytes(response: &Response) -> Option<u64> {
    let value = response.headers().get(header::RANGE)?.to_str().ok()?;
    let last: u64 = value.trim_start_matches("bytes=").split('-').nth(1)?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

/// The rest of a file as a request body, read on a thread that may block.
fn file_body(path: PathBuf, from: u64, digest: Digest, progress: Progress) -> Body {
    let (pieces, received) = mpsc::channel::<std::io::Result<Bytes>>(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let read = || -> std::io::Result<()> {
            let mut file = std::fs::File::open(&path)?;
            file.seek(SeekFrom::Start(from))?;
            let mut at = from;
            loop {
                let mut piece = Vec::with_capacity(READ_BYTES);
                (&mut file).take(READ_BYTES as u64).read_to_end(&mut piece)?;
                if piece.is_empty() {
                    return Ok(());
                }
                at += piece.len() as u64;
                if pieces.blocking_send(Ok(piece.into())).is_err() {
                    // The request ended early; its error says why.
                    return Ok(());
                }
                progress.tell(ProgressEvent::Advanced { digest, bytes: at });
            }
        };
        if let Err(error) = read() {
            let _ = pieces.blocking_send(Err(error));
        }
    });
    let body = stream::unfold(received, |mut received| async move {
        received.recv().await.map(|piece| (piece, received))
    });
    Body::wrap_stream(body)
}
