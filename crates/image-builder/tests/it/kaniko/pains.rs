//! What users of kaniko complain about most, and what happens here instead.

use std::path::{Path, PathBuf};

use container_runtime::Mode;

use super::{POD_CONTEXT, dockerfile, machine, mode};
use crate::tests;

tests![
    stages_that_do_not_need_each_other_run_at_the_same_time,
    a_build_leaves_the_machine_it_runs_on_alone,
    files_where_a_container_has_mounts_stay_in_the_image,
    files_below_var_run_and_tmp_are_kept,
    deleted_files_do_not_reappear,
    files_of_one_stage_do_not_leak_into_another,
    files_of_the_context_belong_to_root_whoever_owns_them,
    modes_survive_owner_changes_in_one_step,
    links_that_loop_are_copied_and_not_followed,
    a_link_never_leads_a_copy_out_of_its_tree,
    a_context_that_holds_itself_by_a_link_is_copied_once,
    builds_without_commands_need_no_rights,
];

fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    if mode() == Mode::InPlace {
        // One root serves one stage at a time, in the order of the file.
        return;
    }
    // Each waits for the other's file.
    let stage = |name: &str, other: &str| {
        format!(
            "FROM base AS {name}
RUN --mount=type=cache,id=kaniko-meeting,target=/m touch /m/{name}; i=0; \
    until test -e /m/{other}; do i=$((i + 1)); test $i -lt 2000 || exit 1; sleep 0.01; done; \
    touch /{name}
"
        )
    };
    let both = "FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n";
    dockerfile(&(stage("one", "two") + &stage("two", "one") + both))
        .cached()
        .build()
        .directory("/", &["one", "two"]);
}

