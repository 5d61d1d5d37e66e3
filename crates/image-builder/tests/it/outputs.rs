//! Several platforms, targets and outputs; the documents and bytes that come of them.

use std::path::Path;
use std::process::Command;

use container_runtime::Mode;
use image_builder::{
    BuildEvent, BuildOutcome, BuildRequest, CacheUse, Family, FamilyChoice, Output, OutputTarget,
    Snapshots, StepError,
};
use layers::Compression;
use oci_model::{Descriptor, Digest, ImageIndex, ImageManifest, Manifest, MediaType, RawManifest};

use crate::fixture::{Machine, reference, write_context};
use crate::tests;

tests![
    platforms_share_the_stages_of_the_build_platform,
    an_index_names_every_platform_and_serves_as_base,
    indexes_are_of_the_family_of_their_images,
    platforms_are_directories_in_files_and_archives,
    a_platform_that_fails_leaves_no_image,
    a_foreign_command_is_refused_before_the_first_command,
    a_base_without_the_platform_is_an_error,
    other_targets_are_only_built,
    annotations_go_to_their_documents,
    families_and_compressions_never_mix,
    foreign_layers_and_their_annotations_stay,
    one_snapshot_of_metadata_alone_adds_no_layer,
    equal_input_has_an_equal_digest,
    archives_need_their_directory,
    a_full_disk_leaves_no_half_file,
    a_docker_archive_holds_one_platform,
];

const TWO: &[&str] = &["linux/amd64", "linux/arm64"];

fn run(
    machine: &Machine,
    text: &str,
    wanted: (&[&str], &[&str]),
    change: impl FnOnce(&mut BuildRequest),
) -> BuildOutcome {
    let context = machine.root.path().join("context");
    machine.build_all(Mode::Overlay, text, &context, wanted, change).unwrap_or_else(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        panic!("{error}: {source:?}\n{}", machine.printed())
    })
}

fn desk() -> Machine {
    let machine = Machine::new();
    write_context(machine.root.path());
    machine
}

fn index(outcome: &BuildOutcome) -> &ImageIndex {
    match outcome.root.parsed() {
        Manifest::Index(index) => index,
        Manifest::Image(_) => panic!("not an index"),
    }
}

fn image(manifest: &RawManifest) -> &ImageManifest {
    match manifest.parsed() {
        Manifest::Image(image) => image,
        Manifest::Index(_) => panic!("not an image"),
    }
}

const CROSS: &str = "\
FROM --platform=$BUILDPLATFORM base AS build
RUN echo run >> /out
ARG TARGETARCH TARGETPLATFORM
RUN echo $TARGETARCH $TARGETPLATFORM > /arch
FROM scratch
COPY --from=build /out /arch /
";

/// BuildKit PlatformArgsImplicit, ExportMultiPlatform.
fn platforms_share_the_stages_of_the_build_platform() {
    let machine = desk();
    for cache in [CacheUse::Ignore, CacheUse::Use] {
        let outcome = run(&machine, CROSS, (TWO, &[]), |request| request.cache = cache);
        if cache == CacheUse::Ignore {
            // The first RUN is done once, everything after ARG once per platform.
            assert_eq!((outcome.steps_executed, outcome.steps_cached), (5, 1));
        }
        let files = machine.unpack(&outcome, &format!("{cache:?}"));
        for (architecture, platform) in [("amd64", "linux/amd64"), ("arm64", "linux/arm64")] {
            let below = files.join(platform.replace('/', "_"));
            let read = |name| std::fs::read_to_string(below.join(name)).expect(name);
            assert_eq!(read("out"), "run\n");
            assert_eq!(read("arch"), format!("{architecture} {platform}\n"));
        }
    }
}

/// BuildKit MultiNilRefsOCIExporter, PlatformArgsExplicit.
fn an_index_names_every_platform_and_serves_as_base() {
    let machine = desk();
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    let text = "FROM scratch\nARG TARGETVARIANT\nENV V=v$TARGETVARIANT\nCOPY a.txt /\n";
    let outcome = run(&machine, text, (&platforms, &[]), |_| {});
    assert_eq!(*outcome.root.media_type(), MediaType::OCI_INDEX);
    let found: Vec<String> = index(&outcome)
        .manifests
        .iter()
        .map(|entry| entry.platform.as_ref().expect("a platform").to_string())
        .collect();
    assert_eq!(found, platforms);
    for (entry, image) in index(&outcome).manifests.iter().zip(&outcome.images) {
        assert_eq!(entry.digest, *image.manifest.digest());
        assert_eq!(image.image.architecture, image.platform.architecture);
    }
    machine.keep(&outcome, "multi");
    let child = run(&machine, "FROM multi\n", (&["linux/arm/v7"], &[]), |_| {});
    assert_eq!(child.image.variant.as_deref(), Some("v7"));
    assert_eq!(child.image.config.env.last().map(String::as_str), Some("V=vv7"));
}

