//! Refs: names that keep blobs, the only roots of collection.

use std::fmt;
use std::str::FromStr;

use oci_model::Digest;

use crate::durable::replace_file;
use crate::error::{Context as _, DiskError, RefError};
use crate::ref_log::{RECORD_BYTES_MAX, Record};
use crate::store::{BlobStore, touch_now};

/// Longest ref name, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// Records written at once while a mirror is reconciled.
const RECONCILE_RECORDS: usize = 1024;

/// Name of a ref: `<owner>/<rest>`. The owner is of `a-z 0-9 -` and names who sets the ref, such
/// as `registry` or `node`; the rest is the owner's business.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RefName {
    name: String,
    owner_length: usize,
}

/// Why a text is not a ref name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a ref name of the form owner/rest")]
pub struct RefNameError {
    name: String,
}

impl RefName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The part before the first slash.
    pub fn owner(&self) -> &str {
        &self.name[..self.owner_length]
    }
}

impl FromStr for RefName {
    type Err = RefNameError;

    fn from_str(text: &str) -> Result<Self, RefNameError> {
        let error = || RefNameError { name: text.to_owned() };
        let (owner, rest) = text.split_once('/').ok_or_else(error)?;
        if !is_owner(owner) || rest.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(error());
        }
        Ok(Self { name: text.to_owned(), owner_length: owner.len() })
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn is_owner(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl BlobStore {
    /// Makes `name` keep exactly these blobs, durably, whatever it kept before.
    ///
    /// # Errors
    /// [`RefError::Missing`] if the store lacks one of them; then nothing changes.
    pub fn set_ref(&self, name: &RefName, digests: &[Digest]) -> Result<(), RefError> {
        let log = self.inner.refs.log(name.owner());
        let previous = log.with_refs(|refs| refs.get(name.as_str()).cloned())?.unwrap_or_default();
        self.dropping(&previous)?;
        let record = Record::Set { name: name.name.clone(), digests: digests.to_vec() };
        let sync = {
            let _guard = self.share_with_collection()?;
            self.require(digests)?;
            log.append(&[record])?
        };
        // First the blobs, then what claims to have them.
        for digest in digests {
            self.directory(digest.algorithm()).mark();
        }
        self.settle()?;
        Ok(sync.settle(log.path())?)
    }

    /// Removes a ref, durably; one that does not exist is removed already. The blobs that only it
    /// kept become candidates, whose delay starts now.
    ///
    /// # Errors
    /// [`RefError::NoSpace`] or a failure of the disk.
    pub fn remove_ref(&self, name: &RefName) -> Result<(), RefError> {
        let log = self.inner.refs.log(name.owner());
        let Some(digests) = log.with_refs(|refs| refs.get(name.as_str()).cloned())? else {
            return Ok(());
        };
        self.dropping(&digests)?;
        let sync = log.append(&[Record::Delete { name: name.name.clone() }])?;
        Ok(sync.settle(log.path())?)
    }

    /// What a ref keeps, or `None` if there is no such ref.
    ///
    /// # Errors
    /// [`RefError::Damaged`] or a failure of the disk.
    pub fn get_ref(&self, name: &RefName) -> Result<Option<Vec<Digest>>, RefError> {
        self.inner.refs.log(name.owner()).with_refs(|refs| refs.get(name.as_str()).cloned())
    }

    /// All refs whose name begins with `prefix`, in order. The prefix is a whole owner with its
    /// slash, such as `node/`, or longer.
    ///
    /// # Errors
    /// [`RefError::Damaged`] or a failure of the disk.
    pub fn refs(&self, prefix: &str) -> Result<Vec<(RefName, Vec<Digest>)>, RefError> {
        let Some((owner, _)) = prefix.split_once('/').filter(|(owner, _)| is_owner(owner)) else {
            return Ok(Vec::new());
        };
        self.inner.refs.log(owner).with_refs(|refs| {
            refs.range(prefix.to_owned()..)
                .take_while(|(name, _)| name.starts_with(prefix))
                .map(|(name, digests)| {
                    let name = RefName { name: name.clone(), owner_length: owner.len() };
                    (name, digests.clone())
                })
                .collect()
        })
    }

    /// Opens the refs of an owner that keeps a durable copy of them elsewhere, see
    /// [`MirroredRefs`].
    ///
    /// # Errors
    /// [`RefNameError`] if `owner` is not of `a-z 0-9 -`.
    pub fn mirrored_refs(&self, owner: &str) -> Result<MirroredRefs, RefNameError> {
        if !is_owner(owner) {
            return Err(RefNameError { name: owner.to_owned() });
        }
        Ok(MirroredRefs { store: self.clone(), owner: owner.to_owned() })
    }

    /// Restarts the delay of blobs that a ref is about to drop.
    fn dropping(&self, digests: &[Digest]) -> Result<(), DiskError> {
        for digest in digests {
            touch_now(&self.path(digest))?;
        }
        Ok(())
    }

    /// Checks that all blobs are there. The caller keeps collections out.
    fn require(&self, digests: &[Digest]) -> Result<(), RefError> {
        match digests.iter().find(|digest| !self.contains(digest)) {
            Some(digest) => Err(RefError::Missing { digest: *digest }),
            None => Ok(()),
        }
    }
}

/// The refs of an owner whose own database says the same, durably.
///
/// Changes are visible to every process at once but not synced: the owner's database is. They
/// survive the death of the process; a failure of the machine may lose the latest ones. Therefore
/// the owner calls [`MirroredRefs::reconcile`] when it starts, and after a restart of the machine
/// nothing is collected from the store until it did.
#[derive(Clone, Debug)]
pub struct MirroredRefs {
    store: BlobStore,
    owner: String,
}

impl MirroredRefs {
    /// Makes `<owner>/<rest>` keep these blobs.
    ///
    /// # Errors
    /// [`RefError::Missing`] if the store lacks one of them; then nothing changes.
    pub fn set(&self, rest: &str, digests: &[Digest]) -> Result<(), RefError> {
        let record = Record::Set { name: self.name(rest), digests: digests.to_vec() };
        let _guard = self.store.share_with_collection()?;
        self.store.require(digests)?;
        self.store.inner.refs.log(&self.owner).append(&[record])?;
        Ok(())
    }

    /// Removes a ref that kept `digests`.
    ///
    /// # Errors
    /// [`RefError::NoSpace`] or a failure of the disk.
    pub fn remove(&self, rest: &str, digests: &[Digest]) -> Result<(), RefError> {
        self.store.dropping(digests)?;
        let record = Record::Delete { name: self.name(rest) };
        self.store.inner.refs.log(&self.owner).append(&[record])?;
        Ok(())
    }

    /// Makes the refs equal to `expected`, the pairs of the owner's database, and allows
    /// collection again. Blobs that are missing do not fail this: the refs keep what is there.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn reconcile(
        &self,
        expected: impl IntoIterator<Item = (String, Vec<Digest>)>,
    ) -> Result<(), RefError> {
        let log = self.store.inner.refs.log(&self.owner);
        let mut surplus = log.take_refs()?;
        let mut records = Vec::new();
        let mut last = None;
        for (rest, digests) in expected {
            let name = self.name(&rest);
            if surplus.remove(&name).as_ref() == Some(&digests) {
                continue;
            }
            records.push(Record::Set { name, digests });
            if records.len() >= RECONCILE_RECORDS {
                last = Some(log.append(&std::mem::take(&mut records))?);
            }
        }
        for (name, digests) in surplus {
            self.store.dropping(&digests)?;
            records.push(Record::Delete { name });
        }
        if !records.is_empty() {
            last = Some(log.append(&records)?);
        }
        if let Some(sync) = last {
            sync.settle(log.path())?;
        }
        let mirror = self.store.inner.refs.mirror_path(&self.owner);
        replace_file(&mirror, boot_id()?.as_bytes())?;
        Ok(())
    }

    fn name(&self, rest: &str) -> String {
        debug_assert!(rest.len() < RECORD_BYTES_MAX / 2);
        format!("{}/{rest}", self.owner)
    }
}

/// Whether `owner` keeps no mirror, or compared it since the machine started.
pub(crate) fn is_reconciled(store: &BlobStore, owner: &str) -> Result<bool, DiskError> {
    let path = store.inner.refs.mirror_path(owner);
    match std::fs::read_to_string(&path) {
        Ok(compared_at) => Ok(compared_at == boot_id()?),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(DiskError::new("read", &path, source)),
    }
}

/// A value that differs after each start of the kernel.
fn boot_id() -> Result<String, DiskError> {
    let path = std::path::Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).doing("read", path)
}
