//! The race catalogue of the registry reference (registry.md 4.7), row by row, in one process and
//! on two and three replicas that share a bucket.
//!
//! Rows 3 and 4 (collection) on replicas are in `metadata::replica`, where time can be set.
//! Rows that need a feature of their own are where the feature is tested: 10 (retention), 11
//! (quota) and 15 (repository delete) with namespaces, 12 (proxy) with the proxy.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode, CollectOptions};
use http::Method;
use oci_model::Digest;
use tokio::task::JoinSet;

use crate::bucket::{Bucket, Fault, Gate, How};
use crate::{Fixture, INDEX, MANIFEST, Reply, image_manifest, options};

/// One registry: a process, or replicas over a bucket.
struct Site {
    registries: Vec<Arc<Fixture>>,
    directories: Vec<tempfile::TempDir>,
    bucket: Option<Bucket>,
}

impl Site {
    async fn one_process() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = Fixture::over(options(directory.path())).await;
        Self { registries: vec![Arc::new(registry)], directories: vec![directory], bucket: None }
    }

    async fn replicas(count: usize) -> Self {
        let mut site =
            Self { registries: Vec::new(), directories: Vec::new(), bucket: Some(Bucket::start()) };
        for _ in 0..count {
            site.start().await;
        }
        site
    }

    /// Starts one more replica.
    async fn start(&mut self) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = options(directory.path());
        options.bucket = self.bucket.as_ref().map(Bucket::options);
        self.registries.push(Arc::new(Fixture::over(options).await));
        self.directories.push(directory);
    }

    /// The process that a load balancer gives the `turn`th request.
    fn at(&self, turn: usize) -> Arc<Fixture> {
        Arc::clone(&self.registries[turn % self.registries.len()])
    }
}

