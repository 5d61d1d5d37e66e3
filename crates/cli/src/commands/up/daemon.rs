//! The daemon: registry, control plane and node, wired and kept until a signal comes.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use blob_store::BlobStore;
use cluster_control_plane::ControlPlane;
use cluster_node::{Node, RegistryAccess, executor_mirror};
use image_policy::ImageMirror;
use registry_server::{Anonymous, RegistryOptions, RegistryServer};

use super::record::{Lock, NodeRecord, Record};
use super::{AnonymousAccess, UpArgs, already_running};
use crate::commands::down;
use crate::exit::{Failure, Kind};
use crate::output;
use crate::registries::{proxy_of_environment, roots_of_environment};

/// Set for a daemon that `shipway up` started in the background.
pub(super) const BACKGROUND_VARIABLE: &str = "SHIPWAY_BACKGROUND";

/// The user that is made for the registry at the first start.
const REGISTRY_USER: &str = "shipway";

/// Bytes of randomness in that user's password.
const PASSWORD_BYTES: usize = 24;

/// How often config map and secret volumes are brought up to date, as in the kubelet.
const VOLUME_REFRESH: Duration = Duration::from_secs(60);

/// What ends a daemon.
enum Stop {
    /// Ctrl-C in the foreground: containers end too.
    Down,
    /// SIGTERM: containers go on, the next start finds them.
    Leave,
}

