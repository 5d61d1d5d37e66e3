//! Secrets that leak scanners can tell from other text.

use std::fmt;
use std::io;

use oci_model::Digest;

/// How every secret begins: registered nowhere, but ours and unlike words.
const PREFIX: &str = "swr_";

/// Letters and digits that hold 256 bits.
const RANDOM_LETTERS: usize = 43;

/// Letters and digits that hold a CRC-32.
const CHECK_LETTERS: usize = 6;

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of a robot. Prints as `****`.
pub struct RobotSecret(String);

impl RobotSecret {
    pub(super) fn random() -> io::Result<Self> {
        let mut letters = String::with_capacity(RANDOM_LETTERS);
        while letters.len() < RANDOM_LETTERS {
            let mut bytes = [0; 64];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            // Four times 62 of the values, so that each letter is as likely as any other.
            let fair = bytes.into_iter().filter(|byte| *byte < 248);
            let random = fair.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            letters.extend(random.take(RANDOM_LETTERS - letters.len()));
        }
        let body = format!("{PREFIX}{letters}");
        let check = check(&body);
        Ok(Self(body + &check))
    }

    /// The text, for the one who is to have it.
    pub fn into_text(self) -> String {
        self.0
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for RobotSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// The last letters: CRC-32 (IEEE) of those before, most significant first.
fn check(body: &str) -> String {
    let mut crc = u32::MAX;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut rest = !crc;
    let mut letters = [b'0'; CHECK_LETTERS];
    for letter in letters.iter_mut().rev() {
        *letter = LETTERS[rest as usize % LETTERS.len()];
        rest /= 62;
    }
    letters.map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_random_and_end_in_their_checksum() {
        let one = RobotSecret::random().expect("random").into_text();
        let other = RobotSecret::random().expect("random").into_text();
        assert_ne!(one, other);
        assert_eq!(one.len(), 53);
        let (body, end) = one.split_at(47);
        assert!(body.starts_with("swr_") && one[4..].bytes().all(|b| LETTERS.contains(&b)));
        assert_eq!(check(body), end);
        // CRC-32 of "123456789" is 0xCBF43926, 3421780262, in base 62.
        assert_eq!(check("123456789"), "3jZRME");
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", RobotSecret::random().expect("random")), "****");
    }
}
