//! Pulls from real registries.

use std::future::Future;
use std::pin::Pin;

use blob_store::BlobStore;
use credentials::RegistryAuth;
use oci_model::{Digest, Reference};
use registry_client::Client;

use super::ensure::Puller;

