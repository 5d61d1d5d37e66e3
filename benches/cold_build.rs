//! The cold build: two stages on a base of 68 000 files and 825 MB, five RUN, three COPY, pushed;
//! shipway and Debian's buildah by turns, each from an empty store, against one registry.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::report::{Measurement, Promise};
use super::stage::{self, DebianRegistry, Stage};

const FILES: usize = 68_000;
const BYTES: usize = 825_000_000;
const FILES_PER_DIRECTORY: usize = 24;
const RUNS: usize = 3;

/// Measures both programs.
pub(crate) fn run(stage: &Stage) -> Result<Vec<Measurement>> {
    let directory = stage::directory()?;
    let registry = DebianRegistry::start(directory.path())?;
    let base = format!("{}/base:1", registry.address);
    push_base(stage, directory.path(), &base)?;
    let context = directory.path().join("context");
    write_context(&context, &base)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        ours.push(build_with_shipway(stage, &context, &registry.address, run)?);
        theirs.push(build_with_buildah(&context, &registry.address, run)?);
    }
    Ok(vec![Measurement::beside(
        "cold build, two stages on a 68k-file, 825 MB base, 5 RUN, 3 COPY, pushed",
        "buildah (overlay, chroot)",
        "s",
        ours,
        theirs,
        Promise::RatioAtMost(0.3),
    )])
}

/// Makes the tree and pushes it as one layer.
fn push_base(stage: &Stage, directory: &Path, base: &str) -> Result<()> {
    let root = directory.join("base");
    let context = stage.busybox_context(directory)?;
    std::fs::create_dir_all(&root)?;
    std::fs::copy(Path::new(&context).join("busybox"), root.join("busybox"))?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mean = BYTES / FILES;
    for file in 0..FILES {
        let path = root.join(format!("tree/{}/{}", file / 4096, file / FILES_PER_DIRECTORY));
        std::fs::create_dir_all(&path)?;
        // Most files are small and a few are large, as in a distribution.
        let size = match file % 64 {
            0 => mean * 33,
            n if n % 2 == 0 => mean / 8,
            _ => mean * 7 / 8,
        };
        std::fs::write(path.join(format!("file-{file}")), random.text(size))?;
    }
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY tree /usr/share/tree\n\
                      RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";
    std::fs::write(root.join("Dockerfile"), dockerfile)?;
    let state = directory.join("base-state");
    stage::quiet(
        Command::new(&stage.shipway)
            .args(["build", "-t", base, "--push"])
            .arg(&root)
            .env("SHIPWAY_STATE_DIR", &state),
    )?;
    std::fs::remove_dir_all(state)?;
    std::fs::remove_dir_all(root)?;
    Ok(())
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

fn build_with_shipway(stage: &Stage, context: &Path, registry: &str, run: usize) -> Result<f64> {
    let state = stage::directory()?;
    let image = format!("{registry}/shipway:{run}");
    let started = Instant::now();
    stage::quiet(
        Command::new(&stage.shipway)
            .args(["build", "-t", &image, "--push"])
            .arg(context)
            .env("SHIPWAY_STATE_DIR", state.path()),
    )?;
    Ok(started.elapsed().as_secs_f64())
}

fn build_with_buildah(context: &Path, registry: &str, run: usize) -> Result<f64> {
    let storage = stage::directory()?;
    let image = format!("{registry}/buildah:{run}");
    let root = format!("--root={}/root", storage.path().display());
    let runroot = format!("--runroot={}/run", storage.path().display());
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args([root.as_str(), runroot.as_str(), "--storage-driver=overlay"]);
        command.args(arguments);
        command
    };
    let context = context.to_str().context("UTF-8")?;
    let started = Instant::now();
    let flags = ["build", "--isolation=chroot", "--tls-verify=false", "-t", &image, context];
    stage::quiet(&mut buildah(&flags))?;
    stage::quiet(&mut buildah(&["push", "--tls-verify=false", &image]))?;
    let seconds = started.elapsed().as_secs_f64();
    // Its storage holds mounts that a plain removal would trip over.
    stage::quiet(&mut buildah(&["rmi", "--all", "--force"]))?;
    Ok(seconds)
}

/// xorshift64: the same tree on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Text that compresses to about 40 %, as programs and documents do.
    fn text(&mut self, size: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "lorem ",
            "return ",
            "static ",
            "0x7f3a ",
            "kernel ",
            "the ",
            "of ",
            "license\n",
            "struct ",
            "copy ",
            "image ",
            "layer ",
            "node\t",
            "if (",
            ");\n",
            "value=",
        ];
        let mut bytes = Vec::with_capacity(size + 16);
        while bytes.len() < size {
            let random = self.next();
            if random & 7 < 5 {
                bytes.extend_from_slice(WORDS[(random >> 8) as usize % WORDS.len()].as_bytes());
            } else {
                bytes.extend_from_slice(&random.to_le_bytes());
            }
        }
        bytes.truncate(size);
        bytes
    }
}
