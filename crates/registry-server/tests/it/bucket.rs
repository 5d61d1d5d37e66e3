//! A bucket for tests: a strict server of the part of S3 that we use, in this process.
//!
//! Conditional writes are atomic, parts but the last must have 5 MiB, an upload that ended is
//! unknown. Requests can be made to fail, to lose their answers, or to wait at a gate. Each
//! [`Bucket`] is a server and a bucket of its own. `bucket_peers` holds it against moto.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use oci_model::Digest;
use registry_server::BucketOptions;
use tokio::sync::watch;

/// Name of every bucket.
pub(crate) const NAME: &str = "registry-bucket";

/// Smallest part that is not the last.
const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

/// Objects in one page of a listing.
const PAGE: usize = 1000;

/// A bucket with a server of its own; both end with it.
pub(crate) struct Bucket {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What happens to requests that match.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The method, and for multipart requests what they do: `PUT`, `PUT part`, `POST begin`,
    /// `POST join`, `DELETE abort`, `GET`, `HEAD`, `DELETE`, `GET list`.
    pub(crate) request: &'static str,
    /// Beginning of the key.
    pub(crate) key: &'static str,
    pub(crate) how: How,
    /// How many requests it hits.
    pub(crate) times: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum How {
    /// 503 SlowDown, with nothing done.
    SlowDown,
    /// Done, but the connection breaks before the answer.
    LostAnswer,
    /// Waits, before anything is done, until the gate opens. Whoever waits for
    /// [`Gate::reached`] knows that a request is there.
    Held(Gate),
}

/// Where requests wait.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    reached: Arc<watch::Sender<bool>>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            reached: Arc::new(watch::Sender::new(false)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Waits until a request stands at the gate.
    pub(crate) async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        reached.wait_for(|reached| *reached).await.expect("a gate");
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        self.reached.send_replace(true);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("a gate");
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// By name of the attempt: the key, and the parts by number.
    multiparts: HashMap<String, (String, BTreeMap<u32, Object>)>,
    begun: u64,
    faults: Vec<Fault>,
    /// What was asked, in order: the words of [`Fault::request`] and the key.
    log: Vec<String>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    entity_tag: String,
    modified: jiff::Timestamp,
}

impl Object {
    fn new(bytes: Bytes) -> Self {
        let entity_tag = format!("\"{}\"", &Digest::of(&bytes).encoded()[..32]);
        Self { bytes, entity_tag, modified: jiff::Timestamp::now() }
    }
}

impl Bucket {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = Arc::clone(&shared);
        // A thread and a runtime of its own: it outlives runtimes that a test ends.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(served, listener, stopped));
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// How a registry reaches it.
    pub(crate) fn options(&self) -> BucketOptions {
        options(&format!("http://{}", self.address))
    }

    /// URL of the server.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keys of the objects, below `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        state.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub(crate) fn object(&self, key: &str) -> Option<Bytes> {
        self.lock().objects.get(key).map(|object| object.bytes.clone())
    }

    /// Puts an object behind everybody's back.
    pub(crate) fn plant(&self, key: &str, bytes: impl Into<Bytes>) {
        self.lock().objects.insert(key.to_owned(), Object::new(bytes.into()));
    }

    /// Removes an object behind everybody's back.
    pub(crate) fn lose(&self, key: &str) {
        self.lock().objects.remove(key).expect(key);
    }

    /// Keys of the multipart uploads that go on.
    pub(crate) fn multiparts(&self) -> Vec<String> {
        self.lock().multiparts.values().map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// What was asked since the last call: method and key.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked if a test did something that it does not know; the test failed then.
            let _ = thread.join();
        }
    }
}

/// How a registry reaches the bucket at a server of S3.
pub(crate) fn options(endpoint: &str) -> BucketOptions {
    let mut options = BucketOptions::new(format!("s3://{NAME}/registry"));
    options.endpoint = Some(endpoint.to_owned());
    options.allow_http = true;
    for (name, value) in [("aws_access_key_id", "key"), ("aws_secret_access_key", "secret")] {
        options.settings.insert(name.to_owned(), value.to_owned());
    }
    options
}

async fn serve(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted.expect("a connection"),
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let handler = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { answer(&shared, request).await }
            });
            // A client may go whenever it likes.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), handler)
                .await;
        });
    }
}

/// The connection breaks instead of an answer.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lost")
    }
}

impl std::error::Error for Lost {}

