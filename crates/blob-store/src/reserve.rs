//! Space that uploads leave free, so that metadata can still be written when the disk is full.

use std::fs::File;
use std::io;

use crate::error::{Context as _, DiskError};
use crate::store::BlobStore;

/// Bytes written between two looks at the free space.
const LOOK_EVERY_BYTES: u64 = 4 * 1024 * 1024;

/// How much of a disk stays free of blobs: a share of it, but no more than so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskReserve {
    /// Share of the disk, in percent.
    pub percent: u8,
    /// Most that is reserved, in bytes.
    pub bytes_max: u64,
}

impl Default for DiskReserve {
    /// 5 % of the disk or 1 GiB, whichever is less.
    fn default() -> Self {
        Self { percent: 5, bytes_max: 1024 * 1024 * 1024 }
    }
}

impl DiskReserve {
    /// Nothing is reserved.
    pub const NONE: Self = Self { percent: 0, bytes_max: 0 };

    /// The reserve of a disk of `total` bytes, in bytes.
    pub fn bytes(&self, total: u64) -> u64 {
        let share = u128::from(total) * u128::from(self.percent.min(100)) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).min(self.bytes_max)
    }
}

/// Free space and reserve of the disk of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size of the file system, in bytes.
    pub total: u64,
    /// What may still be written, in bytes.
    pub free: u64,
    /// What uploads leave free, in bytes.
    pub reserved: u64,
}

impl BlobStore {
    /// This store for writers that leave `reserve` free: their ingests and uploads fail with
    /// [`crate::IngestError::NoSpace`] before the disk is full.
    #[must_use]
    pub fn reserving(&self, reserve: DiskReserve) -> Self {
        Self { inner: std::sync::Arc::clone(&self.inner), reserve }
    }

    /// How much room there is.
    ///
    /// # Errors
    /// A failure of the disk.
    pub fn disk_space(&self) -> Result<DiskSpace, DiskError> {
        let root = self.root();
        let stat = rustix::fs::statvfs(root).doing("stat", root)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(DiskSpace { total, free, reserved: self.reserve.bytes(total) })
    }

    /// Fails if the reserve is touched already.
    pub(crate) fn require_room(&self) -> Result<(), DiskError> {
        if self.reserve == DiskReserve::NONE {
            return Ok(());
        }
        let space = self.disk_space()?;
        if space.free < space.reserved {
            return Err(DiskError::new(
                "write below the reserve of",
                self.root(),
                io::Error::from(io::ErrorKind::StorageFull),
            ));
        }
        Ok(())
    }
}

/// Looks at the free space now and then while a file grows.
#[derive(Debug)]
pub(crate) struct Room {
    reserve: DiskReserve,
    /// Bytes until the next look.
    unwatched: u64,
}

impl Room {
    pub(crate) const fn new(reserve: DiskReserve) -> Self {
        Self { reserve, unwatched: 0 }
    }

    /// Called before `size` bytes are written to `file`.
    pub(crate) fn before(&mut self, file: &File, size: usize) -> io::Result<()> {
        if self.reserve == DiskReserve::NONE {
            return Ok(());
        }
        let size = size as u64;
        if size <= self.unwatched {
            self.unwatched -= size;
            return Ok(());
        }
        let stat = rustix::fs::fstatvfs(file)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let room = free.saturating_sub(self.reserve.bytes(total));
        if room < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Others write as well: never count on more than a part of the room.
        self.unwatched = LOOK_EVERY_BYTES.min((room - size) / 16);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_share_with_a_limit() {
        let gib = 1024 * 1024 * 1024;
        let reserve = DiskReserve::default();
        assert_eq!(reserve.bytes(100 * gib), gib);
        assert_eq!(reserve.bytes(1000), 50);
        assert_eq!(DiskReserve::NONE.bytes(u64::MAX), 0);
        let all = DiskReserve { percent: 200, bytes_max: u64::MAX };
        assert_eq!(all.bytes(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_file_that_would_touch_the_reserve_does_not_grow() {
        let file = tempfile::tempfile().expect("a file");
        let mut all = Room::new(DiskReserve { percent: 100, bytes_max: u64::MAX });
        let error = all.before(&file, 1).expect_err("everything is reserved");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut none = Room::new(DiskReserve { percent: 1, bytes_max: 1 });
        for _ in 0..10 {
            none.before(&file, 100).expect("room");
        }
    }
}
