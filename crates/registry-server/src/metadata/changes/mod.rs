//! What can happen to the metadata, and the one function that makes it happen.

mod blob;
mod cached;
mod collection;
mod history;
mod manifest;
mod outbox;
mod policies;
mod repository;
mod retention;
mod tag;
mod text;
mod trash;
mod usage;

use std::collections::BTreeSet;

use oci_model::{Digest, Repository, Tag};
use serde::{Deserialize, Serialize};

pub(crate) use self::blob::AddBlob;
pub(crate) use self::cached::{CachedBlob, CachedUse, Uncached};
pub(super) use self::collection::drop_needed;
pub(crate) use self::collection::{Burial, Collection};
pub(crate) use self::history::{COARSE, TagMove};
pub(crate) use self::manifest::{Child, Expected, NewManifest};
pub(crate) use self::outbox::{Action, DeadLetter, Event, OutboxChange};
pub(crate) use self::policies::{NAMESPACES, parse as parse_policies};
pub(crate) use self::retention::{Retain, view};
pub(crate) use self::trash::{Buried, EmptyTrash, Restore, remembers};
pub(crate) use self::usage::{Counted, OverQuota, Reservation, Usage, count};
use super::MetadataError;
use super::replica::ReplicaError;
use super::tables::{StoredLink, Tables};
use crate::tenancy::Namespace;

/// A change of the metadata. It is written to the log as JSON, `{"<name>": <content>}`, and read
/// by older and newer versions: a field that is added later has a default, and what an existing
/// change does never changes; give the new behaviour a name or a field of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// Stores a manifest and moves tags to it.
    PutManifest(Box<NewManifest>),
    /// Removes a manifest and every tag of it.
    DeleteManifest(Repository, Digest),
    /// Removes a tag.
    DeleteTag(Repository, Tag),
    /// Lets a repository show a blob of which the driver knows that it is there.
    Link(StoredLink),
    /// Takes a blob out of a repository.
    DeleteBlob(Repository, Digest),
    /// Lets a repository show a blob that was uploaded to the bucket.
    AddBlob(AddBlob),
    /// Lets a repository show a blob that is in the bucket already.
    MountBlob(Repository, Digest),
    /// Somebody was told that the blob in the bucket is there: it must stay for a while.
    SeeBlob(Digest),
    /// Stores a manifest of another registry and moves tags to it; what it points to may come
    /// later.
    CacheManifest(Box<NewManifest>),
    /// Keeps a blob of another registry and lets a repository show it.
    CacheBlob(CachedBlob),
    /// Notes when cached content was last used.
    UseCached(Vec<CachedUse>),
    /// Forgets cached content that was not used later than is known.
    Uncache(Vec<Uncached>),
    /// The namespaces by which every later change is judged.
    SetPolicies(Vec<Namespace>),
    /// Reserves room for a blob.
    Reserve(Reservation),
    /// Gives room back: the repository, who holds it, and how many bytes of it.
    Unreserve(Repository, String, u64),
    /// Counts what every namespace holds anew.
    Recount,
    /// Somebody pulled these manifests then, in milliseconds since 1970.
    RecordPulls(Vec<(Repository, Digest, u64)>),
    /// Removes what the retention rules keep no more.
    Retain(Retain),
    /// Brings something back from the trash.
    Restore(Restore),
    /// Removes things from the trash for good.
    EmptyTrash(EmptyTrash),
    /// Removes everything in a repository.
    DeleteRepository(Repository),
    /// Makes tombstones of blobs in the bucket that nothing needs.
    Collect(Collection),
    /// Ends tombstones in the bucket.
    Bury(Burial),
    /// Forgets these links, whose blobs are gone, and repositories that hold nothing.
    Tidy(Vec<(Repository, Digest)>),
    /// Changes what is left to be told, and to whom.
    Outbox(OutboxChange),
}

