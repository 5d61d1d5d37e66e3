//! Image errors as a user sees them.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::fixture::{BUSYBOX, Cluster, container_of};
use crate::{Outcome, tests};

tests![
    row_64_unreachable_registry_backs_off,
    row_64_corrected_secret_ends_the_back_off,
    secrets_of_one_key_are_tried_in_the_pods_order,
    row_66_image_of_one_tenant_is_refused_to_another,
    row_65_missing_pull_secret_is_warned_about,
    row_66_never_refuses_an_absent_image,
    any_kaniko_executor_is_ours,
];

fn waiting(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    container_of(pod, "c")["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned()
}

async fn row_64_unreachable_registry_backs_off() -> Outcome {
    let cluster = Cluster::start().await?;
    // Port 1 of loopback: nobody listens there.
    cluster.run("far", "true", json!({"container": {"image": "127.0.0.1:1/none:1"}})).await?;
    cluster
        .until("far", "ImagePullBackOff", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "ImagePullBackOff")
        })
        .await?;
    for text in [
        "Normal Pulling Pulling image \"127.0.0.1:1/none:1\"",
        "Warning Failed Failed to pull image \"127.0.0.1:1/none:1\": ",
        "Warning Failed Error: ErrImagePull",
        "Normal BackOff Back-off pulling image \"127.0.0.1:1/none:1\"",
        "Warning Failed Error: ImagePullBackOff",
    ] {
        cluster.until_event("far", text).await?;
    }
    let error = cluster.logs("far").await.expect_err("no log yet").to_string();
    assert!(error.contains("is waiting to start: trying and failing to pull image"), "{error}");
    cluster.stop().await
}

/// A registry that shows the busybox manifest to `ada` with password `right`; the blobs are on the
/// node already. Returns `host:port`.
pub(crate) async fn private_registry(
    cluster: &Cluster,
) -> Result<String, Box<dyn std::error::Error>> {
    watched_registry(cluster, Arc::default()).await
}

/// The same; `seen` gets the credentials that are shown to it, each run of equal ones once.
async fn watched_registry(
    cluster: &Cluster,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<String, Box<dyn std::error::Error>> {
    let digests = cluster.blobs.get_ref(&format!("images/{BUSYBOX}").parse()?)?.ok_or("busybox")?;
    let manifest = cluster.blobs.read(&digests[0], 1 << 20)?;
    let root = digests[0].to_string();
    let wanted = format!("Basic {}", BASE64.encode("ada:right"));
    let answer = move |request: Request| {
        let shown =
            request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(shown) = shown {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(shown.to_owned());
            seen.dedup();
        }
        let response: Response = if shown != Some(wanted.as_str()) {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
            (StatusCode::UNAUTHORIZED, challenge, "{}").into_response()
        } else if request.uri().path() == "/v2/app/manifests/1" {
            let headers = [
                (
                    header::CONTENT_TYPE.as_str(),
                    "application/vnd.oci.image.manifest.v1+json".to_owned(),
                ),
                ("docker-content-digest", root.clone()),
            ];
            (StatusCode::OK, headers, manifest.clone()).into_response()
        } else {
            StatusCode::OK.into_response()
        };
        async move { response }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    Ok(address)
}

pub(crate) fn pull_secret(name: &str, registry: &str, password: &str) -> serde_json::Value {
    let config = json!({"auths": {registry: {"username": "ada", "password": password}}});
    json!({"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": BASE64.encode(config.to_string())}})
}

async fn row_64_corrected_secret_ends_the_back_off() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = private_registry(&cluster).await?;
    cluster.apply::<Secret>(pull_secret("regcred", &registry, "wrong")).await?;
    cluster
        .run(
            "waits",
            "echo SUCCESS",
            json!({"restartPolicy": "Never",
            "imagePullSecrets": [{"name": "regcred"}],
            "container": {"image": format!("{registry}/app:1")}}),
        )
        .await?;
    cluster
        .until("waits", "ImagePullBackOff", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "ImagePullBackOff")
        })
        .await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "default");
    let right = Patch::Merge(pull_secret("regcred", &registry, "right"));
    secrets.patch("regcred", &PatchParams::default(), &right).await?;
    cluster.until_phase("waits", "Succeeded").await?;
    assert_eq!(cluster.logs("waits").await?, "SUCCESS\n");
    cluster
        .until_event(
            "waits",
            &format!("Normal Pulled Successfully pulled image \"{registry}/app:1\" in "),
        )
        .await?;
    cluster.stop().await
}

