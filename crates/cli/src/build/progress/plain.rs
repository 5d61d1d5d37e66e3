//! Numbered lines, as BuildKit prints them where there is no terminal.

use std::time::Duration;

use super::model::{Change, Model, State};

/// The lines of a log for what changed.
pub(crate) fn lines(model: &Model, changes: &[Change]) -> Vec<String> {
    let mut lines = Vec::new();
    for change in changes {
        match change {
            Change::Started(index) => {
                lines.push(format!("#{} {}", index + 1, model.entries[*index].title));
            }
            Change::Lines(index, output) => {
                for line in output {
                    let at = line.at.as_secs_f64();
                    lines.push(format!("#{} {at:.3} {}", index + 1, line.text));
                }
            }
            Change::Ended(index, output) => {
                for line in output {
                    let at = line.at.as_secs_f64();
                    lines.push(format!("#{} {at:.3} {}", index + 1, line.text));
                }
                let entry = &model.entries[*index];
                let seconds = entry.elapsed(Duration::ZERO).as_secs_f64();
                let end = match entry.state {
                    State::Cached => "CACHED".to_owned(),
                    State::Failed => format!("ERROR after {seconds:.1}s"),
                    State::Cancelled => format!("CANCELED after {seconds:.1}s"),
                    State::Running | State::Done => format!("DONE {seconds:.1}s"),
                };
                lines.push(format!("#{} {end}", index + 1));
            }
            Change::Note(index, text) | Change::Explained(index, text) => {
                lines.push(format!("#{} {text}", index + 1))
            }
            Change::Said(text) => lines.push(text.clone()),
            Change::Warned(text) => lines.push(format!("warning: {text}")),
        }
    }
    lines
}
