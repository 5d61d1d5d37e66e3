//! Admission rules about images: ServiceAccount pull secrets and AlwaysPullImages.

mod mountable;
mod warning;

pub use mountable::{
    ContainerList, ENFORCE_MOUNTABLE_SECRETS, ListedSecrets, MirrorPodNames, SecretUse,
    mirror_pod_refusal, unlisted_secret,
};
pub use warning::{NamedSecret, pull_secret_name_warnings, pull_secret_warning};

use crate::PullPolicy;

/// The value that admission refuses or sets, with the path of its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyViolation {
    /// Path of the field, such as `spec.containers[0].imagePullPolicy`.
    pub field: String,
    /// The API server's text for the field.
    pub detail: String,
}

/// One use of an image in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// Path of its policy field, such as `spec.containers[0].imagePullPolicy`.
    pub policy_field: String,
    /// The image as written.
    pub image: String,
    /// The policy as written.
    pub policy: String,
}

/// The pull secrets that a new pod takes from its service account: all of them if the pod names
/// none, else nothing (ServiceAccount admission; no merge, no existence check).
pub fn inherited_pull_secrets<'a>(
    pod_secrets: &[String],
    account_secrets: &'a [String],
) -> Option<&'a [String]> {
    (pod_secrets.is_empty() && !account_secrets.is_empty()).then_some(account_secrets)
}

/// The service account of a pod: the one it names, else `default`.
pub fn service_account_of(named: Option<&str>) -> &str {
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The text (after `pods "p" is forbidden: `) for a service account that does not exist.
pub fn missing_service_account_text(namespace: &str, name: &str) -> String {
    format!(
        "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
    )
}

/// Whether AlwaysPullImages has to look at an update of a pod: not if each image of the new pod
/// already occurs in the old one.
pub fn always_pull_images_applies_to_update(old: &[ImageUse], new: &[ImageUse]) -> bool {
    !new.iter().all(|new| old.iter().any(|old| old.image == new.image))
}

/// What AlwaysPullImages finds wrong with a pod after mutation; empty when every use is `Always`.
pub fn always_pull_images_violations(uses: &[ImageUse]) -> Vec<PolicyViolation> {
    uses.iter()
        .filter(|image_use| image_use.policy != PullPolicy::Always.as_str())
        .map(|image_use| PolicyViolation {
            field: image_use.policy_field.clone(),
            detail: format!(
                "Unsupported value: {:?}: supported values: \"Always\"",
                image_use.policy
            ),
        })
        .collect()
}

/// The text (after `pods "p" is forbidden: `) of all violations together: one alone, several in
/// brackets, as Go joins errors.
pub fn always_pull_images_refusal(uses: &[ImageUse]) -> Option<String> {
    let texts: Vec<String> = always_pull_images_violations(uses)
        .into_iter()
        .map(|violation| format!("{}: {}", violation.field, violation.detail))
        .collect();
    match texts.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn image_use(image: &str, policy: &str) -> ImageUse {
        ImageUse {
            policy_field: "spec.containers[0].imagePullPolicy".to_owned(),
            image: image.to_owned(),
            policy: policy.to_owned(),
        }
    }

    #[test]
    fn pull_secrets_are_inherited_all_or_nothing() {
        let account = names(&["a", "b"]);
        assert_eq!(inherited_pull_secrets(&[], &account), Some(&account[..])); // S7
        assert_eq!(inherited_pull_secrets(&names(&["c"]), &names(&["a"])), None); // S8
        assert_eq!(inherited_pull_secrets(&[], &[]), None);
    }

    #[test]
    fn missing_account_has_the_servers_text() {
        assert_eq!(
            missing_service_account_text("ns", "x"),
            r#"error looking up service account ns/x: serviceaccount "x" not found"#
        ); // S9
        assert_eq!(service_account_of(None), "default");
        assert_eq!(service_account_of(Some("")), "default");
        assert_eq!(service_account_of(Some("builder")), "builder");
    }

    #[test]
    fn updates_without_new_images_are_left_alone() {
        let old = [image_use("a", "IfNotPresent"), image_use("b", "Never")];
        let same = [image_use("b", "IfNotPresent")];
        assert!(!always_pull_images_applies_to_update(&old, &same)); // S14
        assert!(always_pull_images_applies_to_update(&old, &[image_use("c", "Always")]));
    }

    #[test]
    fn every_use_that_is_not_always_is_a_violation() {
        let uses = [image_use("a", "Always"), image_use("b", "IfNotPresent")];
        assert_eq!(
            always_pull_images_violations(&uses),
            [PolicyViolation {
                field: "spec.containers[0].imagePullPolicy".to_owned(),
                detail: r#"Unsupported value: "IfNotPresent": supported values: "Always""#
                    .to_owned(),
            }]
        );
    }

    #[test]
    fn violations_are_refused_together() {
        let uses = |policies: &[&str]| -> Vec<ImageUse> {
            policies.iter().map(|policy| image_use("a", policy)).collect()
        };
        let one = r#"spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always""#;
        assert_eq!(always_pull_images_refusal(&uses(&["Always"])), None);
        assert_eq!(always_pull_images_refusal(&uses(&["Never"])), Some(one.to_owned()));
        let both = always_pull_images_refusal(&uses(&["Never", "Never"]));
        assert_eq!(both, Some(format!("[{one}, {one}]")));
    }
}
