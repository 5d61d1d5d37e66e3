//! What the node remembers about its images beside their names, in `image_manager/images.json`:
//!
//! ```text
//! {"pinned":["docker.io/library/nginx:1"],"arrived":{"docker.io/library/nginx:1":
//!  {"root":"sha256:…","at":1790000000}},"waiting":["sha256:…"]}
//! ```
//!
//! `pinned` are names that a person pinned; `arrived` says which names the node fetched itself,
//! what they stood for then, and when (seconds since 1970); `waiting` are blobs of removed images
//! that somebody else used lately. `damaged` says that earlier notes were lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::directories::write_durably;

/// Names remembered at most; the oldest arrivals are forgotten first.
const ARRIVED_MAX: usize = 10_000;

/// The notes of one node; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ImageNotes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    document: Mutex<Document>,
}

/// The document on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    pinned: BTreeSet<String>,
    arrived: BTreeMap<String, Arrival>,
    waiting: BTreeSet<String>,
    /// Notes were lost: a name without arrival may be a pod's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
}

/// A pull of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Manifest or index.
    pub(crate) root: String,
    /// Seconds since 1970.
    pub(crate) at: u64,
    /// Whether the node fetched it for every pod, and not a pod for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) for_node: bool,
}

/// Why a name is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built or loaded here, or fetched by the node for every pod.
    Given,
    /// Fetched for a pod.
    Pod,
}

impl ImageNotes {
    /// Reads the notes of a file. Damage is reported in the log and costs the notes: pins can be
    /// set again, an image without arrival is kept, and no pod may use it without a proof.
    pub(crate) fn open(path: PathBuf) -> Self {
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Document::default()),
            Err(error) => Err(error.to_string()),
        };
        let document = read.unwrap_or_else(|error| {
            tracing::error!(
                path = %path.display(),
                error,
                "notes on images are not readable: what is here opens to nobody without a pull; \
                 without the file it would be open to all"
            );
            Document { damaged: true, ..Document::default() }
        });
        ImageNotes { inner: Arc::new(Inner { path, document: Mutex::new(document) }) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Document) -> T) -> io::Result<T> {
        let mut document = self.inner.document.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = document.clone();
        let result = change(&mut fresh);
        if fresh != *document {
            if let Some(parent) = self.inner.path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            write_durably(&self.inner.path, &serde_json::to_vec(&fresh)?)?;
            *document = fresh;
        }
        Ok(result)
    }

    fn look<T>(&self, look: impl FnOnce(&Document) -> T) -> T {
        look(&self.inner.document.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pins a name; says whether it was not pinned before.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn pin(&self, name: &str) -> io::Result<bool> {
        self.change(|document| document.pinned.insert(name.to_owned()))
    }

    /// Unpins a name; says whether it was pinned.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn unpin(&self, name: &str) -> io::Result<bool> {
        self.change(|document| document.pinned.remove(name))
    }

    /// The names that a person pinned.
    pub(crate) fn pinned(&self) -> BTreeSet<String> {
        self.look(|document| document.pinned.clone())
    }

    /// Notes that the node fetched what a name stands for now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn arrive(&self, name: &str, arrival: Arrival) -> io::Result<()> {
        self.change(|document| {
            document.arrived.insert(name.to_owned(), arrival);
            while document.arrived.len() > ARRIVED_MAX {
                let oldest = document.arrived.iter().min_by_key(|(_, arrival)| arrival.at);
                let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
                document.arrived.remove(&oldest);
            }
        })
    }

    /// When the node fetched `root` under this name; `None` if it was put here otherwise.
    pub(crate) fn arrival(&self, name: &str, root: &str) -> Option<u64> {
        self.look(|document| {
            document.arrived.get(name).filter(|arrival| arrival.root == root).map(|known| known.at)
        })
    }

    /// Why a name stands for `root`.
    pub(crate) fn origin(&self, name: &str, root: &str) -> Origin {
        self.look(|document| {
            let arrival = document.arrived.get(name).filter(|arrival| arrival.root == root);
            match arrival {
                Some(arrival) if !arrival.for_node => Origin::Pod,
                None if document.damaged => Origin::Pod,
                _ => Origin::Given,
            }
        })
    }

    /// Forgets removed names and notes blobs of theirs that have to wait.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn forget(
        &self,
        names: &[String],
        waiting: impl IntoIterator<Item = String>,
    ) -> io::Result<()> {
        self.change(|document| {
            for name in names {
                document.arrived.remove(name);
                document.pinned.remove(name);
            }
            document.waiting.extend(waiting);
        })
    }

    /// The blobs that wait.
    pub(crate) fn waiting(&self) -> BTreeSet<String> {
        self.look(|document| document.waiting.clone())
    }

    /// Forgets blobs that wait no longer.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn waited(&self, gone: &BTreeSet<String>) -> io::Result<()> {
        self.change(|document| document.waiting.retain(|digest| !gone.contains(digest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(root: &str) -> Arrival {
        Arrival { root: root.to_owned(), at: 1, for_node: false }
    }

    #[test]
    fn what_a_pod_fetched_is_a_pods_under_that_name_and_root_only() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("images.json");
        let notes = ImageNotes::open(path.clone());
        assert_eq!(notes.origin("r/app:1", "sha256:1"), Origin::Given);
        notes.arrive("r/app:1", arrival("sha256:1")).expect("noted");
        for notes in [notes, ImageNotes::open(path)] {
            assert_eq!(notes.origin("r/app:1", "sha256:1"), Origin::Pod);
            assert_eq!(notes.origin("r/app:1", "sha256:2"), Origin::Given);
        }
    }

    #[test]
    fn lost_notes_open_nothing_also_after_the_next_start() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("images.json");
        std::fs::write(&path, "{\"arrived\":").expect("a torn file");
        let notes = ImageNotes::open(path.clone());
        assert_eq!(notes.origin("r/app:1", "sha256:1"), Origin::Pod);
        notes.pin("r/other:1").expect("written");
        assert_eq!(ImageNotes::open(path).origin("r/app:1", "sha256:1"), Origin::Pod);
    }
}
