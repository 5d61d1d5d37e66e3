//! Image errors as a user sees them.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::fixture::{Cluster, container_of};
use crate::private_registry::{PrivateRegistry, pull_secret};
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

async fn row_64_corrected_secret_ends_the_back_off() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    cluster.apply::<Secret>(registry.secret("regcred", "wrong")).await?;
    cluster
        .run(
            "waits",
            "echo SUCCESS",
            json!({"restartPolicy": "Never",
            "imagePullSecrets": [{"name": "regcred"}],
            "container": {"image": registry.image()}}),
        )
        .await?;
    cluster
        .until("waits", "ImagePullBackOff", |pod| {
            pod.is_some_and(|pod| waiting(pod) == "ImagePullBackOff")
        })
        .await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "default");
    let right = Patch::Merge(registry.secret("regcred", "right"));
    secrets.patch("regcred", &PatchParams::default(), &right).await?;
    cluster.until_phase("waits", "Succeeded").await?;
    assert_eq!(cluster.logs("waits").await?, "SUCCESS\n");
    cluster
        .until_event(
            "waits",
            &format!("Normal Pulled Successfully pulled image \"{}\" in ", registry.image()),
        )
        .await?;
    cluster.stop().await
}

/// kubelet-images.md 15.5, rows L2 and L8.
async fn secrets_of_one_key_are_tried_in_the_pods_order() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    // Neither their names nor their ages are in the order of the pod.
    cluster.apply::<Secret>(registry.secret("a-last", "right")).await?;
    cluster.apply::<Secret>(registry.secret("b-second", "old")).await?;
    cluster.apply::<Secret>(registry.secret("c-first", "wrong")).await?;
    let secrets = json!([{"name": "c-first"}, {"name": "b-second"}, {"name": "a-last"}]);
    let spec = json!({"restartPolicy": "Never", "imagePullSecrets": secrets,
        "container": {"image": registry.image()}});
    cluster.run("tries", "true", spec).await?;
    cluster.until_phase("tries", "Succeeded").await?;
    assert_eq!(registry.passwords(), ["wrong", "old", "right"]);
    cluster.stop().await
}

async fn row_66_image_of_one_tenant_is_refused_to_another() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    let image = registry.image();
    cluster.apply::<Secret>(registry.secret("regcred", "right")).await?;
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
