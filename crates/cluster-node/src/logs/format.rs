//! CRI's log format: `<RFC 3339 time> stdout|stderr F|P text`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// What `kubectl logs` may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    /// Only this many lines at the end.
    pub(crate) tail_lines: Option<u64>,
    /// Only lines from this time on.
    pub(crate) since: Option<Timestamp>,
    /// The answer is cut here.
    pub(crate) limit_bytes: Option<u64>,
}

/// One line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    pub(crate) time: &'a str,
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Reads one line without its line break; `None` for anything that is not CRI's format.
pub(crate) fn parse(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    Some(LogLine { time, partial: tag.first() == Some(&b'P'), text })
}

/// Turns log lines into what the caller sees.
#[derive(Debug)]
pub(crate) struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    left: Option<u64>,
    /// Inside of a line whose pieces are being joined, and whether it is shown.
    inside: Option<bool>,
}

/// Whether more may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Yes,
    No,
}

impl Printer {
    pub(crate) fn new(options: &LogOptions) -> Self {
        Printer {
            timestamps: options.timestamps,
            since: options.since,
            left: options.limit_bytes,
            inside: None,
        }
    }

    /// Appends one raw line (without line break) to `output`.
    pub(crate) fn print(&mut self, line: &[u8], output: &mut Vec<u8>) -> More {
        let Some(parsed) = parse(line) else { return More::Yes };
        let shown = match self.inside {
            Some(shown) => shown,
            None => match (self.since, parsed.time.parse::<Timestamp>()) {
                (Some(since), Ok(time)) => since <= time,
                _ => true,
            },
        };
        let before = output.len();
        if shown {
            if self.inside.is_none() && self.timestamps {
                output.extend_from_slice(parsed.time.as_bytes());
                output.push(b' ');
            }
            output.extend_from_slice(parsed.text);
            if !parsed.partial {
                output.push(b'\n');
            }
        }
        self.inside = parsed.partial.then_some(shown);
        let Some(left) = &mut self.left else { return More::Yes };
        let added = (output.len() - before) as u64;
        if added < *left {
            *left -= added;
            return More::Yes;
        }
        output.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX));
        *left = 0;
        More::No
    }
}

/// The files of one run's log, oldest first: rotated ones carry a stamp behind the name.
pub(crate) fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) =
        (log.parent(), log.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|other| other.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    if log.exists() {
        rotated.push(log.to_owned());
    }
    rotated
}

/// How many whole lines the files hold, at most `enough` counted from the end, and where in which
/// file the last `count` lines begin.
fn tail_start(files: &[PathBuf], count: u64) -> io::Result<(usize, u64)> {
    const BLOCK: u64 = 64 * 1024;
    if count == 0 {
        let last = files.len().saturating_sub(1);
        let end = files.last().map_or(Ok(0), |path| fs::metadata(path).map(|meta| meta.len()))?;
        return Ok((last, end));
    }
    let mut left = count;
    for (index, path) in files.iter().enumerate().rev() {
        // Whole lines end with the tag F; pieces of one line count once, so lines are parsed.
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut end = length;
        let mut carry: Vec<u8> = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut block)?;
            block.extend_from_slice(&carry);
            // Positions behind each line break, from the end.
            let mut line_end = block.len();
            if line_end > 0 && block[line_end - 1] == b'\n' {
                line_end -= 1;
            }
            let mut cut = line_end;
            while let Some(position) = block[..cut].iter().rposition(|byte| *byte == b'\n') {
                let line = &block[position + 1..line_end];
                if parse(line).is_some_and(|line| !line.partial) {
                    if left == 0 {
                        return Ok((index, start + line_end as u64 + 1));
                    }
                    left -= 1;
                }
                line_end = position;
                cut = position;
            }
            carry = block[..line_end].to_vec();
            if line_end < block.len() {
                carry.push(b'\n');
            }
            end = start;
        }
        if !carry.is_empty() {
            let line = carry.strip_suffix(b"\n").unwrap_or(&carry);
            if parse(line).is_some_and(|line| !line.partial) {
                if left == 0 {
                    return Ok((index, carry.len() as u64));
                }
                left -= 1;
            }
        }
    }
    Ok((0, 0))
}

/// Reads what is there; returns the position behind it in the last file.
///
/// `sink` gets pieces of the answer and says whether it wants more.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn read_present(
    log: &Path,
    options: &LogOptions,
    printer: &mut Printer,
    mut sink: impl FnMut(Vec<u8>) -> More,
) -> io::Result<(u64, More)> {
    const PIECE: usize = 64 * 1024;
    let files = files(log);
    let (first, offset) = match options.tail_lines {
        Some(count) => tail_start(&files, count)?,
        None => (0, 0),
    };
    let mut position = 0;
    for (index, path) in files.iter().enumerate().skip(first) {
        let mut file = fs::File::open(path)?;
        position = if index == first { offset } else { 0 };
        file.seek(SeekFrom::Start(position))?;
        let mut reader = BufReader::with_capacity(PIECE, file);
        let mut line = Vec::new();
        let mut output = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                // A line that is still being written is read again later.
                break;
            }
            position += read as u64;
            line.pop();
            let more = printer.print(&line, &mut output);
            if more == More::No || output.len() >= PIECE {
                let wanted = sink(std::mem::take(&mut output));
                if more == More::No || wanted == More::No {
                    return Ok((position, More::No));
                }
            }
        }
        if !output.is_empty() && sink(output) == More::No {
            return Ok((position, More::No));
        }
    }
    Ok((position, More::Yes))
}

