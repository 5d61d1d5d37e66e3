use oci_model::{Repository, Tag};

use super::*;
use crate::route::ManifestReference;

fn repository() -> Repository {
    Repository::new("team/app").expect("a name")
}

fn open() -> (tempfile::TempDir, BlobStore, Metadata) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = BlobStore::open(directory.path().join("blobs")).expect("a store");
    let metadata =
        Metadata::open(&directory.path().join("registry"), store.clone()).expect("metadata");
    (directory, store, metadata)
}

fn link(metadata: &Metadata, store: &BlobStore, bytes: &[u8]) -> Digest {
    let digest = store.put(bytes).expect("a blob");
    let size = bytes.len() as u64;
    metadata.link(StoredLink { repository: repository(), digest, size }).expect("a link");
    digest
}

fn manifest(tag: &str, bytes: &str, children: Vec<Child>) -> Change {
    Change::PutManifest(Box::new(NewManifest {
        repository: repository(),
        digest: Digest::of(bytes.as_bytes()),
        media_type: MediaType::OCI_MANIFEST,
        bytes: bytes.to_owned().into(),
        tags: vec![Tag::new(tag).expect("a tag")],
        expected: None,
        children,
        subject: None,
        cached: false,
    }))
}

fn by_tag(metadata: &Metadata, tag: &str) -> Option<Digest> {
    let reference = ManifestReference::Tag(Tag::new(tag).expect("a tag"));
    metadata.manifest(&repository(), &reference).expect("an answer").map(|found| found.digest)
}

#[tokio::test]
async fn a_link_counts_before_and_after_its_commit() {
    let (_directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), Some(5));
    metadata.change(manifest("v1", "m", vec![Child::Blob(digest)])).await.expect("a commit");
    assert!(lock(&metadata.shared.pending).links.is_empty());
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), Some(5));
}

#[tokio::test]
async fn a_refused_change_leaves_its_batch_alone() {
    let (_directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    let missing = Child::Blob(Digest::of(b"missing"));
    let (good, bad) = tokio::join!(
        metadata.change(manifest("good", "a", vec![Child::Blob(digest)])),
        metadata.change(manifest("bad", "b", vec![missing]))
    );
    assert!(good.is_ok());
    assert!(matches!(bad, Err(ChangeError::Missing(digest)) if digest == Digest::of(b"missing")));
    assert_eq!(by_tag(&metadata, "good"), Some(Digest::of(b"a")));
    assert_eq!(by_tag(&metadata, "bad"), None);
}

#[tokio::test]
async fn the_cache_never_outlives_a_change() {
    let (_directory, _store, metadata) = open();
    for round in 0..20 {
        let bytes = format!("manifest {round}");
        metadata.change(manifest("latest", &bytes, Vec::new())).await.expect("a commit");
        for _ in 0..2 {
            assert_eq!(by_tag(&metadata, "latest"), Some(Digest::of(bytes.as_bytes())));
        }
    }
    let tag = Tag::new("latest").expect("a tag");
    metadata.change(Change::DeleteTag(repository(), tag)).await.expect("a commit");
    assert_eq!(by_tag(&metadata, "latest"), None);
}

#[tokio::test]
async fn refs_follow_manifests_and_are_mended_at_the_start() {
    let (directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    metadata.change(manifest("v1", "m", vec![Child::Blob(digest)])).await.expect("a commit");
    let name = format!("registry/team/app@{}", Digest::of(b"m"));
    let refs = || -> Vec<String> {
        let refs = store.refs("registry/").expect("refs");
        refs.into_iter().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(refs(), [name.as_str()]);
    metadata.close();
    drop(metadata);
    let mirror = store.mirrored_refs("registry").expect("an owner");
    mirror.remove(&name["registry/".len()..], &[digest]).expect("a lost ref");
    mirror.set("stale@x", &[digest]).expect("a ref too many");
    let metadata = Metadata::open(&directory.path().join("registry"), store.clone()).expect("it");
    assert_eq!(refs(), [name.as_str()]);
    metadata
        .change(Change::DeleteManifest(repository(), Digest::of(b"m")))
        .await
        .expect("a commit");
    assert_eq!(refs(), [name.as_str()], "the trash keeps its blobs");
    let everything = EmptyTrash { everything_below: Some(String::new()) };
    metadata.change(Change::EmptyTrash(everything)).await.expect("a commit");
    metadata.close();
    assert_eq!(refs(), [""; 0]);
}

#[tokio::test]
async fn tidying_forgets_what_is_gone() {
    let (_directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    metadata.change(manifest("v1", "m", Vec::new())).await.expect("a commit");
    assert!(metadata.knows(&repository()).expect("an answer"));
    metadata
        .change(Change::DeleteManifest(repository(), Digest::of(b"m")))
        .await
        .expect("a commit");
    metadata.tidy().await.expect("a commit");
    assert!(!metadata.knows(&repository()).expect("an answer"), "it holds no manifest");
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), Some(5));
    std::fs::remove_file(store.path(&digest)).expect("the blob");
    metadata.tidy().await.expect("a commit");
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), None);
    assert_eq!(metadata.holders(&digest, 9).expect("an answer"), []);
    assert!(!metadata.knows(&repository()).expect("an answer"));
}

#[tokio::test]
async fn changes_after_the_end_are_refused() {
    let (_directory, _store, metadata) = open();
    metadata.close();
    let refused = metadata.change(manifest("v1", "m", Vec::new())).await;
    assert!(matches!(refused, Err(ChangeError::Busy)));
}

/// A push of what a delete of the same batch just removed: the blobs stay.
#[tokio::test]
async fn a_manifest_that_comes_back_at_once_keeps_its_blobs() {
    let (_directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    let put = || manifest("v1", "m", vec![Child::Blob(digest)]);
    metadata.change(put()).await.expect("a commit");
    for _ in 0..50 {
        let (deleted, pushed) = tokio::join!(
            metadata.change(Change::DeleteManifest(repository(), Digest::of(b"m"))),
            metadata.change(put())
        );
        deleted.and(pushed).expect("commits");
    }
    metadata.close();
    assert_eq!(store.refs("registry/").expect("refs").len(), 1);
}

#[tokio::test]
async fn links_of_damaged_blobs_that_a_manifest_needs_stay() {
    let (_directory, store, metadata) = open();
    let digest = link(&metadata, &store, b"layer");
    metadata.change(manifest("v1", "m", vec![Child::Blob(digest)])).await.expect("a commit");
    // As a quarantine does.
    std::fs::remove_file(store.path(&digest)).expect("the blob");
    metadata.tidy().await.expect("a commit");
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), Some(5));
}

#[tokio::test]
async fn a_deleted_link_stays_deleted_when_the_journal_was_not_emptied() {
    let (directory, store, metadata) = open();
    let journal = directory.path().join("registry/links.journal");
    let digest = link(&metadata, &store, b"layer");
    let before = std::fs::read(&journal).expect("the journal");
    metadata.change(Change::DeleteBlob(repository(), digest)).await.expect("a commit");
    let later = link(&metadata, &store, b"later");
    let after = std::fs::read(&journal).expect("the journal");
    metadata.close();
    drop(metadata);
    std::fs::write(&journal, [before, after].concat()).expect("as before a power failure");
    let metadata = Metadata::open(&directory.path().join("registry"), store).expect("metadata");
    assert_eq!(metadata.linked(&repository(), &digest).expect("an answer"), None);
    assert_eq!(metadata.linked(&repository(), &later).expect("an answer"), Some(5));
}
