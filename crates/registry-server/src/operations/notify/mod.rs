//! Tells receivers what happened: at least once, in order, by one replica at a time.
//!
//! Each receiver has a place in the outbox. The next event is sent only when the one before was
//! taken, or given up after many tries and put aside, so events of one repository never overtake
//! each other. Where many replicas share the metadata, who delivers holds a lease in it.

mod envelope;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::envelope::Source;
use super::outbound::{Guard, Outbound, SendError};
use crate::bytes::Network;
use crate::metadata::{Change, ChangeError, DeadLetter, Event, Metadata, OutboxChange, Stamp};

pub use self::envelope::EventFormat;

/// Events looked at in one go.
const BATCH_EVENTS: usize = 64;

/// How often changes of other replicas are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a replica that delivers may be silent before another takes over.
const LEASE: Duration = Duration::from_secs(120);

/// Largest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Somebody who is told what happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// By which it is known; who changes it makes a new receiver.
    pub name: String,
    /// Where events are sent, one POST each.
    pub url: String,
    /// How they are written.
    pub format: EventFormat,
    /// File with the key of the signature `X-Shipway-Signature: sha256=<hex>`, an HMAC-SHA-256 of
    /// `X-Shipway-Timestamp`, a full stop, and the body.
    pub secret_file: Option<PathBuf>,
    /// File with the value of the `Authorization` header.
    pub authorization_file: Option<PathBuf>,
    /// Authorities trusted besides those of the web (PEM).
    pub authorities: Option<PathBuf>,
    /// Networks that the URL may lead to although they are not public.
    pub allowed_networks: Vec<Network>,
    /// Only events of these repositories and those below them; empty for all.
    pub repositories: Vec<String>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries before an event is put aside.
    pub attempts_max: u32,
    /// Pause after the first failure; it doubles with every further one.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Receiver {
    /// A receiver in CloudEvents; 15 tries over some hours.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            format: EventFormat::CloudEvents,
            secret_file: None,
            authorization_file: None,
            authorities: None,
            allowed_networks: Vec::new(),
            repositories: Vec::new(),
            timeout: Duration::from_secs(30),
            attempts_max: 15,
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(1800),
        }
    }

    fn wants(&self, repository: &str) -> bool {
        let below = |prefix: &String| {
            let rest = repository.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.repositories.is_empty() || self.repositories.iter().any(below)
    }

    /// How long to wait after so many failures.
    fn pause(&self, attempts: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.pause_min.saturating_mul(factor).min(self.pause_max)
    }
}

/// A receiver that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("notifications for {receiver} cannot be sent: {reason}")]
pub struct ReceiverError {
    /// Its name.
    pub receiver: String,
    /// What is wrong.
    pub reason: String,
}

/// What became of notifications, by receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes(pub(crate) Family<OutcomeLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    receiver: String,
    outcome: &'static str,
}

impl Outcomes {
    fn count(&self, receiver: &str, outcome: &'static str) {
        let labels = OutcomeLabels { receiver: receiver.to_owned(), outcome };
        self.0.get_or_create(&labels).inc();
    }
}

/// The tasks that deliver.
pub(crate) struct Notifier {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// Where a registry with many replicas or one tells from.
pub(crate) struct Origin {
    pub(crate) url: String,
    /// Whether others may deliver as well.
    pub(crate) is_shared: bool,
}

impl Notifier {
    /// Checks the receivers and begins to deliver.
    ///
    /// # Errors
    /// [`ReceiverError`]
    pub(crate) fn start(
        receivers: &[Receiver],
        metadata: &Metadata,
        origin: &Origin,
        outcomes: &Outcomes,
    ) -> Result<Self, ReceiverError> {
        let (stop, stopped) = watch::channel(false);
        let mut deliveries = Vec::new();
        let instance = uuid::Uuid::new_v4().simple().to_string();
        for receiver in receivers {
            let guard = Guard(receiver.allowed_networks.clone());
            let authorities = receiver.authorities.as_deref();
            let outbound = Outbound::new(&receiver.url, authorities, guard, receiver.timeout)
                .map_err(|error| ReceiverError {
                    receiver: receiver.name.clone(),
                    reason: error.to_string(),
                })?;
            deliveries.push(Delivery {
                receiver: receiver.clone(),
                outbound,
                metadata: metadata.clone(),
                outcomes: outcomes.clone(),
                source: Source { url: origin.url.clone(), instance: instance.clone() },
                lease: origin.is_shared.then_some(None),
                stopped: stopped.clone(),
            });
        }
        let names: Vec<String> = receivers.iter().map(|receiver| receiver.name.clone()).collect();
        let metadata = metadata.clone();
        let tasks = vec![tokio::spawn(deliver(metadata, names, deliveries, stopped))];
        Ok(Self { tasks, stop })
    }

    /// Stops after the event under way, or without it.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if task.await.is_err() {
                tracing::error!("the task that sends notifications panicked");
            }
        }
    }
}

