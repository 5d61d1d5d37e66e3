//! Secrets are where they were put, and nowhere else: canaries in every place that takes one, the
//! whole life of an image and of the daemon, then a search for them.
//!
//! Exempt, because these places are meant to hold a secret, or because the person who types put
//! it there:
//! - the user's own files outside the state directory: `home/.docker/config.json` (mode 0600,
//!   checked), the node's `node-home/.docker/config.json`, the file of the build secret, the
//!   helper's script;
//! - the API server's database `state/cluster/state.redb`, which holds the Secret objects as etcd
//!   would (in a directory that only its owner can enter, checked), and what `kubectl get secret` prints of them;
//! - the environment of the processes for which the user set a secret variable: the daemon itself
//!   and the commands typed here. Not that of anything the daemon starts.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::machine::{Kubectl, Machine, Ran, base64_encode, run};

/// The user of the registry whose password is a canary.
const ADA: &str = "ada";

/// One secret text, unlike any other on this machine.
fn canary(place: &str) -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random number");
    format!("canary{place}{}", random.trim().replace('-', ""))
}

struct Canaries {
    registry_password: String,
    wrong_password: String,
    malformed: String,
    node_file: String,
    helper: String,
    cloud: String,
    build: String,
}

impl Canaries {
    fn new() -> Self {
        Self {
            registry_password: canary("registry"),
            wrong_password: canary("wrong"),
            malformed: canary("malformed"),
            node_file: canary("node"),
            helper: canary("helper"),
            cloud: canary("cloud"),
            build: canary("build"),
        }
    }

    fn all(&self) -> [&str; 7] {
        [
            &self.registry_password,
            &self.wrong_password,
            &self.malformed,
            &self.node_file,
            &self.helper,
            &self.cloud,
            &self.build,
        ]
    }

    /// Texts that betray a canary: itself, and what is left of it in base64 at any of the three
    /// alignments, once and twice encoded.
    fn needles(&self) -> Vec<String> {
        let mut needles = Vec::new();
        for canary in self.all() {
            needles.push(canary.to_owned());
            for once in of_base64(canary) {
                needles.extend(of_base64(&once));
                needles.push(once);
            }
        }
        needles
    }
}

/// The inner part of what a text looks like in base64, wherever it begins.
fn of_base64(text: &str) -> Vec<String> {
    let aligned = |before: usize| {
        let encoded = base64_encode(&format!("{}{text}", &"xxx"[..before]));
        // The first and the last quantum are mixed with what stands beside it.
        encoded[4..encoded.len() - 6].to_owned()
    };
    (0..3).map(aligned).collect()
}

/// Bytes by which a needle is looked up.
const PREFIX_BYTES: usize = 8;

/// Searches for canaries: small texts itself, files with grep.
struct Search {
    by_prefix: HashMap<[u8; PREFIX_BYTES], Vec<String>>,
    /// The needles, a line each, outside of all that is searched.
    patterns: tempfile::NamedTempFile,
}

impl Search {
    fn new(canaries: &Canaries) -> Self {
        let needles = canaries.needles();
        let mut patterns = tempfile::NamedTempFile::new().expect("a file");
        patterns.write_all((needles.join("\n") + "\n").as_bytes()).expect("a file");
        let mut by_prefix: HashMap<_, Vec<String>> = HashMap::new();
        for needle in needles {
            let prefix = needle.as_bytes()[..PREFIX_BYTES].try_into().expect("long enough");
            by_prefix.entry(prefix).or_default().push(needle);
        }
        Self { by_prefix, patterns }
    }

    fn finds(&self, text: &[u8]) -> Option<&str> {
        text.windows(PREFIX_BYTES).enumerate().find_map(|(at, window)| {
            let needles = self.by_prefix.get(window)?;
            needles
                .iter()
                .map(String::as_str)
                .find(|needle| text[at..].starts_with(needle.as_bytes()))
        })
    }

