//! What a container cannot do.

use std::fs;
use std::os::unix::fs::symlink;

use container_runtime::{
    CapabilitySet, Mount, Namespace, Network, Sandbox, SeccompProfile, UserNamespace,
};

use crate::Outcome;
use crate::fixture::{Fixture, run_to_text, same};

crate::tests!(
    masked_paths_show_nothing,
    kernel_settings_cannot_be_written,
    made_device_node_cannot_be_opened,
    default_rights_cannot_mount,
    runtime_default_filters_by_capability,
    runtime_default_lets_an_ordinary_program_work,
    filter_holds_with_and_without_new_privileges,
    privileged_container_may_mount_and_sees_devices,
    own_namespaces_differ_from_the_hosts,
    host_namespaces_are_the_hosts_on_request,
    containers_of_a_pod_share_namespaces,
    host_name_is_set,
    network_of_none_has_loopback_only,
    sysctls_are_written_inside,
    other_processes_are_out_of_sight,
    helper_binary_cannot_be_written_from_inside,
    identity_user_namespace_holds_every_user,
);

fn masked_paths_show_nothing() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do \
        [ -e $f ] && head -c 1 $f | wc -c; done; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v :";
    let ran = fixture.run_script("a", script)?;
    same(ran.output.lines().all(|line| line == "0" || line.is_empty()), true)
        .map_err(|_| ran.output.into())
}

fn kernel_settings_cannot_be_written() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /sys/power/state; do \
        [ ! -e $f ] || echo x 2>/dev/null > $f || echo refused; done";
    let ran = fixture.run_script("a", script)?;
    same(ran.output.lines().all(|line| line == "refused"), true)?;
    same(ran.output.lines().count() >= 2, true)
}

fn made_device_node_cannot_be_opened() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "for d in /tmp /dev /vol; do mknod $d/disk b 254 0 && \
        { head -c 1 $d/disk >/dev/null 2>&1 || echo closed; }; done";
    fs::create_dir(fixture.path("vol"))?;
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![Mount::bind(fixture.path("vol"), "/vol")];
    same(fixture.run("a", &spec)?.output.as_str(), "closed\nclosed\nclosed\n")
}

fn default_rights_cannot_mount() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "mount -t tmpfs t /tmp 2>/dev/null || echo no mount; \
        unshare -m true 2>/dev/null || echo no unshare; \
        hostname x 2>/dev/null || echo no hostname";
    same(fixture.run_script("a", script)?.output.as_str(), "no mount\nno unshare\nno hostname\n")
}

fn runtime_default_filters_by_capability() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "grep '^Seccomp:' /proc/self/status | cut -f2; \
        unshare -U true 2>/dev/null && echo new user || echo no user; \
        mount -t tmpfs t /tmp 2>/dev/null && echo mounted || echo no mount";
    let mut spec = fixture.script("a", script)?;
    same(fixture.run("a", &spec)?.output.as_str(), "0\nnew user\nno mount\n")?;
    spec.process.seccomp = SeccompProfile::RuntimeDefault;
    spec.log_path = Some(fixture.path("b.log"));
    same(fixture.run("b", &spec)?.output.as_str(), "2\nno user\nno mount\n")?;
    spec.process.capabilities.bounding = CapabilitySet::DEFAULT.with("SYS_ADMIN".parse()?);
    spec.log_path = Some(fixture.path("c.log"));
    same(fixture.run("c", &spec)?.output.as_str(), "2\nnew user\nmounted\n")
}

fn runtime_default_lets_an_ordinary_program_work() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "(sleep 0.01; echo a) | sort; touch /f && chown 1:1 /f && chmod 600 /f && \
        mv /f /g && ln /g /h && tar cf /t.tar /g && find / -xdev >/dev/null && \
        su app -c 'id -u' && kill -0 $$ && echo done";
    let mut spec = fixture.script("a", script)?;
    spec.process.seccomp = SeccompProfile::RuntimeDefault;
    let output = fixture.run("a", &spec)?.output;
    same(output.ends_with("1000\ndone\n"), true).map_err(|_| output.into())
}

fn filter_holds_with_and_without_new_privileges() -> Outcome {
    let fixture = Fixture::new()?;
    for (id, restricted) in [("a", false), ("b", true)] {
        for user in ["0", "1000"] {
            let id = format!("{id}{user}");
            let mut spec = fixture.script(&id, "grep '^Seccomp:' /proc/self/status | cut -f2")?;
            spec.process.seccomp = SeccompProfile::RuntimeDefault;
            spec.process.no_new_privileges = restricted;
            spec.process.user = container_runtime::User::named(user);
            spec.process.capabilities.bounding =
                if restricted { CapabilitySet::EMPTY } else { CapabilitySet::DEFAULT };
            same(fixture.run(&id, &spec)?.output.as_str(), "2\n")?;
        }
    }
    Ok(())
}

fn privileged_container_may_mount_and_sees_devices() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "mount -t tmpfs t /tmp && echo mounted; [ -c /dev/kmsg ] && echo kmsg; \
        touch /sys/x 2>&1 | grep -c 'Read-only'; echo x > /proc/sys/kernel/domainname && echo set";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox = Sandbox::new(fixture.overlay("a")?).privileged();
    spec.process.capabilities.bounding = CapabilitySet::ALL;
    same(fixture.run("a", &spec)?.output.as_str(), "mounted\nkmsg\n0\nset\n")
}

const NAMESPACES: &str = "for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done";

