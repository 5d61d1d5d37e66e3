//! Rows of causes, each with the objects that have it and what the registry says.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use credentials::cloud::CloudProvider;
use credentials::{NodeFileKind, RegistryAuth};
use k8s_openapi::api::core::v1::{Event, Secret, ServiceAccount};
use oci_model::{Platform, Reference};
use serde_json::{Value, json};

use super::*;

mod live_pods;
mod what_to_do;

const REGISTRY: &str = "r.example:5000";
const PASSWORD: &str = "canary-password-4711";
const NOW: i64 = 1_800_000_000;

/// Says 401 to everybody but those it lets in.
#[derive(Default)]
struct FakeRegistry {
    /// Users that it opens the image to; empty is everybody without a credential.
    opens_to: Vec<&'static str>,
    /// What it says to the others; 401 if nothing else is said.
    refusal: Option<AnswerKind>,
}

impl Registry for FakeRegistry {
    async fn ask(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        _: &Platform,
        _: Question,
    ) -> Answer {
        let user = auth.and_then(RegistryAuth::username).unwrap_or_default();
        let may = match auth {
            None => self.opens_to.contains(&""),
            Some(_) => !user.is_empty() && self.opens_to.contains(&user),
        };
        if may {
            return Answer::opens(None);
        }
        let kind = self.refusal.clone().unwrap_or(AnswerKind::Unauthorized);
        let text = format!("{reference}: {}", kind.word());
        Answer { kind, text, rate_limit: None }
    }
}

/// A cluster of JSON objects.
#[derive(Default)]
struct FakeCluster {
    secrets: Vec<Value>,
    account: Value,
    events: Vec<Value>,
    forbidden: bool,
    no_namespace: bool,
    nodes: Vec<NodeImages>,
    /// The one node that may be read where nothing else may.
    readable_node: Option<&'static str>,
}

fn as_typed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("an object of its type")
}

impl Cluster for FakeCluster {
    async fn secret(&self, namespace: &str, name: &str) -> Known<Secret> {
        if self.forbidden {
            return Known::Unknown { why: "no right to read secrets".to_owned() };
        }
        let is_it =
            |s: &&Value| s["metadata"]["namespace"] == namespace && s["metadata"]["name"] == name;
        self.secrets.iter().find(is_it).map_or(Known::Absent, |s| Known::Is(as_typed(s)))
    }

    async fn namespaces_with_secret(&self, name: &str) -> Known<Vec<String>> {
        let found = self.secrets.iter().filter(|secret| secret["metadata"]["name"] == name);
        let namespace = |s: &Value| s["metadata"]["namespace"].as_str().map(str::to_owned);
        Known::Is(found.filter_map(namespace).collect())
    }

    async fn service_account(&self, _: &str, _: &str) -> Known<ServiceAccount> {
        match &self.account {
            Value::Null => Known::Is(ServiceAccount::default()),
            Value::Bool(_) => Known::Absent,
            account => Known::Is(as_typed(account)),
        }
    }

    async fn namespace(&self, _: &str) -> Known<()> {
        if self.no_namespace { Known::Absent } else { Known::Is(()) }
    }

    async fn node_images(&self, node: Option<&str>) -> Known<Vec<NodeImages>> {
        if self.forbidden && self.readable_node.is_none_or(|readable| node != Some(readable)) {
            return Known::Unknown { why: "no right to read nodes".to_owned() };
        }
        let all = self.nodes.iter();
        Known::Is(all.filter(|known| node.is_none_or(|node| node == known.node)).cloned().collect())
    }

    async fn events(&self, _: &str, _: &str) -> Known<Vec<Event>> {
        Known::Is(self.events.iter().map(as_typed).collect())
    }
}

/// What one test says about the world.
#[derive(Default)]
struct World {
    registry: FakeRegistry,
    cluster: FakeCluster,
    node: Option<NodeSide>,
    no_probe: bool,
}

impl World {
    fn of(subjects: Vec<Subject>, world: &World) -> Report {
        let documents = Documents::default();
        let node = world.node.clone().unwrap_or_else(|| known(Vec::new(), Vec::new()));
        let inputs = Inputs {
            documents: &documents,
            secrets: &[],
            cluster: &world.cluster,
            registry: (!world.no_probe).then_some(&world.registry),
            node: &node,
            platform: Platform::linux("amd64"),
            now: NOW,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(explain(&subjects, &inputs))
    }

    fn explain(&self, pod: &Value, source: Source) -> ImageReport {
        let subject = Subject::of_object(pod, "team", source).expect("a subject");
        let report = Self::of(vec![subject], self);
        let shown = serde_json::to_string(&report).expect("JSON") + &text(&report, Colour::Off);
        assert!(!shown.contains("canary"), "{shown}");
        report.subjects[0].images[0].clone()
    }
}

fn known(files: Vec<NodeFile>, providers: Vec<Provider>) -> NodeSide {
    known_with(files, providers, Vec::new(), false)
}

fn known_with(
    files: Vec<NodeFile>,
    providers: Vec<Provider>,
    clouds: Vec<CloudProvider>,
    is_shipway: bool,
) -> NodeSide {
    let mirrors = Vec::new();
    NodeSide::Known { files, providers, providers_unread: None, clouds, mirrors, is_shipway }
}

fn pod(image: &str, secrets: &[&str]) -> Value {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "team"},
        "spec": {"containers": [{"name": "app", "image": image}], "imagePullSecrets": secrets},
    })
}

fn secret_with(namespace: &str, name: &str, kind: &str, key: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"name": name, "namespace": namespace, "uid": "u"},
        "data": {key: STANDARD.encode(text)},
    })
}

fn docker(name: &str, text: &str) -> Value {
    secret_with("team", name, "kubernetes.io/dockerconfigjson", ".dockerconfigjson", text)
}

