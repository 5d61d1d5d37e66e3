//! Events of a build as lines: for people, for machines, and in kaniko's style.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use image_builder::{
    BuildEvent, CacheDecision, Events, KeyKind, OutputStream, StepEnd, StepNumber,
};

use crate::output;

/// How the progress of a build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Numbered lines on standard error.
    Plain,
    /// One JSON object per event on standard error.
    Json,
    /// kaniko's log lines, output of commands as it is.
    Kaniko(KanikoLog),
    /// Nothing but failures.
    Quiet,
}

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

/// A receiver that writes events in a style.
pub(crate) fn events(style: Style) -> Events {
    let state = Mutex::new(State::new());
    Events::new(move |event| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match style {
            Style::Plain => state.plain(event),
            Style::Json => json(&event),
            Style::Kaniko(log) => state.kaniko(event, log),
            Style::Quiet => {}
        }
    })
}

struct State {
    start: Instant,
    numbers: HashMap<StepNumber, usize>,
    next: usize,
    /// Output of a step that has no line end yet.
    partial: HashMap<(StepNumber, bool), Vec<u8>>,
}

impl State {
    fn new() -> Self {
        Self { start: Instant::now(), numbers: HashMap::new(), next: 1, partial: HashMap::new() }
    }

    fn number(&mut self) -> usize {
        let number = self.next;
        self.next += 1;
        number
    }

    fn step(&mut self, step: StepNumber) -> usize {
        match self.numbers.get(&step) {
            Some(number) => *number,
            None => {
                let number = self.number();
                self.numbers.insert(step, number);
                number
            }
        }
    }

