//! Flags about how the node pulls, named as the kubelet's where it has them.

use std::time::Duration;

use clap::{Args, ValueEnum};
use cluster_node::{OverRate, PullLimits};

/// Limits of the node's pulls.
#[derive(Args, Debug)]
#[command(next_help_heading = "Pulls")]
pub(super) struct PullFlags {
    /// Pull one image at a time; unset is false, and false without --max-parallel-image-pulls is
    /// without limit
    #[arg(
        long,
        env = "SHIPWAY_SERIALIZE_IMAGE_PULLS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    serialize_image_pulls: Option<bool>,
    /// Pulls that run at once [default: 5]
    #[arg(
        long,
        env = "SHIPWAY_MAX_PARALLEL_IMAGE_PULLS",
        value_name = "N",
        allow_hyphen_values = true
    )]
    max_parallel_image_pulls: Option<i64>,
    /// Pulls that may begin per second in the long run; 0 is no limit
    #[arg(
        long,
        env = "SHIPWAY_REGISTRY_QPS",
        value_name = "N",
        default_value = "5",
        allow_hyphen_values = true
    )]
    registry_qps: i64,
    /// Pulls that may begin at once
    #[arg(
        long,
        env = "SHIPWAY_REGISTRY_BURST",
        value_name = "N",
        default_value = "10",
        allow_hyphen_values = true
    )]
    registry_burst: i64,
    /// What becomes of pulls beyond that rate
    #[arg(long, env = "SHIPWAY_PULL_OVER_RATE", default_value = "wait")]
    pull_over_rate: WhenOverRate,
    /// Longest time that a pull may receive nothing, such as 5m; 0s is without limit
    #[arg(
        long,
        env = "SHIPWAY_PULL_STALL_TIME",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = super::parse_duration
    )]
    pull_stall_time: Duration,
    /// Time after which a pull begins to tell how far it is, such as 10s; 0s is never
    #[arg(
        long,
        env = "SHIPWAY_PULL_PROGRESS_AFTER",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = super::parse_duration
    )]
    pull_progress_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenOverRate {
    /// They wait.
    Wait,
    /// They fail with "pull QPS exceeded" and back off, as in the kubelet.
    Fail,
}

impl PullFlags {
    /// The limits; the node checks them.
    pub(super) fn limits(&self) -> PullLimits {
        PullLimits {
            serialize_image_pulls: self.serialize_image_pulls,
            max_parallel_image_pulls: self.max_parallel_image_pulls,
            registry_pull_qps: self.registry_qps,
            registry_burst: self.registry_burst,
            over_rate: match self.pull_over_rate {
                WhenOverRate::Wait => OverRate::Wait,
                WhenOverRate::Fail => OverRate::Fail,
            },
            stall_time: self.pull_stall_time,
            progress_after: self.pull_progress_after,
        }
    }
}
