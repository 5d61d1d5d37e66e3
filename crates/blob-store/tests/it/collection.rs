use std::io::Write as _;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectError, CollectMode, CollectOptions, RefError};
use oci_model::Digest;

use crate::{collect_now, name, store};

fn collect(store: &BlobStore) -> Vec<Digest> {
    let mut removed = Vec::new();
    store.collect(&collect_now(), |digest, _| removed.push(*digest)).expect("a collection");
    removed
}

#[test]
fn refs_keep_and_everything_else_goes() {
    let (_directory, store) = store();
    let kept = store.put(b"kept").expect("a blob");
    let loose = store.put(b"loose").expect("a blob");
    store.set_ref(&name("node/image"), &[kept]).expect("a ref");
    assert_eq!(collect(&store), [loose]);
    assert!(store.contains(&kept));
    store.remove_ref(&name("node/image")).expect("no ref");
    assert_eq!(collect(&store), [kept]);
}

#[test]
fn a_ref_never_names_a_missing_blob() {
    let (_directory, store) = store();
    let kept = store.put(b"kept").expect("a blob");
    let error =
        store.set_ref(&name("node/x"), &[kept, Digest::of(b"?")]).expect_err("a missing blob");
    assert!(matches!(error, RefError::Missing { digest } if digest == Digest::of(b"?")));
    assert_eq!(store.get_ref(&name("node/x")).expect("an answer"), None);
}

