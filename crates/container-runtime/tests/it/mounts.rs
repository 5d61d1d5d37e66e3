//! Roots and mounts.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use container_runtime::{Mount, MountSource, Propagation, Root, Sandbox};

use crate::Outcome;
use crate::fixture::{Fixture, Result, same};

crate::tests!(
    standard_mounts_are_there_with_their_flags,
    changes_go_to_the_upper_directory_only,
    mount_points_leave_no_trace_in_the_upper_directory,
    two_hundred_layers_with_long_names_mount,
    layer_names_with_colons_and_commas_mount,
    directory_root_is_used_as_it_is,
    readonly_root_refuses_writes_but_mounts_accept_them,
    readonly_bind_is_readonly_to_its_depth,
    file_below_a_volume_is_mounted_alone,
    path_out_of_a_volume_is_refused,
    missing_path_below_a_volume_is_created,
    union_of_layers_is_read_and_nothing_else,
    part_of_a_union_is_mounted_alone_and_twice,
    union_of_one_layer_or_none_is_a_directory,
    path_that_a_union_lacks_is_not_created,
    target_cannot_leave_the_root,
    tmpfs_has_its_size_and_mode,
    host_mounts_appear_with_slave_propagation,
    container_mounts_appear_with_shared_propagation,
    own_mount_replaces_a_standard_one,
);

fn standard_mounts_are_there_with_their_flags() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "awk '{print $5, $6}' /proc/self/mountinfo";
    let ran = fixture.run_script("a", script)?;
    for line in [
        "/ rw,nodev,relatime",
        "/proc rw,nosuid,nodev,noexec,relatime",
        "/dev rw,nosuid,nodev",
        "/dev/pts rw,nosuid,noexec,relatime",
        "/dev/shm rw,nosuid,nodev,noexec,relatime",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        "/sys ro,nosuid,nodev,noexec,relatime",
        "/proc/sys ro,nosuid,nodev,noexec,relatime",
    ] {
        same(ran.output.lines().any(|found| found == line), true)
            .map_err(|_| format!("{line} is not in {}", ran.output))?;
    }
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c; \
        readlink /dev/fd; readlink /dev/ptmx; [ -c /dev/tty ] && echo tty";
    let ran = fixture.run_script("b", script)?;
    same(ran.output.as_str(), "3\n/proc/self/fd\npts/ptmx\ntty\n")
}

fn changes_go_to_the_upper_directory_only() -> Outcome {
    let fixture = Fixture::new()?;
    same(fixture.run_script("a", "echo new > /etc/new; rm /etc/group")?.code, 0)?;
    same(fs::read_to_string(fixture.path("a.upper/etc/new"))?.as_str(), "new\n")?;
    same(fixture.lower().join("etc/group").exists(), true)?;
    same(fixture.lower().join("etc/new").exists(), false)
}

fn names_below(dir: &std::path::Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn mount_points_leave_no_trace_in_the_upper_directory() -> Outcome {
    let fixture = Fixture::new()?;
    fs::write(fixture.path("hosts"), "127.0.0.1 localhost\n")?;
    let mut spec = fixture.script("a", "cat /etc/hosts; ls -d /run/secrets/x; touch /f")?;
    spec.sandbox.mounts = vec![
        Mount::bind(fixture.path("hosts"), "/etc/hosts").read_only(),
        Mount::tmpfs("/run/secrets/x"),
    ];
    let ran = fixture.run("a", &spec)?;
    same(ran.output.as_str(), "127.0.0.1 localhost\n/run/secrets/x\n")?;
    same(names_below(&fixture.path("a.upper"))?, vec!["f".to_owned()])
}

fn many_lowers(fixture: &Fixture, count: usize, name: impl Fn(usize) -> String) -> Result<Root> {
    let mut lowers = Vec::new();
    for index in 0..count {
        let lower = fixture.path(&name(index));
        fs::create_dir_all(&lower)?;
        fs::write(lower.join(format!("file{index}")), "")?;
        fs::write(lower.join("top"), index.to_string())?;
        lowers.push(lower);
    }
    lowers.push(fixture.lower());
    let Root::Overlay { upper, work, .. } = fixture.overlay("a")? else {
        return Err("an overlay was asked for".into());
    };
    Ok(Root::Overlay { lowers, upper, work })
}

fn two_hundred_layers_with_long_names_mount() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "ls / | grep -c file; cat /top")?;
    let long = "n".repeat(200);
    spec.sandbox.root = many_lowers(&fixture, 200, |index| format!("{long}/{long}/{index}"))?;
    same(fixture.run("a", &spec)?.output.as_str(), "200\n0\n")
}

