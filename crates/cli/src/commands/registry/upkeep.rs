//! `[registry.upkeep]`: collection, scrubbing and the reserve of the disk.

use std::time::Duration;

use registry_server::{COLLECTION_DELAY, CollectionSchedule, RegistryOptions, ScrubSchedule};

use super::config::Upkeep;
use super::config::shape::{Size, Time};
use crate::exit::Failure;

/// Applies the keys of `[registry.upkeep]`.
pub(super) fn apply(upkeep: &Upkeep, options: &mut RegistryOptions) -> Result<(), Failure> {
    let mut collection =
        CollectionSchedule { interval: Duration::from_secs(3600), delay: COLLECTION_DELAY };
    if let Some(Time(interval)) = upkeep.collect_every {
        if interval.is_zero() {
            return Err(Failure::usage("upkeep.collect-every must be longer than nothing"));
        }
        collection.interval = interval;
    }
    if let Some(Time(delay)) = upkeep.collect_delay {
        collection.delay = delay;
    }
    options.collection = Some(collection);
    let mut scrub = ScrubSchedule::default();
    if let Some(Time(interval)) = upkeep.scrub_every {
        scrub.interval = interval;
    }
    if let Some(Size(rate)) = upkeep.scrub_rate {
        scrub.bytes_per_second = rate;
    }
    options.scrub = (scrub.bytes_per_second > 0).then_some(scrub);
    if let Some(percent) = upkeep.reserve_percent {
        let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
        options.reserve.percent =
            percent.ok_or_else(|| Failure::usage("upkeep.reserve-percent is 0 to 100"))?;
    }
    if let Some(Size(bytes)) = upkeep.reserve_max {
        options.reserve.bytes_max = bytes;
    }
    Ok(())
}
