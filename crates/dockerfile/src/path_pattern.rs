//! Patterns over slash paths: Go's `filepath.Match`, and the same with `**`.

use crate::error::DockerfileError;

/// One element of a compiled pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// `*`: any run of characters without `/`.
    Star,
    /// `?`: one character that is not `/`.
    One,
    /// `[a-z]` or `[^a-z]`: one character that is not `/`.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// One given character.
    Literal(char),
    /// `**/` or `**` before something: any number of whole directories, or none.
    Directories,
    /// `**` at the end: the rest, whatever it is.
    Rest,
}

/// Whether `**` means "any number of directories".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DoubleStar {
    /// It is two stars, which is one star (Go's `filepath.Match`).
    Plain,
    /// It spans directories (ignore files, `--exclude`, `--parents`).
    Directories,
}

/// A compiled path pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern {
    shape: Shape,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Shape {
    /// No wildcard: equality.
    Exact(String),
    /// `**` and then literal text: any path that ends so (`/x` also matches `x` alone).
    Suffix(String),
    /// Literal text and then `**`.
    Prefix(String),
    Tokens(Vec<Token>),
}

impl PathPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// `syntax error in pattern`: an unclosed or empty class, or a backslash at the end.
    pub fn parse(pattern: &str, double_star: DoubleStar) -> Result<Self, DockerfileError> {
        let tokens = tokens(pattern, double_star).ok_or_else(|| {
            DockerfileError::syntax(format!("syntax error in pattern {pattern:?}"))
        })?;
        Ok(Self { shape: shape(pattern, tokens, double_star) })
    }

    /// Whether the whole of `path` matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Exact(text) => path == text,
            Shape::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Shape::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Shape::Tokens(tokens) => matches(tokens, path),
        }
    }
}

fn literal(tokens: &[Token]) -> Option<String> {
    tokens.iter().map(|token| if let Token::Literal(c) = token { Some(*c) } else { None }).collect()
}

fn shape(pattern: &str, tokens: Vec<Token>, double_star: DoubleStar) -> Shape {
    if let Some(text) = literal(&tokens) {
        return Shape::Exact(text);
    }
    if double_star == DoubleStar::Directories {
        if let Some((Token::Rest, before)) = tokens.split_last()
            && let Some(prefix) = literal(before)
        {
            return Shape::Prefix(prefix);
        }
        if let [Token::Directories, after @ ..] = tokens.as_slice()
            && literal(after).is_some()
            && let Some(suffix) = pattern.strip_prefix("**")
            && !suffix.contains('\\')
        {
            return Shape::Suffix(suffix.to_owned());
        }
    }
    Shape::Tokens(tokens)
}

fn tokens(pattern: &str, double_star: DoubleStar) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '*' if chars.peek() == Some(&'*') && double_star == DoubleStar::Directories => {
                chars.next();
                chars.next_if_eq(&'/');
                if chars.peek().is_none() { Token::Rest } else { Token::Directories }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next()?),
            '[' => class(&mut chars)?,
            c => Token::Literal(c),
        };
        // A run of stars is one star.
        if token != Token::Star || tokens.last() != Some(&Token::Star) {
            tokens.push(token);
        }
    }
    Some(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

/// Fills the table of "the rest of the pattern matches the rest of the path" from the end, one
/// row per token: the cost is pattern times path, whatever the pattern is.
fn matches(tokens: &[Token], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let length = path.len();
    // row[n]: the tokens after the current one match path[n..].
    let mut row = vec![false; length + 1];
    row[length] = true;
    for token in tokens.iter().rev() {
        let mut next = vec![false; length + 1];
        match token {
            Token::Rest => next.fill(true),
            Token::Star => {
                next[length] = row[length];
                for n in (0..length).rev() {
                    next[n] = row[n] || (path[n] != '/' && next[n + 1]);
                }
            }
            Token::Directories => {
                let mut after_slash = false;
                next[length] = row[length];
                for n in (0..length).rev() {
                    after_slash |= path[n] == '/' && row[n + 1];
                    next[n] = row[n] || after_slash;
                }
            }
            Token::One | Token::Class { .. } | Token::Literal(_) => {
                for n in 0..length {
                    next[n] = row[n + 1] && takes(token, path[n]);
                }
            }
        }
        row = next;
    }
    row[0]
}

fn takes(token: &Token, c: char) -> bool {
    match token {
        Token::Literal(literal) => *literal == c,
        Token::One => c != '/',
        Token::Class { negated, ranges } => {
            let inside = ranges.iter().any(|&(low, high)| low <= c && c <= high);
            c != '/' && inside != *negated
        }
        Token::Star | Token::Directories | Token::Rest => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_as_go_matches_them() {
        // (pattern, path, match); `None` is a bad pattern.
        let rows: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^b-d]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("a[^a][^a][^a]b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("**", "a/b", Some(false)),
        ];
        for (pattern, path, expected) in rows {
            let compiled = PathPattern::parse(pattern, DoubleStar::Plain);
            let found = compiled.ok().map(|compiled| compiled.matches(path));
            assert_eq!(found, *expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn hostile_patterns_cost_pattern_times_path() {
        let pattern = PathPattern::parse(&"*a".repeat(500), DoubleStar::Plain).expect("a pattern");
        assert!(!pattern.matches(&"a".repeat(499)));
        let pattern = PathPattern::parse(&"**/a".repeat(200), DoubleStar::Directories).expect("p");
        assert!(!pattern.matches(&"a/".repeat(1000)));
    }
}
