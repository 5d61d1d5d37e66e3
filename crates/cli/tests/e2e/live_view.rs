//! The live view of a build on a real pseudo terminal, read back through a terminal emulator.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::machine::shipway;

/// Longest time that a screen may take to show what it should.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal with `shipway build` on its standard error.
struct Terminal {
    master: OwnedFd,
    screen: vt100::Parser,
    child: Child,
    /// Everything that was written, for messages.
    raw: Vec<u8>,
}

impl Terminal {
    fn build(directory: &Path, term: &str, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal of ours");
        unlockpt(&master).expect("an open terminal");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
        set_size(&master, rows, columns);
        let slave = std::fs::File::options().read(true).write(true).open(&name).expect("its end");
        let mut command = shipway();
        command
            .args(["build", "-t", "live", "."])
            .current_dir(directory.join("context"))
            .env("SHIPWAY_STATE_DIR", directory.join("state"))
            .env("HOME", directory)
            .env("TERM", term)
            .env("NO_COLOR", "1")
            .env_remove("BUILDKIT_PROGRESS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(slave);
        let child = command.spawn().expect("shipway starts");
        let screen = vt100::Parser::new(cells(rows), cells(columns), 0);
        Self { master, screen, child, raw: Vec::new() }
    }

    /// Lines of the screen.
    fn lines(&self) -> Vec<String> {
        self.screen.screen().contents().lines().map(str::to_owned).collect()
    }

    /// Reads until the screen is as `is_so` wants it; `None` is for the end of the build.
    fn wait(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if is_so(&lines) {
                return lines;
            }
            let goes_on = Instant::now() < deadline && self.read();
            let raw = String::from_utf8_lossy(&self.raw);
            assert!(goes_on, "{what} never came: {lines:#?}\n{raw:?}");
        }
    }

    /// Reads what there is; `false` when the other end is closed.
    fn read(&mut self) -> bool {
        let mut ready = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let count = rustix::event::poll(&mut ready, Some(&limit)).expect("poll");
        if count == 0 {
            return true;
        }
        let mut bytes = [0; 4096];
        match rustix::io::read(&self.master, &mut bytes) {
            Ok(0) | Err(rustix::io::Errno::IO) => false,
            Ok(length) => {
                self.raw.extend_from_slice(&bytes[..length]);
                self.screen.process(&bytes[..length]);
                true
            }
            Err(error) => panic!("the terminal cannot be read: {error}"),
        }
    }

    /// Reads to the end and returns the exit code.
    fn end(&mut self) -> i32 {
        while self.read() {}
        self.child.wait().expect("the build ends").code().unwrap_or(-1)
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
        self.screen.screen_mut().set_size(cells(rows), cells(columns));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has cells")
}

fn set_size(master: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master.as_fd(), size).expect("a size");
}

/// A directory with a context whose commands wait until `gate` lets them go.
fn context(dockerfile: &str) -> (tempfile::TempDir, TcpListener) {
    let directory = tempfile::tempdir().expect("a directory");
    let context = directory.path().join("context");
    std::fs::create_dir(&context).expect("a directory");
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static is installed");
    let gate = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = gate.local_addr().expect("an address").port();
    let text = dockerfile.replace("WAIT", &format!("nc 127.0.0.1 {port}"));
    std::fs::write(context.join("Dockerfile"), text).expect("a file");
    (directory, gate)
}

/// Waits until a command has come to the gate; it goes on when this is dropped.
fn at_the_gate(gate: &TcpListener) -> TcpStream {
    gate.accept().expect("a command comes").0
}

const BASE: &str = "FROM scratch AS base\nCOPY busybox /bin/busybox\n\
    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";

fn find<'a>(lines: &'a [String], text: &str) -> Option<&'a String> {
    lines.iter().find(|line| line.contains(text))
}

