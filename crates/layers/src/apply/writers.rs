//! Threads that create regular files. Files of one directory stay on one thread and in order:
//! the kernel locks a directory while it grows, so two threads in one would only wait.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::io::Errno;

use super::directories::{Directory, remove_tree};
use super::inode::{Creator, SkippedPart};
use super::{ApplyError, Skipped};
use crate::entry::Entry;

/// Files that wait per thread; with `FILE_BYTES_MAX` this bounds memory to 16 MiB a thread.
const WAITING_MAX: usize = 64;
/// Largest file handed to a thread; larger ones are streamed by the reader itself.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A file to create.
pub(super) struct FileJob {
    pub(super) directory: Arc<Directory>,
    pub(super) name: OsString,
    pub(super) entry: Entry,
    pub(super) content: Vec<u8>,
}

enum Job {
    File(FileJob),
    Barrier(Sender<()>),
}

/// What the threads share with the reader.
#[derive(Default)]
struct Shared {
    failed: AtomicBool,
    failure: Mutex<Option<ApplyError>>,
    skipped: Mutex<Vec<Skipped>>,
}

pub(super) struct Writers<'scope> {
    queues: Vec<Sender<Job>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    shared: Arc<Shared>,
    /// Buffers to fill again.
    spare: Receiver<Vec<u8>>,
    idle: bool,
}

impl<'scope> Writers<'scope> {
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        creator: Creator,
        threads: usize,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (give_back, spare) = bounded(WAITING_MAX);
        let mut writers =
            Self { queues: Vec::new(), threads: Vec::new(), shared, spare, idle: true };
        for _ in 0..threads {
            let (queue, jobs) = bounded(WAITING_MAX);
            let shared = writers.shared.clone();
            let give_back = give_back.clone();
            let thread = std::thread::Builder::new()
                .name("layer-write".to_owned())
                .spawn_scoped(scope, move || work(&jobs, &give_back, creator, &shared))?;
            writers.queues.push(queue);
            writers.threads.push(thread);
        }
        Ok(writers)
    }

    /// An empty buffer for the content of the next file.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_default()
    }

    pub(super) fn submit(&mut self, job: FileJob) -> Result<(), ApplyError> {
        self.check()?;
        self.idle = false;
        let queue = &self.queues[job.directory.ino as usize % self.queues.len()];
        queue.send(Job::File(job)).map_err(|_| ApplyError::Panicked)
    }

    /// Waits until every submitted file exists.
    pub(super) fn drain(&mut self) -> Result<(), ApplyError> {
        if !self.idle {
            let (done, all_done) = bounded(self.queues.len());
            for queue in &self.queues {
                queue.send(Job::Barrier(done.clone())).map_err(|_| ApplyError::Panicked)?;
            }
            for _ in &self.queues {
                all_done.recv().map_err(|_| ApplyError::Panicked)?;
            }
            self.idle = true;
        }
        self.check()
    }

    /// Ends the threads; what they passed over is handed back.
    pub(super) fn finish(mut self) -> Result<Vec<Skipped>, ApplyError> {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| ApplyError::Panicked)?;
        }
        self.check()?;
        let mut skipped = self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *skipped))
    }

    fn check(&self) -> Result<(), ApplyError> {
        if !self.shared.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        Err(failure.take().unwrap_or(ApplyError::Panicked))
    }
}

fn work(jobs: &Receiver<Job>, spare: &Sender<Vec<u8>>, creator: Creator, shared: &Shared) {
    for job in jobs {
        match job {
            Job::Barrier(done) => {
                let _ = done.send(());
            }
            // After a failure anywhere the tree is abandoned; the queue is only emptied.
            Job::File(_) if shared.failed.load(Ordering::Relaxed) => {}
            Job::File(mut job) => {
                let mut skipped = Vec::new();
                if let Err(error) = create(&job, creator, &mut skipped) {
                    let error = ApplyError::write(&job.entry.path, error);
                    let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    shared.failed.store(true, Ordering::Release);
                }
                record(&job.entry.path, skipped, shared);
                job.content.clear();
                let _ = spare.try_send(job.content);
            }
        }
    }
}

fn record(path: &std::path::Path, parts: Vec<SkippedPart>, shared: &Shared) {
    if !parts.is_empty() {
        let mut skipped = shared.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let path: PathBuf = path.to_owned();
        skipped.extend(parts.into_iter().map(|part| Skipped { path: path.clone(), part }));
    }
}

fn create(job: &FileJob, creator: Creator, skipped: &mut Vec<SkippedPart>) -> Result<(), Errno> {
    let file = create_replacing(&job.directory, &job.name, &job.entry, creator)?;
    let mut rest = &job.content[..];
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    creator.finish_file(&file, &job.directory, &job.entry, skipped)
}

/// Opens a new file where anything may stand already.
pub(super) fn create_replacing(
    directory: &Directory,
    name: &std::ffi::OsStr,
    entry: &Entry,
    creator: Creator,
) -> Result<OwnedFd, Errno> {
    match creator.create_file(directory, name, entry) {
        Err(Errno::EXIST) => {
            remove_tree(directory, name)?;
            creator.create_file(directory, name, entry)
        }
        opened => opened,
    }
}
