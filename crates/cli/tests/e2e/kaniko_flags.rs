//! kaniko's flags and variables on the built binary: docs/kaniko.md names these tests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use registry_server::{Anonymous, RegistryOptions, RegistryServer, Running, add_user};
use serde_json::Value;
use tempfile::TempDir;

use crate::machine::{Ran, run, shipway};

/// A place to build in, and our own registry beside it.
struct Lab {
    dir: TempDir,
    registry: String,
    _running: Running,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RegistryOptions)) -> Self {
        let dir =
            tempfile::Builder::new().prefix("shipway-kaniko-").tempdir().expect("a directory");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let running = runtime.block_on(async {
            let store = blob_store::BlobStore::open(dir.path().join("registry-blobs"));
            let store = store.expect("a store");
            let mut options = RegistryOptions::new(dir.path().join("registry"), store);
            options.anonymous = Anonymous::Push;
            change(&mut options);
            RegistryServer::bind(options).await.expect("a registry")
        });
        let registry = running.address().to_string();
        let lab = Self { dir, registry, _running: running, _runtime: runtime };
        lab.write("ws/Dockerfile", "FROM scratch\nCOPY a /a\n");
        lab.write("ws/a", "hello\n");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn command(&self, line: &str) -> Command {
        let line = line.replace("REG", &self.registry);
        let mut command = shipway();
        command
            .args(line.split(' ').filter(|word| !word.is_empty()))
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("SHIPWAY_STATE_DIR", self.path("state"));
        command
    }

    fn shipway(&self, line: &str) -> Ran {
        run(&mut self.command(line), "")
    }

    /// The executor on the workspace.
    fn executor(&self, line: &str) -> Ran {
        self.shipway(&format!("executor --context ws {line}"))
    }

    fn executor_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = self.command(&format!("executor --context ws {line}"));
        command.envs(variables.iter().copied());
        run(&mut command, "")
    }

    /// What `shipway inspect` says of an image: its config.
    fn config(&self, name: &str) -> Value {
        let text = self.shipway(&format!("inspect --config {name}")).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    fn tags(&self, repository: &str) -> String {
        self.shipway(&format!("tags {repository}")).ok()
    }

    /// The files of an OCI layout's only image: lines of `tar -tv`.
    fn listing(&self, layout: &str) -> String {
        let mut all = String::new();
        let blobs = self.path(layout).join("blobs/sha256");
        for item in std::fs::read_dir(blobs).expect("a layout").flatten() {
            let bytes = std::fs::read(item.path()).expect("a blob");
            if bytes.starts_with(&[0x1f, 0x8b]) {
                all.push_str(&run(Command::new("tar").arg("-tvzf").arg(item.path()), "").ok());
            }
        }
        all
    }

    /// A base image with busybox.
    fn busybox(&self) {
        std::fs::create_dir_all(self.path("base")).expect("a directory");
        std::fs::copy("/bin/busybox", self.path("base/busybox")).expect("Debian's busybox-static");
        self.write(
            "base/Dockerfile",
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n",
        );
        self.shipway("executor --context base --destination REG/base/busybox:1").ok();
    }
}

/// A server that answers every request with 200 and keeps what it was sent.
fn sink() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let keeper = Arc::clone(&kept);
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut reader = BufReader::new(&connection);
            let mut text = String::new();
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) < 3 {
                    break;
                }
                if let Some(size) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = size.trim().parse().unwrap_or(0);
                }
                text.push_str(&line);
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok() {
                text.push_str(&String::from_utf8_lossy(&body));
            }
            keeper.lock().expect("requests").push(text);
            let _ = (&connection).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    (address, kept)
}

