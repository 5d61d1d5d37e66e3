//! Pods from creation to deletion.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, LogParams};
use serde_json::json;

use crate::fixture::{Cluster, container_of, is_ready};
use crate::{Outcome, show, tests};

tests![
    node_is_registered_and_ready,
    pod_runs_to_success_and_leaves_its_log,
    row_67_crashing_container_backs_off_and_keeps_its_last_log,
    row_68_init_containers_sidecars_and_apps_in_order,
    row_69_probes_gate_readiness_and_restart,
    row_75_termination_by_signal_hook_and_kill,
    row_75_active_deadline_fails_the_pod,
    pod_that_waits_for_its_image_fails_at_its_deadline,
    row_76_termination_message_is_reported,
];

async fn node_is_registered_and_ready() -> Outcome {
    let cluster = Cluster::start().await?;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get("testnode").await?;
    let status = node.status.ok_or("status")?;
    let ready = status.conditions.iter().flatten().find(|one| one.type_ == "Ready");
    assert_eq!(ready.map(|one| one.status.as_str()), Some("True"));
    assert!(node.metadata.annotations.unwrap_or_default().contains_key("shipway.dev/pod-network"));
    cluster.stop().await
}

async fn pod_runs_to_success_and_leaves_its_log() -> Outcome {
    let cluster = Cluster::start().await?;
    for round in ["first", "second"] {
        let began = Instant::now();
        cluster.run(round, "echo SUCCESS; sleep 0.1", json!({"restartPolicy": "Never"})).await?;
        cluster
            .until(round, "Running", |pod| {
                pod.is_some_and(|pod| container_of(pod, "c")["containerID"].is_string())
            })
            .await?;
        show(&format!("    create to running, {round}: {} ms", began.elapsed().as_millis()));
    }
    let pod = cluster.until_phase("first", "Succeeded").await?;
    assert_eq!(cluster.logs("first").await?, "SUCCESS\n");
    let status = container_of(&pod, "c");
    assert_eq!(status["state"]["terminated"]["reason"], "Completed");
    assert_eq!(status["restartCount"], 0);
    assert!(
        status["imageID"]
            .as_str()
            .unwrap_or_default()
            .starts_with("docker.io/library/busybox@sha256:")
    );
    for text in [
        "Normal Pulled Container image \"docker.io/library/busybox:1\" already present on machine and can be accessed by the pod",
        "Normal Created Container created",
        "Normal Started Container started",
    ] {
        cluster.until_event("first", text).await?;
    }
    cluster.stop().await
}

async fn row_67_crashing_container_backs_off_and_keeps_its_last_log() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.run("crash", "echo run; exit 3", json!({})).await?;
    let pod = cluster
        .until("crash", "CrashLoopBackOff", |pod| {
            pod.is_some_and(|pod| {
                let status = container_of(pod, "c");
                status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                    && status["restartCount"] == 1
            })
        })
        .await?
        .ok_or("no pod")?;
    let status = container_of(&pod, "c");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );
    assert_eq!(cluster.logs("crash").await?, "run\n");
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(cluster.pods().logs("crash", &previous).await?, "run\n");
    cluster
        .until_event(
            "crash",
            "Warning BackOff Back-off restarting failed container c in pod crash_default(",
        )
        .await?;
    cluster.stop().await
}

async fn row_68_init_containers_sidecars_and_apps_in_order() -> Outcome {
    let cluster = Cluster::start().await?;
    let image = crate::fixture::BUSYBOX;
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    cluster
        .run(
            "order",
            "echo app >> /v/order; cat /v/order",
            json!({
                "restartPolicy": "Never",
                "volumes": [{"name": "v", "emptyDir": {}}],
                "container": {"volumeMounts": mounts},
                "initContainers": [
                    {"name": "one", "image": image, "command": ["sh", "-c", "echo one >> /v/order"], "volumeMounts": mounts},
                    {"name": "side", "image": image, "restartPolicy": "Always", "volumeMounts": mounts,
                     "command": ["sh", "-c", "echo side >> /v/order; trap 'exit 0' TERM; while true; do sleep 0.1; done"],
                     "startupProbe": {"exec": {"command": ["sh", "-c", "cat /v/order | head -2 | id"]}, "periodSeconds": 1}},
                    {"name": "two", "image": image, "command": ["sh", "-c", "echo two >> /v/order"], "volumeMounts": mounts},
                ],
            }),
        )
        .await?;
    let pod = cluster.until_phase("order", "Succeeded").await?;
    let log = LogParams { container: Some("c".to_owned()), ..LogParams::default() };
    assert_eq!(cluster.pods().logs("order", &log).await?, "one\nside\ntwo\napp\n");
    assert_eq!(container_of(&pod, "one")["state"]["terminated"]["exitCode"], 0);
    cluster
        .until("order", "its sidecar to end", |pod| {
            pod.is_some_and(|pod| container_of(pod, "side")["state"]["terminated"].is_object())
        })
        .await?;
    cluster.stop().await
}

