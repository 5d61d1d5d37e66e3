//! Cache keys, layers and outputs: what a build promises besides its files.

use std::path::Path;

use container_runtime::Mode;
use image_builder::{BuildOutcome, Family, FamilyChoice, Output, Snapshots, StepError};
use oci_model::Manifest;

use crate::fixture::{Machine, write_context};
use crate::tests;
use crate::tree::describe;

tests![
    a_repeated_build_executes_nothing_and_has_the_same_digest,
    only_what_a_step_reads_invalidates_it,
    secrets_and_proxies_are_no_part_of_keys,
    an_equal_result_keeps_later_steps_cached,
    a_build_without_run_unpacks_nothing,
    media_types_of_families_never_mix,
    one_snapshot_holds_what_all_steps_did,
    one_snapshot_shows_nothing_that_a_step_removed_and_loses_no_name_of_a_file,
    an_epoch_makes_builds_reproducible,
    a_missing_source_is_named_with_its_line,
    triggers_of_the_base_run_once,
    layers_of_the_base_stay_untouched,
    heredocs_are_files_and_scripts,
];

fn run(machine: &Machine, text: &str, context: &Path) -> BuildOutcome {
    machine.build(Mode::Overlay, text, context).unwrap_or_else(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        panic!("{error}: {source:?}\n{}", machine.printed())
    })
}

fn a_repeated_build_executes_nothing_and_has_the_same_digest() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nWORKDIR /w\nCOPY src .\nRUN echo x > y\nLABEL a=b\n";
    let first = run(&machine, text, &context);
    let second = run(&machine, text, &context);
    assert_eq!((first.steps_executed, second.steps_executed, second.steps_cached), (3, 0, 3));
    assert_eq!(first.manifest.digest(), second.manifest.digest());
}

fn only_what_a_step_reads_invalidates_it() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nCOPY *.txt /t/\nRUN echo x > /y\n";
    let executed = |change: &dyn Fn(&Path)| {
        change(&context);
        run(&machine, text, &context).steps_executed
    };
    assert_eq!(executed(&|_| {}), 2);
    assert_eq!(executed(&|c| std::fs::write(c.join("c.md"), "other").expect("a file")), 0);
    // A copy of the same bytes with another time is the same file.
    assert_eq!(executed(&|c| std::fs::write(c.join("a.txt"), "a").expect("a file")), 0);
    assert_eq!(executed(&|c| std::fs::write(c.join("a.txt"), "z").expect("a file")), 2);
    let rename = |c: &Path| std::fs::rename(c.join("a.txt"), c.join("d.txt")).expect("a file");
    assert_eq!(executed(&rename), 2);
}

fn secrets_and_proxies_are_no_part_of_keys() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nRUN --mount=type=secret,id=s,env=S echo run > /r\n";
    let executed = |value: &str, name: &str| {
        let outcome = machine.build_with(Mode::Overlay, text, &context, |options, request| {
            let bytes = image_builder::SecretBytes::new(value);
            let secret = image_builder::SecretSource::Value(bytes);
            request.secrets.insert("s".into(), secret);
            options.build_args.insert(name.into(), "v".into());
        });
        outcome.expect("a build").steps_executed
    };
    assert_eq!(executed("one", "HTTP_PROXY"), 1);
    assert_eq!(executed("two", "HTTPS_PROXY"), 0);
}

fn an_equal_result_keeps_later_steps_cached() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = |n: u32| {
        format!(
            "FROM base AS one\nRUN echo {n} > /n && echo same > /same\n\
         FROM base\nCOPY --from=one /same /s\nRUN cat /s > /t\n"
        )
    };
    assert_eq!(run(&machine, &text(1), &context).steps_executed, 3);
    // The first stage differs, what is copied from it does not.
    assert_eq!(run(&machine, &text(2), &context).steps_executed, 1);
}

fn a_build_without_run_unpacks_nothing() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nCOPY --chown=app src /lib/app/\nCOPY --from=base /etc/keep /k\n";
    machine.build(Mode::None, text, &context).expect("no RUN, no rights needed");
    let trees = machine.root.path().join("state/layers/trees/sha256");
    assert_eq!(std::fs::read_dir(trees).expect("a store").count(), 0);
}

fn media_types_of_families_never_mix() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    for (family, docker) in [(Family::Oci, false), (Family::Docker, true)] {
        let text = "FROM base\nCOPY a.txt /\n";
        let outcome = machine.build_with(Mode::None, text, &context, |_, request| {
            request.family = FamilyChoice::Exactly(family);
        });
        let outcome = outcome.expect("a build");
        let Manifest::Image(image) = outcome.manifest.parsed() else { panic!("an index") };
        assert_eq!(outcome.manifest.media_type().is_docker(), docker);
        assert!(image.layers.iter().all(|layer| layer.media_type.is_docker() == docker));
        assert_eq!(image.config.media_type.is_docker(), docker);
    }
    let outcome = machine.build_with(Mode::None, "FROM base\nCOPY a.txt /\n", &context, |_, r| {
        r.family = FamilyChoice::Exactly(Family::Docker);
        r.compression = layers::Compression::ZSTD_DEFAULT;
    });
    assert!(outcome.expect_err("Docker has no zstd").to_string().contains("zstd"));
}

