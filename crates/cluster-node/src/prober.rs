//! Runs probes and hooks: exec, HTTP, TCP (mini-kubernetes.md 8.3, 8.8).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use container_runtime::{Container as Runner, ExecSpec, ExecStdin, Process, Terminal};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::exec::Streams;
use crate::pods::probes::Passed;

/// Output of a probe that is kept for the event.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// The result of one probe, with the text for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: Passed,
    pub(crate) output: String,
}

impl Outcome {
    fn of(result: Result<String, String>) -> Self {
        match result {
            Ok(output) => Outcome { passed: Passed::Yes, output },
            Err(output) => Outcome { passed: Passed::No, output },
        }
    }
}

/// What probes and hooks of one container act on.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) runner: Runner,
    pub(crate) process: Process,
    pub(crate) container: Arc<Container>,
    pub(crate) address: IpAddr,
}

/// Runs one probe.
pub(crate) async fn probe(target: &Target, probe: &Probe, timeout: Duration) -> Outcome {
    let work = async {
        if let Some(action) = &probe.exec {
            exec(target, action).await
        } else if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(target, action).await
        } else if let Some(action) = &probe.grpc {
            crate::grpc_health::check(target.address, action).await
        } else {
            Ok(String::new())
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => Outcome::of(result),
        Err(_) => Outcome::of(Err(timeout_text(probe, timeout))),
    }
}

fn timeout_text(probe: &Probe, timeout: Duration) -> String {
    let seconds = timeout.as_secs();
    match &probe.exec {
        Some(exec) => {
            let command = exec.command.as_deref().unwrap_or_default().join(" ");
            format!("command timed out: \"{command}\" timed out after {seconds}s")
        }
        None => {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        }
    }
}

/// Runs a `postStart` or `preStop` handler.
///
/// # Errors
/// The text for the event.
pub(crate) async fn hook(target: &Target, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        exec(target, action).await.map(drop)
    } else if let Some(action) = &handler.http_get {
        http_get(target, action).await.map(drop)
    } else if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        Ok(())
    } else {
        Ok(())
    }
}

/// Kills the process of a probe that is given up.
struct KillOnDrop(Streams);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

async fn exec(target: &Target, action: &ExecAction) -> Result<String, String> {
    let mut process = target.process.clone();
    process.args = action.command.clone().unwrap_or_default();
    let spec = ExecSpec { process, terminal: Terminal::None, stdin: ExecStdin::Null };
    let mut streams = KillOnDrop(
        Streams::exec(target.runner.clone(), spec).await.map_err(|error| error.to_string())?,
    );
    let mut output = Vec::new();
    let (mut stdout, mut stderr) = (streams.0.stdout.take(), streams.0.stderr.take());
    while stdout.is_some() || stderr.is_some() {
        let piece = tokio::select! {
            piece = next(&mut stdout), if stdout.is_some() => piece,
            piece = next(&mut stderr), if stderr.is_some() => piece,
        };
        let room = OUTPUT_BYTES_MAX.saturating_sub(output.len());
        output.extend(piece.iter().take(room));
    }
    let exit = streams.0.wait().await;
    let text = String::from_utf8_lossy(&output).into_owned();
    match exit {
        Some(exit) if exit.is_success() => Ok(text),
        Some(exit) if text.is_empty() => Err(format!("command exited with {}", exit.code())),
        _ => Err(text),
    }
}

/// The next piece of a source, which is dropped at its end.
async fn next(source: &mut Option<crate::exec::Source>) -> Bytes {
    let Some(open) = source else { return Bytes::new() };
    match open.next().await {
        Some(piece) => piece,
        None => {
            *source = None;
            Bytes::new()
        }
    }
}

/// A port by number or by the name of a port of the container.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => name.parse().ok().or_else(|| {
            let ports = container.ports.iter().flatten();
            let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
            named.next().map(|port| port.container_port)
        }),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}

fn host(host: Option<&String>, address: IpAddr) -> String {
    host.filter(|host| !host.is_empty()).cloned().unwrap_or_else(|| address.to_string())
}

/// Connects with the words of Go's dialer, which people search for.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let cause = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {host}:{port}: {cause}")
    })
}

