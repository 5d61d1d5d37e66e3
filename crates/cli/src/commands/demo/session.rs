//! The demo's terminal: it shows each command, runs it, shows what it printed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, anyhow};
use credentials::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::exit::{Failure, Kind};
use crate::output;

/// Longest wait for a pod or a job, in seconds.
const WAIT_SECONDS_MAX: u64 = 120;

/// Bytes of randomness in the demo user's password.
const PASSWORD_BYTES: usize = 18;

/// The directory, the programs and the environment of one demo.
pub(super) struct Session {
    directory: tempfile::TempDir,
    program: PathBuf,
    kubectl: PathBuf,
}

impl Session {
    /// Makes the directory and finds, or fetches, kubectl.
    pub(super) async fn prepare() -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("shipway-demo-")
            .tempdir()
            .context("cannot make a directory for the demo")?;
        let program = std::env::current_exe().context("cannot find our own program")?;
        let kubectl = match find_program("kubectl") {
            Some(path) => path,
            None => fetch_kubectl(directory.path()).await?,
        };
        let session = Self { directory, program, kubectl };
        for home in ["home", "node-home"] {
            std::fs::create_dir_all(session.path(home)).context("cannot make a home directory")?;
        }
        Ok(session)
    }

    /// A path below the demo's directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env("HOME", self.path("home"))
            .env("SHIPWAY_STATE_DIR", self.path("state"))
            .env("KUBECONFIG", self.path("state/cluster/kubeconfig"))
            .env_remove("DOCKER_CONFIG")
            .env_remove("XDG_DATA_HOME")
            .kill_on_drop(true);
        command
    }

    /// Shows and runs a command; `stdin` is not shown.
    async fn run(
        &self,
        program: &Path,
        name: &str,
        arguments: &[&str],
        stdin: Option<&Secret>,
    ) -> Result<String, Failure> {
        let line = format!("{name} {}", arguments.join(" "));
        output::line(&format!("   $ {line}"));
        let text = self.run_quietly(program, arguments, stdin, &line).await?;
        for line in text.lines() {
            output::line(&format!("   {line}"));
        }
        Ok(text)
    }

    async fn run_quietly(
        &self,
        program: &Path,
        arguments: &[&str],
        stdin: Option<&Secret>,
        line: &str,
    ) -> Result<String, Failure> {
        let mut command = self.command(program);
        command.args(arguments);
        finish(command, stdin, line).await
    }

    /// Runs `shipway` with these arguments.
    pub(super) async fn shipway(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.run(&self.program, "shipway", arguments, None).await
    }

    /// Runs `kubectl` with these arguments.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.run(&self.kubectl, "kubectl", arguments, None).await
    }

    /// Starts the machine; returns `host:port` of its registry.
    pub(super) async fn up(&self) -> Result<String, Failure> {
        output::line("   $ shipway up");
        let ports = ["--api-address=127.0.0.1:0", "--registry-address=127.0.0.1:0"];
        let arguments = ["up", "-o", "json", ports[0], ports[1]];
        let mut command = self.command(&self.program);
        // The node's home is not the user's: what the user logs in to is not open to every pod.
        command.args(arguments).env("HOME", self.path("node-home"));
        let json = finish(command, None, "shipway up").await?;
        let report: serde_json::Value =
            serde_json::from_str(&json).context("shipway up printed no JSON")?;
        let registry =
            report["registryAddress"].as_str().context("shipway up named no registry")?;
        output::line(&format!("   registry {registry}, kubeconfig {}", report["kubeconfig"]));
        Ok(registry.to_owned())
    }

    /// Adds a user with a random password to the registry and logs in as that user.
    pub(super) async fn add_user(&self, registry: &str, user: &str) -> Result<(), Failure> {
        let mut random = [0; PASSWORD_BYTES];
        getrandom::fill(&mut random).map_err(|error| anyhow!("no randomness: {error}"))?;
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let password = Secret::new(hex);
        let add = ["registry", "user", "add", user, "--password-stdin"];
        self.run(&self.program, "shipway", &add, Some(&password)).await?;
        let login = ["login", registry, "--username", user, "--password-stdin"];
        self.run(&self.program, "shipway", &login, Some(&password)).await?;
        Ok(())
    }

    /// Creates the pull secret `regcred` from the file that login wrote, so that the password is
    /// in no command line.
    pub(super) async fn create_secret(&self) -> Result<(), Failure> {
        self.kubectl(&[
            "create",
            "secret",
            "generic",
            "regcred",
            "--type=kubernetes.io/dockerconfigjson",
            "--from-file=.dockerconfigjson=home/.docker/config.json",
        ])
        .await?;
        Ok(())
    }

    /// Writes a manifest and applies it.
    pub(super) async fn apply(&self, name: &str, manifest: &str) -> Result<(), Failure> {
        std::fs::write(self.path(name), manifest)
            .with_context(|| format!("cannot write {name}"))?;
        self.kubectl(&["apply", "-f", name]).await?;
        Ok(())
    }

    /// Waits until a pod is in `phase`; another final phase is an error with the pod's events.
    pub(super) async fn wait_for_phase(&self, pod: &str, phase: &str) -> Result<(), Failure> {
        let path = "jsonpath={.status.phase}{\"\\n\"}";
        let is_final = |seen: &str| matches!(seen, "Succeeded" | "Failed");
        let seen = self.watch(&format!("pod/{pod}"), path, is_final).await?;
        if seen == phase {
            return Ok(());
        }
        let described = self.describe(&format!("pod/{pod}")).await;
        Err(anyhow!("pod {pod} is {seen} and not {phase}\n{described}").into())
    }

    /// Waits for the end of a job; a failed job is an error with its pods' output.
    pub(super) async fn wait_for_job(&self, job: &str) -> Result<(), Failure> {
        output::line(&format!("   $ kubectl wait --for=condition=complete job/{job}"));
        let path = "jsonpath={.status.conditions[*].type}{\"\\n\"}";
        let ended = |seen: &str| seen.contains("Complete") || seen.contains("Failed");
        let seen = self.watch(&format!("job/{job}"), path, ended).await?;
        if seen.contains("Complete") {
            return Ok(());
        }
        let object = format!("job/{job}");
        let logs = ["logs", &object, "--tail=40"];
        let log = self.run_quietly(&self.kubectl, &logs, None, "kubectl logs").await;
        let log = log.unwrap_or_default();
        let described = self.describe(&object).await;
        Err(anyhow!("job {job} failed\n{log}\n{described}").into())
    }

    /// Waits for the first image error of a pod and returns its message.
    pub(super) async fn first_image_error(&self, pod: &str) -> Result<String, Failure> {
        // A star and not an index: before the first status there is no element to take.
        let state = ".status.containerStatuses[*].state.waiting";
        let path = format!(
            "jsonpath={{.status.phase}}: {{{state}.reason}}: {{{state}.message}}{{\"\\n\"}}"
        );
        let is_error = |seen: &str| seen.contains("ErrImagePull") || seen.contains("BackOff");
        let enough = |seen: &str| is_error(seen) || !seen.starts_with("Pending");
        let seen = self.watch(&format!("pod/{pod}"), &path, enough).await?;
        if !is_error(&seen) {
            return Err(anyhow!("pod {pod} was not refused: {seen}").into());
        }
        Ok(seen.trim_start_matches("Pending: ").to_owned())
    }

    async fn describe(&self, object: &str) -> String {
        let arguments = ["describe", object];
        self.run_quietly(&self.kubectl, &arguments, None, "kubectl describe")
            .await
            .unwrap_or_default()
    }

    /// Follows one value of an object until `enough`, by a watch and not by asking again.
    async fn watch(
        &self,
        object: &str,
        path: &str,
        enough: impl Fn(&str) -> bool,
    ) -> Result<String, Failure> {
        let mut child = self
            .command(&self.kubectl)
            .args(["get", object, "--watch", "-o", path])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let mut lines = BufReader::new(output).lines();
        let found = tokio::time::timeout(std::time::Duration::from_secs(WAIT_SECONDS_MAX), async {
            while let Some(line) = lines.next_line().await? {
                if enough(line.trim()) {
                    return anyhow::Ok(line.trim().to_owned());
                }
            }
            Err(anyhow!("the watch ended"))
        })
        .await;
        // The watch would go on for ever.
        let _ = child.kill().await;
        match found {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(error.context(format!("waiting for {object}")).into()),
            Err(_) => {
                let described = self.describe(object).await;
                Err(anyhow!("{object} took longer than {WAIT_SECONDS_MAX} s\n{described}").into())
            }
        }
    }

    /// A statically linked busybox for the base image; installed from Debian when missing.
    pub(super) async fn busybox(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = find_program("busybox") {
            return Ok(path);
        }
        output::line("   $ apt-get install -y busybox-static");
        let arguments = ["install", "-y", "-qq", "busybox-static"];
        let program = Path::new("apt-get");
        self.run_quietly(program, &arguments, None, "apt-get install busybox-static").await?;
        find_program("busybox").ok_or_else(|| {
            Failure::new(Kind::Environment, anyhow!("busybox is needed for the base image"))
                .hint("apt-get install busybox-static")
        })
    }

    /// Says how to use and how to stop what was left running.
    pub(super) fn keep(self) {
        let state = self.path("state");
        // From here on the directory is the user's.
        let directory = self.directory.keep();
        output::line(&format!(
            "\nLeft running below {}:\n  export KUBECONFIG={} SHIPWAY_STATE_DIR={}\n  shipway down --purge   stops it",
            directory.display(),
            state.join("cluster/kubeconfig").display(),
            state.display()
        ));
    }

    /// Takes everything down and removes the directory.
    pub(super) async fn clean_up(self) -> Result<(), Failure> {
        let down = self.run_quietly(&self.program, &["down"], None, "shipway down").await;
        let directory = self.directory.path().to_path_buf();
        let removed = self.directory.close();
        down?;
        removed.with_context(|| format!("cannot remove {}", directory.display()))?;
        Ok(())
    }
}

