//! Group "Base helpers": images with odd corners as bases, and contexts with ignore files.

use layers::Entry;

use super::dockerfile;
use super::spec::archive;
use crate::tests;

tests![
    directories_for_the_kernel_that_a_base_ships_stay_as_they_are,
    a_program_with_two_names_can_become_a_link,
    triggers_of_a_base_run_and_set_the_directory,
    relative_destinations_follow_the_directory,
    an_ignore_file_leaves_out_and_brings_back,
    commands_see_the_supplementary_groups_of_their_user,
    a_directory_replaced_by_a_file_is_a_file,
    a_directory_replaced_by_a_link_is_a_link,
];

fn directories_for_the_kernel_that_a_base_ships_stay_as_they_are() {
    let tree = archive(&[
        (Entry::directory("proc", 0o555), ""),
        (Entry::directory("sys", 0o555), ""),
        (Entry::directory("dev", 0o755), ""),
        (Entry::directory("dev/pts", 0o755), ""),
        (Entry::file("etc/hosts", 0o640, 5), "image"),
    ]);
    dockerfile("FROM base\nADD tree.tar /\n").file("tree.tar", tree).keep("kernel-directories");
    dockerfile("FROM kernel-directories\nRUN test -d /proc/self && touch /x\n")
        .build()
        .top_layer(&["x"])
        .is("/proc", "dir 555 0:0")
        .is("/sys", "dir 555 0:0")
        .directory("/proc", &[])
        .directory("/dev", &["pts"])
        .holds("/etc/hosts", "image");
    // Without such directories in the base, none appear.
    dockerfile("FROM base\nRUN touch /x\n").build().top_layer(&["x"]).lacks("/proc").lacks("/sys");
}

fn a_program_with_two_names_can_become_a_link() {
    dockerfile("FROM base\nCOPY tree /opt/\n")
        .file_with("tree/perl", 0o755, "perl")
        .hardlink("tree/perl5", "tree/perl")
        .keep("two-names");
    dockerfile("FROM two-names\nRUN rm /opt/perl && ln -s perl5 /opt/perl\n")
        .build()
        .links("/opt/perl", "perl5")
        .holds("/opt/perl5", "perl")
        .is("/opt/perl5", "file 755 0:0");
}

fn triggers_of_a_base_run_and_set_the_directory() {
    dockerfile("FROM base\nONBUILD RUN echo triggered > /triggered\nONBUILD WORKDIR /on/build\n")
        .keep("onbuild");
    dockerfile("FROM onbuild\nRUN pwd > here\n")
        .build()
        .holds("/triggered", "triggered\n")
        .holds("/on/build/here", "/on/build\n");
}

fn relative_destinations_follow_the_directory() {
    dockerfile("FROM base\nCOPY a.txt first\nWORKDIR /one\nCOPY a.txt second\nWORKDIR two\nCOPY src .\nCOPY docs ../up/\nCOPY b.txt ./\n")
        .build()
        .holds("/first", "a")
        .holds("/one/second", "a")
        .holds("/one/two/main.c", "int x;")
        .holds("/one/up/readme.md", "r")
        .holds("/one/two/b.txt", "b");
}

fn an_ignore_file_leaves_out_and_brings_back() {
    dockerfile("FROM base\nCOPY . /all/\n")
        .file(
            ".dockerignore",
            "# comment\n**/*.tmp\nignore/*\n!ignore/kept\n/only-root\n.dockerignore\n",
        )
        .file("a.tmp", "")
        .file("deep/b.tmp", "")
        .file("deep/only-root", "")
        .file("only-root", "")
        .file("ignore/lost", "")
        .file("ignore/kept", "")
        .build()
        .directory("/all", &["deep", "ignore"])
        .directory("/all/deep", &["only-root"])
        .directory("/all/ignore", &["kept"]);
}

fn commands_see_the_supplementary_groups_of_their_user() {
    dockerfile(
        "FROM base\nRUN id -G\nUSER app\nRUN id -u; id -g; id -G\nUSER app:app\nRUN id -G\n",
    )
    .build()
    .prints("0\n1000\n1001\n1001 50\n1001\n");
}

fn a_directory_replaced_by_a_file_is_a_file() {
    let built = dockerfile("FROM base\nRUN rm -r /data && echo file > /data\n").build();
    built.holds("/data", "file\n").top_layer(&["data"]);
}

fn a_directory_replaced_by_a_link_is_a_link() {
    let built = dockerfile(
        "FROM base\nRUN mkdir /new && rm -r /data && ln -s new /data && touch /data/x\n",
    )
    .build();
    built.links("/data", "new").directory("/new", &["x"]);
    let layer = built.layer(0);
    assert!(layer.contains(&"data -> new".to_owned()), "{layer:?}");
    assert!(layer.iter().all(|entry| !entry.starts_with("data/")), "{layer:?}");
}
