//! `shipway credential-provider` as a kubelet runs it. Numbers are rows of cloud-credentials.md
//! 14.2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cloud_fake::{CANARY, Clouds, Reply, request, shows_canary};
use crate::cloud_flows::{ECR, KEY, aws_keys, everything, write_oci_config};
use crate::machine::Ran;

/// A provider with an identity, and an image of its registry.
struct Somebody {
    provider: &'static str,
    image: &'static str,
    variables: Vec<(&'static str, String)>,
    /// How many requests lead to the credential.
    requests: usize,
}

/// Somebody at each cloud.
fn everybody(clouds: &Clouds) -> Vec<Somebody> {
    write_oci_config(clouds);
    let pod_token = clouds.write("pod-token", &format!("{CANARY}-pod"));
    let agent_token = clouds.write("agent-token", &format!("{CANARY}-agent"));
    let account = json!({
        "type": "service_account",
        "client_email": "puller@project.iam.gserviceaccount.com",
        "private_key": KEY,
        "private_key_id": CANARY,
    });
    let account = clouds.write("account.json", &account.to_string());
    let metadata = format!("http://{}", clouds.address);
    let secret = |name: &'static str| (name, format!("{CANARY}-{name}"));
    let somebody =
        |provider, image, requests, variables| Somebody { provider, image, variables, requests };
    let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/app";
    let keys = vec![
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        secret("AWS_SECRET_ACCESS_KEY"),
        secret("AWS_SESSION_TOKEN"),
    ];
    let web_identity = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", pod_token),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r".to_owned()),
    ];
    let instance = vec![
        ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.clone()),
    ];
    let pod_identity = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{metadata}/v1/credentials?{CANARY}")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", agent_token),
    ];
    let google = "europe-docker.pkg.dev/p/app";
    let azure = vec![
        ("AZURE_TENANT_ID", "tenant".to_owned()),
        ("AZURE_CLIENT_ID", "client".to_owned()),
        secret("AZURE_CLIENT_SECRET"),
    ];
    let robot = vec![
        ("QUAY_ROBOT", "team+puller".to_owned()),
        ("QUAY_ROBOT_TOKEN_FILE", clouds.write("quay-token", &format!("{CANARY}-jwt"))),
    ];
    let oracle = vec![("OCIR_AUTH_METHOD", "USER_PRINCIPAL".to_owned())];
    vec![
        somebody("ecr", ecr, 1, keys),
        somebody("ecr", ecr, 2, web_identity),
        somebody("ecr", ecr, 4, instance),
        somebody("ecr", ecr, 2, pod_identity),
        somebody("google", google, 1, vec![("GCE_METADATA_HOST", clouds.address.clone())]),
        somebody("google", google, 1, vec![("GOOGLE_APPLICATION_CREDENTIALS", account)]),
        somebody("acr", "team.azurecr.io/app", 3, azure),
        somebody("oci", "fra.ocir.io/app", 1, oracle),
        somebody("ibm", "de.icr.io/app", 1, vec![secret("ICR_APIKEY")]),
        somebody("quay", "quay.io/app", 1, robot),
    ]
}

impl Somebody {
    fn ask(&self, clouds: &Clouds, arguments: &[&str], more: &[(&str, &str)]) -> Ran {
        let mut all = vec![self.provider];
        all.extend(arguments);
        let own = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        let variables: Vec<(&str, &str)> = own.chain(more.iter().copied()).collect();
        clouds.provider(&all, &variables, self.image)
    }
}

