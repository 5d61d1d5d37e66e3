//! The log of a container in the format of CRI: `<time> <stream> <F|P> <text>`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::step::Stream;

/// Longest piece of a line in one entry, in bytes (16 KiB, as containerd and CRI-O have it).
const PIECE_BYTES_MAX: usize = 16 << 10;

/// Turns output into entries and appends them to a file.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    stdout: Line,
    stderr: Line,
}

/// The piece of a line that is not written yet.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
}

impl Log {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file, stdout: Line::default(), stderr: Line::default() })
    }

    /// Opens the file of the same path, after the old one was renamed.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Appends what a container wrote at a time.
    ///
    /// What cannot be written (a full disk) is lost: the container must not stop for it.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8], now_nanos: u64) {
        let (line, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "stdout"),
            Stream::Stderr => (&mut self.stderr, "stderr"),
        };
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        line.push(bytes, &timestamp(now_nanos), name, &mut entries);
        let _ = self.file.write_all(&entries);
    }

    /// Writes the line a stream ended in the middle of.
    pub(super) fn end(&mut self, stream: Stream, now_nanos: u64) {
        let line = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        if !line.bytes.is_empty() {
            self.append(stream, b"\n", now_nanos);
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Line {
    fn push(&mut self, mut bytes: &[u8], time: &str, name: &str, entries: &mut Vec<u8>) {
        while let Some(&first) = bytes.first() {
            let room = PIECE_BYTES_MAX - self.bytes.len();
            if room == 0 && first != b'\n' {
                self.write("P", time, name, entries);
                continue;
            }
            // One more, so that a line of exactly the limit is one entry.
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.bytes.extend_from_slice(&bytes[..end]);
                    self.write("F", time, name, entries);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    let taken = bytes.len().min(room);
                    self.bytes.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                }
            }
        }
    }

    fn write(&mut self, tag: &str, time: &str, name: &str, entries: &mut Vec<u8>) {
        entries.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
        entries.append(&mut self.bytes);
        entries.push(b'\n');
    }
}

/// A time in nanoseconds since 1970 as RFC 3339 with nine digits.
fn timestamp(nanos: u64) -> String {
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// Gregorian date of a day since 1970-01-01, counted in years that begin in March, so that
/// the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_0000_03_01_TO_1970: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_0000_03_01_TO_1970;
    let (era, day) = (days / DAYS_PER_400_YEARS, days % DAYS_PER_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of a stream that was written in the given pieces, without their times.
    #[track_caller]
    fn check(pieces: &[&str], expected: &[&str]) {
        let (mut line, mut entries) = (Line::default(), Vec::new());
        for piece in pieces {
            line.push(piece.as_bytes(), "T", "stdout", &mut entries);
        }
        let text = String::from_utf8(entries).expect("text in, text out");
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn line_in_pieces_is_one_full_entry() {
        check(&["a", "b\nc", "\n"], &["T stdout F ab", "T stdout F c"]);
    }

    #[test]
    fn empty_line_is_an_entry() {
        check(&["\n\n"], &["T stdout F ", "T stdout F "]);
    }

    #[test]
    fn line_of_exactly_the_limit_is_full() {
        let line = "x".repeat(PIECE_BYTES_MAX);
        check(&[&line, "\n"], &[&format!("T stdout F {line}")]);
    }

    #[test]
    fn longer_line_is_partial_until_its_end() {
        let piece = "x".repeat(PIECE_BYTES_MAX);
        let line = format!("{piece}{piece}y\n");
        let partial = format!("T stdout P {piece}");
        check(&[&line], &[&partial, &partial, "T stdout F y"]);
    }

    #[test]
    fn times_are_rfc_3339_with_nanoseconds() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_827_696_000_000_001), "2000-02-29T12:34:56.000000001Z");
        assert_eq!(timestamp(1_772_323_199_999_999_999), "2026-02-28T23:59:59.999999999Z");
    }
}