    /// grep for the needles, with more arguments; what it prints.
    fn grep(&self, configure: impl FnOnce(&mut Command) -> &mut Command) -> String {
        let mut command = Command::new("grep");
        command.args(["--fixed-strings", "--text", "--file"]).arg(self.patterns.path());
        let output = configure(&mut command).output().expect("grep starts");
        // 1 is for nothing found; a file that is gone in the meantime is none.
        assert!(matches!(output.status.code(), Some(0..=2)), "{command:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn absent(&self, place: &str, text: &[u8]) {
        if let Some(found) = self.finds(text) {
            panic!("{found} is in {place}");
        }
    }

    #[track_caller]
    fn absent_from_output(&self, ran: Ran) -> Ran {
        self.absent(&format!("stdout of {}", ran.command), ran.stdout.as_bytes());
        self.absent(&format!("stderr of {}", ran.command), ran.stderr.as_bytes());
        ran
    }

    /// Every file below a directory, compressed ones also unpacked, but for those in `exempt`.
    fn absent_from_files(&self, directory: &Path, exempt: &[PathBuf]) {
        let found = self.grep(|grep| {
            grep.args(["--recursive", "--files-with-matches", "--devices=skip"]).arg(directory)
        });
        let is_exempt =
            |path: &str| exempt.iter().any(|exempt| Path::new(path).starts_with(exempt));
        let found: Vec<&str> = found.lines().filter(|path| !is_exempt(path)).collect();
        assert!(found.is_empty(), "a canary is in {found:?}");
        let mut compressed = 0;
        self.absent_from_compressed_files(directory, &mut compressed);
        assert!(0 < compressed, "the layers are compressed");
    }

    fn absent_from_compressed_files(&self, directory: &Path, seen: &mut usize) {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            self.absent("the name of a file", path.as_os_str().as_encoded_bytes());
            if kind.is_dir() {
                self.absent_from_compressed_files(&path, seen);
            } else if kind.is_file()
                && let Some(program) = decompressor(&path)
            {
                *seen += 1;
                let mut unpacked = Command::new(program)
                    .args(["-dc", "--"])
                    .arg(&path)
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("it is installed");
                let output = unpacked.stdout.take().expect("standard output is piped");
                let found = self.grep(|grep| grep.arg("--count").stdin(output));
                assert_eq!(found.trim(), "0", "a canary is in {}, unpacked", path.display());
                assert!(unpacked.wait().expect("it ends").success(), "{}", path.display());
            }
        }
    }
}

/// What unpacks a file, by its first bytes.
fn decompressor(path: &Path) -> Option<&'static str> {
    let mut first = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).ok()?;
    match first {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd"),
        _ => None,
    }
}

/// Looks at the arguments and environments of all processes until it is stopped.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<BTreeSet<String>>>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Watch {
    fn start(search: Arc<Search>) -> Self {
        let (stop, found) = (Arc::<AtomicBool>::default(), Arc::<Mutex<BTreeSet<_>>>::default());
        let (stopped, note) = (stop.clone(), found.clone());
        let thread = std::thread::spawn(move || {
            let mut looked_at = 0;
            while !stopped.load(Ordering::Relaxed) {
                for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
                    let path = process.path();
                    let Ok(arguments) = std::fs::read(path.join("cmdline")) else { continue };
                    looked_at += 1;
                    if let Some(found) = search.finds(&arguments) {
                        let mut note = note.lock().expect("no panic");
                        let arguments = String::from_utf8_lossy(&arguments);
                        note.insert(format!("{found} in the arguments {arguments:?}"));
                    }
                }
                // Only so that the test does not take a processor for itself.
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            looked_at
        });
        Self { stop, found, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let looked_at = self.thread.take().expect("it runs").join().expect("no panic");
        assert!(0 < looked_at);
        assert_eq!(*self.found.lock().expect("no panic"), BTreeSet::new());
    }
}

