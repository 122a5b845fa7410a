//! What a certificate says: whose it is, until when, and which roles it gives.
//!
//! A role is a URI among the subject's alternative names, `urn:evenkeel:role:ROLE`, with `broker` or `gateway` for
//! processes of the cluster and `read`, `write` or `operate` for callers.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::roles::{ClusterRole, Roles};

const ROLE_URI_PREFIX: &str = "urn:evenkeel:role:";

/// The alternative name that gives a role.
#[must_use]
pub fn role_uri(role: &str) -> String {
    format!("{ROLE_URI_PREFIX}{role}")
}

/// The bytes are not a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate: {0}")]
pub struct CertificateError(String);

/// A certificate in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, or its first alternative name when it has none.
    pub name: String,
    /// The whole subject.
    pub subject: String,
    /// Whose key signed it.
    pub issuer: String,
    /// Host names among the alternative names.
    pub dns_names: Vec<String>,
    /// Addresses among them.
    pub addresses: Vec<IpAddr>,
    /// Everything else among them that has a text: URIs and mail addresses.
    pub other_names: Vec<String>,
    /// Not valid before.
    pub not_before: SystemTime,
    /// Not valid after.
    pub not_after: SystemTime,
    /// Whether it may sign certificates.
    pub is_authority: bool,
}

impl Certificate {
    /// Reads one in DER.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let wrong = |error: &dyn std::fmt::Display| CertificateError(error.to_string());
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| wrong(&error))?;
        let (mut dns_names, mut addresses, mut other_names) = (Vec::new(), Vec::new(), Vec::new());
        let alternative = parsed.subject_alternative_name().map_err(|error| wrong(&error))?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                    other_names.push((*name).to_owned())
                }
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let names = || dns_names.iter().chain(&other_names).cloned();
        let name = common_name.map(str::to_owned).or_else(|| names().next()).unwrap_or_default();
        Ok(Self {
            name,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            is_authority: parsed.is_ca(),
            dns_names,
            addresses,
            other_names,
        })
    }

    fn role_names(&self) -> impl Iterator<Item = &str> {
        self.other_names.iter().filter_map(|name| name.strip_prefix(ROLE_URI_PREFIX))
    }

    /// What the holder may do as a caller.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.role_names().filter_map(|name| name.parse().ok()).fold(Roles::default(), Roles::and)
    }

    /// What the holder is in the cluster.
    #[must_use]
    pub fn cluster_role(&self) -> Option<ClusterRole> {
        // A broker does what a gateway does and more.
        [ClusterRole::Broker, ClusterRole::Gateway]
            .into_iter()
            .find(|role| self.role_names().any(|name| name == role.name()))
    }

    /// Whether it is for somebody of this name.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        self.name == name || self.dns_names.iter().chain(&self.other_names).any(|known| known == name)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Seconds since 1970; times before it count as 1970.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::Role;
    use crate::tls::tests::{Issued, authority, issue};

    #[test]
    fn names_roles_and_times_are_read() {
        let authority = authority();
        let Issued { der, .. } =
            issue(&authority, "ops", &["ops.example.net", "10.1.2.3"], &["operate", "gateway"]);
        let read = Certificate::parse(&der).unwrap();
        assert_eq!((read.name.as_str(), read.subject.as_str()), ("ops", "CN=ops"));
        assert_eq!(read.issuer, "CN=test authority");
        assert_eq!(read.dns_names, ["ops.example.net"]);
        assert_eq!(read.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        assert!(read.roles().include(Role::Operate) && !read.roles().include(Role::Write));
        assert_eq!(read.cluster_role(), Some(ClusterRole::Gateway));
        assert!(read.not_before < SystemTime::now() && read.not_after > SystemTime::now());
        assert!(read.is_for("ops") && read.is_for("ops.example.net") && !read.is_for("op"));
        assert!(Certificate::parse(&der[..der.len() / 2]).is_err());
        assert!(Certificate::parse(b"").is_err());
    }
}
