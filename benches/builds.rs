//! Builds: cold beside buildah, in a pod, again from a registry cache, what a RUN costs, memory.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::base_image::{BIG_BYTES, BIG_FILES, BaseImage, Random};
use super::machine::Machine;
use super::report::{Measurement, Promise};
use super::stage::{self, Stage};

const RUNS: usize = 3;
/// RUN steps whose mean is the cost of one.
const STEPS: usize = 10;
/// More than this of a rebuild's own state means that it downloaded the base.
const REBUILD_STATE_BYTES_MAX: u64 = 16 << 20;

/// The cold build in overlay mode and buildah's by turns; the same in a pod with default rights;
/// the same again with nothing but a registry cache.
pub(crate) fn cold_build(stage: &Stage) -> Result<Vec<Measurement>> {
    let base = BaseImage::push(stage, BIG_FILES, BIG_BYTES)?;
    let context = base.path("context");
    write_context(&context, &base.reference)?;
    let storage = Buildah { base: &base };
    let (mut ours, mut theirs, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (seconds, bytes) = build_with_shipway(stage, &base, &context, run)?;
        ours.push(seconds);
        memory.push(bytes / f64::from(1 << 20));
        theirs.push(storage.build(&context, run)?);
    }
    let in_place = in_pods(stage, &base, &context)?;
    let (again, layered) = rebuilds(stage, &base, &context, &storage)?;
    let push = push_memory(stage, &base)?;
    storage.remove()?;
    let what = "cold build, two stages on a 68k-file, 825 MB base, 5 RUN, 3 COPY, pushed";
    let ratio = Promise::RatioAtMost(0.3);
    Ok(vec![
        Measurement::beside(what, "buildah (overlay, chroot)", "s", ours.clone(), theirs, ratio),
        Measurement::beside(
            "the same in a pod with default capabilities and seccomp RuntimeDefault (`inplace`)",
            "shipway (overlay)",
            "s",
            in_place,
            ours,
            Promise::RatioAtMost(1.5),
        ),
        Measurement::beside(
            "rebuild, nothing changed, new process, registry cache only, no layer downloaded",
            "buildah --layers (its local store)",
            "s",
            again,
            layered,
            Promise::AtMost(1.0),
        ),
        Measurement::alone("peak memory of that build", "MiB", memory, Promise::AtMost(256.0)),
        Measurement::alone(
            "peak memory of pull and of push of that base",
            "MiB",
            push,
            Promise::AtMost(256.0),
        ),
    ])
}

/// What a RUN that changes one file costs on bases of three sizes, in three ways of running it.
pub(crate) fn run_cost(stage: &Stage) -> Result<Vec<Measurement>> {
    let mut measured = Vec::new();
    for files in [1_000, 10_000, BIG_FILES, 100_000] {
        // The big base has its promised size; the others take after it.
        let base = BaseImage::push(stage, files, BIG_BYTES / BIG_FILES * files)?;
        for mode in ["overlay", "userns"] {
            measured.push(Measurement::alone(
                &format!("a RUN that changes one file, {files} files below it, {mode}"),
                "ms",
                steps_here(stage, &base, mode)?,
                Promise::AtMost(30.0),
            ));
        }
        measured.push(Measurement::alone(
            &format!("a RUN that changes one file, {files} files below it, in place"),
            "ms",
            steps_in_pods(stage, &base)?,
            Promise::AtMost(250.0),
        ));
    }
    Ok(measured)
}

