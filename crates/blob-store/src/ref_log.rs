//! The append-only logs that hold the refs; the format is described at the crate.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci_model::Digest;

use crate::durable::{FileLock, GroupSync, LockKind, SyncKind, lock, sync_directory};
use crate::error::{Context as _, DiskError, RefError};

/// Longest record, in bytes: the digests of one ref with room to spare. A record is appended
/// whole, so this also bounds how far a writer looks back for a torn line.
pub(crate) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A log is rewritten when it is larger than this and mostly outdated, in bytes.
const COMPACT_BYTES_MIN: u64 = 1024 * 1024;

/// A change of one ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The ref keeps these digests, and no others.
    Set { name: String, digests: Vec<Digest> },
    /// The ref is gone.
    Delete { name: String },
}

impl Record {
    /// The line of the record, with its line feed.
    pub(crate) fn encode(&self) -> String {
        let mut line = match self {
            Self::Set { name, digests } => {
                let mut line = format!("set {}", encode_name(name));
                for digest in digests {
                    line.push(' ');
                    line.push_str(&digest.to_string());
                }
                line
            }
            Self::Delete { name } => format!("del {}", encode_name(name)),
        };
        let checksum = fnv1a(line.as_bytes());
        line.push_str(&format!(" {checksum:016x}\n"));
        line
    }

    /// Reads a line without its line feed; `None` if it does not check.
    pub(crate) fn decode(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let (record, checksum) = line.rsplit_once(' ')?;
        if checksum.len() != 16
            || u64::from_str_radix(checksum, 16).ok()? != fnv1a(record.as_bytes())
        {
            return None;
        }
        let mut words = record.split(' ');
        let (verb, name) = (words.next()?, decode_name(words.next()?)?);
        match verb {
            "set" => {
                let digests = words.map(str::parse).collect::<Result<_, _>>().ok()?;
                Some(Self::Set { name, digests })
            }
            "del" if words.next().is_none() => Some(Self::Delete { name }),
            _ => None,
        }
    }
}

/// All logs of a store, one per owner.
#[derive(Debug)]
pub(crate) struct RefLogs {
    directory: PathBuf,
    logs: Mutex<HashMap<String, Arc<RefLog>>>,
}

/// The log of one owner as this process sees it.
#[derive(Debug)]
pub(crate) struct RefLog {
    path: PathBuf,
    lock_path: PathBuf,
    open: Mutex<Option<Arc<GroupSync>>>,
    view: Mutex<View>,
}

/// The refs of a log, up to an offset of a certain file.
#[derive(Debug, Default)]
struct View {
    inode: u64,
    offset: u64,
    refs: BTreeMap<String, Vec<Digest>>,
}

impl RefLogs {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, logs: Mutex::default() }
    }

    /// The log of `owner`, which need not exist yet.
    pub(crate) fn log(&self, owner: &str) -> Arc<RefLog> {
        let mut logs = lock(&self.logs);
        if let Some(log) = logs.get(owner) {
            return Arc::clone(log);
        }
        let log = Arc::new(RefLog {
            path: self.directory.join(format!("{owner}.log")),
            lock_path: self.directory.join(format!("{owner}.lock")),
            open: Mutex::default(),
            view: Mutex::default(),
        });
        logs.insert(owner.to_owned(), Arc::clone(&log));
        log
    }

    /// Everybody who has a log.
    pub(crate) fn owners(&self) -> Result<Vec<String>, DiskError> {
        let mut owners = Vec::new();
        for entry in std::fs::read_dir(&self.directory).doing("list", &self.directory)? {
            let path = entry.doing("list", &self.directory)?.path();
            if path.extension().is_some_and(|extension| extension == "log")
                && let Some(owner) = path.file_stem().and_then(|stem| stem.to_str())
            {
                owners.push(owner.to_owned());
            }
        }
        owners.sort();
        Ok(owners)
    }

    pub(crate) fn mirror_path(&self, owner: &str) -> PathBuf {
        self.directory.join(format!("{owner}.mirror"))
    }
}

impl RefLog {
    /// Appends records in one write. They are seen by everybody, but durable only after
    /// [`GroupSync::settle`] on what this returns.
    pub(crate) fn append(&self, records: &[Record]) -> Result<Arc<GroupSync>, RefError> {
        let text: String = records.iter().map(Record::encode).collect();
        let mut open = lock(&self.open);
        let _lock = FileLock::acquire(&self.lock_path, LockKind::Exclusive)?;
        let log = self.current(&mut open)?;
        let mut file = log.file();
        let end = cut_torn_line(file, &self.path)?;
        if let Err(source) = file.write_all(text.as_bytes()) {
            // What was written of it must not become part of a later line.
            file.set_len(end).doing("truncate", &self.path)?;
            return Err(DiskError::new("write", &self.path, source).into());
        }
        log.mark();
        Ok(log)
    }

    /// The path of the log, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `read` with the refs as they are now.
    pub(crate) fn with_refs<T>(
        &self,
        read: impl FnOnce(&BTreeMap<String, Vec<Digest>>) -> T,
    ) -> Result<T, RefError> {
        let mut view = lock(&self.view);
        self.catch_up(&mut view)?;
        Ok(read(&view.refs))
    }

    /// The refs as they are now, without keeping them in memory for later reads.
    pub(crate) fn take_refs(&self) -> Result<BTreeMap<String, Vec<Digest>>, RefError> {
        let mut view = lock(&self.view);
        self.catch_up(&mut view)?;
        Ok(std::mem::take(&mut *view).refs)
    }

