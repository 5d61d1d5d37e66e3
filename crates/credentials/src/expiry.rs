//! When a credential that says so itself ends. Nothing of it is verified and nothing of it is told
//! but the time.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::RegistryAuth;

impl RegistryAuth {
    /// The end of its validity in seconds since 1970, where the credential carries it: JSON web
    /// tokens (RFC 7519, `exp`) and the passwords of ECR (`expiration`).
    pub fn expires_at(&self) -> Option<i64> {
        let secret = match self {
            Self::Basic { password, .. } => password,
            Self::IdentityToken { token } | Self::RegistryToken { token } => token,
        };
        let text = secret.expose();
        let mut parts = text.split('.');
        if let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
            return end_in(&payload, "exp");
        }
        end_in(&STANDARD.decode(text.trim()).ok()?, "expiration")
    }
}

fn end_in(json: &[u8], field: &str) -> Option<i64> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let end = value.get(field)?;
    end.as_i64().or_else(|| end.as_f64().map(|seconds| seconds as i64))
}

#[cfg(test)]
mod tests {
    use crate::Secret;

    use super::*;

    fn end_of(password: &str) -> Option<i64> {
        RegistryAuth::basic("u", Secret::new(password)).expires_at()
    }

    #[test]
    fn tokens_tell_their_end_and_passwords_do_not() {
        let payload = URL_SAFE_NO_PAD.encode(br#"{"sub":"u","exp":1700000000}"#);
        assert_eq!(end_of(&format!("e30.{payload}.c2ln")), Some(1_700_000_000));
        let ecr = STANDARD.encode(br#"{"payload":"x","version":"2","expiration":1700000001}"#);
        assert_eq!(end_of(&ecr), Some(1_700_000_001));
        for password in ["", "correct-horse", "a.b.c", "aGVsbG8=", "1.2.3.4"] {
            assert_eq!(end_of(password), None, "{password}");
        }
    }
}
