//! Compression whose bytes do not depend on the machine.
//!
//! The input is cut into blocks of a fixed size; each block becomes a gzip member or a zstd
//! frame of its own, compressed on whichever thread is free and written in order. So the result
//! depends on input, format and level only, never on the number of cores.

use std::io::{self, Write};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Bytes of input per gzip member.
const GZIP_BLOCK_BYTES: usize = 1024 * 1024;
/// Bytes of input per zstd frame; larger, because zstd finds matches further back.
const ZSTD_BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Most compressor threads per layer: beyond that the reader of the tree is the bottleneck.
const THREADS_MAX: usize = 8;

/// How a layer is to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 1 (fast) to 12 (small).
    Gzip(i32),
    /// Zstandard, level 1 (fast) to 22 (small).
    Zstd(i32),
}

impl Compression {
    /// gzip at the level that builds use unless told otherwise.
    pub const GZIP_DEFAULT: Self = Self::Gzip(GZIP_LEVEL_DEFAULT);
    /// zstd at its own default level.
    pub const ZSTD_DEFAULT: Self = Self::Zstd(3);

    fn block_bytes(self) -> usize {
        match self {
            Self::None | Self::Gzip(_) => GZIP_BLOCK_BYTES,
            Self::Zstd(_) => ZSTD_BLOCK_BYTES,
        }
    }

    /// The media type of an OCI layer compressed this way.
    pub fn oci_layer_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// On a mix of programs and text (476 MB of /usr) libdeflate makes 209 MB at level 1 and 202 MB at
/// level 4, in 3.1 and 4.3 s of CPU with both digests; `gzip -6` makes 212 MB in 15.8 s.
const GZIP_LEVEL_DEFAULT: i32 = 1;

/// Compresses what is written to it, on several threads, into `out`.
pub struct Compressor<W> {
    out: W,
    compression: Compression,
    block: Vec<u8>,
    blocks_begun: u64,
    workers: Vec<JoinHandle<()>>,
    jobs: Option<Sender<Job>>,
    /// Results in the order of their blocks; each block has a channel of its own.
    pending: std::collections::VecDeque<Receiver<io::Result<Vec<u8>>>>,
    pending_max: usize,
}

struct Job {
    block: Vec<u8>,
    done: Sender<io::Result<Vec<u8>>>,
}

impl<W> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("compression", &self.compression)
            .field("threads", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl<W: Write> Compressor<W> {
    /// Compresses into `out`; `threads` is clamped to what is useful. No thread starts before
    /// the first full block, so that small layers cost none.
    pub fn new(out: W, compression: Compression, threads: usize) -> Self {
        Self {
            out,
            compression,
            block: Vec::new(),
            blocks_begun: 0,
            workers: Vec::new(),
            jobs: None,
            pending: std::collections::VecDeque::new(),
            pending_max: 2 * threads.clamp(1, THREADS_MAX),
        }
    }

    /// Compresses the rest and gives `out` back.
    ///
    /// # Errors
    /// Those of `out`, and of a compressor that ran out of memory.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() || self.blocks_begun == 0 {
            let block = std::mem::take(&mut self.block);
            if self.jobs.is_some() {
                self.submit(block)?;
            } else if self.compression == Compression::None {
                self.out.write_all(&block)?;
            } else {
                let bytes = BlockCompressor::new(self.compression)?.compress(&block)?;
                self.out.write_all(&bytes)?;
            }
        }
        while let Some(result) = self.pending.pop_front() {
            self.write_result(&result)?;
        }
        self.jobs = None;
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| io::Error::other("a compressor thread panicked"))?;
        }
        Ok(self.out)
    }

    fn submit(&mut self, block: Vec<u8>) -> io::Result<()> {
        self.blocks_begun += 1;
        if self.compression == Compression::None {
            return self.out.write_all(&block);
        }
        if self.jobs.is_none() {
            self.start_workers()?;
        }
        while self.pending_max <= self.pending.len() {
            if let Some(result) = self.pending.pop_front() {
                self.write_result(&result)?;
            }
        }
        let (done, result) = bounded(1);
        if let Some(jobs) = &self.jobs {
            jobs.send(Job { block, done })
                .map_err(|_| io::Error::other("the compressor threads are gone"))?;
        }
        self.pending.push_back(result);
        // Write what is ready, so that the output flows while the input does.
        while let Some(first) = self.pending.front() {
            let Ok(bytes) = first.try_recv() else { break };
            self.pending.pop_front();
            self.out.write_all(&bytes?)?;
        }
        Ok(())
    }

    fn write_result(&mut self, result: &Receiver<io::Result<Vec<u8>>>) -> io::Result<()> {
        let bytes =
            result.recv().map_err(|_| io::Error::other("a compressor thread panicked"))??;
        self.out.write_all(&bytes)
    }

    fn start_workers(&mut self) -> io::Result<()> {
        let (sender, receiver) = bounded::<Job>(self.pending_max);
        for _ in 0..self.pending_max / 2 {
            let receiver = receiver.clone();
            let compression = self.compression;
            let worker = std::thread::Builder::new()
                .name("layer-compress".to_owned())
                .spawn(move || work(&receiver, compression))?;
            self.workers.push(worker);
        }
        self.jobs = Some(sender);
        Ok(())
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block_bytes = self.compression.block_bytes();
        let part = bytes.len().min(block_bytes - self.block.len());
        if self.block.capacity() == 0 && block_bytes <= part {
            // A full block at once needs no staging.
            self.submit(bytes[..part].to_vec())?;
            return Ok(part);
        }
        self.block.extend_from_slice(&bytes[..part]);
        if self.block.len() == block_bytes {
            let block = std::mem::replace(&mut self.block, Vec::with_capacity(block_bytes));
            self.submit(block)?;
        }
        Ok(part)
    }

    /// Does nothing: a block that is not full must wait, or the bytes would depend on when the
    /// caller flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(jobs: &Receiver<Job>, compression: Compression) {
    let mut compressor = BlockCompressor::new(compression);
    for job in jobs {
        let result = match &mut compressor {
            Ok(compressor) => compressor.compress(&job.block),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody listens after an error elsewhere; then the rest is of no interest either.
        if job.done.send(result).is_err() {
            return;
        }
    }
}

enum BlockCompressor {
    Gzip(libdeflater::Compressor),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    None,
}

impl BlockCompressor {
    fn new(compression: Compression) -> io::Result<Self> {
        match compression {
            Compression::None => Ok(Self::None),
            Compression::Gzip(level) => {
                let level = libdeflater::CompressionLvl::new(level.clamp(1, 12))
                    .map_err(|_| io::Error::other("libdeflate refuses the level"))?;
                Ok(Self::Gzip(libdeflater::Compressor::new(level)))
            }
            Compression::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level.clamp(1, 22))?;
                compressor.include_checksum(true)?;
                Ok(Self::Zstd(Box::new(compressor)))
            }
        }
    }

    fn compress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(block.to_vec()),
            Self::Gzip(compressor) => {
                // libdeflate writes no name, time 0 and OS 255: nothing of this machine.
                let mut bytes = vec![0; compressor.gzip_compress_bound(block.len())];
                let written = compressor
                    .gzip_compress(block, &mut bytes)
                    .map_err(|_| io::Error::other("libdeflate ran out of space"))?;
                bytes.truncate(written);
                Ok(bytes)
            }
            Self::Zstd(compressor) => compressor.compress(block),
        }
    }
}
