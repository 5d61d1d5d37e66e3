//! The pull policy that counts, and why it is that one.

use image_policy::PullPolicy;

use super::report::{PolicyReport, Remark};
use super::subject::{Applied, ImageUse};

/// The policy of one image: the value, and where it comes from.
pub(crate) fn read(image_use: &ImageUse) -> (PullPolicy, PolicyReport) {
    let default = PullPolicy::default_for(&image_use.image);
    let written = image_use.policy.as_deref().filter(|policy| !policy.is_empty());
    let report = |policy: PullPolicy, origin: &str, why: String| {
        (policy, PolicyReport { effective: policy.to_string(), origin: origin.to_owned(), why })
    };
    let Some(written) = written else {
        return report(default, "default", default_why(&image_use.image, default));
    };
    let policy = match written.parse::<PullPolicy>() {
        Ok(policy) => policy,
        Err(detail) => {
            let field = image_use.field.replace("image.reference", "image.pullPolicy");
            let field = field
                .strip_suffix(".image")
                .map_or(field.clone(), |container| format!("{container}.imagePullPolicy"));
            return report(default, "invalid", format!("the API server refuses {field}: {detail}"));
        }
    };
    let before = match &image_use.applied {
        Applied::Unknown => None,
        Applied::Empty => Some(default.as_str()),
        Applied::Written(policy) => Some(policy.as_str()),
    };
    match before {
        Some(before) if before != written && policy == PullPolicy::Always => report(
            policy,
            "admission",
            format!(
                "it was applied as {before}, and something set Always since: most likely the \
                 admission plugin AlwaysPullImages"
            ),
        ),
        Some(before) if before != written && image_use.applied == Applied::Empty => report(
            policy,
            "stored",
            format!(
                "nobody wrote one; the default was stored when the object was first written, with \
                 another image (today it would be {before})"
            ),
        ),
        Some(_) if image_use.applied == Applied::Empty => {
            report(policy, "default", default_why(&image_use.image, default))
        }
        _ => report(policy, "written", "it stands in the object".to_owned()),
    }
}

fn default_why(image: &str, default: PullPolicy) -> String {
    match default {
        PullPolicy::Always if image.contains(":latest") => {
            "no policy is written, and the tag is latest".to_owned()
        }
        PullPolicy::Always => {
            "no policy is written, and without tag and digest the tag is latest".to_owned()
        }
        PullPolicy::IfNotPresent | PullPolicy::Never => {
            "no policy is written, and the tag is not latest".to_owned()
        }
    }
}

/// What a policy means for a node, where that surprises.
pub(crate) fn remark(policy: PullPolicy) -> Option<Remark> {
    match policy {
        PullPolicy::Never => Some(Remark::new(
            "policy.never",
            "the node never pulls it: it must be there, and the pod must have proven that it may \
             use it",
        )),
        PullPolicy::IfNotPresent | PullPolicy::Always => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::Role;
    use super::*;

    #[track_caller]
    fn check(image: &str, policy: Option<&str>, applied: Applied, expected: (&str, &str)) {
        let image_use = ImageUse {
            role: Role::Container,
            name: "app".to_owned(),
            field: "spec.containers[0].image".to_owned(),
            event_path: None,
            image: image.to_owned(),
            policy: policy.map(str::to_owned),
            applied,
        };
        let (_, report) = read(&image_use);
        assert_eq!((report.effective.as_str(), report.origin.as_str()), expected, "{report:?}");
    }

    /// kubelet-images.md 2.1 and 7.1.
    #[test]
    fn the_policy_says_where_it_comes_from() {
        let written = |policy: &str| Applied::Written(policy.to_owned());
        check("nginx", None, Applied::Unknown, ("Always", "default"));
        check("nginx:1", Some(""), Applied::Unknown, ("IfNotPresent", "default"));
        check("nginx:1", Some("Never"), Applied::Unknown, ("Never", "written"));
        check("nginx:1", Some("Always"), written("Always"), ("Always", "written"));
        check("nginx:1", Some("Always"), Applied::Empty, ("Always", "admission"));
        check("nginx:1", Some("Always"), written("Never"), ("Always", "admission"));
        check("nginx", Some("IfNotPresent"), Applied::Empty, ("IfNotPresent", "stored"));
        check("nginx:1", Some("IfNotPresent"), Applied::Empty, ("IfNotPresent", "default"));
        check("nginx:1", Some("Foo"), Applied::Unknown, ("IfNotPresent", "invalid"));
    }
}
