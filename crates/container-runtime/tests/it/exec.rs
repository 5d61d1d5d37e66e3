//! Exec and attach.

use std::fs;
use std::io::{Read, Write};

use container_runtime::{
    AttachOptions, Container, ContainerError, ExecSession, ExecSpec, ExecStdin, Exit, Failure,
    Signal, Stdin, Terminal, User, WindowSize,
};

use crate::Outcome;
use crate::fixture::{Fixture, Result, same, shell, text_of};

crate::tests!(
    exec_runs_inside_with_separate_streams,
    exec_has_the_rights_it_is_given,
    exec_reads_stdin_to_its_end,
    exec_terminal_can_be_resized,
    exec_can_be_signalled,
    exec_of_a_missing_program_says_so,
    exec_ends_with_its_container,
    exec_in_an_ended_container_is_refused,
    attached_reader_sees_what_follows,
    attached_writer_reaches_stdin_once,
    terminal_container_logs_and_attaches,
    slow_reader_does_not_hold_the_container_up,
);

fn exec(script: &str) -> ExecSpec {
    ExecSpec { process: shell(script), terminal: Terminal::None, stdin: ExecStdin::Null }
}

fn sleeping(fixture: &Fixture) -> Result<Container> {
    fixture.start("a", &fixture.script("a", "exec sleep 1000")?)
}

/// Both outputs and the end of an exec.
fn collect(mut session: ExecSession) -> Result<(String, String, Exit)> {
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(stdout) = &mut session.stdout {
        stdout.read_to_string(&mut out)?;
    }
    if let Some(stderr) = &mut session.stderr {
        stderr.read_to_string(&mut err)?;
    }
    Ok((out, err, session.wait()?))
}

fn exec_runs_inside_with_separate_streams() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let ran = collect(container.exec(&exec("echo out; echo err >&2; touch /made; exit 3"))?)?;
    same(ran, ("out\n".to_owned(), "err\n".to_owned(), Exit::Code(3)))?;
    same(fixture.path("a.upper/made").exists(), true)?;
    let (first, _, _) = collect(container.exec(&exec("cat /proc/1/comm"))?)?;
    same(first.as_str(), "sleep\n")?;
    Ok(container.delete()?)
}

fn exec_has_the_rights_it_is_given() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let mut spec = exec("id -u; grep -E 'CapBnd' /proc/self/status | cut -f2; pwd");
    spec.process.user = User::named("app");
    spec.process.cwd = "/tmp".into();
    let (out, _, _) = collect(container.exec(&spec)?)?;
    same(out.as_str(), "1000\n00000000a80425fb\n/tmp\n")?;
    Ok(container.delete()?)
}

fn exec_reads_stdin_to_its_end() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let mut session = container.exec(&ExecSpec { stdin: ExecStdin::Pipe, ..exec("wc -c") })?;
    let mut stdin = session.stdin.take().ok_or("no stdin")?;
    stdin.write_all(&[b'x'; 100_000])?;
    drop(stdin);
    let (out, _, exit) = collect(session)?;
    same((out.trim(), exit), ("100000", Exit::Code(0)))?;
    Ok(container.delete()?)
}

fn read_until(from: &mut impl Read, wanted: &str) -> Result<String> {
    let (mut text, mut bytes) = (String::new(), [0; 1024]);
    while !text.contains(wanted) {
        let length = from.read(&mut bytes)?;
        if length == 0 {
            return Err(format!("ended after {text:?}").into());
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    Ok(text)
}

fn exec_terminal_can_be_resized() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let size = WindowSize { rows: 30, columns: 100 };
    let spec = ExecSpec {
        terminal: Terminal::Size(size),
        ..exec("tty; stty size; read line; stty size; echo bye")
    };
    let mut session = container.exec(&spec)?;
    let mut stdout = session.stdout.take().ok_or("no terminal")?;
    let text = read_until(&mut stdout, "30 100")?;
    same(text.starts_with("/dev/pts/"), true)?;
    session.resize(WindowSize { rows: 40, columns: 120 })?;
    session.stdin.as_mut().ok_or("no stdin")?.write_all(b"go\n")?;
    same(read_until(&mut stdout, "bye")?.contains("40 120"), true)?;
    same(session.wait()?, Exit::Code(0))?;
    Ok(container.delete()?)
}

fn exec_can_be_signalled() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let mut session = container.exec(&exec("exec sleep 1000"))?;
    session.signal(Signal::TERM)?;
    same(session.wait()?, Exit::Signal(15))?;
    same(session.wait()?.code(), 143)?;
    Ok(container.delete()?)
}

