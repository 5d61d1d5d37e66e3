//! Who is who at `shipway registry serve`: service accounts of a real API server, robots.

use std::process::Command;

use crate::machine::{Kubectl, Machine, PASSWORD, USER, base64_decode, run};
use crate::own_registry::OwnRegistry;

/// Copies an image from the machine's registry with skopeo.
fn copy(machine: &Machine, target: &str, credentials: &str) -> crate::machine::Ran {
    let source = format!("docker://{}/base:1", machine.registry);
    let from = format!("{USER}:{PASSWORD}");
    let mut command = Command::new("skopeo");
    command.args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds"]);
    command.args([from.as_str(), "--dest-creds", credentials, source.as_str(), target]);
    run(command.env("HOME", machine.home()), "")
}

#[test]
fn service_accounts_and_robots_push_without_a_users_password() {
    let machine = Machine::new(Kubectl::Machine);
    machine.login(&machine.registry, USER, PASSWORD);
    machine.push_busybox(&format!("{}/base:1", machine.registry));
    let view = |path: &str| {
        let path = format!("jsonpath={{.clusters[0].cluster.{path}}}");
        machine.kubectl(&["config", "view", "--raw", "--minify", "-o", &path]).ok()
    };
    let server = view("server");
    let authority = base64_decode(&view("certificate-authority-data"));
    let authority = machine.write("cluster-ca.pem", &authority);
    let reader = machine.kubectl(&["create", "token", "default"]).ok();
    let reader = machine.write("reader-token", reader.trim());
    machine.kubectl(&["create", "namespace", "ci"]).ok();
    machine.kubectl(&["create", "serviceaccount", "builder", "-n", "ci"]).ok();
    let robots = machine.path("robots.json");
    let robots = robots.to_str().expect("UTF-8");
    let secret = machine
        .shipway(&["registry", "robot", "add", "ci", "--right", "push=robots", "--robots", robots])
        .ok();
    let config = format!(
        "[registry]\nauth = \"token\"\nanonymous = \"none\"\n\
         [[registry.access]]\nprefix = \"accounts\"\ngroup = \"ns-ci\"\nrole = \"push\"\n\
         [registry.identity]\nrobots = \"{robots}\"\n\
         [[registry.identity.issuers]]\nname = \"kubernetes\"\n\
         url = \"https://kubernetes.default.svc\"\naudiences = [\"registry.test\"]\n\
         keys-url = \"{server}/openid/v1/jwks\"\nca-file = \"{authority}\"\n\
         token-file = \"{reader}\"\n\
         [[registry.identity.issuers.rules]]\n\
         claims = {{ \"/kubernetes.io/namespace\" = \"ci\" }}\n\
         groups = [\"ns-{{/kubernetes.io/namespace}}\"]\n"
    );
    let file = machine.write("registry.toml", &config);
    let registry = OwnRegistry::start(&machine.path("registry-state"), &["--config", &file]);
    let target = |name: &str| format!("docker://{}/{name}:1", registry.address);
    let token = |arguments: &[&str]| {
        let token = machine.kubectl(&[&["create", "token"][..], arguments].concat()).ok();
        format!("oidc:{}", token.trim())
    };
    let ours = token(&["builder", "-n", "ci", "--audience", "registry.test"]);
    copy(&machine, &target("accounts/app"), &ours).ok();
    copy(&machine, &target("other/app"), &ours).refused();
    // Another audience, another namespace.
    let elsewhere = token(&["builder", "-n", "ci", "--audience", "another"]);
    copy(&machine, &target("accounts/app"), &elsewhere).refused();
    let stranger = token(&["default", "--audience", "registry.test"]);
    copy(&machine, &target("accounts/app"), &stranger).refused();

    let robot = format!("robot+ci:{}", secret.trim());
    copy(&machine, &target("robots/app"), &robot).ok();
    copy(&machine, &target("accounts/app"), &robot).refused();
    let listed = machine.shipway(&["registry", "robot", "list", "--robots", robots]).ok();
    assert!(listed.starts_with("robot+ci  push=robots  expires 2"), "{listed}");
    assert!(!listed.contains(secret.trim()));
    machine.shipway(&["registry", "robot", "rm", "ci", "--robots", robots]).ok();
    copy(&machine, &target("robots/app"), &robot).refused();
}
