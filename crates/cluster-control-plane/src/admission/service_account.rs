//! The ServiceAccount step: which account a pod runs as, its pull secrets and its token.

use std::time::Duration;

use image_policy::admission::{
    ENFORCE_MOUNTABLE_SECRETS, ListedSecrets, MirrorPodNames, SecretUse, inherited_pull_secrets,
    mirror_pod_refusal, missing_service_account_text, service_account_of, unlisted_secret,
};
use serde_json::{Value, json};

use super::secrets;
use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::resources::{PODS, SERVICE_ACCOUNTS};

/// Where containers find their token.
const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime of the injected token in seconds; one hour and a little, so that it stands out.
const TOKEN_SECONDS: u32 = 3607;
/// Looks for an account named `default`, which a fresh namespace gets only moments later.
const DEFAULT_ACCOUNT_LOOKUPS_MAX: usize = 10;
/// Pause between two looks.
const DEFAULT_ACCOUNT_PAUSE: Duration = Duration::from_millis(100);
/// Letters of generated names.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Marks a pod that mirrors a file of the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Admits a new pod.
pub(super) async fn admit(
    client: &Client,
    namespace: &str,
    pod: &mut Value,
) -> Result<(), ApiError> {
    if object::annotation(pod, MIRROR).is_some() {
        return check_mirror(pod);
    }
    let named = object::text(pod, &["spec", "serviceAccountName"]);
    let name = service_account_of(Some(named)).to_owned();
    let account = look_up(client, namespace, &name)
        .await
        .map_err(|error| forbidden_without_account(pod, namespace, &name, error))?;
    object::set(pod, &["spec", "serviceAccountName"], name.as_str());
    object::set(pod, &["spec", "serviceAccount"], name.as_str());
    complete(pod, &account, &volume_suffix());
    check_listed(pod, &account, &secrets::of_pod(pod))
}

fn check_mirror(pod: &Value) -> Result<(), ApiError> {
    let volumes = object::list(pod, &["spec", "volumes"]);
    let token = volumes
        .iter()
        .flat_map(|volume| object::list(volume, &["projected", "sources"]))
        .any(|source| source.get("serviceAccountToken").is_some());
    let names = MirrorPodNames {
        account: !object::text(pod, &["spec", "serviceAccountName"]).is_empty(),
        secrets: secrets::names_any(pod),
        token,
    };
    match mirror_pod_refusal(names) {
        None => Ok(()),
        Some(why) => Err(ApiError::forbidden(&PODS, object::name(pod), why)),
    }
}

/// Admits the ephemeral containers that are added to a running pod.
pub(super) fn admit_ephemeral(
    client: &Client,
    namespace: &str,
    pod: &Value,
) -> Result<(), ApiError> {
    let name = object::text(pod, &["spec", "serviceAccountName"]);
    match client.get(&SERVICE_ACCOUNTS, namespace, name) {
        Ok(account) => check_listed(pod, &account, &secrets::of_ephemeral_containers(pod)),
        // The pod runs as an account that is gone: nothing limits it.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a secret that the account does not list, if the account wants that.
fn check_listed(pod: &Value, account: &Value, uses: &[SecretUse<'_>]) -> Result<(), ApiError> {
    let enforced = object::annotation(account, ENFORCE_MOUNTABLE_SECRETS);
    if !enforced.is_some_and(|text| matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")) {
        return Ok(());
    }
    let listed = |key: &str| -> Vec<String> {
        let entries = object::list(account, &[key]).iter();
        entries.map(|entry| object::text(entry, &["name"]).to_owned()).collect()
    };
    let (secrets, pull_secrets) = (listed("secrets"), listed("imagePullSecrets"));
    let listed = ListedSecrets {
        account: object::name(account),
        secrets: &secrets,
        pull_secrets: &pull_secrets,
    };
    match unlisted_secret(uses, listed) {
        None => Ok(()),
        Some(why) => Err(ApiError::forbidden(&PODS, object::name(pod), &why)),
    }
}

async fn look_up(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<std::sync::Arc<Value>, ApiError> {
    let lookups = if name == "default" { DEFAULT_ACCOUNT_LOOKUPS_MAX } else { 1 };
    for _ in 1..lookups {
        match client.get(&SERVICE_ACCOUNTS, namespace, name) {
            Err(error) if error.is_not_found() => tokio::time::sleep(DEFAULT_ACCOUNT_PAUSE).await,
            found => return found,
        }
    }
    client.get(&SERVICE_ACCOUNTS, namespace, name)
}

fn forbidden_without_account(
    pod: &Value,
    namespace: &str,
    name: &str,
    error: ApiError,
) -> ApiError {
    if !error.is_not_found() {
        return error;
    }
    let why = missing_service_account_text(namespace, name);
    ApiError::forbidden(&PODS, object::name(pod), &why)
}

/// Copies what the account gives to its pods: pull secrets and the token volume.
fn complete(pod: &mut Value, account: &Value, suffix: &str) {
    let names = |object: &Value, path: &[&str]| -> Vec<String> {
        let entries = object::list(object, path).iter();
        entries.map(|entry| object::text(entry, &["name"]).to_owned()).collect()
    };
    let own = names(pod, &["spec", "imagePullSecrets"]);
    let offered = names(account, &["imagePullSecrets"]);
    if let Some(inherited) = inherited_pull_secrets(&own, &offered) {
        let secrets: Vec<Value> = inherited.iter().map(|name| json!({"name": name})).collect();
        object::set(pod, &["spec", "imagePullSecrets"], secrets);
    }
    let automount = object::at(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| object::at(account, &["automountServiceAccountToken"]))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if automount {
        mount_token(pod, suffix);
    }
}

/// Mounts the token in every container that has nothing at its place, and adds the volume if any
/// container needs it.
fn mount_token(pod: &mut Value, suffix: &str) {
    let existing = object::list(pod, &["spec", "volumes"])
        .iter()
        .map(|volume| object::text(volume, &["name"]))
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list));
        for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
            let mut mounts = object::list(container, &["volumeMounts"]).to_vec();
            if mounts.iter().any(|mount| object::text(mount, &["mountPath"]) == TOKEN_MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_MOUNT_PATH}));
            object::set(container, &["volumeMounts"], mounts);
            mounted = true;
        }
    }
    if !mounted || existing.is_some() {
        return;
    }
    let mut volumes = object::list(pod, &["spec", "volumes"]).to_vec();
    volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {
            "name": "kube-root-ca.crt",
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}}));
    object::set(pod, &["spec", "volumes"], volumes);
}

