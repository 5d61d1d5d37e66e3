//! Copies images from one registry to another, through the store.

use blob_store::BlobStore;
use credentials::RegistryAuth;
use oci_model::{Descriptor, Reference};

use crate::client::Client;
use crate::error::RegistryError;
use crate::progress::Progress;
use crate::pull::{Layers, Platforms, PullOptions};
use crate::push::PushOptions;

/// How an image is copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Which images of an index are copied. With one platform, its manifest is copied and not
    /// the index.
    pub platforms: Platforms,
}

impl Client {
    /// Copies an image. Blobs of the same registry are mounted where the registry allows it;
    /// what must move is kept in the store only until the copy ends and nothing else holds it.
    ///
    /// # Errors
    /// See [`crate::RegistryErrorKind`].
    #[expect(clippy::too_many_arguments, reason = "source and destination, each with credentials")]
    pub async fn copy(
        &self,
        from: &Reference,
        from_auths: &[RegistryAuth],
        to: &Reference,
        to_auths: &[RegistryAuth],
        store: &BlobStore,
        options: &CopyOptions,
        progress: &Progress,
    ) -> Result<Descriptor, RegistryError> {
        let pull = PullOptions { platforms: options.platforms.clone(), layers: Layers::Fetch };
        let pulled = self.pull(from, from_auths, store, &pull, progress).await?;
        let same_registry = from.registry() == to.registry();
        let mount_from = if same_registry { vec![from.repository().clone()] } else { Vec::new() };
        let root = match (&options.platforms, pulled.images.first()) {
            (Platforms::One(_), Some(image)) => image.manifest.clone(),
            _ => pulled.root.clone(),
        };
        let push = PushOptions { mount_from };
        let pushed = self.push(to, &root, to_auths, store, &push, progress).await?;
        Ok(pushed.descriptor)
    }
}