fn config(key: &str, user: &str) -> String {
    let auth = STANDARD.encode(format!("{user}:{PASSWORD}"));
    json!({"auths": {key: {"auth": auth}}}).to_string()
}

fn file() -> Source {
    Source::File { path: "pod.yaml".to_owned() }
}

fn image() -> String {
    format!("{REGISTRY}/team/app:v1")
}

/// Pull secrets by name: what the pod names, what exists, and the cause.
#[track_caller]
fn check(named: &[&str], secrets: Vec<Value>, opens_to: &[&'static str], expected: &str) {
    let world = World {
        registry: FakeRegistry { opens_to: opens_to.to_vec(), refusal: None },
        cluster: FakeCluster { secrets, ..FakeCluster::default() },
        ..World::default()
    };
    let found = world.explain(&pod(&image(), named), file());
    let code = found.cause.as_ref().map_or("pulls", |cause| cause.code.as_str());
    assert_eq!(code, expected, "{found:#?}");
    assert_eq!(found.verdict == Verdict::Pulls, expected == "pulls", "{found:#?}");
}

#[test]
fn each_mistake_with_a_pull_secret_has_its_cause() {
    let ok = || docker("s", &config(REGISTRY, "jane"));
    check(&["s"], vec![ok()], &["jane"], "pulls");
    check(&[], vec![], &[""], "pulls"); // L6
    check(&[], vec![], &["jane"], "no-credential");
    check(&["s"], vec![], &["jane"], "secret-missing");
    check(&["s"], vec![], &[""], "pulls");
    let text = config(REGISTRY, "jane");
    let kind = "kubernetes.io/dockerconfigjson";
    let elsewhere = secret_with("other", "s", kind, ".dockerconfigjson", &text);
    check(&["s"], vec![elsewhere], &["jane"], "secret-in-other-namespace");
    let opaque = secret_with("team", "s", "Opaque", ".dockerconfigjson", &text);
    check(&["s"], vec![opaque], &["jane"], "secret-wrong-type"); // L11
    check(&["s"], vec![ok()], &[], "wrong-credential");
    check(&["s"], vec![ok()], &[""], "stale-credential"); // L7
    check(&["s"], vec![docker("s", r#"{"credsStore":"desktop"}"#)], &["jane"], "helpers-only");
    let laptop = json!({"auths": {REGISTRY: {}}, "credsStore": "desktop"}).to_string();
    check(&["s"], vec![docker("s", &laptop)], &["jane"], "helpers-only"); // A14
    let broken = r#"{"auths":{"other.example":{"auth":"pants"}}}"#;
    check(&["s", "t"], vec![ok(), docker("t", broken)], &["jane"], "pull-secret-malformed"); // L12
    let token = json!({"auths": {REGISTRY: {"identitytoken": PASSWORD}}}).to_string();
    check(&["s"], vec![docker("s", &token)], &["jane"], "token-ignored");
    let legacy = secret_with("team", "s", "kubernetes.io/dockercfg", ".dockercfg", &text);
    check(&["s"], vec![legacy], &["jane"], "secret-unusable"); // L16
    let second = docker("t", &config(REGISTRY, "john"));
    check(&["s", "t"], vec![ok(), second], &["john"], "pulls"); // L8
}

#[test]
fn keys_that_do_not_match_say_which_would() {
    for key in [
        "r.example",                 // M12: the port
        "r.example:5000/team/app/",  // M5: the slash at the end
        "https://r.example:5000/v2", // K4: no slash behind the version
        "HTTPS://r.example:5000",    // K8
        "r.example:5000/team/*",     // M6
        "r.example:5000/other",      // the path
        "R.example:5000",            // M16
    ] {
        let secrets = vec![docker("s", &config(key, "jane"))];
        check(&["s"], secrets, &["jane"], "key-does-not-match");
    }
    let world = World {
        cluster: FakeCluster {
            secrets: vec![docker("s", &config("r.example", "jane"))],
            ..FakeCluster::default()
        },
        ..World::default()
    };
    let found = world.explain(&pod(&image(), &["s"]), file());
    let texts: Vec<&str> = found.remarks.iter().map(|remark| remark.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("\"r.example:5000\" would")), "{texts:?}");
    let command = found.cause.and_then(|cause| cause.command).unwrap_or_default();
    assert!(command.contains("shipway login --keep-password r.example:5000 "), "{command}");
}

/// kubelet-images.md 15.4, M20.
#[test]
fn hub_password_that_a_kubelet_sends_elsewhere_is_remarked() {
    let hub = config("https://index.docker.io/v1/", "jane");
    let remarks = |image: &str, of_node: bool, is_shipway: bool| -> Vec<String> {
        let files = vec![NodeFile {
            path: "/var/lib/kubelet/config.json".to_owned(),
            kind: NodeFileKind::ConfigJson,
            bytes: hub.clone().into_bytes(),
        }];
        let files = if of_node { files } else { Vec::new() };
        let secrets = if of_node { Vec::new() } else { vec![docker("s", &hub)] };
        let world = World {
            cluster: FakeCluster { secrets, ..FakeCluster::default() },
            node: Some(known_with(files, Vec::new(), Vec::new(), is_shipway)),
            no_probe: true,
            ..World::default()
        };
        let named: &[&str] = if of_node { &[] } else { &["s"] };
        let found = world.explain(&pod(image, named), file());
        let sent = found.remarks.iter().filter(|remark| remark.code == "hub-password-sent");
        sent.map(|remark| format!("{}: {}", remark.object.as_deref().unwrap_or(""), remark.text))
            .collect()
    };
    let text = |object: &str, registry: &str| {
        format!(
            "{object}: a kubelet takes {registry:?} for an account of Docker Hub: it sends it the \
             Hub's password and does not ask without one; shipway's node does neither"
        )
    };
    assert_eq!(remarks("localhost/foo:1", false, false), [text("the pod's secrets", "localhost")]);
    let of_file = "file /var/lib/kubelet/config.json";
    assert_eq!(remarks("REG/app:1", true, false), [text(of_file, "REG")]);
    for (image, is_shipway) in
        [("localhost/foo:1", true), ("localhost:5000/foo:1", false), ("team/app:1", false)]
    {
        assert_eq!(remarks(image, false, is_shipway), Vec::<String>::new(), "{image}");
    }
}

#[test]
fn candidates_come_in_the_kubelets_order_and_the_first_that_opens_ends_it() {
    let narrow = docker("b", &config("r.example:5000/team", "narrow"));
    let wide = docker("a", &config(REGISTRY, "wide"));
    let node = NodeFile {
        path: "/var/lib/kubelet/config.json".to_owned(),
        kind: NodeFileKind::ConfigJson,
        bytes: config(REGISTRY, "node").into_bytes(),
    };
    let hidden = NodeFile { path: "/.docker/config.json".to_owned(), ..node.clone() };
    let world = World {
        registry: FakeRegistry { opens_to: vec!["wide"], refusal: None },
        cluster: FakeCluster { secrets: vec![wide, narrow], ..FakeCluster::default() },
        node: Some(known(vec![node, hidden], Vec::new())),
        no_probe: false,
    };
    let found = world.explain(&pod(&image(), &["a", "b"]), file());
    let users: Vec<(&str, bool, &str)> = found
        .candidates
        .iter()
        .map(|c| (c.user.as_deref().unwrap_or_default(), c.tried, c.answer.kind))
        .collect();
    // L3 and L4.
    assert_eq!(
        users,
        [
            ("narrow", true, "unauthorized"),
            ("wide", true, "opens"),
            ("node", false, "unauthorized")
        ]
    );
    assert!(!found.anonymous.tried);
    assert!(found.remarks.iter().any(|remark| remark.code == "file-hidden"));
    assert_eq!(found.verdict, Verdict::Pulls);
}

#[test]
fn answers_of_the_registry_have_their_causes() {
    for (refusal, expected) in [
        (AnswerKind::Denied, "no-right"),
        (AnswerKind::NotFound, "not-found"),
        (AnswerKind::RateLimited { retry_after: None }, "rate-limited"),
        (AnswerKind::HostUnknown, "host-unknown"),
        (AnswerKind::ConnectionRefused, "connection-refused"),
        (AnswerKind::Unreachable, "unreachable"),
        (AnswerKind::Tls, "tls"),
        (AnswerKind::PlainHttp, "plain-http"),
        (
            AnswerKind::PlatformMissing { offered: vec!["linux/arm64".to_owned()] },
            "platform-missing",
        ),
        (AnswerKind::NotAnImage { media_type: "x/y".to_owned() }, "not-an-image"),
        (AnswerKind::Refused, "registry-error"),
    ] {
        let world = World {
            registry: FakeRegistry { opens_to: vec![], refusal: Some(refusal) },
            cluster: FakeCluster {
                secrets: vec![docker("s", &config(REGISTRY, "jane"))],
                ..FakeCluster::default()
            },
            ..World::default()
        };
        let found = world.explain(&pod(&image(), &["s"]), file());
        assert_eq!(found.cause.as_ref().map(|cause| cause.code.as_str()), Some(expected));
        let last = found.next.events.last().map(|event| event.message.as_str());
        assert_eq!(last, Some("Error: ErrImagePull"), "{expected}");
    }
}

#[test]
fn expired_tokens_are_told_by_their_end_alone() {
    let payload = URL_SAFE_NO_PAD.encode(br#"{"exp":1799999999}"#);
    let auth = STANDARD.encode(format!("jane:canary.{payload}.canary"));
    let text = json!({"auths": {REGISTRY: {"auth": auth}}}).to_string();
    let world = World {
        cluster: FakeCluster { secrets: vec![docker("s", &text)], ..FakeCluster::default() },
        ..World::default()
    };
    let found = world.explain(&pod(&image(), &["s"]), file());
    assert_eq!(found.cause.map(|cause| cause.code), Some("credential-expired".to_owned()));
    assert_eq!(found.candidates[0].expires.as_deref(), Some("2027-01-15T07:59:59Z"));
    assert!(found.candidates[0].expired);
}

#[test]
fn service_accounts_count_all_or_nothing_and_only_when_the_pod_is_made() {
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "s"}]});
    let world = |account: Value| World {
        registry: FakeRegistry { opens_to: vec!["jane"], refusal: None },
        cluster: FakeCluster {
            secrets: vec![docker("s", &config(REGISTRY, "jane"))],
            account,
            ..FakeCluster::default()
        },
        ..World::default()
    };
    let explain = |account: &Value, secrets: &[&str], source: Source| {
        let found = world(account.clone()).explain(&pod(&image(), secrets), source);
        found.cause.map_or("pulls".to_owned(), |cause| cause.code)
    };
    assert_eq!(explain(&account, &[], file()), "pulls"); // S7
    assert_eq!(explain(&account, &["t"], file()), "secret-missing"); // S8
    assert_eq!(explain(&account, &[], Source::Cluster), "account-attached-later");
    assert_eq!(explain(&json!(false), &[], file()), "service-account-missing"); // S9
}

