//! RUN in namespaces over an overlay mount: the upper directory becomes the layer.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use container_runtime::{
    Failure, Mount, MountSource, Namespace, Network, Propagation, Root, Sandbox, SeccompProfile,
    StepSpec, UserNamespace, run_step, run_step_limited,
};
use dockerfile::{Network as RunNetwork, Security};
use layers::pack_upper;

use super::ignored::remove_ignored;
use super::mounts::{Ready, ReadySource};
use super::stubs::{self, StubKind};
use super::{Command, check_exit, forward, process};
use crate::commit::{self, LayerForm};
use crate::error::StepError;
use crate::layer_source::{LayerRef, LayerSource};
use crate::layer_stack::LayerStack;
use crate::tree::{Files as _, resolve, tree_path};
use crate::workspace::remove_tree;

/// Where the sandbox finds who it is and where names are served.
const NETWORK_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// How sandboxes are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SandboxKind {
    /// Whose users a step sees.
    pub(crate) users: UserNamespace,
    /// Whether a step gets a `/proc` of its own.
    pub(crate) fresh_proc: bool,
}

/// Runs a command over `lowers` (top first) and makes a layer of what it changed; blocking.
/// `owners` are those of the files below, where this machine could not give them.
pub(crate) fn run(
    command: &Command<'_>,
    kind: SandboxKind,
    lowers: &[PathBuf],
    ready: &Ready,
    source: &LayerSource,
    form: LayerForm,
    owners: HashMap<PathBuf, (u32, u32)>,
) -> Result<Option<LayerRef>, StepError> {
    let rooms = Rooms::create(command.scratch)?;
    let result = run_in(command, kind, lowers, ready, &rooms).and_then(|()| {
        let (store, start) = (&source.store, Instant::now());
        remove_ignored(&rooms.upper, command.ignored)?;
        let mut writer = commit::writer(store, source.lease(), form)?;
        if kind.users == UserNamespace::CallerAsRoot {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            writer = writer.with_root(uid.as_raw(), gid.as_raw()).with_owners(owners);
        }
        let packed = pack_upper(&rooms.upper, lowers, &mut writer);
        packed.map_err(|error| StepError::layer("cannot read what the command changed", error))?;
        let entries = writer.entries();
        let Some((layer, blob)) = commit::finish(writer)? else { return Ok(None) };
        source.say_written(&blob, start);
        let adopted = source.unpacked.adopt(&rooms.upper, &layer.diff_id, blob.tar_bytes, entries);
        // Without the directory the layer is unpacked from its blob when somebody needs it.
        if let Err(error) = adopted {
            tracing::warn!(diff_id = %layer.diff_id, %error, "layer directory not kept");
        }
        Ok(Some(layer))
    });
    if let Err(error) = remove_tree(&rooms.home) {
        tracing::warn!(path = %rooms.home.display(), %error, "scratch directory stays");
    }
    result
}

struct Rooms {
    home: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    stubs: PathBuf,
}

impl Rooms {
    fn create(scratch: &Path) -> Result<Self, StepError> {
        let made = tempfile::Builder::new().prefix("run-").tempdir_in(scratch);
        let home = made.map_err(|error| StepError::io(scratch, error))?.keep();
        let rooms = Self {
            upper: home.join("upper"),
            work: home.join("work"),
            stubs: home.join("stubs"),
            home,
        };
        for path in [&rooms.upper, &rooms.work, &rooms.stubs] {
            let made = fs::DirBuilder::new().mode(0o755).create(path);
            made.map_err(|error| StepError::io(path, error))?;
        }
        Ok(rooms)
    }
}

