//! Splitting the text after a keyword: flags, words, key-value pairs and JSON arrays.

/// The blanks that separate a keyword from its arguments and the words of FROM and EXPOSE.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Cuts `text` at the first run of blanks; the second part is trimmed.
pub(crate) fn cut_keyword(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.find(is_blank) {
        Some(end) => (&text[..end], text[end..].trim()),
        None => (text, ""),
    }
}

/// Takes the leading `--flag` words off; quotes and backslashes in them are resolved.
///
/// A lone `--` ends the flags and is dropped.
pub(crate) fn split_flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, length) = take_flag_word(rest);
        rest = &rest[length..];
        if word == "--" {
            break;
        }
        flags.push(word);
        rest = rest.trim_start();
    }
    (flags, rest.trim())
}

/// One flag word and the number of bytes it occupies.
fn take_flag_word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (word, at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (_, '\\') => word.extend(chars.next().map(|(_, escaped)| escaped)),
            (_, c) => word.push(c),
        }
    }
    (word, text.len())
}

/// Splits at white space outside quotes; quotes and escapes stay in the words.
pub(crate) fn split_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut in_word = false;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                    in_word = false;
                }
                continue;
            }
            None if c == escape => {
                in_word = true;
                // An escape at the very end escapes nothing and is dropped.
                if let Some(escaped) = chars.next() {
                    word.push(c);
                    word.push(escaped);
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // Nothing can be escaped between single quotes.
            Some('"') if c == escape => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            None | Some(_) => {}
        }
        in_word = true;
        word.push(c);
    }
    if in_word {
        words.push(word);
    }
    words
}

/// Splits at blanks and knows no quotes (FROM, EXPOSE).
pub(crate) fn split_blanks(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// How an argument that may be a JSON array was written.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum JsonForm {
    /// It is no JSON array: take it as plain text.
    Text,
    /// A JSON array of strings.
    Strings(Vec<String>),
    /// A JSON array that holds something else, which is an error.
    NotStrings,
}

/// Decides between exec form and shell form.
pub(crate) fn json_form(text: &str) -> JsonForm {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return JsonForm::Text;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return JsonForm::Text;
    };
    let mut strings = Vec::with_capacity(values.len());
    for value in values {
        let serde_json::Value::String(string) = value else {
            return JsonForm::NotStrings;
        };
        strings.push(string);
    }
    JsonForm::Strings(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        split_words(text, '\\')
    }

    /// BuildKit ParseWords.
    #[test]
    fn words_keep_quotes_and_escapes() {
        assert_eq!(words("foo"), ["foo"]);
        assert_eq!(words("foo bar"), ["foo", "bar"]);
        assert_eq!(words("foo\\ bar"), ["foo\\ bar"]);
        assert_eq!(words("foo=bar"), ["foo=bar"]);
        assert_eq!(words("foo bar 'abc xyz'"), ["foo", "bar", "'abc xyz'"]);
        assert_eq!(words("foo bar \"abc xyz\""), ["foo", "bar", "\"abc xyz\""]);
        assert_eq!(words("àöû"), ["àöû"]);
        assert_eq!(words("föo bàr \"âbc xÿz\""), ["föo", "bàr", "\"âbc xÿz\""]);
        assert_eq!(words("a \"\" b"), ["a", "\"\"", "b"]);
        assert_eq!(words("a\\"), ["a"]);
        assert_eq!(words("'a\\' b"), ["'a\\'", "b"]);
        assert_eq!(words("\"a\\\" b\" c"), ["\"a\\\" b\"", "c"]);
    }

    #[test]
    fn backtick_escapes_when_it_is_the_escape_token() {
        assert_eq!(split_words("foo` bar \\ x", '`'), ["foo` bar", "\\", "x"]);
    }

    /// BuildKit BuilderFlags.
    #[test]
    fn flags_end_at_the_first_other_word() {
        let split = |text| {
            let (flags, rest) = split_flags(text);
            (flags.join("|"), rest.to_owned())
        };
        assert_eq!(split("--a=b --c d --e"), ("--a=b|--c".into(), "d --e".into()));
        assert_eq!(split("-- --x y"), (String::new(), "--x y".into()));
        assert_eq!(split("--a='b c' d"), ("--a=b c".into(), "d".into()));
        assert_eq!(split("--a=\"b\\\"c\" d"), ("--a=b\"c".into(), "d".into()));
        assert_eq!(split("--a\\ b c"), ("--a b".into(), "c".into()));
        assert_eq!(split("-a b"), (String::new(), "-a b".into()));
        assert_eq!(split("--only"), ("--only".into(), String::new()));
    }

    /// BuildKit JSONArraysOfStrings.
    #[test]
    fn only_valid_json_arrays_are_exec_forms() {
        let strings =
            |list: &[&str]| JsonForm::Strings(list.iter().map(|&text| text.to_owned()).collect());
        for (text, expected) in [
            ("[]", strings(&[])),
            ("[\"\"]", strings(&[""])),
            ("[\"a\"]", strings(&["a"])),
            ("[\"a\",\"b\"]", strings(&["a", "b"])),
            ("[ \"a\", \"b\" ]", strings(&["a", "b"])),
            ("\t[\"a\"] ", strings(&["a"])),
            ("[\"abc 123\", \"♥\", \"☃\", \"\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u0000\"]", {
                strings(&["abc 123", "♥", "☃", "\" \\ / \u{8} \u{c} \n \r \t \0"])
            }),
        ] {
            assert_eq!(json_form(text), expected, "{text}");
        }
    }

    /// BuildKit JSONArraysOfStrings.
    #[test]
    fn broken_json_is_shell_text_and_mixed_arrays_are_errors() {
        for text in
            ["[\"a\",42,\"b\"]", "[\"a\",123.456,\"b\"]", "[{}]", "[true]", "[null]", "[[]]"]
        {
            assert_eq!(json_form(text), JsonForm::NotStrings, "{text}");
        }
        for text in ["['a']", "[\"a\",]", "[\"a\"", "[\"a\"] x", "[", "a", "[\"\\w\"]", "{}", ""] {
            assert_eq!(json_form(text), JsonForm::Text, "{text}");
        }
    }
}