#[test]
fn refs_are_listed_by_prefix() {
    let (_directory, store) = store();
    let digest = store.put(b"x").expect("a blob");
    for text in ["node/b", "node/a", "node/ab", "build/a"] {
        store.set_ref(&name(text), &[digest]).expect("a ref");
    }
    let listed = |prefix: &str| -> Vec<String> {
        let refs = store.refs(prefix).expect("refs");
        refs.into_iter().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(listed("node/"), ["node/a", "node/ab", "node/b"]);
    assert_eq!(listed("node/a"), ["node/a", "node/ab"]);
    assert_eq!(listed("other/"), [""; 0]);
}

#[test]
fn ref_names_need_an_owner() {
    for text in ["", "node", "/x", "node/", "No/x", "../x", "a b/c"] {
        assert!(text.parse::<blob_store::RefName>().is_err(), "{text:?}");
    }
}

#[test]
fn a_lease_keeps_until_it_is_dropped() {
    let (_directory, store) = store();
    let lease = store.lease().expect("a lease");
    assert!(!lease.add(&Digest::of(b"later")).expect("an answer"));
    let mut ingest = store.ingest().expect("an ingest").guarded_by(&lease);
    ingest.write_all(b"guarded").expect("a write");
    let guarded = ingest.commit_any().expect("a commit");
    let later = store.put(b"later").expect("a blob");
    assert_eq!(collect(&store), []);
    drop(lease);
    let mut gone = collect(&store);
    gone.sort();
    let mut expected = vec![guarded, later];
    expected.sort();
    assert_eq!(gone, expected);
}

#[test]
fn a_recent_use_restarts_the_delay() {
    let (_directory, store) = store();
    let digest = store.put(b"x").expect("a blob");
    let day = Duration::from_secs(86_400);
    let at = |now: SystemTime| CollectOptions { now, delay: day, ..collect_now() };
    let collected = store.collect(&at(SystemTime::now() + day / 2), |_, _| {});
    assert_eq!(collected.expect("a collection").kept_blobs, 1);
    // As if the blob were two days old, then seen again.
    let old = SystemTime::now() - 2 * day;
    let times = std::fs::FileTimes::new().set_modified(old);
    let file = std::fs::File::open(store.path(&digest)).expect("the blob");
    file.set_times(times).expect("an older time");
    assert!(store.touch(&digest).expect("a touch"));
    assert_eq!(store.collect(&at(SystemTime::now()), |_, _| {}).expect("a run").blobs, 0);
    file.set_times(times).expect("an older time");
    assert_eq!(store.collect(&at(SystemTime::now()), |_, _| {}).expect("a run").blobs, 1);
}

#[test]
fn a_removed_ref_restarts_the_delay() {
    let (_directory, store) = store();
    let digest = store.put(b"x").expect("a blob");
    store.set_ref(&name("node/x"), &[digest]).expect("a ref");
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    let file = std::fs::File::open(store.path(&digest)).expect("the blob");
    file.set_times(std::fs::FileTimes::new().set_modified(old)).expect("an older time");
    store.remove_ref(&name("node/x")).expect("no ref");
    let options = CollectOptions { delay: Duration::from_secs(3600), ..collect_now() };
    assert_eq!(store.collect(&options, |_, _| {}).expect("a collection").blobs, 0);
}

#[test]
fn what_waits_for_its_delay_is_told_and_every_use_counts_for_all_of_it() {
    let (_directory, store) = store();
    store.put(b"loose").expect("a blob");
    let delay = Duration::from_secs(120);
    let at = |after: u64| CollectOptions {
        now: SystemTime::now() + Duration::from_secs(after),
        delay,
        mode: CollectMode::Plan,
        ..collect_now()
    };
    // A use up to a minute after the noted one is not noted and must count as well.
    let early = store.collect(&at(170), |_, _| {}).expect("a plan");
    assert_eq!((early.blobs, early.waiting_blobs, early.waiting_bytes), (0, 1, 5));
    assert_eq!(store.collect(&at(190), |_, _| {}).expect("a plan").blobs, 1);
}

#[test]
fn it_is_known_why_a_blob_stays_and_what_the_last_collection_did() {
    let (_directory, store) = store();
    assert_eq!(store.last_collection(), None);
    let (kept, loose) = (store.put(b"kept").expect("a"), store.put(b"loose").expect("b"));
    for text in ["node/a", "node/b", "build/c"] {
        store.set_ref(&name(text), &[kept]).expect("a ref");
    }
    let keepers = store.keepers(&kept, 2).expect("an answer");
    assert_eq!(
        (keepers.size, keepers.refs),
        (Some(4), vec!["build/c".to_owned(), "node/a".to_owned()])
    );
    let lease = store.lease().expect("a lease");
    lease.add(&loose).expect("a guard");
    let keepers = store.keepers(&loose, 2).expect("an answer");
    assert_eq!((keepers.refs.len(), keepers.leased), (0, true));
    drop(lease);
    let collected = store.collect(&collect_now(), |_, _| {}).expect("a collection");
    assert_eq!(store.keepers(&loose, 2).expect("an answer").size, None);
    assert_eq!(store.last_collection().expect("a collection").collected, collected);
}

#[test]
fn a_plan_removes_nothing_and_tells_the_same() {
    let (_directory, store) = store();
    let digest = store.put(b"12345").expect("a blob");
    let plan = CollectOptions { mode: CollectMode::Plan, ..collect_now() };
    let planned = store.collect(&plan, |_, _| {}).expect("a plan");
    assert!(store.contains(&digest));
    assert_eq!((planned.blobs, planned.bytes), (1, 5));
    assert_eq!(store.collect(&collect_now(), |_, _| {}).expect("a collection"), planned);
}

#[test]
fn damage_in_a_log_stops_the_collection() {
    let (_directory, store) = store();
    let digest = store.put(b"x").expect("a blob");
    store.set_ref(&name("node/x"), &[digest]).expect("a ref");
    let log = store.root().join("refs/node.log");
    let mut bytes = std::fs::read(&log).expect("the log");
    bytes[9] ^= 1;
    std::fs::write(&log, bytes).expect("damage");
    let error = BlobStore::open(store.root())
        .expect("the store")
        .collect(&collect_now(), |_, _| {})
        .expect_err("damage");
    assert!(matches!(error, CollectError::Refs(RefError::Damaged { offset: 0, .. })), "{error}");
    assert!(store.contains(&digest));
}

#[test]
fn a_mirror_must_be_compared_after_a_restart_of_the_machine() {
    let (_directory, store) = store();
    let (kept, stale) = (store.put(b"kept").expect("a"), store.put(b"stale").expect("b"));
    let mirror = store.mirrored_refs("registry").expect("an owner");
    mirror.reconcile([]).expect("a first comparison");
    mirror.set("repo@stale", &[stale]).expect("a ref");
    std::fs::write(store.root().join("refs/registry.mirror"), "an earlier boot").expect("a write");
    let error = store.collect(&collect_now(), |_, _| {}).expect_err("not reconciled");
    assert!(
        matches!(&error, CollectError::OwnerNotReconciled { owner } if owner == "registry"),
        "{error}"
    );
    mirror.reconcile([("repo@kept".to_owned(), vec![kept])]).expect("a comparison");
    let refs = store.refs("registry/").expect("refs");
    assert_eq!(refs, [(name("registry/repo@kept"), vec![kept])]);
    assert_eq!(collect(&store), [stale]);
}

#[test]
fn pushes_never_lose_to_collections() {
    let (_directory, store) = store();
    let other = BlobStore::open(store.root()).expect("a second view");
    std::thread::scope(|scope| {
        let pusher = scope.spawn(|| {
            for round in 0..60u32 {
                let lease = store.lease().expect("a lease");
                let mut digests = Vec::new();
                for part in 0..3u32 {
                    let mut ingest = store.ingest().expect("an ingest").guarded_by(&lease);
                    ingest.write_all(format!("{round} {part}").as_bytes()).expect("a write");
                    digests.push(ingest.commit_any().expect("a commit"));
                }
                store.set_ref(&name(&format!("build/{round}")), &digests).expect("a ref");
                if round % 2 == 0 {
                    store.remove_ref(&name(&format!("build/{round}"))).expect("no ref");
                }
            }
        });
        while !pusher.is_finished() {
            other.collect(&collect_now(), |_, _| {}).expect("a collection");
        }
        pusher.join().expect("the pusher");
    });
    for (name, digests) in store.refs("build/").expect("refs") {
        for digest in digests {
            assert!(store.contains(&digest), "{name} lost {digest}");
        }
    }
    assert_eq!(store.refs("build/").expect("refs").len(), 30);
}

#[test]
fn released_refs_free_at_once_what_only_they_kept() {
    let (_directory, store) = store();
    let [own, shared, leased, waiting] = [&b"own"[..], b"shared", b"leased", b"waiting"]
        .map(|bytes| store.put(bytes).expect("a blob"));
    let all = vec![own, shared, leased, waiting];
    store.set_ref(&name("images/a"), &all).expect("a ref");
    store.set_ref(&name("registry/b"), &[shared]).expect("a ref");
    let lease = store.lease().expect("a lease");
    lease.add(&leased).expect("an answer");
    let kept = store.forget_refs(&[(name("images/a"), all.clone())]).expect("no ref");
    let released = store.free(kept, |digest, _| *digest != waiting).expect("a release");
    assert_eq!((released.blobs, released.bytes), (1, 3));
    assert_eq!(released.waiting_blobs, 2);
    assert_eq!(
        all.iter().map(|d| store.contains(d)).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    assert_eq!(store.get_ref(&name("images/a")).expect("an answer"), None);
}

#[test]
fn a_ref_that_was_set_anew_is_not_released() {
    let (_directory, store) = store();
    let (old, new) = (store.put(b"old").expect("a blob"), store.put(b"new").expect("a blob"));
    store.set_ref(&name("images/a"), &[new]).expect("a ref");
    let kept = store.forget_refs(&[(name("images/a"), vec![old])]).expect("an answer");
    assert_eq!(kept.len(), 0);
    assert_eq!(store.get_ref(&name("images/a")).expect("an answer"), Some(vec![new]));
    assert!(store.contains(&old), "not ours to remove");
}

/// A pull or a build guards its blobs by a lease before it looks for them; whatever the store
/// then says is there stays until the ref is set.
#[test]
fn what_a_pull_has_seen_is_never_released() {
    let (_directory, store) = store();
    let digest = Digest::of(b"layer");
    let bounds = 150;
    std::thread::scope(|scope| {
        let puller = scope.spawn(|| {
            for _ in 0..bounds {
                let lease = store.lease().expect("a lease");
                if !lease.add(&digest).expect("an answer") {
                    let mut ingest = store.ingest().expect("an ingest").guarded_by(&lease);
                    ingest.write_all(b"layer").expect("a write");
                    ingest.commit(&digest).expect("a commit");
                }
                store.set_ref(&name("images/a"), &[digest]).expect("the blob that was there");
            }
        });
        let refs = [(name("images/a"), vec![digest])];
        while !puller.is_finished() {
            let kept = store.forget_refs(&refs).expect("no ref");
            store.free(kept, |_, _| true).expect("a release");
        }
        puller.join().expect("no missing blob");
    });
}
