//! The shapes of BuildKit's golden parser files: each odd thing that they hold, and how it reads.

use super::*;
use crate::instruction::{CommandLine, Healthcheck};

fn command(keyword: &str, command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(line) => format!("{keyword} $ {line}"),
        CommandLine::Exec(words) => format!("{keyword} [{}]", words.join("|")),
    }
}

/// One instruction in one line: shell forms after `$`, lists with `|` between their members.
fn brief(statement: &Statement) -> String {
    let keyword = statement.instruction.keyword();
    match &statement.instruction {
        Instruction::Run(run) => {
            let mounts = run.mounts.len();
            let mounts = if mounts == 0 { String::new() } else { format!(" +{mounts} mounts") };
            command(keyword, &run.command) + &mounts
        }
        Instruction::Cmd(line) | Instruction::Entrypoint(line) => command(keyword, line),
        Instruction::Env(values) | Instruction::Label(values) => {
            let pairs = values.pairs.iter().map(|(name, value)| format!("{name}={value}"));
            format!("{keyword} {}", pairs.collect::<Vec<_>>().join("|"))
        }
        Instruction::Copy(transfer) | Instruction::Add(transfer) => {
            format!("{keyword} {} -> {}", transfer.sources.join("|"), transfer.destination)
        }
        Instruction::Volume(words) | Instruction::Expose(words) | Instruction::Shell(words) => {
            format!("{keyword} {}", words.join("|"))
        }
        Instruction::Workdir(text)
        | Instruction::User(text)
        | Instruction::StopSignal(text)
        | Instruction::Maintainer(text) => format!("{keyword} {text}"),
        Instruction::OnBuild(on_build) => format!("{keyword} {}", on_build.trigger),
        Instruction::Healthcheck(Healthcheck::Disabled) => format!("{keyword} NONE"),
        Instruction::Healthcheck(Healthcheck::Command { command: line, timing }) => {
            let timing = format!(
                "{:?} {:?} {:?} {}",
                timing.interval, timing.timeout, timing.start_period, timing.retries
            );
            format!("{} ({timing})", command(keyword, line))
        }
        Instruction::Arg(args) => {
            let args = args.iter().map(|arg| match &arg.default {
                Some(default) => format!("{}={default}", arg.name),
                None => arg.name.clone(),
            });
            format!("{keyword} {}", args.collect::<Vec<_>>().join("|"))
        }
        Instruction::From(from) => format!("{keyword} {}", from.base),
    }
}

#[track_caller]
fn check(name: &str, text: &str, expected: &[&str]) {
    let file = Dockerfile::parse("Dockerfile", format!("FROM x\n{text}").as_bytes());
    let file = file.or_else(|_| Dockerfile::parse("Dockerfile", text.as_bytes())).expect(name);
    let found: Vec<String> = file.stages[0].statements.iter().map(brief).collect();
    assert_eq!(found, expected, "{name}");
}

