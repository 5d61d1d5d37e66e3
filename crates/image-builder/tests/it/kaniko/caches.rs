//! Group "Cache", as far as one machine's cache goes; caches elsewhere are in `crate::cache`.

use super::dockerfile;
use super::spec::{Built, Spec};
use crate::tests;

tests![
    a_repeated_build_executes_nothing_and_is_the_same_image,
    special_bits_and_owners_come_back_from_the_cache,
    deletions_come_back_from_the_cache,
    a_command_without_changes_is_cached_as_such,
    directories_and_volumes_are_cached,
    a_link_that_became_a_directory_comes_back_from_the_cache,
    stages_share_what_they_have_in_common,
    a_changed_stage_with_the_same_result_keeps_what_was_copied_from_it,
    steps_after_one_that_missed_are_looked_up_too,
    bodies_of_heredocs_and_neighbouring_words_are_part_of_keys,
    what_a_bind_mount_shows_is_part_of_the_key,
    names_that_mean_removal_in_layers_are_refused,
];

/// Builds twice; nothing is executed the second time, and the image is the same.
#[track_caller]
fn twice(spec: Spec) -> Built {
    let spec = spec.cached();
    let first = spec.build();
    let second = spec.build();
    assert_eq!(second.outcome.steps_executed, 0);
    assert_eq!(first.outcome.manifest.digest(), second.outcome.manifest.digest());
    second
}

fn executed(text: &str) -> usize {
    dockerfile(text).cached().build().outcome.steps_executed
}

fn a_repeated_build_executes_nothing_and_is_the_same_image() {
    twice(dockerfile(
        "FROM base AS one
RUN mkdir /installed && cp /bin/busybox /installed/tool && date > /installed/date
FROM base
WORKDIR /cache/w
COPY src .
ADD packed.tgz /cache/
COPY --from=one /installed /cache/installed
RUN head -c 16 /dev/urandom > /cache/random
LABEL a=b
",
    ))
    .prints("")
    .holds("/cache/w/main.c", "int x;")
    .holds("/cache/in/file", "packed");
}

fn special_bits_and_owners_come_back_from_the_cache() {
    twice(dockerfile(
        "FROM base
RUN cp /etc/keep /cached-bits && chown app:extra /cached-bits && chmod 6711 /cached-bits
RUN mkdir /cached-sticky && chmod 3777 /cached-sticky
COPY --chmod=4750 a.txt /cached-copy
",
    ))
    .is("/cached-bits", "file 6711 1000:50")
    .is("/cached-sticky", "dir 3777 0:0")
    .is("/cached-copy", "file 4750 0:0");
}

fn deletions_come_back_from_the_cache() {
    let spec =
        dockerfile("FROM base\nCOPY src /del\nRUN rm -r /del/deep /etc/gone\nRUN ls -R /del\n");
    let built = twice(spec);
    built.lacks("/del/deep").lacks("/etc/gone").holds("/etc/keep", "keep\n");
    // A step that misses after cached deletions does not see what they removed.
    dockerfile(
        "FROM base
COPY src /del
RUN rm -r /del/deep /etc/gone
RUN ! test -e /del/deep && ! test -e /etc/gone && touch /after
",
    )
    .cached()
    .build()
    .top_layer(&["after"]);
}

fn a_command_without_changes_is_cached_as_such() {
    twice(dockerfile(
        "FROM base\nRUN test -d /etc # nothing\nRUN touch /not-empty\nRUN ls /etc # nothing\n",
    ))
    .own_layers(1);
}

fn directories_and_volumes_are_cached() {
    twice(dockerfile(
        "FROM base
WORKDIR /cached/work
VOLUME /cached/volume
WORKDIR /cached/volume
USER app
WORKDIR /cached/of-app
RUN touch file
",
    ))
    .is("/cached/volume", "dir 755 0:0")
    .is("/cached/of-app", "dir 755 1000:1001")
    .config("/config/Volumes", &serde_json::json!({"/cached/volume": {}}));
}

