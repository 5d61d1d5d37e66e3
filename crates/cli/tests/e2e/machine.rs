//! One machine with `shipway up`, and the clients that a person would use on it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest time that any single step may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The user that every test machine's registry knows.
pub(crate) const USER: &str = "janedoe";
/// Its password.
pub(crate) const PASSWORD: &str = "correct-horse-battery";

/// Which kubectl a tutorial is run with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kubectl {
    /// The machine's own.
    Machine,
    /// Debian's package `kubernetes-client`, unpacked by `cargo xtask peers`.
    Debian,
}

impl Kubectl {
    fn path(self) -> PathBuf {
        let debian = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../target/peers/kubernetes-client/usr/bin/kubectl");
        match self {
            Self::Debian => {
                assert!(
                    debian.exists(),
                    "run `cargo xtask peers`: {} is missing",
                    debian.display()
                );
                debian
            }
            // A machine without a kubectl of its own tests with Debian's alone.
            Self::Machine if Path::new("/usr/bin/kubectl").exists() => "/usr/bin/kubectl".into(),
            Self::Machine => debian,
        }
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Command line, for messages.
    pub(crate) command: String,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
    /// Exit code; -1 for a signal.
    pub(crate) code: i32,
}

impl Ran {
    fn of(command: &Command, output: Output) -> Self {
        Self {
            command: format!("{command:?}"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// Both outputs of a command that must have failed.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_ne!(self.code, 0, "{} succeeded\n{}{}", self.command, self.stdout, self.stderr);
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end, with text for its standard input.
pub(crate) fn run(command: &mut Command, stdin: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut input = child.stdin.take().expect("standard input is piped");
    let text = stdin.to_owned();
    // A program that does not read its input must not block us.
    let writer = std::thread::spawn(move || {
        let _ = input.write_all(text.as_bytes());
    });
    let output = child.wait_with_output().expect("the child can be waited for");
    writer.join().expect("the writer does not panic");
    Ran::of(command, output)
}

/// The binary under test.
pub(crate) fn shipway() -> Command {
    Command::new(env!("CARGO_BIN_EXE_shipway"))
}

/// A machine on which `shipway up` runs; dropping it takes everything down.
pub(crate) struct Machine {
    /// Everything of this machine is below.
    pub(crate) dir: TempDir,
    /// `host:port` of its registry.
    pub(crate) registry: String,
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    flags: Vec<String>,
    /// Variables of every command, that of the daemon included.
    environment: Vec<(String, String)>,
}

impl Machine {
    /// Starts a machine with more flags for `shipway up`.
    pub(crate) fn with_flags(kubectl: Kubectl, flags: &[&str]) -> Self {
        Self::start(kubectl, flags, &[])
    }

    /// Starts a machine whose user has set variables.
    pub(crate) fn with_environment(kubectl: Kubectl, environment: &[(&str, &str)]) -> Self {
        Self::start(kubectl, &[], environment)
    }

    /// Starts a machine with both.
    pub(crate) fn start(kubectl: Kubectl, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("shipway-e2e-").tempdir().expect("a directory");
        for home in ["home", "node-home"] {
            std::fs::create_dir_all(dir.path().join(home)).expect("a home directory");
        }
        let mut machine = Self {
            dir,
            registry: String::new(),
            kubeconfig: PathBuf::new(),
            kubectl,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        machine.up("127.0.0.1:0");
        machine.add_user(USER, PASSWORD);
        machine
    }

    /// Starts a machine.
    pub(crate) fn new(kubectl: Kubectl) -> Self {
        Self::with_flags(kubectl, &[])
    }

    /// `shipway up`; again after a stop or a crash, then with the registry's old address.
    pub(crate) fn up(&mut self, registry_address: &str) {
        let flags: Vec<String> = self.flags.clone();
        let mut arguments =
            vec!["up", "-o", "json", "--api-address", "127.0.0.1:0", "--registry-address"];
        arguments.push(registry_address);
        arguments.extend(flags.iter().map(String::as_str));
        let mut command = shipway();
        command.args(&arguments);
        self.prepare(&mut command);
        // The node's home is not the user's: what a user logs in to is not open to every pod.
        let ran = run(command.env("HOME", self.node_home()), "");
        let report: Value = serde_json::from_str(&ran.ok()).expect("JSON");
        let text = |name: &str| report[name].as_str().expect("a string in the report").to_owned();
        self.registry = text("registryAddress");
        self.kubeconfig = text("kubeconfig").into();
    }

    /// Path of something below the machine's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The user's home directory.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The home directory that the node sees.
    pub(crate) fn node_home(&self) -> PathBuf {
        self.path("node-home")
    }

    /// Writes a file below the machine's directory and returns its path as text.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env("HOME", self.home())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("SHIPWAY_STATE_DIR", self.state_dir())
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_AUTH_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("XDG_DATA_HOME")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    /// Runs `shipway` on this machine.
    pub(crate) fn shipway(&self, arguments: &[&str]) -> Ran {
        self.shipway_with_input(arguments, "")
    }

    /// Runs `shipway` with text on its standard input.
    pub(crate) fn shipway_with_input(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = shipway();
        command.args(arguments);
        self.prepare(&mut command);
        run(&mut command, stdin)
    }

    /// Runs the kubectl under test.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with_input(arguments, "")
    }

    /// Runs the kubectl under test with text on its standard input.
    pub(crate) fn kubectl_with_input(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(self.kubectl.path());
        command.args(arguments);
        self.prepare(&mut command);
        run(&mut command, stdin)
    }

    /// Runs a shell script in which `kubectl` is the kubectl under test and `shipway` is ours.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        let bin = self.path("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        for (name, target) in
            [("kubectl", self.kubectl.path()), ("shipway", env!("CARGO_BIN_EXE_shipway").into())]
        {
            let link = bin.join(name);
            if !link.exists() {
                let target = target.canonicalize().expect("the program exists");
                // The machine's kubectl finds its siblings by its own path: a script, not a link.
                let text = format!("#!/bin/sh\nexec '{}' \"$@\"\n", target.display());
                std::fs::write(&link, text).expect("a script");
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(&link, mode).expect("an executable script");
            }
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail", "-c", script]).env("PATH", path);
        self.prepare(&mut command);
        run(&mut command, "")
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.kubectl_with_input(&["apply", "-f", "-"], manifest).ok()
    }

    /// Waits with the machine's newer kubectl; `condition` is the value of `--for`.
    #[track_caller]
    pub(crate) fn wait(&self, object: &str, namespace: &str, condition: &str) {
        let mut command = Command::new(Kubectl::Machine.path());
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        command.args(["wait", object, "-n", namespace, &format!("--for={condition}"), &limit]);
        self.prepare(&mut command);
        let ran = run(&mut command, "");
        if ran.code != 0 {
            let describe = self.kubectl(&["describe", object, "-n", namespace]).stdout;
            panic!("{}\n{}{}\n{describe}", ran.command, ran.stdout, ran.stderr);
        }
    }

    /// Waits until a pod's first container waits for `reason`.
    #[track_caller]
    pub(crate) fn wait_for_waiting_reason(&self, pod: &str, namespace: &str, reason: &str) {
        let path = "{.status.containerStatuses[0].state.waiting.reason}";
        self.wait(&format!("pod/{pod}"), namespace, &format!("jsonpath={path}={reason}"));
    }

    /// Waits until a pod has an event with `reason` whose message contains `text`, and returns the
    /// message.
    #[track_caller]
    pub(crate) fn wait_for_event(
        &self,
        pod: &str,
        namespace: &str,
        reason: &str,
        text: &str,
    ) -> String {
        let selector = format!("involvedObject.name={pod},reason={reason}");
        let template = "jsonpath={.message}{\"\\n\"}";
        let mut command = Command::new(Kubectl::Machine.path());
        command
            .args(["get", "events", "-n", namespace, "--field-selector", &selector])
            .args(["--watch", "-o", template]);
        self.prepare(&mut command);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = command.spawn().expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        let found = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok(line) if line.contains(text) => break Some(line),
                Ok(line) => seen.push(line),
                Err(_) => break None,
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        drop(receiver);
        let _ = reader.join();
        found.unwrap_or_else(|| {
            let describe = self.kubectl(&["describe", "pod", pod, "-n", namespace]).stdout;
            panic!("no event {reason} of {pod} with {text:?}; seen {seen:?}\n{describe}")
        })
    }

    /// Adds a user to the machine's registry.
    #[track_caller]
    pub(crate) fn add_user(&self, user: &str, password: &str) {
        let arguments = ["registry", "user", "add", user, "--password-stdin"];
        self.shipway_with_input(&arguments, password).ok();
    }

    /// `shipway login`.
    #[track_caller]
    pub(crate) fn login(&self, registry: &str, user: &str, password: &str) -> String {
        let arguments = ["login", registry, "--username", user, "--password-stdin"];
        self.shipway_with_input(&arguments, password).ok()
    }

    /// Builds a base image from busybox alone, and pushes it as `name` (registry and tag included).
    #[track_caller]
    pub(crate) fn push_busybox(&self, name: &str) {
        let context = self.path("busybox-context");
        std::fs::create_dir_all(&context).expect("a directory");
        std::fs::copy("/bin/busybox", context.join("busybox"))
            .expect("busybox-static is installed");
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                          RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
                          ENV PATH=/bin\nCMD [\"sleep\", \"3600\"]\n";
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
        let context = context.to_str().expect("UTF-8").to_owned();
        self.shipway(&["build", "--progress=plain", "-t", name, "--push", &context]).ok();
    }

    /// Process number of the running `shipway up`.
    pub(crate) fn pid(&self) -> u32 {
        let report: Value =
            serde_json::from_str(&self.shipway(&["status", "-o", "json"]).ok()).expect("JSON");
        report["pid"].as_u64().expect("a process number").try_into().expect("a process number")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ran = self.shipway(&["down"]);
        if ran.code != 0 && !std::thread::panicking() {
            panic!("{}\n{}{}", ran.command, ran.stdout, ran.stderr);
        }
        if std::thread::panicking() {
            // The log of the node is what one needs to see after a failed test.
            let log = std::fs::read_to_string(self.state_dir().join("shipway.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- end of shipway.log (newest first)\n{}", tail.join("\n"));
        }
    }
}

/// Debian's docker-registry with htpasswd, as a second private registry.
pub(crate) struct DebianRegistry {
    /// `host:port`.
    pub(crate) address: String,
    child: std::process::Child,
    dir: TempDir,
}

impl DebianRegistry {
    /// Starts it with one user.
    pub(crate) fn start(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let htpasswd = run(Command::new("htpasswd").args(["-niB", user]), password).ok();
        std::fs::write(dir.path().join("htpasswd"), htpasswd).expect("a file");
        // The port is chosen by the kernel and freed again just before the registry takes it.
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("an address").port()
        };
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\nauth:\n  htpasswd:\n    realm: debian\n    path: {dir}/htpasswd\n",
            dir = dir.path().display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("a file");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        // It logs "listening on" when it accepts connections; afterwards the pipe must be drained.
        let mut lines =
            BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let mut log = String::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.contains("listening on") => break,
                Some(Ok(line)) => log.push_str(&(line + "\n")),
                other => panic!("docker-registry did not start: {other:?}\n{log}"),
            }
        }
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { address, child, dir }
    }
}

impl DebianRegistry {
    /// Where it keeps everything.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Decodes base64 text with the tool that the tutorials use.
#[track_caller]
pub(crate) fn base64_decode(text: &str) -> String {
    run(Command::new("base64").arg("--decode"), text).ok()
}

/// Encodes without line breaks.
#[track_caller]
pub(crate) fn base64_encode(text: &str) -> String {
    run(Command::new("base64").arg("-w0"), text).ok()
}