#[test]
fn exit_codes_and_refusals_are_kanikos() {
    let lab = Lab::new();
    for (line, text) in [
        ("", "you must provide --destination, or use --no-push"),
        (
            "--no-push --cache",
            "if using cache with --no-push, specify cache repo with --cache-repo",
        ),
        (
            "--no-push --image-name-with-digest-file=x",
            "you must provide --destination if setting ImageNameDigestFile",
        ),
        (
            "--no-push --image-name-tag-with-digest-file=x",
            "you must provide --destination if setting ImageNameTagDigestFile",
        ),
        ("--no-push --git depth", "invalid git flag, must be in the key=value format"),
        ("--no-push --what=1", "--what"),
        ("--no-push --snapshot-mode=fast", "fast is not a valid snapshot mode"),
        ("--no-push --verbosity=loud", "not a valid logrus Level"),
        ("--no-push --credential-helpers=gcr", "gcr"),
        ("--no-push --compression=zstd --image-format=docker", "zstd"),
        ("--no-push --compression=zstd --tar-path=x", "zstd"),
        ("--no-push --image-format=oci --tar-path=x", "oci"),
        ("--no-push --context-sub-path=..", ".."),
        ("--no-push -f nowhere", "please provide a valid path to a Dockerfile"),
    ] {
        let line = if line.contains("--git") {
            line.replace("--no-push", "--no-push -c git://host.invalid/x")
        } else {
            line.to_owned()
        };
        let ran = if line.contains("-c ") {
            lab.shipway(&format!("executor {line}"))
        } else {
            lab.executor(&line)
        };
        assert_eq!(ran.code, 1, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{line}: {}", ran.stderr);
    }
    let unknown = lab.shipway("executor --no-push -c ftp://host/x");
    assert!(unknown.refused().contains(
        "unknown build context prefix provided, please use one of the following: gs://, \
             dir://, tar://, s3://, git://, https://"
    ));
    lab.busybox();
    lab.write(
        "ws/Dockerfile",
        "FROM REG/base/busybox:1\nRUN exit 7\n".replace("REG", &lab.registry).as_str(),
    );
    assert_eq!(lab.executor("--no-push").code, 7);
    lab.write("home/.docker/config.json", "{ not json");
    let (here, there) = (lab.shipway("build ws"), lab.shipway("tags REG/base/busybox"));
    assert_eq!((here.code, there.code), (2, 2), "{} {}", here.stderr, there.stderr);
    assert!(here.stderr.contains("config.json: not a JSON object"), "{}", here.stderr);
    assert_eq!(lab.executor("--no-push").code, 1);
}

#[test]
fn a_dockerfile_is_found_as_given_and_inside_the_context() {
    let lab = Lab::new();
    lab.write("elsewhere/File", "FROM scratch\nCOPY a /b\n");
    lab.write("ws/sub/Inner", "FROM scratch\nCOPY a /c\n");
    lab.executor("--no-push -f elsewhere/File").ok();
    lab.executor("--no-push --dockerfile=sub/Inner").ok();
    lab.executor("--no-push").ok();
    std::fs::rename(lab.path("ws/Dockerfile"), lab.path("ws/dockerfile")).expect("ours");
    lab.executor("--no-push").ok();
    let mut command = lab.command("executor --context ws --no-push --dockerfile -");
    run(&mut command, "FROM scratch\nCOPY a /d\n").ok();
}

#[test]
fn contexts_come_from_archives_streams_and_registries() {
    let lab = Lab::new();
    lab.write("ws/.dockerignore", "secret\nDockerfile\n");
    lab.write("ws/secret", "secret");
    lab.write("ws/sub/Dockerfile", "FROM scratch\nCOPY b /b\n");
    lab.write("ws/sub/b", "b");
    let tar = |flag: &str, to: &str| {
        let mut tar = Command::new("tar");
        run(tar.current_dir(lab.path("ws")).args([flag, to, "."]), "").ok();
    };
    tar("-cf", "../plain.tar");
    tar("-czf", "../packed.tar.gz");
    tar("-cJf", "../packed.tar.xz");
    for context in ["tar://plain.tar", "tar://packed.tar.gz", "tar://packed.tar.xz", "dir://ws"] {
        lab.shipway(&format!("executor --no-push --context {context}")).ok();
    }
    let below = "executor --no-push --context tar://packed.tar.gz --context-sub-path sub";
    lab.shipway(below).ok();
    for context in ["-", "tar://stdin"] {
        let mut command = lab.command(&format!("executor --no-push --context {context}"));
        let packed = std::fs::File::open(lab.path("packed.tar.gz")).expect("an archive");
        let output = command.stdin(packed).output().expect("the program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let pushed = lab.shipway("context push ws oci://REG/contexts/app:1").ok();
    let (name, digest) = pushed.trim().rsplit_once('@').expect("a digest");
    assert!(name.ends_with("/contexts/app:1") && digest.starts_with("sha256:"), "{pushed}");
    let again = lab.shipway("context push ws oci://REG/contexts/app:2").ok();
    assert!(again.trim().ends_with(digest), "equal files have an equal digest");
    // Another machine builds with it, its own Dockerfile included, what is ignored left out.
    for context in [pushed.trim(), "oci://REG/contexts/app:1"] {
        let mut command = lab.command(&format!(
            "executor --context {context} --destination REG/app:1 --digest-file digest"
        ));
        run(command.env("SHIPWAY_STATE_DIR", lab.path("other-state")), "").ok();
    }
    lab.write("all", "FROM scratch\nCOPY . /\n");
    lab.shipway(
        "executor -f all --context oci://REG/contexts/app:1 --no-push --oci-layout-path out",
    )
    .ok();
    let listing = lab.listing("out");
    assert!(listing.contains(" a\n") && !listing.contains("secret"), "{listing}");
    let zstd = "context push --compression zstd ws oci://REG/contexts/app:3";
    lab.shipway(zstd).ok();
    lab.shipway("build oci://REG/contexts/app:3").ok();
    let image = lab.shipway("build oci://REG/app:1").refused();
    assert!(image.contains("it is an image"), "{image}");
}

#[test]
fn names_and_digests_are_written_to_the_byte() {
    let lab = Lab::new();
    let (address, requests) = sink();
    let line = "--destination REG/team/app:1 --destination REG/team/other:2 \
        --digest-file deep/er/digest --image-name-with-digest-file names \
        --image-name-tag-with-digest-file tags";
    let output = lab.path("output").to_str().expect("UTF-8").to_owned();
    let times = lab.path("times.json").to_str().expect("UTF-8").to_owned();
    // Both builds have one digest whenever they run.
    let epoch = ("SOURCE_DATE_EPOCH", "0");
    let variables = [("BUILDER_OUTPUT", &*output), ("BENCHMARK_FILE", &*times), epoch];
    lab.executor_with(line, &variables).ok();
    let digest = lab.read("deep/er/digest");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest:?}");
    let registry = &lab.registry;
    assert_eq!(
        lab.read("names"),
        format!("{registry}/team/app@{digest}\n{registry}/team/other@{digest}\n")
    );
    assert_eq!(
        lab.read("tags"),
        format!("{registry}/team/app:1@{digest}\n{registry}/team/other:2@{digest}\n")
    );
    let first: Value =
        serde_json::from_str(lab.read("output/images").lines().next().expect("a line"))
            .expect("JSON");
    assert_eq!(first["digest"], digest.as_str());
    assert_eq!(first["name"], format!("{registry}/team/app:1"));
    let times: Value = serde_json::from_str(&lab.read("times.json")).expect("JSON");
    assert!(times["Total Build Time"].as_u64().is_some());
    let mode = |name: &str| {
        let metadata = std::fs::metadata(lab.path(name)).expect(name);
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("deep/er/digest"), mode("deep"), mode("deep/er")), (0o644, 0o700, 0o700));
    let to_server = format!("--no-push --digest-file http://{address}/digest");
    lab.executor_with(&to_server, &[epoch]).ok();
    let sent = requests.lock().expect("requests").join("\n");
    assert!(sent.starts_with("PUT /digest ") && sent.ends_with(&digest), "{sent}");
    assert!(sent.to_ascii_lowercase().contains("content-type: text/plain"), "{sent}");
    // Nothing is written before the push has succeeded.
    let refused = "--destination 127.0.0.1:1/app --skip-push-permission-check --digest-file no";
    lab.executor(refused).refused();
    assert!(!lab.path("no").exists());
}

#[test]
fn archives_and_layouts_are_written_and_pushed_again() {
    let lab = Lab::new();
    lab.executor(
        "--no-push --destination REG/x:1 --tar-path image.tar --oci-layout-path layout \
         --compression-level 9",
    )
    .ok();
    // Nothing was pushed.
    lab.shipway("tags REG/x").refused();
    let names = run(Command::new("tar").current_dir(lab.dir.path()).args(["-tf", "image.tar"]), "");
    assert!(names.ok().contains("manifest.json"));
    lab.shipway("executor push image.tar --destination REG/pushed/tar:1").ok();
    lab.shipway("executor push layout --destination REG/pushed/layout:1 -d REG/pushed/layout:2")
        .ok();
    assert_eq!(lab.tags("REG/pushed/tar"), "1\n");
    assert_eq!(lab.tags("REG/pushed/layout"), "1\n2\n");
    let media_type = |name: &str| {
        let text = lab.shipway(&format!("inspect --raw {name}")).ok();
        let manifest: Value = serde_json::from_str(&text).expect("JSON");
        format!("{} {}", manifest["mediaType"], manifest["layers"][0]["mediaType"])
    };
    lab.executor("--destination REG/docker:1").ok();
    assert!(media_type("REG/docker:1").contains("docker"), "as kaniko, for scratch");
    lab.executor("--destination REG/oci:1 --image-format oci").ok();
    assert!(media_type("REG/oci:1").contains("oci.image.layer.v1.tar+gzip"));
    lab.executor("--destination REG/zstd:1 --compression zstd --compression-level 3").ok();
    assert!(media_type("REG/zstd:1").contains("oci.image.layer.v1.tar+zstd"));
}

#[test]
fn arguments_labels_and_annotations_reach_the_image() {
    let lab = Lab::new();
    lab.busybox();
    lab.write(
        "ws/Dockerfile",
        &format!(
            "FROM {}/base/busybox:1\nARG GIVEN\nARG TAKEN\nLABEL given=$GIVEN taken=$TAKEN\n\
             RUN --mount=type=secret,id=s test \"$(/bin/busybox cat /run/secrets/s)\" = hidden\n",
            lab.registry
        ),
    );
    lab.write("secret", "hidden");
    let line = "--build-arg GIVEN=1 --build-arg TAKEN --label own=2 --annotation note=3 \
        --secret id=s,src=secret --destination REG/app:1";
    let script = lab.read("ws/Dockerfile").replace(
        "RUN --mount=type=secret,id=s test",
        "RUN --mount=type=secret,id=s /bin/busybox test",
    );
    lab.write("ws/Dockerfile", &script);
    lab.executor_with(line, &[("TAKEN", "from the environment")]).ok();
    let labels = lab.config("REG/app:1")["config"]["Labels"].clone();
    assert_eq!(labels["given"], "1");
    assert_eq!(labels["taken"], "from the environment");
    assert_eq!(labels["own"], "2");
    let manifest = lab.shipway("inspect --raw REG/app:1").ok();
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["annotations"]["note"], "3");
    let arm = "--custom-platform linux/arm64 --destination REG/arm:1";
    lab.write("ws/Dockerfile", "FROM scratch\nCOPY a /a\n");
    lab.executor(arm).ok();
    assert_eq!(lab.config("REG/arm:1")["architecture"], "arm64");
}

