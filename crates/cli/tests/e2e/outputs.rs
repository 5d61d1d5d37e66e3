//! What `shipway build` leaves behind, read by the programs that people have.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::machine::{DebianRegistry, Ran, run, shipway};
use crate::own_registry::OwnRegistry;

/// A user's directory with a context `context`.
struct Desk {
    home: tempfile::TempDir,
}

impl Desk {
    fn new(dockerfile: &str) -> Self {
        let desk = Self { home: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(desk.path("context")).expect("a directory");
        std::fs::write(desk.path("context/Dockerfile"), dockerfile).expect("a file");
        std::fs::write(desk.path("context/a.txt"), "a").expect("a file");
        desk
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    fn command(&self) -> Command {
        let mut command = shipway();
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("SHIPWAY_STATE_DIR", self.path("state"))
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("DOCKER_CONFIG");
        command
    }

    fn shipway(&self, line: &str) -> Ran {
        run(self.command().args(line.split(' ')), "")
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(path)).expect(path)).expect("JSON")
    }
}

/// Flags of a registry of ours for everybody.
const OPEN: &[&str] = &["--anonymous", "push"];

/// Hands connections on to a registry and notes the request lines.
struct Watched {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Watched {
    fn before(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (target, noted) = (registry.to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&target).expect("the registry");
                let (mut from, mut to) =
                    (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || forward(client, server, &noted));
            }
        });
        Self { address, requests }
    }

    /// Requests of a method whose line has `part`.
    fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.requests.lock().expect("requests");
        requests.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    /// How often each blob was sent, by digest.
    fn uploads(&self) -> BTreeMap<String, usize> {
        let mut uploads = BTreeMap::new();
        for line in self.requests.lock().expect("requests").iter() {
            if line.starts_with("PUT ")
                && line.contains("/blobs/uploads/")
                && let Some((_, digest)) = line.split_once("digest=")
            {
                let digest = digest.split([' ', '&']).next().unwrap_or_default().to_owned();
                *uploads.entry(digest).or_default() += 1;
            }
        }
        uploads
    }
}

