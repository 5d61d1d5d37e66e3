//! Image volumes in real pods (kubelet-images.md 2.8).

use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::fixture::{BUSYBOX, Cluster, container_of};
use crate::private_registry::PrivateRegistry;
use crate::{Outcome, tests};

tests![
    image_volume_is_read_and_nothing_else,
    row_p18_failed_volume_holds_back_only_those_who_mount_it,
    private_image_volume_needs_the_pods_secret,
    volume_stands_for_one_image_as_long_as_the_pod_lives,
    path_that_the_image_lacks_is_told,
];

/// The image of the volumes: two layers.
const DATA: &str = "docker.io/library/data:1";

fn waiting(pod: Option<&Pod>, container: &str) -> String {
    let status = pod.map(|pod| container_of(pod, container)).unwrap_or_default();
    status["state"]["waiting"]["reason"].as_str().unwrap_or_default().to_owned()
}

fn volume(reference: &str) -> Value {
    json!([{"name": "v", "image": {"reference": reference}}])
}

async fn image_volume_is_read_and_nothing_else() -> Outcome {
    let cluster = Cluster::start().await?;
    cluster.put_image(DATA, &[&[("dir/model", "weights\n")], &[("dir/card", "a model\n")]])?;
    let script = "cat /v/dir/model /card /tools/etc/passwd | head -n 3; ls /part/data; \
        touch /v/f 2>/dev/null || echo read-only; \
        /tools/bin/busybox true 2>/dev/null || echo no execution";
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "image": {"reference": DATA}},
            {"name": "tools", "image": {"reference": BUSYBOX, "pullPolicy": "Never"}}],
        "container": {
            "env": [{"name": "PART", "value": "dir"}],
            "volumeMounts": [
                {"name": "v", "mountPath": "/v"},
                {"name": "v", "mountPath": "/card", "subPath": "dir/card"},
                {"name": "v", "mountPath": "/part/data", "subPathExpr": "$(PART)"},
                {"name": "tools", "mountPath": "/tools"}],
        },
    });
    cluster.run("reads", script, spec).await?;
    cluster.until_phase("reads", "Succeeded").await?;
    let expected = "weights\na model\nroot:x:0:0:root:/root:/bin/sh\ncard\nmodel\nread-only\n\
        no execution\n";
    assert_eq!(cluster.logs("reads").await?, expected);
    cluster.stop().await
}

/// kubelet-images.md 15.7, P18.
async fn row_p18_failed_volume_holds_back_only_those_who_mount_it() -> Outcome {
    let cluster = Cluster::start().await?;
    // Port 1 of loopback: nobody listens there.
    let image = "127.0.0.1:1/none:1";
    let spec = json!({
        "volumes": volume(image),
        "container": {"name": "c1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        "others": [{"name": "c2", "image": BUSYBOX, "command": ["sleep", "1000"]}],
    });
    cluster.run("half", "true", spec).await?;
    let pod = cluster
        .until("half", "c1 to back off and c2 to run", |pod| {
            let running = pod.map(|pod| container_of(pod, "c2")["state"]["running"].clone());
            waiting(pod, "c1") == "ImagePullBackOff"
                && running.is_some_and(|state| !state.is_null())
        })
        .await?
        .ok_or("no pod")?;
    let message = container_of(&pod, "c1")["state"]["waiting"]["message"].clone();
    let message = message.as_str().unwrap_or_default();
    let begin = format!("Back-off pulling image \"{image}\": ErrImagePull: ");
    assert!(message.starts_with(&begin), "{message}");
    cluster.until_event("half", "Warning Failed Error: ImagePullBackOff").await?;
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let events = api.list(&ListParams::default().fields("involvedObject.name=half")).await?;
    let place = |reason: &str, begin: &str| {
        let found = events.iter().find(|event| {
            event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|text| text.starts_with(begin))
        });
        found.map(|event| event.involved_object.field_path.clone().unwrap_or_default())
    };
    for (reason, begin, expected) in [
        ("Pulling", "Pulling image \"127.0.0.1:1/none:1\"", ""),
        ("Failed", "Failed to pull image \"127.0.0.1:1/none:1\": ", ""),
        ("BackOff", "Back-off pulling image \"127.0.0.1:1/none:1\"", ""),
        ("Failed", "Error: ErrImagePull", "spec.containers{c1}"),
        ("Failed", "Error: ImagePullBackOff", "spec.containers{c1}"),
        ("Started", "", "spec.containers{c2}"),
    ] {
        assert_eq!(place(reason, begin).as_deref(), Some(expected), "{reason} {begin}");
    }
    cluster.stop().await
}

