//! The CRI socket of a node, driven by a gRPC client that is not ours: grpcio (PyPI).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::machine::{Kubectl, Machine, PASSWORD, USER, base64_encode, run};
use crate::python;

/// A client of one node.
struct Client {
    python: PathBuf,
    socket: PathBuf,
}

impl Client {
    fn new(machine: &Machine) -> Self {
        let packages = ["grpcio", "protobuf"];
        let python = python::environment("grpc", "grpc, google.protobuf", &packages);
        Self { python, socket: machine.state_dir().join("node/cri.sock") }
    }

    /// What each call gives, in order, over one connection.
    fn calls(&self, calls: &[Value]) -> Vec<Value> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/cri_client.py");
        let mut command = Command::new(&self.python);
        let ran = run(command.arg(program).arg(&self.socket), &json!(calls).to_string());
        let answers: Vec<Value> = serde_json::from_str(&ran.ok()).expect("JSON");
        assert_eq!(answers.len(), calls.len());
        answers
    }

    /// The one answer of a call that succeeds.
    #[track_caller]
    fn ok(&self, method: &str, request: &Value) -> Value {
        let given = self.calls(&[call(method, request)]).remove(0);
        let answers = given["answers"].as_array().unwrap_or_else(|| panic!("{method}: {given}"));
        assert_eq!(answers.len(), 1, "{method}: {given}");
        answers[0].clone()
    }

    /// Code and text of a call that fails.
    #[track_caller]
    fn refused(&self, method: &str, request: &Value) -> (String, String) {
        let given = self.calls(&[call(method, request)]).remove(0);
        let text = |name: &str| given[name].as_str().unwrap_or_default().to_owned();
        assert!(given["answers"].is_null(), "{method}: {given}");
        (text("code"), text("text"))
    }

    fn pull(&self, image: &str, auth: &Value) -> String {
        let answer = self.ok("ImageService/PullImage", &pull_request(image, auth));
        answer["image_ref"].as_str().expect("an id").to_owned()
    }

    fn status(&self, image: &str) -> Value {
        self.ok("ImageService/ImageStatus", &named(image))["image"].clone()
    }

    fn list(&self, filter: &str) -> Vec<Value> {
        let request = match filter {
            "" => json!({}),
            filter => json!({"filter": named(filter)}),
        };
        let answer = self.ok("ImageService/ListImages", &request);
        answer["images"].as_array().cloned().unwrap_or_default()
    }
}

fn call(method: &str, request: &Value) -> Value {
    json!({"method": method, "request": request})
}

fn named(image: &str) -> Value {
    json!({"image": {"image": image}})
}

fn pull_request(image: &str, auth: &Value) -> Value {
    let mut request = named(image);
    if !auth.is_null() {
        request["auth"] = auth.clone();
    }
    request
}

fn tags(images: &[Value]) -> Vec<&str> {
    let tags = images.iter().filter_map(|image| image["repo_tags"].as_array());
    let mut tags: Vec<&str> = tags.flatten().filter_map(Value::as_str).collect();
    tags.sort_unstable();
    tags
}

/// Pushes an image that is like no other, without the node's knowledge.
pub(crate) fn push(machine: &Machine, name: &str) {
    let context = machine.path("context");
    std::fs::create_dir_all(&context).expect("a directory");
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static is installed");
    let dockerfile = format!(
        "FROM scratch\nLABEL name={name}\nCOPY busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\",\"sleep\",\"3600\"]\n"
    );
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let (context, state) = (context.to_str().expect("UTF-8"), machine.path("builder"));
    let state = state.to_str().expect("UTF-8");
    machine.shipway(&["--state-dir", state, "build", "-q", "-t", name, "--push", context]).ok();
}

