//! The bytes of blobs: where they are, how they come in and how they go out.

#[allow(dead_code, reason = "the shared log and uploads come next")]
pub(crate) mod bucket;
mod options;

pub use options::{BucketOptions, Network, NetworkError, REDIRECT_LIFETIME, RedirectOptions};