fn layer_names_with_colons_and_commas_mount() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "ls / | grep -c file")?;
    spec.sandbox.root = many_lowers(&fixture, 3, |index| format!("a:b,c\\{index}"))?;
    same(fixture.run("a", &spec)?.output.as_str(), "3\n")
}

fn directory_root_is_used_as_it_is() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "echo here > /made")?;
    spec.sandbox = Sandbox::new(Root::Directory(fixture.lower()));
    same(fixture.run("a", &spec)?.code, 0)?;
    same(fs::read_to_string(fixture.lower().join("made"))?.as_str(), "here\n")
}

fn readonly_root_refuses_writes_but_mounts_accept_them() -> Outcome {
    let fixture = Fixture::new()?;
    fs::create_dir(fixture.path("data"))?;
    let script = "touch /f 2>/dev/null || echo refused; touch /data/f /tmp/f && echo taken";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.readonly_root = true;
    spec.sandbox.mounts = vec![Mount::bind(fixture.path("data"), "/data"), Mount::tmpfs("/tmp")];
    same(fixture.run("a", &spec)?.output.as_str(), "refused\ntaken\n")?;
    spec.sandbox.root =
        Root::OverlayReadOnly { lowers: vec![fixture.lower(), fixture.path("data")] };
    spec.sandbox.mounts = vec![Mount::tmpfs("/data")];
    same(fixture.run("b", &spec)?.output.lines().next(), Some("refused"))
}

fn host(command: &str) -> Outcome {
    let status = Command::new("sh").args(["-c", command]).status()?;
    same(status.success(), true).map_err(|_| format!("{command} failed").into())
}

fn readonly_bind_is_readonly_to_its_depth() -> Outcome {
    let fixture = Fixture::new()?;
    let inner = fixture.path("data/inner");
    fs::create_dir_all(&inner)?;
    host(&format!("mount -t tmpfs t {}", inner.display()))?;
    let script = "touch /data/f 2>/dev/null || echo refused; \
        touch /data/inner/f 2>/dev/null || echo refused";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![Mount::bind(fixture.path("data"), "/data").read_only()];
    let ran = fixture.run("a", &spec);
    host(&format!("umount {}", inner.display()))?;
    same(ran?.output.as_str(), "refused\nrefused\n")
}

fn beneath(path: std::path::PathBuf, below: &str, target: &str) -> Mount {
    let source = MountSource::Bind { path, beneath: Some(below.into()) };
    Mount { target: target.into(), source, readonly: false, propagation: Propagation::Private }
}

fn file_below_a_volume_is_mounted_alone() -> Outcome {
    let fixture = Fixture::new()?;
    let volume = fixture.path("volume");
    fs::create_dir_all(volume.join("..2026"))?;
    fs::write(volume.join("..2026/config.json"), "{}")?;
    symlink("..2026", volume.join("..data"))?;
    symlink("..data/config.json", volume.join("config.json"))?;
    let script = "cat /kaniko/.docker/config.json; ls -a /kaniko/.docker | wc -l";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![beneath(volume, "config.json", "/kaniko/.docker/config.json")];
    same(fixture.run("a", &spec)?.output.as_str(), "{}3\n")
}

fn path_out_of_a_volume_is_refused() -> Outcome {
    let fixture = Fixture::new()?;
    let volume = fixture.path("volume");
    fs::create_dir_all(&volume)?;
    symlink("/etc", volume.join("absolute"))?;
    symlink("..", volume.join("up"))?;
    let mut spec = fixture.script("a", "true")?;
    for below in ["absolute", "absolute/passwd", "up", "up/lower", "../lower"] {
        spec.sandbox.mounts = vec![beneath(volume.clone(), below, "/x")];
        let refused = fixture.runtime.create("a", &spec).map_err(|error| error.to_string());
        let text = refused.err().unwrap_or_default();
        same(text.ends_with("the path leads out of the volume"), true)
            .map_err(|_| format!("{below}: {text:?}"))?;
    }
    Ok(())
}

