//! Tree changes become a layer blob in the store, in one pass.

use std::io::{BufWriter, Write};

use blob_store::{BlobStore, Ingest, IngestError, Lease};
use layers::{Compression, LayerBlob, LayerSink, LayerWriter, Timestamps};
use oci_model::{Descriptor, Digest, MediaType};

use crate::error::StepError;
use crate::layer_source::LayerRef;
use crate::tree::Node;

/// Bytes gathered before the compressor sees them: tar headers come in pieces of 512.
const GATHER_BYTES: usize = 256 * 1024;

/// Which family of media types an image uses; never mixed within one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// OCI image-spec.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

impl Family {
    /// The media type of a layer of this family.
    pub(crate) fn layer(self, compression: Compression) -> MediaType {
        match (self, compression) {
            (Self::Oci, Compression::None) => MediaType::OCI_LAYER,
            (Self::Oci, Compression::Gzip(_)) => MediaType::OCI_LAYER_GZIP,
            (_, Compression::Zstd(_)) => MediaType::OCI_LAYER_ZSTD,
            (Self::Docker, Compression::None) => MediaType::DOCKER_LAYER,
            (Self::Docker, Compression::Gzip(_)) => MediaType::DOCKER_LAYER_GZIP,
        }
    }
}

/// How layers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerForm {
    /// How they are compressed.
    pub compression: Compression,
    /// Identity of the paths at which commands leave nothing in a layer.
    pub ignored: Option<Digest>,
    /// What happens to modification times.
    pub timestamps: Timestamps,
}

/// Writer of one layer; its blob becomes visible when the layer is finished.
pub(crate) type Writer = LayerWriter<BufWriter<LayerSink<IngestWriter>>>;

/// An ingest that keeps a full disk apart from other failures.
#[derive(Debug)]
pub(crate) struct IngestWriter(Ingest);

impl Write for IngestWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// A writer into the store; `lease` guards the blob.
pub(crate) fn writer(
    store: &BlobStore,
    lease: &Lease,
    form: LayerForm,
) -> Result<Writer, StepError> {
    let ingest = store.ingest().map_err(failed)?.guarded_by(lease);
    let sink = LayerSink::new(IngestWriter(ingest), form.compression);
    Ok(LayerWriter::new(BufWriter::with_capacity(GATHER_BYTES, sink), form.timestamps))
}

fn failed(error: IngestError) -> StepError {
    StepError::layer("cannot write the layer", error)
}

/// Ends a layer; `None` if nothing was written, in which case the store is as before.
pub(crate) fn finish(writer: Writer) -> Result<Option<(LayerRef, LayerBlob)>, StepError> {
    if writer.entries() == 0 {
        return Ok(None);
    }
    let io = |error: std::io::Error| StepError::layer("cannot write the layer", error);
    let buffered =
        writer.finish().map_err(|error| StepError::layer("cannot write the layer", error))?;
    let sink = buffered.into_inner().map_err(|error| io(error.into_error()))?;
    let (blob, ingest) = sink.finish().map_err(io)?;
    ingest.0.commit_deferred(&blob.digest).map_err(failed)?;
    // The family is decided when the image is assembled; within a build all layers are OCI.
    let media_type = Family::Oci.layer(blob.compression);
    let layer = LayerRef {
        descriptor: Descriptor::new(media_type, blob.digest, blob.blob_bytes),
        diff_id: blob.diff_id,
        origin: None,
    };
    Ok(Some((layer, blob)))
}

/// A layer with what is known about it when it was just written.
pub(crate) struct MadeLayer {
    pub(crate) layer: LayerRef,
    pub(crate) blob: LayerBlob,
    pub(crate) entries: Vec<layers::Entry>,
}

/// A layer of nodes whose contents are on this machine.
pub(crate) fn nodes(
    store: &BlobStore,
    lease: &Lease,
    form: LayerForm,
    nodes: Vec<Node>,
) -> Result<Option<MadeLayer>, StepError> {
    let layer = crate::transfer::to_layer(nodes);
    let mut writer = writer(store, lease, form)?;
    layer.write(&mut writer).map_err(|error| StepError::layer("cannot write the layer", error))?;
    let entries = layer.entries().cloned().collect();
    Ok(finish(writer)?.map(|(layer, blob)| MadeLayer { layer, blob, entries }))
}