/// Runs a row everywhere.
macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $($(#[$doc])* mod $name {
            use super::Site;

            #[tokio::test(flavor = "multi_thread")]
            async fn in_one_process() {
                super::$name(Site::one_process().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_two_replicas() {
                super::$name(Site::replicas(2).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_three_replicas() {
                super::$name(Site::replicas(3).await).await;
            }
        })+
    };
}

rows! {
    /// Row 1.
    pushes_to_one_tag_leave_one_winner_and_all_manifests;
    /// Row 2.
    deleting_the_old_manifest_leaves_a_moved_tag;
    /// Row 5.
    deleting_a_blob_and_pushing_its_manifest_leave_no_broken_image;
    /// Row 6.
    fifty_clients_upload_the_same_blob;
    /// Row 7.
    parallel_chunks_never_interleave;
    /// Row 8.
    a_repeated_push_is_the_same_push;
    /// Row 9.
    referrers_and_the_end_of_their_subject_do_not_disturb_each_other;
    /// Row 13; rules for immutable tags are tested with namespaces.
    of_two_first_writers_of_a_tag_exactly_one_wins;
    /// Reference 4.5: what one replica answered, all others show.
    what_was_acknowledged_is_there_wherever_the_next_request_goes;
}

async fn pushes_to_one_tag_leave_one_winner_and_all_manifests(site: Site) {
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let registry = site.at(client);
        clients.spawn(async move {
            registry.push_image("a", "latest", &format!("layer {client}")).await
        });
    }
    let digests = clients.join_all().await;
    for (turn, digest) in digests.iter().enumerate() {
        let reply = site.at(turn + 1).get(&format!("/v2/a/manifests/{digest}")).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    let winner = site.at(0).get("/v2/a/manifests/latest").await;
    let winner = winner.header("docker-content-digest").to_owned();
    assert!(digests.iter().any(|digest| digest.to_string() == winner));
    // All others may go without the tag going with them.
    for (turn, digest) in digests.iter().enumerate() {
        if digest.to_string() != winner {
            let reply = site.at(turn).delete(&format!("/v2/a/manifests/{digest}")).await;
            assert_eq!(reply.status.as_u16(), 202);
        }
    }
    for registry in &site.registries {
        let reply = registry.get("/v2/a/manifests/latest").await;
        assert_eq!(reply.header("docker-content-digest"), winner);
    }
}

async fn deleting_the_old_manifest_leaves_a_moved_tag(site: Site) {
    for round in 0..10 {
        let tag = format!("t{round}");
        let old = site.at(round).push_image("a", &tag, &format!("old {round}")).await;
        let manifest = site.at(round).image("a", &format!("new {round}")).await;
        let new = Digest::of(manifest.to_string().as_bytes());
        let path = format!("/v2/a/manifests/{old}");
        let (pusher, deleter) = (site.at(round), site.at(round + 1));
        let (pushed, deleted) = tokio::join!(
            pusher.put_manifest("a", &tag, MANIFEST, &manifest),
            deleter.delete(&path)
        );
        assert_eq!((pushed.status.as_u16(), deleted.status.as_u16()), (201, 202));
        for registry in &site.registries {
            let reply = registry.get(&format!("/v2/a/manifests/{tag}")).await;
            assert_eq!(reply.header("docker-content-digest"), new.to_string());
            assert_eq!(registry.get(&path).await.status.as_u16(), 404);
        }
    }
}

async fn deleting_a_blob_and_pushing_its_manifest_leave_no_broken_image(site: Site) {
    for round in 0..10 {
        let layer = format!("layer {round}");
        let manifest = site.at(round).image("a", &layer).await;
        let path = format!("/v2/a/blobs/{}", Digest::of(layer.as_bytes()));
        let tag = format!("t{round}");
        let (pusher, deleter) = (site.at(round), site.at(round + 1));
        let (pushed, deleted) = tokio::join!(
            pusher.put_manifest("a", &tag, MANIFEST, &manifest),
            deleter.delete(&path)
        );
        let both = (pushed.status.as_u16(), deleted.status.as_u16());
        let whole = both == (201, 409);
        assert!(whole || both == (400, 202), "{both:?}");
        for registry in &site.registries {
            assert_eq!(registry.get(&path).await.status.is_success(), whole);
        }
    }
}

async fn fifty_clients_upload_the_same_blob(site: Site) {
    let mut clients = JoinSet::new();
    for client in 0..50 {
        let registry = site.at(client);
        let bytes = vec![42; 300_000];
        clients.spawn(async move { registry.push_blob(&format!("r{}", client % 5), &bytes).await });
    }
    let digests = clients.join_all().await;
    for repository in 0..5 {
        let path = format!("/v2/r{repository}/blobs/{}", digests[0]);
        for registry in &site.registries {
            assert_eq!(registry.get(&path).await.body, vec![42; 300_000]);
        }
    }
    if let Some(bucket) = &site.bucket {
        assert_eq!(bucket.keys("registry/blobs/").len(), 1);
    }
}

async fn parallel_chunks_never_interleave(site: Site) {
    let reply = site.at(0).send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = reply.header("location").to_owned();
    let mut clients = JoinSet::new();
    for client in 0..8u8 {
        let (registry, location) = (site.at(client.into()), location.clone());
        clients.spawn(async move {
            let body = vec![client; 700_000];
            let headers = [("content-range", "0-699999")];
            (registry.send(Method::PATCH, &location, &headers, body).await.status.as_u16(), client)
        });
    }
    let mut outcomes = clients.join_all().await;
    outcomes.sort_unstable();
    let (winner, others) = outcomes.split_first().expect("clients");
    assert_eq!(winner.0, 202);
    // In one process they queue up. Between replicas who comes into the middle of a chunk is told
    // so.
    let refused = if site.bucket.is_none() { [416].as_slice() } else { &[409, 416] };
    assert!(others.iter().all(|(status, _)| refused.contains(status)), "{others:?}");
    assert_eq!(site.at(1).get(&location).await.header("range"), "0-699999");
    let digest = Digest::of(&vec![outcomes[0].1; 700_000]);
    let path = format!("{location}?digest={digest}");
    assert_eq!(site.at(2).send(Method::PUT, &path, &[], "").await.status.as_u16(), 201);
}

async fn a_repeated_push_is_the_same_push(site: Site) {
    for turn in 0..4 {
        site.at(turn).push_image("a", "v1", "layer").await;
        assert_eq!(site.at(turn + 1).get("/v2/a/manifests/v1").await.status.as_u16(), 200);
    }
}

async fn referrers_and_the_end_of_their_subject_do_not_disturb_each_other(site: Site) {
    for round in 0..6 {
        let subject = site.at(round).push_image("a", "v1", &format!("layer {round}")).await;
        let mut manifest = site.at(round).image("a", "signature").await;
        manifest["subject"] = serde_json::json!({
            "mediaType": MANIFEST, "digest": subject, "size": 1,
        });
        let path = format!("/v2/a/manifests/{subject}");
        let tag = format!("sig{round}");
        let (pusher, deleter) = (site.at(round), site.at(round + 1));
        let (pushed, deleted) = tokio::join!(
            pusher.put_manifest("a", &tag, MANIFEST, &manifest),
            deleter.delete(&path)
        );
        assert_eq!((pushed.status.as_u16(), deleted.status.as_u16()), (201, 202));
        for registry in &site.registries {
            let list = registry.get(&format!("/v2/a/referrers/{subject}")).await.json();
            assert_eq!(list["manifests"].as_array().map(Vec::len), Some(1));
        }
    }
}

async fn of_two_first_writers_of_a_tag_exactly_one_wins(site: Site) {
    for round in 0..10 {
        let path = format!("/v2/a/manifests/t{round}");
        let headers = [("content-type", INDEX), ("if-none-match", "*")];
        let index = |text: &str| {
            let annotations = serde_json::json!({ "writer": text });
            let index = serde_json::json!({
                "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": annotations,
            });
            index.to_string()
        };
        let (one, two) = (site.at(round), site.at(round + 1));
        let (first, second) = tokio::join!(
            one.send(Method::PUT, &path, &headers, index("one")),
            two.send(Method::PUT, &path, &headers, index("two"))
        );
        let status = |reply: &Reply| reply.status.as_u16();
        let winner = match (status(&first), status(&second)) {
            (201, 412) => index("one"),
            (412, 201) => index("two"),
            both => panic!("{both:?}"),
        };
        for registry in &site.registries {
            assert_eq!(registry.get(&path).await.body, winner);
        }
    }
}

async fn what_was_acknowledged_is_there_wherever_the_next_request_goes(site: Site) {
    for round in 0..8 {
        let digest = site.at(round).push_image("a", "latest", &format!("layer {round}")).await;
        let registry = site.at(round + 1);
        let reply = registry.get("/v2/a/manifests/latest").await;
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        // Its blobs are enough for another tag, by whichever process.
        let manifest = image_manifest(&format!("layer {round}"));
        let tag = format!("t{round}");
        let reply = registry.put_manifest("a", &tag, MANIFEST, &manifest).await;
        assert_eq!(reply.status.as_u16(), 201);
        let path = format!("/v2/a/manifests/{tag}");
        assert_eq!(site.at(round + 2).delete(&path).await.status.as_u16(), 202);
        assert_eq!(registry.get(&path).await.status.as_u16(), 404);
    }
}

/// Row 8: the answer of the bucket to the write of the log entry is lost, and the client asks
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_log_entry_was_written_without_an_answer_is_one_push() {
    let site = Site::replicas(2).await;
    let bucket = site.bucket.as_ref().expect("a bucket");
    let manifest = site.at(0).image("a", "layer").await;
    let before = bucket.keys("registry/log/").len();
    let (key, how) = ("registry/log/", How::LostAnswer);
    bucket.fault(Fault { request: "PUT", key, how, times: 1 });
    for turn in 0..3 {
        let reply = site.at(turn).put_manifest("a", "v1", MANIFEST, &manifest).await;
        assert_eq!(reply.status.as_u16(), 201);
    }
    assert_eq!(bucket.keys("registry/log/").len(), before + 1);
}

/// Row 14: the replica dies with the blob's object written and its entry of the log not yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_between_bytes_and_metadata_leaves_no_blob() {
    let mut site = Site::replicas(2).await;
    let bucket = site.bucket.as_ref().expect("a bucket");
    let digest = Digest::of(b"layer");
    let gate = Gate::new();
    let (key, how) = ("registry/log/", How::Held(gate.clone()));
    bucket.fault(Fault { request: "PUT", key, how, times: 1 });
    let dying = site.at(0);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    let push = tokio::spawn(async move { dying.send(Method::POST, &path, &[], "layer").await });
    gate.reached().await;
    assert_eq!(bucket.keys("registry/blobs/").len(), 1);
    push.abort();
    // Its entry never arrives; the others know nothing of the blob.
    let blob = format!("/v2/a/blobs/{digest}");
    assert_eq!(site.at(1).head(&blob).await.status.as_u16(), 404);
    let reply = site.at(1).put_manifest("a", "v1", MANIFEST, &image_manifest("layer")).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    // The client goes on elsewhere, and who starts afterwards sees the same.
    site.at(1).push_image("a", "v1", "layer").await;
    site.start().await;
    assert_eq!(site.at(2).get(&blob).await.body, "layer");
    gate.open();
}

/// Row 3, in one process: the client saw the blob with HEAD and skips its upload; a collection runs before the manifest
/// comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_skips_an_upload_does_not_lose_to_a_collection() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = options(directory.path());
    let store = options.store.clone();
    let registry = Fixture::over(options).await;
    registry.image("a", "layer").await;
    let week = Duration::from_secs(7 * 86_400);
    let digest = Digest::of(b"layer");
    for digest in [digest, Digest::of(b"{}")] {
        let file = std::fs::File::open(store.path(&digest)).expect("the blob");
        let old = std::fs::FileTimes::new().set_modified(SystemTime::now() - week);
        file.set_times(old).expect("an older time");
        let reply = registry.head(&format!("/v2/a/blobs/{digest}")).await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    let collect = CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(3600),
        upload_idle_max: week,
        mode: CollectMode::Apply,
    };
    let collected = store.collect(&collect, |_, _| {}).expect("a collection");
    assert_eq!((collected.blobs, collected.kept_blobs), (0, 2));
    let reply = registry.put_manifest("a", "v1", MANIFEST, &image_manifest("layer")).await;
    assert_eq!(reply.status.as_u16(), 201);
    // From now on the manifest keeps them, whatever the delay.
    let at_once =
        CollectOptions { now: SystemTime::now() + week, delay: Duration::ZERO, ..collect };
    assert_eq!(store.collect(&at_once, |_, _| {}).expect("a collection").blobs, 0);
    // A blob that a collection took is unknown, not a broken download.
    registry.delete("/v2/a/manifests/v1").await;
    let manifest = Digest::of(image_manifest("layer").to_string().as_bytes());
    registry.delete(&format!("/v2/a/manifests/{manifest}")).await;
    assert_eq!(store.collect(&at_once, |_, _| {}).expect("a collection").blobs, 0, "the trash");
    assert_eq!(registry.delete("/v2/_shipway/trash").await.json()["removed"], 2);
    assert_eq!(store.collect(&at_once, |_, _| {}).expect("a collection").blobs, 2);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.status.as_u16(), 404);
    let reply = registry.put_manifest("a", "v1", MANIFEST, &image_manifest("layer")).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    registry.push_image("a", "v1", "layer").await;
}