    fn plain(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::Isolation { mode, reason } => {
                let number = self.number();
                let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                output::error_line(&format!("#{number} RUN isolation: {mode}{why}"));
            }
            BuildEvent::StageStarted { title, .. } => {
                let number = self.number();
                output::error_line(&format!("#{number} {title}"));
            }
            BuildEvent::StepStarted { step, title, .. } => {
                let number = self.step(step);
                output::error_line(&format!("#{number} {title}"));
            }
            BuildEvent::StepOutput { step, stream, bytes } => {
                let number = self.step(step);
                for line in self.lines(step, stream == OutputStream::Stderr, &bytes) {
                    let at = self.start.elapsed().as_secs_f64();
                    output::error_line(&format!("#{number} {at:.3} {line}"));
                }
            }
            BuildEvent::StepFinished { step, how, layer_bytes, duration } => {
                let number = self.step(step);
                self.flush(step, &format!("#{number} "));
                let text = match (how, layer_bytes) {
                    (StepEnd::Cached, _) => "CACHED".to_owned(),
                    (StepEnd::Executed, Some(bytes)) => {
                        format!("DONE {:.1}s, layer of {bytes} bytes", duration.as_secs_f64())
                    }
                    (StepEnd::Executed, None) => format!("DONE {:.1}s", duration.as_secs_f64()),
                };
                output::error_line(&format!("#{number} {text}"));
            }
            BuildEvent::Cache { step, decision } => {
                let number = self.step(step);
                output::error_line(&format!("#{number} {decision}"));
            }
            BuildEvent::StepFailed { step } => {
                let number = self.step(step);
                self.flush(step, &format!("#{number} "));
                output::error_line(&format!("#{number} FAILED"));
            }
            BuildEvent::Fetching { what, bytes } => {
                let number = self.number();
                let size = bytes.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
                output::error_line(&format!("#{number} fetching {what}{size}"));
            }
            BuildEvent::ImageReady { digest } => {
                let number = self.number();
                output::error_line(&format!("#{number} image {digest}"));
            }
            BuildEvent::Pushing { reference } => {
                let number = self.number();
                output::error_line(&format!("#{number} pushing {reference}"));
            }
            BuildEvent::Pushed { reference, digest } => {
                let number = self.number();
                output::error_line(&format!("#{number} pushed {reference}@{digest}"));
            }
            BuildEvent::Warning(text) => output::error_line(&format!("warning: {text}")),
        }
    }

    /// The complete lines of a piece of output; the rest waits.
    fn lines(&mut self, step: StepNumber, is_stderr: bool, bytes: &[u8]) -> Vec<String> {
        let partial = self.partial.entry((step, is_stderr)).or_default();
        partial.extend_from_slice(bytes);
        let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = partial.split_off(end + 1);
        let complete = std::mem::replace(partial, rest);
        String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect()
    }

    fn flush(&mut self, step: StepNumber, prefix: &str) {
        for is_stderr in [false, true] {
            if let Some(rest) = self.partial.remove(&(step, is_stderr))
                && !rest.is_empty()
            {
                output::error_line(&format!("{prefix}{}", String::from_utf8_lossy(&rest)));
            }
        }
    }

    fn kaniko(&mut self, event: BuildEvent, log: KanikoLog) {
        let text = match event {
            BuildEvent::StepOutput { stream, bytes, .. } => {
                match stream {
                    OutputStream::Stdout => output::raw(&bytes),
                    OutputStream::Stderr => output::error_raw(&bytes),
                }
                return;
            }
            BuildEvent::Isolation { mode, reason } if reason.is_empty() => {
                format!("RUN isolation: {mode}")
            }
            BuildEvent::Isolation { mode, reason } => format!("RUN isolation: {mode} ({reason})"),
            BuildEvent::StageStarted { title, .. } => format!("Building stage {title}"),
            BuildEvent::StepStarted { title, .. } => title,
            BuildEvent::StepFinished { how: StepEnd::Cached, .. } => {
                "Using caching version of the command".to_owned()
            }
            BuildEvent::StepFinished { duration, .. } => {
                format!("Took {:.1}s", duration.as_secs_f64())
            }
            BuildEvent::Cache { decision, .. } => decision.to_string(),
            BuildEvent::StepFailed { .. } => return,
            BuildEvent::Fetching { what, .. } => format!("Retrieving {what}"),
            BuildEvent::ImageReady { digest } => format!("Built image {digest}"),
            BuildEvent::Pushing { reference } => format!("Pushing image to {reference}"),
            BuildEvent::Pushed { reference, digest } => {
                let name = reference.split('@').next().unwrap_or(&reference);
                format!("Pushed {name}@{digest}")
            }
            BuildEvent::Warning(text) => {
                kaniko_line(log, "warning", &text, self.start);
                return;
            }
        };
        if log.info {
            kaniko_line(log, "info", &text, self.start);
        }
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

fn json(event: &BuildEvent) {
    use serde_json::json;
    let step = |step: &StepNumber| json!({"stage": step.stage, "step": step.step});
    let value = match event {
        BuildEvent::Isolation { mode, reason } => {
            json!({"event": "isolation", "mode": mode, "reason": reason})
        }
        BuildEvent::StageStarted { stage, title } => {
            json!({"event": "stage-started", "stage": stage, "title": title})
        }
        BuildEvent::StepStarted { step: number, title, span } => json!({
            "event": "step-started", "id": step(number), "title": title,
            "line": span.line, "lineEnd": span.line_end,
        }),
        BuildEvent::StepOutput { step: number, stream, bytes } => json!({
            "event": "step-output", "id": step(number),
            "stream": match stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            },
            "text": String::from_utf8_lossy(bytes),
        }),
        BuildEvent::StepFinished { step: number, how, layer_bytes, duration } => json!({
            "event": "step-finished", "id": step(number), "cached": *how == StepEnd::Cached,
            "layerBytes": layer_bytes, "milliseconds": duration.as_millis(),
        }),
        BuildEvent::Cache { step: number, decision } => match decision {
            CacheDecision::Hit { from, by } => json!({
                "event": "cache", "id": step(number), "hit": true, "from": from,
                "key": match by { KeyKind::Chain => "chain", KeyKind::Content => "content" },
            }),
            CacheDecision::Miss { nearest, differences } => json!({
                "event": "cache", "id": step(number), "hit": false, "nearest": nearest,
                "differences": differences,
            }),
        },
        BuildEvent::StepFailed { step: number } => {
            json!({"event": "step-failed", "id": step(number)})
        }
        BuildEvent::Fetching { what, bytes } => {
            json!({"event": "fetching", "what": what, "bytes": bytes})
        }
        BuildEvent::ImageReady { digest } => json!({"event": "image-ready", "digest": digest}),
        BuildEvent::Pushing { reference } => json!({"event": "pushing", "reference": reference}),
        BuildEvent::Pushed { reference, digest } => {
            json!({"event": "pushed", "reference": reference, "digest": digest})
        }
        BuildEvent::Warning(text) => json!({"event": "warning", "text": text}),
    };
    output::error_line(&value.to_string());
}
