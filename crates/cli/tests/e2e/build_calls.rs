//! `shipway build --call` and `--check`, and where a Dockerfile may lie: the cases of BuildKit
//! that concern the command line.

use std::path::Path;

use serde_json::Value;

use crate::machine::{Ran, run, shipway};

const FILE: &str = "\
# VERSION of the base
ARG VERSION=1
FROM scratch as tools
RUN --mount=type=secret,id=token,required --mount=type=ssh true

# app is what ships
FROM tools AS app
ARG VERSION
EXPOSE 80/TCP
CMD echo
";

struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn build(&self, arguments: &[&str]) -> Ran {
        self.build_from(arguments, "")
    }

    fn build_from(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = shipway();
        command.arg("build").args(arguments).current_dir(self.directory.path());
        run(command.env("SHIPWAY_STATE_DIR", self.path("state")), stdin)
    }

    /// A tar archive of some of the files; it is text, as its contents are.
    fn tar(&self, paths: &[&str]) -> String {
        let mut tar = std::process::Command::new("tar");
        tar.args(["-C", &self.path("."), "-cf", "-"]).args(paths);
        String::from_utf8(tar.output().expect("tar").stdout).expect("ASCII")
    }

    /// What lies at `path` of the image that a stream makes.
    fn built_from(&self, arguments: &[&str], stdin: &str, path: &str) -> String {
        let out = self.path("out");
        self.build_from(&[arguments, &["-o", &out]].concat(), stdin).ok();
        let text = std::fs::read_to_string(Path::new(&out).join(path)).expect(path);
        std::fs::remove_dir_all(out).expect("ours");
        text
    }

    /// Builds and returns what lies at `path` of the image.
    fn built(&self, arguments: &[&str], path: &str) -> String {
        let out = self.path("out");
        self.build(&[arguments, &["-o", &out]].concat()).ok();
        let text = std::fs::read_to_string(Path::new(&out).join(path)).expect(path);
        std::fs::remove_dir_all(out).expect("ours");
        text
    }
}

