//! Stages, targets, dependencies, named contexts and triggers.

use super::*;

fn bases(plan: &Plan) -> Vec<String> {
    let show = |stage: &Stage| match &stage.base {
        Base::Scratch => "scratch".to_owned(),
        Base::Image(image) => image.reference.to_string(),
        Base::NamedContext { name, .. } => format!("context {name}"),
        Base::Stage(id) => format!("stage {}", id.index()),
    };
    plan.stages.iter().map(show).collect()
}

#[test]
fn the_last_stage_is_the_target_and_the_rest_is_pruned() {
    let build = build("FROM a AS one\nFROM b AS two\nFROM scratch\nCOPY --from=one /x /x\n");
    let plan = build.plan();
    assert_eq!(bases(&plan), ["docker.io/library/a:latest", "scratch"]);
    assert_eq!(plan.target, StageId(1));
    let draft = build.try_draft().expect("a draft");
    assert_eq!(draft.unresolved_bases().len(), 1, "b is never looked at");
}

/// kaniko issue_mz305.
#[test]
fn numbers_count_the_stages_of_the_file_even_after_pruning() {
    let plan = build("FROM a\nFROM b\nFROM scratch\nCOPY --from=1 /x /x\n").plan();
    assert_eq!(bases(&plan), ["docker.io/library/b:latest", "scratch"]);
    let Action::Transfer(copy) = &plan.stages[1].steps[0].action else { panic!("a copy") };
    assert_eq!(copy.from, Source::Stage(StageId(0)));
}

/// BuildKit MultiStageCaseInsensitive; kaniko issue_1965.
#[test]
fn stage_names_ignore_case() {
    let plan =
        build("FROM a AS StAgE\nFROM STAGE AS b\nCOPY --from=sTaGe /x /x\n").target("B").plan();
    assert_eq!(bases(&plan), ["docker.io/library/a:latest", "stage 0"]);
}

#[test]
fn targets_are_names_or_numbers() {
    let file = "FROM a AS one\nFROM b AS two\nFROM c\n";
    for (target, base) in [("one", "a"), ("TWO", "b"), ("1", "b"), ("2", "c"), ("", "c")] {
        let plan = build(file).target(target).plan();
        assert_eq!(bases(&plan), [format!("docker.io/library/{base}:latest")], "{target}");
    }
}

/// BuildKit TargetMistype.
#[test]
fn a_mistyped_target_gets_a_suggestion() {
    let error = build("FROM a AS builder\n").target("bulider").error();
    assert_eq!(error, "target stage \"bulider\" could not be found (did you mean builder?)");
}

/// BuildKit DockerfileCircularDependencies.
#[test]
fn circles_are_refused() {
    let error = build("FROM busybox AS stage0\nCOPY --from=stage0 f1 /sub/\n").error();
    assert_eq!(error, "Dockerfile:1:1: circular dependency detected on stage: stage0");
    let error = build(
        "FROM busybox AS stage0\nCOPY --from=stage2 f1 /sub/\n\
         FROM busybox AS stage1\nCOPY --from=stage0 f2 /sub/\n\
         FROM busybox AS stage2\nCOPY --from=stage1 f2 /sub/\n",
    )
    .error();
    assert_eq!(error, "Dockerfile:1:1: circular dependency detected on stage: stage0");
}

/// BuildKit OutOfOrderStage.
#[test]
fn a_later_stage_cannot_be_used() {
    let error = build("FROM busybox AS target\nCOPY --from=build out .\nFROM a AS build\n").error();
    assert_eq!(
        error,
        "Dockerfile:2:1: cannot copy from stage \"build\", it needs to be defined before current \
         stage \"target\""
    );
    let error = build("FROM a\nRUN --mount=from=later,target=/x x\nFROM b AS later\n").error();
    assert!(error.contains("cannot mount from stage \"later\" to \"stage-0\""), "{error}");
}

#[test]
fn stage_numbers_must_exist() {
    let error = build("FROM a\nCOPY --from=7 x .\n").error();
    assert_eq!(error, "Dockerfile:2:1: invalid stage index 7");
}

/// BuildKit DockerfileCopyFromArgs: `--from` is never expanded.
#[test]
fn variables_in_from_flags_are_refused() {
    let error = build("ARG X=a\nFROM a\nCOPY --from=$X x .\n").error();
    assert!(error.contains("variable expansion is not supported for --from"), "{error}");
}

/// BuildKit MultiStageImplicitFrom.
#[test]
fn an_unknown_from_is_an_image() {
    let plan = build("FROM scratch\nCOPY --from=busybox /bin /bin\n").plan();
    let images: Vec<String> =
        plan.extra_images().into_iter().map(|image| image.reference.to_string()).collect();
    assert_eq!(images, ["docker.io/library/busybox:latest"]);
}

#[test]
fn base_names_must_be_image_references_when_needed() {
    assert!(build("FROM a/B\n").error().contains("failed to parse stage name"));
    assert!(build("FROM a/B\nFROM scratch\n").try_plan().is_ok(), "unneeded stages do not matter");
}

#[test]
fn the_nearest_earlier_stage_of_a_name_wins() {
    let plan = build("FROM a AS x\nFROM b AS x\nFROM x AS x\n").plan();
    assert_eq!(bases(&plan), ["docker.io/library/b:latest", "stage 0"]);
}

/// BuildKit NamedImageContext, NamedLocalContext.
#[test]
fn named_contexts_replace_images_stages_and_from_names() {
    let plan = build("FROM alpine:latest\n").context("alpine").plan();
    assert_eq!(bases(&plan), ["context alpine"]);
    let plan = build("FROM a AS base\nRUN x\nFROM base\n").context("base").plan();
    assert_eq!(bases(&plan), ["context base", "stage 0"]);
    assert!(plan.stages[0].steps.is_empty());
    let plan = build("FROM scratch\nCOPY --from=src /x /x\n").context("src::linux/amd64").plan();
    let Action::Transfer(copy) = &plan.stages[0].steps[0].action else { panic!("a copy") };
    assert_eq!(copy.from, Source::NamedContext("src::linux/amd64".into()));
}