#[test]
fn several_targets_are_built_and_the_first_is_pushed() {
    let lab = Lab::new();
    let text = "FROM scratch AS one\nLABEL stage=one\nFROM scratch AS two\nLABEL stage=two\n\
        FROM scratch AS three\nCOPY missing /\n";
    lab.write("ws/Dockerfile", text);
    lab.executor("--target two --target one --destination REG/app:1").ok();
    assert_eq!(lab.config("REG/app:1")["config"]["Labels"]["stage"], "two");
    lab.executor("--destination REG/app:2").refused();
}

#[test]
fn snapshot_modes_give_one_result() {
    let lab = Lab::new();
    lab.write("ws/Dockerfile", "FROM scratch\nCOPY a /a\nCOPY a /b\n");
    let digest = |line: &str| {
        lab.executor(&format!("--no-push --reproducible --digest-file d {line}")).ok();
        lab.read("d")
    };
    let full = digest("");
    for mode in ["full", "redo", "time"] {
        assert_eq!(digest(&format!("--snapshot-mode {mode}")), full);
    }
    std::fs::write(lab.path("ws/a"), "hello\n").expect("ours");
    assert_eq!(digest(""), full, "times do not matter");
    assert_ne!(digest("--single-snapshot"), full);
    lab.executor("--no-push --single-snapshot --oci-layout-path single").ok();
    let files = lab.listing("single");
    assert!(files.contains(" a\n") && files.contains(" b\n"), "{files}");
}

