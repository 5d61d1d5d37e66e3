//! Sets of Linux capabilities and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names in order of their bits (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A capability by its number; reads with or without `CAP_`, prints with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(u8);

/// A name that is no capability.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown capability {name:?}")]
pub struct UnknownCapability {
    /// What was given.
    pub name: String,
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES
            .iter()
            .position(|known| *known == name)
            .and_then(|bit| u8::try_from(bit).ok())
            .map(Self)
            .ok_or_else(|| UnknownCapability { name: text.to_owned() })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES[usize::from(self.0)])
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Every capability this program knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The 14 that containers get by default (mask 00000000a80425fb).
    pub const DEFAULT: Self = Self(0xa804_25fb);

    pub(crate) const SYS_ADMIN: Self = Self(1 << 21);

    /// The default set changed as `securityContext.capabilities` says: `ALL` is handled first.
    ///
    /// # Errors
    /// A name is no capability.
    pub fn from_add_drop<'a>(
        add: impl IntoIterator<Item = &'a str>,
        drop: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, UnknownCapability> {
        let (add_all, added) = Self::named(add)?;
        let (drop_all, dropped) = Self::named(drop)?;
        let base = if add_all {
            Self::ALL
        } else if drop_all {
            Self::EMPTY
        } else {
            Self::DEFAULT
        };
        Ok(base.union(added).difference(dropped))
    }

    fn named<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(bool, Self), UnknownCapability> {
        let mut all = false;
        let mut set = Self::EMPTY;
        for name in names {
            if name.eq_ignore_ascii_case("ALL") {
                all = true;
            } else {
                set = set.with(name.parse()?);
            }
        }
        Ok((all, set))
    }

    /// The set with one more.
    #[must_use]
    pub fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of the other set is in this one.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits as the kernel has them.
    pub fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for CapabilitySet {
    /// Names in order of their bits, separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for bit in (0..64).filter(|bit| self.0 & (1 << bit) != 0) {
            match NAMES.get(bit) {
                Some(name) => write!(f, "{separator}CAP_{name}")?,
                None => write!(f, "{separator}CAP_{bit}")?,
            }
            separator = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapabilitySet({:016x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], expected: u64) {
        let set = CapabilitySet::from_add_drop(add.iter().copied(), drop.iter().copied());
        assert_eq!(set.map(CapabilitySet::bits), Ok(expected));
    }

    #[test]
    fn nothing_asked_gives_the_default_fourteen() {
        check(&[], &[], 0xa804_25fb);
        assert_eq!(CapabilitySet::DEFAULT.bits().count_ones(), 14);
    }

    #[test]
    fn all_is_handled_before_single_names() {
        check(&["NET_ADMIN"], &["ALL"], 1 << 12);
        check(&["ALL"], &["CAP_SYS_ADMIN"], CapabilitySet::ALL.bits() & !(1 << 21));
    }

    #[test]
    fn names_read_with_and_without_prefix() {
        check(&["CAP_SYS_PTRACE"], &["chown"], (0xa804_25fb | 1 << 19) & !1);
    }

    #[test]
    fn unknown_name_is_refused_by_name() {
        let error = CapabilitySet::from_add_drop(["FLY"], []);
        assert_eq!(error, Err(UnknownCapability { name: "FLY".to_owned() }));
    }
}
