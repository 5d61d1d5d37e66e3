//! The executor in pods of every security context: which way of running commands it finds, what
//! it says about the others, and that the image is the same.

use std::path::Path;

use tempfile::TempDir;

use crate::machine::Ran;
use crate::pod::{Context, Pod};

/// Two stages over a base that has users, links and a directory under which pods have mounts.
const DOCKERFILE: &str = "\
FROM scratch AS base
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
ENV PATH=/bin
RUN mkdir -p /etc /tmp /run/app /usr/lib /var/lib && ln -s /run /var/run && chmod 1777 /tmp && \
    printf 'root:x:0:0::/root:/bin/sh\\napp:x:1000:1001::/home/app:/bin/sh\\n' > /etc/passwd
COPY Dockerfile /etc/hosts
FROM base AS build
WORKDIR /src
COPY Dockerfile .
RUN cat Dockerfile > built && chown 1000:1001 built && mkdir -p /data/a && echo x > /data/a/x
FROM base
COPY --from=build --chown=1000 /src/built /opt/built
COPY --from=build /data /data
RUN echo y > /data/y && rm -r /data/a && ln /data/y /data/z && chmod 4755 /data/y && \
    echo mounted > /var/run/app/pid && mkdir -p /var/run/secrets && echo n > /var/run/secrets/n && \
    echo more > /etc/more && ln -s more /etc/link && mkfifo /srv-fifo && echo t > /tmp/kept
VOLUME /var/lib/volume
RUN mkdir /var/lib/volume && echo v > /var/lib/volume/v
USER app
RUN id -u > /tmp/me && rm /tmp/me && id -u > /var/tmp-of-app 2>/dev/null || id -g > /tmp/group
";

const EPOCH: &str = "1700000000";

const NOTHING_PUSHED: [&str; 3] =
    ["--no-push", "--context=/workspace", "--digest-file=/dev/termination-log"];

fn workspace(dockerfile: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix("shipway-ws-").tempdir().expect("a directory");
    std::fs::copy("/bin/busybox", dir.path().join("busybox")).expect("busybox-static");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a file");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), permissions).expect("ours");
    dir
}

fn pod(context: Context, workspace: &Path) -> Pod {
    Pod::new(context, workspace).env("SOURCE_DATE_EPOCH", EPOCH)
}

fn isolation(ran: &Ran) -> &str {
    let line = ran.stderr.lines().find_map(|line| line.split_once("RUN isolation: "));
    line.map_or("none said", |(_, text)| text)
}

const NO_SYS_ADMIN: &str = "overlay: create namespaces: Operation not permitted (os error 1) \
                            (CAP_SYS_ADMIN is missing)";
const FILTERED: &str = "userns: create namespaces: Operation not permitted (os error 1) \
                        (a seccomp filter forbids it: set seccompProfile Unconfined, or \
                        hostUsers: false)";
const ON_OVERLAY: &str = "the state directory is on overlayfs, which cannot be the upper of \
                          another overlay: mount an emptyDir or a volume there";

