//! `exec` and `attach`: a process connected to a WebSocket.

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use container_runtime::{
    AttachOptions, ExecSpec, ExecStdin, State as RunState, Terminal, WindowSize,
};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::protocol::{self, FromClient, STDERR, STDOUT};
use super::{Context, Refusal, find};
use crate::directories::RunRecord;
use crate::exec::{Sink, Source, Streams};

type Socket = WebSocketStream<TokioIo<Upgraded>>;
/// Changes of the terminal's size that may wait.
const RESIZES_MAX: usize = 8;

/// What the query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Starts a process in a container.
pub(super) async fn exec(
    State(context): State<Context>,
    Path((namespace, pod, uid, container)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = wanted(query.as_deref().unwrap_or_default());
    if wanted.command.is_empty() {
        return Err(Refusal::bad_request(
            "you must specify at least 1 command for the container".to_owned(),
        ));
    }
    let (runner, run) = match running(&context, &namespace, &pod, &uid, &container)? {
        Ok(found) => found,
        Err(text) => return refuse_late(&context, request, text),
    };
    let mut process = run.process;
    process.args.clone_from(&wanted.command);
    if wanted.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let spec = ExecSpec {
        process,
        terminal: if wanted.tty { Terminal::Size(WindowSize::default()) } else { Terminal::None },
        stdin: if wanted.stdin { ExecStdin::Pipe } else { ExecStdin::Null },
    };
    upgrade(&context, request, move |mut socket| async move {
        match Streams::exec(runner, spec).await {
            Ok(streams) => connect(socket, streams, &wanted).await,
            Err(error) => {
                let text = error.to_string();
                let status = match error.code {
                    Some(code) => {
                        let line = protocol::encode(STDERR, format!("{text}\n").as_bytes());
                        let _ = socket.send(Message::Binary(line)).await;
                        protocol::status(i32::from(code))
                    }
                    None => protocol::failure(&text),
                };
                let _ = socket.send(Message::Binary(status)).await;
                let _ = socket.send(goodbye()).await;
            }
        }
    })
}

/// Connects to the first process of a container.
pub(super) async fn attach(
    State(context): State<Context>,
    Path((namespace, pod, uid, container)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = wanted(query.as_deref().unwrap_or_default());
    let (runner, _) = match running(&context, &namespace, &pod, &uid, &container)? {
        Ok(found) => found,
        Err(text) => return refuse_late(&context, request, text),
    };
    let options = AttachOptions {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !wanted.tty,
    };
    upgrade(&context, request, move |mut socket| async move {
        match Streams::attach(runner, options).await {
            Ok(streams) => connect(socket, streams, &wanted).await,
            Err(error) => {
                let _ = socket.send(Message::Binary(protocol::failure(&error))).await;
                let _ = socket.send(goodbye()).await;
            }
        }
    })
}

fn wanted(query: &str) -> Wanted {
    let mut wanted = Wanted::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unquote(value);
        let is_set = matches!(value.as_str(), "1" | "true");
        match name {
            "command" => wanted.command.push(value),
            "input" | "stdin" => wanted.stdin = is_set,
            "output" | "stdout" => wanted.stdout = is_set,
            "error" | "stderr" => wanted.stderr = is_set,
            "tty" => wanted.tty = is_set,
            _ => {}
        }
    }
    wanted
}

/// Undoes percent-encoding; `+` is a space.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The running container that a request names, or the text why there is none.
fn running(
    context: &Context,
    namespace: &str,
    pod: &str,
    uid: &str,
    container: &str,
) -> Result<Result<(container_runtime::Container, RunRecord), String>, Refusal> {
    let (uid, _, spec) = find(context, namespace, pod, Some(uid), container)?;
    let run = context.shared.directories.runs(&uid, &spec.name).pop();
    let found = run.and_then(|run| Some((context.shared.runtime.container(&run.id)?, run)));
    Ok(match found {
        Some((runner, run)) if matches!(runner.state(), Ok(RunState::Running { .. })) => {
            Ok((runner, run))
        }
        _ => Err(format!("container \"{container}\" of pod \"{pod}\" is not running")),
    })
}

/// Refuses behind the switch of protocols: a refusal before it makes kubectl try SPDY and show
/// that error in place of ours.
fn refuse_late(context: &Context, request: Request, text: String) -> Result<Response, Refusal> {
    upgrade(context, request, move |mut socket| async move {
        let _ = socket.send(Message::Binary(protocol::failure(&text))).await;
        let _ = socket.send(goodbye()).await;
    })
}

/// Answers with a switch of protocols and hands the socket to `work`.
fn upgrade<F>(
    context: &Context,
    request: Request,
    work: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response, Refusal>
where
    F: Future<Output = ()> + Send + 'static,
{
    let headers = request.headers();
    let is_websocket = text(headers, "upgrade").eq_ignore_ascii_case("websocket");
    let key = text(headers, "sec-websocket-key").to_owned();
    if !is_websocket || key.is_empty() {
        return Err(Refusal::bad_request("Upgrade request required".to_owned()));
    }
    let offered: Vec<&str> = headers
        .get_all("sec-websocket-protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let protocol = protocol::choose(&offered.join(",")).ok_or_else(|| {
        Refusal::bad_request(format!("none of the protocols \"{}\" is served", offered.join(",")))
    })?;
    let accept = derive_accept_key(key.as_bytes());
    let stop = context.stop.clone();
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(request).await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                return;
            }
        };
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        tokio::select! {
            () = work(socket) => {}
            () = stop.stopped() => {}
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", protocol)
        .body(Body::empty());
    response.map_err(|error| Refusal::bad_request(error.to_string()))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The end of a stream. Without its code 1000 client-go takes the end for a broken connection and
/// loses the exit code.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Copies between a process and its client until the process has ended or the client has left.
async fn connect(socket: Socket, mut streams: Streams, wanted: &Wanted) {
    let (sink, stream) = socket.split();
    let (resizes, resized) = mpsc::channel(RESIZES_MAX);
    let stdin = streams.stdin.take().filter(|_| wanted.stdin);
    let ended = {
        let output = send_output(sink, &mut streams, wanted, resized);
        tokio::select! {
            ended = output => ended,
            () = take_input(stream, stdin, resizes) => None,
        }
    };
    let Some(mut sink) = ended else {
        // The client has left: nobody will read what the process still has to say.
        streams.kill();
        return;
    };
    let status = protocol::status(protocol::code(streams.wait().await));
    let _ = sink.send(Message::Binary(status)).await;
    let _ = sink.send(goodbye()).await;
    let _ = sink.close().await;
}

/// Sends output until all of it has ended; gives the sink back, or nothing if the client is gone.
async fn send_output(
    mut sink: SplitSink<Socket, Message>,
    streams: &mut Streams,
    wanted: &Wanted,
    mut resizes: mpsc::Receiver<WindowSize>,
) -> Option<SplitSink<Socket, Message>> {
    let mut stdout = streams.stdout.take();
    let mut stderr = streams.stderr.take();
    if stdout.is_none() && stderr.is_none() {
        streams.wait().await;
        return Some(sink);
    }
    while stdout.is_some() || stderr.is_some() {
        let (channel, piece) = tokio::select! {
            piece = next(&mut stdout), if stdout.is_some() => (STDOUT, piece),
            piece = next(&mut stderr), if stderr.is_some() => (STDERR, piece),
            Some(size) = resizes.recv() => {
                streams.resize(size);
                continue;
            }
        };
        let is_wanted = if channel == STDOUT { wanted.stdout } else { wanted.stderr };
        match piece {
            None if channel == STDOUT => stdout = None,
            None => stderr = None,
            Some(piece) if is_wanted => {
                sink.send(Message::Binary(protocol::encode(channel, &piece))).await.ok()?;
            }
            Some(_) => {}
        }
    }
    Some(sink)
}

async fn next(source: &mut Option<Source>) -> Option<Bytes> {
    source.as_mut()?.next().await
}

/// Takes input until the client leaves; end of stdin is dropping the sink.
async fn take_input(
    mut stream: SplitStream<Socket>,
    mut stdin: Option<Sink>,
    resizes: mpsc::Sender<WindowSize>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match protocol::decode(&bytes) {
            FromClient::Stdin(bytes) => {
                let gone = match &mut stdin {
                    Some(sink) => sink.write(bytes).await.is_err(),
                    None => false,
                };
                if gone {
                    stdin = None;
                }
            }
            FromClient::CloseStdin => stdin = None,
            FromClient::Resize(size) => {
                let _ = resizes.send(size).await;
            }
            FromClient::Ignored => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_names_command_words_and_streams() {
        assert_eq!(
            wanted("command=sh&command=%2Dc&command=a%20%26b+c&input=1&output=true&tty=0"),
            Wanted {
                command: vec!["sh".into(), "-c".into(), "a &b c".into()],
                stdin: true,
                stdout: true,
                stderr: false,
                tty: false,
            }
        );
        assert_eq!(unquote("100%"), "100%");
        assert_eq!(unquote("%C3%A9%zz"), "é%zz");
    }
}
