//! A whole node whose credentials come from clouds: by our own binary as the exec plugin of the
//! kubelet's protocol, and in the node itself; both behind a proxy, as in a company.

use serde_json::{Value, json};

use crate::cloud_fake::{CANARY, Clouds, Received, Reply};
use crate::cloud_in_process::registry;
use crate::machine::{Kubectl, Machine, base64_encode};

/// The registry that the plugin's identity opens.
const OF_PLUGIN: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
/// The registry that the node's own identity opens.
const OF_NODE: &str = "210987654321.dkr.ecr.us-east-1.amazonaws.com";
/// A registry whose plugin fails.
const OF_NOBODY: &str = "registry.broken.example";

const PLUGIN_KEY: &str = "AKIDPLUGIN";
const NODE_KEY: &str = "AKIDNODE";

/// Amazon gives each identity a password of its own, and each registry knows one.
fn amazon(request: &Received) -> Reply {
    let password = |key: &str| format!("AWS:{CANARY}-{key}");
    match request.host.as_str() {
        OF_PLUGIN => registry(request, &password(PLUGIN_KEY)),
        OF_NODE => registry(request, &password(NODE_KEY)),
        host if host.starts_with("api.ecr.") => {
            let signed = request.header("authorization");
            let key = signed.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
            let token = base64_encode(&password(key.unwrap_or_default()));
            let data = json!({ "authorizationToken": token, "expiresAt": 4_102_444_800_u64 });
            Reply::new(200, json!({ "authorizationData": [data] }).to_string())
        }
        _ => registry(request, "nobody:x"),
    }
}

fn provider(name: &str, image: &str, environment: &Value) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [{
            "name": name,
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "matchImages": [image],
            "defaultCacheDuration": "1h",
            "env": environment,
        }],
    })
    .to_string()
}

fn pod(name: &str, registry: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: '{registry}/team/app:1', imagePullPolicy: Always, command: [/none]}}\n"
    )
}

/// kubelet-images.md 9 and row X1; cloud-credentials.md 11.
#[test]
fn clouds_open_images_to_a_node_by_plugin_and_by_itself() {
    let clouds = Clouds::start(amazon);
    clouds.link("ecr-credential-provider");
    let broken = clouds.write(
        "bin/broken-provider",
        "#!/bin/sh\ncat > /dev/null\necho 'no identity on this machine' >&2\nexit 1\n",
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(broken, mode).expect("ours");
    let identity = json!([{ "name": "AWS_ACCESS_KEY_ID", "value": PLUGIN_KEY }]);
    clouds.write("config/1.json", &provider("ecr-credential-provider", OF_PLUGIN, &identity));
    clouds.write("config/2.json", &provider("broken-provider", OF_NOBODY, &json!([])));
    let flag = |name: &str, path: &str| format!("--{name}={}", clouds.path(path).display());
    let config = flag("image-credential-provider-config", "config");
    let programs = flag("image-credential-provider-bin-dir", "bin");
    let proxy = format!("http://{}", clouds.address);
    let certificates = clouds.path("ca.pem");
    let secret = format!("{CANARY}-key");
    let machine = Machine::start(
        Kubectl::Machine,
        &[&config, &programs, "--cloud-credentials=ecr,quay"],
        &[
            ("HTTPS_PROXY", &proxy),
            ("SSL_CERT_FILE", certificates.to_str().expect("UTF-8")),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ACCESS_KEY_ID", NODE_KEY),
            ("AWS_SECRET_ACCESS_KEY", &secret),
        ],
    );
    for (name, registry) in [("plugin", OF_PLUGIN), ("node", OF_NODE), ("nobody", OF_NOBODY)] {
        machine.apply(&pod(name, registry));
    }
    for (name, registry) in [("plugin", OF_PLUGIN), ("node", OF_NODE)] {
        let pulled = format!("Successfully pulled image \"{registry}/team/app:1\"");
        machine.wait_for_event(name, "default", "Pulled", &pulled);
    }
    let why = "exit status 1: no identity on this machine";
    machine.wait_for_event("nobody", "default", "CredentialProviderFailed", why);
    let events = ["get", "events", "-o", "jsonpath={range .items[*]}{.type} {.reason}{'\\n'}{end}"];
    let events = machine.kubectl(&events).ok();
    assert!(events.contains("Warning CredentialProviderFailed"), "{events}");
    // One question per identity; the plugin's answer is kept for the next pod.
    machine.apply(&pod("again", OF_PLUGIN));
    machine.wait_for_event("again", "default", "Pulled", "Successfully pulled image");
    let keys: Vec<bool> = clouds
        .received()
        .iter()
        .filter(|request| request.host == "api.ecr.eu-west-1.amazonaws.com")
        .map(|request| request.header("authorization").contains(PLUGIN_KEY))
        .collect();
    assert_eq!(keys.iter().filter(|is_plugins| **is_plugins).count(), 1, "{keys:?}");

    // What `up` was told is what `explain` knows.
    let explained = |registry: &str, remark: &str, cause: &str| {
        let image = format!("{registry}/team/app:1");
        let ran = machine.shipway(&["explain", "--image", &image, "-o", "json"]);
        assert_eq!(ran.code, 7, "{ran:?}");
        assert!(!ran.stdout.contains(CANARY), "{ran:?}");
        let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let image = &report["subjects"][0]["images"][0];
        assert_eq!(image["cause"]["code"], cause, "{image}");
        let remarks = image["remarks"].as_array().expect("a list");
        assert!(remarks.iter().any(|one| one["code"] == remark), "{image}");
    };
    explained(OF_PLUGIN, "provider-not-run", "provider-decides");
    explained(OF_NOBODY, "provider-not-run", "provider-decides");
    explained(OF_NODE, "cloud-not-asked", "cloud-decides");
    // The node is no robot of Quay's, so that it has nothing to ask it for.
    let ran = machine.shipway(&["explain", "--image", "quay.io/team/app:1", "-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["subjects"][0]["images"][0]["cause"]["code"], "no-credential", "{report}");

    // A file that somebody writes at does not end what does not need it; a flag that names it does.
    let broken = clouds.write("config/3.json", "{\"providers\": [");
    let image = ["explain", "--image", "quay.io/team/app:1"];
    let ran = machine.shipway(&image);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stdout.contains("[node.providers-unread]"), "{ran:?}");
    let broken = format!("--credential-provider-config={broken}");
    let ran = machine.shipway(&[&image[..], &[broken.as_str()]].concat());
    assert_eq!(ran.code, 2, "{ran:?}");
    let said = "the configuration of credential providers ";
    assert!(ran.stderr.contains(said) && ran.stderr.contains("3.json: "), "{ran:?}");
}
