//! What a cloud gives to this machine, used by the verbs and the builder themselves: after config
//! files, before going without, and only at the cloud's own registries (cloud-credentials.md 9 and
//! 11).

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::cloud_fake::{CANARY, Clouds, Received, Reply, shows_canary};
use crate::cloud_flows::{ECR, aws_keys, everything};
use crate::machine::{base64_encode, run, shipway};

const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

fn digest(text: &str) -> String {
    let sum = run(&mut std::process::Command::new("sha256sum"), text).ok();
    format!("sha256:{}", sum.split(' ').next().expect("a sum"))
}

fn manifest() -> String {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(CONFIG),
            "size": CONFIG.len(),
        },
        "layers": [],
    })
    .to_string()
}

/// A registry with one image, for whoever shows this user and password; it takes what is pushed.
pub(crate) fn registry(request: &Received, user_and_password: &str) -> Reply {
    let basic = format!("Basic {}", base64_encode(user_and_password));
    if request.header("authorization") != basic {
        let realm = format!("Basic realm=\"https://{}/\",service=\"x\"", request.host);
        return Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
            .header("www-authenticate", &realm);
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let oci = "application/vnd.oci.image.manifest.v1+json";
    match request.method.as_str() {
        "GET" | "HEAD" if path.contains("/manifests/") => {
            let manifest = manifest();
            let reply = Reply::new(200, manifest.clone());
            reply.header("content-type", oci).header("docker-content-digest", &digest(&manifest))
        }
        "GET" if path.ends_with("/tags/list") => {
            Reply::new(200, r#"{"name":"team/app","tags":["1"]}"#)
        }
        "GET" if path.contains("/blobs/") => Reply::new(200, CONFIG),
        "HEAD" if path.contains("/blobs/") => Reply::new(404, ""),
        "POST" => Reply::new(202, "").header("location", "/v2/team/app/blobs/uploads/1"),
        "PATCH" => Reply::new(202, "").header("location", "/v2/team/app/blobs/uploads/1"),
        "PUT" => Reply::new(201, ""),
        _ => Reply::new(200, "{}"),
    }
}

/// Every cloud, and a registry of Amazon's that takes the token which its API gives out.
fn with_registry(request: &Received) -> Reply {
    match request.host.as_str() {
        ECR => registry(request, &format!("AWS:{CANARY}-pw:x")),
        _ => everything(request),
    }
}

const API: &str = "api.ecr.eu-west-1.amazonaws.com";

#[test]
fn verbs_use_what_the_cloud_gives_and_ask_for_it_once() {
    let clouds = Clouds::start(with_registry);
    let image = format!("{ECR}/team/app:1");
    let layout = clouds.path("layout");
    let layout = format!("oci:{}:1", layout.display());
    let docker = format!("docker://{image}");
    let verbs: [&[&str]; 6] = [
        &["pull", &image],
        &["inspect", &image],
        &["inspect", "--raw", &image],
        &["tags", &image],
        &["manifest", "inspect", &image],
        &["copy", &docker, &layout],
    ];
    for (at, arguments) in verbs.iter().enumerate() {
        let mut variables = aws_keys().to_vec();
        variables.push(("SHIPWAY_LOG", "trace"));
        let ran = clouds.shipway(arguments, &variables, "");
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!shown.contains(CANARY), "{shown}");
        ran.ok();
        assert_eq!(clouds.count(API), at + 1, "{arguments:?}");
    }
}

#[test]
fn config_files_come_first_and_other_registries_cause_no_question() {
    let clouds = Clouds::start(|request| match request.host.as_str() {
        ECR => registry(request, "own:password"),
        "registry.example.com" => registry(request, "nobody:x"),
        _ => everything(request),
    });
    let config = json!({ "auths": { ECR: { "auth": base64_encode("own:password") } } });
    clouds.write("home/.docker/config.json", &config.to_string());
    clouds.shipway(&["tags", &format!("{ECR}/team/app")], &aws_keys(), "").ok();
    let metadata = clouds.address.clone();
    let variables = [("GCE_METADATA_HOST", metadata.as_str())];
    clouds.shipway(&["tags", "registry.example.com/team/app"], &variables, "").refused();
    assert_eq!((clouds.count(API), clouds.count("127.0.0.1")), (0, 0));
}

#[test]
fn a_refused_credential_of_a_cloud_is_made_anew_once() {
    // cloud-credentials.md 11; AKS #4052: the first pull gets 401.
    let given = AtomicUsize::new(0);
    let clouds = Clouds::start(move |request| match request.host.as_str() {
        ECR => registry(request, "AWS:password-2"),
        API => {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            let token = base64_encode(&format!("AWS:password-{number}"));
            let data = json!({ "authorizationToken": token, "expiresAt": 4_102_444_800_u64 });
            Reply::new(200, json!({ "authorizationData": [data] }).to_string())
        }
        _ => Reply::new(404, ""),
    });
    let image = format!("{ECR}/team/app:1");
    clouds.shipway(&["pull", &image], &aws_keys(), "").ok();
    assert_eq!(clouds.count(API), 2);
    // The next process gets the third, which is not good, and the fourth, which is no better.
    let refused = clouds.shipway(&["tags", &image], &aws_keys(), "").refused();
    assert_eq!(clouds.count(API), 4, "{refused}");
}

#[test]
fn pushing_asks_google_for_a_token_that_may_push() {
    let clouds = Clouds::start(|request| match request.host.as_str() {
        "eu-docker.pkg.dev" => registry(request, &format!("_token:{CANARY}-token")),
        _ => everything(request),
    });
    let metadata = clouds.address.clone();
    let variables = [("GCE_METADATA_HOST", metadata.as_str())];
    let image = "eu-docker.pkg.dev/project/team/app:1";
    clouds.shipway(&["pull", image], &variables, "").ok();
    clouds.shipway(&["push", image], &variables, "").ok();
    let scopes: Vec<String> = clouds
        .received()
        .into_iter()
        .filter(|request| request.host == "127.0.0.1")
        .map(|request| request.path.rsplit('.').next().expect("a scope").to_owned())
        .collect();
    assert_eq!(scopes, ["read_only", "read_write"]);
}

#[test]
fn an_image_for_everybody_needs_no_identity_and_a_private_one_says_why_there_is_none() {
    let clouds = Clouds::start(|request| match (request.host.as_str(), request.path.as_str()) {
        (ECR, path) if path.contains("/public/") => Reply::new(200, r#"{"tags":["1"]}"#),
        (ECR, _) => registry(request, "AWS:nobody"),
        _ => Reply::new(404, ""),
    });
    clouds.shipway(&["tags", &format!("{ECR}/public/app")], &[], "").ok();
    let refused = clouds.shipway(&["tags", &format!("{ECR}/team/app")], &[], "").refused();
    assert!(refused.contains("its cloud gave no credential (ecr: find credentials"), "{refused}");
    assert!(refused.contains("AWS_ACCESS_KEY_ID"), "{refused}");
}

#[test]
fn clouds_are_asked_only_if_the_user_wants_it() {
    let clouds = Clouds::start(with_registry);
    let ask = |which: &str| {
        let mut variables = aws_keys().to_vec();
        variables.push(("SHIPWAY_CLOUD_CREDENTIALS", which));
        clouds.shipway(&["tags", &format!("{ECR}/team/app")], &variables, "")
    };
    for which in ["none", "google,ibm"] {
        ask(which).refused();
    }
    assert_eq!(clouds.count(API), 0);
    ask("ecr").ok();
    assert_eq!(clouds.count(API), 1);
}

#[test]
fn a_pull_through_of_a_clouds_registry_asks_that_cloud_if_it_is_told_to() {
    let clouds = Clouds::start(with_registry);
    let config = clouds.write(
        "shipway.toml",
        &format!("[[registry.proxy]]\nupstream = \"{ECR}\"\nalias = \"aws\"\nprefix = \"cache\"\n"),
    );
    let look = |which: &str, state: &str| {
        let mut serve = shipway();
        let state = clouds.path(state);
        serve.arg("--state-dir").arg(state).args(["registry", "serve", "--address=127.0.0.1:0"]);
        serve.args(["--anonymous=pull", "--config", &config]);
        clouds.prepare(&mut serve).envs(aws_keys()).env("SHIPWAY_CLOUD_CREDENTIALS", which);
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ours");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("registry: http://").map(str::to_owned));
        let image = format!("{}/cache/aws/team/app:1", address.expect("it serves"));
        let ran = clouds.shipway(&["inspect", "--raw", &image], &[], "");
        let again = clouds.shipway(&["inspect", "--raw", &image], &[], "");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert_eq!((ran.code, &ran.stdout), (again.code, &again.stdout));
        ran
    };
    look("", "not-told").refused();
    look("google", "told-another").refused();
    assert_eq!(clouds.count(API), 0);
    assert_eq!(look("ecr", "told").ok().trim(), manifest());
    assert_eq!(clouds.count(API), 1);
}

#[test]
fn a_helper_that_config_json_names_is_run_and_one_that_is_missing_is_not_missed() {
    // cloud-credentials.md 13, theme 4.
    let clouds = Clouds::start(with_registry);
    let config = json!({ "credHelpers": { ECR: "ecr-login" } });
    clouds.write("home/.docker/config.json", &config.to_string());
    let image = format!("{ECR}/team/app");
    clouds.shipway(&["tags", &image], &aws_keys(), "").ok();
    assert_eq!(clouds.count(API), 1);
    let answer = json!({ "Username": "AWS", "Secret": format!("{CANARY}-pw:x") });
    let helper = clouds.write(
        "bin/docker-credential-ecr-login",
        &format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n"),
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(helper, mode).expect("ours");
    clouds.shipway(&["tags", &image], &aws_keys(), "").ok();
    assert_eq!(clouds.count(API), 1);

    // Row 62: who stands behind a helper in the same file is told so, once and without a secret.
    let shadowed = json!({ "auth": base64_encode("u:shadowed") });
    let config = json!({ "credHelpers": { ECR: "ecr-login" }, "auths": { ECR: shadowed } });
    clouds.write("home/.docker/config.json", &config.to_string());
    let ran = clouds.shipway(&["tags", &image], &aws_keys(), "");
    let told = ran.stderr.matches("of the config file is not used").count();
    assert_eq!((ran.code, told), (0, 1), "{ran:?}");
    assert!(!ran.stderr.contains("shadowed") && !ran.stderr.contains(CANARY), "{ran:?}");
}

#[test]
fn files_that_are_named_hide_all_others() {
    // cloud-credentials.md 14.2, row 68: every place holds something else for one registry.
    let host = "registry.example.com";
    let right = "right:password";
    let clouds = Clouds::start(|request| registry(request, right));
    let file = |name: &str, who: &str| {
        let config = json!({ "auths": { host: { "auth": base64_encode(who) } } });
        clouds.write(name, &config.to_string())
    };
    file("home/.docker/config.json", "of-home:x");
    file("run/containers/auth.json", "of-podman:x");
    file("docker/config.json", "of-docker:x");
    let (run, docker) = (clouds.path("run"), clouds.path("docker"));
    let (run, docker) = (run.to_str().expect("UTF-8"), docker.to_str().expect("UTF-8"));
    let variable = json!({ "auths": { host: { "auth": base64_encode("of-variable:x") } } });
    let variable = variable.to_string();
    let seen = |variables: &[(&str, &str)]| -> Vec<String> {
        let before = clouds.received().len();
        let mut all = vec![("XDG_RUNTIME_DIR", run)];
        all.extend(variables);
        let ran = clouds.shipway(&["tags", &format!("{host}/team/app")], &all, "");
        // Who is hidden is said, once; docker's own variables go together in silence.
        let warning =
            "warning: DOCKER_AUTH_CONFIG and DOCKER_CONFIG are not read: REGISTRY_AUTH_FILE";
        let hides = variables.iter().any(|(name, _)| *name == "REGISTRY_AUTH_FILE");
        assert_eq!(ran.stderr.matches(warning).count(), usize::from(hides), "{ran:?}");
        assert_eq!(ran.stderr.matches("warning").count(), usize::from(hides), "{ran:?}");
        let sent = clouds.received().split_off(before);
        sent.iter().map(|request| request.header("authorization").to_owned()).collect()
    };
    let basic = |who: &str| format!("Basic {}", base64_encode(who));
    let named = file("named.json", right);
    let all = [
        ("REGISTRY_AUTH_FILE", &*named),
        ("DOCKER_CONFIG", docker),
        ("DOCKER_AUTH_CONFIG", variable.as_str()),
    ];
    assert_eq!(seen(&all), ["".to_owned(), basic(right)]);
    // It hides them also from who is not in it.
    clouds.write("named.json", "{}");
    assert_eq!(seen(&all), [""]);
    // Docker asks its variable before its file.
    assert_eq!(seen(&all[1..]), ["".to_owned(), basic("of-variable:x")]);
    assert_eq!(seen(&all[1..2]), ["".to_owned(), basic("of-docker:x")]);
    clouds.write("docker/config.json", "{}");
    assert_eq!(seen(&all[1..2]), [""]);
    assert_eq!(seen(&[]), ["".to_owned(), basic("of-home:x")]);
}

#[test]
fn builds_read_their_base_with_what_the_cloud_gives() {
    let clouds = Clouds::start(with_registry);
    clouds.write("context/Dockerfile", &format!("FROM {ECR}/team/app:1\nLABEL a=b\n"));
    let context = clouds.path("context");
    let context = context.to_str().expect("UTF-8");
    let output = format!("type=oci,dest={}", clouds.path("built.tar").display());
    clouds.shipway(&["build", "-o", &output, context], &aws_keys(), "").ok();
    assert_eq!(clouds.count(API), 1);
}

#[test]
fn the_executor_needs_no_helper_programs_for_the_clouds() {
    let clouds = Clouds::start(with_registry);
    clouds.write("context/Dockerfile", &format!("FROM {ECR}/team/app:1\nLABEL a=b\n"));
    let context = format!("--context={}", clouds.path("context").display());
    let kaniko = format!("--kaniko-dir={}", clouds.path("kaniko").display());
    let execute = |helper: &str| {
        let arguments =
            ["executor", "--no-push", "--force", &context, &kaniko, helper].map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        clouds.shipway(&arguments, &aws_keys(), "")
    };
    execute("--credential-helpers=env").refused();
    assert_eq!(clouds.count(API), 0);
    execute("--credential-helpers=ecr").ok();
    assert_eq!(clouds.count(API), 1);
}

/// A registry with a token service of its own: its challenge, and who gets a token.
fn with_tokens(request: &Received, challenge: &str, service: &str, who: &str) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    if path == service {
        let basic = format!("Basic {}", base64_encode(who));
        return match (request.method.as_str(), request.header("authorization") == basic) {
            ("GET", true) => Reply::new(200, r#"{"access_token":"for-the-registry"}"#),
            _ => Reply::new(401, "{}"),
        };
    }
    match request.header("authorization") {
        "Bearer for-the-registry" => Reply::new(200, r#"{"name":"team/app","tags":["1"]}"#),
        _ => Reply::new(401, "{}").header("www-authenticate", challenge),
    }
}

#[test]
fn each_clouds_way_to_write_a_challenge_is_understood() {
    // cloud-credentials.md 14.2, rows 41 and 59: unquoted, without a service, with blanks. What was
    // read of a challenge is what its token service is asked with.
    let ours = "scope=repository:team/app:pull";
    for (host, challenge, service, who, query) in [
        (
            "gcr.io",
            r#"Bearer realm="https://gcr.io/v2/token",service=gcr.io"#,
            "/v2/token",
            "_token:c4n4ry5e4c1d-token",
            format!("service=gcr.io&{ours}&account=_token&client_id=shipway"),
        ),
        (
            "eu-docker.pkg.dev",
            r#"Bearer realm="https://eu-docker.pkg.dev/v2/token""#,
            "/v2/token",
            "_token:c4n4ry5e4c1d-token",
            format!("{ours}&account=_token&client_id=shipway"),
        ),
        (
            "de.icr.io",
            "Bearer realm=https://de.icr.io/oauth/token, service=registry, \
             scope=repository:team/app:pull",
            "/oauth/token",
            "iambearer:c4n4ry5e4c1d-token",
            format!("service=registry&{ours}&account=iambearer&client_id=shipway"),
        ),
    ] {
        let clouds = Clouds::start(move |request| match request.host.as_str() {
            asked if asked == host => with_tokens(request, challenge, service, who),
            _ => everything(request),
        });
        let metadata = clouds.address.clone();
        let variables = [("GCE_METADATA_HOST", metadata.as_str()), ("ICR_APIKEY", "key")];
        clouds.shipway(&["tags", &format!("{host}/team/app")], &variables, "").ok();
        let queries: Vec<String> = clouds
            .received()
            .into_iter()
            .filter(|request| request.host == host)
            .filter_map(|request| {
                let query = request.path.strip_prefix(service)?.strip_prefix('?')?.to_owned();
                Some(query.replace("%3A", ":").replace("%2F", "/"))
            })
            .collect();
        assert_eq!(queries, [query], "{host}");
    }
}

#[test]
fn passwords_of_azure_registries_go_to_their_token_service() {
    // cloud-credentials.md 14.2, row 51: an application's id and secret, the admin user, a token
    // of a repository.
    for who in ["0a1b2c3d-client:secret", "team:admin-password", "pull-token:its-password"] {
        let clouds = Clouds::start(move |request| match request.host.as_str() {
            "team.azurecr.io" => with_tokens(
                request,
                r#"Bearer realm="https://team.azurecr.io/oauth2/token",service="team.azurecr.io""#,
                "/oauth2/token",
                who,
            ),
            _ => Reply::new(404, ""),
        });
        let config = json!({ "auths": { "team.azurecr.io": { "auth": base64_encode(who) } } });
        clouds.write("home/.docker/config.json", &config.to_string());
        clouds.shipway(&["tags", "team.azurecr.io/team/app"], &[], "").ok();
        let hosts: Vec<String> =
            clouds.received().into_iter().map(|request| request.host).collect();
        assert!(hosts.iter().all(|host| host == "team.azurecr.io"), "{hosts:?}");
    }
}

#[test]
fn a_robot_of_quay_reads_what_is_private_and_the_public_needs_none() {
    // cloud-credentials.md 14.2, row 76.
    let challenge = r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#;
    let clouds = Clouds::start(move |request| match (request.host.as_str(), &*request.path) {
        ("quay.io", path) if path.starts_with("/oauth2/") => everything(request),
        ("quay.io", path) if path.contains("/public/") => Reply::new(200, r#"{"tags":["1"]}"#),
        ("quay.io", _) => {
            let who = format!("team+puller:e30.eyJleHAiOjQxMDI0NDQ4MDB9.{CANARY}");
            with_tokens(request, challenge, "/v2/auth", &who)
        }
        _ => Reply::new(404, ""),
    });
    clouds.shipway(&["tags", "quay.io/public/app"], &[], "").ok();
    clouds.shipway(&["tags", "quay.io/team/app"], &[], "").refused();
    // Also for those whose file names a helper, which is not there.
    for helper in ["quay", "shipway"] {
        let config = json!({ "credHelpers": { "quay.io": helper } }).to_string();
        clouds.write("home/.docker/config.json", &config);
        clouds.shipway(&["tags", "quay.io/public/app"], &[], "").ok();
        clouds.shipway(&["tags", "quay.io/team/app"], &[], "").refused();
        let unwanted = [("SHIPWAY_CLOUD_CREDENTIALS", "ecr")];
        let ran = clouds.shipway(&["tags", "quay.io/public/app"], &unwanted, "");
        assert!(ran.stderr.contains("install the helper"), "{ran:?}");
    }
    let file = clouds.write("token", &format!("{CANARY}-jwt"));
    let variables = [
        ("QUAY_ROBOT", "team+puller"),
        ("QUAY_ROBOT_TOKEN_FILE", file.as_str()),
        ("SHIPWAY_LOG", "trace"),
    ];
    let ran = clouds.shipway(&["tags", "quay.io/team/app"], &variables, "");
    assert!(!shows_canary(&ran.stderr), "{ran:?}");
    ran.ok();
    // By the name that docker looks for, too.
    let helper = clouds.link("docker-credential-quay");
    let answer = clouds.run(&helper, &["get"], &variables[..2], "quay.io").ok();
    assert!(answer.contains(r#""Username":"team+puller""#), "{answer}");
}
