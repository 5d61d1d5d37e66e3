//! Keys about what the registry does with its disk.

use super::shape::{Size, Time, settings};

settings! {
    /// What the registry does with its disk beside requests.
    struct Upkeep {
        /// Time between collections of blobs that nothing needs.
        collect_every: Option<Time> = "1h",
        /// How long an unneeded blob is kept after its last use: longer than any push takes.
        collect_delay: Option<Time> = "24h",
        /// Bytes per second at which every blob is read again; 0 for never.
        scrub_rate: Option<Size> = "8MiB",
        /// Time between two passes over all blobs.
        scrub_every: Option<Time> = "7d",
        /// Share of the disk that uploads leave free, in percent.
        reserve_percent: Option<u16> = "5",
        /// Most that uploads leave free.
        reserve_max: Option<Size> = "1GiB",
    }
}
