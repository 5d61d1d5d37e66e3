//! Commands that mean harm or are careless, and files that were touched but not changed.

use std::path::Path;

use container_runtime::Mode;
use dockerfile::PlanOptions;
use image_builder::{BuildError, BuildEvent, BuildOutcome, BuildRequest, CacheUse};

use crate::fixture::{Machine, write_context};
use crate::tests;
use crate::tree::{assert_same, describe};

tests![
    touched_files_are_entries_only_if_they_say_something_new,
    odd_files_are_kept_in_every_mode,
    daemons_that_hide_and_ignore_signals_end_with_their_step,
    a_command_killed_by_a_signal_has_the_code_of_docker,
    floods_of_output_and_bytes_of_any_kind_arrive,
    a_command_that_removes_everything_harms_only_its_image,
    a_command_that_leaves_its_directory_for_good_is_packed,
    a_hundred_thousand_files_are_packed,
    trees_deeper_than_layers_go_are_refused_and_removed,
    caches_survive_what_commands_do_to_them,
];

const MODES: [Mode; 3] = [Mode::Overlay, Mode::UserNamespace, Mode::Chroot];

fn anew(_: &mut PlanOptions, request: &mut BuildRequest) {
    request.cache = CacheUse::Ignore;
    request.epoch = Some(1_700_000_000);
}

fn build(machine: &Machine, mode: Mode, text: &str) -> Result<BuildOutcome, BuildError> {
    let outcome = machine.build_with(mode, text, &machine.root.path().join("context"), anew);
    nothing_is_left(machine, mode);
    outcome
}

#[track_caller]
fn built(machine: &Machine, mode: Mode, text: &str) -> BuildOutcome {
    match build(machine, mode, text) {
        Ok(outcome) => outcome,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{mode:?}: {error}: {source:?}\n{}", machine.printed())
        }
    }
}

fn machine() -> Machine {
    let machine = Machine::new();
    write_context(machine.root.path());
    machine
}

#[track_caller]
fn nothing_is_left(machine: &Machine, mode: Mode) {
    let root = machine.root.path().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc");
    assert!(!mounts.contains(&root), "{mode:?}: {mounts}");
    let work = machine.root.path().join("state/build/work");
    // The outcome of the build may still hold its scratch space; steps have none left there.
    for build in std::fs::read_dir(work).expect("a directory").filter_map(Result::ok) {
        for item in std::fs::read_dir(build.path()).expect("a directory").filter_map(Result::ok) {
            let name = item.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with("run-") && !name.starts_with("aside-"), "{mode:?}: {name}");
        }
    }
}

fn touched_files_are_entries_only_if_they_say_something_new() {
    let machine = machine();
    let text = "\
FROM base
RUN ln /data/one /data/uno && mkdir /quiet && echo x > /quiet/x
RUN touch -a /etc/keep && chmod 644 /etc/gone && chown 0:0 /data/deep/two && chmod 755 /data
RUN touch -r /etc/keep /tmp/ref && printf 'KEEP\\n' > /etc/keep && touch -r /tmp/ref /etc/keep \
    && rm /tmp/ref
RUN cp -p /etc/gone /etc/gone.new && mv /etc/gone.new /etc/gone
RUN rm /data/uno
";
    let mut digests = Vec::new();
    for mode in MODES {
        let outcome = built(&machine, mode, text);
        let layers = outcome.image.rootfs.diff_ids.len();
        assert_eq!(layers, 2 + 4, "{mode:?}: the second and the fourth RUN change nothing new");
        digests.push((mode, *outcome.manifest.digest()));
        let tree = machine.unpack(&outcome, &format!("touched-{mode:?}"));
        assert_eq!(std::fs::read(tree.join("etc/keep")).expect("there"), b"KEEP\n");
    }
    assert!(digests.iter().all(|(_, digest)| *digest == digests[0].1), "{digests:?}");
}

