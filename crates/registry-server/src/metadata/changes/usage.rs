//! What a namespace holds, and what it may hold.
//!
//! A blob or manifest counts once in a namespace, from the first manifest there that needs it to
//! the last one that goes, out of the trash too: its bytes are kept that long. What was pulled
//! through from elsewhere never counts.
//!
//! Blobs that no manifest needs yet are reserved: by the id of the upload while it goes on, then
//! by digest until a manifest needs them. Each reservation has an end, so that what a dead client
//! or a dead replica left is given back without anybody's help.

use std::collections::BTreeMap;

use oci_model::{Digest, MediaType, Repository};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::history::{self, ManifestTimes};
use super::repository::Origin;
use super::{ChangeError, Stamp, policies};
use crate::metadata::MetadataError;
use crate::metadata::tables::{
    Tables, decode_kept, decode_manifest, read_json, upper_bound, write_json,
};
use crate::tenancy::Namespace;

/// The counters of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Bytes of blobs and manifests, each once.
    pub(crate) bytes: u64,
    /// Blobs and manifests, each once.
    pub(crate) objects: u64,
    /// Repositories that hold a manifest.
    pub(crate) repositories: u64,
    /// Bytes reserved for blobs that no manifest needs yet.
    #[serde(default)]
    pub(crate) reserved: u64,
}

/// Room for a blob that no manifest needs yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) repository: Repository,
    /// Id of the upload, or the digest when it is known.
    pub(crate) holder: String,
    pub(crate) bytes: u64,
    /// Whether the bytes come on top of what was reserved before; otherwise they are all.
    #[serde(default)]
    pub(crate) adds: bool,
    /// Milliseconds after which it is given back.
    pub(crate) lasts: u64,
    /// The holder under which some of it was reserved before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instead_of: Option<String>,
}

/// Why something does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OverQuota {
    pub(crate) namespace: String,
    pub(crate) quota: u64,
    pub(crate) used: u64,
    pub(crate) reserved: u64,
    /// Bytes that were asked for beyond what is used and reserved.
    pub(crate) asked: u64,
}

pub(super) fn load(prefix: &str, tables: &Tables<'_>) -> Result<Usage, ChangeError> {
    match tables.usage.get(prefix)? {
        Some(row) => Ok(read_json("usage", prefix, row.value())?),
        None => Ok(Usage::default()),
    }
}

pub(super) fn store(
    prefix: &str,
    usage: &Usage,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    tables.usage.insert(prefix, write_json(usage).as_slice())?;
    Ok(())
}

/// Counts what a manifest needs, itself included.
pub(super) fn hold(
    namespace: &Namespace,
    needed: &[(String, u64)],
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let prefix = namespace.prefix.as_str();
    let mut usage = load(prefix, tables)?;
    let mut new = 0_u64;
    for (digest, size) in needed {
        let key = (prefix, digest.as_str());
        let held = tables.usage_refs.get(key)?.map(|row| row.value());
        if let Some((uses, size)) = held {
            tables.usage_refs.insert(key, (uses + 1, size))?;
            continue;
        }
        tables.usage_refs.insert(key, (1, *size))?;
        usage.bytes += size;
        usage.objects += 1;
        new += size;
        if let Some(reserved) = tables.reservations.remove(key)? {
            usage.reserved = usage.reserved.saturating_sub(reserved.value().0);
        }
    }
    if new > 0 {
        check(namespace, &mut usage, new, stamp, tables)?;
    }
    store(prefix, &usage, tables)
}

/// Uncounts what a manifest needed.
pub(super) fn release(
    prefix: &str,
    needed: &[String],
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let mut usage = load(prefix, tables)?;
    for digest in needed {
        let key = (prefix, digest.as_str());
        let held = tables.usage_refs.get(key)?.map(|row| row.value());
        match held {
            Some((uses, size)) if uses > 1 => {
                tables.usage_refs.insert(key, (uses - 1, size))?;
            }
            Some((_, size)) => {
                tables.usage_refs.remove(key)?;
                usage.bytes = usage.bytes.saturating_sub(size);
                usage.objects = usage.objects.saturating_sub(1);
            }
            None => {}
        }
    }
    store(prefix, &usage, tables)
}

/// Refuses when the namespace holds more than it may. `usage` has what was asked for already.
fn check(
    namespace: &Namespace,
    usage: &mut Usage,
    asked: u64,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let Some(quota) = namespace.quota else { return Ok(()) };
    if usage.bytes.saturating_add(usage.reserved) <= quota.0 {
        return Ok(());
    }
    give_back(&namespace.prefix, usage, stamp, tables)?;
    let total = usage.bytes.saturating_add(usage.reserved);
    if total <= quota.0 {
        return Ok(());
    }
    let used = usage.bytes.min(total.saturating_sub(asked));
    Err(ChangeError::Quota(Box::new(OverQuota {
        namespace: namespace.title().to_owned(),
        quota: quota.0,
        used,
        reserved: total.saturating_sub(asked).saturating_sub(used),
        asked,
    })))
}

