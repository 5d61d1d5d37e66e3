//! Steps of a build.

use std::fs;
use std::thread;

use container_runtime::{
    Cancel, Exit, InPlaceSpec, Mount, Network, StepError, Stream, UserNamespace, remove_stubs,
    run_step,
};

use crate::Outcome;
use crate::fixture::{Fixture, mounts_below, run_in_place_to_text, run_to_text, same, shell};

crate::tests!(
    step_output_is_told_apart_by_stream,
    failing_step_is_an_outcome,
    missing_program_is_an_error_with_its_code,
    step_in_a_user_namespace_leaves_the_same_upper_directory,
    background_processes_end_with_the_step,
    cancelled_step_ends_with_all_it_started,
    mounts_of_a_step_work_in_both_modes,
    step_without_network_has_none,
    fresh_proc_is_there_in_both_modes,
    deletions_in_a_user_namespace_are_whiteouts,
    chroot_step_runs_below_its_directory,
    step_in_place_runs_as_the_user_asked_for,
    stubs_that_had_to_be_made_are_named,
);

fn step_output_is_told_apart_by_stream() -> Outcome {
    let fixture = Fixture::new()?;
    let spec = fixture.step("a", "echo out; echo err >&2")?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut sort = |stream: Stream, bytes: &[u8]| match stream {
        Stream::Stdout => out.extend_from_slice(bytes),
        Stream::Stderr => err.extend_from_slice(bytes),
    };
    let outcome = run_step(&spec, &Cancel::new()?, &mut sort)?;
    same((out, err), (b"out\n".to_vec(), b"err\n".to_vec()))?;
    same(outcome.exit, Exit::Code(0))
}

fn failing_step_is_an_outcome() -> Outcome {
    let fixture = Fixture::new()?;
    same(run_to_text(&fixture.step("a", "exit 42")?)?.0.exit, Exit::Code(42))?;
    let killed = run_to_text(&fixture.step("b", "sh -c 'kill -9 $$'; exit $?")?)?;
    same(killed.0.exit, Exit::Code(137))
}

fn missing_program_is_an_error_with_its_code() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.step("a", "")?;
    spec.process.args = vec!["/bin/nope".to_owned()];
    let refused = run_to_text(&spec).map_err(|error| error.to_string());
    let expected = "exec: \"/bin/nope\": stat /bin/nope: no such file or directory";
    same(refused.err().as_deref(), Some(expected))
}

fn step_in_a_user_namespace_leaves_the_same_upper_directory() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "mkdir -p /app/sub && echo x > /app/sub/f && chown -R 7:8 /app && ln -s f /app/l; \
        chmod 4755 /app/sub/f";
    for (name, user) in [("a", UserNamespace::Host), ("b", UserNamespace::Identity)] {
        let mut spec = fixture.step(name, script)?;
        spec.sandbox.namespaces.user = user;
        let (outcome, text) = run_to_text(&spec)?;
        same((outcome.exit, text.as_str()), (Exit::Code(0), ""))?;
        same(outcome.stubs, Vec::new())?;
    }
    let listing = |name: &str| {
        let script = "find . -printf '%P %m %U:%G %l %y\\n' | sort";
        let upper = fixture.path(name);
        std::process::Command::new("sh").args(["-c", script]).current_dir(upper).output()
    };
    let (a, b) = (listing("a.upper")?.stdout, listing("b.upper")?.stdout);
    same(String::from_utf8(a.clone())?, String::from_utf8(b)?)?;
    same(String::from_utf8(a)?.contains("app/sub/f 4755 7:8"), true)
}

fn background_processes_end_with_the_step() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &); echo started";
    let (outcome, text) = run_to_text(&fixture.step("a", script)?)?;
    same((outcome.exit, text.as_str()), (Exit::Code(0), "started\n"))?;
    same(mounts_below(&fixture.path(""))?, Vec::new())
}

fn cancelled_step_ends_with_all_it_started() -> Outcome {
    let fixture = Fixture::new()?;
    for user in [UserNamespace::Host, UserNamespace::Identity] {
        let mut spec = fixture.step("a", "sleep 1000 & echo running; sleep 1000")?;
        spec.sandbox.namespaces.user = user;
        let cancel = Cancel::new()?;
        let mut on_output = |_: Stream, _: &[u8]| cancel.cancel();
        let ended = run_step(&spec, &cancel, &mut on_output);
        same(matches!(ended, Err(StepError::Cancelled)), true)?;
    }
    let cancel = Cancel::new()?;
    let other = cancel.clone();
    let canceller = thread::spawn(move || other.cancel());
    let spec = InPlaceSpec { process: shell("sleep 1000"), chroot: None };
    let ended = container_runtime::run_in_place(&spec, &cancel, &mut |_, _| {});
    same(matches!(ended, Err(StepError::Cancelled)), true)?;
    same(canceller.join().is_ok(), true)
}