#[test]
fn every_pod_that_can_run_commands_builds_the_same_image_and_says_how() {
    let workspace = workspace(DOCKERFILE);
    let pod = |context| pod(context, workspace.path());
    let state = "/kaniko/state";
    let in_place = format!("inplace ({NO_SYS_ADMIN}; {FILTERED})");
    let cases: Vec<(&str, Pod, &[&str], String)> = vec![
        ("privileged", pod(Context::Privileged).empty_dir(state), &[], "overlay".to_owned()),
        (
            "privileged, state in memory",
            pod(Context::Privileged).memory(state, "64m"),
            &[],
            "overlay".to_owned(),
        ),
        (
            "unconfined",
            pod(Context::Unconfined).empty_dir(state),
            &[],
            format!("userns ({NO_SYS_ADMIN})"),
        ),
        ("default", pod(Context::Default).empty_dir(state), &[], in_place.clone()),
        ("default without volumes", pod(Context::Default), &[], in_place.clone()),
        ("smaller set of capabilities", pod(Context::CriO), &[], in_place),
        (
            "privileged, state on the overlay",
            pod(Context::Privileged),
            &[],
            format!(
                "inplace (overlay: overlay of 2 layers: Invalid argument (os error 22) \
                 ({ON_OVERLAY}); userns: overlay of 2 layers: Invalid argument (os error 22) \
                 ({ON_OVERLAY}))"
            ),
        ),
        (
            "read-only root",
            pod(Context::Default).empty_dir(state).readonly_root(),
            &[],
            format!(
                "chroot ({NO_SYS_ADMIN}; {FILTERED}; inplace: the root file system is \
                 read-only: set readOnlyRootFilesystem false)"
            ),
        ),
        (
            "asked for chroot",
            pod(Context::Default).empty_dir(state),
            &["--isolation=chroot"],
            format!("chroot ({NO_SYS_ADMIN}; {FILTERED})"),
        ),
    ];
    let mut digests: Vec<(&str, String)> = Vec::new();
    for (title, pod, flags, expected) in cases {
        let arguments: Vec<&str> = NOTHING_PUSHED.iter().chain(flags).copied().collect();
        let ran = pod.executor(&arguments);
        assert_eq!(ran.code, 0, "{title}: {}", ran.stderr);
        assert_eq!(isolation(&ran), expected, "{title}");
        digests.push((title, pod.digest()));
        let left = pod.left_in_root();
        let allowed = |path: &String| {
            ["./kaniko/root/lock", "./etc/", "./dev/"].iter().any(|ours| path.starts_with(ours))
        };
        let strange: Vec<&String> = left.iter().filter(|path| !allowed(path)).collect();
        assert!(strange.is_empty(), "{title}: {strange:?}");
    }
    let first = digests[0].1.clone();
    assert!(first.starts_with("sha256:"), "{first}");
    assert!(digests.iter().all(|(_, digest)| *digest == first), "{digests:#?}");
}

