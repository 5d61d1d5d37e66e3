//! What is said about an image: provenance and bill of materials, and where it is kept.

use std::path::{Path, PathBuf};

use container_runtime::Mode;
use image_builder::{
    AttestationForm, Attestations, BuildOutcome, BuildRequest, CacheUse, Output, OutputTarget,
    ProvenanceMode,
};
use oci_model::{Manifest, MediaType, RawManifest};
use serde_json::{Value, json};

use crate::fixture::{Machine, reference, write_context};
use crate::tests;

tests![
    packages_of_every_manager_are_listed,
    a_bill_of_materials_is_deterministic,
    a_minimal_provenance_keeps_arguments_to_itself,
    a_full_provenance_tells_arguments_and_steps,
    referrers_leave_the_image_alone,
    an_index_holds_attestations_as_buildkit_does,
    layouts_hold_the_statements,
    several_platforms_have_statements_of_their_own,
];

fn build(
    machine: &Machine,
    text: &str,
    platforms: &[&str],
    change: impl FnOnce(&mut BuildRequest),
) -> BuildOutcome {
    let context = machine.root.path().join("context");
    machine
        .build_all(Mode::Overlay, text, &context, (platforms, &[]), |request| {
            request.epoch = Some(1_700_000_000);
            change(request);
        })
        .unwrap_or_else(|error| panic!("{error:?}\n{}", machine.printed()))
}

fn desk() -> Machine {
    let machine = Machine::new();
    write_context(machine.root.path());
    machine
}

fn all(form: AttestationForm) -> Attestations {
    let provenance = Some(ProvenanceMode::Max);
    Attestations { provenance, sbom: true, form, ..Attestations::default() }
}

/// The statements beside exported files.
fn exported(machine: &Machine, outcome: &BuildOutcome, to: &str) -> PathBuf {
    let path = machine.root.path().join(to);
    machine.write(outcome, &Output::Files(path.clone()), "example.com/app:1");
    path
}

