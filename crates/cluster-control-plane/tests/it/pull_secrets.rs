//! Pull secrets and who uses them, by the commands that people type.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster_control_plane::admission::Switches;
use serde_json::json;

use crate::cluster::{Cluster, debian_kubectl, kubectls};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// `kubectl create secret docker-registry NAME`, with more arguments.
fn create<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["create", "secret", "docker-registry", name], more].concat()
}

// kubelet-images.md 15.6, H4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashed_names_of_secrets_are_the_known_ones_with_every_kubectl() {
    let cluster = Cluster::start().await;
    let credential =
        ["--append-hash", "--docker-username=test-user", "--docker-password=test-password"];
    let address = ["--docker-email=test-user@example.org"];
    for kubectl in kubectls() {
        for (more, name) in [(&address[..], "foo-548cm7fgdh"), (&[], "foo-bff5bt4f92")] {
            let arguments = create("foo", &[&credential[..], more].concat());
            let made = cluster.run(&kubectl, &arguments, "").await;
            assert_eq!(made.stdout, format!("secret/{name} created\n"), "{made:?}");
            cluster.kubectl(&["delete", "secret", name], "").await;
        }
    }
}

// kubelet-images.md 15.8, S6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_needs_a_user_or_a_file() {
    let cluster = Cluster::start().await;
    let refused = cluster.run(Path::new("kubectl"), &create("x", &["--docker-server=r"]), "").await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains(
            "error: either --from-file or the combination of --docker-username, \
             --docker-password and --docker-server is required"
        ),
        "{refused:?}"
    );
    // kubectl 1.20 checks the flags one by one and has other words.
    let refused = cluster.run(&debian_kubectl(), &create("x", &["--docker-server=r"]), "").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(cluster.get(&format!("{SECRETS}/x")).await.status, 404);
}

// kubelet-images.md 15.8, S1, S2, S3 and S5, as a person sees them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_pull_secrets_are_checked_as_far_as_they_are_json_objects() {
    let cluster = Cluster::start().await;
    let manifest = |name: &str, content: Option<&str>| {
        let data = content.map(|content| json!({".dockerconfigjson": STANDARD.encode(content)}));
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson", "data": data.unwrap_or_else(|| json!({})),
        })
        .to_string()
    };
    let redacted = "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": ";
    let into = "into Go value of type map[string]interface {}";
    for (content, expected) in [
        (None, "data[.dockerconfigjson]: Required value".to_owned()), // S1
        (Some(""), format!("{redacted}unexpected end of JSON input")), // S2
        (Some("[]"), format!("{redacted}json: cannot unmarshal array {into}")), // S2
        (Some("\"x\""), format!("{redacted}json: cannot unmarshal string {into}")), // S2
        (Some("12"), format!("{redacted}json: cannot unmarshal number {into}")),
        (Some("true"), format!("{redacted}json: cannot unmarshal bool {into}")),
        (Some("{\"a\":1} x"), format!("{redacted}invalid character 'x' after top-level value")),
    ] {
        let applied =
            cluster.run(Path::new("kubectl"), &["apply", "-f", "-"], &manifest("x", content)).await;
        assert_eq!(applied.code, 1, "{content:?}: {applied:?}");
        let expected = format!("The Secret \"x\" is invalid: {expected}");
        assert_eq!(applied.stderr.trim(), expected, "{content:?}");
    }
    let accepted = ["null", "{}", r#"{"auths":[]}"#, r#"{"auths":{"r":{"auth":5}}}"#]; // S3
    for (index, content) in accepted.into_iter().enumerate() {
        let name = format!("accepted-{index}");
        cluster.kubectl(&["apply", "-f", "-"], &manifest(&name, Some(content))).await;
    }
    let opaque = r#"{"type":"Opaque"}"#; // S5
    let patched = ["patch", "secret", "accepted-0", "-p", opaque];
    let patched = cluster.run(Path::new("kubectl"), &patched, "").await;
    assert_eq!(
        patched.stderr.trim(),
        "The Secret \"accepted-0\" is invalid: type: Invalid value: \"Opaque\": field is immutable"
    );
}

