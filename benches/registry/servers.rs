//! The two registries, each a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::bench::stage::Stage;

/// A registry without credentials on a free loopback port.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl Server {
    /// `shipway registry serve` as it comes.
    pub(crate) fn ours(stage: &Stage, directory: &Path) -> Result<Self> {
        let mut child = Command::new(&stage.shipway)
            .args(["registry", "serve", "--address", "127.0.0.1:0", "--state-dir"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start shipway")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let address = line.trim().rsplit("//").next().context("an address")?;
        let address = address.parse().with_context(|| format!("shipway said {line:?}"))?;
        Ok(Self { child, address, directory: directory.to_owned() })
    }

    /// Debian's docker-registry with its default settings and no access log.
    pub(crate) fn theirs(directory: &Path) -> Result<Self> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::create_dir_all(directory)?;
        let config = directory.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            directory.join("data").display()
        );
        std::fs::write(&config, text)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("docker-registry is not installed")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, address, directory: directory.join("data") })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the peer keeps its tree.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most that was ever resident, in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(name)).context("no such line")?;
        let kib: f64 = line.split_ascii_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Also when a measurement failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
