//! Public keys of others (JSON Web Key Set, RFC 7517), and what they signed.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

/// Keys of one set.
const KEYS_MAX: usize = 64;

/// Shortest modulus of an RSA key, in bytes (RFC 7518, section 3.3).
const MODULUS_BYTES_MIN: usize = 256;

/// The keys of an issuer.
#[derive(Debug)]
pub(super) struct KeySet(Vec<ForeignKey>);

struct ForeignKey {
    id: Option<String>,
    /// The one algorithm that the key is for.
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl std::fmt::Debug for ForeignKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.algorithm, self.id)
    }
}

impl KeySet {
    /// Reads a set. Keys for something else, weak ones and symmetric ones are left out.
    pub(super) fn parse(text: &str) -> io::Result<Self> {
        let mut set: Value = serde_json::from_str(text)?;
        let Some(Value::Array(keys)) = set.get_mut("keys").map(Value::take) else {
            return Err(io::Error::other("not a set of keys"));
        };
        let keys: Vec<_> = keys.into_iter().take(KEYS_MAX).filter_map(key).collect();
        if keys.is_empty() {
            return Err(io::Error::other("no key in it can be used"));
        }
        Ok(Self(keys))
    }

    /// [`KeySet::parse`], for files.
    pub(super) fn parse_file(text: &str, _: &Path) -> io::Result<Self> {
        Self::parse(text)
    }

    /// Whether a token that names this key, or none, can be looked at.
    pub(super) fn has(&self, key_id: Option<&str>) -> bool {
        key_id.is_none_or(|key_id| self.0.iter().any(|key| key.id.as_deref() == Some(key_id)))
    }

    /// The claims of a token that one of the keys signed. Their content is the caller's to check.
    pub(super) fn verify(&self, token: &str) -> Option<Value> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let mut candidates = self.0.iter().filter(|key| {
            key.algorithm == header.alg && (header.kid.is_none() || header.kid == key.id)
        });
        candidates.find_map(|key| {
            let mut validation = Validation::new(key.algorithm);
            (validation.validate_exp, validation.validate_aud) = (false, false);
            validation.set_required_spec_claims::<&str>(&[]);
            let token = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation).ok()?;
            Some(token.claims)
        })
    }
}

fn key(value: Value) -> Option<ForeignKey> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let algorithm = match (text("kty")?, text("crv")) {
        ("RSA", _) => Algorithm::RS256,
        ("EC", Some("P-256")) => Algorithm::ES256,
        ("OKP", Some("Ed25519")) => Algorithm::EdDSA,
        _ => return None,
    };
    let says = |name: &str, expected: &str| text(name).is_none_or(|found| found == expected);
    let name = serde_json::to_value(algorithm).ok()?;
    if !says("use", "sig") || !says("alg", name.as_str()?) {
        return None;
    }
    if algorithm == Algorithm::RS256 {
        let modulus = URL_SAFE_NO_PAD.decode(text("n")?.trim_end_matches('=')).ok()?;
        let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
        if significant < MODULUS_BYTES_MIN {
            return None;
        }
    }
    let id = text("kid").map(str::to_owned);
    let key: Jwk = serde_json::from_value(value).ok()?;
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    Some(ForeignKey { id, algorithm, decoding })
}

/// Who a token says has issued it; nobody has checked that.
pub(super) fn unverified_issuer(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

/// The key that a token names, if it is a token.
pub(super) fn key_id(token: &str) -> Option<Option<String>> {
    Some(jsonwebtoken::decode_header(token).ok()?.kid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendix A.2.
    const RSA: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const SIGNED: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    #[test]
    fn the_signature_of_rfc_7515_is_verified() {
        let set = format!("{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"{RSA}\",\"e\":\"AQAB\"}}]}}");
        let claims = KeySet::parse(&set).expect("a set").verify(SIGNED).expect("signed");
        assert_eq!(claims["iss"], "joe");
        let mut changed = SIGNED.to_owned();
        changed.replace_range(30..31, "A");
        assert!(KeySet::parse(&set).expect("a set").verify(&changed).is_none());
        assert_eq!(unverified_issuer(SIGNED).as_deref(), Some("joe"));
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        for key in [
            format!("{{\"kty\":\"RSA\",\"n\":\"{RSA}\",\"e\":\"AQAB\",\"use\":\"enc\"}}"),
            format!("{{\"kty\":\"RSA\",\"n\":\"{RSA}\",\"e\":\"AQAB\",\"alg\":\"PS256\"}}"),
            format!("{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"}}", &RSA[..160]),
            "{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}".to_owned(),
            "{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AA\",\"y\":\"AA\"}".to_owned(),
            "{}".to_owned(),
            "7".to_owned(),
        ] {
            assert!(KeySet::parse(&format!("{{\"keys\":[{key}]}}")).is_err(), "{key}");
        }
        assert!(KeySet::parse("[]").is_err() && KeySet::parse("").is_err());
    }
}
