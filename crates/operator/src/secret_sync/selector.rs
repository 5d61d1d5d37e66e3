//! Label selectors as kubectl's `-l` takes them.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// The text is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no label selector: want key=value, key!=value, key in (a,b), key or !key")]
pub struct BadSelector {
    /// The requirement that was not understood.
    pub text: String,
}

/// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
///
/// # Errors
/// [`BadSelector`] with the requirement that is wrong.
pub fn parse_selector(text: &str) -> Result<Selector, BadSelector> {
    requirements(text).into_iter().map(requirement).collect()
}

/// Splits at the commas outside of parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Result<Expression, BadSelector> {
    let bad = || BadSelector { text: text.to_owned() };
    let key = |text: &str| {
        let key = text.trim();
        let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(good) { Err(bad()) } else { Ok(key.to_owned()) }
    };
    let value = |text: &str| {
        let value = text.trim();
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if value.chars().all(good) { Ok(value.to_owned()) } else { Err(bad()) }
    };
    let values = |text: &str| -> Result<BTreeSet<String>, BadSelector> {
        let inside = text.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        inside.ok_or_else(bad)?.split(',').map(value).collect()
    };
    if let Some((left, right)) = text.split_once(" notin ") {
        return Ok(Expression::NotIn(key(left)?, values(right)?));
    }
    if let Some((left, right)) = text.split_once(" in ") {
        return Ok(Expression::In(key(left)?, values(right)?));
    }
    if let Some((left, right)) = text.split_once("!=") {
        return Ok(Expression::NotEqual(key(left)?, value(right)?));
    }
    if let Some((left, right)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Expression::Equal(key(left)?, value(right)?));
    }
    match text.trim().strip_prefix('!') {
        Some(absent) => Ok(Expression::DoesNotExist(key(absent)?)),
        None => Ok(Expression::Exists(key(text)?)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    #[test]
    fn every_form_of_requirement_is_understood() {
        let labels: BTreeMap<String, String> =
            [("team", "red"), ("stage", "test")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expected) in [
            ("team=red", true),
            ("team==red", true),
            ("team=blue", false),
            ("team!=blue", true),
            ("other!=x", true),
            ("team in (red, blue)", true),
            ("team in (blue)", false),
            ("stage notin (live,canary)", true),
            ("team", true),
            ("!team", false),
            ("!other", true),
            ("team=red,stage in (test,live)", true),
            ("team=red,stage=live", false),
        ] {
            let selector = parse_selector(text).expect(text);
            assert_eq!(selector.matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_requirement_is_quoted() {
        for text in ["", "a=b,", "a b=c", "a in b", "a=(x)", "!", "=b", "ä=b"] {
            assert!(parse_selector(text).is_err(), "{text:?}");
        }
        assert_eq!(
            parse_selector("a=b,c d").expect_err("two words").to_string(),
            "\"c d\" is no label selector: want key=value, key!=value, key in (a,b), key or !key"
        );
    }
}
