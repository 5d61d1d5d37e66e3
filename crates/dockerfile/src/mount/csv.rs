//! One record of comma-separated values, as RFC 4180 has it.

use crate::error::DockerfileError;

/// Splits a record into fields; a field in double quotes may hold commas and `""`.
pub(super) fn fields(record: &str) -> Result<Vec<String>, DockerfileError> {
    let malformed =
        |what: &str| DockerfileError::syntax(format!("failed to parse csv mounts: {what}"));
    let mut fields = Vec::new();
    let mut chars = record.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err(malformed("extraneous or missing \" in quoted-field")),
                }
            }
            if chars.peek().is_some_and(|&c| c != ',') {
                return Err(malformed("extraneous or missing \" in quoted-field"));
            }
        } else {
            while let Some(c) = chars.next_if(|&c| c != ',') {
                if c == '"' {
                    return Err(malformed("bare \" in non-quoted-field"));
                }
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}