async fn private_image_volume_needs_the_pods_secret() -> Outcome {
    let cluster = Cluster::start().await?;
    let registry = PrivateRegistry::start(&cluster).await?;
    let spec = |secrets: Value| {
        json!({
            "restartPolicy": "Never",
            "imagePullSecrets": secrets,
            "volumes": volume(&registry.image()),
            "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
        })
    };
    cluster.apply::<Secret>(registry.secret("regcred", "right")).await?;
    let read = "head -n 1 /v/etc/passwd";
    cluster.run("owner", read, spec(json!([{"name": "regcred"}]))).await?;
    cluster.until_phase("owner", "Succeeded").await?;
    assert_eq!(cluster.logs("owner").await?, "root:x:0:0:root:/root:/bin/sh\n");
    // The image is on the node now, and still not for everybody (KEP-2535).
    cluster.run("other", read, spec(json!([]))).await?;
    cluster
        .until("other", "to be refused", |pod| {
            ["ErrImagePull", "ImagePullBackOff"].contains(&waiting(pod, "c").as_str())
        })
        .await?;
    // A secret that comes later ends the wait, as for images of containers.
    cluster.run("late", read, spec(json!([{"name": "later"}]))).await?;
    cluster.until("late", "to back off", |pod| waiting(pod, "c") == "ImagePullBackOff").await?;
    cluster.apply::<Secret>(registry.secret("later", "right")).await?;
    cluster.until_phase("late", "Succeeded").await?;
    cluster.stop().await
}

/// A moved tag changes neither the containers that start later nor what a restarted node mounts.
async fn volume_stands_for_one_image_as_long_as_the_pod_lives() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.put_image(DATA, &[&[("version", "one\n")]])?;
    let flag = cluster.path().join("flag");
    std::fs::create_dir(&flag)?;
    let mounts = json!([{"name": "v", "mountPath": "/v"}, {"name": "flag", "mountPath": "/flag"}]);
    let wait = "cat /v/version; until [ -e /flag/go ]; do sleep 0.1; done";
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "image": {"reference": DATA}},
            {"name": "flag", "hostPath": {"path": flag}}],
        "initContainers": [{"name": "first", "image": BUSYBOX, "command": ["sh", "-c", wait],
            "volumeMounts": mounts}],
        "container": {"volumeMounts": mounts},
    });
    cluster.run("stays", "cat /v/version", spec.clone()).await?;
    cluster
        .until("stays", "its first container to run", |pod| {
            pod.is_some_and(|pod| container_of(pod, "first")["state"]["running"].is_object())
        })
        .await?;
    cluster.put_image(DATA, &[&[("version", "two\n")]])?;
    cluster.stop_node().await;
    cluster.start_node().await?;
    std::fs::write(flag.join("go"), "")?;
    cluster.until_phase("stays", "Succeeded").await?;
    assert_eq!(cluster.logs("stays").await?, "one\n");
    cluster.run("new", "cat /v/version", spec).await?;
    cluster.until_phase("new", "Succeeded").await?;
    assert_eq!(cluster.logs("new").await?, "two\n");
    cluster.stop().await
}

async fn path_that_the_image_lacks_is_told() -> Outcome {
    let cluster = Cluster::start().await?;
    let spec = json!({
        "volumes": volume(BUSYBOX),
        "container": {"volumeMounts":
            [{"name": "v", "mountPath": "/v", "subPath": "no/such/path"}]},
    });
    cluster.run("lacks", "true", spec).await?;
    let pod = cluster
        .until("lacks", "CreateContainerError", |pod| waiting(pod, "c") == "CreateContainerError")
        .await?
        .ok_or("no pod")?;
    let message = container_of(&pod, "c")["state"]["waiting"]["message"].clone();
    let message = message.as_str().unwrap_or_default();
    assert!(message.starts_with("ImageVolumeMountFailed: "), "{message}");
    assert!(message.contains("no/such/path"), "{message}");
    cluster.stop().await
}
