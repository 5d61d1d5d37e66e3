//! Flags about what the API server adds to, refuses in or says about a write.

use clap::{ArgAction, Args};
use cluster_control_plane::admission::Switches;

/// Optional admission steps of `shipway up`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct AdmissionFlags {
    /// Set imagePullPolicy Always on every container (the admission plugin AlwaysPullImages)
    #[arg(long, env = "SHIPWAY_ALWAYS_PULL_IMAGES")]
    always_pull_images: bool,
    /// The same on ephemeral containers added to a running pod, which Kubernetes leaves alone
    #[arg(
        long,
        env = "SHIPWAY_ALWAYS_PULL_IMAGES_FOR_EPHEMERAL_CONTAINERS",
        requires = "always_pull_images"
    )]
    always_pull_images_for_ephemeral_containers: bool,
    /// Warn of pull secrets that are missing or of a type that opens nothing
    #[arg(
        long,
        env = "SHIPWAY_PULL_SECRET_WARNINGS",
        default_value_t = true,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pull_secret_warnings: bool,
}

impl AdmissionFlags {
    /// The switches of the API server.
    pub(crate) const fn switches(self) -> Switches {
        Switches {
            always_pull_images: self.always_pull_images,
            always_pull_images_for_ephemeral_containers: self
                .always_pull_images_for_ephemeral_containers,
            pull_secret_warnings: self.pull_secret_warnings,
        }
    }
}
