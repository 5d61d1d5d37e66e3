//! Shell globs on one host label, as Go's `filepath.Match` reads them.

/// Whether `name` matches `pattern`; `None` if the pattern is malformed.
///
/// `*` is any run without `/`, `?` one character, `[a-z]` and `[^a-z]` classes, `\` escapes.
pub(crate) fn matches(pattern: &str, name: &str) -> Option<bool> {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if p == pattern.len() && n == name.len() {
            return Some(true);
        }
        let step = if p < pattern.len() { one(&pattern[p..], name.get(n).copied())? } else { None };
        if let Some(width) = step {
            p += width;
            n += 1;
            continue;
        }
        match star {
            // Let the last star take one more character and try again from there.
            Some((after, taken)) if taken < name.len() && name[taken] != '/' => {
                star = Some((after, taken + 1));
                p = after;
                n = taken + 1;
            }
            _ => return validate(&pattern[p..]).then_some(false),
        }
    }
}

/// Matches one pattern item against one character: `Some(Some(width))` if it matches.
fn one(pattern: &[char], character: Option<char>) -> Option<Option<usize>> {
    let (matched, width) = match pattern[0] {
        '?' => (character.is_some_and(|c| c != '/'), 1),
        '[' => class(pattern, character)?,
        '\\' => (character.is_some() && character == Some(*pattern.get(1)?), 2),
        literal => (character == Some(literal), 1),
    };
    Some(matched.then_some(width))
}

/// Matches a `[…]` class; `None` if it is malformed.
fn class(pattern: &[char], character: Option<char>) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    if negated {
        at += 1;
    }
    let mut matched = false;
    let mut ranges = 0;
    loop {
        if pattern.get(at) == Some(&']') && 0 < ranges {
            return Some((character.is_some_and(|c| c != '/') && matched != negated, at + 1));
        }
        let low = class_character(pattern, &mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&'-') {
            at += 1;
            high = class_character(pattern, &mut at)?;
        }
        matched |= character.is_some_and(|c| low <= c && c <= high);
        ranges += 1;
    }
}

fn class_character(pattern: &[char], at: &mut usize) -> Option<char> {
    if matches!(pattern.get(*at), None | Some('-' | ']')) {
        return None;
    }
    if pattern[*at] == '\\' {
        *at += 1;
    }
    let character = *pattern.get(*at)?;
    *at += 1;
    Some(character)
}

/// Whether the rest of a pattern that did not match is at least well-formed.
fn validate(mut pattern: &[char]) -> bool {
    while let Some(first) = pattern.first() {
        let width = match first {
            '[' => match class(pattern, None) {
                Some((_, width)) => width,
                None => return false,
            },
            '\\' if pattern.len() < 2 => return false,
            '\\' => 2,
            _ => 1,
        };
        pattern = &pattern[width..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_go() {
        for (pattern, name, expected) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*b*c*", "axbxcx", Some(true)),
            ("a*b", "axc", Some(false)),
            ("a?c", "abc", Some(true)),
            ("[a-c]x", "bx", Some(true)),
            ("[^a-c]x", "bx", Some(false)),
            ("reg*", "registry", Some(true)),
            ("*", "a/b", Some(false)),
            ("a\\*b", "a*b", Some(true)),
            ("", "", Some(true)),
            ("[", "a", None),
            ("[]a]", "a", None),
            ("[a", "a", None),
            ("\\", "a", None),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