/// BuildKit EagerNamedContextLookup.
#[test]
fn unused_named_contexts_are_never_looked_at() {
    let build = build("FROM used AS u\nFROM unused\nFROM u\n").context("unused");
    let draft = build.try_draft().expect("a draft");
    assert_eq!(draft.unresolved_bases().len(), 1);
}

/// BuildKit OnBuildCleared.
#[test]
fn triggers_run_first_and_then_vanish() {
    let stage =
        build("FROM base\nRUN own\n").base("base", with_triggers(&["RUN one", "ENV A=b"])).stage();
    let titles: Vec<_> =
        stage.steps.iter().map(|step| (step.title.as_str(), step.origin)).collect();
    assert_eq!(
        titles,
        [
            ("[2/3] RUN one", StepOrigin::Trigger),
            ("ENV A=b", StepOrigin::Trigger),
            ("[3/3] RUN own", StepOrigin::File),
        ]
    );
    assert!(stage.config.on_build.is_empty());
}

/// BuildKit OnBuildInheritedStageRun, OnBuildInheritedStageWithFrom.
#[test]
fn triggers_of_a_stage_run_in_its_children_only_once() {
    let plan = build(
        "FROM a AS tools\nFROM b AS base\nONBUILD RUN x\nONBUILD COPY --from=tools /t /t\n\
         FROM base AS mid\nFROM mid\nRUN y\n",
    )
    .plan();
    let counts: Vec<usize> = plan.stages.iter().map(|stage| stage.steps.len()).collect();
    assert_eq!(counts, [0, 0, 2, 1], "ONBUILD itself is no step");
    assert_eq!(plan.stages[1].config.on_build, ["RUN x", "COPY --from=tools /t /t"]);
    assert!(plan.stages[2].config.on_build.is_empty());
}

/// BuildKit OnBuildWithChildStage, OnBuildNewDeps, OnBuildNamedContext; kaniko issue_mz332.
#[test]
fn triggers_bring_in_stages_images_and_contexts() {
    let file = "FROM a AS tools\nFROM base\n";
    let triggers = ["COPY --from=tools /t /t", "COPY --from=busybox /b /b", "COPY --from=ctx / /c"];
    let build = build(file).base("base", with_triggers(&triggers)).context("ctx");
    let plan = build.plan();
    assert_eq!(bases(&plan), ["docker.io/library/a:latest", "docker.io/library/base:latest"]);
    assert_eq!(plan.extra_images().len(), 1);
    let Action::Transfer(copy) = &plan.stages[1].steps[2].action else { panic!("a copy") };
    assert_eq!(copy.from, Source::NamedContext("ctx".into()));
}

/// BuildKit OnBuildHeredoc, OnBuildWithCacheMount.
#[test]
fn triggers_keep_heredocs_and_mounts() {
    let stage = build("FROM a\nONBUILD RUN <<EOF\necho \"hello world\" >> /dest\nEOF\n").stage();
    assert_eq!(stage.config.on_build, ["RUN <<EOF\necho \"hello world\" >> /dest\nEOF"]);
    let triggers = ["RUN <<EOF\necho hi\nEOF", "RUN --mount=type=cache,target=/c x"];
    let runs = build("FROM base\n").base("base", with_triggers(&triggers)).runs();
    assert_eq!(runs[0].argv, ["/bin/sh", "-c", "echo hi\n"]);
    assert_eq!(runs[1].mounts.len(), 1);
}

#[test]
fn broken_triggers_name_the_from_line() {
    for (trigger, part) in [
        ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("FOO", "unknown instruction: FOO"),
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
    ] {
        let error = build("FROM base\n").base("base", with_triggers(&[trigger])).error();
        assert!(error.starts_with("Dockerfile:1:1: ONBUILD trigger"), "{error}");
        assert!(error.contains(part), "{error}");
    }
}

/// BuildKit PlatformArgsExplicit.
#[test]
fn platforms_select_the_base_and_are_inherited() {
    let build = build(
        "FROM --platform=$BUILDPLATFORM a AS x\nFROM x AS y\nFROM scratch\nCOPY --from=y / /\n",
    );
    let mut build = build;
    build.options.target_platform = "linux/arm64".parse().expect("a platform");
    let plan = build.plan();
    let platforms: Vec<String> =
        plan.stages.iter().map(|stage| stage.platform.to_string()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/amd64", "linux/arm64"]);
    assert_eq!(plan.platform.to_string(), "linux/arm64");
}

/// BuildKit StepNames.
#[test]
fn titles_count_the_steps_that_make_layers() {
    let plan =
        build("FROM a AS one\nENV x=y\nRUN  a \\\n  b\nFROM one\nWORKDIR /w\nCOPY a b\n").plan();
    let titles: Vec<&str> =
        plan.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "[one] ENV x=y",
            "[one 2/2] RUN a b",
            "[stage-1 2/3] WORKDIR /w",
            "[stage-1 3/3] COPY a b"
        ]
    );
}

#[test]
fn errors_name_file_line_and_text() {
    let error = build("FROM a\n\nRUN \\\n  x\nCOPY --form=x a b\n").try_plan().expect_err("typo");
    assert_eq!(error.to_string(), "Dockerfile:5:1: unknown flag: --form (did you mean from?)");
    assert_eq!(error.line_text(), Some("COPY --form=x a b"));
    assert_eq!(error.suggestion(), Some("from"));
}
