//! Tells when something happens in the directory of a file: programs replace config files, and
//! nodes replace the files of mounted secrets, by renames beside them.

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::Stream;
use futures_util::stream;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::exit::{Failure, Kind};

/// Shortest pause between two looks without a change.
pub(super) const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Bytes for the events of one read.
const BUFFER_BYTES: usize = 4096;

/// One item for each burst of changes beside `path`.
pub(super) fn beside(path: &Path) -> Result<impl Stream<Item = ()> + Send + 'static, Failure> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    };
    let watched = || -> anyhow::Result<_> {
        let queue = inotify::init(CreateFlags::CLOEXEC)?;
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE;
        inotify::add_watch(&queue, &directory, changes | WatchFlags::ONLYDIR)?;
        Ok(queue)
    };
    let queue = watched()
        .with_context(|| format!("cannot watch {}", directory.display()))
        .map_err(|error| Failure::new(Kind::Environment, error))?;
    // One place: what has not been looked at yet stands for all that follows.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    // A read of the queue blocks until something happens, which may be never.
    std::thread::spawn(move || {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = inotify::Reader::new(queue, &mut buffer);
        while events.next().is_ok() {
            let full = matches!(
                sender.try_send(()),
                Err(tokio::sync::mpsc::error::TrySendError::Full(()))
            );
            if !full && sender.is_closed() {
                return;
            }
        }
    });
    Ok(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|()| ((), receiver))
    }))
}
