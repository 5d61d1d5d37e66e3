//! A tenant cannot use an image on the node that it may not pull (KEP-2535).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine;
use cluster_node::{CredentialOptions, ExecProviders};
use image_policy::verification::{Allowlist, VerificationPolicy, record_file_name};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixture::{Access, BUSYBOX, Cluster, container_of};
use crate::private_registry::PrivateRegistry;
use crate::{Outcome, tests};

tests![
    private_image_stays_private_under_never_verify_preloaded_images,
    private_image_stays_private_under_never_verify_allowlisted_images,
    preloaded_image_is_for_everybody_when_it_is_listed,
    private_image_stays_private_under_always_verify,
    private_image_is_for_everybody_under_never_verify,
    image_of_a_service_account_is_for_its_pods_only,
    failing_provider_shows_itself_on_the_pod,
];

type Error = Box<dyn std::error::Error>;

/// Pods of one image, each with another name.
struct Asker<'a> {
    cluster: &'a Cluster,
    image: String,
    number: usize,
}

impl Asker<'_> {
    /// Runs a pod with this secret and pull policy; tells `ran`, or why not.
    async fn ask(&mut self, secret: Option<&str>, policy: &str) -> Result<String, Error> {
        let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
        self.ask_as(json!({"imagePullSecrets": secrets}), policy).await
    }

    async fn ask_as(&mut self, more: Value, policy: &str) -> Result<String, Error> {
        self.number += 1;
        let name = format!("pod-{}", self.number);
        let mut spec = json!({"restartPolicy": "Never",
            "container": {"image": self.image, "imagePullPolicy": policy}});
        if let (Some(map), Value::Object(more)) = (spec.as_object_mut(), more) {
            map.extend(more);
        }
        self.cluster.run(&name, "true", spec).await?;
        let verdict = |pod: &k8s_openapi::api::core::v1::Pod| {
            let state = &container_of(pod, "c")["state"];
            let reason = state["waiting"]["reason"].as_str().unwrap_or_default();
            match reason {
                "ErrImagePull" | "ImagePullBackOff" => Some("refused".to_owned()),
                "ErrImageNeverPull" => Some("never".to_owned()),
                _ => (state["terminated"]["exitCode"] == 0).then(|| "ran".to_owned()),
            }
        };
        let pod = self
            .cluster
            .until(&name, "to be decided", |pod| pod.is_some_and(|pod| verdict(pod).is_some()))
            .await?;
        let verdict = pod.as_ref().and_then(verdict).ok_or("no pod")?;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.cluster.pods().delete(&name, &now).await?;
        Ok(verdict)
    }
}

/// What a tenant without a right hears under each pull policy.
async fn assert_refused(asker: &mut Asker<'_>, secret: Option<&str>, when: &str) -> Outcome {
    assert_eq!(asker.ask(secret, "IfNotPresent").await?, "refused", "{when}");
    assert_eq!(asker.ask(secret, "Never").await?, "never", "{when}");
    Ok(())
}

async fn private_under(verification: VerificationPolicy) -> Outcome {
    let access = Access { verification, ..Access::default() };
    let mut cluster = Cluster::start_with(access).await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    private_through_restart_and_rotation(&mut cluster, &registry).await?;
    cluster.stop().await
}

/// kubelet-images.md 15.9: V1, V2, V3, V4, V5 and V15.
async fn private_image_stays_private_under_never_verify_preloaded_images() -> Outcome {
    private_under(VerificationPolicy::NeverVerifyPreloadedImages).await
}

/// The list names another image, and another registry.
fn list_of_others() -> Result<VerificationPolicy, Error> {
    let list = Allowlist::new(&["registry.example.com/base/*".to_owned(), "busybox".to_owned()])?;
    Ok(VerificationPolicy::NeverVerifyAllowlistedImages(list))
}

/// kubelet-images.md 15.9: V1, V2, V3, V4, V5 and V15.
async fn private_image_stays_private_under_never_verify_allowlisted_images() -> Outcome {
    private_under(list_of_others()?).await
}

/// kubelet-images.md 15.9, V13, and 8.1: `busybox` of the list is the preloaded image, however a pod
/// writes it.
async fn preloaded_image_is_for_everybody_when_it_is_listed() -> Outcome {
    let access = Access { verification: list_of_others()?, ..Access::default() };
    let cluster = Cluster::start_with(access).await?;
    cluster.put_image("registry.example.com/basement/x:1", &[&[("file", "x")]])?;
    let mut asker = Asker { cluster: &cluster, image: String::new(), number: 0 };
    for (image, expected) in
        [(BUSYBOX, "ran"), ("busybox:1", "ran"), ("registry.example.com/basement/x:1", "never")]
    {
        asker.image = image.to_owned();
        assert_eq!(asker.ask(None, "Never").await?, expected, "{image}");
    }
    cluster.stop().await
}