fn a_build_leaves_the_machine_it_runs_on_alone() {
    // In place too: what is not the image's is not the build's to touch.
    let program = std::env::current_exe().expect("this binary");
    let before = std::fs::metadata(&program).expect("a file").len();
    let built = dockerfile(
        "FROM base
RUN rm -rf /etc/keep /data /usr/lib/* /home; echo new > /etc/new
",
    )
    .build();
    built.lacks("/etc/keep").lacks("/data").lacks("/home").holds("/etc/new", "new\n");
    assert_eq!(std::fs::metadata(&program).expect("still there").len(), before);
    if mode() == Mode::Overlay {
        assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/new").exists());
    }
}

fn files_where_a_container_has_mounts_stay_in_the_image() {
    dockerfile("FROM base\nCOPY tree /\nRUN cat /etc/resolv.conf > /dev/null; touch /x\n")
        .file("tree/etc/resolv.conf", "nameserver 192.0.2.1\n")
        .file("tree/etc/hostname", "image\n")
        .file("tree/etc/hosts", "192.0.2.1 image\n")
        .file("tree/sys/class/product_uuid", "0\n")
        .build()
        .holds("/etc/resolv.conf", "nameserver 192.0.2.1\n")
        .holds("/etc/hosts", "192.0.2.1 image\n")
        .holds("/etc/hostname", "image\n")
        .holds("/sys/class/product_uuid", "0\n")
        .top_layer(&["x"]);
}

fn files_below_var_run_and_tmp_are_kept() {
    dockerfile(
        "FROM base
RUN rm /var/run && mkdir -p /var/run/app && echo pid > /var/run/app/pid && \
    echo t > /tmp/kept && mkdir -p /var/tmp /run/lock && touch /var/tmp/v /run/lock/l
COPY a.txt /var/run/copied
RUN cat /var/run/app/pid /var/run/copied /tmp/kept
",
    )
    .build()
    .prints("pid\nat\n")
    .directory("/var/run", &["app", "copied"])
    .directory("/var/run/app", &["pid"])
    .directory("/run", &["lock"])
    .holds("/tmp/kept", "t\n");
}

fn deleted_files_do_not_reappear() {
    dockerfile("FROM base\nCOPY src /s\nRUN rm -r /s/deep /etc/gone /data/one\n").keep("deleting");
    let built = dockerfile(
        "FROM deleting AS next
RUN ! test -e /etc/gone && ! test -e /s/deep && touch /etc/new
RUN rm /etc/keep
COPY a.txt /s/
FROM next
RUN ! test -e /etc/keep && touch /last
",
    )
    .build();
    built
        .lacks("/etc/gone")
        .lacks("/etc/keep")
        .lacks("/s/deep")
        .lacks("/data/one")
        .holds("/etc/new", "")
        .top_layer(&["last"]);
    assert_eq!(built.layer(2), ["etc/", "etc/.wh.keep"]);
}

fn files_of_one_stage_do_not_leak_into_another() {
    dockerfile(
        "FROM base AS one
RUN touch /only-one /shared && mkdir /dir && touch /dir/one
FROM base AS two
RUN ! test -e /only-one && ! test -e /dir && touch /two
FROM one
COPY --from=two /two /two
RUN ls /dir
",
    )
    .build()
    .prints("one\n")
    .directory("/dir", &["one"])
    .holds("/two", "");
}

fn files_of_the_context_belong_to_root_whoever_owns_them() {
    dockerfile(
        "FROM base
USER app
COPY tree /tree
ADD tree /added
WORKDIR /w
COPY tree/file .
",
    )
    .file("tree/file", "f")
    .file("tree/sub/x", "x")
    .owned("tree/file", 1234, 5678)
    .owned("tree/sub", 1234, 5678)
    .build()
    .is("/tree", "dir 755 0:0")
    .is("/tree/file", "file 644 0:0")
    .is("/tree/sub", "dir 755 0:0")
    .is("/added/file", "file 644 0:0")
    .is("/w", "dir 755 1000:1001")
    .is("/w/file", "file 644 0:0");
}

fn modes_survive_owner_changes_in_one_step() {
    dockerfile(
        "FROM base
COPY --chown=app:app program /bin/a
COPY --chown=app --chmod=6755 program /bin/b
ADD --chown=5:6 program /bin/c
RUN chmod 4755 /etc/keep && mkdir /g && chown app:extra /g && chmod 2775 /g
RUN touch /g/in && stat -c %g /g/in
",
    )
    .file_with("program", 0o4711, "")
    .build()
    .prints("50\n")
    .is("/bin/a", "file 4711 1000:1001")
    .is("/bin/b", "file 6755 1000:1001")
    .is("/bin/c", "file 4711 5:6")
    .is("/etc/keep", "file 4755 0:0")
    .is("/g", "dir 2775 1000:50");
}

fn links_that_loop_are_copied_and_not_followed() {
    dockerfile(
        "FROM base AS one
COPY tree /tree
RUN ln -s /tree /tree/up && ln -s b /a && ln -s a /b
FROM base
COPY --from=one /tree /t
RUN ls /t && touch /after
",
    )
    .link("tree/self", "self")
    .link("tree/x", "y")
    .link("tree/y", "x")
    .link("tree/parent", "..")
    .build()
    .prints("parent\nself\nup\nx\ny\n")
    .links("/t/self", "self")
    .links("/t/parent", "..")
    .links("/t/up", "/tree");
    let error = dockerfile("FROM base\nCOPY x /x\n").link("x", "y").link("y", "x").fails();
    assert!(error.contains('x'), "{error}");
}

fn a_link_never_leads_a_copy_out_of_its_tree() {
    // A link of the context that climbs out is resolved inside of it, where there is nothing.
    let error =
        dockerfile("FROM base\nCOPY passwd /p\n").link("passwd", "../../../../etc/passwd").fails();
    assert!(error.contains("not found"), "{error}");
    dockerfile("FROM base\nRUN ln -s ../../../../../../etc /up\nCOPY a.txt /up/a\n")
        .build()
        .holds("/etc/a", "a");
}

fn a_context_that_holds_itself_by_a_link_is_copied_once() {
    dockerfile("FROM base\nCOPY . /copy/of/context/\nWORKDIR /copy\nCOPY . .\n")
        .file("f", "f")
        .link("here", ".")
        .link("below/up", "..")
        .build()
        .links("/copy/here", ".")
        .links("/copy/of/context/below/up", "..")
        .directory("/copy", &["below", "f", "here", "of"]);
}

fn builds_without_commands_need_no_rights() {
    // `Mode::None` has no way to run anything; owners and modes are metadata of layers.
    let machine = machine();
    let context = match mode() {
        Mode::InPlace => PathBuf::from(POD_CONTEXT),
        _ => machine.root.path().join("context"),
    };
    let text = "FROM base
WORKDIR /w
USER app
WORKDIR sub
COPY --chown=5:6 --chmod=4755 a.txt b
ADD plain.tar /
";
    machine.build(Mode::None, text, &context).expect("a build");
    let error = machine.build(Mode::None, "FROM base\nRUN echo never\n", &context);
    let error = error.expect_err("no way to run it");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("RUN is not possible here"), "{error}: {source}");
}
