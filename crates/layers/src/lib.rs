//! Layer archives to directory trees and back.
//!
//! This crate unpacks layers safely, keeps unpacked ones, finds out what changed in a tree, and
//! packs changes into layer blobs whose bytes depend on nothing but the changes. It never writes
//! outside of the root it was given, and it knows nothing of images, registries or mounts.
//!
//! Start reading at [`apply()`] for blob → tree, and at [`LayerWriter`] and [`LayerSink`] for
//! tree → blob.
#![forbid(unsafe_code)]

mod apply;
mod archive_read;
mod archive_write;
mod changes;
mod compress;
mod decompress;
mod entry;
mod index;
mod inode_read;
mod inventory;
mod layer_writer;
mod normalize;
mod pack;
mod sink;
mod unpacked;

pub use apply::{
    Applied, ApplyError, ApplyOptions, ENTRIES_MAX, OnForbidden, Ownership, RootEntry, Skipped,
    SkippedPart, TAR_BYTES_MAX, Whiteouts, apply,
};
pub use archive_read::{ArchiveError, ArchiveReader, Content};
pub use changes::{Change, PackError, changes, diff_trees, write_changes};
pub use compress::{Compression, Compressor};
pub use decompress::{Decoder, Encoding};
pub use entry::{Entry, EntryKind, OPAQUE_MARKER, Timestamp, WHITEOUT_PREFIX, Whiteout};
pub use index::{Indexed, KEPT_BYTES_MAX, Located, MergedView, TarIndex};
pub use inode_read::TreeReadError;
pub use inventory::{Inventory, Mounts, ScanOptions, Stamp};
pub use layer_writer::{ContentSource, LayerWriteError, LayerWriter, Timestamps, VirtualLayer};
pub use pack::pack_upper;
pub use sink::{LayerBlob, LayerSink};
pub use unpacked::{LayerHold, RemovedLayers, UnpackError, UnpackedLayer, UnpackedLayers};
