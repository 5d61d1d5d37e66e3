//! From a container of the spec and its image to a running container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use container_runtime::{
    CgroupLimits, Container as Runner, ContainerSpec, CreateError, Device, Exit, Mount,
    MountSource, Process, ProcessId, Propagation, Root, Sandbox, Stdin, Stdio, Terminal,
    WindowSize,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::directories::RunRecord;
use crate::images::store::{LocalImage, chain};
use crate::pods::state::Termination;
use crate::process::environment::{self, Environment, EnvironmentError};
use crate::process::expansion::expand;
use crate::process::network_files;
use crate::process::resources;
use crate::process::security::{self, SecurityError};
use crate::shared::Shared;
use crate::volumes::setup::{VolumePlace, fetch};

/// Longest termination message that is reported, in bytes.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Of the log, this much at the end serves as message under `FallbackToLogsOnError`.
const MESSAGE_LOG_BYTES_MAX: usize = 2048;
/// And at most this many lines.
const MESSAGE_LOG_LINES_MAX: usize = 80;
/// How the text begins when the layers of an image volume are not mounted (kubelet-images.md 2.8).
pub(crate) const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";
/// Where the termination message is read from unless the container says otherwise.
const MESSAGE_PATH_DEFAULT: &str = "/dev/termination-log";

/// Why a container does not start; the variant is the waiting reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// `CreateContainerConfigError`: the spec refers to what is not there, or must not run.
    #[error("{0}")]
    Config(String),
    /// `CreateContainerError`: the sandbox cannot be made.
    #[error("{0}")]
    Create(String),
    /// `RunContainerError`: the program cannot be started; it counts as a run that ended.
    #[error("{message}")]
    Run { message: String, code: i32 },
}

impl From<SecurityError> for StartError {
    fn from(error: SecurityError) -> Self {
        StartError::Config(error.to_string())
    }
}

impl From<EnvironmentError> for StartError {
    fn from(error: EnvironmentError) -> Self {
        StartError::Config(error.to_string())
    }
}

/// Everything that a start needs beside the shared services.
pub(crate) struct StartContext<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) restart_count: i32,
    pub(crate) image: &'a LocalImage,
    pub(crate) volumes: &'a BTreeMap<String, VolumePlace>,
    /// Process whose PID namespace the container shares, if it does.
    pub(crate) seen: Option<ProcessId>,
}

/// A container that has been created and not started.
pub(crate) struct Created {
    pub(crate) runner: Runner,
    pub(crate) record: RunRecord,
    /// Texts of `InvalidEnvironmentVariableNames` events.
    pub(crate) skipped_variables: Vec<String>,
    /// What this machine did not permit.
    pub(crate) degraded: Vec<String>,
}

