//! Group RUN.

use super::dockerfile;
use crate::tests;

tests![
    commands_have_a_shell_form_and_an_exec_form,
    a_command_that_changes_nothing_makes_no_layer,
    edits_that_keep_size_and_time_are_found,
    changes_of_mode_owner_and_time_alone_are_found,
    nothing_of_a_command_lives_on_after_its_step,
    home_is_that_of_the_user_unless_the_image_says_otherwise,
    a_user_without_account_runs_by_number_and_not_by_name,
    commands_run_as_the_user,
    an_explicit_group_is_the_only_one,
    commands_run_in_an_image_from_scratch,
    heredocs_are_scripts_and_files,
    heredocs_are_expanded_by_the_shell_and_not_by_us,
    cache_mounts_have_ids_owners_and_modes_and_keep_their_files,
    caches_can_be_seeded_and_shared_between_stages,
    bind_mounts_show_context_stages_and_images,
    secrets_are_files_or_variables_and_leave_nothing,
    secrets_differ_from_stage_to_stage,
    a_secret_survives_a_move_of_its_directory,
    a_missing_secret_fails_only_if_it_is_required,
];

fn commands_have_a_shell_form_and_an_exec_form() {
    dockerfile(
        "FROM base
ENV V=v
RUN echo $V > /shell && \\
    # in between
    echo two >> /shell
RUN [\"echo\", \"$V  x\"]
RUN [\"/bin/sh\", \"-c\", \"echo \\\"$V\\\" > /exec\"]
",
    )
    .build()
    .prints("$V  x\n")
    .holds("/shell", "v\ntwo\n")
    .holds("/exec", "v\n")
    .top_layer(&["exec"]);
}

fn a_command_that_changes_nothing_makes_no_layer() {
    let built =
        dockerfile("FROM base\nRUN cat /etc/keep\nRUN touch /x\nRUN ls > /dev/null\n").build();
    built.own_layers(1).top_layer(&["x"]);
    let history = &built.outcome.image.history;
    let empty: Vec<bool> = history.iter().rev().take(3).map(|entry| entry.empty_layer).collect();
    assert_eq!(empty, [true, false, true]);
}

fn edits_that_keep_size_and_time_are_found() {
    dockerfile(
        "FROM base
RUN echo aaaa > /f && touch -d @1000000000 /f
RUN echo bbbb > /f && touch -d @1000000000 /f
RUN echo cccc > /etc/keep && touch -d @1000000000 /etc/keep
RUN cat /f
",
    )
    .build()
    .prints("bbbb\n")
    .holds("/f", "bbbb\n")
    .holds("/etc/keep", "cccc\n")
    .modified("/f", 1_000_000_000)
    .own_layers(3);
}

fn changes_of_mode_owner_and_time_alone_are_found() {
    dockerfile(
        "FROM base
RUN chmod 600 /etc/keep
RUN chown app:extra /etc/gone
RUN touch -d @1234567890 /etc/passwd
RUN chmod 1777 /tmp
",
    )
    .build()
    .own_layers(4)
    .is("/etc/keep", "file 600 0:0")
    .is("/etc/gone", "file 644 1000:50")
    .modified("/etc/passwd", 1_234_567_890)
    .is("/tmp", "dir 1777 0:0")
    .top_layer(&["tmp/"]);
}

fn nothing_of_a_command_lives_on_after_its_step() {
    dockerfile(
        "FROM base
RUN setsid sh -c 'sleep 9876; touch /late' > /dev/null 2>&1 & true
RUN for i in 1 2 3 4 5; do (sleep 0.01 &); done; (setsid sleep 9877 &); echo ran > /ran
RUN test -e /ran && ! test -e /late
",
    )
    .build()
    .lacks("/late");
    let me = std::process::id().to_string();
    for item in std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok) {
        let Ok(stat) = std::fs::read_to_string(item.path().join("stat")) else { continue };
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, parent) = (fields.next(), fields.next());
        assert!(!(parent == Some(&me) && state == Some("Z")), "a zombie: {stat}");
        let line = std::fs::read(item.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains("sleep\u{0}987"), "it lives on: {line:?}");
    }
}