fn run_in(
    command: &Command<'_>,
    kind: SandboxKind,
    lowers: &[PathBuf],
    ready: &Ready,
    rooms: &Rooms,
) -> Result<(), StepError> {
    let files = LayerStack::new(lowers.iter().rev().cloned().collect());
    // overlayfs shows the root with the looks of the upper directory.
    let root = files.node(Path::new(""))?;
    let mode = root.map_or(0o755, |node| node.entry.mode);
    fs::set_permissions(&rooms.upper, fs::Permissions::from_mode(mode))
        .map_err(|error| StepError::io(&rooms.upper, error))?;

    let mut mounts = network_mounts(command, rooms)?;
    if let Some(script) = &command.action.script {
        let path = rooms.home.join("script");
        write_script(&path, &script.content)?;
        mounts.push(Mount::bind(path, &script.path).read_only());
    }
    mounts.extend(command.resources.shm());
    mounts.extend(ready.mounts.iter().map(|mount| Mount {
        target: Path::new("/").join(&mount.target),
        source: match &mount.from {
            ReadySource::Directory { path, .. }
            | ReadySource::File(path)
            | ReadySource::Socket(path) => bind(path),
            ReadySource::Cache { directory, below } => MountSource::Bind {
                path: directory.path.clone(),
                // Others may write links into a shared cache: opened beneath it, never outside.
                beneath: (!below.as_os_str().is_empty()).then(|| below.clone()),
            },
            ReadySource::Tmpfs { bytes_max } => {
                // As runc has it: a file system over `/tmp` is open to everybody as well.
                let covered = resolve(&files, &mount.target).and_then(|path| files.node(&path));
                let mode = match covered {
                    Ok(Some(node)) if node.entry.is_directory() => node.entry.mode,
                    _ => 0o755,
                };
                MountSource::Tmpfs { bytes_max: *bytes_max, mode }
            }
        },
        readonly: !mount.is_writable,
        propagation: Propagation::Private,
    }));
    let targets: Vec<(PathBuf, StubKind)> = mounts
        .iter()
        .filter(|mount| !mount.target.starts_with("/dev"))
        .map(|mount| {
            let is_file = matches!(&mount.source,
                MountSource::Bind { path, .. } if !path.is_dir());
            let kind = if is_file { StubKind::File } else { StubKind::Directory };
            (tree_path(&mount.target.to_string_lossy()), kind)
        })
        .collect();
    let mut all_lowers = lowers.to_vec();
    if stubs::create(&rooms.stubs, &files, &targets)? || all_lowers.is_empty() {
        all_lowers.insert(0, rooms.stubs.clone());
        fs::set_permissions(&rooms.stubs, fs::Permissions::from_mode(mode))
            .map_err(|error| StepError::io(&rooms.stubs, error))?;
    }

    let mut sandbox = Sandbox::new(Root::Overlay {
        lowers: all_lowers,
        upper: rooms.upper.clone(),
        work: rooms.work.clone(),
    });
    if command.action.security == Security::Insecure {
        sandbox = sandbox.privileged();
    }
    sandbox.mounts = mounts;
    sandbox.hostname = Some(command.action.hostname.clone());
    sandbox.namespaces.user = kind.users;
    if !kind.fresh_proc {
        sandbox.namespaces.pid = Namespace::Host;
    }
    sandbox.namespaces.network = match command.action.network {
        RunNetwork::Default | RunNetwork::Host => Network::Host,
        RunNetwork::None => Network::None,
    };
    let mut process = process(command, &ready.env);
    if command.action.security == Security::Sandbox {
        // Without namespaces the filter is that of the pod; adding one needs CAP_SYS_ADMIN.
        process.seccomp = SeccompProfile::RuntimeDefault;
    }
    let mut spec = StepSpec { process, sandbox };
    let mut output = forward(command.events, command.step);
    let limits = command.resources.cgroup();
    let mut run = |spec: &StepSpec| match &limits {
        Some(limits) => run_step_limited(spec, limits, command.cancel, &mut output),
        None => run_step(spec, command.cancel, &mut output),
    };
    let outcome = match run(&spec) {
        Err(container_runtime::StepError::Refused(Failure::FreshProcRefused { .. })) => {
            spec.sandbox.namespaces.pid = Namespace::Host;
            run(&spec)?
        }
        outcome => outcome?,
    };
    container_runtime::remove_stubs(&rooms.upper, &outcome.stubs)
        .map_err(|error| StepError::io(&rooms.upper, error))?;
    check_exit(command, &outcome, command.scratch)
}

fn bind(path: &Path) -> MountSource {
    MountSource::Bind { path: path.to_owned(), beneath: None }
}

/// Hosts and resolver of this machine, with the name of the sandbox added.
fn network_mounts(command: &Command<'_>, rooms: &Rooms) -> Result<Vec<Mount>, StepError> {
    let mut mounts = Vec::new();
    for name in NETWORK_FILES {
        let of_host = fs::read(Path::new("/").join(name)).unwrap_or_default();
        let mut bytes = of_host;
        if name == "etc/hosts" {
            if !bytes.is_empty() && !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            bytes.extend(format!("127.0.0.1\tlocalhost {}\n", command.action.hostname).bytes());
            bytes.extend(command.resources.host_lines().bytes());
        }
        let path = rooms.home.join(name.replace('/', "-"));
        fs::write(&path, bytes).map_err(|error| StepError::io(&path, error))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(|error| StepError::io(&path, error))?;
        mounts.push(Mount::bind(path, Path::new("/").join(name)).read_only());
    }
    Ok(mounts)
}

/// Writes the script of a heredoc that begins with `#!`.
pub(crate) fn write_script(path: &Path, content: &str) -> Result<(), StepError> {
    fs::write(path, content).map_err(|error| StepError::io(path, error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| StepError::io(path, error))
}
