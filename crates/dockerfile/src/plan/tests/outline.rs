//! Outlines and targets.

use super::*;
use crate::instruction::Requirement;

fn outline(build: &Build) -> Outline {
    let mut draft = build.try_draft().expect("a draft");
    loop {
        let open = draft.unresolved_bases();
        let Some(base) = open.first() else { return draft.outline().expect("an outline") };
        draft.supply_base(base, &ImageConfig::default()).expect("a base");
    }
}

fn args(outline: &Outline) -> Vec<(u32, &str, &str, &str)> {
    let args = outline.args.iter();
    args.map(|arg| {
        let value = arg.value.as_deref().unwrap_or("-");
        (arg.span.line, arg.name.as_str(), value, arg.description.as_deref().unwrap_or("-"))
    })
    .collect()
}

/// BuildKit OutlineArgs.
#[test]
fn outlines_have_the_arguments_that_matter() {
    let file = "\
ARG inherited=box
ARG inherited2=box2
ARG unused=abc
# sfx is a suffix
ARG sfx=\"usy${inherited}\"
FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN true
FROM alpine${unused} AS second
ARG BAZ
RUN true
FROM scratch AS third
ARG ABC=a NONE
# target defines build target
FROM third AS target
COPY --from=first /etc/passwd /
FROM second
";
    let outline = outline(&build(file).target("target").arg("BAR", "678"));
    assert_eq!(outline.name.as_deref(), Some("target"));
    assert_eq!(outline.description.as_deref(), Some("defines build target"));
    assert_eq!(
        args(&outline),
        [
            (1, "inherited", "box", "-"),
            (5, "sfx", "usybox", "is a suffix"),
            (8, "FOO", "123", "-"),
            (10, "BAR", "678", "is a number"),
            (16, "ABC", "a", "-"),
            (16, "NONE", "-", "-"),
        ]
    );
}

/// BuildKit OutlineSecrets.
#[test]
fn outlines_have_the_secrets_agents_and_caches_that_are_used() {
    let file = "\
FROM scratch AS first
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true
FROM alpine AS second
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true
FROM scratch AS third
ARG BAR
RUN --mount=type=secret,id=second${BAR} --mount=type=cache,target=/root/.cache true
FROM third AS target
COPY --from=first /foo /
RUN --mount=type=ssh,id=ssh3,required --mount=type=secret,id=second678,required true
FROM second
";
    let outline = outline(&build(file).target("target").arg("BAR", "678"));
    let brief = |mounts: &[OutlineMount]| -> Vec<(String, bool, u32)> {
        let required = |mount: &OutlineMount| mount.requirement == Requirement::Required;
        let one = |mount: &OutlineMount| (mount.id.clone(), required(mount), mount.span.line);
        mounts.iter().map(one).collect()
    };
    assert_eq!(
        brief(&outline.secrets),
        [("passwd".to_owned(), true, 2), ("second678".to_owned(), true, 7)]
    );
    assert_eq!(
        brief(&outline.agents),
        [("default".to_owned(), false, 2), ("ssh3".to_owned(), true, 10)]
    );
    let caches: Vec<&str> = outline.caches.iter().map(|cache| cache.id.as_str()).collect();
    assert_eq!(caches, ["/root/.cache"]);
}

/// BuildKit OutlineRecursiveArgs.
#[test]
fn outlines_follow_arguments_through_defaults() {
    let file = "\
# XX is a base argument
ARG XX=123
ARG FOO=${XX}
ARG TWICE=$FOO$FOO OTHER=$XX
FROM scratch
ARG TWICE
# FOO is derived
ARG FOO=${TWICE}-x
ARG BAR=$FOO$UNSET
";
    assert_eq!(
        args(&outline(&build(file))),
        [
            (2, "XX", "123", "is a base argument"),
            (3, "FOO", "123", "is derived"),
            (4, "TWICE", "123123", "-"),
            (9, "BAR", "123123-x", "-"),
        ]
    );
}

/// BuildKit TargetsList.
#[test]
fn every_stage_is_a_target() {
    let file = "\
# build defines stage for compiling the binary
FROM alpine AS Build
RUN true
FROM --platform=$BUILDPLATFORM busybox as second
RUN false
FROM alpine
RUN false
# other text
# binary returns the compiled binary
FROM second AS binary
";
    let file = Dockerfile::parse("Dockerfile", file.as_bytes()).expect("a file");
    let found: Vec<_> = file
        .targets()
        .into_iter()
        .map(|one| {
            (one.name, one.description, one.base, one.platform, one.is_default, one.span.line)
        })
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        found,
        [
            (
                text("build"),
                text("defines stage for compiling the binary"),
                "alpine".into(),
                None,
                false,
                2
            ),
            (text("second"), None, "busybox".into(), text("$BUILDPLATFORM"), false, 4),
            (None, None, "alpine".into(), None, false, 6),
            (text("binary"), text("returns the compiled binary"), "second".into(), None, true, 10),
        ]
    );
}

/// BuildKit WarningsBeforeError.
#[test]
fn checks_go_on_to_the_mistake_that_stops_the_build() {
    let file = "# check=error=true\nFROM scratch AS BadStage\nWORKDIR x\nSTOPSIGNAL nonsense\n";
    let (warnings, error) = build(file).try_draft().expect("a draft").lint();
    let rules: Vec<&str> = warnings.iter().map(|warning| warning.rule.name()).collect();
    assert_eq!(rules, ["StageNameCasing", "WorkdirRelativePath"]);
    assert_eq!(
        error.map(|e| e.to_string()).as_deref(),
        Some("Dockerfile:4:1: invalid signal: nonsense")
    );
}
