//! Who may use an image that is on the node already (KEP-2535).

use clap::{Args, ValueEnum};
use image_policy::verification::{Allowlist, VerificationPolicy};

use crate::exit::Failure;

/// Flags of a kubelet's `imagePullCredentialsVerificationPolicy`.
#[derive(Args, Debug)]
pub(super) struct VerificationFlags {
    /// Which images that are on the node need a proof of access (KEP-2535)
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_VERIFICATION",
        default_value = "never-verify-preloaded-images"
    )]
    image_verification: Verification,
    /// Image without tag, or prefix ending in /*, that needs no proof under
    /// never-verify-allowlisted-images; may be repeated
    #[arg(
        long = "preloaded-images-verification-allowlist",
        env = "SHIPWAY_PRELOADED_IMAGES_VERIFICATION_ALLOWLIST",
        value_name = "PATTERN,…",
        value_delimiter = ','
    )]
    allowlist: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verification {
    /// None.
    #[value(alias = "NeverVerify")]
    NeverVerify,
    /// Those that the node pulled.
    #[value(alias = "NeverVerifyPreloadedImages")]
    NeverVerifyPreloadedImages,
    /// All but those of a list.
    #[value(alias = "NeverVerifyAllowlistedImages")]
    NeverVerifyAllowlistedImages,
    /// All.
    #[value(alias = "AlwaysVerify")]
    AlwaysVerify,
}

impl VerificationFlags {
    /// What the node is told.
    ///
    /// # Errors
    /// A pattern is wrong, or patterns are given to a policy that has none.
    pub(super) fn policy(&self) -> Result<VerificationPolicy, Failure> {
        let policy = match self.image_verification {
            Verification::NeverVerify => VerificationPolicy::NeverVerify,
            Verification::NeverVerifyPreloadedImages => {
                VerificationPolicy::NeverVerifyPreloadedImages
            }
            Verification::AlwaysVerify => VerificationPolicy::AlwaysVerify,
            Verification::NeverVerifyAllowlistedImages => {
                let list = Allowlist::new(&self.allowlist).map_err(|error| {
                    Failure::usage(format!(
                        "invalid configuration: preloadedImagesVerificationAllowlist: {error}"
                    ))
                })?;
                return Ok(VerificationPolicy::NeverVerifyAllowlistedImages(list));
            }
        };
        if self.allowlist.is_empty() {
            return Ok(policy);
        }
        // The word is upstream's, with its slip.
        Err(Failure::usage(
            "invalid configuration: can't set `preloadedImagesVerificationAllowlist` if \
             `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
                .to_owned(),
        ))
    }
}
