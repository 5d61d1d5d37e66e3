//! Which secrets a pod names, and where.

use image_policy::admission::{ContainerList, SecretUse};
use serde_json::Value;

use crate::object;

const LISTS: [(&str, ContainerList); 3] = [
    ("initContainers", ContainerList::Init),
    ("containers", ContainerList::Main),
    ("ephemeralContainers", ContainerList::Ephemeral),
];

/// The uses that an account can limit: volumes, variables, pull secrets.
pub(super) fn of_pod(pod: &Value) -> Vec<SecretUse<'_>> {
    let volumes = object::list(pod, &["spec", "volumes"]).iter().filter_map(|volume| {
        let secret = object::at(volume, &["secret"])?;
        Some(SecretUse::Volume { secret: object::text(secret, &["secretName"]) })
    });
    let pulls = object::list(pod, &["spec", "imagePullSecrets"]).iter().enumerate();
    let pulls = pulls
        .map(|(index, entry)| SecretUse::Pull { index, secret: object::text(entry, &["name"]) });
    volumes.chain(LISTS.into_iter().flat_map(|list| variables(pod, list))).chain(pulls).collect()
}

/// The uses of the ephemeral containers alone.
pub(super) fn of_ephemeral_containers(pod: &Value) -> Vec<SecretUse<'_>> {
    variables(pod, ("ephemeralContainers", ContainerList::Ephemeral)).collect()
}

fn variables<'a>(
    pod: &'a Value,
    (key, list): (&'static str, ContainerList),
) -> impl Iterator<Item = SecretUse<'a>> {
    object::list(pod, &["spec", key]).iter().flat_map(move |container| {
        object::list(container, &["env"]).iter().filter_map(move |variable| {
            let source = object::at(variable, &["valueFrom", "secretKeyRef"])?;
            Some(SecretUse::Variable {
                list,
                container: object::text(container, &["name"]),
                variable: object::text(variable, &["name"]),
                secret: object::text(source, &["name"]),
            })
        })
    })
}

/// Whether the pod names a secret anywhere that nodes read one.
pub(super) fn names_any(pod: &Value) -> bool {
    let volumes = object::list(pod, &["spec", "volumes"]);
    let projected =
        volumes.iter().flat_map(|volume| object::list(volume, &["projected", "sources"]));
    let containers = LISTS.iter().flat_map(|(key, _)| object::list(pod, &["spec", key]));
    let whole = containers.flat_map(|container| object::list(container, &["envFrom"]));
    !of_pod(pod).is_empty()
        || projected.into_iter().any(|source| source.get("secret").is_some())
        || whole.into_iter().any(|source| source.get("secretRef").is_some())
}
