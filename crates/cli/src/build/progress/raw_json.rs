//! `--progress=rawjson`: BuildKit's status stream, for programs that read docker's.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image_builder::{BuildEvent, OutputStream, PushEnd, StepEnd, StepNumber};
use oci_model::Digest;
use serde_json::{Value, json};

/// BuildKit's vertexes by what we call things.
#[derive(Debug, Default)]
pub(crate) struct Names {
    steps: HashMap<StepNumber, Vertex>,
    stages: HashMap<usize, Vertex>,
    groups: HashMap<String, Vertex>,
}

#[derive(Clone, Debug)]
struct Vertex {
    digest: String,
    name: String,
    started: String,
}

impl Vertex {
    fn begin(name: &str, salt: &str) -> Self {
        Self {
            digest: Digest::of(format!("{salt}\0{name}").as_bytes()).to_string(),
            name: name.to_owned(),
            started: jiff::Timestamp::now().to_string(),
        }
    }

    fn line(&self, ended: Option<(bool, &str)>) -> String {
        let mut vertex = json!({"digest": self.digest, "name": self.name, "started": self.started});
        if let Some((cached, error)) = ended {
            vertex["completed"] = Value::String(jiff::Timestamp::now().to_string());
            if cached {
                vertex["cached"] = Value::Bool(true);
            }
            if !error.is_empty() {
                vertex["error"] = Value::String(error.to_owned());
            }
        }
        json!({"vertexes": [vertex]}).to_string()
    }

    fn status(&self, id: &str, current: u64, total: u64, done: bool) -> String {
        let now = jiff::Timestamp::now().to_string();
        let mut status = json!({
            "id": id, "vertex": self.digest, "current": current, "total": total,
            "timestamp": now, "started": self.started,
        });
        if done {
            status["completed"] = Value::String(now);
        }
        json!({"statuses": [status]}).to_string()
    }
}

impl Names {
    fn group(&mut self, title: String) -> (Vertex, Option<String>) {
        if let Some(vertex) = self.groups.get(&title) {
            return (vertex.clone(), None);
        }
        let vertex = Vertex::begin(&title, "group");
        self.groups.insert(title, vertex.clone());
        let line = vertex.line(None);
        (vertex, Some(line))
    }

    fn transfer(&mut self, title: String, id: &str, bytes: (u64, u64), done: bool) -> Vec<String> {
        let (vertex, begun) = self.group(title);
        let mut lines: Vec<String> = begun.into_iter().collect();
        lines.push(vertex.status(id, bytes.0, bytes.1, done));
        lines
    }

    /// The lines of an event; most have one.
    pub(crate) fn lines(&mut self, event: &BuildEvent) -> Vec<String> {
        let ended = |vertex: Option<&Vertex>, cached: bool, error: &str| {
            vertex.map(|vertex| vertex.line(Some((cached, error)))).into_iter().collect()
        };
        match event {
            BuildEvent::StageStarted { stage, title } => {
                let vertex = Vertex::begin(title, &format!("stage {stage}"));
                let line = vertex.line(None);
                self.stages.insert(*stage, vertex);
                vec![line]
            }
            BuildEvent::StageReady { stage, .. } => ended(self.stages.get(stage), false, ""),
            BuildEvent::StepStarted { step, title, .. } => {
                let vertex = Vertex::begin(title, &format!("step {} {}", step.stage, step.step));
                let line = vertex.line(None);
                self.steps.insert(*step, vertex);
                vec![line]
            }
            BuildEvent::StepOutput { step, stream, bytes } => {
                let Some(vertex) = self.steps.get(step) else { return Vec::new() };
                let stream = match stream {
                    OutputStream::Stdout => 1,
                    OutputStream::Stderr => 2,
                };
                let log = json!({
                    "vertex": vertex.digest, "stream": stream, "data": STANDARD.encode(bytes),
                    "timestamp": jiff::Timestamp::now().to_string(),
                });
                vec![json!({"logs": [log]}).to_string()]
            }
            BuildEvent::StepFinished { step, how, .. } => {
                ended(self.steps.get(step), *how == StepEnd::Cached, "")
            }
            BuildEvent::StepFailed { step, reason } => ended(self.steps.get(step), false, reason),
            BuildEvent::StepCancelled { step } => {
                ended(self.steps.get(step), false, "context canceled")
            }
            BuildEvent::Resolving { reference } => self
                .group(format!("[internal] load metadata for {reference}"))
                .1
                .into_iter()
                .collect(),
            BuildEvent::Resolved { reference, .. } => {
                let title = format!("[internal] load metadata for {reference}");
                ended(self.groups.get(&title), false, "")
            }
            BuildEvent::Fetching { what, bytes, .. } => {
                self.transfer(FETCH.to_owned(), what, (0, bytes.unwrap_or(0)), false)
            }
            BuildEvent::FetchAdvanced { what, bytes } => {
                self.transfer(FETCH.to_owned(), what, (*bytes, 0), false)
            }
            BuildEvent::Fetched { what, bytes, .. } => {
                self.transfer(FETCH.to_owned(), what, (*bytes, *bytes), true)
            }
            BuildEvent::Unpacking { what } => {
                self.transfer(FETCH.to_owned(), &format!("extracting {what}"), (0, 0), false)
            }
            BuildEvent::Unpacked { what, .. } => {
                self.transfer(FETCH.to_owned(), &format!("extracting {what}"), (0, 0), true)
            }
            BuildEvent::Pushing { reference } => {
                self.group(format!("pushing {reference}")).1.into_iter().collect()
            }
            BuildEvent::PushingBlob { what, to, bytes } => {
                self.transfer(format!("pushing {to}"), what, (0, *bytes), false)
            }
            BuildEvent::PushAdvanced { what, to, bytes } => {
                self.transfer(format!("pushing {to}"), what, (*bytes, 0), false)
            }
            BuildEvent::PushedBlob { what, to, how: PushEnd::Sent } => {
                self.transfer(format!("pushing {to}"), what, (0, 0), true)
            }
            BuildEvent::Pushed { reference, .. } => {
                ended(self.groups.get(&format!("pushing {reference}")), false, "")
            }
            BuildEvent::Warning(text) => {
                let warning = json!({"level": 1, "short": STANDARD.encode(text)});
                vec![json!({"warnings": [warning]}).to_string()]
            }
            BuildEvent::Planned { .. }
            | BuildEvent::Isolation { .. }
            | BuildEvent::LayerWritten { .. }
            | BuildEvent::Cache { .. }
            | BuildEvent::ImageReady { .. }
            | BuildEvent::PushedBlob { how: PushEnd::Existed, .. } => Vec::new(),
        }
    }
}

const FETCH: &str = "fetch layers";