    /// Reads every record behind `mark`, a position from an earlier call or the default, and moves
    /// it to the end; from the beginning if the log was rewritten since.
    pub(crate) fn read_on(
        &self,
        mark: &mut LogMark,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(), RefError> {
        let Some((mut file, inode, size)) = self.open_for_reading()? else { return Ok(()) };
        if mark.inode != inode {
            *mark = LogMark { inode, offset: 0 };
        }
        mark.offset = read_records(&mut file, &self.path, mark.offset, size, visit)?;
        Ok(())
    }

    /// Rewrites the log without outdated records if most of it is outdated.
    pub(crate) fn compact(&self) -> Result<(), RefError> {
        let mut open = lock(&self.open);
        let _lock = FileLock::acquire(&self.lock_path, LockKind::Exclusive)?;
        let mut view = lock(&self.view);
        self.catch_up(&mut view)?;
        let live: u64 = view.refs.values().map(|digests| 100 + 80 * digests.len() as u64).sum();
        if view.offset < COMPACT_BYTES_MIN || view.offset < 2 * live {
            return Ok(());
        }
        let staged = self.path.with_added_extension("new");
        let file = File::create(&staged).doing("create", &staged)?;
        let mut writer = std::io::BufWriter::new(&file);
        for (name, digests) in &view.refs {
            let record = Record::Set { name: name.clone(), digests: digests.clone() };
            writer.write_all(record.encode().as_bytes()).doing("write", &staged)?;
        }
        writer.flush().doing("write", &staged)?;
        drop(writer);
        rustix::fs::fdatasync(&file).doing("sync", &staged)?;
        std::fs::rename(&staged, &self.path).doing("replace", &self.path)?;
        if let Some(parent) = self.path.parent() {
            sync_directory(parent)?;
        }
        *open = None;
        *view = View::default();
        Ok(())
    }

    /// The open log, opened again if another process rewrote it. The caller holds the lock.
    fn current(&self, open: &mut Option<Arc<GroupSync>>) -> Result<Arc<GroupSync>, DiskError> {
        if let Some(log) = open.as_ref()
            && log.file().metadata().doing("stat", &self.path)?.nlink() > 0
        {
            return Ok(Arc::clone(log));
        }
        let exists = self.path.exists();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .doing("open", &self.path)?;
        if let (false, Some(parent)) = (exists, self.path.parent()) {
            sync_directory(parent)?;
        }
        let log = Arc::new(GroupSync::new(file, SyncKind::Data));
        *open = Some(Arc::clone(&log));
        Ok(log)
    }

    fn open_for_reading(&self) -> Result<Option<(File, u64, u64)>, DiskError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DiskError::new("open", &self.path, source)),
        };
        let metadata = file.metadata().doing("stat", &self.path)?;
        Ok(Some((file, metadata.ino(), metadata.len())))
    }

    fn catch_up(&self, view: &mut View) -> Result<(), RefError> {
        let Some((mut file, inode, size)) = self.open_for_reading()? else {
            *view = View::default();
            return Ok(());
        };
        if view.inode != inode {
            *view = View { inode, ..View::default() };
        }
        let refs = &mut view.refs;
        view.offset =
            read_records(&mut file, &self.path, view.offset, size, &mut |record| match record {
                Record::Set { name, digests } => drop(refs.insert(name, digests)),
                Record::Delete { name } => drop(refs.remove(&name)),
            })?;
        Ok(())
    }
}

/// How far a log was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogMark {
    inode: u64,
    offset: u64,
}

/// Reads whole lines from `offset` to `size` and returns where the last one ended. A line without
/// its line feed is being written now, or was torn by a crash: it is not there.
fn read_records(
    file: &mut File,
    path: &Path,
    offset: u64,
    size: u64,
    visit: &mut dyn FnMut(Record),
) -> Result<u64, RefError> {
    file.seek(SeekFrom::Start(offset)).doing("seek in", path)?;
    let mut reader = BufReader::with_capacity(64 * 1024, file.take(size.saturating_sub(offset)));
    let mut offset = offset;
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = RECORD_BYTES_MAX as u64 + 1;
        let count = (&mut reader).take(limit).read_until(b'\n', &mut line).doing("read", path)?;
        if count == 0 || (line.last() != Some(&b'\n') && count < RECORD_BYTES_MAX) {
            return Ok(offset);
        }
        let record = Record::decode(line.trim_ascii_end())
            .ok_or_else(|| RefError::Damaged { path: path.to_owned(), offset })?;
        visit(record);
        offset += count as u64;
    }
}

/// Cuts off a last line that has no line feed; returns the size of the rest.
fn cut_torn_line(mut file: &File, path: &Path) -> Result<u64, DiskError> {
    let size = file.metadata().doing("stat", path)?.len();
    let mut end = size;
    let mut window = [0; 4096];
    loop {
        let start = end.saturating_sub(window.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(window.len());
        // Usually the last byte of the file is a line feed, and this reads it alone.
        let (start, length) = if end == size && size > 0 { (size - 1, 1) } else { (start, length) };
        file.seek(SeekFrom::Start(start)).doing("seek in", path)?;
        file.read_exact(&mut window[..length]).doing("read", path)?;
        if let Some(found) = window[..length].iter().rposition(|byte| *byte == b'\n') {
            end = start + found as u64 + 1;
            break;
        }
        end = start;
        if end == 0 {
            break;
        }
    }
    if end < size {
        file.set_len(end).doing("truncate", path)?;
    }
    Ok(end)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/:@+".contains(&byte)
}

fn encode_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

fn decode_name(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// FNV-1a, 64 bits: finds torn and flipped bytes, which is all it is for.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
