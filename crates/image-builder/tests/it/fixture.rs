//! A builder in a temporary state directory, with a base image made of the machine's busybox.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use blob_store::BlobStore;
use container_runtime::Mode;
use dockerfile::{Dockerfile, Draft, IgnoreFile, PlanOptions};
use image_builder::{
    BasePolicy, BuildError, BuildEvent, BuildOutcome, BuildRequest, Builder, BuilderOptions,
    ContextDirectory, CredentialSource, Events, IsolationChoice, Output,
};
use layers::UnpackedLayers;
use oci_model::{Platform, Reference};
use registry_client::{Client, ClientOptions};

/// The base that tests build on: busybox with its usual names, users, and odd corners.
pub(crate) const BASE: &str = "\
FROM scratch
COPY busybox /bin/busybox
COPY rootfs/ /
ENV PATH=/bin:/usr/bin BASE=1
CMD [\"/bin/sh\"]
";

/// Variable that names a base context made by someone else.
pub(crate) const BASE_CONTEXT: &str = "SHIPWAY_TEST_BASE";
/// What is not the image's where the root of the test is the root of the image.
const KEEP: [&str; 5] = ["/kaniko", "/workspace", "/proc", "/sys", "/dev"];

pub(crate) struct Machine {
    pub(crate) root: tempfile::TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) events: Arc<Mutex<Vec<BuildEvent>>>,
    state: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let state = root.path().join("state");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let machine = Self { root, runtime, events: Arc::default(), state };
        let context = match std::env::var_os(BASE_CONTEXT) {
            Some(context) => context.into(),
            None => {
                let context = machine.root.path().join("base");
                write_base(&context);
                context
            }
        };
        let outcome = machine.build(Mode::None, BASE, &context).expect("the base");
        machine.keep(&outcome, "base");
        machine
    }

    /// Keeps an image under a name, so that FROM finds it.
    pub(crate) fn keep(&self, outcome: &BuildOutcome, name: &str) {
        let reference = reference(name);
        self.runtime.block_on(self.builder(Mode::None).keep(outcome, &reference)).expect("kept");
    }

    pub(crate) fn builder(&self, mode: Mode) -> Builder {
        let client = || Client::new(ClientOptions::default()).expect("a client");
        let events = Arc::clone(&self.events);
        std::fs::create_dir_all(self.state.join("build")).expect("a directory");
        Builder::new(BuilderOptions {
            directory: self.state.join("build"),
            store: BlobStore::open(self.state.join("blobs")).expect("a store"),
            unpacked: UnpackedLayers::open(&self.state.join("layers")).expect("a store"),
            pull: client(),
            push: client(),
            credentials: CredentialSource::anonymous(),
            bases: BasePolicy::LocalFirst,
            warmed: None,
            isolation: IsolationChoice::Exactly {
                mode,
                keep: KEEP.iter().map(PathBuf::from).collect(),
            },
            events: Events::new(move |event| events.lock().expect("events").push(event)),
        })
    }

    pub(crate) fn build(
        &self,
        mode: Mode,
        text: &str,
        context: &Path,
    ) -> Result<BuildOutcome, BuildError> {
        self.build_with(mode, text, context, |_, _| {})
    }

    pub(crate) fn build_with(
        &self,
        mode: Mode,
        text: &str,
        context: &Path,
        change: impl FnOnce(&mut PlanOptions, &mut BuildRequest),
    ) -> Result<BuildOutcome, BuildError> {
        self.events.lock().expect("events").clear();
        let ignore = std::fs::read_to_string(context.join(".dockerignore")).unwrap_or_default();
        let ignore = IgnoreFile::parse(&ignore).expect("an ignore file of the test");
        let directory = ContextDirectory { root: context.to_owned(), ignore };
        let mut request = BuildRequest::new(Some(directory));
        let mut options = PlanOptions::for_platform(Platform::host());
        change(&mut options, &mut request);
        let builder = self.builder(mode);
        self.runtime.block_on(async {
            let file = Dockerfile::parse("Dockerfile", text.as_bytes()).expect("a Dockerfile");
            let mut draft = Draft::new(&file, options).expect("a draft");
            loop {
                let bases = draft.unresolved_bases();
                if bases.is_empty() {
                    break;
                }
                for base in &bases {
                    let contexts = request.named_contexts.clone();
                    let config = builder.base_config(base, &contexts, &Platform::host()).await?;
                    draft.supply_base(base, &config).expect("a base");
                }
            }
            builder.build(draft.finish().expect("a plan"), request).await
        })
    }

    /// Builds targets for platforms as one, as the command line does.
    pub(crate) fn build_all(
        &self,
        mode: Mode,
        text: &str,
        context: &Path,
        (platforms, targets): (&[&str], &[&str]),
        change: impl FnOnce(&mut BuildRequest),
    ) -> Result<BuildOutcome, BuildError> {
        self.events.lock().expect("events").clear();
        let ignore = IgnoreFile::default();
        let directory = ContextDirectory { root: context.to_owned(), ignore };
        let mut request = BuildRequest::new(Some(directory));
        change(&mut request);
        let builder = self.builder(mode);
        let targets: Vec<Option<&str>> = if targets.is_empty() {
            vec![None]
        } else {
            targets.iter().copied().map(Some).collect()
        };
        self.runtime.block_on(async {
            let file = Dockerfile::parse("Dockerfile", text.as_bytes()).expect("a Dockerfile");
            let mut plans = Vec::new();
            for target in targets {
                for platform in platforms {
                    let platform: Platform = platform.parse().expect("a platform");
                    let mut options = PlanOptions::for_platform(platform.clone());
                    options.build_platform = Platform::host();
                    options.target = target.map(str::to_owned);
                    let mut draft = Draft::new(&file, options).expect("a draft");
                    loop {
                        let bases = draft.unresolved_bases();
                        if bases.is_empty() {
                            break;
                        }
                        for base in &bases {
                            let contexts = &request.named_contexts;
                            let config = builder.base_config(base, contexts, &platform).await?;
                            draft.supply_base(base, &config).expect("a base");
                        }
                    }
                    plans.push(draft.finish().expect("a plan"));
                }
            }
            builder.build_all(plans, request).await
        })
    }

    /// The store that builds write to.
    pub(crate) fn store(&self) -> BlobStore {
        BlobStore::open(self.state.join("blobs")).expect("a store")
    }

    /// The files of an image in a directory.
    pub(crate) fn unpack(&self, outcome: &BuildOutcome, name: &str) -> PathBuf {
        let to = self.root.path().join(name);
        self.write(outcome, &Output::Files(to.clone()), "unused");
        to
    }

    pub(crate) fn write(&self, outcome: &BuildOutcome, output: &Output, name: &str) {
        let written = self.builder(Mode::None);
        let written = self.runtime.block_on(written.write(outcome, output, &[reference(name)]));
        written.expect("an output");
    }

    /// What steps printed.
    pub(crate) fn printed(&self) -> String {
        let events = self.events.lock().expect("events");
        let bytes = events.iter().filter_map(|event| match event {
            BuildEvent::StepOutput { bytes, .. } => Some(bytes.clone()),
            _ => None,
        });
        String::from_utf8_lossy(&bytes.flatten().collect::<Vec<u8>>()).into_owned()
    }
}

