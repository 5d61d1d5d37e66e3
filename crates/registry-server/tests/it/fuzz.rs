//! Mutations of requests: whatever they are answered, nothing panics, no answer is a failure of
//! the server, and afterwards the registry is as before.
//!
//! Every run takes a new seed and prints it. `SHIPWAY_FUZZ_SECONDS` sets the time,
//! `SHIPWAY_FUZZ_SEED` repeats a run.

#![expect(clippy::print_stdout, reason = "a seed is of use only where it is printed")]

use std::time::{Duration, Instant};

use http::Method;
use oci_model::Digest;
use serde_json::json;

use crate::{Fixture, INDEX, MANIFEST, image_manifest};

/// Seconds when nobody says more.
const SECONDS: u64 = 4;

/// Pieces that mean something to one parser or another.
const WORDS: &[&str] = &[
    "/",
    "..",
    "%2e",
    "%2F",
    "%00",
    "%",
    "%FF",
    "?",
    "&",
    "=",
    ":",
    ",",
    "-",
    "\"",
    "{",
    "}",
    "[",
    "]",
    "null",
    "0",
    "-1",
    "18446744073709551616",
    "1e999",
    "sha256:",
    "sha512-",
    "blobs",
    "uploads",
    "manifests",
    "tags/list",
    "referrers",
    "_catalog",
    "bytes=",
    "0-0",
    "*",
    "\\u0000",
    "repository:a:pull",
    "manifests\":[",
    "config",
    "mediaType",
    "n=",
    "last=",
    "é",
    "\u{17f}",
];

/// A small generator of numbers (xorshift64*), so that a seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % end.max(1)
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A text with some pieces put in, taken out or doubled.
    fn mutated(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..self.below(4) {
            let at = self.below(characters.len() + 1);
            let end = (at + self.below(12)).min(characters.len());
            match self.below(4) {
                0 => drop(characters.drain(at..end)),
                1 => {
                    let piece: Vec<char> = characters[at..end].to_vec();
                    characters.splice(at..at, piece);
                }
                _ => {
                    let word: Vec<char> = self.of(WORDS).chars().collect();
                    characters.splice(at..at, word);
                }
            }
        }
        characters.into_iter().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_makes_the_registry_fail() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let random = clock.map_or(1, |time| u64::from(time.subsec_nanos()) * 2 + 1);
    let seed = number("SHIPWAY_FUZZ_SEED").unwrap_or(random).max(1);
    let limit = Duration::from_secs(number("SHIPWAY_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut random = Random(seed);

    let registry = Fixture::open().await;
    let image = registry.push_image("keep/this", "v1", "layer").await;
    let layer = Digest::of(b"layer");
    registry.push_image("a", "v1", "layer").await;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        { "mediaType": MANIFEST, "digest": image, "size": 1, "annotations": { "a": "b" } },
    ] });
    let documents = [image_manifest("layer").to_string(), index.to_string()];
    let begun = registry.send(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let upload = begun.header("location").to_owned();
    let fallback = format!("/v2/a/manifests/sha256-{}", image.encoded());
    let targets = [
        (Method::PUT, "/v2/a/manifests/v2".to_owned()),
        (Method::PUT, fallback),
        (Method::PUT, format!("/v2/a/manifests/{image}?tag=x&tag=y")),
        (Method::GET, format!("/v2/a/referrers/{image}?artifactType=a%2Bb&last={layer}")),
        (Method::GET, format!("/v2/a/blobs/{layer}")),
        (Method::GET, "/v2/a/tags/list?n=3&last=v0".to_owned()),
        (Method::GET, "/v2/_catalog?n=3&last=a".to_owned()),
        (Method::PATCH, upload.clone()),
        (Method::GET, upload.clone()),
        (Method::PUT, format!("{upload}?digest={layer}")),
        (Method::POST, format!("/v2/a/blobs/uploads/?mount={layer}&from=keep/this")),
        (Method::POST, format!("/v2/a/blobs/uploads/?digest={layer}")),
        (Method::POST, "/v2/a/blobs/uploads/?digest-algorithm=sha512".to_owned()),
        (Method::GET, "/auth/token?service=s&scope=repository:a:pull,push&account=x".to_owned()),
        (Method::POST, "/auth/token".to_owned()),
        (Method::DELETE, format!("/v2/a/manifests/{image}")),
        (Method::GET, "/v2/_shipway/audit?n=1".to_owned()),
        (Method::GET, "/v2/_oci/ext/discover".to_owned()),
    ];
    let started = Instant::now();
    let mut tried = 0_u64;
    while started.elapsed() < limit {
        let (method, target) = random.of(&targets).clone();
        let target = random.mutated(&target);
        let body = if method == Method::PUT && target.contains("manifests") {
            let document = random.of(&documents).clone();
            random.mutated(&document)
        } else if target.starts_with("/auth") {
            random.mutated("grant_type=password&username=a&password=b&scope=repository:a:pull")
        } else {
            "layer".to_owned()
        };
        let range = random.mutated("bytes=0-1,2-3,-1");
        let content_range = random.mutated("0-4");
        let media_type = if random.below(2) == 0 { MANIFEST } else { INDEX };
        let media_type =
            if random.below(4) == 0 { random.mutated(media_type) } else { media_type.to_owned() };
        let authorization = random.mutated("Basic YTpi");
        let mut headers = vec![("content-type", &media_type), ("range", &range)];
        if random.below(2) == 0 {
            headers.push(("content-range", &content_range));
        }
        if random.below(8) == 0 {
            headers.push(("authorization", &authorization));
        }
        // Only what the client's own library would send.
        let sendable = |value: &str| http::HeaderValue::from_str(value).is_ok();
        headers.retain(|(_, value)| sendable(value));
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let uri = format!("{}{target}", registry.registry.url());
        // The fixture takes what has a scheme for another server.
        let is_path = target.starts_with('/') && !target.contains("://");
        if !is_path || uri.parse::<http::Uri>().is_err() {
            continue;
        }
        let reply = registry.send(method.clone(), &target, &headers, body.clone()).await;
        let status = reply.status.as_u16();
        assert!(status < 500, "seed {seed}: {method} {target} {headers:?} {body}: {reply:?}");
        if status >= 400 && !reply.body.is_empty() {
            assert!(reply.json().is_object(), "seed {seed}: {reply:?}");
        }
        tried += 1;
    }
    println!("registry-server: {tried} requests, seed {seed}");
    let kept = registry.get("/v2/keep/this/manifests/v1").await;
    assert_eq!(kept.header("docker-content-digest"), image.to_string(), "seed {seed}");
    let blob = registry.get(&format!("/v2/keep/this/blobs/{layer}")).await;
    assert_eq!(blob.body, "layer", "seed {seed}");
    registry.registry.shutdown().await;
}
