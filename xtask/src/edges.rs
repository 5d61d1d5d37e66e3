//! The dependency edges between our crates: the whole list, as ARCHITECTURE.md gives it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::tidy;

/// Every edge that may exist outside of tests: crate, what it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("oci-model", &[]),
    ("dockerfile", &["oci-model"]),
    ("layers", &["oci-model"]),
    ("blob-store", &["oci-model"]),
    ("credentials", &["oci-model"]),
    ("image-policy", &["oci-model"]),
    ("container-runtime", &[]),
    ("registry-client", &["oci-model", "blob-store", "credentials"]),
    ("registry-server", &["oci-model", "blob-store"]),
    (
        "image-builder",
        &[
            "oci-model",
            "dockerfile",
            "layers",
            "blob-store",
            "container-runtime",
            "registry-client",
        ],
    ),
    (
        "cluster-node",
        &[
            "oci-model",
            "layers",
            "blob-store",
            "credentials",
            "image-policy",
            "container-runtime",
            "registry-client",
        ],
    ),
    ("cluster-control-plane", &["image-policy"]),
    ("operator", &["oci-model", "credentials", "image-policy", "registry-client"]),
    (
        "cli",
        &[
            "oci-model",
            "dockerfile",
            "layers",
            "blob-store",
            "credentials",
            "image-policy",
            "container-runtime",
            "registry-client",
            "registry-server",
            "image-builder",
            "cluster-node",
            "cluster-control-plane",
            "operator",
        ],
    ),
    ("xtask", &[]),
];

/// Fails on an edge, or a crate, that is not in the list.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .current_dir(tidy::root())
        .exec()
        .context("cannot read the workspace")?;
    let ours: BTreeSet<&str> =
        metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = ALLOWED.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("crate {name} is not in the design"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            // Tests may use any crate of ours as a fixture.
            let counts = dependency.kind != DependencyKind::Development && ours.contains(to);
            if counts && !allowed.contains(&to) {
                wrong.push(format!("{name} -> {to} is not in the design"));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "a new edge is a design change; put it into ARCHITECTURE.md and xtask/src/edges.rs with \
         its reason:\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn dependency_edges_are_those_of_the_design() {
        if let Err(error) = super::check() {
            panic!("{error}");
        }
    }
}
