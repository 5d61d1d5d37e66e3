//! The files of the audit log: JSON lines, each with the hash of the line before.
//!
//! | file | content |
//! |---|---|
//! | `audit.log` | the newest lines |
//! | `audit-<number of its first line, 20 digits>.log` | older ones, whole |
//!
//! Who changes, removes or inserts a line breaks the chain at the next one. The hash of the last
//! line, which `verify` tells, speaks for everything before it: written down elsewhere it also
//! proves that nothing was cut off at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_model::Digest;
use serde::{Deserialize, Serialize};

/// Name of the file that is written.
const CURRENT: &str = "audit.log";

/// Longest line, in bytes: what is read back at a start.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Longest detail of a line, in bytes; JSON makes up to six of one.
const DETAIL_BYTES_MAX: usize = 4096;

/// Longest other text of a line, in bytes: what clients send must not make a line that cannot be
/// read back.
const TEXT_BYTES_MAX: usize = 768;

/// What a first line has in place of a hash.
const BEGINNING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A line of the audit log. Absent fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Number of the line, from 1 on.
    pub number: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What: `push`, `delete`, `delete_blob`, `mount`, `pull`, `login`, `login_failed`, `denied`,
    /// `token_issued`, `administration`, `policy_changed`, `lost`.
    pub action: String,
    /// Who; empty for the registry itself and anonymous clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// Address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Id of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The tag that was moved, removed or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The manifest or blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What the tag named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_digest: Option<String>,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The last event of the metadata that is in the log with this line.
    pub event: u64,
    /// Hash of the line before.
    pub previous: String,
}

/// What is wrong with an audit log, or that it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file failed.
    #[error("cannot use audit log {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The chain is broken: somebody changed the log, or the disk did.
    #[error("the audit log was changed: {} line {line}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Line in the file, from 1 on.
        line: u64,
        /// What does not fit.
        reason: &'static str,
    },
}

/// A log whose chain is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Lines, all files together.
    pub lines: u64,
    /// Hash of the last line.
    pub head: String,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AuditError {
    move |source| AuditError::File { path: path.to_owned(), source }
}

fn hash(line: &str) -> String {
    Digest::of(line.as_bytes()).to_string()
}

/// The log, open for writing.
pub(super) struct Chain {
    directory: PathBuf,
    file: File,
    size: u64,
    file_bytes_max: u64,
    number: u64,
    pub(super) event: u64,
    previous: String,
}

impl Chain {
    /// Goes on where the log ends; a line torn by a crash is cut off.
    ///
    /// # Errors
    /// [`AuditError`]
    pub(super) fn open(directory: &Path, file_bytes_max: u64) -> Result<Self, AuditError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed(directory))?;
        let path = directory.join(CURRENT);
        let file = append_to(&path)?;
        let mut chain = Self {
            directory: directory.to_owned(),
            file,
            size: 0,
            file_bytes_max,
            number: 0,
            event: 0,
            previous: BEGINNING.to_owned(),
        };
        let end = last_line(&mut chain.file).map_err(failed(&path))?;
        chain.file.set_len(end.size).map_err(failed(&path))?;
        chain.size = end.size;
        let mut last = end.line;
        if last.is_none()
            && let Some(older) = files(directory)?.iter().rev().find(|file| **file != path)
        {
            let mut file = File::open(older).map_err(failed(older))?;
            last = last_line(&mut file).map_err(failed(older))?.line;
        }
        if let Some(line) = last {
            let broken = || AuditError::Broken {
                path: path.clone(),
                line: 0,
                reason: "the last line is no record",
            };
            let record: AuditRecord = serde_json::from_str(&line).map_err(|_| broken())?;
            chain.number = record.number;
            chain.event = record.event;
            chain.previous = hash(&line);
        }
        Ok(chain)
    }

    /// Adds lines, durably; number, event and hash are filled in.
    pub(super) fn append(
        &mut self,
        records: impl Iterator<Item = (AuditRecord, Option<u64>)>,
    ) -> Result<(), AuditError> {
        let mut text = String::new();
        let (mut number, mut event) = (self.number, self.event);
        let mut previous = self.previous.clone();
        for (mut record, of_event) in records {
            number += 1;
            event = of_event.unwrap_or(event);
            record.number = number;
            record.event = event;
            record.previous = previous;
            bound(&mut record);
            // A struct of texts and numbers cannot fail to become JSON.
            let line = serde_json::to_string(&record).unwrap_or_default();
            previous = hash(&line);
            text.push_str(&line);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        let path = self.directory.join(CURRENT);
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a line must not stay in front of the next try.
            let _ = self.file.set_len(self.size);
            return Err(failed(&path)(error));
        }
        self.size += text.len() as u64;
        (self.number, self.event, self.previous) = (number, event, previous);
        if self.file_bytes_max <= self.size { self.rotate(&path) } else { Ok(()) }
    }

    fn rotate(&mut self, path: &Path) -> Result<(), AuditError> {
        let mut first = String::new();
        let mut reader = BufReader::new(File::open(path).map_err(failed(path))?);
        reader.read_line(&mut first).map_err(failed(path))?;
        let number =
            serde_json::from_str::<AuditRecord>(&first).map_or(self.number, |first| first.number);
        let older = self.directory.join(format!("audit-{number:020}.log"));
        std::fs::rename(path, &older).map_err(failed(&older))?;
        self.file = append_to(path)?;
        self.size = 0;
        let directory = File::open(&self.directory).map_err(failed(&self.directory))?;
        directory.sync_all().map_err(failed(&self.directory))
    }
}