#[test]
fn who_may_not_read_secrets_is_told_so() {
    let world = World {
        cluster: FakeCluster { forbidden: true, ..FakeCluster::default() },
        ..World::default()
    };
    let found = world.explain(&pod(&image(), &["s"]), file());
    assert_eq!(found.verdict, Verdict::Unknown);
    assert_eq!(found.cause.map(|cause| cause.code), Some("secrets-unreadable".to_owned()));
    assert_eq!(found.next.events[0].reason, "Pulling", "a secret that is unknown is not missing");
}

#[test]
fn events_are_those_of_the_kubelet() {
    let texts = |world: &World, pod: &Value| -> Vec<String> {
        let found = world.explain(pod, file());
        let events = found.next.events.iter();
        let mut texts: Vec<String> =
            events.map(|e| format!("{} {}", e.reason, e.message)).collect();
        texts.extend(found.next.waiting.map(|waiting| waiting.reason));
        texts
    };
    let image = image();
    let world = World::default();
    assert_eq!(
        texts(&world, &pod(&image, &["b", "a"])),
        [
            "FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (b, a); \
             attempting to pull the image may not succeed."
                .to_owned(),
            format!("Pulling Pulling image {image:?}"),
            format!("Failed Failed to pull image {image:?}: {image}: unauthorized"),
            "Failed Error: ErrImagePull".to_owned(),
            "ErrImagePull".to_owned(),
        ]
    ); // P7, P17
    let broken = World {
        cluster: FakeCluster {
            secrets: vec![docker("s", r#"{"auths":{"o":{"auth":"pants"}}}"#)],
            ..FakeCluster::default()
        },
        ..World::default()
    };
    let text = "illegal base64 data at input byte 4";
    assert_eq!(
        texts(&broken, &pod(&image, &["s"])),
        [format!("Failed Error: {text}"), text.to_owned()]
    );
    let name = texts(&world, &pod("Nginx", &[]));
    assert_eq!(name.last().map(String::as_str), Some("InvalidImageName"));
    let mut never = pod("nginx:1", &[]);
    never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    assert_eq!(texts(&world, &never).last().map(String::as_str), Some("ErrImageNeverPull")); // P4
}

#[test]
fn the_present_state_has_a_countdown() {
    let mut pod = pod(&image(), &[]);
    let message = "Back-off pulling image";
    pod["status"] = json!({"containerStatuses": [{
        "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": message}},
    }]});
    let at =
        |seconds: i64| jiff::Timestamp::from_second(NOW - seconds).expect("a time").to_string();
    let event = |reason: &str, text: &str, count: i32, seconds: i64, path: &str| {
        json!({
            "metadata": {"name": format!("{reason}{seconds}"), "namespace": "team"},
            "involvedObject": {"name": "app", "fieldPath": path},
            "reason": reason, "message": text, "count": count, "type": "Warning",
            "lastTimestamp": at(seconds),
        })
    };
    let own = "spec.containers{app}";
    let world = World {
        cluster: FakeCluster {
            events: vec![
                event("Failed", "Failed to pull image \"x\": 401", 3, 15, own),
                event("Failed", "Failed to pull image \"x\": 401", 9, 1, "spec.containers{other}"),
                event("Scheduled", "assigned", 1, 100, own),
                event("BackOff", message, 5, 2, own),
            ],
            ..FakeCluster::default()
        },
        ..World::default()
    };
    let present = world.explain(&pod, Source::Cluster).present.expect("a live pod");
    assert_eq!(present.waiting.map(|waiting| waiting.reason), Some("ImagePullBackOff".to_owned()));
    assert_eq!((present.attempts, present.next_attempt_seconds), (Some(3), Some(25)));
    let reasons: Vec<&str> = present.events.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(reasons, ["Failed", "BackOff"]);
}