#[test]
fn a_cache_is_used_as_the_flags_say() {
    let lab = Lab::new();
    lab.busybox();
    let text = "FROM REG/base/busybox:1\nRUN /bin/busybox true\nCOPY a /a\n";
    lab.write("ws/Dockerfile", &text.replace("REG", &lab.registry));
    let hits = |line: &str, state: &str| {
        let line = format!("executor --context ws --cache --cache-repo REG/cache {line}");
        let mut command = lab.command(&line);
        let ran = run(command.env("SHIPWAY_STATE_DIR", lab.path(state)), "");
        let log = ran.stderr.clone();
        ran.ok();
        log.matches("Using caching version").count()
    };
    assert_eq!(hits("--no-push --no-push-cache", "a"), 0);
    assert_eq!(hits("--no-push", "b"), 0, "the first did not write");
    assert_eq!(hits("--no-push", "c"), 2);
    lab.executor("--no-push --cache --cache-repo REG/cache --cache-ttl soon").refused();
    assert_eq!(hits("--no-push --cache-run-layers=false", "c"), 1);
    assert_eq!(hits("--no-push --cache-copy-layers=false", "c"), 1);
}

#[test]
fn a_warmer_fills_a_directory_that_builds_read() {
    let lab = Lab::new();
    lab.busybox();
    let text = "FROM REG/base/busybox:1 AS a\nFROM REG/base/busybox:1\nRUN /bin/busybox touch /x\n";
    lab.write("ws/Dockerfile", &text.replace("REG", &lab.registry));
    let warm = "warmer --cache-dir cache --dockerfile ws/Dockerfile --image REG/base/busybox:1";
    // Two at once: one writes, the other waits and finds.
    let (mut one, mut two) = (lab.command(warm), lab.command(&format!("executor {warm}")));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&mut two, ""));
        run(&mut one, "").ok();
        other.join().expect("no panic").ok();
    });
    let entries = || {
        let listing = std::fs::read_dir(lab.path("cache")).expect("a directory").flatten();
        let mut names: Vec<String> =
            listing.map(|item| item.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("sha256:") && !name.ends_with(".lock"));
        names
    };
    let [digest] = &entries()[..] else { panic!("one image: {:?}", entries()) };
    assert!(lab.path("cache").join(digest).join("oci-layout").exists());
    let again = lab.shipway(warm);
    assert!(again.stderr.contains("already in cache"), "{}", again.stderr);
    assert!(lab.shipway("warmer --cache-dir cache").refused().contains("at least one image"));
    lab.shipway("warmer --cache-dir cache -i REG/nobody:1").refused();
    // The registry has lost the layer; what was warmed serves, even read-only.
    let manifest = lab.shipway("inspect --raw REG/base/busybox:1").ok();
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    for layer in manifest["layers"].as_array().expect("layers") {
        let hex = layer["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
        std::fs::remove_file(lab.path("registry-blobs/sha256").join(hex)).expect("the blob");
    }
    let build = |line: &str, state: &str| {
        let mut command = lab.command(&format!("executor --context ws --no-push {line}"));
        run(command.env("SHIPWAY_STATE_DIR", lab.path(state)), "")
    };
    build("", "a").refused();
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(lab.path("cache"), permissions).expect("ours");
    };
    mode(0o555);
    build("--cache-dir cache", "b").ok();
    build("--cache-dir cache --cache-ttl 0s", "c").refused();
    mode(0o755);
    // By its digest the base needs no registry at all.
    lab.write("ws/Dockerfile", &format!("FROM 127.0.0.1:1/any@{digest}\nCOPY a /a\n"));
    build("--cache-dir cache", "d").ok();
}

