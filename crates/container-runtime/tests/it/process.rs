//! What the first process of a container is: user, environment, limits, rights.

use std::fs;

use container_runtime::{
    Capabilities, CapabilitySet, CgroupLimits, ImageGroups, ResourceLimit, User,
};

use crate::Outcome;
use crate::fixture::{Fixture, same};

crate::tests!(
    user_is_resolved_in_the_image,
    numeric_user_needs_no_entry,
    unknown_user_is_refused_by_name,
    environment_and_working_directory_are_as_asked,
    missing_working_directory_is_created,
    umask_is_applied,
    resource_limits_are_applied,
    oom_score_is_applied,
    default_capabilities_are_the_fourteen,
    dropped_and_added_capabilities_show,
    plain_user_has_no_effective_capability,
    ambient_capability_survives_the_start,
    no_new_privileges_is_set_on_request,
    plain_user_can_open_its_standard_streams,
    format_error_is_reported_at_the_start,
    signals_are_at_their_defaults,
    no_descriptor_but_the_three_is_inherited,
    environment_is_nowhere_on_disk,
    hybrid_cgroups_limit_memory_and_processes,
);

fn user_is_resolved_in_the_image() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "id; echo $HOME")?;
    spec.process.user = User { groups: vec![77], ..User::named("app") };
    let ran = fixture.run("a", &spec)?;
    let expected = "uid=1000(app) gid=1001(app) groups=50(staff),77\n/home/app\n";
    same(ran.output.replace("groups=77,50(staff)", "groups=50(staff),77").as_str(), expected)?;
    let container = fixture.runtime.create("b", &spec)?;
    let user = container.user()?;
    same((user.uid, user.gid, user.groups), (1000, 1001, vec![77, 50]))?;
    Ok(container.delete()?)
}

fn numeric_user_needs_no_entry() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "id -u; id -g; id -G; echo $HOME")?;
    spec.process.user =
        User { groups: vec![2000], image_groups: ImageGroups::Ignore, ..User::ids(4242, 4343) };
    same(fixture.run("a", &spec)?.output.as_str(), "4242\n4343\n4343 2000\n/\n")
}

fn unknown_user_is_refused_by_name() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "true")?;
    spec.process.user = User::named("eve");
    let refused = fixture.runtime.create("a", &spec).map_err(|error| error.to_string());
    let expected = "unable to find user eve: no matching entries in passwd file";
    same(refused.err().as_deref(), Some(expected))
}

fn environment_and_working_directory_are_as_asked() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "env | sort; pwd")?;
    spec.process.env.push(("A".to_owned(), "one two".to_owned()));
    spec.process.cwd = "/tmp".into();
    let ran = fixture.run("a", &spec)?;
    same(ran.output.as_str(), "A=one two\nHOME=/root\nPATH=/bin\nPWD=/tmp\nSHLVL=1\n/tmp\n")
}

fn missing_working_directory_is_created() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "pwd; stat -c '%a %u' /srv/app")?;
    spec.process.cwd = "/srv/app".into();
    same(fixture.run("a", &spec)?.output.as_str(), "/srv/app\n755 0\n")
}

fn umask_is_applied() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "umask; touch /f; stat -c %a /f")?;
    spec.process.umask = 0o077;
    same(fixture.run("a", &spec)?.output.as_str(), "0077\n600\n")?;
    same(fixture.run_script("b", "umask")?.output.as_str(), "0022\n")
}

fn resource_limits_are_applied() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "ulimit -Sn; ulimit -Hn")?;
    let limit = ResourceLimit { resource: 7, soft: Some(100), hard: Some(200) };
    spec.process.limits = vec![limit];
    same(fixture.run("a", &spec)?.output.as_str(), "100\n200\n")
}

fn oom_score_is_applied() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "cat /proc/self/oom_score_adj")?;
    spec.process.oom_score_adj = Some(1000);
    same(fixture.run("a", &spec)?.output.as_str(), "1000\n")
}

const SHOW: &str = "grep -E 'Cap|NoNew' /proc/self/status | tr -s '\\t' ' '";

fn default_capabilities_are_the_fourteen() -> Outcome {
    let fixture = Fixture::new()?;
    let expected = "CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\n\
        CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\n\
        NoNewPrivs: 0\n";
    same(fixture.run_script("a", SHOW)?.output.as_str(), expected)
}

