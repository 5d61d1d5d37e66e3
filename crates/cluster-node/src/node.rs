//! Starts a node and keeps its parts together.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::options::Options;
use crate::registration::{self, Machine, Registration};
use crate::tasks::Tasks;

/// How long the API server may take to answer the first registration.
const REGISTRATION_TIME_MAX: Duration = Duration::from_secs(30);

/// The node agent; [`Node::start`] is the way in.
#[derive(Debug)]
pub struct Node;

/// A node that runs; containers go on when it is shut down or killed.
#[derive(Debug)]
pub struct Running {
    tasks: Tasks,
    socket: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A directory of the node cannot be made.
    #[error("cannot prepare {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The API server does not take the Node object.
    #[error("cannot register node {name}")]
    Register {
        /// The node.
        name: String,
        /// The last answer.
        source: Box<kube::Error>,
    },
}

impl Node {
    /// Starts the agent and registers the node.
    ///
    /// # Errors
    /// See [`NodeError`]; nothing runs then.
    pub async fn start(options: Options) -> Result<Running, NodeError> {
        let directory = options.directory.clone();
        let prepare = |path: PathBuf| {
            std::fs::create_dir_all(&path)
                .map_err(|source| NodeError::Directory { path: path.clone(), source })
        };
        for name in ["pods", "containers", "logs"] {
            prepare(directory.join(name))?;
        }
        let registration = Registration {
            name: options.name.clone(),
            address: options.address.unwrap_or_else(registration::own_address),
            version: options.kubernetes_version.clone(),
            machine: Machine::read(&directory),
        };
        let (_images_sender, images) = watch::channel(Vec::new());
        let node = register(&options, &registration).await?;
        let mut tasks = Tasks::new();
        tasks.spawn(registration::keep_status(options.client.clone(), registration, images));
        tasks.spawn(registration::keep_lease(
            options.client.clone(),
            options.name.clone(),
            node.metadata.uid,
        ));
        Ok(Running { tasks, socket: directory.join("kubelet.sock") })
    }
}

async fn register(
    options: &Options,
    registration: &Registration,
) -> Result<k8s_openapi::api::core::v1::Node, NodeError> {
    let deadline = tokio::time::Instant::now() + REGISTRATION_TIME_MAX;
    loop {
        match registration::register(&options.client, registration, &[]).await {
            Ok(node) => return Ok(node),
            Err(source) if tokio::time::Instant::now() >= deadline => {
                return Err(NodeError::Register {
                    name: options.name.clone(),
                    source: Box::new(source),
                });
            }
            Err(error) => {
                tracing::debug!(node = options.name, %error, "registration is tried again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Running {
    /// The unix socket of the kubelet API.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Stops the agent; pods and their containers go on.
    pub async fn shutdown(self) {
        self.tasks.finish().await;
    }
}