/// kubelet-images.md 15.9: V1, V2, V3, V4, V5 and V15.
async fn private_image_stays_private_under_always_verify() -> Outcome {
    private_under(VerificationPolicy::AlwaysVerify).await
}

async fn private_image_is_for_everybody_under_never_verify() -> Outcome {
    let access = Access { verification: VerificationPolicy::NeverVerify, ..Access::default() };
    let cluster = Cluster::start_with(access).await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    cluster.apply::<Secret>(registry.secret("mine", "right")).await?;
    let mut asker = Asker { cluster: &cluster, image: registry.image(), number: 0 };
    assert_eq!(asker.ask(Some("mine"), "IfNotPresent").await?, "ran");
    assert_eq!(asker.ask(None, "Never").await?, "ran");
    cluster.stop().await
}

/// kubelet-images.md 15.9: V1 to V5 and V15, against a registry and through restarts.
async fn private_through_restart_and_rotation(
    cluster: &mut Cluster,
    registry: &PrivateRegistry,
) -> Outcome {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "default");
    cluster.apply::<Secret>(registry.secret("mine", "right")).await?;
    cluster.apply::<Secret>(registry.secret("wrong", "guessed")).await?;
    let mut asker = Asker { cluster, image: registry.image(), number: 0 };
    assert_eq!(asker.ask(Some("mine"), "IfNotPresent").await?, "ran");
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "ran", "V1");
    assert_refused(&mut asker, None, "V2").await?;
    assert_refused(&mut asker, Some("wrong"), "V4").await?;
    let number = asker.number;

    cluster.stop_node().await;
    cluster.start_node().await?;
    let mut asker = Asker { cluster, image: registry.image(), number };
    assert_refused(&mut asker, None, "after a restart").await?;
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "ran", "after a restart");

    // Rotated: the owner needs no pull, and the old password opens nothing any more.
    cluster.apply::<Secret>(registry.secret("stolen", "right")).await?;
    registry.set_password("second");
    let rotated = Patch::Merge(registry.secret("mine", "second"));
    secrets.patch("mine", &PatchParams::default(), &rotated).await?;
    let before = registry.manifests();
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "ran", "V3");
    assert_eq!(registry.manifests(), before, "V3: no pull");
    assert_refused(&mut asker, Some("stolen"), "a copy of the old secret").await?;

    // Made again under the same name: another UID. The same credential still counts (V5), an
    // unknown one has to be shown to the registry (V4).
    secrets.delete("mine", &DeleteParams::default()).await?;
    cluster.apply::<Secret>(registry.secret("mine", "second")).await?;
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "ran", "V5");
    secrets.delete("mine", &DeleteParams::default()).await?;
    registry.set_password("third");
    cluster.apply::<Secret>(registry.secret("mine", "third")).await?;
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "never", "V4");
    assert_eq!(asker.ask(Some("mine"), "IfNotPresent").await?, "ran", "V4");
    assert_refused(&mut asker, None, "after all that").await?;

    // V15: what a crash between pull and record leaves behind.
    let number = asker.number;
    let kept = cluster.path().join("node/image_manager");
    cluster.stop_node().await;
    for record in std::fs::read_dir(kept.join("pulled"))? {
        std::fs::remove_file(record?.path())?;
    }
    let intent = json!({"kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "image": registry.image()});
    let path = kept.join("pulling").join(record_file_name(&registry.image()));
    std::fs::write(&path, intent.to_string())?;
    cluster.start_node().await?;
    assert!(!path.exists(), "V15");
    let mut asker = Asker { cluster, image: registry.image(), number };
    assert_refused(&mut asker, None, "V15").await?;
    assert_eq!(asker.ask(Some("mine"), "Never").await?, "never", "V15");
    assert_eq!(asker.ask(Some("mine"), "IfNotPresent").await?, "ran", "V15");
    Ok(())
}

/// A provider whose program runs this script; returns what the node is told.
fn provider(name: &str, script: &str, tokens: &str) -> Result<(tempfile::TempDir, Access), Error> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("bin"))?;
    let program = dir.path().join("bin").join(name);
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    let config: PathBuf = dir.path().join("config.yaml");
    std::fs::write(
        &config,
        format!(
            "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- name: {name}\n  matchImages: ['*.*.*.*']\n  defaultCacheDuration: 0s\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n{tokens}"
        ),
    )?;
    let exec = ExecProviders { config, bin_dir: dir.path().join("bin") };
    let credentials = CredentialOptions { exec: Some(exec), clouds: None };
    Ok((dir, Access { credentials, ..Access::default() }))
}

