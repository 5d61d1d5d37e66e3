//! RUN, COPY and ADD as actions.

use super::*;
use crate::instruction::*;
use crate::mode::ModeChange;
use crate::mount::*;

fn copies(instructions: &str) -> Vec<TransferAction> {
    build(&format!("FROM scratch\nWORKDIR /w\n{instructions}\n")).transfers()
}

fn copy(instruction: &str) -> TransferAction {
    copies(instruction).remove(0)
}

fn copy_error(instruction: &str) -> String {
    build(&format!("FROM scratch\n{instruction}\n")).error()
}

fn run(instructions: &str) -> RunAction {
    build(&format!("FROM scratch\nWORKDIR /w\n{instructions}\n")).runs().remove(0)
}

fn path(text: &str) -> FileSource {
    FileSource::Path(text.to_owned())
}

/// BuildKit RunBasicHeredoc, RunFakeHeredoc.
#[test]
fn a_lone_heredoc_is_the_script_of_the_shell() {
    assert_eq!(run("RUN <<EOF\na\nb\nEOF").argv, ["/bin/sh", "-c", "a\nb\n"]);
    let run = run("SHELL [\"/bin/awk\"]\nRUN <<EOF\nBEGIN {}\nEOF");
    assert_eq!(run.argv, ["/bin/awk", "BEGIN {}\n"]);
}

/// BuildKit RunShebangHeredoc.
#[test]
fn a_heredoc_with_shebang_becomes_an_executable() {
    let run = run("RUN <<EOF\n#!/bin/awk -f\nBEGIN {}\nEOF");
    assert_eq!(run.argv, ["/dev/pipes/EOF"]);
    let script = run.script.expect("a script");
    assert_eq!(
        (script.path.as_str(), script.content.as_str()),
        ("/dev/pipes/EOF", "#!/bin/awk -f\nBEGIN {}\n")
    );
    let history = build("FROM scratch\nRUN <<EOF\n#!/bin/sh\nEOF\n").history();
    assert_eq!(history, ["RUN /bin/sh -c /dev/pipes/EOF # buildkit"]);
}

/// BuildKit RunComplexHeredoc.
#[test]
fn other_heredocs_are_left_to_the_shell() {
    let complex = "RUN <<EOF 3<<IN1 4<<-IN2 awk -f -\nBEGIN {}\nEOF\nhello\nIN1\n\tx\n\tIN2";
    assert_eq!(
        run(complex).argv[2],
        "<<EOF 3<<IN1 4<<-IN2 awk -f -\nBEGIN {}\nEOF\nhello\nIN1\n\tx\nIN2"
    );
    let piped =
        "RUN cat <<EOF1 | tr a b > ./out1; \\\n\tcat <<EOF2 > ./out2\nhello\nEOF1\nHELLO\nEOF2";
    assert_eq!(
        run(piped).argv[2],
        "cat <<EOF1 | tr a b > ./out1; \tcat <<EOF2 > ./out2\nhello\nEOF1\nHELLO\nEOF2"
    );
}

/// BuildKit HeredocIndent.
#[test]
fn dashes_strip_tabs() {
    assert_eq!(run("RUN <<-EOF\n\t\ta\n\t b\nEOF").argv[2], "a\n b\n");
    assert_eq!(run("RUN <<EOF\n\ta\nEOF").argv[2], "\ta\n");
    let inline = |text: &str| match copy(text).files.remove(0) {
        FileSource::Inline { content, .. } => content,
        other => panic!("{other:?}"),
    };
    assert_eq!(inline("COPY <<-EOF /x\n\tbar\nEOF"), "bar\n");
    assert_eq!(inline("COPY <<EOF /x\n\tfoo\nEOF"), "\tfoo\n");
}