/// Creates a container: environment, root file system, mounts, sandbox.
///
/// # Errors
/// See [`StartError`].
pub(crate) async fn create(
    shared: &Arc<Shared>,
    context: &StartContext<'_>,
) -> Result<Created, StartError> {
    let (pod, container) = (context.pod, context.container);
    let config = &context.image.config.config;
    let rights = security::rights(pod, container, &config.user)?;
    let environment = container_environment(shared, pod, container).await?;
    let mut variables: Vec<(String, String)> = config
        .env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if !variables.iter().any(|(name, _)| name == "PATH") {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        variables.push(("PATH".to_owned(), path.to_owned()));
    }
    variables.push(("HOSTNAME".to_owned(), network_files::host_name(pod)));
    variables.extend(environment.variables.iter().cloned());
    let args = environment::command_line(
        container,
        config.entrypoint.as_deref().unwrap_or_default(),
        config.cmd.as_deref().unwrap_or_default(),
        &environment,
    );
    if args.is_empty() {
        return Err(StartError::Create("no command specified".to_owned()));
    }
    let limits = resources::limits(pod, container, shared.facts.memory_bytes);
    let mut process = Process::new(args);
    process.env = variables;
    process.cwd = working_directory(container, &config.working_dir);
    process.user = rights.user;
    process.capabilities = rights.capabilities;
    process.no_new_privileges = rights.no_new_privileges;
    process.seccomp = rights.seccomp;
    process.oom_score_adj = i16::try_from(limits.oom_score_adj).ok();

    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let run = shared.directories.run(uid, &container.name, context.restart_count);
    let record = RunRecord {
        id: format!(
            "{:016x}{:016x}{:016x}{:016x}",
            fastrand::u64(..),
            fastrand::u64(..),
            fastrand::u64(..),
            fastrand::u64(..)
        ),
        restart_count: context.restart_count,
        image: container.image.clone().unwrap_or_default(),
        image_id: context.image.id.clone(),
        stop_signal: stop_signal(container, config.stop_signal.as_deref()),
        log: log_path(shared, pod, &container.name, context.restart_count),
        termination_message: run.join("termination-log"),
        layers: layers_of(context),
        process: process.clone(),
    };
    let mounts = mounts(shared, context, &environment, &record)?;
    let cgroup = CgroupLimits {
        path: PathBuf::from(format!("shipway/pod-{uid}/{}", &record.id[..16])),
        cpu_shares: (limits.cpu_shares > 2).then_some(limits.cpu_shares),
        cpu_quota_micros: limits.cpu_quota_us,
        memory_bytes_max: limits.memory_bytes,
        pids_max: None,
        named: false,
    };
    let limited = cgroup.cpu_quota_micros.is_some()
        || cgroup.memory_bytes_max.is_some()
        || cgroup.cpu_shares.is_some();
    let stdio = Stdio {
        stdin: match (container.stdin == Some(true), container.stdin_once == Some(true)) {
            (false, _) => Stdin::Null,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
        terminal: if container.tty == Some(true) {
            Terminal::Size(WindowSize::default())
        } else {
            Terminal::None
        },
    };
    let (pod, container) = (pod.clone(), container.clone());
    let (shared, image, seen) = (Arc::clone(shared), context.image.clone(), context.seen);
    let skipped_variables = environment.skipped;
    let created = tokio::task::spawn_blocking(move || -> Result<Created, StartError> {
        let root = prepare(&shared, &run, &record, &image).map_err(StartError::Create)?;
        let mut sandbox = Sandbox::new(root);
        sandbox.hostname = Some(network_files::host_name(&pod));
        sandbox.mounts = mounts;
        sandbox.devices = Vec::<Device>::new();
        let sandbox = security::restrict(sandbox, &pod, &container, seen)?;
        // The record comes first: a container without one would be an orphan after a crash.
        shared
            .directories
            .store_run(pod.metadata.uid.as_deref().unwrap_or_default(), &container.name, &record)
            .map_err(|error| StartError::Create(error.to_string()))?;
        let spec = ContainerSpec {
            process,
            sandbox,
            cgroup: limited.then_some(cgroup),
            stdio,
            log_path: Some(record.log.clone()),
        };
        let runner = shared.runtime.create(&record.id, &spec).map_err(create_error)?;
        let degraded = runner.degraded().unwrap_or_default();
        Ok(Created { runner, record, skipped_variables, degraded })
    });
    match created.await {
        Ok(result) => result,
        Err(error) => Err(StartError::Create(error.to_string())),
    }
}

fn create_error(error: CreateError) -> StartError {
    match &error {
        CreateError::Refused(container_runtime::Failure::Program { code, .. }) => {
            StartError::Run { message: chain(&error), code: i32::from(*code) }
        }
        CreateError::Refused(container_runtime::Failure::Layers { .. }) => {
            StartError::Create(format!("{IMAGE_VOLUME_FAILED}: {}", chain(&error)))
        }
        _ => StartError::Create(chain(&error)),
    }
}

/// The environment of a container with its references fetched.
pub(crate) async fn container_environment(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
) -> Result<Environment, StartError> {
    let references = environment::references(container);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let objects = fetch(&shared.client, namespace, &references.secrets, &references.config_maps)
        .await
        .map_err(|error| StartError::Config(error.to_string()))?;
    Ok(environment::environment(pod, container, &objects, &shared.facts, shared.api_server)?)
}

fn working_directory(container: &Container, of_image: &str) -> PathBuf {
    let own = container.working_dir.as_deref().filter(|path| !path.is_empty());
    let path = own.unwrap_or(of_image);
    if path.is_empty() { PathBuf::from("/") } else { PathBuf::from("/").join(path) }
}

fn stop_signal(container: &Container, of_image: Option<&str>) -> String {
    container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
        .or(of_image)
        .filter(|signal| !signal.is_empty())
        .unwrap_or("SIGTERM")
        .to_owned()
}

/// The log of one run of a container.
pub(crate) fn log_path(shared: &Shared, pod: &Pod, container: &str, restart: i32) -> PathBuf {
    let meta = &pod.metadata;
    shared
        .directories
        .pod_logs(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        )
        .join(container)
        .join(format!("{restart}.log"))
}

/// Unpacks the image and makes the directories of a run.
fn prepare(
    shared: &Shared,
    run: &Path,
    record: &RunRecord,
    image: &LocalImage,
) -> Result<Root, String> {
    let lowers = shared.images.store.root_directories(image).map_err(|error| error.to_string())?;
    let make = || -> io::Result<Root> {
        // A start that failed half way may have left something behind.
        match fs::remove_dir_all(run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (upper, work) = (run.join("upper"), run.join("work"));
        for directory in [&upper, &work] {
            fs::create_dir_all(directory)?;
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
        if let Some(parent) = record.log.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&record.termination_message, b"")?;
        fs::set_permissions(&record.termination_message, fs::Permissions::from_mode(0o666))?;
        if lowers.is_empty() {
            // An image without layers: an empty root.
            let root = run.join("root");
            fs::create_dir_all(&root)?;
            return Ok(Root::Directory(root));
        }
        Ok(Root::Overlay { lowers, upper, work })
    };
    make().map_err(|error| format!("{}: {error}", run.display()))
}

/// Files of the pod's network, written once.
///
/// # Errors
/// The directory of the pod cannot be written.
pub(crate) fn write_network_files(shared: &Shared, pod: &Pod) -> io::Result<()> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let etc = shared.directories.etc(pod.metadata.uid.as_deref().unwrap_or_default());
    fs::create_dir_all(&etc)?;
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    fs::write(etc.join("hosts"), network_files::hosts(spec, &host("/etc/hosts")))?;
    fs::write(
        etc.join("resolv.conf"),
        network_files::resolv_conf(spec, &host("/etc/resolv.conf")),
    )?;
    fs::write(etc.join("hostname"), network_files::host_name(pod) + "\n")
}

/// Volumes, network files and the termination message, in an order where outer paths come first.
fn mounts(
    shared: &Shared,
    context: &StartContext<'_>,
    environment: &Environment,
    record: &RunRecord,
) -> Result<Vec<Mount>, StartError> {
    let container = context.container;
    let uid = context.pod.metadata.uid.as_deref().unwrap_or_default();
    let etc = shared.directories.etc(uid);
    let mut mounts = Vec::new();
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    let is_taken =
        |path: &str| wanted.iter().any(|mount| normal(&mount.mount_path) == Path::new(path));
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if !is_taken(&target) {
            mounts.push(Mount::bind(etc.join(name), target));
        }
    }
    let message_path =
        container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let message_path = message_path.unwrap_or(MESSAGE_PATH_DEFAULT);
    if !is_taken(message_path) {
        mounts.push(Mount::bind(&record.termination_message, normal(message_path)));
    }
    for wanted in wanted {
        let place = context.volumes.get(&wanted.name).ok_or_else(|| {
            StartError::Config(format!("volume \"{}\" is not mounted on the node", wanted.name))
        })?;
        mounts.push(volume_mount(wanted, place, environment)?);
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// Unpacked layers that a container uses: its image's, and those of the image volumes it mounts.
fn layers_of(context: &StartContext<'_>) -> Vec<String> {
    let own = context.image.config.rootfs.diff_ids.iter().map(|id| id.0.to_string());
    let mounts = context.container.volume_mounts.iter().flatten();
    let of_volumes = mounts.filter_map(|mount| match context.volumes.get(&mount.name)? {
        VolumePlace::Image(tree) => Some(&tree.layers),
        VolumePlace::Path { .. } => None,
    });
    own.chain(of_volumes.flatten().cloned()).collect()
}

fn volume_mount(
    wanted: &VolumeMount,
    place: &VolumePlace,
    environment: &Environment,
) -> Result<Mount, StartError> {
    let sub_path = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(expression)) if !expression.is_empty() => {
            Some(expand(expression, |name| environment.get(name)))
        }
        _ => None,
    };
    if let Some(path) = &sub_path {
        let inside = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(StartError::Config(format!(
                "subPath \"{path}\" of volume \"{}\" must be relative and must not contain \"..\"",
                wanted.name
            )));
        }
    }
    let beneath = sub_path.map(PathBuf::from);
    let (source, is_read_only) = match place {
        VolumePlace::Path { path, read_only } => {
            (MountSource::Bind { path: path.clone(), beneath }, *read_only)
        }
        VolumePlace::Image(tree) => {
            (MountSource::Layers { lowers: tree.lowers.clone(), beneath }, true)
        }
    };
    Ok(Mount {
        target: normal(&wanted.mount_path),
        source,
        readonly: is_read_only || wanted.read_only == Some(true),
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::Slave,
            Some("Bidirectional") => Propagation::Shared,
            _ => Propagation::Private,
        },
    })
}

