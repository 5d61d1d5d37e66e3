//! The line per request that `shipway registry serve` writes for programs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::machine::{PASSWORD, USER, base64_encode, run, shipway};

/// What nobody may find in a log.
const TOKEN: &str = "eyJhbGciOiJub25lIn0.not-a-token";

/// The server goes with the test, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn requests_are_lines_of_json_without_secrets() {
    let state = tempfile::Builder::new().prefix("shipway-log-").tempdir().expect("a directory");
    let users = state.path().join("htpasswd");
    registry_server::add_user(&users, USER, PASSWORD).expect("a user");
    let mut child = shipway()
        .args(["registry", "serve", "--address", "127.0.0.1:0", "--auth", "token"])
        .args(["--log", "warn,registry_access=info", "--log-format", "json", "--htpasswd"])
        .arg(&users)
        .env("SHIPWAY_STATE_DIR", state.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("our own binary");
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let server = Server(child);
    let line = stdout.lines().next().expect("it says where it is").expect("UTF-8");
    let url = line.strip_prefix("registry: ").expect("its URL").to_owned();

    let curl = |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS"]).args(arguments).arg(format!("{url}{path}"));
        run(&mut command, "").ok()
    };
    let user = format!("{USER}:{PASSWORD}");
    let scope = "scope=repository:team/app:pull,push";
    let answer = curl(&["-u", &user], &format!("/auth/token?service=shipway-registry&{scope}"));
    let answer: Value = serde_json::from_str(&answer).expect("a token");
    let issued = answer["token"].as_str().expect("a token");
    let (bearer, forged) =
        (format!("Authorization: Bearer {issued}"), format!("Authorization: Bearer {TOKEN}"));
    let digest = oci_model::Digest::of(b"layer").to_string();
    let upload = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let id = "X-Request-Id: deploy-17";
    curl(&["-X", "POST", "-H", &bearer, "-H", id, "--data-binary", "layer"], &upload);
    curl(&["-H", &forged], "/v2/team/app/manifests/v1?password=in-the-query");
    curl(&["-u", &format!("{USER}:wrong-password")], "/auth/token?service=shipway-registry");
    curl(&["-H", &bearer], "/v2/team/app/blobs/%22%0Aforged%20line");

    let (mut text, mut requests) = (String::new(), Vec::new());
    for line in log.lines() {
        let line = line.expect("UTF-8");
        let read: Value = serde_json::from_str(&line).expect(&line);
        text.push_str(&line);
        text.push('\n');
        if read["target"] == "registry_access" {
            requests.push(read);
        }
        if requests.len() == 5 {
            break;
        }
    }
    drop(server);
    let basic = base64_encode(&user);
    for secret in [PASSWORD, issued, TOKEN, "in-the-query", "wrong-password", basic.as_str()] {
        assert!(!text.contains(secret), "{text}");
    }
    let seen: Vec<_> = requests
        .iter()
        .map(|line| {
            assert_eq!(line["level"], "INFO");
            assert_eq!(line["client"], "127.0.0.1");
            assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
            assert!(line["duration_ms"].is_u64() && line["trace_id"].is_string(), "{line}");
            (line["method"].as_str().expect("a method"), line["status"].as_u64().expect("a status"))
        })
        .collect();
    assert_eq!(seen[..4], [("GET", 200), ("POST", 201), ("GET", 401), ("GET", 401)], "{text}");
    let pushed = &requests[1];
    assert_eq!(pushed["request_id"], "deploy-17");
    assert_eq!(pushed["principal"], USER);
    assert_eq!(pushed["repository"], "team/app");
    assert_eq!(pushed["path"], "/v2/team/app/blobs/uploads/");
    assert_eq!(pushed["bytes_in"], 5);
    assert_eq!(pushed["digest"], digest);
    assert_eq!(requests[2]["error"], "UNAUTHORIZED");
}
