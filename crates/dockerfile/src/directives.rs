//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the very top.

use crate::error::DockerfileError;
use crate::position::Span;

/// The parser directives of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directives {
    /// Character that continues lines and escapes: backslash or backtick.
    pub escape: char,
    /// Frontend image the file asks for, cut at the first blank, and where.
    pub syntax: Option<(String, Span)>,
    /// Value of `check=` and where.
    pub check: Option<(String, Span)>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: None, check: None }
    }
}

/// Reads the directives; they end at the first line that is not one.
///
/// # Errors
/// A directive given twice or an escape that is neither backslash nor backtick.
pub(crate) fn read_directives(text: &[u8]) -> Result<Directives, DockerfileError> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut directives = Directives::default();
    let mut escape_seen = false;
    let mut number = 0;
    for line in text.split(|&byte| byte == b'\n') {
        number += 1;
        let span = Span::line(number);
        let line = String::from_utf8_lossy(line);
        if number == 1 && line.starts_with("#!") {
            continue;
        }
        let Some((key, value)) = directive(&line) else { break };
        let repeated = match key.as_str() {
            "escape" => std::mem::replace(&mut escape_seen, true),
            "syntax" => directives.syntax.is_some(),
            "check" => directives.check.is_some(),
            _ => break,
        };
        if repeated {
            let message = format!("only one {key} parser directive can be used");
            return Err(DockerfileError::syntax(message).at(span));
        }
        match key.as_str() {
            "escape" => directives.escape = escape_token(value).map_err(|error| error.at(span))?,
            "syntax" => {
                let image = value.split_whitespace().next().unwrap_or_default();
                directives.syntax = Some((image.to_owned(), span));
            }
            _ => directives.check = Some((value.to_owned(), span)),
        }
    }
    Ok(directives)
}

fn escape_token(value: &str) -> Result<char, DockerfileError> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        _ => {
            let message = format!("invalid escape token '{value}' does not match ` or \\");
            Err(DockerfileError::syntax(message))
        }
    }
}

/// `# key=value` with free blanks; the key in lower case.
fn directive(line: &str) -> Option<(String, &str)> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start();
    let (key, value) = rest.split_once('=')?;
    let key = key.trim_end();
    let mut chars = key.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric());
    let value = value.trim();
    (valid && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Directives {
        read_directives(text.as_bytes()).expect(text)
    }

    fn syntax(text: &str) -> Option<String> {
        read(text).syntax.map(|(image, _)| image)
    }

    #[test]
    fn directives_stand_at_the_top_with_free_blanks_and_case() {
        let found =
            read("#syntax=a/b:1 extra\n # ESCAPE = `\n#  check=skip=all;error=true\nFROM x");
        assert_eq!(found.syntax, Some(("a/b:1".into(), Span::line(1))));
        assert_eq!(found.escape, '`');
        assert_eq!(found.check, Some(("skip=all;error=true".into(), Span::line(3))));
    }

    #[test]
    fn the_first_other_line_ends_them() {
        for before in ["", "# a comment", "FROM x", "# unknown=1", "#=x", "# 1a=x"] {
            assert_eq!(read(&format!("{before}\n# escape=`\nFROM x")).escape, '\\', "{before:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_a_shebang_are_skipped() {
        assert_eq!(syntax("\u{feff}# syntax=a/b\nFROM x").as_deref(), Some("a/b"));
        assert_eq!(syntax("#!/usr/bin/env x\n# syntax=a/b\nFROM x").as_deref(), Some("a/b"));
        assert_eq!(syntax("# syntax=a/b\r\nFROM x").as_deref(), Some("a/b"));
    }

    #[test]
    fn repeated_and_bad_directives_are_errors() {
        let error = read_directives(b"# escape=`\n# escape=`\n").expect_err("twice");
        assert_eq!(error.message(), "only one escape parser directive can be used");
        assert_eq!(error.span(), Some(Span::line(2)));
        let error = read_directives(b"# escape=x\n").expect_err("bad");
        assert_eq!(error.message(), "invalid escape token 'x' does not match ` or \\");
    }
}
