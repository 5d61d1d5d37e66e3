//! Image garbage collection as the kubelet decides it (kubelet-images.md 10).
//!
//! Times are durations since any fixed moment, the same for all arguments of a call.

use std::time::Duration;

use crate::duration::go_duration;

/// When images are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionPolicy {
    high_percent: u8,
    low_percent: u8,
    minimum_age: Duration,
    maximum_age: Option<Duration>,
}

/// What a [`CollectionPolicy`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionSettings {
    /// Use of the disk in percent from which images are removed (`--image-gc-high-threshold`).
    pub high_percent: i32,
    /// Use of the disk in percent down to which they are (`--image-gc-low-threshold`).
    pub low_percent: i32,
    /// Age since detection below which no image is removed (`--minimum-image-ttl-duration`).
    pub minimum_age: Duration,
    /// Time without use after which images are removed always; zero = never
    /// (`--image-maximum-gc-age`).
    pub maximum_age: Duration,
}

impl Default for CollectionSettings {
    fn default() -> Self {
        CollectionSettings {
            high_percent: 85,
            low_percent: 80,
            minimum_age: Duration::from_secs(120),
            maximum_age: Duration::ZERO,
        }
    }
}

/// Why settings are no policy: the kubelet's texts, one for each thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join(", "))]
pub struct InvalidSettings(pub Vec<String>);

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub capacity_bytes: u64,
    /// What may still be written to it.
    pub available_bytes: u64,
}

/// What a look at the disk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// There is room.
    Nothing,
    /// So many bytes have to go.
    Free {
        /// How many.
        bytes: u64,
    },
    /// The disk claims to have no size; event `InvalidDiskCapacity`.
    InvalidCapacity,
}

/// What decides about one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Last time that something used it; `None` = never since the node started.
    pub last_used: Option<Duration>,
    /// When the node first saw it since it started.
    pub detected: Duration,
    /// Whether a container in any state or an image volume uses it.
    pub in_use: bool,
    /// Whether it is never removed.
    pub pinned: bool,
}

/// The disk is short when less than this is available (`imagefs.available` of `--eviction-hard`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PressureThreshold {
    /// Of the capacity.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

/// Why a text is no threshold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not imagefs.available<PERCENT% or imagefs.available<QUANTITY, such as imagefs.available<5% or imagefs.available<2Gi"
)]
pub struct InvalidThreshold {
    text: String,
}

/// Why a text is no age of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAge {
    /// Not in Go's syntax.
    #[error("time: invalid duration {0:?}")]
    Syntax(String),
    /// The kubelet's text.
    #[error("invalid configuration: {field} {age} must not be negative")]
    Negative {
        /// Name in the kubelet's configuration, such as `imageMinimumGCAge`.
        field: &'static str,
        /// As Go prints it.
        age: String,
    },
}

impl Default for CollectionPolicy {
    /// The kubelet's: 85 %, 80 %, 2 minutes, no maximum age.
    fn default() -> Self {
        let minimum_age = Duration::from_secs(120);
        CollectionPolicy { high_percent: 85, low_percent: 80, minimum_age, maximum_age: None }
    }
}

impl CollectionPolicy {
    /// Checks settings as the kubelet does at its start.
    ///
    /// # Errors
    /// [`InvalidSettings`] with everything that is wrong.
    pub fn new(settings: &CollectionSettings) -> Result<Self, InvalidSettings> {
        let CollectionSettings { high_percent, low_percent, minimum_age, maximum_age } = *settings;
        let mut wrong = Vec::new();
        let mut percent = |value: i32, field: &str| {
            let checked = u8::try_from(value).ok().filter(|value| *value <= 100);
            if checked.is_none() {
                wrong.push(format!(
                    "invalid configuration: {field} {value} must be between 0 and 100, inclusive"
                ));
            }
            checked.unwrap_or_default()
        };
        let high = "imageGCHighThresholdPercent (--image-gc-high-threshold)";
        let low = "imageGCLowThresholdPercent (--image-gc-low-threshold)";
        let (high_checked, low_checked) = (percent(high_percent, high), percent(low_percent, low));
        if low_percent >= high_percent {
            wrong.push(format!(
                "invalid configuration: {low} {low_percent} must be less than {high} {high_percent}"
            ));
        }
        if !maximum_age.is_zero() && maximum_age <= minimum_age {
            wrong.push(format!(
                "invalid configuration: imageMaximumGCAge {} must be greater than imageMinimumGCAge {}",
                go_duration(maximum_age),
                go_duration(minimum_age)
            ));
        }
        if !wrong.is_empty() {
            return Err(InvalidSettings(wrong));
        }
        Ok(CollectionPolicy {
            high_percent: high_checked,
            low_percent: low_checked,
            minimum_age,
            maximum_age: (!maximum_age.is_zero()).then_some(maximum_age),
        })
    }

    /// Whether nothing is ever collected: a threshold of 100 and no maximum age.
    pub fn is_off(&self) -> bool {
        self.high_percent == 100 && self.maximum_age.is_none()
    }

