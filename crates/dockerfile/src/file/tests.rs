//! Whole files: structure, directives in effect, hostile input.

use proptest::prelude::*;

use super::*;
use crate::plan::{Draft, PlanOptions};
use oci_model::{ImageConfig, Platform};

fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
    Dockerfile::parse("Dockerfile", text.as_bytes())
}

fn keywords(text: &str) -> Vec<Vec<&'static str>> {
    let file = parse(text).expect(text);
    let stage = |stage: &StageText| {
        stage.statements.iter().map(|statement| statement.instruction.keyword()).collect()
    };
    file.stages.iter().map(stage).collect()
}

#[test]
fn stages_hold_their_instructions() {
    let text = "ARG a\nFROM x AS y\nrun a\nCoPy a b\nFROM y\n";
    assert_eq!(keywords(text), [vec!["RUN", "COPY"], vec![]]);
    assert_eq!(parse(text).expect("a file").global_args.len(), 1);
}

/// BuildKit EmptyStages, ParseErrorCases.
#[test]
fn files_without_stages_are_refused() {
    for (text, message) in [
        ("", "the Dockerfile cannot be empty"),
        ("\n\n", "file with no instructions"),
        ("# c\n", "file with no instructions"),
        ("ARG a\n", "dockerfile contains no stages to build"),
        ("RUN x\nFROM a\n", "no build stage in current context"),
        ("COPY a b\n", "no build stage in current context"),
    ] {
        assert_eq!(parse(text).expect_err(text).message(), message, "{text:?}");
    }
}

/// BuildKit ParseCases: escapes, continuations at the end, indents, odd but valid files.
#[test]
fn odd_but_valid_files_parse() {
    for (text, expected) in [
        ("# escape=`\nFROM x\nRUN a `\n b\n", &["RUN"][..]),
        ("FROM x\nRUN a \\", &["RUN"]),
        ("FROM x\nRUN a \\\n", &["RUN"]),
        ("FROM x\nRUN a \\\n\n\n# c\n\\\n b\n", &["RUN"]),
        ("\tFROM\tx\n \tRUN\ta\n", &["RUN"]),
        ("FROM x\r\nRUN a\r\nRUN b \\\r\n  c\r\n", &["RUN", "RUN"]),
        ("\u{feff}FROM x\nRUN a\n", &["RUN"]),
        ("FROM x\n\\\nRUN a\n", &["RUN"]),
        ("FROM x\nRUN \\\n  # nothing but a comment\n  a\n", &["RUN"]),
        ("FROM x\nCMD [\"a\",\n", &["CMD"]),
        ("FROM x\nENV a=\"b \\\n  c\" d=e\n", &["ENV"]),
        ("#!/usr/bin/env docker\nFROM x\nRUN a\n", &["RUN"]),
    ] {
        assert_eq!(keywords(text), [expected.to_vec()], "{text:?}");
    }
}

#[test]
fn continued_values_join_as_written() {
    let file = parse("FROM x\nENV a=\"b \\\n  c\" d=e\n").expect("a file");
    let Instruction::Env(values) = &file.stages[0].statements[0].instruction else {
        panic!("an ENV")
    };
    assert_eq!(values.pairs[0].1, "\"b   c\"");
}

/// BuildKit ErrorsSourceMap, ParseIncludesLineNumbers.
#[test]
fn errors_point_at_the_instruction() {
    let error = parse("FROM x\n\n  RUN --mount=type=tmp,target=/x \\\n  a\n").expect_err("a typo");
    let span = error.span().expect("a place");
    assert_eq!((span.line, span.line_end, span.column), (3, 4, 3));
    assert_eq!(error.line_text(), Some("  RUN --mount=type=tmp,target=/x \\"));
    assert_eq!(
        error.to_string(),
        "Dockerfile:3:3: unsupported mount type \"tmp\" (did you mean tmpfs?)"
    );
}

