//! Group "Config": instructions that touch no files.

use serde_json::{Value, json};

use super::dockerfile;
use crate::tests;

tests![
    an_entrypoint_clears_the_command_of_the_base,
    labels_merge_and_the_callers_come_last,
    variables_are_quoted_and_expanded_as_docker_does,
    ports_are_expanded_sorted_and_have_protocols,
    the_maintainer_is_the_author,
    the_shell_of_the_image_runs_commands_and_is_stored,
    signals_are_expanded_and_stored,
    health_checks_are_stored_with_their_times,
    triggers_are_stored_as_written,
    users_are_stored_and_expanded,
    only_the_target_is_built,
    instructions_without_files_make_no_layers,
];

fn an_entrypoint_clears_the_command_of_the_base() {
    dockerfile("FROM base\nENTRYPOINT [\"/bin/true\"]\n")
        .build()
        .config("/config/Entrypoint", &json!(["/bin/true"]))
        .config("/config/Cmd", &Value::Null);
    dockerfile("FROM base\nCMD echo own\nENTRYPOINT sleep 1\n")
        .build()
        .config("/config/Cmd", &json!(["/bin/sh", "-c", "echo own"]))
        .config("/config/Entrypoint", &json!(["/bin/sh", "-c", "sleep 1"]));
    dockerfile("FROM base\nLABEL a=b\n").build().config("/config/Cmd", &json!(["/bin/sh"]));
}

fn labels_merge_and_the_callers_come_last() {
    dockerfile("FROM base\nLABEL a=1 b=base\nLABEL c\\ d=\"two words\"\n").keep("labelled");
    dockerfile("FROM labelled\nARG V=v\nLABEL b=own e=$V-$V f='single $V'\n")
        .with(|options, _| options.labels.push(("a".into(), "given".into())))
        .build()
        .config(
            "/config/Labels",
            &json!({"a": "given", "b": "own", "c d": "two words", "e": "v-v", "f": "single $V"}),
        );
}

fn variables_are_quoted_and_expanded_as_docker_does() {
    dockerfile(
        "FROM base
ENV A=\"b c\" D='e f' G=h\\ i J=\\$A K='$A' L=\"$A x\"
ENV M the rest of $A the line
ENV a=1
ENV a=2 b=$a
ENV empty= p=/x:$PATH
RUN echo \"$A|$D|$G|$J|$K|$L|$M|$a|$b|$empty|\"
",
    )
    .build()
    .prints("b c|e f|h i|$A|$A| x|the rest of b c the line|2|1||\n")
    .config(
        "/config/Env",
        &json!([
            "PATH=/bin:/usr/bin",
            "BASE=1",
            "A=b c",
            "D=e f",
            "G=h i",
            "J=$A",
            "K=$A",
            "L= x",
            "M=the rest of b c the line",
            "a=2",
            "b=1",
            "empty=",
            "p=/x:/bin:/usr/bin"
        ]),
    );
}

fn ports_are_expanded_sorted_and_have_protocols() {
    dockerfile("FROM base\nENV P=80\nEXPOSE $P 53/udp\nEXPOSE 9000-9002/tcp ${P}\n")
        .build()
        .config(
            "/config/ExposedPorts",
            &json!({"53/udp": {}, "80/tcp": {}, "9000/tcp": {}, "9001/tcp": {}, "9002/tcp": {}}),
        );
}

fn the_maintainer_is_the_author() {
    dockerfile("FROM base\nMAINTAINER Ada <ada@example.org>\n")
        .build()
        .config("/author", &json!("Ada <ada@example.org>"));
}

fn the_shell_of_the_image_runs_commands_and_is_stored() {
    dockerfile("FROM base\nSHELL [\"/bin/sh\", \"-exc\"]\nRUN echo $-\nCMD run\n")
        .build()
        .config("/config/Shell", &json!(["/bin/sh", "-exc"]))
        .config("/config/Cmd", &json!(["/bin/sh", "-exc", "run"]));
    dockerfile("FROM base\nSHELL [\"/bin/echo\", \"with\"]\nRUN these words\n")
        .build()
        .prints("with these words\n");
}

fn signals_are_expanded_and_stored() {
    dockerfile("FROM base\nARG S=INT\nSTOPSIGNAL SIG$S\n")
        .build()
        .config("/config/StopSignal", &json!("SIGINT"));
}

fn health_checks_are_stored_with_their_times() {
    let built = dockerfile("FROM base\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1s --start-interval=2s --retries=2 CMD echo ok\n").build();
    built.config(
        "/config/Healthcheck",
        &json!({
            "Test": ["CMD-SHELL", "echo ok"],
            "Interval": 300_000_000_000_u64,
            "Timeout": 3_000_000_000_u64,
            "StartPeriod": 1_000_000_000_u64,
            "StartInterval": 2_000_000_000_u64,
            "Retries": 2
        }),
    );
    built.keep("healthy");
    dockerfile("FROM healthy\nHEALTHCHECK NONE\n")
        .build()
        .config("/config/Healthcheck/Test", &json!(["NONE"]));
}

fn triggers_are_stored_as_written() {
    dockerfile("FROM base\nONBUILD RUN echo \"a b\"  $X\nONBUILD COPY . /src\n")
        .build()
        .config("/config/OnBuild", &json!(["RUN echo \"a b\"  $X", "COPY . /src"]));
}

fn users_are_stored_and_expanded() {
    dockerfile("FROM base\nARG U=app\nUSER ${U}:extra\nRUN id -u; id -g\n")
        .build()
        .prints("1000\n50\n")
        .config("/config/User", &json!("app:extra"));
}

fn only_the_target_is_built() {
    let built = dockerfile("FROM base AS first\nRUN exit 1\nFROM base AS Second\nRUN touch /second\nFROM Second\nRUN exit 2\n")
        .target("second")
        .build();
    built.top_layer(&["second"]);
    assert_eq!(built.outcome.steps_executed, 1);
}

fn instructions_without_files_make_no_layers() {
    dockerfile("FROM base\nENV a=b\nUSER app\nLABEL c=d\nVOLUME /v\nEXPOSE 1\nCMD x\nWORKDIR /\nSTOPSIGNAL 9\n")
        .build()
        .own_layers(0)
        .lacks("/v")
        .config("/config/Volumes", &json!({"/v": {}}));
}
