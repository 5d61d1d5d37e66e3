//! Bytes in JSON: as text if they are text, which documents nearly always are.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece<'a> {
    Text(Cow<'a, str>),
    Base64(String),
}

/// For `#[serde(with)]` on bytes.
pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Piece::Text(Cow::Borrowed(text)),
        Err(_) => Piece::Base64(STANDARD.encode(bytes)),
    }
    .serialize(serializer)
}

/// For `#[serde(with)]` on bytes.
pub(super) fn deserialize<'de, T: From<Vec<u8>>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let bytes = match Piece::deserialize(deserializer)? {
        Piece::Text(text) => text.into_owned().into_bytes(),
        Piece::Base64(text) => STANDARD.decode(text).map_err(serde::de::Error::custom)?,
    };
    Ok(bytes.into())
}

/// For `#[serde(with)]` on a digest with bytes.
pub(super) mod of_digest {
    use oci_model::Digest;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Written<'a>(Digest, #[serde(serialize_with = "super::serialize")] &'a [u8]);

    #[derive(Deserialize)]
    struct Read(Digest, #[serde(deserialize_with = "super::deserialize")] Vec<u8>);

    pub(in super::super) fn serialize<S: Serializer>(
        pair: &Option<(Digest, Vec<u8>)>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let pair = pair.as_ref().map(|(digest, bytes)| Written(*digest, bytes));
        pair.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<(Digest, Vec<u8>)>, D::Error> {
        let pair = Option::<Read>::deserialize(deserializer)?;
        Ok(pair.map(|Read(digest, bytes)| (digest, bytes)))
    }
}
