//! The body of a watch: one JSON object per event and line.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::ACCEPT;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::accept::{self, Representation};
use super::answer::{self, Answer};
use super::dispatch::Call;
use super::route::ResourceRoute;
use crate::api::{WatchEvent, WatchEventType, WatchStream};
use crate::error::ApiError;
use crate::resources::Resource;
use crate::table::{self, IncludeObject};

/// Shortest and longest watch of a client that names no time, in seconds.
const TIMEOUT_SECONDS: std::ops::Range<u64> = 1800..3600;

/// Bytes of events sent in one piece, so that a burst is few writes.
const PIECE_BYTES_MAX: usize = 64 * 1024;

struct WatchBody {
    stream: WatchStream,
    resource: &'static Resource,
    representation: Representation,
    include: IncludeObject,
    /// Column definitions go out with the first table only.
    definitions_sent: bool,
    deadline: Instant,
    stop: CancellationToken,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// Answers a watch.
pub(super) fn answer(
    call: &Call,
    route: &ResourceRoute,
    place: OwnedSemaphorePermit,
) -> Result<Answer, ApiError> {
    let representation = accept::representation(call.header(ACCEPT))?;
    let options = call.query.list_options()?;
    let seconds = call.query.timeout_seconds()?.unwrap_or_else(|| fastrand::u64(TIMEOUT_SECONDS));
    let stream = call.server.api.watch(route.resource, &route.namespace, &options)?;
    let body = WatchBody {
        stream,
        resource: route.resource,
        representation,
        include: call.query.include_object()?,
        definitions_sent: false,
        deadline: Instant::now() + Duration::from_secs(seconds),
        stop: call.server.stop.clone(),
        ended: false,
        _place: place,
    };
    let pieces = stream::unfold(body, |mut body| async move {
        let piece = body.next_piece().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), body))
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    Ok(answer::of_type(StatusCode::OK, "application/json", body))
}

impl WatchBody {
    /// The next events; none at the end of the watch.
    async fn next_piece(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let first = tokio::select! {
            event = self.stream.next() => event,
            () = tokio::time::sleep_until(self.deadline) => {
                self.ended = true;
                let bookmark = self.stream.last_bookmark()?;
                return Some(Bytes::from(self.line(&bookmark)));
            }
            () = self.stop.cancelled() => return None,
        };
        let mut piece = match first {
            Ok(event) => self.line(&event),
            Err(error) => return Some(self.end_with(&error)),
        };
        while piece.len() < PIECE_BYTES_MAX {
            match self.stream.try_next() {
                Ok(Some(event)) => piece.push_str(&self.line(&event)),
                Ok(None) => break,
                Err(error) => {
                    let last = self.end_with(&error);
                    piece.push_str(std::str::from_utf8(&last).unwrap_or_default());
                    break;
                }
            }
        }
        Some(Bytes::from(piece))
    }

    fn end_with(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        let line = json!({"type": "ERROR", "object": error.to_status()});
        Bytes::from(format!("{line}\n"))
    }

    fn line(&mut self, event: &WatchEvent) -> String {
        let object = match self.representation {
            Representation::Json => {
                return format!(
                    "{{\"type\":\"{}\",\"object\":{}}}\n",
                    event.kind.as_str(),
                    event.object
                );
            }
            Representation::Metadata => table::partial_metadata(&event.object),
            Representation::Table => self.table(event),
        };
        format!("{}\n", json!({"type": event.kind.as_str(), "object": object}))
    }

    fn table(&mut self, event: &WatchEvent) -> Value {
        let version = event.object["metadata"]["resourceVersion"].clone();
        let rows = if event.kind == WatchEventType::Bookmark {
            // A bookmark's row carries its metadata, which is all there is.
            vec![json!({"cells": [], "object": table::partial_metadata(&event.object)})]
        } else {
            vec![table::row(self.resource, &event.object, self.include, Timestamp::now())]
        };
        let definitions =
            if self.definitions_sent { Value::Null } else { table::definitions(self.resource) };
        self.definitions_sent = true;
        table::table(definitions, json!({"resourceVersion": version}), rows)
    }
}
