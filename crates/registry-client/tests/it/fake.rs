//! A registry whose every answer a test writes down, on a loopback port of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether it came in plain HTTP.
    pub(crate) in_clear: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    cut: Option<usize>,
}

pub(crate) fn answer(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

impl Answer {
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

pub(crate) struct Fake {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Starts a server that answers with `script`.
    pub(crate) async fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with("127.0.0.1", Greeted::Refused, script).await
    }

    /// Starts a server at another address of this machine.
    pub(crate) async fn start_at(
        address: &str,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(address, Greeted::Refused, script).await
    }

    /// Starts a server of plain HTTP that closes the connection when it is greeted in TLS.
    pub(crate) async fn start_closing(
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with("127.0.0.1", Greeted::Closed, script).await
    }

    /// Starts a server that speaks HTTPS, and plain HTTP on the same port.
    pub(crate) async fn start_tls(
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_tls_up_to(usize::MAX, script).await
    }

    /// Starts such a server, which closes further TLS connections after `most`.
    pub(crate) async fn start_tls_up_to(
        most: usize,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let left = Arc::new(AtomicUsize::new(most));
        let greeted = Greeted::Answered(TlsAcceptor::from(Arc::new(config)), left);
        Self::start_with("127.0.0.1", greeted, script).await
    }

    async fn start_with(
        address: &str,
        greeted: Greeted,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, greeted) = (script.clone(), log.clone(), greeted.clone());
                tokio::spawn(async move { accept(stream, greeted, &*script, &log).await });
            }
        });
        Self { address, seen }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD target` of the requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let seen = self.seen();
        seen.iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }
}

/// What becomes of a TLS handshake.
#[derive(Clone)]
enum Greeted {
    /// An answer in plain HTTP.
    Refused,
    /// The connection ends.
    Closed,
    /// It succeeds, so many times.
    Answered(TlsAcceptor, Arc<AtomicUsize>),
}

async fn accept(
    stream: TcpStream,
    greeted: Greeted,
    script: &(dyn Fn(&Request) -> Answer + Send + Sync),
    log: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    // A TLS handshake begins with byte 22; plain servers answer it with an HTTP error.
    match (*stream.fill_buf().await.ok()?.first()? == 22, greeted) {
        (false, _) => serve(stream, true, script, log).await,
        (true, Greeted::Closed) => None,
        (true, Greeted::Answered(tls, left)) => {
            let spend = |left: usize| left.checked_sub(1);
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).ok()?;
            let stream = tls.accept(stream).await.ok()?;
            serve(BufReader::new(stream), false, script, log).await
        }
        (true, Greeted::Refused) => {
            let refusal = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
            stream.write_all(refusal).await.ok()
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    in_clear: bool,
    script: &(dyn Fn(&Request) -> Answer + Send + Sync),
    log: &Mutex<Vec<Request>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length").and_then(|text| text.parse().ok()) {
        let mut limited = (&mut stream).take(length);
        limited.read_to_end(&mut body).await.ok()?;
    }
    let request = Request { method, target, headers, body, in_clear };
    let answer = script(&request);
    let head_only = request.method == "HEAD";
    log.lock().unwrap().push(request);
    let mut bytes = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status).into_bytes();
    let mut length_given = false;
    for (name, value) in &answer.headers {
        length_given |= name.eq_ignore_ascii_case("content-length");
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !length_given {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", answer.body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    if !head_only {
        bytes.extend_from_slice(&answer.body[..answer.cut.unwrap_or(answer.body.len())]);
    }
    stream.write_all(&bytes).await.ok()?;
    stream.flush().await.ok()?;
    stream.shutdown().await.ok()
}
