//! Group "With own context": cases that come with files of their own.

use super::dockerfile;
use crate::tests;

tests![
    users_made_by_a_command_can_own_later_files,
    adding_into_directories_and_linked_directories_fills_them,
    copies_over_links_to_directories_fill_the_directories,
    a_package_managers_tree_of_links_is_kept,
    the_owner_of_a_copied_directory_follows_chown_and_the_stage,
    special_bits_survive_copy_and_command,
    ignored_files_are_hidden_from_bind_mounts,
    a_capital_stage_may_be_a_base,
];

fn users_made_by_a_command_can_own_later_files() {
    dockerfile(
        "FROM base
RUN echo 'web:x:2000:2001::/srv/web:/bin/sh' >> /etc/passwd && echo 'web:x:2001:' >> /etc/group
COPY --chown=web:web index.html /srv/web/
USER web
WORKDIR /srv/web/data
RUN touch x; id -u; id -g; echo $HOME
",
    )
    .file("index.html", "hello")
    .owned("index.html", 77, 78)
    .build()
    .prints("2000\n2001\n/srv/web\n")
    .is("/srv/web/index.html", "file 644 2000:2001")
    .is("/srv/web/data/x", "file 644 2000:2001");
}

fn adding_into_directories_and_linked_directories_fills_them() {
    dockerfile(
        "FROM base
RUN mkdir -p /real/sub && ln -s /real /link && ln -s sub /real/alias
ADD tree /link/
ADD tree/file /link/alias/
ADD tree /real/alias
",
    )
    .file("tree/file", "f")
    .file("tree/sub/inner", "i")
    .build()
    .links("/link", "/real")
    .links("/real/alias", "sub")
    .directory("/real", &["alias", "file", "sub"])
    .directory("/real/sub", &["file", "inner", "sub"]);
}

fn copies_over_links_to_directories_fill_the_directories() {
    // The context has a directory where the image has a link to one.
    dockerfile("FROM base\nCOPY usr /usr/\nCOPY root /\nRUN cat /lib/own /lib/of-root\n")
        .file("usr/lib/own", "1")
        .file("root/lib/of-root", "2")
        .build()
        .prints("12")
        .links("/lib", "usr/lib")
        .directory("/usr/lib", &["of-root", "own"]);
}

fn a_package_managers_tree_of_links_is_kept() {
    dockerfile(
        "FROM base AS build
WORKDIR /app
COPY package.json .
RUN mkdir -p node_modules/.bin node_modules/tool/bin && \
    echo '#!/bin/sh' > node_modules/tool/bin/tool.js && \
    chmod 755 node_modules/tool/bin/tool.js && \
    ln -s ../tool/bin/tool.js node_modules/.bin/tool && ln -s ../../app node_modules/self
FROM base
COPY --from=build /app /app
RUN /app/node_modules/.bin/tool && ls -A /app/node_modules
",
    )
    .file("package.json", "{}")
    .build()
    .prints(".bin\nself\ntool\n")
    .links("/app/node_modules/.bin/tool", "../tool/bin/tool.js")
    .is("/app/node_modules/tool/bin/tool.js", "file 755 0:0")
    .links("/app/node_modules/self", "../../app");
}

fn the_owner_of_a_copied_directory_follows_chown_and_the_stage() {
    dockerfile(
        "FROM base AS one
COPY tree /tree
RUN chown -R app:app /tree/a && chmod 700 /tree/a/b
FROM base
COPY --from=one /tree /kept/
COPY --from=one --chown=1:2 /tree /changed/
COPY --from=one --chown=1:2 /tree/a/b/file /changed/sub/one
",
    )
    .file("tree/a/b/file", "f")
    .build()
    .is("/kept", "dir 755 0:0")
    .is("/kept/a", "dir 755 1000:1001")
    .is("/kept/a/b", "dir 700 1000:1001")
    .is("/kept/a/b/file", "file 644 1000:1001")
    .is("/changed", "dir 755 1:2")
    .is("/changed/a/b", "dir 700 1:2")
    .is("/changed/sub", "dir 755 1:2")
    .is("/changed/sub/one", "file 644 1:2");
}

fn special_bits_survive_copy_and_command() {
    dockerfile(
        "FROM base AS one
COPY --chown=app bits /bits
ADD bits /added
RUN cp /bits/setuid /made && chmod 6711 /made && mkdir -m 3777 /shared && \
    chown app /etc/keep && chmod 4750 /etc/keep
FROM base
COPY --from=one /bits /bits
COPY --from=one /made /made
COPY --from=one / /all/
RUN test -u /bits/setuid && test -g /bits/setgid && test -k /bits/sticky
",
    )
    .file_with("bits/setuid", 0o4755, "")
    .file_with("bits/setgid", 0o2755, "")
    .file_with("bits/sticky/", 0o1777, "")
    .build()
    .is("/bits/setuid", "file 4755 1000:1001")
    .is("/bits/setgid", "file 2755 1000:1001")
    .is("/bits/sticky", "dir 1777 1000:1001")
    .is("/made", "file 6711 0:0")
    .is("/all/shared", "dir 3777 0:0")
    .is("/all/added/setuid", "file 4755 0:0")
    .is("/all/etc/keep", "file 4750 1000:0");
}

fn ignored_files_are_hidden_from_bind_mounts() {
    dockerfile(
        "FROM base
RUN --mount=type=bind,target=/m ls -A /m /m/sub
RUN --mount=source=sub,target=/m,rw ls /m
",
    )
    .file(".dockerignore", "secret\nsub/secret\n")
    .file("secret", "")
    .file("sub/secret", "")
    .file("sub/open", "")
    .build()
    .prints("/m:\n.dockerignore\nsub\n\n/m/sub:\nopen\nopen\n");
}

fn a_capital_stage_may_be_a_base() {
    dockerfile(
        "FROM base AS BASE_dev
RUN touch /dev-tool
FROM BASE_dev AS base_test
FROM base_TEST
RUN ls /dev-tool
",
    )
    .build()
    .prints("/dev-tool\n");
}
