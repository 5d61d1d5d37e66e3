//! `$(VAR)` references in commands, arguments and environment values (mini-kubernetes.md 8.4).

/// Replaces `$(NAME)` by what `lookup` knows; unknown references stay as they are and `$$` is one
/// dollar sign that begins no reference.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        output.push_str(&rest[..position]);
        let after = &rest[position + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            output.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('(') {
            if let Some(end) = tail.find(')') {
                let name = &tail[..end];
                match lookup(name) {
                    Some(value) => output.push_str(&value),
                    None => {
                        output.push_str("$(");
                        output.push_str(name);
                        output.push(')');
                    }
                }
                rest = &tail[end + 1..];
            } else {
                output.push_str("$(");
                rest = tail;
            }
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mini-kubernetes.md 14, row 70.
    #[test]
    fn row_70_references_expand_escape_and_stay_when_unknown() {
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)z", "x1y2z"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("a$", "a$"),
            ("$()", "$()"),
            ("é$(A)é", "é1é"),
            ("$(EMPTY)", ""),
        ] {
            let lookup = |name: &str| match name {
                "A" => Some("1".to_owned()),
                "B" => Some("2".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            };
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
