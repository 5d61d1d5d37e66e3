//! Patterns of the configuration: `*` stands for any text without a separator, `**` for any text.

/// What a pattern knows beside text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wildcards {
    /// What a single star ends at.
    separators: &'static [u8],
    /// Whether `?` is one character that is no separator.
    question: bool,
}

impl Wildcards {
    /// For names of repositories, tags and images.
    pub(crate) const NAMES: Self = Self { separators: b"/", question: true };
    /// For claims of identity tokens, whose parts are divided by slashes and colons, and which may
    /// be URLs with a question mark.
    pub(crate) const CLAIMS: Self = Self { separators: b"/:", question: false };
}

/// Whether a pattern covers the whole of a text. Takes time in proportion to the product of both
/// lengths at most.
pub(crate) fn matches(pattern: &str, text: &str, wildcards: Wildcards) -> bool {
    let text = text.as_bytes();
    let is_separator = |at: usize| wildcards.separators.contains(&text[at]);
    // Which beginnings of the text the pattern read so far covers.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut pattern = pattern.as_bytes();
    while let Some((&first, rest)) = pattern.split_first() {
        if first == b'*' {
            let deep = rest.first() == Some(&b'*');
            for at in 0..text.len() {
                reached[at + 1] |= reached[at] && (deep || !is_separator(at));
            }
            pattern = if deep { &rest[1..] } else { rest };
            continue;
        }
        let is_question = first == b'?' && wildcards.question;
        for at in (0..text.len()).rev() {
            let fits = if is_question { !is_separator(at) } else { text[at] == first };
            reached[at + 1] = reached[at] && fits;
        }
        reached[0] = false;
        pattern = rest;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wildcards: Wildcards, pattern: &str, text: &str, expected: bool) {
        assert_eq!(matches(pattern, text, wildcards), expected, "{pattern} {text}");
    }

    #[test]
    fn stars_of_names_stop_at_slashes_and_two_do_not() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "latest", true),
            ("*", "team/app", false),
            ("**", "team/app/x", true),
            ("***", "team/app/x", true),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/**", "team/app/x", true),
            ("team/**", "team", false),
            ("team**", "team", true),
            ("**/app", "a/b/app", true),
            ("**/app", "app", false),
            ("a*c", "abcd", false),
            ("v?.*", "v1.2", true),
            ("v?.*", "v12.3", false),
            ("v?", "v/", false),
            ("v*-rc*", "v1.2-rc1", true),
            ("v*-rc*", "v1.2", false),
            ("release", "Release", false),
            ("nginx:1.*", "nginx:1.27", true),
            ("*a*b", "xaxaxb", true),
            ("**a*/b", "a/a/xa/b", true),
        ] {
            check(Wildcards::NAMES, pattern, text, expected);
        }
    }

    #[test]
    fn stars_of_claims_stop_at_colons_too() {
        for (pattern, text, expected) in [
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/a:b:ref:refs/heads/main", false),
            ("repo:acme/**", "repo:acme/a:b:ref", true),
            ("https://x/?a=*", "https://x/?a=1", true),
            ("https://x/?a=*", "https://x/ya=1", false),
        ] {
            check(Wildcards::CLAIMS, pattern, text, expected);
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_their_product_with_the_text() {
        check(Wildcards::NAMES, &"*a".repeat(100), &"a".repeat(99), false);
        check(Wildcards::CLAIMS, &"**a".repeat(50), &format!("{}b", "a".repeat(5000)), false);
    }
}
