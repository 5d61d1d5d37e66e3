//! Defects that other registries had, tried here. The rows are those of
//! docs/registry-security.md.

use http::Method;
use oci_model::Digest;
use registry_server::{AccessRule, Anonymous, Holder, Role, add_user};
use serde_json::json;

use crate::bucket::Bucket;
use crate::{Fixture, MANIFEST, basic};

/// What a future has at once, if anything.
fn ready_now<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// alice may do everything, paul may push.
async fn with_users() -> Fixture {
    Fixture::with(|options, directory| {
        let users = directory.join("htpasswd");
        for name in ["alice", "paul"] {
            add_user(&users, name, "pw").expect("a user");
        }
        let rule = |name: &str, role| AccessRule {
            prefix: "team".to_owned(),
            holder: Holder::User(name.to_owned()),
            role,
        };
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        let private = AccessRule { prefix: "private".to_owned(), ..rule("alice", Role::Push) };
        options.access = vec![rule("alice", Role::Delete), rule("paul", Role::Push), private];
    })
    .await
}

/// Row 7: every form of a delete asks for the same right.
#[tokio::test]
async fn no_form_of_delete_passes_without_the_right() {
    let mut registry = with_users().await;
    registry.login(basic("paul", "pw"));
    let digest = registry.push_image("team/a", "v1", "layer").await;
    let blob = registry.push_blob("team/a", b"loose").await;
    let forms = [
        "/v2/team/a/manifests/v1".to_owned(),
        format!("/v2/team/a/manifests/{digest}"),
        format!("/v2/team/a/manifests/sha256%3A{}", digest.encoded()),
        format!("/v2/team/a/blobs/{blob}"),
    ];
    for path in &forms {
        let reply = registry.delete(path).await;
        assert_eq!(reply.refusal(), (403, "DENIED".to_owned()), "{path}");
        assert_eq!(registry.get(path).await.status.as_u16(), 200, "{path}");
    }
    // Ending one's own upload is part of pushing.
    let begun = registry.send(Method::POST, "/v2/team/a/blobs/uploads/", &[], "").await;
    assert_eq!(registry.delete(begun.header("location")).await.status.as_u16(), 204);
    registry.login(basic("alice", "pw"));
    for path in forms.iter().rev() {
        let status = registry.delete(path).await.status.as_u16();
        assert!(matches!(status, 202 | 404), "{path} {status}");
        assert_eq!(registry.get(path).await.status.as_u16(), 404, "{path}");
    }
}

/// Row 6: what was deleted is gone for the next reader, whatever was cached before.
#[tokio::test]
async fn deleted_content_is_not_served_from_memory() {
    let registry = Fixture::open().await;
    let digest = registry.push_image("a", "v1", "layer").await;
    let layer = Digest::of(b"layer");
    let paths = [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{digest}"),
        format!("/v2/a/blobs/{layer}"),
    ];
    for path in &paths {
        for _ in 0..2 {
            assert_eq!(registry.get(path).await.status.as_u16(), 200, "{path}");
        }
    }
    assert_eq!(registry.delete(&paths[1]).await.status.as_u16(), 202);
    assert_eq!(registry.delete(&paths[2]).await.status.as_u16(), 202);
    for path in &paths {
        assert_eq!(registry.get(path).await.status.as_u16(), 404, "{path}");
        assert_eq!(registry.head(path).await.status.as_u16(), 404, "{path}");
    }
}

/// Row 6, on replicas: what one deleted no other serves, although it had it in memory.
#[tokio::test]
async fn what_one_replica_deleted_no_other_serves() {
    let bucket = Bucket::start();
    let one = Fixture::with(|options, _| options.bucket = Some(bucket.options())).await;
    let other = Fixture::with(|options, _| options.bucket = Some(bucket.options())).await;
    let digest = one.push_image("a", "v1", "layer").await;
    let paths = [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{digest}"),
        format!("/v2/a/blobs/{}", Digest::of(b"layer")),
    ];
    for path in &paths {
        for replica in [&one, &other] {
            assert_eq!(replica.get(path).await.status.as_u16(), 200, "{path}");
        }
    }
    assert_eq!(one.delete(&paths[1]).await.status.as_u16(), 202);
    assert_eq!(one.delete(&paths[2]).await.status.as_u16(), 202);
    for path in &paths {
        for replica in [&other, &one] {
            assert_eq!(replica.get(path).await.status.as_u16(), 404, "{path}");
            assert_eq!(replica.head(path).await.status.as_u16(), 404, "{path}");
        }
    }
}

