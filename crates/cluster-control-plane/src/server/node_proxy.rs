//! Logs, exec and attach: requests passed on to the node agent's unix socket.
//!
//! The container is resolved here, so that the node gets an exact request; bytes are passed on as
//! they come, in both directions.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{self, Answer};
use super::dispatch::Call;
use super::query::Query;
use super::route::ResourceRoute;
use crate::error::{ApiError, Reason};
use crate::object;

/// Bytes of a refusal's text taken from the node.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Parameters of a log request that the node reads.
const LOG_PARAMETERS: [&str; 7] =
    ["follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes"];

/// `pods/log`.
pub(super) async fn log(
    call: Call,
    route: &ResourceRoute,
    place: OwnedSemaphorePermit,
) -> Result<Answer, ApiError> {
    let pod = call.server.api.get(route.resource, &route.namespace, &route.name)?;
    let container = resolve_container(&pod, call.query.get("container"))?;
    if object::text(&pod, &["spec", "nodeName"]).is_empty() {
        // Nowhere to ask yet: an empty log, as upstream answers.
        return Ok(answer::text(StatusCode::OK, ""));
    }
    let mut uri = format!("/containerLogs/{}/{}/{container}", route.namespace, route.name);
    append_query(&mut uri, &call.query, &LOG_PARAMETERS, &[]);
    let request = node_request(Method::GET, &uri, &HeaderMap::new())?;
    let response = send(&call, request).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(response).await);
    }
    let stop = call.server.stop.clone();
    let pieces = stream::unfold((response.into_body(), place), move |(mut body, place)| {
        let stop = stop.clone();
        async move {
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame?,
                    () = stop.cancelled() => return None,
                };
                match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => {
                        return Some((Ok::<_, Infallible>(Frame::data(data)), (body, place)));
                    }
                    // Trailers say nothing a log reader needs.
                    Ok(Err(_)) => {}
                    Err(error) => {
                        tracing::debug!(error = %error, "log stream broke");
                        return None;
                    }
                }
            }
        }
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    Ok(answer::of_type(StatusCode::OK, "text/plain", body))
}

/// `pods/exec` and `pods/attach` over WebSocket.
pub(super) async fn stream(
    call: Call,
    route: &ResourceRoute,
    place: OwnedSemaphorePermit,
) -> Result<Answer, ApiError> {
    let pod = call.server.api.get(route.resource, &route.namespace, &route.name)?;
    let phase = object::text(&pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = resolve_container(&pod, call.query.get("container"))?;
    let upgrade = call.header(UPGRADE).to_ascii_lowercase();
    if upgrade.starts_with("spdy") {
        return Err(ApiError::bad_request(
            "SPDY is not served here: exec and attach need WebSocket, which kubectl has from 1.29 \
             (KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true) and uses by default from 1.30",
        ));
    }
    if upgrade != "websocket" || !matches!(*call.request.method(), Method::GET) {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    if object::text(&pod, &["spec", "nodeName"]).is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            route.name
        )));
    }
    let action = route.subresource.as_str();
    let uid = object::uid(&pod);
    let mut uri = format!("/{action}/{}/{}/{uid}/{container}", route.namespace, route.name);
    let renamed = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    append_query(&mut uri, &call.query, &["command"], &renamed);
    let mut forwarded = HeaderMap::new();
    for (name, value) in call.request.headers() {
        let websocket = name.as_str().starts_with("sec-websocket-");
        if websocket || *name == UPGRADE || *name == CONNECTION {
            forwarded.append(name.clone(), value.clone());
        }
    }
    let response = send(&call, node_request(Method::GET, &uri, &forwarded)?).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let mut switched = Response::new(answer::full(Bytes::new()));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in response.headers() {
        switched.headers_mut().append(name.clone(), value.clone());
    }
    let stop = call.server.stop.clone();
    let client = hyper::upgrade::on(call.request);
    let node = hyper::upgrade::on(response);
    tokio::spawn(async move {
        let (client, node) = match tokio::try_join!(client, node) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(error = %error, "upgrade failed");
                return;
            }
        };
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut client, &mut node) => {
                if let Err(error) = copied {
                    tracing::debug!(error = %error, "stream ended early");
                }
            }
            () = stop.cancelled() => {}
        }
        drop(place);
    });
    Ok(switched)
}

