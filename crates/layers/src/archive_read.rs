//! Reads a tar archive as a stream of entries: ustar, PAX, GNU long names and the old v7 form.
//!
//! Everything here comes from strangers: sizes are bounded before they are allocated, names are
//! cleaned before anyone sees them, and what cannot be represented is refused by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::entry::{Entry, EntryKind, Timestamp};
use crate::normalize::normalize;

/// Size of a tar record, in bytes (POSIX.1-1988 ustar).
pub(crate) const BLOCK: usize = 512;
/// Largest PAX header accepted, in bytes. An xattr value may have 64 KiB and a file several.
const PAX_BYTES_MAX: u64 = 1024 * 1024;
/// Largest GNU long name accepted, in bytes; names beyond PATH_MAX are refused later by name.
const GNU_NAME_BYTES_MAX: u64 = 64 * 1024;

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream under the archive failed; a truncated archive is `UnexpectedEof`.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// Position in the uncompressed archive, in bytes.
        offset: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The bytes are no tar archive, or one that lies.
    #[error("malformed archive at byte {offset}: {reason}")]
    Malformed {
        /// Position in the uncompressed archive, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A form of entry that we do not read.
    #[error("entry {path:?} has unsupported type {what}")]
    Unsupported {
        /// Name of the entry as the archive spells it.
        path: String,
        /// The type.
        what: String,
    },
}

/// A tar archive being read, one entry after the other.
#[derive(Debug)]
pub struct ArchiveReader<R> {
    source: R,
    offset: u64,
    content_left: u64,
    padding: u64,
    finished: bool,
}

