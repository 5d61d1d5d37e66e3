//! What is left when something is killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as ProcessStdio};

use container_runtime::{ContainerSpec, Mount, Root, Runtime, Sandbox, Signal, State, Stdio};

use crate::Outcome;
use crate::fixture::{Fixture, Result, mounts_below, same, shell, until_exists};

crate::tests!(
    container_survives_the_death_of_its_creator,
    killed_shim_takes_its_container_along,
    killed_shim_leaves_no_process_in_the_host_pid_namespace,
    killed_caller_of_a_step_leaves_nothing,
    creator_killed_at_any_moment_leaves_what_can_be_deleted,
);

/// What this program does as a process that will be killed.
pub(crate) fn inner(args: &[String]) -> Option<ExitCode> {
    let done = match args.first().map(String::as_str)? {
        "inner-create" => create(Path::new(&args[1])),
        "inner-run-step" => run_step(Path::new(&args[1])),
        _ => return None,
    };
    Some(ExitCode::from(u8::from(done.is_err())))
}

fn spec(dir: &Path, script: &str) -> ContainerSpec {
    let root = Root::Overlay {
        lowers: vec![dir.join("lower")],
        upper: dir.join("a.upper"),
        work: dir.join("a.work"),
    };
    ContainerSpec {
        process: shell(script),
        sandbox: Sandbox::new(root),
        cgroup: None,
        stdio: Stdio::default(),
        log_path: Some(dir.join("a.log")),
    }
}

fn create(dir: &Path) -> Result<()> {
    let runtime = Runtime::open(dir.join("containers"))?;
    let mut spec = spec(dir, "echo up; while [ ! -e /go ]; do sleep 0.02; done; echo on; exit 5");
    spec.sandbox.mounts = vec![Mount::tmpfs("/t")];
    runtime.create("a", &spec)?.start()?;
    crate::say("created");
    std::thread::park();
    Ok(())
}

fn run_step(dir: &Path) -> Result<()> {
    let spec = spec(dir, "sleep 1000 & echo $$; sleep 1000");
    let step = container_runtime::StepSpec { process: spec.process, sandbox: spec.sandbox };
    let mut print = |_, _: &[u8]| crate::say("running");
    container_runtime::run_step(&step, &container_runtime::Cancel::new()?, &mut print)?;
    Ok(())
}

/// Starts this program in another role, waits for its first line, and kills it.
fn killed_after_first_line(role: &str, dir: &Path) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(role)
        .arg(dir)
        .stdout(ProcessStdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    same(line.is_empty(), false)
}

fn make_dirs(fixture: &Fixture) -> Result<()> {
    fs::create_dir_all(fixture.path("a.upper"))?;
    Ok(fs::create_dir_all(fixture.path("a.work"))?)
}

fn container_survives_the_death_of_its_creator() -> Outcome {
    let fixture = Fixture::new()?;
    make_dirs(&fixture)?;
    killed_after_first_line("inner-create", &fixture.path(""))?;
    let container = fixture.runtime.container("a").ok_or("not found again")?;
    same(matches!(container.state()?, State::Running { .. }), true)?;
    let pid = container.pid()?;
    fs::write(format!("/proc/{pid}/root/go"), "")?;
    same(container.wait()?.code(), 5)?;
    same(crate::fixture::text_of(&fs::read_to_string(fixture.path("a.log"))?), "up\non\n".into())?;
    container.delete()?;
    same(mounts_below(&fixture.path(""))?, Vec::new())
}

/// The shim's number, as an operator would find it.
fn shim_of(pid: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
    Ok(parent.ok_or("no parent")?.parse()?)
}

fn kill(pid: u32) -> Result<()> {
    same(Command::new("kill").arg("-9").arg(pid.to_string()).status()?.success(), true)
}

fn processes_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&*dir.to_string_lossy()) {
            found.push(path);
        }
    }
    Ok(found)
}

fn killed_shim_takes_its_container_along() -> Outcome {
    let fixture = Fixture::new()?;
    let container = fixture.start("a", &fixture.script("a", "sleep 1000 & sleep 1000")?)?;
    let pid = container.pid()?;
    kill(shim_of(pid)?)?;
    let ended = container.wait()?;
    same(ended.exit, None)?;
    same(ended.code(), 137)?;
    same(Path::new(&format!("/proc/{pid}/root/bin")).exists(), false)?;
    container.delete()?;
    same(mounts_below(&fixture.path(""))?, Vec::new())
}

fn killed_shim_leaves_no_process_in_the_host_pid_namespace() -> Outcome {
    let fixture = Fixture::new()?;
    let marker = fixture.path("marker");
    let script =
        format!("setsid sh -c 'echo > /up; sleep 1000; : {}' & sleep 1000", marker.display());
    let mut spec = fixture.script("a", &script)?;
    spec.sandbox.namespaces.pid = container_runtime::Namespace::Host;
    let container = fixture.start("a", &spec)?;
    let pid = container.pid()?;
    until_exists(&fixture.path("a.upper/up"));
    kill(shim_of(pid)?)?;
    same(container.wait()?.exit, None)?;
    container.delete()?;
    same(processes_below(&marker)?, Vec::new())?;
    same(container.signal(Signal::KILL).is_err(), true)
}

fn killed_caller_of_a_step_leaves_nothing() -> Outcome {
    let fixture = Fixture::new()?;
    make_dirs(&fixture)?;
    killed_after_first_line("inner-run-step", &fixture.path(""))?;
    // The helper ends the step on its own; the same directories are then free for the next.
    let spec = fixture.step("a", "echo again")?;
    let again = crate::fixture::run_to_text(&spec)?;
    same(again.1, "again\n".to_owned())?;
    same(mounts_below(&fixture.path(""))?, Vec::new())
}

fn creator_killed_at_any_moment_leaves_what_can_be_deleted() -> Outcome {
    let fixture = Fixture::new()?;
    make_dirs(&fixture)?;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("inner-create")
            .arg(fixture.path(""))
            .stdout(ProcessStdio::null())
            .spawn()?;
        // Any moment of the start will do; nothing is waited for.
        std::thread::park_timeout(std::time::Duration::from_micros(round * 400));
        child.kill()?;
        child.wait()?;
        for container in fixture.runtime.list()? {
            container.delete()?;
        }
        same(fs::read_dir(fixture.path("containers"))?.count(), 0)?;
    }
    same(mounts_below(&fixture.path(""))?, Vec::new())?;
    // Free for the next one, which a forgotten container would prevent.
    same(fixture.run_script("a", "exit 6")?.code, 6)
}