    /// How much has to go.
    pub fn need(&self, disk: Disk) -> Need {
        let Some(used) = disk.used_percent() else { return Need::InvalidCapacity };
        if used < self.high_percent {
            return Need::Nothing;
        }
        let wanted = u128::from(disk.capacity_bytes) * u128::from(100 - self.low_percent) / 100;
        let missing = wanted.saturating_sub(u128::from(disk.available_bytes));
        Need::Free { bytes: u64::try_from(missing).unwrap_or(u64::MAX) }
    }

    /// The images that may go for their space, by their index, the first to go first.
    pub fn in_eviction_order(&self, images: &[Candidate], now: Duration) -> Vec<usize> {
        let mut order: Vec<usize> = removable(images)
            .filter(|at| {
                let image = &images[*at];
                image.last_used.is_none_or(|used| used < now)
                    && now.saturating_sub(image.detected) >= self.minimum_age
            })
            .collect();
        order.sort_by_key(|at| (images[*at].last_used, images[*at].detected));
        order
    }

    /// The images that go because nothing used them for the maximum age, by their index; none
    /// before the node itself has been up for so long.
    pub fn too_old(&self, images: &[Candidate], now: Duration, began: Duration) -> Vec<usize> {
        let Some(maximum_age) = self.maximum_age else { return Vec::new() };
        if now.saturating_sub(began) <= maximum_age {
            return Vec::new();
        }
        let is_old = |last_used: Option<Duration>| {
            last_used.is_none_or(|used| now.saturating_sub(used) > maximum_age)
        };
        removable(images).filter(|at| is_old(images[*at].last_used)).collect()
    }
}

fn removable(images: &[Candidate]) -> impl Iterator<Item = usize> {
    let free = images.iter().enumerate().filter(|(_, image)| !image.in_use && !image.pinned);
    free.map(|(at, _)| at)
}

impl Disk {
    /// Use in whole percent, rounded up as the kubelet's arithmetic does; `None` for a disk
    /// without size.
    pub fn used_percent(&self) -> Option<u8> {
        let available = u128::from(self.available_bytes.min(self.capacity_bytes)) * 100;
        let free = available.checked_div(u128::from(self.capacity_bytes))?;
        u8::try_from(100 - free.min(100)).ok()
    }
}

impl PressureThreshold {
    /// Reads `imagefs.available<5%` or `imagefs.available<2Gi`.
    ///
    /// # Errors
    /// [`InvalidThreshold`] for other signals, which this node does not have.
    pub fn parse(text: &str) -> Result<Self, InvalidThreshold> {
        let invalid = || InvalidThreshold { text: text.to_owned() };
        let value = text.trim().strip_prefix("imagefs.available<").ok_or_else(invalid)?;
        if let Some(percent) = value.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100);
            return percent.map(PressureThreshold::Percent).ok_or_else(invalid);
        }
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &value[digits.len()..] {
            "" => 0,
            "Ki" => 10,
            "Mi" => 20,
            "Gi" => 30,
            "Ti" => 40,
            _ => return Err(invalid()),
        };
        let number: u64 = digits.parse().map_err(|_| invalid())?;
        number.checked_mul(1 << shift).map(PressureThreshold::Bytes).ok_or_else(invalid)
    }

    /// Whether the disk is short.
    pub fn is_crossed(self, disk: Disk) -> bool {
        let wanted = match self {
            PressureThreshold::Percent(percent) => {
                u128::from(disk.capacity_bytes) * u128::from(percent) / 100
            }
            PressureThreshold::Bytes(bytes) => u128::from(bytes),
        };
        disk.capacity_bytes > 0 && u128::from(disk.available_bytes) < wanted
    }
}

/// Reads the age in a setting such as `imageMinimumGCAge`, in Go's syntax: `2m`, `1h30m`, `90s`.
///
/// # Errors
/// [`InvalidAge`].
pub fn age(field: &'static str, text: &str) -> Result<Duration, InvalidAge> {
    let invalid = || InvalidAge::Syntax(text.to_owned());
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut age = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.');
        let end = end.map_or(rest.len(), |end| digits + end);
        let unit_seconds = match &rest[digits..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        age += Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| invalid())?;
        rest = &rest[end..];
    }
    if is_negative && !age.is_zero() {
        return Err(InvalidAge::Negative { field, age: format!("-{}", go_duration(age)) });
    }
    Ok(age)
}

/// Checks `nodeStatusMaxImages`: `None` = no limit.
///
/// # Errors
/// The kubelet's text.
pub fn status_images_max(value: i32) -> Result<Option<usize>, String> {
    match value {
        -1 => Ok(None),
        value => usize::try_from(value).map(Some).map_err(|_| {
            format!(
                "invalid configuration: nodeStatusMaxImages (--node-status-max-images) {value} must be -1 or greater"
            )
        }),
    }
}

/// Text of the node's event `FreeDiskSpaceFailed` (1.35 and later).
pub fn free_disk_space_failed(disk: Disk, freed_bytes: u64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by deleting unused images (freed {freed_bytes} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
        disk.used_percent().unwrap_or_default(),
        binary_size(disk.capacity_bytes)
    )
}

/// Text of the node's event `InvalidDiskCapacity`.
pub fn invalid_disk_capacity(capacity_bytes: u64) -> String {
    format!("invalid capacity {capacity_bytes} on image filesystem")
}

/// Prints `93.1 GiB`.
fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests;
