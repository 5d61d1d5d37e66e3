//! Image errors as a user sees them.

use serde_json::json;

use crate::fixture::{Cluster, container_of};
use crate::{Outcome, tests};

tests![
    row_64_unreachable_registry_backs_off,
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

async fn row_65_missing_pull_secret_is_warned_about() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "lacks",
            "true",
            json!({"restartPolicy": "Never", "imagePullSecrets": [{"name": "regcred"}]}),
        )
        .await?;
    cluster.until_phase("lacks", "Succeeded").await?;
    cluster
        .until_event(
            "lacks",
            "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (regcred); attempting to pull the image may not succeed.",
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
