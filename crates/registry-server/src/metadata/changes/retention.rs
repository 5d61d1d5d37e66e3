//! The retention rules, judged inside the change that carries them out.

use std::collections::BTreeMap;

use oci_model::{MediaType, Repository};
use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::history::{self, How, ManifestTimes, TagTimes};
use super::{ChangeError, Outcome, Reply, Stamp, policies, trash};
use crate::metadata::MetadataError;
use crate::metadata::tables::{Tables, decode_manifest, read_json, upper_bound};
use crate::tenancy::retention::{ManifestView, RepositoryView, TagView, judge};

/// What to remove from a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retain {
    pub(crate) repository: Repository,
    /// Tags and digests of a plan: nothing else goes, and of these only what the rules still keep
    /// no more when the change is made.
    pub(crate) planned: Vec<String>,
}

/// A repository as the rules see it.
pub(crate) fn view(
    name: &str,
    tags: &impl redb::ReadableTable<(&'static str, &'static str), &'static str>,
    tag_times: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
    manifests: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
    manifest_times: &impl redb::ReadableTable<(&'static str, &'static str), &'static [u8]>,
) -> Result<RepositoryView, MetadataError> {
    let end = upper_bound(name);
    let all = || (name, "")..(end.as_str(), "");
    let mut view = RepositoryView { tags: Vec::new(), manifests: BTreeMap::new() };
    for row in tags.range(all())? {
        let (key, digest) = row?;
        let tag = key.value().1;
        let times: TagTimes = match tag_times.get((name, tag))? {
            Some(row) => read_json("tag_times", tag, row.value())?,
            None => TagTimes { pushed: u64::MAX, by: String::new() },
        };
        let (name, digest) = (tag.to_owned(), digest.value().to_owned());
        view.tags.push(TagView { name, digest, pushed: times.pushed });
    }
    for row in manifests.range(all())? {
        let (key, row) = row?;
        let digest = key.value().1;
        let times: ManifestTimes = match manifest_times.get((name, digest))? {
            Some(row) => read_json("manifest_times", digest, row.value())?,
            // Of a version that kept no times: it is not old.
            None => ManifestTimes { pushed: u64::MAX, ..ManifestTimes::default() },
        };
        let mut manifest = ManifestView {
            pulled: times.pulled,
            untagged: times.untagged,
            children: Vec::new(),
            subject: None,
        };
        let parsed = decode_manifest(row.value()).and_then(|(media_type, bytes)| {
            let media_type = MediaType::new(media_type);
            oci_model::RawManifest::parse(Some(&media_type), bytes.to_vec()).ok()
        });
        if let Some(parsed) = parsed {
            let children = parsed.parsed().references().map(|child| child.digest.to_string());
            manifest.children = children.collect();
            manifest.subject = parsed.parsed().subject().map(|subject| subject.digest.to_string());
        }
        view.manifests.insert(digest.to_owned(), manifest);
    }
    Ok(view)
}

/// Removes what the plan names and the rules keep no more.
pub(super) fn retain(
    retain: &Retain,
    stamp: &Stamp,
    tables: &mut Tables<'_>,
    outcome: &mut Outcome,
) -> Result<(), ChangeError> {
    let name = retain.repository.as_str();
    let namespace = policies::of(name, tables)?;
    let view =
        view(name, &*tables.tags, &*tables.tag_times, &*tables.manifests, &*tables.manifest_times)?;
    let judged = judge(&namespace, name, &view, stamp.at);
    let planned = |id: &String| retain.planned.contains(id);
    let goes = |id: &&String| planned(id);
    let tags: Vec<String> = judged.dropped_tags().filter(goes).cloned().collect();
    let manifests: Vec<String> = judged.dropped_manifests().filter(goes).cloned().collect();
    let mut gone = Vec::new();
    for tag in &tags {
        let named = tables.tags.get((name, tag.as_str()))?.map(|digest| digest.value().to_owned());
        let Some(digest) = named else { continue };
        history::move_tag(name, tag, None, How::Retention, stamp, tables)?;
        trash::bury_tag(&namespace, name, tag, &digest, How::Retention, stamp, tables)?;
        outcome.changed.insert(name.to_owned());
    }
    for digest in manifests {
        // A tag that was not in the plan keeps it.
        if !history::tags_of(name, &digest, tables)?.is_empty() {
            continue;
        }
        trash::bury(&namespace, name, &digest, How::Retention, stamp, tables, outcome)?;
        gone.push(digest);
    }
    outcome.reply = Reply::Retained { tags, manifests: gone };
    Ok(())
}
