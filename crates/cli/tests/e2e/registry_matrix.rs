//! skopeo, buildah, podman, containerd and our own client with our registry: push, list, pull by
//! tag and digest, index, sync, referrers, delete; over HTTP and TLS, with passwords and tokens.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use registry_server::{
    Anonymous, AuthScheme, RegistryOptions, RegistryServer, Running, TlsFiles, add_user,
};
use serde_json::{Value, json};

use crate::machine::{PASSWORD, Ran, USER, run, shipway};

/// A registry with one user, and a desk with the clients of that user.
struct Desk {
    dir: tempfile::TempDir,
    registry: String,
    tls: bool,
    _running: Running,
    _runtime: tokio::runtime::Runtime,
}

impl Desk {
    fn new(scheme: AuthScheme, tls: bool) -> Self {
        let dir =
            tempfile::Builder::new().prefix("shipway-matrix-").tempdir().expect("a directory");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let store = blob_store::BlobStore::open(dir.path().join("blobs")).expect("a store");
        let mut options = RegistryOptions::new(dir.path().join("registry"), store);
        let users = dir.path().join("htpasswd");
        add_user(&users, USER, PASSWORD).expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        options.scheme = scheme;
        if tls {
            std::fs::create_dir(dir.path().join("certs")).expect("a directory");
            let files = TlsFiles {
                certificate: dir.path().join("certs/registry.crt"),
                key: dir.path().join("registry.key"),
                clients: None,
            };
            make_certificate(&files);
            options.tls = Some(files);
        }
        let running = runtime.block_on(RegistryServer::bind(options)).expect("a registry");
        let registry = running.address().to_string();
        for name in ["home", "state"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let desk = Self { dir, registry, tls, _running: running, _runtime: runtime };
        desk.archive();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `image.tar`: an image as `docker save` writes it, with one small layer.
    fn archive(&self) {
        let place = self.path("image");
        std::fs::create_dir(&place).expect("a directory");
        std::fs::write(place.join("motd"), "hello\n".repeat(1000)).expect("a file");
        tar(&place, &["-cf", "layer.tar", "motd"]);
        let sum = run(Command::new("sha256sum").arg(place.join("layer.tar")), "").ok();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/motd"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", &sum[..64])]},
        });
        let saved = json!([{
            "Config": "config.json", "RepoTags": ["image:1"], "Layers": ["layer.tar"],
        }]);
        std::fs::write(place.join("config.json"), config.to_string()).expect("a file");
        std::fs::write(place.join("manifest.json"), saved.to_string()).expect("a file");
        tar(&place, &["-cf", "../image.tar", "manifest.json", "config.json", "layer.tar"]);
    }

    /// Runs a command of words; `REG` is the registry, `DIR` the desk's directory.
    fn call(&self, line: &str) -> Ran {
        self.call_with(line, &[])
    }

    fn call_with(&self, line: &str, more: &[&str]) -> Ran {
        let dir = self.dir.path().to_str().expect("UTF-8");
        let line = line.replace("REG", &self.registry).replace("DIR", dir);
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let mut command = if program == "shipway" { shipway() } else { Command::new(program) };
        command
            .args(words)
            .args(more)
            .env("HOME", self.path("home"))
            .env("SHIPWAY_STATE_DIR", self.path("state"))
            .env("TMPDIR", self.dir.path())
            .env_remove("DOCKER_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE");
        if self.tls {
            command.env("SSL_CERT_FILE", self.path("certs/registry.crt"));
        }
        run(&mut command, "")
    }

    /// A request with the user's password.
    fn curl(&self, method: &str, path: &str, more: &[&str]) -> Ran {
        let scheme = if self.tls { "https" } else { "http" };
        let trust = if self.tls { "--cacert DIR/certs/registry.crt" } else { "--http1.1" };
        let line = format!(
            "curl -sS --fail-with-body -u {USER}:{PASSWORD} {trust} -X {method} {scheme}://REG{path}"
        );
        self.call_with(&line, more)
    }

    fn skopeo(&self) {
        let both = self.flags("--src-tls-verify=false --dest-tls-verify=false", |side| {
            format!("--{side}-cert-dir DIR/certs")
        });
        let one = self.one_flag();
        let (creds, both_creds) = (
            format!("--creds {USER}:{PASSWORD}"),
            format!("--src-creds {USER}:{PASSWORD} --dest-creds {USER}:{PASSWORD}"),
        );
        let from = "docker-archive:DIR/image.tar";
        self.call(&format!("skopeo copy {both} {both_creds} {from} docker://REG/team/skopeo:1"))
            .ok();
        let to = "docker://REG/team/skopeo:2";
        let oci = format!("skopeo copy {both} {both_creds} --format oci");
        self.call(&format!("{oci} docker://REG/team/skopeo:1 {to}")).ok();
        let tags =
            self.call(&format!("skopeo list-tags {one} {creds} docker://REG/team/skopeo")).ok();
        let tags: Value = serde_json::from_str(&tags).expect("JSON");
        assert_eq!(tags["Tags"], json!(["1", "2"]));
        // Every tag of a repository into a directory, and from there into another repository.
        std::fs::create_dir(self.path("synced")).expect("a directory");
        let sync = format!("skopeo sync {both}");
        let source = "--src docker --dest dir REG/team/skopeo DIR/synced";
        self.call(&format!("{sync} --src-creds {USER}:{PASSWORD} {source}")).ok();
        let back = "--src dir --dest docker DIR/synced REG/copies";
        self.call(&format!("{sync} --dest-creds {USER}:{PASSWORD} {back}")).ok();
        let digest = |image: &str| {
            let line = format!("skopeo inspect {one} {creds} --format {{{{.Digest}}}} {image}");
            self.call(&line).ok().trim().to_owned()
        };
        assert_eq!(digest("docker://REG/copies/skopeo:2"), digest(to));
        let by_digest = format!("docker://REG/team/skopeo@{}", digest(to));
        assert_eq!(digest(&by_digest), digest(to));
        self.call(&format!("skopeo delete {one} {creds} docker://REG/copies/skopeo:2")).ok();
        let inspect = format!("skopeo inspect {one}");
        self.call(&format!("{inspect} {creds} docker://REG/copies/skopeo:2")).refused();
        let refused = self.call(&format!("{inspect} --no-creds {to}")).refused();
        assert!(refused.contains("unauthorized") || refused.contains("401"), "{refused}");
        self.call(&format!("{inspect} --creds {USER}:wrong {to}")).refused();
    }

    /// buildah and podman share a storage.
    fn podman(&self) {
        let flag = self.one_flag();
        let creds = format!("--creds {USER}:{PASSWORD}");
        let storage = "--root=DIR/storage --runroot=DIR/storage-run --storage-driver=vfs";
        let buildah = |line: &str| self.call(&format!("buildah {storage} {line}"));
        let podman = |line: &str| self.call(&format!("podman {storage} {line}"));
        let remote = format!("{flag} {creds}");
        buildah(&format!("pull {remote} REG/team/skopeo:1")).ok();
        buildah(&format!("push {remote} REG/team/skopeo:1 docker://REG/team/buildah:1")).ok();
        podman(&format!("pull {remote} REG/team/buildah:1")).ok();
        podman(&format!("push {remote} REG/team/buildah:1 REG/team/podman:1")).ok();
        if !self.tls {
            // Without a flag for certificates, and with credentials of a login only.
            let auth = "--authfile DIR/auth.json";
            let login = format!("login {auth} {flag} -u {USER} -p {PASSWORD} REG");
            podman(&login).ok();
            let found = podman(&format!("search {auth} {flag} --list-tags REG/team/podman")).ok();
            assert!(found.contains("team/podman"), "{found}");
        }
        podman("manifest create local-list").ok();
        podman(&format!("manifest add {remote} local-list docker://REG/team/podman:1")).ok();
        podman(&format!("manifest push {remote} --all local-list docker://REG/team/podman:list"))
            .ok();
        let index = self.curl("HEAD", "/v2/team/podman/manifests/list", &["-I"]).ok();
        let lines: Vec<String> = index.lines().map(str::to_ascii_lowercase).collect();
        assert!(lines.iter().any(|line| line.contains("manifest.list") || line.contains("index")));
        let digest = lines.iter().find_map(|line| line.strip_prefix("docker-content-digest: "));
        let digest = digest.expect("a digest").trim();
        podman("rmi --all --force").ok();
        podman(&format!("pull {remote} REG/team/podman@{digest}")).ok();
    }

    /// Our own client, and referrers, which only it can list.
    fn own(&self) {
        let login = format!("shipway login REG --username {USER} --password-stdin");
        let mut command = shipway();
        command
            .args(login.replace("REG", &self.registry).split(' ').skip(1))
            .env("HOME", self.path("home"))
            .env("SHIPWAY_STATE_DIR", self.path("state"));
        if self.tls {
            command.env("SSL_CERT_FILE", self.path("certs/registry.crt"));
        }
        run(&mut command, PASSWORD).ok();
        self.call("shipway copy docker-archive:DIR/image.tar REG/team/own:1").ok();
        self.call("shipway pull REG/team/own:1").ok();
        self.call("shipway push REG/team/own:1 REG/team/own:2").ok();
        assert_eq!(self.call("shipway tags REG/team/own").ok(), "1\n2\n");
        let about: Value =
            serde_json::from_str(&self.call("shipway inspect -o json REG/team/own:1").ok())
                .expect("JSON");
        let digest = about["digest"].as_str().expect("a digest").to_owned();
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let upload = format!("/v2/team/own/blobs/uploads/?digest={empty}");
        self.curl("POST", &upload, &["-d", "{}"]).ok();
        let nothing =
            json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2});
        let artifact = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.example.note",
            "config": nothing, "layers": [nothing],
            "subject": {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": 2,
            },
        });
        let header = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        let artifact = artifact.to_string();
        self.curl("PUT", "/v2/team/own/manifests/note", &["-H", header, "-d", &artifact]).ok();
        let referrers = self.call("shipway inspect --attestations REG/team/own:1").ok();
        assert!(referrers.contains("application/vnd.example.note"), "{referrers}");
        self.curl("DELETE", "/v2/team/own/manifests/note", &[]).ok();
        assert_eq!(self.call("shipway tags REG/team/own").ok(), "1\n2\n");
    }

    /// containerd with its own root, state and socket.
    fn containerd(&self) {
        let daemon = Containerd::start(&self.path("containerd"));
        let flag = if self.tls { "--hosts-dir DIR/hosts" } else { "--plain-http" };
        if self.tls {
            // On loopback containerd speaks plain HTTP unless it is told otherwise.
            let hosts = self.path("hosts").join(&self.registry);
            std::fs::create_dir_all(&hosts).expect("a directory");
            let (url, ca) = (format!("https://{}", self.registry), self.path("certs/registry.crt"));
            let text = format!(
                "server = {url:?}\n[host.{url:?}]\nca = {ca:?}\n\
                 capabilities = [\"pull\", \"resolve\", \"push\"]\n"
            );
            std::fs::write(hosts.join("hosts.toml"), text).expect("a file");
        }
        let remote = format!("{flag} --user {USER}:{PASSWORD}");
        let ctr =
            |line: &str| self.call(&format!("ctr -a {} -n test {line}", daemon.socket.display()));
        ctr(&format!("images pull --snapshotter native {remote} REG/team/skopeo:2")).ok();
        ctr(&format!("images push {remote} REG/team/containerd:1 REG/team/skopeo:2")).ok();
        let list = ctr("images ls").ok();
        let line = list.lines().find(|line| line.contains("team/skopeo:2")).expect("a line");
        let digest = line.split_whitespace().find(|word| word.starts_with("sha256:"));
        let by_digest = format!("REG/team/containerd@{}", digest.expect("a digest"));
        ctr("images rm REG/team/skopeo:2").ok();
        ctr(&format!("images pull --snapshotter native {remote} {by_digest}")).ok();
        let refused = ctr(&format!("images pull {flag} REG/team/containerd:1")).refused();
        assert!(refused.contains("401") || refused.contains("authorization"), "{refused}");
    }

    /// Flags for both sides of a copy.
    fn flags(&self, plain: &str, tls: impl Fn(&str) -> String) -> String {
        if self.tls { format!("{} {}", tls("src"), tls("dest")) } else { plain.to_owned() }
    }

    fn one_flag(&self) -> &'static str {
        if self.tls { "--cert-dir DIR/certs" } else { "--tls-verify=false" }
    }
}

