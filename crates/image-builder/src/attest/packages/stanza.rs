//! Fields in paragraphs: `Key: value` with continuation lines (RFC 822, deb822(5)).

/// One paragraph: fields in order, keys as written.
pub(super) type Stanza<'a> = Vec<(&'a str, &'a str)>;

/// The paragraphs of a text. Continuation lines are left out: nobody here needs them.
pub(super) fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut fields = Vec::new();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                return Some(fields);
            }
            if line.starts_with([' ', '\t']) {
                continue;
            }
            if let Some((key, value)) = line.split_once(':') {
                fields.push((key, value.trim()));
            }
        }
        (!fields.is_empty()).then_some(fields)
    })
}

/// The first field of a name, whatever its case.
pub(super) fn field<'a>(stanza: &Stanza<'a>, name: &str) -> Option<&'a str> {
    stanza.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}
