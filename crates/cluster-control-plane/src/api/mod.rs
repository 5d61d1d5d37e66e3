//! The generic verbs: create, get, list, watch, update, patch, delete on any resource of the table.

mod create;
mod delete;
mod event_form;
mod metadata;
mod patch;
mod pods;
mod read;
mod scale;
mod update;
mod watch;

use std::sync::Arc;

use serde_json::Value;

pub use watch::{WatchEvent, WatchEventType, WatchStream};

use crate::admission::{self, Switches};
use crate::client::Client;
use crate::error::{ApiError, Reason};
use crate::identity::{MASTERS, User};
use crate::patch::{OnConflict, PatchFormat};
use crate::resources::Resource;
use crate::schema::FieldValidation;
use crate::selectors::{FieldSelector, LabelSelector};
use crate::storage::{Key, KindCache, Store, WriteError};

/// Who calls, and under which name writes are recorded in `metadata.managedFields`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user, for authorization and admission.
    pub user: User,
    /// The field manager.
    pub manager: String,
}

/// One object or one part of it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Kind.
    pub resource: &'static Resource,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Part; empty for the object itself.
    pub subresource: &'a str,
}

/// Whether a write is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persist {
    /// Store it.
    #[default]
    Yes,
    /// Run every step but store nothing (`dryRun=All`).
    DryRun,
}

/// Parameters of a create, update or patch.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Store or not.
    pub persist: Persist,
    /// What to do with unknown fields in the result of a patch.
    pub field_validation: Option<FieldValidation>,
}

/// A patch and how to read it.
#[derive(Clone, Debug)]
pub enum PatchBody {
    /// One of the three patch formats.
    Patch {
        /// Format of the body.
        format: PatchFormat,
        /// The body.
        body: Value,
    },
    /// Server-side apply; creates the object if it does not exist.
    Apply {
        /// The applied configuration.
        body: Value,
        /// What to do with fields other managers own.
        on_conflict: OnConflict,
    },
}

/// The outcome of a patch.
#[derive(Clone, Debug)]
pub struct Patched {
    /// The object as stored.
    pub object: Arc<Value>,
    /// Whether an apply created it.
    pub created: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Which objects a list or watch covers, and from which revision.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
    /// `resourceVersion`; `None` when unset. A watch sends what comes after it; unset or zero means
    /// the current state as `ADDED` events first.
    pub resource_version: Option<u64>,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// Page size; `None` for everything.
    pub limit: Option<usize>,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// Whether a watch sends `BOOKMARK` events.
    pub bookmarks: Bookmarks,
    /// `sendInitialEvents` of a watch.
    pub initial_events: Option<InitialEvents>,
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// The state at exactly that revision.
    Exact,
    /// A state at least that new.
    NotOlderThan,
}

/// `allowWatchBookmarks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bookmarks {
    /// Never send one.
    #[default]
    Off,
    /// Send one about every minute, and one after requested initial events.
    On,
}

/// `sendInitialEvents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialEvents {
    /// Current state, then a bookmark marked `k8s.io/initial-events-end`, then live events.
    Send,
    /// Only events after the given revision.
    Skip,
}

/// A list with the revision it was taken at.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// Objects, by namespace, then name.
    pub items: Vec<Arc<Value>>,
    /// Revision to watch from.
    pub resource_version: u64,
    /// Token of the next page, if any.
    pub continue_token: Option<String>,
    /// How many more there are, when no selector was used.
    pub remaining: Option<usize>,
}

/// Parameters of a delete (`meta/v1 DeleteOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Grace in seconds; unset means the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What happens to dependants; unset means the kind's default.
    pub propagation: Option<Propagation>,
    /// Refuse unless the object has this uid.
    pub precondition_uid: Option<String>,
    /// Refuse unless the object has this resource version.
    pub precondition_resource_version: Option<String>,
    /// Store or not.
    pub persist: Persist,
}

/// `propagationPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Dependants stay and lose their owner reference.
    Orphan,
    /// The owner goes at once, dependants follow.
    Background,
    /// Dependants first.
    Foreground,
}

/// What a delete did.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// Gone; the last state.
    Gone(Arc<Value>),
    /// Marked with a deletion timestamp; waits for grace or finalizers.
    Pending(Arc<Value>),
}

/// The generic verbs over one store.
pub struct Api {
    store: Store,
    switches: Switches,
}

impl Api {
    /// The verbs over a store.
    pub fn new(store: Store, switches: Switches) -> Arc<Self> {
        Arc::new(Self { store, switches })
    }

    /// What the writer of an object should be warned of.
    pub fn warnings(self: &Arc<Self>, resource: &Resource, stored: &Value) -> Vec<String> {
        admission::warnings(&self.loopback(), self.switches, resource, stored)
    }

    /// A client with every right, for admission's own reads.
    fn loopback(self: &Arc<Self>) -> Client {
        Client::new(
            Arc::clone(self),
            User::authenticated("system:apiserver", &[MASTERS]),
            "shipway",
        )
    }

    /// Revision up to which reads see every write.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    fn kind(&self, resource: &Resource) -> Result<&KindCache, ApiError> {
        self.store.kind(resource.storage).ok_or_else(ApiError::method_not_allowed)
    }

    /// The object as stored.
    fn stored(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        self.kind(resource)?
            .get(&Key::new(namespace, name))
            .ok_or_else(|| ApiError::not_found(resource, name))
    }
}

/// One conditional write that failed only because another one came first.
enum Raced {
    /// Somebody else wrote since the object was read; read it again.
    Retry,
    /// A final refusal.
    Refused(ApiError),
}

impl From<ApiError> for Raced {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Attempts of an unconditional read-modify-write before it gives up with 409.
const WRITE_ATTEMPTS_MAX: usize = 10;

fn refused(error: WriteError) -> Raced {
    match error {
        WriteError::Unexpected => Raced::Retry,
        WriteError::TooLarge { .. } => {
            Raced::Refused(ApiError::new(Reason::RequestEntityTooLarge, error.to_string()))
        }
        WriteError::Storage(_) => Raced::Refused(ApiError::internal(error)),
        WriteError::Stopped => {
            Raced::Refused(ApiError::new(Reason::ServiceUnavailable, error.to_string()))
        }
    }
}
