//! Collection by hand, beside a running registry or without one.

use std::path::Path;

use blob_store::{BlobStore, CollectError, CollectMode, CollectOptions, Collected};
use oci_model::Digest;

use crate::metadata::{Metadata, MetadataError};

/// Why a collection by hand did not run.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// The metadata could not be read, so it is not known what must stay.
    #[error("cannot open the registry in {}", path.display())]
    State {
        /// The directory of the metadata.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

/// Removes unneeded blobs from `store` and calls `removed` for each. If no registry runs on
/// `directory` its metadata is checked against the store first and tidied afterwards; a running
/// one does so itself.
///
/// # Errors
/// [`GarbageError`]; then nothing was removed.
pub async fn collect_garbage(
    directory: &Path,
    store: &BlobStore,
    options: &CollectOptions,
    removed: impl FnMut(&Digest, u64) + Send + 'static,
) -> Result<Collected, GarbageError> {
    let state = |source: Box<dyn std::error::Error + Send + Sync>| GarbageError::State {
        path: directory.to_owned(),
        source,
    };
    let metadata = if directory.join("metadata.redb").exists() {
        match Metadata::open(directory, store.clone()) {
            Ok(metadata) => Some(metadata),
            Err(MetadataError::InUse { .. }) => None,
            Err(error) => return Err(state(error.into())),
        }
    } else {
        None
    };
    let (for_thread, settings) = (store.clone(), *options);
    let collected = tokio::task::spawn_blocking(move || for_thread.collect(&settings, removed))
        .await
        .map_err(|error| state(error.into()))?;
    if let Some(metadata) = metadata {
        if collected.is_ok() && options.mode == CollectMode::Apply {
            metadata.tidy().await.map_err(|error| state(error.into()))?;
        }
        metadata.close();
    }
    Ok(collected?)
}
