//! Step keys: what changes them and what does not.

use oci_model::Digest;

use super::*;

fn keys(build: &Build) -> Vec<String> {
    let base = Digest::of(b"base");
    let input = Digest::of(b"input");
    build
        .stage()
        .steps
        .iter()
        .filter_map(|step| {
            let inputs = vec![input; step.inputs().len()];
            Some(StepKey::of(&step.definition()?, Some(&base), &inputs).to_string())
        })
        .collect()
}

fn key(instructions: &str) -> String {
    keys(&build(&format!("FROM scratch\n{instructions}\n"))).pop().expect("a step")
}

#[test]
fn comments_blanks_and_labels_do_not_matter() {
    let plain = key("RUN x y");
    assert_eq!(key("# c\n\nRUN   x y"), plain);
    assert_eq!(key("LABEL a=b\nRUN x y"), plain);
    assert_eq!(key("EXPOSE 80\nCMD z\nRUN x y"), plain);
    assert_eq!(key("ENV a=1 b=2\nRUN x"), key("ENV b=2 a=1\nRUN x"));
}

#[test]
fn whatever_the_command_sees_matters() {
    let mut seen = std::collections::BTreeSet::new();
    for instructions in [
        "RUN x",
        "RUN y",
        "RUN [\"x\"]",
        "ENV a=b\nRUN x",
        "ENV a=c\nRUN x",
        "ARG unused=1\nRUN x",
        "USER u\nRUN x",
        "WORKDIR /w\nRUN x",
        "SHELL [\"/bin/bash\", \"-c\"]\nRUN x",
        "RUN --network=none x",
        "RUN --security=insecure x",
        "RUN --mount=type=cache,target=/c x",
        "RUN --mount=type=cache,target=/d x",
        "RUN --mount=type=secret,id=s x",
        "RUN --mount=type=secret,id=s,env=E x",
        "RUN --mount=target=/b x",
        "RUN <<E\nx\nE",
        "RUN <<E\ny\nE",
        "RUN cat <<E\nx\nE",
        "COPY a b",
        "COPY a b/",
        "ADD a b",
        "COPY --chown=1 a b",
        "COPY --chown=1:1 a b",
        "COPY --chmod=1 a b",
        "COPY --chmod=a+x a b",
        "COPY --link a b",
        "COPY --parents a b",
        "COPY --exclude=x a b",
        "COPY <<E b\nx\nE",
        "COPY <<E b\ny\nE",
        "COPY <<F b\nx\nF",
        "ADD --unpack=false a b",
        "WORKDIR /w",
    ] {
        assert!(seen.insert(key(instructions)), "{instructions} has the key of another");
    }
}

/// kaniko issue_mz822, issue_mz824, issue_mz873: framing keeps neighbours apart.
#[test]
fn neighbouring_texts_do_not_run_together() {
    assert_ne!(key("RUN [\"ab\", \"c\"]"), key("RUN [\"a\", \"bc\"]"));
    assert_ne!(key("COPY <<A <<B d/\nx\nA\ny\nB"), key("COPY <<A <<B d/\nx\ny\nA\nB"));
    assert_ne!(key("ENV a=b=c\nRUN x"), key("ENV a=b b=c\nRUN x"));
}

#[test]
fn base_and_inputs_take_part() {
    let steps = build("FROM scratch\nCOPY a b\n").stage().steps;
    let definition = steps[0].definition().expect("a copy defines something");
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    let keys = [
        StepKey::of(&definition, None, &[one]),
        StepKey::of(&definition, Some(&one), &[one]),
        StepKey::of(&definition, Some(&two), &[one]),
        StepKey::of(&definition, Some(&one), &[two]),
        StepKey::of(&definition, Some(&one), &[one, two]),
        StepKey::of(&definition, Some(&one), &[]),
    ];
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
}

#[test]
fn the_key_format_is_pinned() {
    // A change here invalidates every cache: raise STEP_KEY_VERSION with it.
    assert_eq!(STEP_KEY_VERSION, 1);
    assert_eq!(
        key("RUN x"),
        "sha256:da7139d02b170453aec34e19f42093830cc057e29aef5cc27356e01204a49d14"
    );
}

#[test]
fn inputs_are_the_sources_a_step_reads() {
    let stage = build(
        "FROM a AS s\nFROM scratch\nENV x=y\nCOPY --from=s /x /y\nCOPY <<E /z\nE\n\
         RUN --mount=from=s,source=/q,target=/r --mount=type=cache,target=/c --mount=type=secret,id=i \
         --mount=target=/ctx x\nADD https://x.example/y /\n",
    )
    .stage();
    let counts: Vec<usize> = stage.steps.iter().map(|step| step.inputs().len()).collect();
    assert_eq!(counts, [0, 1, 0, 2, 0]);
    let inputs = stage.steps[3].inputs();
    assert_eq!(inputs[0].source, &Source::Stage(StageId(0)));
    assert_eq!(inputs[0].selection, Selection::Path("/q"));
    assert_eq!(inputs[1].source, &Source::Context);
}
