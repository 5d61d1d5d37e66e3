//! watch: the history of one kind, filtered for one reader.
//!
//! A stream holds a revision, not a queue: it reads the kind's shared history whenever the kind
//! changes. A reader that falls behind the history gets 410 and lists again; it can neither block
//! a writer nor hold memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Api, Bookmarks, InitialEvents, ListOptions, VersionMatch, event_form};
use crate::error::{ApiError, FieldError};
use crate::object;
use crate::resources::Resource;
use crate::storage::{Change, Event, Store};

/// Time between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(50);

/// Events taken from the history at once.
const EVENTS_AT_ONCE_MAX: usize = 128;

/// Annotation of the bookmark that ends requested initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEventType {
    /// The object appeared (or began to match the selector).
    Added,
    /// The object changed.
    Modified,
    /// The object went away (or no longer matches); carries its last matching state.
    Deleted,
    /// Only a revision: everything up to it was sent.
    Bookmark,
}

impl WatchEventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchEventType,
    /// The object; for a bookmark only `metadata.resourceVersion`.
    pub object: Arc<Value>,
}

/// An endless stream of events.
pub struct WatchStream {
    store: Store,
    resource: &'static Resource,
    namespace: String,
    options: ListOptions,
    /// Everything up to here was sent.
    position: u64,
    pending: VecDeque<WatchEvent>,
    changed: watch::Receiver<u64>,
    next_bookmark: tokio::time::Instant,
}

impl Api {
    /// Watches a kind in one namespace, or in all when `namespace` is empty.
    ///
    /// # Errors
    /// 400 for an unsupported field label, 422 for contradicting parameters, 410 for a revision
    /// that left the history.
    pub fn watch(
        &self,
        resource: &'static Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<WatchStream, ApiError> {
        options.fields.check(resource)?;
        check_parameters(resource, options)?;
        let kind = self.kind(resource)?;
        let changed = kind.subscribe();
        let mut stream = WatchStream {
            store: self.store.clone(),
            resource,
            namespace: namespace.to_owned(),
            options: options.clone(),
            position: 0,
            pending: VecDeque::new(),
            changed,
            next_bookmark: tokio::time::Instant::now() + BOOKMARK_EVERY,
        };
        let from = options.resource_version.filter(|revision| *revision != 0);
        let wants_state = match options.initial_events {
            Some(InitialEvents::Send) => true,
            Some(InitialEvents::Skip) => false,
            None => from.is_none(),
        };
        if wants_state {
            stream.send_state(self.store.revision())?;
        } else {
            let from = from.unwrap_or_else(|| self.store.revision());
            if let Err(compacted) = kind.events_after(from, 0) {
                return Err(ApiError::too_old(from, compacted.oldest));
            }
            stream.position = from;
        }
        Ok(stream)
    }
}

fn check_parameters(resource: &Resource, options: &ListOptions) -> Result<(), ApiError> {
    let problem = match (options.initial_events, options.version_match) {
        (Some(_), Some(VersionMatch::NotOlderThan)) | (None, None) => return Ok(()),
        (Some(_), _) => FieldError::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (None, Some(_)) => FieldError::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    };
    let mut error = ApiError::invalid(resource, "", &[problem]);
    error.kind = Some("ListOptions".to_owned());
    error.message = error.message.replacen(resource.kind, "ListOptions.meta.k8s.io", 1);
    Err(error)
}

impl WatchStream {
    /// The next event, after waiting as long as it takes.
    ///
    /// # Errors
    /// 410 when this reader fell behind the history; the stream is over then.
    pub async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            // Read before the history: every event up to it is then in the history.
            let published = self.store.revision();
            self.changed.mark_unchanged();
            if self.take_events()? {
                continue;
            }
            let bookmarks = self.options.bookmarks == Bookmarks::On;
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return Err(ApiError::internal("the watch cache is gone"));
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark), if bookmarks => {
                    self.next_bookmark = tokio::time::Instant::now() + BOOKMARK_EVERY;
                    self.position = self.position.max(published);
                    return Ok(self.bookmark(None));
                }
            }
        }
    }

    /// An event that is ready now, without waiting.
    ///
    /// # Errors
    /// As for [`WatchStream::next`].
    pub fn try_next(&mut self) -> Result<Option<WatchEvent>, ApiError> {
        while self.pending.is_empty() && self.take_events()? {}
        Ok(self.pending.pop_front())
    }

    /// A bookmark at the present position, for the end of a stream.
    pub fn last_bookmark(&self) -> Option<WatchEvent> {
        (self.options.bookmarks == Bookmarks::On).then(|| self.bookmark(None))
    }

    fn send_state(&mut self, published: u64) -> Result<(), ApiError> {
        let kind =
            self.store.kind(self.resource.storage).ok_or_else(ApiError::method_not_allowed)?;
        let snapshot = kind.snapshot(&self.namespace, None, published);
        self.position = snapshot.revision;
        for (_, object) in snapshot.items {
            if self.matches(&object) {
                let object = event_form::served(self.resource, object);
                self.pending.push_back(WatchEvent { kind: WatchEventType::Added, object });
            }
        }
        let marked = self.options.initial_events == Some(InitialEvents::Send)
            && self.options.bookmarks == Bookmarks::On;
        if marked {
            let bookmark = self.bookmark(Some(INITIAL_EVENTS_END));
            self.pending.push_back(bookmark);
        }
        Ok(())
    }

    /// Moves new events into `pending`; false when there are none.
    fn take_events(&mut self) -> Result<bool, ApiError> {
        let kind =
            self.store.kind(self.resource.storage).ok_or_else(ApiError::method_not_allowed)?;
        let events = kind
            .events_after(self.position, EVENTS_AT_ONCE_MAX)
            .map_err(|compacted| ApiError::too_old(self.position, compacted.oldest))?;
        for event in &events {
            self.position = event.revision;
            if let Some(seen) = self.seen(event) {
                self.pending.push_back(seen);
            }
        }
        Ok(!events.is_empty())
    }

    fn matches(&self, object: &Value) -> bool {
        self.options.labels.matches(object) && self.options.fields.matches(object)
    }

    /// What this reader sees of an event; nothing when the object matched neither before nor after.
    fn seen(&self, event: &Event) -> Option<WatchEvent> {
        if !self.namespace.is_empty() && event.key.namespace != self.namespace {
            return None;
        }
        let matched = event.previous.as_deref().is_some_and(|previous| self.matches(previous));
        let (kind, object) = match &event.change {
            Change::Delete(last) => {
                if !matched {
                    return None;
                }
                (WatchEventType::Deleted, Arc::clone(last))
            }
            Change::Put(object) => match (matched, self.matches(object)) {
                (false, false) => return None,
                (false, true) => (WatchEventType::Added, Arc::clone(object)),
                (true, true) => (WatchEventType::Modified, Arc::clone(object)),
                (true, false) => {
                    let mut last = event.previous.as_deref().cloned().unwrap_or_default();
                    let revision = event.revision.to_string();
                    object::set(&mut last, &["metadata", "resourceVersion"], revision);
                    (WatchEventType::Deleted, Arc::new(last))
                }
            },
        };
        Some(WatchEvent { kind, object: event_form::served(self.resource, object) })
    }

    fn bookmark(&self, annotation: Option<&str>) -> WatchEvent {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        });
        if let Some(annotation) = annotation {
            object::set(&mut object, &["metadata", "annotations", annotation], "true");
        }
        WatchEvent { kind: WatchEventType::Bookmark, object: Arc::new(object) }
    }
}
