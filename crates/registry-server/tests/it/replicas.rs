//! Several replicas over one bucket: what one acknowledged the others show at once, and an upload
//! goes on wherever the next request arrives.
//!
//! A replica that dies is one whose runtime ends in the middle of what it does, or a process that
//! gets SIGKILL there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::{Method, StatusCode};
use oci_model::Digest;
use registry_server::{RegistryServer, Running};

use crate::bucket::{Bucket, Fault, Gate, How};
use crate::{Fixture, INDEX, Kind, Reply, image_manifest, options};

/// Replicas of one registry, each with a directory of its own.
async fn replicas(bucket: &Bucket, count: usize) -> Vec<Fixture> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        let place = bucket.options();
        replicas.push(Fixture::with(|options, _| options.bucket = Some(place)).await);
    }
    replicas
}

/// A replica that can be made to end at once.
struct Mortal {
    url: String,
    life: Life,
    _directory: tempfile::TempDir,
}

enum Life {
    /// A runtime of its own in this process.
    Runtime(Option<tokio::runtime::Runtime>, #[allow(dead_code, reason = "held")] Running),
    /// This test binary again.
    Process(Child),
}

/// How a replica lives.
#[derive(Clone, Copy)]
enum As {
    Runtime,
    Process,
}

impl Mortal {
    async fn start(bucket: &Bucket, how: As) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        match how {
            As::Runtime => {
                let mut options = options(directory.path());
                options.bucket = Some(bucket.options());
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let running = runtime.spawn(RegistryServer::bind(options)).await;
                let running = running.expect("no panic").expect("a registry");
                let url = running.url();
                Self { url, life: Life::Runtime(Some(runtime), running), _directory: directory }
            }
            As::Process => {
                let mut child = Command::new(std::env::current_exe().expect("this test"))
                    .args(["--exact", "replicas::child_process", "--nocapture", "--quiet"])
                    .env(ENDPOINT, bucket.endpoint())
                    .env(STATE, directory.path())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("a child");
                let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
                let url = lines
                    .map(|line| line.expect("a line"))
                    .find_map(|line| line.strip_prefix("serving ").map(str::to_owned))
                    .expect("a URL");
                Self { url, life: Life::Process(child), _directory: directory }
            }
        }
    }

    /// Everything that it does stops where it is.
    fn die(&mut self) {
        match &mut self.life {
            Life::Runtime(runtime, _) => {
                if let Some(runtime) = runtime.take() {
                    runtime.shutdown_background();
                }
            }
            Life::Process(child) => {
                child.kill().expect("SIGKILL");
                child.wait().expect("an end");
            }
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.die();
    }
}

const ENDPOINT: &str = "REGISTRY_SERVER_CHILD_BUCKET";
const STATE: &str = "REGISTRY_SERVER_CHILD_REPLICA";

/// Not a test: a replica that serves until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_process() {
    let (Some(endpoint), Some(state)) = (std::env::var_os(ENDPOINT), std::env::var_os(STATE))
    else {
        return;
    };
    let mut options = options(state.as_ref());
    options.bucket = Some(crate::bucket::options(endpoint.to_str().expect("a URL")));
    let registry = RegistryServer::bind(options).await.expect("a registry");
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "serving {}", registry.url()).and_then(|()| out.flush()).expect("a pipe");
    }
    std::future::pending().await
}

/// Larger than one part.
fn large() -> Vec<u8> {
    (0..9_000_001_u32).map(|n| (n / 7 % 251) as u8).collect()
}

