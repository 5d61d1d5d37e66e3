//! Containers that are added to a running pod, as `kubectl debug` does.

use std::error::Error;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{LogParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixture::{BUSYBOX, Cluster, container_of};
use crate::private_registry::PrivateRegistry;
use crate::{Outcome, tests};

tests![
    ephemeral_container_sees_the_processes_of_its_target_and_runs_once,
    ephemeral_container_sees_the_processes_that_its_pod_shares,
    target_that_ends_during_the_pull_is_not_found,
    image_of_an_ephemeral_container_is_held_to_the_same_rules,
    ephemeral_container_ends_with_its_pod,
];

/// Adds a container to a pod.
async fn debug(cluster: &Cluster, pod: &str, container: Value) -> Outcome {
    let body = json!({"spec": {"ephemeralContainers": [container]}});
    let patch = Patch::Strategic(body);
    let place = "ephemeralcontainers";
    cluster.pods().patch_subresource(place, pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until one of the pod's containers is in such a state; returns its status.
async fn until(
    cluster: &Cluster,
    pod: &str,
    container: &str,
    state: fn(&Value) -> bool,
) -> Result<Value, Box<dyn Error>> {
    let is_so =
        |pod: Option<&Pod>| pod.is_some_and(|pod| state(&container_of(pod, container)["state"]));
    let pod = cluster.until(pod, container, is_so).await?.ok_or("no pod")?;
    Ok(container_of(&pod, container))
}

fn has_ended(state: &Value) -> bool {
    state["terminated"].is_object()
}

async fn logs(cluster: &Cluster, pod: &str, container: &str) -> Result<String, Box<dyn Error>> {
    let of = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
    Ok(cluster.pods().logs(pod, &of).await?)
}

async fn ephemeral_container_sees_the_processes_of_its_target_and_runs_once() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.run("box", "sleep 600", json!({"terminationGracePeriodSeconds": 1})).await?;
    cluster.until_phase("box", "Running").await?;
    let look = "tr '\\0' ' ' < /proc/1/cmdline";
    let seen = json!({"name": "seen", "image": BUSYBOX, "targetContainerName": "c",
        "command": ["sh", "-c", look]});
    debug(&cluster, "box", seen).await?;
    let status = until(&cluster, "box", "seen", has_ended).await?;
    assert_eq!(status["state"]["terminated"]["exitCode"], 0, "{status}");
    assert!(status["imageID"].as_str().is_some_and(|id| id.contains("@sha256:")), "{status}");
    assert_eq!(logs(&cluster, "box", "seen").await?.trim(), "sleep 600");

    let apart = json!({"name": "apart", "image": BUSYBOX, "command": ["sh", "-c", look]});
    debug(&cluster, "box", apart).await?;
    until(&cluster, "box", "apart", has_ended).await?;
    let own = logs(&cluster, "box", "apart").await?;
    assert!(own.contains("tr ") && !own.contains("sleep"), "its own processes only: {own}");

    let late = json!({"name": "late", "image": "r.example/absent:1", "imagePullPolicy": "Never"});
    cluster.run("half", "sleep 600", json!({"others": [late]})).await?;
    until(&cluster, "half", "c", |state| state["running"].is_object()).await?;
    let early = json!({"name": "early", "image": BUSYBOX, "targetContainerName": "late"});
    debug(&cluster, "half", early).await?;
    let told = "Warning Failed Error: unable to find target container late";
    cluster.until_event("half", told).await?;

    cluster.stop_node().await;
    cluster.start_node().await?;
    cluster.run("next", "true", json!({"restartPolicy": "Never"})).await?;
    cluster.until_phase("next", "Succeeded").await?;
    let pod = cluster.pods().get("box").await?;
    assert_eq!(container_of(&pod, "seen")["containerID"], status["containerID"], "not run again");
    assert_eq!(container_of(&pod, "seen")["state"], status["state"]);
    assert_eq!(container_of(&pod, "c")["restartCount"], 0);
    cluster.stop().await
}

async fn ephemeral_container_sees_the_processes_that_its_pod_shares() -> Outcome {
    let cluster = Cluster::start().await?;
    let more = json!({"shareProcessNamespace": true, "terminationGracePeriodSeconds": 1});
    cluster.run("box", "exec sleep 600", more).await?;
    cluster.until_phase("box", "Running").await?;
    let look = "tr '\\0' ' ' < /proc/1/cmdline";
    let seen = json!({"name": "seen", "image": BUSYBOX, "command": ["sh", "-c", look]});
    debug(&cluster, "box", seen).await?;
    until(&cluster, "box", "seen", has_ended).await?;
    assert_eq!(logs(&cluster, "box", "seen").await?.trim(), "sleep 600");
    cluster.stop().await
}

/// The number of a process that ended during the pull may be that of a stranger afterwards.
async fn target_that_ends_during_the_pull_is_not_found() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    cluster.apply::<Secret>(registry.secret("regcred", "right")).await?;
    let flag = cluster.path().join("flag");
    std::fs::create_dir_all(&flag)?;
    let wait = "while ! test -e /flag/now; do sleep 0.1; done";
    let brief = json!({"name": "brief", "image": BUSYBOX, "command": ["sh", "-c", wait],
        "volumeMounts": [{"name": "f", "mountPath": "/flag"}]});
    let more = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "f", "hostPath": {"path": flag}}],
        "imagePullSecrets": [{"name": "regcred"}], "others": [brief]});
    cluster.run("box", "sleep 600", more).await?;
    until(&cluster, "box", "brief", |state| state["running"].is_object()).await?;
    registry.set_open(false);
    let look = json!({"name": "look", "image": registry.image(), "targetContainerName": "brief",
        "command": ["true"]});
    debug(&cluster, "box", look).await?;
    let pulls = format!("Normal Pulling Pulling image \"{}\"", registry.image());
    cluster.until_event("box", &pulls).await?;
    std::fs::write(flag.join("now"), "")?;
    until(&cluster, "box", "brief", has_ended).await?;
    registry.set_open(true);
    let told = "Warning Failed Error: unable to find target container brief";
    cluster.until_event("box", told).await?;
    cluster.stop().await
}

