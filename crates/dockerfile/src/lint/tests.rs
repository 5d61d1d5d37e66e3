//! One test per build check, named as in BuildKit.

use crate::error::ErrorKind;
use crate::file::Dockerfile;
use crate::plan::{Draft, Plan, PlanOptions};
use oci_model::{ImageConfig, Platform};

fn plan(file: &str, args: &[(&str, &str)]) -> Result<Plan, crate::error::DockerfileError> {
    let mut options = PlanOptions::for_platform(Platform::linux("amd64"));
    options.build_args = args.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    let file = Dockerfile::parse("Dockerfile", file.as_bytes())?;
    let mut draft = Draft::new(&file, options)?;
    while let Some(base) = draft.unresolved_bases().first() {
        draft.supply_base(base, &ImageConfig::default())?;
    }
    draft.finish()
}

fn check(file: &str, expected: &[(u32, &str, &str)]) {
    let warnings = plan(file, &[]).expect(file).warnings;
    let found: Vec<(u32, &str, &str)> = warnings
        .iter()
        .map(|warning| (warning.span.line, warning.rule.name(), warning.text.as_str()))
        .collect();
    assert_eq!(found, expected, "{file}");
}

/// BuildKit StageName.
#[test]
fn stage_name_casing() {
    check(
        "FROM scratch AS BadStage\n",
        &[(1, "StageNameCasing", "Stage name 'BadStage' should be lowercase")],
    );
}

/// BuildKit StageName.
#[test]
fn from_as_casing() {
    check(
        "FROM scratch as x\n",
        &[(1, "FromAsCasing", "'as' and 'FROM' keywords' casing do not match")],
    );
    check("from scratch as x\n", &[]);
}

/// BuildKit NoEmptyContinuation, ParseWarnsOnEmptyContinutationLine.
#[test]
fn no_empty_continuation() {
    check(
        "FROM scratch\nRUN a \\\n\n b\n",
        &[(2, "NoEmptyContinuation", "Empty continuation line")],
    );
    check("FROM scratch\nRUN a \\\n# c\n b\n", &[]);
}

/// BuildKit ConsistentInstructionCasing.
#[test]
fn consistent_instruction_casing() {
    check(
        "FROM scratch\nRUN a\nrun b\nCoPy a b\n",
        &[
            (
                3,
                "ConsistentInstructionCasing",
                "Command 'run' should match the case of the command majority (uppercase)",
            ),
            (
                4,
                "ConsistentInstructionCasing",
                "Command 'CoPy' should match the case of the command majority (uppercase)",
            ),
        ],
    );
    check(
        "from scratch\nrun a\nRUN b\n",
        &[(
            3,
            "ConsistentInstructionCasing",
            "Command 'RUN' should match the case of the command majority (lowercase)",
        )],
    );
}

/// BuildKit DuplicateStageName.
#[test]
fn duplicate_stage_name() {
    check(
        "FROM scratch AS b\nFROM scratch AS b\n",
        &[(2, "DuplicateStageName", "Duplicate stage name \"b\", stage names should be unique")],
    );
}

/// BuildKit ReservedStageName.
#[test]
fn reserved_stage_name() {
    check(
        "FROM scratch AS scratch\nFROM scratch AS context\n",
        &[
            (
                1,
                "ReservedStageName",
                "Stage name should not use the same name as reserved stage \"scratch\"",
            ),
            (
                2,
                "ReservedStageName",
                "Stage name should not use the same name as reserved stage \"context\"",
            ),
        ],
    );
}

/// BuildKit JSONArgsRecommended.
#[test]
fn json_args_recommended() {
    let text = |keyword: &str| {
        format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        )
    };
    check(
        "FROM scratch\nCMD a\nENTRYPOINT b\n",
        &[
            (2, "JSONArgsRecommended", &text("CMD")),
            (3, "JSONArgsRecommended", &text("ENTRYPOINT")),
        ],
    );
    check("FROM scratch\nSHELL [\"/bin/bash\", \"-c\"]\nCMD a\n", &[]);
    check("FROM scratch\nCMD [\"a\"]\nRUN a\n", &[]);
}

/// BuildKit MaintainerDeprecated.
#[test]
fn maintainer_deprecated() {
    check(
        "FROM scratch\nMAINTAINER me\n",
        &[(
            2,
            "MaintainerDeprecated",
            "Maintainer instruction is deprecated in favor of using label",
        )],
    );
}

/// BuildKit UndeclaredArg.
#[test]
fn undefined_arg_in_from() {
    check(
        "FROM scratch${VERSIO}\n",
        &[(1, "UndefinedArgInFrom", "FROM argument 'VERSIO' is not declared")],
    );
    let file = "ARG MYARCH=amd64\nFROM busybox:${MYARC}x\n";
    check(
        file,
        &[(
            2,
            "UndefinedArgInFrom",
            "FROM argument 'MYARC' is not declared (did you mean MYARCH?)",
        )],
    );
    check("FROM busybox:$TARGETARCH\n", &[]);
}

