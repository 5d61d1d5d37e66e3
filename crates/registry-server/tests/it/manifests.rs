use http::Method;
use oci_model::{Algorithm, Digest, Hasher};
use serde_json::json;

use crate::{Fixture, INDEX, MANIFEST, image_manifest};

#[tokio::test]
async fn a_manifest_comes_back_verbatim_by_tag_and_digest() {
    let registry = Fixture::open().await;
    registry.image("a/b", "layer").await;
    let bytes = format!("\n {}  ", image_manifest("layer"));
    let headers = [("content-type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8")];
    let reply = registry.send(Method::PUT, "/v2/a/b/manifests/v1", &headers, bytes.clone()).await;
    let digest = Digest::of(bytes.as_bytes()).to_string();
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    assert_eq!(reply.header("docker-content-digest"), digest);
    assert_eq!(reply.header("location"), format!("/v2/a/b/manifests/{digest}"));
    for reference in ["v1", &digest] {
        let path = format!("/v2/a/b/manifests/{reference}");
        // Whatever the client accepts: other bytes would be another manifest.
        let accept = [("accept", "application/vnd.docker.distribution.manifest.v2+json")];
        let got = registry.send(Method::GET, &path, &accept, "").await;
        assert_eq!(got.body, bytes, "{reference}");
        assert_eq!(got.header("content-type"), MANIFEST);
        assert_eq!(got.header("docker-content-digest"), digest);
        assert_eq!(got.header("content-length"), bytes.len().to_string());
        let head = registry.head(&path).await;
        for name in ["content-type", "docker-content-digest", "content-length", "etag"] {
            assert_eq!(head.header(name), got.header(name), "{name}");
        }
        let tag = format!("\"{digest}\"");
        let reply = registry.send(Method::GET, &path, &[("if-none-match", &tag)], "").await;
        assert_eq!(reply.status.as_u16(), 304);
    }
}

#[tokio::test]
async fn a_push_by_digest_makes_no_tag_and_a_wrong_digest_is_refused() {
    let registry = Fixture::open().await;
    let manifest = registry.image("a", "layer").await;
    let digest = Digest::of(manifest.to_string().as_bytes());
    let reply = registry.put_manifest("a", &digest.to_string(), MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    let tags = registry.get("/v2/a/tags/list").await;
    assert_eq!(tags.json(), json!({ "name": "a", "tags": [] }));
    let other = Digest::of(b"other").to_string();
    let reply = registry.put_manifest("a", &other, MANIFEST, &manifest).await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
    let reply = registry.put_manifest("a", "sha256:baddigeststring", MANIFEST, &manifest).await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
}

#[tokio::test]
async fn a_manifest_may_have_a_sha512_digest() {
    let registry = Fixture::open().await;
    let manifest = registry.image("a", "layer").await;
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(manifest.to_string().as_bytes());
    let digest = hasher.finish().to_string();
    let reply = registry.put_manifest("a", &digest, MANIFEST, &manifest).await;
    assert_eq!(reply.header("docker-content-digest"), digest);
    let got = registry.get(&format!("/v2/a/manifests/{digest}")).await;
    assert_eq!((got.status.as_u16(), got.header("docker-content-digest")), (200, &*digest));
}

#[tokio::test]
async fn tags_in_the_query_are_set_in_one_push() {
    let registry = Fixture::open().await;
    let manifest = registry.image("a", "layer").await;
    let digest = Digest::of(manifest.to_string().as_bytes());
    let reference = format!("{digest}?tag=one&tag=two");
    let reply = registry.put_manifest("a", &reference, MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 201);
    let tags: Vec<_> = reply.headers.get_all("oci-tag").iter().collect();
    assert_eq!(tags, ["one", "two"]);
    let tags = registry.get("/v2/a/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["one", "two"]));
    let reference = format!("{digest}?{}", vec!["tag=x"; 65].join("&"));
    let reply = registry.put_manifest("a", &reference, MANIFEST, &manifest).await;
    assert_eq!(reply.status.as_u16(), 414);
}

#[tokio::test]
async fn what_a_manifest_points_to_must_be_in_the_same_repository() {
    let registry = Fixture::open().await;
    let manifest = registry.image("private", "layer").await;
    let reply = registry.put_manifest("a", "v1", MANIFEST, &manifest).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{ "mediaType": MANIFEST, "digest": Digest::of(b"no"), "size": 2 }],
    });
    let reply = registry.put_manifest("private", "v1", INDEX, &index).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    let detail = reply.json()["errors"][0]["detail"]["digest"].clone();
    assert_eq!(detail, json!(Digest::of(b"no")));
    assert_eq!(registry.get("/v2/private/manifests/v1").await.status.as_u16(), 404);
}