/// A failure as a kubelet's log can use it: a code, nothing on standard output, one line.
#[track_caller]
fn one_line(ran: &Ran) {
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[test]
fn the_answer_has_the_version_of_the_request_and_one_exact_key() {
    let clouds = Clouds::start(everything);
    let image = format!("{ECR}/team/app");
    for version in ["v1", "v1beta1", "v1alpha1"] {
        // Rows 1, 2 and 4.
        let input = request(version, &image, r#","unknown":{"field":1}"#);
        let answer = clouds.shipway(&["credential-provider", "ecr"], &aws_keys(), &input).ok();
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        let kept = answer["cacheDuration"].take();
        assert!(kept.as_str().expect("a duration").ends_with('s'), "{kept}");
        let auth = json!({ ECR: { "username": "AWS", "password": format!("{CANARY}-pw:x") } });
        assert_eq!(
            answer,
            json!({
                "apiVersion": format!("credentialprovider.kubelet.k8s.io/{version}"),
                "kind": "CredentialProviderResponse",
                "cacheKeyType": "Registry",
                "cacheDuration": null,
                "auth": auth,
            })
        );
    }
}

#[test]
fn what_is_no_request_is_refused_in_one_line() {
    // Row 3.
    let clouds = Clouds::start(everything);
    let whole = request("v1", &format!("{ECR}/app"), "");
    for input in [request("v2", ECR, ""), whole[..50].to_owned(), String::new()] {
        let ran = clouds.shipway(&["credential-provider", "ecr"], &aws_keys(), &input);
        one_line(&ran);
        assert_eq!(ran.code, 1, "{ran:?}");
    }
    assert_eq!(clouds.received().len(), 0);
}

#[test]
fn an_image_is_known_in_every_form_and_no_other_host_is() {
    let clouds = Clouds::start(everything);
    let answer = |image: &str| -> Value {
        let answer = clouds.provider(&["ecr"], &aws_keys(), image).ok();
        serde_json::from_str(&answer).expect("JSON")
    };
    for image in ["{}", "{}/app:1", "{}/app@sha256:0123", "{}:443/app"] {
        let answer = answer(&image.replace("{}", ECR)); // row 5
        let keys: Vec<&String> = answer["auth"].as_object().expect("an object").keys().collect();
        assert_eq!(keys, [ECR], "{image}");
    }
    let before = clouds.received().len();
    for image in ["{}:8443/app", "docker.io/library/x", "evil.com/{}", "{}.evil.com/app"] {
        let answer = answer(&image.replace("{}", ECR)); // rows 6 and 7
        assert_eq!(answer["auth"], json!({}), "{image}");
    }
    assert_eq!(clouds.received().len(), before);
}

#[test]
fn no_failure_of_any_cloud_shows_a_secret() {
    // Row 8, with every line of the log that there is: each fails at its first request, and at its
    // last, when all the others have given what they have. The library's test of this row has every
    // request of every identity.
    let leaky = format!(
        r#"{{"error":"{CANARY}","error_subtype":"{CANARY}","error_description":"{CANARY}","code":"{CANARY}","Code":"{CANARY}","errorCode":"{CANARY}","message":"{CANARY}","errors":[{{"code":"{CANARY}","message":"{CANARY}"}}],"__type":"x#{CANARY}"}}"#
    );
    let leaky_xml = format!("<ErrorResponse><Error><Code>{CANARY}</Code></Error></ErrorResponse>");
    type Fault = Box<dyn Fn() -> Reply + Send + Sync>;
    let elsewhere = format!("https://evil.example/?{CANARY}-query");
    let faults: Vec<Fault> = vec![
        Box::new({
            let leaky = leaky.clone();
            move || Reply::new(400, leaky.clone())
        }),
        Box::new({
            let leaky = leaky.clone();
            move || Reply::new(503, leaky.clone())
        }),
        Box::new(move || Reply::new(200, leaky.clone()).cut()),
        Box::new(move || Reply::new(403, leaky_xml.clone())),
        Box::new(|| Reply::new(200, format!("<html>{CANARY}-page")).header("content-type", "x")),
        Box::new(move || Reply::new(302, "").header("location", &elsewhere)),
    ];
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                // How many requests more are answered as they should be.
                let well = Arc::new(AtomicUsize::new(0));
                let left = Arc::clone(&well);
                let clouds = Clouds::start(move |request| {
                    let fewer = |left: usize| left.checked_sub(1);
                    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer) {
                        Ok(_) => everything(request),
                        // Google's metadata server is not believed without.
                        Err(_) => fault().header("metadata-flavor", "Google"),
                    }
                });
                for somebody in everybody(&clouds) {
                    let mut numbers = vec![0, somebody.requests - 1];
                    numbers.dedup();
                    for number in numbers {
                        well.store(number, Ordering::SeqCst);
                        let before = clouds.received().len();
                        let ran = somebody.ask(&clouds, &[], &[("SHIPWAY_LOG", "trace")]);
                        assert_ne!(ran.code, 0, "{ran:?}");
                        assert_eq!(ran.stdout, "", "{ran:?}");
                        assert!(clouds.received().len() > before + number, "{ran:?}");
                        let seen: Vec<&str> =
                            ran.stderr.lines().filter(|line| shows_canary(line)).collect();
                        assert!(seen.is_empty(), "{}: {seen:#?}", somebody.provider);
                    }
                }
                assert_eq!(clouds.count("evil.example"), 0);
            });
        }
    });
}

#[test]
fn everybody_who_fails_in_these_tests_succeeds_where_nothing_fails() {
    // Row 8: as many requests as the faults are counted by.
    let clouds = Clouds::start(everything);
    for somebody in everybody(&clouds) {
        let before = clouds.received().len();
        somebody.ask(&clouds, &[], &[]).ok();
        assert_eq!(clouds.received().len(), before + somebody.requests, "{}", somebody.provider);
    }
}

#[test]
fn a_cloud_that_does_not_answer_is_given_up_in_time() {
    // Row 9, with seconds in place of a minute. Time is what the row is about: five times what was
    // allowed is enough for a busy machine, and a fifth of what there is without the flag.
    let clouds = Clouds::start(|_| Reply::stall());
    std::thread::scope(|scope| {
        for somebody in everybody(&clouds) {
            let clouds = &clouds;
            scope.spawn(move || {
                let started = Instant::now();
                let ran = somebody.ask(clouds, &["--timeout", "2"], &[]);
                assert!(started.elapsed() < Duration::from_secs(10), "{ran:?}");
                one_line(&ran);
                let is_said = ["no answer in time", "no reply to the request for a token"]
                    .iter()
                    .any(|text| ran.stderr.contains(text));
                assert!(is_said, "{ran:?}");
            });
        }
    });
}

