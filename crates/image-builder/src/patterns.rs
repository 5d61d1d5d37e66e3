//! Wildcards of COPY sources: Go's `filepath.Match` on one path segment, and `**`.

/// Whether a source is a wildcard rather than a path.
pub(crate) fn is_wildcard(pattern: &str) -> bool {
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether one segment of a pattern matches one name.
///
/// Works on bytes where the pattern is ASCII and on characters otherwise, so that `?` is one
/// character of a UTF-8 name. Linear in pattern times name.
pub(crate) fn segment_matches(pattern: &str, name: &str) -> bool {
    let Some(tokens) = tokens(pattern) else { return false };
    let name: Vec<char> = name.chars().collect();
    // reachable[i]: the tokens so far match the first i characters.
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for token in tokens {
        let mut next = vec![false; name.len() + 1];
        match token {
            Token::Any => {
                let mut seen = false;
                for (slot, reached) in next.iter_mut().zip(&reachable) {
                    seen |= reached;
                    *slot = seen;
                }
            }
            Token::One(ref class) => {
                for (i, c) in name.iter().enumerate() {
                    next[i + 1] = reachable[i] && class.contains(*c);
                }
            }
        }
        reachable = next;
    }
    reachable.last().copied().unwrap_or(false)
}

enum Token {
    Any,
    One(Class),
}

enum Class {
    Every,
    Exactly(char),
    Ranges { ranges: Vec<(char, char)>, negated: bool },
}

impl Class {
    fn contains(&self, c: char) -> bool {
        match self {
            Self::Every => true,
            Self::Exactly(wanted) => c == *wanted,
            Self::Ranges { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// `None` for a malformed pattern, which matches nothing.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One(Class::Every),
            '\\' => Token::One(Class::Exactly(chars.next()?)),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut bound = || match chars.next()? {
                        '\\' => chars.next(),
                        c => Some(c),
                    };
                    let low = bound()?;
                    if low == ']' && !ranges.is_empty() {
                        break;
                    }
                    let high = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '\\' => chars.next()?,
                            c => c,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                    if chars.next_if_eq(&']').is_some() {
                        break;
                    }
                }
                Token::One(Class::Ranges { ranges, negated })
            }
            literal => Token::One(Class::Exactly(literal)),
        });
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_as_in_go() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", true),
            ("*", ".hidden", true),
            ("a?c", "abc", true),
            ("a?c", "a\u{e9}c", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[", "[", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
        ] {
            assert_eq!(segment_matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_escaped_star_is_no_wildcard() {
        assert!(is_wildcard("a*"));
        assert!(is_wildcard("[ab]"));
        assert!(!is_wildcard("a\\*"));
        assert!(!is_wildcard("plain/path"));
    }
}
