//! The bytes of a blob while they come in.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Lets others in this process read what an [`Ingest`](crate::Ingest) has received so far, so that
/// a layer is unpacked while it is downloaded.
///
/// The bytes are **not verified**: whoever uses them checks a digest of their own, or throws away
/// what came of them when the ingest fails.
#[derive(Clone, Debug)]
pub struct Tail(Arc<Growth>);

#[derive(Debug)]
struct Growth {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes in the file.
    size: u64,
    end: Option<End>,
}

/// How an ingest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The bytes have the expected digest.
    Verified,
    /// They will not become a blob.
    Abandoned,
}

impl Tail {
    /// Follows a file that holds `size` bytes so far.
    pub(crate) fn new(file: File, size: u64) -> Self {
        let state = Mutex::new(State { size, end: None });
        Self(Arc::new(Growth { file, state, changed: Condvar::new() }))
    }

    /// Reads from the first byte on, waiting for those that are still to come.
    pub fn reader(&self) -> TailReader {
        TailReader { tail: self.clone(), at: 0 }
    }

    pub(crate) fn grown_to(&self, size: u64) {
        self.state().size = size;
        self.0.changed.notify_all();
    }

    /// Only the first call counts.
    pub(crate) fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for bytes after `at`; how far the file reaches then, which is `at` at the end.
    fn wait_beyond(&self, at: u64) -> io::Result<u64> {
        let mut state = self.state();
        loop {
            match state.end {
                _ if at < state.size => return Ok(state.size),
                Some(End::Verified) => return Ok(at),
                Some(End::Abandoned) => {
                    let reason = "the blob that was being received was given up";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
                }
                None => {
                    let waited = self.0.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// Two handles are equal if they follow the same ingest.
impl PartialEq for Tail {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tail {}

/// Reads a [`Tail`]; fails with [`io::ErrorKind::ConnectionAborted`] when the ingest is given up.
#[derive(Debug)]
pub struct TailReader {
    tail: Tail,
    at: u64,
}

impl Read for TailReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.tail.wait_beyond(self.at)?;
        let present = usize::try_from(size - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(present);
        let read = self.tail.0.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use oci_model::Digest;

    use super::*;
    use crate::BlobStore;

    /// More than an ingest gathers before it writes.
    const BYTES: usize = 3 * 1024 * 1024;

    #[test]
    fn readers_see_every_byte_of_a_blob_that_is_still_coming_in() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path()).expect("a store");
        let bytes: Vec<u8> = (0..BYTES).map(|n| n.to_le_bytes()[0]).collect();
        let mut ingest = store.ingest().expect("a staging file");
        let mut reader = ingest.tail().expect("a handle").reader();
        let read = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        for piece in bytes.chunks(100_000) {
            ingest.write_all(piece).expect("disk");
        }
        ingest.commit(&Digest::of(&bytes)).expect("the right digest");
        assert!(read.join().expect("no panic").expect("all of it") == bytes);
    }

    #[test]
    fn readers_fail_when_the_blob_is_not_what_it_should_be() {
        let root = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(root.path()).expect("a store");
        let abandon: [fn(crate::Ingest); 2] =
            [drop, |ingest| drop(ingest.commit(&Digest::of(b"other")))];
        for abandon in abandon {
            let mut ingest = store.ingest().expect("a staging file");
            let mut reader = ingest.tail().expect("a handle").reader();
            ingest.write_all(b"some").expect("disk");
            abandon(ingest);
            let error = reader.read_to_end(&mut Vec::new()).expect_err("given up");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }
}