#[test]
fn nothing_is_promised_without_a_probe() {
    let world = World { no_probe: true, ..World::default() };
    let found = world.explain(&pod(&image(), &["s"]), file());
    assert_eq!(found.verdict, Verdict::Unknown);
    assert_eq!(found.cause.map(|cause| cause.code), Some("secret-missing".to_owned()));
    let found = world.explain(&pod("Nginx", &[]), file());
    assert_eq!(found.verdict, Verdict::Fails, "a bad name is bad for every registry");
}

#[test]
fn a_provider_that_matches_decides_and_is_not_run() {
    let provider = |pattern: &str| Provider {
        name: "ecr-credential-provider".to_owned(),
        match_images: vec![pattern.to_owned()],
    };
    let verdict = |pattern: &str, image: &str| {
        let node = Some(known(Vec::new(), vec![provider(pattern)]));
        World { node, ..World::default() }.explain(&pod(image, &[]), file()).verdict
    };
    assert_eq!(verdict("*.example:5000", &image()), Verdict::Unknown);
    assert_eq!(verdict("*.example", &image()), Verdict::Fails);
    // Patterns are no keys: nothing stands for Docker Hub but its name in images.
    assert_eq!(verdict("docker.io", "nginx:1"), Verdict::Unknown);
    assert_eq!(verdict("index.docker.io", "nginx:1"), Verdict::Fails);
    assert_eq!(verdict("https://docker.io", "nginx:1"), Verdict::Fails);
    let text = "kind: CredentialProviderConfig\nproviders:\n- name: p\n  matchImages: ['*.io']\n";
    let read = read_providers(text).expect("a config");
    assert_eq!(read, [Provider { name: "p".to_owned(), match_images: vec!["*.io".to_owned()] }]);
    assert!(read_providers("kind: Pod").is_err());
}