fn read(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn write_packages(context: &Path) {
    let write = |path: &str, text: &str| {
        let path = context.join("packages").join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    };
    write("usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    std::fs::create_dir_all(context.join("packages/etc")).expect("a directory");
    let link = context.join("packages/etc/os-release");
    std::os::unix::fs::symlink("../usr/lib/os-release", link).expect("a link");
    write(
        "var/lib/dpkg/status",
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u4\n\n\
         Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
    );
    write("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a\nArchitecture: all\n");
    write("lib/apk/db/installed", "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n");
    write(
        "opt/v/lib/site-packages/Flask_Cors-1.dist-info/METADATA",
        "Name: Flask_Cors\nVersion: 1\n",
    );
    write(
        "app/node_modules/@s/a/package.json",
        r#"{"name":"@s/a","version":"2.0.0","license":"MIT"}"#,
    );
    write("app/node_modules/b/package.json", r#"{"name":"b","version":"1.0.0"}"#);
    write("app/node_modules/c/node_modules/b/package.json", r#"{"name":"b","version":"1.0.0"}"#);
    write(
        "src/Cargo.lock",
        "[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nsource = \"registry+x\"\n",
    );
    write(
        "gems/specifications/rake.gemspec",
        "  s.name = \"rake\".freeze\n  s.version = \"13.1\"\n",
    );
    write("var/lib/rpm/Packages", "not read");
}

const PACKAGES: &str = "FROM scratch\nCOPY packages /\nCOPY <<EOF /removed\nx\nEOF\n";

fn packages_of_every_manager_are_listed() {
    let machine = desk();
    write_packages(&machine.root.path().join("context"));
    let outcome = build(&machine, PACKAGES, &["linux/amd64"], |request| {
        request.attest.sbom = true;
        request.invocation.names = vec![reference("example.com/app:1")];
    });
    let path = exported(&machine, &outcome, "out");
    let statement = read(&path.join("sbom.spdx.json"));
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    let subject = &statement["subject"][0];
    assert_eq!(subject["name"], "pkg:docker/example.com/app@1?platform=linux%2Famd64");
    assert_eq!(subject["digest"]["sha256"], outcome.manifest.digest().encoded());
    let document = &statement["predicate"];
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    assert_eq!(document["comment"], "the rpm database is not read");
    let packages = document["packages"].as_array().expect("packages");
    let mut urls: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    urls.sort_unstable();
    assert_eq!(
        urls,
        [
            "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
            "pkg:cargo/serde@1.0.1",
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12",
            "pkg:deb/debian/tzdata@2024a?arch=all&distro=debian-12",
            "pkg:gem/rake@13.1",
            "pkg:npm/%40s/a@2.0.0",
            "pkg:npm/b@1.0.0",
            "pkg:pypi/flask-cors@1",
        ]
    );
    let related = document["relationships"].as_array().expect("relationships");
    assert_eq!(related.len(), packages.len());
    // Every element that is named exists, once.
    for relation in related {
        let id = &relation["relatedSpdxElement"];
        assert_eq!(packages.iter().filter(|package| package["SPDXID"] == *id).count(), 1, "{id}");
    }
}

fn a_bill_of_materials_is_deterministic() {
    let once = || {
        let machine = desk();
        write_packages(&machine.root.path().join("context"));
        let outcome = build(&machine, PACKAGES, &["linux/amd64"], |request| {
            request.attest = all(AttestationForm::Index);
            request.cache = CacheUse::Ignore;
        });
        *outcome.root.digest()
    };
    assert_eq!(once(), once());
}

const SECRETIVE: &str = "FROM base\nARG TOKEN\n\
    RUN --mount=type=secret,id=must,required=true --mount=type=secret,id=may \
    --mount=type=ssh,id=agent --network=none true\n";

fn provenance(machine: &Machine, mode: ProvenanceMode) -> Value {
    let outcome = build(machine, SECRETIVE, &["linux/amd64"], |request| {
        let bytes = image_builder::SecretBytes::new("hidden");
        request.secrets.insert("must".into(), image_builder::SecretSource::Value(bytes));
        request.attest.provenance = Some(mode);
        request.invocation.dockerfile = "Dockerfile".into();
        request.invocation.build_args.insert("TOKEN".into(), "told".into());
        request.invocation.labels.push(("l".into(), "v".into()));
        request.invocation.target = Some("last".into());
    });
    let path = exported(machine, &outcome, "out");
    let statement = read(&path.join("provenance.json"));
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v0.1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["predicate"], outcome.statements[0].provenance);
    assert!(!statement.to_string().contains("hidden"));
    statement["predicate"].clone()
}

/// BuildKit ProvenanceAttestation (min), SecretSSHProvenance, ProvenanceExportLocal.
fn a_minimal_provenance_keeps_arguments_to_itself() {
    let predicate = provenance(&desk(), ProvenanceMode::Min);
    let definition = &predicate["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"], json!({ "target": "last" }));
    assert_eq!(request["secrets"], json!([{ "id": "may", "optional": true }, { "id": "must" }]));
    assert_eq!(request["ssh"], json!([{ "id": "agent", "optional": true }]));
    assert_eq!(request["locals"], json!([{ "name": "context" }]));
    assert_eq!(definition["externalParameters"]["configSource"], json!({ "path": "Dockerfile" }));
    assert!(!predicate.to_string().contains("told"));
    let dependency = &definition["resolvedDependencies"][0];
    assert_eq!(dependency["uri"], "pkg:docker/base@latest?platform=linux%2Famd64");
    assert_eq!(dependency["digest"]["sha256"].as_str().map(str::len), Some(64));
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["startedOn"], "2023-11-14T22:13:20Z");
    assert_eq!(metadata["finishedOn"], metadata["startedOn"]);
    assert_eq!(metadata["buildkit_hermetic"], true);
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
}

/// BuildKit ProvenanceAttestation (max), CommandSourceMapping.
fn a_full_provenance_tells_arguments_and_steps() {
    let predicate = provenance(&desk(), ProvenanceMode::Max);
    let definition = &predicate["buildDefinition"];
    let arguments = &definition["externalParameters"]["request"]["args"];
    assert_eq!(arguments["build-arg:TOKEN"], "told");
    assert_eq!(arguments["label:l"], "v");
    let steps = definition["internalParameters"]["buildConfig"]["steps"].as_array();
    let lines: Vec<&Value> = steps.expect("steps").iter().map(|step| &step["lines"]).collect();
    assert_eq!(lines, [&json!([2, 2]), &json!([3, 3])]);
    assert_eq!(predicate["runDetails"]["metadata"]["buildkit_completeness"]["request"], true);
}

fn referrers_leave_the_image_alone() {
    let machine = desk();
    let text = "FROM scratch\nCOPY a.txt /\n";
    let plain = build(&machine, text, &["linux/amd64"], |_| {});
    let told = build(&machine, text, &["linux/amd64"], |request| {
        request.attest = all(AttestationForm::Referrers);
    });
    assert_eq!(plain.root.digest(), told.root.digest());
}

fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").expect("sha256");
    std::fs::read(layout.join("blobs/sha256").join(hex)).expect("a blob")
}