/// BuildKit ParseCases: arrays, their near misses, and everything that only looks like one.
#[test]
fn arrays_and_near_misses() {
    for (name, text, expected) in [
        (
            "ADD-COPY-with-JSON",
            "ADD [\"vimrc\",\"/tmp\"]\nCOPY [\"a b\", \"/c d\"]\n",
            &["ADD vimrc -> /tmp", "COPY a b -> /c d"][..],
        ),
        (
            "json",
            "CMD []\nCMD [\"\"]\nCMD [\"a\", \"b\"]\nCMD [\"\\u20ac\"]\nCMD [ \"\\\\\", \"\\\"\" ]\n",
            &["CMD []", "CMD []", "CMD [a|b]", "CMD [€]", "CMD [\\|\"]"],
        ),
        (
            "jeztah-json-inside-string",
            "CMD [\"[\\\"echo\\\", \\\"x\\\"]\"]\n",
            &["CMD [[\"echo\", \"x\"]]"],
        ),
        (
            "jeztah-json-inside-string-double",
            "CMD \"[\\\"echo\\\", \\\"Phew, I just managed to escaped those double quotes\\\"]\"\n",
            &[
                "CMD $ \"[\\\"echo\\\", \\\"Phew, I just managed to escaped those double quotes\\\"]\"",
            ],
        ),
        (
            "jeztah-single-quotes",
            "CMD ['echo','Well, JSON in a string is JSON too?']\n",
            &["CMD $ ['echo','Well, JSON in a string is JSON too?']"],
        ),
        (
            "jeztah-unterminated-bracket",
            "CMD [\"echo\", \"Please, close the brackets when you're done\"\n",
            &["CMD $ [\"echo\", \"Please, close the brackets when you're done\""],
        ),
        (
            "jeztah-unterminated-string",
            "CMD [\"echo\", \"look ma, no quote!]\n",
            &["CMD $ [\"echo\", \"look ma, no quote!]"],
        ),
        (
            "kartar-entrypoint-oddities",
            "ENTRYPOINT [ \"/usr/bin/x\", \"-flag\" ]\nENTRYPOINT [ /usr/bin/x, \"-flag\" ]\n",
            &["ENTRYPOINT [/usr/bin/x|-flag]", "ENTRYPOINT $ [ /usr/bin/x, \"-flag\" ]"],
        ),
        (
            "multiple-volumes",
            "VOLUME /a /b /c\nVOLUME [\"/d\", \"/e\"]\n",
            &["VOLUME /a|/b|/c", "VOLUME /d|/e"],
        ),
        ("shell", "SHELL [\"powershell\", \"-command\"]\n", &["SHELL powershell|-command"]),
    ] {
        check(name, text, expected);
    }
}

/// BuildKit ParseCases: lines that go on, and where they end.
#[test]
fn continuations_and_indents() {
    for (name, text, expected) in [
        ("continue-at-eof", "RUN something \\", &["RUN $ something"][..]),
        (
            "continueIndent",
            "RUN echo hello\\\n  world\\\n  goodnight  \\\n  moon\\\n  light\\\nning\nRUN echo hello  \\\n  world\n",
            &["RUN $ echo hello  world  goodnight    moon  lightning", "RUN $ echo hello    world"],
        ),
        (
            "continue-with-comments",
            "RUN a \\\n# comment\n  # indented\n\n  && b\n",
            &["RUN $ a   && b"],
        ),
        (
            "brimstone-consuldock",
            "RUN apt-get update \\\n\t&& apt-get install -y git \\\n        && apt-get clean\n",
            &["RUN $ apt-get update \t&& apt-get install -y git         && apt-get clean"],
        ),
        (
            "cpuguy83-nagios",
            "RUN echo \"127.0.0.1 localhost\" >> /etc/hosts && \\\n  sed -i 's/x/\\$y/g' /f\n",
            &["RUN $ echo \"127.0.0.1 localhost\" >> /etc/hosts &&   sed -i 's/x/\\$y/g' /f"],
        ),
        (
            "escape-after-comment",
            "# a comment\n# escape=`\nWORKDIR c:\\windows\n",
            &["WORKDIR c:\\windows"],
        ),
        (
            "mumble",
            "EXPOSE 64738 64738/udp\nCMD [\"-ini\", \"/etc/mumble.ini\"]\n",
            &["EXPOSE 64738|64738/udp", "CMD [-ini|/etc/mumble.ini]"],
        ),
        (
            "nginx",
            "RUN apt-get update && apt-get install -y nginx && echo \"\\ndaemon off;\" >> /etc/nginx.conf\nCMD [\"nginx\"]\nEXPOSE 80\n",
            &[
                "RUN $ apt-get update && apt-get install -y nginx && echo \"\\ndaemon off;\" >> /etc/nginx.conf",
                "CMD [nginx]",
                "EXPOSE 80",
            ],
        ),
        (
            "docker",
            "VOLUME /var/lib/docker\nWORKDIR /go/src\nENV DOCKER_BUILDTAGS apparmor selinux\nENTRYPOINT [\"hack/dind\"]\nCOPY . /go/src\nRUN git clone a && cd b \\\n\t&& make\n",
            &[
                "VOLUME /var/lib/docker",
                "WORKDIR /go/src",
                "ENV DOCKER_BUILDTAGS=apparmor selinux",
                "ENTRYPOINT [hack/dind]",
                "COPY . -> /go/src",
                "RUN $ git clone a && cd b \t&& make",
            ],
        ),
        (
            "tf2",
            "ENTRYPOINT [\"/entry\", \"--map\", \"x\"]\nRUN (a && \\\n    b) || c\n",
            &["ENTRYPOINT [/entry|--map|x]", "RUN $ (a &&     b) || c"],
        ),
        ("znc", "RUN a\\\n\nRUN b\n", &["RUN $ aRUN b"]),
        (
            "weechat",
            "RUN apt-get install\\\n tmux\\\n weechat\nENV LC_ALL en_US.UTF-8\n",
            &["RUN $ apt-get install tmux weechat", "ENV LC_ALL=en_US.UTF-8"],
        ),
    ] {
        check(name, text, expected);
    }
    for (name, text) in [
        ("escape", "# escape=`\nFROM x\nRUN a `\n  b\nCOPY c:\\x c:\\y\\\n"),
        ("escape-nonewline", "# escape=`\nFROM x\nRUN a `\n  b\nCOPY c:\\x c:\\y\\"),
    ] {
        check(name, text, &["RUN $ a   b", "COPY c:\\x -> c:\\y\\"]);
    }
}

