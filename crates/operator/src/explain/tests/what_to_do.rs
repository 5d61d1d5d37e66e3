//! What is advised does mend it, in the order that mends it first.

use super::*;

fn code_and_fix(found: &ImageReport) -> (&str, &str, &str) {
    let cause = found.cause.as_ref().expect("a cause");
    (&cause.code, &cause.fix, cause.command.as_deref().unwrap_or_default())
}

fn account() -> Value {
    json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "s"}, {"name": "t"}]})
}

fn world(user: &'static str, s: Value) -> World {
    let t = docker("t", &config("other.example", "jane"));
    let cluster = FakeCluster { secrets: vec![s, t], account: account(), ..FakeCluster::default() };
    let registry = FakeRegistry { opens_to: vec![user], refusal: None };
    World { registry, cluster, ..World::default() }
}

/// kubelet-images.md 15.8: a pod has the secrets that its account had when it was made.
#[test]
fn a_pod_is_not_made_again_for_a_secret_that_would_not_open_the_image() {
    let good = || docker("s", &config(REGISTRY, "jane"));
    let explain = |world: &World| world.explain(&pod(&image(), &[]), Source::Cluster);
    let found = explain(&world("jane", good()));
    assert_eq!(code_and_fix(&found).0, "account-attached-later");
    assert!(code_and_fix(&found).1.starts_with("make the pod again"), "{found:#?}");
    let opaque = secret_with("team", "s", "Opaque", ".dockerconfigjson", "{}");
    for (world, expected) in [
        (world("john", good()), "wrong-credential"),
        (world("jane", opaque), "secret-wrong-type"),
        (
            world("jane", docker("s", "{\"auths\":{\"o\":{\"auth\":\"pants\"}}}")),
            "pull-secret-malformed",
        ),
    ] {
        let found = explain(&world);
        let (code, fix, _) = code_and_fix(&found);
        assert_eq!((code, found.verdict), (expected, Verdict::Fails));
        assert!(fix.ends_with("; then make the pod again"), "{fix}");
    }
    // What cannot be known does not change the advice.
    let silent = World { no_probe: true, ..world("john", good()) };
    assert_eq!(code_and_fix(&explain(&silent)).0, "account-attached-later");
}

/// kubelet-images.md 15.8, S11: the list of the account is written as a whole.
#[test]
fn an_account_hands_out_the_secret_of_the_right_type_instead() {
    let opaque = || {
        let text = config(REGISTRY, "jane");
        secret_with("team", "s", "Opaque", ".dockerconfigjson", &text)
    };
    let list = r#"kubectl patch serviceaccount default -n team --type=merge -p '{"imagePullSecrets":[{"name":"s-registry"},{"name":"t"}]}'"#;
    let inherited = world("jane", opaque()).explain(&pod(&image(), &[]), file());
    let copied = world("jane", opaque()).explain(&pod(&image(), &["s", "t"]), Source::Cluster);
    let own = world("jane", opaque()).explain(&pod(&image(), &["s"]), file());
    for found in [&inherited, &copied] {
        let (code, fix, command) = code_and_fix(found);
        assert_eq!(code, "secret-wrong-type");
        assert!(command.ends_with(list), "{command}");
        assert!(fix.contains("let the service account default hand it"), "{fix}");
    }
    assert!(!code_and_fix(&own).2.contains("patch"), "{own:#?}");
    assert!(code_and_fix(&own).1.contains("name it instead of s "), "{own:#?}");
}

#[test]
fn an_image_alone_is_explained_with_the_file_that_a_login_writes() {
    let subject = Subject::of_image(&image(), "team");
    let report = World::of(vec![subject], &World::default());
    let command = code_and_fix(&report.subjects[0].images[0]).2;
    let expected = "shipway login --keep-password r.example:5000 && shipway explain --image \
                    r.example:5000/team/app:v1 --secret \"${DOCKER_CONFIG:-$HOME/.docker}/config.json\"";
    assert_eq!(command, expected);
}

/// kubelet-images.md 15.7, P4.
#[test]
fn an_image_that_is_never_pulled_is_brought_with_a_credential_if_it_needs_one() {
    let mut never = pod(&image(), &[]);
    never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    let opening = |user: &'static str| World {
        registry: FakeRegistry { opens_to: vec![user], refusal: None },
        ..World::default()
    };
    let found = opening("").explain(&never, file());
    assert_eq!(code_and_fix(&found).2, "shipway node pull r.example:5000/team/app:v1");
    let found = opening("jane").explain(&never, file());
    let (_, fix, command) = code_and_fix(&found);
    assert!(fix.contains("--creds-file FILE"), "{fix}");
    assert!(command.contains("v1 --username \"$U\" --password-stdin"), "{command}");
    assert_eq!(
        found.next.waiting.map(|waiting| waiting.reason).as_deref(),
        Some("ErrImageNeverPull")
    );
    // One that runs has it, and goes on.
    never["status"] = json!({"containerStatuses": [{
        "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {}},
    }]});
    let found = opening("jane").explain(&never, Source::Cluster);
    assert_eq!((found.verdict, found.next.waiting), (Verdict::Unknown, None));
    assert_eq!(found.next.provided, ["the node still has the image"]);
    assert!(found.cause.expect("a cause").text.contains("it has started with this image"));
}