fn dropped_and_added_capabilities_show() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "grep CapEff /proc/self/status | cut -f2")?;
    let set = CapabilitySet::from_add_drop(["NET_ADMIN"], ["ALL"])?;
    spec.process.capabilities = Capabilities { bounding: set, ambient: CapabilitySet::EMPTY };
    same(fixture.run("a", &spec)?.output.as_str(), "0000000000001000\n")
}

fn plain_user_has_no_effective_capability() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "grep -E 'CapEff|CapBnd' /proc/self/status | cut -f2")?;
    spec.process.user = User::ids(1000, 1000);
    same(fixture.run("a", &spec)?.output.as_str(), "0000000000000000\n00000000a80425fb\n")
}

fn ambient_capability_survives_the_start() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "grep CapEff /proc/self/status | cut -f2")?;
    spec.process.user = User::ids(1000, 1000);
    spec.process.capabilities.ambient = CapabilitySet::EMPTY.with("NET_BIND_SERVICE".parse()?);
    same(fixture.run("a", &spec)?.output.as_str(), "0000000000000400\n")
}

fn no_new_privileges_is_set_on_request() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "grep NoNew /proc/self/status | cut -f2")?;
    spec.process.no_new_privileges = true;
    same(fixture.run("a", &spec)?.output.as_str(), "1\n")
}

fn plain_user_can_open_its_standard_streams() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "echo x > /dev/stdout; echo y > /dev/stderr; echo $?")?;
    spec.process.user = User::ids(1000, 1000);
    let ran = fixture.run("a", &spec)?;
    same((ran.code, ran.output.lines().count()), (0, 3))
}

fn format_error_is_reported_at_the_start() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "")?;
    let program = fixture.lower().join("bin/odd");
    fs::write(&program, "\0 no program")?;
    std::os::unix::fs::chown(&program, Some(0), Some(0))?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    spec.process.args = vec!["odd".to_owned()];
    let container = fixture.runtime.create("a", &spec)?;
    let refused = container.start().map_err(|error| error.to_string());
    same(refused.err().as_deref(), Some("exec /bin/odd: exec format error"))?;
    same(container.wait()?.code(), 126)?;
    Ok(container.delete()?)
}

fn signals_are_at_their_defaults() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run_script("a", "grep -E 'SigBlk|SigIgn' /proc/self/status | cut -f2")?;
    same(ran.output.as_str(), "0000000000000000\n0000000000000000\n")
}

fn no_descriptor_but_the_three_is_inherited() -> Outcome {
    let fixture = Fixture::new()?;
    // The fourth is the directory that is being listed.
    same(fixture.run_script("a", "ls /proc/self/fd | wc -l")?.output.as_str(), "4\n")
}

fn environment_is_nowhere_on_disk() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "sleep 1000")?;
    spec.process.env.push(("TOKEN".to_owned(), "s3cret-value".to_owned()));
    let container = fixture.start("a", &spec)?;
    let found = std::process::Command::new("grep")
        .args(["-r", "s3cret-value"])
        .arg(fixture.path("containers"))
        .output()?;
    same(String::from_utf8(found.stdout)?.as_str(), "")?;
    Ok(container.delete()?)
}

fn hybrid_cgroups_limit_memory_and_processes() -> Outcome {
    let fixture = Fixture::new()?;
    let id = format!("test-{}", std::process::id());
    let limits = CgroupLimits {
        path: format!("shipway-test/{id}").into(),
        cpu_shares: Some(512),
        cpu_quota_micros: Some(50_000),
        memory_bytes_max: Some(32 << 20),
        pids_max: Some(20),
        ..CgroupLimits::default()
    };
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; \
        do sleep 5 & done; exit 0";
    let mut spec = fixture.script("fork", script)?;
    spec.cgroup = Some(limits.clone());
    let container = fixture.runtime.create("fork", &spec)?;
    if !container.degraded()?.is_empty() {
        // A machine without writable groups must say so for each limit, and still run.
        same(container.degraded()?.len(), 3)?;
        container.start()?;
        container.wait()?;
        return Ok(container.delete()?);
    }
    container.start()?;
    same(container.wait()?.code() != 0, true)?;
    container.delete()?;

    let mut spec = fixture.script("oom", "tail /dev/zero")?;
    spec.cgroup = Some(limits);
    let ran = fixture.run("oom", &spec)?;
    same((ran.ended.oom_killed, ran.code), (true, 137))?;
    let rest = fs::read_to_string("/proc/self/mountinfo")?;
    for mount in rest.lines().filter_map(|line| line.split(' ').nth(4)) {
        same(std::path::Path::new(mount).join("shipway-test").exists(), false)?;
    }
    Ok(())
}