/// BuildKit's attestation storage: the entry, its annotations, its layers.
fn an_index_holds_attestations_as_buildkit_does() {
    let machine = desk();
    let text = "FROM scratch\nCOPY a.txt /\n";
    let outcome = build(&machine, text, &["linux/amd64"], |request| {
        request.attest = all(AttestationForm::Index);
    });
    assert_eq!(*outcome.root.media_type(), MediaType::OCI_INDEX);
    let layout = machine.root.path().join("layout");
    machine.write(&outcome, &Output::OciDirectory(layout.clone()), "a:1");
    let root: Value = serde_json::from_slice(outcome.root.bytes()).expect("JSON");
    let entry = &root["manifests"][1];
    assert_eq!(entry["platform"], json!({ "architecture": "unknown", "os": "unknown" }));
    assert_eq!(
        entry["annotations"],
        json!({
            "vnd.docker.reference.digest": root["manifests"][0]["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        })
    );
    let bytes = blob(&layout, entry["digest"].as_str().expect("a digest"));
    let manifest = RawManifest::parse(Some(&MediaType::OCI_MANIFEST), bytes).expect("a manifest");
    let Manifest::Image(manifest) = manifest.parsed() else { panic!("an index") };
    let types: Vec<(&str, &str)> = manifest
        .layers
        .iter()
        .map(|layer| {
            (layer.media_type.as_str(), layer.annotations["in-toto.io/predicate-type"].as_str())
        })
        .collect();
    let kind = "application/vnd.in-toto+json";
    assert_eq!(
        types,
        [(kind, "https://spdx.dev/Document"), (kind, "https://slsa.dev/provenance/v1")]
    );
    // The index still serves as a base.
    machine.keep(&outcome, "attested");
    let child = build(&machine, "FROM attested\nCOPY b.txt /\n", &["linux/amd64"], |_| {});
    assert_eq!(child.layer_count(), 2);
}

fn layouts_hold_the_statements() {
    let machine = desk();
    let outcome = build(&machine, "FROM scratch\nCOPY a.txt /\n", &["linux/amd64"], |request| {
        request.attest = all(AttestationForm::Referrers);
    });
    let layout = machine.root.path().join("layout");
    machine.write(&outcome, &Output::OciDirectory(layout.clone()), "example.com/a:1");
    let index = read(&layout.join("index.json"));
    let entries = index["manifests"].as_array().expect("entries");
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[0]["digest"], outcome.root.digest().to_string());
    for entry in &entries[1..] {
        assert_eq!(entry["artifactType"], "application/vnd.in-toto+json");
        let bytes = blob(&layout, entry["digest"].as_str().expect("a digest"));
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(manifest["subject"]["digest"], outcome.manifest.digest().to_string());
        let layer = &manifest["layers"][0];
        let statement = blob(&layout, layer["digest"].as_str().expect("a digest"));
        let statement: Value = serde_json::from_slice(&statement).expect("JSON");
        let kind = &entry["annotations"]["in-toto.io/predicate-type"];
        assert_eq!(statement["predicateType"], *kind);
    }
}

/// BuildKit MultiPlatformProvenance, ProvenanceExportLocalMultiPlatform.
fn several_platforms_have_statements_of_their_own() {
    let machine = desk();
    let outcome = build(
        &machine,
        "FROM scratch\nCOPY a.txt /\n",
        &["linux/amd64", "linux/arm64"],
        |request| request.attest = all(AttestationForm::Index),
    );
    let Manifest::Index(index) = outcome.root.parsed() else { panic!("an image") };
    assert_eq!(index.manifests.len(), 4);
    let path = exported(&machine, &outcome, "out");
    for (directory, image) in ["linux_amd64", "linux_arm64"].iter().zip(&outcome.images) {
        for name in ["provenance.json", "sbom.spdx.json"] {
            let statement = read(&path.join(directory).join(name));
            let digest = &statement["subject"][0]["digest"]["sha256"];
            assert_eq!(*digest, image.manifest.digest().encoded());
        }
    }
    let tar = machine.root.path().join("out.tar");
    machine.write(&outcome, &Output::FilesArchive(OutputTarget::File(tar.clone())), "x");
    let listed = std::process::Command::new("tar").arg("-tf").arg(&tar).output().expect("tar");
    let names = String::from_utf8(listed.stdout).expect("names");
    assert!(names.contains("linux_arm64/provenance.json\n"), "{names}");
}
