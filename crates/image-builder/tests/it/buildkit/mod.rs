//! BuildKit's own cases, written from their descriptions (builder reference 3.2), by group.
//!
//! Cases that need no RUN start from scratch and compare the whole image; the others run in an
//! overlay over the one busybox base that all of them share.

mod add;
mod copy;
mod errors;
mod exclude;
mod files;
mod heredoc;
mod history;
mod mount;
mod named;
mod network;
mod onbuild;
mod parents;
mod resources;
mod secrets;
mod server;
mod ssh;
mod stages;
mod user;
mod workdir;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use container_runtime::Mode;
use dockerfile::{Dockerfile, Draft, IgnoreFile, PlanOptions};
use image_builder::{
    BuildError, BuildOutcome, BuildRequest, CacheUse, ContextDirectory, NamedContext, Output,
};
use oci_model::{ContainerConfig, Platform};

use crate::fixture::Machine;

/// Every group with its tests.
pub(crate) const GROUPS: &[(&str, &[crate::Test])] = &[
    ("buildkit::add", add::TESTS),
    ("buildkit::copy", copy::TESTS),
    ("buildkit::errors", errors::TESTS),
    ("buildkit::exclude", exclude::TESTS),
    ("buildkit::files", files::TESTS),
    ("buildkit::heredoc", heredoc::TESTS),
    ("buildkit::history", history::TESTS),
    ("buildkit::mount", mount::TESTS),
    ("buildkit::named", named::TESTS),
    ("buildkit::network", network::TESTS),
    ("buildkit::onbuild", onbuild::TESTS),
    ("buildkit::parents", parents::TESTS),
    ("buildkit::resources", resources::TESTS),
    ("buildkit::secrets", secrets::TESTS),
    ("buildkit::ssh", ssh::TESTS),
    ("buildkit::stages", stages::TESTS),
    ("buildkit::user", user::TESTS),
    ("buildkit::workdir", workdir::TESTS),
];

/// The machine of all cases: its base is made once.
static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

fn machine() -> MutexGuard<'static, Option<Machine>> {
    let mut guard = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(Machine::new);
    guard
}