#[test]
fn a_cloud_that_the_node_asks_decides_at_its_own_registries() {
    let explain = |image: &str, clouds: Vec<CloudProvider>| {
        let node = Some(known_with(Vec::new(), Vec::new(), clouds, true));
        World { node, ..World::default() }.explain(&pod(image, &[]), file())
    };
    let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app:v1";
    let found = explain(ecr, vec![CloudProvider::Ecr]);
    assert_eq!(found.verdict, Verdict::Unknown);
    let cause = found.cause.expect("a cause");
    assert_eq!(cause.code, "cloud-decides");
    assert!(cause.text.starts_with("cloud ecr would be asked"), "{}", cause.text);
    assert!(found.remarks.iter().any(|remark| remark.code == "cloud-not-asked"));
    assert!(found.next.provided.contains(&"cloud ecr has no credential for it".to_owned()));
    for (image, clouds) in [
        (ecr, vec![CloudProvider::Google]),
        (ecr, Vec::new()),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.example/app", vec![CloudProvider::Ecr]),
    ] {
        let found = explain(image, clouds);
        assert_eq!(found.cause.map(|cause| cause.code), Some("no-credential".to_owned()));
    }
}

#[test]
fn every_kind_and_role_is_read_from_files_with_their_secrets() {
    let text = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      imagePullSecrets: [{name: s}]
      volumes: [{name: v, image: {reference: "r.example:5000/data:1"}}]
      initContainers: [{name: i, image: "r.example:5000/init:1"}]
      containers: [{name: c, image: "r.example:5000/app:1"}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: night, namespace: own}
spec:
  schedule: "0 0 * * *"
  jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: busybox}]}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: x}}
- apiVersion: v1
  kind: Secret
  metadata: {name: s}
  type: kubernetes.io/dockerconfigjson
  stringData:
    .dockerconfigjson: '{"auths":{"r.example:5000":{"username":"jane","password":"canary"}}}'
"#;
    let mut documents = Documents::default();
    documents.add("all.yaml", text, "team").expect("objects");
    assert_eq!((documents.subjects.len(), documents.others), (2, 1));
    let fields: BTreeMap<&str, &str> = documents
        .subjects
        .iter()
        .flat_map(|subject| &subject.images)
        .map(|image| (image.field.as_str(), image.role.word()))
        .collect();
    assert_eq!(
        fields,
        BTreeMap::from([
            ("spec.jobTemplate.spec.template.spec.containers[0].image", "container"),
            ("spec.template.spec.containers[0].image", "container"),
            ("spec.template.spec.initContainers[0].image", "initContainer"),
            ("spec.template.spec.volumes[0].image.reference", "imageVolume"),
        ])
    );
    assert_eq!(documents.subjects[1].namespace, "own");
    let secret = &documents.secrets[&("team".to_owned(), "s".to_owned())];
    assert!(secret.data.contains_key(".dockerconfigjson"));
}

#[test]
fn mistakes_in_files_are_told_without_their_content() {
    let told = |text: &str| {
        let added = Documents::default().add("f.yaml", text, "team");
        added.expect_err("a mistake").to_string()
    };
    for text in [
        "kind: Secret\nmetadata: {name: s}\ndata: canary",
        "kind: Secret\nmetadata: {name: s}\ndata: {k: 'canary!'}",
        "kind: Secret\nstringData: {a: canary\n",
        "kind: Secret\nstringData:\n  a: \"canary\n b: \t- x",
    ] {
        let told = told(text);
        assert!(!told.contains("canary"), "{told}");
        assert!(told.starts_with("f.yaml: "), "{told}");
    }
    let error = secret_of_file("c.json", b"{\"auths\": canary}").expect_err("no JSON");
    assert!(!error.contains("canary"), "{error}");
}

#[test]
fn a_workload_learns_from_its_pod_what_was_set_on_the_way() {
    let template = json!({
        "kind": "Deployment", "metadata": {"name": "web", "namespace": "team"},
        "spec": {"template": {"spec": {"containers": [
            {"name": "app", "image": "nginx:1", "imagePullPolicy": "IfNotPresent"},
        ]}}},
    });
    let mut subject = Subject::of_object(&template, "team", Source::Cluster).expect("a subject");
    let mut made = pod("nginx:1", &[]);
    made["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    subject.observe(&as_typed(&made));
    let report = World::of(vec![subject], &World::default());
    let policy = &report.subjects[0].images[0].policy;
    assert_eq!((policy.effective.as_str(), policy.origin.as_str()), ("Always", "admission"));
    assert_eq!(report.subjects[0].pod.as_deref(), Some("app"));
}

#[test]
fn text_is_plain_unless_colour_is_asked_for() {
    let subject = Subject::of_object(&pod("nginx:1\u{1b}[31m", &[]), "team", file());
    let report = World::of(vec![subject.expect("a subject")], &World::default());
    assert!(!text(&report, Colour::Off).contains('\u{1b}'));
    assert!(text(&report, Colour::On).contains("\u{1b}[31mwould not be pulled"));
}

#[test]
fn a_node_with_mirrors_is_asked_about_them() {
    let mirror = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        image_policy::ImageMirror { from, to }
    };
    let mirrors = vec![
        mirror("gcr.io/kaniko-project/executor", "shipway.local/executor:1"),
        mirror("docker.io/library/*", "r.example:5000/hub"),
    ];
    let (files, providers, clouds) = (Vec::new(), Vec::new(), Vec::new());
    let node = NodeSide::Known {
        files,
        providers,
        providers_unread: None,
        clouds,
        mirrors,
        is_shipway: true,
    };
    let world = World { node: Some(node), ..World::default() };
    let executor = world.explain(&pod("gcr.io/kaniko-project/executor:v1.23.2", &[]), file());
    assert_eq!(executor.verdict, Verdict::Pulls, "{executor:#?}");
    assert!(executor.next.events[0].message.contains("already present on machine"));
    let hub = world.explain(&pod("busybox", &[]), file());
    assert!(hub.anonymous.answer.text.starts_with("r.example:5000/hub/busybox:latest: "));
}

