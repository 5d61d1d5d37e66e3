//! The robots file.

use std::io;
use std::time::SystemTime;

use jiff::Timestamp;
use oci_model::{Algorithm, Digest};
use serde::{Deserialize, Serialize};

use super::{Entries, Entry, Hash, Robot, RobotRight, is_name};
use crate::auth::Role;

/// The format that this program writes and reads.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    robots: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    /// The last one is the present one.
    secrets: Vec<Secret>,
    rights: Vec<Right>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    /// Lower-case hex.
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Right {
    prefix: String,
    role: String,
}

/// Reads the file; an empty one holds nobody.
pub(super) fn parse(text: &str) -> io::Result<Entries> {
    if text.trim().is_empty() {
        return Ok(Entries::new());
    }
    let file: File = serde_json::from_str(text)?;
    if file.version != VERSION {
        let text = format!("robots of version {}, this program reads {VERSION}", file.version);
        return Err(io::Error::other(text));
    }
    let mut entries = Entries::new();
    for row in file.robots {
        let name = row.name.clone();
        let entry = entry(row).ok_or_else(|| io::Error::other(format!("robot {name:?} is broken")));
        if entries.insert(name.clone(), entry?).is_some() {
            return Err(io::Error::other(format!("robot {name:?} is there twice")));
        }
    }
    Ok(entries)
}

fn entry(row: Row) -> Option<Entry> {
    let mut hashes = Vec::new();
    for secret in row.secrets {
        let digest: Digest =
            format!("{}:{}", Algorithm::Sha256.name(), secret.sha256).parse().ok()?;
        hashes.push(Hash { digest, until: secret.until.map(SystemTime::from) });
    }
    let mut rights = Vec::new();
    for right in row.rights {
        let role = Role::ALL.into_iter().find(|role| role.action() == right.role)?;
        rights.push(RobotRight { prefix: right.prefix, role });
    }
    let robot = Robot {
        name: row.name,
        description: row.description,
        created: row.created.into(),
        expires: row.expires.map(SystemTime::from),
        rights,
    };
    is_name(&robot.name).then_some(Entry { robot, hashes })
}

/// The text of the file.
pub(super) fn render(entries: &Entries) -> String {
    let time = |time: SystemTime| Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    let robots = entries
        .values()
        .map(|Entry { robot, hashes }| Row {
            name: robot.name.clone(),
            description: robot.description.clone(),
            created: time(robot.created),
            expires: robot.expires.map(time),
            secrets: hashes
                .iter()
                .map(|hash| Secret { sha256: hash.digest.encoded(), until: hash.until.map(time) })
                .collect(),
            rights: robot
                .rights
                .iter()
                .map(|right| Right {
                    prefix: right.prefix.clone(),
                    role: right.role.action().to_owned(),
                })
                .collect(),
        })
        .collect();
    let file = File { version: VERSION, robots };
    let text = serde_json::to_string_pretty(&file);
    text.expect("a file of strings, numbers and times can be written") + "\n"
}