#[test]
fn who_looked_into_no_cluster_is_told_to_bring_the_secret() {
    let subject = Subject::of_object(&pod(&image(), &["s"]), "team", file()).expect("a subject");
    let inputs = Inputs {
        documents: &Documents::default(),
        secrets: &[],
        cluster: &NoCluster { why: "no cluster was asked (--no-cluster)".to_owned() },
        registry: Some(&FakeRegistry::default()),
        node: &known(Vec::new(), Vec::new()),
        platform: Platform::linux("amd64"),
        now: NOW,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(explain(&[subject], &inputs));
    let (code, fix, command) = code_and_fix(&report.subjects[0].images[0]);
    assert_eq!((code, command), ("secrets-unreadable", ""));
    assert!(fix.contains("--secret FILE") && fix.contains("without --no-cluster"), "{fix}");
}

#[test]
fn a_registry_of_this_machine_is_asked_without_tls() {
    for (image, expected) in [
        ("127.0.0.1:5000/a:1", "http://127.0.0.1:5000/v2/"),
        ("localhost:5000/a:1", "http://localhost:5000/v2/"),
        ("[::1]:5000/a:1", "'http://[::1]:5000/v2/'"),
        ("r.example:5000/a:1", "https://r.example:5000/v2/"),
        ("127.example/a:1", "https://127.example/v2/"),
    ] {
        let refusal = Some(AnswerKind::ConnectionRefused);
        let registry = FakeRegistry { opens_to: Vec::new(), refusal };
        let found = World { registry, ..World::default() }.explain(&pod(image, &[]), file());
        let command = code_and_fix(&found).2;
        assert!(command.ends_with(&format!(" {expected}")), "{command}");
    }
}

/// A node remembers what its files held, for five minutes unless it is told otherwise.
#[test]
fn a_file_of_the_node_may_be_newer_than_what_the_node_knows() {
    let node_file = NodeFile {
        path: "/root/.docker/config.json".to_owned(),
        kind: NodeFileKind::ConfigJson,
        bytes: config(REGISTRY, "node").into_bytes(),
    };
    let provided = |secrets: &[&str], state: Value| {
        let node = Some(known(vec![node_file.clone()], Vec::new()));
        let mut pod = pod(&image(), secrets);
        pod["status"] = json!({"containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": state,
        }]});
        let registry = FakeRegistry { opens_to: vec!["node", "jane"], refusal: None };
        let world =
            World { node, registry, ..world("jane", docker("s", &config(REGISTRY, "jane"))) };
        let found = world.explain(&pod, Source::Cluster);
        found.next.provided.iter().any(|text| text.contains("reads its files every 5m"))
    };
    let waiting = || json!({"waiting": {"reason": "ImagePullBackOff"}});
    assert!(provided(&["t"], waiting()));
    assert!(!provided(&["s"], waiting()), "the secret opens it first");
    assert!(!provided(&["t"], json!({"running": {}})));
}

#[test]
fn a_node_whose_providers_cannot_be_read_is_explained_without_them() {
    let why = "prov.yaml: line 1 column 12: unclosed bracket".to_owned();
    let (files, providers, clouds, mirrors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let providers_unread = Some(why.clone());
    let is_shipway = true;
    let node = NodeSide::Known { files, providers, providers_unread, clouds, mirrors, is_shipway };
    let world = World { node: Some(node), ..World::default() };
    let subject = Subject::of_object(&pod(&image(), &[]), "team", file()).expect("a subject");
    let report = World::of(vec![subject], &world);
    assert_eq!(report.verdict, Verdict::Unknown);
    let subject = &report.subjects[0];
    assert_eq!(subject.remarks[0].code, "node.providers-unread");
    assert!(subject.remarks[0].text.ends_with(&why), "{}", subject.remarks[0].text);
    let cause = subject.images[0].cause.as_ref().expect("a cause");
    assert_eq!(cause.code, "no-credential");
    assert!(cause.text.ends_with(&why), "{}", cause.text);
}
