use super::documents::DataSet;
use super::{REPO1, Suite};

/// Section 1.1, end-9 and end-10: tags, manifests and blobs go, at once.
pub(super) async fn takes_everything(suite: &Suite, set: &DataSet) {
    for tag in set.documents.iter().filter_map(|document| document.tag) {
        let path = format!("/v2/{REPO1}/manifests/{tag}");
        assert_eq!(suite.delete(&path).await.status.as_u16(), 202, "{}", set.name);
        assert_eq!(suite.get(&path).await.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
    }
    let tags = suite.get(&format!("/v2/{REPO1}/tags/list")).await;
    assert_eq!(tags.json()["tags"], serde_json::json!([]), "an empty list, never null");
    // What points to others goes first.
    for document in set.documents.iter().rev() {
        let path = format!("/v2/{REPO1}/manifests/{}", document.digest);
        assert_eq!(suite.get(&path).await.status.as_u16(), 200, "the tag went alone");
        assert_eq!(suite.delete(&path).await.status.as_u16(), 202, "{}", set.name);
        assert_eq!(suite.head(&path).await.status.as_u16(), 404);
        assert_eq!(suite.delete(&path).await.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
        if let Some(subject) = document.subject {
            let reply = suite.get(&format!("/v2/{REPO1}/referrers/{subject}")).await;
            assert!(!String::from_utf8_lossy(&reply.body).contains(&document.digest.to_string()));
        }
    }
    for (digest, _) in &set.blobs {
        let path = format!("/v2/{REPO1}/blobs/{digest}");
        assert_eq!(suite.delete(&path).await.status.as_u16(), 202, "{}", set.name);
        assert_eq!(suite.head(&path).await.status.as_u16(), 404);
    }
}
