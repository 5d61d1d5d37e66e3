//! The agent stops and starts; containers do not notice.

use kube::api::DeleteParams;
use serde_json::json;

use crate::fixture::{Cluster, container_of};
use crate::{Outcome, tests};

tests![
    row_77_running_container_is_found_again_untouched,
    row_77_end_while_the_agent_was_down_is_reported,
    pod_deleted_while_the_agent_was_down_is_removed,
];

async fn row_77_running_container_is_found_again_untouched() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster
        .run(
            "stays",
            "echo one; sleep 600",
            json!({"terminationGracePeriodSeconds": 1,
            "container": {"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}}),
        )
        .await?;
    let before =
        cluster.until("stays", "Ready", crate::fixture::is_ready).await?.ok_or("no pod")?;
    cluster.stop_node().await;
    cluster.start_node().await?;
    cluster.run("next", "true", json!({"restartPolicy": "Never"})).await?;
    cluster.until_phase("next", "Succeeded").await?;
    let after = cluster.pods().get("stays").await?;
    let (before, after) = (container_of(&before, "c"), container_of(&after, "c"));
    assert_eq!(before["containerID"], after["containerID"]);
    assert_eq!(before["state"], after["state"]);
    assert_eq!(after["restartCount"], 0);
    assert_eq!(after["ready"], true);
    assert_eq!(cluster.logs("stays").await?, "one\n");
    cluster.stop().await
}

async fn row_77_end_while_the_agent_was_down_is_reported() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let flag = cluster.path().join("flag");
    std::fs::create_dir_all(&flag)?;
    cluster
        .run(
            "ends",
            "while ! test -e /flag/now; do sleep 0.1; done; exit 7",
            json!({"restartPolicy": "Never",
            "volumes": [{"name": "f", "hostPath": {"path": flag}}],
            "container": {"volumeMounts": [{"name": "f", "mountPath": "/flag"}]}}),
        )
        .await?;
    cluster.until_phase("ends", "Running").await?;
    cluster.stop_node().await;
    std::fs::write(flag.join("now"), "")?;
    cluster.start_node().await?;
    let pod = cluster.until_phase("ends", "Failed").await?;
    assert_eq!(container_of(&pod, "c")["state"]["terminated"]["exitCode"], 7);
    cluster.stop().await
}

async fn pod_deleted_while_the_agent_was_down_is_removed() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.run("gone", "sleep 600", json!({"terminationGracePeriodSeconds": 1})).await?;
    cluster.until_phase("gone", "Running").await?;
    cluster.stop_node().await;
    let force = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete("gone", &force).await?;
    cluster.until("gone", "to be gone", |pod| pod.is_none()).await?;
    cluster.start_node().await?;
    let pods = cluster.path().join("node/pods");
    let began = std::time::Instant::now();
    while std::fs::read_dir(&pods)?.next().is_some() {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "the orphan is still there");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(std::fs::read_dir(cluster.path().join("node/containers"))?.next().is_none());
    cluster.stop().await
}