/// Cuts what is too long for a line; a cut text ends with an ellipsis.
fn bound(record: &mut AuditRecord) {
    for text in [&mut record.action, &mut record.actor, &mut record.request] {
        cut(text, TEXT_BYTES_MAX);
    }
    let (place, digests) = (
        [&mut record.client, &mut record.repository, &mut record.tag],
        [&mut record.digest, &mut record.old_digest],
    );
    for text in place.into_iter().chain(digests).flatten() {
        cut(text, TEXT_BYTES_MAX);
    }
    if let Some(detail) = &mut record.detail {
        cut(detail, DETAIL_BYTES_MAX);
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    const ELLIPSIS: char = '…';
    if bytes_max < text.len() {
        text.truncate(text.floor_char_boundary(bytes_max - ELLIPSIS.len_utf8()));
        text.push(ELLIPSIS);
    }
}

fn append_to(path: &Path) -> Result<File, AuditError> {
    let options = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    options.map_err(failed(path))
}

struct LastLine {
    /// Bytes up to the end of the last whole line.
    size: u64,
    line: Option<String>,
}

fn last_line(file: &mut File) -> io::Result<LastLine> {
    let size = file.seek(SeekFrom::End(0))?;
    let from = size.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
        return Ok(LastLine { size: from, line: None });
    };
    let begin = tail[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = String::from_utf8_lossy(&tail[begin..end]).into_owned();
    Ok(LastLine { size: from + end as u64 + 1, line: Some(line) })
}

/// The files of a log, oldest first.
fn files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut older = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("audit-") && name.ends_with(".log") {
            older.push(entry.path());
        }
    }
    older.sort();
    let current = directory.join(CURRENT);
    if current.exists() {
        older.push(current);
    }
    Ok(older)
}

