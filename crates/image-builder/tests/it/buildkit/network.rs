//! [resources/run]: networks and rights of commands.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    commands_have_the_network_of_the_builder,
    a_command_without_network_has_loopback_alone,
    the_host_network_is_the_hosts,
    an_insecure_command_has_every_right,
    a_sandboxed_command_has_the_default_rights,
    modes_without_rights_say_what_they_lack,
];

/// BuildKit RunDefaultNetwork.
fn commands_have_the_network_of_the_builder() {
    let server = super::server::Server::start();
    let url = server.serve("/x", b"served", None);
    let text = format!("FROM base\nRUN /bin/busybox wget -q -O - {url}\n");
    assert_eq!(case(&text).printed(), "served");
}

/// BuildKit RunNoNetwork.
fn a_command_without_network_has_loopback_alone() {
    let server = super::server::Server::start();
    let url = server.serve("/x", b"served", None);
    let text = format!(
        "FROM base\nRUN --network=none grep -c : /proc/net/dev; grep -c 'lo:' /proc/net/dev; \
         /bin/busybox ip link show lo | grep -c UP; /bin/busybox wget -q -O - {url} 2>/dev/null || echo cut\n"
    );
    assert_eq!(case(&text).printed(), "1\n1\n1\ncut\n");
}

/// BuildKit RunHostNetwork.
fn the_host_network_is_the_hosts() {
    let listed = |flag: &str| {
        case(&format!("FROM base\nRUN {flag} /bin/busybox readlink /proc/self/ns/net\n")).printed()
    };
    let own = std::fs::read_link("/proc/self/ns/net").expect("proc");
    assert_eq!(listed("--network=host").trim(), own.display().to_string());
    assert_ne!(listed("--network=none").trim(), own.display().to_string());
    let error = case("FROM base\nRUN --network=bridge true\n").error();
    assert!(error.contains("bridge"), "{error}");
}

const CAPABILITIES: &str = "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status";

/// BuildKit RunSecurityInsecure, InsecureDevicesWhitelist.
fn an_insecure_command_has_every_right() {
    let text = format!(
        "FROM base\nRUN --security=insecure {CAPABILITIES}; \
         grep -c ' /proc/sys ' /proc/mounts; mount -t tmpfs none /tmp && echo mounted; \
         [ -e /dev/kmsg ] && echo devices\n"
    );
    let printed = case(&text).printed();
    let own = std::fs::read_to_string("/proc/self/status").expect("proc");
    let all = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("a mask");
    assert!(printed.contains(all), "{all} in {printed}");
    assert!(
        printed.contains("Seccomp:\t0") && printed.contains("0\nmounted\ndevices\n"),
        "{printed}"
    );
}

/// BuildKit RunSecuritySandbox, RunSecurityDefault.
fn a_sandboxed_command_has_the_default_rights() {
    for flag in ["", "--security=sandbox"] {
        let text = format!(
            "FROM base\nRUN {flag} {CAPABILITIES}; mount -t tmpfs none /tmp 2>/dev/null || echo refused\n"
        );
        let printed = case(&text).printed();
        // The default mask of docker.
        assert!(printed.contains("CapEff:\t00000000a80425fb"), "{printed}");
        assert!(printed.contains("Seccomp:\t2") && printed.contains("refused\n"), "{printed}");
    }
}

/// BuildKit RunGlobalNetwork, RunHostNetwork: what a mode cannot do is an error, never ignored.
fn modes_without_rights_say_what_they_lack() {
    for (flag, expected) in [
        ("--network=none", "--network=none needs a network namespace"),
        ("--security=insecure", "--security=insecure needs rights that this builder lacks"),
    ] {
        let built = case(&format!("FROM base\nRUN {flag} true\n")).in_mode(Mode::Chroot);
        let error = built.error();
        assert!(error.contains(expected), "{flag}: {error}");
    }
}