/// Parses, plans and finishes whatever it is given; only panics and hangs count.
fn exercise(bytes: &[u8]) {
    let Ok(file) = Dockerfile::parse("fuzz", bytes) else { return };
    let options = PlanOptions::for_platform(Platform::linux("amd64"));
    let Ok(mut draft) = Draft::new(&file, options) else { return };
    while let Some(base) = draft.unresolved_bases().first() {
        if draft.supply_base(base, &ImageConfig::default()).is_err() {
            return;
        }
    }
    if let Ok(plan) = draft.finish() {
        for step in plan.stages.iter().flat_map(|stage| &stage.steps) {
            std::hint::black_box(step.definition());
        }
    }
}

/// Pieces that make interesting files when strung together.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "FROM ",
        "scratch",
        " AS ",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "\n",
        "\\\n",
        "<<EOF",
        "EOF\n",
        "<<-'E'",
        "\"",
        "'",
        "\\",
        "$",
        "${",
        "}",
        ":-",
        "##",
        "%",
        "/",
        "[",
        "]",
        ",",
        "=",
        "--mount=",
        "type=",
        "cache",
        "target=",
        "--from=",
        "#",
        " ",
        "\t",
        "\r\n",
        "a",
        "é",
        "HEALTHCHECK ",
        "CMD ",
        "EXPOSE ",
        "80-90",
        "WORKDIR ",
        "VOLUME ",
        "LABEL ",
        "USER ",
        "--chmod=",
        "u+x",
        "--exclude=",
        "!",
        "**",
        "*",
        "0",
        "# check=skip=all",
        "# escape=`\n",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..40)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn arbitrary_instructions_never_panic(text in piece()) {
        exercise(text.as_bytes());
        exercise(format!("FROM scratch\n{text}").as_bytes());
    }

    #[test]
    fn arbitrary_words_never_panic(text in "\\PC{0,60}") {
        for keyword in ["ENV a=", "COPY ", "RUN --mount=", "HEALTHCHECK ", "EXPOSE ", "ARG x="] {
            exercise(format!("FROM scratch\n{keyword}{text}\nRUN x").as_bytes());
        }
    }
}

/// Ten megabytes of every shape that could make a careless parser quadratic; the test runner's
/// own patience is the bound.
#[test]
fn ten_megabytes_of_anything_are_digested() {
    const BYTES: usize = 10 * 1024 * 1024;
    for unit in [
        "\n",
        "\\\n",
        "ENV a=b\n",
        "COPY <<E /x\n",
        "ONBUILD RUN a\n",
        "FROM scratch\n",
        "COPY --from=0 a b\n",
        "\u{0}\u{ff}",
    ] {
        let mut text = b"FROM scratch\n".to_vec();
        while text.len() < BYTES {
            text.extend_from_slice(unit.as_bytes());
        }
        exercise(&text);
    }
}

/// As many instructions as the limits allow, in the shapes that compare each with each.
#[test]
fn files_near_the_limits_are_digested() {
    use crate::limits::{INSTRUCTIONS_MAX, STAGES_MAX};
    let repeat = |count: usize, line: &dyn Fn(usize) -> String| -> String {
        let lines: Vec<String> = (0..count).map(line).collect();
        format!("FROM scratch\n{}\n", lines.concat())
    };
    let half = INSTRUCTIONS_MAX / 2 - 1;
    for text in [
        repeat(STAGES_MAX - 1, &|n| format!("FROM image{n} AS s{n}\nCOPY --from=s0 a b\n")),
        repeat(STAGES_MAX - 1, &|_| "FROM scratch AS x\nONBUILD RUN x\n".to_owned()),
        repeat(half, &|n| format!("ARG a{n}\nENV b{n}=$c{n}\n")),
        repeat(half, &|n| format!("ARG a{n}=b\nRUN x\n")),
        repeat(half, &|n| format!("ENV a{n}=b\nRUN x\n")),
        repeat(half, &|_| "EXPOSE 1-65535\nMAINTAINER x\n".to_owned()),
    ] {
        exercise(text.as_bytes());
    }
}

#[test]
fn oversized_files_are_refused_before_they_are_read() {
    let error = Dockerfile::parse("big", &vec![b'#'; DOCKERFILE_BYTES_MAX + 1]).expect_err("big");
    assert_eq!(error.kind(), ErrorKind::Limit);
}