fn home_is_that_of_the_user_unless_the_image_says_otherwise() {
    dockerfile(
        "FROM base
RUN echo $HOME
USER app
RUN echo $HOME
USER 1000
RUN echo $HOME
USER 4321
RUN echo $HOME
ENV HOME=/own
RUN echo $HOME
USER root
RUN echo $HOME
",
    )
    .build()
    .prints("/root\n/home/app\n/home/app\n/\n/own\n/own\n");
}

fn a_user_without_account_runs_by_number_and_not_by_name() {
    dockerfile("FROM base\nUSER 4321:77\nRUN id -u; id -g; id -G\nUSER 4321\nRUN id -u; id -g\n")
        .build()
        .prints("4321\n77\n77\n4321\n0\n");
    let error = dockerfile("FROM base\nUSER ghost\nRUN id\n").fails();
    assert!(error.contains("unable to find user ghost"), "{error}");
    // Who never runs a command may be unknown.
    dockerfile("FROM base\nUSER ghost\nLABEL a=b\n").build();
}

fn commands_run_as_the_user() {
    dockerfile(
        "FROM base
RUN mkdir -m 777 /open
USER app
RUN touch /open/mine; touch /etc/not 2>/dev/null || echo refused
USER 0
RUN touch /open/roots
",
    )
    .build()
    .prints("refused\n")
    .is("/open/mine", "file 644 1000:1001")
    .is("/open/roots", "file 644 0:0")
    .lacks("/etc/not");
}

fn an_explicit_group_is_the_only_one() {
    dockerfile(
        "FROM base
RUN mkdir -m 777 /o
USER app:extra
RUN id -g; id -G; touch /o/a
USER 1000:0
RUN id -G; touch /o/b
",
    )
    .build()
    .prints("50\n50\n0\n")
    .is("/o/a", "file 644 1000:50")
    .is("/o/b", "file 644 1000:0");
}