fn indexes_are_of_the_family_of_their_images() {
    let machine = desk();
    let text = "FROM scratch\nCOPY a.txt /\n";
    for family in [Family::Oci, Family::Docker] {
        let outcome = run(&machine, text, (TWO, &[]), |request| {
            request.family = FamilyChoice::Exactly(family);
        });
        let docker = family == Family::Docker;
        assert_eq!(outcome.root.media_type().is_docker(), docker);
        assert!(index(&outcome).manifests.iter().all(|e| e.media_type.is_docker() == docker));
    }
    // Of two bases one is OCI's: then everything is.
    let docker = run(&machine, text, (&["linux/amd64"], &[]), |request| {
        request.family = FamilyChoice::OfBase;
    });
    assert!(docker.root.media_type().is_docker());
}

/// BuildKit TarExporterMulti, TarExporterBasic.
fn platforms_are_directories_in_files_and_archives() {
    let machine = desk();
    let text = "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\n";
    let list = |platforms: &[&str], name: &str| {
        let outcome = run(&machine, text, (platforms, &[]), |_| {});
        let path = machine.root.path().join(name);
        machine.write(&outcome, &Output::FilesArchive(OutputTarget::File(path.clone())), "x");
        let listed = Command::new("tar").arg("-tf").arg(&path).output().expect("tar");
        String::from_utf8(listed.stdout).expect("names")
    };
    assert_eq!(list(&["linux/amd64"], "one.tar"), "arch\n");
    let two = list(TWO, "two.tar");
    assert_eq!(two, "linux_amd64/\nlinux_amd64/arch\nlinux_arm64/\nlinux_arm64/arch\n");
}

fn a_platform_that_fails_leaves_no_image() {
    let machine = desk();
    let text = "FROM --platform=$BUILDPLATFORM base AS b\nARG TARGETARCH\n\
                RUN test $TARGETARCH = amd64\nFROM scratch\nCOPY --from=b /etc/keep /\n";
    let context = machine.root.path().join("context");
    let failed = machine.build_all(Mode::Overlay, text, &context, (TWO, &[]), |_| {});
    let error = failed.expect_err("arm64 is not amd64");
    assert_eq!(error.exit_code(), Some(1), "{error}");
    assert!(error.to_string().contains("[linux/amd64 b 2/2] RUN test"), "{error}");
    let ready = |event: &BuildEvent| matches!(event, BuildEvent::ImageReady { .. });
    assert!(!machine.events.lock().expect("events").iter().any(ready));
}

fn a_foreign_command_is_refused_before_the_first_command() {
    let machine = desk();
    let text = "FROM base AS native\nRUN echo native\n\
                FROM --platform=linux/vax scratch\nCOPY --from=native /etc/keep /\nRUN foreign\n";
    let context = machine.root.path().join("context");
    let error = machine.build(Mode::Overlay, text, &context).expect_err("nobody emulates a VAX");
    let image_builder::BuildError::Step { title, span, source } = error else { panic!("{error}") };
    assert_eq!((title.as_str(), span.line), ("[stage-1 3/3] RUN foreign", 5));
    assert!(matches!(*source, StepError::Foreign { .. }));
    assert!(source.to_string().contains("linux/vax"), "{source}");
    assert!(source.hint().expect("what to install").contains("qemu-user-static"));
    assert_eq!(machine.printed(), "");
}

/// BuildKit NamedImageContextPlatform, PlatformWithOSVersion: an index says what it has.
fn a_base_without_the_platform_is_an_error() {
    let machine = desk();
    let context = machine.root.path().join("context");
    let outcome = run(&machine, "FROM scratch\nCOPY a.txt /\n", (TWO, &[]), |_| {});
    machine.keep(&outcome, "127.0.0.1:9/multi");
    let text = "FROM 127.0.0.1:9/multi\n";
    let wanted: (&[&str], &[&str]) = (&["linux/s390x"], &[]);
    let error = machine.build_all(Mode::None, text, &context, wanted, |_| {}).expect_err("none");
    let text = error.to_string();
    assert!(text.contains("is not for linux/s390x; it is for linux/amd64, linux/arm64"), "{text}");
}

/// kaniko `target`: the first is the image.
fn other_targets_are_only_built() {
    let machine = desk();
    let text =
        "FROM base AS a\nRUN echo a\nFROM base AS b\nRUN echo b\nFROM base AS c\nRUN false\n";
    let outcome = run(&machine, text, (&["linux/amd64"], &["b", "a"]), |_| {});
    assert_eq!(outcome.steps_executed, 2);
    assert_eq!(outcome.images.len(), 1);
    let history = outcome.image.history.last().and_then(|entry| entry.created_by.clone());
    assert!(history.expect("a step").contains("echo b"));
}

