//! Codes and ids that servers and programs put into their answers, of which error texts repeat only
//! what has the form of one: an answer may hold a secret in any of its fields.

/// Longest code, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// Most digits of a code, all next to each other, as in `BXNIM0415E`.
const DIGITS_MAX: usize = 4;

/// Longest id of a request, in bytes: Oracle's are three of 32 digits.
const REQUEST_ID_BYTES_MAX: usize = 98;

/// The text if it has the form of an error code, else nothing: letters and underscores with one
/// short number at most. Passwords and tokens have more digits than that, or other characters.
pub(crate) fn code(text: &str) -> &str {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let is_known = |byte: u8| is_letter(byte) || byte.is_ascii_digit();
    let digits = text.trim_matches(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_code = text.len() <= CODE_BYTES_MAX
        && text.bytes().all(is_known)
        && digits.len() <= DIGITS_MAX
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_code { text } else { "" }
}

/// As [`code`], of a field of JSON.
pub(crate) fn code_of(value: &serde_json::Value) -> &str {
    code(value.as_str().unwrap_or_default())
}

/// The text if it has the form of a request's id: hexadecimal digits with hyphens or slashes
/// between them, as in a UUID. What has any other character may be anything.
pub(crate) fn request_id(text: &str) -> Option<&str> {
    let is_known = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'/';
    let is_id = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_known);
    is_id.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cloud-credentials.md 14.2, row 8.
    #[test]
    fn only_what_has_the_form_of_an_id_is_repeated() {
        let oracles = ["0123456789ABCDEF0123456789ABCDEF"; 3].join("/");
        for text in ["0a1b2c3d-4e5f-6789-abcd-ef0123456789", "4f-1", &oracles] {
            assert_eq!(request_id(text), Some(text));
        }
        let long = format!("{oracles}0");
        for text in ["", "c4n4ry0fASecret9", "eyJhbGciOiJSUzI1NiJ9", "4f 1", "4f\n1", "4f=", &long]
        {
            assert_eq!(request_id(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_has_the_form_of_a_code_is_repeated() {
        for text in [
            "AccessDeniedException",
            "invalid_grant",
            "PERMISSION_DENIED",
            "BXNIM0415E",
            "InstanceProfileNotFound",
            "401",
            "",
        ] {
            assert_eq!(code(text), text);
        }
        let long = "a".repeat(65);
        for text in ["c4n4ry0fASecret", "hunter22222", "a b", "a-b", "a\nb", "é", "a<b>", &long] {
            assert_eq!(code(text), "", "{text}");
        }
    }
}
