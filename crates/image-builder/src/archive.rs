//! Archives as ADD unpacks them: recognised by content, never by name.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use layers::{ArchiveReader, Decoder, EntryKind};

use crate::tree::{Content, Node};

/// Bytes needed to recognise an archive: one tar header.
const HEADER_BYTES: usize = 512;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive is damaged.
    #[error("cannot unpack {}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        source: layers::ArchiveError,
    },
    /// A file could not be read or written.
    #[error("cannot unpack {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// How the bytes of a file are compressed, as far as ADD cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// Plain, gzip or zstd, which `layers` reads itself.
    Native,
    Xz,
    Bzip2,
}

/// Opens a file as a tar archive; `None` when it is none, whatever it is called.
pub(crate) fn open(path: &Path) -> io::Result<Option<ArchiveReader<Box<dyn Read + Send>>>> {
    let mut start = Vec::with_capacity(HEADER_BYTES);
    File::open(path)?.take(HEADER_BYTES as u64).read_to_end(&mut start)?;
    let packing = match start.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Packing::Bzip2,
        _ => Packing::Native,
    };
    let unpacked = || -> io::Result<Box<dyn Read + Send>> {
        let file = io::BufReader::with_capacity(256 * 1024, File::open(path)?);
        Ok(match packing {
            Packing::Native => Box::new(Decoder::new(file)?),
            Packing::Xz => Box::new(lzma_rust2::XzReader::new(file, true)),
            Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        })
    };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    // A file that only looks compressed is copied as it is.
    let Ok(reader) = unpacked() else { return Ok(None) };
    let read = reader.take(HEADER_BYTES as u64).read_to_end(&mut header);
    if read.is_err() || !is_tar_header(&header) {
        return Ok(None);
    }
    Ok(Some(ArchiveReader::new(unpacked()?)))
}

/// Bytes that come once, looked at.
pub(crate) enum Sniffed {
    /// A tar archive, uncompressed by the reader.
    Tar(Box<dyn Read + Send>),
    /// Something else, as it came.
    Other(Box<dyn Read + Send>),
    /// Something compressed that is no tar archive.
    NoArchive,
}

/// Looks whether a stream is a tar archive in any compression; nothing of it is lost.
pub(crate) fn sniff(mut bytes: Box<dyn Read + Send>) -> io::Result<Sniffed> {
    let mut start = Vec::with_capacity(HEADER_BYTES);
    (&mut bytes).take(HEADER_BYTES as u64).read_to_end(&mut start)?;
    let (packing, is_compressed) = match start.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => (Packing::Xz, true),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => (Packing::Bzip2, true),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => (Packing::Native, true),
        _ => (Packing::Native, false),
    };
    if !is_compressed && !is_tar_header(&start) {
        return Ok(Sniffed::Other(Box::new(io::Cursor::new(start).chain(bytes))));
    }
    let whole = io::Cursor::new(start).chain(bytes);
    let whole = io::BufReader::with_capacity(256 * 1024, whole);
    let mut reader: Box<dyn Read + Send> = match packing {
        Packing::Native => Box::new(Decoder::new(whole)?),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new(whole, true)),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
    };
    let mut header = Vec::with_capacity(HEADER_BYTES);
    (&mut reader).take(HEADER_BYTES as u64).read_to_end(&mut header)?;
    // An archive without entries is one all the same.
    let is_empty_archive = header.len() == HEADER_BYTES && header.iter().all(|byte| *byte == 0);
    if !is_tar_header(&header) && !is_empty_archive {
        return Ok(Sniffed::NoArchive);
    }
    Ok(Sniffed::Tar(Box::new(io::Cursor::new(header).chain(reader))))
}

/// Whether a block is a tar header: its checksum fits (POSIX.1-1988 ustar, `chksum`).
fn is_tar_header(block: &[u8]) -> bool {
    if block.len() < HEADER_BYTES || block.iter().all(|byte| *byte == 0) {
        return false;
    }
    let field = &block[148..156];
    let text: String = field
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| (b'0'..=b'7').contains(byte))
        .map(|byte| char::from(*byte))
        .collect();
    let Ok(expected) = u64::from_str_radix(&text, 8) else { return false };
    let sum = block.iter().enumerate().map(|(at, byte)| {
        if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) }
    });
    sum.sum::<u64>() == expected
}

