//! What the disk says about pulls that were made and that are under way (kubelet-images.md 8.2 to
//! 8.4): read and written on threads that may wait.

use std::sync::Arc;

use image_policy::verification::{Provenance, UsedCredential};
use jiff::Timestamp;
use oci_model::Reference;

use super::{Images, blocking};
use crate::images::notes::Origin;
use crate::images::store::LocalImage;

impl Images {
    /// How a present image got here, as far as this node knows.
    pub(super) async fn provenance(
        self: &Arc<Self>,
        image: &str,
        reference: &Reference,
        image_ref: &str,
    ) -> Result<Provenance, String> {
        let images = Arc::clone(self);
        let (name, effective) = (image.to_owned(), reference.clone());
        let image_ref = image_ref.to_owned();
        blocking(move || {
            let origin = images.store.origin(&effective, &image_ref).unwrap_or_else(|error| {
                tracing::warn!(image = name, %error, "origin of an image not known");
                Origin::Pod
            });
            Ok(images.records.provenance(&image_ref, &name, &effective.to_string(), origin))
        })
        .await
    }

    /// Notes that `used` opened the image of this identity under these names.
    pub(super) async fn note(
        self: &Arc<Self>,
        image_ref: String,
        names: Vec<String>,
        used: UsedCredential,
    ) -> Result<(), String> {
        let images = Arc::clone(self);
        blocking(move || images.note_here(&image_ref, &names, &used)).await
    }

    /// The same at once.
    fn note_here(
        &self,
        image_ref: &str,
        names: &[String],
        used: &UsedCredential,
    ) -> Result<(), String> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let noted = self.records.note(image_ref, &names, used, Timestamp::now());
        noted.map_err(|error| error.to_string())
    }

    /// What the records may know a present image by: its own identity, unless it is here only as
    /// part of others and was never pulled itself, and that of those others.
    pub(super) async fn image_refs(
        self: &Arc<Self>,
        reference: &Reference,
        found: &LocalImage,
    ) -> Vec<String> {
        let own = found.root.to_string();
        if reference.digest().is_none() {
            return vec![own];
        }
        let (images, asked) = (Arc::clone(self), reference.clone());
        let refs = blocking(move || {
            let holders = images.store.roots(&asked).unwrap_or_default();
            let mut refs: Vec<String> = holders.iter().map(ToString::to_string).collect();
            if !refs.contains(&own) && images.records.knows(&own) {
                refs.push(own);
            }
            Ok(refs)
        });
        refs.await.unwrap_or_default()
    }
}

/// A pull that is under way, on disk until it ends: also when nobody waits for it any more.
pub(super) struct Intent(Option<Begun>);

/// The intent itself.
struct Begun {
    images: Arc<Images>,
    image: String,
}

impl Begun {
    fn end(self) {
        self.images.records.end(&self.image);
    }
}

impl Intent {
    /// Writes the intent to pull `image`, the text of the spec.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn begin(images: &Arc<Images>, image: &str) -> Result<Self, String> {
        let (images, image) = (Arc::clone(images), image.to_owned());
        // Made where the file is: if nobody waits for it any more, it ends there.
        blocking(move || {
            images.records.begin(&image).map_err(|error| error.to_string())?;
            Ok(Intent(Some(Begun { images, image })))
        })
        .await
    }

    /// Puts a record in its place: `used` opened the image of this identity under these names.
    ///
    /// # Errors
    /// The record cannot be written. The intent stays, so that nobody gets the image without a
    /// pull.
    pub(super) async fn fulfil(
        mut self,
        image_ref: String,
        names: Vec<String>,
        used: UsedCredential,
    ) -> Result<(), String> {
        let Some(begun) = self.0.take() else { return Ok(()) };
        blocking(move || {
            begun.images.note_here(&image_ref, &names, &used)?;
            begun.end();
            Ok(())
        })
        .await
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let Some(begun) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || begun.end())),
            Err(_) => begun.end(),
        }
    }
}