/// BuildKit CopyHeredoc.
#[test]
fn inline_files_are_named_by_their_delimiter() {
    let action = copy("COPY a <<EOF <<EOF2 double/\nfirst\nEOF\nsecond\nEOF2");
    let inline = |name: &str, content: &str| FileSource::Inline {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    assert_eq!(action.files, [path("a"), inline("EOF", "first\n"), inline("EOF2", "second\n")]);
    assert_eq!(action.destination, "/w/double/");
    assert_eq!(copy("COPY <<EOF single\nx\nEOF").destination, "/w/single");
}

/// BuildKit CopyHeredocSpecialSymbols, HeredocVarSubstitution; kaniko issue_mz817.
#[test]
fn bodies_are_expanded_unless_the_delimiter_is_quoted() {
    let body = |delimiter: &str, text: &str| {
        let file = format!("ARG name=world\nCOPY <<{delimiter} /x\n{text}\nEOF");
        match copy(&file).files.remove(0) {
            FileSource::Inline { content, .. } => content,
            other => panic!("{other:?}"),
        }
    };
    for (text, expanded) in [
        ("\"quotes in file\"", "\"quotes in file\"\n"),
        ("\\", "\n"),
        ("\\\\", "\\\n"),
        ("\\$", "$\n"),
        ("Hello ${name}!", "Hello world!\n"),
        ("Hello '${name}' \"$name\"!", "Hello 'world' \"world\"!\n"),
    ] {
        assert_eq!(body("EOF", text), expanded, "{text}");
        assert_eq!(body("\"EOF\"", text), format!("{text}\n"), "{text}");
        assert_eq!(body("'EOF'", text), format!("{text}\n"), "{text}");
    }
    let run = run("ARG name=world\nRUN <<EOF\necho ${name}\nEOF");
    assert_eq!(run.argv[2], "echo ${name}\n", "the shell expands bodies of RUN");
}

/// BuildKit CopyVarSubstitution, CopyRelative, EmptyDestDir, PreserveDestDirSlash; kaniko copy.
#[test]
fn paths_are_expanded_cleaned_and_rooted() {
    let action = copy("ENV d=dir e=\nCOPY $d/./a ../../b / \\$c [\"d\" \"$d\" ${e}");
    assert_eq!(
        action.files,
        [path("dir/a"), path("b"), path("."), path("$c"), path("[d"), path("dir")]
    );
    assert_eq!(action.destination, "/w/");
    assert_eq!(copy("COPY [\"a b\", \"c d/\"]").files, [path("a b")]);
    assert_eq!(copy("COPY [\"a b\", \"c d/\"]").destination, "/w/c d/");
    assert_eq!(copy("COPY ünï/cödé /x").files, [path("ünï/cödé")]);
}

#[test]
fn several_sources_need_a_directory() {
    assert_eq!(
        copy_error("COPY a b c"),
        "Dockerfile:2:1: when specifying multiple sources in a COPY command, destination must be a \
         directory and end in '/'"
    );
    assert_eq!(copy("COPY a b .").destination, "/w/");
}

/// BuildKit CopyChown, CopyChmod, ChmodNonOctal, AddInvalidChmod, DockerfileAddChownExpand.
#[test]
fn owners_and_modes_are_expanded_and_checked() {
    let action = copy("ARG g=2 m=0755\nCOPY --chown=user:$g --chmod=${m} a b");
    let owner = action.owner.expect("an owner");
    assert_eq!(owner.user, Principal::Name("user".to_owned()));
    assert_eq!(owner.group, Some(Principal::Id(2)));
    assert_eq!(action.mode, Some(ModeChange::Octal(0o755)));
    assert!(matches!(copy("COPY --chmod=go=u a b").mode, Some(ModeChange::Symbolic(_))));
    for instruction in ["COPY --chmod=64a a b", "ADD --chmod=64a a b"] {
        assert_eq!(
            copy_error(instruction),
            "Dockerfile:2:1: invalid chmod parameter: '64a'. it should be octal string and between \
             0 and 07777"
        );
    }
}

/// BuildKit CopyExcludePatterns, AddExcludePatterns.
#[test]
fn every_flag_of_copy_and_add_arrives() {
    let action = copy("COPY --link --parents=true --exclude=a --exclude=!b src /d/");
    assert_eq!(action.link, Linking::Independent);
    assert_eq!(action.parents, Parents::Keep);
    assert_eq!(action.excludes, ["a", "!b"]);
    let action =
        copy("ADD --keep-git-dir --unpack=false --link=false https://x.example/r.git#v1 /d");
    assert_eq!(action.git_directory, GitDirectory::Keep);
    assert_eq!(action.unpack, Unpack::Never);
    assert_eq!(action.link, Linking::Merged);
    assert_eq!(action.files, [FileSource::Git("https://x.example/r.git#v1".to_owned())]);
    assert!(copy_error("ADD --from=x a b").contains("unknown flag: --from"));
    assert!(copy_error("COPY --unpack a b").contains("unknown flag: --unpack"));
    assert!(copy_error("COPY --exclude=[ a b").contains("syntax error in pattern"));
}

#[test]
fn remote_sources_are_for_add_only() {
    assert_eq!(
        copy("ARG v=1\nADD https://x.example/$v.tar /d/").files,
        [FileSource::Url("https://x.example/1.tar".to_owned())]
    );
    assert!(copy_error("COPY https://x.example/a b").contains("source can't be a URL for COPY"));
    assert!(copy_error("COPY git@x.example:a b").contains("source can't be a git ref for COPY"));
}

/// BuildKit AddChecksum (the parts that need no network).
#[test]
fn checksums_belong_to_one_remote_source() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let action = copy(&format!("ARG d={digest}\nADD --checksum=$d https://x.example/a /"));
    assert_eq!(action.checksum, Some(digest.clone()));
    for (instruction, part) in [
        (format!("ADD --checksum={digest} a /"), "non-HTTP(S) sources"),
        (format!("ADD --checksum={digest} https://x.example/a b /"), "multiple sources"),
        ("ADD --checksum=md5:12 https://x.example/a /".to_owned(), "invalid checksum \"md5:12\""),
        ("ADD --checksum=xyz https://x.example/a.git /".to_owned(), "hex digits of a commit"),
    ] {
        assert!(copy_error(&instruction).contains(part), "{instruction}");
    }
}

