use http::Method;
use serde_json::json;

use super::documents::DataSet;
use super::{REPO1, Suite, in_every_way};
use crate::{MANIFEST, image_manifest};

in_every_way!(tags_are_paged_by_links);

/// The tags of a data set are listed, and the middle one works as `last`.
pub(super) async fn lists(suite: &Suite, set: &DataSet) {
    let mut expected: Vec<&str> =
        set.documents.iter().filter_map(|document| document.tag).collect();
    expected.sort_unstable();
    let path = format!("/v2/{REPO1}/tags/list");
    let reply = suite.get(&path).await;
    assert_eq!(reply.json(), json!({ "name": REPO1, "tags": expected }), "{}", set.name);
    if let Some(middle) = expected.get(expected.len() / 2) {
        let rest = suite.get(&format!("{path}?last={middle}")).await;
        assert_eq!(rest.json()["tags"], json!(expected[expected.len() / 2 + 1..]));
    }
}

/// Section 1.6; section 1.1, end-8a and end-8b.
async fn tags_are_paged_by_links(suite: &Suite) {
    let manifest = push(suite).await;
    let path = format!("/v2/{REPO1}/manifests");
    for tag in ["v1.9", "v1.10", "B", "a", "_x"] {
        let headers = [("content-type", MANIFEST)];
        let reply =
            suite.send(Method::PUT, &format!("{path}/{tag}"), &headers, manifest.clone()).await;
        assert_eq!(reply.status.as_u16(), 201);
    }
    let mut path = format!("/v2/{REPO1}/tags/list?n=2");
    let mut pages = Vec::new();
    loop {
        let reply = suite.get(&path).await;
        pages.push(reply.json()["tags"].clone());
        let link = reply.header("link");
        let Some((next, relation)) = link.strip_prefix('<').and_then(|link| link.split_once('>'))
        else {
            break;
        };
        assert_eq!(relation, "; rel=\"next\"");
        next.clone_into(&mut path);
    }
    assert_eq!(json!(pages), json!([["B", "_x"], ["a", "v1.10"], ["v1.9"]]));
    let reply = suite.get(&format!("/v2/{REPO1}/tags/list?n=0")).await;
    assert_eq!((reply.json()["tags"].clone(), reply.header("link")), (json!([]), ""));
    // Nobody prepares room for what a client says (CVE-2023-2253, security row 3).
    for n in ["2147483648", "4294967296", "9223372036854775807", "18446744073709551616"] {
        for list in [format!("/v2/{REPO1}/tags/list?n={n}"), format!("/v2/_catalog?n={n}")] {
            assert_eq!(suite.get(&list).await.status.as_u16(), 200, "{list}");
        }
    }
    for n in ["-1", "ten", "", "1.5", "0x10", "+3"] {
        for list in [format!("/v2/{REPO1}/tags/list?n={n}"), format!("/v2/_catalog?n={n}")] {
            let refusal = suite.get(&list).await.refusal();
            assert_eq!(refusal, (400, "PAGINATION_NUMBER_INVALID".to_owned()), "{list}");
        }
    }
}

async fn push(suite: &Suite) -> String {
    for bytes in [&b"{}"[..], b"layer"] {
        suite.push_blob(REPO1, &oci_model::Digest::of(bytes), bytes).await;
    }
    image_manifest("layer").to_string()
}
