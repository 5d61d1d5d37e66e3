//! Group "Formats/flags": what options make of an image, and hostile images.

use std::path::Path;

use image_builder::{Family, FamilyChoice, Snapshots};
use layers::Entry;
use oci_model::{Digest, ImageManifest, Manifest};
use serde_json::json;

use super::dockerfile;
use super::spec::{Built, archive};
use crate::tests;

tests![
    all_types_of_an_image_belong_to_the_family_of_its_base,
    a_family_can_be_demanded_whatever_the_base_is,
    an_epoch_leaves_the_layers_of_the_base_alone,
    the_root_of_an_archive_is_no_entry_of_the_layer,
    one_snapshot_survives_instructions_without_files,
    one_snapshot_of_a_later_stage_keeps_what_the_earlier_one_made,
    paths_out_of_an_archive_lead_nowhere,
    links_out_of_an_image_lead_nowhere,
    links_with_more_dots_than_depth_end_at_the_root,
];

fn manifest(built: &Built) -> &ImageManifest {
    match built.outcome.manifest.parsed() {
        Manifest::Image(image) => image,
        Manifest::Index(_) => panic!("an index"),
    }
}

fn is_docker(built: &Built) -> bool {
    let image = manifest(built);
    let docker = built.outcome.manifest.media_type().is_docker();
    assert_eq!(image.config.media_type.is_docker(), docker);
    assert!(image.layers.iter().all(|layer| layer.media_type.is_docker() == docker));
    docker
}

fn all_types_of_an_image_belong_to_the_family_of_its_base() {
    for (name, family) in [("of-docker", Family::Docker), ("of-oci", Family::Oci)] {
        dockerfile("FROM base\nLABEL x=y\n")
            .with(move |_, request| request.family = FamilyChoice::Exactly(family))
            .keep(name);
        let built = dockerfile(&format!("FROM {name}\nRUN touch /x\nCOPY a.txt /\n"))
            .with(|_, request| request.family = FamilyChoice::OfBase)
            .build();
        assert_eq!(is_docker(&built), family == Family::Docker, "{name}");
    }
    let scratch = dockerfile("FROM scratch\nCOPY a.txt /\n")
        .with(|_, request| request.family = FamilyChoice::OfBase)
        .build();
    assert!(is_docker(&scratch), "kaniko's choice");
}

fn a_family_can_be_demanded_whatever_the_base_is() {
    for family in [Family::Docker, Family::Oci] {
        for base in ["base", "scratch"] {
            let built = dockerfile(&format!("FROM {base}\nCOPY a.txt /\n"))
                .with(move |_, request| request.family = FamilyChoice::Exactly(family))
                .build();
            assert_eq!(is_docker(&built), family == Family::Docker);
        }
    }
}

fn layers(built: &Built) -> Vec<Digest> {
    manifest(built).layers.iter().map(|layer| layer.digest).collect()
}

fn an_epoch_leaves_the_layers_of_the_base_alone() {
    let base = dockerfile("FROM base\nRUN touch /of-base\n").build();
    base.keep("timed");
    let spec = dockerfile("FROM timed\nRUN touch /x\nCOPY a.txt /\n")
        .with(|_, request| request.epoch = Some(0));
    let (first, second) = (spec.build(), spec.build());
    assert_eq!(first.outcome.manifest.digest(), second.outcome.manifest.digest());
    assert_eq!(layers(&first)[..layers(&base).len()], layers(&base)[..]);
    first.modified("/x", 0).config("/created", &json!("1970-01-01T00:00:00Z"));
}

fn the_root_of_an_archive_is_no_entry_of_the_layer() {
    let tree = archive(&[(Entry::directory("", 0o700), ""), (Entry::file("x", 0o600, 1), "x")]);
    let built =
        dockerfile("FROM base\nADD tree.tar /\nRUN touch /y\n").file("tree.tar", tree).build();
    assert_eq!([built.layer(1), built.layer(0)], [["x"], ["y"]]);
}

fn one_snapshot_survives_instructions_without_files() {
    dockerfile("FROM base\nRUN touch /x\nCOPY a.txt /a\nLABEL a=b\nMAINTAINER someone\n")
        .with(|_, request| request.snapshots = Snapshots::Single)
        .build()
        .own_layers(1)
        .top_layer(&["a", "x"])
        .config("/config/Labels", &json!({"a": "b"}));
    dockerfile("FROM base\nLABEL a=b\n")
        .with(|_, request| request.snapshots = Snapshots::Single)
        .build()
        .own_layers(0);
}

fn one_snapshot_of_a_later_stage_keeps_what_the_earlier_one_made() {
    let text = "FROM base AS one
RUN echo 1 > /marker
MAINTAINER someone
FROM one AS meta
MAINTAINER someone
FROM one AS final
RUN echo 2 > /marker2
MAINTAINER someone
";
    for (target, names) in [("meta", &["marker"][..]), ("final", &["marker", "marker2"][..])] {
        let built = dockerfile(text)
            .target(target)
            .with(|_, request| request.snapshots = Snapshots::Single)
            .build();
        built.config("/author", &json!("someone"));
        for name in names {
            built.is(name, "file 644 0:0");
        }
    }
}

fn paths_out_of_an_archive_lead_nowhere() {
    let tree = archive(&[
        (Entry::file("../../../../escaped", 0o644, 1), "x"),
        (Entry::file("marker", 0o644, 1), "m"),
    ]);
    let error = dockerfile("FROM base\nADD tree.tar /deep/er/\n").file("tree.tar", tree).fails();
    assert!(error.contains("escaped"), "{error}");
    assert!(!Path::new("/escaped").exists());
}

fn links_out_of_an_image_lead_nowhere() {
    let tree = archive(&[
        (Entry::symlink("evil", "../../../../../../../../tmp"), ""),
        (Entry::file("evil/escaped-through-link", 0o644, 1), "x"),
        (Entry::file("marker", 0o644, 1), "m"),
    ]);
    dockerfile("FROM scratch\nADD tree.tar /\n").file("tree.tar", tree).keep("traversal");
    dockerfile(
        "FROM base
COPY --from=traversal marker /marker
COPY --from=traversal / /all/
RUN cat /marker
",
    )
    .build()
    .prints("m")
    .links("/all/evil", "../../../../../../../../tmp")
    .holds("/all/tmp/escaped-through-link", "x");
    assert!(!Path::new("/tmp/escaped-through-link").exists());
}

fn links_with_more_dots_than_depth_end_at_the_root() {
    let sled = "../../../../../../../../etc/keep";
    let tree = archive(&[
        (Entry::symlink("usr/lib/cacerts", sled), ""),
        (Entry::file("etc/keep", 0o644, 4), "sled"),
        (Entry::file("marker", 0o644, 1), "m"),
    ]);
    dockerfile("FROM scratch\nADD tree.tar /\n").file("tree.tar", tree).keep("sled");
    dockerfile(
        "FROM base
COPY --from=sled marker /marker
COPY --from=sled /usr/lib/cacerts /followed
COPY --from=sled /usr /copied
RUN cat /copied/lib/cacerts
",
    )
    .build()
    .holds("/followed", "sled")
    .links("/copied/lib/cacerts", sled)
    .prints("keep\n");
}
