//! W3C Trace Context, version 00: which trace a request belongs to. No I/O.

use http::HeaderMap;

/// Where a request stands in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// 32 lower-case hex digits.
    pub(crate) trace: String,
    /// The span of whoever asked us, 16 digits; none if the trace begins here.
    pub(crate) parent: Option<String>,
    /// Our own span, 16 digits.
    pub(crate) span: String,
    /// Whether whoever asked records the trace.
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// Goes on with the trace in `traceparent`, or begins one; a header that is not as the
    /// recommendation says counts as none.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let span = random[16..].to_owned();
        let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
        match header.and_then(parse) {
            Some((trace, parent, sampled)) => {
                Self { trace: trace.to_owned(), parent: Some(parent.to_owned()), span, sampled }
            }
            None => {
                let trace = uuid::Uuid::new_v4().simple().to_string();
                Self { trace, parent: None, span, sampled: false }
            }
        }
    }

    /// The header for those whom we ask, and for the answer.
    pub(crate) fn header(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

fn parse(header: &str) -> Option<(&str, &str, bool)> {
    let mut fields = header.split('-');
    let (version, trace) = (fields.next()?, fields.next()?);
    let (parent, flags) = (fields.next()?, fields.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && !is_zero(trace)
        && is_hex(parent, 16)
        && !is_zero(parent)
        && is_hex(flags, 2)
        // Later versions may add fields, this one has none.
        && (version != "00" || fields.next().is_none());
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    well_formed.then_some((trace, parent, sampled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_and_malformed_ones_begin_anew() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().expect("a value"));
            TraceContext::of(&headers)
        };
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = of(good);
        assert_eq!(context.trace, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent.as_deref(), Some("00f067aa0ba902b7"));
        assert!(context.sampled);
        assert_eq!(
            context.header(),
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", context.span)
        );
        assert!(of(&format!("cc{}-more", &good[2..])).parent.is_some(), "a later version");
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(of(bad).parent, None, "{bad:?}");
        }
    }
}
