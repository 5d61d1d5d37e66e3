//! Images onto a machine: pull and unpack beside skopeo + umoci and containerd, and the time a pod
//! takes whose image is not there yet.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::base_image::{BIG_BYTES, BIG_FILES, BaseImage, Random};
use super::machine::Machine;
use super::report::{Measurement, Promise};
use super::stage::{self, DebianRegistry, Stage};

const RUNS: usize = 3;
/// The image of the pod: parts that are a layer each.
const PARTS: usize = 8;
const PART_FILES: usize = 500;
const PART_BYTES: usize = 25_000_000;
/// How long containerd may take to answer.
const CONTAINERD_START_MAX: Duration = Duration::from_secs(20);

/// Pull and unpack of the big base from Debian's registry, the three programs by turns, each with
/// an empty store.
pub(crate) fn pull_and_unpack(stage: &Stage) -> Result<Vec<Measurement>> {
    let base = BaseImage::push(stage, BIG_FILES, BIG_BYTES)?;
    let (mut ours, mut memory) = (Vec::new(), Vec::new());
    let (mut skopeo, mut containerd) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let home = base.path(&format!("machine-{run}"));
        std::fs::create_dir(&home)?;
        let machine = Machine::up(stage, &home)?;
        ours.push(machine.pull(&base.reference)?);
        memory.push(machine.peak_memory()?);
        machine.leave();
        skopeo.push(with_skopeo_and_umoci(&base, run)?);
        containerd.push(with_containerd(&base, run)?);
    }
    let what = "pull and unpack of the 68k-file, 825 MB base from a local registry";
    let ratio = Promise::RatioAtMost(0.5);
    Ok(vec![
        Measurement::beside(what, "skopeo + umoci", "s", ours.clone(), skopeo, ratio),
        Measurement::beside(what, "containerd (ctr)", "s", ours, containerd, ratio),
        Measurement::alone(
            "peak memory of the machine (API server, registry and node) after that pull",
            "MiB",
            memory,
            Promise::AtMost(256.0),
        ),
    ])
}

/// `kubectl create` to Running of a pod whose image of 200 MB in eight layers is at the registry
/// only, each on a machine of its own.
pub(crate) fn cold_pod(stage: &Stage) -> Result<Vec<Measurement>> {
    let directory = stage::directory()?;
    let registry = DebianRegistry::start(directory.path())?;
    let image = push_parts(stage, directory.path(), &registry)?;
    let mut seconds = Vec::new();
    for run in 0..RUNS {
        let home = directory.path().join(format!("machine-{run}"));
        std::fs::create_dir(&home)?;
        let machine = Machine::up(stage, &home)?;
        seconds.push(machine.start_pod("cold", &image)?);
    }
    Ok(vec![Measurement::alone(
        "pod with a 200 MB image that is not on the node: create to Running",
        "s",
        seconds,
        Promise::None,
    )])
}

fn with_skopeo_and_umoci(base: &BaseImage, run: usize) -> Result<f64> {
    let layout = base.path(&format!("layout-{run}"));
    let bundle = base.path(&format!("bundle-{run}"));
    let started = Instant::now();
    stage::quiet(
        Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false"])
            .arg(format!("docker://{}", base.reference))
            .arg(format!("oci:{}:base", layout.display())),
    )?;
    stage::quiet(
        Command::new("umoci")
            .args(["unpack", "--image"])
            .arg(format!("{}:base", layout.display()))
            .arg(&bundle),
    )?;
    Ok(started.elapsed().as_secs_f64())
}

fn with_containerd(base: &BaseImage, run: usize) -> Result<f64> {
    let containerd = Containerd::start(&base.path(&format!("containerd-{run}")))?;
    let started = Instant::now();
    stage::quiet(containerd.ctr().args(["images", "pull", "--plain-http", &base.reference]))?;
    Ok(started.elapsed().as_secs_f64())
}

/// A containerd with a store of its own and without its CRI plugin.
struct Containerd {
    child: Child,
    socket: String,
}

impl Containerd {
    fn start(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let socket = format!("{}/containerd.sock", directory.display());
        let config = directory.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n",
            directory.display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("containerd is not installed")?;
        let containerd = Self { child, socket };
        let deadline = Instant::now() + CONTAINERD_START_MAX;
        while stage::quiet(containerd.ctr().arg("version")).is_err() {
            ensure!(Instant::now() < deadline, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(containerd)
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", &self.socket]);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds and pushes the image of the pod.
fn push_parts(stage: &Stage, directory: &Path, registry: &DebianRegistry) -> Result<String> {
    let image = format!("{}/parts:1", registry.address);
    let context = stage.busybox_context(directory)?;
    let mut dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                          RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n"
        .to_owned();
    let mut random = Random(7);
    for part in 0..PARTS {
        let path = Path::new(&context).join(format!("part-{part}"));
        std::fs::create_dir_all(&path)?;
        for file in 0..PART_FILES {
            let text = random.text(PART_BYTES / PART_FILES);
            std::fs::write(path.join(format!("file-{file}")), text)?;
        }
        dockerfile.push_str(&format!("COPY part-{part} /opt/part-{part}\n"));
    }
    std::fs::write(Path::new(&context).join("Dockerfile"), dockerfile)?;
    stage::quiet(
        Command::new(&stage.shipway)
            .args(["build", "-t", &image, "--push", &context])
            .env("SHIPWAY_STATE_DIR", directory.join("build-state")),
    )?;
    Ok(image)
}