/// How many bytes an upload has.
fn came(reply: &Reply) -> usize {
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{reply:?}");
    let (_, last) = reply.header("range").split_once('-').expect("a range");
    match last.parse().expect("a number") {
        0 => 0,
        last => last + 1_usize,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_acknowledged_the_others_show_at_once() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 3).await;
    for round in 0..4 {
        let (writer, reader) = (&replicas[round % 3], &replicas[(round + 1) % 3]);
        let (layer, tag) = (format!("layer {round}"), format!("v{round}"));
        let digest = writer.push_image("team/app", &tag, &layer).await;
        let manifest = reader.get(&format!("/v2/team/app/manifests/{tag}")).await;
        assert_eq!(manifest.status.as_u16(), 200, "{manifest:?}");
        assert_eq!(manifest.header("docker-content-digest"), digest.to_string());
        let by_digest = reader.head(&format!("/v2/team/app/manifests/{digest}")).await;
        assert_eq!(by_digest.status.as_u16(), 200);
        let blob = format!("/v2/team/app/blobs/{}", Digest::of(layer.as_bytes()));
        assert_eq!(reader.head(&blob).await.header("content-length"), layer.len().to_string());
        assert_eq!(reader.get(&blob).await.body, layer);
        let tags = reader.get("/v2/team/app/tags/list").await.json();
        assert_eq!(tags["tags"].as_array().expect("tags").len(), round + 1);
        let mut index = serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [],
            "subject": { "mediaType": crate::MANIFEST, "digest": digest, "size": 1 },
        });
        index["annotations"] = serde_json::json!({ "round": round.to_string() });
        let reply = writer.put_manifest("team/app", &format!("r{round}"), INDEX, &index).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        let removed = writer.delete(&format!("/v2/team/app/manifests/r{round}")).await;
        assert_eq!(removed.status.as_u16(), 202);
        let listed = reader.get(&format!("/v2/team/app/referrers/{digest}")).await.json();
        assert_eq!(listed["manifests"].as_array().expect("manifests").len(), 1, "{listed}");
        let catalog = reader.get("/v2/_catalog").await.json();
        assert_eq!(catalog["repositories"], serde_json::json!(["team/app"]));
    }
    // Security row 6 (CVE-2026-35172): what was deleted is gone everywhere.
    let loose = replicas[0].push_blob("team/app", b"loose").await;
    let path = format!("/v2/team/app/blobs/{loose}");
    for replica in &replicas {
        assert_eq!(replica.get(&path).await.status.as_u16(), 200);
    }
    assert_eq!(replicas[1].delete(&path).await.status.as_u16(), 202);
    for replica in &replicas {
        assert_eq!(replica.get(&path).await.status.as_u16(), 404);
        assert_eq!(replica.head(&path).await.status.as_u16(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_an_upload_may_go_to_another_replica() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 3).await;
    let bytes = large();
    let digest = Digest::of(&bytes);
    let mut turn = replicas.iter().cycle();
    let mut next = || turn.next().expect("a replica");
    let reply = next().send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();
    let mut sent = 0;
    for end in [3, 1_000_000, 8_999_000, 9_000_000] {
        let range = format!("{sent}-{}", end - 1);
        let headers = [("content-range", range.as_str())];
        let chunk = bytes[sent..end].to_vec();
        let reply = next().send(Method::PATCH, &location, &headers, chunk).await;
        assert_eq!(reply.header("range"), format!("0-{}", end - 1), "{reply:?}");
        assert_eq!(came(&next().get(&location).await), end);
        sent = end;
    }
    let path = format!("{location}?digest={digest}");
    let reply = next().send(Method::PUT, &path, &[], bytes[sent..].to_vec()).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    for replica in &replicas {
        assert!(replica.get(&format!("/v2/a/blobs/{digest}")).await.body == bytes);
    }
    let cancelled = next().send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = cancelled.header("location");
    assert_eq!(next().delete(location).await.status.as_u16(), 204);
    assert_eq!(next().get(location).await.status.as_u16(), 404);
}

/// registry.md 4.7, race 7, with the two requests on two replicas.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_on_two_replicas_never_interleave() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 2).await;
    for size in [1000, 9_000_001] {
        let reply = replicas[0].send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
        let location = reply.header("location").to_owned();
        let contents = [vec![b'0'; size], vec![b'1'; size]];
        let range = format!("0-{}", size - 1);
        let headers = [("content-range", range.as_str())];
        let (first, second) = tokio::join!(
            replicas[0].send(Method::PATCH, &location, &headers, contents[0].clone()),
            replicas[1].send(Method::PATCH, &location, &headers, contents[1].clone()),
        );
        let won = match (first.status.as_u16(), second.status.as_u16()) {
            (202, 409 | 416) => 0,
            (409 | 416, 202) => 1,
            _ => panic!("{first:?} {second:?}"),
        };
        assert_eq!(came(&replicas[0].get(&location).await), size);
        let path = format!("{location}?digest={}", Digest::of(&contents[won]));
        let reply = replicas[1].send(Method::PUT, &path, &[], "").await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_uploads_of_one_blob_on_three_replicas_leave_one_object() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 3).await;
    let digest = Digest::of(b"the same");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let uploads = (0..50).map(|n| {
        let replica = &replicas[n % 3];
        replica.send(Method::POST, &path, &[], "the same")
    });
    for reply in futures_util::future::join_all(uploads).await {
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    }
    assert_eq!(bucket.keys("registry/blobs/").len(), 1);
    assert_eq!(replicas[2].get(&format!("/v2/a/blobs/{digest}")).await.body, "the same");
}

