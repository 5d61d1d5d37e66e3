//! A finished build goes to registries and into the store's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use oci_model::{Digest, Reference, Repository};

use crate::builder::{BuildOutcome, Inner};
use crate::error::BuildError;
use crate::event::BuildEvent;
use crate::images::image_ref;
use crate::layer_source::LayerRef;

/// The first destination in each registry: where layers are sent to, so that the other
/// repositories of the registry can take them from there.
pub(crate) fn first_of_each_registry(references: &[Reference]) -> Vec<Reference> {
    let mut first: Vec<Reference> = Vec::new();
    for reference in references {
        if !first.iter().any(|other| other.registry() == reference.registry()) {
            first.push(reference.clone());
        }
    }
    first
}

/// Pushes to every destination, registries side by side; one result per destination, in order.
///
/// Within a registry the first repository gets the bytes, the others mount them from it, and a
/// further tag of a repository is only a tag.
pub(crate) async fn push_all(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    references: &[Reference],
) -> Vec<Result<(), BuildError>> {
    let mut registries: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, reference) in references.iter().enumerate() {
        registries.entry(reference.registry()).or_default().push(at);
    }
    let pushes = registries.into_values().map(|places| async move {
        let mut results = Vec::with_capacity(places.len());
        let mut repositories: Vec<(&Repository, Vec<usize>)> = Vec::new();
        for at in places {
            let own = references[at].repository();
            match repositories.iter_mut().find(|(repository, _)| *repository == own) {
                Some((_, tags)) => tags.push(at),
                None => repositories.push((own, vec![at])),
            }
        }
        let mut repositories = repositories.into_iter();
        let mut filled = None;
        for (repository, tags) in repositories.by_ref() {
            let pushed = push_tags(inner, outcome, references, tags, None).await;
            let is_there = pushed.iter().any(|(_, result)| result.is_ok());
            results.extend(pushed);
            if is_there {
                filled = Some(repository);
                break;
            }
        }
        let rest =
            repositories.map(|(_, tags)| push_tags(inner, outcome, references, tags, filled));
        results.extend(join_all(rest).await.into_iter().flatten());
        results
    });
    let mut results: Vec<(usize, Result<(), BuildError>)> =
        join_all(pushes).await.into_iter().flatten().collect();
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Pushes the tags of one repository.
async fn push_tags(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    references: &[Reference],
    tags: Vec<usize>,
    mount_from: Option<&Repository>,
) -> Vec<(usize, Result<(), BuildError>)> {
    let mut results = Vec::with_capacity(tags.len());
    let mut is_there = false;
    for at in tags {
        let reference = &references[at];
        let result = if is_there {
            tag(inner, outcome, reference).await
        } else {
            push(inner, outcome, reference, mount_from).await
        };
        is_there |= result.is_ok();
        results.push((at, result));
    }
    results
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn failed(reference: &Reference) -> impl Fn(Cause) -> BuildError + '_ {
    |source| BuildError::Push { reference: reference.to_string(), source }
}

/// Sends one more name for what the repository has.
async fn tag(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    reference: &Reference,
) -> Result<(), BuildError> {
    inner.events.send(BuildEvent::Pushing { reference: reference.to_string() });
    let sent = inner.registry.put_manifest(reference, &outcome.root).await;
    sent.map_err(|error| failed(reference)(error.into()))?;
    tell(inner, outcome, reference);
    Ok(())
}

fn tell(inner: &Inner, outcome: &BuildOutcome, reference: &Reference) {
    let digest = outcome.root.digest().to_string();
    inner.events.send(BuildEvent::Pushed { reference: reference.to_string(), digest });
}

/// Pushes to one repository; layers that are only at a registry are mounted, or fetched first.
async fn push(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    reference: &Reference,
    filled: Option<&Repository>,
) -> Result<(), BuildError> {
    let failed = failed(reference);
    inner.events.send(BuildEvent::Pushing { reference: reference.to_string() });
    let mut mount_from: Vec<Repository> = filled.into_iter().cloned().collect();
    for layer in outcome.layers() {
        let Some(origin) = &layer.origin else { continue };
        if origin.registry() == reference.registry() && !mount_from.contains(origin.repository()) {
            mount_from.push(origin.repository().clone());
        }
    }
    for layer in outcome.layers() {
        let digest = &layer.descriptor.digest;
        // Held first: a collection may run beside us.
        let is_held = outcome.source.lease().add(digest).map_err(|error| failed(error.into()))?;
        if is_held && inner.store.contains(digest) {
            continue;
        }
        let there = inner.registry.has_or_mounts(reference, digest, &mount_from).await;
        if !there.map_err(|error| failed(error.into()))? {
            outcome.source.ensure_blob(layer).await.map_err(|error| failed(error.into()))?;
        }
    }
    inner
        .registry
        .push(reference, &outcome.root, &inner.store, mount_from)
        .await
        .map_err(|error| failed(error.into()))?;
    for referrer in &outcome.referrers {
        let pushed = inner.registry.push_referrer(reference, referrer, &inner.store).await;
        pushed.map_err(|error| failed(error.into()))?;
    }
    tell(inner, outcome, reference);
    Ok(())
}

/// Keeps a finished build under `images/<canonical reference>`.
pub(crate) async fn keep(
    inner: &Arc<Inner>,
    outcome: &BuildOutcome,
    reference: &Reference,
) -> Result<(), BuildError> {
    let failed =
        |source: Cause| BuildError::state(format!("cannot keep image {reference}"), source);
    let layers: Vec<LayerRef> = outcome.layers().cloned().collect();
    outcome.source.ensure_blobs(&layers).await.map_err(|error| failed(error.into()))?;
    let name = image_ref(reference)
        .ok_or_else(|| failed("its name cannot be a ref of the store".into()))?;
    inner.store.set_ref(&name, &outcome.blobs()).map_err(|error| failed(error.into()))
}

impl BuildOutcome {
    /// The layers of all images that are copied about, each once.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerRef> {
        let mut seen = std::collections::BTreeSet::new();
        let all = self.images.iter().flat_map(crate::image::BuiltImage::own_layers);
        all.filter(move |layer| seen.insert(layer.descriptor.digest))
    }

    /// Everything the build is made of, what a name refers to first.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        let mut digests = vec![*self.root.digest()];
        for image in &self.images {
            digests.extend([*image.manifest.digest(), image.config]);
        }
        digests.extend(self.layers().map(|layer| layer.descriptor.digest));
        for manifest in self.attached.iter().chain(&self.referrers) {
            digests.push(*manifest.digest());
            digests.extend(manifest.parsed().references().map(|descriptor| descriptor.digest));
        }
        let mut seen = std::collections::BTreeSet::new();
        digests.retain(|digest| seen.insert(*digest));
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_go_ahead_to_one_repository_of_each_registry() {
        let names = ["one.test/a:1", "one.test/b:1", "two.test/a:1", "one.test/a:2"];
        let references = names.map(|name| name.parse::<Reference>().expect("a name"));
        let first = first_of_each_registry(&references);
        let first: Vec<_> = first.iter().map(ToString::to_string).collect();
        assert_eq!(first, ["one.test/a:1", "two.test/a:1"]);
    }
}