/// BuildKit WorkdirRelativePath.
#[test]
fn workdir_relative_path() {
    check(
        "FROM a\nWORKDIR app\nWORKDIR sub\n",
        &[(
            2,
            "WorkdirRelativePath",
            "Relative workdir \"app\" can have unexpected results if the base image changes",
        )],
    );
    check("FROM a AS x\nWORKDIR /app\nFROM x\nWORKDIR sub\n", &[]);
}

/// BuildKit UnmatchedVars.
#[test]
fn undefined_var() {
    check(
        "FROM scratch\nARG foo\nCOPY $foo .\nENV a=$bar PATH=$PAHT:/x\nLABEL l=${z:-d}\n",
        &[
            (4, "UndefinedVar", "Usage of undefined variable '$PAHT' (did you mean $PATH?)"),
            (4, "UndefinedVar", "Usage of undefined variable '$bar'"),
        ],
    );
}

/// BuildKit MultipleInstructionsDisallowed.
#[test]
fn multiple_instructions_disallowed() {
    let text = |keyword: &str| {
        format!(
            "Multiple {keyword} instructions should not be used in the same stage because only the \
             last one will be used"
        )
    };
    check(
        "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nFROM scratch\nCMD []\n",
        &[
            (2, "MultipleInstructionsDisallowed", &text("CMD")),
            (4, "MultipleInstructionsDisallowed", &text("HEALTHCHECK")),
        ],
    );
}

