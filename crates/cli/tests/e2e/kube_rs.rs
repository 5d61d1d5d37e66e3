//! A kube-rs program as a client: create, server-side apply, watch, logs, exec, delete.

use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{AttachParams, DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::machine::{Kubectl, Machine, PASSWORD, USER};

/// Longest time of one await before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn kube_rs_program_works_against_the_embedded_api() {
    // A second call is no error here: tests share one process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let machine = Machine::new(Kubectl::Machine);
    machine.login(&machine.registry, USER, PASSWORD);
    let image = format!("{}/kube-rs/app:1", machine.registry);
    machine.push_busybox(&image);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(machine.kubeconfig()).expect("a kubeconfig");
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .expect("a config");
        let client = Client::try_from(config).expect("a client");
        objects_are_applied_and_watched(client.clone()).await;
        create_the_pull_secret(client.clone(), &machine).await;
        pod_runs_speaks_and_goes(client, &image).await;
    });
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}

async fn objects_are_applied_and_watched(client: Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut events = Box::pin(
        watcher(maps.clone(), watcher::Config::default().labels("app=kube-rs")).applied_objects(),
    );
    let apply = PatchParams::apply("e2e");
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
               "metadata": {"name": "applied", "labels": {"app": "kube-rs"}},
               "data": {"key": value}})
    };
    for value in ["one", "two"] {
        let applied = maps.patch("applied", &apply, &Patch::Apply(map(value))).await;
        let applied = applied.expect("server-side apply");
        assert_eq!(applied.data.unwrap_or_default()["key"], value);
        let seen = within("the watch event", async {
            loop {
                let object = events.try_next().await.expect("a watch").expect("an event");
                if object.data.clone().unwrap_or_default()["key"] == value {
                    return object;
                }
            }
        })
        .await;
        assert_eq!(seen.name_any(), "applied");
        assert!(!seen.managed_fields().is_empty(), "the owner of each field is known");
    }
    let other =
        maps.patch("applied", &PatchParams::apply("other"), &Patch::Apply(map("three"))).await;
    let conflict = other.expect_err("another owner of the same field").to_string();
    assert!(conflict.contains("conflict"), "{conflict}");
    maps.delete("applied", &DeleteParams::default()).await.expect("a delete");
}

async fn create_the_pull_secret(client: Client, machine: &Machine) {
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let file = std::fs::read_to_string(machine.home().join(".docker/config.json"));
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "regcred"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": file.expect("the file that login wrote")},
    }))
    .expect("a secret");
    secrets.create(&PostParams::default(), &secret).await.expect("a create");
}

async fn pod_runs_speaks_and_goes(client: Client, image: &str) {
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "speaker"},
        "spec": {"terminationGracePeriodSeconds": 0,
                 "imagePullSecrets": [{"name": "regcred"}],
                 "containers": [{"name": "main", "image": image,
                                 "command": ["sh", "-c", "echo hello; exec sleep 3600"]}]},
    }))
    .expect("a pod");
    let created = pods.create(&PostParams::default(), &pod).await.expect("a create");
    let uid = created.uid().expect("the server gives a UID");
    within("the pod", await_condition(pods.clone(), "speaker", conditions::is_pod_running()))
        .await
        .expect("a watch");
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("speaker", &follow).await.expect("a log").lines();
    let line = within("the first line", lines.next()).await.expect("a line").expect("text");
    assert_eq!(line, "hello");

    let params = AttachParams::default().stderr(false);
    let mut process =
        pods.exec("speaker", ["sh", "-c", "echo inside; exit 7"], &params).await.expect("an exec");
    let mut said = String::new();
    let mut stdout = process.stdout().expect("standard output");
    within("the output", stdout.read_to_string(&mut said)).await.expect("text");
    assert_eq!(said, "inside\n");
    let status = process.take_status().expect("a status").await.expect("a status");
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find_map(|cause| cause.message.clone());
    assert_eq!(code.as_deref(), Some("7"), "the exit code comes back");

    pods.delete("speaker", &DeleteParams::default()).await.expect("a delete");
    within("the end", await_condition(pods, "speaker", conditions::is_deleted(&uid)))
        .await
        .expect("a watch");
}
