//! Questions to the metadata. None of them waits for anything but the local disk.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository};
use redb::{ReadableDatabase as _, ReadableTable as _};

use super::tables::{
    BLOBS, BlobRow, CACHED, CachedRow, HOLDERS, LINKS, MANIFESTS, REFERRERS, REPOSITORIES, TAGS,
    decode_manifest, upper_bound,
};
use super::{Metadata, MetadataError, Page, StoredManifest, lock};
use crate::route::ManifestReference;

impl Metadata {
    /// All content of other registries that is kept here, by repository and digest.
    pub(crate) fn cached(&self) -> Result<Vec<(Repository, Digest, CachedRow)>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(CACHED)?;
        let mut all = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let (name, text) = key.value();
            let damaged =
                || MetadataError::Damaged { table: "cached", key: format!("{name}@{text}") };
            let repository = Repository::new(name).map_err(|_| damaged())?;
            let digest = text.parse().map_err(|_| damaged())?;
            all.push((repository, digest, CachedRow::decode(text, value.value())?));
        }
        Ok(all)
    }

    /// The size of a blob that the repository may show.
    pub(crate) fn linked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, MetadataError> {
        let key = (repository.clone(), *digest);
        if let Some(link) = lock(&self.shared.pending).links.get(&key) {
            return Ok(Some(link.size));
        }
        let table = self.shared.database.begin_read()?.open_table(LINKS)?;
        let size = table.get((repository.as_str(), digest.to_string().as_str()))?;
        Ok(size.map(|size| size.value()))
    }

    /// Some repositories that may show a blob, at most `names_max`.
    pub(crate) fn holders(
        &self,
        digest: &Digest,
        names_max: usize,
    ) -> Result<Vec<Repository>, MetadataError> {
        let mut holders: Vec<Repository> = lock(&self.shared.pending)
            .links
            .keys()
            .filter(|(_, linked)| linked == digest)
            .map(|(repository, _)| repository.clone())
            .collect();
        let table = self.shared.database.begin_read()?.open_table(HOLDERS)?;
        let text = digest.to_string();
        let end = upper_bound(&text);
        for row in table.range((text.as_str(), "")..(end.as_str(), ""))? {
            if holders.len() >= names_max {
                break;
            }
            holders.extend(Repository::new(row?.0.value().1).ok());
        }
        Ok(holders)
    }

    /// A manifest by tag or digest.
    pub(crate) fn manifest(
        &self,
        repository: &Repository,
        reference: &ManifestReference,
    ) -> Result<Option<Arc<StoredManifest>>, MetadataError> {
        let generation = {
            let cache = self.shared.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = cache.get(repository, reference) {
                return Ok(Some(found));
            }
            cache.generation()
        };
        let transaction = self.shared.database.begin_read()?;
        let digest = match reference {
            ManifestReference::Digest(digest) => digest.to_string(),
            ManifestReference::Tag(tag) => {
                let tags = transaction.open_table(TAGS)?;
                match tags.get((repository.as_str(), tag.as_str()))? {
                    Some(digest) => digest.value().to_owned(),
                    None => return Ok(None),
                }
            }
        };
        let manifests = transaction.open_table(MANIFESTS)?;
        let Some(row) = manifests.get((repository.as_str(), digest.as_str()))? else {
            return Ok(None);
        };
        let damaged =
            || MetadataError::Damaged { table: "manifests", key: format!("{repository}@{digest}") };
        let (media_type, bytes) = decode_manifest(row.value()).ok_or_else(damaged)?;
        let manifest = Arc::new(StoredManifest {
            digest: digest.parse().map_err(|_| damaged())?,
            media_type: MediaType::new(media_type),
            bytes: Bytes::copy_from_slice(bytes),
        });
        let mut cache = self.shared.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.insert(generation, repository, reference, Arc::clone(&manifest));
        Ok(Some(manifest))
    }

    /// Whether anything was ever pushed to the repository and is not wholly gone.
    pub(crate) fn knows(&self, repository: &Repository) -> Result<bool, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REPOSITORIES)?;
        Ok(table.get(repository.as_str())?.is_some())
    }

    /// Tags of a repository in byte order, strictly after `last`.
    pub(crate) fn tags(
        &self,
        repository: &Repository,
        last: Option<&str>,
        names_max: usize,
    ) -> Result<Page, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(TAGS)?;
        let name = repository.as_str();
        let after = upper_bound(last.unwrap_or_default());
        let start = if last.is_some() { after.as_str() } else { "" };
        let end = upper_bound(name);
        let mut page = Page { names: Vec::new(), more: false };
        for row in table.range((name, start)..(end.as_str(), ""))? {
            if page.names.len() == names_max {
                page.more = true;
                break;
            }
            page.names.push(row?.0.value().1.to_owned());
        }
        Ok(page)
    }

    /// Repositories in byte order, strictly after `last`, that `visible` accepts.
    pub(crate) fn repositories(
        &self,
        last: Option<&str>,
        names_max: usize,
        visible: impl Fn(&str) -> bool,
    ) -> Result<Page, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REPOSITORIES)?;
        let start = last.map(upper_bound).unwrap_or_default();
        let mut page = Page { names: Vec::new(), more: false };
        for row in table.range(start.as_str()..)? {
            let row = row?;
            let name = row.0.value();
            if !visible(name) {
                continue;
            }
            if page.names.len() == names_max {
                page.more = true;
                break;
            }
            page.names.push(name.to_owned());
        }
        Ok(page)
    }

    /// Calls `visit` with the digest and the descriptor (JSON) of each manifest whose subject is
    /// `subject`, strictly after the digest `last`, until it returns `false`.
    pub(crate) fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: &str,
        mut visit: impl FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(REFERRERS)?;
        let subject = subject.to_string();
        let start = if last.is_empty() { String::new() } else { upper_bound(last) };
        let end = upper_bound(&subject);
        let name = repository.as_str();
        for row in
            table.range((name, subject.as_str(), start.as_str())..(name, end.as_str(), ""))?
        {
            let (key, value) = row?;
            if !visit(key.value().2, value.value()) {
                break;
            }
        }
        Ok(())
    }

    /// Where a blob is in the bucket, and whether it may be relied on.
    #[allow(dead_code, reason = "for blobs in a bucket")]
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<BlobRow>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(BLOBS)?;
        let digest = digest.to_string();
        let row = table.get(digest.as_str())?;
        row.map(|row| BlobRow::decode(&digest, row.value())).transpose()
    }

    /// Keys of all blobs in the bucket that begin with `prefix`.
    pub(crate) fn blob_keys(&self, prefix: &str) -> Result<HashSet<String>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(BLOBS)?;
        let mut keys = HashSet::new();
        for row in table.iter()? {
            let (digest, row) = row?;
            let row = BlobRow::decode(digest.value(), row.value())?;
            if row.key.starts_with(prefix) {
                keys.insert(row.key);
            }
        }
        Ok(keys)
    }
}