/// The end of a log as text, for termination messages.
pub(crate) fn tail_text(log: &Path, lines_max: usize, bytes_max: usize) -> Option<String> {
    let options = LogOptions { tail_lines: Some(lines_max as u64), ..LogOptions::default() };
    let mut text = Vec::new();
    let mut printer = Printer::new(&options);
    read_present(log, &options, &mut printer, |piece| {
        text.extend_from_slice(&piece);
        More::Yes
    })
    .ok()?;
    let start = text.len().saturating_sub(bytes_max);
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &Path, options: &LogOptions) -> String {
        let mut text = Vec::new();
        let mut printer = Printer::new(options);
        read_present(log, options, &mut printer, |piece| {
            text.extend_from_slice(&piece);
            More::Yes
        })
        .expect("readable");
        String::from_utf8(text).expect("text")
    }

    fn log(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).expect("log");
        (dir, path)
    }

    const LINES: [&str; 5] = [
        "2024-01-01T00:00:01.000000001Z stdout F one",
        "2024-01-01T00:00:02Z stderr F two",
        "2024-01-01T00:00:03Z stdout P thr",
        "2024-01-01T00:00:03.5Z stdout F ee",
        "2024-01-01T00:00:04Z stdout F ",
    ];

    /// mini-kubernetes.md 14, row 79.
    #[test]
    fn row_79_options_select_lines() {
        let (_dir, path) = log(&LINES);
        let all = LogOptions::default();
        assert_eq!(read(&path, &all), "one\ntwo\nthree\n\n");
        let stamped = LogOptions { timestamps: true, tail_lines: Some(2), ..all.clone() };
        assert_eq!(read(&path, &stamped), "2024-01-01T00:00:03Z three\n2024-01-01T00:00:04Z \n");
        let since = LogOptions {
            since: Some("2024-01-01T00:00:02Z".parse().expect("time")),
            ..all.clone()
        };
        assert_eq!(read(&path, &since), "two\nthree\n\n");
        let limited = LogOptions { limit_bytes: Some(6), ..all.clone() };
        assert_eq!(read(&path, &limited), "one\ntw");
        for (count, expected) in [
            (0, ""),
            (1, "\n"),
            (2, "three\n\n"),
            (3, "two\nthree\n\n"),
            (4, "one\ntwo\nthree\n\n"),
            (9, "one\ntwo\nthree\n\n"),
        ] {
            let tail = LogOptions { tail_lines: Some(count), ..all.clone() };
            assert_eq!(read(&path, &tail), expected, "{count}");
        }
    }

    /// mini-kubernetes.md 14, row 79: pieces of more than 16 KiB are one line.
    #[test]
    fn row_79_long_lines_are_joined_and_tailed_across_blocks() {
        let piece = "x".repeat(16 * 1024);
        let mut lines = Vec::new();
        for _ in 0..20 {
            for _ in 0..3 {
                lines.push(format!("2024-01-01T00:00:00Z stdout P {piece}"));
            }
            lines.push("2024-01-01T00:00:00Z stdout F end".to_owned());
        }
        let (_dir, path) = log(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let tail = LogOptions { tail_lines: Some(2), ..LogOptions::default() };
        let text = read(&path, &tail);
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.lines().next().map(str::len), Some(3 * 16 * 1024 + 3));
    }

    #[test]
    fn row_79_rotated_files_are_read_before_the_current_one() {
        let (_dir, path) = log(&["2024-01-01T00:00:03Z stdout F new"]);
        fs::write(path.with_file_name("0.log.20240101-1"), "2024-01-01T00:00:01Z stdout F old\n")
            .expect("log");
        fs::write(path.with_file_name("0.log.20240101-2"), "2024-01-01T00:00:02Z stdout F mid\n")
            .expect("log");
        assert_eq!(read(&path, &LogOptions::default()), "old\nmid\nnew\n");
        let tail = LogOptions { tail_lines: Some(2), ..LogOptions::default() };
        assert_eq!(read(&path, &tail), "mid\nnew\n");
    }

    #[test]
    fn unfinished_line_is_left_for_later() {
        let (_dir, path) = log(&["2024-01-01T00:00:01Z stdout F a"]);
        let mut bytes = fs::read(&path).expect("log");
        let whole = bytes.len() as u64;
        bytes.extend_from_slice(b"2024-01-01T00:00:02Z stdout F b");
        fs::write(&path, bytes).expect("log");
        let mut printer = Printer::new(&LogOptions::default());
        let (position, _) =
            read_present(&path, &LogOptions::default(), &mut printer, |_| More::Yes).expect("read");
        assert_eq!(position, whole);
    }

    /// mini-kubernetes.md 14, row 76.
    #[test]
    fn row_76_end_of_the_log_serves_as_message() {
        let (_dir, path) = log(&LINES);
        assert_eq!(tail_text(&path, 80, 2048).as_deref(), Some("one\ntwo\nthree\n\n"));
        assert_eq!(tail_text(&path, 80, 4).as_deref(), Some("ee\n\n"));
        assert_eq!(tail_text(Path::new("/nowhere/0.log"), 80, 4), None);
    }
}
