//! Trees and archives as text, so that a test is data in, data out.
//!
//! A line is `kind path mode uid:gid [detail]`, for example `file etc/motd 644 0:0 'hi'`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use layers::{
    ApplyOptions, ArchiveReader, Entry, EntryKind, LayerWriter, Timestamp, Timestamps, Whiteouts,
};

/// Builds an archive of the lines, verbatim: removal markers and hostile names included.
pub(crate) fn archive(lines: &str) -> Vec<u8> {
    let mut tar = tar_builder();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        add_line(&mut tar, line);
    }
    tar.finish()
}

/// Raw ustar writer without any of the product's checks.
pub(crate) struct TarBuilder {
    bytes: Vec<u8>,
}

pub(crate) fn tar_builder() -> TarBuilder {
    TarBuilder { bytes: Vec::new() }
}

impl TarBuilder {
    pub(crate) fn header(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        mode: u32,
        ids: (u32, u32),
        size: u64,
    ) {
        let mut block = [0u8; 512];
        block[..name.len()].copy_from_slice(name);
        let mut put = |at: usize, text: String| {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(100, format!("{mode:07o}\0"));
        put(108, format!("{:07o}\0", ids.0));
        put(116, format!("{:07o}\0", ids.1));
        put(124, format!("{size:011o}\0"));
        put(136, format!("{:011o}\0", 1_000_000_000));
        put(148, "        ".to_owned());
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        if kind == b'3' || kind == b'4' {
            block[329..337].copy_from_slice(b"0000001\0");
            block[337..345].copy_from_slice(b"0000003\0");
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    pub(crate) fn content(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        let padded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(padded, 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

fn add_line(tar: &mut TarBuilder, line: &str) {
    let mut words = line.splitn(5, ' ');
    let kind = words.next().unwrap();
    let name = words.next().unwrap().as_bytes();
    let mode = u32::from_str_radix(words.next().unwrap_or("644"), 8).unwrap();
    let ids = words.next().unwrap_or("0:0");
    let (uid, gid) = ids.split_once(':').unwrap();
    let ids = (uid.parse().unwrap(), gid.parse().unwrap());
    let detail = words.next().unwrap_or("");
    match kind {
        "file" => {
            let content = detail.trim_matches('\'').as_bytes();
            tar.header(b'0', name, b"", mode, ids, content.len() as u64);
            tar.content(content);
        }
        "dir" => tar.header(b'5', name, b"", mode, ids, 0),
        "link" => tar.header(b'2', name, detail.as_bytes(), mode, ids, 0),
        "hard" => tar.header(b'1', name, detail.as_bytes(), mode, ids, 0),
        "char" => tar.header(b'3', name, b"", mode, ids, 0),
        "fifo" => tar.header(b'6', name, b"", mode, ids, 0),
        other => panic!("unknown kind {other}"),
    }
}

/// Describes a tree on disk, sorted.
pub(crate) fn tree(root: &Path) -> String {
    let mut lines = Vec::new();
    describe(root, Path::new(""), &mut lines);
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

fn describe(root: &Path, path: &Path, lines: &mut Vec<(std::path::PathBuf, String)>) {
    for entry in fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let path = path.join(entry.file_name());
        let metadata = entry.metadata().unwrap();
        let kind = metadata.file_type();
        let head = |word: &str| {
            let mode = metadata.mode() & 0o7777;
            let (uid, gid) = (metadata.uid(), metadata.gid());
            format!("{word} {} {mode:o} {uid}:{gid}", path.display())
        };
        let line = if kind.is_dir() {
            head("dir")
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            format!("link {} -> {}", path.display(), target.display())
        } else if kind.is_file() {
            let mut content = Vec::new();
            fs::File::open(entry.path()).unwrap().take(64).read_to_end(&mut content).unwrap();
            format!("{} '{}'", head("file"), String::from_utf8_lossy(&content))
        } else if kind.is_fifo() {
            head("fifo")
        } else if kind.is_char_device() {
            format!("{} {}", head("char"), metadata.rdev())
        } else {
            head("other")
        };
        lines.push((path.clone(), line));
        if kind.is_dir() {
            describe(root, &path, lines);
        }
    }
}

/// Describes an archive in its own order.
pub(crate) fn listing(archive: &[u8]) -> String {
    let mut reader = ArchiveReader::new(archive);
    let mut lines = String::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content).unwrap();
        let text = String::from_utf8_lossy(&content).into_owned();
        let path = entry.path.display();
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        let line = match &entry.kind {
            EntryKind::Directory => format!("dir {path} {mode:o} {uid}:{gid}"),
            EntryKind::File { .. } => format!("file {path} {mode:o} {uid}:{gid} '{text}'"),
            EntryKind::Symlink { target } => format!("link {path} -> {}", target.display()),
            EntryKind::Hardlink { target } => format!("hard {path} -> {}", target.display()),
            other => format!("{other:?} {path}"),
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// Removes indentation and empty lines, so that expectations can be indented.
pub(crate) fn lines(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}

pub(crate) fn options(whiteouts: Whiteouts) -> ApplyOptions {
    ApplyOptions::for_this_process(whiteouts)
}

pub(crate) fn apply(archive: &[u8], root: &Path, whiteouts: Whiteouts) -> layers::Applied {
    layers::apply(archive, root, &options(whiteouts)).unwrap()
}

/// Writes entries through the product's own writer.
pub(crate) fn written(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    for (entry, content) in entries {
        writer.add_with(entry, *content).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}
