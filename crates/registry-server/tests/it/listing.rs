use oci_model::Digest;
use serde_json::{Value, json};

use crate::{Fixture, INDEX, MANIFEST, image_manifest};

#[tokio::test]
async fn tags_are_sorted_and_paged() {
    let registry = Fixture::open().await;
    for tag in ["b", "a", "v1.10", "v1.9", "B"] {
        registry.push_image("a/b", tag, "layer").await;
    }
    // A neighbour in every order that could leak.
    registry.push_image("a/b2", "x", "layer").await;
    registry.push_image("a", "y", "layer").await;
    let list = |query: &'static str| {
        let registry = &registry;
        async move {
            let reply = registry.get(&format!("/v2/a/b/tags/list{query}")).await;
            (reply.json()["tags"].clone(), reply.header("link").to_owned())
        }
    };
    let next = |last: &str, n: u32| format!("</v2/a/b/tags/list?n={n}&last={last}>; rel=\"next\"");
    assert_eq!(list("").await, (json!(["B", "a", "b", "v1.10", "v1.9"]), String::new()));
    assert_eq!(list("?n=2").await, (json!(["B", "a"]), next("a", 2)));
    assert_eq!(list("?n=2&last=a").await, (json!(["b", "v1.10"]), next("v1%2E10", 2)));
    assert_eq!(list("?n=2&last=v1%2E10").await, (json!(["v1.9"]), String::new()));
    assert_eq!(list("?n=5").await.1, "");
    assert_eq!(list("?n=0").await.0, json!([]));
    assert_eq!(list("?last=absent").await.0, json!(["b", "v1.10", "v1.9"]));
    assert_eq!(list("?n=9223372036854775808").await.0.as_array().map(Vec::len), Some(5));
    for n in ["-1", "ten", ""] {
        let reply = registry.get(&format!("/v2/a/b/tags/list?n={n}")).await;
        assert_eq!(reply.refusal(), (400, "PAGINATION_NUMBER_INVALID".to_owned()), "{n}");
    }
}

#[tokio::test]
async fn a_repository_is_unknown_until_something_was_pushed() {
    let registry = Fixture::open().await;
    let reply = registry.get("/v2/never/tags/list").await;
    assert_eq!(reply.refusal(), (404, "NAME_UNKNOWN".to_owned()));
    let digest = registry.push_image("a", "v1", "layer").await;
    registry.delete("/v2/a/manifests/v1").await;
    assert_eq!(registry.get("/v2/a/tags/list").await.json(), json!({ "name": "a", "tags": [] }));
    assert_eq!(registry.get(&format!("/v2/a/manifests/{digest}")).await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_catalog_is_paged() {
    let registry = Fixture::open().await;
    assert_eq!(registry.get("/v2/_catalog").await.json(), json!({ "repositories": [] }));
    for name in ["b", "a/c", "a"] {
        registry.push_image(name, "v1", "layer").await;
    }
    let reply = registry.get("/v2/_catalog?n=2").await;
    assert_eq!(reply.json(), json!({ "repositories": ["a", "a/c"] }));
    assert_eq!(reply.header("link"), "</v2/_catalog?n=2&last=a%2Fc>; rel=\"next\"");
    let reply = registry.get("/v2/_catalog?n=2&last=a%2Fc").await;
    assert_eq!((reply.json(), reply.header("link")), (json!({ "repositories": ["b"] }), ""));
}

fn artifact(subject: &Digest, artifact_type: Option<&str>, note: &str) -> Value {
    let mut manifest = image_manifest("layer");
    if let Some(artifact_type) = artifact_type {
        manifest["artifactType"] = json!(artifact_type);
    }
    manifest["annotations"] = json!({ "note": note });
    manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": subject, "size": 1 });
    manifest
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_removed() {
    let registry = Fixture::open().await;
    let subject = registry.push_image("a", "v1", "layer").await;
    let sbom = artifact(&subject, Some("application/spdx+json"), "sbom");
    let plain = artifact(&subject, None, "plain");
    for manifest in [&sbom, &plain] {
        let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
        let reply = registry.put_manifest("a", &digest, MANIFEST, manifest).await;
        assert_eq!(reply.header("oci-subject"), subject.to_string());
    }
    let path = format!("/v2/a/referrers/{subject}");
    let all = registry.get(&path).await;
    assert_eq!(all.header("content-type"), INDEX);
    assert_eq!(all.header("oci-filters-applied"), "");
    assert_eq!(all.json()["schemaVersion"], 2);
    assert_eq!(all.json()["mediaType"], INDEX);
    assert_eq!(all.json()["manifests"].as_array().map(Vec::len), Some(2));
    let filtered = registry.get(&format!("{path}?artifactType=application/spdx%2Bjson")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let digest = Digest::of(sbom.to_string().as_bytes());
    assert_eq!(
        filtered.json()["manifests"],
        json!([{
            "mediaType": MANIFEST,
            "digest": digest,
            "size": sbom.to_string().len(),
            "annotations": { "note": "sbom" },
            "artifactType": "application/spdx+json",
        }])
    );
    let by_config = "application/vnd.oci.image.config.v1%2Bjson";
    let filtered = registry.get(&format!("{path}?artifactType={by_config}")).await;
    assert_eq!(filtered.json()["manifests"][0]["annotations"]["note"], "plain");
    // The subject may go; what is about it stays listed until it goes itself.
    registry.delete(&format!("/v2/a/manifests/{subject}")).await;
    assert_eq!(registry.get(&path).await.json()["manifests"].as_array().map(Vec::len), Some(2));
    registry.delete(&format!("/v2/a/manifests/{digest}")).await;
    assert_eq!(registry.get(&path).await.json()["manifests"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn unknown_subjects_have_an_empty_list() {
    let registry = Fixture::open().await;
    let reply = registry.get(&format!("/v2/never/referrers/{}", Digest::of(b"x"))).await;
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    assert_eq!((reply.status.as_u16(), reply.json()), (200, empty));
    let reply = registry.get("/v2/never/referrers/sha256:bad").await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
}

#[tokio::test]
async fn long_lists_of_referrers_are_paged_within_a_manifests_size() {
    let registry = Fixture::open().await;
    let subject = registry.push_image("a", "v1", "layer").await;
    let filler = "x".repeat(1_500_000);
    for number in 0..4 {
        let kind = Some("application/vnd.example+json");
        let manifest = artifact(&subject, kind, &format!("{number}{filler}"));
        let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
        let reply = registry.put_manifest("a", &digest, MANIFEST, &manifest).await;
        assert_eq!(reply.status.as_u16(), 201);
    }
    let mut path = format!("/v2/a/referrers/{subject}?artifactType=application/vnd.example%2Bjson");
    let mut seen = Vec::new();
    loop {
        let reply = registry.get(&path).await;
        assert!(reply.body.len() <= 4 * 1024 * 1024);
        assert_eq!(reply.header("oci-filters-applied"), "artifactType");
        for descriptor in reply.json()["manifests"].as_array().expect("a list") {
            seen.push(descriptor["digest"].clone());
        }
        let link = reply.header("link");
        let Some((next, _)) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else {
            break;
        };
        path = next.to_owned();
    }
    let count = seen.len();
    seen.sort_by_key(Value::to_string);
    seen.dedup();
    assert_eq!((count, seen.len()), (4, 4));
}
