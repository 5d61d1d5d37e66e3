//! The keys that sign tokens: files of one directory, which replicas may share.
//!
//! # On disk
//! `<made>-<id>.pem`: a private key in PKCS#8, mode 0600. `<made>` is the time it was made in
//! seconds since 1970, `<id>` its thumbprint (RFC 7638), which is the `kid` of its tokens. Other
//! names are left alone. A key signs from a minute after it was made, so that every replica has
//! read it by then, until the next one does; it verifies until the last token that it may have
//! signed has expired, and is then removed. Two replicas that make a key at once make two, and
//! both are good. A key whose file is removed counts no more, nor do its tokens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use oci_model::Digest;

use super::token::REFRESH_LIFE;
use crate::secret_file;

/// Time from the making of a key to its first signature.
const ACTIVATION: Duration = Duration::from_secs(60);

/// Time between two looks at the directory.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks for the sake of ids that nobody knows.
const UNKNOWN_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Keys read from one directory.
const KEYS_MAX: usize = 64;

/// Largest key file, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518), for verifiers that know no other.
    Es256,
}

/// The directory of the keys failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot use token keys in {}", path.display())]
pub(crate) struct KeyRingError {
    /// The directory or a file of it.
    path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// One key.
pub(crate) struct TokenKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) encoding: EncodingKey,
    pub(crate) decoding: DecodingKey,
    made: SystemTime,
    path: PathBuf,
    public: serde_json::Value,
}

/// The keys as of the last look.
pub(crate) struct KeyRing {
    directory: PathBuf,
    algorithm: TokenAlgorithm,
    /// How long a key signs.
    life: Duration,
    state: Mutex<State>,
}

struct State {
    /// Oldest first.
    keys: Vec<Arc<TokenKey>>,
    looked: SystemTime,
}

impl KeyRing {
    /// Reads the keys, or makes the first one.
    pub(crate) fn open(
        directory: &Path,
        algorithm: TokenAlgorithm,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, KeyRingError> {
        let failed = |source| KeyRingError { path: directory.to_owned(), source };
        secret_file::make_directory(directory).map_err(failed)?;
        let mut keys = read(directory).map_err(failed)?;
        if keys.is_empty() {
            keys.push(Arc::new(make(directory, algorithm, now).map_err(failed)?));
        }
        let state = Mutex::new(State { keys, looked: now });
        Ok(Self { directory: directory.to_owned(), algorithm, life, state })
    }

    /// The key that signs now.
    pub(crate) fn signing(&self, now: SystemTime) -> Arc<TokenKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if has_passed(state.looked, LOOK_INTERVAL, now) {
            self.look(&mut state, now);
        }
        let newest = state.keys.last().map(|key| key.made);
        if newest.is_none_or(|made| has_passed(made, self.life, now)) {
            match make(&self.directory, self.algorithm, now) {
                Ok(key) => state.keys.push(Arc::new(key)),
                Err(error) => tracing::warn!(%error, "no new token key, the old one goes on"),
            }
        }
        let is_active = |key: &&Arc<TokenKey>| has_passed(key.made, ACTIVATION, now);
        let active = state.keys.iter().rev().find(is_active).or_else(|| state.keys.first());
        Arc::clone(active.expect("a key is never taken away without another"))
    }

