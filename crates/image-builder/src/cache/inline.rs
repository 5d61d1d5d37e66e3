//! The cache inside the config of an image: a field that container runtimes skip.

use std::collections::HashMap;

use oci_model::{Descriptor, DiffId, ImageManifest, RawConfig};

use super::document::Records;

/// Name of the field; BuildKit's, which means something else, is `moby.buildkit.cache.v0`.
const FIELD: &str = "shipway.build-cache";

/// The config with records inside.
pub(crate) fn embed(config: &RawConfig, records: &Records) -> Result<RawConfig, String> {
    let mut value: serde_json::Value =
        serde_json::from_slice(config.bytes()).map_err(|error| error.to_string())?;
    value[FIELD] = records.to_value().map_err(|error| error.to_string())?;
    let bytes = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
    RawConfig::parse(bytes).map_err(|error| error.to_string())
}

/// The records inside a config, with the layers as the manifest names them: whoever copied the
/// image may have compressed them anew. A record with a layer that the image lacks is left out.
pub(crate) fn extract(config: &[u8], manifest: &ImageManifest) -> Option<Records> {
    let mut value: serde_json::Value = serde_json::from_slice(config).ok()?;
    let mut records = Records::from_value(value.get_mut(FIELD)?.take());
    let config = RawConfig::parse(config.to_vec()).ok()?;
    let diff_ids = config.parsed().rootfs.diff_ids.iter().copied();
    let layers: HashMap<DiffId, &Descriptor> = diff_ids.zip(&manifest.layers).collect();
    records.mounts.clear();
    records.steps.retain(|_, step| {
        step.outputs.iter_mut().filter_map(|output| output.layer.as_mut()).all(
            |(descriptor, diff_id)| match layers.get(diff_id) {
                Some(present) => {
                    *descriptor = (*present).clone();
                    true
                }
                None => false,
            },
        )
    });
    Some(records)
}

#[cfg(test)]
mod tests {
    use oci_model::{Digest, ImageConfig, MediaType};

    use super::*;
    use crate::cache::record::{CachedStep, StepKind, StepOutput};

    fn layer(bytes: &[u8]) -> (Descriptor, DiffId) {
        (Descriptor::of(MediaType::OCI_LAYER_GZIP, bytes), DiffId(Digest::of(bytes)))
    }

    #[test]
    fn records_come_back_with_the_layers_of_the_manifest() {
        let step = |bytes: &[u8]| CachedStep {
            kind: StepKind::Chain,
            outputs: vec![StepOutput { created: 1, layer: Some(layer(bytes)) }],
            used: 1,
            about: None,
            content: None,
        };
        let mut records = Records::default();
        records.steps.insert(Digest::of(b"one"), step(b"here"));
        records.steps.insert(Digest::of(b"two"), step(b"elsewhere"));
        let mut image = ImageConfig::default();
        image.rootfs.diff_ids = vec![DiffId(Digest::of(b"here"))];
        let config = embed(&RawConfig::from_config(image), &records).expect("json");
        let again = Descriptor::of(MediaType::OCI_LAYER_ZSTD, b"compressed anew");
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config: Descriptor::of(MediaType::OCI_CONFIG, config.bytes()),
            layers: vec![again.clone()],
            subject: None,
            annotations: Default::default(),
        };
        let found = extract(config.bytes(), &manifest).expect("records");
        assert_eq!(found.steps.len(), 1);
        let output = found.steps[&Digest::of(b"one")].own().expect("an output").clone();
        assert_eq!(output.layer.map(|(descriptor, _)| descriptor), Some(again));
        assert_eq!(extract(b"{}", &manifest), None);
    }
}