/// BuildKit ParseCases: escapes, values, flags and health checks.
#[test]
fn values_flags_and_escapes() {
    for (name, text, expected) in [
        (
            "env",
            "ENV name value\nENV name=value\nENV name=value name2=value2\nENV name=\"value value1\"\nENV name=value\\ value2\nENV name=\"value'quote space'value2\"\nENV name='value\"double quote\"value2'\nENV name=value \\\n    name1=value1 \\\n    name2=\"value2a \\\n           value2b\" name3='x y'\nENV name=value\\\\ value=\nENV name=\\'a b=c\n",
            &[
                "ENV name=value",
                "ENV name=value",
                "ENV name=value|name2=value2",
                "ENV name=\"value value1\"",
                "ENV name=value\\ value2",
                "ENV name=\"value'quote space'value2\"",
                "ENV name='value\"double quote\"value2'",
                "ENV name=value|name1=value1|name2=\"value2a            value2b\"|name3='x y'",
                "ENV name=value\\\\|value=",
                "ENV name=\\'a|b=c",
            ][..],
        ),
        (
            "lk4d4-the-edge-case-generator",
            "CMD ['a']\nENV FOO=\"x\" \\\n BAR=y\nRUN a ; \\\n b\n",
            &["CMD $ ['a']", "ENV FOO=\"x\"|BAR=y", "RUN $ a ;  b"],
        ),
        (
            "escapes",
            "RUN echo \\\"it\\\"\nENV GOPATH \\\n/go\nRUN apt-get \\update && \\\n apt-get \\\"install\\\" znc -y\nADD \\conf\\\\\" /.znc\n",
            &[
                "RUN $ echo \\\"it\\\"",
                "ENV GOPATH=/go",
                "RUN $ apt-get \\update &&  apt-get \\\"install\\\" znc -y",
                "ADD \\conf\\\\\" -> /.znc",
            ],
        ),
        (
            "flags",
            "COPY --chown=1 foo /tmp/\nCOPY --link -- foo /tmp/\nCOPY --link=false --exclude=a --exclude=b foo /tmp/\nRUN --mount=type=tmpfs,target=/x -- --flag\nCOPY --chown=\"u ser\" foo bar\n",
            &[
                "COPY foo -> /tmp/",
                "COPY foo -> /tmp/",
                "COPY foo -> /tmp/",
                "RUN $ --flag +1 mounts",
                "COPY foo -> bar",
            ],
        ),
        (
            "health",
            "HEALTHCHECK CMD\\\n curl x\nHEALTHCHECK NONE\nHEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=3 CMD [\"/app\", \"check\"]\nhealthcheck --timeout=10s cmd /a b\n",
            &[
                "HEALTHCHECK $ curl x (0ns 0ns 0ns 0)",
                "HEALTHCHECK NONE",
                "HEALTHCHECK [/app|check] (5s 3s 60s 3)",
                "HEALTHCHECK $ /a b (0ns 10s 0ns 0)",
            ],
        ),
        (
            "mail",
            "ADD .muttrc /\nADD .offlineimaprc /\nADD .mutt /.mutt\nRUN cd /tmp; git clone a # not a comment\nCMD a # neither\n",
            &[
                "ADD .muttrc -> /",
                "ADD .offlineimaprc -> /",
                "ADD .mutt -> /.mutt",
                "RUN $ cd /tmp; git clone a # not a comment",
                "CMD $ a # neither",
            ],
        ),
        (
            "influxdb",
            "MAINTAINER  me <a@b>\nUSER  daemon\nSTOPSIGNAL  9\n",
            &["MAINTAINER me <a@b>", "USER daemon", "STOPSIGNAL 9"],
        ),
        (
            "brimstone-docker-consul",
            "ONBUILD RUN a && \\\n  b\nONBUILD ADD . /x\nONBUILD CMD [\"agent\"]\nEXPOSE 8300 \\\n  8301\n",
            &[
                "ONBUILD RUN a &&   b",
                "ONBUILD ADD . /x",
                "ONBUILD CMD [\"agent\"]",
                "EXPOSE 8300|8301",
            ],
        ),
        (
            "label",
            "LABEL a=b c=\"d e\"\nLABEL legacy some value\nARG a=\"b c\" d\n",
            &["LABEL a=b|c=\"d e\"", "LABEL legacy=some value", "ARG a=\"b c\"|d"],
        ),
        (
            "unicode-and-blanks",
            "\u{b}RUN\u{c}a\u{a0}b \nRuN ünï\n",
            &["RUN $ a\u{a0}b", "RUN $ ünï"],
        ),
    ] {
        check(name, text, expected);
    }
}