/// What PAX and GNU headers say about the entry that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    sparse: bool,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads uncompressed tar bytes from `source`; many small reads are made, so buffer it.
    pub fn new(source: R) -> Self {
        Self { source, offset: 0, content_left: 0, padding: 0, finished: false }
    }

    /// Bytes of the archive consumed so far. Directly after [`Self::next_entry`] this is where
    /// the entry's content starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, or nothing at the end. Content that was not read is skipped.
    ///
    /// # Errors
    /// See [`ArchiveError`]; after an error the reader is of no further use.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut overrides = Overrides::default();
        loop {
            self.skip_content()?;
            if self.finished {
                return Ok(None);
            }
            let Some(header) = self.read_header()? else {
                self.finished = true;
                return Ok(None);
            };
            let size = overrides.size.unwrap_or(header.size);
            match header.kind {
                b'x' | b'X' => {
                    let records = self.read_small(header.size, PAX_BYTES_MAX, "PAX header")?;
                    self.parse_pax(&records, &mut overrides)?;
                }
                // Global headers carry comments (git archive); no image depends on more.
                b'g' => {
                    self.read_small(header.size, PAX_BYTES_MAX, "PAX header")?;
                }
                b'L' | b'K' => {
                    let mut name = self.read_small(header.size, GNU_NAME_BYTES_MAX, "long name")?;
                    if let Some(end) = name.iter().position(|byte| *byte == 0) {
                        name.truncate(end);
                    }
                    let slot =
                        if header.kind == b'L' { &mut overrides.path } else { &mut overrides.link };
                    *slot = Some(name);
                }
                _ => return self.entry(header, overrides, size).map(Some),
            }
        }
    }

    /// The content of the entry that [`Self::next_entry`] returned last.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    /// Gives the stream back, wherever it stands.
    pub fn into_inner(self) -> R {
        self.source
    }

    fn entry(
        &mut self,
        header: Header,
        overrides: Overrides,
        size: u64,
    ) -> Result<Entry, ArchiveError> {
        let name = overrides.path.unwrap_or(header.name);
        let shown = String::from_utf8_lossy(&name).into_owned();
        if overrides.sparse || header.kind == b'S' {
            let what = "sparse file; write the archive without --sparse".to_owned();
            return Err(ArchiveError::Unsupported { path: shown, what });
        }
        let path = normalize(&name)
            .map_err(|bad| self.malformed(format!("entry {shown:?}: {}", bad.reason())))?;
        let link = overrides.link.unwrap_or(header.link);
        let kind = match header.kind {
            b'0' | 0 | b'7' if name.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File { size },
            b'1' => {
                let target = normalize(&link).map_err(|bad| {
                    self.malformed(format!("hard link target of {shown:?}: {}", bad.reason()))
                })?;
                EntryKind::Hardlink { target }
            }
            b'2' => {
                if link.is_empty() || link.contains(&0) || 4096 < link.len() {
                    return Err(self.malformed(format!("symbolic link {shown:?} has a bad target")));
                }
                EntryKind::Symlink { target: PathBuf::from(OsString::from_vec(link)) }
            }
            b'3' => EntryKind::CharDevice { major: header.major, minor: header.minor },
            b'4' => EntryKind::BlockDevice { major: header.major, minor: header.minor },
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let what = format!("{:?}", char::from(other));
                return Err(ArchiveError::Unsupported { path: shown, what });
            }
        };
        let whole = |value: u64, what: &str| {
            u32::try_from(value)
                .map_err(|_| self.malformed(format!("{what} of {shown:?}: {value}")))
        };
        let entry = Entry {
            path,
            mode: header.mode & 0o7777,
            uid: whole(overrides.uid.unwrap_or(header.uid), "owner")?,
            gid: whole(overrides.gid.unwrap_or(header.gid), "group")?,
            mtime: overrides.mtime.unwrap_or(Timestamp::from_seconds(header.mtime)),
            xattrs: overrides.xattrs,
            kind,
        };
        // Headers of links, devices and directories may carry a size that means nothing.
        self.expect_content(entry.content_bytes())?;
        Ok(entry)
    }

    fn expect_content(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        if i64::MAX as u64 - BLOCK as u64 <= bytes {
            return Err(self.malformed(format!("size {bytes} is out of range")));
        }
        self.content_left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut left = std::mem::take(&mut self.content_left);
        let mut scratch = [0; 16 * 1024];
        while 0 < left {
            let part = left.min(scratch.len() as u64) as usize;
            self.fill(&mut scratch[..part])?;
            left -= part as u64;
        }
        self.skip_padding()
    }

    /// Some writers (umoci's insert) leave out the padding of the last entry and the end marker;
    /// like Go's reader this takes it for the end, since no byte of any entry is missing.
    fn skip_padding(&mut self) -> Result<(), ArchiveError> {
        let mut scratch = [0; BLOCK];
        while 0 < self.padding && !self.finished {
            let part = self.padding as usize;
            match self.source.read(&mut scratch[..part]) {
                Ok(0) => self.finished = true,
                Ok(read) => {
                    self.offset += read as u64;
                    self.padding -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { offset: self.offset, source }),
            }
        }
        Ok(())
    }

    fn read_small(&mut self, size: u64, max: u64, what: &str) -> Result<Vec<u8>, ArchiveError> {
        if max < size {
            return Err(self.malformed(format!("{what} of {size} bytes is over {max} bytes")));
        }
        self.expect_content(size)?;
        let mut bytes = vec![0; size as usize];
        self.content_left = 0;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.source
            .read_exact(buffer)
            .map_err(|source| ArchiveError::Read { offset: self.offset, source })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    /// Reads one header block; nothing at the end marker or where the stream ends cleanly.
    fn read_header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(ArchiveError::Read { offset: self.offset, source });
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { offset: self.offset, source }),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::parse(&block).map_err(|reason| self.malformed(reason.to_owned()))?;
        self.offset += BLOCK as u64;
        Ok(Some(header))
    }

    fn malformed(&self, reason: String) -> ArchiveError {
        ArchiveError::Malformed { offset: self.offset, reason }
    }

    fn parse_pax(&self, records: &[u8], into: &mut Overrides) -> Result<(), ArchiveError> {
        for record in (PaxRecords { rest: records }) {
            let (key, value) = record.map_err(|reason| self.malformed(reason.to_owned()))?;
            let bad = || {
                let key = String::from_utf8_lossy(key).into_owned();
                self.malformed(format!("PAX record {key:?} has a bad value"))
            };
            match key {
                b"path" => into.path = Some(value.to_vec()),
                b"linkpath" => into.link = Some(value.to_vec()),
                b"size" => into.size = Some(decimal(value).ok_or_else(bad)?),
                b"uid" => into.uid = Some(decimal(value).ok_or_else(bad)?),
                b"gid" => into.gid = Some(decimal(value).ok_or_else(bad)?),
                b"mtime" => into.mtime = Some(pax_time(value).ok_or_else(bad)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        if name.is_empty() || name.contains(&0) {
                            return Err(bad());
                        }
                        into.xattrs.insert(OsString::from_vec(name.to_vec()), value.to_vec());
                    } else if key.starts_with(b"GNU.sparse.") {
                        into.sparse = true;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The bytes of one entry; ends where the entry ends.
#[derive(Debug)]
pub struct Content<'a, R> {
    reader: &'a mut ArchiveReader<R>,
}

impl<R> Content<'_, R> {
    /// Bytes not yet read.
    pub fn left(&self) -> u64 {
        self.reader.content_left
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = self.reader.content_left.min(buffer.len() as u64) as usize;
        if part == 0 {
            return Ok(0);
        }
        let read = self.reader.source.read(&mut buffer[..part])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.content_left -= read as u64;
        self.reader.offset += read as u64;
        Ok(read)
    }
}

struct Header {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: i64,
    major: u32,
    minor: u32,
}

impl Header {
    fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        let stored = number(&block[148..156])
            .ok_or("header checksum is no number; this is no tar archive")?;
        let sum = |signed: bool| {
            block.iter().enumerate().fold(0i64, |sum, (at, byte)| {
                let byte = if (148..156).contains(&at) { b' ' } else { *byte };
                sum + if signed { i64::from(byte as i8) } else { i64::from(byte) }
            })
        };
        // Ancient archives summed signed characters.
        if stored != sum(false) && stored != sum(true) {
            return Err("header checksum does not match; this is no tar archive");
        }
        let unsigned = |range: std::ops::Range<usize>, what: &'static str| {
            number(&block[range]).and_then(|value| u64::try_from(value).ok()).ok_or(what)
        };
        let mut name = text(&block[..100]).to_vec();
        let ustar = &block[257..263] == b"ustar\0";
        if ustar {
            // star keeps times in the tail of the prefix field and marks that at the end.
            let prefix_end = if &block[508..512] == b"tar\0" { 476 } else { 500 };
            let prefix = text(&block[345..prefix_end]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        let device = |range: std::ops::Range<usize>| {
            number(&block[range]).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
        };
        Ok(Self {
            name,
            link: text(&block[157..257]).to_vec(),
            kind: block[156],
            mode: (unsigned(100..108, "mode is no number")? & 0o7777) as u32,
            uid: unsigned(108..116, "owner is no number")?,
            gid: unsigned(116..124, "group is no number")?,
            size: unsigned(124..136, "size is no number")?,
            mtime: number(&block[136..148]).ok_or("time is no number")?,
            major: device(329..337),
            minor: device(337..345),
        })
    }
}

/// A NUL-terminated field.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A numeric field: octal text, or GNU's base 256 when the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = field
        .split(|byte| matches!(byte, 0 | b' '))
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Seconds with an optional fraction, possibly negative: `1.5`, `-0.25`.
fn pax_time(value: &[u8]) -> Option<Timestamp> {
    let value = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = if whole == "-" { 0 } else { whole.parse().ok()? };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut nanoseconds: u32 = 0;
    for at in 0..9 {
        let digit = fraction.as_bytes().get(at).map_or(0, |digit| digit - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    if negative && 0 < nanoseconds {
        return Some(Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Timestamp { seconds, nanoseconds })
}

/// Iterates over `<length> <key>=<value>\n` records (POSIX.1-2001 pax).
struct PaxRecords<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for PaxRecords<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.rest.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = self.take();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.ok_or("PAX header is garbled"))
    }
}

impl<'a> PaxRecords<'a> {
    fn take(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.rest.iter().take(20).position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(&self.rest[..space])?).ok()?;
        let record = self.rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        self.rest = &self.rest[length..];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        Some((&record[..equals], &record[equals + 1..]))
    }
}
