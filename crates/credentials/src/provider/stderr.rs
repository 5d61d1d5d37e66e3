//! What a failed provider said, fit for an event: one line, short, without what looks secret.

use crate::Secret;

/// Longest line, in characters.
const CHARS_MAX: usize = 400;
/// A word of at least this many characters without anything between is taken for a token.
const TOKEN_CHARS_MIN: usize = 40;
/// Shortest known secret that is masked; shorter ones would mask half of the text.
const SECRET_CHARS_MIN: usize = 4;
const MASK: &str = "****";

/// Makes one line of what a program wrote to standard error. `secrets` are masked wherever they
/// stand, and so is everything that looks like a token: three parts of a JWT, forty letters and
/// digits in a row, whatever follows `password=`, and a user in a URL.
pub fn stderr_line(stderr: &[u8], secrets: &[&Secret]) -> String {
    let mut text = String::from_utf8_lossy(stderr).into_owned();
    for secret in secrets.iter().map(|secret| secret.expose()) {
        if secret.chars().count() >= SECRET_CHARS_MIN {
            text = text.replace(secret, MASK);
        }
    }
    let mut words = Vec::new();
    let mut hide_next = false;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        let masked = if hide_next { MASK.to_owned() } else { masked_word(word) };
        // `Authorization: Bearer x` and `password: x`.
        hide_next = announces_secret(word);
        words.push(masked);
    }
    let line = words.join(" ");
    let excess = line.chars().count().saturating_sub(CHARS_MAX);
    if excess == 0 {
        return line;
    }
    // Programs say last what went wrong.
    let tail: String = line.chars().skip(excess + 1).collect();
    format!("\u{2026}{tail}")
}

fn announces_secret(word: &str) -> bool {
    let word = word.trim_start_matches(['"', '\'', '{', '-']).to_ascii_lowercase();
    let word = word.trim_end_matches(['"', '\'']);
    let named = ["password", "passwd", "token", "secret", "authorization", "identitytoken"];
    matches!(word, "bearer" | "basic")
        || word
            .trim_end_matches(['=', ':'])
            .trim_end_matches('"')
            .rsplit(['_', '-'])
            .next()
            .is_some_and(|name| word.ends_with(['=', ':']) && named.contains(&name))
}

fn masked_word(word: &str) -> String {
    for separator in ['=', ':'] {
        if let Some((name, value)) = word.split_once(separator)
            && !value.is_empty()
            && announces_secret(&format!("{name}{separator}"))
        {
            return format!("{name}{separator}{MASK}");
        }
    }
    if let Some((scheme, rest)) = word.split_once("://") {
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        // A query may hold a signature.
        let (path, query) =
            path.split_once('?').map_or((path, ""), |(path, _)| (path, "?\u{2026}"));
        return format!("{scheme}://{host}{path}{query}");
    }
    mask_tokens(word)
}

/// Masks the runs of a word that are as long as a token and as mixed.
fn mask_tokens(word: &str) -> String {
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || "+_-.=~".contains(c);
    let mut out = String::new();
    let mut run = String::new();
    for c in word.chars().map(Some).chain([None]) {
        match c {
            Some(c) if is_token_char(c) => run.push(c),
            other => {
                let mixed = run.chars().any(|c| c.is_ascii_digit())
                    && run.chars().any(|c| c.is_ascii_alphabetic());
                let is_token = run.chars().count() >= TOKEN_CHARS_MIN && mixed
                    || run.starts_with("eyJ") && run.matches('.').count() == 2;
                out.push_str(if is_token { MASK } else { &run });
                run.clear();
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_become_one_without_secrets() {
        let token = Secret::new("known-secret");
        for (stderr, expected) in [
            ("boom\n", "boom"),
            ("E1101 a\r\n\tb\u{1b}[31m\n\n", "E1101 a b [31m"),
            ("token known-secret refused", "token **** refused"),
            ("got eyJhbGciOi.eyJzdWIi.c2ln back", "got **** back"),
            ("Authorization: Bearer abc", "Authorization: **** ****"),
            ("password=hunter2 user=ada", "password=**** user=ada"),
            (r#"{"password":"hunter2"}"#, r#"{"password":****"#),
            ("client_secret: hunter2", "client_secret: ****"),
            ("GET https://u:p@h.example/a?X-Sig=1: 403", "GET https://h.example/a?\u{2026} 403"),
            ("key AKIAIOSFODNN7EXAMPLE", "key AKIAIOSFODNN7EXAMPLE"),
            ("sent wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY0123456789", "sent ****"),
            (
                "no route to registry.example.com/team/app",
                "no route to registry.example.com/team/app",
            ),
            ("", ""),
        ] {
            assert_eq!(stderr_line(stderr.as_bytes(), &[&token]), expected, "{stderr}");
        }
    }

    #[test]
    fn long_output_keeps_its_end() {
        let text = format!("{} the reason", "noise ".repeat(200));
        let line = stderr_line(text.as_bytes(), &[]);
        assert_eq!(line.chars().count(), CHARS_MAX);
        assert!(line.starts_with('\u{2026}') && line.ends_with("the reason"), "{line}");
    }
}
