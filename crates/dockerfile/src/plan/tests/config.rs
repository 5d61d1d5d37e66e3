//! How instructions change the image config.

use super::*;

fn strings(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|&word| word.to_owned()).collect())
}

/// BuildKit CmdShell: a shell-form ENTRYPOINT uses SHELL and drops the inherited CMD.
#[test]
fn entrypoint_clears_an_inherited_command_only() {
    let mut base = ImageConfig::default();
    base.config.cmd = strings(&["inherited"]);
    let stage = build("FROM base\nSHELL [\"ls\"]\nENTRYPOINT my entrypoint\n")
        .base("base", base.clone())
        .stage();
    assert_eq!(stage.config.entrypoint, strings(&["ls", "my entrypoint"]));
    assert_eq!(stage.config.cmd, None);
    let stage =
        build("FROM base\nCMD [\"own\"]\nENTRYPOINT [\"e\"]\n").base("base", base.clone()).stage();
    assert_eq!(stage.config.cmd, strings(&["own"]));
    let stage = build("FROM base AS a\nCMD [\"a\"]\nFROM a\nENTRYPOINT [\"e\"]\n")
        .base("base", base)
        .stage();
    assert_eq!(stage.config.cmd, None, "a parent stage's CMD is inherited");
}

/// BuildKit DefaultShellAndPath.
#[test]
fn scratch_gets_the_default_shell_path_and_directory() {
    let stage = build("FROM scratch\nENTRYPOINT foo bar\n").stage();
    assert_eq!(stage.config.entrypoint, strings(&["/bin/sh", "-c", "foo bar"]));
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(stage.config.env, [path]);
    assert_eq!(stage.config.working_dir, "/");
}

#[test]
fn a_path_of_the_base_is_kept() {
    let stage =
        build("FROM base\nENV PATH=/x:$PATH\n").base("base", with_env(&["PATH=/b"])).stage();
    assert_eq!(stage.config.env, ["PATH=/x:/b"]);
}

/// BuildKit InvalidJSONCommands.
#[test]
fn junk_after_an_array_makes_it_shell_text() {
    let stage = build("FROM scratch\nCMD [\"a\"] b\n").stage();
    assert_eq!(stage.config.cmd, strings(&["/bin/sh", "-c", "[\"a\"] b"]));
}

/// kaniko env.
#[test]
fn values_see_the_environment_before_their_instruction() {
    let build = build("FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\n");
    assert_eq!(build.image_env(), ["abc=bye", "def=hello", "ghi=bye"]);
}

/// kaniko env: the quoting matrix.
#[test]
fn env_values_lose_quotes_and_escapes() {
    let file = r#"FROM scratch
ENV A=a\ b B="c d" C='e $f' D="g \"h\"" E=\$x F='' G="x"y'z'
ENV legacy  a  "b" 'c'  d
ENV H=${A:+yes} I=${NONE:-no} J="${B} ${C}"
"#;
    assert_eq!(
        build(file).image_env(),
        [
            "A=a b",
            "B=c d",
            "C=e $f",
            "D=g \"h\"",
            "E=$x",
            "F=",
            "G=xyz",
            "legacy=a  b c  d",
            "H=yes",
            "I=no",
            "J=c d e $f",
        ]
    );
}

#[test]
fn backtick_files_keep_backslashes() {
    let build = build("# escape=`\nFROM scratch\nENV A=c:\\x B=a` b `\n  C=d\n");
    assert_eq!(build.image_env(), ["A=c:\\x", "B=a b", "C=d"]);
}

/// BuildKit Labels; kaniko label, metadata.
#[test]
fn labels_merge_with_the_base_and_the_caller_has_the_last_word() {
    let mut base = ImageConfig::default();
    base.config.labels.insert("base".to_owned(), "1".to_owned());
    base.config.labels.insert("both".to_owned(), "base".to_owned());
    let mut build =
        build("FROM base\nLABEL both=file \"a b\"='c d' cli=file x y\n").base("base", base.clone());
    assert!(build.error().contains("can't find = in \"x\""));
    build = super::build("FROM base\nLABEL both=file \"a b\"='c d' cli=file\n").base("base", base);
    build.options.labels.push(("cli".to_owned(), "caller".to_owned()));
    let labels = build.stage().config.labels;
    let labels: Vec<(&str, &str)> =
        labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("a b", "c d"), ("base", "1"), ("both", "file"), ("cli", "caller")]);
}

/// BuildKit ExposeExpansion, ParsePorts*; kaniko expose.
#[test]
fn ports_are_expanded_and_sorted() {
    let build = build("FROM scratch\nARG P=\"9000-9001 80/udp\"\nEXPOSE $P 3000 3000/tcp\n");
    let ports: Vec<String> = build.stage().config.exposed_ports.into_keys().collect();
    assert_eq!(ports, ["3000/tcp", "80/udp", "9000/tcp", "9001/tcp"]);
    assert_eq!(build.history()[1], "EXPOSE [9000/tcp 9001/tcp 80/udp 3000/tcp]");
    assert_eq!(
        super::build("FROM scratch\nEXPOSE 80/x\n").error(),
        "Dockerfile:2:1: invalid proto: x"
    );
}