fn commands_run_in_an_image_from_scratch() {
    dockerfile(
        "FROM scratch
COPY --from=base /bin/busybox /busybox
RUN [\"/busybox\", \"touch\", \"/x\"]
",
    )
    .build()
    .top_layer(&["x"])
    .directory("/", &["busybox", "x"]);
}

fn heredocs_are_scripts_and_files() {
    dockerfile(
        "FROM base
COPY <<one <<-\"two\" /files/
first $PATH
one
\tsecond $PATH
\ttwo
RUN <<END
set -e
x=1
echo \"x is $x\" > /script
END
RUN cat <<a <<b > /both && cat /files/two >> /both
in a
a
in b
b
RUN <<END cat > /piped
piped
END
RUN <<-END
\t#!/bin/busybox cat
\tshown by cat
END
",
    )
    .build()
    .prints("#!/bin/busybox cat\nshown by cat\n")
    .holds("/files/one", "first /bin:/usr/bin\n")
    .holds("/files/two", "second $PATH\n")
    .holds("/script", "x is 1\n")
    .holds("/both", "in b\nsecond $PATH\n")
    .holds("/piped", "piped\n")
    .is("/files/one", "file 644 0:0")
    .lacks("/dev/pipes");
}

fn heredocs_are_expanded_by_the_shell_and_not_by_us() {
    dockerfile(
        "FROM base
ARG A=arg
RUN <<END
A=own
echo $A \\$A '$A'
END
RUN cat <<'RAW' && cat <<END
$A `x`
RAW
$A \\$A
END
",
    )
    .build()
    .prints("own $A $A\n$A `x`\narg $A\n");
}

fn cache_mounts_have_ids_owners_and_modes_and_keep_their_files() {
    let text = "FROM base
RUN --mount=type=cache,target=/c,id=kaniko-969,uid=1000,gid=1001,mode=0750 \
    stat -c '%u:%g %a' /c && echo n >> /c/n && wc -l < /c/n
RUN --mount=type=cache,target=/other/place,id=kaniko-969 wc -l < /other/place/n
RUN --mount=type=cache,target=/c ls /c
";
    let built = dockerfile(text).cached().build();
    built.prints("1000:1001 750\n1\n1\n").lacks("/c").lacks("/other").own_layers(0);
    // What a cache holds is no part of any key.
    dockerfile(text).cached().build().prints("");
    let changed = text.replace("FROM base", "FROM base\nENV changed=1");
    dockerfile(&changed).cached().build().prints("1000:1001 750\n2\n2\n");
}

fn caches_can_be_seeded_and_shared_between_stages() {
    dockerfile(
        "FROM base AS seed
RUN mkdir /seed && echo seeded > /seed/file
FROM base AS one
RUN --mount=type=cache,id=kaniko-seeded,target=/c,from=seed,source=/seed \
    cat /c/file && echo one > /c/one
RUN mkdir /done
FROM base
COPY --from=one /done /done
RUN --mount=type=cache,id=kaniko-seeded,target=/other,from=seed,source=/seed \
    cat /other/file /other/one
",
    )
    .cached()
    .build()
    .prints("seeded\nseeded\none\n")
    .lacks("/c");
}

fn bind_mounts_show_context_stages_and_images() {
    dockerfile(
        "FROM base AS one
RUN mkdir /out && echo stage > /out/file
FROM base
WORKDIR /w
RUN --mount=target=/ctx cat /ctx/a.txt
RUN --mount=type=bind,source=src/main.c,target=one.c cat one.c
RUN --mount=from=one,source=/out,target=/mnt,rw cat /mnt/file && echo changed > /mnt/file
RUN --mount=from=one,source=/out,target=/mnt cat /mnt/file
RUN --mount=from=base,source=/etc,target=/of-base cat /of-base/keep
",
    )
    .build()
    .prints("aint x;stage\nstage\nkeep\n")
    .lacks("/ctx")
    .lacks("/mnt")
    .lacks("/of-base")
    .directory("/w", &[])
    .own_layers(1);
}

fn secrets_are_files_or_variables_and_leave_nothing() {
    let built = dockerfile(
        "FROM base
RUN --mount=type=secret,id=token cat /run/secrets/token && stat -c '%u:%g %a' /run/secrets/token
RUN --mount=type=secret,id=token,target=/etc/token,mode=0440,uid=1000,gid=50 \
    cat /etc/token && stat -c '%u:%g %a' /etc/token
RUN --mount=type=secret,id=token,env=TOKEN echo $TOKEN; ls -A /run
USER app
RUN --mount=type=secret,id=token,uid=1000 cat /run/secrets/token
RUN env | grep -c hush || ls -A /run
",
    )
    .secret("token", "hush\n")
    .build();
    built
        .prints("hush\n0:0 400\nhush\n1000:50 440\nhush\nhush\n0\n")
        .lacks("/run/secrets")
        .lacks("/etc/token")
        .own_layers(0);
    let manifest = String::from_utf8_lossy(built.outcome.manifest.bytes()).into_owned();
    let config = serde_json::to_string(&built.outcome.image).expect("json");
    assert!(!manifest.contains("hush\\n") && !config.contains("hush\\n"));
}

fn secrets_differ_from_stage_to_stage() {
    dockerfile(
        "FROM base AS one
RUN --mount=type=secret,id=first cat /run/secrets/first > /first
RUN ! test -e /run/secrets/first
FROM base
COPY --from=one /first /first
RUN --mount=type=secret,id=second,target=/run/secrets/first cat /run/secrets/first
RUN --mount=type=secret,id=first --mount=type=secret,id=second \
    cat /run/secrets/second /run/secrets/first
",
    )
    .secret("first", "1")
    .secret("second", "2")
    .build()
    .prints("221")
    .holds("/first", "1")
    .lacks("/run/secrets");
}

fn a_secret_survives_a_move_of_its_directory() {
    dockerfile(
        "FROM base
RUN mkdir -p /app/config && echo own > /app/config/own
RUN --mount=type=secret,id=s,target=/app/config/secret \
    cat /app/config/secret && cp -r /app/config /copied && rm /copied/secret
RUN mv /app/config /app/moved && ls /app/moved
",
    )
    .secret("s", "hush")
    .build()
    .prints("hushown\n")
    .directory("/app/moved", &["own"])
    .directory("/copied", &["own"]);
}

fn a_missing_secret_fails_only_if_it_is_required() {
    dockerfile("FROM base\nRUN --mount=type=secret,id=none ! test -e /run/secrets/none\n").build();
    let error = dockerfile("FROM base\nRUN --mount=type=secret,id=none,required true\n").fails();
    assert!(error.contains("none") && error.contains("not found"), "{error}");
}
