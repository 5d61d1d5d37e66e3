//! The thread that commits: many changes, one sync.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{SystemTime, UNIX_EPOCH};

use blob_store::{MirroredRefs, RefError};
use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository, Tag};
use redb::{ReadableTable as _, Table, WriteTransaction};

use super::tables::{
    HOLDERS, KEPT, LINKS, MANIFESTS, REFERRERS, REPOSITORIES, TAG_TARGETS, TAGS, USES, decode_kept,
    encode_kept, encode_manifest, ref_name, upper_bound,
};
use super::{LINKS_WAIT_MAX, MetadataError, Shared, lock};

/// Changes committed at once.
const BATCH_CHANGES: usize = 256;

/// A change of the metadata.
#[derive(Debug)]
pub(crate) enum Change {
    /// Stores a manifest and moves tags to it.
    PutManifest(Box<NewManifest>),
    /// Removes a manifest and every tag of it.
    DeleteManifest(Repository, Digest),
    /// Removes a tag.
    DeleteTag(Repository, Tag),
    /// Takes a blob out of a repository.
    DeleteBlob(Repository, Digest),
    /// Forgets links of blobs that are gone, and repositories that hold nothing.
    Tidy,
}

/// A manifest to store.
#[derive(Debug)]
pub(crate) struct NewManifest {
    pub(crate) repository: Repository,
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    pub(crate) tags: Vec<Tag>,
    /// What every tag has to name for them to be moved.
    pub(crate) expected: Option<Expected>,
    pub(crate) children: Vec<Child>,
    /// The subject, and the descriptor (JSON) by which this manifest is listed at it.
    pub(crate) subject: Option<(Digest, Vec<u8>)>,
}

/// What a tag has to name before it is moved (RFC 9110, conditional requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing: it must not exist (`If-None-Match: *`).
    Nothing,
    /// Something, whatever (`If-Match: *`).
    Anything,
    /// This manifest (`If-Match: "<digest>"`).
    Manifest(Digest),
}

/// Something that a manifest points to and that the repository must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Child {
    /// A config or layer.
    Blob(Digest),
    /// An entry of an index: a manifest, or whatever else somebody put into one.
    Entry(Digest),
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
    /// The disk is full.
    #[error("no space left")]
    NoSpace,
    /// The database or the store failed; the log says why.
    #[error("registry database failed")]
    Failed,
    /// More changes wait than may, or the registry is shutting down.
    #[error("too many changes are waiting")]
    Busy,
}

impl From<MetadataError> for ChangeError {
    fn from(error: MetadataError) -> Self {
        if error.is_no_space() {
            return Self::NoSpace;
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

/// A change with the one who waits for it.
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) reply: tokio::sync::oneshot::Sender<Result<(), ChangeError>>,
}

/// Commits until no sender is left.
pub(crate) fn run(shared: &Shared, refs: &MirroredRefs, requests: &Receiver<Request>) {
    loop {
        let mut batch = Vec::new();
        match requests.recv_timeout(LINKS_WAIT_MAX) {
            Ok(first) => {
                batch.push(first);
                batch.extend(requests.try_iter().take(BATCH_CHANGES - 1));
            }
            Err(RecvTimeoutError::Timeout) if lock(&shared.pending).links.is_empty() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                commit(shared, refs, batch);
                return;
            }
        }
        commit(shared, refs, batch);
    }
}

fn commit(shared: &Shared, refs: &MirroredRefs, batch: Vec<Request>) {
    let (changes, replies): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|request| (request.change, request.reply)).unzip();
    let answers = match try_commit(shared, refs, &changes) {
        Ok(answers) => answers,
        Err(error) => {
            // Nothing of the transaction stays, so every change of it fails.
            let again = || {
                if matches!(error, ChangeError::NoSpace) {
                    ChangeError::NoSpace
                } else {
                    ChangeError::Failed
                }
            };
            changes.iter().map(|_| Err(again())).collect()
        }
    };
    for (reply, answer) in replies.into_iter().zip(answers) {
        // Whoever asked may be gone.
        let _ = reply.send(answer);
    }
}