    /// The key with an id, if there is one that still counts.
    pub(crate) fn verifying(&self, id: &str, now: SystemTime) -> Option<Arc<TokenKey>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |state: &State| state.keys.iter().find(|key| key.id == id).cloned();
        let known = find(&state);
        let pause = if known.is_some() { LOOK_INTERVAL } else { UNKNOWN_LOOK_INTERVAL };
        if !has_passed(state.looked, pause, now) {
            return known;
        }
        self.look(&mut state, now);
        find(&state)
    }

    /// The public keys (JSON Web Key Set, RFC 7517).
    pub(crate) fn public(&self, now: SystemTime) -> serde_json::Value {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if has_passed(state.looked, LOOK_INTERVAL, now) {
            self.look(&mut state, now);
        }
        let keys: Vec<_> = state.keys.iter().map(|key| key.public.clone()).collect();
        serde_json::json!({ "keys": keys })
    }

    /// Reads the directory again and removes what no token can need.
    fn look(&self, state: &mut State, now: SystemTime) {
        state.looked = now;
        let mut keys = match read(&self.directory) {
            Ok(keys) => keys,
            Err(error) => {
                let directory = self.directory.display();
                tracing::warn!(%error, %directory, "token keys cannot be read, going on with those");
                return;
            }
        };
        let after: Vec<SystemTime> = keys.iter().skip(1).map(|key| key.made).collect();
        let mut after = after.into_iter();
        keys.retain(|key| {
            let is_needed =
                after.next().is_none_or(|next| !has_passed(next, REFRESH_LIFE + ACTIVATION, now));
            if !is_needed && let Err(error) = std::fs::remove_file(&key.path) {
                tracing::debug!(%error, key = key.id, "an old token key stays");
            }
            is_needed
        });
        if keys.is_empty() {
            // Somebody took all of them away, so that no token counts any more.
            match make(&self.directory, self.algorithm, now) {
                Ok(key) => keys.push(Arc::new(key)),
                Err(error) => {
                    tracing::warn!(%error, "no token key can be made, going on with the old ones");
                    return;
                }
            }
        }
        state.keys = keys;
    }
}

/// Whether `pause` has passed since `then`; also if `then` has not come yet, as after a clock was
/// set back.
fn has_passed(then: SystemTime, pause: Duration, now: SystemTime) -> bool {
    now.duration_since(then).is_ok_and(|passed| passed >= pause)
}

/// All keys of a directory, oldest first.
fn read(directory: &Path) -> io::Result<Vec<Arc<TokenKey>>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(made) = made(&path) else { continue };
        if keys.len() == KEYS_MAX {
            tracing::warn!(directory = %directory.display(), "more than {KEYS_MAX} token keys");
            break;
        }
        match load(&path, made) {
            Ok(key) => keys.push(Arc::new(key)),
            // Another replica removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "not a token key"),
        }
    }
    keys.sort_by(|one, other| (one.made, &one.id).cmp(&(other.made, &other.id)));
    Ok(keys)
}

/// When a key was made, by the name of its file.
fn made(path: &Path) -> Option<SystemTime> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".pem")?;
    let (seconds, id) = stem.split_once('-')?;
    let seconds: u32 = seconds.parse().ok()?;
    (!id.is_empty()).then(|| UNIX_EPOCH + Duration::from_secs(seconds.into()))
}

fn load(path: &Path, made: SystemTime) -> io::Result<TokenKey> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    parse(&std::fs::read_to_string(path)?, path, made)
}

fn parse(pem: &str, path: &Path, made: SystemTime) -> io::Result<TokenKey> {
    let pair = rcgen::KeyPair::from_pem(pem).map_err(io::Error::other)?;
    let raw = pair.public_key_raw();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (algorithm, decoding, encoding, members) = if *pair.algorithm() == rcgen::PKCS_ED25519 {
        let encoding = EncodingKey::from_ed_pem(pem.as_bytes());
        let members = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{}\"}}", encode(raw));
        (Algorithm::EdDSA, DecodingKey::from_ed_der(raw), encoding, members)
    } else if *pair.algorithm() == rcgen::PKCS_ECDSA_P256_SHA256 && raw.len() == 65 {
        let encoding = EncodingKey::from_ec_pem(pem.as_bytes());
        let (x, y) = raw[1..].split_at(32);
        let (x, y) = (encode(x), encode(y));
        let members = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
        (Algorithm::ES256, DecodingKey::from_ec_der(raw), encoding, members)
    } else {
        return Err(io::Error::other("neither Ed25519 nor P-256"));
    };
    let encoding = encoding.map_err(io::Error::other)?;
    // The members that RFC 7638 names, in its order and without spaces.
    let id = encode(Digest::of(members.as_bytes()).raw());
    let mut public: serde_json::Value = serde_json::from_str(&members)?;
    public["kid"] = id.as_str().into();
    public["use"] = "sig".into();
    public["alg"] = serde_json::to_value(algorithm)?;
    Ok(TokenKey { id, algorithm, encoding, decoding, made, path: path.to_owned(), public })
}