/// Who changed something, and when; the only clock and the only identity that a change may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Milliseconds since 1970, by the clock of the replica that accepted the request.
    pub(crate) at: u64,
    /// Name of the principal.
    pub(crate) by: String,
    /// Id of the request.
    pub(crate) request: String,
}

/// What a change led to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What whoever asked for the change learns.
    pub(crate) reply: Reply,
    /// What has to happen to the blobs of a store on local disk.
    pub(crate) effects: Vec<Effect>,
    /// Repositories whose rows differ now.
    pub(crate) changed: BTreeSet<String>,
    /// What went from the trash for good, until it is told.
    purged: outbox::Removed,
}

/// What a change tells whoever asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is done.
    #[default]
    Done,
    /// The blob was there before, as another object: the one of the change is not needed.
    Duplicate {
        /// Key of the object that stays.
        key: String,
    },
    /// What came back: digests of manifests, and tags.
    Restored { manifests: Vec<String>, tags: Vec<String> },
    /// So many things of the trash are gone.
    Emptied(u64),
    /// So many manifests were deleted.
    Deleted(u64),
    /// What the retention rules removed: tags, and digests of manifests.
    Retained { tags: Vec<String>, manifests: Vec<String> },
    /// These blobs are tombstones now; their sizes in bytes.
    Collected(Vec<(Digest, u64)>),
    /// These objects in the bucket belong to no blob any more.
    Buried {
        /// Their keys.
        keys: Vec<String>,
    },
}

/// What has to happen to the blobs of a store on local disk.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The blobs must be there and stay, under this name, from before the change is durable. If
    /// one is missing the change is rejected.
    Keep(String, Vec<Digest>),
    /// The name keeps these blobs no more, once the change is durable.
    Release(String, Vec<Digest>),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// The manifest points to something that the repository does not hold.
    #[error("{0} is not in the repository")]
    Missing(Digest),
    /// There is no such manifest, tag or blob.
    #[error("no such object in the repository")]
    Unknown,
    /// A tag names something else than the request expects.
    #[error("tag {0} names something else")]
    NotAsExpected(String),
    /// A manifest of the repository needs the blob.
    #[error("manifest {0} needs it")]
    InUse(String),
    /// Somebody else does the task.
    #[error("somebody else does it")]
    Taken,
    /// A rule forbids to move or remove the tag.
    #[error("tag {tag} is immutable: {rule}")]
    Immutable {
        /// The tag.
        tag: String,
        /// The rule, for people.
        rule: String,
    },
    /// The namespace would hold more than it may.
    #[error("quota of namespace {} exceeded", .0.namespace)]
    Quota(Box<OverQuota>),
    /// The namespace has as many repositories as it may have.
    #[error("namespace {namespace} has {most} repositories, which is all it may have")]
    Repositories {
        /// The namespace.
        namespace: String,
        /// How many it may have.
        most: u64,
    },
    /// The disk is full.
    #[error("no space left")]
    NoSpace,
    /// The database or the store failed; the log says why.
    #[error("registry database failed")]
    Failed,
    /// The bucket does not answer: the change may have been made or not, or it cannot be said
    /// what the present state is.
    #[error("bucket does not answer")]
    Unavailable,
    /// More changes wait than may, or the registry is shutting down.
    #[error("too many changes are waiting")]
    Busy,
}

impl ChangeError {
    /// Whether the change met a state in which it must not be made. Otherwise nothing is known
    /// about the state, and the transaction is given up.
    pub(crate) const fn is_rejection(&self) -> bool {
        !matches!(self, Self::NoSpace | Self::Failed | Self::Unavailable | Self::Busy)
    }

    /// The same failure for another change of the batch.
    pub(super) const fn again(&self) -> Self {
        match self {
            Self::NoSpace => Self::NoSpace,
            Self::Unavailable => Self::Unavailable,
            Self::Busy => Self::Busy,
            _ => Self::Failed,
        }
    }
}

