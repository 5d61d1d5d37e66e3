//! Environment, volumes, identity.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::fixture::{Cluster, container_of};
use crate::{Outcome, tests};

tests![
    row_70_environment_of_every_source,
    row_71_volumes_of_every_kind,
    row_71_config_map_volume_follows_its_object,
    row_72_claim_survives_its_pod_and_mounts_one_file_by_sub_path,
    row_73_identity_and_rights_of_the_process,
    row_74_container_above_its_memory_limit_is_oom_killed,
    program_that_is_missing_is_a_start_error,
];

async fn row_70_environment_of_every_source() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .apply::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"key": "hidden"}}))
        .await?;
    cluster.apply::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"A": "1"}})).await?;
    let script = "echo $FROM_IMAGE $P_A $SECRET $SUM $NAME $LIMIT; echo $0 $1";
    cluster
        .run(
            "env",
            script,
            json!({"restartPolicy": "Never", "container": {
                "args": ["$(P_A)", "$$(P_A)"],
                "resources": {"limits": {"memory": "64Mi"}},
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
                    {"name": "SUM", "value": "$(P_A)+$(SECRET)"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                ]}}),
        )
        .await?;
    cluster.until_phase("env", "Succeeded").await?;
    assert_eq!(cluster.logs("env").await?, "yes 1 hidden 1+hidden env 64\n1 $(P_A)\n");
    cluster
        .run(
            "broken",
            "true",
            json!({"container": {"env": [
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}}),
        )
        .await?;
    let pod = cluster
        .until("broken", "CreateContainerConfigError", |pod| {
            pod.is_some_and(|pod| {
                container_of(pod, "c")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
        })
        .await?
        .ok_or("no pod")?;
    assert_eq!(container_of(&pod, "c")["state"]["waiting"]["message"], "secret \"none\" not found");
    cluster.stop().await
}

async fn row_71_volumes_of_every_kind() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .apply::<Secret>(
            json!({"metadata": {"name": "s"}, "stringData": {"user": "ada", "pass": "x"}}),
        )
        .await?;
    cluster.apply::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"conf": "1"}})).await?;
    let script = "cat /secret/user /proj/m/conf /proj/labels; echo; stat -c %a /secret/..data/pass; \
        cat /one; echo; echo shared > /mem/x; cat /mem/x; cat /sub/file; head -c 2 /var/run/secrets/kubernetes.io/serviceaccount/token; echo; \
        cat /var/run/secrets/kubernetes.io/serviceaccount/namespace";
    let host = cluster.path().join("host");
    std::fs::create_dir_all(host.join("deep"))?;
    std::fs::write(host.join("deep/file"), "below\n")?;
    cluster
        .run(
            "volumes",
            script,
            json!({"restartPolicy": "Never",
                "volumes": [
                    {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
                    {"name": "proj", "projected": {"sources": [
                        {"configMap": {"name": "m", "items": [{"key": "conf", "path": "m/conf"}]}},
                        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
                    {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                    {"name": "host", "hostPath": {"path": host, "type": "Directory"}}],
                "container": {"volumeMounts": [
                    {"name": "secret", "mountPath": "/secret", "readOnly": true},
                    {"name": "secret", "mountPath": "/one", "subPath": "pass"},
                    {"name": "proj", "mountPath": "/proj"},
                    {"name": "mem", "mountPath": "/mem"},
                    {"name": "host", "mountPath": "/sub", "subPath": "deep"}]}}),
        )
        .await?;
    cluster.until_phase("volumes", "Succeeded").await?;
    let log = cluster.logs("volumes").await?;
    assert_eq!(log, "ada1app=\"volumes\"\n400\nx\nshared\nbelow\ney\ndefault\n");
    cluster
        .run(
            "blocked",
            "true",
            json!({
        "volumes": [{"name": "v", "secret": {"secretName": "none"}}],
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}}),
        )
        .await?;
    cluster
        .until_event("blocked", "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : secret \"none\" not found")
        .await?;
    cluster
        .apply::<Secret>(json!({"metadata": {"name": "none"}, "stringData": {"k": "v"}}))
        .await?;
    cluster
        .until("blocked", "to start", |pod| {
            pod.is_some_and(|pod| container_of(pod, "c")["containerID"].is_string())
        })
        .await?;
    cluster.stop().await
}

async fn row_71_config_map_volume_follows_its_object() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.apply::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"k": "old"}})).await?;
    cluster
        .run(
            "follows",
            "while ! cat /m/k | env sh -c 'read x; test $x = new'; do sleep 0.1; done",
            json!({"restartPolicy": "Never", "volumes": [{"name": "m", "configMap": {"name": "m"}}],
                   "container": {"volumeMounts": [{"name": "m", "mountPath": "/m"}]}}),
        )
        .await?;
    cluster.until_phase("follows", "Running").await?;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let patch = json!({"data": {"k": "new\n"}});
    maps.patch("m", &PatchParams::default(), &Patch::Merge(patch)).await?;
    cluster.until_phase("follows", "Succeeded").await?;
    cluster.stop().await
}