/// BuildKit CopyIgnoredFiles, CopyIgnoredFileContextRoot.
#[test]
fn ignored_sources_are_reported() {
    let mut build = build(
        "FROM a AS s\nFROM scratch\nCOPY . /\nCOPY sub/x /\nADD sub/y /\nCOPY z /\nCOPY --from=s sub/x /\n",
    );
    build.options.ignore_file = Some(crate::ignore::IgnoreFile::parse("sub\n").expect("a file"));
    let rule = |line| ("CopyIgnoredFile".to_owned(), line);
    assert_eq!(build.warnings(), [rule(4), rule(5)]);
}

/// BuildKit MountEnvVar, MountArg, MountEnvAcrossStages, MountMetaArg.
#[test]
fn mount_options_are_expanded() {
    let runs = build(
        "ARG META=m\nFROM scratch AS base\nENV T=/cache\nFROM base\nARG S=locked\nARG META\n\
         RUN --mount=type=cache,target=$T/$META,sharing=${S} x\n",
    )
    .runs();
    let Mount::Cache { target, sharing, id, .. } = &runs[0].mounts[0] else { panic!("a cache") };
    assert_eq!((target.as_str(), id.as_str()), ("/cache/m", "/cache/m"));
    assert_eq!(*sharing, Sharing::Locked);
}

#[test]
fn cache_ids_take_the_namespace_of_the_caller() {
    let runs = build("FROM scratch\nRUN --mount=type=cache,target=/c x\n")
        .arg("BUILDKIT_CACHE_MOUNT_NS", "team")
        .runs();
    assert!(matches!(&runs[0].mounts[0], Mount::Cache { id, .. } if id == "team/c"));
}

#[test]
fn flags_of_run_arrive() {
    let run = run("RUN --network=none --security=insecure --device=v.example/c=d,required x");
    assert_eq!(run.network, Network::None);
    assert_eq!(run.security, Security::Insecure);
    assert_eq!(run.devices[0].name, "v.example/c=d");
    assert_eq!(run.devices[0].requirement, Requirement::Required);
    assert_eq!(run.hostname, "buildkitsandbox");
}

/// kaniko shell; BuildKit IgnoreEntrypoint.
#[test]
fn run_uses_the_shell_and_never_the_entrypoint() {
    let run =
        run("ENTRYPOINT [\"nope\"]\nSHELL [\"/bin/bash\", \"-eu\", \"-c\"]\nRUN echo  \"$x\"");
    assert_eq!(run.argv, ["/bin/bash", "-eu", "-c", "echo  \"$x\""]);
}

#[test]
fn run_text_is_never_expanded() {
    assert_eq!(run("ENV x=y\nRUN echo $x ${x} \\$x").argv[2], "echo $x ${x} \\$x");
    assert_eq!(run("ENV x=y\nRUN [\"echo\", \"$x\"]").argv, ["echo", "$x"]);
}