/// The entries of an archive as nodes; contents are written into `spool`.
pub(crate) fn extract(
    path: &Path,
    mut archive: ArchiveReader<Box<dyn Read + Send>>,
    spool: &Spool,
) -> Result<Vec<Node>, ExtractError> {
    let damaged = |source| ExtractError::Archive { path: path.to_owned(), source };
    let mut nodes: Vec<Node> = Vec::new();
    let mut by_path = std::collections::HashMap::new();
    let mut links = 0;
    while let Some(mut entry) = archive.next_entry().map_err(damaged)? {
        let mut content = Content::Empty;
        let mut link = None;
        match &entry.kind {
            EntryKind::File { size } if 0 < *size => {
                content = Content::File(spool.write(&mut archive.content())?);
            }
            EntryKind::Hardlink { target } => {
                let Some(original) = by_path.get(target).copied() else { continue };
                let original: &mut Node = &mut nodes[original];
                if original.link.is_none() {
                    links += 1;
                    original.link = Some(links);
                }
                (content, link) = (original.content.clone(), original.link);
                let (path, kind) = (entry.path.clone(), original.entry.kind.clone());
                entry = original.entry.clone();
                (entry.path, entry.kind) = (path, kind);
            }
            _ => {}
        }
        by_path.insert(entry.path.clone(), nodes.len());
        nodes.push(Node { entry, content, link });
    }
    Ok(nodes)
}

/// A directory for contents on their way from an archive into a layer; removed when dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: tempfile::TempDir,
    files: std::sync::atomic::AtomicU64,
}

impl Spool {
    /// A new directory below `parent`.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("spool-").tempdir_in(parent)?;
        Ok(Self { directory, files: std::sync::atomic::AtomicU64::new(0) })
    }

    /// Writes a content into a file of its own.
    pub(crate) fn write(&self, content: &mut dyn Read) -> Result<PathBuf, ExtractError> {
        let number = self.files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.directory.path().join(number.to_string());
        let written = File::create_new(&path).and_then(|mut file| {
            io::copy(content, &mut file)?;
            file.flush()
        });
        written.map_err(|source| ExtractError::Io { path: path.clone(), source })?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layers::{Entry, LayerWriter, Timestamps};

    fn tar() -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
        writer.add(&Entry::directory("d", 0o755)).expect("memory");
        writer.add_with(&Entry::file("d/f", 0o600, 3), &b"abc"[..]).expect("memory");
        let kind = EntryKind::Hardlink { target: "d/f".into() };
        writer.add(&Entry::new("d/l", kind, 0o600)).expect("memory");
        writer.finish().expect("memory")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::default();
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("options");
        writer.write_all(bytes).expect("memory");
        writer.finish().expect("memory")
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        writer.write_all(bytes).expect("memory");
        writer.finish().expect("memory")
    }

    #[test]
    fn archives_are_recognised_by_content() {
        let root = tempfile::tempdir().expect("a directory");
        for (name, bytes) in [("plain", tar()), ("xz", xz(&tar())), ("bz", bzip2(&tar()))] {
            let path = root.path().join(name);
            std::fs::write(&path, bytes).expect("a file");
            let archive = open(&path).expect("readable").expect(name);
            let spool = Spool::new(root.path()).expect("a directory");
            let nodes = extract(&path, archive, &spool).expect("a good archive");
            let paths: Vec<_> =
                nodes.iter().map(|node| node.entry.path.display().to_string()).collect();
            assert_eq!(paths, ["d", "d/f", "d/l"], "{name}");
            assert_eq!(nodes[1].link, nodes[2].link);
            let Content::File(file) = &nodes[2].content else { panic!("no content") };
            assert_eq!(std::fs::read(file).expect("spooled"), b"abc");
        }
    }

    #[test]
    fn streams_are_recognised_and_nothing_of_them_is_lost() {
        let gzip = |bytes: &[u8]| {
            let mut out = layers::LayerSink::new(Vec::new(), layers::Compression::GZIP_DEFAULT);
            out.write_all(bytes).expect("memory");
            out.finish().expect("memory").1
        };
        for bytes in [tar(), gzip(&tar()), xz(&tar()), bzip2(&tar())] {
            let Sniffed::Tar(mut reader) = sniff(Box::new(io::Cursor::new(bytes))).expect("memory")
            else {
                panic!("no archive")
            };
            let mut all = Vec::new();
            reader.read_to_end(&mut all).expect("memory");
            assert_eq!(all, tar());
        }
        let text = b"FROM scratch\n".repeat(100);
        let Sniffed::Other(mut reader) =
            sniff(Box::new(io::Cursor::new(text.clone()))).expect("memory")
        else {
            panic!("a Dockerfile is no archive")
        };
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("memory");
        assert_eq!(all, text);
        let found = sniff(Box::new(io::Cursor::new(gzip(b"text")))).expect("memory");
        assert!(matches!(found, Sniffed::NoArchive));
    }

    #[test]
    fn other_files_are_no_archives() {
        let root = tempfile::tempdir().expect("a directory");
        for (name, bytes) in [
            ("a.tar.gz", b"not an archive".to_vec()),
            ("magic", vec![0x1f, 0x8b, 0x08, 1, 2, 3]),
            ("compressed-text.xz", xz(b"text")),
            ("empty.tar", Vec::new()),
        ] {
            let path = root.path().join(name);
            std::fs::write(&path, bytes).expect("a file");
            assert!(open(&path).expect("readable").is_none(), "{name}");
        }
    }
}
