use std::sync::atomic::{AtomicUsize, Ordering};

use oci_model::{Digest, MediaType, Repository, Tag};
use redb::ReadableDatabase as _;

use super::memory::{Fault, Memory, View};
use super::*;
use crate::metadata::changes::{AddBlob, Change, Child, Expected, NewManifest, Reply};
use crate::metadata::{Metadata, tables};
use crate::route::ManifestReference;

mod interleavings;

/// Nothing is trusted and nothing waits.
const HASTY: Pace = Pace {
    snapshot_entries: 1_000_000,
    snapshot_bytes: u64::MAX,
    lag: Duration::ZERO,
    trusted: Duration::ZERO,
    pause_first: Duration::ZERO,
};

/// Snapshots every four entries.
const THRIFTY: Pace = Pace { snapshot_entries: 4, ..HASTY };

async fn try_join(
    directory: &Path,
    view: &Arc<View>,
    pace: Pace,
) -> Result<Metadata, MetadataError> {
    let (directory, objects) = (directory.to_owned(), Arc::clone(view) as Arc<dyn Objects>);
    let runtime = Handle::current();
    let joined =
        tokio::task::spawn_blocking(move || Metadata::join(&directory, objects, pace, &runtime));
    joined.await.expect("no panic")
}

async fn join(directory: &Path, view: &Arc<View>, pace: Pace) -> Metadata {
    try_join(directory, view, pace).await.expect("a replica")
}