fn try_commit(
    shared: &Shared,
    refs: &MirroredRefs,
    changes: &[Change],
) -> Result<Vec<Result<(), ChangeError>>, ChangeError> {
    let written: Vec<_> = {
        let pending = lock(&shared.pending);
        pending.links.iter().map(|(key, link)| (key.clone(), *link)).collect()
    };
    let transaction = shared.database.begin_write()?;
    let mut work = Work { refs, shared, changed: BTreeSet::new(), dropped: Vec::new() };
    let answers = {
        let mut tables = Tables::open(&transaction)?;
        for ((repository, digest), link) in &written {
            let digest = digest.to_string();
            tables.links.insert((repository.as_str(), digest.as_str()), link.size)?;
            tables.holders.insert((digest.as_str(), repository.as_str()), ())?;
        }
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            let answer = work.apply(&mut tables, change);
            if matches!(answer, Err(ChangeError::Failed | ChangeError::NoSpace)) {
                // It may have been half made: give up the transaction.
                return Err(answer.err().unwrap_or(ChangeError::Failed));
            }
            answers.push(answer);
        }
        answers
    };
    if written.is_empty() && work.changed.is_empty() {
        transaction.abort()?;
        return Ok(answers);
    }
    // The blobs first, then what claims to have them.
    shared.store.settle().map_err(|error| ChangeError::from(MetadataError::Refs(error.into())))?;
    transaction.commit()?;
    shared
        .cache
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .drop_repositories(work.changed.iter().map(String::as_str));
    let mut pending = lock(&shared.pending);
    for (key, link) in written {
        if pending.links.get(&key).is_some_and(|now| now.sequence == link.sequence) {
            pending.links.remove(&key);
        }
    }
    if pending.links.is_empty() {
        pending.journal.clear()?;
    }
    drop(pending);
    for (name, digests) in work.dropped {
        // A ref too many keeps a blob longer; the next start removes it.
        if let Err(error) = refs.remove(&name, &digests) {
            tracing::warn!(%error, name, "cannot remove a ref of the blob store");
        }
    }
    Ok(answers)
}

struct Tables<'t> {
    repositories: Table<'t, &'static str, u64>,
    manifests: Table<'t, (&'static str, &'static str), &'static [u8]>,
    kept: Table<'t, (&'static str, &'static str), &'static str>,
    uses: Table<'t, (&'static str, &'static str, &'static str), ()>,
    tags: Table<'t, (&'static str, &'static str), &'static str>,
    tag_targets: Table<'t, (&'static str, &'static str, &'static str), ()>,
    links: Table<'t, (&'static str, &'static str), u64>,
    holders: Table<'t, (&'static str, &'static str), ()>,
    referrers: Table<'t, (&'static str, &'static str, &'static str), &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, ChangeError> {
        Ok(Self {
            repositories: transaction.open_table(REPOSITORIES)?,
            manifests: transaction.open_table(MANIFESTS)?,
            kept: transaction.open_table(KEPT)?,
            uses: transaction.open_table(USES)?,
            tags: transaction.open_table(TAGS)?,
            tag_targets: transaction.open_table(TAG_TARGETS)?,
            links: transaction.open_table(LINKS)?,
            holders: transaction.open_table(HOLDERS)?,
            referrers: transaction.open_table(REFERRERS)?,
        })
    }
}

/// One transaction in the making.
struct Work<'a> {
    refs: &'a MirroredRefs,
    shared: &'a Shared,
    /// Repositories whose rows differ now.
    changed: BTreeSet<String>,
    /// Refs to remove once the transaction stands.
    dropped: Vec<(String, Vec<Digest>)>,
}