/// Gives back the reservations of a namespace whose time is over.
fn give_back(
    prefix: &str,
    usage: &mut Usage,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let end = upper_bound(prefix);
    let mut over = Vec::new();
    for row in tables.reservations.range((prefix, "")..(end.as_str(), ""))? {
        let (key, value) = row?;
        let (bytes, until) = value.value();
        if until <= stamp.at {
            over.push((key.value().1.to_owned(), bytes));
        }
    }
    for (holder, bytes) in over {
        tables.reservations.remove((prefix, holder.as_str()))?;
        usage.reserved = usage.reserved.saturating_sub(bytes);
    }
    Ok(())
}

/// Reserves room, or refuses.
pub(super) fn reserve(
    wanted: &Reservation,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let namespace = policies::of(wanted.repository.as_str(), tables)?;
    let prefix = namespace.prefix.as_str();
    let mut usage = load(prefix, tables)?;
    let mut before = 0_u64;
    for holder in wanted.instead_of.iter().chain([&wanted.holder]) {
        if let Some(former) = tables.reservations.remove((prefix, holder.as_str()))? {
            usage.reserved = usage.reserved.saturating_sub(former.value().0);
            before = before.saturating_add(former.value().0);
        }
    }
    let bytes = if wanted.adds { before.saturating_add(wanted.bytes) } else { wanted.bytes };
    let key = (prefix, wanted.holder.as_str());
    let is_counted = tables.usage_refs.get(key)?.is_some();
    if namespace.quota.is_some() && !is_counted {
        usage.reserved = usage.reserved.saturating_add(bytes);
        // What was there before is no reason to refuse: the quota may have become smaller.
        if bytes > before {
            check(&namespace, &mut usage, bytes - before, stamp, tables)?;
        }
        tables.reservations.insert(key, (bytes, stamp.at.saturating_add(wanted.lasts)))?;
    }
    store(prefix, &usage, tables)
}

/// Gives a part of a reservation back; it is no error if there is none.
pub(super) fn unreserve(
    repository: &Repository,
    holder: &str,
    bytes: u64,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let namespace = policies::of(repository.as_str(), tables)?;
    let prefix = namespace.prefix.as_str();
    let key = (prefix, holder);
    let Some((held, until)) = tables.reservations.remove(key)?.map(|row| row.value()) else {
        return Ok(());
    };
    let left = held.saturating_sub(bytes);
    if left > 0 {
        tables.reservations.insert(key, (left, until))?;
    }
    let mut usage = load(prefix, tables)?;
    usage.reserved = usage.reserved.saturating_sub(held - left);
    store(prefix, &usage, tables)
}

/// Counts a repository that now holds something; one of the cache is no reason to refuse.
pub(super) fn add_repository(
    namespace: &Namespace,
    origin: Origin,
    tables: &mut Tables<'_>,
) -> Result<(), ChangeError> {
    let mut usage = load(&namespace.prefix, tables)?;
    if let Some(most) = namespace.repositories_max
        && usage.repositories >= most
        && origin == Origin::Push
    {
        let namespace = namespace.title().to_owned();
        return Err(ChangeError::Repositories { namespace, most });
    }
    usage.repositories += 1;
    store(&namespace.prefix, &usage, tables)
}

/// Uncounts a repository.
pub(super) fn remove_repository(prefix: &str, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    let mut usage = load(prefix, tables)?;
    usage.repositories = usage.repositories.saturating_sub(1);
    store(prefix, &usage, tables)
}

/// The digests that a manifest of the repository needs, itself included.
pub(super) fn needs(digest: &str, kept: &[Digest]) -> Vec<String> {
    let mut needed: Vec<String> = kept.iter().map(ToString::to_string).collect();
    needed.push(digest.to_owned());
    needed.sort();
    needed.dedup();
    needed
}

/// What a full count found: uses and size of everything by namespace and digest.
pub(crate) type Counted = BTreeMap<(String, String), (u64, u64)>;

