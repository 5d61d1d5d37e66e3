//! Our registry in this process, behind a door that notes what clients ask for.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use blob_store::BlobStore;
use oci_model::{Digest, Manifest};
use registry_client::{Client, ClientOptions};
use registry_server::{Anonymous, RegistryOptions, RegistryServer, Running};

use crate::fixture::reference;

/// A registry.
pub(super) struct Registry {
    runtime: tokio::runtime::Runtime,
    _running: Running,
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    _place: tempfile::TempDir,
}

impl Registry {
    pub(super) fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let place = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(place.path().join("blobs")).expect("a store");
        let mut options = RegistryOptions::new(place.path().join("registry"), store);
        options.anonymous = Anonymous::Push;
        let running = runtime.block_on(RegistryServer::bind(options)).expect("a registry");
        let door = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = door.local_addr().expect("bound").to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (behind, noted) = (running.address(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for client in door.incoming().flatten() {
                let server = TcpStream::connect(behind).expect("the registry");
                pass(client, server, Arc::clone(&noted));
            }
        });
        Self { runtime, _running: running, address, asked, _place: place }
    }

    /// A name in this registry.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The blobs that were fetched since the last call.
    pub(super) fn fetched(&self) -> Vec<Digest> {
        let asked = std::mem::take(&mut *self.asked.lock().expect("requests"));
        let blob = |line: &String| {
            let path = line.strip_prefix("GET ")?.split(' ').next()?;
            path.split_once("/blobs/")?.1.parse().ok()
        };
        asked.iter().filter_map(blob).collect()
    }

    /// The layers that a manifest names, and its config; `None` if there is none.
    pub(super) fn image(&self, name: &str) -> Option<(Digest, Vec<Digest>)> {
        let client = Client::new(ClientOptions::default()).expect("a client");
        let name = reference(name);
        let manifest = self.runtime.block_on(client.fetch_manifest(&name, &[])).ok()?;
        let Manifest::Image(image) = manifest.parsed() else { return None };
        let layers = image.layers.iter().map(|layer| layer.digest).collect();
        Some((image.config.digest, layers))
    }

    /// The config of a manifest as text: the document of a cache.
    pub(super) fn document(&self, name: &str) -> String {
        let client = Client::new(ClientOptions::default()).expect("a client");
        let name = reference(name);
        let document = self.runtime.block_on(async {
            let manifest = client.fetch_manifest(&name, &[]).await.expect("a manifest");
            let Manifest::Image(image) = manifest.parsed() else { panic!("an index") };
            client.fetch_small_blob(&name, &[], &image.config).await.expect("a document")
        });
        String::from_utf8(document).expect("JSON")
    }
}

/// Copies both ways until either side ends, and notes the first lines of requests.
fn pass(client: TcpStream, server: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let (mut from, mut to) =
        (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            // A request without a body comes in one piece.
            let text = String::from_utf8_lossy(&buffer[..read.min(2048)]).into_owned();
            if let Some(line) = text.lines().next().filter(|line| line.ends_with("HTTP/1.1")) {
                asked.lock().expect("requests").push(line.to_owned());
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