fn forward(mut client: TcpStream, mut server: TcpStream, noted: &Mutex<Vec<String>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = client.read(&mut buffer) {
        if count == 0 || server.write_all(&buffer[..count]).is_err() {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[..count]);
        let lines = text.lines().filter(|line| line.contains(" /v2/") && line.contains(" HTTP/1"));
        noted.lock().expect("requests").extend(lines.map(str::to_owned));
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
}

const IMAGE: &str = "FROM scratch\nARG TARGETARCH\nCOPY a.txt /$TARGETARCH/\nLABEL made=here\n";

#[test]
fn bytes_are_sent_once_per_registry_and_mounted_elsewhere_in_it() {
    let desk = Desk::new(IMAGE);
    let one = OwnRegistry::start(&desk.path("one"), OPEN);
    let two = OwnRegistry::start(&desk.path("two"), OPEN);
    let (first, second) = (Watched::before(&one.address), Watched::before(&two.address));
    let (a, b) = (&first.address, &second.address);
    let line = format!(
        "build -t {a}/x/app:1 -t {a}/x/app:2 -t {a}/y/app:1 -t {b}/x/app:1 --push \
         -o type=oci,dest=both.tar --platform linux/amd64,linux/arm64 context"
    );
    desk.shipway(&line.replace("  ", " ")).ok();
    for watched in [&first, &second] {
        let uploads = watched.uploads();
        // Two layers and two configs.
        assert_eq!(uploads.len(), 4, "{uploads:?}");
        assert!(uploads.values().all(|count| *count == 1), "{uploads:?}");
    }
    assert_eq!(first.count("POST", "mount="), 4);
    assert_eq!(first.count("PUT /v2/x/app/manifests/", ""), 4, "two images, two tags");
    assert_eq!(second.count("POST", "mount="), 0);
    assert!(desk.path("both.tar").exists());
    for name in [format!("{a}/x/app:2"), format!("{a}/y/app:1"), format!("{b}/x/app:1")] {
        let shown = desk.shipway(&format!("inspect {name}")).ok();
        assert!(shown.contains("Platforms: linux/amd64, linux/arm64"), "{shown}");
    }
    // Another name in the registry of the base takes the base's layer from there.
    std::fs::write(desk.path("context/Dockerfile"), format!("FROM {a}/x/app:1\nCOPY a.txt /b\n"))
        .expect("a file");
    let before = first.uploads();
    desk.shipway(&format!("build --pull -t {a}/z/child:1 --push context")).ok();
    assert_eq!(first.uploads().len(), before.len() + 2, "its own layer and its config");
    assert!(1 <= first.count("POST /v2/z/child/blobs/uploads/?mount=", "from=x"));
}

#[test]
fn skopeo_buildah_and_podman_read_our_index_layout_and_archives() {
    let registry = DebianRegistry::start("ada", "pw");
    let desk = Desk::new(IMAGE);
    let login = format!("login -u ada --password-stdin {}", registry.address);
    run(desk.command().args(login.split(' ')), "pw\n").ok();
    let name = format!("{}/team/app:1", registry.address);
    desk.shipway(&format!(
        "build -t {name} --push --platform linux/amd64,linux/arm64 --metadata-file m.json \
         --iidfile id -o type=oci,tar=false,dest=layout -o type=oci,dest=layout.tar context"
    ))
    .ok();
    desk.shipway("build -t local/app:1 -o type=docker,dest=docker.tar context").ok();
    let digest = desk.json("m.json")["containerimage.digest"].clone();
    let digest = digest.as_str().expect("a digest");
    assert_eq!(std::fs::read_to_string(desk.path("id")).expect("a file"), digest);

    let storage = desk.path("storage");
    let call = |program: &str, line: &str| {
        let mut command = Command::new(program);
        if program != "skopeo" {
            let storage = storage.display();
            command.args([format!("--root={storage}/root"), format!("--runroot={storage}/run")]);
            command.arg("--storage-driver=vfs");
        }
        run(
            command
                .args(line.split(' '))
                .current_dir(desk.home.path())
                .env("HOME", desk.home.path()),
            "",
        )
    };
    let creds = "--creds ada:pw --tls-verify=false";
    for source in ["oci:layout:1".to_owned(), "oci-archive:layout.tar:1".to_owned()] {
        let raw: Value =
            serde_json::from_str(&call("skopeo", &format!("inspect --raw {source}")).ok())
                .expect("an index");
        assert_eq!(raw["manifests"].as_array().map(Vec::len), Some(2), "{source}");
        for architecture in ["amd64", "arm64"] {
            let shown = call(
                "skopeo",
                &format!("--override-arch {architecture} inspect --config {source}"),
            );
            let config: Value = serde_json::from_str(&shown.ok()).expect("a config");
            assert_eq!(config["architecture"], architecture);
        }
    }
    call("skopeo", "copy --multi-arch all oci:layout:1 dir:copied").ok();
    let shown = call("skopeo", &format!("inspect {creds} --raw docker://{name}")).ok();
    assert!(shown.contains("application/vnd.oci.image.index.v1+json"), "{shown}");

    call("buildah", &format!("pull {creds} --arch arm64 docker://{name}")).ok();
    let shown = call("buildah", &format!("inspect --type image {name}")).ok();
    assert!(shown.contains("\"architecture\": \"arm64\""), "{shown}");
    for archive in ["docker.tar", "layout.tar"] {
        let loaded = call("podman", &format!("load -q -i {archive}"));
        assert!(loaded.ok().contains("Loaded image"), "{archive}");
    }
    let labels =
        call("podman", "image inspect --format {{.Labels.made}} docker.io/local/app:1").ok();
    assert_eq!(labels.trim(), "here");
}

#[test]
fn statements_are_found_at_registries_with_and_without_referrers() {
    let desk = Desk::new(IMAGE);
    let own = OwnRegistry::start(&desk.path("own"), OPEN);
    let debian = DebianRegistry::start("ada", "pw");
    let login = format!("login -u ada --password-stdin {}", debian.address);
    run(desk.command().args(login.split(' ')), "pw\n").ok();
    let names = [format!("{}/a/app:1", own.address), format!("{}/a/app:1", debian.address)];
    desk.shipway(&format!(
        "build -t {} -t {} --push --provenance=mode=max --sbom=true --build-arg SECRET=1 context",
        names[0], names[1]
    ))
    .ok();
    for name in &names {
        let list = desk.shipway(&format!("inspect {name} --attestations")).ok();
        let mut kinds: Vec<&str> =
            list.lines().filter_map(|line| line.split(' ').next_back()).collect();
        kinds.sort_unstable();
        assert_eq!(
            kinds,
            ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"],
            "{name}"
        );
    }
    let json = desk.shipway(&format!("inspect {} --attestations -o json", names[0])).ok();
    let statements: Value = serde_json::from_str(&json).expect("JSON");
    let subject = &statements[0]["statement"]["subject"][0]["digest"]["sha256"];
    assert_eq!(format!("sha256:{}", subject.as_str().expect("hex")), statements[0]["about"]);

    // BuildKit's form, as skopeo sees it.
    let name = format!("{}/a/indexed:1", own.address);
    desk.shipway(&format!("build -t {name} --push --provenance --attest-form index context")).ok();
    let raw = run(
        Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--raw"])
            .arg(format!("docker://{name}")),
        "",
    );
    let index: Value = serde_json::from_str(&raw.ok()).expect("an index");
    assert_eq!(index["manifests"][1]["platform"]["os"], "unknown");
    let list = desk.shipway(&format!("inspect {name} --attestations")).ok();
    assert!(list.contains("https://slsa.dev/provenance/v1"), "{list}");
}

#[test]
fn metadata_tells_what_buildx_tells() {
    let desk = Desk::new("FROM scratch\nCOPY a.txt /\n");
    desk.shipway("build -t app:1 --metadata-file m.json --iidfile id context").ok();
    let metadata = desk.json("m.json");
    let id = std::fs::read_to_string(desk.path("id")).expect("a file");
    assert_eq!(metadata["containerimage.config.digest"], id);
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(descriptor["digest"], metadata["containerimage.digest"]);
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(metadata["image.name"], "app:1");
    let provenance = &metadata["buildx.build.provenance"];
    assert_eq!(
        provenance["buildDefinition"]["externalParameters"]["configSource"]["path"],
        "Dockerfile"
    );
}

#[test]
fn outputs_need_their_directory_and_kanikos_formats_are_checked() {
    let desk = Desk::new("FROM scratch\nCOPY a.txt /\n");
    let refused = desk.shipway("build -o type=oci,dest=no/image.tar context").refused();
    assert!(refused.contains("cannot write no/image.tar"), "{refused}");
    assert!(!desk.path("no").exists());
    let refused =
        desk.shipway("build --platform linux/amd64,linux/arm64 -o type=docker,dest=x.tar context");
    assert!(refused.refused().contains("does not currently support exporting manifest lists"));
    for flags in [
        "--compression=zstd --image-format=docker",
        "--compression=zstd --tar-path=x.tar",
        "--image-format=oci --tar-path=x.tar",
    ] {
        let refused =
            desk.shipway(&format!("executor --context=context --no-push {flags}")).refused();
        assert!(refused.contains("is not possible with"), "{flags}: {refused}");
    }
    desk.shipway(
        "executor --context=context --no-push --custom-platform=linux/amd64,linux/arm64 \
         --oci-layout-path=layout --digest-file=digest",
    )
    .ok();
    let digest = std::fs::read_to_string(desk.path("digest")).expect("a file");
    assert_eq!(desk.json("layout/index.json")["manifests"][0]["digest"], digest);
}

/// Serves one body for every request, changed on a day in 2001.
fn server(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let _ = write!(
                client,
                "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = client.write_all(&body);
        }
    });
    format!("http://{address}")
}