/// BuildKit RuleCheckOption, AllTargetUnmarshal.
#[test]
fn checks_are_shown_with_the_lines_they_are_about() {
    let project = Project::new(&[("Dockerfile", FILE)]);
    let ran = project.build(&["--check", "."]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stdout.starts_with("Check complete, 3 warnings have been found!\n"),
        "{}",
        ran.stdout
    );
    let expected = "
WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/
'as' and 'FROM' keywords' casing do not match
Dockerfile:3
--------------------
   1 |     # VERSION of the base
   2 |     ARG VERSION=1
   3 | >>> FROM scratch as tools
   4 |     RUN --mount=type=secret,id=token,required --mount=type=ssh true
   5 |
--------------------
";
    assert!(ran.stdout.contains(expected), "{}", ran.stdout);
    let json = project.build(&["--call=check,format=json", "--target", "tools", "."]);
    let document: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let rules: Vec<&str> = document["warnings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|warning| warning["ruleName"].as_str())
        .collect();
    assert_eq!(rules, ["FromAsCasing"]);
    assert_eq!(document["warnings"][0]["location"]["ranges"][0]["start"]["line"], 3);
    assert_eq!(document["sources"][0]["filename"], "Dockerfile");
    let clean = Project::new(&[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    assert_eq!(clean.build(&["--check", "."]).ok(), "Check complete, no warnings found.\n");
    let skipped =
        project.build(&["--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", "."]);
    assert_eq!(skipped.ok(), "Check complete, no warnings found.\n");
}

/// BuildKit WarningsBeforeError, RuleCheckOption.
#[test]
fn warnings_come_before_the_mistake_that_stops_a_build() {
    let project = Project::new(&[("Dockerfile", "FROM scratch AS Bad\nSTOPSIGNAL none\n")]);
    let ran = project.build(&["."]);
    assert_eq!(ran.code, 2);
    let warning = ran.stderr.find("warning: Dockerfile:1: StageNameCasing: ");
    let error = ran.stderr.find("Dockerfile:2:1: invalid signal: none");
    assert!(warning.is_some() && warning < error, "{}", ran.stderr);
    let checked = project.build(&["--check", "."]);
    assert!(
        checked.stdout.contains("ERROR: Dockerfile:2:1: invalid signal: none"),
        "{}",
        checked.stdout
    );
    let fatal = "# check=error=true\nFROM scratch as x\nLABEL a=b\n";
    let ran = Project::new(&[("Dockerfile", fatal)]).build(&["."]);
    assert!(ran.stderr.contains("lint violation found for rules: FromAsCasing"), "{}", ran.stderr);
}

/// BuildKit OutlineArgs, OutlineSecrets, OutlineDescribeDefinition.
#[test]
fn an_outline_says_what_a_target_takes() {
    let project = Project::new(&[("Dockerfile", FILE)]);
    let text = project.build(&["--call=outline", "--build-arg", "VERSION=2", "."]).ok();
    let expected = "\
TARGET:      app
DESCRIPTION: is what ships

BUILD ARG   VALUE   DESCRIPTION
VERSION     2       of the base

SECRET   REQUIRED
token    true

SSH       REQUIRED
default

";
    assert_eq!(text, expected);
    let json = project.build(&["--call", "outline", "-o", "json", "."]).ok();
    let document: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(document["name"], "app");
    assert_eq!(document["args"][0]["value"], "1");
    assert_eq!(document["secrets"][0]["required"], true);
    assert!(document["ssh"][0].get("required").is_none());
}

/// BuildKit TargetsList, TargetsDescribeDefinition.
#[test]
fn targets_are_listed_with_their_descriptions() {
    let project = Project::new(&[("Dockerfile", FILE)]);
    let text = project.build(&["--call=targets", "."]).ok();
    assert_eq!(text, "TARGET          DESCRIPTION\ntools\napp (default)   is what ships\n");
    let json = project.build(&["--call=targets,format=json", "."]).ok();
    let document: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(document["targets"][0]["base"], "scratch");
    assert_eq!(document["targets"][1]["default"], true);
    let ran = project.build(&["--call=something", "."]);
    assert!(ran.code == 2 && ran.stderr.contains("outline"), "{}", ran.stderr);
}

/// BuildKit RunGlobalNetwork.
#[test]
fn a_network_mode_counts_for_all_steps_that_name_none() {
    let shell = |options: &str, name: &str| {
        format!(
            "RUN {options} [\"/busybox\", \"sh\", \"-c\", \
             \"/busybox grep -c : /proc/net/dev > /{name}\"]\n"
        )
    };
    let text = format!(
        "FROM scratch\nCOPY busybox /\n{}{}",
        shell("", "unnamed"),
        shell("--network=host", "named")
    );
    let project = Project::new(&[("Dockerfile", &text)]);
    std::fs::copy("/bin/busybox", project.path("busybox")).expect("Debian's busybox-static");
    let here = std::fs::read_to_string("/proc/net/dev").expect("Linux").matches(':').count();
    assert!(1 < here, "this machine has no network but loopback");
    let flags = ["--network=none", "."];
    assert_eq!(project.built(&flags, "unnamed").trim(), "1");
    assert_eq!(project.built(&flags, "named").trim(), here.to_string());
}

/// BuildKit DockerfileDirs, SymlinkedDockerfile, DockerfileLowercase.
#[test]
fn a_dockerfile_may_lie_anywhere() {
    let copy = "FROM scratch\nCOPY foo /\n";
    let project = Project::new(&[
        ("other/df", copy),
        ("ctx/foo", "x"),
        ("low/dockerfile", copy),
        ("low/foo", "y"),
    ]);
    assert_eq!(project.built(&["-f", "other/df", "ctx"], "foo"), "x");
    std::os::unix::fs::symlink("df", project.path("other/link")).expect("a link");
    assert_eq!(project.built(&["-f", "other/link", "ctx"], "foo"), "x");
    assert_eq!(project.built(&["low"], "foo"), "y");
    let ran = project.build(&["-f", "other/none", "ctx"]);
    assert!(ran.code == 2 && ran.stderr.contains("other/none"), "{}", ran.stderr);
}

/// BuildKit DockerignoreOverride.
#[test]
fn the_ignore_file_beside_the_dockerfile_wins() {
    let project = Project::new(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("Dockerfile.dockerignore", "foo\n"),
        (".dockerignore", "bar\n"),
        ("foo", "foo"),
        ("bar", "bar"),
    ]);
    assert_eq!(project.built(&["."], "bar"), "bar");
    let ran = project.build(&["-o", &project.path("list"), "."]);
    ran.ok();
    assert!(!Path::new(&project.path("list/foo")).exists());
}

/// BuildKit TarContext, TarContextExternalDockerfile.
#[test]
fn a_context_may_be_an_archive_on_standard_input() {
    let copy = "FROM scratch\nCOPY foo /\n";
    let project = Project::new(&[("Dockerfile", copy), ("foo", "x"), ("sub/df", copy)]);
    let whole = project.tar(&["Dockerfile", "foo"]);
    assert_eq!(project.built_from(&["-"], &whole, "foo"), "x");
    // The Dockerfile lies outside of the archive, or below a directory in it.
    let files = project.tar(&["foo"]);
    assert_eq!(project.built_from(&["-f", "sub/df", "-"], &files, "foo"), "x");
    let below = project.tar(&["foo", "sub"]);
    let elsewhere = Project::new(&[]);
    assert_eq!(elsewhere.built_from(&["-f", "sub/df", "-"], &below, "foo"), "x");
}

/// Serves one text for every request.
fn serve(text: &'static str) -> String {
    use std::io::{BufRead as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(Result::ok) {
            let mut lines = std::io::BufReader::new(&stream).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let length = text.len();
            // A client that hangs up has all it wants.
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
            );
        }
    });
    format!("http://{address}")
}

/// BuildKit HTTPDockerfile.
#[test]
fn a_dockerfile_may_come_from_a_url() {
    let url = serve("FROM scratch\nCOPY <<EOF /foo\nby http\nEOF\n");
    let project = Project::new(&[("empty/x", "")]);
    // Alone, as a context that is nothing but a Dockerfile, and beside a context.
    assert_eq!(project.built(&[&format!("{url}/Dockerfile")], "foo"), "by http\n");
    assert_eq!(project.built(&["-f", &format!("{url}/df"), "empty"], "foo"), "by http\n");
}
