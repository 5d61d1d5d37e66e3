//! `WWW-Authenticate` headers (RFC 9110 section 11.6.1).

/// Most bytes of one header that are read.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Most parameters of one challenge.
const PARAMETERS_MAX: usize = 16;

/// What a registry wants to see before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// How to authenticate.
    pub scheme: Scheme,
    /// Parameters by lower-case name.
    parameters: Vec<(String, String)>,
}

/// Authentication schemes that registries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// User and password on each request (RFC 7617).
    Basic,
    /// A token from a token service (RFC 6750, distribution token specification).
    Bearer,
}

impl Challenge {
    /// Reads all challenges of all header values, in order; unknown schemes are left out.
    pub fn parse_all<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        values.into_iter().flat_map(parse).collect()
    }

    /// Those of an answer.
    pub(crate) fn of_response(headers: &http::HeaderMap) -> Vec<Self> {
        let values = headers.get_all(http::header::WWW_AUTHENTICATE);
        Self::parse_all(values.iter().filter_map(|value| value.to_str().ok()))
    }

    /// A parameter such as `realm`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parameters.iter().find(|(key, _)| key == name)?;
        Some(value)
    }
}

/// One header value may hold several challenges: `Basic realm="x", Bearer realm="y",scope="z"`.
fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    if HEADER_BYTES_MAX < value.len() {
        return Vec::new();
    }
    let mut rest = value.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if word_end == 0 {
            // Garbage; nothing after it can be trusted.
            break;
        }
        let word = &rest[..word_end];
        let after = rest[word_end..].trim_start_matches([' ', '\t']);
        if let Some(value) = after.strip_prefix('=') {
            let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t']))
            else {
                break;
            };
            let Some((_, parameters)) = challenges.last_mut() else { break };
            if PARAMETERS_MAX <= parameters.len() {
                break;
            }
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            challenges.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
        .into_iter()
        .filter_map(|(scheme, parameters)| {
            let scheme = match scheme.as_str() {
                "basic" => Scheme::Basic,
                "bearer" => Scheme::Bearer,
                _ => return None,
            };
            Some(Challenge { scheme, parameters })
        })
        .collect()
}

/// A quoted string with `\` escapes, or a token.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bearer_parameters_with_commas_inside_quotes() {
        let header = r#"Bearer realm="https://auth.example.com/token",service="reg",scope="repository:a/b:pull,push""#;
        let [challenge] = &Challenge::parse_all([header])[..] else { panic!() };
        assert_eq!(challenge.scheme, Scheme::Bearer);
        assert_eq!(challenge.parameter("realm"), Some("https://auth.example.com/token"));
        assert_eq!(challenge.parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenge.parameter("error"), None);
    }

    #[test]
    fn reads_several_challenges_of_one_or_more_headers() {
        let schemes = |values: &[&str]| -> Vec<Scheme> {
            Challenge::parse_all(values.iter().copied()).iter().map(|c| c.scheme).collect()
        };
        assert_eq!(
            schemes(&[r#"Basic realm="x", Bearer realm="y",scope="z""#]),
            [Scheme::Basic, Scheme::Bearer]
        );
        assert_eq!(schemes(&["bearer realm=y", "BASIC realm=x"]), [Scheme::Bearer, Scheme::Basic]);
        assert_eq!(schemes(&["Negotiate, Basic"]), [Scheme::Basic]);
    }

    /// cloud-credentials.md 14.2, rows 41 and 59.
    #[test]
    fn reads_values_without_quotes_and_challenges_without_service() {
        let header = "Bearer realm=https://gcr.io/v2/token?x=1,service=gcr.io";
        let [challenge] = &Challenge::parse_all([header])[..] else { panic!() };
        assert_eq!(challenge.parameter("realm"), Some("https://gcr.io/v2/token?x=1"));
        assert_eq!(challenge.parameter("service"), Some("gcr.io"));
        let header = "bearer  Realm = \"https://europe-docker.pkg.dev/v2/token\"";
        let [challenge] = &Challenge::parse_all([header])[..] else { panic!() };
        let realm = challenge.parameter("realm");
        assert_eq!(realm, Some("https://europe-docker.pkg.dev/v2/token"));
        assert_eq!(challenge.parameter("service"), None);
    }

    #[test]
    fn headers_without_end_are_not_read() {
        let long = format!("Bearer realm=\"{}\"", "x".repeat(HEADER_BYTES_MAX));
        assert_eq!(Challenge::parse_all([long.as_str()]), []);
        let many = format!("Bearer {}", "a=b,".repeat(100));
        let [challenge] = &Challenge::parse_all([many.as_str()])[..] else { panic!() };
        assert_eq!(challenge.parameters.len(), PARAMETERS_MAX);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_headers_never_panic(text in ".{0,120}", other in "[ ,=\"a-zA-Z\\\\]{0,60}") {
            Challenge::parse_all([text.as_str(), other.as_str()]);
        }
    }

    #[test]
    fn reads_escapes_and_survives_garbage() {
        let [challenge] = &Challenge::parse_all([r#"Basic realm="a\"b\\c""#])[..] else { panic!() };
        assert_eq!(challenge.parameter("realm"), Some(r#"a"b\c"#));
        for garbage in ["", "=", "=x", r#"Bearer realm="unclosed"#, ",,,", "\"", "Bearer =", "é=1"]
        {
            Challenge::parse_all([garbage]);
        }
    }
}