type Reply = Response<Full<Bytes>>;

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Reply, Lost> {
    let (parts, body) = request.into_parts();
    // Whoever breaks off in the middle of a body wrote nothing.
    let Ok(body) = body.collect().await else { return Err(Lost) };
    let body = body.to_bytes();
    let query: HashMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect();
    let path = decoded(parts.uri.path());
    let (bucket, key) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    assert_eq!(bucket, NAME, "a request for another bucket");
    let kind = kind(&parts.method, key, &query);
    let lock = || shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = {
        let mut state = lock();
        state.log.push(format!("{kind} {key}"));
        let hit = state
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && fault.request == kind && key.starts_with(fault.key));
        hit.map(|fault| {
            fault.times -= 1;
            fault.how.clone()
        })
    };
    match &fault {
        Some(How::SlowDown) => return Ok(refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(How::Held(gate)) => gate.pass().await,
        Some(How::LostAnswer) | None => {}
    }
    // One request after the other: that makes conditions atomic.
    let mut reply = lock().answer(&kind, key, &query, &parts.headers, body);
    if matches!(fault, Some(How::LostAnswer)) {
        return Err(Lost);
    }
    if parts.method == Method::HEAD {
        *reply.body_mut() = Full::default();
    }
    Ok(reply)
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned()
}

fn kind(method: &Method, key: &str, query: &HashMap<String, String>) -> String {
    let what = match *method {
        Method::GET if key.is_empty() => " list",
        Method::PUT if query.contains_key("partNumber") => " part",
        Method::POST if query.contains_key("uploads") => " begin",
        Method::POST if query.contains_key("uploadId") => " join",
        Method::DELETE if query.contains_key("uploadId") => " abort",
        _ => "",
    };
    format!("{method}{what}")
}