fn write_context(context: &Path, base: &str) -> Result<()> {
    std::fs::create_dir_all(context.join("src"))?;
    std::fs::create_dir_all(context.join("conf"))?;
    let mut random = Random(42);
    for n in 0..500 {
        std::fs::write(context.join(format!("src/source-{n}.c")), random.text(8_000))?;
    }
    std::fs::write(context.join("conf/app.conf"), "listen = 8080\n")?;
    let dockerfile = format!(
        "FROM {base} AS build
WORKDIR /src
COPY src /src
RUN mkdir /out && for f in *.c; do md5sum $f > /out/$f.sum; done
RUN cat *.c > /out/all && gzip -c /out/all > /out/all.gz
RUN rm -r /usr/share/tree/0/1 && touch /usr/share/tree/0/0/new
FROM {base}
COPY --from=build /out /opt/app
COPY conf /etc/app
RUN adduser -D -H app 2>/dev/null || true; mkdir -p /var/lib/app
RUN md5sum /opt/app/all > /var/lib/app/sum
CMD [\"sh\"]
"
    );
    let mut file = std::fs::File::create(context.join("Dockerfile"))?;
    file.write_all(dockerfile.as_bytes()).context("cannot write the Dockerfile")
}

/// Seconds and peak bytes of memory.
fn build_with_shipway(
    stage: &Stage,
    base: &BaseImage,
    context: &Path,
    run: usize,
) -> Result<(f64, f64)> {
    let image = format!("{}/shipway:{run}", base.registry.address);
    let started = Instant::now();
    let bytes = stage::peak_memory(
        Command::new(&stage.shipway)
            .args(["build", "-t", &image, "--push"])
            .arg(context)
            .env("SHIPWAY_STATE_DIR", base.path(&format!("state-{run}"))),
    )?;
    Ok((started.elapsed().as_secs_f64(), bytes))
}

/// buildah with a store of its own per name.
struct Buildah<'a> {
    base: &'a BaseImage,
}

impl Buildah<'_> {
    fn command(&self, store: &str, arguments: &[&str]) -> Command {
        let path = self.base.path(&format!("buildah-{store}"));
        let mut command = Command::new("buildah");
        command
            .arg(format!("--root={}/root", path.display()))
            .arg(format!("--runroot={}/run", path.display()))
            .arg("--storage-driver=overlay")
            .args(arguments);
        command
    }

    fn build(&self, context: &Path, run: usize) -> Result<f64> {
        let image = format!("{}/buildah:{run}", self.base.registry.address);
        let context = context.to_str().context("UTF-8")?;
        let store = run.to_string();
        let started = Instant::now();
        let flags = ["build", "--isolation=chroot", "--tls-verify=false", "-t", &image, context];
        stage::quiet(&mut self.command(&store, &flags))?;
        stage::quiet(&mut self.command(&store, &["push", "--tls-verify=false", &image]))?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn build_layers(&self, context: &Path) -> Result<f64> {
        let context = context.to_str().context("UTF-8")?;
        let flags = [
            "build",
            "--isolation=chroot",
            "--tls-verify=false",
            "--layers",
            "-t",
            "layers",
            context,
        ];
        let started = Instant::now();
        stage::quiet(&mut self.command("layers", &flags))?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Its stores hold mounts that a plain removal would trip over.
    fn remove(&self) -> Result<()> {
        for store in (0..RUNS).map(|run| run.to_string()).chain(["layers".to_owned()]) {
            stage::quiet(&mut self.command(&store, &["rmi", "--all", "--force"]))?;
        }
        Ok(())
    }
}

/// The cold build as a kaniko pod, each on a machine of its own.
fn in_pods(stage: &Stage, base: &BaseImage, context: &Path) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for run in 0..RUNS {
        let directory = base.path(&format!("machine-{run}"));
        std::fs::create_dir(&directory)?;
        let machine = Machine::up(stage, &directory)?;
        let destination = format!("--destination={}/pod:{run}", base.registry.address);
        let flags = ["--context=/workspace", &destination];
        seconds.push(machine.run_executor("build", context, &flags)?);
    }
    Ok(seconds)
}