#[test]
fn flags_without_effect_warn_once() {
    let lab = Lab::new();
    for flag in [
        "compressed-caching",
        "preserve-context",
        "force",
        "force-build-metadata",
        "skip-unused-stages",
        "use-new-run",
        "materialize",
        "image-fs-extract-retry=3",
        "azure-container-registry-config=x",
    ] {
        let ran = lab.executor(&format!("--no-push --{flag}"));
        let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.contains("WARN")).collect();
        let name = flag.split('=').next().unwrap_or(flag);
        assert!(warnings.len() == 1 && warnings[0].contains(name), "{flag}: {}", ran.stderr);
        ran.ok();
    }
    let old =
        lab.executor("--no-push --snapshotMode=redo --tarPath=x.tar --customPlatform=linux/amd64");
    assert_eq!(old.stderr.matches("is deprecated, use").count(), 3, "{}", old.stderr);
    assert!(lab.path("x.tar").exists());
}

#[test]
fn flags_with_effect_elsewhere_are_accepted() {
    let lab = Lab::new();
    lab.executor(
        "--destination REG/app:1 --cleanup --pre-cleanup --kaniko-dir k --push-retry 2 \
         --image-download-retry 2 --insecure --skip-tls-verify --skip-tls-verify-pull \
         --skip-tls-verify-registry=example.com --isolation=none",
    )
    .ok();
}