async fn row_72_claim_survives_its_pod_and_mounts_one_file_by_sub_path() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .apply::<PersistentVolumeClaim>(json!({"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}))
        .await?;
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    cluster
        .run(
            "writer",
            "echo '{}' > /data/config.json",
            json!({"restartPolicy": "Never", "volumes": volumes,
            "container": {"volumeMounts": [{"name": "v", "mountPath": "/data"}]}}),
        )
        .await?;
    cluster.until_phase("writer", "Succeeded").await?;
    // As the kaniko tutorial mounts its credentials.
    cluster
        .run("reader", "cat /kaniko/.docker/config.json", json!({"restartPolicy": "Never", "volumes": volumes,
            "container": {"volumeMounts": [
                {"name": "v", "mountPath": "/kaniko/.docker/config.json", "subPath": "config.json"}]}}))
        .await?;
    cluster.until_phase("reader", "Succeeded").await?;
    assert_eq!(cluster.logs("reader").await?, "{}\n");
    cluster.stop().await
}

async fn row_73_identity_and_rights_of_the_process() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "who",
            "id -u; id -g; touch /x && echo writable; cat /proc/self/status | head -60 | cat > /tmp/s; \
             while read k v; do case $k in CapEff:|NoNewPrivs:|Seccomp:) echo $k $v;; esac; done < /proc/self/status",
            json!({"restartPolicy": "Never",
                "volumes": [{"name": "t", "emptyDir": {}}],
                "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000},
                "container": {"volumeMounts": [{"name": "t", "mountPath": "/tmp"}],
                    "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}}),
        )
        .await?;
    cluster.until_phase("who", "Succeeded").await?;
    let log = cluster.logs("who").await?;
    for line in ["1000", "3000", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"] {
        assert!(log.lines().any(|one| one == line), "{line} in {log}");
    }
    assert!(!log.contains("writable"));
    cluster.run("root", "true", json!({"securityContext": {"runAsNonRoot": true}})).await?;
    cluster
        .until("root", "to be refused", |pod| {
            pod.is_some_and(|pod| {
                let waiting = &container_of(pod, "c")["state"]["waiting"];
                waiting["reason"] == "CreateContainerConfigError"
                    && waiting["message"].as_str().is_some_and(|text| {
                        text.starts_with("container has runAsNonRoot and image will run as root")
                    })
            })
        })
        .await?;
    cluster.stop().await
}

async fn row_74_container_above_its_memory_limit_is_oom_killed() -> Outcome {
    let cluster = Cluster::start().await?;
    // A shell variable of 64 MiB cannot fit into 16 MiB.
    cluster
        .run(
            "greedy",
            "x=$(head -c 67108864 /dev/zero | cat -v); echo ${#x}",
            json!({"restartPolicy": "Never", "container": {"resources": {"limits": {"memory": "16Mi"}}}}),
        )
        .await?;
    let pod = cluster
        .until("greedy", "to end", |pod| {
            pod.is_some_and(|pod| container_of(pod, "c")["state"]["terminated"].is_object())
        })
        .await?
        .ok_or("no pod")?;
    let end = &container_of(&pod, "c")["state"]["terminated"];
    let degraded =
        cluster.events("greedy").await?.iter().any(|event| event.contains("DegradedIsolation"));
    // A machine that lets nobody make control groups says so in an event; there is no third case.
    assert!(
        end["reason"] == "OOMKilled" || degraded,
        "{end} {:?}",
        cluster.events("greedy").await?
    );
    if end["reason"] == "OOMKilled" {
        assert_eq!(end["exitCode"], 137);
    }
    cluster.stop().await
}

async fn program_that_is_missing_is_a_start_error() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster
        .run(
            "nothing",
            "",
            json!({"restartPolicy": "Never", "container": {"command": ["/no/such/program"]}}),
        )
        .await?;
    let pod = cluster.until_phase("nothing", "Failed").await?;
    let end = &container_of(&pod, "c")["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("StartError"), &json!(127)));
    cluster.stop().await
}
