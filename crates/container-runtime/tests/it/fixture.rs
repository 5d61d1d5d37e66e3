//! A busybox root, a directory of containers, and short ways to use them.

use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use container_runtime::{
    Cancel, Container, ContainerSpec, Ended, InPlaceSpec, Process, Root, Runtime, Sandbox, Stdio,
    StepOutcome, StepSpec, Stream, run_in_place, run_step,
};

/// Debian's static busybox; the tests need nothing else.
const BUSYBOX: &str = "/bin/busybox";

pub(crate) struct Fixture {
    dir: tempfile::TempDir,
    pub(crate) runtime: Runtime,
}

/// What a container left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) ended: Ended,
    /// Text of its stdout and stderr, from the log.
    pub(crate) output: String,
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

impl Fixture {
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("container-runtime-").tempdir()?;
        let runtime = Runtime::open(dir.path().join("containers"))?;
        let fixture = Self { dir, runtime };
        fixture.make_root()?;
        Ok(fixture)
    }

    fn make_root(&self) -> Result<()> {
        let root = self.lower();
        for name in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        let list = Command::new(BUSYBOX).arg("--list").output()?;
        for applet in String::from_utf8(list.stdout)?.lines() {
            if applet != "busybox" {
                symlink("busybox", root.join("bin").join(applet))?;
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd)?;
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\nstaff:x:50:app\n")?;
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn lower(&self) -> PathBuf {
        self.path("lower")
    }

    /// An overlay root with an upper directory of its own.
    pub(crate) fn overlay(&self, name: &str) -> Result<Root> {
        let (upper, work) =
            (self.path(&format!("{name}.upper")), self.path(&format!("{name}.work")));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        Ok(Root::Overlay { lowers: vec![self.lower()], upper, work })
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, id: &str, script: &str) -> Result<ContainerSpec> {
        Ok(ContainerSpec {
            process: shell(script),
            sandbox: Sandbox::new(self.overlay(id)?),
            cgroup: None,
            stdio: Stdio::default(),
            log_path: Some(self.path(&format!("{id}.log"))),
        })
    }

    pub(crate) fn start(&self, id: &str, spec: &ContainerSpec) -> Result<Container> {
        let container = self.runtime.create(id, spec)?;
        container.start()?;
        Ok(container)
    }

    /// Runs a container to its end and deletes it.
    pub(crate) fn run(&self, id: &str, spec: &ContainerSpec) -> Result<Ran> {
        let container = self.start(id, spec)?;
        let ended = container.wait()?;
        container.delete()?;
        let output = match &spec.log_path {
            Some(path) => text_of(&fs::read_to_string(path)?),
            None => String::new(),
        };
        Ok(Ran { code: ended.code(), ended, output })
    }

    pub(crate) fn run_script(&self, id: &str, script: &str) -> Result<Ran> {
        self.run(id, &self.script(id, script)?)
    }

    pub(crate) fn step(&self, name: &str, script: &str) -> Result<StepSpec> {
        Ok(StepSpec { process: shell(script), sandbox: Sandbox::new(self.overlay(name)?) })
    }
}

/// A test that fails half-way leaves containers.
impl Drop for Fixture {
    fn drop(&mut self) {
        for container in self.runtime.list().into_iter().flatten() {
            let _ = container.delete();
        }
    }
}

/// A shell with a script, and a `PATH`.
pub(crate) fn shell(script: &str) -> Process {
    let mut process = Process::new(["/bin/sh", "-c", script]);
    process.env = vec![("PATH".to_owned(), "/bin".to_owned())];
    process
}

/// What a step printed, both streams, with its outcome.
pub(crate) fn run_to_text(spec: &StepSpec) -> Result<(StepOutcome, String)> {
    let mut text = Vec::new();
    let mut collect = |_: Stream, bytes: &[u8]| text.extend_from_slice(bytes);
    let outcome = run_step(spec, &Cancel::new()?, &mut collect)?;
    Ok((outcome, String::from_utf8(text)?))
}

/// The same without namespaces.
pub(crate) fn run_in_place_to_text(spec: &InPlaceSpec) -> Result<(StepOutcome, String)> {
    let mut text = Vec::new();
    let mut collect = |_: Stream, bytes: &[u8]| text.extend_from_slice(bytes);
    let outcome = run_in_place(spec, &Cancel::new()?, &mut collect)?;
    Ok((outcome, String::from_utf8(text)?))
}

/// The text of a CRI log.
pub(crate) fn text_of(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let (tag, content) = (fields.next(), fields.next().unwrap_or_default());
        text.push_str(content);
        if tag == Some("F") {
            text.push('\n');
        }
    }
    text
}

/// Waits until a path exists; the test fails by the limit of its caller, never by this.
pub(crate) fn until_exists(path: &Path) {
    while !path.exists() {
        std::thread::yield_now();
    }
}

/// Mounts of this machine whose source or target lies below a directory.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let dir = dir.display().to_string();
    Ok(mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect())
}

/// Fails with both sides if they differ.
#[track_caller]
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let at = std::panic::Location::caller();
    Err(format!("{at}: found {found:?}, expected {expected:?}").into())
}
