//! What happened, for those who have to be told: the audit log and the receivers of
//! notifications. Events are written by the change that they are about, so that there is none
//! without the other.

use std::collections::BTreeMap;

use oci_model::Repository;
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::history::How;
use super::{Change, ChangeError, Outcome, Reply, Stamp};
use crate::metadata::tables::{Tables, decode_manifest, upper_bound};

/// Events kept although every receiver has them: for audit logs that were written elsewhere or
/// could not be written for a while.
const EVENTS_KEPT: u64 = 10_000;

/// Events kept for receivers that do not take them. The oldest go beyond it.
const EVENTS_MAX: u64 = 1_000_000;

/// Old events removed with each new one, at most, so that no change takes long.
const TRIM_MAX: u64 = 16;

/// Things that one change removed or brought back and that have an event each; the last one
/// counts the others.
pub(super) const TOLD_MAX: usize = 10_000;

/// Undeliverable events kept per receiver; the oldest go beyond it.
const DEAD_MAX: usize = 10_000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// Name of the principal; empty for the registry itself and for anonymous clients.
    pub(crate) by: String,
    /// Id of the request.
    pub(crate) request: String,
    pub(crate) action: Action,
    pub(crate) repository: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// What the tag named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) old_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    /// Bytes of the manifest or blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// What removed it or brought it back, unless a request named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) how: Option<How>,
    /// So many more tags and manifests have no event of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) more: Option<u64>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// A manifest was stored or a tag moved.
    Push,
    /// A manifest and its tags, or a tag alone, was removed.
    Delete,
    /// A blob was taken out of a repository.
    DeleteBlob,
    /// A repository took over a blob that is there.
    Mount,
    /// A manifest or a tag came back, or a tag was set back.
    Restore,
    /// A manifest or a tag that was deleted cannot be restored any more.
    Purge,
    /// A repository was removed with all that it held.
    DeleteRepository,
}

/// A change of the outbox itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutboxChange {
    /// These receivers are told from now on, and no others. A new one learns what happens next.
    Receivers(Vec<String>),
    /// The receiver has every event up to this one.
    Delivered { receiver: String, sequence: u64 },
    /// The receiver does not take the event; the next one is its turn.
    Undeliverable { receiver: String, sequence: u64, attempts: u32, reason: String },
    /// Undeliverable events are tried again: one, or all.
    Replay { receiver: String, sequence: Option<u64> },
    /// A replayed event was taken.
    Replayed { receiver: String, sequence: u64 },
    /// Somebody takes up a task that only one may do, or goes on with it, until some time.
    Lease {
        task: String,
        holder: String,
        /// Milliseconds since 1970.
        until: u64,
    },
}

/// An event that a receiver did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) event: Event,
    pub(crate) attempts: u32,
    pub(crate) reason: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// Whether it is to be tried again.
    #[serde(default)]
    pub(crate) again: bool,
}

/// Who does a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    holder: String,
    until: u64,
}

/// What the tables say before a change about what it will do away with.
pub(super) struct Before {
    /// What the tags of the change named, in its order.
    tags: Vec<Option<String>>,
    /// What goes without being named by the change.
    removed: Removed,
}

/// Tags and manifests that went or came, as many as have events, and how many more there were.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Repository, tag or digest, and what a tag named.
    pub(super) objects: Vec<(String, String, Option<String>)>,
    pub(super) more: u64,
}

impl Removed {
    pub(super) fn add(&mut self, repository: &str, id: &str, named: Option<&str>) {
        if self.objects.len() < TOLD_MAX {
            let named = named.map(str::to_owned);
            self.objects.push((repository.to_owned(), id.to_owned(), named));
        } else {
            self.more += 1;
        }
    }

    /// Everything in a repository.
    fn all_of(name: &str, tables: &Tables<'_>) -> Result<Self, ChangeError> {
        let mut all = Self::default();
        let end = upper_bound(name);
        let range = || (name, "")..(end.as_str(), "");
        for row in tables.tags.range(range())? {
            let (key, digest) = row?;
            all.add(name, key.value().1, Some(digest.value()));
        }
        for row in tables.manifests.range(range())? {
            all.add(name, row?.0.value().1, None);
        }
        Ok(all)
    }
}