/// Answers of a real HTTP server, by path.
async fn serve(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            let _ = stream.read_line(&mut first).await;
            let mut line = first.clone();
            while line.len() > 2 {
                line.clear();
                if stream.read_line(&mut line).await.is_err() {
                    break;
                }
            }
            let digest = format!("sha256:{}", "0".repeat(64));
            let index = "application/vnd.oci.image.index.v1+json";
            let manifest = "application/vnd.oci.image.manifest.v1+json";
            let arm = json!({
                "mediaType": manifest, "digest": digest, "size": 2,
                "platform": {"os": "linux", "architecture": "arm64"},
            });
            let of = |kind: &str| {
                let config = json!({"mediaType": kind, "digest": digest, "size": 2});
                json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": []})
            };
            let (status, header, body) = match first.split('/').nth(2) {
                Some("denied") => ("403 Forbidden", String::new(), json!({})),
                Some("limited") => ("429 Too Many", "Retry-After: 30\r\n".to_owned(), json!({})),
                Some("broken") => ("500 Oops", String::new(), json!({})),
                Some("arm") => {
                    let body = json!({"schemaVersion": 2, "mediaType": index, "manifests": [arm]});
                    ("200 OK", format!("Content-Type: {index}\r\n"), body)
                }
                Some("chart") => {
                    let body = of("application/vnd.cncf.helm.config.v1+json");
                    ("200 OK", format!("Content-Type: {manifest}\r\n"), body)
                }
                Some("image") => {
                    let body = of("application/vnd.oci.image.config.v1+json");
                    ("200 OK", format!("Content-Type: {manifest}\r\n"), body)
                }
                _ => ("404 Not Found", String::new(), json!({})),
            };
            let body = body.to_string();
            let length = body.len();
            let body = if first.starts_with("HEAD") { "" } else { &body };
            let answer = format!(
                "HTTP/1.1 {status}\r\n{header}ratelimit-remaining: 7;w=60\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = stream.get_mut().write_all(answer.as_bytes()).await;
        });
    }
}

#[test]
fn answers_of_real_registries_are_sorted() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = tokio::spawn(serve(listener));
        // One that was just given back: nothing listens there.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = free.local_addr().expect("an address").to_string();
        drop(free);
        let options = registry_client::ClientOptions {
            retries_max: 0,
            plain_http_registries: vec![address.clone()],
            ..Default::default()
        };
        let client = registry_client::Client::new(options).expect("a client");
        let platform = Platform::linux("amd64");
        let ask = async |name: String, question: Question| {
            let reference: Reference = name.parse().expect("a reference");
            client.ask(&reference, None, &platform, question).await
        };
        for (name, expected) in [
            ("denied", AnswerKind::Denied),
            (
                "limited",
                AnswerKind::RateLimited { retry_after: Some(std::time::Duration::from_secs(30)) },
            ),
            ("broken", AnswerKind::Refused),
            ("missing", AnswerKind::NotFound),
            ("arm", AnswerKind::PlatformMissing { offered: vec!["linux/arm64".to_owned()] }),
            (
                "chart",
                AnswerKind::NotAnImage {
                    media_type: "application/vnd.cncf.helm.config.v1+json".to_owned(),
                },
            ),
            ("image", AnswerKind::Opens),
        ] {
            let answer = ask(format!("{address}/{name}:1"), Question::Pull);
            assert_eq!(answer.await.kind, expected, "{name}");
        }
        let glance = ask(format!("{address}/image:1"), Question::Glance).await;
        assert_eq!(glance.kind, AnswerKind::Opens);
        assert_eq!(glance.rate_limit.map(|limit| limit.remaining), Some(7));
        let refused = ask(format!("{closed}/image:1"), Question::Pull).await;
        assert_eq!(refused.kind, AnswerKind::ConnectionRefused, "{refused:?}");
        server.abort();
    });
}

fn world_of(secrets: Vec<Value>) -> World {
    World { cluster: FakeCluster { secrets, ..FakeCluster::default() }, ..World::default() }
}

#[test]
fn a_refusal_is_no_verdict_where_something_else_may_open_the_image() {
    let jane = || vec![docker("s", &config(REGISTRY, "jane"))];
    let elsewhere = NodeSide::Unknown { why: "it is another machine".to_owned() };
    let world = World { node: Some(elsewhere), ..world_of(jane()) };
    for named in [&["s"][..], &[]] {
        let found = world.explain(&pod(&image(), named), file());
        assert_eq!(found.verdict, Verdict::Unknown, "{found:#?}");
        let text = found.cause.expect("a cause").text;
        assert!(text.ends_with("a credential of its own: it is another machine"), "{text}");
    }
    let subject = Subject::of_image(&image(), "team");
    assert_eq!(World::of(vec![subject], &world).verdict, Verdict::Fails);
    // It runs, or it has run and is to be started again with a pull.
    for (state, expected) in [
        (json!({"running": {}}), Verdict::Unknown),
        (json!({"waiting": {"reason": "ImagePullBackOff"}}), Verdict::Fails),
    ] {
        let mut pod = pod(&image(), &["s"]);
        pod["status"] = json!({"containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": state,
        }]});
        // Whether the registry refuses or nobody is there, as seen from here.
        for refusal in [AnswerKind::Unauthorized, AnswerKind::ConnectionRefused] {
            let mut world = world_of(jane());
            world.registry.refusal = Some(refusal);
            assert_eq!(world.explain(&pod, Source::Cluster).verdict, expected);
        }
    }
    // The seventeenth is not asked.
    for (count, expected) in [(16, Verdict::Fails), (17, Verdict::Unknown)] {
        let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
        let secret = |name: &String| docker(name, &config(REGISTRY, name));
        let world = world_of(names.iter().map(secret).collect());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(world.explain(&pod(&image(), &names), file()).verdict, expected);
    }
}

