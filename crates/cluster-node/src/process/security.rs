//! securityContext → identity, rights and sandbox of a process (mini-kubernetes.md 8.5).

use container_runtime::{
    Capabilities, CapabilitySet, ImageGroups, Namespace, ProcessId, Sandbox, SeccompProfile,
    UnknownCapability, User,
};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile as WantedProfile};

/// Why a container must not run as asked: waiting reason `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SecurityError {
    #[error(
        "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
    )]
    ImageRunsAsRoot { pod: String, container: String },
    #[error(
        "container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})"
    )]
    UserIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NonNumericUser { user: String, pod: String, container: String },
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    #[error("seccomp profile type {0} is not supported on this node")]
    Seccomp(String),
    #[error("sysctl \"{0}\" is not allowed: it is neither namespaced nor safe")]
    Sysctl(String),
    #[error("{field} {value} is out of range")]
    Range { field: &'static str, value: i64 },
}

/// Identity and rights of the process of one container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) user: User,
    pub(crate) capabilities: Capabilities,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: SeccompProfile,
}

/// Kernel parameters that belong to a namespace of the pod and harm nobody else.
///
/// Those of the network namespace are missing: pods share the host's.
const SYSCTLS_SAFE: [&str; 1] = ["kernel.shm_rmid_forced"];

/// The name that error texts and log directories use.
pub(crate) fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

/// Computes identity and rights; `image_user` is the image's `USER`.
///
/// # Errors
/// The container must not run as asked, or asks for what does not exist.
pub(crate) fn rights(
    pod: &Pod,
    container: &Container,
    image_user: &str,
) -> Result<Rights, SecurityError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|own| own.run_as_user)
        .or_else(|| of_pod.and_then(|of_pod| of_pod.run_as_user));
    let group = own
        .and_then(|own| own.run_as_group)
        .or_else(|| of_pod.and_then(|of_pod| of_pod.run_as_group));
    let non_root = own
        .and_then(|own| own.run_as_non_root)
        .or_else(|| of_pod.and_then(|of_pod| of_pod.run_as_non_root))
        == Some(true);
    if non_root {
        check_non_root(pod, container, user, image_user)?;
    }
    let name = user_name(user, group, image_user)?;
    let mut groups = Vec::new();
    for gid in of_pod.into_iter().flat_map(|of_pod| {
        of_pod.supplemental_groups.iter().flatten().chain(of_pod.fs_group.as_ref())
    }) {
        groups.push(id("supplementalGroups", *gid)?);
    }
    let strict =
        of_pod.and_then(|of_pod| of_pod.supplemental_groups_policy.as_deref()) == Some("Strict");
    let privileged = is_privileged(container);
    let bounding = if privileged {
        CapabilitySet::ALL
    } else {
        let asked = own.and_then(|own| own.capabilities.as_ref());
        let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
        let add = list(asked.and_then(|asked| asked.add.as_ref()));
        let drop = list(asked.and_then(|asked| asked.drop.as_ref()));
        CapabilitySet::from_add_drop(
            add.iter().map(String::as_str),
            drop.iter().map(String::as_str),
        )?
    };
    let profile = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or_else(|| of_pod.and_then(|of_pod| of_pod.seccomp_profile.as_ref()));
    Ok(Rights {
        user: User {
            name,
            groups,
            image_groups: if strict { ImageGroups::Ignore } else { ImageGroups::Merge },
        },
        capabilities: Capabilities { bounding, ambient: CapabilitySet::EMPTY },
        no_new_privileges: !privileged
            && own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        seccomp: if privileged { SeccompProfile::Unconfined } else { seccomp(profile)? },
    })
}

fn seccomp(profile: Option<&WantedProfile>) -> Result<SeccompProfile, SecurityError> {
    match profile.map(|profile| profile.type_.as_str()) {
        // The kubelet leaves containers unconfined unless its `seccompDefault` is on.
        None | Some("Unconfined") => Ok(SeccompProfile::Unconfined),
        Some("RuntimeDefault") => Ok(SeccompProfile::RuntimeDefault),
        Some(other) => Err(SecurityError::Seccomp(other.to_owned())),
    }
}

