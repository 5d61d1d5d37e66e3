//! AlwaysPullImages: every start of a container proves access to its image.

use image_policy::PullPolicy;
use image_policy::admission::{ImageUse, always_pull_images_applies_to_update};
use serde_json::Value;

use crate::object;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Sets every pull policy to `Always`; an update that brings no new image is left alone.
pub(super) fn admit(old: Option<&Value>, pod: &mut Value) {
    if let Some(old) = old
        && !always_pull_images_applies_to_update(&container_images(old), &container_images(pod))
    {
        return;
    }
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
        admit(None, &mut pod);
        assert_eq!(pod["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
        assert!(pod["spec"]["volumes"][1].get("image").is_none());
    }

    // kubelet-images.md 15.8, S14.
    #[test]
    fn update_without_a_new_image_is_not_touched() {
        let (old, mut new) = (pod(), pod());
        admit(Some(&old), &mut new);
        assert_eq!(new, old);
        new["spec"]["containers"][0]["image"] = json!("z");
        admit(Some(&old), &mut new);
        assert_eq!(new["spec"]["initContainers"][0]["imagePullPolicy"], "Always");
    }
}
