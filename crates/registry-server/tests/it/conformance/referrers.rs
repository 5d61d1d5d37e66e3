use std::collections::BTreeMap;

use http::Method;
use oci_model::Digest;
use serde_json::{Value, json};

use super::documents::{DataSet, Document};
use super::{REPO1, Suite, in_every_way};
use crate::{INDEX, MANIFEST, Reply, image_manifest};

in_every_way!(referrers_need_a_digest, lists_of_clients_belong_to_the_answer);

fn path(subject: &Digest) -> String {
    format!("/v2/{REPO1}/referrers/{subject}")
}

fn manifests(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status.as_u16(), 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), INDEX);
    let index = reply.json();
    assert_eq!(
        (index["schemaVersion"].as_u64(), index["mediaType"].as_str()),
        (Some(2), Some(INDEX))
    );
    index["manifests"].as_array().expect("a list").clone()
}

/// What the list says of a document.
fn descriptor(document: &Document) -> Value {
    let mut descriptor = json!({
        "mediaType": document.media_type, "digest": document.digest, "size": document.bytes.len(),
    });
    if let Some(artifact_type) = &document.artifact_type {
        descriptor["artifactType"] = json!(artifact_type);
    }
    if !document.annotations.is_null() {
        descriptor["annotations"] = document.annotations.clone();
    }
    descriptor
}

/// The documents of a data set are listed at their subjects, all of them and by type.
pub(super) async fn lists(suite: &Suite, set: &DataSet) {
    let mut subjects: BTreeMap<Digest, Vec<&Document>> = BTreeMap::new();
    for document in &set.documents {
        if let Some(subject) = document.subject {
            subjects.entry(subject).or_default().push(document);
        }
    }
    for (subject, mut documents) in subjects {
        documents.sort_by_key(|document| document.digest.to_string());
        let reply = suite.get(&path(&subject)).await;
        let expected: Vec<Value> = documents.iter().map(|document| descriptor(document)).collect();
        assert_eq!(manifests(&reply), expected, "{}", set.name);
        assert_eq!(reply.header("oci-filters-applied"), "");
        for wanted in documents.iter().filter_map(|document| document.artifact_type.as_deref()) {
            let query = format!("?artifactType={}", wanted.replace('+', "%2B"));
            let reply = suite.get(&format!("{}{query}", path(&subject))).await;
            assert_eq!(reply.header("oci-filters-applied"), "artifactType");
            let expected: Vec<Value> = documents
                .iter()
                .filter(|document| document.artifact_type.as_deref() == Some(wanted))
                .map(|document| descriptor(document))
                .collect();
            assert_eq!(manifests(&reply), expected, "{} {wanted}", set.name);
        }
        let none = suite.get(&format!("{}?artifactType=application/none", path(&subject))).await;
        assert_eq!(manifests(&none), [] as [Value; 0]);
        assert_eq!(none.header("oci-filters-applied"), "artifactType");
    }
}

/// Section 1.1, end-12a.
async fn referrers_need_a_digest(suite: &Suite) {
    for bad in ["sha256:baddigeststring", "sha256:", "latest", "md5:00", "sha256:.."] {
        let reply = suite.get(&format!("/v2/{REPO1}/referrers/{bad}")).await;
        assert_eq!(reply.refusal(), (400, "DIGEST_INVALID".to_owned()), "{bad}");
    }
    assert_eq!(manifests(&suite.get(&path(&Digest::of(b"unknown"))).await), [] as [Value; 0]);
}

/// Section 1.5, "Fallback tag" and "Enabling the API on old data".
async fn lists_of_clients_belong_to_the_answer(suite: &Suite) {
    for bytes in [&b"{}"[..], b"layer"] {
        suite.push_blob(REPO1, &Digest::of(bytes), bytes).await;
    }
    let put = async |reference: &str, media_type: &str, document: &Value| {
        let path = format!("/v2/{REPO1}/manifests/{reference}");
        let headers = [("content-type", media_type)];
        let reply = suite.send(Method::PUT, &path, &headers, document.to_string()).await;
        assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
        Digest::of(document.to_string().as_bytes())
    };
    let subject = put("subject", MANIFEST, &image_manifest("layer")).await;
    let about = |note: &str, subject: Option<&Digest>| {
        let mut manifest = image_manifest("layer");
        manifest["artifactType"] = json!("application/vnd.example");
        manifest["annotations"] = json!({ "note": note });
        if let Some(subject) = subject {
            manifest["subject"] = json!({ "mediaType": MANIFEST, "digest": subject, "size": 1 });
        }
        manifest
    };
    // Listed by both, by the client alone, by the registry alone; about something else.
    let mut expected = Vec::new();
    let mut listed = Vec::new();
    for (note, own, by_client) in [
        ("both", Some(&subject), true),
        ("client", None, true),
        ("another of the client", None, true),
        ("registry", Some(&subject), false),
        ("elsewhere", Some(&Digest::of(b"elsewhere")), true),
    ] {
        let digest =
            put(note.split(' ').next().expect("a word"), MANIFEST, &about(note, own)).await;
        if by_client {
            listed.push(json!({ "mediaType": MANIFEST, "digest": digest, "size": 5 }));
        }
        if note != "elsewhere" {
            expected.push(digest.to_string());
        }
    }
    expected.sort();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed });
    let tag = format!("sha256-{}", subject.encoded());
    put(&tag, INDEX, &index).await;
    let digests = async |query: &str| {
        let reply = suite.get(&format!("{}{query}", path(&subject))).await;
        let list = manifests(&reply);
        assert!(list.iter().all(|entry| entry["artifactType"] == "application/vnd.example"));
        let digest = |entry: &Value| entry["digest"].as_str().expect("a digest").to_owned();
        list.iter().map(digest).collect::<Vec<_>>()
    };
    assert_eq!(digests("").await, expected);
    assert_eq!(digests("?artifactType=application/vnd.example").await, expected);
    assert_eq!(digests("?artifactType=application/other").await, [""; 0]);
    assert_eq!(digests(&format!("?last={}", expected[1])).await, expected[2..]);
    // What is gone is not listed, whatever the client's list says.
    for digest in &expected {
        assert_eq!(
            suite.delete(&format!("/v2/{REPO1}/manifests/{digest}")).await.status.as_u16(),
            202
        );
    }
    assert_eq!(digests("").await, [""; 0]);
}
