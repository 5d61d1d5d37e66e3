//! What is known of one request, from its first byte to the last of its answer.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::trace_context::TraceContext;

/// Longest request id taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The client's, as far as trusted proxies say.
    pub(crate) address: IpAddr,
    /// The certificate that the client proved to have in the TLS handshake; the chain to a
    /// configured authority was checked.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// A request and what becomes of it.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// From `X-Request-Id`, or made here.
    pub(crate) id: String,
    pub(crate) trace: TraceContext,
    pub(crate) peer: Peer,
    pub(crate) began: Instant,
    principal: OnceLock<String>,
    bytes_in: AtomicU64,
}

impl Exchange {
    /// Takes over the ids that the client sent, or makes some.
    pub(crate) fn new(headers: &HeaderMap, peer: Peer) -> Arc<Self> {
        Arc::new(Self {
            id: request_id(headers),
            trace: TraceContext::of(headers),
            peer,
            began: Instant::now(),
            principal: OnceLock::new(),
            bytes_in: AtomicU64::new(0),
        })
    }

    /// Notes who it turned out to be; the first word counts.
    pub(crate) fn identified(&self, principal: &str) {
        let _ = self.principal.set(principal.to_owned());
    }

    /// Who asks; empty for somebody without credentials, or not identified yet.
    pub(crate) fn principal(&self) -> &str {
        self.principal.get().map_or("", String::as_str)
    }

    /// Notes that bytes of the body came.
    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }
}

/// The id of the client if it is harmless in a log and in a header, else one of our own: a random
/// part per process and a count.
fn request_id(headers: &HeaderMap) -> String {
    static PROCESS: LazyLock<String> =
        LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string()[..16].to_owned());
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_.:/+=".contains(c);
    match given {
        Some(id)
            if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.chars().all(harmless) =>
        {
            id.to_owned()
        }
        _ => format!("{}-{}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_are_kept_only_if_harmless() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", text.parse().expect("a value"));
            request_id(&headers)
        };
        assert_eq!(id("abc-1"), "abc-1");
        for bad in ["", "a b", "\"},{", "<script>", &"a".repeat(129)] {
            assert_ne!(id(bad), bad);
        }
        assert_ne!(id(""), id(""));
    }
}
