//! Builds that are killed at any point: nothing of them stays, and the next build works.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::machine::{run, shipway};

/// How often a build is killed.
const KILLS: u64 = 100;

/// More lines than a build of the Dockerfile below prints.
const LINES_MAX: u64 = 26;

/// Every kind of step, output all along, a daemon, a secret and a cache.
const DOCKERFILE: &str = "\
FROM scratch AS base
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
ENV PATH=/bin
FROM base AS one
ARG ROUND
RUN for i in 1 2 3 4; do echo $ROUND $i; echo $i > /one-$i; done; (setsid sleep 7654321 &)
FROM base
ARG ROUND
RUN --mount=type=secret,id=key --mount=type=cache,target=/cache \
    for i in 1 2 3; do cat /run/secrets/key; echo $ROUND $i >> /cache/log; done
COPY --from=one /one-1 /two/
RUN for i in 1 2 3 4 5; do echo $ROUND $i; head -c 100000 /dev/urandom > /three-$i; done
";

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("shipway-kills-").tempdir().expect("a directory");
        let context = dir.path().join("context");
        std::fs::create_dir_all(&context).expect("a directory");
        std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static");
        std::fs::write(context.join("Dockerfile"), DOCKERFILE).expect("a file");
        std::fs::write(dir.path().join("key"), "the secret\n").expect("a file");
        Self { dir }
    }

    fn build(&self, mode: &str, round: &str) -> Command {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        // Descriptor 9 goes to every helper of the build, and to no command: the end of standard
        // output is the end of them all.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$@\" 9>&1", "sh"])
            .arg(shipway().get_program())
            .args(["build", "--progress=json", "-t", "killed:1"])
            .args(["--isolation", mode, "--build-arg", &format!("ROUND={round}")])
            .args(["--secret", &format!("id=key,src={}", path("key")), &path("context")])
            .env("SHIPWAY_STATE_DIR", self.dir.path().join("state"))
            .env("HOME", self.dir.path());
        command
    }
}

/// The same numbers in every run (Steele, Lea and Flood, SplitMix64).
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn a_build_killed_a_hundred_times_leaves_nothing_and_the_next_one_succeeds() {
    let place = Place::new();
    let mut seed = 3;
    let mut killed = 0;
    for round in 0..KILLS {
        let mode = ["overlay", "userns"][(round % 2) as usize];
        let signal = match random(&mut seed) % 4 {
            0 => Signal::INT,
            1 => Signal::TERM,
            _ => Signal::KILL,
        };
        let lines = random(&mut seed) % LINES_MAX;
        let title = format!("round {round}: {mode}, {signal:?} after {lines} lines");
        killed += u64::from(kill_after(&place, mode, &round.to_string(), signal, lines, &title));
        assert_eq!(processes_of(&place), Vec::<String>::new(), "{title}");
        // What the dead one left is cleaned by the next one, which has to work.
        if round % 10 == 9 {
            run(&mut place.build(mode, "stable"), "").ok();
            nothing_is_left(&place);
        }
    }
    assert!(KILLS / 2 < killed, "only {killed} builds were killed before they were done");
    let list = Command::new("sh")
        .args(["-c", "find state/blobs -type f -path '*sha256*' -exec sha256sum {} +"])
        .current_dir(place.dir.path())
        .output()
        .expect("a shell");
    let list = String::from_utf8(list.stdout).expect("text");
    let blobs: Vec<(&str, &str)> = list
        .lines()
        .filter_map(|line| line.split_once("  "))
        .filter(|(_, path)| path.rsplit('/').next().is_some_and(|name| name.len() == 64))
        .collect();
    assert!(!blobs.is_empty(), "{list}");
    for (sum, path) in blobs {
        assert!(path.ends_with(sum), "{path} has the digest {sum}");
    }
}

/// Starts a build and sends the signal when it has printed so many lines; whether it was still
/// at work then.
fn kill_after(
    place: &Place,
    mode: &str,
    round: &str,
    signal: Signal,
    lines: u64,
    title: &str,
) -> bool {
    let mut command = place.build(mode, round);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (mut all_gone, inherited) = std::io::pipe().expect("a pipe");
    command.stdout(inherited);
    let mut child = command.spawn().expect("the binary");
    drop(command);
    let mut events = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    for _ in 0..lines {
        if events.read_line(&mut said).expect("text") == 0 {
            break;
        }
    }
    let pid = Pid::from_child(&child);
    // Gone already is as good.
    let _ = rustix::process::kill_process(pid, signal);
    events.read_to_string(&mut said).expect("text");
    let status = child.wait().expect("a child");
    all_gone.read_to_end(&mut Vec::new()).expect("a pipe");
    assert!(!said.contains("panicked"), "{title}: {said}");
    if status.success() {
        return false;
    }
    if signal != Signal::KILL && status.code().is_some() {
        assert!(said.contains("cancelled"), "{title}: {said}");
    }
    true
}

/// Processes that see a mount of the state directory, or were started by a build of it.
fn processes_of(place: &Place) -> Vec<String> {
    let state = place.dir.path().join("state").display().to_string();
    let mut found = Vec::new();
    for item in std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok) {
        let read = |name: &str| std::fs::read(item.path().join(name)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let mounts = read("mountinfo");
        let sees = mounts.windows(state.len()).any(|window| window == state.as_bytes());
        if sees || line.contains("sleep 7654321") {
            found.push(line);
        }
    }
    found
}

fn nothing_is_left(place: &Place) {
    let names = |path: &Path| -> Vec<String> {
        let listed = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        listed.map(|item| item.file_name().to_string_lossy().into_owned()).collect()
    };
    let state = place.dir.path().join("state");
    assert_eq!(names(&state.join("build/work")), Vec::<String>::new());
    let probes: Vec<String> =
        names(&state.join("build")).into_iter().filter(|name| name.contains("probe")).collect();
    assert_eq!(probes, Vec::<String>::new());
    let secret = b"the secret\n";
    let mut left = vec![std::path::PathBuf::from("/dev/shm/shipway-0")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(names(&path).iter().map(|name| path.join(name)));
        } else {
            let content = std::fs::read(&path).unwrap_or_default();
            assert_ne!(content, secret, "{}", path.display());
        }
    }
}
