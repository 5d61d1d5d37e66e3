//! Whole projects, built as people build them: with Debian's packages and those of the
//! languages, through the mirrors that this machine is set up for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::machine::{run, shipway};
use crate::pod::{Context, Pod};

const EPOCH: &str = "1700000000";

/// Where this machine keeps the authorities that its mirrors are signed by.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Tools that are mounted and not installed: Debian's Rust is large and its npm is 400 packages.
const TOOLS: &str = r#"
    context=$PWD
    mkdir rust npm
    cd "$(rustc --print sysroot)"
    files="bin/cargo bin/rustc $(echo lib/*.so*) lib/rustlib/*/lib lib/rustlib/*/bin"
    cp -al --parents $files "$context/rust" 2>/dev/null || cp -a --parents $files "$context/rust"
    cd "$context/npm"
    npm pack --silent npm@10
    tar xzf npm-*.tgz --strip-components=1
    rm npm-*.tgz
"#;

/// What this machine says of its mirrors, for pip, npm and cargo in a container.
const SETTINGS: &str = r#"
    echo '[global]' > pip
    echo 'cert = /run/secrets/ca' >> pip
    mirror=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$mirror" ] || echo "index-url = $mirror" >> pip
    cat ~/.npmrc > npm 2>/dev/null || true
    echo "registry=$(npm config get registry 2>/dev/null)" >> npm
    echo 'cafile=/run/secrets/ca' >> npm
    cat "${CARGO_HOME:-$HOME/.cargo}/config.toml" > cargo 2>/dev/null || true
"#;

static DEBIAN: OnceLock<PathBuf> = OnceLock::new();

/// The build context: the projects, a minimal Debian, this machine's settings of apt, and tools.
struct Desk {
    context: TempDir,
    secrets: TempDir,
}

impl Desk {
    fn new() -> Self {
        let context = tempfile::Builder::new()
            .prefix("shipway-projects-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory");
        let projects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/projects/.");
        copy("-a", &projects, context.path());
        // Links: nothing writes to a build context.
        copy("-al", DEBIAN.get_or_init(minimal_debian), &context.path().join("debian"));
        copy("-rL", Path::new("/etc/apt"), &context.path().join("apt"));
        run(Command::new("sh").args(["-ec", TOOLS]).current_dir(context.path()), "").ok();
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(context.path(), readable).expect("ours");
        let secrets = tempfile::tempdir().expect("a directory");
        std::fs::copy(AUTHORITIES, secrets.path().join("ca")).expect(AUTHORITIES);
        run(Command::new("sh").args(["-ec", SETTINGS]).current_dir(secrets.path()), "").ok();
        Self { context, secrets }
    }

    /// Builds in a pod, which has the network and the resolver of this machine.
    fn in_pod(&self, context: Context, flags: &[&str]) -> (String, String) {
        let pod = Pod::new(context, self.context.path())
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .empty_dir("/kaniko/state")
            .readonly_volume(Path::new("/etc/resolv.conf"), "/etc/resolv.conf")
            .readonly_volume(Path::new("/etc/hosts"), "/etc/hosts")
            .readonly_volume(self.secrets.path(), "/settings");
        let ours = ["--no-push", "--context=/workspace", "--digest-file=/dev/termination-log"];
        let secrets: Vec<String> = std::fs::read_dir(self.secrets.path())
            .expect("ours")
            .map(|entry| entry.expect("ours").file_name().into_string().expect("ours"))
            .map(|name| format!("--secret=id={name},src=/settings/{name}"))
            .collect();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let ran = pod.executor(&[&ours[..], &secrets, flags].concat());
        assert_eq!(ran.code, 0, "{context:?}: {}{}", ran.stdout, ran.stderr);
        let mode = ran.stderr.lines().find_map(|line| line.split_once("RUN isolation: "));
        let mode = mode.and_then(|(_, text)| text.split(' ').next()).unwrap_or("none said");
        (mode.to_owned(), pod.digest())
    }
}

