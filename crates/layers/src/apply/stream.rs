//! Decompression and hashing on a thread of their own, in front of the archive reader.

use std::io::{self, Read};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use oci_model::{DiffId, Hasher};

use crate::decompress::Decoder;

/// Bytes handed over at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks under way; with the one being filled and the one being read, 6 MiB at most.
const CHUNKS_MAX: usize = 4;

/// The uncompressed archive as it arrives from the decoder thread.
pub(super) struct TarStream {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Emptied buffers go back, so that the kernel need not hand out fresh pages for each.
    spare: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

/// What the decoder thread knows at the end.
pub(super) struct Decoded {
    pub(super) diff_id: DiffId,
    pub(super) tar_bytes: u64,
}

/// Starts the decoder. It hashes the whole stream, the bytes after the end marker included, and
/// stops early when the reading side is dropped or `bytes_max` is passed.
pub(super) fn start<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    blob: impl Read + Send + 'scope,
    bytes_max: u64,
) -> io::Result<(TarStream, ScopedJoinHandle<'scope, Option<Decoded>>)> {
    let (sender, chunks) = bounded(CHUNKS_MAX);
    let (spare, emptied) = bounded(CHUNKS_MAX + 2);
    let handle = std::thread::Builder::new()
        .name("layer-decode".to_owned())
        .spawn_scoped(scope, move || decode(blob, bytes_max, &sender, &emptied))?;
    Ok((TarStream { chunks, spare, chunk: Vec::new(), at: 0 }, handle))
}

fn decode(
    blob: impl Read + Send,
    bytes_max: u64,
    chunks: &Sender<io::Result<Vec<u8>>>,
    emptied: &Receiver<Vec<u8>>,
) -> Option<Decoded> {
    let mut decoder = match Decoder::new(blob) {
        Ok(decoder) => decoder,
        Err(error) => {
            let _ = chunks.send(Err(error));
            return None;
        }
    };
    let mut hasher = Hasher::sha256();
    let mut tar_bytes = 0;
    loop {
        let mut chunk = emptied.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        let mut failure = None;
        while filled < CHUNK_BYTES {
            match decoder.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        chunk.truncate(filled);
        hasher.update(&chunk);
        tar_bytes += filled as u64;
        if bytes_max < tar_bytes {
            failure = Some(io::Error::new(io::ErrorKind::FileTooLarge, TooLarge { bytes_max }));
        }
        if let Some(error) = failure {
            let _ = chunks.send(Err(error));
            return None;
        }
        if filled == 0 {
            return Some(Decoded { diff_id: DiffId(hasher.finish()), tar_bytes });
        }
        if chunks.send(Ok(chunk)).is_err() {
            return None;
        }
    }
}

/// The archive is longer than the caller allows.
#[derive(Debug, thiserror::Error)]
#[error("the layer is larger than {bytes_max} bytes uncompressed")]
pub(super) struct TooLarge {
    bytes_max: u64,
}

impl TarStream {
    /// Reads what is left, so that the decoder sees the end of the stream.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        for chunk in &self.chunks {
            let _ = self.spare.try_send(chunk?);
        }
        Ok(())
    }
}

impl Read for TarStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            let Ok(chunk) = self.chunks.recv() else { return Ok(0) };
            let emptied = std::mem::replace(&mut self.chunk, chunk?);
            let _ = self.spare.try_send(emptied);
            self.at = 0;
        }
        let part = buffer.len().min(self.chunk.len() - self.at);
        buffer[..part].copy_from_slice(&self.chunk[self.at..self.at + part]);
        self.at += part;
        Ok(part)
    }
}
