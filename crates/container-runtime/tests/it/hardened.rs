//! The pod of a build: default capabilities, seccomp RuntimeDefault. This test program runs
//! again inside such a container and reports what it could do there.

use std::path::Path;
use std::process::ExitCode;

use container_runtime::{
    ContainerSpec, Exit, InPlaceSpec, Mode, Mount, Root, Sandbox, SeccompProfile, StepSpec,
    UserNamespace, probe_isolation,
};

use crate::Outcome;
use crate::fixture::{Fixture, Result, run_in_place_to_text, run_to_text, same, shell};

crate::tests!(
    host_with_all_rights_has_every_mode,
    hardened_pod_gets_in_place_and_says_why_not_more,
    unconfined_pod_without_sys_admin_gets_user_namespaces,
    plain_user_gets_none_with_advice,
    step_in_place_works_in_the_hardened_pod,
    step_in_a_user_namespace_works_in_the_unconfined_pod,
    stragglers_of_a_step_in_place_are_killed,
);

/// What this program does inside a container.
pub(crate) fn inner(args: &[String]) -> Option<ExitCode> {
    let done = match args.first().map(String::as_str)? {
        "inner-probe" => probe(),
        "inner-step" => step(&args[1]),
        "inner-sandboxed-step" => sandboxed_step(&args[1]),
        _ => return None,
    };
    Some(match done {
        Ok(text) => {
            crate::say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::say(&error.to_string());
            ExitCode::FAILURE
        }
    })
}

fn probe() -> Result<String> {
    let found = probe_isolation(Path::new("/state"))?;
    let mut lines = vec![format!("permitted {:?}", found.permitted)];
    lines.push(format!("users {:?} fresh_proc {}", found.users, found.fresh_proc));
    for refusal in found.refused {
        lines.push(format!("{:?}: {}", refusal.mode, refusal.reason));
    }
    Ok(lines.join("\n"))
}

fn step(script: &str) -> Result<String> {
    let spec = InPlaceSpec { process: shell(script), chroot: None };
    let (outcome, text) = run_in_place_to_text(&spec)?;
    Ok(format!("{text}exit {:?}", outcome.exit))
}

/// A step on an overlay in the pod's state directory.
fn sandboxed_step(script: &str) -> Result<String> {
    for name in ["/state/upper", "/state/work"] {
        std::fs::create_dir_all(name)?;
    }
    let root = Root::Overlay {
        lowers: vec!["/lower".into()],
        upper: "/state/upper".into(),
        work: "/state/work".into(),
    };
    let mut sandbox = Sandbox::new(root);
    sandbox.namespaces.user = UserNamespace::Identity;
    let (outcome, text) = run_to_text(&StepSpec { process: shell(script), sandbox })?;
    Ok(format!("{text}exit {:?}", outcome.exit))
}

/// A container in which this program can run, with a state directory that is not an overlay.
fn pod(fixture: &Fixture, args: &[&str]) -> Result<ContainerSpec> {
    let mut spec = fixture.script("pod", "")?;
    let own = std::env::current_exe()?;
    std::fs::create_dir_all(fixture.path("state"))?;
    spec.sandbox.mounts = vec![
        Mount::bind(own, "/it").read_only(),
        Mount::bind(fixture.path("state"), "/state"),
        Mount::bind(fixture.lower(), "/lower").read_only(),
    ];
    spec.process.args = ["/it"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    spec.process.seccomp = SeccompProfile::RuntimeDefault;
    Ok(spec)
}

fn host_with_all_rights_has_every_mode() -> Outcome {
    let fixture = Fixture::new()?;
    let found = probe_isolation(&fixture.path(""))?;
    let all = vec![Mode::Overlay, Mode::UserNamespace, Mode::InPlace, Mode::Chroot, Mode::None];
    same(found.permitted, all)?;
    same(found.refused, Vec::new())?;
    same(found.fresh_proc, true)
}

fn hardened_pod_gets_in_place_and_says_why_not_more() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run("pod", &pod(&fixture, &["inner-probe"])?)?;
    let expected = "permitted [InPlace, Chroot, None]\n\
        users Identity fresh_proc true\n\
        Overlay: create namespaces: Operation not permitted (os error 1) \
        (CAP_SYS_ADMIN is missing)\n\
        UserNamespace: create namespaces: Operation not permitted (os error 1) \
        (a seccomp filter forbids it: set seccompProfile Unconfined, or hostUsers: false)\n";
    same(ran.output.as_str(), expected)?;
    same(std::fs::read_dir(fixture.path("state"))?.count(), 0)
}