fn volume_suffix() -> String {
    (0..5).map(|_| char::from(NAME_LETTERS[fastrand::usize(..NAME_LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(pod: Value, account: Value) -> Value {
        let mut pod = pod;
        complete(&mut pod, &account, "abcde");
        pod
    }

    // kubelet-images.md 15.8, S7 and S8.
    #[test]
    fn pull_secrets_come_from_the_account_only_when_the_pod_names_none() {
        let account = json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}]});
        let inherited = completed(json!({"spec": {}}), account.clone());
        assert_eq!(inherited["spec"]["imagePullSecrets"], json!([{"name": "a"}, {"name": "b"}]));
        let kept = completed(json!({"spec": {"imagePullSecrets": [{"name": "c"}]}}), account);
        assert_eq!(kept["spec"]["imagePullSecrets"], json!([{"name": "c"}]));
    }

    // mini-kubernetes.md 14, row 57.
    #[test]
    fn automount_is_decided_by_the_pod_then_by_the_account() {
        let rows = [
            (None, None, true),
            (None, Some(true), true),
            (None, Some(false), false),
            (Some(true), None, true),
            (Some(true), Some(true), true),
            (Some(true), Some(false), true),
            (Some(false), None, false),
            (Some(false), Some(true), false),
            (Some(false), Some(false), false),
        ];
        for (pod, account, mounted) in rows {
            let mut spec = json!({"containers": [{"name": "c"}]});
            let mut holder = json!({});
            if let Some(pod) = pod {
                spec["automountServiceAccountToken"] = json!(pod);
            }
            if let Some(account) = account {
                holder["automountServiceAccountToken"] = json!(account);
            }
            let pod = completed(json!({"spec": spec}), holder);
            let mounts = object::list(&pod["spec"]["containers"][0], &["volumeMounts"]);
            assert_eq!(mounts.len() == 1, mounted);
            assert_eq!(object::list(&pod, &["spec", "volumes"]).len() == 1, mounted);
        }
    }

    #[test]
    fn container_with_a_mount_of_its_own_at_the_place_keeps_it() {
        let own = json!([{"name": "mine", "mountPath": TOKEN_MOUNT_PATH}]);
        let pod = json!({"spec": {"containers": [{"name": "c", "volumeMounts": own}]}});
        assert_eq!(completed(pod.clone(), json!({})), pod);
    }

    // kubelet-images.md 15.8, S10.
    #[test]
    fn mirror_pods_may_not_reference_accounts_secrets_or_tokens() {
        let refusal = |spec: Value| {
            let pod = json!({"metadata": {"name": "m"}, "spec": spec});
            check_mirror(&pod).map_err(|refused| refused.message.clone())
        };
        let text = |why: &str| Err(format!("pods \"m\" is forbidden: a mirror pod may not {why}"));
        assert_eq!(refusal(json!({})), Ok(()));
        assert_eq!(refusal(json!({"serviceAccountName": "x"})), text("reference service accounts"));
        for names_a_secret in [
            json!({"imagePullSecrets": [{"name": "x"}]}),
            json!({"volumes": [{"secret": {"secretName": "x"}}]}),
            json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "x"}}]}}]}),
            json!({"containers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}),
            json!({"initContainers": [{"env": [
                {"name": "V", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}},
            ]}]}),
        ] {
            assert_eq!(refusal(names_a_secret), text("reference secrets"));
        }
        assert_eq!(
            refusal(
                json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]})
            ),
            text("use ServiceAccountToken volume projections")
        );
    }

    // kubelet-images.md 15.8, S9.
    #[test]
    fn missing_account_is_forbidden_with_both_names() {
        let pod = json!({"metadata": {"name": "p"}});
        let missing = ApiError::not_found(&SERVICE_ACCOUNTS, "x");
        assert_eq!(
            forbidden_without_account(&pod, "ns", "x", missing).message,
            "pods \"p\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" \
             not found"
        );
    }

    // kubelet-images.md 6, enforce-mountable-secrets.
    #[test]
    fn accounts_that_ask_for_it_limit_the_secrets_of_their_pods() {
        let account = |enforced: &str| {
            json!({
                "metadata": {"name": "sa", "annotations": {ENFORCE_MOUNTABLE_SECRETS: enforced}},
                "secrets": [{"name": "listed"}], "imagePullSecrets": [{"name": "pull"}],
            })
        };
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "volumes": [{"secret": {"secretName": "listed"}}],
            "imagePullSecrets": [{"name": "pull"}, {"name": "other"}],
        }});
        let check = |enforced: &str| {
            check_listed(&pod, &account(enforced), &secrets::of_pod(&pod))
                .map_err(|refused| refused.message.clone())
        };
        assert_eq!(check("false"), Ok(()));
        assert_eq!(
            check("true"),
            Err("pods \"p\" is forbidden: imagePullSecrets[1].name=\"other\" is not allowed because \
                 service account sa does not reference that imagePullSecret"
                .to_owned())
        );
    }
}
