use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use credentials::PullSecret;
use futures_util::future::join_all;
use image_policy::verification::VerificationPolicy;
use image_policy::{Event, PullPolicy};
use layers::{
    Compression, ContentSource, Entry, LayerSink, LayerWriter, Timestamps, UnpackedLayers,
    VirtualLayer,
};
use oci_model::{
    Descriptor, Digest, ImageConfig, ImageManifest, MediaType, RawConfig, RawManifest, RootFs,
};
use tokio::sync::watch;

use super::super::access::PullSecrets;
use super::super::access::tests::sources_below;
use super::super::account::PodIdentity;
use super::super::ensure::{Images, ImagesParts, NotYet, Request};
use super::super::queue::PullLimits;
use super::super::records::PullRecords;
use super::super::store::{ImageStore, LocalImage};
use super::super::{Clock, monotonic};
use super::*;

/// What a registry holds, and who asked for what. `a` and `b` have passwords of their own name.
#[derive(Default)]
struct Content {
    manifests: BTreeMap<String, (Digest, Bytes)>,
    blobs: BTreeMap<Digest, Bytes>,
    asked: Mutex<Vec<String>>,
    /// Layers stop in their middle while this is set.
    stuck: AtomicBool,
    /// Answers 503 to all while this is set.
    down: AtomicBool,
    /// Layers of the repositories `lost/…` are not found, once this is set.
    gone: watch::Sender<bool>,
    /// Set when one of those was asked for.
    lost_asked: watch::Sender<bool>,
}

impl Content {
    /// Adds an image of these layers, each a file of so many lines; blobs are shared.
    fn add(&mut self, name: &str, layers: &[String], lines: u64) {
        let mut config = ImageConfig {
            architecture: Platform::host().architecture,
            os: Platform::host().os,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
            ..ImageConfig::default()
        };
        let mut descriptors = Vec::new();
        for text in layers {
            let mut tree = VirtualLayer::new();
            // Not compressible, so that a blob comes in several pieces.
            let bytes: Vec<u8> = (0..lines)
                .flat_map(|n| Digest::of(format!("{text}{n}").as_bytes()).to_string().into_bytes())
                .collect();
            let entry = Entry::file(format!("file-{text}"), 0o644, bytes.len() as u64);
            tree.insert(entry, ContentSource::Bytes(bytes));
            let sink = LayerSink::new(Vec::new(), Compression::GZIP_DEFAULT);
            let mut writer = LayerWriter::new(sink, Timestamps::Set(0));
            tree.write(&mut writer).expect("layer");
            let (blob, bytes) = writer.finish().expect("layer").finish().expect("layer");
            config.rootfs.diff_ids.push(blob.diff_id);
            descriptors.push(Descriptor::new(
                MediaType::OCI_LAYER_GZIP,
                blob.digest,
                blob.blob_bytes,
            ));
            self.blobs.insert(blob.digest, bytes.into());
        }
        let config = RawConfig::from_config(config);
        let manifest = RawManifest::from_image(ImageManifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config: config.descriptor(MediaType::OCI_CONFIG),
            layers: descriptors,
            subject: None,
            annotations: BTreeMap::new(),
        });
        let digest = Digest::of(config.bytes());
        self.blobs.insert(digest, Bytes::copy_from_slice(config.bytes()));
        let bytes = Bytes::copy_from_slice(manifest.bytes());
        self.manifests.insert(name.to_owned(), (*manifest.digest(), bytes));
    }

    fn is_layer(&self, path: &str) -> bool {
        let digest = path.rsplit_once("/blobs/").and_then(|(_, digest)| digest.parse().ok());
        // A config is JSON.
        digest.and_then(|digest| self.blobs.get(&digest)).is_some_and(|blob| blob[0] != b'{')
    }

    fn answer(&self, request: &HttpRequest) -> Response {
        if self.down.load(Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let user = ["a", "b"].into_iter().find(|user| {
            shown == Some(&format!("Basic {}", BASE64.encode(format!("{user}:{user}"))))
        });
        let Some(user) = user else {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
            return (StatusCode::UNAUTHORIZED, challenge, "{}").into_response();
        };
        let path = request.uri().path();
        if path == "/v2/" {
            return StatusCode::OK.into_response();
        }
        let (place, key) = path.rsplit_once('/').unwrap_or_default();
        self.asked.lock().expect("asked").push(format!("{user} {path}"));
        if place.ends_with("/manifests") {
            let name = place.trim_start_matches("/v2/").trim_end_matches("/manifests");
            let Some((digest, bytes)) = self.manifests.get(&format!("{name}:{key}")) else {
                return StatusCode::NOT_FOUND.into_response();
            };
            let kind = (header::CONTENT_TYPE.as_str(), MediaType::OCI_MANIFEST.as_str().to_owned());
            let headers = [kind, ("docker-content-digest", digest.to_string())];
            return (headers, bytes.clone()).into_response();
        }
        let Some(bytes) = key.parse::<Digest>().ok().and_then(|digest| self.blobs.get(&digest))
        else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let half = bytes.len() / 2;
        let stuck = self.stuck.load(Ordering::SeqCst) && bytes.len() > 4096;
        let pieces = futures_util::stream::unfold(
            bytes.chunks(4096).map(Bytes::copy_from_slice).collect::<Vec<_>>().into_iter(),
            |mut rest| async move {
                // Others get their turn between the pieces of a blob.
                tokio::time::sleep(Duration::from_millis(1)).await;
                rest.next().map(|piece| (Ok::<_, std::io::Error>(piece), rest))
            },
        );
        if stuck {
            let first = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes.slice(..half))]);
            let first = futures_util::StreamExt::chain(first, futures_util::stream::pending());
            return Body::from_stream(first).into_response();
        }
        Body::from_stream(pieces).into_response()
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    images: Arc<Images>,
    content: Arc<Content>,
    host: String,
    events: Mutex<Vec<String>>,
}