// kubelet-images.md 5.2 and 5.3: what goes wrong before anything is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_from_files_and_broken_manifests_fail_with_the_known_texts() {
    let cluster = Cluster::start().await;
    std::fs::write(cluster.dir.path().join("config.json"), r#"{"auths":{}}"#).expect("a file");
    let from_file = create("f", &["--from-file=.dockerconfigjson=config.json"]);
    assert_eq!(cluster.kubectl(&from_file, "").await, "secret/f created\n");
    let again = cluster.run(Path::new("kubectl"), &from_file, "").await;
    assert!(again.stderr.contains("secrets \"f\" already exists"), "{again:?}");
    let empty = cluster.run(Path::new("kubectl"), &["create", "-f", "-"], "").await;
    assert!(empty.stderr.contains("no objects passed to create"), "{empty:?}");
    let nameless = cluster
        .run(Path::new("kubectl"), &["create", "secret", "docker-registry", "a", "b"], "")
        .await;
    assert!(nameless.stderr.contains("exactly one NAME is required, got 2"), "{nameless:?}");
}

// kubelet-images.md 15.8, S7, S8, S9 and S11, from the command to the pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_take_the_secrets_of_their_account_all_or_nothing() {
    let cluster = Cluster::start().await;
    let account = ["get", "sa", "default", "-o", "jsonpath={.imagePullSecrets[*].name}"];
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: \
             [{{name: c, image: i}}]\n{more}"
        )
    };
    let secrets_of = async |name: &str| {
        let path = "jsonpath={.spec.imagePullSecrets[*].name}";
        cluster.kubectl(&["get", "pod", name, "-o", path], "").await
    };
    let patch = r#"{"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}"#;
    cluster.kubectl(&["patch", "sa", "default", "-p", patch], "").await;
    assert_eq!(cluster.kubectl(&account, "").await, "a b");
    cluster.kubectl(&["apply", "-f", "-"], &pod("none", "")).await;
    assert_eq!(secrets_of("none").await, "a b", "S7");
    let own = "  imagePullSecrets: [{name: c}]\n";
    cluster.kubectl(&["apply", "-f", "-"], &pod("own", own)).await;
    assert_eq!(secrets_of("own").await, "c", "S8");
    for kubectl in kubectls() {
        cluster.kubectl(&["patch", "sa", "default", "-p", patch], "").await;
        let one = r#"{"imagePullSecrets": [{"name": "d"}]}"#;
        cluster.run(&kubectl, &["patch", "sa", "default", "-p", one], "").await;
        assert_eq!(cluster.kubectl(&account, "").await, "d", "S11: {}", kubectl.display());
    }
    assert_eq!(secrets_of("none").await, "a b", "a pod keeps what it was made with");
    let lost = pod("lost", "  serviceAccountName: nobody\n");
    let refused = cluster.run(Path::new("kubectl"), &["apply", "-f", "-"], &lost).await;
    assert!(
        refused.stderr.contains(
            "pods \"lost\" is forbidden: error looking up service account default/nobody: \
             serviceaccount \"nobody\" not found"
        ),
        "S9: {refused:?}"
    );
}

// kubelet-images.md 5.1 and 14, pain 4: what kubectl prints when a secret will open nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_are_warned_of_pull_secrets_that_open_nothing() {
    let switches = Switches { pull_secret_warnings: true, ..Switches::default() };
    let cluster = Cluster::with_switches(switches).await;
    cluster.kubectl(&["create", "secret", "generic", "opaque", "--from-literal=a=b"], "").await;
    let good = ["--docker-server=r", "--docker-username=u", "--docker-password=p"];
    cluster.kubectl(&create("good", &good), "").await;
    let names = "[{name: good}, {name: opaque}, {name: nobody}, {name: good}]";
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers: [{{name: c, image: \
         i}}]\n  imagePullSecrets: {names}\n"
    );
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  replicas: 0\n  \
         selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    \
         spec:\n      containers: [{{name: c, image: i}}]\n      imagePullSecrets: {names}\n"
    );
    for (manifest, path) in
        [(pod, "spec.imagePullSecrets"), (deployment, "spec.template.spec.imagePullSecrets")]
    {
        let applied = cluster.run(Path::new("kubectl"), &["apply", "-f", "-"], &manifest).await;
        assert_eq!(applied.code, 0, "{applied:?}");
        for warning in [
            format!("Warning: {path}[3].name: duplicate name \"good\"\n"),
            format!(
                "Warning: {path}[1].name: secret \"opaque\" is of type \"Opaque\" and opens no"
            ),
            format!("Warning: {path}[2].name: secret \"nobody\" is not in namespace \"default\";"),
        ] {
            assert!(applied.stderr.contains(&warning), "{warning}\n{applied:?}");
        }
        assert!(!applied.stderr.contains("\"good\" is"), "{applied:?}");
    }
    let labelled = ["label", "pod", "p", "a=b"];
    let labelled = cluster.run(Path::new("kubectl"), &labelled, "").await;
    assert_eq!(labelled.stderr, "", "a change that is not about them says nothing");
}