/// Makes a key and its file.
fn make(directory: &Path, algorithm: TokenAlgorithm, now: SystemTime) -> io::Result<TokenKey> {
    let algorithm = match algorithm {
        TokenAlgorithm::EdDsa => &rcgen::PKCS_ED25519,
        TokenAlgorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
    };
    let pem = rcgen::KeyPair::generate_for(algorithm).map_err(io::Error::other)?.serialize_pem();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut key = parse(&pem, directory, UNIX_EPOCH + Duration::from_secs(seconds))?;
    key.path = directory.join(format!("{seconds}-{}.pem", key.id));
    secret_file::replace(&key.path, &pem)?;
    tracing::info!(key = key.id, "token key made");
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

    fn time(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn ring(directory: &Path, now: SystemTime) -> KeyRing {
        KeyRing::open(directory, TokenAlgorithm::EdDsa, MONTH, now).expect("keys")
    }

    #[test]
    fn a_key_id_is_the_thumbprint_of_rfc_7638() {
        // The key and its thumbprint of RFC 8037, appendices A.2 and A.3.
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";
        let key = parse(pem, Path::new("x"), time(0)).expect("a key");
        assert_eq!(key.id, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(key.public["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!((&key.public["alg"], &key.public["kid"]), (&"EdDSA".into(), &key.id.into()));
    }

    #[test]
    fn replicas_share_keys_and_rotate_them_with_overlap() {
        let directory = tempfile::tempdir().expect("a directory");
        let (one, two) = (ring(directory.path(), time(0)), ring(directory.path(), time(1)));
        let first = one.signing(time(2)).id.clone();
        assert_eq!(two.signing(time(2)).id, first, "the only key signs at once");
        let month = MONTH.as_secs();
        // The new key is made now, and signs once everybody has had time to read it.
        assert_eq!(one.signing(time(month)).id, first);
        let second = one.signing(time(month + 60)).id.clone();
        assert_ne!(second, first);
        assert_eq!(two.signing(time(month + 60)).id, second, "the other replica makes none");
        assert!(two.verifying(&first, time(month + 61)).is_some());
        assert_eq!(two.public(time(month + 61))["keys"].as_array().map(Vec::len), Some(2));
        // The last refresh token of the first key is gone by now, and so is the key.
        let late = time(month + REFRESH_LIFE.as_secs() + 200);
        assert!(two.verifying(&first, late).is_none());
        assert!(two.verifying(&second, late).is_some());
        assert_eq!(std::fs::read_dir(directory.path()).expect("it").count(), 1);
    }

    #[test]
    fn a_key_that_was_removed_counts_no_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let ring = ring(directory.path(), time(0));
        let first = ring.signing(time(1)).id.clone();
        for entry in std::fs::read_dir(directory.path()).expect("it") {
            std::fs::remove_file(entry.expect("it").path()).expect("gone");
        }
        std::fs::write(directory.path().join("README"), "left alone").expect("a file");
        std::fs::write(directory.path().join("17-x.pem"), "no key").expect("a file");
        assert!(ring.verifying(&first, time(20)).is_none());
        assert_ne!(ring.signing(time(20)).id, first);
    }

    #[test]
    fn es256_is_an_option() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || KeyRing::open(directory.path(), TokenAlgorithm::Es256, MONTH, time(0));
        let key = open().expect("keys").signing(time(1)).id.clone();
        let again = open().expect("keys").signing(time(1));
        assert_eq!((&again.id, again.algorithm), (&key, Algorithm::ES256));
    }
}
