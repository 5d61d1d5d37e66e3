//! What the caller decides about a build.

use std::collections::{BTreeMap, BTreeSet};

use oci_model::Platform;

use crate::ignore::IgnoreFile;

/// What the caller decides about a build.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `--build-arg`, values resolved (`K` alone has taken the environment already).
    pub build_args: BTreeMap<String, String>,
    /// `--target`: name or number of a stage; `None` is the last.
    pub target: Option<String>,
    /// Platform this machine runs.
    pub build_platform: Platform,
    /// Platform the image is for.
    pub target_platform: Platform,
    /// `--label`, put on the target after its own labels.
    pub labels: Vec<(String, String)>,
    /// Names of `--build-context`; a name replaces a stage, a base image or a `--from` image.
    pub named_contexts: BTreeSet<String>,
    /// The ignore file of the build context, for the CopyIgnoredFile check.
    pub ignore_file: Option<IgnoreFile>,
}

impl PlanOptions {
    /// A build for `platform` on `platform` with nothing else decided.
    #[must_use]
    pub fn for_platform(platform: Platform) -> Self {
        Self {
            build_args: BTreeMap::new(),
            target: None,
            build_platform: platform.clone(),
            target_platform: platform,
            labels: Vec::new(),
            named_contexts: BTreeSet::new(),
            ignore_file: None,
        }
    }
}
