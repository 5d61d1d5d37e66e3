//! What scenarios share: the release binary, directories, peers.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::tidy;

/// The programs under test.
pub(crate) struct Stage {
    /// The release binary.
    pub(crate) shipway: PathBuf,
}

impl Stage {
    /// Takes `binary`, or builds the release binary.
    pub(crate) fn prepare(binary: Option<&str>) -> Result<Self> {
        if let Some(path) = binary {
            let shipway = PathBuf::from(path).canonicalize().with_context(|| path.to_owned())?;
            return Ok(Self { shipway });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = Command::new(cargo)
            .args(["build", "--release", "--package", "cli", "--message-format=json"])
            .current_dir(tidy::root())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        ensure!(build.status.success(), "the release build failed");
        // The target directory and triple are cargo's to choose, so it is asked.
        let shipway = String::from_utf8_lossy(&build.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .next_back()
            .context("cargo named no executable")?;
        Ok(Self { shipway })
    }

    /// A context for an image of busybox and its links.
    pub(crate) fn busybox_context(&self, directory: &Path) -> Result<String> {
        let context = directory.join("busybox-context");
        std::fs::create_dir_all(&context)?;
        std::fs::copy("/bin/busybox", context.join("busybox"))
            .context("busybox-static is not installed")?;
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                          RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";
        std::fs::write(context.join("Dockerfile"), dockerfile)?;
        Ok(context.to_str().context("UTF-8")?.to_owned())
    }
}

/// A directory that is removed when dropped.
pub(crate) fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("shipway-bench-").tempdir()?)
}

/// Runs a command; its output is shown only if it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command that prints one JSON document.
pub(crate) fn json(mut command: Command) -> Result<serde_json::Value> {
    let text = output(&mut command)?;
    serde_json::from_str(&text).with_context(|| format!("{command:?} printed no JSON: {text}"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}\n{text}{error}", output.status);
    }
    Ok(text)
}

/// Runs a command to its end; the most memory (`VmHWM`) it had, in bytes.
pub(crate) fn peak_memory(command: &mut Command) -> Result<f64> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let log = child.stderr.take().context("no standard error")?;
    let log = std::thread::spawn(move || std::io::read_to_string(log));
    let status = format!("/proc/{}/status", child.id());
    let mut kibibytes = 0.0_f64;
    let ended = loop {
        // The peak only grows, so the last look before the end counts.
        kibibytes = peak_kibibytes(&status).unwrap_or(kibibytes).max(kibibytes);
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let log = log.join().ok().and_then(Result::ok).unwrap_or_default();
    ensure!(ended.success(), "{command:?} ended with {ended}\n{log}");
    Ok(kibibytes * 1024.0)
}

/// The most memory of a process that lives, by its status file.
pub(crate) fn peak_kibibytes(status: &str) -> Option<f64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Debian's docker-registry without credentials.
pub(crate) struct DebianRegistry {
    /// `host:port`.
    pub(crate) address: String,
    child: Child,
}

impl DebianRegistry {
    /// Starts it on a free port with its data below `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}/registry\nhttp:\n  addr: {address}\n",
            directory.display()
        );
        let file = directory.join("registry.yml");
        std::fs::write(&file, config)?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry is not installed")?;
        let log = child.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(log).lines();
        for line in lines.by_ref() {
            if line?.contains("listening on") {
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Ok(Self { address, child });
            }
        }
        bail!("docker-registry ended before it listened")
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
