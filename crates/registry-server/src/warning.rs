//! The `Warning` headers of a response (distribution-spec, "Warnings"), which clients show to
//! people.

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, header};

/// Room for all warnings of a response together, in bytes.
const WARNINGS_BYTES_MAX: usize = 4096;

/// What a request's handlers want to tell a person; it goes out with whatever the answer is.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<HeaderValue>>);

impl Warnings {
    /// Adds a warning. Said twice it is sent once; what no longer fits is left out.
    pub(crate) fn add(&self, text: &str) {
        let Ok(value) = HeaderValue::from_str(&format!("299 - \"{}\"", quoted(text))) else {
            return;
        };
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used: usize = values.iter().map(HeaderValue::len).sum();
        if used + value.len() <= WARNINGS_BYTES_MAX && !values.contains(&value) {
            values.push(value);
        }
    }

    /// Puts the warnings into the headers of the response.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        for value in self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            headers.append(header::WARNING, value);
        }
    }
}

/// The content of a quoted string (RFC 9110, section 5.6.4): what is not visible ASCII becomes a
/// question mark, so that no text can begin another header.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(texts: &[&str]) -> Vec<String> {
        let warnings = Warnings::default();
        texts.iter().for_each(|text| warnings.add(text));
        let mut headers = HeaderMap::new();
        warnings.write(&mut headers);
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        headers.get_all(header::WARNING).iter().map(text).collect()
    }

    #[test]
    fn warnings_are_quoted_strings_said_once() {
        assert_eq!(sent(&[]), [""; 0]);
        assert_eq!(
            sent(&["a \"b\" \\", "line\r\nX: y é", "a \"b\" \\"]),
            ["299 - \"a \\\"b\\\" \\\\\"", "299 - \"line??X: y ?\""]
        );
    }

    #[test]
    fn all_warnings_together_have_a_limit() {
        let long = "x".repeat(3000);
        let other = "y".repeat(3000);
        assert_eq!(sent(&[&long, &other, "short"]).len(), 2);
        assert_eq!(sent(&[&"z".repeat(5000)]).len(), 0);
    }
}
