//! Where the images are: behind the socket of a running node, or in the state directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use cluster_node::{
    ImageDocument, ImageRequest, NodeImages, NodeImagesError, PinRequest, PruneDocument,
    PruneRequest, PullRequest, RemovalDocument,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::commands::up::record::Lock;
use crate::exit::{Failure, Kind};

/// How long a blob stays that a push to the registry of this state directory used lately.
const DELAY_BESIDE_REGISTRY: Duration = Duration::from_secs(3600);

/// The images of one node.
pub(super) enum Place {
    /// A node that runs, and its socket.
    Daemon { client: reqwest::Client, socket: PathBuf },
    /// A state directory on which nothing runs, and nothing starts while the lock is held.
    Directory { images: Box<NodeImages>, _lock: Lock },
}

impl Place {
    /// Finds the node of a state directory.
    pub(super) async fn find(state_dir: &Path) -> Result<Self, Failure> {
        let socket = state_dir.join("node/kubelet.sock");
        let denied = |error: std::io::Error| {
            Failure::new(Kind::Environment, anyhow!("cannot use {}: {error}", state_dir.display()))
                .hint(
                    "the images of a node are root's: sudo shipway node …, or another --state-dir",
                )
        };
        match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => {
                let client = reqwest::Client::builder()
                    .unix_socket(socket.clone())
                    .build()
                    .context("cannot make a client for the node's socket")?;
                return Ok(Place::Daemon { client, socket });
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(denied(error));
            }
            // Nothing listens there.
            Err(_) => {}
        }
        if !state_dir.join("blobs").exists() {
            return Err(Failure::new(
                Kind::NotFound,
                anyhow!("there are no images in {}", state_dir.display()),
            )
            .hint("shipway up; or another --state-dir"));
        }
        let Some(lock) = Lock::take(state_dir).map_err(denied)? else {
            return Err(Failure::new(
                Kind::Environment,
                anyhow!("the machine on {} starts or ends now", state_dir.display()),
            )
            .hint("try again in a moment"));
        };
        let blobs = blob_store::BlobStore::open(state_dir.join("blobs"))
            .map_err(|error| Failure::new(Kind::Environment, error))?;
        let layers = layers::UnpackedLayers::open(&state_dir.join("layers"))
            .map_err(|error| Failure::new(Kind::Environment, error))?;
        let has_registry = state_dir.join("registry").exists();
        let delay = if has_registry { DELAY_BESIDE_REGISTRY } else { Duration::ZERO };
        let images = NodeImages::new(&state_dir.join("node"), blobs, layers, delay);
        Ok(Place::Directory { images: Box::new(images), _lock: lock })
    }

    /// All images.
    pub(super) async fn list(&self) -> Result<Vec<ImageDocument>, Failure> {
        match self {
            Place::Daemon { .. } => self.ask::<(), _>("", None).await,
            Place::Directory { images, .. } => images.list().map_err(failure),
        }
    }

    /// Removes a name or an image.
    pub(super) async fn remove(&self, request: &ImageRequest) -> Result<RemovalDocument, Failure> {
        match self {
            Place::Daemon { .. } => self.ask("/remove", Some(request)).await,
            Place::Directory { images, .. } => images.remove(request).map_err(failure),
        }
    }

    /// Removes unused images.
    pub(super) async fn prune(&self, request: PruneRequest) -> Result<PruneDocument, Failure> {
        match self {
            Place::Daemon { .. } => self.ask("/prune", Some(&request)).await,
            Place::Directory { images, .. } => images.prune(request).map_err(failure),
        }
    }

    /// Pins all of these images or none; returns their names.
    pub(super) async fn pin(&self, names: Vec<String>) -> Result<Vec<String>, Failure> {
        match self {
            Place::Daemon { .. } => self.ask("/pin", Some(&PinRequest { images: names })).await,
            Place::Directory { images, .. } => images.pin(&names).map_err(failure),
        }
    }

    /// Takes the pins of all of these images away or of none; returns the names that had one.
    pub(super) async fn unpin(&self, names: Vec<String>) -> Result<Vec<String>, Failure> {
        match self {
            Place::Daemon { .. } => self.ask("/unpin", Some(&PinRequest { images: names })).await,
            Place::Directory { images, .. } => images.unpin(&names).map_err(failure),
        }
    }

    /// Begins a pull; the answer comes line by line.
    pub(super) async fn pull(&self, request: &PullRequest) -> Result<reqwest::Response, Failure> {
        match self {
            Place::Daemon { .. } => self.send("/pull", Some(request)).await,
            Place::Directory { .. } => Err(Failure::new(
                Kind::Environment,
                anyhow!("no node runs that could pull {}", request.image),
            )
            .hint(format!(
                "shipway up; or shipway pull {} into the state directory",
                request.image
            ))),
        }
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: Option<&Q>,
    ) -> Result<A, Failure> {
        let answer = self.send(path, question).await?;
        let bytes = answer.bytes().await.context("the node's answer broke off")?;
        Ok(serde_json::from_slice(&bytes).context("the node's answer is not understood")?)
    }

    async fn send<Q: Serialize>(
        &self,
        path: &str,
        question: Option<&Q>,
    ) -> Result<reqwest::Response, Failure> {
        let Place::Daemon { client, socket } = self else {
            return Err(Failure::bug("a state directory has no socket"));
        };
        let url = format!("http://node/shipway/v1/images{path}");
        let request = match question {
            None => client.get(url),
            Some(question) => client
                .post(url)
                .header("content-type", "application/json")
                .body(serde_json::to_vec(question)?),
        };
        let answer = request.send().await.map_err(|error| {
            let text = format!("the node at {} does not answer", socket.display());
            Failure::new(Kind::Unreachable, anyhow::Error::from(error).context(text))
        })?;
        let kind = match answer.status().as_u16() {
            200 => return Ok(answer),
            404 => Kind::NotFound,
            400 => Kind::Usage,
            _ => Kind::Failed,
        };
        let refused = answer.status().as_u16() == 409;
        let text = answer.text().await.unwrap_or_default();
        let failure = Failure::new(kind, anyhow!(text));
        Err(if refused { failure.hint(FORCE_HINT) } else { failure })
    }
}

/// What to try when an image is in use or pinned.
const FORCE_HINT: &str = "remove the pod or the pin first (shipway node unpin), or use --force";

fn failure(error: NodeImagesError) -> Failure {
    let (kind, hint) = match &error {
        NodeImagesError::Absent(_) => (Kind::NotFound, None),
        NodeImagesError::Ambiguous(_) => (Kind::Usage, None),
        NodeImagesError::Refused(_) => (Kind::Failed, Some(FORCE_HINT)),
        NodeImagesError::Failed(_) => (Kind::Failed, None),
    };
    let failure = Failure::new(kind, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