impl From<MetadataError> for ChangeError {
    fn from(error: MetadataError) -> Self {
        if error.is_no_space() {
            return Self::NoSpace;
        }
        if let MetadataError::Replica(ReplicaError::Objects(error)) = &error {
            tracing::warn!(error = error as &dyn std::error::Error, "the bucket does not answer");
            return Self::Unavailable;
        }
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "commit failed");
        Self::Failed
    }
}

macro_rules! failed {
    ($($error:ty),+) => {
        $(impl From<$error> for ChangeError {
            fn from(error: $error) -> Self {
                MetadataError::from(error).into()
            }
        })+
    };
}

failed!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl Stamp {
    /// The stamp of what the registry does of its own accord.
    pub(crate) fn system() -> Self {
        Self::now(String::new(), String::new())
    }

    /// A stamp with the time of this replica.
    pub(crate) fn now(by: String, request: String) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let at = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Self { at, by, request }
    }
}

/// Makes a change whole or, for an error, not at all. The result depends on nothing but the
/// arguments: every replica that applies the same changes in the same order has the same tables.
pub(crate) fn apply(
    change: &Change,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<Outcome, ChangeError> {
    tables.settle();
    let mut outcome = Outcome::default();
    let before = outbox::before(change, tables)?;
    let done = match change {
        Change::PutManifest(manifest) => manifest::put(manifest, stamp, tables, &mut outcome),
        Change::DeleteManifest(repository, digest) => {
            manifest::delete(repository, digest, stamp, tables, &mut outcome)
        }
        Change::DeleteTag(repository, tag) => {
            tag::delete(repository, tag, stamp, tables, &mut outcome)
        }
        Change::SetPolicies(namespaces) => policies::set(namespaces, stamp, tables),
        Change::Reserve(wanted) => usage::reserve(wanted, stamp, tables),
        Change::Unreserve(repository, holder, bytes) => {
            usage::unreserve(repository, holder, *bytes, tables)
        }
        Change::Recount => usage::recount(stamp, tables),
        Change::RecordPulls(pulls) => history::record_pulls(pulls, tables),
        Change::Retain(retain) => retention::retain(retain, stamp, tables, &mut outcome),
        Change::Restore(wanted) => trash::restore(wanted, stamp, tables, &mut outcome),
        Change::EmptyTrash(wanted) => trash::empty(wanted, stamp, tables, &mut outcome),
        Change::DeleteRepository(repository) => {
            repository::delete(repository, stamp, tables, &mut outcome)
        }
        Change::Link(link) => blob::link(link, tables),
        Change::DeleteBlob(repository, digest) => {
            blob::delete(repository, digest, tables, &mut outcome)
        }
        Change::AddBlob(blob) => blob::add(blob, stamp, tables, &mut outcome),
        Change::MountBlob(repository, digest) => blob::mount(repository, digest, stamp, tables),
        Change::SeeBlob(digest) => blob::see(digest, stamp, tables),
        Change::CacheManifest(manifest) => {
            cached::put_manifest(manifest, stamp, tables, &mut outcome)
        }
        Change::CacheBlob(blob) => cached::put_blob(blob, stamp, tables, &mut outcome),
        Change::UseCached(uses) => cached::note(uses, tables),
        Change::Uncache(all) => cached::forget(all, stamp, tables, &mut outcome),
        Change::Collect(collection) => collection::collect(collection, stamp, tables, &mut outcome),
        Change::Bury(burial) => collection::bury(burial, tables, &mut outcome),
        Change::Tidy(gone) => repository::tidy(gone, tables, &mut outcome),
        Change::Outbox(change) => outbox::apply(change, stamp, tables),
    };
    let done = done.and_then(|()| outbox::record(change, stamp, before, &mut outcome, tables));
    match done {
        Ok(()) => Ok(outcome),
        Err(error) => {
            tables.undo()?;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tenancy_tests;
#[cfg(test)]
mod tests;