#[test]
fn keys_are_shown_without_what_people_put_into_them() {
    for key in ["https://jane:canary@other.example", "other.example/x?token=canary"] {
        let secrets = vec![docker("s", &config(key, "jane"))];
        let found = world_of(secrets).explain(&pod(&image(), &["s"]), file());
        let text = found.cause.expect("a cause").text;
        assert!(text.contains("****"), "{text}");
    }
}

#[test]
fn the_default_account_of_a_new_namespace_is_present_and_empty() {
    let explained = |no_namespace: bool, text: &str| {
        let cluster = FakeCluster { account: json!(false), no_namespace, ..FakeCluster::default() };
        let mut documents = Documents::default();
        documents.add("pod.yaml", text, "team").expect("objects");
        documents.add("pod.yaml", &pod(&image(), &[]).to_string(), "team").expect("a pod");
        let inputs = Inputs {
            documents: &documents,
            secrets: &[],
            cluster: &cluster,
            registry: Some(&FakeRegistry { opens_to: vec![""], refusal: None }),
            node: &known(Vec::new(), Vec::new()),
            platform: Platform::linux("amd64"),
            now: NOW,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(explain(&documents.subjects, &inputs)).verdict
    };
    assert_eq!(explained(false, "kind: Service"), Verdict::Fails);
    assert_eq!(explained(true, "kind: Service"), Verdict::Pulls);
    assert_eq!(explained(false, "kind: Namespace\nmetadata: {name: team}"), Verdict::Pulls);
}

#[test]
fn nobody_is_asked_for_what_the_node_makes_itself() {
    let registry = FakeRegistry { opens_to: vec![], refusal: Some(AnswerKind::HostUnknown) };
    let world = World { registry, ..World::default() };
    let found = world.explain(&pod("shipway.local/hello:1", &[]), file());
    assert_eq!((found.verdict, found.cause), (Verdict::Pulls, None));
    let node = Some(NodeSide::Unknown { why: "it is another machine".to_owned() });
    let found = World { node, ..world }.explain(&pod("shipway.local/hello:1", &[]), file());
    assert_eq!(found.verdict, Verdict::Unknown);
    assert_eq!(found.cause.map(|cause| cause.code), Some("node-serves".to_owned()));
}

#[test]
fn a_limit_after_wrong_passwords_names_both() {
    let refusal = Some(AnswerKind::RateLimited { retry_after: None });
    let text = format!("Failed to pull image \"{}\": 401 Unauthorized", image());
    let event = json!({
        "metadata": {"name": "e", "namespace": "team"}, "reason": "Failed", "message": text,
        "involvedObject": {"name": "app", "fieldPath": "spec.containers{app}"},
    });
    let cluster = FakeCluster {
        secrets: vec![docker("s", &config(REGISTRY, "jane"))],
        events: vec![event],
        ..FakeCluster::default()
    };
    let registry = FakeRegistry { opens_to: vec![], refusal };
    let world = World { registry, cluster, ..World::default() };
    let cause = world.explain(&pod(&image(), &["s"]), Source::Cluster).cause.expect("a cause");
    assert_eq!(cause.code, "rate-limited");
    assert!(cause.text.contains("limits") && cause.text.contains("401"), "{}", cause.text);
    assert!(cause.fix.contains("secret s"), "{}", cause.fix);
}

/// Who must name the first secret; kubelet-images.md 15.8, S11.
#[test]
fn the_list_of_an_account_is_written_as_a_whole() {
    let account =
        json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "regcred"}]});
    let other = || docker("regcred", "{}");
    let command = |kind: &str, object: &Value, account: &Value| {
        let cluster = FakeCluster {
            secrets: vec![other()],
            account: account.clone(),
            ..FakeCluster::default()
        };
        let registry = FakeRegistry {
            opens_to: vec![],
            refusal: Some(AnswerKind::RateLimited { retry_after: None }),
        };
        let mut object = object.clone();
        object["kind"] = json!(kind);
        if kind != "Pod" {
            object["spec"] = json!({"template": {"spec": object["spec"]}});
        }
        let world = World { cluster, registry, ..World::default() };
        world.explain(&object, Source::Cluster).cause.and_then(|cause| cause.command)
    };
    let none = pod(&image(), &[]);
    let own = pod(&image(), &["mine"]);
    let of = |kind: &str, object: &Value| command(kind, object, &account).expect("a command");
    let list = r#"'{"imagePullSecrets":[{"name":"regcred"},{"name":"regcred-2"}]}'"#;
    assert!(of("Deployment", &none).ends_with(list), "{}", of("Deployment", &none));
    assert!(of("Deployment", &none).contains("kubectl patch serviceaccount default -n team"));
    let own_list = r#"{"spec":{"template":{"spec":{"imagePullSecrets":[{"name":"mine"},{"name":"regcred-2"}]}}}}"#;
    assert!(of("Deployment", &own).contains(own_list), "{}", of("Deployment", &own));
    // Templates of jobs and secrets of pods never change.
    for kind in ["Job", "Pod"] {
        assert!(!of(kind, &own).contains("kubectl patch"), "{}", of(kind, &own));
    }
    assert!(of("Pod", &pod(&image(), &["regcred"])).ends_with(list), "copied by admission");
}

#[test]
fn no_command_edits_files_or_what_never_changes() {
    let bad = pod("registry.example.com:5000", &[]);
    let in_file = World::default().explain(&bad, file()).cause.expect("a cause");
    assert_eq!(in_file.command, None);
    assert!(in_file.fix.contains("spec.containers[0].image"), "{}", in_file.fix);
    let job = json!({
        "kind": "Job", "metadata": {"name": "j", "namespace": "team"},
        "spec": {"template": {"spec": {"containers": [{
            "name": "app", "image": "nginx:1", "imagePullPolicy": "Never",
        }, {"name": "bad", "image": "Nginx"}]}}},
    });
    let subject = Subject::of_object(&job, "team", Source::Cluster).expect("a subject");
    let report = World::of(vec![subject], &World::default());
    for image in &report.subjects[0].images {
        let command = image.cause.as_ref().and_then(|cause| cause.command.clone());
        assert!(command.is_none_or(|command| !command.starts_with("kubectl")), "{image:#?}");
    }
}

