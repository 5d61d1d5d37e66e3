//! BuildKit unit groups of the instruction parser.

use super::*;
use crate::instruction::*;

fn parse(text: &str) -> Result<Instruction, String> {
    parse_instruction(text, Vec::new(), '\\').map_err(|error| error.to_string())
}

fn error(text: &str) -> String {
    parse(text).expect_err(text)
}

/// BuildKit CommandsExactlyOneArgument, CommandsAtLeastOneArgument, CommandsNoDestinationArgument,
/// CommandsBlankNames, CommandsTooManyArguments.
#[test]
fn argument_counts_are_checked() {
    for keyword in ["MAINTAINER", "WORKDIR", "USER", "STOPSIGNAL"] {
        assert_eq!(error(keyword), format!("{keyword} requires exactly one argument"));
    }
    for keyword in
        ["ENV", "LABEL", "ONBUILD", "HEALTHCHECK", "EXPOSE", "VOLUME", "ARG", "RUN", "SHELL"]
    {
        assert_eq!(error(keyword), format!("{keyword} requires at least one argument"));
    }
    for keyword in ["ADD", "COPY"] {
        let expected = format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination \
             could not be determined"
        );
        assert_eq!(error(&format!("{keyword} arg1")), expected);
        assert_eq!(error(keyword), expected);
        assert_eq!(error(&format!("{keyword} [\"a\"]")), expected);
    }
    assert_eq!(error("ENV =arg2"), "ENV names can not be blank");
    assert_eq!(error("LABEL =arg2"), "LABEL names can not be blank");
    assert_eq!(error("ARG =x"), "ARG names can not be blank");
    assert_eq!(error("ENV PATH"), "ENV must have two arguments");
    assert_eq!(
        error("ENV a=1 b"),
        "Syntax error - can't find = in \"b\". Must be of the form: name=value"
    );
}