/// Where a replica dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    AfterPost,
    /// With a part on its way.
    InPatch,
    AfterPatch,
    /// The parts are there and the state says what they become.
    BeforeJoin,
    /// The object is there and the metadata does not know it.
    BeforeCommit,
    /// The metadata knows the blob, the client does not.
    AfterCommit,
}

async fn an_upload_survives(death: Death, bytes: Vec<u8>, how: As) {
    let bucket = Bucket::start();
    let survivor = Fixture::with(|options, _| options.bucket = Some(bucket.options())).await;
    let mut mortal = Mortal::start(&bucket, how).await;
    let digest = Digest::of(&bytes);
    let reply =
        survivor.send(Method::POST, &format!("{}/v2/a/blobs/uploads/", mortal.url), &[], "").await;
    assert_eq!(reply.status.as_u16(), 202, "{reply:?}");
    let location = reply.header("location").to_owned();
    let there = format!("{}{location}", mortal.url);
    let half = bytes.len() / 2;
    let closing = format!("{there}?digest={digest}");
    let send = |method: Method, path: &str, body: &[u8]| {
        let (path, body) = (path.to_owned(), Bytes::copy_from_slice(body));
        let survivor = &survivor;
        async move { survivor.send(method, &path, &[], body).await }
    };
    let held = |request: &'static str, key: &'static str| {
        let gate = Gate::new();
        bucket.fault(Fault { request, key, how: How::Held(gate.clone()), times: 1 });
        gate
    };
    let is_large = bytes.len() > 8_400_000;
    match death {
        Death::AfterPost => {}
        Death::InPatch => {
            assert_eq!(send(Method::PATCH, &there, &bytes[..7]).await.status.as_u16(), 202);
            let (request, key) = if is_large {
                ("PUT part", "registry/blobs/")
            } else {
                ("PUT", "registry/uploads/")
            };
            let gate = held(request, key);
            tokio::select! {
                reply = send(Method::PATCH, &there, &bytes[7..]) => panic!("{reply:?}"),
                () = gate.reached() => {}
            }
        }
        Death::AfterPatch => {
            assert_eq!(send(Method::PATCH, &there, &bytes[..half]).await.status.as_u16(), 202);
        }
        Death::BeforeJoin | Death::BeforeCommit => {
            assert_eq!(send(Method::PATCH, &there, &bytes[..half]).await.status.as_u16(), 202);
            let gate = match death {
                Death::BeforeJoin if is_large => held("POST join", "registry/blobs/"),
                Death::BeforeJoin => held("PUT", "registry/blobs/"),
                _ => held("PUT", "registry/log/"),
            };
            tokio::select! {
                reply = send(Method::PUT, &closing, &bytes[half..]) => panic!("{reply:?}"),
                () = gate.reached() => {}
            }
        }
        Death::AfterCommit => {
            assert_eq!(send(Method::PUT, &closing, &bytes).await.status.as_u16(), 201);
        }
    }
    // What stands at a gate is lost with the replica.
    mortal.die();
    // The client asks how far it is and goes on; or it sends the closing request once more.
    let reply = survivor.get(&location).await;
    let from = if reply.status.as_u16() == 404 { 0 } else { came(&reply) };
    let path = format!("{location}?digest={digest}");
    let reply = survivor.send(Method::PUT, &path, &[], bytes[from..].to_vec()).await;
    assert_eq!(reply.status.as_u16(), 201, "{death:?} of {} bytes: {reply:?}", bytes.len());
    let found = survivor.get(&format!("/v2/a/blobs/{digest}")).await;
    assert!(found.body == bytes, "{death:?}");
    assert_eq!(bucket.keys("registry/blobs/").len(), 1, "{death:?}");
    assert_eq!(bucket.multiparts(), [""; 0], "{death:?}");
}

