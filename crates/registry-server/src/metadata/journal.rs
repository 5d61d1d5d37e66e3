//! Links on their way to the database: lines `<repository> <digest> <size> <sequence>`.
//!
//! The file is emptied after a commit, but nothing makes that durable, and a process may die before
//! it. So the database says up to which sequence it has the links: a line that comes back must not
//! bring back a link that was deleted since.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_model::Repository;

use super::MetadataError;
use super::tables::StoredLink;

/// The open journal.
pub(crate) struct Journal {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// Whether more than that is in the file: a line that failed in the middle.
    torn: bool,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal and reads what the last process left in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(u64, StoredLink)>), MetadataError> {
        let failed = |source| MetadataError::File { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        // What follows the last line feed was torn by a crash.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let links = text.lines().filter_map(decode).collect();
        Ok((Self { file, length: whole as u64, torn: false, path: path.to_owned() }, links))
    }

    /// Writes a link. It survives the death of the process when this returns.
    pub(crate) fn append(&mut self, sequence: u64, link: &StoredLink) -> Result<(), MetadataError> {
        let line = encode(sequence, link);
        let written = self.mend().and_then(|()| {
            self.torn = true;
            self.file.write_all(line.as_bytes())
        });
        match written {
            Ok(()) => {
                self.torn = false;
                self.length += line.len() as u64;
                Ok(())
            }
            Err(source) => {
                // If that fails as well, the next append does it first.
                let _ = self.mend();
                Err(self.failed(source))
            }
        }
    }

    /// Cuts off a part of a line: it would spoil the next one.
    fn mend(&mut self) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Forgets everything: the database has it.
    pub(crate) fn clear(&mut self) -> Result<(), MetadataError> {
        self.file.set_len(0).map_err(|source| self.failed(source))?;
        (self.length, self.torn) = (0, false);
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> MetadataError {
        MetadataError::File { path: self.path.clone(), source }
    }
}

fn encode(sequence: u64, link: &StoredLink) -> String {
    format!("{} {} {} {sequence}\n", link.repository, link.digest, link.size)
}

fn decode(line: &str) -> Option<(u64, StoredLink)> {
    let mut words = line.split(' ');
    let repository = Repository::new(words.next()?).ok()?;
    let digest = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    // Earlier versions wrote no sequence: their lines always count.
    let sequence = words.next().map_or(Ok(u64::MAX), str::parse).ok()?;
    words.next().is_none().then_some((sequence, StoredLink { repository, digest, size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_and_the_rest_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("links.journal");
        let link = StoredLink {
            repository: Repository::new("team/app").expect("a name"),
            digest: oci_model::Digest::of(b""),
            size: 12,
        };
        let line = encode(7, &link);
        assert_eq!(line, format!("team/app {} 12 7\n", oci_model::Digest::of(b"")));
        std::fs::write(&path, format!("{line}{}", &line[..line.len() - 1])).expect("a journal");
        let (mut journal, links) = Journal::open(&path).expect("the journal");
        assert_eq!(links, [(7, link.clone())]);
        journal.append(7, &link).expect("an append");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), line.repeat(2));
        // A write that ended in the middle, as on a full disk.
        journal.file.write_all(b"team/a").expect("a part of a line");
        journal.torn = true;
        journal.append(8, &link).expect("an append");
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, line.repeat(2) + &encode(8, &link));
        journal.clear().expect("a clear");
        assert_eq!(Journal::open(&path).expect("the journal").1, []);
    }
}
