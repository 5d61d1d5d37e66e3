//! Statements about an image: how it was built (SLSA provenance) and what is in it (SPDX).
//!
//! Each is an in-toto statement about one image manifest. They are attached in one of two forms:
//! as OCI referrers, which leave the image's digest alone, or inside the image's index, as
//! BuildKit does it.

mod collect;
mod manifests;
mod materials;
mod packages;
mod provenance;
mod purl;
mod spdx;

use std::collections::BTreeMap;
use std::sync::Arc;

use dockerfile::Target;
use oci_model::{Digest, RawManifest, Reference};
use serde_json::{Value, json};

pub(crate) use self::provenance::Times;
use crate::error::BuildError;
use crate::fetch::redacted;
use crate::image::{BuiltImage, put};
use crate::index::Attached;
use crate::session::Session;

/// Predicate type of a provenance (SLSA 1.0).
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// Predicate type of a bill of materials (in-toto, SPDX predicate).
const SPDX: &str = "https://spdx.dev/Document";

/// How much a provenance tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvenanceMode {
    /// What went in, by digest; neither build arguments nor steps.
    Min,
    /// All of it.
    Max,
}

/// How statements are attached to an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttestationForm {
    /// As manifests whose subject is the image (OCI 1.1): its digest stays the same.
    #[default]
    Referrers,
    /// As entries of an index around the image, as BuildKit does.
    Index,
}

/// Which statements are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attestations {
    /// A provenance, and how much it tells.
    pub provenance: Option<ProvenanceMode>,
    /// A bill of materials.
    pub sbom: bool,
    /// How they are attached.
    pub form: AttestationForm,
    /// Identity of the builder (SLSA `builder.id`); empty names this program.
    pub builder_id: String,
}

/// What the caller knows about a build and the plan does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// Path of the Dockerfile, as given.
    pub dockerfile: String,
    /// Where the context came from, if it was no directory of this machine.
    pub context: Option<Material>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--target`.
    pub target: Option<String>,
    /// Names that the image gets.
    pub names: Vec<Reference>,
}

/// Something that went into a build.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// Where it came from; a password in it is replaced.
    pub uri: String,
    /// Its digests by algorithm: `sha256`, or `sha1` for a git commit.
    pub digest: BTreeMap<String, String>,
}

impl Material {
    /// A commit of a git repository.
    pub fn git(url: &str, commit: &str) -> Self {
        let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
        let digest = [(algorithm.to_owned(), commit.to_owned())].into();
        // A query of a repository chooses what is checked out, and can say nothing else.
        let (repository, choice) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
        Self { uri: format!("{}{choice}", redacted(repository)), digest }
    }

    /// Bytes from a URL.
    pub fn bytes(url: &str, digest: &Digest) -> Self {
        let digest = [(digest.algorithm().name().to_owned(), digest.encoded())].into();
        Self { uri: redacted(url), digest }
    }
}

/// The statements about one image.
#[derive(Clone, Debug)]
pub struct Statements {
    /// SLSA predicate of how it was built; at least with [`ProvenanceMode::Min`].
    pub provenance: Value,
    /// In-toto statement with the provenance, if one was asked for.
    pub(crate) provenance_statement: Option<Vec<u8>>,
    /// In-toto statement with the bill of materials, if one was asked for.
    pub(crate) sbom_statement: Option<Vec<u8>>,
}

/// Statements of all images, and the manifests that carry them.
#[derive(Default)]
pub(crate) struct Attested {
    /// One per image.
    pub(crate) statements: Vec<Statements>,
    /// For the index.
    pub(crate) in_index: Vec<Attached>,
    /// To be pushed beside the images.
    pub(crate) referrers: Vec<RawManifest>,
}

/// Makes the statements about finished images.
pub(crate) async fn attest(
    session: &Arc<Session>,
    wanted: &[Target],
    images: &[BuiltImage],
    times: Times,
) -> Result<Attested, BuildError> {
    let request = &session.request.attest;
    let mut attested = Attested::default();
    for (number, (target, image)) in wanted.iter().zip(images).enumerate() {
        let materials = materials::of(session, target).await?;
        let mode = request.provenance.unwrap_or(ProvenanceMode::Min);
        let provenance = provenance::predicate(session, target, materials, mode, times);
        let provenance_statement =
            request.provenance.map(|_| statement(session, image, PROVENANCE, &provenance));
        let sbom_statement = if request.sbom {
            let bill = collect::packages(session, image)
                .await
                .map_err(|error| BuildError::state("cannot list the packages", error))?;
            let document =
                spdx::document(image, &session.request.invocation.names, &bill, times.end);
            Some(statement(session, image, SPDX, &document))
        } else {
            None
        };
        let made = Statements { provenance, provenance_statement, sbom_statement };
        let parts: Vec<(&str, &[u8])> = made.parts().collect();
        if !parts.is_empty() {
            for (_, bytes) in &parts {
                put(session, bytes)?;
            }
            match request.form {
                AttestationForm::Index => {
                    let (manifest, config) = manifests::for_index(&parts);
                    put(session, config.bytes())?;
                    attested.in_index.push((number, manifest));
                }
                AttestationForm::Referrers => {
                    put(session, manifests::EMPTY)?;
                    let made = parts.iter().map(|part| manifests::referrer(&image.manifest, part));
                    attested.referrers.extend(made);
                }
            }
        }
        attested.statements.push(made);
    }
    let manifests = attested.in_index.iter().map(|(_, manifest)| manifest);
    for manifest in manifests.chain(&attested.referrers) {
        put(session, manifest.bytes())?;
    }
    Ok(attested)
}

impl Statements {
    /// Predicate types and bytes, the bill of materials first, as BuildKit orders them.
    fn parts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let sbom = self.sbom_statement.as_deref().map(|bytes| (SPDX, bytes));
        let provenance = self.provenance_statement.as_deref().map(|bytes| (PROVENANCE, bytes));
        sbom.into_iter().chain(provenance)
    }

    /// Files that stand beside exported files: names as BuildKit gives them, and contents.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let sbom = self.sbom_statement.as_deref().map(|bytes| ("sbom.spdx.json", bytes));
        let provenance = self.provenance_statement.as_deref();
        sbom.into_iter().chain(provenance.map(|bytes| ("provenance.json", bytes)))
    }
}

/// An in-toto statement about an image, under each of its names.
fn statement(
    session: &Session,
    image: &BuiltImage,
    predicate_type: &str,
    predicate: &Value,
) -> Vec<u8> {
    let digest = image.manifest.digest();
    let digest = json!({ digest.algorithm().name(): digest.encoded() });
    let names = &session.request.invocation.names;
    let mut subjects: Vec<Value> = names
        .iter()
        .map(|name| json!({ "name": purl::image(name, Some(&image.platform)), "digest": digest }))
        .collect();
    if subjects.is_empty() {
        subjects.push(json!({ "name": "_", "digest": digest }));
    }
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": predicate_type,
        "subject": subjects,
        "predicate": predicate,
    });
    statement.to_string().into_bytes()
}
