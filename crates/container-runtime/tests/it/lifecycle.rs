//! From creation to deletion.

use std::fs;

use container_runtime::{CreateError, Exit, Signal, State};

use crate::Outcome;
use crate::fixture::{Fixture, mounts_below, same};

crate::tests!(
    exit_code_and_output_are_kept,
    created_container_runs_nothing_before_start,
    container_is_found_by_its_directory_alone,
    signal_reaches_the_first_process,
    kill_ends_everything_with_137,
    program_that_is_missing_is_named_at_creation,
    taken_name_is_refused,
    nothing_is_mounted_or_left_after_delete,
    zombies_of_the_container_are_reaped,
);

fn exit_code_and_output_are_kept() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run_script("a", "echo out; echo err >&2; exit 7")?;
    same(ran.code, 7)?;
    same(ran.ended.exit, Some(Exit::Code(7)))?;
    same(ran.ended.started_at.is_some(), true)?;
    let mut lines: Vec<_> = ran.output.lines().collect();
    lines.sort_unstable();
    same(lines, vec!["err", "out"])
}

fn created_container_runs_nothing_before_start() -> Outcome {
    let fixture = Fixture::new()?;
    let spec = fixture.script("a", "echo started")?;
    let container = fixture.runtime.create("a", &spec)?;
    same(container.state()?, State::Created)?;
    same(fs::read_to_string(fixture.path("a.log"))?.as_str(), "")?;
    container.start()?;
    same(container.wait()?.code(), 0)?;
    same(container.start().is_err(), true)?;
    Ok(container.delete()?)
}

fn container_is_found_by_its_directory_alone() -> Outcome {
    let fixture = Fixture::new()?;
    let spec = fixture.script("a", "read line")?;
    let container = fixture.start("a", &spec)?;
    drop(container);
    let mut spec = spec;
    spec.stdio.stdin = container_runtime::Stdin::Open;
    fixture.start("b", &spec)?;
    let again = container_runtime::Runtime::open(fixture.path("containers"))?;
    let found: Vec<_> = again.list()?.iter().map(|c| c.id().to_owned()).collect();
    same(found, vec!["a".to_owned(), "b".to_owned()])?;
    let b = again.container("b").ok_or("b is gone")?;
    same(matches!(b.state()?, State::Running { .. }), true)?;
    b.kill_all()?;
    same(b.wait()?.code(), 137)?;
    for container in again.list()? {
        container.delete()?;
    }
    Ok(())
}

fn signal_reaches_the_first_process() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let container = fixture.start("a", &fixture.script("a", script)?)?;
    let log = fixture.path("a.log");
    while !fs::read_to_string(&log)?.contains("ready") {
        std::thread::yield_now();
    }
    container.signal(Signal::TERM)?;
    same(container.wait()?.code(), 3)?;
    same(fs::read_to_string(&log)?.contains("got it"), true)?;
    same(container.signal(Signal::TERM).is_err(), true)?;
    Ok(container.delete()?)
}

fn kill_ends_everything_with_137() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "sleep 1000 & sleep 1000 & wait";
    let container = fixture.start("a", &fixture.script("a", script)?)?;
    container.kill_all()?;
    let ended = container.wait()?;
    same(ended.exit, Some(Exit::Signal(9)))?;
    same(ended.code(), 137)?;
    Ok(container.delete()?)
}

fn program_that_is_missing_is_named_at_creation() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "")?;
    for (program, message) in [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/foo", "exec: \"/foo\": stat /foo: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        spec.process.args = vec![program.to_owned()];
        let refused = fixture.runtime.create("a", &spec).map_err(|error| error.to_string());
        same(refused.err().as_deref(), Some(message))?;
    }
    same(fixture.runtime.list()?.len(), 0)
}

fn taken_name_is_refused() -> Outcome {
    let fixture = Fixture::new()?;
    let spec = fixture.script("a", "true")?;
    let container = fixture.runtime.create("a", &spec)?;
    let again = fixture.runtime.create("a", &spec);
    same(matches!(again, Err(CreateError::Exists { .. })), true)?;
    same(container.state()?, State::Created)?;
    Ok(container.delete()?)
}

fn nothing_is_mounted_or_left_after_delete() -> Outcome {
    let fixture = Fixture::new()?;
    let container = fixture.start("a", &fixture.script("a", "sleep 1000")?)?;
    let root = fixture.path("");
    same(mounts_below(&root)?, Vec::new())?;
    container.delete()?;
    same(mounts_below(&root)?, Vec::new())?;
    same(fixture.runtime.container("a").is_none(), true)?;
    same(fs::read_dir(fixture.path("containers"))?.count(), 0)?;
    // The upper directory is free: a second mount of it succeeds.
    same(fixture.run_script("a", "true")?.code, 0)
}

fn zombies_of_the_container_are_reaped() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "(sleep 0.01 &) ; (sleep 0.01 &); sleep 0.1; ps")?;
    // Without a PID namespace of its own the orphans fall to the shim.
    spec.sandbox.namespaces.pid = container_runtime::Namespace::Host;
    let ran = fixture.run("a", &spec)?;
    same(ran.code, 0)?;
    same(ran.output.contains("[sleep]"), false)
}
