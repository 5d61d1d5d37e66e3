//! What a node has of its own for every pod: docker config files, and credential providers.

use credentials::NodeFileKind;
use credentials::cloud::{CloudOptions, CloudProvider, RegistryHost};
use image_policy::{ImageMirror, LOCAL_REGISTRY, mirrored};
use oci_model::Reference;
use serde_json::Value;

/// What is known about the node's side.
#[derive(Clone, Debug)]
pub enum NodeSide {
    /// It is another machine.
    Unknown {
        /// Why, for people.
        why: String,
    },
    /// It was read.
    Known {
        /// The docker config files that exist, in the order in which the node looks for them.
        files: Vec<NodeFile>,
        /// Its exec credential providers.
        providers: Vec<Provider>,
        /// The clouds that it asks itself, for their own registries.
        clouds: Vec<CloudProvider>,
        /// Why its providers are not known, if they are not.
        providers_unread: Option<String>,
        /// Its rewrites of image names; the first that matches counts.
        mirrors: Vec<ImageMirror>,
        /// Whether it is known to be shipway's own node and no kubelet.
        is_shipway: bool,
    },
}

/// Where an image really comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// From where its name says.
    ByName,
    /// From another name.
    As(Reference),
    /// From the node itself.
    Here,
}

impl NodeSide {
    /// Whether it is known to be shipway's own node.
    pub(crate) const fn is_shipway(&self) -> bool {
        matches!(self, Self::Known { is_shipway: true, .. })
    }

    /// The cloud that the node asks about an image (`registry/repository`).
    pub(crate) fn cloud_of(&self, image: &str) -> Option<CloudProvider> {
        let Self::Known { clouds, .. } = self else { return None };
        CloudOptions::only(clouds.iter().copied()).provider_of(&RegistryHost::of(image)?)
    }

    /// Where the node takes an image from.
    pub(crate) fn served(&self, reference: &Reference) -> Served {
        // No name server knows it.
        if reference.registry() == LOCAL_REGISTRY {
            return Served::Here;
        }
        let Self::Known { mirrors, .. } = self else { return Served::ByName };
        match mirrored(mirrors, reference) {
            Some(Ok(target)) if target.registry() == LOCAL_REGISTRY => Served::Here,
            Some(Ok(target)) => Served::As(target),
            Some(Err(_)) | None => Served::ByName,
        }
    }
}

/// One docker config file of the node.
#[derive(Clone)]
pub struct NodeFile {
    /// Its path.
    pub path: String,
    /// Which of the two formats the node expects.
    pub kind: NodeFileKind,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for NodeFile {
    /// The content stays out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeFile({})", self.path)
    }
}

/// One exec credential provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its name, which is its program's.
    pub name: String,
    /// The images that it is asked for.
    pub match_images: Vec<String>,
}

/// Reads the providers of a `CredentialProviderConfig` (kubelet-images.md 9.1), leniently: the
/// kubelet's own check is not ours to repeat.
///
/// # Errors
/// Text for people, if it is no such file.
pub fn read_providers(text: &str) -> Result<Vec<Provider>, String> {
    let document: Value = serde_saphyr::from_str(text)
        .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
    let Some(providers) = document["providers"].as_array() else {
        return Err("it has no list of providers".to_owned());
    };
    Ok(providers
        .iter()
        .map(|provider| {
            let images = provider["matchImages"].as_array().into_iter().flatten();
            Provider {
                name: provider["name"].as_str().unwrap_or_default().to_owned(),
                match_images: images.filter_map(Value::as_str).map(str::to_owned).collect(),
            }
        })
        .collect())
}
