//! The commands of the tutorials, with every kubectl of the machine.

use std::path::Path;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::cluster::{Cluster, debian_kubectl, kubectls};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
---
apiVersion: v1
kind: Pod
metadata: {name: private-image-test-1, labels: {app: web}}
spec:
  containers:
  - name: uses-private-image
    image: registry.example/app:1
    imagePullPolicy: Always
    command: ["echo", "SUCCESS"]
---
apiVersion: batch/v1
kind: Job
metadata: {name: build}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: build, image: "registry.example/builder:1"}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, image: "registry.example/app:1"}]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_twice_change_and_delete_work_with_every_kubectl() {
    let cluster = Cluster::start().await;
    for kubectl in kubectls() {
        let run = async |arguments: &[&str], input: &str| {
            let output = cluster.run(&kubectl, arguments, input).await;
            assert_eq!(output.code, 0, "{} {arguments:?}: {output:?}", kubectl.display());
            output.stdout
        };
        let created = run(&["apply", "-f", "-"], MANIFESTS).await;
        assert!(created.contains("deployment.apps/web created"), "{created}");
        let again = run(&["apply", "-f", "-"], MANIFESTS).await;
        assert_eq!(again.matches("unchanged").count(), 4, "{again}");
        let changed = MANIFESTS.replace("{a: b}", "{a: c}");
        let changed = run(&["apply", "-f", "-"], &changed).await;
        assert!(changed.contains("configmap/settings configured"), "{changed}");
        assert_eq!(run(&["get", "cm", "settings", "-o", "jsonpath={.data.a}"], "").await, "c");
        let table = run(&["get", "pods,jobs,deploy", "-o", "wide"], "").await;
        assert!(table.contains("pod/private-image-test-1"), "{table}");
        assert!(table.contains("READINESS GATES"), "{table}");
        run(&["label", "pod", "private-image-test-1", "tier=x"], "").await;
        run(&["annotate", "pod", "private-image-test-1", "note=x"], "").await;
        let picked = run(&["get", "pods", "-l", "tier=x", "-o", "name"], "").await;
        assert_eq!(picked.trim(), "pod/private-image-test-1");
        let described = run(&["describe", "pod", "private-image-test-1"], "").await;
        assert!(described.contains("uses-private-image:"), "{described}");
        run(&["delete", "--grace-period=0", "--force", "-f", "-"], MANIFESTS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_secrets_are_made_read_back_and_refused_twice() {
    let cluster = Cluster::start().await;
    for kubectl in [Path::new("kubectl").to_owned(), debian_kubectl()] {
        let create = [
            "create",
            "secret",
            "docker-registry",
            "regcred",
            "--docker-server=registry.example",
            "--docker-username=tom",
            "--docker-password=s3cret",
            "--docker-email=tom@example.test",
        ];
        let made = cluster.run(&kubectl, &create, "").await;
        assert_eq!(made.stdout, "secret/regcred created\n", "{made:?}");
        let twice = cluster.run(&kubectl, &create, "").await;
        assert_eq!(twice.code, 1);
        assert!(twice.stderr.contains("secrets \"regcred\" already exists"), "{twice:?}");
        let encoded = cluster
            .run(
                &kubectl,
                &["get", "secret", "regcred", "-o", "jsonpath={.data.\\.dockerconfigjson}"],
                "",
            )
            .await;
        let decoded = {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(&encoded.stdout).expect("base64")
        };
        let config: serde_json::Value = serde_json::from_slice(&decoded).expect("json");
        assert_eq!(config["auths"]["registry.example"]["username"], "tom");
        let yaml = cluster.run(&kubectl, &["get", "secret", "regcred", "-o=yaml"], "").await;
        assert!(yaml.stdout.contains("type: kubernetes.io/dockerconfigjson"), "{yaml:?}");
        let table = cluster.run(&kubectl, &["get", "secret", "regcred"], "").await;
        assert!(table.stdout.contains("kubernetes.io/dockerconfigjson   1 "), "{table:?}");
        cluster.run(&kubectl, &["delete", "secret", "regcred"], "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_account_is_patched_and_edited() {
    let cluster = Cluster::start().await;
    let patch = r#"{"imagePullSecrets": [{"name": "myregistrykey"}]}"#;
    let patched = cluster.kubectl(&["patch", "serviceaccount", "default", "-p", patch], "").await;
    assert_eq!(patched, "serviceaccount/default patched\n");
    let secrets = ["get", "sa", "default", "-o", "jsonpath={.imagePullSecrets[*].name}"];
    assert_eq!(cluster.kubectl(&secrets, "").await, "myregistrykey");

    let editor = cluster.dir.path().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nsed -i s/myregistrykey/other/ \"$1\"\n").expect("script");
    let mut permissions = std::fs::metadata(&editor).expect("script").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&editor, permissions).expect("script");
    let output = tokio::process::Command::new("kubectl")
        .args(["edit", "sa", "default"])
        .env("KUBECONFIG", &cluster.running.kubeconfig)
        .env("HOME", cluster.dir.path())
        .env("EDITOR", &editor)
        .output()
        .await
        .expect("kubectl");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cluster.kubectl(&secrets, "").await, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kustomization_is_applied_with_a_generated_secret() {
    let cluster = Cluster::start().await;
    let dir = cluster.dir.path().join("kustom");
    std::fs::create_dir(&dir).expect("dir");
    let files = [
        (
            "kustomization.yaml",
            "secretGenerator:\n- name: regcred\n  type: kubernetes.io/dockerconfigjson\n  files: [.dockerconfigjson=config.json]\nresources: [pod.yaml]\n",
        ),
        ("config.json", "{\"auths\":{}}"),
        (
            "pod.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: foo}\nspec:\n  containers: [{name: foo, image: janedoe/awesomeapp:v1}]\n  imagePullSecrets: [{name: regcred}]\n",
        ),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("file");
    }
    for kubectl in [Path::new("kubectl").to_owned(), debian_kubectl()] {
        let applied = cluster.run(&kubectl, &["apply", "-k", "kustom"], "").await;
        assert_eq!(applied.code, 0, "{applied:?}");
        let name = ["get", "pod", "foo", "-o", "jsonpath={.spec.imagePullSecrets[0].name}"];
        let name = cluster.kubectl(&name, "").await;
        assert!(name.starts_with("regcred-"), "{name}");
        cluster.kubectl(&["get", "secret", &name], "").await;
        // The next kubectl may hash the secret's name differently, and a pod cannot follow.
        cluster.kubectl(&["delete", "pod", "foo", "--now"], "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_create_subcommand_sends_a_body_the_server_reads() {
    let cluster = Cluster::start().await;
    let rows: [&[&str]; 9] = [
        &["create", "namespace", "tom"],
        &["create", "configmap", "c", "--from-literal=a=b"],
        &["create", "secret", "generic", "s", "--from-literal=a=b"],
        &["create", "serviceaccount", "builder"],
        &["create", "job", "j", "--image=busybox", "--", "true"],
        &["create", "deployment", "d", "--image=busybox", "--replicas=0"],
        &["create", "token", "builder"],
        &["auth", "can-i", "create", "pods"],
        &["run", "p", "--image=busybox", "--restart=Never"],
    ];
    for kubectl in [Path::new("kubectl").to_owned(), debian_kubectl()] {
        for arguments in rows {
            if arguments[1] == "token" && kubectl == debian_kubectl() {
                // kubectl 1.20 has no such command.
                continue;
            }
            let output = cluster.run(&kubectl, arguments, "").await;
            assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
        }
        let delete = [
            "delete",
            "--wait=false",
            "configmap/c",
            "secret/s",
            "serviceaccount/builder",
            "job/j",
            "deployment/d",
            "pod/p",
        ];
        let output = cluster.run(&kubectl, &delete, "").await;
        assert_eq!(output.code, 0, "{output:?}");
        cluster.kubectl(&["delete", "namespace", "tom"], "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_returns_when_the_condition_comes() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "job", "j", "--image=busybox", "--", "true"], "").await;
    // With -v=6 kubectl tells of each answer that it gets.
    let wait = ["wait", "--for=jsonpath={.status.failed}=3", "job/j", "--timeout=60s", "-v=6"];
    let mut waiting = cluster.spawn(Path::new("kubectl"), &wait);
    let mut told = BufReader::new(waiting.stderr.take().expect("piped")).lines();
    loop {
        let line = told.next_line().await.expect("readable").expect("it watches before it ends");
        if line.contains("watch=true") && line.contains("200 OK") {
            break;
        }
    }
    let path = "/apis/batch/v1/namespaces/default/jobs/j/status";
    let answer = cluster.send("PATCH", path, &json!({"status": {"failed": 3}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    while told.next_line().await.expect("readable").is_some() {}
    let output = waiting.wait_with_output().await.expect("kubectl ends");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("condition met"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_read_as_the_tutorials_print_them() {
    let cluster = Cluster::start().await;
    let rows = [
        (vec!["get", "pods", "nope"], "Error from server (NotFound): pods \"nope\" not found"),
        (vec!["get", "nope"], "error: the server doesn't have a resource type \"nope\""),
        (
            vec!["logs", "nope"],
            "error: error from server (NotFound): pods \"nope\" not found in namespace \"default\"",
        ),
        (vec!["get", "pods", "-l", "a in b"], "unable to parse requirement: "),
        (vec!["get", "pods", "--field-selector=spec.x=y"], "field label not supported: spec.x"),
        (vec!["delete", "namespace", "default"], "this namespace may not be deleted"),
    ];
    for (arguments, expected) in rows {
        let output = cluster.run(Path::new("kubectl"), &arguments, "").await;
        assert_eq!(output.code, 1, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(expected), "{arguments:?}: {output:?}");
    }
    let empty = cluster.run(Path::new("kubectl"), &["get", "pods"], "").await;
    assert_eq!(empty.stderr.trim(), "No resources found in default namespace.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_fields_and_their_types() {
    let cluster = Cluster::start().await;
    let shown = cluster.kubectl(&["explain", "pod.spec.containers"], "").await;
    assert!(shown.contains("FIELD: containers <[]Container>"), "{shown}");
    assert!(shown.contains("imagePullPolicy\t<string>"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_takes_over_from_client_side_apply() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["apply", "-f", "-"], MANIFESTS).await;
    let output =
        cluster.run(Path::new("kubectl"), &["apply", "--server-side", "-f", "-"], MANIFESTS).await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    let changed = MANIFESTS.replace("{a: b}", "{other: c}");
    cluster.kubectl(&["apply", "--server-side", "-f", "-"], &changed).await;
    let data = cluster.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data}"], "").await;
    assert_eq!(data, r#"{"other":"c"}"#);
}
