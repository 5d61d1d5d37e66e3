//! Physical lines to logical ones: comments, continuations, heredoc bodies.

use std::borrow::Cow;

use crate::error::{DockerfileError, ErrorKind};
use crate::heredoc::announced_in_line;
use crate::instruction::Heredoc;
use crate::limits::{INSTRUCTIONS_MAX, LINE_BYTES_MAX};
use crate::position::Span;
use crate::words::{JsonForm, cut_keyword, json_form, split_flags};

/// One instruction as text.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct LogicalLine {
    /// Continuations joined, comments removed, leading blanks trimmed.
    pub(crate) text: String,
    pub(crate) span: Span,
    /// Comment lines directly above.
    pub(crate) comments: Vec<String>,
    /// Heredocs with their bodies.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Whether a blank line interrupted a continuation.
    pub(crate) continuation: Continuation,
}

/// Whether the continuation lines of an instruction are as they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Continuation {
    Clean,
    HasEmptyLine,
}

/// One line of the file with its number; the text still has its line ending.
struct Physical<'a> {
    number: u32,
    bytes: &'a [u8],
}

impl<'a> Physical<'a> {
    /// The line without its ending.
    fn text(&self) -> Cow<'a, str> {
        let mut bytes = self.bytes;
        while let [rest @ .., b'\n' | b'\r'] = bytes {
            bytes = rest;
        }
        String::from_utf8_lossy(bytes)
    }

    fn checked_text(&self) -> Result<Cow<'a, str>, DockerfileError> {
        if std::str::from_utf8(self.bytes).is_err() {
            let error = DockerfileError::syntax("line is not valid UTF-8");
            return Err(error.at(Span::line(self.number)));
        }
        Ok(self.text())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    number: u32,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Physical<'a>>, DockerfileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end =
            self.rest.iter().position(|&byte| byte == b'\n').map_or(self.rest.len(), |i| i + 1);
        let (bytes, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.number += 1;
        if bytes.len() > LINE_BYTES_MAX {
            let message =
                format!("dockerfile line greater than max allowed size of {LINE_BYTES_MAX}");
            return Err(DockerfileError::new(ErrorKind::Limit, message).at(Span::line(self.number)));
        }
        Ok(Some(Physical { number: self.number, bytes }))
    }
}

/// Cuts the file into instructions.
///
/// # Errors
/// An overlong line, text that is not UTF-8 outside comments, an unterminated heredoc, or no
/// instruction at all.
pub(crate) fn logical_lines(
    text: &[u8],
    escape: char,
) -> Result<Vec<LogicalLine>, DockerfileError> {
    if text.is_empty() {
        return Err(DockerfileError::syntax("the Dockerfile cannot be empty"));
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut reader = Reader { rest: text, number: 0 };
    let mut lines = Vec::new();
    let mut comments = Vec::new();
    while let Some(first) = reader.next()? {
        if first.bytes.trim_ascii().is_empty() {
            comments.clear();
            continue;
        }
        let raw = first.text();
        let trimmed = raw.trim_start();
        if let Some(comment) = trimmed.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
            continue;
        }
        if trimmed.trim_end().is_empty() {
            comments.clear();
            continue;
        }
        let checked = first.checked_text()?;
        let line = read_instruction(&mut reader, first.number, &checked, &mut comments, escape)?;
        if let Some(line) = line {
            lines.push(line);
        }
        if lines.len() > INSTRUCTIONS_MAX {
            let message = format!("more than {INSTRUCTIONS_MAX} instructions");
            return Err(
                DockerfileError::new(ErrorKind::Limit, message).at(Span::line(first.number))
            );
        }
    }
    if lines.is_empty() {
        return Err(DockerfileError::syntax("file with no instructions"));
    }
    Ok(lines)
}

fn read_instruction(
    reader: &mut Reader<'_>,
    line: u32,
    first: &str,
    comments: &mut Vec<String>,
    escape: char,
) -> Result<Option<LogicalLine>, DockerfileError> {
    let column = first.chars().take_while(|c| c.is_whitespace()).count() + 1;
    let column = u32::try_from(column).unwrap_or(u32::MAX);
    let (piece, mut continued) = cut_continuation(first.trim_start(), escape);
    let mut text = piece.to_owned();
    let mut continuation = Continuation::Clean;
    while continued {
        let Some(next) = reader.next()? else { break };
        let raw = next.text();
        if raw.trim_start().starts_with('#') {
            continue;
        }
        if raw.trim().is_empty() {
            continuation = Continuation::HasEmptyLine;
            continue;
        }
        let raw = next.checked_text()?;
        let (piece, more) = cut_continuation(&raw, escape);
        text.push_str(piece);
        continued = more;
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut span = Span { line, line_end: reader.number, column };
    let mut heredocs = if can_have_heredocs(&text) { announced_in_line(&text) } else { Vec::new() };
    for heredoc in &mut heredocs {
        read_body(reader, heredoc)
            .map_err(|error| error.at(Span { line, line_end: reader.number, column }))?;
    }
    span.line_end = reader.number;
    Ok(Some(LogicalLine { text, span, comments: std::mem::take(comments), heredocs, continuation }))
}

/// Splits off a trailing escape character; the flag says whether there was one.
///
/// An escape that is itself escaped does not continue the line.
fn cut_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        Some(_) | None => (line, false),
    }
}

/// Only ADD, COPY and RUN take heredocs, also below ONBUILD, and never in JSON form.
fn can_have_heredocs(text: &str) -> bool {
    if !text.contains("<<") {
        return false;
    }
    let (mut keyword, mut rest) = cut_keyword(text);
    if keyword.eq_ignore_ascii_case("onbuild") {
        (keyword, rest) = cut_keyword(rest);
    }
    let takes = ["add", "copy", "run"].iter().any(|known| keyword.eq_ignore_ascii_case(known));
    takes && json_form(split_flags(rest).1) == JsonForm::Text
}

