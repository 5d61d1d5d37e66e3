//! Trash, history and deletion of repositories in the administration API.

use http::Method;
use registry_server::{AuthScheme, Namespace};
use serde_json::json;

use crate::namespaces::tenants;
use crate::{Fixture, basic};

async fn restore(registry: &Fixture, query: &str) -> crate::Reply {
    registry.send(Method::POST, &format!("/v2/_shipway/trash/restore?{query}"), &[], "").await
}

#[tokio::test]
async fn what_was_deleted_is_listed_and_comes_back() {
    let registry = Fixture::open().await;
    let image = registry.push_image("team/app", "v1", "layer").await;
    assert_eq!(registry.delete("/v2/team/app/manifests/v1").await.status.as_u16(), 202);
    let by_digest = format!("/v2/team/app/manifests/{image}");
    assert_eq!(registry.delete(&by_digest).await.status.as_u16(), 202);
    assert_eq!(registry.get(&by_digest).await.status.as_u16(), 404);
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], json!([]));
    let tags = registry.get("/v2/team/app/tags/list").await;
    assert_eq!((tags.status.as_u16(), &tags.json()["tags"]), (200, &json!([])));
    let trash = registry.get("/v2/_shipway/trash").await.json();
    let listed: Vec<_> =
        trash["trash"].as_array().expect("a list").iter().map(|one| &one["tag"]).collect();
    assert_eq!(listed, [&json!(null), &json!("v1")], "{trash}");
    assert_eq!(trash["trash"][0]["how"], "delete");
    let reply = restore(&registry, "repository=team/app&tag=v1").await;
    assert_eq!(reply.json()["tags"], json!(["v1"]), "{reply:?}");
    let reply = registry.get("/v2/team/app/manifests/v1").await;
    assert_eq!(reply.header("docker-content-digest"), image.to_string());
    let blob = oci_model::Digest::of(b"layer");
    assert_eq!(registry.get(&format!("/v2/team/app/blobs/{blob}")).await.body, "layer");
    assert_eq!(registry.get("/v2/_shipway/trash").await.json()["trash"], json!([]));
    let reply = restore(&registry, "repository=team/app&tag=none").await;
    assert_eq!(reply.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
    assert_eq!(restore(&registry, "repository=team/app").await.status.as_u16(), 400);
}

#[tokio::test]
async fn a_tag_tells_what_it_named_and_goes_back() {
    let registry = Fixture::open().await;
    let old = registry.push_image("team/app", "latest", "old").await;
    let new = registry.push_image("team/app", "latest", "new").await;
    restore(&registry, "repository=team/app&tag=latest").await;
    let history = registry.get("/v2/_shipway/history?repository=team/app&tag=latest").await.json();
    let moves = history["moves"].as_array().expect("a list");
    let seen: Vec<_> = moves.iter().map(|one| (&one["old"], &one["new"], &one["how"])).collect();
    let (old, new) = (json!(old), json!(new));
    assert_eq!(
        seen,
        [
            (&new, &old, &json!("restore")),
            (&old, &new, &json!("push")),
            (&json!(null), &old, &json!("push"))
        ]
    );
    assert!(moves[0]["at"].as_str().is_some_and(|time| time.ends_with('Z')));
}

#[tokio::test]
async fn a_deleted_repository_is_gone_and_comes_back_image_by_image() {
    let registry = Fixture::open().await;
    let image = registry.push_image("team/app", "v1", "layer").await;
    registry.push_image("team/application", "v1", "layer").await;
    let path = "/v2/_shipway/repositories?repository=team/app";
    assert_eq!(registry.delete(path).await.json()["manifests"], 1);
    assert_eq!(registry.delete(path).await.refusal(), (404, "NAME_UNKNOWN".to_owned()));
    let blob = format!("/v2/team/app/blobs/{}", oci_model::Digest::of(b"layer"));
    for path in ["/v2/team/app/manifests/v1", "/v2/team/app/tags/list", &blob] {
        assert_eq!(registry.get(path).await.status.as_u16(), 404, "{path}");
    }
    let catalog = registry.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], json!(["team/application"]));
    let reply = restore(&registry, &format!("repository=team/app&digest={image}")).await;
    assert_eq!(reply.json()["tags"], json!(["v1"]));
    assert_eq!(registry.get("/v2/team/app/manifests/v1").await.status.as_u16(), 200);
    assert_eq!(registry.get(&blob).await.body, "layer");
}

// registry.md 8.1 rows 17, 22, 23: other tenants' trash, history, usage and repositories look
// absent, and no parameter reaches beyond them.
#[tokio::test]
async fn what_others_deleted_is_not_there() {
    let namespaces = vec![Namespace::new("team"), Namespace::new("other")];
    let mut registry = tenants(AuthScheme::Basic, namespaces).await;
    registry.login(basic("root", "root-pw"));
    let image = registry.push_image("other/app", "v1", "secret").await;
    registry.push_image("team/app", "v1", "ours").await;
    for name in ["other/app", "team/app"] {
        registry.delete(&format!("/v2/{name}/manifests/v1")).await;
    }
    registry.login(basic("alice", "alice-pw"));
    let trash = registry.get("/v2/_shipway/trash").await.json();
    let names: Vec<_> =
        trash["trash"].as_array().expect("a list").iter().map(|one| &one["repository"]).collect();
    assert_eq!(names, [&json!("team/app")]);
    let usage = registry.get("/v2/_shipway/usage").await.json();
    assert_eq!(usage["namespaces"].as_array().map(Vec::len), Some(1));
    let in_other = |name: &str| {
        [
            (Method::POST, format!("trash/restore?repository={name}&tag=v1")),
            (Method::POST, format!("trash/restore?repository={name}&digest={image}")),
            (Method::GET, format!("history?repository={name}&tag=v1")),
            (Method::DELETE, format!("repositories?repository={name}")),
            (Method::DELETE, format!("trash?prefix={name}")),
        ]
    };
    for ((method, there), (_, absent)) in in_other("other/app").into_iter().zip(in_other("absent"))
    {
        let path = |endpoint: &str| format!("/v2/_shipway/{endpoint}");
        let there = registry.send(method.clone(), &path(&there), &[], "").await;
        let absent = registry.send(method, &path(&absent), &[], "").await;
        assert_eq!(there.refusal(), (404, "NAME_UNKNOWN".to_owned()));
        let text = |reply: &crate::Reply| reply.json().to_string();
        assert_eq!(text(&there).replace("other/app", "absent"), text(&absent));
    }
    let everything = registry.delete("/v2/_shipway/trash").await;
    assert_eq!(everything.status.as_u16(), 404, "not without a prefix either");
    let proof = registry.get("/v2/_shipway/usage/proof").await;
    assert_eq!(proof.refusal(), (403, "DENIED".to_owned()));
    let query = "/v2/_shipway/trash?prefix=&fields=password&q=by%3Droot";
    assert_eq!(registry.get(query).await.json(), trash, "unknown parameters choose nothing");
    registry.login(basic("bob", "bob-pw"));
    let reply = registry.get("/v2/_shipway/trash").await;
    assert_eq!(reply.refusal(), (403, "DENIED".to_owned()), "who only pushes administers nothing");
}