fn mounts_of_a_step_work_in_both_modes() -> Outcome {
    let fixture = Fixture::new()?;
    fs::create_dir_all(fixture.path("cache"))?;
    fs::write(fixture.path("secret"), "s3cret")?;
    let script = "cat /run/secrets/token; echo x >> /cache/f; touch /scratch/f; \
        echo y 2>/dev/null > /run/secrets/token || echo refused";
    for (name, user) in [("a", UserNamespace::Host), ("b", UserNamespace::Identity)] {
        let mut spec = fixture.step(name, script)?;
        spec.sandbox.namespaces.user = user;
        spec.sandbox.mounts = vec![
            Mount::bind(fixture.path("secret"), "/run/secrets/token").read_only(),
            Mount::bind(fixture.path("cache"), "/cache"),
            Mount::tmpfs("/scratch"),
        ];
        let (_, text) = run_to_text(&spec)?;
        same(text.as_str(), "s3cretrefused\n")?;
        same(fs::read_dir(fixture.path(&format!("{name}.upper")))?.count(), 0)?;
    }
    same(fs::read_to_string(fixture.path("cache/f"))?.as_str(), "x\nx\n")
}

fn step_without_network_has_none() -> Outcome {
    let fixture = Fixture::new()?;
    for user in [UserNamespace::Host, UserNamespace::Identity] {
        let mut spec = fixture.step("a", "ls /sys/class/net")?;
        spec.sandbox.namespaces.network = Network::None;
        spec.sandbox.namespaces.user = user;
        same(run_to_text(&spec)?.1.as_str(), "lo\n")?;
    }
    Ok(())
}

fn fresh_proc_is_there_in_both_modes() -> Outcome {
    let fixture = Fixture::new()?;
    for user in [UserNamespace::Host, UserNamespace::Identity] {
        let mut spec = fixture.step("a", "echo $$; cat /proc/1/comm; true")?;
        spec.sandbox.namespaces.user = user;
        same(run_to_text(&spec)?.1.as_str(), "1\nsh\n")?;
    }
    Ok(())
}

fn deletions_in_a_user_namespace_are_whiteouts() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec =
        fixture.step("a", "rm -r /etc && mkdir /etc && echo new > /etc/f; rm /bin/vi")?;
    spec.sandbox.namespaces.user = UserNamespace::Identity;
    same(run_to_text(&spec)?.0.exit, Exit::Code(0))?;
    let script = "stat -c '%F %t:%T' bin/vi; getfattr -n user.overlay.opaque --only-values etc \
        2>/dev/null || python3 -c 'import os; print(os.getxattr(\"etc\", \"user.overlay.opaque\").decode())'";
    let out = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(fixture.path("a.upper"))
        .output()?;
    same(String::from_utf8(out.stdout)?.trim(), "character special file 0:0\ny")
}

fn chroot_step_runs_below_its_directory() -> Outcome {
    let fixture = Fixture::new()?;
    let spec = InPlaceSpec { process: shell("ls /; id -u; exit 9"), chroot: Some(fixture.lower()) };
    let (outcome, text) = run_in_place_to_text(&spec)?;
    same((outcome.exit, text.as_str()), (Exit::Code(9), "bin\netc\nroot\ntmp\n0\n"))
}

fn step_in_place_runs_as_the_user_asked_for() -> Outcome {
    let fixture = Fixture::new()?;
    let mut process = shell("id -u; id -g; umask; pwd");
    process.user = container_runtime::User::named("app");
    process.cwd = "/tmp".into();
    let spec = InPlaceSpec { process, chroot: Some(fixture.lower()) };
    same(run_in_place_to_text(&spec)?.1.as_str(), "1000\n1001\n0022\n/tmp\n")
}

fn stubs_that_had_to_be_made_are_named() -> Outcome {
    let fixture = Fixture::new()?;
    // A mount point behind a symbolic link is not where a layer of stubs has it.
    std::os::unix::fs::symlink("/real", fixture.lower().join("link"))?;
    fs::create_dir(fixture.lower().join("real"))?;
    let mut spec = fixture.step("a", "true")?;
    spec.sandbox.mounts = vec![Mount::tmpfs("/link/a/b")];
    let (outcome, _) = run_to_text(&spec)?;
    same(outcome.stubs.clone(), vec!["/real/a".into(), "/real/a/b".into()])?;
    remove_stubs(&fixture.path("a.upper"), &outcome.stubs)?;
    same(fixture.path("a.upper/real/a").exists(), false)
}
