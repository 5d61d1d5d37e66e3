//! AlwaysPullImages: every start of a container proves access to its image.

use image_policy::PullPolicy;
use image_policy::admission::{
    ImageUse, always_pull_images_applies_to_update, always_pull_images_refusal,
};
use serde_json::Value;

use crate::error::ApiError;
use crate::object;
use crate::resources::PODS;

const EPHEMERAL: &str = "ephemeralContainers";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", EPHEMERAL];

/// Sets every pull policy to `Always`, and checks that it is; an update that brings no new image is
/// left alone.
pub(super) fn admit(old: Option<&Value>, pod: &mut Value) -> Result<(), ApiError> {
    if let Some(old) = old
        && !always_pull_images_applies_to_update(&container_images(old), &container_images(pod))
    {
        return Ok(());
    }
    mutate(pod);
    validate(pod)
}

/// Sets `Always` on the containers that a write of `pods/ephemeralcontainers` adds; those that
/// exist may not change.
pub(super) fn admit_ephemeral(old: &Value, pod: &mut Value) {
    let known: Vec<String> = object::list(old, &["spec", EPHEMERAL])
        .iter()
        .map(|container| object::text(container, &["name"]).to_owned())
        .collect();
    for container in items(pod, EPHEMERAL) {
        if !known.iter().any(|name| name == object::text(container, &["name"])) {
            object::set(container, &["imagePullPolicy"], PullPolicy::Always.as_str());
        }
    }
}

fn validate(pod: &Value) -> Result<(), ApiError> {
    let volumes = object::list(pod, &["spec", "volumes"]).iter().enumerate();
    let volumes = volumes.filter_map(|(index, volume)| {
        let image = object::at(volume, &["image"])?;
        Some(ImageUse {
            policy_field: format!("spec.volumes[{index}].image.pullPolicy"),
            image: object::text(image, &["reference"]).to_owned(),
            policy: object::text(image, &["pullPolicy"]).to_owned(),
        })
    });
    let uses: Vec<ImageUse> = container_images(pod).into_iter().chain(volumes).collect();
    match always_pull_images_refusal(&uses) {
        None => Ok(()),
        Some(why) => Err(ApiError::forbidden(&PODS, object::name(pod), &why)),
    }
}

fn mutate(pod: &mut Value) {
    let always = || Value::from(PullPolicy::Always.as_str());
    for list in CONTAINERS {
        for container in items(pod, list) {
            object::set(container, &["imagePullPolicy"], always());
        }
    }
    for volume in items(pod, "volumes") {
        if volume.get("image").is_some() {
            object::set(volume, &["image", "pullPolicy"], always());
        }
    }
}

fn items<'a>(pod: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    pod.get_mut("spec")
        .and_then(|spec| spec.get_mut(list))
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

fn container_images(pod: &Value) -> Vec<ImageUse> {
    CONTAINERS
        .into_iter()
        .flat_map(|list| {
            object::list(pod, &["spec", list]).iter().enumerate().map(move |(index, container)| {
                ImageUse {
                    policy_field: format!("spec.{list}[{index}].imagePullPolicy"),
                    image: object::text(container, &["image"]).to_owned(),
                    policy: object::text(container, &["imagePullPolicy"]).to_owned(),
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"spec": {
            "initContainers": [{"image": "a", "imagePullPolicy": "Never"}],
            "containers": [{"image": "b", "imagePullPolicy": "IfNotPresent"}],
            "volumes": [{"image": {"reference": "c", "pullPolicy": "Never"}}, {"emptyDir": {}}],
        }})
    }

    // kubelet-images.md 15.8, S12.
    #[test]
    fn create_sets_always_on_containers_and_image_volumes() {
        let mut pod = pod();
        admit(None, &mut pod).expect("all are set");
        assert_eq!(pod["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
        assert!(pod["spec"]["volumes"][1].get("image").is_none());
    }

    // kubelet-images.md 15.8, S14.
    #[test]
    fn update_without_a_new_image_is_not_touched() {
        let (old, mut new) = (pod(), pod());
        admit(Some(&old), &mut new).expect("nothing to set, or all are set");
        assert_eq!(new, old);
        new["spec"]["containers"][0]["image"] = json!("z");
        admit(Some(&old), &mut new).expect("nothing to set, or all are set");
        assert_eq!(new["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
    }

    #[test]
    fn what_is_not_always_is_refused_with_its_field() {
        let mut pod = pod();
        pod["metadata"] = json!({"name": "p"});
        assert_eq!(
            validate(&pod).expect_err("nothing is set").message,
            "pods \"p\" is forbidden: [spec.initContainers[0].imagePullPolicy: Unsupported value: \
             \"Never\": supported values: \"Always\", spec.containers[0].imagePullPolicy: \
             Unsupported value: \"IfNotPresent\": supported values: \"Always\", \
             spec.volumes[0].image.pullPolicy: Unsupported value: \"Never\": supported values: \
             \"Always\"]"
        );
    }

    // kubelet-images.md 15.8, S13, with the switch that upstream lacks.
    #[test]
    fn added_ephemeral_containers_are_covered_and_known_ones_left_alone() {
        let container = |name: &str| json!({"name": name, "imagePullPolicy": "IfNotPresent"});
        let old = json!({"spec": {"ephemeralContainers": [container("old")]}});
        let mut new =
            json!({"spec": {"ephemeralContainers": [container("old"), container("new")]}});
        admit_ephemeral(&old, &mut new);
        let policies: Vec<&str> = object::list(&new, &["spec", EPHEMERAL])
            .iter()
            .map(|container| object::text(container, &["imagePullPolicy"]))
            .collect();
        assert_eq!(policies, ["IfNotPresent", "Always"]);
    }
}