/// kubelet-images.md 2.3 and 2.4.
async fn image_of_an_ephemeral_container_is_held_to_the_same_rules() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.run("box", "sleep 600", json!({"terminationGracePeriodSeconds": 1})).await?;
    cluster.until_phase("box", "Running").await?;
    let absent = json!({"name": "d", "image": "r.example/absent:1", "imagePullPolicy": "Never"});
    debug(&cluster, "box", absent).await?;
    let is_refused = |state: &Value| state["waiting"]["reason"] == "ErrImageNeverPull";
    let status = until(&cluster, "box", "d", is_refused).await?;
    let text = "Container image \"r.example/absent:1\" is not present with pull policy of Never";
    assert_eq!(status["state"]["waiting"]["message"], text);
    cluster.until_event("box", &format!("Warning ErrImageNeverPull {text}")).await?;
    let pod = cluster.pods().get("box").await?;
    let ready = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = ready.iter().find(|one| one.type_ == "Ready");
    assert_eq!(ready.map(|one| one.status.as_str()), Some("True"), "the pod itself is well");
    cluster.stop().await
}

async fn ephemeral_container_ends_with_its_pod() -> Outcome {
    let cluster = Cluster::start().await?;
    let flag = cluster.path().join("flag");
    std::fs::create_dir_all(&flag)?;
    let more = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "f", "hostPath": {"path": flag}}],
        "container": {"volumeMounts": [{"name": "f", "mountPath": "/flag"}]}});
    cluster.run("box", "while ! test -e /flag/now; do sleep 0.1; done", more).await?;
    cluster.until_phase("box", "Running").await?;
    let stays = json!({"name": "stays", "image": BUSYBOX, "command": ["sleep", "600"]});
    debug(&cluster, "box", stays).await?;
    until(&cluster, "box", "stays", |state| state["running"].is_object()).await?;
    std::fs::write(flag.join("now"), "")?;
    cluster.until_phase("box", "Succeeded").await?;
    until(&cluster, "box", "stays", has_ended).await?;
    cluster.stop().await
}
