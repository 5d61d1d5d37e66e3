//! How much of a connection or a request one client may take.

use std::time::Duration;

use oci_model::MANIFEST_BYTES_MAX;

/// Limits that keep slow and greedy clients from crowding others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take for the head of a request, for the TLS handshake, or to give a
    /// sign of life.
    pub head_time_max: Duration,
    /// How long an HTTP/1 client may keep a connection before it begins its next request.
    pub idle_max: Duration,
    /// Largest head of a request without its target, in bytes; 431 beyond.
    pub head_bytes_max: usize,
    /// How long a client may keep a request waiting for the next bytes of its body. An HTTP/2
    /// connection is asked for a sign of life as often.
    pub body_idle_max: Duration,
    /// Least speed of a body in bytes per second, judged over `body_idle_max` of waiting for it.
    pub body_rate_min: u64,
    /// Largest manifest taken in, in bytes; 413 beyond. More than
    /// [`oci_model::MANIFEST_BYTES_MAX`] counts as that, since clients refuse larger ones.
    pub manifest_bytes_max: usize,
    /// Requests that one HTTP/2 connection may have open.
    pub streams_max: u32,
    /// Requests of an HTTP/2 connection that its client may open and reset before they are
    /// looked at (CVE-2023-44487); the connection ends beyond.
    pub resets_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_time_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(120),
            head_bytes_max: 32 * 1024,
            body_idle_max: Duration::from_secs(60),
            body_rate_min: 512,
            manifest_bytes_max: MANIFEST_BYTES_MAX,
            streams_max: 128,
            resets_max: 20,
        }
    }
}
