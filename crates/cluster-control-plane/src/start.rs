//! Starting and stopping the control plane.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admission::Switches;
use crate::api::Api;
use crate::auth::kubeconfig;
use crate::auth::pki::{Pki, PkiError};
use crate::auth::tokens::{BadSigningKey, Tokens};
use crate::client::Client;
use crate::controllers::{self, ControllerOptions};
use crate::error::ApiError;
use crate::identity::{MASTERS, User};
use crate::retention;
use crate::server::{Listener, Server, TlsError, tls_config};
use crate::storage::{StorageError, Store};

/// How long a process that was killed may take to let go of the database, and how often we look.
const PREDECESSOR_TIME_MAX: Duration = Duration::from_secs(2);
const PREDECESSOR_LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a control plane needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state directory; we use `cluster/` below it and name `volumes/` to the controllers.
    pub state_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further host names and addresses in the server certificate.
    pub hosts: Vec<String>,
    /// Name of the one node.
    pub node_name: String,
    /// The node agent's unix socket, for logs, exec and attach.
    pub node_socket: PathBuf,
    /// Optional admission steps.
    pub switches: Switches,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be made.
    #[error("cannot make {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Keys or certificates cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The token key cannot be used.
    #[error(transparent)]
    SigningKey(#[from] BadSigningKey),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The first objects cannot be written.
    #[error("cannot create the cluster's first objects")]
    Bootstrap(#[source] ApiError),
}

/// The control plane: API server and controllers in this process.
pub struct ControlPlane;

/// A started control plane. Dropping it stops it without waiting.
pub struct Running {
    /// Where the API is served.
    pub address: SocketAddr,
    /// Administrator's kubeconfig (mode 0600).
    pub kubeconfig: PathBuf,
    /// Node agent's kubeconfig (mode 0600).
    pub node_kubeconfig: PathBuf,
    /// Certificate of the private authority, PEM.
    pub ca_pem: String,
    client: Client,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Opens the state, makes keys on first use, writes the kubeconfig files, creates the cluster's
    /// first objects and serves.
    ///
    /// # Errors
    /// When another process uses the state, the address is taken, or a file cannot be used.
    pub async fn start(options: Options) -> Result<Running, StartError> {
        let cluster = options.state_dir.join("cluster");
        make_directory(&cluster)?;
        let store = open_store(&cluster.join("state.redb")).await?;
        let hosts = server_hosts(&options);
        let pki = Pki::load_or_create(
            &cluster.join("pki"),
            &hosts,
            &options.node_name,
            Timestamp::now(),
        )?;
        let listener = Listener::bind(options.listen)
            .await
            .map_err(|source| StartError::Listen { address: options.listen, source })?;
        let address = listener.address();
        let advertised = advertised(address);
        let url = format!("https://{advertised}");
        let (admin_file, node_file) = (cluster.join("kubeconfig"), cluster.join("node.kubeconfig"));
        kubeconfig::write(&admin_file, &url, &pki.ca_pem, &pki.admin)?;
        kubeconfig::write(&node_file, &url, &pki.ca_pem, &pki.node)?;

        let stop = CancellationToken::new();
        let api = Api::new(store, options.switches);
        let tokens = Tokens::new(&pki.service_account_key_pem)?;
        let tls = tls_config(&pki)?;
        let server = Arc::new(Server::new(
            Arc::clone(&api),
            tokens,
            options.node_socket.clone(),
            advertised,
            stop.clone(),
        ));
        let user = User::authenticated("system:kube-controller-manager", &[MASTERS]);
        let client = Client::new(Arc::clone(&api), user, "kube-controller-manager");
        let controllers = ControllerOptions {
            node_name: options.node_name.clone(),
            ca_certificate_pem: pki.ca_pem.clone(),
            volumes_dir: options.state_dir.join("volumes"),
        };
        controllers::bootstrap(&client, &controllers).await.map_err(StartError::Bootstrap)?;
        let tasks = vec![
            tokio::spawn(listener.serve(server, tls)),
            tokio::spawn(controllers::run(client.clone(), controllers, stop.clone())),
            tokio::spawn(retention::run(client.clone(), stop.clone())),
        ];
        tracing::info!(%address, "API server ready");
        Ok(Running {
            address,
            kubeconfig: admin_file,
            node_kubeconfig: node_file,
            ca_pem: pki.ca_pem,
            client,
            stop,
            tasks,
        })
    }
}

impl Running {
    /// A client with every right, for the process that embeds the control plane.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends streams and controllers, finishes running requests and closes the port.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::warn!(error = %error, "a control plane task failed");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Opens the store; a predecessor that was just killed may hold the file for a moment longer.
async fn open_store(path: &Path) -> Result<Store, StorageError> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_TIME_MAX;
    loop {
        match Store::open(path) {
            Err(StorageError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PREDECESSOR_LOOK_EVERY).await;
            }
            opened => return opened,
        }
    }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::Directory { path: path.to_owned(), source })
}

/// Names and addresses clients may use for this server.
fn server_hosts(options: &Options) -> Vec<String> {
    let fixed = [
        "127.0.0.1",
        "::1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut hosts: Vec<String> = fixed.iter().map(|host| (*host).to_owned()).collect();
    let listened = options.listen.ip();
    let own = (!listened.is_unspecified()).then(|| listened.to_string());
    let node = Some(options.node_name.clone());
    for host in own.into_iter().chain(node).chain(options.hosts.iter().cloned()) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// `host:port` for clients on this machine.
fn advertised(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    }
}
