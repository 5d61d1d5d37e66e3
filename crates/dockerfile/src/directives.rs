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
    /// Value of `check=`, cut at the first blank, and where.
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
    let mut shebang = false;
    let mut number = 0;
    for line in text.split(|&byte| byte == b'\n') {
        number += 1;
        let span = Span::line(number);
        let line = String::from_utf8_lossy(line);
        if number == 1 && line.starts_with("#!") {
            shebang = true;
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
            // A first line with `#!` is a comment for `escape`, and comments end it.
            "escape" if shebang => {}
            "escape" => directives.escape = escape_token(value).map_err(|error| error.at(span))?,
            "syntax" => directives.syntax = Some((first_word(value), span)),
            _ => directives.check = Some((first_word(value), span)),
        }
    }
    Ok(directives)
}

fn first_word(value: &str) -> String {
    value.split_whitespace().next().unwrap_or_default().to_owned()
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
    key_value(line.trim_start().strip_prefix('#')?)
}

fn key_value(text: &str) -> Option<(String, &str)> {
    let (key, value) = text.split_once('=')?;
    let key = key.trim();
    let mut chars = key.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric());
    let value = value.trim();
    (valid && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

/// Names of frontend images whose language this crate speaks itself.
const BUILTIN_FRONTENDS: [&str; 4] = [
    "docker/dockerfile",
    "docker/dockerfile-upstream",
    "docker.io/docker/dockerfile",
    "docker.io/docker/dockerfile-upstream",
];

/// The frontend image a file asks for: `# syntax=`, `// syntax=` or the `syntax` key of a JSON
/// file.
///
/// Frontends are never fetched; a caller may tell its user when [`is_builtin_frontend`] says no.
#[must_use]
pub fn requested_frontend(text: &[u8]) -> Option<String> {
    if let Ok(Directives { syntax: Some((image, _)), .. }) = read_directives(text) {
        return Some(image);
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    if text.starts_with(b"{") {
        let document: serde_json::Value = serde_json::from_slice(text).ok()?;
        return document.get("syntax")?.as_str().map(first_word);
    }
    let lines = text.split(|&byte| byte == b'\n').map(String::from_utf8_lossy);
    for line in lines.skip_while(|line| line.starts_with("#!")) {
        let rest = line.trim_start().strip_prefix("//")?;
        let (key, value) = key_value(rest)?;
        if key == "syntax" {
            return Some(first_word(value));
        }
    }
    None
}

/// Whether `image` is a version of the Dockerfile frontend, whose language is built in.
#[must_use]
pub fn is_builtin_frontend(image: &str) -> bool {
    let name = image.split(['@', ':']).next().unwrap_or_default();
    BUILTIN_FRONTENDS.contains(&name)
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

    /// BuildKit Directives.
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

    /// BuildKit Directives.
    #[test]
    fn repeated_and_bad_directives_are_errors() {
        let error = read_directives(b"# escape=`\n# escape=`\n").expect_err("twice");
        assert_eq!(error.message(), "only one escape parser directive can be used");
        assert_eq!(error.span(), Some(Span::line(2)));
        let error = read_directives(b"# escape=x\n").expect_err("bad");
        assert_eq!(error.message(), "invalid escape token 'x' does not match ` or \\");
    }

    /// BuildKit DetectSyntax, DetectSyntaxBOM, ParseDirective.
    #[test]
    fn frontends_are_found_in_every_form() {
        for (text, expected) in [
            ("# syntax = a:experimental // opts\nFROM x\n", Some("a:experimental")),
            ("#!/bin/sh\n# syntax = a\nFROM x\n", Some("a")),
            ("#!/bin/sh\n\n# syntax = a\n", None),
            ("FROM x\nRUN ls\n", None),
            ("//syntax=foo\n//key=value", Some("foo")),
            ("#!/bin/sh\n//syntax=x", Some("x")),
            ("{\"syntax\": \"foo\", \"bar\": [\"abc\"]}", Some("foo")),
            ("{\"syntax\": \"foo\"", None),
            ("{\"syntax\": \"foo\"}\n# syntax=bar", None),
            ("\u{feff}# syntax = a\nFROM x\n", Some("a")),
        ] {
            assert_eq!(requested_frontend(text.as_bytes()).as_deref(), expected, "{text}");
        }
        let check = |text| read(text).check.map(|(check, _)| check);
        assert_eq!(check("#check = skip=all // opts\nFROM x\n").as_deref(), Some("skip=all"));
        assert_eq!(check("#!/bin/sh\n# check = skip=all\nFROM x\n").as_deref(), Some("skip=all"));
        assert_eq!(check("//check=skip=all\n//key=value"), None);
        assert_eq!(read("#!/bin/sh\n# escape=`\nFROM x\n").escape, '\\');
    }

    #[test]
    fn the_dockerfile_frontend_is_built_in() {
        for image in [
            "docker/dockerfile:1",
            "docker/dockerfile-upstream:master",
            "docker.io/docker/dockerfile:1.7-labs@sha256:00",
        ] {
            assert!(is_builtin_frontend(image), "{image}");
        }
        assert!(!is_builtin_frontend("example/other:1"));
    }
}