async fn tcp(target: &Target, action: &TCPSocketAction) -> Result<String, String> {
    let port = port(&action.port, &target.container)?;
    dial(&host(action.host.as_ref(), target.address), port).await.map(|_| String::new())
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<String, String> {
    let port = port(&action.port, &target.container)?;
    let host = host(action.host.as_ref(), target.address);
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = if https { "https" } else { "http" };
    let failed = |error: String| format!("Get \"{scheme}://{host}:{port}{path}\": {error}");
    let mut request = http::Request::get(&path);
    let headers = action.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    if !has("host") {
        request = request.header("Host", format!("{host}:{port}"));
    }
    if !has("user-agent") {
        request = request.header("User-Agent", "kube-probe/1.35");
    }
    if !has("accept") {
        request = request.header("Accept", "*/*");
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(error.to_string()))?;
    let stream = dial(&host, port).await.map_err(&failed)?;
    let (status, body) = if https {
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls()));
        let stream =
            connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
        send(stream, request).await.map_err(&failed)?
    } else {
        send(stream, request).await.map_err(&failed)?
    };
    if (200..400).contains(&status) {
        Ok(body)
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, String), String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), OUTPUT_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection is driven beside the exchange, so that nothing outlives the probe.
    tokio::select! {
        result = &mut exchange => return result,
        ended = connection => ended.map_err(text)?,
    }
    exchange.await
}

/// Probes accept any certificate, as the kubelet's do: they ask for life, not for identity.
fn tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    #[expect(clippy::expect_used, reason = "the provider supports the default versions")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3");
    builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn target(dir: &std::path::Path) -> Target {
        let runtime = container_runtime::Runtime::open(dir).expect("runtime");
        std::fs::create_dir_all(dir.join("c")).expect("directory");
        Target {
            runner: runtime.container("c").expect("container"),
            process: Process::new(["true"]),
            container: Arc::new(
                serde_json::from_value(serde_json::json!({
                    "name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .expect("container"),
            ),
            address: IpAddr::from([127, 0, 0, 1]),
        }
    }

    #[test]
    fn ports_are_found_by_number_text_and_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let container = target(dir.path()).container;
        let named = |name: &str| port(&IntOrString::String(name.into()), &container);
        assert_eq!(port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(named("web"), Ok(8080));
        assert_eq!(named("81"), Ok(81));
        assert!(named("none").is_err());
        assert!(port(&IntOrString::Int(0), &container).is_err());
    }

    /// mini-kubernetes.md 14, row 69: HTTP statuses from 200 to 399 pass.
    #[tokio::test]
    async fn row_69_http_and_tcp_probes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = target(dir.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let number = listener.local_addr().expect("address").port();
        let server = tokio::spawn(async move {
            for status in ["200 OK", "302 Found", "404 Not Found", "500 Oops"] {
                let (mut stream, _) = listener.accept().await.expect("connection");
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).await.expect("request");
                let text = String::from_utf8_lossy(&buffer[..read]).to_lowercase();
                assert!(text.contains("user-agent: kube-probe/"), "{text}");
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nhi");
                stream.write_all(answer.as_bytes()).await.expect("answer");
            }
        });
        let http: Probe = serde_json::from_value(
            serde_json::json!({"httpGet": {"path": "healthz", "port": number}}),
        )
        .expect("probe");
        let time = Duration::from_secs(10);
        for expected in [Passed::Yes, Passed::Yes, Passed::No] {
            assert_eq!(probe(&target, &http, time).await.passed, expected);
        }
        let last = probe(&target, &http, time).await;
        assert_eq!(last.output, "HTTP probe failed with statuscode: 500");
        server.await.expect("server");
        let refused = probe(&target, &http, time).await.output;
        assert!(
            refused.ends_with(&format!("dial tcp 127.0.0.1:{number}: connect: connection refused")),
            "{refused}"
        );
        let tcp: Probe = serde_json::from_value(serde_json::json!({"tcpSocket": {"port": number}}))
            .expect("probe");
        assert_eq!(probe(&target, &tcp, time).await.passed, Passed::No);
        let listener = TcpListener::bind(("127.0.0.1", number)).await.expect("listener");
        assert_eq!(probe(&target, &tcp, time).await.passed, Passed::Yes);
        drop(listener);
    }
}