async fn fixture(content: Content, limits: PullLimits) -> Fixture {
    fixture_at(content, limits, monotonic()).await
}

async fn fixture_at(content: Content, limits: PullLimits, clock: Clock) -> Fixture {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let content = Arc::new(content);
    let served = Arc::clone(&content);
    let answer = move |request: HttpRequest| {
        let served = Arc::clone(&served);
        async move {
            let path = request.uri().path();
            if path.starts_with("/v2/lost/") && served.is_layer(path) {
                served.lost_asked.send_replace(true);
                let mut gone = served.gone.subscribe();
                gone.wait_for(|gone| *gone).await.expect("the content lives");
                return StatusCode::NOT_FOUND.into_response();
            }
            served.answer(&request)
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let dir = tempfile::tempdir().expect("tempdir");
    let blobs = BlobStore::open(dir.path().join("blobs")).expect("blobs");
    let layers = UnpackedLayers::open(&dir.path().join("layers")).expect("layers");
    let client = Client::new(registry_client::ClientOptions::default()).expect("client");
    let downloads =
        Downloads::new(client.clone(), blobs.clone(), layers.clone(), Arc::clone(&clock));
    let images = Images::new(ImagesParts {
        store: ImageStore::new(blobs.clone(), layers),
        records: PullRecords::open(dir.path()).expect("records"),
        puller: Box::new(RegistryPuller::new(client, blobs, downloads)),
        mirrors: Vec::new(),
        verification: VerificationPolicy::default(),
        credentials: sources_below(&dir.path().join("nowhere")),
        preloaded: watch::Sender::new(true).subscribe(),
        limits,
        clock,
    });
    Fixture { dir, images: Arc::new(images), content, host, events: Mutex::default() }
}

impl Fixture {
    async fn ensure(&self, uid: usize, user: &str, image: &str) -> Result<LocalImage, NotYet> {
        let config = format!(
            r#"{{"auths":{{"{}":{{"username":"{user}","password":"{user}"}}}}}}"#,
            self.host
        );
        let secret = PullSecret {
            namespace: "ns".into(),
            name: user.into(),
            uid: user.into(),
            kind: "kubernetes.io/dockerconfigjson".into(),
            data: [(".dockerconfigjson".to_owned(), config.into_bytes())].into(),
        };
        let secrets = PullSecrets { found: vec![secret], missing: Vec::new() };
        let pod = PodIdentity { uid: uid.to_string(), ..PodIdentity::default() };
        let image = format!("{}/{image}", self.host);
        let request = Request {
            pod: &pod,
            image: &image,
            policy: PullPolicy::IfNotPresent,
            secrets: &secrets,
        };
        let emit = |event: Event| {
            let text = format!("{} {}", event.reason, event.message);
            self.events.lock().expect("events").push(text);
        };
        self.images.ensure(&request, &emit).await
    }

    fn asked(&self, part: &str) -> Vec<String> {
        let asked = self.content.asked.lock().expect("asked");
        asked.iter().filter(|text| text.contains(part)).cloned().collect()
    }
}

fn unlimited() -> PullLimits {
    PullLimits { registry_pull_qps: 0, ..PullLimits::default() }
}

/// Issue 5: 200 pods with 20 images started at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_blob_is_fetched_once_whatever_200_pods_want() {
    const PODS: usize = 200;
    const IMAGES: usize = 20;
    let mut content = Content::default();
    for n in 0..IMAGES {
        let mut layers: Vec<String> = (0..3).map(|n| format!("base-{n}")).collect();
        layers.push(format!("own-{n}"));
        content.add(&format!("team/app{n}:1"), &layers, 200);
    }
    let blobs = content.blobs.len();
    assert_eq!(blobs, 3 + IMAGES + IMAGES, "bases, own layers, configs");
    let fixture = fixture(content, unlimited()).await;
    let pods = (0..PODS).map(|n| {
        let fixture = &fixture;
        async move {
            let user = if n % 2 == 0 { "a" } else { "b" };
            fixture.ensure(n, user, &format!("team/app{}:1", n / 2 % IMAGES)).await
        }
    });
    for image in join_all(pods).await {
        let image = image.expect("an image");
        assert!(fixture.images.store.root_directories(&image).expect("unpacked").len() >= 4);
    }
    let mut fetched: Vec<String> = fixture
        .asked("/blobs/")
        .iter()
        .map(|text| text.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    fetched.sort();
    let all = fetched.len();
    fetched.dedup();
    assert_eq!((all, fetched.len()), (blobs, blobs), "each once");
    let manifests = fixture.asked("/manifests/");
    for user in ["a", "b"] {
        let own = manifests.iter().filter(|text| text.starts_with(user)).count();
        assert!(own >= IMAGES, "{user} proves access to every image: {own}");
    }
    let events = fixture.events.lock().expect("events").clone();
    let pulled = |text: &str| events.iter().filter(|event| event.starts_with(text)).count();
    // Who came when the image was there and had proven access before is told so.
    assert_eq!(pulled("Pulled "), PODS);
    assert_eq!(pulled("Failed "), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layer_is_unpacked_while_it_comes_in_and_a_silent_pull_ends_with_its_bytes() {
    let mut content = Content::default();
    content.add("team/app:1", &["only".to_owned()], 10_000);
    content.stuck.store(true, Ordering::SeqCst);
    let limits = PullLimits { stall_time: Duration::from_millis(20), ..unlimited() };
    // Time passes only when the test says so: no machine is too slow.
    let now = Arc::new(Mutex::new(Duration::from_secs(1)));
    let told = Arc::clone(&now);
    let clock: Clock = Arc::new(move || *told.lock().expect("time"));
    let fixture = fixture_at(content, limits, clock).await;
    let staging = fixture.dir.path().join("layers/staging");
    let time = async {
        // A directory appears although the blob never becomes whole.
        while std::fs::read_dir(&staging).expect("staging").next().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        loop {
            *now.lock().expect("time") += Duration::from_secs(1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let refused = tokio::select! {
        refused = fixture.ensure(1, "a", "team/app:1") => refused,
        () = time => unreachable!("time goes on"),
    };
    let message = refused.expect_err("stalls").waiting.message;
    assert!(message.starts_with("pull stalled: no byte came in for 20ms (0."), "{message}");
    assert_eq!(fixture.images.store.blobs.refs("images/").expect("refs").len(), 0);
    fixture.content.stuck.store(false, Ordering::SeqCst);
    fixture.ensure(2, "a", "team/app:1").await.expect("another pod's pull is a new one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_goes_on_for_those_who_wait_when_its_first_pod_is_deleted() {
    let mut content = Content::default();
    content.add("team/app:1", &["shared".to_owned(), "one".to_owned()], 1000);
    content.add("team/other:1", &["shared".to_owned(), "two".to_owned()], 1000);
    let fixture = fixture(content, unlimited()).await;
    let mut first = Box::pin(fixture.ensure(1, "a", "team/app:1"));
    let second = fixture.ensure(2, "b", "team/other:1");
    let begun = async {
        while fixture.asked("/blobs/").len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = &mut first => {}
        () = begun => {}
    }
    let (second, ()) = tokio::join!(second, async {
        tokio::task::yield_now().await;
        drop(first);
    });
    second.expect("the other pod's image");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_that_lost_a_layer_fail_only_their_own_pulls() {
    // With the whole one as many as are pulled at once.
    const LOST: usize = 4;
    let mut content = Content::default();
    let layers = ["shared".to_owned()];
    for n in 0..LOST {
        content.add(&format!("lost/app{n}:1"), &layers, 200);
    }
    content.add("team/app:1", &layers, 200);
    let fixture = fixture(content, unlimited()).await;
    let asked_for = |repository: &str| {
        let asked = fixture.asked(&format!("/v2/{repository}"));
        asked.iter().any(|text| text.contains("/manifests/"))
    };
    let names: Vec<String> = (0..LOST).map(|n| format!("lost/app{n}")).collect();
    let pulls = names.iter().enumerate().map(|(n, name)| {
        let fixture = &fixture;
        async move { fixture.ensure(n, "a", &format!("{name}:1")).await }
    });
    // It comes when the others have begun, and then they learn that theirs is lost.
    let whole = async {
        let mut asked = fixture.content.lost_asked.subscribe();
        asked.wait_for(|asked| *asked).await.expect("the content lives");
        fixture.ensure(LOST, "b", "team/app:1").await
    };
    let all_wait = async {
        while !(names.iter().all(|name| asked_for(name)) && asked_for("team/app")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture.content.gone.send_replace(true);
    };
    let (lost, whole, ()) = tokio::join!(join_all(pulls), whole, all_wait);
    whole.expect("its own repository has the layer");
    let refused: Vec<_> = names.iter().zip(lost).filter(|(_, pulled)| pulled.is_err()).collect();
    // Who comes late may find the layer that the whole repository gave; not who came first.
    assert!(!refused.is_empty());
    for (name, refused) in refused {
        let message = refused.expect_err("filtered").waiting.message;
        let told: Vec<&String> = names.iter().filter(|name| message.contains(*name)).collect();
        assert_eq!(told, [name], "of its own repository: {message}");
    }
}

/// kubelet-images.md 14, pain 3: its probe is refused, and that is an answer.
#[tokio::test]
async fn private_registry_that_is_back_lets_its_pods_go() {
    let fixture = fixture(Content::default(), unlimited()).await;
    let options = registry_client::ClientOptions {
        retries_max: 0,
        ..registry_client::ClientOptions::default()
    };
    let client = Client::new(options).expect("client");
    let blobs = fixture.images.store.blobs.clone();
    let layers = UnpackedLayers::open(&fixture.dir.path().join("layers")).expect("layers");
    let downloads = Downloads::new(client.clone(), blobs.clone(), layers, monotonic());
    let puller = RegistryPuller::new(client, blobs, downloads);
    fixture.content.down.store(true, Ordering::SeqCst);
    assert!(!puller.answers(fixture.host.clone()).await, "503");
    fixture.content.down.store(false, Ordering::SeqCst);
    assert!(puller.answers(fixture.host.clone()).await, "401");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = nobody.local_addr().expect("an address").to_string();
    drop(nobody);
    assert!(!puller.answers(closed).await, "connection refused");
}

#[test]
fn only_troubles_of_the_whole_registry_hold_others_back() {
    let status = |status| RegistryErrorKind::Status { status, code: None, reason: "x".to_owned() };
    let text = || "x".to_owned();
    for (kind, expected) in [
        (
            RegistryErrorKind::Unreachable { registry: "r.example".to_owned(), reason: text() },
            Trouble::Registry("cannot reach registry r.example: x".to_owned()),
        ),
        (status(503), Trouble::Registry("registry r.example answers with status 503".to_owned())),
        (status(500), Trouble::Image),
        (
            RegistryErrorKind::RateLimited {
                reason: text(),
                retry_after: Some(Duration::from_secs(7)),
            },
            Trouble::Patience(
                "registry r.example asks for patience (429 Too Many Requests)".to_owned(),
                Some(Duration::from_secs(7)),
            ),
        ),
        (RegistryErrorKind::NotFound { what: text() }, Trouble::Image),
        (
            RegistryErrorKind::NoSpace { reason: text() },
            Trouble::Machine(RegistryErrorKind::NoSpace { reason: text() }.to_string()),
        ),
        (RegistryErrorKind::Unauthorized { reason: text() }, Trouble::Credential),
    ] {
        assert_eq!(PullError::new(&kind.into(), "r.example").trouble, expected);
    }
}
