//! The clouds as a test plays them: one server that is the proxy of the process under test, shows a
//! certificate for every host that is asked for, and records what came where. So the exchanges run
//! over real HTTPS, with the clouds' own host names and without any endpoint being overridden; the
//! metadata services, which no proxy is used for, are the same server on loopback.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tempfile::TempDir;

use crate::machine::{Ran, base64_encode, run, shipway};

/// A text that must never be seen outside of a credential: part of every secret of these tests.
pub(crate) const CANARY: &str = "c4n4ry5e4c1d";

/// Whether the canary is in a text, as it is or in base64, wherever in the encoded bytes it was.
pub(crate) fn shows_canary(text: &str) -> bool {
    let mut encoded = (0..3).map(|before| {
        let encoded = base64_encode(&format!("{}{CANARY}", "x".repeat(before)));
        // The first and the last characters depend on what stands beside it.
        let whole = (before + CANARY.len()) / 3 * 4;
        encoded[(before * 8).div_ceil(6)..whole].to_owned()
    });
    text.contains(CANARY) || encoded.any(|encoded| text.contains(&encoded))
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The host that was asked; `127.0.0.1` for metadata.
    pub(crate) host: String,
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Received {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What the server says.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    stalls: bool,
    is_cut: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), stalls: false, is_cut: false }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Never answers.
    pub(crate) fn stall() -> Self {
        Self { stalls: true, ..Self::new(200, "") }
    }

    /// Ends in the middle of the body.
    pub(crate) fn cut(self) -> Self {
        Self { is_cut: true, ..self }
    }
}

type Handler = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    received: Mutex<Vec<Received>>,
    tls: Arc<rustls::ServerConfig>,
}

/// All clouds of one test.
pub(crate) struct Clouds {
    shared: Arc<Shared>,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    dir: TempDir,
}

/// Signs a certificate for whoever is asked for.
#[derive(Debug)]
struct EveryHost {
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl ResolvesServerCert for EveryHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_owned();
        let key = rcgen::KeyPair::generate().ok()?;
        let parameters = rcgen::CertificateParams::new(vec![name]).ok()?;
        let certificate = parameters.signed_by(&key, &self.authority).ok()?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
    }
}

impl Clouds {
    /// Starts them; `handler` answers every request, whichever host it is for.
    pub(crate) fn start(handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::Builder::new().prefix("shipway-clouds-").tempdir().expect("a place");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).expect("an authority");
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).expect("a file");
        for name in ["home", "bin"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(EveryHost { authority }));
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            received: Mutex::default(),
            tls: Arc::new(tls),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                // Whoever is refused or killed closes the connection: that is no failure here.
                std::thread::spawn(move || {
                    let _ = server.serve(stream);
                });
            }
        });
        Self { shared, address, dir }
    }

    /// What came so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests went to a host.
    pub(crate) fn count(&self, host: &str) -> usize {
        self.received().iter().filter(|request| request.host == host).count()
    }

    /// Path of something of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and returns its path as text.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// A second name of the binary under test.
    pub(crate) fn link(&self, name: &str) -> PathBuf {
        let link = self.path("bin").join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shipway"), &link).expect("a link");
        link
    }

    /// Lets a command see these clouds, a home of its own, and no identity of this machine.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let search = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin").display());
        command
            .env_clear()
            .env("PATH", search)
            .env("HOME", self.path("home"))
            .env("SHIPWAY_STATE_DIR", self.path("state"))
            .env("HTTPS_PROXY", format!("http://{}", self.address))
            .env("SSL_CERT_FILE", self.path("ca.pem"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("TMPDIR", self.dir.path())
    }

    /// Runs a program that sees these clouds.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
        stdin: &str,
    ) -> Ran {
        let mut command = Command::new(program);
        command.args(arguments);
        self.prepare(&mut command).envs(variables.iter().copied());
        run(&mut command, stdin)
    }

    /// Runs the binary under test.
    pub(crate) fn shipway(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        stdin: &str,
    ) -> Ran {
        let program = shipway().get_program().to_owned();
        self.run(Path::new(&program), arguments, variables, stdin)
    }

    /// Asks a provider as a kubelet does.
    pub(crate) fn provider(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        image: &str,
    ) -> Ran {
        let mut all = vec!["credential-provider"];
        all.extend(arguments);
        self.shipway(&all, variables, &request("v1", image, ""))
    }
}

/// What a kubelet writes to a provider.
pub(crate) fn request(version: &str, image: &str, more: &str) -> String {
    format!(
        r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/{version}","kind":"CredentialProviderRequest","image":"{image}"{more}}}"#
    )
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut plain = BufReader::new(stream);
        let Some(request) = read_request(&mut plain, None)? else { return Ok(()) };
        if request.method != "CONNECT" {
            let is_head = request.method == "HEAD";
            let reply = self.answer(request);
            return write_reply(plain.get_mut(), reply, is_head);
        }
        let host = request.path.split(':').next().unwrap_or_default().to_owned();
        plain.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let connection =
            rustls::ServerConnection::new(Arc::clone(&self.tls)).map_err(std::io::Error::other)?;
        let mut tls = BufReader::new(rustls::StreamOwned::new(connection, plain.into_inner()));
        while let Some(request) = read_request(&mut tls, Some(&host))? {
            let is_head = request.method == "HEAD";
            let reply = self.answer(request);
            let is_last = reply.is_cut;
            write_reply(tls.get_mut(), reply, is_head)?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, request: Received) -> Reply {
        let reply = (self.handler)(&request);
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        reply
    }
}

fn read_request(
    stream: &mut impl std::io::BufRead,
    host: Option<&str>,
) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let named = headers.get("host").map(|host| host.split(':').next().unwrap_or(host).to_owned());
    Ok(Some(Received {
        host: host.map(str::to_owned).or(named).unwrap_or_default(),
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

fn write_reply(stream: &mut impl Write, reply: Reply, is_head: bool) -> std::io::Result<()> {
    if reply.stalls {
        // Until the test ends; the thread is nobody's.
        loop {
            std::thread::park();
        }
    }
    let mut head = format!("HTTP/1.1 {} said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    stream.write_all(head.as_bytes())?;
    let length = match (is_head, reply.is_cut) {
        (true, _) => 0,
        (false, true) => reply.body.len() / 2,
        (false, false) => reply.body.len(),
    };
    stream.write_all(&reply.body[..length])?;
    stream.flush()
}
