//! Local lists in docker's place and form: `~/.docker/manifests/<list>/<image>`, one JSON file
//! per image.
//!
//! ```text
//! {"Ref":"docker.io/a/b:1","Descriptor":{…,"platform":{…}},"Raw":"<base64>","SchemaV2Manifest":{…}}
//! ```
//!
//! `Raw` holds the manifest's exact bytes; docker writes it under the same name.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci_model::{Descriptor, Platform, RawManifest, Reference};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Failure, Kind};
use crate::globals::docker_config_dir;

/// The directory of all lists.
pub(super) struct Lists {
    root: PathBuf,
}

/// One image of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member {
    #[serde(rename = "Ref")]
    reference: String,
    descriptor: Descriptor,
    #[serde(default)]
    raw: String,
    #[serde(rename = "SchemaV2Manifest", default, skip_serializing_if = "Option::is_none")]
    schema2: Option<Value>,
    #[serde(rename = "OCIManifest", default, skip_serializing_if = "Option::is_none")]
    oci: Option<Value>,
}

impl Member {
    pub(super) fn new(reference: Reference, manifest: &RawManifest, platform: Platform) -> Self {
        let mut descriptor = manifest.descriptor();
        let docker = descriptor.media_type.is_docker();
        descriptor.platform = Some(platform);
        let value: Option<Value> = serde_json::from_slice(manifest.bytes()).ok();
        let (schema2, oci) = if docker { (value, None) } else { (None, value) };
        let raw = BASE64.encode(manifest.bytes());
        Self { reference: reference.to_string(), descriptor, raw, schema2, oci }
    }

    pub(super) fn reference(&self) -> Result<Reference, Failure> {
        crate::registries::reference(&self.reference)
    }

    pub(super) fn descriptor(&self) -> Result<Descriptor, Failure> {
        match &self.descriptor.platform {
            Some(platform) if !platform.os.is_empty() && !platform.architecture.is_empty() => {
                Ok(self.descriptor.clone())
            }
            _ => Err(Failure::usage(format!(
                "manifest {} must have an OS and Architecture to be pushed to a registry",
                self.reference
            ))
            .hint("shipway manifest annotate LIST IMAGE --os linux --arch amd64")),
        }
    }

    pub(super) fn platform_mut(&mut self) -> &mut Platform {
        let empty = || Platform { os: String::new(), ..Platform::linux("") };
        self.descriptor.platform.get_or_insert_with(empty)
    }

    pub(super) fn manifest(&self) -> Result<RawManifest, Failure> {
        let bytes = BASE64.decode(&self.raw)?;
        Ok(RawManifest::parse(Some(&self.descriptor.media_type), bytes)?)
    }

    pub(super) fn to_json(&self) -> Value {
        let mut value = json!({ "Ref": self.reference, "Descriptor": self.descriptor });
        for (key, manifest) in [("SchemaV2Manifest", &self.schema2), ("OCIManifest", &self.oci)] {
            if let Some(manifest) = manifest {
                value[key] = manifest.clone();
            }
        }
        value
    }
}

impl Lists {
    pub(super) fn open() -> Result<Self, Failure> {
        let directory = docker_config_dir().ok_or_else(|| {
            Failure::new(Kind::Environment, anyhow::anyhow!("there is no home directory"))
                .hint("set HOME or DOCKER_CONFIG")
        })?;
        Ok(Self { root: directory.join("manifests") })
    }

    pub(super) fn exists(&self, list: &Reference) -> bool {
        self.path(list).is_dir()
    }

    pub(super) fn put(&self, list: &Reference, member: &Member) -> Result<(), Failure> {
        let directory = self.path(list);
        let path = directory.join(file_name(&member.reference));
        let text = serde_json::to_vec(member)?;
        let staged = path.with_extension(format!("tmp{}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(&staged, text))
            .and_then(|()| std::fs::rename(&staged, &path))
            .map_err(|error| cannot("write", &path, &error))
    }

    pub(super) fn get(&self, list: &Reference, image: &Reference) -> Result<Member, Failure> {
        if !self.exists(list) {
            return Err(no_list(list));
        }
        let path = self.path(list).join(file_name(&image.to_string()));
        match read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
                Kind::NotFound,
                anyhow::anyhow!("manifest for image {image} does not exist in {list}"),
            )),
            Err(error) => Err(cannot("read", &path, &error)),
            Ok(member) => Ok(member),
        }
    }

    /// All images of a list, in a stable order.
    pub(super) fn members(&self, list: &Reference) -> Result<Vec<Member>, Failure> {
        let directory = self.path(list);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(no_list(list));
            }
            entries => entries.map_err(|error| cannot("read", &directory, &error))?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(|error| cannot("read", &directory, &error))?.path());
        }
        paths.sort();
        let read = |path: &PathBuf| read(path).map_err(|error| cannot("read", path, &error));
        let members: Vec<Member> = paths.iter().map(read).collect::<Result<_, _>>()?;
        if members.is_empty() {
            return Err(Failure::usage(format!("{list} has no images")));
        }
        Ok(members)
    }

    pub(super) fn remove(&self, list: &Reference) -> Result<(), Failure> {
        let path = self.path(list);
        std::fs::remove_dir_all(&path).map_err(|error| cannot("remove", &path, &error))
    }

    fn path(&self, list: &Reference) -> PathBuf {
        self.root.join(file_name(&list.to_string()))
    }
}

/// Docker's way to make a file name of a reference.
fn file_name(reference: &str) -> String {
    reference.replace(':', "-").replace('/', "_")
}

fn read(path: &Path) -> std::io::Result<Member> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    let text = format!("cannot {action} {}: {error}", path.display());
    Failure::new(Kind::Environment, anyhow::anyhow!(text))
}

fn no_list(list: &Reference) -> Failure {
    Failure::new(Kind::NotFound, anyhow::anyhow!("no such manifest list: {list}"))
        .hint(format!("shipway manifest create {list} IMAGE…"))
}