/// The container a request is about: the one named, else the annotated default, else the only one.
fn resolve_container(pod: &Value, wanted: Option<&str>) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<&str> {
        object::list(pod, &["spec", list]).iter().map(|one| object::text(one, &["name"])).collect()
    };
    let main = names("containers");
    let pod_name = object::name(pod);
    if let Some(wanted) = wanted {
        let known = main.contains(&wanted)
            || names("initContainers").contains(&wanted)
            || names("ephemeralContainers").contains(&wanted);
        if known {
            return Ok(wanted.to_owned());
        }
        let message = format!("container {wanted} is not valid for pod {pod_name}");
        return Err(ApiError::bad_request(message));
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    let annotated = object::annotation(pod, "kubectl.kubernetes.io/default-container");
    if let Some(default) = annotated.filter(|name| main.contains(name)) {
        return Ok(default.to_owned());
    }
    let init = names("initContainers");
    let mut message = format!(
        "a container name must be specified for pod {pod_name}, choose one of: [{}]",
        main.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(ApiError::bad_request(message))
}

/// Appends the parameters the node reads: some as they are, some under another name as `1`.
fn append_query(uri: &mut String, query: &Query, plain: &[&str], renamed: &[(&str, &str)]) {
    let mut separator = '?';
    let mut append = |name: &str, value: &str| {
        let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
        uri.push(separator);
        uri.push_str(&format!("{name}={value}"));
        separator = '&';
    };
    for name in plain {
        for value in query.all(name) {
            append(name, value);
        }
    }
    for (name, as_name) in renamed {
        if query.is_set(name) {
            append(as_name, "1");
        }
    }
}

fn node_request(
    method: Method,
    uri: &str,
    headers: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, ApiError> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header(HOST, "node")
        .body(Empty::new())
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::clone(name), value.clone());
    }
    Ok(request)
}

async fn send(call: &Call, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, ApiError> {
    let socket = call.server.node_socket.clone();
    let unreachable = |error: &dyn std::fmt::Display| {
        tracing::warn!(socket = %socket.display(), error = %error, "node agent does not answer");
        // 500 as upstream answers, not 503: clients repeat that one for minutes by themselves.
        ApiError::new(Reason::InternalError, format!("the node agent does not answer: {error}"))
    };
    let stream =
        UnixStream::connect(&socket).await.map_err(|error: io::Error| unreachable(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let stop = call.server.stop.clone();
    tokio::spawn(async move {
        let connection = connection.with_upgrades();
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "node connection ended early");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    sender.send_request(request).await.map_err(|error| unreachable(&error))
}

/// The node's refusal with its own text.
async fn refusal(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = match body {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    // A Status from the node keeps its message; anything else is the message.
    let parsed: Option<Value> = serde_json::from_str(&text).ok();
    let message = match parsed.as_ref().map(|status| object::text(status, &["message"])) {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => text,
    };
    let reason = match status.as_u16() {
        400 => Reason::BadRequest,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        _ => Reason::InternalError,
    };
    ApiError::new(reason, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        })
    }

    #[test]
    fn container_must_be_named_when_there_are_several() {
        let error = resolve_container(&pod(), None).expect_err("ambiguous");
        assert_eq!(
            error.message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init \
             containers: [i]"
        );
        let error = resolve_container(&pod(), Some("x")).expect_err("unknown");
        assert_eq!(error.message, "container x is not valid for pod p");
        assert_eq!(resolve_container(&pod(), Some("i")).expect("init"), "i");
    }

    #[test]
    fn annotation_names_the_default_container() {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(resolve_container(&pod, None).expect("default"), "b");
    }

    #[test]
    fn command_words_are_quoted_for_the_node() {
        let query =
            Query::parse("command=sh&command=-c&command=a+%26b&stdin=true&tty=false&stdout=1");
        let mut uri = "/exec".to_owned();
        append_query(
            &mut uri,
            &query,
            &["command"],
            &[("stdin", "input"), ("stdout", "output"), ("tty", "tty")],
        );
        assert_eq!(uri, "/exec?command=sh&command=%2Dc&command=a%20%26b&input=1&output=1");
    }
}