#[test]
fn a_dry_run_prints_steps_and_builds_nothing() {
    // Nor does it ask whether it might push.
    let lab = private();
    lab.write("ws/Dockerfile", "FROM scratch\nCOPY missing /\nLABEL a=b\n");
    let printed = lab.executor("--dryrun --destination REG/app:1").ok();
    assert!(printed.contains("COPY missing /"), "{printed}");
    lab.shipway("tags REG/app").refused();
}

#[test]
fn ignored_paths_never_reach_the_image() {
    let lab = Lab::new();
    lab.busybox();
    let text = "FROM REG/base/busybox:1\n\
        RUN /bin/busybox mkdir -p /keep /drop/deep /var/run && /bin/busybox touch /keep/f \
        /drop/deep/f /var/run/f\n";
    lab.write("ws/Dockerfile", &text.replace("REG", &lab.registry));
    let files = |line: &str, out: &str| {
        lab.executor(&format!("--no-push --oci-layout-path {out} {line}")).ok();
        lab.listing(out)
    };
    let all = files("", "all");
    assert!(all.contains("drop/deep/f") && all.contains("var/run/f"), "nothing is lost: {all}");
    let some = files("--ignore-path /drop --ignore-var-run", "some");
    assert!(some.contains("keep/f"), "{some}");
    assert!(!some.contains("drop") && !some.contains("var/run"), "{some}");
}

#[test]
fn mirrors_and_maps_are_asked_first() {
    let lab = Lab::new();
    lab.executor("--destination REG/mirror/library/base:1").ok();
    let build = |line: &str, variables: &[(&str, &str)]| {
        lab.write("ws/Dockerfile", "FROM base:1\nCOPY a /b\n");
        let line = line.replace("REG", &lab.registry);
        let registry = lab.registry.clone();
        let variables: Vec<(&str, String)> = variables
            .iter()
            .map(|(name, value)| (*name, value.replace("REG", &registry)))
            .collect();
        let pairs: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        lab.executor_with(&format!("--no-push --insecure-registry REG {line}"), &pairs)
    };
    build("--registry-mirror REG/mirror", &[]).ok();
    build("--registry-mirror REG/nothing --registry-mirror REG/mirror", &[]).ok();
    build("--registry-map docker.io=REG/mirror", &[]).ok();
    build("--registry-map index.docker.io=REG/mirror;gcr.io=REG", &[]).ok();
    build("", &[("KANIKO_REGISTRY_MIRROR", "REG/nothing,REG/mirror")]).ok();
    build("--registry-mirror REG/nothing", &[("KANIKO_REGISTRY_MAP", "docker.io=REG/mirror")]).ok();
    let only = "--skip-default-registry-fallback --registry-mirror REG/nothing";
    let refused = build(only, &[]).refused();
    assert!(!refused.contains("registry-1.docker.io"), "nobody else was asked: {refused}");
    // The same through a map of our registry to a place that lacks the image, with fallback.
    lab.write(
        "ws/Dockerfile",
        &format!("FROM {}/mirror/library/base:1\nCOPY a /b\n", lab.registry),
    );
    let map = format!("--no-push --insecure-pull --registry-map {0}={0}/nothing", lab.registry);
    lab.executor(&map).ok();
    lab.executor(&format!("{map} --skip-default-registry-fallback")).refused();
}

