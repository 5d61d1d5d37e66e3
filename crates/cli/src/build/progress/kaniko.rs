//! Log lines in kaniko's style, output of commands as it is.

use std::time::{Duration, Instant};

use image_builder::{BuildEvent, OutputStream, StepEnd};

use super::model::size;
use crate::output;

/// Looks of kaniko's log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KanikoLog {
    pub(crate) format: LogFormat,
    pub(crate) timestamps: bool,
    /// Whether info lines are shown.
    pub(crate) info: bool,
}

/// `--log-format` of kaniko.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Short lines with a colour where the terminal has some.
    Color,
    /// `time="…" level=info msg="…"`.
    Text,
    /// JSON objects.
    Json,
}

/// Writes what an event means to somebody who reads kaniko's log.
pub(crate) fn write(event: &BuildEvent, log: KanikoLog, start: Instant) {
    let seconds = |duration: &Duration| format!("{:.1}s", duration.as_secs_f64());
    let text = match event {
        BuildEvent::StepOutput { stream, bytes, .. } => {
            match stream {
                OutputStream::Stdout => output::raw(bytes),
                OutputStream::Stderr => output::error_raw(bytes),
            }
            return;
        }
        BuildEvent::Warning(text) => {
            kaniko_line(log, "warning", text, start);
            return;
        }
        BuildEvent::Isolation { mode, reason } if reason.is_empty() => {
            format!("RUN isolation: {mode}")
        }
        BuildEvent::Isolation { mode, reason } => format!("RUN isolation: {mode} ({reason})"),
        BuildEvent::StageStarted { title, .. } => format!("Building stage {title}"),
        BuildEvent::StepStarted { title, .. } => title.clone(),
        BuildEvent::StepFinished { how: StepEnd::Cached, .. } => {
            "Using caching version of the command".to_owned()
        }
        BuildEvent::StepFinished { duration, .. } => format!("Took {}", seconds(duration)),
        BuildEvent::Cache { decision, .. } => decision.to_string(),
        BuildEvent::Resolving { reference } => format!("Retrieving image manifest {reference}"),
        BuildEvent::Fetching { what, from, bytes } => {
            let bytes = bytes.map(|bytes| format!(" ({})", size(bytes))).unwrap_or_default();
            format!("Retrieving layer {what}{bytes} of {from}")
        }
        BuildEvent::LayerWritten { tar_bytes, bytes, duration, .. } => format!(
            "Took snapshot: {} compressed to {} in {}",
            size(*tar_bytes),
            size(*bytes),
            seconds(duration)
        ),
        BuildEvent::ImageReady { digest } => format!("Built image {digest}"),
        BuildEvent::Pushing { reference } => format!("Pushing image to {reference}"),
        BuildEvent::Pushed { reference, digest } => {
            let name = reference.split('@').next().unwrap_or(reference);
            format!("Pushed {name}@{digest}")
        }
        BuildEvent::Planned { .. }
        | BuildEvent::StageReady { .. }
        | BuildEvent::StepFailed { .. }
        | BuildEvent::StepCancelled { .. }
        | BuildEvent::Resolved { .. }
        | BuildEvent::FetchAdvanced { .. }
        | BuildEvent::Fetched { .. }
        | BuildEvent::Unpacking { .. }
        | BuildEvent::Unpacked { .. }
        | BuildEvent::PushingBlob { .. }
        | BuildEvent::PushAdvanced { .. }
        | BuildEvent::PushedBlob { .. } => return,
    };
    if log.info {
        kaniko_line(log, "info", &text, start);
    }
}

/// One log line as kaniko's logger writes it.
pub(crate) fn kaniko_line(log: KanikoLog, level: &str, text: &str, start: Instant) {
    let time = || jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let line = match log.format {
        LogFormat::Color => {
            let name = match level {
                "warning" => "WARN",
                "error" => "ERRO",
                _ => "INFO",
            };
            let colour = match level {
                "warning" => "33",
                "error" => "31",
                _ => "36",
            };
            let stamp =
                if log.timestamps { time() } else { format!("{:04}", start.elapsed().as_secs()) };
            if output::stderr_has_colour() {
                format!("\u{1b}[{colour}m{name}\u{1b}[0m[{stamp}] {text}")
            } else {
                format!("{name}[{stamp}] {text}")
            }
        }
        LogFormat::Text => {
            let time = if log.timestamps { format!("time=\"{}\" ", time()) } else { String::new() };
            format!("{time}level={level} msg={text:?}")
        }
        LogFormat::Json => {
            serde_json::json!({"level": level, "msg": text, "time": time()}).to_string()
        }
    };
    output::error_line(&line);
}
