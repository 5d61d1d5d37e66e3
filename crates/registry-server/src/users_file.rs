//! The user file: htpasswd lines with bcrypt, read again whenever the file changes.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_model::{Algorithm, Digest, Hasher};

/// Cost of new bcrypt entries (2^10 rounds), what htpasswd and docker's documentation use.
const BCRYPT_COST: u32 = 10;

/// An entry that no password matches, for users that do not exist: answering takes as long.
const DUMMY_ENTRY: &str = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// Verified passwords remembered, so that one bcrypt serves a whole push.
const VERIFIED_MAX: usize = 4096;

/// bcrypt runs at once; others wait. They would only take the processor from each other.
const BCRYPT_RUNS_MAX: usize = 2;

/// Largest user file, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why the user file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    /// The name would break the file's format.
    #[error(
        "{name:?} is not a user name: it must not be empty nor contain a colon or control character"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The password is empty or has a NUL, which bcrypt does not hash.
    #[error("the password of {name} is empty or contains a NUL character")]
    Password {
        /// The user.
        name: String,
    },
    /// The file failed.
    #[error("cannot use user file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Adds a user to an htpasswd file or gives a user a new password. The file is created with mode
/// 0600 if missing and replaced atomically; its other lines stay as they are.
///
/// # Errors
/// [`UserFileError`]
pub fn add_user(path: &Path, name: &str, password: &str) -> Result<(), UserFileError> {
    if name.is_empty() || name.contains(|c: char| c == ':' || c.is_control()) {
        return Err(UserFileError::Name { name: name.to_owned() });
    }
    if password.is_empty() || password.contains('\0') {
        return Err(UserFileError::Password { name: name.to_owned() });
    }
    let failed = |source| UserFileError::File { path: path.to_owned(), source };
    let hash = bcrypt::hash_with_result(password, BCRYPT_COST)
        .map_err(|error| failed(std::io::Error::other(error)))?
        .format_for_version(bcrypt::Version::TwoY);
    let old = match std::fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    let entry = format!("{name}:{hash}");
    let is_users = |line: &&mut String| line.split_once(':').is_some_and(|(user, _)| user == name);
    match lines.iter_mut().find(is_users) {
        Some(line) => *line = entry,
        None => lines.push(entry),
    }
    let text = lines.join("\n") + "\n";
    let staged = path.with_added_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // Nothing else to do with it.
        let _ = std::fs::remove_file(&staged);
    }
    written.map_err(failed)
}

/// The users as of the last look at the file.
#[derive(Debug)]
pub(crate) struct UserFile {
    path: PathBuf,
    state: Mutex<State>,
    /// Keys of (user, entry, password) that bcrypt accepted, hashed with a secret of this process.
    verified: Mutex<HashMap<Digest, ()>>,
    secret: [u8; 32],
    runs: Arc<tokio::sync::Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    /// What tells one version of the file from the next.
    stamp: Option<(u64, u64, i64, i64)>,
    entries: Arc<BTreeMap<String, String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UserFile {
    /// Reads the file for the first time.
    pub(crate) fn open(path: &Path) -> Result<Self, UserFileError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| UserFileError::File {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })?;
        let file = Self {
            path: path.to_owned(),
            state: Mutex::default(),
            verified: Mutex::default(),
            secret,
            runs: Arc::new(tokio::sync::Semaphore::new(BCRYPT_RUNS_MAX)),
        };
        file.entries()?;
        Ok(file)
    }

    /// The entries, read again if the file changed.
    fn entries(&self) -> Result<Arc<BTreeMap<String, String>>, UserFileError> {
        let failed = |source| UserFileError::File { path: self.path.clone(), source };
        let metadata = std::fs::metadata(&self.path).map_err(failed)?;
        let stamp = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let mut state = lock(&self.state);
        if state.stamp != Some(stamp) {
            if metadata.len() > FILE_BYTES_MAX {
                return Err(failed(std::io::Error::other("the file is too large")));
            }
            let text = std::fs::read_to_string(&self.path).map_err(failed)?;
            state.entries = Arc::new(parse(&text, &self.path));
            state.stamp = Some(stamp);
        }
        Ok(Arc::clone(&state.entries))
    }

    /// The entry of a user, as a name for the current password in refresh tokens.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<String> {
        let entries = self.entries().ok()?;
        let entry = entries.get(user)?;
        Some(self.key(user, entry, "").encoded())
    }

    /// Whether the password is the user's.
    ///
    /// If the file cannot be read the users of its last version stay valid.
    pub(crate) async fn verify(&self, user: &str, password: &str) -> bool {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "user file cannot be read, using its last version");
                Arc::clone(&lock(&self.state).entries)
            }
        };
        let entry = entries.get(user).map_or(DUMMY_ENTRY, String::as_str);
        let key = self.key(user, entry, password);
        if lock(&self.verified).contains_key(&key) {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.runs).acquire_owned().await else { return false };
        let (entry, password) = (entry.to_owned(), password.to_owned());
        let accepted = tokio::task::spawn_blocking(move || {
            let accepted = bcrypt::verify(password, &entry).unwrap_or(false);
            drop(permit);
            accepted
        })
        .await
        .unwrap_or(false);
        let accepted = accepted && entries.contains_key(user);
        if accepted {
            let mut verified = lock(&self.verified);
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(key, ());
        }
        accepted
    }

    /// A keyed hash, so that neither memory nor timing tells a password.
    fn key(&self, user: &str, entry: &str, password: &str) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&self.secret);
        for part in [user, entry, password] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finish()
    }
}