async fn close(metadata: Metadata) {
    tokio::task::spawn_blocking(move || metadata.close()).await.expect("no panic");
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn repository() -> Repository {
    Repository::new("team/app").expect("a name")
}

fn add(content: &str) -> Change {
    Change::AddBlob(AddBlob {
        repository: repository(),
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        key: format!("blobs/{content}"),
    })
}

fn put(tag: &str, bytes: &str, expected: Option<Expected>, children: Vec<Child>) -> Change {
    Change::PutManifest(Box::new(NewManifest {
        repository: repository(),
        digest: Digest::of(bytes.as_bytes()),
        media_type: MediaType::OCI_MANIFEST,
        bytes: bytes.to_owned().into(),
        tags: vec![Tag::new(tag).expect("a tag")],
        expected,
        children,
        subject: None,
        cached: false,
    }))
}

fn by_tag(metadata: &Metadata, tag: &str) -> Option<Digest> {
    let reference = ManifestReference::Tag(Tag::new(tag).expect("a tag"));
    metadata.manifest(&repository(), &reference).expect("an answer").map(|found| found.digest)
}

fn has_blob(metadata: &Metadata, content: &str) -> bool {
    let digest = Digest::of(content.as_bytes());
    metadata.linked(&repository(), &digest).expect("an answer").is_some()
}

/// Every row of every table.
fn rows(metadata: &Metadata) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let transaction = metadata.shared.database.begin_read().expect("a transaction");
    let mut rows = Vec::new();
    tables::each_row::<MetadataError>(&transaction, |table, key, value| {
        rows.push((table.to_owned(), key.to_vec(), value.to_vec()));
        Ok(())
    })
    .expect("rows");
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_acknowledged_the_other_shows_at_once() {
    let (bucket, one, two) = (Memory::default(), directory(), directory());
    let one = join(one.path(), &bucket.reliable(), Pace::default()).await;
    let two = join(two.path(), &bucket.reliable(), Pace::default()).await;
    one.change(add("layer")).await.expect("a change");
    two.current().await.expect("an answer");
    assert!(has_blob(&two, "layer"));
    let layer = Child::Blob(Digest::of(b"layer"));
    for round in 0..6 {
        let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let bytes = format!("manifest {round}");
        writer.change(put("latest", &bytes, None, vec![layer])).await.expect("a change");
        reader.current().await.expect("an answer");
        // Twice: once from the tables, once from memory.
        for _ in 0..2 {
            assert_eq!(by_tag(reader, "latest"), Some(Digest::of(bytes.as_bytes())));
        }
    }
    assert_eq!(rows(&one), rows(&two));
    assert_eq!(bucket.keys("log/").len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_writers_one_wins_and_the_other_is_told() {
    let (bucket, one, two) = (Memory::default(), directory(), directory());
    let one = join(one.path(), &bucket.reliable(), HASTY).await;
    let two = join(two.path(), &bucket.reliable(), HASTY).await;
    for round in 0..20 {
        let tag = format!("v{round}");
        let (first, second) = tokio::join!(
            one.change(put(&tag, "one", Some(Expected::Nothing), Vec::new())),
            two.change(put(&tag, "two", Some(Expected::Nothing), Vec::new()))
        );
        let winner = match (first, second) {
            (Ok(()), Err(ChangeError::NotAsExpected(_))) => "one",
            (Err(ChangeError::NotAsExpected(_)), Ok(())) => "two",
            other => panic!("{other:?}"),
        };
        for replica in [&one, &two] {
            replica.current().await.expect("an answer");
            assert_eq!(by_tag(replica, &tag), Some(Digest::of(winner.as_bytes())));
        }
    }
}

/// The batch loses its place to an entry that makes one of its changes impossible and another one
/// possible.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_lost_is_judged_again() {
    let (bucket, one, two) = (Memory::default(), directory(), directory());
    let one = join(one.path(), &bucket.reliable(), Pace::default()).await;
    let two = join(two.path(), &bucket.reliable(), Pace::default()).await;
    one.change(put("old", "m", None, Vec::new())).await.expect("a change");
    // The second replica knows nothing of it yet.
    let now = Expected::Manifest(Digest::of(b"m"));
    let (created, moved) = tokio::join!(
        two.change(put("old", "n", Some(Expected::Nothing), Vec::new())),
        two.change(put("new", "n", None, Vec::new())),
    );
    assert!(matches!(created, Err(ChangeError::NotAsExpected(_))), "{created:?}");
    moved.expect("a change");
    one.change(put("new", "o", None, Vec::new())).await.expect("a change");
    let (moved, stale) = tokio::join!(
        two.change(put("old", "p", Some(now), Vec::new())),
        two.change(put("new", "p", Some(Expected::Manifest(Digest::of(b"n"))), Vec::new())),
    );
    moved.expect("a change");
    assert!(matches!(stale, Err(ChangeError::NotAsExpected(_))), "{stale:?}");
    one.current().await.expect("an answer");
    assert_eq!(rows(&one), rows(&two));
}

/// Each fault once, on the first try to write the entry of the change.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_resolved_by_reading_the_entry() {
    for fault in [Fault::Lost, Fault::AnswerLost] {
        let (bucket, here) = (Memory::default(), directory());
        let met = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&met);
        let view = bucket.view(move |action, key| {
            let is_ours = action == "create" && key == entry::key(2);
            if is_ours && counted.fetch_add(1, Ordering::Relaxed) == 0 {
                fault
            } else {
                Fault::Fine
            }
        });
        let replica = join(here.path(), &view, HASTY).await;
        replica.change(add("first")).await.expect("a change");
        replica.change(add("second")).await.expect("a change");
        replica.change(add("third")).await.expect("a change");
        assert_eq!(bucket.keys("log/").len(), 3, "{fault:?}");
        let tries = if fault == Fault::Lost { 2 } else { 1 };
        assert_eq!(met.load(Ordering::Relaxed), tries, "{fault:?}");
        let other = directory();
        let other = join(other.path(), &bucket.reliable(), HASTY).await;
        assert_eq!(rows(&other), rows(&replica));
    }
}

