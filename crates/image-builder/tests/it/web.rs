//! A small web server for fetching tests: it keeps every request, and answers as it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path with query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// An answer.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// A server on a loopback port; it ends with the process.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Web {
    pub(crate) fn new(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (kept, answer): (_, Arc<Answer>) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || serve(&connection, &kept, &*answer));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far, which are forgotten.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().expect("requests"))
    }

    /// Serves the git repositories below a directory with git's own CGI program; `allowed` says
    /// whether an `Authorization` header opens them.
    pub(crate) fn git(root: &Path, allowed: fn(Option<&str>) -> bool) -> Self {
        let root = root.to_owned();
        Self::new(move |request| {
            if allowed(request.header("authorization")) {
                git_backend(&root, request)
            } else {
                Response::new(401, "who are you?").with("WWW-Authenticate", "Basic realm=\"git\"")
            }
        })
    }
}

fn serve(connection: &TcpStream, kept: &Mutex<Vec<Request>>, answer: &Answer) {
    let mut reader = BufReader::new(connection);
    // A connection that ends between requests, or a client that gives up, is no failure.
    while let Some(request) = read_request(&mut reader) {
        kept.lock().expect("requests").push(request.clone());
        let response = answer(&request);
        let mut head = format!("HTTP/1.1 {} Answer\r\n", response.status);
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", response.body.len()));
        let body = if request.method == "HEAD" { &[][..] } else { &response.body };
        let mut out = connection;
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body)).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| {
        line.clear();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes != 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = next(reader)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = next(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(&next(reader)?, 16).ok()?;
            let mut piece = vec![0; size];
            reader.read_exact(&mut piece).ok()?;
            request.body.extend(piece);
            next(reader)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length").and_then(|n| n.parse().ok()) {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        request.body = body;
    }
    Some(request)
}

fn git_backend(root: &Path, request: &Request) -> Response {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let header = |name| request.header(name).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", request.path())
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let (mut input, body) = (child.stdin.take().expect("piped"), request.body.clone());
    // A backend that refuses does not read.
    let writer = std::thread::spawn(move || drop(input.write_all(&body)));
    let output = child.wait_with_output().expect("git ends");
    writer.join().expect("the writer does not panic");
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let mut response = Response::new(200, output.stdout.get(end + 4..).unwrap_or_default());
    for line in String::from_utf8_lossy(&output.stdout[..end]).lines() {
        match line.split_once(':') {
            Some(("Status", status)) => {
                let code = status.split_whitespace().next().and_then(|code| code.parse().ok());
                response.status = code.unwrap_or(500);
            }
            Some((name, value)) => response = response.with(name, value.trim()),
            None => {}
        }
    }
    response
}

/// A repository that is written by a shell script and then served bare.
pub(crate) fn repository(root: &Path, name: &str, format: &str, script: &str) -> PathBuf {
    let work = root.join(format!("{name}-work"));
    let bare = root.join(format!("{name}.git"));
    let whole = format!(
        "set -e; git init -q -b main --object-format={format} {work}; cd {work}; {script}; \
         git clone -q --bare . {bare}; cd {bare}; git config uploadpack.allowAnySHA1InWant true",
        work = work.display(),
        bare = bare.display(),
    );
    let output = Command::new("sh")
        .args(["-c", &whole])
        .env("HOME", root)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .env("GIT_AUTHOR_DATE", "2020-01-02T03:04:05Z")
        .env("GIT_COMMITTER_DATE", "2020-01-02T03:04:05Z")
        .output()
        .expect("sh and git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    work
}

/// What git prints in a directory.
pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").current_dir(directory).args(arguments).output();
    String::from_utf8_lossy(&output.expect("git").stdout).trim().to_owned()
}
