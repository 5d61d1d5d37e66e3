//! The same Dockerfiles by us and by buildah: equal trees, equal configs. Debian's buildah knows
//! no heredocs; those are in `rules`.

use std::path::{Path, PathBuf};
use std::process::Command;

use container_runtime::Mode;
use image_builder::{Output, OutputTarget};
use serde_json::Value;

use crate::fixture::{Machine, write_context};
use crate::tests;
use crate::tree::{assert_same, describe};

tests![trees_and_configs_equal_those_of_buildah,];

/// Title and text. Each builds on `base`, whose files `fixture` writes.
const CASES: &[(&str, &str)] = &[
    ("file to file", "FROM base\nCOPY a.txt /x/y.txt\n"),
    ("file into directory", "FROM base\nCOPY a.txt b.txt /x/\n"),
    ("hidden files and wildcards", "FROM base\nCOPY *.txt .hid* /w/\n"),
    ("wildcard for one character", "FROM base\nCOPY ?.txt /w/\n"),
    ("directory contents", "FROM base\nCOPY src/ /srv/app/\n"),
    ("copy into existing directory", "FROM base\nCOPY src /data\n"),
    ("relative destination", "FROM base\nWORKDIR /w/d\nCOPY a.txt .\nCOPY b.txt sub/\n"),
    ("destination through a link", "FROM base\nCOPY a.txt /var/run/\nCOPY b.txt /lib/b\n"),
    ("numeric chown", "FROM base\nCOPY --chown=12:34 a.txt /o/\n"),
    ("named chown", "FROM base\nCOPY --chown=app:extra a.txt /o/\n"),
    ("chown of a user alone", "FROM base\nCOPY --chown=app src/main.c /o/\n"),
    ("octal chmod", "FROM base\nCOPY --chmod=700 a.txt /o/a\n"),
    ("link is followed", "FROM base\nCOPY link /l\n"),
    ("exec bit survives", "FROM base\nCOPY script.sh /bin/\nRUN script.sh > /out\n"),
    ("add unpacks archives", "FROM base\nADD packed.tgz plain.tar /un/\n"),
    ("copy does not unpack", "FROM base\nCOPY packed.tgz /un/\n"),
    ("run in shell and exec form", "FROM base\nRUN echo a > /a\nRUN [\"touch\", \"/b\"]\n"),
    ("removal", "FROM base\nRUN rm /etc/gone && rm -r /data\n"),
    ("removal and return", "FROM base\nRUN rm -r /data && mkdir /data && echo n > /data/n\n"),
    ("directory becomes file", "FROM base\nRUN rm -r /data && echo f > /data\n"),
    (
        "file becomes directory",
        "FROM base\nRUN rm /etc/gone && mkdir /etc/gone && touch /etc/gone/x\n",
    ),
    ("modes and owners", "FROM base\nRUN chmod 4711 /etc/keep && chown app:app /etc/gone\n"),
    ("links", "FROM base\nRUN ln /etc/keep /etc/hard && ln -s keep /etc/soft\n"),
    ("rename of a base directory", "FROM base\nRUN mv /data /moved\n"),
    (
        "user",
        "FROM base\nRUN chmod 777 /tmp\nUSER app\nRUN id -u > /tmp/id && id -g >> /tmp/id && pwd > /tmp/pwd\n",
    ),
    ("build arguments", "FROM base\nARG V=1\nENV E=${V}x\nRUN echo $V $E > /v\n"),
    ("stages", "FROM base AS one\nRUN echo built > /built\nFROM base\nCOPY --from=one /built /b\n"),
    (
        "directory of a stage",
        "FROM base AS one\nRUN mkdir -p /o/p && echo 1 > /o/p/f && chown -R app /o\nFROM base\nCOPY --from=one /o /to\n",
    ),
    ("stage by number", "FROM base\nRUN touch /zero\nFROM scratch\nCOPY --from=0 /zero /z\n"),
    (
        "stage from stage",
        "FROM base AS one\nENV A=1\nRUN touch /one\nFROM one\nRUN touch /two-$A\n",
    ),
    ("shell", "FROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $0 > /shell\n"),
    (
        "config",
        "FROM base\nLABEL a=1 b=\"two words\"\nEXPOSE 80 53/udp\nVOLUME /v\nUSER app\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo\"]\nWORKDIR /tmp\n",
    ),
    ("entrypoint clears the base's command", "FROM base\nENTRYPOINT [\"/bin/true\"]\n"),
    (
        "environment quoting",
        "FROM base\nENV A=\"b c\" D='e f' G=h\\ i\nENV J k l\nRUN echo \"$A|$D|$G|$J\" > /e\n",
    ),
    (
        "tmpfs and cache leave no files",
        "FROM base\nRUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c touch /t/x /c/y && echo z > /z\n",
    ),
    (
        "bind mount",
        "FROM base\nRUN --mount=type=bind,source=src,target=/mnt cat /mnt/main.c > /copied\n",
    ),
];

