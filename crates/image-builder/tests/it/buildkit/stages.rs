//! [multistage], [args], [cmd]: stages, arguments and commands that really run.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    files_come_from_images_without_a_stage,
    stage_names_have_no_case,
    a_later_stage_cannot_be_used,
    stages_nobody_needs_are_not_built,
    junk_after_an_array_is_run_by_the_shell,
    the_shell_of_a_stage_runs_its_commands,
    arguments_reach_commands_where_they_are_declared,
    an_image_from_scratch_can_be_used_again,
    metadata_alone_makes_an_image,
];

/// BuildKit MultiStageImplicitFrom.
fn files_come_from_images_without_a_stage() {
    let text = "FROM scratch\nCOPY --from=base /etc/keep test\n";
    assert_eq!(case(text).in_mode(Mode::None).tree(), ["test 644 0:0 keep"]);
    // A stage of that name comes first, wherever the image is.
    let text = "FROM scratch AS base\nCOPY foo foo\nFROM scratch\nCOPY --from=base foo baz\n";
    assert_eq!(case(text).in_mode(Mode::None).files(&["foo"]).tree(), ["baz 644 0:0 foo"]);
}

/// BuildKit MultiStageCaseInsensitive.
fn stage_names_have_no_case() {
    let text = "FROM scratch AS STAge0\nCOPY foo bar\nFROM scratch AS staGE1\nCOPY --from=staGE0 bar baz\n\
                FROM scratch\nCOPY --from=stage1 baz bax\n";
    let built = case(text).in_mode(Mode::None).files(&["foo"]);
    assert_eq!(built.tree(), ["bax 644 0:0 foo"]);
    assert_eq!(built.target("Stage1").tree(), ["baz 644 0:0 foo"]);
}

/// BuildKit OutOfOrderStage.
fn a_later_stage_cannot_be_used() {
    for from in ["1", "later"] {
        let text = format!("FROM scratch\nCOPY --from={from} /foo /\nFROM base AS later\n");
        let error = case(&text).target("0").error();
        assert!(error.contains("stage"), "{error}");
    }
}

/// BuildKit StepNames: only what the target needs is shown, numbered as it runs.
fn stages_nobody_needs_are_not_built() {
    let text = "FROM base AS unused\nRUN exit 1\nFROM base AS used\nRUN echo used > /u\n\
                FROM base\nCOPY --from=used /u /u\nRUN cat /u\n";
    let built = case(text);
    // Stages run at the same time, so that only the order within each is certain.
    let mut titles = built.build(|machine, _| {
        let events = machine.events.lock().expect("events");
        let titles = events.iter().filter_map(|event| match event {
            image_builder::BuildEvent::StepStarted { title, .. } => Some(title.clone()),
            _ => None,
        });
        titles.collect::<Vec<_>>()
    });
    titles.sort();
    assert_eq!(
        titles,
        [
            "[stage-2 2/3] COPY --from=used /u /u",
            "[stage-2 3/3] RUN cat /u",
            "[used 2/2] RUN echo used > /u",
        ]
    );
}

/// BuildKit InvalidJSONCommands.
fn junk_after_an_array_is_run_by_the_shell() {
    let text = "FROM base\nRUN [\"echo\", \"hello\"]this is invalid\n";
    let error = case(text).error();
    assert!(error.contains("/bin/sh -c [\\\"echo\\\", \\\"hello\\\"]this is invalid"), "{error}");
    assert!(error.contains("exit code: 127"), "{error}");
}

/// BuildKit CmdShell, DefaultShellAndPath: the shell of a stage.
fn the_shell_of_a_stage_runs_its_commands() {
    let text = "FROM base\nSHELL [\"/bin/echo\", \"by echo\"]\nRUN a b\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false; echo no\n";
    let built = case(text);
    let error = built.error();
    assert!(error.contains("/bin/sh -ec false; echo no"), "{error}");
    let text = "FROM base\nSHELL [\"/bin/echo\", \"by echo\"]\nRUN a b\nENTRYPOINT foo bar\n";
    assert_eq!(case(text).printed(), "by echo a b\n");
    let config = case(text).config();
    assert_eq!(
        config.entrypoint.as_deref().unwrap_or_default(),
        ["/bin/echo", "by echo", "foo bar"]
    );
    assert_eq!(config.cmd, None, "the command of the base is dropped");
}

/// BuildKit GlobalArg, BuiltinArgs, EmptyStringArgInEnv, EnvEmptyFormatting, TargetStageNameArg.
fn arguments_reach_commands_where_they_are_declared() {
    let text = "ARG tag=nosuch\nFROM ${tag} AS own\nARG tag\nARG EMPTY=\nARG UNSET\nENV F=%s P=${tag:+set}\n\
                ARG TARGETSTAGE\nRUN echo $tag $F $P $TARGETSTAGE $HTTP_PROXY $http_proxy; \
                env | grep -E '^(EMPTY|UNSET)='\n";
    let built = case(text).arg("tag", "base").arg("HTTP_PROXY", "http://proxy:1").target("own");
    assert_eq!(built.printed(), "base %s set own http://proxy:1 http://proxy:1\nEMPTY=\n");
    let config = built.build(|_, outcome| serde_json::to_string(&outcome.image).expect("JSON"));
    assert!(!config.contains("//proxy"), "{config}");
}

/// BuildKit PullScratch, DockerfileScratchConfig.
fn an_image_from_scratch_can_be_used_again() {
    let built =
        case("FROM scratch\nLABEL foo=bar\nCOPY foo .\n").in_mode(Mode::None).files(&["foo"]);
    let config = built.config();
    assert_eq!(config.working_dir, "/");
    assert_eq!(
        config.env,
        [format!("PATH={}", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]
    );
    built.keep("from-scratch");
    let child = case("FROM from-scratch\nCOPY --from=from-scratch foo bar\n").in_mode(Mode::None);
    assert_eq!(child.tree(), ["bar 644 0:0 foo", "foo 644 0:0 foo"]);
    assert_eq!(child.config().labels["foo"], "bar");
}

fn metadata_alone_makes_an_image() {
    let built = case("FROM scratch\nENV a=b\nEXPOSE 80 ${P:-81-82}/udp\nCMD [\"/x\"]\n");
    let (layers, ports) = built.in_mode(Mode::None).build(|_, outcome| {
        let ports: Vec<String> = outcome.image.config.exposed_ports.keys().cloned().collect();
        (outcome.layer_count(), ports)
    });
    assert_eq!((layers, ports), (0, vec!["80/tcp".into(), "81/udp".into(), "82/udp".into()]));
}
