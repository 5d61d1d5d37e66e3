//! `created_by` and the assembled config.

use oci_model::{DiffId, Digest, History};

use super::*;

/// BuildKit ExportedHistory.
#[test]
fn entries_read_as_buildkit_writes_them() {
    let file = "FROM scratch\nENV foo=bar a=\"b c\"\nCOPY --chown=1:2 --chmod=755 foo foo2 /d/\n\
                RUN x y\nRUN [\"x\", \"y z\"]\nWORKDIR /w\nLABEL k=v\nUSER u\nVOLUME /a /b\n\
                CMD [\"a\", \"b\"]\nENTRYPOINT e f\nSHELL [\"/bin/bash\", \"-c\"]\nRUN z\n\
                STOPSIGNAL 9\nONBUILD RUN q\nMAINTAINER me\nADD a b\nCOPY --parents a/./b /c/\n\
                COPY <<EOF /x\nhi\nEOF\n";
    assert_eq!(
        build(file).history(),
        [
            "ENV foo=bar a=b c",
            "COPY --chown=1:2 --chmod=755 foo foo2 /d/ # buildkit",
            "RUN /bin/sh -c x y # buildkit",
            "RUN x y z # buildkit",
            "WORKDIR /w",
            "LABEL k=v",
            "USER u",
            "VOLUME [/a /b]",
            "CMD [\"a\" \"b\"]",
            "ENTRYPOINT [\"/bin/sh\" \"-c\" \"e f\"]",
            "SHELL [/bin/bash -c]",
            "RUN /bin/bash -c z # buildkit",
            "STOPSIGNAL 9",
            "MAINTAINER me",
            "ADD a b # buildkit",
            "COPY --parents a/./b /c/ # buildkit",
            "COPY <<EOF /x # buildkit",
        ]
    );
}

/// BuildKit ExportedHistoryFlattenArgs.
#[test]
fn repeated_arguments_appear_once_with_their_last_value() {
    let file = "FROM scratch\nARG foo=bar\nARG bar=123\nARG foo=bar2\nRUN ls /etc/\n";
    assert_eq!(
        build(file).history(),
        [
            "ARG foo=bar",
            "ARG bar=123",
            "ARG foo=bar2",
            "RUN |2 foo=bar2 bar=123 /bin/sh -c ls /etc/ # buildkit",
        ]
    );
}

#[test]
fn run_shows_what_env_made_of_an_argument() {
    let file = "FROM scratch\nARG a=1 b\nENV a=2\nRUN x\n";
    assert_eq!(build(file).history()[2], "RUN |2 a=2 b= /bin/sh -c x # buildkit");
    assert_eq!(build(file).history()[0], "ARG a=1 b");
}

fn diff(text: &str) -> DiffId {
    DiffId(Digest::of(text.as_bytes()))
}

#[test]
fn the_assembled_config_has_one_full_entry_per_layer() {
    let mut base = ImageConfig {
        architecture: "arm64".to_owned(),
        os: "linux".to_owned(),
        os_version: Some("7".to_owned()),
        created: Some("1999-01-01T00:00:00Z".to_owned()),
        ..ImageConfig::default()
    };
    base.rootfs.diff_ids = vec![diff("base")];
    base.history = vec![History { created_by: Some("base".to_owned()), ..History::default() }];
    let stage = build("FROM base\nENV a=b\nRUN x\nRUN y\n").base("base", base.clone()).stage();
    let layers = [StepLayer::Empty, StepLayer::Layer(diff("x")), StepLayer::Empty];
    let config = assemble_config(&stage, Some(&base), &layers, Some("2026-01-01T00:00:00Z"));
    assert_eq!(config.rootfs.diff_ids, [diff("base"), diff("x")]);
    let empty: Vec<bool> = config.history.iter().map(|entry| entry.empty_layer).collect();
    assert_eq!(empty, [false, true, false, true]);
    assert_eq!(config.history[2].comment.as_deref(), Some("buildkit.dockerfile.v0"));
    assert_eq!(config.created.as_deref(), Some("2026-01-01T00:00:00Z"));
    assert_eq!((config.architecture.as_str(), config.os_version.as_deref()), ("arm64", Some("7")));
    assert!(config.config.env.contains(&"a=b".to_owned()));
}

#[test]
fn a_base_without_history_still_counts_its_layers() {
    let mut base = ImageConfig::default();
    base.rootfs.diff_ids = vec![diff("1"), diff("2")];
    base.history = vec![History { created_by: Some("one".to_owned()), ..History::default() }];
    let stage = build("FROM base\n").stage();
    let config = assemble_config(&stage, Some(&base), &[], None);
    assert_eq!(config.history.iter().filter(|entry| !entry.empty_layer).count(), 2);
    base.history = vec![History::default(); 3];
    let config = assemble_config(&stage, Some(&base), &[], None);
    assert_eq!(config.history.iter().filter(|entry| !entry.empty_layer).count(), 2);
}

#[test]
fn scratch_takes_the_platform_of_the_build() {
    let stage = build("FROM --platform=linux/arm/v7 scratch\n").stage();
    let config = assemble_config(&stage, None, &[], None);
    assert_eq!(config.platform().to_string(), "linux/arm/v7");
}

/// BuildKit MaintainBaseOSVersion.
#[test]
fn the_platform_of_the_base_stays_with_its_version() {
    let base = ImageConfig {
        architecture: "amd64".into(),
        os: "windows".into(),
        os_version: Some("10.0.17763.1".into()),
        os_features: vec!["win32k".into()],
        ..ImageConfig::default()
    };
    let stage = build("FROM base\nENV A=1\n").base("base", base.clone()).stage();
    let made = assemble_config(&stage, Some(&base), &[StepLayer::Empty], None);
    assert_eq!(
        (made.os.as_str(), made.os_version, made.os_features),
        ("windows", base.os_version, base.os_features)
    );
    // No PATH is made up for it either (BuildKit DefaultPathEnvOnWindows).
    assert!(stage.config.env.iter().all(|line| !line.starts_with("PATH=")));
}
