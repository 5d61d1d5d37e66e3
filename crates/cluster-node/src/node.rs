//! Starts a node and keeps its parts together.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::Runtime;
use jiff::Timestamp;
use oci_model::Reference;
use tokio::sync::watch;

use crate::directories::Directories;
use crate::dispatcher::{self, Roster};
use crate::events::{self, Note, Recorder};
use crate::images::access::{CredentialSources, NodeFiles};
use crate::images::account::{Accounts, ApiAccounts};
use crate::images::collection::Collector;
use crate::images::ensure::{Images, ImagesParts};
use crate::images::failure::NodePullError;
use crate::images::inventory::{BLOB_DELAY, Inventory};
use crate::images::kept::Keeper;
use crate::images::notes::ImageNotes;
use crate::images::providers::{Providers, ProvidersError};
use crate::images::records::PullRecords;
use crate::images::registry::RegistryPuller;
use crate::images::registry::downloads::Downloads;
use crate::images::store::ImageStore;
use crate::images::{executor, monotonic};
use crate::options::Options;
use crate::process::downward::NodeFacts;
use crate::registration::{self, Machine, NodeReport, Registration};
use crate::shared::Shared;
use crate::tasks::Tasks;
use crate::worker::secrets::SecretWatches;
use crate::{cri, logs, serve};

