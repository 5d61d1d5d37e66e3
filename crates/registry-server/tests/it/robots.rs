//! Robots: accounts for machines, driven as machines do.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use http::Method;
use registry_server::{AuthScheme, Robot, RobotRight, Role, add_robot, remove_robot, rotate_robot};

use crate::tokens::{TestClock, with_alice};
use crate::{Fixture, basic};

fn robot(name: &str, rights: &[(&str, Role)]) -> Robot {
    Robot {
        name: name.to_owned(),
        description: None,
        created: SystemTime::now(),
        expires: Some(SystemTime::now() + Duration::from_secs(1000)),
        rights: rights
            .iter()
            .map(|(prefix, role)| RobotRight { prefix: (*prefix).to_owned(), role: *role })
            .collect(),
    }
}

async fn registry(scheme: AuthScheme) -> (Fixture, TestClock, std::path::PathBuf) {
    let clock = TestClock::new();
    let mut robots = std::path::PathBuf::new();
    let registry = Fixture::with(|options, directory| {
        with_alice(options, directory, &clock);
        options.scheme = scheme;
        robots = directory.join("robots.json");
        options.identity.robots = Some(robots.clone());
    })
    .await;
    (registry, clock, robots)
}

#[tokio::test]
async fn a_robot_does_what_it_may_until_it_expires_or_goes() {
    let (mut registry, clock, file) = registry(AuthScheme::Basic).await;
    let ci = robot("ci", &[("team", Role::Push), ("base", Role::Pull)]);
    let secret = add_robot(&file, &ci).expect("a robot").into_text();
    registry.login(basic("robot+ci", &secret));
    registry.push_image("team/app", "v1", "layer").await;
    for (method, path, expected) in [
        (Method::GET, "/v2/team/app/manifests/v1", 200),
        (Method::DELETE, "/v2/team/app/manifests/v1", 403),
        (Method::GET, "/v2/base/os/tags/list", 404),
        (Method::POST, "/v2/base/os/blobs/uploads/", 403),
        (Method::GET, "/v2/other/tags/list", 403),
        (Method::GET, "/v2/_shipway/namespaces", 403),
    ] {
        assert_eq!(registry.send(method, path, &[], "").await.status.as_u16(), expected, "{path}");
    }
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"][0], "team/app");
    let old_until = SystemTime::now() + Duration::from_secs(100);
    let renewed = rotate_robot(&file, "ci", None, old_until).expect("a secret").into_text();
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200, "the old secret for now");
    for (secret, lasts) in [(&secret, false), (&renewed, true)] {
        let form = format!(
            "grant_type=password&service=shipway-registry&access_type=offline\
             &username=robot%2Bci&password={secret}"
        );
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let reply = registry.send(Method::POST, "/auth/token", &kind, form).await;
        assert_eq!(reply.status.as_u16(), 200);
        assert_eq!(reply.json()["refresh_token"].is_string(), lasts, "only the new one lasts");
    }
    clock.advance(101);
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401, "and not after that");
    registry.login(basic("robot+ci", &renewed));
    clock.advance(100_000);
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200, "never expires");
    remove_robot(&file, "ci").expect("gone");
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401);
}

// registry.md 8.1 row 17: what one robot has is not there for another, by whatever way it asks.
#[tokio::test]
async fn robots_of_one_tenant_learn_nothing_of_another() {
    let (mut registry, _, file) = registry(AuthScheme::Basic).await;
    let mut secrets = Vec::new();
    for tenant in ["one", "two"] {
        let robot = robot(tenant, &[(tenant, Role::Admin)]);
        secrets.push(add_robot(&file, &robot).expect("a robot").into_text());
    }
    registry.login(basic("robot+one", &secrets[0]));
    let image = registry.push_image("one/app", "v1", "secret layer").await;
    let layer = oci_model::Digest::of(b"secret layer");
    registry.login(basic("robot+two", &secrets[1]));
    let other = async |method: Method, path: String| {
        let reply = registry.send(method, &path, &[], "").await;
        (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).replace("absent", "app"))
    };
    for (method, what) in [
        (Method::GET, "manifests/v1".to_owned()),
        (Method::GET, format!("manifests/{image}")),
        (Method::HEAD, format!("blobs/{layer}")),
        (Method::GET, format!("referrers/{image}")),
        (Method::GET, "tags/list".to_owned()),
        (Method::DELETE, "manifests/v1".to_owned()),
        (Method::POST, "blobs/uploads/".to_owned()),
    ] {
        let there = other(method.clone(), format!("/v2/one/app/{what}")).await;
        let absent = other(method, format!("/v2/one/absent/{what}")).await;
        assert_eq!(there, absent, "{what}");
        assert_eq!(there.0, 403, "{what}");
    }
    // Neither the list of repositories nor the administration nor a mount tells.
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], serde_json::json!([]));
    for query in [format!("mount={layer}&from=one/app"), format!("mount={layer}")] {
        let path = format!("/v2/two/app/blobs/uploads/?{query}");
        let reply = registry.send(Method::POST, &path, &[], "").await;
        assert_eq!(reply.status.as_u16(), 202, "{query}");
    }
}