pub(super) fn before(change: &Change, tables: &Tables<'_>) -> Result<Before, ChangeError> {
    let tag = |repository: &Repository, tag: &str| -> Result<_, ChangeError> {
        let row = tables.tags.get((repository.as_str(), tag))?;
        Ok(row.map(|row| row.value().to_owned()))
    };
    let tags = match change {
        Change::PutManifest(manifest) => manifest
            .tags
            .iter()
            .map(|name| tag(&manifest.repository, name.as_str()))
            .collect::<Result<_, _>>()?,
        Change::DeleteTag(repository, name) => vec![tag(repository, name.as_str())?],
        Change::Retain(retain) => {
            let planned = retain.planned.iter();
            planned.map(|id| tag(&retain.repository, id)).collect::<Result<_, _>>()?
        }
        Change::Restore(wanted) => {
            let wanted = wanted.tag.as_ref().map(|name| tag(&wanted.repository, name.as_str()));
            wanted.into_iter().collect::<Result<_, _>>()?
        }
        _ => Vec::new(),
    };
    let removed = match change {
        Change::DeleteRepository(repository) => Removed::all_of(repository.as_str(), tables)?,
        _ => Removed::default(),
    };
    Ok(Before { tags, removed })
}

/// Writes what a change that was made did. A push that was made before, such as the second try
/// of a client that missed our answer, is none.
pub(super) fn record(
    change: &Change,
    stamp: &Stamp,
    before: Before,
    outcome: &mut Outcome,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    if !tables.is_touched() {
        return Ok(());
    }
    let event = |action, repository: &Repository| Event::of(stamp, action, repository.as_str());
    match change {
        Change::PutManifest(manifest) => {
            let pushed = Event {
                digest: Some(manifest.digest.to_string()),
                media_type: Some(manifest.media_type.as_str().to_owned()),
                size: Some(manifest.bytes.len() as u64),
                ..event(Action::Push, &manifest.repository)
            };
            let mut moved = manifest.tags.iter().zip(before.tags).peekable();
            if moved.peek().is_none() {
                return append(&pushed, tables);
            }
            for (tag, old_digest) in moved.filter(|(_, old)| *old != pushed.digest) {
                let tag = Some(tag.to_string());
                append(&Event { tag, old_digest, ..pushed.clone() }, tables)?;
            }
            Ok(())
        }
        Change::DeleteManifest(repository, digest) => {
            let digest = Some(digest.to_string());
            append(&Event { digest, ..event(Action::Delete, repository) }, tables)
        }
        Change::DeleteTag(repository, tag) => {
            let old_digest = before.tags.into_iter().next().flatten();
            let tag = Some(tag.to_string());
            append(&Event { tag, old_digest, ..event(Action::Delete, repository) }, tables)
        }
        Change::DeleteBlob(repository, digest) => {
            let digest = Some(digest.to_string());
            append(&Event { digest, ..event(Action::DeleteBlob, repository) }, tables)
        }
        Change::MountBlob(repository, digest) => {
            let digest = Some(digest.to_string());
            append(&Event { digest, ..event(Action::Mount, repository) }, tables)
        }
        Change::Retain(retain) => {
            let Reply::Retained { tags, manifests } = &outcome.reply else { return Ok(()) };
            let name = retain.repository.as_str();
            let mut removed = Removed::default();
            let named: BTreeMap<_, _> = retain.planned.iter().zip(&before.tags).collect();
            for tag in tags {
                removed.add(name, tag, named.get(tag).and_then(|named| named.as_deref()));
            }
            for digest in manifests {
                removed.add(name, digest, None);
            }
            tell(Action::Delete, Some(How::Retention), &removed, stamp, tables)
        }
        Change::DeleteRepository(repository) => {
            let how = Some(How::Repository);
            tell(Action::Delete, how, &before.removed, stamp, tables)?;
            append(&event(Action::DeleteRepository, repository), tables)
        }
        Change::Restore(wanted) => {
            let Reply::Restored { manifests, tags } = &outcome.reply else { return Ok(()) };
            let old = before.tags.into_iter().next().flatten();
            restored(&wanted.repository, manifests, tags, old.as_ref(), stamp, tables)
        }
        Change::EmptyTrash(_) => {
            let purged = std::mem::take(&mut outcome.purged);
            tell(Action::Purge, None, &purged, stamp, tables)
        }
        // Links and leases of blobs say nothing to people, and the outbox is not about itself.
        _ => Ok(()),
    }
}