/// Row 4, in one process: a mount holds a blob that a collection was about to take.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_does_not_lose_to_a_collection() {
    let site = Site::one_process().await;
    let store = options(site.directories[0].path()).store;
    let registry = site.at(0);
    for round in 0..8 {
        let layer = format!("layer {round}");
        registry.image("a", &layer).await;
        let digest = Digest::of(layer.as_bytes());
        age(&store, &digest);
        let path = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
        let for_thread = store.clone();
        let collection =
            tokio::task::spawn_blocking(move || for_thread.collect(&hourly(), |_, _| {}));
        let (mounted, collected) =
            tokio::join!(registry.send(Method::POST, &path, &[], ""), collection);
        collected.expect("no panic").expect("a collection");
        let shown = registry.get(&format!("/v2/b/blobs/{digest}")).await.status.as_u16();
        assert!(
            [(201, 200), (202, 404)].contains(&(mounted.status.as_u16(), shown)),
            "{} {shown}",
            mounted.status
        );
    }
}

fn hourly() -> CollectOptions {
    CollectOptions {
        now: SystemTime::now(),
        delay: Duration::from_secs(3600),
        upload_idle_max: Duration::from_secs(7 * 86_400),
        mode: CollectMode::Apply,
    }
}

/// Makes a blob look as if nobody had asked for it for a week.
fn age(store: &BlobStore, digest: &Digest) {
    let file = std::fs::File::open(store.path(digest)).expect("the blob");
    let then = SystemTime::now() - Duration::from_secs(7 * 86_400);
    file.set_times(std::fs::FileTimes::new().set_modified(then)).expect("an older time");
}

/// The log as a store of somebody else's keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_over_moto() {
    let moto = crate::bucket_peers::Moto::start().await;
    let mut site = Site { registries: Vec::new(), directories: Vec::new(), bucket: None };
    for _ in 0..2 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = options(directory.path());
        options.bucket = Some(crate::bucket::options(moto.endpoint()));
        site.registries.push(Arc::new(Fixture::over(options).await));
        site.directories.push(directory);
    }
    let again = Site { registries: site.registries.clone(), directories: Vec::new(), bucket: None };
    what_was_acknowledged_is_there_wherever_the_next_request_goes(again).await;
    of_two_first_writers_of_a_tag_exactly_one_wins(site).await;
}