fn exec_of_a_missing_program_says_so() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let mut spec = exec("");
    spec.process.args = vec!["nope".to_owned()];
    match container.exec(&spec) {
        Err(ContainerError::Refused(Failure::Program { message, code })) => {
            same(message.as_str(), "exec: \"nope\": executable file not found in $PATH")?;
            same(code, 127)?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    Ok(container.delete()?)
}

fn exec_ends_with_its_container() -> Outcome {
    let fixture = Fixture::new()?;
    let container = sleeping(&fixture)?;
    let mut session = container.exec(&exec("exec sleep 1000"))?;
    container.kill_all()?;
    same(session.wait()?, Exit::Signal(9))?;
    same(container.wait()?.code(), 137)?;
    Ok(container.delete()?)
}

fn exec_in_an_ended_container_is_refused() -> Outcome {
    let fixture = Fixture::new()?;
    let container = fixture.start("a", &fixture.script("a", "true")?)?;
    container.wait()?;
    let refused = container.exec(&exec("true"));
    same(matches!(refused, Err(ContainerError::NotRunning { .. })), true)?;
    Ok(container.delete()?)
}

const OUTPUT: AttachOptions = AttachOptions { stdin: false, stdout: true, stderr: true };

fn attached_reader_sees_what_follows() -> Outcome {
    let fixture = Fixture::new()?;
    let container = fixture.runtime.create("a", &fixture.script("a", "echo o; echo e >&2")?)?;
    let attached = container.attach(&OUTPUT)?;
    container.start()?;
    let mut text = String::new();
    attached.stdout.ok_or("no stdout")?.read_to_string(&mut text)?;
    attached.stderr.ok_or("no stderr")?.read_to_string(&mut text)?;
    same(text.as_str(), "o\ne\n")?;
    container.wait()?;
    Ok(container.delete()?)
}

fn attached_writer_reaches_stdin_once() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "cat; echo end")?;
    spec.stdio.stdin = Stdin::Once;
    let container = fixture.start("a", &spec)?;
    let options = AttachOptions { stdin: true, stdout: false, stderr: false };
    let mut attached = container.attach(&options)?;
    attached.stdin.as_mut().ok_or("no stdin")?.write_all(b"hello\n")?;
    drop(attached);
    same(container.wait()?.code(), 0)?;
    same(text_of(&fs::read_to_string(fixture.path("a.log"))?).as_str(), "hello\nend\n")?;
    Ok(container.delete()?)
}

fn terminal_container_logs_and_attaches() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "tty; read line; echo got $line; stty size")?;
    spec.stdio.terminal = Terminal::Size(WindowSize::default());
    spec.stdio.stdin = Stdin::Open;
    let container = fixture.runtime.create("a", &spec)?;
    let mut attached = container.attach(&AttachOptions { stdin: true, ..OUTPUT })?;
    attached.resize(WindowSize { rows: 11, columns: 22 })?;
    container.start()?;
    attached.stdin.as_mut().ok_or("no stdin")?.write_all(b"hi\n")?;
    let mut text = String::new();
    attached.stdout.take().ok_or("no stdout")?.read_to_string(&mut text)?;
    same(text.contains("got hi\r\n") && text.contains("11 22\r\n"), true)
        .map_err(|_| text.clone())?;
    same(text.contains("/dev/pts/0") || text.contains("/dev/console"), true)?;
    same(container.wait()?.code(), 0)?;
    same(fs::read_to_string(fixture.path("a.log"))?.contains("got hi"), true)?;
    Ok(container.delete()?)
}

fn slow_reader_does_not_hold_the_container_up() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "head -c 4000000 /dev/zero | tr '\\0' '\\n' | head -c 3000000; echo end";
    let container = fixture.runtime.create("a", &fixture.script("a", script)?)?;
    let attached = container.attach(&OUTPUT)?;
    container.start()?;
    same(container.wait()?.code(), 0)?;
    drop(attached);
    Ok(container.delete()?)
}
