//! Recognising `<<NAME` words.

use crate::expand::{Escapes, Expander, NoVariables, Quotes, Unset};
use crate::instruction::{Heredoc, HeredocExpansion, HeredocIndent};

/// The heredoc a word announces, with an empty body; `None` when the word is something else.
///
/// The form is: digits, `<<`, an optional `-`, blanks, and a delimiter without `<`.
pub(crate) fn announced(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (indent, delimiter) = match rest.strip_prefix('-') {
        Some(delimiter) => (HeredocIndent::StripTabs, delimiter.trim_start()),
        None => (HeredocIndent::Keep, rest.trim_start()),
    };
    if delimiter.is_empty() || delimiter.contains('<') {
        return None;
    }
    let plain = Expander { unset: Unset::Keep, ..Expander::new('\\') };
    let raw = Expander { quotes: Quotes::Keep, ..plain };
    let plain = plain.expand(delimiter, &NoVariables).ok()?;
    let raw = raw.expand(delimiter, &NoVariables).ok()?;
    let [name] = plain.words.as_slice() else { return None };
    // A difference means that some part of the delimiter was quoted.
    let expansion = if raw.words.first() == Some(name) {
        HeredocExpansion::Expand
    } else {
        HeredocExpansion::Literal
    };
    Some(Heredoc {
        name: name.clone(),
        body: String::new(),
        descriptor: number.parse().unwrap_or(0),
        expansion,
        indent,
    })
}

/// The heredocs a line announces, in order.
pub(crate) fn announced_in_line(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let words =
        Expander { escape: '\\', quotes: Quotes::Keep, escapes: Escapes::Keep, unset: Unset::Keep };
    match words.expand(line, &NoVariables) {
        Ok(expansion) => {
            // Between `$((` and `))` the shell shifts bits.
            let mut arithmetic = 0_usize;
            let announced = expansion.words.iter().filter_map(|word| {
                let inside = 0 < arithmetic;
                arithmetic += word.matches("$((").count();
                arithmetic = arithmetic.saturating_sub(word.matches("))").count());
                if inside { None } else { announced(word) }
            });
            announced.collect()
        }
        // Quotes that do not close are the shell's business, not ours.
        Err(_) => Vec::new(),
    }
}

/// Puts heredoc words together that blanks cut apart: `<< EOF` and `<<"a b"`.
pub(crate) fn joined_words(words: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::with_capacity(words.len());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let begins = word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("<<");
        if !begins || announced(&word).is_some() {
            joined.push(word);
            continue;
        }
        let rest: Vec<String> = words.clone().collect();
        let whole = (1..=rest.len())
            .map(|count| (count, format!("{word} {}", rest[..count].join(" "))))
            .find(|(_, whole)| announced(whole).is_some());
        match whole {
            Some((count, whole)) => {
                joined.push(whole);
                words.by_ref().take(count).for_each(drop);
            }
            None => joined.push(word),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(line: &str) -> Vec<(String, u32, bool, bool)> {
        announced_in_line(line)
            .into_iter()
            .map(|doc| {
                let expand = doc.expansion == HeredocExpansion::Expand;
                (doc.name, doc.descriptor, expand, doc.indent == HeredocIndent::StripTabs)
            })
            .collect()
    }

    fn doc(name: &str, descriptor: u32) -> (String, u32, bool, bool) {
        (name.to_owned(), descriptor, true, false)
    }

    /// BuildKit ParseHeredocHelpers, HeredocsFromLine.
    #[test]
    fn delimiters_quotes_tabs_and_descriptors_are_read() {
        assert_eq!(brief("RUN <<EOF"), [doc("EOF", 0)]);
        assert_eq!(brief("RUN <<-EOF"), [("EOF".into(), 0, true, true)]);
        for quoted in ["<<'EOF'", "<<\"EOF\"", "<<'E'OF", "<<'E'O\\F"] {
            assert_eq!(brief(quoted), [("EOF".into(), 0, false, false)], "{quoted}");
        }
        assert_eq!(brief("<<-'EOF'"), [("EOF".into(), 0, false, true)]);
        assert_eq!(brief("RUN 3<<IN1 4<<IN2 cat"), [doc("IN1", 3), doc("IN2", 4)]);
        assert_eq!(brief("RUN <<FOO <<BAR"), [doc("FOO", 0), doc("BAR", 0)]);
        assert_eq!(brief("RUN <<$EOF"), [doc("$EOF", 0)]);
        assert_eq!(brief("RUN <<eo\\'f"), [doc("eo'f", 0)], "an escape is no quote");
        assert_eq!(brief("RUN <<  EOF  > foo"), [doc("EOF", 0)]);
        assert_eq!(brief("RUN << -EOF"), [doc("-EOF", 0)]);
        assert_eq!(brief("RUN <<- EOF"), [("EOF".into(), 0, true, true)]);
        assert_eq!(brief("COPY <<\"a b\" /x"), [("a b".into(), 0, false, false)]);
    }

    #[test]
    fn words_that_blanks_cut_apart_are_joined() {
        for (line, expected) in [
            ("<< EOF", &["<< EOF"][..]),
            ("a <<- EOF b", &["a", "<<- EOF", "b"]),
            ("<<\"a b\" c", &["<<\"a b\"", "c"]),
            ("<<A <<B", &["<<A", "<<B"]),
            ("<<", &["<<"]),
            ("<<< x", &["<<<", "x"]),
        ] {
            let words = line.split(' ').map(str::to_owned).collect();
            assert_eq!(joined_words(words), expected, "{line}");
        }
    }

    /// BuildKit ParseHeredocHelpers, HeredocsFromLine.
    #[test]
    fn other_uses_of_angle_brackets_are_no_heredocs() {
        for line in [
            "RUN <<",
            "RUN <<<EOF",
            "RUN echo \"<<EOF\"",
            "RUN '<<EOF'",
            "RUN cat <EOF",
            "RUN a<<EOF",
            "RUN <<-",
            "RUN echo $((1<<2))",
            "RUN echo $((1 << 4))",
            "RUN echo $(( (1 + 1) << 4 )) x",
            "RUN echo it's <<EOF",
        ] {
            assert_eq!(brief(line), [], "{line}");
        }
    }
}
