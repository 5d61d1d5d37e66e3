//! Events do not stay: after an hour, or when there are too many, they are deleted.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::api::{DeleteOptions, ListOptions};
use crate::client::Client;
use crate::object;
use crate::resources::EVENTS;

/// How long an event stays after it last happened (upstream's `--event-ttl`).
const EVENT_AGE_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Events kept at all; the oldest go first.
const EVENTS_MAX: usize = 5000;
/// Time between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Deletes old events until `stop` is cancelled.
pub(crate) async fn run(client: Client, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let Ok(list) = client.list(&EVENTS, "", &ListOptions::default()) else { continue };
        let items: Vec<&Value> = list.items.iter().map(AsRef::as_ref).collect();
        for (namespace, name) in expired(&items, Timestamp::now()) {
            let deleted = client.delete(&EVENTS, namespace, name, &DeleteOptions::default()).await;
            if let Err(error) = deleted
                && !error.is_not_found()
            {
                tracing::warn!(error = %error, "cannot delete an old event");
                break;
            }
        }
    }
}

/// When an event last happened.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let paths: [&[&str]; 5] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["firstTimestamp"],
        &["metadata", "creationTimestamp"],
    ];
    paths.iter().find_map(|path| object::time(event, path))
}

/// Namespace and name of every event that has to go.
fn expired<'a>(events: &[&'a Value], now: Timestamp) -> Vec<(&'a str, &'a str)> {
    let mut dated: Vec<(Timestamp, &Value)> = events
        .iter()
        .map(|event| (last_seen(event).unwrap_or(Timestamp::UNIX_EPOCH), *event))
        .collect();
    dated.sort_by_key(|(at, _)| *at);
    let surplus = dated.len().saturating_sub(EVENTS_MAX);
    dated
        .iter()
        .enumerate()
        .filter(|(index, (at, _))| *index < surplus || EVENT_AGE_MAX < now.duration_since(*at))
        .map(|(_, (_, event))| (object::namespace(event), object::name(event)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_go_an_hour_after_they_last_happened() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().expect("time");
        let event = |name: &str, last: &str| {
            json!({"metadata": {"name": name, "namespace": "a"}, "lastTimestamp": last,
                   "firstTimestamp": "2026-01-01T00:00:00Z"})
        };
        let old = event("old", "2026-01-01T00:59:59Z");
        let new = event("new", "2026-01-01T01:30:00Z");
        assert_eq!(expired(&[&old, &new], now), [("a", "old")]);
    }
}