async fn row_69_probes_gate_readiness_and_restart() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "ready",
            "sleep 0.5; touch /tmp/ready; sleep 600",
            json!({"container": {"readinessProbe":
                {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1}}}),
        )
        .await?;
    let early = cluster.until_phase("ready", "Running").await?;
    assert!(!is_ready(Some(&early)));
    cluster.until("ready", "Ready", is_ready).await?;
    cluster.until_event("ready", "Warning Unhealthy Readiness probe failed: ").await?;
    cluster
        .run(
            "dies",
            "trap 'exit 0' TERM; while true; do sleep 0.1; done",
            json!({"container": {"livenessProbe":
                {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}}),
        )
        .await?;
    cluster
        .until("dies", "a restart", |pod| {
            pod.is_some_and(|pod| container_of(pod, "c")["restartCount"].as_i64() >= Some(1))
        })
        .await?;
    cluster
        .until_event("dies", "Normal Killing Container c failed liveness probe, will be restarted")
        .await?;
    cluster.stop().await
}

async fn row_75_termination_by_signal_hook_and_kill() -> Outcome {
    let cluster = Cluster::start().await?;
    let hooks = json!({"lifecycle": {
        "postStart": {"exec": {"command": ["touch", "/v/started"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo pre >> /v/order"]}}}});
    let mut container = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    container
        .as_object_mut()
        .ok_or("object")?
        .extend(hooks.as_object().cloned().unwrap_or_default());
    let shared = cluster.path().join("shared");
    cluster
        .run(
            "polite",
            "trap 'echo term >> /v/order; exit 0' TERM; while true; do sleep 0.1; done",
            json!({"container": container,
                   "volumes": [{"name": "v", "hostPath": {"path": shared, "type": "DirectoryOrCreate"}}]}),
        )
        .await?;
    cluster
        .run(
            "stubborn",
            "trap '' TERM; while true; do sleep 0.1; done",
            json!({"terminationGracePeriodSeconds": 1}),
        )
        .await?;
    for name in ["polite", "stubborn"] {
        cluster.until_phase(name, "Running").await?;
    }
    for name in ["polite", "stubborn"] {
        let began = Instant::now();
        cluster.pods().delete(name, &DeleteParams::default()).await?;
        cluster.until(name, "to be gone", |pod| pod.is_none()).await?;
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{name} waited for its whole grace period"
        );
    }
    assert!(shared.join("started").exists());
    assert_eq!(std::fs::read_to_string(shared.join("order"))?, "pre\nterm\n");
    let left: Vec<_> = std::fs::read_dir(cluster.path().join("node/pods"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    cluster.stop().await
}

async fn row_75_active_deadline_fails_the_pod() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "late",
            "sleep 600",
            json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 0}),
        )
        .await?;
    let pod = cluster.until_phase("late", "Failed").await?;
    let status = pod.status.clone().ok_or("status")?;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(container_of(&pod, "c")["state"]["terminated"]["exitCode"], 137);
    cluster.stop().await
}

// kubelet-images.md 15.10, J6: the deadline counts while the image is pulled.
async fn pod_that_waits_for_its_image_fails_at_its_deadline() -> Outcome {
    let cluster = Cluster::start().await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "imageless"},
        "spec": {
            "nodeName": "testnode", "restartPolicy": "Never", "activeDeadlineSeconds": 2,
            "containers": [{"name": "c", "image": "127.0.0.1:1/nobody/listens:1"}],
        },
    });
    cluster.create(pod).await?;
    cluster.until_event("imageless", "Failed to pull image").await?;
    let pod = cluster.until_phase("imageless", "Failed").await?;
    let status = pod.status.clone().ok_or("status")?;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was active on the node longer than the specified deadline")
    );
    cluster.stop().await
}

async fn row_76_termination_message_is_reported() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run("says", "echo why > /dev/termination-log; exit 4", json!({"restartPolicy": "Never"}))
        .await?;
    cluster
        .run(
            "falls",
            "echo last words; exit 5",
            json!({"restartPolicy": "Never",
            "container": {"terminationMessagePolicy": "FallbackToLogsOnError"}}),
        )
        .await?;
    let says = cluster.until_phase("says", "Failed").await?;
    assert_eq!(container_of(&says, "c")["state"]["terminated"]["message"], "why\n");
    let falls = cluster.until_phase("falls", "Failed").await?;
    assert_eq!(container_of(&falls, "c")["state"]["terminated"]["message"], "last words\n");
    cluster.stop().await
}
