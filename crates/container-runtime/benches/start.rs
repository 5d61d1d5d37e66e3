//! How long a container takes: `cargo bench -p container-runtime --bench start`.
//!
//! Prints the median and the extremes of each phase in milliseconds.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use container_runtime::{
    Cancel, ContainerSpec, ExecSpec, ExecStdin, Process, Root, Runtime, Sandbox, Stdio, StepSpec,
    Terminal, UserNamespace, run_step,
};

const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    container_runtime::reexec();
    let dir = tempfile::tempdir()?;
    let lower = dir.path().join("lower");
    fs::create_dir_all(lower.join("bin"))?;
    fs::copy("/bin/busybox", lower.join("bin/busybox"))?;
    for applet in ["sh", "true", "sleep"] {
        symlink("busybox", lower.join("bin").join(applet))?;
    }
    let overlay = |name: &str| -> Result<Root, Box<dyn Error>> {
        let (upper, work) =
            (dir.path().join(format!("{name}.u")), dir.path().join(format!("{name}.w")));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        Ok(Root::Overlay { lowers: vec![lower.clone()], upper, work })
    };
    let runtime = Runtime::open(dir.path().join("containers"))?;
    let mut phases: Vec<(&'static str, Vec<Duration>)> = Vec::new();
    for round in 0..ROUNDS {
        let id = format!("c{round}");
        let spec = ContainerSpec {
            process: Process::new(["/bin/sleep", "1000"]),
            sandbox: Sandbox::new(overlay(&id)?),
            cgroup: None,
            stdio: Stdio::default(),
            log_path: Some(dir.path().join(format!("{id}.log"))),
        };
        let container = timed(&mut phases, "create", || runtime.create(&id, &spec))?;
        timed(&mut phases, "start", || container.start())?;
        let exec = ExecSpec {
            process: Process::new(["/bin/true"]),
            terminal: Terminal::None,
            stdin: ExecStdin::Null,
        };
        timed(&mut phases, "exec to its end", || -> Result<_, Box<dyn Error>> {
            Ok(container.exec(&exec)?.wait()?)
        })?;
        timed(&mut phases, "kill to end seen", || {
            container.kill_all().and_then(|()| container.wait())
        })?;
        timed(&mut phases, "delete", || container.delete())?;
        for (phase, user) in [
            ("step, overlay", UserNamespace::Host),
            ("step, user namespace", UserNamespace::Identity),
        ] {
            let mut sandbox = Sandbox::new(overlay(&format!("{id}.{user:?}"))?);
            sandbox.namespaces.user = user;
            let step = StepSpec { process: Process::new(["/bin/true"]), sandbox };
            let cancel = Cancel::new()?;
            timed(&mut phases, phase, || run_step(&step, &cancel, &mut |_, _| {}))?;
        }
    }
    for (name, times) in &mut phases {
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (min, max) = (ms(times[0]), ms(times[times.len() - 1]));
        report(&format!(
            "{name:22} median {:6.1} min {min:6.1} max {max:6.1} ms",
            ms(times[times.len() / 2])
        ));
    }
    Ok(())
}

/// Runs a phase and notes how long it took.
fn timed<T, E>(
    phases: &mut Vec<(&'static str, Vec<Duration>)>,
    name: &'static str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    match phases.iter_mut().find(|(known, _)| *known == name) {
        Some((_, times)) => times.push(took),
        None => phases.push((name, vec![took])),
    }
    done
}

#[expect(clippy::print_stdout, reason = "a bench reports")]
fn report(line: &str) {
    println!("{line}");
}
