//! Content identity (OCI image-spec, "Digests").

mod saved;

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

pub use self::saved::SavedHasherError;

/// A registered digest algorithm (OCI image-spec, "Registered algorithms", plus sha384, which the
/// kubelet registers as well).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: 32 bytes, 64 hex digits. The canonical algorithm.
    Sha256,
    /// SHA-384: 48 bytes, 96 hex digits.
    Sha384,
    /// SHA-512: 64 bytes, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon, such as `sha256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the digest in bytes.
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identity of some bytes; reads and prints as `sha256:<64 lower-case hex>` (OCI image-spec,
/// "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first `algorithm.length()` bytes count, the rest is zero.
    bytes: [u8; 64],
}

/// Why a text is not a digest; the texts are those of the Go digest library that users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text is not `algorithm:encoded`, or the algorithm is unknown and not even spelt like
    /// one: `[a-z0-9]+` joined by one of `.+_-`.
    #[error("invalid checksum digest format")]
    MalformedSyntax,
    /// The algorithm is none of sha256, sha384 and sha512, and the text has the form of a digest.
    #[error("unsupported digest algorithm")]
    UnsupportedAlgorithm,
    /// The encoded part has the wrong number of hex digits for its algorithm.
    #[error("invalid checksum digest length")]
    WrongLength,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// A digest from the raw output of its algorithm; `None` if the length is not the algorithm's.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.length() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// The algorithm that made this digest.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes, `algorithm().length()` of them.
    pub fn raw(&self) -> &[u8] {
        &self.bytes[..self.algorithm.length()]
    }

    /// The part after the colon: lower-case hex.
    pub fn encoded(&self) -> String {
        encode_hex(self.raw())
    }

    /// The first twelve hex digits, as tools print them in lists.
    pub fn short(&self) -> String {
        encode_hex(&self.raw()[..6])
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) = text.split_once(':').ok_or(DigestError::MalformedSyntax)?;
        if name.is_empty() || encoded.is_empty() {
            return Err(DigestError::MalformedSyntax);
        }
        let Some(algorithm) = Algorithm::from_name(name) else {
            if is_algorithm_syntax(name) && is_encoded_syntax(encoded) {
                return Err(DigestError::UnsupportedAlgorithm);
            }
            return Err(DigestError::MalformedSyntax);
        };
        if encoded.len() != algorithm.length() * 2 {
            return Err(DigestError::WrongLength);
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(encoded.as_bytes().chunks_exact(2)) {
            let high = decode_lower_hex(pair[0]).ok_or(DigestError::MalformedSyntax)?;
            let low = decode_lower_hex(pair[1]).ok_or(DigestError::MalformedSyntax)?;
            *byte = high << 4 | low;
        }
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.encoded())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] as bytes pass by; also an [`io::Write`] that never fails.
#[derive(Clone)]
pub struct Hasher {
    state: HasherState,
}

#[derive(Clone)]
enum HasherState {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => HasherState::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => HasherState::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => HasherState::Sha512(sha2::Sha512::new()),
        };
        Self { state }
    }

    /// A SHA-256 hasher that has seen nothing.
    pub fn sha256() -> Self {
        Self::new(Algorithm::Sha256)
    }

    /// The algorithm of the digest to come.
    pub const fn algorithm(&self) -> Algorithm {
        match self.state {
            HasherState::Sha256(_) => Algorithm::Sha256,
            HasherState::Sha384(_) => Algorithm::Sha384,
            HasherState::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            HasherState::Sha256(state) => state.update(bytes),
            HasherState::Sha384(state) => state.update(bytes),
            HasherState::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything seen.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let mut bytes = [0; 64];
        let length = algorithm.length();
        match self.state {
            HasherState::Sha256(state) => bytes[..length].copy_from_slice(&state.finalize()),
            HasherState::Sha384(state) => bytes[..length].copy_from_slice(&state.finalize()),
            HasherState::Sha512(state) => bytes[..length].copy_from_slice(&state.finalize()),
        }
        Digest { algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Digest of a layer's uncompressed tar archive (OCI image-spec config, "Layer DiffID").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a stack of layers (OCI image-spec config, "Layer ChainID").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// The chain of `diff_ids`, base layer first; `None` for no layers.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        Some(rest.iter().fold(Self(first.0), |chain, diff_id| chain.then(diff_id)))
    }

    /// The chain after one more layer on top.
    #[must_use]
    pub fn then(self, diff_id: &DiffId) -> Self {
        Self(Digest::of(format!("{} {}", self.0, diff_id.0).as_bytes()))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `[a-z0-9]+` joined by one of `.+_-` (OCI image-spec, "Digests").
fn is_algorithm_syntax(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
    };
    name.split(['.', '+', '_', '-']).all(is_part)
}

/// `[a-zA-Z0-9=_-]+` (OCI image-spec, "Digests").
fn is_encoded_syntax(encoded: &str) -> bool {
    encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

fn encode_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Upper-case digits are refused: two spellings of one identity would be two identities.
const fn decode_lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_published_vector() {
        assert_eq!(Digest::of(b"").to_string(), format!("sha256:{EMPTY}"));
        let sha512 = Hasher::new(Algorithm::Sha512).finish().to_string();
        assert!(sha512.starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007"), "{sha512}");
    }

    #[test]
    fn every_algorithm_round_trips_through_text() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let digest = Hasher::new(algorithm).finish();
            assert_eq!(digest.to_string().parse(), Ok(digest));
            assert_eq!(Digest::from_raw(algorithm, digest.raw()), Some(digest));
        }
    }

    #[test]
    fn malformed_digests_are_refused_by_reason() {
        let check = |text: &str, expected: DigestError| {
            assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        };
        check("", DigestError::MalformedSyntax);
        check("sha256", DigestError::MalformedSyntax);
        check("sha256:", DigestError::MalformedSyntax);
        check(&format!(":{EMPTY}"), DigestError::MalformedSyntax);
        check(&format!("sha256:{}", EMPTY.to_uppercase()), DigestError::MalformedSyntax);
        check(&format!("md5:{EMPTY}"), DigestError::UnsupportedAlgorithm);
        check("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", {
            DigestError::UnsupportedAlgorithm
        });
        for name in ["SHA256", "sha256+", "+b64", "a..b", "md5 "] {
            check(&format!("{name}:{EMPTY}"), DigestError::MalformedSyntax);
        }
        check("md5:a+b", DigestError::MalformedSyntax);
        check(&format!("sha256:{}", &EMPTY[1..]), DigestError::WrongLength);
        check(&format!("sha256:{EMPTY}0"), DigestError::WrongLength);
    }

    #[test]
    fn chain_of_one_layer_is_its_diff_id_and_more_hash_pairwise() {
        let first = DiffId(Digest::of(b"a"));
        let second = DiffId(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[first]), Some(ChainId(first.0)));
        let pair = Digest::of(format!("{first} {second}").as_bytes());
        assert_eq!(ChainId::of(&[first, second]), Some(ChainId(pair)));
    }
}
