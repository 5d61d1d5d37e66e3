//! What is on the node: listed with its uses and pins, removed by name or id.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use image_policy::collection::Disk;
use jiff::Timestamp;
use layers::RemovedLayers;
use oci_model::{DiffId, Digest, Reference};

use super::LOCAL_REGISTRY;
use super::notes::ImageNotes;
use super::store::{ImageError, ImageStore, chain};
use super::stored::{StoredImage, StoredName};
use super::usage::{self, ImageFileSystem, Uses};
use crate::directories::Directories;

/// Uses of a blob are noted this coarsely; a use within it of a pull is the pull's own.
const USE_GRANULARITY: Duration = Duration::from_secs(60);
/// How long a blob of a removed image stays after somebody else used it: a push to the registry
/// of this machine may take so long between a layer and the manifest.
pub(crate) const BLOB_DELAY: Duration = Duration::from_secs(3600);
/// How long an unpacked layer that no image wants is kept: whoever made it may be about to name
/// an image of it.
const LOOSE_LAYER_AGE: Duration = Duration::from_secs(3600);
/// Shortest beginning of an id that is taken for one.
const ID_PREFIX_MIN: usize = 6;

/// The images of a node with what is known about each.
#[derive(Debug)]
pub(crate) struct Inventory {
    store: ImageStore,
    directories: Directories,
    notes: ImageNotes,
    /// See [`BLOB_DELAY`].
    blob_delay: Duration,
    /// Names that the list of kept images pins, each with why it could not be pulled last.
    kept: Mutex<BTreeMap<String, Option<String>>>,
    /// By image id; kept in memory only, as in the kubelet.
    seen: Mutex<HashMap<String, Seen>>,
}

/// When an image was noticed here.
#[derive(Clone, Copy, Debug)]
struct Seen {
    detected: Timestamp,
    last_used: Option<Timestamp>,
}

/// Why an image is never collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A person pinned one of its names.
    Person,
    /// It is on the list of kept images.
    KeptList,
    /// It was built or put here by hand and cannot be fetched again.
    Local,
    /// The node needs it and makes it itself.
    BuiltIn,
}

/// What a removal of unused images takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What the node fetched.
    Fetched,
    /// Also what was made or loaded here.
    All,
}

/// Whether a removal happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It does.
    Apply,
    /// It is only told.
    Plan,
}

/// One image of the node.
#[derive(Clone, Debug)]
pub(crate) struct NodeImage {
    /// Identity, names and sizes.
    pub(crate) stored: StoredImage,
    pub(crate) pin: Option<Pin>,
    /// Pods (`namespace/name`) with a container in any state, or a volume, of the image.
    pub(crate) used_by: BTreeSet<String>,
    /// Whether a start has it in hand at this moment.
    pub(crate) in_hand: bool,
    /// `None` = not since the node started.
    pub(crate) last_used: Option<Timestamp>,
    pub(crate) detected: Timestamp,
    /// Bytes of the archives of those layers that are unpacked.
    pub(crate) unpacked_bytes: u64,
}

impl NodeImage {
    /// The identity that CRI knows, `sha256:…`.
    pub(crate) fn id(&self) -> String {
        self.stored.facts.id.to_string()
    }

    /// Whether something uses it now.
    pub(crate) fn is_used(&self) -> bool {
        self.in_hand || !self.used_by.is_empty()
    }
}

/// How far a removal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Only what nobody uses and nobody pinned.
    Unused,
    /// Also what containers use (their unpacked layers stay) and what is pinned.
    Forced,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Names that are gone.
    pub(crate) names: Vec<String>,
    /// The image's id if it has no name left.
    pub(crate) id: Option<String>,
    /// Bytes of blobs and unpacked layers that were freed.
    pub(crate) freed_bytes: u64,
    /// Bytes of blobs that wait because somebody else used them lately.
    pub(crate) waiting_bytes: u64,
}

/// Why an image was not removed, pinned or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InventoryError {
    #[error("no image {what} on this node")]
    Absent { what: String },
    #[error("{what} is the beginning of several image ids: {ids}")]
    Ambiguous { what: String, ids: String },
    #[error("image {what} is in use by {by}")]
    InUse { what: String, by: String },
    #[error("image {what} is pinned: {why}")]
    Pinned { what: String, why: &'static str },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("blobs of image {what} are not freed: {detail}")]
    Blobs { what: String, detail: String },
    #[error("notes on images are not written")]
    Notes(#[from] io::Error),
}

impl Pin {
    /// The reason in words.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Pin::Person => "pinned by hand",
            Pin::KeptList => "on the list of kept images",
            Pin::Local => "made or loaded on this machine, so that it cannot be pulled again",
            Pin::BuiltIn => "part of the node",
        }
    }
}

