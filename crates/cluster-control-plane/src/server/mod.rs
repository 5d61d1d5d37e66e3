//! The HTTPS server: connections in, requests through authentication and authorization to the
//! generic verbs, answers out in the format the client takes.

mod accept;
mod answer;
mod body;
mod connection;
mod dispatch;
mod duplicates;
mod node_proxy;
mod objects;
mod query;
mod route;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use connection::TlsError;
pub(crate) use connection::{Listener, tls_config};

use crate::api::Api;
use crate::auth::tokens::Tokens;

/// Requests answered at once, watches and streams aside; more get 429.
const REQUESTS_MAX: usize = 400;

/// Watches, log and exec streams at once; more get 429.
const STREAMS_MAX: usize = 2000;

/// What every request needs.
pub(crate) struct Server {
    pub(crate) api: Arc<Api>,
    pub(crate) tokens: Tokens,
    /// The node agent's socket, for logs, exec and attach.
    pub(crate) node_socket: PathBuf,
    /// `host:port` that discovery tells clients.
    pub(crate) advertised: String,
    /// Cancelled when the server stops: ends watches and streams.
    pub(crate) stop: CancellationToken,
    requests: Semaphore,
    streams: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn new(
        api: Arc<Api>,
        tokens: Tokens,
        node_socket: PathBuf,
        advertised: String,
        stop: CancellationToken,
    ) -> Self {
        Self {
            api,
            tokens,
            node_socket,
            advertised,
            stop,
            requests: Semaphore::new(REQUESTS_MAX),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}