fn check_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image_user: &str,
) -> Result<(), SecurityError> {
    let (pod, container) = (full_name(pod), container.name.clone());
    match user {
        Some(0) => return Err(SecurityError::UserIsRoot { pod, container }),
        Some(_) => return Ok(()),
        None => {}
    }
    match image_user.split(':').next().unwrap_or_default() {
        "" => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        user => match user.parse::<u32>() {
            Ok(0) => Err(SecurityError::ImageRunsAsRoot { pod, container }),
            Ok(_) => Ok(()),
            Err(_) => Err(SecurityError::NonNumericUser { user: user.to_owned(), pod, container }),
        },
    }
}

/// `user[:group]` for the runtime; a number of the spec hides the image's user and group.
fn user_name(
    user: Option<i64>,
    group: Option<i64>,
    image_user: &str,
) -> Result<String, SecurityError> {
    let group = group.map(|group| id("runAsGroup", group)).transpose()?;
    Ok(match (user, group) {
        (Some(user), Some(group)) => format!("{}:{group}", id("runAsUser", user)?),
        (Some(user), None) => id("runAsUser", user)?.to_string(),
        (None, Some(group)) => match image_user.split(':').next().unwrap_or_default() {
            "" => format!("0:{group}"),
            user => format!("{user}:{group}"),
        },
        (None, None) => image_user.to_owned(),
    })
}

fn id(field: &'static str, value: i64) -> Result<u32, SecurityError> {
    u32::try_from(value).map_err(|_| SecurityError::Range { field, value })
}

/// `securityContext.privileged`.
pub(crate) fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|own| own.privileged) == Some(true)
}

/// Applies what securityContext and the pod's host switches change about the sandbox.
///
/// `seen` is the process whose PID namespace the container shares, if it does.
///
/// # Errors
/// A kernel parameter is not allowed.
pub(crate) fn restrict(
    mut sandbox: Sandbox,
    pod: &Pod,
    container: &Container,
    seen: Option<ProcessId>,
) -> Result<Sandbox, SecurityError> {
    let Some(spec) = &pod.spec else { return Ok(sandbox) };
    let own = container.security_context.as_ref();
    sandbox.readonly_root = own.and_then(|own| own.read_only_root_filesystem) == Some(true);
    if own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked") {
        sandbox.masked_paths.clear();
        sandbox.readonly_paths.clear();
    }
    if is_privileged(container) {
        sandbox = sandbox.privileged();
    }
    if spec.host_pid == Some(true) {
        sandbox.namespaces.pid = Namespace::Host;
    } else if let Some(process) = seen {
        sandbox.namespaces.pid = Namespace::OfProcess(process);
    }
    if spec.host_ipc == Some(true) {
        sandbox.namespaces.ipc = Namespace::Host;
    }
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in sysctls {
        if !SYSCTLS_SAFE.contains(&sysctl.name.as_str()) {
            return Err(SecurityError::Sysctl(sysctl.name.clone()));
        }
        sandbox.sysctls.push((sysctl.name.clone(), sysctl.value.clone()));
    }
    Ok(sandbox)
}

#[cfg(test)]
mod tests {
    use container_runtime::Root;
    use serde_json::json;

    use super::*;