/// Counts everything, from the manifests and the trash.
pub(crate) fn count(
    manifests: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
    buried: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
    kept: &impl redb::ReadableTable<(&'static str, &'static str), &'static str>,
    times: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
    size_of: impl Fn(&str, &str) -> Result<Option<u64>, redb::StorageError>,
    namespace_of: impl Fn(&str) -> String,
) -> Result<Counted, MetadataError> {
    let mut counted = Counted::new();
    for row in manifests.iter()?.chain(buried.iter()?) {
        let (key, row) = row?;
        let (name, digest) = key.value();
        let damaged =
            || MetadataError::Damaged { table: "manifests", key: format!("{name}@{digest}") };
        let (media_type, bytes) = decode_manifest(row.value()).ok_or_else(damaged)?;
        if let Some(row) = times.get((name, digest))?
            && read_json::<ManifestTimes>("manifest_times", digest, row.value())?.cached
        {
            continue;
        }
        let needed = match kept.get((name, digest))? {
            Some(kept) => decode_kept(kept.value()),
            None => Vec::new(),
        };
        let namespace = namespace_of(name);
        let mut described = None;
        for needed in needs(digest, &needed) {
            let size = match size_of(name, &needed)? {
                _ if needed == digest => bytes.len() as u64,
                Some(size) => size,
                // The blob's link went; what the manifest says is all that is left.
                None => *described
                    .get_or_insert_with(|| described_sizes(media_type, bytes))
                    .get(&needed)
                    .unwrap_or(&0),
            };
            let count = counted.entry((namespace.clone(), needed)).or_insert((0, size));
            count.0 += 1;
        }
    }
    Ok(counted)
}

fn described_sizes(media_type: &str, bytes: &[u8]) -> BTreeMap<String, u64> {
    let media_type = MediaType::new(media_type);
    let parsed = oci_model::RawManifest::parse(Some(&media_type), bytes.to_vec());
    parsed.map_or_else(
        |_| BTreeMap::new(),
        |manifest| {
            let references = manifest.parsed().references();
            references.map(|child| (child.digest.to_string(), child.size)).collect()
        },
    )
}

/// Replaces the counters by a full count, and gives times to what has none yet.
pub(super) fn recount(stamp: &Stamp, tables: &mut Tables<'_>) -> Result<(), ChangeError> {
    history::complete(stamp, tables)?;
    let policies = policies::current(tables)?;
    // The sizes that were counted before outlive the links.
    let mut sizes = BTreeMap::new();
    for row in tables.usage_refs.iter()? {
        let (key, value) = row?;
        sizes.insert(key.value().1.to_owned(), value.value().1);
    }
    let counted = count(
        &*tables.manifests,
        &*tables.trash_manifests,
        &*tables.kept,
        &*tables.manifest_times,
        |name, digest| {
            let linked = tables.links.get((name, digest))?.map(|size| size.value());
            Ok(linked.or_else(|| sizes.get(digest).copied()))
        },
        |name| policies.of(name).prefix.clone(),
    )?;
    let mut usages: BTreeMap<String, Usage> = BTreeMap::new();
    for row in tables.repositories.iter()? {
        let prefix = policies.of(row?.0.value()).prefix.clone();
        usages.entry(prefix).or_default().repositories += 1;
    }
    for ((prefix, _), (_, size)) in &counted {
        let usage = usages.entry(prefix.clone()).or_default();
        usage.bytes += size;
        usage.objects += 1;
    }
    let mut stale = Vec::new();
    for row in tables.usage_refs.iter()? {
        let (namespace, digest) = row.map(|(key, _)| {
            let (namespace, digest) = key.value();
            (namespace.to_owned(), digest.to_owned())
        })?;
        stale.push((namespace, digest));
    }
    for (namespace, digest) in &stale {
        tables.usage_refs.remove((namespace.as_str(), digest.as_str()))?;
    }
    for ((namespace, digest), (uses, size)) in &counted {
        tables.usage_refs.insert((namespace.as_str(), digest.as_str()), (*uses, *size))?;
    }
    // A reservation stays where its namespace stays: the others are made anew by whoever uploads.
    let mut gone = Vec::new();
    for row in tables.reservations.iter()? {
        let (key, value) = row?;
        let (namespace, holder) = key.value();
        let is_known = policies.all().iter().any(|known| known.prefix == namespace);
        if is_known && !counted.contains_key(&(namespace.to_owned(), holder.to_owned())) {
            usages.entry(namespace.to_owned()).or_default().reserved += value.value().0;
        } else {
            gone.push((namespace.to_owned(), holder.to_owned()));
        }
    }
    for (namespace, holder) in &gone {
        tables.reservations.remove((namespace.as_str(), holder.as_str()))?;
    }
    let mut rows = Vec::new();
    for row in tables.usage.iter()? {
        rows.push(row?.0.value().to_owned());
    }
    for prefix in &rows {
        tables.usage.remove(prefix.as_str())?;
    }
    for (prefix, usage) in &usages {
        store(prefix, usage, tables)?;
    }
    Ok(())
}