/// kubelet-images.md 8: an image that is there may start, whatever the registry says now.
#[test]
fn an_image_that_a_node_has_is_not_said_to_fail() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let node = |node: &str, names: &[&str]| NodeImages {
        node: node.to_owned(),
        names: names.iter().map(|&name| name.to_owned()).collect(),
    };
    let by_digest = format!("{REGISTRY}/team/app@{digest}");
    let (listed, other) = (format!("{REGISTRY}/team/app:1"), format!("{REGISTRY}/team/app:2"));
    let world = |refusal| World {
        registry: FakeRegistry { refusal: Some(refusal), ..FakeRegistry::default() },
        cluster: FakeCluster {
            nodes: vec![
                node("one", &[&by_digest, &listed]),
                node("two", &[&other]),
                node("three", &["docker.io/library/redis:latest"]),
            ],
            ..FakeCluster::default()
        },
        ..World::default()
    };
    for refusal in [AnswerKind::Unauthorized, AnswerKind::ConnectionRefused] {
        let world = world(refusal);
        for (image, policy, on, verdict) in [
            (listed.as_str(), "IfNotPresent", Some("node one has the image"), Verdict::Unknown),
            (&by_digest, "IfNotPresent", Some("node one has the image"), Verdict::Unknown),
            (&listed, "Never", Some("node one has the image"), Verdict::Unknown),
            (&other, "IfNotPresent", Some("node two has the image"), Verdict::Unknown),
            ("redis", "IfNotPresent", Some("node three has the image"), Verdict::Unknown),
            ("redis", "Always", None, Verdict::Fails),
            ("redis:7", "IfNotPresent", None, Verdict::Fails),
            ("r.example:5000/team/app:3", "IfNotPresent", None, Verdict::Fails),
        ] {
            let mut pod = pod(image, &[]);
            pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
            let source = Source::File { path: "pod.yaml".to_owned() };
            let report = world.explain(&pod, source);
            assert_eq!(report.verdict, verdict, "{image} {policy}");
            let said = report.cause.expect("a cause").text;
            assert_eq!(said.contains("has the image already"), on.is_some(), "{said}");
            assert!(on.is_none_or(|on| said.contains(on)), "{said}");
        }
        // A pod that has a node is there and nowhere else.
        let mut pod = pod(&listed, &[]);
        pod["spec"]["nodeName"] = json!("two");
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
        assert_eq!(world.explain(&pod, Source::Cluster).verdict, Verdict::Fails);
    }
}

/// kubelet-images.md 8: who may not read nodes does not know that none has the image.
#[test]
fn who_may_not_read_nodes_is_not_told_that_an_image_fails() {
    let node = NodeImages { node: "one".to_owned(), names: Vec::new() };
    for refusal in [AnswerKind::Unauthorized, AnswerKind::ConnectionRefused] {
        let world = World {
            registry: FakeRegistry { refusal: Some(refusal), ..FakeRegistry::default() },
            cluster: FakeCluster {
                forbidden: true,
                nodes: vec![node.clone()],
                readable_node: Some("one"),
                ..FakeCluster::default()
            },
            ..World::default()
        };
        for (policy, on_node, verdict) in [
            ("IfNotPresent", None, Verdict::Unknown),
            ("Never", None, Verdict::Unknown),
            ("Always", None, Verdict::Fails),
            ("IfNotPresent", Some("two"), Verdict::Unknown),
            // It may be read, and does not have the image.
            ("IfNotPresent", Some("one"), Verdict::Fails),
        ] {
            let mut pod = pod(&image(), &[]);
            pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
            pod["spec"]["nodeName"] = json!(on_node);
            let source = if on_node.is_some() { Source::Cluster } else { file() };
            let found = world.explain(&pod, source);
            assert_eq!(found.verdict, verdict, "{policy} {on_node:?}: {found:#?}");
            let said = found.cause.expect("a cause").text;
            let why = "has the image already is not known: no right to read nodes";
            assert_eq!(said.contains(why), verdict == Verdict::Unknown, "{said}");
        }
    }
}

/// Without a cluster there is no node that could have the image: the prediction says what it
/// supposes, and what fails for a new node is said to fail.
#[test]
fn a_file_without_a_cluster_is_explained_for_a_node_that_has_nothing() {
    let no_cluster = NoCluster { why: "no cluster was asked".to_owned() };
    let mut documents = Documents::default();
    let text = docker("s", &config(REGISTRY, "jane")).to_string();
    documents.add("secret.json", &text, "team").expect("a secret");
    let node = known(Vec::new(), Vec::new());
    let inputs = Inputs {
        documents: &documents,
        secrets: &[],
        cluster: &no_cluster,
        registry: Some(&FakeRegistry::default()),
        node: &node,
        platform: Platform::linux("amd64"),
        now: NOW,
    };
    let subject = Subject::of_object(&pod(&image(), &["s"]), "team", file()).expect("a subject");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(explain(&[subject], &inputs));
    let found = &report.subjects[0].images[0];
    assert_eq!((report.verdict, report.exit_code), (Verdict::Fails, EXIT_FAILS), "{found:#?}");
    let supposed = "the node does not have the image yet".to_owned();
    assert!(found.next.provided.contains(&supposed), "{found:#?}");
}
