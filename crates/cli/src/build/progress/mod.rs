//! How a build shows itself: a live view on a terminal, lines elsewhere, JSON for programs, and
//! kaniko's log. [`model`] gathers events; the other modules write them.

mod json;
mod kaniko;
mod model;
mod plain;
mod raw_json;
mod summary;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image_builder::Events;

pub(crate) use self::json::JsonEvent;
pub(crate) use self::kaniko::{KanikoLog, LogFormat, kaniko_line};
use self::model::{Model, State};
pub(crate) use self::model::{printable, size};
pub(crate) use self::summary::Summary;
pub(crate) use self::terminal::End;
use self::terminal::Screen;
use crate::exit::Failure;
use crate::output;

/// Time between two drawings of the view.
const FRAME: Duration = Duration::from_millis(100);
/// Lines of a failed command that are repeated at the end.
const TAIL_LINES: usize = 20;

/// How the progress of a build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A view that is drawn over and over at the lower end of the terminal.
    Terminal,
    /// Numbered lines on standard error.
    Plain,
    /// One JSON object per event on standard error.
    Json,
    /// BuildKit's own JSON: vertexes, statuses and logs.
    RawJson,
    /// kaniko's log lines, output of commands as it is.
    Kaniko(KanikoLog),
    /// Nothing but failures.
    Quiet,
}

impl Style {
    /// The view where standard error is a terminal that can move its cursor, else lines.
    pub(crate) fn of_terminal() -> Self {
        let can_move = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        if can_move && std::io::stderr().is_terminal() { Self::Terminal } else { Self::Plain }
    }
}

/// The progress of one build; the last owner takes a view off the terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
    drawer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    style: Style,
    start: Instant,
    state: Mutex<Shown>,
    /// Wakes the drawer when it is to end.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Shown {
    model: Model,
    raw: raw_json::Names,
    screen: Screen,
    end: Option<End>,
}

/// The end of what a failed step printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// `[build 2/4] RUN make`.
    pub(crate) title: String,
    /// Seconds since its start, and the line.
    pub(crate) lines: Vec<(f64, String)>,
}

impl Progress {
    /// Begins; nothing is drawn yet.
    pub(crate) fn start(style: Style) -> Self {
        let shared = Arc::new(Shared {
            style,
            start: Instant::now(),
            state: Mutex::default(),
            ended: Condvar::new(),
        });
        let drawer = (style == Style::Terminal).then(|| {
            let above = Arc::clone(&shared);
            output::set_live(Some(Box::new(move |bytes| above.print_above(bytes))));
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.draw_until_the_end())
        });
        Self { shared, drawer: Mutex::new(drawer) }
    }

    /// Where a builder sends its events.
    pub(crate) fn events(&self) -> Events {
        let shared = Arc::clone(&self.shared);
        Events::new(move |event| shared.take(&event))
    }

    /// Ends the view: what still runs was cancelled, and nothing is drawn any more.
    pub(crate) fn finish(&self, end: End) {
        let changes = {
            let mut state = self.shared.lock();
            if state.end.is_some() {
                return;
            }
            state.end = Some(end);
            let now = self.shared.start.elapsed();
            let left = if end == End::Finished { State::Done } else { State::Cancelled };
            let changes = state.model.stop(left, now);
            (self.shared.style == Style::Plain).then(|| plain::lines(&state.model, &changes))
        };
        for line in changes.into_iter().flatten() {
            output::error_line(&line);
        }
        self.shared.ended.notify_all();
        let drawer = self.drawer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(drawer) = drawer {
            // It draws the last frame; a panic of it was already said.
            let _ = drawer.join();
            output::set_live(None);
        }
    }

    /// The end of what the first failed step printed.
    pub(crate) fn tail(&self) -> Option<Tail> {
        let state = self.shared.lock();
        let entry = state.model.failed()?;
        let lines = entry.output.lines.iter();
        let skip = lines.len().saturating_sub(TAIL_LINES);
        let lines = lines.skip(skip).map(|line| (line.at.as_secs_f64(), line.text.clone()));
        Some(Tail { title: entry.title.clone(), lines: lines.collect() })
    }

    /// Titles of the steps that were cancelled.
    pub(crate) fn cancelled(&self) -> Vec<String> {
        let state = self.shared.lock();
        let entries = state.model.entries.iter();
        let cancelled = entries.filter(|entry| entry.state == State::Cancelled);
        cancelled.map(|entry| entry.title.clone()).collect()
    }

    /// What the build cost so far.
    pub(crate) fn summary(&self) -> Summary {
        Summary::of(&self.shared.lock().model, self.shared.start.elapsed())
    }

    /// Writes an event of our own where events are JSON.
    pub(crate) fn say(&self, event: &JsonEvent<'_>) {
        if self.shared.style == Style::Json {
            output::error_line(&json::line(event));
        }
    }

    /// Whether people read standard error.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.shared.style, Style::Terminal | Style::Plain)
    }

    /// Warns, in the style of everything else.
    pub(crate) fn warn(&self, text: String) {
        self.shared.take(&image_builder::BuildEvent::Warning(text));
    }

    /// Tells of a failure where standard error belongs to a program that reads JSON, and adds
    /// what was cancelled.
    pub(crate) fn report(&self, failure: Failure) -> Failure {
        if self.shared.style == Style::Json {
            failure.with_event(|event| self.say(event));
            return failure.told();
        }
        let cancelled = self.cancelled();
        if !failure.is_interruption() || cancelled.is_empty() {
            return failure;
        }
        let mut text = String::from("cancelled:");
        for title in cancelled {
            text.push_str("\n  ");
            text.push_str(&title);
        }
        failure.details(text)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish(End::Failed);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: &image_builder::BuildEvent) {
        let now = self.start.elapsed();
        let mut state = self.lock();
        let state = &mut *state;
        let changes = state.model.take(event, now);
        match self.style {
            Style::Terminal => {
                for change in &changes {
                    let above = match change {
                        model::Change::Warned(text) => format!("warning: {text}"),
                        model::Change::Explained(index, text) => {
                            format!("{}: {text}", state.model.entries[*index].title)
                        }
                        _ => continue,
                    };
                    let canvas = Screen::canvas();
                    let lines = terminal::frame(&state.model, now, None, canvas);
                    state.screen.draw(above.as_bytes(), &lines, canvas);
                }
            }
            Style::Plain => {
                // Written under the lock, so that lines come in the order of events.
                for line in plain::lines(&state.model, &changes) {
                    output::error_line(&line);
                }
            }
            Style::Json => output::error_line(&json::line(&event.into())),
            Style::RawJson => {
                for line in state.raw.lines(event) {
                    output::error_line(&line);
                }
            }
            Style::Kaniko(log) => kaniko::write(event, log, self.start),
            Style::Quiet => {}
        }
    }

    /// Writes something that stays, above the view.
    fn print_above(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let (canvas, now) = (Screen::canvas(), self.start.elapsed());
        let lines = terminal::frame(&state.model, now, state.end, canvas);
        state.screen.draw(bytes, &lines, canvas);
    }

    fn draw_until_the_end(&self) {
        let mut state = self.lock();
        loop {
            let (canvas, now) = (Screen::canvas(), self.start.elapsed());
            let lines = terminal::frame(&state.model, now, state.end, canvas);
            // A build that ends before anything happened has nothing to show.
            if !state.model.entries.is_empty() {
                state.screen.draw(b"", &lines, canvas);
            }
            if state.end.is_some() {
                return;
            }
            let waited = self.ended.wait_timeout(state, FRAME);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
