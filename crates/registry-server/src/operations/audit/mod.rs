//! Who did what: changes as the metadata tells of them, and what changes nothing (logins,
//! refusals, pulls) as it happens.

mod chain;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::chain::Chain;
use crate::metadata::{Action, Event, Metadata, MetadataError};

pub use self::chain::{AuditError, AuditRecord, Verified, read_audit_log};

/// Records that may wait for the disk; beyond it they are counted and lost, and the log says so.
const QUEUED_MAX: usize = 8192;

/// Lines written with one sync.
const BATCH_LINES: usize = 512;

/// How often changes of other replicas are looked for, and a full disk is tried again.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Where the audit log is and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// Directory of its files; created if missing.
    pub directory: PathBuf,
    /// Size from which on a file is closed and another begun, in bytes.
    pub file_bytes_max: u64,
    /// Every how many pulls of a manifest one is recorded; none without.
    pub pulls_every: Option<u64>,
}

impl AuditOptions {
    /// All changes and logins, no pulls, files of 64 MiB.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, file_bytes_max: 64 * 1024 * 1024, pulls_every: None }
    }
}

/// Takes records from requests.
pub(crate) struct AuditSender {
    sender: mpsc::Sender<AuditRecord>,
    lost: Arc<AtomicU64>,
    pulls_every: Option<u64>,
    pulls: AtomicU64,
}

impl AuditSender {
    /// Notes something. The time is filled in.
    pub(crate) fn note(&self, mut record: AuditRecord) {
        record.at = timestamp(SystemTime::now());
        if self.sender.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether this pull is one of those that are recorded.
    pub(crate) fn wants_pull(&self) -> bool {
        let Some(every) = self.pulls_every else { return false };
        self.pulls.fetch_add(1, Ordering::Relaxed).is_multiple_of(every.max(1))
    }
}

/// The task that writes the log.
pub(crate) struct Auditor {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Opens the log.
///
/// # Errors
/// [`AuditError`]
pub(crate) fn open(options: &AuditOptions) -> Result<(AuditSender, Pending), AuditError> {
    let (sender, receiver) = mpsc::channel(QUEUED_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let sender = AuditSender {
        sender,
        lost: Arc::clone(&lost),
        pulls_every: options.pulls_every,
        pulls: AtomicU64::new(0),
    };
    let chain = Chain::open(&options.directory, options.file_bytes_max)?;
    Ok((sender, Pending { chain, receiver, lost, kept: Vec::new() }))
}

/// An open log, and what is to be written into it.
pub(crate) struct Pending {
    chain: Chain,
    receiver: mpsc::Receiver<AuditRecord>,
    lost: Arc<AtomicU64>,
    /// Taken from the queue and not yet written, since the disk did not take it.
    kept: Vec<AuditRecord>,
}

impl Auditor {
    /// Writes what happens from now on, and what happened since the log was last written.
    pub(crate) fn start(pending: Pending, metadata: Metadata) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { task: tokio::spawn(write(pending, metadata, stopped)), stop }
    }

    /// Writes what is there and ends.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the task that writes the audit log panicked");
        }
    }
}

async fn write(mut pending: Pending, metadata: Metadata, mut stopped: watch::Receiver<bool>) {
    loop {
        // Whatever is asked to stop now gets one more look at what there is.
        let last = *stopped.borrow();
        let made = metadata.made();
        let source = metadata.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = pending.write_all(&source);
            (pending, written)
        });
        match written.await {
            Ok((back, written)) => {
                pending = back;
                if let Err(error) = written {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "the audit log cannot be written");
                }
            }
            Err(error) => return tracing::error!(%error, "the audit log is written no more"),
        }
        if last {
            return;
        }
        let room = BATCH_LINES.saturating_sub(pending.kept.len());
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = made => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            // A log that cannot be written must not empty the queue into memory.
            _ = pending.receiver.recv_many(&mut pending.kept, room), if room > 0 => {}
        }
    }
}

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Log(#[from] AuditError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl Pending {
    fn write_all(&mut self, metadata: &Metadata) -> Result<(), WriteError> {
        loop {
            let events = metadata.events(self.chain.event, BATCH_LINES)?;
            let count = events.len();
            self.chain.append(
                events.into_iter().map(|(sequence, event)| (of_event(event), Some(sequence))),
            )?;
            if count < BATCH_LINES {
                break;
            }
        }
        while let Ok(record) = self.receiver.try_recv() {
            self.kept.push(record);
            if BATCH_LINES <= self.kept.len() {
                self.write_kept()?;
            }
        }
        self.write_kept()
    }

    fn write_kept(&mut self) -> Result<(), WriteError> {
        let lost = self.lost.load(Ordering::Relaxed);
        let loss = (lost > 0).then(|| AuditRecord {
            at: timestamp(SystemTime::now()),
            action: "lost".to_owned(),
            detail: Some(format!("{lost} records, for which there was no room")),
            ..AuditRecord::default()
        });
        let records = self.kept.iter().cloned().chain(loss).map(|record| (record, None));
        self.chain.append(records)?;
        self.kept.clear();
        self.lost.fetch_sub(lost, Ordering::Relaxed);
        Ok(())
    }
}

fn of_event(event: Event) -> AuditRecord {
    let action = match event.action {
        Action::Push => "push",
        Action::Delete => "delete",
        Action::DeleteBlob => "delete_blob",
        Action::Mount => "mount",
        Action::Restore => "restore",
        Action::Purge => "purge",
        Action::DeleteRepository => "delete_repository",
    };
    let how = event.how.map(|how| how.as_str().to_owned());
    let more = event.more.map(|more| format!("and {more} more tags and manifests"));
    let detail = how.into_iter().chain(more).reduce(|how, more| format!("{how}, {more}"));
    AuditRecord {
        at: timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(event.at)),
        action: action.to_owned(),
        actor: event.by,
        request: event.request,
        repository: Some(event.repository),
        tag: event.tag,
        digest: event.digest,
        old_digest: event.old_digest,
        detail,
        ..AuditRecord::default()
    }
}

/// RFC 3339 with milliseconds, UTC.
pub(crate) fn timestamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}