/// BuildKit LegacyKeyValueFormat.
#[test]
fn legacy_key_value_format() {
    check(
        "FROM scratch\nENV a b\nLABEL c d\n",
        &[
            (
                2,
                "LegacyKeyValueFormat",
                "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ),
            (
                3,
                "LegacyKeyValueFormat",
                "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            ),
        ],
    );
}

/// BuildKit BaseImagePlatformMismatch.
#[test]
fn invalid_base_image_platform() {
    let file = Dockerfile::parse("Dockerfile", b"FROM a\n").expect("a file");
    let options = PlanOptions::for_platform(Platform::linux("arm64"));
    let mut draft = Draft::new(&file, options).expect("a draft");
    let base = draft.unresolved_bases().remove(0);
    let config =
        ImageConfig { os: "linux".into(), architecture: "amd64".into(), ..ImageConfig::default() };
    draft.supply_base(&base, &config).expect("a base");
    let warnings = draft.finish().expect("a plan").warnings;
    assert_eq!(
        warnings[0].to_string(),
        "InvalidBaseImagePlatform: Base image docker.io/library/a:latest was pulled with platform \
         \"linux/amd64\", expected \"linux/arm64\" for current build (line 1)"
    );
}

/// BuildKit RedundantTargetPlatform.
#[test]
fn redundant_target_platform() {
    for platform in ["$TARGETPLATFORM", "${TARGETPLATFORM}"] {
        check(
            &format!("FROM --platform={platform} scratch\n"),
            &[(
                1,
                "RedundantTargetPlatform",
                &format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the \
                 default behavior"
                ),
            )],
        );
    }
}

/// BuildKit SecretsUsedInArgOrEnv.
#[test]
fn secrets_used_in_arg_or_env() {
    let names = |text: &str| -> Vec<String> {
        let file = format!("FROM scratch\nARG {text}\n");
        let found = plan(&file, &[]).expect("a plan").warnings;
        found.into_iter().map(|warning| warning.rule.name().to_owned()).collect()
    };
    for secret in [
        "AWS_SECRET_ACCESS_KEY",
        "auth",
        "git_key",
        "PASSWORD",
        "super_Secret",
        "token",
        "API_TOKEN_X",
        "apikey",
        "db_passwd",
        "credentials",
    ] {
        assert_eq!(names(secret), ["SecretsUsedInArgOrEnv"], "{secret}");
    }
    for harmless in [
        "PUBLIC_KEY",
        "public_token",
        "KEYBOARD",
        "TOKENIZER",
        "PASSWORD_FILE",
        "MONKEY",
        "KEY_VERSION",
        "secretfile",
    ] {
        assert!(names(harmless).is_empty(), "{harmless}");
    }
    check(
        "FROM scratch\nENV DB_PASSWORD=x\n",
        &[(
            2,
            "SecretsUsedInArgOrEnv",
            "Do not use ARG or ENV instructions for sensitive data (ENV \"DB_PASSWORD\")",
        )],
    );
}

/// BuildKit InvalidDefaultArgInFrom.
#[test]
fn invalid_default_arg_in_from() {
    let file = "ARG TAG\nFROM busybox:${TAG}\n";
    let warnings = plan(file, &[("TAG", "1")]).expect("a plan").warnings;
    assert_eq!(
        warnings[0].text,
        "Default value for ARG busybox:${TAG} results in empty or invalid base image name"
    );
    check("ARG TAG=1\nFROM busybox:${TAG}\n", &[]);
    check("ARG TAG\nFROM busybox:${TAG:-1}\n", &[]);
}

/// BuildKit FromPlatformFlagConstDisallowed.
#[test]
fn from_platform_flag_const_disallowed() {
    check(
        "FROM --platform=linux/amd64 scratch\n",
        &[(
            1,
            "FromPlatformFlagConstDisallowed",
            "FROM --platform flag should not use constant value \"linux/amd64\"",
        )],
    );
    check(
        "FROM --platform=linux/amd64 scratch AS build_amd64\nFROM --platform=$BUILDPLATFORM scratch\n",
        &[],
    );
}

/// BuildKit DefinitionDescription, CommentsDetection.
#[test]
fn invalid_definition_description_is_experimental() {
    let file =
        "# other comment\nFROM scratch AS x\n# version of it\nARG version\n\n# free\n\nRUN a\n";
    check(file, &[]);
    let with = format!("# check=experimental=InvalidDefinitionDescription\n\n{file}");
    let warnings = plan(&with, &[]).expect("a plan").warnings;
    let lines: Vec<u32> = warnings.iter().map(|warning| warning.span.line).collect();
    assert_eq!(lines, [4]);
}

/// BuildKit ExposeProtoCasing, ExposeInvalidFormat.
#[test]
fn expose_proto_casing_and_invalid_format() {
    check(
        "FROM scratch\nEXPOSE 80/Tcp 127.0.0.1:80:81\n",
        &[
            (
                2,
                "ExposeProtoCasing",
                "Defined protocol 'Tcp' in EXPOSE instruction should be lowercase",
            ),
            (
                2,
                "ExposeInvalidFormat",
                "EXPOSE instruction should not define an IP address or host-port mapping, found \
             '127.0.0.1:80:81'",
            ),
        ],
    );
}

/// BuildKit RuleCheckOption.
#[test]
fn checks_can_be_skipped_and_made_fatal() {
    let body = "FROM scratch as x\nMAINTAINER me\n";
    let rules = |file: &str, args: &[(&str, &str)]| -> Vec<&'static str> {
        let found = plan(file, args).expect(file).warnings;
        found.into_iter().map(|warning| warning.rule.name()).collect()
    };
    assert_eq!(rules(body, &[]), ["FromAsCasing", "MaintainerDeprecated"]);
    assert_eq!(rules(&format!("# check=skip=FromAsCasing\n{body}"), &[]), ["MaintainerDeprecated"]);
    assert!(rules(&format!("# check=skip=all\n{body}"), &[]).is_empty());
    let error = plan(&format!("# check=error=true\n{body}"), &[]).expect_err("fatal");
    assert_eq!(error.kind(), ErrorKind::Lint);
    assert_eq!(
        error.message(),
        "lint violation found for rules: FromAsCasing, MaintainerDeprecated"
    );
    let fatal = format!("# check=skip=FromAsCasing;error=true\n{body}");
    let error = plan(&fatal, &[]).expect_err("fatal");
    assert_eq!(error.message(), "lint violation found for rules: MaintainerDeprecated");
    let lenient = [("BUILDKIT_DOCKERFILE_CHECK", "skip=all")];
    assert!(rules(&fatal, &lenient).is_empty(), "the caller overrides the file");
}

#[test]
fn a_comment_above_an_instruction_skips_for_it_alone() {
    check(
        "FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n",
        &[(
            4,
            "LegacyKeyValueFormat",
            "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
        )],
    );
}

#[test]
fn bad_check_directives_are_errors() {
    let error = plan("# check=skipp=x\nFROM scratch\n", &[]).expect_err("a typo");
    assert_eq!(
        error.to_string(),
        "Dockerfile:1:1: invalid check option \"skipp=x\": want skip, error or experimental"
    );
}

/// BuildKit WarningsBeforeError.
#[test]
fn text_warnings_survive_a_failing_plan() {
    let file = "# check=error=true\nFROM scratch AS BadStage\nFROM ${BAR} AS base\n";
    assert!(plan(file, &[]).is_err());
    let parsed = Dockerfile::parse("Dockerfile", file.as_bytes()).expect("it parses");
    let rules: Vec<&str> =
        parsed.text_warnings().iter().map(|warning| warning.rule.name()).collect();
    assert_eq!(rules, ["StageNameCasing"]);
}