#[test]
fn secrets_stay_where_they_were_put() {
    let canaries = Canaries::new();
    let search = Arc::new(Search::new(&canaries));
    let watch = Watch::start(search.clone());
    // A cloud's secret in the environment of the daemon and of what is typed.
    let environment =
        [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", &canaries.cloud)];
    let mut machine = Machine::with_environment(Kubectl::Machine, &environment);
    let registry = machine.registry.clone();
    write_node_config(&machine, &canaries);

    user_logs_in_and_builds(&machine, &canaries, &search);
    helper_gives_a_password(&machine, &canaries, &search);
    pods_pull(&machine, &canaries, &search);
    what_the_api_tells(&machine, &search);
    environments_of_what_the_daemon_started(&machine, &search);

    // A crash prints what it prints, and the next start reads what is left.
    run(Command::new("kill").args(["-ABRT", &machine.pid().to_string()]), "").ok();
    machine.up(&registry);
    machine.wait("pod/right", "default", "condition=Ready");
    search.absent_from_output(machine.shipway(&["status"])).ok();
    what_the_api_tells(&machine, &search);
    what_is_left_on_disk(&machine, &search);
    watch.end();
}

fn write_node_config(machine: &Machine, canaries: &Canaries) {
    let stale = base64_encode(&format!("node:{}", canaries.node_file));
    let text =
        format!(r#"{{"auths":{{"{}/of-the-node":{{"auth":"{stale}"}}}}}}"#, machine.registry);
    machine.write("node-home/.docker/config.json", &text);
}

fn user_logs_in_and_builds(machine: &Machine, canaries: &Canaries, search: &Search) {
    let registry = &machine.registry;
    let password = &canaries.registry_password;
    let add = ["registry", "user", "add", ADA, "--password-stdin"];
    search.absent_from_output(machine.shipway_with_input(&add, password)).ok();
    let login = ["login", registry, "--username", ADA, "--password-stdin"];
    let wrong = machine.shipway_with_input(&login, &canaries.wrong_password);
    search.absent_from_output(wrong).refused();
    search.absent_from_output(machine.shipway_with_input(&login, password)).ok();
    let config = machine.home().join(".docker/config.json");
    let mode = std::fs::metadata(&config).expect("a config").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", config.display());

    machine.push_busybox(&format!("{registry}/base:1"));
    let secret = machine.write("build-secret", &canaries.build);
    let dockerfile = format!(
        "FROM {registry}/base:1\nRUN --mount=type=secret,id=token,required=true \
         test \"$(wc -c < /run/secrets/token)\" -gt 32 && sha256sum /run/secrets/token > /used\n"
    );
    machine.write("context/Dockerfile", &dockerfile);
    let context = machine.path("context");
    let secret = format!("id=token,src={secret}");
    let image = format!("{registry}/app:1");
    let build = ["--log=debug", "build", "--progress=plain", "--secret", &secret];
    let push = ["-t", &image, "--push", context.to_str().expect("UTF-8")];
    search.absent_from_output(machine.shipway(&[&build[..], &push[..]].concat())).ok();
    for verb in ["inspect", "pull", "tags"] {
        let name = if verb == "tags" { format!("{registry}/app") } else { image.clone() };
        search.absent_from_output(machine.shipway(&["--log=trace", verb, &name])).ok();
    }
}

/// A credential helper that knows the password, and one that fails with it on its lips.
fn helper_gives_a_password(machine: &Machine, canaries: &Canaries, search: &Search) {
    let registry = &machine.registry;
    let answer = format!(r#"{{"Username":"{ADA}","Secret":"{}"}}"#, canaries.registry_password);
    let broken = format!("not JSON {}", canaries.helper);
    for (name, output, works) in [("right", answer, true), ("broken", broken, false)] {
        let script = machine.write(
            &format!("helpers/docker-credential-{name}"),
            &format!("#!/bin/sh\ncat > /dev/null\nprintf '%s' '{output}'\n"),
        );
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("an executable script");
        let config = format!(r#"{{"credHelpers":{{"{registry}":"{name}"}}}}"#);
        machine.write(&format!("with-{name}/config.json"), &config);
        let ran = search.absent_from_output(machine.shell(&format!(
            "export PATH=$PWD/helpers:$PATH DOCKER_CONFIG=$PWD/with-{name}
             shipway --log=debug inspect {registry}/app:1"
        )));
        assert_eq!(ran.code == 0, works, "{}{}", ran.stdout, ran.stderr);
    }
}

fn pods_pull(machine: &Machine, canaries: &Canaries, search: &Search) {
    let registry = &machine.registry;
    let auth = |password: &str| base64_encode(&format!("{ADA}:{password}"));
    let config = |auth: &str| format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#);
    let plain = format!("{ADA}:{}", canaries.malformed);
    for (name, config) in [
        ("right", config(&auth(&canaries.registry_password))),
        ("wrong", config(&auth(&canaries.wrong_password))),
        ("malformed", config(&plain)),
    ] {
        let manifest = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n\
             type: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson: {}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  imagePullSecrets: [{{name: {name}}}]\n  \
             containers: [{{name: main, image: \"{registry}/app:1\", imagePullPolicy: Always, \
             command: [sleep, \"3600\"]}}]\n",
            base64_encode(&config)
        );
        search.absent(name, machine.apply(&manifest).as_bytes());
    }
    // The node's own file has a credential for this path, which is refused.
    let of_the_node = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: of-the-node}}\nspec:\n  containers: \
         [{{name: main, image: \"{registry}/of-the-node/app:1\"}}]\n"
    );
    machine.apply(&of_the_node);
    machine.wait("pod/right", "default", "condition=Ready");
    for (pod, text) in
        [("wrong", "401"), ("malformed", "illegal base64 data"), ("of-the-node", "401")]
    {
        search.absent(pod, machine.wait_for_event(pod, "default", "Failed", text).as_bytes());
    }
}

/// Events, pods and nodes as everybody may read them.
fn what_the_api_tells(machine: &Machine, search: &Search) {
    for arguments in [
        &["get", "events", "-A", "-o", "yaml"][..],
        &["get", "pods,nodes,serviceaccounts", "-A", "-o", "yaml"],
        &["describe", "pods"],
        &["describe", "secrets"],
        &["logs", "right"],
    ] {
        let ran = search.absent_from_output(machine.kubectl(arguments)).ok();
        assert!(!ran.is_empty() || arguments[0] == "logs", "{arguments:?}");
    }
}

/// What the daemon starts does not inherit what its user set: neither the supervisors of
/// containers nor what runs in them. Nothing else on this machine has a canary either.
fn environments_of_what_the_daemon_started(machine: &Machine, search: &Search) {
    let daemon = machine.pid();
    let mut of_the_pod = 0;
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let (path, name) = (process.path(), process.file_name());
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(environment) = std::fs::read(path.join("environ")) else { continue };
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        of_the_pod += u32::from(arguments == b"sleep\x003600\0");
        if pid != daemon {
            let arguments = String::from_utf8_lossy(&arguments);
            search.absent(&format!("the environment of {pid} ({arguments:?})"), &environment);
        }
    }
    assert!(0 < of_the_pod, "the pod has a process");
}

/// The state directory: logs, blobs, unpacked layers, records, crash output. Core dumps would be
/// in the working directory, which is the machine's.
fn what_is_left_on_disk(machine: &Machine, search: &Search) {
    let state = machine.state_dir();
    let database = state.join("cluster/state.redb");
    assert!(database.exists(), "{}", database.display());
    for closed in [&state, &state.join("cluster")] {
        let mode = std::fs::metadata(closed).expect("a directory").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others", closed.display());
    }
    let exempt = [
        database,
        machine.home().join(".docker"),
        machine.node_home().join(".docker"),
        machine.path("build-secret"),
        machine.path("helpers"),
    ];
    search.absent_from_files(machine.dir.path(), &exempt);
}
