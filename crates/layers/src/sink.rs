//! The one pass that makes a layer blob of tar bytes: hash, compress, hash, hand on.

use std::io::{self, Write};

use oci_model::{DiffId, Digest, Hasher};

use crate::compress::{Compression, Compressor};

/// Identity and sizes of a finished layer blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob as written.
    pub digest: Digest,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// How the blob is compressed.
    pub compression: Compression,
}

/// Takes tar bytes, writes the compressed blob to `out`, and knows both digests at the end.
#[derive(Debug)]
pub struct LayerSink<W: Write> {
    compressor: Compressor<Hashed<W>>,
    diff_id: Hasher,
    tar_bytes: u64,
    compression: Compression,
}

impl<W: Write> LayerSink<W> {
    /// Compresses into `out` with as many threads as the machine has cores.
    pub fn new(out: W, compression: Compression) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(out, compression, cores)
    }

    /// Compresses into `out` with the given number of threads; the bytes do not depend on it.
    pub fn with_threads(out: W, compression: Compression, threads: usize) -> Self {
        let out = Hashed { out, hasher: Hasher::sha256(), bytes: 0 };
        Self {
            compressor: Compressor::new(out, compression, threads),
            diff_id: Hasher::sha256(),
            tar_bytes: 0,
            compression,
        }
    }

    /// Ends the layer and gives `out` back.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(self) -> io::Result<(LayerBlob, W)> {
        let mut hashed = self.compressor.finish()?;
        hashed.out.flush()?;
        let blob = LayerBlob {
            diff_id: DiffId(self.diff_id.finish()),
            digest: hashed.hasher.finish(),
            tar_bytes: self.tar_bytes,
            blob_bytes: hashed.bytes,
            compression: self.compression,
        };
        Ok((blob, hashed.out))
    }
}

impl<W: Write> Write for LayerSink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.compressor.write(bytes)?;
        self.diff_id.update(&bytes[..written]);
        self.tar_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.compressor.flush()
    }
}

#[derive(Debug)]
struct Hashed<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
