use oci_model::Digest;
use serde_json::json;

use super::{REPO1, REPO2, Suite, in_every_way};
use crate::INDEX;

in_every_way!(the_base_answers, an_empty_registry_has_empty_lists);

/// Section 1.1, end-1.
async fn the_base_answers(suite: &Suite) {
    for path in ["/v2/", "/v2"] {
        let reply = suite.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({})));
        assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(reply.header("content-type"), "application/json");
        let head = suite.head(path).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), "2");
    }
}

async fn an_empty_registry_has_empty_lists(suite: &Suite) {
    let tags = suite.get(&format!("/v2/{REPO1}/tags/list")).await;
    assert_eq!(tags.refusal(), (404, "NAME_UNKNOWN".to_owned()));
    for repository in [REPO1, REPO2] {
        let path = format!("/v2/{repository}/referrers/{}", Digest::of(b"never seen"));
        let reply = suite.get(&path).await;
        let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
        assert_eq!((reply.status.as_u16(), reply.json()), (200, empty));
        assert_eq!(reply.header("content-type"), INDEX);
    }
    assert_eq!(suite.get("/v2/_catalog").await.json(), json!({ "repositories": [] }));
}
