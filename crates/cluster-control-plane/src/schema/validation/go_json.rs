//! The error that Go's `encoding/json` reports for a text, because clients show it.

/// Deepest nesting Go accepts.
const DEPTH_MAX: usize = 10_000;

/// Why a text does not decode into a JSON object (`map[string]interface {}`); `null` does.
pub(super) fn object_error(text: &str) -> Option<String> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
    if let Err(error) = scanner.document() {
        return Some(error);
    }
    let kind = match text.trim_start().bytes().next() {
        Some(b'{' | b'n') => return None,
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Scan = Result<(), String>;

impl Scanner<'_> {
    fn document(&mut self) -> Scan {
        self.value(0)?;
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(byte) => Err(invalid(byte, "after top-level value")),
        }
    }

    fn value(&mut self, depth: usize) -> Scan {
        if DEPTH_MAX < depth {
            return Err("exceeded max depth".to_owned());
        }
        self.space();
        match self.next()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' => match self.next()? {
                byte if byte.is_ascii_digit() => self.number(byte),
                byte => Err(invalid(byte, "in numeric literal")),
            },
            byte if byte.is_ascii_digit() => self.number(byte),
            byte => Err(invalid(byte, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Scan {
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            match self.next()? {
                b'"' => self.string()?,
                byte => return Err(invalid(byte, "looking for beginning of object key string")),
            }
            self.space();
            match self.next()? {
                b':' => self.value(depth + 1)?,
                byte => return Err(invalid(byte, "after object key")),
            }
            self.space();
            match self.next()? {
                b',' => {}
                b'}' => return Ok(()),
                byte => return Err(invalid(byte, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Scan {
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                byte => return Err(invalid(byte, "after array element")),
            }
        }
    }

    fn string(&mut self) -> Scan {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            match self.next()? {
                                byte if byte.is_ascii_hexdigit() => {}
                                byte => {
                                    return Err(invalid(
                                        byte,
                                        "in \\u hexadecimal character escape",
                                    ));
                                }
                            }
                        }
                    }
                    byte => return Err(invalid(byte, "in string escape code")),
                },
                byte if byte < 0x20 => return Err(invalid(byte, "in string literal")),
                _ => {}
            }
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for wanted in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != wanted {
                let place = format!("in literal {word} (expecting '{}')", char::from(wanted));
                return Err(invalid(byte, &place));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Scan {
        if first != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            match self.next()? {
                byte if byte.is_ascii_digit() => self.digits(),
                byte => return Err(invalid(byte, "after decimal point in numeric literal")),
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            match self.next()? {
                byte if byte.is_ascii_digit() => self.digits(),
                byte => return Err(invalid(byte, "in exponent of numeric literal")),
            }
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, String> {
        let byte = self.peek().ok_or("unexpected end of JSON input")?;
        self.at += 1;
        Ok(byte)
    }
}

fn invalid(byte: u8, place: &str) -> String {
    let shown = match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        byte if byte < 0x20 || byte == 0x7f => format!("'\\x{byte:02x}'"),
        byte => format!("'{}'", char::from(byte)),
    };
    format!("invalid character {shown} {place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // kubelet-images.md 5.1.
    #[test]
    fn errors_read_as_those_of_go() {
        let map = "into Go value of type map[string]interface {}";
        let rows = [
            ("", Some("unexpected end of JSON input".to_owned())),
            ("RnVu", Some("invalid character 'R' looking for beginning of value".to_owned())),
            ("[]", Some(format!("json: cannot unmarshal array {map}"))),
            ("\"s\"", Some(format!("json: cannot unmarshal string {map}"))),
            ("12", Some(format!("json: cannot unmarshal number {map}"))),
            ("true", Some(format!("json: cannot unmarshal bool {map}"))),
            ("{\"a\":1} x", Some("invalid character 'x' after top-level value".to_owned())),
            ("{\"a\"}", Some("invalid character '}' after object key".to_owned())),
            (
                "{a}",
                Some("invalid character 'a' looking for beginning of object key string".to_owned()),
            ),
            ("{\"a\":1 2}", Some("invalid character '2' after object key:value pair".to_owned())),
            ("{\"a\":[1 2]}", Some("invalid character '2' after array element".to_owned())),
            ("trux", Some("invalid character 'x' in literal true (expecting 'e')".to_owned())),
            ("{\"a\":\"\n\"}", Some("invalid character '\\n' in string literal".to_owned())),
            ("null", None),
            ("{}", None),
            ("{\"auths\":[]}", None),
            (" {\"auths\":{\"r\":{\"auth\":5}}}\n", None),
        ];
        for (text, expected) in rows {
            assert_eq!(object_error(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_on_what_is_json(text in "[\\[\\]{}\":,0-9a-e\\\\ntrulfs. -]{0,24}") {
            let ours = {
                let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
                scanner.document().is_ok()
            };
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
