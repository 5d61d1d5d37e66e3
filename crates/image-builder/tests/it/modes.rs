//! Every way of running commands makes the same image.

use std::path::Path;

use container_runtime::Mode;
use dockerfile::PlanOptions;
use image_builder::{BuildRequest, CacheUse, SecretBytes, SecretSource};

use crate::fixture::{Machine, write_context};
use crate::tests;
use crate::tree::{assert_same, describe};

tests![
    modes_make_the_same_tree,
    mounts_work_in_every_mode_and_leave_nothing,
    a_failed_command_leaves_nothing_behind,
    daemons_end_with_their_step,
    in_place_in_a_hardened_pod_makes_the_same_tree,
    a_mount_whose_directory_is_moved_stays_out_of_the_layer,
];

/// The modes that a root of this machine has. In place is tried in a sandbox of its own, because
/// it takes the root file system it runs in.
const MODES: [Mode; 3] = [Mode::Overlay, Mode::UserNamespace, Mode::Chroot];

const MANY: &str = "\
FROM base AS tools
RUN mkdir -p /out/bin && echo tool > /out/bin/tool && chmod 755 /out/bin/tool
FROM base
WORKDIR /srv/app
COPY --chown=app:app src/ src/
RUN echo built > result && rm /etc/gone && mv /data /moved && ln /etc/keep /etc/hard
RUN rm -r /moved/deep && mkdir /moved/deep && echo new > /moved/deep/new
COPY --from=tools /out /opt
USER app
RUN id -u > /tmp/me; true
RUN rm -f /tmp/me; env > /home/app/env 2>/dev/null; true
USER root
RUN chown app:app /home/app
USER app
RUN echo $HOME > /home/app/home
";

fn failed(mode: Mode, error: &image_builder::BuildError, machine: &Machine) -> ! {
    let source = std::error::Error::source(error).map(ToString::to_string);
    panic!("{mode:?}: {error}: {source:?}\n{}", machine.printed())
}

fn no_cache(_: &mut PlanOptions, request: &mut BuildRequest) {
    request.cache = CacheUse::Ignore;
}

fn modes_make_the_same_tree() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let mut first = None;
    for mode in MODES {
        let outcome = machine
            .build_with(mode, MANY, &context, no_cache)
            .unwrap_or_else(|error| failed(mode, &error, &machine));
        let tree = describe(&machine.unpack(&outcome, &format!("tree-{mode:?}")));
        match &first {
            None => {
                assert!(tree.iter().any(|line| line.starts_with("/srv/app/result ")), "{tree:?}");
                assert!(!tree.iter().any(|line| line.starts_with("/etc/gone ")));
                first = Some(tree);
            }
            Some(first) => assert_same(&format!("{mode:?}"), &tree, first),
        }
        nothing_is_mounted(machine.root.path());
    }
}

fn mounts_work_in_every_mode_and_leave_nothing() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "\
FROM base
RUN --mount=type=secret,id=key,target=/run/secrets/key,required=true \
    --mount=type=secret,id=key,env=KEY \
    --mount=type=cache,target=/root/.cache/x,mode=0700 \
    --mount=type=tmpfs,target=/scratch \
    --mount=type=bind,source=src,target=/src,rw \
    cat /run/secrets/key && echo $KEY && ls /src/main.c && echo own > /src/own && \
    echo n >> /root/.cache/x/count && cat /root/.cache/x/count && touch /scratch/x && echo z > /z
";
    for (round, mode) in MODES.into_iter().enumerate() {
        let outcome = machine.build_with(mode, text, &context, |_, request| {
            let secret = SecretSource::Value(SecretBytes::new("hunter2"));
            request.secrets.insert("key".into(), secret);
            // The key of the step must not be found, and the cache mount must stay.
            request.compression = layers::Compression::Gzip(i32::try_from(round).unwrap_or(0) + 1);
        });
        let outcome = outcome.unwrap_or_else(|error| failed(mode, &error, &machine));
        let printed = machine.printed();
        assert!(
            printed.contains("hunter2\nhunter2") || printed.contains("hunter2hunter2"),
            "{printed}"
        );
        assert_eq!(printed.matches("n\n").count(), round + 1, "{mode:?}: {printed}");
        let tree = describe(&machine.unpack(&outcome, &format!("mounts-{mode:?}")));
        for path in ["/run/secrets", "/root/.cache", "/scratch", "/src"] {
            assert!(!tree.iter().any(|line| line.starts_with(path)), "{mode:?}: {path}: {tree:?}");
        }
        assert!(tree.iter().any(|line| line.starts_with("/z ")));
        assert!(!context.join("src/own").exists(), "the context was written");
    }
}

const MOVED: &str = "\
FROM base
RUN mkdir -p /b /c && echo of the image > /b/own
RUN --mount=type=secret,id=key,target=/b/.npmrc --mount=type=cache,target=/c/kept \
    test -s /b/.npmrc && echo n > /c/kept/in-cache && mv /b /app && mv /c /app/deep && \
    echo y > /app/new
RUN --mount=type=cache,target=/c/kept cat /c/kept/in-cache > /from-cache && ls -a /app > /listed
";