fn odd_files_are_kept_in_every_mode() {
    let machine = machine();
    let text = "\
FROM base
RUN mkdir /odd && cd /odd && touch \"$(printf 'new\\nline')\" \"$(printf 'not \\377 text')\" && \
    busybox mkfifo fifo && ln -s loop loop && mkdir closed && echo s > closed/secret && \
    chmod 000 closed closed/secret && mkdir sticky && chmod 7777 sticky && touch -- -rf '*'
RUN cat /odd/closed/secret > /odd/read
RUN mv /odd/closed /odd/moved && chmod 700 /odd/moved
";
    let mut first: Option<Vec<String>> = None;
    for mode in MODES {
        let outcome = built(&machine, mode, text);
        let tree = describe(&machine.unpack(&outcome, &format!("odd-{mode:?}")));
        match &first {
            None => first = Some(tree),
            Some(first) => assert_same(&format!("{mode:?}"), &tree, first),
        }
    }
    let tree = first.unwrap_or_default();
    for start in ["/odd/fifo 644", "/odd/loop ", "/odd/moved 700", "/odd/moved/secret 0 "] {
        assert!(tree.iter().any(|line| line.starts_with(start)), "{start}: {tree:#?}");
    }
}

fn daemons_that_hide_and_ignore_signals_end_with_their_step() {
    let machine = machine();
    let text = "\
FROM base
RUN trap '' HUP INT TERM QUIT USR1; (setsid sh -c 'trap \"\" HUP INT TERM QUIT; \
    (setsid sh -c \"sleep 98765 & sleep 98765\" &) ; sleep 98765' &) ; \
    (cd / && exec setsid sleep 98765 </dev/null >/dev/null 2>&1 &) ; (exit 3 &) ; echo started
RUN ls /proc/*/cmdline >/dev/null 2>&1; echo next
";
    for mode in MODES {
        built(&machine, mode, text);
        let alive: Vec<_> = std::fs::read_dir("/proc")
            .expect("proc")
            .filter_map(Result::ok)
            .filter(|item| {
                std::fs::read(item.path().join("cmdline"))
                    .is_ok_and(|line| line == b"sleep\x0098765\0")
            })
            .collect();
        assert!(alive.is_empty(), "{mode:?}: {alive:?}");
    }
}

fn a_command_killed_by_a_signal_has_the_code_of_docker() {
    let machine = machine();
    let run = |mode, command: &str, code| {
        let text = format!("FROM base\nRUN [\"sh\", \"-c\", \"{command}\"]\n");
        match build(&machine, mode, &text) {
            Ok(_) => panic!("{mode:?}: {command} succeeded"),
            Err(error) => {
                assert_eq!(error.exit_code(), Some(code), "{mode:?}: {command}: {error}");
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let end = format!("did not complete successfully: exit code: {code}");
                assert!(source.as_ref().is_some_and(|text| text.ends_with(&end)), "{source:?}");
            }
        }
    };
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        for mode in MODES {
            // A shell of its own, because the first process of a PID namespace does not hear
            // signals that it has no handler for.
            run(mode, &format!("sh -c 'kill -{signal} $$'; exit $?"), code);
        }
        run(Mode::Chroot, &format!("kill -{signal} $$"), code);
    }
}

fn floods_of_output_and_bytes_of_any_kind_arrive() {
    let machine = machine();
    let text = "FROM base\nRUN head -c 100000000 /dev/zero; printf '\\000\\377\\033[2J' >&2\n";
    for mode in MODES {
        built(&machine, mode, text);
        let events = machine.events.lock().expect("events");
        let bytes: usize = events
            .iter()
            .map(|event| match event {
                BuildEvent::StepOutput { bytes, .. } => bytes.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(bytes, 100_000_006, "{mode:?}");
    }
}

fn a_command_that_removes_everything_harms_only_its_image() {
    let machine = machine();
    let witness = machine.root.path().join("witness");
    std::fs::write(&witness, "host's").expect("a file");
    for mode in MODES {
        let outcome = built(&machine, mode, "FROM base\nRUN rm -rf / 2>/dev/null; exit 0\n");
        let tree = describe(&machine.unpack(&outcome, &format!("empty-{mode:?}")));
        let files: Vec<&String> = tree.iter().filter(|line| line.contains(" file ")).collect();
        assert!(files.is_empty(), "{mode:?}: {files:?}");
        let text = "FROM base\nRUN rm -rf / 2>/dev/null; exit 0\nRUN echo next\n";
        let Err(error) = build(&machine, mode, text) else { panic!("{mode:?}: there is no shell") };
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(source.as_ref().is_some_and(|text| text.contains("/bin/sh")), "{source:?}");
        built(&machine, mode, "FROM base\nRUN echo next\n");
    }
    assert_eq!(std::fs::read(&witness).expect("there"), b"host's");
}

fn a_command_that_leaves_its_directory_for_good_is_packed() {
    let machine = machine();
    let text = "FROM base\nWORKDIR /gone/deep\nRUN rmdir /gone/deep && cd /tmp && rm -r /gone && \
                echo out > /out\nRUN cat /out\n";
    for mode in MODES {
        let outcome = built(&machine, mode, text);
        let tree = machine.unpack(&outcome, &format!("left-{mode:?}"));
        assert!(tree.join("out").exists(), "{mode:?}");
    }
}

fn a_hundred_thousand_files_are_packed() {
    let machine = machine();
    let text = "FROM base\nRUN mkdir /many && cd /many && i=0 && while [ $i -lt 100 ]; do \
                mkdir $i && i=$((i+1)); done && i=0 && while [ $i -lt 100000 ]; do \
                : > $((i % 100))/$i; i=$((i+1)); done\n";
    let outcome = built(&machine, Mode::Overlay, text);
    let tree = machine.unpack(&outcome, "many");
    let count = |path: &Path| std::fs::read_dir(path).expect("there").count();
    assert_eq!((count(&tree.join("many")), count(&tree.join("many/99"))), (100, 1000));
}

fn trees_deeper_than_layers_go_are_refused_and_removed() {
    let machine = machine();
    let text = "FROM base\nRUN cd /tmp; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 9; \
                i=$((i+1)); done\n";
    for mode in MODES {
        let Err(error) = build(&machine, mode, text) else { panic!("{mode:?}: a layer so deep") };
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            said.push_str(": ");
            said.push_str(&error.to_string());
            source = error.source();
        }
        assert!(said.contains("too long") || said.contains("deep"), "{mode:?}: {said}");
        let work = machine.root.path().join("state/build/work");
        assert_eq!(std::fs::read_dir(work).expect("a directory").count(), 0, "{mode:?}");
    }
}

fn caches_survive_what_commands_do_to_them() {
    let machine = machine();
    let text =
        |command: &str| format!("FROM base\nRUN --mount=type=cache,target=/cache,id=x {command}\n");
    let context = machine.root.path().join("context");
    let run = |mode, command: &str| {
        let built = machine.build(mode, &text(command), &context);
        built.unwrap_or_else(|error| panic!("{mode:?}: {error}\n{}", machine.printed()));
        machine.printed()
    };
    for mode in MODES {
        run(mode, &format!("echo {mode:?} >> /cache/log"));
    }
    let printed = run(Mode::Chroot, "cat /cache/log");
    assert!(printed.contains("Overlay\nUserNamespace\nChroot\n"), "{printed}");
    // Without mounts the directory itself is at hand.
    run(Mode::Chroot, "rm -r /cache");
    assert_eq!(run(Mode::Chroot, "ls /cache"), "");
    run(Mode::Chroot, "rmdir /cache && ln -s /etc /cache");
    assert_eq!(run(Mode::Overlay, "ls  /cache"), "");
}