/// kubelet-images.md 11: all calls of the image service, with and without credentials.
#[test]
fn grpcio_pulls_lists_and_removes_with_the_credential_of_the_call() {
    let machine = Machine::new(Kubectl::Machine);
    let client = Client::new(&machine);
    let [one, two] = ["one", "two"].map(|name| format!("{}/team/{name}:1", machine.registry));
    machine.login(&machine.registry, USER, PASSWORD);
    push(&machine, &one);
    push(&machine, &two);

    let version = client.ok("RuntimeService/Version", &json!({}));
    assert_eq!(version["runtime_name"], "shipway");
    assert_eq!(
        (&version["version"], &version["runtime_api_version"]),
        (&json!("0.1.0"), &json!("v1"))
    );

    let password = json!({"username": USER, "password": PASSWORD});
    let encoded = json!({"auth": base64_encode(&format!("{USER}:{PASSWORD}"))});
    let wrong = json!({"username": USER, "password": "wrong-canary"});
    let elsewhere =
        json!({"username": USER, "password": PASSWORD, "server_address": "https://other.example"});
    let missing = format!("{}/team/one:none", machine.registry);
    let rows = [
        (&one, &Value::Null, "UNKNOWN", "no basic auth credentials"),
        (&one, &elsewhere, "UNKNOWN", "no basic auth credentials"),
        (&one, &wrong, "UNKNOWN", "401 Unauthorized: unauthorized: wrong user name or password"),
        (&missing, &password, "NOT_FOUND", ": not found"),
        (&"127.0.0.1:1/team/one:1".to_owned(), &password, "UNKNOWN", "RegistryUnavailable: "),
        (&"team//one".to_owned(), &password, "INVALID_ARGUMENT", "failed to parse image reference"),
        (&one, &json!({"auth": "pants"}), "INVALID_ARGUMENT", "illegal base64 data"),
    ];
    for (image, auth, code, text) in rows {
        let refused = client.refused("ImageService/PullImage", &pull_request(image, auth));
        assert_eq!(refused.0, code, "{image} {auth}: {refused:?}");
        assert!(refused.1.contains(text), "{image} {auth}: {refused:?}");
        assert!(
            !refused.1.contains("wrong-canary") && !refused.1.contains(PASSWORD),
            "{refused:?}"
        );
    }
    assert_eq!(client.status(&one), Value::Null, "a refused pull leaves nothing");
    assert!(!tags(&client.list("")).contains(&one.as_str()));

    let id = client.pull(&one, &password);
    let other = client.pull(&two, &encoded);
    assert_ne!(id, other);
    assert_eq!(client.pull(&one, &password), id, "once more");
    for image in [one.as_str(), id.as_str()] {
        let status = client.status(image);
        assert_eq!(status["id"], id.as_str());
        assert_eq!(status["repo_tags"], json!([one]));
        assert_ne!(status["size"].as_str().unwrap_or("0"), "0", "{status}");
        let digest = status["repo_digests"][0].as_str().expect("a digested name");
        assert_eq!(client.status(digest)["id"], id.as_str(), "{digest}");
    }
    let verbose = json!({"image": {"image": one}, "verbose": true});
    let info = client.ok("ImageService/ImageStatus", &verbose)["info"]["info"].clone();
    let info: Value = serde_json::from_str(info.as_str().expect("text")).expect("JSON");
    assert_eq!(info["imageSpec"]["config"]["Labels"]["name"], one.as_str());
    assert!(info["chainID"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{info}");

    let all = client.list("");
    let of_team = |tags: Vec<&str>| tags.iter().filter(|tag| tag.contains("/team/")).count();
    assert_eq!(of_team(tags(&all)), 2);
    assert_eq!(tags(&client.list(&one)), [one.as_str()]);
    assert_eq!(tags(&client.list(&other)), [two.as_str()]);
    assert_eq!(tags(&client.list(&missing)), [""; 0]);
    let stream = json!({"method": "ImageService/StreamImages", "request": {}, "stream": true});
    let parts = client.calls(&[stream]).remove(0);
    let parts = parts["answers"].as_array().expect("answers").iter();
    let streamed: Vec<Value> =
        parts.filter_map(|part| part["images"].as_array()).flatten().cloned().collect();
    assert_eq!(tags(&streamed), tags(&all));

    let usage = client.ok("ImageService/ImageFsInfo", &json!({}));
    for kind in ["image_filesystems", "container_filesystems"] {
        let usage = &usage[kind][0];
        let place = usage["fs_id"]["mountpoint"].as_str().expect("a path");
        assert!(Path::new(place).is_dir(), "{place}");
        let bytes = usage["used_bytes"]["value"].as_str().expect("a number");
        assert!(0 < bytes.parse::<u64>().expect("a number"), "{usage}");
    }

    for method in ["RuntimeService/ListContainers", "ImageService/PushImage"] {
        assert_eq!(client.refused(method, &json!({})).0, "UNIMPLEMENTED", "{method}");
    }

    for _ in 0..2 {
        client.ok("ImageService/RemoveImage", &named(&one));
        assert_eq!(client.status(&one), Value::Null);
    }
    assert_eq!(tags(&client.list(&two)), [two.as_str()]);
    client.ok("ImageService/RemoveImage", &named(&other));
    assert_eq!(client.status(&two), Value::Null);
}
