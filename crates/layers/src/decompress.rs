//! Whatever a blob is compressed with, as plain bytes.

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Bytes read from the blob at once.
const INPUT_BYTES: usize = 256 * 1024;
/// Largest zstd window accepted: 2^27 bytes (128 MiB), the decoder's memory per stream.
/// `zstd --ultra -22` uses it; `--long=31` does not fit and is refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a layer blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952), possibly of several members.
    Gzip,
    /// Zstandard (RFC 8878), possibly of several frames.
    Zstd,
}

impl Encoding {
    /// Reads the encoding off the first bytes of a blob (four suffice).
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as seekable and chunked zstd put in front.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Decompresses a stream after looking at its first bytes.
pub struct Decoder<'a> {
    encoding: Encoding,
    source: Box<dyn Read + Send + 'a>,
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl<'a> Decoder<'a> {
    /// Wraps a blob.
    ///
    /// # Errors
    /// Those of reading the first bytes.
    pub fn new(blob: impl Read + Send + 'a) -> io::Result<Self> {
        let mut start = Vec::with_capacity(4);
        let mut blob = blob;
        (&mut blob).take(4).read_to_end(&mut start)?;
        let encoding = Encoding::sniff(&start);
        let whole = io::Cursor::new(start).chain(blob);
        let source: Box<dyn Read + Send + 'a> = match encoding {
            Encoding::Plain => Box::new(whole),
            Encoding::Gzip => {
                Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT_BYTES, whole)))
            }
            Encoding::Zstd => {
                let input = BufReader::with_capacity(INPUT_BYTES, whole);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Self { encoding, source })
    }

    /// What the first bytes said.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer)
    }
}
