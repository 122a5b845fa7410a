//! What a caller may do, and what a process of the cluster is.

use std::fmt;
use std::str::FromStr;

/// A permission of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// See records, topology, runs and metrics.
    Read,
    /// Change records.
    Write,
    /// Move leaderships, drain, pause; see the audit.
    Operate,
}

impl Role {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Operate];

    /// As it is written in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Operate => "operate",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Operate => 4,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role; write read, write or operate, several with commas")]
pub struct NoSuchRole(String);

impl FromStr for Role {
    type Err = NoSuchRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| NoSuchRole(text.to_owned()))
    }
}

/// Some roles. Whoever may write or operate may also read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Adds a role.
    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self(self.0 | role.bit() | Role::Read.bit())
    }

    /// Whether it is among them.
    #[must_use]
    pub fn include(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Role::ALL.into_iter().filter(|role| self.include(*role)).map(Role::name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

impl FromStr for Roles {
    type Err = NoSuchRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').try_fold(Self::default(), |roles, name| Ok(roles.with(name.trim().parse()?)))
    }
}

/// What a process of the cluster is. Its certificate says so, and peers let only these in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterRole {
    /// Holds replicas.
    Broker,
    /// Stands in front of them.
    Gateway,
}

impl ClusterRole {
    /// As it is written in certificates.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Gateway => "gateway",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_and_shown_and_whoever_changes_may_look() {
        for (text, shown) in
            [("read", "read"), ("write", "read,write"), ("operate, write", "read,write,operate")]
        {
            assert_eq!(text.parse::<Roles>().unwrap().to_string(), shown);
        }
        assert!(!"write".parse::<Roles>().unwrap().include(Role::Operate));
        assert!(!"operate".parse::<Roles>().unwrap().include(Role::Write));
        assert_eq!(Roles::default().to_string(), "none");
        for wrong in ["", "admin", "read,,write", "Read"] {
            assert!(wrong.parse::<Roles>().unwrap_err().to_string().contains("write read, write or operate"));
        }
    }
}