/// kubelet-images.md 9.4 and 15.9, V12: a token of the API server, and the record it leaves.
async fn image_of_a_service_account_is_for_its_pods_only() -> Outcome {
    let tokens = "  tokenAttributes: {serviceAccountTokenAudience: registry, cacheType: ServiceAccount, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [example.com/may-pull]}\n";
    // Configured once the port of the registry is known: the node reads it again.
    let (dir, access) = provider("p", "exit 1", tokens)?;
    let mut cluster = Cluster::start_with(access).await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    let config = dir.path().join("config.yaml");
    let text = std::fs::read_to_string(&config)?.replace("*.*.*.*", &registry.address);
    std::fs::write(&config, text)?;
    let seen = dir.path().join("seen");
    let answer = json!({"kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry",
        "cacheDuration": "1h", "auth": {&registry.address: {"username": "ada", "password": "right"}}});
    let script = format!("#!/bin/sh\ncat >> {}\necho '{answer}'\n", seen.display());
    std::fs::write(dir.path().join("bin/p"), script)?;
    let account = |name: &str, annotations: Value| json!({"metadata": {"name": name, "annotations": annotations}});
    let may = json!({"example.com/may-pull": "yes"});
    cluster.apply::<ServiceAccount>(account("puller", may.clone())).await?;
    cluster.apply::<ServiceAccount>(account("other", json!({}))).await?;
    let mut asker = Asker { cluster: &cluster, image: registry.image(), number: 0 };
    let puller = || json!({"serviceAccountName": "puller"});
    let other = || json!({"serviceAccountName": "other"});
    assert_eq!(asker.ask_as(puller(), "IfNotPresent").await?, "ran");
    let request: Value = serde_json::from_str(&std::fs::read_to_string(&seen)?)?;
    assert_eq!(request["image"], format!("{}/app", registry.address));
    assert_eq!(request["serviceAccountAnnotations"], may);
    let token = request["serviceAccountToken"].as_str().unwrap_or_default().to_owned();
    let claims = token.split('.').nth(1).ok_or("a token")?;
    let claims: Value =
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims)?)?;
    assert_eq!(claims["aud"], json!(["registry"]));
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "pod-1");
    assert_eq!(claims["sub"], "system:serviceaccount:default:puller");

    assert_eq!(asker.ask_as(puller(), "Never").await?, "ran", "V12: the same account");
    assert_eq!(asker.ask_as(other(), "Never").await?, "never", "V12: another account");
    assert_eq!(asker.ask_as(other(), "IfNotPresent").await?, "refused", "V12: another account");
    // The same name, another UID.
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "default");
    accounts.delete("puller", &DeleteParams::default()).await?;
    cluster.apply::<ServiceAccount>(account("puller", json!({}))).await?;
    assert_eq!(asker.ask_as(puller(), "Never").await?, "never", "V12: another UID");
    // Nothing of it all is in the records but coordinates.
    let records = std::fs::read_dir(cluster.path().join("node/image_manager/pulled"))?;
    for record in records {
        let text = std::fs::read_to_string(record?.path())?;
        assert!(!text.contains(&token) && !text.contains("right"), "{text}");
        assert!(text.contains("kubernetesServiceAccounts"), "{text}");
    }
    cluster.stop_node().await;
    cluster.start_node().await?;
    cluster.stop().await
}

/// kubelet-images.md 15.10, X1, and pain 12: the pod says why, and an anonymous pull follows.
async fn failing_provider_shows_itself_on_the_pod() -> Outcome {
    let (dir, access) = provider("p", "echo 'no identity on this machine' >&2; exit 1", "")?;
    let cluster = Cluster::start_with(access).await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    let config = dir.path().join("config.yaml");
    let text = std::fs::read_to_string(&config)?.replace("*.*.*.*", &registry.address);
    std::fs::write(&config, text)?;
    let image = registry.image();
    cluster.run("fails", "true", json!({"container": {"image": image}})).await?;
    let address = &registry.address;
    cluster
        .until_event(
            "fails",
            &format!("Warning CredentialProviderFailed Failed getting credential from external registry credential provider: error execing credential provider plugin p for image {address}/app: exit status 1: no identity on this machine"),
        )
        .await?;
    cluster.until_event("fails", "Warning Failed Failed to pull image").await?;
    assert_ne!(registry.anonymous(), 0, "no anonymous pull");
    cluster.stop().await
}