/// Runs until a signal comes.
pub(super) async fn run(args: UpArgs, state_dir: &Path) -> Result<ExitCode, Failure> {
    let in_background = std::env::var_os(BACKGROUND_VARIABLE).is_some();
    if in_background {
        // Its own session: the terminal's signals are not for it. It fails only for a session
        // leader, which a freshly started process is not.
        rustix::process::setsid().context("cannot leave the terminal's session")?;
    }
    let Some(lock) = Lock::take_patiently(state_dir).context("cannot lock the state directory")?
    else {
        return Err(already_running(state_dir));
    };
    // Held until the process is gone, not until this function is: blocking work may still write
    // below the state directory while the runtime winds down.
    std::mem::forget(lock);
    let blobs = BlobStore::open(state_dir.join("blobs")).context("cannot open the blob store")?;
    let registry = start_registry(&args, state_dir, blobs.clone()).await?;
    let node_name = args.node_name.clone().unwrap_or_else(host_name);
    let node_dir = state_dir.join("node");
    let control_plane = ControlPlane::start(cluster_control_plane::Options {
        state_dir: state_dir.to_path_buf(),
        listen: args.api_address,
        hosts: Vec::new(),
        node_name: node_name.clone(),
        node_socket: node_dir.join("kubelet.sock"),
        switches: args.admission.switches(),
    })
    .await
    .map_err(|error| Failure::new(Kind::Environment, error))?;
    let node = start_node(&args, state_dir, &node_name, &control_plane, blobs).await?;
    let record = Record {
        pid: std::process::id(),
        api_address: control_plane.address.to_string(),
        registry_address: registry.address().to_string(),
        kubeconfig: control_plane.kubeconfig.clone(),
        node_name,
        registry_user: REGISTRY_USER.to_owned(),
        registry_password_file: password_file(state_dir),
        node: node_record(&args)?,
    };
    record.write(state_dir).context("cannot write the record of this machine")?;
    if in_background {
        output::line(&serde_json::to_string(&record)?);
    } else {
        super::announce(&record, state_dir, args.output)?;
    }

    let stop = wait_for_signal(in_background).await?;
    node.shutdown().await;
    control_plane.shutdown().await;
    registry.shutdown().await;
    if matches!(stop, Stop::Down) {
        down::stop_containers(state_dir)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn start_registry(
    args: &UpArgs,
    state_dir: &Path,
    blobs: BlobStore,
) -> Result<registry_server::Running, Failure> {
    let directory = state_dir.join("registry");
    let users = directory.join("htpasswd");
    if !users.exists() {
        make_first_user(state_dir, &users)?;
    }
    let mut options = RegistryOptions::new(&directory, blobs);
    options.address = args.registry_address;
    options.users = Some(users);
    options.anonymous = match args.registry_anonymous {
        AnonymousAccess::None => Anonymous::Nothing,
        AnonymousAccess::Pull => Anonymous::Pull,
        AnonymousAccess::Push => Anonymous::Push,
    };
    if let Some(path) = &args.config {
        options.proxy = crate::commands::registry::proxied_registries(path)?;
    }
    RegistryServer::bind(options).await.map_err(|error| Failure::new(Kind::Environment, error))
}

/// Makes the registry's first user with a random password, which only a file of root holds.
fn make_first_user(state_dir: &Path, users: &Path) -> Result<(), Failure> {
    let mut random = [0; PASSWORD_BYTES];
    getrandom::fill(&mut random).map_err(|error| anyhow!("no randomness: {error}"))?;
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = password_file(state_dir);
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(password.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    registry_server::add_user(users, REGISTRY_USER, &password)?;
    Ok(())
}

fn password_file(state_dir: &Path) -> PathBuf {
    state_dir.join("registry/first-user-password")
}

async fn start_node(
    args: &UpArgs,
    state_dir: &Path,
    name: &str,
    control_plane: &cluster_control_plane::Running,
    blobs: BlobStore,
) -> Result<cluster_node::Running, Failure> {
    let kubeconfig = kube::config::Kubeconfig::read_from(&control_plane.node_kubeconfig)
        .context("cannot read the node's kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .context("cannot use the node's kubeconfig")?;
    let client = crate::clusters::client(config).context("cannot make the node's client")?;
    let working_dir = std::env::current_dir().context("cannot find the working directory")?;
    let layers = layers::UnpackedLayers::open(&state_dir.join("layers"))
        .context("cannot open the store of unpacked layers")?;
    let running = Node::start(cluster_node::Options {
        name: name.to_owned(),
        directory: state_dir.join("node"),
        volumes_directory: state_dir.join("volumes"),
        client,
        api_server: Some(control_plane.address),
        address: None,
        kubernetes_version: cluster_control_plane::discovery::KUBERNETES_VERSION.to_owned(),
        blobs,
        layers,
        credential_files: credentials::SearchDirs {
            root_dir: args.kubelet_root_dir.clone(),
            working_dir,
            home: crate::globals::home_dir(),
            filesystem_root: args.credentials_root_dir.clone(),
        },
        credential_files_cache: args.node_credentials_cache,
        credentials: args.providers.options()?,
        mirrors: image_mirrors(args),
        insecure_registries: args.insecure_registries.clone(),
        registry_access: RegistryAccess {
            proxy: proxy_of_environment(),
            extra_roots_pem: roots_of_environment()?,
        },
        verification: args.verification.policy()?,
        executor_program: Some(std::env::current_exe().context("cannot find our own program")?),
        volume_refresh: VOLUME_REFRESH,
        collection: args.collection.options()?,
        cri: args.cri.options(&state_dir.join("node")),
        pull_limits: args.pulls.limits(),
    })
    .await
    .map_err(|error| Failure::new(Kind::Environment, error))?;
    Ok(running)
}

/// The rewrites of image names: those of the flags, then our own.
fn image_mirrors(args: &UpArgs) -> Vec<ImageMirror> {
    let mut mirrors = args.image_mirrors.clone();
    mirrors.push(executor_mirror());
    mirrors
}

/// Where the node looks for credentials, for those who explain it.
fn node_record(args: &UpArgs) -> Result<NodeRecord, Failure> {
    Ok(NodeRecord {
        root_dir: args.kubelet_root_dir.clone(),
        working_dir: std::env::current_dir().context("cannot find the working directory")?,
        home: crate::globals::home_dir(),
        filesystem_root: args.credentials_root_dir.clone(),
        insecure_registries: args.insecure_registries.clone(),
        mirrors: image_mirrors(args).into_iter().map(|mirror| (mirror.from, mirror.to)).collect(),
        credential_provider_config: args
            .providers
            .config()
            .map(std::path::absolute)
            .transpose()
            .context("cannot find the working directory")?,
        cloud_credentials: crate::cloud::giving(args.providers.clouds())
            .iter()
            .map(ToString::to_string)
            .collect(),
    })
}

/// The host's name as a DNS name.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() { "shipway".to_owned() } else { name }
}

async fn wait_for_signal(in_background: bool) -> Result<Stop, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv(), if !in_background => Ok(Stop::Down),
        _ = terminate.recv() => Ok(Stop::Leave),
    }
}