/// Runs a command to its end; `line` is how it is called in an error.
async fn finish(
    mut command: Command,
    stdin: Option<&Secret>,
    line: &str,
) -> Result<String, Failure> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("cannot start {line:?}"))?;
    if let (Some(secret), Some(mut input)) = (stdin, child.stdin.take()) {
        input.write_all(secret.expose().as_bytes()).await.context("cannot write to it")?;
    }
    let ended = child.wait_with_output().await.with_context(|| format!("{line:?}"))?;
    if !ended.status.success() {
        let printed = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        return Err(anyhow!("{line:?} ended with {}\n{printed}", ended.status).into());
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Unpacks Debian's kubectl beside the demo, without installing it.
async fn fetch_kubectl(directory: &Path) -> Result<PathBuf, Failure> {
    output::line(
        "kubectl is not installed; fetching Debian's package kubernetes-client for the demo",
    );
    let script = "apt-get update -qq && apt-get download -qq kubernetes-client && dpkg -x kubernetes-client_*.deb .";
    let status = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .stdout(Stdio::null())
        .status()
        .await
        .context("cannot start apt-get")?;
    let kubectl = directory.join("usr/bin/kubectl");
    if !status.success() || !kubectl.is_file() {
        return Err(Failure::new(
            Kind::Environment,
            anyhow!("kubectl is needed, and Debian's kubernetes-client could not be fetched"),
        )
        .hint("install kubectl and run the demo again"));
    }
    Ok(kubectl)
}
