//! `shipway credential-provider` as a kubelet runs it. Numbers are rows of cloud-credentials.md
//! 14.2.

use serde_json::{Value, json};

use crate::cloud_fake::{CANARY, Clouds, Reply, request};
use crate::cloud_flows::{ECR, aws_keys, everything, write_oci_config};
use crate::machine::Ran;

/// A provider with an identity, and an image of its registry.
struct Somebody {
    provider: &'static str,
    image: &'static str,
    variables: Vec<(&'static str, String)>,
}

/// Somebody at each cloud.
fn everybody(clouds: &Clouds) -> Vec<Somebody> {
    write_oci_config(clouds);
    let pod_token = clouds.write("pod-token", &format!("{CANARY}-pod"));
    let secret = |name: &'static str| (name, format!("{CANARY}-{name}"));
    vec![
        Somebody {
            provider: "ecr",
            image: "123456789012.dkr.ecr.eu-west-1.amazonaws.com/app",
            variables: vec![
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
                secret("AWS_SECRET_ACCESS_KEY"),
                secret("AWS_SESSION_TOKEN"),
            ],
        },
        Somebody {
            provider: "ecr",
            image: "123456789012.dkr.ecr.eu-west-1.amazonaws.com/app",
            variables: vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", pod_token),
                ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r".to_owned()),
            ],
        },
        Somebody {
            provider: "google",
            image: "europe-docker.pkg.dev/p/app",
            variables: vec![("GCE_METADATA_HOST", clouds.address.clone())],
        },
        Somebody {
            provider: "acr",
            image: "team.azurecr.io/app",
            variables: vec![
                ("AZURE_TENANT_ID", "tenant".to_owned()),
                ("AZURE_CLIENT_ID", "client".to_owned()),
                secret("AZURE_CLIENT_SECRET"),
            ],
        },
        Somebody { provider: "oci", image: "fra.ocir.io/app", variables: Vec::new() },
        Somebody { provider: "ibm", image: "de.icr.io/app", variables: vec![secret("ICR_APIKEY")] },
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
    // Row 8, with every line of the log that there is.
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
                let clouds = Clouds::start(move |_| fault());
                for somebody in everybody(&clouds) {
                    let ran = somebody.ask(&clouds, &[], &[("SHIPWAY_LOG", "trace")]);
                    assert_ne!(ran.code, 0, "{ran:?}");
                    assert_eq!(ran.stdout, "", "{ran:?}");
                    let seen: Vec<&str> =
                        ran.stderr.lines().filter(|line| line.contains(CANARY)).collect();
                    assert!(seen.is_empty(), "{}: {seen:#?}", somebody.provider);
                }
                assert_eq!(clouds.count("evil.example"), 0);
            });
        }
    });
}

#[test]
fn a_cloud_that_does_not_answer_is_given_up_in_time() {
    // Row 9, with seconds in place of a minute.
    let clouds = Clouds::start(|_| Reply::stall());
    std::thread::scope(|scope| {
        for somebody in everybody(&clouds) {
            let clouds = &clouds;
            scope.spawn(move || {
                let ran = somebody.ask(clouds, &["--timeout", "2"], &[]);
                one_line(&ran);
                assert!(ran.stderr.contains("no answer in time"), "{ran:?}");
            });
        }
    });
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
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", key.as_str()),
        ("GCE_METADATA_HOST", metadata.as_str()),
        ("ICR_APIKEY", key.as_str()),
    ];
    let get = ["get-credentials"];
    let verbose = ["get-credentials", "--v=3", "--logtostderr=true", "--authFlow=gcr"];
    let programs: [(&str, &[&str], &str); 8] = [
        ("ecr-credential-provider", &get, ECR),
        ("ecr-credential-provider-prod", &[], ECR),
        ("auth-provider-gcp", &verbose, "gcr.io"),
        ("gcr-credential-provider", &get, "gcr.io"),
        ("acr-credential-provider", &[&azure, "--v=2"], "team.azurecr.io"),
        ("credential-provider-oke", &[], "fra.ocir.io"),
        ("credential-provider-oke-2", &[], "fra.ocir.io"),
        ("icr-credential-provider", &[], "icr.io"),
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
    // Row 78: a port that nobody listens on.
    let clouds = Clouds::start(everything);
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    let proxy = format!("http://{nowhere}");
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("GCE_METADATA_HOST", nowhere.as_str())];
    std::thread::scope(|scope| {
        for somebody in everybody(&clouds) {
            let (clouds, variables) = (&clouds, &variables);
            scope.spawn(move || {
                let ran = somebody.ask(clouds, &[], variables);
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
