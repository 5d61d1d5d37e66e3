use http::Method;

use super::documents::{self, DataSet, Document};
use super::{REPO1, Suite, deletion, in_every_way, referrers, tags};

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
