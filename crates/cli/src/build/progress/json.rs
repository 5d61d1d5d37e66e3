//! One JSON object per event: what docs/progress-events.md describes.

use image_builder::{
    BuildEvent, CacheDecision, KeyKind, OutputStream, PushEnd, StepEnd, StepNumber,
};
use serde::Serialize;

use super::summary::Summary;

/// A step in its stage.
#[derive(Debug, Serialize)]
pub(crate) struct Id {
    stage: usize,
    step: usize,
}

impl From<StepNumber> for Id {
    fn from(number: StepNumber) -> Self {
        Self { stage: number.stage, step: number.step }
    }
}

/// An event as it is written.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum JsonEvent<'a> {
    Planned {
        steps: usize,
    },
    Isolation {
        mode: &'a str,
        reason: &'a str,
    },
    StageStarted {
        stage: usize,
        title: &'a str,
    },
    StageReady {
        stage: usize,
        milliseconds: u64,
    },
    StepStarted {
        id: Id,
        title: &'a str,
        line: u32,
        line_end: u32,
    },
    StepOutput {
        id: Id,
        stream: &'a str,
        text: String,
    },
    StepFinished {
        id: Id,
        cached: bool,
        layer_bytes: Option<u64>,
        milliseconds: u64,
    },
    Cache {
        id: Id,
        hit: bool,
        from: Option<&'a str>,
        key: Option<&'a str>,
        nearest: Option<&'a str>,
        differences: &'a [String],
    },
    StepFailed {
        id: Id,
        reason: &'a str,
    },
    StepCancelled {
        id: Id,
    },
    LayerWritten {
        digest: &'a str,
        tar_bytes: u64,
        bytes: u64,
        milliseconds: u64,
    },
    Resolving {
        reference: &'a str,
    },
    Resolved {
        reference: &'a str,
        milliseconds: u64,
    },
    Fetching {
        what: &'a str,
        from: &'a str,
        bytes: Option<u64>,
    },
    FetchAdvanced {
        what: &'a str,
        bytes: u64,
    },
    Fetched {
        what: &'a str,
        bytes: u64,
        milliseconds: u64,
    },
    Unpacking {
        what: &'a str,
    },
    Unpacked {
        what: &'a str,
        milliseconds: u64,
    },
    ImageReady {
        digest: &'a str,
    },
    Pushing {
        reference: &'a str,
    },
    PushingBlob {
        what: &'a str,
        to: &'a str,
        bytes: u64,
    },
    PushAdvanced {
        what: &'a str,
        to: &'a str,
        bytes: u64,
    },
    PushedBlob {
        what: &'a str,
        to: &'a str,
        existed: bool,
    },
    Pushed {
        reference: &'a str,
        digest: &'a str,
    },
    Warning {
        text: &'a str,
    },
    Summary(&'a Summary),
    Error {
        text: &'a str,
        exit_code: u8,
        file: Option<&'a str>,
        line: Option<u32>,
        line_end: Option<u32>,
        command_exit_code: Option<i32>,
        hint: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct Stamped<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a JsonEvent<'a>,
}

/// The event as one line.
pub(crate) fn line(event: &JsonEvent<'_>) -> String {
    let stamped = Stamped { time: jiff::Timestamp::now().to_string(), event };
    // Keys are strings and values are plain, so that this cannot fail.
    serde_json::to_string(&stamped).unwrap_or_default()
}

fn milliseconds(duration: &std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> From<&'a BuildEvent> for JsonEvent<'a> {
    fn from(event: &'a BuildEvent) -> Self {
        match event {
            BuildEvent::Planned { steps } => Self::Planned { steps: *steps },
            BuildEvent::Isolation { mode, reason } => Self::Isolation { mode, reason },
            BuildEvent::StageStarted { stage, title } => {
                Self::StageStarted { stage: *stage, title }
            }
            BuildEvent::StageReady { stage, duration } => {
                Self::StageReady { stage: *stage, milliseconds: milliseconds(duration) }
            }
            BuildEvent::StepStarted { step, title, span } => Self::StepStarted {
                id: (*step).into(),
                title,
                line: span.line,
                line_end: span.line_end,
            },
            BuildEvent::StepOutput { step, stream, bytes } => Self::StepOutput {
                id: (*step).into(),
                stream: match stream {
                    OutputStream::Stdout => "stdout",
                    OutputStream::Stderr => "stderr",
                },
                text: String::from_utf8_lossy(bytes).into_owned(),
            },
            BuildEvent::StepFinished { step, how, layer_bytes, duration } => Self::StepFinished {
                id: (*step).into(),
                cached: *how == StepEnd::Cached,
                layer_bytes: *layer_bytes,
                milliseconds: milliseconds(duration),
            },
            BuildEvent::Cache { step, decision: CacheDecision::Hit { from, by } } => Self::Cache {
                id: (*step).into(),
                hit: true,
                from: Some(from),
                key: Some(match by {
                    KeyKind::Chain => "chain",
                    KeyKind::Content => "content",
                }),
                nearest: None,
                differences: &[],
            },
            BuildEvent::Cache { step, decision: CacheDecision::Miss { nearest, differences } } => {
                Self::Cache {
                    id: (*step).into(),
                    hit: false,
                    from: None,
                    key: None,
                    nearest: nearest.as_deref(),
                    differences,
                }
            }
            BuildEvent::StepFailed { step, reason } => {
                Self::StepFailed { id: (*step).into(), reason }
            }
            BuildEvent::StepCancelled { step } => Self::StepCancelled { id: (*step).into() },
            BuildEvent::LayerWritten { digest, tar_bytes, bytes, duration } => Self::LayerWritten {
                digest,
                tar_bytes: *tar_bytes,
                bytes: *bytes,
                milliseconds: milliseconds(duration),
            },
            BuildEvent::Resolving { reference } => Self::Resolving { reference },
            BuildEvent::Resolved { reference, duration } => {
                Self::Resolved { reference, milliseconds: milliseconds(duration) }
            }
            BuildEvent::Fetching { what, from, bytes } => {
                Self::Fetching { what, from, bytes: *bytes }
            }
            BuildEvent::FetchAdvanced { what, bytes } => {
                Self::FetchAdvanced { what, bytes: *bytes }
            }
            BuildEvent::Fetched { what, bytes, duration } => {
                Self::Fetched { what, bytes: *bytes, milliseconds: milliseconds(duration) }
            }
            BuildEvent::Unpacking { what } => Self::Unpacking { what },
            BuildEvent::Unpacked { what, duration } => {
                Self::Unpacked { what, milliseconds: milliseconds(duration) }
            }
            BuildEvent::ImageReady { digest } => Self::ImageReady { digest },
            BuildEvent::Pushing { reference } => Self::Pushing { reference },
            BuildEvent::PushingBlob { what, to, bytes } => {
                Self::PushingBlob { what, to, bytes: *bytes }
            }
            BuildEvent::PushAdvanced { what, to, bytes } => {
                Self::PushAdvanced { what, to, bytes: *bytes }
            }
            BuildEvent::PushedBlob { what, to, how } => {
                Self::PushedBlob { what, to, existed: *how == PushEnd::Existed }
            }
            BuildEvent::Pushed { reference, digest } => Self::Pushed { reference, digest },
            BuildEvent::Warning(text) => Self::Warning { text },
        }
    }
}