/// The same build again from a registry cache with an empty state directory, and buildah's from
/// its own store.
fn rebuilds(
    stage: &Stage,
    base: &BaseImage,
    context: &Path,
    buildah: &Buildah<'_>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let build = |state: &Path| -> Result<f64> {
        let registry = &base.registry.address;
        let started = Instant::now();
        stage::quiet(
            Command::new(&stage.shipway)
                .args(["executor", "--force", "--cache", "--cache-copy-layers"])
                .arg(format!("--cache-repo={registry}/cache"))
                .arg(format!("--destination={registry}/cached:1"))
                .arg(format!("--context=dir://{}", context.display()))
                .env("SHIPWAY_STATE_DIR", state)
                .env("KANIKO_DIR", state),
        )?;
        Ok(started.elapsed().as_secs_f64())
    };
    build(&base.path("cache-first"))?;
    buildah.build_layers(context)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let state = base.path(&format!("cache-{run}"));
        ours.push(build(&state)?);
        let bytes = directory_bytes(&state)?;
        ensure!(bytes < REBUILD_STATE_BYTES_MAX, "a rebuild fetched {bytes} bytes");
        theirs.push(buildah.build_layers(context)?);
    }
    Ok((ours, theirs))
}

/// Peak memory of a pull of the base and of a push of it elsewhere, in MiB.
fn push_memory(stage: &Stage, base: &BaseImage) -> Result<Vec<f64>> {
    let shipway = |arguments: &[&str]| {
        let mut command = Command::new(&stage.shipway);
        command.args(arguments).env("SHIPWAY_STATE_DIR", base.path("pulled"));
        stage::peak_memory(&mut command).map(|bytes| bytes / f64::from(1 << 20))
    };
    let other = format!("{}/elsewhere:1", base.registry.address);
    let pull = shipway(&["pull", &base.reference])?;
    let directory = base.path("other-registry");
    std::fs::create_dir(&directory)?;
    let registry = stage::DebianRegistry::start(&directory)?;
    let target = other.replace(&base.registry.address, &registry.address);
    let copy = shipway(&["copy", &base.reference, &target])?;
    Ok(vec![pull, copy])
}

/// Milliseconds per RUN: the time that ten more of them take.
fn steps_here(stage: &Stage, base: &BaseImage, mode: &str) -> Result<Vec<f64>> {
    let isolation = format!("--isolation={mode}");
    let state = base.path("steps-state");
    per_step(base, |context, _| {
        let started = Instant::now();
        stage::quiet(
            Command::new(&stage.shipway)
                .args(["build", "--no-cache", &isolation])
                .arg(context)
                .env("SHIPWAY_STATE_DIR", &state),
        )?;
        Ok(started.elapsed().as_secs_f64())
    })
}

fn steps_in_pods(stage: &Stage, base: &BaseImage) -> Result<Vec<f64>> {
    let directory = base.path("steps-machine");
    std::fs::create_dir(&directory)?;
    let machine = Machine::up(stage, &directory)?;
    per_step(base, |context, name| {
        machine.run_executor(name, context, &["--context=/workspace", "--no-push"])
    })
}

fn per_step(
    base: &BaseImage,
    mut build: impl FnMut(&Path, &str) -> Result<f64>,
) -> Result<Vec<f64>> {
    let context = |steps: usize| -> Result<std::path::PathBuf> {
        let path = base.path(&format!("steps-{steps}"));
        std::fs::create_dir_all(&path)?;
        let steps = (0..steps).map(|step| format!("RUN echo {step} > /bin/changed\n"));
        let text = format!("FROM {}\n{}", base.reference, steps.collect::<String>());
        std::fs::write(path.join("Dockerfile"), text)?;
        Ok(path)
    };
    let (few, many) = (context(1)?, context(1 + STEPS)?);
    // The first one unpacks the base.
    build(&few, "warm")?;
    let mut milliseconds = Vec::new();
    for run in 0..RUNS {
        let long = build(&many, &format!("many-{run}"))?;
        let short = build(&few, &format!("few-{run}"))?;
        milliseconds.push((long - short) * 1000.0 / STEPS as f64);
    }
    Ok(milliseconds)
}

fn directory_bytes(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
