//! What scripts read of a Job with `kubectl get -o go-template`.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::cluster::{Cluster, kubectls};

/// Longest time of one wait before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How tutorials ask how a Job ended.
const FIRST_CONDITION: &str = "go-template={{(index .status.conditions 0).type}}";

/// Ends the pod of a Job as a node would say it ended.
async fn end_pod(cluster: &Cluster, job: &str, phase: &str) {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client.clone());
    let config = watcher::Config::default().labels(&format!("job-name={job}"));
    let mut seen = pin!(watcher(pods, config).applied_objects());
    let pod = tokio::time::timeout(PATIENCE, seen.try_next()).await.expect("in time");
    let name = pod.expect("a watch").expect("a pod").name_any();
    let path = format!("/api/v1/namespaces/default/pods/{name}/status");
    let answer = cluster.send("PATCH", &path, &json!({"status": {"phase": phase}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

// kubelet-images.md 15.10, J1, J2 and J3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_condition_is_the_decision_and_a_running_job_has_none() {
    let cluster = Cluster::start().await;
    let job = |name: &str| {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}],
            }}},
        })
        .to_string()
    };
    for name in ["well", "badly", "running"] {
        cluster.kubectl(&["apply", "-f", "-"], &job(name)).await;
    }
    end_pod(&cluster, "well", "Succeeded").await;
    end_pod(&cluster, "badly", "Failed").await;
    for (name, condition) in [("well", "complete"), ("badly", "failed")] {
        let wait = ["wait", &format!("job/{name}"), &format!("--for=condition={condition}")];
        cluster.kubectl(&wait, "").await;
    }
    for kubectl in kubectls() {
        let ask = async |job: &str| {
            cluster.run(&kubectl, &["get", "job", job, "-o", FIRST_CONDITION], "").await
        };
        assert_eq!(ask("well").await.stdout, "SuccessCriteriaMet", "J1");
        assert_eq!(ask("badly").await.stdout, "FailureTarget", "J2");
        let running = ask("running").await;
        assert_eq!(running.code, 1, "J3: {running:?}");
        let text = "error calling index: index of untyped nil";
        assert!(running.stderr.contains(text), "J3: {running:?}");
    }
    let reason = "jsonpath={.status.conditions[1].type} {.status.conditions[1].reason}";
    let failed =
        cluster.run(Path::new("kubectl"), &["get", "job", "badly", "-o", reason], "").await;
    assert_eq!(failed.stdout, "Failed BackoffLimitExceeded", "J2");
}
