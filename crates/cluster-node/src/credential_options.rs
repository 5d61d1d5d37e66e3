//! Where the node takes credentials from besides pull secrets and docker config files.

use std::path::PathBuf;
use std::sync::Arc;

use credentials::cloud::Clouds;

/// Sources of credentials that are off by default.
#[derive(Clone, Debug, Default)]
pub struct CredentialOptions {
    /// Exec credential providers, as a kubelet runs them.
    pub exec: Option<ExecProviders>,
    /// Clouds that are asked in this process, last of all.
    pub clouds: Option<Arc<Clouds>>,
}

/// Exec credential providers (`--image-credential-provider-config` and
/// `--image-credential-provider-bin-dir` of a kubelet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecProviders {
    /// A `CredentialProviderConfig` in JSON or YAML, or a directory of such files.
    pub config: PathBuf,
    /// The directory of their programs.
    pub bin_dir: PathBuf,
}
