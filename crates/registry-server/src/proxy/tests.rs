//! Requests that looked before a flight landed and come after it.

use std::sync::{Arc, Mutex};

use blob_store::BlobStore;
use bytes::Bytes;
use oci_model::{Digest, MediaType, Repository, Tag};
use tokio::sync::Semaphore;

use super::blobs::Source;
use super::testing::NoUpstream;
use super::*;
use crate::route::ManifestReference;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
const BLOB: &[u8] = b"a layer";

/// Has one manifest and one blob for everybody, each behind a gate.
#[derive(Debug)]
struct Gated {
    log: Mutex<Vec<String>>,
    /// Gets a permit with each request that is waiting.
    asked: Semaphore,
    gate: Semaphore,
}

impl Gated {
    fn new() -> Self {
        Self { log: Mutex::default(), asked: Semaphore::new(0), gate: Semaphore::new(0) }
    }

    fn answer<T: Send + 'static>(
        &self,
        line: String,
        answer: Result<T, UpstreamError>,
    ) -> UpstreamFuture<'_, T> {
        Box::pin(async move {
            self.log.lock().expect("no panic").push(line);
            self.asked.add_permits(1);
            self.gate.acquire().await.expect("an open gate").forget();
            answer
        })
    }

    /// Returns as soon as a request waits at the gate.
    async fn until_asked(&self) {
        self.asked.acquire().await.expect("a semaphore").forget();
    }

    /// Lets two requests pass: one that waits, and one that must not come.
    fn open(&self) {
        self.gate.add_permits(2);
    }

    /// The requests since the last call; none passes any more.
    fn shut(&self) -> Vec<String> {
        self.gate.forget_permits(2);
        std::mem::take(&mut self.log.lock().expect("no panic"))
    }
}

impl Upstream for Gated {
    fn credentials(&self) -> usize {
        1
    }

    fn head_manifest<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        name: &'a ManifestName,
    ) -> UpstreamFuture<'a, Observed<ManifestHead>> {
        let value = ManifestHead {
            digest: Some(Digest::of(MANIFEST.as_bytes())),
            media_type: Some(MediaType::OCI_MANIFEST),
            size: Some(MANIFEST.len() as u64),
        };
        self.answer(format!("HEAD {name}"), Ok(Observed { value, quota: None }))
    }

    fn get_manifest<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        name: &'a ManifestName,
        _: Option<&'a Digest>,
    ) -> UpstreamFuture<'a, Observed<FetchedManifest>> {
        let bytes = Bytes::from_static(MANIFEST.as_bytes());
        let answer = if *name == ManifestName::Digest(Digest::of(&bytes)) {
            let media_type = Some(MediaType::OCI_MANIFEST);
            Ok(Observed { value: FetchedManifest::Whole { media_type, bytes }, quota: None })
        } else {
            Err(UpstreamError::NotFound)
        };
        self.answer(format!("GET {name}"), answer)
    }

    fn head_blob<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        digest: &'a Digest,
    ) -> UpstreamFuture<'a, Option<u64>> {
        self.answer(format!("HEAD {digest}"), Ok(None))
    }

    fn open_blob<'a>(
        &'a self,
        _: usize,
        _: &'a Repository,
        digest: &'a Digest,
        from: u64,
    ) -> UpstreamFuture<'a, OpenedBlob> {
        let answer = if *digest == Digest::of(BLOB) {
            let pieces = Box::new(Whole(Some(Bytes::from_static(BLOB))));
            Ok(OpenedBlob { from, size: Some(BLOB.len() as u64), pieces })
        } else {
            Err(UpstreamError::NotFound)
        };
        self.answer(format!("GET {digest}"), answer)
    }

    fn tags<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        tags_max: usize,
        last: Option<&'a str>,
    ) -> UpstreamFuture<'a, TagsPage> {
        NoUpstream.tags(credential, repository, tags_max, last)
    }

    fn referrers<'a>(
        &'a self,
        credential: usize,
        repository: &'a Repository,
        subject: &'a Digest,
    ) -> UpstreamFuture<'a, Vec<serde_json::Value>> {
        NoUpstream.referrers(credential, repository, subject)
    }
}

#[derive(Debug)]
struct Whole(Option<Bytes>);

impl BlobPieces for Whole {
    fn next(&mut self) -> UpstreamFuture<'_, Option<Bytes>> {
        let bytes = self.0.take();
        Box::pin(async move { Ok(bytes) })
    }
}