/// BuildKit ErrorCases, DockerfileInvalidInstruction.
#[test]
fn mistakes_are_named() {
    for (text, message) in [
        ("FOO bar", "unknown instruction: FOO (did you mean FROM?)"),
        ("fnord", "unknown instruction: FNORD"),
        ("FORM x", "unknown instruction: FORM (did you mean FROM?)"),
        ("ENTRYPOITN x", "unknown instruction: ENTRYPOITN (did you mean ENTRYPOINT?)"),
        ("MAINTAINER --boo joe@example.com", "unknown flag: --boo"),
        ("ONBUILD FROM scratch", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD maintainer docker.io", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FOO", "unknown instruction: FOO (did you mean FROM?)"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a as", "FROM requires either one or three arguments"),
        ("FROM a is b", "FROM requires either one or three arguments"),
        ("FROM a AS b c", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1b",
            "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        ),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("SHELL [\"a\"", "SHELL requires the arguments to be in JSON form"),
        (
            "CMD [\"a\", 1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("VOLUME [\"\"]", "VOLUME specified can not be an empty string"),
        ("RUN --network=nope x", "network \"nope\" is not valid (did you mean none?)"),
        ("RUN --security=x y", "security \"x\" is not valid"),
        ("RUN --mont=target=/x y", "unknown flag: --mont (did you mean mount?)"),
        ("COPY --chown a b", "missing a value on flag: chown"),
        ("COPY --link=maybe a b", "expecting boolean value for flag link, not: maybe"),
        ("COPY --from=a --from=b c d", "duplicate flag specified: from"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
}

/// BuildKit ErrorCasesHeredoc.
#[test]
fn a_heredoc_is_no_destination() {
    assert_eq!(error("COPY a <<EOF"), "COPY cannot accept a heredoc as a destination");
    assert_eq!(error("ADD a <<EOF"), "ADD cannot accept a heredoc as a destination");
}

/// BuildKit HealthCheckCmd, ParseOptInterval.
#[test]
fn healthchecks_are_checked() {
    for (text, message) in [
        ("HEALTHCHECK FOO x", "unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK CMD []", "missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ("HEALTHCHECK --timeout=-1s CMD x", "Interval \"timeout\" cannot be less than 1ms"),
        ("HEALTHCHECK --timeout=x CMD x", "invalid duration \"x\" for --timeout"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be less than 0 (-1)"),
        ("HEALTHCHECK --retries=x CMD x", "invalid value for --retries: \"x\" is not a number"),
        (
            "HEALTHCHECK --startperiod=1s CMD x",
            "unknown flag: --startperiod (did you mean start-period?)",
        ),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    let parsed = parse(
        "healthcheck --interval=5s --timeout=1m30s --start-period=2h --start-interval=100ms \
         --retries=3 cmd [\"a\", \"b\"]",
    );
    let Ok(Instruction::Healthcheck(Healthcheck::Command { command, timing })) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(command, CommandLine::Exec(vec!["a".into(), "b".into()]));
    assert_eq!(timing.interval.as_secs(), 5);
    assert_eq!(timing.timeout.as_secs(), 90);
    assert_eq!(timing.start_period.as_secs(), 7200);
    assert_eq!(timing.start_interval.as_millis(), 100);
    assert_eq!(timing.retries, 3);
    assert_eq!(parse("HEALTHCHECK none"), Ok(Instruction::Healthcheck(Healthcheck::Disabled)));
    assert!(parse("HEALTHCHECK --interval=0s CMD x").is_ok(), "zero inherits");
}

/// BuildKit ParseNameValOldFormat, ParseNameValNewFormat, ParseNameValWithoutVal.
#[test]
fn names_and_values_have_two_forms() {
    let pairs = |text: &str| match parse(text).expect(text) {
        Instruction::Env(values) | Instruction::Label(values) => {
            let pairs: Vec<String> =
                values.pairs.into_iter().map(|(name, value)| format!("{name}|{value}")).collect();
            (pairs, values.form == KeyValueForm::Legacy)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(pairs("ENV foo bar"), (vec!["foo|bar".into()], true));
    assert_eq!(pairs("ENV foo   a  b=c "), (vec!["foo|a  b=c".into()], true));
    assert_eq!(
        pairs("LABEL a=b c='d e' f=\"g\" h="),
        (vec!["a|b".into(), "c|'d e'".into(), "f|\"g\"".into(), "h|".into()], false)
    );
    assert_eq!(pairs("ENV a=b=c"), (vec!["a|b=c".into()], false));
    assert_eq!(pairs("ENV a=b\\ c d=e"), (vec!["a|b\\ c".into(), "d|e".into()], false));
}

/// BuildKit HandleJSONArgs, RunCmdFlagsUsed.
#[test]
fn commands_have_two_forms() {
    let command = |text: &str| match parse(text).expect(text) {
        Instruction::Cmd(command) | Instruction::Entrypoint(command) => command,
        Instruction::Run(run) => run.command,
        other => panic!("{other:?}"),
    };
    let exec = |words: &[&str]| CommandLine::Exec(words.iter().map(|&w| w.to_owned()).collect());
    let shell = |line: &str| CommandLine::Shell(line.to_owned());
    assert_eq!(command("CMD [\"a\", \"b c\"]"), exec(&["a", "b c"]));
    assert_eq!(command("CMD a b"), shell("a b"));
    assert_eq!(command("CMD []"), exec(&[]));
    assert_eq!(command("CMD"), exec(&[]));
    assert_eq!(command("ENTRYPOINT ['a']"), shell("['a']"));
    assert_eq!(command("RUN [\"echo\" 'x']"), shell("[\"echo\" 'x']"));
    assert_eq!(command("RUN --mount=target=/x [\"a\"]"), exec(&["a"]));
    assert_eq!(command("RUN -- --not-a-flag"), shell("--not-a-flag"));
    assert_eq!(command("RUN echo --x"), shell("echo --x"));
    assert_eq!(command("RUN echo  a   b"), shell("echo  a   b"));
}

#[test]
fn lists_keep_quotes_and_json_groups_words() {
    let volumes = |text: &str| match parse(text).expect(text) {
        Instruction::Volume(volumes) => volumes,
        other => panic!("{other:?}"),
    };
    assert_eq!(volumes("VOLUME /a \"/b c\""), ["/a", "\"/b", "c\""]);
    assert_eq!(volumes("VOLUME [\"/b c\", \"d\"]"), ["/b c", "d"]);
    assert_eq!(
        parse("EXPOSE 90 80/udp 10"),
        Ok(Instruction::Expose(vec!["10".into(), "80/udp".into(), "90".into()]))
    );
}

#[test]
fn from_reads_platform_and_name() {
    assert_eq!(
        parse("from --platform=$P Image:1 aS Name-1.x_y"),
        Ok(Instruction::From(FromClause {
            base: "Image:1".into(),
            name: Some("Name-1.x_y".into()),
            as_keyword: Some("aS".into()),
            platform: Some("$P".into()),
        }))
    );
}

/// BuildKit ParseDevice.
#[test]
fn devices_are_cdi_names() {
    let device = |text: &str| {
        parse_device(text)
            .map(|device| (device.name, device.requirement == Requirement::Required))
            .ok()
    };
    assert_eq!(device("vendor1.com/device=foo"), Some(("vendor1.com/device=foo".into(), false)));
    assert_eq!(device("v.com/d=foo,required"), Some(("v.com/d=foo".into(), true)));
    assert_eq!(device("v.com/d=foo,required=false"), Some(("v.com/d=foo".into(), false)));
    assert_eq!(device("v.com/d"), Some(("v.com/d".into(), false)));
    assert_eq!(device("required=true,name=v.com/d=x"), Some(("v.com/d=x".into(), true)));
    for bad in ["", "required", "v.com/d=x,foo", "v.com/d=x,foo=bar", "v.com/d=x,required=maybe"] {
        assert_eq!(device(bad), None, "{bad:?}");
    }
}

#[test]
fn onbuild_keeps_its_trigger_as_written() {
    let Ok(Instruction::OnBuild(on_build)) = parse("OnBuild  copy --from=x  a   b") else {
        panic!("an ONBUILD")
    };
    assert_eq!(on_build.trigger, "copy --from=x  a   b");
    assert_eq!(on_build.instruction.keyword(), "COPY");
    assert!(parse("ONBUILD HEALTHCHECK CMD x").is_ok());
}