#[test]
fn certificates_are_read_before_anything_is_built() {
    let lab = Lab::new();
    for flag in [
        "--registry-certificate=example.com",
        "--registry-certificate=example.com=missing.pem",
        "--registry-client-cert=example.com=cert.pem",
        "--registry-client-cert=example.com=missing.pem,key.pem",
    ] {
        let text = lab.executor(&format!("--no-push {flag}")).refused();
        assert!(text.contains("certificate") || text.contains("CERTIFICATE"), "{flag}: {text}");
    }
    let openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout key.pem -out cert.pem -days 1 -subj /CN=example.com";
    run(Command::new("sh").current_dir(lab.dir.path()).args(["-c", openssl]), "").ok();
    lab.executor(
        "--no-push --registry-certificate=example.com=cert.pem \
         --registry-client-cert=example.com=cert.pem,key.pem",
    )
    .ok();
}

/// A registry for `ada` only.
fn private() -> Lab {
    Lab::with(|options| {
        let users = options.directory.with_file_name("users");
        add_user(&users, "ada", "pw").expect("a user");
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
    })
}

#[test]
fn variables_are_credentials_unless_helpers_are_off() {
    let lab = private();
    let line = "--destination REG/app:1";
    lab.executor(line).refused();
    let user = ("KANIKO_127_0_0_1_USER", "ada");
    let pair = [user, ("KANIKO_127_0_0_1_PASSWORD", "pw")];
    lab.executor_with(line, &pair).ok();
    lab.executor_with(&format!("{line} --credential-helpers="), &pair).refused();
    lab.executor_with(&format!("{line} --credential-helpers=gitlab"), &pair).refused();
    lab.executor_with(&format!("{line} --credential-helpers=gitlab,env"), &pair).ok();
    let job = [
        ("CI_REGISTRY", lab.registry.as_str()),
        ("CI_REGISTRY_USER", "ada"),
        ("CI_REGISTRY_PASSWORD", "pw"),
    ];
    lab.executor_with(line, &job).ok();
    // ada:pw
    let inline = format!(r#"{{"auths":{{"{}":{{"auth":"YWRhOnB3"}}}}}}"#, lab.registry);
    lab.executor_with(line, &[("DOCKER_AUTH_CONFIG", &inline)]).ok();
    // A file that knows other registries hides nothing.
    lab.write("home/.docker/config.json", r#"{"auths":{"other.example":{"auth":"YTpi"}}}"#);
    lab.executor_with(line, &[("DOCKER_AUTH_CONFIG", &inline)]).ok();
    lab.write("auth.json", &inline);
    let file = lab.path("auth.json").to_str().expect("UTF-8").to_owned();
    lab.executor_with(line, &[("REGISTRY_AUTH_FILE", &file)]).ok();
}

#[test]
fn a_refused_push_is_noticed_before_the_build() {
    let lab = private();
    lab.write("ws/Dockerfile", "FROM scratch\nCOPY missing /\n");
    let checked = lab.executor("--destination REG/app:1").refused();
    assert!(!checked.contains("missing"), "{checked}");
    let unchecked = lab.executor("--destination REG/app:1 --skip-push-permission-check").refused();
    assert!(unchecked.contains("missing"), "{unchecked}");
}

#[test]
fn a_tag_that_must_not_move_is_a_warning() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || immutable(&connection));
        }
    });
    let lab = Lab::new();
    let line = format!("--destination {address}/app:1 --skip-push-permission-check");
    let text = lab.executor(&line).refused();
    assert!(text.contains("immutab"), "{text}");
    let ran = lab.executor(&format!("{line} --push-ignore-immutable-tag-errors"));
    assert!(ran.stderr.contains("is immutable; not pushed"), "{}", ran.stderr);
    ran.ok();
}

