//! Base64 exactly as Go's decoder reads it, error offsets included, because users search for its
//! texts (`illegal base64 data at input byte 4`) and because it skips line breaks.

/// Whether the text ends in `=` padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    Required,
    None,
}

/// Where the input stopped being base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data at input byte {0}")]
pub struct CorruptInput(pub usize);

/// Decodes the standard alphabet; CR and LF are skipped wherever they stand.
pub(crate) fn decode(text: &[u8], padding: Padding) -> Result<Vec<u8>, CorruptInput> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let mut position = 0;
    loop {
        let mut quantum = [0u8; 4];
        let mut filled = 0;
        let mut last = false;
        while filled < 4 {
            let Some(&byte) = text.get(position) else {
                match (filled, padding) {
                    (0, _) => return Ok(decoded),
                    (1, _) | (_, Padding::Required) => {
                        return Err(CorruptInput(position - filled));
                    }
                    (_, Padding::None) => {}
                }
                last = true;
                break;
            };
            position += 1;
            if let Some(value) = sextet(byte) {
                quantum[filled] = value;
                filled += 1;
            } else if is_line_break(byte) {
            } else if byte == b'=' && padding == Padding::Required && 2 <= filled {
                position = after_padding(text, position, filled)?;
                last = true;
                break;
            } else {
                return Err(CorruptInput(position - 1));
            }
        }
        let bits = quantum.iter().fold(0u32, |bits, &value| bits << 6 | u32::from(value));
        let bytes = bits.to_be_bytes();
        decoded.extend_from_slice(&bytes[1..filled.max(1)]);
        if last {
            return Ok(decoded);
        }
    }
}

/// Checks what follows the first `=`: a second one where due, then nothing but line breaks.
fn after_padding(text: &[u8], start: usize, filled: usize) -> Result<usize, CorruptInput> {
    let skip = |mut at: usize| {
        while text.get(at).copied().is_some_and(is_line_break) {
            at += 1;
        }
        at
    };
    let mut position = start;
    if filled == 2 {
        position = skip(position);
        match text.get(position) {
            None => return Err(CorruptInput(text.len())),
            Some(b'=') => position += 1,
            Some(_) => return Err(CorruptInput(position - 1)),
        }
    }
    position = skip(position);
    if position < text.len() { Err(CorruptInput(position)) } else { Ok(position) }
}

const fn is_line_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    proptest::proptest! {
        #[test]
        fn every_encoding_decodes_back(bytes in proptest::collection::vec(0u8..=255, 0..200)) {
            let engine = base64::engine::general_purpose::STANDARD;
            let padded = engine.encode(&bytes);
            let bare = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&bytes);
            proptest::prop_assert_eq!(decode(padded.as_bytes(), Padding::Required), Ok(bytes.clone()));
            proptest::prop_assert_eq!(decode(bare.as_bytes(), Padding::None), Ok(bytes));
        }

        #[test]
        fn arbitrary_input_never_panics(text in "[A-Za-z0-9+/=\\n _-]{0,40}") {
            let _ = decode(text.as_bytes(), Padding::Required);
            let _ = decode(text.as_bytes(), Padding::None);
        }
    }
}
