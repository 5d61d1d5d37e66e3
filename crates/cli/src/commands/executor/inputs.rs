//! Contexts and registries as kaniko spells them.

use std::collections::BTreeMap;

use super::flags::ExecutorArgs;
use crate::build::{self, DockerfileLocation, Subject, contexts};
use crate::exit::Failure;

/// What is built.
pub(super) fn subject(args: &ExecutorArgs) -> Result<Subject, Failure> {
    let dockerfile = match args.dockerfile.as_str() {
        "-" => DockerfileLocation::Stdin,
        "Dockerfile" => DockerfileLocation::Default,
        url if url.starts_with("http://") || url.starts_with("https://") => {
            DockerfileLocation::Url(url.to_owned())
        }
        path => DockerfileLocation::Path(path.into()),
    };
    Ok(Subject {
        context: contexts::kaniko_location(&args.context, args.bucket.as_deref(), &args.git)?,
        below: args.context_sub_path.clone(),
        dockerfile,
        build_args: build::build_args(&args.build_args),
        targets: args.target.iter().filter(|target| !target.is_empty()).cloned().collect(),
        platforms: build::platforms("--custom-platform", &args.custom_platforms)?,
        labels: build::pairs("--label", &args.labels)?,
        named_contexts: BTreeMap::new(),
        remote_contexts: BTreeMap::new(),
        context_times: BTreeMap::new(),
    })
}
