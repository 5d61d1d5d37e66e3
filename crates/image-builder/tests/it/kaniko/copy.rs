//! Group COPY.

use std::path::Path;
use std::time::{Duration, SystemTime};

use layers::Entry;
use rustix::fs::XattrFlags;

use super::dockerfile;
use super::spec::archive;
use crate::tests;

tests![
    copied_paths_hold_patterns_json_and_variables,
    copies_are_reproducible_with_an_epoch,
    directories_made_by_copy_get_the_owner_of_chown,
    unknown_numbers_may_own_files_and_unknown_names_may_not,
    the_root_of_a_stage_can_be_copied_into_a_directory,
    the_root_of_a_stage_can_be_copied_over_the_root,
    one_file_may_be_copied_many_times,
    relative_links_survive_copies_across_stages,
    chmod_applies_to_files_and_directories_of_copy_and_add,
    dangling_links_are_copied_as_links,
    hard_links_of_an_image_stay_hard_links,
    chmod_shapes_directories_it_makes_and_leaves_those_that_exist,
    the_sticky_bit_of_an_existing_directory_stays,
    modes_and_owners_of_a_stage_are_kept,
    capabilities_of_files_survive_copies,
    capabilities_of_a_base_survive_commands,
    times_are_kept_from_context_and_stage,
    modes_can_be_symbolic,
    a_link_may_be_copied_over_itself,
    parents_that_exist_keep_their_modes,
    stage_names_are_found_whatever_their_case,
    numbers_of_stages_hold_though_others_are_not_built,
];

