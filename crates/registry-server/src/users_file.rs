//! The user file: htpasswd lines with bcrypt, read again whenever the file changes.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oci_model::{Algorithm, Digest, Hasher};

use crate::auth::{Attempt, ROBOT_PREFIX};
use crate::secret_file::{self, WatchedFile};

/// Cost of new bcrypt entries (2^10 rounds), what htpasswd and docker's documentation use.
const BCRYPT_COST: u32 = 10;

/// An entry that no password matches, for users that do not exist: answering takes as long.
const DUMMY_ENTRY: &str = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// Verified passwords remembered, so that one bcrypt serves a whole push.
const VERIFIED_MAX: usize = 4096;

/// bcrypt runs at once; others wait. They would only take the processor from each other.
const BCRYPT_RUNS_MAX: usize = 2;

/// Why the user file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    /// The name would break the file's format.
    #[error(
        "{name:?} is not a user name: it must not be empty, contain a colon or control character, \
         or begin as a robot's"
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
    if !is_name(name) {
        return Err(UserFileError::Name { name: name.to_owned() });
    }
    if password.is_empty() || password.contains('\0') {
        return Err(UserFileError::Password { name: name.to_owned() });
    }
    let failed = |source| UserFileError::File { path: path.to_owned(), source };
    let hash = bcrypt::hash_with_result(password, BCRYPT_COST)
        .map_err(|error| failed(std::io::Error::other(error)))?
        .format_for_version(bcrypt::Version::TwoY);
    edit(path, |lines| {
        let entry = format!("{name}:{hash}");
        match lines.iter_mut().find(|line| is_entry_of(line, name)) {
            Some(line) => *line = entry,
            None => lines.push(entry),
        }
    })
    .map_err(failed)
}

/// Removes a user from an htpasswd file; says whether there was one. Refresh tokens of the user
/// die with the entry.
///
/// # Errors
/// [`UserFileError::File`]
pub fn remove_user(path: &Path, name: &str) -> Result<bool, UserFileError> {
    let removed = edit(path, |lines| {
        let before = lines.len();
        lines.retain(|line| !is_entry_of(line, name));
        lines.len() < before
    });
    removed.map_err(|source| UserFileError::File { path: path.to_owned(), source })
}

/// The users of an htpasswd file who can log in, by name; none if it is missing.
///
/// # Errors
/// [`UserFileError::File`]
pub fn list_users(path: &Path) -> Result<Vec<String>, UserFileError> {
    let text = secret_file::read_or_empty(path)
        .map_err(|source| UserFileError::File { path: path.to_owned(), source })?;
    Ok(parse(&text, path).into_keys().collect())
}

fn is_entry_of(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(user, _)| user == name)
}

/// Changes the lines of the file under its lock.
fn edit<T>(path: &Path, change: impl FnOnce(&mut Vec<String>) -> T) -> std::io::Result<T> {
    let lock = secret_file::lock_for_edit(path)?;
    let old = secret_file::read_or_empty(path)?;
    let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
    let result = change(&mut lines);
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    secret_file::replace(path, &text)?;
    drop(lock);
    Ok(result)
}

/// How a check of a password went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordVerdict {
    /// It is right, and was so a moment ago: nothing was hashed.
    Remembered,
    /// It is right.
    Right,
    /// It is wrong, or there is no such user.
    Wrong,
}

/// The users as of the last look at the file.
#[derive(Debug)]
pub(crate) struct UserFile {
    file: WatchedFile<BTreeMap<String, String>>,
    /// Keys of (user, entry, password) that bcrypt accepted, hashed with a secret of this process.
    verified: Arc<Mutex<HashSet<Digest>>>,
    secret: [u8; 32],
    runs: Arc<tokio::sync::Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UserFile {
    /// Reads the file for the first time.
    pub(crate) fn open(path: &Path) -> Result<Self, UserFileError> {
        let failed = |source| UserFileError::File { path: path.to_owned(), source };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| failed(std::io::Error::other(error)))?;
        let file = WatchedFile::open(path, |text, path| Ok(parse(text, path))).map_err(failed)?;
        Ok(Self {
            file,
            verified: Arc::default(),
            secret,
            runs: Arc::new(tokio::sync::Semaphore::new(BCRYPT_RUNS_MAX)),
        })
    }