/// A cache of a gated upstream, and a repository in it.
fn cache(directory: &tempfile::TempDir) -> (Arc<Gated>, Arc<Proxy>, Named) {
    let store = BlobStore::open(directory.path().join("blobs")).expect("a store");
    let metadata = Metadata::open(&directory.path().join("registry"), store.clone());
    let upstream = Arc::new(Gated::new());
    let shared: Arc<Gated> = Arc::clone(&upstream);
    let options = ProxyOptions {
        upstreams: vec![UpstreamOptions::new("hub.example", shared)],
        ..ProxyOptions::default()
    };
    let proxy = Proxy::new(&options, store, None, metadata.expect("metadata")).expect("a cache");
    let asked = Repository::new("hub.example/library/app").expect("a name");
    let named = proxy.find(&asked, None, "http://r.example").expect("no refusal");
    (upstream, Arc::new(proxy), named.expect("a repository of the upstream"))
}

#[tokio::test]
async fn a_manifest_that_came_after_a_request_looked_is_not_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (upstream, proxy, named) = cache(&directory);
    let (digest, absent) = (Digest::of(MANIFEST.as_bytes()), Digest::of(b"absent"));
    let fetch = |digest: Digest| {
        let (proxy, named) = (Arc::clone(&proxy), named.clone());
        tokio::spawn(async move { proxy.fetch(&named, &digest, None).await })
    };
    let first = fetch(digest);
    upstream.until_asked().await;
    // Another request looks now, finds nothing, and goes on when the first flight has landed.
    let here = ManifestReference::Digest(digest);
    assert!(proxy.metadata.manifest(&named.local, &here).expect("a look").is_none());
    upstream.open();
    first.await.expect("no panic").expect("the manifest");
    fetch(digest).await.expect("no panic").expect("the manifest");
    assert_eq!(upstream.shut(), [format!("GET {digest}")]);

    // Nor is what the upstream does not have asked for again.
    let first = fetch(absent);
    upstream.until_asked().await;
    upstream.open();
    let error = first.await.expect("no panic").expect_err("nothing").to_string();
    assert_eq!(error, UpstreamError::NotFound.to_string());
    let later = fetch(absent).await.expect("no panic").expect_err("nothing").to_string();
    assert_eq!(later, error);
    assert_eq!(upstream.shut(), [format!("GET {absent}")]);
}

#[tokio::test]
async fn a_tag_that_was_checked_after_a_request_looked_is_not_checked_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (upstream, proxy, named) = cache(&directory);
    let tag = Tag::new("v1").expect("a tag");
    let check = || {
        let (proxy, named, tag) = (Arc::clone(&proxy), named.clone(), tag.clone());
        tokio::spawn(async move { proxy.check_once(&named, &tag).await })
    };
    let first = check();
    upstream.until_asked().await;
    assert!(proxy.recent.get(&named.local, &tag, TAG_LIFE).is_none());
    upstream.open();
    let first = first.await.expect("no panic").expect("a check");
    assert_eq!(first.digest, Digest::of(MANIFEST.as_bytes()));
    assert_eq!(check().await.expect("no panic").expect("a check"), first);
    assert_eq!(upstream.shut(), ["HEAD v1"]);
}

#[tokio::test]
async fn a_blob_that_came_after_a_request_looked_is_not_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (upstream, proxy, named) = cache(&directory);
    let digest = Digest::of(BLOB);
    let coming = |source| match source {
        Ok(Source::Coming(fill)) => fill,
        other => panic!("{other:?}"),
    };
    let first = coming(proxy.fill(&named, &digest).await);
    upstream.until_asked().await;
    // Whoever asks now follows the same fill; this one looks, finds nothing, and goes on later.
    assert!(Arc::ptr_eq(&first, &coming(proxy.fill(&named, &digest).await)));
    assert!(proxy.metadata.linked(&named.local, &digest).expect("a look").is_none());
    upstream.open();
    first.ended().await;
    assert!(matches!(proxy.fill(&named, &digest).await, Ok(Source::Here)));
    assert_eq!(upstream.shut(), [format!("GET {digest}")]);

    let absent = Digest::of(b"absent");
    let first = coming(proxy.fill(&named, &absent).await);
    upstream.until_asked().await;
    upstream.open();
    first.ended().await;
    assert!(proxy.fill(&named, &absent).await.is_err());
    assert_eq!(upstream.shut(), [format!("GET {absent}")]);
}
