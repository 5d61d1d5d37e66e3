//! The registry beside Debian's docker-registry, in turns, on the same disk.
//!
//! Run with `cargo bench -p registry-server --bench registry` (about two minutes). Each figure is
//! the median of the rounds with the smallest and largest in brackets; the ratio is ours to theirs.
//! `BENCH_ROUNDS` (default 3), `BENCH_BLOB_MIB` (default 1024) and `BENCH_DIRECTORY` (default: here)
//! change the run; a directory on a tmpfs shows what the processor costs without the disk.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blob_store::BlobStore;
use oci_model::{Digest, Hasher};
use registry_server::{RegistryOptions, RegistryServer};

const SERVE: &str = "BENCH_REGISTRY_SERVE";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CLIENTS: usize = 16;
const READ_TIME: Duration = Duration::from_secs(3);
const PUSHES: usize = 60;

fn main() {
    if let Some(state) = std::env::var_os(SERVE) {
        return serve(Path::new(&state));
    }
    let rounds = number("BENCH_ROUNDS", 3);
    let blob_mib = number("BENCH_BLOB_MIB", 1024);
    let parent = std::env::var_os("BENCH_DIRECTORY")
        .map_or_else(|| std::env::current_dir().expect("a directory"), std::path::PathBuf::from);
    let directory = tempfile::tempdir_in(parent).expect("a directory");
    let ours = ours(&directory.path().join("ours"));
    let theirs = theirs(&directory.path().join("theirs"));
    let blob = Blob::new(blob_mib);
    let idle = [rss_mib(&ours.child), rss_mib(&theirs.child)];
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        for (column, server) in [&ours, &theirs].into_iter().enumerate() {
            measure(server, round, &blob, |name, unit, value| {
                let row = match rows.iter_mut().find(|row| row.name == name) {
                    Some(row) => row,
                    None => {
                        rows.push(Row { name, unit, values: [Vec::new(), Vec::new()] });
                        rows.last_mut().expect("the row just pushed")
                    }
                };
                row.values[column].push(value);
            });
        }
    }
    say(&format!("{:<34} {:>28} {:>28} {:>7}", "", "shipway", "docker-registry", "ratio"));
    for row in &mut rows {
        let [ours, theirs] = &mut row.values;
        let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
        let ratio = ours.median / theirs.median;
        let name = format!("{} ({})", row.name, row.unit);
        say(&format!("{name:<34} {ours:>28} {theirs:>28} {ratio:>7.2}"));
    }
    let after = [rss_mib(&ours.child), rss_mib(&theirs.child)];
    for (name, [ours, theirs]) in [("memory, idle (MiB)", idle), ("memory, after (MiB)", after)] {
        say(&format!("{name:<34} {ours:>28.1} {theirs:>28.1} {:>7.2}", ours / theirs));
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").expect("standard output");
}

struct Row {
    name: &'static str,
    unit: &'static str,
    values: [Vec<f64>; 2],
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.2} [{:.2} {:.2}]", self.median, self.least, self.most))
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Also when a measurement failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our registry in a process of its own: this program again.
fn ours(state: &Path) -> Server {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(SERVE, state)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    Server { child, address: line.trim().parse().expect("an address") }
}

fn serve(state: &Path) {
    let store = BlobStore::open(state.join("blobs")).expect("a store");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let options = RegistryOptions::new(state.join("registry"), store);
        let registry = RegistryServer::bind(options).await.expect("a registry");
        say(&registry.address().to_string());
        std::future::pending::<()>().await;
    });
}

/// Debian's docker-registry with its default settings.
fn theirs(state: &Path) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    std::fs::create_dir_all(state).expect("a directory");
    let config = state.join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
         filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        state.join("data").display()
    );
    std::fs::write(&config, text).expect("a file");
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry of the Debian package docker-registry");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "docker-registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Server { child, address }
}

/// Processor time that the server used so far, in seconds: what a busy machine does not distort.
fn cpu_seconds(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: f64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().expect("ticks"))
        .sum();
    ticks / 100.0
}

fn rss_mib(child: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib: f64 = line.split_ascii_whitespace().nth(1).expect("a number").parse().expect("it");
    kib / 1024.0
}

/// A large blob that does not fit into memory twice: one piece, again and again, with a number.
struct Blob {
    pieces: u64,
}

const PIECE: usize = 1024 * 1024;

fn piece(buffer: &mut Vec<u8>, round: u64, number: u64) {
    if buffer.is_empty() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        buffer.extend((0..PIECE).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        }));
    }
    buffer[..8].copy_from_slice(&number.to_le_bytes());
    buffer[8..16].copy_from_slice(&round.to_le_bytes());
}

impl Blob {
    fn new(mib: usize) -> Self {
        Self { pieces: mib as u64 }
    }

    /// Its digest in a round, each of which has another blob.
    fn digest(&self, round: u64) -> Digest {
        let mut hasher = Hasher::sha256();
        let mut buffer = Vec::new();
        for number in 0..self.pieces {
            piece(&mut buffer, round, number);
            hasher.update(&buffer);
        }
        hasher.finish()
    }
}

/// One keep-alive connection.
struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