/// Reads htpasswd lines; those that are not bcrypt are left out with a warning.
fn parse(text: &str, path: &Path) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(':') {
            Some((user, hash)) if is_bcrypt(hash) && !user.is_empty() => {
                entries.insert(user.to_owned(), hash.to_owned());
            }
            _ => tracing::warn!(
                path = %path.display(),
                line = index + 1,
                "not an entry with bcrypt (htpasswd -B), left out"
            ),
        }
    }
    entries
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2y$", "$2a$", "$2b$"].iter().any(|prefix| hash.starts_with(prefix)) && hash.len() == 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("htpasswd");
        std::fs::write(&path, content).expect("a file");
        (directory, path)
    }

    #[tokio::test]
    async fn added_users_can_log_in_and_others_cannot() {
        let (_directory, path) = file("# users\n");
        add_user(&path, "alice", "first").expect("a user");
        let users = UserFile::open(&path).expect("the file");
        assert!(users.verify("alice", "first").await);
        assert!(users.verify("alice", "first").await, "from memory");
        for (user, password) in [("alice", "second"), ("alice", ""), ("bob", "first"), ("", "")] {
            assert!(!users.verify(user, password).await, "{user}:{password}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once() {
        let (_directory, path) = file("");
        add_user(&path, "alice", "first").expect("a user");
        let users = UserFile::open(&path).expect("the file");
        assert!(users.verify("alice", "first").await);
        let before = users.fingerprint("alice");
        add_user(&path, "alice", "second").expect("a new password");
        add_user(&path, "bob", "third").expect("a user");
        assert!(!users.verify("alice", "first").await);
        assert!(users.verify("alice", "second").await && users.verify("bob", "third").await);
        assert_ne!(users.fingerprint("alice"), before);
        std::fs::write(&path, "").expect("nobody");
        assert!(!users.verify("bob", "third").await);
    }

    #[test]
    fn the_file_keeps_its_other_lines_and_its_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_directory, path) = file("# hello\nold:{SHA}x\n");
        add_user(&path, "alice", "pw").expect("a user");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.starts_with("# hello\nold:{SHA}x\nalice:$2y$10$"), "{text}");
        assert_eq!(std::fs::metadata(&path).expect("it").permissions().mode() & 0o777, 0o600);
        assert_eq!(parse(&text, &path).keys().collect::<Vec<_>>(), ["alice"]);
    }

    #[test]
    fn names_that_break_the_format_are_refused() {
        let (_directory, path) = file("");
        for name in ["", "a:b", "a\nb"] {
            assert!(matches!(add_user(&path, name, "x"), Err(UserFileError::Name { .. })));
        }
        assert!(matches!(add_user(&path, "a", ""), Err(UserFileError::Password { .. })));
        assert!(matches!(add_user(&path, "a", "x\0"), Err(UserFileError::Password { .. })));
    }

    #[tokio::test]
    async fn entries_of_apache_htpasswd_are_accepted() {
        // htpasswd -nbB alice wonderland
        let made = std::process::Command::new("htpasswd")
            .args(["-nbB", "alice", "wonderland"])
            .output()
            .expect("htpasswd of the Debian package apache2-utils");
        let (_directory, path) = file(&String::from_utf8(made.stdout).expect("text"));
        let users = UserFile::open(&path).expect("the file");
        assert!(users.verify("alice", "wonderland").await);
    }
}
