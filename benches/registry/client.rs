//! One keep-alive connection, as cheap as can be: what is measured is the server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const MIB: usize = 1 << 20;

/// A connection to a registry.
pub(crate) struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

/// The head of an answer; the body was read and forgotten, or kept.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) length: usize,
}

/// Bytes like no others: one random piece again and again, each time with its number.
pub(crate) struct Content {
    piece: Vec<u8>,
    seed: u64,
    mebibytes: usize,
}

impl Content {
    pub(crate) fn new(seed: u64, mebibytes: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        Self { piece: std::iter::repeat_with(random).take(MIB).collect(), seed, mebibytes }
    }

    fn pieces(&self) -> impl Iterator<Item = [u8; 16]> {
        let seed = self.seed;
        (0..self.mebibytes as u64).map(move |number| {
            let mut head = [0; 16];
            head[..8].copy_from_slice(&number.to_le_bytes());
            head[8..].copy_from_slice(&seed.to_le_bytes());
            head
        })
    }

    pub(crate) fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for head in self.pieces() {
            hasher.update(head);
            hasher.update(&self.piece[head.len()..]);
        }
        named(&hasher.finalize())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.mebibytes * MIB
    }
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream: BufReader::with_capacity(MIB, stream) })
    }

    fn head(&mut self, method: &str, target: &str, headers: &str, length: usize) -> Result<()> {
        let target = target.strip_prefix(&format!("http://{}", self.address)).unwrap_or(target);
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n",
            self.address
        );
        Ok(self.stream.get_mut().write_all(head.as_bytes())?)
    }

    /// Reads an answer and passes its body to `body`.
    fn reply(&mut self, method: &str, mut body: impl FnMut(&[u8])) -> Result<Reply> {
        let mut reply = Reply { status: 0, location: None, length: 0 };
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if reply.status == 0 {
                reply.status = text.get(9..12).context("no status line")?.parse()?;
            } else if let Some((name, value)) = text.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "location" => reply.location = Some(value.trim().to_owned()),
                    "content-length" => reply.length = value.trim().parse()?,
                    "transfer-encoding" => return self.chunked(reply, body),
                    _ => {}
                }
            }
        }
        if method != "HEAD" {
            let mut rest = reply.length;
            while rest > 0 {
                let available = self.stream.fill_buf()?;
                ensure!(!available.is_empty(), "the body ended early");
                let used = available.len().min(rest);
                body(&available[..used]);
                self.stream.consume(used);
                rest -= used;
            }
        }
        Ok(reply)
    }

    /// The rest of an answer whose body comes in chunks (RFC 9112, section 7.1).
    fn chunked(&mut self, mut reply: Reply, mut body: impl FnMut(&[u8])) -> Result<Reply> {
        let mut line = String::new();
        while line.trim_end() != "" || line.is_empty() {
            line.clear();
            self.stream.read_line(&mut line)?;
        }
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16)?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk)?;
            body(&chunk[..size]);
            reply.length += size;
            if size == 0 {
                return Ok(reply);
            }
        }
    }

    /// Sends a request with a small body and forgets the body of the answer.
    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Reply> {
        self.head(method, target, headers, body.len())?;
        self.stream.get_mut().write_all(body)?;
        self.reply(method, |_| {})
    }

    /// A GET or HEAD that has to succeed.
    pub(crate) fn read(&mut self, method: &str, target: &str, headers: &str) -> Result<Reply> {
        let reply = self.send(method, target, headers, b"")?;
        ensure!(matches!(reply.status, 200 | 206), "{method} {target}: {}", reply.status);
        Ok(reply)
    }

    /// The whole body of a GET.
    pub(crate) fn text(&mut self, target: &str) -> Result<String> {
        self.head("GET", target, "", 0)?;
        let mut bytes = Vec::new();
        let reply = self.reply("GET", |part| bytes.extend_from_slice(part))?;
        ensure!(reply.status == 200, "GET {target}: {}", reply.status);
        Ok(String::from_utf8(bytes)?)
    }

    fn write_content(&mut self, content: &Content) -> Result<()> {
        let stream = self.stream.get_mut();
        for head in content.pieces() {
            stream.write_all(&head)?;
            stream.write_all(&content.piece[head.len()..])?;
        }
        Ok(())
    }

    fn begin(&mut self, repository: &str) -> Result<String> {
        let target = format!("/v2/{repository}/blobs/uploads/");
        let reply = self.send("POST", &target, "", b"")?;
        ensure!(reply.status == 202, "POST {target}: {}", reply.status);
        reply.location.context("no location")
    }

    /// POST and PUT, as containerd does.
    pub(crate) fn push_known(
        &mut self,
        repository: &str,
        content: &Content,
        digest: &str,
    ) -> Result<()> {
        let target = closing(&self.begin(repository)?, digest);
        self.head("PUT", &target, OCTETS, content.bytes())?;
        self.write_content(content)?;
        let reply = self.reply("PUT", |_| {})?;
        ensure!(reply.status == 201, "PUT of a blob: {}", reply.status);
        Ok(())
    }

    /// POST, one PATCH and PUT, as docker, podman and crane do.
    pub(crate) fn push_streamed(
        &mut self,
        repository: &str,
        content: &Content,
        digest: &str,
    ) -> Result<()> {
        let target = self.begin(repository)?;
        self.head("PATCH", &target, OCTETS, content.bytes())?;
        self.write_content(content)?;
        let reply = self.reply("PATCH", |_| {})?;
        ensure!(reply.status == 202, "PATCH: {}", reply.status);
        self.close(reply, digest)
    }

    /// POST, a PATCH for every five mebibytes and PUT.
    pub(crate) fn push_chunked(
        &mut self,
        repository: &str,
        content: &Content,
        digest: &str,
    ) -> Result<()> {
        const CHUNK: usize = 5;
        let mut target = self.begin(repository)?;
        let heads: Vec<[u8; 16]> = content.pieces().collect();
        let mut offset = 0;
        let mut reply = None;
        for heads in heads.chunks(CHUNK) {
            let size = heads.len() * MIB;
            let headers = format!("{OCTETS}Content-Range: {offset}-{}\r\n", offset + size - 1);
            self.head("PATCH", &target, &headers, size)?;
            for head in heads {
                self.stream.get_mut().write_all(head)?;
                self.stream.get_mut().write_all(&content.piece[head.len()..])?;
            }
            let patched = self.reply("PATCH", |_| {})?;
            ensure!(patched.status == 202, "PATCH of a chunk: {}", patched.status);
            target = patched.location.clone().context("no location")?;
            reply = Some(patched);
            offset += size;
        }
        self.close(reply.context("no chunks")?, digest)
    }

    fn close(&mut self, patched: Reply, digest: &str) -> Result<()> {
        let target = closing(&patched.location.context("no location")?, digest);
        let reply = self.send("PUT", &target, "", b"")?;
        ensure!(reply.status == 201, "closing PUT: {}", reply.status);
        Ok(())
    }

    /// A small blob in one PUT.
    pub(crate) fn push_bytes(&mut self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        let target = closing(&self.begin(repository)?, &digest);
        let reply = self.send("PUT", &target, OCTETS, bytes)?;
        ensure!(reply.status == 201, "PUT of a small blob: {}", reply.status);
        Ok(digest)
    }

    pub(crate) fn put_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        manifest: &str,
    ) -> Result<()> {
        let target = format!("/v2/{repository}/manifests/{tag}");
        let headers = format!("Content-Type: {MANIFEST}\r\n");
        let reply = self.send("PUT", &target, &headers, manifest.as_bytes())?;
        ensure!(reply.status == 201, "PUT {target}: {}", reply.status);
        Ok(())
    }

    /// An image of a config and `layers` layers of 4 KiB.
    pub(crate) fn push_image(
        &mut self,
        repository: &str,
        tag: &str,
        seed: &str,
        layers: usize,
    ) -> Result<()> {
        let config = format!("{{\"seed\":\"{seed}\"}}");
        let config_digest = self.push_bytes(repository, config.as_bytes())?;
        let mut descriptors = Vec::new();
        for layer in 0..layers {
            let text = format!("{seed} {layer} ");
            let mut bytes = text.repeat(4096 / text.len() + 1).into_bytes();
            bytes.truncate(4096);
            descriptors.push((self.push_bytes(repository, &bytes)?, bytes.len()));
        }
        self.put_manifest(repository, tag, &manifest(&config_digest, config.len(), &descriptors))
    }
}

/// An image manifest.
pub(crate) fn manifest(config: &str, config_size: usize, layers: &[(String, usize)]) -> String {
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(digest, size)| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": size,
            })
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": config_size,
        },
        "layers": layers,
    })
    .to_string()
}

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

fn closing(location: &str, digest: &str) -> String {
    let joint = if location.contains('?') { '&' } else { '?' };
    format!("{location}{joint}digest={digest}")
}
