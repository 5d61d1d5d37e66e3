//! ARG and ENV: scopes, order, predefined names.

use super::*;

/// BuildKit GlobalArg; kaniko meta_arg.
#[test]
fn global_arguments_reach_from_lines_and_redeclaring_stages() {
    let file = "ARG tag=nosuchtag\nFROM busybox:${tag}\nRUN a\nARG tag\nRUN b\n";
    let build = build(file).arg("tag", "latest");
    let plan = build.plan();
    let Base::Image(image) = &plan.stages[0].base else { panic!("an image") };
    assert_eq!(image.reference.to_string(), "docker.io/library/busybox:latest");
    let runs = build.runs();
    assert_eq!(env_of(&runs[0], "tag"), None);
    assert_eq!(env_of(&runs[1], "tag"), Some("latest"));
}

/// BuildKit GlobalArgErrors.
#[test]
fn mandatory_arguments_fail_with_their_message() {
    let file = "ARG BASE=\"${MISSING:?please set it}\"\nFROM ${BASE}\n";
    assert_eq!(build(file).error(), "Dockerfile:1:1: MISSING: please set it");
    assert!(build(file).arg("BASE", "busybox").try_plan().is_ok());
}

/// BuildKit ArgDefaultExpansion; kaniko arg_two_level.
#[test]
fn defaults_refer_to_earlier_arguments() {
    let file = "ARG A=x\nARG B=${A}y\nFROM scratch\nARG B\nARG C=${B}z\nENV R=$C\n";
    assert_eq!(build(file).image_env(), ["R=xyz"]);
    assert_eq!(build(file).arg("A", "1").image_env(), ["R=1yz"]);
}

/// BuildKit MultiArgs, QuotedMetaArgs; kaniko arg_from_quotes, arg_blank_with_quotes.
#[test]
fn several_arguments_per_line_lose_their_quotes() {
    let file =
        "ARG a1=\"foo bar\" a2='b' a3=\"\"\nFROM scratch\nARG a1 a2 a3=q\nENV R=\"$a1 $a2 $a3\"\n";
    assert_eq!(build(file).image_env(), ["R=foo bar b q"]);
    let plan = build("ARG i=\"busybox\"\nFROM $i\n").plan();
    assert!(matches!(plan.stages[0].base, Base::Image(_)));
}

/// kaniko issue_mz622.
#[test]
fn siblings_do_not_see_each_others_arguments() {
    let runs = build("FROM scratch AS a\nARG X=1\nFROM scratch\nRUN x\n").runs();
    assert_eq!(env_of(&runs[0], "X"), None);
}

#[test]
fn children_see_the_arguments_of_their_parent() {
    let build = build("FROM scratch AS a\nARG X=1\nFROM a\nRUN x\n");
    assert_eq!(env_of(&build.runs()[0], "X"), Some("1"));
    assert_eq!(build.history(), ["RUN |1 X=1 /bin/sh -c x # buildkit"]);
}

/// kaniko issue_3344: the last writer wins.
#[test]
fn precedence_follows_position() {
    let runs = build("FROM base\nARG E=arg\nRUN a\nENV E=env\nRUN b\nARG E=again\nRUN c\n")
        .base("base", with_env(&["E=base"]))
        .runs();
    let values: Vec<_> = runs.iter().map(|run| env_of(run, "E")).collect();
    assert_eq!(values, [Some("arg"), Some("env"), Some("again")]);
}

#[test]
fn an_argument_never_enters_the_image() {
    let build = build("FROM scratch\nARG X=1\nENV Y=$X\nARG Y=2\n");
    assert_eq!(build.image_env(), ["Y=1"]);
}

/// BuildKit EmptyStringArgInEnv; kaniko arg_multi_empty_val.
#[test]
fn an_empty_argument_is_set_and_one_without_value_is_not() {
    let file = "FROM scratch\nARG E\nARG N\nRUN x\n";
    let runs = build(file).arg("E", "").runs();
    assert_eq!(env_of(&runs[0], "E"), Some(""));
    assert_eq!(env_of(&runs[0], "N"), None);
}

/// BuildKit EnvEmptyFormatting; kaniko complex_substitution.
#[test]
fn percent_signs_stay() {
    assert_eq!(build("FROM scratch\nENV myenv foo%sbar\n").image_env(), ["myenv=foo%sbar"]);
}

/// BuildKit BuiltinArgs.
#[test]
fn proxies_reach_run_but_not_history_key_or_image() {
    let plain = build("FROM scratch\nRUN x\n");
    let proxied =
        build("FROM scratch\nRUN x\n").arg("HTTP_PROXY", "http://p").arg("no_proxy", "local");
    let run = &proxied.runs()[0];
    let names: Vec<&str> = run.proxies.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"]);
    assert_eq!(proxied.history(), plain.history());
    assert_eq!(proxied.stage().steps[0].definition(), plain.stage().steps[0].definition());
    assert!(proxied.plan().unused_build_args.is_empty());
}

#[test]
fn a_declared_proxy_is_an_ordinary_argument() {
    let build = build("FROM scratch\nARG HTTP_PROXY\nRUN x\n").arg("HTTP_PROXY", "http://p");
    let run = &build.runs()[0];
    assert_eq!(env_of(run, "HTTP_PROXY"), Some("http://p"));
    assert_eq!(run.proxies, [("http_proxy".to_owned(), "http://p".to_owned())]);
    assert_eq!(build.history()[1], "RUN |1 HTTP_PROXY=http://p /bin/sh -c x # buildkit");
}

