//! Names of users and groups, looked up in the files being built.

use std::path::{Path, PathBuf};

use dockerfile::{Owner, Principal};

use crate::tree::{Files, TreeError, resolve};

/// Largest passwd or group file read, in bytes (10 MiB, as BuildKit).
const ACCOUNTS_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Why a name did not become a number.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// There is no such user.
    #[error("unable to find user {name}: no matching entries in passwd file /etc/passwd")]
    UnknownUser {
        /// The name.
        name: String,
    },
    /// There is no such group.
    #[error("unable to find group {name}: no matching entries in group file /etc/group")]
    UnknownGroup {
        /// The name.
        name: String,
    },
    /// The files could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Numbers of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Ids {
    /// The superuser.
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Home directory, if passwd has the user.
    pub(crate) home: Option<String>,
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// `--chown` in numbers: a user alone brings the group of passwd if it is a name, and the group
/// of the same number if it is a number.
pub(crate) fn chown_ids(files: &dyn Files, owner: &Owner) -> Result<Ids, OwnerError> {
    let (uid, primary) = match &owner.user {
        Principal::Id(uid) => (*uid, *uid),
        Principal::Name(name) if name == "root" => (0, 0),
        Principal::Name(name) => {
            let account = accounts(files)?
                .into_iter()
                .find(|account| account.name == *name)
                .ok_or_else(|| OwnerError::UnknownUser { name: name.clone() })?;
            (account.uid, account.gid)
        }
    };
    let gid = match &owner.group {
        None => primary,
        Some(Principal::Id(gid)) => *gid,
        Some(Principal::Name(name)) if name == "root" => 0,
        Some(Principal::Name(name)) => group_id(files, name)?,
    };
    Ok(Ids { uid, gid })
}

/// USER as the runtime reads it (builder reference 1.8): numbers need no entry, names do; an
/// explicit group means no supplementary groups.
pub(crate) fn run_identity(files: &dyn Files, user: &str) -> Result<Identity, OwnerError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let known = accounts(files)?;
    let account = known.iter().find(|account| account.name == user).or_else(|| {
        let number: u32 = user.parse().ok()?;
        known.iter().find(|account| account.uid == number)
    });
    let (uid, primary) = match (account, user.parse::<u32>()) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Ok(number)) => (number, 0),
        (None, Err(_)) if user == "root" => (0, 0),
        (None, Err(_)) => return Err(OwnerError::UnknownUser { name: user.to_owned() }),
    };
    let home = account.map(|account| account.home.clone()).filter(|home| !home.is_empty());
    let (gid, groups) = match (group, account) {
        (Some(group), _) => match group.parse() {
            Ok(number) => (number, Vec::new()),
            Err(_) => (group_id(files, group)?, Vec::new()),
        },
        (None, Some(account)) => {
            let mut groups: Vec<u32> = groups(files)?
                .into_iter()
                .filter(|group| group.members.contains(&account.name))
                .map(|group| group.gid)
                .filter(|gid| *gid != primary)
                .collect();
            groups.sort_unstable();
            groups.dedup();
            (primary, groups)
        }
        (None, None) => (primary, Vec::new()),
    };
    Ok(Identity { uid, gid, groups, home })
}

fn group_id(files: &dyn Files, name: &str) -> Result<u32, OwnerError> {
    groups(files)?
        .into_iter()
        .find(|group| group.name == name)
        .map(|group| group.gid)
        .ok_or_else(|| OwnerError::UnknownGroup { name: name.to_owned() })
}

fn lines(files: &dyn Files, path: &str) -> Result<Vec<String>, TreeError> {
    let path: PathBuf = resolve(files, Path::new(path))?;
    let bytes = files.read(&path, ACCOUNTS_BYTES_MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

fn accounts(files: &dyn Files) -> Result<Vec<Account>, TreeError> {
    let parse = |line: &String| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.trim().parse().ok()?;
        let gid = fields.next()?.trim().parse().ok()?;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(Account { name, uid, gid, home })
    };
    Ok(lines(files, "etc/passwd")?.iter().filter_map(parse).collect())
}

fn groups(files: &dyn Files) -> Result<Vec<Group>, TreeError> {
    let parse = |line: &String| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let gid = fields.nth(1)?.trim().parse().ok()?;
        let members = fields.next().unwrap_or_default();
        let members = members.split(',').map(|name| name.trim().to_owned()).collect();
        Some(Group { name, gid, members })
    };
    Ok(lines(files, "etc/group")?.iter().filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, IndexedTree, Node};
    use layers::Entry;

    fn image() -> IndexedTree {
        let mut tree = IndexedTree::new();
        for (path, text) in [
            ("usr/etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
            ("etc/group", "root:x:0:\napp:x:1001:\naudio:x:29:app,root\n"),
        ] {
            tree.insert(Node {
                entry: Entry::file(path, 0o644, text.len() as u64),
                content: Content::Bytes(text.as_bytes().into()),
                link: None,
            });
        }
        tree.insert(Node {
            entry: Entry::symlink("etc/passwd", "/usr/etc/passwd"),
            content: Content::Empty,
            link: None,
        });
        tree
    }

    #[test]
    fn user_forms_give_the_groups_that_a_runtime_gives() {
        for (user, uid, gid, groups) in [
            ("", 0, 0, vec![29]),
            ("app", 1000, 1001, vec![29]),
            ("1000", 1000, 1001, vec![29]),
            ("app:audio", 1000, 29, vec![]),
            ("1000:7", 1000, 7, vec![]),
            ("4000", 4000, 0, vec![]),
        ] {
            let identity = run_identity(&image(), user).expect(user);
            assert_eq!((identity.uid, identity.gid, identity.groups), (uid, gid, groups), "{user}");
        }
    }

    #[test]
    fn unknown_names_are_errors_that_name_the_file() {
        let error = run_identity(&image(), "nobody").expect_err("no such user").to_string();
        assert!(error.contains("nobody") && error.contains("/etc/passwd"), "{error}");
        let group = Some(Principal::Name("none".into()));
        let owner = Owner { user: Principal::Id(1), group };
        assert!(chown_ids(&image(), &owner).is_err());
    }

    #[test]
    fn chown_of_a_user_alone_brings_its_group() {
        let ids = |user| chown_ids(&image(), &Owner { user, group: None }).expect("known");
        assert_eq!(ids(Principal::Id(7)), Ids { uid: 7, gid: 7 });
        assert_eq!(ids(Principal::Name("app".into())), Ids { uid: 1000, gid: 1001 });
    }
}
