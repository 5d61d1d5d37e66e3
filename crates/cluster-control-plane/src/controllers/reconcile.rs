//! The loop all controllers share: watch, queue, reconcile one key at a time, retry.
//!
//! A controller keeps no state that it could not read again: after a restart, or when a watch has
//! fallen behind the history, every object arrives once more as `ADDED`.

use std::future::Future;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::queue::{Key, Queue};
use crate::api::{ListOptions, WatchEvent, WatchStream};
use crate::client::Client;
use crate::error::ApiError;
use crate::resources::Resource;

/// Failures of one key after which an operator should know.
const PAUSE_WORTH_A_WARNING: Duration = Duration::from_secs(1);
/// Pause before a watch that cannot be opened is tried again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How long the loop sleeps when nothing is due; only a bound, events end it at once.
const IDLE: Duration = Duration::from_secs(3600);

/// What to do with a key after it was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing until something changes.
    Done,
    /// Look again after this time.
    In(Duration),
}

impl After {
    /// The earlier of two wishes.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::In(a), Self::In(b)) => Self::In(a.min(b)),
            (Self::In(wait), Self::Done) | (Self::Done, Self::In(wait)) => Self::In(wait),
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// One controller.
pub(super) trait Reconciler: Send {
    /// Name in logs and in `managedFields`.
    const NAME: &'static str;

    /// The kinds whose events wake it.
    fn watches(&self) -> &'static [&'static Resource];

    /// The keys an event concerns.
    fn keys(&mut self, resource: &'static Resource, event: &WatchEvent) -> Vec<Key>;

    /// Brings one key closer to what its object asks for.
    fn reconcile(&mut self, key: &Key) -> impl Future<Output = Result<After, ApiError>> + Send;
}

/// Runs one controller until `stop` is cancelled.
pub(super) async fn run<R: Reconciler>(client: Client, mut reconciler: R, stop: CancellationToken) {
    let mut queue = Queue::default();
    let mut streams = Vec::new();
    for resource in reconciler.watches() {
        let Some(stream) = open(&client, resource, &stop).await else { return };
        streams.push((*resource, stream));
    }
    while !stop.is_cancelled() {
        for (resource, stream) in &mut streams {
            loop {
                match stream.try_next() {
                    Ok(Some(event)) => {
                        reconciler
                            .keys(resource, &event)
                            .into_iter()
                            .for_each(|key| queue.add(key));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        debug!(controller = R::NAME, kind = resource.kind, %error, "watching again");
                        let Some(again) = open(&client, resource, &stop).await else { return };
                        *stream = again;
                    }
                }
            }
        }
        if let Some(key) = queue.pop(Instant::now()) {
            step(&mut reconciler, &mut queue, key).await;
            continue;
        }
        let due = queue.next_due().unwrap_or_else(|| Instant::now() + IDLE);
        let mut lost = None;
        {
            let next = streams.iter_mut().map(|(_, stream)| Box::pin(stream.next()));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
                (event, index, _) = select_all(next) => lost = Some((event, index)),
            }
        }
        match lost {
            Some((Ok(event), index)) => {
                let resource = streams[index].0;
                reconciler.keys(resource, &event).into_iter().for_each(|key| queue.add(key));
            }
            // The next round meets the same error and opens the watch again.
            Some((Err(_), index)) => {
                let resource = streams[index].0;
                let Some(again) = open(&client, resource, &stop).await else { return };
                streams[index].1 = again;
            }
            None => {}
        }
    }
}

async fn step<R: Reconciler>(reconciler: &mut R, queue: &mut Queue, key: Key) {
    match reconciler.reconcile(&key).await {
        Ok(After::Done) => queue.forget(&key),
        Ok(After::In(wait)) => {
            queue.forget(&key);
            queue.add_at(key, Instant::now() + wait);
        }
        Err(error) => {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            let pause = queue.add_failed(key, Instant::now());
            if PAUSE_WORTH_A_WARNING <= pause {
                warn!(controller = R::NAME, namespace, name, %error, ?pause, "will try again");
            } else {
                debug!(controller = R::NAME, namespace, name, %error, ?pause, "will try again");
            }
        }
    }
}

/// Opens a watch that begins with the current state; `None` when it is time to stop.
async fn open(
    client: &Client,
    resource: &'static Resource,
    stop: &CancellationToken,
) -> Option<WatchStream> {
    loop {
        match client.watch(resource, "", &ListOptions::default()) {
            Ok(stream) => return Some(stream),
            Err(error) => warn!(kind = resource.kind, %error, "cannot watch"),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(REOPEN_PAUSE) => {}
        }
    }
}