fn annotations_go_to_their_documents() {
    let machine = desk();
    let text = "FROM scratch\nCOPY a.txt /\n";
    let outcome = run(&machine, text, (TWO, &[]), |request| {
        for one in ["m=1", "manifest[linux/arm64]:m=2", "index,manifest-descriptor:i=3"] {
            request.annotations.add(one).expect("an annotation");
        }
        request.annotations.add("index-descriptor:layout=4").expect("an annotation");
    });
    let of = |at: usize| image(&outcome.images[at].manifest).annotations["m"].clone();
    assert_eq!((of(0), of(1)), ("1".to_owned(), "2".to_owned()));
    assert_eq!(index(&outcome).annotations["i"], "3");
    assert!(index(&outcome).manifests.iter().all(|entry| entry.annotations["i"] == "3"));
    let layout = machine.root.path().join("layout");
    machine.write(&outcome, &Output::OciDirectory(layout.clone()), "example.com/a:1");
    let text = std::fs::read_to_string(layout.join("index.json")).expect("a layout");
    assert!(text.contains(r#""layout":"4""#), "{text}");
    let context = machine.root.path().join("context");
    let refused = machine.build_all(
        Mode::None,
        "FROM scratch\nCOPY a.txt /\n",
        &context,
        (&["linux/amd64"], &[]),
        |request| request.annotations.add("index:a=b").expect("an annotation"),
    );
    let text = refused.expect_err("there is no index").to_string();
    assert_eq!(text, "index annotations not supported for single platform export");
}

/// kaniko issue_mz849, dockerv2, ociv1, issue_mz851.
fn families_and_compressions_never_mix() {
    let machine = desk();
    let context = machine.root.path().join("context");
    let compressions = [Compression::GZIP_DEFAULT, Compression::ZSTD_DEFAULT, Compression::None];
    for base in [Family::Oci, Family::Docker] {
        let made = machine.build_with(Mode::None, "FROM base\nCOPY b.txt /\n", &context, |_, r| {
            r.family = FamilyChoice::Exactly(base);
        });
        machine.keep(&made.expect("a base"), "of-family");
        for wanted in [Some(Family::Oci), Some(Family::Docker), None] {
            for compression in compressions {
                let text = "FROM of-family\nCOPY a.txt /\n";
                let made = machine.build_with(Mode::None, text, &context, |_, request| {
                    request.family = wanted.map_or(FamilyChoice::OfBase, FamilyChoice::Exactly);
                    request.compression = compression;
                });
                let docker = wanted.unwrap_or(base) == Family::Docker;
                let case = format!("{base:?} {wanted:?} {compression:?}");
                if docker && matches!(compression, Compression::Zstd(_)) {
                    let error = made.expect_err(&case).to_string();
                    assert!(error.contains("zstd"), "{case}: {error}");
                    continue;
                }
                let made = made.expect(&case);
                let manifest = image(&made.manifest);
                assert_eq!(made.manifest.media_type().is_docker(), docker, "{case}");
                assert_eq!(manifest.config.media_type.is_docker(), docker, "{case}");
                let types: Vec<&str> =
                    manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
                let family = "application/vnd.docker.";
                assert!(types.iter().all(|t| t.starts_with(family) == docker), "{case}: {types:?}");
                let ending = match compression {
                    Compression::Gzip(_) => "gzip",
                    Compression::Zstd(_) => "zstd",
                    Compression::None => "tar",
                };
                assert!(types.last().expect("a layer").ends_with(ending), "{case}: {types:?}");
            }
        }
    }
}

fn foreign_layers_and_their_annotations_stay() {
    let machine = desk();
    let context = machine.root.path().join("context");
    let base = machine.build(Mode::None, "FROM scratch\nCOPY b.txt /\n", &context).expect("a base");
    let store = machine.store();
    let mut manifest = image(&base.manifest).clone();
    let foreign = Descriptor {
        media_type: MediaType::new("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        urls: vec!["https://example.com/layer".to_owned()],
        annotations: [("kept".to_owned(), "yes".to_owned())].into(),
        ..manifest.layers[0].clone()
    };
    manifest.layers[0] = foreign.clone();
    let manifest = RawManifest::from_image(manifest);
    store.put(manifest.bytes()).expect("a store");
    let name = "images/docker.io/library/foreign:latest".parse().expect("a ref");
    let digests = [*manifest.digest(), base.config, foreign.digest];
    store.set_ref(&name, &digests).expect("a store");
    let text = "FROM foreign\nCOPY a.txt /\n";
    let oci = machine.build(Mode::None, text, &context).expect("a build");
    assert_eq!(image(&oci.manifest).layers[0], foreign);
    let docker = machine.build_with(Mode::None, text, &context, |_, request| {
        request.family = FamilyChoice::Exactly(Family::Docker);
    });
    let docker = docker.expect("a build");
    let mut expected = foreign;
    expected.media_type = MediaType::DOCKER_FOREIGN_LAYER;
    assert_eq!(image(&docker.manifest).layers[0], expected);
}

/// kaniko issue_mz621, issue_mz991.
fn one_snapshot_of_metadata_alone_adds_no_layer() {
    let machine = desk();
    let context = machine.root.path().join("context");
    let build = |text: &str| {
        let single = machine.build_with(Mode::Overlay, text, &context, |_, request| {
            request.snapshots = Snapshots::Single;
        });
        let single = single.expect("a build");
        let plain = machine.build(Mode::Overlay, text, &context).expect("a build");
        let filled = single.image.history.iter().filter(|entry| !entry.empty_layer).count();
        assert_eq!(filled, single.image.rootfs.diff_ids.len(), "{text}");
        (image(&single.manifest).layers.len(), image(&plain.manifest).layers.len())
    };
    assert_eq!(build("FROM base\nENV A=b\nLABEL c=d\nCMD [\"x\"]\n"), (2, 2));
    assert_eq!(build("FROM base\nCOPY a.txt /\nENV A=b\nCOPY b.txt /\nUSER 7\n"), (3, 4));
    assert_eq!(build("FROM base\nRUN true\nENV A=b\n"), (2, 2));
    assert_eq!(build("FROM scratch\nENV A=b\n"), (0, 0));
}

/// BuildKit ReproSourceDateEpoch, ReproducibleIDs, WorkdirSourceDateEpochReproducible.
fn equal_input_has_an_equal_digest() {
    let text = "FROM --platform=$BUILDPLATFORM base AS b\nWORKDIR /w\nCOPY src .\n\
                RUN echo x > y && mkdir z\nFROM scratch\nCOPY --from=b /w /w\n";
    let build = |threads: &str, platforms: &[&str]| {
        let machine = desk();
        // Files of another checkout have other times.
        let touched = Command::new("touch")
            .args(["-d", threads, "context/src/main.c"])
            .current_dir(machine.root.path())
            .status();
        assert!(touched.expect("touch").success());
        let outcome = run(&machine, text, (platforms, &[]), |request| {
            request.epoch = Some(1_700_000_000);
            request.cache = CacheUse::Ignore;
        });
        outcome.images.iter().map(|i| (i.platform.to_string(), *i.manifest.digest())).collect()
    };
    let first: std::collections::BTreeMap<String, Digest> = build("2026-01-01", TWO);
    let second = build("2025-01-01", &["linux/arm64", "linux/amd64"]);
    assert_eq!(first, second);
}

fn archives_need_their_directory() {
    let machine = desk();
    let missing = machine.root.path().join("no/image.tar");
    let output = Output::OciArchive(OutputTarget::File(missing.clone()));
    let error = output.check(1).expect_err("no directory");
    assert_eq!(error.to_string(), format!("cannot write {}", missing.display()));
    assert!(!missing.parent().expect("a parent").exists());
}

fn a_full_disk_leaves_no_half_file() {
    let machine = desk();
    let context = machine.root.path().join("context");
    std::fs::write(context.join("large"), incompressible(3 << 20)).expect("a file");
    let outcome = run(&machine, "FROM scratch\nCOPY large /\n", (&["linux/amd64"], &[]), |_| {});
    let small = Tmpfs::mount(&machine.root.path().join("small"));
    for output in [
        Output::OciArchive(OutputTarget::File(small.0.join("oci.tar"))),
        Output::DockerArchive(OutputTarget::File(small.0.join("docker.tar"))),
        Output::FilesArchive(OutputTarget::File(small.0.join("files.tar"))),
    ] {
        let builder = machine.builder(Mode::None);
        let names = [reference("x")];
        let written = machine.runtime.block_on(builder.write(&outcome, &output, &names));
        written.expect_err("the disk is too small");
        assert_eq!(std::fs::read_dir(&small.0).expect("a disk").count(), 0, "{output:?}");
    }
}

fn a_docker_archive_holds_one_platform() {
    let path = Path::new("/tmp/never.tar").to_owned();
    let output = Output::DockerArchive(OutputTarget::File(path));
    let text = output.check(2).expect_err("two").to_string();
    assert!(text.contains("does not currently support exporting manifest lists"), "{text}");
}

/// Bytes that no compressor makes smaller.
fn incompressible(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..count / 8).flat_map(|_| next()).collect()
}

/// A file system of 1 MiB.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).expect("a directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "small"]).arg(at).status();
        assert!(mounted.expect("mount").success());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
