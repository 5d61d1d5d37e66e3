//! The two range syntaxes of the API. No I/O.

/// What a `Range` header means for a blob (RFC 9110, section 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No range, one of a kind that may be ignored, or several: the whole blob.
    Whole,
    /// The bytes `first..=last`.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Nothing that the blob has.
    Unsatisfiable,
}

/// Reads a `Range` header for a blob of `size` bytes.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(header) = header else { return Wanted::Whole };
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    if spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (None, Some(0), true, false) => Wanted::Unsatisfiable,
        (None, Some(count), true, false) if size > 0 => {
            Wanted::Part { first: size.saturating_sub(count), last: size - 1 }
        }
        (None, Some(_), true, false) => Wanted::Unsatisfiable,
        (Some(first), None, false, true) if first < size => Wanted::Part { first, last: size - 1 },
        (Some(first), Some(last), false, false) if first <= last && first < size => {
            Wanted::Part { first, last: last.min(size - 1) }
        }
        (Some(_), None, false, true) | (Some(_), Some(_), false, false) => Wanted::Unsatisfiable,
        _ => Wanted::Whole,
    }
}

/// Reads the `Content-Range` of a chunk: `<first>-<last>`, both inclusive, without unit
/// (distribution-spec, "Pushing a blob in chunks"). `None` if it is malformed.
pub(crate) fn chunk(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_or_refused() {
        let part = |first, last| Wanted::Part { first, last };
        for (header, expected) in [
            ("bytes=500-1499", part(500, 1499)),
            ("bytes=500-", part(500, 2999)),
            ("bytes=-500", part(2500, 2999)),
            ("bytes=-5000", part(0, 2999)),
            ("bytes=2000-5000", part(2000, 2999)),
            ("bytes=0-0", part(0, 0)),
            ("bytes=500-0", Wanted::Unsatisfiable),
            ("bytes=3000-", Wanted::Unsatisfiable),
            ("bytes=5000-10000", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=1-99999999999999999999", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 3000), expected, "{header}");
        }
        assert_eq!(wanted(None, 3000), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn chunks_have_no_unit_and_no_total() {
        assert_eq!(chunk("0-1023"), Some((0, 1023)));
        for bad in ["bytes 0-1023", "0-1023/2048", "-5", "5-", "9-3", "a-b", "+1-2", ""] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }
}