/// Rows 16 and 18: lists are for those who may see what is in them.
#[tokio::test]
async fn strangers_list_nothing() {
    let mut registry = with_users().await;
    registry.login(basic("alice", "pw"));
    registry.push_image("team/a", "v1", "layer").await;
    registry.login(None);
    for path in [
        "/v2/_catalog",
        "/v2/_catalog?n=1",
        "/v2/team/a/tags/list",
        "/v2/_oci/ext/discover",
        &format!("/v2/team/a/referrers/{}", Digest::of(b"x")),
    ] {
        assert_eq!(registry.get(path).await.refusal(), (401, "UNAUTHORIZED".to_owned()), "{path}");
    }
}

/// Row 25: there is no account that nobody made.
#[tokio::test]
async fn no_password_is_shipped() {
    let mut registry = Fixture::with(|options, _| options.anonymous = Anonymous::Nothing).await;
    for (user, password) in [
        ("admin", "admin"),
        ("admin", "Harbor12345"),
        ("admin", "password"),
        ("admin", ""),
        ("docker", "docker"),
        ("root", "root"),
        ("", ""),
    ] {
        registry.login(basic(user, password));
        assert_eq!(registry.get("/v2/").await.status.as_u16(), 401, "{user}");
    }
}

/// Row 27, the server's side: the places that a layer names are never visited.
#[tokio::test]
async fn places_of_foreign_layers_are_never_visited() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let place = format!("http://{}/layer", listener.local_addr().expect("an address"));
    let registry = Fixture::open().await;
    let mut manifest = registry.image("a", "layer").await;
    let digest = Digest::of(b"elsewhere");
    manifest["layers"][0] = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest, "size": 9, "urls": [place],
    });
    let reply = registry.put_manifest("a", "v1", MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    assert_eq!(registry.get("/v2/a/manifests/v1").await.status.as_u16(), 200);
    assert_eq!(registry.get(&format!("/v2/a/blobs/{digest}")).await.status.as_u16(), 404);
    assert!(ready_now(listener.accept()).is_none(), "somebody came");
}

/// Section 8.2: no oracle of what there is.
#[tokio::test]
async fn a_repository_that_is_forbidden_looks_like_one_that_is_absent() {
    let mut registry = with_users().await;
    registry.login(basic("alice", "pw"));
    let digest = registry.push_image("private/a", "v1", "layer").await;
    registry.login(basic("paul", "pw"));
    let answer = async |repository: &str, rest: &str| {
        let reply = registry.get(&format!("/v2/{repository}/{rest}")).await;
        let text = String::from_utf8_lossy(&reply.body).replace(repository, "NAME");
        (reply.status, reply.headers.get("www-authenticate").cloned(), text)
    };
    let manifest = format!("manifests/{digest}");
    for rest in ["manifests/v1", "tags/list", &manifest] {
        assert_eq!(answer("private/a", rest).await, answer("absent/x", rest).await, "{rest}");
        assert_eq!(answer("private/a", rest).await.0.as_u16(), 403);
    }
}

/// Row 12: a page of another site that a user looks at cannot read what its browser may.
#[tokio::test]
async fn pages_of_other_sites_get_no_leave() {
    let registry = Fixture::open().await;
    for method in [Method::GET, Method::OPTIONS] {
        let headers =
            [("origin", "https://evil.example"), ("access-control-request-method", "DELETE")];
        let reply = registry.send(method, "/v2/", &headers, "").await;
        let allows = |name: &http::HeaderName| name.as_str().starts_with("access-control-");
        assert!(!reply.headers.keys().any(allows), "{reply:?}");
    }
}