struct Reply {
    status: u16,
    location: Option<String>,
    length: u64,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self { address, stream: BufReader::with_capacity(PIECE, stream) }
    }

    fn head(&mut self, method: &str, target: &str, headers: &str, length: u64) {
        let target = target.strip_prefix(&format!("http://{}", self.address)).unwrap_or(target);
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n",
            self.address
        );
        self.stream.get_mut().write_all(head.as_bytes()).expect("a request");
    }

    fn reply(&mut self, method: &str) -> Reply {
        let mut reply = Reply { status: 0, location: None, length: 0 };
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("a line");
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if reply.status == 0 {
                reply.status = text[9..12].parse().expect("a status");
            } else if let Some((name, value)) = text.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "location" => reply.location = Some(value.trim().to_owned()),
                    "content-length" => reply.length = value.trim().parse().expect("a length"),
                    _ => {}
                }
            }
        }
        if method != "HEAD" {
            // Like a client that looks at the bytes, without the cost of looking.
            let mut rest = reply.length;
            while rest > 0 {
                let available = self.stream.fill_buf().expect("bytes").len();
                assert!(available > 0, "the body ended early");
                let used = available.min(usize::try_from(rest).unwrap_or(usize::MAX));
                self.stream.consume(used);
                rest -= used as u64;
            }
        }
        reply
    }

    fn send(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Reply {
        self.head(method, target, headers, body.len() as u64);
        self.stream.get_mut().write_all(body).expect("a body");
        self.reply(method)
    }

    /// POST then PUT, as containerd does.
    fn push_blob(&mut self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let target = self.begin(repository);
        let put = self.send("PUT", &closing(&target, &digest), "", bytes);
        assert_eq!(put.status, 201);
        digest
    }

    fn begin(&mut self, repository: &str) -> String {
        let post = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(post.status, 202);
        post.location.expect("a location")
    }

    fn push_image(&mut self, repository: &str, tag: &str, seed: &str) {
        let config = format!("{{\"seed\":\"{seed}\"}}");
        let layer = seed.repeat(4096 / seed.len());
        let config_digest = self.push_blob(repository, config.as_bytes());
        let layer_digest = self.push_blob(repository, layer.as_bytes());
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\
             \"application/vnd.oci.image.config.v1+json\",\"digest\":\"{config_digest}\",\
             \"size\":{}}},\"layers\":[{{\"mediaType\":\
             \"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{layer_digest}\",\
             \"size\":{}}}]}}",
            config.len(),
            layer.len()
        );
        let target = format!("/v2/{repository}/manifests/{tag}");
        let headers = format!("Content-Type: {MANIFEST}\r\n");
        assert_eq!(self.send("PUT", &target, &headers, manifest.as_bytes()).status, 201);
    }
}

fn closing(location: &str, digest: &Digest) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}digest={digest}")
}

fn measure(
    server: &Server,
    round: usize,
    blob: &Blob,
    mut record: impl FnMut(&'static str, &'static str, f64),
) {
    let address = server.address;
    let mut client = Client::new(address);
    client.push_image("bench/read", "latest", &format!("read {round:08} "));
    record("manifest GET by tag, 16 clients", "1/s", read_manifests(address));

    let cpu = cpu_seconds(&server.child);
    let mut times: Vec<f64> = (0..PUSHES)
        .map(|push| {
            let start = Instant::now();
            client.push_image("bench/push", &format!("t{push}"), &format!("{round:08}{push:08}"));
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    record("small push, p50", "ms", times[times.len() / 2]);
    record("small push, p90", "ms", times[times.len() * 9 / 10]);
    let used = cpu_seconds(&server.child) - cpu;
    record("small push, processor", "ms", used * 1000.0 / PUSHES as f64);

    for (name, patch) in [("blob push, POST+PUT", false), ("blob push, POST+PATCH+PUT", true)] {
        let number = round as u64 * 2 + u64::from(patch);
        let digest = blob.digest(number);
        let bytes = blob.pieces * PIECE as u64;
        let mut buffer = Vec::new();
        piece(&mut buffer, number, 0);
        let (start, cpu) = (Instant::now(), cpu_seconds(&server.child));
        let mut location = client.begin("bench/large");
        let method = if patch { "PATCH" } else { "PUT" };
        let target = if patch { location.clone() } else { closing(&location, &digest) };
        client.head(method, &target, "Content-Type: application/octet-stream\r\n", bytes);
        for part in 0..blob.pieces {
            piece(&mut buffer, number, part);
            client.stream.get_mut().write_all(&buffer).expect("a piece");
        }
        let reply = client.reply(method);
        if patch {
            assert_eq!(reply.status, 202);
            location = reply.location.expect("a location");
            let put = client.send("PUT", &closing(&location, &digest), "", b"");
            assert_eq!(put.status, 201);
        } else {
            assert_eq!(reply.status, 201);
        }
        record(name, "MiB/s", blob.pieces as f64 / start.elapsed().as_secs_f64());
        let gib = blob.pieces as f64 / 1024.0;
        if patch {
            let used = cpu_seconds(&server.child) - cpu;
            record("blob push, processor", "s/GiB", used / gib);
            let (start, cpu) = (Instant::now(), cpu_seconds(&server.child));
            let get = client.send("GET", &format!("/v2/bench/large/blobs/{digest}"), "", b"");
            assert_eq!((get.status, get.length), (200, bytes));
            record("blob pull", "MiB/s", blob.pieces as f64 / start.elapsed().as_secs_f64());
            let used = cpu_seconds(&server.child) - cpu;
            record("blob pull, processor", "s/GiB", used / gib);
        }
    }
}

fn read_manifests(address: SocketAddr) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(address);
                let accept = format!("Accept: {MANIFEST}\r\n");
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.send("GET", "/v2/bench/read/manifests/latest", &accept, b"");
                    assert_eq!(reply.status, 200);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(READ_TIME);
        stop.store(true, Ordering::Relaxed);
    });
    count.into_inner() as f64 / start.elapsed().as_secs_f64()
}
