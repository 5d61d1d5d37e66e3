//! Flags about when the node removes images, named as the kubelet's where it has them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cluster_node::{CollectionOptions, KeptImages};
use image_policy::collection::{
    CollectionPolicy, CollectionSettings, InvalidAge, InvalidThreshold, PressureThreshold, age,
    status_images_max,
};

use crate::exit::Failure;

/// When images go, and how many are reported.
#[derive(Args, Debug)]
#[command(next_help_heading = "Image garbage collection")]
pub(super) struct CollectionFlags {
    /// Use of the disk in percent from which unused images are removed; 100 is never
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_GC_HIGH_THRESHOLD",
        value_name = "PERCENT",
        default_value = "85",
        allow_hyphen_values = true
    )]
    image_gc_high_threshold: i32,
    /// Use of the disk in percent down to which they are removed
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_GC_LOW_THRESHOLD",
        value_name = "PERCENT",
        default_value = "80",
        allow_hyphen_values = true
    )]
    image_gc_low_threshold: i32,
    /// Age below which an unused image is not removed
    #[arg(
        long,
        env = "SHIPWAY_MINIMUM_IMAGE_TTL_DURATION",
        value_name = "DURATION",
        default_value = "2m",
        allow_hyphen_values = true,
        value_parser = minimum_age
    )]
    minimum_image_ttl_duration: Duration,
    /// Time without use after which an image is removed in any case; 0 is never
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_MAXIMUM_GC_AGE",
        value_name = "DURATION",
        default_value = "0s",
        allow_hyphen_values = true,
        value_parser = maximum_age
    )]
    image_maximum_gc_age: Duration,
    /// Time between two looks for images to remove
    #[arg(
        long,
        env = "SHIPWAY_IMAGE_GC_PERIOD",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = super::parse_duration
    )]
    image_gc_period: Duration,
    /// Free space below which the node says DiskPressure and removes all unused images, in percent
    /// or as a size such as imagefs.available<10Gi; imagefs.available<0% is never
    #[arg(
        long,
        env = "SHIPWAY_EVICTION_HARD",
        value_name = "CONDITION",
        default_value = "imagefs.available<5%",
        value_parser = pressure
    )]
    eviction_hard: PressureThreshold,
    /// Most images in the status of the node; -1 is no limit
    #[arg(
        long,
        env = "SHIPWAY_NODE_STATUS_MAX_IMAGES",
        value_name = "N",
        default_value = "50",
        allow_hyphen_values = true
    )]
    node_status_max_images: i32,
    /// Keep the images of this file present and pinned, one per line
    #[arg(long, env = "SHIPWAY_KEPT_IMAGES", value_name = "FILE")]
    kept_images: Option<PathBuf>,
    /// How often the tags of that file are looked up again; 0s is never
    #[arg(
        long,
        env = "SHIPWAY_KEPT_IMAGES_REFRESH",
        value_name = "DURATION",
        default_value = "0s",
        value_parser = super::parse_duration
    )]
    kept_images_refresh: Duration,
}

fn minimum_age(text: &str) -> Result<Duration, InvalidAge> {
    age("imageMinimumGCAge", text)
}

fn maximum_age(text: &str) -> Result<Duration, InvalidAge> {
    age("imageMaximumGCAge", text)
}

fn pressure(text: &str) -> Result<PressureThreshold, InvalidThreshold> {
    PressureThreshold::parse(text)
}

impl CollectionFlags {
    /// What the node is told.
    pub(super) fn options(&self) -> Result<CollectionOptions, Failure> {
        let settings = CollectionSettings {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            minimum_age: self.minimum_image_ttl_duration,
            maximum_age: self.image_maximum_gc_age,
        };
        Ok(CollectionOptions {
            policy: CollectionPolicy::new(&settings).map_err(Failure::usage)?,
            period: self.image_gc_period.max(Duration::from_secs(1)),
            pressure: Some(self.eviction_hard),
            status_images_max: status_images_max(self.node_status_max_images)
                .map_err(Failure::usage)?,
            kept: KeptImages {
                // The daemon stays where it was started, but a later look must not depend on it.
                file: self.kept_images.as_deref().map(std::path::absolute).transpose()?,
                refresh: self.kept_images_refresh,
            },
        })
    }
}
