//! A hasher put away and taken up again, perhaps by another process.

use sha2::digest::common::hazmat::{SerializableState, SerializedState};

use super::{Algorithm, Hasher, HasherState, decode_lower_hex, encode_hex};

/// Why a text is not a saved hasher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid state of a hasher")]
pub struct SavedHasherError;

impl Hasher {
    /// The state as text: the algorithm, a colon, and in hex the chaining value (FIPS 180-4,
    /// section 6; words little endian), the number of whole blocks hashed (8 bytes for sha256,
    /// else 16, little endian), one byte with the number of bytes that the block begun has, and
    /// these, padded with zeros to one less than a block. It tells as much about what was hashed
    /// as those bytes do.
    pub fn save(&self) -> String {
        let state = match &self.state {
            HasherState::Sha256(state) => encode_hex(&state.serialize()),
            HasherState::Sha384(state) => encode_hex(&state.serialize()),
            HasherState::Sha512(state) => encode_hex(&state.serialize()),
        };
        format!("{}:{state}", self.algorithm())
    }

    /// The hasher that [`Hasher::save`] put away.
    ///
    /// # Errors
    /// [`SavedHasherError`] if the text was not made by it.
    pub fn restore(text: &str) -> Result<Self, SavedHasherError> {
        let (name, state) = text.split_once(':').ok_or(SavedHasherError)?;
        let algorithm = Algorithm::from_name(name).ok_or(SavedHasherError)?;
        let state = match algorithm {
            Algorithm::Sha256 => HasherState::Sha256(decode(state)?),
            Algorithm::Sha384 => HasherState::Sha384(decode(state)?),
            Algorithm::Sha512 => HasherState::Sha512(decode(state)?),
        };
        Ok(Self { state })
    }
}

fn decode<T: SerializableState>(hex: &str) -> Result<T, SavedHasherError> {
    let mut bytes = SerializedState::<T>::default();
    if hex.len() != bytes.len() * 2 {
        return Err(SavedHasherError);
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let high = decode_lower_hex(pair[0]).ok_or(SavedHasherError)?;
        let low = decode_lower_hex(pair[1]).ok_or(SavedHasherError)?;
        *byte = high << 4 | low;
    }
    T::deserialize(&bytes).map_err(|_| SavedHasherError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALGORITHMS: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

    /// Replicas of two versions work on one upload: what one saves the other must read.
    #[test]
    fn the_saved_state_is_the_documented_one() {
        let mut hasher = Hasher::sha256();
        hasher.update(&[b'x'; 64]);
        hasher.update(b"abc");
        let saved = hasher.save();
        let state = saved.strip_prefix("sha256:").expect("the algorithm");
        assert_eq!(state.len(), 2 * (32 + 8 + 64));
        assert_eq!(&state[64..80], "0100000000000000", "one whole block");
        assert!(state[80..].starts_with("0361626300"), "{state}");
        let fresh = Hasher::sha256().save();
        // FIPS 180-4, section 5.3.3.
        assert!(fresh.starts_with("sha256:67e6096a85ae67bb72f36e3c3af54fa5"), "{fresh}");
        assert_eq!(Hasher::new(Algorithm::Sha384).save().len(), 7 + 2 * (64 + 16 + 128));
        assert_eq!(Hasher::new(Algorithm::Sha512).save().len(), 7 + 2 * (64 + 16 + 128));
    }

    #[test]
    fn what_was_not_saved_is_not_restored() {
        let good = Hasher::sha256().save();
        for bad in [
            "",
            "sha256:",
            "md5:00",
            &good[..good.len() - 2],
            &good.replacen("sha256", "sha512", 1),
            &good.to_uppercase(),
            &format!("{good}00"),
            // A block begun cannot be longer than a block.
            &format!("{}ff{}", &good[..87], &good[89..]),
        ] {
            assert!(Hasher::restore(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_restored_hasher_goes_on_where_it_stopped(
            before in proptest::collection::vec(any::<u8>(), 0..700),
            after in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for algorithm in ALGORITHMS {
                let mut whole = Hasher::new(algorithm);
                whole.update(&before);
                let mut resumed = Hasher::restore(&whole.save()).expect("a saved state");
                whole.update(&after);
                resumed.update(&after);
                prop_assert_eq!(resumed.finish(), whole.finish());
            }
        }
    }
}
