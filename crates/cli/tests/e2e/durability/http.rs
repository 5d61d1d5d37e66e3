//! A client that notices when the other side dies: one connection per request, no retries.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use oci_model::Digest;
use serde_json::{Value, json};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request; `None` if no whole answer came.
pub(super) fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    // A refusal may come before all of the body is taken.
    let _ = stream.write_all(body);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).ok()?;
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let body = received.split_off(end + 4);
    let head = String::from_utf8(received).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let reply = Reply { status, head, body };
    let length: Option<usize> = reply.header("content-length").and_then(|text| text.parse().ok());
    let whole = method == "HEAD" || length.is_none_or(|length| length == reply.body.len());
    whole.then_some(reply)
}

/// An image of one layer, with content that only its seed determines.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) repository: String,
    pub(super) tag: String,
    pub(super) layer: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl Image {
    pub(super) fn new(repository: &str, tag: &str, layer_bytes: usize) -> Self {
        let layer = noise(&format!("{repository}:{tag}"), layer_bytes);
        let config = json!({ "architecture": "amd64", "os": "linux", "created_by": tag,
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] } });
        let config = config.to_string().into_bytes();
        let descriptor = |media_type: &str, bytes: &[u8]| -> Value {
            json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let (repository, tag) = (repository.to_owned(), tag.to_owned());
        Self { repository, tag, layer, config, manifest }
    }

    pub(super) fn blob_path(&self, bytes: &[u8]) -> String {
        format!("/v2/{}/blobs/{}", self.repository, Digest::of(bytes))
    }

    pub(super) fn manifest_path(&self) -> String {
        format!("/v2/{}/manifests/{}", self.repository, self.tag)
    }

    pub(super) fn digest_path(&self) -> String {
        format!("/v2/{}/manifests/{}", self.repository, Digest::of(&self.manifest))
    }

    /// Uploads a blob in one request.
    pub(super) fn put_blob(&self, address: &str, bytes: &[u8]) -> Option<Reply> {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{}/blobs/uploads/?digest={digest}", self.repository);
        send(address, "POST", &path, &[], bytes)
    }

    /// Uploads a blob in chunks.
    pub(super) fn put_chunks(&self, address: &str, bytes: &[u8]) -> Option<Reply> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let mut location = send(address, "POST", &path, &[], b"")?.header("location")?.to_owned();
        for chunk in bytes.chunks(bytes.len() / 3 + 1) {
            location =
                send(address, "PATCH", &location, &[], chunk)?.header("location")?.to_owned();
        }
        send(address, "PUT", &format!("{location}?digest={}", Digest::of(bytes)), &[], b"")
    }

    pub(super) fn put_manifest(&self, address: &str) -> Option<Reply> {
        let headers = [("Content-Type", MANIFEST)];
        send(address, "PUT", &self.manifest_path(), &headers, &self.manifest)
    }

    /// Pushes all of it; the last answer.
    pub(super) fn push(&self, address: &str) -> Option<Reply> {
        self.put_blob(address, &self.layer).filter(|reply| reply.status == 201)?;
        self.put_blob(address, &self.config).filter(|reply| reply.status == 201)?;
        self.put_manifest(address)
    }

    /// Checks that all of it can be pulled.
    #[track_caller]
    pub(super) fn verify(&self, address: &str) {
        let path = self.manifest_path();
        let reply = send(address, "GET", &path, &[], b"").expect("an answer");
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert_eq!(reply.body, self.manifest, "{path}");
        for bytes in [&self.layer, &self.config] {
            let path = self.blob_path(bytes);
            let reply = send(address, "GET", &path, &[], b"").expect("an answer");
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            assert!(reply.body == *bytes, "{path} has other bytes");
        }
    }
}

/// Bytes that do not compress and that only the seed determines.
pub(super) fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
