//! Logs and exec through the API server, with a stand-in for the node agent's socket.

use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::cluster::Cluster;

/// Serves one request per connection: logs as text, exec as an echo that exits with 3.
async fn serve_node(listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_connection(stream));
    }
}

async fn serve_connection(mut stream: UnixStream) {
    let mut head = vec![0_u8; 4096];
    // The head arrives in one piece on a unix socket; peeking is not possible, so the exec path is
    // told apart by a first read that is then replayed.
    let read = stream.read(&mut head).await.expect("request");
    let head = head[..read].to_vec();
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    if line.starts_with("GET /exec/") {
        return exec(stream, head).await;
    }
    let (status, body) = if line.contains("/missing") || line.contains("previous") {
        ("400 Bad Request", "previous terminated container \"c\" in pod \"p\" not found".to_owned())
    } else {
        ("200 OK", format!("{line}\nSUCCESS\n"))
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.expect("answer");
}

/// The bytes already read, then the rest of the stream.
fn replay(
    head: Vec<u8>,
    stream: UnixStream,
) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
    let (read, write) = stream.into_split();
    tokio::io::join(std::io::Cursor::new(head).chain(read), write)
}

#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
async fn exec(stream: UnixStream, head: Vec<u8>) {
    let pick = |request: &Request, mut response: Response| {
        let offered = request.headers().get("sec-websocket-protocol").cloned();
        let offered =
            offered.and_then(|value| value.to_str().map(str::to_owned).ok()).unwrap_or_default();
        assert!(offered.contains("v5.channel.k8s.io"), "{offered}");
        let chosen = http::HeaderValue::from_static("v5.channel.k8s.io");
        response.headers_mut().insert("sec-websocket-protocol", chosen);
        Ok(response)
    };
    let mut socket =
        tokio_tungstenite::accept_hdr_async(replay(head, stream), pick).await.expect("handshake");
    let mut echoed = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) if bytes.first() == Some(&0) => {
                echoed.extend_from_slice(&bytes[1..])
            }
            // Channel 255 closes another channel: standard input is over.
            Message::Binary(bytes) if bytes.first() == Some(&255) => break,
            _ => {}
        }
    }
    let mut output = vec![1];
    output.extend_from_slice(b"out:");
    output.extend_from_slice(&echoed);
    socket.send(Message::Binary(output.into())).await.expect("stdout");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code: exit status 3",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    });
    let mut last = vec![3];
    last.extend_from_slice(status.to_string().as_bytes());
    socket.send(Message::Binary(last.into())).await.expect("status");
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    drop(socket.close(Some(normal)).await);
    while let Some(Ok(_)) = socket.next().await {}
}

async fn with_pod() -> Cluster {
    let cluster = Cluster::start().await;
    let socket = cluster.dir.path().join("kubelet.sock");
    tokio::spawn(serve_node(UnixListener::bind(socket).expect("socket")));
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    let made = cluster.send("POST", "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(made.status, 201, "{made:?}");
    let status = json!({"status": {"phase": "Running"}});
    cluster.send("PATCH", "/api/v1/namespaces/default/pods/p/status", &status).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_fetched_from_the_node_with_their_parameters() {
    let cluster = with_pod().await;
    let log = cluster.kubectl(&["logs", "p", "--tail=5", "--timestamps"], "").await;
    assert_eq!(
        log,
        "GET /containerLogs/default/p/c?tailLines=5&timestamps=true HTTP/1.1\nSUCCESS\n"
    );
    let previous = cluster.run(Path::new("kubectl"), &["logs", "p", "--previous"], "").await;
    assert_eq!(previous.code, 1);
    assert_eq!(
        previous.stderr.trim(),
        "Error from server (BadRequest): previous terminated container \"c\" in pod \"p\" not found"
    );
    let unknown = cluster.get("/api/v1/namespaces/default/pods/p/log?container=x").await;
    assert_eq!(unknown.body["message"], "container x is not valid for pod p");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_carries_input_output_and_exit_code() {
    let cluster = with_pod().await;
    let output =
        cluster.run(Path::new("kubectl"), &["exec", "-i", "p", "--", "cat"], "hello").await;
    assert_eq!((output.stdout.as_str(), output.code), ("out:hello", 3), "{output:?}");
    assert!(output.stderr.contains("command terminated with exit code 3"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_over_spdy_is_refused_with_the_reason() {
    let cluster = with_pod().await;
    let old = crate::cluster::debian_kubectl();
    let output = cluster.run(&old, &["exec", "p", "--", "true"], "").await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("exec and attach need WebSocket"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_node_agent_is_named_in_the_refusal() {
    let cluster = Cluster::start().await;
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    cluster.send("POST", "/api/v1/namespaces/default/pods", &pod).await;
    let answer = cluster.get("/api/v1/namespaces/default/pods/p/log").await;
    assert_eq!(answer.status, 500);
    let message = answer.body["message"].as_str().expect("message");
    assert!(message.starts_with("the node agent does not answer: "), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_forward_is_refused_with_the_way_around() {
    let cluster = with_pod().await;
    let output =
        cluster.run(Path::new("kubectl"), &["port-forward", "pod/p", "18080:80"], "").await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("pods share the network of this machine"), "{output:?}");
}