/// kaniko user, stopsignal, maintainer, healthcheck.
#[test]
fn user_volume_signal_and_author_are_stored() {
    let stage = build(
        "FROM scratch\nARG U=bob\nUSER $U:staff\nVOLUME /a \"/b\"\nVOLUME [\"/c d\"]\n\
         STOPSIGNAL SIG${NO:-TERM}\nMAINTAINER Me <me@example.com>\nHEALTHCHECK --interval=5s \
         --retries=2 CMD curl -f x\n",
    )
    .stage();
    assert_eq!(stage.config.user, "bob:staff");
    let volumes: Vec<String> = stage.config.volumes.into_keys().collect();
    assert_eq!(volumes, ["/a", "/b", "/c d"]);
    assert_eq!(stage.config.stop_signal.as_deref(), Some("SIGTERM"));
    assert_eq!(stage.author.as_deref(), Some("Me <me@example.com>"));
    let check = stage.config.healthcheck.expect("a health check");
    assert_eq!(check.test, ["CMD-SHELL", "curl -f x"]);
    assert_eq!((check.interval, check.retries), (5_000_000_000, 2));
}

/// kaniko healthcheck.
#[test]
fn healthchecks_can_be_exec_or_none() {
    let test = |text: &str| {
        let stage = build(&format!("FROM scratch\nHEALTHCHECK {text}\n")).stage();
        stage.config.healthcheck.expect("a health check").test
    };
    assert_eq!(test("CMD [\"a\", \"b\"]"), ["CMD", "a", "b"]);
    assert_eq!(test("none"), ["NONE"]);
}

#[test]
fn bad_signals_are_refused() {
    assert_eq!(
        build("FROM scratch\nSTOPSIGNAL SIGX\n").error(),
        "Dockerfile:2:1: invalid signal: SIGX"
    );
}

/// kaniko onbuild.
#[test]
fn onbuild_is_stored_as_written() {
    let stage = build("FROM scratch\nonbuild   RUN  a   b\nONBUILD ADD . /x\n").stage();
    assert_eq!(stage.config.on_build, ["RUN  a   b", "ADD . /x"]);
}

/// kaniko workdir; BuildKit WorkdirCreatesDir, WorkdirUser.
#[test]
fn workdirs_build_on_each_other() {
    let stage = build(
        "FROM scratch\nARG d=sub\nWORKDIR /a\nUSER u\nWORKDIR $d/./x\nWORKDIR ..\nWORKDIR /\nWORKDIR b/\n",
    )
    .stage();
    let made: Vec<(String, String)> = stage
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Workdir(workdir) => Some((workdir.path.clone(), workdir.user.clone())),
            _ => None,
        })
        .collect();
    let expected = [("/a", ""), ("/a/sub/x", "u"), ("/a/sub", "u"), ("/b", "u")];
    assert_eq!(made, expected.map(|(path, user)| (path.to_owned(), user.to_owned())));
    assert_eq!(stage.config.working_dir, "/b");
}

#[test]
fn the_base_config_is_inherited() {
    let mut base = with_env(&["A=1", "B=two words"]);
    base.config.user = "app".to_owned();
    base.config.working_dir = "/srv".to_owned();
    base.config.shell = strings(&["/bin/bash", "-c"]);
    base.author = Some("someone".to_owned());
    let build = build("FROM base\nENV C=$B\nRUN x\nCOPY a b\n").base("base", base);
    let run = &build.runs()[0];
    assert_eq!(run.argv, ["/bin/bash", "-c", "x"]);
    assert_eq!((run.user.as_str(), run.directory.as_str()), ("app", "/srv"));
    assert_eq!(env_of(run, "C"), Some("two words"));
    assert_eq!(build.transfers()[0].destination, "/srv/b");
    assert_eq!(build.stage().author.as_deref(), Some("someone"));
}

/// BuildKit GetEnv, ToEnvList, AddEnv.
#[test]
fn the_last_of_several_values_in_the_base_counts() {
    let base = with_env(&["foo=bar", "car=hat", "car=bike", "bare"]);
    let build = build("FROM base\nENV R=$foo-$car-$bare-\nENV foo=new\n").base("base", base);
    assert_eq!(build.image_env(), ["foo=new", "car=bike", "bare=", "R=bar-bike--"]);
}

/// BuildKit CloneCopiesMutableImageConfig, CopyFromKeepsStageLabels.
#[test]
fn stages_of_one_parent_do_not_change_each_other() {
    let file = "FROM scratch AS parent\nLABEL of=parent\nENV A=1\nFROM parent AS one\nENV A=2 B=2\n\
                LABEL of=one one=yes\nEXPOSE 1\nVOLUME /one\nFROM parent AS two\nCOPY --from=one / /\nENV C=3\n";
    let two = build(file).stage().config;
    assert_eq!(
        two.labels.into_iter().collect::<Vec<_>>(),
        [("of".to_owned(), "parent".to_owned())]
    );
    assert!(two.exposed_ports.is_empty() && two.volumes.is_empty());
    let env: Vec<&str> =
        two.env.iter().map(String::as_str).filter(|e| !e.starts_with("PATH")).collect();
    assert_eq!(env, ["A=1", "C=3"]);
    let one = build(file).target("one").stage().config;
    assert_eq!(one.labels["of"], "one");
}

/// BuildKit ImplicitTargetPlatform, ResolveBuildPlatform, ResolveTargetPlatform.
#[test]
fn platforms_that_are_not_written_follow_from_the_caller() {
    let file = "FROM --platform=$BUILDPLATFORM busybox AS tools\nFROM tools AS below\nFROM busybox\nCOPY --from=below / /\n";
    let mut given = build(file);
    given.options.target_platform = "linux/arm64/v8".parse().expect("a platform");
    let plan = given.plan();
    let platforms: Vec<String> =
        plan.stages.iter().map(|stage| stage.platform.to_string()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/amd64", "linux/arm64"]);
    assert_eq!(plan.platform.to_string(), "linux/arm64");
}
