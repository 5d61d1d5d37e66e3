//! The lines of a Dockerfile around a mistake, marked as BuildKit marks them.

use std::fmt::Write as _;

use dockerfile::Span;
use oci_model::Reference;

/// Lines shown before and after what is meant.
const AROUND: u32 = 2;
/// Longest instruction shown in full; of a longer one the beginning is shown.
const LINES_MAX: u32 = 30;
/// Longest line shown, in characters.
const WIDTH_MAX: usize = 160;

const RULE: &str = "--------------------";

/// The place and the marked lines; a caret below the first line where a column is known.
pub(crate) fn excerpt(name: &str, text: &str, span: Span) -> String {
    let (first, last) = (span.line.max(1), span.line_end.max(span.line).max(1));
    let end = last.min(first.saturating_add(LINES_MAX));
    let place = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut out = format!("{name}:{place}\n{RULE}\n");
    let numbered = (1u32..).zip(text.lines());
    let shown = numbered
        .skip_while(|(number, _)| number.saturating_add(AROUND) < first)
        .take_while(|(number, _)| *number <= end.saturating_add(AROUND));
    for (number, line) in shown {
        let is_meant = (first..=end).contains(&number);
        let mark = if is_meant { ">>>" } else { "   " };
        let line: String = super::progress::printable(line).chars().take(WIDTH_MAX).collect();
        let _ = writeln!(out, "{}", format!("{number:>4} | {mark} {line}").trim_end());
        if number == first && 1 < span.column {
            let indent = usize::try_from(span.column).unwrap_or(1) - 1;
            if indent < WIDTH_MAX {
                let _ = writeln!(out, "     |     {}^", " ".repeat(indent));
            }
        }
        if number == end && end < last {
            let _ = writeln!(out, "     |     …");
        }
    }
    out.push_str(RULE);
    out
}

/// The only FROM that names an image, if there is exactly one.
pub(crate) fn from_line(text: &str, reference: &str) -> Option<Span> {
    let names = |line: &str| {
        let mut words = line.split_whitespace();
        let is_from = words.next().is_some_and(|word| word.eq_ignore_ascii_case("from"));
        let word = words.find(|word| !word.starts_with("--"));
        let parsed = word.and_then(|word| word.parse::<Reference>().ok());
        is_from && parsed.is_some_and(|it| it.with_default_tag().to_string() == reference)
    };
    let mut found = (1u32..).zip(text.lines()).filter(|(_, line)| names(line));
    let (line, _) = found.next()?;
    found.next().is_none().then(|| Span::line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FROM a\n\nCOPY x y\nRUN one \\\n  && two\nENV a=b\nUSER c\nCMD d\n";

    #[test]
    fn all_lines_of_an_instruction_are_marked() {
        let span = Span { line: 4, line_end: 5, column: 1 };
        let expected = "Dockerfile:4-5\n--------------------\n   2 |\n   3 |     COPY x y\n   \
                        4 | >>> RUN one \\\n   5 | >>>   && two\n   6 |     ENV a=b\n   7 |     \
                        USER c\n--------------------";
        assert_eq!(excerpt("Dockerfile", TEXT, span), expected);
    }

    #[test]
    fn a_column_gets_a_caret() {
        let span = Span { line: 1, line_end: 1, column: 6 };
        let text = excerpt("F", TEXT, span);
        assert!(text.contains("   1 | >>> FROM a\n     |          ^\n"), "{text}");
    }

    #[test]
    fn a_long_instruction_is_cut_and_escapes_are_not_shown() {
        let body = "RUN <<EOF\n".to_owned() + &"x\u{1b}[31m\n".repeat(100) + "EOF\nUSER a\n";
        let text = excerpt("F", &body, Span { line: 1, line_end: 102, column: 1 });
        assert!(text.starts_with("F:1-102\n"), "{text}");
        assert!(text.lines().count() < 40, "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("…"), "{text}");
    }

    #[test]
    fn a_span_outside_of_the_text_shows_nothing() {
        let text = excerpt("F", "FROM a\n", Span::line(99));
        assert_eq!(text, format!("F:99\n{RULE}\n{RULE}"));
    }

    #[test]
    fn the_line_of_a_base_is_found_by_its_reference() {
        let text = "from --platform=$X alpine AS a\nFROM b:1\nFROM c\nFROM c\n";
        let line = |name| from_line(text, name).map(|span| span.line);
        assert_eq!(line("docker.io/library/alpine:latest"), Some(1));
        assert_eq!(line("docker.io/library/b:1"), Some(2));
        assert_eq!(line("docker.io/library/c:latest"), None);
    }
}
