//! Who calls, and why somebody may not.

use crate::roles::{Role, Roles};

/// Somebody whose credentials are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Of the token or the certificate.
    pub name: String,
    /// What they may do.
    pub roles: Roles,
}

impl Caller {
    pub(crate) fn new(name: impl Into<String>, roles: Roles) -> Self {
        Self { name: name.into(), roles }
    }
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credentials.
    #[error(
        "no credentials; send a token as `Authorization: Bearer TOKEN` (evenkeel --token-file FILE) or present a client \
         certificate, if the server takes them"
    )]
    NoCredentials,
    /// A token that nobody has, or what is no token at all.
    #[error("the token is not known here; get a valid one from who operates the cluster")]
    UnknownToken,
    /// The certificate of the connection is no longer valid.
    #[error("the certificate of {name} has expired; connect again with a new one")]
    CertificateExpired {
        /// Whose.
        name: String,
    },
    /// Known, and not allowed to do this.
    #[error("{name} has the role {has} and this needs {needs}; use credentials with that role")]
    Forbidden {
        /// Who.
        name: String,
        /// What they may do.
        has: Roles,
        /// What this takes.
        needs: Role,
    },
    /// Not a process of the cluster of the kind that may do this.
    #[error(
        "only brokers may do this, and the certificate of {name} does not name that role; correct the certificate"
    )]
    NotABroker {
        /// Who.
        name: String,
    },
}

impl Denied {
    /// For programs; the same over gRPC and HTTP.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "NO_CREDENTIALS",
            Self::UnknownToken => "UNKNOWN_TOKEN",
            Self::CertificateExpired { .. } => "CERTIFICATE_EXPIRED",
            Self::Forbidden { .. } => "FORBIDDEN",
            Self::NotABroker { .. } => "NOT_A_BROKER",
        }
    }

    /// Whether other credentials of the same caller would not help either: who it is is known.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::NotABroker { .. })
    }
}