/// An absolute path without `.`, `..` and doubled slashes.
fn normal(path: &str) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => normal.push(part),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

/// How a run ended, for the status: code, reason and message.
pub(crate) fn termination(
    ended: &container_runtime::Ended,
    record: &RunRecord,
    container: &Container,
    container_id: String,
) -> Termination {
    let time = |time: std::time::SystemTime| Timestamp::try_from(time).ok();
    let Some(exit) = ended.exit else {
        let now = time(ended.finished_at).unwrap_or(Timestamp::UNIX_EPOCH);
        return Termination {
            started_at: ended.started_at.and_then(time),
            ..Termination::unknown(Some(container_id), now)
        };
    };
    let reason = match (ended.oom_killed, exit.is_success()) {
        (true, false) => "OOMKilled",
        (_, true) => "Completed",
        (false, false) => "Error",
    };
    let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    Termination {
        exit_code: exit.code(),
        signal: match exit {
            Exit::Signal(signal) => Some(i32::from(signal)),
            Exit::Code(_) => None,
        },
        reason: reason.to_owned(),
        message: message(record, fallback && !exit.is_success()),
        started_at: ended.started_at.and_then(time),
        finished_at: time(ended.finished_at),
        container_id: Some(container_id),
    }
}

/// The termination message: the file, or the end of the log.
fn message(record: &RunRecord, fall_back_to_log: bool) -> Option<String> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(&record.termination_message) {
        let _ = io::Read::read_to_end(&mut io::Read::take(file, MESSAGE_BYTES_MAX), &mut bytes);
    }
    if bytes.is_empty() && fall_back_to_log {
        return crate::logs::tail_text(&record.log, MESSAGE_LOG_LINES_MAX, MESSAGE_LOG_BYTES_MAX);
    }
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_targets_are_absolute_and_plain() {
        for (path, expected) in
            [("/a//b/./c", "/a/b/c"), ("a", "/a"), ("/a/../../b", "/b"), ("/", "/"), ("/a/", "/a")]
        {
            assert_eq!(normal(path), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn working_directory_of_the_spec_hides_the_images() {
        let container = |dir: Option<&str>| Container {
            working_dir: dir.map(str::to_owned),
            ..Container::default()
        };
        assert_eq!(working_directory(&container(None), ""), Path::new("/"));
        assert_eq!(working_directory(&container(None), "srv"), Path::new("/srv"));
        assert_eq!(working_directory(&container(Some("/x")), "/srv"), Path::new("/x"));
    }

    #[test]
    fn sub_path_expression_is_expanded_and_must_stay_inside() {
        let environment =
            Environment { variables: vec![("POD".into(), "p1".into())], skipped: Vec::new() };
        let place = VolumePlace::Path { path: "/v".into(), read_only: false };
        let build = |expression: &str| {
            let wanted = VolumeMount {
                name: "v".into(),
                mount_path: "/m".into(),
                sub_path_expr: Some(expression.into()),
                ..VolumeMount::default()
            };
            volume_mount(&wanted, &place, &environment)
        };
        let mount = build("logs/$(POD)").expect("a mount");
        assert_eq!(
            mount.source,
            MountSource::Bind { path: "/v".into(), beneath: Some("logs/p1".into()) }
        );
        assert!(build("../x").is_err());
    }
}
