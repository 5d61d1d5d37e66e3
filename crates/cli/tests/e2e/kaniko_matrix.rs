//! Those of kaniko's integration cases that are about the executor and its container: what is
//! mounted, where the executor lives, what it is told. The container is a pod with the default
//! capabilities and seccomp RuntimeDefault, where commands run in the executor's own root.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::machine::{DebianRegistry, PASSWORD, Ran, USER, base64_encode, run};
use crate::pod::{Context, Pod};

/// Busybox with its usual names, from scratch.
const BASE: &str = "FROM scratch AS base
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
ENV PATH=/bin
";

/// A context, and a place for what comes out.
struct Workspace {
    dir: TempDir,
    out: TempDir,
}

impl Workspace {
    fn new(dockerfile: &str) -> Self {
        let make = |prefix| tempfile::Builder::new().prefix(prefix).tempdir().expect("a directory");
        let workspace = Self { dir: make("shipway-ws-"), out: make("shipway-out-") };
        std::fs::copy("/bin/busybox", workspace.dir.path().join("busybox")).expect("a copy");
        workspace.write("Dockerfile", dockerfile);
        workspace
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("a file");
    }

    fn pod(&self) -> Pod {
        Pod::new(Context::Default, self.dir.path()).volume(self.out.path(), "/out")
    }

    /// The image of a build that must succeed.
    #[track_caller]
    fn build(&self, pod: &Pod, flags: &[&str]) -> Image {
        let image = self.build_somehow(pod, flags);
        let said = &image.ran.stderr;
        assert!(said.contains("RUN isolation: inplace"), "{said}");
        image
    }

    /// The same, however commands run.
    #[track_caller]
    fn build_somehow(&self, pod: &Pod, flags: &[&str]) -> Image {
        let common = ["--context=/workspace", "--no-push", "--tar-path=/out/image.tar"];
        let ran = pod.executor(&[&common[..], flags].concat());
        assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
        let image = Image { dir: tempfile::tempdir().expect("a directory"), ran };
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(self.out.path().join("image.tar")).current_dir(image.dir.path());
        run(&mut tar, "").ok();
        image
    }
}

/// An archive of `docker save`, unpacked.
struct Image {
    dir: TempDir,
    ran: Ran,
}

impl Image {
    fn manifest(&self) -> Value {
        let text = std::fs::read(self.dir.path().join("manifest.json")).expect("a file");
        serde_json::from_slice::<Value>(&text).expect("JSON")[0].clone()
    }

    /// The names in each layer, the base first.
    fn layers(&self) -> Vec<Vec<String>> {
        let manifest = self.manifest();
        let layers = manifest["Layers"].as_array().expect("a list").iter();
        layers
            .map(|layer| {
                let mut tar = Command::new("tar");
                tar.args(["-tf", layer.as_str().expect("a name")]).current_dir(self.dir.path());
                run(&mut tar, "").ok().lines().map(str::to_owned).collect()
            })
            .collect()
    }

    /// The names in the topmost layer.
    fn top(&self) -> Vec<String> {
        self.layers().pop().expect("a layer")
    }

    /// Whether any layer has this name.
    fn has(&self, name: &str) -> bool {
        self.layers().iter().flatten().any(|entry| entry == name)
    }