#[test]
fn restricted_pod_builds_what_needs_no_command_and_says_what_a_command_needs() {
    let without_run = "FROM scratch\nCOPY --chown=7:8 --chmod=4755 busybox /bin/tool\nWORKDIR /a/b\n\
                       ADD --chown=1000 Dockerfile /etc/\nUSER 5\nCMD [\"/bin/tool\"]\n";
    let dir = workspace(without_run);
    let layout = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(layout.path(), open).expect("ours");
    let build = |context| {
        let pod = pod(context, dir.path()).empty_dir("/kaniko/state");
        let pod = pod.volume(layout.path(), "/out");
        let tar = format!("--tar-path=/out/{context:?}.tar");
        let ran = pod.executor(&[&NOTHING_PUSHED[..], &[&tar]].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        pod.digest()
    };
    assert_eq!(build(Context::Restricted), build(Context::Privileged), "owners are kept");
    let tar = |context: &str| std::fs::read(layout.path().join(context)).expect("an archive");
    assert_eq!(tar("Restricted.tar"), tar("Privileged.tar"));

    std::fs::write(dir.path().join("Dockerfile"), DOCKERFILE).expect("a file");
    let pod = pod(Context::Restricted, dir.path()).empty_dir("/kaniko/state");
    let said = pod.executor(&NOTHING_PUSHED).refused();
    for text in [
        "Dockerfile:3: [base 3/",
        "RUN is not possible here",
        "userns: create namespaces: Operation not permitted",
        "set seccompProfile Unconfined, or hostUsers: false",
        "inplace: not root: set runAsUser 0",
    ] {
        assert!(said.contains(text), "{text:?} is missing in\n{said}");
    }
}

#[test]
fn a_mode_that_was_asked_for_and_is_refused_says_only_why() {
    let workspace = workspace("FROM scratch\nCOPY busybox /b\nRUN [\"/b\", \"true\"]\n");
    let refused = |mode: &str| {
        let pod = pod(Context::Default, workspace.path());
        let flag = format!("--isolation={mode}");
        pod.executor(&[&NOTHING_PUSHED[..], &[&flag]].concat()).refused()
    };
    let overlay = refused("overlay");
    assert!(overlay.contains(NO_SYS_ADMIN) && !overlay.contains("userns:"), "{overlay}");
    let userns = refused("userns");
    assert!(userns.contains(FILTERED) && !userns.contains("overlay:"), "{userns}");
}

#[test]
fn a_volume_over_a_directory_of_the_image_hides_nothing_from_its_commands() {
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
        WORKDIR /tmp\nWORKDIR /\n\
        RUN echo kept > /tmp/kept && ls /tmp > /seen-in-tmp\n\
        WORKDIR /workspace\nCOPY Dockerfile copied\n\
        RUN cat copied > made && ls > /seen-in-workspace && echo > /dev/null\n";
    let dir = workspace(dockerfile);
    let build = |context, flags: &[&str]| {
        let pod = pod(context, dir.path()).empty_dir("/kaniko/state").empty_dir("/tmp");
        let ran = pod.executor(&[&NOTHING_PUSHED[..], flags].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        (pod.digest(), ran.stderr, pod)
    };
    let (expected, ..) = build(Context::Privileged, &[]);
    let (digest, said, pod) = build(Context::Default, &[]);
    assert_eq!(digest, expected);
    assert!(said.contains("inplace"), "{said}");
    assert!(said.contains("the image uses /tmp, where this pod has a mount of its own"), "{said}");
    assert_eq!(std::fs::read_dir(pod.path("volumes/tmp")).expect("the volume").count(), 0);
    let listed = std::fs::read_dir(dir.path()).expect("the context").count();
    assert_eq!(listed, 2, "the context is as it was");
}

#[test]
fn plain_user_of_an_unconfined_pod_runs_commands_as_root_of_a_namespace() {
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY --chown=7:8 Dockerfile /etc/\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
        RUN echo more >> /etc/Dockerfile && id -u > /etc/me && mkdir /new && chmod 751 /new\n";
    let dir = workspace(dockerfile);
    let build = |context| {
        let pod = pod(context, dir.path()).empty_dir("/kaniko/state");
        let ran = pod.executor(&NOTHING_PUSHED);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        (isolation(&ran).to_owned(), pod.digest())
    };
    let (mode, digest) = build(Context::PlainUser);
    assert_eq!(mode, format!("userns ({NO_SYS_ADMIN})"));
    assert_eq!(digest, build(Context::Privileged).1, "what a command changes keeps its owner");
}

/// A base with a shell, for what follows it.
const BASE: &str = "FROM scratch AS base\nCOPY busybox /bin/busybox\n\
    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n\
    RUN mkdir -p /etc /root && mkdir -m 1777 /tmp && echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd && \
    echo 'app:x:1000:1001::/:/bin/sh' >> /etc/passwd\n";

/// Every kind of mount; what each of them shows is copied to a file of the image.
const MOUNTS: &str = "\
FROM base AS other
RUN mkdir -p /o/deep && echo of the stage > /o/deep/f
FROM base
RUN --mount=target=/ctx cat /ctx/given > /from-context && ! test -e /ctx/ignored
RUN --mount=source=sub,target=/sub,rw echo scratch > /sub/new && ls /sub > /from-sub
RUN --mount=from=other,source=/o/deep/f,target=/one-file cat /one-file > /from-stage
RUN --mount=from=other,source=/o,target=/etc/other,rw rm -r /etc/other/deep && echo x > /x
RUN --mount=type=cache,target=/c,id=shared,mode=0750,uid=1000,gid=1001 \
    stat -c '%a %u %g' /c > /from-cache && mkdir -p /c/d && echo n >> /c/d/count
RUN --mount=type=cache,target=/elsewhere,id=shared,sharing=locked cat /elsewhere/d/count > /counted
RUN --mount=type=cache,target=/p,sharing=private echo 1 > /p/1
RUN --mount=type=tmpfs,target=/tmp,size=1000000 echo t > /tmp/t && ls /tmp > /from-tmpfs \
    && stat -c %a /tmp >> /from-tmpfs
RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY \
    --mount=type=secret,id=key,target=/etc/deep/er/key,mode=0440,uid=7,gid=8 \
    --mount=type=secret,id=none \
    test \"$(cat /run/secrets/key)\" = \"$KEY\" && stat -c '%a %u %g' /etc/deep/er/key > /from-secret
RUN --mount=type=cache,target=/root/.cache --mount=type=tmpfs,target=/root/.cache/t \
    touch /root/.cache/kept /root/.cache/t/not && echo own > /root/own
RUN <<EOS
#!/bin/sh
echo $0 | wc -l > /from-script
EOS
RUN cat /etc/resolv.conf | wc -l > /etc/resolver-lines && grep -c pod /etc/hosts > /etc/host-lines; \
    test -s /etc/resolver-lines
";

#[test]
fn every_kind_of_mount_works_in_place_and_leaves_the_same_layers() {
    let dir = workspace(&format!("{BASE}{MOUNTS}"));
    std::fs::create_dir(dir.path().join("sub")).expect("a directory");
    for (name, text) in [
        ("given", "given\n"),
        ("ignored", ""),
        (".dockerignore", "ignored\n"),
        ("sub/f", "f"),
        ("key", "the secret"),
    ] {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    let build = |context, state: Option<&str>, flags: &[&str]| {
        let mut pod = pod(context, dir.path());
        if let Some(state) = state {
            pod = pod.empty_dir(state);
        }
        let secret = "--secret=id=key,src=/workspace/key";
        let ran = pod.executor(&[&NOTHING_PUSHED[..], &[secret], flags].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(!ran.stderr.contains("the secret"), "{}", ran.stderr);
        let left = pod.left_in_root();
        assert!(!left.iter().any(|path| path.contains("key")), "{left:?}");
        pod.digest()
    };
    let state = Some("/kaniko/state");
    let expected = build(Context::Privileged, state, &[]);
    // Caches on another file system than the root, and on the same.
    assert_eq!(build(Context::Default, state, &[]), expected, "in place, volume");
    assert_eq!(build(Context::Default, None, &[]), expected, "in place");
    assert_eq!(build(Context::Unconfined, state, &[]), expected, "userns");
    assert_eq!(build(Context::Default, state, &["--isolation=chroot"]), expected, "chroot");
}

#[test]
fn hostile_commands_in_place_harm_only_their_build() {
    let build = |context, command: &str| {
        let dir = workspace(&format!("{BASE}{command}\n"));
        let pod = pod(context, dir.path()).empty_dir("/kaniko/state");
        let ran = pod.executor(&NOTHING_PUSHED);
        (ran, pod)
    };
    // What works works the same.
    let good = "RUN trap '' HUP INT TERM; (setsid sh -c 'trap \"\" HUP INT TERM; sleep 76543' &); \
         (sleep 76543 &) ; mkdir /odd && cd /odd && touch \"$(printf 'a\\nb')\" \"$(printf '\\377')\" && \
         mkfifo f && mknod d c 1 3 && mkdir closed && chmod 000 closed && mkdir /gone && cd /gone && \
         rmdir /gone\n\
         RUN rm -rf /odd/closed && touch -a /etc/passwd && chmod 644 /etc/passwd\n\
         RUN touch -r /etc/passwd /tmp/r && sed -i s/app/APP/ /etc/passwd && \
         touch -r /tmp/r /etc/passwd && rm /tmp/r\n\
         RUN ps | grep -c 'sleep 7654[3]' > /etc/left || true";
    let (expected, of_overlay) = build(Context::Privileged, good);
    assert_eq!(expected.code, 0, "{}", expected.stderr);
    let (ran, in_place) = build(Context::Default, good);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(in_place.digest(), of_overlay.digest());

    let (ran, _) = build(Context::Default, "RUN sh -c 'kill -9 $$'");
    assert_eq!(ran.code, 137, "{}", ran.stderr);
    assert!(ran.stderr.contains("exit code: 137"), "{}", ran.stderr);

    let (ran, pod) = build(Context::Default, "RUN rm -rf / 2>/dev/null; exit 0");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let text = "the command removed the builder's own files (/kaniko/state/build/work/";
    assert!(ran.stderr.contains(text), "{}", ran.stderr);
    assert!(pod.path("token/token").exists(), "the service account is read-only");
    let (ran, _) = build(Context::Default, "RUN rm -rf /bin /etc /usr /var /root /tmp; exit 0");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let dir = workspace(&format!("{BASE}RUN head -c 60000000 /dev/urandom > /big\n"));
    for context in [Context::Privileged, Context::Unconfined, Context::Default] {
        let pod = pod(context, dir.path()).memory("/kaniko/state", "40m");
        let ran = pod.executor(&NOTHING_PUSHED);
        assert_ne!(ran.code, 0, "{context:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("No space left on device"), "{context:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{context:?}: {}", ran.stderr);
        assert!(!pod.left_in_root().iter().any(|path| path.contains("big")), "{context:?}");
    }
}
