//! Who gets in, and who may do what.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::cluster::{Answer, Cluster};

/// A client with only the authority's certificate and, perhaps, a token.
fn client_with(cluster: &Cluster, token: Option<&str>) -> kube::Client {
    let mut config =
        kube::Config::new(format!("https://{}", cluster.running.address).parse().expect("address"));
    let pem = cluster.running.ca_pem.as_bytes();
    let authority: CertificateDer<'_> = CertificateDer::from_pem_slice(pem).expect("pem");
    config.root_cert = Some(vec![authority.to_vec()]);
    config.auth_info.token = token.map(|token| token.to_owned().into());
    kube::Client::try_from(config).expect("client")
}

async fn get(client: &kube::Client, path: &str) -> Answer {
    let request = http::Request::get(path).body(kube::client::Body::empty()).expect("request");
    let response = client.send(request).await.expect("answered");
    let (parts, body) = response.into_parts();
    let bytes = body.collect_bytes().await.expect("body");
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_read_health_and_version_only() {
    let cluster = Cluster::start().await;
    let stranger = client_with(&cluster, None);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(&stranger, path).await.status, 200, "{path}");
    }
    let pods = get(&stranger, "/api/v1/pods").await;
    assert_eq!((pods.status, &pods.body["message"]), (401, &json!("Unauthorized")));
    assert_eq!(get(&stranger, "/apis").await.status, 403);
    let forged = client_with(&cluster, Some("ey.not.real"));
    assert_eq!(get(&forged, "/version").await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_token_names_its_user_and_dies_with_its_account() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "serviceaccount", "builder"], "").await;
    let token = cluster.kubectl(&["create", "token", "builder"], "").await;
    let client = client_with(&cluster, Some(token.trim()));
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes())
        .expect("request");
    let who: Value = client.request(request).await.expect("review");
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:builder");
    let secrets = get(&client, "/api/v1/namespaces/default/secrets").await;
    assert_eq!(secrets.status, 403);
    assert_eq!(
        secrets.body["message"],
        "secrets is forbidden: User \"system:serviceaccount:default:builder\" cannot list resource \
         \"secrets\" in API group \"\" in the namespace \"default\""
    );
    let token_review = json!({"spec": {"token": token.trim()}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = cluster.send("POST", path, &token_review).await.body;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");

    cluster.kubectl(&["delete", "serviceaccount", "builder"], "").await;
    assert_eq!(get(&client, "/api").await.status, 401);
    let answer = cluster.send("POST", path, &token_review).await.body;
    assert_eq!(answer["status"]["authenticated"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_for_another_audience_is_no_credential_here() {
    let cluster = Cluster::start().await;
    let token = cluster.kubectl(&["create", "token", "default", "--audience=registry"], "").await;
    let client = client_with(&cluster, Some(token.trim()));
    assert_eq!(get(&client, "/api").await.status, 401);
    let review = json!({"spec": {"token": token.trim(), "audiences": ["registry"]}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = cluster.send("POST", path, &review).await.body;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    assert_eq!(answer["status"]["audiences"], json!(["registry"]));
    let keys = cluster.get("/openid/v1/jwks").await.body;
    assert_eq!(keys["keys"][0]["crv"], "P-256");
    let short = json!({"spec": {"expirationSeconds": 60}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(cluster.send("POST", path, &short).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrator_may_speak_for_others() {
    let cluster = Cluster::start().await;
    let run = async |arguments: &[&str]| cluster.run(Path::new("kubectl"), arguments, "").await;
    assert_eq!(run(&["auth", "can-i", "*", "*"]).await.stdout, "yes\n");
    let denied =
        run(&["auth", "can-i", "get", "secrets", "--as", "system:serviceaccount:default:default"])
            .await;
    assert_eq!((denied.stdout.as_str(), denied.code), ("no\n", 1));
    let refused = run(&["get", "pods", "--as", "tom"]).await;
    assert!(
        refused.stderr.contains(
            "Error from server (Forbidden): pods is forbidden: User \"tom\" cannot list resource \
             \"pods\" in API group \"\" in the namespace \"default\""
        ),
        "{refused:?}"
    );
    assert!(run(&["auth", "whoami"]).await.stdout.contains("kubernetes-admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_credential_reads_secrets_but_writes_none() {
    let cluster = Cluster::start().await;
    let node = crate::cluster::kube_client(&cluster.running.node_kubeconfig).await;
    assert_eq!(get(&node, "/api/v1/namespaces/default/secrets").await.status, 200);
    let request = http::Request::post("/api/v1/namespaces/default/secrets")
        .header("content-type", "application/json")
        .body(kube::client::Body::from(br#"{"metadata":{"name":"a"}}"#.to_vec()))
        .expect("request");
    assert_eq!(node.send(request).await.expect("answered").status().as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubeconfig_files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start().await;
    for file in [&cluster.running.kubeconfig, &cluster.running.node_kubeconfig] {
        let mode = std::fs::metadata(file).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}