#[test]
fn parallel_stages_are_shown_live_in_any_size_and_collapse_at_the_end() {
    let stages = "FROM base AS one\nRUN echo first word; WAIT; echo one >/one\n\
        FROM base AS two\nRUN echo second word; WAIT; echo two >/two\n\
        FROM base\nCOPY --from=one /one /one\nCOPY --from=two /two /two\n";
    let (directory, gate) = context(&format!("{BASE}{stages}"));
    let mut terminal = Terminal::build(directory.path(), "xterm", 30, 100);
    let (one, two) = (at_the_gate(&gate), at_the_gate(&gate));
    let lines = terminal.wait("both commands", |lines| {
        find(lines, "=> => # first word").is_some() && find(lines, "=> => # second word").is_some()
    });
    assert!(lines[0].starts_with("[+] Building ") && !lines[0].contains("FINISHED"), "{lines:#?}");
    for title in ["=> [one 2/2] RUN echo first", "=> [two 2/2] RUN echo second"] {
        let line = find(&lines, title).unwrap_or_else(|| panic!("{title} in {lines:#?}"));
        assert!(line.ends_with('s') && line.chars().count() == 100, "{line:?}");
    }
    assert!(find(&lines, "=> [base 2/3] COPY busybox").is_some(), "{lines:#?}");
    terminal.resize(12, 50);
    let lines = terminal.wait("the narrow view", |lines| {
        let line = find(lines, "=> [one 2/2]");
        line.is_some_and(|line| line.chars().count() == 50 && line.contains('…'))
    });
    assert!(lines.len() <= 12, "{lines:#?}");
    terminal.resize(40, 120);
    drop((one, two));
    assert_eq!(terminal.end(), 0);
    let lines = terminal.lines();
    let head = lines.iter().rev().find(|line| line.starts_with("[+] Building")).expect("a head");
    assert!(head.ends_with("FINISHED"), "{lines:#?}");
    let after: Vec<String> =
        lines.iter().skip_while(|line| !line.contains("FINISHED")).cloned().collect();
    assert!(find(&after, "=> => #").is_none(), "output is gone: {lines:#?}");
    assert!(find(&after, "=> [stage-3 3/3] COPY --from=two").is_some(), "{lines:#?}");
    assert!(find(&after, "built live:latest: sha256:").is_some(), "{lines:#?}");
    assert!(find(&after, "time:    steps ").is_some(), "{lines:#?}");
    assert!(!terminal.screen.screen().hide_cursor(), "the cursor is back");
}

#[test]
fn an_interrupt_restores_the_cursor_and_says_what_was_cancelled() {
    let (directory, gate) = context(&format!("{BASE}RUN echo waiting; WAIT\n"));
    let mut terminal = Terminal::build(directory.path(), "xterm", 24, 90);
    let _waiting = at_the_gate(&gate);
    terminal.wait("the command", |lines| find(lines, "=> => # waiting").is_some());
    let pid = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    assert_eq!(terminal.end(), 130);
    let lines = terminal.lines();
    assert!(find(&lines, "CANCELED").is_some_and(|line| line.starts_with("[+]")), "{lines:#?}");
    assert!(
        find(&lines, "=> CANCELED [4/4] RUN echo waiting").is_some()
            || find(&lines, "=> CANCELED [base 4/4] RUN echo waiting").is_some(),
        "{lines:#?}"
    );
    assert!(find(&lines, "cancelled:").is_some(), "{lines:#?}");
    assert!(find(&lines, "error: the build was cancelled").is_some(), "{lines:#?}");
    assert!(!terminal.screen.screen().hide_cursor(), "the cursor is back");
}

#[test]
fn a_failure_shows_output_lines_and_code_below_the_view() {
    let text = format!("{BASE}WORKDIR /src\nRUN <<EOF\necho some words\nnopenope\nEOF\nUSER 1\n");
    let (directory, _gate) = context(&text);
    let mut terminal = Terminal::build(directory.path(), "xterm", 50, 120);
    assert_eq!(terminal.end(), 1);
    let lines = terminal.lines();
    for expected in [
        "FAILED",
        "=> ERROR [base 5/5] RUN <<EOF",
        "some words",
        "Dockerfile:6-9",
        "   6 | >>> RUN <<EOF",
        "   9 | >>> EOF",
        "  10 |     USER 1",
        "exit code: 127",
        "try: nopenope is not in the image",
    ] {
        assert!(find(&lines, expected).is_some(), "{expected:?} in {lines:#?}");
    }
}

#[test]
fn without_a_real_terminal_there_are_plain_lines() {
    let (directory, _gate) = context(&format!("{BASE}RUN echo words\n"));
    let mut terminal = Terminal::build(directory.path(), "dumb", 50, 120);
    assert_eq!(terminal.end(), 0);
    let raw = String::from_utf8_lossy(&terminal.raw).into_owned();
    assert!(!raw.contains('\u{1b}'), "{raw:?}");
    let lines = terminal.lines();
    assert!(lines.iter().any(|line| line.starts_with("#1 [base 1/4] FROM scratch")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with('#') && line.ends_with(" words")));
}

#[test]
fn a_source_that_the_ignore_file_leaves_out_is_named_with_its_pattern() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in [
        ("Dockerfile", "FROM scratch\nCOPY secret.txt /\n"),
        (".dockerignore", "*.txt\n"),
        ("secret.txt", "x"),
    ] {
        std::fs::write(directory.path().join(name), text).expect("a file");
    }
    let mut command = shipway();
    command.arg("build").arg(directory.path()).env("SHIPWAY_STATE_DIR", directory.path().join("s"));
    let mut child =
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("shipway starts");
    let mut text = String::new();
    let stderr = child.stderr.as_mut().expect("standard error is piped");
    stderr.read_to_string(&mut text).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    for expected in [">>> COPY secret.txt /", "*.txt", ".dockerignore"] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
}