fn archive(home: &Path) -> Vec<u8> {
    let place = home.join("packed");
    std::fs::create_dir(&place).expect("a directory");
    for (name, time) in [("old", "@1100000000"), ("new", "@1200000000")] {
        std::fs::write(place.join(name), name).expect("a file");
        run(Command::new("touch").args(["-d", time]).arg(place.join(name)), "").ok();
    }
    let dockerfile = "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV E=$SOURCE_DATE_EPOCH\nCOPY old /\n";
    std::fs::write(place.join("Dockerfile"), dockerfile).expect("a file");
    run(Command::new("touch").args(["-d", "@1150000000"]).arg(place.join("Dockerfile")), "").ok();
    run(
        Command::new("tar")
            .args(["-cf", "packed.tar", "-C", "packed", "old", "new", "Dockerfile"])
            .current_dir(home),
        "",
    )
    .ok();
    std::fs::read(home.join("packed.tar")).expect("a file")
}

/// BuildKit's SourceDateEpoch rows.
#[test]
fn the_epoch_is_a_number_or_the_age_of_a_source() {
    let desk = Desk::new("");
    let packed = server(archive(desk.home.path()));
    let file = server(b"text".to_vec());
    let text = format!(
        "ARG SOURCE_DATE_EPOCH=10\nFROM scratch AS packed\nADD {packed}/a.tar /\n\
         FROM scratch AS file\nADD {file}/a.txt /\nFROM scratch AS other\nCOPY a.txt /\n\
         FROM scratch\nARG SOURCE_DATE_EPOCH\nENV E=$SOURCE_DATE_EPOCH\nCOPY a.txt /\n"
    );
    std::fs::write(desk.path("context/Dockerfile"), text).expect("a file");
    let created = |flags: &str, environment: Option<&str>| -> Result<(String, String), String> {
        let mut command = desk.command();
        command.args("build -t app:1 -o type=oci,tar=false,dest=layout".split(' '));
        command.args(flags.split(' ').filter(|word| !word.is_empty()));
        if let Some(value) = environment {
            command.env("SOURCE_DATE_EPOCH", value);
        }
        let ran = run(&mut command, "");
        if ran.code != 0 {
            return Err(ran.stderr);
        }
        let blob = |digest: &Value| {
            let hex =
                digest.as_str().and_then(|text| text.strip_prefix("sha256:")).expect("sha256");
            desk.json(&format!("layout/blobs/sha256/{hex}"))
        };
        let index = desk.json("layout/index.json");
        let config = blob(&blob(&index["manifests"][0]["digest"])["config"]["digest"]);
        let env = config["config"]["Env"].as_array().and_then(|env| env.last()?.as_str());
        Ok((
            config["created"].as_str().expect("a time").to_owned(),
            env.unwrap_or_default().to_owned(),
        ))
    };
    let (archived, modified) = ("2008-01-10T21:20:00Z", "2001-09-09T01:46:40Z");
    let of = |time: &str, seconds: &str| Ok((time.to_owned(), format!("E={seconds}")));
    // The file's default, the caller's number, and the environment's.
    assert_eq!(created("context", None), of("1970-01-01T00:00:10Z", "10"));
    assert_eq!(
        created("--build-arg SOURCE_DATE_EPOCH=20 context", Some("30")),
        of("1970-01-01T00:00:20Z", "20")
    );
    assert_eq!(created("context", Some("30")), of("1970-01-01T00:00:30Z", "30"));
    // Empty resets, and a directory has no age.
    for reset in ["SOURCE_DATE_EPOCH=", "SOURCE_DATE_EPOCH=context"] {
        let (time, env) = created(&format!("--build-arg {reset} context"), None).expect("a build");
        assert!("2025" < time.as_str(), "{reset}: {time}");
        assert_eq!(env, "E=", "{reset}");
    }
    // Stages that are sources.
    assert_eq!(
        created("--build-arg SOURCE_DATE_EPOCH=packed context", None),
        of(archived, "1200000000")
    );
    assert_eq!(
        created("--build-arg SOURCE_DATE_EPOCH=file context", None),
        of(modified, "1000000000")
    );
    let refused =
        created("--build-arg SOURCE_DATE_EPOCH=other context", None).expect_err("no source");
    assert!(refused.contains("stage other is not a source"), "{refused}");
    let refused = created("--build-arg SOURCE_DATE_EPOCH=never context", None).expect_err("text");
    assert!(refused.contains("invalid SOURCE_DATE_EPOCH: \"never\""), "{refused}");
    // Contexts from elsewhere, the main one and a named one.
    let context = format!("--build-arg SOURCE_DATE_EPOCH=context {packed}/c.tar");
    assert_eq!(created(&context, None), of(archived, "1200000000"));
    for (url, time, seconds) in [(&packed, archived, "1200000000"), (&file, modified, "1000000000")]
    {
        let named =
            format!("--build-context src={url}/c --build-arg SOURCE_DATE_EPOCH=src context");
        assert_eq!(created(&named, None), of(time, seconds), "{url}");
    }
}