/// kubelet-images.md 15.5, rows L2 and L8.
async fn secrets_of_one_key_are_tried_in_the_pods_order() -> Outcome {
    let cluster = Cluster::start().await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let registry = watched_registry(&cluster, Arc::clone(&seen)).await?;
    // Neither their names nor their ages are in the order of the pod.
    cluster.apply::<Secret>(pull_secret("a-last", &registry, "right")).await?;
    cluster.apply::<Secret>(pull_secret("b-second", &registry, "old")).await?;
    cluster.apply::<Secret>(pull_secret("c-first", &registry, "wrong")).await?;
    let secrets = json!([{"name": "c-first"}, {"name": "b-second"}, {"name": "a-last"}]);
    let spec = json!({"restartPolicy": "Never", "imagePullSecrets": secrets,
        "container": {"image": format!("{registry}/app:1")}});
    cluster.run("tries", "true", spec).await?;
    cluster.until_phase("tries", "Succeeded").await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let shown = |password: &str| format!("Basic {}", BASE64.encode(format!("ada:{password}")));
    assert_eq!(seen, [shown("wrong"), shown("old"), shown("right")]);
    cluster.stop().await
}

async fn row_66_image_of_one_tenant_is_refused_to_another() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = private_registry(&cluster).await?;
    let image = format!("{registry}/app:1");
    cluster.apply::<Secret>(pull_secret("regcred", &registry, "right")).await?;
    let with_secret = json!({"restartPolicy": "Never", "imagePullSecrets": [{"name": "regcred"}],
        "container": {"image": image}});
    cluster.run("owner", "true", with_secret.clone()).await?;
    cluster.until_phase("owner", "Succeeded").await?;
    cluster.run("again", "true", with_secret).await?;
    cluster.until_phase("again", "Succeeded").await?;
    cluster.until_event("again", "already present on machine").await?;
    cluster.run("other", "true", json!({"container": {"image": image}})).await?;
    cluster
        .until("other", "to be refused", |pod| {
            pod.is_some_and(|pod| {
                matches!(waiting(pod).as_str(), "ErrImagePull" | "ImagePullBackOff")
            })
        })
        .await?;
    cluster
        .run("sly", "true", json!({"container": {"image": image, "imagePullPolicy": "Never"}}))
        .await?;
    cluster
        .until("sly", "ErrImageNeverPull", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "ErrImageNeverPull")
        })
        .await?;
    cluster.stop().await
}

/// kubelet-images.md 15.7, P17, and 2.3: in the order of the pod, without entries that name nothing.
async fn row_65_missing_pull_secret_is_warned_about() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.apply::<Secret>(pull_secret("here", "r.example", "right")).await?;
    cluster
        .run(
            "lacks",
            "true",
            json!({"restartPolicy": "Never",
                "imagePullSecrets": [{"name": "b"}, {"name": ""}, {"name": "here"}, {"name": "a"}]}),
        )
        .await?;
    cluster.until_phase("lacks", "Succeeded").await?;
    cluster
        .until_event(
            "lacks",
            "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (b, a); attempting to pull the image may not succeed.",
        )
        .await?;
    cluster.stop().await
}

async fn row_66_never_refuses_an_absent_image() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "never",
            "true",
            json!({"container": {"image": "r.example/none:1", "imagePullPolicy": "Never"}}),
        )
        .await?;
    cluster
        .until("never", "ErrImageNeverPull", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "ErrImageNeverPull")
        })
        .await?;
    cluster
        .until_event(
            "never",
            "Container image \"r.example/none:1\" is not present with pull policy of Never",
        )
        .await?;
    cluster.run("bad", "true", json!({"container": {"image": "UPPER//x"}})).await?;
    cluster
        .until("bad", "InvalidImageName", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "InvalidImageName")
        })
        .await?;
    cluster.stop().await
}

async fn any_kaniko_executor_is_ours() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .create(json!({"metadata": {"name": "kaniko"}, "spec": {"restartPolicy": "Never", "containers": [
            {"name": "c", "image": "gcr.io/kaniko-project/executor:v1.23.2", "args": ["--help"]}]}}))
        .await?;
    // The test's executor is no program; what counts is that the image is there and is ours.
    let pod = cluster
        .until("kaniko", "to be created", |pod| {
            pod.is_some_and(|pod| {
                container_of(pod, "c")["imageID"].as_str().is_some_and(|id| !id.is_empty())
            })
        })
        .await?
        .ok_or("no pod")?;
    let id = container_of(&pod, "c")["imageID"].as_str().unwrap_or_default().to_owned();
    assert!(id.starts_with("shipway.local/executor@sha256:"), "{id}");
    cluster.stop().await
}