fn with_key(_: &mut PlanOptions, request: &mut BuildRequest) {
    let secret = SecretSource::Value(SecretBytes::new("hunter2"));
    request.secrets.insert("key".into(), secret);
    request.cache = CacheUse::Ignore;
}

/// What the image of [`MOVED`] holds of what the command moved, and of the mounts.
fn assert_moved(mode: Mode, machine: &Machine, context: &Path) {
    let outcome = machine
        .build_with(mode, MOVED, context, with_key)
        .unwrap_or_else(|error| failed(mode, &error, machine));
    let tree = machine.unpack(&outcome, &format!("moved-{mode:?}"));
    let read = |path: &str| std::fs::read_to_string(tree.join(path)).expect(path);
    assert_eq!(read("app/own"), "of the image\n", "{mode:?}");
    assert_eq!(read("app/new"), "y\n", "{mode:?}");
    assert_eq!(read("from-cache"), "n\n", "{mode:?}: the cache went home");
    assert!(!read("listed").contains("npmrc"), "{mode:?}: {}", read("listed"));
    let listed = describe(&tree);
    for hidden in ["npmrc", "in-cache"] {
        assert!(!listed.iter().any(|line| line.contains(hidden)), "{mode:?}: {listed:?}");
    }
    assert!(!tree.join("b").exists() && !tree.join("app/deep/kept").exists(), "{mode:?}");
}

fn a_mount_whose_directory_is_moved_stays_out_of_the_layer() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    assert_moved(Mode::Chroot, &machine, &context);
}

fn a_failed_command_leaves_nothing_behind() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    for mode in MODES {
        let text = "FROM base\nRUN echo before\nRUN echo no >&2; exit 7\n";
        let error = machine.build(mode, text, &context).expect_err("it fails");
        assert_eq!(error.exit_code(), Some(7), "{mode:?}: {error}");
        assert_eq!(error.to_string(), "[3/3] RUN echo no >&2; exit 7");
        nothing_is_mounted(machine.root.path());
        let work = machine.root.path().join("state/build/work");
        let left = std::fs::read_dir(work).expect("a directory").count();
        assert_eq!(left, 0, "{mode:?}");
    }
}

fn daemons_end_with_their_step() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    for mode in MODES {
        let text = "FROM base\nRUN setsid sleep 4321 & sleep 0.1; echo done > /done\n";
        if let Err(error) = machine.build_with(mode, text, &context, no_cache) {
            failed(mode, &error, &machine);
        }
        let alive = std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok).any(|item| {
            std::fs::read(item.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x004321\0")
        });
        assert!(!alive, "{mode:?}");
    }
}

fn nothing_is_mounted(root: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc");
    assert!(!mounts.contains(&root.display().to_string()), "{mounts}");
}

/// Argument that makes this binary the builder inside the sandbox.
pub(crate) const INNER: &str = "build-in-place";

/// A pod with the default capabilities and seccomp RuntimeDefault: nothing can be mounted, no
/// namespace made.
fn in_place_in_a_hardened_pod_makes_the_same_tree() {
    use container_runtime::{
        Cancel, Mount, Process, Root, Sandbox, SeccompProfile, StepSpec, Stream, run_step,
    };
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let outcome = machine.build(Mode::Overlay, MANY, &context).expect("the image to compare with");
    let expected = describe(&machine.unpack(&outcome, "expected"));

    let root = machine.root.path().join("pod");
    for directory in ["kaniko/tmp", "workspace", "etc"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    let program = std::env::current_exe().expect("this binary");
    std::fs::copy(program, root.join("kaniko/executor")).expect("a copy");
    let mut process = Process::new(["/kaniko/executor", INNER]);
    process.seccomp = SeccompProfile::RuntimeDefault;
    for (name, value) in [
        ("TMPDIR", "/kaniko/tmp"),
        (crate::fixture::BASE_CONTEXT, "/workspace/base"),
        ("PATH", "/bin"),
    ] {
        process.env.push((name.into(), value.into()));
    }
    let mut sandbox = Sandbox::new(Root::Directory(root.clone()));
    sandbox.mounts = vec![
        Mount::bind(&context, "/workspace/context").read_only(),
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
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert!(outcome.expect("a sandbox").exit.is_success(), "{stderr}");
    let printed = String::from_utf8_lossy(&stdout).into_owned();
    let tree: Vec<String> =
        printed.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect();
    assert_same(&format!("in place\n{stderr}"), &tree, &expected);
}

/// Builds in the root of this process and prints the tree of the image.
pub(crate) fn inner() {
    use std::io::Write as _;
    let machine = Machine::new();
    let context = Path::new("/workspace/context");
    assert_moved(Mode::InPlace, &machine, context);
    // Twice, so that the second build finds a root that is not empty.
    for round in 0..2 {
        let outcome = machine
            .build_with(Mode::InPlace, MANY, context, no_cache)
            .unwrap_or_else(|error| failed(Mode::InPlace, &error, &machine));
        if round == 1 {
            let tree = describe(&machine.unpack(&outcome, "tree"));
            let mut out = std::io::stdout().lock();
            for line in tree {
                writeln!(out, "{line}").expect("a reader");
            }
        }
    }
}