/// A registry that has every blob and lets no tag move.
fn immutable(connection: &std::net::TcpStream) {
    let mut reader = BufReader::new(connection);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        match reader.read_line(&mut first) {
            Ok(0) => return,
            Ok(_) => {}
            // TLS is tried first; this is what a plain server says to it.
            Err(_) => {
                let mut out = connection;
                drop(out.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
                return;
            }
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) < 3 {
                break;
            }
            if let Some(size) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = size.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let refusal = r#"{"errors":[{"code":"DENIED","message":"tag cannot be overwritten because the repository is immutable"}]}"#;
        let answer = if first.starts_with("PUT") && first.contains("/manifests/") {
            format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{refusal}",
                refusal.len()
            )
        } else if first.contains("/manifests/") {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
        };
        let mut out = connection;
        if out.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn log_lines_have_kanikos_forms() {
    let lab = Lab::new();
    let log = |line: &str| lab.executor(&format!("--no-push {line}")).stderr;
    assert!(log("").contains("INFO["), "{}", log(""));
    assert!(log("--log-format=text").contains("level=info msg="));
    assert!(log("--log-format=text --log-timestamp").contains("time=\""));
    let json = log("--log-format=json");
    let first: Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["level"], "info");
    assert_eq!(log("--verbosity=error"), "");
    let debug = lab.executor("--destination REG/app:1 -v debug").stderr;
    assert!(debug.contains("DEBUG"), "{debug}");
    lab.executor("--no-push --log-format=loud").refused();
}

#[test]
fn verbs_of_the_executor_work() {
    let lab = Lab::new();
    assert!(lab.shipway("executor version").ok().starts_with("Kaniko version"));
    let config = lab.path("docker").to_str().expect("UTF-8").to_owned();
    let mut login = lab.command("executor login nobody.example -u me --password-stdin");
    run(login.env("DOCKER_CONFIG", &config), "pw\n").ok();
    assert!(lab.read("docker/config.json").contains("nobody.example"));
    std::fs::create_dir_all(lab.path("kaniko/.docker")).expect("a directory");
    let mut login = lab.command("executor login other.example -u me --password-stdin");
    run(login.env("KANIKO_DIR", lab.path("kaniko")), "pw\n").ok();
    assert!(lab.read("kaniko/.docker/config.json").contains("other.example"));
    assert_eq!(lab.shipway("executor fly").code, 1);
    // By its name the program knows what it is.
    for (name, arguments) in [("executor", "version"), ("warmer", "--help")] {
        let link = lab.path(name);
        std::os::unix::fs::symlink(Path::new(env!("CARGO_BIN_EXE_shipway")), &link)
            .expect("a link");
        run(Command::new(link).arg(arguments), "").ok();
    }
}

#[test]
fn variables_stand_for_flags() {
    let lab = Lab::new();
    lab.executor_with("", &[("KANIKO_NO_PUSH", "1")]).ok();
    for name in ["KANIKO_CLEANUP", "KANIKO_PRE_CLEANUP", "KANIKO_PRESERVE_CONTEXT"] {
        lab.executor_with("--no-push", &[(name, "true")]).ok();
    }
    lab.executor_with("--no-push", &[("KANIKO_DIR", "elsewhere")]).ok();
    let ran = lab.executor_with(
        "--no-push",
        &[
            ("FF_KANIKO_OCI_WARMER", "false"),
            ("FF_KANIKO_RUN_VIA_TINI", "1"),
            ("STACKLOG_PATH", "x"),
        ],
    );
    assert_eq!(ran.stderr.matches("WARN").count(), 2, "{}", ran.stderr);
    ran.ok();
}