/// A minimal Debian of this machine's release, from its mirror: made once per target directory.
fn minimal_debian() -> PathBuf {
    let release = std::fs::read_to_string("/etc/os-release").expect("a Debian machine");
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .expect("a release has a name");
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let made = tmp.join(format!("minimal-debian-{codename}"));
    if made.is_dir() {
        return made;
    }
    let script = r#"
        mirrors() {
            apt-get indextargets 'Created-By: Packages' "Codename: $1" --format '$(REPO_URI)'
        }
        mirror=$(mirrors "$1" | head -n 1)
        [ -n "$mirror" ] || { apt-get -q update; mirror=$(mirrors "$1" | head -n 1); }
        debootstrap --variant=minbase "$1" "$2" "$mirror" || { cat "$2"/debootstrap/*.log; exit 1; }
        cd "$2" && rm -rf dev/* var/log/* var/cache/ldconfig var/cache/apt/* var/lib/apt/lists/*
    "#;
    let making = tempfile::Builder::new().prefix("making-debian-").tempdir_in(tmp).expect("ours");
    let root = making.path().join("root");
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh", codename]).arg(&root).env("PATH", {
        let path = std::env::var("PATH").expect("a path");
        format!("{path}:/usr/sbin:/sbin")
    });
    run(&mut command, "").ok();
    // Somebody else's is as good.
    if let Err(error) = std::fs::rename(&root, &made) {
        assert!(made.is_dir(), "{}: {error}", made.display());
    }
    made
}

fn copy(how: &str, from: &Path, to: &Path) {
    run(Command::new("cp").arg(how).arg(from).arg(to), "").ok();
}

#[test]
fn rust_node_python_and_debian_projects_build_to_the_same_image_in_every_mode() {
    let desk = Desk::new();
    let pods = [
        ("overlay", Context::Privileged),
        ("userns", Context::Unconfined),
        ("inplace", Context::Default),
    ];
    let built: Vec<(String, String)> = std::thread::scope(|scope| {
        let desk = &desk;
        let builds: Vec<_> =
            pods.iter().map(|(_, pod)| scope.spawn(move || desk.in_pod(*pod, &[]))).collect();
        builds.into_iter().map(|build| build.join().expect("an image")).collect()
    });
    let (_, digest) = &built[0];
    let expected: Vec<_> =
        pods.iter().map(|(mode, _)| ((*mode).to_owned(), digest.clone())).collect();
    assert_eq!(built, expected);
}

#[test]
fn projects_without_commands_build_to_the_same_image_with_no_isolation() {
    let desk = Desk::new();
    // Owners, links and setuid programs, without the size of it all.
    let dockerfile = "FROM scratch AS base\nCOPY debian/etc /etc\nCOPY debian/usr/bin /usr/bin\nFROM base\n\
                      WORKDIR /src\nCOPY greeting shapes ./\nADD wordcount digits /opt/\n\
                      ADD --chmod=755 --chown=7:8 greeting/greeting /usr/bin/\nCMD [\"greeting\"]\n";
    std::fs::write(desk.context.path().join("Dockerfile"), dockerfile).expect("ours");
    let none = desk.in_pod(Context::Default, &["--isolation=none"]);
    assert_eq!(none.1, desk.in_pod(Context::Privileged, &["--isolation=overlay"]).1);
    // The same by hand, on a machine.
    let state = tempfile::tempdir().expect("a directory");
    let id = |mode: &str| {
        let mut build = shipway();
        build.args(["build", "--quiet", "--isolation", mode]).arg(desk.context.path());
        build.env("SOURCE_DATE_EPOCH", EPOCH).env("SHIPWAY_STATE_DIR", state.path().join(mode));
        run(&mut build, "").ok()
    };
    assert_eq!(id("none"), id("overlay"));
}
