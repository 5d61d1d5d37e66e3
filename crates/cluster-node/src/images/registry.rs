//! Pulls from real registries into the shared content store.

use std::future::Future;
use std::pin::Pin;

use blob_store::BlobStore;
use credentials::RegistryAuth;
use oci_model::{Platform, Reference};
use registry_client::{Client, Layers, Platforms, Progress, PullOptions};

use super::ensure::{Arrived, Puller};

/// A [`Puller`] over the network.
pub(crate) struct RegistryPuller {
    pub(crate) client: Client,
    pub(crate) blobs: BlobStore,
}

impl Puller for RegistryPuller {
    fn pull(
        &self,
        reference: Reference,
        auth: Option<RegistryAuth>,
    ) -> Pin<Box<dyn Future<Output = Result<Arrived, String>> + Send + '_>> {
        Box::pin(async move {
            let options =
                PullOptions { platforms: Platforms::One(Platform::host()), layers: Layers::Fetch };
            let auths: Vec<RegistryAuth> = auth.into_iter().collect();
            let pulled = self
                .client
                .pull(&reference, &auths, &self.blobs, &options, &Progress::none())
                .await
                .map_err(|error| error.to_string())?;
            Ok(Arrived { root: *pulled.root.digest(), guard: Some(pulled.lease) })
        })
    }
}
