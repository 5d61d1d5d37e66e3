//! [secrets/ssh]: the agent of the caller, reached from a command.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use container_runtime::Mode;

use super::{Case, case};
use crate::tests;

tests![
    an_agent_answers_through_its_mount,
    the_socket_has_target_mode_and_owner,
    a_required_agent_must_be_there,
    no_descriptor_of_the_builder_leaks_into_commands,
    connections_to_the_agent_end_with_the_command,
];

/// A real ssh-agent with one key.
struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("agent");
        let mut process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("ssh-agent of openssh-client");
        // It names its socket when it listens.
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let agent = Self { process, directory };
        let key = agent.directory.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "shipway-test", "-f"])
            .arg(&key)
            .status();
        assert!(made.expect("ssh-keygen").success());
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(&key)
            .env("SSH_AUTH_SOCK", agent.socket())
            .status();
        assert!(added.expect("ssh-add").success());
        agent
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// What `ssh-add -L` lists.
    fn public_key(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("key.pub")).expect("made")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn with_agent(text: &str, agent: &Agent) -> Case {
    let socket = agent.socket();
    case(text).with(move |_, request| {
        request.agents.insert("default".into(), socket.clone());
    })
}

/// The machine's ssh-add with its libraries, mounted into the image.
const TOOLS: &str = "--mount=type=bind,from=host,target=/host";

/// A directory that holds ssh-add and what it is linked with.
fn with_ssh_add(case: Case) -> Case {
    let tools = tempfile::tempdir().expect("a directory");
    let listed = Command::new("ldd").arg("/usr/bin/ssh-add").output().expect("ldd");
    let libraries = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain(["/usr/bin/ssh-add"]) {
        let name = PathBuf::from(path);
        let name = name.file_name().expect("a file");
        std::fs::copy(path, tools.path().join(name)).expect("a copy");
    }
    case.with(move |_, request| {
        let directory = image_builder::ContextDirectory {
            root: tools.path().to_owned(),
            ignore: dockerfile::IgnoreFile::default(),
        };
        let context = image_builder::NamedContext::Directory(directory);
        request.named_contexts.insert("host".into(), context);
    })
}

fn an_agent_answers_through_its_mount() {
    let agent = Agent::start();
    for mode in [Mode::Overlay, Mode::UserNamespace] {
        let text = format!(
            "FROM base\nRUN --mount=type=ssh {TOOLS} echo $SSH_AUTH_SOCK; \
             /host/ld-linux-x86-64.so.2 --library-path /host /host/ssh-add -L\n\
             RUN [ -z \"$SSH_AUTH_SOCK\" ] && [ ! -e /run/buildkit ]\n"
        );
        let built = with_ssh_add(with_agent(&text, &agent)).in_mode(mode);
        let expected = format!("/run/buildkit/ssh_agent.0\n{}", agent.public_key());
        assert_eq!(built.printed(), expected, "{mode:?}");
        assert_eq!(built.tree_below("run/"), ["run/ 755 0:0"], "{mode:?}");
    }
}

/// BuildKit SSHSocketParams.
fn the_socket_has_target_mode_and_owner() {
    let agent = Agent::start();
    for mode in [Mode::Overlay, Mode::Chroot] {
        let text = "FROM base\n\
                    RUN --mount=type=ssh,mode=741,uid=100,gid=102 [ -S $SSH_AUTH_SOCK ] && stat -c %u:%g:%a $SSH_AUTH_SOCK\n\
                    RUN --mount=type=ssh,target=/own/sock [ $SSH_AUTH_SOCK = /own/sock ] && stat -c %u:%g:%a /own/sock\n";
        let built = with_agent(text, &agent).in_mode(mode);
        assert_eq!(built.printed(), "100:102:741\n0:0:600\n", "{mode:?}");
    }
    let mode = std::fs::metadata(agent.socket()).expect("the agent lives").mode() & 0o777;
    assert_eq!(mode, 0o600, "the agent's own socket is as it was");
}

fn a_required_agent_must_be_there() {
    let error = case("FROM base\nRUN --mount=type=ssh,required=true true\n").error();
    assert!(error.contains("unset ssh forward key default"), "{error}");
    case("FROM base\nRUN --mount=type=ssh [ -z \"$SSH_AUTH_SOCK\" ]\n").printed();
}

/// BuildKit SSHFileDescriptorsClosed.
fn no_descriptor_of_the_builder_leaks_into_commands() {
    let agent = Agent::start();
    for mode in [Mode::Overlay, Mode::UserNamespace] {
        let text = "FROM base\nRUN --mount=type=ssh ls /proc/self/fd | sort | head -n 9\n";
        // 3 is the directory that ls reads.
        let printed = with_agent(text, &agent).in_mode(mode).printed();
        assert_eq!(printed, "0\n1\n2\n3\n", "{mode:?}");
    }
}

fn connections_to_the_agent_end_with_the_command() {
    let agent = Agent::start();
    let open = || {
        let path = format!("/proc/{}/fd", agent.process.id());
        std::fs::read_dir(path).expect("the agent lives").count()
    };
    let before = open();
    let text =
        "FROM base\nRUN --mount=type=ssh /bin/busybox nc local:$SSH_AUTH_SOCK < /dev/null; true\n";
    for _ in 0..3 {
        with_agent(text, &agent).printed();
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while before < open() {
        assert!(std::time::Instant::now() < deadline, "the agent keeps connections");
        std::thread::yield_now();
    }
}
