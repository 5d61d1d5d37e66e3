//! [errors]: what a failed build says.

use super::case;
use crate::tests;

tests![
    mistakes_carry_their_line,
    a_failed_command_is_quoted_with_its_code,
    a_mistyped_target_gets_a_suggestion,
    a_broken_instruction_gets_a_suggestion,
];

/// BuildKit ErrorsSourceMap.
fn mistakes_carry_their_line() {
    for (text, expected) in [
        (
            "FROM alpine as base\nENV a=b\n\nFROM base\nBAD\n",
            "Dockerfile:5:1: unknown instruction: BAD",
        ),
        ("FROM scratch\nENV a\n", "Dockerfile:2:1: "),
        ("FROM scratch\nRUN --mount=type=bogus \\\n  true\n", "Dockerfile:2:1: "),
        ("FROM scratch\nCOPY --from=${x} a b\n", "Dockerfile:2:1: "),
        (
            "FROM scratch\nWORKDIR /${x:?no x}\n",
            "Dockerfile:2:1: failed to process \"/${x:?no x}\": x: no x",
        ),
    ] {
        let error = case(text).error();
        assert!(error.starts_with(expected), "{error}");
    }
    let text = "FROM base\n\nRUN echo a && \\\n    false\n";
    let error = case(text).error();
    assert!(error.starts_with("Dockerfile:3-4: [2/2] RUN echo a && false"), "{error}");
}

/// BuildKit DockerfileInvalidCommand.
fn a_failed_command_is_quoted_with_its_code() {
    let error = case("FROM base\nRUN invalidcmd\n").error();
    assert!(
        error.ends_with(
            "process \"/bin/sh -c invalidcmd\" did not complete successfully: exit code: 127"
        ),
        "{error}"
    );
    let error = case("FROM base\nRUN [\"sh\", \"-c\", \"exit 42\"]\n").error();
    assert!(error.ends_with("exit code: 42"), "{error}");
}

/// BuildKit TargetMistype.
fn a_mistyped_target_gets_a_suggestion() {
    let error = case("FROM scratch AS build\nFROM scratch AS test\n").target("bulid").error();
    assert_eq!(error, "target stage \"bulid\" could not be found (did you mean build?)");
}

/// BuildKit DockerfileInvalidInstruction.
fn a_broken_instruction_gets_a_suggestion() {
    let error = case("FROM scratch\nFNTRYPOINT [\"/bin/sh\"]\n").error();
    assert!(
        error.contains("unknown instruction: FNTRYPOINT (did you mean ENTRYPOINT?)"),
        "{error}"
    );
}