/// Reads a whole log and checks every link of its chain; `visit` sees each record. A log whose
/// oldest files were taken away begins with what is left.
///
/// # Errors
/// [`AuditError`], at the first line that does not fit.
pub fn read_audit_log(
    directory: &Path,
    mut visit: impl FnMut(&AuditRecord),
) -> Result<Verified, AuditError> {
    let mut expected: Option<(u64, String)> = None;
    let mut lines = 0;
    for path in files(directory)? {
        let reader = BufReader::new(File::open(&path).map_err(failed(&path))?);
        for (index, line) in reader.lines().enumerate() {
            let line = line.map_err(failed(&path))?;
            let broken =
                |reason| AuditError::Broken { path: path.clone(), line: index as u64 + 1, reason };
            let record: AuditRecord =
                serde_json::from_str(&line).map_err(|_| broken("it is no record"))?;
            match &expected {
                Some((number, _)) if record.number != *number => {
                    return Err(broken("lines before it are missing or new"));
                }
                Some((_, previous)) if record.previous != *previous => {
                    return Err(broken("the line before it is not what it was"));
                }
                None if record.number == 1 && record.previous != BEGINNING => {
                    return Err(broken("it is not the first line"));
                }
                Some(_) | None => {}
            }
            visit(&record);
            expected = Some((record.number + 1, hash(&line)));
            lines += 1;
        }
    }
    let head = expected.map_or_else(|| BEGINNING.to_owned(), |(_, head)| head);
    Ok(Verified { lines, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(action: &str) -> (AuditRecord, Option<u64>) {
        (AuditRecord { action: action.to_owned(), ..AuditRecord::default() }, None)
    }

    fn written(lines: usize, file_bytes_max: u64) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let mut chain = Chain::open(directory.path(), file_bytes_max).expect("a log");
        for _ in 0..lines {
            chain.append([record("push")].into_iter()).expect("a line");
        }
        directory
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
        let directory = written(3, u64::MAX);
        let path = directory.path().join(CURRENT);
        let mut file = OpenOptions::new().append(true).open(&path).expect("the log");
        file.write_all(b"{\"number\":4,\"act").expect("half a line");
        let mut chain = Chain::open(directory.path(), u64::MAX).expect("the log");
        chain.append([record("delete")].into_iter()).expect("a line");
        let mut actions = Vec::new();
        let verified = read_audit_log(directory.path(), |record| {
            actions.push(record.action.clone());
        });
        assert_eq!(verified.expect("a whole chain").lines, 4);
        assert_eq!(actions, ["push", "push", "push", "delete"]);
    }

    #[test]
    fn no_text_makes_a_line_that_a_restart_cannot_read() {
        let directory = written(1, u64::MAX);
        let mut chain = Chain::open(directory.path(), u64::MAX).expect("the log");
        let long = || "\u{1}".repeat(1024 * 1024);
        let longest = AuditRecord {
            action: long(),
            actor: long(),
            client: Some(long()),
            request: long(),
            repository: Some(long()),
            tag: Some(long()),
            digest: Some(long()),
            old_digest: Some(long()),
            detail: Some("ä".repeat(1024 * 1024)),
            ..AuditRecord::default()
        };
        let controls = AuditRecord { detail: Some(long()), ..longest.clone() };
        chain.append([(longest, None), (controls, None)].into_iter()).expect("lines");
        let text = std::fs::read_to_string(directory.path().join(CURRENT)).expect("the log");
        assert!(text.lines().all(|line| (line.len() as u64) < LINE_BYTES_MAX));
        let chain = Chain::open(directory.path(), u64::MAX).expect("the log after a restart");
        assert_eq!(chain.number, 3);
        assert_eq!(read_audit_log(directory.path(), |_| {}).expect("a whole chain").lines, 3);
    }

    #[test]
    fn files_rotate_by_size_and_the_chain_spans_them() {
        let directory = written(10, 500);
        let names = files(directory.path()).expect("files");
        assert!(names.len() > 2, "{names:?}");
        let verified = read_audit_log(directory.path(), |_| {}).expect("a whole chain");
        assert_eq!(verified.lines, 10);
        std::fs::remove_file(&names[0]).expect("retention");
        assert!(read_audit_log(directory.path(), |_| {}).is_ok(), "the oldest may go");
        std::fs::remove_file(&names[1]).expect("a gap");
        std::fs::copy(&names[2], &names[0]).expect("another file in its place");
        assert!(read_audit_log(directory.path(), |_| {}).is_err());
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let text = |directory: &tempfile::TempDir| {
            std::fs::read_to_string(directory.path().join(CURRENT)).expect("the log")
        };
        for (what, change) in [
            ("a changed line", (|text| text.replacen("push", "pull", 1)) as fn(String) -> String),
            ("a removed line", |text| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.remove(2);
                lines.join("\n") + "\n"
            }),
            ("swapped lines", |text| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.swap(1, 2);
                lines.join("\n") + "\n"
            }),
            ("a removed beginning with new numbers", |text| {
                let rest: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
                rest.replace("\"number\":2", "\"number\":1")
            }),
            ("garbage", |text| text + "garbage\n"),
        ] {
            let directory = written(5, u64::MAX);
            let changed = change(text(&directory));
            std::fs::write(directory.path().join(CURRENT), changed).expect("a change");
            assert!(read_audit_log(directory.path(), |_| {}).is_err(), "{what}");
        }
    }

    #[test]
    fn the_last_hash_tells_whether_the_end_was_cut_off() {
        let directory = written(5, u64::MAX);
        let whole = read_audit_log(directory.path(), |_| {}).expect("a whole chain");
        let path = directory.path().join(CURRENT);
        let text = std::fs::read_to_string(&path).expect("the log");
        let cut: String = text.lines().take(4).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, cut).expect("a change");
        let cut = read_audit_log(directory.path(), |_| {}).expect("a chain");
        assert_ne!(cut.head, whole.head);
    }
}
