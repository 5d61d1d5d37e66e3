//! The data sets of the suite: blobs and the manifests that point to them.

use bytes::Bytes;
use oci_model::{Algorithm, Digest};
use serde_json::{Value, json};

use super::digest_of;
use crate::{INDEX, MANIFEST};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A manifest of a data set.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Bytes,
    /// What the list of referrers says of it.
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: Value,
    pub(crate) subject: Option<Digest>,
    pub(crate) tag: Option<&'static str>,
}

/// Blobs, and manifests in the order of their push.
#[derive(Clone, Debug)]
pub(crate) struct DataSet {
    pub(crate) name: &'static str,
    algorithm: Algorithm,
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) documents: Vec<Document>,
}

impl DataSet {
    fn new(name: &'static str, algorithm: Algorithm) -> Self {
        Self { name, algorithm, blobs: Vec::new(), documents: Vec::new() }
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest_of(self.algorithm, bytes);
        if !self.blobs.iter().any(|(known, _)| *known == digest) {
            self.blobs.push((digest, bytes.to_vec()));
        }
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The fields of an image whose layer is `content`.
    fn image_fields(&mut self, content: &str) -> Value {
        let config = self.blob(CONFIG, format!("{{\"of\":\"{content}\"}}").as_bytes());
        let layer = self.blob(LAYER, content.as_bytes());
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        })
    }

    /// The fields of an artifact of a type.
    fn artifact_fields(&mut self, artifact_type: &str, content: Option<&str>) -> Value {
        let config = self.blob(EMPTY, b"{}");
        let layer = match content {
            Some(content) => self.blob("text/plain", content.as_bytes()),
            None => config.clone(),
        };
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type,
            "config": config, "layers": [layer], "annotations": { "about": artifact_type },
        })
    }

    fn index_fields(&self, children: &[Value]) -> Value {
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children })
    }

    /// Adds a document and returns its descriptor.
    fn add(&mut self, fields: &Value, tag: Option<&'static str>) -> Value {
        let media_type = if fields["mediaType"] == INDEX { INDEX } else { MANIFEST };
        let bytes: Bytes = fields.to_string().into();
        let digest = digest_of(self.algorithm, &bytes);
        let own = fields["artifactType"].as_str();
        let artifact_type = own.or_else(|| fields["config"]["mediaType"].as_str());
        let subject = fields["subject"]["digest"].as_str();
        let size = bytes.len();
        self.documents.push(Document {
            digest,
            media_type,
            bytes,
            artifact_type: artifact_type.map(str::to_owned),
            annotations: fields["annotations"].clone(),
            subject: subject.map(|subject| subject.parse().expect("a digest")),
            tag,
        });
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }
}

