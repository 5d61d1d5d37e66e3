//! The live view: the state of a build as lines that fit a terminal, and how they get there.

use std::io::Write as _;
use std::time::Duration;

use super::model::{Entry, Model, State, Transfer, size};

/// Lines of output shown below a running step.
const OUTPUT_LINES_MAX: usize = 6;
/// Transfers shown below their group.
const TRANSFERS_MAX: usize = 8;
/// Terminal assumed where the kernel names no size.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Failed,
    Cancelled,
}

/// What is drawn: size of the terminal and whether it has colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Canvas {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
    pub(crate) colour: bool,
}

/// The lines of the view at a moment.
pub(crate) fn frame(model: &Model, now: Duration, end: Option<End>, canvas: Canvas) -> Vec<String> {
    let (ended, total) = model.counts();
    let word = match end {
        None => "",
        Some(End::Finished) => " FINISHED",
        Some(End::Failed) => " FAILED",
        Some(End::Cancelled) => " CANCELED",
    };
    let head = format!("[+] Building {:.1}s ({ended}/{total}){word}", now.as_secs_f64());
    let mut lines = vec![console::truncate_str(&head, canvas.columns, "…").into_owned()];
    if end.is_some() {
        // All of it, once, without the details of what is over.
        lines.extend(model.entries.iter().map(|entry| title_line(entry, now, canvas)));
        return lines;
    }
    let room = canvas.rows.saturating_sub(2);
    let running = model.entries.iter().filter(|entry| entry.ended.is_none()).count();
    // What runs comes first, then the newest of what is done, then details as they fit.
    let done_shown = room.saturating_sub(running);
    let done = model.entries.len() - running;
    let mut skipped = done.saturating_sub(done_shown);
    let mut spare = room.saturating_sub(running + done.min(done_shown));
    let mut running_left = running;
    let mut running_skipped = running.saturating_sub(room);
    for entry in &model.entries {
        if entry.ended.is_some() {
            if 0 < skipped {
                skipped -= 1;
                continue;
            }
            lines.push(title_line(entry, now, canvas));
            continue;
        }
        if 0 < running_skipped {
            running_skipped -= 1;
            running_left -= 1;
            continue;
        }
        lines.push(title_line(entry, now, canvas));
        let share = spare.div_ceil(running_left.max(1));
        let details = details(entry, share, now, canvas);
        spare -= details.len();
        running_left -= 1;
        lines.extend(details);
    }
    lines
}

fn details(entry: &Entry, lines_max: usize, now: Duration, canvas: Canvas) -> Vec<String> {
    if !entry.transfers.is_empty() {
        let open = entry.transfers.iter().filter(|transfer| transfer.ended.is_none());
        let shown = open.take(lines_max.min(TRANSFERS_MAX));
        return shown.map(|transfer| transfer_line(transfer, now, canvas)).collect();
    }
    let output = entry.output.tail(lines_max.min(OUTPUT_LINES_MAX));
    let paint = |text: String| {
        let text = console::truncate_str(&text, canvas.columns, "").into_owned();
        if canvas.colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text }
    };
    output.into_iter().map(|line| paint(format!(" => => # {line}"))).collect()
}

fn title_line(entry: &Entry, now: Duration, canvas: Canvas) -> String {
    let word = match entry.state {
        State::Running | State::Done => "",
        State::Cached => "CACHED ",
        State::Failed => "ERROR ",
        State::Cancelled => "CANCELED ",
    };
    let moved: u64 = entry.transfers.iter().map(|transfer| transfer.bytes).sum();
    let moved = match moved {
        0 => String::new(),
        moved => format!(" {}", size(moved)),
    };
    let text = format!(" => {word}{}{moved}", entry.title);
    let colour = match entry.state {
        State::Running => None,
        State::Done | State::Cached => Some("34"),
        State::Failed => Some("31"),
        State::Cancelled => Some("33"),
    };
    justified(&text, entry.elapsed(now), colour, canvas)
}

fn transfer_line(transfer: &Transfer, now: Duration, canvas: Canvas) -> String {
    let elapsed = transfer.ended.unwrap_or(now).saturating_sub(transfer.started);
    let name = short(&transfer.name);
    let text = match transfer.total {
        None => format!(" => => {name}"),
        Some(total) => {
            let mut text = format!(" => => {name} {} / {}", size(transfer.bytes), size(total));
            if 0 < transfer.bytes && 0.05 < elapsed.as_secs_f64() {
                let rate = transfer.bytes as f64 / elapsed.as_secs_f64();
                text.push_str(&format!(" {}/s", size(rate as u64)));
            }
            text
        }
    };
    justified(&text, elapsed, None, canvas)
}

/// A digest as docker shortens it.
fn short(name: &str) -> &str {
    const SHORT: usize = "sha256:0123456789ab".len();
    if name.starts_with("sha256:") { name.get(..SHORT).unwrap_or(name) } else { name }
}

/// Text on the left, a time on the right, never wider than the terminal.
fn justified(text: &str, elapsed: Duration, colour: Option<&str>, canvas: Canvas) -> String {
    let time = format!("{:.1}s", elapsed.as_secs_f64());
    let room = canvas.columns.saturating_sub(time.len() + 1);
    let left = console::truncate_str(text, room, "…");
    let gap = room.saturating_sub(console::measure_text_width(&left)) + 1;
    let line = format!("{left}{}{time}", " ".repeat(gap));
    match colour {
        Some(colour) if canvas.colour => format!("\u{1b}[{colour}m{line}\u{1b}[0m"),
        _ => line,
    }
}

/// The lower end of a terminal on standard error, drawn over and over.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// Lines of the view that are on the terminal.
    drawn: usize,
}

impl Screen {
    /// The terminal as it is now.
    pub(crate) fn canvas() -> Canvas {
        let size = rustix::termios::tcgetwinsize(std::io::stderr());
        let (columns, rows) = match size {
            Ok(size) if size.ws_col != 0 && size.ws_row != 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => DEFAULT_SIZE,
        };
        Canvas { columns, rows, colour: crate::output::stderr_has_colour() }
    }

    /// Replaces the view by `lines`, after `above`, which stays.
    ///
    /// All of it is one write, with the cursor hidden and no line wrapped meanwhile: whoever
    /// stops this process at any time finds the cursor where a prompt belongs.
    pub(crate) fn draw(&mut self, above: &[u8], lines: &[String], canvas: Canvas) {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(b"\x1b[?25l");
        // What has left the screen cannot be drawn over.
        let up = self.drawn.min(canvas.rows.saturating_sub(1));
        if 0 < up {
            out.extend(format!("\x1b[{up}A").bytes());
        }
        out.push(b'\r');
        if !above.is_empty() {
            out.extend_from_slice(b"\x1b[J");
            out.extend_from_slice(above);
            if !above.ends_with(b"\n") {
                out.push(b'\n');
            }
        }
        out.extend_from_slice(b"\x1b[?7l");
        for line in lines {
            out.extend(line.bytes());
            out.extend_from_slice(b"\x1b[K\n");
        }
        out.extend_from_slice(b"\x1b[J\x1b[?7h\x1b[?25h");
        // Nothing can be done about a closed standard error.
        let _ = std::io::stderr().lock().write_all(&out);
        self.drawn = lines.len();
    }
}