/// Registers the receivers, then delivers to all of them at once.
async fn deliver(
    metadata: Metadata,
    names: Vec<String>,
    deliveries: Vec<Delivery>,
    mut stopped: watch::Receiver<bool>,
) {
    match metadata.receivers() {
        // Nobody is told, and nobody was.
        Ok(before) if before.is_empty() && names.is_empty() => return,
        Ok(_) | Err(_) => {}
    }
    let receivers = || Change::Outbox(OutboxChange::Receivers(names.clone()));
    while let Err(error) = metadata.change(receivers()).await {
        tracing::warn!(%error, "nobody is notified yet");
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
    let mut tasks = tokio::task::JoinSet::new();
    for delivery in deliveries {
        tasks.spawn(delivery.run());
    }
    while tasks.join_next().await.is_some() {}
}

/// The way of events to one receiver.
struct Delivery {
    receiver: Receiver,
    outbound: Outbound,
    metadata: Metadata,
    outcomes: Outcomes,
    source: Source,
    /// Until when this replica delivers; none if it is the only one.
    lease: Option<Option<Instant>>,
    stopped: watch::Receiver<bool>,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the registry stops")]
    Stopped,
    #[error(transparent)]
    Metadata(#[from] crate::metadata::MetadataError),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Delivery {
    async fn run(mut self) {
        let metadata = self.metadata.clone();
        loop {
            let made = metadata.made();
            match self.round().await {
                // There may be more.
                Ok(true) => continue,
                Ok(false) => {}
                Err(Interrupted::Stopped) => return,
                // Another replica delivers.
                Err(Interrupted::Change(ChangeError::Taken)) => {}
                Err(error) => {
                    tracing::warn!(%error, receiver = self.receiver.name, "notifications wait");
                }
            }
            tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return,
                () = made => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Sends some of what waits; whether there was any.
    async fn round(&mut self) -> Result<bool, Interrupted> {
        let name = self.receiver.name.clone();
        let letters = self.metadata.dead_letters(&name, usize::MAX)?;
        let again: Vec<_> = letters.into_iter().filter(|(_, letter)| letter.again).collect();
        let Some(delivered) = self.metadata.delivered(&name)? else { return Ok(false) };
        let events = self.metadata.events(delivered, BATCH_EVENTS)?;
        if again.is_empty() && events.is_empty() {
            return Ok(false);
        }
        for (sequence, letter) in again {
            self.resend(sequence, letter).await?;
        }
        let mut passed = None;
        for (sequence, event) in events {
            if !self.receiver.wants(&event.repository) {
                passed = Some(sequence);
                continue;
            }
            let done = self.send(sequence, &event).await?;
            passed = None;
            self.change(done).await?;
        }
        if let Some(sequence) = passed {
            self.change(OutboxChange::Delivered { receiver: name, sequence }).await?;
        }
        Ok(true)
    }

    async fn change(&self, change: OutboxChange) -> Result<(), Interrupted> {
        Ok(self.metadata.change(Change::Outbox(change)).await?)
    }

    /// Sends an event until it is taken or given up.
    async fn send(&mut self, sequence: u64, event: &Event) -> Result<OutboxChange, Interrupted> {
        let receiver = self.receiver.name.clone();
        let mut attempts = 0;
        loop {
            self.hold_lease().await?;
            let error = match self.try_send(sequence, event).await {
                Ok(()) => return Ok(OutboxChange::Delivered { receiver, sequence }),
                Err(error) => error,
            };
            attempts += 1;
            let reason = described(&error);
            tracing::warn!(receiver, sequence, attempts, reason, "a notification was not taken");
            if error.is_final() || self.receiver.attempts_max <= attempts {
                self.outcomes.count(&receiver, "given_up");
                return Ok(OutboxChange::Undeliverable { receiver, sequence, attempts, reason });
            }
            tokio::select! {
                _ = self.stopped.wait_for(|stopped| *stopped) => return Err(Interrupted::Stopped),
                () = tokio::time::sleep(self.receiver.pause(attempts)) => {}
            }
        }
    }

    /// Tries once to send an event that was put aside.
    async fn resend(&mut self, sequence: u64, letter: DeadLetter) -> Result<(), Interrupted> {
        let receiver = self.receiver.name.clone();
        self.hold_lease().await?;
        let change = match self.try_send(sequence, &letter.event).await {
            Ok(()) => OutboxChange::Replayed { receiver, sequence },
            Err(error) => OutboxChange::Undeliverable {
                receiver,
                sequence,
                attempts: letter.attempts.saturating_add(1),
                reason: described(&error),
            },
        };
        self.change(change).await
    }

    /// Makes sure that nobody else delivers while one try may last.
    async fn hold_lease(&mut self) -> Result<(), Interrupted> {
        if *self.stopped.borrow() {
            return Err(Interrupted::Stopped);
        }
        let Some(until) = self.lease else { return Ok(()) };
        let now = Instant::now();
        if until.is_some_and(|until| now + self.receiver.timeout < until) {
            return Ok(());
        }
        let stamp = Stamp::system();
        let length = LEASE + self.receiver.timeout;
        let lease = OutboxChange::Lease {
            task: format!("notify/{}", self.receiver.name),
            holder: self.source.instance.clone(),
            until: stamp.at.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
        };
        self.metadata.submit(Change::Outbox(lease), stamp).await?;
        self.lease = Some(Some(now + length));
        Ok(())
    }

    async fn try_send(&self, sequence: u64, event: &Event) -> Result<(), SendError> {
        let tried = self.post(sequence, event).await;
        let outcome = if tried.is_ok() { "taken" } else { "failed" };
        self.outcomes.count(&self.receiver.name, outcome);
        tried
    }

    async fn post(&self, sequence: u64, event: &Event) -> Result<(), SendError> {
        let body = envelope::body(self.receiver.format, sequence, event, &self.source).to_string();
        let unreadable =
            |source| SendError::Secret { receiver: self.receiver.name.clone(), source };
        let headers = self.headers(&body).await.map_err(unreadable)?;
        self.outbound.post(headers, Bytes::from(body)).await
    }

    async fn headers(&self, body: &str) -> std::io::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static(self.receiver.format.content_type());
        headers.insert(header::CONTENT_TYPE, kind);
        // Read each time: a new secret needs no restart.
        if let Some(path) = &self.receiver.authorization_file {
            let mut value = HeaderValue::from_str(read_secret(path).await?.trim())
                .map_err(std::io::Error::other)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(path) = &self.receiver.secret_file {
            let secret = read_secret(path).await?;
            let at = (Stamp::system().at / 1000).to_string();
            let signature = signature(secret.trim().as_bytes(), &at, body);
            for (name, value) in [("x-shipway-timestamp", at), ("x-shipway-signature", signature)] {
                let value = HeaderValue::from_str(&value).map_err(std::io::Error::other)?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Ok(headers)
    }
}

async fn read_secret(path: &std::path::Path) -> std::io::Result<String> {
    if tokio::fs::metadata(path).await?.len() > SECRET_BYTES_MAX {
        return Err(std::io::Error::other("the secret is too large"));
    }
    tokio::fs::read_to_string(path).await
}

fn signature(secret: &[u8], at: &str, body: &str) -> String {
    use std::fmt::Write as _;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, format!("{at}.{body}").as_bytes());
    tag.as_ref().iter().fold("sha256=".to_owned(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn described(error: &SendError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// How a receiver is doing, for metrics and the administration API.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiverStatus {
    receiver: String,
    /// The last event that it has.
    delivered: u64,
    waiting: u64,
    undeliverable: Vec<Undeliverable>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Undeliverable {
    sequence: u64,
    attempts: u32,
    reason: String,
    at: String,
    again: bool,
    event: Event,
}

/// Undeliverable events shown at once.
const SHOWN_MAX: usize = 100;

/// How the receivers are doing.
pub(crate) fn status(
    receivers: &[String],
    metadata: &Metadata,
) -> Result<Vec<ReceiverStatus>, crate::metadata::MetadataError> {
    let at =
        |at| super::audit::timestamp(std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(at));
    let one = |receiver: &String| {
        let letters = metadata.dead_letters(receiver, SHOWN_MAX)?;
        Ok(ReceiverStatus {
            receiver: receiver.clone(),
            delivered: metadata.delivered(receiver)?.unwrap_or(0),
            waiting: metadata.waiting(receiver)?,
            undeliverable: letters
                .into_iter()
                .map(|(sequence, letter)| Undeliverable {
                    sequence,
                    attempts: letter.attempts,
                    reason: letter.reason,
                    at: at(letter.at),
                    again: letter.again,
                    event: letter.event,
                })
                .collect(),
        })
    };
    receivers.iter().map(one).collect()
}

/// The queues of the receivers, for a scraper.
pub(crate) struct Queues {
    pub(crate) receivers: Arc<Vec<String>>,
    pub(crate) metadata: Metadata,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").field("receivers", &self.receivers).finish_non_exhaustive()
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.receivers.is_empty() {
            return Ok(());
        }
        let help = "Events that wait for a receiver";
        let mut family =
            encoder.encode_descriptor("notifications_waiting", help, None, MetricType::Gauge)?;
        for receiver in self.receivers.iter() {
            // A queue that cannot be read is left out; the log of the metadata says why.
            let Ok(waiting) = self.metadata.waiting(receiver) else { continue };
            let gauge = ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("receiver", receiver.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let receiver = Receiver::new("a", "http://h");
        let pauses: Vec<u64> = [1, 2, 3, 11, 12, 60].map(|n| receiver.pause(n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 1024, 1800, 1800]);
    }

    #[test]
    fn receivers_hear_of_their_repositories_only() {
        let mut receiver = Receiver::new("a", "http://h");
        assert!(receiver.wants("anything"));
        receiver.repositories = vec!["team".to_owned(), "other/app/".to_owned()];
        for (repository, expected) in [
            ("team", true),
            ("team/app", true),
            ("teams", false),
            ("other/app/x", true),
            ("other", false),
        ] {
            assert_eq!(receiver.wants(repository), expected, "{repository}");
        }
    }

    #[test]
    fn the_signature_is_hmac_sha_256_of_time_and_body() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        assert_eq!(
            signature(b"key", "1700000000", "{}"),
            "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
        );
    }
}
