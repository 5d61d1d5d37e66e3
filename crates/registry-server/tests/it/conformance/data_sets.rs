use http::Method;

use oci_model::Digest;
use serde_json::json;

use super::documents::{self, DataSet, Document};
use super::{REPO1, Reach, Suite, deletion, in_every_way, referrers, tags};
use crate::{INDEX, MANIFEST};

in_every_way!(every_data_set_is_pushed_listed_pulled_and_deleted);

/// Section 2.3, group 4: push, tag list, head, pull, referrers, delete.
async fn every_data_set_is_pushed_listed_pulled_and_deleted(suite: &Suite) {
    for set in documents::all() {
        for (digest, bytes) in &set.blobs {
            suite.push_blob(REPO1, digest, bytes).await;
        }
        for document in &set.documents {
            push(suite, &set, document).await;
        }
        tags::lists(suite, &set).await;
        for document in &set.documents {
            pulls(suite, &set, document).await;
        }
        referrers::lists(suite, &set).await;
        deletion::takes_everything(suite, &set).await;
    }
}

/// Section 1.1, end-7a: by digest, then by tag; what Location names is what was pushed.
async fn push(suite: &Suite, set: &DataSet, document: &Document) {
    let digest = document.digest.to_string();
    let references = [Some(digest.as_str()), document.tag];
    for reference in references.into_iter().flatten() {
        let path = format!("/v2/{REPO1}/manifests/{reference}");
        let headers = [("content-type", document.media_type)];
        let reply = suite.send(Method::PUT, &path, &headers, document.bytes.clone()).await;
        assert_eq!(reply.status.as_u16(), 201, "{} {reference}: {reply:?}", set.name);
        assert_eq!(reply.header("docker-content-digest"), digest);
        let subject = document.subject.map(|subject| subject.to_string());
        assert_eq!(reply.header("oci-subject"), subject.unwrap_or_default());
        let stored = suite.get(reply.header("location")).await;
        assert!(stored.body == document.bytes, "{}", set.name);
        assert_eq!(stored.header("content-type"), document.media_type);
    }
}

/// Section 1.1, end-3: HEAD says what GET gives, byte for byte what was pushed.
async fn pulls(suite: &Suite, set: &DataSet, document: &Document) {
    let digest = document.digest.to_string();
    for reference in [Some(digest.as_str()), document.tag].into_iter().flatten() {
        let path = format!("/v2/{REPO1}/manifests/{reference}");
        let head = suite.head(&path).await;
        let got = suite.get(&path).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{}", set.name);
        assert!(got.status.as_u16() == 200 && got.body == document.bytes, "{}", set.name);
        for (name, value) in [
            ("content-type", document.media_type.to_owned()),
            ("content-length", document.bytes.len().to_string()),
            ("docker-content-digest", digest.clone()),
            ("etag", format!("\"{digest}\"")),
        ] {
            assert_eq!((got.header(name), head.header(name)), (&*value, &*value), "{name}");
        }
    }
}

/// Section 2.3, "sparse": where that is allowed, an index lists what is not there.
#[tokio::test]
async fn sparse_indexes_are_taken_where_they_are_allowed() {
    let suite = Suite::with(Reach::Plain, |options| options.sparse_indexes = true).await;
    let sets = documents::all();
    let image = &sets[0];
    for (digest, bytes) in &image.blobs {
        suite.push_blob(REPO1, digest, bytes).await;
    }
    push(&suite, image, &image.documents[0]).await;
    let absent = Digest::of(b"never pushed");
    let entry = |digest: &Digest| json!({ "mediaType": MANIFEST, "digest": digest, "size": 12 });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&absent), entry(&image.documents[0].digest)],
    });
    let path = format!("/v2/{REPO1}/manifests/sparse");
    let headers = [("content-type", INDEX)];
    let reply = suite.send(Method::PUT, &path, &headers, index.to_string()).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    assert_eq!(suite.get(&path).await.body, index.to_string());
    let missing = suite.get(&format!("/v2/{REPO1}/manifests/{absent}")).await;
    assert_eq!(missing.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
    // Blobs have to be there all the same.
    let mut broken: serde_json::Value =
        serde_json::from_slice(&image.documents[0].bytes).expect("JSON");
    broken["layers"][0]["digest"] = json!(absent);
    let headers = [("content-type", MANIFEST)];
    let reply = suite.send(Method::PUT, &path, &headers, broken.to_string()).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    let digest = Digest::of(index.to_string().as_bytes());
    let deleted = suite.delete(&format!("/v2/{REPO1}/manifests/{digest}")).await;
    assert_eq!(deleted.status.as_u16(), 202);
    suite.close().await;
}
