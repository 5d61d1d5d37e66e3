//! Group ADD.

use layers::Entry;

use super::dockerfile;
use super::spec::{archive, serve};
use crate::tests;

tests![
    added_paths_hold_patterns_json_variables_and_urls,
    an_archive_with_paths_of_the_kernel_is_unpacked_into_the_layer,
    a_missing_url_fails_the_build_with_its_status,
    directories_made_by_add_get_the_owner_of_chown,
    adding_through_a_linked_directory_fills_what_it_points_to,
    urls_are_made_of_arguments,
    an_added_layer_comes_from_the_cache_the_second_time,
    what_was_added_can_be_moved_by_a_command,
];

fn added_paths_hold_patterns_json_variables_and_urls() {
    let url = serve(1, &[("/remote", "from afar")]);
    let text = format!(
        "FROM base
ARG file=b.txt
ENV dir=/in/env
ADD a.txt /plain/renamed
ADD *.txt docs/readme.md /globbed/
ADD [\"c.md\", \"/json dir/\"]
ADD $file ${{dir}}/
ADD src/deep/?.h /one
ADD {url}/remote src/main.c /mixed/
ADD plain.tar packed.tgz /archives/
"
    );
    dockerfile(&text)
        .build()
        .holds("/plain/renamed", "a")
        .directory("/globbed", &["a.txt", "b.txt", "readme.md"])
        .holds("/json dir/c.md", "c")
        .holds("/in/env/b.txt", "b")
        .holds("/one", "x")
        .holds("/mixed/remote", "from afar")
        .is("/mixed/remote", "file 600 0:0")
        .modified("/mixed/remote", 1_420_070_400)
        .holds("/mixed/main.c", "int x;")
        .directory("/archives", &["in"])
        .holds("/archives/in/file", "packed")
        .is("/archives/in/file", "file 644 7:8");
}

fn an_archive_with_paths_of_the_kernel_is_unpacked_into_the_layer() {
    let bytes = archive(&[
        (Entry::directory("sys", 0o555), ""),
        (Entry::file("sys/inside", 0o644, 3), "sys"),
        (Entry::directory("etc", 0o700), ""),
        (Entry::file("etc/inside", 0o600, 3), "etc"),
    ]);
    dockerfile("FROM base\nADD kernel.tar /\nRUN cat /etc/inside > /seen\n")
        .file("kernel.tar", bytes)
        .build()
        .holds("/sys/inside", "sys")
        .holds("/etc/inside", "etc")
        .holds("/seen", "etc")
        .top_layer(&["seen"]);
}

fn a_missing_url_fails_the_build_with_its_status() {
    let url = serve(8, &[]);
    let error = dockerfile(&format!("FROM base\nADD {url}/absent /x\n")).fails();
    assert!(error.contains("/absent") && error.contains("404"), "{error}");
}

fn directories_made_by_add_get_the_owner_of_chown() {
    dockerfile(
        "FROM base\nADD --chown=1000:1001 a.txt /made/on/way/\nADD --chown=app src /etc/s/\n",
    )
    .build()
    .is("/made", "dir 755 1000:1001")
    .is("/made/on/way", "dir 755 1000:1001")
    .is("/made/on/way/a.txt", "file 640 1000:1001")
    .is("/etc", "dir 755 0:0")
    .is("/etc/s", "dir 755 1000:1001")
    .is("/etc/s/deep/x.h", "file 644 1000:1001");
}

fn adding_through_a_linked_directory_fills_what_it_points_to() {
    dockerfile("FROM base\nRUN mkdir /real && ln -s real /alias\nADD a.txt plain.tar /alias/sub/\nADD b.txt /alias\n")
        .build()
        .links("/alias", "real")
        .holds("/real/sub/a.txt", "a")
        .holds("/real/sub/in/file", "packed")
        .holds("/real/b.txt", "b");
}

fn urls_are_made_of_arguments() {
    let url = serve(2, &[("/v1.2/tool-v1.2", "tool")]);
    let text = format!(
        "FROM base\nARG VERSION=v1.2\nARG URL={url}/${{VERSION}}/tool-${{VERSION}}\n\
         ADD ${{URL}} /usr/bin/tool\nADD {url}/$VERSION/tool-$VERSION /opt/\n"
    );
    dockerfile(&text).build().holds("/usr/bin/tool", "tool").holds("/opt/tool-v1.2", "tool");
}

fn an_added_layer_comes_from_the_cache_the_second_time() {
    let spec = dockerfile("FROM base\nADD packed.tgz /cached-add/\nADD src /cached-add/src/\n");
    let spec = spec.cached();
    assert_eq!(spec.build().outcome.steps_executed, 2);
    let second = spec.build();
    assert_eq!(second.outcome.steps_executed, 0);
    second.holds("/cached-add/in/file", "packed").holds("/cached-add/src/main.c", "int x;");
}

fn what_was_added_can_be_moved_by_a_command() {
    let built = dockerfile("FROM base\nADD src /added\nRUN mv /added /moved\n").build();
    built.lacks("/added").holds("/moved/main.c", "int x;").holds("/moved/deep/x.h", "x");
    let layer = built.layer(0);
    assert!(layer.contains(&".wh.added".to_owned()), "{layer:?}");
    assert!(layer.iter().all(|entry| !entry.starts_with("added")), "{layer:?}");
}
