//! What is known about a running build, from its events; every view and the summary read it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use image_builder::{BuildEvent, OutputStream, PushEnd, StepEnd, StepNumber};

/// Lines of output kept of each step, for the view and for the report of a failure.
const LINES_MAX: usize = 40;
/// Longest line of output kept, in bytes; the rest of it is dropped.
const LINE_BYTES_MAX: usize = 4096;

/// One line of the view: a step, a base, or a group of transfers.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) title: String,
    /// Lines of the Dockerfile, first and last, if it stands there.
    pub(crate) lines: Option<(u32, u32)>,
    pub(crate) state: State,
    /// Since the start of the build, as all times here.
    pub(crate) started: Duration,
    pub(crate) ended: Option<Duration>,
    pub(crate) transfers: Vec<Transfer>,
    pub(crate) output: Output,
    /// Bytes of the layer it made or found.
    pub(crate) layer_bytes: Option<u64>,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Done,
    Cached,
    Failed,
    Cancelled,
}

/// One blob on its way, or one layer being unpacked.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) total: Option<u64>,
    pub(crate) started: Duration,
    pub(crate) ended: Option<Duration>,
}

impl Transfer {
    fn is_open(&self, name: &str) -> bool {
        self.ended.is_none() && self.name == name
    }
}

impl Entry {
    /// How long it took, or has taken until `now`.
    pub(crate) fn elapsed(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now).saturating_sub(self.started)
    }
}

/// The last lines that a step printed.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) lines: VecDeque<Line>,
    partial: [Vec<u8>; 2],
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Since the start of the step.
    pub(crate) at: Duration,
    pub(crate) stream: OutputStream,
    pub(crate) text: String,
}

impl Output {
    /// Takes a piece of output and returns the lines that it completes.
    fn take(&mut self, at: Duration, stream: OutputStream, bytes: &[u8]) -> Vec<Line> {
        let partial = &mut self.partial[stream as usize];
        let mut complete = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(partial.len());
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    partial.extend(end.iter().take(room));
                    let text = printable_bytes(partial);
                    partial.clear();
                    complete.push(Line { at, stream, text });
                }
                None => partial.extend(piece.iter().take(room)),
            }
        }
        self.keep(&complete);
        complete
    }

    /// Ends the lines that have no end.
    fn flush(&mut self, at: Duration) -> Vec<Line> {
        let mut complete = Vec::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                complete.push(Line { at, stream, text: printable_bytes(&partial) });
            }
        }
        self.keep(&complete);
        complete
    }

    fn keep(&mut self, lines: &[Line]) {
        self.lines.extend(lines.iter().cloned());
        let surplus = self.lines.len().saturating_sub(LINES_MAX);
        self.lines.drain(..surplus);
    }

    /// The last lines to show, an unfinished one among them.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let partial = self.partial.iter().filter(|partial| !partial.is_empty());
        let mut all: Vec<String> = self.lines.iter().map(|line| line.text.clone()).collect();
        all.extend(partial.map(|partial| printable_bytes(partial)));
        all.split_off(all.len().saturating_sub(count))
    }
}

fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// Text that moves no cursor: a carriage return begins the line anew, as on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or(text);
    let plain = console::strip_ansi_codes(text);
    let mut out = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '\t' => out.push_str("    "),
            character if character.is_control() => {}
            character => out.push(character),
        }
    }
    out
}

/// Time during which at least one of several things was going on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    active: usize,
    since: Duration,
    total: Duration,
}

impl Busy {
    fn begin(&mut self, now: Duration) {
        if self.active == 0 {
            self.since = now;
        }
        self.active += 1;
    }

    fn end(&mut self, now: Duration) {
        if self.active == 1 {
            self.total += now.saturating_sub(self.since);
        }
        self.active = self.active.saturating_sub(1);
    }

    /// The time so far.
    pub(crate) fn total(&self, now: Duration) -> Duration {
        let open = if self.active == 0 { Duration::ZERO } else { now.saturating_sub(self.since) };
        self.total + open
    }
}

/// Counts and times of one kind of work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) busy: Busy,
    pub(crate) count: usize,
    pub(crate) bytes: u64,
}

