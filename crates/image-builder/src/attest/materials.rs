//! What went into an image: bases by digest, files and repositories of the network.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerfile::{Action, Base, FileSource, ImageRequest, Source, Stage, StageId, Step, Target};

use super::{Material, purl};
use crate::builder::NamedContext;
use crate::error::BuildError;
use crate::session::Session;

/// The stages that a target is made of, in the order of the plan.
pub(super) fn stages<'a>(session: &'a Session, target: &Target) -> Vec<&'a Stage> {
    let mut needed: BTreeSet<StageId> = BTreeSet::new();
    let mut waiting = vec![target.stage];
    while let Some(id) = waiting.pop() {
        if !needed.insert(id) {
            continue;
        }
        let stage = session.plan.stage(id);
        if let Base::Stage(parent) = &stage.base {
            waiting.push(*parent);
        }
        for input in stage.steps.iter().flat_map(Step::inputs) {
            if let Source::Stage(other) = input.source {
                waiting.push(*other);
            }
        }
    }
    needed.into_iter().map(|id| session.plan.stage(id)).collect()
}

/// Everything from elsewhere, sorted, each once.
pub(super) async fn of(
    session: &Arc<Session>,
    target: &Target,
) -> Result<Vec<Material>, BuildError> {
    let mut images: Vec<ImageRequest> = Vec::new();
    let mut found: BTreeSet<Material> =
        session.request.invocation.context.iter().cloned().collect();
    for stage in stages(session, target) {
        match &stage.base {
            Base::Image(request) => images.push(request.clone()),
            Base::NamedContext { name, platform } => {
                if let Some(NamedContext::Image(reference)) =
                    session.request.named_contexts.get(name)
                {
                    let (reference, platform) = (reference.clone(), platform.clone());
                    images.push(ImageRequest { reference, platform });
                }
            }
            Base::Scratch | Base::Stage(_) => {}
        }
        for step in &stage.steps {
            for input in step.inputs() {
                if let Source::Image(request) = input.source {
                    images.push(request.clone());
                }
            }
            let Action::Transfer(transfer) = &step.action else { continue };
            let checksum = transfer.checksum.as_deref();
            let failed = |error| BuildError::state("cannot name what was fetched", error);
            for file in &transfer.files {
                match file {
                    FileSource::Path(_) | FileSource::Inline { .. } => {}
                    // Both were asked for the step's key, and are not asked again.
                    FileSource::Url(url) => {
                        let digest = session.url_digest(url, checksum).await.map_err(failed)?;
                        found.insert(Material::bytes(url, &digest));
                    }
                    FileSource::Git(url) => {
                        let commit = session.commit_of(url, checksum).await.map_err(failed)?;
                        found.insert(Material::git(url, &commit));
                    }
                }
            }
        }
    }
    for request in images {
        let image = session.inner.images.get(&request).await?;
        let uri = purl::image(&request.reference, Some(&request.platform));
        let digest = [(image.root.algorithm().name().to_owned(), image.root.encoded())].into();
        found.insert(Material { uri, digest });
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_repositories_are_told_and_those_of_files_are_not() {
        let git = Material::git("https://t@host/a.git?tag=v1#sub", "ab");
        assert_eq!(git.uri, "https://xxxxx:xxxxx@host/a.git?tag=v1#sub");
        let file = Material::bytes("https://host/a?sig=s", &oci_model::Digest::of(b""));
        assert_eq!(file.uri, "https://host/a?xxxxx");
    }

    #[test]
    fn commits_tell_their_algorithm() {
        let algorithm = |commit: &str| Material::git("x", commit).digest.keys().next().cloned();
        assert_eq!(algorithm(&"a".repeat(40)).as_deref(), Some("sha1"));
        assert_eq!(algorithm(&"a".repeat(64)).as_deref(), Some("sha256"));
    }
}
