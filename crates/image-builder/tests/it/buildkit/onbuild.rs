//! [onbuild]: triggers of images and stages.

use super::case;
use crate::tests;

tests![
    triggers_run_in_the_next_build_and_then_vanish,
    triggers_bring_their_own_stages_and_images,
    triggers_of_a_stage_run_in_the_stages_below,
    triggers_keep_their_mounts_and_heredocs,
    triggers_meet_named_contexts,
];

/// BuildKit OnBuildCleared.
fn triggers_run_in_the_next_build_and_then_vanish() {
    let base = case("FROM base\nONBUILD RUN mkdir -p /out && echo -n 11 >> /out/foo\n");
    assert_eq!(base.config().on_build, ["RUN mkdir -p /out && echo -n 11 >> /out/foo"]);
    base.keep("cleared-1");
    let child = case("FROM cleared-1\nRUN cat /out/foo\n");
    assert_eq!(child.printed(), "11");
    assert!(child.config().on_build.is_empty());
    child.keep("cleared-2");
    assert_eq!(case("FROM cleared-2\nRUN cat /out/foo\n").printed(), "11");
}

/// BuildKit OnBuildWithChildStage, OnBuildNewDeps.
fn triggers_bring_their_own_stages_and_images() {
    case("FROM base\nONBUILD COPY --from=alpha /etc/made /alpha\n").keep("with-stage");
    let text =
        "FROM base AS alpha\nRUN echo by alpha > /etc/made\nFROM with-stage\nRUN cat /alpha\n";
    assert_eq!(case(text).printed(), "by alpha\n");
    case("FROM scratch\nCOPY <<EOF /other\nan image\nEOF\n").keep("other-image");
    case(
        "FROM base\nONBUILD COPY --from=other-image /other /other\n\
          ONBUILD RUN --mount=from=other-image,target=/m cat /m/other\n",
    )
    .keep("with-image");
    assert_eq!(case("FROM with-image\nRUN cat /other\n").printed(), "an image\nan image\n");
}

/// BuildKit OnBuildInheritedStageRun, OnBuildInheritedStageWithFrom.
fn triggers_of_a_stage_run_in_the_stages_below() {
    let text = "FROM base AS alpha\nRUN echo a > /a\nFROM base AS parent\n\
                ONBUILD COPY --from=alpha /a /got\nONBUILD RUN echo -n once >> /times\n\
                FROM parent AS child\nRUN cat /got /times\nFROM child\nRUN cat /times\n";
    assert_eq!(case(text).printed(), "a\nonceonce");
}

/// BuildKit OnBuildWithCacheMount, OnBuildHeredoc.
fn triggers_keep_their_mounts_and_heredocs() {
    case(
        "FROM base\nONBUILD RUN --mount=type=cache,id=trigger,target=/c echo -n 42 > /c/foo\n\
          ONBUILD RUN --mount=type=cache,id=trigger,target=/c cat /c/foo\n\
          ONBUILD RUN <<EOF\necho heredoc\nEOF\nONBUILD COPY <<EOF /file\nin a file\nEOF\n",
    )
    .keep("with-mounts");
    let child = case("FROM with-mounts\nRUN cat /file\n").cached();
    assert_eq!(child.printed(), "42heredoc\nin a file\n");
}

/// BuildKit OnBuildNamedContext.
fn triggers_meet_named_contexts() {
    case("FROM base\nONBUILD COPY --from=named /foo /foo\n").keep("with-context");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("foo"), "of the context").expect("a file");
    let child = case("FROM with-context\nRUN cat /foo\n").with(move |_, request| {
        let directory = image_builder::ContextDirectory {
            root: directory.path().to_owned(),
            ignore: dockerfile::IgnoreFile::default(),
        };
        let context = image_builder::NamedContext::Directory(directory);
        request.named_contexts.insert("named".into(), context);
    });
    assert_eq!(child.printed(), "of the context");
}