/// A build as far as its events tell.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) entries: Vec<Entry>,
    steps: HashMap<StepNumber, usize>,
    stages: HashMap<usize, usize>,
    groups: HashMap<String, usize>,
    /// Title of the group in which a blob is fetched.
    fetched_in: HashMap<String, String>,
    /// What the plan announced.
    planned: usize,
    /// Entries that the plan does not count.
    unplanned: usize,
    pub(crate) running: Tally,
    pub(crate) resolve: Tally,
    pub(crate) fetch: Tally,
    pub(crate) unpack: Tally,
    pub(crate) push: Tally,
    /// Blobs that registries had already.
    pub(crate) push_existed: usize,
    pub(crate) compress_time: Duration,
    pub(crate) tar_bytes: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) image: Option<String>,
}

/// What an event means for the lines of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Started(usize),
    Lines(usize, Vec<Line>),
    /// With what it printed last and never ended.
    Ended(usize, Vec<Line>),
    /// A text about an entry.
    Note(usize, String),
    /// Why a step was found in a cache or not.
    Explained(usize, String),
    /// A text about nothing in particular.
    Said(String),
    Warned(String),
}

impl Model {
    /// Entries that ended, and entries there will be.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let ended = self.entries.iter().filter(|entry| entry.ended.is_some()).count();
        (ended, (self.planned + self.unplanned).max(self.entries.len()))
    }

    fn add(&mut self, title: String, now: Duration) -> usize {
        self.entries.push(Entry {
            title: printable(&title),
            lines: None,
            state: State::Running,
            started: now,
            ended: None,
            transfers: Vec::new(),
            output: Output::default(),
            layer_bytes: None,
        });
        self.entries.len() - 1
    }

    /// The entry of a group, running again if it had ended.
    fn group(&mut self, title: &str, now: Duration) -> (usize, Vec<Change>) {
        if let Some(index) = self.groups.get(title).copied() {
            let entry = &mut self.entries[index];
            entry.state = State::Running;
            entry.ended = None;
            return (index, Vec::new());
        }
        let index = self.add(title.to_owned(), now);
        self.unplanned += 1;
        self.groups.insert(title.to_owned(), index);
        (index, vec![Change::Started(index)])
    }

    fn end(&mut self, index: usize, state: State, now: Duration) -> Change {
        let entry = &mut self.entries[index];
        entry.state = state;
        entry.ended = Some(now);
        let at = now.saturating_sub(entry.started);
        Change::Ended(index, entry.output.flush(at))
    }

    fn transfer_begins(
        &mut self,
        group: &str,
        name: &str,
        total: Option<u64>,
        now: Duration,
    ) -> Vec<Change> {
        let (index, changes) = self.group(group, now);
        let transfers = &mut self.entries[index].transfers;
        if let Some(open) = transfers.iter_mut().find(|open| open.is_open(name)) {
            // It begins anew.
            open.bytes = 0;
            return changes;
        }
        transfers.push(Transfer {
            name: name.to_owned(),
            bytes: 0,
            total,
            started: now,
            ended: None,
        });
        changes
    }

    fn is_open(&self, group: &str, name: &str) -> bool {
        let index = self.groups.get(group);
        index.is_some_and(|index| {
            self.entries[*index].transfers.iter().any(|transfer| transfer.is_open(name))
        })
    }

    fn transfer(&mut self, group: &str, name: &str) -> Option<(usize, &mut Transfer)> {
        let index = *self.groups.get(group)?;
        let transfers = self.entries[index].transfers.iter_mut();
        let found = transfers.rev().find(|transfer| transfer.name == name)?;
        Some((index, found))
    }

    fn transfer_ends(&mut self, group: &str, name: &str, now: Duration) -> Vec<Change> {
        let Some((index, transfer)) = self.transfer(group, name) else { return Vec::new() };
        if transfer.ended.is_some() {
            return Vec::new();
        }
        transfer.bytes = transfer.total.unwrap_or(transfer.bytes);
        transfer.ended = Some(now);
        let seconds = now.saturating_sub(transfer.started).as_secs_f64();
        let what = match transfer.total {
            Some(total) => format!("{name} {} {seconds:.1}s done", size(total)),
            None => format!("{name} {seconds:.1}s done"),
        };
        let mut changes = vec![Change::Note(index, what)];
        if self.entries[index].transfers.iter().all(|transfer| transfer.ended.is_some()) {
            changes.push(self.end(index, State::Done, now));
        }
        changes
    }

    /// Takes one event that happened at `now`.
    pub(crate) fn take(&mut self, event: &BuildEvent, now: Duration) -> Vec<Change> {
        match event {
            BuildEvent::Planned { steps } => {
                self.planned += steps;
                Vec::new()
            }
            BuildEvent::Isolation { mode, reason } if reason.is_empty() => {
                vec![Change::Said(format!("RUN isolation: {mode}"))]
            }
            BuildEvent::Isolation { mode, reason } => {
                vec![Change::Said(format!("RUN isolation: {mode} ({reason})"))]
            }
            BuildEvent::StageStarted { stage, title } => {
                let index = self.add(title.clone(), now);
                self.stages.insert(*stage, index);
                vec![Change::Started(index)]
            }
            BuildEvent::StageReady { stage, .. } => match self.stages.get(stage).copied() {
                Some(index) => vec![self.end(index, State::Done, now)],
                None => Vec::new(),
            },
            BuildEvent::StepStarted { step, title, span } => {
                let index = self.add(title.clone(), now);
                self.entries[index].lines = Some((span.line, span.line_end));
                self.steps.insert(*step, index);
                self.running.busy.begin(now);
                vec![Change::Started(index)]
            }
            BuildEvent::StepOutput { step, stream, bytes } => match self.steps.get(step).copied() {
                Some(index) => {
                    let entry = &mut self.entries[index];
                    let at = now.saturating_sub(entry.started);
                    vec![Change::Lines(index, entry.output.take(at, *stream, bytes))]
                }
                None => Vec::new(),
            },
            BuildEvent::StepFinished { step, how, layer_bytes, .. } => {
                let state = match how {
                    StepEnd::Cached => State::Cached,
                    StepEnd::Executed => State::Done,
                };
                self.step_ends(*step, state, *layer_bytes, now)
            }
            BuildEvent::Cache { step, decision } => match self.steps.get(step).copied() {
                Some(index) => vec![Change::Explained(index, decision.to_string())],
                None => vec![Change::Said(decision.to_string())],
            },
            BuildEvent::StepFailed { step, .. } => self.step_ends(*step, State::Failed, None, now),
            BuildEvent::StepCancelled { step } => {
                self.step_ends(*step, State::Cancelled, None, now)
            }
            BuildEvent::LayerWritten { tar_bytes, bytes, duration, .. } => {
                self.compress_time += *duration;
                self.tar_bytes += tar_bytes;
                self.blob_bytes += bytes;
                Vec::new()
            }
            BuildEvent::Resolving { .. }
            | BuildEvent::Resolved { .. }
            | BuildEvent::Fetching { .. }
            | BuildEvent::FetchAdvanced { .. }
            | BuildEvent::Fetched { .. }
            | BuildEvent::Unpacking { .. }
            | BuildEvent::Unpacked { .. } => self.take_input(event, now),
            BuildEvent::ImageReady { digest } => {
                self.image = Some(digest.clone());
                vec![Change::Said(format!("image {digest}"))]
            }
            BuildEvent::Pushing { .. }
            | BuildEvent::PushingBlob { .. }
            | BuildEvent::PushAdvanced { .. }
            | BuildEvent::PushedBlob { .. }
            | BuildEvent::Pushed { .. } => self.take_push(event, now),
            BuildEvent::Warning(text) => vec![Change::Warned(text.clone())],
        }
    }

    fn step_ends(
        &mut self,
        step: StepNumber,
        state: State,
        layer_bytes: Option<u64>,
        now: Duration,
    ) -> Vec<Change> {
        let Some(index) = self.steps.get(&step).copied() else { return Vec::new() };
        self.running.busy.end(now);
        self.running.count += 1;
        self.entries[index].layer_bytes = layer_bytes;
        vec![self.end(index, state, now)]
    }

    /// Events about what a build takes from registries.
    fn take_input(&mut self, event: &BuildEvent, now: Duration) -> Vec<Change> {
        match event {
            BuildEvent::Resolving { reference } => {
                self.resolve.busy.begin(now);
                self.group(&resolve_title(reference), now).1
            }
            BuildEvent::Resolved { reference, .. } => {
                self.resolve.busy.end(now);
                self.resolve.count += 1;
                match self.groups.get(&resolve_title(reference)).copied() {
                    Some(index) => vec![self.end(index, State::Done, now)],
                    None => Vec::new(),
                }
            }
            BuildEvent::Fetching { what, from, bytes } => {
                self.fetch.busy.begin(now);
                let group = format!("fetch {from}");
                // Later events name the blob alone.
                self.fetched_in.insert(what.clone(), group.clone());
                self.transfer_begins(&group, what, *bytes, now)
            }
            BuildEvent::FetchAdvanced { what, bytes } => {
                let group = self.fetched_in.get(what).cloned().unwrap_or_default();
                if let Some((_, transfer)) = self.transfer(&group, what) {
                    transfer.bytes = *bytes;
                }
                Vec::new()
            }
            BuildEvent::Fetched { what, bytes, .. } => {
                self.fetch.busy.end(now);
                self.fetch.count += 1;
                self.fetch.bytes += bytes;
                let group = self.fetched_in.get(what).cloned().unwrap_or_default();
                self.transfer_ends(&group, what, now)
            }
            BuildEvent::Unpacking { what } => {
                if !self.is_open(UNPACK_TITLE, what) {
                    self.unpack.busy.begin(now);
                }
                self.transfer_begins(UNPACK_TITLE, what, None, now)
            }
            BuildEvent::Unpacked { what, .. } => {
                self.unpack.busy.end(now);
                self.unpack.count += 1;
                self.transfer_ends(UNPACK_TITLE, what, now)
            }
            _ => Vec::new(),
        }
    }

    /// Events about what a build sends to registries.
    fn take_push(&mut self, event: &BuildEvent, now: Duration) -> Vec<Change> {
        let title = |to: &str| format!("push {to}");
        match event {
            BuildEvent::Pushing { reference } => {
                self.push.busy.begin(now);
                self.group(&title(reference), now).1
            }
            BuildEvent::PushingBlob { what, to, bytes } => {
                if !self.is_open(&title(to), what) {
                    self.push.busy.begin(now);
                }
                self.transfer_begins(&title(to), what, Some(*bytes), now)
            }
            BuildEvent::PushAdvanced { what, to, bytes } => {
                if let Some((_, transfer)) = self.transfer(&title(to), what) {
                    transfer.bytes = *bytes;
                }
                Vec::new()
            }
            BuildEvent::PushedBlob { what, to, how: PushEnd::Existed } => {
                self.push_existed += 1;
                // Another push of the same blob may have been faster than this one.
                if self.is_open(&title(to), what) {
                    self.push.busy.end(now);
                }
                self.transfer_ends(&title(to), what, now)
            }
            BuildEvent::PushedBlob { what, to, how: PushEnd::Sent } => {
                self.push.busy.end(now);
                self.push.count += 1;
                let total = self.transfer(&title(to), what).and_then(|(_, sent)| sent.total);
                self.push.bytes += total.unwrap_or(0);
                self.transfer_ends(&title(to), what, now)
            }
            BuildEvent::Pushed { reference, digest } => {
                self.push.busy.end(now);
                let (index, mut changes) = self.group(&title(reference), now);
                changes.push(Change::Note(index, format!("pushed {reference}@{digest}")));
                changes.push(self.end(index, State::Done, now));
                changes
            }
            _ => Vec::new(),
        }
    }

    /// Ends whatever still runs: the build is over.
    pub(crate) fn stop(&mut self, state: State, now: Duration) -> Vec<Change> {
        let running: Vec<usize> =
            (0..self.entries.len()).filter(|index| self.entries[*index].ended.is_none()).collect();
        running.into_iter().map(|index| self.end(index, state, now)).collect()
    }

    /// The step that failed first.
    pub(crate) fn failed(&self) -> Option<&Entry> {
        let failed = self.entries.iter().filter(|entry| entry.state == State::Failed);
        failed.filter(|entry| entry.lines.is_some()).min_by_key(|entry| entry.ended)
    }
}

const UNPACK_TITLE: &str = "unpack layers";

fn resolve_title(reference: &str) -> String {
    format!("look up {reference}")
}

/// Bytes for people, in decimal units as docker prints them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while 999.5 <= value && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes}B"),
        (_, value) if value < 9.995 => format!("{value:.2}{}", UNITS[unit]),
        (_, value) if value < 99.95 => format!("{value:.1}{}", UNITS[unit]),
        (_, value) => format!("{value:.0}{}", UNITS[unit]),
    }
}