pub(crate) fn reference(name: &str) -> Reference {
    name.parse::<Reference>().expect("a name").with_default_tag()
}

fn write_base(context: &Path) {
    let rootfs = context.join("rootfs");
    for directory in ["bin", "etc", "tmp", "usr/bin", "usr/lib", "var", "run", "home/app", "root"] {
        std::fs::create_dir_all(rootfs.join(directory)).expect("a directory");
    }
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("Debian's busybox-static");
    for applet in [
        "sh",
        "cat",
        "ls",
        "mkdir",
        "rm",
        "id",
        "touch",
        "chmod",
        "chown",
        "ln",
        "mv",
        "test",
        "echo",
        "cp",
        "env",
        "pwd",
        "stat",
        "true",
        "false",
        "wc",
        "sleep",
        "find",
        "sort",
        "hostname",
        "setsid",
        "mount",
        "grep",
        "rmdir",
        "kill",
        "head",
        "sha256sum",
        "tar",
    ] {
        let path = rootfs.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", path).expect("a link");
    }
    for (target, path) in [("/run", "var/run"), ("usr/lib", "lib")] {
        std::os::unix::fs::symlink(target, rootfs.join(path)).expect("a link");
    }
    let write = |path: &str, text: &str| std::fs::write(rootfs.join(path), text).expect("a file");
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n");
    write("etc/group", "root:x:0:\napp:x:1001:\nextra:x:50:app\n");
    write("etc/keep", "keep\n");
    write("etc/gone", "gone\n");
    std::fs::create_dir_all(rootfs.join("data/deep")).expect("a directory");
    write("data/one", "1\n");
    write("data/deep/two", "2\n");
}

/// A context with files of every kind that COPY meets.
pub(crate) fn write_context(root: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let context = root.join("context");
    for directory in ["src/deep", "empty", "docs", "tarred/in"] {
        std::fs::create_dir_all(context.join(directory)).expect("a directory");
    }
    let write = |path: &str, text: &str| std::fs::write(context.join(path), text).expect("a file");
    for (path, text) in [
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("c.md", "c"),
        (".hidden", "h"),
        ("src/main.c", "int x;"),
        ("src/deep/x.h", "x"),
        ("src/deep/y.tmp", "y"),
        ("docs/readme.md", "r"),
        ("tarred/in/file", "packed"),
        ("script.sh", "#!/bin/sh\necho script\n"),
    ] {
        write(path, text);
    }
    let mode = |path: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(context.join(path), permissions).expect("ours");
    };
    mode("script.sh", 0o755);
    mode("src/deep", 0o750);
    mode("a.txt", 0o640);
    std::os::unix::fs::symlink("a.txt", context.join("link")).expect("a link");
    std::os::unix::fs::symlink("nowhere", context.join("src/dangling")).expect("a link");
    std::fs::hard_link(context.join("b.txt"), context.join("src/b-link")).expect("a link");
    let tar = |arguments: &[&str]| {
        let status =
            std::process::Command::new("tar").current_dir(&context).args(arguments).status();
        assert!(status.expect("tar").success());
    };
    let packing = ["--owner=7", "--group=8", "--numeric-owner"];
    tar(&[&packing[..], &["-cf", "plain.tar", "-C", "tarred", "in"]].concat());
    tar(&[&packing[..], &["-czf", "packed.tgz", "-C", "tarred", "in"]].concat());
    context
}