const DEATHS: [Death; 6] = [
    Death::AfterPost,
    Death::InPatch,
    Death::AfterPatch,
    Death::BeforeJoin,
    Death::BeforeCommit,
    Death::AfterCommit,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_survives_the_death_of_its_replica_at_every_step() {
    let deaths = DEATHS.map(|death| an_upload_survives(death, vec![b'x'; 100_000], As::Runtime));
    futures_util::future::join_all(deaths).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_survives_the_death_of_its_replica_at_every_step() {
    let deaths = DEATHS.map(|death| an_upload_survives(death, large(), As::Runtime));
    futures_util::future::join_all(deaths).await;
}

/// The same with processes and SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_kill_9_of_its_replica_at_every_step() {
    let deaths = DEATHS.map(|death| an_upload_survives(death, large(), As::Process));
    futures_util::future::join_all(deaths).await;
}

/// Hands each request to the next of several replicas, as a balancer does; returns its address.
async fn balancer(replicas: &[Fixture]) -> std::net::SocketAddr {
    use hyper_util::client::legacy::Client;
    let urls: Vec<String> = replicas.iter().map(|replica| replica.registry.url()).collect();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client: Client<_, hyper::body::Incoming> =
        Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let turn = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (client, urls, turn) = (client.clone(), urls.clone(), turn.clone());
            let handler = hyper::service::service_fn(
                move |mut request: http::Request<hyper::body::Incoming>| {
                    let next = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let path = request.uri().path_and_query().expect("a path").clone();
                    let url = format!("{}{path}", urls[next % urls.len()]);
                    *request.uri_mut() = url.parse().expect("a URL");
                    client.request(request)
                },
            );
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), handler),
            );
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_there_and_back_though_each_request_meets_another_replica() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 2).await;
    let address = balancer(&replicas).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    crate::skopeo::write_image(&source);
    let from = format!("dir:{}", source.display());
    let to = format!("dir:{}", target.display());
    let done = tokio::task::spawn_blocking(move || {
        let image = format!("docker://{address}/team/app:v1");
        let insecure =
            ["copy", "--preserve-digests", "--dest-tls-verify=false", "--src-tls-verify=false"];
        crate::skopeo::skopeo(&[&insecure[..], &[&from, &image]].concat())?;
        crate::skopeo::skopeo(&[&insecure[..], &[&image, &to]].concat())?;
        Ok::<_, String>(())
    });
    done.await.expect("no panic").expect("copies");
    for entry in std::fs::read_dir(&source).expect("a directory") {
        let path = entry.expect("an entry").path();
        let copied = target.join(path.file_name().expect("a name"));
        let read = |path: &std::path::Path| std::fs::read(path).expect("a file");
        assert!(read(&path) == read(&copied), "{}", path.display());
    }
}

/// Without a death: a slow replica keeps its turn as long as it renews it.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_replica_keeps_its_turn() {
    let bucket = Bucket::start();
    let replicas = replicas(&bucket, 2).await;
    let bytes = large();
    let reply = replicas[0].send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();
    let gate = Gate::new();
    let how = How::Held(gate.clone());
    bucket.fault(Fault { request: "PUT part", key: "registry/blobs/", how, times: 1 });
    let slow = replicas[0].send(Method::PATCH, &location, &[], bytes.clone());
    let second = async {
        gate.reached().await;
        let refused = replicas[1].send(Method::PATCH, &location, &[], "more").await;
        gate.open();
        refused
    };
    let (slow, refused) = tokio::join!(slow, second);
    assert_eq!((slow.status.as_u16(), refused.status.as_u16()), (202, 409), "{slow:?} {refused:?}");
    assert_eq!(came(&replicas[1].get(&location).await), bytes.len());
}

#[tokio::test]
async fn a_manifest_may_be_pushed_to_a_registry_over_a_bucket() {
    let registry = Fixture::of(Kind::Bucket).await;
    let digest = registry.push_image("a", "v1", "layer").await;
    let reply = registry.get("/v2/a/manifests/v1").await;
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    let missing = image_manifest("never pushed");
    let reply = registry.put_manifest("a", "v2", crate::MANIFEST, &missing).await;
    assert_eq!(reply.refusal().1, "MANIFEST_BLOB_UNKNOWN");
}