fn layers(fixture: &Fixture, names: &[&str], below: Option<&str>, target: &str) -> Mount {
    let lowers = names.iter().map(|name| fixture.path(name)).collect();
    let source = MountSource::Layers { lowers, beneath: below.map(Into::into) };
    Mount { target: target.into(), source, readonly: false, propagation: Propagation::Private }
}

/// Two layers: the upper one hides `gone` of the lower one and has a program.
fn two_layers(fixture: &Fixture) -> Outcome {
    for (path, content) in [
        ("bottom/dir/model", "weights\n"),
        ("bottom/gone", "old\n"),
        ("top/dir/card", "a model\n"),
        ("top/tool", "#!/bin/sh\necho ran\n"),
    ] {
        let path = fixture.path(path);
        fs::create_dir_all(path.parent().ok_or("a parent")?)?;
        fs::write(&path, content)?;
    }
    host(&format!("chmod 755 {}", fixture.path("top/tool").display()))?;
    host(&format!("mknod {} c 0 0", fixture.path("top/gone").display()))
}

fn union_of_layers_is_read_and_nothing_else() -> Outcome {
    let fixture = Fixture::new()?;
    two_layers(&fixture)?;
    let script = "cat /m/dir/model /m/dir/card; ls /m; touch /m/f 2>/dev/null || echo read-only; \
        /m/tool 2>/dev/null || echo no execution; grep -c ' /m .*noexec' /proc/self/mountinfo";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![layers(&fixture, &["top", "bottom"], None, "/m")];
    let expected = "weights\na model\ndir\ntool\nread-only\nno execution\n1\n";
    same(fixture.run("a", &spec)?.output.as_str(), expected)?;
    same(fixture.path("top/f").exists(), false)
}

fn part_of_a_union_is_mounted_alone_and_twice() -> Outcome {
    let fixture = Fixture::new()?;
    two_layers(&fixture)?;
    let script = "ls /m; cat /card; ls /all; touch /m/f 2>/dev/null || echo read-only";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![
        layers(&fixture, &["top", "bottom"], Some("dir"), "/m"),
        layers(&fixture, &["top", "bottom"], Some("dir/card"), "/card"),
        layers(&fixture, &["top", "bottom"], None, "/all"),
    ];
    let expected = "card\nmodel\na model\ndir\ntool\nread-only\n";
    same(fixture.run("a", &spec)?.output.as_str(), expected)
}

fn union_of_one_layer_or_none_is_a_directory() -> Outcome {
    let fixture = Fixture::new()?;
    two_layers(&fixture)?;
    let script = "ls /one /part; ls /none | wc -l; touch /one/f /none/f 2>/dev/null || echo no; \
        cp /bin/busybox /none/sh 2>/dev/null || echo no";
    let mut spec = fixture.script("a", script)?;
    spec.sandbox.mounts = vec![
        layers(&fixture, &["bottom"], None, "/one"),
        layers(&fixture, &["bottom"], Some("dir"), "/part"),
        layers(&fixture, &[], None, "/none"),
    ];
    let expected = "/one:\ndir\ngone\n\n/part:\nmodel\n0\nno\nno\n";
    same(fixture.run("a", &spec)?.output.as_str(), expected)?;
    same(fixture.path("bottom/f").exists(), false)
}

fn path_that_a_union_lacks_is_not_created() -> Outcome {
    let fixture = Fixture::new()?;
    two_layers(&fixture)?;
    symlink("/etc", fixture.path("bottom/out"))?;
    let mut spec = fixture.script("a", "true")?;
    for (names, below, expected) in [
        (&["bottom"][..], "none/at/all", "No such file or directory"),
        (&["top", "bottom"], "none", "No such file or directory"),
        (&["top", "bottom"], "gone", "No such file or directory"),
        (&[], "any", "No such file or directory"),
        (&["top", "bottom"], "out", "the path leads out of the volume"),
    ] {
        spec.sandbox.mounts = vec![layers(&fixture, names, Some(below), "/x")];
        let refused = fixture.runtime.create("a", &spec).map_err(|error| error.to_string());
        let text = refused.err().unwrap_or_default();
        same(text.contains(expected), true).map_err(|_| format!("{below}: {text:?}"))?;
    }
    same(fixture.path("bottom/none").exists(), false)
}

