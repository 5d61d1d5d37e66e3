//! Robots: accounts for machines, with a secret that the registry makes, rights of their own and
//! an end.
//!
//! # On disk
//! The robots file is JSON (`on_disk`), mode 0600, replaced whole and read again when it changes.
//! It holds SHA-256 of each secret and never a secret: they have 256 random bits, so that nothing
//! slower is needed. A secret is `swr_`, 43 letters and digits, and six more that are the CRC-32 of
//! those before, by which leak scanners tell it from other text.

mod on_disk;
mod secret;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci_model::Digest;

pub use self::secret::RobotSecret;

use super::identity::ROBOT_PREFIX;
use super::policy::{Role, covers};
use crate::secret_file::{self, WatchedFile};

/// How long a robot lives unless told otherwise.
pub const ROBOT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A right of a robot, below a prefix as in [`crate::AccessRule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RobotRight {
    /// The repository and those below it; empty for all.
    pub prefix: String,
    /// What the robot may do there.
    pub role: Role,
}

/// What a robot is, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Robot {
    /// The name without `robot+`.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When its secret ends; never without.
    pub expires: Option<SystemTime>,
    /// What it may do.
    pub rights: Vec<RobotRight>,
}

impl Robot {
    /// The user name with which it logs in.
    pub fn login(&self) -> String {
        format!("{ROBOT_PREFIX}{}", self.name)
    }
}

/// Why a robot could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    /// The name is of the wrong form.
    #[error(
        "{name:?} is not a robot's name: up to 64 of a-z, 0-9 and inner dots, dashes and underscores"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// There is one of that name.
    #[error("there is a robot {name} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no robot {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It would be able to do nothing.
    #[error("robot {name} would have no right at all")]
    NoRights {
        /// The name.
        name: String,
    },
    /// The file failed.
    #[error("cannot use robots file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Adds a robot to a robots file, which is made if missing, and returns its secret: the only time
/// that anybody sees it.
///
/// # Errors
/// [`RobotError`]
pub fn add_robot(path: &Path, robot: &Robot) -> Result<RobotSecret, RobotError> {
    let name = || robot.name.clone();
    if !is_name(&robot.name) {
        return Err(RobotError::Name { name: name() });
    }
    if robot.rights.is_empty() {
        return Err(RobotError::NoRights { name: name() });
    }
    edit(path, |robots| {
        if robots.contains_key(&robot.name) {
            return Err(RobotError::Exists { name: name() });
        }
        let secret = RobotSecret::random().map_err(|source| failed(path, source))?;
        let hashes = vec![Hash { digest: secret.digest(), until: None }];
        robots.insert(name(), Entry { robot: robot.clone(), hashes });
        Ok(secret)
    })
}

/// Gives a robot a new secret and a new end; the old secret counts until `old_until`.
///
/// # Errors
/// [`RobotError`]
pub fn rotate_robot(
    path: &Path,
    name: &str,
    expires: Option<SystemTime>,
    old_until: SystemTime,
) -> Result<RobotSecret, RobotError> {
    edit(path, |robots| {
        let entry = robots.get_mut(name);
        let entry = entry.ok_or_else(|| RobotError::Unknown { name: name.to_owned() })?;
        let secret = RobotSecret::random().map_err(|source| failed(path, source))?;
        // At most one old secret, and none for longer than it would have counted.
        entry.hashes.retain(|hash| hash.until.is_none());
        for hash in &mut entry.hashes {
            hash.until = Some(entry.robot.expires.map_or(old_until, |end| end.min(old_until)));
        }
        entry.hashes.push(Hash { digest: secret.digest(), until: None });
        entry.robot.expires = expires;
        Ok(secret)
    })
}

/// Removes a robot; its refresh tokens die with it.
///
/// # Errors
/// [`RobotError`]
pub fn remove_robot(path: &Path, name: &str) -> Result<(), RobotError> {
    edit(path, |robots| match robots.remove(name) {
        Some(_) => Ok(()),
        None => Err(RobotError::Unknown { name: name.to_owned() }),
    })
}

/// The robots of a file, none if it is missing.
///
/// # Errors
/// [`RobotError::File`]
pub fn list_robots(path: &Path) -> Result<Vec<Robot>, RobotError> {
    Ok(load(path)?.into_values().map(|entry| entry.robot).collect())
}

/// A robot with its secrets.
#[derive(Clone, Debug)]
struct Entry {
    robot: Robot,
    hashes: Vec<Hash>,
}

/// A secret that counts.
#[derive(Clone, Debug)]
struct Hash {
    digest: Digest,
    /// After a rotation.
    until: Option<SystemTime>,
}

type Entries = BTreeMap<String, Entry>;

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(is_plain)
        && name.ends_with(is_plain)
        && name.chars().all(|c| is_plain(c) || matches!(c, '.' | '-' | '_'))
}

fn failed(path: &Path, source: io::Error) -> RobotError {
    RobotError::File { path: path.to_owned(), source }
}

fn load(path: &Path) -> Result<Entries, RobotError> {
    secret_file::read_or_empty(path)
        .and_then(|text| on_disk::parse(&text))
        .map_err(|error| failed(path, error))
}

/// Changes the file under its lock, unless `change` fails.
fn edit<T>(
    path: &Path,
    change: impl FnOnce(&mut Entries) -> Result<T, RobotError>,
) -> Result<T, RobotError> {
    let lock = secret_file::lock_for_edit(path).map_err(|error| failed(path, error))?;
    let mut robots = load(path)?;
    let result = change(&mut robots)?;
    let text = on_disk::render(&robots);
    secret_file::replace(path, &text).map_err(|error| failed(path, error))?;
    drop(lock);
    Ok(result)
}

/// A secret of a robot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// When it ends; nothing for the present one, which ends with the robot.
    pub(crate) until: Option<SystemTime>,
}

/// The robots as of the last look at the file.
#[derive(Debug)]
pub(crate) struct RobotFile(WatchedFile<Entries>);

impl RobotFile {
    /// Reads the file for the first time.
    pub(crate) fn open(path: &Path) -> Result<Self, RobotError> {
        if !path.exists() {
            // So that the first robot needs no restart.
            edit(path, |_| Ok(()))?;
        }
        let file = WatchedFile::open(path, |text, _| on_disk::parse(text));
        Ok(Self(file.map_err(|error| failed(path, error))?))
    }

    /// The secret that was shown, if it is the robot's and counts now.
    pub(crate) fn verify(&self, login: &str, secret: &str, now: SystemTime) -> Option<Shown> {
        // Hashed in any case, so that the time says nothing about who exists.
        let given = Digest::of(secret.as_bytes());
        let robots = self.0.current();
        let entry = find(&robots, login)?;
        let matches = |hash: &Hash| {
            let differences =
                hash.digest.raw().iter().zip(given.raw()).fold(0, |all, (a, b)| all | (a ^ b));
            differences == 0 && hash.until.is_none_or(|until| now < until)
        };
        // All are compared: which one it was is nobody's business.
        let look = |shown, hash| if matches(hash) { Some(hash) } else { shown };
        let shown = entry.hashes.iter().fold(None, look)?;
        if !is_alive(&entry.robot, now) {
            tracing::info!(robot = login, "the robot has expired");
            return None;
        }
        Some(Shown { until: shown.until })
    }

    /// What names the robot's present secret, if the robot is alive.
    pub(crate) fn credential(&self, login: &str, now: SystemTime) -> Option<String> {
        let robots = self.0.current();
        let entry = find(&robots, login).filter(|entry| is_alive(&entry.robot, now))?;
        let newest = entry.hashes.last()?;
        // A digest of the digest: the token goes to clients.
        Some(Digest::of(format!("{login}\n{}", newest.digest).as_bytes()).encoded())
    }

    /// The strongest role of the robot in a repository.
    pub(crate) fn role(&self, login: &str, repository: &str) -> Option<Role> {
        let robots = self.0.current();
        let rights = &find(&robots, login)?.robot.rights;
        let here = rights.iter().filter(|right| covers(&right.prefix, repository));
        here.map(|right| right.role).max()
    }

    /// Whether the robot has the role in some repository.
    pub(crate) fn somewhere(&self, login: &str, role: Role) -> bool {
        let robots = self.0.current();
        find(&robots, login)
            .is_some_and(|entry| entry.robot.rights.iter().any(|right| role <= right.role))
    }

    /// Whether the robot has the role in every repository.
    pub(crate) fn everywhere(&self, login: &str, role: Role) -> bool {
        let robots = self.0.current();
        let is_everywhere = |right: &RobotRight| {
            right.prefix.trim_end_matches('/').is_empty() && role <= right.role
        };
        find(&robots, login).is_some_and(|entry| entry.robot.rights.iter().any(is_everywhere))
    }
}

fn find<'a>(robots: &'a Entries, login: &str) -> Option<&'a Entry> {
    robots.get(login.strip_prefix(ROBOT_PREFIX)?)
}

fn is_alive(robot: &Robot, now: SystemTime) -> bool {
    robot.expires.is_none_or(|expires| now < expires)
}

#[cfg(test)]
mod tests;
