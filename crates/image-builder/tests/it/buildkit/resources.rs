//! [resources/run]: limits of commands.

use std::path::PathBuf;

use container_runtime::{Mode, ResourceLimit};
use image_builder::RunResources;

use super::{Case, case};
use crate::tests;

tests![
    shared_memory_has_the_size_that_was_asked_for,
    processes_have_the_limits_that_were_asked_for,
    commands_run_in_a_group_below_the_parent,
    memory_and_processor_time_are_limited,
    names_of_the_caller_are_in_the_hosts_file,
    modes_without_namespaces_refuse_what_needs_them,
];

fn with(text: &str, resources: RunResources) -> Case {
    case(text).with(move |_, request| request.resources.clone_from(&resources))
}

/// BuildKit ShmSize.
fn shared_memory_has_the_size_that_was_asked_for() {
    let text = "FROM base\nRUN grep ' /dev/shm ' /proc/mounts | head -n 1\n";
    assert!(case(text).printed().contains("size=65536k"));
    let resources = RunResources { shm_bytes: Some(128 << 20), ..RunResources::default() };
    assert!(with(text, resources).printed().contains("size=131072k"));
}

/// BuildKit Ulimit.
fn processes_have_the_limits_that_were_asked_for() {
    const NOFILE: u32 = 7;
    let limits = vec![ResourceLimit { resource: NOFILE, soft: Some(1062), hard: Some(1100) }];
    for mode in [Mode::Overlay, Mode::Chroot] {
        let resources = RunResources { limits: limits.clone(), ..RunResources::default() };
        let text = "FROM base\nRUN ulimit -Sn; ulimit -Hn\n";
        assert_eq!(with(text, resources).in_mode(mode).printed(), "1062\n1100\n", "{mode:?}");
    }
}

/// BuildKit CgroupParent.
fn commands_run_in_a_group_below_the_parent() {
    let parent = format!("shipway-test-{}", std::process::id());
    let resources =
        RunResources { cgroup_parent: Some(PathBuf::from(&parent)), ..RunResources::default() };
    let printed = with("FROM base\nRUN cat /proc/self/cgroup\n", resources).printed();
    let groups: Vec<&str> = printed.lines().filter(|line| line.contains(&parent)).collect();
    assert!(groups.iter().any(|line| line.contains("/shipway-step-")), "{printed}");
    // The parent is the caller's to remove, and nothing is left in it.
    let mounts = std::fs::read_to_string("/proc/mounts").expect("proc");
    let homes = mounts.lines().filter(|line| line.contains(" cgroup"));
    let removed = homes
        .filter_map(|line| line.split(' ').nth(1))
        .flat_map(|home| {
            groups.iter().filter_map(move |line| {
                let path = line.splitn(3, ':').nth(2)?.rsplit_once('/')?.0;
                Some(PathBuf::from(home).join(path.trim_start_matches('/')))
            })
        })
        .filter(|path| path.is_dir() && std::fs::remove_dir(path).is_ok());
    assert!(removed.count() >= 1, "{printed}");
}

/// BuildKit LinuxResources.
fn memory_and_processor_time_are_limited() {
    let resources = RunResources {
        memory_bytes_max: Some(32 << 20),
        cpu_shares: Some(512),
        cpu_quota_micros: Some(50_000),
        ..RunResources::default()
    };
    let text = "FROM base\nRUN head -c 100000000 /dev/zero | sort > /dev/null\n";
    let error = with(text, resources.clone()).error();
    assert!(error.contains("exit code: 137"), "{error}");
    let text = "FROM base\nRUN grep -E ':(cpu|memory|):' /proc/self/cgroup\n";
    let printed = with(text, resources).printed();
    assert!(
        printed.lines().filter(|line| line.contains("/shipway-step-")).count() >= 1,
        "{printed}"
    );
}

/// docker's `--add-host`.
fn names_of_the_caller_are_in_the_hosts_file() {
    let hosts = vec![
        ("build.example".to_owned(), "10.1.2.3".parse().expect("an address")),
        ("six.example".to_owned(), "::1".parse().expect("an address")),
    ];
    let resources = RunResources { hosts, ..RunResources::default() };
    let text = "FROM base\nRUN grep example /etc/hosts\nCOPY foo /\n";
    let built = with(text, resources).file("foo", "x");
    assert_eq!(built.printed(), "10.1.2.3\tbuild.example\n::1\tsix.example\n");
    assert!(built.tree_below("etc/hosts").is_empty());
}

fn modes_without_namespaces_refuse_what_needs_them() {
    let shm = RunResources { shm_bytes: Some(1 << 20), ..RunResources::default() };
    let memory = RunResources { memory_bytes_max: Some(1 << 20), ..RunResources::default() };
    for (resources, flag) in [(shm, "--shm-size"), (memory, "--memory")] {
        let error = with("FROM base\nRUN true\n", resources).in_mode(Mode::Chroot).error();
        assert!(error.contains(flag), "{error}");
    }
}
