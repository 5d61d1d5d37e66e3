//! kaniko's integration cases as tests of our own, one function per claim, written from what the
//! cases are about. `docs/dockerfile-conformance.md` says which of kaniko's names each stands for.
//!
//! Every case builds in an overlay, and once more in place: `every_case_holds_in_place` starts this
//! binary in a sandbox with the default capabilities and seccomp RuntimeDefault, where the root of
//! the process is the root of the image, as in an executor's pod.

mod add;
mod args;
mod bases;
mod caches;
mod config;
mod contexts;
mod copy;
mod formats;
mod pains;
mod run;
mod snapshot;
mod spec;
mod stages;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use container_runtime::{
    Cancel, Mode, Mount, Process, Root, Sandbox, SeccompProfile, StepSpec, Stream, run_step,
};

pub(crate) use self::spec::dockerfile;
use crate::Test;
use crate::fixture::{BASE_CONTEXT, Machine, write_context};

/// The groups of kaniko's matrix.
pub(crate) const GROUPS: &[(&str, &[Test])] = &[
    ("kaniko::add", add::TESTS),
    ("kaniko::args", args::TESTS),
    ("kaniko::bases", bases::TESTS),
    ("kaniko::caches", caches::TESTS),
    ("kaniko::config", config::TESTS),
    ("kaniko::contexts", contexts::TESTS),
    ("kaniko::copy", copy::TESTS),
    ("kaniko::formats", formats::TESTS),
    ("kaniko::pains", pains::TESTS),
    ("kaniko::run", run::TESTS),
    ("kaniko::snapshot", snapshot::TESTS),
    ("kaniko::stages", stages::TESTS),
    ("kaniko", &[("every_case_holds_in_place", every_case_holds_in_place)]),
];

/// Argument that makes this binary run the cases in the root it finds itself in.
pub(crate) const INNER: &str = "kaniko-in-place";

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
    static MODE: Cell<Mode> = const { Cell::new(Mode::Overlay) };
}

/// The machine that all cases share.
fn machine() -> Rc<Machine> {
    MACHINE.with(|shared| {
        let mut shared = shared.borrow_mut();
        Rc::clone(shared.get_or_insert_with(|| {
            let machine = Machine::new();
            if !Path::new(POD_CONTEXT).exists() {
                write_context(machine.root.path());
            }
            Rc::new(machine)
        }))
    })
}

/// Lets go of the machine with all its files.
pub(crate) fn close() {
    MACHINE.with(|shared| shared.borrow_mut().take());
}

/// How commands run at the moment.
fn mode() -> Mode {
    MODE.with(Cell::get)
}

/// The shared context inside of the pod.
const POD_CONTEXT: &str = "/workspace/context";

/// The same cases where nothing can be mounted and no namespace made.
fn every_case_holds_in_place() {
    let machine = machine();
    let root = machine.root.path().join("pod");
    for directory in ["kaniko/tmp", "workspace", "etc"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    let program = std::env::current_exe().expect("this binary");
    if std::fs::hard_link(&program, root.join("kaniko/executor")).is_err() {
        std::fs::copy(&program, root.join("kaniko/executor")).expect("a copy");
    }
    let filters = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let filters = filters.filter(|filter| !"kaniko::every_case_holds_in_place".contains(filter));
    let words = ["/kaniko/executor".to_owned(), INNER.to_owned()].into_iter().chain(filters);
    let mut process = Process::new(words);
    process.seccomp = SeccompProfile::RuntimeDefault;
    for (name, value) in
        [("TMPDIR", "/kaniko/tmp"), (BASE_CONTEXT, "/workspace/base"), ("PATH", "/bin")]
    {
        process.env.push((name.into(), value.into()));
    }
    let mut sandbox = Sandbox::new(Root::Directory(root));
    sandbox.mounts = vec![
        Mount::bind(machine.root.path().join("context"), POD_CONTEXT).read_only(),
        Mount::bind(machine.root.path().join("base"), "/workspace/base").read_only(),
        Mount::bind("/etc/hosts", "/etc/resolv.conf").read_only(),
    ];
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let cancel = Cancel::new().expect("an event");
    let outcome =
        run_step(&StepSpec { process, sandbox }, &cancel, &mut |stream, bytes| match stream {
            Stream::Stdout => stdout.extend_from_slice(bytes),
            Stream::Stderr => stderr.extend_from_slice(bytes),
        });
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let exit = outcome.expect("a sandbox").exit;
    assert!(exit.is_success() && stdout.ends_with("all ran\n"), "{exit:?}\n{stderr}\n{stdout}");
}

/// Runs the cases in the root of this process and says which fail.
pub(crate) fn inner() {
    use std::io::Write as _;
    MODE.with(|mode| mode.set(Mode::InPlace));
    let filters: Vec<String> = std::env::args().skip(2).collect();
    let mut failed = Vec::new();
    for (module, tests) in GROUPS {
        for (name, test) in *tests {
            let full = format!("{module}::{name}");
            let wanted = filters.is_empty() || filters.iter().any(|filter| full.contains(filter));
            if wanted && *module != "kaniko" && catch_unwind(AssertUnwindSafe(test)).is_err() {
                failed.push(full);
            }
        }
    }
    close();
    let mut out = std::io::stdout().lock();
    for name in &failed {
        writeln!(out, "in place: {name} FAILED").expect("a reader");
    }
    if failed.is_empty() {
        writeln!(out, "all ran").expect("a reader");
    }
}
