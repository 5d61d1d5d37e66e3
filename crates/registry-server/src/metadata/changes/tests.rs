use oci_model::MediaType;
use redb::ReadableTable as _;

use super::*;
use crate::metadata::{BlobRow, BlobState};

fn digest() -> Digest {
    Digest::of(b"")
}

fn repository() -> Repository {
    Repository::new("team/app").expect("a name")
}

fn manifest(bytes: &'static [u8]) -> NewManifest {
    NewManifest {
        repository: repository(),
        digest: digest(),
        media_type: MediaType::OCI_MANIFEST,
        bytes: bytes.into(),
        tags: vec![Tag::new("v1").expect("a tag")],
        expected: Some(Expected::Manifest(digest())),
        children: vec![Child::Blob(digest()), Child::Entry(digest())],
        subject: Some((digest(), b"{\"a\":1}".to_vec())),
        cached: false,
    }
}

fn cached_blob() -> CachedBlob {
    CachedBlob { repository: repository(), digest: digest(), size: 3, key: None }
}

fn uncached(used: u64) -> Uncached {
    Uncached { repository: repository(), digest: digest(), used }
}

/// Every replica and every later version reads these texts.
#[test]
fn changes_are_written_as_documented_and_come_back() {
    let e = digest().to_string();
    let link = StoredLink { repository: repository(), digest: digest(), size: 3 };
    let blob =
        AddBlob { repository: repository(), digest: digest(), size: 3, key: "blobs/1".to_owned() };
    let put = |bytes: &str| {
        format!(
            r#"{{"put_manifest":{{"repository":"team/app","digest":"{e}","media_type":"{}","bytes":{bytes},"tags":["v1"],"expected":{{"manifest":"{e}"}},"children":[{{"blob":"{e}"}},{{"entry":"{e}"}}],"subject":["{e}",{{"text":"{{\"a\":1}}"}}]}}}}"#,
            MediaType::OCI_MANIFEST
        )
    };
    let rows = [
        (Change::PutManifest(Box::new(manifest(b"{} "))), put(r#"{"text":"{} "}"#)),
        (Change::PutManifest(Box::new(manifest(b"\xff"))), put(r#"{"base64":"/w=="}"#)),
        (
            Change::DeleteManifest(repository(), digest()),
            format!(r#"{{"delete_manifest":["team/app","{e}"]}}"#),
        ),
        (
            Change::DeleteTag(repository(), Tag::new("v1").expect("a tag")),
            r#"{"delete_tag":["team/app","v1"]}"#.to_owned(),
        ),
        (
            Change::Link(link),
            format!(r#"{{"link":{{"repository":"team/app","digest":"{e}","size":3}}}}"#),
        ),
        (
            Change::DeleteBlob(repository(), digest()),
            format!(r#"{{"delete_blob":["team/app","{e}"]}}"#),
        ),
        (
            Change::AddBlob(blob),
            format!(
                r#"{{"add_blob":{{"repository":"team/app","digest":"{e}","size":3,"key":"blobs/1"}}}}"#
            ),
        ),
        (
            Change::MountBlob(repository(), digest()),
            format!(r#"{{"mount_blob":["team/app","{e}"]}}"#),
        ),
        (Change::SeeBlob(digest()), format!(r#"{{"see_blob":"{e}"}}"#)),
        (
            Change::CacheManifest(Box::new(manifest(b"{} "))),
            put(r#"{"text":"{} "}"#).replace("put_manifest", "cache_manifest"),
        ),
        (
            Change::CacheBlob(cached_blob()),
            format!(r#"{{"cache_blob":{{"repository":"team/app","digest":"{e}","size":3}}}}"#),
        ),
        (
            Change::UseCached(vec![CachedUse {
                repository: repository(),
                digest: digest(),
                at: 7,
            }]),
            format!(r#"{{"use_cached":[{{"repository":"team/app","digest":"{e}","at":7}}]}}"#),
        ),
        (
            Change::Uncache(vec![uncached(7)]),
            format!(r#"{{"uncache":[{{"repository":"team/app","digest":"{e}","used":7}}]}}"#),
        ),
        (
            Change::Collect(Collection { candidates: vec![digest()], seen_before: 5 }),
            format!(r#"{{"collect":{{"candidates":["{e}"],"seen_before":5}}}}"#),
        ),
        (
            Change::Bury(Burial { candidates: vec![digest()], since_before: 5 }),
            format!(r#"{{"bury":{{"candidates":["{e}"],"since_before":5}}}}"#),
        ),
        (
            Change::Tidy(vec![(repository(), digest())]),
            format!(r#"{{"tidy":[["team/app","{e}"]]}}"#),
        ),
    ];
    for (change, text) in rows {
        assert_eq!(serde_json::to_string(&change).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Change>(&text).expect("a change"), change);
    }
    let stamp = Stamp { at: 7, by: "ann".to_owned(), request: "r1".to_owned() };
    let text = serde_json::to_string(&stamp).expect("JSON");
    assert_eq!(text, r#"{"at":7,"by":"ann","request":"r1"}"#);
}

fn database() -> redb::Database {
    let memory = redb::backends::InMemoryBackend::new();
    redb::Builder::new().create_with_backend(memory).expect("a database")
}

/// A change that fails late: its first tag was moved when the second is refused.
#[test]
fn a_rejected_change_leaves_no_trace() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    tables.tags.insert(("a", "old"), "x").expect("a row");
    tables.settle();
    tables.tags.insert(("a", "old"), "y").expect("a row");
    tables.tags.insert(("a", "old"), "z").expect("a row");
    tables.tags.insert(("a", "new"), "z").expect("a row");
    assert!(tables.tags.remove(("a", "none")).expect("an answer").is_none());
    let removed = tables.tags.remove(("a", "new")).expect("an answer");
    assert_eq!(removed.expect("a row").value(), "z");
    tables.repositories.insert("a", 1).expect("a row");
    tables.undo().expect("the way back");
    assert_eq!(tables.tags.get(("a", "old")).expect("a row").expect("a row").value(), "x");
    assert!(tables.tags.get(("a", "new")).expect("an answer").is_none());
    assert!(tables.repositories.get("a").expect("an answer").is_none());
}

#[test]
fn a_blob_in_the_bucket_has_one_object_and_comes_back_from_a_tombstone() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    let stamp = |at| Stamp { at, by: "ann".to_owned(), request: String::new() };
    let add = |key: &str| {
        let (repository, key) = (repository(), key.to_owned());
        Change::AddBlob(AddBlob { repository, digest: digest(), size: 3, key })
    };
    let see = Change::SeeBlob(digest());
    let mount = Change::MountBlob(Repository::new("b").expect("a name"), digest());
    for change in [&see, &mount] {
        let refused = apply(change, &stamp(1), &mut tables);
        assert!(matches!(refused, Err(ChangeError::Missing(_))), "{change:?}");
    }
    assert_eq!(apply(&add("k1"), &stamp(1), &mut tables).expect("it").reply, Reply::Done);
    assert_eq!(apply(&add("k1"), &stamp(2), &mut tables).expect("it").reply, Reply::Done);
    let duplicate = Reply::Duplicate { key: "k1".to_owned() };
    assert_eq!(apply(&add("k2"), &stamp(3), &mut tables).expect("it").reply, duplicate);
    apply(&see, &stamp(4), &mut tables).expect("a lease");
    let mut row = blob::row(&digest(), &tables).expect("an answer").expect("a row");
    let live = BlobState::Live;
    let key = "k1".to_owned();
    assert_eq!(row, BlobRow { size: 3, key, state: live, created: 1, last_seen: 4 });
    for back in [mount, add("k3")] {
        row.state = BlobState::Tombstone { since: 5 };
        blob::put_row(&digest(), &row, &mut tables).expect("a row");
        let refused = apply(&see, &stamp(6), &mut tables);
        assert!(matches!(refused, Err(ChangeError::Missing(_))));
        apply(&back, &stamp(7), &mut tables).expect("it");
        assert_eq!(blob::row(&digest(), &tables).expect("an answer").expect("a row").state, live);
    }
}

// Race 12 (registry.md 4.7): expiry decided on what it knew, and the blob came again since.
#[test]
fn cached_content_goes_only_if_it_was_not_used_since() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    let stamp = |at| Stamp { at, by: String::new(), request: String::new() };
    let cache = Change::CacheBlob(cached_blob());
    let text = digest().to_string();
    let key = ("team/app", text.as_str());
    let kept = apply(&cache, &stamp(5), &mut tables).expect("it").effects;
    assert!(matches!(&kept[..], [Effect::Keep(_, kept)] if *kept == [digest()]));
    apply(&cache, &stamp(9), &mut tables).expect("it came again");
    apply(&Change::Uncache(vec![uncached(5)]), &stamp(10), &mut tables).expect("an answer");
    assert!(tables.links.get(key).expect("an answer").is_some());
    let used = CachedUse { repository: repository(), digest: digest(), at: 12 };
    apply(&Change::UseCached(vec![used]), &stamp(13), &mut tables).expect("a use");
    apply(&Change::Uncache(vec![uncached(9)]), &stamp(13), &mut tables).expect("an answer");
    assert!(tables.links.get(key).expect("an answer").is_some());
    let gone = apply(&Change::Uncache(vec![uncached(12)]), &stamp(14), &mut tables).expect("it");
    assert!(matches!(&gone.effects[..], [Effect::Release(_, kept)] if *kept == [digest()]));
    assert!(tables.links.get(key).expect("an answer").is_none());
    assert!(tables.holders.get((text.as_str(), "team/app")).expect("an answer").is_none());
    assert!(tables.kept.get(key).expect("an answer").is_none());
    assert!(tables.cached.get(key).expect("an answer").is_none());
}

#[test]
fn a_cached_blob_in_the_bucket_stays_until_it_is_forgotten() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    let stamp = |at| Stamp { at, by: String::new(), request: String::new() };
    let cached = CachedBlob { key: Some("k1".to_owned()), ..cached_blob() };
    let outcome = apply(&Change::CacheBlob(cached), &stamp(5), &mut tables).expect("it");
    // Refs are for blobs on local disk.
    assert!(outcome.effects.is_empty());
    let collect = Change::Collect(Collection { candidates: vec![digest()], seen_before: 100 });
    let reply = apply(&collect, &stamp(110), &mut tables).expect("an answer").reply;
    assert_eq!(reply, Reply::Collected(Vec::new()));
    apply(&Change::Uncache(vec![uncached(5)]), &stamp(120), &mut tables).expect("it");
    let text = digest().to_string();
    assert!(tables.kept.get(("team/app", text.as_str())).expect("an answer").is_none());
    let reply = apply(&collect, &stamp(130), &mut tables).expect("an answer").reply;
    assert_eq!(reply, Reply::Collected(vec![(digest(), 3)]));
}

#[test]
fn a_cached_manifest_may_come_before_what_it_points_to() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    let stamp = Stamp { at: 5, by: String::new(), request: String::new() };
    let cache = Change::CacheManifest(Box::new(manifest(b"{} ")));
    apply(&cache, &stamp, &mut tables).expect("it");
    let text = digest().to_string();
    let tag = tables.tags.get(("team/app", "v1")).expect("an answer").expect("a tag");
    assert_eq!(tag.value(), text);
    drop(tag);
    apply(&Change::Uncache(vec![uncached(5)]), &stamp, &mut tables).expect("it");
    assert!(tables.tags.get(("team/app", "v1")).expect("an answer").is_none());
    assert!(tables.manifests.get(("team/app", text.as_str())).expect("an answer").is_none());
}

/// A bucket's blobs under collection: one step after the other, each at its time.
#[test]
fn only_blobs_that_nobody_needs_or_saw_are_collected() {
    let database = database();
    let transaction = database.begin_write().expect("a transaction");
    let mut tables = Tables::open(&transaction).expect("tables");
    let stamp = |at| Stamp { at, by: String::new(), request: String::new() };
    let mut make = |change: Change, at| apply(&change, &stamp(at), &mut tables).expect("it").reply;
    let digest = |content: &str| Digest::of(content.as_bytes());
    let add = |content: &str| {
        let (digest, key) = (digest(content), content.to_owned());
        Change::AddBlob(AddBlob { repository: repository(), digest, size: 1, key })
    };
    let put = |layer: &str| {
        let children = vec![Child::Blob(digest(layer))];
        let (expected, subject) = (None, None);
        let manifest = NewManifest { children, expected, subject, ..manifest(b"{}") };
        Change::PutManifest(Box::new(manifest))
    };
    let candidates = vec![digest("needed"), digest("seen"), digest("unseen"), digest("never")];
    let collect =
        |seen_before| Change::Collect(Collection { candidates: candidates.clone(), seen_before });
    let bury = |since_before| Change::Bury(Burial { candidates: candidates.clone(), since_before });
    for content in ["needed", "seen", "unseen"] {
        make(add(content), 10);
    }
    make(put("needed"), 11);
    make(Change::SeeBlob(digest("seen")), 50);
    assert_eq!(make(collect(10), 60), Reply::Collected(Vec::new()));
    assert_eq!(make(collect(40), 60), Reply::Collected(vec![(digest("unseen"), 1)]));
    assert_eq!(make(collect(40), 60), Reply::Collected(Vec::new()));
    // Too early, then brought back, then for good.
    assert_eq!(make(bury(60), 70), Reply::Buried { keys: Vec::new() });
    make(Change::MountBlob(repository(), digest("unseen")), 70);
    assert_eq!(make(bury(61), 80), Reply::Buried { keys: Vec::new() });
    assert_eq!(
        make(collect(71), 90),
        Reply::Collected({
            let mut both = vec![(digest("seen"), 1), (digest("unseen"), 1)];
            both.sort();
            both
        })
    );
    make(add("seen"), 95);
    let keys = vec!["unseen".to_owned()];
    assert_eq!(make(bury(91), 99), Reply::Buried { keys });
    // Another upload is another object.
    let (key, size) = ("again".to_owned(), 1);
    let digest = digest("unseen");
    make(Change::AddBlob(AddBlob { repository: repository(), digest, size, key }), 99);
    let row = blob::row(&digest, &tables).expect("an answer").expect("a row");
    assert_eq!((row.key.as_str(), row.state), ("again", BlobState::Live));
}