/// The bucket is away longer than the replica tries; the entry arrived all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_given_up_may_still_count_and_is_followed() {
    let (bucket, here) = (Memory::default(), directory());
    let down = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&down);
    let view = bucket.view(move |action, _| match (seen.load(Ordering::Relaxed), action) {
        (0, _) => Fault::Fine,
        (_, "create") => Fault::AnswerLost,
        (_, _) => Fault::Lost,
    });
    let replica = join(here.path(), &view, HASTY).await;
    down.store(1, Ordering::Relaxed);
    let refused = replica.change(add("layer")).await;
    assert!(matches!(refused, Err(ChangeError::Unavailable)), "{refused:?}");
    let refused = replica.current().await;
    assert!(matches!(refused, Err(ChangeError::Unavailable)), "{refused:?}");
    down.store(0, Ordering::Relaxed);
    replica.change(add("other")).await.expect("a change");
    assert!(has_blob(&replica, "layer") && has_blob(&replica, "other"));
    assert_eq!(bucket.keys("log/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused() {
    for (ignored, name) in
        [(["create"].as_slice(), "`If-None-Match: *`"), (["replace"].as_slice(), "`If-Match`")]
    {
        let (bucket, here) = (Memory::default(), directory());
        let mut view = bucket.reliable();
        Arc::get_mut(&mut view).expect("the only one").ignored = ignored;
        let error = try_join(here.path(), &view, HASTY).await.err().expect("a refusal");
        let text = error.to_string();
        assert!(text.starts_with(&format!("the bucket does not enforce {name}: ")), "{text}");
        assert_eq!(bucket.keys(""), [""; 0]);
    }
}

#[tokio::test]
async fn one_question_serves_everybody_who_waits() {
    let (bucket, here) = (Memory::default(), directory());
    let view = bucket.reliable();
    let replica = join(here.path(), &view, Pace::default()).await;
    view.take_requests();
    let asking = (0..100).map(|_| replica.current());
    for answer in futures_util::future::join_all(asking).await {
        answer.expect("an answer");
    }
    assert_eq!(view.take_requests(), [("read", entry::key(1))]);
}

/// The tables are at hand after a restart, and gone with the directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_reads_only_what_it_does_not_know() {
    let (bucket, here) = (Memory::default(), directory());
    let view = bucket.reliable();
    let replica = join(here.path(), &view, Pace::default()).await;
    for blob in 0..30 {
        replica.change(add(&format!("blob {blob}"))).await.expect("a change");
    }
    let expected = rows(&replica);
    close(replica).await;
    let read = |view: &View| {
        let requests = view.take_requests();
        requests.into_iter().filter(|(_, key)| key.starts_with("log/")).count()
    };
    read(&view);
    let replica = join(here.path(), &view, Pace::default()).await;
    assert_eq!(rows(&replica), expected);
    // The next entry, and the last one to see that the log is whole.
    assert_eq!(read(&view), 2);
    close(replica).await;
    let elsewhere = directory();
    let replica = join(elsewhere.path(), &view, Pace::default()).await;
    assert_eq!(rows(&replica), expected);
    close(replica).await;
    // Another log: what the directory holds is not its state.
    let other = Memory::default();
    let replica = join(here.path(), &other.reliable(), Pace::default()).await;
    assert_eq!(rows(&replica), []);
    close(replica).await;
    std::fs::write(here.path().join("replica.redb"), vec![7; 100_000]).expect("damage");
    let replica = join(here.path(), &view, Pace::default()).await;
    assert_eq!(rows(&replica), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_replace_the_old_end_of_the_log() {
    let (bucket, here) = (Memory::default(), directory());
    let pace = Pace { lag: Duration::from_secs(100), ..THRIFTY };
    for round in 0..4 {
        let replica = join(here.path(), &bucket.reliable(), pace).await;
        for blob in 0..4 {
            replica.change(add(&format!("blob {round} {blob}"))).await.expect("a change");
        }
        // The last thing is the snapshot.
        close(replica).await;
        bucket.pass(Duration::from_secs(60));
    }
    // At 0 s, 60 s, 120 s and 180 s: the second is the newest that is old enough.
    let sequences = |prefix: &str| {
        let keys = bucket.keys(prefix);
        keys.iter().filter_map(|key| entry::sequence(prefix, key)).collect::<Vec<_>>()
    };
    assert_eq!(sequences("snapshots/"), [8, 12, 16]);
    assert_eq!(sequences("log/"), (8..=16).collect::<Vec<_>>());
    let replica = join(here.path(), &bucket.reliable(), pace).await;
    let expected = rows(&replica);
    assert_eq!(replica.repositories(None, 9, |_| true).expect("names").names, [""; 0]);
    assert!(has_blob(&replica, "blob 0 0") && has_blob(&replica, "blob 3 3"));
    let newest = snapshot::key(16);
    for damage in
        ["", "shipway metadata 1\n and what nobody wrote in the place of thirty-two bytes"]
    {
        let elsewhere = directory();
        bucket.overwrite(&newest, damage.into());
        let other = join(elsewhere.path(), &bucket.reliable(), pace).await;
        assert_eq!(rows(&other), expected);
    }
}

/// Two replicas sleep while the third goes on and the log loses its old end.
#[tokio::test(flavor = "multi_thread")]
async fn who_slept_longer_than_the_log_lasts_begins_from_a_snapshot() {
    let (bucket, directories) = (Memory::default(), [directory(), directory(), directory()]);
    let [awake, reads, writes] = &directories;
    let reads = join(reads.path(), &bucket.reliable(), THRIFTY).await;
    let writes = join(writes.path(), &bucket.reliable(), THRIFTY).await;
    for replica in [&reads, &writes] {
        replica.change(put("latest", "old", None, Vec::new())).await.expect("a change");
        replica.current().await.expect("an answer");
    }
    for round in 0..5 {
        let awake = join(awake.path(), &bucket.reliable(), THRIFTY).await;
        for blob in 0..4 {
            awake.change(add(&format!("blob {round} {blob}"))).await.expect("a change");
        }
        awake.change(put("latest", &format!("{round}"), None, Vec::new())).await.expect("a change");
        close(awake).await;
    }
    assert!(!bucket.keys("log/").contains(&entry::key(2)));
    let mut before = bucket.keys("log/");
    assert_eq!(by_tag(&reads, "latest"), Some(Digest::of(b"old")));
    reads.current().await.expect("an answer");
    assert_eq!(by_tag(&reads, "latest"), Some(Digest::of(b"4")));
    assert!(has_blob(&reads, "blob 0 0"));
    // It would write its entry where the log no longer is.
    let old = Expected::Manifest(Digest::of(b"old"));
    let refused = writes.change(put("latest", "new", Some(old), Vec::new())).await;
    assert!(matches!(refused, Err(ChangeError::NotAsExpected(_))), "{refused:?}");
    before.insert(0, entry::key(2));
    assert_eq!(bucket.keys("log/"), before, "what it wrote lies where nobody looks");
    writes.current().await.expect("an answer");
    writes.change(add("late")).await.expect("a change");
    assert_eq!(bucket.keys("log/").len(), before.len() + 1);
    reads.current().await.expect("an answer");
    assert_eq!(rows(&reads), rows(&writes));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sleeper_wrote_behind_the_log_is_written_again() {
    let (bucket, directories) = (Memory::default(), [directory(), directory()]);
    let sleeper = join(directories[0].path(), &bucket.reliable(), THRIFTY).await;
    sleeper.change(add("first")).await.expect("a change");
    for round in 0..3 {
        let awake = join(directories[1].path(), &bucket.reliable(), THRIFTY).await;
        for blob in 0..4 {
            awake.change(add(&format!("blob {round} {blob}"))).await.expect("a change");
        }
        close(awake).await;
    }
    assert!(!bucket.keys("log/").contains(&entry::key(2)));
    sleeper.change(add("late")).await.expect("a change");
    assert!(has_blob(&sleeper, "blob 0 0"));
    let awake = join(directories[1].path(), &bucket.reliable(), THRIFTY).await;
    assert!(has_blob(&awake, "late"));
    assert_eq!(rows(&awake), rows(&sleeper));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_later_version_stops_the_replica() {
    let (bucket, here) = (Memory::default(), directory());
    let replica = join(here.path(), &bucket.reliable(), Pace::default()).await;
    replica.change(add("layer")).await.expect("a change");
    for text in [r#"{"format":2}"#, r#"{"format":1,"writer":"w","nonce":1,"changes":[{"x":1}]}"#] {
        bucket.overwrite(&entry::key(2), text.into());
        let refused = replica.current().await;
        assert!(matches!(refused, Err(ChangeError::Unavailable)), "{refused:?}");
        let refused = replica.change(add("other")).await;
        assert!(matches!(refused, Err(ChangeError::Failed)), "{refused:?}");
        let elsewhere = directory();
        let error = try_join(elsewhere.path(), &bucket.reliable(), HASTY).await.err();
        let text = error.expect("a refusal").to_string();
        assert_eq!(text, "entry 2 of the log is damaged or written by a later version");
    }
    // Reading goes on where the log does.
    bucket.remove(&entry::key(2));
    replica.current().await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_not_logged() {
    let (bucket, here) = (Memory::default(), directory());
    let replica = join(here.path(), &bucket.reliable(), Pace::default()).await;
    for _ in 0..3 {
        replica.change(put("v1", "m", None, Vec::new())).await.expect("a change");
        let missing = Child::Blob(Digest::of(b"missing"));
        replica.change(put("v2", "n", None, vec![missing])).await.expect_err("a refusal");
        replica.tidy().await.expect("a change");
    }
    assert_eq!(bucket.keys("log/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_uploaded_twice_has_one_object_whoever_was_first() {
    let (bucket, one, two) = (Memory::default(), directory(), directory());
    let one = join(one.path(), &bucket.reliable(), HASTY).await;
    let two = join(two.path(), &bucket.reliable(), HASTY).await;
    let upload = |key: &str| {
        let (repository, digest) = (repository(), Digest::of(b"layer"));
        Change::AddBlob(AddBlob { repository, digest, size: 5, key: key.to_owned() })
    };
    let stamp = crate::metadata::Stamp::system;
    let (first, second) =
        tokio::join!(one.submit(upload("a"), stamp()), two.submit(upload("b"), stamp()));
    let duplicate = |key: &str| Reply::Duplicate { key: key.to_owned() };
    let both = (first.expect("a change"), second.expect("a change"));
    let kept = if both.0 == Reply::Done { "a" } else { "b" };
    assert!(both == (Reply::Done, duplicate("a")) || both == (duplicate("b"), Reply::Done));
    for replica in [&one, &two] {
        replica.current().await.expect("an answer");
        let row = replica.blob(&Digest::of(b"layer")).expect("an answer").expect("a row");
        assert_eq!(row.key, kept);
    }
}

/// Rows 3 and 4 of the race catalogue (registry.md 4.7) on replicas: one client is told that the
/// blob is there, or mounts it, and pushes its manifest without uploading; another replica
/// collects meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_takes_nothing_that_a_client_was_told_is_there() {
    let (bucket, one, two) = (Memory::default(), directory(), directory());
    let one = join(one.path(), &bucket.reliable(), HASTY).await;
    let two = join(two.path(), &bucket.reliable(), HASTY).await;
    let stamp = |at| crate::metadata::Stamp { at, by: String::new(), request: String::new() };
    for round in 0..30 {
        let content = format!("layer {round}");
        let digest = Digest::of(content.as_bytes());
        one.submit(add(&content), stamp(1)).await.expect("a change");
        let told = async {
            one.current().await.expect("an answer");
            let said = if round % 2 == 0 {
                Change::SeeBlob(digest)
            } else {
                Change::MountBlob(repository(), digest)
            };
            if one.submit(said, stamp(100)).await.is_err() {
                return false;
            }
            let push = put(&format!("t{round}"), &content, None, vec![Child::Blob(digest)]);
            one.submit(push, stamp(101)).await.expect("a push of what is there");
            true
        };
        let collected = async {
            two.current().await.expect("an answer");
            let garbage = two.garbage(50, 0).expect("an answer");
            let (candidates, seen_before) = (garbage.unseen, 50);
            let collection = crate::metadata::Collection { candidates, seen_before };
            two.submit(Change::Collect(collection), stamp(102)).await.expect("a change")
        };
        let (told, collected) = tokio::join!(told, collected);
        let gone = collected == Reply::Collected(vec![(digest, content.len() as u64)]);
        // A mount brings it back whichever comes first; a question does not.
        assert!(told || (gone && round % 2 == 0), "{told} {collected:?}");
        for replica in [&one, &two] {
            replica.current().await.expect("an answer");
            let row = replica.blob(&digest).expect("an answer").expect("a row");
            let live = row.state == crate::metadata::BlobState::Live;
            assert_eq!((live, has_blob(replica, &content)), (told, told));
        }
    }
    assert_eq!(rows(&one), rows(&two));
}