impl Event {
    fn of(stamp: &Stamp, action: Action, repository: &str) -> Self {
        Self {
            at: stamp.at,
            by: stamp.by.clone(),
            request: stamp.request.clone(),
            action,
            repository: repository.to_owned(),
            tag: None,
            digest: None,
            old_digest: None,
            media_type: None,
            size: None,
            how: None,
            more: None,
        }
    }
}

/// Tells of things that a change removed without naming them.
fn tell(
    action: Action,
    how: Option<How>,
    removed: &Removed,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let last = removed.objects.len().saturating_sub(1);
    for (at, (repository, id, named)) in removed.objects.iter().enumerate() {
        let mut event = Event { how, ..Event::of(stamp, action, repository) };
        // No tag has a colon, every digest has one.
        if id.contains(':') {
            event.digest = Some(id.clone());
        } else {
            event.tag = Some(id.clone());
            event.old_digest.clone_from(named);
        }
        event.more = (at == last && removed.more > 0).then_some(removed.more);
        append(&event, tables)?;
    }
    Ok(())
}

/// Tells of manifests that came back and of the tags that name them.
fn restored(
    repository: &Repository,
    manifests: &[String],
    tags: &[String],
    old: Option<&String>,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let name = repository.as_str();
    let mut events = Vec::new();
    for digest in manifests.iter().take(TOLD_MAX) {
        let mut event = Event::of(stamp, Action::Restore, name);
        event.digest = Some(digest.clone());
        if let Some(row) = tables.manifests.get((name, digest.as_str()))?
            && let Some((media_type, bytes)) = decode_manifest(row.value())
        {
            event.media_type = Some(media_type.to_owned());
            event.size = Some(bytes.len() as u64);
        }
        events.push(event);
    }
    for tag in tags.iter().take(TOLD_MAX) {
        let digest = tables.tags.get((name, tag.as_str()))?.map(|row| row.value().to_owned());
        if digest.as_ref() != old {
            let (tag, old_digest) = (Some(tag.clone()), old.cloned());
            events.push(Event {
                tag,
                digest,
                old_digest,
                ..Event::of(stamp, Action::Restore, name)
            });
        }
    }
    let untold = manifests.len().saturating_sub(TOLD_MAX) + tags.len().saturating_sub(TOLD_MAX);
    if let Some(last) = events.last_mut() {
        last.more = (untold > 0).then_some(untold as u64);
    }
    events.iter().try_for_each(|event| append(event, tables))
}

fn append(event: &Event, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let sequence = last(tables)? + 1;
    tables.events.insert(sequence, encode(event).as_slice())?;
    trim(sequence, tables)
}

fn last(tables: &Tables<'_>) -> Result<u64, ChangeError> {
    Ok(tables.events.last()?.map_or(0, |(key, _)| key.value()))
}

/// Removes some of what nobody needs any more. The newest event always stays: it holds the count.
fn trim(newest: u64, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let mut taken = newest;
    for row in tables.receivers.iter()? {
        taken = taken.min(row?.1.value());
    }
    let needless = taken.min(newest.saturating_sub(EVENTS_KEPT));
    let end = needless.max(newest.saturating_sub(EVENTS_MAX));
    let Some(first) = tables.events.first()?.map(|(key, _)| key.value()) else { return Ok(()) };
    for sequence in first..=end.min(first.saturating_add(TRIM_MAX)) {
        tables.events.remove(sequence)?;
    }
    Ok(())
}

