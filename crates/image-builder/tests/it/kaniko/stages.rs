//! Group "Stages".

use super::dockerfile;
use crate::tests;

tests![
    stages_copy_from_each_other,
    stages_build_on_each_other,
    a_stage_may_need_one_that_comes_between_it_and_its_base,
    a_target_beside_another_branch_is_built_alone,
    triggers_of_a_stage_run_in_the_stage_built_on_it,
    triggers_may_copy_from_images,
    stages_for_the_build_platform_serve_another_one,
    ignored_files_are_missing_in_every_stage,
    directories_are_made_resolved_and_kept,
    a_directory_belongs_to_the_user_with_all_that_is_made_for_it,
    a_stage_nobody_needs_is_not_looked_at,
];

fn stages_copy_from_each_other() {
    dockerfile(
        "FROM base AS one
COPY src /src
RUN cat /src/main.c > /built
FROM scratch AS two
COPY --from=one /built /bin/
COPY --from=one /src/deep /deep
FROM two
COPY a.txt /a
FROM base
COPY --from=2 / /all/
COPY --from=two /bin/built /etc/
RUN cat /all/bin/built /etc/built
",
    )
    .build()
    .directory("/all", &["a", "bin", "deep"])
    .holds("/all/deep/x.h", "x")
    .prints("int x;int x;");
}

fn stages_build_on_each_other() {
    let built = dockerfile(
        "FROM base AS one
RUN touch /meow
FROM one AS two
RUN touch /purr
FROM two AS three
RUN touch /mew && ls /meow /purr
",
    )
    .build();
    built.prints("/meow\n/purr\n").own_layers(3);
    assert_eq!([built.layer(2), built.layer(1), built.layer(0)], [["meow"], ["purr"], ["mew"]]);
}

fn a_stage_may_need_one_that_comes_between_it_and_its_base() {
    let built = dockerfile(
        "FROM base AS first
FROM first AS second
FROM first AS third
RUN echo t > /t
FROM second AS fourth
COPY --from=third /t /t
FROM base AS noise
RUN exit 1
FROM fourth AS fifth
",
    )
    .build();
    built.holds("/t", "t\n").own_layers(1);
}

fn a_target_beside_another_branch_is_built_alone() {
    for (target, expected) in [("one", "one\n"), ("two", "two\n")] {
        dockerfile(
            "FROM base AS start
RUN touch /start
FROM start AS one
RUN echo one > /x
FROM start AS two
RUN echo two > /x
",
        )
        .target(target)
        .build()
        .holds("/x", expected)
        .own_layers(2);
    }
}

fn triggers_of_a_stage_run_in_the_stage_built_on_it() {
    let built = dockerfile(
        "FROM base AS one
ONBUILD RUN touch /blubb
RUN ! test -e /blubb
FROM one AS two
RUN test -e /blubb
FROM two
RUN ls /blubb
",
    )
    .build();
    built.prints("/blubb\n");
    assert!(built.outcome.image.config.on_build.is_empty());
}

fn triggers_may_copy_from_images() {
    dockerfile("FROM base\nRUN echo other > /other\n").keep("onbuild-source");
    dockerfile(
        "FROM base
ONBUILD COPY --from=onbuild-source /other /copied
ONBUILD RUN --mount=from=onbuild-source,target=/m cat /m/other
",
    )
    .keep("onbuild-copy");
    dockerfile("FROM onbuild-copy AS first\nFROM base\nCOPY --from=first /copied /copied\n")
        .build()
        .prints("other\n")
        .holds("/copied", "other\n");
}

fn stages_for_the_build_platform_serve_another_one() {
    let built = dockerfile(
        "FROM --platform=$BUILDPLATFORM base AS build
ARG TARGETARCH BUILDARCH
RUN test $BUILDARCH != $TARGETARCH && echo for $TARGETARCH > /program
FROM scratch
COPY --from=build /program /program
",
    )
    .with(|options, _| options.target_platform = "linux/s390x".parse().expect("a platform"))
    .build();
    built.holds("/program", "for s390x\n").config("/architecture", &serde_json::json!("s390x"));
}

fn ignored_files_are_missing_in_every_stage() {
    let all = ".dockerignore\nopen\n";
    dockerfile(
        "FROM base AS one
COPY . /one/
FROM base
COPY . /two/
COPY --from=one /one /one
RUN --mount=target=/m ls -A /m /one /two
",
    )
    .file(".dockerignore", "secret\n.git\n")
    .file("secret", "")
    .file(".git/config", "")
    .file("open", "")
    .build()
    .prints(&format!("/m:\n{all}\n/one:\n{all}\n/two:\n{all}"));
}

fn directories_are_made_resolved_and_kept() {
    dockerfile(
        "FROM base
ENV part=three
RUN mkdir -m 700 /exists && ln -s /exists /alias
WORKDIR /one/two
WORKDIR ${part}
RUN pwd
WORKDIR ../four/
RUN pwd
WORKDIR /exists
WORKDIR /alias/in
RUN touch x
",
    )
    .build()
    .prints("/one/two/three\n/one/two/four\n")
    .is("/exists", "dir 700 0:0")
    .links("/alias", "/exists")
    .directory("/exists/in", &["x"])
    .config("/config/WorkingDir", &serde_json::json!("/alias/in"));
}

fn a_directory_belongs_to_the_user_with_all_that_is_made_for_it() {
    dockerfile(
        "FROM base
USER app
WORKDIR /home/app/a/b
RUN touch mine
USER 4321
WORKDIR /work/dir
RUN test \"$(stat -c %u:%g /work)\" = 4321:0 && touch it
USER app:extra
WORKDIR /grouped
WORKDIR /etc
",
    )
    .build()
    .is("/home/app/a", "dir 755 1000:1001")
    .is("/home/app/a/b", "dir 755 1000:1001")
    .is("/work", "dir 755 4321:0")
    .is("/work/dir/it", "file 644 4321:0")
    .is("/grouped", "dir 755 1000:50")
    .is("/etc", "dir 755 0:0");
}

fn a_stage_nobody_needs_is_not_looked_at() {
    let text = "FROM no.such.registry.invalid/x AS unused
RUN exit 1
FROM base
COPY a.txt /a
";
    let built = dockerfile(text).build();
    built.holds("/a", "a");
    assert_eq!(built.outcome.steps_executed, 1);
}