fn own_namespaces_differ_from_the_hosts() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run_script("a", NAMESPACES)?;
    for (name, line) in ["mnt", "pid", "ipc", "uts", "net"].iter().zip(ran.output.lines()) {
        let host = fs::read_link(format!("/proc/self/ns/{name}"))?;
        same((*name, host.to_string_lossy() == line), (*name, *name == "net"))?;
    }
    Ok(())
}

fn host_namespaces_are_the_hosts_on_request() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", NAMESPACES)?;
    spec.sandbox.namespaces.pid = Namespace::Host;
    spec.sandbox.namespaces.ipc = Namespace::Host;
    spec.sandbox.namespaces.uts = Namespace::Host;
    let ran = fixture.run("a", &spec)?;
    for (name, line) in ["mnt", "pid", "ipc", "uts", "net"].iter().zip(ran.output.lines()) {
        let host = fs::read_link(format!("/proc/self/ns/{name}"))?;
        same((*name, host.to_string_lossy() == line), (*name, *name != "mnt"))?;
    }
    Ok(())
}

fn containers_of_a_pod_share_namespaces() -> Outcome {
    let fixture = Fixture::new()?;
    let mut first = fixture.script("a", "exec sleep 1000")?;
    first.sandbox.hostname = Some("pod".to_owned());
    let sandbox = fixture.start("a", &first)?;
    let (process, pid) = (sandbox.process()?, sandbox.pid()?);
    let mut second =
        fixture.script("b", "hostname; ps -o comm | grep -c sleep; kill -9 1; echo $$")?;
    second.sandbox.namespaces.pid = Namespace::OfProcess(process);
    second.sandbox.namespaces.ipc = Namespace::OfProcess(process);
    second.sandbox.namespaces.uts = Namespace::OfProcess(process);
    second.sandbox.namespaces.network = Network::OfProcess(process);
    let ran = fixture.run("b", &second)?;
    same(ran.output.lines().take(2).collect::<Vec<_>>(), vec!["pod", "1"])?;
    // The first process of the namespace does not hear its own members' SIGKILL.
    same(matches!(sandbox.state()?, container_runtime::State::Running { .. }), true)?;
    sandbox.delete()?;
    let late = fixture.runtime.create("c", &second).err().map(|error| error.to_string());
    let refused = format!("open the pid namespace of {pid}");
    same(late.as_deref().is_some_and(|text| text.contains(&refused)), true)
}

fn host_name_is_set() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "hostname")?;
    spec.sandbox.hostname = Some("web-0".to_owned());
    same(fixture.run("a", &spec)?.output.as_str(), "web-0\n")
}

fn network_of_none_has_loopback_only() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec =
        fixture.script("a", "ls /sys/class/net; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo up")?;
    spec.sandbox.namespaces.network = Network::None;
    same(fixture.run("a", &spec)?.output.as_str(), "lo\nup\n")
}

fn sysctls_are_written_inside() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "cat /proc/sys/kernel/shm_rmid_forced")?;
    let sysctl = |name: &str| vec![(name.to_owned(), "1".to_owned())];
    spec.sandbox.sysctls = sysctl("kernel.shm_rmid_forced");
    same(fixture.run("a", &spec)?.output.as_str(), "1\n")?;
    for name in ["kernel/../x", "no.such.thing", ""] {
        spec.sandbox.sysctls = sysctl(name);
        same(fixture.runtime.create("b", &spec).is_err(), true)?;
    }
    Ok(())
}

fn other_processes_are_out_of_sight() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run_script("a", "echo $$; ls /proc | grep -c '^[0-9]'")?;
    // The shell, and the two ends of the pipe.
    same(ran.output.as_str(), "1\n3\n")
}

fn helper_binary_cannot_be_written_from_inside() -> Outcome {
    let fixture = Fixture::new()?;
    // A script whose interpreter is the helper itself, started by an exec (CVE-2019-5736).
    symlink("/proc/self/exe", fixture.lower().join("bin/evil"))?;
    let own = fs::metadata(std::env::current_exe()?)?;
    let mut spec = fixture.script("a", "true")?;
    spec.process.args = vec!["/bin/evil".to_owned(), "--list".to_owned()];
    // The helper starts itself inside the container: this program, which lists its tests.
    same(fixture.run("a", &spec)?.output.contains("security::"), true)?;
    let after = fs::metadata(std::env::current_exe()?)?;
    same(after.len(), own.len())?;
    let script = "while ! p=$(ls -d /proc/[0-9]*/exe | tail -1); do :; done; \
        for p in /proc/[0-9]*/exe; do ( : >> $p ) 2>/dev/null && echo written $p; done; true";
    same(fixture.run_script("b", script)?.output.contains("written"), false)
}

fn identity_user_namespace_holds_every_user() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "cat /proc/self/uid_map | tr -s ' '; touch /f; chown 70000:60000 /f; \
        stat -c %u:%g /f; echo x > /dev/null && echo null; ps | wc -l";
    let mut spec = fixture.step("a", script)?;
    spec.sandbox.namespaces.user = UserNamespace::Identity;
    let (outcome, text) = run_to_text(&spec)?;
    same(text.as_str(), " 0 0 4294967295\n70000:60000\nnull\n4\n")?;
    same(outcome.exit.is_success(), true)?;
    use std::os::unix::fs::MetadataExt;
    same(fs::metadata(fixture.path("a.upper/f"))?.uid(), 70000)
}
