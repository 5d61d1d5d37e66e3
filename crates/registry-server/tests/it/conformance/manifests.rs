use http::Method;
use oci_model::{Algorithm, Digest};
use serde_json::{Value, json};

use super::{REPO1, Suite, digest_of, in_every_way};
use crate::{INDEX, MANIFEST, Reply, image_manifest};

in_every_way!(
    missing_and_malformed_manifests_are_refused,
    tags_in_the_query_are_set,
    conditions_of_a_push_hold,
);

async fn put(suite: &Suite, reference: &str, media_type: &str, body: &str) -> Reply {
    let path = format!("/v2/{REPO1}/manifests/{reference}");
    suite.send(Method::PUT, &path, &[("content-type", media_type)], body.to_owned()).await
}

async fn push_blobs(suite: &Suite) {
    for bytes in [&b"{}"[..], b"layer"] {
        suite.push_blob(REPO1, &Digest::of(bytes), bytes).await;
    }
}

/// Section 2.3, group 5 and bad-digest-image; section 1.3; security rows 2 and 29.
async fn missing_and_malformed_manifests_are_refused(suite: &Suite) {
    push_blobs(suite).await;
    let manifest = image_manifest("layer").to_string();
    for reference in ["absent", &Digest::of(b"absent").to_string()] {
        let path = format!("/v2/{REPO1}/manifests/{reference}");
        assert_eq!(suite.get(&path).await.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
        let head = suite.head(&path).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
    }
    let upper = Digest::of(manifest.as_bytes()).to_string().replace(char::is_lowercase, "A");
    for reference in ["sha256:baddigeststring", "sha256:", "sha256:%2e%2e", "md5:00", &upper] {
        let reply = put(suite, reference, MANIFEST, &manifest).await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()), "{reference}");
        let reply = suite.get(&format!("/v2/{REPO1}/manifests/{reference}")).await;
        assert_eq!(reply.status.as_u16(), 400, "{reference}");
    }
    for algorithm in super::ALGORITHMS {
        let other = digest_of(algorithm, b"other").to_string();
        let reply = put(suite, &other, MANIFEST, &manifest).await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
        let path = format!("/v2/{REPO1}/manifests/{other}");
        assert_eq!(suite.get(&path).await.status.as_u16(), 404);
    }
    for tag in ["-dash", "a%20b", "%C3%A9", &"x".repeat(129)] {
        let reply = put(suite, tag, MANIFEST, &manifest).await;
        assert_eq!(reply.refusal(), (400, "TAG_INVALID".to_owned()), "{tag}");
    }
    assert_eq!(put(suite, &"x".repeat(128), MANIFEST, &manifest).await.status.as_u16(), 201);
    for (media_type, body) in refused(&image_manifest("layer")) {
        let reply = put(suite, "refused", &media_type, &body).await;
        assert_eq!(
            reply.refusal(),
            (400, "MANIFEST_INVALID".to_owned()),
            "{media_type} {body:.200}"
        );
    }
    let mut missing = image_manifest("layer");
    missing["layers"][0]["digest"] = json!(Digest::of(b"not pushed"));
    let reply = put(suite, "refused", MANIFEST, &missing.to_string()).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    assert_eq!(reply.json()["errors"][0]["detail"]["digest"], json!(Digest::of(b"not pushed")));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": Digest::of(b"not pushed"), "size": 1 },
    ] });
    let reply = put(suite, "refused", INDEX, &index.to_string()).await;
    assert_eq!(reply.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".to_owned()));
    let tags = suite.get(&format!("/v2/{REPO1}/tags/list")).await;
    assert_eq!(tags.json()["tags"].as_array().map(Vec::len), Some(1), "only the one of 128");
}

