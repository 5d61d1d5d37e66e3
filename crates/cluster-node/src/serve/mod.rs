//! The kubelet API on a unix socket: logs, exec, attach, pods, health; and the node's images.

mod images;
mod logs;
mod protocol;
mod streaming;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::dispatcher::Roster;
use crate::pods::state::all_containers;
use crate::shared::Shared;
use crate::tasks::StopSignal;

/// What all requests use.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    roster: watch::Receiver<Arc<Roster>>,
    stop: StopSignal,
}

/// A refusal: status and text.
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(text: String) -> Self {
        Refusal(StatusCode::NOT_FOUND, text)
    }

    fn bad_request(text: String) -> Self {
        Refusal(StatusCode::BAD_REQUEST, text)
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        plain(self.0, self.1)
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Binds the socket, in place of one that a killed node has left.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests until the node stops.
pub(crate) async fn run(
    listener: UnixListener,
    shared: Arc<Shared>,
    roster: watch::Receiver<Arc<Roster>>,
    stop: StopSignal,
) {
    let context = Context { shared, roster, stop: stop.clone() };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::answer))
        .route(
            "/exec/{namespace}/{pod}/{uid}/{container}",
            get(streaming::exec).post(streaming::exec),
        )
        .route(
            "/attach/{namespace}/{pod}/{uid}/{container}",
            get(streaming::attach).post(streaming::attach),
        )
        .merge(images::router())
        .with_state(context);
    let serving = axum::serve(listener, router);
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "kubelet API ended");
            }
        }
        () = stop.stopped() => {}
    }
}

async fn pods(State(context): State<Context>) -> Response {
    let items: Vec<Pod> = {
        let roster = context.roster.borrow();
        roster.values().map(|entry| (*entry.view.borrow().pod).clone()).collect()
    };
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "items": items});
    let mut response = plain(StatusCode::OK, list.to_string());
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The pod and container that a request names.
fn find(
    context: &Context,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    container: &str,
) -> Result<(String, Arc<Pod>, Container), Refusal> {
    let key = (namespace.to_owned(), pod.to_owned());
    let entry = context.roster.borrow().get(&key).cloned();
    let entry = entry
        .filter(|entry| uid.is_none_or(|uid| uid == entry.uid))
        .ok_or_else(|| Refusal::not_found(format!("pod \"{pod}\" not found")))?;
    let found = Arc::clone(&entry.view.borrow().pod);
    let spec = found
        .spec
        .iter()
        .flat_map(all_containers)
        .find(|(known, _)| known.name == container)
        .map(|(known, _)| known.into_owned())
        .ok_or_else(|| {
            Refusal::bad_request(format!("container {container} is not valid for pod {pod}"))
        })?;
    Ok((entry.uid, found, spec))
}