#[tokio::test]
async fn unusual_manifests_are_accepted() {
    let registry = Fixture::open().await;
    let image = registry.push_image("a", "image", "layer").await;
    let mut foreign = image_manifest("layer");
    foreign["layers"][0] = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["http://127.0.0.1:1/x"],
    });
    let mut custom = image_manifest("layer");
    custom["org.example.field"] = json!({ "deep": [1, 2] });
    custom["config"]["data"] = json!("e30=");
    let mut no_layers = image_manifest("layer");
    no_layers["layers"] = json!([]);
    no_layers["artifactType"] = json!("application/vnd.example");
    let mut missing_subject = image_manifest("layer");
    missing_subject["subject"] =
        json!({ "mediaType": MANIFEST, "digest": Digest::of(b"never"), "size": 5 });
    let index =
        |manifests| json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let child = json!({ "mediaType": MANIFEST, "digest": image, "size": 1 });
    let first = index(json!([child]));
    let nested = json!({
        "mediaType": INDEX, "digest": Digest::of(first.to_string().as_bytes()), "size": 1,
    });
    for (tag, media_type, manifest) in [
        ("foreign", MANIFEST, foreign),
        ("custom", MANIFEST, custom),
        ("no-layers", MANIFEST, no_layers),
        ("missing-subject", MANIFEST, missing_subject),
        ("index", INDEX, first),
        ("nested", INDEX, index(json!([nested]))),
        ("empty", INDEX, index(json!([]))),
    ] {
        let reply = registry.put_manifest("a", tag, media_type, &manifest).await;
        assert_eq!(reply.status.as_u16(), 201, "{tag}: {reply:?}");
        let got = registry.get(&format!("/v2/a/manifests/{tag}")).await;
        assert_eq!(got.body, manifest.to_string(), "{tag}");
    }
}

#[tokio::test]
async fn ambiguous_or_foreign_documents_are_refused() {
    let registry = Fixture::open().await;
    let manifest = registry.image("a", "layer").await;
    let mut both = manifest.clone();
    both["manifests"] = json!([]);
    let mut untyped = both.clone();
    untyped.as_object_mut().expect("an object").remove("mediaType");
    let text = manifest.to_string();
    let doubled = text.replacen('{', "{\"schemaVersion\":2,", 1);
    for (media_type, body) in [
        (MANIFEST, both.to_string()),
        (MANIFEST, untyped.to_string()),
        (INDEX, untyped.to_string()),
        (INDEX, text.clone()),
        (MANIFEST, doubled),
        (MANIFEST, "{".to_owned()),
        (MANIFEST, "[]".to_owned()),
        (MANIFEST, String::new()),
        ("application/vnd.docker.distribution.manifest.v1+json", text.clone()),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", text.clone()),
        ("text/plain", text.clone()),
        ("", text),
    ] {
        let headers = [("content-type", media_type)];
        let reply = registry.send(Method::PUT, "/v2/a/manifests/x", &headers, body.clone()).await;
        assert_eq!(reply.refusal(), (400, "MANIFEST_INVALID".to_owned()), "{media_type} {body}");
    }
}

#[tokio::test]
async fn the_tag_goes_alone_and_the_digest_takes_its_tags_along() {
    let registry = Fixture::open().await;
    let digest = registry.push_image("a", "one", "layer").await;
    for tag in ["two", "three"] {
        registry.push_image("a", tag, "layer").await;
    }
    registry.push_image("a", "other", "other layer").await;
    assert_eq!(registry.delete("/v2/a/manifests/one").await.status.as_u16(), 202);
    assert_eq!(registry.get("/v2/a/manifests/one").await.status.as_u16(), 404);
    let by_digest = format!("/v2/a/manifests/{digest}");
    assert_eq!(registry.get(&by_digest).await.status.as_u16(), 200);
    assert_eq!(registry.delete(&by_digest).await.status.as_u16(), 202);
    for path in [by_digest.as_str(), "/v2/a/manifests/two", "/v2/a/manifests/three"] {
        let unknown = (404, "MANIFEST_UNKNOWN".to_owned());
        assert_eq!(registry.get(path).await.refusal(), unknown, "{path}");
        assert_eq!(registry.delete(path).await.refusal(), unknown, "{path}");
    }
    assert_eq!(registry.get("/v2/a/tags/list").await.json()["tags"], json!(["other"]));
}

#[tokio::test]
async fn an_overwritten_tag_leaves_the_old_manifest() {
    let registry = Fixture::open().await;
    let old = registry.push_image("a", "latest", "old").await;
    assert_eq!(registry.get("/v2/a/manifests/latest").await.status.as_u16(), 200);
    let new = registry.push_image("a", "latest", "new").await;
    let got = registry.get("/v2/a/manifests/latest").await;
    assert_eq!(got.header("docker-content-digest"), new.to_string());
    let old = format!("/v2/a/manifests/{old}");
    assert_eq!(registry.get(&old).await.status.as_u16(), 200);
    assert_eq!(registry.delete(&old).await.status.as_u16(), 202);
    assert_eq!(registry.get("/v2/a/manifests/latest").await.status.as_u16(), 200);
}