/// BuildKit PlatformArgsImplicit; kaniko pre_defined_build_args.
#[test]
fn platform_arguments_need_arg_in_a_stage_but_not_in_from() {
    let file = "FROM --platform=$BUILDPLATFORM busybox:$TARGETARCH\nENV A=$TARGETOS\n\
                ARG TARGETOS TARGETARCH TARGETVARIANT TARGETPLATFORM BUILDOS\n\
                ENV B=$TARGETOS-$TARGETARCH-$TARGETVARIANT-$TARGETPLATFORM-$BUILDOS\n";
    let mut build = build(file);
    build.options.target_platform = "linux/arm/v7".parse().expect("a platform");
    assert_eq!(build.image_env(), ["A=", "B=linux-arm-v7-linux/arm/v7-linux"]);
    let plan = build.plan();
    let Base::Image(image) = &plan.stages[0].base else { panic!("an image") };
    assert_eq!(image.reference.to_string(), "docker.io/library/busybox:arm");
}

/// kaniko issue_mz276; platform arguments can be overridden.
#[test]
fn platform_arguments_can_be_overridden() {
    let file = "FROM scratch\nARG TARGETOS=mine\nARG TARGETARCH\nENV A=$TARGETOS-$TARGETARCH\n";
    assert_eq!(build(file).image_env(), ["A=mine-amd64"]);
    assert_eq!(build(file).arg("TARGETARCH", "x").image_env(), ["A=mine-x"]);
}

/// BuildKit TargetStageNameArg.
#[test]
fn the_target_stage_is_an_argument() {
    let file = "FROM scratch AS a\nARG TARGETSTAGE\nENV S=$TARGETSTAGE\n";
    assert_eq!(build(file).image_env(), ["S=a"]);
    assert_eq!(build(&file.replace(" AS a", "")).image_env(), ["S=default"]);
    assert_eq!(build(file).target("a").image_env(), ["S=a"]);
}

/// BuildKit DefaultEnvWithArgs.
#[test]
fn operators_work_in_from_and_env() {
    let file = "ARG image=idlebox\nFROM busy${image#idle} AS build\nARG my_arg\n\
                ENV my_arg=${my_arg:-def%fault}\nENV cut=${my_arg%%f*}\n";
    assert_eq!(build(file).image_env(), ["my_arg=def%fault", "cut=de"]);
    assert_eq!(build(file).arg("my_arg", "mine").image_env(), ["my_arg=mine", "cut=mine"]);
}

/// kaniko multistage_args_issue_1911.
#[test]
fn stage_defaults_use_inherited_values() {
    let file = "ARG A=1\nFROM scratch AS x\nARG A\nARG B=${A}2\nFROM x\nENV R=$B\n";
    assert_eq!(build(file).image_env(), ["R=12"]);
}

/// kaniko arg_secret: values may span lines.
#[test]
fn values_may_hold_newlines() {
    let build = build("FROM scratch\nARG K\nRUN x\n").arg("K", "a\nb");
    assert_eq!(env_of(&build.runs()[0], "K"), Some("a\nb"));
}

#[test]
fn arguments_nobody_declares_are_listed() {
    let build = build("ARG G\nFROM scratch\nARG S\n")
        .arg("G", "1")
        .arg("S", "1")
        .arg("TYPO", "1")
        .arg("BUILDKIT_INLINE_CACHE", "1")
        .arg("TARGETARCH", "x");
    assert_eq!(build.plan().unused_build_args, ["TYPO"]);
}

/// BuildKit SourceDateEpochDockerfileDefault, SourceDateEpochDockerfileDefaultOverride,
/// SourceDateEpochDockerfileDefaultReset.
#[test]
fn source_date_epoch_comes_from_the_caller_or_the_file() {
    let file = "ARG SOURCE_DATE_EPOCH=10\nFROM scratch\n";
    assert_eq!(build(file).plan().source_date_epoch.as_deref(), Some("10"));
    let given = |value| build(file).arg("SOURCE_DATE_EPOCH", value).plan().source_date_epoch;
    assert_eq!(given("20").as_deref(), Some("20"));
    assert_eq!(given(""), None);
    assert_eq!(build("FROM scratch\n").plan().source_date_epoch, None);
}

/// BuildKit SourceDateEpochDockerfileDefaultInvalid, SourceDateEpochStageOverride.
#[test]
fn source_date_epoch_is_seconds_a_context_or_a_stage() {
    let file = "FROM scratch AS src\nADD https://example.com/x.tar /\nFROM scratch\n";
    let given = |value| build(file).arg("SOURCE_DATE_EPOCH", value);
    for good in ["0", "1700000000", "context", "src", "SRC"] {
        assert_eq!(given(good).plan().source_date_epoch.as_deref(), Some(good));
    }
    assert!(given("ctx").context("ctx").try_plan().is_ok());
    assert!(given("never").error().starts_with("invalid SOURCE_DATE_EPOCH: \"never\""));
}

#[test]
fn blank_bases_are_refused() {
    assert_eq!(
        build("ARG X\nFROM $X\n").error(),
        "Dockerfile:2:1: base name ($X) should not be blank"
    );
}

#[test]
fn runaway_doubling_hits_a_limit() {
    let mut file = "FROM scratch\nENV a=0123456789\n".to_owned();
    for _ in 0..40 {
        file.push_str("ENV a=$a$a\n");
    }
    assert!(build(&file).error().contains("longer than"));
}