fn copied_paths_hold_patterns_json_and_variables() {
    dockerfile(
        "FROM base
WORKDIR /work
ENV dir=/from/env name=src
COPY a.txt .
COPY a.txt renamed
COPY *.txt ./.hid* /dots/
COPY [\"c.md\", \"/json dir/\"]
COPY $name ${dir}/
COPY no*such b.txt /wild/
COPY docs/../b.txt /../up
COPY ../../c.md /escaped
COPY src/ /tree
COPY src docs /both/
",
    )
    .build()
    .holds("/work/a.txt", "a")
    .holds("/work/renamed", "a")
    .directory("/dots", &[".hidden", "a.txt", "b.txt"])
    .holds("/json dir/c.md", "c")
    .directory("/from/env", &["b-link", "dangling", "deep", "main.c"])
    .directory("/wild", &["b.txt"])
    .holds("/up", "b")
    .holds("/escaped", "c")
    .is("/tree/deep", "dir 750 0:0")
    .directory("/both", &["b-link", "dangling", "deep", "main.c", "readme.md"]);
}

fn copies_are_reproducible_with_an_epoch() {
    let spec = dockerfile("FROM base\nCOPY . /all/\nRUN touch /x\n")
        .with(|_, request| request.epoch = Some(0));
    let (first, second) = (spec.build(), spec.build());
    assert_eq!(first.outcome.manifest.digest(), second.outcome.manifest.digest());
    first.modified("/all/a.txt", 0).modified("/x", 0);
}

fn directories_made_by_copy_get_the_owner_of_chown() {
    dockerfile("FROM base\nCOPY --chown=1000:1001 a.txt /made/on/way/\nCOPY --chown=app:extra src /etc/s\n")
        .build()
        .is("/made", "dir 755 1000:1001")
        .is("/made/on/way", "dir 755 1000:1001")
        .is("/etc", "dir 755 0:0")
        .is("/etc/s", "dir 755 1000:50")
        .is("/etc/s/deep", "dir 750 1000:50")
        .is("/etc/s/dangling", "link 1000:50");
}

fn unknown_numbers_may_own_files_and_unknown_names_may_not() {
    dockerfile("FROM base\nCOPY --chown=4321 a.txt /a\nCOPY --chown=4321:99 a.txt /b\n")
        .build()
        .is("/a", "file 640 4321:4321")
        .is("/b", "file 640 4321:99");
    let error = dockerfile("FROM base\nCOPY --chown=nobody:app a.txt /a\n").fails();
    assert!(error.contains("nobody") && error.contains("/etc/passwd"), "{error}");
}

fn the_root_of_a_stage_can_be_copied_into_a_directory() {
    dockerfile(
        "FROM base AS one
RUN mkdir -m 711 /of-stage && echo x > /of-stage/x && rm /etc/gone
FROM base
COPY --from=one / /foo
RUN cat /foo/of-stage/x
",
    )
    .build()
    .is("/foo", "dir 755 0:0")
    .is("/foo/of-stage", "dir 711 0:0")
    .holds("/foo/etc/keep", "keep\n")
    .lacks("/foo/etc/gone")
    .links("/foo/var/run", "/run")
    .links("/foo/bin/sh", "busybox")
    .prints("x\n");
}

fn the_root_of_a_stage_can_be_copied_over_the_root() {
    let tree = archive(&[
        (Entry::directory("proc", 0o555), ""),
        (Entry::directory("sys", 0o555), ""),
        (Entry::directory("dev", 0o755), ""),
        (Entry::file("dev/of-image", 0o600, 3), "dev"),
        (Entry::file("etc/of-image", 0o600, 3), "etc"),
    ]);
    dockerfile(
        "FROM scratch AS odd
ADD tree.tar /
FROM base
COPY --from=odd / /
RUN cat /etc/of-image
",
    )
    .file("tree.tar", tree)
    .build()
    .directory("/proc", &[])
    .directory("/sys", &[])
    .directory("/dev", &["of-image"])
    .holds("/dev/of-image", "dev")
    .holds("/etc/keep", "keep\n")
    .prints("etc");
}

fn one_file_may_be_copied_many_times() {
    let copies = "COPY a.txt /same\nCOPY a.txt b.txt /several/\n".repeat(20);
    dockerfile(&format!("FROM base\n{copies}RUN cat /same /several/b.txt\n"))
        .build()
        .holds("/same", "a")
        .directory("/several", &["a.txt", "b.txt"])
        .prints("ab");
}

fn relative_links_survive_copies_across_stages() {
    dockerfile(
        "FROM base AS one
RUN mkdir -p /tree/sub && echo t > /tree/target && ln -s ../target /tree/sub/link && ln -s sub /tree/dir
RUN ln -s tree/target /outside
FROM base
COPY --from=one /tree /other
COPY --from=one /tree/sub/link /file
COPY --from=one /outside /outside
COPY --from=one /tree/dir /dir
",
    )
    .build()
    .links("/other/sub/link", "../target")
    .links("/other/dir", "sub")
    .holds("/file", "t\n")
    .holds("/outside", "t\n")
    .links("/dir/link", "../target");
}

fn chmod_applies_to_files_and_directories_of_copy_and_add() {
    dockerfile(
        "FROM base
COPY --chmod=0755 a.txt /copied
COPY --chmod=711 src /tree
ADD --chmod=4750 b.txt /added
ADD --chmod=500 --chown=7 src /added-tree/
",
    )
    .build()
    .is("/copied", "file 755 0:0")
    .is("/tree", "dir 711 0:0")
    .is("/tree/deep", "dir 711 0:0")
    .is("/tree/main.c", "file 711 0:0")
    .is("/tree/dangling", "link 0:0")
    .is("/added", "file 4750 0:0")
    .is("/added-tree/deep/x.h", "file 500 7:7");
}

fn dangling_links_are_copied_as_links() {
    dockerfile(
        "FROM base AS one
RUN mkdir /d && ln -s /nowhere/at/all /d/dangling && ln -s d /alias
FROM one
RUN echo more > /more
FROM base
COPY --from=1 /d /d
COPY --from=1 /alias /from-alias
COPY src /context
",
    )
    .build()
    .links("/d/dangling", "/nowhere/at/all")
    .links("/from-alias/dangling", "/nowhere/at/all")
    .links("/context/dangling", "nowhere");
}

fn hard_links_of_an_image_stay_hard_links() {
    dockerfile("FROM base\nCOPY tree /usr/lib/tree/\n")
        .file("tree/one", "same file")
        .hardlink("tree/sub/two", "tree/one")
        .hardlink("tree/three", "tree/one")
        .keep("hardlinked");
    let built = dockerfile("FROM base\nCOPY --from=hardlinked /usr/lib/tree /t\n").build();
    built.one_file(&["/t/one", "/t/sub/two", "/t/three"]).top_layer(&[
        "t/",
        "t/one",
        "t/sub/",
        "t/sub/two => t/one",
        "t/three => t/one",
    ]);
}

fn chmod_shapes_directories_it_makes_and_leaves_those_that_exist() {
    dockerfile(
        "FROM base
RUN mkdir -m 701 /exists && mkdir -m 702 /exists/sub
COPY --chmod=0750 a.txt /made/on/way/
COPY --chmod=0740 a.txt /exists/
COPY --chmod=0740 a.txt /exists/sub/new/
COPY --chmod=0711 src /exists
",
    )
    .build()
    .is("/made", "dir 750 0:0")
    .is("/made/on/way", "dir 750 0:0")
    .is("/made/on/way/a.txt", "file 750 0:0")
    .is("/exists", "dir 701 0:0")
    .is("/exists/sub", "dir 702 0:0")
    .is("/exists/sub/new", "dir 740 0:0")
    .is("/exists/a.txt", "file 740 0:0")
    .is("/exists/deep", "dir 711 0:0");
}

fn the_sticky_bit_of_an_existing_directory_stays() {
    dockerfile(
        "FROM base\nRUN chmod 1777 /tmp\nCOPY a.txt /tmp/\nCOPY docs /tmp\nRUN touch /tmp/x\n",
    )
    .build()
    .is("/tmp", "dir 1777 0:0")
    .directory("/tmp", &["a.txt", "readme.md", "x"])
    .top_layer(&["tmp/", "tmp/x"]);
}

fn modes_and_owners_of_a_stage_are_kept() {
    dockerfile(
        "FROM base AS one
RUN mkdir -p /out/private && echo k > /out/private/key && chmod 600 /out/private/key && \
    chmod 2710 /out/private && chown -R app:extra /out && chmod 4755 /out
FROM base
COPY --from=one /out /new
COPY --from=one /out/private/key /key
COPY --from=one --chown=5:6 /out/private /changed/
",
    )
    .build()
    .is("/new", "dir 755 0:0")
    .is("/new/private", "dir 2710 1000:50")
    .is("/new/private/key", "file 600 1000:50")
    .is("/key", "file 600 1000:50")
    .is("/changed/key", "file 600 5:6");
}

/// `cap_net_raw+ep` as the kernel stores it (VFS_CAP_REVISION_2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NAME: &str = "security.capability";

fn give_capability(path: &Path) {
    rustix::fs::setxattr(path, NAME, &CAPABILITY, XattrFlags::empty()).expect("CAP_SETFCAP");
}

fn capabilities_of_files_survive_copies() {
    let built = dockerfile("FROM base AS one\nCOPY ping /out/ping\nFROM base\nCOPY ping /bin/ping\nCOPY --from=one /out /out\nCOPY --chmod=700 ping /bin/private\n")
        .file_with("ping", 0o755, "ping")
        .arrange(|context| give_capability(&context.join("ping")))
        .build();
    for path in ["/bin/ping", "/out/ping", "/bin/private"] {
        assert_eq!(built.attribute(path, NAME).as_deref(), Some(&CAPABILITY[..]), "{path}");
    }
}

fn capabilities_of_a_base_survive_commands() {
    dockerfile("FROM base\nCOPY ping /bin/ping\nCOPY ping /bin/lost\n")
        .file_with("ping", 0o755, "ping")
        .arrange(|context| give_capability(&context.join("ping")))
        .keep("capable");
    let built = dockerfile(
        "FROM capable\nRUN touch /x\nRUN chmod 700 /bin/ping\nRUN chown app /bin/lost\n",
    )
    .build();
    assert_eq!(built.layer(2), ["x"]);
    assert_eq!(built.layer(1), ["bin/", "bin/ping"]);
    assert_eq!(built.attribute("/bin/ping", NAME).as_deref(), Some(&CAPABILITY[..]));
    // The kernel takes capabilities from a file that changes hands, and so must the image.
    assert_eq!(built.attribute("/bin/lost", NAME), None);
}

fn times_are_kept_from_context_and_stage() {
    dockerfile(
        "FROM base AS one
RUN mkdir /d && touch -d @1000000001 /d/f && touch -d @1000000002 /d
FROM base
COPY old /old
COPY dir /dir/
COPY --from=one /d /parent/d/
COPY --from=one /d/f /f
RUN cat /old /f > /dev/null
",
    )
    .file("old", "old")
    .file("dir/sub/file", "file")
    .arrange(|context| {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        for (path, second) in [("old", 1_111_111_111), ("dir/sub/file", 1_222_222_222)] {
            let file = std::fs::File::options().write(true).open(context.join(path));
            file.expect("a file").set_modified(at(second)).expect("ours");
        }
        let directory = std::fs::File::open(context.join("dir/sub")).expect("a directory");
        directory.set_modified(at(1_333_333_333)).expect("ours");
    })
    .build()
    .modified("/old", 1_111_111_111)
    .modified("/dir/sub/file", 1_222_222_222)
    .modified("/dir/sub", 1_333_333_333)
    .modified("/parent/d/f", 1_000_000_001)
    .modified("/f", 1_000_000_001);
}

fn modes_can_be_symbolic() {
    dockerfile(
        "FROM base
COPY --chmod=u=rwX,go=rX tree /x
COPY --chmod=go-rwx,u+s tree/program /private
COPY --chmod=a-w,g=u tree/text /same
ADD --chmod=+x tree/text /runs
",
    )
    .file_with("tree/program", 0o744, "")
    .file_with("tree/text", 0o664, "")
    .file_with("tree/sub/", 0o700, "")
    .build()
    .is("/x/program", "file 755 0:0")
    .is("/x/text", "file 644 0:0")
    .is("/x/sub", "dir 755 0:0")
    .is("/private", "file 4700 0:0")
    .is("/same", "file 444 0:0")
    .is("/runs", "file 775 0:0");
}

fn a_link_may_be_copied_over_itself() {
    dockerfile(
        "FROM base AS one
RUN mkdir /d && echo t > /d/target && ln -s target /d/link && ln -s link /d/second
FROM one
COPY --from=one /d /d
COPY --from=one /d/link /d/link
RUN cat /d/second
",
    )
    .build()
    .holds("/d/target", "t\n")
    .links("/d/second", "link")
    // A link at the end of a destination is followed, as one at the end of a source.
    .links("/d/link", "target")
    .prints("t\n");
}

fn parents_that_exist_keep_their_modes() {
    dockerfile(
        "FROM base
RUN mkdir -m 700 /parent && chown app /parent
COPY a.txt /parent/sub/x
COPY --chown=3 b.txt /parent/
FROM base
COPY --from=0 /parent/sub/x /opt/x
COPY --from=0 / /
",
    )
    .build()
    .is("/parent", "dir 700 1000:0")
    .is("/parent/sub", "dir 755 0:0")
    .is("/parent/b.txt", "file 644 3:3")
    .is("/opt", "dir 755 0:0");
}

fn stage_names_are_found_whatever_their_case() {
    dockerfile("FROM base AS Builder\nRUN echo b > /b\nFROM BUILDER AS Second\nRUN echo s > /s\nFROM base\nCOPY --from=bUILDER /b /b\nCOPY --from=second /s /s\n")
        .build()
        .holds("/b", "b\n")
        .holds("/s", "s\n");
}

fn numbers_of_stages_hold_though_others_are_not_built() {
    let built = dockerfile("FROM base\nRUN exit 1\nFROM base\nRUN echo two > /x\nFROM base\nRUN exit 3\nFROM base\nCOPY --from=1 /x /x\n").build();
    built.holds("/x", "two\n");
    assert_eq!(built.outcome.steps_executed, 2);
}