    /// What names the present password of a user in refresh tokens, the same on every replica.
    /// Nothing follows from it: the entry that it is made of has a random salt.
    pub(crate) fn credential(&self, user: &str) -> Option<String> {
        let entries = self.file.current();
        let entry = entries.get(user)?;
        Some(Digest::of(format!("{user}\n{entry}").as_bytes()).encoded())
    }

    /// Whether the password is the user's. The attempt is admitted right before the work of
    /// hashing, when those that came before have been counted, and counted right after it, even
    /// if nobody waits for the answer any more.
    ///
    /// # Errors
    /// How long the attempt must wait.
    pub(crate) async fn verify(
        &self,
        user: &str,
        password: &str,
        attempt: Attempt,
    ) -> Result<PasswordVerdict, Duration> {
        let entries = self.file.current();
        let entry = entries.get(user).map_or(DUMMY_ENTRY, String::as_str);
        let key = self.key(user, entry, password);
        if lock(&self.verified).contains(&key) {
            return Ok(PasswordVerdict::Remembered);
        }
        let permit = Arc::clone(&self.runs).acquire_owned().await;
        // Of several requests with the same right password the first one does the work.
        if lock(&self.verified).contains(&key) {
            return Ok(PasswordVerdict::Remembered);
        }
        attempt.admit()?;
        let (entry, password) = (entry.to_owned(), password.to_owned());
        let is_user = entries.contains_key(user);
        let verified = Arc::clone(&self.verified);
        let check = move || {
            let is_right = bcrypt::verify(password, &entry).unwrap_or(false) && is_user;
            attempt.settle(is_right);
            if is_right {
                let mut verified = lock(&verified);
                if verified.len() >= VERIFIED_MAX {
                    verified.clear();
                }
                verified.insert(key);
            }
            drop(permit);
            if is_right { PasswordVerdict::Right } else { PasswordVerdict::Wrong }
        };
        Ok(tokio::task::spawn_blocking(check).await.unwrap_or(PasswordVerdict::Wrong))
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

/// Whether a user may have the name: those of robots are theirs.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(ROBOT_PREFIX)
        && !name.contains(|c: char| c == ':' || c.is_control())
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
            Some((user, hash)) if is_bcrypt(hash) && is_name(user) => {
                entries.insert(user.to_owned(), hash.to_owned());
            }
            _ => tracing::warn!(
                path = %path.display(),
                line = index + 1,
                "not an entry of a user with bcrypt (htpasswd -B), left out"
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

    async fn right(users: &UserFile, user: &str, password: &str) -> bool {
        let here = std::net::IpAddr::from([127, 0, 0, 1]);
        let attempt = Attempt::new(&Arc::default(), user, here, std::time::SystemTime::now());
        let verdict = users.verify(user, password, attempt).await;
        verdict != Ok(PasswordVerdict::Wrong)
    }

    #[tokio::test]
    async fn added_users_can_log_in_and_others_cannot() {
        let (_directory, path) = file("# users\n");
        add_user(&path, "alice", "first").expect("a user");
        let users = UserFile::open(&path).expect("the file");
        assert!(right(&users, "alice", "first").await);
        assert!(right(&users, "alice", "first").await, "from memory");
        for (user, password) in [("alice", "second"), ("alice", ""), ("bob", "first"), ("", "")] {
            assert!(!right(&users, user, password).await, "{user}:{password}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once() {
        let (_directory, path) = file("");
        add_user(&path, "alice", "first").expect("a user");
        let users = UserFile::open(&path).expect("the file");
        assert!(right(&users, "alice", "first").await);
        let before = users.credential("alice");
        add_user(&path, "alice", "second").expect("a new password");
        add_user(&path, "bob", "third").expect("a user");
        assert!(!right(&users, "alice", "first").await);
        assert!(right(&users, "alice", "second").await && right(&users, "bob", "third").await);
        assert_ne!(users.credential("alice"), before);
        std::fs::write(&path, "").expect("nobody");
        assert!(!right(&users, "bob", "third").await);
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
        for name in ["", "a:b", "a\nb", "robot+ci"] {
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
        assert!(right(&users, "alice", "wonderland").await);
    }
}