fn read_body(reader: &mut Reader<'_>, heredoc: &mut Heredoc) -> Result<(), DockerfileError> {
    use crate::instruction::HeredocIndent;
    while let Some(line) = reader.next()? {
        let text = line.checked_text()?;
        let candidate = match heredoc.indent {
            HeredocIndent::Keep => text.as_ref(),
            HeredocIndent::StripTabs => text.trim_start_matches('\t'),
        };
        if candidate == heredoc.name {
            return Ok(());
        }
        heredoc.body.push_str(&String::from_utf8_lossy(line.bytes));
    }
    Err(DockerfileError::syntax("unterminated heredoc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        let lines = logical_lines(file.as_bytes(), '\\').expect("lines");
        lines.into_iter().map(|line| line.text).collect()
    }

    fn failure(file: &[u8]) -> DockerfileError {
        logical_lines(file, '\\').expect_err("the file is broken")
    }

    #[test]
    fn continuations_join_without_a_blank() {
        assert_eq!(texts("RUN a \\\n  b\\\nc\n"), ["RUN a   bc"]);
        assert_eq!(texts("  RUN a \\ \t\n b"), ["RUN a  b"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
        assert_eq!(texts("RUN a \\\r\n b\r\n"), ["RUN a  b"]);
    }

    #[test]
    fn an_escaped_escape_does_not_continue() {
        assert_eq!(texts("RUN a \\\\\nRUN b"), ["RUN a \\\\", "RUN b"]);
    }

    #[test]
    fn comments_inside_a_continuation_vanish() {
        assert_eq!(texts("RUN a \\\n # no\n#no \\\n b"), ["RUN a  b"]);
        assert_eq!(texts("RUN a # data\n"), ["RUN a # data"]);
    }

    #[test]
    fn empty_lines_inside_a_continuation_are_noted() {
        let lines = logical_lines(b"RUN a \\\n\n b\nRUN c", '\\').expect("lines");
        assert_eq!(lines[0].text, "RUN a  b");
        assert_eq!(lines[0].continuation, Continuation::HasEmptyLine);
        assert_eq!(lines[1].continuation, Continuation::Clean);
    }

    /// BuildKit ParseIncludesLineNumbers.
    #[test]
    fn spans_cover_continuations_and_heredocs() {
        let file = "\n# c\n  FROM x\nRUN a \\\n b\nRUN <<E\nbody\nE\nRUN c\n";
        let lines = logical_lines(file.as_bytes(), '\\').expect("lines");
        let spans: Vec<_> = lines
            .iter()
            .map(|line| (line.span.line, line.span.line_end, line.span.column))
            .collect();
        assert_eq!(spans, [(3, 3, 3), (4, 5, 1), (6, 8, 1), (9, 9, 1)]);
        assert_eq!(lines[0].comments, ["c"]);
    }

    #[test]
    fn a_blank_line_separates_comments_from_the_instruction() {
        let lines = logical_lines(b"# a\n\n# b\n# c\nRUN x", '\\').expect("lines");
        assert_eq!(lines[0].comments, ["b", "c"]);
    }

    /// BuildKit ParseExtractsHeredoc, HeredocChomp.
    #[test]
    fn heredoc_bodies_are_raw() {
        let file = "RUN <<E1 <<-E2\n# kept \\\n\n  E1\nE1\n\tx\n\tE2\nRUN b";
        let lines = logical_lines(file.as_bytes(), '\\').expect("lines");
        assert_eq!(lines[0].heredocs[0].body, "# kept \\\n\n  E1\n");
        assert_eq!(lines[0].heredocs[1].body, "\tx\n");
        assert_eq!(lines[0].heredocs[1].content(), "x\n");
        assert_eq!(lines[1].text, "RUN b");
    }

    /// BuildKit ParseJSONHeredoc.
    #[test]
    fn only_some_instructions_take_heredocs() {
        assert_eq!(texts("ENV a=<<E\nRUN b"), ["ENV a=<<E", "RUN b"]);
        assert_eq!(texts("RUN [\"<<E\"]\nRUN b"), ["RUN [\"<<E\"]", "RUN b"]);
        assert_eq!(texts("ONBUILD RUN <<E\nx\nE\nRUN b"), ["ONBUILD RUN <<E", "RUN b"]);
    }

    /// BuildKit ParseReturnsScannerErrors.
    #[test]
    fn broken_files_are_refused_with_their_place() {
        assert_eq!(failure(b"").message(), "the Dockerfile cannot be empty");
        assert_eq!(failure(b"# only\n\n").message(), "file with no instructions");
        let error = failure(b"FROM x\nRUN <<E\nbody\n");
        assert_eq!(error.message(), "unterminated heredoc");
        assert_eq!(error.span().map(|span| (span.line, span.line_end)), Some((2, 3)));
        let mut long = b"FROM x\nRUN ".to_vec();
        long.resize(long.len() + LINE_BYTES_MAX, b'a');
        let error = failure(&long);
        assert_eq!(error.message(), "dockerfile line greater than max allowed size of 65535");
        assert_eq!(error.span(), Some(Span::line(2)));
        assert_eq!(failure(b"FROM x\nRUN \xff\n").span(), Some(Span::line(2)));
        assert!(logical_lines(b"# caf\xe9\nFROM x\n", '\\').is_ok());
    }

    #[test]
    fn a_byte_order_mark_is_dropped() {
        assert_eq!(texts("\u{feff}FROM x"), ["FROM x"]);
    }
}
