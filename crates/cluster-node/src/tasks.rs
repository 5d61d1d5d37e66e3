//! The only place that spawns: every task belongs to a group that is told to end and awaited.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// How long tasks get to end by themselves.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Tells tasks to end.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSignal {
    /// Returns when the tasks have to end.
    pub(crate) async fn stopped(&self) {
        let mut receiver = self.0.clone();
        // An error means that the owner is gone, which is a stop as well.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

/// Tasks with one owner.
#[derive(Debug)]
pub(crate) struct Tasks {
    set: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Tasks { set: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// The signal that [`Tasks::finish`] gives.
    pub(crate) fn stop_signal(&self) -> StopSignal {
        StopSignal(self.stop.subscribe())
    }

    /// Runs a task until it ends or the group is finished.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop_signal();
        self.set.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.stopped() => {}
            }
        });
    }

    /// Runs a task that looks at the stop signal itself.
    pub(crate) fn spawn_stoppable<F>(&mut self, task: impl FnOnce(StopSignal) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let signal = self.stop_signal();
        self.set.spawn(task(signal));
    }

    /// Tells all tasks to end and waits for them.
    pub(crate) async fn finish(mut self) {
        let _ = self.stop.send(true);
        let drained = tokio::time::timeout(STOP_TIME_MAX, async {
            while let Some(ended) = self.set.join_next().await {
                report(ended);
            }
        })
        .await;
        if drained.is_err() {
            self.set.shutdown().await;
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "task panicked");
    }
}
