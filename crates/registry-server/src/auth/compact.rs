//! Scopes of repositories in few bytes, for tokens that would else be too long for the headers of
//! a proxy. Nothing has to be remembered for such a token, so that every replica understands it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oci_model::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::policy::Role;
use super::scope::Grant;

/// Bytes of a repository's digest that are kept: 96 bits, so that nobody finds another name with
/// the same.
const NAME_BYTES: usize = 12;

/// A name and its actions.
const RECORD_BYTES: usize = NAME_BYTES + 1;

type Name = [u8; NAME_BYTES];

/// Actions by digest of the repository's name. Written as base64 of records: twelve bytes of
/// SHA-256 of the name, one with a bit per action in the order of the roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompactGrants(BTreeMap<Name, u8>);

impl CompactGrants {
    /// The grants of repositories, and the others.
    pub(crate) fn of(grants: Vec<Grant>) -> (Self, Vec<Grant>) {
        let (mut compact, mut others) = (Self::default(), Vec::new());
        for grant in grants {
            if grant.kind == "repository" {
                let roles = Role::ALL.into_iter().filter(|role| grant.allows(&grant.name, *role));
                let bits = roles.fold(0, |bits, role| bits | bit(role));
                *compact.0.entry(name(&grant.name)).or_default() |= bits;
            } else {
                others.push(grant);
            }
        }
        (compact, others)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn allows(&self, repository: &str, role: Role) -> bool {
        !self.is_empty() && self.0.get(&name(repository)).is_some_and(|bits| bits & bit(role) != 0)
    }
}

const fn bit(role: Role) -> u8 {
    match role {
        Role::Pull => 1,
        Role::Create => 2,
        Role::Push => 4,
        Role::Delete => 8,
        Role::Admin => 16,
    }
}

fn name(repository: &str) -> Name {
    let mut name = Name::default();
    name.copy_from_slice(&Digest::of(repository.as_bytes()).raw()[..NAME_BYTES]);
    name
}

impl Serialize for CompactGrants {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.len() * RECORD_BYTES);
        for (name, actions) in &self.0 {
            bytes.extend_from_slice(name);
            bytes.push(*actions);
        }
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for CompactGrants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = URL_SAFE_NO_PAD
            .decode(String::deserialize(deserializer)?)
            .map_err(|error| de::Error::custom(format!("not base64: {error}")))?;
        let records = bytes.chunks_exact(RECORD_BYTES);
        if !records.remainder().is_empty() {
            return Err(de::Error::custom("the last record is cut"));
        }
        let mut grants = BTreeMap::new();
        for record in records {
            let mut name = Name::default();
            name.copy_from_slice(&record[..NAME_BYTES]);
            grants.insert(name, record[NAME_BYTES]);
        }
        Ok(Self(grants))
    }
}