/// A containerd of the test.
struct Containerd {
    socket: PathBuf,
    child: Child,
}

impl Containerd {
    fn start(dir: &Path) -> Self {
        std::fs::create_dir(dir).expect("a directory");
        let at = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
        let plugins = ["grpc.v1.cri", "snapshotter.v1.devmapper", "snapshotter.v1.btrfs"]
            .map(|name| format!("\"io.containerd.{name}\""));
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            plugins.join(", "),
            at("socket"),
            at("ttrpc"),
        );
        std::fs::write(at("config.toml"), config).expect("a file");
        let log = std::fs::File::create(at("log")).expect("a file");
        let child = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let daemon = Self { socket: dir.join("socket"), child };
        // It has no way to say that it is ready but to answer.
        let started = Instant::now();
        let version = || {
            let mut ctr = Command::new("ctr");
            ctr.arg("-a").arg(&daemon.socket).args(["--connect-timeout", "1s", "version"]);
            run(&mut ctr, "").code
        };
        while version() != 0 {
            let log = std::fs::read_to_string(at("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(60), "containerd: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.child.wait();
    }
}

fn tar(place: &Path, arguments: &[&str]) {
    let owner = ["--owner=0", "--group=0", "--mtime=@0", "--sort=name"];
    run(Command::new("tar").current_dir(place).args(owner).args(arguments), "").ok();
}

/// A certificate for the loopback address that is its own authority.
fn make_certificate(files: &TlsFiles) {
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let arguments = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {} \
         -out {} -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext \
         basicConstraints=critical,CA:FALSE",
        path(&files.key),
        path(&files.certificate),
    );
    run(Command::new("openssl").args(arguments.split(' ')), "").ok();
}

fn every_client_works(scheme: AuthScheme, tls: bool) {
    let desk = Desk::new(scheme, tls);
    desk.skopeo();
    std::thread::scope(|scope| {
        scope.spawn(|| desk.podman());
        scope.spawn(|| desk.own());
        scope.spawn(|| desk.containerd());
    });
}

#[test]
fn clients_work_over_http_with_passwords() {
    every_client_works(AuthScheme::Basic, false);
}

#[test]
fn clients_work_over_http_with_tokens() {
    every_client_works(AuthScheme::Bearer, false);
}

#[test]
fn clients_work_over_tls_with_passwords() {
    every_client_works(AuthScheme::Basic, true);
}

#[test]
fn clients_work_over_tls_with_tokens() {
    every_client_works(AuthScheme::Bearer, true);
}
