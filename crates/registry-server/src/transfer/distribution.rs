//! The tree of the CNCF distribution registry: `docker/registry/v2` with `blobs` and
//! `repositories`, where files named `link` hold digests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_model::{Algorithm, Digest, Manifest, Repository, Tag};

use super::intake::{Found, Intake, read};
use super::{ImportOptions, Offline, TransferError, TransferReport};

/// Longest content of a link file: a SHA-512 digest with room to spare.
const LINK_BYTES_MAX: u64 = 256;

/// Imports the repositories of the tree.
pub(super) fn import(
    offline: &Offline,
    source: &Path,
    only: &[String],
    options: ImportOptions,
) -> Result<TransferReport, TransferError> {
    let root = find_root(source)?;
    let mut names = BTreeSet::new();
    find_repositories(&root.join("repositories"), "", &mut names)?;
    for wanted in only {
        if !names.contains(wanted) {
            return Err(TransferError::NoRepository { name: wanted.clone() });
        }
    }
    let mut intake = Intake::open(offline, options)?;
    let locate = |digest: &Digest| blob_path(&root, digest);
    for name in names {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let repository = match Repository::new(&name) {
            Ok(repository) => repository,
            Err(error) => {
                intake.report.problem(name, error);
                continue;
            }
        };
        let manifests = root.join("repositories").join(&name).join("_manifests");
        let found = find_manifests(&root, &repository, &manifests, options, &mut intake.report)?;
        if !found.is_empty() {
            intake.repository(&repository, found, &locate)?;
        }
    }
    Ok(intake.close())
}

fn find_root(source: &Path) -> Result<PathBuf, TransferError> {
    [source.join("docker/registry/v2"), source.join("v2"), source.to_owned()]
        .into_iter()
        .find(|root| root.join("blobs").is_dir() && root.join("repositories").is_dir())
        .ok_or_else(|| TransferError::NotA {
            path: source.to_owned(),
            expected: "the tree of a distribution registry (docker/registry/v2)",
        })
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.encoded();
    let prefix = hex.get(..2).unwrap_or_default().to_owned();
    root.join("blobs").join(digest.algorithm().name()).join(prefix).join(hex).join("data")
}

/// The names in a directory; none if there is no such directory. Links are not followed.
fn names(directory: &Path) -> Result<Vec<String>, TransferError> {
    let failed = |source| TransferError::File { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

fn find_repositories(
    directory: &Path,
    name: &str,
    found: &mut BTreeSet<String>,
) -> Result<(), TransferError> {
    for child in names(directory)? {
        if child == "_manifests" {
            found.insert(name.to_owned());
        } else if !child.starts_with('_') {
            let name = if name.is_empty() { child.clone() } else { format!("{name}/{child}") };
            find_repositories(&directory.join(child), &name, found)?;
        }
    }
    Ok(())
}

/// The manifests that a repository has, with their tags. A tag whose manifest was deleted is a
/// leftover of an interrupted delete.
fn find_manifests(
    root: &Path,
    repository: &Repository,
    directory: &Path,
    options: ImportOptions,
    report: &mut TransferReport,
) -> Result<Vec<Found>, TransferError> {
    let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
        let revisions = directory.join("revisions").join(algorithm.name());
        for hex in names(&revisions)? {
            let link = revisions.join(&hex).join("link");
            // Deleting a manifest removes the link and leaves the directory.
            let Some(content) = read_link(&link) else { continue };
            let named = format!("{algorithm}:{hex}");
            match (content, named.parse::<Digest>()) {
                (Ok(digest), Ok(named)) if digest == named => {
                    let manifest = Found { digest, media_type: None, tags: Vec::new() };
                    found.insert(digest, manifest);
                }
                (Err(reason), _) => report.problem(link.display().to_string(), reason),
                _ => report.problem(link.display().to_string(), "it names another manifest"),
            }
        }
    }
    for name in names(&directory.join("tags"))? {
        let link = directory.join("tags").join(&name).join("current/link");
        let Some(content) = read_link(&link) else { continue };
        let object = format!("{repository}:{name}");
        let (digest, tag) = match (content, Tag::new(&name)) {
            (Ok(digest), Ok(tag)) => (digest, tag),
            (Err(reason), _) => {
                report.problem(object, reason);
                continue;
            }
            (_, Err(error)) => {
                report.problem(object, error);
                continue;
            }
        };
        match found.get_mut(&digest) {
            Some(manifest) => manifest.tags.push(tag),
            None => report.problem(object, format!("its manifest {digest} is not there")),
        }
    }
    if options.tagged_only {
        let reached = reached(root, &found);
        found.retain(|digest, _| reached.contains(digest));
    }
    Ok(found.into_values().collect())
}

/// Manifests that tags reach: the tagged ones, entries of indexes, and what refers to them.
fn reached(root: &Path, found: &BTreeMap<Digest, Found>) -> BTreeSet<Digest> {
    let mut referrers: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
    let mut entries: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
    for (digest, manifest) in found {
        // What cannot be read is reported when it is taken in.
        let Ok(manifest) = read(&blob_path(root, digest), manifest) else { continue };
        if let Some(subject) = manifest.parsed().subject() {
            referrers.entry(subject.digest).or_default().push(*digest);
        }
        if let Manifest::Index(index) = manifest.parsed() {
            entries.insert(*digest, index.manifests.iter().map(|entry| entry.digest).collect());
        }
    }
    let mut queue: Vec<Digest> = found
        .values()
        .filter(|manifest| !manifest.tags.is_empty())
        .map(|manifest| manifest.digest)
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(digest) = queue.pop() {
        if reached.insert(digest) {
            queue.extend(entries.get(&digest).into_iter().flatten());
            queue.extend(referrers.get(&digest).into_iter().flatten());
        }
    }
    reached
}

/// The digest in a link file; `None` if there is no such file.
fn read_link(path: &Path) -> Option<Result<Digest, String>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("its link cannot be read: {error}"))),
    };
    let mut text = String::new();
    if let Err(error) = file.take(LINK_BYTES_MAX).read_to_string(&mut text) {
        return Some(Err(format!("its link cannot be read: {error}")));
    }
    Some(text.trim().parse().map_err(|_| "its link holds no digest".to_owned()))
}