    /// The content of a file of the topmost layer.
    fn read(&self, name: &str) -> String {
        let manifest = self.manifest();
        let layer = manifest["Layers"].as_array().and_then(|layers| layers.last()).expect("one");
        let mut tar = Command::new("tar");
        tar.args(["-xOf", layer.as_str().expect("a name"), name]).current_dir(self.dir.path());
        run(&mut tar, "").ok()
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(path, text).expect("a file");
}

#[test]
fn ignored_paths_are_no_part_of_the_image() {
    let text = format!("{BASE}RUN mkdir -p /ignored/sub /kept && touch /ignored/sub/x /kept/y\n");
    let workspace = Workspace::new(&text);
    let image = workspace.build(&workspace.pod(), &["--ignore-path=/ignored"]);
    assert_eq!(image.top(), ["kept/", "kept/y"]);
}

#[test]
fn the_executor_may_live_in_another_directory() {
    // An image may then have a /kaniko of its own.
    let text =
        format!("{BASE}RUN mkdir /kaniko && echo own > /kaniko/file\nRUN cat /kaniko/file\n");
    let workspace = Workspace::new(&text);
    let flag = workspace.pod().living_in("/elsewhere/bin");
    let image = workspace.build(&flag, &["--kaniko-dir=/elsewhere/bin"]);
    assert_eq!(image.top(), ["kaniko/", "kaniko/file"]);
    let variable = workspace.pod().living_in("/elsewhere").env("KANIKO_DIR", "/elsewhere");
    let image = workspace.build(&variable, &[]);
    assert_eq!(image.top(), ["kaniko/", "kaniko/file"]);
    assert!(!image.layers().iter().flatten().any(|entry| entry.starts_with("elsewhere")));
}

#[test]
fn what_is_mounted_read_only_stays_and_is_no_part_of_the_image() {
    // As drivers of graphics cards come into containers.
    let text = format!(
        "{BASE}RUN mkdir -p /usr/lib/gpu /usr/share && echo own > /usr/lib/gpu/own && \
         echo beside > /usr/share/beside\nRUN ls /usr/lib/gpu && rm /usr/share/beside\n"
    );
    let workspace = Workspace::new(&text);
    let driver = tempfile::tempdir().expect("a directory");
    write(&driver.path().join("file"), "driver");
    write(&driver.path().join("directory/inner"), "data");
    let pod = workspace
        .pod()
        .readonly_volume(&driver.path().join("file"), "/usr/lib/gpu/libdriver.so")
        .readonly_volume(&driver.path().join("directory"), "/usr/share/driver");
    let image = workspace.build(&pod, &[]);
    assert!(image.has("usr/lib/gpu/own") && image.has("usr/share/.wh.beside"));
    assert!(!image.has("usr/lib/gpu/libdriver.so") && !image.has("usr/share/driver/inner"));
    assert_eq!(std::fs::read(driver.path().join("file")).expect("still there"), b"driver");
    assert!(driver.path().join("directory/inner").exists());
}

#[test]
fn paths_of_the_executors_image_are_not_taken_for_the_images() {
    let text = format!("{BASE}RUN mkdir -p /etc/apk && touch -a /etc/apk/world /etc/apk/new\n");
    let workspace = Workspace::new(&text);
    let pod = workspace.pod();
    write(&pod.path("image/etc/apk/world"), "of the executor");
    write(&pod.path("image/opt/tool"), "of the executor");
    // Where the image holds more than the executor, commands get a root of their own.
    let image = workspace.build_somehow(&pod, &[]);
    assert!(image.has("etc/apk/world") && image.has("etc/apk/new"), "{:?}", image.top());
    assert_eq!(image.read("etc/apk/world"), "");
    assert!(!image.has("opt/tool") && !image.has("opt/.wh.tool"), "{:?}", image.layers());
}

#[test]
fn an_image_cannot_replace_the_executor() {
    let text = format!(
        "{BASE}COPY --chmod=755 hijack /kaniko/executor\nONBUILD COPY --chmod=755 hijack /kaniko/executor\n\
         ONBUILD COPY hijack /kaniko/.docker/config.json\nFROM base\nRUN touch /x\nRUN touch /y\n"
    );
    let workspace = Workspace::new(&text);
    workspace.write("hijack", "#!/bin/sh\necho HIJACKED\n");
    let pod = workspace.pod();
    let image = workspace.build(&pod, &[]);
    assert_eq!(image.top(), ["y"]);
    assert!(!image.ran.stderr.contains("HIJACKED") && !image.ran.stdout.contains("HIJACKED"));
    assert!(!pod.path("upper/kaniko/executor").exists(), "it was written to");
}

#[test]
fn secrets_reach_commands_in_place_and_nothing_else() {
    let text = format!(
        "{BASE}RUN --mount=type=secret,id=file cat /run/secrets/file > /seen && wc -c < /seen && rm /seen\n\
         RUN --mount=type=secret,id=variable,env=HUSH test ${{#HUSH}} = 13 && touch /ok\n\
         RUN ! test -e /run/secrets/file && test -z \"$HUSH\"\n"
    );
    let workspace = Workspace::new(&text);
    let secret = tempfile::tempdir().expect("a directory");
    write(&secret.path().join("token"), "hush-file");
    let pod = workspace
        .pod()
        .volume(&secret.path().join("token"), "/kaniko/token")
        .env("HUSHED", "hush-variable");
    let secrets = ["--secret=id=file,src=/kaniko/token", "--secret=id=variable,env=HUSHED"];
    let image = workspace.build(&pod, &secrets);
    assert_eq!(image.top(), ["ok"]);
    let found = run(Command::new("grep").args(["-r", "-l", "hush-"]).arg(image.dir.path()), "");
    assert_eq!(found.stdout, "", "a layer or the config has a secret");
    assert!(!image.ran.stderr.contains("hush-"), "{}", image.ran.stderr);
}

#[test]
fn a_cache_may_lie_on_another_file_system() {
    let text = format!(
        "{BASE}RUN --mount=type=cache,target=/c mkdir /c/d && echo kept > /c/d/f && ln -s f /c/d/l\n\
         RUN --mount=type=cache,target=/c cat /c/d/l > /seen\n"
    );
    let workspace = Workspace::new(&text);
    let pod = workspace.pod().memory("/kaniko/state", "64m");
    let image = workspace.build(&pod, &[]);
    assert_eq!((image.top(), image.read("seen")), (vec!["seen".to_owned()], "kept\n".to_owned()));
}

#[test]
fn a_dry_run_builds_nothing() {
    let text = format!(
        "{BASE}RUN touch /x\nFROM scratch AS unused\nCOPY missing /\nFROM base\nRUN false\n"
    );
    let workspace = Workspace::new(&text);
    let pod = workspace.pod();
    let ran = pod.executor(&[
        "--context=/workspace",
        "--destination=no.such.host.invalid/x",
        "--skip-push-permission-check",
        "--dryrun",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("RUN false") && !ran.stdout.contains("missing"), "{}", ran.stdout);
}

#[test]
fn the_executor_builds_on_a_base_of_a_registry_and_pushes_it_on() {
    let registry = DebianRegistry::start(USER, PASSWORD);
    let host = &registry.address;
    let credentials = tempfile::tempdir().expect("a directory");
    let auth = base64_encode(&format!("{USER}:{PASSWORD}"));
    let config = format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{}\"}}}}}}", auth.trim());
    write(&credentials.path().join("config.json"), &config);
    let workspace = Workspace::new(BASE);
    let push = |dockerfile: &str, to: &str| {
        workspace.write("Dockerfile", dockerfile);
        let pod = workspace.pod().volume(credentials.path(), "/kaniko/.docker");
        let destination = format!("--destination={host}/{to}");
        let ran =
            pod.executor(&["--context=/workspace", "--digest-file=/out/digest", &destination]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        std::fs::read_to_string(workspace.out.path().join("digest")).expect("a file")
    };
    push(BASE, "team/base:1");
    // Nothing of this base is needed here but its name.
    push(&format!("FROM {host}/team/base:1\nLABEL of=later\n"), "team/labelled:1");
    let digest = push(&format!("FROM {host}/team/labelled:1\nRUN touch /x\n"), "other/app:1");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}")]);
    skopeo.arg(format!("docker://{host}/other/app:1"));
    let inspected: Value = serde_json::from_str(&run(&mut skopeo, "").ok()).expect("JSON");
    assert_eq!(inspected["Digest"], Value::String(digest));
    assert_eq!(inspected["Labels"]["of"], "later");
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(3));
}
