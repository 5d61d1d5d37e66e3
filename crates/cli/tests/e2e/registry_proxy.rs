//! The pull-through cache before a real registry, for the clients that people have: containerd by
//! `ns`, skopeo by path, podman by a mirror in registries.conf, our own client.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::{DebianRegistry, PASSWORD, USER, run, shipway};
use crate::own_registry::OwnRegistry;

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Setup {
    directory: tempfile::TempDir,
    upstream: Option<DebianRegistry>,
    upstream_address: String,
    cache: String,
    _server: OwnRegistry,
}

impl Setup {
    /// A cache in front of Debian's registry, which asks for a password and has the image
    /// `apps/box:1`.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let upstream = DebianRegistry::start(USER, PASSWORD);
        let upstream_address = upstream.address.clone();
        let at = |name: &str| directory.path().join(name);
        let credentials = format!("{USER}:{PASSWORD}");
        push_box(&at("box"), &format!("{upstream_address}/apps/box:1"), &credentials);
        std::fs::write(at("password"), format!("{PASSWORD}\n")).expect("a file");
        let config = format!(
            "[[registry.proxy]]\nupstream = \"{upstream_address}\"\nalias = \"debian\"\n\
             prefix = \"cache\"\nurls = [\"http://{upstream_address}\"]\ntag-life = \"0s\"\n\
             [[registry.proxy.credentials]]\nusername = \"{USER}\"\n\
             password-file = {:?}\n",
            at("password")
        );
        let file = at("shipway.toml");
        std::fs::write(&file, config).expect("a file");
        let flags = ["--config", file.to_str().expect("UTF-8")];
        let server = OwnRegistry::start(&at("state"), &flags);
        let cache = server.address.clone();
        Self { directory, upstream: Some(upstream), upstream_address, cache, _server: server }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn skopeo_digest(&self) -> String {
        let image = format!("docker://{}/cache/debian/apps/box:1", self.cache);
        let arguments = ["inspect", "--tls-verify=false", "--format={{.Digest}}", &image];
        run(Command::new("skopeo").args(arguments), "").ok().trim().to_owned()
    }
}

/// Builds a small image and pushes it.
fn push_box(context: &Path, name: &str, credentials: &str) {
    std::fs::create_dir_all(context).expect("a directory");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY file /file\n").expect("a file");
    let content: Vec<u8> = (0_u32..200_000).flat_map(u32::to_le_bytes).collect();
    std::fs::write(context.join("file"), content).expect("a file");
    let output = context.join("image.tar");
    let destination = format!("type=oci,dest={}", output.display());
    let state = context.join("state");
    let mut build = shipway();
    build.arg("--state-dir").arg(&state).args(["build", "--progress=plain", "-o", &destination]);
    run(build.arg(context), "").ok();
    let from = format!("oci-archive:{}", output.display());
    let to = format!("docker://{name}");
    let copy = ["copy", "--dest-tls-verify=false", "--dest-creds", credentials, &from, &to];
    run(Command::new("skopeo").args(copy), "").ok();
}

/// containerd of our own, with its hosts in `certs.d`.
fn containerd(directory: &Path) -> (Running, PathBuf) {
    let socket = directory.join("containerd.sock");
    let config = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/run\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{1}\"\n[ttrpc]\naddress = \"{1}.ttrpc\"\n",
        directory.display(),
        socket.display()
    );
    std::fs::create_dir_all(directory).expect("a directory");
    std::fs::write(directory.join("config.toml"), config).expect("a file");
    let log = std::fs::File::create(directory.join("log")).expect("a file");
    let child = Command::new("containerd")
        .arg("--config")
        .arg(directory.join("config.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd is needed");
    let running = Running(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "containerd did not start");
        std::thread::yield_now();
    }
    (running, socket)
}

#[test]
fn containerd_pulls_through_ns_also_when_the_upstream_is_down() {
    let mut setup = Setup::new();
    let (upstream, cache) = (setup.upstream_address.clone(), setup.cache.clone());
    // The registry's own address leads nowhere: everything has to come through the cache.
    let hosts = setup.at("certs.d").join(&upstream);
    std::fs::create_dir_all(&hosts).expect("a directory");
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{cache}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(hosts.join("hosts.toml"), text).expect("a file");
    let (_containerd, socket) = containerd(&setup.at("containerd"));
    let certs = setup.at("certs.d");
    let pull = |namespace: &str| {
        let image = format!("{upstream}/apps/box:1");
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(&socket).args(["--namespace", namespace]);
        // Fetched only: what is under test needs no snapshots.
        ctr.args(["content", "fetch", "--hosts-dir"]).arg(&certs).arg(image);
        run(&mut ctr, "").ok()
    };
    pull("first");
    drop(setup.upstream.take());
    pull("second");
}

#[test]
fn skopeo_podman_and_shipway_pull_by_path_also_when_the_upstream_is_down() {
    let mut setup = Setup::new();
    let digest = setup.skopeo_digest();
    let mirrors = setup.at("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"{0}\"\nlocation = \"127.0.0.1:1\"\n\
         [[registry.mirror]]\nlocation = \"{1}/cache/debian\"\ninsecure = true\n",
        setup.upstream_address, setup.cache
    );
    std::fs::File::create(&mirrors)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("a file");
    for round in ["up", "down"] {
        let layout = format!("dir:{}", setup.at(round).display());
        let from = format!("docker://{}/cache/debian/apps/box:1", setup.cache);
        let copy = ["copy", "--src-tls-verify=false", &from, &layout];
        run(Command::new("skopeo").args(copy), "").ok();
        let storage = setup.at(&format!("podman-{round}"));
        let mut podman = Command::new("podman");
        podman
            .arg(format!("--root={}/root", storage.display()))
            .arg(format!("--runroot={}/run", storage.display()))
            .args(["--storage-driver=vfs", "pull", "--quiet"])
            .arg(format!("{}/apps/box:1", setup.upstream_address))
            .env("CONTAINERS_REGISTRIES_CONF", &mirrors)
            .env("HOME", setup.directory.path());
        run(&mut podman, "").ok();
        let mut ours = shipway();
        ours.arg("--state-dir").arg(setup.at(&format!("state-{round}")));
        run(ours.args(["pull", &from["docker://".len()..]]), "").ok();
        assert_eq!(setup.skopeo_digest(), digest);
        drop(setup.upstream.take());
    }
    let mut push = Command::new("skopeo");
    let target = format!("docker://{}/cache/debian/apps/box:2", setup.cache);
    let from = format!("dir:{}", setup.at("up").display());
    let refused = run(push.args(["copy", "--dest-tls-verify=false", &from, &target]), "").refused();
    assert!(refused.contains("is a cache of"), "{refused}");
}