/// Removes what the cases left on disk.
pub(crate) fn close() {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

type Change = Box<dyn Fn(&mut PlanOptions, &mut BuildRequest)>;

/// A Dockerfile with its context, and what the caller of the build decides.
pub(crate) struct Case {
    text: String,
    context: tempfile::TempDir,
    mode: Mode,
    changes: Vec<Change>,
}

/// A build of `text` over an empty context, in an overlay, without cache.
pub(crate) fn case(text: &str) -> Case {
    let context = tempfile::tempdir().expect("a directory");
    Case { text: text.to_owned(), context, mode: Mode::Overlay, changes: Vec::new() }
}

impl Case {
    pub(crate) fn root(&self) -> &Path {
        self.context.path()
    }

    fn at(&self, path: &str) -> PathBuf {
        let path = self.context.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.at(path), content).expect("a file");
        self
    }

    /// Files that hold their own paths.
    pub(crate) fn files(self, paths: &[&str]) -> Self {
        paths.iter().fold(self, |case, path| case.file(path, path))
    }

    pub(crate) fn chmod(self, path: &str, mode: u32) -> Self {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.at(path), permissions).expect("ours");
        self
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.at(path)).expect("a link");
        self
    }

    /// Runs Debian's tar in the context.
    pub(crate) fn tar(self, arguments: &[&str]) -> Self {
        let status =
            std::process::Command::new("tar").current_dir(self.root()).args(arguments).status();
        let status = status.expect("tar");
        assert!(status.success(), "{arguments:?}");
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    pub(crate) fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn with(
        mut self,
        change: impl Fn(&mut PlanOptions, &mut BuildRequest) + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    pub(crate) fn arg(self, name: &str, value: &str) -> Self {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.with(move |options, _| {
            options.build_args.insert(name.clone(), value.clone());
        })
    }

    pub(crate) fn target(self, name: &str) -> Self {
        let name = name.to_owned();
        self.with(move |options, _| options.target = Some(name.clone()))
    }

    /// Lets earlier results count.
    pub(crate) fn cached(self) -> Self {
        self.with(|_, request| request.cache = CacheUse::Use)
    }

    fn try_on(&self, machine: &Machine) -> Result<BuildOutcome, String> {
        machine.events.lock().expect("events").clear();
        let ignore = std::fs::read_to_string(self.root().join(".dockerignore"));
        let ignore = IgnoreFile::parse(&ignore.unwrap_or_default()).map_err(|e| e.to_string())?;
        let directory = ContextDirectory { root: self.root().to_owned(), ignore };
        let mut request = BuildRequest::new(Some(directory));
        request.cache = CacheUse::Ignore;
        let mut options = PlanOptions::for_platform(Platform::host());
        for change in &self.changes {
            change(&mut options, &mut request);
        }
        options.named_contexts = request.named_contexts.keys().cloned().collect();
        let builder = machine.builder(self.mode);
        machine.runtime.block_on(async {
            let file = Dockerfile::parse("Dockerfile", self.text.as_bytes());
            let mut draft =
                file.and_then(|file| Draft::new(&file, options)).map_err(|e| e.to_string())?;
            loop {
                let bases = draft.unresolved_bases();
                if bases.is_empty() {
                    break;
                }
                for base in &bases {
                    let contexts: &BTreeMap<String, NamedContext> = &request.named_contexts;
                    let config = builder.base_config(base, contexts, &Platform::host()).await;
                    let config = config.map_err(|error| causes(&error))?;
                    draft.supply_base(base, &config).map_err(|error| error.to_string())?;
                }
            }
            let plan = draft.finish().map_err(|error| error.to_string())?;
            builder.build(plan, request).await.map_err(|error| match &error {
                BuildError::Step { span, .. } => {
                    format!("Dockerfile:{}-{}: {}", span.line, span.line_end, causes(&error))
                }
                _ => causes(&error),
            })
        })
    }

    /// What the commands printed.
    pub(crate) fn printed(&self) -> String {
        let machine = machine();
        let machine = machine.as_ref().expect("made");
        if let Err(error) = self.try_on(machine) {
            panic!("{}\n{error}\n{}", self.text, machine.printed());
        }
        machine.printed()
    }

    /// Whether it builds, and why not.
    pub(crate) fn outcome(&self) -> Result<(), String> {
        let machine = machine();
        self.try_on(machine.as_ref().expect("made")).map(drop)
    }

    /// Why the build fails, with all causes.
    pub(crate) fn error(&self) -> String {
        let machine = machine();
        match self.try_on(machine.as_ref().expect("made")) {
            Err(error) => error,
            Ok(_) => panic!("it builds:\n{}", self.text),
        }
    }

    /// Builds, and hands the result on.
    pub(crate) fn build<T>(&self, then: impl FnOnce(&Machine, &BuildOutcome) -> T) -> T {
        let machine = machine();
        let machine = machine.as_ref().expect("made");
        match self.try_on(machine) {
            Ok(outcome) => then(machine, &outcome),
            Err(error) => panic!("{}\n{error}\n{}", self.text, machine.printed()),
        }
    }

    pub(crate) fn executed(&self) -> usize {
        self.build(|_, outcome| outcome.steps_executed)
    }

    pub(crate) fn config(&self) -> ContainerConfig {
        self.build(|_, outcome| outcome.image.config.clone())
    }

    /// Keeps the image under a name for later FROM lines.
    pub(crate) fn keep(&self, name: &str) {
        self.build(|machine, outcome| machine.keep(outcome, name));
    }

    /// The whole image, one line per path: `dir/ 755 0:0`, `file 644 0:0 content`,
    /// `link -> target`.
    pub(crate) fn tree(&self) -> Vec<String> {
        self.build(|machine, outcome| {
            let to = tempfile::tempdir().expect("a directory");
            let root = to.path().join("files");
            machine.write(outcome, &Output::Files(root.clone()), "unused");
            let mut lines = Vec::new();
            list(&root, Path::new(""), &mut lines);
            lines.sort();
            lines
        })
    }

    /// The lines of [`Case::tree`] below a path.
    pub(crate) fn tree_below(&self, path: &str) -> Vec<String> {
        self.tree().into_iter().filter(|line| line.starts_with(path)).collect()
    }
}

fn list(root: &Path, below: &Path, lines: &mut Vec<String>) {
    for item in std::fs::read_dir(root.join(below)).expect("readable") {
        let item = item.expect("readable");
        let path = below.join(item.file_name());
        let metadata = item.metadata().expect("readable");
        let kind = metadata.file_type();
        let shown = path.display();
        let looks = format!("{:o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        lines.push(if kind.is_dir() {
            format!("{shown}/ {looks}")
        } else if kind.is_symlink() {
            format!("{shown} -> {}", std::fs::read_link(item.path()).expect("a link").display())
        } else if kind.is_file() {
            let bytes = std::fs::read(item.path()).expect("readable");
            let text = if bytes.len() < 200 {
                String::from_utf8_lossy(&bytes).trim_end().replace('\n', "\\n")
            } else {
                format!("{} bytes", bytes.len())
            };
            format!("{shown} {looks} {text}")
        } else {
            format!("{shown} {looks} special")
        });
        if kind.is_dir() {
            list(root, &path, lines);
        }
    }
}

/// An error with everything below it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