fn one_snapshot_holds_what_all_steps_did() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text =
        "FROM base\nCOPY src /s\nRUN rm /s/main.c /etc/gone && echo x > /s/x\nCOPY a.txt /s/\n";
    let many = run(&machine, text, &context);
    let one = machine.build_with(Mode::Overlay, text, &context, |_, request| {
        request.snapshots = Snapshots::Single;
    });
    let one = one.expect("a build");
    assert_eq!(one.layer_count() + 2, many.layer_count());
    let filled = one.image.history.iter().filter(|entry| !entry.empty_layer).count();
    assert_eq!(filled, one.image.rootfs.diff_ids.len());
    let (one, many) = (machine.unpack(&one, "one"), machine.unpack(&many, "many"));
    assert_eq!(describe(&one), describe(&many));
}

fn one_snapshot_shows_nothing_that_a_step_removed_and_loses_no_name_of_a_file() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    for (at, steps) in [
        "RUN rm -rf /data\nCOPY src /data\n",
        "RUN rm -rf /data && echo f > /data\nRUN rm /data && mkdir -p /data/deep/er\n",
        "RUN echo old > /a\nRUN ln /a /b && ln /a /c\nRUN rm /a\n",
        "RUN echo old > /a\nRUN ln /a /b && ln /a /c\nRUN rm /a; echo new > /a\n",
        "RUN ln /etc/keep /etc/kept && ln /etc/keep /etc/too\nRUN rm /etc/keep\n",
        "RUN ln /etc/keep /etc/kept\nRUN rm /etc/keep; echo new > /etc/keep\n",
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!("FROM base\n{steps}");
        let many = run(&machine, &text, &context);
        let one = machine.build_with(Mode::Overlay, &text, &context, |_, request| {
            request.snapshots = Snapshots::Single;
        });
        let one = one.expect("a build");
        let (one, many) = (
            machine.unpack(&one, &format!("one-{at}")),
            machine.unpack(&many, &format!("many-{at}")),
        );
        assert_eq!(describe(&one), describe(&many), "{steps}");
    }
}

fn an_epoch_makes_builds_reproducible() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nWORKDIR /new\nCOPY src .\nRUN echo x > y\n";
    let build = || {
        let outcome = machine.build_with(Mode::Overlay, text, &context, |_, request| {
            request.epoch = Some(1_000_000);
            request.cache = image_builder::CacheUse::Ignore;
        });
        outcome.expect("a build")
    };
    let (first, second) = (build(), build());
    assert_eq!(first.manifest.digest(), second.manifest.digest());
    assert_eq!(first.image.created.as_deref(), Some("1970-01-12T13:46:40Z"));
}

fn a_missing_source_is_named_with_its_line() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let error = machine.build(Mode::None, "FROM base\n\nCOPY no/such /x\n", &context);
    match error.expect_err("missing") {
        image_builder::BuildError::Step { span, source, .. } => {
            assert_eq!(span.line, 3);
            assert!(matches!(*source, StepError::Source(_)));
            assert_eq!(source.to_string(), "failed to compute cache key: \"/no/such\": not found");
        }
        other => panic!("{other}"),
    }
}

fn triggers_of_the_base_run_once() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let outcome = run(&machine, "FROM base\nONBUILD COPY a.txt /triggered\n", &context);
    machine.keep(&outcome, "triggering");
    let child = run(&machine, "FROM triggering\nRUN cat /triggered\n", &context);
    assert!(child.image.config.on_build.is_empty());
    assert_eq!(machine.printed(), "a");
    machine.keep(&child, "child");
    let grandchild = run(&machine, "FROM child\nRUN echo x\n", &context);
    assert_eq!(grandchild.steps_executed + grandchild.steps_cached, 1);
}

fn layers_of_the_base_stay_untouched() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let base = run(&machine, "FROM base\nLABEL x=y\n", &context);
    let child = run(&machine, "FROM base\nRUN touch /x\n", &context);
    let layers = |outcome: &BuildOutcome| match outcome.manifest.parsed() {
        Manifest::Image(image) => image.layers.clone(),
        Manifest::Index(_) => panic!("an index"),
    };
    assert_eq!(layers(&child)[..layers(&base).len()], layers(&base)[..]);
    let output = machine.root.path().join("layout");
    machine.write(&child, &Output::OciDirectory(output.clone()), "child:1");
    let status = std::process::Command::new("skopeo")
        .args(["inspect", &format!("oci:{}:1", output.display())])
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.expect("Debian's skopeo").success());
}

fn heredocs_are_files_and_scripts() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let text = "FROM base\nARG WHO=me\nCOPY <<EOF /etc/inline\nhello $WHO\nEOF\n\
                COPY <<'A' <<B /two/\n$raw\nA\nb\nB\n\
                RUN <<EOF\ncat /etc/inline /two/A /two/B\necho second\nEOF\n\
                RUN <<EOF\n#!/bin/cat\nshown by cat\nEOF\n";
    let outcome = run(&machine, text, &context);
    let printed = machine.printed();
    assert_eq!(printed, "hello me\n$raw\nb\nsecond\n#!/bin/cat\nshown by cat\n");
    let tree = describe(&machine.unpack(&outcome, "heredocs"));
    assert!(!tree.iter().any(|line| line.contains("pipes")), "{tree:?}");
}
