//! The embedded machine: start to first answer, memory, pod start, the demo.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::report::{Measurement, Promise};
use super::stage::{self, Stage};

/// How often each is measured.
const RUNS: usize = 7;

/// `shipway up` to the first `kubectl get nodes`, and the memory of the idle machine after it.
pub(crate) fn up(stage: &Stage) -> Result<Vec<Measurement>> {
    let mut seconds = Vec::new();
    let mut mebibytes = Vec::new();
    for _ in 0..RUNS {
        let directory = stage::directory()?;
        let started = Instant::now();
        let machine = Machine::up(stage, directory.path())?;
        machine.kubectl(&["get", "nodes"])?;
        seconds.push(started.elapsed().as_secs_f64());
        let status = stage::json(machine.shipway(&["status", "-o", "json"]))?;
        let bytes = status["residentBytes"].as_f64().context("no residentBytes in the status")?;
        mebibytes.push(bytes / f64::from(1 << 20));
    }
    Ok(vec![
        Measurement::alone(
            "`shipway up` to first successful `kubectl get nodes`",
            "s",
            seconds,
            Promise::AtMost(1.0),
        ),
        Measurement::alone(
            "memory of the idle machine (RSS)",
            "MiB",
            mebibytes,
            Promise::AtMost(60.0),
        ),
    ])
}

/// A pod whose image is on the node: create to Running, as a watching client sees it.
pub(crate) fn pod(stage: &Stage) -> Result<Vec<Measurement>> {
    let directory = stage::directory()?;
    let machine = Machine::up(stage, directory.path())?;
    let image = machine.push_busybox(stage)?;
    let mut milliseconds = Vec::new();
    // The first pull is not what is measured.
    machine.start_pod("warm", &image)?;
    for run in 0..RUNS {
        milliseconds.push(machine.start_pod(&format!("pod-{run}"), &image)? * 1000.0);
    }
    Ok(vec![Measurement::alone(
        "pod with a present image: create to Running (kubectl's own time included)",
        "ms",
        milliseconds,
        Promise::AtMost(150.0),
    )])
}

/// The whole demo.
pub(crate) fn demo(stage: &Stage) -> Result<Vec<Measurement>> {
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        stage::quiet(Command::new(&stage.shipway).arg("demo"))?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok(vec![Measurement::alone("`shipway demo`", "s", seconds, Promise::AtMost(30.0))])
}

/// An embedded machine that ends when dropped.
pub(super) struct Machine<'a> {
    stage: &'a Stage,
    directory: &'a Path,
    registry: String,
    /// Of the daemon.
    process: u64,
    /// Whether its state stays when it ends.
    stays: bool,
}

impl<'a> Machine<'a> {
    pub(super) fn up(stage: &'a Stage, directory: &'a Path) -> Result<Self> {
        let mut machine =
            Self { stage, directory, registry: String::new(), process: 0, stays: false };
        let ports = ["--api-address=127.0.0.1:0", "--registry-address=127.0.0.1:0"];
        let flags = ["up", "-o", "json", "--registry-anonymous=push", ports[0], ports[1]];
        let report = stage::json(machine.shipway(&flags))?;
        machine.registry =
            report["registryAddress"].as_str().context("no registryAddress")?.to_owned();
        machine.process = report["pid"].as_u64().context("no pid")?;
        Ok(machine)
    }

    fn prepare(&self, mut command: Command) -> Command {
        command
            .current_dir(self.directory)
            .env("HOME", self.directory)
            .env("SHIPWAY_STATE_DIR", self.directory.join("state"))
            .env("KUBECONFIG", self.directory.join("state/cluster/kubeconfig"));
        command
    }

    fn shipway(&self, arguments: &[&str]) -> Command {
        let mut command = self.prepare(Command::new(&self.stage.shipway));
        command.args(arguments);
        command
    }

    /// Seconds that the node takes to pull and unpack an image.
    pub(super) fn pull(&self, image: &str) -> Result<f64> {
        let started = Instant::now();
        stage::quiet(&mut self.shipway(&["node", "pull", image]))?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// The most memory (`VmHWM`) that the daemon had, in MiB.
    pub(super) fn peak_memory(&self) -> Result<f64> {
        let kibibytes = stage::peak_kibibytes(&format!("/proc/{}/status", self.process));
        Ok(kibibytes.context("the daemon is gone")? / 1024.0)
    }

    /// Ends the machine and leaves its files, see [`super::base_image::BaseImage`].
    pub(super) fn leave(mut self) {
        self.stays = true;
    }

    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        stage::quiet(self.prepare(Command::new("kubectl")).args(arguments))
    }

    fn push_busybox(&self, stage: &Stage) -> Result<String> {
        let image = format!("{}/busybox:1", self.registry);
        let context = stage.busybox_context(self.directory)?;
        stage::quiet(&mut self.shipway(&["build", "-t", &image, "--push", &context]))?;
        Ok(image)
    }

    /// Seconds from the start of the program `kubectl create` to the Running that a watch shows.
    pub(super) fn start_pod(&self, name: &str, image: &str) -> Result<f64> {
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
                 "command": ["sleep", "3600"]}]},
        });
        self.create_and_watch(name, &manifest, "Running")
    }

    /// Seconds that a kaniko pod with only the default rights takes, from `kubectl create` to the
    /// Succeeded that a watch shows.
    pub(super) fn run_executor(&self, name: &str, context: &Path, args: &[&str]) -> Result<f64> {
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "main", "image": "gcr.io/kaniko-project/executor:latest", "args": args,
                    "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}]}],
                "volumes": [{"name": "workspace", "hostPath": {"path": context}}],
            },
        });
        let seconds = self.create_and_watch(name, &manifest, "Succeeded");
        let log = self.prepare(Command::new("kubectl")).args(["logs", name]).output()?;
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        let seconds = seconds.with_context(|| log.clone())?;
        ensure!(log.contains("inplace"), "the pod did not build in place:\n{log}");
        self.kubectl(&["delete", "pod", name, "--now"])?;
        Ok(seconds)
    }

    fn create_and_watch(
        &self,
        name: &str,
        manifest: &serde_json::Value,
        phase: &str,
    ) -> Result<f64> {
        let file = self.directory.join(format!("{name}.json"));
        std::fs::write(&file, manifest.to_string())?;
        let mut watch = self
            .prepare(Command::new("kubectl"))
            .args(["get", "pods", "--watch", "--field-selector"])
            .arg(format!("metadata.name={name}"))
            .args(["-o", "jsonpath={.status.phase}{\"\\n\"}", "--output-watch-events=false"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl")?;
        let lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        let file = file.to_str().context("UTF-8")?.to_owned();
        let started = Instant::now();
        self.kubectl(&["create", "-f", &file])?;
        let mut reached = false;
        for line in lines {
            let line = line?;
            reached = line.contains(phase);
            if reached || line.contains("Failed") {
                break;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        watch.kill()?;
        watch.wait()?;
        ensure!(reached, "pod {name} did not become {phase}");
        Ok(seconds)
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // A failed clean-up shows in the next run; a bench has nothing better to do about it.
        let purge: &[&str] = if self.stays { &["down"] } else { &["down", "--purge"] };
        let _ = stage::quiet(&mut self.shipway(purge));
    }
}