fn a_link_that_became_a_directory_comes_back_from_the_cache() {
    twice(dockerfile(
        "FROM base
RUN mkdir /target && touch /target/t && ln -s target /was-link
RUN rm /was-link && mkdir /was-link && touch /was-link/own
",
    ))
    .is("/was-link", "dir 755 0:0")
    .directory("/was-link", &["own"])
    .directory("/target", &["t"]);
}

fn stages_share_what_they_have_in_common() {
    let text = |target: &str| {
        format!(
            "FROM base AS common
RUN touch /shared-3-34
FROM common AS one
RUN touch /one-334
FROM common AS two
RUN touch /two-334
FROM {target}
"
        )
    };
    assert_eq!(executed(&text("one")), 2);
    assert_eq!(executed(&text("two")), 1);
    // The same steps in a stage of another name.
    assert_eq!(
        executed("FROM base AS x\nRUN touch /shared-3-34\nFROM x AS y\nRUN touch /one-334\n"),
        0
    );
}

fn a_changed_stage_with_the_same_result_keeps_what_was_copied_from_it() {
    let text = |n: u32| {
        format!(
            "FROM base AS one
RUN echo {n} > /differs-655 && echo same > /same-655
FROM base AS two
COPY --from=one /same-655 /s
RUN cat /s > /t
FROM base
COPY --from=two /t /t
RUN --mount=from=one,source=/same-655,target=/m cat /m > /u
"
        )
    };
    assert_eq!(executed(&text(1)), 5);
    assert_eq!(executed(&text(2)), 1);
    assert_eq!(executed(&text(1)), 0);
}

fn steps_after_one_that_missed_are_looked_up_too() {
    let text = |n: u32| {
        format!(
            "FROM base\nRUN echo {n} > /dev/null\nRUN touch /x-782\nRUN touch /y-782\nCOPY a.txt /z-782\n"
        )
    };
    assert_eq!(executed(&text(1)), 4);
    // The first command differs and leaves the same files.
    assert_eq!(executed(&text(2)), 1);
}

fn bodies_of_heredocs_and_neighbouring_words_are_part_of_keys() {
    let texts = [
        "RUN <<END\necho a > /h\nEND\n",
        "RUN <<END\necho b > /h\nEND\n",
        "RUN cat > /h <<END\na\nEND\n",
        "RUN cat > /h <<'END'\na\nEND\n",
        "RUN cat > /h <<END\na\nb\nEND\n",
        "COPY <<one <<two /h/\na\none\nb\ntwo\n",
        "COPY <<one <<two /h/\nab\none\ntwo\n",
        "ARG a=bc\nRUN echo $a > /h-873\n",
        "ARG ab=c\nRUN echo $a > /h-873\n",
        "RUN [\"echo\", \"a b\"]\n",
        "RUN [\"echo\", \"a\", \"b\"]\n",
    ];
    for text in texts {
        assert_eq!(executed(&format!("FROM base\n{text}")), 1, "{text}");
    }
}

fn what_a_bind_mount_shows_is_part_of_the_key() {
    let run = |content: &str| {
        let text = "FROM base\nRUN --mount=source=f,target=/m cat /m > /o-879\n";
        dockerfile(text).file("f", content).file("other", content).cached().build()
    };
    run("one").holds("/o-879", "one");
    assert_eq!(run("one").outcome.steps_executed, 0);
    run("two").holds("/o-879", "two");
}

fn names_that_mean_removal_in_layers_are_refused() {
    let text = "FROM base\nCOPY tree /etc/\n";
    let error = dockerfile(text).file("tree/.wh.keep", "").file("tree/x", "").fails();
    assert!(error.contains(".wh.keep"), "{error}");
    // A command that makes one removes nothing by it.
    let error = dockerfile("FROM base\nRUN touch /etc/.wh.keep\n").fails();
    assert!(error.contains(".wh.keep"), "{error}");
}