/// The data sets of section 2.3, group 4, in its order.
pub(crate) fn all() -> Vec<DataSet> {
    let mut sets = Vec::new();
    let mut with = |name, algorithm, fill: &dyn Fn(&mut DataSet)| {
        let mut set = DataSet::new(name, algorithm);
        fill(&mut set);
        sets.push(set);
    };
    let sha256 = Algorithm::Sha256;
    with("image", sha256, &|set| {
        let image = set.image_fields("layer");
        set.add(&image, Some("image"));
    });
    with("image-uncompressed", sha256, &|set| {
        let mut image = set.image_fields("layer");
        image["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        set.add(&image, Some("image-uncompressed"));
    });
    with("large-manifest", sha256, &|set| {
        let mut image = set.image_fields("layer");
        let annotations = (0..390).map(|n| (format!("note{n}"), json!("x".repeat(10_000))));
        image["annotations"] = annotations.collect::<serde_json::Map<_, _>>().into();
        set.add(&image, Some("large-manifest"));
    });
    with("index", sha256, &|set| {
        let children = platforms(set);
        let index = set.index_fields(&children);
        set.add(&index, Some("index"));
    });
    with("nested-index", sha256, &|set| {
        let children = platforms(set);
        let inner = set.index_fields(&children);
        let inner = set.add(&inner, None);
        let outer = set.index_fields(&[inner]);
        set.add(&outer, Some("nested-index"));
    });
    with("empty-index", sha256, &|set| {
        let index = set.index_fields(&[]);
        set.add(&index, Some("empty-index"));
    });
    with("artifact", sha256, &|set| {
        let artifact = set.artifact_fields("application/vnd.example.artifact", Some("hello"));
        set.add(&artifact, Some("artifact"));
    });
    with("artifact-index", sha256, &|set| {
        let first = set.artifact_fields("application/vnd.example.one", Some("one"));
        let second = set.artifact_fields("application/vnd.example.two", Some("two"));
        let children = [set.add(&first, None), set.add(&second, None)];
        let mut index = set.index_fields(&children);
        index["artifactType"] = json!("application/vnd.example.list");
        set.add(&index, Some("artifact-index"));
    });
    with("artifact-without-layers", sha256, &|set| {
        let artifact = set.artifact_fields("application/vnd.example.bare", None);
        set.add(&artifact, Some("artifact-without-layers"));
    });
    with("artifacts-with-subject", sha256, &|set| with_subject(set, false));
    with("index-with-subject", sha256, &|set| with_subject(set, true));
    with("missing-subject", sha256, &|set| {
        let mut artifact = set.artifact_fields("application/vnd.example.sbom", Some("sbom"));
        let never = digest_of(sha256, b"never pushed");
        artifact["subject"] = json!({ "mediaType": MANIFEST, "digest": never, "size": 12 });
        set.add(&artifact, Some("missing-subject"));
    });
    with("data-field", sha256, &|set| {
        let mut artifact = set.artifact_fields("application/vnd.example.data", None);
        artifact["config"]["data"] = json!("e30=");
        artifact["layers"][0]["data"] = json!("e30=");
        set.add(&artifact, Some("data-field"));
    });
    with("non-distributable-layers", sha256, &|set| {
        let mut image = set.image_fields("layer");
        for kind in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            let layer = json!({
                "mediaType": kind, "digest": Digest::of(kind.as_bytes()), "size": 123_456,
                "urls": ["http://127.0.0.1:1/layer"],
            });
            image["layers"].as_array_mut().expect("a list").push(layer);
        }
        set.add(&image, Some("non-distributable-layers"));
    });
    with("custom-fields", sha256, &|set| {
        let mut image = set.image_fields("layer");
        image["org.example.field"] = json!({ "deep": [1, 2.5, null, { "size": "any" }] });
        image["config"]["org.example"] = json!(true);
        image["layers"][0]["mediaType"] = json!("application/vnd.example.layer+unheard-of");
        set.add(&image, Some("custom-fields"));
    });
    with("no-layers", sha256, &|set| {
        let mut image = set.image_fields("layer");
        image["layers"] = json!([]);
        set.add(&image, Some("no-layers"));
    });
    with("sha512", Algorithm::Sha512, &|set| {
        let children = platforms(set);
        let index = set.index_fields(&children);
        set.add(&index, None);
        with_subject(set, false);
        for document in &mut set.documents {
            // By tag a manifest has its sha256 digest.
            document.tag = None;
        }
    });
    sets
}

/// The images of an index.
fn platforms(set: &mut DataSet) -> Vec<Value> {
    let child = |architecture: &str| {
        let image = set.image_fields(architecture);
        let mut descriptor = set.add(&image, None);
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        descriptor
    };
    ["amd64", "arm64"].map(child).to_vec()
}

/// An image, or an index, and four artifacts about it.
fn with_subject(set: &mut DataSet, index: bool) {
    let subject = if index {
        let children = platforms(set);
        let index = set.index_fields(&children);
        set.add(&index, Some("subject"))
    } else {
        let image = set.image_fields("subject");
        set.add(&image, Some("subject"))
    };
    for (artifact_type, content) in [
        ("application/vnd.example.sbom+json", Some("sbom")),
        ("application/vnd.example.signature", Some("signature")),
        ("application/vnd.example.signature", Some("another signature")),
    ] {
        let mut artifact = set.artifact_fields(artifact_type, content);
        artifact["subject"] = subject.clone();
        set.add(&artifact, None);
    }
    let mut plain = set.image_fields("about the subject");
    plain["subject"] = subject.clone();
    set.add(&plain, Some("tagged-referrer"));
    if index {
        let mut list = set.index_fields(&[]);
        list["subject"] = subject;
        list["annotations"] = json!({ "no": "artifact type" });
        set.add(&list, None);
    }
}