    fn pod(of_pod: serde_json::Value, own: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]},
        }))
        .expect("pod")
    }

    fn of(pod: &Pod, image_user: &str) -> Result<Rights, SecurityError> {
        rights(pod, &pod.spec.as_ref().expect("spec").containers[0], image_user)
    }

    /// mini-kubernetes.md 14, row 73.
    #[test]
    fn row_73_user_and_groups() {
        for (of_pod, own, image, expected) in [
            (json!({}), json!({}), "", ""),
            (json!({}), json!({}), "app:staff", "app:staff"),
            (json!({"runAsUser": 1000}), json!({}), "app:staff", "1000"),
            (json!({"runAsUser": 1000, "runAsGroup": 3000}), json!({}), "", "1000:3000"),
            (json!({"runAsUser": 1000}), json!({"runAsUser": 7}), "", "7"),
            (json!({"runAsGroup": 5}), json!({}), "app:staff", "app:5"),
            (json!({"runAsGroup": 5}), json!({}), "", "0:5"),
        ] {
            let rights = of(&pod(of_pod.clone(), own), image).expect("rights");
            assert_eq!(rights.user.name, expected, "{of_pod}");
        }
        let groups = pod(json!({"supplementalGroups": [4, 5], "fsGroup": 2000}), json!({}));
        assert_eq!(of(&groups, "").expect("rights").user.groups, [4, 5, 2000]);
    }

    #[test]
    fn row_73_non_root_is_enforced() {
        let strict = json!({"runAsNonRoot": true});
        let text = |of_pod: &serde_json::Value, own: serde_json::Value, image: &str| {
            of(&pod(of_pod.clone(), own), image).map(drop).map_err(|error| error.to_string())
        };
        for image in ["", "0", "0:5"] {
            let error = text(&strict, json!({}), image).expect_err("refused");
            assert!(
                error.starts_with("container has runAsNonRoot and image will run as root"),
                "{error}"
            );
        }
        let error = text(&strict, json!({}), "app").expect_err("refused");
        assert!(error.contains("non-numeric user (app)"), "{error}");
        let error = text(&strict, json!({"runAsUser": 0}), "5").expect_err("refused");
        assert!(error.starts_with("container's runAsUser breaks non-root policy"), "{error}");
        assert_eq!(text(&strict, json!({}), "1000"), Ok(()));
        assert_eq!(text(&strict, json!({"runAsUser": 1}), ""), Ok(()));
        assert_eq!(text(&strict, json!({"runAsNonRoot": false}), ""), Ok(()));
    }

    #[test]
    fn row_73_capabilities_and_escalation() {
        let caps = |own: serde_json::Value| of(&pod(json!({}), own), "").expect("rights");
        assert_eq!(caps(json!({})).capabilities.bounding, CapabilitySet::DEFAULT);
        let none = caps(json!({"capabilities": {"drop": ["ALL"]}}));
        assert_eq!(none.capabilities.bounding, CapabilitySet::EMPTY);
        assert!(!none.no_new_privileges);
        assert!(caps(json!({"allowPrivilegeEscalation": false})).no_new_privileges);
        let privileged = caps(json!({"privileged": true}));
        assert_eq!(privileged.capabilities.bounding, CapabilitySet::ALL);
        assert!(of(&pod(json!({}), json!({"capabilities": {"add": ["FLY"]}})), "").is_err());
    }

    #[test]
    fn row_73_seccomp_is_unconfined_unless_asked() {
        let profile = |of_pod: serde_json::Value, own: serde_json::Value| {
            of(&pod(of_pod, own), "").map(|rights| rights.seccomp)
        };
        let default = json!({"seccompProfile": {"type": "RuntimeDefault"}});
        let open = json!({"seccompProfile": {"type": "Unconfined"}});
        assert_eq!(profile(json!({}), json!({})), Ok(SeccompProfile::Unconfined));
        assert_eq!(profile(default.clone(), json!({})), Ok(SeccompProfile::RuntimeDefault));
        assert_eq!(profile(default.clone(), open), Ok(SeccompProfile::Unconfined));
        assert_eq!(profile(json!({}), default), Ok(SeccompProfile::RuntimeDefault));
        let local = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}});
        assert!(profile(json!({}), local).is_err());
    }

    #[test]
    fn row_73_sandbox_follows_the_switches() {
        let build = |of_pod: serde_json::Value, own: serde_json::Value| {
            let pod = pod(of_pod, own);
            let container = &pod.spec.as_ref().expect("spec").containers[0];
            restrict(Sandbox::new(Root::Directory("/r".into())), &pod, container, None)
        };
        let plain = build(json!({}), json!({})).expect("sandbox");
        assert!(!plain.readonly_root && !plain.masked_paths.is_empty());
        assert!(
            build(json!({}), json!({"readOnlyRootFilesystem": true}))
                .expect("sandbox")
                .readonly_root
        );
        assert!(
            build(json!({}), json!({"procMount": "Unmasked"}))
                .expect("sandbox")
                .masked_paths
                .is_empty()
        );
        assert!(build(json!({}), json!({"privileged": true})).expect("sandbox").privileged);
        let unsafe_sysctl = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
        assert!(build(unsafe_sysctl, json!({})).is_err());
    }
}