impl State {
    fn answer(
        &mut self,
        kind: &str,
        key: &str,
        query: &HashMap<String, String>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Reply {
        let attempt = query.get("uploadId").cloned().unwrap_or_default();
        match kind {
            "PUT" => match self.condition(key, headers) {
                Some(refusal) => refusal,
                None => {
                    let object = Object::new(body);
                    let reply = with_tag(StatusCode::OK, &object.entity_tag, Bytes::new());
                    self.objects.insert(key.to_owned(), object);
                    reply
                }
            },
            "PUT part" => {
                let number = query["partNumber"].parse().expect("a number");
                let Some((_, parts)) =
                    self.multiparts.get_mut(&attempt).filter(|(owner, _)| owner == key)
                else {
                    return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                let object = Object::new(body);
                let reply = with_tag(StatusCode::OK, &object.entity_tag, Bytes::new());
                parts.insert(number, object);
                reply
            }
            "POST begin" => {
                self.begun += 1;
                let attempt = format!("attempt-{}", self.begun);
                self.multiparts.insert(attempt.clone(), (key.to_owned(), BTreeMap::new()));
                let root = "InitiateMultipartUploadResult";
                xml(root, &format!("<UploadId>{attempt}</UploadId>"))
            }
            "POST join" => self.join(key, &attempt, headers, &body),
            "DELETE abort" => match self.multiparts.remove(&attempt) {
                Some(_) => with_tag(StatusCode::NO_CONTENT, "", Bytes::new()),
                None => refused(StatusCode::NOT_FOUND, "NoSuchUpload"),
            },
            "GET" | "HEAD" => self.read(key, headers),
            "DELETE" => {
                self.objects.remove(key);
                with_tag(StatusCode::NO_CONTENT, "", Bytes::new())
            }
            "GET list" => self.list(query),
            other => panic!("the test bucket does not know {other} {key:?}"),
        }
    }

    fn condition(&self, key: &str, headers: &HeaderMap) -> Option<Reply> {
        let failed = || Some(refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"));
        let found = self.objects.get(key);
        if let Some(wanted) = headers.get(header::IF_NONE_MATCH) {
            assert_eq!(wanted, "*", "S3 knows no other If-None-Match on writes");
            if found.is_some() {
                return failed();
            }
        }
        match (headers.get(header::IF_MATCH), found) {
            (None, _) => None,
            (Some(_), None) => Some(refused(StatusCode::NOT_FOUND, "NoSuchKey")),
            (Some(wanted), Some(found)) if *wanted == found.entity_tag => None,
            (Some(_), Some(_)) => failed(),
        }
    }

    fn join(&mut self, key: &str, attempt: &str, headers: &HeaderMap, body: &[u8]) -> Reply {
        let body = std::str::from_utf8(body).expect("XML").replace("&quot;", "\"");
        let Some((_, parts)) = self.multiparts.get(attempt).filter(|(owner, _)| owner == key)
        else {
            return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let mut whole = Vec::new();
        let numbers = between(&body, "PartNumber");
        let tags = between(&body, "ETag");
        assert_eq!(numbers.len(), tags.len(), "{body}");
        for (place, (number, tag)) in numbers.iter().zip(&tags).enumerate() {
            let number: u32 = number.parse().expect("a number");
            let Some(part) = parts.get(&number).filter(|part| part.entity_tag == *tag) else {
                return refused(StatusCode::BAD_REQUEST, "InvalidPart");
            };
            if place + 1 < numbers.len() && part.bytes.len() < PART_BYTES_MIN {
                return refused(StatusCode::BAD_REQUEST, "EntityTooSmall");
            }
            whole.extend_from_slice(&part.bytes);
        }
        if numbers.is_empty() {
            return refused(StatusCode::BAD_REQUEST, "MalformedXML");
        }
        if let Some(refusal) = self.condition(key, headers) {
            return refusal;
        }
        self.multiparts.remove(attempt);
        let object = Object::new(whole.into());
        let tag = object.entity_tag.replace('"', "&quot;");
        self.objects.insert(key.to_owned(), object);
        let content = format!("<Key>{key}</Key><ETag>{tag}</ETag>");
        xml("CompleteMultipartUploadResult", &content)
    }

    fn read(&self, key: &str, headers: &HeaderMap) -> Reply {
        let Some(object) = self.objects.get(key) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let size = object.bytes.len();
        let range = headers.get(header::RANGE).map(|range| {
            let range = range.to_str().expect("text").strip_prefix("bytes=").expect("bytes");
            let (first, last) = range.split_once('-').expect("a range");
            let first: usize = first.parse().expect("a number");
            let last = if last.is_empty() { size } else { last.parse().expect("a number") };
            (first, last.min(size.saturating_sub(1)))
        });
        let mut reply = match range {
            Some((first, _)) if first >= size => {
                return refused(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
            }
            Some((first, last)) => {
                let bytes = object.bytes.slice(first..=last);
                let mut reply = with_tag(StatusCode::PARTIAL_CONTENT, &object.entity_tag, bytes);
                let range = format!("bytes {first}-{last}/{size}").parse().expect("a header");
                reply.headers_mut().insert(header::CONTENT_RANGE, range);
                reply
            }
            None => with_tag(StatusCode::OK, &object.entity_tag, object.bytes.clone()),
        };
        let length = http_body::Body::size_hint(reply.body()).lower();
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        let modified = object.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        headers.insert(header::LAST_MODIFIED, modified.parse().expect("a header"));
        reply
    }

    fn list(&self, query: &HashMap<String, String>) -> Reply {
        assert_eq!(query.get("list-type").map(String::as_str), Some("2"));
        let prefix = query.get("prefix").map_or("", String::as_str);
        let delimiter = query.get("delimiter").map(String::as_str);
        let after = query.get("continuation-token").or_else(|| query.get("start-after"));
        let page = query.get("max-keys").and_then(|keys| keys.parse().ok()).unwrap_or(PAGE);
        let (mut content, mut count, mut last) = (String::new(), 0, None);
        let mut folders = std::collections::BTreeSet::new();
        let matching = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| *key > after));
        for (key, object) in matching {
            let folder = delimiter.and_then(|delimiter| {
                let end = key[prefix.len()..].find(delimiter)?;
                Some(key[..prefix.len() + end + delimiter.len()].to_owned())
            });
            if let Some(folder) = folder {
                folders.insert(folder);
                continue;
            }
            if count == page {
                let token: &String = last.expect("a key before");
                write!(content, "<NextContinuationToken>{token}</NextContinuationToken>")
                    .expect("memory");
                break;
            }
            count += 1;
            last = Some(key);
            let (size, modified) = (object.bytes.len(), object.modified);
            let tag = object.entity_tag.replace('"', "&quot;");
            write!(
                content,
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified>\
                 <ETag>{tag}</ETag><Size>{size}</Size></Contents>"
            )
            .expect("memory");
        }
        for folder in folders {
            write!(content, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")
                .expect("memory");
        }
        xml("ListBucketResult", &content)
    }
}

/// The contents of all elements of a name.
fn between<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).map(|rest| rest.split(&close).next().expect("an end")).collect()
}

fn with_tag(status: StatusCode, entity_tag: &str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    if !entity_tag.is_empty() {
        reply.headers_mut().insert(header::ETAG, entity_tag.parse().expect("a header"));
    }
    reply
}

fn xml(root: &str, content: &str) -> Reply {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{root}>{content}</{root}>");
    with_tag(StatusCode::OK, "", text.into())
}

fn refused(status: StatusCode, code: &str) -> Reply {
    let mut reply = xml("Error", &format!("<Code>{code}</Code><Message>{code}</Message>"));
    *reply.status_mut() = status;
    reply
}
