//! Shell patterns of `${name#…}`, `${name%…}` and `${name/…/…}`: `*`, `?` and backslash escapes.
//!
//! Matching keeps a set of pattern positions, so its cost is pattern times value whatever the
//! pattern is; a product beyond [`PATTERN_WORK_MAX`] is refused.

use crate::error::{DockerfileError, ErrorKind};
use crate::limits::PATTERN_WORK_MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Any,
    One,
    Literal(char),
}

/// Whether the shortest or the longest match is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Shortest,
    Longest,
}

fn parse(pattern: &str) -> Result<Vec<Token>, DockerfileError> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                Some(other) => {
                    return Err(DockerfileError::plan(format!("invalid escape '\\{other}'")));
                }
                None => return Err(DockerfileError::plan("incomplete escape")),
            },
            literal => Token::Literal(literal),
        });
    }
    Ok(tokens)
}

fn check_work(tokens: &[Token], value: &[char]) -> Result<(), DockerfileError> {
    if tokens.len().saturating_add(1).saturating_mul(value.len()) > PATTERN_WORK_MAX {
        return Err(too_much_work());
    }
    Ok(())
}

fn too_much_work() -> DockerfileError {
    DockerfileError::new(ErrorKind::Limit, "pattern and value of a substitution are too long")
}

/// Removes the prefix of `value` that `pattern` matches.
pub(crate) fn trim_prefix(
    value: &str,
    pattern: &str,
    extent: Extent,
) -> Result<String, DockerfileError> {
    let tokens = parse(pattern)?;
    let value: Vec<char> = value.chars().collect();
    check_work(&tokens, &value)?;
    let end = match_at_start(&tokens, &value, extent).unwrap_or(0);
    Ok(value[end..].iter().collect())
}

/// Removes the suffix of `value` that `pattern` matches.
pub(crate) fn trim_suffix(
    value: &str,
    pattern: &str,
    extent: Extent,
) -> Result<String, DockerfileError> {
    let mut tokens = parse(pattern)?;
    tokens.reverse();
    let reversed: Vec<char> = value.chars().rev().collect();
    check_work(&tokens, &reversed)?;
    let end = match_at_start(&tokens, &reversed, extent).unwrap_or(0);
    Ok(reversed[end..].iter().rev().collect())
}

/// How many matches are replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Replace {
    First,
    All,
}

/// Replaces what `pattern` matches, longest match first.
pub(crate) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    how: Replace,
) -> Result<String, DockerfileError> {
    let tokens = parse(pattern)?;
    let value: Vec<char> = value.chars().collect();
    let mut result = String::new();
    let mut work = 0_usize;
    let mut at = 0;
    let mut done = false;
    loop {
        let rest = &value[at..];
        let matched = if done {
            None
        } else {
            work = work.saturating_add(tokens.len().saturating_add(1).saturating_mul(rest.len()));
            if work > PATTERN_WORK_MAX {
                return Err(too_much_work());
            }
            match_at_start(&tokens, rest, Extent::Longest)
        };
        if let Some(length) = matched {
            result.push_str(replacement);
            done = how == Replace::First || length == 0;
            at += length;
            if length > 0 {
                continue;
            }
        }
        let Some(next) = value.get(at) else { return Ok(result) };
        result.push(*next);
        at += 1;
    }
}

/// Length of the match that begins at the start of `value`.
fn match_at_start(tokens: &[Token], value: &[char], extent: Extent) -> Option<usize> {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    skip_any(tokens, &mut states);
    let mut found = None;
    for (position, c) in value.iter().enumerate() {
        if states[tokens.len()] {
            found = Some(position);
            if extent == Extent::Shortest {
                return found;
            }
        }
        let mut next = vec![false; tokens.len() + 1];
        let mut alive = false;
        for (index, token) in tokens.iter().enumerate() {
            if !states[index] {
                continue;
            }
            match token {
                Token::Any => next[index] = true,
                Token::One => next[index + 1] = true,
                Token::Literal(literal) if literal == c => next[index + 1] = true,
                Token::Literal(_) => continue,
            }
            alive = true;
        }
        if !alive {
            return found;
        }
        skip_any(tokens, &mut next);
        states = next;
    }
    if states[tokens.len()] {
        found = Some(value.len());
    }
    found
}

/// A `*` may match nothing.
fn skip_any(tokens: &[Token], states: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        if states[index] && *token == Token::Any {
            states[index + 1] = true;
        }
    }
}