/// Lines of a tree that the peer decides otherwise, with the reason.
fn is_known_difference(title: &str, line: &str) -> bool {
    match title {
        // BuildKit makes the destination 0755; buildah gives it the looks of the source. Link
        // counts differ where buildah copies a link's file alone.
        "directory contents" | "copy into existing directory" => line.contains(" links "),
        // buildah creates the directory of a VOLUME, as the old builder did; BuildKit does not.
        "config" => line.starts_with("/v "),
        // buildah keeps mount points it made.
        "tmpfs and cache leave no files" => line.starts_with("/t ") || line.starts_with("/c "),
        "bind mount" => line.starts_with("/mnt "),
        // BuildKit (0.21) gives directories made on the way the octal mode of --chmod.
        "octal chmod" => line.starts_with("/o "),
        // buildah's vfs driver splits hard links into copies.
        "links" => line.contains(" links "),
        _ => false,
    }
}

fn trees_and_configs_equal_those_of_buildah() {
    let machine = Machine::new();
    let context = write_context(machine.root.path());
    let peer = Peer::new(&machine);
    let mut failures = Vec::new();
    for (title, text) in CASES {
        let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compare(&machine, &peer, &context, title, text);
        }));
        if compared.is_err() {
            failures.push(*title);
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

fn compare(machine: &Machine, peer: &Peer, context: &Path, title: &str, text: &str) {
    let outcome = machine.build(Mode::Overlay, text, context).unwrap_or_else(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        panic!("{title}: {error}: {source:?}\n{}", machine.printed())
    });
    let ours = machine.unpack(&outcome, &format!("tree-{}", title.replace(' ', "-")));
    let (theirs, config) = peer.build(text, context);
    let lines = |root: &Path| -> Vec<String> {
        let mut lines = describe(root);
        lines.retain(|line| !is_known_difference(title, line) && !is_runtime_directory(line));
        lines
    };
    assert_same(title, &lines(&ours), &lines(&theirs));
    let ours = serde_json::to_value(&outcome.image.config).expect("json");
    for field in [
        "Env",
        "Cmd",
        "Entrypoint",
        "User",
        "WorkingDir",
        "Labels",
        "ExposedPorts",
        "Volumes",
        "StopSignal",
    ] {
        let value = |config: &Value| match config.get(field) {
            None | Some(Value::Null) => Value::Null,
            Some(Value::Object(map)) if map.is_empty() => Value::Null,
            Some(Value::String(text)) if text.is_empty() || text == "/" => Value::Null,
            Some(Value::Array(items)) if field == "Env" => {
                let mut items = items.clone();
                items.sort_by_key(ToString::to_string);
                Value::Array(items)
            }
            Some(value) => value.clone(),
        };
        assert_eq!(value(&ours), value(&config), "{title}: {field}");
    }
}

/// What a container runtime mounts on; buildah leaves empty ones in its layers.
fn is_runtime_directory(line: &str) -> bool {
    [
        "/proc ",
        "/sys ",
        "/dev ",
        "/etc/hosts ",
        "/etc/resolv.conf ",
        "/etc/hostname ",
        "/run/.containerenv ",
        "/run/secrets ",
    ]
    .iter()
    .any(|path| line.starts_with(path))
}

struct Peer {
    home: PathBuf,
}

impl Peer {
    fn new(machine: &Machine) -> Self {
        let home = machine.root.path().join("buildah");
        std::fs::create_dir_all(&home).expect("a directory");
        let peer = Self { home };
        let context = machine.root.path().join("base");
        let outcome = machine.build(Mode::None, crate::fixture::BASE, &context).expect("cached");
        let archive = machine.root.path().join("base.tar");
        let target = Output::OciArchive(OutputTarget::File(archive.clone()));
        machine.write(&outcome, &target, "base");
        let pulled = peer.run(&["pull", "-q", &format!("oci-archive:{}", archive.display())]);
        peer.run(&["tag", pulled.trim(), "localhost/base:latest"]);
        peer
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("buildah")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.home.join("root"))
            .arg("--runroot")
            .arg(self.home.join("run"))
            .args(arguments)
            .env("TMPDIR", &self.home)
            .output()
            .expect("Debian's buildah");
        assert!(
            output.status.success(),
            "buildah {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The tree and the config that buildah makes.
    fn build(&self, text: &str, context: &Path) -> (PathBuf, Value) {
        let file = self.home.join("Dockerfile");
        std::fs::write(&file, text).expect("a file");
        let (file, context) = (file.display().to_string(), context.display().to_string());
        let id = self.run(&[
            "build",
            "-q",
            "--pull=never",
            "--isolation=chroot",
            "--identity-label=false",
            "--layers=false",
            "-f",
            &file,
            &context,
        ]);
        let inspected = self.run(&["inspect", "--type=image", id.trim()]);
        let inspected: Value = serde_json::from_str(&inspected).expect("json");
        let container = self.run(&["from", "--pull=never", id.trim()]);
        let mounted = self.run(&["mount", container.trim()]);
        (PathBuf::from(mounted.trim()), inspected["OCIv1"]["config"].clone())
    }
}
