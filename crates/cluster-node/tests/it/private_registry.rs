//! A registry that asks for a password.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fixture::{BUSYBOX, Cluster};

/// Where [`PrivateRegistry`] has its manifest.
const MANIFEST: &str = "/v2/app/manifests/1";

/// A registry that shows the busybox manifest to `ada` with the password of the day, which is
/// `right` at first; the blobs are on the node already.
pub(crate) struct PrivateRegistry {
    /// `host:port`.
    pub(crate) address: String,
    password: Arc<Mutex<String>>,
    asked: Arc<Asked>,
    is_open: watch::Sender<bool>,
}

/// What it was asked.
#[derive(Default)]
struct Asked {
    /// Passwords of `ada`, each run of equal ones once.
    passwords: Mutex<Vec<String>>,
    /// Manifests that it showed.
    manifests: AtomicUsize,
    /// Requests for the manifest without a credential.
    anonymous: AtomicUsize,
}

impl PrivateRegistry {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self, Box<dyn std::error::Error>> {
        let digests =
            cluster.blobs.get_ref(&format!("images/{BUSYBOX}").parse()?)?.ok_or("busybox")?;
        let manifest = cluster.blobs.read(&digests[0], 1 << 20)?;
        let root = digests[0].to_string();
        let password = Arc::new(Mutex::new("right".to_owned()));
        let asked = Arc::new(Asked::default());
        let (wanted, noted) = (Arc::clone(&password), Arc::clone(&asked));
        let (is_open, gate) = watch::channel(true);
        let answer = move |request: Request| {
            let is_manifest = request.uri().path() == MANIFEST;
            let shown = noted.password_of(&request);
            if shown.is_none() && is_manifest {
                noted.anonymous.fetch_add(1, Ordering::SeqCst);
            }
            let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let response: Response = if shown != Some(wanted) {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
                (StatusCode::UNAUTHORIZED, challenge, "{}").into_response()
            } else if is_manifest {
                noted.manifests.fetch_add(1, Ordering::SeqCst);
                let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
                let headers = [
                    (header::CONTENT_TYPE.as_str(), kind),
                    ("docker-content-digest", root.clone()),
                ];
                (StatusCode::OK, headers, manifest.clone()).into_response()
            } else {
                StatusCode::OK.into_response()
            };
            let mut gate = gate.clone();
            async move {
                let _ = gate.wait_for(|is_open| *is_open).await;
                response
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        Ok(PrivateRegistry { address, password, asked, is_open })
    }

    /// Its image.
    pub(crate) fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }

    /// From now on only this password opens it.
    pub(crate) fn set_password(&self, password: &str) {
        *self.password.lock().unwrap_or_else(PoisonError::into_inner) = password.to_owned();
    }

    /// Whether it answers now; requests wait until it does.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }

    /// A pull secret for it.
    pub(crate) fn secret(&self, name: &str, password: &str) -> Value {
        pull_secret(name, &self.address, password)
    }

    /// The passwords that it was shown, each run of equal ones once.
    pub(crate) fn passwords(&self) -> Vec<String> {
        self.asked.passwords.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it showed its manifest.
    pub(crate) fn manifests(&self) -> usize {
        self.asked.manifests.load(Ordering::SeqCst)
    }

    /// How often it was asked for its manifest without a credential.
    pub(crate) fn anonymous(&self) -> usize {
        self.asked.anonymous.load(Ordering::SeqCst)
    }
}

impl Asked {
    /// Notes the password of a request; what is no password of `ada` is an empty one.
    fn password_of(&self, request: &Request) -> Option<String> {
        let shown = request.headers().get(header::AUTHORIZATION)?.to_str().unwrap_or_default();
        let shown = BASE64.decode(shown.strip_prefix("Basic ").unwrap_or_default());
        let shown = String::from_utf8(shown.unwrap_or_default()).unwrap_or_default();
        let password = shown.strip_prefix("ada:").unwrap_or_default().to_owned();
        let mut passwords = self.passwords.lock().unwrap_or_else(PoisonError::into_inner);
        passwords.push(password.clone());
        passwords.dedup();
        Some(password)
    }
}

/// A pull secret of `ada` for a registry.
pub(crate) fn pull_secret(name: &str, registry: &str, password: &str) -> Value {
    let config = json!({"auths": {registry: {"username": "ada", "password": password}}});
    json!({"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": BASE64.encode(config.to_string())}})
}
