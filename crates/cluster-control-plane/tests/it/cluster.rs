//! A control plane in this process and the clients that talk to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use cluster_control_plane::admission::Switches;
use cluster_control_plane::{ControlPlane, Options, Running};
use http::Request;
use serde_json::Value;
use tokio::process::{Child, Command};

/// A running control plane with state of its own.
pub(crate) struct Cluster {
    pub(crate) running: Running,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: kube::Client,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// An answer to a raw request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

pub(crate) fn options(state_dir: &Path) -> Options {
    Options {
        state_dir: state_dir.to_owned(),
        listen: "127.0.0.1:0".parse().expect("address"),
        hosts: Vec::new(),
        node_name: "n1".to_owned(),
        node_socket: state_dir.join("kubelet.sock"),
        switches: Switches::default(),
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with_switches(Switches::default()).await
    }

    pub(crate) async fn with_switches(switches: Switches) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let options = Options { switches, ..options(dir.path()) };
        let running = ControlPlane::start(options).await.expect("starts");
        let client = kube_client(&running.kubeconfig).await;
        Self { running, dir, client }
    }

    /// Runs a kubectl with this cluster's kubeconfig and an own home directory.
    pub(crate) async fn run(&self, kubectl: &Path, arguments: &[&str], input: &str) -> Output {
        let mut child = self.spawn(kubectl, arguments);
        {
            use tokio::io::AsyncWriteExt;
            let mut stdin = child.stdin.take().expect("stdin");
            // A kubectl that does not read its input closes the pipe.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        let output = child.wait_with_output().await.expect("kubectl ends");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a kubectl as [`Cluster::run`] does.
    pub(crate) fn spawn(&self, kubectl: &Path, arguments: &[&str]) -> Child {
        let home = self.dir.path().join("home");
        Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.running.kubeconfig)
            .env("HOME", &home)
            .env_remove("KUBECTL_EXTERNAL_DIFF")
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl starts")
    }

    /// Runs the machine's kubectl and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(Path::new("kubectl"), arguments, input).await;
        assert_eq!(output.code, 0, "kubectl {arguments:?}: {output:?}");
        output.stdout
    }

    /// Sends a request as the administrator.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body.into())).expect("request");
        let response = self.client.send(request).await.expect("answered");
        let (parts, body) = response.into_parts();
        let bytes = body.collect_bytes().await.expect("body");
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends a JSON body.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.raw(method, path, &[("content-type", content_type)], body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], "").await
    }
}

pub(crate) async fn kube_client(kubeconfig: &Path) -> kube::Client {
    // The process-wide default; a second call finds it set, which is fine.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await.expect("config");
    kube::Client::try_from(config).expect("client")
}

/// Every kubectl of the machine, Debian's among them.
pub(crate) fn kubectls() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("kubectl"), debian_kubectl()];
    for minor in 27..40 {
        let bundled = PathBuf::from(format!("/usr/lib/google-cloud-sdk/bin/kubectl.1.{minor}"));
        if bundled.exists() {
            all.push(bundled);
        }
    }
    all
}

/// Debian's kubectl, unpacked beside the system's; fetched once when it is missing.
pub(crate) fn debian_kubectl() -> PathBuf {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    UNPACKED
        .get_or_init(|| {
            let root = PathBuf::from("/opt/kubectl-debian");
            let binary = root.join("usr/bin/kubectl");
            if !binary.exists() {
                let script = "set -e; cd \"$(mktemp -d)\"; apt-get download kubernetes-client; \
                              dpkg -x kubernetes-client_*.deb /opt/kubectl-debian";
                let status = std::process::Command::new("sh").args(["-c", script]).status();
                assert!(
                    status.is_ok_and(|status| status.success()),
                    "cannot fetch kubernetes-client"
                );
            }
            binary
        })
        .clone()
}