impl Work<'_> {
    /// Makes a change whole or, for a refusal, not at all.
    fn apply(&mut self, tables: &mut Tables<'_>, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::PutManifest(manifest) => self.put_manifest(tables, manifest),
            Change::DeleteManifest(repository, digest) => {
                self.delete_manifest(tables, repository.as_str(), digest)
            }
            Change::DeleteTag(repository, tag) => {
                let name = repository.as_str();
                let Some(digest) = tables
                    .tags
                    .remove((name, tag.as_str()))?
                    .map(|digest| digest.value().to_owned())
                else {
                    return Err(ChangeError::Unknown);
                };
                tables.tag_targets.remove((name, digest.as_str(), tag.as_str()))?;
                self.changed.insert(name.to_owned());
                Ok(())
            }
            Change::DeleteBlob(repository, digest) => {
                let (name, digest) = (repository.as_str(), digest.to_string());
                let end = upper_bound(&digest);
                let user = tables
                    .uses
                    .range((name, digest.as_str(), "")..(name, end.as_str(), ""))?
                    .next()
                    .transpose()?
                    .map(|(key, _)| key.value().2.to_owned());
                if let Some(user) = user {
                    return Err(ChangeError::InUse(user));
                }
                if tables.links.remove((name, digest.as_str()))?.is_none() {
                    return Err(ChangeError::Unknown);
                }
                tables.holders.remove((digest.as_str(), name))?;
                self.changed.insert(name.to_owned());
                Ok(())
            }
            Change::Tidy => self.tidy(tables),
        }
    }

    fn put_manifest(
        &mut self,
        tables: &mut Tables<'_>,
        manifest: &NewManifest,
    ) -> Result<(), ChangeError> {
        let name = manifest.repository.as_str();
        let digest = manifest.digest.to_string();
        let key = (name, digest.as_str());
        if let Some(expected) = manifest.expected {
            for tag in &manifest.tags {
                let named = tables.tags.get((name, tag.as_str()))?;
                let holds = match (expected, named.as_ref().map(|digest| digest.value())) {
                    (Expected::Nothing, named) => named.is_none(),
                    (Expected::Anything, named) => named.is_some(),
                    (Expected::Manifest(wanted), named) => named == Some(&wanted.to_string()[..]),
                };
                if !holds {
                    return Err(ChangeError::NotAsExpected(tag.to_string()));
                }
            }
        }
        if tables.manifests.get(key)?.is_none() {
            self.insert_manifest(tables, manifest, &digest)?;
        }
        for tag in &manifest.tags {
            let tag = tag.as_str();
            let previous = tables.tags.insert((name, tag), digest.as_str())?;
            let previous = previous.map(|digest| digest.value().to_owned());
            if previous.as_deref() == Some(&digest) {
                continue;
            }
            if let Some(previous) = previous {
                tables.tag_targets.remove((name, previous.as_str(), tag))?;
            }
            tables.tag_targets.insert((name, digest.as_str(), tag), ())?;
            self.changed.insert(name.to_owned());
        }
        Ok(())
    }

    fn insert_manifest(
        &mut self,
        tables: &mut Tables<'_>,
        manifest: &NewManifest,
        digest: &str,
    ) -> Result<(), ChangeError> {
        let name = manifest.repository.as_str();
        let mut kept = Vec::new();
        for child in &manifest.children {
            let (Child::Blob(child_digest) | Child::Entry(child_digest)) = child;
            let text = child_digest.to_string();
            if tables.links.get((name, text.as_str()))?.is_some() {
                kept.push(*child_digest);
                continue;
            }
            let found = match child {
                Child::Blob(_) => false,
                Child::Entry(_) => tables.manifests.get((name, text.as_str()))?.is_some(),
            };
            if !found {
                return Err(ChangeError::Missing(*child_digest));
            }
        }
        kept.sort();
        kept.dedup();
        match self.refs.set(&ref_name(name, digest), &kept) {
            Ok(()) => {}
            Err(RefError::Missing { digest }) => return Err(ChangeError::Missing(digest)),
            Err(error) => return Err(MetadataError::Refs(error).into()),
        }
        let row = encode_manifest(manifest.media_type.as_str(), &manifest.bytes);
        tables.manifests.insert((name, digest), row.as_slice())?;
        tables.kept.insert((name, digest), encode_kept(&kept).as_str())?;
        for child in &manifest.children {
            let (Child::Blob(child) | Child::Entry(child)) = child;
            tables.uses.insert((name, child.to_string().as_str(), digest), ())?;
        }
        if let Some((subject, descriptor)) = &manifest.subject {
            let subject = subject.to_string();
            tables.referrers.insert((name, subject.as_str(), digest), descriptor.as_slice())?;
        }
        if tables.repositories.get(name)?.is_none() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            tables.repositories.insert(name, now.as_secs())?;
        }
        self.changed.insert(name.to_owned());
        Ok(())
    }

    fn delete_manifest(
        &mut self,
        tables: &mut Tables<'_>,
        name: &str,
        digest: &Digest,
    ) -> Result<(), ChangeError> {
        let digest = digest.to_string();
        let key = (name, digest.as_str());
        let Some(bytes) = tables.manifests.remove(key)?.map(|row| row.value().to_vec()) else {
            return Err(ChangeError::Unknown);
        };
        let kept = tables.kept.remove(key)?.map(|kept| decode_kept(kept.value()));
        self.dropped.push((ref_name(name, &digest), kept.unwrap_or_default()));
        let end = upper_bound(&digest);
        let tags: Vec<String> = tables
            .tag_targets
            .range((name, digest.as_str(), "")..(name, end.as_str(), ""))?
            .map(|row| row.map(|(key, _)| key.value().2.to_owned()))
            .collect::<Result<_, _>>()?;
        for tag in &tags {
            tables.tags.remove((name, tag.as_str()))?;
            tables.tag_targets.remove((name, digest.as_str(), tag.as_str()))?;
        }
        // The manifest itself says what else points from it.
        let parsed = super::tables::decode_manifest(&bytes).and_then(|(media_type, bytes)| {
            let media_type = MediaType::new(media_type);
            oci_model::RawManifest::parse(Some(&media_type), bytes.to_vec()).ok()
        });
        if let Some(manifest) = parsed {
            for child in manifest.parsed().references() {
                let child = child.digest.to_string();
                tables.uses.remove((name, child.as_str(), digest.as_str()))?;
            }
            if let Some(subject) = manifest.parsed().subject() {
                let subject = subject.digest.to_string();
                tables.referrers.remove((name, subject.as_str(), digest.as_str()))?;
            }
        }
        self.changed.insert(name.to_owned());
        Ok(())
    }

    fn tidy(&mut self, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
        let mut gone = Vec::new();
        let mut occupied = BTreeSet::new();
        for row in tables.links.iter()? {
            let (key, _) = row?;
            let (name, digest) = key.value();
            let present =
                digest.parse().is_ok_and(|digest: Digest| self.shared.store.contains(&digest));
            if present {
                occupied.insert(name.to_owned());
            } else {
                gone.push((name.to_owned(), digest.to_owned()));
            }
        }
        for (name, digest) in &gone {
            tables.links.remove((name.as_str(), digest.as_str()))?;
            tables.holders.remove((digest.as_str(), name.as_str()))?;
            self.changed.insert(name.clone());
        }
        let mut empty = Vec::new();
        for row in tables.repositories.iter()? {
            let (key, _) = row?;
            let name = key.value();
            let end = upper_bound(name);
            let manifests = tables.manifests.range((name, "")..(end.as_str(), ""))?.next();
            if manifests.is_none() && !occupied.contains(name) {
                empty.push(name.to_owned());
            }
        }
        for name in &empty {
            tables.repositories.remove(name.as_str())?;
            self.changed.insert(name.clone());
        }
        Ok(())
    }
}