/// Documents that are no manifests of their type, or that two programs would read differently.
fn refused(image: &Value) -> Vec<(String, String)> {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    let with = |base: &Value, name: &str, value: Value| {
        let mut document = base.clone();
        document[name] = value;
        document.to_string()
    };
    let without = |base: &Value, name: &str| {
        let mut document = base.clone();
        document.as_object_mut().expect("an object").remove(name);
        document
    };
    let mut empty_config = image.clone();
    empty_config["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    let mut negative = image.clone();
    negative["layers"][0]["size"] = json!(-1);
    let mut huge = image.clone();
    huge["layers"][0]["size"] = json!(u64::MAX);
    let text = image.to_string();
    let twice = text.replacen('{', "{\"config\":{},", 1);
    let folded = text.replacen('{', "{\"CONFIG\":{},", 1);
    let deep = with(image, "x", Value::Null)
        .replace("null", &format!("{}{}", "[".repeat(60), "]".repeat(60)));
    let schema1 = "application/vnd.docker.distribution.manifest.v1";
    [
        (INDEX, text.clone()),
        ("application/vnd.docker.distribution.manifest.v2+json", text.clone()),
        ("", text.clone()),
        (MANIFEST, index.to_string()),
        (MANIFEST, with(image, "manifests", json!([]))),
        (INDEX, with(&index, "layers", json!([]))),
        (INDEX, with(&without(&index, "mediaType"), "config", json!({}))),
        (MANIFEST, with(&without(image, "mediaType"), "manifests", json!([]))),
        (INDEX, with(&index, "fsLayers", json!([]))),
        (MANIFEST, with(image, "schemaVersion", json!(1))),
        (&format!("{schema1}+json"), with(&without(image, "mediaType"), "schemaVersion", json!(1))),
        (&format!("{schema1}+prettyjws"), "{}".to_owned()),
        ("application/vnd.oci.artifact.manifest.v1+json", "{}".to_owned()),
        ("text/plain", text.clone()),
        (MANIFEST, without(image, "config").to_string()),
        (MANIFEST, empty_config.to_string()),
        (MANIFEST, negative.to_string()),
        (MANIFEST, huge.to_string()),
        (MANIFEST, twice),
        (MANIFEST, folded),
        (MANIFEST, deep),
        (MANIFEST, format!("{text}{{}}")),
        (MANIFEST, "null".to_owned()),
        (MANIFEST, "[]".to_owned()),
        (MANIFEST, String::new()),
    ]
    .map(|(media_type, body)| (media_type.to_owned(), body))
    .to_vec()
}

/// Section 1.1, end-7b.
async fn tags_in_the_query_are_set(suite: &Suite) {
    push_blobs(suite).await;
    let manifest = image_manifest("layer").to_string();
    for algorithm in super::ALGORITHMS {
        let digest = digest_of(algorithm, manifest.as_bytes());
        let tags: Vec<String> = (0..12).map(|n| format!("{algorithm}-tag{n:02}")).collect();
        let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let reply = put(suite, &format!("{digest}?{}", query.join("&")), MANIFEST, &manifest).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        let said: Vec<_> = reply.headers.get_all("oci-tag").iter().collect();
        assert_eq!(said, tags.iter().map(String::as_str).collect::<Vec<_>>());
        for tag in &tags {
            let head = suite.head(&format!("/v2/{REPO1}/manifests/{tag}")).await;
            assert_eq!(head.header("docker-content-digest"), digest.to_string());
        }
        let many = format!("{digest}?{}", vec!["tag=x"; 100].join("&"));
        assert_eq!(put(suite, &many, MANIFEST, &manifest).await.status.as_u16(), 414);
        let bad = put(suite, &format!("{digest}?tag=fine&tag=-bad"), MANIFEST, &manifest).await;
        assert_eq!(bad.refusal(), (400, "TAG_INVALID".to_owned()));
        let fine = suite.get(&format!("/v2/{REPO1}/manifests/fine")).await;
        assert_eq!(fine.status.as_u16(), 404, "all tags or none");
    }
    let wrong = format!("{}?tag=wrong", digest_of(Algorithm::Sha512, b"other"));
    let reply = put(suite, &wrong, MANIFEST, &manifest).await;
    assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()));
}

/// Section 1.7, 412; section 1.3, If-None-Match.
async fn conditions_of_a_push_hold(suite: &Suite) {
    push_blobs(suite).await;
    let first = image_manifest("layer").to_string();
    let second = format!(" {first}");
    let path = format!("/v2/{REPO1}/manifests/tag");
    let tag_of = |text: &str| format!("\"{}\"", Digest::of(text.as_bytes()));
    let send = async |condition: (&str, &str), body: &str| {
        let headers = [("content-type", MANIFEST), condition];
        suite.send(Method::PUT, &path, &headers, body.to_owned()).await.status.as_u16()
    };
    assert_eq!(send(("if-match", "*"), &first).await, 412);
    assert_eq!(send(("if-none-match", "*"), &first).await, 201);
    assert_eq!(send(("if-none-match", "*"), &second).await, 412);
    assert_eq!(send(("if-match", &tag_of(&second)), &second).await, 412);
    assert_eq!(send(("if-match", &tag_of(&first)), &second).await, 201);
    for (condition, status) in [
        (tag_of(&second), 304),
        (format!("\"x\", W/{}", tag_of(&second)), 304),
        (tag_of(&first), 200),
    ] {
        let reply = suite.send(Method::GET, &path, &[("if-none-match", &condition)], "").await;
        assert_eq!(reply.status.as_u16(), status, "{condition}");
        assert_eq!(reply.header("etag"), tag_of(&second));
    }
}
