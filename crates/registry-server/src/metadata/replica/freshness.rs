//! Questions whether the tables are current. While one is on its way the others gather; the next
//! one is for all of them.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::writer::Message;
use super::{Ground, Moment, entry};
use crate::metadata::changes::ChangeError;
use crate::metadata::lock;

/// Requests that may wait for an answer; beyond it clients are told to come back.
const WAITING_MAX: usize = 8192;

/// How often a question is asked again because the place moved meanwhile, before the writer is
/// asked to settle it.
const ROUNDS_MAX: usize = 4;

type Waiting = oneshot::Sender<Result<(), ChangeError>>;

/// The way to the task that asks.
pub(super) struct Freshness {
    sender: mpsc::Sender<Waiting>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Freshness {
    pub(super) fn start(
        ground: Arc<Ground>,
        writer: SyncSender<Message>,
        runtime: &Handle,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let task = runtime.spawn(run(ground, writer, receiver));
        Self { sender, task: Mutex::new(Some(task)) }
    }

    pub(super) async fn current(&self) -> Result<(), ChangeError> {
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(reply).map_err(|_| ChangeError::Busy)?;
        answer.await.unwrap_or(Err(ChangeError::Busy))
    }

    pub(super) fn close(&self) {
        // With the task its sender to the writer goes, which lets the writer end.
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

async fn run(
    ground: Arc<Ground>,
    writer: SyncSender<Message>,
    mut receiver: mpsc::Receiver<Waiting>,
) {
    let mut waiting = Vec::new();
    while receiver.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let answer = ask(&ground, &writer).await;
        for reply in waiting.drain(..) {
            let answer = match &answer {
                Ok(()) => Ok(()),
                Err(ChangeError::Busy) => Err(ChangeError::Busy),
                Err(_) => Err(ChangeError::Unavailable),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }
}

async fn ask(ground: &Ground, writer: &SyncSender<Message>) -> Result<(), ChangeError> {
    for _ in 0..ROUNDS_MAX {
        let sequence = ground.place().sequence;
        let asked = Moment::now();
        let next = ground.objects.get(&entry::key(sequence + 1)).await;
        match next {
            // An answer that may be older than the log's old end is the writer's business.
            Ok(None) if ground.is_trusted() => {
                let mut place = lock(&ground.place);
                if place.sequence == sequence {
                    place.certain = Some(asked);
                }
                return Ok(());
            }
            Ok(Some(_)) if ground.place().sequence > sequence => {}
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(error = ?error, "the bucket does not say whether the log went on");
                return Err(ChangeError::Unavailable);
            }
        }
    }
    let (reply, answer) = oneshot::channel();
    match writer.try_send(Message::Follow(reply)) {
        Ok(()) => answer.await.unwrap_or(Err(ChangeError::Busy)),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(ChangeError::Busy),
    }
}