/// BuildKit ParseCases: files that look broken and are not, or are.
#[test]
fn heredocs_and_negative_files() {
    let file = "RUN <<EOF\na\nEOF\nCOPY <<one <<-\"two\" /d/\n1\none\n\t2\n\ttwo\nRUN cat <<A 3<<B\nA\nB\n";
    let file =
        Dockerfile::parse("Dockerfile", format!("FROM x\n{file}").as_bytes()).expect("heredocs");
    let bodies: Vec<usize> = file.stages[0]
        .statements
        .iter()
        .map(|statement| match &statement.instruction {
            Instruction::Run(run) => run.heredocs.len(),
            Instruction::Copy(copy) => copy.heredocs.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(bodies, [1, 2, 2]);
    for (name, text, message) in [
        ("env_no_value", "ENV PATH\n", "ENV must have two arguments"),
        (
            "shykes-nested-json",
            "CMD [ \"echo\", [ \"nested json\" ] ]\n",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("empty-instruction", "RUN\n", "RUN requires at least one argument"),
        ("bad-escape-directive", "# escape=x\n", ""),
    ] {
        let whole =
            if message.is_empty() { format!("{text}FROM x\n") } else { format!("FROM x\n{text}") };
        let error = Dockerfile::parse("Dockerfile", whole.as_bytes()).expect_err(name);
        assert!(error.message().contains(message), "{name}: {error}");
    }
}
