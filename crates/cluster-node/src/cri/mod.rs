//! CRI v1 ImageService on a unix socket: crictl and a kubelet list, pull, inspect and remove the
//! images of this node (kubelet-images.md 11).
//!
//! Data flow: socket → [`grpc`] frames → [`service`] → [`catalogue`] over the content store.

mod auth;
mod catalogue;
#[cfg(test)]
mod fixture;
mod grpc;
mod message;
mod service;
mod socket;

use std::path::PathBuf;

use tokio::net::UnixListener;

pub(crate) use self::service::Service;
pub(crate) use self::socket::bind;
use crate::tasks::StopSignal;

/// Whether and where a node serves its images by CRI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriOptions {
    /// Path of the unix socket; `None` serves nothing.
    pub socket: Option<PathBuf>,
}

/// Answers calls until the node stops.
pub(crate) async fn run(listener: UnixListener, service: Service, stop: StopSignal) {
    let serving = axum::serve(listener, service::router(service));
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "CRI socket ended");
            }
        }
        () = stop.stopped() => {}
    }
}