fn unconfined_pod_without_sys_admin_gets_user_namespaces() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = pod(&fixture, &["inner-probe"])?;
    spec.process.seccomp = SeccompProfile::Unconfined;
    let ran = fixture.run("pod", &spec)?;
    let mut lines = ran.output.lines();
    same(lines.next(), Some("permitted [UserNamespace, InPlace, Chroot, None]"))?;
    // The pod's /proc is masked, so the kernel shows no other one.
    same(lines.next(), Some("users Identity fresh_proc false"))?;
    same(lines.next().is_some_and(|line| line.contains("CAP_SYS_ADMIN is missing")), true)
}

fn plain_user_gets_none_with_advice() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = pod(&fixture, &["inner-probe"])?;
    spec.process.user = container_runtime::User::ids(1000, 1000);
    std::os::unix::fs::chown(fixture.path("state"), Some(1000), None)?;
    let ran = fixture.run("pod", &spec)?;
    same(ran.output.lines().next(), Some("permitted [None]"))?;
    same(ran.output.contains("InPlace: not root: set runAsUser 0"), true)
}

fn step_in_place_works_in_the_hardened_pod() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "id -u; umask; pwd; echo $HOME; touch /f && chown 5:6 /f && stat -c %u:%g /f; \
        mount -t tmpfs t /tmp 2>/dev/null || echo no mount";
    let ran = fixture.run("pod", &pod(&fixture, &["inner-step", script])?)?;
    let expected = "0\n0022\n/\n/root\n5:6\n";
    same(ran.output.starts_with(expected), true).map_err(|_| ran.output.clone())?;
    let ending = "no mount\nexit Code(0)\n";
    same(ran.output.ends_with(ending), true).map_err(|_| ran.output.into())
}

fn step_in_a_user_namespace_works_in_the_unconfined_pod() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "touch /f && chown 70000:5 /f && stat -c %u:%g /f; rm /etc/group; \
        [ -r /proc/self/status ] && echo proc; echo x > /dev/null && echo dev; sleep 1000 &";
    let mut spec = pod(&fixture, &["inner-sandboxed-step", script])?;
    spec.process.seccomp = SeccompProfile::Unconfined;
    let ran = fixture.run("pod", &spec)?;
    same(ran.output.as_str(), "70000:5\nproc\ndev\nexit Code(0)\n")?;
    let upper = fixture.path("state/upper");
    same(upper.join("etc/group").symlink_metadata().is_ok(), true)?;
    same(std::fs::read_dir(upper)?.count(), 2)
}

fn stragglers_of_a_step_in_place_are_killed() -> Outcome {
    let fixture = Fixture::new()?;
    let alive = fixture.path("alive");
    let script = format!(
        "setsid sh -c 'sh -c \"echo \\$\\$ > {0}; sleep 1000\" & sleep 1000' & \
         while [ ! -s {0} ]; do sleep 0.01; done; exit 4",
        alive.display()
    );
    let spec = InPlaceSpec { process: shell(&script), chroot: None };
    let (outcome, _) = run_in_place_to_text(&spec)?;
    same(outcome.exit, Exit::Code(4))?;
    let pid = std::fs::read_to_string(alive)?;
    same(Path::new("/proc").join(pid.trim()).exists(), false)
}