#[test]
fn a_dropped_reply_of_the_instances_metadata_is_explained_by_the_hop_limit() {
    // Row 23: a pod whose replies end at the machine. Said within seconds: the bound is generous.
    let clouds = Clouds::start(|_| Reply::stall());
    let metadata = format!("http://{}", clouds.address);
    let variables = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.as_str()),
    ];
    let started = Instant::now();
    let ran = clouds.provider(&["ecr"], &variables, &format!("{ECR}/app"));
    assert!(started.elapsed() < Duration::from_secs(10), "{ran:?}");
    one_line(&ran);
    assert!(ran.stderr.contains("hop limit of 2"), "{ran:?}");
}

#[test]
fn many_at_once_all_get_an_answer() {
    // Row 57: upstream's program for Oracle answers nothing to whoever comes second.
    let clouds = Clouds::start(everything);
    write_oci_config(&clouds);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let answer = clouds.provider(&["oci"], &[], "fra.ocir.io/team/app").ok();
                let answer: Value = serde_json::from_str(&answer).expect("JSON");
                assert_eq!(answer["auth"]["fra.ocir.io"]["username"], "BEARER_TOKEN");
            });
        }
    });
}

#[test]
fn a_name_of_upstreams_makes_the_binary_that_provider_also_with_an_end() {
    // Row 77.
    let clouds = Clouds::start(everything);
    write_oci_config(&clouds);
    let key = format!("{CANARY}-key");
    let azure = clouds.write(
        "azure.json",
        &json!({ "tenantId": "tenant", "aadClientId": "c", "aadClientSecret": "s" }).to_string(),
    );
    let metadata = clouds.address.clone();
    let quay = clouds.write("quay-token", &format!("{CANARY}-jwt"));
    let variables = [
        ("QUAY_ROBOT", "team+puller"),
        ("QUAY_ROBOT_TOKEN_FILE", quay.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", key.as_str()),
        ("GCE_METADATA_HOST", metadata.as_str()),
        ("ICR_APIKEY", key.as_str()),
    ];
    let get = ["get-credentials"];
    let verbose = ["get-credentials", "--v=3", "--logtostderr=true", "--authFlow=gcr"];
    let programs: [(&str, &[&str], &str); 9] = [
        ("ecr-credential-provider", &get, ECR),
        ("ecr-credential-provider-prod", &[], ECR),
        ("auth-provider-gcp", &verbose, "gcr.io"),
        ("gcr-credential-provider", &get, "gcr.io"),
        ("acr-credential-provider", &[&azure, "--v=2"], "team.azurecr.io"),
        ("credential-provider-oke", &[], "fra.ocir.io"),
        ("credential-provider-oke-2", &[], "fra.ocir.io"),
        ("icr-credential-provider", &[], "icr.io"),
        ("quay-credential-provider", &get, "quay.io"),
    ];
    for (name, arguments, host) in programs {
        let program = clouds.link(name);
        let answer = clouds.run(&program, arguments, &variables, &request("v1", host, "")).ok();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let keys: Vec<&String> = answer["auth"].as_object().expect("an object").keys().collect();
        assert_eq!(keys, [host], "{name}");
    }
}

#[test]
fn without_a_network_every_cloud_says_what_it_did_not_reach() {
    // Row 78: a port that nobody listens on. Within the budget of an exchange, with time to spare
    // for a busy machine: a kubelet gives up after a minute.
    let clouds = Clouds::start(everything);
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    let proxy = format!("http://{nowhere}");
    let endpoint = format!("http://{nowhere}/v1/credentials");
    let of_somebody = |variables: &[(&'static str, String)]| -> Vec<(&'static str, String)> {
        let elsewhere = variables.iter().filter_map(|(name, _)| match *name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" | "AWS_EC2_METADATA_SERVICE_ENDPOINT" => {
                Some((*name, endpoint.clone()))
            }
            "GCE_METADATA_HOST" => Some((*name, nowhere.clone())),
            _ => None,
        });
        elsewhere.chain([("HTTPS_PROXY", proxy.clone())]).collect()
    };
    std::thread::scope(|scope| {
        for somebody in everybody(&clouds) {
            let clouds = &clouds;
            let variables = of_somebody(&somebody.variables);
            scope.spawn(move || {
                let variables: Vec<(&str, &str)> =
                    variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let started = Instant::now();
                let ran = somebody.ask(clouds, &[], &variables);
                assert!(started.elapsed() < Duration::from_secs(25), "{ran:?}");
                one_line(&ran);
                assert_eq!(ran.code, 1, "{ran:?}");
                assert!(ran.stderr.contains("; try: check that this machine"), "{ran:?}");
            });
        }
    });
}

#[test]
fn a_flow_or_an_argument_that_is_gone_is_said_so() {
    let clouds = Clouds::start(everything);
    for arguments in [&["google", "--authFlow=dockercfg"][..], &["ecr", "other"]] {
        one_line(&clouds.provider(arguments, &[], ECR));
    }
}
