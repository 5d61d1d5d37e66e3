//! Content-addressed store: verified ingest, refs as the only roots, leases, collection.
//!
//! This crate never shows an unverified blob and does not know what a blob means. Several
//! processes may use one store at once. Start reading at [`BlobStore`], then [`Ingest`].
//!
//! # Layout
//! Everything lies below one directory, mode 0700:
//!
//! | path | content |
//! |---|---|
//! | `format` | the line `shipway blob-store 1` |
//! | `sha256/<hex>`, `sha384/…`, `sha512/…` | blobs, as in an OCI image layout; the modification time is the time of the last use |
//! | `staging/<id>` | bytes of an [`Ingest`]; its process holds an exclusive `flock` |
//! | `uploads/<id>`, `uploads/<id>.label` | bytes and owner's label of an [`Upload`], which outlives its process |
//! | `refs/<owner>.log` | what the owner keeps; format below |
//! | `refs/<owner>.mirror` | boot id at which an owner with a durable copy of its own last compared it, see [`MirroredRefs`] |
//! | `leases/<id>` | digests, one per line; alive as long as its process holds an exclusive `flock` |
//! | `locks/…` | files that exist to be locked |
//! | `quarantine/<algorithm>-<hex>` | blobs whose bytes no longer hash to their name |
//! | `scrubbed` | the last blob that an unfinished scrub read |
//! | `scrub-done` | seconds since 1970 at which a scrub last reached the end |
//! | `collected` | what the last collection did: lines `<what> <number>` |
//! | `trash/<id>` | blobs between removal from view and removal from disk |
//!
//! # Ref log
//! One record per line: `set <name> <digest>… <checksum>` or `del <name> <checksum>`. The name is
//! percent-encoded where a byte is not one of `A-Z a-z 0-9 - . _ ~ / : @ +`; the checksum is the
//! FNV-1a hash (64 bits, 16 hex digits) of everything before the space that precedes it. The last
//! record of a name counts. A last line without its line feed was torn by a crash and is cut off
//! by the next writer; any other line that does not check is damage, and nothing is collected
//! until it is repaired.
#![forbid(unsafe_code)]

mod adopt;
mod collect;
mod durable;
mod error;
mod ingest;
mod lease;
mod ref_log;
mod refs;
mod release;
mod reserve;
mod scrub;
mod store;
mod tail;
mod upload;

pub use adopt::{AdoptMode, Adopted};
pub use collect::{CollectMode, CollectOptions, Collected, Keepers, LastCollection};
pub use error::{
    CollectError, DiskError, IngestError, OpenError, ReadError, RefError, UploadError,
};
pub use ingest::Ingest;
pub use lease::Lease;
pub use refs::{MirroredRefs, RefName, RefNameError};
pub use reserve::{DiskReserve, DiskSpace};
pub use scrub::{Quarantined, Scrubbed};
pub use store::{Blob, BlobStore, Verdict};
pub use tail::{Tail, TailReader};
pub use upload::{Upload, UploadId, UploadStatus};