#[tokio::test]
async fn refresh_tokens_of_a_robot_die_with_its_secret() {
    let (mut registry, _, file) = registry(AuthScheme::Bearer).await;
    let ci = robot("ci", &[("team", Role::Create)]);
    let secret = add_robot(&file, &ci).expect("a robot").into_text();
    registry.login(basic("robot+ci", &secret));
    let path = "/auth/token?scope=repository:team/app:pull,push&offline_token=true";
    let reply = registry.get(path).await.json();
    let refresh = reply["refresh_token"].as_str().expect("a refresh token").to_owned();
    registry.login(None);
    let form = format!(
        "grant_type=refresh_token&refresh_token={refresh}&scope=repository:team/app:pull,push"
    );
    let renew = async || registry.send(Method::POST, "/auth/token", &[], form.clone()).await;
    let renewed = renew().await;
    assert_eq!(renewed.json()["scope"], "repository:team/app:pull,create");
    rotate_robot(&file, "ci", None, SystemTime::now()).expect("a secret");
    assert_eq!(renew().await.status.as_u16(), 401);
}

#[tokio::test]
async fn a_robots_name_is_no_users_name() {
    let (mut registry, _, file) = registry(AuthScheme::Basic).await;
    // Written by hand, since `add_user` refuses it; the password is "x".
    let users = registry.directory.as_ref().expect("a directory").path().join("htpasswd");
    let entry = Command::new("htpasswd")
        .args(["-nbBC4", "robot+ci", "x"])
        .output()
        .expect("htpasswd of the Debian package apache2-utils");
    std::fs::write(&users, entry.stdout).expect("a file");
    registry.login(basic("robot+ci", "x"));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401);
    let secret = add_robot(&file, &robot("ci", &[("team", Role::Pull)])).expect("a robot");
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 401);
    registry.login(basic("robot+ci", &secret.into_text()));
    assert_eq!(registry.get("/v2/").await.status.as_u16(), 200);
    // Rights of every user are none of a robot's.
    assert_eq!(registry.get("/v2/other/tags/list").await.status.as_u16(), 403);
}

/// Logs in with a client as a person does: the secret comes over standard input.
fn client_login(program: &str, address: &str, name: &str, secret: &str) -> (bool, String) {
    use std::io::Write as _;
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(program)
        .args(["login", "--tls-verify=false", "--password-stdin", "--username", name, "--authfile"])
        .arg(directory.path().join("auth.json"))
        .arg(address)
        .env("HOME", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} of the Debian package: {error}"));
    let mut input = child.stdin.take().expect("standard input is piped");
    input.write_all(secret.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_and_podman_log_in_as_a_robot() {
    for scheme in [AuthScheme::Basic, AuthScheme::Bearer] {
        let (registry, _, file) = registry(scheme).await;
        let secret = add_robot(&file, &robot("ci.builder-1", &[("team", Role::Push)]));
        let secret = secret.expect("a robot").into_text();
        let address = registry.registry.address().to_string();
        let done = tokio::task::spawn_blocking(move || {
            for program in ["skopeo", "podman"] {
                let (ok, text) = client_login(program, &address, "robot+ci.builder-1", &secret);
                assert!(ok, "{program}: {text}");
                let (ok, text) = client_login(program, &address, "robot+ci.builder-1", "swr_no");
                assert!(!ok, "{program}: {text}");
            }
        });
        done.await.expect("the checks");
    }
}