fn missing_path_below_a_volume_is_created() -> Outcome {
    let fixture = Fixture::new()?;
    let volume = fixture.path("volume");
    fs::create_dir_all(&volume)?;
    let mut spec = fixture.script("a", "stat -c %a /x; touch /x/f")?;
    spec.sandbox.mounts = vec![beneath(volume.clone(), "a/b", "/x")];
    same(fixture.run("a", &spec)?.output.as_str(), "750\n")?;
    same(volume.join("a/b/f").exists(), true)
}

fn target_cannot_leave_the_root() -> Outcome {
    let fixture = Fixture::new()?;
    symlink("/../../../../outside", fixture.lower().join("link"))?;
    fs::create_dir_all(fixture.lower().join("outside"))?;
    fs::create_dir_all(fixture.path("data"))?;
    let mut spec = fixture.script("a", "touch /outside/f")?;
    spec.sandbox.mounts = vec![Mount::bind(fixture.path("data"), "/link")];
    same(fixture.run("a", &spec)?.code, 0)?;
    same(fixture.path("data/f").exists(), true)?;
    same(std::path::Path::new("/outside").exists(), false)
}

fn tmpfs_has_its_size_and_mode() -> Outcome {
    let fixture = Fixture::new()?;
    let mut spec = fixture.script("a", "stat -c %a /m; df -k /m | awk 'NR==2 {print $2}'")?;
    let source = MountSource::Tmpfs { bytes_max: Some(1 << 20), mode: 0o700 };
    spec.sandbox.mounts = vec![Mount { source, ..Mount::tmpfs("/m") }];
    same(fixture.run("a", &spec)?.output.as_str(), "700\n1024\n")
}

/// A shared mount on the host, and a container that sees it with a propagation.
fn with_shared_mount(
    propagation: Propagation,
    script: &str,
    test: impl FnOnce(&Fixture, &std::path::Path, &container_runtime::Container) -> Outcome,
) -> Outcome {
    let fixture = Fixture::new()?;
    let shared = fixture.path("shared");
    fs::create_dir(&shared)?;
    let dir = shared.display();
    host(&format!("mount -t tmpfs t {dir} && mount --make-shared {dir} && mkdir {dir}/in"))?;
    let mut spec = fixture.script("a", script)?;
    let mount = Mount { propagation, ..Mount::bind(&shared, "/shared") };
    spec.sandbox.mounts = vec![mount];
    spec.process.capabilities.bounding = container_runtime::CapabilitySet::ALL;
    let tested = (|| {
        let container = fixture.start("a", &spec)?;
        let tested = test(&fixture, &shared, &container);
        container.delete()?;
        tested
    })();
    host(&format!("umount {dir}/in 2>/dev/null; umount {dir}"))?;
    tested
}

fn host_mounts_appear_with_slave_propagation() -> Outcome {
    let script = "while [ ! -e /shared/in/f ]; do sleep 0.02; done; echo seen";
    with_shared_mount(Propagation::Slave, script, |_, shared, container| {
        host(&format!("mount -t tmpfs t {0}/in && touch {0}/in/f", shared.display()))?;
        same(container.wait()?.code(), 0)
    })
}

fn container_mounts_appear_with_shared_propagation() -> Outcome {
    let script = "mount -t tmpfs t /shared/in && touch /shared/in/f";
    with_shared_mount(Propagation::Shared, script, |_, shared, container| {
        same(container.wait()?.code(), 0)?;
        same(shared.join("in/f").exists(), true)
    })
}

fn own_mount_replaces_a_standard_one() -> Outcome {
    let fixture = Fixture::new()?;
    fs::create_dir(fixture.path("shm"))?;
    let mut spec =
        fixture.script("a", "touch /dev/shm/f; grep -c ' /dev/shm ' /proc/self/mountinfo")?;
    spec.sandbox.mounts = vec![Mount::bind(fixture.path("shm"), "/dev/shm/")];
    same(fixture.run("a", &spec)?.output.as_str(), "1\n")?;
    same(fixture.path("shm/f").exists(), true)
}
