//! The two range syntaxes of the API. No I/O.

/// Parts of a blob in one answer; clients that fetch single files out of layers ask for many.
const PARTS_MAX: usize = 1024;

/// What a `Range` header means for a blob (RFC 9110, section 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No range, one of a kind that may be ignored, or too many: the whole blob.
    Whole,
    /// The bytes `first..=last`.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Several parts, first and last byte of each, in the order of the request.
    Parts(Vec<(u64, u64)>),
    /// Nothing that the blob has.
    Unsatisfiable,
}

/// Reads a `Range` header for a blob of `size` bytes.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(header) = header else { return Wanted::Whole };
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let mut parts = Vec::new();
    for range in spec.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        match one(range, size) {
            Wanted::Part { first, last } if parts.len() < PARTS_MAX => parts.push((first, last)),
            Wanted::Unsatisfiable => {}
            _ => return Wanted::Whole,
        }
    }
    // Overlapping parts must not make an answer larger than the blob.
    let total =
        parts.iter().fold(0_u64, |total, (first, last)| total.saturating_add(last - first + 1));
    match parts[..] {
        [] => Wanted::Unsatisfiable,
        [(first, last)] => Wanted::Part { first, last },
        _ if total > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// Reads one range of a `Range` header.
fn one(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.split_once('-') else { return Wanted::Whole };
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
    use proptest::prelude::*;

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
            ("bytes=0-1,5-6", Wanted::Parts(vec![(0, 1), (5, 6)])),
            ("bytes=5-6 , 0-1,,-1", Wanted::Parts(vec![(5, 6), (0, 1), (2999, 2999)])),
            ("bytes=0-1,9000-", part(0, 1)),
            ("bytes=8000-,9000-", Wanted::Unsatisfiable),
            ("bytes=0-2999,0-2999", Wanted::Whole),
            ("bytes=0-1,x", Wanted::Whole),
            ("bytes=,", Wanted::Unsatisfiable),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=1-99999999999999999999", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 3000), expected, "{header}");
        }
        let many = format!("bytes={}", vec!["0-0"; 1025].join(","));
        assert_eq!(wanted(Some(&many), 3000), Wanted::Whole);
        assert_eq!(wanted(None, 3000), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_blob(header in "bytes=[0-9,\\- ]{0,40}", size in 0_u64..5000) {
            match wanted(Some(&header), size) {
                Wanted::Part { first, last } => prop_assert!(first <= last && last < size),
                Wanted::Parts(parts) => {
                    prop_assert!(parts.iter().all(|(first, last)| first <= last && *last < size));
                    prop_assert!(parts.iter().map(|(first, last)| last - first + 1).sum::<u64>() <= size);
                }
                Wanted::Whole | Wanted::Unsatisfiable => {}
            }
        }

        #[test]
        fn arbitrary_headers_never_panic(header in "\\PC{0,60}", size: u64) {
            let _ = wanted(Some(&header), size);
            let _ = wanted(Some(&format!("bytes={header}")), size);
            if let Some((first, last)) = chunk(&header) {
                prop_assert!(first <= last);
            }
        }
    }

    #[test]
    fn chunks_have_no_unit_and_no_total() {
        assert_eq!(chunk("0-1023"), Some((0, 1023)));
        for bad in ["bytes 0-1023", "0-1023/2048", "-5", "5-", "9-3", "a-b", "+1-2", ""] {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }
}
