//! Follows a log while its container runs, also across rotation.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use container_runtime::Container as Runner;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::format::{LogOptions, More, Printer, read_present};

/// Pieces that wait for a slow reader.
pub(crate) const PIECES_MAX: usize = 16;

/// Sends a log to `output`; with `follow` until the container ends.
///
/// # Errors
/// The log cannot be read.
pub(crate) async fn stream(
    log: PathBuf,
    options: LogOptions,
    runner: Option<Runner>,
    output: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // Watch first: what is written while the present is read must not be missed.
    let watcher = if options.follow { Some(Watcher::new(&log)?) } else { None };
    let (path, asked, sender) = (log.clone(), options.clone(), output.clone());
    let present = tokio::task::spawn_blocking(move || {
        let mut printer = Printer::new(&asked);
        let file = File::open(&path).ok();
        let end = read_present(&path, &asked, &mut printer, |piece| {
            match sender.blocking_send(Ok(Bytes::from(piece))) {
                Ok(()) => More::Yes,
                Err(_) => More::No,
            }
        });
        end.map(|(position, more)| (printer, file, position, more))
    });
    let (printer, file, position, more) = present.await.map_err(io::Error::other)??;
    let (Some(watcher), More::Yes) = (watcher, more) else { return Ok(()) };
    let mut follower = Follower { log, file, position, printer };
    let end = match &runner {
        Some(runner) => runner
            .end_watch()
            .map_err(io::Error::other)?
            .map(crate::descriptors::watch)
            .transpose()?,
        None => None,
    };
    loop {
        let ended = match &end {
            None => true,
            Some(end) => tokio::select! {
                _ = end.readable() => true,
                changed = watcher.changed() => {
                    changed?;
                    false
                }
                () = output.closed() => return Ok(()),
            },
        };
        let (pieces, more) = follower.read_on()?;
        for piece in pieces {
            if output.send(Ok(Bytes::from(piece))).await.is_err() {
                return Ok(());
            }
        }
        if ended || more == More::No {
            return Ok(());
        }
    }
}

/// The place in the log up to which it has been sent.
struct Follower {
    log: PathBuf,
    file: Option<File>,
    position: u64,
    printer: Printer,
}

impl Follower {
    /// Reads what is new in the open file, then in the file that has taken its place.
    fn read_on(&mut self) -> io::Result<(Vec<Vec<u8>>, More)> {
        let mut pieces = Vec::new();
        loop {
            if let Some(file) = &self.file {
                let (piece, position, more) = read_from(file, self.position, &mut self.printer)?;
                self.position = position;
                if !piece.is_empty() {
                    pieces.push(piece);
                }
                if more == More::No {
                    return Ok((pieces, More::No));
                }
            }
            let Ok(current) = File::open(&self.log) else { return Ok((pieces, More::Yes)) };
            let same = match &self.file {
                Some(file) => file.metadata()?.ino() == current.metadata()?.ino(),
                None => false,
            };
            if same {
                return Ok((pieces, More::Yes));
            }
            self.file = Some(current);
            self.position = 0;
        }
    }
}

fn read_from(
    file: &File,
    position: u64,
    printer: &mut Printer,
) -> io::Result<(Vec<u8>, u64, More)> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(position))?;
    let (mut position, mut output, mut line) = (position, Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.pop() != Some(b'\n') {
            return Ok((output, position, More::Yes));
        }
        position += read as u64;
        if printer.print(&line, &mut output) == More::No {
            return Ok((output, position, More::No));
        }
    }
}

/// Tells when something happens in the directory of a log.
struct Watcher {
    descriptor: AsyncFd<OwnedFd>,
}

impl Watcher {
    fn new(log: &Path) -> io::Result<Self> {
        let directory = log.parent().unwrap_or(Path::new("/"));
        let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&descriptor, directory, flags)?;
        Ok(Watcher { descriptor: crate::descriptors::watch(descriptor)? })
    }

    /// Returns after at least one change; all changes so far count as one.
    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            let mut buffer = [0u8; 4096];
            let drained = ready.try_io(|descriptor| {
                rustix::io::read(descriptor.get_ref(), &mut buffer).map_err(io::Error::from)
            });
            match drained {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                // Nothing there after all.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mini-kubernetes.md 14, row 79: follow across rotation.
    #[test]
    fn row_79_follower_finishes_the_old_file_before_the_new_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = dir.path().join("0.log");
        let line = |text: &str| format!("2024-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&log, line("a")).expect("log");
        let mut follower = Follower {
            log: log.clone(),
            file: File::open(&log).ok(),
            position: 0,
            printer: Printer::new(&LogOptions::default()),
        };
        let mut next = || -> String {
            let (pieces, _) = follower.read_on().expect("read");
            String::from_utf8(pieces.concat()).expect("text")
        };
        assert_eq!(next(), "a\n");
        assert_eq!(next(), "");
        let append = |text: &str| {
            let mut bytes = std::fs::read(&log).expect("log");
            bytes.extend_from_slice(text.as_bytes());
            std::fs::write(&log, bytes).expect("log");
        };
        append(&line("b"));
        std::fs::rename(&log, dir.path().join("0.log.1")).expect("rotation");
        std::fs::write(&log, line("c")).expect("log");
        assert_eq!(next(), "b\nc\n");
    }
}