/// Makes a change of the outbox.
pub(super) fn apply(
    change: &OutboxChange,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    match change {
        OutboxChange::Receivers(names) => receivers(names, tables),
        OutboxChange::Delivered { receiver, sequence } => advance(receiver, *sequence, tables),
        OutboxChange::Undeliverable { receiver, sequence, attempts, reason } => {
            let event = tables.events.get(sequence)?.map(|row| row.value().to_vec());
            let mut event = event.and_then(|row| serde_json::from_slice::<Event>(&row).ok());
            if event.is_none() {
                // One that was put aside before, and tried again in vain.
                let letter = tables.dead_letters.get((receiver.as_str(), *sequence))?;
                let letter = letter.map(|row| row.value().to_vec());
                let letter = letter.and_then(|row| serde_json::from_slice::<DeadLetter>(&row).ok());
                event = letter.map(|letter| letter.event);
            }
            if let Some(event) = event {
                let (attempts, reason) = (*attempts, reason.clone());
                let letter = DeadLetter { event, attempts, reason, at: stamp.at, again: false };
                bury(receiver, *sequence, &letter, tables)?;
            }
            advance(receiver, *sequence, tables)
        }
        OutboxChange::Replay { receiver, sequence } => replay(receiver, *sequence, tables),
        OutboxChange::Replayed { receiver, sequence } => {
            tables.dead_letters.remove((receiver.as_str(), *sequence))?;
            Ok(())
        }
        OutboxChange::Lease { task, holder, until } => {
            let lease = tables.leases.get(task.as_str())?.map(|row| row.value().to_vec());
            let lease = lease.and_then(|row| serde_json::from_slice::<Lease>(&row).ok());
            if lease.is_some_and(|lease| lease.holder != *holder && stamp.at < lease.until) {
                return Err(ChangeError::Taken);
            }
            let lease = Lease { holder: holder.clone(), until: *until };
            tables.leases.insert(task.as_str(), encode(&lease).as_slice())?;
            Ok(())
        }
    }
}

fn receivers(names: &[String], tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let mut known = Vec::new();
    for row in tables.receivers.iter()? {
        known.push(row?.0.value().to_owned());
    }
    for gone in known.iter().filter(|name| !names.contains(name)) {
        tables.receivers.remove(gone.as_str())?;
    }
    let newest = last(tables)?;
    for new in names.iter().filter(|name| !known.contains(name)) {
        tables.receivers.insert(new.as_str(), newest)?;
    }
    Ok(())
}

fn advance(receiver: &str, sequence: u64, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let now = tables.receivers.get(receiver)?.map(|row| row.value());
    match now {
        // Somebody else was faster, or it was taken out of the configuration.
        None => Err(ChangeError::Unknown),
        Some(now) if sequence <= now => Ok(()),
        Some(_) => {
            tables.receivers.insert(receiver, sequence)?;
            Ok(())
        }
    }
}

fn bury(
    receiver: &str,
    sequence: u64,
    letter: &DeadLetter,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let mut sequences = Vec::new();
    for row in tables.dead_letters.range((receiver, 0)..=(receiver, u64::MAX))? {
        sequences.push(row?.0.value().1);
    }
    if DEAD_MAX <= sequences.len() {
        tables.dead_letters.remove((receiver, sequences[0]))?;
    }
    tables.dead_letters.insert((receiver, sequence), encode(letter).as_slice())?;
    Ok(())
}

fn replay(
    receiver: &str,
    sequence: Option<u64>,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let (first, last) = sequence.map_or((0, u64::MAX), |sequence| (sequence, sequence));
    let mut letters = Vec::new();
    for row in tables.dead_letters.range((receiver, first)..=(receiver, last))? {
        let (key, value) = row?;
        if let Ok(letter) = serde_json::from_slice::<DeadLetter>(value.value()) {
            letters.push((key.value().1, letter));
        }
    }
    if letters.is_empty() {
        return Err(ChangeError::Unknown);
    }
    for (sequence, letter) in letters {
        let letter = DeadLetter { again: true, ..letter };
        tables.dead_letters.insert((receiver, sequence), encode(&letter).as_slice())?;
    }
    Ok(())
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Structs of texts and numbers cannot fail to become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}