impl Inventory {
    /// The images of `store`.
    pub(crate) fn new(store: ImageStore, directories: Directories, blob_delay: Duration) -> Self {
        let notes = store.notes.clone();
        let notes = notes.unwrap_or_else(|| ImageNotes::open(directories.image_notes()));
        Inventory {
            store,
            directories,
            notes,
            blob_delay,
            kept: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the names of the list of kept images.
    pub(crate) fn keep(&self, names: impl Iterator<Item = String>) {
        let mut kept = self.kept();
        *kept = names
            .map(|name| {
                let error = kept.get(&name).cloned().flatten();
                (name, error)
            })
            .collect();
    }

    /// Notes how the last pull of a listed name ended.
    pub(crate) fn kept_is(&self, name: &str, error: Option<String>) {
        if let Some(known) = self.kept().get_mut(name) {
            *known = error;
        }
    }

    /// Listed names that are not here, each with why.
    pub(crate) fn missing(&self) -> Vec<(String, String)> {
        let kept = self.kept().clone();
        let missing = kept.into_iter().filter(|(name, _)| {
            name.parse::<Reference>().is_ok_and(|reference| !self.has(&reference))
        });
        let why = |error: Option<String>| error.unwrap_or_else(|| "not pulled yet".to_owned());
        missing.map(|(name, error)| (name, why(error))).collect()
    }

    /// Whether an image is complete on this node.
    pub(crate) fn has(&self, reference: &Reference) -> bool {
        self.store.find(reference).is_ok_and(|found| found.is_some())
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All images, ordered by id. Notes who uses what at `now`.
    ///
    /// # Errors
    /// The names cannot be read.
    pub(crate) fn list(&self, now: Timestamp) -> Result<Vec<NodeImage>, InventoryError> {
        let images = self.store.images()?;
        let uses = Uses::read(&self.directories);
        let pinned = self.notes.pinned();
        let kept = self.kept().keys().cloned().collect();
        let mut seen = self.seen();
        let mut fresh = HashMap::new();
        let mut list = Vec::new();
        for stored in images {
            let used_by = used_by(&stored, &uses);
            let in_hand = stored.digests().any(|digest| self.store.in_hand.has(&digest));
            let id = stored.facts.id.to_string();
            let mut known =
                seen.get(&id).copied().unwrap_or(Seen { detected: now, last_used: None });
            if in_hand || !used_by.is_empty() {
                known.last_used = Some(now);
            }
            fresh.insert(id, known);
            let unpacked = stored.facts.diff_ids.iter().filter_map(|diff_id| {
                self.store.layers.get(diff_id).ok().flatten().map(|layer| layer.tar_bytes)
            });
            list.push(NodeImage {
                pin: self.pin_of(&stored, &pinned, &kept),
                used_by,
                in_hand,
                last_used: known.last_used,
                detected: known.detected,
                unpacked_bytes: unpacked.sum(),
                stored,
            });
        }
        *seen = fresh;
        Ok(list)
    }

    fn pin_of(
        &self,
        image: &StoredImage,
        pinned: &BTreeSet<String>,
        kept: &BTreeSet<String>,
    ) -> Option<Pin> {
        let any = |is: &dyn Fn(&StoredName) -> bool| image.names.iter().any(is);
        if any(&|name| name.reference.registry() == LOCAL_REGISTRY) {
            return Some(Pin::BuiltIn);
        }
        if any(&|name| pinned.contains(name.text())) {
            return Some(Pin::Person);
        }
        if any(&|name| kept.contains(name.text())) {
            return Some(Pin::KeptList);
        }
        any(&|name| self.arrival(name).is_none()).then_some(Pin::Local)
    }

    fn arrival(&self, name: &StoredName) -> Option<SystemTime> {
        let at = self.notes.arrival(name.text(), &name.root()?.to_string())?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
    }

    /// Removes a name, or by id all names of an image; with the last name the image is freed.
    ///
    /// # Errors
    /// See [`InventoryError`].
    pub(crate) fn remove(
        &self,
        what: &str,
        removal: Removal,
        now: Timestamp,
    ) -> Result<Removed, InventoryError> {
        let list = self.list(now)?;
        let (image, names) = pick(&list, what)?;
        if removal == Removal::Unused {
            let by = || Vec::from_iter(image.used_by.iter().cloned()).join(", ");
            if names.len() == image.stored.names.len() && !image.used_by.is_empty() {
                return Err(InventoryError::InUse { what: what.to_owned(), by: by() });
            }
            let by_hand = image.pin.filter(|pin| *pin != Pin::Local);
            if let Some(pin) = by_hand {
                return Err(InventoryError::Pinned { what: what.to_owned(), why: pin.why() });
            }
        }
        let mut removed = self.give_up(&image.stored, &names, || true)?;
        removed.freed_bytes += self.free_waiting()?;
        Ok(removed)
    }

    /// Removes every image that nothing uses and nobody pinned; returns the images and what was
    /// freed.
    ///
    /// # Errors
    /// The names cannot be read. What cannot be removed stays.
    pub(crate) fn prune(
        &self,
        scope: Scope,
        mode: Mode,
        now: Timestamp,
    ) -> Result<(Vec<NodeImage>, Removed), InventoryError> {
        let may_go = |image: &NodeImage| match image.pin {
            None => true,
            Some(Pin::Local) => scope == Scope::All,
            Some(Pin::Person | Pin::KeptList | Pin::BuiltIn) => false,
        };
        let unused = self.list(now)?.into_iter().filter(|image| !image.is_used() && may_go(image));
        if mode == Mode::Plan {
            return Ok((unused.collect(), Removed::default()));
        }
        let (mut gone, mut sum) = (Vec::new(), Removed::default());
        for image in unused {
            match self.remove_image(&image) {
                Ok(removed) => {
                    sum.names.extend(removed.names);
                    sum.freed_bytes += removed.freed_bytes;
                    sum.waiting_bytes += removed.waiting_bytes;
                    gone.push(image);
                }
                Err(error) => tracing::warn!(image = image.id(), %error, "image not removed"),
            }
        }
        sum.freed_bytes += self.free_waiting()? + self.free_loose_layers(now)?;
        Ok((gone, sum))
    }

    /// Removes an image under all its names; the caller has decided that it may go.
    ///
    /// # Errors
    /// [`InventoryError::InUse`] if a start has it in hand, or if it came into use or was pinned
    /// since it was listed; a failure of the store.
    pub(crate) fn remove_image(&self, image: &NodeImage) -> Result<Removed, InventoryError> {
        // A pass that frees much lasts, and pods start meanwhile.
        let is_as_listed = || {
            let uses = Uses::read(&self.directories);
            let kept = self.kept().keys().cloned().collect();
            used_by(&image.stored, &uses).is_empty()
                && self.pin_of(&image.stored, &self.notes.pinned(), &kept) == image.pin
        };
        self.give_up(&image.stored, &image.stored.names, is_as_listed)
    }

    fn give_up(
        &self,
        image: &StoredImage,
        names: &[StoredName],
        may_go: impl FnOnce() -> bool,
    ) -> Result<Removed, InventoryError> {
        let texts: Vec<String> = names.iter().map(|name| name.text().to_owned()).collect();
        let what = || texts.join(", ");
        let blobs_error = |detail: String| InventoryError::Blobs { what: what(), detail };
        let refs: Vec<_> =
            names.iter().map(|name| (name.ref_name.clone(), name.digests.clone())).collect();
        // Whoever has a part of an index in hand holds it by its own digest.
        let digests = names.iter().flat_map(|name| name.digests.iter().copied());
        let forgotten = self
            .store
            .in_hand
            .unless_held(digests, || may_go().then(|| self.store.blobs.forget_refs(&refs)));
        let in_use = |by: &str| InventoryError::InUse { what: what(), by: by.to_owned() };
        let digests = match forgotten {
            None => return Err(in_use("a container that starts now")),
            Some(None) => return Err(in_use("a container or a pin that came meanwhile")),
            Some(Some(forgotten)) => forgotten.map_err(|error| blobs_error(chain(&error)))?,
        };
        let mut removed = Removed { names: texts.clone(), ..Removed::default() };
        if names.len() == image.names.len() {
            removed.id = Some(image.facts.id.to_string());
            removed.freed_bytes += self.free_layers(&image.facts.diff_ids)?.bytes;
        }
        let arrivals: Vec<_> = names.iter().filter_map(|name| self.arrival(name)).collect();
        let freed = self
            .store
            .blobs
            .free(digests.iter().copied(), |_, last_use| {
                arrivals.iter().any(|arrived| last_use <= *arrived + USE_GRANULARITY)
                    || self.is_idle(last_use)
            })
            .map_err(|error| blobs_error(chain(&error)))?;
        removed.freed_bytes += freed.bytes;
        removed.waiting_bytes = freed.waiting_bytes;
        let left = digests.iter().filter(|digest| self.store.blobs.contains(digest));
        self.notes.forget(&texts, left.map(Digest::to_string))?;
        Ok(removed)
    }

    fn is_idle(&self, last_use: SystemTime) -> bool {
        SystemTime::now().duration_since(last_use).is_ok_and(|idle| idle >= self.blob_delay)
    }

    /// Removes unpacked layers that no image, no container and no running program wants.
    ///
    /// # Errors
    /// The store of layers fails.
    fn free_layers(&self, stack: &[DiffId]) -> Result<RemovedLayers, InventoryError> {
        // Looked up when the locks are held, once for the whole stack.
        let wanted = OnceCell::new();
        let is_wanted = |diff_id: &DiffId| {
            wanted
                .get_or_init(|| self.wanted_layers())
                .as_ref()
                .is_none_or(|wanted: &BTreeSet<String>| wanted.contains(&diff_id.0.to_string()))
        };
        self.store
            .layers
            .remove_unheld(stack, is_wanted)
            .map_err(|error| InventoryError::Blobs { what: "*".to_owned(), detail: chain(&error) })
    }

    /// Removes unpacked layers of which no image is known, such as those of a name that moved and
    /// those that a builder left, unless they are young; returns the bytes.
    ///
    /// # Errors
    /// The store of layers fails.
    pub(crate) fn free_loose_layers(&self, now: Timestamp) -> Result<u64, InventoryError> {
        let failed = |error: layers::UnpackError| InventoryError::Blobs {
            what: "*".to_owned(),
            detail: chain(&error),
        };
        let now = SystemTime::from(now);
        let mut bytes = 0;
        for layer in self.store.layers.list().map_err(failed)? {
            let home = layer.path.parent().unwrap_or(&layer.path);
            let made = std::fs::metadata(home.join("record.json")).and_then(|data| data.modified());
            let age = made.ok().and_then(|made| now.duration_since(made).ok());
            if age.is_some_and(|age| age >= LOOSE_LAYER_AGE) {
                bytes += self.free_layers(&[layer.diff_id])?.bytes;
            }
        }
        Ok(bytes)
    }

    /// The manifests and indexes that names stand for.
    ///
    /// # Errors
    /// The names cannot be read.
    pub(crate) fn roots(&self) -> Result<BTreeSet<String>, InventoryError> {
        let images = self.store.images()?;
        Ok(images.iter().flat_map(StoredImage::roots).map(|root| root.to_string()).collect())
    }

    /// The file system of the images.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub(crate) fn disk(&self) -> Result<Disk, String> {
        usage::disk(&self.store)
    }

    /// `None` if it cannot be known.
    fn wanted_layers(&self) -> Option<BTreeSet<String>> {
        let images = self.store.images().ok()?;
        let mut wanted = Uses::read(&self.directories).layers;
        let of_images = images.iter().flat_map(|image| &image.facts.diff_ids);
        wanted.extend(of_images.map(|diff_id| diff_id.0.to_string()));
        Some(wanted)
    }

    /// Frees blobs of images removed earlier whose time has come; returns the bytes.
    ///
    /// # Errors
    /// The store or the notes fail.
    pub(crate) fn free_waiting(&self) -> Result<u64, InventoryError> {
        let waiting = self.notes.waiting();
        let digests: Vec<Digest> = waiting.iter().filter_map(|text| text.parse().ok()).collect();
        let freed = self
            .store
            .blobs
            .free(digests.iter().copied(), |_, last_use| self.is_idle(last_use))
            .map_err(|error| InventoryError::Blobs {
                what: "*".to_owned(),
                detail: chain(&error),
            })?;
        let gone = digests.iter().filter(|digest| !self.store.blobs.contains(digest));
        self.notes.waited(&gone.map(Digest::to_string).collect())?;
        Ok(freed.bytes)
    }

    /// Whether anything keeps the image from being removed.
    ///
    /// # Errors
    /// See [`InventoryError`].
    pub(crate) fn is_pinned(&self, what: &str, now: Timestamp) -> Result<bool, InventoryError> {
        let list = self.list(now)?;
        Ok(pick(&list, what)?.0.pin.is_some())
    }

    /// Pins what names or ids mean, all of them or none; returns the names that are pinned now.
    ///
    /// # Errors
    /// See [`InventoryError`].
    pub(crate) fn pin(
        &self,
        whats: &[impl AsRef<str>],
        now: Timestamp,
    ) -> Result<Vec<String>, InventoryError> {
        let list = self.list(now)?;
        let mut names = Vec::new();
        for what in whats {
            let (_, meant) = pick(&list, what.as_ref())?;
            names.extend(meant.iter().map(|name| name.text().to_owned()));
        }
        for name in &names {
            self.notes.pin(name)?;
        }
        Ok(names)
    }

    /// Takes pins that a person set away again, from all of these or none; returns the names that
    /// were pinned.
    ///
    /// # Errors
    /// See [`InventoryError`].
    pub(crate) fn unpin(
        &self,
        whats: &[impl AsRef<str>],
        now: Timestamp,
    ) -> Result<Vec<String>, InventoryError> {
        let (list, pinned) = (self.list(now)?, self.notes.pinned());
        let mut names = Vec::new();
        for what in whats.iter().map(AsRef::as_ref) {
            match pick(&list, what) {
                Ok((_, meant)) => names.extend(meant.iter().map(|name| name.text().to_owned())),
                Err(error) => {
                    // A pin may outlive the image.
                    let name = what.parse::<Reference>().ok();
                    let name = name.map(|name| name.with_default_tag().to_string());
                    names.push(name.filter(|name| pinned.contains(name)).ok_or(error)?);
                }
            }
        }
        let mut unpinned = Vec::new();
        for name in names {
            if self.notes.unpin(&name)? {
                unpinned.push(name);
            }
        }
        Ok(unpinned)
    }

    /// What the images take on the disk.
    ///
    /// # Errors
    /// Blobs or layers cannot be listed.
    pub(crate) fn usage(&self) -> Result<ImageFileSystem, String> {
        usage::file_system(&self.store)
    }
}

fn used_by(image: &StoredImage, uses: &Uses) -> BTreeSet<String> {
    let by_digest = image.names.iter().flat_map(|name| &name.digests);
    let mut pods: BTreeSet<String> = by_digest
        .filter_map(|digest| uses.images.get(&digest.to_string()))
        .flatten()
        .cloned()
        .collect();
    for (text, users) in &uses.volumes {
        if let Ok(reference) = text.parse::<Reference>()
            && image.names.iter().any(|name| means(&reference, name))
        {
            pods.extend(users.iter().cloned());
        }
    }
    pods
}

/// Whether a reference of a user means this name.
fn means(reference: &Reference, name: &StoredName) -> bool {
    match reference.digest() {
        Some(digest) => reference.name() == name.reference.name() && name.digests.contains(digest),
        None => reference.with_default_tag().to_string() == name.text(),
    }
}

/// The image and the names that a user means: names first, then ids.
fn pick<'a>(
    list: &'a [NodeImage],
    what: &str,
) -> Result<(&'a NodeImage, Vec<StoredName>), InventoryError> {
    if let Ok(reference) = what.parse::<Reference>() {
        for image in list {
            let names: Vec<StoredName> =
                image.stored.names.iter().filter(|name| means(&reference, name)).cloned().collect();
            if !names.is_empty() {
                return Ok((image, names));
            }
        }
    }
    let hex = what.strip_prefix("sha256:").unwrap_or(what);
    let absent = || InventoryError::Absent { what: what.to_owned() };
    if hex.len() < ID_PREFIX_MIN || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(absent());
    }
    let found: Vec<&NodeImage> =
        list.iter().filter(|image| image.stored.facts.id.encoded().starts_with(hex)).collect();
    match found[..] {
        [] => Err(absent()),
        [image] => Ok((image, image.stored.names.clone())),
        _ => Err(InventoryError::Ambiguous {
            what: what.to_owned(),
            ids: Vec::from_iter(found.iter().map(|image| image.id())).join(", "),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
