//! The pull-through cache in front of an upstream that does what each test says.

mod access;
mod blobs;
mod expiry;
mod fake;
mod manifests;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use registry_server::{ProxiedRegistry, RegistryOptions};

use self::fake::Fake;
use crate::{Fixture, Reply};

/// Where the upstream `hub.example` is found.
const HUB: &str = "cache/hub.example";

fn behind(fake: &Arc<Fake>) -> ProxiedRegistry {
    let upstream: Arc<Fake> = Arc::clone(fake);
    let mut registry = ProxiedRegistry::new("hub.example", upstream);
    registry.prefix = "cache".to_owned();
    registry.tag_life = Duration::ZERO;
    registry
}

/// A registry with one upstream, every tag checked each time.
async fn cache_of(fake: &Arc<Fake>) -> Fixture {
    cache_with(fake, |_| {}).await
}

async fn cache_with(fake: &Arc<Fake>, change: impl FnOnce(&mut RegistryOptions)) -> Fixture {
    Fixture::with(|options, _| {
        options.proxy.upstreams.push(behind(fake));
        change(options);
    })
    .await
}

impl Fixture {
    /// The response as soon as its head is there.
    async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> http::Response<Incoming> {
        let uri = format!("{}{path}", self.registry.url());
        let mut request = Request::builder().method(Method::GET).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        self.client.request(request).await.expect("a response")
    }

    async fn pull(&self, repository: &str, what: &str) -> Reply {
        self.get(&format!("/v2/{repository}/{what}")).await
    }
}

/// At least one byte of a body.
async fn some_bytes(body: &mut Incoming) -> Vec<u8> {
    let frame = body.frame().await.expect("not the end").expect("bytes");
    frame.into_data().expect("data").to_vec()
}

/// The rest of a body, and whether it broke off.
async fn rest(body: &mut Incoming) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => return (bytes, true),
        }
    }
    (bytes, false)
}
