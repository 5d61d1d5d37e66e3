//! Names of users and groups, looked up in the root of a container.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::wire::{Failure, ImageGroups, ResolvedUser, User};

/// Most bytes of a user or group file that are read: an image can hold anything.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The text of a root's user and group files; empty where they are missing.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

impl Accounts {
    /// Reads the files of the root this process is in.
    pub(crate) fn read() -> Self {
        // A missing or odd file is no accounts: numbers still work.
        let text = |path| read_regular(path).unwrap_or_default();
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    fn passwd(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        self.passwd.lines().filter_map(PasswdEntry::parse)
    }

    fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        self.group.lines().filter_map(GroupEntry::parse)
    }

    /// The home directory of a user, `/` if it has none.
    pub(crate) fn home(&self, uid: u32) -> &str {
        let home = self.passwd().find(|entry| entry.uid == uid).map_or("", |entry| entry.home);
        if home.is_empty() { "/" } else { home }
    }

    /// The numbers behind `user[:group]`.
    pub(crate) fn resolve(&self, user: &User) -> Result<ResolvedUser, Failure> {
        let (name, group) = match user.name.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (user.name.as_str(), None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let number = parse_id(name);
        let entry = self.passwd().find(|entry| entry.name == name || number == Some(entry.uid));
        let (uid, mut gid) = match (&entry, number) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(uid)) => (uid, 0),
            (None, None) => {
                return Err(Failure::User {
                    message: format!(
                        "unable to find user {name}: no matching entries in passwd file"
                    ),
                });
            }
        };
        if let Some(group) = group.filter(|group| !group.is_empty()) {
            gid = self.group(group)?;
        }
        let mut groups = user.groups.clone();
        if user.image_groups == ImageGroups::Merge
            && let Some(entry) = &entry
        {
            groups.extend(self.groups().filter(|g| g.has_member(entry.name)).map(|g| g.gid));
        }
        let mut seen = std::collections::BTreeSet::new();
        groups.retain(|group| seen.insert(*group));
        Ok(ResolvedUser { uid, gid, groups })
    }

    fn group(&self, name: &str) -> Result<u32, Failure> {
        let found = self.groups().find(|entry| entry.name == name).map(|entry| entry.gid);
        found.or_else(|| parse_id(name)).ok_or_else(|| Failure::User {
            message: format!("unable to find group {name}: no matching entries in group file"),
        })
    }
}

/// Identifiers are at most 2^31 - 1, as every OCI runtime has it.
fn parse_id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| *id <= i32::MAX.cast_unsigned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _comment = fields.next();
        Some(Self { name, uid, gid, home: fields.next().unwrap_or_default() })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }

    fn has_member(&self, name: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == name)
    }
}

/// A fifo in the place of the file must not hold the start up.
fn read_regular(path: &str) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() || kind.is_fifo() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n\
        app:x:1000:1001:App:/home/app:/bin/sh\nnohome:x:7:7::\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\napp:x:1001:\nwheel:x:10:root, app\n";

    #[track_caller]
    fn check(user: &User, expected: Result<(u32, u32, &[u32]), &str>) {
        let accounts = Accounts { passwd: PASSWD.to_owned(), group: GROUP.to_owned() };
        let resolved = accounts.resolve(user).map_err(|failure| failure.to_string());
        let expected = expected
            .map(|(uid, gid, groups)| ResolvedUser { uid, gid, groups: groups.to_vec() })
            .map_err(str::to_owned);
        assert_eq!(resolved, expected, "{user:?}");
    }

    #[test]
    fn name_gives_its_groups_from_the_image() {
        check(&User::named("app"), Ok((1000, 1001, &[50, 10])));
        check(&User::named("1000"), Ok((1000, 1001, &[50, 10])));
        check(&User::named(""), Ok((0, 0, &[10])));
    }

    #[test]
    fn strict_policy_leaves_image_groups_out() {
        let user = User {
            groups: vec![7, 50, 7],
            image_groups: ImageGroups::Ignore,
            ..User::named("app:staff")
        };
        check(&user, Ok((1000, 50, &[7, 50])));
    }

    #[test]
    fn number_needs_no_entry() {
        check(&User::ids(4242, 99), Ok((4242, 99, &[])));
        check(&User::named("4242"), Ok((4242, 0, &[])));
    }

    #[test]
    fn missing_names_are_named_in_the_error() {
        let user = "unable to find user eve: no matching entries in passwd file";
        check(&User::named("eve"), Err(user));
        let group = "unable to find group ops: no matching entries in group file";
        check(&User::named("app:ops"), Err(group));
    }

    #[test]
    fn home_falls_back_to_the_root() {
        let accounts = Accounts { passwd: PASSWD.to_owned(), group: String::new() };
        assert_eq!(accounts.home(1000), "/home/app");
        assert_eq!(accounts.home(7), "/");
        assert_eq!(accounts.home(5), "/");
    }
}