/// How long the API server may take to answer the first registration.
const REGISTRATION_TIME_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at the images of the store, as in the kubelet.
const SUMMARY_PERIOD: Duration = Duration::from_secs(30);

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
    /// A directory or file of the node cannot be made.
    #[error("cannot prepare {path}")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The container runtime cannot use its directory.
    #[error("cannot open the container runtime")]
    Runtime(#[from] container_runtime::OpenError),
    /// Registries cannot be spoken to.
    #[error("cannot make the registry client")]
    Registry(#[from] registry_client::ClientOptionsError),
    /// Exec credential providers are not configured rightly.
    #[error("cannot use the credential providers")]
    Providers(#[from] ProvidersError),
    /// The limits of pulls contradict each other.
    #[error(transparent)]
    PullLimits(#[from] crate::PullLimitsError),
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
    /// Starts the agent: registers the node, finds running containers again, serves the kubelet
    /// API on `kubelet.sock` in the node's directory.
    ///
    /// The program must call [`container_runtime::reexec`] first thing in `main`.
    ///
    /// # Errors
    /// See [`NodeError`]; nothing runs then.
    pub async fn start(options: Options) -> Result<Running, NodeError> {
        options.pull_limits.validate()?;
        let directory = options.directory.clone();
        for name in ["pods", "logs"] {
            prepare(&directory.join(name))?;
        }
        let directories = Directories::new(&directory);
        let runtime = Runtime::open(directories.runtime())?;
        let records = PullRecords::open(&directory).map_err(|source| NodeError::Directory {
            path: directory.join("image_manager"),
            source,
        })?;
        let socket = directories.socket();
        let listener = serve::bind(&socket)
            .map_err(|source| NodeError::Directory { path: socket.clone(), source })?;
        let cri_socket = match &options.cri.socket {
            Some(path) => Some(
                cri::bind(path)
                    .map_err(|source| NodeError::Directory { path: path.clone(), source })?,
            ),
            None => None,
        };
        let registration = Registration {
            name: options.name.clone(),
            address: options.address.unwrap_or_else(registration::own_address),
            version: options.kubernetes_version.clone(),
            machine: Machine::read(&directory),
            images_max: options.collection.status_images_max,
        };
        let mut tasks = Tasks::new();
        let registry = registry_client::Client::new(
            options.registry_access.client_options(&options.insecure_registries),
        )?;
        let images = images(&options, records, registry, &mut tasks)?;
        let inventory =
            Arc::new(Inventory::new(images.store.clone(), directories.clone(), BLOB_DELAY));
        let node = register(&options, &registration).await?;

        let (recorder, queue) = Recorder::new();
        let shared = Arc::new(Shared {
            client: options.client.clone(),
            node_name: options.name.clone(),
            address: registration.address,
            api_server: options.api_server,
            directories,
            volumes_directory: options.volumes_directory.clone(),
            volume_refresh: options.volume_refresh,
            images: Arc::clone(&images),
            inventory: Arc::clone(&inventory),
            runtime,
            recorder: recorder.clone(),
            secret_watches: SecretWatches::default(),
            facts: NodeFacts {
                ip: registration.address,
                cpu_milli: u64::from(registration.machine.cpus) * 1000,
                memory_bytes: registration.machine.memory_bytes,
                disk_bytes: registration.machine.disk_bytes,
            },
        });
        for (reason, message) in
            [("Starting", "Starting kubelet."), ("NodeReady", "Node status is now: NodeReady")]
        {
            recorder.send(Note {
                object: events::node_reference(&options.name),
                warning: false,
                reason: reason.to_owned(),
                message: message.to_owned(),
                at: Timestamp::now(),
            });
        }
        let (roster_sender, roster) = watch::channel(Arc::new(Roster::new()));
        let client = options.client.clone();
        tasks.spawn(events::run(client.clone(), options.name.clone(), queue));
        let known = Arc::clone(&images);
        let collector = Collector {
            removed: Box::new(move |roots, began| {
                known.records.forget_absent(|root| roots.contains(root), began);
                known.refresh_summaries();
            }),
            inventory: Arc::clone(&shared.inventory),
            recorder: recorder.clone(),
            node_name: options.name.clone(),
            options: options.collection.clone(),
            began: Timestamp::now(),
            pressure: watch::Sender::new(false),
        };
        tasks.spawn(registration::keep_status(
            client.clone(),
            registration,
            images.subscribe(),
            collector.pressure.subscribe(),
        ));
        tasks.spawn(collector.run());
        if let Some(file) = options.collection.kept.file.clone() {
            let puller = Arc::clone(&images);
            let keeper = Keeper {
                fetch: Box::new(move |reference| {
                    let images = Arc::clone(&puller);
                    Box::pin(async move {
                        let text = |error: NodePullError| error.text;
                        let auths = images.credentials_of_node(&reference).await.map_err(text)?;
                        let pulled = images.pull_for_node(&reference, &auths, &|_| {}).await;
                        pulled.map(drop).map_err(text)
                    })
                }),
                inventory: Arc::clone(&shared.inventory),
                recorder: recorder.clone(),
                node_name: options.name.clone(),
                file,
                refresh: options.collection.kept.refresh,
            };
            tasks.spawn(keeper.run());
        }
        tasks.spawn(registration::keep_lease(client, options.name.clone(), node.metadata.uid));
        tasks.spawn(keep_summaries(Arc::clone(&images)));
        tasks.spawn(logs::rotation::run(Arc::clone(&shared)));
        tasks.spawn(crate::volumes::reclaim::run(Arc::clone(&shared)));
        let pods = Arc::clone(&shared);
        tasks.spawn_stoppable(|stop| dispatcher::run(pods, roster_sender, stop));
        if let Some(listener) = cri_socket {
            let service = cri::Service::new(images, inventory);
            tasks.spawn_stoppable(|stop| cri::run(listener, service, stop));
        }
        tasks.spawn_stoppable(|stop| serve::run(listener, shared, roster, stop));
        Ok(Running { tasks, socket })
    }
}

fn prepare(path: &Path) -> Result<(), NodeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| NodeError::Directory { path: path.to_owned(), source })
}

/// The images of the node; the executor image is made beside the start.
fn images(
    options: &Options,
    records: PullRecords,
    registry: registry_client::Client,
    tasks: &mut Tasks,
) -> Result<Arc<Images>, NodeError> {
    let notes = ImageNotes::open(Directories::new(&options.directory).image_notes());
    let store = ImageStore::new(options.blobs.clone(), options.layers.clone()).with_notes(notes);
    let accounts: Arc<dyn Accounts> = Arc::new(ApiAccounts { client: options.client.clone() });
    let providers = match &options.credentials.exec {
        Some(exec) => Some(Providers::open(exec.clone(), Arc::clone(&accounts))?),
        None => None,
    };
    let find = |image: &str| {
        let reference: Reference = image.parse().ok()?;
        Some(store.find(&reference).ok()??.root.to_string())
    };
    records.settle(find, Timestamp::now());
    let (preloaded_sender, preloaded) = watch::channel(false);
    let clock = monotonic();
    let downloads = Downloads::new(
        registry.clone(),
        options.blobs.clone(),
        options.layers.clone(),
        Arc::clone(&clock),
    );
    let images = Arc::new(Images::new(ImagesParts {
        store: store.clone(),
        records,
        puller: Box::new(RegistryPuller::new(registry.clone(), options.blobs.clone(), downloads)),
        mirrors: options.mirrors.clone(),
        verification: options.verification.clone(),
        credentials: CredentialSources {
            files: NodeFiles::new(options.credential_files.clone(), options.credential_files_cache),
            providers,
            clouds: options.credentials.clouds.clone(),
            accounts,
        },
        preloaded,
        limits: options.pull_limits.clone(),
        clock,
    }));
    let (program, record) =
        (options.executor_program.clone(), options.directory.join(executor::RECORD));
    let made = Arc::clone(&images);
    tasks.spawn(async move {
        let work = tokio::task::spawn_blocking(move || {
            if let (Some(program), Ok(reference)) = (program, crate::EXECUTOR_IMAGE.parse())
                && let Err(error) = executor::prepare(&store, &reference, &program, &record)
            {
                tracing::warn!(%error, "no executor image");
            }
            made.refresh_summaries();
        });
        if let Err(error) = work.await {
            tracing::error!(%error, "making the executor image panicked");
        }
        preloaded_sender.send_replace(true);
        // Whoever asks later must find the answer.
        preloaded_sender.closed().await;
    });
    Ok(images)
}

/// Finds images that other programs, such as the builder, have put into the store.
async fn keep_summaries(images: Arc<Images>) {
    loop {
        tokio::time::sleep(SUMMARY_PERIOD).await;
        let images = Arc::clone(&images);
        let look = tokio::task::spawn_blocking(move || images.refresh_summaries()).await;
        if let Err(error) = look {
            tracing::error!(%error, "looking at the images panicked");
        }
    }
}

async fn register(
    options: &Options,
    registration: &Registration,
) -> Result<k8s_openapi::api::core::v1::Node, NodeError> {
    let deadline = tokio::time::Instant::now() + REGISTRATION_TIME_MAX;
    loop {
        match registration::register(&options.client, registration, &NodeReport::default()).await {
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
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops the agent; pods and their containers go on.
    pub async fn shutdown(self) {
        self.tasks.finish().await;
    }
}
