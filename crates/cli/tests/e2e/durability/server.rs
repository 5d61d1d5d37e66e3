//! `shipway registry serve` in a process of its own, and disks that can lose power or fill up.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::machine::{Ran, run, shipway};

/// How long other tests may hold a disk that was unmounted.
const RELEASE_MAX: Duration = Duration::from_secs(120);

/// Pause between looks at it.
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// A registry that serves.
pub(super) struct Server {
    /// `host:port`.
    pub(super) address: String,
    child: Child,
}

impl Server {
    /// Serves the state directory on a free port.
    pub(super) fn start(state: &Path, flags: &[&str]) -> Self {
        let mut command = shipway();
        Self::spawn(command.args(arguments(state, flags)))
    }

    /// As [`Server::start`], with every sync written to `log`.
    pub(super) fn traced(state: &Path, log: &Path) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-y", "-ttt", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range,msync"])
            .arg("-o")
            .arg(log)
            .arg(shipway().get_program())
            .args(arguments(state, &[]));
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        // Disks fail here on purpose, and its log is full of that.
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a registry");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("registry: http://").map(str::to_owned))
            .expect("a serving registry");
        Self { address: url, child }
    }

    /// Kills it at once.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("a kill");
        self.child.wait().expect("its end");
    }

    /// Lets it end in order.
    pub(super) fn stop(mut self) {
        run(Command::new("kill").args(["-TERM", &self.registry_pid()]), "").ok();
        self.child.wait().expect("its end");
    }

    /// The registry itself, which is a child of strace if it is traced.
    fn registry_pid(&self) -> String {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let child =
            children.ok().and_then(|list| list.split_whitespace().next().map(str::to_owned));
        child.unwrap_or_else(|| pid.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            run(Command::new("kill").args(["-KILL", &self.registry_pid()]), "");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn arguments(state: &Path, flags: &[&str]) -> Vec<String> {
    let state = state.to_str().expect("UTF-8").to_owned();
    let fixed = ["--state-dir", &state, "registry", "serve", "--address", "127.0.0.1:0"];
    fixed.iter().chain(flags).map(|&text| text.to_owned()).collect()
}

/// Runs a verb of `shipway registry` on a state directory.
pub(super) fn registry(state: &Path, arguments: &[&str]) -> Ran {
    run(shipway().arg("--state-dir").arg(state).arg("registry").args(arguments), "")
}

/// A file system of its own in a file or in memory.
pub(super) struct Disk {
    directory: TempDir,
    mounted: bool,
}

impl Disk {
    /// An ext4 in a file.
    pub(super) fn ext4(mebibytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Self { directory, mounted: false };
        std::fs::create_dir(disk.path()).expect("a directory");
        let file = std::fs::File::create(disk.image()).expect("a file");
        file.set_len(mebibytes << 20).expect("a size");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()), "").ok();
        disk.mounted()
    }

    /// A file system in memory.
    pub(super) fn memory(mebibytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut disk = Self { directory, mounted: true };
        std::fs::create_dir(disk.path()).expect("a directory");
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        disk.mounted = false;
        run(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.path()), "").ok();
        disk.mounted = true;
        disk
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mounted(mut self) -> Self {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()), "").ok();
        self.mounted = true;
        self
    }

    /// Ends all writing at once, as a power failure does: what is not on the disk by now, pages in
    /// memory and the running transaction of the journal, never gets there (`EXT4_IOC_SHUTDOWN`
    /// with `EXT4_GOING_FLAGS_NOLOGFLUSH`).
    pub(super) fn cut_power(&self) {
        let shut_down = "open(my $disk, '<', $ARGV[0]) or die $!;
            my $flags = pack('L', 2);
            ioctl($disk, 0x8004587D, $flags) or die $!;";
        run(Command::new("perl").args(["-e", shut_down]).arg(self.path()), "").ok();
    }

    /// Mounts it again; the journal is replayed.
    pub(super) fn restore_power(mut self) -> Self {
        run(Command::new("umount").arg(self.path()), "").ok();
        self.mounted = false;
        self.await_release();
        self.mounted()
    }

    /// Waits until nobody has the disk any more: a container that another test starts takes a copy
    /// of every mount with it for a moment, and as long as it has one the old file system, whose
    /// power was cut, is the one that is mounted again.
    fn await_release(&self) {
        let deadline = Instant::now() + RELEASE_MAX;
        while !run(Command::new("losetup").arg("--associated").arg(self.image()), "")
            .ok()
            .is_empty()
        {
            assert!(Instant::now() < deadline, "somebody keeps the disk");
            std::thread::sleep(RELEASE_PAUSE);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg("-l").arg(self.path()), "");
        }
    }
}
